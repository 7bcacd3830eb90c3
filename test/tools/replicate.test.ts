/** remote, push, clone, pull and log-dump, as a user runs them. */
import { spawn } from "node:child_process";
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { mountingImpossible, TestVolume } from "../helpers/volume.ts";
import { CLI, type Outcome, PASSWORD, sqlfuse } from "./run.ts";

let directory: string;
let vault: string;
let nas: string;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "replicate-"));
  vault = at("vault.sqlite");
  nas = at("nas");
  mkdirSync(nas);
  mkdirSync(at("tree/below"), { recursive: true });
  writeFileSync(at("tree/a.txt"), "CANARY ".repeat(10_000));
  writeFileSync(at("tree/below/b"), Buffer.alloc(100_000, 7));
  ok("create", vault);
  ok("put", vault, at("tree"), "/");
});

afterEach(() => rmSync(directory, { recursive: true, force: true }));

const at = (name: string) => join(directory, name);

function ok(...args: string[]): string {
  const done = sqlfuse(args);
  expect(done, args.join(" ")).toMatchObject({ code: 0, stderr: "" });
  return done.stdout;
}

function fails(code: number, message: RegExp, ...args: string[]): void {
  const done: Outcome = sqlfuse(args);
  expect(done.stderr, args.join(" ")).toMatch(message);
  expect(done.code, args.join(" ")).toBe(code);
}

/** Everything but the times of access, which are not replicated. */
const dumpOf = (file: string) => ok("dump", "--no-data", file).replace(/ atime=\S+/g, "");

function expectEqual(replica: string): void {
  expect(dumpOf(replica)).toBe(dumpOf(vault));
  ok("fsck", replica);
}

/** Adds the remote, and pushes all to it. */
function pushed(): void {
  ok("remote", "add", vault, "nas", nas);
  ok("push", vault);
}

