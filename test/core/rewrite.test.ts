import { execFileSync, spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import {
  chmodSync,
  chownSync,
  closeSync,
  copyFileSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import type { CreateOptions } from "../../src/core/create.ts";
import { draftPath } from "../../src/core/draft.ts";
import { OpenError, type OpenReason } from "../../src/core/errors.ts";
import { type Rewrite, type RewriteResult, rekey, vacuum } from "../../src/core/rewrite.ts";
import { unlock } from "../../src/core/unlock.ts";
import { Volume } from "../../src/core/volume.ts";
import { Database } from "../../src/db/database.ts";
import { KDF_ITERATIONS, rawKeyPassword, STRONG_KDF_ITERATIONS } from "../../src/db/key.ts";
import { check } from "../../src/fsck/check.ts";
import { withChild } from "./child.ts";
import { b, mkdir, noise, put, ROOT } from "./fixture.ts";
import { tablesOf } from "./tables.ts";

const isRoot = process.geteuid?.() === 0;

/** Raw keys: no derivation, so no waiting. */
const OLD = rawKeyPassword(randomBytes(32));
const NEW = rawKeyPassword(randomBytes(32));

let directory: string;
let path: string;
let logged: string[];
const onLog = (line: string): void => void logged.push(line);

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "rewrite-"));
  path = join(directory, "v");
  logged = [];
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

/** A volume with a little of everything; `deleted` bytes of files are gone again. */
function make(options: CreateOptions = {}, password = OLD, deleted = 500_000): Record<string, string> {
  Volume.create(path, password, { rootUid: 1000, rootGid: 1000, ...options });
  const key = unlock(path, password);
  const volume = Volume.open(path, key);
  const sub = mkdir(volume, ROOT, "directory");
  const file = put(volume, sub, "noise", noise(300_000));
  const clone = put(volume, ROOT, "clone", "");
  volume.files.copyFileRange(file, 0, clone, 0, 300_000, false);
  volume.closeEpoch();
  volume.files.write(file, 65_536, noise(1000, 2), false);
  volume.xattrs.set(clone, b("user.color"), b("blue"), 0, false);
  volume.tree.symlink(ROOT, b("link"), b("directory/noise"), { uid: 0, gid: 0, umask: 0 });
  const gone = put(volume, ROOT, "gone", noise(deleted, 3));
  volume.commit();
  volume.tree.unlink(ROOT, b("gone"));
  volume.inodes.ref(gone);
  volume.inodes.unref(gone, 1);
  volume.close();
  const tables = tablesOf(path, key);
  key.wipe();
  return tables;
}

function finish(rewrite: Rewrite): RewriteResult {
  for (;;) {
    const { done, value } = rewrite.next();
    if (done) return value;
  }
}

function refusal(run: () => unknown): OpenError {
  try {
    run();
  } catch (error) {
    if (error instanceof OpenError) return error;
    throw error;
  }
  throw new Error("it was not refused");
}

function opens(file: string, password: Buffer): boolean {
  try {
    unlock(file, password).wipe();
    return true;
  } catch (error) {
    if (error instanceof OpenError && error.reason === "wrong-password") return false;
    throw error;
  }
}

/** The file alone is there, whole, and holds what it held. */
function expectHolds(tables: Record<string, string>, password: Buffer): void {
  expect(readdirSync(directory)).toEqual(["v"]);
  const key = unlock(path, password);
  expect(check(path, key)).toEqual([]);
  expect(tablesOf(path, key)).toEqual(tables);
}

