/**
 * A volume written anew beside itself and put in its own place: `vacuum` keeps the key and gives back free pages,
 * `rekey` encrypts everything under a new one. Whatever stops either, at whatever moment, the name holds one whole
 * volume that exactly one password opens.
 *
 * The order is what makes it so. What a crash left unlinked is purged; the file is locked, and its -wal copied into
 * it; everything is copied into a draft; the draft is opened as a stranger would and checked, page by page and table
 * by table; it is synced; the old database is closed, so that no -wal is left that could be replayed into the new
 * file; the directory is synced; rename; the directory is synced.
 *
 * Both are generators: each step takes a fraction of a second, and who stops between two (`return`) finds the old
 * file as it was and no draft.
 */
import { randomBytes } from "node:crypto";
import { realpathSync, rmSync, statfsSync, statSync } from "node:fs";
import { dirname } from "node:path";
import { DamageError } from "../base/errno.ts";
import { copyDatabase, countRows, type RowCopy, tableNames } from "../db/copy.ts";
import { Database } from "../db/database.ts";
import { SqliteError } from "../db/errors.ts";
import { KDF_ITERATIONS, Key, SALT_BYTES } from "../db/key.ts";
import { hmacKey, pageIsAuthentic } from "../db/page.ts";
import { lz4 } from "../native/lz4.ts";
import { SQLITE_BUSY } from "../native/sqlite3.ts";
import { Draft } from "./draft.ts";
import { OpenError } from "./errors.ts";
import { FileLock } from "./lock.ts";
import { recompress } from "./recompress.ts";
import { unlock } from "./unlock.ts";
import { Volume } from "./volume.ts";

export interface RewriteOptions {
  /** What is worth knowing and stops nothing, one line each. */
  readonly onLog?: (line: string) => void;
}

export interface VacuumOptions extends RewriteOptions {
  /** Compress all blocks as strongly as can be, but those of files whose attribute says "none". */
  readonly recompress?: boolean;
}

export interface RekeyOptions extends RewriteOptions {
  /** Rounds of the new key's derivation: KDF_ITERATIONS or STRONG_KDF_ITERATIONS. Default: as before. */
  readonly iterations?: number;
}

/** How far it is. Bytes of `copying` are an estimate that may be passed a little. */
export interface RewriteStep {
  readonly phase: "preparing" | "copying" | "checking";
  readonly doneBytes: number;
  readonly totalBytes: number;
}

export interface RewriteResult {
  /** Of the file and its -wal. */
  readonly bytesBefore: number;
  readonly bytesAfter: number;
}

export type Rewrite = Generator<RewriteStep, RewriteResult>;

/** Bytes between two syncs of the draft, or two steps of the check. */
const STRETCH_BYTES = 64 * 2 ** 20;
/** Room that a copy may need beyond the pages in use: half-filled ones, and what the disk needs to name it. */
const SLACK_BYTES = 2 ** 20;

/**
 * Compacts the volume at `path`. The password stays the same.
 * @throws OpenError as `unlock` and `Volume.open`; also locked where somebody reads it, unreadable where it cannot be
 *   replaced, no-space
 */
export function* vacuum(path: string, password: Buffer, options: VacuumOptions = {}): Rewrite {
  // Who could not read the result shall not make it.
  if (options.recompress === true) lz4();
  return yield* rewrite(path, password, options, undefined, options.recompress ? recompress : undefined);
}

/**
 * Encrypts the volume at `path` anew, under `newPassword` and a new salt.
 * @throws OpenError as `vacuum`
 */
export function* rekey(
  path: string,
  password: Buffer,
  newPassword: Buffer,
  options: RekeyOptions = {},
): Rewrite {
  const change = { password: newPassword, iterations: options.iterations };
  return yield* rewrite(path, password, options, change, undefined);
}

interface NewSecret {
  readonly password: Buffer;
  readonly iterations: number | undefined;
}

function* rewrite(
  path: string,
  password: Buffer,
  options: RewriteOptions,
  change: NewSecret | undefined,
  special: RowCopy | undefined,
): Rewrite {
  const log = options.onLog ?? (() => {});
  const key = unlock(path, password);
  let newKey: Key | undefined;
  try {
    // The name may be a symlink: what it leads to is replaced, and the link stays.
    const real = realpathSync(path);
    refuseLinked(path, real);
    const bytesBefore = sizeOf(real) + sizeOf(`${real}-wal`);
    yield { phase: "preparing", doneBytes: 0, totalBytes: bytesBefore };
    purge(path, real, key, log);
    if (change !== undefined) {
      // A raw key went through no derivation: a password that follows it gets the usual one.
      const iterations = change.iterations ?? (key.iterations || KDF_ITERATIONS);
      newKey = Key.derive(change.password, randomBytes(SALT_BYTES), key.cipher, iterations);
    }
    const lock = new FileLock(real, false);
    try {
      const verify = new Verifier(password, change?.password);
      const bytesAfter = yield* replace(path, real, key, newKey ?? key, verify, special, log);
      return { bytesBefore, bytesAfter };
    } finally {
      lock.release();
    }
  } catch (error) {
    throw explain(error, path);
  } finally {
    key.wipe();
    newKey?.wipe();
  }
}

