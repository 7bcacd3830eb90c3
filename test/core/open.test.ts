/** Files that are no volumes, wrong passwords, damage at the front, locks, read-only places; and create. */
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { OpenError } from "../../src/core/errors.ts";
import { FileLock } from "../../src/core/lock.ts";
import { unlock } from "../../src/core/unlock.ts";
import { Volume } from "../../src/core/volume.ts";
import { Database } from "../../src/db/database.ts";
import { type CipherSettings, Key } from "../../src/db/key.ts";
import { check } from "../../src/fsck/check.ts";
import { withChild } from "./child.ts";
import {
  b,
  expectErrno,
  Fixture,
  find,
  GID,
  inVolume,
  noise,
  PASSWORD,
  put,
  ROOT,
  touch,
  UID,
} from "./fixture.ts";

let directory: string;

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "core-open-"));
});

afterAll(() => {
  rmSync(directory, { recursive: true, force: true });
});

/** The error that opening ends in. */
function refused(run: () => unknown): OpenError {
  try {
    run();
  } catch (error) {
    if (error instanceof OpenError) return error;
    throw error;
  }
  throw new Error("it was not refused");
}

/** Demands that unlock (or open) refuses `path` for this reason, in one line that names it, and leaves it alone. */
function expectRefused(
  path: string,
  reason: string,
  says: RegExp,
  run = () => unlock(path, PASSWORD) as unknown,
): void {
  const before = fingerprint(path);
  const error = refused(run);
  expect(error.reason).toBe(reason);
  expect(error.path).toBe(path);
  expect(error.message).toMatch(says);
  expect(error.message.startsWith(`${path}: `)).toBe(true);
  expect(error.message).not.toContain("\n");
  expect(fingerprint(path)).toEqual(before);
}

/** Bytes, size and mode of a file and what stands beside it. */
function fingerprint(path: string): unknown {
  return ["", "-wal", "-shm", "-journal"].map((end) => {
    const stat = statSync(path + end, { throwIfNoEntry: false });
    if (stat === undefined || !stat.isFile()) return stat?.mode;
    return [
      stat.size,
      stat.mode,
      stat.mtimeMs,
      createHash("sha256")
        .update(readFileSync(path + end))
        .digest("hex"),
    ];
  });
}

function file(name: string, content: Uint8Array): string {
  const path = join(directory, name);
  writeFileSync(path, content);
  return path;
}

/** A copy of a fresh volume whose bytes a test changes. */
function altered(name: string, change: (bytes: Buffer) => Buffer | undefined): string {
  const fixture = new Fixture();
  put(fixture.volume, ROOT, "a", noise(300_000));
  fixture.close();
  const bytes = readFileSync(fixture.path);
  fixture.remove();
  return file(name, change(bytes) ?? bytes);
}

