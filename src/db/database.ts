/**
 * One connection to a SQLCipher database, synchronous.
 *
 * The connection belongs to the thread that opened it. While it is open nobody else in
 * the process may open and close the file: that would drop SQLite's POSIX locks.
 */
import {
  EngineError,
  type Pointer,
  registerWalHook,
  SQLITE_CANTOPEN,
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
  unregisterWalHook,
} from "../native/sqlite3.ts";
import { closedError, SqliteError } from "./errors.ts";
import { Key, SALT_BYTES, STOCK_CIPHER } from "./key.ts";
import { Statement } from "./statement.ts";
import { FRAME_HEADER_BYTES, WAL_HEADER_BYTES } from "./wal.ts";

export interface DatabaseOptions {
  /** "copier": reads, and copies the -wal of one who writes. */
  readonly mode: "create" | "readwrite" | "readonly" | "copier";
  /** The file cannot change while it is open and has no -wal: read it without locks and without a -shm. */
  readonly immutable?: boolean;
  /**
   * Nobody else has it open: a -wal is read without locks and without a -shm, so that a read-only connection
   * leaves nothing behind, and works where nothing can be written.
   */
  readonly alone?: boolean;
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
  if (difference < 0)
    throw new EngineError(`SQLite ${version} is too old: ${OLDEST_SQLITE.join(".")} is needed`);
  if (!cipher.startsWith("4.")) throw new EngineError(`SQLCipher 4 is needed, found: ${cipher || "none"}`);
  gated = true;
}

/** Versions of the engine, for people. @throws EngineError */
export function engineVersions(): { readonly cipher: string; readonly sqlite: string } {
  const key = Key.derive(Buffer.alloc(1), Buffer.alloc(SALT_BYTES), STOCK_CIPHER, 1);
  const db = new Database(":memory:", key, { mode: "create" });
  try {
    return { cipher: db.pragma("cipher_version") ?? "", sqlite: sqlite3().libversion() };
  } finally {
    db.close();
  }
}

export class Database {
  readonly path: string;
  readonly #api = sqlite3();
  readonly #key: Key;
  readonly #options: DatabaseOptions;
  #pointer: Pointer = 0n;
  readonly #statements: Statement[] = [];
  #walFrames = 0;
  #walCopied = true;
  #walHook: Pointer | undefined;

  /**
   * Opens and keys the file; nothing is read yet, so a wrong key shows at the first statement.
   * `key` is kept for `reopen`: wipe it after `close`.
   */
  constructor(path: string, key: Key, options: DatabaseOptions) {
    this.path = path;
    this.#key = key;
    this.#options = options;
    this.#connect();
  }

