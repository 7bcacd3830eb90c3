/** `dump` and `load` as a person or a script runs them. */
import { spawn, spawnSync } from "node:child_process";
import {
  closeSync,
  copyFileSync,
  existsSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { unlock } from "../../src/core/unlock.ts";
import { Volume } from "../../src/core/volume.ts";
import { check } from "../../src/fsck/check.ts";
import { EXIT } from "../../tools/exitcodes.ts";
import { fillRich } from "../archive/rich.ts";
import { b, noise, put, ROOT } from "../core/fixture.ts";
import { CLI, fingerprint, PASSWORD, sqlfuse, sqlfuseOnTerminal } from "./run.ts";

let directory: string;
/** With everything. */
let rich: string;
/** With one directory of two files. */
let small: string;

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "dump-"));
  rich = join(directory, "rich.sqlite");
  small = join(directory, "small.sqlite");
  fill(rich, (volume) => fillRich(volume, { portable: false }));
  fill(small, (volume) => {
    const letters = volume.tree.mkdir(ROOT, b("letters"), 0o755, { uid: 1, gid: 2, umask: 0 }).ino;
    put(volume, letters, "a", "dear");
    put(volume, ROOT, "b", "other");
  });
});

afterAll(() => rmSync(directory, { recursive: true, force: true }));

function fill(path: string, change: (volume: Volume) => void): void {
  const password = Buffer.from(PASSWORD);
  if (!existsSync(path)) Volume.create(path, password);
  const key = unlock(path, password);
  const volume = Volume.open(path, key);
  change(volume);
  volume.close();
  key.wipe();
}

function findings(path: string): unknown {
  const key = unlock(path, Buffer.from(PASSWORD));
  try {
    return check(path, key);
  } finally {
    key.wipe();
  }
}

/** Runs a line of shell in the directory; $S is the command. */
function shell(line: string): { code: number | null; stdout: string; stderr: string } {
  const done = spawnSync("bash", ["-c", line], {
    cwd: directory,
    encoding: "utf8",
    env: { ...process.env, SQLFUSE_PASSWORD: PASSWORD, S: `${process.execPath} ${CLI}` },
    maxBuffer: 1 << 28,
  });
  return { code: done.status, stdout: done.stdout, stderr: done.stderr };
}

function inDirectory(name: string): string {
  return join(directory, name);
}

describe("dump and load", () => {
  test("dump, load, dump gives the same bytes, through files and through pipes", () => {
    const before = fingerprint(rich);
    expect(sqlfuse(["dump", rich, "-o", inDirectory("one")])).toEqual({ code: 0, stdout: "", stderr: "" });
    expect(statSync(inDirectory("one")).mode & 0o777).toBe(0o600);
    expect(sqlfuse(["load", inDirectory("loaded"), inDirectory("one")])).toEqual({
      code: 0,
      stdout: `${inDirectory("loaded")}: made; mount it with: sqlfuse mount ${inDirectory("loaded")}\n`,
      stderr: "",
    });
    expect(statSync(inDirectory("loaded")).mode & 0o777).toBe(0o600);
    expect(findings(inDirectory("loaded"))).toEqual([]);
    expect(shell("$S dump loaded | cmp - one")).toMatchObject({ code: 0, stdout: "" });
    expect(
      shell("set -o pipefail; $S dump rich.sqlite | $S load piped - && $S dump piped | cmp - one").code,
    ).toBe(0);
    expect(shell("gzip -c one | $S load zipped && $S dump zipped | cmp - one").code).toBe(0);
    expect(fingerprint(rich)).toBe(before);
  });

  test("through tar: sockets are named and left out, which ends with 3", () => {
    const made = sqlfuse(["dump", "--tar", rich, "-o", inDirectory("a.tar")]);
    expect(made).toEqual({
      code: 3,
      stdout: "",
      stderr: "sqlfuse: /special/socket: a socket cannot be in a tar archive\n",
    });
    writeFileSync(inDirectory("a.tar.gz"), gzipSync(readFileSync(inDirectory("a.tar"))));
    for (const name of ["a.tar", "a.tar.gz"]) {
      expect(sqlfuse(["load", inDirectory(`from-${name}`), inDirectory(name)])).toMatchObject({
        code: 0,
        stderr: "",
      });
      expect(findings(inDirectory(`from-${name}`))).toEqual([]);
    }
    const listed = shell(
      "$S ls -R --json from-a.tar | grep -c path; $S ls -R --json rich.sqlite | grep -c path",
    );
    const [fromTar = "", all = ""] = listed.stdout.split("\n");
    expect(Number(fromTar)).toBe(Number(all) - 1);
  });

  test("--path is a subtree, --no-data has no contents", () => {
    const { code, stdout } = sqlfuse(["dump", "--no-data", "--path", "letters", small]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/inode path=\/ type=dir mode=0755[^\n]*\ninode path=\/a type=file/);
    expect(stdout).not.toMatch(/path=\/b|^ /m);
    expect(shell("$S dump --tar --path /letters/ small.sqlite | tar t").stdout).toBe("./\n./a\n");
  });

  test("--sql loads into sqlite3, all tables", (context) => {
    const version = spawnSync("sqlite3", ["--version"], { encoding: "utf8" }).stdout ?? "";
    if (!/^3\.(3[7-9]|[4-9]\d)/.test(version)) context.skip("there is no sqlite3 of 3.37 or newer");
    const count =
      "SELECT (SELECT count(*) FROM inode), (SELECT count(*) FROM dirent), (SELECT sum(length(data)) FROM block)";
    const done = shell(
      `set -o pipefail; $S dump --sql rich.sqlite | sqlite3 plain && sqlite3 plain "PRAGMA integrity_check; ${count}; PRAGMA application_id"`,
    );
    expect(done.stderr).toBe("");
    expect(done.stdout).toMatch(/^ok\n\d{3}\|\d{3}\|\d{6,}\n1397836870\n$/);
    const again = shell(
      "$S dump --sql rich.sqlite | sha256sum; $S dump --sql rich.sqlite | sha256sum",
    ).stdout;
    expect(new Set(again.trim().split("\n")).size).toBe(1);
  });

  test("a reader that stops early ends it as SIGPIPE would, silently", () => {
    const done = shell("set -o pipefail; $S dump rich.sqlite | head -c 10");
    expect(done).toEqual({ code: 141, stdout: "sqlfuse-du", stderr: "" });
  });
});

