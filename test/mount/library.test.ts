/** Random operations on the core as a library, against the model, with the volume closed and opened in between. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import {
  type Attr,
  type CreateOptions,
  check,
  type ErrnoName,
  type Ino,
  type Key,
  ROOT_INO,
  unlock,
  Volume,
} from "../../src/index.ts";
import { type Driver, type Kind, ModelRun, type Names, Random, type Seen, seedOf } from "../helpers/model.ts";

const STEPS = Number(process.env.SQLFUSE_MODEL_OPS ?? (process.env.SQLFUSE_LONG === "1" ? 200_000 : 15_000));
const PASSWORD = Buffer.from("model");
const ROOT_CALLER = { uid: 0, gid: 0, umask: 0 };
const KINDS = new Map<number, Kind>([
  [0o100000, "file"],
  [0o040000, "directory"],
  [0o120000, "symlink"],
  [0o010000, "fifo"],
]);

/** What the kernel would say before it asks the filesystem. */
class KernelRefusal extends Error {
  readonly code: ErrnoName;
  constructor(code: ErrnoName) {
    super(code);
    this.code = code;
  }
}

const bytes = (name: string): Buffer => Buffer.from(name, "latin1");
const ns = (sec: number, nsec: number): bigint => BigInt(sec) * 1_000_000_000n + BigInt(nsec);

class LibraryDriver implements Driver {
  readonly #path: string;
  readonly #key: Key;
  readonly #random: Random;
  #volume: Volume;

  constructor(path: string, key: Key, random: Random) {
    this.#path = path;
    this.#key = key;
    this.#random = random;
    this.#volume = Volume.open(path, key);
  }

