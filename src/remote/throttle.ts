/**
 * A limit of bytes in a second: whoever moves some takes them first, and waits until it is their turn.
 *
 * What is taken is owed, and waited for by the next, so that a piece may be larger than what a moment allows. What was not
 * used is kept for a moment only: after a pause nothing goes faster than for that moment.
 */
import { setTimeout as wait } from "node:timers/promises";

/** Seconds for which what was not used is kept. */
const KEPT_S = 0.25;
/** The most bytes that are moved at a time. */
const PIECE_BYTES = 65_536;

/** Where the time comes from: tests bring their own. */
export interface Timing {
  /** Milliseconds, from some moment on. */
  now(): number;
  sleep(ms: number, signal: AbortSignal | undefined): Promise<void>;
}

export const REAL_TIMING: Timing = {
  now: () => performance.now(),
  sleep: async (ms, signal) => {
    // What a signal stopped says so by its own reason, not as a timer that was aborted.
    await wait(ms, undefined, signal === undefined ? {} : { signal }).catch(() => {});
    signal?.throwIfAborted();
  },
};

export class Throttle {
  readonly #bytesPerMs: number;
  readonly #signal: AbortSignal | undefined;
  readonly #timing: Timing;
  /** When all that was taken is paid for. */
  #paidMs = -Infinity;

  constructor(bytesPerSecond: number, signal?: AbortSignal, timing: Timing = REAL_TIMING) {
    this.#bytesPerMs = bytesPerSecond / 1000;
    this.#signal = signal;
    this.#timing = timing;
  }

  get bytesPerSecond(): number {
    return this.#bytesPerMs * 1000;
  }

  /** Bytes that are well moved at a time: some pieces in a second, however slow it is. */
  get pieceBytes(): number {
    return Math.max(1, Math.min(PIECE_BYTES, Math.floor(this.#bytesPerMs * 1000 * KEPT_S)));
  }

  /** Waits until so many more bytes may go. @throws the signal's reason */
  async take(bytes: number): Promise<void> {
    const nowMs = this.#timing.now();
    this.#paidMs = Math.max(this.#paidMs, nowMs - KEPT_S * 1000) + bytes / this.#bytesPerMs;
    const waitMs = this.#paidMs - nowMs;
    if (waitMs > 0) await this.#timing.sleep(waitMs, this.#signal);
    else this.#signal?.throwIfAborted();
  }

  /** Takes `bytes` in pieces, and hands out where each begins and ends. */
  async *pieces(bytes: number): AsyncGenerator<{ readonly from: number; readonly end: number }> {
    for (let from = 0; from < bytes; from += this.pieceBytes) {
      const end = Math.min(bytes, from + this.pieceBytes);
      await this.take(end - from);
      yield { from, end };
    }
  }
}
