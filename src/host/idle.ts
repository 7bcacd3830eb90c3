/**
 * Ends a mount that nobody uses. The thread that serves it notes when it was last used; here is one timer, set for the
 * moment at which that will be long enough ago. While the mount is used it goes off once per timeout, and costs nothing
 * in between.
 *
 * It is the kernel that decides: an unmount that is not lazy is refused while anything is open or a working directory
 * is inside, and once it is granted no request can come any more. So nothing is cut off.
 */

import type { Log } from "../base/log.ts";
import { HostError } from "./errors.ts";

/** A mount that is held without being used is tried again at least this often. */
const RETRY_MS = 60_000;

/** What is asked of a mount by whoever ends it when it is idle. */
export interface Unmountable {
  readonly mountpoint: string;
  /** @throws HostError busy, not-mounted, not-permitted */
  unmount(lazy: boolean): Promise<void>;
}

export interface IdleMount {
  /** Wall-clock milliseconds of the last use. */
  lastUse(): number;
  /** Unmounts; false: it is held. What it throws ends the watch. */
  unmount(): Promise<boolean>;
}

export class IdleWatch {
  readonly #mount: IdleMount;
  readonly #timeoutMs: number;
  #timer: NodeJS.Timeout | undefined;
  #stopped = false;

  /** Watches until the mount is gone, or until `stop`. */
  constructor(mount: IdleMount, timeoutMs: number) {
    this.#mount = mount;
    this.#timeoutMs = timeoutMs;
    this.#wait(timeoutMs);
  }

  stop(): void {
    this.#stopped = true;
    clearTimeout(this.#timer);
  }

  #wait(delayMs: number): void {
    if (this.#stopped) return;
    const seen = this.#mount.lastUse();
    this.#timer = setTimeout(() => void this.#look(seen), delayMs);
    // The mount keeps the process alive, not this.
    this.#timer.unref();
  }

  /** `seen`: the last use when this was planned. */
  async #look(seen: number): Promise<void> {
    const lastUse = this.#mount.lastUse();
    if (lastUse !== seen) {
      // The clock may have been set since: never wait longer than the timeout.
      const idleMs = Math.max(0, Date.now() - lastUse);
      this.#wait(Math.max(0, this.#timeoutMs - idleMs));
      return;
    }
    try {
      if (await this.#mount.unmount()) return;
    } catch {
      return;
    }
    this.#wait(Math.min(this.#timeoutMs, RETRY_MS));
  }
}

/** Unmounts what was idle, and says so; what holds a mount is told once for each last use. */
export class IdleEnd implements IdleMount {
  readonly #mount: Unmountable;
  readonly #timeoutMs: number;
  readonly #log: Log;
  /** The last use after which it was said that the mount is held. */
  #toldHeld: number | undefined;
  readonly lastUse: () => number;

  constructor(mount: Unmountable, lastUse: () => number, timeoutMs: number, log: Log) {
    this.#mount = mount;
    this.lastUse = lastUse;
    this.#timeoutMs = timeoutMs;
    this.#log = log;
  }

  /** False: something is open, or a working directory inside. */
  async unmount(): Promise<boolean> {
    const idle = `nobody used ${this.#mount.mountpoint} for ${this.#timeoutMs / 1000} s`;
    try {
      await this.#mount.unmount(false);
      this.#log("info", `${idle}: unmounted`);
      return true;
    } catch (error) {
      if (!(error instanceof HostError && error.reason === "busy")) {
        this.#log("warn", `${idle}, but: ${error instanceof Error ? error.message : String(error)}`);
        throw error;
      }
      const lastUse = this.lastUse();
      if (this.#toldHeld !== lastUse)
        this.#log("info", `${idle}, but it is held: it stays until it is let go`);
      this.#toldHeld = lastUse;
      return false;
    }
  }
}
