/**
 * What a second thread does for a volume that is open for writing: it copies the -wal to the main file, and reads
 * blocks that are committed. It has a connection of its own, and knows of the volume no more than it is told.
 *
 * A block may be overwritten or deleted by a later commit while a reader is on his way: he gets one state or the
 * other, or `undefined`, and then whoever asked reads it himself.
 */
import { DamageError } from "../base/errno.ts";
import { Database } from "../db/database.ts";
import { SqliteError } from "../db/errors.ts";
import type { Key } from "../db/key.ts";
import type { Statement } from "../db/statement.ts";
import { SQLITE_BUSY } from "../native/sqlite3.ts";
import { LONGEST } from "./codec.ts";
import type { BlockNo } from "./types.ts";
import { Unpacker } from "./unpacker.ts";

export class Aide {
  readonly #db: Database;
  readonly #data: Statement;
  readonly #unpacker = new Unpacker();

  /** `cacheBytes`: of its own page cache. @throws SqliteError */
  constructor(path: string, key: Key, cacheBytes: number) {
    this.#db = new Database(path, key, { mode: "copier", cacheBytes });
    this.#data = this.#db.prepare("SELECT codec, data FROM block WHERE id = ?1");
  }

  /**
   * Copies what it can of the -wal to the main file, durably. Tells how many frames are copied, undefined while
   * somebody else copies. @throws SqliteError
   */
  copyWal(): number | undefined {
    try {
      return this.#db.checkpointPassive();
    } catch (error) {
      if (error instanceof SqliteError && (error.code & 0xff) === SQLITE_BUSY) return undefined;
      this.#db.reopen();
      throw error;
    }
  }

  /** Fills `into` with the content of a block from byte `from` on, then zeros. False where it cannot. */
  read(block: BlockNo, from: number, into: Uint8Array): boolean {
    const row = this.#data;
    let isRead = false;
    try {
      if (!row.bindInt(1, block).step()) return false;
      into.fill(0, this.#unpacker.read(row, LONGEST, from, into));
      isRead = true;
    } catch (error) {
      if (!(error instanceof SqliteError) && !(error instanceof DamageError)) throw error;
    } finally {
      row.reset();
    }
    if (!this.#db.isPoisoned) return isRead;
    this.#db.reopen();
    return false;
  }

  close(): void {
    this.#db.close();
  }
}