describe("a volume with a remote", () => {
  it("is cloned, and followed by pulls", () => {
    expect(ok("remote", "add", vault, "nas", nas)).toBe(
      `nas: added; ship everything to it with: sqlfuse push ${vault} nas\n`,
    );
    expect(ok("push", vault)).toMatch(
      /^nas: pushed to segment 1 \([0-9a-f]{16}\), epoch 1 of \S+ \S+.*, [\d.]+ KiB in 2 objects\n$/,
    );
    expect(ok("push", vault, "nas")).toMatch(/^nas: has everything, segment 1 \([0-9a-f]{16}\), epoch 1 of /);
    const replica = at("replica.sqlite");
    expect(ok("clone", nas, replica)).toMatch(
      /: a replica, as of segment 1 \([0-9a-f]{16}\), epoch 1 of .*\n$/,
    );
    expectEqual(replica);
    ok("rm", "-r", vault, "tree/below");
    ok("snapshot", "create", vault, "without");
    writeFileSync(at("tree/a.txt"), "changed");
    ok("put", vault, at("tree/a.txt"), "/tree");
    expect(JSON.parse(ok("push", "--json", vault))).toMatchObject([
      { remote: "nas", segments: 2, segment: 3 },
    ]);
    expect(ok("pull", replica)).toMatch(/: 2 segments applied, to 3, /);
    expectEqual(replica);
    expect(ok("snapshot", "list", replica)).toContain("without");
    expect(ok("cat", "--at", "without", replica, "tree/a.txt")).toContain("CANARY");
    expect(JSON.parse(ok("pull", "--json", replica))).toMatchObject({
      segments: 0,
      segment: 3,
      path: replica,
    });
  });

  it("has nothing there that tells names or contents", () => {
    pushed();
    const files = readdirSync(nas, { recursive: true, withFileTypes: true }).filter((entry) =>
      entry.isFile(),
    );
    expect(files.length).toBeGreaterThan(3);
    for (const entry of files) {
      const bytes = readFileSync(join(entry.parentPath, entry.name));
      for (const word of ["CANARY", "a.txt", "tree", "below", PASSWORD])
        expect(bytes.includes(word)).toBe(false);
    }
  });

  it("tells its remotes, how far they are, and with --max-age that one is behind", () => {
    expect(ok("remote", "list", vault)).toBe("no remotes\n");
    expect(ok("remote", "status", vault)).toBe("no remotes\n");
    ok("remote", "add", vault, "nas", nas);
    expect(JSON.parse(ok("remote", "list", "--json", vault))).toEqual([{ name: "nas", url: nas }]);
    fails(
      1,
      /nas: stale: lacks changes, and had all of them never/,
      "remote",
      "status",
      "--max-age",
      "1h",
      vault,
    );
    ok("push", vault);
    expect(JSON.parse(ok("remote", "status", "--max-age", "1h", "--json", vault))).toMatchObject([
      { name: "nas", segment: 1, files: 0, bytes: 0, behindMs: 0, state: "current" },
    ]);
    ok("put", vault, at("tree/a.txt"), "/");
    expect(JSON.parse(ok("remote", "status", "--json", vault))).toMatchObject([
      { files: 2, bytes: 70_000, state: "behind" },
    ]);
    expect(ok("remote", "status", vault)).toMatch(/^nas +behind +1 .* 2 files, about 68.4 KiB/m);
    expect(ok("remote", "remove", vault, "nas")).toContain("stays there");
    expect(ok("remote", "list", vault)).toBe("no remotes\n");
    expect(ok("snapshot", "list", vault)).toBe("no snapshots\n");
    ok("fsck", vault);
  });

  it("is stale where it was pushed while the clock was a year ahead, and lacks changes since", () => {
    ok("remote", "add", vault, "nas", nas);
    const YEAR_MS = 365 * 86_400_000;
    writeFileSync(at("ahead.mjs"), `const now = Date.now; Date.now = () => now() + ${YEAR_MS};`);
    const ahead = { password: PASSWORD, env: { NODE_OPTIONS: `--import=${at("ahead.mjs")}` } };
    expect(sqlfuse(["push", vault], ahead)).toMatchObject({ code: 0 });
    ok("remote", "status", "--max-age", "1h", vault);
    ok("rm", vault, "tree/a.txt");
    fails(1, /nas: stale: lacks changes/, "remote", "status", "--max-age", "1h", vault);
    ok("push", vault);
    expect(ok("remote", "status", "--max-age", "1h", vault)).toMatch(/^nas +current/m);
  });

  it("is verified, and what is wrong is named", () => {
    pushed();
    expect(ok("remote", "verify", "--read-data", "100", vault)).toMatch(
      /^nas: all is there: 1 segments and 2 objects/,
    );
    const [object = ""] = readdirSync(join(nas, "data"), { recursive: true, encoding: "utf8" }).filter(
      (name) => /[0-9a-f]{64}$/.test(name),
    );
    rmSync(join(nas, "data", object));
    fails(20, new RegExp(object), "remote", "verify", vault, "nas");
  });

  it("is verified at all of its remotes, also where one of them is away, and told as one JSON value", () => {
    pushed();
    mkdirSync(at("usb"));
    ok("remote", "add", vault, "a-usb", at("usb"));
    ok("push", vault, "a-usb");
    rmSync(at("usb"), { recursive: true });
    const done = sqlfuse(["remote", "verify", "--json", vault]);
    expect(done.code).toBe(10);
    expect(done.stderr).toBe(`sqlfuse: a-usb: ${at("usb")}: there is no such directory\n`);
    expect(JSON.parse(done.stdout)).toMatchObject([
      { name: "a-usb", error: `${at("usb")}: there is no such directory` },
      { name: "nas", segments: 1, problems: [] },
    ]);
  });

  it("lets its log go of what is not needed any more", () => {
    pushed();
    ok("clone", nas, at("replica.sqlite"));
    for (let i = 0; i < 3; i++) {
      writeFileSync(at("tree/a.txt"), `version ${i} `.repeat(5000));
      ok("put", vault, at("tree/a.txt"), "/tree");
      ok("push", vault);
    }
    const [done] = JSON.parse(ok("remote", "gc", "--json", vault)) as [{ objects: number }];
    // Of the first object less than half is needed: what is is packed anew, in a second start.
    expect(done).toMatchObject({ segments: 5, segment: 6, repacked: 1 });
    expect(done.objects).toBeGreaterThan(5);
    ok("remote", "verify", "--read-data", "100", vault);
    ok("pull", at("replica.sqlite"));
    expectEqual(at("replica.sqlite"));
    ok("clone", nas, at("new.sqlite"));
    expectEqual(at("new.sqlite"));
    fails(20, /the log there begins with segment [2-9]\n$/, "clone", "--until", "1", nas, at("early.sqlite"));
  });

  it("that is not compressed is followed by a replica that was", () => {
    const plain = at("plain.sqlite");
    const replica = at("replica.sqlite");
    ok("create", "--compression", "none", plain);
    writeFileSync(at("text"), "the same again ".repeat(50_000));
    ok("put", plain, at("text"), "/");
    ok("remote", "add", plain, "nas", nas);
    ok("push", plain);
    ok("clone", nas, replica);
    expect(ok("info", replica)).not.toMatch(/^format .*compression/m);
    ok("vacuum", "--recompress", replica);
    ok("put", plain, at("tree/a.txt"), "/");
    ok("push", plain);
    ok("pull", replica);
    expect(dumpOf(replica)).toBe(dumpOf(plain));
    ok("fsck", "--verify-data", replica);
  });

  it("goes on where it was after a rekey, a vacuum and a prune", () => {
    pushed();
    ok("clone", nas, at("replica.sqlite"));
    writeFileSync(at("new"), "another password", { mode: 0o600 });
    ok("rekey", "--new-password-file", at("new"), vault);
    const other = { password: "another password" };
    expect(sqlfuse(["vacuum", vault], other).code).toBe(0);
    expect(sqlfuse(["rm", "-r", vault, "tree/below"], other).code).toBe(0);
    expect(sqlfuse(["snapshot", "prune", vault, "--keep-last", "1"], other).code).toBe(0);
    expect(sqlfuse(["push", vault], other)).toMatchObject({ code: 0, stderr: "" });
    ok("pull", at("replica.sqlite"));
    const dump = sqlfuse(["dump", "--no-data", vault], other).stdout.replace(/ atime=\S+/g, "");
    expect(dumpOf(at("replica.sqlite"))).toBe(dump);
    fails(12, /wrong password/, "clone", nas, at("clone.sqlite"));
    expect(sqlfuse(["clone", nas, at("clone.sqlite")], other)).toMatchObject({ code: 0, stderr: "" });
  });

  it("keeps its key file where an older copy of it is rekeyed", () => {
    pushed();
    cpSync(vault, at("copy.sqlite"));
    ok("rm", vault, "tree/a.txt");
    ok("push", vault);
    writeFileSync(at("new"), "another password", { mode: 0o600 });
    expect(sqlfuse(["rekey", "--new-password-file", at("new"), at("copy.sqlite")]).stderr).toMatch(
      /another copy of it writes there/,
    );
    ok("clone", nas, at("clone.sqlite"));
  });

  it("whose remote cannot be reached at a rekey is told so, and its next push makes up for it", () => {
    pushed();
    writeFileSync(at("new"), "another password", { mode: 0o600 });
    const other = { password: "another password" };
    renameSync(nas, at("unplugged"));
    const done = sqlfuse(["rekey", "--new-password-file", at("new"), vault]);
    expect(done).toMatchObject({ code: 0 });
    expect(done.stderr).toMatch(/nas: still opens with the old password, until the next push/);
    renameSync(at("unplugged"), nas);
    expect(sqlfuse(["clone", nas, at("early.sqlite")], other)).toMatchObject({ code: 12 });
    expect(sqlfuse(["push", vault], other)).toMatchObject({ code: 0 });
    expect(sqlfuse(["clone", nas, at("late.sqlite")], other)).toMatchObject({ code: 0, stderr: "" });
  });
});

