/**
 * Writes a volume, or what is below one of its directories, as a pax archive that GNU tar and bsdtar restore:
 * nanoseconds, attributes (SCHILY.xattr), ACLs (SCHILY.acl), holes (GNU.sparse 1.0), hard links, devices, long names
 * and names of any bytes. Members are `./` and what is below it.
 *
 * What tar cannot say is not in it: sockets (`onSkip` is told), birth times, block sizes, reserved blocks. Owners are
 * numbers: names would be this machine's.
 */
import { ACL_ACCESS, ACL_DEFAULT } from "../core/acl.ts";
import {
  isDevice,
  isRegular,
  isSymlink,
  majorOf,
  minorOf,
  S_IFBLK,
  S_IFCHR,
  S_IFDIR,
  S_IFIFO,
  S_IFLNK,
  S_IFMT,
  S_IFREG,
} from "../core/mode.ts";
import type { Attr } from "../core/types.ts";
import type { Volume } from "../core/volume.ts";
import { aclToText } from "./acltext.ts";
import { dataOf, readRange } from "./content.ts";
import { latin1 } from "./escape.ts";
import {
  BLOCK,
  encodeHeader,
  encodePax,
  fitsOctal,
  LINKNAME_BYTES,
  LONG_DIGITS,
  type NameFields,
  SHORT_DIGITS,
  splitName,
  TAR,
} from "./tarheader.ts";
import { formatTime } from "./time.ts";
import { walk } from "./walk.ts";

/** Archives are written in records of 20 blocks, as tapes had them and tar still pads. */
const RECORD = 20 * BLOCK;
/** Segments of a sparse map that are written at once. */
const SEGMENTS_AT_ONCE = 4096;
const PIECE = 256 * 1024;

const TYPEFLAGS: Readonly<Record<number, string>> = {
  [S_IFREG]: TAR.file,
  [S_IFDIR]: TAR.dir,
  [S_IFLNK]: TAR.symlink,
  [S_IFCHR]: TAR.char,
  [S_IFBLK]: TAR.block,
  [S_IFIFO]: TAR.fifo,
};

export interface TarOptions {
  /** Called for each inode. */
  readonly onInode?: () => void;
  /** Called for what tar cannot hold; `path` is latin1. */
  readonly onSkip: (path: string, why: string) => void;
}

/** The archive in pieces, each valid until the next one. `start` is the directory that becomes its root. */
export function* tarArchive(volume: Volume, start: Attr, options: TarOptions): Generator<Buffer> {
  const piece = Buffer.allocUnsafe(PIECE);
  let filled = 0;
  for (const bytes of members(volume, start, options)) {
    // Small members would each be a write of their own.
    if (filled + bytes.length > PIECE && filled > 0) {
      yield piece.subarray(0, filled);
      filled = 0;
    }
    if (bytes.length > PIECE) {
      yield bytes;
    } else {
      bytes.copy(piece, filled);
      filled += bytes.length;
    }
  }
  if (filled > 0) yield piece.subarray(0, filled);
}

function* members(volume: Volume, start: Attr, options: TarOptions): Generator<Buffer> {
  let written = 0;
  for (const { path, attr, first } of walk(volume, start)) {
    for (const piece of member(volume, path, attr, first, options)) {
      written += piece.length;
      yield piece;
    }
    options.onInode?.();
  }
  yield Buffer.alloc(2 * BLOCK + padding(written + 2 * BLOCK, RECORD));
}

function* member(
  volume: Volume,
  path: string,
  attr: Attr,
  first: string | undefined,
  { onSkip }: TarOptions,
): Generator<Buffer> {
  const type = TYPEFLAGS[attr.mode & S_IFMT];
  if (type === undefined) {
    // Every name of a socket is told: each is one that will be missing.
    onSkip(path, "a socket cannot be in a tar archive");
    return;
  }
  const name = path === "" ? "./" : `./${path}${type === TAR.dir ? "/" : ""}`;
  if (first !== undefined) {
    yield header(name, attr, TAR.link, 0, `./${first}`, []);
    return;
  }
  const extra: [string, string | Uint8Array][] = [...attributeRecords(volume, attr)];
  if (!isRegular(attr.mode)) {
    const target = isSymlink(attr.mode) ? latin1(volume.tree.readlink(attr.ino)) : "";
    yield header(name, attr, type, 0, target, extra);
    return;
  }
  const shape = shapeOf(volume, attr);
  if (shape === undefined) {
    yield header(name, attr, type, attr.size, "", extra);
    yield* padded(data(volume, attr));
    return;
  }
  extra.push(
    ["GNU.sparse.major", "1"],
    ["GNU.sparse.minor", "0"],
    ["GNU.sparse.name", name],
    ["GNU.sparse.realsize", String(attr.size)],
  );
  // The name in the header itself is for readers that know nothing of holes.
  yield header(sparseName(name), attr, type, shape.mapBytes + shape.dataBytes, "", extra, name);
  yield* padded(mapText(volume, attr, shape.segments));
  yield* padded(data(volume, attr));
}

