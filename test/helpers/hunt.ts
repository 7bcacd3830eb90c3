/**
 * The hunt for plaintext: canaries that are put into a volume, and the search for them, and for secrets, in all that
 * was written anywhere. A canary is a mark that all of them share, so that one search finds all of them in many
 * spellings, and a half of its own, so that one is found as well where its mark was cut off.
 */
import { spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { lstatSync, readdirSync, readFileSync, readlinkSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";

/** What is searched: how errors call it, and from where its bytes are read. */
interface Place {
  readonly name: string;
  readonly path: string;
}

const HALF = 16;

function letters(): string {
  return randomBytes(HALF / 2).toString("hex");
}

/** The ways in which bytes could have been written down. */
function spellings(bytes: Buffer): [how: string, spelled: Buffer][] {
  const wide = Buffer.from(bytes.toString("latin1"), "utf16le");
  const hex = bytes.toString("hex");
  return [
    ["as it is", bytes],
    ["UTF-16LE", wide],
    ["UTF-16BE", Buffer.from(wide).swap16()],
    ["hex", Buffer.from(hex)],
    ["HEX", Buffer.from(hex.toUpperCase())],
    ...[0, 1, 2].map((before): [string, Buffer] => [`base64 after ${before} bytes`, inBase64(bytes, before)]),
  ];
}

/** The digits that tell nothing but `bytes`, wherever in a text they stand. */
function inBase64(bytes: Buffer, before: number): Buffer {
  const digits = Buffer.concat([Buffer.alloc(before), bytes]).toString("base64");
  const first = Math.ceil((before * 8) / 6);
  const last = Math.floor(((before + bytes.length) * 8) / 6);
  return Buffer.from(digits.slice(first, last));
}

export class Hunt {
  readonly #mark = letters();
  readonly #patterns = spellings(Buffer.from(this.#mark)).map(([how, spelled]): [string, Buffer] => [
    `a canary, ${how}`,
    spelled,
  ]);
  readonly #halves: string[] = [];
  /** Holds the unique halves for grep; it must not be where is searched. */
  readonly #list: string;

  constructor(list: string) {
    this.#list = list;
  }

  get count(): number {
    return this.#halves.length;
  }

  /** Text of 32 letters and digits that is nowhere else. */
  canary(): string {
    const half = letters();
    this.#halves.push(half);
    return this.#mark + half;
  }

  /** A password or key, to be found nowhere. */
  secret(what: string, bytes: Buffer): void {
    for (const [how, spelled] of spellings(bytes)) this.#patterns.push([`${what}, ${how}`, spelled]);
  }

  /** What was found where; empty if nothing was. Missing places were removed meanwhile. */
  search(places: readonly Place[]): string[] {
    const found: string[] = [];
    for (const { name, path } of places) {
      let bytes: Buffer;
      try {
        bytes = readFileSync(path);
      } catch (error) {
        if (error instanceof Error && "code" in error && error.code === "ENOENT") continue;
        throw error;
      }
      for (const [what, spelled] of this.#patterns) {
        const at = bytes.indexOf(spelled);
        if (at >= 0) found.push(`${name}: ${what}, at ${at}`);
      }
    }
    return [...found, ...this.#searchHalves(places)];
  }

  #searchHalves(places: readonly Place[]): string[] {
    writeFileSync(this.#list, this.#halves.map((half) => `${half}\n`).join(""));
    // With a file that is not there grep ends with 2 and has searched the others.
    const grep = spawnSync("grep", ["-alFf", this.#list, ...places.map(({ path }) => path)], {
      encoding: "utf8",
      env: { ...process.env, LC_ALL: "C" },
    });
    if (grep.error !== undefined) throw grep.error;
    return grep.stdout
      .split("\n")
      .filter((path) => path !== "")
      .map((path) => `${places.find((one) => one.path === path)?.name}: half a canary`);
  }
}

/** Every file below a directory; its name counts as well, and so does a symlink's target. */
export function filesBelow(directory: string): { files: Place[]; names: string[] } {
  const files: Place[] = [];
  const names: string[] = [];
  for (const name of readdirSync(directory, { recursive: true, encoding: "utf8" })) {
    const path = join(directory, name);
    const stat = lstatSync(path, { throwIfNoEntry: false });
    names.push(path);
    if (stat?.isSymbolicLink()) names.push(readlinkSync(path));
    if (stat?.isFile()) files.push({ name: path, path });
  }
  return { files, names };
}

/** The argument list and environment of a process, and every file that it has open, deleted ones included. */
export function ofProcess(pid: number): Place[] {
  const places = ["cmdline", "environ", "comm"].map((name) => `/proc/${pid}/${name}`);
  const found = places.map((path) => ({ name: path, path }));
  for (const fd of readdirSync(`/proc/${pid}/fd`)) {
    const path = `/proc/${pid}/fd/${fd}`;
    try {
      if (statSync(path).isFile()) found.push({ name: readlinkSync(path), path });
    } catch {
      // closed meanwhile
    }
  }
  return found;
}
