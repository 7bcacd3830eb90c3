/**
 * The log: what changed in a volume, epoch by epoch, for replicas to follow. Version 1.
 *
 * WHERE IT IS. A log has a place of its own, a remote, with files that are written once and never changed:
 *
 *   key/NUMBER            the log's secret, sealed under the volume's key (src/log/keyfile.ts); the highest counts
 *   new/NUMBER            that the segment of this number begins a log with a new secret (src/log/newlog.ts)
 *   log/WRITER/NUMBER     the SEGMENTS of one writer: numbers of 16 decimal digits, from 1 on without a gap; WRITER is
 *                         his replica_id in 16 hexadecimal digits
 *   data/HH/HASH          OBJECTS, with blocks or records; HASH is the SHA-256 of the file in hexadecimal, HH its first two
 *
 * Each is sealed: src/log/seal.ts says how. What follows is what is inside. Numbers, times and bytes are as in
 * src/log/bytes.ts.
 *
 * A SEGMENT brings a replica from the state of one epoch, `base`, to that of a later one, `epoch`; from nothing where base
 * is 0. It is small: what is large is in objects, which were put there before it. It holds
 *
 *   version          count, 1
 *   number           count: its own
 *   writer           big: replica_id
 *   volume           16 bytes: volume_id
 *   previous         32 bytes: SHA-256 of the segment file before it; zeros in the first
 *   base, epoch      counts
 *   created          time
 *   meta             count, and as many (text, text): rows of meta that a replica takes over
 *   snapshots        count, and as many (count epoch, text name, time created, byte: 1 protected + 2 automatic): all that
 *                    the volume keeps up to `epoch`
 *   records          count, and as many (32 bytes name, 32 bytes salt, count length): the objects with its records, in order
 *   changes, blocks  counts: how many records, and how many blocks were shipped for it, for people
 *
 * A RECORD OBJECT is one frame: a series of records, compressed by Brotli. A record is a byte and its fields. A NODE is a
 * file of any type; it is named by its global id: `origin`, which is 0 for the writer of the segment and else a replica_id,
 * and `serial`, its number there. VERSION is a vector: a count and as many (big origin, count counter), 0 for the writer
 * here as well. The counter of a replica is its epoch at the change.
 *
 *   1 node      id, count ino (at the writer), version, count mode, nlink, uid, gid, rdev, size, block_size, extents; id
 *               parent (0, 0: none); count generation, born; times atime, mtime, ctime, btime; bytes target
 *   2 gone      id, version: nobody names this node any more. Its attributes and extents go with it
 *   3 entry     id directory, bytes name, version, count cookie, id node, count type, count born
 *   4 removed   id directory, bytes name, version
 *   5 xattr     bytes name, bytes value, count born: of the last node
 *   6 no xattr  bytes name: the last node has no such attribute any more
 *   7 extents   count idx, byte shared, count born, count n, and n counts: blocks from idx on of the last node, by their
 *               numbers at the writer; 0: reads as zeros
 *   8 holes     count idx, count n: so many blocks of the last node, from idx on, are holes now
 *   9 shared    id, count idx, count block: this extent did not change, but its block, of that number, is now shared
 *  10 object    32 bytes name, 32 bytes salt: of an object with blocks; the following blocks are in it
 *  11 block     count number (at the writer), 32 bytes id, count place, count length, count codec: content that some
 *               extent names. `place` is the byte of the object at which its frame begins, `length` that of the content as
 *               block.data of schema.sql has it. Its id is its keyed hash. The object may be of an earlier segment
 *
 * The order of records does not matter but for "last node" and "following blocks".
 */

import { LogError } from "../remote/errors.ts";
import type { ByteReader, ByteWriter } from "./bytes.ts";

const LOG_VERSION = 1;
/** Rows of meta that a replica takes over. */
export const META_KEYS = [
  "block_size",
  "compression",
  "created_ns",
  "features_incompatible",
  "next_block",
  "next_serial",
  "retention",
] as const;

/** Of SHA-256, block ids and salts. */
export const HASH_BYTES = 32;

/** An object with records. */
export interface ObjectRef {
  readonly name: Uint8Array;
  readonly salt: Uint8Array;
  /** Bytes of the file. */
  readonly length: number;
}

export interface LoggedSnapshot {
  readonly epoch: number;
  readonly name: string;
  readonly createdNs: bigint;
  readonly protected: boolean;
  readonly automatic: boolean;
}

