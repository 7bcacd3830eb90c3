/** The invariants, each broken by SQL: check finds exactly that one. */
import { closeSync, openSync, readSync, statSync, writeSync } from "node:fs";
import { describe, expect, it } from "vitest";
import type { Ino } from "../../src/core/types.ts";
import type { Database } from "../../src/db/database.ts";
import { check, type Finding } from "../../src/fsck/check.ts";
import { b, CALLER, Fixture, mkdir, noise, put, ROOT, S_IFIFO, touch } from "../core/fixture.ts";

const BLOCK = 4096;
/** Below the first number that is given out: never in use. */
const UNUSED = 15;

interface Inodes {
  readonly d: Ino;
  /** In d. */
  readonly e: Ino;
  /** Two names, three blocks shared with `copy`, an attribute. */
  readonly a: Ino;
  readonly copy: Ino;
  /** One block of its own. */
  readonly plain: Ino;
  readonly empty: Ino;
  readonly fifo: Ino;
  readonly symlink: Ino;
}

/** A volume with something of everything, a past included; closed. */
function fill(fixture: Fixture): Inodes {
  const { volume } = fixture;
  const d = mkdir(volume, ROOT, "d");
  const e = mkdir(volume, d, "e");
  const a = put(volume, ROOT, "a", noise(2 * BLOCK + 100));
  volume.tree.link(a, d, b("l"));
  volume.xattrs.set(a, b("user.x"), b("y"), 0, false);
  const copy = touch(volume, ROOT, "copy");
  volume.files.copyFileRange(a, 0, copy, 0, 3 * BLOCK, false);
  const plain = put(volume, ROOT, "plain", noise(100, 2));
  const empty = touch(volume, ROOT, "empty");
  const fifo = volume.tree.mknod(ROOT, b("fifo"), S_IFIFO | 0o600, 0, CALLER).ino;
  const symlink = volume.tree.symlink(ROOT, b("s"), b("target"), CALLER).ino;
  volume.closeEpoch();
  volume.files.write(plain, 0, noise(50, 3), false);
  volume.xattrs.set(a, b("user.x"), b("z"), 0, false);
  volume.tree.rename(ROOT, b("empty"), ROOT, b("emptied"), 0);
  fixture.close();
  return { d, e, a, copy, plain, empty, fifo, symlink };
}

/** What check finds after `sql` was run on such a volume. */
function found(
  sql: (inodes: Inodes) => string | readonly string[],
  alsoRun?: (db: Database) => void,
): Finding[] {
  const fixture = new Fixture({ blockSize: BLOCK });
  try {
    const inodes = fill(fixture);
    expect(check(fixture.path, fixture.key)).toEqual([]);
    const statements = [sql(inodes)].flat();
    fixture.sql((db) => {
      for (const statement of statements) db.exec(statement);
      alsoRun?.(db);
    });
    return check(fixture.path, fixture.key);
  } finally {
    fixture.remove();
  }
}

const BLOCK_OF = (ino: Ino) => `(SELECT block FROM extent WHERE ino = ${ino} AND idx = 0)`;
const INODE = (ino: string, mode: number, nlink: number) => `INSERT INTO inode VALUES
  (${ino}, ${mode}, ${nlink}, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, NULL, NULL, NULL)`;

type Sabotage = readonly [kind: string, what: string, sql: (inodes: Inodes) => string | readonly string[]];