describe("unlock", () => {
  it("finds the cipher settings of a volume and the key that opens it", () => {
    const fixture = new Fixture();
    const key = unlock(fixture.path, PASSWORD);
    expect(key.cipher).toEqual({ pageSize: 16_384, hmac: "HMAC_SHA256" });
    expect(key.bytes.equals(fixture.key.bytes)).toBe(true);
    Volume.open(fixture.path, key).close();
    fixture.remove();
  });

  it("refuses a wrong password, and leaves the file as it was to the byte", () => {
    const path = altered("wrong", () => {});
    for (const password of ["", `${PASSWORD} `])
      expectRefused(path, "wrong-password", /wrong password/, () => unlock(path, Buffer.from(password)));
  });

  it("refuses what is not there, and tells how a volume is made", () => {
    expectRefused(join(directory, "absent"), "missing", /no such file.*sqlfuse create/);
  });

  it("refuses a directory, an empty file, a short one and one of no whole pages as no volume", () => {
    mkdirSync(join(directory, "sub"));
    expectRefused(join(directory, "sub"), "not-a-volume", /not a regular file/);
    expectRefused(file("empty", Buffer.alloc(0)), "not-a-volume", /0 bytes/);
    expectRefused(file("short", noise(511)), "not-a-volume", /511 bytes/);
    expectRefused(file("odd", noise(100_001)), "not-a-volume", /100001 bytes/);
  });

  it("refuses random bytes of whole pages with a message that leaves both open", () => {
    expectRefused(
      file("random", noise(65_536)),
      "wrong-password",
      /wrong password \(or not a sqlfuse volume/,
    );
  });

  it("refuses a plain SQLite database as such", () => {
    const plain = Buffer.alloc(8192);
    plain.write("SQLite format 3\0", "latin1");
    expectRefused(file("plain", plain), "not-a-volume", /plain SQLite database/);
  });

  it("says that nobody can tell where the salt is damaged", () => {
    const path = altered("salt", (bytes) => {
      bytes[3] = (bytes[3] ?? 0) ^ 1;
    });
    expectRefused(path, "wrong-password", /first 16 bytes are damaged/);
  });

  it("refuses what cannot be read", () => {
    const path = altered("unreadable", () => {});
    chmodSync(path, 0);
    if (process.getuid?.() === 0) return; // root reads everything
    expectRefused(path, "unreadable", /cannot be read/);
  });
});

describe("a damaged front", () => {
  it.each([
    ["right behind the salt", 16],
    ["in the header", 60],
    ["in the middle of the first page", 8000],
    ["in its reserve", 16_380],
  ])("is told from a wrong password: %s", (_, at) => {
    const path = altered(`front${at}`, (bytes) => {
      bytes[at] = (bytes[at] ?? 0) ^ 1;
    });
    const key = unlock(path, PASSWORD);
    expectRefused(path, "damaged", /the password is right.*keep a copy/, () => Volume.open(path, key));
    if (at === 16) expectRefused(path, "wrong-password", /wrong password/, () => unlock(path, b("wrong")));
  });

  it("that is all zeros but for the salt is damage too", () => {
    const path = altered("zeroed", (bytes) => {
      bytes.fill(0, 16, 16_384);
    });
    const key = unlock(path, PASSWORD);
    expectRefused(path, "damaged", /the password is right/, () => Volume.open(path, key));
  });

  it("that belongs to another volume of the same password is no password of this one", () => {
    const other = altered("other", () => {});
    const path = join(directory, "swapped");
    Volume.create(path, PASSWORD);
    const bytes = readFileSync(path);
    readFileSync(other).copy(bytes, 16, 16, 16_384);
    writeFileSync(path, bytes);
    const key = unlock(path, PASSWORD);
    expectRefused(path, "damaged", /the password is right/, () => Volume.open(path, key));
  });

  it("of a file that was cut short does not crash: it opens, or is told as damage", () => {
    const path = altered("cut", (bytes) => bytes.subarray(0, 5 * 16_384));
    const key = unlock(path, PASSWORD);
    try {
      Volume.open(path, key).close();
    } catch (error) {
      expect(error).toHaveProperty("reason", "damaged");
    }
  });
});

describe("open refuses", () => {
  const KEY = Buffer.alloc(32, 7);
  const SALT = Buffer.alloc(16, 9);

  /** A SQLCipher database that is no volume, in rollback mode as other programs make it. */
  function foreign(
    name: string,
    sql: string,
    cipher: CipherSettings = { pageSize: 4096, hmac: "HMAC_SHA512" },
  ): [string, Key] {
    const path = join(directory, name);
    const key = new Key(Buffer.from(KEY), Buffer.from(SALT), cipher);
    const db = new Database(path, key, { mode: "create" });
    db.exec(sql);
    db.close();
    return [path, key];
  }

  it("a SQLCipher database that is no volume, and leaves it as it was", () => {
    const [path, key] = foreign("foreign", "CREATE TABLE t (a); INSERT INTO t VALUES (1)");
    expectRefused(path, "not-a-volume", /SQLCipher database, but not a sqlfuse volume/, () =>
      Volume.open(path, key),
    );
  });

  it("one with a meta table of its own, and leaves it as it was", () => {
    const [path, key] = foreign("foreign2", "CREATE TABLE meta (key TEXT, value TEXT)");
    expectRefused(path, "not-a-volume", /not a sqlfuse volume/, () => Volume.open(path, key));
  });

  it("a newer format and a feature that it does not know, and leaves both as they were", () => {
    for (const [name, sql, says] of [
      ["newer", "UPDATE meta SET value = '2.0.0' WHERE key = 'format'", /format is 2\.0\.0.*newer sqlfuse/],
      [
        "feature",
        `UPDATE meta SET value = '["teleport"]' WHERE key = 'features_incompatible'`,
        /teleport.*newer sqlfuse/,
      ],
    ] as const) {
      const fixture = new Fixture();
      fixture.sql((db) => db.exec(sql));
      const path = join(directory, name);
      copyFileSync(fixture.path, path);
      expectRefused(path, "too-new", says, () => Volume.open(path, fixture.key));
      fixture.remove();
    }
  });

  it("a volume that lacks one of its constants, as damaged", () => {
    for (const key of ["block_size", "epoch", "next_serial", "next_block", "volume_id"]) {
      const fixture = new Fixture();
      fixture.sql((db) => db.exec(`DELETE FROM meta WHERE key = '${key}'`));
      expectRefused(fixture.path, "damaged", new RegExp(key), () => Volume.open(fixture.path, fixture.key));
      fixture.remove();
    }
  });

  it("a volume with a constant that cannot be, as damaged", () => {
    for (const [key, value] of [
      ["block_size", "12345"],
      ["epoch", "0"],
      ["next_serial", "'many'"],
      ["next_block", "-1"],
      ["features_incompatible", "'[oops'"],
    ]) {
      const fixture = new Fixture();
      fixture.sql((db) => db.exec(`UPDATE meta SET value = ${value} WHERE key = '${key}'`));
      expectRefused(fixture.path, "damaged", new RegExp(`${key}`), () =>
        Volume.open(fixture.path, fixture.key),
      );
      fixture.remove();
    }
  });

  it("not a newer minor format, nor a feature that may be ignored", () => {
    const fixture = new Fixture();
    fixture.sql((db) => {
      db.exec("UPDATE meta SET value = '1.7.3' WHERE key = 'format'");
      db.exec(`UPDATE meta SET value = '["sparkles"]' WHERE key = 'features'`);
    });
    touch(fixture.volume, ROOT, "a");
    fixture.finish();
    fixture.remove();
  });

  it("what is not there", () => {
    const key = new Key(KEY, SALT, { pageSize: 4096, hmac: "HMAC_SHA512" });
    const path = join(directory, "absent");
    expectRefused(path, "missing", /no such file/, () => Volume.open(path, key));
    expect(existsSync(path)).toBe(false);
  });

  it("a key that does not fit as damage, and leaves the file as it was", () => {
    const path = altered("misfit", () => {});
    const key = new Key(KEY, SALT, { pageSize: 16_384, hmac: "HMAC_SHA256" });
    expectRefused(path, "damaged", /damaged/, () => Volume.open(path, key));
  });

  it("a second time in the same process, with its pid; and not after close", () =>
    inVolume((fixture) => {
      const error = refused(() => Volume.open(fixture.path, fixture.key));
      expect([error.reason, error.pid]).toEqual(["locked", process.pid]);
      expect(error.message).toContain(`process ${process.pid}`);
      expect(refused(() => check(fixture.path, fixture.key)).reason).toBe("locked");
      touch(fixture.volume, ROOT, "a"); // the first one goes on
      fixture.remount();
    }));

  it("a second time through a symlink", () =>
    inVolume((fixture) => {
      const link = `${fixture.path}.link`;
      symlinkSync(fixture.path, link);
      expect(refused(() => Volume.open(link, fixture.key)).reason).toBe("locked");
    }));

  it("while another process holds it, with that one's pid, and not when it is killed", async () => {
    const fixture = new Fixture();
    await withChild(
      `
        import { Volume } from "src/core/volume.ts";
        import { unlock } from "src/core/unlock.ts";
        const path = ${JSON.stringify(fixture.path)};
        const volume = Volume.open(path, unlock(path, Buffer.from(${JSON.stringify(PASSWORD.toString())})));
        console.log(volume.volumeId);
        setInterval(() => {}, 1000);
        await new Promise(() => {});
      `,
      (pid) => {
        for (const readOnly of [false, true]) {
          const error = refused(() => Volume.open(fixture.path, fixture.key, { readOnly }));
          expect([error.reason, error.pid]).toEqual(["locked", pid]);
          expect(error.message).toContain(`process ${pid}`);
          expect(error.message).toContain("sqlfuse unmount");
        }
      },
    );
    touch(fixture.volume, ROOT, "a");
    fixture.finish();
    fixture.remove();
  });
});

describe("a file that may not be written", () => {
  /** Runs a test with the file, its directory or its whole disk read-only. */
  function readOnlyPlace(what: "file" | "directory" | "disk", run: (fixture: Fixture) => void): void {
    const fixture = new Fixture();
    put(fixture.volume, ROOT, "a", "content");
    fixture.close();
    const undo = {
      file: () => chmodSync(fixture.path, 0o600),
      directory: () => chmodSync(fixture.directory, 0o700),
      disk: () => expect(spawnSync("umount", [fixture.directory]).status).toBe(0),
    }[what];
    if (what === "file") chmodSync(fixture.path, 0o400);
    else if (what === "directory") chmodSync(fixture.directory, 0o500);
    else mountReadOnly(fixture.directory);
    try {
      run(fixture);
      fixture.close();
    } finally {
      undo();
      fixture.remove();
    }
  }

  function mountReadOnly(place: string): void {
    expect(spawnSync("mount", ["--bind", place, place]).status).toBe(0);
    expect(spawnSync("mount", ["-o", "remount,ro,bind", place]).status).toBe(0);
  }

  const isRoot = process.getuid?.() === 0;
  // Directory modes do not hold root back, and only root mounts.
  const PLACES = ["file", isRoot ? "disk" : "directory"] as const;

  it.each(PLACES)("or whose %s may not, is opened read-only, and says so", (what) => {
    readOnlyPlace(what, (fixture) => {
      const before = readdirSync(fixture.directory);
      const { volume } = fixture;
      expect(volume.readOnly).toBe(true);
      expect(find(volume, "a")?.size).toBe(7);
      expectErrno("EROFS", () => touch(volume, ROOT, "b"));
      volume.commit();
      expect(volume.idle(1e9)).toBe(Number.POSITIVE_INFINITY);
      fixture.close();
      expect(readdirSync(fixture.directory)).toEqual(before);
    });
  });

  it("and whose last changes are in a -wal is refused, with what to do; a copy elsewhere opens whole", () => {
    const fixture = new Fixture();
    put(fixture.volume, ROOT, "a", "content");
    fixture.volume.commit();
    const crashed = fixture.crashCopy();
    fixture.close();
    expect(existsSync(`${crashed.path}-wal`)).toBe(true);
    chmodSync(crashed.path, 0o400);
    chmodSync(crashed.directory, 0o500);
    try {
      const error = refused(() => crashed.open());
      expect(error.reason).toBe("unreplayable-wal");
      expect(error.message).toMatch(/-wal.*copy both files/);
      expect(error.message).not.toContain("\n");
    } finally {
      chmodSync(crashed.directory, 0o700);
    }
    chmodSync(crashed.path, 0o600);
    expect(find(crashed.volume, "a")?.size).toBe(7);
    crashed.finish();
    crashed.remove();
    fixture.remove();
  });

  it("is read together with its -wal where that can be done, and stays as it was", () => {
    const fixture = new Fixture();
    put(fixture.volume, ROOT, "a", "content");
    fixture.volume.commit();
    const crashed = fixture.crashCopy();
    fixture.close();
    const before = [readFileSync(crashed.path), readFileSync(`${crashed.path}-wal`)];
    const volume = crashed.open({ readOnly: true });
    expect(find(volume, "a")?.size).toBe(7);
    crashed.close();
    expect(readFileSync(crashed.path).equals(before[0] ?? b(""))).toBe(true);
    expect(readFileSync(`${crashed.path}-wal`).equals(before[1] ?? b(""))).toBe(true);
    crashed.remove();
    fixture.remove();
  });

  it("may be opened read-only by two at a time, and then by none for writing", () => {
    const fixture = new Fixture();
    const held = spawnSync("flock", ["-s", fixture.path, "true"]);
    expect(held.status).toBe(0);
    fixture.open({ readOnly: true });
    // Another process can share the lock, and cannot have it alone.
    expect(spawnSync("flock", ["-s", "-n", fixture.path, "true"]).status).toBe(0);
    expect(spawnSync("flock", ["-x", "-n", fixture.path, "true"]).status).toBe(1);
    fixture.finish();
    fixture.remove();
  });
});

describe("paths", () => {
  it.each([
    "with space",
    "percent%20sign",
    "question?mark",
    "hash#tag",
    "quote'\"s",
    "ümläut 日本",
    "file:uri",
    "new\nline",
  ])("like %j are taken as they are", (name) => {
    const fixture = new Fixture();
    const path = join(fixture.directory, name);
    renameSync(fixture.path, path);
    const volume = Volume.open(path, fixture.key);
    touch(volume, ROOT, "a");
    volume.files.read(touch(volume, ROOT, "b"), 0, 1, Buffer.alloc(1));
    volume.close();
    expect(readdirSync(fixture.directory)).toEqual([name]);
    expect(check(path, fixture.key)).toEqual([]);
    fixture.remove();
  });
});

describe("create", () => {
  it("removes what was left of a volume of that name by somebody who was killed, and nothing else", () => {
    const place = mkdtempSync(join(directory, "left-"));
    const path = join(place, "new");
    const left = [".new-00112233", ".new-00112233-wal", ".new-00112233-shm"];
    const kept = [".new-44556677", ".new-8899aabb", ".new-0011223", ".new-001122334", ".new-0011223x"];
    const old = new Date(Date.now() - 10_000);
    for (const end of [...left, ...kept, ".new-ccddeeff"]) {
      writeFileSync(path + end, "half");
      utimesSync(path + end, old, old);
    }
    const lock = new FileLock(`${path}.new-44556677`, false);
    utimesSync(`${path}.new-8899aabb`, new Date(), new Date());
    rmSync(`${path}.new-ccddeeff`);
    mkdirSync(`${path}.new-ccddeeff`);
    Volume.create(path, PASSWORD);
    lock.release();
    const ends = ["", ...kept, ".new-ccddeeff"];
    expect(readdirSync(place).sort()).toEqual(ends.map((end) => `new${end}`).sort());
  });

  it("makes one file of mode 0600, with a root directory of the creator", () => {
    const path = join(directory, "new");
    const mask = process.umask(0);
    try {
      Volume.create(path, PASSWORD);
    } finally {
      process.umask(mask);
    }
    expect(statSync(path).mode & 0o777).toBe(0o600);
    expect(readdirSync(directory).filter((name) => name.startsWith("new"))).toContain("new");
    for (const end of ["-wal", "-shm", "-journal"]) expect(existsSync(path + end)).toBe(false);
    const key = unlock(path, PASSWORD);
    const volume = Volume.open(path, key);
    const [uid, gid] = [process.getuid?.(), process.getgid?.()];
    expect(volume.attributes.getattr(ROOT)).toMatchObject({ mode: 0o040700, uid, gid, nlink: 2 });
    volume.close();
    expect(check(path, key)).toEqual([]);
  });

  it("takes the root's mode and owner, the block size and the page size", () => {
    const path = join(directory, "chosen");
    Volume.create(path, PASSWORD, {
      rootMode: 0o1777,
      rootUid: UID,
      rootGid: GID,
      blockSize: 8192,
      pageSize: 32_768,
    });
    const key = unlock(path, PASSWORD);
    expect(key.cipher).toEqual({ pageSize: 32_768, hmac: "HMAC_SHA256" });
    const volume = Volume.open(path, key);
    expect(volume.attributes.getattr(ROOT)).toMatchObject({ mode: 0o041777, uid: UID, gid: GID });
    expect(volume.attributes.getattr(touch(volume, ROOT, "a")).blockSize).toBe(8192);
    volume.close();
    expect(check(path, key)).toEqual([]);
  });

  it("refuses what exists, and leaves it as it was", () => {
    const path = file("exists", b("precious"));
    expectRefused(path, "exists", /exists already/, () => Volume.create(path, PASSWORD));
  });

  it("refuses a directory that is not there, and makes nothing", () => {
    const path = join(directory, "no", "such");
    expectRefused(path, "missing", /directory does not exist/, () => Volume.create(path, PASSWORD));
  });

  it("refuses sizes that no volume can have, and makes nothing", () => {
    const path = join(directory, "sizes");
    for (const options of [
      { blockSize: 0 },
      { blockSize: 5000 },
      { blockSize: 384 },
      { blockSize: 2 ** 21 },
      { pageSize: 2048 },
      { pageSize: 131_072 },
      { pageSize: 10_000 },
      { compat: true, pageSize: 16_384 },
    ])
      expect(() => Volume.create(path, PASSWORD, options)).toThrow(RangeError);
    expect(existsSync(path)).toBe(false);
  });

  it("makes volumes that share nothing: other salt, other id", () => {
    const made = ["one", "two"].map((name) => {
      const path = join(directory, name);
      Volume.create(path, PASSWORD);
      const volume = Volume.open(path, unlock(path, PASSWORD));
      volume.close();
      return [readFileSync(path).subarray(0, 16).toString("hex"), volume.volumeId];
    });
    expect(made[0]?.[0]).not.toBe(made[1]?.[0]);
    expect(made[0]?.[1]).not.toBe(made[1]?.[1]);
  });

  it("leaves nothing behind when the disk is full", () => {
    if (process.getuid?.() !== 0) return; // only root mounts
    const small = join(directory, "small");
    mkdirSync(small);
    expect(spawnSync("mount", ["-t", "tmpfs", "-o", "size=128k", "tmpfs", small]).status).toBe(0);
    try {
      const path = join(small, "volume");
      const error = refused(() => Volume.create(path, PASSWORD));
      expect(error.reason).toBe("no-space");
      expect(error.message).toContain(path);
      expect(readdirSync(small)).toEqual([]);
    } finally {
      expect(spawnSync("umount", [small]).status).toBe(0);
    }
  });

  it("writes no name, content or schema in the clear", () => {
    const fixture = new Fixture();
    const file = put(fixture.volume, ROOT, "a secret name", b("secret content ".repeat(1000)));
    fixture.volume.xattrs.set(file, b("user.secret"), b("secret value"), 0, false);
    fixture.volume.commit();
    const wal = spawnSync("cat", [`${fixture.path}-wal`], { maxBuffer: 1e9 }).stdout as Buffer;
    fixture.close();
    const bytes = Buffer.concat([wal, readFileSync(fixture.path)]);
    expect(wal.length).toBeGreaterThan(16_384);
    for (const text of ["secret", "CREATE TABLE", "SQLite format", "dirent", "SQLF"])
      expect(bytes.includes(text), text).toBe(false);
    fixture.remove();
  });
});
