/** `--head-file` on the command line, and a process that is killed at each of its writes: never a false alarm. */
import { execFileSync, spawn, spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { readHeadFile } from "../../src/core/head.ts";
import { unlock } from "../../src/core/unlock.ts";
import { Volume } from "../../src/core/volume.ts";
import type { Key } from "../../src/db/key.ts";
import { check, drain, inspect } from "../../src/fsck/check.ts";
import { namesOf, ROOT } from "../core/fixture.ts";
import { canTrace, countCalls, faulted, recorded, WRITES } from "../helpers/strace.ts";
import { report } from "../helpers/torture.ts";
import { mountingImpossible } from "../helpers/volume.ts";
import { fingerprint, type Outcome, sqlfuse, sqlfuseOnTerminal } from "./run.ts";

const LONG = process.env.SQLFUSE_LONG === "1";
const KEY = randomBytes(32);
const PASSWORD = Buffer.from(`x'${KEY.toString("hex")}'`);

let template: string;
let directory: string;
let file: string;
let point: string;
let head: string;
let key: Key;

beforeAll(() => {
  template = join(mkdtempSync(join(tmpdir(), "head-template-")), "v");
  Volume.create(template, PASSWORD);
  key = unlock(template, PASSWORD);
});
afterAll(() => rmSync(join(template, ".."), { recursive: true }));

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "head-"));
  file = join(directory, "v");
  point = join(directory, "point");
  head = join(directory, "elsewhere", "head");
  mkdirSync(point);
  mkdirSync(join(head, ".."));
  copyFileSync(template, file);
  writeFileSync(join(directory, "key"), KEY, { mode: 0o600 });
});
afterEach(() => {
  detach();
  rmSync(directory, { recursive: true, force: true });
});

function detach(): void {
  execFileSync("sh", [
    "-c",
    `umount -l ${point} 2>/dev/null || fusermount3 -uz ${point} 2>/dev/null || true`,
  ]);
}

function run(verb: string, ...args: string[]): Outcome {
  const log = verb === "mount" ? ["--log-file", join(directory, "log")] : [];
  return sqlfuse([verb, "--key-file", join(directory, "key"), ...log, ...args], {});
}

/** A commit with a head, by the library. */
function commitOne(name: string): void {
  const volume = Volume.open(file, key, { headFile: head });
  volume.tree.mkdir(ROOT, Buffer.from(name), 0o755, { uid: 0, gid: 0, umask: 0 });
  volume.close();
}

describe("fsck --head-file", () => {
  let old: string;
  beforeEach(() => {
    commitOne("a");
    old = join(directory, "old");
    copyFileSync(file, old);
    commitOne("b");
  });

  test("says that a copy is older, with exit code 4, and that the newest one is clean", () => {
    expect(run("fsck", "--head-file", head, file)).toMatchObject({ code: 0, stderr: "" });
    expect(run("fsck", old).code).toBe(0);
    const before = fingerprint(old);
    const { code, stdout } = run("fsck", "--head-file", head, old);
    expect(code).toBe(4);
    expect(stdout).toBe(
      `head: the volume is older than its head: ${head} has seen commit 4, and the file ends at 2 ` +
        `-> this state is taken for the newest one from now on\n` +
        `${old}: 1 error; to mend them: sqlfuse fsck --repair --head-file ${head} ${old}\n`,
    );
    expect(fingerprint(old)).toBe(before);
    expect(JSON.parse(run("fsck", "--json", "--head-file", head, old).stdout).findings[0].kind).toBe("head");
  });

  test("--repair accepts it, with exit code 1, and then it is clean and the other one is not", () => {
    const { code, stdout } = run("fsck", "--repair", "--head-file", head, old);
    expect(code).toBe(1);
    expect(stdout).toContain(
      "1 error; nothing brings the lost changes back; this state will be taken for the newest one",
    );
    expect(run("fsck", "--head-file", head, old).code).toBe(0);
    expect(run("fsck", "--head-file", head, file).code).toBe(4);
  });

  test("--repair asks on a terminal, and does nothing without a yes", async () => {
    const before = [fingerprint(old), readFileSync(head, "utf8")];
    const args = ["fsck", "--key-file", join(directory, "key"), "--repair", "--head-file", head, old];
    const { code } = await sqlfuseOnTerminal(args, [[`Repair ${old}?`, "n\r"]]);
    expect(code).toBe(4);
    expect([fingerprint(old), readFileSync(head, "utf8")]).toEqual(before);
  });

  test("cannot check, with exit code 8, without a head, or with another volume's", () => {
    expect(run("fsck", "--head-file", join(directory, "none"), file)).toMatchObject({
      code: 8,
      stderr: `sqlfuse: ${join(directory, "none")}: no such head; a mount with --head-file makes it\n`,
    });
    const text = readFileSync(head, "utf8");
    writeFileSync(head, "letters");
    expect(run("fsck", "--head-file", head, file)).toMatchObject({ code: 8 });
    writeFileSync(head, text);
    const other = join(directory, "other");
    Volume.create(other, PASSWORD);
    expect(run("fsck", "--head-file", head, other)).toMatchObject({
      code: 8,
      stderr: `sqlfuse: ${head}: is the head of another volume; each volume needs its own\n`,
    });
  });
});