describe("a log whose secret is changed", () => {
  it("is followed by replicas, and after a rekey the old password and key file open nothing of it", () => {
    pushed();
    const replica = at("replica.sqlite");
    ok("clone", nas, replica);
    const [keyFile = ""] = readdirSync(join(nas, "key"));
    const old = readFileSync(join(nas, "key", keyFile));
    writeFileSync(at("new"), "another password", { mode: 0o600 });
    ok("rekey", "--new-password-file", at("new"), vault);
    const other = { password: "another password" };
    expect(sqlfuse(["remote", "rotate", vault, "nas"], other).stdout).toMatch(
      /^nas: has a new secret, and everything again, [\d.]+ KiB; 1 segments and 2 objects removed, .*; segment 2 \(/,
    );
    fails(12, /sqlfuse rekey/, "pull", replica);
    ok("rekey", "--new-password-file", at("new"), replica);
    expect(sqlfuse(["pull", replica], other)).toMatchObject({ code: 0, stderr: "" });
    const dump = (file: string) =>
      sqlfuse(["dump", "--no-data", file], other).stdout.replace(/ atime=\S+/g, "");
    expect(dump(replica)).toBe(dump(vault));
    expect(sqlfuse(["clone", nas, at("clone.sqlite")], other)).toMatchObject({ code: 0, stderr: "" });
    // In front of the new one, and in its place.
    writeFileSync(join(nas, "key", "0000000000000099"), old);
    fails(20, /it is of another log/, "clone", nas, at("x.sqlite"));
    fails(20, /it is of another log/, "log-dump", nas);
    for (const name of readdirSync(join(nas, "key")).filter((one) => !one.endsWith("99")))
      rmSync(join(nas, "key", name));
    fails(20, /it is of another log/, "clone", nas, at("x.sqlite"));
  });
});

describe("a head file", () => {
  it("is made, and refuses a log and a volume that are older than what was seen", () => {
    const head = at("head");
    pushed();
    const again = sqlfuse(["push", "--head-file", head, vault]);
    expect(again).toMatchObject({ code: 0 });
    expect(again.stderr).toContain(`${head}: made anew`);
    expect(statSync(head).mode & 0o777).toBe(0o600);
    cpSync(nas, at("older"), { recursive: true });
    cpSync(vault, at("older.sqlite"));
    ok("clone", nas, at("replica.sqlite"));
    ok("rm", vault, "tree/a.txt");
    ok("push", "--head-file", head, vault);
    const seen = readFileSync(head, "utf8");
    expect(seen).toContain(" segment=2 ");
    fails(
      20,
      /ends at segment 1, and segment 2 .*head file/,
      "clone",
      "--head-file",
      head,
      at("older"),
      at("x"),
    );
    expect(existsSync(at("x"))).toBe(false);
    renameSync(nas, at("newer"));
    renameSync(at("older"), nas);
    fails(20, /ends at segment 1/, "pull", "--head-file", head, at("replica.sqlite"));
    fails(20, /head file has seen 2: it is an older copy/, "push", "--head-file", head, at("older.sqlite"));
    renameSync(nas, at("older"));
    renameSync(at("newer"), nas);
    ok("pull", "--head-file", head, at("replica.sqlite"));
    const cloned = JSON.parse(ok("clone", "--json", "--head-file", head, nas, at("clone.sqlite"))) as object;
    expect(cloned).toMatchObject({ segment: 2, epoch: 2, created: expect.stringMatching(/Z$/) as unknown });
    expect(seen).toContain(` hash=${(cloned as { hash: string }).hash} `);
    expect(readFileSync(head, "utf8")).toBe(seen);
    // It goes on to the log that takes its place, and no farther behind.
    ok("remote", "rotate", vault, "nas");
    ok("clone", "--head-file", head, nas, at("rotated.sqlite"));
    expect(readFileSync(head, "utf8")).toContain(" segment=3 ");
    writeFileSync(head, seen.replace("segment=2", "segment=3"));
    fails(10, /is not the head of a log, or damaged/, "push", "--head-file", head, vault);
  });

  it("is of one log", () => {
    pushed();
    mkdirSync(at("other"));
    ok("remote", "add", vault, "other", at("other"));
    fails(2, /name the remote/, "push", "--head-file", at("head"), vault);
    sqlfuse(["push", "--head-file", at("head"), vault, "nas"]);
    ok("push", vault, "other");
    fails(20, /another log took its place/, "push", "--head-file", at("head"), vault, "other");
  });
});

describe("a replica", () => {
  it("is changed by nothing but pulls", () => {
    ok("snapshot", "create", vault, "kept");
    ok("rm", vault, "tree/a.txt");
    pushed();
    const replica = at("replica.sqlite");
    ok("clone", nas, replica);
    fails(10, /a replica, which only sqlfuse pull changes/, "put", replica, at("tree"), "/");
    fails(10, /a replica/, "snapshot", "create", replica, "x");
    fails(10, /a replica, which only sqlfuse pull changes/, "restore", "--at", "kept", replica, "/");
    fails(10, /a replica/, "push", replica);
    fails(10, /not a replica/, "pull", vault);
    ok("vacuum", replica);
    ok("fsck", replica);
    expectEqual(replica);
  });

  it("takes the place of a lost volume, whose pushes are refused from then on", () => {
    pushed();
    ok("clone", nas, at("follower.sqlite"));
    const restored = at("restored.sqlite");
    expect(ok("clone", "--restore", nas, restored)).toContain(": restored, as of segment 1");
    expectEqual(restored);
    ok("put", restored, at("tree/a.txt"), "/new");
    expect(ok("push", restored)).toMatch(/^origin: pushed to segment 2 /);
    ok("pull", at("follower.sqlite"));
    expect(dumpOf(at("follower.sqlite"))).toBe(dumpOf(restored));
    ok("rm", "-r", vault, "tree");
    fails(10, /another copy of it writes there/, "push", vault);
  });
});

describe("what is refused", () => {
  it("at the command line is told with its exit code", () => {
    fails(2, /takes a NAME and a URL/, "remote", "add", vault, "nas");
    fails(2, /takes no NAME/, "remote", "list", vault, "nas");
    fails(2, /takes a NAME and no URL/, "remote", "remove", vault);
    fails(2, /no name for a remote/, "remote", "add", vault, "a/b", nas);
    fails(2, /--max-age soon/, "remote", "status", "--max-age", "soon", vault);
    fails(2, /--max-age is for/, "remote", "list", "--max-age", "1h", vault);
    fails(2, /--read-data/, "remote", "verify", "--read-data", "101", vault);
    fails(2, /--read-data is for/, "remote", "gc", "--read-data", "1", vault);
    fails(2, /--interval 0/, "push", "--watch", "--interval", "0", vault);
    fails(2, /--until x/, "clone", "--until", "x", nas, at("x"));
    fails(2, /--segment 0/, "log-dump", "--segment", "0", nas);
  });

  it("by what is there, or not, is told with its exit code, and nothing is made", () => {
    fails(10, /it has no remote/, "push", vault);
    fails(10, /no such file/, "push", at("missing"));
    fails(10, /no such directory/, "remote", "add", vault, "nas", at("missing"));
    for (const url of ["ftp://example.com/x", ""])
      fails(10, /: a remote is a directory/, "remote", "add", vault, "nas", url);
    fails(10, /^sqlfuse: "": a remote is a directory/, "clone", "", at("x.sqlite"));
    expect(ok("remote", "list", vault)).toBe("no remotes\n");
    fails(10, /no log is there/, "clone", nas, at("x.sqlite"));
    ok("remote", "add", vault, "nas", nas);
    fails(20, /nothing was pushed there yet/, "clone", nas, at("x.sqlite"));
    fails(10, /has a remote nas already/, "remote", "add", vault, "nas", at("tree"));
    fails(10, /a log is there already/, "remote", "add", vault, "other", nas);
    fails(10, /has no remote other/, "push", vault, "other");
    ok("push", vault);
    fails(10, /exists already/, "clone", nas, vault);
    expect(sqlfuse(["clone", nas, at("x.sqlite")], { password: "wrong" })).toMatchObject({ code: 12 });
    expect(readdirSync(directory).filter((name) => name.startsWith("x.sqlite"))).toEqual([]);
    // Other programs, too, keep objects by their hashes; a gc would take them for its own.
    mkdirSync(at("other/data/ab"), { recursive: true });
    writeFileSync(at(`other/data/ab/${"ab".repeat(32)}`), "of a backup");
    fails(10, /something else is there already, in data\/;/, "remote", "add", vault, "other", at("other"));
    expect(readdirSync(at("other"))).toEqual(["data"]);
    fails(10, /there is no segment 2/, "log-dump", "--segment", "2", nas);
  });
});

describe("log-dump", () => {
  it("shows segments, and the records of one, by the password alone", () => {
    pushed();
    rmSync(vault);
    expect(ok("log-dump", nas)).toMatch(
      /^segment number=1 hash=[0-9a-f]{64} base=0 epoch=1 created=\S+ records=\d+ blocks=\d+/,
    );
    const lines = ok("log-dump", "--segment", "1", "--json", nas).trim().split("\n");
    const records = lines.map((line) => JSON.parse(line) as Record<string, unknown>);
    expect(records[0]).toMatchObject({ type: "segment", number: 1 });
    expect(records.length - 1).toBe(records[0]?.records);
    expect(records).toContainEqual(expect.objectContaining({ type: "entry", name: '"a.txt"' }));
  });

  it("shows the segments of both logs while there is an older one", () => {
    pushed();
    cpSync(nas, at("before"), { recursive: true });
    ok("remote", "rotate", vault, "nas");
    cpSync(at("before"), nas, { recursive: true });
    expect(ok("log-dump", nas)).toMatch(/^segment number=1 .*\nsegment number=2 .*\n$/);
    expect(ok("log-dump", "--segment", "1", nas)).toContain("a.txt");
  });
});

describe("a push or pull that is killed", () => {
  /** Runs a command and kills it after so many milliseconds; tells whether it was. */
  async function killed(ms: number, ...args: string[]): Promise<boolean> {
    const child = spawn(process.execPath, [CLI, ...args], {
      env: { ...process.env, SQLFUSE_PASSWORD: PASSWORD },
      stdio: "ignore",
    });
    const end = new Promise<NodeJS.Signals | null>((resolve) =>
      child.once("exit", (_, signal) => resolve(signal)),
    );
    await sleep(ms);
    child.kill("SIGKILL");
    return (await end) === "SIGKILL";
  }

  it("at any moment goes on with the next one", async () => {
    pushed();
    const replica = at("replica.sqlite");
    ok("clone", nas, replica);
    let kills = 0;
    for (let round = 0; round < 6; round++) {
      writeFileSync(at("tree/large"), Buffer.alloc(6_000_000, `round ${round}`));
      ok("put", vault, at("tree/large"), `/large ${round}`);
      if (await killed(150 + 70 * round, "push", vault)) kills++;
      ok("push", vault);
      if (await killed(150 + 70 * round, "pull", replica)) kills++;
      ok("pull", replica);
      expect(dumpOf(replica)).toBe(dumpOf(vault));
    }
    expectEqual(replica);
    expect(kills).toBeGreaterThan(2);
  });
});

const impossible = mountingImpossible();

describe.skipIf(impossible !== undefined)(`a mounted volume (${impossible ?? "mountable"})`, () => {
  let volume: TestVolume;
  beforeEach(() => {
    volume = TestVolume.create();
  });
  afterEach(() => volume.remove());

  const cli = (...args: string[]) => {
    const done = volume.cli(args);
    expect(done, args.join(" ")).toMatchObject({ status: 0, stderr: "" });
    return done.stdout;
  };

  it("is pushed while it is written to, and its replica equals it; a mount of the replica is read-only", () => {
    const [remote, replica] = [join(volume.home, "remote"), join(volume.home, "replica.sqlite")];
    mkdirSync(remote);
    volume.mount();
    cli("remote", "add", volume.mountpoint, "nas", remote);
    for (let round = 0; round < 5; round++) {
      writeFileSync(join(volume.mountpoint, `file ${round}`), Buffer.alloc(100_000, `${round}`));
      // What is not committed yet is in it too.
      cli("push", round % 2 === 0 ? volume.mountpoint : volume.file);
      if (round === 0) cli("clone", remote, replica);
      else cli("pull", replica);
      expect(cli("ls", replica)).toContain(`file ${round}`);
    }
    expect(cli("remote", "status", volume.mountpoint)).toContain("nothing");
    volume.unmount();
    const dumpOfFile = (file: string) => cli("dump", "--no-data", file).replace(/ atime=\S+/g, "");
    expect(dumpOfFile(replica)).toBe(dumpOfFile(volume.file));
    const mountpoint = join(volume.home, "replica");
    mkdirSync(mountpoint);
    try {
      expect(cli("mount", replica, mountpoint)).toContain("mounted read-only at");
      expect(() => writeFileSync(join(mountpoint, "x"), "x")).toThrow(/EROFS/);
      expect(readFileSync(join(mountpoint, "file 3"))).toEqual(Buffer.alloc(100_000, "3"));
      expect(cli("pull", replica)).toContain("nothing new");
      expect(cli("pull", mountpoint)).toContain("nothing new");
    } finally {
      cli("unmount", mountpoint);
    }
    cli("pull", replica);
  });
});
