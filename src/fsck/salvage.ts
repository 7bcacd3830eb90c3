/**
 * Copies every row that can still be read into another database, page by page without SQLite.
 *
 * Each table is walked from its root. Where a page of it cannot be read, the pages that nobody
 * leads to are searched for rows of its shape; pages of the free list are left out, as they hold
 * rows that were deleted. What a row says is not judged here: the invariants are mended afterwards. Only a block that is
 * compressed must be there as a whole to be read at all: else it is lost, and an empty one takes its place.
 */

import { RAW, undecodable } from "../core/codec.ts";
import { Btrees, type Row, type Value } from "../db/btree.ts";
import type { Database } from "../db/database.ts";
import type { Pages } from "../db/pages.ts";
import type { Statement } from "../db/statement.ts";

/** A table, and how its rows are stored. */
interface Shape {
  readonly name: string;
  /** Whether rows lie in a table b-tree, under a rowid that is the first column. */
  readonly hasRowid: boolean;
  /** In the order in which they are stored. */
  readonly columns: readonly Column[];
}

interface Column {
  readonly name: string;
  readonly type: string;
  readonly nullable: boolean;
}

export interface Salvaged {
  /** Pages that cannot be read, by the table that they belong to where it can be told. */
  readonly lost: ReadonlyMap<number, string>;
  /** Blocks of which bytes could not be read, and which: from the first up to the last, exclusive. */
  readonly partial: ReadonlyMap<number, Gap>;
  /** Attributes that cannot be read as a whole, by inode and name. */
  readonly attributes: readonly (readonly [ino: number, name: Uint8Array])[];
  /** Inodes between which attributes lay that cannot be read: the last one before and the first one behind. */
  readonly attributeGaps: readonly (readonly [from: number, to: number])[];
}

export interface Gap {
  readonly from: number;
  readonly to: number;
}

/** Rows between two reports of progress. */
const SLICE = 512;
/** Holds all that dirent does but `born`: a second copy of each name. */
const NAMES_INDEX = "dirent_by_id";

/**
 * Fills `to`, which has the schema and nothing in its tables. Without `withData` blocks stay empty:
 * enough to tell what is damaged. Yields the rows copied so far.
 */
export function* salvage(pages: Pages, to: Database, withData: boolean): Generator<number, Salvaged> {
  const copy = new Copy(pages, to, withData);
  yield* copy.run();
  return copy;
}

class Copy implements Salvaged {
  readonly lost = new Map<number, string>();
  readonly partial = new Map<number, Gap>();
  /** Blocks that were compressed and cannot be decoded, with the bytes of their content. */
  readonly #undecodable = new Map<number, number>();
  readonly attributes: [number, Uint8Array][] = [];
  readonly attributeGaps: [number, number][] = [];
  readonly #pages: Pages;
  readonly #to: Database;
  readonly #withData: boolean;
  readonly #trees: Btrees;
  readonly #shapes: readonly Shape[];
  readonly #inserts = new Map<string, Statement>();
  /** Tables of which a page was lost. */
  readonly #holed = new Set<string>();
  #rows = 0;

  constructor(pages: Pages, to: Database, withData: boolean) {
    this.#pages = pages;
    this.#to = to;
    this.#withData = withData;
    this.#trees = new Btrees(pages);
    this.#shapes = shapesOf(to);
    for (const { name, columns } of this.#shapes) {
      const names = columns.map((column) => column.name).join(", ");
      const places = columns.map((_, i) => `?${i + 1}`).join(", ");
      this.#inserts.set(name, to.prepare(`INSERT OR IGNORE INTO ${name} (${names}) VALUES (${places})`));
    }
  }

