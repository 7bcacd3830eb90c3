/** The format is a promise: what is pinned here changes only with a new version of it. */
import { copyFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { OpenError } from "../../src/core/errors.ts";
import { FORMAT, schemaSql, UPGRADES } from "../../src/core/format.ts";
import { AwayError } from "../../src/core/partial.ts";
import { unlock } from "../../src/core/unlock.ts";
import { Volume } from "../../src/core/volume.ts";
import { Database } from "../../src/db/database.ts";
import { check, schemaDifferences } from "../../src/fsck/check.ts";
import { inDatabase } from "../db/fixture.ts";
import { queryNumber } from "../db/query.ts";
import { runChild } from "./child.ts";
import { type Dump, dump, dumpEpoch } from "./dump.ts";
import { b, type Fixture, inVolume, namesOf, noise, put, ROOT, touch } from "./fixture.ts";
import { tablesOf } from "./tables.ts";

const FIXTURES = fileURLToPath(new URL("../fixtures", import.meta.url));

function columnsOf(db: Database, table: string): string {
  const rows = db.prepare(`SELECT name FROM pragma_table_info('${table}') ORDER BY cid`);
  const names: string[] = [];
  while (rows.step()) names.push(rows.text(0));
  return names.join(" ");
}

function listOf(db: Database, sql: string): string[] {
  const rows = db.prepare(sql);
  const list: string[] = [];
  while (rows.step()) list.push(rows.text(0));
  return list;
}

describe("format 1.4", () => {
  const INODE =
    "ino mode nlink uid gid rdev size block_size extents parent generation atime_ns mtime_ns ctime_ns btime_ns born origin serial version target";

  it("has these tables, with these columns in this order", () =>
    inDatabase((db) => {
      db.exec("DROP TABLE t");
      db.exec(schemaSql());
      const tables = listOf(db, "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name");
      expect(Object.fromEntries(tables.map((table) => [table, columnsOf(db, table)]))).toEqual({
        meta: "key value",
        inode: INODE,
        inode_past: `${INODE} died`,
        dirent: "parent name id ino type born",
        dirent_past: "parent name id ino type born died",
        xattr: "ino name value born",
        xattr_past: "ino name value born died",
        extent: "ino idx block shared born",
        extent_past: "ino idx block shared born died",
        block: "id codec hash data",
        snapshot: "epoch name created_ns protected automatic",
        remote: "id name url log secret writer epoch segment hash pending pending_epoch synced_ns key_salt",
        remote_object: "number remote name salt",
        remote_block: "remote id object place length codec",
        partial_block: "block id length used keep",
        pin: "ino",
      });
    }));

  it("has these indexes", () =>
    inDatabase((db) => {
      db.exec("DROP TABLE t");
      db.exec(schemaSql());
      const indexes = listOf(
        db,
        "SELECT name FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL ORDER BY name",
      );
      expect(indexes).toEqual([
        "dirent_by_id",
        "dirent_past_by_id",
        "dirent_past_died",
        "extent_past_died",
        "extent_past_shared",
        "extent_shared",
        "inode_global",
        "inode_past_died",
        "inode_unlinked",
        "partial_block_due",
        "partial_block_used",
        "remote_object_name",
        "snapshot_name",
        "xattr_past_died",
      ]);
    }));

  it("has these marks and constants", () =>
    inVolume((fixture, volume) => {
      touch(volume, ROOT, "a");
      const { volumeId } = volume;
      fixture.close();
      fixture.sql((db) => {
        expect(db.pragma("application_id")).toBe(String(0x53514c46));
        expect(db.pragma("user_version")).toBe("1");
        expect(db.pragma("auto_vacuum")).toBe("0");
        const keys = listOf(db, "SELECT key FROM meta ORDER BY key");
        expect(keys).toEqual([
          "block_size",
          "changed",
          "compression",
          "created_ns",
          "epoch",
          "features",
          "features_incompatible",
          "format",
          "next_block",
          "next_serial",
          "replica_id",
          "volume_id",
        ]);
        expect(listOf(db, "SELECT value FROM meta WHERE key = 'format'")).toEqual(["1.4.0"]);
        expect(listOf(db, "SELECT lower(hex(value)) FROM meta WHERE key = 'volume_id'")).toEqual([volumeId]);
        expect(queryNumber(db, "SELECT length(value) FROM meta WHERE key = 'volume_id'")).toBe(16);
        expect(queryNumber(db, "SELECT value > 0 FROM meta WHERE key = 'replica_id'")).toBe(1);
      });
    }));

  /** A copy of the fixture, opened; tells the test the path to look at after close. */
  function withFixture(minor: string, run: (path: string) => void): void {
    const directory = mkdtempSync(join(tmpdir(), "format-"));
    try {
      const path = join(directory, "volume");
      copyFileSync(join(FIXTURES, `volume-${minor}.sqlfuse`), path);
      run(path);
    } finally {
      rmSync(directory, { recursive: true, force: true });
    }
  }

  it.each(["1.0", "1.1", "1.2", "1.3"])(
    "of the fixture of %s opens with its password, shows what it showed, in both epochs, and can be written to",
    (minor) =>
      withFixture(minor, (path) => {
        const [first, second] = JSON.parse(
          readFileSync(join(FIXTURES, `volume-${minor}.json`), "utf8"),
        ) as Dump[];
        const key = unlock(path, b(`fixture of format ${minor}`));
        expect(check(path, key)).toEqual([]);
        const readOnly = Volume.open(path, key, { readOnly: true });
        expect(dump(readOnly)).toEqual(second);
        readOnly.close();
        const db = new Database(path, key, { mode: "readonly" });
        expect(dumpEpoch(db, 1)).toEqual(first);
        expect(dumpEpoch(db, 2)).toEqual(second);
        db.close();
        const volume = Volume.open(path, key);
        touch(volume, ROOT, "made by a later version");
        volume.close();
        expect(check(path, key)).toEqual([]);
      }),
  );

  it("of its fixture has blocks of each codec", () =>
    withFixture("1.2", (path) => {
      const db = new Database(path, unlock(path, b("fixture of format 1.2")), { mode: "readonly" });
      expect(listOf(db, "SELECT DISTINCT codec & 255 FROM block ORDER BY 1")).toEqual(["0", "1", "2"]);
      db.close();
    }));

  it("of its fixture shows its snapshot, as it was made, protected as it was, and the retention that was set", () =>
    withFixture("1.2", (path) => {
      const [first] = JSON.parse(readFileSync(join(FIXTURES, "volume-1.2.json"), "utf8")) as Dump[];
      const past = Volume.open(path, unlock(path, b("fixture of format 1.2")), { at: { name: "the first" } });
      expect(dump(past)).toEqual(first);
      expect(past.history.list()).toMatchObject([
        { epoch: 1, name: "the first", protected: true, automatic: false },
      ]);
      expect(past.history.retention).toMatchObject({ hourly: 24, daily: 30, whenFull: false });
      past.close();
    }));

  it("of its fixture shows its remotes, and keeps the epoch that was pushed", () =>
    withFixture("1.3", (path) => {
      const volume = Volume.open(path, unlock(path, b("fixture of format 1.3")));
      expect(volume.remotes.list()).toMatchObject([
        { name: "nas", epoch: 1, segment: 1, pendingEpoch: 0 },
        { name: "other", url: "/nowhere", epoch: 0, segment: 0 },
      ]);
      expect(volume.history.list()).toMatchObject([{ epoch: 1, name: "pushed-1", protected: true }]);
      volume.close();
    }));

  it("of its fixture has the content of small and pinned files, and says which of large ones is away", () =>
    withFixture("1.4", (path) => {
      const key = unlock(path, b("fixture of format 1.4"));
      expect(check(path, key)).toEqual([]);
      const replica = Volume.open(path, key);
      const read = (name: string): Uint8Array => {
        const into = new Uint8Array(100_000);
        const { ino } = replica.tree.lookup(ROOT, b(name)) ?? { ino: ROOT };
        return into.subarray(0, replica.files.read(ino, 0, into.length, into));
      };
      expect(replica.readOnly).toBe(true);
      expect(read("small")).toEqual(new Uint8Array(noise(1000)));
      expect(read("pinned")).toEqual(new Uint8Array(noise(100_000, 3)));
      expect(() => read("large")).toThrow(AwayError);
      const { bytes, bytesHere } = replica.share() ?? { bytes: 0, bytesHere: 0 };
      expect(bytes - bytesHere).toBeGreaterThanOrEqual(100_000);
      expect(bytesHere).toBeGreaterThanOrEqual(101_000);
      replica.close();
      const db = new Database(path, key, { mode: "readonly" });
      expect(queryNumber(db, "SELECT count(*) FROM pin")).toBe(1);
      expect(listOf(db, "SELECT value FROM meta WHERE key = 'partial_limit'")).toEqual(["1000000"]);
      db.close();
    }));

  it("has no snapshots and no remotes where it is older and only read", () =>
    withFixture("1.1", (path) => {
      const volume = Volume.open(path, unlock(path, b("fixture of format 1.1")), { readOnly: true });
      expect(volume.history.list()).toEqual([]);
      expect(volume.remotes.list()).toEqual([]);
      volume.close();
    }));

  it("that 1.0 is upgraded to compresses nothing unless it is told to", () =>
    withFixture("1.0", (path) => {
      const key = unlock(path, b("fixture of format 1.0"));
      const volume = Volume.open(path, key);
      put(volume, ROOT, "text", "the same again. ".repeat(100));
      volume.close();
      const db = new Database(path, key, { mode: "readonly" });
      expect(
        listOf(db, "SELECT value FROM meta WHERE key IN ('format', 'compression') ORDER BY key"),
      ).toEqual(["none", FORMAT]);
      expect(queryNumber(db, "SELECT count(*) FROM block WHERE codec <> 0")).toBe(0);
      expect(listOf(db, "SELECT value FROM meta WHERE key = 'features_incompatible'")).toEqual(["[]"]);
      db.close();
    }));
});

describe("a later minor", () => {
  const STEPS = [
    `CREATE TABLE IF NOT EXISTS first (a INTEGER) STRICT;
     INSERT OR IGNORE INTO meta (key, value) VALUES ('first', 1)`,
    "CREATE INDEX IF NOT EXISTS first_a ON first (a)",
    "INSERT OR IGNORE INTO meta (key, value) VALUES ('third', 3)",
  ];
  const FORMAT_OF = "SELECT value FROM meta WHERE key = 'format'";
  const MADE = "SELECT name FROM sqlite_schema WHERE name GLOB 'first*' ORDER BY name";
  const KEYS = "SELECT key FROM meta WHERE key IN ('first', 'third') ORDER BY key";

  function withMinor(format: string, run: (fixture: Fixture) => void): void {
    inVolume((fixture) => {
      fixture.close();
      fixture.sql((db) => db.exec(`UPDATE meta SET value = '${format}' WHERE key = 'format'`));
      run(fixture);
      // Ends in a check by this version, which knows no other minor.
    });
  }

  it("is reached from an older one when it is opened for writing, by the steps that it lacks alone", () =>
    withMinor("1.1.0", (fixture) => {
      fixture.sql((db) => db.exec("CREATE TABLE first (a INTEGER) STRICT"));
      fixture.open({ upgrades: STEPS });
      expect(fixture.takeLog()).toEqual([`${fixture.path}: its format is now 1.3.0`]);
      fixture.close();
      fixture.sql((db) => {
        expect(listOf(db, FORMAT_OF)).toEqual(["1.3.0"]);
        expect(listOf(db, MADE)).toEqual(["first", "first_a"]);
        expect(listOf(db, KEYS)).toEqual(["third"]);
      });
      fixture.open({ upgrades: STEPS });
    }));

  it("is not touched by a version that knows an older one, which opens it", () =>
    withMinor("1.7.0", (fixture) => {
      fixture.open({ upgrades: STEPS });
      touch(fixture.volume, ROOT, "a");
      fixture.close();
      fixture.sql((db) => expect(listOf(db, FORMAT_OF)).toEqual(["1.7.0"]));
    }));

  it("is not needed to read: an older one stays as it is", () =>
    withMinor("1.0.0", (fixture) => {
      const before = readFileSync(fixture.path);
      const volume = fixture.open({ upgrades: STEPS, readOnly: true });
      expect(namesOf(volume, ROOT)).toEqual([]);
      fixture.close();
      expect(readFileSync(fixture.path).equals(before)).toBe(true);
    }));

  it("is not reached in part: where a step fails the volume is as it was, and does not open", () =>
    withMinor("1.0.0", (fixture) => {
      const tables = tablesOf(fixture.path, fixture.key);
      for (const failing of [
        "CREATE TABLE inode (a)",
        "INSERT INTO meta (key, value) VALUES ('format', 2)",
      ]) {
        expect(() => fixture.open({ upgrades: [...STEPS, failing] })).toThrow(OpenError);
        expect(tablesOf(fixture.path, fixture.key)).toEqual(tables);
      }
    }));

  it("is reached whole or not at all by a process that is killed on the way", () =>
    withMinor("1.0.0", (fixture) => {
      const { bytes, salt, ...rest } = fixture.key.toMessage();
      const buffer = (part: Uint8Array) => `Buffer.from("${Buffer.from(part).toString("hex")}", "hex")`;
      // More pages than the cache holds: some of them are in the -wal before the end.
      const growing = `CREATE TABLE IF NOT EXISTS first (a INTEGER);
        WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000) INSERT INTO first SELECT i FROM n`;
      const { signal } = runChild(`
        import { Key } from "src/db/key.ts";
        import { Database } from "src/db/database.ts";
        import { upgradeFormat } from "src/core/format.ts";
        const key = Key.fromMessage({ ...${JSON.stringify(rest)}, bytes: ${buffer(bytes)}, salt: ${buffer(salt)} });
        const db = new Database(${JSON.stringify(fixture.path)}, key, { mode: "readwrite", cacheBytes: 65_536 });
        const steps = [${JSON.stringify(growing)}, "SELECT 1"];
        const exec = db.exec.bind(db);
        db.exec = (sql) => (sql === "SELECT 1" ? process.kill(process.pid, "SIGKILL") : exec(sql));
        upgradeFormat(db, steps);`);
      expect(signal).toBe("SIGKILL");
      expect(statSync(`${fixture.path}-wal`).size).toBeGreaterThan(100_000);
      const volume = fixture.open({ readOnly: false });
      expect(namesOf(volume, ROOT)).toEqual([]);
      expect(fixture.takeLog()).toEqual([`${fixture.path}: its format is now ${FORMAT}`]);
      fixture.close();
      fixture.sql((db) => {
        expect(listOf(db, FORMAT_OF)).toEqual([FORMAT]);
        expect(listOf(db, MADE)).toEqual([]);
      });
    }));

  it("lacks nothing that a check would miss before it is reached", () =>
    withMinor("1.0.0", (fixture) => {
      const steps = ["CREATE INDEX IF NOT EXISTS inode_unlinked ON inode (ino) WHERE nlink = 0"];
      fixture.sql((db) => {
        db.exec("DROP INDEX inode_unlinked");
        expect(schemaDifferences(db, fixture.key, steps)).toEqual([]);
        expect(schemaDifferences(db, fixture.key, [])).toMatchObject([
          { name: "inode_unlinked", what: "missing" },
        ]);
      });
      fixture.open({ upgrades: steps });
      expect(fixture.takeLog()).toHaveLength(1);
      fixture.close();
    }));

  it("is what schema.sql makes: the steps of this version change nothing in a new volume", () =>
    inVolume((fixture) => {
      fixture.close();
      const before = tablesOf(fixture.path, fixture.key);
      fixture.sql((db) => {
        for (const step of UPGRADES) db.exec(step);
        expect(schemaDifferences(db, fixture.key)).toEqual([]);
        expect(listOf(db, FORMAT_OF)).toEqual([`1.${UPGRADES.length}.0`]);
      });
      expect(tablesOf(fixture.path, fixture.key)).toEqual(before);
    }));

  it("has a fixture of its own", () => {
    const minors = UPGRADES.map((_, i) => `volume-1.${i + 1}.sqlfuse`);
    expect(readdirSync(FIXTURES)).toEqual(expect.arrayContaining(["volume-1.0.sqlfuse", ...minors]));
  });
});
