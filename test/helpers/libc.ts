/**
 * The system calls that the tests make and Node does not offer, called in this thread through koffi.
 *
 * Paths and names are bytes (strings are taken as UTF-8). Every call that fails throws a SysError with the errno
 * that libc left; nothing is retried. `asUser` changes the effective ids of the calling thread alone (the raw
 * system calls do; glibc's wrappers would change every thread), so a case can be two users in one process.
 */
import { constants } from "node:os";
import koffi from "koffi";

const libc = koffi.load(null);

type Scalar = number | bigint;
type Pointer = Uint8Array | bigint | null;

const c = {
  open: libc.func("int open(const void *path, int flags, uint32_t mode)") as (
    p: Pointer,
    f: number,
    m: number,
  ) => number,
  openat: libc.func("int openat(int dir, const void *path, int flags, uint32_t mode)") as (
    d: number,
    p: Pointer,
    f: number,
    m: number,
  ) => number,
  close: libc.func("int close(int fd)") as (fd: number) => number,
  read: libc.func("intptr_t read(int fd, void *buffer, size_t length)") as (
    fd: number,
    b: Pointer,
    n: number,
  ) => Scalar,
  write: libc.func("intptr_t write(int fd, const void *buffer, size_t length)") as (
    fd: number,
    b: Pointer,
    n: number,
  ) => Scalar,
  pread: libc.func("intptr_t pread64(int fd, void *buffer, size_t length, int64_t offset)") as (
    fd: number,
    b: Pointer,
    n: number,
    o: Scalar,
  ) => Scalar,
  pwrite: libc.func("intptr_t pwrite64(int fd, const void *buffer, size_t length, int64_t offset)") as (
    fd: number,
    b: Pointer,
    n: number,
    o: Scalar,
  ) => Scalar,
  lseek: libc.func("int64_t lseek64(int fd, int64_t offset, int whence)") as (
    fd: number,
    o: Scalar,
    w: number,
  ) => Scalar,
  truncate: libc.func("int truncate64(const void *path, int64_t size)") as (p: Pointer, n: Scalar) => number,
  ftruncate: libc.func("int ftruncate64(int fd, int64_t size)") as (fd: number, n: Scalar) => number,
  fallocate: libc.func("int fallocate64(int fd, int mode, int64_t offset, int64_t length)") as (
    fd: number,
    m: number,
    o: Scalar,
    n: Scalar,
  ) => number,
  copyFileRange: libc.func(
    "intptr_t copy_file_range(int from, void *fromOffset, int to, void *toOffset, size_t length, uint32_t flags)",
  ) as (a: number, ao: Pointer, b: number, bo: Pointer, n: number, f: number) => Scalar,
  fsync: libc.func("int fsync(int fd)") as (fd: number) => number,
  fdatasync: libc.func("int fdatasync(int fd)") as (fd: number) => number,
  fadvise: libc.func("int posix_fadvise64(int fd, int64_t offset, int64_t length, int advice)") as (
    fd: number,
    o: Scalar,
    n: Scalar,
    a: number,
  ) => number,
  mknodat: libc.func("int mknodat(int dir, const void *path, uint32_t mode, uint64_t dev)") as (
    d: number,
    p: Pointer,
    m: number,
    r: Scalar,
  ) => number,
  mkdirat: libc.func("int mkdirat(int dir, const void *path, uint32_t mode)") as (
    d: number,
    p: Pointer,
    m: number,
  ) => number,
  symlinkat: libc.func("int symlinkat(const void *target, int dir, const void *path)") as (
    t: Pointer,
    d: number,
    p: Pointer,
  ) => number,
  linkat: libc.func("int linkat(int dir, const void *path, int newDir, const void *newPath, int flags)") as (
    d: number,
    p: Pointer,
    nd: number,
    np: Pointer,
    f: number,
  ) => number,
  unlinkat: libc.func("int unlinkat(int dir, const void *path, int flags)") as (
    d: number,
    p: Pointer,
    f: number,
  ) => number,
  renameat2: libc.func(
    "int renameat2(int dir, const void *path, int newDir, const void *newPath, uint32_t flags)",
  ) as (d: number, p: Pointer, nd: number, np: Pointer, f: number) => number,
  readlinkat: libc.func("intptr_t readlinkat(int dir, const void *path, void *buffer, size_t length)") as (
    d: number,
    p: Pointer,
    b: Pointer,
    n: number,
  ) => Scalar,
  getdents64: libc.func("intptr_t getdents64(int fd, void *buffer, size_t length)") as (
    fd: number,
    b: Pointer,
    n: number,
  ) => Scalar,
  statx: libc.func("int statx(int dir, const void *path, int flags, uint32_t mask, void *buffer)") as (
    d: number,
    p: Pointer,
    f: number,
    m: number,
    b: Pointer,
  ) => number,
  fstatvfs: libc.func("int fstatvfs64(int fd, void *buffer)") as (fd: number, b: Pointer) => number,
  faccessat: libc.func("int faccessat(int dir, const void *path, int mode, int flags)") as (
    d: number,
    p: Pointer,
    m: number,
    f: number,
  ) => number,
  fchmodat: libc.func("int fchmodat(int dir, const void *path, uint32_t mode, int flags)") as (
    d: number,
    p: Pointer,
    m: number,
    f: number,
  ) => number,
  fchmod: libc.func("int fchmod(int fd, uint32_t mode)") as (fd: number, m: number) => number,
  fchownat: libc.func("int fchownat(int dir, const void *path, uint32_t uid, uint32_t gid, int flags)") as (
    d: number,
    p: Pointer,
    u: number,
    g: number,
    f: number,
  ) => number,
  fchown: libc.func("int fchown(int fd, uint32_t uid, uint32_t gid)") as (
    fd: number,
    u: number,
    g: number,
  ) => number,
  utimensat: libc.func("int utimensat(int dir, const void *path, const void *times, int flags)") as (
    d: number,
    p: Pointer,
    t: Pointer,
    f: number,
  ) => number,
  setxattr: libc.func(
    "int lsetxattr(const void *path, const void *name, const void *value, size_t length, int flags)",
  ) as (p: Pointer, n: Pointer, v: Pointer, l: number, f: number) => number,
  getxattr: libc.func(
    "intptr_t lgetxattr(const void *path, const void *name, void *value, size_t length)",
  ) as (p: Pointer, n: Pointer, v: Pointer, l: number) => Scalar,
  listxattr: libc.func("intptr_t llistxattr(const void *path, void *list, size_t length)") as (
    p: Pointer,
    b: Pointer,
    n: number,
  ) => Scalar,
  removexattr: libc.func("int lremovexattr(const void *path, const void *name)") as (
    p: Pointer,
    n: Pointer,
  ) => number,
  fsetxattr: libc.func(
    "int fsetxattr(int fd, const void *name, const void *value, size_t length, int flags)",
  ) as (fd: number, n: Pointer, v: Pointer, l: number, f: number) => number,
  fgetxattr: libc.func("intptr_t fgetxattr(int fd, const void *name, void *value, size_t length)") as (
    fd: number,
    n: Pointer,
    v: Pointer,
    l: number,
  ) => Scalar,
  nameToHandleAt: libc.func(
    "int name_to_handle_at(int dir, const void *path, void *handle, void *mountId, int flags)",
  ) as (d: number, p: Pointer, h: Pointer, m: Pointer, f: number) => number,
  openByHandleAt: libc.func("int open_by_handle_at(int mountFd, void *handle, int flags)") as (
    fd: number,
    h: Pointer,
    f: number,
  ) => number,
  flock: libc.func("int flock(int fd, int operation)") as (fd: number, op: number) => number,
  fcntl: libc.func("int fcntl(int fd, int command, void *argument)") as (
    fd: number,
    cmd: number,
    a: Pointer,
  ) => number,
  umask: libc.func("uint32_t umask(uint32_t mask)") as (m: number) => number,
  syncfs: libc.func("int syncfs(int fd)") as (fd: number) => number,
  syscall: libc.func("long syscall(long number, long a, long b, long c)") as (
    n: number,
    a: Scalar,
    b: Scalar,
    c: Scalar,
  ) => Scalar,
  syscallPointer: libc.func("long syscall(long number, long a, const void *b)") as (
    n: number,
    a: Scalar,
    b: Pointer,
  ) => Scalar,
};

