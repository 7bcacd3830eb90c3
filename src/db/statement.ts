/**
 * One prepared statement.
 *
 * Use: bind every parameter, `step` until it answers false, or `reset` when you stop
 * early. `step` resets by itself at the end and on an error, so a statement is never
 * left open across a commit. Blobs are bound where they are, without a copy: a bound
 * buffer must stay as it is until the step is over.
 */

import { DamageError } from "../base/errno.ts";
import {
  type Pointer,
  SQLITE_DONE,
  SQLITE_OK,
  SQLITE_ROW,
  SQLITE_STATIC,
  SQLITE_TRANSIENT,
  sqlite3,
} from "../native/sqlite3.ts";
import type { Database } from "./database.ts";
import { closedError } from "./errors.ts";

const EMPTY = new Uint8Array(0);

export class Statement {
  readonly sql: string;
  readonly #db: Database;
  #pointer: Pointer;
  /** Bound buffers, so that they live until the statement has stepped. */
  readonly #bound: Uint8Array[] = [];
  /** False while its connection is closed: the pointer then leads nowhere. */
  #live = true;
  readonly #api = sqlite3();

  /** Only Database makes statements. */
  constructor(db: Database, pointer: Pointer, sql: string) {
    this.#db = db;
    this.#pointer = pointer;
    this.sql = sql;
  }

  /** `index` counts from 1; `value` is a safe integer. */
  bindInt(index: number, value: number): this {
    if (!Number.isSafeInteger(value)) throw new RangeError(`not a safe integer: ${value} in: ${this.sql}`);
    this.#check(this.#api.bind_int64(this.#open(), index, value));
    return this;
  }

  bindBigInt(index: number, value: bigint): this {
    this.#check(this.#api.bind_int64(this.#open(), index, value));
    return this;
  }

  bindNull(index: number): this {
    this.#check(this.#api.bind_null(this.#open(), index));
    return this;
  }

  bindText(index: number, value: string): this {
    // Copied: the buffer is nobody's after this. One byte more, since an empty array has no pointer.
    const bytes = Buffer.from(`${value}\0`, "utf8");
    this.#check(this.#api.bind_text(this.#open(), index, bytes, bytes.length - 1, SQLITE_TRANSIENT));
    return this;
  }

  bindBlob(index: number, value: Uint8Array): this {
    // A null pointer would bind NULL, and an empty array has no pointer.
    this.#bound[index] = value;
    if (value.length === 0) this.#check(this.#api.bind_zeroblob(this.#open(), index, 0));
    else this.#check(this.#api.bind_blob(this.#open(), index, value, value.length, SQLITE_STATIC));
    return this;
  }

  /** Advances to the next row; false, and reset, when there is none. @throws SqliteError */
  step(): boolean {
    if (!this.#live) throw closedError(this.sql);
    const code = this.#api.step(this.#pointer);
    if (code === SQLITE_ROW) return true;
    if (code === SQLITE_DONE) {
      this.#api.reset(this.#pointer);
      return false;
    }
    const error = this.#db.error(this.sql);
    this.#api.reset(this.#pointer);
    throw error;
  }

  /** Runs a statement that returns no rows. @throws SqliteError */
  run(): void {
    if (this.step()) this.reset();
  }

  reset(): void {
    if (this.#live) this.#api.reset(this.#pointer);
  }

  /** A column as a safe integer; columns count from 0. */
  int(column: number): number {
    const value = this.#api.column_int64(this.#pointer, column);
    if (typeof value !== "number") throw new DamageError(`${value} cannot be, from: ${this.sql}`);
    return value;
  }

  bigint(column: number): bigint {
    return BigInt(this.#api.column_int64(this.#pointer, column));
  }

  text(column: number): string {
    return this.#api.column_text(this.#pointer, column) ?? "";
  }

  isNull(column: number): boolean {
    const SQLITE_NULL = 5;
    return this.#api.column_type(this.#pointer, column) === SQLITE_NULL;
  }

  /** Bytes in a blob column. */
  blobLength(column: number): number {
    return this.#api.column_bytes(this.#pointer, column);
  }

  /** A blob column, copied. */
  blob(column: number): Uint8Array {
    const from = this.#api.column_blob(this.#pointer, column);
    const length = this.#api.column_bytes(this.#pointer, column);
    if (from === null || length === 0) return EMPTY;
    const bytes = new Uint8Array(length);
    this.#api.memcpy(bytes, from, length);
    return bytes;
  }

  /** Reads all pages of a blob column without copying it. */
  loadBlob(column: number): void {
    this.#api.column_blob(this.#pointer, column);
  }

  /** Copies `length` bytes of a blob column, from byte `from`, to the start of `into`: the one copy they get. */
  blobInto(column: number, from: number, length: number, into: Uint8Array): void {
    if (length <= 0) return;
    const pointer = this.#api.column_blob(this.#pointer, column);
    const have = this.#api.column_bytes(this.#pointer, column);
    if (pointer === null || from < 0 || from + length > have || length > into.length) {
      throw new RangeError(
        `blob of ${have} bytes has no ${length} at ${from} for ${into.length}: ${this.sql}`,
      );
    }
    this.#api.memcpy(into, pointer + BigInt(from), length);
  }

  /** Only Database calls this. */
  finalize(): void {
    if (this.#live) this.#api.finalize(this.#pointer);
    this.#live = false;
    // Columns of no statement are NULL.
    this.#pointer = 0n;
  }

  /** Only Database calls this: the same SQL, prepared again on a reopened connection. */
  attach(pointer: Pointer): void {
    this.#pointer = pointer;
    this.#live = true;
  }

  #check(code: number): void {
    if (code !== SQLITE_OK) throw this.#db.error(this.sql);
  }

  /** The C statement, to bind to. @throws SqliteError where the connection is closed */
  #open(): Pointer {
    if (!this.#live) throw closedError(this.sql);
    return this.#pointer;
  }
}
