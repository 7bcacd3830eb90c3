/** The format is a promise: what is pinned here changes only with a new version of it. */
import { copyFileSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { check } from "../../src/core/check.ts";
import { schemaSql } from "../../src/core/format.ts";
import { unlock } from "../../src/core/unlock.ts";
import { Volume } from "../../src/core/volume.ts";
import { Database } from "../../src/db/database.ts";
import { inDatabase } from "../db/fixture.ts";
import { queryNumber } from "../db/query.ts";
import { type Dump, dump, dumpEpoch } from "./dump.ts";
import { b, inVolume, ROOT, touch } from "./fixture.ts";

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

describe("format 1.0", () => {
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
        "dirent_past_died",
        "extent_past_died",
        "extent_past_shared",
        "extent_shared",
        "inode_global",
        "inode_past_died",
        "inode_unlinked",
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
        expect(listOf(db, "SELECT value FROM meta WHERE key = 'format'")).toEqual(["1.0.0"]);
        expect(listOf(db, "SELECT lower(hex(value)) FROM meta WHERE key = 'volume_id'")).toEqual([volumeId]);
        expect(queryNumber(db, "SELECT length(value) FROM meta WHERE key = 'volume_id'")).toBe(16);
        expect(queryNumber(db, "SELECT value > 0 FROM meta WHERE key = 'replica_id'")).toBe(1);
      });
    }));

  /** A copy of the fixture, opened; tells the test the path to look at after close. */
  function withFixture(run: (path: string) => void): void {
    const directory = mkdtempSync(join(tmpdir(), "format-"));
    try {
      const path = join(directory, "volume");
      copyFileSync(join(FIXTURES, "volume-1.0.sqlfuse"), path);
      run(path);
    } finally {
      rmSync(directory, { recursive: true, force: true });
    }
  }

  it("of the fixture opens with its password, shows what it showed, in both epochs, and can be written to", () =>
    withFixture((path) => {
      const [first, second] = JSON.parse(readFileSync(join(FIXTURES, "volume-1.0.json"), "utf8")) as Dump[];
      const key = unlock(path, b("fixture of format 1.0"));
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
    }));
});
