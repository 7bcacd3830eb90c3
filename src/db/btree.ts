/**
 * SQLite's b-trees read without SQLite (https://sqlite.org/fileformat2.html), so that what lies
 * behind a damaged page is still read: a page that cannot be read costs its own rows only.
 *
 * Everything here is checked against the bounds of its page: a page may be authentic and yet
 * not be what the walk takes it for.
 */

/** Content of a page without its reserve; undefined where it cannot be read. */
export interface PageSource {
  read(pageNo: number): Buffer | undefined;
  readonly pageCount: number;
}

export type Value = null | number | bigint | string | Uint8Array;

export interface Row {
  /** Of a table with rowids; else 0. */
  readonly rowid: number | bigint;
  readonly values: readonly Value[];
  /** Bytes missing at the end of the last value: a page behind it cannot be read. */
  readonly missing: number;
}

/** What a walk meets: a row, or a page that it could not read. */
export type Met = { readonly row: Row } | { readonly lost: number };

const INDEX_INTERIOR = 2;
const TABLE_INTERIOR = 5;
const INDEX_LEAF = 10;
const TABLE_LEAF = 13;
/** Deeper than any b-tree of 2^32 pages. */
const DEEPEST = 40;
/** Pages that are asked for what the damaged header says. */
const PAGES_TO_ASK = 256;
/** Never continued on another page, whatever the size of one. */
const SHORT_PAYLOAD = 100;

interface Parsed {
  readonly type: number;
  /** Offsets of the cells. */
  readonly cells: readonly number[];
  /** Rightmost child of an interior page. */
  readonly right: number;
}

/** A b-tree page, undefined where the content is none. */
function parsePage(page: Buffer, pageNo: number): Parsed | undefined {
  const at = pageNo === 1 ? 100 : 0;
  const type = page[at] ?? 0;
  const interior = type === INDEX_INTERIOR || type === TABLE_INTERIOR;
  if (!interior && type !== INDEX_LEAF && type !== TABLE_LEAF) return undefined;
  const count = page.readUInt16BE(at + 3);
  const first = at + (interior ? 12 : 8);
  if (first + 2 * count > page.length) return undefined;
  const cells: number[] = [];
  for (let i = 0; i < count; i++) {
    const cell = page.readUInt16BE(first + 2 * i);
    if (cell < first + 2 * count || cell >= page.length) return undefined;
    cells.push(cell);
  }
  return { type, cells, right: interior ? page.readUInt32BE(at + 8) : 0 };
}

/** Reads a varint; `end` is where it ends. */
function varint(page: Buffer, at: number): { readonly value: bigint; readonly end: number } {
  let value = 0n;
  for (let i = 0; i < 8; i++) {
    const byte = page[at + i] ?? 0;
    value = (value << 7n) | BigInt(byte & 127);
    if (byte < 128) return { value, end: at + i + 1 };
  }
  return { value: (value << 8n) | BigInt(page[at + 8] ?? 0), end: at + 9 };
}

function toInteger(value: bigint): number | bigint {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}

/** Bytes that a value of this serial type takes; undefined for a type that is none. */
function bytesOf(type: number): number | undefined {
  if (type >= 12) return (type - (type % 2 === 0 ? 12 : 13)) / 2;
  return [0, 1, 2, 3, 4, 6, 8, 8, 0, 0][type];
}

function decodeValue(type: number, bytes: Buffer): Value {
  if (type === 0) return null;
  if (type === 8 || type === 9) return type - 8;
  if (type === 7) return bytes.readDoubleBE(0);
  if (type === 6) return toInteger(bytes.readBigInt64BE(0));
  if (type <= 5) return bytes.readIntBE(0, bytes.length);
  return type % 2 === 0 ? Buffer.from(bytes) : bytes.toString("utf8");
}

/** The values of a record of which `payload` has the first bytes; undefined where it is none. */
function decodeRecord(payload: Buffer, length: number): Omit<Row, "rowid"> | undefined {
  const header = varint(payload, 0);
  const headerEnd = Number(header.value);
  if (headerEnd > payload.length || headerEnd < header.end) return undefined;
  const values: Value[] = [];
  let at = header.end;
  let body = headerEnd;
  while (at < headerEnd) {
    const { value, end } = varint(payload, at);
    const type = Number(value);
    const bytes = bytesOf(type);
    if (bytes === undefined || end > headerEnd || body + bytes > length) return undefined;
    const whole = body + bytes <= payload.length;
    // Only what a blob at the end lacks can be told: it is shorter.
    if (!whole && (end < headerEnd || type < 12 || type % 2 !== 0)) return undefined;
    values.push(decodeValue(type, payload.subarray(body, body + bytes)));
    body += bytes;
    at = end;
  }
  if (body !== length) return undefined;
  return { values, missing: length - payload.length };
}

