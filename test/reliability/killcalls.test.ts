/**
 * A process that does 200 operations on a volume is killed at its first, second, third, ... system call that changes a
 * file or a directory. SQLFUSE_LONG=1 takes every call instead of some, SQLFUSE_CALLS=from-to those of each name from one
 * number to another.
 */
import { execFileSync, spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { unlock } from "../../src/core/unlock.ts";
import { Volume } from "../../src/core/volume.ts";
import { type Key, rawKeyPassword } from "../../src/db/key.ts";
import { check } from "../../src/fsck/check.ts";
import { type Call, canTrace, countCalls, faulted, recorded, WRITES } from "../helpers/strace.ts";
import { report, seed } from "../helpers/torture.ts";
import { REPOSITORY } from "../helpers/volume.ts";
import { scriptOf } from "./operations.ts";
import { isLasting, type Operation, survivor, Tree } from "./survivor.ts";
import { treeOfVolume } from "./trees.ts";

const LONG = process.env.SQLFUSE_LONG === "1";
const OPERATIONS = 200;
/** Kills per name in a short run. */
const SHORT_KILLS = 3;
const [FIRST = 1, LAST = Number.POSITIVE_INFINITY] = process.env.SQLFUSE_CALLS?.split("-").map(Number) ?? [];

const RAW = randomBytes(32);

let directory: string;
let work: string;
let file: string;
let journal: string;
let operations: readonly Operation[];
let compiled: string;
let program: readonly string[];
let key: Key;

/** argv: file, journal, seed. Does all operations on the volume, notes a dot for each that was answered, and closes it. */
const PROGRAM = `
import { openSync, writeSync } from "node:fs";
const { unlock } = await import("./src/core/unlock.js");
const { Volume } = await import("./src/core/volume.js");
const { rawKeyPassword } = await import("./src/db/key.js");
const { scriptOf } = await import("./test/reliability/operations.js");
const { perform } = await import("./test/reliability/trees.js");
const [, file, journalFile, seed] = process.argv;
const key = unlock(file, rawKeyPassword(Buffer.from("${RAW.toString("hex")}", "hex")));
const volume = Volume.open(file, key, { answersFirst: true, noatime: true });
const journal = openSync(journalFile, "w");
for (const operation of scriptOf(Number(seed), ${OPERATIONS})) {
  perform(volume, operation);
  writeSync(journal, ".");
}
volume.close();
`;

/** Sources and operations as JavaScript: a Node that runs them starts in a tenth of the time of one that runs TypeScript. */
function compile(into: string): void {
  mkdirSync(into);
  const config = {
    extends: join(REPOSITORY, "tsconfig.json"),
    compilerOptions: { rootDir: REPOSITORY, outDir: into, noCheck: true, types: [] },
    files: ["operations.ts", "trees.ts"].map((name) => join(REPOSITORY, "test/reliability", name)),
    include: [],
  };
  writeFileSync(join(into, "tsconfig.json"), JSON.stringify(config));
  writeFileSync(join(into, "package.json"), '{ "type": "module" }');
  symlinkSync(join(REPOSITORY, "node_modules"), join(into, "node_modules"));
  execFileSync(join(REPOSITORY, "node_modules/.bin/tsc"), ["-p", into]);
}

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "calls-"));
  work = join(directory, "work");
  file = join(work, "volume");
  journal = join(directory, "journal");
  operations = scriptOf(seed(), OPERATIONS);
  compiled = join(directory, "compiled");
  compile(compiled);
  program = [process.execPath, "--input-type=module", "-e", PROGRAM, file, journal, String(seed())];
  const seedFile = join(directory, "seed", "volume");
  mkdirSync(join(directory, "seed"));
  Volume.create(seedFile, rawKeyPassword(RAW));
  key = unlock(seedFile, rawKeyPassword(RAW));
});
afterAll(() => {
  rmSync(directory, { recursive: true });
});

/** Runs a command on the volume as it was in the beginning. */
function run([command = "", ...args]: readonly string[]): number | null {
  rmSync(work, { recursive: true, force: true });
  rmSync(journal, { force: true });
  cpSync(join(directory, "seed"), work, { recursive: true });
  return spawnSync(command, args, {
    cwd: compiled,
    stdio: ["ignore", "ignore", "inherit"],
    timeout: 50_000,
  }).status;
}

/** Every call, or some of each name, each with how many there are. */
function kills(): [call: Call, count: number][] {
  const log = join(directory, "trace");
  expect(run(recorded(program, WRITES, log))).toBe(0);
  return countCalls(log, WRITES).flatMap(([name, count]) => {
    const step = LONG ? 1 : Math.max(1, Math.floor((count - 1) / (SHORT_KILLS - 1)));
    return Array.from({ length: count }, (_, index) => index + 1)
      .filter((when) => (when - 1) % step === 0 && when >= FIRST && when <= LAST)
      .map((when): [Call, number] => [[name, when], count]);
  });
}

/** What the process left: whole, the state after some first part of the operations, and all that was synced. */
function expectWhole(): number {
  const answered = existsSync(journal) ? readFileSync(journal).length : 0;
  const lasting = operations.slice(0, answered).findLastIndex(isLasting) + 1;
  expect(check(file, key)).toEqual([]);
  const volume = Volume.open(file, key, { noatime: true });
  const { count } = survivor(new Tree(), operations, { lasting, answered }, treeOfVolume(volume));
  volume.close();
  expect(readdirSync(work)).toEqual(["volume"]);
  expect(check(file, key)).toEqual([]);
  return answered - count;
}

test.skipIf(!canTrace)(
  `a process that is killed at any of its writes leaves the state of one moment${canTrace ? "" : " (there is no strace)"}`,
  { timeout: LONG ? 3_600_000 : 120_000 },
  () => {
    const lost: number[] = [];
    const names = new Map<string, number>();
    for (const [call, count] of kills()) {
      const [name, when] = call;
      const status = run(faulted(program, call, "signal=SIGKILL"));
      const isKilled = status !== 0;
      // Not every run makes as many calls, since times take more bytes or fewer: the last ones may be missing.
      if (!isKilled) expect(count - when, `${name} ${when} of ${count}`).toBeLessThan(count / 10);
      try {
        lost.push(expectWhole());
      } catch (error) {
        throw new Error(`killed at ${name} number ${when}: ${String(error)}`, { cause: error });
      }
      if (isKilled) names.set(name, (names.get(name) ?? 0) + 1);
    }
    expect(lost.length).toBeGreaterThan(0);
    const counted = [...names].map(([name, count]) => `${count} ${name}`).join(", ");
    report("calls", lost.length, `killed at ${counted}; up to ${Math.max(...lost)} operations were lost`);
  },
);
