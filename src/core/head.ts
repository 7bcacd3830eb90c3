/**
 * The head of a volume: which commit was its newest, kept in a small file elsewhere. It tells what the volume alone
 * cannot: that an older copy took its place, or that the end of its -wal is gone.
 *
 * meta.head has the number of the last commit and a random name of it ("17 00c0ffee00c0ffee"); both change within each
 * commit. Only when that is durable is the same written to the head file. So the head is never newer than a whole volume,
 * whatever a crash does, and a volume that is older than its head has lost commits. The row is there from the first mount
 * with a head on. Mounts without one leave it alone.
 *
 * The file has two records, written in turn: one that a power loss tears leaves the other, which is one commit older.
 * It is not synced at each commit, as a head that is too old raises no false alarm; closing the volume syncs it.
 */
import { createHash, randomBytes } from "node:crypto";
import {
  closeSync,
  constants,
  fstatSync,
  fsyncSync,
  openSync,
  readSync,
  renameSync,
  rmSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { dirname } from "node:path";
import { Database } from "../db/database.ts";
import type { Key } from "../db/key.ts";
import type { Statement } from "../db/statement.ts";
import { OpenError } from "./errors.ts";
import { checkFormat, damagedMeta, hexMeta, readMeta } from "./format.ts";

/** One commit. */
export interface Head {
  /** From 1. */
  readonly no: number;
  /** 16 hexadecimal digits, random: no two commits have the same. */
  readonly nonce: string;
}

/** One record of a head file. */
export interface HeadRecord extends Head {
  /** 32 hexadecimal digits. */
  readonly volumeId: string;
}

/** A record is one line, padded with spaces. */
const RECORD_BYTES = 512;
/** Records lie so far apart that no disk writes both at once. */
const RECORD_EVERY_BYTES = 4096;
const RECORDS = 2;

/** The line of a record, with a checksum, as another volume's or a half written one must not be taken for it. */
export function encodeHead({ volumeId, no, nonce }: HeadRecord): Buffer {
  const text = `sqlfuse-head 1 volume=${volumeId} commit=${no} nonce=${nonce}`;
  return Buffer.from(`${`${text} check=${checksum(text)}`.padEnd(RECORD_BYTES - 1)}\n`);
}

/** What a record says; undefined where it is not whole. */
export function decodeHead(bytes: Buffer): HeadRecord | undefined {
  const record =
    /^(sqlfuse-head 1 volume=([0-9a-f]{32}) commit=(\d{1,15}) nonce=([0-9a-f]{16})) check=([0-9a-f]{16}) *\n$/;
  const [, text = "", volumeId = "", no = "", nonce = "", check] =
    record.exec(bytes.toString("latin1")) ?? [];
  return check === checksum(text) ? { volumeId, no: Number(no), nonce } : undefined;
}

/** Of the line of a head file. */
export function checksum(text: string): string {
  return createHash("sha256").update(text).digest("hex").slice(0, 16);
}

/** Whether a volume at `volume` has lost what its head has seen; undefined: it has no row, so it is from before. */
export function isOlder(volume: Head | undefined, head: Head): boolean {
  if (volume === undefined || volume.no < head.no) return true;
  return volume.no === head.no && volume.nonce !== head.nonce;
}

/** In what a volume is older, for a sentence about it. */
export function describeOlder(volume: Head | undefined, head: Head, headPath: string): string {
  const has =
    volume === undefined
      ? "the file is from before it had a head"
      : volume.no === head.no
        ? "the file has another commit of that number"
        : `the file ends at ${volume.no}`;
  return `older than its head: ${headPath} has seen commit ${head.no}, and ${has}`;
}

/** The row of the volume; undefined where it never had a head. @throws OpenError damaged */
export function readHead(db: Database): Head | undefined {
  const text = readMeta(db, "head");
  // A page with a wrong HMAC reads as zeros, which are no rows.
  if (db.isPoisoned) throw damagedMeta(db, "head");
  if (text === undefined) return undefined;
  const [, no, nonce] = /^(\d{1,15}) ([0-9a-f]{16})$/.exec(text) ?? [];
  if (no === undefined || nonce === undefined) throw damagedMeta(db, "head");
  return { no: Number(no), nonce };
}

/** A new commit's, behind `last`. */
function next(last: Head | undefined): Head {
  return { no: (last?.no ?? 0) + 1, nonce: randomBytes(8).toString("hex") };
}

const SAVE =
  "INSERT INTO meta (key, value) VALUES ('head', ?1) ON CONFLICT (key) DO UPDATE SET value = excluded.value";

function save(statement: Statement, { no, nonce }: Head): void {
  statement.bindText(1, `${no} ${nonce}`).run();
}

// --- the file

/** The newest record of the head file `path`; undefined where there is no such file. @throws OpenError bad-head */
export function readHeadFile(path: string): HeadRecord | undefined {
  const file = HeadFile.open(path, false);
  file?.close();
  return file?.newest;
}

/** Puts a head file in its place, durably, whole or not at all, mode 0600. @throws OpenError bad-head */
export function putHeadFile(path: string, bytes: Uint8Array): void {
  const draft = `${path}.new-${randomBytes(4).toString("hex")}`;
  try {
    writeFileSync(draft, bytes, { mode: 0o600, flag: "wx", flush: true });
    renameSync(draft, path);
    const directory = openSync(dirname(path), "r");
    fsyncSync(directory);
    closeSync(directory);
  } catch (cause) {
    rmSync(draft, { force: true });
    throw badHead(path, `cannot be made (${(cause as NodeJS.ErrnoException).code ?? "error"})`, cause);
  }
}

class HeadFile {
  readonly newest: HeadRecord;
  readonly path: string;
  readonly #fd: number;
  /** The record that is written next: never the newest one. */
  #at: number;

  /** Opens one that is there; undefined where none is. @throws OpenError bad-head */
  static open(path: string, writable: boolean): HeadFile | undefined {
    let fd: number;
    try {
      // A FIFO would keep who opens it waiting.
      fd = openSync(path, (writable ? constants.O_RDWR : constants.O_RDONLY) | constants.O_NONBLOCK);
    } catch (cause) {
      const code = (cause as NodeJS.ErrnoException).code ?? "error";
      if (code === "ENOENT") return undefined;
      throw badHead(path, `cannot be opened (${code})`, cause);
    }
    try {
      return new HeadFile(path, fd);
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  }

  private constructor(path: string, fd: number) {
    this.path = path;
    this.#fd = fd;
    const records = fstatSync(fd).isFile() ? readRecords(fd) : [];
    let newest: HeadRecord | undefined;
    this.#at = 0;
    for (const [at, record] of records.entries()) {
      if (record === undefined || (newest !== undefined && newest.no > record.no)) continue;
      newest = record;
      this.#at = (at + 1) % RECORDS;
    }
    if (newest === undefined) {
      throw badHead(
        path,
        "is not the head of a volume, or damaged; name another file, or remove it to begin anew",
      );
    }
    this.newest = newest;
  }

  /** Makes one, durably, mode 0600. @throws OpenError bad-head */
  static make(path: string, record: HeadRecord): HeadFile {
    const bytes = Buffer.alloc(RECORDS * RECORD_EVERY_BYTES, " ");
    encodeHead(record).copy(bytes);
    putHeadFile(path, bytes);
    const file = HeadFile.open(path, true);
    if (file === undefined) throw badHead(path, "is gone again");
    return file;
  }

  /** @throws system errors */
  write(record: HeadRecord): void {
    writeSync(this.#fd, encodeHead(record), 0, RECORD_BYTES, this.#at * RECORD_EVERY_BYTES);
    this.#at = (this.#at + 1) % RECORDS;
  }

  /** @throws system errors */
  sync(): void {
    fsyncSync(this.#fd);
  }

  close(): void {
    closeSync(this.#fd);
  }
}

function readRecords(fd: number): (HeadRecord | undefined)[] {
  return Array.from({ length: RECORDS }, (_, i) => {
    const bytes = Buffer.alloc(RECORD_BYTES);
    readSync(fd, bytes, 0, RECORD_BYTES, i * RECORD_EVERY_BYTES);
    return decodeHead(bytes);
  });
}

export function badHead(path: string, what: string, cause?: unknown): OpenError {
  return new OpenError("bad-head", path, `${path}: ${what}`, { cause });
}

/** @throws OpenError bad-head where the head is another volume's */
export function refuseOtherVolume(volumeId: string, record: HeadRecord, headPath: string): void {
  if (record.volumeId !== volumeId)
    throw badHead(headPath, "is the head of another volume; each volume needs its own");
}

// --- a mount with a head

/**
 * Refuses a volume that is older than its head, before anything of it is changed; nobody else may have it open.
 * @throws OpenError older, bad-head; as `readHead`, SqliteError
 */
export function refuseOlder(
  path: string,
  key: Key,
  headPath: string,
  readOnly: boolean,
  walReplays: boolean,
): void {
  const record = readHeadFile(headPath);
  if (record === undefined) {
    // A mount that writes makes it.
    if (readOnly) throw badHead(headPath, "no such file; a mount that is not read-only makes it");
    return;
  }
  // A connection that may write copies the -wal when it is closed; any makes one where there is none, and removes one
  // that has no commit.
  const db = new Database(path, key, {
    mode: "readonly",
    ...(walReplays ? { alone: true } : { immutable: true }),
  });
  try {
    checkFormat(db);
    refuseOtherVolume(hexMeta(db, "volume_id"), record, headPath);
    const volume = readHead(db);
    if (!isOlder(volume, record)) return;
    throw new OpenError(
      "older",
      path,
      `${path}: is ${describeOlder(volume, record, headPath)}; an older copy was put in its place, or its -wal was dropped ` +
        `or cut off; find the newest one, or accept this one: sqlfuse fsck --repair --head-file ${headPath} ${path}`,
    );
  } finally {
    db.close();
  }
}

/** Tells the head of each commit of an open volume. */
export class HeadKeeper {
  readonly #path: string;
  readonly #volumeId: string;
  readonly #log: (line: string) => void;
  readonly #save: Statement;
  #file: HeadFile | undefined;
  /** Of the last commit, or of the one that is about to be made. */
  #head: Head | undefined;
  #fails = false;

  /** `db` writes the volume. @throws OpenError damaged, bad-head */
  constructor(db: Database, path: string, log: (line: string) => void) {
    this.#path = path;
    this.#volumeId = hexMeta(db, "volume_id");
    this.#log = log;
    this.#head = readHead(db);
    this.#save = db.prepare(SAVE);
    this.#file = HeadFile.open(path, true);
  }

  /** Within each commit: gives it its number. @throws SqliteError */
  advance(): void {
    const head = next(this.#head);
    save(this.#save, head);
    this.#head = head;
  }

  /** After the first commit: makes the file where there is none. @throws OpenError bad-head */
  begin(): void {
    if (this.#head === undefined || this.#file !== undefined) return;
    if (this.#head.no > 1)
      this.#log(`${this.#path}: made anew; states older than this one were known to another file`);
    this.#file = HeadFile.make(this.#path, { volumeId: this.#volumeId, ...this.#head });
  }

  /** After each commit, which is durable by then: nothing that fails here is a reason to fail it. */
  publish(): void {
    if (this.#head === undefined) return;
    this.#attempt(() => this.#file?.write({ volumeId: this.#volumeId, ...(this.#head as Head) }));
  }

  close(): void {
    if (!this.#fails) this.#attempt(() => this.#file?.sync());
    this.#file?.close();
    this.#file = undefined;
  }

  #attempt(write: () => void): void {
    try {
      write();
      this.#fails = false;
    } catch (error) {
      if (!this.#fails)
        this.#log(`${this.#path}: cannot be written, so it does not tell the newest state: ${String(error)}`);
      this.#fails = true;
    }
  }
}

/**
 * Accepts the state of the volume at `path`, which nobody else has open, as its newest. Its number becomes higher than any
 * that the head has seen: should the lost commits turn up, then they are the older ones.
 * @throws OpenError bad-head, SqliteError
 */
export function acceptState(path: string, key: Key, headPath: string): void {
  const file = HeadFile.open(headPath, true);
  if (file === undefined) throw badHead(headPath, "no such file");
  const db = new Database(path, key, { mode: "readwrite" });
  try {
    const seen = Math.max(file.newest.no, readHead(db)?.no ?? 0);
    const head = next({ no: seen, nonce: "" });
    db.exec("PRAGMA synchronous = FULL");
    save(db.prepare(SAVE), head);
    db.checkpointTruncate();
    file.write({ volumeId: hexMeta(db, "volume_id"), ...head });
    file.sync();
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    throw typeof code === "string" ? badHead(headPath, `cannot be written (${code})`, error) : error;
  } finally {
    db.close();
    file.close();
  }
}
