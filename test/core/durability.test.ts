/** When changes are durable: what a copy of the file and its -wal holds, taken at that moment. */
import { execFileSync } from "node:child_process";
import { readFileSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { unlock } from "../../src/core/unlock.ts";
import { dump } from "./dump.ts";
import {
  afterCrash,
  b,
  contentOf,
  type Fixture,
  find,
  inVolume,
  mkdir,
  namesOf,
  noise,
  PASSWORD,
  put,
  ROOT,
  settle,
  touch,
} from "./fixture.ts";

/** Names in the root of what a crash now would leave. */
function namesAfterCrash(fixture: Fixture): string[] {
  let names: string[] = [];
  afterCrash(fixture, (_, copy) => {
    names = namesOf(copy, ROOT);
  });
  return names;
}

describe("after a crash", () => {
  it("everything before an fsync is there: names, contents, attributes, of other files too", () =>
    inVolume((fixture, volume) => {
      const file = put(volume, mkdir(volume, ROOT, "d"), "a", noise(200_000));
      volume.xattrs.set(file, b("user.x"), b("y"), 0, false);
      const other = put(volume, ROOT, "other", "other");
      volume.fsync(other);
      const before = dump(volume);
      afterCrash(fixture, (_, copy) => expect(dump(copy)).toEqual(before));
    }));

  it("what came after the last fsync is not there, as a whole", () =>
    inVolume((fixture, volume) => {
      const file = put(volume, ROOT, "a", "before");
      volume.fsync(file);
      const before = dump(volume);
      volume.files.write(file, 0, b("after!"), false);
      put(volume, ROOT, "b", noise(500_000));
      volume.tree.rename(ROOT, b("a"), ROOT, b("c"), 0);
      afterCrash(fixture, (_, copy) => expect(dump(copy)).toEqual(before));
    }));

  it("what a group larger than the cache spilled before its commit is not there either", () =>
    inVolume(
      (fixture, volume) => {
        const file = put(volume, ROOT, "a", "before");
        volume.fsync(file);
        const before = dump(volume);
        put(volume, ROOT, "b", noise(1_900_000));
        expect(statSync(`${fixture.path}-wal`).size).toBeGreaterThan(2 ** 20);
        afterCrash(fixture, (_, copy) => expect(dump(copy)).toEqual(before));
      },
      { volume: { cacheBytes: 2 ** 19 } },
    ));

  it("every operation before it is there with one commit for each", () =>
    inVolume(
      (fixture, volume) => {
        const file = put(volume, ROOT, "a", "1");
        volume.files.write(file, 0, b("2"), false);
        volume.tree.rename(ROOT, b("a"), ROOT, b("b"), 0);
        const before = dump(volume);
        afterCrash(fixture, (_, copy) => expect(dump(copy)).toEqual(before));
      },
      { volume: { sync: true } },
    ));

  it("a number that a lost file had comes back with another generation", () =>
    inVolume((fixture, volume) => {
      volume.commit();
      const lost = touch(volume, ROOT, "lost");
      const { generation } = volume.attributes.getattr(lost);
      afterCrash(fixture, (_, copy) => {
        const again = touch(copy, ROOT, "again");
        if (again === lost) expect(copy.attributes.getattr(again).generation).not.toBe(generation);
      });
    }));

  it("twice in a row, with work in between, the volume is whole", () =>
    inVolume((fixture, volume) => {
      const file = put(volume, ROOT, "a", noise(300_000));
      volume.fsync(file);
      put(volume, ROOT, "lost", "x");
      afterCrash(fixture, (first, copy) => {
        copy.files.write(file, 100, b("second life"), false);
        copy.fsync(file);
        copy.tree.unlink(ROOT, b("a"));
        afterCrash(first, (_, second) => {
          expect(contentOf(second, file).subarray(100, 111).toString()).toBe("second life");
        });
      });
    }));
});

describe("a -wal that a power cut left in any state", () => {
  /** Ten commits, none of them copied to the main file; what was shown after each. */
  function withCommits(run: (fixture: Fixture, shown: readonly unknown[]) => void): void {
    inVolume((fixture, volume) => {
      const file = touch(volume, ROOT, "a");
      volume.fsync(file);
      const shown: unknown[] = [dump(volume)];
      for (let i = 0; i < 10; i++) {
        fixture.clock.advance(1);
        volume.files.write(file, i * 20_000, noise(30_000, i), false);
        put(volume, ROOT, `file ${i}`, noise(i * 1000, i));
        if (i > 2) volume.tree.unlink(ROOT, b(`file ${i - 3}`));
        volume.commit();
        shown.push(dump(volume));
      }
      run(fixture, shown);
    });
  }

  it("cut short anywhere gives the state after some commit, and a whole volume", () =>
    withCommits((fixture, shown) => {
      const { size } = statSync(`${fixture.path}-wal`);
      const found: number[] = [];
      for (let part = 0; part <= 24; part++) {
        const copy = fixture.crashCopy();
        truncateSync(`${copy.path}-wal`, Math.floor((size * part) / 24));
        const now = JSON.stringify(dump(copy.volume));
        const state = shown.findIndex((s) => JSON.stringify(s) === now);
        // Before the first commit there is the empty volume of the template.
        if (state < 0) expect(namesOf(copy.volume, ROOT)).toEqual([]);
        found.push(state);
        copy.finish();
        copy.remove();
      }
      expect(found).toEqual([...found].sort((x, y) => x - y));
      expect(found.at(-1)).toBe(10);
      expect(new Set(found).size).toBeGreaterThan(5);
    }));

  it("with a checkpoint torn at any page, the first one too, loses nothing", () =>
    withCommits((fixture, shown) => {
      const before = fixture.crashCopy();
      for (let due = 0; due !== Number.POSITIVE_INFINITY; due = settle(fixture.volume, fixture.clock))
        fixture.clock.advance(due); // copies the -wal, which stays valid
      const after = fixture.crashCopy();
      const [old, young] = [readFileSync(before.path), readFileSync(after.path)];
      expect(old.equals(young)).toBe(false);
      for (let seed = 0; seed < 5; seed++) {
        const copy = fixture.crashCopy();
        execFileSync("cp", [`${before.path}-wal`, copy.directory]);
        // Half of each page is young, half old, as a cut in the middle of a write leaves it; others are whole.
        const torn = Buffer.from(old);
        for (let at = 0; at < old.length; at += 4096)
          if (((at / 4096) * 7 + seed * 3) % 5 < 2) young.copy(torn, at, at, at + 4096);
        writeFileSync(copy.path, torn);
        expect(unlock(copy.path, PASSWORD).cipher).toEqual(fixture.key.cipher);
        expect(dump(copy.volume)).toEqual(shown.at(-1));
        copy.finish();
        copy.remove();
      }
      before.remove();
      after.remove();
    }));
});

describe("the commit interval", () => {
  it("is counted from the oldest change of the group, and idle tells what is left of it", () =>
    inVolume((fixture, volume) => {
      const { clock } = fixture;
      expect(volume.idle(clock.ms)).toBe(Number.POSITIVE_INFINITY);
      touch(volume, ROOT, "a");
      expect(volume.idle(clock.ms)).toBe(1000);
      clock.advance(600);
      touch(volume, ROOT, "b");
      expect(volume.idle(clock.ms)).toBe(400);
      expect(volume.uncommittedMs(clock.ms)).toBe(600);
      clock.advance(399);
      expect(volume.idle(clock.ms)).toBe(1);
      expect(namesAfterCrash(fixture)).toEqual([]);
      clock.advance(1);
      volume.idle(clock.ms);
      expect(volume.uncommittedMs(clock.ms)).toBe(0);
      expect(namesAfterCrash(fixture)).toEqual(["a", "b"]);
    }));

  it("may be chosen", () =>
    inVolume(
      (fixture, volume) => {
        touch(volume, ROOT, "a");
        expect(volume.idle(fixture.clock.ms)).toBe(30_000);
        fixture.clock.advance(29_999);
        volume.idle(fixture.clock.ms);
        expect(namesAfterCrash(fixture)).toEqual([]);
        fixture.clock.advance(1);
        volume.idle(fixture.clock.ms);
        expect(namesAfterCrash(fixture)).toEqual(["a"]);
      },
      { volume: { commitIntervalMs: 30_000 } },
    ));

  it("begins anew with the first change after a commit", () =>
    inVolume((fixture, volume) => {
      touch(volume, ROOT, "a");
      fixture.clock.advance(900);
      volume.commit();
      fixture.clock.advance(5000);
      settle(volume, fixture.clock);
      touch(volume, ROOT, "b");
      expect(volume.idle(fixture.clock.ms)).toBe(1000);
    }));

  it("does not wait where a group gets large", () =>
    inVolume((fixture, volume) => {
      const file = touch(volume, ROOT, "a");
      const piece = noise(2 ** 20);
      for (let i = 0; i < 70; i++) volume.files.write(file, i * 2 ** 20, piece, false);
      afterCrash(fixture, (_, copy) => expect(find(copy, "a")?.size).toBeGreaterThan(2 ** 20));
    }));
});

describe("idle", () => {
  it("has nothing to do, and asks not to be called, in a volume that nobody changed", () =>
    inVolume((fixture, volume) => {
      volume.tree.lookup(ROOT, b("a"));
      volume.statfs();
      expect(volume.idle(fixture.clock.ms)).toBe(Number.POSITIVE_INFINITY);
    }));

  it("copies the -wal to the main file when the volume has been quiet, and then asks not to be called", () =>
    inVolume((fixture, volume) => {
      put(volume, ROOT, "a", noise(2 ** 20));
      volume.commit();
      const before = statSync(fixture.path).size;
      const due = volume.idle(fixture.clock.ms);
      expect(due).toBeGreaterThan(0);
      expect(due).toBeLessThan(60_000);
      fixture.clock.advance(due);
      expect(settle(volume, fixture.clock)).toBe(Number.POSITIVE_INFINITY);
      expect(statSync(fixture.path).size).toBeGreaterThan(before);
    }));

  it("keeps the -wal bounded while a volume is written to without a pause", () =>
    inVolume((fixture, volume) => {
      const file = touch(volume, ROOT, "a");
      const piece = noise(2 ** 20);
      let largest = 0;
      for (let i = 0; i < 250; i++) {
        volume.files.write(file, (i % 40) * 2 ** 20, piece, false);
        fixture.clock.advance(20);
        volume.idle(fixture.clock.ms);
        largest = Math.max(largest, statSync(`${fixture.path}-wal`).size);
      }
      expect(largest).toBeLessThan(200 * 2 ** 20);
    }));
});
