/**
 * The numbers that meta keeps for the next inode, entry or block, and the epoch in which anything was changed last.
 *
 * Numbers are set aside ahead, so that most commits need not say which is next: what a crash leaves of those is a gap.
 */
import type { Database } from "../db/database.ts";
import type { Statement } from "../db/statement.ts";
import { numberMeta, readMeta } from "./format.ts";
import type { BlockNo, Epoch } from "./types.ts";

/** How many a commit sets aside. */
const AHEAD = 4096;

interface Saved {
  readonly serial: number;
  readonly block: number;
  readonly changed: number;
}

export class Counters {
  readonly #save: Statement;
  #serial: number;
  #block: number;
  /** What meta says. */
  #saved: Saved;
  /** What it says when the open group is committed. */
  #next: Saved;

  constructor(writer: Database, epoch: Epoch) {
    const changed = Number(readMeta(writer, "changed") ?? epoch);
    this.#serial = numberMeta(writer, "next_serial");
    this.#block = numberMeta(writer, "next_block");
    this.#saved = this.#next = { serial: this.#serial, block: this.#block, changed };
    this.#save = writer.prepare("UPDATE meta SET value = ?2 WHERE key = ?1");
  }

  /** Next unused number for an inode or an entry. */
  takeSerial(): number {
    return this.#serial++;
  }

  takeBlock(): BlockNo {
    return this.#block++ as BlockNo;
  }

  /** The last epoch in which anything was changed, as meta says. */
  get changed(): number {
    return this.#saved.changed;
  }

  /** Writes what meta has to say of the open group. `changed`: its epoch. `last`: numbers that are left are given back. */
  write(changed: number, last: boolean): void {
    const ahead = last ? 0 : AHEAD;
    const upTo = (next: number, saved: number): number => (next > saved || last ? next + ahead : saved);
    const { serial, block } = this.#saved;
    this.#next = { serial: upTo(this.#serial, serial), block: upTo(this.#block, block), changed };
    this.#write("next_serial", this.#next.serial, serial);
    this.#write("next_block", this.#next.block, block);
    this.#write("changed", changed, this.#saved.changed);
  }

  /** The group that was written to is committed. */
  committed(): void {
    this.#saved = this.#next;
  }

  #write(key: string, value: number, saved: number): void {
    if (value !== saved) this.#save.bindText(1, key).bindInt(2, value).run();
  }
}
