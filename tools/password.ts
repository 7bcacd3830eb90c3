/**
 * Where a password comes from: a file, a command, a file descriptor, the environment, or a prompt on the
 * terminal; never the argument list, which every user of the machine can read in ps. A password is a Buffer that
 * its user zeroes; what the prompt and the environment give is a string first, and strings cannot be zeroed.
 */
import { spawnSync } from "node:child_process";
import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { isatty } from "node:tty";
import type { Command } from "commander";
import { EXIT, ToolError } from "./exitcodes.ts";

export interface PasswordOptions {
  readonly passwordFile?: string;
  readonly passwordCommand?: string;
  readonly passwordFd?: string;
}

interface Request {
  /** Shown by the prompt: the volume that the password is for. */
  readonly path: string;
  /** Ask twice, as nobody can mend a mistyped password of a new volume. */
  readonly confirm: boolean;
  readonly warn: (line: string) => void;
}

export const PASSWORD_VARIABLE = "SQLFUSE_PASSWORD";
/** More than any password: a source that gives more is a mistake, such as the wrong file. */
const PASSWORD_MAX = 65_536;
const ATTEMPTS = 3;
const HOW = `give it by --password-file, --password-command, --password-fd or ${PASSWORD_VARIABLE}`;

export function addPasswordOptions(command: Command): Command {
  return command
    .option(
      "--password-file <file>",
      "read the password from FILE (- is stdin); one newline at its end is cut",
    )
    .option("--password-command <command>", "run COMMAND by /bin/sh; what it prints is the password")
    .option("--password-fd <n>", "read the password from the open file descriptor N");
}

export async function readPassword(options: PasswordOptions, request: Request): Promise<Buffer> {
  const given = [
    options.passwordFile === undefined ? undefined : "--password-file",
    options.passwordCommand === undefined ? undefined : "--password-command",
    options.passwordFd === undefined ? undefined : "--password-fd",
  ].filter((name) => name !== undefined);
  if (given.length > 1)
    throw new ToolError(EXIT.usage, `${given.join(" and ")} exclude each other: give one`);

  if (options.passwordFile !== undefined) return fromFile(options.passwordFile, request.warn);
  if (options.passwordCommand !== undefined) return fromCommand(options.passwordCommand);
  if (options.passwordFd !== undefined) return fromDescriptor(options.passwordFd);
  const variable = process.env[PASSWORD_VARIABLE];
  if (variable !== undefined) return notEmpty(Buffer.from(variable), PASSWORD_VARIABLE);
  return fromPrompt(request);
}

function unreadable(source: string, error: unknown): ToolError {
  const text = error instanceof Error ? error.message : String(error);
  return new ToolError(EXIT.noPassword, `cannot read the password from ${source}: ${text}`);
}

function notEmpty(password: Buffer, source: string): Buffer {
  if (password.length > 0) return password;
  throw new ToolError(EXIT.noPassword, `the password from ${source} is empty: a volume needs one`);
}

/** Cuts one newline, which editors and `echo` add, and moves nothing else; the caller's buffer is zeroed. */
function cutNewline(buffer: Buffer, length: number, source: string): Buffer {
  let end = length;
  if (end > 0 && buffer[end - 1] === 0x0a) end--;
  if (end > 0 && end < length && buffer[end - 1] === 0x0d) end--;
  const password = Buffer.alloc(end);
  buffer.copy(password, 0, 0, end);
  buffer.fill(0);
  return notEmpty(password, source);
}

function readDescriptor(fd: number, source: string): Buffer {
  // One byte more than allowed, so that "too long" can be told from "exactly as long".
  const buffer = Buffer.alloc(PASSWORD_MAX + 1);
  let length = 0;
  try {
    for (;;) {
      const count = readSome(fd, buffer, length);
      length += count;
      if (count === 0 || length === buffer.length) break;
    }
  } catch (error) {
    buffer.fill(0);
    throw unreadable(source, error);
  }
  if (length > PASSWORD_MAX) {
    buffer.fill(0);
    throw new ToolError(EXIT.noPassword, `the password from ${source} is longer than ${PASSWORD_MAX} bytes`);
  }
  return cutNewline(buffer, length, source);
}

