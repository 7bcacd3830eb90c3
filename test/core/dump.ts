/**
 * All that a volume shows, as one plain value to compare: read through the volume, or out of its tables
 * as of a past epoch by the rule that schema.sql states.
 */
import { createHash } from "node:crypto";
import { FsError } from "../../src/base/errno.ts";
import { decoded } from "../../src/core/codec.ts";
import { type Attr, type Ino, ROOT_INO, SEEK_DATA, SEEK_HOLE } from "../../src/core/types.ts";
import type { Volume } from "../../src/core/volume.ts";
import type { Database } from "../../src/db/database.ts";

/** What stat tells, without atime (it belongs to no epoch), with what stat does not. */
interface DumpedInode {
  readonly ino: number;
  readonly mode: number;
  readonly nlink: number;
  readonly uid: number;
  readonly gid: number;
  readonly rdev: number;
  readonly size: number;
  readonly generation: number;
  readonly times: string;
  readonly target: string;
  readonly xattrs: Readonly<Record<string, string>>;
  /** Hash of the bytes that are not zero, and where they are. */
  readonly content: string;
}

/** Inodes by path; the root's is "". Names in latin1, so that any bytes can be one. */
export type Dump = Readonly<Record<string, DumpedInode>>;

const S_IFMT = 0o170000;
const S_IFREG = 0o100000;
const S_IFDIR = 0o040000;
const S_IFLNK = 0o120000;
const PIECE = 4096;
const INODE_COLUMNS =
  "ino, mode, nlink, uid, gid, rdev, size, generation, mtime_ns, ctime_ns, btime_ns, target, block_size";

/** A hash of content that does not depend on blocks: of the 4 KiB pieces that are not all zeros. */
class ContentHash {
  readonly #hash = createHash("sha256");
  #empty = true;

  /** `offset` is a multiple of the piece. */
  add(offset: number, bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length; at += PIECE) {
      const piece = Buffer.alloc(PIECE);
      piece.set(bytes.subarray(at, at + PIECE));
      if (piece.every((byte) => byte === 0)) continue;
      this.#empty = false;
      this.#hash.update(`${offset + at}:`).update(piece);
    }
  }

  end(): string {
    return this.#empty ? "zeros" : this.#hash.digest("hex");
  }
}

/** Hash of a file's content, holes skipped. */
function hashOf(volume: Volume, ino: Ino): string {
  const { size } = volume.attributes.getattr(ino);
  const hash = new ContentHash();
  const into = Buffer.alloc(1 << 20);
  for (let at = 0; at < size; ) {
    const data = nextData(volume, ino, at);
    if (data === undefined) break;
    const hole = volume.files.lseek(ino, data, SEEK_HOLE);
    for (let from = data - (data % PIECE); from < hole; from += into.length) {
      const length = Math.min(into.length, size - from, Math.ceil((hole - from) / PIECE) * PIECE);
      const got = volume.files.read(ino, from, length, into);
      if (got !== length) throw new Error(`read ${got} of ${length} bytes at ${from} of ${ino}`);
      hash.add(from, into.subarray(0, got));
    }
    at = Math.ceil(hole / PIECE) * PIECE;
  }
  return hash.end();
}

/** An attribute's value as text; of a long one its hash. */
function valueText(value: Uint8Array): string {
  const LONG = 200;
  if (value.length <= LONG) return Buffer.from(value).toString("latin1");
  return `${value.length} bytes, ${createHash("sha256").update(value).digest("hex")}`;
}

function nextData(volume: Volume, ino: Ino, offset: number): number | undefined {
  try {
    return volume.files.lseek(ino, offset, SEEK_DATA);
  } catch (error) {
    if (error instanceof FsError && error.code === "ENXIO") return undefined;
    throw error;
  }
}

function timesOf(attr: Attr): string {
  const time = (sec: number, nsec: number) => String(BigInt(sec) * 1_000_000_000n + BigInt(nsec));
  return [
    time(attr.mtimeSec, attr.mtimeNsec),
    time(attr.ctimeSec, attr.ctimeNsec),
    time(attr.btimeSec, attr.btimeNsec),
  ].join(" ");
}

function dumpInode(volume: Volume, attr: Attr): DumpedInode {
  const { ino, mode, nlink, uid, gid, rdev, size, generation } = attr;
  const type = mode & S_IFMT;
  const names = Buffer.from(volume.xattrs.list(ino)).toString("latin1").split("\0").slice(0, -1);
  const xattrs = Object.fromEntries(
    names.map((name) => {
      const value = volume.xattrs.get(ino, Buffer.from(name, "latin1"));
      return [name, valueText(value ?? new Uint8Array(0))];
    }),
  );
  const target = type === S_IFLNK ? Buffer.from(volume.tree.readlink(ino)).toString("latin1") : "";
  const content = type === S_IFREG ? hashOf(volume, ino) : "";
  return {
    ino,
    mode,
    nlink,
    uid,
    gid,
    rdev,
    size,
    generation,
    times: timesOf(attr),
    target,
    xattrs,
    content,
  };
}

