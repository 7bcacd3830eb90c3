/**
 * The thread that keeps the log of a mounted volume. It has an event loop, connections of its own, and the lowest
 * priority: who waits for the mount goes before it.
 */
import { setPriority } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { parentPort, workerData } from "node:worker_threads";
import { assert } from "../base/assert.ts";
import { FsError } from "../base/errno.ts";
import type { LogLevel } from "../base/log.ts";
import type { RemoteOrder, RemoteOutcome } from "../core/remotes.ts";
import { Key } from "../db/key.ts";
import type { FromLog, LogOrder, ToLog } from "./logmessages.ts";
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
    case "status":
      tell({ type: "status", id: message.id, remotes: work.states() });
      break;
    case "leave":
      await work.leave(message.graceMs);
      key.wipe();
      port.close();
  }
}

stepBack();
const work = new Pushing({ path: order.path, key, intervalMs: order.intervalMs, log, order: have });
port.on("message", (message: ToLog) => void hear(message));
