/**
 * The past, as this connection's own views: `inode`, `dirent`, `xattr` and `extent` become what they were in one
 * closed epoch, so that the core reads it by the same statements as the present. SQLite takes such a view apart into
 * one search of the live table and one of its twin, and merges them where an order is asked for (see D28).
 */
import { FsError } from "../base/errno.ts";
import type { Database } from "../db/database.ts";
import type { Statement } from "../db/statement.ts";
import { ReadTransaction } from "./readtransaction.ts";
import type { Epoch } from "./types.ts";

/** An inode without links belongs to no epoch. */
const VIEWS = { inode: "AND nlink > 0", dirent: "", xattr: "", extent: "" } as const;

/** Hides the live tables behind views of `epoch`, until the connection ends. Nothing can be written to them. */
function lookAt(db: Database, epoch: Epoch): void {
  for (const [table, also] of Object.entries(VIEWS)) {
    const columns = columnsOf(db, table);
    const then = `born <= ${epoch} ${also}`;
    db.exec(
      `CREATE TEMP VIEW ${table} AS SELECT ${columns} FROM main.${table} WHERE ${then}
         UNION ALL SELECT ${columns} FROM main.${table}_past WHERE died > ${epoch} AND ${then}`,
    );
    // Statements that would change the table can be prepared then; none of them is ever run.
    for (const change of ["INSERT", "UPDATE", "DELETE"])
      db.exec(
        `CREATE TEMP TRIGGER no_${change}_${table} INSTEAD OF ${change} ON ${table}
           BEGIN SELECT RAISE(ABORT, 'the past does not change'); END`,
      );
  }
}

function columnsOf(db: Database, table: string): string {
  const rows = db.prepare(`SELECT group_concat(name, ', ') FROM pragma_table_info('${table}', 'main')`);
  const columns = rows.step() ? rows.text(0) : "";
  rows.reset();
  db.release(rows);
  return columns;
}

/** Whether the volume has the table at all. */
export function hasSnapshots(db: Database): boolean {
  const row = db.prepare("SELECT 1 FROM main.sqlite_schema WHERE name = 'snapshot'");
  const found = row.step();
  row.reset();
  db.release(row);
  return found;
}

/** The closed epochs that are kept, the oldest first. */
export function keptEpochs(db: Database): Epoch[] {
  if (!hasSnapshots(db)) return [];
  const rows = db.prepare("SELECT epoch FROM snapshot WHERE name IS NOT NULL ORDER BY epoch");
  const kept: Epoch[] = [];
  while (rows.step()) kept.push(rows.int(0) as Epoch);
  db.release(rows);
  return kept;
}

/** A connection that looks at a closed epoch. */
export class PastView {
  readonly epoch: Epoch;
  readonly #db: Database;
  readonly #transaction: ReadTransaction;
  readonly #isKept: Statement;

  constructor(db: Database, epoch: Epoch) {
    this.epoch = epoch;
    this.#db = db;
    this.#transaction = new ReadTransaction(db);
    this.#isKept = db.prepare("SELECT 1 FROM snapshot WHERE epoch = ?1 AND name IS NOT NULL");
  }

  /** Hides the present, on a connection that was opened just now, also anew. */
  begin(): void {
    lookAt(this.#db, this.epoch);
  }

  /** Reads in one transaction: so the epoch is kept at its end as at its beginning. @throws FsError ESTALE where it is not */
  read<T>(read: () => T): T {
    return this.#transaction.run(() => this.#look(), read);
  }

  #look(): void {
    const isKept = this.#isKept.bindInt(1, this.epoch).step();
    this.#isKept.reset();
    if (!isKept) throw new FsError("ESTALE", "this snapshot was deleted");
  }
}
