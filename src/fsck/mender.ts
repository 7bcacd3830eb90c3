/**
 * What mending a volume needs beyond SQL: numbers, a lost+found, inodes made again from what
 * is left of them. Runs inside the one transaction of a repair, on rows, not through the rooms
 * of a volume: these rely on the invariants that are being restored.
 *
 * Rows are mended where they are, in their epoch: damage is no history.
 */
import type { Time } from "../base/clock.ts";
import { DamageError } from "../base/errno.ts";
import { contentLength, decoded, RAW } from "../core/codec.ts";
import { S_IFDIR, S_IFMT, S_IFREG } from "../core/mode.ts";
import { type Ino, ROOT_INO } from "../core/types.ts";
import type { Database } from "../db/database.ts";
import type { Statement } from "../db/statement.ts";

/** Something that got a place in /lost+found. */
export interface Placement {
  readonly ino: Ino;
  readonly path: string;
}

/** Larger numbers are no numbers of inodes, cookies or blocks. */
export const NUMBER_MAX = 2 ** 52;
const LOST_FOUND = "lost+found";
const DIRECTORY_MODE = S_IFDIR | 0o700;
const FILE_MODE = S_IFREG | 0o600;

interface Owner {
  readonly uid: number;
  readonly gid: number;
}

export class Mender {
  readonly db: Database;
  readonly placed: Placement[] = [];
  readonly #nowNs: bigint;
  #lostFound: Ino | undefined;
  readonly #statements = new Map<string, Statement>();

  constructor(db: Database, now: Time) {
    this.db = db;
    this.#nowNs = BigInt(now.sec) * 1_000_000_000n + BigInt(now.nsec);
  }

