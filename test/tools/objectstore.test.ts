/** Replication through an object store, as a user runs it: against a server in memory. */
import { type ChildProcess, spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { noise } from "../core/fixture.ts";
import { FakeS3, KEYS } from "../remote/fakes3.ts";
import { CLI, type Outcome, PASSWORD, sqlfuse } from "./run.ts";

let directory: string;
let vault: string;
let fake: FakeS3;

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), "objectstore-"));
  vault = at("vault.sqlite");
  fake = await FakeS3.start();
  mkdirSync(at("tree"));
  writeFileSync(at("tree/a.txt"), "CANARY ".repeat(10_000));
  for (const args of [
    ["create", vault],
    ["put", vault, at("tree"), "/"],
  ])
    expect(sqlfuse(args)).toMatchObject({ code: 0 });
});

afterEach(async () => {
  await fake.stop();
  rmSync(directory, { recursive: true, force: true });
});

const at = (name: string) => join(directory, name);

/** A command while this process serves it; `begun` is given its process. */
async function cli(args: string[], env: Record<string, string> = {}, begun?: (child: ChildProcess) => void) {
  const child = spawn(process.execPath, [CLI, ...args], {
    env: { ...process.env, SQLFUSE_PASSWORD: PASSWORD, ...KEYS, ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  begun?.(child);
  const said = { stdout: "", stderr: "" };
  for (const name of ["stdout", "stderr"] as const)
    child[name].setEncoding("utf8").on("data", (text: string) => {
      said[name] += text;
    });
  return await new Promise<Outcome & { readonly signal: NodeJS.Signals | null }>((resolve) =>
    child.once("close", (code, signal) => resolve({ code, signal, ...said })),
  );
}

async function ok(...args: string[]): Promise<string> {
  const done = await cli(args);
  expect(done, args.join(" ")).toMatchObject({ code: 0, stderr: "" });
  return done.stdout;
}

async function fails(code: number, message: RegExp, args: string[], env: Record<string, string> = {}) {
  const done = await cli(args, env);
  expect(done.stderr, args.join(" ")).toMatch(message);
  expect(done.code, args.join(" ")).toBe(code);
  return done;
}

const dumpOf = async (file: string) => (await ok("dump", "--no-data", file)).replace(/ atime=\S+/g, "");

async function expectEqual(replica: string): Promise<void> {
  expect(await dumpOf(replica)).toBe(await dumpOf(vault));
  await ok("fsck", replica);
}

async function pushed(): Promise<void> {
  await ok("remote", "add", vault, "store", fake.url());
  await ok("push", vault);
}

/** Sorted names of what is there. */
const names = () => [...fake.files.keys()].sort();

/** Puts another file into the volume. */
async function change(content: Buffer | string): Promise<void> {
  writeFileSync(at("more"), content);
  await ok("put", vault, at("more"), "/more");
}

describe("a volume with an object store as its remote", () => {
  it("is cloned, and followed by pulls", async () => {
    const replica = at("replica.sqlite");
    await pushed();
    expect(await ok("clone", fake.url(), replica)).toMatch(/: a replica, as of segment 1 /);
    await expectEqual(replica);
    for (let i = 0; i < 2; i++) {
      await change(`version ${i} `.repeat(10_000));
      await ok("push", vault);
    }
    expect(await ok("pull", replica)).toMatch(/: 2 segments applied, to 3, /);
    await expectEqual(replica);
  });

  it("is verified, and its log is let go of what is not needed", async () => {
    await pushed();
    await change("another ".repeat(10_000));
    await ok("push", vault);
    await change("a third ".repeat(10_000));
    expect(await ok("remote", "verify", "--read-data", "100", vault)).toMatch(
      /^store: all is there: 2 segments/,
    );
    const before = names().length;
    await ok("remote", "gc", vault);
    expect(names().length).toBeLessThan(before);
    await ok("remote", "verify", "--read-data", "100", vault);
    await ok("clone", "--restore", fake.url(), at("restored.sqlite"));
    await expectEqual(at("restored.sqlite"));
    expect(await ok("log-dump", fake.url())).toMatch(/^segment number=3 /);
  });

  it("has nothing there that tells names or contents, and no secret key in it", async () => {
    await pushed();
    expect(names().length).toBeGreaterThan(3);
    for (const [name, bytes] of fake.files) {
      expect(name).toMatch(/^prefix\/(key|log|data)\/[0-9a-f/]+$/);
      for (const word of ["CANARY", "a.txt", "tree", PASSWORD, KEYS.AWS_SECRET_ACCESS_KEY])
        expect(bytes.includes(word)).toBe(false);
    }
    const shown = [await ok("remote", "list", "--json", vault), await ok("dump", "--sql", vault)].join("");
    for (const word of Object.values(KEYS)) expect(shown).not.toContain(word);
    expect(readFileSync(vault).includes(KEYS.AWS_SECRET_ACCESS_KEY)).toBe(false);
  });

  it("is refused what was changed, cut off or put back there", async () => {
    const replica = at("replica.sqlite");
    await pushed();
    await ok("clone", fake.url(), replica);
    const old = new Map(fake.files);
    const shown = await dumpOf(replica);
    await change(noise(300_000));
    await ok("push", vault);
    const good = new Map(fake.files);
    for (const name of names().filter((one) => !old.has(one))) {
      for (const damaged of [flipped, truncated]) {
        fake.files.set(name, damaged(good.get(name) ?? Buffer.alloc(0)));
        await fails(20, /: /, ["pull", replica]);
      }
      fake.files.set(name, good.get(name) ?? Buffer.alloc(0));
    }
    expect(await dumpOf(replica)).toBe(shown);
    await ok("pull", replica);
    fake.files.clear();
    for (const [name, bytes] of old) fake.files.set(name, bytes);
    await fails(20, /ends at segment 1/, ["pull", replica]);
    await fails(20, /cut off, or is an older copy/, ["push", vault]);
    await expectEqual(replica);
  });

  it("ships nothing twice when its push is killed again and again, and its replica equals it", async () => {
    const FILES = 8;
    mkdirSync(at("many"));
    for (let i = 0; i < FILES; i++) writeFileSync(at(`many/${i}`), noise(2_000_000, i));
    await ok("put", vault, at("many"), "/");
    await ok("remote", "add", vault, "store", fake.url());
    const OBJECT = 5 * 2 ** 20;
    const FLIGHTS = 4;
    let kills = 0;
    for (let isDone = false; !isDone; ) {
      let child: ChildProcess | undefined;
      // Each gets a little further: what is on its way at first is not noted yet.
      let left = 3 + 2 * kills;
      fake.options = {
        fault: ({ method }) => {
          if (method !== "PUT" || --left > 0) return undefined;
          child?.kill("SIGKILL");
          return kills % 2 === 0 ? "cut before" : undefined;
        },
      };
      const done = await cli(["push", vault], {}, (begun) => {
        child = begun;
      });
      isDone = done.code === 0;
      if (!isDone) expect(done.signal).toBe("SIGKILL");
      if (!isDone) kills++;
      expect(kills).toBeLessThan(20);
    }
    fake.options = {};
    expect(kills).toBeGreaterThan(1);
    const blocks = [...fake.files.values()].filter((file) => file.toString("latin1", 9, 10) === "B");
    const bytes = blocks.reduce((sum, { length }) => sum + length, 0);
    expect(bytes).toBeLessThan(FILES * 2_010_000 + 100_000 + kills * FLIGHTS * OBJECT);
    // What was noted is not put again: a push that has nothing new puts nothing.
    const puts = fake.counts.PUT;
    expect(await ok("push", vault)).toMatch(/has everything/);
    expect(fake.counts.PUT).toBe(puts);
    await ok("clone", fake.url(), at("replica.sqlite"));
    await expectEqual(at("replica.sqlite"));
  });

  it("gets over a store that is busy, and says so", async () => {
    await ok("remote", "add", vault, "store", fake.url());
    fake.options = {
      fault: ({ count }) => (count % 3 === 0 ? { status: 503, code: "SlowDown" } : undefined),
    };
    const done = await cli(["push", vault]);
    expect(done).toMatchObject({ code: 0 });
    expect(done.stderr).toMatch(/^(sqlfuse: s3:\/\/.* answers 503( SlowDown)?; trying again for 60 s\n)+$/);
    await cli(["clone", fake.url(), at("replica.sqlite")]);
    fake.options = {};
    await expectEqual(at("replica.sqlite"));
  });

  it("whose change of the secret was stopped is told so, and its next push goes on with that", async () => {
    await pushed();
    fake.options = {
      fault: ({ method, key }) => (method === "PUT" && key.includes("/log/") ? { status: 403 } : undefined),
    };
    await fails(10, /may not do that/, ["remote", "rotate", vault, "store"]);
    fake.options = {};
    await ok("clone", fake.url(), at("meanwhile.sqlite"));
    await expectEqual(at("meanwhile.sqlite"));
    // A second one would leave replicas behind, who can follow one.
    await ok("clone", fake.url(), at("follower.sqlite"));
    await fails(10, /is being changed already, and that was stopped; go on with it first: sqlfuse push\n$/, [
      "remote",
      "rotate",
      vault,
      "store",
    ]);
    await fails(10, /a remote rotate was stopped; the next push goes on with it\n$/, [
      "remote",
      "verify",
      vault,
    ]);
    await ok("push", vault);
    expect(await ok("remote", "verify", "--read-data", "100", vault)).toContain("all is there");
    await ok("pull", at("follower.sqlite"));
    await expectEqual(at("follower.sqlite"));
    await ok("remote", "rotate", vault, "store");
    await ok("pull", at("follower.sqlite"));
    await expectEqual(at("follower.sqlite"));
  });

  it("is left at once by a signal while the store does not answer", async () => {
    await ok("remote", "add", vault, "store", fake.url());
    for (const [signal, code] of [
      ["SIGINT", 130],
      ["SIGTERM", 143],
    ] as const) {
      let child: ChildProcess | undefined;
      fake.options = {
        fault: () => {
          setTimeout(() => child?.kill(signal), 100);
          return "hang";
        },
      };
      const done = await cli(["push", vault], {}, (begun) => {
        child = begun;
      });
      expect(done).toMatchObject({ code });
      expect(done.stderr).toMatch(/goes on where this one was/);
    }
    fake.options = {};
    await ok("push", vault);
  });

  it("moves no more bytes in a second than --bwlimit says", async () => {
    await change(noise(1_500_000));
    await ok("remote", "add", vault, "store", fake.url());
    const timed = async (...args: string[]) => {
      const sinceMs = performance.now();
      await ok(...args);
      return performance.now() - sinceMs;
    };
    expect(await timed("push", "--bwlimit", "1M", vault)).toBeGreaterThan(1150);
    expect(await timed("clone", "--bwlimit", "1M", fake.url(), at("replica.sqlite"))).toBeGreaterThan(1150);
    await change(noise(600_000, 2));
    await ok("push", vault);
    expect(await timed("pull", "--bwlimit", "512K", at("replica.sqlite"))).toBeGreaterThan(800);
    await expectEqual(at("replica.sqlite"));
    await ok("clone", "--partial", fake.url(), at("partial.sqlite"));
    expect(await timed("pin", "--bwlimit", "1M", at("partial.sqlite"), "/")).toBeGreaterThan(300);
  });
});

const flipped = (bytes: Buffer): Buffer => {
  const copy = Buffer.from(bytes);
  const middle = copy.length >> 1;
  copy[middle] = (copy[middle] ?? 0) ^ 1;
  return copy;
};
const truncated = (bytes: Buffer): Buffer => bytes.subarray(0, -1);

describe("what is refused", () => {
  it("is told with its exit code, in one line, without a secret", async () => {
    const none = { AWS_ACCESS_KEY_ID: "", AWS_SECRET_ACCESS_KEY: "" };
    const add = (url: string) => ["remote", "add", vault, "store", url];
    await fails(10, /are not in the environment\n$/, add(fake.url()), none);
    await fails(10, /are not in the environment\n$/, ["clone", fake.url(), at("x.sqlite")], none);
    await fails(10, /no bucket missing: make it first\n$/, add(fake.url().replace("bucket", "missing")));
    const wrong = { AWS_SECRET_ACCESS_KEY: "not it" };
    expect((await fails(10, /the secret key is not/, add(fake.url()), wrong)).stderr).not.toMatch(
      /not it|\n./,
    );
    const inUrl = fake.url().replace("s3://", "s3://TESTKEY:SECRET@");
    expect((await fails(10, /no keys may stand in the URL/, add(inUrl))).stderr).not.toContain("SECRET");
    await fails(10, /use https/, add("s3://b/x?endpoint=http://example.com"));
    await fails(10, /other kinds are not known/, add("ftp://example.com/x"));
    expect(await ok("remote", "list", vault)).toBe("no remotes\n");
    await ok(...add(fake.url()));
    await fails(10, /a log is there already/, ["remote", "add", vault, "other", fake.url()]);
    await fails(20, /nothing was pushed there yet/, ["clone", fake.url(), at("x.sqlite")]);
    for (const rate of ["500", "0K", "fast", "2T", "-1M"])
      await fails(2, /--bwlimit ".*": not a number of bytes from 1K to 1T, such as 500K/, [
        "push",
        `--bwlimit=${rate}`,
        vault,
      ]);
  });
});