export interface Segment {
  readonly number: number;
  readonly writer: bigint;
  readonly volume: Uint8Array;
  readonly previous: Uint8Array;
  readonly base: number;
  readonly epoch: number;
  readonly createdNs: bigint;
  readonly meta: readonly (readonly [key: string, value: string])[];
  readonly snapshots: readonly LoggedSnapshot[];
  readonly records: readonly ObjectRef[];
  readonly changes: number;
  readonly blocks: number;
}

/** `origin` 0: the writer of the segment. */
export interface NodeId {
  readonly origin: bigint;
  readonly serial: number;
}

export type Version = readonly { readonly origin: bigint; readonly counter: number }[];

export interface NodeRecord {
  readonly type: "node";
  readonly id: NodeId;
  readonly ino: number;
  readonly version: Version;
  readonly mode: number;
  readonly nlink: number;
  readonly uid: number;
  readonly gid: number;
  readonly rdev: number;
  readonly size: number;
  readonly blockSize: number;
  readonly extents: number;
  readonly parent: NodeId;
  readonly generation: number;
  readonly born: number;
  readonly atimeNs: bigint;
  readonly mtimeNs: bigint;
  readonly ctimeNs: bigint;
  readonly btimeNs: bigint;
  readonly target: Uint8Array;
}

export interface EntryRecord {
  readonly type: "entry";
  readonly directory: NodeId;
  readonly name: Uint8Array;
  readonly version: Version;
  readonly cookie: number;
  readonly node: NodeId;
  readonly kind: number;
  readonly born: number;
}

export interface ExtentsRecord {
  readonly type: "extents";
  readonly idx: number;
  readonly shared: boolean;
  readonly born: number;
  readonly blocks: readonly number[];
}

export interface BlockRecord {
  readonly type: "block";
  readonly number: number;
  readonly id: Uint8Array;
  readonly place: number;
  readonly length: number;
  readonly codec: number;
}

export type LogRecord =
  | NodeRecord
  | { readonly type: "gone"; readonly id: NodeId; readonly version: Version }
  | EntryRecord
  | {
      readonly type: "removed";
      readonly directory: NodeId;
      readonly name: Uint8Array;
      readonly version: Version;
    }
  | { readonly type: "xattr"; readonly name: Uint8Array; readonly value: Uint8Array; readonly born: number }
  | { readonly type: "no xattr"; readonly name: Uint8Array }
  | ExtentsRecord
  | { readonly type: "holes"; readonly idx: number; readonly count: number }
  | { readonly type: "shared"; readonly id: NodeId; readonly idx: number; readonly block: number }
  | { readonly type: "object"; readonly name: Uint8Array; readonly salt: Uint8Array }
  | BlockRecord;

const TYPES = [
  "node",
  "gone",
  "entry",
  "removed",
  "xattr",
  "no xattr",
  "extents",
  "holes",
  "shared",
  "object",
  "block",
] as const satisfies readonly LogRecord["type"][];

export function encodeSegment(to: ByteWriter, segment: Segment): void {
  const { meta, snapshots, records } = segment;
  to.count(LOG_VERSION).count(segment.number).big(segment.writer);
  to.fixed(segment.volume).fixed(segment.previous);
  to.count(segment.base).count(segment.epoch).time(segment.createdNs);
  to.count(meta.length);
  for (const [key, value] of meta) to.text(key).text(value);
  to.count(snapshots.length);
  for (const one of snapshots) {
    to.count(one.epoch).text(one.name).time(one.createdNs);
    to.byte((one.protected ? 1 : 0) | (one.automatic ? 2 : 0));
  }
  to.count(records.length);
  for (const { name, salt, length } of records) to.fixed(name).fixed(salt).count(length);
  to.count(segment.changes).count(segment.blocks);
}

/** @throws LogError damaged, too-new */
export function decodeSegment(from: ByteReader): Segment {
  const version = from.count();
  if (version !== LOG_VERSION)
    throw new LogError(
      "too-new",
      `its version is ${version}, this sqlfuse knows ${LOG_VERSION}; use a newer sqlfuse`,
    );
  const segment = {
    number: from.count(),
    writer: from.big(),
    volume: from.fixed(16),
    previous: from.fixed(HASH_BYTES),
    base: from.count(),
    epoch: from.count(),
    createdNs: from.time(),
    meta: from.list(() => [from.text(), from.text()] as const),
    snapshots: from.list(() => decodeSnapshot(from)),
    records: from.list(() => ({
      name: from.fixed(HASH_BYTES),
      salt: from.fixed(HASH_BYTES),
      length: from.count(),
    })),
    changes: from.count(),
    blocks: from.count(),
  };
  if (!from.isAtEnd) throw new LogError("damaged", "it is longer than the format says");
  return segment;
}

