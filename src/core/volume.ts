/**
 * One open volume: POSIX on SQL, keyed by inode number, without state per open file. Knows
 * nothing of FUSE, threads or processes.
 *
 * Its operations stand in four rooms: `tree` (names), `attributes`, `files` (contents),
 * `xattrs`. All are synchronous; a refusal throws an FsError, damage a DamageError. Whoever
 * holds a volume calls `idle` when it has nothing else to do: that is when the group is
 * committed and the dead are purged.
 */
import { accessSync, constants, existsSync, realpathSync, statSync } from "node:fs";
import { dirname } from "node:path";
import { assert } from "../base/assert.ts";
import { type Clock, systemClock } from "../base/clock.ts";
import { FsError } from "../base/errno.ts";
import { SqliteError } from "../db/errors.ts";
import type { Key } from "../db/key.ts";
import { scanWal } from "../db/wal.ts";
import { SQLITE_BUSY } from "../native/sqlite3.ts";
import { Attributes } from "./attributes.ts";
import { Blocks } from "./blocks.ts";
import { Changes } from "./changes.ts";
import { type CreateOptions, createVolume } from "./create.ts";
import { OpenError } from "./errors.ts";
import { Extents } from "./extents.ts";
import { Files } from "./files.ts";
import { blockSizeMeta, compressionMeta, hexMeta, isReplica, UPGRADES, upgradeFormat } from "./format.ts";
import { HeadKeeper, refuseOlder } from "./head.ts";
import { History, type Snapshot } from "./history.ts";
import { Inodes } from "./inodes.ts";
import { FileLock, lockHolder, lockHolders } from "./lock.ts";
import { Names } from "./names.ts";
import { type Share, shareOf, Visiting } from "./partial.ts";
import { Prune } from "./prune.ts";
import { Purge } from "./purge.ts";
import { Remotes } from "./remotes.ts";
import { Restore } from "./restore.ts";
import { sqlText } from "./sqltext.ts";
import { Store } from "./store.ts";
import { Tree } from "./tree.ts";
import { type At, type BlockNo, type Epoch, type Ino, NAME_MAX, ROOT_INO, type StatFs } from "./types.ts";
import type { WalCopier } from "./walkeeper.ts";
import { Xattrs } from "./xattrs.ts";

export interface VolumeOptions {
  readonly readOnly?: boolean;
  /** A replica, which is else opened read-only, may be changed: for whoever keeps it a replica. */
  readonly changesReplica?: boolean;
  /** A replica is read while another thread of this process, which opened it with `isHeld`, changes it: see `followed`. */
  readonly follows?: boolean;
  /** Another thread of this process has the volume open, and holds the lock on it. */
  readonly isHeld?: boolean;
  /**
   * Read-only, also while another process has the volume mounted: then all that is read is one snapshot of what
   * was committed when it was opened. Let it go soon: until `close` that process's -wal cannot start over.
   */
  readonly beside?: boolean;
  /**
   * A snapshot to look at: read-only, also while others or this process itself have the volume open, in transactions
   * so short that nobody notices. Where it is deleted meanwhile reads are refused with ESTALE.
   */
  readonly at?: At;
  /**
   * Make an automatic snapshot so many milliseconds after a change, in `idle`, and let go of those that the volume's
   * retention does not keep.
   */
  readonly historyMs?: number;
  /** Most milliseconds that a change stays uncommitted. */
  readonly commitIntervalMs?: number;
  /** One durable commit per operation. */
  readonly sync?: boolean;
  /**
   * Operations return when nothing but a failing disk can refuse them, and write at the next `finish`, which is to be
   * called when whoever asked has his answer. A failure then is a failed commit. Not with `sync`.
   */
  readonly answersFirst?: boolean;
  /** Copies the -wal while this thread serves. */
  readonly copier?: WalCopier;
  /** Of a partial replica: what was fetched, for all of its views; default: nothing. */
  readonly visiting?: Visiting;
  /** READ, READDIR and READLINK leave atime alone. */
  readonly noatime?: boolean;
  /** Bytes of page caches, together; default: DEFAULT_CACHE_BYTES. */
  readonly cacheBytes?: number;
  /**
   * A file, best on another disk, that each commit is told to: a volume that is older than it is refused. Made where
   * it is missing. Not with `beside` or `at`.
   */
  readonly headFile?: string;
  /** For tests: other steps of the format than this version has. */
  readonly upgrades?: readonly string[];
  readonly clock?: Clock;
  /** Damage and failures, one line each. */
  readonly onLog?: (line: string) => void;
}

