/** `sqlfuse ls FILE [PATH...]`: what is in a volume. */
import { readFileSync } from "node:fs";
import { isatty } from "node:tty";
import type { Command } from "commander";
import { describe } from "../src/archive/copy.ts";
import { typeName } from "../src/archive/dumpformat.ts";
import { showBytes } from "../src/archive/escape.ts";
import { resolvePath } from "../src/archive/path.ts";
import { type Place, PlaceError, refusalOf, type Stat } from "../src/archive/place.ts";
import type { Time } from "../src/base/clock.ts";
import { isDevice, isDirectory, isSymlink, S_IFMT } from "../src/core/mode.ts";
import { pathText } from "./copying.ts";
import { addHelp } from "./help.ts";
import { type Breath, interruptible } from "./interrupt.ts";
import { type AtFlags, addAtOption } from "./moment.ts";
import { formatBytes, localTime } from "./output.ts";
import { addPasswordOptions, type PasswordOptions } from "./password.ts";
import { Sink } from "./sink.ts";
import { Skips, textOf } from "./skips.ts";
import { withPlace } from "./volumes.ts";

interface LsFlags extends PasswordOptions, AtFlags {
  readonly long?: true;
  readonly all?: true;
  readonly recursive?: true;
  readonly directory?: true;
  readonly humanReadable?: true;
  readonly json?: true;
}

export function addLs(program: Command): void {
  const command = program
    .command("ls")
    .summary("list what is in a volume")
    .description("Lists PATH in the volume. Works without FUSE, and on a mounted volume as well.")
    .argument("<file>", "the database file")
    .argument("[path...]", "what to list (default: the root directory)")
    .option("-l, --long", "with type, mode, links, owner, size and time")
    .option("-a, --all", "also names that begin with a dot")
    .option("-R, --recursive", "also what is in directories below")
    .option("-d, --directory", "directories themselves, not what is in them")
    .option("--human-readable", "with -l: sizes as 1.5 KiB")
    .option("--json", "everything as JSON, one array; with names that begin with a dot");
  addAtOption(command);
  addPasswordOptions(command).action(ls);
  addHelp(command, {
    examples: [
      "sqlfuse ls -l vault.sqlite letters",
      "sqlfuse ls --at yesterday vault.sqlite letters",
      "sqlfuse ls -R --json vault.sqlite | jq -r '.[] | select(.size > 1e6).path'",
    ],
  });
}

async function ls(file: string, paths: readonly string[], flags: LsFlags): Promise<void> {
  const skips = new Skips();
  await interruptible("stopped", async (breath) => {
    await withPlace(file, flags, false, async ({ place }) => {
      const output = flags.json ? new JsonOutput() : new TextOutput(flags);
      const lister = new Lister(place, flags, output, skips, breath);
      await lister.list(paths.length === 0 ? ["/"] : paths);
      output.end();
    });
  });
  skips.setExitCode();
}

interface Item {
  readonly path: string;
  /** What the line shows. */
  readonly name: string;
  readonly stat: Stat;
  readonly target: string;
}

interface Output {
  /** Items of one directory, or those named on the command line. */
  items(items: readonly Item[]): void;
  heading(path: string, first: boolean): void;
  end(): void;
}

class Lister {
  readonly #place: Place;
  readonly #flags: LsFlags;
  readonly #output: Output;
  readonly #skips: Skips;
  readonly #breath: Breath;

  constructor(place: Place, flags: LsFlags, output: Output, skips: Skips, breath: Breath) {
    this.#place = place;
    this.#flags = flags;
    this.#output = output;
    this.#skips = skips;
    this.#breath = breath;
  }

