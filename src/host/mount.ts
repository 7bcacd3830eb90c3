/**
 * A mounted volume, seen from the main thread: it makes the mount, keeps the worker that serves it, and ends
 * both. It never touches the database.
 */
import { Worker } from "node:worker_threads";
import type { Log } from "../base/log.ts";
import { OpenError } from "../core/errors.ts";
import type { HistoryOrder, HistoryOutcome, Snapshot } from "../core/history.ts";
import type { RemoteOrder, RemoteOutcome } from "../core/remotes.ts";
import type { At, Ino } from "../core/types.ts";
import { Key } from "../db/key.ts";
import { COST_SLOTS, Costs, type OperationCost } from "../fuse/costs.ts";
import { invalInode } from "../fuse/notify.ts";
import { COUNTER, COUNTERS } from "../fuse/server.ts";
import type { Stale } from "../fuse/session.ts";
import type { TouchedRows } from "../log/touched.ts";
import { close, eventfd, write, writeAsync } from "../native/libc.ts";
import { Announcer } from "./announcer.ts";
import { type Attachment, abort, adopt, attach, detach, raiseReadahead } from "./attachment.ts";
import { HostError } from "./errors.ts";
import { IdleEnd, IdleWatch } from "./idle.ts";
import {
  type Came,
  contentsOf,
  type PinOutcome,
  type PullOutcome,
  type RemoteState,
  type Wants,
} from "./logmessages.ts";
import { LogThread, logOrder, notFollowing } from "./logthread.ts";
import type { FromWorker, Refusal, ToWorker, WorkerOrder } from "./messages.ts";
import { inheritedFd } from "./mountpoint.ts";
import { mountedAt } from "./mounts.ts";
import { startMount } from "./start.ts";
import type { Transport } from "./transport.ts";
import { visitRoot, writeBack } from "./visitor.ts";

export interface MountOptions {
  readonly transport: Transport;
  /** The database file, absolute, symlinks resolved. */
  readonly path: string;
  /** Absolute; or /dev/fd/N, where N is the descriptor of a mount that is already made. */
  readonly mountpoint: string;
  readonly readOnly: boolean;
  readonly allowOther: boolean;
  /** The kernel checks modes, owners and ACLs. */
  readonly defaultPermissions: boolean;
  readonly suid: boolean;
  readonly dev: boolean;
  readonly exec: boolean;
  /** Presented as the owner of every inode. */
  readonly uid?: number;
  readonly gid?: number;
  readonly noatime: boolean;
  /** One durable commit per operation. */
  readonly sync: boolean;
  readonly commitIntervalMs: number;
  /** Writes answered from the page cache: a weaker promise. */
  readonly writeback: boolean;
  /** Shown as the source in /proc/mounts. */
  readonly fsname: string;
  /** One log line each way per request. */
  readonly trace: boolean;
  /** Bytes of the volume's page caches; the aide has an eighth of it more. */
  readonly cacheBytes?: number;
  /** Absolute: see src/core/head.ts. */
  readonly headFile?: string;
  /** A snapshot to show, read-only, beside whoever has the volume mounted. */
  readonly at?: At;
  /** Make a snapshot so long after a change, and let go of those that the volume's retention does not keep. */
  readonly historyMs?: number;
  /** For how long the kernel may keep names and attributes; default: for ever, or less for `idleTimeoutMs`. */
  readonly attrTimeoutSec?: number;
  /** Unmount when nobody used it for so long. */
  readonly idleTimeoutMs?: number;
  /** How often it is looked whether there is something to be pushed to remotes; absent: never. */
  readonly pushMs?: number;
  /** How often a replica looks whether something was pushed; 0 or absent: when it is told to. */
  readonly pullMs?: number;
  /** Bytes in a second that go to a remote, or come from one, at most. */
  readonly bytesPerSecond?: number;
}

export interface MountStatus {
  readonly pid: number;
  readonly path: string;
  readonly mountpoint: string;
  readonly readOnly: boolean;
  /** Name of the snapshot that is shown. */
  readonly at?: string;
  readonly historyMs?: number;
  /** ISO 8601. */
  readonly since: string;
  /** When somebody was last served, ISO 8601. What the kernel answers from its cache is not seen. */
  readonly lastUse: string;
  readonly idleTimeoutMs?: number;
  readonly requests: number;
  readonly bytesRead: number;
  readonly bytesWritten: number;
  /** Requests answered with EIO. */
  readonly errors: number;
  /** Inodes that the kernel holds. */
  readonly lookups: number;
  /** Age of the oldest change that is not committed. */
  readonly uncommittedMs: number;
  /** A commit failed: the mount acts read-only. */
  readonly failed: boolean;
  /** FUSE protocol version, as "7.44"; or "fuse-native". */
  readonly protocol: string;
  /** What each operation cost the serving thread. */
  readonly operations: readonly OperationCost[];
  /** Asked of the thread that keeps the log, where there is one. */
  readonly remotes?: readonly RemoteState[];
}

