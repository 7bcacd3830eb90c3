/**
 * Short workloads, exhaustively: each operation that changes something, and each two of them, on a fresh volume, with
 * a sync of every kind behind one of them, and then a crash. What was synced is there, with all times, and the whole is
 * the state after some first part of the operations. SQLFUSE_LONG=1 takes all sequences of two instead of some.
 */
import { afterAll, describe, expect, test } from "vitest";
import { isDirectory } from "../../src/core/mode.ts";
import type { Volume } from "../../src/core/volume.ts";
import { type Dump, dump } from "../core/dump.ts";
import { afterCrash, Fixture } from "../core/fixture.ts";
import { bytes, converse, frame } from "../fuse/frames.ts";
import { FALLOC } from "../helpers/libc.ts";
import { report } from "../helpers/torture.ts";
import { isLasting, type Operation, survivor, Tree } from "./survivor.ts";
import { attrOf, perform, treeOfVolume } from "./trees.ts";

const LONG = process.env.SQLFUSE_LONG === "1";
/** Of the sequences of two, a short run takes one in so many. */
const SHORT_STEP = 397;

/** What is there before: two directories, a file of two blocks in one of them, a small file with an attribute. */
const BEFORE: readonly Operation[] = [
  { do: "mkdir", path: "A" },
  { do: "mkdir", path: "B" },
  { do: "create", path: "A/foo" },
  { do: "write", path: "A/foo", at: 0, from: 0, length: 100_000 },
  { do: "create", path: "bar" },
  { do: "write", path: "bar", at: 0, from: 700_000, length: 5000 },
  { do: "setxattr", path: "bar", name: "user.old", from: 7, length: 20 },
  { do: "sync" },
];

const OPERATIONS: readonly Operation[] = [
  { do: "create", path: "new" },
  { do: "create", path: "A/new" },
  { do: "write", path: "A/foo", at: 0, from: 1000, length: 4096 },
  { do: "write", path: "A/foo", at: 60_000, from: 2000, length: 10_000 },
  { do: "write", path: "bar", at: 0, from: 3000, length: 5000 },
  { do: "write", path: "bar", at: 200_000, from: 4000, length: 3000 },
  { do: "append", path: "bar", from: 5000, length: 3000 },
  { do: "append", path: "A/foo", from: 6000, length: 70_000 },
  { do: "fallocate", path: "bar", mode: 0, at: 4000, length: 100_000 },
  { do: "fallocate", path: "bar", mode: FALLOC.KEEP_SIZE, at: 4000, length: 100_000 },
  { do: "fallocate", path: "A/foo", mode: FALLOC.PUNCH_HOLE | FALLOC.KEEP_SIZE, at: 3000, length: 70_000 },
  { do: "fallocate", path: "A/foo", mode: FALLOC.ZERO_RANGE, at: 90_000, length: 50_000 },
  { do: "link", path: "bar", to: "A/linked" },
  { do: "link", path: "A/foo", to: "linked" },
  { do: "unlink", path: "bar" },
  { do: "unlink", path: "A/foo" },
  { do: "rename", path: "bar", to: "A/foo" },
  { do: "rename", path: "A/foo", to: "bar" },
  { do: "rename", path: "bar", to: "new" },
  { do: "rename", path: "A/foo", to: "B/foo" },
  { do: "rename", path: "A", to: "C" },
  { do: "rename", path: "A", to: "B" },
  { do: "rename", path: "B", to: "A/B" },
  { do: "exchange", path: "bar", to: "A/foo" },
  { do: "exchange", path: "bar", to: "B" },
  { do: "truncate", path: "bar", size: 0 },
  { do: "truncate", path: "bar", size: 70_000 },
  { do: "truncate", path: "A/foo", size: 66_000 },
  { do: "symlink", path: "new", target: "A/foo" },
  { do: "symlink", path: "A/symbolic", target: "../bar" },
  { do: "mkdir", path: "C" },
  { do: "mkdir", path: "A/new" },
  { do: "rmdir", path: "B" },
  { do: "setxattr", path: "bar", name: "user.old", from: 9, length: 30 },
  { do: "setxattr", path: "A/foo", name: "user.large", from: 11, length: 60_000 },
  { do: "setxattr", path: "A", name: "user.new", from: 13, length: 1 },
];

