/** A mount that pushes in the background. */
import { execFileSync, spawn, spawnSync } from "node:child_process";
import {
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { noise } from "../core/noise.ts";
import { mountingImpossible, until } from "../helpers/volume.ts";
import { expectSame, type Replication, statusOf, succeed, withReplication } from "./replication.ts";

const impossible = mountingImpossible();
const FAST = ["--push-interval", "1s"];
const NEVER = ["--no-push"];

const segments = ({ remote }: Replication): string[] =>
  readdirSync(remote, { recursive: true, encoding: "utf8" }).filter((name) => /^log\/.*\/\d{16}$/.test(name));

const lastSegment = (replication: Replication): string =>
  join(replication.remote, segments(replication).sort().at(-1) ?? "");

/** With a mount that has something to push and has found that its remote is away; `log` is the mount's. */
function withoutRemote(
  run: (replication: Replication, log: string, giveBack: () => void) => Promise<void>,
): Promise<void> {
  return withReplication(async (replication) => {
    const { source, remote } = replication;
    const log = join(source.home, "log");
    renameSync(remote, `${remote}.away`);
    source.mount(...FAST, "--log-file", log);
    writeFileSync(join(source.mountpoint, "a"), "a");
    await until("the failure", () => statusOf(source).remotes?.[0]?.error !== undefined);
    await run(replication, log, () => renameSync(`${remote}.away`, remote));
  });
}

describe.skipIf(impossible !== undefined)("a mount of a volume with a remote", () => {
  test("pushes what changed, and sends nothing while nothing changes", () =>
    withReplication(async (replication) => {
      const { source } = replication;
      source.mount(...FAST);
      writeFileSync(join(source.mountpoint, "a"), "hello");
      await until("the push", () => segments(replication).length === 1);
      await until("its note", () => statusOf(source).remotes?.[0]?.epochs === 0);
      expect(statusOf(source).remotes).toMatchObject([{ name: "nas", segment: 1, files: 0, behindMs: 0 }]);
      const epoch = statusOf(source).remotes?.[0]?.epoch;
      await new Promise((done) => setTimeout(done, 2500));
      expect(segments(replication)).toHaveLength(1);
      expect(statusOf(source).remotes?.[0]?.epoch).toBe(epoch);
      source.unmount();
    }));

  test("has at the remote what was stored through mmap", () =>
    withReplication(async (replication) => {
      const { source } = replication;
      source.mount(...NEVER);
      writeFileSync(join(source.mountpoint, "m"), Buffer.alloc(8192));
      replication.push();
      source.remount(...FAST);
      const program = `
import mmap, os, sys, time
m = mmap.mmap(os.open("m", os.O_RDWR), 8192)
m[100:105] = b"store"
os.utime("m")
print("stored", flush=True)
time.sleep(60)`;
      const child = spawn("python3", ["-c", program], {
        cwd: source.mountpoint,
        stdio: ["ignore", "pipe", "inherit"],
      });
      try {
        await until("the push", () => segments(replication).length > 1);
        const replica = replication.replica();
        expect(succeed(replica.cli(["cat", replica.file, "/m"])).slice(100, 105)).toBe("store");
      } finally {
        child.kill();
        await new Promise((done) => child.once("exit", done));
      }
      source.unmount();
    }));

  test("pushes no more bytes in a second than --bwlimit says", () =>
    withReplication(async (replication) => {
      const { source } = replication;
      source.mount(...FAST, "--bwlimit", "1M");
      writeFileSync(join(source.mountpoint, "a"), noise(3_000_000));
      const sinceMs = performance.now();
      await until("the push", () => segments(replication).length > 0);
      expect(performance.now() - sinceMs).toBeGreaterThan(2500);
      source.unmount();
    }));

  test("pushes once more when it is unmounted", () =>
    withReplication((replication) => {
      const { source } = replication;
      source.mount("--push-interval", "1h");
      writeFileSync(join(source.mountpoint, "a"), "at the last moment");
      source.unmount();
      const replica = replication.replica();
      expect(succeed(replica.cli(["cat", replica.file, "/a"]))).toBe("at the last moment");
    }));

  test("pushes nothing with --no-push, read-only, or of a snapshot", () =>
    withReplication(async (replication) => {
      const { source } = replication;
      source.mount(...NEVER);
      writeFileSync(join(source.mountpoint, "a"), "a");
      expect(statusOf(source).remotes).toBeUndefined();
      succeed(source.cli(["snapshot", "create", source.mountpoint, "one"]));
      for (const how of [
        ["--ro", ...FAST],
        ["--at", "one", ...FAST],
      ]) {
        source.unmount();
        succeed(source.cli(["mount", source.file, source.mountpoint, ...how]));
        await new Promise((done) => setTimeout(done, 1500));
        expect(statusOf(source).remotes).toBeUndefined();
        succeed(source.cli(["unmount", source.mountpoint]));
        source.mount(...NEVER);
      }
      source.unmount();
      expect(segments(replication)).toEqual([]);
    }));

  test("begins to push when it gets a remote", () =>
    withReplication(async (replication) => {
      const { source, remote } = replication;
      succeed(source.cli(["remote", "remove", source.file, "nas"]));
      rmSync(remote, { recursive: true });
      execFileSync("mkdir", [remote]);
      source.mount(...FAST);
      expect(statusOf(source).remotes).toBeUndefined();
      writeFileSync(join(source.mountpoint, "a"), "a");
      succeed(source.cli(["remote", "add", source.mountpoint, "new", remote]));
      await until("the push", () => segments(replication).length === 1);
      source.unmount();
    }));

  test("is no place for its own remote, by whatever name", () =>
    withReplication((replication) => {
      const { source } = replication;
      source.mount(...NEVER);
      const inside = join(source.mountpoint, "inside");
      mkdirSync(inside);
      symlinkSync(inside, join(source.home, "link"));
      for (const place of [inside, join(source.home, "link")]) {
        const { status, stderr } = source.cli(["remote", "add", source.file, "self", place]);
        expect(stderr).toBe(`sqlfuse: ${place}: is in the volume itself; choose a place outside of it\n`);
        expect(status).toBe(10);
      }
      expect(readdirSync(inside)).toEqual([]);
      expect(succeed(source.cli(["remote", "list", source.file]))).not.toContain("self");
      source.unmount();
    }));

  test("tells a remote that fails, once, tries again, and tells when it is well", () =>
    withoutRemote(async (replication, log, giveBack) => {
      const { source } = replication;
      expect(succeed(source.cli(["status", source.mountpoint]))).toMatch(
        /nas +never .*there is no such directory/,
      );
      const told = source.cli(["remote", "status", source.mountpoint]);
      expect(told.stderr).toMatch(/nas: .*there is no such directory/);
      await new Promise((done) => setTimeout(done, 3500));
      giveBack();
      await until("the push", () => segments(replication).length === 1);
      await until("it is well", () => readFileSync(log, "utf8").includes("well again"));
      expect(readFileSync(log, "utf8").match(/there is no such directory/g)).toHaveLength(1);
      expect(statusOf(source).remotes?.[0]?.error).toBeUndefined();
      source.unmount();
    }));

  test("is well again where a command has pushed what it could not", () =>
    withoutRemote(async (replication, log, giveBack) => {
      const { source } = replication;
      // It waits longer each time: now for four seconds.
      await new Promise((done) => setTimeout(done, 3500));
      giveBack();
      replication.push();
      const told = source.cli(["remote", "status", source.mountpoint]);
      expect(told).toMatchObject({ status: 0, stderr: "" });
      expect(statusOf(source).remotes?.[0]?.error).toBeUndefined();
      expect(readFileSync(log, "utf8")).toContain("nas: is well again");
      source.unmount();
    }));

  test("serves, and is unmounted, while a remote hangs; the next push goes on", () =>
    withReplication(async (replication) => {
      const { source } = replication;
      const log = join(source.home, "log");
      source.mount(...FAST, "--log-file", log);
      writeFileSync(join(source.mountpoint, "a"), "a");
      await until("the push", () => segments(replication).length === 1);
      await until("its note", () => statusOf(source).remotes?.[0]?.epochs === 0);
      // Opening a pipe for reading waits for somebody who writes.
      const segment = lastSegment(replication);
      renameSync(segment, join(source.home, "segment"));
      execFileSync("mkfifo", [segment]);
      writeFileSync(join(source.mountpoint, "b"), "b");
      await until("it hangs", () => statusOf(source).remotes?.[0]?.busy === true);
      writeFileSync(join(source.mountpoint, "c"), "c");
      expect(readFileSync(join(source.mountpoint, "b"), "utf8")).toBe("b");
      const done = source.cli(["unmount", source.mountpoint]);
      expect(done.status).toBe(0);
      source.unmounted();
      expect(readFileSync(log, "utf8")).toMatch(/nas: not all is there/);
      rmSync(segment);
      renameSync(join(source.home, "segment"), segment);
      replication.push();
      const replica = replication.replica();
      source.mount(...NEVER);
      replica.mount();
      expectSame(source.mountpoint, replica.mountpoint);
      replica.unmount();
      source.unmount();
    }));

  test("is killed at any moment of a push, and the next one goes on", { timeout: 240_000 }, () =>
    withReplication(async (replication) => {
      const { source } = replication;
      for (let round = 0; round < 6; round++) {
        source.mount(...FAST);
        for (let i = 0; i < 20; i++)
          writeFileSync(join(source.mountpoint, `${round}-${i}`), Buffer.alloc(200_000 + i, `${round} ${i}`));
        const before = segments(replication).length;
        const isPushed = (): boolean => segments(replication).length > before;
        if (round > 0)
          await until("a push", () => statusOf(source).remotes?.[0]?.busy === true || isPushed());
        await new Promise((done) => setTimeout(done, round * 30));
        await source.kill();
        spawnSync("umount", ["-l", source.mountpoint]);
      }
      source.mount(...NEVER);
      replication.push();
      const replica = replication.replica();
      replica.mount();
      expectSame(source.mountpoint, replica.mountpoint);
      replica.unmount();
      source.unmount();
    }),
  );

  test("does not push while a command does, nor does a command while it does", () =>
    withReplication(async (replication) => {
      const { source } = replication;
      source.mount(...FAST);
      writeFileSync(join(source.mountpoint, "a"), "a");
      await until("the push", () => segments(replication).length === 1);
      await until("its note", () => statusOf(source).remotes?.[0]?.epochs === 0);
      const segment = lastSegment(replication);
      renameSync(segment, join(source.home, "segment"));
      execFileSync("mkfifo", [segment]);
      writeFileSync(join(source.mountpoint, "b"), "b");
      await until("it hangs", () => statusOf(source).remotes?.[0]?.busy === true);
      const refused = source.cli(["push", source.mountpoint]);
      expect(refused.status).toBe(11);
      expect(refused.stderr).toMatch(/its mount, or another command, pushes to nas/);
      succeed(source.cli(["unmount", "--quiet", source.mountpoint]));
      source.unmounted();
    }));
});
