/**
 * The thread that keeps the log of a mounted volume. It has an event loop, connections of its own, and where it pushes the
 * lowest priority: who waits for the mount goes before it.
 */
import { setPriority } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { parentPort, workerData } from "node:worker_threads";
import { assert } from "../base/assert.ts";
import { FsError } from "../base/errno.ts";
import type { LogLevel } from "../base/log.ts";
import type { RemoteOrder, RemoteOutcome } from "../core/remotes.ts";
import { Key } from "../db/key.ts";
import type { TouchedRows } from "../log/touched.ts";
import { Following } from "./following.ts";
import { type Came, contentsOf, type FromLog, type LogOrder, type ToLog } from "./logmessages.ts";
import { Pushing } from "./pushing.ts";

assert(parentPort !== null, "logworker.ts runs as a worker");
const port = parentPort;
const order = workerData as LogOrder;
const key = Key.fromMessage(order.key);
const LOWEST = 19;
/** Blocks that are noted in one order: about a millisecond of who serves the mount. */
const SLICE = 16;

/** Orders that are not obeyed yet. */
const waiting = new Map<number, (outcome: RemoteOutcome) => void>();
/** Segments that others are being told of. */
const telling = new Map<number, () => void>();
let last = 0;

function tell(message: FromLog): void {
  port.postMessage(message);
}

function log(level: LogLevel, line: string): void {
  tell({ type: "log", level, line });
}

/** Has it done by whoever serves the volume, so that he serves others as long as he works for us. @throws FsError */
async function have(order: RemoteOrder): Promise<number> {
  if (order.do !== "shipped") return await haveAtOnce(order);
  for (let i = 0; i < order.blocks.length; i += SLICE) {
    const fromMs = performance.now();
    await haveAtOnce({ ...order, blocks: order.blocks.slice(i, i + SLICE) });
    await sleep(performance.now() - fromMs);
  }
  return 0;
}

async function haveAtOnce(done: RemoteOrder): Promise<number> {
  const id = ++last;
  const outcome = await new Promise<RemoteOutcome>((resolve) => {
    waiting.set(id, resolve);
    tell({ type: "order", id, order: done });
  });
  if (outcome.ok) return outcome.epoch;
  throw new FsError(outcome.code);
}

/** Tells of a segment; resolves when nobody keeps anything of the state before. */
async function changed(touched: TouchedRows): Promise<void> {
  const id = ++last;
  await new Promise<void>((resolve) => {
    telling.set(id, resolve);
    tell({ type: "changed", id, touched });
  });
}

const NO_REPLICA = {
  ok: false,
  message: `${order.path}: not a replica: it was not made by sqlfuse clone`,
} as const;

/** Hands over content that is also recorded here: a copy of it. */
function came(what: Came): void {
  if (what.how !== "arrived") {
    tell({ type: "fetched", came: what });
    return;
  }
  const blocks = what.blocks.map(({ block, id, content }) => ({ block, id, content: content.slice() }));
  const copied: Came = { how: "arrived", blocks };
  port.postMessage({ type: "fetched", came: copied } satisfies FromLog, contentsOf(copied));
}

function begin(): Pushing | Following {
  const { path, intervalMs, bytesPerSecond } = order;
  const common = { path, key, intervalMs, bytesPerSecond, log };
  return order.role === "push"
    ? new Pushing({ ...common, order: have })
    : new Following({ ...common, changed, came });
}

/** On Linux 0 is the thread that asks; elsewhere it would be the process. */
function stepBack(): void {
  if (process.platform === "linux") setPriority(0, LOWEST);
}

async function hear(message: ToLog): Promise<void> {
  switch (message.type) {
    case "obeyed":
      waiting.get(message.id)?.(message.outcome);
      waiting.delete(message.id);
      break;
    case "told":
      telling.get(message.id)?.();
      telling.delete(message.id);
      break;
    case "status":
      tell({ type: "status", id: message.id, remotes: work.states() });
      break;
    case "pull":
      tell({ type: "pulled", id: message.id, outcome: (await following?.pull()) ?? NO_REPLICA });
      break;
    case "fetch":
      await following?.fetch(message);
      break;
    case "pin": {
      const { id, ino, isPinned } = message;
      tell({ type: "pinned", id, outcome: (await following?.pin(ino, isPinned)) ?? NO_REPLICA });
      break;
    }
    case "leave":
      await work.leave(message.graceMs);
      key.wipe();
      port.close();
  }
}

// Somebody waits for what a partial replica fetches.
if (order.role === "push") stepBack();
const work = begin();
const following = work instanceof Following ? work : undefined;
port.on("message", (message: ToLog) => void hear(message));
