/**
 * Fetches blocks of a partial replica when somebody reads them.
 *
 * What is proved is handed on at once, and recorded in the replica a little later, many blocks in one transaction: what was
 * not recorded when the process died is fetched again. Who waits comes before what is read ahead; a block that is on
 * its way is not asked for again.
 */
import type { BlockNo } from "../core/types.ts";
import type { Database } from "../db/database.ts";
import { SqliteError } from "../db/errors.ts";
import { LogError } from "../remote/errors.ts";
import type { RemoteStore } from "../remote/remote.ts";
import { type FetchedBlock, getRange, openRange, type Range, rangesOf } from "./fetcher.ts";
import { Holdings } from "./holdings.ts";
import type { Sealer } from "./seal.ts";

export interface Arrival {
  readonly block: BlockNo;
  /** Keyed hash of the content. */
  readonly id: Uint8Array;
  readonly content: Uint8Array;
}

/** Who reads. */
export interface Readers {
  arrived(blocks: readonly Arrival[]): void;
  /** These cannot be had now. */
  refused(blocks: readonly BlockNo[]): void;
  /** These can be read in the replica from now on, or no file has that content any more. */
  recorded(blocks: readonly BlockNo[]): void;
  log(line: string): void;
}

/** Has `run` done while nothing else writes to the replica. */
export type Exclusively = (run: () => Promise<void>) => Promise<void>;

/** Ranges on their way at once, and the most bytes of one. */
const FLIGHTS = 16;
const RANGE_BYTES = 2 ** 20;
/** What is recorded in one transaction, in bytes, or whatever came in so many milliseconds. */
const RECORD_BYTES = 8 * 2 ** 20;
const RECORD_MS = 300;
/** While more waits to be recorded, what arrives is not: it only visits. */
const MOST_BYTES = 24 * 2 ** 20;
/** The -wal is copied when it has so many bytes of content, or nothing is on its way. */
const COPY_BYTES = 24 * 2 ** 20;

export class OnDemand {
  readonly #db: Database;
  readonly #reader: Database;
  readonly #store: RemoteStore;
  readonly #sealer: Sealer;
  readonly #holdings: Holdings;
  /** As of the last commit: also while a pull is half done. */
  readonly #committed: Holdings;
  readonly #readers: Readers;
  readonly #exclusively: Exclusively;
  #wanted: Range[] = [];
  #next: Range[] = [];
  /** Blocks that are asked for and have not come. */
  readonly #asked = new Set<BlockNo>();
  readonly #flights = new Set<Promise<void>>();
  #unrecorded: FetchedBlock[] = [];
  #unrecordedBytes = 0;
  /** Bytes of content that were recorded since the -wal was copied. */
  #uncopied = 0;
  #used = new Set<BlockNo>();
  #timer: NodeJS.Timeout | undefined;
  #recording: Promise<void> | undefined;
  #lastLine = "";
  /** Why nothing could be recorded the last time; "": it could. */
  #lastFailure = "";
  #closed = false;

  /** `remote`: number of the log. `db`: the one connection that writes the replica; `reader`: another one, closed with this. */
  constructor(
    db: Database,
    reader: Database,
    store: RemoteStore,
    sealer: Sealer,
    remote: number,
    readers: Readers,
    exclusively: Exclusively,
  ) {
    this.#db = db;
    this.#store = store;
    this.#sealer = sealer;
    this.#reader = reader;
    this.#holdings = new Holdings(db, remote);
    this.#committed = new Holdings(reader, remote);
    this.#readers = readers;
    this.#exclusively = exclusively;
  }

  /** Asks for blocks that somebody waits for, and for some that he may want next. */
  fetch(wanted: readonly BlockNo[], next: readonly BlockNo[]): void {
    this.#hurry(new Set(wanted));
    this.#wanted.push(...this.#rangesOf(wanted, true));
    this.#next.push(...this.#rangesOf(next, false));
    this.#launch();
  }