  *run(): Generator<number> {
    const roots = this.#roots();
    for (const shape of this.#shapes) {
      const root = roots.get(shape.name);
      if (root === undefined) this.#holed.add(shape.name);
      else yield* this.#walk(shape, root);
    }
    // Indexes hold nothing of their own; walking them tells which pages are theirs.
    for (const [name, root] of roots) {
      if (this.#inserts.has(name)) continue;
      for (const met of this.#trees.walk(root)) {
        if ("lost" in met) this.lost.set(met.lost, `index ${name}`);
        else if (name === NAMES_INDEX && this.#holed.has("dirent")) this.#name(met.row.values);
      }
    }
    if (this.partial.size > 0) this.#reattach();
    if (this.#holed.size > 0) yield* this.#search();
    for (const [block, length] of this.#undecodable) this.partial.set(block, { from: 0, to: length });
  }

  /**
   * Finds what lay behind damaged overflow pages. Only where no page of a tree itself is lost, so that every loose
   * chain is the rest of a block that is known, and only where its length says of which: else bytes would be guessed.
   */
  #reattach(): void {
    const free = this.#trees.freePages();
    if (this.#holed.size > 0 || free === undefined) return;
    const { overflowBytes } = this.#trees;
    const pagesBehind = ({ from, to }: Gap) => Math.ceil((to - from) / overflowBytes) - 1;
    const chains = this.#trees.looseChains(free);
    const patch = this.#to.prepare(
      "UPDATE block SET data = CAST(data || zeroblob(?2) || ?3 AS BLOB) WHERE id = ?1",
    );
    for (const [block, gap] of this.partial) {
      if (this.#undecodable.has(block)) continue;
      const length = pagesBehind(gap);
      const fitting = chains.filter((chain) => chain.length === length);
      const alike = [...this.partial.values()].filter((other) => pagesBehind(other) === length);
      const [chain] = fitting;
      if (length < 1 || fitting.length !== 1 || alike.length !== 1 || chain === undefined) continue;
      const rest = this.#trees.overflowOf(chain).subarray(0, gap.to - gap.from - overflowBytes);
      if (this.#withData) patch.bindInt(1, block).bindInt(2, overflowBytes).bindBlob(3, rest).run();
      for (const page of chain) this.#trees.reached.add(page);
      this.partial.set(block, { from: gap.from, to: gap.from + overflowBytes });
    }
    this.#to.release(patch);
  }

  /** Roots of the b-trees, by name. */
  #roots(): Map<string, number> {
    const roots = new Map<string, number>();
    let whole = true;
    for (const met of this.#trees.walk(1)) {
      if ("lost" in met) {
        this.lost.set(met.lost, "the schema");
        whole = false;
        continue;
      }
      const [, name, , root] = met.row.values;
      if (typeof name === "string" && typeof root === "number" && root > 0) roots.set(name, root);
    }
    return whole && this.#shapes.every(({ name }) => roots.has(name)) ? roots : this.#guessRoots(roots);
  }

  /**
   * The schema cannot be read. Tables are made in an empty database and roots never move, so the
   * first pages are the roots; which is whose, their rows tell.
   */
  #guessRoots(roots: Map<string, number>): Map<string, number> {
    const count = this.#to.prepare("SELECT count(*) FROM sqlite_schema WHERE rootpage > 0");
    const trees = count.step() ? count.int(0) : 0;
    this.#to.release(count);
    const known = new Set(roots.values());
    for (let root = 2; root <= trees + 1; root++) {
      if (known.has(root)) continue;
      const first = this.#firstRow(root);
      const shape = first === undefined ? undefined : this.#shapeOf(first);
      if (shape !== undefined) {
        if (!roots.has(shape.name)) roots.set(shape.name, root);
      } else if (first !== undefined && isNameRow(first.values)) {
        roots.set(NAMES_INDEX, root);
      }
    }
    return roots;
  }

  /** Some row of the tree below `root`. */
  #firstRow(root: number): Row | undefined {
    const DEEPEST = 40;
    let at = [root];
    for (let depth = 0; depth < DEEPEST && at.length > 0; depth++) {
      for (const page of at) {
        const row = this.#trees.peek(page);
        if (row !== undefined) return row;
      }
      at = at.flatMap((page) => this.#trees.childrenOf(page)).slice(0, 16);
    }
    return undefined;
  }

  *#walk(shape: Shape, root: number): Generator<number> {
    let last = 0;
    let gapFrom: number | undefined;
    for (const met of this.#trees.walk(root)) {
      if ("lost" in met) {
        this.#lose(met.lost, shape);
        gapFrom ??= last;
        continue;
      }
      if (!fits(met.row, shape)) {
        this.#holed.add(shape.name);
        continue;
      }
      last = Number(met.row.values[0]);
      if (gapFrom !== undefined && shape.name === "xattr") this.attributeGaps.push([gapFrom, last]);
      gapFrom = undefined;
      this.#insert(shape, met.row);
      if (++this.#rows % SLICE === 0) yield this.#rows;
    }
    if (gapFrom !== undefined && shape.name === "xattr")
      this.attributeGaps.push([gapFrom, Number.MAX_SAFE_INTEGER]);
  }

  #lose(page: number, shape: Shape): void {
    this.lost.set(page, `table ${shape.name}`);
    this.#holed.add(shape.name);
  }

  /** Looks for rows of the tables that lost a page where no walk led to. */
  *#search(): Generator<number> {
    const free = this.#trees.freePages() ?? new Set<number>();
    const count = this.#pages.pageCount;
    for (let page = 2; page <= count; page++) {
      if (page % SLICE === 0) yield this.#rows;
      if (this.#trees.reached.has(page) || free.has(page)) continue;
      const rows = this.#trees.rowsOf(page);
      const first = rows?.[0];
      if (rows === undefined || first === undefined) continue;
      const shape = this.#shapeOf(first);
      if (shape === undefined) {
        if (this.#holed.has("dirent"))
          for (const { values } of rows) if (isNameRow(values)) this.#name(values);
        continue;
      }
      if (!this.#holed.has(shape.name) || !rows.every((row) => fits(row, shape))) continue;
      this.#trees.reached.add(page);
      for (const row of rows) {
        this.#insert(shape, row);
        this.#rows++;
      }
    }
  }

  #shapeOf(row: Row): Shape | undefined {
    return this.#shapes.find((shape) => fits(row, shape));
  }

  #insert(shape: Shape, row: Row): void {
    if (shape.name === "block") {
      this.#insertBlock(shape, row);
      return;
    }
    if (row.missing > 0) {
      // Half a symlink or attribute is a wrong one.
      const [ino, name] = row.values;
      if (shape.name === "xattr" && name instanceof Uint8Array) this.attributes.push([Number(ino), name]);
      this.#holed.add(shape.name);
      return;
    }
    this.#put(shape, shape.hasRowid ? [row.rowid, ...row.values.slice(1)] : row.values);
  }

  #insertBlock(shape: Shape, { rowid, values, missing }: Row): void {
    const block = Number(rowid);
    const [, codec = null, hash = null, data] = values;
    if (!(data instanceof Uint8Array)) return;
    if (missing > 0) this.partial.set(block, { from: data.length, to: data.length + missing });
    const lost = typeof codec === "number" ? undecodable(codec, data, missing === 0) : undefined;
    if (lost === undefined) {
      this.#put(shape, [rowid, codec, hash, this.#withData ? data : new Uint8Array(0)]);
      return;
    }
    this.#undecodable.set(block, lost);
    this.#put(shape, [rowid, RAW, null, new Uint8Array(0)]);
  }

  /** An entry out of the index of entries; when it was born is not there. */
  #name(values: readonly Value[]): void {
    const shape = this.#shapes.find(({ name }) => name === "dirent");
    const [parent, id, ino, type, name] = values;
    if (shape === undefined || !isNameRow(values)) return;
    const FIRST_EPOCH = 1;
    const byColumn: Record<string, Value | undefined> = { parent, name, id, ino, type, born: FIRST_EPOCH };
    this.#put(
      shape,
      shape.columns.map((column) => byColumn[column.name] ?? null),
    );
  }

  #put(shape: Shape, values: readonly Value[]): void {
    const insert = this.#inserts.get(shape.name);
    if (insert === undefined) return;
    for (const [i, value] of values.entries()) bind(insert, i + 1, value);
    insert.run();
  }
}

