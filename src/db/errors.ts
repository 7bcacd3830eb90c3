/**
 * What the engine says when a call fails: SQLite's extended code, the errno of the
 * system call behind it (ENOSPC comes back as SQLITE_FULL or as SQLITE_IOERR), the SQL.
 */
import { SQLITE_CORRUPT, SQLITE_FULL, SQLITE_MISUSE, SQLITE_NOTADB } from "../native/sqlite3.ts";

export class SqliteError extends Error {
  /** Primary result code, SQLITE_*. */
  readonly code: number;
  readonly extendedCode: number;
  /** errno of the failed system call, 0 where none failed. */
  readonly systemErrno: number;
  readonly sql: string;

  constructor(message: string, extendedCode: number, systemErrno: number, sql: string) {
    const errno = systemErrno === 0 ? "" : `, errno ${systemErrno}`;
    super(`${message} (code ${extendedCode}${errno}) in: ${sql}`);
    this.name = "SqliteError";
    this.code = extendedCode & 0xff;
    this.extendedCode = extendedCode;
    this.systemErrno = systemErrno;
    this.sql = sql;
  }

  /** Stored bytes are not what was written: a wrong HMAC or a broken b-tree. */
  get isDamage(): boolean {
    return this.code === SQLITE_CORRUPT || this.code === SQLITE_NOTADB;
  }

  get isFull(): boolean {
    const ENOSPC = 28;
    const EDQUOT = 122;
    return this.code === SQLITE_FULL || this.systemErrno === ENOSPC || this.systemErrno === EDQUOT;
  }
}

/** What a statement says whose connection is closed, or could not be opened anew. */
export function closedError(sql: string): SqliteError {
  return new SqliteError("the connection is closed", SQLITE_MISUSE, 0, sql);
}
