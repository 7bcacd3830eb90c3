/**
 * Reads tar archives: v7, ustar, GNU (long names, old sparse files, base 256) and pax (with GNU.sparse 0.0, 0.1 and
 * 1.0). One member at a time, its data as it comes: nothing is held but one sparse map.
 */
import type { Time } from "../base/clock.ts";
import { latin1 } from "./escape.ts";
import { FormatError, type Source } from "./source.ts";
import {
  BLOCK,
  decodeHeader,
  decodePax,
  isHeader,
  isZeroBlock,
  number,
  TAR,
  type TarHeader,
} from "./tarheader.ts";
import { parseTime } from "./time.ts";

/** A piece of a file. */
interface Segment {
  readonly offset: number;
  readonly length: number;
}

export interface Member {
  /** One of TAR: file, link, symlink, char, block, dir, fifo; anything else as it stands in the archive. */
  readonly type: string;
  /** Latin1, as it stands in the archive. */
  readonly path: string;
  readonly linkpath: string;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly mtime: Time;
  readonly atime: Time | undefined;
  readonly ctime: Time | undefined;
  readonly btime: Time | undefined;
  /** Bytes of the file, holes included. */
  readonly size: number;
  readonly major: number;
  readonly minor: number;
  /** Attributes by name (latin1). */
  readonly xattrs: readonly (readonly [string, Buffer])[];
  /** ACLs as text. */
  readonly access: string | undefined;
  readonly defaults: string | undefined;
  /** Where the data lies in the file, in order; one segment for a file without holes. */
  readonly segments: readonly Segment[];
  /** The data, once: each piece with its place in the file. What is left when the next member is asked for is skipped. */
  data(): AsyncGenerator<{ readonly offset: number; readonly bytes: Buffer }>;
}

/** More than any pax header or long name. */
const META_MAX = 64 * 2 ** 20;
const STEP_BYTES = 1 << 20;
const XATTR = "SCHILY.xattr.";
const LIBARCHIVE_XATTR = "LIBARCHIVE.xattr.";

/** The members in order. @throws FormatError */
export async function* tarMembers(source: Source): AsyncGenerator<Member> {
  const reader = new TarReader(source);
  for (;;) {
    const member = await reader.next();
    if (member === undefined) return;
    yield member;
  }
}

class TarReader {
  readonly #source: Source;
  readonly #global = new Map<string, Buffer>();
  /** Bytes of the current member that are still in the source, padding included. */
  #left = 0;
  #members = 0;

  constructor(source: Source) {
    this.#source = source;
  }

