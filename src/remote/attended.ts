/**
 * A remote that somebody attends to: who waits for it can tell that it does not answer, and give it up. A call that is
 * under way cannot be called back (a disk that is gone from the network keeps it for ever), but none follows it then.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { LogError } from "./errors.ts";
import { isDirectory, openRemote, type RemoteOptions, type RemoteStore, type StoredFile } from "./remote.ts";

/** A directory that owes an answer for longer is one that does not answer. */
const SILENT_MS = 60_000;
/** Of other remotes this is the last resort: they end a call themselves in which nothing moves, and on a slow line one may take long. */
const SLOW_MS = 600_000;
/** The most that is ever on its way: a limit makes that slower. */
const ON_ITS_WAY_BYTES = 64 * 2 ** 20;
const LOOK_MS = 250;
/** What may pass is tried again for so long; then it is told, and tried again later. */
const PATIENCE_MS = 5000;

/** @throws LogError unreachable where `url` names no remote */
export async function attend(
  url: string,
  options: Pick<RemoteOptions, "signal" | "bytesPerSecond">,
): Promise<AttendedStore> {
  const { bytesPerSecond = Number.POSITIVE_INFINITY } = options;
  const slowerMs = (1000 * ON_ITS_WAY_BYTES) / bytesPerSecond;
  const silentMs = (isDirectory(url) ? SILENT_MS : SLOW_MS) + slowerMs;
  return new AttendedStore(await openRemote(url, { ...options, patienceMs: PATIENCE_MS }), silentMs);
}

export class AttendedStore implements RemoteStore {
  readonly url: string;
  readonly #inner: RemoteStore;
  readonly #silentMs: number;
  readonly #nowMs: () => number;
  #waiting = 0;
  #lastMs: number;
  #isGivenUp = false;

  /** `silentMs`: one that owes an answer for longer does not answer. */
  constructor(inner: RemoteStore, silentMs: number, nowMs: () => number = () => performance.now()) {
    this.url = inner.url;
    this.#inner = inner;
    this.#silentMs = silentMs;
    this.#nowMs = nowMs;
    this.#lastMs = nowMs();
  }

  /** Whether `done`, which needs this remote, settles before that has owed an answer for too long. */
  async outlasts(done: Promise<unknown>): Promise<boolean> {
    let isOver = false;
    const over = done.then(
      () => (isOver = true),
      () => (isOver = true),
    );
    while (!isOver) {
      if (this.#owingMs >= this.#silentMs) return false;
      await Promise.race([over, sleep(LOOK_MS, undefined, { ref: false })]);
    }
    return true;
  }

  get #owingMs(): number {
    return this.#waiting === 0 ? 0 : this.#nowMs() - this.#lastMs;
  }

  /** The same, for one who reads: what does not answer is refused, and later calls at once until it does. */
  impatient(): RemoteStore {
    const get: RemoteStore["get"] = async (name, from, length) => {
      const got = this.get(name, from, length);
      // It is awaited by nobody where it comes too late.
      got.catch(() => {});
      if (await this.outlasts(got)) return await got;
      throw new LogError("unreachable", `${this.url}: does not answer`);
    };
    return {
      url: this.url,
      list: (prefix) => this.list(prefix),
      put: (name, bytes) => this.put(name, bytes),
      remove: (name) => this.remove(name),
      get,
    };
  }

  /** All calls from now on are refused. */
  giveUp(): void {
    this.#isGivenUp = true;
  }

  list(prefix: string): Promise<StoredFile[]> {
    return this.#call(() => this.#inner.list(prefix));
  }

  put(name: string, bytes: Uint8Array): Promise<boolean> {
    return this.#call(() => this.#inner.put(name, bytes));
  }

  get(name: string, from?: number, length?: number): Promise<Buffer | undefined> {
    return this.#call(() => this.#inner.get(name, from, length));
  }

  remove(name: string): Promise<void> {
    return this.#call(() => this.#inner.remove(name));
  }

  async #call<T>(run: () => Promise<T>): Promise<T> {
    if (this.#isGivenUp) throw new LogError("unreachable", `${this.url}: was given up`);
    if (this.#waiting++ === 0) this.#lastMs = this.#nowMs();
    try {
      return await run();
    } finally {
      this.#waiting--;
      this.#lastMs = this.#nowMs();
    }
  }
}
