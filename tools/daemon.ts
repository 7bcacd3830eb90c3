/**
 * The process that keeps a volume mounted. `startDaemon` puts one into the background and returns when its mount
 * answers; `serve` is the life of that process, and of `mount --foreground`.
 *
 * Node cannot fork, so the background process is a second `sqlfuse mount --foreground`, in a session of its own.
 * The password goes to its stdin, a pipe, so that it appears neither in argv nor in the environment. Over the
 * IPC channel it is told what to mount, and says that the mount answers or why it does not. The end of the parent,
 * at any time, changes nothing.
 */
import { spawn } from "node:child_process";
import { closeSync, openSync, rmdirSync, writeSync } from "node:fs";
import { constants } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { filterLog, type Log, type LogLevel } from "../src/base/log.ts";
import type { Key } from "../src/db/key.ts";
import type { Mounted, MountOptions } from "../src/host/mount.ts";
import { describeError, EXIT, ToolError } from "./exitcodes.ts";
import { ignoreBrokenPipes, systemText, warn } from "./output.ts";
import { PASSWORD_VARIABLE, readPipedPassword } from "./password.ts";

/** From the parent: what to mount, settled and checked. */
interface Order {
  readonly options: MountOptions;
  readonly removeMountpoint: boolean;
  readonly logLevel: LogLevel;
}
/** A mount that answers. */
interface Ready {
  readonly mountpoint: string;
  readonly readOnly: boolean;
  /** What whoever mounts must be told. */
  readonly warning: string | undefined;
}
/** To the parent: how it went. */
type Report =
  | ({ readonly type: "ready" } & Ready)
  | { readonly type: "error"; readonly message: string; readonly code: number };

/** How long a busy mount's users get, after a signal, to let go of it. */
const STRAGGLER_MS = 2000;
const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

export interface DaemonOptions {
  readonly removeMountpoint: boolean;
  readonly logFile: string;
  /** Named by the user: then it is an error when it cannot be written. */
  readonly logFileGiven: boolean;
  readonly logLevel: LogLevel;
}

/** Zeroes `password`. Returns where it is mounted, the pid of the process that serves it, and its warning. */
export async function startDaemon(
  options: MountOptions,
  password: Buffer,
  daemon: DaemonOptions,
): Promise<{ readonly pid: number } & Ready> {
  const log = openLog(daemon.logFile, daemon.logFileGiven);
  const { inheritedFd } = await import("../src/host/mountpoint.ts");
  const inherited = inheritedFd(options.mountpoint);
  const environment = { ...process.env };
  delete environment[PASSWORD_VARIABLE];
  // Node has 4 threads for files: one remote that hangs would hold them all.
  environment.UV_THREADPOOL_SIZE ??= "16";
  const cli = fileURLToPath(new URL("./cli.js", import.meta.url));
  // The names are there for ps alone.
  const child = spawn(process.execPath, [cli, "mount", "--child", "--", options.path, options.mountpoint], {
    detached: true,
    cwd: "/",
    env: environment,
    stdio: ["pipe", log, log, "ipc", ...(inherited === undefined ? [] : [inherited])],
  });
  closeSync(log);
  const ended = new Promise<{ code: number | null; signal: NodeJS.Signals | null }>((resolve, reject) => {
    child.once("exit", (code, signal) => resolve({ code, signal }));
    child.once("error", reject);
  });
  let report: Report | undefined;
  const reported = new Promise<void>((resolve) => {
    child.on("message", (message) => {
      report ??= message as Report;
      resolve();
    });
  });
  // ^C here is no signal there: that process is in a session of its own.
  const forward = (signal: NodeJS.Signals): void => {
    child.kill(signal);
  };
  for (const signal of SIGNALS) process.on(signal, forward);
  try {
    const mountpoint = inherited === undefined ? options.mountpoint : "/dev/fd/4";
    const { removeMountpoint, logLevel } = daemon;
    const order: Order = { options: { ...options, mountpoint }, removeMountpoint, logLevel };
    child.send(order, () => {});
    const given = new Promise<void>((resolve) => {
      child.stdin?.on("error", () => resolve()); // it died first: `ended` tells why
      child.stdin?.end(password, () => resolve());
    });
    await Promise.race([given, ended]);
    password.fill(0);
    await Promise.race([reported, ended]);
    if (report?.type === "ready" && child.pid !== undefined) {
      if (child.connected) child.disconnect();
      child.unref();
      const { mountpoint: place, readOnly, warning } = report;
      return { pid: child.pid, mountpoint: place, readOnly, warning };
    }
    const { code, signal } = await ended;
    if (report?.type === "error") throw new ToolError(report.code, report.message);
    const how = signal === null ? `ended with ${code}` : `was ended by ${signal}`;
    const number = signal === null ? (code ?? EXIT.other) : 128 + constants.signals[signal];
    throw new ToolError(
      number,
      `${options.path}: the mount process ${how} before the mount answered; see ${daemon.logFile}`,
    );
  } finally {
    password.fill(0);
    for (const signal of SIGNALS) process.removeListener(signal, forward);
  }
}

