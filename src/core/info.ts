/**
 * What there is to know about a volume without changing it: `inspect` needs no password, `describe` does. Both work on
 * a volume that another process has mounted, where `describe` tells the state of its last commit.
 */
import { closeSync, lstatSync, openSync, readSync, realpathSync, statSync } from "node:fs";
import { Database } from "../db/database.ts";
import { SqliteError } from "../db/errors.ts";
import { type HmacAlgorithm, type Key, SALT_BYTES } from "../db/key.ts";
import { type Compression, contentLength } from "./codec.ts";
import { draftPath } from "./draft.ts";
import { OpenError } from "./errors.ts";
import { APPLICATION_ID, compressionMeta, readMeta } from "./format.ts";
import { FileLock, lockHolder } from "./lock.ts";
import { S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK } from "./mode.ts";
import { isPartial, type Share, shareOf } from "./partial.ts";
import { keptEpochs } from "./past.ts";

/** What anybody with the file can learn. */
export interface Outside {
  /** Symlinks resolved. */
  readonly path: string;
  readonly sizeBytes: number;
  /** Of the -wal beside it: changes not yet copied into the file. */
  readonly walBytes: number;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly changed: Date;
  /** The first 16 bytes, in hexadecimal: of an encrypted file the salt. */
  readonly salt: string;
  /** The process that has it open. */
  readonly pid?: number;
  /** What a vacuum or rekey that was cut off left beside it; the next one removes it. */
  readonly draft?: string;
}

export interface Pages {
  readonly pageSize: number;
  /** Of the database: pages in use and free ones. */
  readonly totalBytes: number;
  /** Of free pages: used again for new data, given back by `vacuum`. */
  readonly freeBytes: number;
}

interface Sample {
  readonly blocks: number;
  readonly contentBytes: number;
  readonly storedBytes: number;
}

/** What the password opens. */
export interface Inside extends Pages {
  readonly format: string;
  readonly volumeId: string;
  readonly created: Date;
  readonly features: readonly string[];
  readonly featuresIncompatible: readonly string[];
  readonly hmac: HmacAlgorithm;
  /** Of the key derivation; 0 where the key is used as it is. */
  readonly kdfIterations: number;
  /** Of files made from now on. */
  readonly blockSize: number;
  /** Inodes by type. */
  readonly counts: {
    readonly files: number;
    readonly directories: number;
    readonly symlinks: number;
    readonly fifos: number;
    readonly sockets: number;
    readonly devices: number;
  };
  /** Inodes, no directories, with more than one name. */
  readonly hardLinked: number;
  /** Without a name: in use, or to be purged. */
  readonly unlinked: number;
  /** Sizes of all regular files, holes included. */
  readonly fileBytes: number;
  /** Blocks that files, present and past, consist of. */
  readonly blocksNamed: number;
  /** Blocks that are stored for them: fewer where blocks are shared. */
  readonly blocksStored: number;
  /** How files that do not say otherwise are compressed. */
  readonly compression: Compression;
  /** Blocks that were looked at to see how much compression saves: all of them, or some thousand of very many. */
  readonly sample: Sample;
  readonly epoch: number;
  readonly snapshots: number;
  /** Rows kept of epochs before. */
  readonly pastRows: number;
  /** Of a partial replica: what is here. */
  readonly share?: Share;
}

/**
 * What the file at `path` shows to anybody.
 * @throws OpenError missing, unreadable, not-a-volume
 */
export function inspect(path: string): Outside {
  let real: string;
  try {
    real = realpathSync(path);
  } catch (cause) {
    throw new OpenError("missing", path, `${path}: no such file`, { cause });
  }
  const stat = statSync(real);
  if (!stat.isFile())
    throw new OpenError("not-a-volume", path, `${path}: not a regular file, so not a volume`);
  const draft = draftPath(real);
  const pid = lockHolder(real);
  return {
    path: real,
    sizeBytes: stat.size,
    walBytes: statSync(`${real}-wal`, { throwIfNoEntry: false })?.size ?? 0,
    mode: stat.mode & 0o7777,
    uid: stat.uid,
    gid: stat.gid,
    changed: stat.mtime,
    salt: readSalt(path, real),
    ...(pid === undefined ? {} : { pid }),
    ...(lstatSync(draft, { throwIfNoEntry: false }) === undefined ? {} : { draft }),
  };
}

function readSalt(path: string, real: string): string {
  const salt = Buffer.alloc(SALT_BYTES);
  try {
    const fd = openSync(real, "r");
    try {
      return salt.toString("hex", 0, readSync(fd, salt, 0, SALT_BYTES, 0));
    } finally {
      closeSync(fd);
    }
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code ?? "error";
    throw new OpenError("unreadable", path, `${path}: cannot be read (${code})`, { cause });
  }
}

/** Free pages and all, which takes no time. @throws OpenError */
export function readPages(path: string, key: Key): Pages {
  return withSnapshot(path, key, (db) => pagesOf(db, key));
}

/** All of it: reads every inode and extent, a second for some million. @throws OpenError */
export function describe(path: string, key: Key): Inside {
  return withSnapshot(path, key, (db) => {
    const meta = (name: string): string => readMeta(db, name) ?? "";
    const inodes = countInodes(db);
    const blocks = countBlocks(db);
    return {
      ...pagesOf(db, key),
      format: meta("format"),
      volumeId: textOf(db, "SELECT lower(hex(value)) FROM meta WHERE key = 'volume_id'"),
      created: new Date(Number(BigInt(meta("created_ns")) / 1_000_000n)),
      features: JSON.parse(meta("features") || "[]") as string[],
      featuresIncompatible: JSON.parse(meta("features_incompatible") || "[]") as string[],
      hmac: key.cipher.hmac,
      kdfIterations: key.iterations,
      blockSize: Number(meta("block_size")),
      ...inodes,
      ...blocks,
      ...(isPartial(db) ? { share: shareOf(db) } : {}),
      compression: compressionMeta(db),
      sample: sampleBlocks(db, blocks.blocksStored),
      epoch: Number(meta("epoch")),
      snapshots: keptEpochs(db).length,
      pastRows: ["inode", "dirent", "xattr", "extent"]
        .map((table) => numberOf(db, `SELECT count(*) FROM ${table}_past`))
        .reduce((sum, rows) => sum + rows, 0),
    };
  });
}