const SABOTAGE: readonly Sabotage[] = [
  ["root-missing", "a root whose parent is another", () => "UPDATE inode SET parent = 3 WHERE ino = 1"],
  [
    "entry-dangling",
    "an entry whose inode is not there",
    () => `INSERT INTO dirent VALUES (1, x'7a', 14, ${UNUSED}, 32768, 1)`,
  ],
  [
    "entry-parent",
    "an entry in a file",
    ({ a }) => `UPDATE dirent SET parent = ${a} WHERE name = CAST('fifo' AS BLOB)`,
  ],
  [
    "entry-type",
    "an entry of another type than its inode",
    ({ plain }) => `UPDATE dirent SET type = 4096 WHERE ino = ${plain}`,
  ],
  ["entry-name", "a name that is dots", ({ fifo }) => `UPDATE dirent SET name = x'2e2e' WHERE ino = ${fifo}`],
  [
    "entry-name",
    "a name with a slash",
    ({ fifo }) => `UPDATE dirent SET name = x'612f62' WHERE ino = ${fifo}`,
  ],
  ["entry-name", "a name with a NUL", ({ fifo }) => `UPDATE dirent SET name = x'610062' WHERE ino = ${fifo}`],
  ["entry-name", "a name without bytes", ({ fifo }) => `UPDATE dirent SET name = x'' WHERE ino = ${fifo}`],
  ["entry-cookie", "a cookie that means dots", ({ fifo }) => `UPDATE dirent SET id = 2 WHERE ino = ${fifo}`],
  [
    "entry-cookie",
    "a cookie never given out",
    ({ fifo }) => `UPDATE dirent SET id = 99999 WHERE ino = ${fifo}`,
  ],
  ["link-count", "a link count too high", ({ a }) => `UPDATE inode SET nlink = 3 WHERE ino = ${a}`],
  ["link-count", "a link count too low", ({ a }) => `UPDATE inode SET nlink = 1 WHERE ino = ${a}`],
  [
    "directory-link-count",
    "a directory's link count",
    ({ d }) => `UPDATE inode SET nlink = 2 WHERE ino = ${d}`,
  ],
  [
    "directory-parent",
    "a directory whose parent is not where its name is",
    ({ e }) => `UPDATE inode SET parent = 1 WHERE ino = ${e}`,
  ],
  [
    "directory-unreachable",
    "two directories within each other",
    ({ d, e }) => [
      `UPDATE dirent SET parent = ${e} WHERE ino = ${d}`,
      `UPDATE inode SET parent = ${e} WHERE ino = ${d}`,
      `UPDATE inode SET nlink = nlink + 1 WHERE ino = ${e}`,
      "UPDATE inode SET nlink = nlink - 1 WHERE ino = 1",
    ],
  ],
  [
    "inode-type",
    "a type that does not exist",
    ({ fifo }) => [
      `UPDATE inode SET mode = ${0o030644} WHERE ino = ${fifo}`,
      `UPDATE dirent SET type = ${0o030000} WHERE ino = ${fifo}`,
    ],
  ],
  ["inode-number", "an inode with a number never given out", () => INODE("99999", 0o010600, 0)],
  ["inode-born", "an inode from the future", ({ fifo }) => `UPDATE inode SET born = 99 WHERE ino = ${fifo}`],
  [
    "symlink-target",
    "a symlink without a target",
    ({ symlink }) => `UPDATE inode SET target = NULL WHERE ino = ${symlink}`,
  ],
  [
    "symlink-target",
    "a target of another length than it says",
    ({ symlink }) => `UPDATE inode SET size = 3 WHERE ino = ${symlink}`,
  ],
  [
    "symlink-target",
    "a file with a target",
    ({ empty }) => `UPDATE inode SET target = x'61' WHERE ino = ${empty}`,
  ],
  [
    "block-size",
    "a block size that is no power of two",
    ({ empty }) => `UPDATE inode SET block_size = 5000 WHERE ino = ${empty}`,
  ],
  [
    "block-size",
    "a fifo with a block size",
    ({ fifo }) => `UPDATE inode SET block_size = 4096 WHERE ino = ${fifo}`,
  ],
  ["size", "a fifo with a size", ({ fifo }) => `UPDATE inode SET size = 5 WHERE ino = ${fifo}`],
  ["size", "a negative size", ({ empty }) => `UPDATE inode SET size = -1 WHERE ino = ${empty}`],
  ["extent-count", "a count of extents", ({ a }) => `UPDATE inode SET extents = 7 WHERE ino = ${a}`],
  [
    "extent-owner",
    "an extent of a fifo",
    ({ fifo }) => [
      `INSERT INTO extent VALUES (${fifo}, 0, 0, 0, 1)`,
      `UPDATE inode SET extents = 1 WHERE ino = ${fifo}`,
    ],
  ],
  ["extent-owner", "an extent of nobody", () => `INSERT INTO extent VALUES (${UNUSED}, 0, 0, 0, 1)`],
  [
    "extent-born",
    "an extent from the future",
    ({ a }) => `UPDATE extent SET born = 99 WHERE ino = ${a} AND idx = 1`,
  ],
  [
    "block-missing",
    "a block that is not there",
    ({ plain }) => `DELETE FROM block WHERE id = ${BLOCK_OF(plain)}`,
  ],
  [
    "block-missing",
    "a block of the past that is not there",
    () => "DELETE FROM block WHERE id = (SELECT block FROM extent_past)",
  ],
  [
    "block-length",
    "a block that reaches past the end of its file",
    ({ plain }) => `UPDATE block SET data = zeroblob(101) WHERE id = ${BLOCK_OF(plain)}`,
  ],
  [
    "block-codec",
    "a codec that is not known",
    ({ plain }) => `UPDATE block SET codec = 1 WHERE id = ${BLOCK_OF(plain)}`,
  ],
  [
    "block-unowned",
    "a block that nobody names",
    () => [
      "INSERT INTO block VALUES (99999, 0, NULL, x'00')",
      "UPDATE meta SET value = 100000 WHERE key = 'next_block'",
    ],
  ],
  [
    "block-shared",
    "a shared block of which one side does not know",
    ({ copy }) => `UPDATE extent SET shared = 0 WHERE ino = ${copy}`,
  ],
  [
    "xattr-owner",
    "an attribute of nobody",
    () => `INSERT INTO xattr VALUES (${UNUSED}, x'757365722e78', x'', 1)`,
  ],
  ["xattr-limits", "a value that is too long", () => "UPDATE xattr SET value = zeroblob(65537)"],
  ["past-epochs", "a past that ends before it began", () => "UPDATE inode_past SET died = born"],
  ["past-epochs", "a past that ends in the future", () => "UPDATE dirent_past SET died = 99"],
];

