/** A push or pull that is stopped at any step goes on the next time: equal again, and nothing is shipped twice. */
import { describe, expect, it } from "vitest";
import type { RemoteOrder } from "../../src/core/remotes.ts";
import type { Volume } from "../../src/core/volume.ts";
import { collect } from "../../src/log/gc.ts";
import { Pusher, type PushSite } from "../../src/log/pusher.ts";
import { Replica } from "../../src/log/replica.ts";
import { localSite } from "../../src/log/site.ts";
import { b, noise, put, ROOT } from "../core/fixture.ts";
import { inLog, LogFixture, NAME } from "./fixture.ts";
import { MemoryStore, Stop, StoppingStore, stopAt } from "./memory.ts";

/** Changes of every kind, and a snapshot between two of them: a push of two segments. */
function change(volume: Volume, round: number): void {
  put(volume, ROOT, `file ${round}`, noise(300_000, round));
  put(volume, ROOT, `the same ${round}`, noise(50_000, 7));
  volume.history.create(`snapshot ${round}`);
  const { ino } = volume.tree.lookup(ROOT, b(`file ${round}`)) ?? { ino: ROOT };
  volume.files.write(ino, 40_000, noise(20_000, 100 + round), false);
  if (round > 0) volume.tree.unlink(ROOT, b(`file ${round - 1}`));
}

/** Runs `run` with a site and a store that stop together at the step `steps`; tells whether they did. */
async function stopped(
  log: LogFixture,
  store: MemoryStore,
  steps: number,
  after: boolean,
  run: (site: PushSite, store: StoppingStore) => Promise<unknown>,
): Promise<boolean> {
  const step = stopAt(steps, after);
  const site = localSite(log.volume, log.source.key);
  const order = (wanted: RemoteOrder) => step(() => site.order(wanted)) as Promise<number>;
  try {
    await run({ ...site, order }, new StoppingStore(store, step));
    return false;
  } catch (error) {
    if (!(error instanceof Stop)) throw error;
    return true;
  } finally {
    site.close();
  }
}

const pushOf = (site: PushSite, store: StoppingStore) => new Pusher(site, store, NAME).run();

/** Bytes of objects with blocks. */
function blockBytes(store: MemoryStore): number {
  return [...store.files.values()]
    .filter((file) => file.toString("latin1", 9, 10) === "B")
    .reduce((sum, { length }) => sum + length, 0);
}

describe("a push", () => {
  it.each([false, true])(
    "that is stopped at each of its steps (after it: %s) ends as one that was not",
    (after) =>
      inLog(async (log, volume) => {
        const store = new MemoryStore();
        let steps = 0;
        for (let round = 0; round < 100; round++) {
          change(volume, round);
          // One that is stopped, and the one that goes on.
          if (!(await stopped(log, store, steps, after, pushOf))) break;
          steps++;
          await log.push(store);
          const [remote] = log.remotes();
          expect(remote).toMatchObject({ pendingEpoch: 0 });
          if (round % 4 !== 0) continue;
          await log.clone(`clone ${round}`, {}, store);
          log.expectEqual(`clone ${round}`);
        }
        expect(steps).toBeGreaterThan(12);
        // All snapshots of pushes that are over are let go.
        const kept = volume.history.list().filter(({ name }) => name.startsWith("pushed-"));
        expect(kept).toHaveLength(1);
      }),
  );

  it("that was stopped ships nothing again but what was on its way", () =>
    inLog(async (log, volume) => {
      for (let i = 0; i < 10; i++) put(volume, ROOT, `file ${i}`, noise(2_000_000, i));
      const clean = new MemoryStore();
      await log.push(clean);
      const wanted = blockBytes(clean);
      const OBJECT = 5 * 2 ** 20;
      const FLIGHTS = 4;
      volume.remotes.add("other", "memory");
      const store = new MemoryStore();
      let stops = 0;
      for (let steps = 3; ; steps += 3) {
        const isStopped = await stopped(log, store, steps, true, (site, one) =>
          new Pusher(site, one, "other").run(),
        );
        if (!isStopped) break;
        stops++;
      }
      expect(stops).toBeGreaterThan(1);
      expect(blockBytes(store)).toBeLessThan(wanted + stops * FLIGHTS * OBJECT);
      await log.push(store, "other");
      const before = blockBytes(store);
      await log.push(store, "other");
      // Nor does one that starts over.
      const site = localSite(volume, log.source.key);
      await new Pusher(site, store, "other", { startOver: true }).run();
      site.close();
      expect(blockBytes(store)).toBe(before);
    }));
});

describe("a gc", () => {
  it("that is stopped at each of its steps leaves a log that a clone reads, and the next one is whole", () =>
    inLog(async (log, volume) => {
      const store = new MemoryStore();
      let steps = 0;
      for (let round = 0; round < 100; round++) {
        change(volume, round);
        if (round > 0) volume.history.delete(`snapshot ${round - 1}`);
        volume.prune();
        await log.push(store);
        const run = (site: PushSite, one: StoppingStore) => collect(site, one, NAME);
        const isStopped = await stopped(log, store, steps, round % 2 === 0, run);
        await log.push(store);
        if (round % 5 === 0) {
          await log.clone(`clone ${round}`, {}, store);
          log.expectEqual(`clone ${round}`);
        }
        if (!isStopped) break;
        steps++;
      }
      expect(steps).toBeGreaterThan(12);
    }));
});

describe("a pull", () => {
  it.each([false, true])(
    "that is stopped at each of its steps (after it: %s) goes on where it was",
    (after) =>
      inLog(async (log, volume) => {
        const store = new MemoryStore();
        change(volume, 0);
        await log.push(store);
        await log.clone("replica", {}, store);
        for (let round = 1; round < 4; round++) {
          change(volume, round);
          await log.push(store);
        }
        let steps = 0;
        for (; ; steps++) {
          const replica = new Replica(log.path("replica"), log.keyOf("replica"), () => {});
          try {
            await replica.pull(new StoppingStore(store, stopAt(steps, after)));
            break;
          } catch (error) {
            expect(error).toBeInstanceOf(Stop);
          } finally {
            replica.close();
          }
        }
        expect(steps).toBeGreaterThan(8);
        log.expectEqual("replica");
      }),
  );
});

describe("two that push", () => {
  it("as copies of one volume: the first one goes on, the other is refused and ships no segment", () =>
    inLog(async (log, volume) => {
      const store = new MemoryStore();
      put(volume, ROOT, "before", "1");
      await log.push(store);
      log.source.close();
      const copy = new LogFixture({}, log.source);
      try {
        put(log.volume, ROOT, "here", "2");
        put(copy.volume, ROOT, "there", "3");
        await log.push(store);
        await expect(copy.push(store)).rejects.toMatchObject({ name: "LogError", reason: "other-writer" });
        put(log.volume, ROOT, "here again", "4");
        await log.push(store);
        await log.clone("replica", {}, store);
        log.expectEqual("replica");
      } finally {
        copy.remove();
      }
    }));
});