describe("vacuum", () => {
  test("gives back free pages and keeps everything else, the password too", () => {
    const tables = make();
    const before = statSync(path).size;
    const result = finish(vacuum(path, OLD, { onLog }));
    const after = statSync(path).size;
    expect(result).toEqual({ bytesBefore: before, bytesAfter: after });
    expect(before - after).toBeGreaterThan(450_000);
    expect(logged).toEqual([]);
    expectHolds(tables, OLD);
  });

  test("is as compact as SQLite's own VACUUM", () => {
    make({ pageSize: 4096 });
    const key = unlock(path, OLD);
    const volume = Volume.open(path, key);
    for (let i = 0; i < 3000; i++) put(volume, ROOT, `file number ${(i * 7919) % 3000}`, noise(i % 300));
    volume.close();
    const db = new Database(path, key, { mode: "readwrite" });
    db.exec("VACUUM");
    const compact = Number(db.pragma("page_count")) * 4096;
    db.close();
    const { bytesAfter } = finish(vacuum(path, OLD));
    expect(bytesAfter).toBeLessThanOrEqual(compact * 1.01);
  });

  test("purges what a crash left unlinked, and copies what it left in the -wal", () => {
    const tables = make();
    const key = unlock(path, OLD);
    const volume = Volume.open(path, key);
    const orphan = put(volume, ROOT, "orphan", noise(400_000, 9));
    volume.inodes.ref(orphan);
    volume.tree.unlink(ROOT, b("orphan"));
    volume.commit();
    const crashed = join(directory, "crashed");
    mkdirSync(crashed);
    execFileSync("cp", [path, `${path}-wal`, crashed]); // by another process, as this one has it open
    volume.close();
    rmSync(path);
    execFileSync("sh", ["-c", `mv ${crashed}/* ${directory}; rmdir ${crashed}`]);

    const { bytesBefore, bytesAfter } = finish(vacuum(path, OLD));
    expect(bytesBefore - bytesAfter).toBeGreaterThan(800_000);
    const db = new Database(path, key, { mode: "readwrite" });
    // What was given out after the tables were looked at.
    db.exec("UPDATE meta SET value = value WHERE key = 'next_serial'");
    expect(db.pragma("freelist_count")).toBe("0");
    db.close();
    const now = tablesOf(path, key);
    for (const name of ["dirent", "extent", "block", "xattr"])
      expect([name, now[name]]).toEqual([name, tables[name]]);
    expect(check(path, key)).toEqual([]);
  });
});

describe("rekey", () => {
  test("encrypts everything under another key and another salt", () => {
    const tables = make();
    const before = readFileSync(path);
    finish(rekey(path, OLD, NEW, { onLog }));
    const after = readFileSync(path);
    expect(opens(path, OLD)).toBe(false);
    expectHolds(tables, NEW);
    expect(after.subarray(0, 16)).not.toEqual(before.subarray(0, 16));
    const PIECE = 64;
    const pieces = new Set<string>();
    for (let at = 0; at + PIECE <= before.length; at += PIECE)
      pieces.add(before.toString("latin1", at, at + PIECE));
    for (let at = 0; at + PIECE <= after.length; at += PIECE)
      expect(pieces.has(after.toString("latin1", at, at + PIECE))).toBe(false);
  });

  test("under the same password makes another key all the same", () => {
    const tables = make({}, Buffer.from("one"));
    const key = unlock(path, Buffer.from("one"));
    finish(rekey(path, Buffer.from("one"), Buffer.from("one")));
    expectHolds(tables, Buffer.from("one"));
    expect(unlock(path, Buffer.from("one")).bytes.equals(key.bytes)).toBe(false);
  });

  test.each<[CreateOptions, number, string]>([
    [{}, 16_384, "HMAC_SHA256"],
    [{ pageSize: 4096 }, 4096, "HMAC_SHA256"],
    [{ pageSize: 65_536 }, 65_536, "HMAC_SHA256"],
    [{ compat: true }, 4096, "HMAC_SHA512"],
  ])("keeps the cipher settings of %j", (options, pageSize, hmac) => {
    const tables = make(options);
    finish(rekey(path, OLD, NEW));
    expect(unlock(path, NEW).cipher).toEqual({ pageSize, hmac });
    expectHolds(tables, NEW);
  });

  test("keeps the strength of the derivation, or takes the one that is asked for", () => {
    const one = Buffer.from("one");
    const two = Buffer.from("two");
    make();
    finish(rekey(path, OLD, one));
    expect(unlock(path, one).iterations).toBe(KDF_ITERATIONS);
    finish(rekey(path, one, two, { iterations: STRONG_KDF_ITERATIONS }));
    expect(unlock(path, two).iterations).toBe(STRONG_KDF_ITERATIONS);
    finish(rekey(path, two, one));
    expect(unlock(path, one).iterations).toBe(STRONG_KDF_ITERATIONS);
    expect(opens(path, two)).toBe(false);
  });

  test("a wrong password changes nothing", () => {
    make();
    const before = readFileSync(path);
    expect(refusal(() => finish(rekey(path, NEW, OLD))).reason).toBe("wrong-password");
    expect(readFileSync(path).equals(before)).toBe(true);
    expect(readdirSync(directory)).toEqual(["v"]);
  });
});

