/**
 * Damage: bytes of the file are changed while it is closed. The file that they belong to gives a
 * DamageError; everything else keeps working, changes and commits included.
 */
import { closeSync, mkdtempSync, openSync, readSync, rmSync, statSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { DamageError } from "../../src/base/errno.ts";
import { OpenError } from "../../src/core/errors.ts";
import type { Ino } from "../../src/core/types.ts";
import { unlock } from "../../src/core/unlock.ts";
import { Volume } from "../../src/core/volume.ts";
import { check } from "../../src/fsck/check.ts";
import { runChild } from "./child.ts";
import { type Dump, dump } from "./dump.ts";
import {
  b,
  contentOf,
  errnoOf,
  type FakeClock,
  Fixture,
  mkdir,
  noise,
  put,
  ROOT,
  settle,
  touch,
} from "./fixture.ts";

const PAGE = 16_384;
const BLOCK = 65_536;

/** Changes one byte in the middle of a page; again: changes it back. */
function flip(path: string, pageNo: number, at = 5000, pageSize = PAGE): void {
  const fd = openSync(path, "r+");
  try {
    const byte = Buffer.alloc(1);
    const position = (pageNo - 1) * pageSize + at;
    readSync(fd, byte, 0, 1, position);
    byte[0] = (byte[0] ?? 0) ^ 0x10;
    writeSync(fd, byte, 0, 1, position);
  } finally {
    closeSync(fd);
  }
}

/** "ok", an errno, "damage"; anything else is thrown on. */
function outcome(run: () => unknown): string {
  try {
    return errnoOf(run);
  } catch (error) {
    if (error instanceof DamageError) return "damage";
    throw error;
  }
}

function read(volume: Volume, ino: Ino, offset = 0, length = BLOCK): string {
  return outcome(() => volume.files.read(ino, offset, length, Buffer.alloc(length)));
}

/** A volume with "good" and "bad" of four blocks each, closed. */
class Damaged extends Fixture {
  readonly good: Ino;
  readonly bad: Ino;

  constructor() {
    super({ blockSize: BLOCK });
    this.good = put(this.volume, ROOT, "good", noise(4 * BLOCK));
    this.remount(); // so that the pages of one file lie behind those of the other
    this.bad = put(this.volume, ROOT, "bad", noise(4 * BLOCK, 2));
    this.close();
  }
}

/** The pages that hold nothing but data of the second block of "bad", the same in every such volume. */
const DAMAGED_PAGES = (() => {
  const fixture = new Damaged();
  const pages = statSync(fixture.path).size / PAGE;
  const found: number[] = [];
  for (let page = pages - 25; page <= pages; page++) {
    flip(fixture.path, page);
    // Each block in a fresh volume: what one read met must not colour the next.
    const whole = [0, 1, 2, 3].map((i) => isWhole(fixture, i));
    if (String(whole) === "true,false,true,true") found.push(page);
    flip(fixture.path, page);
  }
  fixture.remove();
  return found;
})();

function isWhole(fixture: Damaged, block: number): boolean {
  const into = Buffer.alloc(BLOCK);
  try {
    fixture.open({ readOnly: true }).files.read(fixture.bad, block * BLOCK, BLOCK, into);
    return into.equals(noise(4 * BLOCK, 2).subarray(block * BLOCK, (block + 1) * BLOCK));
  } catch {
    return false;
  } finally {
    fixture.close();
  }
}

/** Runs a test once for each page of the block, with a byte of it flipped; flipped back at the end. */
function withDamage(
  run: (volume: Volume, files: { good: Ino; bad: Ino }, fixture: Fixture) => void,
  options: { finish?: boolean } = {},
): void {
  for (const page of DAMAGED_PAGES) {
    const fixture = new Damaged();
    try {
      flip(fixture.path, page);
      run(fixture.open(), fixture, fixture);
      if (options.finish === false) continue;
      fixture.close();
      flip(fixture.path, page);
      fixture.takeLog();
      fixture.finish();
    } catch (cause) {
      throw new Error(`page ${page} of ${DAMAGED_PAGES}: ${cause}`, { cause });
    } finally {
      fixture.remove();
    }
  }
}

describe("a damaged block", () => {
  it("of 64 KiB has four pages of its own", () => {
    expect(DAMAGED_PAGES).toHaveLength(4);
  });

  it("gives a DamageError that names the inode, each time, and never wrong bytes", () =>
    withDamage((volume, { bad }) => {
      for (let i = 0; i < 3; i++) expect(read(volume, bad, BLOCK)).toBe("damage");
      expect(() => volume.files.read(bad, BLOCK, 10, Buffer.alloc(10))).toThrow(
        new RegExp(`inode ${bad}\\b`),
      );
      expect(read(volume, bad, 0, 4 * BLOCK)).toBe("damage");
    }));

  it("leaves the other blocks of its file and all other files readable", () =>
    withDamage((volume, { good, bad }) => {
      expect(read(volume, bad, BLOCK)).toBe("damage");
      for (const i of [0, 2, 3]) expect(read(volume, bad, i * BLOCK)).toBe("ok");
      expect(contentOf(volume, good).equals(noise(4 * BLOCK))).toBe(true);
      expect(volume.attributes.getattr(bad).size).toBe(4 * BLOCK);
    }));

  it("costs no change that was made before it was met, and none after", () =>
    withDamage((volume, { good, bad }, fixture) => {
      put(volume, ROOT, "before", "before");
      expect(read(volume, bad, BLOCK)).toBe("damage");
      put(volume, ROOT, "after", "after");
      volume.files.write(good, 7, b("changed"), false);
      volume.fsync(good);
      expect(volume.failed).toBe(false);
      const shown = ["before", "after"].map((name) => volume.tree.lookup(ROOT, b(name))?.size);
      expect(shown).toEqual([6, 5]);
      fixture.remount();
      expect(contentOf(fixture.volume, good).subarray(7, 14).toString()).toBe("changed");
      expect(read(fixture.volume, bad, BLOCK)).toBe("damage");
    }));

  it("refuses a change of a part of it, and leaves the open group alone", () =>
    withDamage((volume, { bad }) => {
      put(volume, ROOT, "before", "before");
      for (const change of [
        () => volume.files.write(bad, BLOCK + 100, b("x"), false),
        () => volume.files.fallocate(bad, 3, BLOCK + 100, 50, false),
        () => volume.attributes.setattr(bad, { size: BLOCK + 100 }),
      ])
        expect(outcome(change)).toBe("damage");
      expect(volume.failed).toBe(false);
      expect(volume.tree.lookup(ROOT, b("before"))?.size).toBe(6);
      volume.commit();
    }));

  it("refuses to be copied by bytes, and the target stays as it was", () =>
    withDamage((volume, { bad }) => {
      const copy = touch(volume, ROOT, "copy");
      expect(outcome(() => volume.files.copyFileRange(bad, 1, copy, 0, 3 * BLOCK, false))).toBe("damage");
      expect(volume.attributes.getattr(copy).size).toBe(0);
      volume.commit();
    }));

  it("may be shared with a copy, which is as damaged and costs nobody else anything", () =>
    withDamage((volume, { bad }) => {
      const copy = touch(volume, ROOT, "copy");
      expect(outcome(() => volume.files.copyFileRange(bad, 0, copy, 0, 4 * BLOCK, false))).toBe("ok");
      volume.commit();
      expect(read(volume, copy, BLOCK)).toBe("damage");
      expect(read(volume, copy, 2 * BLOCK)).toBe("ok");
    }));

  it("is found by check, which goes on and names nothing else broken that is not", () =>
    withDamage((_, __, fixture) => {
      fixture.close();
      const kinds = new Set(check(fixture.path, fixture.key).map(({ kind }) => kind));
      expect(kinds.has("page")).toBe(true);
      for (const kind of kinds) expect(["page", "sqlite", "unreadable"]).toContain(kind);
    }));

  it("can be overwritten as a whole: the volume goes on, and the file is well again", () =>
    withDamage(
      (volume, { bad }, fixture) => {
        put(volume, ROOT, "before", "before");
        expect(outcome(() => volume.files.write(bad, BLOCK, noise(BLOCK, 3), false))).toBe("ok");
        expect(volume.failed).toBe(false);
        expect(read(volume, bad, 0, 4 * BLOCK)).toBe("ok");
        fixture.remount();
        expect(read(fixture.volume, bad, 0, 4 * BLOCK)).toBe("ok");
      },
      { finish: false },
    ));

  it("does not make the volume read-only when its file is removed", () =>
    withDamage(
      (volume, _, fixture) => {
        put(volume, ROOT, "before", "before");
        volume.tree.unlink(ROOT, b("bad"));
        settleOrDamage(volume, fixture);
        put(volume, ROOT, "after", "after");
        volume.commit();
        expect(volume.failed).toBe(false);
        fixture.remount();
        settleOrDamage(fixture.volume, fixture);
        put(fixture.volume, ROOT, "after a remount", "x");
        fixture.volume.commit();
        expect(fixture.volume.failed).toBe(false);
        expect(fixture.volume.tree.lookup(ROOT, b("before"))?.size).toBe(6);
      },
      { finish: false },
    ));

  it("does not make the volume read-only when its file is truncated", () =>
    withDamage(
      (volume, { bad }) => {
        put(volume, ROOT, "before", "before");
        outcome(() => volume.attributes.setattr(bad, { size: 0 }));
        expect(volume.failed).toBe(false);
        expect(volume.tree.lookup(ROOT, b("before"))?.size).toBe(6);
      },
      { finish: false },
    ));

  it("is met by a volume that is open read-only, which goes on", () =>
    withDamage((_, { good, bad }, fixture) => {
      const volume = fixture.remount({ readOnly: true });
      expect(read(volume, bad, BLOCK)).toBe("damage");
      expect(read(volume, good)).toBe("ok");
      expect(read(volume, bad, 0)).toBe("ok");
    }));
});

/** Purges what can be purged: damage may be told, but not for ever. */
function settleOrDamage(volume: Volume, fixture: Fixture): void {
  for (let i = 0; i < 5; i++) {
    const result = outcome(() => settle(volume, fixture.clock));
    if (result === "ok") return;
  }
}

describe("a volume", () => {
  it("opens though the page of the newest blocks is damaged", () => {
    const fixture = new Damaged();
    try {
      const pages = statSync(fixture.path).size / PAGE;
      // From the first page of file data on, as far as one can tell: those of eight blocks.
      for (let page = pages - 33; page <= pages; page++) {
        flip(fixture.path, page);
        expect(() => fixture.open(), `page ${page} of ${pages}`).not.toThrow();
        expect(fixture.volume.tree.lookup(ROOT, b("good"))?.ino).toBe(fixture.good);
        outcome(() => fixture.close());
        flip(fixture.path, page);
      }
    } finally {
      fixture.remove();
    }
  });
});

describe("a damaged page on which the next block would be stored", () => {
  it("refuses new content before it is answered, and costs nothing else", () => {
    const outcomes: string[] = [];
    // The page of the table that takes the last block, which has a part of it, is the last page of the file for some.
    for (let blocks = 1; blocks <= 8; blocks++) {
      const fixture = new Fixture({ blockSize: BLOCK, volume: { answersFirst: true } });
      put(fixture.volume, ROOT, "bad", noise(blocks * BLOCK - 777));
      fixture.close();
      flip(fixture.path, statSync(fixture.path).size / PAGE);
      const volume = fixture.open();
      const made = touch(volume, ROOT, "made");
      const written = outcome(() => volume.files.write(made, 0, noise(3 * BLOCK, 3), false));
      outcomes.push(written);
      volume.commit();
      expect(volume.failed, `${blocks} blocks`).toBe(false);
      expect(volume.attributes.getattr(made).size).toBe(written === "ok" ? 3 * BLOCK : 0);
      mkdir(volume, ROOT, "directory");
      volume.tree.rename(ROOT, b("made"), ROOT, b("moved"), 0);
      volume.fsync(made);
      fixture.close();
      fixture.takeLog();
      fixture.remove();
    }
    expect([...new Set(outcomes)].sort()).toEqual(["damage", "ok"]);
  });
});

describe("a damaged page of the tables", () => {
  /** Each page of a small volume in turn: flipped, used, flipped back. */
  function onEachPage(run: (fixture: Fixture, files: readonly Ino[], expected: Dump) => void): void {
    const fixture = new Fixture({ blockSize: 4096 });
    try {
      const directory = mkdir(fixture.volume, ROOT, "d");
      const files = Array.from({ length: 60 }, (_, i) =>
        put(fixture.volume, directory, `file ${i}`, noise(3000, i)),
      );
      for (const file of files) fixture.volume.xattrs.set(file, b("user.x"), noise(700, file), 0, false);
      fixture.volume.xattrs.set(directory, b("user.large"), noise(40_000), 0, false);
      fixture.volume.closeEpoch();
      for (const file of files) fixture.volume.files.write(file, 0, b("C"), false);
      const expected = dump(fixture.remount());
      fixture.close();
      const pages = statSync(fixture.path).size / PAGE;
      for (let page = 2; page <= pages; page++) {
        flip(fixture.path, page);
        try {
          run(fixture, files, expected);
        } catch (cause) {
          throw new Error(`page ${page} of ${pages}: ${cause}`, { cause });
        } finally {
          fixture.close();
          flip(fixture.path, page);
        }
      }
      fixture.takeLog();
      expect(dump(fixture.volume)).toEqual(expected);
      fixture.finish();
    } finally {
      fixture.remove();
    }
  }

  /** Read-only, so that what is tried changes nothing; undefined where it is refused as damaged. */
  function open(fixture: Fixture): Volume | undefined {
    try {
      return fixture.open({ readOnly: true });
    } catch (error) {
      expect(error).toHaveProperty("reason", "damaged");
      return undefined;
    }
  }

  /** What is told of one file. */
  function probe(volume: Volume, ino: Ino): string {
    return outcome(() => {
      volume.attributes.getattr(ino);
      volume.xattrs.get(ino, b("user.x"));
      contentOf(volume, ino);
    });
  }

  it("is damage or nothing, never a crash or a wrong answer, on whichever page it lies", () =>
    onEachPage((fixture, _, expected) => {
      const volume = open(fixture);
      if (volume === undefined) return;
      let shown: unknown;
      const result = outcome(() => {
        shown = dump(volume);
      });
      if (result === "ok") expect(shown).toEqual(expected);
      else expect(result).toBe("damage");
    }));

  it("costs only what lies on it: the rest is read as if it had not been met", () =>
    onEachPage((fixture, files) => {
      const some = files.filter((_, i) => i % 10 === 0);
      const alone = some.map((ino) => {
        const volume = open(fixture);
        const result = volume === undefined ? "refused" : probe(volume, ino);
        fixture.close();
        return result;
      });
      const volume = open(fixture);
      if (volume === undefined) return;
      outcome(() => dump(volume)); // meets it
      expect(some.map((ino) => probe(volume, ino))).toEqual(alone);
    }));
});

describe("a damaged page of a directory that is met while the volume is in use", () => {
  const NAME = b("name 600");

  /** Runs with a page damaged that holds entries of the directory `bad`, NAME among them, and none of the root. */
  function met(run: (volume: Volume, bad: Ino, good: Ino, log: () => string[]) => void): void {
    const fixture = new Fixture();
    try {
      const good = put(fixture.volume, ROOT, "good", noise(3000));
      const bad = mkdir(fixture.volume, ROOT, "bad");
      for (let i = 0; i < 1000; i++) touch(fixture.volume, bad, `name ${i}`);
      fixture.close();
      flip(fixture.path, pageOfEntry(fixture, bad));
      fixture.clock.advance(86_400_000 * 2);
      run(fixture.open(), bad, good, () => fixture.takeLog());
      fixture.takeLog();
    } finally {
      fixture.remove();
    }
  }

  function pageOfEntry(fixture: Fixture, ino: Ino): number {
    const pages = statSync(fixture.path).size / PAGE;
    // From the end: a volume opens without what came last.
    for (let page = pages; page > 1; page--) {
      flip(fixture.path, page);
      const volume = fixture.open({ readOnly: true });
      const told = outcome(() => volume.tree.lookup(ino, NAME));
      const others = outcome(() => volume.tree.lookup(ROOT, b("made")));
      fixture.close();
      flip(fixture.path, page);
      if (told === "damage" && others === "ok") return page;
    }
    throw new Error("no page of its own");
  }

  it("ends no group that holds but times of access: the volume stays writable", () =>
    met((volume, bad, good, log) => {
      const age = () => volume.uncommittedMs(Number.MAX_SAFE_INTEGER);
      contentOf(volume, good); // moves its atime
      expect(age()).toBeGreaterThan(0);
      expect(outcome(() => volume.tree.lookup(bad, NAME))).toBe("damage");
      expect(age()).toBe(0);
      contentOf(volume, good);
      expect(outcome(() => volume.tree.unlink(bad, NAME))).toBe("damage");
      expect(volume.failed).toBe(false);
      expect(log()).toEqual([]);
      const made = put(volume, ROOT, "made", "after it");
      volume.fsync(made);
      expect(contentOf(volume, made).toString()).toBe("after it");
    }));

  it("ends one that holds changes, as a commit that fails", () =>
    met((volume, bad, good, log) => {
      volume.files.write(good, 0, b("changed"), false);
      expect(outcome(() => volume.tree.lookup(bad, NAME))).toBe("damage");
      expect(volume.failed).toBe(true);
      expect(log()).toEqual([expect.stringMatching(/^a commit failed, and the last changes of 1 files/)]);
      expect(outcome(() => volume.fsync(good))).toBe("EIO");
      expect(contentOf(volume, good).equals(noise(3000))).toBe(true);
    }));
});

describe("a damaged page that a volume meets by itself", () => {
  const DAY_MS = 86_400_000;

  /** With each page damaged in turn, in a volume that was opened before: "never opened" where it could not be. */
  function onEachPage(run: (volume: Volume, good: Ino, clock: FakeClock) => unknown): unknown[] {
    const whole = new Fixture({ volume: { answersFirst: true } });
    try {
      put(whole.volume, ROOT, "good", noise(3000));
      whole.volume.closeEpoch();
      whole.close();
      const pages = statSync(whole.path).size / PAGE;
      return Array.from({ length: pages - 1 }, (_, i) => {
        const fixture = whole.crashCopy();
        try {
          flip(fixture.path, i + 2);
          const volume = fixture.open();
          fixture.clock.advance(2 * DAY_MS);
          return run(volume, volume.tree.lookup(ROOT, b("good"))?.ino as Ino, fixture.clock);
        } catch (error) {
          if (error instanceof DamageError || error instanceof OpenError) return "never used";
          throw error;
        } finally {
          outcome(() => fixture.close());
          fixture.takeLog();
          fixture.remove();
        }
      });
    } finally {
      whole.remove();
    }
  }

  function idle(volume: Volume, clock: FakeClock): void {
    for (let i = 0; i < 4; i++) {
      outcome(() => volume.idle(clock.monotonicMs()));
      clock.advance(1100);
    }
  }

  it("never makes it read-only where only times of access wait", () => {
    const failed = onEachPage((volume, good, clock) => {
      outcome(() => contentOf(volume, good)); // moves its atime
      idle(volume, clock);
      outcome(() => contentOf(volume, good));
      idle(volume, clock);
      return volume.failed;
    });
    expect(failed.filter((one) => one === false).length).toBeGreaterThan(3);
    expect(failed).not.toContain(true);
  });

  it("costs no change that could be committed", () => {
    const change = (volume: Volume): string => outcome(() => put(volume, ROOT, "made", "kept"));
    const alone = onEachPage((volume) => {
      change(volume);
      outcome(() => volume.commit());
      return volume.failed;
    });
    const beside = onEachPage((volume, _, clock) => {
      const changed = change(volume);
      idle(volume, clock);
      outcome(() => volume.commit());
      if (changed === "ok" && !volume.failed)
        expect(outcome(() => expect(volume.tree.lookup(ROOT, b("made"))?.size).toBe(4))).toBe("ok");
      return volume.failed;
    });
    expect(beside).toEqual(alone);
    expect(alone).toContain(true);
  });
});

describe("a damaged page of an attribute's value", () => {
  /** With pages of 4 KiB and a long name, a value of 750 bytes spills to a page of its own. */
  it.each([750, 2000, 20_000])("is damage and never wrong bytes: %i bytes under a long name", (length) => {
    const directory = mkdtempSync(join(tmpdir(), "damage-"));
    try {
      const path = join(directory, "volume");
      const password = b("x");
      Volume.create(path, password, { compat: true });
      const key = unlock(path, password);
      const name = b(`user.${"n".repeat(250)}`);
      const value = noise(length);
      const made = Volume.open(path, key);
      made.xattrs.set(ROOT, name, value, 0, false);
      made.close();
      const pages = statSync(path).size / 4096;
      const results = new Set<string>();
      for (let page = 2; page <= pages; page++) {
        flip(path, page, 2000, 4096);
        try {
          const volume = Volume.open(path, key, { readOnly: true });
          let got: Uint8Array | undefined;
          const result = outcome(() => {
            got = volume.xattrs.get(ROOT, name);
          });
          results.add(result);
          if (result === "ok") expect(Buffer.from(got ?? b("")).equals(value), `page ${page}`).toBe(true);
          else expect(result).toBe("damage");
          volume.close();
        } catch (error) {
          expect(error).toHaveProperty("reason", "damaged");
        } finally {
          flip(path, page, 2000, 4096);
        }
      }
      expect([...results].sort()).toEqual(["damage", "ok"]);
    } finally {
      rmSync(directory, { recursive: true });
    }
  });
});

describe("rows that cannot be", () => {
  function sabotaged(sql: (ino: Ino) => string, run: (volume: Volume, ino: Ino) => void): void {
    const fixture = new Fixture();
    try {
      const ino = put(fixture.volume, ROOT, "a", noise(3 * BLOCK));
      put(fixture.volume, ROOT, "b", "well");
      fixture.close();
      fixture.sql((db) => db.exec(sql(ino)));
      run(fixture.volume, ino);
      expect(fixture.volume.failed).toBe(false);
      expect(touch(fixture.volume, ROOT, "new")).toBeGreaterThan(0);
    } finally {
      fixture.remove();
    }
  }

  it("are damage: a block that is missing", () =>
    sabotaged(
      () => "DELETE FROM block WHERE id = (SELECT max(id) - 1 FROM block)",
      (volume, ino) => {
        const results = [0, 1, 2].map((i) => read(volume, ino, i * BLOCK));
        expect(results.filter((result) => result === "damage")).toHaveLength(1);
      },
    ));

  it("are damage that a copy meets midway: it tells how much it copied, or changed nothing", () => {
    const fixture = new Fixture({ blockSize: BLOCK });
    try {
      const ino = put(fixture.volume, ROOT, "a", noise(40 * BLOCK));
      fixture.close();
      fixture.sql((db) => db.exec(`DELETE FROM block WHERE id = (SELECT block FROM extent WHERE idx = 35)`));
      const { volume } = fixture;
      const copy = touch(volume, ROOT, "copy");
      let copied = 0;
      const result = outcome(() => {
        copied = volume.files.copyFileRange(ino, 1, copy, 0, 39 * BLOCK, false);
      });
      expect(["ok", "damage"]).toContain(result);
      expect(volume.attributes.getattr(copy).size).toBe(copied);
    } finally {
      fixture.remove();
    }
  });

  it("are damage: a block in a codec that is not known, a block that is too long", () => {
    for (const sql of ["UPDATE block SET codec = 9", "UPDATE block SET data = zeroblob(100000)"])
      sabotaged(
        () => sql,
        (volume, ino) => expect(read(volume, ino)).toBe("damage"),
      );
  });

  it("are damage: an entry whose inode is missing", () =>
    sabotaged(
      (ino) => `UPDATE dirent SET ino = 15 WHERE ino = ${ino}`,
      (volume) => {
        for (const run of [
          () => volume.tree.lookup(ROOT, b("a")),
          () => volume.tree.unlink(ROOT, b("a")),
          () => volume.tree.rename(ROOT, b("a"), ROOT, b("c"), 0),
        ])
          expect(outcome(run)).toBe("damage");
      },
    ));

  it("are damage: a link count below the number of names", () =>
    sabotaged(
      () => "UPDATE inode SET nlink = 1 WHERE ino = 1",
      (volume) => {
        mkdir(volume, ROOT, "d");
        expect(["ok", "damage"]).toContain(outcome(() => volume.tree.rmdir(ROOT, b("d"))));
      },
    ));

  it("are damage: numbers past 2^53", () =>
    sabotaged(
      (ino) => `UPDATE inode SET size = 9223372036854775807 WHERE ino = ${ino}`,
      (volume, ino) => {
        expect(outcome(() => volume.attributes.getattr(ino))).toBe("damage");
        expect(outcome(() => volume.tree.lookup(ROOT, b("a")))).toBe("damage");
        expect(outcome(() => volume.tree.lookup(ROOT, b("b")))).toBe("ok");
      },
    ));

  it("do not keep the purge busy for ever: extents that are counted but not there", () => {
    const { stdout, signal } = runChild(`
      import { Fixture, put, ROOT, b } from "test/core/fixture.ts";
      const fixture = new Fixture();
      const ino = put(fixture.volume, ROOT, "a", "content");
      fixture.volume.inodes.ref(ino);
      fixture.close();
      fixture.sql((db) => db.exec("UPDATE inode SET extents = 5 WHERE ino = " + ino));
      fixture.volume.tree.unlink(ROOT, b("a"));
      for (let i = 0; i < 100; i++) fixture.volume.idle(i);
      fixture.close();
      fixture.remove();
      console.log("done");
    `);
    expect([signal, stdout.trim()]).toEqual([null, "done"]);
  });
});
