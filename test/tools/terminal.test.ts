/** The commands as a person meets them: prompts, ^C and ^Z, narrow and plain terminals, pipes, and no terminal at all. */
import { spawn, spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import {
  closeSync,
  copyFileSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { unlock } from "../../src/core/unlock.ts";
import { Database } from "../../src/db/database.ts";
import { canTrace } from "../helpers/strace.ts";
import { lineOnTerminal, onTerminal, type Seen, type Step } from "../helpers/terminal.ts";
import { until } from "../helpers/volume.ts";
import { CLI, fingerprint, sqlfuse } from "./run.ts";

const PASSWORD = "Tr0ub4dor&3";
/** Takes no time to be found wrong, as it is not derived. */
const WRONG_KEY = `x'${"0".repeat(64)}'`;
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

const made: string[] = [];

/** A directory in which "v" is the volume. What takes its time in waiting goes on at once in several. */
function freshDirectory(): string {
  const fresh = mkdtempSync(join(tmpdir(), "terminal-"));
  made.push(fresh);
  for (const name of ["v", "dump"]) copyFileSync(join(template, name), join(fresh, name));
  return fresh;
}

beforeEach(() => {
  directory = freshDirectory();
  file = join(directory, "v");
});
afterEach(() => {
  for (const one of made.splice(0)) rmSync(one, { recursive: true, force: true });
});

/** Runs in the test's directory, or another one. */
function type(args: readonly string[], ...steps: Step[]): Promise<Seen> {
  return typeIn(directory, args, ...steps);
}

function typeIn(cwd: string, args: readonly string[], ...steps: Step[]): Promise<Seen> {
  return onTerminal(args, steps, { cwd });
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

/** Runs a line of the shell, in which `$sqlfuse` is the command, with the password in the environment. */
function shell(line: string): { status: number | null; stdout: string; stderr: string } {
  const env = { ...process.env, sqlfuse: `${process.execPath} ${CLI}`, SQLFUSE_PASSWORD: PASSWORD };
  return spawnSync("sh", ["-c", line], { cwd: directory, env, encoding: "utf8", timeout: 30_000 });
}

/** Nothing was made, changed or left. */
function expectUntouched(where = directory): void {
  expect(readdirSync(where).sort()).toEqual(["dump", "v"]);
  expect(fingerprint(join(where, "v"))).toBe(fingerprint(join(template, "v")));
}

describe("the prompt for a password", () => {
  test.each(ASKING)(
    "%s %s %s %s: a wrong one ends it in one line; ^C, ^D and an empty one as well",
    async (...words) => {
      const args = words.filter((word) => word !== undefined);
      const isFsck = args[0] === "fsck";
      const cases = [
        [`${WRONG_KEY}\r`, isFsck ? 8 : 12, /^sqlfuse: \S*v: wrong password \(or /],
        [`${PASSWORD}${CTRL_C}`, isFsck ? 32 : 130, /^sqlfuse: interrupted$/],
        [CTRL_D, isFsck ? 32 : 130, /^sqlfuse: interrupted$/],
        ["\r", isFsck ? 8 : 22, /^sqlfuse: the password is empty: a volume needs one$/],
      ] as const;
      const tries = cases.map(async ([keys, code, message]) => {
        const where = freshDirectory();
        const seen = await typeIn(where, args, ["Password for v:", keys]);
        expect(seen).toMatchObject({ code, restored: true });
        expect(seen.screen.filter((line) => line.startsWith("sqlfuse: "))).toEqual([
          expect.stringMatching(message),
        ]);
        for (const secret of [PASSWORD, WRONG_KEY]) expect(seen.output).not.toContain(secret);
        expectUntouched(where);
      });
      await Promise.all(tries);
    },
  );

  test.each([
    ["create", ["create", "n"], ["Password for n:", "The same once more:"]],
    ["load", ["load", "n", "dump"], ["Password for n:", "The same once more:"]],
    ["rekey", ["rekey", "v"], ["Password for v:", "New password for v:", "The same once more:"]],
  ] as const)("^C at each question of %s leaves everything as it was", async (_, args, questions) => {
    const tries = questions.map(async (_question, at) => {
      const where = freshDirectory();
      const steps = questions
        .slice(0, at + 1)
        .map((shown, i): Step => [shown, i === at ? CTRL_C : `${PASSWORD}\r`]);
      const seen = await typeIn(where, args, ...steps);
      expect(seen).toMatchObject({ code: 130, restored: true });
      expect(lastLine(seen)).toBe("sqlfuse: interrupted");
      expect(seen.output).not.toContain(PASSWORD);
      expectUntouched(where);
    });
    await Promise.all(tries);
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
    const commands = [
      ["info", "v"],
      ["get", "v", "/a", "new"],
      ["mount", "v"],
    ];
    const tries = commands.map(async (args) => {
      const where = freshDirectory();
      const seen = await typeIn(where, args, ["Password for v:", { signal }]);
      expect(seen).toMatchObject({
        code: { SIGHUP: 129, SIGINT: 130, SIGTERM: 143 }[signal],
        restored: true,
      });
      expect(lastLine(seen)).toBe("sqlfuse: interrupted");
      expectUntouched(where);
    });
    await Promise.all(tries);
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
    const commands = [
      ["ls", "v"],
      ["get", "v", "/a", "new"],
      ["mount", "v"],
    ];
    const tries = commands.map(async ([verb = "", ...rest]) => {
      const where = freshDirectory();
      expect(spawnSync("mkfifo", ["-m", "600", join(where, "pipe")]).status).toBe(0);
      const command = "echo waiting >&2; sleep 30";
      const seen = await typeIn(where, [verb, "--password-command", command, ...rest], ["waiting", CTRL_C]);
      expect(seen).toMatchObject({ code: 130, restored: true });
      const writer = "{ exec 3>pipe; echo connected; sleep 3; } &";
      const line = `${writer} exec $sqlfuse ${verb} --password-file pipe ${rest.join(" ")}`;
      const piped = await lineOnTerminal(line, [["connected", CTRL_C]], { cwd: where });
      expect(piped).toMatchObject({ code: 130, restored: true });
      expect(readdirSync(where).sort()).toEqual(["dump", "pipe", "v"]);
    });
    await Promise.all(tries);
  });
});

describe("^C in long work", () => {
  const KEY = randomBytes(32);
  let large: string;

  /** A volume of some seconds' work, and a dump of it. */
  beforeAll(() => {
    large = mkdtempSync(join(tmpdir(), "terminal-large-"));
    writeFileSync(join(large, "key"), KEY, { mode: 0o600 });
    writeFileSync(join(large, "other"), randomBytes(32), { mode: 0o600 });
    expect(run("create", "v")).toMatchObject({ code: 0 });
    mkdirSync(join(large, "tree"));
    for (let i = 0; i < 3000; i++) writeFileSync(join(large, "tree", `${i}`), `${i}`);
    for (let i = 0; i < 3; i++) writeFileSync(join(large, "tree", `noise ${i}`), randomBytes(30_000_000));
    expect(run("put", "v", "tree")).toMatchObject({ code: 0 });
    expect(run("dump", "v", "-o", "dump")).toMatchObject({ code: 0 });
  });
  afterAll(() => rmSync(large, { recursive: true }));

  const run = (verb: string, ...args: string[]) =>
    sqlfuse([verb, "--key-file", "key", ...args], { cwd: large });
  const typed = (args: readonly string[], ...steps: Step[]) =>
    onTerminal([args[0] ?? "", "--key-file", "key", ...args.slice(1)], steps, { cwd: large, held: true });

  function damage(): void {
    const fd = openSync(join(large, "v"), "r+");
    writeSync(fd, "damage", 50_000_000);
    closeSync(fd);
  }

  test.each([
    [
      ["fsck", "--verify-data", "v"],
      ["pages [", "structure", "tree [", "data ["],
      32,
      "nothing of v was changed",
    ],
    [
      ["rekey", "--new-key-file", "other", "v"],
      ["preparing", "copying [", "copying [####", "checking ["],
      130,
      "v is as it was",
    ],
    [["vacuum", "v"], ["preparing", "copying [", "copying [####", "checking ["], 130, "v is as it was"],
    [["dump", "-o", "new", "v"], ["dumping v: "], 130, "new was not made"],
    [["dump", "v"], ["inode path="], 130, "the dump is not whole"],
    [["load", "new", "dump"], ["loading ["], 130, "new was not made"],
  ] as const)(
    "of %j leaves everything as it was, in each of its phases",
    async (args, phases, code, undone) => {
      const before = fingerprint(join(large, "v"));
      for (const shown of phases) {
        const seen = await typed(args, [shown, CTRL_C]);
        expect(seen, shown).toMatchObject({ code, restored: true });
        expect(lastLine(seen)).toBe(`sqlfuse: SIGINT: stopped; ${undone}`);
        // The bar is gone from the screen, with the terminal's own "^C".
        if (args.join(" ") !== "dump v") expect(seen.screen).toHaveLength(1);
        expect(readdirSync(large).sort()).toEqual(["dump", "key", "other", "tree", "v"]);
        expect(fingerprint(join(large, "v"))).toBe(before);
      }
    },
  );

  test("of a repair by a copy leaves the damaged file as it was, in each of its phases", async () => {
    damage();
    const before = fingerprint(join(large, "v"));
    for (const shown of ["pages [", "rescue", "tree [", "copying", "repair ["]) {
      const seen = await typed(["fsck", "--repair", "--yes", "v"], [shown, CTRL_C]);
      expect(seen, shown).toMatchObject({ code: 32, restored: true });
      expect(lastLine(seen)).toMatch(/^sqlfuse: SIGINT: stopped; (nothing of v was changed|v is as it was)$/);
      expect(readdirSync(large).sort()).toEqual(["dump", "key", "other", "tree", "v"]);
      expect(fingerprint(join(large, "v"))).toBe(before);
    }
    expect(run("fsck", "--repair", "v")).toMatchObject({ code: 1 });
    for (const name of readdirSync(large)) if (name.startsWith("v.damaged")) rmSync(join(large, name));
  });

  test("of a repair in the file changes nothing", async () => {
    const key = unlock(join(large, "v"), Buffer.from(`x'${KEY.toString("hex")}'`));
    const db = new Database(join(large, "v"), key, { mode: "readwrite" });
    db.exec("UPDATE inode SET nlink = 7 WHERE size < 5");
    db.close();
    key.wipe();
    const before = fingerprint(join(large, "v"));
    const seen = await typed(["fsck", "--repair", "--yes", "v"], ["repair [", CTRL_C]);
    expect(seen).toMatchObject({ code: 32, restored: true });
    expect(lastLine(seen)).toBe("sqlfuse: SIGINT: stopped; v is as it was");
    expect(fingerprint(join(large, "v"))).toBe(before);
    expect(run("fsck", "--repair", "v")).toMatchObject({ code: 1 });
  });

  test("of get and put leaves whole files and no others, and the rest follows when it is said again", async () => {
    for (const args of [
      ["put", "v", "tree", "/again"],
      ["get", "v", "tree", "again"],
    ]) {
      const seen = await typed(args, ["copying: ", CTRL_C]);
      expect(seen).toMatchObject({ code: 130, restored: true });
      expect(seen.screen).toEqual(["sqlfuse: SIGINT: stopped; what was copied is there"]);
    }
    const put = run("ls", "-R", "--all", "v", "again").stdout;
    expect(put).not.toContain(".sqlfuse-");
    expect(run("fsck", "v")).toMatchObject({ code: 0 });
    for (const name of readdirSync(join(large, "again"))) {
      expect(readFileSync(join(large, "again", name)).equals(readFileSync(join(large, "tree", name)))).toBe(
        true,
      );
    }
    expect(run("put", "v", "tree", "/again")).toMatchObject({ code: 0 });
    expect(run("rm", "-r", "v", "/again")).toMatchObject({ code: 0 });
    rmSync(join(large, "again"), { recursive: true });
  });

  test("^Z holds it, and it goes on", async () => {
    const seen = await onTerminal(
      ["vacuum", "--key-file", "key", "v"],
      [
        ["copying [", CTRL_Z],
        ["\x1b_stop", ""],
      ],
      { cwd: large },
    );
    expect(seen).toMatchObject({ code: 0, restored: true, stops: [true] });
    expect(lastLine(seen)).toMatch(/^v: .* before, .* after, /);
  });

  test.each([
    ["narrow", { TERM: "xterm" }],
    ["plain", { TERM: "dumb" }],
    ["colourless", { NO_COLOR: "1" }],
  ])(
    "on a %s terminal of 40 columns nothing is left of the bar, nor of the prompt but its line",
    async (kind, env) => {
      const seen = await onTerminal(["vacuum", "--key-file", "key", "v"], [], {
        cwd: large,
        env,
        columns: 40,
      });
      expect(seen).toMatchObject({ code: 0, restored: true });
      expect(seen.screen[0]).toMatch(/^v: .* before/);
      const asked = await onTerminal(["fsck", "v"], [["Password for v:", "no\r"]], {
        cwd: large,
        env,
        columns: 40,
      });
      expect(asked).toMatchObject({ code: 8, restored: true });
      expect(asked.screen[1]).toMatch(/^sqlfuse: v: wrong password/);
      expect(asked.output.includes("\x1b[1m")).toBe(kind === "narrow");
    },
  );
});

if (!canTrace)
  console.warn("signals while a dump is synced are not tested: strace is missing or may not trace");

test.skipIf(!canTrace)("a signal while a dump is synced leaves no draft", async () => {
  const slow = ["-f", "-qq", "-e", "inject=fsync:delay_enter=1000000", "-o", "/dev/null"];
  const line = 'echo $$ > pid; exec "$0" "$@"';
  const args = [...slow, "sh", "-c", line, process.execPath, CLI, "dump", "-o", "new", "v"];
  const env = { ...process.env, SQLFUSE_PASSWORD: PASSWORD };
  const child = spawn("strace", args, { cwd: directory, env, stdio: "ignore" });
  const ended = once(child, "exit");
  await until("the draft", () => readdirSync(directory).some((name) => name.startsWith("new.new-")));
  await sleep(500);
  process.kill(Number(readFileSync(join(directory, "pid"), "utf8")), "SIGINT");
  await ended;
  // What is as good as done is done.
  expect(readdirSync(directory).sort()).toEqual(["dump", "new", "pid", "v"]);
});

describe("without a terminal", () => {
  test.each([...ASKING, ["create", "n"], ["load", "n", "dump"]].filter(([verb]) => verb !== "info"))(
    "%s %s %s %s ends with 22 and says how to give a password",
    (...words) => {
      const args = words.filter((word) => word !== undefined);
      const done = spawnSync("setsid", ["-w", process.execPath, CLI, ...args], {
        cwd: directory,
        env: { ...process.env, SQLFUSE_PASSWORD: undefined },
        stdio: ["ignore", "pipe", "pipe"],
        encoding: "utf8",
        timeout: 20_000,
      });
      expect(done).toMatchObject({ status: args[0] === "fsck" ? 8 : 22, stdout: "" });
      expect(done.stderr).toMatch(
        /^sqlfuse: no password and no terminal to ask on: give it by --password-file, [^\n]*\n$/,
      );
      expectUntouched();
    },
  );

  test.each([
    ["status", 28],
    ["--help", 28],
    ["--version", 28],
    ["info v", 28],
    ["ls v", 28],
    ["cat v /a", 28],
    ["dump v", 28],
    ["vacuum v", 28],
    ["create n", 28],
    ["fsck v", 8],
  ])("%s says in one line that stdout is full", (line, code) => {
    const done = shell(`$sqlfuse ${line} > /dev/full`);
    expect(done).toMatchObject({ status: code, stderr: "sqlfuse: stdout: no space left on its disk\n" });
    expect(shell(`$sqlfuse ${line} 2> /dev/full`).status).toBe(line === "create n" ? 10 : 0);
  });

  test("whoever stops reading ends nothing but the output", () => {
    for (const line of ["status", "--help", "info v", "ls v", "cat v /a", "dump v", "fsck v", "vacuum v"]) {
      const { stderr } = shell(`{ sleep 0.2; $sqlfuse ${line}; echo $? >&2; } | true`);
      expect([line, stderr]).toEqual([line, expect.stringMatching(/^(0|141)\n$/)]);
    }
  });

  test("a copy goes on when nobody reads its messages any more", () => {
    mkdirSync(join(directory, "tree"));
    // The volume itself is left out, which is said; "z" comes after it.
    linkSync(file, join(directory, "tree", "volume"));
    writeFileSync(join(directory, "tree", "z"), "z");
    shell("{ sleep 0.2; $sqlfuse put v tree; echo $? > code; } 2>&1 | true");
    expect(readFileSync(join(directory, "code"), "utf8")).toBe("3\n");
    expect(shell("$sqlfuse cat v tree/z").stdout).toBe("z");
  });
});
