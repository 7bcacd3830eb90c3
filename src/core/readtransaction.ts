/** Reads of a connection that others write beside, each in one transaction: so it sees one state. */
import type { Database } from "../db/database.ts";
import type { Statement } from "../db/statement.ts";

export class ReadTransaction {
  readonly #db: Database;
  readonly #begin: Statement;
  readonly #commit: Statement;

  constructor(db: Database) {
    this.#db = db;
    this.#begin = db.prepare("BEGIN");
    this.#commit = db.prepare("COMMIT");
  }

  /** Looks at the state by `look`, which may refuse it, and reads; inside another one it only reads. */
  run<T>(look: () => void, read: () => T): T {
    if (!this.#db.autocommit) return read();
    this.#begin.run();
    try {
      look();
      const result = read();
      this.#commit.run();
      return result;
    } catch (error) {
      this.#db.resetAll();
      this.#db.rollBack();
      throw error;
    }
  }
}
