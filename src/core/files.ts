/**
 * The contents of regular files: read, write, truncate, fallocate, lseek, copy_file_range.
 *
 * Bytes that an operation needs of what is stored are read before its first write, so that
 * damage refuses the operation and does not cost the open group.
 */
import type { Time } from "../base/clock.ts";
import { FsError } from "../base/errno.ts";
import type { Statement } from "../db/statement.ts";
import type { Blocks } from "./blocks.ts";
import { HOLE_UNIT } from "./blocksize.ts";
import type { Compression } from "./codec.ts";
import { type Extent, type Extents, type ReadPart, UNWRITTEN } from "./extents.ts";
import type { Inode, Inodes } from "./inodes.ts";
import { isDirectory, isRegular, S_IFREG } from "./mode.ts";
import { AwayError } from "./partial.ts";
import { blockOf, blocksFor, type Span, spansOf } from "./spans.ts";
import type { Store } from "./store.ts";
import {
  type BlockNo,
  FALLOC_FL_KEEP_SIZE,
  FALLOC_FL_PUNCH_HOLE,
  FALLOC_FL_ZERO_RANGE,
  type Ino,
  SEEK_DATA,
  SEEK_HOLE,
} from "./types.ts";
import type { Xattrs } from "./xattrs.ts";

/** A block that is about to be changed in part: what it was, read before anything is written. */
interface Loaded {
  readonly idx: number;
  readonly extent: Extent | undefined;
  /** Bytes stored, at the start of `bytes`; what follows in `bytes` is anything. */
  readonly length: number;
  /** Room for one whole block. */
  readonly bytes: Uint8Array;
}

/** What no part holds of the `length` bytes is zeros. */
export interface ReadPlan {
  readonly length: number;
  readonly parts: readonly ReadPart[];
}

/** A truncation that frees more blocks hands them to the purge instead of dropping them at once. */
const DROP_AT_ONCE = 256;
/** Bytes that an extent row takes in the database, about. */
const EXTENT_ROW_BYTES = 32;
/** Bytes that one step of copy_file_range copies where blocks cannot be shared. */
const COPY_STEP_BYTES = 1 << 20;
/** Blocks that one step of copy_file_range shares. */
const SHARE_STEP_BLOCKS = 1024;
/** Bytes after which copy_file_range answers short, so that others get their turn. */
const COPY_BYTES = 16 * 2 ** 20;

export class Files {
  readonly #store: Store;
  readonly #inodes: Inodes;
  readonly #blocks: Blocks;
  readonly #extents: Extents;
  readonly #xattrs: Xattrs;
  readonly #nextData: Statement;
  readonly #named: Statement;
  /** Two whole blocks: an operation changes at most its first and its last one in part. */
  #scratch = [new Uint8Array(0), new Uint8Array(0)];