function refuseLinked(path: string, real: string): void {
  const { nlink } = statSync(real);
  if (nlink === 1) return;
  const message = `${path}: has ${nlink} names (hard links); the others would keep the old file, so remove them first`;
  throw new OpenError("unreadable", path, message);
}

/** Drops what a crash left unlinked, as each mount does, and refuses what cannot be written. */
function purge(path: string, real: string, key: Key, log: (line: string) => void): void {
  const volume = Volume.open(real, key, { changesReplica: true, onLog: log });
  const { readOnly } = volume;
  volume.close();
  if (!readOnly) return;
  const message = `${path}: cannot be replaced, as the file or its directory is read-only; nothing was changed`;
  throw new OpenError("unreadable", path, message);
}

function* replace(
  path: string,
  real: string,
  key: Key,
  newKey: Key,
  verifier: Verifier,
  special: RowCopy | undefined,
  log: (line: string) => void,
): Generator<RewriteStep, number> {
  const source = new Database(real, key, { mode: "readwrite" });
  let draft: Draft | undefined;
  try {
    const usedBytes = settle(source, key);
    refuseFullDisk(path, real, usedBytes);
    draft = new Draft(real, log);
    yield* copy(source, draft, newKey, usedBytes, special);
    yield* verifier.check(source, draft, newKey);
    source.close();
    dropWal(real);
    const bytes = draft.size;
    draft.publish();
    return bytes;
  } catch (error) {
    // Once a page was wrong every call may fail, and each in its own words.
    if (error instanceof SqliteError && source.isPoisoned) throw damaged(path, error);
    if (error instanceof DamageError) throw damaged(path, error);
    throw error;
  } finally {
    // In this order: the copy is open through `source`.
    source.close();
    draft?.discard();
  }
}

/** Shuts everybody else out and copies the -wal into the file. Gives the bytes of all pages in use. */
function settle(source: Database, key: Key): number {
  source.exec("PRAGMA temp_store = MEMORY");
  // The lock is taken by the first read, and held until the connection is closed.
  source.exec("PRAGMA main.locking_mode = EXCLUSIVE");
  const pages = Number(source.pragma("main.page_count"));
  source.checkpointTruncate();
  return (pages - Number(source.pragma("main.freelist_count"))) * key.cipher.pageSize;
}

function refuseFullDisk(path: string, real: string, usedBytes: number): void {
  const disk = statfsSync(dirname(real));
  const free = disk.bavail * disk.bsize;
  const needed = usedBytes + usedBytes / 64 + SLACK_BYTES;
  if (needed <= free) return;
  const message = `${path}: its copy needs ${mebibytes(needed)} MiB, and ${mebibytes(free)} MiB are free on the disk; nothing was changed`;
  throw new OpenError("no-space", path, message);
}

function mebibytes(bytes: number): string {
  return (Math.ceil((bytes * 10) / 2 ** 20) / 10).toFixed(1);
}

function* copy(
  source: Database,
  draft: Draft,
  newKey: Key,
  usedBytes: number,
  special: RowCopy | undefined,
): Generator<RewriteStep, void> {
  let flushed = 0;
  for (const doneBytes of copyDatabase(source, draft.path, newKey, special)) {
    if (doneBytes - flushed >= STRETCH_BYTES) {
      draft.flush();
      flushed = doneBytes;
    }
    yield { phase: "copying", doneBytes, totalBytes: Math.max(doneBytes, usedBytes) };
  }
  draft.flush();
}

/** The old file is closed and all of it is in the one file: a -wal beside the new one would be replayed into that. */
function dropWal(real: string): void {
  if (sizeOf(`${real}-wal`) > 0) throw new Error(`${real}-wal: is still there; nothing was changed`);
  for (const end of ["-wal", "-shm"]) rmSync(real + end, { force: true });
}

function sizeOf(path: string): number {
  return statSync(path, { throwIfNoEntry: false })?.size ?? 0;
}

/** Opens a draft as a stranger would: with the password alone, on a connection of its own. */
class Verifier {
  readonly #password: Buffer;
  /** That must open nothing any more. */
  readonly #oldPassword: Buffer | undefined;

