import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import {
  linkSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type Outcome, sqlfuse, sqlfuseOnTerminal } from "./run.ts";

let directory: string;
let file: string;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "rekey-"));
  file = join(directory, "v");
  // Raw keys: no derivation to wait for.
  for (const name of ["key", "other"]) writeFileSync(join(directory, name), randomBytes(32), { mode: 0o600 });
});
afterEach(() => {
  execFileSync("sh", ["-c", `umount -l ${directory}/m 2>/dev/null || true`]);
  rmSync(directory, { recursive: true, force: true });
});

function key(name: "key" | "other"): string {
  return join(directory, name);
}

function run(...args: string[]): Outcome {
  return sqlfuse(args, {});
}

function create(...options: string[]): void {
  expect(run("create", "--key-file", key("key"), ...options, file)).toMatchObject({ code: 0 });
}

function secret(name: string, text: string): string {
  const path = join(directory, name);
  writeFileSync(path, text, { mode: 0o600 });
  return path;
}

describe("rekey in a script", () => {
  test("changes the password, and says so in one line", () => {
    create();
    expect(run("rekey", "--key-file", key("key"), "--new-key-file", key("other"), file)).toEqual({
      code: 0,
      stdout: `${file}: encrypted anew; the new password opens it, the old one does not\n`,
      stderr: "",
    });
    expect(run("info", "--key-file", key("key"), file)).toMatchObject({ code: 12 });
    expect(run("info", "--key-file", key("other"), file)).toMatchObject({ code: 0 });
    expect(readdirSync(directory).sort()).toEqual(["key", "other", "v"]);
  });

  test("takes the new password from a file, a command, a descriptor and stdin", () => {
    create();
    const one = secret("one", "one\n");
    const two = secret("two", "two\n");
    expect(run("rekey", "--key-file", key("key"), "--new-password-file", one, file)).toMatchObject({
      code: 0,
    });
    expect(run("rekey", "--password-file", one, "--new-password-command", `cat ${two}`, file)).toMatchObject({
      code: 0,
    });
    const input = "three\n";
    expect(
      sqlfuse(["rekey", "--password-file", two, "--new-password-fd", "0", file], { input }),
    ).toMatchObject({ code: 0 });
    expect(
      sqlfuse(["rekey", "--password-file", "-", "--new-key-file", key("key"), file], { input }),
    ).toMatchObject({ code: 0 });
    expect(run("info", "--key-file", key("key"), file)).toMatchObject({ code: 0 });
  });

  test("under the same password says that it is the same", () => {
    create();
    const { code, stdout } = run("rekey", "--key-file", key("key"), "--new-key-file", key("key"), file);
    expect({ code, stdout }).toEqual({
      code: 0,
      stdout: `${file}: encrypted anew under a new key; the new password is the same as the old one\n`,
    });
  });

  test("the old password may be in the environment, the new one must be given", () => {
    create();
    const one = secret("one", "one");
    expect(run("rekey", "--key-file", key("key"), "--new-password-file", one, file)).toMatchObject({
      code: 0,
    });
    const { code, stderr } = sqlfuse(["rekey", file], { password: "one" });
    expect(code).toBe(22);
    expect(stderr).toBe(
      "sqlfuse: no new password and no terminal to ask on: give it by --new-password-file, " +
        "--new-password-command, --new-password-fd, --new-key-file\n",
    );
  });
});