const PREPARED = treeAfter(new Tree(), BEFORE);

function treeAfter(before: Tree, operations: readonly Operation[]): Tree {
  const tree = before.clone();
  for (const operation of operations) tree.apply(operation);
  return tree;
}

/** Every way to sync what `tree` holds: each of its files and directories by itself, and all at once. */
function syncs(tree: Tree): Operation[] {
  return [
    ...tree.of("file").flatMap((path): Operation[] => [
      { do: "fsync", path },
      { do: "fdatasync", path },
    ]),
    ...tree.of("directory").map((path): Operation => ({ do: "fsync", path })),
    { do: "sync" },
  ];
}

/** `first`, a sync; with `second`: also in between, so that there is something that the crash may take. */
function sequences(first: Operation, second?: Operation): Operation[][] {
  if (!PREPARED.allows(first)) return [];
  const once = treeAfter(PREPARED, [first]);
  if (second === undefined) return syncs(once).map((sync) => [first, sync]);
  if (!once.allows(second)) return [];
  return [
    ...syncs(once).map((sync) => [first, sync, second]),
    ...syncs(treeAfter(once, [second])).map((sync) => [first, second, sync]),
  ];
}

/** FSYNC and FSYNCDIR as the kernel says them; the rest as the library has it. */
function ask(volume: Volume, operation: Operation): void {
  if (operation.do !== "fsync" && operation.do !== "fdatasync") {
    perform(volume, operation);
    return;
  }
  const { ino, mode } = attrOf(volume, operation.path);
  const [FSYNC, FSYNCDIR] = [20, 30];
  const flags = operation.do === "fdatasync" ? "01000000" : "00000000";
  const [reply] = converse(volume, [
    frame(isDirectory(mode) ? FSYNCDIR : FSYNC, bytes(`0000000000000000 ${flags} 00000000`), ino),
  ]);
  expect(reply?.readInt32LE(4)).toBe(0);
}

/** How many cases there were, and in how many of them the crash left more than what was synced. */
const counts = { cases: 0, more: 0 };
afterAll(() => report("workloads", counts.cases, `${counts.more} kept more than was synced`));

/** Does the sequence in a fresh volume, and demands what a crash right behind it may leave. */
function crashBehind(sequence: readonly Operation[]): void {
  const fixture = new Fixture({ volume: { answersFirst: true, noatime: true } });
  try {
    for (const operation of BEFORE) perform(fixture.volume, operation);
    let lasting = 0;
    let synced: Dump | undefined;
    for (const [index, operation] of sequence.entries()) {
      fixture.clock.advance(1);
      ask(fixture.volume, operation);
      if (!isLasting(operation)) continue;
      lasting = index + 1;
      synced = dump(fixture.volume);
    }
    afterCrash(fixture, (_, copy) => {
      const { count } = survivor(
        PREPARED,
        sequence,
        { lasting, answered: sequence.length },
        treeOfVolume(copy),
      );
      counts.cases++;
      if (count > lasting) counts.more++;
      else expect(dump(copy)).toEqual(synced);
    });
  } catch (error) {
    throw new Error(`${JSON.stringify(sequence)}: ${String(error)}`, { cause: error });
  } finally {
    fixture.remove();
  }
}

const KINDS = [...new Set(OPERATIONS.map((operation) => operation.do))];
const firsts = (kind: string) => OPERATIONS.filter((operation) => operation.do === kind);

describe("after a crash, what was synced is there, and the whole is the state of one moment", {
  timeout: 600_000,
}, () => {
  test.each(KINDS)("%s", (kind) => {
    for (const first of firsts(kind)) for (const one of sequences(first)) crashBehind(one);
  });

  test.each(KINDS)(`%s, then another${LONG ? "" : ", some of them"}`, (kind) => {
    const all = firsts(kind).flatMap((first) => OPERATIONS.flatMap((second) => sequences(first, second)));
    for (const one of all.filter((_, index) => LONG || index % SHORT_STEP === 0)) crashBehind(one);
  });
});
