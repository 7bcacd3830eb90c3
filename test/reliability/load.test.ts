/**
 * Load and time: many processes with every byte verified, very many names and operations, very large files, clocks
 * that jump, and little memory. SQLFUSE_LONG=1 takes a million where the short form takes thousands.
 */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, describe, expect, test, vi } from "vitest";
import { systemClock } from "../../src/base/clock.ts";
import {
  afterCrash,
  b,
  contentOf,
  type FakeClock,
  find,
  inVolume,
  noise,
  put,
  ROOT,
  settle,
  touch,
} from "../core/fixture.ts";
import { FALLOC, O, SEEK, SysError, sys } from "../helpers/libc.ts";
import { hasProgram, python, run } from "../helpers/programs.ts";
import { isLong, report, seed } from "../helpers/torture.ts";
import { IS_ROOT, mountingImpossible, TestVolume, until } from "../helpers/volume.ts";

const LONG = isLong();
const impossible = mountingImpossible();
if (impossible !== undefined) console.warn(`load on a mount is not tested: ${impossible}`);

/** A figure of the long form, which a variable may make smaller, to try it. */
function size(variable: string, short: number, long: number): number {
  return Number(process.env[variable] ?? (LONG ? long : short));
}

const PROCESSES = 32;
const VERIFY_SECONDS = size("SQLFUSE_LOAD_SECONDS", 3, 600);
const NAMES = size("SQLFUSE_LOAD_NAMES", 20_000, 1_000_000);
const OPERATIONS = size("SQLFUSE_LOAD_OPERATIONS", 100_000, 10_000_000);
const CAPPED_SECONDS = Math.max(1, VERIFY_SECONDS / 10);

const MIB = 1024 * 1024;
const GIB = 1024 * MIB;
const TEN_YEARS_SEC = Math.round(10 * 365.25 * 86_400);

let volume: TestVolume | undefined;
afterEach(() => volume?.remove());

function program(name: string): string {
  return readFileSync(fileURLToPath(new URL(name, import.meta.url)), "utf8");
}

/** Makes and mounts a volume. */
function mounted(env: Record<string, string> = {}): TestVolume {
  volume = TestVolume.create({ env });
  volume.mount();
  return volume;
}

/** What `sqlfuse status --json` says of the one mount. */
interface Status {
  readonly lookups: number;
  readonly uncommittedMs: number;
  readonly requests: number;
  readonly failed: boolean;
}

function statusOf(one: TestVolume): Status {
  const { status, stdout, stderr } = one.cli(["status", "--json", one.mountpoint]);
  if (status !== 0) throw new Error(`status: ${stderr}`);
  const [first] = JSON.parse(stdout) as Status[];
  if (first === undefined) throw new Error("status tells of no mount");
  return first;
}

/** Of the daemon, in bytes. */
function residentBytes({ pid }: TestVolume): number {
  const kib = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1];
  return Number(kib) * 1024;
}

/** Why the kernel's caches cannot be dropped; undefined where they can. */
function dropImpossible(): string | undefined {
  if (!IS_ROOT) return "this user may not write /proc/sys/vm/drop_caches";
  try {
    sys.access("/proc/sys/vm/drop_caches", 2);
    return undefined;
  } catch (error) {
    return String(error);
  }
}

/** Has the kernel drop names and inodes that nobody uses, and waits until it has told so. */
async function expectForgotten(one: TestVolume): Promise<void> {
  const reason = dropImpossible();
  if (reason !== undefined) {
    console.warn(`what the kernel forgets is not tested: ${reason}`);
    return;
  }
  await until(
    "the kernel to let go of all but 100 inodes",
    () => {
      writeFileSync("/proc/sys/vm/drop_caches", "2");
      return statusOf(one).lookups < 100;
    },
    60_000,
  );
}

interface Done {
  readonly ops: number;
  readonly verified: number;
}

/** 32 processes on `one` for so long, verified at once, and once more after unmount and mount. */
function workAndVerify(one: TestVolume, seconds: number): Done {
  const root = join(one.mountpoint, "verified");
  mkdirSync(root);
  const account = join(one.home, "account");
  const verify = program("verify.py");
  const timeoutMs = (seconds + 120) * 1000;
  const work = ["work", root, account, String(seconds), String(PROCESSES), String(seed())];
  const done = JSON.parse(python(verify, work, { cwd: "/", timeoutMs })) as Done;
  one.remount();
  const look = (): string =>
    python(verify, ["look", root, account, String(PROCESSES)], { cwd: "/", timeoutMs });
  const again = JSON.parse(look()) as { verified: number };
  // It would see a single wrong byte.
  const [file] = readdirSync(join(root, "d0")).filter((name) => statSync(join(root, "d0", name)).size > 0);
  if (file === undefined) throw new Error("the work left no file to change");
  damage(join(root, "d0", file), 0);
  expect(look).toThrow(`d0/${file}: is `);
  return { ops: done.ops, verified: done.verified + again.verified };
}

