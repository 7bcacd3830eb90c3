/** How the files of a volume are called, for messages: as they are, with what a terminal must not see escaped. */
import type { Database } from "../db/database.ts";
import { type Ino, ROOT_INO } from "./types.ts";

/** More than this many names are read in one scan. */
const ASKED_ONE_BY_ONE = 20;
const DEEPEST = 4096;

interface Entry {
  readonly parent: Ino;
  readonly name: Uint8Array;
}

/** A name, with control characters and bytes that are no UTF-8 as \xNN. */
export function showName(name: Uint8Array): string {
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(name);
  } catch {
    text = Buffer.from(name)
      .toString("latin1")
      .replace(/[\x80-\xff]/g, escapeOf);
  }
  return showText(text);
}

/** Text on one line, whatever is in it. */
export function showText(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what must not reach a terminal
  return text.replace(/[\x00-\x1f\x7f-\x9f\u2028\u2029]/g, escapeOf);
}

function escapeOf(character: string): string {
  return `\\x${character.charCodeAt(0).toString(16).padStart(2, "0")}`;
}

export class Names {
  readonly #db: Database;
  readonly #known = new Map<Ino, Entry | undefined>();
  #scanned = false;

  constructor(db: Database) {
    this.#db = db;
  }

  /** A path that leads to `ino`, undefined where none does; one of a file with several. */
  pathOf(ino: Ino): string | undefined {
    const names: string[] = [];
    for (let at = ino; at !== ROOT_INO; ) {
      const entry = this.#entryOf(at);
      if (entry === undefined || names.length > DEEPEST) return undefined;
      names.unshift(showName(entry.name));
      at = entry.parent;
    }
    return `/${names.join("/")}`;
  }

  /** The path of an entry; "?" stands for a directory that no path leads to. */
  pathOfEntry(parent: Ino, name: Uint8Array): string {
    const above = this.pathOf(parent);
    return `${above === undefined ? "?/" : above === "/" ? "/" : `${above}/`}${showName(name)}`;
  }

  #entryOf(ino: Ino): Entry | undefined {
    if (this.#known.has(ino) || this.#scanned) return this.#known.get(ino);
    if (this.#known.size >= ASKED_ONE_BY_ONE) {
      this.#scan();
      return this.#known.get(ino);
    }
    const row = this.#db.prepare("SELECT parent, name FROM dirent WHERE ino = ?1 LIMIT 1").bindInt(1, ino);
    const entry = row.step() ? { parent: Number(row.bigint(0)) as Ino, name: row.blob(1) } : undefined;
    this.#db.release(row);
    this.#known.set(ino, entry);
    return entry;
  }

  #scan(): void {
    this.#scanned = true;
    const rows = this.#db.prepare("SELECT ino, parent, name FROM dirent");
    while (rows.step()) {
      const ino = Number(rows.bigint(0)) as Ino;
      if (!this.#known.has(ino))
        this.#known.set(ino, { parent: Number(rows.bigint(1)) as Ino, name: rows.blob(2) });
    }
    this.#db.release(rows);
  }
}
