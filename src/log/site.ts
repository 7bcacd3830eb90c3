/** How a pusher comes to a volume that this process has open, or reads one that another process has. */
import { accessSync, constants } from "node:fs";
import type { Volume } from "../core/volume.ts";
import { Database } from "../db/database.ts";
import type { Key } from "../db/key.ts";
import type { PushSite } from "./pusher.ts";

/**
 * A connection that reads beside whoever writes, in transactions of one statement. Where the file may be written it may tidy
 * the -wal away, if the writer goes first.
 */
export function openBeside(path: string, key: Key): Database {
  let mode: "readwrite" | "readonly" = "readwrite";
  try {
    accessSync(path, constants.W_OK);
  } catch {
    mode = "readonly";
  }
  const db = new Database(path, key, { mode });
  db.exec("PRAGMA query_only = ON; PRAGMA busy_timeout = 10000; PRAGMA temp_store = MEMORY");
  return db;
}

/** Reads what is committed of a volume that somebody has open, on a connection of its own. @throws SqliteError */
export function readBeside<T>(path: string, key: Key, use: (db: Database) => T): T {
  const db = openBeside(path, key);
  try {
    return use(db);
  } finally {
    db.close();
  }
}

/** Of a volume that is open here. `close` it before the volume. */
export function localSite(volume: Volume, key: Key): PushSite & { close(): void } {
  const db = openBeside(volume.path, key);
  return {
    db,
    key,
    order: async (order) => volume.remotes.obey(order),
    close: () => db.close(),
  };
}