const mib = (bytes: number): string => `${Math.round(bytes / MIB)} MiB`;

describe.skipIf(impossible !== undefined)("load", () => {
  test(`${PROCESSES} processes for ${VERIFY_SECONDS} s read each byte as they wrote it, also after a remount`, {
    timeout: (VERIFY_SECONDS + 300) * 1000,
  }, () => {
    const one = mounted();
    const { ops, verified } = workAndVerify(one, VERIFY_SECONDS);
    one.unmount();
    report(
      "load",
      ops,
      `operations of ${PROCESSES} processes in ${VERIFY_SECONDS} s, ${mib(verified)} verified`,
    );
    expect(ops).toBeGreaterThan(VERIFY_SECONDS * 50);
  });

  test("the same with a JavaScript heap of 128 MiB, and in a directory of many names", {
    timeout: (CAPPED_SECONDS + 300) * 1000 + NAMES,
  }, () => {
    const one = mounted({ NODE_OPTIONS: "--max-old-space-size=128" });
    // Only root may look: the daemon cannot be dumped.
    if (IS_ROOT)
      expect(readFileSync(`/proc/${one.pid}/environ`, "utf8")).toContain("--max-old-space-size=128");
    makeNames(join(one.mountpoint, "names"));
    const { ops } = workAndVerify(one, CAPPED_SECONDS);
    one.unmount();
    report("load", ops, `operations with a heap of 128 MiB beside ${NAMES} names`);
  });

  test("fio finds what it wrote, in the cache, past it, and after a remount", { timeout: 600_000 }, ({
    skip,
  }) => {
    if (!hasProgram("fio")) {
      console.warn("fio is not installed: its verification is left out");
      skip();
    }
    const one = mounted();
    const root = join(one.mountpoint, "fio");
    mkdirSync(root);
    const sizeMib = LONG ? 256 : 4;
    const files = 4;
    const common = ["--ioengine=psync", "--verify=crc32c", "--verify_fatal=1", `--numjobs=${files}`];
    const jobs = [
      ["--name=random", "--rw=randwrite", "--bs=4k", "--fsync=256"],
      ["--name=mixed", "--rw=randwrite", "--bsrange=1k-128k", "--bs_unaligned=1"],
      ["--name=direct", "--rw=randwrite", "--bs=16k", "--direct=1"],
      ["--name=sequential", "--rw=write", "--bs=1m", "--end_fsync=1"],
    ];
    const fio = (...args: string[]): string =>
      run(
        "fio",
        [
          "--name=global",
          `--directory=${root}`,
          `--size=${sizeMib}m`,
          `--randseed=${seed()}`,
          ...common,
          ...args,
          ...jobs.flat(),
        ],
        { cwd: one.home, timeoutMs: 500_000 },
      );
    fio();
    one.remount();
    fio("--verify_only=1");
    damage(join(root, "random.0.0"), 5000);
    expect(() => fio("--verify_only=1")).toThrow(/verify failed at|verify: bad/);
    one.unmount();
    report("load", jobs.length * files, `files of ${sizeMib} MiB verified by fio, twice`);
  });
});

/** Changes a byte: what looks for wrong ones must find it. */
function damage(path: string, offset: number): void {
  const fd = sys.open(path, O.RDWR);
  const byte = sys.pread(fd, 1, offset);
  sys.pwrite(fd, Buffer.from([(byte[0] ?? 0) ^ 1]), offset);
  sys.close(fd);
}

/** Makes a directory of NAMES files, with names of some length. */
function makeNames(directory: string): void {
  python(
    `
import os, sys
os.mkdir(sys.argv[1]); os.chdir(sys.argv[1])
for i in range(int(sys.argv[2])): os.mknod("a name of some length, number %d" % i)
`,
    [directory, String(NAMES)],
    { cwd: "/", timeoutMs: 60_000 + NAMES },
  );
}

/** Lists it twice (whole, and while it removes); each name must be there once. */
const LIST_AND_REMOVE = `
import os, sys
os.chdir(sys.argv[1]); count = int(sys.argv[2])
names = os.listdir(".")
wanted = {"a name of some length, number %d" % i for i in range(count)}
assert len(names) == count and set(names) == wanted, "%d names" % len(names)
for i in range(0, count, max(1, count // 1000)): os.stat("a name of some length, number %d" % i)
gone = set()
with os.scandir(".") as entries:
    for entry in entries:
        assert entry.name not in gone, entry.name + " was listed again"
        gone.add(entry.name); os.unlink(entry.name)
assert gone == wanted, "%d of %d were listed while they were removed" % (len(gone), count)
assert os.listdir(".") == []
os.rmdir(sys.argv[1])
`;