/** Numbers of the calls that glibc would apply to all threads. */
const NR: Readonly<Record<string, readonly [setresuid: number, setresgid: number, setgroups: number]>> = {
  x64: [117, 119, 116],
  arm64: [147, 149, 159],
};

export const O = {
  ...{ RDONLY: 0, WRONLY: 1, RDWR: 2, CREAT: 0o100, EXCL: 0o200, TRUNC: 0o1000, APPEND: 0o2000 },
  ...{ NONBLOCK: 0o4000, DSYNC: 0o10000, SYNC: 0o4010000, NOATIME: 0o1000000, PATH: 0o10000000 },
  DIRECTORY: process.arch === "arm64" ? 0o40000 : 0o200000,
  NOFOLLOW: process.arch === "arm64" ? 0o100000 : 0o400000,
  DIRECT: process.arch === "arm64" ? 0o200000 : 0o40000,
  TMPFILE: 0o20000000 | (process.arch === "arm64" ? 0o40000 : 0o200000),
} as const;

export const S = { FIFO: 0o010000, CHR: 0o020000, DIR: 0o040000, BLK: 0o060000 } as const;
export const SREG = 0o100000;
export const SLNK = 0o120000;
export const SSOCK = 0o140000;
export const AT_FDCWD = -100;
const AT_SYMLINK_NOFOLLOW = 0x100;
export const AT_REMOVEDIR = 0x200;
export const AT_SYMLINK_FOLLOW = 0x400;
const AT_EMPTY_PATH = 0x1000;
export const RENAME = { NOREPLACE: 1, EXCHANGE: 2, WHITEOUT: 4 } as const;
export const FALLOC = {
  ...{ KEEP_SIZE: 1, PUNCH_HOLE: 2, COLLAPSE_RANGE: 8, ZERO_RANGE: 16, INSERT_RANGE: 32, UNSHARE: 64 },
} as const;
export const SEEK = { SET: 0, CUR: 1, END: 2, DATA: 3, HOLE: 4 } as const;
export const XATTR = { CREATE: 1, REPLACE: 2 } as const;
export const LOCK = { SH: 1, EX: 2, NB: 4, UN: 8 } as const;
export const F = { GETLK: 5, SETLK: 6, OFD_GETLK: 36, OFD_SETLK: 37, RDLCK: 0, WRLCK: 1, UNLCK: 2 } as const;
const UTIME_NOW = 0x3fffffff;
const UTIME_OMIT = 0x3ffffffe;
const FADV_DONTNEED = 4;

