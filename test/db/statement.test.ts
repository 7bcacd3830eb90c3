/** Statements: what is bound comes back, errors say what failed, and nothing stays open. */
import { describe, expect, it } from "vitest";
import { DamageError } from "../../src/base/errno.ts";
import type { Database } from "../../src/db/database.ts";
import { SqliteError } from "../../src/db/errors.ts";
import type { Statement } from "../../src/db/statement.ts";
import { runChild } from "../core/child.ts";
import { inDatabase } from "./fixture.ts";
import { queryNumber } from "./query.ts";

const SQLITE_CONSTRAINT_UNIQUE = 2067;
const SQLITE_CONSTRAINT_PRIMARYKEY = 1555;

/** Stores one value and reads it back, through the disk's types. */
function stored<T>(bind: (insert: Statement) => void, read: (row: Statement) => T): T {
  let value: T | undefined;
  inDatabase((db) => {
    const insert = db.prepare("INSERT INTO t (id, v) VALUES (1, ?1)");
    bind(insert);
    insert.run();
    const select = db.prepare("SELECT v, typeof(v), length(v) FROM t WHERE id = 1");
    expect(select.step()).toBe(true);
    value = read(select);
    expect(select.step()).toBe(false);
  });
  return value as T;
}

function errorOf(run: () => unknown): SqliteError {
  try {
    run();
  } catch (error) {
    if (error instanceof SqliteError) return error;
    throw error;
  }
  throw new Error("there was no error");
}

/** A statement that is left open keeps a checkpoint from emptying the -wal. */
function expectNothingOpen(db: Database): void {
  db.exec("INSERT INTO t (v) VALUES (randomblob(50))");
  db.checkpointTruncate();
  expect(db.walFrames).toBe(0);
}

describe("a bound value comes back as it was:", () => {
  it.each([0, 1, -1, 127, 2 ** 31, -(2 ** 31), 2 ** 32, Number.MAX_SAFE_INTEGER, Number.MIN_SAFE_INTEGER])(
    "integer %i",
    (value) => {
      expect(
        stored(
          (s) => s.bindInt(1, value),
          (row) => [row.int(0), row.bigint(0), row.text(1)],
        ),
      ).toEqual([value, BigInt(value), "integer"]);
    },
  );

  it.each([0n, 2n ** 53n, 2n ** 63n - 1n, -(2n ** 63n)])("64-bit integer %i", (value) => {
    expect(
      stored(
        (s) => s.bindBigInt(1, value),
        (row) => row.bigint(0),
      ),
    ).toBe(value);
  });

  it.each(["", "text", "ümläut 日本 🎉", "quote ' and \" and ;", "x".repeat(100_000)])("text %s", (value) => {
    expect(
      stored(
        (s) => s.bindText(1, value),
        (row) => [row.text(0), row.text(1)],
      ),
    ).toEqual([value, "text"]);
  });

  it("NULL", () => {
    expect(
      stored(
        (s) => s.bindNull(1),
        (row) => [row.isNull(0), row.isNull(1), row.text(1)],
      ),
    ).toEqual([true, false, "null"]);
  });

  it("an empty blob, which is not NULL", () => {
    expect(
      stored(
        (s) => s.bindBlob(1, new Uint8Array(0)),
        (row) => [row.isNull(0), row.blobLength(0), row.blob(0).length, row.text(1)],
      ),
    ).toEqual([false, 0, 0, "blob"]);
  });

  it.each([1, 64, 65, 4096, 1_000_003, 16 * 2 ** 20])("a blob of %i bytes", (length) => {
    const bytes = Buffer.alloc(length);
    for (let i = 0; i < length; i++) bytes[i] = (i * 31 + (i >> 8)) & 0xff;
    expect(
      stored(
        (s) => s.bindBlob(1, bytes),
        (row) => Buffer.from(row.blob(0)).equals(bytes),
      ),
    ).toBe(true);
  });

  it("a blob that stands within a larger buffer, and one with NULs", () => {
    const larger = Buffer.from("before\0\x01\0after");
    const part = larger.subarray(6, 9);
    expect([
      ...stored(
        (s) => s.bindBlob(1, part),
        (row) => row.blob(0),
      ),
    ]).toEqual([0, 1, 0]);
  });
});

