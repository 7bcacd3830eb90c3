/**
 * Applies segments to a replica: its live rows become those of the source, and what its own snapshots show goes to the past,
 * as the core does it. Everything happens inside a transaction of the caller.
 *
 * The epoch of the segment's base is the last of the replica's that anybody could ask for, so whatever a segment replaces
 * or removes died in the one after it.
 */
import { isDirectory } from "../core/mode.ts";
import type { Database } from "../db/database.ts";
import type { Statement } from "../db/statement.ts";
import { LogError } from "../remote/errors.ts";
import type { BlockRecord, EntryRecord, ExtentsRecord, LogRecord, NodeId, NodeRecord } from "./format.ts";
import type { Touched } from "./touched.ts";

/** A block of a replica that has still to be fetched. */
export interface WantedBlock extends BlockRecord {
  readonly object: Uint8Array;
  readonly salt: Uint8Array;
}

export class Applier {
  readonly #db: Database;
  readonly #statements = new Map<string, Statement>();
  /** Newest snapshot of the replica up to the segment's base, 0: none. What was born later is in no snapshot. */
  readonly #kept: number;
  readonly #died: number;
  readonly #onBlock: (block: WantedBlock) => void;
  readonly #touched: Touched | undefined;
  /** The last node. */
  #ino: number | undefined;
  #object: { readonly name: Uint8Array; readonly salt: Uint8Array } | undefined;
  /** Blocks that lost an extent, not to the past. */
  readonly #released = new Set<number>();
  /** Nodes of this segment. */
  readonly #nodes = new Set<number>();
  /** Blocks that extents of this segment name. */
  readonly #named = new Set<number>();
  #changes = 0;
  #blocks = 0;

  /**
   * `kept`: the snapshots of the replica; `onBlock` hears of each block that it is to have, `touched` of what its readers may
   * have kept.
   */
  constructor(
    db: Database,
    base: number,
    kept: readonly number[],
    onBlock: (block: WantedBlock) => void,
    touched?: Touched,
  ) {
    this.#db = db;
    this.#touched = touched;
    this.#kept = kept.findLast((epoch) => epoch <= base) ?? 0;
    this.#died = base + 1;
    this.#onBlock = onBlock;
  }

  get counts(): { readonly changes: number; readonly blocks: number } {
    return { changes: this.#changes, blocks: this.#blocks };
  }

  /** The files that this segment made or changed, by their numbers. */
  get nodes(): ReadonlySet<number> {
    return this.#nodes;
  }

  #sql(sql: string): Statement {
    let statement = this.#statements.get(sql);
    if (statement === undefined) {
      statement = this.#db.prepare(sql);
      this.#statements.set(sql, statement);
    }
    return statement;
  }

  /** @throws LogError damaged, diverged; SqliteError */
  apply(record: LogRecord): void {
    this.#changes++;
    switch (record.type) {
      case "node":
        this.#node(record);
        return;
      case "gone":
        this.#gone(this.#inoOf(record.id));
        return;
      case "entry":
        this.#entry(record);
        return;
      case "removed":
        this.#removeEntry(this.#inoOf(record.directory), record.name);
        return;
      case "xattr":
        this.#xattr(record.name, record.value, record.born);
        return;
      case "no xattr":
        this.#dropXattr(this.#last, record.name);
        return;
      case "extents":
        this.#extents(record);
        return;
      case "holes":
        for (let i = 0; i < record.count; i++) this.#dropExtent(this.#last, record.idx + i);
        return;
      case "shared":
        this.#shared(this.#inoOf(record.id), record.idx, record.block);
        return;
      case "object":
        this.#object = record;
        return;
      case "block":
        this.#block(record);
    }
  }

  /**
   * Drops the blocks that no extent names any more. Call it behind the last record. What others name beside those that
   * changed is shared.
   */
  finish(): void {
    const live = this.#sql("SELECT 1 FROM extent WHERE block = ?1 AND shared = 1 LIMIT 1");
    const past = this.#sql("SELECT 1 FROM extent_past WHERE block = ?1 AND shared = 1 LIMIT 1");
    const drop = this.#sql("DELETE FROM block WHERE id = ?1");
    const forget = this.#sql("DELETE FROM partial_block WHERE block = ?1");
    for (const block of this.#released) {
      const isNamed = this.#named.has(block) || has(live.bindInt(1, block)) || has(past.bindInt(1, block));
      if (isNamed) continue;
      drop.bindInt(1, block).run();
      forget.bindInt(1, block).run();
    }
    this.close();
  }

  close(): void {
    for (const statement of this.#statements.values()) this.#db.release(statement);
    this.#statements.clear();
  }

  get #last(): number {
    if (this.#ino === undefined) throw new LogError("damaged", "it has parts of a node before any node");
    return this.#ino;
  }

  #inoOf({ origin, serial }: NodeId): number {
    if (origin === 0n) return serial;
    const row = this.#sql("SELECT ino FROM inode WHERE origin = ?1 AND serial = ?2");
    if (!row.bindBigInt(1, origin).bindInt(2, serial).step())
      throw new LogError("diverged", `it names node ${origin}:${serial}, which the replica does not have`);
    const ino = row.int(0);
    row.reset();
    return ino;
  }

