/** Connections: modes, errors, transactions, the -wal, opening anew, and what the cipher settings do. */
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { Database } from "../../src/db/database.ts";
import { SqliteError } from "../../src/db/errors.ts";
import type { CipherSettings, HmacAlgorithm } from "../../src/db/key.ts";
import { CIPHER, inDatabase, inDirectory, testKey } from "./fixture.ts";
import { queryNumber } from "./query.ts";

const SQLITE_ERROR = 1;
const SQLITE_BUSY = 5;
const SQLITE_READONLY = 8;
const SQLITE_CANTOPEN = 14;

function errorOf(run: () => unknown): SqliteError {
  try {
    run();
  } catch (error) {
    if (error instanceof SqliteError) return error;
    throw error;
  }
  throw new Error("there was no error");
}

function withDatabase<T>(
  path: string,
  run: (db: Database) => T,
  cipher: CipherSettings = CIPHER,
  seed = 7,
): T {
  const db = new Database(path, testKey(cipher, seed), { mode: "readwrite" });
  try {
    return run(db);
  } finally {
    db.close();
  }
}

describe("opening", () => {
  it("makes a file only where it is told to", () =>
    inDirectory((path) => {
      for (const mode of ["readwrite", "readonly"] as const)
        expect(errorOf(() => new Database(path, testKey(), { mode })).code).toBe(SQLITE_CANTOPEN);
      expect(existsSync(path)).toBe(false);
      new Database(path, testKey(), { mode: "create" }).close();
      expect(existsSync(path)).toBe(true);
    }));

  it("refuses what is in no directory with the errno of the system call", () =>
    inDirectory((path) => {
      const error = errorOf(() => new Database(`${path}/no/such`, testKey(), { mode: "create" }));
      expect(error.code).toBe(SQLITE_CANTOPEN);
      expect(error.message).toContain(path);
    }));

  it("read-only lets nothing be changed", () =>
    inDatabase((db, path) => {
      db.exec("INSERT INTO t (v) VALUES (1)");
      const reader = new Database(path, testKey(), { mode: "readonly" });
      expect(queryNumber(reader, "SELECT v FROM t")).toBe(1);
      expect(errorOf(() => reader.exec("INSERT INTO t (v) VALUES (2)")).code).toBe(SQLITE_READONLY);
      reader.close();
    }));

  it("immutable reads a file beside which nothing can be made", () =>
    inDatabase((db, path) => {
      db.exec("INSERT INTO t (v) VALUES (1)");
      db.close();
      const reader = new Database(path, testKey(), { mode: "readonly", immutable: true });
      expect(queryNumber(reader, "SELECT v FROM t")).toBe(1);
      expect(existsSync(`${path}-shm`)).toBe(false);
      reader.close();
    }));

  it("uses no more cache than it is given", () =>
    inDatabase((_, path) => {
      const reader = new Database(path, testKey(), { mode: "readonly", cacheBytes: 3 * 2 ** 20 });
      expect(reader.pragma("cache_size")).toBe("-3072");
      reader.close();
    }));
});

describe("an error", () => {
  it("of SQL that does not parse names the SQL", () =>
    inDatabase((db) => {
      for (const run of [
        () => db.exec("NONSENSE 1"),
        () => db.prepare("NONSENSE 1"),
        () => db.prepare("SELECT * FROM nowhere"),
      ]) {
        const error = errorOf(run);
        expect(error.code).toBe(SQLITE_ERROR);
        expect(error.message).toMatch(/NONSENSE 1|nowhere/);
      }
      db.exec("INSERT INTO t (v) VALUES (1)"); // and the connection goes on
    }));

  it("of another writer is BUSY, and both go on", () =>
    inDatabase((db, path) =>
      withDatabase(path, (other) => {
        db.exec("BEGIN IMMEDIATE");
        expect(errorOf(() => other.exec("BEGIN IMMEDIATE")).code).toBe(SQLITE_BUSY);
        db.exec("INSERT INTO t (v) VALUES (1)");
        expect(queryNumber(other, "SELECT count(*) FROM t")).toBe(0);
        db.exec("COMMIT");
        expect(queryNumber(other, "SELECT count(*) FROM t")).toBe(1);
      }),
    ));

  it("that means a full disk is told by code or by errno", () => {
    expect(new SqliteError("database or disk is full", 13, 0, "x").isFull).toBe(true);
    expect(new SqliteError("disk I/O error", 778, 28, "x").isFull).toBe(true);
    expect(new SqliteError("disk I/O error", 778, 122, "x").isFull).toBe(true);
    expect(new SqliteError("disk I/O error", 778, 5, "x").isFull).toBe(false);
  });

  it("that means damage is told by code, extended or not", () => {
    for (const code of [11, 26, 11 | (1 << 8), 26 | (1 << 8)])
      expect(new SqliteError("x", code, 0, "x").isDamage).toBe(true);
    for (const code of [0, 1, 5, 10, 13]) expect(new SqliteError("x", code, 0, "x").isDamage).toBe(false);
  });
});

