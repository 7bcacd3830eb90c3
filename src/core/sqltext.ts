/**
 * A database as SQL text that makes it anew: what the sqlite3 shell's .dump does, for the tables that schema.sql
 * describes. Rows come in the order of their keys, so that the text of equal databases is equal.
 */
import { DamageError } from "../base/errno.ts";
import type { Database } from "../db/database.ts";
import { SqliteError } from "../db/errors.ts";
import type { Statement } from "../db/statement.ts";

/** A text is given out when it has about this many characters. */
const PIECE = 256 * 1024;

/**
 * The text in pieces; runs inside one read transaction of the caller, or nobody writes.
 * @throws DamageError
 */
export function* sqlText(db: Database): Generator<Buffer> {
  try {
    for (const piece of pieces(db)) {
      // A damaged page reads as zeros in a blob that spills over pages: the connection knows.
      if (db.isPoisoned) throw new DamageError("a page has a wrong HMAC");
      yield piece;
    }
  } catch (error) {
    if (!(error instanceof SqliteError) || !(error.isDamage || db.isPoisoned)) throw error;
    throw new DamageError(error.message, { cause: error });
  }
}

function* pieces(db: Database): Generator<Buffer> {
  const pragma = (name: string) => `PRAGMA ${name} = ${Number(db.pragma(name))};\n`;
  yield Buffer.from(`${pragma("application_id")}${pragma("user_version")}BEGIN;\n`);
  // sqlite_stat tables and the like are the engine's own.
  const own = "sql IS NOT NULL AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'";
  const tables = texts(
    db,
    `SELECT name, sql FROM sqlite_schema WHERE type = 'table' AND ${own} ORDER BY name`,
  );
  for (const [name, sql] of tables) {
    yield Buffer.from(`${sql};\n`);
    yield* rowsOf(db, name);
  }
  // Indexes behind the rows: making them then is faster than keeping them.
  const others = texts(
    db,
    `SELECT name, sql FROM sqlite_schema WHERE type <> 'table' AND ${own} ORDER BY name`,
  );
  for (const [, sql] of others) yield Buffer.from(`${sql};\n`);
  yield Buffer.from("COMMIT;\n");
}

function texts(db: Database, sql: string): [string, string][] {
  const rows = db.prepare(sql);
  const found: [string, string][] = [];
  while (rows.step()) found.push([rows.text(0), rows.text(1)]);
  return found;
}

function* rowsOf(db: Database, table: string): Generator<Buffer> {
  const columns = texts(db, `SELECT name, pk FROM pragma_table_info('${table}') ORDER BY cid`);
  const key = columns.filter(([, pk]) => pk !== "0").sort(([, a], [, b]) => Number(a) - Number(b));
  const names = columns.map(([name]) => name);
  const order = key.map(([name]) => name).join(", ");
  const rows = db.prepare(
    `SELECT ${names.map((name) => `${name}, typeof(${name})`).join(", ")} FROM ${table} ORDER BY ${order}`,
  );
  const insert = `INSERT INTO ${table} (${names.join(", ")}) VALUES(`;
  let piece: string[] = [];
  let length = 0;
  try {
    while (rows.step()) {
      const values = names.map((_, i) => literal(rows, 2 * i));
      const line = `${insert}${values.join(",")});\n`;
      piece.push(line);
      length += line.length;
      if (length < PIECE) continue;
      yield Buffer.from(piece.join(""));
      piece = [];
      length = 0;
    }
  } finally {
    rows.reset();
  }
  yield Buffer.from(piece.join(""));
}

/** The value of a column, followed by its type, as SQL. */
function literal(row: Statement, column: number): string {
  switch (row.text(column + 1)) {
    case "null":
      return "NULL";
    case "integer":
      return String(row.bigint(column));
    case "blob":
      return `X'${Buffer.from(row.blob(column)).toString("hex")}'`;
    default:
      return `'${row.text(column).replaceAll("'", "''")}'`;
  }
}
