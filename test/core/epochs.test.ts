/**
 * The past: what every closed epoch showed is found again in the live and the *_past tables, by nothing
 * but the rule that schema.sql states. So history needs no new format.
 */
import { describe, expect, it } from "vitest";
import { RENAME_EXCHANGE } from "../../src/core/types.ts";
import type { Volume } from "../../src/core/volume.ts";
import { type Dump, dump, dumpEpoch } from "./dump.ts";
import { b, CALLER, type Fixture, inVolume, mkdir, noise, put, ROOT, settle, touch } from "./fixture.ts";
import { BLOCK, operate, PUNCH, ZERO } from "./operations.ts";
import { withRandom } from "./random.ts";

const SMALL = { blockSize: BLOCK };

/** What each closed epoch showed. */
class History {
  readonly #fixture: Fixture;
  readonly #shown = new Map<number, Dump>();

  constructor(fixture: Fixture) {
    this.#fixture = fixture;
  }

  closeEpoch(): void {
    const shown = dump(this.#fixture.volume);
    this.#shown.set(this.#fixture.volume.closeEpoch(), shown);
  }

  /** Closes the volume and finds each epoch again, the current one too. */
  compare(): void {
    const now = dump(this.#fixture.volume);
    this.#fixture.close();
    this.#fixture.sql((db) => {
      for (const [epoch, shown] of this.#shown) expect(dumpEpoch(db, epoch), `epoch ${epoch}`).toEqual(shown);
      expect(dumpEpoch(db, this.#shown.size + 1)).toEqual(now);
    });
  }
}

/** Rows of the past whose inode no epoch showed while they held: they would only take space. */
function uselessRows(fixture: Fixture): Record<string, number> {
  fixture.close();
  const shown = (table: string) => `SELECT count(*) FROM ${table} AS x WHERE NOT EXISTS (
    SELECT 1 FROM inode_past AS i WHERE i.ino = x.ino AND i.nlink > 0 AND i.born < x.died AND x.born < i.died)
    AND NOT EXISTS (SELECT 1 FROM inode AS i WHERE i.ino = x.ino AND i.nlink > 0 AND i.born < x.died)`;
  return Object.fromEntries(
    ["extent_past", "xattr_past"].map((table) => [table, fixture.number(shown(table))]),
  );
}

const NOTHING_USELESS = { extent_past: 0, xattr_past: 0 };

function inHistory(run: (volume: Volume, history: History, fixture: Fixture) => void): void {
  inVolume((fixture, volume) => {
    const history = new History(fixture);
    run(volume, history, fixture);
    history.compare();
    expect(uselessRows(fixture)).toEqual(NOTHING_USELESS);
  }, SMALL);
}

describe("a closed epoch keeps", () => {
  it("a file that is overwritten in part, truncated, extended and removed in later ones", () =>
    inHistory((volume, history) => {
      const file = put(volume, ROOT, "a", noise(5 * BLOCK + 10));
      history.closeEpoch();
      volume.files.write(file, BLOCK + 5, b("changed"), false);
      history.closeEpoch();
      volume.attributes.setattr(file, { size: 2 * BLOCK + 1 });
      history.closeEpoch();
      volume.attributes.setattr(file, { size: 9 * BLOCK });
      history.closeEpoch();
      volume.files.fallocate(file, PUNCH, 10, 2 * BLOCK, false);
      history.closeEpoch();
      volume.files.fallocate(file, ZERO, 2 * BLOCK, BLOCK, false);
      history.closeEpoch();
      volume.tree.unlink(ROOT, b("a"));
      history.closeEpoch();
    }));

  it("names: removed, renamed, replaced, exchanged, and made again in the same epoch", () =>
    inHistory((volume, history) => {
      const [one, other] = [mkdir(volume, ROOT, "one"), mkdir(volume, ROOT, "other")];
      for (const name of ["a", "b", "c", "d"]) put(volume, one, name, name);
      history.closeEpoch();
      volume.tree.rename(one, b("a"), other, b("moved"), 0);
      volume.tree.rename(one, b("b"), one, b("c"), 0);
      volume.tree.unlink(one, b("d"));
      put(volume, one, "d", "again");
      history.closeEpoch();
      volume.tree.rename(ROOT, b("one"), ROOT, b("other"), RENAME_EXCHANGE);
      volume.tree.unlink(one, b("d"));
      put(volume, one, "d", "and again");
      volume.tree.unlink(one, b("d"));
      history.closeEpoch();
      volume.tree.rename(one, b("c"), other, b("moved"), RENAME_EXCHANGE);
      volume.tree.rename(ROOT, b("other"), other, b("inner"), 0);
      history.closeEpoch();
    }));

  it("attributes, modes, owners and times", () =>
    inHistory((volume, history, fixture) => {
      const file = put(volume, ROOT, "a", "content");
      volume.xattrs.set(file, b("user.x"), b("1"), 0, false);
      volume.xattrs.set(file, b("user.y"), b("1"), 0, false);
      history.closeEpoch();
      fixture.clock.advance(1000);
      volume.xattrs.set(file, b("user.x"), b("2"), 0, false);
      volume.xattrs.remove(file, b("user.y"));
      volume.xattrs.set(file, b("user.z"), b("2"), 0, false);
      history.closeEpoch();
      volume.attributes.setattr(file, { mode: 0o4711, uid: 7, mtime: { sec: -5, nsec: 5 } });
      volume.xattrs.remove(file, b("user.x"));
      volume.xattrs.set(file, b("user.x"), b("3"), 0, false);
      history.closeEpoch();
    }));

  it("nothing of an atime that moves", () =>
    inVolume((fixture, volume) => {
      const file = put(volume, ROOT, "a", "content");
      volume.closeEpoch();
      fixture.clock.advance(1e9);
      volume.files.read(file, 0, 7, Buffer.alloc(7));
      volume.tree.readdir(ROOT, 0, () => true);
      fixture.close();
      expect(fixture.number("SELECT count(*) FROM inode_past")).toBe(0);
      expect(fixture.number("SELECT max(born) FROM inode")).toBe(1);
    }));

  it("nothing that was made and removed within the epoch that follows", () =>
    inVolume((fixture, volume) => {
      volume.closeEpoch();
      const file = put(volume, ROOT, "a", noise(5 * BLOCK));
      volume.xattrs.set(file, b("user.x"), b("1"), 0, false);
      volume.tree.unlink(ROOT, b("a"));
      settle(volume, fixture.clock);
      fixture.close();
      for (const table of ["dirent_past", "extent_past", "xattr_past", "block"])
        expect(fixture.number(`SELECT count(*) FROM ${table}`), table).toBe(0);
    }, SMALL));

  it("one copy of each row, however often it changes in one later epoch", () =>
    inVolume((fixture, volume) => {
      const file = put(volume, ROOT, "a", noise(BLOCK));
      volume.xattrs.set(file, b("user.x"), b("1"), 0, false);
      volume.closeEpoch();
      for (let i = 0; i < 10; i++) {
        volume.files.write(file, 0, noise(BLOCK, i), false);
        volume.xattrs.set(file, b("user.x"), b(`${i}`), 0, false);
        volume.tree.rename(ROOT, b(i % 2 === 0 ? "a" : "z"), ROOT, b(i % 2 === 0 ? "z" : "a"), 0);
      }
      fixture.close();
      for (const table of ["dirent_past", "extent_past", "xattr_past"])
        expect(fixture.number(`SELECT count(*) FROM ${table}`), table).toBe(1);
      expect(fixture.number("SELECT count(*) FROM inode_past")).toBe(2); // the file and the root
      expect(fixture.number("SELECT count(*) FROM block")).toBe(2);
    }, SMALL));

  it("blocks that are shared within it and changed on either side later", () =>
    inHistory((volume, history) => {
      const file = put(volume, ROOT, "a", noise(4 * BLOCK));
      history.closeEpoch();
      const other = touch(volume, ROOT, "b");
      volume.files.copyFileRange(file, 0, other, 0, 4 * BLOCK, false);
      history.closeEpoch();
      volume.files.write(file, 0, b("one side"), false);
      volume.files.write(other, BLOCK, b("the other"), false);
      history.closeEpoch();
      volume.tree.unlink(ROOT, b("a"));
      volume.files.copyFileRange(other, 0, other, 8 * BLOCK, 4 * BLOCK, false);
      history.closeEpoch();
      volume.tree.unlink(ROOT, b("b"));
    }));

  it("a large file that is cut, whose blocks go in the background", () =>
    inHistory((volume, history, fixture) => {
      const file = touch(volume, ROOT, "a");
      for (let i = 0; i < 300; i++) volume.files.write(file, i * BLOCK, b(`block ${i}`), false);
      history.closeEpoch();
      for (let i = 100; i < 400; i += 2) volume.files.write(file, i * BLOCK, b(`block ${i} anew`), false);
      volume.attributes.setattr(file, { size: 50 * BLOCK + 3 });
      history.closeEpoch();
      settle(volume, fixture.clock);
      history.closeEpoch();
    }));

  it("a file as it was before its unlink, though it is written to while somebody holds it", () =>
    inHistory((volume, history, fixture) => {
      const file = put(volume, ROOT, "a", noise(3 * BLOCK));
      volume.xattrs.set(file, b("user.x"), b("1"), 0, false);
      volume.inodes.ref(file);
      history.closeEpoch();
      volume.tree.unlink(ROOT, b("a"));
      volume.files.write(file, 0, noise(BLOCK, 2), false);
      history.closeEpoch();
      volume.files.write(file, BLOCK, noise(4 * BLOCK, 3), false);
      volume.xattrs.set(file, b("user.x"), b("2"), 0, false);
      volume.attributes.setattr(file, { mode: 0o600, size: 2 * BLOCK });
      history.closeEpoch();
      volume.inodes.unref(file, 1);
      settle(volume, fixture.clock);
      history.closeEpoch();
    }));

  it("nothing of a file that was unlinked, held over an epoch, and cut then", () =>
    inHistory((volume, history, fixture) => {
      const file = touch(volume, ROOT, "a");
      volume.inodes.ref(file);
      volume.tree.unlink(ROOT, b("a"));
      for (let i = 0; i < 300; i++) volume.files.write(file, i * BLOCK, b("x"), false);
      history.closeEpoch();
      volume.attributes.setattr(file, { size: BLOCK });
      settle(volume, fixture.clock);
      history.closeEpoch();
    }));

  it("nothing of an O_TMPFILE before it got its name", () =>
    inHistory((volume, history, fixture) => {
      const { ino } = volume.tree.tmpfile(ROOT, 0o600, CALLER);
      volume.inodes.ref(ino);
      volume.files.write(ino, 0, noise(2 * BLOCK), false);
      volume.xattrs.set(ino, b("user.x"), b("1"), 0, false);
      history.closeEpoch();
      volume.tree.link(ino, ROOT, b("a"));
      history.closeEpoch();
      volume.files.write(ino, 5, b("changed"), false);
      volume.xattrs.set(ino, b("user.x"), b("2"), 0, false);
      history.closeEpoch();
      volume.tree.unlink(ROOT, b("a"));
      volume.inodes.unref(ino, 1);
      settle(volume, fixture.clock);
    }));

  it("nothing of an O_TMPFILE that never got a name", () =>
    inHistory((volume, history) => {
      const { ino } = volume.tree.tmpfile(ROOT, 0o600, CALLER);
      volume.inodes.ref(ino);
      volume.files.write(ino, 0, noise(2 * BLOCK), false);
      history.closeEpoch();
      volume.files.write(ino, 0, noise(2 * BLOCK, 2), false);
      history.closeEpoch();
    }));
});

describe("every closed epoch is found again after random operations", () => {
  it.each([1, 2, 3, 4])("run %i", () => {
    withRandom((random, step) =>
      inVolume(
        (fixture) => {
          const history = new History(fixture);
          for (let epoch = 0; epoch < 12; epoch++) {
            for (let i = random.below(40); i > 0; i--) {
              fixture.clock.advance(random.below(100));
              operate(random, fixture.volume, step);
              if (random.chance(0.05)) settle(fixture.volume, fixture.clock);
              if (random.chance(0.02)) fixture.remount();
            }
            step("close an epoch");
            history.closeEpoch();
          }
          history.compare();
          expect(uselessRows(fixture)).toEqual(NOTHING_USELESS);
        },
        { ...SMALL, volume: { noatime: true } },
      ),
    );
  });
});