describe("rekey and vacuum refuse, in one line", () => {
  function refuse(args: readonly string[], code: number, text: RegExp): void {
    const outcome = run(...args);
    expect([outcome.code, outcome.stdout, outcome.stderr]).toEqual([code, "", expect.stringMatching(text)]);
    expect(outcome.stderr).toMatch(/^sqlfuse: [^\n]*\n$/);
  }

  test("what is no volume, or not there", () => {
    const other = secret("plain", "x".repeat(4096));
    for (const verb of [["rekey", "--new-key-file", key("other")], ["vacuum"]]) {
      const args = [...verb, "--key-file", key("key")];
      refuse([...args, file], 10, /no such file; make a volume with/);
      refuse([...args, directory], 10, /not a regular file/);
      refuse([...args, other], 12, /wrong password \(or not a sqlfuse volume/);
    }
  });

  test("a wrong password, before a new one is looked for", () => {
    create();
    refuse(["rekey", "--key-file", key("other"), file], 12, /wrong password/);
    refuse(["vacuum", "--key-file", key("other"), file], 12, /wrong password/);
  });

  test.skipIf(process.geteuid?.() !== 0)("a file of somebody else, who would lose it", () => {
    create();
    execFileSync("chmod", ["777", directory]);
    execFileSync("chmod", ["666", file, key("key")]);
    const { code, stderr } = sqlfuse(["vacuum", "--key-file", key("key"), file], { unprivileged: true });
    expect(stderr).toMatch(/: belongs to user 0 and group 0, which this user cannot give to a new file; /);
    expect(code).toBe(10);
    expect(readdirSync(directory).sort()).toEqual(["key", "other", "v"]);
  });

  test("a hard link, a read-only file", () => {
    create();
    linkSync(file, join(directory, "second"));
    refuse(["vacuum", "--key-file", key("key"), file], 10, /has 2 names \(hard links\)/);
    rmSync(join(directory, "second"));
    execFileSync("chmod", ["400", file]);
    refuse(["vacuum", "--key-file", key("key"), file], 10, /is read-only; nothing was changed/);
  });

  test.each([
    [["--password-file", "-", "--new-password-file", "-"], /cannot both come from stdin/],
    [["--password-fd", "0", "--new-key-file", "-"], /cannot both come from stdin/],
    [["--new-password-file", "a", "--new-key-file", "b"], /--new-password-file and --new-key-file exclude/],
    [["--kdf", "weak"], /Allowed choices are standard, strong/],
  ])("%j", (options, text) => {
    create();
    const given = options.some((option) => option.startsWith("--pass")) ? [] : ["--key-file", key("key")];
    refuse(["rekey", ...given, ...options, file], 2, text);
  });

  test("a mounted volume: rekey at once, vacuum with what it would give back", () => {
    create();
    const mountpoint = join(directory, "m");
    execFileSync("mkdir", [mountpoint]);
    const log = join(directory, "log");
    expect(run("mount", "--key-file", key("key"), "--log-file", log, file, mountpoint)).toMatchObject({
      code: 0,
    });
    try {
      execFileSync("sh", [
        "-c",
        `head -c 3000000 /dev/urandom > ${mountpoint}/big; sync ${mountpoint}/big; rm ${mountpoint}/big`,
      ]);
      expect(run("sync", mountpoint)).toMatchObject({ code: 0 });
      const where = `mounted at ${mountpoint} by pid \\d+; unmount it first: sqlfuse unmount ${mountpoint}`;
      refuse(
        ["rekey", "--key-file", key("key"), "--new-key-file", key("other"), file],
        11,
        new RegExp(where),
      );
      refuse(["vacuum", file], 11, new RegExp(`${where}\n$`));
      const figures =
        "\\(vacuum would give back [2-3]\\.\\d MiB of 3\\.\\d MiB, used again for new files meanwhile\\)";
      // The purge of a removed file takes a moment.
      let outcome = run("vacuum", "--key-file", key("key"), file);
      for (let i = 0; i < 50 && !new RegExp(figures).test(outcome.stderr); i++) {
        run("sync", mountpoint);
        outcome = run("vacuum", "--key-file", key("key"), file);
      }
      expect(outcome.stderr).toMatch(new RegExp(`${where} ${figures}\n$`));
      expect(outcome.code).toBe(11);
    } finally {
      expect(run("unmount", mountpoint)).toMatchObject({ code: 0 });
    }
    const { code, stdout } = run("vacuum", "--key-file", key("key"), file);
    expect(code).toBe(0);
    expect(stdout).toMatch(/: 3\.\d MiB before, \d+\.\d KiB after, [2-3]\.\d MiB given back\n$/);
  });
});

test("vacuum through a symlink keeps the link, and says when there is nothing to give back", () => {
  create();
  const link = join(directory, "link");
  symlinkSync("v", link);
  expect(run("vacuum", "--key-file", key("key"), link).stdout).toMatch(
    /link: \d+\.\d KiB before, \d+\.\d KiB after, /,
  );
  const again = run("vacuum", "--key-file", key("key"), link);
  expect(again.stdout).toMatch(/link: (\S+ KiB) before, \1 after, nothing to give back\n$/);
});

describe("on a terminal", () => {
  test("the old password is asked for once and the new one twice; nothing is shown of them", async () => {
    create();
    const one = secret("one", "battery");
    expect(run("rekey", "--key-file", key("key"), "--new-password-file", one, file)).toMatchObject({
      code: 0,
    });
    const { code, stdout } = await sqlfuseOnTerminal(
      ["rekey", file],
      [
        [`Password for ${file}:`, "battery\r"],
        [`New password for ${file}:`, "staple\r"],
        ["The same once more:", "stable\r"],
        [`New password for ${file}:`, "staple\r"],
        ["The same once more:", "staple\r"],
      ],
    );
    expect(stdout).toContain("sqlfuse: the two passwords differ");
    expect(stdout).toContain("encrypted anew; the new password opens it, the old one does not");
    expect(code).toBe(0);
    expect(stdout).not.toMatch(/battery|staple|stable/);
    expect(sqlfuse(["info", file], { password: "staple" })).toMatchObject({ code: 0 });
  });

  test("^C at the new password changes nothing", async () => {
    create();
    const before = readFileSync(file);
    const { code, stdout } = await sqlfuseOnTerminal(
      ["rekey", "--key-file", key("key"), file],
      [[`New password for ${file}:`, "\x03"]],
    );
    expect(code).toBe(130);
    expect(stdout).toContain("sqlfuse: interrupted");
    expect(readFileSync(file).equals(before)).toBe(true);
  });

  test("a bar shows how far it is, and is gone at the end; ^C in the middle leaves the file as it was", async () => {
    create();
    const mountpoint = join(directory, "m");
    execFileSync("mkdir", [mountpoint]);
    const log = join(directory, "log");
    expect(run("mount", "--key-file", key("key"), "--log-file", log, file, mountpoint)).toMatchObject({
      code: 0,
    });
    execFileSync("sh", ["-c", `head -c 100000000 /dev/urandom > ${mountpoint}/big`]);
    expect(run("unmount", mountpoint)).toMatchObject({ code: 0 });
    const args = ["rekey", "--key-file", key("key"), "--new-key-file", key("other"), file];
    const stopped = await sqlfuseOnTerminal(args, [["copying [##", "\x03"]]);
    expect(stopped.stdout).toContain(`sqlfuse: SIGINT: stopped; ${file} is as it was`);
    expect(stopped.code).toBe(130);
    expect(readdirSync(directory).sort()).toEqual(["key", "log", "m", "other", "v"]);
    expect(run("info", "--key-file", key("key"), file)).toMatchObject({ code: 0 });
    const done = await sqlfuseOnTerminal(args, []);
    expect(done.stdout).toMatch(/copying \[#+-*\] +\d+ % {2}[\d.]+ MiB of [\d.]+ MiB/);
    expect(done.stdout).toMatch(/checking \[/);
    expect(done.stdout).toMatch(new RegExp(`\r\x1b\\[K${file}: encrypted anew`));
    expect(done.code).toBe(0);
  });
});