describe("stopped between two steps", () => {
  test("it leaves the old file as it was and no draft; a copy taken meanwhile is whole", () => {
    const tables = make();
    const before = readFileSync(path);
    let steps = 0;
    for (const _ of rekey(path, OLD, NEW)) steps++;
    execFileSync("sh", ["-c", `rm ${path}*`]);
    writeFileSync(path, before, { mode: 0o600 });
    expect(steps).toBeGreaterThan(5);
    for (let stopAt = 1; stopAt <= steps; stopAt++) {
      const rewrite = rekey(path, OLD, NEW);
      for (let i = 0; i < stopAt; i++) rewrite.next();
      execFileSync("cp", [path, `${path}.copy`]);
      rewrite.return(undefined as never);
      expect(readFileSync(path).equals(before)).toBe(true);
      expect(readFileSync(`${path}.copy`).equals(before)).toBe(true);
      expect(readdirSync(directory).sort()).toEqual(["v", "v.copy"]);
      rmSync(`${path}.copy`);
    }
    expectHolds(tables, OLD);
    finish(rekey(path, OLD, NEW)); // and its lock is free
    expectHolds(tables, NEW);
  });

  test("what a run that was killed left is removed by the next one, which says so", () => {
    const tables = make();
    for (const end of ["", "-wal", "-shm", "-journal"]) writeFileSync(draftPath(path) + end, "left over");
    finish(vacuum(path, OLD, { onLog }));
    expect(logged).toEqual([`${draftPath(path)}: left by a run that was cut off; removed`]);
    expectHolds(tables, OLD);
  });
});

describe("a copy that is not what it must be", () => {
  /** Runs until the copy is made, spoils it, and goes on. */
  function spoiled(spoil: (draft: string) => void): unknown {
    const rewrite = rekey(path, OLD, NEW);
    for (;;) {
      const { value } = rewrite.next();
      if (value !== undefined && "phase" in value && value.phase === "checking") break;
    }
    spoil(draftPath(path));
    try {
      finish(rewrite);
    } catch (error) {
      return error;
    }
    return undefined;
  }

  test.each<[string, (draft: string) => void]>([
    ["a flipped bit", (draft) => overwrite(draft, 5 * 16_384 + 77, Buffer.from([1]))],
    ["its end is missing", (draft) => execFileSync("truncate", ["-s", "-16384", draft])],
    ["half a page too much", (draft) => execFileSync("truncate", ["-s", "+8192", draft])],
    ["another file", (draft) => copyFileSync(path, draft)],
  ])("%s: is found, and the old file stays", (_, spoil) => {
    const tables = make();
    const before = readFileSync(path);
    expect(String(spoiled(spoil))).toMatch(/not what it must be.*nothing was changed|wrong password/);
    expect(readFileSync(path).equals(before)).toBe(true);
    expectHolds(tables, OLD);
  });

  test("a row too few is found", () => {
    const tables = make();
    const error = spoiled((draft) => {
      const db = new Database(draft, unlock(draft, NEW), { mode: "readwrite" });
      db.exec("DELETE FROM xattr; PRAGMA journal_mode = DELETE");
      db.close();
    });
    expect(String(error)).toMatch(/table xattr; nothing was changed/);
    expectHolds(tables, OLD);
  });
});

function overwrite(file: string, at: number, bytes: Buffer): void {
  const fd = openSync(file, "r+");
  writeSync(fd, bytes, 0, bytes.length, at);
  closeSync(fd);
}

