/**
 * What the tests of reliability share: a short form in `npm test`, a long one in `npm run torture`, which sets
 * SQLFUSE_LONG=1 and reads the lines that `report` prints; and one seed, which SQLFUSE_SEED repeats.
 */

/** Whether the long form is asked for. */
export function isLong(): boolean {
  return process.env.SQLFUSE_LONG === "1";
}

let chosen: number | undefined;

/** The seed of this test file, told on the console when it is first asked for: a run that hangs has told it too. */
export function seed(): number {
  if (chosen !== undefined) return chosen;
  const given = process.env.SQLFUSE_SEED;
  chosen = given === undefined ? Math.floor(Math.random() * 2 ** 32) : Number(given);
  if (!Number.isSafeInteger(chosen)) throw new Error(`SQLFUSE_SEED=${given} is no whole number`);
  console.log(`SQLFUSE_SEED=${chosen}`);
  return chosen;
}

/**
 * Tells how many cases were tried, at the end of each test that counts any: `torture: NAME cases=N seed=S`.
 * The counts of one file are summed. `name` is one word, such as "powerloss"; more may stand in `note`.
 */
export function report(name: string, cases: number, note = ""): void {
  console.log(`torture: ${name} cases=${cases} seed=${seed()}${note === "" ? "" : ` ${note}`}`);
}
