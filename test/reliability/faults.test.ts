/**
 * A disk that fails below SQLite: each system call in turn, once or from then on, with each errno. Whoever asked is told,
 * nothing is half done, and what was synced is there afterwards. What statements do that fail by themselves is
 * test/core/failures.test.ts.
 */
import { existsSync } from "node:fs";
import { tmpdir } from "node:os";
import { afterEach, describe, expect, test, vi } from "vitest";
import { DamageError, E, FsError } from "../../src/base/errno.ts";
import { OpenError } from "../../src/core/errors.ts";
import type { Ino } from "../../src/core/types.ts";
import type { Volume } from "../../src/core/volume.ts";
import { check } from "../../src/fsck/check.ts";
import { dump } from "../core/dump.ts";
import {
  b,
  CALLER,
  errnoOf,
  Fixture,
  find,
  inVolume,
  mkdir,
  noise,
  put,
  ROOT,
  S_IFREG,
  settle,
  touch,
} from "../core/fixture.ts";
import { isLong, report } from "../helpers/torture.ts";
import { type Call, listening } from "./layer.ts";

/** The -wal is synced by us, not by SQLite: these fail with its fsync. */
const syncs = vi.hoisted(() => ({ fails: (): number => 0 }));
vi.mock("node:fs", async (original) => {
  const fs = await original<typeof import("node:fs")>();
  const fdatasyncSync = (fd: number): void => {
    const errno = syncs.fails();
    if (errno !== 0) throw Object.assign(new Error("fdatasync failed"), { errno: -errno });
    fs.fdatasyncSync(fd);
  };
  return { ...fs, fdatasyncSync };
});
vi.mock("../../src/native/aio.ts", () => {
  class Background {
    isBusy = false;
    static of(): Background {
      return new Background();
    }
    begin(): boolean {
      this.isBusy = true;
      return true;
    }
    result(): number {
      this.isBusy = false;
      return -syncs.fails();
    }
    close(): void {}
  }
  return { Background };
});

const BLOCK = 4096;
/** In memory where there is such a place: hundreds of volumes are written. */
const PARENT = existsSync("/dev/shm") ? "/dev/shm" : tmpdir();

type Errno = "EIO" | "ENOSPC" | "EDQUOT";

interface Fault {
  readonly call: Call;
  readonly errno: Errno;
  /** Every call fails from the first one on. */
  readonly stays: boolean;
}

/** The calls that fail now. */
const broken = { fault: undefined as Fault | undefined, skip: 0, hits: 0 };
afterEach(() => mend());

/** From now on the `nth` call (from 0) fails. */
function breakCall(fault: Fault, nth = 0): void {
  Object.assign(broken, { fault, skip: nth, hits: 0 });
}

function mend(): void {
  broken.fault = undefined;
}

syncs.fails = () => fails("fsync");

function fails(call: Call): number {
  const { fault } = broken;
  if (fault === undefined || fault.call !== call || broken.skip-- > 0) return 0;
  if (broken.hits++ > 0 && !fault.stays) return 0;
  return E[fault.errno];
}

interface Step {
  readonly name: string;
  /** Everything before it is durable when it succeeded. */
  readonly durable?: true;
  run(fixture: Fixture): unknown;
}

const at = (volume: Volume, path: string): Ino => find(volume, path)?.ino as Ino;
const step = (name: string, run: (volume: Volume, fixture: Fixture) => unknown): Step => ({
  name,
  run: (fixture) => run(fixture.volume, fixture),
});
const durably = (name: string, run: (volume: Volume, fixture: Fixture) => unknown): Step => ({
  ...step(name, run),
  durable: true,
});

/** Time passes until nothing is left to be done: the -wal is copied. */
function rest(volume: Volume, { clock }: Fixture): void {
  for (let i = 0; i < 5; i++) {
    clock.advance(3000);
    settle(volume, clock);
  }
}

const SCENARIO: readonly Step[] = [
  step("mkdir", (v) => v.tree.mkdir(ROOT, b("d"), 0o755, CALLER)),
  step("mknod", (v) => v.tree.mknod(ROOT, b("a"), S_IFREG | 0o644, 0, CALLER)),
  step("write", (v) => v.files.write(at(v, "a"), 10, noise(30 * BLOCK), false)),
  durably("fsync", (v) => v.fsync(at(v, "a"))),
  step("read", (v) => v.files.read(at(v, "a"), 5, 9 * BLOCK, Buffer.alloc(9 * BLOCK))),
  step("overwrite", (v) => v.files.write(at(v, "a"), BLOCK - 5, noise(10, 2), true)),
  step("mknod in an open group", (v) => touch(v, ROOT, "c")),
  durably("rest", rest),
  step("append", (v) => v.files.write(at(v, "a"), 31 * BLOCK, noise(9 * BLOCK, 3), false)),
  durably("commit", (v) => v.commit()),
  durably("remount", (_, fixture) => void fixture.remount()),
  step("truncate", (v) => v.attributes.setattr(at(v, "a"), { size: 2 * BLOCK + 7, mode: 0o600 })),
  step("rename", (v) => v.tree.rename(ROOT, b("c"), at(v, "d"), b("e"), 0)),
  durably("close an epoch", (v) => v.closeEpoch()),
  step("unlink", (v) => v.tree.unlink(ROOT, b("a"))),
  step("a large file", (v) => put(v, ROOT, "large", noise(60 * BLOCK, 4))),
  durably("fsync of the large one", (v) => v.fsync(at(v, "large"))),
  durably("purge and rest", rest),
];

