/** Random operations on a mount, against the model, with unmount and mount in between. */
import { chmodSync } from "node:fs";
import { afterEach, expect, test } from "vitest";
import { FALLOC, O, S, SEEK, SLNK, SREG, SysError, sys } from "../helpers/libc.ts";
import { type Driver, type Kind, ModelRun, type Names, type Seen, seedOf } from "../helpers/model.ts";
import { fuseNativeImpossible, MODEL_LACKS } from "../helpers/secondtransport.ts";
import { IS_ROOT, mountingImpossible, TestVolume } from "../helpers/volume.ts";

/** The same with fewer steps: a request takes four times as long. */
const SECOND_SHARE = 0.4;
const STEPS = Number(process.env.SQLFUSE_MODEL_OPS ?? (process.env.SQLFUSE_LONG === "1" ? 60_000 : 6000));

const KINDS = new Map<number, Kind>([
  [SREG, "file"],
  [S.DIR, "directory"],
  [SLNK, "symlink"],
  [S.FIFO, "fifo"],
]);

class MountDriver implements Driver {
  protected readonly volume: TestVolume;
  readonly #root: Buffer;

  constructor(volume: TestVolume) {
    this.volume = volume;
    this.#root = Buffer.from(volume.mountpoint);
  }

  protected path(path: Names): Buffer {
    return Buffer.concat([this.#root, ...path.map((name) => Buffer.from(`/${name}`, "latin1"))]);
  }

  /** The symlinks of the model are never followed: it knows nothing of that. */
  #open<T>(path: Names, flags: number, work: (fd: number) => T): T {
    const fd = sys.open(this.path(path), flags | O.NOFOLLOW | O.NONBLOCK);
    try {
      return work(fd);
    } finally {
      sys.close(fd);
    }
  }

  /** open(2) lets fifos through; the model means files. */
  #file<T>(path: Names, flags: number, work: (fd: number) => T): T {
    const kind = KINDS.get(sys.lstat(this.path(path)).type);
    if (kind === "directory") throw new SysError("open", 21);
    if (kind !== "file") throw new SysError("open", 22);
    return this.#open(path, flags, work);
  }

  remount(): void {
    this.volume.remount();
  }

