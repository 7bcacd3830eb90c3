/**
 * Power loss. What SQLite and we do to the files of a volume is recorded, and from the record come the states that a
 * power loss could have left: what was not synced is lost, reordered, torn at sectors (see record.ts). Each one must
 * open by itself, be whole, hold all that was synced, and show the state after some number of operations.
 */
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { OpenError } from "../../src/core/errors.ts";
import { type Rewrite, rekey, vacuum } from "../../src/core/rewrite.ts";
import { unlock } from "../../src/core/unlock.ts";
import { Volume } from "../../src/core/volume.ts";
import { rawKeyPassword } from "../../src/db/key.ts";
import { check } from "../../src/fsck/check.ts";
import { FakeClock, noise, ROOT, touch } from "../core/fixture.ts";
import { Random } from "../core/random.ts";
import { isLong, report, seed } from "../helpers/torture.ts";
import { listening } from "./layer.ts";
import { type Event, Record, type State, type Unsynced } from "./record.ts";
import { anyManner, type Bounds, digestOf, type Manner, Workload } from "./workload.ts";

const recording = vi.hoisted(() => ({ now: undefined as Record | undefined }));
vi.mock("node:fs", async (original) => {
  const { recordedFs } = await import("./record.ts");
  return recordedFs(await original<typeof import("node:fs")>(), () => recording.now);
});
vi.mock("../../src/native/aio.ts", async () => {
  const { recordedBackground } = await import("./record.ts");
  return { Background: recordedBackground(() => recording.now) };
});

/** In memory where there is such a place: thousands of volumes are written. */
let scratch: string;
beforeAll(() => {
  scratch = mkdtempSync(join(existsSync("/dev/shm") ? "/dev/shm" : tmpdir(), "powerloss-"));
});
afterAll(() => rmSync(scratch, { recursive: true }));

let written = 0;

/** Puts a state into a new directory. */
function put(state: State): string {
  const directory = join(scratch, String(written++));
  mkdirSync(directory);
  for (const [name, bytes] of state) writeFileSync(join(directory, name), bytes);
  return directory;
}

/** Has `run` recorded in `record`. */
function recorded<T>(record: Record, run: () => T): T {
  recording.now = record;
  try {
    return listening(record.listener, run);
  } finally {
    recording.now = undefined;
  }
}

/** Opens what a power loss left, looks at it and closes it: what is wrong with it, undefined where nothing is. */
function faultOf(directory: string, work: Workload, bounds: Bounds): string | undefined {
  const path = join(directory, "volume");
  const { key } = work.fixture;
  const headPath = join(directory, "head");
  const headIsNew = !existsSync(headPath);
  const log: string[] = [];
  try {
    const volume = Volume.open(path, key, {
      noatime: true,
      clock: new FakeClock(),
      onLog: (line) => log.push(line),
      ...(work.manner.head ? { headFile: headPath } : {}),
    });
    const digest = digestOf(volume);
    volume.close();
    if (!work.isExpected(digest, bounds)) return `not a state after ${bounds.least} to ${bounds.most} steps`;
  } catch (error) {
    return `does not open: ${String(error)}`;
  }
  const told = log.filter((line) => !(headIsNew && /made anew/.test(line)));
  if (told.length > 0) return `says: ${told.join("; ")}`;
  const findings = check(path, key);
  if (findings.length > 0) return `is not clean: ${findings.map(({ text }) => text).join("; ")}`;
  const left = readdirSync(directory).filter((name) => name !== "head" && !name.startsWith("head.new-"));
  return left.join() === "volume" ? undefined : `leaves ${left.join(", ")}`;
}

interface Tally {
  states: number;
  /** States of which something was not synced, by what that is. */
  readonly unsynced: { volume: number; wal: number; cut: number; names: number };
  readonly faults: string[];
}

function newTally(): Tally {
  return { states: 0, unsynced: { volume: 0, wal: 0, cut: 0, names: 0 }, faults: [] };
}

/** Notes what of a state is by chance. */
function count(tally: Tally, { events, names }: Unsynced): void {
  tally.states++;
  const of = (end: string) => events.filter(({ path }) => path.endsWith(end));
  if (of("volume").length > 0) tally.unsynced.volume++;
  if (of("-wal").length > 0) tally.unsynced.wal++;
  if (of("-wal").some(({ kind }) => kind === "truncate")) tally.unsynced.cut++;
  if (names > 0) tally.unsynced.names++;
}

/** A number of events after which the power goes: half of the time behind one that is not a write to the -wal. */
function anyMoment({ events }: Record, random: Random): number {
  const some = random.chance(0.5)
    ? events.keys()
    : [...events.entries()]
        .filter(([, event]) => event.kind !== "write" || !event.path.endsWith("-wal"))
        .map(([i]) => i);
  return 1 + random.pick([...some]);
}