export type Path = string | Uint8Array;

const ERRNO_NAMES = new Map<number, string>();
for (const [name, value] of Object.entries(constants.errno)) {
  if (!ERRNO_NAMES.has(value)) ERRNO_NAMES.set(value, name);
}
// Two names for one number on Linux: the tests speak of the one in the manual pages.
ERRNO_NAMES.set(95, "EOPNOTSUPP")
  .set(11, "EAGAIN")
  .set(61, "ENODATA")
  .set(117, "EUCLEAN")
  .set(108, "ESHUTDOWN");

export class SysError extends Error {
  readonly code: string;
  constructor(call: string, errno: number) {
    const code = ERRNO_NAMES.get(errno) ?? `errno ${errno}`;
    super(`${call}: ${code}`);
    this.name = "SysError";
    this.code = code;
  }
}

/** The result as a number; throws what errno says where it is negative. */
function checked(call: string, result: Scalar): number {
  if (Number(result) < 0) throw new SysError(call, koffi.errno());
  return Number(result);
}

/** `path` as libc takes it. */
function z(path: Path): Buffer {
  const bytes = typeof path === "string" ? Buffer.from(path) : Buffer.from(path);
  return Buffer.concat([bytes, Buffer.from([0])]);
}

function shown(path: Path): string {
  const text = typeof path === "string" ? path : Buffer.from(path).toString("latin1");
  return text.length > 80 ? `...${text.slice(-70)}` : text;
}

export interface Stat {
  readonly type: number;
  /** Permission bits, with suid, sgid and sticky. */
  readonly perm: number;
  readonly nlink: number;
  readonly uid: number;
  readonly gid: number;
  readonly ino: bigint;
  readonly size: number;
  /** 512-byte units. */
  readonly blocks: number;
  readonly blockSize: number;
  readonly atimeNs: bigint;
  readonly mtimeNs: bigint;
  readonly ctimeNs: bigint;
  /** undefined where the filesystem does not say. */
  readonly btimeNs: bigint | undefined;
  readonly rdev: readonly [major: number, minor: number];
  readonly dev: readonly [major: number, minor: number];
}

const STATX_BASIC_AND_BTIME = 0xfff;

