/**
 * READs of a partial replica that wait until what they read was fetched, and what will be read next.
 *
 * Who reads on where he stopped has the blocks behind asked for in the background: the next few at first, and twice as much
 * each time, so that a distant remote keeps up with a reader. A reader who is interrupted waits as well: whoever fetches
 * gives up after a while.
 */
import type { BlockNo, Ino } from "../core/types.ts";

/** Whoever fetches blocks: see src/log/ondemand.ts. What becomes of them the session is told. */
export interface BlockFetcher {
  /** Asks for blocks that somebody waits for, and for some that he may want next. Those on their way are not asked again. */
  fetch(wanted: readonly BlockNo[], next: readonly BlockNo[]): void;
}

/** Blocks of a file that a READ would meet and that are away. */
type Away = (ino: Ino, offset: number, length: number) => readonly BlockNo[];

/** A request, as it came, and the blocks that it waits for. */
interface Waiting {
  readonly message: Uint8Array;
  readonly missing: Set<BlockNo>;
}

/** How a file is read. */
interface Reader {
  /** Where the last READ ended. */
  end: number;
  /** Up to where was asked for. */
  asked: number;
  /** Bytes to ask for behind what is read. */
  window: number;
}

const FIRST_WINDOW = 320 * 1024;
const LAST_WINDOW = 16 * 2 ** 20;
/** The kernel reads ahead in several READs, which come in any order. */
const NEAR = 2 * 2 ** 20;
/** Files whose way of being read is remembered. */
const MOST_READERS = 64;

export class Fetching {
  readonly #fetcher: BlockFetcher;
  readonly #waiting = new Map<number, Waiting>();
  readonly #readers = new Map<Ino, Reader>();
  #last = 0;

  constructor(fetcher: BlockFetcher) {
    this.#fetcher = fetcher;
  }

  /** Keeps a READ until its blocks are here. */
  wait(message: Uint8Array, missing: readonly BlockNo[]): void {
    this.#waiting.set(++this.#last, { message, missing: new Set(missing) });
    this.#fetcher.fetch(missing, []);
  }

  /** Somebody reads a file from `offset` to `end`. */
  readOn(ino: Ino, offset: number, end: number, away: Away): void {
    const reader = this.#readerOf(ino, offset);
    const isNear = offset <= reader.end + NEAR && end >= reader.end - NEAR;
    // The same READ again, when what it waited for came, or one that was overtaken: nobody has come further.
    if (isNear && end <= reader.end) return;
    if (!isNear) Object.assign(reader, { asked: end, window: FIRST_WINDOW });
    reader.end = end;
    const goal = reader.end + reader.window;
    // In large steps: each is a query.
    if (goal - reader.asked < reader.window / 2) return;
    const from = Math.max(reader.asked, reader.end);
    reader.asked = goal;
    reader.window = Math.min(LAST_WINDOW, reader.window * 2);
    const next = away(ino, from, goal - from);
    if (next.length > 0) this.#fetcher.fetch([], next);
  }

  #readerOf(ino: Ino, offset: number): Reader {
    const known = this.#readers.get(ino) ?? { end: offset, asked: offset, window: FIRST_WINDOW };
    this.#readers.delete(ino);
    this.#readers.set(ino, known);
    const [oldest] = this.#readers.size > MOST_READERS ? this.#readers.keys() : [];
    if (oldest !== undefined) this.#readers.delete(oldest);
    return known;
  }

  /** These are here: the requests that wait for nothing more. */
  arrived(blocks: readonly BlockNo[]): Uint8Array[] {
    const ready: Uint8Array[] = [];
    for (const [number, { message, missing }] of this.#waiting) {
      for (const block of blocks) missing.delete(block);
      if (missing.size > 0) continue;
      this.#waiting.delete(number);
      ready.push(message);
    }
    return ready;
  }

  /** These cannot be had: the requests that waited for one of them. */
  refused(blocks: readonly BlockNo[]): Uint8Array[] {
    const vain: Uint8Array[] = [];
    for (const [number, { message, missing }] of this.#waiting) {
      if (!blocks.some((block) => missing.has(block))) continue;
      this.#waiting.delete(number);
      vain.push(message);
    }
    return vain;
  }
}
