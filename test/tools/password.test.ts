import { execFileSync } from "node:child_process";
import { chmodSync, closeSync, mkdtempSync, openSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { ToolError } from "../../tools/exitcodes.ts";
import { PASSWORD_VARIABLE, type PasswordOptions, readPassword } from "../../tools/password.ts";

let directory: string;
let warnings: string[];

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "password-"));
  warnings = [];
});
afterEach(() => {
  delete process.env[PASSWORD_VARIABLE];
  rmSync(directory, { recursive: true });
});

async function read(options: PasswordOptions): Promise<string> {
  const request = { path: "v", confirm: false, warn: (line: string) => void warnings.push(line) };
  return (await readPassword(options, request)).toString("latin1");
}

async function refusal(options: PasswordOptions): Promise<ToolError> {
  const error = await read(options).then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  if (error instanceof ToolError) return error;
  throw new Error(`no refusal but ${String(error)}`);
}

function file(contents: string | Buffer, mode = 0o600): string {
  const path = join(directory, "p");
  writeFileSync(path, contents);
  chmodSync(path, mode);
  return path;
}

describe("a password file", () => {
  test.each([
    ["plain", "secret", "secret"],
    ["one newline, as editors write it", "secret\n", "secret"],
    ["a carriage return and newline", "secret\r\n", "secret"],
    ["two newlines: one is the password's own", "secret\n\n", "secret\n"],
    ["spaces stay", "  a b ", "  a b "],
    ["any bytes", "\u00ff\u0000\u0001", "\u00ff\u0000\u0001"],
    ["a lone carriage return", "secret\r", "secret\r"],
  ])("%s", async (_, contents, expected) => {
    expect(await read({ passwordFile: file(Buffer.from(contents, "latin1")) })).toBe(expected);
  });

  test.each(["", "\n", "\r\n"])("an empty one is refused with 22: %j", async (contents) => {
    const error = await refusal({ passwordFile: file(contents) });
    expect(error.code).toBe(22);
    expect(error.message).toMatch(/is empty/);
  });

  test("65,536 bytes are read, more are refused with 22", async () => {
    expect(await read({ passwordFile: file("x".repeat(65_536)) })).toHaveLength(65_536);
    expect((await refusal({ passwordFile: file("x".repeat(65_537)) })).code).toBe(22);
    expect((await refusal({ passwordFile: "/dev/zero" })).code).toBe(22);
  });

  test("one that is missing, or a directory, is refused with 22 and named", async () => {
    for (const path of [join(directory, "nope"), directory]) {
      const error = await refusal({ passwordFile: path });
      expect(error.code).toBe(22);
      const why = path === directory ? "illegal operation on a directory" : "no such file or directory";
      expect(error.message).toBe(`cannot read the password from ${path}: ${why}`);
    }
  });

  test("one that others may read draws a warning, a private one does not", async () => {
    await read({ passwordFile: file("x", 0o640) });
    expect(warnings).toEqual([
      `password file ${join(directory, "p")} is open to other users (mode 0640): chmod 600 ${join(directory, "p")}`,
    ]);
    warnings = [];
    await read({ passwordFile: file("x", 0o600) });
    expect(warnings).toEqual([]);
  });

  test("a symlink is followed, and a pipe is read without a warning", async () => {
    symlinkSync(file("secret"), join(directory, "link"));
    expect(await read({ passwordFile: join(directory, "link") })).toBe("secret");
    const pipe = join(directory, "pipe");
    execFileSync("mkfifo", ["-m", "666", pipe]);
    execFileSync("sh", ["-c", `(printf piped > '${pipe}') >/dev/null 2>&1 &`]);
    expect(await read({ passwordFile: pipe })).toBe("piped");
    expect(warnings).toEqual([]);
  });
});

describe("a password command", () => {
  test("what it prints is the password, without one newline", async () => {
    expect(await read({ passwordCommand: "echo 'a  b'" })).toBe("a  b");
  });

  test("is run by the shell, and does not get the password variable", async () => {
    process.env[PASSWORD_VARIABLE] = "leak";
    expect(await read({ passwordCommand: `echo x; echo "<$${PASSWORD_VARIABLE}>" | tr -d '\\n'` })).toBe(
      "x\n<>",
    );
  });

  test.each([
    ["exit 3", /exited with 3/],
    ["echo secret; exit 1", /exited with 1/],
    ["kill -9 $$", /SIGKILL/],
    ["true", /is empty/],
    ["no-such-command-here", /exited with 127/],
    ["yes", /./],
  ])("%s is refused with 22", async (command, message) => {
    const error = await refusal({ passwordCommand: `${command} 2>/dev/null` });
    expect(error.code).toBe(22);
    expect(error.message).toMatch(message);
    expect(error.message).not.toContain("secret\n");
  });
});

describe("a password descriptor", () => {
  test("is read to its end", async () => {
    const fd = openSync(file("secret\n"), "r");
    expect(await read({ passwordFd: String(fd) })).toBe("secret");
    closeSync(fd);
  });

  test("one that is not open is refused with 22, one that is no number with 2", async () => {
    expect((await refusal({ passwordFd: "987" })).code).toBe(22);
    for (const text of ["x", "-1", "1.5", ""]) expect((await refusal({ passwordFd: text })).code).toBe(2);
  });
});

describe("a key file", () => {
  const raw = Buffer.from(Array.from({ length: 32 }, (_, i) => 7 * i + 1));

  test("of 32 bytes is the key itself, in SQLCipher's form", async () => {
    expect(await read({ keyFile: file(raw) })).toBe(`x'${raw.toString("hex")}'`);
  });

  test.each([
    ["31 bytes", raw.subarray(1)],
    ["33 bytes", Buffer.concat([raw, Buffer.of(0)])],
    ["32 bytes of text, which is a passphrase", Buffer.from("0123456789abcdef0123456789abcdef")],
    ["31 bytes of text and a newline", Buffer.from("0123456789abcdef0123456789abcde\n")],
    ["hexadecimal digits", Buffer.from(`${raw.toString("hex")}\n`)],
  ])("of anything else is a password, every byte of it: %s", async (_, bytes) => {
    expect(await read({ keyFile: file(bytes) })).toBe(bytes.toString("latin1"));
  });

  test("an empty one is refused with 22, and one that others may read draws a warning", async () => {
    expect((await refusal({ keyFile: file("") })).code).toBe(22);
    await read({ keyFile: file(raw, 0o644) });
    expect(warnings[0]).toMatch(/^key file .* is open to other users \(mode 0644\): chmod 600/);
  });
});

describe("the sources together", () => {
  test("an option goes before the environment", async () => {
    process.env[PASSWORD_VARIABLE] = "environment";
    expect(await read({})).toBe("environment");
    expect(await read({ passwordFile: file("option") })).toBe("option");
  });

  test("an empty variable is refused with 22", async () => {
    process.env[PASSWORD_VARIABLE] = "";
    expect((await refusal({})).code).toBe(22);
  });

  test("two options are a usage error that names both", async () => {
    const error = await refusal({ passwordFile: file("x"), passwordCommand: "echo x" });
    expect(error.code).toBe(2);
    expect(error.message).toContain("--password-file and --password-command");
    const keys = await refusal({ passwordFd: "0", keyFile: "x" });
    expect(keys.message).toContain("--password-fd and --key-file exclude each other");
  });
});
