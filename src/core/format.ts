/** The format of a volume: what a new one is made from, and whether one that is there can be understood. */
import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { assert } from "../base/assert.ts";
import type { Database } from "../db/database.ts";
import { lz4 } from "../native/lz4.ts";
import { isBlockSize } from "./blocksize.ts";
import { type Compression, isCompression } from "./codec.ts";
import { OpenError } from "./errors.ts";

export const FORMAT_MAJOR = 1;
/**
 * What brings a volume of minor i to minor i + 1, as SQL. schema.sql is the latest minor.
 *
 * A step only adds: tables, indexes, rows of meta (`IF NOT EXISTS`, `INSERT OR IGNORE`), so that run on a volume of the
 * latest minor it changes nothing, and so that a volume of an older one can still be read where it cannot be upgraded. Older
 * versions of sqlfuse open a volume of a newer minor, unless `features_incompatible` names what they do not know.
 */
export const UPGRADES: readonly string[] = [
  "INSERT OR IGNORE INTO meta (key, value) VALUES ('compression', 'none')",
  `CREATE TABLE IF NOT EXISTS snapshot (
     epoch      INTEGER PRIMARY KEY,
     name       TEXT,
     created_ns INTEGER NOT NULL,
     protected  INTEGER NOT NULL,
     automatic  INTEGER NOT NULL
   ) STRICT;
   CREATE UNIQUE INDEX IF NOT EXISTS snapshot_name ON snapshot (name);
   CREATE INDEX IF NOT EXISTS dirent_past_by_id ON dirent_past (parent, id);
   INSERT OR IGNORE INTO meta (key, value) SELECT 'changed', value FROM meta WHERE key = 'epoch'`,
  `CREATE TABLE IF NOT EXISTS remote (
     id         INTEGER PRIMARY KEY,
     name       TEXT NOT NULL UNIQUE,
     url        TEXT NOT NULL,
     log        BLOB NOT NULL,
     secret     BLOB NOT NULL,
     writer     INTEGER NOT NULL,
     epoch      INTEGER NOT NULL,
     segment    INTEGER NOT NULL,
     hash       BLOB NOT NULL,
     pending    BLOB NOT NULL,
     pending_epoch INTEGER NOT NULL,
     synced_ns  INTEGER NOT NULL,
     key_salt   BLOB NOT NULL
   ) STRICT;
   CREATE TABLE IF NOT EXISTS remote_object (
     number INTEGER PRIMARY KEY,
     remote INTEGER NOT NULL,
     name   BLOB NOT NULL,
     salt   BLOB NOT NULL
   ) STRICT;
   CREATE UNIQUE INDEX IF NOT EXISTS remote_object_name ON remote_object (remote, name);
   CREATE TABLE IF NOT EXISTS remote_block (
     remote INTEGER NOT NULL,
     id     BLOB NOT NULL,
     object INTEGER NOT NULL,
     place  INTEGER NOT NULL,
     length INTEGER NOT NULL,
     codec  INTEGER NOT NULL,
     PRIMARY KEY (remote, id)
   ) STRICT, WITHOUT ROWID`,
  `CREATE TABLE IF NOT EXISTS partial_block (
     block  INTEGER PRIMARY KEY,
     id     BLOB NOT NULL,
     length INTEGER NOT NULL,
     used   INTEGER NOT NULL,
     keep   INTEGER NOT NULL
   ) STRICT;
   CREATE INDEX IF NOT EXISTS partial_block_used ON partial_block (used) WHERE keep = 0 AND used > 0;
   CREATE INDEX IF NOT EXISTS partial_block_due ON partial_block (block) WHERE keep = 1 AND used = 0;
   CREATE TABLE IF NOT EXISTS pin (ino INTEGER PRIMARY KEY) STRICT`,
];
/** Names in `features_incompatible` that this version understands. */
const KNOWN_FEATURES = ["compression", "block-size", "replica", "partial"] as const;
export type Feature = (typeof KNOWN_FEATURES)[number];
/** meta.format of a new volume. */
export const FORMAT = `${FORMAT_MAJOR}.${UPGRADES.length}.0`;
/** PRAGMA application_id: "SQLF". */
export const APPLICATION_ID = 0x53514c46;

/** schema.sql, which lies beside package.json in the repository and in the package alike. */
export function schemaSql(): string {
  let directory = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(directory, "schema.sql"))) {
    const parent = dirname(directory);
    assert(parent !== directory, "schema.sql is shipped beside package.json");
    directory = parent;
  }
  return readFileSync(join(directory, "schema.sql"), "utf8");
}

/** One value of meta as text, undefined where it is missing. */
export function readMeta(db: Database, key: string): string | undefined {
  const select = db.prepare("SELECT value FROM meta WHERE key = ?1");
  select.bindText(1, key);
  const value = select.step() ? select.text(0) : undefined;
  select.reset();
  return value;
}

/** What to throw where a row of meta cannot be read. */
export function damagedMeta(db: Database, key: string): OpenError {
  const message = `${db.path}: damaged: its ${key} is missing or cannot be; keep a copy before you repair it`;
  return new OpenError("damaged", db.path, message);
}

