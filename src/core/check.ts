/**
 * The invariants of a volume, checked on a file that is not mounted. Every test of the core
 * ends in this.
 *
 * One row per invariant: a query that returns what breaks it, as (ino, text). Nothing is changed.
 */
import { Database } from "../db/database.ts";
import { SqliteError } from "../db/errors.ts";
import type { Key } from "../db/key.ts";
import { FileLock } from "./lock.ts";
import { S_IFDIR, S_IFLNK, S_IFMT, S_IFREG } from "./mode.ts";
import {
  type Ino,
  LINK_MAX,
  NAME_MAX,
  ROOT_INO,
  SYMLINK_MAX,
  XATTR_NAME_MAX,
  XATTR_SIZE_MAX,
} from "./types.ts";

export interface Finding {
  /** Name of the invariant that is broken. */
  readonly kind: string;
  readonly ino?: Ino;
  /** A path that leads to the inode, where one does. */
  readonly path?: string;
  readonly text: string;
}

const META = (key: string) => `(SELECT value FROM meta WHERE key = '${key}')`;
const IS = (type: number, table = "i") => `(${table}.mode & ${S_IFMT}) = ${type}`;
const ENTRY = "'entry ' || quote(d.name) || ' of ' || d.parent || '";

/** Each query returns (ino, text) for what breaks the invariant. */
const INVARIANTS: Readonly<Record<string, string>> = {
  "root-missing": `SELECT ${ROOT_INO}, 'no root directory' WHERE NOT EXISTS
    (SELECT 1 FROM inode AS i WHERE ino = ${ROOT_INO} AND ${IS(S_IFDIR)} AND parent = ${ROOT_INO})`,
  "entry-dangling": `SELECT d.ino, ${ENTRY} names an inode that does not exist'
    FROM dirent AS d LEFT JOIN inode AS i ON i.ino = d.ino WHERE i.ino IS NULL`,
  "entry-parent": `SELECT d.parent, ${ENTRY} has no directory to be in'
    FROM dirent AS d LEFT JOIN inode AS p ON p.ino = d.parent
    WHERE p.ino IS NULL OR NOT ${IS(S_IFDIR, "p")} OR p.nlink = 0`,
  "entry-type": `SELECT d.ino, ${ENTRY} says type ' || d.type || ', its inode has mode ' || i.mode
    FROM dirent AS d JOIN inode AS i ON i.ino = d.ino WHERE d.type <> (i.mode & ${S_IFMT})`,
  "entry-name": `SELECT d.ino, ${ENTRY} has a name that cannot be'
    FROM dirent AS d WHERE length(d.name) NOT BETWEEN 1 AND ${NAME_MAX} OR d.name IN (x'2e', x'2e2e')
    OR instr(d.name, x'00') OR instr(d.name, x'2f')`,
  "entry-cookie": `SELECT d.ino, ${ENTRY} has the cookie ' || d.id
    FROM dirent AS d WHERE d.id <= 2 OR d.id >= ${META("next_serial")}`,
  "link-count": `SELECT i.ino, 'nlink is ' || i.nlink || ', entries name it ' || count(d.ino) || ' times'
    FROM inode AS i LEFT JOIN dirent AS d ON d.ino = i.ino WHERE NOT ${IS(S_IFDIR)}
    GROUP BY i.ino HAVING i.nlink <> count(d.ino) OR i.nlink > ${LINK_MAX}`,
  "directory-link-count": `SELECT i.ino, 'nlink is ' || i.nlink || ', it has ' || count(d.ino) || ' subdirectories'
    FROM inode AS i LEFT JOIN dirent AS d ON d.parent = i.ino AND d.type = ${S_IFDIR} WHERE ${IS(S_IFDIR)} AND i.nlink <> 0
    GROUP BY i.ino HAVING i.nlink <> 2 + count(d.ino)`,
  "directory-parent": `SELECT i.ino, 'its parent is ' || i.parent || ', its entries are in ' || ifnull(group_concat(d.parent), 'none')
    FROM inode AS i LEFT JOIN dirent AS d ON d.ino = i.ino WHERE ${IS(S_IFDIR)} AND i.ino <> ${ROOT_INO} AND i.nlink <> 0
    GROUP BY i.ino HAVING count(d.ino) <> 1 OR i.parent <> max(d.parent)`,
  "directory-unreachable": `WITH RECURSIVE reached(ino) AS (SELECT ${ROOT_INO} UNION
      SELECT d.ino FROM reached AS r JOIN dirent AS d ON d.parent = r.ino WHERE d.type = ${S_IFDIR})
    SELECT i.ino, 'no path leads to this directory' FROM inode AS i
    WHERE ${IS(S_IFDIR)} AND i.nlink <> 0 AND i.ino NOT IN reached`,
  "inode-type": `SELECT i.ino, 'mode ' || i.mode || ' is no type of file' FROM inode AS i
    WHERE (i.mode & ${S_IFMT}) NOT IN (${[1, 2, 4, 6, 8, 10, 12].map((type) => type << 12).join(", ")}) OR i.mode >= 65536`,
  "inode-number": `SELECT i.ino, 'its number was never given out' FROM inode AS i
    WHERE i.ino < 1 OR i.ino >= ${META("next_serial")}`,
  "inode-born": `SELECT i.ino, 'born in epoch ' || i.born FROM inode AS i WHERE i.born NOT BETWEEN 1 AND ${META("epoch")}`,
  "symlink-target": `SELECT i.ino, 'its target has ' || ifnull(length(i.target), 'no') || ' bytes, its size is ' || i.size
    FROM inode AS i WHERE ${IS(S_IFLNK)} <> (i.target IS NOT NULL)
    OR (${IS(S_IFLNK)} AND (length(i.target) <> i.size OR i.size NOT BETWEEN 1 AND ${SYMLINK_MAX}))`,
  "block-size": `SELECT i.ino, 'its blocks have ' || i.block_size || ' bytes' FROM inode AS i
    WHERE CASE WHEN ${IS(S_IFREG)} THEN i.block_size < 512 OR (i.block_size & (i.block_size - 1)) <> 0 ELSE i.block_size <> 0 END`,
  size: `SELECT i.ino, 'its size is ' || i.size FROM inode AS i
    WHERE i.size < 0 OR (i.size > 0 AND NOT ${IS(S_IFREG)} AND NOT ${IS(S_IFLNK)})`,
  "extent-count": `SELECT i.ino, 'extents is ' || i.extents || ', it has ' || count(e.idx)
    FROM inode AS i LEFT JOIN extent AS e ON e.ino = i.ino GROUP BY i.ino HAVING i.extents <> count(e.idx)`,
  "extent-owner": `SELECT e.ino, 'extent ' || e.idx || ' belongs to no regular file'
    FROM extent AS e LEFT JOIN inode AS i ON i.ino = e.ino WHERE i.ino IS NULL OR NOT ${IS(S_IFREG)} OR e.idx < 0`,
  "extent-born": `SELECT e.ino, 'extent ' || e.idx || ' is born in epoch ' || e.born
    FROM extent AS e WHERE e.born NOT BETWEEN 1 AND ${META("epoch")}`,
  "block-missing": `SELECT e.ino, 'extent ' || e.idx || ' names block ' || e.block || ', which does not exist'
    FROM (SELECT ino, idx, block FROM extent UNION ALL SELECT ino, idx, block FROM extent_past) AS e
    LEFT JOIN block AS b ON b.id = e.block WHERE e.block <> 0 AND b.id IS NULL`,
  "block-length": `SELECT e.ino, 'block ' || e.block || ' at ' || e.idx || ' has ' || length(b.data) || ' bytes'
    FROM extent AS e JOIN block AS b ON b.id = e.block JOIN inode AS i ON i.ino = e.ino
    WHERE i.nlink <> 0 AND length(b.data) > max(0, min(i.block_size, i.size - e.idx * i.block_size))`,
  "block-codec": "SELECT 0, 'block ' || id || ' has codec ' || codec FROM block WHERE codec <> 0",
  "block-unowned": `SELECT 0, 'no extent names block ' || b.id FROM block AS b
    WHERE b.id NOT IN (SELECT block FROM extent) AND b.id NOT IN (SELECT block FROM extent_past)`,
  "block-shared": `SELECT min(e.ino), 'block ' || e.block || ' has ' || count(*) || ' extents that do not all say so'
    FROM (SELECT ino, block, shared FROM extent UNION ALL SELECT ino, block, shared FROM extent_past) AS e
    WHERE e.block <> 0 GROUP BY e.block HAVING count(*) > 1 AND min(e.shared) = 0`,
  "xattr-owner": `SELECT x.ino, 'attribute ' || quote(x.name) || ' of an inode that does not exist'
    FROM xattr AS x LEFT JOIN inode AS i ON i.ino = x.ino WHERE i.ino IS NULL`,
  "xattr-limits": `SELECT x.ino, 'attribute ' || quote(x.name) || ' has ' || length(x.value) || ' bytes' FROM xattr AS x
    WHERE length(x.name) NOT BETWEEN 1 AND ${XATTR_NAME_MAX} OR length(x.value) > ${XATTR_SIZE_MAX}`,
  "past-epochs": ["inode", "dirent", "xattr", "extent"]
    .map(
      (table) => `SELECT ino, '${table}_past: born ' || born || ', died ' || died FROM ${table}_past
        WHERE NOT (born >= 1 AND born < died AND died <= ${META("epoch")})`,
    )
    .join(" UNION ALL "),
};