function bind(to: Statement, index: number, value: Value): void {
  if (value === null) to.bindNull(index);
  else if (typeof value === "bigint") to.bindBigInt(index, value);
  else if (typeof value === "number") to.bindInt(index, value);
  else if (typeof value === "string") to.bindText(index, value);
  else to.bindBlob(index, value);
}

/** Whether a row is one of dirent_by_id: (parent, id, ino, type, name). */
function isNameRow(values: readonly Value[]): boolean {
  return (
    values.length === 5 &&
    values.slice(0, 4).every((value) => typeof value === "number") &&
    values[4] instanceof Uint8Array
  );
}

/** Whether a row can be one of the table. */
function fits({ values, rowid }: Row, { columns, hasRowid }: Shape): boolean {
  if (values.length !== columns.length) return false;
  if (!hasRowid && rowid !== 0) return false;
  return columns.every(({ type, nullable }, i) => {
    const value = values[i] ?? null;
    if (hasRowid && i === 0) return value === null;
    if (value === null) return nullable;
    if (type === "ANY") return true;
    if (type === "INTEGER")
      return typeof value === "bigint" || (typeof value === "number" && Number.isInteger(value));
    return type === "TEXT" ? typeof value === "string" : value instanceof Uint8Array;
  });
}

/** How the tables of a database store their rows. */
function shapesOf(db: Database): Shape[] {
  const list = db.prepare(
    "SELECT t.name, t.wr FROM pragma_table_list AS t WHERE t.schema = 'main' AND t.type = 'table' AND t.name NOT LIKE 'sqlite_%'",
  );
  const tables: [name: string, withoutRowid: boolean][] = [];
  while (list.step()) tables.push([list.text(0), list.int(1) !== 0]);
  db.release(list);
  return tables.map(([name, withoutRowid]) => {
    const rows = db.prepare(
      `SELECT name, type, "notnull", pk FROM pragma_table_info('${name}')
        ORDER BY ${withoutRowid ? "pk = 0, pk, cid" : "cid"}`,
    );
    const columns: Column[] = [];
    while (rows.step())
      columns.push({
        name: rows.text(0),
        type: rows.text(1),
        nullable: rows.int(2) === 0 && rows.int(3) === 0,
      });
    db.release(rows);
    return { name, hasRowid: !withoutRowid, columns };
  });
}
