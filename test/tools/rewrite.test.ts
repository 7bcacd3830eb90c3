/**
 * rekey and vacuum, stopped and failed at each of their writes: the name must hold one whole volume that exactly one
 * password opens, and the next run must leave nothing behind. strace does the stopping. SQLFUSE_LONG=1 takes every
 * write instead of some.
 */
import { execFileSync, spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { OpenError } from "../../src/core/errors.ts";
import { unlock } from "../../src/core/unlock.ts";
import { Volume } from "../../src/core/volume.ts";
import { type Key, rawKeyPassword } from "../../src/db/key.ts";
import { hmacKey, pageIsAuthentic } from "../../src/db/page.ts";
import { check } from "../../src/fsck/check.ts";
import { b, mkdir, noise, put, ROOT } from "../core/fixture.ts";
import { tablesOf } from "../core/tables.ts";
import { type Call, canTrace, countCalls, faulted, recorded, WRITES } from "../helpers/strace.ts";
import { report } from "../helpers/torture.ts";
import { CLI } from "./run.ts";

const LONG = process.env.SQLFUSE_LONG === "1";
/** Raw keys: no derivation slows a thousand runs down. */
const RAW = { old: randomBytes(32), new: randomBytes(32) };
type Which = keyof typeof RAW;

let directory: string;
/** A volume as a crash left it: a -wal with committed changes, an unlinked file that was open. */
let seed: string;
let wanted: Record<string, string>;
let work: string;
let volumeFile: string;

function password(which: Which): Buffer {
  return rawKeyPassword(RAW[which]);
}

function makeSeed(): void {
  const path = join(seed, "v");
  Volume.create(path, password("old"), { rootUid: 1000, rootGid: 1000 });
  const key = unlock(path, password("old"));
  const volume = Volume.open(path, key, { commitIntervalMs: 3_600_000 });
  const sub = mkdir(volume, ROOT, "directory");
  const file = put(volume, sub, "noise", noise(200_000));
  volume.closeEpoch();
  volume.files.write(file, 65_536, noise(1000, 2), false);
  const clone = put(volume, ROOT, "clone", "");
  volume.files.copyFileRange(file, 0, clone, 0, 200_000, false);
  volume.xattrs.set(clone, b("user.color"), b("blue"), 0, false);
  volume.tree.symlink(ROOT, b("link"), b("directory/noise"), { uid: 0, gid: 0, umask: 0 });
  const orphan = put(volume, ROOT, "orphan", noise(300_000, 3));
  put(volume, ROOT, "kept", noise(100_000, 4));
  volume.inodes.ref(orphan);
  volume.tree.unlink(ROOT, b("orphan"));
  volume.commit();
  const crashed = join(directory, "crashed");
  mkdirSync(crashed);
  execFileSync("cp", [path, `${path}-wal`, crashed]);
  volume.close();
  // What the next mount makes of it.
  const mounted = join(directory, "mounted");
  cpSync(crashed, mounted, { recursive: true });
  Volume.open(join(mounted, "v"), key).close();
  wanted = tablesOf(join(mounted, "v"), key);
  rmSync(seed, { recursive: true });
  cpSync(crashed, seed, { recursive: true });
}

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "rewrite-"));
  seed = join(directory, "seed");
  work = join(directory, "work");
  volumeFile = join(work, "v");
  mkdirSync(seed);
  makeSeed();
  for (const which of ["old", "new"] as const) {
    writeFileSync(join(directory, which), RAW[which], { mode: 0o600 });
  }
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));
beforeEach(fresh);

function fresh(): void {
  rmSync(work, { recursive: true, force: true });
  cpSync(seed, work, { recursive: true });
}

type Verb = "rekey" | "vacuum";

function command(verb: Verb, from: Which = "old"): string[] {
  const to = from === "old" ? "new" : "old";
  const keys = ["--key-file", join(directory, from)];
  if (verb === "rekey") keys.push("--new-key-file", join(directory, to));
  return [process.execPath, CLI, verb, ...keys, volumeFile];
}

function run(argv: readonly string[]): { code: number | null; stderr: string } {
  const [program = "", ...args] = argv;
  const { status, stderr } = spawnSync(program, args, { encoding: "utf8", timeout: 50_000 });
  return { code: status, stderr };
}

/** Every call that is made, or the last of each name. */
function stops(verb: Verb, names: readonly string[] = WRITES): Call[] {
  const log = join(directory, "trace");
  expect(run(recorded(command(verb), names, log))).toMatchObject({ code: 0 });
  return countCalls(log, names).flatMap(([name, count]) =>
    Array.from({ length: count }, (_, i) => i + 1)
      .filter((when) => LONG || when === count)
      .map((when): Call => [name, when]),
  );
}

/** Runs it with `fault` at this call. */
function runWithFault(verb: Verb, call: Call, fault: string): ReturnType<typeof run> {
  fresh();
  return run(faulted(command(verb), call, fault));
}