/** All that names lead to. */
export function dump(volume: Volume): Dump {
  const found: Record<string, DumpedInode> = { "": dumpInode(volume, volume.attributes.getattr(ROOT_INO)) };
  const walk = (directory: Ino, path: string): void => {
    const below: [string, Attr][] = [];
    volume.tree.readdirplus(directory, 0, ({ name }, attr) => {
      below.push([`${path}/${Buffer.from(name).toString("latin1")}`, { ...attr }]);
      return true;
    });
    for (const [childPath, attr] of below) {
      found[childPath] = dumpInode(volume, attr);
      if ((attr.mode & S_IFMT) === S_IFDIR) walk(attr.ino, childPath);
    }
  };
  walk(ROOT_INO, "");
  return found;
}

/**
 * The same, of the past epoch `epoch`, by SQL alone: a row of a live table holds since `born`; one of its
 * twin holds while born <= epoch < died. An inode without links belongs to no epoch.
 */
export function dumpEpoch(db: Database, epoch: number): Dump {
  const at = (table: string, columns: string) =>
    `(SELECT ${columns} FROM ${table} WHERE born <= ${epoch}
      UNION ALL SELECT ${columns} FROM ${table}_past WHERE born <= ${epoch} AND ${epoch} < died)`;
  const inodes = db.prepare(
    `SELECT mode, nlink, uid, gid, rdev, size, generation, mtime_ns, ctime_ns, btime_ns, target, block_size
     FROM ${at("inode", INODE_COLUMNS)} WHERE ino = ?1 AND nlink > 0`,
  );
  const entries = db.prepare(
    `SELECT name, ino, type FROM ${at("dirent", "parent, name, id, ino, type")} WHERE parent = ?1 ORDER BY id`,
  );
  const xattrs = db.prepare(
    `SELECT name, value FROM ${at("xattr", "ino, name, value")} WHERE ino = ?1 ORDER BY name`,
  );
  const extents = db.prepare(
    `SELECT e.idx, b.data, e.block, b.codec FROM ${at("extent", "ino, idx, block")} AS e LEFT JOIN block AS b ON b.id = e.block
     WHERE e.ino = ?1 ORDER BY e.idx`,
  );
  const latin1 = (bytes: Uint8Array) => Buffer.from(bytes).toString("latin1");

  const inode = (ino: number): DumpedInode => {
    const row = inodes.bindInt(1, ino);
    if (!row.step()) throw new Error(`epoch ${epoch}: no inode ${ino}`);
    const [mode, size, blockSize] = [row.int(0), row.int(5), row.int(11)];
    const fields = {
      ino,
      mode,
      nlink: row.int(1),
      uid: row.int(2),
      gid: row.int(3),
      rdev: row.int(4),
      size,
      generation: row.int(6),
      times: [row.bigint(7), row.bigint(8), row.bigint(9)].join(" "),
      target: latin1(row.blob(10)),
    };
    if (row.step()) throw new Error(`epoch ${epoch}: inode ${ino} twice`);
    const values: Record<string, string> = {};
    xattrs.bindInt(1, ino);
    while (xattrs.step()) {
      const name = latin1(xattrs.blob(0));
      if (name in values) throw new Error(`epoch ${epoch}: attribute ${name} of ${ino} twice`);
      values[name] = valueText(xattrs.blob(1));
    }
    const hash = new ContentHash();
    let last = -1;
    extents.bindInt(1, ino);
    while (extents.step()) {
      const idx = extents.int(0);
      if (idx === last) throw new Error(`epoch ${epoch}: extent ${idx} of ${ino} twice`);
      last = idx;
      if (extents.int(2) === 0) continue;
      if (extents.isNull(1)) throw new Error(`epoch ${epoch}: block ${extents.int(2)} of ${ino} is missing`);
      const data = decoded(extents.int(3), extents.blob(1));
      if (idx * blockSize + data.length > size)
        throw new Error(`epoch ${epoch}: extent ${idx} of ${ino} reaches past the end`);
      hash.add(idx * blockSize, data);
    }
    return { ...fields, xattrs: values, content: (mode & S_IFMT) === S_IFREG ? hash.end() : "" };
  };

  const found: Record<string, DumpedInode> = { "": inode(ROOT_INO) };
  const walk = (directory: number, path: string): void => {
    const below: [string, number, number][] = [];
    entries.bindInt(1, directory);
    while (entries.step()) below.push([`${path}/${latin1(entries.blob(0))}`, entries.int(1), entries.int(2)]);
    for (const [childPath, ino, type] of below) {
      if (childPath in found) throw new Error(`epoch ${epoch}: ${childPath} twice`);
      const child = inode(ino);
      if ((child.mode & S_IFMT) !== type) throw new Error(`epoch ${epoch}: ${childPath} has another type`);
      found[childPath] = child;
      if (type === S_IFDIR) walk(ino, childPath);
    }
  };
  walk(ROOT_INO, "");
  return found;
}
