/** A mounted replica that follows its log: what its readers and the kernel's caches show after each segment. */
import { execFileSync, spawn, spawnSync } from "node:child_process";
import {
  chmodSync,
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { describe, expect, test } from "vitest";
import { RENAME, sys } from "../helpers/libc.ts";
import { Random, seedOf } from "../helpers/model.ts";
import { mountingImpossible, type TestVolume, until } from "../helpers/volume.ts";
import { expectSame, type Replication, statusOf, succeed, withReplication } from "./replication.ts";

const impossible = mountingImpossible();
const isSecondTransport = process.env.SQLFUSE_TEST_TRANSPORT === "fuse-native";

/** Mounts both; the replica pulls when it is told to. */
function mounted(replication: Replication): { source: string; replica: TestVolume; show: string } {
  const { source } = replication;
  if (!source.mounted) source.mount("--no-push");
  replication.push();
  const replica = replication.replica();
  replica.mount("--no-pull");
  return { source: source.mountpoint, replica, show: replica.mountpoint };
}

/** The replica's mount has what the source has now. */
function bring(replication: Replication, replica: TestVolume): void {
  replication.push();
  succeed(replica.cli(["pull", "--quiet", replica.mountpoint]));
}

function finish(replication: Replication, replica: TestVolume): void {
  replica.unmount();
  replication.source.unmount();
}

/** Some changes at random, of all kinds. */
function churn(root: string, random: Random, count: number): void {
  const all = (): string[] => readdirSync(root, { recursive: true, encoding: "utf8" });
  const kind = (want: (path: string) => boolean): string | undefined => {
    const found = all().filter((name) => want(join(root, name)));
    return found.length === 0 ? undefined : join(root, random.pick(found));
  };
  const isDirectory = (path: string): boolean =>
    statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;
  const isFile = (path: string): boolean => statSync(path, { throwIfNoEntry: false })?.isFile() ?? false;
  const fresh = (): string => join(kind(isDirectory) ?? root, `n${random.below(40)}`);
  const kinds: (() => void)[] = [
    () => writeFileSync(fresh(), Buffer.alloc(random.below(100_000), random.below(256))),
    () => writeFileSync(kind(isFile) ?? fresh(), Buffer.alloc(random.below(60_000), random.below(256))),
    () => truncateSync(kind(isFile) ?? fresh(), random.below(50_000)),
    () => mkdirSync(fresh()),
    () => renameSync(kind(existsSync) ?? fresh(), fresh()),
    () => sys.rename(kind(existsSync) ?? fresh(), kind(existsSync) ?? fresh(), RENAME.EXCHANGE),
    () => linkSync(kind(isFile) ?? fresh(), fresh()),
    () => symlinkSync(`to ${random.below(9)}`, fresh()),
    () => unlinkSync(kind(isFile) ?? fresh()),
    () => rmSync(kind(isDirectory) ?? fresh(), { recursive: true }),
    () => sys.setxattr(kind(existsSync) ?? fresh(), "user.x", Buffer.alloc(random.below(2000), 1), 0),
    () => chmodSync(kind(existsSync) ?? fresh(), random.pick([0o600, 0o755, 0o640])),
  ];
  for (let i = 0; i < count; i++) {
    try {
      random.pick(kinds)();
    } catch {
      // what cannot be done is another try
    }
  }
}

describe.skipIf(impossible !== undefined)("a mounted replica", () => {
  test("shows what its source shows after each of many segments", { timeout: 240_000 }, () =>
    withReplication((replication) => {
      const seed = seedOf("follow");
      const random = new Random(seed);
      const { source, replica, show } = mounted(replication);
      for (let round = 0; round < 12; round++) {
        churn(source, random, 40);
        if (round % 4 === 3) succeed(replication.source.cli(["snapshot", "create", source, `s${round}`]));
        bring(replication, replica);
        expectSame(source, show);
      }
      finish(replication, replica);
    }),
  );

  test("pulls by itself, also what came before it was mounted", () =>
    withReplication(async (replication) => {
      const { source } = replication;
      source.mount("--push-interval", "1s");
      writeFileSync(join(source.mountpoint, "a"), "one");
      replication.push();
      const replica = replication.replica();
      writeFileSync(join(source.mountpoint, "a"), "two");
      replication.push();
      replica.mount("--pull-interval", "1s");
      const shown = (): string => readFileSync(join(replica.mountpoint, "a"), "utf8");
      await until("what came before", () => shown() === "two");
      writeFileSync(join(source.mountpoint, "a"), "three");
      await until("what came since", () => shown() === "three");
      expect(statusOf(replica).remotes).toMatchObject([{ name: "origin", busy: false }]);
      finish(replication, replica);
    }));

  test("shows no old names, absences, attributes or bytes after a pull", () =>
    withReplication((replication) => {
      const at = (name: string): string => join(replication.source.mountpoint, name);
      replication.source.mount("--no-push");
      for (const name of ["changed", "removed", "replaced", "new name", "one", "other"])
        writeFileSync(at(name), name);
      mkdirSync(at("d/below"), { recursive: true });
      writeFileSync(at("d/below/f"), "f");
      mkdirSync(at("to"));
      const { source, replica, show } = mounted(replication);
      const seen = (name: string): string => join(show, name);
      const absent = ["made", "to/d", "newer name"];
      for (const name of absent) expect(existsSync(seen(name))).toBe(false);
      for (const name of readdirSync(show, { recursive: true, encoding: "utf8" })) {
        const stat = statSync(seen(name));
        if (stat.isFile()) readFileSync(seen(name));
      }
      writeFileSync(at("changed"), "with other content");
      unlinkSync(at("removed"));
      writeFileSync(at("made"), "made");
      writeFileSync(at("draft"), "by rename");
      renameSync(at("draft"), at("replaced"));
      renameSync(at("new name"), at("newer name"));
      if (!isSecondTransport) sys.rename(at("one"), at("other"), RENAME.EXCHANGE);
      renameSync(at("d"), at("to/d"));
      bring(replication, replica);
      expect(readFileSync(seen("changed"), "utf8")).toBe("with other content");
      expect(statSync(seen("changed")).size).toBe(18);
      expect(existsSync(seen("removed"))).toBe(false);
      expect(readFileSync(seen("made"), "utf8")).toBe("made");
      expect(readFileSync(seen("replaced"), "utf8")).toBe("by rename");
      expect(existsSync(seen("new name"))).toBe(false);
      if (!isSecondTransport) expect(readFileSync(seen("one"), "utf8")).toBe("other");
      expect(existsSync(seen("d"))).toBe(false);
      expect(readFileSync(seen("to/d/below/f"), "utf8")).toBe("f");
      expectSame(source, show);
      finish(replication, replica);
    }));

  test.skipIf(isSecondTransport)(
    "shows new bytes to who has the file open or mapped, and none of a file that is gone",
    () =>
      withReplication(async (replication) => {
        replication.source.mount("--no-push");
        const at = (name: string): string => join(replication.source.mountpoint, name);
        writeFileSync(at("f"), Buffer.alloc(50_000, "old"));
        writeFileSync(at("gone"), "gone");
        const { replica, show } = mounted(replication);
        const program = `
import mmap, os, sys
fd = os.open("f", os.O_RDONLY)
m = mmap.mmap(fd, 50000, prot=mmap.PROT_READ)
gone = os.open("gone", os.O_RDONLY)
print(m[:3].decode(), os.pread(gone, 9, 0).decode(), flush=True)
sys.stdin.readline()
try:
    left = os.pread(gone, 9, 0).decode()
except OSError as error:
    left = error.strerror
print(m[:3].decode(), os.pread(fd, 3, 0).decode(), os.fstat(fd).st_size, left, flush=True)`;
        const child = spawn("python3", ["-c", program], { cwd: show, stdio: ["pipe", "pipe", "inherit"] });
        const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
        expect((await lines.next()).value).toBe("old gone");
        writeFileSync(at("f"), Buffer.alloc(60_000, "new"));
        unlinkSync(at("gone"));
        bring(replication, replica);
        child.stdin.end("\n");
        expect((await lines.next()).value).toBe("new new 60000 Stale file handle");
        await new Promise((done) => child.once("exit", done));
        finish(replication, replica);
      }),
  );

  test("shows either state to who reads while segments come, and never a mix", { timeout: 240_000 }, () =>
    withReplication(async (replication) => {
      replication.source.mount("--no-push");
      const file = join(replication.source.mountpoint, "f");
      // Of one block, so that each READ is of one state.
      const content = (round: number): Buffer => Buffer.alloc(16_000, String.fromCharCode(97 + round));
      writeFileSync(file, content(0));
      const { replica, show } = mounted(replication);
      const program = `
import os, sys
seen = set()
while True:
    with open("f", "rb") as f: data = f.read()
    if len(set(data)) != 1 or len(data) != 16000: print("mix", len(data), set(data)); break
    if data[0] not in seen: seen.add(data[0]); print(chr(data[0]), flush=True)
    if data[0] == ord("h"): break`;
      const reader = spawn("python3", ["-c", program], { cwd: show, stdio: ["ignore", "pipe", "inherit"] });
      let said = "";
      reader.stdout.on("data", (text: Buffer) => {
        said += text.toString();
      });
      for (let round = 1; round < 8; round++) {
        writeFileSync(file, content(round));
        bring(replication, replica);
        expect(readFileSync(join(show, "f"))).toEqual(content(round));
      }
      await new Promise((done) => reader.once("exit", done));
      expect(said).toMatch(/^[a-h\n]*h\n$/);
      finish(replication, replica);
    }),
  );

  test("forgets 20,000 names that changed at once", { timeout: 240_000 }, () =>
    withReplication((replication) => {
      replication.source.mount("--no-push");
      const many = join(replication.source.mountpoint, "many");
      mkdirSync(many);
      for (let i = 0; i < 20_000; i++) writeFileSync(join(many, `old ${i}`), "");
      const { source, replica, show } = mounted(replication);
      expect(
        spawnSync("ls", ["-l", join(show, "many")])
          .stdout.toString()
          .split("\n"),
      ).toHaveLength(20_002);
      for (let i = 0; i < 20_000; i++)
        renameSync(join(source, "many", `old ${i}`), join(source, "many", `new ${i}`));
      bring(replication, replica);
      expect(existsSync(join(show, "many/old 7"))).toBe(false);
      expect(existsSync(join(show, "many/new 7"))).toBe(true);
      expect(readdirSync(join(show, "many")).filter((name) => name.startsWith("new"))).toHaveLength(20_000);
      finish(replication, replica);
    }),
  );

  test("follows a log that starts over", () =>
    withReplication((replication) => {
      const { source, replica, show } = mounted(replication);
      churn(source, new Random(7), 60);
      bring(replication, replica);
      expectSame(source, show);
      churn(source, new Random(8), 30);
      succeed(replication.source.cli(["remote", "gc", "--quiet", replication.source.file, "nas"]));
      succeed(replica.cli(["pull", "--quiet", show]));
      expectSame(source, show);
      churn(source, new Random(9), 30);
      bring(replication, replica);
      expectSame(source, show);
      finish(replication, replica);
    }));

  test.skipIf(isSecondTransport)("shows new snapshots in .sqlfuse/at as they come", () =>
    withReplication((replication) => {
      const { source, replica, show } = mounted(replication);
      writeFileSync(join(source, "a"), "then");
      succeed(replication.source.cli(["snapshot", "create", source, "then"]));
      writeFileSync(join(source, "a"), "now");
      expect(existsSync(join(show, ".sqlfuse/at/then"))).toBe(false);
      bring(replication, replica);
      expect(readFileSync(join(show, ".sqlfuse/at/then/a"), "utf8")).toBe("then");
      expect(readFileSync(join(show, "a"), "utf8")).toBe("now");
      finish(replication, replica);
    }),
  );

  test("says that it is to be unmounted for the new secret of its log, and follows after that", () =>
    withReplication((replication) => {
      const { source } = replication;
      replication.push();
      const replica = replication.replica();
      replica.mount("--no-pull");
      succeed(source.cli(["remote", "rotate", "--quiet", source.file, "nas"]));
      const told = replica.cli(["pull", replica.mountpoint]);
      expect(told.status).toBe(20);
      expect(told.stderr).toMatch(/^sqlfuse: .*unmount this replica, and go on with: sqlfuse pull \S+\n$/);
      replica.unmount();
      succeed(replica.cli(["pull", replica.file]));
      replica.mount();
      source.mount();
      expectSame(source.mountpoint, replica.mountpoint);
      source.unmount();
      replica.unmount();
    }));

  test("stays as it is while its remote is away, says so once, and follows when it is back", () =>
    withReplication(async (replication) => {
      replication.source.mount("--no-push");
      writeFileSync(join(replication.source.mountpoint, "a"), "one");
      replication.push();
      const replica = replication.replica();
      const log = join(replica.home, "log");
      replica.mount("--pull-interval", "1s", "--log-file", log);
      renameSync(replication.remote, `${replication.remote}.away`);
      await until("the failure", () => statusOf(replica).remotes?.[0]?.error !== undefined);
      await new Promise((done) => setTimeout(done, 3500));
      expect(readFileSync(join(replica.mountpoint, "a"), "utf8")).toBe("one");
      const refused = replica.cli(["pull", replica.mountpoint]);
      expect(refused.stderr).toMatch(/there is no such directory/);
      expect(readFileSync(log, "utf8").match(/there is no such directory/g)).toHaveLength(1);
      renameSync(`${replication.remote}.away`, replication.remote);
      writeFileSync(join(replication.source.mountpoint, "a"), "two");
      replication.push();
      await until("it follows", () => readFileSync(join(replica.mountpoint, "a"), "utf8") === "two");
      finish(replication, replica);
    }));

  test("serves, and is unmounted, while its remote hangs in the middle of a pull", () =>
    withReplication(async (replication) => {
      const { source, replica, show } = mounted(replication);
      writeFileSync(join(source, "a"), "a");
      const before = new Set(readdirSync(replication.remote, { recursive: true, encoding: "utf8" }));
      replication.push();
      const objects = readdirSync(replication.remote, { recursive: true, encoding: "utf8" }).filter(
        (name) => !before.has(name) && /[0-9a-f]{64}$/.test(name),
      );
      expect(objects.length).toBeGreaterThan(0);
      for (const name of objects) {
        const path = join(replication.remote, name);
        rmSync(path);
        execFileSync("mkfifo", [path]);
      }
      replica.unmount();
      replica.mount("--pull-interval", "1s");
      await until("it hangs", () => statusOf(replica).remotes?.[0]?.busy === true);
      expect(existsSync(join(show, "a"))).toBe(false);
      replica.unmount();
      replication.source.unmount();
    }));

  test("is killed at any moment of a pull, and the next mount goes on", { timeout: 240_000 }, () =>
    withReplication(async (replication) => {
      const { source, replica, show } = mounted(replication);
      replica.unmount();
      for (let round = 0; round < 6; round++) {
        for (let i = 0; i < 30; i++)
          writeFileSync(join(source, `${i}`), Buffer.alloc(100_000 + i, `${round} ${i}`));
        replication.push();
        replica.mount("--pull-interval", "1s");
        await new Promise((done) => setTimeout(done, round * 40));
        await replica.kill();
        spawnSync("umount", ["-l", show]);
      }
      replica.mount("--no-pull");
      bring(replication, replica);
      expectSame(source, show);
      finish(replication, replica);
    }),
  );

  test("does not follow with --read-only, and says so to who asks it to pull", () =>
    withReplication((replication) => {
      const { replica, show } = mounted(replication);
      replica.remount("--read-only");
      const refused = replica.cli(["pull", show]);
      expect(refused.status).toBe(10);
      expect(refused.stderr).toMatch(/is no replica, or one that is mounted with --read-only/);
      finish(replication, replica);
    }));
});
