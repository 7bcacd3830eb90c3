/**
 * What a partial replica holds of the content of its blocks, on the connection that writes it.
 *
 * Content comes when it is to be kept (small files, pinned trees) with the segment that names it, else when somebody asks;
 * that goes again, what was used longest ago first, where the replica holds more than its limit.
 */
import { readMeta } from "../core/format.ts";
import { SMALL_BYTES } from "../core/partial.ts";
import type { Database } from "../db/database.ts";
import type { Statement } from "../db/statement.ts";
import type { WantedBlock } from "./applier.ts";

/** Blocks that are looked for or evicted in one go. */
export const BATCH = 1024;
/** What is evicted beyond need, as a share of the limit, so that it need not be done for each block. */
const SPARE = 1 / 16;

const PLACES = `SELECT p.block, p.id, b.place, b.length, b.codec, o.name, o.salt FROM partial_block AS p
  JOIN remote_block AS b ON b.remote = ?1 AND b.id = p.id JOIN remote_object AS o ON o.number = b.object`;

export class Holdings {
  readonly #db: Database;
  readonly #remote: number;
  readonly #statements = new Map<string, Statement>();
  /** Bytes that may go again, as they are stored; undefined: not counted yet. */
  #bytes: number | undefined;

  /** `remote`: number of the log. */
  constructor(db: Database, remote: number) {
    this.#db = db;
    this.#remote = remote;
  }

  close(): void {
    for (const statement of this.#statements.values()) this.#db.release(statement);
    this.#statements.clear();
  }

  #sql(sql: string): Statement {
    let statement = this.#statements.get(sql);
    if (statement === undefined) {
      statement = this.#db.prepare(sql);
      this.#statements.set(sql, statement);
    }
    return statement;
  }