  #connect(): void {
    const { mode, immutable, alone, cacheBytes } = this.#options;
    const out: [Pointer | null] = [null];
    const access = {
      create: SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE,
      readwrite: SQLITE_OPEN_READWRITE,
      readonly: SQLITE_OPEN_READONLY,
      copier: SQLITE_OPEN_READWRITE,
    }[mode];
    const name = encodeURI(this.path).replace(/[?#]/g, encodeURIComponent);
    const how = immutable === true ? "?immutable=1" : alone === true ? "?vfs=unix-none" : "";
    const uri = `file:${name}${how}`;
    const code = this.#api.open_v2(uri, out, access | SQLITE_OPEN_URI | SQLITE_OPEN_NOMUTEX, null);
    if (out[0] === null) throw new SqliteError("cannot open", code, 0, this.path);
    this.#pointer = out[0];
    try {
      if (code !== SQLITE_OK) throw this.error(`open ${this.path}`);
      // SQLite opens for reading what it could not open for writing, whatever the reason was.
      if (mode !== "readonly" && this.#api.db_readonly(this.#pointer, "main") === 1)
        throw new SqliteError("cannot be opened for writing", SQLITE_CANTOPEN, 0, this.path);
      // Damage is told in our own words; this is SQLCipher's log on stderr.
      this.exec("PRAGMA cipher_log_level = NONE");
      const literal = this.#key.rawKeyLiteral();
      try {
        if (this.#api.key_v2(this.#pointer, "main", literal, literal.length) !== SQLITE_OK)
          throw this.error("key");
      } finally {
        literal.fill(0);
      }
      gate(this);
      this.exec(`PRAGMA cipher_page_size = ${this.#key.cipher.pageSize}`);
      this.exec(`PRAGMA cipher_hmac_algorithm = ${this.#key.cipher.hmac}`);
      // Without locks the index of the -wal must be this connection's own memory.
      if (alone === true) this.exec("PRAGMA locking_mode = EXCLUSIVE");
      if (mode === "copier") this.exec("PRAGMA query_only = ON; PRAGMA synchronous = FULL");
      else if (mode !== "readonly") this.#watchWal();
      if (cacheBytes !== undefined) this.exec(`PRAGMA cache_size = -${Math.ceil(cacheBytes / 1024)}`);
    } catch (error) {
      this.#disconnect();
      throw error;
    }
  }

  /** Takes the place of SQLite's own hook, which would checkpoint in the middle of a commit. */
  #watchWal(): void {
    this.#walHook ??= registerWalHook((frames) => {
      this.#walFrames = frames;
      this.#walCopied = false;
    });
    this.#api.wal_hook(this.#pointer, this.#walHook, null);
  }

