/** What each operation costs: counts, sums, and quantiles that are upper bounds. */
import { describe, expect, test } from "vitest";
import { COST_SLOTS, Costs } from "../../src/fuse/costs.ts";

const LOOKUP = 1;
const WRITE = 16;

function costs(): Costs {
  return new Costs(new Float64Array(COST_SLOTS));
}

describe("costs", () => {
  test("list what was asked for, the one that took most time first", () => {
    const known = costs();
    for (let i = 0; i < 10; i++) known.add(LOOKUP, 5);
    known.add(WRITE, 100);
    expect(known.list().map(({ operation, count, totalUs }) => [operation, count, totalUs])).toEqual([
      ["WRITE", 1, 100],
      ["LOOKUP", 10, 50],
    ]);
  });

  test("tell quantiles that are never too small, and at most 1.42 times too large", () => {
    for (const us of [1, 1.5, 3, 17, 250, 1000, 123_456, 9_999_999]) {
      const known = costs();
      known.add(LOOKUP, us);
      const [row] = known.list();
      for (const told of [row?.p50Us ?? 0, row?.p99Us ?? 0]) {
        expect(told, `${us}`).toBeGreaterThanOrEqual(us);
        expect(told, `${us}`).toBeLessThanOrEqual(us * 1.4143);
      }
    }
  });

  test("tell the rare slow ones from the many fast ones", () => {
    const known = costs();
    for (let i = 0; i < 980; i++) known.add(LOOKUP, 4);
    for (let i = 0; i < 20; i++) known.add(LOOKUP, 9000);
    const [row] = known.list();
    expect(row?.p50Us).toBeLessThan(6);
    expect(row?.p99Us).toBeGreaterThan(9000);
  });

  test("take no notice of an opcode that nobody knows", () => {
    const known = costs();
    known.add(4096, 5);
    known.add(0xffff_ffff, 5);
    expect(known.list()).toEqual([]);
  });
});