  stat(path: Names): Seen {
    const s = sys.lstat(this.path(path));
    return {
      kind: KINDS.get(s.type) ?? "file",
      perm: s.perm,
      nlink: s.nlink,
      size: s.size,
      ino: String(s.ino),
      mtimeNs: s.mtimeNs,
      ctimeNs: s.ctimeNs,
    };
  }
  create(path: Names, mode: number): void {
    sys.close(sys.open(this.path(path), O.WRONLY | O.CREAT | O.EXCL, mode));
  }
  mkdir(path: Names, mode: number): void {
    sys.mkdir(this.path(path), mode);
  }
  mkfifo(path: Names, mode: number): void {
    sys.mknod(this.path(path), S.FIFO | mode);
  }
  symlink(path: Names, target: string): void {
    sys.symlink(Buffer.from(target, "latin1"), this.path(path));
  }
  readlink(path: Names): string {
    return sys.readlink(this.path(path)).toString("latin1");
  }
  link(path: Names, newPath: Names): void {
    sys.link(this.path(path), this.path(newPath));
  }
  unlink(path: Names): void {
    sys.unlink(this.path(path));
  }
  rmdir(path: Names): void {
    sys.rmdir(this.path(path));
  }
  rename(path: Names, newPath: Names, flags: number): void {
    sys.rename(this.path(path), this.path(newPath), flags);
  }
  readdir(path: Names): string[] {
    const stat = sys.lstat(this.path(path));
    if (stat.type !== S.DIR) throw new SysError("readdir", 20);
    return sys
      .readdir(this.path(path), 700)
      .map((entry) => entry.name)
      .filter((name) => name !== "." && name !== "..")
      .sort();
  }
  read(path: Names, offset: number, length: number): Buffer {
    return this.#file(path, O.RDONLY, (fd) => this.heldRead(fd, offset, length));
  }
  write(path: Names, offset: number, data: Buffer): void {
    this.#file(path, O.WRONLY, (fd) => this.heldWrite(fd, offset, data));
  }
  truncate(path: Names, size: number): void {
    this.#file(path, O.WRONLY, (fd) => sys.ftruncate(fd, size));
  }
  fallocate(path: Names, mode: number, offset: number, length: number): void {
    this.#file(path, O.WRONLY, (fd) => sys.fallocate(fd, mode & (FALLOC.KEEP_SIZE | 2 | 16), offset, length));
  }
  copy(from: Names, fromOffset: number, to: Names, toOffset: number, length: number): number {
    return this.#file(from, O.RDONLY, (a) =>
      this.#file(to, O.WRONLY, (b) => {
        let done = 0;
        while (done < length) {
          const n = sys.copyFileRange(a, fromOffset + done, b, toOffset + done, length - done);
          if (n === 0) break;
          done += n;
          // Copied behind its own end a file has grown: a second call would go on into what the first one made.
          if (sys.fstat(a).ino === sys.fstat(b).ino) break;
        }
        return done;
      }),
    );
  }
  seek(path: Names, offset: number, hole: boolean): number | undefined {
    return this.#file(path, O.RDONLY, (fd) => {
      try {
        return sys.lseek(fd, offset, hole ? SEEK.HOLE : SEEK.DATA);
      } catch (error) {
        if (error instanceof SysError && error.code === "ENXIO") return undefined;
        throw error;
      }
    });
  }
  chmod(path: Names, perm: number): void {
    if (sys.lstat(this.path(path)).type === SLNK) throw new SysError("chmod", 95);
    sys.chmod(this.path(path), perm);
  }
  setMtime(path: Names, ns: bigint): void {
    sys.utimens(this.path(path), "omit", ns);
  }
  setxattr(path: Names, name: string, value: Buffer, flags: number): void {
    sys.setxattr(this.path(path), Buffer.from(name, "latin1"), value, flags);
  }
  removexattr(path: Names, name: string): void {
    sys.removexattr(this.path(path), Buffer.from(name, "latin1"));
  }
  xattrs(path: Names): Map<string, Buffer> {
    const own = this.path(path);
    const names = sys.listxattr(own).filter((name) => name.startsWith("user."));
    return new Map(names.map((name) => [name, sys.getxattr(own, Buffer.from(name, "latin1"))]));
  }
  fsync(path: Names): void {
    this.#file(path, O.RDONLY, (fd) => sys.fsync(fd));
  }
  hold(path: Names): unknown {
    return this.#file(path, O.RDONLY, () => sys.open(this.path(path), O.RDWR));
  }
  heldRead(held: unknown, offset: number, length: number): Buffer {
    return sys.pread(held as number, length, offset);
  }
  heldWrite(held: unknown, offset: number, data: Buffer): void {
    expect(sys.pwrite(held as number, data, offset)).toBe(data.length);
  }
  heldLinks(held: unknown): number {
    return sys.fstat(held as number).nlink;
  }
  release(held: unknown): void {
    sys.close(held as number);
  }
}

class SecondDriver extends MountDriver {
  override remount(): void {
    this.volume.remount("--transport", "fuse-native");
  }
}

let volume: TestVolume | undefined;
afterEach(() => volume?.remove());

test.skipIf(mountingImpossible() !== undefined)(
  "random operations on a mount go as the model says",
  {
    timeout: 1_200_000,
  },
  () => {
    const seed = seedOf("mount");
    volume = TestVolume.create();
    volume.mount();
    chmodSync(volume.mountpoint, 0o755);
    const umask = process.umask(0);
    try {
      const model = new ModelRun(seed, new MountDriver(volume), { modesBind: !IS_ROOT });
      model.run(STEPS, { verifyEvery: 700, remountEvery: Math.max(1500, STEPS / 10) });
      console.log(model.summary());
    } finally {
      process.umask(umask);
    }
    volume.unmount();
  },
);

test.skipIf((mountingImpossible() ?? fuseNativeImpossible()) !== undefined)(
  "random operations on a mount by fuse-native go as the model says, but for what it lacks",
  {
    timeout: 1_200_000,
  },
  () => {
    const seed = seedOf("fuse-native");
    const steps = Math.ceil(STEPS * SECOND_SHARE);
    volume = TestVolume.create();
    volume.mount("--transport", "fuse-native");
    chmodSync(volume.mountpoint, 0o755);
    const umask = process.umask(0);
    try {
      const model = new ModelRun(seed, new SecondDriver(volume), { modesBind: !IS_ROOT, lacks: MODEL_LACKS });
      model.run(steps, { verifyEvery: 700, remountEvery: Math.max(1000, steps / 10) });
      console.log(model.summary());
    } finally {
      process.umask(umask);
    }
    volume.unmount();
  },
);