describe.skipIf(impossible !== undefined)("very much", () => {
  test(`a directory of ${NAMES} names is listed whole, and emptied while it is listed`, {
    timeout: 120_000 + 2 * NAMES,
  }, async () => {
    const one = mounted();
    const directory = join(one.mountpoint, "many");
    makeNames(directory);
    one.remount();
    const { size: bytes } = statSync(one.file);
    python(LIST_AND_REMOVE, [directory, String(NAMES)], { cwd: "/", timeoutMs: 60_000 + NAMES });
    await expectForgotten(one);
    one.unmount();
    report("load", NAMES, `names in one directory, ${mib(bytes)} for them`);
  });

  test("a sparse file of 100 GiB takes what is in it, has its holes where they are, and shrinks", () => {
    const one = mounted();
    const path = join(one.mountpoint, "sparse");
    const marks = [0, 4 * GIB - 1, 4 * GIB + 12_345, 50 * GIB, 99 * GIB + 65_535, 100 * GIB - 5];
    const fd = sys.open(path, O.RDWR | O.CREAT, 0o600);
    sys.ftruncate(fd, 100 * GIB);
    for (const at of marks) sys.pwrite(fd, b("mark!"), at);
    sys.close(fd);
    one.remount();
    expectSparse(path, marks);
    expect(statSync(one.file).size).toBeLessThan(8 * MIB);
    // A copy has the same holes; it reads what is there.
    run("cp", ["--sparse=auto", "sparse", "copy"], { cwd: one.mountpoint });
    expectSparse(join(one.mountpoint, "copy"), marks);

    const again = sys.open(path, O.RDWR);
    sys.fallocate(again, FALLOC.PUNCH_HOLE | FALLOC.KEEP_SIZE, GIB, 98 * GIB);
    expect(dataOf(again).some((at) => at >= GIB && at < 99 * GIB)).toBe(false);
    expect(sys.pread(again, 5, 50 * GIB)).toEqual(Buffer.alloc(5));
    sys.ftruncate(again, 10);
    sys.ftruncate(again, 100 * GIB);
    expect(dataOf(again)).toEqual([0]);
    sys.close(again);
    one.unmount();
    report("load", marks.length, "pieces in a sparse file of 100 GiB");
  });
});

/** Where data begins, after each hole. */
function dataOf(fd: number): number[] {
  const found: number[] = [];
  for (let at = 0; ; ) {
    try {
      at = sys.lseek(fd, at, SEEK.DATA);
    } catch (error) {
      if (error instanceof SysError && error.code === "ENXIO") return found;
      throw error;
    }
    found.push(at);
    const hole = sys.lseek(fd, at, SEEK.HOLE);
    expect(hole, "a hole behind the data").toBeGreaterThan(at);
    at = hole;
  }
}

/** A file of 100 GiB that has a mark at each of `marks`, and holes but for the blocks of those. */
function expectSparse(path: string, marks: readonly number[]): void {
  const { size: bytes, blocks } = statSync(path);
  expect(bytes).toBe(100 * GIB);
  expect(blocks * 512).toBeLessThan(2 * marks.length * 65_536);
  const fd = sys.open(path, O.RDONLY);
  for (const at of marks) expect(sys.pread(fd, 5, at).toString(), String(at)).toBe("mark!");
  expect(sys.pread(fd, MIB, 30 * GIB).equals(Buffer.alloc(MIB))).toBe(true);
  // The block of a mark may begin before it, and what is told of it begins at a multiple of 4 KiB.
  const isOfMark = (at: number) => marks.some((mark) => at <= mark + 4 && at > mark - 65_536 - 4096);
  for (const at of dataOf(fd)) expect(isOfMark(at), `data at ${at}`).toBe(true);
  sys.close(fd);
}

describe.skipIf(impossible !== undefined)("very long", () => {
  /** The second half of the operations may not add more to the memory of the daemon; the short form only warms it up. */
  const MOST_GROWTH = LONG ? 8 * MIB : 48 * MIB;
  const SLICES = 20;

  test(`${OPERATIONS} operations leave neither inodes nor memory behind`, {
    timeout: 300_000 + OPERATIONS / 5,
  }, async () => {
    const one = mounted();
    const churn = program("churn.py");
    const samples: number[] = [];
    let done = 0;
    for (let i = 0; i < SLICES; i++) {
      const args = [one.mountpoint, String(OPERATIONS / SLICES), "4"];
      done += Number(python(churn, args, { cwd: "/", timeoutMs: 120_000 + OPERATIONS / 50 }));
      samples.push(residentBytes(one));
    }
    expect(statusOf(one).requests).toBeGreaterThan(done);
    expect(statusOf(one).failed).toBe(false);
    await expectForgotten(one);
    one.unmount();
    const grown = slope(samples.slice(SLICES / 2)) * (SLICES / 2);
    report("load", done, `operations; resident ${samples.map(mib).join(", ")}`);
    expect(grown, `resident after each slice: ${samples.map(mib).join(", ")}`).toBeLessThan(MOST_GROWTH);
  });
});