function decodeSnapshot(from: ByteReader): LoggedSnapshot {
  const [epoch, name, createdNs, flags] = [from.count(), from.text(), from.time(), from.byte()];
  return { epoch, name, createdNs, protected: (flags & 1) !== 0, automatic: (flags & 2) !== 0 };
}

function putId(to: ByteWriter, { origin, serial }: NodeId): ByteWriter {
  return to.big(origin).count(serial);
}

function putVersion(to: ByteWriter, version: Version): ByteWriter {
  to.count(version.length);
  for (const { origin, counter } of version) to.big(origin).count(counter);
  return to;
}

function encodeNode(to: ByteWriter, node: NodeRecord): void {
  putVersion(putId(to, node.id).count(node.ino), node.version);
  to.count(node.mode).count(node.nlink).count(node.uid).count(node.gid).count(node.rdev);
  to.count(node.size).count(node.blockSize).count(node.extents);
  putId(to, node.parent).count(node.generation).count(node.born);
  to.time(node.atimeNs).time(node.mtimeNs).time(node.ctimeNs).time(node.btimeNs);
  to.bytes(node.target);
}

export function encodeRecord(to: ByteWriter, record: LogRecord): void {
  to.byte(TYPES.indexOf(record.type) + 1);
  switch (record.type) {
    case "node":
      encodeNode(to, record);
      return;
    case "gone":
      putVersion(putId(to, record.id), record.version);
      return;
    case "entry":
      putVersion(putId(to, record.directory).bytes(record.name), record.version).count(record.cookie);
      putId(to, record.node).count(record.kind).count(record.born);
      return;
    case "removed":
      putVersion(putId(to, record.directory).bytes(record.name), record.version);
      return;
    case "xattr":
      to.bytes(record.name).bytes(record.value).count(record.born);
      return;
    case "no xattr":
      to.bytes(record.name);
      return;
    case "extents":
      to.count(record.idx)
        .byte(record.shared ? 1 : 0)
        .count(record.born)
        .count(record.blocks.length);
      for (const block of record.blocks) to.count(block);
      return;
    case "holes":
      to.count(record.idx).count(record.count);
      return;
    case "shared":
      putId(to, record.id).count(record.idx).count(record.block);
      return;
    case "object":
      to.fixed(record.name).fixed(record.salt);
      return;
    case "block":
      to.count(record.number).fixed(record.id).count(record.place).count(record.length).count(record.codec);
  }
}

function getId(from: ByteReader): NodeId {
  return { origin: from.big(), serial: from.count() };
}

function getVersion(from: ByteReader): Version {
  return from.list(() => ({ origin: from.big(), counter: from.count() }));
}

function decodeNode(from: ByteReader): NodeRecord {
  return {
    type: "node",
    id: getId(from),
    ino: from.count(),
    version: getVersion(from),
    mode: from.count(),
    nlink: from.count(),
    uid: from.count(),
    gid: from.count(),
    rdev: from.count(),
    size: from.count(),
    blockSize: from.count(),
    extents: from.count(),
    parent: getId(from),
    generation: from.count(),
    born: from.count(),
    atimeNs: from.time(),
    mtimeNs: from.time(),
    ctimeNs: from.time(),
    btimeNs: from.time(),
    target: from.bytes(),
  };
}

/** @throws LogError damaged */
export function decodeRecord(from: ByteReader): LogRecord {
  const type = TYPES[from.byte() - 1];
  switch (type) {
    case "node":
      return decodeNode(from);
    case "gone":
      return { type, id: getId(from), version: getVersion(from) };
    case "entry":
      return {
        type,
        directory: getId(from),
        name: from.bytes(),
        version: getVersion(from),
        cookie: from.count(),
        node: getId(from),
        kind: from.count(),
        born: from.count(),
      };
    case "removed":
      return { type, directory: getId(from), name: from.bytes(), version: getVersion(from) };
    case "xattr":
      return { type, name: from.bytes(), value: from.bytes(), born: from.count() };
    case "no xattr":
      return { type, name: from.bytes() };
    case "extents":
      return {
        type,
        idx: from.count(),
        shared: from.byte() !== 0,
        born: from.count(),
        blocks: from.list(() => from.count()),
      };
    case "holes":
      return { type, idx: from.count(), count: from.count() };
    case "shared":
      return { type, id: getId(from), idx: from.count(), block: from.count() };
    case "object":
      return { type, name: from.fixed(HASH_BYTES), salt: from.fixed(HASH_BYTES) };
    case "block":
      return {
        type,
        number: from.count(),
        id: from.fixed(HASH_BYTES),
        place: from.count(),
        length: from.count(),
        codec: from.count(),
      };
  }
  throw new LogError("damaged", "it has a record of no known type");
}
