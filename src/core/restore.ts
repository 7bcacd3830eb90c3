/**
 * Makes things as they were once: nothing is inherited, nothing becomes "now", parents do not change. For a
 * volume that nobody else sees yet, as one that a dump is loaded into: a file has its size before it has its data.
 */
import type { Time } from "../base/clock.ts";
import { FsError } from "../base/errno.ts";
import type { Statement } from "../db/statement.ts";
import { isBlockSize, isOfOldKind } from "./blocksize.ts";
import type { Compression } from "./codec.ts";
import type { Extents } from "./extents.ts";
import { requireFeature } from "./format.ts";
import type { Inode, Inodes } from "./inodes.ts";
import { isDevice, isDirectory, isRegular, S_IFMT } from "./mode.ts";
import { blockOf, blocksFor, spansOf } from "./spans.ts";
import type { Store } from "./store.ts";
import type { Tree } from "./tree.ts";
import { type Ino, LINK_MAX, SYMLINK_MAX } from "./types.ts";
import type { Xattrs } from "./xattrs.ts";

/** What an inode was like. */
export interface Likeness {
  /** st_mode: type and permission bits. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly atime: Time;
  readonly mtime: Time;
  readonly ctime: Time;
  readonly btime: Time;
}

/** What an inode is made with and keeps. */
export interface Substance {
  readonly rdev?: number;
  /** Bytes, of a regular file. */
  readonly size?: number;
  /** Bytes per block, of a regular file; default the volume's. See blocksize.ts. */
  readonly blockSize?: number | undefined;
  /** Of a symlink. */
  readonly target?: Uint8Array;
}

const NS = 1_000_000_000;

export class Restore {
  readonly #store: Store;
  readonly #inodes: Inodes;
  readonly #extents: Extents;
  readonly #tree: Tree;
  readonly #xattrs: Xattrs;
  readonly #updateBtime: Statement;

  constructor(store: Store, inodes: Inodes, extents: Extents, tree: Tree, xattrs: Xattrs) {
    this.#store = store;
    this.#inodes = inodes;
    this.#extents = extents;
    this.#tree = tree;
    this.#xattrs = xattrs;
    this.#updateBtime = store.writer.prepare(`UPDATE inode SET btime_ns = ?2 * ${NS} + ?3 WHERE ino = ?1`);
  }

