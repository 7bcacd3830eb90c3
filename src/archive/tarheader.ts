/**
 * The layout of tar: a header of 512 bytes per member (ustar, POSIX.1-1988, with what GNU tar made of it), and pax
 * records (POSIX.1-2001), which say what does not fit. Pure.
 */
import { latin1 } from "./escape.ts";
import { FormatError } from "./source.ts";

export const BLOCK = 512;

/** Members by typeflag. */
export const TAR = {
  file: "0",
  link: "1",
  symlink: "2",
  char: "3",
  block: "4",
  dir: "5",
  fifo: "6",
  contiguous: "7",
  pax: "x",
  paxGlobal: "g",
  gnuLongName: "L",
  gnuLongLink: "K",
  gnuSparse: "S",
  gnuDumpdir: "D",
  gnuLabel: "V",
} as const;

/** One header, whoever wrote it. Strings are latin1. */
export interface TarHeader {
  readonly name: string;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly size: number;
  /** Whole seconds. */
  readonly mtime: number;
  readonly type: string;
  readonly linkname: string;
  readonly major: number;
  readonly minor: number;
  readonly gnu: boolean;
}

const MAGIC_AT = 257;
const CHECKSUM_AT = 148;
const CHECKSUM_BYTES = 8;
const PREFIX_AT = 345;
const NAME_BYTES = 100;
const PREFIX_BYTES = 155;
export const LINKNAME_BYTES = 100;

export interface NameFields {
  readonly name: string;
  readonly prefix: string;
}

/** How a path fits a header's fields; undefined where it does not. */
export function splitName(path: string): NameFields | undefined {
  if (path.length <= NAME_BYTES) return { name: path, prefix: "" };
  // The slash between both is not stored. A directory's own slash at the end does not split.
  const slash = path.indexOf("/", path.length - NAME_BYTES - 1);
  if (slash <= 0 || slash > PREFIX_BYTES || slash === path.length - 1) return undefined;
  return { name: path.slice(slash + 1), prefix: path.slice(0, slash) };
}

/** Whether a number fits an octal field of so many digits. */
export function fitsOctal(value: number, digits: number): boolean {
  return value >= 0 && value < 8 ** digits;
}

/** Digits of the fields for mode, uid, gid and device numbers; of those for size and mtime. */
export const SHORT_DIGITS = 7;
export const LONG_DIGITS = 11;

/** A ustar header. Numbers that do not fit become 0: a pax record before it says them. */
export function encodeHeader(header: Omit<TarHeader, "gnu" | "name">, { name, prefix }: NameFields): Buffer {
  const bytes = Buffer.alloc(BLOCK);
  const octal = (value: number, at: number, digits: number): void => {
    bytes.write((fitsOctal(value, digits) ? value : 0).toString(8).padStart(digits, "0"), at, "latin1");
  };
  bytes.write(name, 0, "latin1");
  octal(header.mode, 100, SHORT_DIGITS);
  octal(header.uid, 108, SHORT_DIGITS);
  octal(header.gid, 116, SHORT_DIGITS);
  octal(header.size, 124, LONG_DIGITS);
  octal(header.mtime, 136, LONG_DIGITS);
  bytes.write(header.type, 156, "latin1");
  bytes.write(header.linkname, 157, "latin1");
  bytes.write("ustar\x0000", MAGIC_AT, "latin1");
  octal(header.major, 329, SHORT_DIGITS);
  octal(header.minor, 337, SHORT_DIGITS);
  bytes.write(prefix, PREFIX_AT, "latin1");
  bytes.fill(" ", CHECKSUM_AT, CHECKSUM_AT + CHECKSUM_BYTES);
  const sum = bytes.reduce((total, byte) => total + byte, 0);
  bytes.write(`${sum.toString(8).padStart(6, "0")}\0 `, CHECKSUM_AT, "latin1");
  return bytes;
}

export function isZeroBlock(bytes: Buffer): boolean {
  return bytes.every((byte) => byte === 0);
}

/** Whether 512 bytes are a header, by their checksum. */
export function isHeader(bytes: Buffer): boolean {
  const stored = Number.parseInt(text(bytes, CHECKSUM_AT, CHECKSUM_BYTES).trim(), 8);
  let unsigned = 0;
  let signed = 0;
  for (let i = 0; i < BLOCK; i++) {
    const byte = i >= CHECKSUM_AT && i < CHECKSUM_AT + CHECKSUM_BYTES ? 0x20 : (bytes[i] ?? 0);
    unsigned += byte;
    // Some old tars added up signed characters.
    signed += byte > 127 ? byte - 256 : byte;
  }
  return !isZeroBlock(bytes) && (stored === unsigned || stored === signed);
}

