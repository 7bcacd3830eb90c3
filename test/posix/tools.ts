/**
 * What a case of the POSIX suite is given beside its directory. The suite knows nothing of vitest or of sqlfuse:
 * it runs on any directory, first on a filesystem of the kernel's own as the control, then on the mount.
 *
 * What a case needs from its surroundings (root, a program, a kernel) it asks for with `needs...`, and is skipped
 * with that reason where it is missing. What only the control may lack it asks for with `controlLacks`; on the
 * mount nothing may be lacking.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { release } from "node:os";
import { AT_REMOVEDIR, asUser, F, O, type Path, SysError, sys, type User } from "../helpers/libc.ts";

export type Case = (dir: string, t: Tools) => void;
export type Cases = Readonly<Record<string, Case>>;

/** Thrown to leave a case that cannot be run here; the message is the reason. */
export class Skip extends Error {}

/** Two people and what they share. None of the numbers needs an account. */
export const ALICE: User = { uid: 12001, gid: 12001, groups: [12001] };
export const BOB: User = { uid: 12002, gid: 12002, groups: [12002] };
export const SHARED_GID = 12100;
export const ALICE_SHARED: User = { uid: 12001, gid: 12001, groups: [12001, SHARED_GID] };

const MS = 1_000_000n;

export class Tools {
  readonly kind: "control" | "mount";
  readonly root = process.geteuid?.() === 0;
  /** Nobody but who runs the suite can enter the filesystem. */
  readonly alone: boolean;
  readonly #programs = new Map<string, boolean>();

  constructor(kind: "control" | "mount", alone = false) {
    this.kind = kind;
    this.alone = alone;
  }

  // --- what a case needs

  skip(reason: string): never {
    throw new Skip(reason);
  }

  needsRoot(): void {
    if (!this.root) this.skip("needs root");
  }

  needsProgram(name: string): void {
    let there = this.#programs.get(name);
    if (there === undefined) {
      there = spawnSync("sh", ["-c", `command -v ${name}`]).status === 0;
      this.#programs.set(name, there);
    }
    if (!there) this.skip(`needs ${name}`);
  }

  needsKernel(major: number, minor: number): void {
    const [M = 0, m = 0] = release().split(".").map(Number);
    if (M < major || (M === major && m < minor)) this.skip(`needs Linux ${major}.${minor}`);
  }

  /** Skips on the control, unless a probe shows that it can. On the mount nothing is lacking. */
  controlLacks(what: string, can: () => boolean = () => false): void {
    if (this.kind === "control" && !can()) this.skip(`the control filesystem has no ${what}`);
  }

  // --- what a case does

  /** `work` must fail with one of these errnos. */
  refuses(codes: string | readonly string[], work: () => unknown): void {
    const expected = typeof codes === "string" ? [codes] : codes;
    try {
      work();
    } catch (error) {
      if (!(error instanceof SysError)) throw error;
      assert.ok(expected.includes(error.code), `expected ${expected.join(" or ")}, got ${error.message}`);
      return;
    }
    assert.fail(`expected ${expected.join(" or ")}, but it was done`);
  }

  /** Makes a file with these bytes, mode 0644 whatever the umask. */
  file(path: Path, data: Uint8Array | string = ""): void {
    const fd = sys.open(path, O.WRONLY | O.CREAT | O.TRUNC, 0o644);
    try {
      const bytes = Buffer.from(data);
      for (let at = 0; at < bytes.length; ) at += sys.write(fd, bytes.subarray(at));
    } finally {
      sys.close(fd);
    }
  }

  read(path: Path): Buffer {
    return this.using(path, O.RDONLY, (fd) => this.readFd(fd));
  }

  text(path: Path): string {
    return this.read(path).toString();
  }

  /** The whole file behind a descriptor, whatever its position. */
  readFd(fd: number): Buffer {
    const parts: Buffer[] = [];
    for (let at = 0; ; ) {
      const part = sys.pread(fd, 1 << 20, at);
      if (part.length === 0) return Buffer.concat(parts);
      parts.push(part);
      at += part.length;
    }
  }

  /** Opens, works, closes. */
  using<T>(path: Path, flags: number, work: (fd: number) => T, mode = 0o644): T {
    const fd = sys.open(path, flags, mode);
    try {
      return work(fd);
    } finally {
      sys.close(fd);
    }
  }

  /** Writes all of it at `offset`, in as many calls as it takes. */
  put(fd: number, data: Uint8Array | string, offset: number): void {
    const bytes = Buffer.from(data);
    for (let at = 0; at < bytes.length; ) at += sys.pwrite(fd, bytes.subarray(at), offset + at);
  }

  /** Names in a directory without "." and "..", as latin1, sorted. */
  names(path: Path): string[] {
    return sys
      .readdir(path)
      .map((entry) => entry.name)
      .filter((name) => name !== "." && name !== "..")
      .sort();
  }

  exists(path: Path): boolean {
    try {
      sys.lstat(path);
      return true;
    } catch (error) {
      if (error instanceof SysError && error.code === "ENOENT") return false;
      throw error;
    }
  }

  /** `length` bytes that look random and are the same for the same seed. */
  noise(length: number, seed = 1): Buffer {
    const words = new Uint32Array(Math.ceil(length / 4));
    let x = (seed * 0x9e3779b9) >>> 0 || 1;
    for (let i = 0; i < words.length; i++) {
      x ^= x << 13;
      x ^= x >>> 17;
      x ^= x << 5;
      words[i] = x;
    }
    return Buffer.from(words.buffer, 0, length);
  }

