/** How a remote does that is asked again and again: what is said of it once, and when it is tried again. */
import type { Log } from "../base/log.ts";

/** The longest time without a try. */
const LONGEST_MS = 300_000;

export class Health {
  readonly #name: string;
  readonly #intervalMs: number;
  readonly #log: Log;
  #failures = 0;
  #retryAtMs = 0;
  #since: Date | undefined;
  #error: string | undefined;

  /** `intervalMs`: after the first failure; it is doubled with each one that follows. */
  constructor(name: string, intervalMs: number, log: Log) {
    this.#name = name;
    this.#intervalMs = intervalMs;
    this.#log = log;
  }

  /** Why the last try failed. */
  get error(): string | undefined {
    return this.#error;
  }

  /** When the first of the tries was that failed since it was well. */
  get failingSince(): Date | undefined {
    return this.#since;
  }

  mayTry(nowMs: number): boolean {
    return nowMs >= this.#retryAtMs;
  }

  failed(message: string, nowMs: number): void {
    if (this.#failures === 0) this.#log("warn", `${this.#name}: ${message}; it will be tried again`);
    this.#since ??= new Date();
    this.#error = message;
    this.#retryAtMs = nowMs + Math.min(LONGEST_MS, this.#intervalMs * 2 ** this.#failures);
    this.#failures = Math.min(this.#failures + 1, 30);
  }

  well(): void {
    if (this.#failures > 0) this.#log("info", `${this.#name}: is well again`);
    this.#failures = 0;
    this.#retryAtMs = 0;
    this.#since = this.#error = undefined;
  }
}