/**
 * Bytes of a page that b-trees use. The header states what is kept free at the end, and a database that was
 * first opened with other cipher settings keeps more free than its own need.
 */
function usableBytes(pages: PageSource): number {
  const header = pages.read(1);
  const STOCK_RESERVE = 80;
  if (header !== undefined) {
    const pageSize = header.readUInt16BE(16);
    return (pageSize === 1 ? 65_536 : pageSize) - (header[20] ?? 0);
  }
  // The first cell of a page ends where the usable bytes do: one that ends later than the usual place tells.
  let most = 0;
  let end = 0;
  for (let pageNo = 2; pageNo <= pages.pageCount && pageNo <= PAGES_TO_ASK; pageNo++) {
    const content = pages.read(pageNo);
    const page = content === undefined ? undefined : parsePage(content, pageNo);
    if (content === undefined || page === undefined) continue;
    most = content.length;
    if (page.type !== INDEX_LEAF) continue;
    for (const cell of page.cells) {
      const { value, end: at } = varint(content, cell);
      if (value < SHORT_PAYLOAD) end = Math.max(end, at + Number(value));
    }
  }
  const pageSize = 2 ** Math.ceil(Math.log2(most));
  return end > pageSize - STOCK_RESERVE ? most : pageSize - STOCK_RESERVE;
}

export class Btrees {
  readonly #pages: PageSource;
  readonly #usable: number;
  /** Pages that a walk took for its own. */
  readonly reached = new Set<number>();
  /** Overflow pages that the rows of one page led to. */
  #taken: number[] = [];

  constructor(pages: PageSource) {
    this.#pages = pages;
    this.#usable = usableBytes(pages);
  }

  /** All rows of the b-tree below `root`, in order, and the pages that cannot be read or belong elsewhere. */
  *walk(root: number, depth = 0): Generator<Met> {
    if (depth > DEEPEST || this.reached.has(root)) {
      yield { lost: root };
      return;
    }
    const content = this.#pages.read(root);
    const page = content === undefined ? undefined : parsePage(content, root);
    this.reached.add(root);
    if (content === undefined || page === undefined) {
      yield { lost: root };
      return;
    }
    const interior = page.type === TABLE_INTERIOR || page.type === INDEX_INTERIOR;
    for (const cell of page.cells) {
      if (interior) yield* this.walk(content.readUInt32BE(cell), depth + 1);
      if (page.type === TABLE_INTERIOR) continue;
      const row = this.#row(content, page.type, interior ? cell + 4 : cell);
      if (row !== undefined) yield { row };
      else yield { lost: root };
    }
    if (interior) yield* this.walk(page.right, depth + 1);
  }

