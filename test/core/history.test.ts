/** Snapshots: what is kept, how it is read beside whoever writes, and what goes when they go. */
import { describe, expect, it } from "vitest";
import { DamageError } from "../../src/base/errno.ts";
import { OpenError } from "../../src/core/errors.ts";
import type { At } from "../../src/core/types.ts";
import { Volume } from "../../src/core/volume.ts";
import { type Dump, dump } from "./dump.ts";
import {
  afterCrash,
  b,
  contentOf,
  errnoOf,
  expectErrno,
  type Fixture,
  find,
  inVolume,
  mkdir,
  namesOf,
  noise,
  put,
  ROOT,
  settle,
  touch,
} from "./fixture.ts";
import { BLOCK, operate } from "./operations.ts";
import { withRandom } from "./random.ts";

const SMALL = { blockSize: BLOCK };
const PAST_TABLES = ["inode_past", "dirent_past", "xattr_past", "extent_past"];

/** Opens a snapshot, also while the fixture's volume is open. */
function inPast<T>(fixture: Fixture, at: At, run: (past: Volume) => T): T {
  const past = Volume.open(fixture.path, fixture.key, { at, clock: fixture.clock });
  try {
    return run(past);
  } finally {
    past.close();
  }
}

function dumpAt(fixture: Fixture, name: string): Dump {
  return inPast(fixture, { name }, dump);
}

/** Rows in the past tables and blocks. */
function rowsOf(fixture: Fixture): Record<string, number> {
  fixture.close();
  const tables = [...PAST_TABLES, "block", "snapshot"];
  return Object.fromEntries(tables.map((table) => [table, fixture.number(`SELECT count(*) FROM ${table}`)]));
}

function reasonOf(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    return error instanceof OpenError ? error.reason : String(error);
  }
  return "opened";
}

