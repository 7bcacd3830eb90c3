/** Databases in a temporary directory, under a key that costs no derivation. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Database } from "../../src/db/database.ts";
import { type CipherSettings, Key } from "../../src/db/key.ts";

export const CIPHER: CipherSettings = { pageSize: 4096, hmac: "HMAC_SHA256" };

export function testKey(cipher: CipherSettings = CIPHER, seed = 7): Key {
  return new Key(Buffer.alloc(32, seed), Buffer.alloc(16, 3), cipher);
}

/** Runs a test with the path of a file that is not there yet. */
export function inDirectory(run: (path: string) => void): void {
  const directory = mkdtempSync(join(tmpdir(), "db-"));
  try {
    run(join(directory, "database"));
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

/** Runs a test with an open database that has the table t (id INTEGER PRIMARY KEY, v ANY UNIQUE). */
export function inDatabase(run: (db: Database, path: string) => void): void {
  inDirectory((path) => {
    const db = new Database(path, testKey(), { mode: "create" });
    try {
      db.exec("PRAGMA journal_mode = WAL");
      db.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, v ANY UNIQUE) STRICT");
      run(db, path);
    } finally {
      db.close();
    }
  });
}