function readSome(fd: number, buffer: Buffer, offset: number): number {
  for (;;) {
    try {
      return readSync(fd, buffer, offset, buffer.length - offset, null);
    } catch (error) {
      // A descriptor that somebody else set non-blocking: wait for it as a blocking one would.
      if (!(error instanceof Error && "code" in error && error.code === "EAGAIN")) throw error;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 10);
    }
  }
}

function fromFile(file: string, warn: (line: string) => void): Buffer {
  if (file === "-") return readDescriptor(0, "stdin");
  let fd: number;
  try {
    fd = openSync(file, "r");
  } catch (error) {
    throw unreadable(file, error);
  }
  try {
    const stat = fstatSync(fd);
    // Pipes such as <(pass show vault) are nobody's business but the shell's.
    if (stat.isFile() && (stat.mode & 0o077) !== 0) {
      const mode = (stat.mode & 0o777).toString(8).padStart(4, "0");
      warn(`password file ${file} is open to other users (mode ${mode}): chmod 600 ${file}`);
    }
    return readDescriptor(fd, file);
  } finally {
    closeSync(fd);
  }
}

function fromDescriptor(text: string): Buffer {
  if (!/^\d{1,9}$/.test(text))
    throw new ToolError(EXIT.usage, `--password-fd ${text}: not a file descriptor number`);
  return readDescriptor(Number(text), `file descriptor ${text}`);
}

function fromCommand(command: string): Buffer {
  const source = `the command "${command}"`;
  const environment = { ...process.env };
  delete environment[PASSWORD_VARIABLE];
  const result = spawnSync("/bin/sh", ["-c", command], {
    stdio: ["inherit", "pipe", "inherit"],
    maxBuffer: PASSWORD_MAX + 1,
    env: environment,
  });
  const output = result.stdout ?? Buffer.alloc(0);
  const failure =
    result.error !== undefined
      ? result.error.message
      : result.signal !== null
        ? `it was ended by ${result.signal}`
        : result.status !== 0
          ? `it exited with ${result.status}`
          : undefined;
  if (failure !== undefined) {
    output.fill(0);
    throw unreadable(source, failure);
  }
  return cutNewline(output, output.length, source);
}

async function fromPrompt(request: Request): Promise<Buffer> {
  // The prompt goes to stderr: stdout may be piped into something. Without a terminal at both ends nobody
  // would see it, or nobody could answer.
  if (!isatty(0) || !isatty(2))
    throw new ToolError(EXIT.noPassword, `no password and no terminal to ask on: ${HOW}`);
  for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
    const password = await ask(`Password for ${request.path}:`);
    if (password.length === 0)
      throw new ToolError(EXIT.noPassword, "the password is empty: a volume needs one");
    if (!request.confirm) return password;
    const again = await ask("The same once more:");
    const same = password.equals(again);
    again.fill(0);
    if (same) return password;
    password.fill(0);
    request.warn("the two passwords differ");
  }
  throw new ToolError(EXIT.noPassword, "the two passwords differ each time: nothing was done");
}

async function ask(message: string): Promise<Buffer> {
  const { default: inquirer } = await import("inquirer");
  const prompt = inquirer.createPromptModule({ output: process.stderr });
  // A terminal that goes away leaves the promise open and the event loop empty: that is no success.
  const gone = (): void => {
    process.exitCode = EXIT.noPassword;
  };
  process.once("exit", gone);
  try {
    const answer = await prompt<{ password: string }>([
      { type: "password", name: "password", message, mask: false, toggleMask: false },
    ]);
    return Buffer.from(answer.password);
  } catch (error) {
    if (error instanceof Error && error.name === "ExitPromptError")
      throw new ToolError(128 + 2, "interrupted");
    throw error;
  } finally {
    process.removeListener("exit", gone);
  }
}