  /** What was asked for ahead, and is waited for now, goes first. */
  #hurry(wanted: ReadonlySet<BlockNo>): void {
    const isWanted = ({ blocks }: Range): boolean =>
      blocks.some(({ number }) => wanted.has(number as BlockNo));
    this.#wanted.push(...this.#next.filter(isWanted));
    this.#next = this.#next.filter((range) => !isWanted(range));
  }

  #rangesOf(blocks: readonly BlockNo[], isWaitedFor: boolean): Range[] {
    const asked = blocks.filter((block) => !this.#asked.has(block));
    const places = this.#committed.places(asked);
    for (const { number } of places) this.#asked.add(number as BlockNo);
    if (isWaitedFor) this.#settle(asked.filter((block) => !this.#asked.has(block)));
    return rangesOf(places, RANGE_BYTES);
  }

  /** What is waited for and has no place has come meanwhile, or no file has it any more, or it is lost. */
  #settle(others: readonly BlockNo[]): void {
    if (others.length === 0) return;
    const lost = others.filter((block) => this.#committed.isAway(block));
    if (lost.length > 0) this.#refuse(lost, `it is not known where block ${lost[0]} is`);
    this.#readers.recorded(others.filter((block) => !lost.includes(block)));
  }

  #refuse(blocks: readonly BlockNo[], line: string): void {
    if (line !== this.#lastLine) this.#readers.log(line);
    this.#lastLine = line;
    this.#readers.refused(blocks);
  }

  #launch(): void {
    while (this.#flights.size < FLIGHTS) {
      const range = this.#wanted.shift() ?? this.#next.shift();
      if (range === undefined) return;
      const flight: Promise<void> = this.#fly(range).finally(() => {
        this.#flights.delete(flight);
        this.#launch();
      });
      this.#flights.add(flight);
    }
  }

  async #fly(range: Range): Promise<void> {
    try {
      const part = await getRange(this.#store, range);
      // Whoever closed this knows that they have not come.
      if (this.#closed) return;
      const fetched = [...openRange(this.#store, this.#sealer, range, part)];
      this.#readers.arrived(
        fetched.map(({ block: { number, id }, content }) => ({ block: number as BlockNo, id, content })),
      );
      this.#lastLine = "";
      this.#record(fetched);
    } catch (error) {
      if (this.#closed) return;
      // Who waits for them gets EIO; who asks again has them asked for again.
      this.#refuse(
        range.blocks.map(({ number }) => number as BlockNo),
        error instanceof LogError ? error.message : String(error),
      );
    } finally {
      for (const { number } of range.blocks) this.#asked.delete(number as BlockNo);
    }
  }

  /** Blocks that were read just now. */
  used(blocks: readonly BlockNo[]): void {
    for (const block of blocks) this.#used.add(block);
    if (blocks.length > 0 && !this.#closed) this.#recordSoon();
  }

  #record(fetched: readonly FetchedBlock[]): void {
    for (const one of fetched) {
      if (this.#unrecordedBytes > MOST_BYTES) return;
      this.#unrecorded.push(one);
      this.#unrecordedBytes += one.data.length;
    }
    if (this.#unrecordedBytes >= RECORD_BYTES) this.#recordNow();
    else this.#recordSoon();
  }

  #recordSoon(): void {
    this.#timer ??= setTimeout(() => this.#recordNow(), RECORD_MS);
  }

  #recordNow(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#recording ??= this.#exclusively(() => this.#write()).finally(() => {
      this.#recording = undefined;
      if (this.#unrecorded.length > 0 && !this.#closed) this.#recordSoon();
    });
  }

  /** What cannot be recorded, as on a full disk, visits as long as there is room, and is fetched again later. */
  async #write(): Promise<void> {
    const fetched = this.#unrecorded;
    const used = this.#used;
    this.#uncopied += this.#unrecordedBytes;
    [this.#unrecorded, this.#unrecordedBytes, this.#used] = [[], 0, new Set()];
    try {
      this.#readers.recorded(this.#inOneTransaction(fetched, used));
      if (this.#uncopied >= COPY_BYTES || this.#flights.size === 0) this.#copyWal();
      this.#lastFailure = "";
    } catch (error) {
      this.#holdings.recount();
      if (!(error instanceof SqliteError)) throw error;
      if (error.message !== this.#lastFailure)
        this.#readers.log(`what was fetched cannot be kept: ${error.message}`);
      this.#lastFailure = error.message;
    }
  }

  /** Gives the blocks of `fetched` that need not visit any more. @throws SqliteError: then nothing is recorded */
  #inOneTransaction(fetched: readonly FetchedBlock[], used: ReadonlySet<BlockNo>): BlockNo[] {
    try {
      // What a power loss takes is fetched again; a segment that is applied later syncs this as well.
      this.#db.exec("PRAGMA synchronous = NORMAL; BEGIN IMMEDIATE");
      for (const { block, data } of fetched)
        if (this.#holdings.lacks(block)) this.#holdings.take(block, data);
      this.#holdings.used(used);
      this.#holdings.evict();
      const numbers = fetched.map(({ block }) => block.number as BlockNo);
      // Where the limit is small some have gone already, and somebody may wait for what comes with them.
      const recorded = numbers.filter((number) => !this.#holdings.isAway(number));
      this.#db.exec("COMMIT; PRAGMA synchronous = FULL");
      return recorded;
    } catch (error) {
      this.#db.resetAll();
      this.#db.rollBack();
      if (this.#db.isOpen && !this.#db.isPoisoned) this.#db.exec("PRAGMA synchronous = FULL");
      throw error;
    }
  }

  #copyWal(): void {
    this.#db.checkpointPassive();
    this.#uncopied = 0;
  }

  /** Somebody else wrote to the replica: figures are counted anew. */
  changed(): void {
    this.#holdings.recount();
  }

  /** Until nothing is on its way. */
  async idle(): Promise<void> {
    while (this.#flights.size > 0) await Promise.allSettled(this.#flights);
  }

  /** Records what came, and gives what was asked for and has not come: nobody is told of that. */
  async close(): Promise<BlockNo[]> {
    this.#closed = true;
    [this.#wanted, this.#next] = [[], []];
    const left = [...this.#asked];
    await this.#recording;
    if (this.#unrecorded.length > 0 || this.#used.size > 0) this.#recordNow();
    await this.#recording;
    clearTimeout(this.#timer);
    this.#holdings.close();
    this.#committed.close();
    this.#reader.close();
    return left;
  }
}
