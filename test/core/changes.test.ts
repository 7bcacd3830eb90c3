/** What changed between two states, and in the life of one file, compared with what the states show in full. */
import { describe, expect, it } from "vitest";
import type { Change, Event } from "../../src/core/changes.ts";
import type { Epoch } from "../../src/core/types.ts";
import type { Volume } from "../../src/core/volume.ts";
import { type Dump, dump } from "./dump.ts";
import { b, contentOf, find, inVolume, mkdir, noise, put, ROOT, touch } from "./fixture.ts";
import { BLOCK, operate } from "./operations.ts";
import { withRandom } from "./random.ts";

const LONG = process.env.SQLFUSE_LONG === "1";
const SMALL = { blockSize: BLOCK };
const S_IFDIR = 0o040000;
const INDEX_NAMES = "'inode_born', 'dirent_ino', 'dirent_past_ino'";

/** One line per change: kind, path, path before, what. */
function lines(changes: readonly Change[]): string[] {
  return changes.map(({ kind, path, from, what }) =>
    [kind, path === "" ? "/" : path, ...(from === undefined ? [] : [`from ${from}`]), ...what].join(" "),
  );
}

function told({ kind, path, from, what, writtenBytes, size }: Event): string {
  const moved = from === undefined ? [] : [`from ${from}`];
  return [kind, path, ...moved, ...what, writtenBytes, size].join(" ");
}

/** Names that are only in one of two states, and paths of what shows otherwise, by comparing all there is. */
function compare(before: Dump, after: Dump): { fresh: string[]; gone: string[]; modified: string[] } {
  const keyOf = (state: Dump, path: string): string => {
    const slash = path.lastIndexOf("/");
    const { ino } = state[path] ?? { ino: 0 };
    return path === "" ? "root" : `${state[path.slice(0, slash)]?.ino} ${path.slice(slash + 1)} ${ino}`;
  };
  const had = new Map(Object.keys(before).map((path) => [keyOf(before, path), path]));
  const has = new Map(Object.keys(after).map((path) => [keyOf(after, path), path]));
  const shown = (state: Dump, path: string) => {
    const one = state[path];
    const isDirectory = ((one?.mode ?? 0) & 0o170000) === S_IFDIR;
    const mtime = isDirectory ? "" : one?.times.split(" ")[0];
    return JSON.stringify([one?.mode, one?.uid, one?.gid, one?.size, one?.xattrs, one?.content, mtime]);
  };
  return {
    fresh: [...has].flatMap(([key, path]) => (had.has(key) ? [] : [path])).sort(),
    gone: [...had].flatMap(([key, path]) => (has.has(key) ? [] : [path])).sort(),
    modified: [...has].flatMap(([key, path]) => {
      const was = had.get(key);
      return was !== undefined && shown(before, was) !== shown(after, path) ? [path] : [];
    }),
  };
}

/** The same out of changes. A name that another file has now came and went. */
function names(changes: readonly Change[]): { fresh: string[]; gone: string[] } {
  const isReplaced = ({ what }: Change) => what.includes("replaced");
  return {
    fresh: changes
      .flatMap((one) =>
        one.kind === "removed" || (one.kind === "modified" && !isReplaced(one)) ? [] : [one.path],
      )
      .sort(),
    gone: changes
      .flatMap((one) => [
        ...(one.kind === "removed" || isReplaced(one) ? [one.path] : []),
        ...(one.from === undefined ? [] : [one.from]),
      ])
      .sort(),
  };
}

