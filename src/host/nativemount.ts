/**
 * A mounted volume whose transport is fuse-native: as src/host/mount.ts, but the main thread serves it, since
 * fuse-native calls back on that one alone. So nothing here may wait for the mount on this thread.
 *
 * Nobody tells when the mount ends: it has ended when libfuse has closed its descriptor of /dev/fuse.
 */
import { readdirSync, readlinkSync } from "node:fs";
import { Worker } from "node:worker_threads";
import { assert } from "../base/assert.ts";
import { DamageError } from "../base/errno.ts";
import type { Log } from "../base/log.ts";
import { type HistoryOrder, type HistoryOutcome, obeyHistory } from "../core/history.ts";
import { obeyRemotes, type RemoteOrder, type RemoteOutcome } from "../core/remotes.ts";
import type { Ino } from "../core/types.ts";
import { Volume } from "../core/volume.ts";
import { Key } from "../db/key.ts";
import { describeFault, mountNative } from "../fusenative/bridge.ts";
import { Operations } from "../fusenative/operations.ts";
import { HostError } from "./errors.ts";
import { IdleEnd, IdleWatch } from "./idle.ts";
import type { PinOutcome, PullOutcome, RemoteState } from "./logmessages.ts";
import { LogThread, logOrder, notFollowing } from "./logthread.ts";
import type { DetachOrder, DetachReport } from "./messages.ts";
import type { MountEnd, Mounted, MountOptions, MountStatus } from "./mount.ts";
import { FS_TYPE, mountedAt } from "./mounts.ts";
import { startMount, volumeOptions } from "./start.ts";
import { visitRoot } from "./visitor.ts";

/** How often it is looked whether the mount is still there. */
const WATCH_MS = 200;
/** The volume gets its turn so long after an operation, at the latest. */
const TURN_MS = 10;
/** libfuse's rename follows what it has hidden for it within microseconds. */
const RENAME_FOLLOWS_MS = 100;
/** When background work failed it is tried again after this long. */
const RETRY_MS = 1000;
/** What fuse-native has room for, in bytes. */
const TEXT_MAX = 1000;
const DEVICE = "/dev/fuse";
/** For how long the kernel may know a name. */
const ENTRY_TIMEOUT_SEC = 1;
const DATES_LOST =
  "this transport cannot set one time of a file alone with this libfuse: `tar -x` and `touch -m` lose dates without an " +
  "error; see what fuse-native cannot do in README.md";

export class NativeMount implements Mounted {
  readonly closed: Promise<MountEnd>;
  readonly mountpoint: string;
  readonly #options: MountOptions;
  readonly #key: Key;
  readonly #log: Log;
  readonly #volume: Volume;
  readonly #since = new Date();
  /** Whose operations are served: none after the end. */
  readonly #server: { operations: Operations | undefined };
  /** Of /dev/fuse, libfuse's own. */
  #descriptor: string | undefined;
  #device: string | undefined;
  #turn: NodeJS.Timeout | undefined;
  #turnAtMs = 0;
  #watch: NodeJS.Timeout | undefined;
  #idle: IdleWatch | undefined;
  #settle: (end: MountEnd) => void = () => {};
  #logThread: LogThread | undefined;
  #warning: string | undefined;
  /** Nobody is served any more. */
  #ended = false;
  #closed = false;
  #failed = false;
  #lastUse = 0;
  #requests = 0;
  #bytesRead = 0;
  #bytesWritten = 0;
  #errors = 0;
  readonly #damaged = new Set<number>();

  /** Opens the volume and mounts it; resolves when the mount answers. @throws OpenError, HostError, BindingError */
  static async start(options: MountOptions, key: Key, log: Log): Promise<NativeMount> {
    refuseUnsupported(options);
    return await startMount(
      // The caller wipes the key when this returns, and the volume needs it until it is closed.
      () => new NativeMount(options, Key.fromMessage(key.toMessage()), log),
      (mount) => mount.#start(),
    );
  }

