/**
 * Seeded damage of every kind that fsck knows: each is found and named, repaired, nothing is left of it at the
 * second run, and whatever it did not concern is as it was.
 */
import { appendFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { FsError } from "../../src/base/errno.ts";
import { repair as repairSteps } from "../../src/fsck/repair.ts";
import type { Dump } from "../core/dump.ts";
import { Fixture, inVolume, mkdir, noise, put, ROOT, S_IFREG, touch } from "../core/fixture.ts";
import { type Random, withRandom } from "../core/random.ts";
import {
  BLOCK,
  changedPaths,
  dumpOf,
  fill,
  type Inodes,
  inCopy,
  inspectFixture,
  lines,
  repairFixture,
} from "./fsck.ts";

let filled: Fixture;
let inodes: Inodes;
let before: Dump;
beforeAll(() => {
  filled = new Fixture({ blockSize: BLOCK });
  inodes = fill(filled);
  before = dumpOf(filled);
});
afterAll(() => filled.remove());

/** Below the first number that is given out: never in use. */
const UNUSED = 15;
const BLOCK_OF = (ino: number) => `(SELECT block FROM extent WHERE ino = ${ino} AND idx = 0)`;
const NAME = (name: string) => `CAST('${name}' AS BLOB)`;
const SET = (what: string, ino: number) => `UPDATE inode SET ${what} WHERE ino = ${ino}`;
const REMOTE = (secret: string, epoch: number, segment: number) => `INSERT INTO remote VALUES
  (1, 'nas', '/x', zeroblob(16), ${secret}, 1, ${epoch}, ${segment}, x'', x'', 0, 0, x'')`;
const INODE = (ino: string, mode: number, nlink: number) => `INSERT INTO inode VALUES
  (${ino}, ${mode}, ${nlink}, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, NULL, NULL, NULL)`;

interface Sabotage {
  readonly what: string;
  readonly kind: string;
  /** Path that a finding of the kind names; undefined: there is none to name. */
  readonly path?: string;
  readonly sql: (inodes: Inodes) => string | readonly string[];
  /** Paths that the repair changes: everything else must be as before. */
  readonly changes?: readonly string[];
}

const SABOTAGE: readonly Sabotage[] = [
  // --- links
  { what: "a link count too high", kind: "link-count", path: "/a", sql: ({ a }) => SET("nlink = 9", a) },
  { what: "a link count too low", kind: "link-count", path: "/a", sql: ({ a }) => SET("nlink = 1", a) },
  {
    what: "no links, and a name",
    kind: "link-count",
    path: "/plain",
    sql: ({ plain }) => SET("nlink = 0", plain),
  },
  {
    what: "a negative link count",
    kind: "link-count",
    path: "/fifo",
    sql: ({ fifo }) => SET("nlink = -1", fifo),
  },
  {
    what: "a directory's link count",
    kind: "directory-link-count",
    path: "/d",
    sql: ({ d }) => SET("nlink = 2", d),
  },
  {
    what: "a directory without links",
    kind: "directory-link-count",
    path: "/d/e",
    sql: ({ e }) => SET("nlink = 0", e),
  },
  { what: "the root's link count", kind: "directory-link-count", path: "/", sql: () => SET("nlink = 77", 1) },
  {
    what: "a file without a name",
    kind: "file-unnamed",
    sql: ({ plain }) => `DELETE FROM dirent WHERE ino = ${plain}`,
    changes: ["/plain", "/lost+found", "/lost+found/#PLAIN"],
  },
  // --- entries
  {
    what: "an entry whose file is gone",
    kind: "entry-dangling",
    path: "/z",
    sql: () => `INSERT INTO dirent VALUES (1, x'7a', 14, ${UNUSED}, ${S_IFREG}, 1)`,
  },
  {
    what: "a file with data whose inode is gone",
    kind: "extent-owner",
    path: "/plain",
    sql: ({ plain }) => `DELETE FROM inode WHERE ino = ${plain}`,
    changes: ["/plain"],
  },
  {
    what: "a sparse file whose inode is gone",
    kind: "extent-owner",
    path: "/big",
    sql: ({ big }) => `DELETE FROM inode WHERE ino = ${big}`,
    changes: ["/big"],
  },
  {
    what: "a directory whose inode is gone, with what is in it",
    kind: "directory-gone",
    path: "/d/e",
    sql: ({ e }) => `DELETE FROM inode WHERE ino = ${e}`,
    changes: ["/d/e"],
  },
  {
    what: "an empty directory whose inode is gone",
    kind: "entry-dangling",
    path: "/d/e/f",
    sql: ({ f }) => `DELETE FROM inode WHERE ino = ${f}`,
    changes: ["/d/e/f"],
  },
  {
    what: "a symlink whose inode is gone",
    kind: "entry-dangling",
    path: "/s",
    sql: ({ symlink }) => `DELETE FROM inode WHERE ino = ${symlink}`,
    changes: ["/s"],
  },
  {
    what: "an entry in a file",
    kind: "entry-parent",
    path: "/a/fifo",
    sql: ({ a }) => `UPDATE dirent SET parent = ${a} WHERE name = ${NAME("fifo")}`,
    changes: ["/fifo", "/lost+found", "/lost+found/#FIFO"],
  },
  {
    what: "an entry in a directory that is gone",
    kind: "directory-gone",
    sql: ({ fifo }) => `UPDATE dirent SET parent = ${UNUSED} WHERE ino = ${fifo}`,
    changes: ["/fifo", "/lost+found", "/lost+found/#15", "/lost+found/#15/fifo"],
  },
  {
    what: "an entry that names the root",
    kind: "entry-root",
    path: "/d/up",
    sql: ({ d }) => `INSERT INTO dirent VALUES (${d}, ${NAME("up")}, 14, 1, 16384, 1)`,
  },
  {
    what: "an entry of another type than its inode",
    kind: "entry-type",
    path: "/plain",
    sql: ({ plain }) => `UPDATE dirent SET type = 4096 WHERE ino = ${plain}`,
  },
  ...(
    [
      ["..", "a name that is dots", "2e2e"],
      ["a/b", "a name with a slash", "612f62"],
      ["a\\x00b", "a name with a NUL", "610062"],
      ["", "a name without bytes", ""],
      ["a".repeat(256), "a name of 256 bytes", "61".repeat(256)],
    ] as const
  ).map(([shown, what, name]) => ({
    what,
    kind: "entry-name",
    path: `/${shown}`,
    sql: ({ fifo }: Inodes) => `UPDATE dirent SET name = x'${name}' WHERE ino = ${fifo}`,
    changes: ["/fifo", "/lost+found", "/lost+found/#FIFO"],
  })),
  {
    what: "a cookie that means dots",
    kind: "entry-cookie",
    path: "/fifo",
    sql: ({ fifo }) => `UPDATE dirent SET id = 2 WHERE ino = ${fifo}`,
  },
  {
    what: "a cookie never given out",
    kind: "entry-cookie",
    path: "/fifo",
    sql: ({ fifo }) => `UPDATE dirent SET id = 99999 WHERE ino = ${fifo}`,
  },
  {
    what: "a cookie past any number",
    kind: "entry-cookie",
    path: "/fifo",
    sql: ({ fifo }) => `UPDATE dirent SET id = 9007199254740993 WHERE ino = ${fifo}`,
  },
  {
    what: "a cookie that two entries have",
    kind: "entry-cookie",
    path: "/fifo",
    sql: ({ e, fifo }) =>
      `UPDATE dirent SET id = (SELECT id FROM dirent WHERE ino = ${e}) WHERE ino = ${fifo}`,
  },
  // --- the tree
  {
    what: "a directory whose parent is another",
    kind: "directory-parent",
    path: "/d/e",
    sql: ({ e }) => SET("parent = 1", e),
  },
  {
    what: "a directory with two names",
    kind: "directory-parent",
    path: "/again",
    sql: ({ e }) => `INSERT INTO dirent VALUES (1, ${NAME("again")}, 14, ${e}, 16384, 1)`,
  },
  {
    what: "a directory within itself",
    kind: "directory-parent",
    path: "/d",
    sql: ({ d, f }) => `INSERT INTO dirent VALUES (${f}, ${NAME("loop")}, 14, ${d}, 16384, 1)`,
  },
  {
    what: "two directories within each other",
    kind: "directory-unreachable",
    sql: ({ d, e }) => [`UPDATE dirent SET parent = ${e} WHERE ino = ${d}`, SET(`parent = ${e}`, d)],
    changes: [
      "/d",
      "/d/e",
      "/d/e/f",
      "/d/e/one",
      "/d/e/two",
      "/d/l",
      "/lost+found",
      "/lost+found/#D",
      "/lost+found/#D/e",
      "/lost+found/#D/l",
      "/lost+found/#D/e/f",
      "/lost+found/#D/e/one",
      "/lost+found/#D/e/two",
    ],
  },
  {
    what: "a directory without a name",
    kind: "directory-unreachable",
    sql: ({ e }) => `DELETE FROM dirent WHERE ino = ${e}`,
    changes: [
      "/d/e",
      "/d/e/f",
      "/d/e/one",
      "/d/e/two",
      "/lost+found",
      "/lost+found/#E",
      "/lost+found/#E/f",
      "/lost+found/#E/one",
      "/lost+found/#E/two",
    ],
  },
  {
    what: "a root whose parent is another",
    kind: "root-missing",
    path: "/",
    sql: () => SET("parent = 3", 1),
  },
  {
    what: "no root",
    kind: "root-missing",
    path: "/",
    sql: () => "DELETE FROM inode WHERE ino = 1",
    changes: [""],
  },
  {
    what: "a root that is a file",
    kind: "root-missing",
    path: "/",
    sql: () => `UPDATE inode SET mode = ${S_IFREG}, block_size = 4096 WHERE ino = 1`,
    changes: ["", "/lost+found", "/lost+found/#NEW"],
  },
  // --- inodes
  {
    what: "a type that does not exist",
    kind: "inode-type",
    path: "/plain",
    sql: ({ plain }) => SET("mode = 12708", plain),
  },
  {
    what: "a mode of too many bits",
    kind: "inode-type",
    path: "/plain",
    sql: ({ plain }) => SET("mode = mode | 65536", plain),
  },
  {
    what: "a file that says directory",
    kind: "entry-type",
    path: "/plain",
    sql: ({ plain }) => SET("mode = 16804", plain),
  },
  {
    what: "a directory that says file",
    kind: "entry-type",
    path: "/d",
    sql: ({ d }) => SET(`mode = ${S_IFREG | 0o755}`, d),
  },
  {
    what: "a symlink that says file",
    kind: "entry-type",
    path: "/s",
    sql: ({ symlink }) => SET(`mode = ${S_IFREG | 0o777}`, symlink),
  },
  {
    what: "an owner that cannot be",
    kind: "inode-range",
    path: "/fifo",
    sql: ({ fifo }) => SET("uid = -5", fifo),
    changes: ["/fifo"],
  },
  {
    what: "a group past 32 bits",
    kind: "inode-range",
    path: "/fifo",
    sql: ({ fifo }) => SET("gid = 4294967296", fifo),
    changes: ["/fifo"],
  },
  {
    what: "a generation past 32 bits",
    kind: "inode-range",
    path: "/fifo",
    sql: ({ fifo }) => SET("generation = 1 << 40", fifo),
    changes: ["/fifo"],
  },
  {
    what: "a file with a device number",
    kind: "inode-range",
    path: "/emptied",
    sql: ({ empty }) => SET("rdev = 5", empty),
  },
  {
    what: "a file with a parent",
    kind: "inode-range",
    path: "/emptied",
    sql: ({ empty }) => SET("parent = 1", empty),
  },
  {
    what: "a negative inode number",
    kind: "inode-number",
    sql: ({ fifo }) => [SET("ino = -3", fifo), `UPDATE dirent SET ino = -3 WHERE ino = ${fifo}`],
    changes: ["/fifo"],
  },
  {
    what: "an inode number past 2^53",
    kind: "inode-number",
    sql: ({ d }) => [
      SET("ino = 9007199254740993", d),
      `UPDATE dirent SET ino = 9007199254740993 WHERE ino = ${d}`,
      `UPDATE dirent SET parent = 9007199254740993 WHERE parent = ${d}`,
      `UPDATE inode SET parent = 9007199254740993 WHERE parent = ${d}`,
    ],
    changes: ["/d"],
  },
  {
    what: "an unlinked inode with a number never given out",
    kind: "inode-number",
    sql: () => INODE("99999", 0o010600, 0),
  },
  {
    what: "an inode from the future",
    kind: "inode-born",
    path: "/fifo",
    sql: ({ fifo }) => SET("born = 99", fifo),
  },
  {
    what: "an inode from before the first epoch",
    kind: "inode-born",
    path: "/fifo",
    sql: ({ fifo }) => SET("born = 0", fifo),
  },
  {
    what: "an inode from no epoch",
    kind: "inode-born",
    path: "/fifo",
    sql: ({ fifo }) => SET("born = 1 << 60", fifo),
  },
  // --- symlinks
  {
    what: "a symlink without a target",
    kind: "symlink-target",
    path: "/s",
    sql: ({ symlink }) => SET("target = NULL", symlink),
    changes: ["/s"],
  },
  {
    what: "a target of another length than it says",
    kind: "symlink-target",
    path: "/s",
    sql: ({ symlink }) => SET("size = 3", symlink),
  },
  {
    what: "a target that is too long",
    kind: "symlink-target",
    path: "/s",
    sql: ({ symlink }) => SET("target = zeroblob(5000), size = 5000", symlink),
    changes: ["/s"],
  },
  {
    what: "an empty target",
    kind: "symlink-target",
    path: "/s",
    sql: ({ symlink }) => SET("target = x'', size = 0", symlink),
    changes: ["/s"],
  },
  {
    what: "a file with a target",
    kind: "symlink-target",
    path: "/emptied",
    sql: ({ empty }) => SET("target = x'61'", empty),
  },
  // --- sizes
  {
    what: "a block size that is no power of two",
    kind: "block-size",
    path: "/big",
    sql: ({ big }) => SET("block_size = 5000", big),
  },
  { what: "no block size", kind: "block-size", path: "/big", sql: ({ big }) => SET("block_size = 0", big) },
  {
    what: "a fifo with a block size",
    kind: "block-size",
    path: "/fifo",
    sql: ({ fifo }) => SET("block_size = 4096", fifo),
  },
  { what: "a fifo with a size", kind: "size", path: "/fifo", sql: ({ fifo }) => SET("size = 5", fifo) },
  { what: "a negative size", kind: "size", path: "/plain", sql: ({ plain }) => SET("size = -1", plain) },
  {
    what: "a size past 2^53 - 1",
    kind: "size",
    path: "/plain",
    sql: ({ plain }) => SET("size = 9007199254740992", plain),
  },
  {
    what: "a size before the end of the data",
    kind: "block-length",
    path: "/plain",
    sql: ({ plain }) => SET("size = 10", plain),
  },
  // --- blocks
  { what: "a count of blocks", kind: "extent-count", path: "/a", sql: ({ a }) => SET("extents = 7", a) },
  {
    what: "a block of a fifo",
    kind: "extent-owner",
    path: "/fifo",
    sql: ({ fifo }) => `INSERT INTO extent VALUES (${fifo}, 0, 0, 0, 1)`,
    changes: ["/lost+found", "/lost+found/#NEW"],
  },
  {
    what: "a block of nobody",
    kind: "extent-owner",
    sql: ({ plain }) => `INSERT INTO extent VALUES (${UNUSED}, 0, ${BLOCK_OF(plain)}, 1, 1)`,
    changes: ["/lost+found", "/lost+found/#15"],
  },
  {
    what: "a negative index",
    kind: "extent-index",
    path: "/plain",
    sql: ({ plain }) => `UPDATE extent SET idx = -1 WHERE ino = ${plain}`,
    changes: ["/plain", "/lost+found", "/lost+found/#BLOCK"],
  },
  {
    what: "an index past any file",
    kind: "extent-index",
    path: "/plain",
    sql: ({ plain }) => `UPDATE extent SET idx = 1 << 60 WHERE ino = ${plain}`,
    changes: ["/plain", "/lost+found", "/lost+found/#BLOCK"],
  },
  {
    what: "neither shared nor not",
    kind: "extent-shared",
    path: "/a",
    sql: ({ a }) => `UPDATE extent SET shared = 7 WHERE ino = ${a}`,
  },
  {
    what: "a shared block of which one side does not know",
    kind: "block-shared",
    path: "/a",
    sql: ({ copy }) => `UPDATE extent SET shared = 0 WHERE ino = ${copy}`,
  },
  {
    what: "one block in two files",
    kind: "block-shared",
    path: "/plain",
    sql: ({ plain, big }) => `UPDATE extent SET block = ${BLOCK_OF(plain)} WHERE ino = ${big} AND idx = 0`,
    changes: ["/big", "/lost+found", "/lost+found/#BLOCK"],
  },
  {
    what: "an extent from the future",
    kind: "extent-born",
    path: "/a",
    sql: ({ a }) => `UPDATE extent SET born = 99 WHERE ino = ${a} AND idx = 1`,
  },
  {
    what: "a block that is not there",
    kind: "block-missing",
    path: "/big",
    sql: ({ big }) => `DELETE FROM block WHERE id = ${BLOCK_OF(big)}`,
    changes: ["/big"],
  },
  {
    what: "a block of the past that is not there",
    kind: "block-missing",
    path: "/plain",
    sql: () => "DELETE FROM block WHERE id = (SELECT block FROM extent_past)",
  },
  {
    what: "a negative block",
    kind: "block-missing",
    path: "/plain",
    sql: ({ plain }) => `UPDATE extent SET block = -7 WHERE ino = ${plain}`,
    changes: ["/plain", "/lost+found", "/lost+found/#BLOCK"],
  },
  {
    what: "a negative block number",
    kind: "block-number",
    path: "/plain",
    sql: ({ plain }) => [
      `UPDATE block SET id = -7 WHERE id = ${BLOCK_OF(plain)}`,
      `UPDATE extent SET block = -7 WHERE ino = ${plain}`,
    ],
  },
  {
    what: "a block longer than a block",
    kind: "block-length",
    path: "/big",
    sql: ({ big }) =>
      `UPDATE block SET data = CAST(data || zeroblob(10) AS BLOB) WHERE id = ${BLOCK_OF(big)}`,
  },
  {
    what: "a block that reaches past the end of its file",
    kind: "block-length",
    path: "/plain",
    sql: ({ plain }) => `UPDATE block SET data = CAST(data || x'01' AS BLOB) WHERE id = ${BLOCK_OF(plain)}`,
    changes: ["/plain"],
  },
  {
    what: "a codec that is not known",
    kind: "block-codec",
    path: "/plain",
    sql: ({ plain }) => `UPDATE block SET codec = 77 WHERE id = ${BLOCK_OF(plain)}`,
    changes: ["/plain"],
  },
  {
    what: "a hash of no length",
    kind: "block-hash",
    path: "/plain",
    sql: ({ plain }) => `UPDATE block SET hash = x'01' WHERE id = ${BLOCK_OF(plain)}`,
  },
  {
    what: "a block that nobody names",
    kind: "block-unowned",
    sql: () => "INSERT INTO block VALUES (99999, 0, NULL, x'0102')",
    changes: ["/lost+found", "/lost+found/#block-99999"],
  },
  // --- attributes
  {
    what: "an attribute of nobody",
    kind: "xattr-owner",
    sql: () => `INSERT INTO xattr VALUES (${UNUSED}, ${NAME("user.x")}, x'', 1)`,
  },
  {
    what: "a value that is too long",
    kind: "xattr-limits",
    path: "/a",
    sql: () => `UPDATE xattr SET value = zeroblob(65537) WHERE name = ${NAME("user.z")}`,
    changes: ["/a", "/d/l"],
  },
  {
    what: "too many names",
    kind: "xattr-limits",
    path: "/fifo",
    changes: ["/fifo"],
    sql: ({
      fifo,
    }) => `INSERT INTO xattr WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400)
      SELECT ${fifo}, CAST(printf('user.%0200d', i) AS BLOB), x'', 1 FROM n`,
  },
  {
    what: "a name outside all namespaces",
    kind: "xattr-name",
    path: "/a",
    sql: () => `UPDATE xattr SET name = ${NAME("lost")} WHERE name = ${NAME("user.z")}`,
    changes: ["/a", "/d/l"],
  },
  {
    what: "an attribute without a name",
    kind: "xattr-name",
    path: "/a",
    sql: () => `UPDATE xattr SET name = x'' WHERE name = ${NAME("user.z")}`,
    changes: ["/a", "/d/l"],
  },
  {
    what: "an attribute from the future",
    kind: "xattr-born",
    path: "/a",
    sql: () => `UPDATE xattr SET born = 99 WHERE name = ${NAME("user.z")}`,
  },
  {
    what: "an ACL that is none",
    kind: "acl",
    path: "/a",
    sql: ({ a }) => `INSERT INTO xattr VALUES (${a}, ${NAME("system.posix_acl_access")}, x'0200', 1)`,
  },
  {
    what: "an ACL that disagrees with the mode",
    kind: "acl",
    path: "/acl",
    sql: ({ acl }) => SET(`mode = ${S_IFREG | 0o600}`, acl),
    changes: ["/acl"],
  },
  {
    what: "a default ACL of a file",
    kind: "acl",
    path: "/acl",
    changes: ["/acl"],
    sql: ({ acl }) => `UPDATE xattr SET name = ${NAME("system.posix_acl_default")} WHERE ino = ${acl}`,
  },
  // --- the past
  {
    what: "an entry from the future",
    kind: "entry-born",
    path: "/fifo",
    sql: ({ fifo }) => `UPDATE dirent SET born = 99 WHERE ino = ${fifo}`,
  },
  {
    what: "an epoch that went back",
    kind: "inode-born",
    path: "/plain",
    sql: () => "UPDATE meta SET value = 1 WHERE key = 'epoch'",
  },
  {
    what: "a past that ends before it began",
    kind: "past-epochs",
    sql: () => "UPDATE extent_past SET died = born",
    path: "/plain",
    changes: ["/lost+found", "/lost+found/#PASTBLOCK"],
  },
  {
    what: "a past that ends in the future",
    kind: "past-epochs",
    path: "/emptied",
    sql: () => "UPDATE dirent_past SET died = 99 WHERE parent = 1",
  },
  {
    what: "a past and a present that overlap",
    kind: "past-overlap",
    path: "/plain",
    sql: ({ plain }) => SET("born = 1", plain),
  },
  {
    what: "an attribute whose past and present overlap",
    kind: "past-overlap",
    path: "/a",
    sql: () => `UPDATE xattr SET born = 1`,
  },
  {
    what: "a past of an inode that was not there",
    kind: "past-owner",
    sql: () => `INSERT INTO xattr_past VALUES (${UNUSED}, ${NAME("user.x")}, x'', 1, 2)`,
  },
  {
    what: "a past entry of an inode that is younger than the snapshot",
    kind: "past-entry",
    sql: ({ empty }) =>
      `INSERT INTO dirent_past SELECT parent, ${NAME("x")}, 999, ${UNUSED}, type, 1, 2 FROM dirent WHERE ino = ${empty};
       ${INODE(`${UNUSED}`, 0o100644, 0)}; UPDATE inode SET born = 2 WHERE ino = ${UNUSED};
       INSERT INTO inode_past SELECT *, 2 FROM inode WHERE ino = ${UNUSED}; UPDATE inode_past SET born = 1, nlink = 0 WHERE ino = ${UNUSED}`,
  },
  {
    what: "a remote with a secret that is too short",
    kind: "remote",
    sql: () => REMOTE("zeroblob(31)", 0, 0),
  },
  { what: "a remote that has an epoch to come", kind: "remote", sql: () => REMOTE("zeroblob(32)", 99, 0) },
  {
    what: "a remote without the hash of its segment",
    kind: "remote",
    sql: () => REMOTE("zeroblob(32)", 1, 3),
  },
  {
    what: "an object of no remote",
    kind: "remote-object",
    sql: () => "INSERT INTO remote_object VALUES (1, 7, zeroblob(32), zeroblob(32))",
  },
  {
    what: "a block in no object",
    kind: "remote-block",
    sql: () => "INSERT INTO remote_block VALUES (1, zeroblob(32), 7, 64, 10, 0)",
  },
  {
    what: "a snapshot of an epoch that is not closed",
    kind: "snapshot",
    sql: () => "INSERT INTO snapshot VALUES (2, 'now', 0, 0, 0)",
  },
  {
    what: "a snapshot without a name",
    kind: "snapshot",
    sql: () => "UPDATE snapshot SET name = ''",
  },
  {
    what: "a snapshot that is neither protected nor not",
    kind: "snapshot-flags",
    sql: () => "UPDATE snapshot SET protected = 7",
  },
  {
    what: "a retention that is none",
    kind: "meta-retention",
    sql: () => "INSERT INTO meta VALUES ('retention', '[]')",
  },
  {
    what: "a last change after the current epoch",
    kind: "meta-changed",
    sql: () => "UPDATE meta SET value = 99 WHERE key = 'changed'",
  },
  // --- the volume
  ...[
    "format",
    "volume_id",
    "replica_id",
    "block_size",
    "epoch",
    "next_serial",
    "next_block",
    "created_ns",
    "features",
    "features_incompatible",
  ].map((key) => ({
    what: `a constant of the volume that is missing: ${key}`,
    kind: "meta",
    sql: () => `DELETE FROM meta WHERE key = '${key}'`,
  })),
  {
    what: "a constant of another type",
    kind: "meta",
    sql: () => "UPDATE meta SET value = 'many' WHERE key = 'next_serial'",
  },
  {
    what: "features that are no list",
    kind: "meta",
    sql: () => "UPDATE meta SET value = '[' WHERE key = 'features_incompatible'",
  },
  {
    what: "a compression that is none",
    kind: "meta-compression",
    sql: () => "UPDATE meta SET value = 'good' WHERE key = 'compression'",
  },
  {
    what: "no compression, not even none",
    kind: "meta-compression",
    sql: () => "DELETE FROM meta WHERE key = 'compression'",
  },
  {
    what: "a head that is none",
    kind: "meta-head",
    sql: () => "INSERT INTO meta (key, value) VALUES ('head', '17 and so on')",
  },
  {
    what: "a counter below numbers in use",
    kind: "inode-number",
    path: "/acl",
    sql: () => "UPDATE meta SET value = 20 WHERE key = 'next_serial'",
  },
  {
    what: "a counter of blocks below numbers in use",
    kind: "block-number",
    path: "/plain",
    sql: () => "UPDATE meta SET value = 1 WHERE key = 'next_block'",
  },
  { what: "an application id of something else", kind: "header", sql: () => "PRAGMA application_id = 5" },
  { what: "a version of something else", kind: "header", sql: () => "PRAGMA user_version = 0" },
  // --- the database
  { what: "an index that is missing", kind: "schema", sql: () => "DROP INDEX extent_shared" },
  {
    what: "an index of something else",
    kind: "schema",
    sql: () => ["DROP INDEX extent_shared", "CREATE INDEX extent_shared ON extent (born)"],
  },
  {
    what: "a trigger",
    kind: "schema",
    sql: () => "CREATE TRIGGER evil AFTER INSERT ON inode BEGIN DELETE FROM dirent; END",
  },
  { what: "a table that is missing", kind: "schema", sql: () => "DROP TABLE xattr_past" },
  {
    what: "a table with another column",
    kind: "schema",
    sql: () => "ALTER TABLE xattr_past ADD COLUMN more INTEGER",
  },
  {
    what: "an index that does not agree with its table",
    kind: "sqlite",
    sql: () => [
      "PRAGMA writable_schema = ON",
      "UPDATE sqlite_schema SET sql = 'CREATE INDEX extent_shared ON extent (block) WHERE shared = 0' WHERE name = 'extent_shared'",
    ],
  },
];

describe("seeded damage is found, named, repaired, and gone at the second run:", () => {
  it.each(SABOTAGE)("$what ($kind)", ({ kind, path, sql, changes }) =>
    inCopy(filled, (fixture) => {
      const blockOfPlain = fixture.number(`SELECT block FROM extent WHERE ino = ${inodes.plain}`);
      const blockOfBig = fixture.number(`SELECT block FROM extent WHERE ino = ${inodes.big} AND idx = 0`);
      const pastBlock = fixture.number("SELECT block FROM extent_past");
      const next = fixture.number("SELECT value FROM meta WHERE key = 'next_serial'");
      fixture.sql((db) => {
        for (const statement of [sql(inodes)].flat()) db.exec(statement);
      });

      const { findings } = inspectFixture(fixture);
      expect(lines(findings)).toContainEqual(expect.stringContaining(`${kind} ${path ?? ""}`));
      const named = findings.filter((finding) => finding.kind === kind);
      if (path !== undefined) expect(named.map((finding) => finding.path)).toContain(path);
      for (const { text, remedy } of findings) {
        expect(text.length).toBeGreaterThan(5);
        expect(remedy).toBeDefined();
      }

      const { left } = repairFixture(fixture);
      expect(lines(left)).toEqual([]);
      expect(inspectFixture(fixture)).toMatchObject({ findings: [], damage: "nothing" });

      const changed = changedPaths(before, dumpOf(fixture));
      const expected = (changes ?? []).map((name) =>
        name
          .replace("#PLAIN", `#${inodes.plain}`)
          .replace("#FIFO", `#${inodes.fifo}`)
          .replace("#D", `#${inodes.d}`)
          .replace("#E", `#${inodes.e}`)
          .replace("#NEW", `#${next}`)
          .replace("#PASTBLOCK", `#block-${pastBlock}`)
          .replace("#BLOCK", `#block-${kind === "block-shared" ? blockOfBig : blockOfPlain}`),
      );
      expect(changed.sort()).toEqual(expected.sort());
      expect(inspectFixture(fixture).findings).toEqual([]);
    }),
  );
});

describe("a repair", () => {
  it("makes a lost file again with its bytes, and a lost directory with its entries", () =>
    inCopy(filled, (fixture) => {
      const { big, e } = inodes;
      fixture.sql((db) => db.exec(`DELETE FROM inode WHERE ino IN (${big}, ${e})`));
      expect(repairFixture(fixture).left).toEqual([]);
      const after = dumpOf(fixture);
      expect(after["/big"]).toMatchObject({
        content: before["/big"]?.content,
        size: before["/big"]?.size,
        mode: S_IFREG | 0o600,
      });
      expect(after["/d/e/one"]).toEqual(before["/d/e/one"]);
    }));

  it("puts blocks that lost their file into one file, in order", () =>
    inCopy(filled, (fixture) => {
      fixture.sql((db) => db.exec(`DELETE FROM extent WHERE ino = ${inodes.big}`));
      const { placed, left } = repairFixture(fixture);
      expect(left).toEqual([]);
      expect(placed.map(({ path }) => path)).toEqual([
        expect.stringMatching(/^\/lost\+found\/#blocks-\d+-\d+$/),
      ]);
      const file = dumpOf(fixture)[placed[0]?.path ?? ""];
      expect(file?.size).toBe(40 * BLOCK);
    }));

  it("of several things at once leaves nothing", () =>
    inCopy(filled, (fixture) => {
      const { a, d, e, plain, symlink } = inodes;
      fixture.sql((db) => {
        for (const sql of [
          `DELETE FROM inode WHERE ino IN (1, ${d}, ${plain})`,
          `UPDATE dirent SET parent = ${e} WHERE ino = ${d}`,
          SET("target = NULL, nlink = 4", symlink),
          `UPDATE extent SET block = 77777 WHERE ino = ${a}`,
          "DELETE FROM meta",
        ])
          db.exec(sql);
      });
      expect(lines(repairFixture(fixture).left)).toEqual([]);
      expect(inspectFixture(fixture).findings).toEqual([]);
    }));

  it("cuts off what lies behind the last page", () =>
    inCopy(filled, (fixture) => {
      appendFileSync(fixture.path, Buffer.alloc(1000, 7));
      expect(lines(inspectFixture(fixture).findings)).toEqual([expect.stringContaining("file-size")]);
      expect(repairFixture(fixture).left).toEqual([]);
      expect(changedPaths(before, dumpOf(fixture))).toEqual([]);
    }));

  it("uses a lost+found that is there, and never a name that is taken", () =>
    inCopy(filled, (fixture) => {
      const lost = mkdir(fixture.volume, ROOT, "lost+found");
      put(fixture.volume, lost, `#${inodes.plain}`, "taken");
      fixture.close();
      fixture.sql((db) => db.exec(`DELETE FROM dirent WHERE ino = ${inodes.plain}`));
      const { placed } = repairFixture(fixture);
      expect(placed).toEqual([{ ino: inodes.plain, path: `/lost+found/#${inodes.plain}-2` }]);
    }));

  it("that is abandoned changes nothing", () =>
    inCopy(filled, (fixture) => {
      fixture.sql((db) => db.exec(SET("nlink = 9", inodes.a)));
      const { path, key } = fixture;
      const report = inspectFixture(fixture);
      const steps = repairSteps(path, key, report);
      for (let i = 0; i < 5; i++) steps.next();
      steps.return(undefined as never);
      expect(fixture.number(`SELECT nlink FROM inode WHERE ino = ${inodes.a}`)).toBe(9);
      expect(repairFixture(fixture).left).toEqual([]);
    }));
});

/** Random operations: names, contents, links, attributes, epochs. */
function work(fixture: Fixture, random: Random, steps: number): void {
  const { volume } = fixture;
  const directories = [ROOT];
  const files = [touch(volume, ROOT, "first")];
  const name = () => Buffer.from(random.pick(["a", "b", "c", "d", "e", "f", "\u00e4", "x y"]));
  const caller = { uid: 1000, gid: 1000, umask: 0o022 };
  const operations: (() => void)[] = [
    () => files.push(volume.tree.mknod(random.pick(directories), name(), S_IFREG | 0o644, 0, caller).ino),
    () => directories.push(volume.tree.mkdir(random.pick(directories), name(), 0o755, caller).ino),
    () => volume.tree.symlink(random.pick(directories), name(), Buffer.from("somewhere"), caller),
    () => volume.tree.link(random.pick(files), random.pick(directories), name()),
    () => volume.tree.unlink(random.pick(directories), name()),
    () => volume.tree.rmdir(random.pick(directories), name()),
    () =>
      volume.tree.rename(
        random.pick(directories),
        name(),
        random.pick(directories),
        name(),
        random.pick([0, 0, 1, 2]),
      ),
    () =>
      volume.files.write(
        random.pick(files),
        random.below(40_000),
        noise(random.below(20_000), random.below(99)),
        false,
      ),
    () => volume.attributes.setattr(random.pick(files), { size: random.below(60_000) }),
    () =>
      volume.files.fallocate(
        random.pick(files),
        random.pick([0, 1, 3, 16]),
        random.below(50_000),
        1 + random.below(20_000),
        false,
      ),
    () =>
      volume.files.copyFileRange(
        random.pick(files),
        BLOCK * random.below(4),
        random.pick(files),
        BLOCK * random.below(4),
        30_000,
        false,
      ),
    () =>
      volume.xattrs.set(
        random.pick(files),
        Buffer.from(`user.${random.below(4)}`),
        noise(random.below(300)),
        0,
        false,
      ),
    () => volume.xattrs.remove(random.pick(files), Buffer.from(`user.${random.below(4)}`)),
    () => volume.inodes.ref(random.pick(files)),
    () => volume.closeEpoch(),
    () => volume.commit(),
    () => volume.idle(fixture.clock.ms),
  ];
  for (let i = 0; i < steps; i++) {
    try {
      random.pick(operations)();
    } catch (error) {
      if (!(error instanceof FsError)) throw error;
    }
  }
}

describe("no false alarm", () => {
  const VOLUMES = process.env.SQLFUSE_LONG === undefined ? 15 : 200;
  it(`in ${VOLUMES} random volumes, nor in what a crash would leave of them`, () =>
    withRandom((random, step) => {
      for (let i = 0; i < VOLUMES; i++) {
        step(`volume ${i}`);
        inVolume(
          (fixture) => {
            work(fixture, random, 150);
            const copy = fixture.crashCopy();
            try {
              expect(lines(inspectFixture(copy).findings)).toEqual([]);
            } finally {
              copy.remove();
            }
          },
          { blockSize: BLOCK },
        );
      }
    }));
});