describe("a snapshot", () => {
  it("shows what was there when it was made, beside the volume that goes on", () =>
    inVolume((fixture, volume) => {
      const directory = mkdir(volume, ROOT, "d");
      const file = put(volume, directory, "a", "before");
      put(volume, directory, "gone later", noise(3 * BLOCK));
      const before = dump(volume);
      volume.history.create("one");
      volume.files.write(file, 0, b("after "), false);
      volume.tree.unlink(directory, b("gone later"));
      touch(volume, ROOT, "new");
      volume.commit();
      inPast(fixture, { name: "one" }, (past) => {
        expect(past.readOnly).toBe(true);
        expect(dump(past)).toEqual(before);
        touch(volume, ROOT, "newer");
        volume.files.write(file, 0, b("later "), false);
        volume.commit();
        expect(dump(past)).toEqual(before);
        expect(contentOf(past, file).toString()).toBe("before");
        expect(namesOf(past, ROOT)).toEqual(["d"]);
        expect(past.inodeCount).toBe(4);
        expect(past.statfs().nameMax).toBe(255);
      });
      expect(contentOf(volume, file).toString()).toBe("later ");
    }, SMALL));

  it("refuses every change", () =>
    inVolume((fixture, volume) => {
      const file = put(volume, ROOT, "a", "content");
      volume.history.create("one");
      inPast(fixture, { name: "one" }, (past) => {
        for (const change of [
          () => touch(past, ROOT, "b"),
          () => past.tree.unlink(ROOT, b("a")),
          () => past.files.write(file, 0, b("x"), false),
          () => past.attributes.setattr(file, { mode: 0 }),
          () => past.xattrs.set(file, b("user.x"), b("1"), 0, false),
          () => past.history.create("two"),
          () => past.history.delete("one"),
        ])
          expectErrno("EROFS", change);
        expect(contentOf(past, file).toString()).toBe("content");
      });
    }));

  it("lists a directory in pages and from any cookie, as the volume did", () =>
    inVolume((fixture, volume) => {
      for (let i = 0; i < 200; i++) touch(volume, ROOT, `file ${i}`);
      const names = namesOf(volume, ROOT);
      volume.history.create("one");
      for (let i = 0; i < 200; i += 2) volume.tree.unlink(ROOT, b(`file ${i}`));
      for (let i = 1; i < 200; i += 4) volume.tree.rename(ROOT, b(`file ${i}`), ROOT, b(`moved ${i}`), 0);
      volume.commit();
      inPast(fixture, { name: "one" }, (past) => {
        expect(namesOf(past, ROOT)).toEqual(names);
        const seen: string[] = [];
        for (let cookie = 0, more = true; more; ) {
          more = false;
          past.tree.readdir(ROOT, cookie, (entry) => {
            if (more) return false;
            more = true;
            cookie = entry.cookie;
            seen.push(Buffer.from(entry.name).toString());
            return true;
          });
        }
        expect(seen).toEqual(names);
        const page = past.tree.page(ROOT, b("file 19"), 3).map(([{ name }]) => Buffer.from(name).toString());
        expect(page).toEqual(["file 190", "file 191", "file 192"]);
      });
    }));

  it("is found by its name, else by its epoch, else as the newest that is no younger than a time", () =>
    inVolume((fixture, volume) => {
      const at: number[] = [];
      for (const name of ["one", "two", "three"]) {
        touch(volume, ROOT, name);
        at.push(fixture.clock.sec);
        volume.history.create(name);
        fixture.clock.advance(60_000);
      }
      const names = (where: At) =>
        inPast(fixture, where, (past) => `${past.at?.name}: ${namesOf(past, ROOT)}`);
      expect(names({ name: "two" })).toBe("two: one,two");
      expect(names({ name: "2" as string, epoch: 1 })).toBe("one: one");
      const [first = 0, , third = 0] = at;
      expect(names({ time: { sec: third, nsec: fixture.clock.nsec } })).toBe("three: one,two,three");
      expect(names({ time: { sec: third - 1, nsec: 0 } })).toBe("two: one,two");
      expect(reasonOf(() => names({ time: { sec: first - 1, nsec: 0 } }))).toBe("no-snapshot");
      expect(reasonOf(() => names({ name: "four" }))).toBe("no-snapshot");
      expect(reasonOf(() => names({ epoch: 9 }))).toBe("no-snapshot");
    }));

  it("costs no row but its own, and writing after it only what is overwritten", () =>
    inVolume((fixture, volume) => {
      const file = put(volume, ROOT, "a", noise(8 * BLOCK));
      volume.history.create("one");
      volume.history.create("two");
      expect(rowsOf(fixture)).toEqual({
        inode_past: 0,
        dirent_past: 0,
        xattr_past: 0,
        extent_past: 0,
        block: 8,
        snapshot: 2,
      });
      fixture.volume.files.write(file, 0, noise(BLOCK, 2), false);
      expect(rowsOf(fixture)).toMatchObject({ inode_past: 1, extent_past: 1, block: 9 });
    }, SMALL));

  it("has a name that a file could have, and that no other has", () =>
    inVolume((_, { history }) => {
      for (const name of ["", ".", "..", "a/b", "a\nb", "a\u202eb", "17", "now", "auto-3", "n".repeat(256)])
        expectErrno("EINVAL", () => history.create(name));
      history.create("before the upgrade");
      history.create("é".repeat(127));
      expectErrno("EEXIST", () => history.create("before the upgrade"));
      expectErrno("ENOENT", () => history.delete("other"));
      expectErrno("ENOENT", () => history.protect("other", true));
      expect(history.list().map(({ name }) => name)).toEqual(["before the upgrade", "é".repeat(127)]);
    }));

  it("that is protected is not deleted until it is no longer", () =>
    inVolume((fixture, volume) => {
      volume.history.create("one");
      volume.history.protect("one", true);
      expectErrno("EPERM", () => fixture.remount().history.delete("one"));
      fixture.volume.history.protect("one", false);
      fixture.volume.history.delete("one");
      expect(fixture.volume.history.list()).toEqual([]);
    }));

  it("is there after a crash right behind it, with what was written before", () =>
    inVolume((fixture, volume) => {
      put(volume, ROOT, "a", "content");
      volume.history.create("one");
      touch(volume, ROOT, "uncommitted");
      const copy = fixture.crashCopy();
      try {
        inPast(copy, { name: "one" }, (past) => expect(namesOf(past, ROOT)).toEqual(["a"]));
        copy.finish();
      } finally {
        copy.remove();
      }
    }));

  it("that is deleted is read to no end by who has it open: he is told ESTALE, not of damage", () =>
    inVolume((fixture, volume) => {
      const file = put(volume, ROOT, "a", noise(4 * BLOCK));
      volume.history.create("one");
      volume.files.write(file, 0, noise(4 * BLOCK, 2), false);
      inPast(fixture, { name: "one" }, (past) => {
        expect(contentOf(past, file).equals(noise(4 * BLOCK))).toBe(true);
        volume.history.delete("one");
        settle(volume, fixture.clock);
        volume.commit();
        const into = Buffer.alloc(BLOCK);
        for (const read of [
          () => past.files.read(file, 0, BLOCK, into),
          () => past.tree.lookup(ROOT, b("a")),
          () => namesOf(past, ROOT),
          () => past.attributes.getattr(file),
        ])
          expectErrno("ESTALE", read);
      });
      expect(reasonOf(() => dumpAt(fixture, "one"))).toBe("no-snapshot");
      expect(rowsOf(fixture)).toMatchObject({ extent_past: 0, inode_past: 0, block: 4, snapshot: 0 });
    }, SMALL));

  it("is read in transactions so short that the -wal starts over and an unmount leaves none", () =>
    inVolume((fixture, volume) => {
      const file = put(volume, ROOT, "a", noise(BLOCK));
      volume.history.create("one");
      const past = Volume.open(fixture.path, fixture.key, { at: { name: "one" } });
      expect(contentOf(past, file).length).toBe(BLOCK);
      volume.files.write(file, 0, noise(BLOCK, 2), false);
      fixture.close();
      expect(contentOf(past, file).equals(noise(BLOCK))).toBe(true);
      expect(fixture.takeLog()).toEqual([]);
      past.close();
    }, SMALL));

  it("of which a block is damaged says so, and shows the rest", () =>
    inVolume((fixture, volume) => {
      const [good, bad] = [
        put(volume, ROOT, "good", noise(BLOCK)),
        put(volume, ROOT, "bad", noise(BLOCK, 2)),
      ];
      volume.history.create("one");
      fixture.close();
      fixture.sql((db) =>
        db.exec(`DELETE FROM block WHERE id = (SELECT block FROM extent WHERE ino = ${bad})`),
      );
      inPast(fixture, { name: "one" }, (past) => {
        expect(() => contentOf(past, bad)).toThrow(DamageError);
        expect(contentOf(past, good).equals(noise(BLOCK))).toBe(true);
      });
      fixture.sql((db) =>
        db.exec(`DELETE FROM extent WHERE ino = ${bad}; UPDATE inode SET extents = 0 WHERE ino = ${bad}`),
      );
    }, SMALL));
});

