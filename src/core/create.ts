/** Makes a volume: a new file, whole or not there at all. */
import { randomBytes } from "node:crypto";
import {
  closeSync,
  existsSync,
  fsyncSync,
  linkSync,
  lstatSync,
  openSync,
  readdirSync,
  renameSync,
  rmSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import { type Clock, systemClock } from "../base/clock.ts";
import { Database } from "../db/database.ts";
import { SqliteError } from "../db/errors.ts";
import { type CipherSettings, Key, SALT_BYTES, STOCK_CIPHER } from "../db/key.ts";
import { lz4 } from "../native/lz4.ts";
import { BLOCK_SIZES, isBlockSize, isOfOldKind, usualBlockSize } from "./blocksize.ts";
import type { Compression } from "./codec.ts";
import { OpenError } from "./errors.ts";
import { FORMAT, requireFeature, schemaSql } from "./format.ts";
import { FileLock } from "./lock.ts";
import { S_IFDIR } from "./mode.ts";
import { ROOT_INO } from "./types.ts";
import { DEFAULT_CIPHER } from "./unlock.ts";

export interface CreateOptions {
  /** Bytes per block of files made in the volume: a power of two, 4096 to 1 MiB. */
  readonly blockSize?: number;
  /** Bytes per database page: a power of two, 4096 to 65,536. */
  readonly pageSize?: number;
  /** SQLCipher 4's own settings, so that a stock shell opens the file with nothing but the password. */
  readonly compat?: boolean;
  /** Of files that do not say otherwise. Default: "fast", with `compat` "none". */
  readonly compression?: Compression;
  /** Rounds of the key derivation: KDF_ITERATIONS or STRONG_KDF_ITERATIONS, as `unlock` tries no others. */
  readonly iterations?: number;
  readonly rootUid?: number;
  readonly rootGid?: number;
  /** Permission bits of the root directory. */
  readonly rootMode?: number;
  readonly clock?: Clock;
}

/** Between the name of a volume that is being made and eight random digits. */
const DRAFT_MARK = ".new-";
const DRAFT_END = /^[0-9a-f]{8}$/;
/** It is made a moment before it is locked. */
const UNLOCKED_MS = 2000;

/** Numbers below are kept: 1 is the root, and readdir's cookies 1 and 2 are "." and "..". */
const FIRST_SERIAL = 16;

function isPowerOfTwo(value: number, least: number, most: number): boolean {
  return Number.isInteger(Math.log2(value)) && value >= least && value <= most;
}

/**
 * A new volume that does not have its name yet, so that whatever stops its making, the name holds a whole volume or
 * nothing. `discard` it in the end, also after `publish`.
 */
export class NewVolume {
  /** Where it is made: beside the name that it will have. */
  readonly path: string;
  readonly key: Key;
  readonly #name: string;
  /** Tells that it is being made, and was not left by somebody who was killed. */
  #lock: FileLock | undefined;

  /**
   * An empty volume, mode 0600, to be published as `name`.
   * @throws OpenError exists, unreadable, no-space; RangeError for sizes that no volume can have; EngineError where
   *   nothing here can compress
   */
  constructor(name: string, password: Buffer, options: CreateOptions = {}) {
    const { cipher, blockSize } = checkSizes(options);
    if (existsSync(name)) throw alreadyThere(name);
    if (compressionOf(options) !== "none") lz4();
    this.#name = name;
    this.path = `${name}${DRAFT_MARK}${randomBytes(4).toString("hex")}`;
    this.key = Key.derive(password, randomBytes(SALT_BYTES), cipher, options.iterations);
    try {
      removeLeft(name);
      closeSync(openSync(this.path, "wx", 0o600));
      this.#lock = new FileLock(this.path, false);
      fill(this.path, this.key, blockSize, options);
    } catch (error) {
      this.discard();
      throw explain(error, name);
    }
  }

  /** Lets go of the lock, as somebody does who is to open it as a volume: that has its own. */
  release(): void {
    this.#lock?.release();
    this.#lock = undefined;
  }

  /** Gives the closed volume its name, durably. @throws OpenError exists, unreadable, no-space */
  publish(): void {
    try {
      sync(this.path);
      publish(this.path, this.#name);
      sync(dirname(this.#name));
    } catch (error) {
      throw explain(error, this.#name);
    }
  }

  /** Removes what was not published, and wipes the key. */
  discard(): void {
    this.key.wipe();
    removeWhole(this.path);
    this.release();
  }
}

function removeWhole(path: string): void {
  for (const end of ["", "-wal", "-shm", "-journal"]) rmSync(path + end, { force: true });
}

/** Removes what was left of a volume of that name by somebody who was killed while he made it. */
function removeLeft(name: string): void {
  const start = `${basename(name)}${DRAFT_MARK}`;
  for (const draft of namesIn(dirname(name))) {
    if (!draft.startsWith(start) || !DRAFT_END.test(draft.slice(start.length))) continue;
    const path = join(dirname(name), draft);
    const stat = lstatSync(path, { throwIfNoEntry: false });
    if (stat?.isFile() && Date.now() - stat.mtimeMs > UNLOCKED_MS && isFree(path)) removeWhole(path);
  }
}

function namesIn(directory: string): string[] {
  try {
    return readdirSync(directory);
  } catch {
    return []; // who may not look may still write there
  }
}

/** Whether nobody makes it; neither where this user cannot tell. */
function isFree(path: string): boolean {
  try {
    new FileLock(path, false).release();
    return true;
  } catch (error) {
    if (error instanceof OpenError) return false;
    throw error;
  }
}

/**
 * Makes the volume `path`, mode 0600, under `password`.
 * @throws as NewVolume
 */
export function createVolume(path: string, password: Buffer, options: CreateOptions = {}): void {
  const draft = new NewVolume(path, password, options);
  try {
    draft.publish();
  } finally {
    draft.discard();
  }
}

function compressionOf({ compression, compat }: CreateOptions): Compression {
  return compression ?? (compat === true ? "none" : "fast");
}

/** @throws RangeError */
function checkSizes(options: CreateOptions): { readonly cipher: CipherSettings; readonly blockSize: number } {
  const standard = options.compat === true ? STOCK_CIPHER : DEFAULT_CIPHER;
  const cipher = { ...standard, pageSize: options.pageSize ?? standard.pageSize };
  const blockSize = options.blockSize ?? usualBlockSize(cipher.pageSize);
  if (!isBlockSize(blockSize)) throw new RangeError(`block size ${blockSize}: ${BLOCK_SIZES} is needed`);
  if (!isPowerOfTwo(cipher.pageSize, 4096, 65_536)) {
    throw new RangeError(`page size ${cipher.pageSize}: a power of two from 4096 to 65536 is needed`);
  }
  if (options.compat === true && cipher.pageSize !== STOCK_CIPHER.pageSize) {
    throw new RangeError(
      `page size ${cipher.pageSize}: a compatible volume has pages of ${STOCK_CIPHER.pageSize}`,
    );
  }
  return { cipher, blockSize };
}

/** Gives the draft its name, which nobody else may have taken meanwhile. */
function publish(draft: string, path: string): void {
  try {
    linkSync(draft, path);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === "EEXIST") throw error;
    // A filesystem without hard links: rename would replace a file, so the name is looked at once more.
    if (existsSync(path)) throw alreadyThere(path);
    renameSync(draft, path);
  }
}

function sync(path: string): void {
  const fd = openSync(path, "r");
  fsyncSync(fd);
  closeSync(fd);
}

function alreadyThere(path: string): OpenError {
  return new OpenError("exists", path, `${path}: exists already; choose another name or remove it first`);
}

/** Why a volume could not be made, in words for its user. */
function explain(cause: unknown, path: string): unknown {
  if (cause instanceof OpenError) return cause;
  const code = (cause as NodeJS.ErrnoException).code;
  const full = cause instanceof SqliteError ? cause.isFull : code === "ENOSPC" || code === "EDQUOT";
  if (full)
    return new OpenError("no-space", path, `${path}: no space left on its disk; nothing was made`, { cause });
  if (code === "EEXIST") return alreadyThere(path);
  if (code === "ENOENT")
    return new OpenError("missing", path, `${path}: its directory does not exist`, { cause });
  if (typeof code === "string")
    return new OpenError("unreadable", path, `${path}: cannot be made (${code})`, { cause });
  return cause;
}

function fill(path: string, key: Key, blockSize: number, options: CreateOptions): void {
  const db = new Database(path, key, { mode: "create" });
  try {
    db.exec(`PRAGMA page_size = ${key.cipher.pageSize}`);
    db.exec("PRAGMA auto_vacuum = NONE");
    db.exec("PRAGMA journal_mode = WAL");
    db.exec("PRAGMA synchronous = FULL");
    db.exec("BEGIN IMMEDIATE");
    db.exec(schemaSql());
    const now = (options.clock ?? systemClock).now();
    const nowNs = BigInt(now.sec) * 1_000_000_000n + BigInt(now.nsec);
    const meta = db.prepare("INSERT INTO meta (key, value) VALUES (?1, ?2)");
    const put = (name: string) => meta.bindText(1, name);
    put("format").bindText(2, FORMAT).run();
    put("volume_id").bindBlob(2, randomBytes(16)).run();
    put("replica_id")
      .bindBigInt(2, randomBytes(8).readBigUInt64LE() >> 1n)
      .run();
    put("block_size").bindInt(2, blockSize).run();
    put("compression").bindText(2, compressionOf(options)).run();
    put("epoch").bindInt(2, 1).run();
    put("changed").bindInt(2, 1).run();
    put("next_serial").bindInt(2, FIRST_SERIAL).run();
    put("next_block").bindInt(2, 1).run();
    put("created_ns").bindBigInt(2, nowNs).run();
    put("features").bindText(2, "[]").run();
    put("features_incompatible").bindText(2, "[]").run();
    if (compressionOf(options) !== "none") requireFeature(db, "compression");
    if (!isOfOldKind(blockSize)) requireFeature(db, "block-size");
    const root = db.prepare(
      `INSERT INTO inode (ino, mode, nlink, uid, gid, rdev, size, block_size, extents, parent, generation,
         atime_ns, mtime_ns, ctime_ns, btime_ns, born, origin)
       VALUES (?1, ?2, 2, ?3, ?4, 0, 0, 0, 0, ?1, 0, ?5, ?5, ?5, ?5, 1, 0)`,
    );
    root
      .bindInt(1, ROOT_INO)
      .bindInt(2, S_IFDIR | ((options.rootMode ?? 0o700) & 0o7777))
      .bindInt(3, options.rootUid ?? process.getuid?.() ?? 0)
      .bindInt(4, options.rootGid ?? process.getgid?.() ?? 0)
      .bindBigInt(5, nowNs)
      .run();
    db.exec("COMMIT");
    db.checkpointTruncate();
  } finally {
    db.close();
  }
}
