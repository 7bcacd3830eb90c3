/**
 * Keeps the replica that is mounted at what was pushed to its remote, on a thread of its own: the only one that writes to
 * the replica. Whoever serves the mount reads it meanwhile (src/core/following.ts), and is told of each segment.
 */
import type { Log } from "../base/log.ts";
import type { BlockNo } from "../core/types.ts";
import type { Key } from "../db/key.ts";
import { type Lag, lagsOf } from "../log/lag.ts";
import type { OnDemand } from "../log/ondemand.ts";
import { Replica } from "../log/replica.ts";
import { readBeside } from "../log/site.ts";
import type { TouchedRows } from "../log/touched.ts";
import { type AttendedStore, attend } from "../remote/attended.ts";
import { LogError } from "../remote/errors.ts";
import { breathing } from "./breathing.ts";
import { Health } from "./health.ts";
import type { Came, PinOutcome, PullOutcome, RemoteState, Wants } from "./logmessages.ts";

/** Of its page caches, each. */
const CACHE_BYTES = 16 * 2 ** 20;

export interface FollowingOptions {
  readonly path: string;
  readonly key: Key;
  /** 0: only when it is told to. */
  readonly intervalMs: number;
  /** From the remote at most, also of what somebody reads. */
  readonly bytesPerSecond: number | undefined;
  readonly log: Log;
  /** Resolves when nobody keeps anything of the state before. */
  readonly changed: (touched: TouchedRows) => Promise<void>;
  /** Told what became of blocks that were wanted. */
  readonly came: (came: Came) => void;
}

export class Following {
  readonly #options: FollowingOptions;
  readonly #health: Health;
  readonly #end = new AbortController();
  #replica: Replica | undefined;
  #store: AttendedStore | undefined;
  /** Of a partial replica, since somebody read what was away. */
  #demand: Promise<OnDemand> | undefined;
  /** Name of the log that it fetches from. */
  #demandLog = "";
  /** The pull under way; it may never end. */
  #pulling: Promise<PullOutcome> | undefined;
  #isSilent = false;
  #lags: readonly Lag[] = [];
  #lookedAt: Date | undefined;
  #timer: NodeJS.Timeout | undefined;

  constructor(options: FollowingOptions) {
    this.#options = options;
    this.#health = new Health("origin", Math.max(1000, options.intervalMs), options.log);
    // What came while it was not mounted is there at once.
    this.#plan(0);
  }

  #plan(delayMs: number): void {
    if (this.#end.signal.aborted || this.#options.intervalMs === 0) return;
    this.#timer = setTimeout(() => void this.#look(), delayMs);
  }

  async #look(): Promise<void> {
    if (this.#pulling === undefined && this.#health.mayTry(performance.now())) await this.#pullOnce();
    this.#plan(this.#options.intervalMs);
  }

