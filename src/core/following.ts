/**
 * A connection that reads what another one changes meanwhile: a replica that follows its log while it is mounted. Each
 * read is one transaction, so it sees one state; and what was kept of an older state is forgotten before the first read
 * that sees a newer one. So nobody need say that something changed: SQLite tells, by its data_version.
 */
import type { Database } from "../db/database.ts";
import type { Statement } from "../db/statement.ts";
import { ReadTransaction } from "./readtransaction.ts";

export class FollowingView {
  readonly #forget: () => void;
  readonly #transaction: ReadTransaction;
  readonly #version: Statement;
  #seen: number | undefined;
  #state = 0;

  /** `forget` drops all that is kept of the tables. */
  constructor(db: Database, forget: () => void) {
    this.#forget = forget;
    this.#transaction = new ReadTransaction(db);
    this.#version = db.prepare("PRAGMA data_version");
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
    return this.#transaction.run(() => this.#look(), read);
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