export const DEFAULT_CACHE_BYTES = 64 * 2 ** 20;
const SHARE_MS = 5000;
const DEFAULT_COMMIT_INTERVAL_MS = 1000;
/** One slice of purging in `idle`. */
const PURGE_SLICE_MS = 1;
/** One slice of pruning. */
const PRUNE_SLICE_MS = 1;

export class Volume {
  readonly path: string;
  readonly readOnly: boolean;
  /** 32 hexadecimal digits, the same in every replica. */
  readonly volumeId: string;
  /** Of files made from now on, in bytes. */
  readonly blockSize: number;
  readonly tree: Tree;
  readonly attributes: Attributes;
  readonly files: Files;
  readonly xattrs: Xattrs;
  /** Snapshots. */
  readonly history: History;
  /** Where its log is kept. */
  readonly remotes: Remotes;
  /** The snapshot that is looked at; undefined: the present. */
  readonly at: Snapshot | undefined;
  /** References that keep unlinked inodes alive. */
  readonly inodes: Pick<Inodes, "ref" | "unref" | "unrefAll" | "referenced" | "references">;
  /** Puts things back as they were once: what loading a dump needs. */
  readonly restore: Restore;
  readonly #store: Store;
  /** Absent beside a writer. */
  readonly #lock: FileLock | undefined;
  readonly #rows: Inodes;
  readonly #purge: Purge;
  readonly #prune: Prune;
  readonly #historyMs: number;
  /** When it was first seen that something changed since the last snapshot. */
  #changedMs: number | undefined;
  #share: { readonly atMs: number; readonly share: Share | undefined } | undefined;
  #closed = false;

  /** Makes a new volume at `path`, which must not exist. @throws OpenError */
  static create(path: string, password: Buffer, options?: CreateOptions): void {
    createVolume(path, password, options);
  }

  /**
   * Opens a volume; what a crash left half done is undone by SQLite here. A file or directory
   * that cannot be written is opened read-only: see `readOnly`.
   * `key` (from `unlock`) is used until `close`, and the caller wipes it.
   * @throws OpenError locked, missing, damaged, not-a-volume, too-new, unreplayable-wal, unreadable; with a head
   *   older, bad-head, no-space; with `at` no-snapshot
   */
  static open(path: string, key: Key, options: VolumeOptions = {}): Volume {
    let real: string;
    try {
      real = realpathSync(path);
    } catch (cause) {
      throw new OpenError("missing", path, `${path}: no such file`, { cause });
    }
    const isPast = options.at !== undefined;
    const readOnly = options.readOnly === true || options.beside === true || isPast || !isWritable(real);
    // Who looks at the past disturbs nobody, and nobody but a rewrite him: SQLite's own locks see to that.
    const lock =
      isPast || options.isHeld === true
        ? undefined
        : options.beside === true
          ? FileLock.besideWriter(real)
          : new FileLock(real, readOnly);
    try {
      return new Volume(real, key, { ...options, readOnly }, lock);
    } catch (error) {
      lock?.release();
      throw error;
    }
  }