describe("a snapshot that is deleted gives back", () => {
  it("what only it needed, and nothing that another one or the present needs", () =>
    inVolume((fixture, volume) => {
      const file = put(volume, ROOT, "a", noise(4 * BLOCK));
      const dumps: Record<string, Dump> = {};
      for (const [i, name] of ["one", "two", "three"].entries()) {
        volume.files.write(file, 0, noise(BLOCK, 10 + i), false);
        put(volume, ROOT, `of ${name}`, noise(BLOCK, 20 + i));
        dumps[name] = dump(volume);
        volume.history.create(name);
        volume.tree.unlink(ROOT, b(`of ${name}`));
      }
      volume.files.write(file, 0, noise(BLOCK, 99), false);
      settle(volume, fixture.clock);
      const now = dump(volume);
      volume.history.delete("two");
      expect(volume.history.list().map(({ name }) => name)).toEqual(["one", "three"]);
      settle(volume, fixture.clock);
      volume.commit();
      expect(dumpAt(fixture, "one")).toEqual(dumps.one);
      expect(dumpAt(fixture, "three")).toEqual(dumps.three);
      expect(dump(volume)).toEqual(now);
      // 4 blocks now, those of "one" and "three" of the same file, and the file of each of them.
      expect(rowsOf(fixture)).toMatchObject({ block: 4 + 2 + 2, snapshot: 2 });
      fixture.volume.history.delete("one");
      fixture.volume.history.delete("three");
      fixture.volume.prune();
      expect(rowsOf(fixture)).toEqual({
        inode_past: 0,
        dirent_past: 0,
        xattr_past: 0,
        extent_past: 0,
        block: 4,
        snapshot: 0,
      });
    }, SMALL));

  it("blocks that copies share, once the last of them is gone", () =>
    inVolume((fixture, volume) => {
      const file = put(volume, ROOT, "a", noise(4 * BLOCK));
      const copy = touch(volume, ROOT, "copy");
      volume.files.copyFileRange(file, 0, copy, 0, 4 * BLOCK, false);
      volume.history.create("one");
      volume.tree.unlink(ROOT, b("a"));
      settle(volume, fixture.clock);
      volume.history.create("two");
      volume.history.delete("one");
      volume.prune();
      expect(contentOf(volume, copy).equals(noise(4 * BLOCK))).toBe(true);
      volume.tree.unlink(ROOT, b("copy"));
      settle(volume, fixture.clock);
      inPast(fixture, { name: "two" }, (past) =>
        expect(contentOf(past, copy).equals(noise(4 * BLOCK))).toBe(true),
      );
      volume.history.delete("two");
      volume.prune();
      expect(rowsOf(fixture)).toMatchObject({ extent_past: 0, block: 0 });
    }, SMALL));

  it("all of it also where the volume was closed, or crashed, before it was pruned", () =>
    inVolume((fixture, volume) => {
      for (let i = 0; i < 300; i++) put(volume, ROOT, `file ${i}`, "content");
      volume.history.create("one");
      for (let i = 0; i < 300; i++) volume.tree.unlink(ROOT, b(`file ${i}`));
      settle(volume, fixture.clock);
      volume.history.delete("one");
      volume.idle(fixture.clock.ms);
      volume.commit();
      const crashed = fixture.crashCopy();
      try {
        settle(crashed.volume, crashed.clock);
        expect(rowsOf(crashed)).toMatchObject({ inode_past: 0, dirent_past: 0, block: 0, snapshot: 0 });
        crashed.finish();
      } finally {
        crashed.remove();
      }
    }));
});

