/**
 * Refuses with ENOSPC before the disk is full, since SQLite cannot: SQLITE_FULL rolls
 * back the whole open group, acknowledged operations included.
 *
 * New bytes are written twice, to the -wal when the group commits and to the main file
 * when the -wal is copied. Pages on the free list save the second, the unused part of the
 * -wal the first. A reserve is kept that only operations which give space back may spend.
 */
import { statfsSync, statSync } from "node:fs";
import { dirname } from "node:path";
import type { Clock } from "../base/clock.ts";
import type { Database } from "../db/database.ts";
import type { Statement } from "../db/statement.ts";

/** Bytes kept for unlink, truncate, rename, fsync and the purge: at most this, on a small disk a 32nd of it. */
const RESERVE_BYTES = 16 * 2 ** 20;
/** With more free than this nobody misses a few megabytes. */
const AMPLE_BYTES = 2 ** 30;
/** The disk is asked again after this many new bytes, and after this long: others write to it too. */
const ASK_EVERY_BYTES = 64 * 2 ** 20;
const ANSWER_HOLDS_MS = 100;

interface Room {
  /** Bytes free on the disk for us, as statfs tells. */
  disk: number;
  /** Bytes that the main file will grow by when the -wal is copied. */
  growth: number;
  /** Bytes on the free list of the main file. */
  freePages: number;
  /** Bytes of the -wal file that can be written without growing it. */
  wal: number;
  reserve: number;
}

export class Space {
  readonly #db: Database;
  readonly #pageSize: number;
  readonly #directory: string;
  readonly #freelist: Statement;
  readonly #pageCount: Statement;
  /** Bytes that may still be written before the disk is asked again. */
  #budget = 0;
  /** Bytes that may be written beyond that by what gives space back. */
  #reserve = 0;
  /** Most bytes that the open group can have dirtied and not yet written: what exceeds the cache is spilled. */
  #pending = 0;
  readonly #cacheBytes: number;
  readonly #clock: Clock;
  #askedMs = Number.NEGATIVE_INFINITY;

  constructor(db: Database, pageSize: number, cacheBytes: number, clock: Clock) {
    this.#clock = clock;
    this.#db = db;
    this.#pageSize = pageSize;
    this.#cacheBytes = cacheBytes;
    this.#directory = dirname(db.path);
    this.#freelist = db.prepare("PRAGMA freelist_count");
    this.#pageCount = db.prepare("PRAGMA page_count");
  }

  /** Most bytes that an operation may dirty: its data with what encloses it, and a page for each of its rows. */
  cost(dataBytes: number): number {
    const ROW_PAGES = 6;
    return dataBytes + (dataBytes >> 3) + ROW_PAGES * this.#pageSize;
  }

  /** Takes `bytes`, with `frees` from the reserve too; false when the disk must be asked first. */
  take(bytes: number, frees: boolean): boolean {
    if (this.#clock.monotonicMs() - this.#askedMs > ANSWER_HOLDS_MS) return false;
    if (bytes > this.#budget + (frees ? this.#reserve : 0)) return false;
    const ordinary = Math.min(bytes, this.#budget);
    this.#budget -= ordinary;
    this.#reserve -= bytes - ordinary;
    this.#pending = Math.min(this.#cacheBytes, this.#pending + bytes);
    return true;
  }

  /** Asks the disk. */
  ask(): void {
    this.#askedMs = this.#clock.monotonicMs();
    const room = this.#room();
    this.#budget = this.#largest(room);
    this.#reserve = this.#largest({ ...room, reserve: 0 }) - this.#budget;
  }

  /** Whether the disk has so much that some bytes more do not matter. */
  get isAmple(): boolean {
    const { bavail, bsize } = statfsSync(this.#directory);
    return bavail * bsize > AMPLE_BYTES;
  }

  /** The group ended: nothing of it waits to be written. */
  groupEnded(): void {
    this.#pending = 0;
  }

  /** What statfs tells: the disk's own figures and the bytes that this volume may still take. */
  figures(): { blockSize: number; blocks: number; availableBytes: number } {
    const disk = statfsSync(this.#directory);
    const room = this.#room();
    const availableBytes = Math.max(0, room.disk - room.growth - room.reserve) + room.freePages;
    return { blockSize: disk.bsize, blocks: disk.blocks, availableBytes };
  }

  #room(): Room {
    const disk = statfsSync(this.#directory);
    const total = disk.blocks * disk.bsize;
    const main = statSync(this.#db.path).size;
    const walSize = statSync(`${this.#db.path}-wal`, { throwIfNoEntry: false })?.size ?? 0;
    const walUsed = this.#db.walCopied ? 0 : this.#db.walBytes;
    return {
      disk: disk.bavail * disk.bsize,
      growth: Math.max(0, this.#count(this.#pageCount) * this.#pageSize - main),
      freePages: this.#count(this.#freelist) * this.#pageSize,
      wal: Math.max(0, walSize - walUsed),
      reserve: Math.min(RESERVE_BYTES, total / 32),
    };
  }

  /** The largest number of new bytes that fit. */
  #largest(room: Room): number {
    const fits = (bytes: number) => {
      const wal = Math.max(0, bytes + this.#pending - room.wal);
      const main = room.growth + Math.max(0, bytes - room.freePages);
      return wal + main + room.reserve <= room.disk;
    };
    let low = 0;
    let high = ASK_EVERY_BYTES;
    if (fits(high)) return high;
    while (high - low > this.#pageSize) {
      const middle = (low + high) / 2;
      if (fits(middle)) low = middle;
      else high = middle;
    }
    return Math.floor(low);
  }

  #count(pragma: Statement): number {
    const count = pragma.step() ? pragma.int(0) : 0;
    pragma.reset();
    return count;
  }
}