function keyOf(which: Which): Key | undefined {
  try {
    return unlock(volumeFile, password(which));
  } catch (error) {
    if (error instanceof OpenError && error.reason === "wrong-password") return undefined;
    throw error;
  }
}

/** Which of the two passwords opens the file: exactly one must. */
function opener(): Which {
  const found = (["old", "new"] as const).filter((which) => keyOf(which) !== undefined);
  expect(found).toHaveLength(1);
  return found[0] as Which;
}

/** Whether the old key signed any page of any file here, the pages in a -wal included. */
function oldKeyFindsPages(): boolean {
  const { salt, cipher } = unlock(join(seed, "v"), password("old"));
  const signing = hmacKey({ bytes: RAW.old, salt, cipher } as Key);
  const FRAME = 24;
  return readdirSync(work).some((name) => {
    const bytes = readFileSync(join(work, name));
    const candidates: [offset: number, pageNo: number][] = [];
    for (let at = 0; at + cipher.pageSize <= bytes.length; at += cipher.pageSize)
      candidates.push([at, at / cipher.pageSize + 1]);
    for (let at = 32; at + FRAME + cipher.pageSize <= bytes.length; at += FRAME + cipher.pageSize)
      candidates.push([at + FRAME, bytes.readUInt32BE(at)]);
    return candidates.some(([at, pageNo]) =>
      pageIsAuthentic(bytes.subarray(at, at + cipher.pageSize), pageNo, signing, cipher),
    );
  });
}

/** One password opens it, it is whole, and the next run finishes the work and leaves nothing behind. */
function expectWhole(verb: Verb): Which {
  const now = opener();
  if (now === "new") expect(oldKeyFindsPages()).toBe(false);
  expect(check(volumeFile, keyOf(now) as Key)).toEqual([]);
  expect(run(command(verb, now))).toMatchObject({ code: 0 });
  expect(readdirSync(work)).toEqual(["v"]);
  const after: Which = verb === "vacuum" ? now : now === "old" ? "new" : "old";
  expect(opener()).toBe(after);
  expect(tablesOf(volumeFile, keyOf(after) as Key)).toEqual(wanted);
  return now;
}

describe.skipIf(!canTrace)("stopped at its writes", { timeout: LONG ? 3_600_000 : 120_000 }, () => {
  test.each(["rekey", "vacuum"] as const)("%s, killed: one password opens a whole volume", (verb) => {
    const seen = new Set<string>();
    let tried = 0;
    for (const stop of stops(verb)) {
      const { code } = runWithFault(verb, stop, "signal=SIGKILL");
      expect([stop, code]).not.toEqual([stop, 0]);
      seen.add(expectWhole(verb));
      tried++;
    }
    if (LONG) report("rewrite", tried, `${verb} killed`);
    if (verb === "rekey") expect([...seen].sort()).toEqual(["new", "old"]);
  });

  test.each(["rekey", "vacuum"] as const)(
    "%s, asked to end: it ends at once and leaves nothing, or finishes",
    (verb) => {
      const codes = new Map<number | null, number>();
      for (const [index, stop] of stops(verb).entries()) {
        const [signal, ending] = index % 2 === 0 ? ["SIGINT", 130] : ["SIGTERM", 143];
        const { code, stderr } = runWithFault(verb, stop, `signal=${signal}`);
        codes.set(code, (codes.get(code) ?? 0) + 1);
        if (code === 0) {
          expect(opener()).toBe(verb === "rekey" ? "new" : "old");
        } else {
          expect([stop, code, stderr]).toEqual([
            stop,
            ending,
            `sqlfuse: ${signal}: stopped; ${volumeFile} is as it was\n`,
          ]);
          expect(opener()).toBe("old");
        }
        expect(readdirSync(work)).toEqual(["v"]);
        expectWhole(verb);
      }
      if (LONG)
        report(
          "rewrite",
          [...codes.values()].reduce((sum, count) => sum + count),
          `${verb} asked to end, by exit code: ${JSON.stringify([...codes])}`,
        );
    },
  );

  test.each([
    ["rekey", "ENOSPC"],
    ["rekey", "EIO"],
    ["vacuum", "ENOSPC"],
    ["vacuum", "EIO"],
  ] as const)("%s, met by %s: says so, and leaves no draft", (verb, error) => {
    const failing = ["pwrite64", "ftruncate", "fsync", "fdatasync", "rename", "renameat", "renameat2"];
    let tried = 0;
    for (const stop of stops(verb, failing)) {
      const { code, stderr } = runWithFault(verb, stop, `error=${error}`);
      tried++;
      const now = opener();
      // A checkpoint that fails while a volume is closed is tried again by the next that opens it.
      if (code === 0) expect(now).toBe(verb === "rekey" ? "new" : "old");
      else expect([stop, code, stderr.split("\n").length]).toEqual([stop, expect.any(Number), 2]);
      expect(existsSync(`${volumeFile}.sqlfuse-draft`)).toBe(false);
      expectWhole(verb);
    }
    if (LONG) report("rewrite", tried, `${verb} met by ${error}`);
  });
});