describe("a volume that is pruned", () => {
  it("is clean at each step of it: a crash may come at any", () =>
    inVolume((fixture, volume) => {
      const directory = mkdir(volume, ROOT, "d");
      for (const name of ["one", "two", "three"]) {
        for (let i = 0; i < 20; i++) {
          if (name === "one") put(volume, directory, `file ${i}`, noise(2 * BLOCK));
          const { ino } = volume.tree.lookup(directory, b(`file ${i}`)) ?? { ino: ROOT };
          volume.files.write(ino, 0, b(name), false);
          volume.xattrs.set(ino, b("user.a"), b(name), 0, false);
        }
        volume.history.create(name);
      }
      for (let i = 0; i < 20; i += 2) volume.tree.unlink(directory, b(`file ${i}`));
      settle(volume, fixture.clock);
      const kept = dumpAt(fixture, "two");
      volume.history.delete("one");
      volume.history.delete("three");
      for (let more = true; more; ) {
        more = volume.prune(0);
        volume.commit();
        afterCrash(fixture, () => {});
      }
      expect(dumpAt(fixture, "two")).toEqual(kept);
    }, SMALL));
});

describe("snapshots of random operations", () => {
  const LONG = process.env.SQLFUSE_LONG === "1";
  const EPOCHS = LONG ? 100 : 25;
  const OPERATIONS = LONG ? 10_000 : 1000;

  it(
    "each show what the volume showed, also after others were deleted at random",
    () =>
      withRandom((random, step) =>
        inVolume(
          (fixture) => {
            const dumps = new Map<string, Dump>();
            const compare = () => {
              for (const [name, shown] of dumps) expect(dumpAt(fixture, name), name).toEqual(shown);
            };
            for (let epoch = 0; epoch < EPOCHS; epoch++) {
              for (let i = 0; i < OPERATIONS / EPOCHS; i++) {
                fixture.clock.advance(random.below(100));
                operate(random, fixture.volume, step);
                if (random.chance(0.05)) settle(fixture.volume, fixture.clock);
                if (random.chance(0.01)) fixture.remount();
              }
              const name = `snapshot ${epoch}`;
              step(name);
              dumps.set(name, dump(fixture.volume));
              fixture.volume.history.create(name);
            }
            compare();
            while (dumps.size > 0) {
              for (const name of [...dumps.keys()].filter(() => random.chance(0.4))) {
                step(`delete ${name}`);
                dumps.delete(name);
                fixture.volume.history.delete(name);
                if (random.chance(0.5)) fixture.volume.idle(fixture.clock.ms);
              }
              for (let i = 0; i < 20; i++) operate(random, fixture.volume, step);
              if (random.chance(0.5)) fixture.volume.prune();
              fixture.volume.commit();
              compare();
            }
            const now = dump(fixture.volume);
            fixture.volume.prune();
            expect(dump(fixture.volume)).toEqual(now);
            const { block, snapshot, ...past } = rowsOf(fixture);
            expect(past).toEqual(Object.fromEntries(PAST_TABLES.map((table) => [table, 0])));
            expect(snapshot).toBe(0);
            const named = "SELECT count(DISTINCT block) FROM extent WHERE block <> 0";
            expect(block).toBe(fixture.number(named));
          },
          { ...SMALL, volume: { noatime: true } },
        ),
      ),
    LONG ? 1_200_000 : 60_000,
  );
});

