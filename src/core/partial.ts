/**
 * Partial replicas: volumes that do not have the content of all their blocks, and can have it fetched.
 *
 * Each block has a row in `partial_block`; what is away has none in `block`. Reading that is refused with an AwayError, and
 * whoever reads has it fetched: src/log/ondemand.ts does that. What was fetched visits: it can be read before it is
 * recorded, and also where it never is.
 */
import { FsError } from "../base/errno.ts";
import type { Database } from "../db/database.ts";
import type { Statement } from "../db/statement.ts";
import { incompatibleFeatures, readMeta } from "./format.ts";
import type { BlockNo, Ino } from "./types.ts";

/** The content of a block is not here. */
export class AwayError extends FsError {
  readonly ino: Ino;
  /** Of a read: all blocks that it needs and that can be fetched, as of the same moment. */
  missing: readonly BlockNo[] = [];

  constructor(ino: Ino, block: BlockNo) {
    super("EIO", `block ${block} of inode ${ino} is not here: the replica is partial, see sqlfuse pin`);
    this.name = "AwayError";
    this.ino = ino;
  }
}

/** Files of so many bytes or fewer are always here. */
export const SMALL_BYTES = 65_536;

/** Bytes of content that visits at most: what came first goes. */
const MOST_VISITING = 48 * 2 ** 20;
/** Blocks that are known to have been used since this was last asked: those that were used last. */
const MOST_USED = 4096;

interface Visitor {
  /** Of the content, as partial_block has it: a log that starts over may have other content under the number. */
  readonly id: Uint8Array;
  readonly content: Uint8Array;
}

/** Content that was fetched, for all who have the volume open in one thread. */
export class Visiting {
  readonly #visitors = new Map<BlockNo, Visitor>();
  #bytes = 0;

  get(block: BlockNo): Visitor | undefined {
    return this.#visitors.get(block);
  }

  add(block: BlockNo, visitor: Visitor): void {
    this.drop(block);
    this.#visitors.set(block, visitor);
    this.#bytes += visitor.content.length;
    for (const oldest of this.#visitors.keys()) {
      if (this.#bytes <= MOST_VISITING) return;
      this.drop(oldest);
    }
  }

  drop(block: BlockNo): void {
    this.#bytes -= this.#visitors.get(block)?.content.length ?? 0;
    this.#visitors.delete(block);
  }
}

/** What of a volume is here, in bytes as they are stored. */
export interface Share {
  readonly blocks: number;
  readonly bytes: number;
  readonly blocksHere: number;
  readonly bytesHere: number;
  /** Bytes that may go again, and are here at most; 0: any. */
  readonly limit: number;
  readonly pins: readonly Ino[];
}

export function isPartial(db: Database): boolean {
  return incompatibleFeatures(db)?.includes("partial") === true;
}

export function shareOf(db: Database): Share {
  const row = db.prepare(
    `SELECT count(*), ifnull(sum(length), 0), count(*) FILTER (WHERE used > 0),
       ifnull(sum(length) FILTER (WHERE used > 0), 0) FROM partial_block`,
  );
  row.step();
  const [blocks, bytes, blocksHere, bytesHere] = [row.int(0), row.int(1), row.int(2), row.int(3)];
  db.release(row);
  const pins: Ino[] = [];
  const pinned = db.prepare("SELECT ino FROM pin ORDER BY ino");
  while (pinned.step()) pins.push(pinned.int(0) as Ino);
  db.release(pinned);
  const limit = Number(readMeta(db, "partial_limit") ?? 0);
  return { blocks, bytes, blocksHere, bytesHere, limit, pins };
}

/** What a volume that is partial knows of its blocks. */
export class Partial {
  readonly #visiting: Visiting;
  readonly #id: Statement;
  readonly #forget: Statement | undefined;
  readonly #used = new Set<BlockNo>();

  constructor(db: Database, readOnly: boolean, visiting: Visiting) {
    this.#visiting = visiting;
    this.#id = db.prepare("SELECT id FROM partial_block WHERE block = ?1");
    if (!readOnly) this.#forget = db.prepare("DELETE FROM partial_block WHERE block = ?1 RETURNING used");
  }

  /** Whether a block that has no row is away, and not lost. */
  isAway(block: BlockNo): boolean {
    return this.#idOf(block) !== undefined;
  }

  #idOf(block: BlockNo): Uint8Array | undefined {
    const row = this.#id.bindInt(1, block);
    if (!row.step()) return undefined;
    const id = row.blob(0);
    row.reset();
    return id;
  }

  /** Content that was fetched for a block, if it is the one that its number stands for now. */
  visitor(block: BlockNo): Uint8Array | undefined {
    const visitor = this.#visiting.get(block);
    if (visitor === undefined) return undefined;
    const id = this.#idOf(block);
    return id !== undefined && Buffer.compare(id, visitor.id) === 0 ? visitor.content : undefined;
  }

  /** It is named no more. Tells whether there is content to delete. */
  forget(block: BlockNo): boolean {
    const row = this.#forget?.bindInt(1, block);
    if (row?.step() !== true) return true;
    const isHere = row.int(0) > 0;
    row.reset();
    return isHere;
  }

  /** A block that is here was read. */
  use(block: BlockNo): void {
    this.#used.delete(block);
    this.#used.add(block);
    const [oldest] = this.#used.size > MOST_USED ? this.#used : [];
    if (oldest !== undefined) this.#used.delete(oldest);
  }

  /** Blocks that were read since this was last asked. */
  takeUsed(): BlockNo[] {
    const used = [...this.#used];
    this.#used.clear();
    return used;
  }
}
