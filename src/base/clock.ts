/**
 * Wall-clock time as seconds and nanoseconds since the epoch. Two numbers, not one
 * BigInt: nanoseconds since 1970 pass 2^53, and a BigInt costs more than the read.
 */
export interface Time {
  /** Seconds since 1970, negative before it. */
  readonly sec: number;
  /** 0..999,999,999, also before 1970. */
  readonly nsec: number;
}

/** Injected wherever time is read, so that a test can own it. */
export interface Clock {
  /** Wall-clock time, for timestamps. */
  now(): Time;
  /** Milliseconds that never step back, for deadlines. */
  monotonicMs(): number;
}

export const systemClock: Clock = {
  now() {
    // performance.timeOrigin + now() has sub-microsecond steps where Date has milliseconds.
    // It ignores clock steps after the start, so Date keeps the seconds and it only adds digits below.
    const ms = Date.now();
    const fine = performance.timeOrigin + performance.now();
    const belowMs = fine - Math.floor(fine);
    const sec = Math.floor(ms / 1000);
    return { sec, nsec: (ms - sec * 1000) * 1e6 + Math.floor(belowMs * 1e6) };
  },
  monotonicMs() {
    return performance.now();
  },
};
