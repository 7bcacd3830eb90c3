/**
 * Break the Nth call: a scenario runs again and again, each time with another step of a statement failing.
 * Afterwards the volume has either refused that one operation or is failed, and is never half done: what
 * the next open shows is the state after some operation, none before the last that was made durable. SQLFUSE_LONG=1
 * breaks every step in every way.
 */
import { afterEach, describe, expect, it, vi } from "vitest";
import { DamageError, FsError } from "../../src/base/errno.ts";
import { type Ino, RENAME_EXCHANGE } from "../../src/core/types.ts";
import type { Volume } from "../../src/core/volume.ts";
import { Database } from "../../src/db/database.ts";
import { SqliteError } from "../../src/db/errors.ts";
import { Statement } from "../../src/db/statement.ts";
import { isLong, report } from "../helpers/torture.ts";
import { dump } from "./dump.ts";
import {
  b,
  CALLER,
  errnoOf,
  Fixture,
  find,
  inVolume,
  mkdir,
  noise,
  ROOT,
  S_IFREG,
  settle,
  touch,
} from "./fixture.ts";

const BLOCK = 4096;
const SQLITE_CORRUPT = 11;
const SQLITE_FULL = 13;
const SQLITE_IOERR_READ = 266;
const SQLITE_IOERR_WRITE = 778;
const EIO = 5;
const ENOSPC = 28;

interface Fault {
  readonly name: string;
  readonly extendedCode: number;
  readonly errno: number;
  /** SQLite ends the transaction by itself, as it does for a full disk. */
  readonly rollsBack: boolean;
}

const FAULTS: readonly Fault[] = [
  { name: "SQLITE_FULL", extendedCode: SQLITE_FULL, errno: ENOSPC, rollsBack: true },
  { name: "SQLITE_IOERR_WRITE", extendedCode: SQLITE_IOERR_WRITE, errno: EIO, rollsBack: true },
  { name: "SQLITE_IOERR_READ", extendedCode: SQLITE_IOERR_READ, errno: EIO, rollsBack: false },
  { name: "SQLITE_CORRUPT", extendedCode: SQLITE_CORRUPT, errno: 0, rollsBack: false },
];

/** From now on the `nth` step (from 0) fails, once; tells whether it came to that. */
function breakStep(nth: number, fault: Fault, only: (sql: string) => boolean = () => true): () => boolean {
  let count = 0;
  const step = Statement.prototype.step;
  vi.spyOn(Statement.prototype, "step").mockImplementation(function (this: Statement) {
    if (!only(this.sql) || count++ !== nth) return step.call(this);
    if (fault.rollsBack) {
      const db = databases.get(this);
      if (db !== undefined && !db.autocommit) db.exec("ROLLBACK");
    }
    this.reset();
    throw new SqliteError(fault.name, fault.extendedCode, fault.errno, this.sql);
  });
  return () => count > nth;
}

/** Whose statement each one is. */
const databases = new WeakMap<Statement, Database>();
const prepare = Database.prototype.prepare;
Database.prototype.prepare = function (this: Database, sql: string): Statement {
  const statement = prepare.call(this, sql);
  databases.set(statement, this);
  return statement;
};

afterEach(() => {
  vi.restoreAllMocks();
});

interface Step {
  readonly name: string;
  /** Everything before it is durable when it succeeded. */
  readonly durable?: true;
  run(volume: Volume, fixture: Fixture): unknown;
}

const at = (volume: Volume, path: string): Ino => find(volume, path)?.ino as Ino;

