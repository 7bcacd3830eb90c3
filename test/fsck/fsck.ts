/** What the tests of fsck share: a volume with something of everything, and its repair. */
import { expect } from "vitest";
import type { Ino } from "../../src/core/types.ts";
import type { Volume } from "../../src/core/volume.ts";
import { drain, type Finding, inspect, type Report } from "../../src/fsck/check.ts";
import { type Repaired, repair } from "../../src/fsck/repair.ts";
import { type Dump, dump } from "../core/dump.ts";
import { b, CALLER, Fixture, mkdir, noise, put, ROOT, S_IFIFO, touch } from "../core/fixture.ts";

export const BLOCK = 4096;

/** The inodes of a filled volume, by what they are. */
export interface Inodes {
  /** /d, and what is in it. */
  readonly d: Ino;
  /** /d/e, with two files. */
  readonly e: Ino;
  /** /d/e/f: an empty directory. */
  readonly f: Ino;
  /** /a and /d/l: three blocks shared with /copy, two attributes. */
  readonly a: Ino;
  readonly copy: Ino;
  /** /plain: one block, which has a past. */
  readonly plain: Ino;
  /** /big: forty blocks with holes between them. */
  readonly big: Ino;
  /** /emptied */
  readonly empty: Ino;
  /** /fifo */
  readonly fifo: Ino;
  /** /s */
  readonly symlink: Ino;
  /** /acl: a file with an access ACL. */
  readonly acl: Ino;
}

/** user::rw-, user:7:r--, group::r--, mask::r--, other::--- */
const ACL = Buffer.from(
  "02000000" +
    "01000600ffffffff" +
    "0200040007000000" +
    "04000400ffffffff" +
    "10000400ffffffff" +
    "20000000ffffffff",
  "hex",
);

/** Fills a volume with something of everything, a past included, and closes it. */
export function fill(fixture: Fixture): Inodes {
  const { volume } = fixture;
  const d = mkdir(volume, ROOT, "d");
  const e = mkdir(volume, d, "e");
  const f = mkdir(volume, e, "f");
  put(volume, e, "one", noise(5000, 7));
  put(volume, e, "two", "two");
  const a = put(volume, ROOT, "a", noise(2 * BLOCK + 100));
  volume.tree.link(a, d, b("l"));
  volume.xattrs.set(a, b("user.x"), b("y"), 0, false);
  volume.xattrs.set(a, b("user.z"), b("zz"), 0, false);
  const copy = touch(volume, ROOT, "copy");
  volume.files.copyFileRange(a, 0, copy, 0, 3 * BLOCK, false);
  const plain = put(volume, ROOT, "plain", noise(100, 2));
  const big = touch(volume, ROOT, "big");
  for (let i = 0; i < 40; i++) volume.files.write(big, i * 2 * BLOCK, noise(BLOCK, i), false);
  const empty = touch(volume, ROOT, "empty");
  const fifo = volume.tree.mknod(ROOT, b("fifo"), S_IFIFO | 0o600, 0, CALLER).ino;
  const symlink = volume.tree.symlink(ROOT, b("s"), b("target"), CALLER).ino;
  const acl = put(volume, ROOT, "acl", "acl");
  volume.xattrs.set(acl, b("system.posix_acl_access"), ACL, 0, false);
  volume.closeEpoch();
  volume.files.write(plain, 0, noise(50, 3), false);
  volume.xattrs.set(a, b("user.x"), b("z"), 0, false);
  volume.tree.rename(ROOT, b("empty"), ROOT, b("emptied"), 0);
  fixture.close();
  return { d, e, f, a, copy, plain, big, empty, fifo, symlink, acl };
}

export function inspectFixture({ path, key }: Fixture): Report {
  return drain(inspect(path, key));
}

/** Repairs what an inspection finds. */
export function repairFixture({ path, key, clock }: Pick<Fixture, "path" | "key" | "clock">): Repaired {
  return drain(repair(path, key, drain(inspect(path, key)), clock));
}

export function dumpOf(fixture: Fixture): Dump {
  const volume: Volume = fixture.volume;
  try {
    return dump(volume);
  } finally {
    fixture.close();
  }
}

/** Paths whose file differs between two dumps; link counts of directories and the root's are not compared. */
export function changedPaths(before: Dump, after: Dump): string[] {
  const paths = new Set([...Object.keys(before), ...Object.keys(after)]);
  const isDirectory = (mode: number | undefined) => ((mode ?? 0) & 0o170000) === 0o040000;
  return [...paths].filter((path) => {
    const [one, other] = [before[path], after[path]];
    if (isDirectory(one?.mode) && isDirectory(other?.mode))
      return JSON.stringify({ ...one, nlink: 0 }) !== JSON.stringify({ ...other, nlink: 0 });
    return JSON.stringify(one) !== JSON.stringify(other);
  });
}

/** One line a finding. */
export function lines(findings: readonly Finding[]): string[] {
  return findings.map(({ kind, path, ino, text }) => `${kind} ${path ?? ""} ${ino ?? ""} ${text}`);
}

/** Runs a test in a copy of `filled`. */
export function inCopy(filled: Fixture, run: (fixture: Fixture) => void): void {
  const fixture = new Fixture({}, filled);
  try {
    run(fixture);
    fixture.close();
    expect(fixture.takeLog()).toEqual([]);
  } finally {
    fixture.remove();
  }
}
