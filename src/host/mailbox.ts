/**
 * The shared memory between the thread that serves a mount and its aide: one order at a time, and no event loop, since
 * the serving thread never returns to its own.
 */
import type { ReadPlan } from "../core/files.ts";
import type { BlockNo } from "../core/types.ts";

/** What the aide does or did. Who finds it idle may order; the aide alone ends an order. */
export const STATE = {
  /** It has not touched the volume; for ever where it was never started or could not be. */
  starting: 0,
  opening: 1,
  idle: 2,
  copy: 3,
  read: 4,
  /** It could not answer the READ. */
  returned: 5,
  stop: 6,
  gone: 7,
  /** To end before it touches the volume. */
  unwanted: 8,
} as const;

const STATE_AT = 0;
const COPIED_AT = 1;
const UNIQUE_AT = 2;
const INTS = 8;
const NUMBERS_AT_BYTES = INTS * Int32Array.BYTES_PER_ELEMENT;
const LENGTH_AT = 0;
const COUNT_AT = 1;
const PARTS_AT = 2;
const PART_NUMBERS = 4;
/** More parts than the largest READ has with blocks of 4 KiB. */
const MOST_PARTS = 272;
/** `copied` while nothing is known. */
const NOT_DONE = -1;

const BYTES = NUMBERS_AT_BYTES + (PARTS_AT + MOST_PARTS * PART_NUMBERS) * Float64Array.BYTES_PER_ELEMENT;

export class Mailbox {
  readonly memory: SharedArrayBuffer;
  readonly #ints: Int32Array;
  readonly #numbers: Float64Array;

  constructor(memory = new SharedArrayBuffer(BYTES)) {
    this.memory = memory;
    this.#ints = new Int32Array(memory, 0, INTS);
    this.#numbers = new Float64Array(memory, NUMBERS_AT_BYTES);
  }

  get state(): number {
    return Atomics.load(this.#ints, STATE_AT);
  }

  set state(state: number) {
    Atomics.store(this.#ints, STATE_AT, state);
    Atomics.notify(this.#ints, STATE_AT);
  }

  /** From one state to another; false, and nothing, where it is in the first one no more. */
  move(from: number, to: number): boolean {
    if (Atomics.compareExchange(this.#ints, STATE_AT, from, to) !== from) return false;
    Atomics.notify(this.#ints, STATE_AT);
    return true;
  }

  /** Sleeps while the state is `state`; at most `ms`. */
  waitWhile(state: number, ms = Number.POSITIVE_INFINITY): void {
    Atomics.wait(this.#ints, STATE_AT, state, ms);
  }

  /** Frames that the last order to copy had copied in the end; told once. */
  takeCopied(): number | undefined {
    const copied = Atomics.exchange(this.#ints, COPIED_AT, NOT_DONE);
    return copied === NOT_DONE ? undefined : copied;
  }

  setCopied(frames: number): void {
    Atomics.store(this.#ints, COPIED_AT, frames);
  }

  /** Lays down an order to answer a READ, whose `unique` is these two words; false where it is too long. */
  putRead(unique0: number, unique1: number, plan: ReadPlan): boolean {
    if (plan.parts.length > MOST_PARTS) return false;
    this.#ints[UNIQUE_AT] = unique0;
    this.#ints[UNIQUE_AT + 1] = unique1;
    this.#numbers[LENGTH_AT] = plan.length;
    this.#numbers[COUNT_AT] = plan.parts.length;
    let at = PARTS_AT;
    for (const part of plan.parts) {
      this.#numbers[at++] = part.block;
      this.#numbers[at++] = part.from;
      this.#numbers[at++] = part.at;
      this.#numbers[at++] = part.length;
    }
    return true;
  }

  getRead(): { readonly unique0: number; readonly unique1: number; readonly plan: ReadPlan } {
    const number = (at: number): number => this.#numbers[at] ?? 0;
    const parts = Array.from({ length: number(COUNT_AT) }, (_, i) => {
      const at = PARTS_AT + i * PART_NUMBERS;
      return {
        block: number(at) as BlockNo,
        from: number(at + 1),
        at: number(at + 2),
        length: number(at + 3),
      };
    });
    return {
      unique0: this.#ints[UNIQUE_AT] ?? 0,
      unique1: this.#ints[UNIQUE_AT + 1] ?? 0,
      plan: { length: number(LENGTH_AT), parts },
    };
  }
}
