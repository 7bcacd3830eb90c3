/**
 * The thread that serves one mount: it opens the volume, answers the kernel, and closes the volume when the
 * kernel lets go. From "serve" on its event loop stands still; what the main thread has to say is fetched when
 * it rings.
 */
import { type MessagePort, parentPort, receiveMessageOnPort, workerData } from "node:worker_threads";
import { assert } from "../base/assert.ts";
import { DamageError } from "../base/errno.ts";
import type { LogLevel } from "../base/log.ts";
import { OpenError } from "../core/errors.ts";
import { obeyHistory } from "../core/history.ts";
import { Visiting } from "../core/partial.ts";
import { obeyRemotes } from "../core/remotes.ts";
import type { BlockNo } from "../core/types.ts";
import { DEFAULT_CACHE_BYTES, Volume } from "../core/volume.ts";
import { Key } from "../db/key.ts";
import { Connection } from "../fuse/device.ts";
import type { PastSource } from "../fuse/hidden.ts";
import { Session } from "../fuse/session.ts";
import { pageSize } from "../native/libc.ts";
import { AideThread } from "./aide.ts";
import type { Came } from "./logmessages.ts";
import type { FromWorker, Opened, Refusal, ToWorker, WorkerOrder } from "./messages.ts";
import { volumeOptions } from "./start.ts";

assert(parentPort !== null, "worker.ts runs as a worker");
const port: MessagePort = parentPort;
const order = workerData as WorkerOrder;
const cacheBytes = order.cacheBytes ?? DEFAULT_CACHE_BYTES;
/** The aide's page cache, beside the volume's: what it reads in long runs is read once. */
const AIDE_SHARE = 1 / 8;

/** Of a partial replica: what was fetched and is not recorded yet, for the present and the past. */
const visiting = new Visiting();
/** Of each snapshot that is looked at inside the mount. */
const VIEW_CACHE_BYTES = 8 * 2 ** 20;

function tell(message: FromWorker): void {
  port.postMessage(message);
}

function log(level: LogLevel, line: string): void {
  tell({ type: "log", level, line });
}

function textOf(error: unknown): string {
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}

function refusalOf(error: unknown): Refusal {
  if (!(error instanceof Error)) return { name: "Error", message: String(error) };
  const { name, message } = error;
  if (!(error instanceof OpenError)) return { name, message };
  const refusal = { name, message, reason: error.reason, path: error.path };
  return error.pid === undefined ? refusal : { ...refusal, pid: error.pid };
}

function openVolume(key: Key): Volume | undefined {
  try {
    return Volume.open(order.path, key, {
      ...volumeOptions(order, (line) => log("warn", line)),
      answersFirst: true,
      copier: aide,
      visiting,
    });
  } catch (error) {
    tell({ type: "refused", refusal: refusalOf(error) });
    return undefined;
  }
}

function serve(volume: Volume, fd: number): boolean {
  // Without a trace: it would miss what the aide answers.
  if (!volume.readOnly && !order.trace)
    aide.start(volume.path, key, cacheBytes * AIDE_SHARE, fd, order.wakeFd);
  const session: Session = new Session(new Connection(fd, order.wakeFd), volume, {
    writeback: order.writeback,
    defaultPermissions: order.defaultPermissions,
    uid: order.uid,
    gid: order.gid,
    timeoutSec: order.timeoutSec,
    pageSize: pageSize(),
    secondReader: aide,
    past: volume.at === undefined ? pastOf(volume) : undefined,
    fetcher: volume.isPartial ? { fetch: (wanted, next) => wants(volume, wanted, next) } : undefined,
    followed: volume.follows ? () => volume.followed : undefined,
    onWriteBack: () => tell({ type: "writeBack" }),
    counters: new Float64Array(order.counters),
    costs: new Float64Array(order.costs),
    onLog: (line) => log("error", line),
    onTrace: order.trace ? (line) => log("debug", line) : undefined,
    onReady: () => tell({ type: "ready" }),
    onFailed: (lost) => tell({ type: "failed", lost }),
    onWake: () => {
      for (let got = receiveMessageOnPort(port); got !== undefined; got = receiveMessageOnPort(port))
        obey(got.message as ToWorker);
    },
  });
  const obey = (message: ToWorker): void => {
    if (message.type === "stop") session.stop();
    else if (message.type === "writtenBack") session.writtenBack();
    else if (message.type === "fetched") takeIn(session, message.came);
    else if (message.type === "changed")
      tell({ type: "stale", id: message.id, stale: session.changed(message.touched) });
    else obeyOrder(volume, message);
  };
  try {
    const end = session.run();
    if (end === "aborted") log("warn", "the connection to the kernel was aborted");
    return true;
  } catch (error) {
    log("error", textOf(error));
    return false;
  } finally {
    session.close();
  }
}