/** A pax header where one is needed, and the header. */
function header(
  name: string,
  attr: Attr,
  type: string,
  size: number,
  linkname: string,
  extra: readonly (readonly [string, string | Uint8Array])[],
  realName = name,
): Buffer {
  const fields = splitName(name);
  const records: (readonly [string, string | Uint8Array])[] = [];
  const longName = fields === undefined ? name : "";
  const longLink = linkname.length > LINKNAME_BYTES ? linkname : "";
  const sparse = realName === name ? "" : realName;
  // Names in the fields of the header are bytes; in records they are UTF-8 unless this says otherwise.
  if ([longName, longLink, sparse].some((text) => !isUtf8(text))) records.push(["hdrcharset", "BINARY"]);
  if (longName !== "") records.push(["path", longName]);
  if (longLink !== "") records.push(["linkpath", longLink]);
  if (!fitsOctal(size, LONG_DIGITS)) records.push(["size", String(size)]);
  if (!fitsOctal(attr.uid, SHORT_DIGITS)) records.push(["uid", String(attr.uid)]);
  if (!fitsOctal(attr.gid, SHORT_DIGITS)) records.push(["gid", String(attr.gid)]);
  records.push(
    ["mtime", formatTime({ sec: attr.mtimeSec, nsec: attr.mtimeNsec })],
    ["atime", formatTime({ sec: attr.atimeSec, nsec: attr.atimeNsec })],
    ["ctime", formatTime({ sec: attr.ctimeSec, nsec: attr.ctimeNsec })],
    ...extra,
  );
  const pax = encodePax(records);
  const own = { mode: attr.mode & 0o7777, uid: attr.uid, gid: attr.gid, mtime: attr.mtimeSec };
  const device = isDevice(attr.mode) && type !== TAR.link;
  const main = encodeHeader(
    {
      ...own,
      size,
      type,
      // Cut, where a record says it whole: some readers take an empty one for no link.
      linkname: linkname.slice(0, LINKNAME_BYTES),
      major: device ? majorOf(attr.rdev) : 0,
      minor: device ? minorOf(attr.rdev) : 0,
    },
    fields ?? shortened(name),
  );
  const before = encodeHeader(
    { ...own, mode: 0o644, size: pax.length, type: TAR.pax, linkname: "", major: 0, minor: 0 },
    splitName("./PaxHeaders/x") ?? shortened(name),
  );
  return Buffer.concat([before, pax, Buffer.alloc(padding(pax.length, BLOCK)), main]);
}

/** For readers that know no pax headers. */
function shortened(name: string): NameFields {
  return { name: name.slice(0, 100), prefix: "" };
}

function sparseName(name: string): string {
  const slash = name.lastIndexOf("/");
  return `${name.slice(0, slash + 1)}GNUSparseFile.0/${name.slice(slash + 1)}`;
}

function isUtf8(text: string): boolean {
  if (/^[\x20-\x7e]*$/.test(text)) return true;
  try {
    new TextDecoder("utf-8", { fatal: true }).decode(Buffer.from(text, "latin1"));
    return true;
  } catch {
    return false;
  }
}

/** Attributes, and ACLs in the form that every tar knows. */
function* attributeRecords(volume: Volume, attr: Attr): Generator<[string, string | Uint8Array]> {
  const names = latin1(volume.xattrs.list(attr.ino)).split("\0").slice(0, -1);
  for (const name of names) {
    const bytes = Buffer.from(name, "latin1");
    const value = volume.xattrs.get(attr.ino, bytes) ?? new Uint8Array(0);
    if (ACL_ACCESS.equals(bytes)) yield ["SCHILY.acl.access", aclToText(value)];
    else if (ACL_DEFAULT.equals(bytes)) yield ["SCHILY.acl.default", aclToText(value)];
    // A key ends at its first "=": GNU tar's escape.
    else yield [`SCHILY.xattr.${name.replaceAll("%", "%25").replaceAll("=", "%3D")}`, value];
  }
}

interface Shape {
  readonly segments: number;
  readonly mapBytes: number;
  readonly dataBytes: number;
}

/** What a file with holes takes in the archive; undefined for one without. */
function shapeOf(volume: Volume, attr: Attr): Shape | undefined {
  let segments = 0;
  let mapText = 0;
  let dataBytes = 0;
  for (const { offset, length } of segmentsOf(volume, attr)) {
    segments++;
    mapText += `${offset}\n${length}\n`.length;
    dataBytes += length;
  }
  if (dataBytes === attr.size) return undefined;
  mapText += `${segments}\n`.length;
  return { segments, mapBytes: mapText + padding(mapText, BLOCK), dataBytes };
}

/** The data of a file; one that ends in a hole has an empty segment there. */
function* segmentsOf(volume: Volume, attr: Attr): Generator<{ offset: number; length: number }> {
  let end = 0;
  for (const segment of dataOf(volume, attr)) {
    yield segment;
    end = segment.offset + segment.length;
  }
  if (end < attr.size) yield { offset: attr.size, length: 0 };
}

function* mapText(volume: Volume, attr: Attr, segments: number): Generator<Buffer> {
  let text = `${segments}\n`;
  let waiting = 0;
  for (const { offset, length } of segmentsOf(volume, attr)) {
    text += `${offset}\n${length}\n`;
    if (++waiting < SEGMENTS_AT_ONCE) continue;
    yield Buffer.from(text);
    text = "";
    waiting = 0;
  }
  yield Buffer.from(text);
}

function* data(volume: Volume, attr: Attr): Generator<Buffer> {
  for (const { offset, length } of dataOf(volume, attr)) {
    for (const { bytes } of readRange(volume, attr.ino, offset, length)) yield bytes;
  }
}

/** The pieces, and zeros up to a whole block. */
function* padded(pieces: Iterable<Buffer>): Generator<Buffer> {
  let length = 0;
  for (const piece of pieces) {
    length += piece.length;
    yield piece;
  }
  const missing = padding(length, BLOCK);
  if (missing > 0) yield Buffer.alloc(missing);
}

function padding(length: number, unit: number): number {
  return (unit - (length % unit)) % unit;
}