const SCENARIO: readonly Step[] = [
  { name: "mkdir", run: (v) => v.tree.mkdir(ROOT, b("d"), 0o755, CALLER) },
  { name: "mknod", run: (v) => v.tree.mknod(ROOT, b("a"), S_IFREG | 0o644, 0, CALLER) },
  { name: "write", run: (v) => v.files.write(at(v, "a"), 10, noise(3 * BLOCK), false) },
  { name: "fsync", durable: true, run: (v) => v.fsync(at(v, "a")) },
  { name: "read", run: (v) => v.files.read(at(v, "a"), 5, 2 * BLOCK, Buffer.alloc(2 * BLOCK)) },
  { name: "overwrite", run: (v) => v.files.write(at(v, "a"), BLOCK - 5, noise(10, 2), true) },
  { name: "link", run: (v) => v.tree.link(at(v, "a"), at(v, "d"), b("l")) },
  { name: "set attribute", run: (v) => v.xattrs.set(at(v, "a"), b("user.x"), b("y"), 0, false) },
  { name: "symlink", run: (v) => v.tree.symlink(at(v, "d"), b("s"), b("target"), CALLER) },
  { name: "mknod in an open group", run: (v) => touch(v, ROOT, "c") },
  { name: "copy", run: (v) => v.files.copyFileRange(at(v, "a"), 0, at(v, "c"), 0, 2 * BLOCK, false) },
  { name: "close an epoch", durable: true, run: (v) => v.closeEpoch() },
  { name: "punch", run: (v) => v.files.fallocate(at(v, "a"), 3, 100, 2 * BLOCK, false) },
  { name: "truncate", run: (v) => v.attributes.setattr(at(v, "a"), { size: 2 * BLOCK + 7, mode: 0o600 }) },
  { name: "exchange", run: (v) => v.tree.rename(ROOT, b("c"), at(v, "d"), b("s"), RENAME_EXCHANGE) },
  { name: "replace", run: (v) => v.tree.rename(at(v, "d"), b("s"), ROOT, b("a"), 0) },
  { name: "remove attribute", run: (v) => v.xattrs.remove(at(v, "d/l"), b("user.x")) },
  { name: "unlink", run: (v) => v.tree.unlink(at(v, "d"), b("l")) },
  { name: "rmdir", run: (v) => v.tree.rmdir(ROOT, b("d")) },
  { name: "statfs", run: (v) => v.statfs() },
  { name: "list", run: (v) => v.tree.readdirplus(ROOT, 0, () => true) },
  { name: "purge", run: (v, fixture) => settle(v, fixture.clock) },
  { name: "commit", durable: true, run: (v) => v.commit() },
];

/** A dump without the generation numbers, which are random. */
function state(volume: Volume): unknown {
  return Object.entries(dump(volume)).map(([path, inode]) => [path, { ...inode, generation: 0 }]);
}

/** The state after each number of operations. */
function statesOf(scenario: readonly Step[]): unknown[] {
  const states: unknown[] = [];
  inVolume(
    (fixture, volume) => {
      states.push(state(volume));
      for (const { run } of scenario) {
        fixture.clock.advance(1);
        run(volume, fixture);
        states.push(state(volume));
      }
    },
    { blockSize: BLOCK },
  );
  return states;
}

/** Runs the scenario with the nth step failing; tells whether it got that far. */
function runBroken(
  scenario: readonly Step[],
  states: readonly unknown[],
  nth: number,
  fault: Fault,
): boolean {
  const fixture = new Fixture({ blockSize: BLOCK });
  try {
    let { volume } = fixture;
    const broken = breakStep(nth, fault);
    let done = 0;
    let durable = 0;
    let error: unknown;
    for (const { run, durable: makesDurable } of scenario) {
      fixture.clock.advance(1);
      try {
        run(volume, fixture);
      } catch (thrown) {
        error = thrown;
      }
      if (broken()) break;
      done++;
      if (makesDurable) durable = done;
    }
    const where = scenario[done]?.name ?? "close";
    const context = `step ${nth} with ${fault.name} in ${where}: ${String(error).slice(0, 120)}`;
    const during = broken();
    if (during) {
      vi.restoreAllMocks();
      if (error !== undefined)
        expect(error instanceof FsError || error instanceof DamageError, context).toBe(true);
      const shown = state(volume);
      if (volume.failed) {
        expect(
          errnoOf(() => mkdir(volume, ROOT, "after")),
          context,
        ).toBe("EROFS");
        const prefix = states.slice(durable, done + 1).findIndex((s) => same(s, shown));
        expect(prefix, `${context}: no state from ${durable} to ${done}`).toBeGreaterThanOrEqual(0);
      } else {
        expect(same(shown, states[error === undefined ? done + 1 : done]), context).toBe(true);
        mkdir(volume, ROOT, "after");
      }
      const before = state(volume);
      fixture.close();
      volume = fixture.open();
      expect(same(state(volume), before), `${context}: changed by a remount`).toBe(true);
    } else {
      try {
        fixture.close();
      } catch (thrown) {
        error = thrown;
        expect(error instanceof FsError || error instanceof DamageError, context).toBe(true);
      }
      vi.restoreAllMocks();
      volume = fixture.open();
      const shown = state(volume);
      expect(
        states.slice(durable).some((s) => same(s, shown)),
        context,
      ).toBe(true);
    }
    mkdir(volume, ROOT, "writable again");
    if (broken()) fixture.takeLog();
    fixture.finish();
    return broken();
  } finally {
    vi.restoreAllMocks();
    fixture.remove();
  }
}

