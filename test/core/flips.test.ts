/**
 * Bits that turn over in a volume's file and in its -wal, pages that go, and a -wal that is cut: each is told, no wrong
 * byte is given out, and what does not lie on the damaged page is saved.
 */
import { execFileSync } from "node:child_process";
import {
  copyFileSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { DamageError, FsError } from "../../src/base/errno.ts";
import { OpenError } from "../../src/core/errors.ts";
import type { Ino } from "../../src/core/types.ts";
import { unlock } from "../../src/core/unlock.ts";
import { Volume } from "../../src/core/volume.ts";
import { Btrees } from "../../src/db/btree.ts";
import { Database } from "../../src/db/database.ts";
import { SqliteError } from "../../src/db/errors.ts";
import type { Key } from "../../src/db/key.ts";
import { Pages } from "../../src/db/pages.ts";
import { drain, inspect, type Report } from "../../src/fsck/check.ts";
import { repair } from "../../src/fsck/repair.ts";
import { changedPaths, lines } from "../fsck/fsck.ts";
import { type Dump, dump } from "./dump.ts";
import { b, FakeClock, mkdir, noise, PASSWORD, put, ROOT, settle, touch, walEnd } from "./fixture.ts";
import { type Random, withRandom } from "./random.ts";

const LONG = process.env.SQLFUSE_LONG !== undefined;
const PAGE = 4096;
const BLOCK = 4096;
const CLASSES = [
  "schema",
  "inode",
  "entry",
  "extent",
  "block",
  "overflow",
  "attribute",
  "past",
  "free",
] as const;
type Class = (typeof CLASSES)[number];
const CLASS_OF_TABLE: Record<string, Class> = {
  inode: "inode",
  inode_unlinked: "inode",
  dirent: "entry",
  dirent_by_id: "entry",
  extent: "extent",
  block: "block",
  xattr: "attribute",
  meta: "schema",
};

let directory: string;
/** The whole volume, closed. */
let whole: string;
let key: Key;
let before: Dump;
/** Contents of regular files, by path. */
const contents = new Map<string, Buffer>();

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "flips-"));
  whole = join(directory, "whole");
  Volume.create(whole, PASSWORD, { pageSize: PAGE, blockSize: BLOCK, clock: new FakeClock() });
  key = unlock(whole, PASSWORD);
  fillMany();
});
afterAll(() => {
  key.wipe();
  rmSync(directory, { recursive: true });
});

/** Some hundred files, so that each table has several pages and an interior one; free pages too. */
function fillMany(): void {
  const clock = new FakeClock();
  const volume = Volume.open(whole, key, { clock });
  for (let i = 0; i < 7; i++) {
    const parent = mkdir(
      volume,
      i % 3 === 0 ? ROOT : (volume.tree.lookup(ROOT, b("d0"))?.ino as Ino),
      `d${i}`,
    );
    for (let j = 0; j < 20; j++) {
      const file = put(
        volume,
        parent,
        `file ${j}`,
        noise([0, 60, 900, 4096, 9000][(i + j) % 5] ?? 0, i * 20 + j),
      );
      if (j % 5 === 0) volume.xattrs.set(file, b("user.x"), noise(200 + 900 * (j % 2), j), 0, false);
      if (j === 7) volume.tree.link(file, parent, b("other"));
    }
    volume.tree.symlink(parent, b("s"), b("target"), { uid: 1, gid: 1, umask: 0 });
  }
  volume.closeEpoch();
  for (let j = 0; j < 40; j++) put(volume, ROOT, `gone ${j}`, noise(9000, j));
  const changed = touch(volume, ROOT, "changed");
  for (let i = 0; i < 60; i++) volume.files.write(changed, i * 2 * BLOCK, noise(100, i), false);
  volume.closeEpoch();
  for (let i = 0; i < 60; i++) volume.files.write(changed, i * 2 * BLOCK, noise(90, i + 1), false);
  for (let j = 0; j < 40; j++) volume.tree.unlink(ROOT, b(`gone ${j}`));
  settle(volume, clock);
  volume.close();
  fillPacked();
  remember();
}

