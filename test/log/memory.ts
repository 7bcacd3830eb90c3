/** A remote in memory, and one that fails where a test wants it to. */
import type { RemoteStore, StoredFile } from "../../src/remote/remote.ts";

export class MemoryStore implements RemoteStore {
  readonly url = "memory";
  readonly files: Map<string, Buffer>;

  constructor(files: Iterable<readonly [string, Buffer]> = []) {
    this.files = new Map(files);
  }

  async list(prefix: string): Promise<StoredFile[]> {
    const found = [...this.files].filter(([name]) => name.startsWith(prefix));
    return found.map(([name, { length: size }]) => ({ name, size }));
  }

  async put(name: string, bytes: Uint8Array): Promise<boolean> {
    if (this.files.has(name)) return false;
    this.files.set(name, Buffer.from(bytes));
    return true;
  }

  async get(name: string, from = 0, length = Infinity): Promise<Buffer | undefined> {
    const file = this.files.get(name);
    return file === undefined ? undefined : Buffer.from(file.subarray(from, from + length));
  }

  async remove(name: string): Promise<void> {
    this.files.delete(name);
  }

  /** Another one with the same files. */
  copy(): MemoryStore {
    return new MemoryStore(this.files);
  }
}

/** What stops a run. */
export class Stop extends Error {}

/** Passes calls on, and stops at the one that is chosen: before it is done, or after. */
export class StoppingStore implements RemoteStore {
  readonly #inner: RemoteStore;
  readonly #step: (call: () => Promise<unknown>) => Promise<unknown>;

  constructor(inner: RemoteStore, step: (call: () => Promise<unknown>) => Promise<unknown>) {
    this.#inner = inner;
    this.#step = step;
  }

  get url(): string {
    return this.#inner.url;
  }

  list(prefix: string): Promise<StoredFile[]> {
    return this.#step(() => this.#inner.list(prefix)) as Promise<StoredFile[]>;
  }

  put(name: string, bytes: Uint8Array): Promise<boolean> {
    return this.#step(() => this.#inner.put(name, bytes)) as Promise<boolean>;
  }

  get(name: string, from?: number, length?: number): Promise<Buffer | undefined> {
    return this.#step(() => this.#inner.get(name, from, length)) as Promise<Buffer | undefined>;
  }

  remove(name: string): Promise<void> {
    return this.#step(() => this.#inner.remove(name)) as Promise<void>;
  }
}

/** Lets `steps` calls be done, and stops all that follow; the one at which it stops is done first where `after`. */
export function stopAt(steps: number, after: boolean): (call: () => Promise<unknown>) => Promise<unknown> {
  let left = steps;
  return async (call) => {
    if (left > 0) {
      left--;
      return await call();
    }
    if (left === 0 && after) await call();
    left = -1;
    throw new Stop();
  };
}