/** `given`: by the user, who must know when it cannot be written. */
function openLog(logFile: string, given: boolean): number {
  try {
    return openSync(logFile, "a", 0o600);
  } catch (error) {
    const text = systemText(error);
    if (given) throw new ToolError(EXIT.unusable, `--log-file ${logFile}: cannot be written: ${text}`);
    warn(`messages of the mount go nowhere: ${text}; name another place with --log-file`);
    return openSync("/dev/null", "w");
  }
}

/** The background process, from its first step to its end. */
export async function serveChild(): Promise<never> {
  if (process.send === undefined) throw new ToolError(EXIT.usage, "--child is for sqlfuse itself");
  try {
    return await serveOrder();
  } catch (error) {
    const { message, code } = describeError(error);
    logLine(2, "error", message);
    await report({ type: "error", message, code });
    process.exit(code);
  }
}

async function serveOrder(): Promise<never> {
  const { options, removeMountpoint, logLevel } = await new Promise<Order>((resolve, reject) => {
    process.once("message", (message) => resolve(message as Order));
    process.once("disconnect", () =>
      reject(new ToolError(EXIT.other, "the parent ended before it said what to mount")),
    );
  });
  const { forbidDump } = await import("../src/native/libc.ts");
  forbidDump();
  const password = readPipedPassword(0);
  return serve(options, password, {
    removeMountpoint,
    log: filterLog(logLevel, (level, line) => logLine(2, level, `${options.mountpoint}: ${line}`)),
    ready: (ready) => {
      void report({ type: "ready", ...ready }).then(() => process.connected && process.disconnect());
    },
  });
}

/** Over IPC, to a parent that may be gone. */
function report(message: Report): Promise<void> {
  return new Promise((resolve) => {
    if (process.send === undefined || !process.connected) resolve();
    else process.send(message, undefined, undefined, () => resolve());
  });
}

/** Messages of a mount in the foreground: to stderr, or where --log-file sends them. */
export function foregroundLog(logFile: string | undefined, least: LogLevel): Log {
  if (logFile === undefined) return filterLog(least, (_, line) => warn(line));
  const fd = openLog(logFile, true);
  return filterLog(least, (level, line) => logLine(fd, level, line));
}

function logLine(fd: number, level: LogLevel, line: string): void {
  try {
    writeSync(fd, `${new Date().toISOString()} ${level.padEnd(5)} sqlfuse[${process.pid}] ${line}\n`);
  } catch {
    // the disk of the log is full: no reason to stop serving
  }
}

export interface ServeOptions {
  /** rmdir it when it is unmounted. */
  readonly removeMountpoint: boolean;
  readonly log: Log;
  /** Called when the mount answers. */
  readonly ready?: (ready: Ready) => void;
}

/**
 * Mounts, serves until the mount is gone, however it went, and ends the process. Zeroes `password`.
 * Rejects when it cannot be mounted.
 */
export async function serve(options: MountOptions, password: Buffer, how: ServeOptions): Promise<never> {
  const { unlock } = await import("../src/core/unlock.ts");
  const { notifyReady } = await import("../src/host/supervisor.ts");
  const { mountedAt } = await import("../src/host/mounts.ts");
  const { exitNow } = await import("../src/native/libc.ts");
  const { log } = how;
  ignoreBrokenPipes();

  const before = mountedAt(options.mountpoint)?.device;
  const stop = new Stop(log, () => mountedAt(options.mountpoint)?.device !== before);
  let key: Key;
  try {
    key = unlock(options.path, password);
  } finally {
    password.fill(0);
  }
  let mount: Mounted;
  try {
    mount = await startMount(options, key, log);
  } finally {
    key.wipe();
  }
  await stop.attach(mount);
  const control = stop.code === undefined ? await openControl(mount, log) : undefined;
  if (stop.code === undefined) {
    const { mountpoint, warning } = mount;
    const { readOnly } = mount.status();
    log("info", `${options.path} is ${readOnly ? "mounted read-only" : "mounted"} at ${mountpoint}`);
    if (warning !== undefined) log("warn", warning);
    how.ready?.({ mountpoint, readOnly, warning });
    notifyReady();
  }

  const { clean } = await mount.closed;
  await control?.close();
  if (how.removeMountpoint) tryRmdir(options.mountpoint);
  if (clean) log("info", "unmounted; everything is committed");
  else log("error", "unmounted, but the last changes could not be committed");
  const code = stop.code ?? (clean ? EXIT.ok : EXIT.other);
  // All is closed. Node's own end would wait for a thread that hangs, of ours or of libfuse.
  exitNow(code);
  process.exit(code);
}

