/**
 * One connection to a SQLCipher database, synchronous.
 *
 * The connection belongs to the thread that opened it. While it is open nobody else in
 * the process may open and close the file: that would drop SQLite's POSIX locks.
 */
import {
  EngineError,
  type Pointer,
  SQLITE_CHECKPOINT_NOOP,
  SQLITE_CHECKPOINT_PASSIVE,
  SQLITE_CHECKPOINT_TRUNCATE,
  SQLITE_OK,
  SQLITE_OPEN_CREATE,
  SQLITE_OPEN_NOMUTEX,
  SQLITE_OPEN_READONLY,
  SQLITE_OPEN_READWRITE,
  SQLITE_OPEN_URI,
  SQLITE_PREPARE_PERSISTENT,
  sqlite3,
} from "../native/sqlite3.ts";
import { SqliteError } from "./errors.ts";
import type { Key } from "./key.ts";
import { Statement } from "./statement.ts";

export interface DatabaseOptions {
  readonly mode: "create" | "readwrite" | "readonly";
  /** The file cannot change while it is open and has no -wal: read it without locks and without a -shm. */
  readonly immutable?: boolean;
  /** Bytes of page cache. */
  readonly cacheBytes?: number;
}

/** SQLite before this loses committed transactions when two connections checkpoint at once. */
const OLDEST_SQLITE = [3, 51, 3];

let gated = false;

/** Refuses an engine that is too old or does not encrypt. Once per process. @throws EngineError */
function gate(db: Database): void {
  if (gated) return;
  const version = sqlite3().libversion();
  const parts = version.split(".").map(Number);
  const difference = OLDEST_SQLITE.map((oldest, i) => (parts[i] ?? 0) - oldest).find((d) => d !== 0) ?? 0;
  const cipher = db.pragma("cipher_version") ?? "";
  if (difference < 0) throw new EngineError(`SQLite ${version} is too old: ${OLDEST_SQLITE.join(".")} is needed`);
  if (!cipher.startsWith("4.")) throw new EngineError(`SQLCipher 4 is needed, found: ${cipher || "none"}`);
  gated = true;
}

export class Database {
  readonly path: string;
  readonly #api = sqlite3();
  #pointer: Pointer;
  readonly #statements: Statement[] = [];
  #open = true;

  /** Opens and keys the file; nothing is read yet, so a wrong key shows at the first statement. */
  constructor(path: string, key: Key, options: DatabaseOptions) {
    this.path = path;
    const out: [Pointer | null] = [null];
    const access = {
      create: SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE,
      readwrite: SQLITE_OPEN_READWRITE,
      readonly: SQLITE_OPEN_READONLY,
    }[options.mode];
    const uri = `file:${encodeURI(path).replace(/[?#]/g, encodeURIComponent)}${options.immutable ? "?immutable=1" : ""}`;
    const code = this.#api.open_v2(uri, out, access | SQLITE_OPEN_URI | SQLITE_OPEN_NOMUTEX, null);
    if (out[0] === null) throw new SqliteError("cannot open", code, 0, path);
    this.#pointer = out[0];
    try {
      if (code !== SQLITE_OK) throw this.error(`open ${path}`);
      const literal = key.rawKeyLiteral();
      try {
        if (this.#api.key_v2(this.#pointer, "main", literal, literal.length) !== SQLITE_OK) throw this.error("key");
      } finally {
        literal.fill(0);
      }
      gate(this);
      this.exec(`PRAGMA cipher_page_size = ${key.cipher.pageSize}`);
      this.exec(`PRAGMA cipher_hmac_algorithm = ${key.cipher.hmac}`);
      if (options.cacheBytes !== undefined) {
        this.exec(`PRAGMA cache_size = -${Math.ceil(options.cacheBytes / 1024)}`);
      }
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /** Prepares once, for the life of the connection. @throws SqliteError */
  prepare(sql: string): Statement {
    const out: [Pointer | null] = [null];
    const code = this.#api.prepare_v3(this.#pointer, sql, -1, SQLITE_PREPARE_PERSISTENT, out, null);
    if (code !== SQLITE_OK || out[0] === null) throw this.error(sql);
    const statement = new Statement(this, out[0], sql);
    this.#statements.push(statement);
    return statement;
  }

  /** Runs statements without parameters and rows. @throws SqliteError */
  exec(sql: string): void {
    if (this.#api.exec(this.#pointer, sql, null, null, null) !== SQLITE_OK) throw this.error(sql);
  }

  /** The first column of a pragma's first row. */
  pragma(name: string): string | undefined {
    const out: [Pointer | null] = [null];
    const sql = `PRAGMA ${name}`;
    const code = this.#api.prepare_v3(this.#pointer, sql, -1, 0, out, null);
    if (code !== SQLITE_OK || out[0] === null) throw this.error(sql);
    const statement = new Statement(this, out[0], sql);
    try {
      return statement.step() ? statement.text(0) : undefined;
    } finally {
      statement.finalize();
    }
  }

  /** Whether no transaction is open: also true after an error that rolled the open one back. */
  get autocommit(): boolean {
    return this.#api.get_autocommit(this.#pointer) !== 0;
  }

  /** Rows changed since the connection was opened. */
  get totalChanges(): number {
    return this.#api.total_changes(this.#pointer);
  }

  /** Rows that the last INSERT, UPDATE or DELETE changed. */
  get changes(): number {
    return this.#api.changes(this.#pointer);
  }

  /** Frames in the -wal: all, and those already copied to the main file. */
  walFrames(): { frames: number; copied: number } {
    return this.#checkpoint(SQLITE_CHECKPOINT_NOOP);
  }

  /** Copies what it can of the -wal to the main file without waiting for anybody. */
  checkpointPassive(): { frames: number; copied: number } {
    return this.#checkpoint(SQLITE_CHECKPOINT_PASSIVE);
  }

  /** Copies all of the -wal and cuts it to zero bytes. @throws SqliteError (SQLITE_BUSY where somebody reads) */
  checkpointTruncate(): void {
    this.#checkpoint(SQLITE_CHECKPOINT_TRUNCATE);
  }

  #checkpoint(mode: number): { frames: number; copied: number } {
    const frames: [number] = [0];
    const copied: [number] = [0];
    const code = this.#api.wal_checkpoint_v2(this.#pointer, null, mode, frames, copied);
    if (code !== SQLITE_OK) throw this.error("checkpoint");
    return { frames: Math.max(0, frames[0]), copied: Math.max(0, copied[0]) };
  }

  /** The error of the call that just failed. */
  error(sql: string): SqliteError {
    return new SqliteError(
      this.#api.errmsg(this.#pointer),
      this.#api.extended_errcode(this.#pointer),
      this.#api.system_errno(this.#pointer),
      sql,
    );
  }

  /** Ends every statement that is under way, as after an exception in the middle of one. */
  resetAll(): void {
    for (const statement of this.#statements) statement.reset();
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    for (const statement of this.#statements) statement.finalize();
    this.#statements.length = 0;
    this.#api.close_v2(this.#pointer);
  }
}