describe("refusals", () => {
  test.each([
    [["dump", "--tar", "--sql", "x"], 2, "--tar and --sql exclude each other"],
    [["dump", "--tar", "--no-data", "x"], 2, "--no-data and --tar exclude each other"],
    [["dump", "--sql", "--path", "/", "x"], 2, "--path and --sql exclude each other"],
    [["dump", "nothing"], 10, "nothing: no such file"],
    [["dump", "small.sqlite", "-o", "small.sqlite"], 10, "small.sqlite: exists already, and stays as it is"],
    [["dump", "small.sqlite", "-o", "."], 10, "exists already"],
    [["dump", "small.sqlite", "-o", "no/where"], 10, "no/where: cannot be written (ENOENT)"],
    [["dump", "--path", "b", "small.sqlite"], 10, "b: not a directory"],
    [["dump", "--path", "c", "small.sqlite"], 10, "c: no such directory in the volume"],
    [["dump", "--path", "../..", "small.sqlite"], 10, "the path leads out of the volume"],
    [["load", "small.sqlite", "x"], 10, "small.sqlite: exists already"],
    [["load", "new", "nothing"], 10, "nothing: no such file"],
    [["load", "new", "."], 10, ".: a directory; make a volume and use sqlfuse put"],
    [["load", "new", "small.sqlite"], 10, "small.sqlite: neither a dump nor a tar archive"],
    [["load", "new", "/dev/null"], 10, "/dev/null: empty"],
    [["load", "new"], 10, "stdin: empty"],
    [["load", "--password-file", "-", "new"], 2, "the password and the dump cannot both come from stdin"],
    [["load", "--block-size", "5", "new", "x"], 2, "--block-size 5: not a multiple of 128"],
  ])("%j ends with %i", (args, code, message) => {
    const before = readdirSync(directory);
    const done = sqlfuse(args, { password: PASSWORD, cwd: directory });
    expect(done.code).toBe(code);
    expect(done.stderr).toContain(message);
    expect(done.stderr.trimEnd().split("\n").length).toBe(1);
    expect(done.stdout).toBe("");
    expect(readdirSync(directory)).toEqual(before);
  });

  test("a wrong password ends with 12", () => {
    expect(sqlfuse(["dump", small], { password: "wrong" })).toMatchObject({ code: 12, stdout: "" });
  });

  test.each([
    ["cut off", "head -c 2000 | ", "it ends in the middle of a line; nothing was made"],
    ["changed", "sed 's/letters /lettres /' | ", "was not there before; nothing was made"],
    ["of hashes", "cat >/dev/null; $S dump --no-data small.sqlite | ", "made with --no-data"],
    ["of SQL", "cat >/dev/null; $S dump --sql small.sqlite | ", "SQL, which sqlite3 reads"],
    [
      "cut off, zipped",
      "gzip | head -c 300 | ",
      "its gzip stream is damaged or was cut off; nothing was made",
    ],
    [
      "compressed by zstd",
      "(printf '\\x28\\xb5\\x2f\\xfdxxxx') | ",
      "compressed by zstd; give it decompressed",
    ],
  ])("a dump %s makes nothing", (_, change, message) => {
    const before = readdirSync(directory);
    const source = change.startsWith("(")
      ? change
      : `$S dump small.sqlite | ${change.replace("2000", "700")}`;
    const done = shell(`${source} $S load new`);
    expect(done.stderr).toContain(message);
    expect(done.code).toBe(10);
    expect(readdirSync(directory)).toEqual(before);
  });

  test("an archive is not for a terminal, and a dump is not typed", async () => {
    expect(await sqlfuseOnTerminal(["dump", "--tar", small], [])).toMatchObject({ code: 2 });
    expect(await sqlfuseOnTerminal(["load", inDirectory("new")], [])).toMatchObject({ code: 2 });
  });

  test("damage stops a dump with its own code, and get takes out what is whole", () => {
    const broken = inDirectory("broken.sqlite");
    copyFileSync(small, broken);
    fill(broken, (volume) => put(volume, ROOT, "large", noise(2_000_000)));
    const fd = openSync(broken, "r+");
    writeSync(fd, Buffer.from("damage"), 0, 6, Math.floor(statSync(broken).size / 2));
    closeSync(fd);
    for (const flags of [[], ["--tar"], ["--sql"], ["--no-data"]]) {
      const done = sqlfuse(["dump", ...flags, broken, "-o", inDirectory("no")]);
      expect(done.code, flags.join()).toBe(EXIT.damaged);
      expect(done.stderr).toContain("sqlfuse get takes out what is whole");
      expect(existsSync(inDirectory("no"))).toBe(false);
    }
    const done = sqlfuse(["get", broken, "/", inDirectory("saved")]);
    expect(done.code).toBe(3);
    expect(done.stderr).toContain("/large: ");
    expect(readFileSync(inDirectory("saved/letters/a"), "utf8")).toBe("dear");
    expect(readdirSync(inDirectory("saved")).sort()).toEqual(["b", "letters"]);
    rmSync(inDirectory("saved"), { recursive: true });
    rmSync(broken);
  });
});

