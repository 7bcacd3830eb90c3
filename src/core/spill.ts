/**
 * Long writes reach the -wal before they are committed.
 *
 * SQLite encrypts the pages of a group and writes them when it commits them: 2.3 ms a MiB, during which nobody is served.
 * What a long write has changed is written as it comes instead, as SQLite itself does when its cache is full, so that whoever
 * comes meanwhile waits for a piece of it. Until the commit those frames count for nothing.
 */
import type { Database } from "../db/database.ts";
import type { Statement } from "../db/statement.ts";
import type { Ino } from "./types.ts";

/** A run of file data is written when it is this long. */
const SPILL_BYTES = 256 * 2 ** 10;
/** Changes with less data are no part of a run, and end none. */
const LEAST_BYTES = 4096;

export class Spill {
  readonly #writer: Database;
  /** Whose data was written last, and how many bytes of it since they were spilled. */
  #ino: Ino | undefined;
  #bytes = 0;
  #lastBlock: Statement | undefined;
  #lastExtent: Statement | undefined;

  constructor(writer: Database) {
    this.#writer = writer;
  }

  /** The open group has `bytes` more of the data of `ino`. @throws SqliteError as a statement that writes does */
  add(ino: Ino, bytes: number): void {
    if (bytes < LEAST_BYTES) return;
    if (ino !== this.#ino) this.#bytes = 0;
    this.#ino = ino;
    this.#bytes += bytes;
    if (this.#bytes < SPILL_BYTES) return;
    this.#bytes = 0;
    this.#withLastPages(ino, () => this.#writer.spill());
  }

  /** The group has ended. */
  end(): void {
    this.#bytes = 0;
  }

  /**
   * Runs `spill` while the pages are in use that the next piece changes again, the last ones of the two tables: SQLite does not
   * spill pages in use. Otherwise each would be written again and again, and the commit would have to sum all frames anew.
   */
  #withLastPages(ino: Ino, spill: () => void): void {
    this.#lastBlock ??= this.#writer.prepare("SELECT 1 FROM block ORDER BY id DESC LIMIT 1");
    this.#lastExtent ??= this.#writer.prepare(
      "SELECT 1 FROM extent WHERE ino = ?1 ORDER BY idx DESC LIMIT 1",
    );
    try {
      this.#lastBlock.step();
      this.#lastExtent.bindInt(1, ino).step();
      spill();
    } finally {
      this.#lastBlock.reset();
      this.#lastExtent.reset();
    }
  }
}
