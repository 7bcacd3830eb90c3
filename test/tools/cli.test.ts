import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { CLI, PASSWORD, sqlfuse, sqlfuseOnTerminal } from "./run.ts";

let directory: string;
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "cli-"));
});
afterAll(() => rmSync(directory, { recursive: true }));

describe("usage", () => {
  test("nothing to do shows the usage on stderr and ends with 2", () => {
    const { code, stdout, stderr } = sqlfuse([]);
    expect(code).toBe(2);
    expect(stdout).toBe("");
    expect(stderr).toMatch(/^Usage: sqlfuse COMMAND/);
  });

  test.each([
    [["--help"], /Exit codes:[\s\S]*128\+N/],
    [["help"], /Commands:/],
    [["help", "umount"], /--lazy/],
    [["create", "--help"], /--root-mode/],
    [["mount", "--help"], /Mount options/],
    [["unmount", "-h"], /--lazy/],
    [["umount", "-h"], /--lazy/],
    [["sync", "-h"], /on disk when this\s+returns/],
    [["status", "-h"], /--json/],
  ])("%j shows help on stdout and ends with 0", (args, text) => {
    const { code, stdout, stderr } = sqlfuse(args);
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(stdout).toMatch(text);
  });

  test("--version names sqlfuse, SQLCipher, SQLite and Node", () => {
    const { code, stdout } = sqlfuse(["--version"]);
    expect(code).toBe(0);
    expect(stdout).toMatch(
      /^sqlfuse \d+\.\d+\.\d+ \(SQLCipher 4\.\d+\.\d+.*, SQLite 3\.\d+\.\d+, Node \d+\.\d+\.\d+\)\n$/,
    );
  });

  test.each([
    [["create"], /missing required argument 'file'; see: sqlfuse create --help/],
    [["create", "a", "b"], /too many arguments/],
    [["mount"], /missing required argument/],
    [["mount", "--nope", "x"], /unknown option '--nope'/],
    [["--nope", "x"], /unknown option '--nope'/],
    [["status", "--jsn"], /unknown option '--jsn' \(Did you mean --json\?\); see: sqlfuse status --help/],
    [["unmount"], /missing required argument/],
    [["help", "moutn"], /: moutn: no such command \(Did you mean mount\?\); see: sqlfuse --help/],
    [["help", "frobnicate"], /: frobnicate: no such command; see: sqlfuse --help/],
    [["mount", "package.json", "-o", "foo"], /-o foo: unknown mount option/],
    [["package.json", "/mnt", "-o", "remount,ro"], /cannot be remounted/],
    [["mount", "package.json", "--commit", "never"], /from 0.01 to 3600/],
    [["mount", "package.json", "--cache-size", "all"], /cache size "all": .*from 1M to 64G/],
    [
      ["create", "x", "--block-size", "1000"],
      /--block-size 1000: not a multiple of 128 from 4096 to 1048576/,
    ],
    [["create", "x", "--page-size", "128K"], /not a power of two from 4096 to 65536/],
    [["create", "x", "--page-size", "4096", "--compat"], /exclude each other/],
    [["create", "x", "--root-mode", "rwx"], /--root-mode rwx: not an octal mode/],
    [["create", "x", "--root-mode", "17777"], /not an octal mode/],
    [["get", "package.json", "a", "-"], /to stdout there is sqlfuse cat/],
    [["create", ""], /: "": a file needs a name/],
    [["mount", "package.json", "--child"], /--child is for sqlfuse itself/],
  ])("%j is refused on one line with 2", (args, text) => {
    const { code, stdout, stderr } = sqlfuse(args);
    expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
    expect(stderr).toMatch(text);
    expect(stderr).toMatch(/^sqlfuse: .*\n$/);
    expect(existsSync("x")).toBe(false);
  });

  test("a word that is neither command nor file says both", () => {
    const { code, stderr } = sqlfuse(["frobnicate"]);
    expect(code).toBe(10);
    expect(stderr).toBe(
      "sqlfuse: frobnicate: no such file, and no command; make a volume with: sqlfuse create frobnicate\n",
    );
  });

  test.each([
    ["moutn", "mount"],
    ["umonut", "umount"],
    ["vacum", "vacuum"],
    ["hlep", "help"],
  ])("a slip of the fingers (%s) is told what was meant", (word, meant) => {
    const { code, stdout, stderr } = sqlfuse([word, "v", "d"]);
    expect({ code, stdout }).toEqual({ code: 10, stdout: "" });
    const what = `${word}: no such file, and no command (Did you mean ${meant}?); see: sqlfuse --help`;
    expect(stderr).toBe(`sqlfuse: ${what}\n`);
  });

  test("a file that is called nearly as a command is mounted as any other", () => {
    writeFileSync(join(directory, "moun"), "not a volume");
    const { stderr } = sqlfuse(["moun"], { cwd: directory, password: PASSWORD });
    expect(stderr).not.toContain("Did you mean");
    expect(stderr).toMatch(/^sqlfuse: .*moun: /);
    rmSync(join(directory, "moun"));
  });

  test("a reader that stops early is no error", () => {
    const { stdout, stderr } = spawnSync(
      "sh",
      ["-c", `'${process.execPath}' '${CLI}' mount --help | head -n 1; true`],
      {
        encoding: "utf8",
      },
    );
    expect(stdout).toMatch(/^Usage/);
    expect(stderr).toBe("");
  });

  test("no dead end: status of nothing, unmount and sync of something that is not mounted", () => {
    expect(sqlfuse(["status", "/etc"]).code).toBe(10);
    for (const verb of ["unmount", "sync"]) {
      const { code, stderr } = sqlfuse([verb, directory]);
      expect(code).toBe(10);
      expect(stderr).toMatch(
        /^sqlfuse: .*: neither the mount point nor the file of a mounted volume; see: sqlfuse status\n$/,
      );
    }
  });
});

