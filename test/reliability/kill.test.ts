/**
 * kill -9 of a mount under load, at random moments, on one volume that goes on living. A program does operations one
 * by one and notes elsewhere when each was answered. After each kill the volume mounts by itself, fsck finds nothing,
 * and the tree is that after some first part of the operations: all that was synced is in it, and what is lost is young.
 * SQLFUSE_LONG=1 kills 1,000 times, SQLFUSE_KILLS=n so often.
 */
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, expect, test } from "vitest";
import { unlock } from "../../src/core/unlock.ts";
import type { Key } from "../../src/db/key.ts";
import { check } from "../../src/fsck/check.ts";
import { O, sys } from "../helpers/libc.ts";
import { Random } from "../helpers/model.ts";
import { report, seed } from "../helpers/torture.ts";
import { mountingImpossible, PASSWORD, TestVolume, until } from "../helpers/volume.ts";
import { randomOperations } from "./operations.ts";
import { DATA, isLasting, type Operation, STORE_BYTES, survivor, Tree } from "./survivor.ts";
import { treeOfDirectory } from "./trees.ts";

const LONG = process.env.SQLFUSE_LONG === "1";
const KILLS = Number(process.env.SQLFUSE_KILLS ?? (LONG ? 1000 : 6));
/** More than are done before the kill, mostly: where not, the mount is killed while it rests. */
const OPERATIONS = 3000;
/** The default of mount, and what a busy machine may add to it. */
const COMMIT_MS = 1000;
const BUSY_MS = 1000;
const LATEST_KILL_MS = 1500;
/**
 * Rounds in turn: what share of the syncs is done, of how many operations, and for how many ms it goes on at least. Where
 * nobody syncs the operations are too few to be committed for their size.
 */
const ROUNDS = [
  { share: 1, operations: OPERATIONS, earliestMs: 0 },
  { share: 1, operations: OPERATIONS, earliestMs: 0 },
  { share: 0, operations: 150, earliestMs: COMMIT_MS + BUSY_MS },
  { share: 0.05, operations: OPERATIONS, earliestMs: 0 },
] as const;

/** argv: directory, file of operations, bytes that they write, journal. A line for each answer: "number ms". */
const LOAD = `
import ctypes, errno, json, mmap, os, sys, time
os.chdir(sys.argv[1]); plan = json.load(open(sys.argv[2])); data = open(sys.argv[3], "rb").read()
journal = os.open(sys.argv[4], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def note(*words): os.write(journal, (" ".join(map(str, words)) + " %d\\n" % (time.time() * 1000)).encode())
libc = ctypes.CDLL(None, use_errno=True)
def fallocate(fd, o):
    if libc.fallocate(fd, o["mode"], ctypes.c_long(o["at"]), ctypes.c_long(o["length"])): raise OSError(ctypes.get_errno(), "fallocate")
def opened(o, flags, work):
    fd = os.open(o["path"] or ".", flags, 0o644)
    try: work(fd)
    finally: os.close(fd)
def piece(o): return data[o["from"]:o["from"] + o["length"]]
def store(fd, o):
    if not o["stores"]: return os.fsync(fd)
    m = mmap.mmap(fd, 0)
    for at in o["stores"]: m[at:at + ${STORE_BYTES}] = data[o["from"]:o["from"] + ${STORE_BYTES}]
    m.flush(); m.close()
def whole(done, wanted):
    if done != wanted: raise OSError(errno.EIO, "a short write")
DO = {
    "create": lambda o: opened(o, os.O_CREAT | os.O_EXCL | os.O_WRONLY, lambda fd: None),
    "write": lambda o: opened(o, os.O_WRONLY, lambda fd: whole(os.pwrite(fd, piece(o), o["at"]), o["length"])),
    "append": lambda o: opened(o, os.O_WRONLY | os.O_APPEND, lambda fd: whole(os.write(fd, piece(o)), o["length"])),
    "fallocate": lambda o: opened(o, os.O_WRONLY, lambda fd: fallocate(fd, o)),
    "truncate": lambda o: os.truncate(o["path"], o["size"]),
    "map": lambda o: opened(o, os.O_RDWR, lambda fd: store(fd, o)),
    "fsync": lambda o: opened(o, os.O_RDONLY, os.fsync),
    "fdatasync": lambda o: opened(o, os.O_RDONLY, os.fdatasync),
    "link": lambda o: os.link(o["path"], o["to"]),
    "rename": lambda o: os.rename(o["path"], o["to"]),
    "unlink": lambda o: os.unlink(o["path"]),
    "symlink": lambda o: os.symlink(o["target"], o["path"]),
    "mkdir": lambda o: os.mkdir(o["path"], 0o755),
    "rmdir": lambda o: os.rmdir(o["path"]),
    "setxattr": lambda o: os.setxattr(o["path"] or ".", o["name"], piece(o)),
}
for number, o in enumerate(plan):
    try: DO[o["do"]](o)
    except OSError as e:
        note("failed", number, e.errno)
        sys.exit(0)
    note(number)
`;

/** Beside it, in half of the rounds: large writes and fsyncs, so that commits fall anywhere between the operations. */
const NOISE = `
import os, random, sys
try:
    os.makedirs(sys.argv[1], exist_ok=True); os.chdir(sys.argv[1])
    while True:
        fd = os.open("n%d" % random.randrange(6), os.O_CREAT | os.O_WRONLY | random.choice([0, os.O_TRUNC]))
        os.write(fd, os.urandom(random.randrange(300000)))
        if random.random() < 0.3: os.fsync(fd)
        os.close(fd)
except OSError: pass
`;

