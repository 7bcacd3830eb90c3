/**
 * The main thread's end of the thread that keeps the log of a mounted volume: it brings orders to whoever serves the
 * volume, and ends the thread with the mount. That thread may wait for ever for a remote that does not answer; nobody waits
 * for that thread.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { Worker } from "node:worker_threads";
import type { Log } from "../base/log.ts";
import type { RemoteOrder, RemoteOutcome } from "../core/remotes.ts";
import type { BlockNo, Ino } from "../core/types.ts";
import type { Key } from "../db/key.ts";
import type { TouchedRows } from "../log/touched.ts";
import { HostError } from "./errors.ts";
import type {
  Came,
  FromLog,
  LogAnswers,
  LogOrder,
  PinOutcome,
  PullOutcome,
  RemoteState,
  ToLog,
  Wants,
} from "./logmessages.ts";
import type { MountOptions } from "./mount.ts";
import { writeBack } from "./visitor.ts";

/** What is left to be pushed when a mount ends has so long. */
const GRACE_MS = 5000;
/** And the thread so long to close what it has open. */
const CLOSE_MS = 1000;
/** It answers when it is not at work for others. */
const ANSWER_MS = 1000;
/** MiB in which its short-lived objects are made: as for the thread that serves. */
const YOUNG_MB = 6;
const ENDED = { ok: false, message: "the mount ended" } as const;

/** What the thread wants of the mount. */
export interface LoggedMount {
  readonly mountpoint: string;
  /** Has whoever serves the volume note something. */
  remote(order: RemoteOrder): Promise<RemoteOutcome>;
  /** Another state is to be seen from now on: resolves when nobody, the kernel neither, keeps what this touched. */
  changed(touched: TouchedRows): Promise<void>;
  /** What was wanted of a partial replica came, or did not. */
  fetched(came: Came): void;
}

export class LogThread {
  readonly #mount: LoggedMount;
  readonly #log: Log;
  readonly #worker: Worker;
  readonly #ended: Promise<void>;
  /** Questions that are not answered yet. */
  readonly #asked = new Map<number, (answer: FromLog) => void>();
  /** Blocks that somebody waits for. */
  readonly #wanted = new Set<BlockNo>();
  #lastId = 0;
  #isLeaving = false;
  #hasEnded = false;

  constructor(order: LogOrder, mount: LoggedMount, log: Log) {
    this.#mount = mount;
    this.#log = log;
    this.#worker = new Worker(new URL("./logworker.js", import.meta.url), {
      workerData: order,
      resourceLimits: { maxYoungGenerationSizeMb: YOUNG_MB },
    });
    this.#ended = new Promise((resolve) => {
      this.#worker.once("exit", () => {
        this.#hasEnded = true;
        this.#refuse([...this.#wanted]);
        resolve();
      });
    });
    this.#worker.on("message", (message: FromLog) => void this.#hear(message));
    this.#worker.on("error", (error) => {
      order.key.bytes.fill(0);
      const text = error instanceof Error ? error.stack : String(error);
      const what = "the thread that keeps the log crashed, and nothing is pushed, pulled or fetched any more";
      log("error", `${what}: ${text}`);
    });
  }

  #post(message: ToLog): void {
    this.#worker.postMessage(message);
  }

  async #hear(message: FromLog): Promise<void> {
    switch (message.type) {
      case "log":
        this.#log(message.level, message.line);
        break;
      case "order": {
        const { id, order } = message;
        this.#post({ type: "obeyed", id, outcome: await this.#obey(order) });
        break;
      }
      case "changed":
        await this.#mount.changed(message.touched);
        this.#post({ type: "told", id: message.id });
        break;
      case "fetched":
        for (const one of message.came.blocks) this.#wanted.delete(typeof one === "number" ? one : one.block);
        this.#mount.fetched(message.came);
        break;
      default:
        this.#asked.get(message.id)?.(message);
        this.#asked.delete(message.id);
    }
  }

  /** Undefined where the thread ends first. */
  async #ask<T extends keyof LogAnswers>(
    question: Omit<Extract<ToLog, { type: T }>, "id">,
  ): Promise<LogAnswers[T] | undefined> {
    const id = ++this.#lastId;
    const answer = new Promise<LogAnswers[T]>((resolve) => {
      this.#asked.set(id, resolve as (answer: FromLog) => void);
      this.#post({ ...question, id } as unknown as ToLog);
    });
    return await Promise.race([answer, this.#ended.then(() => undefined)]);
  }

  async #obey(order: RemoteOrder): Promise<RemoteOutcome> {
    // What was stored through mmap is to be in what is pushed. Once the mount is gone the kernel has written it back.
    if (order.do === "close" && !this.#isLeaving)
      await writeBack(this.#mount.mountpoint).catch((error: unknown) => {
        if (!this.#isLeaving) this.#log("warn", `the kernel cannot write back: ${String(error)}`);
      });
    return await this.#mount.remote(order);
  }

  /** How the remotes are; undefined where it does not tell soon. */
  async states(): Promise<readonly RemoteState[] | undefined> {
    const none = sleep(ANSWER_MS, undefined, { ref: false });
    return (await Promise.race([this.#ask<"status">({ type: "status" }), none]))?.remotes;
  }

  /** Has a replica pull what was pushed until now. */
  async pull(): Promise<PullOutcome> {
    const answer = await this.#ask<"pull">({ type: "pull" });
    return answer?.outcome ?? ENDED;
  }

  /** Has a tree of a partial replica kept here, or no more. */
  async pin(ino: Ino, isPinned: boolean): Promise<PinOutcome> {
    const answer = await this.#ask<"pin">({ type: "pin", ino, isPinned });
    return answer?.outcome ?? ENDED;
  }

  /** Has blocks fetched: `mount.fetched` is told, also where the thread ends first. */
  fetch(wants: Wants): void {
    if (this.#hasEnded) {
      this.#refuse(wants.wanted);
      return;
    }
    for (const block of wants.wanted) this.#wanted.add(block);
    this.#post({ type: "fetch", ...wants });
  }

  #refuse(blocks: readonly BlockNo[]): void {
    if (blocks.length > 0) this.#mount.fetched({ how: "refused", blocks });
  }

  /**
   * The mount is gone, and the volume still open: a last push is tried, unless there is a `hurry`. Returns soon,
   * also where the thread hangs in a system call: a process that ends must not wait for its threads (`exitNow`).
   */
  async leave(hurry: boolean): Promise<void> {
    this.#isLeaving = true;
    const graceMs = hurry ? 0 : GRACE_MS;
    this.#post({ type: "leave", graceMs });
    await Promise.race([this.#ended, sleep(graceMs + CLOSE_MS, undefined, { ref: false })]);
    this.#worker.unref();
  }
}

/** What the thread that keeps the log of a volume is to do; undefined: nothing. `readOnly`: it is not written here. */
export function logOrder(
  { path, pushMs, pullMs = 0, bytesPerSecond }: MountOptions,
  key: Key,
  volume: { readonly follows: boolean; readonly readOnly: boolean },
): LogOrder | undefined {
  const order = { path, key: key.toSharedMessage(), bytesPerSecond };
  if (volume.follows) return { ...order, role: "follow", intervalMs: pullMs };
  if (volume.readOnly || pushMs === undefined) return undefined;
  return { ...order, role: "push", intervalMs: pushMs };
}

export function notFollowing(mountpoint: string): HostError {
  return new HostError(
    "not-replica",
    `${mountpoint}: is no replica, or one that is mounted with --read-only`,
  );
}
