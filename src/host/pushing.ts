/**
 * Pushes a mounted volume to its remotes, one after the other, when something changed; on a thread of its own.
 *
 * Nothing of it is waited for: a remote that fails is tried again later and later; one that does not answer is left alone
 * until it does, and the others go on. Where a command pushes just now a round is left out.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { FsError } from "../base/errno.ts";
import type { Log } from "../base/log.ts";
import { listRemotes, type Remote, type RemoteOrder } from "../core/remotes.ts";
import type { Database } from "../db/database.ts";
import type { Key } from "../db/key.ts";
import { type Lag, lacking, lagsOf } from "../log/lag.ts";
import { Pusher } from "../log/pusher.ts";
import { openBeside, readBeside } from "../log/site.ts";
import { type AttendedStore, attend } from "../remote/attended.ts";
import { breathing } from "./breathing.ts";
import { Health } from "./health.ts";
import type { RemoteState } from "./logmessages.ts";
import { lockPush } from "./pushlock.ts";

export interface PushingOptions {
  readonly path: string;
  readonly key: Key;
  readonly intervalMs: number;
  /** To each remote at most. */
  readonly bytesPerSecond: number | undefined;
  readonly log: Log;
  /** By whoever serves the volume; gives the epoch of "close". @throws FsError */
  readonly order: (order: RemoteOrder) => Promise<number>;
}

/** One push. */
interface Run {
  readonly store: AttendedStore;
  readonly db: Database;
}

export class Pushing {
  readonly #options: PushingOptions;
  readonly #health = new Map<string, Health>();
  /** By the name of their remote; also those that do not answer. */
  readonly #runs = new Map<string, Run>();
  readonly #end = new AbortController();
  #lags: readonly Lag[] = [];
  #timer: NodeJS.Timeout | undefined;
  #round: Promise<void> | undefined;

  constructor(options: PushingOptions) {
    this.#options = options;
    this.#plan();
  }

  #plan(): void {
    if (this.#end.signal.aborted) return;
    this.#timer = setTimeout(() => void this.#look().then(() => this.#plan()), this.#options.intervalMs);
  }

  /** Pushes what there is to push. Never rejects. */
  async #look(): Promise<void> {
    this.#round ??= this.#pushAll().finally(() => {
      this.#round = undefined;
    });
    await this.#round;
  }

  async #pushAll(): Promise<void> {
    for (const { name, url } of this.#due(performance.now())) {
      if (this.#end.signal.aborted) return;
      await this.#push(name, url);
    }
  }

  #due(nowMs: number): Remote[] {
    return this.#lacking().filter(({ name }) => !this.#runs.has(name) && this.#healthOf(name).mayTry(nowMs));
  }

  #lacking(): Remote[] {
    try {
      return readBeside(this.#options.path, this.#options.key, (db) => {
        const found = lacking(db, this.#options.key.salt);
        this.#settle(listRemotes(db), found);
        return found;
      });
    } catch (error) {
      this.#options.log("warn", `it cannot be told what is to be pushed: ${textOf(error)}`);
      return [];
    }
  }

  /** What lacks nothing is well, whoever pushed there: a command may have. */
  #settle(all: readonly Remote[], lacking: readonly Remote[]): void {
    const isIn = (remotes: readonly Remote[], name: string): boolean =>
      remotes.some((one) => one.name === name);
    for (const [name, health] of this.#health)
      if (!isIn(all, name)) this.#health.delete(name);
      else if (!isIn(lacking, name) && !this.#runs.has(name)) health.well();
  }

  #healthOf(name: string): Health {
    let health = this.#health.get(name);
    if (health === undefined) {
      health = new Health(name, this.#options.intervalMs, this.#options.log);
      this.#health.set(name, health);
    }
    return health;
  }

  /** Returns when it is there, or failed, or does not answer: then it goes on by itself, should it ever. */
  async #push(name: string, url: string): Promise<void> {
    const { path, key, bytesPerSecond } = this.#options;
    const health = this.#healthOf(name);
    const failed = (error: unknown): void => {
      if (!this.#end.signal.aborted && !this.#isRemoved(name))
        health.failed(textOf(error), performance.now());
    };
    try {
      const store = await attend(url, { signal: this.#end.signal, bytesPerSecond });
      const release = lockPush(path, name);
      if (release === undefined) return;
      const run = opened(path, key, store, release);
      const done = this.#run(name, run)
        .finally(release)
        .then(() => health.well(), failed);
      if (!(await store.outlasts(done))) health.failed(`${url}: does not answer`, performance.now());
    } catch (error) {
      failed(error);
    }
  }

  async #run(name: string, run: Run): Promise<void> {
    const { key, order } = this.#options;
    const { store, db } = run;
    this.#runs.set(name, run);
    try {
      await new Pusher({ db, key, order }, store, name, { breathe: breathing(this.#end.signal) }).run();
    } finally {
      this.#runs.delete(name);
      db.close();
    }
  }

  #isRemoved(name: string): boolean {
    return !this.states().some((one) => one.name === name);
  }

  states(): readonly RemoteState[] {
    try {
      this.#lags = readBeside(this.#options.path, this.#options.key, lagsOf);
      this.#lacking();
    } catch {
      // As it was last.
    }
    return this.#lags.map((lag) => {
      const { error, failingSince } = this.#healthOf(lag.name);
      return {
        ...lag,
        busy: this.#runs.has(lag.name),
        ...(error === undefined ? {} : { error }),
        ...(failingSince === undefined ? {} : { failingSince: failingSince.toISOString() }),
      };
    });
  }

  /** Pushes once more, for so many milliseconds at most, says what is left, and ends. */
  async leave(graceMs: number): Promise<void> {
    clearTimeout(this.#timer);
    if (graceMs > 0) {
      const last = (this.#round ?? Promise.resolve()).then(() => this.#look());
      await Promise.race([last, sleep(graceMs, undefined, { ref: false })]);
      const left = this.#lacking().map(({ name }) => name);
      if (left.length > 0)
        this.#options.log(
          "warn",
          `${left.join(", ")}: not all is there; the next mount, or sqlfuse push, goes on`,
        );
    }
    this.#end.abort(new Error("the mount ended"));
    for (const { store, db } of this.#runs.values()) {
      store.giveUp();
      db.close();
    }
  }
}

/** `release` is called where it cannot be opened. @throws SqliteError */
function opened(path: string, key: Key, store: AttendedStore, release: () => void): Run {
  try {
    return { store, db: openBeside(path, key) };
  } catch (error) {
    release();
    throw error;
  }
}

function textOf(error: unknown): string {
  if (error instanceof FsError) return `the volume cannot note what was pushed (${error.code})`;
  return error instanceof Error ? error.message : String(error);
}