describe("refused, with nothing changed", () => {
  function expectRefused(reason: OpenReason, text: RegExp, target = path): void {
    const before = readFileSync(path);
    const names = readdirSync(directory).sort();
    for (const rewrite of [() => rekey(target, OLD, NEW), () => vacuum(target, OLD)]) {
      const error = refusal(() => finish(rewrite()));
      expect(error.reason).toBe(reason);
      expect(error.message).toMatch(text);
      expect(error.message).not.toContain("\n");
    }
    expect(readFileSync(path).equals(before)).toBe(true);
    expect(readdirSync(directory).sort()).toEqual(names);
  }

  test("while another process has it mounted", async () => {
    make();
    const source = `
      import { Volume } from "src/core/volume.ts";
      import { unlock } from "src/core/unlock.ts";
      const password = Buffer.from(${JSON.stringify(OLD.toString())});
      const volume = Volume.open(${JSON.stringify(path)}, unlock(${JSON.stringify(path)}, password));
      console.log("open");
      await new Promise((resolve) => setTimeout(resolve, 60_000));
      volume.close();`;
    await withChild(source, (pid) => {
      for (const rewrite of [() => rekey(path, OLD, NEW), () => vacuum(path, OLD)]) {
        const error = refusal(() => finish(rewrite()));
        expect(error.reason).toBe("locked");
        expect(error.message).toMatch(
          /in use by process \d+; if it is mounted: sqlfuse unmount .*; else try again/,
        );
        expect(error.pid).toBe(pid);
      }
    });
    expect(opens(path, OLD)).toBe(true);
  });

  test("while another process reads it without our lock", async () => {
    make();
    const source = `
      import { Database } from "src/db/database.ts";
      import { unlock } from "src/core/unlock.ts";
      const password = Buffer.from(${JSON.stringify(OLD.toString())});
      const db = new Database(${JSON.stringify(path)}, unlock(${JSON.stringify(path)}, password), { mode: "readonly" });
      db.exec("BEGIN; SELECT * FROM meta");
      console.log("reading");
      await new Promise((resolve) => setTimeout(resolve, 60_000));
      db.close();`;
    await withChild(source, () => {
      const error = refusal(() => finish(rekey(path, OLD, NEW)));
      expect(error.reason).toBe("locked");
      expect(error.message).toMatch(/another process reads it/);
      expect(existsSync(draftPath(path))).toBe(false);
    });
    expect(opens(path, OLD)).toBe(true);
  });

  test("a file with two names, as the other would keep the old one", () => {
    make();
    linkSync(path, join(directory, "other"));
    expectRefused("unreadable", /has 2 names \(hard links\)/);
  });

  test("a read-only file", () => {
    make();
    chmodSync(path, 0o400);
    expectRefused("unreadable", /cannot be replaced, as the file or its directory is read-only/);
  });

  test("no such file, a directory, something else", () => {
    make();
    expectRefused("missing", /no such file/, join(directory, "nothing"));
    expectRefused("not-a-volume", /not a regular file/, directory);
  });

  test("a damaged page, whichever it is, unless nothing is on it", () => {
    const tables = make({ pageSize: 4096 }, OLD, 20_000);
    const whole = readFileSync(path);
    const outcomes = { refused: 0, free: 0 };
    for (let at = 0; at < whole.length; at += 4096) {
      writeFileSync(path, whole);
      overwrite(path, at + 2000, randomBytes(16));
      let error: unknown;
      try {
        finish(rekey(path, OLD, NEW));
      } catch (caught) {
        error = caught;
      }
      if (error === undefined) {
        outcomes.free++;
        expect([at / 4096 + 1, tablesOf(path, unlock(path, NEW))]).toEqual([at / 4096 + 1, tables]);
      } else {
        outcomes.refused++;
        expect([at / 4096 + 1, error]).toEqual([
          at / 4096 + 1,
          expect.objectContaining({ reason: "damaged" }),
        ]);
        expect(opens(path, OLD) || at === 0).toBe(true);
      }
      expect(readdirSync(directory)).toEqual(["v"]);
    }
    expect(outcomes.refused).toBeGreaterThan(100);
    expect(outcomes.free).toBeGreaterThan(0);
  });
});

