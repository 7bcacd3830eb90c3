import { Random } from "../core/random.ts";

/** As withRandom of test/core/random.ts, for tests that wait. */
export async function withRandomAsync(
  run: (random: Random, step: (text: string) => void) => Promise<void>,
): Promise<void> {
  const given = process.env.SQLFUSE_TEST_SEED;
  const seed = given === undefined ? Math.floor(Math.random() * 2 ** 31) : Number(given);
  const steps: string[] = [];
  try {
    await run(new Random(seed), (text) => steps.push(text));
  } catch (error) {
    throw new Error(`SQLFUSE_TEST_SEED=${seed}, after: ${steps.slice(-12).join(", ")}`, { cause: error });
  }
}