function pagesOf(db: Database, key: Key): Pages {
  const { pageSize } = key.cipher;
  return {
    pageSize,
    totalBytes: numberOf(db, "PRAGMA page_count") * pageSize,
    freeBytes: numberOf(db, "PRAGMA freelist_count") * pageSize,
  };
}

function countInodes(db: Database): Pick<Inside, "counts" | "hardLinked" | "unlinked" | "fileBytes"> {
  const byType = new Map<number, number>();
  let hardLinked = 0;
  let fileBytes = 0;
  const rows = db.prepare(
    `SELECT mode & ${S_IFMT} AS type, count(*), sum(nlink > 1), sum(size) FROM inode WHERE nlink > 0 GROUP BY type`,
  );
  while (rows.step()) {
    const type = rows.int(0);
    byType.set(type, rows.int(1));
    if (type !== S_IFDIR) hardLinked += rows.int(2);
    if (type === S_IFREG) fileBytes = rows.int(3);
  }
  const count = (...types: readonly number[]): number =>
    types.reduce((sum, type) => sum + (byType.get(type) ?? 0), 0);
  return {
    counts: {
      files: count(S_IFREG),
      directories: count(S_IFDIR),
      symlinks: count(S_IFLNK),
      fifos: count(S_IFIFO),
      sockets: count(S_IFSOCK),
      devices: count(S_IFCHR, S_IFBLK),
    },
    hardLinked,
    unlinked: numberOf(db, "SELECT count(*) FROM inode WHERE nlink = 0"),
    fileBytes,
  };
}

/** From the extents, which are small: counting the rows of `block` would read most of the file. */
function countBlocks(db: Database): Pick<Inside, "blocksNamed" | "blocksStored"> {
  const count = (what: string, shared: 0 | 1): number =>
    numberOf(
      db,
      `SELECT count(${what}) FROM (SELECT block FROM extent WHERE shared = ${shared} AND block <> 0
       UNION ALL SELECT block FROM extent_past WHERE shared = ${shared} AND block <> 0)`,
    );
  const single = count("*", 0);
  return { blocksNamed: single + count("*", 1), blocksStored: single + count("DISTINCT block", 1) };
}

/** Most blocks that `describe` looks at: a row of `block` lies on a page of its own, where it is not small. */
const SAMPLE_BLOCKS = 4096;

function sampleBlocks(db: Database, blocksStored: number): Sample {
  const row = db.prepare(
    `SELECT ${contentLength("b")}, length(b.data), b.id FROM block AS b WHERE b.id >= ?1 ORDER BY b.id LIMIT 1`,
  );
  const last = numberOf(db, "SELECT ifnull(max(id), 0) FROM block");
  const step = blocksStored <= SAMPLE_BLOCKS ? 1 : Math.max(1, Math.floor(last / SAMPLE_BLOCKS));
  let [blocks, contentBytes, storedBytes] = [0, 0, 0];
  for (let from = 1; row.bindInt(1, from).step(); ) {
    blocks++;
    contentBytes += row.int(0);
    storedBytes += row.int(1);
    from = row.int(2) + step;
    row.reset();
  }
  return { blocks, contentBytes, storedBytes };
}

function numberOf(db: Database, sql: string): number {
  const row = db.prepare(sql);
  const value = row.step() ? row.int(0) : 0;
  row.reset();
  return value;
}

function textOf(db: Database, sql: string): string {
  const row = db.prepare(sql);
  const value = row.step() ? row.text(0) : "";
  row.reset();
  return value;
}

/** Reads one state of the volume, which another process may have mounted and go on changing. */
function withSnapshot<T>(path: string, key: Key, read: (db: Database) => T): T {
  const real = realpathSync(path);
  const lock = FileLock.besideWriter(real);
  try {
    const wal = statSync(`${real}-wal`, { throwIfNoEntry: false })?.size ?? 0;
    // Nobody writes it, and all of it is in the file: then it can be read without files beside it.
    const immutable = lock !== undefined && wal === 0;
    const db = new Database(real, key, { mode: "readonly", immutable });
    try {
      db.exec("PRAGMA temp_store = MEMORY");
      db.exec("PRAGMA busy_timeout = 10000");
      db.exec("BEGIN");
      if (Number(db.pragma("application_id")) !== APPLICATION_ID) {
        const message = `${path}: a SQLCipher database, but not a sqlfuse volume`;
        throw new OpenError("not-a-volume", path, message);
      }
      const found = read(db);
      if (db.isPoisoned)
        throw new OpenError("damaged", path, `${path}: is damaged, and figures of it would be wrong`);
      return found;
    } catch (error) {
      if (!(error instanceof SqliteError)) throw error;
      const damaged = error.isDamage || db.isPoisoned;
      const message = `${path}: ${damaged ? "is damaged" : "cannot be read"} (${error.message})`;
      throw new OpenError(damaged ? "damaged" : "unreadable", path, message, { cause: error });
    } finally {
      db.close();
    }
  } finally {
    lock?.release();
  }
}
