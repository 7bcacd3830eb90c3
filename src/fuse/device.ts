/**
 * Where requests come from and replies go. The session sees this and no descriptor, so that it can be fed
 * with bytes; `Connection` is the real one.
 */
import { PollSet, read, write } from "../native/libc.ts";

export interface Device {
  /** Takes one request into `buffer`: its length, or a negated errno. EAGAIN: none is waiting; ENODEV: unmounted. */
  read(buffer: Uint8Array): number;
  /** Delivers the first `length` bytes of `buffer` as one reply: `length`, or a negated errno. */
  write(buffer: Uint8Array, length: number): number;
  /** Sleeps until a request waits, `wake` was called elsewhere, or `timeoutMs` passed (Infinity: no limit). */
  wait(timeoutMs: number): void;
  /** Whether somebody asked for attention since the last call. */
  woken(): boolean;
}

/** poll(2) takes an int; a longer sleep is woken once in 24 days for nothing. */
const LONGEST_POLL_MS = 0x7fff_ffff;

/** A descriptor of /dev/fuse (or a socket that plays it), non-blocking, and an eventfd that others ring. */
export class Connection implements Device {
  readonly #fd: number;
  readonly #wakeFd: number;
  readonly #poll: PollSet;
  readonly #count = new Uint8Array(8);

  constructor(fd: number, wakeFd: number) {
    this.#fd = fd;
    this.#wakeFd = wakeFd;
    this.#poll = new PollSet(fd, wakeFd);
  }

  read(buffer: Uint8Array): number {
    return read(this.#fd, buffer, buffer.length);
  }

  write(buffer: Uint8Array, length: number): number {
    return write(this.#fd, buffer, length);
  }

  wait(timeoutMs: number): void {
    // Rounded up: waking a moment too early would spin until the deadline.
    this.#poll.wait(timeoutMs === Infinity ? -1 : Math.min(Math.ceil(timeoutMs), LONGEST_POLL_MS));
  }

  woken(): boolean {
    return read(this.#wakeFd, this.#count, this.#count.length) > 0;
  }
}