describe("signals", () => {
  test("SIGINT while a load waits for its input ends with 130 and leaves nothing", async () => {
    const before = readdirSync(directory);
    const load = spawn(process.execPath, [CLI, "load", "interrupted"], {
      cwd: directory,
      env: { ...process.env, SQLFUSE_PASSWORD: PASSWORD },
      stdio: ["pipe", "ignore", "pipe"],
    });
    let stderr = "";
    load.stderr.setEncoding("utf8").on("data", (text: string) => {
      stderr += text;
    });
    load.stdin.on("error", () => {});
    load.stdin.write(readFileSync(inDirectory("one")).subarray(0, 100_000));
    // Its draft shows that it is at work.
    for (let i = 0; i < 300 && readdirSync(directory).length <= before.length; i++) {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    await new Promise((resolve) => setTimeout(resolve, 200));
    load.kill("SIGINT");
    const code = await new Promise((resolve) => load.on("close", resolve));
    expect({ code, stderr }).toEqual({
      code: 130,
      stderr: "sqlfuse: SIGINT: stopped; interrupted was not made\n",
    });
    expect(readdirSync(directory)).toEqual(before);
  });

  test("SIGTERM while a dump waits for its reader leaves no file", async () => {
    const fifo = inDirectory("fifo");
    spawnSync("mkfifo", [fifo]);
    const before = readdirSync(directory);
    const dump = spawn(process.execPath, [CLI, "dump", rich, "-o", inDirectory("never")], {
      env: { ...process.env, SQLFUSE_PASSWORD: PASSWORD },
      stdio: "ignore",
    });
    for (let i = 0; i < 300 && readdirSync(directory).length <= before.length; i++) {
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    dump.kill("SIGTERM");
    const code = await new Promise((resolve) => dump.on("close", resolve));
    // It may have been faster.
    expect([143, 0]).toContain(code);
    if (code === 143) expect(readdirSync(directory)).toEqual(before);
    rmSync(inDirectory("never"), { force: true });
  });
});
