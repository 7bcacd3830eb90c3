/**
 * Programs that a remote needs: started without a shell, with nothing to read, and with what they say in files, not pipes: a
 * connection of ssh that stays behind would hold a pipe open.
 *
 * This process has a directory of its own for them, which goes when it ends, and so do they. One that was killed leaves it
 * to the next one to remove.
 */
import { type ChildProcess, spawn } from "node:child_process";
import {
  closeSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const PREFIX = "sqlfuse-rsync-";

let room: string | undefined;
let rooms = 0;
const running = new Set<ChildProcess>();
const lastWishes: (() => void)[] = [];

/** This process's directory. Nobody else may look into it. */
function ownRoom(): string {
  if (room !== undefined) return room;
  sweep();
  room = mkdtempSync(join(tmpdir(), `${PREFIX}${process.pid}-`));
  process.on("exit", () => {
    for (const child of running) stop(child);
    for (const wish of lastWishes) wish();
    rmSync(room ?? "", { recursive: true, force: true });
  });
  return room;
}

/** Removes what processes of this user left that were killed. */
function sweep(): void {
  for (const name of readdirSync(tmpdir())) {
    const pid = new RegExp(`^${PREFIX}(\\d+)-\\w+$`).exec(name)?.[1];
    if (pid === undefined || isAlive(Number(pid))) continue;
    const path = join(tmpdir(), name);
    try {
      if (lstatSync(path).uid === process.geteuid?.()) rmSync(path, { recursive: true, force: true });
    } catch {
      // Another process was faster.
    }
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== "ESRCH";
  }
}

/** Has it done when this process ends. */
export function atExit(wish: () => void): void {
  ownRoom();
  lastWishes.push(wish);
}

/** A new name in this process's directory. */
export function newName(): string {
  return join(ownRoom(), String(++rooms));
}

/** A new directory in there for the time of `run`. */
export async function inRoom<T>(run: (path: string) => Promise<T>): Promise<T> {
  const path = newName();
  mkdirSync(path, { mode: 0o700 });
  try {
    return await run(path);
  } finally {
    rmSync(path, { recursive: true, force: true });
  }
}

export interface Ended {
  /** Undefined: a signal ended it. */
  readonly code: number | undefined;
  readonly stdout: string;
  readonly stderr: string;
}

export interface ChildOptions {
  /** It may ask the user something on the terminal. Else it has none. */
  readonly mayAsk?: boolean;
  /** Ends it. */
  readonly signal?: AbortSignal | undefined;
}

/** Runs a program to its end. @throws Error with code ENOENT where there is none; the signal's reason */
export async function runChild(
  command: string,
  args: readonly string[],
  { mayAsk = false, signal }: ChildOptions = {},
): Promise<Ended> {
  signal?.throwIfAborted();
  return await inRoom(async (path) => {
    const [out, err] = [join(path, "out"), join(path, "err")];
    const files = [openSync(out, "w", 0o600), openSync(err, "w", 0o600)];
    let code: number | undefined;
    try {
      code = await endOf(command, args, ["ignore", ...files], mayAsk, signal);
    } finally {
      for (const fd of files) closeSync(fd);
    }
    signal?.throwIfAborted();
    return { code, stdout: readFileSync(out, "utf8"), stderr: readFileSync(err, "utf8") };
  });
}

function endOf(
  command: string,
  args: readonly string[],
  stdio: ("ignore" | number)[],
  mayAsk: boolean,
  signal: AbortSignal | undefined,
): Promise<number | undefined> {
  return new Promise((resolve, reject) => {
    // In a session of its own it has no terminal to ask on.
    const child = spawn(command, args, { stdio, detached: !mayAsk, env: plainEnvironment() });
    running.add(child);
    const onAbort = (): void => stop(child);
    signal?.addEventListener("abort", onAbort);
    const over = (): void => {
      running.delete(child);
      signal?.removeEventListener("abort", onAbort);
    };
    child.on("error", (error) => {
      over();
      reject(error);
    });
    child.on("exit", (code) => {
      over();
      resolve(code ?? undefined);
    });
  });
}

function stop(child: ChildProcess): void {
  child.kill("SIGTERM");
}

/** English, and names as they are given. */
function plainEnvironment(): NodeJS.ProcessEnv {
  const { RSYNC_OLD_ARGS: _, ...env } = process.env;
  return { ...env, LC_ALL: "C" };
}
