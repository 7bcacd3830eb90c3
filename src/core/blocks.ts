/**
 * Stored blocks: the bytes of files, each a row of its own.
 *
 * SQLCipher answers a page with a wrong HMAC with zeros and from then on fails every call on
 * that connection, the COMMIT of the open group too; where the zeros stood at the end of a blob
 * the row still looks whole. So what was committed is read on the reader, which can be thrown
 * away, and no bytes are given out before the connection was asked whether it is poisoned. And a block
 * is read there before the writer may touch its pages: a damaged one is left alone.
 *
 * The block that was written last is held back until another one is, or the group ends: a file that comes in small
 * pieces is compressed and written once. The content of a few blocks is kept: of those that a commit wrote last, since
 * a file that is synced after each piece goes on where it was, and of compressed ones that are read in pieces.
 */
import { DamageError, FsError } from "../base/errno.ts";
import type { Database } from "../db/database.ts";
import { SqliteError } from "../db/errors.ts";
import type { Statement } from "../db/statement.ts";
import { type Compression, contentBytes, encode, RAW } from "./codec.ts";
import { requireFeature } from "./format.ts";
import { AwayError } from "./partial.ts";
import type { Store } from "./store.ts";
import type { BlockNo, Ino } from "./types.ts";
import { copyPart, Unpacker } from "./unpacker.ts";

/** A block that the open group wrote, and that its row does not have like this yet. */
interface Held {
  readonly block: BlockNo;
  /** Whether there is a row at all. */
  readonly stored: boolean;
  /** Its content is the first `length` bytes. */
  readonly bytes: Uint8Array;
  readonly length: number;
  readonly how: Compression;
}

/** Blocks of which the content is kept. */
const MOST_KEPT = 16;
/** Longer content is not kept. */
const LONGEST_KEPT = 1 << 17;

const VOLUME = 0 as Ino;
const DATA = "SELECT codec, data FROM block WHERE id = ?1";
const LAST = "SELECT id FROM block ORDER BY id DESC LIMIT 1";

export class Blocks {
  readonly #store: Store;
  readonly #data: Statement;
  readonly #insert: Statement;
  readonly #update: Statement;
  readonly #delete: Statement;
  #readerData: Statement | undefined;
  /** Blocks that the open group wrote: only the writer sees them, and its cache holds what it wrote. */
  readonly #fresh = new Set<BlockNo>();
  #held: Held | undefined;
  #heldBytes = new Uint8Array(0);
  /** Content of committed blocks; what was used last comes last. */
  readonly #kept = new Map<BlockNo, Uint8Array>();
  readonly #unpacker = new Unpacker();
  #readerLast: Statement | undefined;
  /** Whether the page was seen whole on which the next block is stored: since then it is the writer's. */
  #endSeen = false;
  /** Whether the volume says that it has compressed blocks. */
  #declared = false;

  constructor(store: Store) {
    this.#store = store;
    const db = store.writer;
    this.#data = db.prepare(DATA);
    this.#insert = db.prepare("INSERT INTO block (id, codec, hash, data) VALUES (?1, ?3, NULL, ?2)");
    this.#update = db.prepare("UPDATE block SET codec = ?3, hash = NULL, data = ?2 WHERE id = ?1");
    this.#delete = db.prepare("DELETE FROM block WHERE id = ?1");
    store.beforeCommit(() => {
      const held = this.#held;
      this.#release();
      if (held !== undefined) this.#keep(held.block, held.bytes.subarray(0, held.length));
    });
    store.onGroupEnd(() => {
      this.#fresh.clear();
      this.#held = undefined;
    });
    store.onForget(() => {
      this.#kept.clear();
      this.#endSeen = false;
    });
  }

  /**
   * Refuses where no new block can be stored, as the page of the last one is damaged: the writer that met it would lose the
   * open group. Ask before the first write of a change.
   * @throws DamageError
   */
  expectEnd(): void {
    if (this.#endSeen || this.#store.refusesChanges) return;
    const { reader } = this.#store;
    try {
      this.#readerLast ??= reader.prepare(LAST);
      const found = this.#readerLast.step();
      if (found) this.#readerLast.reset();
      if (reader.isPoisoned) throw new DamageError("a page has a wrong HMAC");
    } catch (error) {
      throw this.#readerFailed(error, reader, "the page of the last block");
    }
    this.#endSeen = true;
  }

  /**
   * Copies the content from byte `from` on to the start of `into`, as much as there is and as fits, and
   * tells how much: what follows in the block is zeros. `blockSize`: the most that there can be.
   * @throws DamageError where they are missing, damaged or not understood; AwayError
   */
  load(ino: Ino, block: BlockNo, blockSize: number, from: number, into: Uint8Array): number {
    const held = this.#held;
    if (held?.block === block) return copyPart(held.bytes.subarray(0, held.length), from, into);
    const kept = this.#kept.get(block);
    if (kept !== undefined) {
      this.#kept.delete(block);
      this.#kept.set(block, kept);
      return copyPart(kept, from, into);
    }
    const visitor = this.#store.partial?.visitor(block);
    if (visitor !== undefined) return copyPart(visitor, from, into);
    const copied = this.#reading(ino, block, `inode ${ino}, block ${block}`, (row) =>
      this.#unpacker.read(row, blockSize, from, into),
    );
    this.#store.partial?.use(block);
    // Only now is it known that no page of it was damaged.
    const content = this.#unpacker.decoded;
    if (content !== undefined) this.#keep(block, content);
    return copied;
  }

