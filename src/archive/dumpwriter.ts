/** Writes a volume, or what is below one of its directories, in the format of src/archive/dumpformat.ts. */
import { createHash } from "node:crypto";
import { isDevice, isRegular, isSymlink, majorOf, minorOf, S_IFMT } from "../core/mode.ts";
import type { Attr, Ino } from "../core/types.ts";
import type { Volume } from "../core/volume.ts";
import { readRange, runsOf } from "./content.ts";
import { BASE64_COLUMNS, FIRST_LINE, typeName } from "./dumpformat.ts";
import { escapeBytes, latin1 } from "./escape.ts";
import { formatTime } from "./time.ts";
import { walk } from "./walk.ts";

/** A piece is given out when it has about this many characters. */
const PIECE = 256 * 1024;

export interface DumpOptions {
  /** With the contents of files; without, their hashes only. */
  readonly content: boolean;
  /** Called for each inode. */
  readonly onInode?: () => void;
}

/** The dump in pieces. `start` is the directory that becomes the root of the dump. */
export function* dumpText(volume: Volume, start: Attr, options: DumpOptions): Generator<Buffer> {
  let lines: string[] = [];
  let length = 0;
  let inodes = 0;
  let links = 0;
  const head = `volume block_size=${volume.blockSize} content=${options.content ? "yes" : "no"}`;
  lines.push(`${FIRST_LINE}\n${head}\n`);
  for (const { path, attr, first } of walk(volume, start)) {
    const records =
      first === undefined ? recordsOf(volume, path, attr, options.content) : [linkRecord(path, first)];
    if (first === undefined) inodes++;
    else links++;
    for (const text of records) {
      lines.push(text);
      length += text.length;
      if (length < PIECE) continue;
      yield Buffer.from(lines.join(""), "latin1");
      lines = [];
      length = 0;
    }
    options.onInode?.();
  }
  lines.push(`end inodes=${inodes} links=${links}\n`);
  yield Buffer.from(lines.join(""), "latin1");
}

/** `path` is latin1 without the slash in front. */
function pathField(path: string): string {
  return `/${escapeBytes(Buffer.from(path, "latin1"))}`;
}

function linkRecord(path: string, first: string): string {
  return `link path=${pathField(path)} to=${pathField(first)}\n`;
}

function* recordsOf(volume: Volume, path: string, attr: Attr, content: boolean): Generator<string> {
  yield inodeRecord(volume, path, attr);
  const names = latin1(volume.xattrs.list(attr.ino)).split("\0").slice(0, -1);
  for (const name of names) {
    const bytes = Buffer.from(name, "latin1");
    const value = volume.xattrs.get(attr.ino, bytes);
    if (value !== undefined) yield `xattr name=${escapeBytes(bytes)} value=${escapeBytes(value)}\n`;
  }
  if (isRegular(attr.mode)) yield* contentRecords(volume, attr, content);
}

function inodeRecord(volume: Volume, path: string, attr: Attr): string {
  const { mode, uid, gid } = attr;
  const type = typeName(mode & S_IFMT);
  const permissions = (mode & 0o7777).toString(8).padStart(4, "0");
  let own = "";
  if (isRegular(mode)) own = ` size=${attr.size} block_size=${attr.blockSize}`;
  else if (isSymlink(mode)) own = ` target=${escapeBytes(volume.tree.readlink(attr.ino))}`;
  else if (isDevice(mode)) own = ` rdev=${majorOf(attr.rdev)}:${minorOf(attr.rdev)}`;
  const mtime = formatTime({ sec: attr.mtimeSec, nsec: attr.mtimeNsec });
  const ctime = formatTime({ sec: attr.ctimeSec, nsec: attr.ctimeNsec });
  const btime = formatTime({ sec: attr.btimeSec, nsec: attr.btimeNsec });
  const atime = formatTime({ sec: attr.atimeSec, nsec: attr.atimeNsec });
  const times = `mtime=${mtime} ctime=${ctime} btime=${btime} atime=${atime}`;
  return `inode path=${pathField(path)} type=${type} mode=${permissions} uid=${uid} gid=${gid}${own} ${times}\n`;
}

function* contentRecords(volume: Volume, attr: Attr, content: boolean): Generator<string> {
  for (const { offset, length, written } of runsOf(volume, attr)) {
    if (!written) {
      yield `reserved offset=${offset} length=${length}\n`;
      continue;
    }
    const end = Math.min(offset + length, attr.size);
    yield* writtenRecords(volume, attr.ino, offset, end - offset, attr.blockSize, content);
  }
}

function* writtenRecords(
  volume: Volume,
  ino: Ino,
  offset: number,
  length: number,
  blockSize: number,
  content: boolean,
): Generator<string> {
  for (const step of readRange(volume, ino, offset, length, blockSize)) {
    for (let at = 0; at < step.bytes.length; at += blockSize) {
      const bytes = withoutZeros(step.bytes.subarray(at, at + blockSize));
      const hash = createHash("sha256").update(bytes).digest("hex");
      yield `extent offset=${step.offset + at} length=${bytes.length} sha256=${hash}\n`;
      if (content && bytes.length > 0) yield inLines(bytes.toString("base64"));
    }
  }
}

/** Four times as fast as a regular expression that does the same. */
function inLines(base64: string): string {
  const lines: string[] = [];
  for (let at = 0; at < base64.length; at += BASE64_COLUMNS)
    lines.push(base64.slice(at, at + BASE64_COLUMNS));
  return ` ${lines.join("\n ")}\n`;
}

function withoutZeros(bytes: Buffer): Buffer {
  let length = bytes.length;
  while (length > 0 && bytes[length - 1] === 0) length--;
  return bytes.subarray(0, length);
}
