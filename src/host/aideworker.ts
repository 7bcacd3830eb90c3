/** The aide's thread: takes orders from the mailbox until it is told to stop. */
import { workerData } from "node:worker_threads";
import { Aide } from "../core/aide.ts";
import { Key } from "../db/key.ts";
import { OutHeader } from "../fuse/kernel.ts";
import { Reply } from "../fuse/message.ts";
import { MAX_TRANSFER } from "../fuse/session.ts";
import { write } from "../native/libc.ts";
import type { AideOrder } from "./aide.ts";
import { Mailbox, STATE } from "./mailbox.ts";

const RING = new Uint8Array(new BigUint64Array([1n]).buffer);

const order = workerData as AideOrder;
const box = new Mailbox(order.memory);
const key = Key.fromMessage(order.key);
const reply = new Reply(MAX_TRANSFER + OutHeader.size);

/** Answers the READ in the mailbox. False where it cannot, and has not. */
function answer(aide: Aide): boolean {
  try {
    return tryAnswer(aide);
  } catch {
    return false;
  }
}

function tryAnswer(aide: Aide): boolean {
  const { unique0, unique1, plan } = box.getRead();
  let done = 0;
  for (const { block, from, at, length } of plan.parts) {
    reply.zero(done, at - done);
    if (!aide.read(block, from, reply.body.subarray(at, at + length))) return false;
    done = at + length;
  }
  reply.zero(done, plan.length - done);
  write(order.fd, reply.bytes, reply.finishAs(unique0, unique1, 0, plan.length));
  return true;
}

/** Frames that are copied now; 0 where nothing could be: whoever writes finds out why when he copies himself. */
function copy(aide: Aide): number {
  try {
    return aide.copyWal() ?? 0;
  } catch {
    return 0;
  }
}

function run(aide: Aide): void {
  box.state = STATE.idle;
  for (;;) {
    const { state } = box;
    if (state === STATE.stop) return;
    if (state === STATE.copy) {
      box.setCopied(copy(aide));
      box.state = STATE.idle;
    } else if (state === STATE.read) {
      const answered = answer(aide);
      box.state = answered ? STATE.idle : STATE.returned;
      if (!answered) write(order.wakeFd, RING, RING.length);
    } else {
      box.waitWhile(state);
    }
  }
}

/** Opens the volume, unless it is closed by now. */
function live(): void {
  if (!box.move(STATE.starting, STATE.opening)) return;
  const aide = new Aide(order.path, key, order.cacheBytes);
  try {
    run(aide);
  } finally {
    aide.close();
  }
}

try {
  live();
} finally {
  key.wipe();
  box.state = STATE.gone;
}