  constructor(store: Store, inodes: Inodes, blocks: Blocks, extents: Extents, xattrs: Xattrs) {
    this.#store = store;
    this.#inodes = inodes;
    this.#blocks = blocks;
    this.#extents = extents;
    this.#xattrs = xattrs;
    this.#nextData = store.writer.prepare(
      `SELECT idx FROM extent WHERE ino = ?1 AND idx >= ?2 AND block <> ${UNWRITTEN} ORDER BY idx LIMIT 1`,
    );
    this.#named = store.writer.prepare(
      "SELECT idx, block FROM extent WHERE ino = ?1 AND idx >= ?2 ORDER BY idx",
    );
  }

  /**
   * Copies up to `length` bytes from `offset` into `into` and tells how many; fewer only at the
   * end of the file. Holes are zeros.
   * @throws FsError ESTALE, EISDIR, EINVAL (not a regular file); DamageError; AwayError
   */
  read(ino: Ino, offset: number, length: number, into: Uint8Array): number {
    return this.#store.query(ino, () => {
      const inode = this.#regular(ino);
      const end = Math.min(offset + length, inode.size);
      if (end <= offset) return 0;
      this.#fill(inode, offset, into.subarray(0, end - offset));
      this.#inodes.accessed(inode);
      return end - offset;
    });
  }

  /** Of what is away it tells all: in another transaction it may be here, or be of no file. @throws AwayError, DamageError */
  #fill(inode: Inode, offset: number, into: Uint8Array): void {
    try {
      this.#extents.read(inode, offset, into);
    } catch (error) {
      if (error instanceof AwayError) error.missing = this.#extents.away(inode, offset, offset + into.length);
      throw error;
    }
  }

  /**
   * What a read would have to fetch, for one who fetches it elsewhere: how many bytes there are, and where they are stored.
   * Undefined where some are not committed, or there are none. Counts as a read.
   * @throws FsError ESTALE, EISDIR, EINVAL
   */
  plan(ino: Ino, offset: number, length: number): ReadPlan | undefined {
    return this.#store.query(ino, () => {
      const inode = this.#regular(ino);
      const bytes = Math.min(offset + length, inode.size) - offset;
      const parts = bytes > 0 ? this.#extents.plan(inode, offset, bytes) : undefined;
      if (parts === undefined) return undefined;
      this.#inodes.accessed(inode);
      return { length: bytes, parts };
    });
  }

  /** Blocks of a partial replica that a read would meet and that are away. @throws FsError ESTALE, EISDIR, EINVAL */
  away(ino: Ino, offset: number, length: number): readonly BlockNo[] {
    return this.#store.query(ino, () => {
      const inode = this.#regular(ino);
      const end = Math.min(offset + length, inode.size);
      return this.#store.partial === undefined || end <= offset ? [] : this.#extents.away(inode, offset, end);
    });
  }

  /**
   * Writes all of `data` at `offset`, or nothing. With `killSuidgid` privileges are cleared.
   * @throws FsError ESTALE, EISDIR, EINVAL, EFBIG, EROFS, ENOSPC, EIO; DamageError
   */
  write(ino: Ino, offset: number, data: Uint8Array, killSuidgid: boolean): number {
    return this.#store.query(ino, () => {
      const inode = this.#regular(ino);
      if (data.length === 0) return 0;
      this.#checkRange(offset, data.length);
      const spans = [...spansOf(offset, data.length, inode.blockSize)];
      const edges = this.#loadEdges(inode, spans, (span) => this.#replacesAll(inode, span));
      const olds = spans.map(({ idx }, i) => edges[i]?.extent ?? this.#extents.find(ino, idx));
      const how = this.#extents.compressionOf(ino);
      this.#store.changeLater([ino], data.length, false, () => {
        this.#writeSpans(inode, spans, olds, edges, data, how);
        inode.size = Math.max(inode.size, offset + data.length);
        if (killSuidgid) this.#xattrs.killPrivileges(inode);
        this.#modified(inode);
      });
      return data.length;
    });
  }

  /** Changes the size inside a change of the caller, who saves: a hole is added, or bytes and blocks are dropped. */
  resize(inode: Inode, size: number): void {
    if (size < inode.size) {
      const first = blocksFor(size, inode.blockSize);
      const within = size % inode.blockSize;
      if (within !== 0) {
        const tail = this.#load(inode, first - 1, 0);
        if (tail.length > within) {
          const how = this.#extents.compressionOf(inode.ino);
          this.#extents.put(inode, tail.idx, tail.extent, tail.bytes.subarray(0, within), how, true);
        }
      }
      this.#dropFrom(inode, first);
    }
    inode.size = size;
  }

  /**
   * fallocate(2). Allocated blocks read as zeros; whether the disk has room for them is asked now.
   * With `killSuidgid` privileges are cleared.
   * @throws FsError ESTALE, EISDIR, EINVAL, EFBIG, EOPNOTSUPP (mode), EROFS, ENOSPC, EIO; DamageError
   */
  fallocate(ino: Ino, mode: number, offset: number, length: number, killSuidgid: boolean): void {
    const keepSize = (mode & FALLOC_FL_KEEP_SIZE) !== 0;
    const kind = mode & ~FALLOC_FL_KEEP_SIZE;
    if (kind !== 0 && kind !== FALLOC_FL_ZERO_RANGE && !(kind === FALLOC_FL_PUNCH_HOLE && keepSize)) {
      throw new FsError("EOPNOTSUPP", `fallocate mode ${mode}`);
    }
    if (offset < 0 || length <= 0) throw new FsError("EINVAL");
    this.#store.query(ino, () => {
      const inode = this.#regular(ino);
      this.#checkRange(offset, length);
      if (kind !== FALLOC_FL_PUNCH_HOLE && length > this.#store.spaceFigures().availableBytes) {
        throw new FsError("ENOSPC");
      }
      const frees = kind === FALLOC_FL_PUNCH_HOLE;
      // A row for each block, at worst.
      const rowBytes = frees ? 0 : blocksFor(length, inode.blockSize) * EXTENT_ROW_BYTES;
      if (kind === 0) {
        this.#store.change(ino, rowBytes, frees, () => {
          this.#allocate(
            inode,
            blockOf(offset, inode.blockSize),
            blocksFor(offset + length, inode.blockSize),
            true,
          );
          if (!keepSize) inode.size = Math.max(inode.size, offset + length);
          if (killSuidgid) this.#xattrs.killPrivileges(inode);
          this.#modified(inode);
        });
        return;
      }
      const from = offset;
      const to = frees
        ? Math.min(offset + length, Math.max(inode.size, this.#allocatedEnd(inode)))
        : offset + length;
      if (to <= from) return;
      // The blocks that lie in the range as a whole; one that ends past the file counts as one.
      const firstWhole = blocksFor(from, inode.blockSize);
      const endWhole = to >= inode.size ? blocksFor(to, inode.blockSize) : blockOf(to, inode.blockSize);
      const spans = [...this.#partialSpans(from, to, firstWhole, endWhole, inode.blockSize)];
      const edges = this.#loadEdges(inode, spans, () => false);
      const how = this.#extents.compressionOf(ino);
      this.#store.change(ino, rowBytes, frees, () => {
        for (const [i, span] of spans.entries()) {
          const edge = edges[i];
          if (edge !== undefined) this.#zero(inode, edge, span.from, span.to, how);
        }
        if (endWhole > firstWhole) {
          if (frees) this.#extents.dropRange(inode, firstWhole, endWhole);
          else this.#allocate(inode, firstWhole, endWhole, false);
        }
        if (!frees && !keepSize) inode.size = Math.max(inode.size, to);
        if (killSuidgid) this.#xattrs.killPrivileges(inode);
        this.#modified(inode);
      });
    });
  }

  /**
   * Where data (SEEK_DATA) or a hole (SEEK_HOLE) next begins at or after `offset`; the end of the
   * file counts as a hole. What was allocated but never written is a hole. Where a unit of HOLE_UNIT bytes has data, all of
   * it counts as data.
   * @throws FsError ESTALE, EISDIR, EINVAL, ENXIO (at or past the end, or no more data)
   */
  lseek(ino: Ino, offset: number, whence: number): number {
    if (whence !== SEEK_DATA && whence !== SEEK_HOLE) throw new FsError("EINVAL");
    return this.#store.query(ino, () => {
      const inode = this.#regular(ino);
      if (offset < 0 || offset >= inode.size) throw new FsError("ENXIO");
      const { size, blockSize } = inode;
      const unit = Math.floor(offset / HOLE_UNIT) * HOLE_UNIT;
      if (whence === SEEK_DATA) {
        const data = this.#dataFrom(ino, blockOf(unit, blockSize));
        if (data === undefined || data * blockSize >= size) throw new FsError("ENXIO");
        return Math.max(offset, Math.floor((data * blockSize) / HOLE_UNIT) * HOLE_UNIT);
      }
      for (let hole = unit; hole < size; ) {
        const data = this.#dataFrom(ino, blockOf(hole, blockSize));
        if (data === undefined || data * blockSize >= hole + HOLE_UNIT) return Math.max(offset, hole);
        hole = Math.ceil((this.#holeFrom(ino, data) * blockSize) / HOLE_UNIT) * HOLE_UNIT;
      }
      return size;
    });
  }

  /** The first block at or after `idx` that has data. */
  #dataFrom(ino: Ino, idx: number): number | undefined {
    const row = this.#nextData.bindInt(1, ino).bindInt(2, idx);
    if (!row.step()) return undefined;
    const data = row.int(0);
    row.reset();
    return data;
  }

  /** The first block at or after `idx` that has no data. */
  #holeFrom(ino: Ino, idx: number): number {
    let hole = idx;
    const rows = this.#named.bindInt(1, ino).bindInt(2, idx);
    while (rows.step() && rows.int(0) === hole && rows.int(1) !== UNWRITTEN) hole++;
    rows.reset();
    return hole;
  }

  /**
   * The blocks that the file has from number `from` on, in order: a batch of them, none where there is no more.
   * Those past its end were reserved by fallocate; one that is not written reads as zeros.
   * @throws FsError ESTALE, EISDIR, EINVAL
   */
  extents(ino: Ino, from: number): { readonly idx: number; readonly written: boolean }[] {
    return this.#store.query(ino, () => {
      this.#regular(ino);
      const batch = this.#extents.range(ino, from, Number.MAX_SAFE_INTEGER);
      return batch.map(({ idx, extent }) => ({ idx, written: extent.block !== UNWRITTEN }));
    });
  }

  /**
   * copy_file_range(2): shares whole blocks where both files have the same block size and the
   * offsets lie alike within a block, copies bytes elsewhere. Tells how many bytes were copied:
   * fewer at the end of the source, or after 16 MiB, at the border of a block.
   * @throws FsError ESTALE, EISDIR, EINVAL (overlap, not regular), EFBIG, EROFS, ENOSPC, EIO; DamageError
   */
  copyFileRange(
    from: Ino,
    fromOffset: number,
    to: Ino,
    toOffset: number,
    length: number,
    killSuidgid: boolean,
  ): number {
    return this.#store.query(from, () => {
      this.#regular(to);
      const { size, blockSize } = this.#regular(from);
      const stop = blockOf(fromOffset + COPY_BYTES, blockSize) * blockSize;
      const all = Math.max(0, Math.min(length, size - fromOffset));
      if (from === to && Math.abs(fromOffset - toOffset) < all) throw new FsError("EINVAL", "overlap");
      this.#checkRange(toOffset, all);
      const most = Math.min(all, stop - fromOffset);
      let copied = 0;
      while (copied < most) {
        const left = most - copied;
        try {
          // The next step looks at what the one before wrote.
          this.#store.finish();
          copied +=
            this.#shareStep(from, fromOffset + copied, to, toOffset + copied, left, killSuidgid) ||
            this.#copyStep(from, fromOffset + copied, to, toOffset + copied, left, killSuidgid);
        } catch (error) {
          // What was copied is told; the next call meets the failure again. Not so where the group was lost.
          if (copied === 0 || this.#store.failed) throw error;
          break;
        }
      }
      return copied;
    });
  }

  /** Shares whole blocks; 0 where the range does not begin with one that can be shared. */
  #shareStep(
    from: Ino,
    fromOffset: number,
    to: Ino,
    toOffset: number,
    length: number,
    kill: boolean,
  ): number {
    const source = this.#regular(from);
    const target = from === to ? source : this.#regular(to);
    const size = source.blockSize;
    if (size !== target.blockSize || fromOffset % size !== 0 || toOffset % size !== 0) return 0;
    const reachesEnd = fromOffset + length === source.size && toOffset + length >= target.size;
    const blocks = Math.min(SHARE_STEP_BLOCKS, reachesEnd ? blocksFor(length, size) : blockOf(length, size));
    if (blocks === 0) return 0;
    const bytes = Math.min(length, blocks * size);
    const first = blockOf(fromOffset, size);
    const shift = blockOf(toOffset, size) - first;
    this.#store.change(to, 0, false, () => {
      this.#store.touch(from);
      let next = first;
      for (;;) {
        const batch = this.#extents.range(from, next, first + blocks);
        if (batch.length === 0) break;
        for (const { idx, extent } of batch) {
          if (idx > next) this.#extents.dropRange(target, next + shift, idx + shift);
          this.#extents.share(source, idx, extent, target, idx + shift);
          next = idx + 1;
        }
      }
      this.#extents.dropRange(target, next + shift, first + blocks + shift);
      target.size = Math.max(target.size, toOffset + bytes);
      if (kill) this.#xattrs.killPrivileges(target);
      this.#modified(target);
    });
    return bytes;
  }

  /** Copies bytes, up to the next border of a block where sharing can go on behind it. */
  #copyStep(from: Ino, fromOffset: number, to: Ino, toOffset: number, length: number, kill: boolean): number {
    const source = this.#regular(from);
    const alike =
      source.blockSize === this.#regular(to).blockSize && (fromOffset - toOffset) % source.blockSize === 0;
    const toBorder = source.blockSize - (fromOffset % source.blockSize);
    const bytes = Math.min(length, alike ? toBorder : COPY_STEP_BYTES);
    const data = new Uint8Array(bytes);
    this.#extents.read(source, fromOffset, data);
    return this.write(to, toOffset, data, kill);
  }

  /** @throws FsError ESTALE, EISDIR, EINVAL; EIO where a failed commit may have lost it */
  #regular(ino: Ino): Inode {
    const inode = this.#inodes.find(ino);
    // Whoever has it open was told that it was made.
    if (inode === undefined) throw new FsError(this.#store.failed ? "EIO" : "ESTALE");
    if (isRegular(inode.mode)) return inode;
    throw new FsError(isDirectory(inode.mode) ? "EISDIR" : "EINVAL");
  }

  #checkRange(offset: number, length: number): void {
    if (!Number.isSafeInteger(offset) || !Number.isSafeInteger(offset + length)) throw new FsError("EFBIG");
    if (offset < 0) throw new FsError("EINVAL");
  }

  /** Whether writing `span` leaves nothing of what its block held. */
  #replacesAll(inode: Inode, span: Span): boolean {
    return span.from === 0 && span.to >= Math.min(inode.blockSize, inode.size - span.idx * inode.blockSize);
  }

  /** Reads the first and the last block of `spans` where they are changed in part. */
  #loadEdges(inode: Inode, spans: readonly Span[], whole: (span: Span) => boolean): (Loaded | undefined)[] {
    return spans.map((span, i) => {
      const edge = i === 0 || i === spans.length - 1;
      return edge && !whole(span) ? this.#load(inode, span.idx, i === 0 ? 0 : 1) : undefined;
    });
  }

  /** Reads one block into one of the two scratch blocks. */
  #load(inode: Inode, idx: number, scratch: 0 | 1): Loaded {
    let bytes = this.#scratch[scratch];
    if (bytes === undefined || bytes.length < inode.blockSize) {
      bytes = new Uint8Array(inode.blockSize);
      this.#scratch[scratch] = bytes;
    }
    bytes = bytes.subarray(0, inode.blockSize);
    const extent = this.#extents.find(inode.ino, idx);
    const stored = extent?.block === UNWRITTEN ? undefined : extent?.block;
    const length = stored === undefined ? 0 : this.#blocks.load(inode.ino, stored, inode.blockSize, 0, bytes);
    return { idx, extent, length, bytes };
  }

  #writeSpans(
    inode: Inode,
    spans: readonly Span[],
    olds: readonly (Extent | undefined)[],
    edges: readonly (Loaded | undefined)[],
    data: Uint8Array,
    how: Compression,
  ): void {
    for (const [i, span] of spans.entries()) {
      const part = data.subarray(span.at, span.at + span.to - span.from);
      const edge = edges[i];
      if (edge === undefined) {
        this.#extents.put(inode, span.idx, olds[i], part, how, false);
      } else {
        if (span.from > edge.length) edge.bytes.fill(0, edge.length, span.from);
        edge.bytes.set(part, span.from);
        const length = Math.max(edge.length, span.to);
        this.#extents.put(inode, span.idx, edge.extent, edge.bytes.subarray(0, length), how, true);
      }
    }
  }

  /** Makes bytes `from` to `to` of a loaded block read as zeros. */
  #zero(inode: Inode, edge: Loaded, from: number, to: number, how: Compression): void {
    if (from >= edge.length) return;
    edge.bytes.fill(0, from, to);
    const length = to >= edge.length ? from : edge.length;
    this.#extents.put(inode, edge.idx, edge.extent, edge.bytes.subarray(0, length), how, true);
  }

  /** The spans of a range at its ends that are not whole blocks. */
  *#partialSpans(
    from: number,
    to: number,
    firstWhole: number,
    endWhole: number,
    blockSize: number,
  ): Generator<Span> {
    if (endWhole < firstWhole) {
      const start = endWhole * blockSize;
      yield { idx: endWhole, from: from - start, to: to - start, at: 0 };
      return;
    }
    if (from < firstWhole * blockSize && firstWhole > 0) {
      const start = (firstWhole - 1) * blockSize;
      yield { idx: firstWhole - 1, from: from - start, to: Math.min(blockSize, to - start), at: 0 };
    }
    if (to > endWhole * blockSize) {
      yield { idx: endWhole, from: 0, to: to - endWhole * blockSize, at: 0 };
    }
  }

  /** Allocates the blocks `first <= idx < end`: only holes with `holesOnly`, else all, whatever they held. */
  #allocate(inode: Inode, first: number, end: number, holesOnly: boolean): void {
    for (let idx = first; idx < end; idx++) {
      const old = this.#extents.find(inode.ino, idx);
      if (old === undefined || !holesOnly) this.#extents.allocate(inode, idx, old);
    }
  }

  /** Byte behind the last allocated block, which may lie past the end of the file. */
  #allocatedEnd(inode: Inode): number {
    return this.#extents.end(inode.ino) * inode.blockSize;
  }

  #dropFrom(inode: Inode, first: number): void {
    if (inode.extents <= DROP_AT_ONCE) {
      if (inode.extents > 0) this.#extents.dropRange(inode, first, Number.MAX_SAFE_INTEGER);
      return;
    }
    const heir = this.#inodes.insert(
      { mode: S_IFREG, uid: inode.uid, gid: inode.gid, nlink: 0, blockSize: inode.blockSize },
      this.#store.clock.now(),
    );
    // Of an unlinked file nothing belongs to an epoch later than its unlink, so nor does the heir.
    heir.born = this.#inodes.epochOf(inode);
    this.#extents.bequeath(inode, first, heir);
    this.#inodes.save(heir);
    this.#inodes.abandon(heir.ino);
  }

  /** mtime and ctime are now; saves. */
  #modified(inode: Inode): void {
    const now: Time = this.#store.clock.now();
    [inode.mtimeSec, inode.mtimeNsec, inode.ctimeSec, inode.ctimeNsec] = [
      now.sec,
      now.nsec,
      now.sec,
      now.nsec,
    ];
    this.#inodes.save(inode);
  }
}
