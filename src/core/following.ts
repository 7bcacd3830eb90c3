/**
 * A connection that reads what another one changes meanwhile: a replica that follows its log while it is mounted. Each
 * read is one transaction, so it sees one state; and what was kept of an older state is forgotten before the first read
 * that sees a newer one. So nobody need say that something changed: SQLite tells, by its data_version.
 */
import type { Database } from "../db/database.ts";
import type { Statement } from "../db/statement.ts";

export class FollowingView {
  readonly #db: Database;
  readonly #forget: () => void;
  readonly #begin: Statement;
  readonly #version: Statement;
  readonly #commit: Statement;
  #seen: number | undefined;
  #state = 0;

  /** `forget` drops all that is kept of the tables. */
  constructor(db: Database, forget: () => void) {
    this.#db = db;
    this.#forget = forget;
    this.#begin = db.prepare("BEGIN");
    this.#version = db.prepare("PRAGMA data_version");
    this.#commit = db.prepare("COMMIT");
  }

  /** The connection was opened anew: its data_version says nothing about what was seen before. */
  begin(): void {
    this.#seen = undefined;
  }

  /** Another number for each state that was seen. */
  get state(): number {
    return this.#state;
  }

  read<T>(read: () => T): T {
    if (!this.#db.autocommit) return read();
    this.#begin.run();
    try {
      this.#look();
      const result = read();
      this.#commit.run();
      return result;
    } catch (error) {
      this.#db.resetAll();
      this.#db.rollBack();
      throw error;
    }
  }

  #look(): void {
    const version = this.#version.step() ? this.#version.int(0) : undefined;
    this.#version.reset();
    if (version === this.#seen) return;
    this.#seen = version;
    this.#state++;
    this.#forget();
  }
}
