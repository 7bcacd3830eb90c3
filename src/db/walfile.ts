/**
 * The -wal as a file: who syncs its commits, and room ahead of its frames.
 *
 * SQLite writes it, and syncs it before it copies it (`synchronous = NORMAL`). That a commit is on the disk is asked for
 * here: by fdatasync, where SQLite's build has fsync, which writes the inode too; and in the background for a commit that
 * nobody waits for. While one is under way the next commit must not begin: so a power loss finds at most one commit
 * that is not synced, and the order of commits stands.
 */
import { closeSync, fdatasyncSync, fstatSync, openSync, writeSync } from "node:fs";
import { Background } from "../native/aio.ts";

/** The file grows no further ahead: by then it is copied and begun anew. */
const MOST_AHEAD = 12 * 2 ** 20;
const LEAST_AHEAD = 256 * 1024;

export class WalFile {
  readonly #fd: number;
  readonly #background: Background | undefined;
  /** Bytes that the file has at least. */
  #size: number;
  /** Something was written since the last sync was begun, or that one failed. */
  #isDirty = false;

  /** Opens the -wal of the database at `path`, which is there. @throws NodeJS.ErrnoException */
  constructor(path: string) {
    this.#fd = openSync(`${path}-wal`, "r+");
    this.#size = fstatSync(this.#fd).size;
    this.#background = Background.of(this.#fd);
  }

  /** Says that a commit was written that is not synced. */
  written(): void {
    this.#isDirty = true;
  }

  /** Begins to make durable what was written, and does not wait where that can be. @throws NodeJS.ErrnoException */
  begin(): void {
    this.settle();
    if (!this.#isDirty) return;
    if (this.#background?.begin() === true) this.#isDirty = false;
    else this.sync();
  }

  /** Whether a sync is under way. Asks the kernel. @throws Error where it failed */
  get isBusy(): boolean {
    return !this.#take(false);
  }

  /** Whether something is not known to be on the disk, as of the last answer of the kernel. */
  get isPending(): boolean {
    return this.#isDirty || this.#background?.isBusy === true;
  }

  /** Waits for the sync that is under way, if one is. @throws Error where it failed */
  settle(): void {
    this.#take(true);
  }

  /** Returns when all that was written is durable. @throws Error, NodeJS.ErrnoException */
  sync(): void {
    this.settle();
    if (!this.#isDirty) return;
    fdatasyncSync(this.#fd);
    this.#isDirty = false;
  }

  /** Whether `widen` would help, where `used` bytes are written. */
  isNarrow(used: number): boolean {
    return used > this.#size && this.#size < MOST_AHEAD;
  }

  /**
   * Makes room ahead of `used` bytes, of zeros, which end a log as well as the end of the file does: a sync that need not make
   * the file longer is one write to the disk instead of two. Doubles it, so that who seldom syncs pays little.
   */
  widen(used: number): void {
    const to = Math.min(MOST_AHEAD, used + Math.max(LEAST_AHEAD, used));
    try {
      writeSync(this.#fd, Buffer.alloc(to - used), 0, to - used, used);
      this.#size = to;
    } catch {
      // It was only to be faster, and SQLite will meet the disk's error itself.
      this.#size = MOST_AHEAD;
    }
  }

  /** Says that the file was cut to nothing. */
  cut(): void {
    this.#size = 0;
  }

  close(): void {
    this.#background?.close();
    closeSync(this.#fd);
  }

  #take(wait: boolean): boolean {
    if (this.#background?.isBusy !== true) return true;
    const result = this.#background.result(wait);
    if (result === undefined) return false;
    if (result === 0) return true;
    this.#isDirty = true;
    throw new Error(`fdatasync of the -wal failed (errno ${-result})`);
  }
}
