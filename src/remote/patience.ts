/**
 * A remote that is asked again when what it met may pass: a network that was cut, a server that is busy or silent. It waits
 * longer each time, by chance a little more or less so that many who were cut off do not return at once, and gives up
 * after a minute: who watches comes back by himself.
 *
 * A put whose answer was lost may have happened. If the next try finds the name taken, what is there is looked at: where it
 * is what was to be put it was this one that put it, since everything that goes to a remote has a salt of its own.
 */
import { LogError } from "./errors.ts";
import type { RemoteStore, StoredFile } from "./remote.ts";
import { REAL_TIMING, type Timing } from "./throttle.ts";

const PATIENCE_MS = 60_000;
const FIRST_WAIT_MS = 200;
const LONGEST_WAIT_MS = 10_000;

export interface PatienceOptions {
  readonly signal?: AbortSignal;
  /** How long what may pass is tried again, from the first time that it failed; 0: not at all. */
  readonly patienceMs?: number;
  /** Told when something is tried again, once for each time that the remote is out of reach. */
  readonly onRetry?: (line: string) => void;
  readonly timing?: Timing;
  /** 0 to 1. */
  readonly random?: () => number;
}

export class PatientStore implements RemoteStore {
  readonly #inner: RemoteStore;
  readonly #signal: AbortSignal | undefined;
  readonly #patienceMs: number;
  readonly #onRetry: ((line: string) => void) | undefined;
  readonly #timing: Timing;
  readonly #random: () => number;
  /** The user was told that it is out of reach, and nothing went well since. */
  #isTold = false;

  constructor(inner: RemoteStore, options: PatienceOptions = {}) {
    this.#inner = inner;
    this.#signal = options.signal;
    this.#patienceMs = options.patienceMs ?? PATIENCE_MS;
    this.#onRetry = options.onRetry;
    this.#timing = options.timing ?? REAL_TIMING;
    this.#random = options.random ?? Math.random;
  }

  get url(): string {
    return this.#inner.url;
  }

  list(prefix: string): Promise<StoredFile[]> {
    return this.#tried(() => this.#inner.list(prefix));
  }

  async put(name: string, bytes: Uint8Array): Promise<boolean> {
    let mayBeThere = false;
    return await this.#tried(async () => {
      const wasTried = mayBeThere;
      mayBeThere = true;
      if (await this.#inner.put(name, bytes)) return true;
      if (!wasTried) return false;
      const there = await this.#inner.get(name);
      return there !== undefined && Buffer.compare(there, bytes) === 0;
    });
  }

  get(name: string, from?: number, length?: number): Promise<Buffer | undefined> {
    return this.#tried(() => this.#inner.get(name, from, length));
  }

  remove(name: string): Promise<void> {
    return this.#tried(() => this.#inner.remove(name));
  }

  async #tried<T>(run: () => Promise<T>): Promise<T> {
    let firstMs: number | undefined;
    for (let tries = 1; ; tries++) {
      this.#signal?.throwIfAborted();
      try {
        const done = await run();
        this.#isTold = false;
        return done;
      } catch (error) {
        this.#signal?.throwIfAborted();
        if (!(error instanceof LogError) || !error.isPassing) throw error;
        const nowMs = this.#timing.now();
        firstMs ??= nowMs;
        const waitMs = this.#waitMs(tries);
        if (nowMs + waitMs - firstMs > this.#patienceMs) throw tries === 1 ? error : givenUp(error, tries);
        this.#tell(error);
        await this.#timing.sleep(waitMs, this.#signal);
      }
    }
  }

  /** Twice as long each time; of that a half to all. */
  #waitMs(tries: number): number {
    const mostMs = Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** (tries - 1));
    return mostMs * (0.5 + this.#random() / 2);
  }

  #tell({ message }: LogError): void {
    if (this.#isTold) return;
    this.#isTold = true;
    this.#onRetry?.(`${message}; trying again for ${this.#patienceMs / 1000} s`);
  }
}

/** The last failure, with how often it was tried. */
function givenUp(error: LogError, tries: number): LogError {
  return new LogError(error.reason, `${error.message}; tried ${tries} times`, {
    cause: error,
    isPassing: true,
  });
}
