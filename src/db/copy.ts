/**
 * Copies a whole database into another file, under another key if need be: compact, in order, and with nothing of
 * the free list. It knows no table by name, so it copies formats that it has never heard of.
 *
 * The copy has no journal and is not synced: it is worth nothing before the caller has checked and synced it, and is
 * thrown away when anything stops this. One step takes a fraction of a second and little memory.
 */
import { SQLITE_CORRUPT } from "../native/sqlite3.ts";
import type { Database } from "./database.ts";
import { SqliteError } from "./errors.ts";
import type { Key } from "./key.ts";

/** Rows of file data in one step. */
const STEP_ROWS = 128;
const CACHE_KIB = 16 * 1024;
/** The schema name of the copy. */
const COPY = "copy";

/** Another way to copy the rows of one table. */
export interface RowCopy {
  readonly table: string;
  /** Copies them into the schema `copy`; yields the bytes by which the copy is smaller, since the step before. */
  copy(source: Database, copy: string): Generator<number, void>;
}

interface SchemaObject {
  readonly type: string;
  readonly name: string;
  readonly sql: string;
}

/**
 * Copies all of `source`, which nobody else may change meanwhile, into the empty file `path`. Yields the bytes
 * copied so far. When it is stopped early, `source` must be closed before the file is removed.
 * @throws SqliteError, and what `special` throws
 */
export function* copyDatabase(
  source: Database,
  path: string,
  key: Key,
  special?: RowCopy,
): Generator<number, void> {
  source.attach(COPY, path, key);
  const { pageSize } = key.cipher;
  source.exec(`PRAGMA ${COPY}.page_size = ${pageSize}`);
  source.exec(`PRAGMA ${COPY}.auto_vacuum = NONE`);
  source.exec(`PRAGMA ${COPY}.journal_mode = OFF`);
  source.exec(`PRAGMA ${COPY}.synchronous = OFF`);
  for (const schema of ["main", COPY]) source.exec(`PRAGMA ${schema}.cache_size = -${CACHE_KIB}`);
  for (const field of ["application_id", "user_version"]) {
    source.exec(`PRAGMA ${COPY}.${field} = ${source.pragma(`main.${field}`) ?? 0}`);
  }
  const objects = schemaObjects(source);
  source.exec("BEGIN");
  // Indexes come before the rows: into an empty table that has the same ones, SQLite copies whole b-trees in order,
  // tables and indexes alike, where building an index afterwards would sort all of it in memory.
  for (const type of ["table", "index"]) makeAll(source, objects, type);
  let savedBytes = 0;
  for (const table of tableNames(source)) {
    const rows = table === special?.table ? special.copy(source, COPY) : copyRows(source, table);
    for (const saved of rows) {
      refuseDamage(source);
      savedBytes += saved;
      yield Number(source.pragma(`${COPY}.page_count`)) * pageSize + savedBytes;
    }
  }
  for (const type of ["view", "trigger"]) makeAll(source, objects, type);
  source.exec("COMMIT");
  source.pragma(`${COPY}.journal_mode = WAL`); // it is kept in the file
  source.exec(`DETACH ${COPY}`);
}

/**
 * A page with a wrong HMAC is read as zeros, and where these are the end of a blob the statement that met it
 * succeeds: only SQLCipher itself then knows.
 * @throws SqliteError that `isDamage`
 */
function refuseDamage(source: Database): void {
  if (source.isPoisoned)
    throw new SqliteError("a page is not what was written", SQLITE_CORRUPT, 0, "PRAGMA cipher_status");
}

/** The tables of a database, without SQLite's own. */
export function tableNames(db: Database): string[] {
  return schemaObjects(db)
    .filter(({ type }) => type === "table")
    .map(({ name }) => name);
}

/** Rows in a table. */
export function countRows(db: Database, table: string): number {
  const count = db.prepare(`SELECT count(*) FROM main.${quoted(table)}`);
  const rows = count.step() ? count.int(0) : 0;
  count.reset();
  return rows;
}

function schemaObjects(db: Database): SchemaObject[] {
  const rows = db.prepare(
    "SELECT type, name, sql FROM main.sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY rowid",
  );
  const objects: SchemaObject[] = [];
  while (rows.step()) objects.push({ type: rows.text(0), name: rows.text(1), sql: rows.text(2) });
  return objects;
}

function makeAll(db: Database, objects: readonly SchemaObject[], type: string): void {
  for (const { sql } of objects.filter((object) => object.type === type)) {
    // SQLite stores the statement with its first words in this form, whatever form they were given in.
    db.exec(sql.replace(/^CREATE (UNIQUE )?(TABLE|INDEX|VIEW|TRIGGER) /, `CREATE $1$2 ${COPY}.`));
  }
}

function* copyRows(db: Database, table: string): Generator<number> {
  const all = `INSERT INTO ${COPY}.${quoted(table)} SELECT * FROM main.${quoted(table)}`;
  if (!holdsData(db, table)) {
    db.exec(all);
    yield 0;
    return;
  }
  const bound = db.prepare(
    `SELECT rowid FROM main.${quoted(table)} WHERE rowid > ?1 ORDER BY rowid LIMIT 1 OFFSET ${STEP_ROWS - 1}`,
  );
  const step = db.prepare(`${all} WHERE rowid > ?1 AND rowid <= ?2`);
  for (let from = Number.MIN_SAFE_INTEGER; from < Number.MAX_SAFE_INTEGER; ) {
    const to = bound.bindInt(1, from).step() ? bound.int(0) : Number.MAX_SAFE_INTEGER;
    bound.reset();
    step.bindInt(1, from).bindInt(2, to).run();
    from = to;
    yield 0;
  }
}

/**
 * Whether a table is copied in steps: one with a rowid and without an index, as the one with the file data. All
 * others are small beside it, and go in one statement that copies two million rows a second.
 */
function holdsData(db: Database, table: string): boolean {
  const row = db.prepare(
    `SELECT wr OR EXISTS (SELECT 1 FROM pragma_index_list(?1, 'main')) FROM pragma_table_list(?1) WHERE schema = 'main'`,
  );
  row.bindText(1, table);
  const indexed = !row.step() || row.int(0) !== 0;
  row.reset();
  return !indexed;
}

function quoted(name: string): string {
  return `"${name.replaceAll('"', '""')}"`;
}
