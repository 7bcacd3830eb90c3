/**
 * `npm run torture`: the long form of every test that tries to break the promise, one section after the other, a
 * line for each. All from one seed. What a section printed is in its log, which is kept where it failed.
 */
import { spawn } from "node:child_process";
import { randomInt } from "node:crypto";
import { createWriteStream, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { constants, tmpdir } from "node:os";
import { join } from "node:path";
import { finished } from "node:stream/promises";
import { parseArgs } from "node:util";

interface Section {
  /** Test files that heed SQLFUSE_LONG. */
  readonly files: readonly string[];
  /** What to expect on two cores. */
  readonly minutes: number;
  readonly what: string;
}

/** In the order of docs/RELIABILITY.md. */
const SECTIONS: Readonly<Record<string, Section>> = {
  kill: {
    files: ["test/reliability/kill.test.ts"],
    minutes: 60,
    what: "kill -9 of a mount under load",
  },
  snapshots: {
    files: ["test/reliability/historykill.test.ts"],
    minutes: 15,
    what: "kill -9 while a mount prunes, makes snapshots, restores",
  },
  calls: {
    files: ["test/reliability/killcalls.test.ts"],
    minutes: 8,
    what: "killed at every call that changes a file",
  },
  powerloss: {
    files: ["test/reliability/powerloss.test.ts"],
    minutes: 20,
    what: "un-synced writes dropped, reordered, torn",
  },
  workloads: {
    files: ["test/reliability/shortworkloads.test.ts"],
    minutes: 20,
    what: "every short sequence of operations, then a crash",
  },
  faults: {
    files: ["test/reliability/faults.test.ts", "test/core/failures.test.ts"],
    minutes: 15,
    what: "every system call and every step of a statement fails",
  },
  damage: { files: ["test/mount/damage.test.ts"], minutes: 2, what: "pages changed under a mount" },
  flips: {
    files: ["test/core/flips.test.ts"],
    minutes: 15,
    what: "bits turned over, fsck finds and repairs",
  },
  fsck: { files: ["test/fsck/fsck.test.ts"], minutes: 5, what: "every invariant broken, and no false alarm" },
  rewrite: {
    files: ["test/tools/rewrite.test.ts"],
    minutes: 15,
    what: "rekey and vacuum stopped at every write",
  },
  head: { files: ["test/tools/head.test.ts"], minutes: 2, what: "a -wal cut at every length" },
  fuzz: {
    files: ["test/reliability/fuzz.test.ts"],
    minutes: 15,
    what: "requests that no kernel would send",
  },
  load: {
    files: ["test/reliability/load.test.ts"],
    minutes: 25,
    what: "32 processes, a million names, ten million operations",
  },
  model: {
    files: ["test/mount/model.test.ts", "test/mount/library.test.ts", "test/mount/hammer.test.ts"],
    minutes: 10,
    what: "random operations against a model",
  },
  work: { files: ["test/mount/work.test.ts"], minutes: 2, what: "git, make, SQLite, rsync on real files" },
  life: {
    files: ["test/mount/life.test.ts", "test/mount/beside.test.ts"],
    minutes: 15,
    what: "signals, every way to unmount, work beside a mount",
  },
  replicas: {
    files: ["test/log/points.test.ts", "test/remote/realservers.test.ts"],
    minutes: 15,
    what: "replicas under load, through each kind of remote",
  },
  security: {
    files: ["test/reliability/security.test.ts"],
    minutes: 2,
    what: "who may do and learn what",
  },
};

const NAMES = Object.keys(SECTIONS);
const HELP = `npm run torture -- [--seed N] [section ...]
  --seed N   repeats a run, as far as time and threads allow (default: a random one, which is told)
sections (default: all; minutes on two cores):
${Object.entries(SECTIONS)
  .map(([name, { minutes, what }]) => `  ${name.padEnd(10)} ${String(minutes).padStart(3)} min  ${what}`)
  .join("\n")}`;

const root = process.cwd();
const VITEST = join(root, "node_modules/vitest/vitest.mjs");

/** What vitest's JSON reporter tells. */
interface Tests {
  readonly numPassedTests: number;
  readonly numFailedTests: number;
  readonly numPendingTests: number;
}

interface Result {
  readonly outcome: "passed" | "failed" | "skipped";
  /** "12345 cases", or tests where they count no cases. */
  readonly cases: string;
  readonly remark: string;
}

function usage(message: string): never {
  process.stderr.write(`torture: ${message}\n${HELP}\n`);
  process.exit(2);
}

function readArguments(): { sections: readonly string[]; seed: number } {
  const options = { seed: { type: "string" }, help: { type: "boolean", short: "h" } } as const;
  let parsed: ReturnType<typeof parseArgs<{ options: typeof options; allowPositionals: true }>>;
  try {
    parsed = parseArgs({ options, allowPositionals: true });
  } catch (error) {
    usage(error instanceof Error ? error.message : String(error));
  }
  const { values, positionals } = parsed;
  if (values.help) {
    console.log(HELP);
    process.exit(0);
  }
  for (const name of positionals) if (!NAMES.includes(name)) usage(`there is no section ${name}`);
  const seed = values.seed === undefined ? randomInt(2 ** 31) : Number(values.seed);
  if (!Number.isInteger(seed) || seed < 0 || seed >= 2 ** 32) usage("--seed wants a whole number below 2^32");
  return { sections: positionals.length === 0 ? NAMES : positionals, seed };
}

/** Runs vitest on the files of a section, its output to `log`; resolves with its exit code. */
async function runTests(section: Section, seed: number, log: string, json: string): Promise<number> {
  const out = createWriteStream(log);
  const child = spawn(
    process.execPath,
    [VITEST, "run", ...section.files, "--reporter=default", "--reporter=json", `--outputFile.json=${json}`],
    {
      cwd: root,
      stdio: ["ignore", "pipe", "pipe"],
      // core/random.ts has a variable of its own, so that one test can be repeated without the others' seed.
      env: {
        ...process.env,
        SQLFUSE_LONG: "1",
        SQLFUSE_SEED: String(seed),
        SQLFUSE_TEST_SEED: String(seed),
        NO_COLOR: "1",
      },
    },
  );
  child.stdout.pipe(out, { end: false });
  child.stderr.pipe(out, { end: false });
  const code = await new Promise<number>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (status, signal) => resolve(status ?? 128 + constants.signals[signal ?? "SIGKILL"]));
  });
  out.end();
  await finished(out);
  return code;
}

