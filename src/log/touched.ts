/** What a segment changed, for one who keeps some of it elsewhere: bounded, so that it is everything where it is much. */

/** A name in a directory. */
export interface TouchedEntry {
  readonly parent: number;
  readonly name: Uint8Array;
}

/** A plain object. */
export interface TouchedRows {
  /** All that can be: then nothing is listed. */
  readonly everything: boolean;
  /** Inodes whose attributes changed, or that are gone. */
  readonly inodes: readonly number[];
  /** Inodes whose content or listing changed too. */
  readonly contents: readonly number[];
  readonly entries: readonly TouchedEntry[];
}

/** More inodes, or entries, are everything. */
const MOST = 8192;

export class Touched {
  readonly #inodes = new Set<number>();
  readonly #contents = new Set<number>();
  #entries: TouchedEntry[] = [];
  #everything: boolean;

  constructor(everything = false) {
    this.#everything = everything;
  }

  inode(ino: number, content: boolean): void {
    if (this.#everything) return;
    if (content) this.#contents.add(ino);
    else this.#inodes.add(ino);
    this.#bound(this.#inodes.size + this.#contents.size);
  }

  entry(parent: number, name: Uint8Array): void {
    if (this.#everything) return;
    this.#entries.push({ parent, name });
    this.#bound(this.#entries.length);
  }

  #bound(count: number): void {
    if (count <= MOST) return;
    this.#everything = true;
    this.#inodes.clear();
    this.#contents.clear();
    this.#entries = [];
  }

  rows(): TouchedRows {
    const inodes = [...this.#inodes].filter((ino) => !this.#contents.has(ino));
    return {
      everything: this.#everything,
      inodes,
      contents: [...this.#contents],
      entries: this.#entries,
    };
  }
}
