/**
 * The C API of SQLCipher, named as in C. Nothing pleasant here: db/ makes it so.
 *
 * The engine is `node_sqlite3.node` of @journeyapps/sqlcipher, loaded as a plain shared
 * library. It must never be `require`d as well: two copies of SQLite in one process break
 * each other's POSIX locks. Pointers are BigInts; bytes pass as Uint8Array without a copy.
 */
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import koffi, { type LibraryHandle } from "koffi";

/** The engine cannot be loaded or is too old; `message` names the command that mends it. */
export class EngineError extends Error {
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "EngineError";
  }
}

export type Pointer = bigint;

export const SQLITE_OK = 0;
export const SQLITE_BUSY = 5;
export const SQLITE_CORRUPT = 11;
export const SQLITE_FULL = 13;
export const SQLITE_CANTOPEN = 14;
export const SQLITE_MISUSE = 21;
export const SQLITE_NOTADB = 26;
export const SQLITE_ROW = 100;
export const SQLITE_DONE = 101;

export const SQLITE_OPEN_READONLY = 0x01;
export const SQLITE_OPEN_READWRITE = 0x02;
export const SQLITE_OPEN_CREATE = 0x04;
export const SQLITE_OPEN_URI = 0x40;
/** One thread at a time uses a connection: SQLite takes no mutex for it. */
export const SQLITE_OPEN_NOMUTEX = 0x8000;

export const SQLITE_CHECKPOINT_PASSIVE = 0;
export const SQLITE_CHECKPOINT_TRUNCATE = 3;
export const SQLITE_PREPARE_PERSISTENT = 1;
/** Destructor argument of sqlite3_bind_blob: the bytes stay valid until the statement is rebound. */
export const SQLITE_STATIC = 0;
/** … : SQLite copies them. */
export const SQLITE_TRANSIENT = -1;

/** Path of the engine: $SQLFUSE_LIBSQLCIPHER, else the addon that npm built. */
function enginePath(): string {
  const named = process.env.SQLFUSE_LIBSQLCIPHER;
  if (named !== undefined && named !== "") return named;
  let root: string;
  try {
    root = dirname(createRequire(import.meta.url).resolve("@journeyapps/sqlcipher/package.json"));
  } catch (cause) {
    throw new EngineError("@journeyapps/sqlcipher is not installed: run `npm install`", { cause });
  }
  const path = join(root, "build", "Release", "node_sqlite3.node");
  if (!existsSync(path)) {
    throw new EngineError(
      "the database engine is not built (npm did not run its install script): " +
        `run "npm --prefix ${root} run install" (needs python3, make, g++ and OpenSSL's headers)`,
    );
  }
  return path;
}