/** How a mount ended. */
export interface MountEnd {
  /** Everything was committed. */
  readonly clean: boolean;
}

/**
 * MiB in which the worker's short-lived objects are made. Node's own choice, 48, holds that much more memory, and
 * saved no processor time where 30,000 files were made and removed.
 */
const YOUNG_MB = 6;
const FETCHLESS =
  "this mount fetches nothing: what is not here is an I/O error; a mount without --read-only and --at does";
const RING = new Uint8Array(new BigUint64Array([1n]).buffer);

/** What the owner of a mount does with it, whatever its transport. */
export interface Mounted {
  /** Resolves when it is gone and its file is closed. */
  readonly closed: Promise<MountEnd>;
  readonly mountpoint: string;
  /** What is silently done wrong here, where that is so: whoever mounts must be told. */
  readonly warning?: string | undefined;
  status(): MountStatus;
  /** Commits everything durably. @throws HostError engine */
  sync(): Promise<void>;
  /** Makes, lists, deletes or prunes snapshots. */
  history(order: HistoryOrder): Promise<HistoryOutcome>;
  /** Notes what a push wants noted. */
  remote(order: RemoteOrder): Promise<RemoteOutcome>;
  /** Has a replica pull what was pushed until now. @throws HostError not-replica */
  pull(): Promise<PullOutcome>;
  /** Has a tree of a partial replica kept here, or no more. @throws HostError not-replica */
  pin(ino: Ino, isPinned: boolean): Promise<PinOutcome>;
  /** How its remotes are; undefined where nothing is pushed or pulled here, or that does not tell soon. */
  remoteStates(): Promise<readonly RemoteState[] | undefined>;
  /** @throws HostError busy, not-mounted, not-permitted */
  unmount(lazy: boolean): Promise<void>;
  /** Stops serving at once, whoever still uses the mount. `hurry`: remotes get nothing any more. */
  close(hurry?: boolean): Promise<void>;
}

export class Mount implements Mounted {
  readonly closed: Promise<MountEnd>;
  readonly #options: MountOptions;
  /** For the thread that keeps the log. */
  readonly #key: Key;
  readonly #log: Log;
  readonly #worker: Worker;
  readonly #wakeFd: number;
  readonly #counters: Float64Array;
  readonly #costs: Costs;
  readonly #since = new Date();
  readonly #syncs = new Map<number, (error: string | undefined) => void>();
  readonly #histories = new Map<number, (outcome: HistoryOutcome) => void>();
  readonly #remotes = new Map<number, (outcome: RemoteOutcome) => void>();
  readonly #changes = new Map<number, (stale: Stale | undefined) => void>();
  #attachment: Attachment | undefined;
  #at: Snapshot | undefined;
  #readOnly: boolean;
  #lastSync = 0;
  /** What the worker said at its end; undefined while it serves, and for ever when it crashed. */
  #clean: boolean | undefined;
  #ended = false;
  /** Waits for the next step of the worker's start. */
  #onStep: ((step: Step) => void) | undefined;
  #announcer: Announcer | undefined;
  #logThread: LogThread | undefined;
  #follows = false;
  /** It was said that nothing is fetched here. */
  #isFetchless = false;
  #hurries = false;
  #idle: IdleWatch | undefined;

  /** Opens the volume and mounts it; resolves when the mount answers. @throws OpenError, HostError */
  static async start(options: MountOptions, key: Key, log: Log): Promise<Mount> {
    return await startMount(
      () => new Mount(options, key, log),
      (mount) => mount.#start(),
    );
  }