/** Files of which each block is compressed, to several pages. */
function fillPacked(): void {
  const clock = new FakeClock();
  setBlockSize(65_536);
  const volume = Volume.open(whole, key, { clock });
  for (const how of ["fast", "strong"]) {
    const parent = mkdir(volume, ROOT, how);
    volume.xattrs.set(parent, b("user.sqlfuse.compression"), b(how), 0, false);
    for (let i = 0; i < 4; i++) put(volume, parent, `packed ${i}`, shrinking(150_000, i));
  }
  put(volume, ROOT, "gone too", noise(400_000));
  volume.commit();
  volume.tree.unlink(ROOT, b("gone too"));
  settle(volume, clock);
  volume.close();
  setBlockSize(BLOCK);
}

/** Of files that are made from now on. */
function setBlockSize(bytes: number): void {
  const db = new Database(whole, key, { mode: "readwrite" });
  db.exec(`UPDATE meta SET value = ${bytes} WHERE key = 'block_size'`);
  db.close();
}

/** Bytes of which half look alike. */
function shrinking(length: number, seed: number): Buffer {
  const bytes = noise(length, seed + 100);
  for (let at = 0; at + 20 <= length; at += 40) bytes.write("as in all the others", at);
  return bytes;
}

function remember(): void {
  const volume = Volume.open(whole, key, { clock: new FakeClock(), readOnly: true });
  before = dump(volume);
  for (const [path, { ino, size, mode }] of Object.entries(before)) {
    if ((mode & 0o170000) !== 0o100000) continue;
    const bytes = Buffer.alloc(size);
    volume.files.read(ino as Ino, 0, size, bytes);
    contents.set(path, bytes);
  }
  volume.close();
}

/** Pages of the volume by what they hold. */
function classify(): Map<Class, number[]> {
  const classes = new Map<Class, number[]>(CLASSES.map((name) => [name, []]));
  const pages = new Pages(whole, key);
  pages.useWal("none");
  const db = new Database(whole, key, { mode: "readonly", immutable: true });
  const rows = db.prepare("SELECT name, rootpage FROM sqlite_schema WHERE rootpage > 0");
  const roots: [string, number][] = [["schema", 1]];
  while (rows.step()) roots.push([rows.text(0), rows.int(1)]);
  db.close();
  for (const [name, root] of roots) {
    const trees = new Btrees(pages);
    for (const met of trees.walk(root)) expect("lost" in met).toBe(false);
    for (const page of trees.reached) {
      const isOverflow = page !== 1 && pages.read(page)?.[0] === 0;
      const kind = isOverflow
        ? "overflow"
        : (CLASS_OF_TABLE[name] ?? (name === "schema" ? "schema" : "past"));
      classes.get(kind)?.push(page);
    }
  }
  classes.get("free")?.push(...(new Btrees(pages).freePages() ?? []));
  pages.close();
  return classes;
}

/** Turns over one bit of a file. */
function flip(path: string, byte: number, bit: number): void {
  const bytes = readFileSync(path);
  bytes[byte] = (bytes[byte] ?? 0) ^ (1 << bit);
  writeFileSync(path, bytes);
}

function isRefusal(error: unknown): boolean {
  return (
    error instanceof FsError ||
    error instanceof DamageError ||
    error instanceof SqliteError ||
    (error instanceof OpenError && error.reason === "damaged")
  );
}

/** Reads everything through the volume: each answer must be the right one, or none. Tells how many files were whole. */
function readAll(path: string): number {
  let right = 0;
  let volume: Volume;
  try {
    volume = Volume.open(path, key, { clock: new FakeClock(), readOnly: true });
  } catch (error) {
    if (!isRefusal(error)) throw error;
    return 0;
  }
  try {
    for (const [name, bytes] of contents) {
      try {
        let ino = ROOT;
        for (const part of name.split("/").slice(1)) {
          const found = volume.tree.lookup(ino, Buffer.from(part, "latin1"));
          expect(found, `${name} is there`).toBeDefined();
          ino = found?.ino ?? ino;
        }
        const into = Buffer.alloc(bytes.length + 1);
        const got = volume.files.read(ino, 0, into.length, into);
        expect(into.subarray(0, got).equals(bytes), `${name} has its bytes`).toBe(true);
        right++;
      } catch (error) {
        if (!isRefusal(error)) throw error;
      }
    }
  } finally {
    volume.close();
  }
  return right;
}