  /** The rows of one page alone; undefined where it is not a page that holds rows, or one of them is none. */
  rowsOf(pageNo: number): Row[] | undefined {
    const content = this.#pages.read(pageNo);
    const page = content === undefined ? undefined : parsePage(content, pageNo);
    if (content === undefined || page === undefined || page.type === TABLE_INTERIOR) return undefined;
    this.#taken = [];
    const rows: Row[] = [];
    for (const cell of page.cells) {
      const row = this.#row(content, page.type, page.type === INDEX_INTERIOR ? cell + 4 : cell);
      if (row === undefined) {
        for (const taken of this.#taken) this.reached.delete(taken);
        return undefined;
      }
      rows.push(row);
    }
    return rows;
  }

  /** The first row of a page, which is not taken for reached by that. */
  peek(pageNo: number): Row | undefined {
    const row = this.rowsOf(pageNo)?.[0];
    for (const taken of this.#taken) this.reached.delete(taken);
    return row;
  }

  /** Children of an interior page, none of any other. */
  childrenOf(pageNo: number): number[] {
    const content = this.#pages.read(pageNo);
    const page = content === undefined ? undefined : parsePage(content, pageNo);
    if (content === undefined || page === undefined || page.right === 0) return [];
    return [...page.cells.map((cell) => content.readUInt32BE(cell)), page.right];
  }

  /** Pages of the free list; undefined where it cannot be read as a whole. */
  freePages(): Set<number> | undefined {
    const header = this.#pages.read(1);
    if (header === undefined) return undefined;
    const free = new Set<number>();
    const count = header.readUInt32BE(36);
    for (let trunk = header.readUInt32BE(32); trunk !== 0; ) {
      const content = this.#pages.read(trunk);
      if (content === undefined || free.has(trunk)) return undefined;
      free.add(trunk);
      const leaves = content.readUInt32BE(4);
      if (8 + 4 * leaves > content.length) return undefined;
      for (let i = 0; i < leaves; i++) free.add(content.readUInt32BE(8 + 4 * i));
      trunk = content.readUInt32BE(0);
    }
    return free.size === count ? free : undefined;
  }

  /** Bytes of a row that one overflow page holds. */
  get overflowBytes(): number {
    return this.#usable - 4;
  }

  /**
   * Chains of overflow pages that no row leads to, though they are not free: what lay behind a page that cannot
   * be read. Each from its first page; only those that end where a chain ends.
   */
  looseChains(free: ReadonlySet<number>): number[][] {
    const next = new Map<number, number>();
    for (let pageNo = 2; pageNo <= this.#pages.pageCount; pageNo++) {
      if (this.reached.has(pageNo) || free.has(pageNo)) continue;
      const content = this.#pages.read(pageNo);
      if (content !== undefined && parsePage(content, pageNo) === undefined)
        next.set(pageNo, content.readUInt32BE(0));
    }
    const inner = new Set(next.values());
    const chains: number[][] = [];
    for (const head of next.keys()) {
      if (inner.has(head)) continue;
      const chain: number[] = [];
      let at: number | undefined = head;
      for (; at !== undefined && at !== 0 && chain.length <= next.size; at = next.get(at)) chain.push(at);
      if (at === 0) chains.push(chain);
    }
    return chains;
  }

  /** The bytes of rows on overflow pages, one behind the other. */
  overflowOf(chain: readonly number[]): Buffer {
    return Buffer.concat(
      chain.map((page) => this.#pages.read(page)?.subarray(4, this.#usable) ?? Buffer.alloc(0)),
    );
  }

  /** The row of one cell; undefined where it is none. */
  #row(content: Buffer, type: number, cell: number): Row | undefined {
    const size = varint(content, cell);
    const length = Number(size.value);
    let at = size.end;
    let rowid: number | bigint = 0;
    if (type === TABLE_LEAF) {
      const id = varint(content, at);
      rowid = toInteger(BigInt.asIntN(64, id.value));
      at = id.end;
    }
    const payload = this.#payload(content, type, at, length);
    const record = payload === undefined ? undefined : decodeRecord(payload, length);
    return record === undefined ? undefined : { rowid, ...record };
  }

  /** A payload of `length` bytes that begins at `at`; what lies behind a page that cannot be read is left out. */
  #payload(content: Buffer, type: number, at: number, length: number): Buffer | undefined {
    const usable = this.#usable;
    const most = type === TABLE_LEAF ? usable - 35 : Math.floor(((usable - 12) * 64) / 255) - 23;
    if (length <= most) return at + length <= usable ? content.subarray(at, at + length) : undefined;
    const least = Math.floor(((usable - 12) * 32) / 255) - 23;
    const fitting = least + ((length - least) % (usable - 4));
    const local = fitting <= most ? fitting : least;
    const LARGEST = 2 ** 31;
    if (at + local + 4 > usable || length > LARGEST) return undefined;
    const parts = [content.subarray(at, at + local)];
    let left = length - local;
    let next = content.readUInt32BE(at + local);
    while (left > 0) {
      const page = next === 0 || this.reached.has(next) ? undefined : this.#pages.read(next);
      if (page === undefined) {
        if (next !== 0) this.reached.add(next);
        break;
      }
      this.reached.add(next);
      this.#taken.push(next);
      const part = page.subarray(4, 4 + Math.min(left, usable - 4));
      parts.push(part);
      left -= part.length;
      next = page.readUInt32BE(0);
    }
    return Buffer.concat(parts);
  }
}
