/** What the kernel is told to forget, and how that ends. */
import { describe, expect, it } from "vitest";
import type { Ino } from "../../src/core/types.ts";
import { Announcer } from "../../src/host/announcer.ts";

const stale = (...inos: number[]) => ({
  inos: inos as Ino[],
  attributes: [],
  names: [{ parent: 1 as Ino, name: Buffer.from("a") }],
  incEpoch: false,
});

describe("the kernel", () => {
  it("is told once of what it knows, and again of an inode that it did not know yet", async () => {
    const told: number[] = [];
    let refused = 1;
    const announcer = new Announcer(async (message) => {
      told.push(message.length);
      // The second message is the first inode's.
      return told.length === 2 && refused-- > 0 ? -5 : 0;
    });
    await announcer.announce(stale(17, 18));
    const [entry = 0, inode = 0] = told;
    expect(told).toEqual([entry, inode, inode, inode]);
    await announcer.announce(stale(17));
    expect(told).toHaveLength(6);
  });

  it("is told nothing more when nobody is served, and its connection is cut where a message waits for ever", async () => {
    let [told, cuts] = [0, 0];
    let settle: (written: number) => void = () => {};
    const announcer = new Announcer(() => {
      told++;
      return new Promise((resolve) => {
        settle = resolve;
      });
    });
    const announced = announcer.announce(stale(17));
    await new Promise((begun) => setImmediate(begun));
    await announcer.end(() => {
      cuts++;
      settle(-5);
    });
    await announced;
    expect({ told, cuts }).toEqual({ told: 1, cuts: 1 });
  });
});
