/** A log that starts over, that a program left other files in, or whose volume was worked on between two pushes. */
import { existsSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { vacuum } from "../../src/core/rewrite.ts";
import type { Volume } from "../../src/core/volume.ts";
import { Pusher } from "../../src/log/pusher.ts";
import { checkRemote } from "../../src/log/setup.ts";
import { localSite } from "../../src/log/site.ts";
import { LogError } from "../../src/remote/errors.ts";
import type { RemoteStore, StoredFile } from "../../src/remote/remote.ts";
import { b, noise, PASSWORD, put, ROOT } from "../core/fixture.ts";
import { repairFixture } from "../fsck/fsck.ts";
import { inLog, type LogFixture, NAME } from "./fixture.ts";
import { MemoryStore } from "./memory.ts";

/** Pushes all that the volume keeps, as if nothing had been pushed. */
async function startOver(log: LogFixture, store: RemoteStore): Promise<void> {
  const site = localSite(log.volume, log.source.key);
  try {
    await new Pusher(site, store, NAME, { startOver: true }).run();
  } finally {
    site.close();
  }
}

/** Names of the segments that are there. */
const segments = (store: MemoryStore) =>
  [...store.files.keys()].filter((name) => name.startsWith("log/")).sort();

/** As it was when it had so many segments. */
function until(store: MemoryStore, count: number): MemoryStore {
  const older = store.copy();
  for (const name of segments(store).slice(count)) older.files.delete(name);
  return older;
}

describe("a log that starts over", () => {
  it("is followed by who has not seen all that was before, also of what was deleted meanwhile", () =>
    inLog(async (log, volume) => {
      const store = new MemoryStore();
      put(volume, ROOT, "a", noise(50_000));
      put(volume, ROOT, "b", noise(50_000, 2));
      await log.push(store);
      await log.clone("replica", {}, store);
      put(volume, ROOT, "c", noise(50_000, 3));
      await log.push(store);
      volume.tree.unlink(ROOT, b("a"));
      await startOver(log, store);
      put(volume, ROOT, "d", "4");
      await log.push(store);
      expect(await log.pull("replica", store)).toMatchObject({ segment: 4, segments: 2 });
      log.expectEqual("replica");
    }));

  it("counts as far as it was until it comes as far again, for replicas, clones and restored volumes", () =>
    inLog(async (log, volume) => {
      const store = new MemoryStore();
      put(volume, ROOT, "a", noise(50_000));
      await log.push(store);
      await log.clone("replica", {}, store);
      volume.history.create("before");
      put(volume, ROOT, "b", noise(50_000, 2));
      await log.push(store);
      await startOver(log, store);
      // The snapshot is the first to be there again.
      const halfway = until(store, 4);
      expect(segments(store)).toHaveLength(5);
      expect(await log.pull("replica", halfway)).toMatchObject({ segment: 3 });
      log.expectEqual("replica");
      expect(await log.clone("clone", {}, halfway)).toMatchObject({ segment: 3 });
      log.expectEqual("clone");
      await log.pull("clone", store);
      expect(await log.pull("replica", store)).toMatchObject({ segment: 5 });
      log.expectEqual("replica");
      log.expectEqual("clone");
    }));

  it("is what a clone takes of it where the one before is not whole any more", () =>
    inLog(async (log, volume) => {
      const store = new MemoryStore();
      put(volume, ROOT, "a", noise(50_000));
      await log.push(store);
      volume.history.create("before");
      put(volume, ROOT, "b", noise(50_000, 2));
      await log.push(store);
      await startOver(log, store);
      const halfway = until(store, 4);
      halfway.files.delete(segments(store)[0] ?? "");
      expect(await log.clone("clone", {}, halfway)).toMatchObject({ segment: 4, epoch: 2 });
    }));
});

describe("a volume that was restored up to a segment before the last", () => {
  it("goes on behind the last one, and whoever has seen that follows", () =>
    inLog(async (log, volume) => {
      const store = new MemoryStore();
      for (let i = 1; i <= 6; i++) {
        put(volume, ROOT, `file ${i}`, noise(20_000, i));
        await log.push(store);
      }
      await log.clone("replica", {}, store);
      store.files.delete(segments(store)[2] ?? "");
      await log.clone("restored", { restore: true, until: 2 }, store);
      const restored = log.writer("restored");
      try {
        put(restored, ROOT, "new", "1");
        const site = localSite(restored, log.keyOf("restored"));
        const pushed = await new Pusher(site, store, "origin").run();
        site.close();
        expect(pushed).toMatchObject({ segment: 7, segments: 1 });
        expect(pushed.epoch).toBeGreaterThan(6);
      } finally {
        restored.close();
      }
      expect(await log.pull("replica", store)).toMatchObject({ segment: 7 });
      await log.clone("clone", {}, store);
      expect(log.dump("replica")).toEqual(log.dump("clone"));
      expect(Object.keys(log.dump("clone"))).toEqual(expect.arrayContaining(["/file 2", "/new"]));
      expect(Object.keys(log.dump("clone"))).not.toContain("/file 3");
    }));
});

describe("a volume restored up to a segment while the remote is cut off", () => {
  it("is not made: what others have seen is not known", () =>
    inLog(async (log, volume) => {
      const store = new MemoryStore();
      for (let i = 1; i <= 4; i++) {
        put(volume, ROOT, `file ${i}`, "x");
        await log.push(store);
      }
      const third = segments(store)[2];
      const get = store.get.bind(store);
      store.get = async (name, from, length) => {
        if (name === third) throw new LogError("unreachable", "cut off");
        return await get(name, from, length);
      };
      await expect(log.clone("restored", { restore: true, until: 2 }, store)).rejects.toThrow("cut off");
      expect(existsSync(log.path("restored"))).toBe(false);
    }));
});

describe("what something else left in a remote", () => {
  it("is not taken for a segment or a key file", () =>
    inLog(async (log, volume) => {
      const store = new MemoryStore();
      put(volume, ROOT, "a", "1");
      await log.push(store);
      for (const name of [...store.files.keys()].filter((one) => !one.startsWith("data/"))) {
        store.files.set(`${name}.sync-conflict-20261120`, b("x"));
        store.files.set(name.replace(/[^/]*$/, "Thumbs.db"), b("x"));
        store.files.set(name.replace(/[^/]*$/, "99"), b("x"));
      }
      await log.clone("replica", {}, store);
      put(volume, ROOT, "b", "2");
      await log.push(store);
      await log.pull("replica", store);
      log.expectEqual("replica");
    }));

  it("is never read whole before its length is known to be right", () =>
    inLog(async (log, volume) => {
      const inner = new MemoryStore();
      let most = 0;
      const store: RemoteStore = {
        url: "memory",
        list: (prefix): Promise<StoredFile[]> => inner.list(prefix),
        put: (name, bytes) => inner.put(name, bytes),
        remove: (name) => inner.remove(name),
        get: (name, from, length = Infinity) => {
          most = Math.max(most, length);
          return inner.get(name, from, length);
        },
      };
      put(volume, ROOT, "a", noise(50_000));
      await log.push(store);
      await log.clone("replica", {}, store);
      put(volume, ROOT, "b", "2");
      await log.push(store);
      await log.pull("replica", store);
      expect(most).toBeLessThan(2 ** 27);
    }));

  it("in the place of the key file is made up for by the next push", () =>
    inLog(async (log, volume) => {
      const store = new MemoryStore();
      await log.push(store);
      store.files.delete("key/0000000000000001");
      put(volume, ROOT, "a", "1");
      await log.push(store);
      await log.clone("replica", {}, store);
      log.expectEqual("replica");
    }));
});

describe("a push", () => {
  it("whose segment was put, though the answer was lost, goes on", () =>
    inLog(async (log, volume) => {
      const inner = new MemoryStore();
      const store: RemoteStore = {
        url: "memory",
        list: (prefix) => inner.list(prefix),
        get: (name, from, length) => inner.get(name, from, length),
        remove: (name) => inner.remove(name),
        put: async (name, bytes) => {
          await inner.put(name, bytes);
          return !name.startsWith("log/");
        },
      };
      put(volume, ROOT, "a", "1");
      expect(await log.push(store)).toMatchObject({ segment: 1 });
      await log.clone("replica", {}, inner);
      log.expectEqual("replica");
    }));

  it("ends whole where a snapshot that it ships is deleted and pruned meanwhile", () =>
    inLog(async (log, volume) => {
      const store = new MemoryStore();
      for (let i = 0; i < 5; i++) put(volume, ROOT, `file ${i}`, noise(20_000, i));
      volume.history.create("before");
      for (let i = 0; i < 5; i++) volume.tree.unlink(ROOT, b(`file ${i}`));
      put(volume, ROOT, "after", "1");
      const site = localSite(volume, log.source.key);
      let records = 0;
      const breathe = () => {
        records++;
        if (records !== 3) return undefined;
        volume.history.delete("before");
        volume.prune();
        volume.commit();
        return undefined;
      };
      expect(await new Pusher(site, store, NAME, { breathe }).run()).toMatchObject({ segments: 1 });
      site.close();
      await log.clone("replica", {}, store);
      log.expectEqual("replica");
    }));

  it("of an older copy of the volume is refused before anything there is changed, its key file too", () =>
    inLog(async (log, volume) => {
      const store = new MemoryStore();
      await log.push(store);
      const [older] = log.remotes();
      put(volume, ROOT, "a", "1");
      await log.push(store);
      const site = localSite(volume, log.source.key);
      if (older !== undefined)
        await expect(checkRemote(site, store, older)).rejects.toMatchObject({ reason: "other-writer" });
      site.close();
    }));
});

describe("between two pushes", () => {
  const work: Record<string, (log: LogFixture, volume: Volume) => void> = {
    "a checkpoint": (log) => {
      log.source.close();
      log.source.sql((db) => db.checkpointTruncate());
    },
    "a vacuum": (log) => {
      log.source.close();
      const steps = vacuum(log.source.path, PASSWORD);
      while (steps.next().done !== true);
    },
    "a prune": (_, volume) => {
      volume.history.delete("first");
      volume.prune();
    },
    "a prune of all snapshots, of which the second is newer than the last push": (_, volume) => {
      volume.history.create("second");
      put(volume, ROOT, "later", "1");
      for (const name of ["first", "second"]) volume.history.delete(name);
      volume.prune();
    },
    "a new mount": (log) => {
      log.source.remount();
    },
  };
  it.each(Object.keys(work))("%s does not break the chain, nor make it start over", (what) =>
    inLog(async (log, volume) => {
      const store = new MemoryStore();
      put(volume, ROOT, "a", noise(50_000));
      volume.history.create("first");
      put(volume, ROOT, "b", noise(50_000, 2));
      await log.push(store);
      await log.clone("replica", {}, store);
      volume.tree.unlink(ROOT, b("a"));
      work[what]?.(log, volume);
      put(log.volume, ROOT, "c", noise(50_000, 3));
      expect(await log.push(store)).toMatchObject({ segment: 3 });
      const pulled = await log.pull("replica", store);
      expect(pulled).toMatchObject({ segment: 3, segments: 1 });
      // The other file has four, which are there.
      expect(pulled.blocks).toBeLessThanOrEqual(5);
      log.expectEqual("replica");
    }),
  );
});

describe("a replica", () => {
  it("notes when it looked last, though nothing was new", () =>
    inLog(async (log) => {
      await log.push();
      await log.clone("replica");
      const synced = "SELECT synced_ns FROM remote";
      const read = () =>
        log.sql("replica", (db) => {
          const row = db.prepare(synced);
          row.step();
          const value = row.bigint(0);
          db.release(row);
          return value;
        });
      log.sql("replica", (db) => db.exec("UPDATE remote SET synced_ns = 5"));
      await log.pull("replica");
      expect(read()).toBeGreaterThan(5n);
    }));

  it("that was repaired still refuses an older state of its log", () =>
    inLog(async (log, volume) => {
      const store = new MemoryStore();
      put(volume, ROOT, "a", noise(100_000));
      await log.push(store);
      const older = store.copy();
      put(volume, ROOT, "b", noise(100_000, 2));
      await log.push(store);
      await log.clone("replica", {}, store);
      log.sql("replica", (db) => db.exec("DELETE FROM block WHERE id = (SELECT min(id) FROM block)"));
      repairFixture({ path: log.path("replica"), key: log.keyOf("replica"), clock: log.source.clock });
      await expect(log.pull("replica", older)).rejects.toMatchObject({ reason: "rolled-back" });
      await log.pull("replica", store);
      log.expectEqual("replica");
    }));
});
