/**
 * Brings a database to where a log is: a replica's, or the draft of one. The segments were proved before; each is applied in
 * one transaction, with the blocks that it names, or not at all. A log that starts over takes the place of everything, in
 * one transaction with all that follows.
 */
import { brotliDecompressSync } from "node:zlib";
import { isReplica, readMeta, refuseTooNew } from "../core/format.ts";
import { keptEpochs } from "../core/past.ts";
import { noteShipped, type Remote, type ShippedBlock } from "../core/remotes.ts";
import type { Database } from "../db/database.ts";
import { Applier, type WantedBlock } from "./applier.ts";
import { ByteReader } from "./bytes.ts";
import { type Link, toldOf } from "./chain.ts";
import { LogError } from "./errors.ts";
import { checkContent, fetchBlocks } from "./fetcher.ts";
import { decodeRecord, type LogRecord, type ObjectRef, type Segment } from "./format.ts";
import { META_KEYS } from "./pusher.ts";
import { objectName, type RemoteStore } from "./remote.ts";
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

/** What a log that starts over takes the place of. */
const TABLES = [
  "inode",
  "inode_past",
  "dirent",
  "dirent_past",
  "xattr",
  "xattr_past",
  "extent",
  "extent_past",
  "block",
  "snapshot",
  "remote_block",
  "remote_object",
];
/** Records of one object take no more, decompressed: an object has about a MiB, and one record may be longer. */
const MOST_RECORD_BYTES = 256 * 2 ** 20;

/** The records of an object. @throws LogError */
export async function readRecords(store: RemoteStore, sealer: Sealer, ref: ObjectRef): Promise<LogRecord[]> {
  const name = objectName(ref.name);
  const file = await store.get(name);
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
  #fetched = { segments: 0, bytes: 0, blocks: 0 };

  /** Nobody else writes to `db`. `remote`: its row of the log. */
  constructor(db: Database, store: RemoteStore, sealer: Sealer, remote: Remote, options: FollowOptions = {}) {
    this.#db = db;
    this.#store = store;
    this.#sealer = sealer;
    this.#remote = remote;
    this.#options = options;
  }

  get fetched(): Fetched {
    return this.#fetched;
  }

  /** Applies what was proved, durably. @throws LogError, OpenError too-new, SqliteError: then nothing of that segment is applied */
  async follow(chain: readonly Link[]): Promise<void> {
    const [first] = chain;
    if (first?.segment.base === 0) {
      await this.#transaction(true, async (touched) => {
        for (const table of TABLES) this.#db.exec(`DELETE FROM ${table}`);
        for (const link of chain) await this.#apply(link, touched);
      });
      return;
    }
    for (const link of chain) await this.#transaction(false, (touched) => this.#apply(link, touched));
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
    this.#db.checkpointPassive();
    await this.#options.onApplied?.(touched.rows());
  }

  async #apply({ segment, hash }: Link, touched: Touched): Promise<void> {
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
        await this.#takeBlocks(wanted.splice(0));
      }
      const { changes, blocks } = applier.counts;
      if (changes !== segment.changes || blocks !== segment.blocks)
        throw new LogError("damaged", `segment ${segment.number} has not as many records as it says`);
      applier.finish();
    } finally {
      applier.close();
    }
    this.#takeMeta(segment);
    this.#takeSnapshots(segment);
    this.#note(segment, hash);
    this.#fetched.segments++;
  }

  async #takeBlocks(wanted: readonly WantedBlock[]): Promise<void> {
    const missing = this.#missing(wanted);
    const insert = this.#db.prepare("INSERT INTO block (id, codec, hash, data) VALUES (?1, ?2, NULL, ?3)");
    try {
      this.#fetched.bytes += await fetchBlocks(this.#store, this.#sealer, missing, async (block, data) => {
        insert.bindInt(1, block.number).bindInt(2, block.codec).bindBlob(3, data).run();
        this.#fetched.blocks++;
        this.#options.onProgress?.(this.#fetched);
        await this.#options.breathe?.();
      });
    } finally {
      this.#db.release(insert);
    }
    this.#noteObjects(wanted);
  }

  /** Those that are not here yet. One that is must be the same. @throws LogError diverged */
  #missing(wanted: readonly WantedBlock[]): WantedBlock[] {
    const here = this.#db.prepare("SELECT codec, data FROM block WHERE id = ?1");
    const missing = wanted.filter((block) => {
      if (!here.bindInt(1, block.number).step()) return true;
      const [codec, data] = [here.int(0), here.blob(1)];
      here.reset();
      try {
        checkContent(this.#sealer, { ...block, codec }, data);
      } catch (cause) {
        const message = `block ${block.number} is another one here than at the source`;
        throw new LogError("diverged", message, { cause });
      }
      return false;
    });
    this.#db.release(here);
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
    const stays = isReplica(this.#db);
    const put = this.#db.prepare("INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)");
    this.#db.exec("DELETE FROM meta WHERE key = 'retention'");
    const values = new Map(meta.filter(([key]) => META_KEYS.some((known) => known === key)));
    const features = JSON.parse(values.get("features_incompatible") ?? "[]") as string[];
    refuseTooNew(this.#db, features);
    values.set("features_incompatible", JSON.stringify(stays ? [...features, "replica"] : features));
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
      "UPDATE remote SET epoch = ?2, segment = ?3, hash = ?4, synced_ns = ?5 WHERE id = ?1",
    );
    note.bindInt(1, this.#remote.id).bindInt(2, epoch).bindInt(3, number).bindBlob(4, hash);
    note.bindBigInt(5, BigInt(Date.now()) * 1_000_000n).run();
    this.#db.release(note);
  }
}
