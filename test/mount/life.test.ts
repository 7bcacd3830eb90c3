/**
 * A volume's life: killed daemons, signals, every way to unmount, full disks, read-only places; what a mount costs
 * while nobody uses it.
 */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import {
  chmodSync,
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statfsSync,
  statSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { afterEach, describe, expect, test } from "vitest";
import { noise as noiseOf } from "../core/noise.ts";
import { O, SysError, sys } from "../helpers/libc.ts";
import { Random, seedOf } from "../helpers/model.ts";
import { hasProgram, run } from "../helpers/programs.ts";
import { isLong, report, seed } from "../helpers/torture.ts";
import {
  CLI,
  IS_ROOT,
  isAlive,
  lockHolder,
  mountingImpossible,
  PASSWORD,
  TestVolume,
  TRANSPORT_ARGS,
  until,
} from "../helpers/volume.ts";

const impossible = mountingImpossible();
if (impossible !== undefined) console.warn(`the life of a mount is not tested: ${impossible}`);

const sleep = (ms: number): Promise<void> => new Promise((done) => setTimeout(done, ms));
const sha256 = (path: string): string => createHash("sha256").update(readFileSync(path)).digest("hex");
/** It does not shrink, so that a disk can be filled with it. */
const noise = (length: number): Buffer => noiseOf(length, length);

let volume: TestVolume;
const started: ChildProcess[] = [];
const undo: (() => void)[] = [];
afterEach(() => {
  for (const child of started.splice(0)) child.kill("SIGKILL");
  volume?.remove();
  for (const one of undo.splice(0).reverse()) one();
});

function mounted(...args: string[]): string {
  volume = TestVolume.create();
  volume.mount(...args);
  return volume.mountpoint;
}

/** Mounts in the foreground, as a child of this process whose exit can be seen. */
async function foreground(...args: string[]): Promise<ChildProcess> {
  const log = openSync(join(volume.home, "log"), "a");
  const child = spawn(
    process.execPath,
    [CLI, "mount", volume.file, volume.mountpoint, "--foreground", ...TRANSPORT_ARGS, ...args],
    {
      stdio: ["ignore", log, log],
      env: { ...process.env, SQLFUSE_PASSWORD: PASSWORD, NODE_OPTIONS: "" },
    },
  );
  closeSync(log);
  started.push(child);
  await until("the mount to answer", () => {
    if (child.exitCode !== null) throw new Error(readFileSync(join(volume.home, "log"), "utf8"));
    return volume.mounted;
  });
  return child;
}

async function exitOf(child: ChildProcess): Promise<[code: number | null, signal: string | null]> {
  if (child.exitCode === null && child.signalCode === null) await once(child, "exit");
  return [child.exitCode, child.signalCode];
}

/** Fields of /proc/PID/stat from the state on; undefined where there is no such process. */
function statOf(pid: number | string): string[] | undefined {
  try {
    return readFileSync(`/proc/${pid}/stat`, "latin1").split(") ").at(-1)?.split(" ");
  } catch {
    return undefined;
  }
}

function sessionOf(pid: number): number {
  return Number(statOf(pid)?.[3]);
}

function pids(): number[] {
  return readdirSync("/proc").map(Number).filter(Number.isInteger);
}

/** Children that ended and that nobody asked for. */
function zombiesOf(parent: number): number[] {
  return pids().filter((pid) => {
    const [state, ppid] = statOf(pid) ?? [];
    return state === "Z" && Number(ppid) === parent;
  });
}

/** Background processes that were told to serve this file. */
function daemonsOf(file: string): number[] {
  const found = pids().filter((pid) => {
    try {
      const words = readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
      return words.includes("--child") && words.includes(file);
    } catch {
      return false;
    }
  });
  // A process that a daemon has just begun looks like it until it runs its own program.
  return found.filter((pid) => !found.includes(Number(statOf(pid)?.[1])));
}

function put(path: string, data: Buffer | string): void {
  writeFileSync(path, data);
}

function durably(path: string, data: Buffer | string): void {
  const fd = openSync(path, "w");
  writeSync(fd, Buffer.from(data));
  sys.fsync(fd);
  closeSync(fd);
}

describe.skipIf(impossible !== undefined)("a killed daemon", () => {
  /**
   * Makes file after file, each naming its number; every so often fsyncs. Tells on its output what was done when:
   * "n ms" after each file, "n ms fsync" after an fsync.
   */
  const WRITER = `
import os, sys, time
os.chdir(sys.argv[1]); n = 0; blob = os.urandom(20000)
try:
    while True:
        fd = os.open("f%07d" % n, os.O_CREAT | os.O_WRONLY | os.O_EXCL)
        os.write(fd, b"%d\\n" % n + blob[:n * 37 % 20000]); synced = n % 23 == 7
        if synced: os.fsync(fd)
        os.close(fd)
        if n % 5 == 4: os.rename("f%07d" % (n - 2), "r%07d" % (n - 2))
        os.write(1, b"%d %d%s\\n" % (n, time.time() * 1000, b" fsync" if synced else b"")); n += 1
except OSError as e: os.write(1, b"end %d\\n" % e.errno)
`;

  /** Beside it others work, so that the daemon is killed in the middle of many things. */
  const NOISE = `
import os, random, sys
os.makedirs(sys.argv[1], exist_ok=True); os.chdir(sys.argv[1]); n = 0
try:
    while True:
        n += 1
        fd = os.open("n%d" % (n % 20), os.O_CREAT | os.O_RDWR | os.O_APPEND)
        os.write(fd, os.urandom(random.randrange(100000)))
        if n % 9 == 0: os.fsync(fd)
        if n % 7 == 0: os.unlink("n%d" % (n % 20))
        os.close(fd)
        if n % 5 == 0: os.makedirs("d%d/e" % (n % 11), exist_ok=True); os.rename("d%d" % (n % 11), "m%d" % n)
except OSError: pass
`;

  const rounds = process.env.SQLFUSE_LONG === "1" ? 25 : 2;

  test(`${rounds} times: mounts by itself, lost nothing fsynced, and is the state of one moment`, {
    timeout: 60_000 + rounds * 15_000,
  }, async () => {
    const random = new Random(seedOf("killed daemon"));
    mounted();
    for (let round = 0; round < rounds; round++) {
      const directory = join(volume.mountpoint, `round${round}`);
      mkdirSync(directory);
      const log = join(volume.home, `log${round}`);
      const out = openSync(log, "w");
      const writer = spawn("python3", ["-IS", "-c", WRITER, directory], {
        stdio: ["ignore", out, "inherit"],
      });
      closeSync(out);
      started.push(writer);
      if (round % 2 === 1) {
        for (const name of ["noise1", "noise2"]) {
          started.push(
            spawn("python3", ["-IS", "-c", NOISE, join(volume.mountpoint, name)], { stdio: "ignore" }),
          );
        }
      }
      await until("the writer to begin", () => statSync(log).size > 0);
      await sleep(300 + random.below(2200));
      const killedAt = Date.now();
      await volume.kill();
      await exitOf(writer);
      const lines = readFileSync(log, "utf8").trim().split("\n");
      expect(lines.at(-1)).toMatch(/^end \d+$/);
      const done = lines.slice(0, -1).map((line) => {
        const [n, ms, fsync] = line.split(" ");
        return { n: Number(n), ms: Number(ms), fsynced: fsync !== undefined };
      });
      expect(done.length, "files made").toBeGreaterThan(5);

      volume.mount();
      const names = existsSync(directory) ? readdirSync(directory) : [];
      const numbers = names.map((name) => Number(name.slice(1))).sort((a, b) => a - b);
      expect(numbers, "files are there from the first one on").toEqual(numbers.map((_, i) => i));
      const last = numbers.length - 1;
      const lastFsynced = done.findLast((one) => one.fsynced)?.n ?? -1;
      expect(last, "the last file that was fsynced").toBeGreaterThanOrEqual(lastFsynced);
      // The file after the last that was told may be half made: a CREATE, then a WRITE, then a close.
      expect(last).toBeLessThanOrEqual(done.length);
      const lost = done.filter((one) => one.n > last);
      for (const one of lost) expect(killedAt - one.ms, `age of lost file ${one.n}`).toBeLessThan(2000);
      for (const name of names) {
        const n = Number(name.slice(1));
        const text = readFileSync(join(directory, name));
        // Of the very last operations some may be missing, but in order: made, written, renamed.
        if (n < last) expect(text.subarray(0, text.indexOf(10)).toString(), name).toBe(String(n));
        if (n < last) expect(text.length, name).toBe(String(n).length + 1 + ((n * 37) % 20_000));
        const renamedBy = n + 2;
        if (n % 5 === 2 && renamedBy < last) expect(name[0], name).toBe("r");
        if (n % 5 !== 2) expect(name[0], name).toBe("f");
      }
    }
    volume.unmount();
  });

  test("while it unmounts, at any moment: everything that was synced is there", {
    timeout: 120_000,
  }, async () => {
    const random = new Random(seedOf("killed while unmounting"));
    const mnt = mounted();
    for (let round = 0; round < 4; round++) {
      for (let i = 0; i < 30; i++) put(join(mnt, `r${round}-${i}`), noise(i * 20_000));
      expect(volume.cli(["sync", mnt]).status).toBe(0);
      for (let i = 0; i < 30; i++) put(join(mnt, `late${round}-${i}`), noise(50_000));
      const unmounting = spawn(process.execPath, [CLI, "unmount", mnt], { stdio: "ignore" });
      await sleep(150 + random.below(200));
      await volume.kill().catch(() => undefined);
      await exitOf(unmounting);
      volume.mount();
      for (let i = 0; i < 30; i++) {
        expect(readFileSync(join(mnt, `r${round}-${i}`)).equals(noise(i * 20_000)), `r${round}-${i}`).toBe(
          true,
        );
      }
    }
    volume.unmount();
  });

  test("leaves a dead mount, which the next mount clears away", async () => {
    const mnt = mounted();
    durably(join(mnt, "f"), "kept");
    await volume.kill();
    expect(() => statSync(mnt)).toThrow(/ENOTCONN|ECONNABORTED/);
    volume.mount();
    expect(readFileSync(join(mnt, "f"), "utf8")).toBe("kept");
    volume.unmount();
    expect(volume.mounted).toBe(false);
  });

  test("what is older than the commit interval is there", async () => {
    const mnt = mounted();
    put(join(mnt, "f"), noise(300_000));
    mkdirSync(join(mnt, "d"));
    await sleep(1700);
    await volume.kill();
    volume.mount();
    expect(readFileSync(join(mnt, "f")).equals(noise(300_000))).toBe(true);
    expect(statSync(join(mnt, "d")).isDirectory()).toBe(true);
    volume.unmount();
  });

  test("`sqlfuse sync` commits at once", async () => {
    const mnt = mounted("-o", "commit=600");
    put(join(mnt, "f"), noise(100_000));
    expect(volume.cli(["sync", mnt]).status).toBe(0);
    await volume.kill();
    volume.mount();
    expect(readFileSync(join(mnt, "f")).equals(noise(100_000))).toBe(true);
    volume.unmount();
  });

  test("with --sync every operation that returned is there", async () => {
    const mnt = mounted("--sync");
    for (let i = 0; i < 20; i++) put(join(mnt, `f${i}`), noise(i * 100));
    unlinkSync(join(mnt, "f0"));
    await volume.kill();
    volume.mount();
    expect(readdirSync(mnt).length).toBe(19);
    expect(readFileSync(join(mnt, "f19")).equals(noise(1900))).toBe(true);
    volume.unmount();
  });

  test.each(["fsync", "fdatasync", "fsync of the directory"])(
    "%s makes durable what came before it",
    async (how) => {
      const mnt = mounted("-o", "commit=600");
      mkdirSync(join(mnt, "d"));
      put(join(mnt, "d", "earlier"), "earlier");
      const fd = sys.open(
        how === "fsync of the directory" ? join(mnt, "d") : join(mnt, "d", "earlier"),
        O.RDONLY,
      );
      if (how === "fdatasync") sys.fdatasync(fd);
      else sys.fsync(fd);
      sys.close(fd);
      put(join(mnt, "later"), "later");
      await volume.kill();
      volume.mount();
      expect(readFileSync(join(mnt, "d", "earlier"), "utf8")).toBe("earlier");
      expect(existsSync(join(mnt, "later"))).toBe(false);
      volume.unmount();
    },
  );

  test("O_SYNC writes are durable when they return", async () => {
    const mnt = mounted("-o", "commit=600");
    const fd = sys.open(join(mnt, "f"), O.WRONLY | O.CREAT | O.SYNC);
    sys.write(fd, "durable");
    await volume.kill();
    expect(() => sys.close(fd)).toThrow(/ENOTCONN/);
    volume.mount();
    expect(readFileSync(join(mnt, "f"), "utf8")).toBe("durable");
    volume.unmount();
  });

  test("unlinked files that were open at the kill are gone, and so is their space", async () => {
    const mnt = mounted();
    durably(join(mnt, "anchor"), "x");
    const fds = Array.from({ length: 5 }, (_, i) => {
      const fd = sys.open(join(mnt, `gone${i}`), O.RDWR | O.CREAT);
      sys.pwrite(fd, noise(1 << 20), 0);
      unlinkSync(join(mnt, `gone${i}`));
      return fd;
    });
    sys.fsync(fds[0] ?? -1);
    await volume.kill();
    for (const fd of fds) sys.close(fd);
    volume.mount();
    volume.unmount();
    const full = statSync(volume.file).size;
    volume.mount();
    put(join(mnt, "again"), noise(4 << 20));
    volume.unmount();
    expect(statSync(volume.file).size, "freed pages are used again").toBeLessThan(full + (2 << 20));
  });
});

describe.skipIf(impossible !== undefined)("the end of a mount", () => {
  test.each(["SIGTERM", "SIGINT", "SIGHUP"] as const)(
    "%s commits, unmounts and exits with 0",
    async (signal) => {
      volume = TestVolume.create();
      const child = await foreground();
      put(join(volume.mountpoint, "f"), noise(500_000));
      child.kill(signal);
      expect(await exitOf(child)).toEqual([0, null]);
      expect(volume.mounted).toBe(false);
      volume.unmounted();
      volume.mount();
      expect(readFileSync(join(volume.mountpoint, "f")).equals(noise(500_000))).toBe(true);
      volume.unmount();
    },
  );

  test("SIGTERM ends the background daemon as cleanly", async () => {
    const mnt = mounted();
    put(join(mnt, "f"), "x");
    process.kill(volume.pid, "SIGTERM");
    volume.unmounted();
    expect(volume.mounted).toBe(false);
    expect(lockHolder(volume.file)).toBe(undefined);
  });

  test.skipIf(!IS_ROOT)("plain umount commits, and the foreground command ends with 0", async () => {
    volume = TestVolume.create();
    const child = await foreground();
    put(join(volume.mountpoint, "f"), noise(20 << 20));
    expect(spawnSync("umount", [volume.mountpoint]).status).toBe(0);
    expect(await exitOf(child)).toEqual([0, null]);
    volume.unmounted();
    volume.mount();
    expect(readFileSync(join(volume.mountpoint, "f")).equals(noise(20 << 20))).toBe(true);
    volume.unmount();
  });

  test.skipIf(!hasProgram("fusermount3"))("fusermount3 -u commits and ends the daemon", async () => {
    const mnt = mounted();
    put(join(mnt, "f"), "x");
    expect(spawnSync("fusermount3", ["-u", mnt]).status).toBe(0);
    volume.unmounted();
    expect(volume.mounted).toBe(false);
  });

  test("unmount takes the file as well as the mount point, and returns when the file is closed", () => {
    const mnt = mounted();
    put(join(mnt, "f"), noise(10 << 20));
    const { pid } = volume;
    const done = volume.cli(["unmount", volume.file]);
    expect(done.status, done.stderr).toBe(0);
    expect(lockHolder(volume.file)).toBe(undefined);
    volume.onlyTheFile();
    volume.unmounted();
    expect(isAlive(pid)).toBe(false);
  });

  test("a mount in use is not unmounted, and goes on working", () => {
    const mnt = mounted();
    const fd = sys.open(join(mnt, "f"), O.RDWR | O.CREAT);
    const done = volume.cli(["unmount", mnt]);
    expect(done.status).not.toBe(0);
    expect(done.stderr.trim().split("\n").length).toBeGreaterThan(0);
    expect(done.stderr).toContain(mnt);
    sys.pwrite(fd, "still here", 0);
    expect(readFileSync(join(mnt, "f"), "utf8")).toBe("still here");
    sys.close(fd);
    volume.unmount();
  });

  test.skipIf(!IS_ROOT)(
    "a lazily unmounted mount works until the last descriptor is closed, and commits",
    async () => {
      const mnt = mounted();
      const fd = sys.open(join(mnt, "f"), O.RDWR | O.CREAT);
      expect(spawnSync("umount", ["-l", mnt]).status).toBe(0);
      expect(volume.mounted).toBe(false);
      sys.pwrite(fd, noise(200_000), 0);
      expect(sys.pread(fd, 200_000, 0).equals(noise(200_000))).toBe(true);
      sys.close(fd);
      volume.unmounted();
      volume.mount();
      expect(readFileSync(join(mnt, "f")).equals(noise(200_000))).toBe(true);
      volume.unmount();
    },
  );

  test.skipIf(!IS_ROOT || !existsSync("/sys/fs/fuse/connections"))(
    "an aborted connection commits what was acknowledged, and the daemon ends",
    async (context) => {
      const mnt = mounted();
      put(join(mnt, "f"), noise(100_000));
      const connection = sys.lstat(mnt).dev[1];
      const abort = `/sys/fs/fuse/connections/${connection}/abort`;
      if (!existsSync(abort)) {
        spawnSync("mount", ["-t", "fusectl", "fusectl", "/sys/fs/fuse/connections"]);
        undo.push(() => spawnSync("umount", ["/sys/fs/fuse/connections"]));
      }
      if (!existsSync(abort)) {
        console.warn("abort of a connection is not tested: no fusectl");
        context.skip("no fusectl");
        return;
      }
      const { pid } = volume;
      writeFileSync(abort, "1");
      await until("the daemon to end", () => !isAlive(pid));
      if (volume.mounted) expect(() => statSync(mnt)).toThrow(/ENOTCONN|ECONNABORTED/);
      volume.mount();
      expect(readFileSync(join(mnt, "f")).equals(noise(100_000))).toBe(true);
      volume.unmount();
    },
  );

  test("a stopped daemon makes its callers wait, and they get their answers when it goes on", {
    timeout: 120_000,
  }, async () => {
    const mnt = mounted();
    put(join(mnt, "f"), "before");
    process.kill(volume.pid, "SIGSTOP");
    const waiting = spawn("python3", ["-IS", "-c", `import os, sys; os.mkdir(sys.argv[1] + "/d")`, mnt]);
    started.push(waiting);
    await sleep(isLong() ? 60_000 : 700);
    expect(waiting.exitCode).toBe(null);
    // It lives as long as it is stopped: nobody else gets its volume.
    const other = join(volume.home, "other");
    mkdirSync(other);
    expect(volume.tryMount([], other).status).toBe(11);
    process.kill(volume.pid, "SIGCONT");
    expect(await exitOf(waiting)).toEqual([0, null]);
    expect(readdirSync(mnt).sort()).toEqual(["d", "f"]);
    volume.unmount();
  });

  const launches = isLong() ? 40 : 4;
  test(`whoever started it is killed at any moment, ${launches} times: it is mounted, or nothing is left`, {
    timeout: 60_000 + launches * 15_000,
  }, async () => {
    const random = new Random(seed());
    volume = TestVolume.create();
    const ends = { mounted: 0, nothing: 0 };
    for (let i = 0; i < launches; i++) {
      const launcher = spawn(process.execPath, [CLI, "mount", volume.file, volume.mountpoint], {
        stdio: "ignore",
        env: { ...process.env, SQLFUSE_PASSWORD: PASSWORD, NODE_OPTIONS: "" },
      });
      started.push(launcher);
      await sleep(random.below(900));
      launcher.kill("SIGKILL");
      await exitOf(launcher);
      await until(
        "the daemon to serve or to end",
        () => volume.mounted || daemonsOf(volume.file).length === 0,
      );
      const pids = daemonsOf(volume.file);
      if (pids.length > 0) {
        ends.mounted++;
        // It has a session of its own, so that no terminal's end is its own.
        expect(pids.map(sessionOf)).toEqual(pids);
        put(join(volume.mountpoint, "f"), `${i}`);
        expect(volume.cli(["unmount", volume.mountpoint]).status).toBe(0);
        await until("the daemon to end", () => !pids.some(isAlive));
      } else {
        ends.nothing++;
      }
      volume.unmounted();
      expect(volume.mounted).toBe(false);
    }
    report("life", launches, `launchers killed: ${JSON.stringify(ends)}`);
  });

  test("unmounting what is not mounted is refused", () => {
    volume = TestVolume.create();
    const done = volume.cli(["unmount", volume.mountpoint]);
    expect(done.status).not.toBe(0);
    expect(done.stderr).toContain(volume.mountpoint);
  });

  const mounts = isLong() ? 200 : 5;
  test(`${mounts} mounts in a row keep everything and leave one file each time, no process and no zombie`, {
    timeout: 60_000 + mounts * 5000,
  }, () => {
    volume = TestVolume.create();
    for (let i = 0; i < mounts; i++) {
      volume.mount();
      expect(readdirSync(volume.mountpoint).length).toBe(i);
      put(join(volume.mountpoint, `f${i}`), noise((i % 10) * 20_000));
      expect(zombiesOf(volume.pid)).toEqual([]);
      volume.unmount();
      expect(daemonsOf(volume.file)).toEqual([]);
    }
    volume.mount();
    for (let i = 0; i < mounts; i++) {
      expect(readFileSync(join(volume.mountpoint, `f${i}`)).equals(noise((i % 10) * 20_000)), `f${i}`).toBe(
        true,
      );
    }
    volume.unmount();
    report("life", mounts, "mounts");
  });
});

describe.skipIf(impossible !== undefined)("who else wants the volume", () => {
  test("a second mount is refused with 11 and told where and by whom it is mounted", () => {
    const mnt = mounted();
    const other = join(volume.home, "other");
    mkdirSync(other);
    const done = volume.tryMount([], other);
    expect(done.status).toBe(11);
    expect(done.stderr).toContain(String(volume.pid));
    expect(done.stderr.trim().split("\n").length).toBe(1);
    put(join(mnt, "f"), "the first mount works on");
    volume.unmount();
  });

  test("a second mount succeeds at once where the first was killed, though its dead mount is still there", async () => {
    const mnt = mounted();
    durably(join(mnt, "f"), "kept");
    const other = join(volume.home, "other");
    mkdirSync(other);
    expect(volume.tryMount([], other).status).toBe(11);
    await volume.kill();
    expect(volume.mounted).toBe(true);
    const done = volume.tryMount([], other);
    expect(done.status, done.stderr).toBe(0);
    expect(readFileSync(join(other, "f"), "utf8")).toBe("kept");
    // The lock is the new one's alone: a third is refused, and the dead mount can be cleared meanwhile.
    expect(volume.tryMount([], mnt).status).toBe(11);
    expect(volume.cli(["unmount", mnt]).status).toBe(0);
    put(join(other, "g"), "still served");
    expect(volume.cli(["unmount", other]).status).toBe(0);
    volume.unmounted();
  });

  test("of five mounts at the same moment one succeeds, and the others are refused with 11", async () => {
    volume = TestVolume.create();
    const places = Array.from({ length: 5 }, (_, i) => join(volume.home, `place${i}`));
    for (const place of places) mkdirSync(place);
    const codes = await Promise.all(
      places.map(async (place) => {
        const child = spawn(process.execPath, [CLI, "mount", volume.file, place], {
          stdio: "ignore",
          env: { ...process.env, SQLFUSE_PASSWORD: PASSWORD, NODE_OPTIONS: "" },
        });
        started.push(child);
        return (await exitOf(child))[0];
      }),
    );
    expect(codes.sort()).toEqual([0, 11, 11, 11, 11]);
    expect(volume.cli(["unmount", volume.file]).status).toBe(0);
    volume.unmounted();
  });

  test("two volumes are mounted at once and know nothing of each other", () => {
    const mnt = mounted();
    const second = TestVolume.create();
    undo.push(() => second.remove());
    second.mount();
    put(join(mnt, "f"), "first");
    put(join(second.mountpoint, "f"), "second");
    volume.unmount();
    expect(readFileSync(join(second.mountpoint, "f"), "utf8")).toBe("second");
    second.unmount();
  });

  test("the root directory belongs to its creator alone, and only the file's owner may read the file", () => {
    const mnt = mounted();
    expect(statSync(mnt).mode & 0o7777).toBe(0o700);
    expect(statSync(mnt).uid).toBe(process.geteuid?.());
    expect(statSync(volume.file).mode & 0o777).toBe(0o600);
    volume.unmount();
  });

  test.skipIf(!IS_ROOT)("without allow_other nobody else may look, with it the modes decide", () => {
    const mnt = mounted();
    chmodSync(mnt, 0o755);
    put(join(mnt, "f"), "x");
    const look = (): string =>
      spawnSync("python3", ["-IS", "-c", `import os, sys; print(os.listdir(sys.argv[1]))`, mnt], {
        uid: 12001,
        gid: 12001,
        encoding: "utf8",
      }).stdout.trim();
    expect(look()).toBe("");
    volume.remount("--allow-other");
    expect(look()).toBe("['f']");
    chmodSync(mnt, 0o700);
    expect(look()).toBe("");
    volume.unmount();
  });

  test.skipIf(!IS_ROOT)("nosuid and nodev hold unless suid and dev are asked for", () => {
    const mnt = mounted();
    expect(volume.entry?.options).toMatch(/nosuid/);
    expect(volume.entry?.options).toMatch(/nodev/);
    sys.mknod(join(mnt, "null"), 0o020666, 0x103);
    expect(() => sys.open(join(mnt, "null"), O.RDONLY)).toThrow(/EACCES/);
    volume.remount("-o", "dev,suid");
    expect(volume.entry?.options).not.toMatch(/nodev|nosuid/);
    sys.close(sys.open(join(mnt, "null"), O.RDONLY));
    volume.remount("-o", "noexec,noatime");
    put(join(mnt, "script"), "#!/bin/sh\n");
    chmodSync(join(mnt, "script"), 0o755);
    expect(spawnSync(join(mnt, "script")).error?.message).toMatch(/EACCES/);
    volume.unmount();
  });

  test.skipIf(!IS_ROOT)("uid= and gid= show every file as owned by them", () => {
    const mnt = mounted();
    put(join(mnt, "f"), "x");
    volume.remount("-o", "uid=12345,gid=54321");
    expect([statSync(join(mnt, "f")).uid, statSync(join(mnt, "f")).gid]).toEqual([12345, 54321]);
    volume.remount();
    expect(statSync(join(mnt, "f")).uid).toBe(0);
    volume.unmount();
  });
});

/** Ticks of 10 ms that a process used, and how often its threads gave the processor away. */
function used(pid: number): { ticks: number; switches: number } {
  let ticks = 0;
  let switches = 0;
  for (const thread of readdirSync(`/proc/${pid}/task`)) {
    const fields = readFileSync(`/proc/${pid}/task/${thread}/stat`, "utf8").split(") ")[1]?.split(" ") ?? [];
    ticks += Number(fields[11]) + Number(fields[12]);
    const status = readFileSync(`/proc/${pid}/task/${thread}/status`, "utf8");
    switches += Number(/^voluntary_ctxt_switches:\s*(\d+)/m.exec(status)?.[1]);
  }
  return { ticks, switches };
}

function memoryMiB(pid: number): number {
  return Number(/^VmRSS:\s*(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]) / 1024;
}

describe.skipIf(impossible !== undefined)("what a mount costs", () => {
  test("an idle mount uses no processor, also while it waits to be idle long enough", async () => {
    const mnt = mounted("--idle-timeout", "1h");
    for (let i = 0; i < 200; i++) put(join(mnt, `f${i}`), noise(i * 100));
    for (let i = 0; i < 100; i++) unlinkSync(join(mnt, `f${i}`));
    await sleep(4000);
    // On a busy machine what comes with being quiet (a commit, the -wal, garbage) comes later.
    const spent: { ticks: number; switches: number }[] = [];
    const isQuiet = (window?: { ticks: number; switches: number }) =>
      window?.ticks === 0 && window.switches < 10;
    while (spent.length < 5 && !isQuiet(spent.at(-1))) {
      const before = used(volume.pid);
      await sleep(3000);
      const after = used(volume.pid);
      spent.push({ ticks: after.ticks - before.ticks, switches: after.switches - before.switches });
    }
    expect(isQuiet(spent.at(-1)), `in 3 s each: ${JSON.stringify(spent)}`).toBe(true);
    volume.unmount();
  });

  test("memory stays small through big files, many files and long listings", () => {
    const mnt = mounted();
    const chunk = noise(4 << 20);
    const fd = openSync(join(mnt, "big"), "w");
    for (let i = 0; i < 50; i++) writeSync(fd, chunk);
    closeSync(fd);
    for (let i = 0; i < 3000; i++) sys.mknod(join(mnt, `n${i}`), 0o100600);
    for (let i = 0; i < 5; i++) sys.readdir(mnt);
    expect(readFileSync(join(mnt, "big")).length).toBe(200 << 20);
    expect(memoryMiB(volume.pid)).toBeLessThan(450);
    volume.unmount();
  });

  test("space of deleted and truncated files is used again", async () => {
    const mnt = mounted();
    put(join(mnt, "anchor"), "x");
    const data = noise(12 << 20);
    put(join(mnt, "f"), data);
    volume.remount();
    const oneFile = statSync(volume.file).size;
    for (let i = 0; i < 5; i++) {
      unlinkSync(join(mnt, "f"));
      await sleep(150);
      put(join(mnt, "f"), data);
      truncateSync(join(mnt, "f"), 100);
      put(join(mnt, "g"), data);
      unlinkSync(join(mnt, "g"));
      await sleep(150);
    }
    volume.unmount();
    // What lives is one file; what is being deleted may overlap with what is being written.
    expect(statSync(volume.file).size).toBeLessThan(oneFile * 3);
  });

  test("statfs tells of the disk below and sees what is written", () => {
    const mnt = mounted();
    expect(availableMib(mnt)).toBeGreaterThan(0);
    expect(availableMib(mnt)).toBeLessThan(availableMib(volume.home) * 1.1 + 64);
    volume.unmount();
  });
});

/** What statfs says can be written. */
function availableMib(path: string): number {
  const { bavail, bsize } = statfsSync(path);
  return (bavail * bsize) / 2 ** 20;
}

/** An ext4 of its own, small enough to be filled. */
function smallDisk(mib: number): string | undefined {
  if (!IS_ROOT || !hasProgram("mkfs.ext4")) return undefined;
  const base = join(volume.home, "disk");
  mkdirSync(base);
  const image = join(volume.home, "disk.img");
  closeSync(openSync(image, "w"));
  truncateSync(image, mib << 20);
  if (spawnSync("mkfs.ext4", ["-q", "-F", "-m", "0", image]).status !== 0) return undefined;
  if (spawnSync("mount", ["-o", "loop", image, base]).status !== 0) return undefined;
  undo.push(() => {
    spawnSync("umount", ["-l", base]);
    rmSync(image, { force: true });
  });
  return base;
}

describe.skipIf(impossible !== undefined)("a full disk", () => {
  test.skipIf(!IS_ROOT)(
    "refuses writes with ENOSPC, lets one delete, and leaves a whole volume",
    {
      timeout: 120_000,
    },
    async (context) => {
      const host = TestVolume.create();
      volume = host;
      const disk = smallDisk(64);
      if (disk === undefined) {
        console.warn("the full disk is skipped: no loop device or no mkfs.ext4");
        host.remove();
        context.skip("no loop device or no mkfs.ext4");
        return;
      }
      // Taken away in this order: the volume on the disk, the disk, its host.
      undo.unshift(() => host.remove());
      volume = TestVolume.create({ parent: disk });
      volume.mount();
      const mnt = volume.mountpoint;
      durably(join(mnt, "first"), noise(100_000));
      const saidMib = availableMib(mnt);
      const written: string[] = [];
      let refused: string | undefined;
      for (let i = 0; i < 200 && refused === undefined; i++) {
        const path = join(mnt, `f${i}`);
        try {
          const fd = sys.open(path, O.WRONLY | O.CREAT, 0o644);
          try {
            const data = noise(1 << 20);
            for (let at = 0; at < data.length; ) at += sys.write(fd, data.subarray(at));
            if (i % 4 === 0) sys.fsync(fd);
          } finally {
            sys.close(fd);
          }
          written.push(path);
        } catch (error) {
          refused = error instanceof SysError ? error.code : String(error);
        }
      }
      expect(refused).toBe("ENOSPC");
      expect(written.length, "MiB written where statfs promised them").toBeGreaterThan(saidMib * 0.75);
      expect(written.length, "MiB written where statfs promised them").toBeLessThan(saidMib + 4);
      expect(availableMib(mnt), "MiB available on a full disk").toBeLessThan(4);
      // Full, but alive: everything written is there, one can look, rename and sync.
      for (const path of written) expect(readFileSync(path).equals(noise(1 << 20)), path).toBe(true);
      sys.rename(join(mnt, "first"), join(mnt, "renamed"));
      const fd = sys.open(join(mnt, "renamed"), O.RDWR);
      sys.fsync(fd);
      sys.close(fd);
      let again: string | undefined;
      try {
        put(join(mnt, "more"), noise(8 << 20));
      } catch (error) {
        again = (error as NodeJS.ErrnoException).code;
      }
      expect(again).toBe("ENOSPC");
      // Deleting works, and makes room.
      for (const path of written.slice(0, Math.ceil(written.length / 2))) unlinkSync(path);
      rmSync(join(mnt, "more"), { force: true });
      const half = written.length / 2;
      await until("statfs to tell of the room", () => availableMib(mnt) > half - 4);
      for (let i = 0; i < 5; i++) durably(join(mnt, `new${i}`), noise(1 << 20));
      volume.remount();
      for (let i = 0; i < 5; i++)
        expect(readFileSync(join(mnt, `new${i}`)).equals(noise(1 << 20))).toBe(true);
      for (const path of written.slice(Math.ceil(written.length / 2))) {
        expect(readFileSync(path).equals(noise(1 << 20)), path).toBe(true);
      }
      volume.unmount();
      volume.remove();
    },
  );

  test.skipIf(!IS_ROOT)(
    "a daemon killed on a full disk leaves a volume that mounts",
    { timeout: 120_000 },
    async () => {
      const host = TestVolume.create();
      volume = host;
      const disk = smallDisk(48);
      if (disk === undefined) {
        host.remove();
        return;
      }
      undo.unshift(() => host.remove());
      volume = TestVolume.create({ parent: disk });
      volume.mount();
      const mnt = volume.mountpoint;
      durably(join(mnt, "kept"), noise(200_000));
      const fill = spawnSync("dd", ["if=/dev/urandom", `of=${join(mnt, "fill")}`, "bs=100k"], {
        encoding: "utf8",
      });
      expect(fill.stderr).toMatch(/No space left/);
      await volume.kill();
      volume.mount();
      expect(readFileSync(join(mnt, "kept")).equals(noise(200_000))).toBe(true);
      rmSync(join(mnt, "fill"), { force: true });
      put(join(mnt, "after"), "room again");
      volume.unmount();
      volume.remove();
    },
  );
});

describe.skipIf(impossible !== undefined)("read-only", () => {
  /** Every way to change something is EROFS. */
  function nothingChanges(mnt: string): void {
    const attempts: Record<string, () => void> = {
      create: () => sys.close(sys.open(join(mnt, "new"), O.WRONLY | O.CREAT)),
      write: () => sys.close(sys.open(join(mnt, "f"), O.WRONLY)),
      mkdir: () => sys.mkdir(join(mnt, "d2")),
      mknod: () => sys.mknod(join(mnt, "p"), 0o010600),
      symlink: () => sys.symlink("x", join(mnt, "l")),
      link: () => sys.link(join(mnt, "f"), join(mnt, "g")),
      unlink: () => sys.unlink(join(mnt, "f")),
      rmdir: () => sys.rmdir(join(mnt, "d")),
      rename: () => sys.rename(join(mnt, "f"), join(mnt, "g")),
      chmod: () => sys.chmod(join(mnt, "f"), 0o600),
      utimens: () => sys.utimens(join(mnt, "f"), 0n, 0n),
      truncate: () => sys.truncate(join(mnt, "f"), 0),
      setxattr: () => sys.setxattr(join(mnt, "f"), "user.x", "x"),
    };
    for (const [what, attempt] of Object.entries(attempts)) expect(attempt, what).toThrow(/EROFS/);
    expect(readFileSync(join(mnt, "f")).equals(noise(100_000))).toBe(true);
    expect(readdirSync(mnt).sort()).toEqual(["d", "f"]);
    expect(sys.getxattr(join(mnt, "f"), "user.a").toString()).toBe("value");
  }

  function prepared(): void {
    const mnt = mounted();
    put(join(mnt, "f"), noise(100_000));
    mkdirSync(join(mnt, "d"));
    sys.setxattr(join(mnt, "f"), "user.a", "value");
    volume.unmount();
  }

  test("-o ro refuses every change and leaves the file byte-identical", () => {
    prepared();
    const before = sha256(volume.file);
    volume.mount("-o", "ro");
    expect(volume.entry?.options).toMatch(/^ro,/);
    nothingChanges(volume.mountpoint);
    volume.unmount();
    expect(sha256(volume.file)).toBe(before);
  });

  test.skipIf(!IS_ROOT)("a volume in a read-only place mounts read-only and says so", () => {
    prepared();
    const before = sha256(volume.file);
    const directory = join(volume.home, "db");
    run("mount", ["--bind", directory, directory], { cwd: "/" });
    undo.push(() => spawnSync("umount", ["-l", directory]));
    run("mount", ["-o", "remount,ro,bind", directory], { cwd: "/" });
    const done = volume.tryMount();
    expect(done.status, done.stderr).toBe(0);
    expect(done.stdout + done.stderr).toMatch(/read-only/);
    nothingChanges(volume.mountpoint);
    volume.unmount();
    expect(sha256(volume.file)).toBe(before);
    volume.remove();
  });

  test.skipIf(IS_ROOT)("a read-only file mounts read-only and says so", () => {
    prepared();
    chmodSync(volume.file, 0o400);
    const done = volume.tryMount();
    expect(done.status, done.stderr).toBe(0);
    expect(done.stdout + done.stderr).toMatch(/read-only/);
    nothingChanges(volume.mountpoint);
    volume.unmount();
  });

  test("three read-only mounts of one volume are possible at once, and each is unmounted by its own name", () => {
    prepared();
    const places = ["one", "two", "three"].map((name) => join(volume.home, name));
    for (const place of places) {
      mkdirSync(place);
      const done = volume.tryMount(["-o", "ro"], place);
      expect(done.status, done.stderr).toBe(0);
    }
    const [one = "", two = "", three = ""] = places;
    const serving = (): string[] => places.filter((place) => existsSync(join(place, "f")));
    expect(serving()).toEqual(places);
    expect(volume.cli(["unmount", two]).status).toBe(0);
    expect(serving()).toEqual([one, three]);
    expect(volume.cli(["unmount", one]).status).toBe(0);
    expect(serving()).toEqual([three]);
    expect(readFileSync(join(three, "f")).equals(noise(100_000))).toBe(true);
    expect(volume.cli(["unmount", three]).status).toBe(0);
    expect(serving()).toEqual([]);
    volume.onlyTheFile();
  });
});