describe("a transaction", () => {
  it("is told by autocommit, and its changes by changes and totalChanges", () =>
    inDatabase((db) => {
      expect(db.autocommit).toBe(true);
      const before = db.totalChanges;
      db.exec("BEGIN");
      expect(db.autocommit).toBe(false);
      db.exec("INSERT INTO t (v) VALUES (1), (2), (3)");
      expect([db.changes, db.totalChanges - before]).toEqual([3, 3]);
      db.exec("UPDATE t SET v = v + 10 WHERE v > 1");
      expect([db.changes, db.totalChanges - before]).toEqual([2, 5]);
      db.exec("ROLLBACK");
      expect(db.autocommit).toBe(true);
      expect(queryNumber(db, "SELECT count(*) FROM t")).toBe(0);
    }));

  it("is committed with a statement still open, and that one goes on", () =>
    inDatabase((db) => {
      db.exec("INSERT INTO t (v) VALUES (1), (2)");
      const select = db.prepare("SELECT v FROM t ORDER BY v");
      select.step();
      db.exec("BEGIN; INSERT INTO t (v) VALUES (3); COMMIT");
      expect([select.step(), select.int(0)]).toEqual([true, 2]);
      db.resetAll();
      expect([select.step(), select.int(0)]).toEqual([true, 1]);
      select.reset();
    }));
});

describe("the -wal", () => {
  it("grows by commits and is emptied by a checkpoint that truncates", () =>
    inDatabase((db, path) => {
      db.checkpointTruncate();
      expect([db.walFrames, db.walCopied]).toEqual([0, true]);
      db.exec("INSERT INTO t (v) VALUES (1)");
      expect(db.walFrames).toBeGreaterThan(0);
      expect(db.walCopied).toBe(false);
      const frames = db.walFrames;
      db.exec("INSERT INTO t (v) VALUES (2)");
      expect(db.walFrames).toBeGreaterThan(frames);
      db.checkpointPassive();
      expect(db.walCopied).toBe(true);
      expect(statSync(`${path}-wal`).size).toBeGreaterThan(0);
      db.checkpointTruncate();
      expect(statSync(`${path}-wal`).size).toBe(0);
    }));

  it("is not emptied under a reader, who is not disturbed", () =>
    inDatabase((db, path) =>
      withDatabase(path, (reader) => {
        db.exec("INSERT INTO t (v) VALUES (1), (2)");
        const select = reader.prepare("SELECT v FROM t ORDER BY v");
        select.step();
        db.exec("INSERT INTO t (v) VALUES (3)");
        expect(errorOf(() => db.checkpointTruncate()).code).toBe(SQLITE_BUSY);
        expect([select.step(), select.int(0), select.step()]).toEqual([true, 2, false]);
        db.checkpointTruncate();
      }),
    ));

  it("is gone with the last connection", () =>
    inDatabase((db, path) => {
      db.exec("INSERT INTO t (v) VALUES (1)");
      expect(existsSync(`${path}-wal`)).toBe(true);
      db.close();
      for (const end of ["-wal", "-shm"]) expect(existsSync(path + end)).toBe(false);
    }));
});

