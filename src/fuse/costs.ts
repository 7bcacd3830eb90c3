/**
 * What each operation costs the serving thread: how many there were, how long they took together, and how the
 * times are spread. Counted by the worker in shared memory, read by the main thread.
 *
 * Time is from the moment a request is there to the moment its reply is delivered; waiting for requests is not in it.
 */
import { OPERATIONS } from "./protocol.ts";

/** Two steps to each doubling: bucket b holds times below 2^(b/2) us, the last one all longer ones (16 s and more). */
const BUCKETS = 49;
const COUNT = 0;
const TOTAL_US = 1;
const FIRST_BUCKET = 2;
const ROW = FIRST_BUCKET + BUCKETS;

/** Numbers that `Costs` needs. */
export const COST_SLOTS = OPERATIONS.length * ROW;

/** Times in microseconds. */
export interface OperationCost {
  readonly operation: string;
  readonly count: number;
  readonly totalUs: number;
  /** Upper bounds: exact to a factor of 1.4. */
  readonly p50Us: number;
  readonly p99Us: number;
}

export class Costs {
  readonly #slots: Float64Array;

  /** `slots`: COST_SLOTS numbers, zero at first. */
  constructor(slots: Float64Array) {
    this.#slots = slots;
  }

  add(opcode: number, us: number): void {
    const at = opcode * ROW;
    const slots = this.#slots;
    if (at + ROW > slots.length) return;
    const step = us < 1 ? 0 : Math.min(BUCKETS - 1, Math.floor(Math.log2(us) * 2) + 1);
    slots[at + COUNT]! += 1;
    slots[at + TOTAL_US]! += us;
    slots[at + FIRST_BUCKET + step]! += 1;
  }

  /** The operations that were asked for, the one that took most time first. */
  list(): OperationCost[] {
    const found: OperationCost[] = [];
    for (const row of OPERATIONS) {
      if (row === undefined) continue;
      const slots = this.#slots.subarray(row.code * ROW, (row.code + 1) * ROW);
      const count = slots[COUNT] ?? 0;
      if (count === 0) continue;
      found.push({
        operation: row.name,
        count,
        totalUs: slots[TOTAL_US] ?? 0,
        p50Us: quantile(slots, count * 0.5),
        p99Us: quantile(slots, count * 0.99),
      });
    }
    return found.sort((a, b) => b.totalUs - a.totalUs);
  }
}

/** Upper end of the bucket that holds the `rank`-th time. */
function quantile(slots: Float64Array, rank: number): number {
  let seen = 0;
  for (let b = 0; b < BUCKETS; b++) {
    seen += slots[FIRST_BUCKET + b] ?? 0;
    if (seen >= rank) return 2 ** (b / 2);
  }
  return 2 ** (BUCKETS / 2);
}
