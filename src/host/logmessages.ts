/**
 * What the main thread and the thread that keeps the log of a mounted volume say to each other: plain tagged objects. Who
 * asks puts a number into the question, and the answer has the same.
 */
import type { LogLevel } from "../base/log.ts";
import type { RemoteOrder, RemoteOutcome } from "../core/remotes.ts";
import type { BlockNo } from "../core/types.ts";
import type { KeyMessage } from "../db/key.ts";
import type { Fetched } from "../log/follower.ts";
import type { Lag } from "../log/lag.ts";
import type { Arrival } from "../log/ondemand.ts";
import type { FollowResult } from "../log/replica.ts";
import type { TouchedRows } from "../log/touched.ts";
import type { LogReason } from "../remote/errors.ts";

/** How the thread is started. */
export interface LogOrder {
  readonly path: string;
  readonly key: KeyMessage;
  readonly role: LogRole;
  /** How often it looks whether there is something to do; 0: when it is told to. */
  readonly intervalMs: number;
  readonly bytesPerSecond: number | undefined;
}

/** A volume that is mounted for writing pushes to its remotes; a replica follows the one that it was made from. */
type LogRole = "push" | "follow";

/** How a remote is, as the thread knows. */
export interface RemoteState extends Lag {
  /** Something goes there or comes from there now. */
  readonly busy: boolean;
  /** Why the last try failed, and when the first of those was that did: absent where it is well. */
  readonly error?: string;
  readonly failingSince?: string;
}

/** What a pull brought, as JSON can carry it: bytes are hexadecimal digits, nanoseconds a number in decimal. */
export interface Pulled extends Omit<FollowResult, "hash" | "volume" | "log" | "createdNs"> {
  readonly hash: string;
  readonly volume: string;
  readonly log: string;
  readonly createdNs: string;
}

/** Or why it failed: `reason` is of a LogError. */
export type PullOutcome =
  | ({ readonly ok: true } & Pulled)
  | { readonly ok: false; readonly reason?: LogReason; readonly message: string };

export type PinOutcome =
  /** What was fetched for it; `wasPinned`: before. */
  | ({ readonly ok: true; readonly wasPinned: boolean } & Pick<Fetched, "blocks" | "bytes">)
  | { readonly ok: false; readonly reason?: LogReason; readonly message: string };

/** What is wanted of the blocks of a partial replica, by their numbers. */
export interface Wants {
  readonly wanted: readonly BlockNo[];
  readonly next: readonly BlockNo[];
  readonly used: readonly BlockNo[];
}

/** What became of blocks that were wanted: see Readers of src/log/ondemand.ts. */
export type Came =
  | { readonly how: "arrived"; readonly blocks: readonly Arrival[] }
  | { readonly how: "recorded" | "refused"; readonly blocks: readonly BlockNo[] };

export type ToLog =
  /** What became of an order. */
  | { readonly type: "obeyed"; readonly id: number; readonly outcome: RemoteOutcome }
  | { readonly type: "status"; readonly id: number }
  | { readonly type: "pull"; readonly id: number }
  /** Who reads waits for the content of `wanted`, and will want that of `next`; `used` were read since the last time. */
  | ({ readonly type: "fetch" } & Wants)
  /** A tree is always to be here, or that no more. */
  | { readonly type: "pin"; readonly id: number; readonly ino: number; readonly isPinned: boolean }
  /** Nobody keeps anything of the state before any more. */
  | { readonly type: "told"; readonly id: number }
  /** The mount is gone: there are so many milliseconds for what is left to do. */
  | { readonly type: "leave"; readonly graceMs: number };

export type FromLog =
  | { readonly type: "log"; readonly level: LogLevel; readonly line: string }
  /** Only who serves the volume writes to it. */
  | { readonly type: "order"; readonly id: number; readonly order: RemoteOrder }
  | { readonly type: "status"; readonly id: number; readonly remotes: readonly RemoteState[] }
  | { readonly type: "pulled"; readonly id: number; readonly outcome: PullOutcome }
  | { readonly type: "pinned"; readonly id: number; readonly outcome: PinOutcome }
  | { readonly type: "fetched"; readonly came: Came }
  /** A segment was applied, and touched this. */
  | { readonly type: "changed"; readonly id: number; readonly touched: TouchedRows };

/** What is asked of the thread, and what it answers. */
export interface LogAnswers {
  readonly pin: Extract<FromLog, { type: "pinned" }>;
  readonly status: Extract<FromLog, { type: "status" }>;
  readonly pull: Extract<FromLog, { type: "pulled" }>;
}

/** What of it is handed over and not copied: whoever sends it lets go of it. */
export function contentsOf(came: Came): ArrayBuffer[] {
  return came.how === "arrived" ? came.blocks.map(({ content }) => content.buffer as ArrayBuffer) : [];
}
