/**
 * libfuse 2, as far as fuse-native leaves something to be done.
 *
 * What fuse-native does not tell it is that one time alone may be set. Without that libfuse drops such a change
 * and answers that it was made, so `tar -x` and `touch -m` lose their dates and nobody can know.
 *
 * It can be told in libfuse's own memory only: a flag of `struct fuse`, and our own `utimens` in its table, as that of
 * fuse-native cannot tell "leave it" from a time. Both layouts are those of libfuse 2.9 on Linux x64, which is not
 * changed any more. All that stands around the two is looked at first; where anything is not as it must be, nothing
 * is written.
 */
import koffi from "koffi";
import { pageSize } from "./libc.ts";

/** One of the times of utimensat(2). */
export type SetTime = "now" | "omit" | { readonly sec: number; readonly nsec: number };
/** Gives 0 or a negated errno. Must not throw. */
export type SetTimes = (path: string, atime: SetTime, mtime: SetTime) => number;

const LIBRARY = "libfuse.so.2";
const VERSION = 29;
const UTIME_NOW = 2 ** 30 - 1;
const UTIME_OMIT = 2 ** 30 - 2;
const EIO = 5;

/** In fuse-native's `fuse_thread_t`. */
const THREAD = { fuse: 368, mountpoint: 384 };
/** In `struct fuse`; `fs`, a `struct fuse_fs`, begins with its `struct fuse_operations`. */
const FUSE = { entryTimeout: 160, useIno: 212, fs: 272, nullpathOk: 280, utimeOmitOk: 284, pageSize: 296 };
const FS = { utimens: 288, flags: 304, userData: 368 };

const Utimens = koffi.proto("int sqlfuse_utimens(const char *path, void *times)");

/**
 * Has libfuse hand changes of times to `take`, on the main thread. `thread` is what fuse-native has just mounted with,
 * its first request unanswered yet; `entryTimeoutSec` is what libfuse was told of names. False: this libfuse is not
 * the one that is known, and is left as it is.
 */
export function takeUtimens(
  thread: Uint8Array,
  mountpoint: string,
  entryTimeoutSec: number,
  take: SetTimes,
): boolean {
  if (process.platform !== "linux" || process.arch !== "x64" || !isKnownLibrary()) return false;
  if (!Buffer.from(thread.subarray(THREAD.mountpoint)).toString().startsWith(`${mountpoint}\0`)) return false;
  const fuse = Buffer.from(thread).readBigUInt64LE(THREAD.fuse);
  if (!isKnownFuse(fuse, entryTimeoutSec)) return false;
  const fs = koffi.decode(fuse, FUSE.fs, "uint64_t") as number | bigint;
  if (!isKnownTable(BigInt(fs), thread)) return false;
  const called = koffi.register((path: string, times: unknown) => {
    try {
      const words = koffi.decode(times, "int64_t", 4) as BigInt64Array;
      return take(path, timeOf(words, 0), timeOf(words, 2));
    } catch {
      return -EIO;
    }
  }, koffi.pointer(Utimens));
  koffi.encode(BigInt(fs), FS.utimens, "uint64_t", called);
  koffi.encode(fuse, FUSE.utimeOmitOk, "int", 1);
  return true;
}

/** Loads a libfuse 2 under its own name, for whoever is linked with it. @throws Error */
export function loadLibrary(path: string): void {
  koffi.load(path);
}

function isKnownLibrary(): boolean {
  try {
    return (koffi.load(LIBRARY).func("fuse_version", "int", [])() as number) === VERSION;
  } catch {
    return false;
  }
}

/** What this mount was told, and what nobody has changed yet, stands where it must. */
function isKnownFuse(fuse: bigint, entryTimeoutSec: number): boolean {
  if (fuse === 0n) return false;
  const int = (at: number): number => koffi.decode(fuse, at, "int") as number;
  return (
    (koffi.decode(fuse, FUSE.entryTimeout, "double") as number) === entryTimeoutSec &&
    int(FUSE.useIno) === 1 &&
    int(FUSE.nullpathOk) === 0 &&
    int(FUSE.utimeOmitOk) === 0 &&
    int(FUSE.pageSize) === pageSize() &&
    int(FUSE.pageSize - 8) === 0 &&
    int(FUSE.pageSize - 4) === 0
  );
}

/** The table is fuse-native's for this very mount, without flags. */
function isKnownTable(fs: bigint, thread: Uint8Array): boolean {
  return (
    fs !== 0n &&
    BigInt(koffi.decode(fs, FS.userData, "uint64_t") as number | bigint) === koffi.address(thread) &&
    BigInt(koffi.decode(fs, FS.utimens, "uint64_t") as number | bigint) !== 0n &&
    (koffi.decode(fs, FS.flags, "uint64_t") as number | bigint).toString() === "0"
  );
}

/** Of two `struct timespec`. */
function timeOf(words: BigInt64Array, at: number): SetTime {
  const nsec = Number(words[at + 1]);
  if (nsec === UTIME_NOW) return "now";
  return nsec === UTIME_OMIT ? "omit" : { sec: Number(words[at]), nsec };
}
