/**
 * Where a password comes from: a file, a key file, a command, a file descriptor, the environment, or a prompt on
 * the terminal; never the argument list, which every user of the machine can read in ps. A password is a Buffer
 * that its user zeroes; what the prompt and the environment give is a string first, and strings cannot be zeroed.
 */
import { spawnSync } from "node:child_process";
import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { constants } from "node:os";
import { isatty, ReadStream } from "node:tty";
import type { Command } from "commander";
import { rawKeyPassword } from "../src/db/key.ts";
import { EXIT, ToolError } from "./exitcodes.ts";
import { systemText } from "./output.ts";

export interface PasswordOptions {
  readonly passwordFile?: string;
  readonly passwordCommand?: string;
  readonly passwordFd?: string;
  readonly keyFile?: string;
}

/** The same for the password that a volume gets instead. */
export interface NewPasswordOptions {
  readonly newPasswordFile?: string;
  readonly newPasswordCommand?: string;
  readonly newPasswordFd?: string;
  readonly newKeyFile?: string;
}

/** Both, told apart by a prefix of the options' names; only the first may come from the environment. */
interface Sources {
  readonly prefix: "" | "new-";
  readonly file?: string | undefined;
  readonly command?: string | undefined;
  readonly fd?: string | undefined;
  readonly keyFile?: string | undefined;
}

type Question =
  | { readonly type: "password"; readonly message: string; readonly mask: false; readonly toggleMask: false }
  | { readonly type: "confirm"; readonly message: string; readonly default: boolean };

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
/** A key file of so many bytes, and not text, is the key itself. */
const RAW_KEY_BYTES = 32;
const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
const CLEAR_LINE = "\r\x1b[K";
const SHOW_CURSOR = "\x1b[?25h";
const HIDE_CURSOR = "\x1b[?25l";

export function addPasswordOptions(command: Command): Command {
  return command
    .option(
      "--password-file <file>",
      "read the password from FILE (- is stdin); one newline at its end is cut",
    )
    .option("--password-command <command>", "run COMMAND by /bin/sh; what it prints is the password")
    .option("--password-fd <n>", "read the password from the open file descriptor N")
    .option(
      "--key-file <file>",
      "all bytes of FILE are the password; 32 random bytes are the key itself, without derivation",
    );
}

export function addNewPasswordOptions(command: Command): Command {
  return command
    .option("--new-password-file <file>", "read the new password from FILE (- is stdin)")
    .option("--new-password-command <command>", "what COMMAND prints is the new password")
    .option("--new-password-fd <n>", "read the new password from the open file descriptor N")
    .option("--new-key-file <file>", "FILE is the new key file");
}

export async function readPassword(options: PasswordOptions, request: Request): Promise<Buffer> {
  const { passwordFile: file, passwordCommand: command, passwordFd: fd, keyFile } = options;
  const variable = process.env[PASSWORD_VARIABLE];
  // No program that is run from now on gets it.
  delete process.env[PASSWORD_VARIABLE];
  // What is read from a terminal is asked for: it would show what is typed.
  const isTyped = (file === "-" || fd === "0") && canAsk();
  if (isTyped) return fromPrompt(`Password for ${request.path}:`, "", request);
  const given = endedBySignals(() => fromSource({ prefix: "", file, command, fd, keyFile }, request.warn));
  if (given !== undefined) return given;
  if (variable !== undefined) return notEmpty(Buffer.from(variable), PASSWORD_VARIABLE);
  return fromPrompt(`Password for ${request.path}:`, "", request);
}

/** The password that takes the place of another; asked for twice. */
export async function readNewPassword(
  options: NewPasswordOptions,
  request: Omit<Request, "confirm">,
): Promise<Buffer> {
  const {
    newPasswordFile: file,
    newPasswordCommand: command,
    newPasswordFd: fd,
    newKeyFile: keyFile,
  } = options;
  const given = endedBySignals(() =>
    fromSource({ prefix: "new-", file, command, fd, keyFile }, request.warn),
  );
  return given ?? fromPrompt(`New password for ${request.path}:`, "new-", { ...request, confirm: true });
}

/** Whether a password is there without asking anybody, or somebody is there to ask. */
export function hasPasswordSource(options: PasswordOptions): boolean {
  const { passwordFile, passwordCommand, passwordFd, keyFile } = options;
  const given = passwordFile ?? passwordCommand ?? passwordFd ?? keyFile ?? process.env[PASSWORD_VARIABLE];
  return given !== undefined || canAsk();
}

