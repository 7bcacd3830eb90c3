import {
  closeSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { ROOT_INO } from "../../src/core/types.ts";
import { unlock } from "../../src/core/unlock.ts";
import { Volume } from "../../src/core/volume.ts";
import type { Key } from "../../src/db/key.ts";
import { check } from "../../src/fsck/check.ts";

const PASSWORD = Buffer.from("a crash");
const CALLER = { uid: 0, gid: 0, umask: 0o22 };

let directory: string;
let path: string;
let key: Key;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "walcrash-"));
  path = join(directory, "volume");
  Volume.create(path, PASSWORD);
  key = unlock(path, PASSWORD);
});
afterEach(() => rmSync(directory, { recursive: true }));

/** Commits three times and leaves file and -wal as a crash at this moment would. */
function crash(copied: boolean): void {
  const volume = Volume.open(path, key);
  for (const name of ["a", "b", "c"]) {
    volume.tree.mkdir(ROOT_INO, Buffer.from(name), 0o755, CALLER);
    volume.commit();
  }
  // A quiet volume copies its -wal, and leaves it to be written over.
  if (copied) volume.idle(performance.now() + 60_000);
  const left = [readFileSync(path), readFileSync(`${path}-wal`)] as const;
  volume.close();
  writeFileSync(path, left[0]);
  writeFileSync(`${path}-wal`, left[1]);
}

function overwrite(at: number, bytes: number): void {
  const fd = openSync(`${path}-wal`, "r+");
  writeSync(fd, Buffer.alloc(bytes, 0x5a), 0, bytes, at);
  closeSync(fd);
}

function names(): string[] {
  const volume = Volume.open(path, key);
  const found: string[] = [];
  volume.tree.readdir(ROOT_INO, 0, ({ name }) => found.push(Buffer.from(name).toString()) > 0);
  volume.close();
  return found;
}

test("a -wal that was copied mounts, though its header was torn while it was written over", () => {
  crash(true);
  expect(statSync(`${path}-wal`).size).toBeGreaterThan(0);
  overwrite(8, 20);
  expect(names()).toEqual(["a", "b", "c"]);
  expect(check(path, key)).toEqual([]);
});

test("a -wal that was copied mounts, though its first frame was torn while it was written over", () => {
  crash(true);
  overwrite(32, 5000);
  expect(names()).toEqual(["a", "b", "c"]);
  expect(check(path, key)).toEqual([]);
});

test("a last commit of which a crash kept the later frames alone, between those of an earlier round, is no damage", () => {
  const volume = Volume.open(path, key);
  const frame = 24 + 16_384;
  // A first round of many commits, copied; then a second one that writes over its head.
  for (let i = 0; i < 20; i++) {
    volume.tree.mkdir(ROOT_INO, Buffer.from(`first${i}`), 0o755, CALLER);
    volume.commit();
  }
  volume.idle(performance.now() + 60_000);
  const earlier = readFileSync(`${path}-wal`);
  volume.tree.mkdir(ROOT_INO, Buffer.from("second"), 0o755, CALLER);
  volume.commit();
  const before = readFileSync(`${path}-wal`);
  volume.files.write(
    volume.tree.mknod(ROOT_INO, Buffer.from("big"), 0o100644, 0, CALLER).ino,
    0,
    Buffer.alloc(300_000, 7),
    false,
  );
  volume.commit();
  const left = [readFileSync(path), readFileSync(`${path}-wal`)] as const;
  volume.close();
  // Of the last commit only its last frame reached the disk.
  const changed: number[] = [];
  for (let at = 32; at + frame <= left[1].length; at += frame) {
    if (!left[1].subarray(at, at + frame).equals(before.subarray(at, at + frame))) changed.push(at);
  }
  const wal = Buffer.from(
    before.length >= left[1].length ? before : Buffer.concat([before, left[1].subarray(before.length)]),
  );
  const last = changed.at(-1) ?? 0;
  left[1].copy(wal, last, last, last + frame);
  expect(changed.length).toBeGreaterThan(3);
  expect(earlier.length).toBeGreaterThan(last);
  writeFileSync(path, left[0]);
  writeFileSync(`${path}-wal`, wal);
  expect(names()).toContain("second");
  expect(names()).not.toContain("big");
  expect(check(path, key)).toEqual([]);
});

test("a -wal without a commit stays as it is when it is checked", () => {
  crash(false);
  truncateSync(`${path}-wal`, 5000);
  const before = readFileSync(`${path}-wal`);
  expect(check(path, key)).toEqual([]);
  expect(readFileSync(`${path}-wal`).equals(before)).toBe(true);
});

test("a -wal that was not copied is refused as damaged when its header is torn: its commits could be saved", () => {
  crash(false);
  overwrite(8, 20);
  expect(() => Volume.open(path, key)).toThrow(/-wal is damaged/);
});