describe("check finds", () => {
  it.each(SABOTAGE)("%s: %s", (kind, _, sql) => {
    const findings = found(sql);
    expect(findings.length).toBeGreaterThan(0);
    expect([...new Set(findings.map((finding) => finding.kind))]).toEqual([kind]);
    for (const { text } of findings) expect(text.length).toBeGreaterThan(5);
  });

  /** What schema.sql promises besides; the names of the findings are free. */
  const PROMISES: readonly (readonly [string, (inodes: Inodes) => string | readonly string[]])[] = [
    ["an entry from the future", ({ fifo }) => `UPDATE dirent SET born = 99 WHERE ino = ${fifo}`],
    ["an attribute from the future", () => "UPDATE xattr SET born = 99"],
    [
      "a cookie that two entries of the volume have",
      ({ e, fifo }) => `UPDATE dirent SET id = (SELECT id FROM dirent WHERE ino = ${e}) WHERE ino = ${fifo}`,
    ],
    ["a file with a parent", ({ empty }) => `UPDATE inode SET parent = 1 WHERE ino = ${empty}`],
    ["a file with a device number", ({ empty }) => `UPDATE inode SET rdev = 5 WHERE ino = ${empty}`],
    ["a size past 2^53 - 1", ({ empty }) => `UPDATE inode SET size = 9007199254740992 WHERE ino = ${empty}`],
    [
      "an inode whose past and present overlap",
      () => "UPDATE inode_past SET died = 2, born = 1; UPDATE inode SET born = 1",
    ],
    [
      "an extent of the past that overlaps the present",
      ({ plain }) => `UPDATE extent SET born = 1 WHERE ino = ${plain}`,
    ],
    [
      "an ACL that is none",
      ({ a }) => `INSERT INTO xattr VALUES (${a}, CAST('system.posix_acl_access' AS BLOB), x'0200', 1)`,
    ],
    ["a constant of the volume that is missing", () => "DELETE FROM meta WHERE key = 'block_size'"],
    ["a counter of the volume that is missing", () => "DELETE FROM meta WHERE key = 'next_block'"],
    [
      "a counter that would give a block's number again",
      () => "UPDATE meta SET value = 1 WHERE key = 'next_block'",
    ],
    [
      "a counter that would give an inode's number again",
      () => "UPDATE meta SET value = 16 WHERE key = 'next_serial'",
    ],
  ];
  it.each(PROMISES)("%s", (_, sql) => {
    expect(found(sql)).not.toEqual([]);
  });

  it("the path of what it found, where one leads there", () => {
    const [finding] = found(({ e }) => `UPDATE inode SET nlink = 7 WHERE ino = ${e}`);
    expect(finding).toMatchObject({ kind: "directory-link-count", path: "/d/e" });
  });

  it("an index that does not agree with its table (sqlite)", () => {
    const findings = found(() => [
      "PRAGMA writable_schema = ON",
      "UPDATE sqlite_schema SET sql = 'CREATE INDEX extent_shared ON extent (block) WHERE shared = 0' WHERE name = 'extent_shared'",
    ]);
    expect(new Set(findings.map(({ kind }) => kind))).toEqual(new Set(["schema", "sqlite"]));
  });

  it("a page whose bytes were changed (page), and nothing where they were changed back", () => {
    const fixture = new Fixture({ blockSize: BLOCK });
    try {
      fill(fixture);
      const PAGE = 16_384;
      const flip = (page: number) => {
        const fd = openSync(fixture.path, "r+");
        const byte = Buffer.alloc(1);
        readSync(fd, byte, 0, 1, (page - 1) * PAGE + 9000);
        byte[0] = (byte[0] ?? 0) ^ 4;
        writeSync(fd, byte, 0, 1, (page - 1) * PAGE + 9000);
        closeSync(fd);
      };
      const pages = statSync(fixture.path).size / PAGE;
      for (let page = 2; page <= pages; page++) {
        flip(page);
        const kinds = check(fixture.path, fixture.key).map(({ kind }) => kind);
        expect(kinds, `page ${page}`).toContain("page");
        flip(page);
      }
      expect(check(fixture.path, fixture.key)).toEqual([]);
    } finally {
      fixture.remove();
    }
  });

  it("nothing in a volume that a crash left: unlinked inodes wait for the purge", () => {
    const fixture = new Fixture();
    const file = put(fixture.volume, ROOT, "a", noise(200_000));
    fixture.volume.inodes.ref(file);
    fixture.volume.tree.unlink(ROOT, b("a"));
    fixture.volume.commit();
    const crashed = fixture.crashCopy();
    fixture.close();
    expect(check(crashed.path, crashed.key)).toEqual([]);
    crashed.remove();
    fixture.remove();
  });
});