/** Lets the power go `losses` times in a record of the work. */
function lose(
  work: Workload,
  random: Random,
  losses: number,
  tally: Tally,
  ignored?: (event: Event) => boolean,
): void {
  const disk = work.record.disk(ignored);
  const { length } = work.record.events;
  const moments = Array.from({ length: losses }, () => anyMoment(work.record, random)).sort((x, y) => x - y);
  for (const moment of moments) {
    disk.advance(moment);
    const bounds = work.boundsAt(moment);
    const state = disk.state(random);
    const directory = put(state);
    const again = random.chance(0.1) ? new Record(directory) : undefined;
    const look = () => listening({ skipsSyncs: true }, () => faultOf(directory, work, bounds));
    const fault = again === undefined ? look() : recorded(again, () => faultOf(directory, work, bounds));
    count(tally, disk.unsynced);
    if (fault !== undefined) tally.faults.push(`after event ${moment} of ${length}: ${fault}`);
    else if (again !== undefined) loseAgain(again, work, bounds, random, tally);
    rmSync(directory, { recursive: true });
  }
}

/** The power goes once more, while the volume is opened after the first time. */
function loseAgain(record: Record, work: Workload, bounds: Bounds, random: Random, tally: Tally): void {
  const disk = record.disk();
  disk.advance(random.below(record.events.length + 1));
  const directory = put(disk.state(random));
  const fault = listening({ skipsSyncs: true }, () => faultOf(directory, work, bounds));
  tally.states++;
  if (fault !== undefined) tally.faults.push(`a second time: ${fault}`);
  rmSync(directory, { recursive: true });
}

/** Works with the seed `from`, then loses power. */
function tryOut(
  from: number,
  steps: number,
  losses: number,
  tally: Tally,
  options: { readonly manner?: Manner; readonly ignored?: (event: Event) => boolean } = {},
): void {
  const random = new Random(from);
  const work = new Workload(random, options.manner ?? anyManner(random));
  try {
    recorded(work.record, () => work.run(steps));
    const before = tally.faults.length;
    lose(work, random, losses, tally, options.ignored);
    const told = tally.faults
      .splice(before)
      .map((fault) => `seed ${from} ${JSON.stringify(work.manner)}: ${fault}`);
    tally.faults.push(...told);
  } finally {
    work.remove();
  }
}

const ROUNDS = Array.from({ length: isLong() ? 12 : 1 }, (_, i) => i);
const WORKLOADS = isLong() ? 10 : 5;
const STEPS = 120;
const LOSSES = isLong() ? 90 : 40;

describe("after a power loss", () => {
  test.each(ROUNDS)(
    "a volume opens, is whole, and holds all that was synced and nothing out of order (round %i)",
    { timeout: 1_800_000 },
    (round) => {
      const tally = newTally();
      for (let i = 0; i < WORKLOADS; i++) tryOut(seed() + round * WORKLOADS + i, STEPS, LOSSES, tally);
      const { volume, wal, cut, names } = tally.unsynced;
      const note = `not synced: database ${volume}, -wal ${wal}, its truncation ${cut}, names ${names}`;
      report("powerloss", tally.states, note);
      expect(tally.faults).toEqual([]);
      // Each kind of what can be lost came up.
      for (const states of [volume, wal, cut, names]) expect(states).toBeGreaterThan(tally.states / 100);
    },
  );
});

/** Raw keys: no derivation, so no waiting. */
const OLD = rawKeyPassword(Buffer.alloc(32, 1));
const NEW = rawKeyPassword(Buffer.alloc(32, 2));

/** The password that opens a volume, and what it shows then; undefined where it is not there. */
function contentOf(directory: string): { readonly password: Buffer; readonly digest: string } | undefined {
  const path = join(directory, "volume");
  if (!existsSync(path)) return undefined;
  const [password, ...others] = [OLD, NEW].filter((one) => opens(path, one));
  if (password === undefined || others.length > 0) throw new Error("not exactly one password opens it");
  const key = unlock(path, password);
  const volume = Volume.open(path, key, { noatime: true });
  const digest = digestOf(volume);
  volume.close();
  expect(check(path, key)).toEqual([]);
  return { password, digest };
}

function opens(path: string, password: Buffer): boolean {
  try {
    unlock(path, password).wipe();
    return true;
  } catch (error) {
    if (error instanceof OpenError && error.reason === "wrong-password") return false;
    throw error;
  }
}

function finish(rewrite: Rewrite): void {
  while (rewrite.next().done !== true);
}

