/** A mount that ends by itself when nobody uses it, and what keeps it. */
import { spawn } from "node:child_process";
import {
  closeSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statfsSync,
  statSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { afterEach, describe, expect, test } from "vitest";
import { IS_ROOT, mountingImpossible, TestVolume, until } from "../helpers/volume.ts";

const impossible = mountingImpossible();
if (impossible !== undefined) console.warn(`--idle-timeout is not tested: ${impossible}`);

const NOBODY = { uid: 65_534, gid: 65_534 };
const sleep = (ms: number): Promise<void> => new Promise((done) => setTimeout(done, ms));
const gone = (): Promise<void> => until("the mount to end by itself", () => !volume.mounted);

let volume: TestVolume;
afterEach(() => volume?.remove());

function mounted(...args: string[]): string {
  volume = TestVolume.create();
  volume.mount("--log-file", log(), ...args);
  return volume.mountpoint;
}

const log = (): string => join(volume.home, "log");
const logged = (): string => readFileSync(log(), "utf8");

describe.skipIf(impossible !== undefined)("--idle-timeout", () => {
  test("unmounts when nobody used it for so long, leaves the one file, and says so", async () => {
    const mnt = mounted("--idle-timeout", "2");
    writeFileSync(join(mnt, "f"), "kept");
    const used = Date.now();
    await gone();
    expect(Date.now() - used).toBeGreaterThan(1900);
    volume.unmounted();
    expect(logged()).toMatch(/ info {2}sqlfuse.* nobody used .*\/mnt for 2 s: unmounted\n/);
    expect(logged()).toMatch(/unmounted; everything is committed\n$/);
    volume.mount();
    expect(readFileSync(join(mnt, "f"), "utf8")).toBe("kept");
    volume.unmount();
  });

  test("-o idle_timeout= says the same, and 0 on the command line is never", async () => {
    const mnt = mounted("-o", "idle_timeout=1s", "--idle-timeout", "0");
    await sleep(2500);
    expect(volume.mounted).toBe(true);
    expect(volume.cli(["unmount", mnt]).status).toBe(0);
    volume.mount("-o", "idle_timeout=1s");
    await gone();
    volume.unmounted();
  });

  test("an open file keeps it, and what is written to that much later is kept", async () => {
    const mnt = mounted("--idle-timeout", "1");
    const fd = openSync(join(mnt, "f"), "w");
    await sleep(3500);
    expect(volume.mounted).toBe(true);
    writeSync(fd, "late");
    closeSync(fd);
    await gone();
    volume.unmounted();
    // Said once, not at each try.
    expect(logged().match(/but it is held/g)).toHaveLength(1);
    volume.mount();
    expect(readFileSync(join(mnt, "f"), "utf8")).toBe("late");
    volume.unmount();
  });

  test("a shell whose working directory is inside keeps it until it ends", async () => {
    const mnt = mounted("--idle-timeout", "1");
    mkdirSync(join(mnt, "d"));
    const shell = spawn("sleep", ["60"], { cwd: join(mnt, "d"), stdio: "ignore" });
    await sleep(3000);
    expect(volume.mounted).toBe(true);
    shell.kill();
    await gone();
    volume.unmounted();
  });

  test("what the kernel could answer from its cache is a use as well", async () => {
    const mnt = mounted("--idle-timeout", "2");
    writeFileSync(join(mnt, "f"), "kept");
    for (let i = 0; i < 50; i++) {
      expect(statSync(join(mnt, "f")).size).toBe(4);
      await sleep(100);
    }
    expect(volume.mounted).toBe(true);
    volume.unmount();
  });

  test("asking for free space, as monitors do, is no use, nor is sqlfuse status", async () => {
    const mnt = mounted("--idle-timeout", "2");
    const ended = Date.now() + 10_000;
    while (volume.mounted) {
      if (Date.now() > ended) throw new Error("asking for free space keeps it mounted");
      statfsSync(mnt);
      volume.cli(["status"]);
      await sleep(100);
    }
    volume.unmounted();
  });

  test("commits of its own are no use: a change is committed long after it and the mount still ends in time", async () => {
    const mnt = mounted("--idle-timeout", "3", "--commit", "2");
    writeFileSync(join(mnt, "f"), "x".repeat(300_000));
    rmSync(join(mnt, "f")); // purged later
    const used = Date.now();
    await gone();
    expect(Date.now() - used).toBeLessThan(4800);
    volume.unmounted();
  });

  test.skipIf(!IS_ROOT || mountingImpossible(NOBODY) !== undefined)(
    "works for a user who mounts through fusermount3 as well, a held mount included",
    async () => {
      volume = TestVolume.create({ owner: NOBODY });
      volume.mount("--log-file", log(), "--idle-timeout", "1");
      const shell = spawn("sh", ["-c", `cd '${volume.mountpoint}' && exec sleep 60`], {
        ...NOBODY,
        cwd: "/",
      });
      await sleep(3000);
      expect(volume.mounted).toBe(true);
      shell.kill();
      await gone();
      volume.unmounted();
    },
  );

  test("status tells the timeout and the last use", async () => {
    const mnt = mounted("--idle-timeout", "1h");
    await sleep(1200);
    writeFileSync(join(mnt, "f"), "x");
    const used = Date.now();
    await sleep(100);
    const [one] = JSON.parse(volume.cli(["status", "--json", mnt]).stdout);
    expect(one.idleTimeoutMs).toBe(3_600_000);
    expect(Math.abs(Date.parse(one.lastUse) - used)).toBeLessThan(1000);
    expect(volume.cli(["status", mnt]).stdout).toMatch(/ IDLE .*\n.* \d+s of 1h /);
    volume.unmount();
    volume.mount();
    expect(volume.cli(["status", mnt]).stdout).toMatch(/ IDLE .*\n.* \d+s /);
    volume.unmount();
  });

  test("a use at the moment of the unmount is served, or finds the mount gone: nothing acknowledged is lost", async () => {
    const mnt = mounted("--idle-timeout", "1");
    const written: string[] = [];
    const below: string[] = [];
    let ends = 0;
    for (let round = 0; round < 8; round++) {
      // Sooner or later around the moment at which it ends.
      await sleep(985 + round * 5);
      for (let i = 0; i < 40; i++) {
        const name = `r${round}-${i}`;
        writeFileSync(join(mnt, name), name);
        written.push(name);
      }
      await sleep(20);
      if (volume.mounted) continue;
      ends++;
      volume.unmounted();
      // What came too late was written to the directory below.
      for (const name of readdirSync(mnt)) {
        below.push(name);
        rmSync(join(mnt, name));
      }
      volume.mount("--log-file", log(), "--idle-timeout", "1");
    }
    // Unless it ends by itself at this moment.
    if (volume.cli(["unmount", mnt]).status !== 0) expect(volume.mounted).toBe(false);
    volume.unmounted();
    volume.mount();
    const kept = readdirSync(mnt);
    for (const name of kept) expect(readFileSync(join(mnt, name), "utf8")).toBe(name);
    expect([...kept, ...below].sort()).toEqual(written.sort());
    volume.unmount();
    expect(ends, "it ended under the writer at least once").toBeGreaterThan(0);
  });
});
