import { spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import {
  closeSync,
  copyFileSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { OpenError, type OpenReason } from "../../src/core/errors.ts";
import { unlock } from "../../src/core/unlock.ts";
import { Volume } from "../../src/core/volume.ts";
import { Database } from "../../src/db/database.ts";
import { rawKeyPassword } from "../../src/db/key.ts";
import { HostError, type HostReason } from "../../src/host/errors.ts";
import {
  describeError,
  EXIT_TABLE,
  type ExitTable,
  FSCK_EXIT_TABLE,
  ToolError,
} from "../../tools/exitcodes.ts";
import { noise, put, ROOT } from "../core/fixture.ts";
import { CLI, type Outcome, sqlfuse, sqlfuseOnTerminal } from "./run.ts";

const OPEN: Record<OpenReason, number> = {
  missing: 10,
  unreadable: 10,
  "not-a-volume": 10,
  "wrong-password": 12,
  damaged: 20,
  older: 20,
  "bad-head": 10,
  "too-new": 13,
  "needs-upgrade": 14,
  locked: 11,
  "unreplayable-wal": 10,
  exists: 10,
  "no-space": 28,
  "no-snapshot": 10,
};

const HOST: Record<HostReason, number> = {
  "no-fuse": 19,
  "no-fusermount": 19,
  "mountpoint-missing": 10,
  "mountpoint-not-directory": 10,
  "mountpoint-not-empty": 10,
  "mountpoint-in-own-mount": 10,
  "mountpoint-holds-database": 10,
  "allow-other-forbidden": 19,
  busy: 16,
  "not-mounted": 10,
  "not-replica": 10,
  "not-permitted": 1,
  engine: 19,
};

describe("exit codes", () => {
  test.each(Object.entries(OPEN))("a volume that is %s ends with %i", (reason, code) => {
    const error = new OpenError(reason as OpenReason, "/v", "the line");
    expect(describeError(error)).toEqual({ message: "the line", code });
  });

  test.each(Object.entries(HOST))("a host that says %s ends with %i", (reason, code) => {
    expect(describeError(new HostError(reason as HostReason, "the line"))).toEqual({
      message: "the line",
      code,
    });
  });

  test("an engine that cannot be loaded ends with 19", () => {
    const error = new Error("not built");
    error.name = "EngineError";
    expect(describeError(error)).toEqual({ message: "not built", code: 19 });
  });

  test("an error of the tools carries its own code", () => {
    expect(describeError(new ToolError(22, "empty"))).toEqual({ message: "empty", code: 22 });
  });

  test("anything else is 1, on one line", () => {
    expect(describeError(new Error("a\n  b"))).toEqual({ message: "a; b", code: 1 });
    expect(describeError(new TypeError(""))).toEqual({ message: "TypeError", code: 1 });
    expect(describeError("text")).toEqual({ message: "text", code: 1 });
  });
});

/** The rows of the first table of codes below a heading of README.md. */
function readmeTable(heading: string): string[][] {
  const readme = readFileSync(new URL("../../README.md", import.meta.url), "utf8");
  const section = readme.slice(readme.indexOf(`\n${heading}\n`));
  const table = /^\| code \| meaning \|\n\|---\|---\|\n((?:\|.*\n)+)/m.exec(section)?.[1] ?? "";
  return table
    .trim()
    .split("\n")
    .map((line) => line.split("|").map((cell) => cell.trim()))
    .map(([, code = "", meaning = ""]) => [code, meaning]);
}

function helpTable(args: readonly string[], { title }: ExitTable): string[][] {
  const { stdout } = sqlfuse([...args, "--help"], {});
  const lines = stdout.slice(stdout.indexOf(`\n${title}:\n`) + title.length + 3).split("\n\n")[0] ?? "";
  // A meaning that goes on in the next line stands below its first.
  const rows = lines.replaceAll(/\n {4,}/g, " ").split("\n");
  return rows.map((row) => row.trim().split(/ {2,}/));
}

describe("the tables of exit codes", () => {
  test.each([
    ["## Exit codes", [], EXIT_TABLE],
    ["## Exit codes", ["mount"], EXIT_TABLE],
    ["### fsck", ["fsck"], FSCK_EXIT_TABLE],
  ])("README.md (%s) and --help of %j say the same, word for word", (heading, args, table) => {
    expect(readmeTable(heading)).toEqual(table.rows);
    expect(helpTable(args, table)).toEqual(table.rows);
  });
});

let directory: string;
let file: string;
const KEY = randomBytes(32);

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "exit-"));
  file = join(directory, "v");
  writeFileSync(join(directory, "key"), KEY, { mode: 0o600 });
  writeFileSync(join(directory, "other"), randomBytes(32), { mode: 0o600 });
  Volume.create(file, rawKeyPassword(KEY));
  const volume = Volume.open(file, unlock(file, rawKeyPassword(KEY)));
  put(volume, ROOT, "a", noise(300_000));
  volume.close();
  writeFileSync(join(directory, "empty"), "", { mode: 0o600 });
  copyFileSync(file, join(directory, "damaged"));
  const fd = openSync(join(directory, "damaged"), "r+");
  writeSync(fd, "damage", statSync(file).size - 100_000); // in the middle of the data of "a"
  closeSync(fd);
  newerFormat(join(directory, "newer"));
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