describe("create", () => {
  test("makes one private file, and says how to mount it", () => {
    const file = join(directory, "new.sqlite");
    const { code, stdout, stderr } = sqlfuse(["create", file]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(stdout).toBe(`${file}: made; mount it with: sqlfuse mount ${file}\n`);
    expect(statSync(file).mode & 0o7777).toBe(0o600);
    expect(readdirSync(directory).filter((name) => name.startsWith("new"))).toEqual(["new.sqlite"]);
    expect(readFileSync(file).subarray(0, 16).toString("latin1")).not.toMatch(/SQLite/);
  });

  test("a name that begins as an option does is told so that it can be copied", () => {
    const { stdout } = sqlfuse(["create", "--", "-new"], { password: PASSWORD, cwd: directory });
    expect(stdout).toBe("-new: made; mount it with: sqlfuse mount ./-new\n");
  });

  // The kernel has bytes, Node what they decode to: that would be another file.
  test.skipIf(process.platform !== "linux")("a name that is not UTF-8 is refused, not changed", () => {
    const line = `'${process.execPath}' '${CLI}' create "$(printf 'caf\\351')"`;
    const { status, stderr } = spawnSync("sh", ["-c", line], { cwd: directory, encoding: "utf8" });
    expect(status).toBe(2);
    expect(stderr).toMatch(/^sqlfuse: caf\ufffd: a name that is not UTF-8 cannot be given here; .*\n$/);
    expect(readdirSync(directory).filter((name) => name.startsWith("caf"))).toEqual([]);
    expect(sqlfuse(["create", "caf\ufffd"], { password: PASSWORD, cwd: directory }).code).toBe(0);
  });

  test("never touches a file that is there", () => {
    const file = join(directory, "there");
    writeFileSync(file, "mine");
    const { code, stderr } = sqlfuse(["create", file]);
    expect(code).toBe(10);
    expect(stderr).toBe(
      `sqlfuse: ${file}: exists already, and stays as it is; give the name of a new file\n`,
    );
    expect(readFileSync(file, "utf8")).toBe("mine");
  });

  test.each([
    ["nope/new", /nope: no such directory; make it first/],
    ["there/new", /there: not a directory/],
  ])("in %s is refused with 10", (name, text) => {
    writeFileSync(join(directory, "there"), "mine");
    const { code, stderr } = sqlfuse(["create", join(directory, name)]);
    expect(code).toBe(10);
    expect(stderr).toMatch(text);
  });

  test.each([
    [["--password-file", "/nope"], 22],
    [["--password-command", "false"], 22],
    [["--password-fd", "77"], 22],
    [["--password-file", "/dev/null"], 22],
    [[], 22],
  ])("without a password (%j) makes nothing and ends with %i", (args, expected) => {
    const file = join(directory, "none");
    const { code, stderr } = sqlfuse(["create", ...args, file], {});
    expect(code).toBe(expected);
    expect(stderr).toMatch(/^sqlfuse: .*\n$/);
    expect(existsSync(file)).toBe(false);
  });

  test("a password never appears in the arguments of any process", () => {
    // The options that would take one do not exist.
    for (const option of ["--password", "-p"]) expect(sqlfuse(["create", option, "x", "y"]).code).toBe(2);
  });

  test("reads the password from stdin and from a descriptor", () => {
    for (const args of [
      ["--password-file", "-"],
      ["--password-fd", "0"],
    ]) {
      const file = join(directory, `from${args[0]}`);
      expect(sqlfuse(["create", ...args, file], { input: `${PASSWORD}\n` }).code).toBe(0);
    }
  });
});

describe("the prompt", () => {
  test("asks twice at create, on stderr, and shows nothing of what is typed", async () => {
    const file = join(directory, "typed.sqlite");
    const { code, stdout } = await sqlfuseOnTerminal(
      ["create", file],
      [
        ["Password for", "s3cret\r"],
        ["once more", "s3cret\r"],
      ],
    );
    expect(code).toBe(0);
    expect(stdout).not.toContain("s3cret");
    expect(stdout).toContain("made; mount it with");
    expect(existsSync(file)).toBe(true);
  });

  test("asks again when the two differ, three times in all, then ends with 22 and makes nothing", async () => {
    const file = join(directory, "differ.sqlite");
    const pair = [
      ["Password for", "one\r"],
      ["once more", "two\r"],
    ] as const;
    const { code, stdout } = await sqlfuseOnTerminal(["create", file], [...pair, ...pair, ...pair]);
    expect(code).toBe(22);
    expect(stdout.match(/the two passwords differ/g)?.length).toBe(4);
    expect(existsSync(file)).toBe(false);
  });

  test("an empty answer ends with 22", async () => {
    const file = join(directory, "empty.sqlite");
    const { code, stdout } = await sqlfuseOnTerminal(["create", file], [["Password for", "\r"]]);
    expect(code).toBe(22);
    expect(stdout).toContain("the password is empty");
    expect(existsSync(file)).toBe(false);
  });

  test("^C ends with 130, on one line, and makes nothing", async () => {
    const file = join(directory, "interrupted.sqlite");
    const { code, stdout } = await sqlfuseOnTerminal(["create", file], [["Password for", "abc\u0003"]]);
    expect(code).toBe(130);
    expect(stdout).toContain("sqlfuse: interrupted");
    expect(stdout).not.toContain(" at ");
    expect(existsSync(file)).toBe(false);
  });
});
