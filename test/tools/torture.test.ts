/** `npm run torture`, on a directory that has test files of our own making. */
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { REPOSITORY } from "../helpers/volume.ts";

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "torture-"));
  mkdirSync(join(directory, "test/reliability"), { recursive: true });
  symlinkSync(join(REPOSITORY, "node_modules"), join(directory, "node_modules"));
});
afterEach(() => rmSync(directory, { recursive: true }));

/** Makes the file of a section. Its tests may print by `torture`, a line as test/helpers/torture.ts prints it. */
function section(name: string, body: string): void {
  const text = `import { expect, test } from "vitest";
const torture = (cases) => console.log("torture: ${name} cases=" + cases + " seed=" + process.env.SQLFUSE_SEED);
${body}
`;
  writeFileSync(join(directory, `test/reliability/${name}.test.ts`), text);
}

interface Outcome {
  readonly code: number | null;
  /** The first one tells what is to come, then one a section. */
  readonly lines: readonly string[];
  readonly stderr: string;
}

function torture(...args: string[]): Outcome {
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    [join(REPOSITORY, "dist/tools/dev/torture.js"), ...args],
    { cwd: directory, encoding: "utf8", env: { ...process.env, TMPDIR: directory } },
  );
  return { code: status, lines: stdout.trimEnd().split("\n"), stderr };
}

test("torture says how long it will take, then a line for each section: cases, result, seconds, seed", () => {
  section("kill", `test("a", () => torture(40)); test("b", () => torture(2));`);
  section("fuzz", `test("a", () => expect(process.env.SQLFUSE_LONG).toBe("1"));`);
  const { code, lines } = torture("kill", "fuzz", "--seed", "4711");
  expect(lines[0]).toMatch(/^torture: kill, fuzz: about \d+ minutes; seed 4711$/);
  expect(lines[1]).toMatch(/^kill {2,}42 cases {2,}passed +\d+ s {2}seed 4711$/);
  expect(lines[2]).toMatch(/^fuzz {2,}1 tests {2,}passed +\d+ s {2}seed 4711$/);
  expect(lines).toHaveLength(3);
  expect(code).toBe(0);
});

test("torture goes on after a section that failed, keeps what it printed, and ends with 1", () => {
  section("kill", `test("a", () => { torture(7); expect("this").toBe("that"); });`);
  section("fuzz", `test("a", () => torture(1));`);
  const { code, lines } = torture("kill", "fuzz");
  expect(lines[1]).toMatch(/^kill {2,}7 cases {2,}failed .* 1 tests failed: .*kill\.log$/);
  expect(lines[2]).toMatch(/^fuzz {2,}1 cases {2,}passed/);
  expect(readFileSync(lines[1]?.split(": ").at(-1) ?? "", "utf8")).toMatch(/expected 'this' to be 'that'/);
  expect(code).toBe(1);
});

test("torture says so when a section skipped everything, or has no file", () => {
  section("kill", `test.skip("a", () => {});`);
  const { code, lines } = torture("kill", "fuzz");
  expect(lines[1]).toMatch(/^kill {2,}0 tests {2,}skipped .* 1 tests skipped: /);
  expect(lines[2]).toMatch(
    /^fuzz {2,}0 cases {2,}failed .* test\/reliability\/fuzz\.test\.ts: no such file$/,
  );
  expect(code).toBe(1);
});

test("torture refuses sections and seeds that do not exist, and lists the sections", () => {
  for (const args of [["kill", "nosuch"], ["--seed", "-1"], ["--seed", "x", "kill"], ["--nosuch"]]) {
    const { code, stderr } = torture(...args);
    expect(code, args.join(" ")).toBe(2);
    expect(stderr).toMatch(/^ {2}powerloss +\d+ min/m);
  }
  expect(torture("--help").lines.join("\n")).toMatch(/^ {2}load +\d+ min/m);
});
