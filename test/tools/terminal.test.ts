/** The commands as a person meets them: prompts, ^C and ^Z, narrow and plain terminals, pipes, and no terminal at all. */
import { spawnSync } from "node:child_process";
import { copyFileSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { lineOnTerminal, onTerminal, type Seen, type Step } from "../helpers/terminal.ts";
import { fingerprint, sqlfuse } from "./run.ts";

const PASSWORD = "Tr0ub4dor&3";
const CTRL_C = "\x03";
const CTRL_D = "\x04";
const CTRL_Z = "\x1a";

let template: string;
let directory: string;
let file: string;

beforeAll(() => {
  template = mkdtempSync(join(tmpdir(), "terminal-template-"));
  const made = join(template, "v");
  expect(sqlfuse(["create", made], { password: PASSWORD })).toMatchObject({ code: 0 });
  expect(sqlfuse(["put", made, "-", "/a"], { password: PASSWORD, input: "text\n" })).toMatchObject({
    code: 0,
  });
  const dumped = sqlfuse(["dump", "-o", join(template, "dump"), made], { password: PASSWORD });
  expect(dumped).toMatchObject({ code: 0 });
});
afterAll(() => rmSync(template, { recursive: true }));

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "terminal-"));
  file = join(directory, "v");
  for (const name of ["v", "dump"]) copyFileSync(join(template, name), join(directory, name));
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

/** Runs in the test's directory, in which "v" is the volume. */
function type(args: readonly string[], ...steps: Step[]): Promise<Seen> {
  return onTerminal(args, steps, { cwd: directory });
}

/** Commands that ask for the password of a volume that is there. */
const ASKING: readonly (readonly string[])[] = [
  ["mount", "--log-file", "/dev/null", "v"],
  ["mount", "--foreground", "v"],
  ["info", "v"],
  ["fsck", "v"],
  ["fsck", "--repair", "v"],
  ["rekey", "v"],
  ["vacuum", "v"],
  ["dump", "v"],
  ["dump", "-o", "new", "v"],
  ["ls", "v"],
  ["cat", "v", "/a"],
  ["get", "v", "/a", "new"],
  ["put", "v", "dump", "/"],
  ["rm", "v", "/a"],
  ["mkdir", "v", "/d"],
];

function lastLine({ screen }: Seen): string {
  return screen.at(-1) ?? "";
}

/** Nothing was made, changed or left. */
function expectUntouched(): void {
  expect(readdirSync(directory).sort()).toEqual(["dump", "v"]);
  expect(fingerprint(file)).toBe(fingerprint(join(template, "v")));
}