const COMMITS = 8;
/** Says after each commit that it is durable. */
const WRITER = `
  import { Volume, unlock } from ${JSON.stringify(fileURLToPath(new URL("../../dist/src/index.js", import.meta.url)))};
  import { writeSync } from "node:fs";
  const [path, headFile, password] = process.argv.slice(1);
  const key = unlock(path, Buffer.from(password));
  const volume = Volume.open(path, key, { headFile });
  for (let i = 0; i < ${COMMITS}; i++) {
    volume.tree.mkdir(1, Buffer.from("d" + i), 0o755, { uid: 0, gid: 0, umask: 0 });
    volume.commit();
    writeSync(1, ".");
  }
  volume.close();`;

describe.skipIf(!canTrace)(
  `a volume whose process is killed${canTrace ? "" : " (there is no strace)"}`,
  { timeout: LONG ? 3_600_000 : 120_000 },
  () => {
    const run = ([command = "", ...args]: readonly string[]) =>
      spawnSync(command, args, { encoding: "utf8" });
    const writer = () => {
      const program = ["--input-type=module", "-e", WRITER, file, head, PASSWORD.toString()];
      return [process.execPath, ...program];
    };

    /** How often each of the calls is made. */
    function count(): [name: string, count: number][] {
      const log = join(directory, "trace");
      expect(run(recorded(writer(), WRITES, log))).toMatchObject({ stdout: ".".repeat(COMMITS), status: 0 });
      return countCalls(log, WRITES);
    }

    /** The volume and its head as before each run. */
    let seed: string;
    const keepSeed = () => {
      seed = mkdtempSync(join(directory, "seed-"));
      for (const name of ["v", "elsewhere"])
        cpSync(join(directory, name), join(seed, name), { recursive: true });
    };
    const fresh = () => {
      for (const name of ["v", "v-wal", "v-shm"]) rmSync(join(directory, name), { force: true });
      rmSync(head, { force: true });
      cpSync(seed, directory, { recursive: true });
    };

    /** Tells how many commits the head had not seen. */
    function killAt(name: string, when: number): number {
      fresh();
      const start = readHeadFile(head)?.no ?? 0;
      const { stdout } = run(faulted(writer(), [name, when], "signal=SIGKILL"));
      const durable = stdout.length;
      const where = `${name} ${when}`;
      const seen = readHeadFile(head)?.no ?? 0;
      if (durable > 0) expect(seen, where).toBeGreaterThanOrEqual(start + 1 + durable);
      if (existsSync(head)) expect(drain(inspect(file, key, { headFile: head })).findings, where).toEqual([]);
      // What was durable and is taken away is missed; while it is closed, the -wal is copied.
      if (durable > 0 && durable < COMMITS) {
        const cut = join(directory, "cut");
        copyFileSync(file, cut);
        expect(() => Volume.open(cut, key, { headFile: head }), where).toThrow(/is older than its head/);
      }
      const volume = Volume.open(file, key, { headFile: head, noatime: true });
      expect(namesOf(volume, ROOT).length, where).toBeGreaterThanOrEqual(durable);
      volume.close();
      expect(check(file, key), where).toEqual([]);
      // That it was opened is a commit too.
      return (readHeadFile(head)?.no ?? 0) - seen - 1;
    }

    test.each([
      ["its first head", () => {}],
      ["a head that it has already", () => Volume.open(file, key, { headFile: head }).close()],
    ])("at any of its writes with %s opens with it, and it knows of all that was durable", (_, before) => {
      before();
      keepSeed();
      const behind: number[] = [];
      for (const [name, calls] of count()) {
        const step = LONG ? 1 : Math.max(1, Math.floor(calls / 8));
        for (let when = 1; when <= calls; when += step) behind.push(killAt(name, when));
      }
      const between = behind.filter((commits) => commits > 0).length;
      if (LONG) report("head", behind.length, `killed ${between} times between a commit and its record`);
      expect(between).toBeGreaterThan(0);
    });
  },
);

