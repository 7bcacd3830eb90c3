/** The shared memory between the serving thread and its aide, and how the one ends the other. */
import { describe, expect, test } from "vitest";
import type { BlockNo } from "../../src/core/types.ts";
import { AideThread } from "../../src/host/aide.ts";
import { Mailbox, STATE } from "../../src/host/mailbox.ts";

describe("the mailbox", () => {
  test("carries a READ to who sees the same memory", () => {
    const box = new Mailbox();
    const plan = {
      length: 2 ** 20,
      parts: [
        { block: (2 ** 40) as BlockNo, from: 5, at: 0, length: 65_531 },
        { block: 7 as BlockNo, from: 0, at: 131_072, length: 1 },
      ],
    };
    expect(box.putRead(0x7fffffff, -1, plan)).toBe(true);
    expect(new Mailbox(box.memory).getRead()).toEqual({ unique0: 0x7fffffff, unique1: -1, plan });
  });

  test("refuses a READ of more parts than it holds", () => {
    const part = { block: 1 as BlockNo, from: 0, at: 0, length: 1 };
    expect(new Mailbox().putRead(1, 2, { length: 1, parts: Array(10_000).fill(part) })).toBe(false);
  });

  test("tells how much was copied once", () => {
    const box = new Mailbox();
    box.takeCopied();
    expect(box.takeCopied()).toBeUndefined();
    box.setCopied(0);
    expect([box.takeCopied(), box.takeCopied()]).toEqual([0, undefined]);
  });

  test("changes hands only from the state that was seen", () => {
    const box = new Mailbox();
    expect(box.move(STATE.idle, STATE.copy)).toBe(false);
    expect(box.state).toBe(STATE.starting);
    expect(box.move(STATE.starting, STATE.opening)).toBe(true);
    expect(box.state).toBe(STATE.opening);
  });
});

test("an aide that never came is not waited for, and takes no orders", () => {
  const aide = new AideThread();
  expect([aide.copy(), aide.copied(), aide.offer(1, 2, { length: 1, parts: [] }), aide.takeBack()]).toEqual([
    false,
    undefined,
    false,
    false,
  ]);
  const fromMs = performance.now();
  aide.stop();
  expect(performance.now() - fromMs).toBeLessThan(5000);
});