function wants(volume: Volume, wanted: readonly BlockNo[], next: readonly BlockNo[]): void {
  tell({ type: "fetch", wanted, next, used: volume.takeUsed() });
}

/** What came visits until it can be read in the replica, and who waits for it is answered. */
function takeIn(session: Session, came: Came): void {
  switch (came.how) {
    case "arrived":
      for (const { block, id, content } of came.blocks) visiting.add(block, { id, content });
      session.arrived(came.blocks.map(({ block }) => block));
      break;
    case "recorded":
      for (const block of came.blocks) visiting.drop(block);
      session.arrived(came.blocks);
      break;
    case "refused":
      session.refused(came.blocks);
  }
}

/** What can be wanted of a volume whether it is served or not. */
function obeyOrder(volume: Volume, message: ToWorker): void {
  if (message.type === "history") {
    const outcome = orEio(() => obeyHistory(volume.history, message.order));
    tell({ type: "history", id: message.id, outcome });
  }
  if (message.type === "remote") {
    const outcome = orEio(() => obeyRemotes(volume.remotes, message.order));
    tell({ type: "remote", id: message.id, outcome });
  }
  if (message.type === "sync") tell({ type: "synced", id: message.id, ...commit(volume) });
}

/** Damage that an order meets is told to whoever gave it: the mount lives on. */
function orEio<T>(obey: () => T): T | { readonly ok: false; readonly code: "EIO" } {
  try {
    return obey();
  } catch (error) {
    log("error", error instanceof DamageError ? error.message : textOf(error));
    return { ok: false, code: "EIO" };
  }
}

/** Views of the past, on connections of their own. */
function pastOf({ path, history }: Volume): PastSource {
  return {
    history,
    tampered: (node) => tell({ type: "tampered", node }),
    open(epoch) {
      try {
        const onLog = (line: string): void => log("warn", line);
        return Volume.open(path, key, { at: { epoch }, cacheBytes: VIEW_CACHE_BYTES, onLog, visiting });
      } catch (error) {
        if (error instanceof OpenError && error.reason === "no-snapshot") return undefined;
        throw error;
      }
    },
  };
}

function commit(volume: Volume): { error?: string } {
  try {
    volume.commit();
    return {};
  } catch (error) {
    return { error: error instanceof Error ? error.message : String(error) };
  }
}

function closeVolume(volume: Volume): boolean {
  const failed = volume.failed;
  try {
    volume.close();
    return !failed;
  } catch (error) {
    log("error", `closing: ${textOf(error)}`);
    return false;
  }
}

function foundIn({ readOnly, at, follows, remotes }: Volume): Opened {
  return { readOnly, at, follows, hasRemotes: at === undefined && remotes.list().length > 0 };
}

function finish(volume: Volume, served: boolean): void {
  const closed = closeVolume(volume);
  key.wipe();
  tell({ type: "closed", clean: served && closed });
  port.close();
}

const aide = new AideThread();
const key = Key.fromMessage(order.key);
const volume = openVolume(key);
if (volume === undefined) {
  key.wipe();
} else {
  tell({ type: "opened", ...foundIn(volume) });
  port.once("message", (message: ToWorker) => {
    // "stop" here: the mount could not be made.
    const served = message.type === "serve" ? serve(volume, message.fd) : true;
    aide.stop();
    // What cannot be committed now is told when the volume is closed.
    commit(volume);
    // Whoever pushes has orders until the main thread says that it is enough.
    port.on("message", (later: ToWorker) => {
      if (later.type === "close") finish(volume, served);
      else obeyOrder(volume, later);
    });
    tell({ type: "ended" });
  });
}