const impossible = mountingImpossible();
describe.skipIf(impossible !== undefined)(
  `mount --head-file${impossible === undefined ? "" : ` (${impossible})`}`,
  () => {
    test("keeps the head of what is fsynced, and refuses an older copy with exit code 20", () => {
      expect(run("mount", "--head-file", head, file, point)).toMatchObject({ code: 0, stderr: "" });
      writeFileSync(join(point, "a"), "a", { flush: true });
      const fsynced = readHeadFile(head)?.no ?? 0;
      expect(fsynced).toBeGreaterThan(1);
      expect(run("fsck", "--head-file", head, file)).toMatchObject({ code: 0 });
      expect(sqlfuse(["unmount", point]).code).toBe(0);
      const newest = join(directory, "newest");
      copyFileSync(file, newest);
      copyFileSync(template, file);
      const refused = run("mount", "--head-file", head, file, point);
      expect(refused.code).toBe(20);
      expect(refused.stderr).toContain(`${file}: is older than its head: ${head} has seen commit `);
      copyFileSync(newest, file);
      expect(run("mount", "-o", `head_file=${head}`, file, point).code).toBe(0);
      expect(sqlfuse(["unmount", point]).code).toBe(0);
    });

    test(
      "whose process is killed at any moment raises no false alarm, and has seen what was fsynced",
      async () => {
        const rounds = LONG ? 60 : 5;
        const WRITER = `
      import { writeFileSync, writeSync } from "node:fs";
      for (let i = 0; ; i++) {
        writeFileSync(process.argv[1] + "/" + i, Buffer.alloc(i * 500, 7), { flush: true });
        writeSync(1, ".");
      }`;
        for (let round = 0; round < rounds; round++) {
          const mounted = run("mount", "--head-file", head, file, point);
          const pid = Number(/by pid (\d+)/.exec(mounted.stdout)?.[1]);
          expect([round, mounted.stderr, pid]).toEqual([round, "", expect.any(Number)]);
          const start = readHeadFile(head)?.no ?? 0;
          const writer = spawn(process.execPath, ["--input-type=module", "-e", WRITER, point], {
            stdio: ["ignore", "pipe", "ignore"],
          });
          let fsynced = 0;
          writer.stdout.on("data", (dots: Buffer) => {
            fsynced += dots.length;
          });
          const ended = new Promise((resolve) => writer.once("close", resolve));
          await once(writer.stdout, "data");
          await sleep((round * 37) % 200);
          process.kill(pid, "SIGKILL");
          await ended;
          detach();
          expect(readHeadFile(head)?.no).toBeGreaterThanOrEqual(start + fsynced);
          expect([round, run("fsck", "--head-file", head, file)]).toEqual([
            round,
            { code: 0, stdout: expect.stringContaining("clean"), stderr: "" },
          ]);
        }
        expect(run("mount", "--head-file", head, file, point).code).toBe(0);
        expect(sqlfuse(["unmount", point]).code).toBe(0);
      },
      LONG ? 600_000 : 60_000,
    );

    test("compares on a read-only mount, and then writes nothing", () => {
      commitOne("a");
      const before = [fingerprint(file), readFileSync(head, "utf8")];
      expect(run("mount", "--ro", "--head-file", head, file, point).code).toBe(0);
      expect(sqlfuse(["unmount", point]).code).toBe(0);
      expect([fingerprint(file), readFileSync(head, "utf8")]).toEqual(before);
      copyFileSync(template, file);
      expect(run("mount", "--ro", "--head-file", head, file, point).code).toBe(20);
    });
  },
);

test("mount refuses a head inside its own mount point, and one that is none", () => {
  expect(run("mount", "--head-file", join(point, "head"), file, point)).toMatchObject({ code: 2 });
  writeFileSync(head, "letters");
  const { code, stderr } = run("mount", "--head-file", head, file, point);
  expect([code, stderr]).toEqual([10, expect.stringContaining(`${head}: is not the head of a volume`)]);
  expect(readFileSync(head, "utf8")).toBe("letters");
});