  /**
   * Makes an inode of any type under a name.
   * @throws FsError ESTALE, ENOTDIR, EEXIST, ENAMETOOLONG, EINVAL, ENOENT (empty name or target), EFBIG, EROFS, ENOSPC, EIO
   */
  make(parent: Ino, name: Uint8Array, likeness: Likeness, substance: Substance = {}): Ino {
    const { mode } = likeness;
    const { size = 0, blockSize, target } = substance;
    if (target?.length === 0) throw new FsError("ENOENT", "a symlink without a target");
    if (target !== undefined && target.length > SYMLINK_MAX) throw new FsError("ENAMETOOLONG");
    if (!Number.isSafeInteger(size)) throw new FsError("EFBIG");
    if (size < 0 || (blockSize !== undefined && !isBlockSize(blockSize))) throw new FsError("EINVAL");
    return this.#store.query(parent, () => {
      const directory = this.#tree.vacancy(parent, name);
      return this.#store.change(parent, target?.length ?? 0, false, () => {
        if (blockSize !== undefined && !isOfOldKind(blockSize))
          requireFeature(this.#store.writer, "block-size");
        const inode = this.#inodes.insert(
          {
            mode,
            uid: likeness.uid,
            gid: likeness.gid,
            ...(isDevice(mode) ? { rdev: substance.rdev ?? 0 } : {}),
            ...(isRegular(mode) ? { size } : {}),
            ...(isRegular(mode) && blockSize !== undefined ? { blockSize } : {}),
            ...(isDirectory(mode) ? { nlink: 2, parent } : {}),
            ...(target === undefined ? {} : { size: target.length, target }),
          },
          likeness.btime,
        );
        setTimes(inode, likeness);
        this.#inodes.save(inode);
        this.#tree.enter(directory, name, inode.ino, inode);
        return inode.ino;
      });
    });
  }

  /** Another name for an inode that is not a directory. @throws FsError as make; EPERM, EMLINK */
  link(ino: Ino, parent: Ino, name: Uint8Array): void {
    this.#store.query(ino, () => {
      const directory = this.#tree.vacancy(parent, name);
      const inode = this.#inodes.load(ino);
      if (isDirectory(inode.mode)) throw new FsError("EPERM");
      if (inode.nlink >= LINK_MAX) throw new FsError("EMLINK");
      this.#store.change(ino, 0, false, () => {
        inode.nlink++;
        this.#inodes.save(inode);
        this.#tree.enter(directory, name, this.#store.counters.takeSerial(), inode);
      });
    });
  }

  /** Makes an inode like this; its type stays. @throws FsError ESTALE, EROFS, ENOSPC, EIO */
  describe(ino: Ino, likeness: Likeness): void {
    this.#store.query(ino, () => {
      const inode = this.#inodes.load(ino);
      this.#store.change(ino, 0, false, () => {
        inode.mode = (inode.mode & S_IFMT) | (likeness.mode & 0o7777);
        inode.uid = likeness.uid;
        inode.gid = likeness.gid;
        setTimes(inode, likeness);
        [inode.btimeSec, inode.btimeNsec] = [likeness.btime.sec, likeness.btime.nsec];
        this.#inodes.save(inode);
        this.#updateBtime.bindInt(1, ino).bindInt(2, inode.btimeSec).bindInt(3, inode.btimeNsec).run();
      });
    });
  }

  /** @throws FsError as Xattrs.restore; ESTALE, EROFS, ENOSPC, EIO */
  xattr(ino: Ino, name: Uint8Array, value: Uint8Array): void {
    this.#store.query(ino, () => {
      const inode = this.#inodes.load(ino);
      this.#store.change(ino, value.length, false, () => {
        this.#xattrs.restore(inode, name, value);
        this.#inodes.save(inode);
      });
    });
  }

  /**
   * Writes whole blocks: `offset` is a multiple of the block size; of the last block only its begin need be there,
   * the rest is zeros. Zeros at the end of a block are not stored.
   * @throws FsError ESTALE, EINVAL (not a regular file, past its end, within a block), EROFS, ENOSPC, EIO
   */
  write(ino: Ino, offset: number, data: Uint8Array): void {
    this.#store.query(ino, () => {
      const inode = this.#aligned(ino, offset);
      if (offset + data.length > inode.size) throw new FsError("EINVAL", "past the end of the file");
      const how = this.#extents.compressionOf(ino);
      this.#store.change(ino, data.length, false, () => {
        if (data.length === 0) this.#put(inode, blockOf(offset, inode.blockSize), data, how);
        for (const { idx, at, to } of spansOf(offset, data.length, inode.blockSize)) {
          this.#put(inode, idx, data.subarray(at, at + to), how);
        }
        this.#inodes.save(inode);
      });
    });
  }

  /** Reserves blocks as fallocate does, also past the end. @throws FsError as write */
  reserve(ino: Ino, offset: number, length: number): void {
    this.#store.query(ino, () => {
      const inode = this.#aligned(ino, offset);
      if (length <= 0 || !Number.isSafeInteger(offset + length)) throw new FsError("EINVAL");
      this.#store.change(ino, 0, false, () => {
        const end = blocksFor(offset + length, inode.blockSize);
        for (let idx = blockOf(offset, inode.blockSize); idx < end; idx++) {
          this.#extents.allocate(inode, idx, this.#extents.find(ino, idx));
        }
        this.#inodes.save(inode);
      });
    });
  }

  #put(inode: Inode, idx: number, data: Uint8Array, how: Compression): void {
    let length = data.length;
    while (length > 0 && data[length - 1] === 0) length--;
    const old = this.#extents.find(inode.ino, idx);
    this.#extents.put(inode, idx, old, data.subarray(0, length), how, false);
  }

  #aligned(ino: Ino, offset: number): Inode {
    const inode = this.#inodes.load(ino);
    if (!isRegular(inode.mode)) throw new FsError("EINVAL", "not a regular file");
    if (offset < 0 || offset % inode.blockSize !== 0) throw new FsError("EINVAL", "within a block");
    return inode;
  }
}

function setTimes(inode: Inode, { atime, mtime, ctime }: Likeness): void {
  [inode.atimeSec, inode.atimeNsec] = [atime.sec, atime.nsec];
  [inode.mtimeSec, inode.mtimeNsec] = [mtime.sec, mtime.nsec];
  [inode.ctimeSec, inode.ctimeNsec] = [ctime.sec, ctime.nsec];
}
