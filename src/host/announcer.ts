/**
 * Tells the kernel what to forget. Each message may wait until the worker has answered another request: one that reads a
 * page of that inode, or looks into that directory. So it is neither written on the worker's thread nor on the main one.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { Ino } from "../core/types.ts";
import { incEpoch, invalAttributes, invalEntry, invalInode } from "../fuse/notify.ts";
import type { Stale } from "../fuse/session.ts";

/** The kernel notes an answer within microseconds, if its processor is not busy. */
const NOTED_MS = 50;
/** A message that takes longer waits for an answer that will not come. */
const END_MS = 1000;

export class Announcer {
  readonly #send: (message: Uint8Array) => Promise<number>;
  #told: Promise<void> = Promise.resolve();
  #ended = false;

  /** `send` writes to /dev/fuse, on a thread of its own; negative where the kernel refuses. Called until `end` resolves. */
  constructor(send: (message: Uint8Array) => Promise<number>) {
    this.#send = send;
  }

  /** One after the other; resolves when the kernel has forgotten, or nobody is served any more. */
  async announce(stale: Stale): Promise<void> {
    this.#told = this.#told.then(() => this.#tell(stale));
    await this.#told;
  }

  /** Nobody is served any more: what waits for an answer would wait for ever, so then `cut` is to cut the connection. */
  async end(cut: () => void): Promise<void> {
    this.#ended = true;
    const late = sleep(END_MS, true, { ref: false });
    if (await Promise.race([this.#told.then(() => false), late])) cut();
    await this.#told;
  }

  async #tell({ incEpoch: all, names, inos, attributes }: Stale): Promise<void> {
    // What it has forgotten already it refuses, which is just as well.
    if (all) await this.#write(incEpoch());
    for (const { parent, name } of names) await this.#write(invalEntry(parent, name));
    const missed = await this.#forget(inos, attributes);
    if (missed.length === 0) return;
    // It was told of these, and may have been about to note what it was told.
    await sleep(NOTED_MS);
    await this.#forget(missed, []);
  }

  /** Gives the inodes that the kernel does not know. */
  async #forget(inos: readonly Ino[], attributes: readonly Ino[]): Promise<Ino[]> {
    const missed: Ino[] = [];
    const tell = async (ino: Ino, message: Uint8Array): Promise<void> => {
      if ((await this.#write(message)) < 0) missed.push(ino);
    };
    for (const ino of attributes) await tell(ino, invalAttributes(ino));
    for (const ino of inos) await tell(ino, invalInode(ino));
    return missed;
  }

  async #write(message: Uint8Array): Promise<number> {
    return this.#ended ? 0 : await this.#send(message);
  }
}
