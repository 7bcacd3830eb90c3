/**
 * Takes apart inodes that nobody names and nobody refers to, in slices of bounded time:
 * one big file must not make everybody wait. What belongs to a past epoch goes there.
 */
import { DamageError, FsError } from "../base/errno.ts";
import type { Extents } from "./extents.ts";
import type { Inodes } from "./inodes.ts";
import type { Store } from "./store.ts";
import type { Ino } from "./types.ts";
import type { Xattrs } from "./xattrs.ts";

/** Blocks dropped between two looks at the clock. */
const STEP_BLOCKS = 16;
/** After a full disk refused a step. */
const PAUSE_MS = 1000;

export class Purge {
  readonly #store: Store;
  readonly #inodes: Inodes;
  readonly #extents: Extents;
  readonly #xattrs: Xattrs;
  #pausedUntilMs = 0;

  constructor(store: Store, inodes: Inodes, extents: Extents, xattrs: Xattrs) {
    this.#store = store;
    this.#inodes = inodes;
    this.#extents = extents;
    this.#xattrs = xattrs;
  }

  /** Whether there is anything to do, and it may be done. */
  get waiting(): boolean {
    return this.#inodes.nextDead() !== undefined && !this.#store.refusesChanges;
  }

  /** Milliseconds for which there is no point in trying again, after there was no room. */
  pauseMs(nowMs: number): number {
    return Math.max(0, this.#pausedUntilMs - nowMs);
  }

  /** Purges for about `ms` milliseconds; `Infinity` until nothing waits. */
  run(ms: number): void {
    // What is not applied yet may be one more that is dead.
    this.#store.finish();
    const until = this.#store.clock.monotonicMs() + ms;
    for (
      let ino = this.#inodes.nextDead();
      ino !== undefined && this.waiting;
      ino = this.#inodes.nextDead()
    ) {
      const dead = ino;
      try {
        this.#store.query(dead, () => this.#store.change(dead, 0, true, () => this.#step(dead)));
      } catch (error) {
        if (error instanceof DamageError) {
          // It stays unlinked; fsck can take it apart.
          this.#store.log(`cannot purge inode ${dead}: ${error.message}`);
          if (this.#inodes.nextDead() === dead) this.#inodes.buried(dead);
          continue;
        }
        if (!(error instanceof FsError)) throw error;
        // A full disk: tried again later. A lost group: the volume is read-only, the next open purges.
        this.#pausedUntilMs = this.#store.clock.monotonicMs() + PAUSE_MS;
        return;
      }
      if (this.#store.clock.monotonicMs() >= until) return;
    }
  }

  #step(ino: Ino): void {
    const inode = this.#inodes.find(ino);
    if (inode === undefined || inode.nlink > 0 || this.#inodes.keepsOrphan(ino)) {
      this.#inodes.buried(ino);
      return;
    }
    if (inode.extents > 0) {
      const batch = this.#extents.range(ino, 0, Number.MAX_SAFE_INTEGER);
      const step = batch.slice(0, STEP_BLOCKS);
      for (const { idx, extent } of step) this.#extents.drop(inode, idx, extent);
      if (batch.length > 0 && inode.extents > 0) {
        this.#inodes.save(inode);
        return;
      }
    }
    this.#xattrs.dropAll(inode);
    this.#inodes.delete(ino);
    this.#inodes.buried(ino);
  }
}
