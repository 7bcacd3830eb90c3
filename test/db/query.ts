/** Short ways to ask a database. */
import type { Database } from "../../src/db/database.ts";

/** The number in the first column of a query's first row. */
export function queryNumber(db: Database, sql: string): number {
  const row = db.prepare(sql);
  const value = row.step() ? row.int(0) : Number.NaN;
  row.reset();
  return value;
}