/** What another process wrote to our descriptor: exactly that. */
export function readPipedPassword(fd: number): Buffer {
  return readDescriptor(fd, `file descriptor ${fd}`);
}

/**
 * A source may keep us waiting where no handler of a signal can run: a pipe that nobody writes to, a command. So
 * signals end the process there, whatever the command that asks does with them.
 */
function endedBySignals<T>(read: () => T): T {
  const handlers = SIGNALS.map((signal) => [signal, process.listeners(signal)] as const);
  for (const signal of SIGNALS) process.removeAllListeners(signal);
  try {
    return read();
  } finally {
    for (const [signal, listeners] of handlers)
      for (const listener of listeners) process.on(signal, listener);
  }
}

function fromSource(sources: Sources, warn: (line: string) => void): Buffer | undefined {
  const { prefix, file, command, fd, keyFile } = sources;
  const given = [
    file === undefined ? undefined : `--${prefix}password-file`,
    command === undefined ? undefined : `--${prefix}password-command`,
    fd === undefined ? undefined : `--${prefix}password-fd`,
    keyFile === undefined ? undefined : `--${prefix}key-file`,
  ].filter((name) => name !== undefined);
  if (given.length > 1)
    throw new ToolError(EXIT.usage, `${given.join(" and ")} exclude each other: give one`);

  if (file !== undefined) return cutNewline(fromFile(file, "password file", warn), file);
  if (command !== undefined) return fromCommand(command);
  if (fd !== undefined) return fromDescriptor(fd);
  if (keyFile !== undefined) return fromKeyFile(fromFile(keyFile, "key file", warn));
  return undefined;
}

function fromKeyFile(bytes: Buffer): Buffer {
  // Text of this length is a passphrase: without the derivation it could be guessed a million times faster.
  const isText = bytes.every((byte) => (byte >= 0x20 && byte < 0x7f) || (byte >= 0x09 && byte <= 0x0d));
  if (bytes.length !== RAW_KEY_BYTES || isText) return bytes;
  const password = rawKeyPassword(bytes);
  bytes.fill(0);
  return password;
}

function unreadable(source: string, error: unknown): ToolError {
  const text = systemText(error);
  return new ToolError(EXIT.noPassword, `cannot read the password from ${source}: ${text}`);
}

function notEmpty(password: Buffer, source: string): Buffer {
  if (password.length > 0) return password;
  throw new ToolError(EXIT.noPassword, `the password from ${source} is empty: a volume needs one`);
}

/** Cuts one newline, which editors and `echo` add, and moves nothing else; the caller's buffer is zeroed. */
function cutNewline(buffer: Buffer, source: string): Buffer {
  let end = buffer.length;
  if (buffer[end - 1] === 0x0a) end--;
  if (end < buffer.length && buffer[end - 1] === 0x0d) end--;
  return notEmpty(take(buffer, end), source);
}

/** The first bytes of a buffer, which is zeroed. */
function take(buffer: Buffer, length: number): Buffer {
  const taken = Buffer.alloc(length);
  buffer.copy(taken, 0, 0, length);
  buffer.fill(0);
  return taken;
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
  return notEmpty(take(buffer, length), source);
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

/** All bytes of a file. */
function fromFile(file: string, what: string, warn: (line: string) => void): Buffer {
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
      warn(`${what} ${file} is open to other users (mode ${mode}): chmod 600 ${file}`);
    }
    return readDescriptor(fd, file);
  } finally {
    closeSync(fd);
  }
}

function fromDescriptor(text: string): Buffer {
  if (!/^\d{1,9}$/.test(text))
    throw new ToolError(EXIT.usage, `--password-fd ${text}: not a file descriptor number`);
  const source = `file descriptor ${text}`;
  return cutNewline(readDescriptor(Number(text), source), source);
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
  return cutNewline(output, source);
}

/** The prompt goes to stderr, as stdout may be piped into something. Without a terminal at both ends nobody
 * would see it, or nobody could answer. */
export function canAsk(): boolean {
  return isatty(0) && isatty(2);
}

