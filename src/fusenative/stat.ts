/** stat(2) and statfs(2) as fuse-native takes them: 32-bit words, sizes and times in two, times in milliseconds. */
import { FsError } from "../base/errno.ts";
import type { Attr, StatFs } from "../core/types.ts";

const STAT_WORDS = 18;
const STATFS_WORDS = 11;
const WORD = 2 ** 32;

/** Presented as the owner and group of every inode where given. */
export interface Owner {
  readonly uid: number | undefined;
  readonly gid: number | undefined;
}

/** What stands for a stat where there is none. */
export const NO_STAT = new Uint32Array(STAT_WORDS);
export const NO_STATFS = new Uint32Array(STATFS_WORDS);

/** `nlink` where libfuse needs another one. @throws FsError EOVERFLOW for an inode number of more than 32 bits */
export function encodeStat(attr: Attr, owner: Owner, nlink = attr.nlink): Uint32Array {
  if (attr.ino >= WORD) throw new FsError("EOVERFLOW");
  const words = new Uint32Array(STAT_WORDS);
  words[0] = attr.mode;
  words[1] = owner.uid ?? attr.uid;
  words[2] = owner.gid ?? attr.gid;
  long(words, 3, attr.size);
  words[6] = nlink;
  words[7] = attr.ino;
  words[8] = attr.rdev;
  words[9] = attr.blockSize;
  long(words, 10, attr.blocks);
  long(words, 12, milliseconds(attr.atimeSec, attr.atimeNsec));
  long(words, 14, milliseconds(attr.mtimeSec, attr.mtimeNsec));
  long(words, 16, milliseconds(attr.ctimeSec, attr.ctimeNsec));
  return words;
}

/** Of an entry of a listing: only these two reach the reader. */
export function encodeEntry(ino: number, type: number): Uint32Array {
  if (ino >= WORD) throw new FsError("EOVERFLOW");
  const words = new Uint32Array(STAT_WORDS);
  words[0] = type;
  words[7] = ino;
  return words;
}

/** Blocks are shown as large as it takes for their number to fit. */
export function encodeStatfs(figures: StatFs): Uint32Array {
  let scale = 1;
  while (figures.blocks / scale >= WORD) scale *= 2;
  const most = (count: number): number => Math.min(count, WORD - 1);
  return Uint32Array.of(
    figures.blockSize * scale,
    figures.blockSize * scale,
    Math.floor(figures.blocks / scale),
    Math.floor(figures.bfree / scale),
    Math.floor(figures.bavail / scale),
    most(figures.files),
    most(figures.ffree),
    most(figures.ffree),
    0,
    0,
    figures.nameMax,
  );
}

function long(words: Uint32Array, at: number, value: number): void {
  words[at] = value % WORD;
  words[at + 1] = Math.floor(value / WORD);
}

/** fuse-native divides as if there were no time before 1970: that is shown as the first moment after. */
function milliseconds(sec: number, nsec: number): number {
  return Math.max(0, sec * 1000 + Math.floor(nsec / 1_000_000));
}
