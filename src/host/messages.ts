/** What the main thread and the worker that serves a mount say to each other: plain tagged objects. */
import type { LogLevel } from "../base/log.ts";
import type { OpenReason } from "../core/errors.ts";
import type { HistoryOrder, HistoryOutcome, Snapshot } from "../core/history.ts";
import type { RemoteOrder, RemoteOutcome } from "../core/remotes.ts";
import type { At, Ino } from "../core/types.ts";
import type { KeyMessage } from "../db/key.ts";
import type { Stale } from "../fuse/session.ts";
import type { TouchedRows } from "../log/touched.ts";
import type { HostReason } from "./errors.ts";
import type { Came, Wants } from "./logmessages.ts";

/** How the worker is started. */
export interface WorkerOrder {
  readonly path: string;
  readonly key: KeyMessage;
  readonly readOnly: boolean;
  readonly noatime: boolean;
  readonly sync: boolean;
  readonly commitIntervalMs: number;
  /** Undefined: as a volume has by default. */
  readonly cacheBytes: number | undefined;
  readonly headFile: string | undefined;
  readonly at: At | undefined;
  readonly historyMs: number | undefined;
  readonly writeback: boolean;
  readonly defaultPermissions: boolean;
  readonly uid: number | undefined;
  readonly gid: number | undefined;
  readonly timeoutSec: number | undefined;
  readonly trace: boolean;
  /** `COUNTERS` figures that the worker writes and the main thread reads. */
  readonly counters: SharedArrayBuffer;
  readonly costs: SharedArrayBuffer;
  /** Rung by the main thread after it posted something. */
  readonly wakeFd: number;
}

export type ToWorker =
  | { readonly type: "serve"; readonly fd: number }
  | { readonly type: "sync"; readonly id: number }
  | { readonly type: "writtenBack" }
  | { readonly type: "history"; readonly id: number; readonly order: HistoryOrder }
  | { readonly type: "remote"; readonly id: number; readonly order: RemoteOrder }
  /** What was wanted of a partial replica came, or did not. */
  | { readonly type: "fetched"; readonly came: Came }
  /** Another thread changed this of a replica. */
  | { readonly type: "changed"; readonly id: number; readonly touched: TouchedRows }
  /** Stop serving, although the kernel has not let go. */
  | { readonly type: "stop" }
  /** Close the volume: nobody has orders any more. */
  | { readonly type: "close" };

export type FromWorker =
  | ({ readonly type: "opened" } & Opened)
  | { readonly type: "refused"; readonly refusal: Refusal }
  | { readonly type: "ready" }
  | { readonly type: "log"; readonly level: LogLevel; readonly line: string }
  | { readonly type: "failed"; readonly lost: Stale }
  /** Have the kernel write back what it holds, and say so. */
  | { readonly type: "writeBack" }
  /** The kernel holds what is not so of this node. */
  | { readonly type: "tampered"; readonly node: Ino }
  | { readonly type: "synced"; readonly id: number; readonly error?: string }
  | { readonly type: "history"; readonly id: number; readonly outcome: HistoryOutcome }
  | { readonly type: "remote"; readonly id: number; readonly outcome: RemoteOutcome }
  /** Whoever asks from now on is served by the new state; the kernel is to forget what it keeps of the old one. */
  | { readonly type: "stale"; readonly id: number; readonly stale: Stale }
  /** Somebody reads what is away. */
  | ({ readonly type: "fetch" } & Wants)
  /** Nobody is served any more; orders still are. */
  | { readonly type: "ended" }
  | { readonly type: "closed"; readonly clean: boolean };

/** What was found when the volume was opened. */
export interface Opened {
  readonly readOnly: boolean;
  readonly at: Snapshot | undefined;
  /** It is a replica that may be changed by another thread. */
  readonly follows: boolean;
  readonly hasRemotes: boolean;
}

/** An error of opening, as it survives the way between threads. */
export interface Refusal {
  readonly name: string;
  readonly message: string;
  readonly reason?: OpenReason;
  readonly path?: string;
  readonly pid?: number;
}

/** To the worker that unmounts what the main thread serves. */
export interface DetachOrder {
  readonly mountpoint: string;
  readonly lazy: boolean;
}

export type DetachReport =
  | { readonly done: true }
  | { readonly done: false; readonly reason: HostReason; readonly message: string };
