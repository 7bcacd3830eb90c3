/** Loads a dump (src/archive/dumpformat.ts) into a new, empty volume that nobody else sees. */
import { createHash } from "node:crypto";
import { FsError } from "../base/errno.ts";
import { deviceOf, S_IFBLK, S_IFCHR, S_IFDIR, S_IFLNK, S_IFREG } from "../core/mode.ts";
import type { Likeness, Substance } from "../core/restore.ts";
import { type Ino, ROOT_INO } from "../core/types.ts";
import type { Volume } from "../core/volume.ts";
import { BASE64_COLUMNS, FIRST_LINE, MAGIC, TYPES, type TypeName } from "./dumpformat.ts";
import { unescapeBytes } from "./escape.ts";
import { FormatError, type Source } from "./source.ts";
import { parseTime } from "./time.ts";

/** More than any record: an attribute has 65,536 bytes, and a path does not grow for ever. */
const LINE_MAX = 16 * 2 ** 20;
const BLOCK_MAX = 1 << 20;
/** Beyond, nanoseconds do not fit 64 bits. */
const MAX_SEC = 9_223_372_035;

export interface DumpHeader {
  readonly blockSize: number;
}

/** Reads the first two lines. @throws FormatError */
export async function readDumpHeader(source: Source): Promise<DumpHeader> {
  const first = await source.line(LINE_MAX);
  if (first !== FIRST_LINE) {
    const version = first?.startsWith(MAGIC) ? first.slice(MAGIC.length) : undefined;
    throw new FormatError(
      version === undefined
        ? "line 1: not a dump of sqlfuse"
        : `line 1: a dump of version ${version}, which needs a newer sqlfuse`,
    );
  }
  const record = new Record(2, (await source.line(LINE_MAX)) ?? "");
  if (record.word !== "volume") throw record.error("a volume record must come second");
  const blockSize = record.number("block_size");
  if (record.text("content") !== "yes") {
    throw record.error("this dump was made with --no-data: the contents of files are not in it");
  }
  return { blockSize };
}

/** One line, taken apart. */
class Record {
  readonly word: string;
  readonly #line: number;
  readonly #fields = new Map<string, string>();

  constructor(line: number, text: string) {
    this.#line = line;
    const [word = "", ...fields] = text.split(" ");
    this.word = word;
    for (const field of fields) {
      const end = field.indexOf("=");
      if (end <= 0) throw this.error(`not a record: ${shorten(text)}`);
      this.#fields.set(field.slice(0, end), field.slice(end + 1));
    }
  }

  error(what: string): FormatError {
    return new FormatError(`line ${this.#line}: ${what}`);
  }

  text(key: string): string {
    const value = this.#fields.get(key);
    if (value === undefined) throw this.error(`${this.word} without ${key}=`);
    return value;
  }

  bytes(key: string): Buffer {
    const bytes = unescapeBytes(this.text(key));
    if (bytes === undefined) throw this.error(`${key}= is not escaped as it must be`);
    return bytes;
  }

  number(key: string, base: 8 | 10 = 10): number {
    const text = this.text(key);
    const value = Number.parseInt(text, base);
    if (!(base === 8 ? /^[0-7]+$/ : /^\d+$/).test(text) || !Number.isSafeInteger(value))
      throw this.error(`${key}=${shorten(text)} is not a number`);
    return value;
  }

  /** A user or group number. */
  id(key: string): number {
    const id = this.number(key);
    if (id > 0xffff_ffff) throw this.error(`${key}=${id} is too large`);
    return id;
  }

  time(key: string): { sec: number; nsec: number } {
    const time = parseTime(this.text(key));
    if (time === undefined || Math.abs(time.sec) > MAX_SEC)
      throw this.error(`${key}=${shorten(this.text(key))} is not a time`);
    return time;
  }
}

function shorten(text: string): string {
  return text.length > 60 ? `${text.slice(0, 60)}...` : text;
}

export interface LoadOptions {
  /** Called for each inode. */
  readonly onInode?: (() => void) | undefined;
}

/** Loads what follows the header. @throws FormatError, FsError ENOSPC, EIO */
export async function loadDump(volume: Volume, source: Source, options: LoadOptions = {}): Promise<void> {
  await new DumpLoader(volume, source, options).run();
}

class DumpLoader {
  readonly #volume: Volume;
  readonly #source: Source;
  readonly #onInode: (() => void) | undefined;
  #line = 2;
  #inodes = 0;
  #links = 0;
  /** The inode of the last inode record, and its size and block size where it is a file. */
  #ino: Ino | undefined;
  #file: { readonly size: number; readonly blockSize: number } | undefined;
  /** The directory that the last path was in: mostly the next one's too. */
  #directory: { readonly path: string; readonly ino: Ino } = { path: "", ino: ROOT_INO };

  constructor(volume: Volume, source: Source, options: LoadOptions) {
    this.#volume = volume;
    this.#source = source;
    this.#onInode = options.onInode;
  }

