/**
 * Extents: which stored block each block of a file is, replaced, shared or dropped, with its past.
 *
 * A block is overwritten in place only if no snapshot shows its extent and it was never
 * shared; otherwise a new one is written and the old extent goes to the past or, where no
 * other extent names its block, takes the block with it.
 *
 * Nothing here saves the inode: `inode.extents` is changed and the caller saves.
 */
import type { Statement } from "../db/statement.ts";
import type { Blocks } from "./blocks.ts";
import type { Compression } from "./codec.ts";
import type { Inode, Inodes } from "./inodes.ts";
import { blockOf, blocksFor } from "./spans.ts";
import type { Store } from "./store.ts";
import type { BlockNo, Epoch, Ino } from "./types.ts";
import type { Xattrs } from "./xattrs.ts";

/** An extent row. */
export interface Extent {
  readonly block: BlockNo;
  readonly shared: boolean;
  readonly born: Epoch;
}

/** `length` bytes of a block, from its byte `from` on, are those of a read from byte `at` on. */
export interface ReadPart {
  readonly block: BlockNo;
  readonly from: number;
  readonly at: number;
  readonly length: number;
}

/** Allocated but never written: reads as zeros and has no row in block. */
export const UNWRITTEN = 0 as BlockNo;

/** Rows that one step of a purge or truncation takes. */
const BATCH = 64;

export class Extents {
  readonly #store: Store;
  readonly #inodes: Inodes;
  readonly #blocks: Blocks;
  readonly #xattrs: Xattrs;
  /** Of files that do not say otherwise. */
  readonly #compression: Compression;
  readonly #extent: Statement;
  readonly #insertExtent: Statement;
  readonly #updateExtent: Statement;
  readonly #deleteExtent: Statement;
  readonly #extentToPast: Statement;
  readonly #extentsFrom: Statement;
  readonly #deletePassed: Statement;
  readonly #moveExtents: Statement;
  readonly #rangeToPast: Statement;
  readonly #count: Statement;
  readonly #last: Statement;
  readonly #named: Statement;
  readonly #share: Statement;
  readonly #otherLive: Statement;
  readonly #otherPast: Statement;
  #away: Statement | undefined;