/** Repairs, and demands that only what the report names has changed, and that to nothing but holes. */
function repairAndCompare(path: string, report: Report): { saved: number; lost: number } {
  const clock = new FakeClock();
  drain(repair(path, key, report, clock));
  expect(lines(drain(inspect(path, key)).findings)).toEqual([]);
  const volume = Volume.open(path, key, { clock, readOnly: true });
  try {
    const after = dump(volume);
    const named = new Set(report.findings.map((finding) => finding.path));
    const changed = changedPaths(before, after).filter((name) => !name.startsWith("/lost+found"));
    const isNamed = (name: string) =>
      named.has(name === "" ? "/" : name) ||
      [...named].some((other) => other !== undefined && before[other]?.ino === before[name]?.ino);
    for (const name of changed) expect(isNamed(name), `${name} is named`).toBe(true);
    for (const name of changed) {
      const [was, is] = [contents.get(name), after[name]];
      if (was === undefined || is === undefined) continue;
      const bytes = Buffer.alloc(is.size);
      volume.files.read(is.ino as Ino, 0, is.size, bytes);
      for (const [i, byte] of bytes.entries())
        if (byte !== 0 && byte !== was[i]) throw new Error(`${name}: wrong at ${i}`);
    }
    return { saved: Object.keys(before).length - changed.length, lost: changed.length };
  } finally {
    volume.close();
    for (const end of ["", "-wal", "-shm"]) rmSync(path + end, { force: true });
  }
}

/** A copy of the volume to break. */
function broken(): string {
  const path = join(directory, "broken");
  rmSync(`${directory}/broken`, { force: true });
  copyFileSync(whole, path);
  return path;
}

describe("one bit of a page", () => {
  const FLIPS = LONG ? 1000 : 3;
  it.each(CLASSES)(
    `of class %s turns over, ${FLIPS} times: reported, nothing wrong served, the rest saved`,
    (kind) =>
      withRandom((random, step) => {
        const pages = classify().get(kind) ?? [];
        expect(pages.length).toBeGreaterThan(0);
        let mostLost = 0;
        let right = 0;
        for (let i = 0; i < FLIPS; i++) {
          const pageNo = random.pick(pages);
          const path = broken();
          // The first 16 bytes are the salt, which belongs to no page: with another one no password fits.
          const byte = random.between(pageNo === 1 ? 16 : 0, PAGE - 1);
          step(`page ${pageNo}, byte ${byte}`);
          flip(path, (pageNo - 1) * PAGE + byte, random.below(8));
          const report = drain(inspect(path, key));
          expect(
            lines(report.findings).filter((line) => line.includes(`page ${pageNo} is damaged`)),
          ).toHaveLength(1);
          right += readAll(path);
          mostLost = Math.max(mostLost, repairAndCompare(path, report).lost);
          rmSync(`${path}.damaged-20231114T221320Z`, { force: true });
        }
        if (LONG)
          console.log(
            `${kind}: ${pages.length} pages, ${FLIPS} flips; at most ${mostLost} of ${Object.keys(before).length} paths changed, ${Math.round((100 * right) / (FLIPS * contents.size))} % of files read before the repair`,
          );
        if (["schema", "entry", "free"].includes(kind)) expect(mostLost).toBe(0);
      }),
    LONG ? 3_600_000 : 60_000,
  );
});