describe("what belongs to the file stays", () => {
  test("its mode and extended attributes", () => {
    const tables = make();
    chmodSync(path, 0o640);
    execFileSync("setfattr", ["-n", "user.backup", "-v", "no", path]);
    execFileSync("setfacl", ["-m", "u:65534:r", path]);
    const attributes = (): string =>
      execFileSync("getfattr", ["-d", "-m", "-", "--absolute-names", path], { encoding: "utf8" });
    const before = attributes();
    expect(before).toMatch(/posix_acl_access/);
    finish(rekey(path, OLD, NEW));
    expect(attributes()).toBe(before);
    expect(statSync(path).mode & 0o7777).toBe(0o640);
    finish(vacuum(path, NEW));
    expect(attributes()).toBe(before);
    expectHolds(tables, NEW);
  });

  test("a default ACL of its directory does not come in", () => {
    make();
    execFileSync("setfacl", ["-d", "-m", "u:65534:rwx", directory]);
    finish(vacuum(path, OLD));
    expect(execFileSync("getfacl", ["-cp", path], { encoding: "utf8" })).not.toContain("65534");
    expect(statSync(path).mode & 0o7777).toBe(0o600);
  });

  test.skipIf(!isRoot)("its owner", () => {
    const tables = make();
    chownSync(path, 12_345, 54_321);
    finish(rekey(path, OLD, NEW));
    expect(statSync(path)).toMatchObject({ uid: 12_345, gid: 54_321 });
    expectHolds(tables, NEW);
  });

  test("a symlink that leads to it", () => {
    const tables = make();
    mkdirSync(join(directory, "elsewhere"));
    const link = join(directory, "elsewhere", "link");
    symlinkSync("../v", link);
    finish(rekey(link, OLD, NEW));
    expect(lstatSync(link).isSymbolicLink()).toBe(true);
    expect(opens(link, NEW)).toBe(true);
    rmSync(join(directory, "elsewhere"), { recursive: true });
    expectHolds(tables, NEW);
  });

  test("a name with odd characters", () => {
    const tables = make();
    const odd = join(directory, 'it\'s 100% "odd"?#&=ü.sqlite');
    execFileSync("mv", [path, odd]);
    finish(rekey(odd, OLD, NEW));
    expect(opens(odd, NEW)).toBe(true);
    execFileSync("mv", [odd, path]);
    expectHolds(tables, NEW);
  });
});

describe.skipIf(!isRoot)("on a small disk", () => {
  let disk: string;
  let image: string;
  beforeAll(() => {
    image = join(mkdtempSync(join(tmpdir(), "disk-")), "image");
    disk = `${image}.mnt`;
    mkdirSync(disk);
    execFileSync("truncate", ["-s", "24M", image]);
    execFileSync("mkfs.ext4", ["-q", "-m", "0", image]);
    execFileSync("mount", ["-o", "loop", image, disk]);
  });
  afterAll(() => {
    spawnSync("umount", [disk]);
    rmSync(join(image, ".."), { recursive: true, force: true });
  });

  test("a copy that cannot fit is refused beforehand, with how much it needs", () => {
    make({}, OLD, 0);
    const key = unlock(path, OLD);
    const volume = Volume.open(path, key);
    for (let i = 0; i < 12; i++) put(volume, ROOT, `big ${i}`, noise(1_000_000, i));
    volume.close();
    const there = join(disk, "v");
    copyFileSync(path, there);
    const before = readFileSync(there);
    const error = refusal(() => finish(rekey(there, OLD, NEW)));
    expect(error.reason).toBe("no-space");
    expect(error.message).toMatch(
      /its copy needs 1\d\.\d MiB, and \d\.\d MiB are free on the disk; nothing was changed/,
    );
    expect(readFileSync(there).equals(before)).toBe(true);
    expect(readdirSync(disk).sort()).toEqual(["lost+found", "v"]);
    rmSync(there);
  });

  test("a disk that fills up meanwhile: the draft is removed, the old file stays", () => {
    make({}, OLD, 0);
    const key = unlock(path, OLD);
    const volume = Volume.open(path, key);
    for (let i = 0; i < 7; i++) put(volume, ROOT, `big ${i}`, noise(1_000_000, i));
    volume.close();
    const there = join(disk, "v");
    copyFileSync(path, there);
    const before = readFileSync(there);
    const rewrite = rekey(there, OLD, NEW);
    while (!existsSync(draftPath(there))) rewrite.next();
    spawnSync("dd", ["if=/dev/zero", `of=${join(disk, "filler")}`, "bs=64k"]);
    const error = refusal(() => finish(rewrite));
    expect(error.reason).toBe("no-space");
    expect(error.message).toMatch(/no space left on its disk for the copy; nothing was changed/);
    rmSync(join(disk, "filler"));
    expect(readdirSync(disk).sort()).toEqual(["lost+found", "v"]);
    expect(readFileSync(there).equals(before)).toBe(true);
    finish(rekey(there, OLD, NEW));
    expect(check(there, unlock(there, NEW))).toEqual([]);
    rmSync(there);
  });
});