/** A dump without the generation numbers, which are random. */
function stateOf(volume: Volume): string {
  return JSON.stringify(
    Object.entries(dump(volume)).map(([path, inode]) => [path, { ...inode, generation: 0 }]),
  );
}

/** A cache so small that pages are written and read within a group. */
const newFixture = () =>
  new Fixture({ blockSize: BLOCK, volume: { noatime: true, cacheBytes: 64 * 1024 }, parent: PARENT });

/** The state after each number of steps. */
function statesOf(): string[] {
  const fixture = newFixture();
  try {
    const states = [stateOf(fixture.volume)];
    for (const { run } of SCENARIO) {
      fixture.clock.advance(1);
      run(fixture);
      states.push(stateOf(fixture.volume));
    }
    fixture.finish();
    return states;
  } finally {
    fixture.remove();
  }
}

function isTold(error: unknown): boolean {
  if (error instanceof OpenError) return ["unreadable", "no-space", "damaged"].includes(error.reason);
  return error instanceof DamageError || (error instanceof FsError && ["EIO", "ENOSPC"].includes(error.code));
}

/** Runs the scenario with the nth call failing, and looks at all that must hold then; false where it never came to that. */
function runBroken(states: readonly string[], fault: Fault, nth: number): boolean {
  const fixture = newFixture();
  try {
    fixture.open();
    breakCall(fault, nth);
    let done = 0;
    let durable = 0;
    let error: unknown;
    for (const { run, durable: makesDurable } of SCENARIO) {
      fixture.clock.advance(1);
      try {
        run(fixture);
      } catch (thrown) {
        error = thrown;
      }
      if (broken.hits > 0) break;
      done++;
      if (makesDurable) durable = done;
    }
    if (broken.hits === 0) return false;
    const where = SCENARIO[done]?.name ?? "end";
    const context = `${fault.call} ${nth} ${fault.errno}${fault.stays ? " for good" : ""} in ${where}: ${String(error)}`;
    if (error !== undefined) expect(isTold(error), context).toBe(true);
    // What reached its end has done it, also where the disk failed on the way (a copy of the -wal, say).
    if (error === undefined && SCENARIO[done]?.durable === true && !failedOf(fixture)) durable = done + 1;
    const isOneOf = (state: string) => states.slice(durable, done + 2).includes(state);
    if (fixture.isOpen) lookAt(fixture, fault, isOneOf, context);
    mend();
    const crash = fixture.crashCopy({ parent: PARENT });
    try {
      expect(isOneOf(stateOf(crash.volume)), `${context}: after a crash`).toBe(true);
      demandWhole(crash);
    } finally {
      crash.remove();
    }
    const { volume } = fixture;
    // Where no connection was to be had, who next needs it is told EIO, and it is made anew: there are two.
    for (let i = 0; i < 2 && fault.stays; i++) toldOf(() => stateOf(volume));
    expect(isOneOf(stateOf(volume)), `${context}: when the disk is well again`).toBe(true);
    expect(
      errnoOf(() => mkdir(volume, ROOT, "after")),
      context,
    ).toBe(volume.failed ? "EROFS" : "ok");
    const shown = stateOf(volume);
    const isKept = volume.failed ? isOneOf : (state: string) => state === shown;
    fixture.close();
    expect(isKept(stateOf(fixture.open())), `${context}: after a remount`).toBe(true);
    mkdir(fixture.volume, ROOT, "writable again");
    demandWhole(fixture);
    return true;
  } finally {
    mend();
    fixture.remove();
  }
}

/** A block that could not be read when it was to be deleted is left for fsck to drop; nothing else may be wrong. */
function demandWhole(fixture: Fixture): void {
  fixture.close();
  const findings = check(fixture.path, fixture.key).filter(({ kind }) => kind !== "block-unowned");
  expect(findings).toEqual([]);
}

/** The errno that a caller of the mount would get. */
function toldOf(run: () => unknown): string {
  try {
    return errnoOf(run);
  } catch (error) {
    if (error instanceof DamageError) return "EIO";
    throw error;
  }
}

