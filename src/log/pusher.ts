/**
 * Brings a remote up to date: closes the epoch, ships what changed since the one that was pushed last, and then the segment
 * that says so. Each snapshot in between gets a segment of its own, so that replicas have it too.
 *
 * Blocks and records are there before the segment that names them. What was put is noted before and after: who was stopped
 * at whatever step goes on, and ships nothing again but what was on its way.
 */
import { numberMeta, readMeta } from "../core/format.ts";
import { isForPush, isKept, listRemotes, type Remote, type RemoteOrder } from "../core/remotes.ts";
import type { Database } from "../db/database.ts";
import type { Key } from "../db/key.ts";
import { LogError } from "../remote/errors.ts";
import type { RemoteStore } from "../remote/remote.ts";
import { ByteWriter } from "./bytes.ts";
import { Diff } from "./diff.ts";
import { encodeSegment, HASH_BYTES, type LoggedSnapshot, META_KEYS, type Segment } from "./format.ts";
import { hasSeenMore, type LogHead } from "./head.ts";
import { numberName, segmentsOf } from "./names.ts";
import { hashOf, Sealer } from "./seal.ts";
import { checkRemote, renewKeyFile, volumeOf } from "./setup.ts";
import { type Shipped, Shipper } from "./shipper.ts";
import { type Swept, sweep } from "./sweep.ts";

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
  /** What was seen of the log elsewhere: a volume that has pushed less is an older copy. */
  readonly head?: LogHead;
  /** Ships everything that the volume keeps as if nothing had been pushed: what is there of it already is only named. */
  readonly startOver?: boolean;
}

export interface PushResult extends Shipped {
  /** volume_id, and the name of the log. */
  readonly volume: Uint8Array;
  readonly log: Uint8Array;
  /** The last epoch that is there now. */
  readonly epoch: number;
  /** The last segment. */
  readonly segment: number;
  readonly hash: Uint8Array;
  /** When it was made, in nanoseconds since 1970. */
  readonly createdNs: bigint;
  /** Segments that were put. */
  readonly segments: number;
  /** What was removed of an older log, after a `remote rotate`. */
  readonly swept: Swept | undefined;
}

export class Pusher {
  readonly #site: PushSite;
  readonly #store: RemoteStore;
  readonly #name: string;
  readonly #options: PushOptions;
  readonly #volume: Buffer;
  #startsOver: boolean;
  #createdNs = 0n;

  constructor(site: PushSite, store: RemoteStore, name: string, options: PushOptions = {}) {
    this.#site = site;
    this.#store = store;
    this.#name = name;
    this.#options = options;
    this.#startsOver = options.startOver === true;
    this.#volume = volumeOf(site);
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
    this.#createdNs = (await checkRemote(this.#site, this.#store, this.#remote))?.segment.createdNs ?? 0n;
    this.#refuseOlder();
    const keyFiles = await renewKeyFile(this.#site, this.#store, this.#remote);
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
    // Those that are older are of a log that this one takes the place of.
    const swept = keyFiles > 1 ? await sweep(this.#site, this.#store, this.#name, this.#options) : undefined;
    const { segment, hash, log } = this.#remote;
    const volume = this.#volume;
    return {
      volume,
      log,
      ...shipper.shipped,
      epoch,
      segment,
      hash,
      createdNs: this.#createdNs,
      segments,
      swept,
    };
  }

  /** @throws LogError rolled-back, diverged, foreign */
  #refuseOlder(): void {
    const { head } = this.#options;
    const { url } = this.#store;
    const remote = this.#remote;
    if (head === undefined || !hasSeenMore(head, remote, this.#volume, url)) return;
    throw new LogError(
      "rolled-back",
      `${url}: this volume has pushed up to segment ${remote.segment}, and its head file has seen ${head.segment}: it is an older copy`,
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
    } catch (error) {
      // What a snapshot needed is pruned as soon as it is deleted: then nothing is damaged.
      const isGone = isKept(db, remote.pendingEpoch) && !this.#isThere(base, epoch);
      if (!isGone || error instanceof LogError) throw error;
      shipper.startAgain();
      return false;
    } finally {
      diff.close();
    }
    if (!isKept(db, remote.pendingEpoch))
      throw new LogError(
        "incomplete",
        "the snapshot that was kept for this push was deleted meanwhile; push again",
      );
    if (!this.#isThere(base, epoch)) return false;
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

  /** Whether what changed between the two could be read all the time. */
  #isThere(base: number, epoch: number): boolean {
    const { db } = this.#site;
    return isKept(db, epoch) && (base === 0 || isKept(db, base));
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
    const name = segmentsOf(segment.writer) + numberName(number);
    // One that is there may be this one, put by a try that seemed to have failed.
    const isThere = (await this.#store.put(name, bytes)) || (await this.#store.get(name))?.equals(bytes);
    if (isThere !== true)
      throw new LogError(
        "other-writer",
        `${this.#store.url}: segment ${number} is there already: another copy of this volume writes there`,
      );
    await this.#order({ do: "advance", name: this.#name, epoch, segment: number, hash });
    this.#startsOver = false;
    this.#createdNs = segment.createdNs;
  }
}