  constructor(store: Store, inodes: Inodes, blocks: Blocks, xattrs: Xattrs, compression: Compression) {
    this.#store = store;
    this.#inodes = inodes;
    this.#blocks = blocks;
    this.#xattrs = xattrs;
    this.#compression = compression;
    const db = store.writer;
    this.#extent = db.prepare("SELECT block, shared, born FROM extent WHERE ino = ?1 AND idx = ?2");
    this.#insertExtent = db.prepare(
      "INSERT INTO extent (ino, idx, block, shared, born) VALUES (?1, ?2, ?3, ?4, ?5)",
    );
    this.#updateExtent = db.prepare(
      "UPDATE extent SET block = ?3, shared = ?4, born = ?5 WHERE ino = ?1 AND idx = ?2",
    );
    this.#deleteExtent = db.prepare("DELETE FROM extent WHERE ino = ?1 AND idx = ?2");
    this.#extentToPast = db.prepare(
      "INSERT INTO extent_past SELECT *, ?3 FROM extent WHERE ino = ?1 AND idx = ?2",
    );
    this.#extentsFrom = db.prepare(
      `SELECT idx, block, shared, born FROM extent WHERE ino = ?1 AND idx >= ?2 AND idx < ?3 ORDER BY idx LIMIT ${BATCH}`,
    );
    this.#rangeToPast = db.prepare(
      "INSERT INTO extent_past SELECT *, ?3 FROM extent WHERE ino = ?1 AND idx >= ?2 AND born <= ?4",
    );
    this.#deletePassed = db.prepare("DELETE FROM extent WHERE ino = ?1 AND idx >= ?2 AND born <= ?3");
    this.#moveExtents = db.prepare("UPDATE extent SET ino = ?3 WHERE ino = ?1 AND idx >= ?2");
    this.#count = db.prepare("SELECT count(*) FROM extent WHERE ino = ?1 AND idx >= ?2");
    this.#named = db.prepare(
      `SELECT idx, block FROM extent WHERE ino = ?1 AND idx >= ?2 AND idx < ?3 AND block <> ${UNWRITTEN} ORDER BY idx`,
    );
    this.#last = db.prepare("SELECT ifnull(max(idx) + 1, 0) FROM extent WHERE ino = ?1");
    this.#share = db.prepare("UPDATE extent SET shared = 1 WHERE ino = ?1 AND idx = ?2");
    this.#otherLive = db.prepare("SELECT 1 FROM extent WHERE block = ?1 AND shared = 1 LIMIT 1");
    this.#otherPast = db.prepare("SELECT 1 FROM extent_past WHERE block = ?1 AND shared = 1 LIMIT 1");
  }

  /** The extent of block `idx`, undefined for a hole. */
  find(ino: Ino, idx: number): Extent | undefined {
    const row = this.#extent.bindInt(1, ino).bindInt(2, idx);
    if (!row.step()) return undefined;
    const extent = { block: row.int(0) as BlockNo, shared: row.int(1) !== 0, born: row.int(2) as Epoch };
    row.reset();
    return extent;
  }

  /**
   * Fills `into` with the bytes of the file from `offset` on; holes are zeros. The caller
   * sees to it that they lie before the end of the file.
   * @throws DamageError
   */
  read(inode: Inode, offset: number, into: Uint8Array): void {
    const { ino, blockSize } = inode;
    const end = offset + into.length;
    /** Bytes of `into` that are done. */
    let done = 0;
    const rows = this.#named.bindInt(1, ino).bindInt(2, blockOf(offset, blockSize));
    rows.bindInt(3, blocksFor(end, blockSize));
    const blocks: [number, BlockNo][] = [];
    while (rows.step()) blocks.push([rows.int(0), rows.int(1) as BlockNo]);
    for (const [idx, block] of blocks) {
      const start = idx * blockSize;
      const from = Math.max(start, offset);
      const to = Math.min(start + blockSize, end);
      if (from - offset > done) into.fill(0, done, from - offset);
      const part = into.subarray(from - offset, to - offset);
      const copied = this.#blocks.load(ino, block, blockSize, from - start, part);
      part.fill(0, copied);
      done = to - offset;
    }
    if (done < into.length) into.fill(0, done);
  }

  /** The blocks with bytes of the file from `offset` to `end` that have to be fetched first. Of a partial replica. */
  away(inode: Inode, offset: number, end: number): BlockNo[] {
    this.#away ??= this.#store.writer.prepare(
      `SELECT e.block FROM extent AS e JOIN partial_block AS p ON p.block = e.block
         WHERE e.ino = ?1 AND e.idx >= ?2 AND e.idx < ?3 AND p.used = 0 ORDER BY e.idx`,
    );
    const rows = this.#away.bindInt(1, inode.ino).bindInt(2, blockOf(offset, inode.blockSize));
    rows.bindInt(3, blocksFor(end, inode.blockSize));
    const found: BlockNo[] = [];
    while (rows.step()) found.push(rows.int(0) as BlockNo);
    return found.filter((block) => this.#store.partial?.visitor(block) === undefined);
  }

  /**
   * How what is now written to a file is compressed: ask before the first write of a change.
   * @throws DamageError, also where nothing new can be stored
   */
  compressionOf(ino: Ino): Compression {
    this.#blocks.expectEnd();
    return this.#xattrs.compressionOf(ino) ?? this.#compression;
  }

  /**
   * Where `length` bytes of the file from `offset` on are stored; undefined where some are not committed. What no
   * part holds is zeros.
   */
  plan(inode: Inode, offset: number, length: number): ReadPart[] | undefined {
    const { ino, blockSize } = inode;
    const end = offset + length;
    const rows = this.#named.bindInt(1, ino).bindInt(2, blockOf(offset, blockSize));
    rows.bindInt(3, blocksFor(end, blockSize));
    const parts: ReadPart[] = [];
    let committed = true;
    while (rows.step()) {
      const start = rows.int(0) * blockSize;
      const block = rows.int(1) as BlockNo;
      committed &&= this.#blocks.isCommitted(block);
      const from = Math.max(start, offset);
      const to = Math.min(start + blockSize, end);
      parts.push({ block, from: from - start, at: from - offset, length: to - from });
    }
    return committed ? parts : undefined;
  }

  /**
   * Makes `data` the content of block `idx`, whose extent is `old`. `how`: what `compressionOf` tells. `intact`: the
   * old block was just read as a whole. `data` stays the caller's.
   */
  put(
    inode: Inode,
    idx: number,
    old: Extent | undefined,
    data: Uint8Array,
    how: Compression,
    intact: boolean,
  ): void {
    const isWhole = data.length === inode.blockSize;
    const stored = old !== undefined && old.block !== UNWRITTEN;
    const mayOverwrite = stored && !old.shared && !this.#isShown(old, this.#inodes.epochOf(inode));
    if (mayOverwrite && (intact || this.#blocks.isIntact(old.block))) {
      this.#blocks.update(old.block, data, how, isWhole);
      return;
    }
    this.#set(inode, idx, old, this.#blocks.insert(data, how, isWhole), false);
  }

  /** Allocates block `idx` without content: it reads as zeros. */
  allocate(inode: Inode, idx: number, old: Extent | undefined): void {
    if (old?.block === UNWRITTEN) return;
    this.#set(inode, idx, old, UNWRITTEN, false);
  }

  /** Makes block `idx` of `to` name the block of `source`, block `fromIdx` of `from`. */
  share(from: Inode, fromIdx: number, source: Extent, to: Inode, idx: number): void {
    const old = this.find(to.ino, idx);
    if (old?.block === source.block) return;
    if (source.block === UNWRITTEN) {
      this.allocate(to, idx, old);
      return;
    }
    if (!source.shared) this.#share.bindInt(1, from.ino).bindInt(2, fromIdx).run();
    this.#set(to, idx, old, source.block, true);
  }

  /** Makes a hole of block `idx`. */
  drop(inode: Inode, idx: number, old: Extent): void {
    const epoch = this.#inodes.epochOf(inode);
    const past = this.#isShown(old, epoch);
    if (past) this.#extentToPast.bindInt(1, inode.ino).bindInt(2, idx).bindInt(3, epoch).run();
    this.#deleteExtent.bindInt(1, inode.ino).bindInt(2, idx).run();
    inode.extents--;
    if (!past) this.release(old.block, old.shared);
  }

  /** The first extents with `from <= idx < to`, at most a batch of them. */
  range(ino: Ino, from: number, to: number): { idx: number; extent: Extent }[] {
    const rows = this.#extentsFrom.bindInt(1, ino).bindInt(2, from).bindInt(3, to);
    const found: { idx: number; extent: Extent }[] = [];
    while (rows.step()) {
      const extent = { block: rows.int(1) as BlockNo, shared: rows.int(2) !== 0, born: rows.int(3) as Epoch };
      found.push({ idx: rows.int(0), extent });
    }
    return found;
  }

  /** Number of extents from `from` on. */
  #countFrom(ino: Ino, from: number): number {
    const row = this.#count.bindInt(1, ino).bindInt(2, from);
    const count = row.step() ? row.int(0) : 0;
    row.reset();
    return count;
  }

  /** Index behind the last extent, 0 where there is none. */
  end(ino: Ino): number {
    const row = this.#last.bindInt(1, ino);
    const end = row.step() ? row.int(0) : 0;
    row.reset();
    return end;
  }

  /** Makes holes of all blocks with `from <= idx < to`. */
  dropRange(inode: Inode, from: number, to: number): void {
    for (;;) {
      const batch = this.range(inode.ino, from, to);
      for (const { idx, extent } of batch) this.drop(inode, idx, extent);
      if (batch.length < BATCH) return;
    }
  }

  /**
   * Hands all blocks from `from` on to the inode `heir`, which the purge will take: cutting a
   * large file costs no more than its extent rows. What belongs to the past goes there.
   */
  bequeath(inode: Inode, from: number, heir: Inode): void {
    const epoch = this.#inodes.epochOf(inode);
    const count = this.#countFrom(inode.ino, from);
    const kept = this.#store.epochs.keptBefore(epoch);
    this.#rangeToPast.bindInt(1, inode.ino).bindInt(2, from).bindInt(3, epoch).bindInt(4, kept).run();
    this.#deletePassed.bindInt(1, inode.ino).bindInt(2, from).bindInt(3, kept).run();
    this.#moveExtents.bindInt(1, inode.ino).bindInt(2, from).bindInt(3, heir.ino).run();
    inode.extents -= count;
    heir.extents = this.#store.writer.changes;
  }

  /** Whether a snapshot shows an extent that changes in `epoch`. */
  #isShown({ born }: Extent, epoch: Epoch): boolean {
    return born <= this.#store.epochs.keptBefore(epoch);
  }

  /** Writes the extent row: `old` is what it was. */
  #set(inode: Inode, idx: number, old: Extent | undefined, block: BlockNo, shared: boolean): void {
    const epoch = this.#inodes.epochOf(inode);
    if (old === undefined) {
      this.#insertExtent
        .bindInt(1, inode.ino)
        .bindInt(2, idx)
        .bindInt(3, block)
        .bindInt(4, shared ? 1 : 0)
        .bindInt(5, epoch)
        .run();
      inode.extents++;
      return;
    }
    const past = this.#isShown(old, epoch);
    if (past) this.#extentToPast.bindInt(1, inode.ino).bindInt(2, idx).bindInt(3, epoch).run();
    this.#updateExtent
      .bindInt(1, inode.ino)
      .bindInt(2, idx)
      .bindInt(3, block)
      .bindInt(4, shared ? 1 : 0)
      .bindInt(5, epoch)
      .run();
    if (!past) this.release(old.block, old.shared);
  }

  /** An extent that named a block is gone, not to the past: so is the block, unless another one names it. */
  release(block: BlockNo, shared: boolean): void {
    if (block === UNWRITTEN) return;
    if (shared && (this.#names(this.#otherLive, block) || this.#names(this.#otherPast, block))) return;
    this.#blocks.delete(block);
  }

  #names(select: Statement, block: BlockNo): boolean {
    const found = select.bindInt(1, block).step();
    if (found) select.reset();
    return found;
  }
}