  async next(): Promise<Member | undefined> {
    await this.#skip();
    const pax = new Map(this.#global);
    let longName: string | undefined;
    let longLink: string | undefined;
    for (;;) {
      const header = await this.#header();
      if (header === undefined) return undefined;
      switch (header.type) {
        case TAR.pax:
          decodePax(await this.#content(header), pax);
          break;
        case TAR.paxGlobal:
          decodePax(await this.#content(header), this.#global);
          for (const [key, value] of this.#global) if (!pax.has(key)) pax.set(key, value);
          break;
        case TAR.gnuLongName:
          longName = cutNul(await this.#content(header));
          break;
        case TAR.gnuLongLink:
          longLink = cutNul(await this.#content(header));
          break;
        default:
          this.#members++;
          return await this.#member(header, pax, longName, longLink);
      }
    }
  }

  async #block(): Promise<Buffer> {
    const block = await this.#source.exactly(BLOCK);
    if (block === undefined) throw this.#cutOff();
    return block;
  }

  #cutOff(): FormatError {
    return new FormatError(`the archive was cut off after ${this.#source.position} bytes`);
  }

  /** The next header; undefined at the end of the archive. */
  async #header(): Promise<(TarHeader & { readonly block: Buffer }) | undefined> {
    if ((await this.#source.peek(1)).length === 0) {
      // Two blocks of zeros should end it; some writers leave them out, but nothing at all is no archive.
      if (this.#members === 0) throw new FormatError("the archive is empty");
      return undefined;
    }
    const block = await this.#block();
    if (!isZeroBlock(block)) return { ...decodeHeader(block), block };
    // What follows is padding. It is read, so that whoever writes it is not left with a broken pipe.
    while ((await this.#source.some(STEP_BYTES)) !== undefined);
    return undefined;
  }

  /** The content of a member that says something about the next one. */
  async #content(header: TarHeader): Promise<Buffer> {
    if (header.size > META_MAX) throw new FormatError(`a header of the archive says ${header.size} bytes`);
    const bytes = await this.#source.exactly(header.size + padding(header.size));
    if (bytes === undefined) throw this.#cutOff();
    return bytes.subarray(0, header.size);
  }

  async #skip(): Promise<void> {
    while (this.#left > 0) {
      const bytes = await this.#source.some(Math.min(this.#left, STEP_BYTES));
      if (bytes === undefined) throw this.#cutOff();
      this.#left -= bytes.length;
    }
  }

  async #member(
    header: TarHeader & { readonly block: Buffer },
    pax: Map<string, Buffer>,
    longName: string | undefined,
    longLink: string | undefined,
  ): Promise<Member> {
    const text = (key: string): string | undefined => {
      const value = pax.get(key);
      return value === undefined ? undefined : latin1(value);
    };
    const whole = (key: string): number | undefined => {
      const value = text(key);
      if (value === undefined) return undefined;
      if (!/^\d+$/.test(value) || !Number.isSafeInteger(Number(value)))
        throw new FormatError(`a pax header of the archive is damaged: ${key}=${value.slice(0, 40)}`);
      return Number(value);
    };
    const time = (key: string): Time | undefined => parseTime(text(key) ?? "");
    const stored = whole("size") ?? header.size;
    if (stored < 0) throw new FormatError(`a header of the archive is damaged: its size is ${stored}`);
    this.#left = (await this.#holdsData(header.type)) ? stored + padding(stored) : 0;
    const { size, segments } = await this.#shape(header, stored, text, whole);
    const path = text("GNU.sparse.name") ?? text("path") ?? longName ?? header.name;
    return {
      type: typeOf(header, path),
      path,
      linkpath: text("linkpath") ?? longLink ?? header.linkname,
      mode: header.mode,
      uid: whole("uid") ?? header.uid,
      gid: whole("gid") ?? header.gid,
      mtime: time("mtime") ?? { sec: header.mtime, nsec: 0 },
      atime: time("atime"),
      ctime: time("ctime"),
      btime: time("LIBARCHIVE.creationtime"),
      size,
      major: header.major,
      minor: header.minor,
      xattrs: xattrsOf(pax),
      access: text("SCHILY.acl.access"),
      defaults: text("SCHILY.acl.default"),
      segments,
      data: () => this.#data(segments),
    };
  }

  /** Some writers give a hard link the size of its file, others its data too: what follows tells. */
  async #holdsData(type: string): Promise<boolean> {
    if (type !== TAR.link)
      return ![TAR.symlink, TAR.char, TAR.block, TAR.dir, TAR.fifo].some((none) => none === type);
    const next = await this.#source.peek(BLOCK);
    return next.length === BLOCK && !isHeader(next) && !isZeroBlock(next);
  }

  /** The size of a file and where its data lies; takes the map of a sparse one. */
  async #shape(
    header: TarHeader & { readonly block: Buffer },
    stored: number,
    text: (key: string) => string | undefined,
    whole: (key: string) => number | undefined,
  ): Promise<{ readonly size: number; readonly segments: readonly Segment[] }> {
    let size = whole("GNU.sparse.realsize") ?? whole("GNU.sparse.size");
    let map: readonly number[] | undefined;
    if (header.type === TAR.gnuSparse) {
      size = number(header.block, 483, 12);
      map = await this.#oldMap(header.block);
    } else if (text("GNU.sparse.major") === "1") {
      map = await this.#map();
    } else if (size !== undefined) {
      map = (text("GNU.sparse.map") ?? "")
        .split(",")
        .filter((part) => part !== "")
        .map(Number);
    }
    if (map === undefined || size === undefined) {
      return { size: stored, segments: stored > 0 ? [{ offset: 0, length: stored }] : [] };
    }
    const segments: Segment[] = [];
    let end = 0;
    for (let i = 0; i + 1 < map.length; i += 2) {
      const [offset = Number.NaN, length = Number.NaN] = [map[i], map[i + 1]];
      if (!(offset >= end && length >= 0 && Number.isSafeInteger(offset + length) && offset + length <= size))
        throw new FormatError("the map of a sparse file in the archive is damaged");
      end = offset + length;
      if (length > 0) segments.push({ offset, length });
    }
    return { size, segments };
  }

  /** GNU.sparse 1.0: decimal numbers in lines at the start of the data, in whole blocks. */
  async #map(): Promise<number[]> {
    const numbers: number[] = [];
    let text = "";
    for (let count = 1; numbers.length < count; ) {
      const end = text.indexOf("\n");
      if (end < 0) {
        if (this.#left < BLOCK) throw new FormatError("the map of a sparse file in the archive is damaged");
        text += latin1(await this.#block());
        this.#left -= BLOCK;
        continue;
      }
      const line = text.slice(0, end);
      if (!/^\d{1,16}$/.test(line))
        throw new FormatError("the map of a sparse file in the archive is damaged");
      numbers.push(Number(line));
      if (numbers.length === 1) count = 1 + 2 * Number(line);
      text = text.slice(end + 1);
    }
    return numbers.slice(1);
  }

  /** GNU's first way: four pairs in the header, and 21 in each block that follows while the one before says so. */
  async #oldMap(block: Buffer): Promise<number[]> {
    const numbers: number[] = [];
    const pairs = (bytes: Buffer, at: number, count: number): void => {
      for (let i = 0; i < count; i++) {
        const from = at + 24 * i;
        if (bytes[from] === 0) return;
        numbers.push(number(bytes, from, 12), number(bytes, from + 12, 12));
      }
    };
    pairs(block, 386, 4);
    for (let more = block[482] === 1; more; ) {
      const next = await this.#block();
      pairs(next, 0, 21);
      more = next[504] === 1;
    }
    return numbers;
  }

  async *#data(segments: readonly Segment[]): AsyncGenerator<{ offset: number; bytes: Buffer }> {
    for (const { offset, length } of segments) {
      for (let at = 0; at < length; ) {
        const bytes = await this.#source.some(Math.min(length - at, STEP_BYTES));
        if (bytes === undefined || this.#left < bytes.length) throw this.#cutOff();
        this.#left -= bytes.length;
        yield { offset: offset + at, bytes };
        at += bytes.length;
      }
    }
  }
}

function typeOf(header: TarHeader, path: string): string {
  const { type } = header;
  if (type === "\0" || type === TAR.file || type === TAR.contiguous || type === TAR.gnuSparse) {
    // Before there was a type for directories, a slash at the end said it.
    return path.endsWith("/") ? TAR.dir : TAR.file;
  }
  return type === TAR.gnuDumpdir ? TAR.dir : type;
}

function xattrsOf(pax: ReadonlyMap<string, Buffer>): (readonly [string, Buffer])[] {
  const found = new Map<string, Buffer>();
  for (const [key, value] of pax) {
    // libarchive writes both forms; this one only helps where the other is missing.
    if (key.startsWith(LIBARCHIVE_XATTR)) {
      const name = unescapePercent(key.slice(LIBARCHIVE_XATTR.length));
      if (!found.has(name)) found.set(name, Buffer.from(latin1(value), "base64"));
    } else if (key.startsWith(XATTR)) found.set(unescapePercent(key.slice(XATTR.length)), value);
  }
  return [...found];
}

function unescapePercent(text: string): string {
  return text.replace(/%([0-9A-Fa-f]{2})/g, (_, digits: string) =>
    String.fromCharCode(Number.parseInt(digits, 16)),
  );
}

function cutNul(bytes: Buffer): string {
  const text = latin1(bytes);
  const end = text.indexOf("\0");
  return end < 0 ? text : text.slice(0, end);
}

function padding(length: number): number {
  return (BLOCK - (length % BLOCK)) % BLOCK;
}