  private constructor(options: MountOptions, key: Key, log: Log) {
    this.#options = options;
    this.#key = key;
    this.#log = log;
    this.mountpoint = options.mountpoint;
    try {
      const onLog = (line: string): void => log("warn", line);
      this.#volume = Volume.open(options.path, key, volumeOptions(options, onLog));
    } catch (error) {
      key.wipe();
      throw error;
    }
    const caller = { uid: process.geteuid?.() ?? 0, gid: process.getegid?.() ?? 0, umask: 0 };
    const owner = { uid: options.uid, gid: options.gid };
    this.#server = { operations: new Operations(this.#volume, { caller, owner }) };
    this.closed = new Promise<MountEnd>((resolve) => {
      this.#settle = resolve;
    }).finally(() => key.wipe());
  }

  async #start(): Promise<void> {
    const before = fuseDescriptors();
    const answers = new Promise<void>((resolve) => {
      const options = libfuseWords({ ...this.#options, readOnly: this.#volume.readOnly });
      const place = { mountpoint: this.mountpoint, options, entryTimeoutSec: ENTRY_TIMEOUT_SEC };
      try {
        const keepsDates = mountNative(place, this.#server, {
          onReady: resolve,
          onAnswered: (name, result) => {
            this.#requests++;
            if (name === "read" && result > 0) this.#bytesRead += result;
            if (name === "write" && result > 0) this.#bytesWritten += result;
            if (name !== "statfs") this.#lastUse = Date.now();
            this.#turnSoon();
          },
          onFault: (name, error) => this.#onFault(name, error),
          onTrace: this.#options.trace ? (line) => this.#log("debug", line) : undefined,
        });
        this.#descriptor = fuseDescriptors().find((fd) => !before.includes(fd));
        if (!keepsDates) this.#warning = DATES_LOST;
      } catch (error) {
        if (!(error instanceof Error && /^fuse failed/.test(error.message))) throw error;
        throw new HostError(
          "mountpoint-missing",
          `${this.mountpoint}: libfuse cannot mount there, for the reason that it gave`,
        );
      }
    });
    await answers;
    this.#device = mountedAt(this.mountpoint)?.device;
    this.#watch = setInterval(() => this.#look(), WATCH_MS);
    // So that the first who comes finds the true root.
    await visitRoot(this.mountpoint).catch(() => {});
    if (this.#volume.at === undefined && this.#volume.remotes.list().length > 0) this.#startLog();
    const { idleTimeoutMs } = this.#options;
    if (idleTimeoutMs === undefined || this.#ended) return;
    const lastUse = (): number => this.#lastUse || this.#since.getTime();
    this.#idle = new IdleWatch(new IdleEnd(this, lastUse, idleTimeoutMs, this.#log), idleTimeoutMs);
  }

  /** Begins to follow or to push, where that can be and is wanted. */
  #startLog(): void {
    if (this.#logThread !== undefined || this.#ended) return;
    const order = logOrder(this.#options, this.#key, this.#volume);
    if (order !== undefined) this.#logThread = new LogThread(order, this, this.#log);
  }

  /** A segment was applied. The kernel keeps nothing here but names, for a second. */
  async changed(): Promise<void> {
    this.#server.operations?.changed();
  }

  /** Nothing is wanted over this transport: what is away is EIO there. */
  fetched(): void {}

  async pin(ino: Ino, isPinned: boolean): Promise<PinOutcome> {
    if (!this.#volume.follows || this.#logThread === undefined) throw notFollowing(this.mountpoint);
    return await this.#logThread.pin(ino, isPinned);
  }

  async pull(): Promise<PullOutcome> {
    if (!this.#volume.follows || this.#logThread === undefined) throw notFollowing(this.mountpoint);
    return await this.#logThread.pull();
  }

  // --- the volume's turns

  #turnSoon(): void {
    const nowMs = performance.now();
    if (this.#turn !== undefined && this.#turnAtMs <= nowMs + TURN_MS) return;
    this.#turnIn(TURN_MS);
  }

  #turnIn(delayMs: number): void {
    clearTimeout(this.#turn);
    this.#turnAtMs = performance.now() + delayMs;
    this.#turn = setTimeout(() => this.#takeTurn(), delayMs);
  }

  #takeTurn(): void {
    this.#turn = undefined;
    const { operations } = this.#server;
    if (operations === undefined) return;
    let sleepMs = RETRY_MS;
    try {
      sleepMs = operations.settle(RENAME_FOLLOWS_MS) ? this.#volume.idle(performance.now()) : TURN_MS;
    } catch (error) {
      this.#log("error", `idle: ${describeFault(error)}`);
    }
    this.#lookForFailure();
    if (Number.isFinite(sleepMs)) this.#turnIn(Math.max(0, sleepMs));
  }

  #onFault(name: string, error: unknown): void {
    this.#errors++;
    this.#lookForFailure();
    if (!(error instanceof DamageError) || error.ino === undefined) {
      this.#log("error", `${name}: ${describeFault(error)}`);
      return;
    }
    // Once per file: a reader that tries again and again must not fill the log.
    if (this.#damaged.has(error.ino)) return;
    this.#damaged.add(error.ino);
    const path = this.#volume.pathOf(error.ino as Ino) ?? `inode ${error.ino}`;
    this.#log("error", `${name}: ${path} is damaged: ${error.message}`);
  }

  #lookForFailure(): void {
    if (this.#failed || !this.#volume.failed) return;
    this.#failed = true;
    this.#server.operations?.lost();
    this.#log("error", `${this.#options.path}: a commit failed; the mount is read-only from now on`);
  }

  // --- the end

  #look(): void {
    if (this.#descriptor !== undefined && !isFuse(this.#descriptor)) void this.#end(false);
  }

  /** Closes the volume, once, when what is left to be pushed has gone. libfuse's threads get refusals from now on. */
  async #end(hurry: boolean): Promise<void> {
    if (this.#ended) return;
    this.#ended = true;
    clearInterval(this.#watch);
    clearTimeout(this.#turn);
    this.#idle?.stop();
    const { operations } = this.#server;
    this.#server.operations = undefined;
    const failed = this.#volume.failed;
    let clean = !failed;
    try {
      operations?.settle();
      this.#volume.commit();
    } catch (error) {
      clean = false;
      this.#log("error", `closing: ${describeFault(error)}`);
    }
    await this.#logThread?.leave(hurry);
    this.#closed = true;
    try {
      this.#volume.close();
    } catch (error) {
      clean = false;
      this.#log("error", `closing: ${describeFault(error)}`);
    }
    this.#settle({ clean });
  }

  get warning(): string | undefined {
    return this.#warning;
  }

  status(): MountStatus {
    const { idleTimeoutMs, historyMs } = this.#options;
    const { at } = this.#volume;
    return {
      pid: process.pid,
      path: this.#options.path,
      mountpoint: this.mountpoint,
      readOnly: this.#volume.readOnly,
      ...(at === undefined ? {} : { at: at.name }),
      ...(historyMs === undefined ? {} : { historyMs }),
      since: this.#since.toISOString(),
      lastUse: new Date(this.#lastUse || this.#since.getTime()).toISOString(),
      ...(idleTimeoutMs === undefined ? {} : { idleTimeoutMs }),
      requests: this.#requests,
      bytesRead: this.#bytesRead,
      bytesWritten: this.#bytesWritten,
      errors: this.#errors,
      lookups: this.#closed ? 0 : this.#volume.inodes.references,
      uncommittedMs: this.#closed ? 0 : Math.round(this.#volume.uncommittedMs(performance.now())),
      failed: this.#failed,
      protocol: "fuse-native",
      operations: [],
    };
  }

  async sync(): Promise<void> {
    try {
      if (this.#ended) {
        if (!(await this.closed).clean) throw new Error("the mount ended");
      } else {
        this.#server.operations?.settle();
        this.#volume.commit();
      }
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      throw new HostError("engine", `${this.#options.path}: cannot be committed: ${why}`);
    } finally {
      this.#lookForFailure();
    }
  }

  async history(order: HistoryOrder): Promise<HistoryOutcome> {
    return this.#obey(() => obeyHistory(this.#volume.history, order));
  }

  async remote(order: RemoteOrder): Promise<RemoteOutcome> {
    const outcome = this.#obey(() => obeyRemotes(this.#volume.remotes, order));
    if (outcome.ok && order.do === "add") this.#startLog();
    return outcome;
  }

  async remoteStates(): Promise<readonly RemoteState[] | undefined> {
    return await this.#logThread?.states();
  }

  #obey<T>(work: () => T): T | { readonly ok: false; readonly code: "EIO" } {
    if (this.#closed) return { ok: false, code: "EIO" };
    try {
      this.#server.operations?.settle();
      return work();
    } finally {
      this.#lookForFailure();
      if (!this.#ended) this.#turnSoon();
    }
  }

  async unmount(lazy: boolean): Promise<void> {
    if (!this.#isShown()) throw new HostError("not-mounted", `${this.mountpoint}: is not mounted`);
    await detachElsewhere({ mountpoint: this.mountpoint, lazy });
  }

  #isShown(): boolean {
    return this.#device !== undefined && mountedAt(this.mountpoint)?.device === this.#device;
  }

  async close(hurry = true): Promise<void> {
    void this.#end(hurry);
    await this.closed;
    if (this.#isShown())
      await detachElsewhere({ mountpoint: this.mountpoint, lazy: true }).catch((error: unknown) =>
        this.#log("error", describeFault(error)),
      );
  }
}

/** @throws HostError */
function refuseUnsupported(options: MountOptions): void {
  assert(!options.allowOther && !options.writeback, "fuse-native has neither");
  if (options.mountpoint.startsWith("/dev/fd/"))
    throw new HostError("no-fuse", "fuse-native mounts by itself: it cannot take a descriptor of a mount");
}

/** What libfuse 2 is told. @throws HostError where there are too many bytes for fuse-native */
function libfuseWords(options: MountOptions): string {
  // A comma in a value would begin the next option.
  const fsname = options.fsname.replace(/[\\,]/g, "\\$&");
  const words = [
    // Inode numbers and link counts are the volume's; each path of a file has attributes and names of its own in the
    // kernel, so none may be kept for longer than one use.
    ...[
      "use_ino",
      "attr_timeout=0",
      `entry_timeout=${ENTRY_TIMEOUT_SEC}`,
      "negative_timeout=0",
      "big_writes",
    ],
    options.readOnly ? "ro" : "rw",
    options.suid ? "suid" : "nosuid",
    options.dev ? "dev" : "nodev",
    ...(options.exec ? [] : ["noexec"]),
    ...(options.noatime ? ["noatime"] : []),
    ...(options.defaultPermissions ? ["default_permissions"] : []),
    `subtype=${FS_TYPE.slice("fuse.".length)}`,
    `fsname=${fsname}`,
  ];
  const text = `-o${words.join(",")}`;
  if (Buffer.byteLength(text) > TEXT_MAX || Buffer.byteLength(options.mountpoint) > TEXT_MAX)
    throw new HostError("mountpoint-missing", `${options.mountpoint}: too long a name for fuse-native`);
  return text;
}

/** The descriptors of /dev/fuse in this process. */
function fuseDescriptors(): string[] {
  return process.platform === "linux" ? readdirSync("/proc/self/fd").filter(isFuse) : [];
}

function isFuse(descriptor: string): boolean {
  try {
    return readlinkSync(`/proc/self/fd/${descriptor}`) === DEVICE;
  } catch {
    return false;
  }
}

/** @throws HostError busy, not-mounted, not-permitted */
async function detachElsewhere(order: DetachOrder): Promise<void> {
  const worker = new Worker(new URL("./detacher.js", import.meta.url), { workerData: order });
  const report = await new Promise<DetachReport>((resolve, reject) => {
    worker.once("message", resolve);
    worker.once("error", reject);
  });
  if (!report.done) throw new HostError(report.reason, report.message);
}