/** By how much the values grow from one to the next, by least squares. */
function slope(values: readonly number[]): number {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const middle = (values.length - 1) / 2;
  let above = 0;
  let below = 0;
  for (const [i, value] of values.entries()) {
    above += (i - middle) * (value - mean);
    below += (i - middle) ** 2;
  }
  return above / below;
}

/** The wall clock alone: what counts milliseconds goes on as before. */
function jump(clock: FakeClock, seconds: number): void {
  clock.sec += seconds;
}

const JUMPS = [TEN_YEARS_SEC, -TEN_YEARS_SEC];

describe("when the clock jumps by ten years", () => {
  test.each(JUMPS)("by %d s: changes are committed when they are due, and bear the new time", (seconds) =>
    inVolume((fixture, one) => {
      const { clock } = fixture;
      const before = put(one, ROOT, "before", noise(100_000));
      clock.advance(400);
      jump(clock, seconds);
      const after = put(one, ROOT, "after", "after");
      expect(one.idle(clock.ms)).toBe(600);
      expect(one.uncommittedMs(clock.ms)).toBe(400);
      clock.advance(600);
      settle(one, clock);
      expect(one.uncommittedMs(clock.ms)).toBe(0);
      afterCrash(fixture, (_, copy) => expect(find(copy, "after")).toBeDefined());
      const age = one.attributes.getattr(after).mtimeSec - one.attributes.getattr(before).mtimeSec;
      expect(Math.abs(age - seconds)).toBeLessThan(2);
    }),
  );

  test.each(JUMPS)("by %d s: a volume opens and is whole, and what was deleted is purged", (seconds) =>
    inVolume((fixture, one) => {
      const content = noise(1_000_000);
      put(one, ROOT, "kept", content);
      const doomed = put(one, ROOT, "doomed", content);
      one.tree.unlink(ROOT, b("doomed"));
      fixture.close();
      jump(fixture.clock, seconds);
      const again = fixture.volume;
      expect(contentOf(again, find(again, "kept")?.ino ?? ROOT).equals(content)).toBe(true);
      touch(again, ROOT, "new");
      settle(again, fixture.clock);
      fixture.close();
      expect(fixture.number(`SELECT count(*) FROM inode WHERE ino = ${doomed}`)).toBe(0);
    }),
  );

  test("the clock of the system is followed at once, forth and back", () => {
    const now = vi.spyOn(Date, "now");
    try {
      for (const seconds of [0, ...JUMPS]) {
        const wanted = 1_800_000_000 + seconds;
        now.mockReturnValue(wanted * 1000);
        expect(Math.abs(systemClock.now().sec - wanted)).toBeLessThanOrEqual(1);
      }
    } finally {
      now.mockRestore();
    }
  });

  /** Loaded into the daemon and its threads before all else: adds the seconds in a file to the time. */
  const PRELOAD = `
const { readFileSync } = require("node:fs");
const real = Date.now;
Date.now = () => real() + 1000 * Number(readFileSync(process.env.SQLFUSE_TEST_JUMP, "utf8"));
`;

  test.skipIf(impossible !== undefined)(
    "a mount commits in time all the same, and loses nothing",
    async () => {
      const scratch = mkdtempSync(join(tmpdir(), "jump-"));
      const [preload, seconds] = [join(scratch, "preload.cjs"), join(scratch, "seconds")];
      writeFileSync(preload, PRELOAD);
      writeFileSync(seconds, "0");
      const one = mounted({ NODE_OPTIONS: `--require=${preload}`, SQLFUSE_TEST_JUMP: seconds });
      // From the true time, one after the other: so the second one is by twenty years.
      for (const [i, jumped] of JUMPS.entries()) {
        const path = join(one.mountpoint, `file${i}`);
        writeFileSync(seconds, String(jumped));
        writeFileSync(path, `content ${i}`);
        const late = statSync(path).mtimeMs / 1000 - (Date.now() / 1000 + jumped);
        expect(Math.abs(late), `mtime after a jump by ${jumped} s`).toBeLessThan(60);
        await until("the change to be committed", () => statusOf(one).uncommittedMs === 0, 10_000);
        await one.kill();
        one.mount();
        expect(readFileSync(path, "utf8")).toBe(`content ${i}`);
      }
      one.unmount();
      rmSync(scratch, { recursive: true });
      report("load", JUMPS.length, "jumps of a mount's clock");
    },
  );
});
