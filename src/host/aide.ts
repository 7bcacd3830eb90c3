/** The serving thread's end of its aide: a thread that copies the -wal and answers READs of committed data meanwhile. */
import { Worker } from "node:worker_threads";
import type { ReadPlan } from "../core/files.ts";
import type { WalCopier } from "../core/walkeeper.ts";
import type { Key, KeyMessage } from "../db/key.ts";
import type { SecondReader } from "../fuse/server.ts";
import { Mailbox, STATE } from "./mailbox.ts";

/** How the aide is started. */
export interface AideOrder {
  readonly path: string;
  readonly key: KeyMessage;
  readonly cacheBytes: number;
  /** Of a Mailbox. */
  readonly memory: SharedArrayBuffer;
  /** /dev/fuse. */
  readonly fd: number;
  /** Rung when a READ is given back. */
  readonly wakeFd: number;
}

/** It ends between two orders, and an order takes no longer than a slow disk does. */
const STOP_MS = 30_000;
/** It loads what it needs in some tenths of a second, or never. */
const LOAD_MS = 2000;

export class AideThread implements WalCopier, SecondReader {
  readonly #box = new Mailbox();
  #isStarted = false;

  constructor() {
    this.#box.takeCopied();
  }

  /** Before this it is busy. `path`: of the volume, which is open. `cacheBytes`: of the aide's own page cache. */
  start(path: string, key: Key, cacheBytes: number, fd: number, wakeFd: number): void {
    this.#isStarted = true;
    const order: AideOrder = {
      path,
      key: key.toSharedMessage(),
      cacheBytes,
      memory: this.#box.memory,
      fd,
      wakeFd,
    };
    const worker = new Worker(new URL("./aideworker.js", import.meta.url), { workerData: order });
    // The mount does without it.
    worker.on("error", () => {}).unref();
  }

  copy(): boolean {
    if (this.#box.state !== STATE.idle) return false;
    this.#box.state = STATE.copy;
    return true;
  }

  copied(): number | undefined {
    return this.#box.state === STATE.idle ? this.#box.takeCopied() : undefined;
  }

  wait(): void {
    while (this.#box.state === STATE.copy) this.#box.waitWhile(STATE.copy);
  }

  offer(unique0: number, unique1: number, plan: ReadPlan): boolean {
    if (this.#box.state !== STATE.idle || !this.#box.putRead(unique0, unique1, plan)) return false;
    this.#box.state = STATE.read;
    return true;
  }

  takeBack(): boolean {
    if (this.#box.state !== STATE.returned) return false;
    this.#box.state = STATE.idle;
    return true;
  }

  /**
   * Returns when the aide has closed the volume. One that is still loading is waited for too: a thread that ends takes those
   * that it started with it, and the process dies (SIGABRT) where that meets one that loads native code.
   */
  stop(): void {
    const isLoading = this.#box.move(STATE.starting, STATE.unwanted);
    if (isLoading && !this.#isStarted) return;
    const until = performance.now() + (isLoading ? LOAD_MS : STOP_MS);
    for (;;) {
      const { state } = this.#box;
      const left = until - performance.now();
      if (state === STATE.gone || left <= 0) return;
      if (state === STATE.idle || state === STATE.returned) this.#box.state = STATE.stop;
      else this.#box.waitWhile(state, left);
    }
  }
}