  #node(node: NodeRecord): void {
    this.#ino = node.ino;
    this.#touched?.inode(node.ino, isDirectory(node.mode));
    this.#nodes.add(node.ino);
    const past = `INSERT INTO inode_past SELECT *, ?2 FROM inode WHERE ino = ?1 AND born <= ?3`;
    this.#sql(past).bindInt(1, node.ino).bindInt(2, this.#died).bindInt(3, this.#kept).run();
    const row = this.#sql(
      `INSERT OR REPLACE INTO inode (ino, mode, nlink, uid, gid, rdev, size, block_size, extents, parent, generation, born,
         atime_ns, mtime_ns, ctime_ns, btime_ns, origin, serial, target)
       VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19)`,
    );
    const { mode, nlink, uid, gid, rdev, size, blockSize, extents, generation, born } = node;
    const numbers = [
      node.ino,
      mode,
      nlink,
      uid,
      gid,
      rdev,
      size,
      blockSize,
      extents,
      this.#inoOf(node.parent),
    ];
    for (const [i, value] of [...numbers, generation, born].entries()) row.bindInt(i + 1, value);
    row.bindBigInt(13, node.atimeNs).bindBigInt(14, node.mtimeNs);
    row.bindBigInt(15, node.ctimeNs).bindBigInt(16, node.btimeNs).bindBigInt(17, node.id.origin);
    if (node.id.origin === 0n) row.bindNull(18);
    else row.bindInt(18, node.id.serial);
    if (node.target.length === 0) row.bindNull(19);
    else row.bindBlob(19, node.target);
    row.run();
  }

  #gone(ino: number): void {
    this.#touched?.inode(ino, true);
    const dropped = this.#sql("SELECT block FROM extent WHERE ino = ?1 AND born > ?2 AND block > 0");
    dropped.bindInt(1, ino).bindInt(2, this.#kept);
    while (dropped.step()) this.#released.add(dropped.int(0));
    for (const table of ["inode", "xattr", "extent"])
      this.#retire(table, "ino = ?1", (row) => row.bindInt(1, ino));
    this.#sql("DELETE FROM pin WHERE ino = ?1").bindInt(1, ino).run();
  }

  #entry(entry: EntryRecord): void {
    const parent = this.#inoOf(entry.directory);
    this.#removeEntry(parent, entry.name);
    // After an exchange of names another entry may still have this cookie: a record of its own follows.
    const same = this.#sql("SELECT name FROM dirent WHERE parent = ?1 AND id = ?2");
    same.bindInt(1, parent).bindInt(2, entry.cookie);
    const names: Uint8Array[] = [];
    while (same.step()) names.push(same.blob(0));
    for (const name of names) this.#removeEntry(parent, name);
    this.#sql("INSERT INTO dirent (parent, name, id, ino, type, born) VALUES (?1, ?2, ?3, ?4, ?5, ?6)")
      .bindInt(1, parent)
      .bindBlob(2, entry.name)
      .bindInt(3, entry.cookie)
      .bindInt(4, this.#inoOf(entry.node))
      .bindInt(5, entry.kind)
      .bindInt(6, entry.born)
      .run();
  }

  #removeEntry(parent: number, name: Uint8Array): void {
    this.#touched?.entry(parent, name);
    this.#retire("dirent", "parent = ?1 AND name = ?2", (row) => row.bindInt(1, parent).bindBlob(2, name));
  }

  /** Moves rows to the past if a snapshot shows them, and takes them away. */
  #retire(table: string, which: string, bind: (row: Statement) => Statement): void {
    const past = `INSERT INTO ${table}_past SELECT *, ?3 FROM ${table} WHERE ${which} AND born <= ?4`;
    bind(this.#sql(past)).bindInt(3, this.#died).bindInt(4, this.#kept).run();
    bind(this.#sql(`DELETE FROM ${table} WHERE ${which}`)).run();
  }

  #dropXattr(ino: number, name: Uint8Array): void {
    this.#retire("xattr", "ino = ?1 AND name = ?2", (row) => row.bindInt(1, ino).bindBlob(2, name));
  }

  #xattr(name: Uint8Array, value: Uint8Array, born: number): void {
    this.#dropXattr(this.#last, name);
    const row = this.#sql("INSERT INTO xattr (ino, name, value, born) VALUES (?1, ?2, ?3, ?4)");
    row.bindInt(1, this.#last).bindBlob(2, name).bindBlob(3, value).bindInt(4, born).run();
  }

  #dropExtent(ino: number, idx: number): void {
    this.#touched?.inode(ino, true);
    const row = this.#sql("SELECT block, born FROM extent WHERE ino = ?1 AND idx = ?2");
    if (!row.bindInt(1, ino).bindInt(2, idx).step()) return;
    const [block, born] = [row.int(0), row.int(1)];
    row.reset();
    if (born > this.#kept && block > 0) this.#released.add(block);
    this.#retire("extent", "ino = ?1 AND idx = ?2", (one) => one.bindInt(1, ino).bindInt(2, idx));
  }

  #extents({ idx, shared, born, blocks }: ExtentsRecord): void {
    const row = this.#sql("INSERT INTO extent (ino, idx, block, shared, born) VALUES (?1, ?2, ?3, ?4, ?5)");
    for (const [i, block] of blocks.entries()) {
      this.#dropExtent(this.#last, idx + i);
      this.#named.add(block);
      row
        .bindInt(1, this.#last)
        .bindInt(2, idx + i)
        .bindInt(3, block);
      row
        .bindInt(4, shared ? 1 : 0)
        .bindInt(5, born)
        .run();
    }
  }

  #shared(ino: number, idx: number, block: number): void {
    for (const table of ["extent", "extent_past"])
      this.#sql(`UPDATE ${table} SET shared = 1 WHERE ino = ?1 AND idx = ?2 AND block = ?3`)
        .bindInt(1, ino)
        .bindInt(2, idx)
        .bindInt(3, block)
        .run();
  }

  #block(block: BlockRecord): void {
    if (this.#object === undefined) throw new LogError("damaged", "it has a block before any object");
    this.#blocks++;
    this.#onBlock({ ...block, object: this.#object.name, salt: this.#object.salt });
  }
}

function has(row: Statement): boolean {
  const found = row.step();
  if (found) row.reset();
  return found;
}
