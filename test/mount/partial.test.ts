/** A mounted partial replica: whatever is read is what its source has, fetched when it is read. */
import { execFile, execFileSync, spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  closeSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  renameSync,
  rmSync,
  statfsSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { describe, expect, test } from "vitest";
import type { Inside } from "../../src/core/info.ts";
import { noise } from "../core/noise.ts";
import { Random, seedOf } from "../helpers/model.ts";
import { mountingImpossible, type TestVolume, until } from "../helpers/volume.ts";
import { expectSame, type Replication, statusOf, succeed, withReplication } from "./replication.ts";

const impossible = mountingImpossible();
const isSecondTransport = process.env.SQLFUSE_TEST_TRANSPORT === "fuse-native";
const LARGE = 3_000_000;

const hashOf = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");

/** A source with some files, and a partial replica of it; both mounted. */
function mounted(
  replication: Replication,
  ...flags: string[]
): { source: string; replica: TestVolume; show: string } {
  const { source } = replication;
  source.mount("--no-push");
  mkdirSync(join(source.mountpoint, "below"));
  for (let i = 0; i < 3; i++) writeFileSync(join(source.mountpoint, `below/large ${i}`), noise(LARGE, i));
  for (let i = 0; i < 20; i++) writeFileSync(join(source.mountpoint, `small ${i}`), noise(3000, i));
  replication.push();
  const replica = replication.replica("--partial", ...flags);
  replica.mount("--no-pull");
  return { source: source.mountpoint, replica, show: replica.mountpoint };
}

function finish(replication: Replication, replica: TestVolume): void {
  replica.unmount();
  replica.check();
  replication.source.unmount();
}

/** Of a replica that is not mounted. */
function bytesHere(replica: TestVolume): number {
  const { volume } = JSON.parse(succeed(replica.cli(["info", "--json", replica.file]))) as { volume: Inside };
  return volume.share?.bytesHere ?? Number.NaN;
}

/** The objects of the remote that have blocks, by their paths: all but the small ones of records. */
function objects(replication: Replication): string[] {
  return readdirSync(join(replication.remote, "data"), { recursive: true, encoding: "utf8" })
    .filter((name) => /[0-9a-f]{64}$/.test(name))
    .map((name) => join(replication.remote, "data", name))
    .filter((path) => readFileSync(path).length > 100_000);
}

describe.skipIf(impossible !== undefined || isSecondTransport)(
  `a mounted partial replica (${impossible ?? (isSecondTransport ? "fuse-native fetches nothing" : "mountable")})`,
  () => {
    test("fetches no more bytes in a second than its mount's bwlimit says, which no command changes", () =>
      withReplication(async (replication) => {
        const { replica, show } = mounted(replication, "--limit", "1G");
        replica.unmount();
        replica.mount("-o", "bwlimit=1M", "--no-pull");
        const sinceMs = performance.now();
        expect(hashOf(readFileSync(join(show, "below/large 0")))).toBe(hashOf(noise(LARGE, 0)));
        expect(performance.now() - sinceMs).toBeGreaterThan(2000);
        for (const args of [
          ["pull", "--bwlimit", "1M", show],
          ["pin", "--bwlimit", "1M", show],
        ]) {
          const done = replica.cli(args);
          expect(done.stderr).toBe(
            `sqlfuse: --bwlimit: ${show} is mounted, and has its own: mount --bwlimit\n`,
          );
          expect(done.status).toBe(2);
        }
        finish(replication, replica);
      }));

    test("shows what its source has, and has fetched it then", () =>
      withReplication(async (replication) => {
        const { source, replica, show } = mounted(replication);
        const before = statfsSync(show);
        // What is used is all there is, here or not.
        expect((before.blocks - before.bfree) * before.bsize).toBeGreaterThan(3 * LARGE * 0.9);
        expectSame(source, show);
        const large = join(show, "below/large 1");
        const mapped =
          "import mmap,sys,hashlib; f=open(sys.argv[1],'rb'); print(hashlib.sha256(mmap.mmap(f.fileno(),0,prot=1)).hexdigest())";
        expect(execFileSync("python3", ["-c", mapped, large], { encoding: "utf8" }).trim()).toBe(
          hashOf(noise(LARGE, 1)),
        );
        finish(replication, replica);
        expect(bytesHere(replica)).toBeGreaterThan(3 * LARGE * 0.9);
      }));

    test("gives many readers at random places the right bytes, within its limit", () =>
      withReplication(async (replication) => {
        const { replica, show } = mounted(replication, "--limit", "2M");
        const seed = seedOf("partial");
        const script = `
          import os,random,sys
          r=random.Random(int(sys.argv[2]))
          for _ in range(60):
            i=r.randrange(3); at=r.randrange(${LARGE}); n=r.choice([1,4096,100000,1000000])
            with open(f"{sys.argv[1]}/below/large {i}","rb") as f:
              f.seek(at); got=f.read(n)
            want=open(f"{sys.argv[3]}/{i}","rb").read()[at:at+n]
            assert got==want,(i,at,n,len(got),len(want))
            if r.randrange(9)==0: open("/proc/sys/vm/drop_caches","w").write("1") if os.geteuid()==0 else None
          print("right")`.replace(/^ {10}/gm, "");
        const plain = join(replica.home, "plain");
        mkdirSync(plain);
        for (let i = 0; i < 3; i++) writeFileSync(join(plain, `${i}`), noise(LARGE, i));
        const run = promisify(execFile);
        const readers = Array.from({ length: 4 }, (_, i) =>
          run("python3", ["-c", script, show, String(seed + i), plain]),
        );
        for (const { stdout } of await Promise.all(readers)) expect(stdout).toBe("right\n");
        finish(replication, replica);
        expect(bytesHere(replica)).toBeLessThan(2 * 2 ** 20 + 20 * 3000 + 300_000);
      }));

    test("away from its remote it has what was read, and gives EIO for the rest at once, until that is there again", () =>
      withReplication(async (replication) => {
        const { replica, show } = mounted(replication);
        expect(hashOf(readFileSync(join(show, "below/large 0")))).toBe(hashOf(noise(LARGE, 0)));
        renameSync(replication.remote, `${replication.remote}.away`);
        expect(hashOf(readFileSync(join(show, "below/large 0")))).toBe(hashOf(noise(LARGE, 0)));
        expect(hashOf(readFileSync(join(show, "small 7")))).toBe(hashOf(noise(3000, 7)));
        expect(() => readFileSync(join(show, "below/large 1"))).toThrow(/EIO/);
        expect(statusOf(replica).errors).toBeGreaterThan(0);
        renameSync(`${replication.remote}.away`, replication.remote);
        expect(hashOf(readFileSync(join(show, "below/large 1")))).toBe(hashOf(noise(LARGE, 1)));
        finish(replication, replica);
      }));

    test("gives EIO and never other bytes for what was changed at its remote", () =>
      withReplication(async (replication) => {
        const { replica, show } = mounted(replication);
        for (const path of objects(replication)) {
          const bytes = readFileSync(path);
          for (let at = 200; at < bytes.length; at += 10_000) bytes[at] = (bytes[at] ?? 0) ^ 1;
          writeFileSync(path, bytes);
        }
        for (let i = 0; i < 3; i++) expect(() => readFileSync(join(show, `below/large ${i}`))).toThrow(/EIO/);
        finish(replication, replica);
      }));

    test("serves others, and is unmounted, while a reader waits for a remote that hangs", () =>
      withReplication(async (replication) => {
        const { replica, show } = mounted(replication);
        for (const path of objects(replication)) {
          rmSync(path);
          execFileSync("mkfifo", [path]);
        }
        const reader = spawn("cat", [join(show, "below/large 0")], { stdio: "ignore" });
        await until("it waits", () => statusOf(replica).requests > 0);
        expect(hashOf(readFileSync(join(show, "small 7")))).toBe(hashOf(noise(3000, 7)));
        expect(readdirSync(join(show, "below"))).toHaveLength(3);
        expect(replica.cli(["unmount", "--lazy", show]).status).toBe(0);
        reader.kill("SIGKILL");
        const { pid } = replica;
        await until("the daemon to end", () => spawnSync("kill", ["-0", String(pid)]).status !== 0);
        replication.source.unmount();
      }));

    test("is killed while it fetches, and what was not recorded is fetched again", { timeout: 120_000 }, () =>
      withReplication(async (replication) => {
        const { replica, show } = mounted(replication);
        const random = new Random(seedOf("partial kill"));
        for (let round = 0; round < 6; round++) {
          const reader = spawn("sh", ["-c", `cat '${show}'/below/* >/dev/null`], { stdio: "ignore" });
          await new Promise((done) => setTimeout(done, random.below(400)));
          await replica.kill();
          reader.kill("SIGKILL");
          spawnSync("umount", ["-l", show]);
          replica.check();
          replica.mount("--no-pull");
        }
        for (let i = 0; i < 3; i++)
          expect(hashOf(readFileSync(join(show, `below/large ${i}`)))).toBe(hashOf(noise(LARGE, i)));
        finish(replication, replica);
      }),
    );

    test("follows: a file that is read while it is replaced is the old or the new one", () =>
      withReplication(async (replication) => {
        const { source, replica, show } = mounted(replication);
        const fd = openSync(join(show, "below/large 0"), "r");
        readSync(fd, Buffer.alloc(4096), 0, 4096, 0);
        writeFileSync(join(source, "below/large 0"), noise(LARGE, 8));
        writeFileSync(join(source, "below/new"), noise(LARGE, 9));
        replication.push();
        succeed(replica.cli(["pull", "--quiet", show]));
        const got = Buffer.alloc(LARGE);
        for (let at = 0; at < LARGE; ) at += readSync(fd, got, at, LARGE - at, at);
        closeSync(fd);
        expect(hashOf(got)).toBe(hashOf(noise(LARGE, 8)));
        expectSame(source, show);
        finish(replication, replica);
      }));

    test("shows the past of large files as well", () =>
      withReplication(async (replication) => {
        const { source, replica, show } = mounted(replication);
        succeed(replication.source.cli(["snapshot", "create", source, "before"]));
        writeFileSync(join(source, "below/large 0"), noise(LARGE, 8));
        replication.push();
        succeed(replica.cli(["pull", "--quiet", show]));
        expect(hashOf(readFileSync(join(show, ".sqlfuse/at/before/below/large 0")))).toBe(
          hashOf(noise(LARGE, 0)),
        );
        expect(hashOf(readFileSync(join(show, "below/large 0")))).toBe(hashOf(noise(LARGE, 8)));
        finish(replication, replica);
      }));

    test("pins by a path, and then has that without its remote", () =>
      withReplication(async (replication) => {
        const { replica, show } = mounted(replication);
        expect(succeed(replica.cli(["pin", join(show, "below")]))).toMatch(/pinned, 8\.\d MiB fetched/);
        expect(succeed(replica.cli(["pin", "--list", replica.file]))).toBe("/below\n");
        renameSync(replication.remote, `${replication.remote}.away`);
        for (let i = 0; i < 3; i++)
          expect(hashOf(readFileSync(join(show, `below/large ${i}`)))).toBe(hashOf(noise(LARGE, i)));
        renameSync(`${replication.remote}.away`, replication.remote);
        succeed(replica.cli(["unpin", join(show, "below")]));
        expect(replica.cli(["unpin", join(show, "below")])).toMatchObject({ status: 10 });
        expect(replica.cli(["pin", join(show, "nothing")])).toMatchObject({ status: 10 });
        finish(replication, replica);
      }));

    test("with --read-only fetches nothing, and says so once", () =>
      withReplication(async (replication) => {
        const { replica, show } = mounted(replication);
        const log = join(replica.home, "log");
        replica.remount("--read-only", "--log-file", log);
        for (let i = 0; i < 2; i++) expect(() => readFileSync(join(show, "below/large 0"))).toThrow(/EIO/);
        expect(readFileSync(join(show, "small 1"))).toHaveLength(3000);
        expect(readFileSync(log, "utf8").match(/this mount fetches nothing/g)).toHaveLength(1);
        finish(replication, replica);
      }));
  },
);