  constructor(password: Buffer, newPassword: Buffer | undefined) {
    this.#password = newPassword ?? password;
    this.#oldPassword = newPassword === undefined || newPassword.equals(password) ? undefined : password;
  }

  /** @throws Error where the draft is not what it must be */
  *check(source: Database, draft: Draft, expected: Key): Generator<RewriteStep, void> {
    const totalBytes = draft.size;
    yield { phase: "checking", doneBytes: 0, totalBytes };
    const key = unlock(draft.path, this.#password);
    try {
      const { pageSize, hmac } = key.cipher;
      demand(pageSize === expected.cipher.pageSize && hmac === expected.cipher.hmac, "its cipher settings");
      demand(key.iterations === expected.iterations, "its key derivation");
      demand(key.salt.equals(expected.salt), "its salt");
      if (this.#oldPassword !== undefined) {
        demand(!opens(draft.path, this.#oldPassword), "the old password still opens it:");
      }
      yield* checkPages(draft, key, totalBytes);
      for (const _ of checkTables(source, draft, key)) {
        yield { phase: "checking", doneBytes: totalBytes, totalBytes };
      }
    } finally {
      key.wipe();
    }
  }
}

function demand(holds: boolean, what: string): void {
  if (!holds) throw new Error(`the copy is not what it must be: ${what}; nothing was changed`);
}

function opens(path: string, password: Buffer): boolean {
  try {
    unlock(path, password).wipe();
    return true;
  } catch (error) {
    if (error instanceof OpenError && error.reason === "wrong-password") return false;
    throw error;
  }
}

function* checkPages(draft: Draft, key: Key, totalBytes: number): Generator<RewriteStep, void> {
  const { pageSize } = key.cipher;
  demand(totalBytes % pageSize === 0, "its size");
  /** SQLite keeps the page at 1 GiB for locks: it is never written. */
  const lockPage = Math.floor(2 ** 30 / pageSize) + 1;
  const signing = hmacKey(key);
  const page = Buffer.alloc(pageSize);
  try {
    for (let pageNo = 1; pageNo * pageSize <= totalBytes; pageNo++) {
      if (pageNo !== lockPage) {
        const whole = draft.read(page, (pageNo - 1) * pageSize) === pageSize;
        demand(whole && pageIsAuthentic(page, pageNo, signing, key.cipher), `page ${pageNo}`);
      }
      const doneBytes = pageNo * pageSize;
      if (doneBytes % STRETCH_BYTES === 0) yield { phase: "checking", doneBytes, totalBytes };
    }
  } finally {
    signing.fill(0);
  }
  yield { phase: "checking", doneBytes: totalBytes, totalBytes };
}

/** A step a table, since counting the rows of a large one takes seconds. */
function* checkTables(source: Database, draft: Draft, key: Key): Generator<void> {
  const copied = new Database(draft.path, key, { mode: "readonly", immutable: true });
  try {
    for (const field of ["application_id", "user_version"]) {
      demand(copied.pragma(field) === source.pragma(`main.${field}`), field);
    }
    demand(copied.pragma("page_count") === String(draft.size / key.cipher.pageSize), "its number of pages");
    const tables = tableNames(source);
    demand(tableNames(copied).join() === tables.join(), "its tables");
    for (const table of tables) {
      demand(countRows(copied, table) === countRows(source, table), `table ${table}`);
      yield;
    }
  } finally {
    copied.close();
  }
}

function damaged(path: string, cause: SqliteError | DamageError): OpenError {
  const message = `${path}: is damaged, and cannot be copied whole (${cause.message}); nothing was changed`;
  return new OpenError("damaged", path, message, { cause });
}

/** Why it could not be done, in words for the user. */
function explain(error: unknown, path: string): unknown {
  if (error instanceof OpenError) return error;
  const unchanged = "nothing was changed";
  const code = error instanceof Error && "code" in error ? error.code : undefined;
  const full = error instanceof SqliteError ? error.isFull : code === "ENOSPC" || code === "EDQUOT";
  if (full) {
    const message = `${path}: no space left on its disk for the copy; ${unchanged}`;
    return new OpenError("no-space", path, message, { cause: error });
  }
  if (error instanceof SqliteError) {
    if (error.code === SQLITE_BUSY) {
      const message = `${path}: another process reads it; try again when that is done`;
      return new OpenError("locked", path, message, { cause: error });
    }
    if (error.isDamage) return damaged(path, error);
    return new OpenError("unreadable", path, `${path}: ${error.message}; ${unchanged}`, { cause: error });
  }
  if (typeof code === "string") {
    return new OpenError("unreadable", path, `${path}: cannot be replaced (${code}); ${unchanged}`, {
      cause: error,
    });
  }
  return error;
}
