/** Random choices that a seed repeats: set SQLFUSE_TEST_SEED to the one that a failed test names. */
export class Random {
  readonly seed: number;
  #state: number;

  constructor(seed: number) {
    this.seed = seed;
    this.#state = seed >>> 0;
  }

  /** 0 <= value < 1 (mulberry32). */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = this.#state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  }

  /** A whole number, 0 <= value < end. */
  below(end: number): number {
    return Math.floor(this.next() * end);
  }

  /** A whole number, least <= value <= most. */
  between(least: number, most: number): number {
    return least + this.below(most - least + 1);
  }

  chance(probability: number): boolean {
    return this.next() < probability;
  }

  pick<T>(from: readonly T[]): T {
    const value = from[this.below(from.length)];
    if (value === undefined) throw new Error("nothing to pick from");
    return value;
  }

  bytes(length: number): Buffer {
    const bytes = Buffer.alloc(length);
    for (let i = 0; i < length; i++) bytes[i] = this.below(256);
    return bytes;
  }
}

/** Runs a test with random choices; when it fails, says with which seed and after which steps. */
export function withRandom(run: (random: Random, step: (text: string) => void) => void): void {
  const given = process.env.SQLFUSE_TEST_SEED;
  const seed = given === undefined ? Math.floor(Math.random() * 2 ** 31) : Number(given);
  const steps: string[] = [];
  try {
    run(new Random(seed), (text) => steps.push(text));
  } catch (error) {
    const last = steps.slice(-12).join("\n  ");
    throw new Error(`SQLFUSE_TEST_SEED=${seed}, step ${steps.length}; the last ones:\n  ${last}`, {
      cause: error,
    });
  }
}