/** @throws FormatError */
export function decodeHeader(bytes: Buffer): TarHeader {
  if (!isHeader(bytes)) throw new FormatError("a header of the archive is damaged: its checksum is wrong");
  const magic = text(bytes, MAGIC_AT, 6);
  const ustar = magic.startsWith("ustar");
  // GNU's old format ends its magic in a space, and has times where the prefix is.
  const gnu = magic === "ustar ";
  const prefix = ustar && !gnu ? text(bytes, PREFIX_AT, PREFIX_BYTES) : "";
  const name = text(bytes, 0, NAME_BYTES);
  return {
    name: prefix === "" ? name : `${prefix}/${name}`,
    mode: number(bytes, 100, 8) & 0o7777,
    uid: number(bytes, 108, 8),
    gid: number(bytes, 116, 8),
    size: number(bytes, 124, 12),
    mtime: number(bytes, 136, 12),
    type: String.fromCharCode(bytes[156] ?? 0),
    linkname: text(bytes, 157, LINKNAME_BYTES),
    major: ustar ? number(bytes, 329, 8) : 0,
    minor: ustar ? number(bytes, 337, 8) : 0,
    gnu,
  };
}

/** Up to the first NUL. */
function text(bytes: Buffer, at: number, length: number): string {
  const field = bytes.toString("latin1", at, at + length);
  const end = field.indexOf("\0");
  return end < 0 ? field : field.slice(0, end);
}

/** Octal, or GNU's base 256 where the first bit is set. @throws FormatError */
export function number(bytes: Buffer, at: number, length: number): number {
  const first = bytes[at] ?? 0;
  if ((first & 0x80) !== 0) {
    // Two's complement; the marking bit does not belong to the number.
    let value = BigInt(first & 0x40 ? first - 256 : first & 0x3f);
    for (let i = 1; i < length; i++) value = value * 256n + BigInt(bytes[at + i] ?? 0);
    return Number(value);
  }
  const digits = text(bytes, at, length).trim();
  if (digits === "") return 0;
  if (!/^[0-7]+$/.test(digits))
    throw new FormatError(`a header of the archive is damaged: a number is ${digits}`);
  return Number.parseInt(digits, 8);
}

/** Pax records in order; values are bytes. */
export type PaxRecords = readonly (readonly [key: string, value: Uint8Array | string])[];

/** "LENGTH KEY=VALUE\n" each; LENGTH counts itself. */
export function encodePax(records: PaxRecords): Buffer {
  return Buffer.concat(
    records.map(([key, value]) => {
      const bytes = typeof value === "string" ? Buffer.from(value, "latin1") : value;
      const rest = key.length + bytes.length + 3; // space, "=", newline
      let length = rest + String(rest).length;
      if (String(length).length > String(rest).length) length++;
      return Buffer.concat([Buffer.from(`${length} ${key}=`, "latin1"), bytes, Buffer.from("\n")]);
    }),
  );
}

/** Adds the records to `into`; one without a value takes its key away. @throws FormatError */
export function decodePax(bytes: Buffer, into: Map<string, Buffer>): void {
  for (let at = 0; at < bytes.length; ) {
    const space = bytes.indexOf(0x20, at);
    const length = space < 0 ? Number.NaN : Number(latin1(bytes.subarray(at, space)));
    const equals = bytes.indexOf(0x3d, space);
    const end = at + length - 1;
    if (!Number.isSafeInteger(length) || equals < 0 || equals > end || bytes[end] !== 0x0a)
      throw new FormatError("a pax header of the archive is damaged");
    const key = latin1(bytes.subarray(space + 1, equals));
    const value = bytes.subarray(equals + 1, end);
    // GNU.sparse 0.0 repeats its keys, a pair for each segment: they are strung together.
    if (key === "GNU.sparse.offset" || key === "GNU.sparse.numbytes") {
      const before = into.get("GNU.sparse.map");
      into.set(
        "GNU.sparse.map",
        before === undefined ? value : Buffer.concat([before, Buffer.from(","), value]),
      );
    } else if (value.length === 0 && !key.startsWith("SCHILY.")) into.delete(key);
    else into.set(key, value);
    at = end + 1;
  }
}