  async run(): Promise<void> {
    for (;;) {
      const text = await this.#source.line(LINE_MAX);
      this.#line++;
      if (text === undefined)
        throw new FormatError(`line ${this.#line}: it was cut off: the end record is missing`);
      const record = new Record(this.#line, text);
      if (record.word === "end") {
        await this.#end(record);
        return;
      }
      try {
        await this.#apply(record);
      } catch (error) {
        const environment = error instanceof FsError && ["ENOSPC", "EIO", "EROFS"].includes(error.code);
        throw error instanceof FsError && !environment ? record.error(error.message) : error;
      }
    }
  }

  async #apply(record: Record): Promise<void> {
    switch (record.word) {
      case "inode":
        this.#inode(record);
        this.#inodes++;
        this.#onInode?.();
        break;
      case "link": {
        const [parent, name] = this.#place(record, "path");
        this.#volume.restore.link(this.#find(record, record.bytes("to")), parent, name);
        this.#links++;
        break;
      }
      case "xattr":
        this.#volume.restore.xattr(this.#current(record), record.bytes("name"), record.bytes("value"));
        break;
      case "extent":
        await this.#extent(record);
        break;
      case "reserved":
        this.#volume.restore.reserve(this.#current(record), record.number("offset"), record.number("length"));
        break;
      default:
        throw record.error(`not a record: ${shorten(record.word)}`);
    }
  }

  #inode(record: Record): void {
    const type = record.text("type");
    if (!Object.hasOwn(TYPES, type)) throw record.error(`type=${shorten(type)} is no type of file`);
    const typeBits = TYPES[type as TypeName];
    const mode = record.number("mode", 8);
    if (mode > 0o7777) throw record.error(`mode=${record.text("mode")} is no mode`);
    const likeness: Likeness = {
      mode: typeBits | mode,
      uid: record.id("uid"),
      gid: record.id("gid"),
      mtime: record.time("mtime"),
      ctime: record.time("ctime"),
      btime: record.time("btime"),
      atime: record.time("atime"),
    };
    this.#file = undefined;
    if (record.text("path") === "/") {
      if (this.#inodes > 0 || typeBits !== S_IFDIR)
        throw record.error("the root is one directory, and comes first");
      this.#volume.restore.describe(ROOT_INO, likeness);
      this.#ino = ROOT_INO;
      return;
    }
    const [parent, name] = this.#place(record, "path");
    this.#ino = this.#volume.restore.make(parent, name, likeness, this.#substance(record, typeBits));
  }

  #substance(record: Record, type: number): Substance {
    if (type === S_IFREG) {
      this.#file = { size: record.number("size"), blockSize: record.number("block_size") };
      return this.#file;
    }
    if (type === S_IFLNK) return { target: record.bytes("target") };
    if (type !== S_IFCHR && type !== S_IFBLK) return {};
    const [, major, minor] = /^(\d{1,7}):(\d{1,7})$/.exec(record.text("rdev")) ?? [];
    const rdev = deviceOf(Number(major), Number(minor));
    if (rdev === undefined) throw record.error(`rdev=${shorten(record.text("rdev"))} is no device`);
    return { rdev };
  }

  async #extent(record: Record): Promise<void> {
    const ino = this.#current(record);
    const offset = record.number("offset");
    const length = record.number("length");
    if (this.#file === undefined) throw record.error("an extent of what is no file");
    if (length > Math.min(BLOCK_MAX, this.#file.blockSize))
      throw record.error(`length=${length} is more than a block`);
    const bytes = await this.#content(record, length);
    const hash = createHash("sha256").update(bytes).digest("hex");
    if (hash !== record.text("sha256")) throw record.error("the content is not what its sha256 says");
    this.#volume.restore.write(ino, offset, bytes);
  }

  /** The base64 lines that follow an extent. */
  async #content(record: Record, length: number): Promise<Buffer> {
    const characters = Math.ceil(length / 3) * 4;
    const lines = Math.ceil(characters / BASE64_COLUMNS);
    const text = await this.#source.exactly(characters + 2 * lines);
    if (text === undefined) throw record.error("it was cut off in the content of this extent");
    this.#line += lines;
    // Spaces and newlines are nothing to a decoder of base64; what else is no base64, the hash shows.
    return Buffer.from(text.toString("latin1"), "base64").subarray(0, length);
  }

  async #end(record: Record): Promise<void> {
    if (record.number("inodes") !== this.#inodes || record.number("links") !== this.#links)
      throw record.error(`records are missing: there are ${this.#inodes} inodes and ${this.#links} links`);
    if (this.#inodes === 0) throw record.error("there is no root directory");
    if ((await this.#source.some(1)) !== undefined) throw record.error("something follows the end record");
  }

  /** The inode that xattr, extent and reserved records speak of. */
  #current(record: Record): Ino {
    if (this.#ino === undefined) throw record.error(`${record.word} before any inode`);
    return this.#ino;
  }

  /** The directory and the name of a path that is about to be made. */
  #place(record: Record, key: string): [Ino, Buffer] {
    if (this.#inodes === 0) throw record.error("the root directory must come first");
    const path = record.bytes(key);
    const slash = path.lastIndexOf("/");
    if (path[0] !== 0x2f || slash === path.length - 1) throw record.error(`${key}= is no path`);
    const parent = path.toString("latin1", 0, slash);
    if (parent !== this.#directory.path) {
      this.#directory = { path: parent, ino: this.#find(record, path.subarray(0, slash)) };
    }
    return [this.#directory.ino, path.subarray(slash + 1)];
  }

  /** The inode that a path leads to. */
  #find(record: Record, path: Buffer): Ino {
    let ino = ROOT_INO;
    for (const name of path.toString("latin1").split("/").slice(1)) {
      const found = this.#volume.tree.lookup(ino, Buffer.from(name, "latin1"));
      if (found === undefined) throw record.error(`${path.toString()} was not there before`);
      ino = found.ino;
    }
    return ino;
  }
}