function decodeStatx(b: Buffer): Stat {
  const time = (at: number): bigint => b.readBigInt64LE(at) * 1_000_000_000n + BigInt(b.readUInt32LE(at + 8));
  const mode = b.readUInt16LE(28);
  return {
    type: mode & 0o170000,
    perm: mode & 0o7777,
    nlink: b.readUInt32LE(16),
    uid: b.readUInt32LE(20),
    gid: b.readUInt32LE(24),
    ino: b.readBigUInt64LE(32),
    size: Number(b.readBigUInt64LE(40)),
    blocks: Number(b.readBigUInt64LE(48)),
    blockSize: b.readUInt32LE(4),
    atimeNs: time(64),
    mtimeNs: time(112),
    ctimeNs: time(96),
    btimeNs: (b.readUInt32LE(0) & 0x800) === 0 ? undefined : time(80),
    rdev: [b.readUInt32LE(128), b.readUInt32LE(132)],
    dev: [b.readUInt32LE(136), b.readUInt32LE(140)],
  };
}

export interface Dirent {
  /** The name's bytes as latin1, so that any byte string is a map key. */
  readonly name: string;
  readonly ino: bigint;
  /** What lseek takes to go on behind this entry. */
  readonly cookie: bigint;
  /** DT_*: the type bits of the mode, shifted by 12. */
  readonly type: number;
}

export interface FsStat {
  readonly blockSize: number;
  readonly fragmentSize: number;
  readonly blocks: number;
  readonly free: number;
  readonly available: number;
  readonly files: number;
  readonly filesFree: number;
  readonly nameMax: number;
}

/** What utimensat sets: nanoseconds since 1970, or its two special values. */
export type When = bigint | "now" | "omit";

function encodeTimes(atime: When, mtime: When): Buffer {
  const buffer = Buffer.alloc(32);
  for (const [at, when] of [
    [0, atime],
    [16, mtime],
  ] as const) {
    if (typeof when === "string") {
      buffer.writeBigInt64LE(BigInt(when === "now" ? UTIME_NOW : UTIME_OMIT), at + 8);
    } else {
      const nsec = ((when % 1_000_000_000n) + 1_000_000_000n) % 1_000_000_000n;
      buffer.writeBigInt64LE((when - nsec) / 1_000_000_000n, at);
      buffer.writeBigInt64LE(nsec, at + 8);
    }
  }
  return buffer;
}

/** struct flock of 64-bit Linux. */
export interface Lock {
  readonly type: number;
  readonly start: number;
  readonly length: number;
  readonly pid?: number;
}

function encodeLock(lock: Lock): Buffer {
  const buffer = Buffer.alloc(32);
  buffer.writeInt16LE(lock.type, 0);
  buffer.writeBigInt64LE(BigInt(lock.start), 8);
  buffer.writeBigInt64LE(BigInt(lock.length), 16);
  return buffer;
}

/** makedev(3) of glibc. */
export function makedev(major: number, minor: number): bigint {
  const [M, m] = [BigInt(major), BigInt(minor)];
  return ((M & 0xfffff000n) << 32n) | ((M & 0xfffn) << 8n) | ((m & 0xffffff00n) << 12n) | (m & 0xffn);
}