  private constructor(options: MountOptions, key: Key, log: Log) {
    this.#options = options;
    this.#readOnly = options.readOnly;
    this.#log = log;
    this.#wakeFd = eventfd();
    const counters = new SharedArrayBuffer(COUNTERS * Float64Array.BYTES_PER_ELEMENT);
    this.#counters = new Float64Array(counters);
    const costs = new SharedArrayBuffer(COST_SLOTS * Float64Array.BYTES_PER_ELEMENT);
    this.#costs = new Costs(new Float64Array(costs));
    this.#key = Key.fromMessage(key.toMessage());
    const message = key.toSharedMessage();
    const order: WorkerOrder = {
      path: options.path,
      key: message,
      readOnly: options.readOnly,
      noatime: options.noatime,
      sync: options.sync,
      commitIntervalMs: options.commitIntervalMs,
      cacheBytes: options.cacheBytes,
      headFile: options.headFile,
      at: options.at,
      historyMs: options.historyMs,
      writeback: options.writeback,
      defaultPermissions: options.defaultPermissions,
      uid: options.uid,
      gid: options.gid,
      timeoutSec: cacheTimeoutSec(options),
      trace: options.trace,
      counters,
      costs,
      wakeFd: this.#wakeFd,
    };
    this.#worker = new Worker(new URL("./worker.js", import.meta.url), {
      workerData: order,
      resourceLimits: { maxYoungGenerationSizeMb: YOUNG_MB },
    });
    this.#worker.on("message", (message: FromWorker) => this.#hear(message));
    this.#worker.on("error", (error) => {
      message.bytes.fill(0);
      this.#log(
        "error",
        `the serving thread crashed: ${error instanceof Error ? error.stack : String(error)}`,
      );
      this.#onStep?.({ type: "crashed", error });
    });
    this.closed = new Promise((resolve) => {
      this.#worker.once("exit", () => void this.#onExit().then(resolve));
    });
  }

  async #start(): Promise<void> {
    const opened = await this.#step();
    if (opened.type !== "opened") throw thrownBy(opened);
    this.#readOnly = opened.readOnly;
    this.#at = opened.at;
    const inherited = inheritedFd(this.#options.mountpoint);
    this.#attachment =
      inherited === undefined
        ? attach({ ...this.#options, readOnly: this.#readOnly })
        : adopt(inherited, this.#options.mountpoint);
    const { fd } = this.#attachment;
    this.#announcer = new Announcer((message) => writeAsync(fd, message));
    this.#post({ type: "serve", fd });
    // Whoever reads as soon as the mount is there may need what has to be fetched.
    this.#follows = opened.follows;
    if (opened.hasRemotes) this.#startLog();
    const ready = await this.#step();
    if (ready.type !== "ready") throw thrownBy(ready);
    raiseReadahead(this.#attachment);
    // The kernel makes up a root that belongs to uid 0 and asks for the real one at the first stat: before that
    // its owner could not even chmod it.
    await visitRoot(this.mountpoint).catch(() => {});
    const { idleTimeoutMs } = this.#options;
    if (idleTimeoutMs === undefined || this.#ended) return;
    const end = new IdleEnd(this, () => this.#lastUse(), idleTimeoutMs, this.#log);
    this.#idle = new IdleWatch(end, idleTimeoutMs);
  }

  /** Begins to follow or to push, where that can be and is wanted. */
  #startLog(): void {
    if (this.#logThread !== undefined || this.#ended) return;
    const order = logOrder(this.#options, this.#key, { follows: this.#follows, readOnly: this.#readOnly });
    if (order !== undefined) this.#logThread = new LogThread(order, this, this.#log);
  }

  #step(): Promise<Step> {
    return new Promise((resolve) => {
      this.#onStep = (step) => {
        this.#onStep = undefined;
        resolve(step);
      };
    });
  }

  #post(message: ToWorker, handedOver: ArrayBuffer[] = []): void {
    this.#worker.postMessage(message, handedOver);
    write(this.#wakeFd, RING, RING.length);
  }

  #hear(message: FromWorker): void {
    switch (message.type) {
      case "opened":
      case "ready":
      case "refused":
        this.#onStep?.(message);
        break;
      case "log":
        this.#log(message.level, message.line);
        break;
      case "failed":
        this.#log("error", `${this.#options.path}: a commit failed; the mount is read-only from now on`);
        void this.#announcer?.announce(message.lost);
        break;
      case "writeBack":
        void this.#writeBack();
        break;
      case "tampered":
        if (this.#attachment !== undefined) void writeAsync(this.#attachment.fd, invalInode(message.node));
        break;
      case "synced":
        this.#syncs.get(message.id)?.(message.error);
        this.#syncs.delete(message.id);
        break;
      case "history":
        this.#histories.get(message.id)?.(message.outcome);
        this.#histories.delete(message.id);
        break;
      case "remote":
        this.#remotes.get(message.id)?.(message.outcome);
        this.#remotes.delete(message.id);
        break;
      case "fetch":
        this.#fetch(message);
        break;
      case "stale":
        this.#changes.get(message.id)?.(message.stale);
        this.#changes.delete(message.id);
        break;
      case "ended":
        void this.#finish();
        break;
      case "closed":
        this.#clean = message.clean;
        this.#onStep?.(message);
        break;
    }
  }

  /** What was stored in mapped files reaches the volume. Where it cannot, a snapshot is without it, as any read is. */
  async #writeBack(): Promise<void> {
    try {
      await writeBack(this.mountpoint);
    } catch (error) {
      this.#log("warn", `${this.mountpoint}: the kernel cannot write back: ${String(error)}`);
    }
    if (!this.#ended) this.#post({ type: "writtenBack" });
  }

  /** Nobody is served any more: what is left to be pushed goes, then the volume is closed. */
  async #finish(): Promise<void> {
    this.#idle?.stop();
    await this.#logThread?.leave(this.#hurries);
    this.#logThread = undefined;
    this.#post({ type: "close" });
  }

  async #onExit(): Promise<MountEnd> {
    this.#ended = true;
    this.#idle?.stop();
    this.#onStep?.({ type: "crashed", error: new Error("the serving thread ended") });
    for (const settle of this.#syncs.values()) settle(this.#clean === true ? undefined : "the mount ended");
    this.#syncs.clear();
    // Whoever waits is told: the socket of a daemon that ends is closed only after its last answer.
    for (const orders of [this.#histories, this.#remotes]) {
      for (const settle of orders.values()) settle({ ok: false, code: "EIO" });
      orders.clear();
    }
    for (const settle of this.#changes.values()) settle(undefined);
    this.#changes.clear();
    // After a crash: else it has left by now.
    await this.#logThread?.leave(true);
    this.#key.wipe();
    const attachment = this.#attachment;
    if (attachment !== undefined) {
      await this.#announcer?.end(() => abort(attachment));
      // After a crash or a stop the kernel still shows the mount, and all that it could say is "not connected".
      if (this.#isShown()) this.#tryDetach(this.mountpoint);
      close(attachment.fd);
    }
    close(this.#wakeFd);
    return { clean: this.#clean === true };
  }

  /** Whether the mount table shows our mount at its place. */
  #isShown(): boolean {
    const { mountpoint, device } = this.#attachment ?? {};
    return mountpoint !== undefined && device !== undefined && mountedAt(mountpoint)?.device === device;
  }

  #tryDetach(mountpoint: string): void {
    try {
      detach(mountpoint, true);
    } catch (error) {
      this.#log("error", error instanceof Error ? error.message : String(error));
    }
  }

  get mountpoint(): string {
    return this.#attachment?.mountpoint ?? this.#options.mountpoint;
  }

  status(): MountStatus {
    const figure = (counter: keyof typeof COUNTER): number => this.#counters[COUNTER[counter]] ?? 0;
    const since = figure("uncommittedSince");
    const { idleTimeoutMs, historyMs } = this.#options;
    return {
      pid: process.pid,
      path: this.#options.path,
      mountpoint: this.mountpoint,
      readOnly: this.#readOnly,
      ...(this.#at === undefined ? {} : { at: this.#at.name }),
      ...(historyMs === undefined ? {} : { historyMs }),
      since: this.#since.toISOString(),
      lastUse: new Date(this.#lastUse()).toISOString(),
      ...(idleTimeoutMs === undefined ? {} : { idleTimeoutMs }),
      requests: figure("requests"),
      bytesRead: figure("bytesRead"),
      bytesWritten: figure("bytesWritten"),
      errors: figure("errors"),
      lookups: figure("references"),
      uncommittedMs: since === 0 ? 0 : Math.max(0, Math.round(Date.now() - since)),
      failed: figure("failed") !== 0,
      protocol: `7.${figure("minor")}`,
      operations: this.#costs.list(),
    };
  }

  /** Commits everything durably. After the end it tells whether the last commit succeeded. */
  async sync(): Promise<void> {
    let error: string | undefined;
    if (this.#ended || this.#clean !== undefined) {
      if (!(await this.closed).clean) error = "the mount ended";
    } else {
      const id = ++this.#lastSync;
      error = await new Promise<string | undefined>((resolve) => {
        this.#syncs.set(id, resolve);
        this.#post({ type: "sync", id });
      });
    }
    if (error !== undefined)
      throw new HostError("engine", `${this.#options.path}: cannot be committed: ${error}`);
  }

  /** Makes, lists, deletes or prunes snapshots. */
  async history(order: HistoryOrder): Promise<HistoryOutcome> {
    if (this.#ended || this.#clean !== undefined) return { ok: false, code: "EIO" };
    const id = ++this.#lastSync;
    return await new Promise((resolve) => {
      this.#histories.set(id, resolve);
      this.#post({ type: "history", id, order });
    });
  }

  /** Notes what a push wants noted. */
  async remote(order: RemoteOrder): Promise<RemoteOutcome> {
    if (this.#ended || this.#clean !== undefined) return { ok: false, code: "EIO" };
    const id = ++this.#lastSync;
    return await new Promise((resolve) => {
      this.#remotes.set(id, (outcome) => {
        if (outcome.ok && order.do === "add") this.#startLog();
        resolve(outcome);
      });
      this.#post({ type: "remote", id, order });
    });
  }

  /** A segment was applied: who asks is served by it, and the kernel forgets what it keeps of before. */
  async changed(touched: TouchedRows): Promise<void> {
    if (this.#ended || this.#clean !== undefined) return;
    const id = ++this.#lastSync;
    const stale = await new Promise<Stale | undefined>((resolve) => {
      this.#changes.set(id, resolve);
      this.#post({ type: "changed", id, touched });
    });
    if (stale === undefined) return;
    await this.#announcer?.announce(stale);
  }

  fetched(came: Came): void {
    if (!this.#ended) this.#post({ type: "fetched", came }, contentsOf(came));
  }

  #fetch(wants: Wants): void {
    if (this.#logThread !== undefined) {
      this.#logThread.fetch(wants);
      return;
    }
    if (!this.#isFetchless) this.#log("warn", `${this.#options.path}: ${FETCHLESS}`);
    this.#isFetchless = true;
    this.fetched({ how: "refused", blocks: wants.wanted });
  }

  async pin(ino: Ino, isPinned: boolean): Promise<PinOutcome> {
    if (!this.#follows || this.#logThread === undefined) throw notFollowing(this.mountpoint);
    return await this.#logThread.pin(ino, isPinned);
  }

  async pull(): Promise<PullOutcome> {
    if (!this.#follows || this.#logThread === undefined) throw notFollowing(this.mountpoint);
    return await this.#logThread.pull();
  }

  async remoteStates(): Promise<readonly RemoteState[] | undefined> {
    return await this.#logThread?.states();
  }

  /**
   * Asks the kernel to take the mount away; `lazy`: even while it is in use. `closed` tells when all is committed.
   * @throws HostError busy, not-mounted, not-permitted
   */
  async unmount(lazy: boolean): Promise<void> {
    // Detached behind our back, the place may belong to somebody else's mount by now.
    if (!this.#isShown()) throw new HostError("not-mounted", `${this.mountpoint}: is not mounted`);
    detach(this.mountpoint, lazy);
  }

  #lastUse(): number {
    return this.#counters[COUNTER.lastUse] || this.#since.getTime();
  }

  async close(hurry = true): Promise<void> {
    this.#hurries ||= hurry;
    if (!this.#ended) this.#post({ type: "stop" });
    await this.closed;
  }
}

/**
 * What the kernel answers from its cache makes no request. A mount that is to end when it is idle lets it keep things
 * for a tenth of that time: so a use that is not seen is at most so much later than one that is.
 */
function cacheTimeoutSec({ attrTimeoutSec, idleTimeoutMs }: MountOptions): number | undefined {
  if (attrTimeoutSec !== undefined || idleTimeoutMs === undefined) return attrTimeoutSec;
  return Math.floor(idleTimeoutMs / 10_000);
}

type Step =
  | Extract<FromWorker, { type: "opened" | "refused" | "ready" | "closed" }>
  | { readonly type: "crashed"; readonly error: unknown };

/** Why a step of the start did not come. */
function thrownBy(step: Step): Error {
  switch (step.type) {
    case "refused":
      return rebuilt(step.refusal);
    case "crashed":
      return step.error instanceof Error ? step.error : new Error(String(step.error));
    default:
      return new HostError("no-fuse", "the kernel ended the mount before it was used; dmesg may tell why");
  }
}

function rebuilt({ name, message, reason, path, pid }: Refusal): Error {
  if (reason !== undefined && path !== undefined)
    return new OpenError(reason, path, message, pid === undefined ? {} : { pid });
  const error = new Error(message);
  error.name = name;
  return error;
}
