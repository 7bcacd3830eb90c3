/**
 * Brings a database to where a log is: a replica's, or the draft of one. The segments were proved before; each is applied in
 * one transaction, with the blocks that it names, or not at all. A log that starts over takes the place of everything, in
 * one transaction with all that follows.
 */
import { brotliDecompressSync } from "node:zlib";
import { incompatibleFeatures, readMeta, refuseTooNew } from "../core/format.ts";
import { isPartial } from "../core/partial.ts";
import { keptEpochs } from "../core/past.ts";
import { noteShipped, type Remote, type ShippedBlock } from "../core/remotes.ts";
import type { Database } from "../db/database.ts";
import { LogError } from "../remote/errors.ts";
import type { RemoteStore } from "../remote/remote.ts";
import { Applier, type WantedBlock } from "./applier.ts";
import { ByteReader } from "./bytes.ts";
import { type Link, toldOf } from "./chain.ts";
import { fetchBlocks, provenContent } from "./fetcher.ts";
import { decodeRecord, type LogRecord, META_KEYS, type ObjectRef, type Segment } from "./format.ts";
import { BATCH, Holdings } from "./holdings.ts";
import { objectName } from "./names.ts";
import { hashOf, type Sealer } from "./seal.ts";
import { Touched, type TouchedRows } from "./touched.ts";

export interface FollowOptions {
  /** Called now and then. */
  readonly onProgress?: (fetched: Fetched) => void;
  /** Called between two records; it throws where the work is to stop. */
  readonly breathe?: () => Promise<void> | undefined;
  /** Called when a segment, or a log that started over, is applied, for one who keeps some of it elsewhere. */
  readonly onApplied?: (touched: TouchedRows) => Promise<void>;
}

/** What was fetched: for people. */
export interface Fetched {
  readonly segments: number;
  readonly bytes: number;
  readonly blocks: number;
}

/** What a log that starts over takes the place of; blocks stay, since most of them are named again. */
const TABLES = [
  "inode",
  "inode_past",
  "dirent",
  "dirent_past",
  "xattr",
  "xattr_past",
  "extent",
  "extent_past",
  "snapshot",
  "remote_block",
  "remote_object",
];
/** Records of one object take no more, decompressed: an object has about a MiB, and one record may be longer. */
const MOST_RECORD_BYTES = 256 * 2 ** 20;

/** The records of an object. @throws LogError */
export async function readRecords(store: RemoteStore, sealer: Sealer, ref: ObjectRef): Promise<LogRecord[]> {
  const name = objectName(ref.name);
  // Not more than its segment says, whatever is there.
  const file = await store.get(name, 0, ref.length + 1);
  if (file === undefined) throw new LogError("incomplete", `${store.url}: ${name} is missing`);
  try {
    if (!hashOf(file).equals(ref.name)) throw new LogError("damaged", "it is not what its name says");
    const content = brotliDecompressSync(sealer.open("records", file), {
      maxOutputLength: MOST_RECORD_BYTES,
    });
    const reader = new ByteReader(content);
    const records: LogRecord[] = [];
    while (!reader.isAtEnd) records.push(decodeRecord(reader));
    return records;
  } catch (error) {
    throw toldOf(store, name, error);
  }
}

export class Follower {
  readonly #db: Database;
  readonly #store: RemoteStore;
  readonly #sealer: Sealer;
  readonly #remote: Remote;
  readonly #options: FollowOptions;
  /** Of a partial replica. */
  readonly #holdings: Holdings | undefined;
  #fetched = { segments: 0, bytes: 0, blocks: 0 };

  /** Nobody else writes to `db`. `remote`: its row of the log. */
  constructor(db: Database, store: RemoteStore, sealer: Sealer, remote: Remote, options: FollowOptions = {}) {
    this.#db = db;
    this.#store = store;
    this.#sealer = sealer;
    this.#remote = remote;
    this.#options = options;
    this.#holdings = isPartial(db) ? new Holdings(db, remote.id) : undefined;
  }

  get fetched(): Fetched {
    return this.#fetched;
  }

  /** Applies what was proved, durably. @throws LogError, OpenError too-new, SqliteError: then nothing of that segment is applied */
  async follow(chain: readonly Link[]): Promise<void> {
    const startsOver = chain[0]?.segment.base === 0;
    try {
      if (startsOver) await this.#transaction(true, (touched) => this.#startOver(chain, touched));
      else
        for (const link of chain)
          await this.#transaction(false, (touched) => this.#apply(link, false, touched));
    } finally {
      this.#holdings?.close();
    }
  }

