/**
 * Extents and the blocks that they name: one block of a file read, replaced, shared or
 * dropped, with its past.
 *
 * A block is overwritten in place only if its extent was born in this epoch and was never
 * shared; otherwise a new one is written and the old extent goes to the past or, where no
 * other extent names its block, takes the block with it.
 *
 * Nothing here saves the inode: `inode.extents` is changed and the caller saves.
 */
import { DamageError, FsError } from "../base/errno.ts";
import { SqliteError } from "../db/errors.ts";
import type { Statement } from "../db/statement.ts";
import type { Inode, Inodes } from "./inodes.ts";
import { blockOf, blocksFor } from "./spans.ts";
import type { Store } from "./store.ts";
import type { BlockNo, Epoch, Ino } from "./types.ts";

/** An extent row. */
export interface Extent {
  readonly block: BlockNo;
  readonly shared: boolean;
  readonly born: Epoch;
}

/** Allocated but never written: reads as zeros and has no row in block. */
export const UNWRITTEN = 0 as BlockNo;

/** Block data stored as it is. */
const CODEC_RAW = 0;

const DATA = "SELECT codec, data FROM block WHERE id = ?1";
const CONTENTS = `SELECT e.idx, e.block, b.codec, b.data FROM extent AS e LEFT JOIN block AS b ON b.id = e.block
  WHERE e.ino = ?1 AND e.idx >= ?2 AND e.idx < ?3 ORDER BY e.idx`;

/** Rows that one step of a purge or truncation takes. */
const BATCH = 64;

export class Blocks {
  readonly #store: Store;
  readonly #inodes: Inodes;
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
  readonly #share: Statement;
  readonly #data: Statement;
  readonly #contents: Statement;
  #readerData: Statement | undefined;
  #readerContents: Statement | undefined;
  readonly #insertBlock: Statement;
  readonly #updateBlock: Statement;
  readonly #deleteBlock: Statement;
  readonly #otherLive: Statement;
  readonly #otherPast: Statement;