/** The lines `torture: NAME cases=N ...` that tests print (test/helpers/torture.ts), summed. */
function countCases(output: string): number {
  let sum = 0;
  for (const [, cases] of output.matchAll(/^torture: \S+ cases=(\d+)/gm)) sum += Number(cases);
  return sum;
}

function judge(code: number, log: string, json: string): Result {
  const cases = countCases(readFileSync(log, "utf8"));
  if (!existsSync(json))
    return { outcome: "failed", cases: `${cases} cases`, remark: `vitest ended with ${code}` };
  const tests = JSON.parse(readFileSync(json, "utf8")) as Tests;
  const remarks: string[] = [];
  if (tests.numFailedTests > 0) remarks.push(`${tests.numFailedTests} tests failed`);
  else if (code !== 0) remarks.push(`vitest ended with ${code}`);
  if (tests.numPendingTests > 0) remarks.push(`${tests.numPendingTests} tests skipped`);
  const outcome = code !== 0 ? "failed" : tests.numPassedTests === 0 ? "skipped" : "passed";
  const counted = cases > 0 ? `${cases} cases` : `${tests.numPassedTests} tests`;
  return { outcome, cases: counted, remark: remarks.join(", ") };
}

async function runSection(name: string, section: Section, seed: number, directory: string): Promise<Result> {
  const missing = section.files.filter((file) => !existsSync(join(root, file)));
  if (missing.length > 0)
    return { outcome: "failed", cases: "0 cases", remark: `${missing.join(", ")}: no such file` };
  const log = join(directory, `${name}.log`);
  const json = join(directory, `${name}.json`);
  const code = await runTests(section, seed, log, json);
  const result = judge(code, log, json);
  rmSync(json, { force: true });
  // Why tests were skipped stands in the log, too.
  if (result.remark === "") rmSync(log);
  else return { ...result, remark: `${result.remark}: ${log}` };
  return result;
}

async function main(): Promise<void> {
  const { sections, seed } = readArguments();
  if (!existsSync(VITEST)) usage(`${VITEST}: no such file; run it in the repository, after npm install`);
  const minutes = sections.reduce((sum, name) => sum + (SECTIONS[name]?.minutes ?? 0), 0);
  console.log(`torture: ${sections.join(", ")}: about ${minutes} minutes; seed ${seed}`);
  const directory = mkdtempSync(join(tmpdir(), "sqlfuse-torture-"));
  let failed = false;
  for (const name of sections) {
    const section = SECTIONS[name];
    if (section === undefined) continue;
    const start = performance.now();
    const { outcome, cases, remark } = await runSection(name, section, seed, directory);
    const seconds = Math.round((performance.now() - start) / 1000);
    const line = [name.padEnd(10), cases.padStart(15), outcome.padEnd(7), `${seconds} s`, `seed ${seed}`];
    console.log([...line, ...(remark === "" ? [] : [remark])].join("  "));
    failed ||= outcome === "failed";
  }
  if (readdirSync(directory).length === 0) rmSync(directory, { recursive: true });
  if (failed) process.exitCode = 1;
}

await main();
