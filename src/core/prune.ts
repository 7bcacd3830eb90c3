/**
 * Drops the past rows that only deleted snapshots needed, and the blocks that then no extent names, in slices of
 * bounded time.
 *
 * Between two epochs that are kept, one and the next, lies a GAP. A row that was born after the first and died no later
 * than the second held in neither, so nobody can ask for it. Gaps with a deleted snapshot in them are swept; its row
 * goes last, so that a sweep that was stopped begins again.
 */
import { DamageError, FsError } from "../base/errno.ts";
import type { Statement } from "../db/statement.ts";
import type { Extents } from "./extents.ts";
import { hasSnapshots } from "./past.ts";
import type { Store } from "./store.ts";
import type { BlockNo, Ino } from "./types.ts";

/** Rows looked at between two looks at the clock; an extent may take a block with it, which must be read first. */
const STEP_ROWS = 64;
const STEP_EXTENTS = 16;
/** After a full disk refused a step. */
const PAUSE_MS = 1000;
const VOLUME = 0 as Ino;

interface Gap {
  readonly from: number;
  readonly to: number;
}

/** A place in the order of a past table: `died`, then its key. */
type Cursor = readonly (number | Uint8Array)[];

/** One *_past table, in the order in which its rows died. */
class PastTable {
  readonly #next: Statement;
  readonly #delete: Statement;
  readonly #isName: readonly boolean[];
  readonly rows: number;
  /** Column of the block, of a table that has one. */
  readonly #block: number | undefined;