describe("pages", () => {
  it.each([
    ["zeroed", "is all zeros", (bytes: Buffer) => bytes.fill(0, 30 * PAGE, 31 * PAGE)],
    [
      "swapped",
      "is damaged",
      (bytes: Buffer) => {
        const page = Buffer.from(bytes.subarray(30 * PAGE, 31 * PAGE));
        bytes.copy(bytes, 30 * PAGE, 31 * PAGE, 32 * PAGE);
        page.copy(bytes, 31 * PAGE);
      },
    ],
  ] as const)("that are %s are found, and the rest is saved", (_, says, change) => {
    const path = broken();
    const bytes = readFileSync(path);
    change(bytes);
    writeFileSync(path, bytes);
    const report = drain(inspect(path, key));
    expect(lines(report.findings).join("\n")).toContain(`page 31 ${says}`);
    readAll(path);
    repairAndCompare(path, report);
  });

  it("that the end of the file lacks are found, and the rest is saved", () => {
    const path = broken();
    truncateSync(path, statSync(path).size - 5 * PAGE - 100);
    const report = drain(inspect(path, key));
    expect(lines(report.findings).filter((line) => line.includes("is missing"))).toHaveLength(6);
    repairAndCompare(path, report);
  });

  it("of which every tenth is damaged leave a volume that is whole, and no wrong byte", () => {
    const path = broken();
    const bytes = readFileSync(path);
    for (let at = 5 * PAGE; at < bytes.length; at += 10 * PAGE) bytes[at + 99] = (bytes[at + 99] ?? 0) ^ 1;
    writeFileSync(path, bytes);
    const report = drain(inspect(path, key));
    readAll(path);
    drain(repair(path, key, report, new FakeClock()));
    expect(lines(drain(inspect(path, key)).findings)).toEqual([]);
  });
});

// --- the -wal

interface Crashed {
  readonly path: string;
  /** What each commit showed, the state of the main file first. */
  readonly states: readonly string[];
}

/** A volume as a crash leaves it: its commits are in its -wal, and its head has seen the last one. */
function crashed(): Crashed {
  const path = join(directory, "crashed");
  const source = join(directory, "live");
  copyFileSync(whole, source);
  const volume = Volume.open(source, key, { clock: new FakeClock(), headFile: `${source}.head` });
  const show = () => JSON.stringify(dump(volume));
  // Opening it with a head is the first commit, which shows nothing new.
  const states = [show(), show()];
  const file = touch(volume, ROOT, "log");
  volume.commit();
  states.push(show());
  for (let i = 0; i < 9; i++) {
    volume.files.write(file, i * 1000, noise(1000, i), false);
    if (i % 3 === 0) mkdir(volume, ROOT, `made ${i}`);
    volume.commit();
    states.push(show());
  }
  for (const end of ["", "-wal", ".head"]) writeFileSync(path + end, readCopy(source + end));
  volume.close();
  return { path, states };
}

/** Not by opening it in this process: that would drop the locks of the open volume. */
function readCopy(path: string): Buffer {
  return execFileSync("cat", [path], { maxBuffer: 64 * 2 ** 20 });
}

function stateOf(path: string): string {
  const volume = Volume.open(path, key, { clock: new FakeClock() });
  try {
    return JSON.stringify(dump(volume));
  } finally {
    volume.close();
  }
}