export const sys = {
  open(path: Path, flags: number, mode = 0o666): number {
    return checked(`open ${shown(path)}`, c.open(z(path), flags, mode));
  },
  openat(dir: number, path: Path, flags: number, mode = 0o666): number {
    return checked(`openat ${shown(path)}`, c.openat(dir, z(path), flags, mode));
  },
  close(fd: number): void {
    checked("close", c.close(fd));
  },
  /** At most `length` bytes from where the descriptor stands. */
  read(fd: number, length: number): Buffer {
    const buffer = Buffer.alloc(length);
    return buffer.subarray(0, checked("read", c.read(fd, buffer, length)));
  },
  write(fd: number, data: Uint8Array | string): number {
    const bytes = Buffer.from(data);
    return checked("write", c.write(fd, bytes, bytes.length));
  },
  pread(fd: number, length: number, offset: Scalar): Buffer {
    const buffer = Buffer.alloc(length);
    return buffer.subarray(0, checked("pread", c.pread(fd, buffer, length, offset)));
  },
  pwrite(fd: number, data: Uint8Array | string, offset: Scalar): number {
    const bytes = Buffer.from(data);
    return checked("pwrite", c.pwrite(fd, bytes, bytes.length, offset));
  },
  /** Reads into memory of the caller, which O_DIRECT may want aligned. */
  preadInto(fd: number, into: Uint8Array, offset: Scalar): number {
    return checked("pread", c.pread(fd, into, into.length, offset));
  },
  pwriteFrom(fd: number, from: Uint8Array, offset: Scalar): number {
    return checked("pwrite", c.pwrite(fd, from, from.length, offset));
  },
  lseek(fd: number, offset: Scalar, whence: number): number {
    return checked("lseek", c.lseek(fd, offset, whence));
  },
  truncate(path: Path, size: Scalar): void {
    checked(`truncate ${shown(path)}`, c.truncate(z(path), size));
  },
  ftruncate(fd: number, size: Scalar): void {
    checked("ftruncate", c.ftruncate(fd, size));
  },
  fallocate(fd: number, mode: number, offset: Scalar, length: Scalar): void {
    checked(`fallocate mode ${mode}`, c.fallocate(fd, mode, offset, length));
  },
  copyFileRange(from: number, fromOffset: number, to: number, toOffset: number, length: number): number {
    const offsets = Buffer.alloc(16);
    offsets.writeBigInt64LE(BigInt(fromOffset), 0);
    offsets.writeBigInt64LE(BigInt(toOffset), 8);
    return checked(
      "copy_file_range",
      c.copyFileRange(from, offsets.subarray(0, 8), to, offsets.subarray(8, 16), length, 0),
    );
  },
  fsync(fd: number): void {
    checked("fsync", c.fsync(fd));
  },
  fdatasync(fd: number): void {
    checked("fdatasync", c.fdatasync(fd));
  },
  syncfs(fd: number): void {
    checked("syncfs", c.syncfs(fd));
  },
  /** Lets go of what the page cache holds of a file, so that the next read reaches the filesystem. */
  dropCache(fd: number): void {
    c.fsync(fd);
    c.fadvise(fd, 0, 0, FADV_DONTNEED);
  },
  mknod(path: Path, mode: number, dev: Scalar = 0): void {
    checked(`mknod ${shown(path)}`, c.mknodat(AT_FDCWD, z(path), mode, dev));
  },
  mkdir(path: Path, mode = 0o777): void {
    checked(`mkdir ${shown(path)}`, c.mkdirat(AT_FDCWD, z(path), mode));
  },
  mkdirat(dir: number, path: Path, mode = 0o777): void {
    checked(`mkdirat ${shown(path)}`, c.mkdirat(dir, z(path), mode));
  },
  symlink(target: Path, path: Path): void {
    checked(`symlink ${shown(path)}`, c.symlinkat(z(target), AT_FDCWD, z(path)));
  },
  link(path: Path, newPath: Path, flags = 0): void {
    checked(`link ${shown(newPath)}`, c.linkat(AT_FDCWD, z(path), AT_FDCWD, z(newPath), flags));
  },
  linkat(dir: number, path: Path, newDir: number, newPath: Path, flags = 0): void {
    checked(`linkat ${shown(newPath)}`, c.linkat(dir, z(path), newDir, z(newPath), flags));
  },
  unlink(path: Path): void {
    checked(`unlink ${shown(path)}`, c.unlinkat(AT_FDCWD, z(path), 0));
  },
  unlinkat(dir: number, path: Path, flags = 0): void {
    checked(`unlinkat ${shown(path)}`, c.unlinkat(dir, z(path), flags));
  },
  rmdir(path: Path): void {
    checked(`rmdir ${shown(path)}`, c.unlinkat(AT_FDCWD, z(path), AT_REMOVEDIR));
  },
  rename(path: Path, newPath: Path, flags = 0): void {
    checked(
      `rename ${shown(path)} ${shown(newPath)}`,
      c.renameat2(AT_FDCWD, z(path), AT_FDCWD, z(newPath), flags),
    );
  },
  readlink(path: Path, room = 8192): Buffer {
    const buffer = Buffer.alloc(room);
    const length = checked(`readlink ${shown(path)}`, c.readlinkat(AT_FDCWD, z(path), buffer, room));
    return buffer.subarray(0, length);
  },
  /** One getdents64(2); an empty list is the end. */
  getdents(fd: number, room = 32_768): Dirent[] {
    const buffer = Buffer.alloc(room);
    const length = checked("getdents64", c.getdents64(fd, buffer, room));
    const entries: Dirent[] = [];
    for (let at = 0; at < length; ) {
      const recordLength = buffer.readUInt16LE(at + 16);
      const end = buffer.indexOf(0, at + 19);
      entries.push({
        ino: buffer.readBigUInt64LE(at),
        cookie: buffer.readBigInt64LE(at + 8),
        type: buffer[at + 18] ?? 0,
        name: buffer.toString("latin1", at + 19, end),
      });
      at += recordLength;
    }
    return entries;
  },
  /** The whole directory, with "." and "..". */
  readdir(path: Path, room?: number): Dirent[] {
    const fd = sys.open(path, O.RDONLY | O.DIRECTORY);
    try {
      const all: Dirent[] = [];
      for (;;) {
        const some = sys.getdents(fd, room);
        if (some.length === 0) return all;
        all.push(...some);
      }
    } finally {
      sys.close(fd);
    }
  },
  /** lstat(2), with nanoseconds. */
  lstat(path: Path): Stat {
    const buffer = Buffer.alloc(256);
    checked(
      `lstat ${shown(path)}`,
      c.statx(AT_FDCWD, z(path), AT_SYMLINK_NOFOLLOW, STATX_BASIC_AND_BTIME, buffer),
    );
    return decodeStatx(buffer);
  },
  stat(path: Path): Stat {
    const buffer = Buffer.alloc(256);
    checked(`stat ${shown(path)}`, c.statx(AT_FDCWD, z(path), 0, STATX_BASIC_AND_BTIME, buffer));
    return decodeStatx(buffer);
  },
  fstat(fd: number): Stat {
    const buffer = Buffer.alloc(256);
    checked("fstat", c.statx(fd, z(""), AT_EMPTY_PATH, STATX_BASIC_AND_BTIME, buffer));
    return decodeStatx(buffer);
  },
  statfs(path: Path): FsStat {
    const fd = sys.open(path, O.RDONLY);
    try {
      const b = Buffer.alloc(256);
      checked(`statfs ${shown(path)}`, c.fstatvfs(fd, b));
      const u64 = (at: number): number => Number(b.readBigUInt64LE(at));
      return {
        blockSize: u64(0),
        fragmentSize: u64(8),
        blocks: u64(16),
        free: u64(24),
        available: u64(32),
        files: u64(40),
        filesFree: u64(48),
        nameMax: u64(80),
      };
    } finally {
      sys.close(fd);
    }
  },
  /** access(2) with the effective ids. */
  access(path: Path, mode: number): void {
    checked(`access ${shown(path)}`, c.faccessat(AT_FDCWD, z(path), mode, 0x200));
  },
  chmod(path: Path, mode: number): void {
    checked(`chmod ${shown(path)}`, c.fchmodat(AT_FDCWD, z(path), mode, 0));
  },
  fchmod(fd: number, mode: number): void {
    checked("fchmod", c.fchmod(fd, mode));
  },
  /** -1 leaves an id as it is. */
  chown(path: Path, uid: number, gid: number): void {
    checked(`chown ${shown(path)}`, c.fchownat(AT_FDCWD, z(path), uid >>> 0, gid >>> 0, 0));
  },
  lchown(path: Path, uid: number, gid: number): void {
    checked(
      `lchown ${shown(path)}`,
      c.fchownat(AT_FDCWD, z(path), uid >>> 0, gid >>> 0, AT_SYMLINK_NOFOLLOW),
    );
  },
  fchown(fd: number, uid: number, gid: number): void {
    checked("fchown", c.fchown(fd, uid >>> 0, gid >>> 0));
  },
  utimens(path: Path, atime: When, mtime: When): void {
    checked(
      `utimensat ${shown(path)}`,
      c.utimensat(AT_FDCWD, z(path), encodeTimes(atime, mtime), AT_SYMLINK_NOFOLLOW),
    );
  },
  /** utimensat with NULL: both times now. */
  touch(path: Path): void {
    checked(`utimensat ${shown(path)}`, c.utimensat(AT_FDCWD, z(path), null, 0));
  },
  /** lsetxattr(2). */
  setxattr(path: Path, name: Path, value: Path, flags = 0): void {
    const bytes = Buffer.from(value);
    checked(`setxattr ${shown(name)}`, c.setxattr(z(path), z(name), bytes, bytes.length, flags));
  },
  /** lgetxattr(2) with `room` bytes for the value. */
  getxattr(path: Path, name: Path, room = 65_536): Buffer {
    const buffer = Buffer.alloc(Math.max(room, 1));
    const length = checked(`getxattr ${shown(name)}`, c.getxattr(z(path), z(name), buffer, room));
    return buffer.subarray(0, Math.min(length, room));
  },
  /** What getxattr answers to a room of 0. */
  xattrSize(path: Path, name: Path): number {
    return checked(`getxattr ${shown(name)}`, c.getxattr(z(path), z(name), null, 0));
  },
  /** llistxattr(2), names as latin1, in the order given. */
  listxattr(path: Path, room = 65_536): string[] {
    const buffer = Buffer.alloc(Math.max(room, 1));
    const length = checked(`listxattr ${shown(path)}`, c.listxattr(z(path), buffer, room));
    return buffer.toString("latin1", 0, length).split("\0").slice(0, -1);
  },
  listxattrSize(path: Path): number {
    return checked(`listxattr ${shown(path)}`, c.listxattr(z(path), null, 0));
  },
  removexattr(path: Path, name: Path): void {
    checked(`removexattr ${shown(name)}`, c.removexattr(z(path), z(name)));
  },
  fsetxattr(fd: number, name: Path, value: Path, flags = 0): void {
    const bytes = Buffer.from(value);
    checked(`fsetxattr ${shown(name)}`, c.fsetxattr(fd, z(name), bytes, bytes.length, flags));
  },
  fgetxattr(fd: number, name: Path): Buffer {
    const buffer = Buffer.alloc(65_536);
    const length = checked(`fgetxattr ${shown(name)}`, c.fgetxattr(fd, z(name), buffer, buffer.length));
    return buffer.subarray(0, length);
  },
  /** What an NFS server keeps of a file: it finds the inode again without a name. */
  handleOf(path: Path): Buffer {
    const handle = Buffer.alloc(8 + 128);
    handle.writeUInt32LE(128, 0);
    checked(
      `name_to_handle_at ${shown(path)}`,
      c.nameToHandleAt(AT_FDCWD, z(path), handle, Buffer.alloc(8), 0),
    );
    return handle.subarray(0, 8 + handle.readUInt32LE(0));
  },
  openHandle(mountFd: number, handle: Uint8Array, flags: number): number {
    return checked("open_by_handle_at", c.openByHandleAt(mountFd, Buffer.from(handle), flags));
  },
  flock(fd: number, operation: number): void {
    checked("flock", c.flock(fd, operation));
  },
  /** fcntl(2) with a struct flock; gives back what the kernel left in it. */
  lock(fd: number, command: number, lock: Lock): Lock {
    const buffer = encodeLock(lock);
    checked("fcntl", c.fcntl(fd, command, buffer));
    return {
      type: buffer.readInt16LE(0),
      start: Number(buffer.readBigInt64LE(8)),
      length: Number(buffer.readBigInt64LE(16)),
      pid: buffer.readInt32LE(24),
    };
  },
  umask(mask: number): number {
    return c.umask(mask);
  },
};