  constructor(store: Store, table: string, key: readonly string[]) {
    const hasBlock = table === "extent";
    this.rows = hasBlock ? STEP_EXTENTS : STEP_ROWS;
    const order = ["died", ...key];
    this.#isName = order.map((column) => column === "name");
    this.#block = hasBlock ? order.length + 1 : undefined;
    const parameters = order.map((_, i) => `?${i + 1}`);
    this.#next = store.writer.prepare(
      `SELECT ${order.join(", ")}, born${hasBlock ? ", block, shared" : ""} FROM ${table}_past
         WHERE (${order.join(", ")}) > (${parameters.join(", ")}) AND died <= ?${order.length + 1}
         ORDER BY ${order.join(", ")} LIMIT ${this.rows}`,
    );
    this.#delete = store.writer.prepare(
      `DELETE FROM ${table}_past WHERE ${order.map((column, i) => `${column} = ?${i + 1}`).join(" AND ")}`,
    );
  }

  /** Before all rows that died after `epoch`. */
  after(epoch: number): Cursor {
    const LAST = Number.MAX_SAFE_INTEGER;
    return this.#isName.map((isName, i) => (i === 0 ? epoch : isName ? new Uint8Array(0) : LAST));
  }

  /** Where each of the next rows up to epoch `to` is, and what it holds. */
  page(from: Cursor, to: number): { at: Cursor; born: number; block: BlockNo; shared: boolean }[] {
    const rows = bindAll(this.#next, from).bindInt(from.length + 1, to);
    const page: { at: Cursor; born: number; block: BlockNo; shared: boolean }[] = [];
    while (rows.step()) {
      const at = this.#isName.map((isName, i) => (isName ? rows.blob(i) : rows.int(i)));
      const block = (this.#block === undefined ? 0 : rows.int(this.#block)) as BlockNo;
      const shared = this.#block !== undefined && rows.int(this.#block + 1) !== 0;
      page.push({ at, born: rows.int(from.length), block, shared });
    }
    return page;
  }

  delete(at: Cursor): void {
    bindAll(this.#delete, at).run();
  }
}

function bindAll(statement: Statement, values: Cursor): Statement {
  for (const [i, value] of values.entries()) {
    if (typeof value === "number") statement.bindInt(i + 1, value);
    else statement.bindBlob(i + 1, value);
  }
  return statement;
}

export class Prune {
  readonly #store: Store;
  readonly #extents: Extents;
  /** Empty in a volume that cannot be written. */
  readonly #tables: readonly PastTable[];
  readonly #deleted: Statement | undefined;
  readonly #done: Statement | undefined;
  /** What is swept; undefined where it is still to be found. */
  #gap: (Gap & { table: number; cursor: Cursor | undefined }) | undefined;
  /** Whether a deleted snapshot may be there. */
  #waits: boolean;
  #pausedUntilMs = 0;

  constructor(store: Store, extents: Extents) {
    this.#store = store;
    this.#extents = extents;
    this.#waits = !store.readOnly && hasSnapshots(store.writer);
    if (!this.#waits) {
      this.#tables = [];
      return;
    }
    // Inodes last: at no moment, which may be that of a crash, is there a row of an inode that was not there.
    this.#tables = [
      new PastTable(store, "extent", ["ino", "idx"]),
      new PastTable(store, "xattr", ["ino", "name"]),
      new PastTable(store, "dirent", ["parent", "name"]),
      new PastTable(store, "inode", ["ino"]),
    ];
    const kept = (what: string) => `(SELECT ${what} AND name IS NOT NULL)`;
    this.#deleted = store.writer.prepare(
      `SELECT ifnull(${kept("max(epoch) FROM snapshot WHERE epoch < d.epoch")}, 0),
         ifnull(${kept("min(epoch) FROM snapshot WHERE epoch > d.epoch")}, ?1)
         FROM snapshot AS d WHERE name IS NULL ORDER BY epoch LIMIT 1`,
    );
    this.#done = store.writer.prepare(
      "DELETE FROM snapshot WHERE name IS NULL AND epoch > ?1 AND epoch < ?2",
    );
  }

  /** A snapshot was deleted. */
  wake(): void {
    this.#waits = this.#tables.length > 0;
  }

  /** Whether there is anything to do, and it may be done. */
  get waiting(): boolean {
    return this.#waits && !this.#store.refusesChanges;
  }

  /** Whether it is better begun when what waits is committed, which it else does itself. */
  get isPutOff(): boolean {
    return this.#gap === undefined && this.#store.hasGroup;
  }

  /** Milliseconds for which there is no point in trying again, after there was no room. */
  pauseMs(nowMs: number): number {
    return Math.max(0, this.#pausedUntilMs - nowMs);
  }

  /** Prunes for about `ms` milliseconds; `Infinity` until nothing waits. */
  run(ms: number): void {
    const until = this.#store.clock.monotonicMs() + ms;
    while (this.waiting) {
      try {
        // What waits must not be lost with it, should the first look meet a damaged page.
        if (this.#gap === undefined) this.#store.commit();
        this.#store.query(VOLUME, () => this.#step());
      } catch (error) {
        if (error instanceof DamageError) {
          this.#store.log(`cannot prune what deleted snapshots left: ${error.message}`);
          this.#waits = false;
          return;
        }
        if (!(error instanceof FsError)) throw error;
        this.#pausedUntilMs = this.#store.clock.monotonicMs() + PAUSE_MS;
        return;
      }
      if (this.#store.clock.monotonicMs() >= until) return;
    }
  }

  #step(): void {
    this.#gap ??= this.#nextGap();
    const gap = this.#gap;
    if (gap === undefined) {
      this.#waits = false;
      return;
    }
    const table = this.#tables[gap.table];
    if (table === undefined) {
      this.#change(() => this.#done?.bindInt(1, gap.from).bindInt(2, gap.to).run());
      this.#gap = undefined;
      return;
    }
    const page = table.page(gap.cursor ?? table.after(gap.from), gap.to);
    const needless = page.filter(({ born }) => born > gap.from);
    if (needless.length > 0)
      this.#change(() => {
        for (const { at, block, shared } of needless) {
          table.delete(at);
          this.#extents.release(block, shared);
        }
      });
    gap.cursor = page.at(-1)?.at;
    if (page.length < table.rows) [gap.table, gap.cursor] = [gap.table + 1, undefined];
  }

  #change(apply: () => void): void {
    this.#store.change(VOLUME, 0, true, apply);
  }

  #nextGap(): (Gap & { table: number; cursor: Cursor | undefined }) | undefined {
    const row = this.#deleted;
    if (row === undefined || !row.bindInt(1, this.#store.epoch).step()) return undefined;
    const gap = { from: row.int(0), to: row.int(1), table: 0, cursor: undefined };
    row.reset();
    return gap;
  }
}