  async #startOver(chain: readonly Link[], touched: Touched): Promise<void> {
    for (const table of TABLES) this.#db.exec(`DELETE FROM ${table}`);
    for (const link of chain) await this.#apply(link, true, touched);
    this.#db.exec(
      "DELETE FROM block WHERE id NOT IN (SELECT block FROM extent UNION ALL SELECT block FROM extent_past)",
    );
    this.#db.exec("DELETE FROM pin WHERE ino NOT IN (SELECT ino FROM inode)");
    this.#holdings?.dropUnnamed();
  }

  async #transaction(everything: boolean, run: (touched: Touched) => Promise<void>): Promise<void> {
    const touched = new Touched(everything);
    this.#db.exec("BEGIN IMMEDIATE");
    try {
      await run(touched);
      this.#db.exec("COMMIT");
    } catch (error) {
      this.#db.resetAll();
      this.#db.rollBack();
      throw error;
    }
    // Also where the disk is full by now, so that the -wal cannot be copied.
    await this.#options.onApplied?.(touched.rows());
    this.#db.checkpointPassive();
  }

  async #apply({ segment, hash }: Link, startsOver: boolean, touched: Touched): Promise<void> {
    const wanted: WantedBlock[] = [];
    const kept = keptEpochs(this.#db);
    const applier = new Applier(this.#db, segment.base, kept, (block) => wanted.push(block), touched);
    try {
      for (const ref of segment.records) {
        const records = await readRecords(this.#store, this.#sealer, ref);
        this.#fetched.bytes += ref.length;
        for (const record of records) {
          applier.apply(record);
          await this.#options.breathe?.();
        }
        await this.#takeBlocks(wanted.splice(0), startsOver);
      }
      const { changes, blocks } = applier.counts;
      if (changes !== segment.changes || blocks !== segment.blocks)
        throw new LogError("damaged", `segment ${segment.number} has not as many records as it says`);
      applier.finish();
      await this.#fetchKept(segment.base === 0 ? undefined : applier.nodes);
    } finally {
      applier.close();
    }
    this.#takeMeta(segment);
    this.#takeSnapshots(segment);
    this.#note(segment, hash);
    this.#fetched.segments++;
  }

  async #takeBlocks(wanted: readonly WantedBlock[], startsOver: boolean): Promise<void> {
    this.#noteObjects(wanted);
    if (this.#holdings !== undefined) {
      this.#holdings.name(wanted, (block, data) => this.#holds(block, data));
      return;
    }
    const missing = this.#missing(wanted, startsOver);
    const insert = this.#db.prepare("INSERT INTO block (id, codec, hash, data) VALUES (?1, ?2, NULL, ?3)");
    try {
      await this.#fetch(missing, (block, data) => {
        insert.bindInt(1, block.number).bindInt(2, block.codec).bindBlob(3, data).run();
      });
    } finally {
      this.#db.release(insert);
    }
  }

  async #fetch(
    missing: readonly WantedBlock[],
    take: (block: WantedBlock, data: Uint8Array) => void,
  ): Promise<void> {
    this.#fetched.bytes += await fetchBlocks(this.#store, this.#sealer, missing, async (block, data) => {
      take(block, data);
      this.#fetched.blocks++;
      this.#options.onProgress?.(this.#fetched);
      await this.#options.breathe?.();
    });
  }

  /**
   * A partial replica has what is to be kept there, of all files or of those that a segment names: what is left of a pin that
   * was stopped can be too much for one transaction.
   */
  async #fetchKept(inos: ReadonlySet<number> | undefined): Promise<void> {
    const holdings = this.#holdings;
    if (holdings === undefined) return;
    const kept = [...holdings.keepSmall(inos), ...holdings.keepPinned()];
    if (inos === undefined) while (await this.#fetchDue(holdings));
    else
      for (let i = 0; i < kept.length; i += BATCH)
        await this.#take(holdings, holdings.places(kept.slice(i, i + BATCH)));
  }

  async #take(holdings: Holdings, blocks: readonly WantedBlock[]): Promise<void> {
    await this.#fetch(blocks, (block, data) => holdings.take(block, data));
  }

  /** Whether there was anything to fetch. */
  async #fetchDue(holdings: Holdings): Promise<boolean> {
    const due = holdings.due();
    await this.#take(holdings, due);
    return due.length > 0;
  }

  /** Has what is pinned kept, and fetches it, a part in each transaction. @throws LogError, SqliteError */
  async fetchPinned(): Promise<void> {
    await this.#transaction(false, async () => void this.#holdings?.keepPinned());
    await this.fetchLeft();
  }

  /** Fetches what a partial replica is to keep and has not, a part in each transaction. @throws LogError, SqliteError */
  async fetchLeft(): Promise<void> {
    const holdings = this.#holdings;
    try {
      while (holdings?.isDue === true)
        await this.#transaction(false, async () => void (await this.#fetchDue(holdings)));
    } finally {
      holdings?.close();
    }
  }

  #holds(block: WantedBlock, data: Uint8Array): boolean {
    try {
      provenContent(this.#sealer, block, data);
      return true;
    } catch (error) {
      if (!(error instanceof LogError)) throw error;
      return false;
    }
  }

  /** Those that are not here yet. Where the log goes on, one that is must be the same. @throws LogError diverged */
  #missing(wanted: readonly WantedBlock[], startsOver: boolean): WantedBlock[] {
    const here = this.#db.prepare("SELECT codec, data FROM block WHERE id = ?1");
    const drop = this.#db.prepare("DELETE FROM block WHERE id = ?1");
    const missing = wanted.filter((block) => {
      if (!here.bindInt(1, block.number).step()) return true;
      const [codec, data] = [here.int(0), here.blob(1)];
      here.reset();
      try {
        provenContent(this.#sealer, { ...block, codec }, data);
        return false;
      } catch (cause) {
        const message = `block ${block.number} is another one here than at the source`;
        if (!startsOver) throw new LogError("diverged", message, { cause });
        drop.bindInt(1, block.number).run();
        return true;
      }
    });
    this.#db.release(here);
    this.#db.release(drop);
    return missing;
  }

  /** Which content is there, so that one who goes on as the writer ships nothing again. */
  #noteObjects(wanted: readonly WantedBlock[]): void {
    const objects = new Map<string, { first: WantedBlock; blocks: ShippedBlock[] }>();
    for (const block of wanted) {
      const key = Buffer.from(block.object).toString("hex");
      const known = objects.get(key) ?? { first: block, blocks: [] };
      objects.set(key, known);
      const { place, length, codec } = block;
      known.blocks.push({ id: Buffer.from(block.id).toString("hex"), place, length, codec });
    }
    for (const { first, blocks } of objects.values())
      noteShipped(this.#db, this.#remote.id, first.object, first.salt, blocks);
  }

  #takeMeta({ meta, epoch }: Segment): void {
    const put = this.#db.prepare("INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)");
    this.#db.exec("DELETE FROM meta WHERE key = 'retention'");
    const values = new Map(meta.filter(([key]) => META_KEYS.some((known) => known === key)));
    const features = JSON.parse(values.get("features_incompatible") ?? "[]") as string[];
    refuseTooNew(this.#db, features);
    // Those of a replica, and what was done to its own file, as a vacuum that compresses does.
    const own = incompatibleFeatures(this.#db) ?? [];
    values.set("features_incompatible", JSON.stringify([...new Set([...features, ...own])]));
    values.set("epoch", String(epoch + 1));
    values.set("changed", String(epoch));
    for (const [key, value] of values) {
      put.bindText(1, key);
      if (/^-?\d+$/.test(value)) put.bindBigInt(2, BigInt(value)).run();
      else put.bindText(2, value).run();
    }
    this.#db.release(put);
    if (readMeta(this.#db, "next_serial") === undefined)
      throw new LogError("damaged", "a segment does not say which numbers are free");
  }

  /** The replica keeps what its source keeps; what it lets go of is pruned by the next pull. */
  #takeSnapshots({ snapshots, epoch }: Segment): void {
    const kept = new Map(snapshots.map((one) => [one.epoch, one]));
    for (const here of keptEpochs(this.#db))
      if (!kept.has(here)) this.#db.exec(`UPDATE snapshot SET name = NULL WHERE epoch = ${here}`);
    const put = this.#db.prepare(
      `INSERT INTO snapshot (epoch, name, created_ns, protected, automatic) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT DO UPDATE SET protected = ?4, automatic = ?5`,
    );
    for (const one of snapshots) {
      // What was not kept here when it was the present cannot be made up for.
      if (one.epoch !== epoch && !keptEpochs(this.#db).some((here) => here === one.epoch)) continue;
      put.bindInt(1, one.epoch).bindText(2, one.name).bindBigInt(3, one.createdNs);
      put
        .bindInt(4, one.protected ? 1 : 0)
        .bindInt(5, one.automatic ? 1 : 0)
        .run();
    }
    this.#db.release(put);
  }

  #note({ epoch, number }: Segment, hash: Buffer): void {
    const note = this.#db.prepare(
      `UPDATE remote SET epoch = ?2, segment = ?3, hash = ?4, synced_ns = ?5, log = ?6, secret = ?7 WHERE id = ?1`,
    );
    note.bindBlob(6, this.#sealer.log).bindBlob(7, this.#sealer.secret);
    note.bindInt(1, this.#remote.id).bindInt(2, epoch).bindInt(3, number).bindBlob(4, hash);
    note.bindBigInt(5, BigInt(Date.now()) * 1_000_000n).run();
    this.#db.release(note);
  }
}
