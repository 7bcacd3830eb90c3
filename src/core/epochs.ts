/** Which epoch it is, which closed ones are kept, and so whether a row that changes must go to the past first. */
import type { Database } from "../db/database.ts";
import { numberMeta } from "./format.ts";
import { keptEpochs } from "./past.ts";
import type { Epoch } from "./types.ts";

export class Epochs {
  #current: Epoch;
  /** The closed epochs that are kept, the oldest first. */
  #kept: readonly Epoch[];

  constructor(db: Database) {
    [this.#current, this.#kept] = read(db);
  }

  /** Somebody else closed or deleted some. */
  reread(db: Database): void {
    [this.#current, this.#kept] = read(db);
  }

  get current(): Epoch {
    return this.#current;
  }

  /**
   * The newest epoch before `died` that is kept, 0 where none is: a row that was born later, and that changes in epoch
   * `died`, is changed in place, since nobody can ask for what it was.
   */
  keptBefore(died: Epoch): number {
    return this.#kept.findLast((epoch) => epoch < died) ?? 0;
  }

  /** The current epoch was closed, and is kept. */
  advance(): void {
    this.#kept = [...this.#kept, this.#current];
    this.#current = (this.#current + 1) as Epoch;
  }

  /** These epochs are not kept any more. */
  letGo(epochs: readonly Epoch[]): void {
    this.#kept = this.#kept.filter((epoch) => !epochs.includes(epoch));
  }
}

function read(db: Database): [current: Epoch, kept: readonly Epoch[]] {
  return [numberMeta(db, "epoch") as Epoch, keptEpochs(db)];
}
