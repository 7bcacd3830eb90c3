/** What a volume holds, row by row, whatever its key and however its pages lie: equal before and after a rewrite. */
import { createHash } from "node:crypto";
import { tableNames } from "../../src/db/copy.ts";
import { Database } from "../../src/db/database.ts";
import type { Key } from "../../src/db/key.ts";

/** Row counts and hashes by table, and the schema. */
export function tablesOf(path: string, key: Key): Record<string, string> {
  const db = new Database(path, key, { mode: "readwrite" });
  try {
    const found: Record<string, string> = {
      schema: hashRows(db, "sqlite_schema", ["type", "name", "tbl_name", "sql"]),
      header: `${db.pragma("application_id")} ${db.pragma("user_version")} ${db.pragma("journal_mode")}`,
    };
    for (const table of tableNames(db)) found[table] = hashRows(db, table, columnsOf(db, table));
    return found;
  } finally {
    db.close();
  }
}

function columnsOf(db: Database, table: string): string[] {
  const rows = db.prepare("SELECT name FROM pragma_table_info(?1)");
  rows.bindText(1, table);
  const names: string[] = [];
  while (rows.step()) names.push(rows.text(0));
  return names;
}

function hashRows(db: Database, table: string, columns: readonly string[]): string {
  const hash = createHash("sha256");
  const rows = db.prepare(
    `SELECT ${columns.map((column) => `quote(${column})`).join(" || ',' || ")} FROM ${table} ORDER BY ${columns.slice(0, 3).join(", ")}`,
  );
  let count = 0;
  for (; rows.step(); count++) hash.update(rows.text(0));
  return `${count} ${hash.digest("hex")}`;
}