describe("what changed", () => {
  it("is told by name: added, removed, renamed, modified, and how", () =>
    inVolume((fixture, volume) => {
      const d = mkdir(volume, ROOT, "d");
      const inner = mkdir(volume, d, "inner");
      const kept = put(volume, inner, "kept", "same");
      const a = put(volume, d, "a", "one");
      const mode = put(volume, ROOT, "mode", "x");
      put(volume, d, "gone", "x");
      put(volume, ROOT, "edited", "old");
      const one = volume.history.create("one").epoch;
      fixture.clock.sec += 10;
      volume.files.write(a, 0, b("two"), false);
      volume.attributes.setattr(mode, { mode: 0o600 });
      volume.xattrs.set(kept, b("user.x"), b("1"), 0, false);
      volume.tree.unlink(d, b("gone"));
      put(volume, ROOT, "new", "n");
      volume.tree.rename(d, b("inner"), ROOT, b("moved"), 0);
      put(volume, ROOT, "draft", "new");
      volume.tree.rename(ROOT, b("draft"), ROOT, b("edited"), 0);
      volume.tree.link(kept, ROOT, b("second"));
      const expected = [
        "modified /d/a content",
        "removed /d/gone",
        "modified /edited replaced",
        "modified /mode mode",
        "renamed /moved from /d/inner",
        "modified /moved/kept attributes",
        "added /new",
        "added /second attributes",
      ];
      const seen = lines(volume.changes().between(one, volume.epoch));
      expect(seen.map((line) => line.replace("/second", "/second attributes"))).toEqual(expected);
      expect(lines(volume.changes().between(one, volume.epoch, "/d"))).toEqual([
        "modified /d/a content",
        "removed /d/gone",
        "renamed /moved from /d/inner",
        "modified /moved/kept attributes",
      ]);
      expect(volume.changes().between(volume.history.create("two").epoch, volume.epoch)).toEqual([]);
    }, SMALL));

  it("is the same with the indexes and without them, for a writer and for a reader", () =>
    inVolume((fixture, first) => {
      const d = mkdir(first, ROOT, "d");
      put(first, d, "a", "one");
      const one = first.history.create("one").epoch;
      first.tree.rename(ROOT, b("d"), ROOT, b("e"), 0);
      first.files.write(find(first, "e/a")?.ino ?? ROOT, 0, b("two"), false);
      const expected = ["renamed /e from /d", "modified /e/a content"];
      const seen = (volume: Volume) => lines(volume.changes().between(one, volume.epoch));
      expect(seen(first)).toEqual(expected);
      expect(seen(fixture.remount({ readOnly: true }))).toEqual(expected);
      const writer = fixture.remount();
      writer.history.index();
      writer.history.index();
      expect(seen(writer)).toEqual(expected);
      touch(writer, ROOT, "after");
      expect(seen(writer)).toEqual(["added /after", ...expected]);
      expect(seen(fixture.remount({ beside: true }))).toEqual(["added /after", ...expected]);
      fixture.close();
      expect(fixture.number(`SELECT count(*) FROM sqlite_schema WHERE name IN (${INDEX_NAMES})`)).toBe(3);
    }, SMALL));

  it("is found by the indexes once they are there", () =>
    inVolume((fixture, volume) => {
      put(volume, ROOT, "a", "one");
      volume.history.create("one");
      volume.history.index();
      fixture.close();
      for (const [sql, index] of [
        ["SELECT ino FROM inode WHERE born > 1", "inode_born"],
        ["SELECT ino FROM inode_past WHERE died > 1", "inode_past_died"],
        ["SELECT name FROM dirent WHERE ino = 2", "dirent_ino"],
        ["SELECT name FROM dirent_past WHERE ino = 2", "dirent_past_ino"],
      ]) {
        const plan = fixture.sql((db) => {
          const row = db.prepare(`EXPLAIN QUERY PLAN ${sql}`);
          return row.step() ? row.text(3) : "";
        });
        expect(plan).toContain(index);
      }
    }));

  it(
    "after random operations, between any two snapshots, is what a comparison in full finds",
    { timeout: 600_000 },
    () =>
      withRandom((random) =>
        inVolume((_, volume) => {
          const states: { epoch: Epoch; dump: Dump }[] = [];
          if (random.below(2) === 0) volume.history.index();
          for (let i = 0; i < (LONG ? 100 : 15); i++) {
            for (let j = 0; j < 20; j++) operate(random, volume, () => {});
            states.push({ dump: dump(volume), epoch: volume.history.create(`s${i}`).epoch });
          }
          states.push({ dump: dump(volume), epoch: volume.epoch });
          let count = 0;
          for (const [i, from] of states.entries())
            for (const to of states.slice(i + 1, LONG ? i + 20 : undefined)) {
              const changes = volume.changes().between(from.epoch, to.epoch);
              const { modified, ...expected } = compare(from.dump, to.dump);
              expect(names(changes)).toEqual(expected);
              const seen = new Set(changes.filter(({ what }) => what.length > 0).map(({ path }) => path));
              // A file with several names may be told by one that is new.
              const inos = new Set(
                changes.flatMap(({ what, after }) => (what.length > 0 ? [after?.ino] : [])),
              );
              for (const path of modified)
                expect(seen.has(path) || inos.has(to.dump[path]?.ino as never), path).toBe(true);
              for (const { kind, what, path } of changes)
                if (kind === "modified" && what.every((one) => one === "mode" || one === "owner"))
                  expect(modified).toContain(path);
              count += changes.length;
            }
          expect(count).toBeGreaterThan(100);
        }, SMALL),
      ),
  );
});

