/**
 * A compatible volume is what a stock SQLCipher 4 opens with nothing but the password: here the engine's own
 * JavaScript, in a process of its own, as two copies of SQLite must not meet in one.
 */
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { unlock } from "../../src/core/unlock.ts";
import { Volume } from "../../src/core/volume.ts";
import { check } from "../../src/fsck/check.ts";
import { b, put, ROOT } from "../core/fixture.ts";

const ROOT_DIRECTORY = fileURLToPath(new URL("../..", import.meta.url));
const PASSWORD = 'it\'s a "quoted" pässword';

/** Opens a file as a stranger would, and prints what a query gives, or the error. */
const STRANGER = `
  const { Database } = require("@journeyapps/sqlcipher");
  const [, path, password, sql, change] = process.argv;
  const db = new Database(path, (failed) => {
    if (failed) throw failed;
    db.serialize(() => {
      db.run("PRAGMA key = '" + password.replaceAll("'", "''") + "'");
      if (change) db.run(change, (error) => { if (error) throw error; });
      db.all(sql, (error, rows) => {
        console.log(JSON.stringify(error ? { error: error.message } : rows));
        db.close();
      });
    });
  });
`;

function stranger(path: string, password: string, sql: string, change = ""): unknown {
  const output = execFileSync(process.execPath, ["-e", STRANGER, path, password, sql, change], {
    cwd: ROOT_DIRECTORY,
    encoding: "utf8",
    stdio: ["ignore", "pipe", "ignore"],
  });
  return JSON.parse(output);
}

let directory: string;
let path: string;

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "compat-"));
  path = join(directory, "volume");
  Volume.create(path, b(PASSWORD), { compat: true });
  const volume = Volume.open(path, unlock(path, b(PASSWORD)));
  put(volume, ROOT, "a file", "its content");
  volume.close();
});

afterAll(() => rmSync(directory, { recursive: true, force: true }));

describe("a compatible volume", () => {
  it("is found by unlock to have SQLCipher's own settings", () => {
    expect(unlock(path, b(PASSWORD)).cipher).toEqual({ pageSize: 4096, hmac: "HMAC_SHA512" });
  });

  it("is read by a stock SQLCipher with nothing but the password", () => {
    const sql = `SELECT CAST(d.name AS TEXT) AS name, i.size, CAST(b.data AS TEXT) AS data
      FROM dirent AS d JOIN inode AS i USING (ino) JOIN extent AS e USING (ino) JOIN block AS b ON b.id = e.block`;
    expect(stranger(path, PASSWORD, sql)).toEqual([{ name: "a file", size: 11, data: "its content" }]);
    expect(stranger(path, PASSWORD, "PRAGMA integrity_check")).toEqual([{ integrity_check: "ok" }]);
    expect(stranger(path, PASSWORD, "PRAGMA cipher_integrity_check")).toEqual([]);
  });

  it("is not read with another password", () => {
    expect(stranger(path, `${PASSWORD}!`, "SELECT 1 FROM inode")).toHaveProperty("error");
  });

  it("opens again, and checks clean, after a stranger wrote to it", () => {
    expect(
      stranger(
        path,
        PASSWORD,
        "SELECT mode FROM inode WHERE ino = 1",
        "UPDATE inode SET mode = 16895 WHERE ino = 1",
      ),
    ).toEqual([{ mode: 16_895 }]);
    const key = unlock(path, b(PASSWORD));
    const volume = Volume.open(path, key);
    expect(volume.attributes.getattr(ROOT).mode).toBe(0o040777);
    volume.close();
    expect(check(path, key)).toEqual([]);
  });
});

describe("a volume of the default settings", () => {
  it("is not read by a stock SQLCipher with the password alone", () => {
    const other = join(directory, "default");
    Volume.create(other, b(PASSWORD));
    expect(stranger(other, PASSWORD, "SELECT 1 FROM inode")).toHaveProperty("error");
  });
});