describe("the prompt for a password", () => {
  test.each(ASKING)(
    "%s %s %s %s: a wrong one ends it in one line; ^C, ^D and an empty one as well",
    async (...words) => {
      const args = words.filter((word) => word !== undefined);
      const isFsck = args[0] === "fsck";
      for (const [keys, code, message] of [
        ["no\r", isFsck ? 8 : 12, /^sqlfuse: \S*v: wrong password \(or /],
        [`${PASSWORD}${CTRL_C}`, isFsck ? 32 : 130, /^sqlfuse: interrupted$/],
        [CTRL_D, isFsck ? 32 : 130, /^sqlfuse: interrupted$/],
        ["\r", isFsck ? 8 : 22, /^sqlfuse: the password is empty: a volume needs one$/],
      ] as const) {
        const seen = await type(args, ["Password for v:", keys]);
        expect(seen).toMatchObject({ code, restored: true });
        expect(seen.screen.filter((line) => line.startsWith("sqlfuse: "))).toEqual([
          expect.stringMatching(message),
        ]);
        expect(seen.output).not.toContain(PASSWORD);
        expectUntouched();
      }
    },
  );

  test.each([
    ["create", ["create", "n"], ["Password for n:", "The same once more:"]],
    ["load", ["load", "n", "dump"], ["Password for n:", "The same once more:"]],
    ["rekey", ["rekey", "v"], ["Password for v:", "New password for v:", "The same once more:"]],
  ] as const)("^C at each question of %s leaves everything as it was", async (_, args, questions) => {
    for (let at = 0; at < questions.length; at++) {
      const steps = questions
        .slice(0, at + 1)
        .map((shown, i): Step => [shown, i === at ? CTRL_C : `${PASSWORD}\r`]);
      const seen = await type(args, ...steps);
      expect(seen).toMatchObject({ code: 130, restored: true });
      expect(lastLine(seen)).toBe("sqlfuse: interrupted");
      expect(seen.output).not.toContain(PASSWORD);
      expectUntouched();
    }
  });

  test.each(["load", "rekey"])("%s asks again where the two differ, three times", async (verb) => {
    const [args, first] =
      verb === "load" ? [["load", "n", "dump"], "Password for n:"] : [["rekey", "v"], "New password for v:"];
    const pair: readonly Step[] = [
      [first, "one\r"],
      ["The same once more:", "two\r"],
    ];
    const old: Step[] = verb === "rekey" ? [["Password for v:", `${PASSWORD}\r`]] : [];
    const seen = await type(args, ...old, ...pair, ...pair, ...pair);
    expect(seen).toMatchObject({ code: 22, restored: true });
    expect(lastLine(seen)).toBe("sqlfuse: the two passwords differ each time: nothing was done");
    expectUntouched();
  });

  test.each(["SIGTERM", "SIGHUP", "SIGINT"] as const)("%s gives the terminal back", async (signal) => {
    for (const args of [
      ["info", "v"],
      ["get", "v", "/a", "new"],
      ["mount", "v"],
    ]) {
      const seen = await type(args, ["Password for v:", { signal }]);
      expect(seen).toMatchObject({
        code: { SIGHUP: 129, SIGINT: 130, SIGTERM: 143 }[signal],
        restored: true,
      });
      expect(lastLine(seen)).toBe("sqlfuse: interrupted");
      expectUntouched();
    }
  });

  test("^Z gives the shell its terminal, and fg goes on where it was", async () => {
    const seen = await type(
      ["ls", "v"],
      ["Password for v:", `Tr0${CTRL_Z}`],
      ["\x1b_stop", ""],
      ["Password for v:", "ub4dor&3\r"],
    );
    expect(seen).toMatchObject({ code: 0, restored: true, stops: [true] });
    expect(lastLine(seen)).toBe("a");
    expect(seen.output).not.toMatch(/Tr0|ub4/);
  });

  test("^Z without a shell to go to changes nothing; above all it shows nothing", async () => {
    const keys: Step[] = [
      ["Password for v:", `Tr0${CTRL_Z}`],
      ["\x1b[?25h", "ub4dor&3\r"],
    ];
    const seen = await onTerminal(["ls", "v"], keys, { cwd: directory, alone: true });
    expect(seen).toMatchObject({ code: 0, restored: true, stops: [] });
    expect(lastLine(seen)).toBe("a");
    expect(seen.output).not.toMatch(/Tr0|ub4/);
  });

  test("is asked where --password-file - or --password-fd 0 is a terminal, without echo", async () => {
    for (const source of [
      ["--password-file", "-"],
      ["--password-fd", "0"],
    ]) {
      const seen = await type(["ls", ...source, "v"], ["Password for v:", `${PASSWORD}\r`]);
      expect(seen).toMatchObject({ code: 0, restored: true });
      expect(lastLine(seen)).toBe("a");
      expect(seen.output).not.toContain(PASSWORD);
    }
  });

  test("is asked at the terminal where stdin brings something else", async () => {
    const steps: Step[] = [["Password for v:", `${PASSWORD}\r`]];
    const put = await lineOnTerminal("echo words | $sqlfuse put v - /b", steps, { cwd: directory });
    expect(put).toMatchObject({ code: 0, restored: true });
    expect(put.output).not.toContain(PASSWORD);
    expect(sqlfuse(["cat", file, "/b"], { password: PASSWORD }).stdout).toBe("words\n");
    const load = await lineOnTerminal(
      "$sqlfuse load n < dump",
      [
        ["Password for n:", "x\r"],
        ["The same once more:", "x\r"],
      ],
      {
        cwd: directory,
      },
    );
    expect(load).toMatchObject({ code: 0, restored: true });
  });

  test("^C while a command or a pipe is waited for ends it, and leaves no mount point behind", async () => {
    expect(spawnSync("mkfifo", ["-m", "600", join(directory, "pipe")]).status).toBe(0);
    for (const args of [
      ["ls", "v"],
      ["get", "v", "/a", "new"],
      ["mount", "v"],
    ]) {
      const [verb = "", ...rest] = args;
      const command = "echo waiting >&2; sleep 30";
      const seen = await type([verb, "--password-command", command, ...rest], ["waiting", CTRL_C]);
      expect(seen).toMatchObject({ code: 130, restored: true });
      const writer = "{ exec 3>pipe; echo connected; sleep 3; } &";
      const line = `${writer} exec $sqlfuse ${verb} --password-file pipe ${rest.join(" ")}`;
      const piped = await lineOnTerminal(line, [["connected", CTRL_C]], { cwd: directory });
      expect(piped).toMatchObject({ code: 130, restored: true });
      expect(readdirSync(directory).sort()).toEqual(["dump", "pipe", "v"]);
    }
  });
});
