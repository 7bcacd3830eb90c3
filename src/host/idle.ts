/**
 * Ends a mount that nobody uses. The thread that serves it notes when it was last used; here is one timer, set for the
 * moment at which that will be long enough ago. While the mount is used it goes off once per timeout, and costs nothing
 * in between.
 *
 * It is the kernel that decides: an unmount that is not lazy is refused while anything is open or a working directory
 * is inside, and once it is granted no request can come any more. So nothing is cut off.
 */

/** A mount that is held without being used is tried again at least this often. */
const RETRY_MS = 60_000;

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
