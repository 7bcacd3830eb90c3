/**
 * What changed in a volume between two epochs that are kept, as records of the log.
 *
 * The state of epoch E is the rows with `born <= E`, of the live tables, and of their past twins with `died > E`. Whatever
 * changes of a file or directory changes its inode too, so the inodes that were born after the first epoch, and those that
 * died after it, lead to everything. An inode that nobody named at the first epoch is told as a whole: the replica has
 * nothing of it.
 *
 * Both epochs are kept, so their rows stay where these statements find them, whatever is written meanwhile: each page of
 * rows is a short transaction of its own, and nobody who writes is held up.
 */
import type { Database } from "../db/database.ts";
import type { Statement } from "../db/statement.ts";
import type { LogRecord, NodeId, NodeRecord, Version } from "./format.ts";

/** Rows that are read at once. */
const PAGE = 1024;
const S_IFMT = 0o170000;
const S_IFDIR = 0o040000;
const S_IFREG = 0o100000;
const NAMELESS: Uint8Array = Buffer.alloc(0);

/** Rows of `table` as of epoch ?2, with `also`: ?1 is the inode or directory that they are of, ?3 born after it counts. */
function asOf(table: string, columns: string, also: string, order: string): string {
  const then = `born <= ?2 AND born > ?3 AND ${also}`;
  return `SELECT ${columns} FROM ${table} WHERE ${then}
    UNION ALL SELECT ${columns} FROM ${table}_past WHERE died > ?2 AND ${then} ORDER BY ${order} LIMIT ${PAGE}`;
}

/** The keys of rows of `table` that were there at epoch ?3, and are there no more at epoch ?2. */
function lost(table: string, owner: string, key: string): string {
  const same = `x.${owner} = p.${owner} AND x.${key} = p.${key} AND x.born <= ?2`;
  return `SELECT p.${key} FROM ${table}_past AS p
    WHERE p.${owner} = ?1 AND p.${key} > ?4 AND p.born <= ?3 AND p.died > ?3 AND p.died <= ?2
      AND NOT EXISTS (SELECT 1 FROM ${table} AS x WHERE ${same})
      AND NOT EXISTS (SELECT 1 FROM ${table}_past AS x WHERE ${same} AND x.died > ?2)
    ORDER BY p.${key} LIMIT ${PAGE}`;
}

const INODE =
  "ino, mode, nlink, uid, gid, rdev, size, block_size, extents, parent, generation, born, atime_ns, mtime_ns, ctime_ns, btime_ns, target, origin, serial, version";

export class Diff {
  readonly #db: Database;
  readonly #writer: bigint;
  readonly #base: number;
  readonly #epoch: number;
  readonly #statements: Statement[] = [];
  readonly #node: Statement;
  readonly #wasThere: Statement;
  readonly #id: Statement;
  readonly #entries: Statement;
  readonly #removed: Statement;
  readonly #xattrs: Statement;
  readonly #noXattrs: Statement;
  readonly #extents: Statement;
  readonly #holes: Statement;
  readonly #sharers: Statement;
  /** Shared blocks whose other extents were told. */
  readonly #told = new Set<number>();