describe("the -wal", () => {
  let base: Crashed;
  let wal: Buffer;
  let main: Buffer;
  const FRAME = PAGE + 24;
  beforeAll(() => {
    base = crashed();
    wal = readFileSync(`${base.path}-wal`).subarray(0, walEnd(base.path, PAGE));
    main = readFileSync(base.path);
  });

  function restore(bytes: Buffer): string {
    const path = join(directory, "walled");
    for (const end of ["", "-wal", "-shm"]) rmSync(path + end, { force: true });
    writeFileSync(path, main);
    writeFileSync(`${path}-wal`, bytes);
    return path;
  }

  /** Frame after which a commit ends, and how many do so before frame `no`. */
  function commitsBefore(no: number): number {
    let commits = 0;
    for (let i = 0; i < no; i++) if (wal.readUInt32BE(32 + i * FRAME + 4) > 0) commits++;
    return commits;
  }

  it("that is whole is none of anybody's concern", () => {
    const path = restore(wal);
    const report = drain(inspect(path, key));
    expect(report.findings).toEqual([]);
    expect(report.notices.map(({ kind }) => kind)).toEqual(["wal"]);
    expect(existsSync(`${path}-shm`)).toBe(false);
    expect(readFileSync(`${path}-wal`).equals(wal)).toBe(true);
    expect(stateOf(path)).toBe(base.states.at(-1));
  });

  const FLIPS = LONG ? 1000 : 6;
  const PLACES: readonly (readonly [string, (random: Random, frames: number) => number])[] = [
    ["header", (random) => random.below(32)],
    ["frame headers", (random, frames) => 32 + random.below(frames) * FRAME + random.below(24)],
    ["payloads", (random, frames) => 32 + random.below(frames) * FRAME + 24 + random.below(PAGE)],
  ];
  it.each(PLACES)(
    `with a bit turned over in its %s, ${FLIPS} times: reported, never mounted as an older state, and repaired`,
    (_, place) =>
      withRandom((random, step) => {
        const frames = Math.floor((wal.length - 32) / FRAME);
        const total = base.states.length - 1;
        for (let i = 0; i < FLIPS; i++) {
          const byte = place(random, frames);
          step(`byte ${byte}`);
          const bytes = Buffer.from(wal);
          bytes[byte] = (bytes[byte] ?? 0) ^ (1 << random.below(8));
          const path = restore(bytes);
          const hit = byte < 32 ? 0 : Math.floor((byte - 32) / FRAME);
          const lost = total - commitsBefore(hit);
          const report = drain(inspect(path, key));
          if (lost === 1 && byte >= 32 && report.findings.length === 0) {
            // The last commit alone: a crash leaves the same, and it was never acknowledged then. The head knows better.
            expect(kindsWithHead(path)).toEqual(["head"]);
            expect(lines(report.notices).join()).toContain("unfinished commit");
            expect(stateOf(path)).toBe(base.states.at(-2));
            continue;
          }
          expect(report.findings[0]?.kind).toBe("wal");
          expect(() => stateOf(path)).toThrow(/-wal is damaged/);
          const { left } = drain(repair(path, key, report, new FakeClock()));
          expect(lines(left)).toEqual([]);
          const volume = Volume.open(path, key, { clock: new FakeClock(), readOnly: true });
          const after = dump(volume);
          volume.close();
          const newest = JSON.parse(base.states.at(-1) ?? "") as Dump;
          const named = new Set(report.findings.map((finding) => finding.path));
          const changed = changedPaths(newest, after).filter((name) => !name.startsWith("/lost+found"));
          for (const name of changed)
            expect([...named], `${name} is named`).toContain(name === "" ? "/" : name);
          for (const end of ["", "-wal"]) rmSync(`${path}.damaged-20231114T221320Z${end}`, { force: true });
        }
      }),
    LONG ? 3_600_000 : 60_000,
  );

  /** Kinds of findings of a check with the head. */
  function kindsWithHead(path: string): string[] {
    return drain(inspect(path, key, { headFile: `${base.path}.head` })).findings.map(({ kind }) => kind);
  }

  it("that is whole has what its head has seen", () => {
    expect(kindsWithHead(restore(wal))).toEqual([]);
  });

  it(
    "cut at each 512 bytes is the state of some commit, in order, no false alarm, and always reported with a head",
    () => {
      let last = 0;
      let cuts = 0;
      for (let length = 512; length <= wal.length; length += LONG ? 512 : 512 * 13) {
        const path = restore(wal.subarray(0, length));
        const report = drain(inspect(path, key));
        expect(lines(report.findings)).toEqual([]);
        if (length < wal.length) {
          expect(kindsWithHead(path)).toEqual(["head"]);
          expect(() => Volume.open(path, key, { headFile: `${base.path}.head` })).toThrow(
            /older than its head/,
          );
          cuts++;
        }
        const state = commitsBefore(Math.floor((length - 32) / FRAME));
        expect(stateOf(path)).toBe(base.states[state]);
        expect(state).toBeGreaterThanOrEqual(last);
        last = state;
      }
      if (LONG) console.log(`cut at ${cuts} places`);
    },
    LONG ? 3_600_000 : 60_000,
  );
});