  /**
   * A fresh connection under the same statements: SQLCipher fails every call after one
   * page with a wrong HMAC. An open transaction is lost; pragmas are the caller's to repeat.
   * When it fails the connection is closed: statements throw until another `reopen` succeeds.
   * @throws SqliteError
   */
  reopen(): void {
    this.#disconnect();
    this.#connect();
    try {
      for (const statement of this.#statements) statement.attach(this.#prepare(statement.sql));
    } catch (error) {
      this.#disconnect();
      throw error;
    }
  }

  /**
   * Whether a page with a wrong HMAC was met: it read as zeros, and every later call fails. Asked
   * afresh, since SQLCipher answers its pragmas when they are prepared (1.5 us).
   */
  get isPoisoned(): boolean {
    return this.#pointer !== 0n && this.pragma("cipher_status") === "0";
  }

  /** Whether the connection is there: false after a `reopen` that failed. */
  get isOpen(): boolean {
    return this.#pointer !== 0n;
  }

  #disconnect(): void {
    if (this.#pointer === 0n) return;
    for (const statement of this.#statements) statement.finalize();
    this.#api.close_v2(this.#pointer);
    this.#pointer = 0n;
  }

  /** Prepares once, for the life of the connection. @throws SqliteError */
  prepare(sql: string): Statement {
    const statement = new Statement(this, this.#prepare(sql), sql);
    this.#statements.push(statement);
    return statement;
  }

  /** Ends the life of a statement that `prepare` made. */
  release(statement: Statement): void {
    const at = this.#statements.lastIndexOf(statement);
    if (at >= 0) this.#statements.splice(at, 1);
    statement.finalize();
  }

  #prepare(sql: string, flags = SQLITE_PREPARE_PERSISTENT): Pointer {
    if (this.#pointer === 0n) throw closedError(sql);
    const out: [Pointer | null] = [null];
    const code = this.#api.prepare_v3(this.#pointer, sql, -1, flags, out, null);
    if (code !== SQLITE_OK || out[0] === null) throw this.error(sql);
    return out[0];
  }

  /** Runs statements without parameters and rows. @throws SqliteError */
  exec(sql: string): void {
    if (this.#pointer === 0n) throw closedError(sql);
    if (this.#api.exec(this.#pointer, sql, null, null, null) !== SQLITE_OK) throw this.error(sql);
  }

  /** The first column of a pragma's first row. */
  pragma(name: string): string | undefined {
    const sql = `PRAGMA ${name}`;
    const statement = new Statement(this, this.#prepare(sql, 0), sql);
    try {
      return statement.step() ? statement.text(0) : undefined;
    } finally {
      statement.finalize();
    }
  }

  /**
   * Opens a second file on this connection, as the schema `name`, so that one statement reaches both. It exists, and is
   * empty or opens with `key`, which is not kept: a `reopen` loses it.
   * @throws SqliteError
   */
  attach(name: string, path: string, key: Key): void {
    const literal = key.rawKeyLiteral();
    const sql = `ATTACH ?1 AS ${name} KEY ?2`;
    const statement = new Statement(this, this.#prepare(sql, 0), sql);
    try {
      statement.bindText(1, path).bindBlob(2, literal).run();
    } finally {
      statement.finalize();
      literal.fill(0);
    }
    this.exec(`PRAGMA ${name}.cipher_page_size = ${key.cipher.pageSize}`);
    this.exec(`PRAGMA ${name}.cipher_hmac_algorithm = ${key.cipher.hmac}`);
  }

  /** Whether no transaction is open: also true after an error that rolled the open one back. */
  get autocommit(): boolean {
    return this.#pointer === 0n || this.#api.get_autocommit(this.#pointer) !== 0;
  }

  /** Rows changed since the connection was opened. */
  get totalChanges(): number {
    return this.#pointer === 0n ? 0 : this.#api.total_changes(this.#pointer);
  }

  /** Writes the pages that the open transaction changed to the -wal, except those in use: COMMIT need not then. @throws SqliteError */
  spill(): void {
    if (this.#pointer === 0n) throw closedError("spill");
    if (this.#api.db_cacheflush(this.#pointer) !== SQLITE_OK) throw this.error("spill");
  }

  /** Rows that the last INSERT, UPDATE or DELETE changed. */
  get changes(): number {
    return this.#api.changes(this.#pointer);
  }

  /** Bytes. */
  get pageSize(): number {
    return this.#key.cipher.pageSize;
  }

  /** Frames in the -wal after the last commit, as far as this connection made them. */
  get walFrames(): number {
    return this.#walFrames;
  }

  /** Bytes of the -wal up to the end of the last commit, as far as this connection made it. */
  get walBytes(): number {
    return WAL_HEADER_BYTES + this.#walFrames * (FRAME_HEADER_BYTES + this.#key.cipher.pageSize);
  }

  /** Whether all of the -wal is copied to the main file, so that the next commit starts it over. */
  get walCopied(): boolean {
    return this.#walCopied;
  }

  /**
   * Copies what it can of the -wal to the main file without waiting for anybody: the frames that are copied now.
   * @throws SqliteError, SQLITE_BUSY while somebody else copies
   */
  checkpointPassive(): number {
    return this.#checkpoint(SQLITE_CHECKPOINT_PASSIVE);
  }

  /** Copies all of the -wal and cuts it to zero bytes. @throws SqliteError (SQLITE_BUSY where somebody reads) */
  checkpointTruncate(): void {
    this.#checkpoint(SQLITE_CHECKPOINT_TRUNCATE);
    this.#walFrames = 0;
  }

  #checkpoint(mode: number): number {
    if (this.#pointer === 0n) throw closedError("checkpoint");
    const frames: [number] = [0];
    const copied: [number] = [0];
    const code = this.#api.wal_checkpoint_v2(this.#pointer, null, mode, frames, copied);
    if (code !== SQLITE_OK) throw this.error("checkpoint");
    this.#walCopied = frames[0] === copied[0];
    return copied[0];
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

  /** Ends a transaction without its changes, if one is open. */
  rollBack(): void {
    try {
      if (!this.autocommit) this.exec("ROLLBACK");
    } catch {
      // Closing the connection rolls back as well.
    }
  }

  close(): void {
    this.#disconnect();
    this.#statements.length = 0;
    if (this.#walHook !== undefined) unregisterWalHook(this.#walHook);
    this.#walHook = undefined;
  }
}
