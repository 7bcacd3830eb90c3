/** What a gc frees: what nothing names, and of objects of which little is needed the rest. */
import { describe, expect, it } from "vitest";
import { type Collected, collect } from "../../src/log/gc.ts";
import { localSite } from "../../src/log/site.ts";
import { b, noise, put, ROOT } from "../core/fixture.ts";
import { inLog, type LogFixture, NAME } from "./fixture.ts";
import { MemoryStore } from "./memory.ts";

async function gc(log: LogFixture, store: MemoryStore): Promise<Collected> {
  const site = localSite(log.volume, log.source.key);
  try {
    return await collect(site, store, NAME);
  } finally {
    site.close();
  }
}

const blockObjects = (store: MemoryStore) =>
  [...store.files].filter(([, file]) => file.toString("latin1", 9, 10) === "B");
const blockBytes = (store: MemoryStore) =>
  blockObjects(store).reduce((sum, [, { length }]) => sum + length, 0);

describe("a gc", () => {
  it("packs anew what is needed of an object of which less than half is, and leaves the others alone", () =>
    inLog(async (log, volume) => {
      const store = new MemoryStore();
      for (let i = 0; i < 10; i++) put(volume, ROOT, `few ${i}`, noise(100_000, i));
      await log.push(store);
      for (let i = 0; i < 10; i++) put(volume, ROOT, `most ${i}`, noise(100_000, 20 + i));
      await log.push(store);
      const before = new Set(blockObjects(store).map(([name]) => name));
      expect(before.size).toBe(2);
      await log.clone("replica", {}, store);
      for (let i = 2; i < 10; i++) volume.tree.unlink(ROOT, b(`few ${i}`));
      for (let i = 7; i < 10; i++) volume.tree.unlink(ROOT, b(`most ${i}`));
      const done = await gc(log, store);
      expect(done).toMatchObject({ repacked: 1 });
      const after = blockObjects(store).map(([name]) => name);
      expect(after.filter((name) => before.has(name))).toHaveLength(1);
      expect(after).toHaveLength(2);
      expect(blockBytes(store)).toBeLessThan(1_000_000 + 2 * 100_000 + 10_000);
      expect(done.bytes).toBeGreaterThan(1_000_000);
      await log.pull("replica", store);
      log.expectEqual("replica");
      await log.clone("clone", {}, store);
      log.expectEqual("clone");
      // Nothing is left to do then.
      expect(await gc(log, store)).toMatchObject({ repacked: 0, pushed: { blocks: 0 } });
    }));

  it("leaves small objects alone that are needed whole", () =>
    inLog(async (log, volume) => {
      const store = new MemoryStore();
      for (const text of ["one", "two"]) {
        put(volume, ROOT, text, text);
        await log.push(store);
      }
      expect(await gc(log, store)).toMatchObject({ repacked: 0, pushed: { blocks: 0 } });
    }));

  it("ships again what is gone from the remote", () =>
    inLog(async (log, volume) => {
      const store = new MemoryStore();
      put(volume, ROOT, "a", noise(100_000));
      await log.push(store);
      for (const name of [...store.files.keys()].filter((one) => one.startsWith("data/")))
        store.files.delete(name);
      await expect(log.clone("clone", {}, store)).rejects.toMatchObject({ reason: "incomplete" });
      await gc(log, store);
      await log.clone("clone", {}, store);
      log.expectEqual("clone");
    }));
});
