/** What mounting through the command line promises: bad input, the life of the background process, its end. */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import {
  chmodSync,
  chownSync,
  closeSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { CLI, FOR_OTHERS, fingerprint, type Outcome, PASSWORD, sqlfuse, sqlfuseOnTerminal } from "./run.ts";

const isRoot = process.geteuid?.() === 0;
/** A mount namespace of its own, in which something can be hidden; plain chroots do not allow it. */
const canHide = isRoot && spawnSync("unshare", ["-m", "true"]).status === 0;

let directory: string;
let file: string;
let point: string;
/** Making a volume takes most of a second: each test gets a copy of one. */
let template: string;

beforeAll(() => {
  template = join(mkdtempSync(join(tmpdir(), "template-")), "v.sqlite");
  expect(sqlfuse(["create", template]).code).toBe(0);
});

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "mount-"));
  chmodSync(directory, 0o755);
  file = join(directory, "vault.sqlite");
  point = join(directory, "point");
  copyFileSync(template, file);
  mkdirSync(point);
});

afterEach(() => {
  for (const mounted of mountsBelow(directory)) spawnSync("umount", ["-l", mounted]);
  if (!isRoot) for (const mounted of mountsBelow(directory)) spawnSync("fusermount3", ["-uz", mounted]);
  rmSync(directory, { recursive: true, force: true });
});

function mountsBelow(place: string): string[] {
  return readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .map((line) => line.split(" ")[4] ?? "")
    .filter((mounted) => mounted.startsWith(`${place}/`));
}

/** With a log of its own; the default one is the system's. */
function mount(...args: string[]): Outcome {
  return sqlfuse(["mount", "--log-file", join(directory, "log"), ...args]);
}

function pidOf(outcome: Outcome): number {
  const pid = /by pid (\d+)/.exec(outcome.stdout)?.[1];
  if (pid === undefined) throw new Error(`not mounted: ${outcome.stdout}${outcome.stderr}`);
  return Number(pid);
}

function isRunning(pid: number): boolean {
  return existsSync(`/proc/${pid}`) && !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
}

async function until(what: string, condition: () => boolean): Promise<void> {
  const deadline = Date.now() + 20_000;
  while (!condition()) {
    if (Date.now() > deadline) throw new Error(`still not: ${what}`);
    await sleep(20);
  }
}

function exitOf(child: ChildProcess): Promise<number | string | null> {
  return new Promise((resolve) => child.once("exit", (code, signal) => resolve(code ?? signal)));
}

