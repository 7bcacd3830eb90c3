/**
 * Brings a remote up to date: closes the epoch, ships what changed since the one that was pushed last, and then the segment
 * that says so. Each snapshot in between gets a segment of its own, so that replicas have it too.
 *
 * Blocks and records are there before the segment that names them. What was put is noted before and after: who was stopped
 * at whatever step goes on, and ships nothing again but what was on its way.
 */
import { hexMeta, numberMeta, readMeta } from "../core/format.ts";
import { isForPush, isKept, listRemotes, type Remote, type RemoteOrder } from "../core/remotes.ts";
import type { Database } from "../db/database.ts";
import type { Key } from "../db/key.ts";
import { ByteWriter } from "./bytes.ts";
import { readSegment, segmentNumbers } from "./chain.ts";
import { Diff } from "./diff.ts";
import { LogError } from "./errors.ts";
import { encodeSegment, HASH_BYTES, type LoggedSnapshot, type Segment } from "./format.ts";
import { numberName, type RemoteStore, segmentsOf } from "./remote.ts";
import { hashOf, Sealer } from "./seal.ts";
import { renewKeyFile } from "./setup.ts";
import { type Shipped, Shipper } from "./shipper.ts";

/** How a pusher comes to the volume, which this process or another one has open. */
export interface PushSite {
  /** A connection of its own, to read what is committed. */
  readonly db: Database;
  /** The volume's. */
  readonly key: Key;
  /** Has it done, durably, by whoever has the volume; gives the epoch that was closed. */
  order(order: RemoteOrder): Promise<number>;
}

export interface PushOptions {
  /** Called now and then. */
  readonly onProgress?: (shipped: Shipped) => void;
  /** Called between two records; it throws where the work is to stop. */
  readonly breathe?: () => Promise<void> | undefined;
  /** Ships everything that the volume keeps as if nothing had been pushed: what is there of it already is only named. */
  readonly startOver?: boolean;
}

export interface PushResult extends Shipped {
  /** The last epoch that is there now. */
  readonly epoch: number;
  /** The last segment. */
  readonly segment: number;
  readonly hash: Uint8Array;
  /** Segments that were put. */
  readonly segments: number;
}

/** Rows of meta that a replica takes over. */
export const META_KEYS = [
  "block_size",
  "compression",
  "created_ns",
  "features_incompatible",
  "next_block",
  "next_serial",
  "retention",
] as const;

export class Pusher {
  readonly #site: PushSite;
  readonly #store: RemoteStore;
  readonly #name: string;
  readonly #options: PushOptions;
  readonly #volume: Buffer;
  #startsOver: boolean;

  constructor(site: PushSite, store: RemoteStore, name: string, options: PushOptions = {}) {
    this.#site = site;
    this.#store = store;
    this.#name = name;
    this.#options = options;
    this.#startsOver = options.startOver === true;
    this.#volume = Buffer.from(hexMeta(site.db, "volume_id"), "hex");
  }

  get #remote(): Remote {
    const found = listRemotes(this.#site.db).find(({ name }) => name === this.#name);
    if (found === undefined)
      throw new LogError("unreachable", `${this.#name}: no such remote; see: sqlfuse remote list`);
    return found;
  }