  /** A statement with parameters, made once. */
  #prepare(sql: string): Statement {
    const made = this.#statements.get(sql) ?? this.db.prepare(sql);
    this.#statements.set(sql, made);
    return made;
  }

  /** The first column of all rows. */
  #column(sql: string): number[] {
    const rows = this.db.prepare(sql);
    const numbers: number[] = [];
    while (rows.step()) numbers.push(rows.int(0));
    this.db.release(rows);
    return numbers;
  }

  /** The first column of the first row, undefined where there is none or it is NULL. */
  #number(sql: string): number | undefined {
    const row = this.db.prepare(sql);
    const value = row.step() && !row.isNull(0) ? row.int(0) : undefined;
    this.db.release(row);
    return value;
  }

  /** An unused number for an inode or a cookie. */
  #serial(): number {
    this.raiseCounter();
    const serial = this.#number("SELECT value FROM meta WHERE key = 'next_serial'") as number;
    this.db.exec(`UPDATE meta SET value = ${serial + 1} WHERE key = 'next_serial'`);
    return serial;
  }

  #raised = false;

  /** Sees to it that the counter of numbers is above all that are in use. */
  raiseCounter(): void {
    if (this.#raised) return;
    this.#raised = true;
    const used = `(SELECT max(n) FROM (SELECT max(ino) AS n FROM inode WHERE ino <= ${NUMBER_MAX}
      UNION ALL SELECT max(id) FROM dirent WHERE id <= ${NUMBER_MAX}
      UNION ALL SELECT max(ino) FROM extent WHERE ino <= ${NUMBER_MAX}
      UNION ALL SELECT max(parent) FROM dirent WHERE parent <= ${NUMBER_MAX}
      UNION ALL SELECT max(ino) FROM dirent WHERE ino <= ${NUMBER_MAX}))`;
    this.db.exec(`UPDATE meta SET value = ${used} + 1 WHERE key = 'next_serial' AND value <= ${used}`);
  }

  get #epoch(): number {
    return this.#number("SELECT value FROM meta WHERE key = 'epoch'") ?? 1;
  }

  #ownerOf(ino: number): Owner {
    const row = this.#prepare("SELECT uid, gid FROM inode WHERE ino = ?1").bindInt(1, ino);
    const owner = row.step() ? { uid: row.int(0), gid: row.int(1) } : { uid: 0, gid: 0 };
    row.reset();
    return owner;
  }

  #insertInode(
    ino: number,
    mode: number,
    owner: Owner,
    more: { parent?: number; blockSize?: number; nlink?: number },
  ): void {
    this.#prepare(`INSERT INTO inode (ino, mode, nlink, uid, gid, rdev, size, block_size, extents, parent, generation,
           atime_ns, mtime_ns, ctime_ns, btime_ns, born, origin)
         VALUES (?1, ?2, ?3, ?4, ?5, 0, 0, ?6, 0, ?7, random() & 4294967295, ?8, ?8, ?8, ?8, ?9, 0)`)
      .bindInt(1, ino)
      .bindInt(2, mode)
      .bindInt(3, more.nlink ?? ((mode & S_IFMT) === S_IFDIR ? 2 : 1))
      .bindInt(4, owner.uid)
      .bindInt(5, owner.gid)
      .bindInt(6, more.blockSize ?? 0)
      .bindInt(7, more.parent ?? 0)
      .bindBigInt(8, this.#nowNs)
      .bindInt(9, this.#epoch)
      .run();
  }

  #insertEntry(parent: Ino, name: string, ino: number): void {
    this.#prepare(`INSERT INTO dirent (parent, name, id, ino, type, born)
          SELECT ?1, ?2, ?3, ino, mode & ${S_IFMT}, ?5 FROM inode WHERE ino = ?4`)
      .bindInt(1, parent)
      .bindBlob(2, Buffer.from(name))
      .bindInt(3, this.#serial())
      .bindInt(4, ino)
      .bindInt(5, this.#epoch)
      .run();
  }

  #hasEntry(parent: Ino, name: string): boolean {
    const row = this.#prepare("SELECT 1 FROM dirent WHERE parent = ?1 AND name = ?2")
      .bindInt(1, parent)
      .bindBlob(2, Buffer.from(name));
    const has = row.step();
    row.reset();
    return has;
  }

  #freeName(parent: Ino, name: string): string {
    for (let n = 1; ; n++) {
      const candidate = n === 1 ? name : `${name}-${n}`;
      if (!this.#hasEntry(parent, candidate)) return candidate;
    }
  }

  /** The directory for what has no place; made when first needed, the root's owner's alone. */
  #lostAndFound(): { ino: Ino; name: string } {
    const name = (of: Ino): string => {
      const row = this.#prepare(`SELECT name FROM dirent WHERE parent = ${ROOT_INO} AND ino = ?1`);
      const found = row.bindInt(1, of).step() ? Buffer.from(row.blob(0)).toString() : LOST_FOUND;
      row.reset();
      return found;
    };
    this.#lostFound ??= this.#number(
      `SELECT d.ino FROM dirent AS d JOIN inode AS i ON i.ino = d.ino
        WHERE d.parent = ${ROOT_INO} AND d.name = CAST('${LOST_FOUND}' AS BLOB)
        AND (i.mode & ${S_IFMT}) = ${S_IFDIR} AND d.type = ${S_IFDIR} AND i.parent = ${ROOT_INO}`,
    ) as Ino | undefined;
    if (this.#lostFound === undefined) {
      this.makeRoot();
      const ino = this.#serial() as Ino;
      this.#insertInode(ino, DIRECTORY_MODE, this.#ownerOf(ROOT_INO), { parent: ROOT_INO });
      this.#insertEntry(ROOT_INO, this.#freeName(ROOT_INO, LOST_FOUND), ino);
      this.db.exec(`UPDATE inode SET nlink = nlink + 1 WHERE ino = ${ROOT_INO}`);
      this.#lostFound = ino;
    }
    return { ino: this.#lostFound, name: name(this.#lostFound) };
  }

  /** Gives an inode an entry in /lost+found. Counts of links are set afterwards. */
  place(ino: number, name = `#${ino}`): void {
    const at = this.#lostAndFound();
    const free = this.#freeName(at.ino, name);
    this.#insertEntry(at.ino, free, ino);
    this.db.exec(
      `UPDATE inode SET parent = ${at.ino}, nlink = max(nlink, 2) WHERE ino = ${ino} AND (mode & ${S_IFMT}) = ${S_IFDIR}`,
    );
    this.placed.push({ ino: ino as Ino, path: `/${at.name}/${free}` });
  }

  placeAll(sql: string): void {
    for (const ino of this.#column(sql)) this.place(ino);
  }

  makeRoot(): void {
    const isWhole = `SELECT 1 FROM inode WHERE ino = ${ROOT_INO} AND (mode & ${S_IFMT}) = ${S_IFDIR}`;
    if (this.#number(isWhole) === undefined) {
      const owner = this.#ownerOf(
        this.#number(`SELECT ino FROM inode WHERE parent = ${ROOT_INO} LIMIT 1`) ?? 0,
      );
      // What stands in its place, if anything, is a file like any other.
      if (this.#number(`SELECT 1 FROM inode WHERE ino = ${ROOT_INO}`) !== undefined) {
        const moved = this.#serial();
        for (const table of ["inode", "extent", "xattr"])
          this.db.exec(`UPDATE ${table} SET ino = ${moved} WHERE ino = ${ROOT_INO}`);
        this.db.exec(`UPDATE inode SET nlink = 1, parent = 0 WHERE ino = ${moved}`);
      }
      this.#insertInode(ROOT_INO, DIRECTORY_MODE, owner, {});
    }
    this.db.exec(`UPDATE inode SET parent = ${ROOT_INO} WHERE ino = ${ROOT_INO} AND parent <> ${ROOT_INO}`);
  }

  /** Gives inodes new numbers that have one that none can have. */
  renumberInodes(): void {
    this.raiseCounter();
    const rows = this.db.prepare(
      `SELECT ino FROM inode UNION SELECT parent FROM dirent UNION SELECT ino FROM extent UNION SELECT ino FROM xattr`,
    );
    const bad: bigint[] = [];
    while (rows.step()) {
      const ino = rows.bigint(0);
      if (ino < 1n || ino > BigInt(NUMBER_MAX)) bad.push(ino);
    }
    for (const ino of bad) {
      const serial = this.#serial();
      for (const [table, column] of [
        ["inode", "ino"],
        ["inode", "parent"],
        ["dirent", "ino"],
        ["dirent", "parent"],
        ["extent", "ino"],
        ["xattr", "ino"],
      ] as const) {
        // Many inodes have parent 0, and it means none.
        if (column === "parent" && table === "inode" && ino === 0n) continue;
        this.db.exec(`UPDATE ${table} SET ${column} = ${serial} WHERE ${column} = ${ino}`);
      }
    }
  }

  /** Gives blocks new numbers that have one that none can have. */
  renumberBlocks(): void {
    const rows = this.db.prepare(`SELECT id FROM block WHERE id < 1 OR id > ${NUMBER_MAX}`);
    const bad: bigint[] = [];
    while (rows.step()) bad.push(rows.bigint(0));
    for (const id of bad) {
      const next = (this.#number(`SELECT max(id) FROM block WHERE id BETWEEN 1 AND ${NUMBER_MAX}`) ?? 0) + 1;
      this.db.exec(`UPDATE block SET id = ${next} WHERE id = ${id}`);
      // Block 0 means allocated and never written, in any number of extents.
      if (id === 0n) continue;
      for (const table of ["extent", "extent_past"])
        this.db.exec(`UPDATE ${table} SET block = ${next} WHERE block = ${id}`);
    }
    const used = "(SELECT max(id) FROM block)";
    this.db.exec(`UPDATE meta SET value = ${used} + 1 WHERE key = 'next_block' AND value <= ${used}`);
  }

  /** Makes directories again of which only entries are left. */
  remakeDirectories(): void {
    const gone = this.#column(
      `SELECT parent FROM dirent WHERE parent NOT IN (SELECT ino FROM inode)
        UNION SELECT ino FROM dirent WHERE type = ${S_IFDIR} AND ino NOT IN (SELECT ino FROM inode)`,
    );
    for (const ino of gone) {
      const parent = this.#number(
        `SELECT parent FROM dirent WHERE ino = ${ino} AND type = ${S_IFDIR} LIMIT 1`,
      );
      this.#insertInode(ino, DIRECTORY_MODE, this.#ownerOf(parent ?? ROOT_INO), { parent: parent ?? 0 });
    }
  }

  /** Makes regular files again of which only blocks are left. */
  remakeFiles(): void {
    for (const ino of this.#column(
      `SELECT DISTINCT e.ino FROM extent AS e JOIN inode AS i ON i.ino = e.ino WHERE (i.mode & ${S_IFMT}) <> ${S_IFREG}`,
    ))
      this.db.exec(`UPDATE extent SET ino = ${this.#serial()} WHERE ino = ${ino}`);
    this.remakeDirectories();
    for (const ino of this.#column(
      "SELECT DISTINCT ino FROM extent WHERE ino NOT IN (SELECT ino FROM inode)",
    )) {
      const parent = this.#number(`SELECT parent FROM dirent WHERE ino = ${ino} LIMIT 1`);
      this.#insertInode(ino, FILE_MODE, this.#ownerOf(parent ?? ROOT_INO), {
        blockSize: this.#blockSizeOf(ino),
      });
      this.#setSize(ino);
    }
  }

  /** The block size of a file, told from its past and its blocks. */
  #blockSizeOf(ino: number): number {
    const past = this.#number(
      `SELECT block_size FROM inode_past WHERE ino = ${ino} AND block_size >= 512 ORDER BY died DESC LIMIT 1`,
    );
    if (past !== undefined) return past;
    const usual = this.#number("SELECT value FROM meta WHERE key = 'block_size'") as number;
    const longest = this.#number(
      `SELECT max(${contentLength("b")}) FROM extent AS e JOIN block AS b ON b.id = e.block WHERE e.ino = ${ino}`,
    );
    return Math.max(usual, 2 ** Math.ceil(Math.log2(longest ?? 1)));
  }

  /** Sets a file's size to where its last block ends. */
  #setSize(ino: number): void {
    this.db.exec(
      `UPDATE inode SET size = ifnull((SELECT max(e.idx * inode.block_size + ${contentLength("b")})
          FROM extent AS e JOIN block AS b ON b.id = e.block WHERE e.ino = ${ino}), 0) WHERE ino = ${ino}`,
    );
  }

  guessBlockSizes(sql: string): void {
    for (const ino of this.#column(sql))
      this.db.exec(`UPDATE inode SET block_size = ${this.#blockSizeOf(ino)} WHERE ino = ${ino}`);
  }

  guessSizes(sql: string): void {
    for (const ino of this.#column(sql)) this.#setSize(ino);
  }

  /** Moves entries, given as (parent, name, ino), to /lost+found. */
  moveEntries(sql: string): void {
    for (const { parent, name, ino } of this.#entries(sql)) {
      this.#prepare("DELETE FROM dirent WHERE parent = ?1 AND name = ?2")
        .bindInt(1, parent)
        .bindBlob(2, name)
        .run();
      this.place(ino);
    }
  }

  renewCookies(sql: string): void {
    this.raiseCounter();
    for (const { parent, name } of this.#entries(sql))
      this.#prepare("UPDATE dirent SET id = ?3 WHERE parent = ?1 AND name = ?2")
        .bindInt(1, parent)
        .bindBlob(2, name)
        .bindInt(3, this.#serial())
        .run();
  }

  #entries(sql: string): { parent: number; name: Uint8Array; ino: number }[] {
    const rows = this.db.prepare(sql);
    const found: { parent: number; name: Uint8Array; ino: number }[] = [];
    while (rows.step()) found.push({ parent: rows.int(0), name: rows.blob(1), ino: rows.int(2) });
    this.db.release(rows);
    return found;
  }

  /** Leaves each directory one entry, the one that its parent agrees with where there is one. */
  nameDirectoriesOnce(): void {
    const several = this.#column(
      `SELECT i.ino FROM inode AS i JOIN dirent AS d ON d.ino = i.ino
        WHERE (i.mode & ${S_IFMT}) = ${S_IFDIR} AND i.ino <> ${ROOT_INO} GROUP BY i.ino
        HAVING count(*) > 1 OR i.parent <> max(d.parent)`,
    );
    for (const ino of several) {
      const entries = this.#entries(
        `SELECT d.parent, d.name, d.ino FROM dirent AS d JOIN inode AS i ON i.ino = d.ino WHERE d.ino = ${ino}
          ORDER BY d.parent <> i.parent, d.id`,
      );
      for (const { parent, name } of entries.slice(1))
        this.#prepare("DELETE FROM dirent WHERE parent = ?1 AND name = ?2")
          .bindInt(1, parent)
          .bindBlob(2, name)
          .run();
      this.db.exec(`UPDATE inode SET parent = ${entries[0]?.parent ?? 0} WHERE ino = ${ino}`);
    }
  }

  /** Gives every directory a path from the root. */
  reach(): void {
    const unreachable = `WITH RECURSIVE reached(ino) AS (SELECT ${ROOT_INO} UNION
        SELECT d.ino FROM reached AS r JOIN dirent AS d ON d.parent = r.ino WHERE d.type = ${S_IFDIR})
      SELECT i.ino FROM inode AS i WHERE (i.mode & ${S_IFMT}) = ${S_IFDIR} AND i.ino NOT IN reached
      AND (i.nlink <> 0 OR i.ino IN (SELECT parent FROM dirent) OR i.ino IN (SELECT ino FROM dirent))`;
    this.placeAll(`${unreachable} AND i.ino NOT IN (SELECT ino FROM dirent)`);
    // What is left hangs below a circle: cut one open at a time.
    for (;;) {
      const start = this.#number(`${unreachable} ORDER BY i.ino LIMIT 1`);
      if (start === undefined) return;
      const seen = new Set<number>();
      let at = start;
      while (!seen.has(at)) {
        seen.add(at);
        at = this.#number(`SELECT parent FROM dirent WHERE ino = ${at} LIMIT 1`) ?? at;
      }
      this.db.exec(`DELETE FROM dirent WHERE ino = ${at}`);
      this.place(at);
    }
  }

  mendSymlinks(longest: number): void {
    const isLink = `(mode & ${S_IFMT}) = 40960`;
    this.db.exec(`UPDATE inode SET target = NULL WHERE target IS NOT NULL AND NOT ${isLink}`);
    const bad = this.#column(
      `SELECT ino FROM inode WHERE ${isLink}
        AND (target IS NULL OR length(target) NOT BETWEEN 1 AND ${longest})`,
    );
    for (const ino of bad) {
      const length = this.#number(`SELECT length(target) FROM inode WHERE ino = ${ino}`) ?? 0;
      if (length > 0) {
        const block = (this.#number("SELECT max(id) FROM block") ?? 0) + 1;
        this.db.exec(
          `INSERT INTO block (id, codec, hash, data) SELECT ${block}, ${RAW}, NULL, target FROM inode WHERE ino = ${ino}`,
        );
        this.db.exec(
          `INSERT INTO extent (ino, idx, block, shared, born) VALUES (${ino}, 0, ${block}, 0, ${this.#epoch})`,
        );
      }
      this.db.exec(
        `UPDATE inode SET target = NULL, mode = ${FILE_MODE}, size = ${length} WHERE ino = ${ino}`,
      );
      this.db.exec(`UPDATE inode SET block_size = ${this.#blockSizeOf(ino)} WHERE ino = ${ino}`);
      this.db.exec(`UPDATE dirent SET type = ${S_IFREG} WHERE ino = ${ino}`);
    }
    this.db.exec(`UPDATE inode SET size = length(target) WHERE ${isLink} AND size <> length(target)`);
  }

  /** `most`: the bytes that a block of extent e of inode i may have, as SQL. */
  mendLengths(most: string): void {
    const live = `extent AS e JOIN block AS b ON b.id = e.block JOIN inode AS i ON i.ino = e.ino WHERE i.nlink <> 0`;
    const length = contentLength("b");
    // What lies about its length cannot be read: a hole takes its place in the next round.
    this.dropUndecodable(`SELECT b.id FROM ${live} AND ${length} > ${most}`);
    // Where most blocks of a file are longer than its block size, that is what is wrong.
    this.guessBlockSizes(
      `SELECT i.ino FROM ${live} GROUP BY i.ino HAVING 2 * sum(${length} > i.block_size) > count(*)`,
    );
    const rows = this.db.prepare(
      `SELECT e.ino, e.idx, e.block, i.block_size FROM ${live} AND ${length} > i.block_size`,
    );
    const long: [ino: number, idx: number, block: number, most: number][] = [];
    while (rows.step()) long.push([rows.int(0), rows.int(1), rows.int(2), rows.int(3)]);
    for (const [ino, idx, block, bytes] of long) {
      // Another file may have use for what is cut here.
      const own = (this.#number("SELECT max(id) FROM block") ?? 0) + 1;
      this.#prepare(`INSERT INTO block (id, codec, hash, data) VALUES (?1, ${RAW}, NULL, ?2)`)
        .bindInt(1, own)
        .bindBlob(2, this.#content(block).subarray(0, bytes))
        .run();
      this.db.exec(`UPDATE extent SET block = ${own}, shared = 0 WHERE ino = ${ino} AND idx = ${idx}`);
      this.db.exec(
        `DELETE FROM block WHERE id = ${block} AND id NOT IN (SELECT block FROM extent) AND id NOT IN (SELECT block FROM extent_past)`,
      );
    }
    this.guessSizes(`SELECT DISTINCT i.ino FROM ${live} AND ${length} > ${most}`);
  }

  /** @throws DamageError where it cannot be decoded */
  #content(block: number): Uint8Array {
    const row = this.#prepare("SELECT codec, data FROM block WHERE id = ?1").bindInt(1, block);
    try {
      return row.step() ? decoded(row.int(0), row.blob(1)) : new Uint8Array(0);
    } finally {
      row.reset();
    }
  }

  /** Deletes the blocks of a query, given by number, whose content cannot be had from what is stored. */
  dropUndecodable(sql: string): void {
    for (const block of this.#column(sql)) {
      try {
        this.#content(block);
      } catch (error) {
        if (!(error instanceof DamageError)) throw error;
        this.db.exec(`DELETE FROM block WHERE id = ${block}`);
      }
    }
  }

  /** Makes files in /lost+found of blocks that no file has: one of each run of numbers. */
  placeBlocks(): void {
    const rows = this.db.prepare(
      `SELECT b.id, ${contentLength("b")} FROM block AS b WHERE b.id NOT IN (SELECT block FROM extent)
        AND b.id NOT IN (SELECT block FROM extent_past) ORDER BY b.id`,
    );
    const runs: { first: number; lengths: number[] }[] = [];
    while (rows.step()) {
      const [id, length] = [rows.int(0), rows.int(1)];
      const last = runs.at(-1);
      if (last !== undefined && last.first + last.lengths.length === id) last.lengths.push(length);
      else runs.push({ first: id, lengths: [length] });
    }
    const usual = this.#number("SELECT value FROM meta WHERE key = 'block_size'") as number;
    for (const { first, lengths } of runs) {
      const ino = this.#serial();
      const blockSize = Math.max(usual, 2 ** Math.ceil(Math.log2(Math.max(...lengths, 1))));
      this.#insertInode(ino, FILE_MODE, this.#ownerOf(ROOT_INO), { blockSize });
      const extent = this.#prepare(
        "INSERT INTO extent (ino, idx, block, shared, born) VALUES (?1, ?2, ?3, 0, ?4)",
      );
      for (const idx of lengths.keys())
        extent
          .bindInt(1, ino)
          .bindInt(2, idx)
          .bindInt(3, first + idx)
          .bindInt(4, this.#epoch)
          .run();
      this.#setSize(ino);
      this.place(
        ino,
        lengths.length === 1 ? `#block-${first}` : `#blocks-${first}-${first + lengths.length - 1}`,
      );
    }
  }
}