/** A terminal to type on: stdin, or the one that we were started from where stdin brings something else. */
function openTerminal(): ReadStream | undefined {
  if (!isatty(2)) return undefined;
  if (isatty(0)) return process.stdin as ReadStream;
  try {
    return new ReadStream(openSync("/dev/tty", "r"));
  } catch {
    return undefined; // such as from cron
  }
}

async function fromPrompt(question: string, prefix: Sources["prefix"], request: Request): Promise<Buffer> {
  const terminal = openTerminal();
  if (terminal === undefined) {
    const options = ["password-file", "password-command", "password-fd", "key-file"];
    const names = options.map((name) => `--${prefix}${name}`).join(", ");
    const [which, or] = prefix === "" ? ["", ` or ${PASSWORD_VARIABLE}`] : ["new ", ""];
    throw new ToolError(
      EXIT.noPassword,
      `no ${which}password and no terminal to ask on: give it by ${names}${or}`,
    );
  }
  try {
    return await askFor(question, terminal, request);
  } finally {
    if (terminal !== process.stdin) terminal.destroy();
  }
}

async function askFor(question: string, terminal: ReadStream, request: Request): Promise<Buffer> {
  for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
    const password = await ask(question, terminal);
    if (password.length === 0)
      throw new ToolError(EXIT.noPassword, "the password is empty: a volume needs one");
    if (!request.confirm) return password;
    const again = await ask("The same once more:", terminal);
    const same = password.equals(again);
    again.fill(0);
    if (same) return password;
    password.fill(0);
    request.warn("the two passwords differ");
  }
  throw new ToolError(EXIT.noPassword, "the two passwords differ each time: nothing was done");
}

async function ask(message: string, terminal: ReadStream): Promise<Buffer> {
  const question = { type: "password", message, mask: false, toggleMask: false } as const;
  return Buffer.from(await askOne<string>(question, terminal));
}

/** Asks a question that only "y" answers with yes. */
export function confirm(message: string): Promise<boolean> {
  return askOne<boolean>({ type: "confirm", message, default: false }, process.stdin as ReadStream);
}

/** @throws ToolError 128+N for ^C and for signal N; the terminal is as it was before, however it ends */
async function askOne<Answer>(question: Question, terminal: ReadStream): Promise<Answer> {
  const { default: inquirer } = await import("inquirer");
  const stopped = new AbortController();
  const stop = (signal: NodeJS.Signals): void =>
    stopped.abort(new ToolError(128 + constants.signals[signal], "interrupted"));
  // A terminal that goes away leaves the promise open and the event loop empty: that is no success.
  const gone = (): void => {
    process.exitCode = EXIT.noPassword;
  };
  const suspended = (): void => suspend(terminal, question.message, suspended);
  for (const signal of SIGNALS) process.on(signal, stop);
  process.on("SIGTSTP", suspended);
  process.once("exit", gone);
  try {
    const prompt = inquirer.createPromptModule({
      input: terminal,
      output: process.stderr,
      signal: stopped.signal,
    });
    const answers = await prompt([{ ...question, name: "answer" }]);
    return (answers as { answer: Answer }).answer;
  } catch (error) {
    stopped.signal.throwIfAborted();
    if (error instanceof Error && error.name === "ExitPromptError")
      throw new ToolError(128 + constants.signals.SIGINT, "interrupted");
    throw error;
  } finally {
    for (const signal of SIGNALS) process.removeListener(signal, stop);
    process.removeListener("SIGTSTP", suspended);
    process.removeListener("exit", gone);
    terminal.pause(); // which readline leaves out after a ^Z
  }
}

/**
 * ^Z at a prompt. readline has set the terminal back to echo by now and waits for SIGCONT, after which it pauses. The
 * shell gets its cursor as well; and where there is no shell to stop for, the kernel ignores SIGTSTP: then it goes
 * on at once, as the password would be typed in plain sight.
 */
function suspend(terminal: ReadStream, message: string, handler: () => void): void {
  process.once("SIGCONT", () => void terminal.resume());
  process.stderr.write(SHOW_CURSOR);
  process.removeListener("SIGTSTP", handler);
  process.kill(process.pid, "SIGTSTP");
  process.on("SIGTSTP", handler);
  process.stderr.write(`${CLEAR_LINE}? ${message} ${HIDE_CURSOR}`);
  process.kill(process.pid, "SIGCONT");
}