  /** `base` 0: everything. `writer`: replica_id of the volume. */
  constructor(db: Database, writer: bigint, base: number, epoch: number) {
    this.#db = db;
    this.#writer = writer;
    this.#base = base;
    this.#epoch = epoch;
    const prepare = (sql: string): Statement => {
      const statement = db.prepare(sql);
      this.#statements.push(statement);
      return statement;
    };
    this.#node = prepare(asOf("inode", INODE, "ino = ?1 AND nlink > 0", "ino"));
    this.#wasThere = prepare(
      "SELECT 1 FROM inode_past WHERE ino = ?1 AND born <= ?2 AND died > ?2 AND nlink > 0 LIMIT 1",
    );
    this.#id = prepare(
      `SELECT origin, ifnull(serial, ino) FROM inode WHERE ino = ?1 AND origin <> 0
         UNION ALL SELECT origin, ifnull(serial, ino) FROM inode_past WHERE ino = ?1 AND origin <> 0 LIMIT 1`,
    );
    this.#entries = prepare(asOf("dirent", "name, id, ino, type, born", "parent = ?1 AND name > ?4", "name"));
    this.#removed = prepare(lost("dirent", "parent", "name"));
    this.#xattrs = prepare(asOf("xattr", "name, value, born", "ino = ?1 AND name > ?4", "name"));
    this.#noXattrs = prepare(lost("xattr", "ino", "name"));
    this.#extents = prepare(asOf("extent", "idx, block, shared, born", "ino = ?1 AND idx > ?4", "idx"));
    this.#holes = prepare(lost("extent", "ino", "idx"));
    this.#sharers = prepare(
      `SELECT ino, idx FROM extent WHERE block = ?1 AND shared = 1
         UNION SELECT ino, idx FROM extent_past WHERE block = ?1 AND shared = 1`,
    );
  }

  /** Call it when the records are done with. */
  close(): void {
    for (const statement of this.#statements) this.#db.release(statement);
  }

  *records(): Generator<LogRecord, void> {
    yield* this.#gone();
    for (const ino of this.#changed()) yield* this.#one(ino);
  }

  /** Inodes that are there at the epoch and were born after the base. */
  #changed(): number[] {
    const born = `born > ${this.#base} AND born <= ${this.#epoch} AND nlink > 0`;
    return this.#numbers(
      `SELECT ino FROM inode WHERE ${born}
         UNION SELECT ino FROM inode_past WHERE died > ${this.#epoch} AND ${born} ORDER BY ino`,
    );
  }

  #numbers(sql: string): number[] {
    const rows = this.#db.prepare(sql);
    const found: number[] = [];
    while (rows.step()) found.push(rows.int(0));
    this.#db.release(rows);
    return found;
  }

  /** Nodes that were there at the base and are not at the epoch, and the names in directories that are gone. */
  *#gone(): Generator<LogRecord, void> {
    if (this.#base === 0) return;
    const rows = this.#db.prepare(
      `SELECT ino, died, mode FROM inode_past WHERE died > ?1 AND died <= ?2 AND born <= ?1 AND nlink > 0 ORDER BY ino`,
    );
    rows.bindInt(1, this.#base).bindInt(2, this.#epoch);
    const died: [ino: number, died: number, mode: number][] = [];
    while (rows.step()) died.push([rows.int(0), rows.int(1), rows.int(2)]);
    this.#db.release(rows);
    for (const [ino, epoch, mode] of died) {
      if (this.#isThere(ino)) continue;
      if ((mode & S_IFMT) === S_IFDIR) yield* this.#removedFrom(ino);
      yield { type: "gone", id: this.#idOf(ino), version: this.#version(epoch) };
    }
  }

  #isThere(ino: number): boolean {
    const row = this.#node.bindInt(1, ino).bindInt(2, this.#epoch).bindInt(3, 0);
    const found = row.step();
    row.reset();
    return found;
  }

  #idOf(ino: number): NodeId {
    if (ino === 0) return { origin: 0n, serial: 0 };
    const row = this.#id.bindInt(1, ino);
    if (!row.step()) return { origin: 0n, serial: ino };
    const id = { origin: this.#origin(row.bigint(0)), serial: row.int(1) };
    row.reset();
    return id;
  }

  #origin(origin: bigint): bigint {
    return origin === this.#writer ? 0n : origin;
  }

  /** Only this replica ever wrote: its counter is its epoch. */
  #version(counter: number): Version {
    return [{ origin: 0n, counter }];
  }

  *#one(ino: number): Generator<LogRecord, void> {
    const node = this.#read(ino);
    // Where nobody named it at the base the replica has nothing of it, however old its parts are.
    const since = this.#base > 0 && this.#was(ino) ? this.#base : 0;
    yield node;
    yield* this.#attributes(ino, since);
    if ((node.mode & S_IFMT) === S_IFREG) yield* this.#content(ino, since);
    if ((node.mode & S_IFMT) !== S_IFDIR) return;
    if (since > 0) yield* this.#removedFrom(ino);
    yield* this.#names(ino, since);
  }

  #was(ino: number): boolean {
    const row = this.#wasThere.bindInt(1, ino).bindInt(2, this.#base);
    const was = row.step();
    row.reset();
    return was;
  }

  #read(ino: number): NodeRecord {
    const row = this.#node.bindInt(1, ino).bindInt(2, this.#epoch).bindInt(3, this.#base);
    if (!row.step()) throw new Error(`inode ${ino} is not in epoch ${this.#epoch} any more`);
    const [parent, born] = [row.int(9), row.int(11)];
    const serial = row.isNull(18) ? ino : row.int(18);
    const node = {
      type: "node",
      id: { origin: this.#origin(row.bigint(17)), serial },
      ino,
      version: this.#version(born),
      mode: row.int(1),
      nlink: row.int(2),
      uid: row.int(3),
      gid: row.int(4),
      rdev: row.int(5),
      size: row.int(6),
      blockSize: row.int(7),
      extents: row.int(8),
      generation: row.int(10),
      born,
      atimeNs: row.bigint(12),
      mtimeNs: row.bigint(13),
      ctimeNs: row.bigint(14),
      btimeNs: row.bigint(15),
      target: row.blob(16),
    } as const;
    row.reset();
    return { ...node, parent: this.#idOf(parent) };
  }

  /** Pages of rows: `next` is the key behind which each begins, and each row tells its key. */
  *#pages<Key extends number | Uint8Array, Row>(
    rows: Statement,
    ino: number,
    since: number,
    first: Key,
    read: () => [Key, Row],
  ): Generator<readonly Row[], void> {
    for (let after = first; ; ) {
      rows.bindInt(1, ino).bindInt(2, this.#epoch).bindInt(3, since);
      if (typeof after === "number") rows.bindInt(4, after);
      else rows.bindBlob(4, after);
      const page: Row[] = [];
      while (rows.step()) {
        const [key, row] = read();
        after = key;
        page.push(row);
      }
      yield page;
      if (page.length < PAGE) return;
    }
  }

  *#removedFrom(ino: number): Generator<LogRecord, void> {
    const rows = this.#removed;
    const pages = this.#pages(rows, ino, this.#base, NAMELESS, () => {
      const name = rows.blob(0);
      return [name, name];
    });
    const [directory, version] = [this.#idOf(ino), this.#version(this.#epoch)];
    for (const page of pages) for (const name of page) yield { type: "removed", directory, name, version };
  }

  *#names(ino: number, since: number): Generator<LogRecord, void> {
    const rows = this.#entries;
    const pages = this.#pages(rows, ino, since, NAMELESS, () => {
      const name = rows.blob(0);
      return [name, { name, cookie: rows.int(1), ino: rows.int(2), kind: rows.int(3), born: rows.int(4) }];
    });
    const directory = this.#idOf(ino);
    for (const page of pages)
      for (const { ino: named, ...entry } of page)
        yield {
          type: "entry",
          directory,
          node: this.#idOf(named),
          version: this.#version(entry.born),
          ...entry,
        };
  }

  *#attributes(ino: number, since: number): Generator<LogRecord, void> {
    const gone = this.#noXattrs;
    if (since > 0)
      for (const page of this.#pages(gone, ino, since, NAMELESS, () => {
        const name = gone.blob(0);
        return [name, name];
      }))
        for (const name of page) yield { type: "no xattr", name };
    const rows = this.#xattrs;
    for (const page of this.#pages(rows, ino, since, NAMELESS, () => {
      const name = rows.blob(0);
      return [name, { name, value: rows.blob(1), born: rows.int(2) }];
    }))
      for (const row of page) yield { type: "xattr", ...row };
  }

  *#content(ino: number, since: number): Generator<LogRecord, void> {
    if (since > 0) yield* this.#holesOf(ino, since);
    const rows = this.#extents;
    for (const page of this.#pages(rows, ino, since, -1, () => {
      const idx = rows.int(0);
      return [idx, { idx, block: rows.int(1), shared: rows.int(2) !== 0, born: rows.int(3) }];
    })) {
      yield* runsOf(
        page,
        (a, b) => a.shared === b.shared && a.born === b.born,
        (run, { idx, shared, born }) => ({
          type: "extents",
          idx,
          shared,
          born,
          blocks: run.map(({ block }) => block),
        }),
      );
      for (const { block, shared, idx } of page)
        if (shared && block > 0) yield* this.#alsoShared(ino, idx, block);
    }
  }

  *#holesOf(ino: number, since: number): Generator<LogRecord, void> {
    const rows = this.#holes;
    for (const page of this.#pages(rows, ino, since, -1, () => {
      const idx = rows.int(0);
      return [idx, { idx }];
    }))
      yield* runsOf(
        page,
        () => true,
        (run, { idx }) => ({ type: "holes", idx, count: run.length }),
      );
  }

  /** Other extents that name a shared block: they did not change, and may not have been shared before. */
  *#alsoShared(ino: number, idx: number, block: number): Generator<LogRecord, void> {
    if (this.#base === 0 || this.#told.has(block)) return;
    this.#told.add(block);
    const rows = this.#sharers.bindInt(1, block);
    const found: [ino: number, idx: number][] = [];
    while (rows.step()) found.push([rows.int(0), rows.int(1)]);
    for (const [other, at] of found)
      if (other !== ino || at !== idx) yield { type: "shared", id: this.#idOf(other), idx: at, block };
  }
}

/** Rows that follow each other, and are alike, as one. */
function* runsOf<Row extends { readonly idx: number }, Run>(
  rows: readonly Row[],
  alike: (a: Row, b: Row) => boolean,
  make: (run: readonly Row[], first: Row) => Run,
): Generator<Run, void> {
  let run: Row[] = [];
  for (const row of rows) {
    const [first, last] = [run[0], run.at(-1)];
    if (first !== undefined && last !== undefined && (row.idx !== last.idx + 1 || !alike(first, row))) {
      yield make(run, first);
      run = [];
    }
    run.push(row);
  }
  const [first] = run;
  if (first !== undefined) yield make(run, first);
}