function same(one: unknown, other: unknown): boolean {
  return JSON.stringify(one) === JSON.stringify(other);
}

describe("a scenario of which one step fails", { timeout: isLong() ? 1_800_000 : 60_000 }, () => {
  const states = statesOf(SCENARIO);

  it.each(FAULTS)("with $name leaves the state after a whole operation", (fault) => {
    // In the short form each third step fails, in one of the four ways, which take turns.
    const all = isLong();
    const stride = all ? 1 : 3 * FAULTS.length;
    const wrong: string[] = [];
    let nth = all ? 0 : 3 * FAULTS.indexOf(fault);
    let cases = 0;
    for (let reached = true; reached; nth += stride) {
      cases++;
      try {
        reached = runBroken(SCENARIO, states, nth, fault);
      } catch (error) {
        wrong.push(String(error));
      }
      if (wrong.length >= (all ? 1000 : 5)) break;
    }
    if (all) report("faults", cases, fault.name);
    expect(wrong).toEqual([]);
    expect(nth).toBeGreaterThan(150);
  });
});

describe("a failed commit", () => {
  const WRITE = FAULTS[1] as Fault;

  /** Two files in a lost group, one that was not in it. */
  function withLostGroup(
    run: (volume: Volume, files: { a: Ino; b: Ino; other: Ino }, fixture: Fixture) => void,
    lose: (volume: Volume, a: Ino) => void = (volume) => expect(errnoOf(() => volume.commit())).toBe("EIO"),
  ): void {
    inVolume((fixture, volume) => {
      const files = {
        a: touch(volume, ROOT, "a"),
        b: touch(volume, ROOT, "b"),
        other: touch(volume, ROOT, "other"),
      };
      volume.commit();
      volume.files.write(files.a, 0, b("lost"), false);
      volume.xattrs.set(files.b, b("user.lost"), b("x"), 0, false);
      breakStep(0, WRITE, (sql) => sql === "COMMIT");
      lose(volume, files.a);
      vi.restoreAllMocks();
      expect(volume.failed).toBe(true);
      run(volume, files, fixture);
      expect(fixture.takeLog()).toHaveLength(1);
    });
  }

  it("is told by fsync once for each file of the group, and not for others", () =>
    withLostGroup((volume, { a, b: second, other }) => {
      expect(errnoOf(() => volume.fsync(other))).toBe("ok");
      for (const file of [a, second]) {
        expect(errnoOf(() => volume.fsync(file))).toBe("EIO");
        expect(errnoOf(() => volume.fsync(file))).toBe("ok");
      }
    }));

  it("that fsync itself met is told once to that file too", () =>
    withLostGroup(
      (volume, { a, b: second }) => {
        expect(errnoOf(() => volume.fsync(a))).toBe("ok");
        expect(errnoOf(() => volume.fsync(second))).toBe("EIO");
      },
      (volume, a) => expect(errnoOf(() => volume.fsync(a))).toBe("EIO"),
    ));

  it("that idle met stops nobody, and idle has nothing to do any more", () =>
    withLostGroup(
      (volume, { a }, fixture) => {
        fixture.clock.advance(10_000);
        expect(settle(volume, fixture.clock)).toBe(Number.POSITIVE_INFINITY);
        expect(errnoOf(() => volume.fsync(a))).toBe("EIO");
      },
      (volume) => {
        volume.idle(1e9);
      },
    ));

  it("leaves the state of the last good one to be read, and a remount lets changes through again", () =>
    withLostGroup((volume, { a, b: second }, fixture) => {
      expect(volume.attributes.getattr(a).size).toBe(0);
      expect(volume.xattrs.get(second, b("user.lost"))).toBeUndefined();
      expect(errnoOf(() => touch(volume, ROOT, "c"))).toBe("EROFS");
      touch(fixture.remount(), ROOT, "c");
    }));

  it("with one commit for each operation refuses that operation, and it did not happen", () =>
    inVolume(
      (fixture, volume) => {
        const before = dump(volume);
        breakStep(0, WRITE, (sql) => sql === "COMMIT");
        expect(errnoOf(() => touch(volume, ROOT, "a"))).toBe("EIO");
        vi.restoreAllMocks();
        expect(volume.failed).toBe(true);
        expect(dump(volume)).toEqual(before);
        expect(dump(fixture.remount())).toEqual(before);
        fixture.takeLog();
      },
      { volume: { sync: true } },
    ));
});