/** Records `run` on a directory with what `make` put there, loses power often, and looks at each state. */
function loseDuring(
  make: (path: string) => void,
  run: (path: string) => void,
  look: (directory: string, isDone: boolean) => void,
  ignored?: (event: Event) => boolean,
): void {
  const directory = put(new Map());
  make(join(directory, "volume"));
  const record = new Record(directory);
  recorded(record, () => run(join(directory, "volume")));
  const random = new Random(seed());
  const disk = record.disk(ignored);
  const losses = isLong() ? 500 : 30;
  const { length } = record.events;
  // The end is where names change hands.
  const moments = Array.from({ length: losses }, (_, i) =>
    i % 2 === 0 ? length - random.below(10) : random.below(length),
  );
  for (const moment of moments.sort((x, y) => x - y)) {
    disk.advance(moment);
    const left = put(disk.state(random));
    try {
      listening({ skipsSyncs: true }, () => look(left, moment === length));
    } catch (error) {
      throw new Error(`after event ${moment} of ${length}: ${String(error)}`, { cause: error });
    }
    rmSync(left, { recursive: true });
  }
  rmSync(directory, { recursive: true });
  report("powerloss", losses);
}

const create = (path: string) => Volume.create(path, OLD);
/** A volume of some files, and a -wal that a crash left beside it. */
const fill = (path: string) => {
  create(path);
  const key = unlock(path, OLD);
  const volume = Volume.open(path, key);
  for (const name of ["a", "b", "c"]) volume.files.write(touch(volume, ROOT, name), 0, noise(80_000), false);
  volume.tree.unlink(ROOT, Buffer.from("b"));
  volume.commit();
  // Not by this process: closing a descriptor of an open database drops SQLite's locks.
  const kept = put(new Map());
  execFileSync("cp", [path, `${path}-wal`, kept]);
  volume.close();
  execFileSync("cp", [join(kept, "volume"), join(kept, "volume-wal"), dirname(path)]);
  rmSync(kept, { recursive: true });
};

describe("a power loss while a file is replaced as a whole", { timeout: 1_800_000 }, () => {
  test("create leaves a whole volume or none, and a whole one when it has returned", () => {
    loseDuring(
      () => {},
      create,
      (directory, isDone) => {
        const found = contentOf(directory);
        if (isDone) expect(found).toBeDefined();
      },
    );
  });

  test.each([
    ["rekey", (path: string) => rekey(path, OLD, NEW), NEW],
    ["vacuum", (path: string) => vacuum(path, OLD), OLD],
  ] as const)(
    "%s leaves all that was there under exactly one password, and the next run nothing else",
    (_, rewrite, after) => {
      let before: string | undefined;
      const make = (path: string) => {
        fill(path);
        const copy = put(new Map());
        execFileSync("cp", [path, `${path}-wal`, copy]);
        before = contentOf(copy)?.digest;
        rmSync(copy, { recursive: true });
      };
      loseDuring(
        make,
        (path) => finish(rewrite(path)),
        (directory, isDone) => {
          const found = contentOf(directory);
          expect(found?.digest).toBe(before);
          if (isDone) expect(found?.password).toBe(after);
          finish(vacuum(join(directory, "volume"), found?.password as Buffer));
          expect(readdirSync(directory)).toEqual(["volume"]);
        },
      );
    },
  );
});

test("a -wal that a rewrite removed is gone durably before the new file has the name", () => {
  const directory = put(new Map());
  const path = join(directory, "volume");
  fill(path);
  const record = new Record(directory);
  recorded(record, () => finish(vacuum(path, OLD)));
  const isGone = (event: Event) =>
    event.kind === "name" && event.name === "volume-wal" && event.file === undefined;
  const gone = record.events.findLastIndex(isGone);
  const replaced = record.events.findIndex((event) => event.kind === "name" && event.name === "volume");
  expect(gone).toBeGreaterThan(0);
  expect(record.events.slice(gone, replaced).map(({ kind }) => kind)).toContain("syncNames");
});

/** Syncs that are left out; each kind is needed. */
const LEFT_OUT: readonly (readonly [what: string, ignored: (event: Event) => boolean])[] = [
  ["any file", () => true],
  ["the -wal", (event) => event.kind === "sync" && event.path.endsWith("-wal")],
  ["the database file", (event) => event.kind === "sync" && event.path.endsWith("volume")],
  ["the directory", (event) => event.kind === "syncNames"],
];

describe("the search for losses finds them", () => {
  test.each(LEFT_OUT)("where %s is not synced", (_, ignored) => {
    const tally = newTally();
    for (let i = 0; i < 20 && tally.faults.length === 0; i++) tryOut(i, 60, 15, tally, { ignored });
    expect(tally.faults.length).toBeGreaterThan(0);
  });

  test("where a file is replaced without a sync", () => {
    const rewrite = (path: string) => finish(vacuum(path, OLD));
    const look = (directory: string) => void contentOf(directory);
    expect(() => loseDuring(fill, rewrite, look, () => true)).toThrow(/after event/);
  });
});