describe("opening anew", () => {
  it("keeps the statements, without what was bound, and loses the open transaction", () =>
    inDatabase((db) => {
      const insert = db.prepare("INSERT INTO t (v) VALUES (?1)");
      const count = db.prepare("SELECT count(*) FROM t");
      insert.bindInt(1, 1).run();
      db.exec("BEGIN");
      insert.bindInt(1, 2).run();
      count.step();
      db.reopen();
      expect(db.autocommit).toBe(true);
      expect([count.step(), count.int(0)]).toEqual([true, 1]);
      count.reset();
      insert.bindInt(1, 3).run();
      expect(queryNumber(db, "SELECT max(v) FROM t")).toBe(3);
    }));

  it("goes on counting the frames of the -wal", () =>
    inDatabase((db) => {
      db.reopen();
      const before = db.walFrames;
      db.exec("INSERT INTO t (v) VALUES (randomblob(20000))");
      expect(db.walFrames).toBeGreaterThan(before);
    }));

  it("a hundred times leaks no descriptor", () =>
    inDatabase((db) => {
      if (!existsSync("/proc/self/fd")) return;
      const open = () => readdirSync("/proc/self/fd").length;
      db.reopen();
      const before = open();
      for (let i = 0; i < 100; i++) db.reopen();
      expect(open()).toBeLessThanOrEqual(before);
    }));

  it("of a closed database twice closed does nothing", () =>
    inDatabase((db) => {
      db.close();
      db.close();
      expect(() => db.exec("SELECT 1")).toThrow(/closed/);
      expect(() => db.prepare("SELECT 1")).toThrow(/closed/);
      expect(() => db.checkpointPassive()).toThrow(/closed/);
    }));
});

describe("the cipher settings", () => {
  const SETTINGS: readonly CipherSettings[] = [
    { pageSize: 16_384, hmac: "HMAC_SHA256" },
    { pageSize: 4096, hmac: "HMAC_SHA512" },
    { pageSize: 65_536, hmac: "HMAC_SHA1" },
    { pageSize: 1024, hmac: "HMAC_SHA256" },
  ];

  it.each(SETTINGS)("$pageSize, $hmac read what they wrote, and no others do", (cipher) =>
    inDirectory((path) => {
      const db = new Database(path, testKey(cipher), { mode: "create" });
      db.exec(`PRAGMA page_size = ${cipher.pageSize}`);
      db.exec("CREATE TABLE t (v); INSERT INTO t VALUES (42)");
      db.close();
      expect(statSync(path).size % cipher.pageSize).toBe(0);
      expect(withDatabase(path, (again) => queryNumber(again, "SELECT v FROM t"), cipher)).toBe(42);
      const others: CipherSettings[] = [
        ...(["HMAC_SHA1", "HMAC_SHA256", "HMAC_SHA512"] as HmacAlgorithm[])
          .filter((hmac) => hmac !== cipher.hmac)
          .map((hmac) => ({ ...cipher, hmac })),
        { ...cipher, pageSize: cipher.pageSize === 4096 ? 8192 : 4096 },
      ];
      for (const other of others)
        expect(
          errorOf(() => withDatabase(path, (again) => queryNumber(again, "SELECT v FROM t"), other)).isDamage,
        ).toBe(true);
    }),
  );

  it("do not help with another key: that is damage to the eye of SQLite", () =>
    inDatabase((db, path) => {
      db.close();
      const before = readFileSync(path);
      const error = errorOf(() =>
        withDatabase(path, (again) => queryNumber(again, "SELECT count(*) FROM t"), CIPHER, 8),
      );
      expect(error.isDamage).toBe(true);
      expect(readFileSync(path).equals(before)).toBe(true);
    }));

  it("leave no text of the schema or of a row in the file", () =>
    inDatabase((db, path) => {
      db.exec("INSERT INTO t (v) VALUES ('a very secret row')");
      db.close();
      const bytes = readFileSync(path);
      for (const text of ["secret", "CREATE", "SQLite"]) expect(bytes.includes(text)).toBe(false);
    }));

  it("find a byte that was changed, on whichever page", () =>
    inDatabase((db, path) => {
      db.exec("INSERT INTO t (v) VALUES (randomblob(20000))");
      db.close();
      const whole = readFileSync(path);
      for (let page = 1; page < whole.length / CIPHER.pageSize; page++) {
        const bytes = Buffer.from(whole);
        const at = page * CIPHER.pageSize + 1234;
        bytes[at] = (bytes[at] ?? 0) ^ 1;
        writeFileSync(path, bytes);
        const found = withDatabase(path, (again) => again.pragma("cipher_integrity_check"));
        expect(found).toMatch(/HMAC verification failed/);
      }
      writeFileSync(path, whole);
      expect(withDatabase(path, (again) => again.pragma("cipher_integrity_check"))).toBeUndefined();
    }));
});