function newerFormat(path: string): void {
  copyFileSync(file, path);
  const key = unlock(path, rawKeyPassword(KEY));
  const db = new Database(path, key, { mode: "readwrite" });
  db.exec("UPDATE meta SET value = '99.0.0' WHERE key = 'format'");
  db.close();
  key.wipe();
}

function withKey(verb: string, ...args: string[]): Outcome {
  return sqlfuse([verb, "--key-file", join(directory, "key"), ...args], {});
}

function withOpenVolume(run: () => Outcome): Outcome {
  const volume = Volume.open(file, unlock(file, rawKeyPassword(KEY)));
  try {
    return run();
  } finally {
    volume.close();
  }
}

/** Through a shell, whose words are "$@" of the command. */
function inShell(line: string): Outcome {
  const script = `cd "$0"; S() { "$NODE" "$CLI" "$@"; }; ${line}`;
  const done = spawnSync("bash", ["-c", script, directory], {
    encoding: "utf8",
    env: { ...process.env, NODE: process.execPath, CLI, SQLFUSE_PASSWORD: undefined },
  });
  return { code: done.status, stdout: done.stdout, stderr: done.stderr };
}

const PROVOKED: Record<string, () => Outcome> = {
  0: () => withKey("ls", file),
  1: () => withKey("rm", file, "missing"),
  2: () => withKey("ls"),
  3: () => withKey("cat", file, "a", "missing"),
  10: () => withKey("ls", `${file}-missing`),
  11: () => withOpenVolume(() => withKey("mkdir", file, "d")),
  12: () => sqlfuse(["ls", "--key-file", join(directory, "other"), file], {}),
  13: () => withKey("ls", join(directory, "newer")),
  20: () => withKey("dump", join(directory, "damaged")),
  22: () => sqlfuse(["ls", "--key-file", join(directory, "empty"), file], {}),
  28: () => inShell("S cat --key-file key v a > /dev/full"),
  "128+N": () => inShell("set -o pipefail; S cat --key-file key v a a a a | true"),
};

/** What needs a mount, or a package that was not built, is provoked where those are. */
const ELSEWHERE: Record<string, readonly [file: string, name: string]> = {
  14: ["exitcodes.test.ts", "a volume that is %s ends with %i"],
  16: ["mount.test.ts", "of a mount in use names who uses it, ends with 16, and changes nothing"],
  19: ["package.test.ts", "without a built engine every command that needs it ends with 19"],
};

const FSCK_PROVOKED: Record<string, () => Outcome | Promise<Outcome>> = {
  0: () => withKey("fsck", file),
  1: () => withKey("fsck", "--repair", join(directory, "damaged")),
  4: () => withKey("fsck", join(directory, "damaged")),
  8: () => withKey("fsck", `${file}-missing`),
  16: () => withKey("fsck"),
  32: () => sqlfuseOnTerminal(["fsck", file], [["Password for", "\x03"]]),
};

describe("each exit code is provoked", () => {
  test("by one of the tests below, or by one elsewhere", () => {
    const codes = [...Object.keys(PROVOKED), ...Object.keys(ELSEWHERE)];
    expect(codes.sort()).toEqual(EXIT_TABLE.rows.map(([code]) => code).sort());
    expect(Object.keys(FSCK_PROVOKED)).toEqual(FSCK_EXIT_TABLE.rows.map(([code]) => code));
    for (const [name, title] of Object.values(ELSEWHERE))
      expect(readFileSync(new URL(name, import.meta.url), "utf8")).toContain(title);
  });

  test.each(Object.entries(PROVOKED))("%s", (code, provoke) => {
    const outcome = provoke();
    expect(outcome.code, outcome.stderr).toBe(code === "128+N" ? 128 + 13 : Number(code));
  });

  // The last of them repairs what the others find.
  test.each(Object.entries(FSCK_PROVOKED).reverse())("of fsck: %s", async (code, provoke) => {
    const outcome = await provoke();
    expect(outcome.code, outcome.stderr).toBe(Number(code));
  });
});