  /** Whether other connections see a block as it is. */
  isCommitted(block: BlockNo): boolean {
    return !this.#fresh.has(block);
  }

  /** Whether the writer may touch the pages of a block: they can be read. Damage is logged. */
  isIntact(block: BlockNo): boolean {
    if (this.#fresh.has(block)) return true;
    try {
      this.#reading(VOLUME, block, `block ${block}`, (row) => {
        contentBytes(row.int(0), row.blobLength(1));
        row.loadBlob(1);
      });
      return true;
    } catch (error) {
      if (!(error instanceof DamageError) && !(error instanceof FsError)) throw error;
      this.#store.log(`${error.message}: left alone; fsck can drop it`);
      return false;
    }
  }

  /** Stores `data` as a new block. `isWhole`: it has all the bytes that a block of its file can have. */
  insert(data: Uint8Array, how: Compression, isWhole: boolean): BlockNo {
    const block = this.#store.counters.takeBlock();
    this.#hold(block, false, data, how, isWhole);
    return block;
  }

  /** Overwrites a block that is intact and that one extent alone names, of this epoch. */
  update(block: BlockNo, data: Uint8Array, how: Compression, isWhole: boolean): void {
    this.#hold(block, this.#held?.block !== block || this.#held.stored, data, how, isWhole);
  }

  /** Deletes a block that no extent names any more; a damaged one stays, for fsck. */
  delete(block: BlockNo): void {
    const held = this.#held?.block === block ? this.#held : undefined;
    if (held !== undefined) this.#held = undefined;
    this.#kept.delete(block);
    if (held?.stored === false) return;
    if (this.#store.partial?.forget(block) === false) return;
    if (this.isIntact(block)) this.#delete.bindInt(1, block).run();
  }

  /** `content` is copied. */
  #keep(block: BlockNo, content: Uint8Array): void {
    if (content.length > LONGEST_KEPT) return;
    const [oldest] = this.#kept.size < MOST_KEPT ? [] : this.#kept.keys();
    if (oldest !== undefined) this.#kept.delete(oldest);
    this.#kept.set(block, content.slice());
  }

  #hold(block: BlockNo, stored: boolean, data: Uint8Array, how: Compression, isWhole: boolean): void {
    if (this.#held?.block === block) this.#held = undefined;
    this.#release();
    this.#kept.delete(block);
    this.#store.stir();
    this.#fresh.add(block);
    // A whole one that is new is not likely to grow or change, so there is a copy to lose; but one that is overwritten in
    // pieces would be compressed for each.
    const isWorthIt = !isWhole || (stored && how !== "none");
    if (!isWorthIt) {
      this.#write(block, stored, data, how);
      return;
    }
    if (data.length > this.#heldBytes.length) this.#heldBytes = new Uint8Array(data.length);
    this.#heldBytes.set(data);
    this.#held = { block, stored, bytes: this.#heldBytes, length: data.length, how };
  }

  /** Writes what is held back. */
  #release(): void {
    const held = this.#held;
    if (held === undefined) return;
    this.#held = undefined;
    this.#write(held.block, held.stored, held.bytes.subarray(0, held.length), held.how);
  }

  #write(block: BlockNo, stored: boolean, content: Uint8Array, how: Compression): void {
    const { codec, data } = encode(content, how);
    if (codec !== RAW && !this.#declared) {
      requireFeature(this.#store.writer, "compression");
      this.#declared = true;
    }
    const row = stored ? this.#update : this.#insert;
    row.bindInt(1, block).bindBlob(2, data).bindInt(3, codec).run();
  }

  #reading<T>(ino: Ino, block: BlockNo, what: string, use: (row: Statement) => T): T {
    const onWriter = this.#store.readOnly || this.#fresh.has(block);
    const connection = onWriter ? this.#store.writer : this.#store.reader;
    if (!onWriter) this.#readerData ??= connection.prepare(DATA);
    const row = (onWriter ? undefined : this.#readerData) ?? this.#data;
    try {
      const result = this.#one(row, ino, block, what, use);
      if (!connection.isPoisoned) return result;
      throw new DamageError(`${what}: a page has a wrong HMAC`);
    } catch (error) {
      throw onWriter ? error : this.#readerFailed(error, connection, what);
    }
  }

  #one<T>(row: Statement, ino: Ino, block: BlockNo, what: string, use: (row: Statement) => T): T {
    if (!row.bindInt(1, block).step())
      throw this.#store.partial?.isAway(block)
        ? new AwayError(ino, block)
        : new DamageError(`${what}: missing`);
    try {
      return use(row);
    } catch (error) {
      throw error instanceof DamageError ? new DamageError(`${what}: ${error.message}`) : error;
    } finally {
      row.reset();
    }
  }

  /** What a failure on the reader means; it is opened anew where it cannot go on. */
  #readerFailed(error: unknown, reader: Database, what: string): unknown {
    if (!(error instanceof SqliteError) && !reader.isPoisoned) return error;
    const damage = reader.isPoisoned || (error instanceof SqliteError && error.isDamage);
    this.#store.reopenReader();
    const text = error instanceof Error ? error.message : String(error);
    if (!damage) return new FsError("EIO", text);
    return error instanceof DamageError ? error : new DamageError(`${what}: ${text}`, { cause: error });
  }
}
