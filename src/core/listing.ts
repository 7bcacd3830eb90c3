/** Directories listed: in the order of cookies for readdir(3), in that of names for whoever compares or copies. */
import type { Statement } from "../db/statement.ts";
import { INODE_COLUMNS, type Inodes, inodeColumns, readInode } from "./inodes.ts";
import type { Store } from "./store.ts";
import type { Attr, Entry, Ino } from "./types.ts";

/** Entries that a listing reads ahead of its visitor: at first, and at most. */
const FIRST_BATCH = 32;
const LARGEST_BATCH = 512;

export class Listing {
  readonly #store: Store;
  readonly #inodes: Inodes;
  readonly #list: Statement;
  readonly #listPlus: Statement;
  readonly #page: Statement;

  constructor(store: Store, inodes: Inodes) {
    this.#store = store;
    this.#inodes = inodes;
    const db = store.writer;
    // Of a view it cannot be said, nor need it be.
    const listing = `FROM dirent AS d ${store.past === undefined ? "INDEXED BY dirent_by_id" : ""}`;
    const after = "WHERE d.parent = ?1 AND d.id > ?2 ORDER BY d.id";
    this.#list = db.prepare(`SELECT d.id, d.ino, d.type, d.name ${listing} ${after}`);
    this.#listPlus = db.prepare(
      `SELECT ${inodeColumns("i")}, d.id, d.type, d.name ${listing} JOIN inode AS i ON i.ino = d.ino ${after}`,
    );
    this.#page = db.prepare(
      `SELECT ${inodeColumns("i")}, d.id, d.type, d.name FROM dirent AS d JOIN inode AS i ON i.ino = d.ino
       WHERE d.parent = ?1 AND d.name > ?2 ORDER BY d.name LIMIT ?3`,
    );
  }

  /**
   * Shows the entries after `cookie` (0: from the start) in the order of their cookies, without "."
   * and "..", until `visit` answers false; the entry that it refused is not consumed. An entry that
   * stays is shown exactly once in a scan, whatever else comes and goes.
   * @throws FsError ESTALE, ENOTDIR
   */
  readdir(ino: Ino, cookie: number, visit: (entry: Entry) => boolean): void {
    const read = (row: Statement) => ({
      cookie: row.int(0),
      ino: row.int(1) as Ino,
      type: row.int(2),
      name: row.blob(3),
    });
    this.#scan(ino, cookie, this.#list, read, (entry) => entry.cookie, visit);
  }

  /** As readdir, each entry with its attributes. */
  readdirplus(ino: Ino, cookie: number, visit: (entry: Entry, attr: Attr) => boolean): void {
    const show = ([entry, attr]: readonly [Entry, Attr]) => visit(entry, attr);
    const read = (row: Statement) => this.#readEntryPlus(row);
    this.#scan(ino, cookie, this.#listPlus, read, ([entry]) => entry.cookie, show);
  }

  /**
   * The first `count` entries whose names come after `after` (empty: from the start), in the order of their
   * bytes, each with its attributes. Leaves atime alone.
   * @throws FsError ESTALE, ENOTDIR
   */
  page(ino: Ino, after: Uint8Array, count: number): (readonly [Entry, Attr])[] {
    return this.#store.query(ino, () => {
      this.#inodes.loadDirectory(ino);
      const rows = this.#page.bindInt(1, ino).bindBlob(2, after).bindInt(3, count);
      const found: (readonly [Entry, Attr])[] = [];
      while (rows.step()) found.push(this.#readEntryPlus(rows));
      return found;
    });
  }

  /**
   * Reads rows in batches and shows them with no statement open: a visitor may use the volume.
   */
  #scan<T>(
    ino: Ino,
    cookie: number,
    rows: Statement,
    read: (row: Statement) => T,
    cookieOf: (row: T) => number,
    visit: (row: T) => boolean,
  ): void {
    this.#store.query(ino, () => {
      const directory = this.#inodes.loadDirectory(ino);
      // A caller may seek anywhere (seekdir); no entry lies that far.
      let after = Math.min(cookie, Number.MAX_SAFE_INTEGER);
      for (let size = FIRST_BATCH; ; size = Math.min(LARGEST_BATCH, size * 4)) {
        const batch: T[] = [];
        rows.bindInt(1, ino).bindInt(2, after);
        while (batch.length < size && rows.step()) batch.push(read(rows));
        if (batch.length === size) rows.reset();
        if (!batch.every(visit) || batch.length < size) break;
        const last = batch.at(-1);
        if (last !== undefined) after = cookieOf(last);
      }
      this.#inodes.accessed(directory);
    });
  }

  /** A row of an entry and its inode: `inodeColumns`, then id, type and name. */
  #readEntryPlus(row: Statement): readonly [Entry, Attr] {
    const attr = this.#inodes.current(readInode(row, 0));
    const at = INODE_COLUMNS;
    return [{ cookie: row.int(at), ino: attr.ino, type: row.int(at + 1), name: row.blob(at + 2) }, attr];
  }
}