  /**
   * Notes blocks that a segment names. One that is known by another id is not the one that is here, unless `holds` says so:
   * where the log got another secret all have another id.
   */
  name(blocks: readonly WantedBlock[], holds: (block: WantedBlock, data: Uint8Array) => boolean): void {
    const other = this.#sql("SELECT used FROM partial_block WHERE block = ?1 AND id <> ?2");
    const rename = this.#sql("UPDATE partial_block SET id = ?2 WHERE block = ?1");
    const put = this.#sql(
      "INSERT INTO partial_block (block, id, length, used, keep) VALUES (?1, ?2, ?3, 0, 0) ON CONFLICT DO NOTHING",
    );
    for (const block of blocks) {
      const { number, id, length } = block;
      if (other.bindInt(1, number).bindBlob(2, id).step()) {
        const here = other.int(0) > 0 ? this.#content(number) : undefined;
        other.reset();
        if (here !== undefined && holds({ ...block, codec: here.codec }, here.data))
          rename.bindInt(1, number).bindBlob(2, id).run();
        else this.#forget(number);
      }
      put.bindInt(1, number).bindBlob(2, id).bindInt(3, length).run();
    }
  }

  #content(block: number): { readonly codec: number; readonly data: Uint8Array } | undefined {
    const row = this.#sql("SELECT codec, data FROM block WHERE id = ?1").bindInt(1, block);
    if (!row.step()) return undefined;
    const content = { codec: row.int(0), data: row.blob(1) };
    row.reset();
    return content;
  }

  #forget(block: number): void {
    for (const table of ["block WHERE id", "partial_block WHERE block"])
      this.#sql(`DELETE FROM ${table} = ?1`).bindInt(1, block).run();
    this.#bytes = undefined;
  }

  /**
   * Has the blocks of these files kept, so far as they are small, and gives those that were not; of all files where `inos` is
   * undefined, and gives none.
   */
  keepSmall(inos: Iterable<number> | undefined): number[] {
    const small = `UPDATE partial_block SET keep = 1 WHERE keep = 0 AND block IN (SELECT e.block FROM extent AS e
      JOIN inode AS i ON i.ino = e.ino WHERE i.size <= ${SMALL_BYTES}`;
    this.#bytes = undefined;
    const kept: number[] = [];
    if (inos === undefined) this.#sql(`${small})`).run();
    else {
      const one = this.#sql(`${small} AND i.ino = ?1) RETURNING block`);
      for (const ino of inos) kept.push(...numbersOf(one.bindInt(1, ino)));
    }
    return kept;
  }

  /** Has the blocks of what is pinned kept, and gives those that were not. */
  keepPinned(): number[] {
    this.#bytes = undefined;
    return numbersOf(
      this.#sql(
        `WITH RECURSIVE tree (ino) AS (SELECT ino FROM pin
           UNION SELECT d.ino FROM dirent AS d JOIN tree AS t ON d.parent = t.ino)
         UPDATE partial_block SET keep = 1 WHERE keep = 0 AND block IN
           (SELECT e.block FROM extent AS e JOIN tree AS t ON e.ino = t.ino) RETURNING block`,
      ),
    );
  }

  /** Lets the blocks of what was pinned go again, but for what else keeps them. False where it was not. */
  unpin(ino: number): boolean {
    this.#db.exec("BEGIN IMMEDIATE");
    try {
      this.#sql("DELETE FROM pin WHERE ino = ?1").bindInt(1, ino).run();
      const wasPinned = this.#db.changes > 0;
      // Also of what was moved out of a pinned tree. A small file may have some of a large one's blocks.
      this.#sql(
        `UPDATE partial_block SET keep = 0 WHERE keep = 1 AND block IN
           (SELECT e.block FROM extent AS e JOIN inode AS i ON i.ino = e.ino WHERE i.size > ${SMALL_BYTES})`,
      ).run();
      this.keepSmall(undefined);
      this.keepPinned();
      this.evict();
      this.#db.exec("COMMIT");
      return wasPinned;
    } finally {
      if (!this.#db.autocommit) this.#db.rollBack();
    }
  }

  /** Whether any block that is to be kept is away, and it is known where it is. */
  get isDue(): boolean {
    const row = this.#sql(`${PLACES} WHERE p.keep = 1 AND p.used = 0 LIMIT 1`).bindInt(1, this.#remote);
    const isDue = row.step();
    row.reset();
    return isDue;
  }

  /** The next blocks that are to be kept and are away, those of one object together; none: all are here. */
  due(): WantedBlock[] {
    const rows = this.#sql(
      `${PLACES} WHERE p.keep = 1 AND p.used = 0 ORDER BY b.object, b.place LIMIT ${BATCH}`,
    );
    return this.#read(rows.bindInt(1, this.#remote));
  }

  /** Where blocks that are away are to be had, those of one object together. Those that are here, or unknown, are left out. */
  places(blocks: Iterable<number>): WantedBlock[] {
    const row = this.#sql(`${PLACES} WHERE p.block = ?2 AND p.used = 0`);
    const found: WantedBlock[] = [];
    for (const block of blocks) found.push(...this.#read(row.bindInt(1, this.#remote).bindInt(2, block)));
    const key = ({ object }: WantedBlock): string => Buffer.from(object).toString("latin1");
    return found.sort((a, b) => (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : a.place - b.place));
  }

  /** Whether a file has this block, and its content is not here. */
  isAway(block: number): boolean {
    const row = this.#sql("SELECT 1 FROM partial_block WHERE block = ?1 AND used = 0").bindInt(1, block);
    const isAway = row.step();
    if (isAway) row.reset();
    return isAway;
  }

  /** Whether this content is away still: a log that started over may have another one under its number. */
  lacks({ number, id }: WantedBlock): boolean {
    const row = this.#sql("SELECT 1 FROM partial_block WHERE block = ?1 AND used = 0 AND id = ?2");
    const lacks = row.bindInt(1, number).bindBlob(2, id).step();
    if (lacks) row.reset();
    return lacks;
  }

  #read(rows: Statement): WantedBlock[] {
    const found: WantedBlock[] = [];
    while (rows.step())
      found.push({
        type: "block",
        number: rows.int(0),
        id: rows.blob(1),
        place: rows.int(2),
        length: rows.int(3),
        codec: rows.int(4),
        object: rows.blob(5),
        salt: rows.blob(6),
      });
    return found;
  }

  /** Stores content that was proved. */
  take(block: WantedBlock, data: Uint8Array): void {
    this.#sql("INSERT OR REPLACE INTO block (id, codec, hash, data) VALUES (?1, ?2, NULL, ?3)")
      .bindInt(1, block.number)
      .bindInt(2, block.codec)
      .bindBlob(3, data)
      .run();
    const used = this.#sql("UPDATE partial_block SET used = ?2 WHERE block = ?1 AND used = 0 RETURNING keep");
    if (!used.bindInt(1, block.number).bindInt(2, now()).step()) return;
    const keep = used.int(0);
    used.reset();
    if (this.#bytes !== undefined && keep === 0) this.#bytes += block.length;
  }

  /** Blocks that were read just now. */
  used(blocks: Iterable<number>): void {
    const row = this.#sql("UPDATE partial_block SET used = ?2 WHERE block = ?1 AND used > 0");
    for (const block of blocks) row.bindInt(1, block).bindInt(2, now()).run();
  }

  /** Bytes that may be held beside what is kept; 0: any. */
  get limit(): number {
    return Number(readMeta(this.#db, "partial_limit") ?? 0);
  }

  /** Lets go of what was used longest ago, down to the limit. */
  evict(): void {
    const { limit } = this;
    if (limit === 0 || this.#count() <= limit) return;
    const oldest = this.#sql(
      `SELECT block, length FROM partial_block WHERE keep = 0 AND used > 0 ORDER BY used LIMIT ${BATCH}`,
    );
    const leave = this.#sql("UPDATE partial_block SET used = 0 WHERE block = ?1");
    const drop = this.#sql("DELETE FROM block WHERE id = ?1");
    while (this.#count() > limit * (1 - SPARE)) {
      const going: [block: number, length: number][] = [];
      while (oldest.step()) going.push([oldest.int(0), oldest.int(1)]);
      if (going.length === 0) return;
      for (const [block, length] of going) {
        if (this.#count() <= limit * (1 - SPARE)) return;
        leave.bindInt(1, block).run();
        drop.bindInt(1, block).run();
        this.#bytes = this.#count() - length;
      }
    }
  }

  #count(): number {
    if (this.#bytes === undefined) {
      const row = this.#sql("SELECT ifnull(sum(length), 0) FROM partial_block WHERE keep = 0 AND used > 0");
      this.#bytes = row.step() ? row.int(0) : 0;
      row.reset();
    }
    return this.#bytes;
  }

  /** Forgets the blocks that nobody names, after the log started over. */
  dropUnnamed(): void {
    this.#sql(
      "DELETE FROM partial_block WHERE block NOT IN (SELECT block FROM extent UNION ALL SELECT block FROM extent_past)",
    ).run();
    this.#bytes = undefined;
  }

  /** What a rollback undid is counted anew. */
  recount(): void {
    this.#bytes = undefined;
  }
}

/** The first column of all rows. */
function numbersOf(rows: Statement): number[] {
  const numbers: number[] = [];
  while (rows.step()) numbers.push(rows.int(0));
  return numbers;
}

/** Seconds since 1970. */
function now(): number {
  return Math.floor(Date.now() / 1000);
}