const impossible = mountingImpossible();
const started: ChildProcess[] = [];
let volume: TestVolume | undefined;
afterEach(() => {
  for (const child of started.splice(0)) child.kill("SIGKILL");
  volume?.remove();
});

function start(program: string, ...args: string[]): ChildProcess {
  const child = spawn("python3", ["-IS", "-c", program, ...args], { stdio: ["ignore", "ignore", "inherit"] });
  started.push(child);
  return child;
}

async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode === null && child.signalCode === null) await once(child, "exit");
  started.splice(started.indexOf(child), 1);
}

interface Journal {
  /** When each operation was answered, in ms since 1970. */
  readonly answeredMs: readonly number[];
  /** Which one failed, if one did, with which errno and when. */
  readonly failed: readonly [number: number, errno: number, ms: number] | undefined;
}

function readJournal(path: string): Journal {
  const lines = readFileSync(path, "utf8").split("\n").slice(0, -1);
  const answered = lines
    .filter((line) => !line.startsWith("failed"))
    .map((line) => line.split(" ").map(Number));
  expect(answered.map(([number]) => number)).toEqual(answered.map((_, index) => index));
  const [number, errno, ms] =
    lines
      .find((line) => line.startsWith("failed"))
      ?.split(" ")
      .slice(1)
      .map(Number) ?? [];
  return {
    answeredMs: answered.map(([, answeredMs]) => answeredMs ?? 0),
    failed: number === undefined ? undefined : [number, errno ?? 0, ms ?? 0],
  };
}

interface Killed extends Journal {
  readonly killedMs: number;
}

/** Runs the operations in the mount, and kills it `delayMs` after the first one was answered. */
async function killDuring(
  mount: TestVolume,
  operations: readonly Operation[],
  delayMs: number,
  withNoise: boolean,
): Promise<Killed> {
  const [plan, journal] = [join(mount.home, "plan"), join(mount.home, "journal")];
  writeFileSync(plan, JSON.stringify(operations));
  rmSync(journal, { force: true });
  closeSync(openSync(journal, "w"));
  const noise = withNoise ? start(NOISE, join(mount.mountpoint, "noise")) : undefined;
  const load = start(LOAD, join(mount.mountpoint, "load"), plan, join(mount.home, "data"), journal);
  await until("the first answer", () => readFileSync(journal).length > 0);
  await new Promise((done) => setTimeout(done, delayMs));
  const killedMs = Date.now();
  await mount.kill();
  await ended(load);
  if (noise !== undefined) await ended(noise);
  return { ...readJournal(journal), killedMs };
}

/** Demands that fsck finds nothing in what the kill left, in a copy: the next mount must make do with it by itself. */
function expectClean(mount: TestVolume, key: Key): void {
  const directory = mkdtempSync(join(mount.home, "left-"));
  execFileSync("cp", [mount.file, `${mount.file}-wal`, directory]);
  expect(check(join(directory, "volume.sqlite"), key)).toEqual([]);
  rmSync(directory, { recursive: true });
}

test.skipIf(impossible !== undefined)(
  `a mount that is killed ${KILLS} times${impossible === undefined ? "" : ` (${impossible})`} keeps what was synced, and is the state of one moment`,
  { timeout: 60_000 + KILLS * 15_000 },
  async () => {
    const random = new Random(seed());
    const mount = TestVolume.create();
    volume = mount;
    const key = unlock(mount.file, Buffer.from(PASSWORD));
    writeFileSync(join(mount.home, "data"), DATA);
    mount.mount();
    const load = join(mount.mountpoint, "load");
    mkdirSync(load);
    const fd = sys.open(load, O.RDONLY);
    sys.fsync(fd);
    sys.close(fd);

    let tree = new Tree();
    const mountMs: number[] = [];
    const total = { answered: 0, lost: 0, oldestMs: 0 };
    for (let round = 0; round < KILLS; round++) {
      const kind = ROUNDS[round % ROUNDS.length] ?? ROUNDS[0];
      const operations = randomOperations(random, tree, kind.operations).filter(
        (operation) => !isLasting(operation) || random.chance(kind.share),
      );
      const delayMs = kind.earliestMs + random.below(LATEST_KILL_MS);
      const { answeredMs, failed, killedMs } = await killDuring(mount, operations, delayMs, round % 2 === 1);
      // Nothing failed but by the kill.
      if (failed !== undefined) expect(failed[2], `failed: ${failed}`).toBeGreaterThanOrEqual(killedMs);
      expectClean(mount, key);
      const startMs = performance.now();
      mount.mount();
      mountMs.push(performance.now() - startMs);

      const answered = answeredMs.length;
      const lasting = operations.slice(0, answered).findLastIndex(isLasting) + 1;
      const survived = survivor(tree, operations, { lasting, answered, splits: true }, treeOfDirectory(load));
      const oldestLost = answeredMs[survived.count];
      const ageMs = oldestLost === undefined ? 0 : killedMs - oldestLost;
      expect(ageMs, `round ${round}: age of what is lost`).toBeLessThan(COMMIT_MS + BUSY_MS);
      total.answered += answered;
      total.lost += Math.max(0, answered - survived.count);
      total.oldestMs = Math.max(total.oldestMs, ageMs);
      tree = survived.tree;
    }
    mount.unmount();
    key.wipe();
    const slowest = Math.round(Math.max(...mountMs));
    report(
      "kill",
      KILLS,
      `${total.answered} operations, ${total.lost} lost, none older than ${total.oldestMs} ms; ` +
        `mounted again in ${Math.round(mountMs.sort((a, b) => a - b)[KILLS >> 1] ?? 0)} ms (median; slowest ${slowest})`,
    );
  },
);