describe("the log of a file", () => {
  it("tells how it was made, written, renamed, changed and deleted, and how long it was there", () =>
    inVolume((fixture, volume) => {
      const step = (name: string) => {
        fixture.clock.sec += 10;
        volume.history.create(name);
      };
      const a = put(volume, ROOT, "a", noise(3 * BLOCK));
      step("made");
      volume.files.write(a, BLOCK, b("x"), false);
      step("written");
      step("nothing");
      const d = mkdir(volume, ROOT, "d");
      volume.tree.rename(ROOT, b("a"), d, b("b"), 0);
      step("moved");
      volume.attributes.setattr(a, { mode: 0o600 });
      step("closed");
      volume.tree.unlink(d, b("b"));
      expect([...volume.changes().log("/d/b")].map(told)).toEqual([
        `deleted /d/b 0 ${3 * BLOCK}`,
        `changed /d/b mode 0 ${3 * BLOCK}`,
        `changed /d/b from /a 0 ${3 * BLOCK}`,
        `changed /a content ${BLOCK} ${3 * BLOCK}`,
        `created /a 0 ${3 * BLOCK}`,
      ]);
      const [, , , written] = [...volume.changes().log("/d/b")];
      const snapshot = volume.history.find({ name: "written" });
      expect(written?.epoch).toBe(snapshot?.epoch);
      expect(written?.time).toEqual({ sec: (snapshot?.created.sec ?? 0) - 10, nsec: snapshot?.created.nsec });
      expect([...volume.changes().log("/never")]).toEqual([]);
      expect(
        [...volume.changes().log("/d")].map((one) => [one.kind, one.namesAdded, one.namesRemoved]),
      ).toEqual([
        ["changed", 0, 1],
        ["created", 0, 0],
      ]);
    }, SMALL));

  it("goes on with the file that had the name before, as an editor's saving leaves it", () =>
    inVolume((_, volume) => {
      put(volume, ROOT, "a", "first");
      volume.history.create("one");
      put(volume, ROOT, "a~", "second!");
      volume.tree.rename(ROOT, b("a~"), ROOT, b("a"), 0);
      volume.history.create("two");
      volume.tree.unlink(ROOT, b("a"));
      volume.history.create("three");
      const again = put(volume, ROOT, "a", "third");
      expect(contentOf(volume, again).toString()).toBe("third");
      expect([...volume.changes().log("/a")].map(told)).toEqual([
        "created /a 0 5",
        "deleted /a 0 7",
        "replaced /a 0 7",
        "created /a 0 5",
      ]);
      expect(volume.changes().lastSeen("/a")).toBe(volume.history.find({ name: "two" })?.epoch);
    }, SMALL));
});
