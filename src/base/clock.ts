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

/**
 * Milliseconds to add to performance.now(), which counts finely and never steps back. It
 * knows nothing of the wall clock being set, so it is aligned anew when that has moved.
 */
let alignmentMs = performance.timeOrigin;
/** Date counts whole milliseconds: only a larger difference says that the clock was set. */
const MOST_DRIFT_MS = 3;

export const systemClock: Clock = {
  now() {
    const fineMs = performance.now();
    const wallMs = Date.now();
    if (Math.abs(alignmentMs + fineMs - wallMs) > MOST_DRIFT_MS) alignmentMs = wallMs - fineMs;
    const ms = alignmentMs + fineMs;
    const sec = Math.floor(ms / 1000);
    return { sec, nsec: Math.min(999_999_999, Math.floor((ms - sec * 1000) * 1e6)) };
  },
  monotonicMs() {
    return performance.now();
  },
};
