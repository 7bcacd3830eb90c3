/** A replica is its source, as of the last push that it pulled: whatever happened in between. */
import { describe, expect, it } from "vitest";
import { RENAME_EXCHANGE } from "../../src/core/types.ts";
import { type Dump, dump } from "../core/dump.ts";
import { b, mkdir, noise, put, ROOT } from "../core/fixture.ts";
import { BLOCK, operate } from "../core/operations.ts";
import { Random } from "../core/random.ts";
import { repairFixture } from "../fsck/fsck.ts";
import { inLog } from "./fixture.ts";

describe("a replica", () => {
  it("is made from what was pushed, and equals it", () =>
    inLog(async (log, volume) => {
      const directory = mkdir(volume, ROOT, "letters");
      put(volume, directory, "to Ann", noise(100_000));
      put(volume, directory, "again", noise(100_000));
      volume.tree.symlink(ROOT, b("link"), b("letters/to Ann"), { uid: 1, gid: 2, umask: 0 });
      const pushed = await log.push();
      expect(pushed).toMatchObject({ segment: 1, segments: 1, epoch: 1 });
      const cloned = await log.clone("replica");
      expect(cloned).toMatchObject({ segment: 1, epoch: 1, hash: pushed.hash });
      log.expectEqual("replica");
    }));
});

describe("a file without a name", () => {
  it("is gone from replicas, and comes back whole with its next name, though most of it is old", () =>
    inLog(async (log, volume) => {
      const ino = put(volume, ROOT, "a", noise(100_000));
      volume.xattrs.set(ino, b("user.x"), b("y"), 0, false);
      await log.push();
      await log.clone("replica");
      volume.inodes.ref(ino);
      volume.tree.unlink(ROOT, b("a"));
      volume.files.write(ino, 5000, noise(10, 2), false);
      await log.push();
      await log.pull("replica");
      log.expectEqual("replica");
      volume.tree.link(ino, ROOT, b("again"));
      await log.push();
      await log.pull("replica");
      log.expectEqual("replica");
      volume.inodes.unref(ino, 1);
    }));
});

describe("names that are exchanged", () => {
  it("are exchanged in replicas, and a snapshot there shows them as they were", () =>
    inLog(async (log, volume) => {
      put(volume, ROOT, "a", "1");
      put(volume, ROOT, "b", "2");
      put(volume, ROOT, "c", "3");
      const { epoch } = volume.history.create("before");
      const shown = dump(volume);
      await log.push();
      await log.clone("replica");
      volume.tree.rename(ROOT, b("a"), ROOT, b("b"), RENAME_EXCHANGE);
      volume.tree.rename(ROOT, b("c"), ROOT, b("a"), 0);
      await log.push();
      await log.pull("replica");
      log.expectEqual("replica");
      expect(log.dumpEpoch("replica", epoch)).toEqual(shown);
    }));
});

describe("after a repair", () => {
  const SABOTAGE = `UPDATE inode SET nlink = 7 WHERE mode & 61440 = 32768;
    DELETE FROM block WHERE id = (SELECT min(id) FROM block)`;

  it("of the source the log starts over, and replicas are as the source is then", () =>
    inLog(async (log, volume) => {
      put(volume, ROOT, "a", noise(100_000));
      put(volume, ROOT, "b", noise(100_000, 2));
      await log.push();
      await log.clone("replica");
      log.source.close();
      log.source.sql((db) => db.exec(SABOTAGE));
      repairFixture(log.source);
      put(log.volume, ROOT, "c", "after");
      expect(await log.push()).toMatchObject({ segment: 2 });
      await log.pull("replica");
      log.expectEqual("replica");
    }));

  it("of a replica the next pull makes it what its source is", () =>
    inLog(async (log, volume) => {
      put(volume, ROOT, "a", noise(100_000));
      await log.push();
      await log.clone("replica");
      log.sql("replica", (db) => db.exec(SABOTAGE));
      repairFixture({ path: log.path("replica"), key: log.keyOf("replica"), clock: log.source.clock });
      expect(log.dump("replica")).not.toEqual(dump(volume));
      await log.pull("replica");
      log.expectEqual("replica");
    }));
});

describe("after many random operations", () => {
  it.each(Array.from({ length: 6 }, (_, i) => i + 1))(
    "a replica equals its source, and so does each snapshot of it (%d)",
    (seed) =>
      inLog(
        async (log, volume) => {
          const random = new Random(seed);
          const snapshots = new Map<number, Dump>();
          const run = (count: number) => {
            for (let i = 0; i < count; i++) {
              operate(random, volume, () => {});
              log.source.clock.advance(10);
            }
          };
          run(100);
          await log.push();
          await log.clone("replica");
          for (let round = 0; round < 15; round++) {
            run(random.below(60));
            if (random.below(3) === 0) {
              const { epoch } = volume.history.create(`snapshot ${round}`);
              snapshots.set(epoch, dump(volume));
              run(random.below(30));
            }
            const list = volume.history.list().filter((one) => one.name.startsWith("snapshot"));
            const [oldest] = list;
            if (oldest !== undefined && random.below(4) === 0) {
              volume.history.delete(oldest.name);
              snapshots.delete(oldest.epoch);
              volume.prune();
            }
            await log.push();
            if (random.below(3) > 0) {
              await log.pull("replica");
              log.expectEqual("replica");
              for (const [epoch, shown] of snapshots) expect(log.dumpEpoch("replica", epoch)).toEqual(shown);
            }
          }
          await log.clone("another");
          log.expectEqual("another");
        },
        { blockSize: BLOCK },
      ),
  );
});