  /** Pulls what was pushed until now. Never rejects. */
  async pull(): Promise<PullOutcome> {
    // The one under way may have looked already.
    if (this.#pulling !== undefined && !this.#isSilent) await this.#answered(this.#pulling);
    return await this.#pullOnce();
  }

  /** Resolves with what became of it, or that the remote does not answer: then it goes on by itself, should it ever. */
  async #pullOnce(): Promise<PullOutcome> {
    this.#pulling ??= this.#run().finally(() => {
      this.#pulling = undefined;
      this.#isSilent = false;
    });
    return await this.#answered(this.#pulling);
  }

  async #answered(pulling: Promise<PullOutcome>): Promise<PullOutcome> {
    const outlasts = this.#store?.outlasts(pulling) ?? pulling.then(() => true);
    if (!this.#isSilent && (await outlasts)) return await pulling;
    const message = `${this.#store?.url}: does not answer`;
    if (!this.#isSilent) this.#health.failed(message, performance.now());
    this.#isSilent = true;
    return { ok: false, reason: "unreachable", message };
  }

  async #run(): Promise<PullOutcome> {
    try {
      const { hash, volume, log, createdNs, ...rest } = await this.#pull();
      this.#lookedAt = new Date();
      this.#health.well();
      const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex");
      const texts = { hash: hex(hash), volume: hex(volume), log: hex(log), createdNs: String(createdNs) };
      return { ok: true, ...rest, ...texts };
    } catch (error) {
      const message = textOf(error);
      if (!this.#end.signal.aborted) this.#health.failed(message, performance.now());
      return { ok: false, message, ...(error instanceof LogError ? { reason: error.reason } : {}) };
    }
  }

  async #pull(): ReturnType<Replica["pull"]> {
    const replica = this.#opened();
    const store = await this.#openedStore(replica);
    const onApplied = this.#options.changed;
    try {
      return await replica.pull(store, { breathe: breathing(this.#end.signal), onApplied });
    } finally {
      // Also where it failed behind the first segment.
      await this.#renewDemand(replica);
    }
  }

  /** @throws OpenError, LogError */
  #opened(): Replica {
    const { path, key, log } = this.#options;
    this.#end.signal.throwIfAborted();
    this.#replica ??= new Replica(path, key, (line) => log("warn", line), {
      isHeld: true,
      cacheBytes: CACHE_BYTES,
    });
    return this.#replica;
  }

  async #openedStore({ url }: Replica): Promise<AttendedStore> {
    const { bytesPerSecond } = this.#options;
    this.#store ??= await attend(url, { signal: this.#end.signal, bytesPerSecond });
    return this.#store;
  }

  /** Has blocks of a partial replica fetched for who reads them. Never rejects. */
  async fetch(wants: Wants): Promise<void> {
    this.#demand ??= this.#begin();
    const asked = this.#demand;
    try {
      const demand = await asked;
      if (this.#demand === asked) {
        demand.used(wants.used);
        demand.fetch(wants.wanted, wants.next);
        return;
      }
    } catch (error) {
      if (!this.#end.signal.aborted) this.#options.log("warn", textOf(error));
      this.#options.came({ how: "refused", blocks: wants.wanted });
      this.#options.came({ how: "refused", blocks: await this.#endDemand(asked) });
      return;
    }
    // It was closed meanwhile.
    await this.fetch(wants);
  }

  /** Gives what was asked for and has not come. */
  async #endDemand(demand: Promise<OnDemand>): Promise<readonly BlockNo[]> {
    if (this.#demand === demand) this.#demand = undefined;
    const begun = await demand.catch(() => undefined);
    return (await begun?.close()) ?? [];
  }

  async #begin(): Promise<OnDemand> {
    const replica = this.#opened();
    const store = await this.#openedStore(replica);
    const { came, log } = this.#options;
    this.#demandLog = replica.log;
    return replica.onDemand(store.impatient(), {
      arrived: (blocks) => came({ how: "arrived", blocks }),
      refused: (blocks) => came({ how: "refused", blocks }),
      recorded: (blocks) => came({ how: "recorded", blocks }),
      log: (line) => log("warn", line),
    });
  }

  /** The replica was written to: what is held is counted anew, and a log that has another secret by now is fetched from with that. */
  async #renewDemand(replica: Replica): Promise<void> {
    const demand = this.#demand;
    if (demand === undefined || this.#end.signal.aborted) return;
    if (replica.log === this.#demandLog) {
      (await demand.catch(() => undefined))?.changed();
      return;
    }
    const left = await this.#endDemand(demand);
    if (left.length > 0) await this.fetch({ wanted: left, next: [], used: [] });
  }

  /** Keeps a tree of a partial replica here, and fetches it, or lets it go again. Never rejects. */
  async pin(ino: number, isPinned: boolean): Promise<PinOutcome> {
    try {
      const replica = this.#opened();
      try {
        if (!isPinned) return { ok: true, wasPinned: await replica.unpin(ino), blocks: 0, bytes: 0 };
        const store = await this.#openedStore(replica);
        const { blocks, bytes } = await replica.pin(ino, store, { breathe: breathing(this.#end.signal) });
        return { ok: true, wasPinned: false, blocks, bytes };
      } finally {
        await this.#renewDemand(replica);
      }
    } catch (error) {
      return {
        ok: false,
        message: textOf(error),
        ...(error instanceof LogError ? { reason: error.reason } : {}),
      };
    }
  }

  states(): readonly RemoteState[] {
    try {
      this.#lags = readBeside(this.#options.path, this.#options.key, lagsOf);
    } catch {
      // As it was last.
    }
    const { error, failingSince } = this.#health;
    return this.#lags.map((lag) => ({
      ...lag,
      ...(this.#lookedAt === undefined ? {} : { synced: this.#lookedAt.toISOString() }),
      behindMs: this.#lookedAt === undefined ? lag.behindMs : Date.now() - this.#lookedAt.getTime(),
      busy: this.#pulling !== undefined,
      ...(error === undefined ? {} : { error }),
      ...(failingSince === undefined ? {} : { failingSince: failingSince.toISOString() }),
    }));
  }

  /** What is under way is undone: the replica is as of the last segment that was applied. */
  async leave(): Promise<void> {
    clearTimeout(this.#timer);
    this.#end.abort(new Error("the mount ended"));
    this.#store?.giveUp();
    if (this.#demand !== undefined) await this.#endDemand(this.#demand);
    this.#replica?.close();
  }
}

function textOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
