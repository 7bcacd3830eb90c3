/**
 * What becomes of a commit: it lies in the -wal, is synced there, and is copied to the main file.
 *
 * Nobody waits for the sync of a commit that no fsync asked for; but the next commit does, so that a power loss finds one at
 * most that is not on the disk. The -wal is copied by a second thread where there is one, and here when it grows too long.
 */
import type { Clock } from "../base/clock.ts";
import type { Database } from "../db/database.ts";
import { SqliteError } from "../db/errors.ts";
import { WalFile } from "../db/walfile.ts";
import { SQLITE_BUSY } from "../native/sqlite3.ts";
import type { Ino } from "./types.ts";

/** Somebody who copies the -wal while others work. */
export interface WalCopier {
  /** Asks for it; false where he is busy, or not there. */
  copy(): boolean;
  /** Frames that he had copied when he last ended, told once; undefined while he is not done. */
  copied(): number | undefined;
  /** Returns when he is not busy. */
  wait(): void;
}

/** A longer -wal is copied to the main file, elsewhere if somebody does that. */
const WAL_BYTES = 24 * 2 ** 20;
/** Where nobody does, or it grows faster than it is copied, a longer one is copied right after a commit. */
const WAL_MOST_BYTES = 64 * 2 ** 20;
/** What is left over is copied after a commit when it is no more than this: then the next commit starts the -wal over. */
const REST_BYTES = 3 * 2 ** 20;
/** A quiet volume copies its -wal after this long. */
const QUIET_MS = 2000;
/** How often it is asked whether a sync is done that nobody waits for. */
const SYNC_POLL_MS = 5;

export class WalKeeper {
  readonly #writer: Database;
  readonly #copier: WalCopier | undefined;
  readonly #clock: Clock;
  readonly #onLog: (line: string) => void;
  /** Called when all commits so far are on the disk. */
  readonly #onSynced: () => void;
  /** Syncs the commits; undefined where COMMIT itself does. */
  #file: WalFile | undefined;
  /** Inodes that a commit changed which is not known to be on the disk. */
  readonly #unsynced = new Set<Ino>();
  /** There is such a commit. */
  #isUnsynced = false;
  /** Monotonic time of the last commit that is not yet copied to the main file. */
  #sinceMs: number | undefined;
  /** The last copy failed, and that was said. */
  #copyFails = false;

  constructor(
    writer: Database,
    copier: WalCopier | undefined,
    clock: Clock,
    onLog: (line: string) => void,
    onSynced: () => void,
  ) {
    this.#writer = writer;
    this.#copier = copier;
    this.#clock = clock;
    this.#onLog = onLog;
    this.#onSynced = onSynced;
  }

  /** Begins with the -wal of the writer, which was opened just now, also anew. */
  attach(): void {
    this.#file?.close();
    this.#file = openWal(this.#writer.path);
    // NORMAL: SQLite syncs the -wal before it copies it, and the commits are ours to sync.
    this.#writer.exec(`PRAGMA synchronous = ${this.#file === undefined ? "FULL" : "NORMAL"}`);
    if (this.#isUnsynced) this.#file?.written();
  }

  close(): void {
    this.#file?.close();
    this.#file = undefined;
  }

  /** A commit was written that changed `inos`. */
  committed(inos: Iterable<Ino>): void {
    this.#file?.written();
    this.#isUnsynced = true;
    for (const ino of inos) this.#unsynced.add(ino);
    this.#sinceMs ??= this.#clock.monotonicMs();
    this.#tend();
  }

  /** Begins to sync, and does not wait where that can be. @throws Error where a sync failed */
  beginSync(): void {
    this.#file?.begin();
    this.#look();
  }

  /** Returns when all commits are on the disk. `mayWiden`: the disk has room to spare. @throws Error where a sync failed */
  sync(mayWiden: () => boolean): void {
    if (!this.#isUnsynced) return;
    const used = this.#writer.walBytes;
    if (this.#file?.isNarrow(used) === true && mayWiden()) this.#file.widen(used);
    this.#file?.sync();
    this.#look();
  }

  /** Returns when no sync is under way. @throws Error where it failed */
  settle(): void {
    this.#file?.settle();
    this.#look();
  }

  /** Whether a sync is under way that nobody waits for. @throws Error where it failed */
  isSyncing(): boolean {
    const busy = this.#file?.isBusy === true;
    this.#look();
    return busy;
  }

  #look(): void {
    if (!this.#isUnsynced || this.#file?.isPending === true) return;
    this.#isUnsynced = false;
    this.#unsynced.clear();
    this.#onSynced();
  }

  /** The inodes of commits that may not be on the disk, as a sync failed. */
  takeUnsynced(): Ino[] {
    const inos = [...this.#unsynced];
    this.#unsynced.clear();
    this.#isUnsynced = false;
    return inos;
  }

  /** Milliseconds until `work` has something to do; Infinity where it will not. `isOpen`: a group is. */
  dueInMs(nowMs: number, isOpen: boolean): number {
    if (this.#isUnsynced) return SYNC_POLL_MS;
    return isOpen || this.#sinceMs === undefined ? Infinity : Math.max(0, this.#sinceMs + QUIET_MS - nowMs);
  }

  /** Copies the -wal of a volume that is quiet. */
  work(nowMs: number): void {
    if (this.#sinceMs === undefined || nowMs - this.#sinceMs < QUIET_MS) return;
    if (this.#copier?.copy() === true) this.#sinceMs = undefined;
    else this.copy(false);
  }

  /** Keeps the -wal short. */
  #tend(): void {
    const frames = this.#writer.walFrames;
    if (this.#writer.walBytes > WAL_MOST_BYTES) {
      this.#copier?.wait();
      this.copy(false);
    } else if (this.#writer.walBytes > WAL_BYTES && this.#copier !== undefined) {
      const copied = this.#copier.copied();
      if (copied !== undefined && (frames - copied) * this.#writer.pageSize <= REST_BYTES) this.copy(false);
      else this.#copier.copy();
    }
  }

  /** Copies the -wal to the main file here and now, and with `truncate` cuts it to nothing. */
  copy(truncate: boolean): void {
    if (truncate) this.#copier?.wait();
    try {
      if (truncate) {
        this.#writer.checkpointTruncate();
        this.#file?.cut();
      } else this.#writer.checkpointPassive();
      this.#sinceMs = undefined;
      this.#copyFails = false;
    } catch (error) {
      this.#sinceMs = this.#clock.monotonicMs();
      // Somebody else copies it just now.
      if (error instanceof SqliteError && error.code === SQLITE_BUSY && !truncate) return;
      // The -wal stays valid: it is tried again, and meanwhile it grows.
      if (!this.#copyFails) this.#onLog(`checkpoint failed, will be tried again: ${String(error)}`);
      this.#copyFails = true;
    }
  }
}

/** Undefined where syncing it is better left to SQLite: macOS has a sync of its own. */
function openWal(path: string): WalFile | undefined {
  if (process.platform !== "linux") return undefined;
  try {
    return new WalFile(path);
  } catch {
    return undefined;
  }
}