/** A constant or counter of the volume, from 1. @throws OpenError damaged where it is missing or cannot be */
export function numberMeta(db: Database, key: string): number {
  const value = Number(readMeta(db, key));
  if (Number.isSafeInteger(value) && value >= 1) return value;
  throw damagedMeta(db, key);
}

/** Bytes per block of files made from now on. @throws OpenError damaged */
export function blockSizeMeta(db: Database): number {
  const size = numberMeta(db, "block_size");
  if (!isBlockSize(size)) throw damagedMeta(db, "block_size");
  return size;
}

/** How files that do not say otherwise are compressed. What is no word for it, or missing as in format 1.0, is "none". */
export function compressionMeta(db: Database): Compression {
  const word = readMeta(db, "compression") ?? "";
  return isCompression(word) ? word : "none";
}

/** One value of meta that is a blob, as lower-case hexadecimal digits. @throws OpenError damaged where it is missing */
export function hexMeta(db: Database, key: string): string {
  const select = db.prepare("SELECT lower(hex(value)) FROM meta WHERE key = ?1");
  select.bindText(1, key);
  const value = select.step() ? select.text(0) : undefined;
  select.reset();
  if (value === undefined) throw damagedMeta(db, key);
  return value;
}

/** Names of features that a reader must know; undefined where the row is no list. */
export function incompatibleFeatures(db: Database): string[] | undefined {
  try {
    const names: unknown = JSON.parse(readMeta(db, "features_incompatible") ?? "");
    if (Array.isArray(names)) return names.map(String);
  } catch {
    // not JSON
  }
  return undefined;
}

/** Whether this copy is changed by what it pulls alone. */
export function isReplica(db: Database): boolean {
  return incompatibleFeatures(db)?.includes("replica") === true;
}

/** Says in `schema` that a reader of the volume must know `feature`, inside the transaction that brings it. */
export function requireFeature(db: Database, feature: Feature, schema = "main"): void {
  const names = incompatibleFeatures(db) ?? [];
  if (names.includes(feature)) return;
  const update = db.prepare(`UPDATE ${schema}.meta SET value = ?1 WHERE key = 'features_incompatible'`);
  update.bindText(1, JSON.stringify([...names, feature])).run();
  db.release(update);
}

/** @throws OpenError too-new; EngineError where what a feature needs is not installed */
export function refuseTooNew(db: Database, features: readonly string[]): void {
  const major = Number(db.pragma("user_version"));
  const format = major > FORMAT_MAJOR ? `${major}` : (readMeta(db, "format") ?? "0");
  const unknown = major > FORMAT_MAJOR ? [] : features.filter((name) => !isKnown(name));
  if (Number.parseInt(format, 10) <= FORMAT_MAJOR && unknown.length === 0) {
    if (features.includes("compression")) lz4();
    return;
  }
  const needs = unknown.length > 0 ? ` with ${unknown.join(", ")}` : "";
  throw new OpenError(
    "too-new",
    db.path,
    `${db.path}: its format is ${format}${needs}, this sqlfuse knows ${FORMAT_MAJOR}.x; use a newer sqlfuse`,
  );
}

function isKnown(name: string): boolean {
  return KNOWN_FEATURES.some((known) => known === name);
}

/** Refuses what this code would not understand, before anything is changed. @throws OpenError not-a-volume, too-new, damaged; EngineError */
export function checkFormat(db: Database): void {
  const { path } = db;
  if (Number(db.pragma("application_id")) !== APPLICATION_ID) {
    throw new OpenError("not-a-volume", path, `${path}: a SQLCipher database, but not a sqlfuse volume`);
  }
  const isNewer = Number(db.pragma("user_version")) > FORMAT_MAJOR;
  const features = isNewer ? [] : incompatibleFeatures(db);
  if (features === undefined) throw damagedMeta(db, "features_incompatible");
  refuseTooNew(db, features);
}

/** The steps that the volume still lacks. @throws OpenError damaged */
export function pendingUpgrades(db: Database, upgrades: readonly string[]): readonly string[] {
  const [, minor] = /^\d+\.(\d+)\.\d+$/.exec(readMeta(db, "format") ?? "") ?? [];
  if (minor === undefined) throw damagedMeta(db, "format");
  return upgrades.slice(Number(minor));
}

/**
 * Brings an older minor to the latest, in one transaction: whole or not at all. Tells the new format, undefined where
 * nothing was to be done. @throws OpenError damaged, SqliteError
 */
export function upgradeFormat(db: Database, upgrades: readonly string[]): string | undefined {
  const pending = pendingUpgrades(db, upgrades);
  if (pending.length === 0) return undefined;
  const format = `${FORMAT_MAJOR}.${upgrades.length}.0`;
  db.exec("BEGIN IMMEDIATE");
  try {
    for (const step of pending) db.exec(step);
    db.exec(`UPDATE meta SET value = '${format}' WHERE key = 'format'`);
    db.exec("COMMIT");
  } finally {
    if (!db.autocommit) db.exec("ROLLBACK");
  }
  return format;
}