function load() {
  const path = enginePath();
  let lib: LibraryHandle;
  try {
    lib = koffi.load(path);
  } catch (cause) {
    throw new EngineError(`the database engine ${path} cannot be loaded: ${String(cause)}`, { cause });
  }
  const hook = koffi.proto("int sqlfuse_wal_hook(void *context, void *db, const char *name, int frames)");
  return {
    path,
    hookType: koffi.pointer(hook),
    libversion: lib.func("const char *sqlite3_libversion()") as () => string,
    open_v2: lib.func("int sqlite3_open_v2(const char *, _Out_ void **, int, const char *)") as (
      path: string,
      out: [Pointer | null],
      flags: number,
      vfs: string | null,
    ) => number,
    close_v2: lib.func("int sqlite3_close_v2(void *)") as (db: Pointer) => number,
    db_readonly: lib.func("int sqlite3_db_readonly(void *, const char *)") as (
      db: Pointer,
      name: string,
    ) => number,
    key_v2: lib.func("int sqlite3_key_v2(void *, const char *, const void *, int)") as (
      db: Pointer,
      name: string,
      key: Uint8Array,
      length: number,
    ) => number,
    exec: lib.func("int sqlite3_exec(void *, const char *, void *, void *, void *)") as (
      db: Pointer,
      sql: string,
      callback: null,
      context: null,
      message: null,
    ) => number,
    errmsg: lib.func("const char *sqlite3_errmsg(void *)") as (db: Pointer) => string,
    extended_errcode: lib.func("int sqlite3_extended_errcode(void *)") as (db: Pointer) => number,
    system_errno: lib.func("int sqlite3_system_errno(void *)") as (db: Pointer) => number,
    get_autocommit: lib.func("int sqlite3_get_autocommit(void *)") as (db: Pointer) => number,
    total_changes: lib.func("int64_t sqlite3_total_changes64(void *)") as (db: Pointer) => number,
    db_cacheflush: lib.func("int sqlite3_db_cacheflush(void *)") as (db: Pointer) => number,
    changes: lib.func("int64_t sqlite3_changes64(void *)") as (db: Pointer) => number,
    busy_timeout: lib.func("int sqlite3_busy_timeout(void *, int)") as (db: Pointer, ms: number) => number,
    wal_hook: lib.func("void *sqlite3_wal_hook(void *, sqlfuse_wal_hook *, void *)") as (
      db: Pointer,
      hook: Pointer,
      context: null,
    ) => Pointer | null,
    wal_checkpoint_v2: lib.func(
      "int sqlite3_wal_checkpoint_v2(void *, const char *, int, _Out_ int *, _Out_ int *)",
    ) as (db: Pointer, name: string | null, mode: number, log: [number], done: [number]) => number,
    prepare_v3: lib.func(
      "int sqlite3_prepare_v3(void *, const char *, int, uint32_t, _Out_ void **, void *)",
    ) as (
      db: Pointer,
      sql: string,
      bytes: number,
      flags: number,
      out: [Pointer | null],
      tail: null,
    ) => number,
    finalize: lib.func("int sqlite3_finalize(void *)") as (stmt: Pointer) => number,
    step: lib.func("int sqlite3_step(void *)") as (stmt: Pointer) => number,
    reset: lib.func("int sqlite3_reset(void *)") as (stmt: Pointer) => number,
    bind_int64: lib.func("int sqlite3_bind_int64(void *, int, int64_t)") as (
      stmt: Pointer,
      index: number,
      value: number | bigint,
    ) => number,
    bind_null: lib.func("int sqlite3_bind_null(void *, int)") as (stmt: Pointer, index: number) => number,
    bind_text: lib.func("int sqlite3_bind_text(void *, int, const void *, int, intptr_t)") as (
      stmt: Pointer,
      index: number,
      value: Uint8Array,
      bytes: number,
      destructor: number,
    ) => number,
    bind_blob: lib.func("int sqlite3_bind_blob(void *, int, const void *, int, intptr_t)") as (
      stmt: Pointer,
      index: number,
      value: Uint8Array,
      bytes: number,
      destructor: number,
    ) => number,
    bind_zeroblob: lib.func("int sqlite3_bind_zeroblob(void *, int, int)") as (
      stmt: Pointer,
      index: number,
      bytes: number,
    ) => number,
    column_int64: lib.func("int64_t sqlite3_column_int64(void *, int)") as (
      stmt: Pointer,
      column: number,
    ) => number | bigint,
    column_type: lib.func("int sqlite3_column_type(void *, int)") as (
      stmt: Pointer,
      column: number,
    ) => number,
    column_text: lib.func("const char *sqlite3_column_text(void *, int)") as (
      stmt: Pointer,
      column: number,
    ) => string | null,
    column_blob: lib.func("void *sqlite3_column_blob(void *, int)") as (
      stmt: Pointer,
      column: number,
    ) => Pointer | null,
    column_bytes: lib.func("int sqlite3_column_bytes(void *, int)") as (
      stmt: Pointer,
      column: number,
    ) => number,
    /** libc's memcpy, found in the same process: SQLite's memory straight into a buffer of ours. */
    memcpy: koffi.load(null).func("void *memcpy(void *, const void *, size_t)") as (
      into: Uint8Array,
      from: Pointer,
      bytes: number,
    ) => Pointer,
  };
}

type Api = ReturnType<typeof load>;
let loaded: Api | undefined;

/** The loaded engine. @throws EngineError */
export function sqlite3(): Api {
  loaded ??= load();
  return loaded;
}

/** Makes a C function for sqlite3_wal_hook, which passes the frames in the -wal after each commit. */
export function registerWalHook(committed: (frames: number) => void): Pointer {
  const hook = (_context: Pointer, _db: Pointer, _name: string, frames: number): number => {
    committed(frames);
    return SQLITE_OK;
  };
  return koffi.register(hook, sqlite3().hookType);
}

export function unregisterWalHook(hook: Pointer): void {
  koffi.unregister(hook);
}
