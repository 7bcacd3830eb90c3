/**
 * The words of the core: what an inode looks like from outside, who asks, and what
 * may be changed. Plain objects of numbers and bytes, so that any face of the volume
 * (FUSE, tools, library) can carry them.
 */

import type { Time } from "../base/clock.ts";

/** Inode number; 1 is the root directory. A safe integer, never reused. */
export type Ino = number & { readonly __brand: "Ino" };
/** Row id of a stored block; 0 stands for "allocated, reads as zeros". */
export type BlockNo = number & { readonly __brand: "BlockNo" };
/** The counter that snapshots and the replication clock advance. */
export type Epoch = number & { readonly __brand: "Epoch" };

export const ROOT_INO = 1 as Ino;

/** Largest file size and largest offset + length, in bytes: 2^53 - 1. EFBIG beyond. */
export const MAX_FILE_SIZE = Number.MAX_SAFE_INTEGER;
/** Bytes in one name, as Linux NAME_MAX. ENAMETOOLONG beyond. */
export const NAME_MAX = 255;
/** Bytes in a symlink target, PATH_MAX without its NUL. */
export const SYMLINK_MAX = 4095;
/** Hard links to one inode, as ext4's order of magnitude; EMLINK beyond. */
export const LINK_MAX = 65_000;
export const XATTR_NAME_MAX = 255;
/** Bytes in one xattr value (XATTR_SIZE_MAX). E2BIG beyond. */
export const XATTR_SIZE_MAX = 65_536;
/** Bytes in the list of one inode's xattr names (XATTR_LIST_MAX). ENOSPC beyond. */
export const XATTR_LIST_MAX = 65_536;

/** What stat(2) tells. Times are pairs of seconds and nanoseconds (0..999,999,999). */
export interface Attr {
  ino: Ino;
  /** st_mode: type and permission bits. */
  mode: number;
  nlink: number;
  uid: number;
  gid: number;
  /** Linux dev_t as the FUSE protocol carries it (32 bits); 0 unless a device. */
  rdev: number;
  /** Bytes. */
  size: number;
  /** Bytes in one block of this file; the preferred I/O size. */
  blockSize: number;
  /** st_blocks: 512-byte units that data takes, holes excluded. */
  blocks: number;
  atimeSec: number;
  atimeNsec: number;
  mtimeSec: number;
  mtimeNsec: number;
  ctimeSec: number;
  ctimeNsec: number;
  /** Birth time. */
  btimeSec: number;
  btimeNsec: number;
  /** Random 32-bit number per inode: with `ino` it names a file for ever (NFS handles). */
  generation: number;
}

/** Who creates a file, and with which umask. */
export interface Caller {
  readonly uid: number;
  readonly gid: number;
  /** 0 where the umask was already applied by somebody else. */
  readonly umask: number;
}

/** A time to set, or "now" by the volume's clock. */
export type TimeChange = "now" | { readonly sec: number; readonly nsec: number };

/** What setattr changes; an absent field stays as it is. */
export interface SetAttr {
  /** Permission bits (07777); type bits are ignored. */
  readonly mode?: number;
  readonly uid?: number;
  readonly gid?: number;
  /** Bytes: truncate or extend with a hole. */
  readonly size?: number;
  readonly atime?: TimeChange;
  readonly mtime?: TimeChange;
  readonly ctime?: TimeChange;
  /** Clear S_ISUID, and S_ISGID where group-executable, and security.capability (FATTR_KILL_SUIDGID). */
  readonly killSuidgid?: boolean;
}

/** Which snapshot is meant: the one of that name, else of that epoch, else the newest that is no younger than `time`. */
export interface At {
  readonly name?: string;
  readonly epoch?: number;
  readonly time?: Time;
}

/** One directory entry. */
export interface Entry {
  readonly name: Uint8Array;
  readonly ino: Ino;
  /** S_IFMT bits of the inode (0o040000, 0o100000, ...). */
  readonly type: number;
  /** Pass it to readdir to go on after this entry. Positive, stable for the entry's life. */
  readonly cookie: number;
}

/** rename(2) flags. */
export const RENAME_NOREPLACE = 1;
export const RENAME_EXCHANGE = 2;

/** fallocate(2) modes that the core knows. */
export const FALLOC_FL_KEEP_SIZE = 0x01;
export const FALLOC_FL_PUNCH_HOLE = 0x02;
export const FALLOC_FL_ZERO_RANGE = 0x10;

/** setxattr(2) flags. */
export const XATTR_CREATE = 1;
export const XATTR_REPLACE = 2;

/** lseek(2) whence values that reach a filesystem. */
export const SEEK_DATA = 3;
export const SEEK_HOLE = 4;

/** What statfs(2) tells, in blocks of `blockSize` bytes. */
export interface StatFs {
  readonly blockSize: number;
  readonly blocks: number;
  readonly bfree: number;
  readonly bavail: number;
  readonly files: number;
  readonly ffree: number;
  readonly nameMax: number;
}
