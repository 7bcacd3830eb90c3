/** What one invariant is, and what breaks it. */
import type { Database } from "../db/database.ts";
import type { Mender } from "./mender.ts";

/** One thing that breaks an invariant. */
export interface Broken {
  /** 0 where no inode is meant. */
  readonly ino: number;
  readonly text: string;
  /** The entry that is meant. */
  readonly entry?: { readonly parent: number; readonly name: Uint8Array };
}

export interface Invariant {
  readonly kind: string;
  readonly broken: string | ((db: Database) => Iterable<Broken>);
  /** What `mend` does, for the user. */
  readonly remedy: string;
  /** SQL, or what SQL alone cannot do. */
  readonly mend: readonly string[] | ((mender: Mender) => void);
}

/** What breaks an invariant. */
export function* brokenOf(db: Database, broken: Invariant["broken"]): Generator<Broken> {
  if (typeof broken === "string") yield* rowsOf(db, broken);
  else yield* broken(db);
}

/** What a query of (ino or 0, text, parent, name) returns. */
export function* rowsOf(db: Database, sql: string): Generator<Broken> {
  const rows = db.prepare(sql);
  const found: Broken[] = [];
  while (rows.step()) {
    const entry = rows.isNull(3) ? {} : { entry: { parent: Number(rows.bigint(2)), name: rows.blob(3) } };
    found.push({ ino: Number(rows.bigint(0)), text: rows.text(1), ...entry });
  }
  db.release(rows);
  yield* found;
}