  async #order(order: RemoteOrder): Promise<number> {
    return await this.#site.order(order);
  }

  /** @throws LogError, DamageError, FsError, SqliteError */
  async run(): Promise<PushResult> {
    await this.#checkRemote();
    await renewKeyFile(this.#site, this.#store, this.#remote);
    const epoch = await this.#order({ do: "close", name: this.#name });
    const remote = this.#remote;
    const sealer = new Sealer(remote.log, remote.secret);
    const shipper = new Shipper(
      this.#site.db,
      this.#store,
      sealer,
      remote,
      this.#site.order.bind(this.#site),
    );
    let segments = 0;
    try {
      for (let step = this.#nextStep(epoch); step !== undefined; step = this.#nextStep(epoch)) {
        // A snapshot that was deleted meanwhile is not shipped, nor is what was found by it.
        if (await this.#pushStep(shipper, sealer, step.base, step.epoch)) segments++;
      }
    } finally {
      await shipper.settle();
      shipper.close();
    }
    if (segments === 0) await this.#order({ do: "synced", name: this.#name });
    const { segment, hash } = this.#remote;
    return { ...shipper.shipped, epoch, segment, hash, segments };
  }

  /**
   * The log there ends where this volume left it. A segment that was being put when the push was stopped is there or not.
   * @throws LogError
   */
  async #checkRemote(): Promise<void> {
    const remote = this.#remote;
    const { url } = this.#store;
    const last = (await segmentNumbers(this.#store, remote.writer)).at(-1) ?? 0;
    const whose = { writer: remote.writer, volume: this.#volume };
    const sealer = new Sealer(remote.log, remote.secret);
    if (last < remote.segment)
      throw new LogError(
        "rolled-back",
        `${url}: the log there ends at segment ${last}, and ${remote.segment} were pushed: it was cut off, or is an older copy`,
      );
    const link = last === 0 ? undefined : await readSegment(this.#store, sealer, whose, last);
    if (last === remote.segment + 1 && link !== undefined && link.hash.equals(remote.pending)) {
      const hash = link.hash.toString("hex");
      await this.#order({ do: "advance", name: this.#name, epoch: link.segment.epoch, segment: last, hash });
      return;
    }
    const isOurs = link === undefined ? last === 0 : link.hash.equals(remote.hash);
    if (last === remote.segment && isOurs) return;
    throw new LogError(
      "other-writer",
      `${url}: segment ${last} there was not pushed by this volume: another copy of it writes there, or this is an older copy`,
    );
  }

  /** The next segment: to the next snapshot that is kept, or to the end. */
  #nextStep(end: number): { readonly base: number; readonly epoch: number } | undefined {
    const epoch = this.#startsOver ? 0 : this.#remote.epoch;
    if (epoch >= end) return undefined;
    // Where what was deleted since is not known any more, the log starts over.
    const base = epoch > 0 && isKept(this.#site.db, epoch) ? epoch : 0;
    const next = this.#snapshots(end).find((one) => one.epoch > base)?.epoch ?? end;
    return { base, epoch: next };
  }

  #snapshots(upTo: number): LoggedSnapshot[] {
    const { db } = this.#site;
    const rows = db.prepare(
      `SELECT epoch, name, created_ns, protected, automatic FROM snapshot
         WHERE name IS NOT NULL AND epoch <= ?1 ORDER BY epoch`,
    );
    rows.bindInt(1, upTo);
    const found: LoggedSnapshot[] = [];
    while (rows.step()) {
      const [protect, automatic] = [rows.int(3) !== 0, rows.int(4) !== 0];
      found.push({
        epoch: rows.int(0),
        name: rows.text(1),
        createdNs: rows.bigint(2),
        protected: protect,
        automatic,
      });
    }
    db.release(rows);
    return found.filter(({ name }) => !isForPush(name));
  }

  /** False where it turned out that one of the epochs is not kept any more: nothing was told then. */
  async #pushStep(shipper: Shipper, sealer: Sealer, base: number, epoch: number): Promise<boolean> {
    const { db } = this.#site;
    const remote = this.#remote;
    const meta = this.#meta();
    const diff = new Diff(db, remote.writer, base, epoch);
    let told: Awaited<ReturnType<Shipper["finish"]>>;
    try {
      for (const record of diff.records()) {
        await shipper.add(record);
        this.#options.onProgress?.(shipper.shipped);
        await this.#options.breathe?.();
      }
      told = await shipper.finish();
    } finally {
      diff.close();
    }
    if (!isKept(db, remote.pendingEpoch))
      throw new LogError(
        "incomplete",
        "the snapshot that was kept for this push was deleted meanwhile; push again",
      );
    if (!isKept(db, epoch) || (base > 0 && !isKept(db, base))) return false;
    await this.#putSegment(sealer, {
      number: remote.segment + 1,
      writer: remote.writer,
      volume: this.#volume,
      previous: remote.segment === 0 ? Buffer.alloc(HASH_BYTES) : remote.hash,
      base,
      epoch,
      createdNs: BigInt(Date.now()) * 1_000_000n,
      meta,
      snapshots: this.#snapshots(epoch),
      ...told,
    });
    return true;
  }

  #meta(): [string, string][] {
    const { db } = this.#site;
    numberMeta(db, "next_serial"); // or it is damaged
    return META_KEYS.flatMap((key) => {
      const value = readMeta(db, key);
      return value === undefined ? [] : [[key, value]];
    });
  }

  async #putSegment(sealer: Sealer, segment: Segment): Promise<void> {
    const content = new ByteWriter();
    encodeSegment(content, segment);
    const { bytes } = sealer.seal("segment", content.take());
    const hash = hashOf(bytes).toString("hex");
    const { number, epoch } = segment;
    const { pendingEpoch } = this.#remote;
    await this.#order({ do: "pending", name: this.#name, hash, epoch: Math.max(epoch, pendingEpoch) });
    const isFirst = await this.#store.put(segmentsOf(segment.writer) + numberName(number), bytes);
    if (!isFirst)
      throw new LogError(
        "other-writer",
        `${this.#store.url}: segment ${number} is there already: another copy of this volume writes there`,
      );
    await this.#order({ do: "advance", name: this.#name, epoch, segment: number, hash });
    this.#startsOver = false;
  }
}