describe("a statement", () => {
  it("refuses numbers that are no safe integers, in both directions", () =>
    inDatabase((db) => {
      const insert = db.prepare("INSERT INTO t (v) VALUES (?1)");
      for (const value of [2 ** 53, -(2 ** 53), 0.5, Number.NaN, Number.POSITIVE_INFINITY])
        expect(() => insert.bindInt(1, value)).toThrow(RangeError);
      insert.bindBigInt(1, 2n ** 60n).run();
      const select = db.prepare("SELECT v FROM t");
      select.step();
      expect(() => select.int(0)).toThrow(DamageError); // nothing of ours wrote it
      select.reset();
      expectNothingOpen(db);
    }));

  it("refuses a parameter that it does not have", () =>
    inDatabase((db) => {
      const SQLITE_RANGE = 25;
      const select = db.prepare("SELECT ?1");
      for (const index of [0, 2, 99]) expect(errorOf(() => select.bindInt(index, 1)).code).toBe(SQLITE_RANGE);
    }));

  it("is used again and again, and starts over each time", () =>
    inDatabase((db) => {
      const insert = db.prepare("INSERT INTO t (id, v) VALUES (?1, ?2)");
      for (let i = 1; i <= 100; i++) insert.bindInt(1, i).bindInt(2, -i).run();
      const select = db.prepare("SELECT v FROM t WHERE id > ?1 ORDER BY id");
      for (const from of [0, 98, 50, 100]) {
        const rows: number[] = [];
        select.bindInt(1, from);
        while (select.step()) rows.push(select.int(0));
        expect(rows).toHaveLength(100 - from);
        expect(rows[0]).toBe(from === 100 ? undefined : -(from + 1));
      }
    }));

  it("that is reset early is not open, and starts over", () =>
    inDatabase((db) => {
      db.exec("INSERT INTO t (v) VALUES (1), (2), (3)");
      const select = db.prepare("SELECT v FROM t ORDER BY v");
      expect([select.step(), select.int(0)]).toEqual([true, 1]);
      select.reset();
      expectNothingOpen(db);
      expect([select.step(), select.int(0)]).toEqual([true, 1]);
      select.reset();
    }));

  it("is not open after its last row, nor after run met a row", () =>
    inDatabase((db) => {
      db.exec("INSERT INTO t (v) VALUES (1)");
      const select = db.prepare("SELECT v FROM t");
      while (select.step());
      expectNothingOpen(db);
      select.run();
      expectNothingOpen(db);
    }));

  it("that failed is not open, says why in code, extended code and SQL, and can be used again", () =>
    inDatabase((db) => {
      const insert = db.prepare("INSERT INTO t (id, v) VALUES (?1, ?2)");
      insert.bindInt(1, 1).bindInt(2, 1).run();
      const unique = errorOf(() => insert.bindInt(1, 2).bindInt(2, 1).run());
      expect([unique.code, unique.extendedCode]).toEqual([19, SQLITE_CONSTRAINT_UNIQUE]);
      expect(unique.sql).toBe(insert.sql);
      expect(unique.message).toContain(insert.sql);
      expect(unique.message).toMatch(/UNIQUE constraint failed: t\.v/);
      expect([unique.isDamage, unique.isFull, unique.systemErrno]).toEqual([false, false, 0]);
      const primary = errorOf(() => insert.bindInt(1, 1).bindInt(2, 2).run());
      expect(primary.extendedCode).toBe(SQLITE_CONSTRAINT_PRIMARYKEY);
      expectNothingOpen(db);
      insert.bindInt(1, 9).bindInt(2, 9).run();
      expect(queryNumber(db, "SELECT count(*) FROM t WHERE id = 9")).toBe(1);
    }));

  it("copies a part of a blob, and refuses a part that is not there or does not fit", () =>
    inDatabase((db) => {
      db.exec("INSERT INTO t (id, v) VALUES (1, CAST('0123456789' AS BLOB)), (2, NULL), (3, x'')");
      const select = db.prepare("SELECT v FROM t WHERE id = ?1");
      const into = Buffer.alloc(6, 0x2e);
      select.bindInt(1, 1).step();
      select.blobInto(0, 3, 4, into);
      expect(into.toString()).toBe("3456..");
      select.blobInto(0, 10, 0, into);
      select.blobInto(0, 4, 6, into);
      expect(into.toString()).toBe("456789");
      for (const [from, length] of [
        [0, 7],
        [5, 6],
        [-1, 2],
        [10, 1],
        [2 ** 40, 1],
      ] as const)
        expect(() => select.blobInto(0, from, length, into)).toThrow(RangeError);
      select.reset();
      for (const id of [2, 3]) {
        select.bindInt(1, id).step();
        expect(() => select.blobInto(0, 0, 1, into)).toThrow(RangeError);
        expect(select.blob(0)).toHaveLength(0);
        select.reset();
      }
      expect(into.toString()).toBe("456789");
    }));

  it("does not crash when its connection is closed: it throws, or tells nothing", () => {
    const { status, signal, stdout } = runChild(`
      import { inDatabase } from "test/db/fixture.ts";
      const lines: string[] = [];
      inDatabase((db) => {
        db.exec("INSERT INTO t (v) VALUES (x'3132')");
        const select = db.prepare("SELECT v FROM t WHERE id = ?1");
        select.bindInt(1, 1).step();
        db.close();
        const uses: readonly (() => unknown)[] = [
          () => select.bindInt(1, 1),
          () => select.bindText(1, "x"),
          () => select.step(),
          () => select.run(),
          () => select.blobInto(0, 0, 1, new Uint8Array(1)),
        ];
        for (const use of uses) {
          try {
            use();
            lines.push("ok");
          } catch (error) {
            lines.push("throws");
          }
        }
        for (const use of [
          () => select.int(0),
          () => select.bigint(0),
          () => select.text(0),
          () => select.isNull(0),
          () => select.blobLength(0),
          () => select.blob(0),
          () => select.reset(),
        ]) {
          try {
            use();
          } catch {}
        }
      });
      console.log(lines.join(" "));
    `);
    expect({ status, signal, stdout: stdout.trim() }).toEqual({
      status: 0,
      signal: null,
      stdout: "throws throws throws throws throws",
    });
  });

  it("keeps what is bound alive until it has stepped, whatever the garbage collector does", () => {
    const { status, stdout, stderr } = runChild(
      `
      import { inDatabase } from "test/db/fixture.ts";
      const collect = (globalThis as { gc?: () => void }).gc as () => void;
      inDatabase((db) => {
        const select = db.prepare("SELECT ?1, ?2");
        let wrong = 0;
        for (let i = 0; i < 15; i++) {
          const length = 20_000 + i;
          // Nobody but the statement refers to what is bound.
          select.bindText(1, String.fromCharCode(97 + (i % 26)).repeat(length));
          select.bindBlob(2, new Uint8Array(length).fill(i));
          const garbage: Uint8Array[] = [];
          collect();
          for (let j = 0; j < 40; j++) garbage.push(new Uint8Array(length).fill(0xff));
          collect();
          select.step();
          if (select.text(0) !== String.fromCharCode(97 + (i % 26)).repeat(length)) wrong++;
          if (select.blob(1).some((byte) => byte !== i) || garbage.length === 0) wrong++;
          select.reset();
        }
        console.log("wrong:", wrong);
      });
    `,
      ["--expose-gc"],
    );
    expect([status, stdout.trim(), stderr]).toEqual([0, "wrong: 0", ""]);
  });
});