/** Memory at a multiple of 4 KiB, as O_DIRECT wants it on many filesystems. */
export function aligned(length: number): Buffer {
  const room = Buffer.alloc(length + 4096);
  const skip = Number(-BigInt(koffi.address(room)) & 4095n);
  return room.subarray(skip, skip + length);
}

export interface User {
  readonly uid: number;
  readonly gid: number;
  readonly groups?: readonly number[];
}

/** Runs `work` with the effective ids and groups of `user`: for the kernel this thread is that user. Root only. */
export function asUser<T>(user: User, work: () => T): T {
  const numbers = NR[process.arch];
  if (numbers === undefined) throw new Error(`asUser: no system call numbers for ${process.arch}`);
  const [setresuid, setresgid, setgroups] = numbers;
  const groups = (list: readonly number[]): void => {
    checked(
      "setgroups",
      c.syscallPointer(setgroups, list.length, new Uint8Array(Uint32Array.from(list).buffer)),
    );
  };
  const before = process.getgroups?.() ?? [];
  groups(user.groups ?? []);
  checked("setresgid", c.syscall(setresgid, -1, user.gid, -1));
  checked("setresuid", c.syscall(setresuid, -1, user.uid, -1));
  try {
    return work();
  } finally {
    checked("setresuid", c.syscall(setresuid, -1, 0, -1));
    checked("setresgid", c.syscall(setresgid, -1, 0, -1));
    groups(before);
  }
}