function failedOf(fixture: Fixture): boolean {
  return fixture.isOpen && fixture.volume.failed;
}

/** What a single failure may say. */
const EXPECTED =
  /a commit failed|checkpoint failed|left alone; fsck can drop it|cannot purge|cannot prune|cannot tell which unlinked/;

/** The volume as it is while the disk may still fail. */
function lookAt(fixture: Fixture, fault: Fault, isOneOf: (state: string) => boolean, context: string): void {
  const { volume } = fixture;
  // Without a connection that can be opened there is nothing but EIO.
  const gone = fault.stays ? ["EIO", "ENOSPC"] : [];
  let state: string | undefined;
  const read = toldOf(() => {
    state = stateOf(volume);
  });
  expect(["ok", ...gone], `${context}: reading`).toContain(read);
  if (state !== undefined) expect(isOneOf(state), `${context}: shown`).toBe(true);
  const log = fixture.takeLog();
  const failures = log.filter((line) => /a commit failed/.test(line));
  expect(failures, context).toHaveLength(volume.failed ? 1 : 0);
  if (volume.failed)
    expect(["EROFS", ...gone], context).toContain(toldOf(() => mkdir(volume, ROOT, "after")));
  if (fault.stays) return;
  const others = log.filter((line) => !EXPECTED.test(line));
  expect(others, `${context}: ${others.join("; ")}`).toEqual([]);
}

const ALL: readonly Errno[] = ["EIO", "ENOSPC", "EDQUOT"];
/** What each call may say on a bad or a full disk. */
const CALLS: readonly (readonly [call: Call, errnos: readonly Errno[]])[] = [
  ["pwrite", ALL],
  ["fsync", ALL],
  ["pread", ["EIO"]],
  ["open", ALL],
  ["ftruncate", ["EIO"]],
];

const STRIDES: Partial<Record<Call, number>> = { pwrite: 25, pread: 19, fsync: 2 };

describe("a scenario in which a system call fails", () => {
  const states = listening({ fails }, statesOf);

  test.each(CALLS)(
    "%s leaves a whole volume, and tells whoever asked",
    { timeout: 1_800_000 },
    (call, errnos) => {
      const ways = errnos.flatMap((errno) => [false, true].map((stays): Fault => ({ call, errno, stays })));
      const wrong: string[] = [];
      let cases = 0;
      // In the short form each call fails in one of the ways, which take turns, and of the many most are left out.
      const stride = isLong() ? 1 : (STRIDES[call] ?? 1);
      listening({ fails }, () => {
        for (let nth = 0, reached = true; reached && wrong.length < 8; nth += stride) {
          for (const fault of isLong() ? ways : ways.slice((nth / stride) % ways.length).slice(0, 1)) {
            try {
              reached = runBroken(states, fault, nth);
            } catch (error) {
              wrong.push(String(error));
            }
            cases++;
          }
        }
      });
      report("faults", cases, call);
      expect(wrong).toEqual([]);
    },
  );
});

test("a file that cannot be opened for writing now is refused, not opened for reading", () =>
  listening({ fails }, () =>
    inVolume((fixture) => {
      fixture.close();
      breakCall({ call: "open", errno: "EIO", stays: false });
      expect(() => fixture.open()).toThrow(/cannot be opened for writing/);
      mkdir(fixture.open(), ROOT, "a");
    }),
  ));

describe("a commit that the disk refuses", () => {
  const ways = (["pwrite", "fsync"] as const).flatMap((call) => ALL.map((errno) => [call, errno] as const));

  test.each(ways)(
    "by %s with %s is told once by fsync of each file in it, of no other, and in one line",
    (call, errno) =>
      listening({ fails }, () =>
        inVolume((fixture, volume) => {
          const [a, second, other] = ["a", "b", "other"].map((name) => touch(volume, ROOT, name)) as [
            Ino,
            Ino,
            Ino,
          ];
          volume.commit();
          volume.files.write(a, 0, b("lost"), false);
          volume.xattrs.set(second, b("user.lost"), b("x"), 0, false);
          breakCall({ call, errno, stays: false });
          expect(errnoOf(() => volume.commit())).toBe("EIO");
          expect(errnoOf(() => volume.fsync(other))).toBe("ok");
          for (const file of [a, second]) {
            expect(errnoOf(() => volume.fsync(file))).toBe("EIO");
            expect(errnoOf(() => volume.fsync(file))).toBe("ok");
          }
          expect(errnoOf(() => touch(volume, ROOT, "new"))).toBe("EROFS");
          // What was written and not synced may be lost, and may be there.
          expect(volume.attributes.getattr(a).size).toBe(call === "fsync" ? 4 : 0);
          expect(fixture.takeLog()).toHaveLength(1);
          touch(fixture.remount(), ROOT, "new");
        }),
      ),
  );
});