describe("an automatic snapshot", () => {
  it("is made where something changed since the last one, and by nothing else", () =>
    inVolume((fixture, volume) => {
      const names = () => fixture.volume.history.list().map(({ name }) => name);
      put(volume, ROOT, "a", "content");
      expect(volume.history.createAutomatic()?.automatic).toBe(true);
      expect(volume.history.createAutomatic()).toBeUndefined();
      expect(fixture.remount().history.createAutomatic()).toBeUndefined();
      fixture.clock.advance(1e9);
      namesOf(fixture.volume, ROOT);
      expect(fixture.volume.history.createAutomatic()).toBeUndefined();
      fixture.volume.attributes.setattr(ROOT, { mode: 0o711 });
      expect(fixture.remount().history.createAutomatic()?.name).toBe("auto-2");
      expect(names()).toEqual(["auto-1", "auto-2"]);
      expect(errnoOf(() => fixture.volume.history.create("auto-7"))).toBe("EINVAL");
      expect(find(fixture.volume, "a")?.size).toBe(7);
    }));

  it("is made so long after a change where that is asked for, and never where nothing changes", () =>
    inVolume(
      (fixture, volume) => {
        const names = () => volume.history.list().map(({ name }) => name);
        settle(volume, fixture.clock);
        // The new volume itself is a change: its root directory.
        expect(names()).toEqual([]);
        fixture.clock.advance(60_000);
        settle(volume, fixture.clock);
        expect(names()).toEqual(["auto-1"]);
        fixture.clock.advance(3_600_000);
        expect(settle(volume, fixture.clock)).toBe(Infinity);
        touch(volume, ROOT, "a");
        expect(settle(volume, fixture.clock)).toBeLessThanOrEqual(60_000);
        fixture.clock.advance(59_000);
        settle(volume, fixture.clock);
        touch(volume, ROOT, "b");
        expect(names()).toEqual(["auto-1"]);
        fixture.clock.advance(1000);
        settle(volume, fixture.clock);
        expect(names()).toEqual(["auto-1", "auto-2"]);
        inPast(fixture, { epoch: 2 }, (past) => expect(namesOf(past, ROOT)).toEqual(["a", "b"]));
      },
      { volume: { historyMs: 60_000 } },
    ));

  it("goes by the retention of the volume, and those that were made by hand or are protected stay", () =>
    inVolume(
      (fixture, volume) => {
        volume.history.setRetention({
          ...volume.history.retention,
          within: 0,
          last: 2,
          hourly: 0,
          daily: 0,
          weekly: 0,
        });
        volume.history.create("by hand");
        for (let i = 0; i < 6; i++) {
          touch(volume, ROOT, `file ${i}`);
          settle(volume, fixture.clock);
          fixture.clock.advance(1000);
          settle(volume, fixture.clock);
          if (i === 1) volume.history.protect("auto-3", true);
        }
        expect(volume.history.list().map(({ name }) => name)).toEqual([
          "by hand",
          "auto-3",
          "auto-6",
          "auto-7",
        ]);
        expect(rowsOf(fixture)).toMatchObject({ snapshot: 4 });
        inPast(fixture, { name: "auto-3" }, (past) => expect(namesOf(past, ROOT)).toHaveLength(2));
        fixture.open();
      },
      { volume: { historyMs: 1000 } },
    ));
});