  /** As ls(1): files first, then each directory, with headings where there are several. */
  async list(paths: readonly string[]): Promise<void> {
    const single: Item[] = [];
    const directories: string[] = [];
    for (const text of paths) {
      try {
        // The long form shows a symlink itself.
        const itself =
          this.#flags.long === true || this.#flags.directory === true || this.#flags.json === true;
        const path = resolvePath(this.#place, pathText(text), !itself);
        const item = this.#item(path, pathText(text));
        if (isDirectory(item.stat.mode) && !this.#flags.directory) directories.push(path);
        else single.push(item);
      } catch (error) {
        this.#refused(pathText(text), error);
      }
    }
    if (single.length > 0) this.#output.items(single);
    const headed = this.#flags.recursive === true || directories.length > 1 || single.length > 0;
    let first = single.length === 0;
    const waiting = directories.reverse();
    for (let path = waiting.pop(); path !== undefined; path = waiting.pop()) {
      if (headed) this.#output.heading(path, first);
      first = false;
      try {
        const below = await this.#directory(path);
        if (this.#flags.recursive) waiting.push(...below.reverse());
      } catch (error) {
        this.#refused(path, error);
      }
    }
  }

  /** Shows what is in a directory; gives its directories. What is damaged, or gone meanwhile, costs no other entry. */
  async #directory(path: string): Promise<string[]> {
    const items: Item[] = [];
    for (const name of this.#place.names(path)) {
      if (name.startsWith(".") && !this.#flags.all && !this.#flags.json) continue;
      try {
        items.push(this.#item(`${path}/${name}`, name));
      } catch (error) {
        this.#refused(`${path}/${name}`, error);
      }
      await this.#breath.breathe();
    }
    this.#output.items(items);
    this.#skips.done();
    return items.filter(({ stat }) => isDirectory(stat.mode)).map((item) => item.path);
  }

  #item(path: string, name: string): Item {
    const stat = this.#place.stat(path);
    if (stat === undefined) throw new PlaceError("ENOENT");
    return { path, name, stat, target: isSymlink(stat.mode) ? this.#place.readlink(path) : "" };
  }

  /** `path` is latin1. */
  #refused(path: string, error: unknown): void {
    if (refusalOf(error) === undefined) throw error;
    this.#skips.skip(path, describe(error));
  }
}

class TextOutput implements Output {
  readonly #flags: LsFlags;
  readonly #sink = new Sink(undefined);
  /** A terminal is shown what cannot harm it; a program gets the bytes. */
  readonly #shown = isatty(1);
  readonly #users = new Names("/etc/passwd");
  readonly #groups = new Names("/etc/group");

  constructor(flags: LsFlags) {
    this.#flags = flags;
  }

  items(items: readonly Item[]): void {
    const rows = this.#flags.long ? items.map((item) => this.#long(item)) : [];
    const widths = [0, 1, 2, 3, 4].map((column) =>
      Math.max(0, ...rows.map((row) => row[column]?.length ?? 0)),
    );
    const lines = items.map((item, i) => {
      const [mode = "", links = "", user = "", group = "", size = "", time = ""] = rows[i] ?? [];
      const [, linksWidth = 0, userWidth = 0, groupWidth = 0, sizeWidth = 0] = widths;
      const name = this.#text(item.name);
      if (!this.#flags.long) return `${name}\n`;
      const owner = `${user.padEnd(userWidth)} ${group.padEnd(groupWidth)}`;
      const arrow = item.target === "" ? "" : ` -> ${this.#text(item.target)}`;
      return `${mode} ${links.padStart(linksWidth)} ${owner} ${size.padStart(sizeWidth)} ${time} ${name}${arrow}\n`;
    });
    this.#sink.write(Buffer.from(lines.join(""), "latin1"));
  }

  heading(path: string, first: boolean): void {
    this.#sink.write(Buffer.from(`${first ? "" : "\n"}${this.#text(path === "" ? "/" : path)}:\n`, "latin1"));
  }

  end(): void {}

  #text(name: string): string {
    if (!this.#shown) return name;
    return Buffer.from(showBytes(Buffer.from(name, "latin1"))).toString("latin1");
  }

  #long({ stat }: Item): string[] {
    const size = this.#flags.humanReadable ? formatBytes(stat.size) : String(stat.size);
    return [
      modeText(stat.mode),
      String(stat.nlink),
      this.#users.of(stat.uid),
      this.#groups.of(stat.gid),
      isDevice(stat.mode) ? `${stat.major}, ${stat.minor}` : size,
      localTime(new Date(stat.mtime.sec * 1000)),
    ];
  }
}

/** Names of users or groups on this machine, as ls -l shows them; the number of others. */
class Names {
  readonly #file: string;
  #names: Map<string, string> | undefined;

  constructor(file: string) {
    this.#file = file;
  }

  of(id: number): string {
    this.#names ??= this.#read();
    return this.#names.get(String(id)) ?? String(id);
  }

  #read(): Map<string, string> {
    try {
      const lines = readFileSync(this.#file, "latin1").split("\n");
      return new Map(lines.map((line) => line.split(":")).map(([name = "", , id = ""]) => [id, name]));
    } catch {
      return new Map();
    }
  }
}

const LETTERS = { file: "-", dir: "d", symlink: "l", fifo: "p", socket: "s", char: "c", block: "b" } as const;

/** "drwxr-xr-x" */
function modeText(mode: number): string {
  const bits = ["r", "w", "x", "r", "w", "x", "r", "w", "x"].map((letter, i) =>
    (mode & (0o400 >> i)) === 0 ? "-" : letter,
  );
  const special = (bit: number, at: number, letter: string): void => {
    if ((mode & bit) !== 0) bits[at] = bits[at] === "x" ? letter : letter.toUpperCase();
  };
  special(0o4000, 2, "s");
  special(0o2000, 5, "s");
  special(0o1000, 8, "t");
  return LETTERS[typeName(mode & S_IFMT)] + bits.join("");
}

class JsonOutput implements Output {
  readonly #sink = new Sink(undefined);
  #any = false;

  items(items: readonly Item[]): void {
    for (const item of items) {
      this.#sink.write(Buffer.from(`${this.#any ? ",\n" : "[\n"}  ${JSON.stringify(jsonOf(item))}`));
      this.#any = true;
    }
  }

  heading(): void {}

  end(): void {
    this.#sink.write(Buffer.from(this.#any ? "\n]\n" : "[]\n"));
  }
}

function jsonOf({ path, stat, target }: Item): object {
  return {
    ...textOf("path", path === "" ? "/" : path),
    type: typeName(stat.mode & S_IFMT),
    mode: (stat.mode & 0o7777).toString(8).padStart(4, "0"),
    links: stat.nlink,
    uid: stat.uid,
    gid: stat.gid,
    size: stat.size,
    allocated: stat.allocated,
    mtime: isoTime(stat.mtime),
    atime: isoTime(stat.atime),
    ...(isDevice(stat.mode) ? { device: `${stat.major}:${stat.minor}` } : {}),
    ...(isSymlink(stat.mode) ? textOf("target", target) : {}),
  };
}

/** ISO 8601 with nanoseconds. */
function isoTime({ sec, nsec }: Time): string {
  const whole = new Date(sec * 1000).toISOString();
  return `${whole.slice(0, -5)}.${String(nsec).padStart(9, "0")}Z`;
}