/** Loads what serves, and only that: fuse-native may be missing. */
async function startMount(options: MountOptions, key: Key, log: Log): Promise<Mounted> {
  if (options.transport === "fuse-native") {
    const { NativeMount } = await import("../src/host/nativemount.ts");
    return NativeMount.start(options, key, log);
  }
  const { Mount } = await import("../src/host/mount.ts");
  return Mount.start(options, key, log);
}

/** A mount without it is worth having: only status and sync do not reach it. */
async function openControl(mount: Mounted, log: Log): Promise<{ close(): Promise<void> } | undefined> {
  const { serveControl } = await import("../src/host/control.ts");
  try {
    return await serveControl(mount);
  } catch (error) {
    log("warn", `status and sync will not reach this mount: ${describeError(error).message}`);
    return undefined;
  }
}

/**
 * What signals and bugs do: end the mount without losing what was acknowledged.
 *
 * process.exit waits for the serving thread, which may be asleep in a system call. So nothing here calls it before
 * the mount is closed, but for the signal that says that closing takes too long.
 */
class Stop {
  readonly #log: Log;
  readonly #isShown: () => boolean;
  #mount: Mounted | undefined;
  #signals = 0;
  /** The one that came when the mount was shown, and did not answer yet. */
  #early: (typeof SIGNALS)[number] | undefined;
  /** Of the signal that came before there was a mount to end, or that hurried. */
  #code: number | undefined;

  /** `isShown`: whether the kernel shows the mount by now. */
  constructor(log: Log, isShown: () => boolean) {
    this.#log = log;
    this.#isShown = isShown;
    for (const signal of SIGNALS) process.on(signal, () => void this.#onSignal(signal));
    // Node would start its debugger, which listens on a port.
    process.on("SIGUSR1", () => log("info", JSON.stringify(this.#mount?.status() ?? {})));
    for (const event of ["uncaughtException", "unhandledRejection"] as const) {
      process.on(event, (error: unknown) => void this.#onBug(error));
    }
  }

  /** Undefined: the end of the mount decides. */
  get code(): number | undefined {
    return this.#code;
  }

  async attach(mount: Mounted): Promise<void> {
    this.#mount = mount;
    if (this.#code !== undefined) await this.#leave(mount);
    else if (this.#early !== undefined) this.#end(mount, this.#early);
  }

  async #onSignal(signal: (typeof SIGNALS)[number]): Promise<void> {
    const code = 128 + constants.signals[signal];
    this.#signals++;
    if (this.#signals > 2) process.kill(process.pid, "SIGKILL");
    if (this.#signals === 2) {
      this.#log("warn", `${signal} again: committing, and leaving at once`);
      this.#code = code;
      if (this.#mount !== undefined) await this.#leave(this.#mount);
    } else if (this.#mount !== undefined) {
      this.#end(this.#mount, signal);
    } else if (this.#isShown()) {
      this.#early = signal;
    } else {
      // Ended before it was there: no clean unmount.
      this.#code = code;
    }
  }

  /** Unmounts; how that went the mount's own end tells. */
  #end(mount: Mounted, signal: string): void {
    this.#log("info", `${signal}: unmounting`);
    this.#unmount(mount).catch((error: unknown) => this.#log("error", describeError(error).message));
  }

  async #unmount(mount: Mounted): Promise<void> {
    try {
      await mount.unmount(false);
    } catch (error) {
      this.#log(
        "warn",
        `${describeError(error).message}; detached from the tree, its users have ${STRAGGLER_MS / 1000} s`,
      );
      await mount.unmount(true);
      await mount.sync();
      await Promise.race([mount.closed, sleep(STRAGGLER_MS)]);
      await mount.close(false);
    }
  }

  /** Whoever still uses the mount gets errors from now on; what they were told is written is kept. */
  async #leave(mount: Mounted): Promise<void> {
    await mount.unmount(true).catch(() => {});
    await mount.close();
  }

  async #onBug(error: unknown): Promise<void> {
    this.#log("error", error instanceof Error ? (error.stack ?? error.message) : String(error));
    this.#code = EXIT.other;
    // A second one on the way out must not stop it.
    if (this.#mount === undefined) process.exit(this.#code);
    await this.#leave(this.#mount).catch(() => {});
  }
}

function tryRmdir(directory: string): void {
  try {
    rmdirSync(directory);
  } catch {
    // not empty, or gone
  }
}