  constructor(store: Store, inodes: Inodes) {
    this.#store = store;
    this.#inodes = inodes;
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
      "INSERT INTO extent_past SELECT *, ?3 FROM extent WHERE ino = ?1 AND idx >= ?2 AND born < ?3",
    );
    this.#deletePassed = db.prepare("DELETE FROM extent WHERE ino = ?1 AND idx >= ?2 AND born < ?3");
    this.#moveExtents = db.prepare("UPDATE extent SET ino = ?3 WHERE ino = ?1 AND idx >= ?2");
    this.#count = db.prepare("SELECT count(*) FROM extent WHERE ino = ?1 AND idx >= ?2");
    this.#last = db.prepare("SELECT ifnull(max(idx) + 1, 0) FROM extent WHERE ino = ?1");
    this.#share = db.prepare("UPDATE extent SET shared = 1 WHERE ino = ?1 AND idx = ?2");
    this.#data = db.prepare(DATA);
    this.#contents = db.prepare(CONTENTS);
    this.#insertBlock = db.prepare("INSERT INTO block (id, codec, hash, data) VALUES (?1, 0, NULL, ?2)");
    this.#updateBlock = db.prepare("UPDATE block SET codec = 0, hash = NULL, data = ?2 WHERE id = ?1");
    this.#deleteBlock = db.prepare("DELETE FROM block WHERE id = ?1");
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
   * Copies the stored bytes of a block to the start of `into` and tells how many they are:
   * the rest of the block is zeros.
   * @throws DamageError where they are missing, damaged or not understood
   */
  load(ino: Ino, idx: number, block: BlockNo, into: Uint8Array): number {
    if (block === UNWRITTEN) return 0;
    return this.#reading(ino, (onReader) => {
      if (onReader) this.#readerData ??= this.#store.reader.prepare(DATA);
      const row = (onReader && this.#readerData) || this.#data;
      if (!row.bindInt(1, block).step())
        throw new DamageError(`inode ${ino}: block ${idx} (${block}) is missing`);
      const length = row.blobLength(1);
      try {
        checkStored(ino, idx, row.int(0), length, into.length);
        row.blobInto(1, 0, length, into);
      } finally {
        row.reset();
      }
      return length;
    });
  }

  /**
   * Fills `into` with the bytes of the file from `offset` on; holes are zeros. The caller
   * sees to it that they lie before the end of the file.
   * @throws DamageError as `load`
   */
  read(inode: Inode, offset: number, into: Uint8Array): void {
    const { ino, blockSize } = inode;
    const end = offset + into.length;
    this.#reading(ino, (onReader) => {
      if (onReader) this.#readerContents ??= this.#store.reader.prepare(CONTENTS);
      const rows = (onReader && this.#readerContents) || this.#contents;
      rows.bindInt(1, ino).bindInt(2, blockOf(offset, blockSize)).bindInt(3, blocksFor(end, blockSize));
      /** Bytes of `into` that are done. */
      let done = 0;
      try {
        while (rows.step()) {
          if (rows.int(1) === UNWRITTEN) continue;
          const idx = rows.int(0);
          if (rows.isNull(2)) throw new DamageError(`inode ${ino}: block ${idx} (${rows.int(1)}) is missing`);
          const length = rows.blobLength(3);
          checkStored(ino, idx, rows.int(2), length, blockSize);
          const start = idx * blockSize;
          const from = Math.max(start, offset);
          const to = Math.min(start + length, end);
          if (to <= from) continue;
          if (from - offset > done) into.fill(0, done, from - offset);
          rows.blobInto(3, from - start, to - from, into.subarray(from - offset));
          done = to - offset;
        }
      } finally {
        rows.reset();
      }
      if (done < into.length) into.fill(0, done);
    });
  }

  /**
   * Runs a read of file data on the reader, unless the open group changed the file. Damage
   * that the reader met costs a new reader, not the open group.
   */
  #reading<T>(ino: Ino, read: (onReader: boolean) => T): T {
    if (this.#store.dataConnection(ino) === "writer") return read(false);
    try {
      return read(true);
    } catch (error) {
      if (!(error instanceof SqliteError)) throw error;
      this.#store.reopenReader();
      if (!error.isDamage) throw new FsError("EIO", error.message);
      throw new DamageError(`inode ${ino}: ${error.message}`, { cause: error });
    }
  }

  /** Makes `data` the content of block `idx`, whose extent is `old`. `data` stays the caller's. */
  put(inode: Inode, idx: number, old: Extent | undefined, data: Uint8Array): void {
    const epoch = this.#inodes.epochOf(inode);
    if (old !== undefined && old.born >= epoch && !old.shared && old.block !== UNWRITTEN) {
      this.#updateBlock.bindInt(1, old.block).bindBlob(2, data).run();
      return;
    }
    const block = this.#store.takeBlock();
    this.#insertBlock.bindInt(1, block).bindBlob(2, data).run();
    this.#set(inode, idx, old, block, false);
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
    const past = old.born < epoch;
    if (past) this.#extentToPast.bindInt(1, inode.ino).bindInt(2, idx).bindInt(3, epoch).run();
    this.#deleteExtent.bindInt(1, inode.ino).bindInt(2, idx).run();
    inode.extents--;
    if (!past) this.#release(old);
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
    this.#rangeToPast.bindInt(1, inode.ino).bindInt(2, from).bindInt(3, epoch).run();
    this.#deletePassed.bindInt(1, inode.ino).bindInt(2, from).bindInt(3, epoch).run();
    this.#moveExtents.bindInt(1, inode.ino).bindInt(2, from).bindInt(3, heir.ino).run();
    inode.extents -= count;
    heir.extents = this.#store.writer.changes;
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
    const past = old.born < epoch;
    if (past) this.#extentToPast.bindInt(1, inode.ino).bindInt(2, idx).bindInt(3, epoch).run();
    this.#updateExtent
      .bindInt(1, inode.ino)
      .bindInt(2, idx)
      .bindInt(3, block)
      .bindInt(4, shared ? 1 : 0)
      .bindInt(5, epoch)
      .run();
    if (!past) this.#release(old);
  }

  /** An extent that named a block is gone, not to the past: so is the block, unless another one names it. */
  #release(old: Extent): void {
    if (old.block === UNWRITTEN) return;
    if (old.shared && (this.#names(this.#otherLive, old.block) || this.#names(this.#otherPast, old.block)))
      return;
    this.#deleteBlock.bindInt(1, old.block).run();
  }

  #names(select: Statement, block: BlockNo): boolean {
    const found = select.bindInt(1, block).step();
    if (found) select.reset();
    return found;
  }
}

/** @throws DamageError where a block cannot be one that this volume's code wrote */
function checkStored(ino: Ino, idx: number, codec: number, length: number, most: number): void {
  if (codec !== CODEC_RAW || length > most) {
    throw new DamageError(`inode ${ino}: block ${idx} has codec ${codec} and ${length} bytes`);
  }
}