  close(): void {
    this.#volume.close();
    expect(check(this.#path, this.#key)).toEqual([]);
  }

  remount(): void {
    expect(this.#volume.inodes.references).toBe(0);
    this.close();
    this.#volume = Volume.open(this.#path, this.#key);
  }

  #find(path: Names): Ino {
    // A server calls idle() between requests; so does this, at moments that the seed chooses.
    if (this.#random.chance(0.02)) this.#volume.idle(Date.now());
    let ino: Ino = ROOT_INO;
    for (const name of path) {
      const attr = this.#volume.tree.lookup(ino, bytes(name));
      if (attr === undefined) throw new KernelRefusal("ENOENT");
      ino = attr.ino;
    }
    return ino;
  }

  #parent(path: Names): [Ino, Buffer] {
    return [this.#find(path.slice(0, -1)), bytes(path.at(-1) ?? "")];
  }

  #attr(path: Names): Attr {
    return this.#volume.attributes.getattr(this.#find(path));
  }

  /** The kernel opens before it reads or writes. */
  #file(path: Names): Ino {
    const attr = this.#attr(path);
    const kind = KINDS.get(attr.mode & 0o170000);
    if (kind === "directory") throw new KernelRefusal("EISDIR");
    if (kind !== "file") throw new KernelRefusal("EINVAL");
    return attr.ino;
  }

  stat(path: Names): Seen {
    const a = this.#attr(path);
    return {
      kind: KINDS.get(a.mode & 0o170000) ?? "file",
      perm: a.mode & 0o7777,
      nlink: a.nlink,
      size: a.size,
      ino: String(a.ino),
      mtimeNs: ns(a.mtimeSec, a.mtimeNsec),
      ctimeNs: ns(a.ctimeSec, a.ctimeNsec),
    };
  }
  create(path: Names, mode: number): void {
    this.#volume.tree.mknod(...this.#parent(path), 0o100000 | mode, 0, ROOT_CALLER);
  }
  mkdir(path: Names, mode: number): void {
    this.#volume.tree.mkdir(...this.#parent(path), mode, ROOT_CALLER);
  }
  mkfifo(path: Names, mode: number): void {
    this.#volume.tree.mknod(...this.#parent(path), 0o010000 | mode, 0, ROOT_CALLER);
  }
  symlink(path: Names, target: string): void {
    this.#volume.tree.symlink(...this.#parent(path), bytes(target), ROOT_CALLER);
  }
  readlink(path: Names): string {
    return Buffer.from(this.#volume.tree.readlink(this.#find(path))).toString("latin1");
  }
  link(path: Names, newPath: Names): void {
    this.#volume.tree.link(this.#find(path), ...this.#parent(newPath));
  }
  unlink(path: Names): void {
    this.#volume.tree.unlink(...this.#parent(path));
  }
  rmdir(path: Names): void {
    this.#volume.tree.rmdir(...this.#parent(path));
  }
  rename(path: Names, newPath: Names, flags: number): void {
    this.#volume.tree.rename(...this.#parent(path), ...this.#parent(newPath), flags);
  }
  readdir(path: Names): string[] {
    const ino = this.#find(path);
    const names: string[] = [];
    // In slices, as the kernel reads.
    for (let cookie = 0, more = true; more; ) {
      more = false;
      let room = 1 + this.#random.below(6);
      this.#volume.tree.readdir(ino, cookie, (entry) => {
        if (room-- === 0) {
          more = true;
          return false;
        }
        names.push(Buffer.from(entry.name).toString("latin1"));
        cookie = entry.cookie;
        return true;
      });
    }
    return names.sort();
  }
  read(path: Names, offset: number, length: number): Buffer {
    return this.heldRead(this.#file(path), offset, length);
  }
  write(path: Names, offset: number, data: Buffer): void {
    this.heldWrite(this.#file(path), offset, data);
  }
  truncate(path: Names, size: number): void {
    this.#volume.attributes.setattr(this.#file(path), { size, mtime: "now" });
  }
  fallocate(path: Names, mode: number, offset: number, length: number): void {
    this.#volume.files.fallocate(this.#file(path), mode, offset, length, false);
  }
  copy(from: Names, fromOffset: number, to: Names, toOffset: number, length: number): number {
    const [source, target] = [this.#file(from), this.#file(to)];
    let done = 0;
    // The kernel cuts at the source's end and refuses what overlaps before it asks.
    const cut = Math.max(0, Math.min(length, this.#volume.attributes.getattr(source).size - fromOffset));
    if (source === target && Math.abs(fromOffset - toOffset) < cut) throw new KernelRefusal("EINVAL");
    while (done < cut) {
      const n = this.#volume.files.copyFileRange(
        source,
        fromOffset + done,
        target,
        toOffset + done,
        cut - done,
        false,
      );
      if (n === 0) break;
      done += n;
    }
    return done;
  }
  seek(path: Names, offset: number, hole: boolean): number | undefined {
    try {
      return this.#volume.files.lseek(this.#file(path), offset, hole ? 4 : 3);
    } catch (error) {
      if (error instanceof Error && "code" in error && error.code === "ENXIO") return undefined;
      throw error;
    }
  }
  chmod(path: Names, perm: number): void {
    const attr = this.#attr(path);
    if (KINDS.get(attr.mode & 0o170000) === "symlink") throw new KernelRefusal("EOPNOTSUPP");
    this.#volume.attributes.setattr(attr.ino, { mode: perm });
  }
  setMtime(path: Names, time: bigint): void {
    const sec = Number(time / 1_000_000_000n) - (time % 1_000_000_000n < 0n ? 1 : 0);
    const nsec = Number(((time % 1_000_000_000n) + 1_000_000_000n) % 1_000_000_000n);
    this.#volume.attributes.setattr(this.#find(path), { mtime: { sec, nsec } });
  }
  setxattr(path: Names, name: string, value: Buffer, flags: number): void {
    this.#volume.xattrs.set(this.#xattrable(path), bytes(name), value, flags, false);
  }
  removexattr(path: Names, name: string): void {
    this.#volume.xattrs.remove(this.#xattrable(path), bytes(name));
  }
  #xattrable(path: Names): Ino {
    const attr = this.#attr(path);
    const kind = KINDS.get(attr.mode & 0o170000);
    if (kind !== "file" && kind !== "directory") throw new KernelRefusal("EPERM");
    return attr.ino;
  }
  xattrs(path: Names): Map<string, Buffer> {
    const ino = this.#find(path);
    const list = Buffer.from(this.#volume.xattrs.list(ino)).toString("latin1").split("\0").slice(0, -1);
    return new Map(list.map((name) => [name, Buffer.from(this.#volume.xattrs.get(ino, bytes(name)) ?? [])]));
  }
  fsync(path: Names): void {
    this.#volume.fsync(this.#file(path));
  }
  hold(path: Names): unknown {
    const ino = this.#file(path);
    this.#volume.inodes.ref(ino);
    return ino;
  }
  heldRead(held: unknown, offset: number, length: number): Buffer {
    const into = Buffer.alloc(length, 0x5a);
    const n = this.#volume.files.read(held as Ino, offset, length, into);
    return into.subarray(0, n);
  }
  heldWrite(held: unknown, offset: number, data: Buffer): void {
    expect(this.#volume.files.write(held as Ino, offset, data, false)).toBe(data.length);
  }
  heldLinks(held: unknown): number {
    return this.#volume.attributes.getattr(held as Ino).nlink;
  }
  release(held: unknown): void {
    this.#volume.inodes.unref(held as Ino, 1);
  }
}

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "sqlfuse-library-"));
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

const SHAPES: Readonly<Record<string, CreateOptions>> = {
  "the default sizes": {},
  "blocks and pages of 4 KiB": { blockSize: 4096, pageSize: 4096 },
  "blocks of 128 KiB": { blockSize: 131_072 },
};

for (const [shape, options] of Object.entries(SHAPES)) {
  test(`random operations with ${shape} go as the model says`, { timeout: 600_000 }, () => {
    const seed = seedOf(`library, ${shape}`);
    const path = join(directory, "volume.sqlite");
    Volume.create(path, PASSWORD, { ...options, rootMode: 0o755 });
    const key = unlock(path, PASSWORD);
    const driver = new LibraryDriver(path, key, new Random(seed + 1));
    const model = new ModelRun(seed, driver);
    model.run(STEPS, { verifyEvery: 1000, remountEvery: 2500 });
    console.log(model.summary());
    driver.close();
    key.wipe();
    for (const [name, [done, refused]] of model.counts) {
      expect(done + refused, `${name} was tried`).toBeGreaterThan(0);
      expect(done, `${name} was done`).toBeGreaterThan(0);
    }
  });
}
