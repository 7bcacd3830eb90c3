/**
 * A volume in a temporary directory, mounted through the built CLI as a user would.
 *
 * After each unmount the one file is all that is left, and the core's check() finds nothing: `unmounted()` says so
 * or throws. What the helper knows about a mount (which process, which table entry) it reads from the kernel itself
 * and not from the code under test.
 *
 * Nothing outlives a test: `remove()` takes away mounts, processes and files however the test ended; and where the
 * test process itself dies or hangs, a guard process beside each volume does the same.
 */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import {
  accessSync,
  chmodSync,
  chownSync,
  closeSync,
  constants,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statfsSync,
  statSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { unlock } from "../../src/core/unlock.ts";
import { Volume } from "../../src/core/volume.ts";
import { check } from "../../src/fsck/check.ts";
import { sys } from "./libc.ts";

export const REPOSITORY = resolve(dirname(fileURLToPath(import.meta.url)), "../..");
export const CLI = join(REPOSITORY, "dist/tools/cli.js");
/** The key itself, which is not derived: that would take as long as a start of the command line. */
export const PASSWORD = `x'${"5e".repeat(32)}'`;
export const IS_ROOT = process.geteuid?.() === 0;

/**
 * SQLFUSE_TEST_TRANSPORT=fuse-native runs the mount tests on the second transport; test/helpers/secondtransport.ts
 * says which do not hold there.
 */
const TRANSPORT = process.env.SQLFUSE_TEST_TRANSPORT;
export const TRANSPORT_ARGS: readonly string[] = TRANSPORT === undefined ? [] : ["--transport", TRANSPORT];

/** How long one guarded volume may live: longer means that a system call hangs. */
const GUARD_SECONDS = process.env.SQLFUSE_LONG === "1" ? 3600 : 600;

export interface Owner {
  readonly uid: number;
  readonly gid: number;
}

export interface Outcome {
  readonly status: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

function canOpen(path: string, owner: Owner | undefined): boolean {
  try {
    const stat = statSync(path);
    if (owner !== undefined && owner.uid !== 0) return (stat.mode & 0o006) === 0o006;
    accessSync(path, constants.R_OK | constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

/**
 * Why no volume can be mounted here by this user, or undefined where it can. In CI nothing may be skipped: there
 * it throws instead.
 */
export function mountingImpossible(owner?: Owner): string | undefined {
  const asRoot = owner === undefined ? IS_ROOT : owner.uid === 0;
  let reason: string | undefined;
  if (process.platform !== "linux") reason = "mounting needs Linux";
  else if (!existsSync("/dev/fuse")) reason = "there is no /dev/fuse";
  else if (!canOpen("/dev/fuse", owner)) reason = "this user may not open /dev/fuse";
  else if (!asRoot && spawnSync("sh", ["-c", "command -v fusermount3"]).status !== 0)
    reason = "there is no fusermount3";
  if (reason !== undefined && process.env.CI && owner === undefined)
    throw new Error(`CI must mount: ${reason}`);
  if (reason === undefined && !existsSync(CLI)) throw new Error(`${CLI} is missing: npm run build`);
  return reason;
}

/** What a program printed that must succeed, without a word on stderr. */
export function succeed({ status, signal, stdout, stderr }: Outcome): string {
  if (status !== 0 || stderr !== "") throw new Error(`ended with ${signal ?? status}: ${stderr}`);
  return stdout;
}

/** Runs the CLI to its end. Output goes through files: a daemon left behind must not keep a pipe open. */
export function runCli(
  args: readonly string[],
  options: {
    owner?: Owner | undefined;
    env?: Record<string, string>;
    timeoutMs?: number;
    home?: string;
  } = {},
): Outcome {
  const scratch = mkdtempSync(join(tmpdir(), "sqlfuse-cli-"));
  const out = openSync(join(scratch, "out"), "w");
  const err = openSync(join(scratch, "err"), "w");
  try {
    const done = spawnSync(process.execPath, [CLI, ...args], {
      stdio: ["ignore", out, err],
      timeout: options.timeoutMs ?? 60_000,
      killSignal: "SIGKILL",
      cwd: "/",
      env: environment(options.home, options.env),
      ...(options.owner === undefined ? {} : { uid: options.owner.uid, gid: options.owner.gid }),
    });
    if (done.error !== undefined && done.status === null && done.signal === null) throw done.error;
    return {
      status: done.status,
      signal: done.signal,
      stdout: readFileSync(join(scratch, "out"), "utf8"),
      stderr: readFileSync(join(scratch, "err"), "utf8"),
    };
  } finally {
    closeSync(out);
    closeSync(err);
    rmSync(scratch, { recursive: true, force: true });
  }
}

function environment(home: string | undefined, more: Record<string, string> = {}): NodeJS.ProcessEnv {
  // Of the test runner's own; a test may want some for the mount.
  const env: NodeJS.ProcessEnv = { ...process.env, NODE_OPTIONS: "", SQLFUSE_PASSWORD: PASSWORD, ...more };
  delete env.XDG_RUNTIME_DIR;
  if (home !== undefined) env.HOME = home;
  return env;
}

export interface MountEntry {
  readonly mountpoint: string;
  readonly type: string;
  readonly source: string;
  readonly options: string;
}

/** The kernel's own table, spaces and the like decoded. */
function mountTable(): MountEntry[] {
  const plain = (text: string): string =>
    text.replace(/\\(\d{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
  return readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => {
      const [left = "", right = ""] = line.split(" - ");
      const fields = left.split(" ");
      const [type = "", source = "", superOptions = ""] = right.split(" ");
      return {
        mountpoint: plain(fields[4] ?? ""),
        type,
        source: plain(source),
        options: `${fields[5] ?? ""},${superOptions}`,
      };
    });
}

const OVERLAYFS = 0x794c7630;
const BTRFS = 0x9123683e;

/** Who holds a flock(2) on the file, by /proc/locks. */
export function lockHolder(path: string): number | undefined {
  let ino: bigint;
  let device: string;
  let vague: boolean;
  try {
    ino = statSync(path, { bigint: true }).ino;
    const [major, minor] = sys.lstat(path).dev;
    device = `${hex(major)}:${hex(minor)}`;
    // There stat tells another device than the locks' own.
    vague = [OVERLAYFS, BTRFS].includes(statfsSync(path).type);
  } catch {
    return undefined;
  }
  for (const line of readFileSync("/proc/locks", "utf8").split("\n")) {
    const fields = line.trim().split(/\s+/);
    if (fields[1] !== "FLOCK") continue;
    const place = fields[5] ?? "";
    if (place === `${device}:${ino}` || (vague && place.endsWith(`:${ino}`))) return Number(fields[4]);
  }
  return undefined;
}

const hex = (n: number): string => n.toString(16).padStart(2, "0");

/** Whether anything of the process runs: its first thread may be dead while others still hold its files open. */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    if (readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]?.[0] !== "Z") return true;
    return readdirSync(`/proc/${pid}/task`).length > 1;
  } catch {
    return false;
  }
}

export async function until(what: string, ready: () => boolean, timeoutMs = 30_000): Promise<void> {
  const end = Date.now() + timeoutMs;
  while (!ready()) {
    if (Date.now() > end) throw new Error(`waited ${timeoutMs} ms for ${what}`);
    await new Promise((done) => setTimeout(done, 20));
  }
}

function untilSync(what: string, ready: () => boolean, timeoutMs = 30_000): void {
  const end = Date.now() + timeoutMs;
  const cell = new Int32Array(new SharedArrayBuffer(4));
  while (!ready()) {
    if (Date.now() > end) throw new Error(`waited ${timeoutMs} ms for ${what}`);
    Atomics.wait(cell, 0, 0, 10);
  }
}

/** Waits on its input; unless it is told "done" in time it clears away everything of one volume. */
const GUARD = `
answer=$(timeout ${GUARD_SECONDS} head -n 1)
[ "$answer" = done ] && exit 0
cat "$1"/pids 2>/dev/null | while read pid; do
  grep -qs "$1" /proc/$pid/cmdline && kill -9 $pid
done
umount -l "$1/mnt" 2>/dev/null || fusermount3 -uz "$1/mnt" 2>/dev/null
sleep 1
[ -e "$1/keep" ] || rm -rf "$1"
`;

const live = new Set<TestVolume>();
process.on("exit", () => {
  for (const volume of live) volume.remove();
});

export interface TestVolumeOptions {
  /** Who creates and mounts: another user than this process's. Root only. */
  readonly owner?: Owner;
  readonly createArgs?: readonly string[];
  /** For each run of the command line, and so for the daemon. */
  readonly env?: Readonly<Record<string, string>>;
  /** Where to put it; default the run's temporary directory. */
  readonly parent?: string;
}

export class TestVolume {
  /** Holds the database file, the mount point and what else a test wants; removed with the volume. */
  readonly home: string;
  readonly file: string;
  readonly mountpoint: string;
  readonly owner: Owner | undefined;
  readonly #env: Readonly<Record<string, string>>;
  readonly #guard: ChildProcess;
  #pid: number | undefined;

  private constructor(home: string, { owner, env }: TestVolumeOptions) {
    this.home = home;
    this.owner = owner;
    this.#env = env ?? {};
    mkdirSync(join(home, "db"));
    this.file = join(home, "db", "volume.sqlite");
    this.mountpoint = join(home, "mnt");
    this.#guard = spawn("sh", ["-c", GUARD, "guard", home], {
      stdio: ["pipe", "ignore", "ignore"],
      detached: true,
    });
    this.#guard.unref();
    (this.#guard.stdin as unknown as { unref?: () => void } | null)?.unref?.();
  }

  static create(options: TestVolumeOptions = {}): TestVolume {
    const home = mkdtempSync(join(options.parent ?? tmpdir(), "sqlfuse-volume-"));
    chmodSync(home, 0o755);
    const volume = new TestVolume(home, options);
    live.add(volume);
    mkdirSync(volume.mountpoint);
    const { uid, gid } = options.owner ?? { uid: process.geteuid?.() ?? 0, gid: process.getegid?.() ?? 0 };
    for (const path of [home, join(home, "db"), volume.mountpoint]) chownSync(path, uid, gid);
    if (options.createArgs === undefined) {
      // As the command does it, and in a tenth of its time.
      Volume.create(volume.file, Buffer.from(PASSWORD), { rootUid: uid, rootGid: gid });
      chownSync(volume.file, uid, gid);
      return volume;
    }
    const done = volume.cli(["create", volume.file, ...options.createArgs]);
    if (done.status !== 0) {
      volume.remove();
      throw new Error(`create failed with ${done.status ?? done.signal}: ${done.stderr}${done.stdout}`);
    }
    return volume;
  }

  /** Runs the CLI as the owner of this volume. */
  cli(args: readonly string[], env: Record<string, string> = {}, timeoutMs?: number): Outcome {
    return runCli(args, {
      owner: this.owner,
      env: { ...this.#env, ...env },
      home: this.home,
      ...(timeoutMs === undefined ? {} : { timeoutMs }),
    });
  }

  /** Mounted or not. */
  snapshots(): { readonly name: string; readonly automatic: boolean }[] {
    return JSON.parse(succeed(this.cli(["snapshot", "list", this.file, "--json"])));
  }

  /** Tries to mount in the background; the outcome is the command's own. */
  tryMount(args: readonly string[] = [], mountpoint = this.mountpoint): Outcome {
    const done = this.cli(["mount", ...TRANSPORT_ARGS, this.file, mountpoint, ...args]);
    if (done.status === 0) this.#seen();
    return done;
  }

  /** Mounts in the background, and knows the daemon afterwards. */
  mount(...args: readonly string[]): void {
    const done = this.tryMount(args);
    if (done.status !== 0) {
      throw new Error(`mount failed with ${done.status ?? done.signal}: ${done.stderr}${done.stdout}`);
    }
    if (!this.mounted) throw new Error(`mount said it was done, but nothing is mounted: ${done.stderr}`);
  }

  #seen(): void {
    this.#pid = lockHolder(this.file);
    if (this.#pid === undefined) throw new Error("mounted, but nobody holds the lock on the file");
    spawnSync("sh", ["-c", `echo ${this.#pid} >> '${this.home}/pids'`]);
  }

  /** The daemon that keeps the file open. */
  get pid(): number {
    if (this.#pid === undefined) throw new Error("not mounted");
    return this.#pid;
  }

  get mounted(): boolean {
    return mountTable().some((entry) => entry.mountpoint === this.mountpoint);
  }

  get entry(): MountEntry | undefined {
    return mountTable().findLast((entry) => entry.mountpoint === this.mountpoint);
  }

  /** `sqlfuse unmount`, which returns when all is committed; then everything that must hold afterwards. */
  unmount(): void {
    const done = this.cli(["unmount", this.mountpoint]);
    if (done.status !== 0) {
      throw new Error(`unmount failed with ${done.status ?? done.signal}: ${done.stderr}${done.stdout}`);
    }
    if (this.mounted) throw new Error("unmount said it was done, but it is still mounted");
    const holder = lockHolder(this.file);
    if (holder !== undefined) throw new Error(`unmount returned while ${holder} still holds the file`);
    this.unmounted();
  }

  /** After any kind of unmount: the daemon ends, one file is left, and the checker finds nothing. */
  unmounted(): void {
    if (this.#pid !== undefined) {
      const pid = this.#pid;
      untilSync(`daemon ${pid} to end`, () => !isAlive(pid));
      this.#pid = undefined;
    }
    this.onlyTheFile();
    this.check();
  }

  onlyTheFile(): void {
    const left = readdirSync(dirname(this.file));
    if (left.length !== 1) throw new Error(`left beside the volume: ${left.join(", ")}`);
  }

  /** Fails on whatever the core's checker finds. */
  check(): void {
    const key = unlock(this.file, Buffer.from(PASSWORD));
    try {
      const findings = check(this.file, key);
      if (findings.length > 0) {
        const text = findings
          .slice(0, 20)
          .map((one) => `  ${one.kind}: ${one.path ?? one.ino ?? ""} ${one.text}`);
        throw new Error(`check() found ${findings.length}:\n${text.join("\n")}`);
      }
    } finally {
      key.wipe();
    }
  }

  remount(...args: readonly string[]): void {
    this.unmount();
    this.mount(...args);
  }

  /** kill -9, as a crash of the daemon; the dead mount stays until somebody clears it. */
  async kill(): Promise<void> {
    const { pid } = this;
    process.kill(pid, "SIGKILL");
    await until("the daemon to be gone", () => !isAlive(pid));
    this.#pid = undefined;
  }

  /** Takes everything away, however the test left it. Call it in afterEach or finally. */
  remove(): void {
    if (!live.delete(this)) return;
    const pid = this.#pid ?? lockHolder(this.file);
    if (pid !== undefined && pid !== process.pid && isAlive(pid)) {
      try {
        process.kill(pid, "SIGKILL");
      } catch {
        // it ended by itself
      }
      untilSync(`daemon ${pid} to end`, () => !isAlive(pid));
    }
    const below = mountTable().filter((one) => `${one.mountpoint}/`.startsWith(`${this.home}/`));
    for (const { mountpoint } of below.reverse()) {
      if (IS_ROOT) spawnSync("umount", ["-l", mountpoint]);
      else spawnSync("fusermount3", ["-uz", mountpoint]);
    }
    rmSync(this.home, { recursive: true, force: true });
    this.#guard.stdin?.end("done\n");
  }
}