  private constructor(
    path: string,
    key: Key,
    options: VolumeOptions & { readOnly: boolean },
    lock: FileLock | undefined,
  ) {
    this.path = path;
    this.#lock = lock;
    const wal = statSync(`${path}-wal`, { throwIfNoEntry: false });
    const walWaits = wal !== undefined && wal.size > 0;
    const beside = lock === undefined && options.isHeld !== true;
    if (options.readOnly && walWaits && !beside && !isWritable(path)) {
      throw new OpenError(
        "unreplayable-wal",
        path,
        `${path}: its last changes are in ${path}-wal and cannot be replayed on a read-only place; ` +
          "copy both files to a writable directory and mount that copy",
      );
    }
    // Who holds it has looked at its -wal, and is writing it. Opening the file again where that is this process would drop
    // SQLite's locks.
    const isHeld = beside && lockHolder(path) !== undefined;
    const walReplays = walWaits && !isHeld && refuseCutWal(path, key);
    const log = options.onLog ?? (() => {});
    const { headFile } = options;
    assert(headFile === undefined || !beside, "a head is for who opens a volume alone");
    try {
      if (headFile !== undefined) refuseOlder(path, key, headFile, options.readOnly, walReplays);
      this.#store = new Store(path, key, {
        readOnly: options.readOnly,
        changesReplica: options.changesReplica === true,
        follows: options.follows === true,
        immutable:
          options.readOnly && !walWaits && (!beside || (options.at !== undefined && cannotChange(path))),
        beside: beside ? (isWritable(path) ? "readwrite" : "readonly") : undefined,
        shortReads: options.at !== undefined,
        commitIntervalMs: options.commitIntervalMs ?? DEFAULT_COMMIT_INTERVAL_MS,
        sync: options.sync ?? false,
        answersFirst: options.answersFirst ?? false,
        copier: options.copier,
        visiting: options.visiting ?? new Visiting(),
        cacheBytes: options.cacheBytes ?? DEFAULT_CACHE_BYTES,
        clock: options.clock ?? systemClock,
        onLog: log,
      });
    } catch (error) {
      throw explain(error, path);
    }
    this.readOnly = this.#store.readOnly;
    this.#historyMs = this.readOnly ? Infinity : (options.historyMs ?? Infinity);
    try {
      if (!this.readOnly) this.#prepare(walWaits, options.upgrades ?? UPGRADES, headFile, log);
      this.volumeId = hexMeta(this.#store.writer, "volume_id");
      this.blockSize = blockSizeMeta(this.#store.writer);
      this.history = new History(this.#store, () => this.#prune.wake());
      this.remotes = new Remotes(this.#store, () => this.#prune.wake());
      this.at = options.at && this.#lookAt(options.at);
      this.#rows = new Inodes(this.#store, this.blockSize, options.noatime !== true);
      this.inodes = this.#rows;
      const blocks = new Blocks(this.#store);
      this.xattrs = new Xattrs(this.#store, this.#rows);
      const compression = compressionMeta(this.#store.writer);
      const extents = new Extents(this.#store, this.#rows, blocks, this.xattrs, compression);
      this.tree = new Tree(this.#store, this.#rows, this.xattrs);
      this.files = new Files(this.#store, this.#rows, blocks, extents, this.xattrs);
      this.attributes = new Attributes(this.#store, this.#rows, this.xattrs, this.files);
      this.restore = new Restore(this.#store, this.#rows, extents, this.tree, this.xattrs);
      this.#purge = new Purge(this.#store, this.#rows, extents, this.xattrs);
      this.#prune = new Prune(this.#store, extents);
      this.#store.onFull(() => this.#makeRoom());
    } catch (error) {
      this.#store.abandon();
      throw explain(error, path);
    }
  }

  /** Brings a volume that is opened for writing to where its rows can be used. */
  #prepare(
    walWaits: boolean,
    upgrades: readonly string[],
    headFile: string | undefined,
    log: (line: string) => void,
  ): void {
    const { writer } = this.#store;
    // What a crash left is settled at once: what lies behind it in the -wal is then never taken for another crash's.
    if (walWaits) this.#store.settle();
    const upgraded = upgradeFormat(writer, upgrades);
    if (upgraded !== undefined) log(`${this.path}: its format is now ${upgraded}`);
    if (headFile !== undefined) this.#store.keepHead(new HeadKeeper(writer, headFile, log));
  }

  /** @throws OpenError no-snapshot */
  #lookAt(at: At): Snapshot {
    const snapshot = this.history.find(at);
    if (snapshot === undefined) {
      const [oldest] = at.time === undefined ? [] : this.history.list();
      const since = oldest && new Date(oldest.created.sec * 1000).toISOString();
      const which = at.name ?? (at.epoch === undefined ? "so old" : `of epoch ${at.epoch}`);
      const message = `${this.path}: no snapshot ${which}${since === undefined ? "" : ` (the oldest is of ${since})`}`;
      throw new OpenError("no-snapshot", this.path, `${message}; see: sqlfuse snapshot list ${this.path}`);
    }
    this.#store.lookAt(snapshot.epoch);
    return snapshot;
  }

  /** Whether this is a copy that is changed by what it pulls alone. */
  get isReplica(): boolean {
    return isReplica(this.#store.writer);
  }

  /** Whether what is read here may be changed by another thread. */
  get follows(): boolean {
    return this.#store.follows;
  }

  /** Another number for each state that was seen of what another thread changes; 0 where none does. @throws FsError EIO */
  get followed(): number {
    return this.#store.followed;
  }

  /** Another connection changed the volume: nothing that was kept of it here holds. */
  refresh(): void {
    this.commit();
    this.#store.refresh();
    this.#prune.wake();
  }

  get isPartial(): boolean {
    return this.#store.partial !== undefined;
  }

  /** How much of a partial replica is here; undefined for other volumes. */
  share(): Share | undefined {
    return this.#store.partial && this.#store.query(ROOT_INO, () => shareOf(this.#store.writer));
  }

  /** As `share`, not older than some seconds: it looks at every block. */
  #shareNow(): Share | undefined {
    const nowMs = this.#store.clock.monotonicMs();
    if (this.#share === undefined || nowMs - this.#share.atMs > SHARE_MS)
      this.#share = { atMs: nowMs, share: this.share() };
    return this.#share.share;
  }

  /** Blocks of a partial replica that were read since this was last asked; none of other volumes. */
  takeUsed(): readonly BlockNo[] {
    return this.#store.partial?.takeUsed() ?? [];
  }

  /** Number of inodes. */
  get inodeCount(): number {
    return this.#rows.files;
  }

  /** Everything that is stored, as SQL that a stock sqlite3 (3.37 or newer) reads: one text after the other. */
  sqlText(): Generator<Buffer> {
    return sqlText(this.#store.writer);
  }

  /** What changed since when, as of the last commit; what is open is committed. Not of a view of the past. */
  changes(): Changes {
    assert(this.at === undefined, "the past has no changes of its own");
    if (!this.readOnly) this.commit();
    return new Changes(this.#store.writer, this.#store.epoch);
  }

  /** The current epoch, which stands for the present. */
  get epoch(): Epoch {
    return this.#store.epoch;
  }

  /**
   * The disk's own figures, with what this volume may still take, and the volume's files. Of a partial replica what is used
   * is all content, here or not, and what is free is free here.
   */
  statfs(): StatFs {
    const { blockSize, blocks: diskBlocks, availableBytes } = this.#store.spaceFigures();
    const free = Math.floor(availableBytes / blockSize);
    const share = this.#shareNow();
    const blocks = share === undefined ? diskBlocks : Math.ceil(share.bytes / blockSize) + free;
    const files = this.#store.query(ROOT_INO, () => this.#rows.files);
    // An inode takes some hundred bytes, so free space bounds their number.
    const INODE_BYTES = 512;
    const ffree = Math.floor(availableBytes / INODE_BYTES);
    return { blockSize, blocks, bfree: free, bavail: free, files: files + ffree, ffree, nameMax: NAME_MAX };
  }

  /**
   * Makes everything durable that came before.
   * @throws FsError EIO, once per file whose last changes a failed commit lost
   */
  fsync(ino: Ino): void {
    this.#store.fsync(ino);
  }

  /** Writes what the last operation left to be written: see `answersFirst`. */
  finish(): void {
    this.#store.finish();
  }

  /** Commits what is open, durably. @throws FsError EIO */
  commit(): void {
    this.#store.commit();
  }

  /** A commit failed: changes are refused (EROFS), and what others cached of this volume may be wrong. */
  get failed(): boolean {
    return this.#store.failed;
  }

  /** Milliseconds since the oldest uncommitted change, 0 where there is none. */
  uncommittedMs(nowMs: number): number {
    return this.#store.uncommittedMs(nowMs);
  }

  /**
   * Does what is due: a commit, a slice of the purge, a checkpoint. Tells after how many
   * milliseconds it wants to be called again: 0 where work is left, Infinity where none will come.
   */
  idle(nowMs: number): number {
    this.#store.work(nowMs);
    const historyMs = this.#keepHistory(nowMs);
    const purgeMs = slice(this.#purge, PURGE_SLICE_MS, nowMs);
    const pruneMs = this.#prune.isPutOff ? Infinity : slice(this.#prune, PRUNE_SLICE_MS, nowMs);
    return Math.min(historyMs, purgeMs, pruneMs, this.#store.dueInMs(nowMs));
  }

  /** Makes the automatic snapshot that is due, and tells in how many milliseconds one is. */
  #keepHistory(nowMs: number): number {
    if (this.#historyMs === Infinity || this.failed || !this.#store.isChanged) {
      this.#changedMs = undefined;
      return Infinity;
    }
    this.#changedMs ??= nowMs;
    const dueMs = this.#changedMs + this.#historyMs - nowMs;
    if (dueMs > 0) return dueMs;
    this.#changedMs = nowMs;
    try {
      this.history.createAutomatic();
      this.history.prune();
    } catch (error) {
      if (!(error instanceof FsError)) throw error;
      this.#store.log(`no automatic snapshot could be made: ${error.message}`);
    }
    return this.#historyMs;
  }

  /**
   * A path that leads to an inode as of the last commit, for messages; undefined where none does or it cannot be
   * told. Looks through all entries.
   */
  pathOf(ino: Ino): string | undefined {
    try {
      return new Names(this.readOnly ? this.#store.writer : this.#store.reader).pathOf(ino);
    } catch (error) {
      if (!(error instanceof SqliteError)) throw error;
      this.#store.reopenReader();
      return undefined;
    }
  }

  /** For so many milliseconds drops what deleted snapshots left, which `idle` does too; tells whether there is more. */
  prune(ms = Infinity): boolean {
    this.#prune.run(ms);
    return this.#prune.waiting;
  }

  /** Room for what a full disk would refuse: the oldest history goes, as far as the retention allows it. */
  #makeRoom(): boolean {
    if (!this.history.yieldOldest()) return false;
    this.#store.log("the disk is full: the oldest automatic snapshot is deleted");
    return !this.prune();
  }

  /** Keeps the volume as it is now, as a snapshot that is named after its epoch, and tells that. @throws FsError */
  closeEpoch(): number {
    return this.history.create(`epoch ${this.#store.epoch}`).epoch;
  }

  /** Gives all references back, purges, commits, closes: only the one file is left. Again: nothing. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#rows.unrefAll();
    try {
      this.#rows.findLeft();
      this.#purge.run(Number.POSITIVE_INFINITY);
    } finally {
      this.#store.close();
      this.#lock?.release();
    }
  }
}

/** Whether nobody has the file open for writing, or can open it so from here. */
function cannotChange(path: string): boolean {
  return !isWritable(path) && !existsSync(`${path}-wal`) && lockHolders(path, "WRITE").length === 0;
}

/** Does some work that waits, and tells after how many milliseconds there is more to do. */
function slice(work: Purge | Prune, ms: number, nowMs: number): number {
  if (work.waiting && work.pauseMs(nowMs) === 0) work.run(ms);
  return work.waiting ? work.pauseMs(nowMs) : Number.POSITIVE_INFINITY;
}

/**
 * SQLite would replay the -wal up to its first damaged frame and write over the rest: commits that a repair can
 * still save. Tells whether it has commits. @throws OpenError damaged
 */
function refuseCutWal(path: string, key: Key): boolean {
  const wal = scanWal(`${path}-wal`, key.cipher.pageSize);
  if (wal?.isCut !== true) return (wal?.replayed ?? 0) > 0;
  throw new OpenError(
    "damaged",
    path,
    `${path}: its -wal is damaged, and a mount would lose ${wal.cutCommits} commits; save them with: sqlfuse fsck --repair ${path}`,
  );
}

/** Whether this process may write the file and make files beside it. */
function isWritable(path: string): boolean {
  try {
    accessSync(path, constants.W_OK);
    accessSync(dirname(path), constants.W_OK);
    // root may write what nobody is allowed to: then the file's mode is what its owner meant.
    return (statSync(path).mode & 0o222) !== 0;
  } catch {
    return false;
  }
}

/** Why a volume does not open, in words for its user. */
function explain(error: unknown, path: string): unknown {
  if (error instanceof FsError) {
    const reason = error.code === "ENOSPC" ? "no-space" : "unreadable";
    return new OpenError(reason, path, `${path}: its head cannot be kept (${error.message})`, {
      cause: error,
    });
  }
  if (!(error instanceof SqliteError)) return error;
  if (error.isDamage) {
    return new OpenError(
      "damaged",
      path,
      `${path}: the password is right, but its first pages are damaged; keep a copy before you try to repair it`,
      { cause: error },
    );
  }
  if (error.isFull) {
    return new OpenError("no-space", path, `${path}: no space left on its disk to open it for writing`, {
      cause: error,
    });
  }
  if (/no such table/.test(error.message)) {
    return new OpenError("not-a-volume", path, `${path}: a SQLCipher database, but not a sqlfuse volume`, {
      cause: error,
    });
  }
  if (error.code === SQLITE_BUSY) {
    return new OpenError(
      "locked",
      path,
      `${path}: another process rewrites it; try again when that is done`,
      {
        cause: error,
      },
    );
  }
  return new OpenError("unreadable", path, `${path}: cannot be opened (${error.message})`, { cause: error });
}