/**
 * Everything that is wrong with the volume at `path`: page HMACs, SQLite's own integrity,
 * then the invariants. Empty for a whole one. Reads all of the file.
 * @throws OpenError locked, missing
 */
export function check(path: string, key: Key): Finding[] {
  const lock = new FileLock(path, true);
  try {
    const db = new Database(path, key, { mode: "readwrite" });
    try {
      return checkDatabase(db);
    } finally {
      db.close();
    }
  } finally {
    lock.release();
  }
}

function checkDatabase(db: Database): Finding[] {
  const findings: Finding[] = [];
  try {
    for (const [kind, pragma] of [
      ["page", "cipher_integrity_check"],
      ["sqlite", "integrity_check(100)"],
    ] as const) {
      const rows = db.prepare(`PRAGMA ${pragma}`);
      while (rows.step()) if (rows.text(0) !== "ok") findings.push({ kind, text: rows.text(0) });
    }
    for (const [kind, sql] of Object.entries(INVARIANTS)) {
      const rows = db.prepare(sql);
      const broken: [Ino, string][] = [];
      while (rows.step()) broken.push([rows.int(0) as Ino, rows.text(1)]);
      for (const [ino, text] of broken) {
        const path = ino > 0 ? pathOf(db, ino) : undefined;
        findings.push({ kind, ...(ino > 0 ? { ino } : {}), ...(path === undefined ? {} : { path }), text });
      }
    }
  } catch (error) {
    if (!(error instanceof SqliteError)) throw error;
    findings.push({ kind: "unreadable", text: error.message });
  }
  return findings;
}

/** A path that leads to `ino`, undefined where none does. Slow: only for findings. */
function pathOf(db: Database, ino: Ino): string | undefined {
  const select = db.prepare("SELECT parent, name FROM dirent WHERE ino = ?1 LIMIT 1");
  const names: string[] = [];
  const DEEPEST = 4096;
  for (let at = ino; at !== ROOT_INO; ) {
    if (!select.bindInt(1, at).step() || names.length > DEEPEST) return undefined;
    names.unshift(Buffer.from(select.blob(1)).toString());
    at = select.int(0) as Ino;
    select.reset();
  }
  return `/${names.join("/")}`;
}
