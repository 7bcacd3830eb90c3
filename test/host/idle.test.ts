/** When a mount is taken for idle; the mount is a stand-in, and the time the test's own. */
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { IdleWatch } from "../../src/host/idle.ts";

const MINUTE = 60_000;

let lastUse: number;
let held: boolean;
/** Minutes after the start at which an unmount was tried. */
let tried: number[];
let watch: IdleWatch;
let start: number;

beforeEach(() => {
  vi.useFakeTimers();
  start = Date.now();
  lastUse = start;
  held = false;
  tried = [];
});
afterEach(() => {
  watch.stop();
  vi.useRealTimers();
});

function begin(timeoutMs: number, unmount?: () => Promise<boolean>): void {
  const attempt = async (): Promise<boolean> => {
    tried.push((Date.now() - start) / MINUTE);
    return !held;
  };
  watch = new IdleWatch({ lastUse: () => lastUse, unmount: unmount ?? attempt }, timeoutMs);
}

const pass = (minutes: number): Promise<unknown> => vi.advanceTimersByTimeAsync(minutes * MINUTE);
const use = (): void => {
  lastUse = Date.now();
};

describe("a mount that is watched", () => {
  test("is unmounted when the last use is as long ago as the timeout says, once", async () => {
    begin(10 * MINUTE);
    await pass(9.99);
    expect(tried).toEqual([]);
    await pass(0.02);
    expect(tried).toEqual([10]);
    await pass(100);
    expect(tried).toEqual([10]);
    expect(vi.getTimerCount()).toBe(0);
  });

  test("stays while it is used, counted from the last use", async () => {
    begin(10 * MINUTE);
    for (let i = 0; i < 12; i++) {
      await pass(4);
      use();
    }
    await pass(9.99);
    expect(tried).toEqual([]);
    await pass(0.02);
    expect(tried).toEqual([58]);
  });

  test("has one timer, which goes off once per timeout however much it is used", async () => {
    begin(10 * MINUTE);
    const timers = vi.spyOn(globalThis, "setTimeout");
    for (let i = 0; i < 6000; i++) {
      await pass(0.01);
      use();
    }
    expect(vi.getTimerCount()).toBe(1);
    // An hour: about one in ten minutes.
    expect(timers.mock.calls.length).toBeLessThanOrEqual(7);
    timers.mockRestore();
  });

  test("that is held is tried again each minute until it is let go", async () => {
    held = true;
    begin(10 * MINUTE);
    await pass(12.5);
    held = false;
    await pass(10);
    expect(tried).toEqual([10, 11, 12, 13]);
  });

  test("that is held and has a short timeout is tried again after that", async () => {
    held = true;
    begin(MINUTE / 2);
    await pass(1.75);
    expect(tried).toEqual([0.5, 1, 1.5]);
  });

  test("that is held and used again is idle only a whole timeout after that", async () => {
    held = true;
    begin(10 * MINUTE);
    await pass(10.5);
    use();
    await pass(9.99);
    expect(tried).toEqual([10]);
    await pass(0.02);
    expect(tried).toEqual([10, 20.5]);
  });

  test("does not stay for ever when the clock is set back, nor ends early when it is used", async () => {
    begin(10 * MINUTE);
    await pass(5);
    use();
    vi.setSystemTime(start - 1e9);
    await pass(5); // looked at; the last use lies in the future
    expect(tried).toHaveLength(0);
    await pass(10.01);
    expect(tried).toHaveLength(1);
  });

  test("is left alone when it cannot be unmounted at all", async () => {
    let calls = 0;
    begin(MINUTE, async () => {
      calls++;
      throw new Error("not permitted");
    });
    await pass(10);
    expect(calls).toBe(1);
    expect(vi.getTimerCount()).toBe(0);
  });

  test("is left alone when the watch is stopped, also while it is being unmounted", async () => {
    begin(MINUTE);
    watch.stop();
    await pass(5);
    expect(tried).toEqual([]);

    let answer: (done: boolean) => void = () => {};
    begin(MINUTE, () => new Promise((resolve) => (answer = resolve)));
    await pass(1);
    watch.stop();
    answer(false);
    await pass(5);
    expect(vi.getTimerCount()).toBe(0);
  });
});
