/**
 * What node:fs cannot say about files: extended attributes, times in nanoseconds, special files, holes. As libc.ts:
 * each call gives what the system call gave, or a negated errno. Paths are bytes; symlinks are never followed.
 */
import type { KoffiFunc } from "koffi";
import koffi from "koffi";

const AT_FDCWD = -100;
const AT_SYMLINK_NOFOLLOW = 0x100;
const SEEK_DATA = 3;
const SEEK_HOLE = 4;

const lib = koffi.load(null);

const cLgetxattr = lib.func("lgetxattr", "long", ["void *", "void *", "void *", "size_t"]) as KoffiFunc<
  (path: Uint8Array, name: Uint8Array, value: Uint8Array, size: number) => number
>;
const cLsetxattr = lib.func("lsetxattr", "int", ["void *", "void *", "void *", "size_t", "int"]) as KoffiFunc<
  (path: Uint8Array, name: Uint8Array, value: Uint8Array, size: number, flags: number) => number
>;
const cLremovexattr = lib.func("lremovexattr", "int", ["void *", "void *"]) as KoffiFunc<
  (path: Uint8Array, name: Uint8Array) => number
>;
const cLlistxattr = lib.func("llistxattr", "long", ["void *", "void *", "size_t"]) as KoffiFunc<
  (path: Uint8Array, list: Uint8Array, size: number) => number
>;
const cUtimensat = lib.func("utimensat", "int", ["int", "void *", "void *", "int"]) as KoffiFunc<
  (directory: number, path: Uint8Array, times: BigInt64Array, flags: number) => number
>;
const cMknod = lib.func("mknod", "int", ["void *", "uint", "uint64_t"]) as KoffiFunc<
  (path: Uint8Array, mode: number, device: bigint) => number
>;
const cLseek = lib.func("lseek", "long", ["int", "long", "int"]) as KoffiFunc<
  (fd: number, offset: number, whence: number) => number
>;

/** The largest value of an attribute and the longest list of names (XATTR_SIZE_MAX, XATTR_LIST_MAX). */
const XATTR_MAX = 65_536;

function result(value: number): number {
  return value < 0 ? -koffi.errno() : value;
}

function terminated(bytes: Uint8Array): Buffer {
  return Buffer.concat([bytes, Buffer.alloc(1)]);
}

/** An attribute of a file, or a negated errno. */
export function lgetxattr(path: Uint8Array, name: Uint8Array): Buffer | number {
  const value = Buffer.allocUnsafe(XATTR_MAX);
  const length = result(cLgetxattr(terminated(path), terminated(name), value, value.length));
  return length < 0 ? length : value.subarray(0, length);
}

export function lsetxattr(path: Uint8Array, name: Uint8Array, value: Uint8Array): number {
  // An empty array has no address to give.
  const bytes = value.length === 0 ? Buffer.alloc(1) : value;
  return result(cLsetxattr(terminated(path), terminated(name), bytes, value.length, 0));
}

export function lremovexattr(path: Uint8Array, name: Uint8Array): number {
  return result(cLremovexattr(terminated(path), terminated(name)));
}

/** The names of a file's attributes, each followed by a NUL, or a negated errno. */
export function llistxattr(path: Uint8Array): Buffer | number {
  const list = Buffer.allocUnsafe(XATTR_MAX);
  const length = result(cLlistxattr(terminated(path), list, list.length));
  return length < 0 ? length : list.subarray(0, length);
}

/** Sets atime and mtime, each in seconds and nanoseconds. */
export function lutimens(path: Uint8Array, times: readonly [number, number, number, number]): number {
  const timespecs = BigInt64Array.from(times.map(BigInt));
  return result(cUtimensat(AT_FDCWD, terminated(path), timespecs, AT_SYMLINK_NOFOLLOW));
}

/** `mode` with its type; `major` and `minor` of a device, else 0. */
export function mknod(path: Uint8Array, mode: number, major: number, minor: number): number {
  // glibc's makedev: 12 and 8 low bits in the middle, the rest above.
  const [high, low] = [BigInt(major), BigInt(minor)];
  const device =
    ((high & 0xfffff000n) << 32n) | ((high & 0xfffn) << 8n) | ((low & 0xffffff00n) << 12n) | (low & 0xffn);
  return result(cMknod(terminated(path), mode, device));
}

/** Where data next begins at or after `offset`, or a negated errno (-ENXIO: nowhere). Moves the descriptor. */
export function seekData(fd: number, offset: number): number {
  return result(cLseek(fd, offset, SEEK_DATA));
}

/** Where a hole next begins at or after `offset`; the end of the file is one. */
export function seekHole(fd: number, offset: number): number {
  return result(cLseek(fd, offset, SEEK_HOLE));
}