describe("a mount in the background", () => {
  test("answers when the command returns, and is all in the one file when unmount returns", () => {
    const mounted = mount(file, point);
    expect(mounted.stderr).toBe("");
    const pid = pidOf(mounted);
    expect(mounted.stdout).toBe(
      `${file}: mounted at ${point} by pid ${pid}; unmount it with: sqlfuse unmount ${point}\n`,
    );
    writeFileSync(join(point, "hello"), "world");
    expect(sqlfuse(["unmount", point])).toEqual({ code: 0, stdout: "", stderr: "" });
    expect(isRunning(pid)).toBe(false);
    expect(mountsBelow(directory)).toEqual([]);
    expect(readdirSync(directory).sort()).toEqual(["log", "point", "vault.sqlite"]);

    mount(file, point);
    expect(readFileSync(join(point, "hello"), "utf8")).toBe("world");
    expect(sqlfuse(["unmount", file]).code).toBe(0);
  });

  test("the word mount may be left out, and -o may stand at the end, as mount(8) calls it", () => {
    const outcome = sqlfuse([file, point, "-o", `rw,dev,suid,log_file=${join(directory, "log")}`]);
    expect(outcome.code).toBe(0);
    expect(readFileSync("/proc/self/mounts", "utf8")).toContain(` ${point} fuse.sqlfuse rw,`);
    expect(sqlfuse(["umount", point]).code).toBe(0);
  });

  test("is nosuid and nodev unless asked", () => {
    mount(file, point);
    const line = readFileSync("/proc/self/mounts", "utf8")
      .split("\n")
      .find((one) => one.includes(` ${point} `));
    expect(line).toMatch(/nosuid,nodev/);
    sqlfuse(["unmount", point]);
  });

  test("without a mount point takes a directory named after the file, and removes it again", () => {
    expect(mount(file).code).toBe(0);
    const made = join(directory, "vault");
    writeFileSync(join(made, "x"), "y");
    expect(sqlfuse(["unmount", file]).code).toBe(0);
    expect(existsSync(made)).toBe(false);
  });

  test("a directory of that name that was there already stays", () => {
    const there = join(directory, "vault");
    mkdirSync(there);
    expect(mount(file).code).toBe(0);
    expect(sqlfuse(["unmount", there]).code).toBe(0);
    expect(existsSync(there)).toBe(true);
  });

  test("a file without an extension is mounted beside itself at NAME.mnt", () => {
    const bare = join(directory, "bare");
    copyFileSync(file, bare);
    expect(mount(bare).stdout).toContain(`mounted at ${bare}.mnt by`);
    expect(sqlfuse(["unmount", bare]).code).toBe(0);
    expect(existsSync(`${bare}.mnt`)).toBe(false);
  });

  test("a symlink to the file and to the mount point name the same mount", () => {
    symlinkSync(file, join(directory, "link.sqlite"));
    symlinkSync(point, join(directory, "way"));
    expect(mount(join(directory, "link.sqlite"), join(directory, "way")).code).toBe(0);
    expect(sqlfuse(["sync", join(directory, "way")]).code).toBe(0);
    expect(sqlfuse(["unmount", join(directory, "link.sqlite")]).code).toBe(0);
  });

  test("holds neither the password nor a directory: not in argv, not in the environment, cwd is /", () => {
    const pid = pidOf(mount(file, point));
    const seen = readFileSync(`/proc/${pid}/cmdline`, "utf8");
    expect(seen).not.toContain(PASSWORD);
    expect(seen).toContain(file);
    if (isRoot) {
      expect(readFileSync(`/proc/${pid}/environ`, "utf8")).not.toContain(PASSWORD);
      expect(spawnSync("readlink", [`/proc/${pid}/cwd`], { encoding: "utf8" }).stdout).toBe("/\n");
    }
    expect(sqlfuse(["unmount", point]).code).toBe(0);
  });

  test("writes what it does to its log", () => {
    mount(file, point);
    sqlfuse(["unmount", point]);
    const log = readFileSync(join(directory, "log"), "utf8");
    for (const line of log.trim().split("\n"))
      expect(line).toMatch(/^\d{4}-\d\d-\d\dT[\d:.]+Z info {2}sqlfuse\[/);
    expect(log).toMatch(new RegExp(`sqlfuse\\[\\d+\\] ${point}: ${file} is mounted at ${point}\n`));
    expect(log).toMatch(/unmounted; everything is committed\n$/);
  });

  test("umount(8) unmounts as well, and the process ends by itself", async () => {
    const pid = pidOf(mount(file, point));
    writeFileSync(join(point, "x"), "y");
    expect(spawnSync(isRoot ? "umount" : "fusermount3", isRoot ? [point] : ["-u", point]).status).toBe(0);
    await until("ended", () => !isRunning(pid));
    expect(fingerprint(file)).not.toMatch(/-wal|-shm/);
  });

  test.each(["SIGINT", "SIGTERM", "SIGHUP"] as const)("%s commits and unmounts", async (signal) => {
    const pid = pidOf(mount(file, point));
    writeFileSync(join(point, "x"), "y");
    process.kill(pid, signal);
    await until("ended", () => !isRunning(pid));
    expect(mountsBelow(directory)).toEqual([]);
    expect(fingerprint(file)).not.toMatch(/-wal|-shm/);
    mount(file, point);
    expect(readFileSync(join(point, "x"), "utf8")).toBe("y");
    sqlfuse(["unmount", point]);
  });

  test("a signal while the mount is in use detaches it, commits, and ends within seconds", async () => {
    const pid = pidOf(mount(file, point));
    writeFileSync(join(point, "x"), "y");
    const fd = openSync(join(point, "x"), "r+");
    writeSync(fd, "z");
    process.kill(pid, "SIGTERM");
    await until("ended", () => !isRunning(pid));
    closeSync(fd);
    expect(mountsBelow(directory)).toEqual([]);
    expect(fingerprint(file)).not.toMatch(/-wal|-shm/);
    mount(file, point);
    expect(readFileSync(join(point, "x"), "utf8")).toBe("z");
    sqlfuse(["unmount", point]);
  });

  test("killed while files are being written leaves a volume that mounts by itself at the stale mount point", async () => {
    const pid = pidOf(mount(file, point));
    writeFileSync(join(point, "kept"), "kept");
    expect(sqlfuse(["sync", point]).code).toBe(0);
    const writer = spawn("sh", ["-c", `cd '${point}' && i=0; while echo $i > f$i; do i=$((i+1)); done`], {
      stdio: "ignore",
    });
    await sleep(300);
    process.kill(pid, "SIGKILL");
    await exitOf(writer);
    expect(mountsBelow(directory)).toEqual([point]); // dead
    expect(sqlfuse(["status", "--json", point]).stdout).toContain('"dead"');

    expect(mount(file, point).code).toBe(0);
    expect(readFileSync(join(point, "kept"), "utf8")).toBe("kept");
    expect(mountsBelow(directory)).toEqual([point]);
    expect(sqlfuse(["unmount", point]).code).toBe(0);
  });

  test("a dead mount can be unmounted as well", async () => {
    const pid = pidOf(mount(file, point));
    process.kill(pid, "SIGKILL");
    await until("ended", () => !isRunning(pid));
    expect(sqlfuse(["unmount", point]).code).toBe(0);
    expect(mountsBelow(directory)).toEqual([]);
  });
});

describe("--cache-size", () => {
  /** Bytes of memory that a mount with `args` has when 96 MiB were written to it. */
  function memoryOf(...args: string[]): number {
    const pid = pidOf(mount(file, point, ...args));
    const noise = randomBytes(2 ** 20);
    for (let i = 0; i < 96; i++) {
      noise.writeUInt32LE(i);
      writeFileSync(join(point, `${i}`), noise);
    }
    expect(sqlfuse(["sync", point]).code).toBe(0);
    const [, kib] = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8")) ?? [];
    expect(sqlfuse(["unmount", point]).code).toBe(0);
    copyFileSync(template, file);
    return Number(kib) * 2 ** 10;
  }

  test("bounds the memory that a mount takes, also as -o cache_size", () => {
    const small = memoryOf("--cache-size", "1M");
    const large = memoryOf("-o", "cache_size=256M");
    expect(large - small).toBeGreaterThan(70 * 2 ** 20);
    const ordinary = memoryOf();
    expect(large - ordinary).toBeGreaterThan(25 * 2 ** 20);
    expect(ordinary - small).toBeGreaterThan(20 * 2 ** 20);
  }, 60_000);
});

describe("--log-level", () => {
  function loggedWith(...args: string[]): string {
    rmSync(join(directory, "log"), { force: true });
    expect(mount(...args, file, point).code).toBe(0);
    writeFileSync(join(point, "secret name"), "x");
    expect(sqlfuse(["unmount", point]).code).toBe(0);
    return readFileSync(join(directory, "log"), "utf8");
  }

  test("warn and error leave out what only tells; info names no file", () => {
    expect(loggedWith("--log-level", "warn")).toBe("");
    expect(loggedWith("-o", "log_level=error")).toBe("");
    expect(loggedWith("--log-level", "info")).not.toContain("secret name");
  });

  test.each([["--log-level", "debug"], ["--trace"], ["-o", "log_level=debug"]])(
    "%s %s has one line each way per request",
    (...args) => {
      const log = loggedWith(...args);
      const request = / debug sqlfuse\[\d+\] \S+: > (\d+) MKNOD .*"secret name"\n/.exec(log);
      expect(log).toMatch(new RegExp(` debug .*: < ${request?.[1]} MKNOD ok `));
    },
  );

  test("holds for a mount in the foreground too, whose messages bear no time", async () => {
    for (const [level, expected] of [
      ["info", /^sqlfuse: .* is mounted at .*\n(.*\n)?sqlfuse: unmounted; everything is committed\n$/],
      ["error", /^$/],
    ] as const) {
      const child = spawn(process.execPath, [CLI, "mount", "-f", "--log-level", level, file, point], {
        env: { ...process.env, SQLFUSE_PASSWORD: PASSWORD },
        stdio: ["ignore", "ignore", "pipe"],
      });
      let said = "";
      child.stderr.setEncoding("utf8").on("data", (text: string) => {
        said += text;
      });
      const ended = exitOf(child);
      // In the mount table it is a moment before a signal ends it as a mount that was made.
      await until("serving", () => sqlfuse(["status", "--json", point]).stdout.includes('"serving"'));
      child.kill("SIGTERM");
      expect(await ended).toBe(0);
      expect(said).toMatch(expected);
    }
  });

  test("of another name is refused with those that there are, and --trace beside it as well", () => {
    const odd = mount("--log-level", "loud", file, point);
    expect(odd.stderr).toMatch(/error, warn, info, debug/);
    expect(odd.code).toBe(2);
    const both = mount("--log-level", "error", "--trace", file, point);
    expect(both.stderr).toMatch(/cannot be used with/);
    expect(both.code).toBe(2);
  });
});

test.each(["--ro", "--read-only"])("%s mounts read-only", (option) => {
  expect(mount(option, file, point).stdout).toContain("mounted read-only at");
  expect(() => writeFileSync(join(point, "x"), "y")).toThrow(/EROFS/);
  expect(sqlfuse(["unmount", point]).code).toBe(0);
});

describe("a mount in the foreground", () => {
  test.each(["SIGINT", "SIGTERM", "SIGHUP"] as const)(
    "ends with 0 on %s, and nothing is left",
    async (signal) => {
      const child = spawn(process.execPath, [CLI, "mount", "-f", file], {
        env: { ...process.env, SQLFUSE_PASSWORD: PASSWORD },
        stdio: "ignore",
      });
      const ended = exitOf(child);
      const made = join(directory, "vault");
      await until("mounted", () => mountsBelow(directory).includes(made));
      writeFileSync(join(made, "x"), "y");
      child.kill(signal);
      expect(await ended).toBe(0);
      expect(existsSync(made)).toBe(false);
      expect(fingerprint(file)).not.toMatch(/-wal|-shm/);
    },
  );

  test("ends with 0 also where the signal comes the moment it is shown", async () => {
    for (let round = 0; round < 5; round++) {
      const child = spawn(process.execPath, [CLI, "mount", "-f", file, point], {
        env: { ...process.env, SQLFUSE_PASSWORD: PASSWORD },
        stdio: "ignore",
      });
      const ended = exitOf(child);
      while (!mountsBelow(directory).includes(point)) await new Promise((next) => setImmediate(next));
      child.kill("SIGTERM");
      expect(await ended).toBe(0);
      expect(mountsBelow(directory)).toEqual([]);
    }
  });

  test("a second signal while it waits for its users commits and leaves at once, with 128 + its number", async () => {
    const child = spawn(process.execPath, [CLI, "mount", "-f", file, point], {
      env: { ...process.env, SQLFUSE_PASSWORD: PASSWORD },
      stdio: "ignore",
    });
    const ended = exitOf(child);
    await until("mounted", () => mountsBelow(directory).includes(point));
    const fd = openSync(join(point, "x"), "w");
    writeSync(fd, "kept");
    child.kill("SIGTERM");
    await until("detached", () => mountsBelow(directory).length === 0);
    const started = Date.now();
    child.kill("SIGTERM");
    expect(await ended).toBe(143);
    expect(Date.now() - started).toBeLessThan(1000);
    expect(() => closeSync(fd)).toThrow(/ENOTCONN/);
    expect(fingerprint(file)).not.toMatch(/-wal|-shm/);
    mount(file, point);
    expect(readFileSync(join(point, "x"), "utf8")).toBe("kept");
    sqlfuse(["unmount", point]);
  });

  test("goes on when nobody reads its messages any more", async () => {
    const child = spawn(process.execPath, [CLI, "mount", "-f", "--trace", file, point], {
      env: { ...process.env, SQLFUSE_PASSWORD: PASSWORD },
      stdio: ["ignore", "ignore", "pipe"],
    });
    const ended = exitOf(child);
    await until("mounted", () => mountsBelow(directory).includes(point));
    child.stderr.destroy();
    for (let i = 0; i < 20; i++) writeFileSync(join(point, `f${i}`), "x");
    expect(readdirSync(point)).toHaveLength(20);
    child.kill("SIGTERM");
    expect(await ended).toBe(0);
  });

  test("ends with 0 when somebody unmounts it", async () => {
    const child = spawn(process.execPath, [CLI, "mount", "-f", file, point], {
      env: { ...process.env, SQLFUSE_PASSWORD: PASSWORD },
      stdio: "ignore",
    });
    const ended = exitOf(child);
    await until("mounted", () => mountsBelow(directory).includes(point));
    expect(sqlfuse(["unmount", point]).code).toBe(0);
    expect(await ended).toBe(0);
  });
});

describe("unmount", () => {
  test("of a mount in use names who uses it, ends with 16, and changes nothing", () => {
    const pid = pidOf(mount(file, point));
    writeFileSync(join(point, "x"), "y");
    const holder = spawn("sleep", ["60"], { cwd: point, stdio: "ignore" });
    const { code, stderr } = sqlfuse(["unmount", point]);
    expect(code).toBe(16);
    expect(stderr).toBe(
      `sqlfuse: ${point}: in use (held by pid ${holder.pid} (sleep)); end that, or: sqlfuse unmount --lazy ${point}\n`,
    );
    expect(isRunning(pid)).toBe(true);
    expect(readFileSync(join(point, "x"), "utf8")).toBe("y");
    holder.kill();
    return until("unmounted", () => sqlfuse(["unmount", point]).code === 0);
  });

  /** Unmounts, and has `letGo` called when it said that it waits, and for what. */
  async function waitsFor(what: string, pid: number, letGo: () => void): Promise<void> {
    const unmount = spawn(process.execPath, [CLI, "unmount", point], { stdio: ["ignore", "ignore", "pipe"] });
    const ended = exitOf(unmount);
    let said = "";
    unmount.stderr.on("data", (piece) => {
      said += String(piece);
    });
    await until("told", () => said.includes("\n"));
    expect(said).toBe(`sqlfuse: ${point}: unmounted here; pid ${pid} serves it until ${what}\n`);
    expect(mountsBelow(directory)).not.toContain(point);
    letGo();
    expect(await ended).toBe(0);
    expect(isRunning(pid)).toBe(false);
  }

  test.runIf(canHide)("waits for a mount namespace that has a copy of the mount, and names it", async () => {
    const pid = pidOf(mount(file, point));
    writeFileSync(join(point, "x"), "y");
    const holder = spawn("unshare", ["-m", "sleep", "60"], { stdio: "ignore" });
    await until("unshared", () => readFileSync(`/proc/${holder.pid}/comm`, "utf8") === "sleep\n");
    await waitsFor(`a mount namespace is gone: ${holder.pid} (sleep)`, pid, () => holder.kill());
  });

  test.runIf(isRoot)("waits for another place that the mount is bound to, and names it", async () => {
    const pid = pidOf(mount(file, point));
    const bound = join(directory, "bound");
    mkdirSync(bound);
    expect(spawnSync("mount", ["--bind", point, bound]).status).toBe(0);
    await waitsFor(`it is unmounted at ${bound} too`, pid, () => spawnSync("umount", [bound]));
  });

  test("--lazy detaches at once; the volume is closed when its last user is gone", async () => {
    const pid = pidOf(mount(file, point));
    const fd = openSync(join(point, "x"), "w");
    const { code, stderr } = sqlfuse(["unmount", "--lazy", point]);
    expect(code).toBe(0);
    expect(stderr).toContain(`pid ${pid} commits and ends`);
    expect(mountsBelow(directory)).toEqual([]);
    for (const args of [
      ["unmount", file],
      ["mount", file, point],
    ]) {
      const refused = sqlfuse(args);
      expect(refused.stderr).toMatch(new RegExp(`process ${pid}\\b`));
      expect(refused.code).toBe(11);
    }
    writeSync(fd, "late");
    closeSync(fd);
    await until("ended", () => !isRunning(pid));
    mount(file, point);
    expect(readFileSync(join(point, "x"), "utf8")).toBe("late");
    sqlfuse(["unmount", point]);
  });
});

describe("sync", () => {
  test("what was written before it survives the death of the process", async () => {
    const pid = pidOf(mount(file, point, "--commit", "3600"));
    writeFileSync(join(point, "x"), "y".repeat(100_000));
    expect(sqlfuse(["sync", point])).toEqual({ code: 0, stdout: "", stderr: "" });
    process.kill(pid, "SIGKILL");
    await until("ended", () => !isRunning(pid));
    mount(file, point);
    expect(readFileSync(join(point, "x"), "utf8")).toBe("y".repeat(100_000));
    sqlfuse(["unmount", point]);
  });

  test("of a dead mount says so", async () => {
    const pid = pidOf(mount(file, point));
    process.kill(pid, "SIGKILL");
    await until("ended", () => !isRunning(pid));
    const { code, stderr } = sqlfuse(["sync", point]);
    expect(code).toBe(10);
    expect(stderr).toContain("the process that served it is gone");
  });
});

describe("status", () => {
  test("shows file, mount point, process, since when, and what was served", () => {
    const pid = pidOf(mount(file, point));
    writeFileSync(join(point, "x"), "y".repeat(5000));
    const [one] = JSON.parse(sqlfuse(["status", "--json", file]).stdout);
    expect(one).toMatchObject({
      path: file,
      mountpoint: point,
      pid,
      readOnly: false,
      state: "serving",
      bytesWritten: 5000,
    });
    expect(one.requests).toBeGreaterThan(0);
    expect(Math.abs(Date.parse(one.since) - Date.now())).toBeLessThan(60_000);
    const table = sqlfuse(["status"]).stdout;
    expect(table).toMatch(/^FILE +MOUNTPOINT +MODE +PID +STATE/);
    expect(table).toMatch(new RegExp(`${file} +${point} +rw +${pid} +serving `));
    sqlfuse(["unmount", point]);
  });

  test.runIf(isRoot)("says of another user's mount that it is one, as does unmount", () => {
    pidOf(mount(file, point));
    const status = sqlfuse(["status", "--json", point], { unprivileged: true });
    expect(JSON.parse(status.stdout)).toMatchObject([{ state: "another user's" }]);
    expect(sqlfuse(["unmount", point], { unprivileged: true })).toEqual({
      code: 1,
      stdout: "",
      stderr: `sqlfuse: ${point}: is mounted by another user; only that user or root may unmount it\n`,
    });
    expect(sqlfuse(["unmount", point]).code).toBe(0);
  });
});

describe("bad input is refused on one line, with its own code, and changes nothing", () => {
  function refused(code: number, message: RegExp, args: readonly string[], password = PASSWORD): void {
    const before = fingerprint(file);
    const entries = readdirSync(directory).sort();
    const outcome = sqlfuse(["mount", ...args], { password });
    expect(outcome.stderr).toMatch(message);
    expect(outcome.stderr).toMatch(/^sqlfuse: .*\n$/);
    expect(outcome.code).toBe(code);
    expect(outcome.stdout).toBe("");
    expect(fingerprint(file)).toBe(before);
    expect(readdirSync(directory).sort()).toEqual(entries);
    expect(mountsBelow(directory)).toEqual([]);
  }

  const log = (): string[] => ["--log-file", "/dev/null"];

  test("a wrong password: 12", () => {
    refused(12, /vault\.sqlite: .*password/, [...log(), file, point], "wrong");
    refused(12, /vault\.sqlite: .*password/, ["--foreground", file, point], "wrong");
    // and the directory that was made for it is gone
    refused(12, /vault\.sqlite: .*password/, [...log(), file], "wrong");
  });

  test("an empty password: 22", () => refused(22, /is empty/, [...log(), file, point], ""));

  test("a missing file: 10", () => {
    refused(10, /nope\.sqlite: no such file; make a volume with: sqlfuse create/, [
      join(directory, "nope.sqlite"),
      point,
    ]);
  });

  test("a directory in its place: 10, and the order of the arguments", () => {
    refused(10, /is a directory, not a volume; the file comes first/, [point, file]);
  });

  test("a text file, an empty one, one of random bytes: 10, or 12 where nobody can tell", () => {
    const other = join(directory, "other");
    writeFileSync(other, "just text\n");
    refused(10, /other: /, [...log(), other, point]);
    writeFileSync(other, "");
    refused(10, /other: /, [...log(), other, point]);
    writeFileSync(other, randomBytes(6 * 16_384));
    refused(12, /other: /, [...log(), other, point]);
  });

  test("a plain SQLite database: 10", () => {
    const plain = join(directory, "plain");
    const made = spawnSync("python3", [
      "-c",
      `import sqlite3; c = sqlite3.connect("${plain}"); c.execute("create table t(x)"); c.commit()`,
    ]);
    expect(made.status).toBe(0);
    refused(10, /plain: /, [...log(), plain, point]);
  });

  test("a damaged first page: 20, told from a wrong password", () => {
    const fd = openSync(file, "r+");
    writeSync(fd, randomBytes(64), 0, 64, 1000);
    closeSync(fd);
    refused(20, /vault\.sqlite: .*damaged/, [...log(), file, point]);
  });

  test("a damaged salt: 12, and the message says that it may be that", () => {
    const fd = openSync(file, "r+");
    writeSync(fd, randomBytes(4), 0, 4, 3);
    closeSync(fd);
    refused(12, /vault\.sqlite: .*password.*(damaged|first)/, [...log(), file, point]);
  });

  test("a mount point that is missing, a file, or not empty: 10", () => {
    refused(10, /nowhere: no such directory; make it with: mkdir/, [file, join(directory, "nowhere")]);
    refused(10, /other: .*not a directory/, [file, makeFile("other")]);
    writeFileSync(join(point, "x"), "");
    refused(10, /point: .*not empty/, [file, point]);
  });

  test("a mount point that holds the database: 10", () => {
    refused(10, /holds|inside|not empty/, [file, directory]);
  });

  test("a log file inside the mount: 2", () => {
    refused(2, /is inside the mount/, ["--log-file", join(point, "log"), file, point]);
  });

  test("a log file that cannot be written: 10", () => {
    refused(10, /--log-file .*cannot be written/, ["--log-file", join(directory, "no/log"), file, point]);
  });

  function makeFile(name: string): string {
    writeFileSync(join(directory, name), "");
    return join(directory, name);
  }
});

describe("more that cannot be mounted", () => {
  test("a file that is mounted already: 11, with where and by which process", () => {
    const pid = pidOf(mount(file, point));
    const second = join(directory, "second");
    mkdirSync(second);
    const { code, stderr } = mount(file, second);
    expect(code).toBe(11);
    expect(stderr).toBe(
      `sqlfuse: ${file}: is mounted already, at ${point} by pid ${pid}; unmount it with: sqlfuse unmount ${point}\n`,
    );
    sqlfuse(["unmount", point]);
  });

  test("a mount point in the volume's own mount: 10", () => {
    mount(file, point);
    const inner = join(point, "inner");
    mkdirSync(inner);
    expect(sqlfuse(["unmount", point]).code).toBe(0);
    // Two read-only mounts of one file are allowed, but not the one inside the other.
    expect(mount("--ro", file, point).code).toBe(0);
    const { code, stderr } = mount("--ro", file, inner);
    expect(sqlfuse(["unmount", point]).code).toBe(0);
    expect(stderr).toMatch(/inner: is inside the mount of the same volume/);
    expect(code).toBe(10);
  });

  test.runIf(isRoot)("a read-only file is mounted read-only, and that is said", () => {
    chownSync(directory, 65_534, 65_534);
    chownSync(file, 65_534, 65_534);
    chownSync(point, 65_534, 65_534);
    chmodSync(file, 0o400);
    const outcome = sqlfuse(["mount", "--log-file", "/dev/null", "-o", "uid=65534,gid=65534", file, point], {
      password: PASSWORD,
      unprivileged: true,
    });
    expect(outcome.stderr).toBe(
      `sqlfuse: ${file}: cannot be written (EACCES), so the volume is mounted read-only\n`,
    );
    expect(outcome.code).toBe(0);
    expect(outcome.stdout).toContain("mounted read-only at");
    const before = fingerprint(file);
    const touched = spawnSync(
      "setpriv",
      ["--reuid=65534", "--regid=65534", "--clear-groups", "touch", join(point, "x")],
      {
        encoding: "utf8",
      },
    );
    expect(touched.stderr).toMatch(/Read-only file system/);
    expect(sqlfuse(["unmount", point], { unprivileged: true }).code).toBe(0);
    expect(fingerprint(file)).toBe(before);
  });

  test.runIf(isRoot)(
    "changes that wait in a -wal on a read-only place: 10, saying what to copy",
    async () => {
      const pid = pidOf(mount(file, point));
      writeFileSync(join(point, "x"), "y");
      sqlfuse(["sync", point]);
      process.kill(pid, "SIGKILL");
      await until("ended", () => !isRunning(pid));
      sqlfuse(["unmount", point]);
      for (const suffix of ["", "-wal"]) chownSync(file + suffix, 65_534, 65_534);
      chmodSync(directory, 0o555);
      const { code, stderr } = sqlfuse(["mount", "--log-file", "/dev/null", file, point], {
        password: PASSWORD,
        unprivileged: true,
      });
      chmodSync(directory, 0o755);
      expect(code).toBe(10);
      expect(stderr).toMatch(/copy both files to a writable directory/);
    },
  );

  test.runIf(isRoot)("a disk that is full at create: 28, and no file is left", () => {
    expect(spawnSync("mount", ["-t", "tmpfs", "-o", "size=32k", "tmpfs", point]).status).toBe(0);
    const { code, stderr } = sqlfuse(["create", join(point, "full.sqlite")]);
    const left = readdirSync(point);
    spawnSync("umount", [point]);
    expect(stderr).toMatch(/^sqlfuse: .*full\.sqlite: .*space.*\n$/);
    expect(code).toBe(28);
    expect(left).toEqual([]);
  });

  test.runIf(canHide)("no /dev/fuse: 19", () => {
    const hide = `mount -t tmpfs t /dev && mknod -m 666 /dev/null c 1 3 && mknod -m 666 /dev/urandom c 1 9 && exec "$@"`;
    const { status, stderr } = spawnSync(
      "unshare",
      ["-m", "sh", "-c", hide, "sh", process.execPath, CLI, "mount", "--log-file", "/dev/null", file, point],
      { encoding: "utf8", env: { ...process.env, SQLFUSE_PASSWORD: PASSWORD } },
    );
    expect(stderr).toMatch(/^sqlfuse: .*\/dev\/fuse.*\n$/);
    expect(status).toBe(19);
  });

  test.runIf(canHide)("no fusermount3, as a user who needs it: 19", () => {
    for (const place of [directory, file, point]) chownSync(place, 65_534, 65_534);
    const hide = `mount --bind /dev/null "$(command -v fusermount3)" && exec setpriv --reuid=65534 --clear-groups "$@"`;
    const { status, stderr } = spawnSync(
      "unshare",
      [
        "-m",
        "sh",
        "-c",
        hide,
        "sh",
        FOR_OTHERS.node,
        FOR_OTHERS.cli,
        "mount",
        "--log-file",
        "/dev/null",
        file,
        point,
      ],
      { encoding: "utf8", env: { ...process.env, SQLFUSE_PASSWORD: PASSWORD } },
    );
    expect(stderr).toMatch(/^sqlfuse: .*fusermount3.*\n$/);
    expect(status).toBe(19);
  });

  test.runIf(isRoot)("allow_other where /etc/fuse.conf does not permit it to users: 19", () => {
    for (const place of [directory, file, point]) chownSync(place, 65_534, 65_534);
    const { code, stderr } = sqlfuse(["mount", "--log-file", "/dev/null", "-o", "allow_other", file, point], {
      password: PASSWORD,
      unprivileged: true,
    });
    if (code === 0)
      sqlfuse(["unmount", point], { unprivileged: true }); // it does permit it here
    else expect(stderr).toMatch(/user_allow_other/);
    expect([0, 19]).toContain(code);
  });
});

describe("the prompt at mount", () => {
  test("asks once, and the mount outlives the terminal", async () => {
    const { code, stdout } = await sqlfuseOnTerminal(
      ["mount", "--log-file", join(directory, "log"), file, point],
      [["Password for", `${PASSWORD}\r`]],
    );
    expect(code).toBe(0);
    const pid = pidOf({ code, stdout, stderr: "" });
    await sleep(200);
    expect(isRunning(pid)).toBe(true);
    expect(statSync(point).ino).toBe(1);
    expect(sqlfuse(["unmount", point]).code).toBe(0);
  });

  test("a wrong one ends with 12, ^C with 130; a directory made for it is removed", async () => {
    const wrong = await sqlfuseOnTerminal(
      ["mount", "--log-file", "/dev/null", file],
      [["Password for", "nope\r"]],
    );
    expect(wrong.code).toBe(12);
    const stopped = await sqlfuseOnTerminal(
      ["mount", "--log-file", "/dev/null", file],
      [["Password for", "\u0003"]],
    );
    expect(stopped.code).toBe(130);
    expect(readdirSync(directory).sort()).toEqual(["point", "vault.sqlite"]);
  });
});

describe("--compat", () => {
  test("makes a file with SQLCipher's own settings that mounts like any other", () => {
    const compatible = join(directory, "compatible.sqlite");
    expect(sqlfuse(["create", "--compat", compatible]).code).toBe(0);
    expect(mount(compatible, point).code).toBe(0);
    writeFileSync(join(point, "x"), "y");
    expect(sqlfuse(["unmount", point]).code).toBe(0);
  });
});