  /** Bytes equal, said without printing megabytes. */
  same(seen: Uint8Array, expected: Uint8Array, what: string): void {
    assert.equal(seen.length, expected.length, `${what}: length`);
    if (Buffer.compare(seen, expected) === 0) return;
    let at = 0;
    while (seen[at] === expected[at]) at++;
    assert.fail(`${what}: byte ${at} is ${seen[at]}, expected ${expected[at]}`);
  }

  /** Lets the clocks of file times move on: the kernel's own tick is up to 10 ms. */
  tick(): void {
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 15);
  }

  pause(ms: number): void {
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
  }

  /** Which of the file's times `work` moved forward. */
  moved(path: Path, work: () => void): { atime: boolean; mtime: boolean; ctime: boolean } {
    const before = sys.lstat(path);
    this.tick();
    work();
    const after = sys.lstat(path);
    return {
      atime: after.atimeNs > before.atimeNs,
      mtime: after.mtimeNs > before.mtimeNs,
      ctime: after.ctimeNs > before.ctimeNs,
    };
  }

  /** A time within two seconds of now. */
  recent(timeNs: bigint, what: string): void {
    const off = timeNs - BigInt(Date.now()) * MS;
    assert.ok(off > -2000n * MS && off < 2000n * MS, `${what} is ${off / MS} ms away from now`);
  }

  as<T>(user: User, work: () => T): T {
    this.needsRoot();
    if (this.alone) this.skip("nobody else can enter this mount");
    return asUser(user, work);
  }

  /** Runs a program that must succeed; gives its output. */
  run(command: string, args: readonly string[], options: { cwd?: string; input?: string } = {}): string {
    this.needsProgram(command);
    const done = spawnSync(command, args, {
      ...options,
      encoding: "utf8",
      timeout: 50_000,
      maxBuffer: 1 << 26,
      env: { ...process.env, LC_ALL: "C" },
    });
    if (done.status !== 0) {
      assert.fail(
        `${command} ${args.join(" ")}: ${done.signal ?? done.status}\n${done.stdout}${done.stderr}`,
      );
    }
    return done.stdout;
  }

  /** Another process: a Python program that must end well; gives its output, trimmed. */
  python(dir: string, program: string, ...args: string[]): string {
    return this.run("python3", ["-IS", "-c", PRELUDE + program, ...args], { cwd: dir }).trim();
  }

  /** Another process that may end as it likes: its exit status, or its signal's name. */
  pythonStatus(dir: string, program: string, ...args: string[]): number | string | null {
    this.needsProgram("python3");
    const done = spawnSync("python3", ["-IS", "-c", PRELUDE + program, ...args], {
      cwd: dir,
      timeout: 50_000,
    });
    return done.signal ?? done.status;
  }

  /** A fcntl lock on the whole file. */
  fcntlLock(fd: number, type: number, command: number = F.SETLK): void {
    sys.lock(fd, command, { type, start: 0, length: 0 });
  }

  /** Makes `count` empty files "<prefix>00000"... in a directory. */
  fill(dir: string, count: number, prefix = "f"): string[] {
    const names: string[] = [];
    for (let i = 0; i < count; i++) {
      const name = prefix + String(i).padStart(5, "0");
      sys.mknod(`${dir}/${name}`, 0o100644);
      names.push(name);
    }
    return names;
  }
}

/** `errno_of(f, ...)`: the errno's name, or "done". */
const PRELUDE = `
import errno, fcntl, mmap, os, signal, socket, stat, struct, sys, time
def errno_of(f, *a):
    try:
        f(*a)
        return "done"
    except OSError as e:
        return errno.errorcode[e.errno]
`;

/** rm -rf that takes any bytes for a name. */
function removeTree(parent: number, name: Path): void {
  try {
    sys.unlinkat(parent, name);
    return;
  } catch (error) {
    if (!(error instanceof SysError)) throw error;
    if (error.code === "ENOENT") return;
    if (error.code !== "EISDIR" && error.code !== "EPERM") throw error;
  }
  const fd = sys.openat(parent, name, O.RDONLY | O.DIRECTORY | O.NOFOLLOW);
  try {
    for (;;) {
      const entries = sys.getdents(fd).filter((entry) => entry.name !== "." && entry.name !== "..");
      if (entries.length === 0) break;
      for (const entry of entries) removeTree(fd, Buffer.from(entry.name, "latin1"));
    }
  } finally {
    sys.close(fd);
  }
  sys.unlinkat(parent, name, AT_REMOVEDIR);
}

/** Runs one case in a directory of its own below `base`, which is emptied and removed afterwards. */
export function runCase(base: string, number: number, work: Case, t: Tools): void {
  const dir = `${base}/${String(number).padStart(4, "0")}`;
  const umask = sys.umask(0o022);
  sys.mkdir(dir, 0o755);
  try {
    work(dir, t);
  } finally {
    sys.umask(umask);
    const fd = sys.open(base, O.RDONLY | O.DIRECTORY);
    try {
      sys.chmod(dir, 0o755);
    } catch {
      // the case took its directory away
    }
    try {
      removeTree(fd, dir.slice(base.length + 1));
    } finally {
      sys.close(fd);
    }
  }
}
