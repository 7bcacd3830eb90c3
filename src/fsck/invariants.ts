/**
 * What must hold in a volume: one row per invariant, with the query that returns what breaks
 * it and what mends it. The order is the order of mending: what a later one relies on comes first.
 *
 * Each query returns (ino or 0, text, parent, name): `parent` and `name` say which entry is meant
 * where the inode alone does not tell, and are NULL elsewhere.
 */

import { isBlockSizeSql, usualBlockSize } from "../core/blocksize.ts";
import { contentLength, knownCodec, RAW } from "../core/codec.ts";
import { APPLICATION_ID, type Feature, FORMAT, FORMAT_MAJOR } from "../core/format.ts";
import { S_IFBLK, S_IFCHR, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG } from "../core/mode.ts";
import { isPartial } from "../core/partial.ts";
import { MAX_FILE_SIZE, NAME_MAX, ROOT_INO, SYMLINK_MAX } from "../core/types.ts";
import { DEFAULT_CIPHER } from "../core/unlock.ts";
import type { Database } from "../db/database.ts";
import { HISTORY_INVARIANTS } from "./historyinvariants.ts";
import { type Invariant, rowsOf } from "./invariant.ts";
import { NUMBER_MAX } from "./mender.ts";
import { REMOTE_INVARIANTS } from "./remoteinvariants.ts";
import { XATTR_INVARIANTS } from "./xattrinvariants.ts";

/** Larger epochs are damage, not history. */
const EPOCH_MAX = 2 ** 32;
const U32 = 2 ** 32 - 1;
const SMALLEST_BLOCK = 512;
/** Numbers below are kept: 1 is the root, and readdir's cookies 1 and 2 are "." and "..". */
const FIRST_SERIAL = 16;

/** What a reader must know of, and how it shows that it must. */
const FEATURES: readonly { readonly feature: Feature; readonly text: string; readonly used: string }[] = [
  {
    feature: "compression",
    text: "blocks are compressed",
    used: `EXISTS (SELECT 1 FROM block WHERE codec <> ${RAW})`,
  },
  {
    feature: "block-size",
    text: "block sizes are no powers of two",
    used: `EXISTS (SELECT 1 FROM meta WHERE key = 'block_size' AND value & (value - 1) <> 0
      UNION ALL SELECT 1 FROM inode WHERE block_size & (block_size - 1) <> 0)`,
  },
];
const hasFeature = (feature: Feature) => `EXISTS (
  SELECT 1 FROM meta, json_each(iif(json_valid(meta.value), meta.value, '[]')) AS f
  WHERE meta.key = 'features_incompatible' AND f.value = '${feature}')`;
const META = (key: string) => `(SELECT value FROM meta WHERE key = '${key}')`;
const IS = (type: number, table = "i") => `(${table}.mode & ${S_IFMT}) = ${type}`;
const INODE = (text: string) => `SELECT i.ino, ${text}, NULL, NULL FROM inode AS i`;
const ENTRY = (text: string) => `SELECT d.ino, ${text}, d.parent, d.name FROM dirent AS d`;
const LIVE_TABLES = ["inode", "dirent", "xattr", "extent"] as const;
/** Columns that tell a row of a table from another, beside its epochs. */
const KEYS = { inode: ["ino"], dirent: ["parent", "name"], xattr: ["ino", "name"], extent: ["ino", "idx"] };
const TYPES = [1, 2, 4, 6, 8, 10, 12].map((type) => type << 12).join(", ");

const each = (build: (table: (typeof LIVE_TABLES)[number]) => string) =>
  LIVE_TABLES.map(build).join(" UNION ALL ");
const sameKey = (table: (typeof LIVE_TABLES)[number], a: string, b: string) =>
  KEYS[table].map((column) => `${a}.${column} = ${b}.${column}`).join(" AND ");

/** The latest epoch that any row speaks of, as far as it can be one. */
const LATEST = `(SELECT ifnull(max(epoch), 1) FROM (${each(
  (table) => `SELECT max(born) AS epoch FROM ${table} WHERE born <= ${EPOCH_MAX}
    UNION ALL SELECT max(died) FROM ${table}_past WHERE died <= ${EPOCH_MAX}`,
)}))`;
const RAISE_EPOCH = `UPDATE meta SET value = ${LATEST} WHERE key = 'epoch' AND value < ${LATEST}`;
const clampBorn = (table: string) => [
  RAISE_EPOCH,
  `UPDATE ${table} SET born = 1 WHERE born < 1`,
  `UPDATE ${table} SET born = ${META("epoch")} WHERE born > ${META("epoch")}`,
];

/** Keys of meta, what their value must be, and what it becomes where it is not. */
const META_RULES: Readonly<Record<string, readonly [valid: string, instead: string]>> = {
  format: ["typeof(value) = 'text' AND value GLOB '[0-9]*.[0-9]*.[0-9]*'", `'${FORMAT}'`],
  volume_id: ["typeof(value) = 'blob' AND length(value) = 16", "randomblob(16)"],
  replica_id: ["typeof(value) = 'integer' AND value >= 0", "random() & 9223372036854775807"],
  block_size: [
    `typeof(value) = 'integer' AND ${isBlockSizeSql("value")}`,
    `ifnull((SELECT block_size FROM inode WHERE ${isBlockSizeSql("block_size")}
      GROUP BY block_size ORDER BY count(*) DESC LIMIT 1), ${usualBlockSize(DEFAULT_CIPHER.pageSize)})`,
  ],
  epoch: [`typeof(value) = 'integer' AND value BETWEEN 1 AND ${EPOCH_MAX}`, LATEST],
  next_serial: [
    `typeof(value) = 'integer' AND value BETWEEN ${FIRST_SERIAL} AND ${NUMBER_MAX}`,
    String(FIRST_SERIAL),
  ],
  next_block: [
    `typeof(value) = 'integer' AND value BETWEEN 1 AND ${NUMBER_MAX + 1}`,
    `ifnull((SELECT max(id) FROM block WHERE id <= ${NUMBER_MAX}), 0) + 1`,
  ],
  created_ns: ["typeof(value) = 'integer'", "ifnull((SELECT min(btime_ns) FROM inode), 0)"],
  features: ["CASE WHEN json_valid(value) THEN json_type(value) = 'array' ELSE 0 END", "'[]'"],
  features_incompatible: ["CASE WHEN json_valid(value) THEN json_type(value) = 'array' ELSE 0 END", "'[]'"],
};

/** Whether the inode has what belongs to a type and to no other. */
const SUPPORTS = (type: string) => `CASE ${type}
  WHEN ${S_IFREG} THEN i.block_size > 0 AND i.target IS NULL
  WHEN ${S_IFLNK} THEN i.target IS NOT NULL
  WHEN ${S_IFDIR} THEN i.block_size = 0 AND i.target IS NULL AND (i.parent > 0 OR i.nlink = 0)
  ELSE i.block_size = 0 AND i.target IS NULL AND i.parent = 0 END`;

const NO_BLOCK = "NOT EXISTS (SELECT 1 FROM block AS b WHERE b.id = partial_block.block)";
const BAD_PARTIAL = `SELECT 0, 'block ' || block || ' is not as this partial replica notes it', NULL, NULL FROM partial_block
  WHERE (used > 0) = ${NO_BLOCK} OR used < 0 OR length(id) <> 32`;
/** Blocks that can be fetched: where they are not here they are not lost. */
const AWAY = "SELECT block FROM partial_block WHERE length(id) = 32";

/** A row of `extent` or `extent_past` whose block is not there, with the bytes that are lost with it. */
const missingBlock = (table: string, when: string, away: string) => `
  SELECT e.ino, 'bytes ' || (e.idx * ifnull(i.block_size, 0)) || ' to '
    || (min((e.idx + 1) * ifnull(i.block_size, 0), max(ifnull(i.size, 0), e.idx * ifnull(i.block_size, 0) + 1)) - 1)
    || '${when} are lost: block ' || e.block || ' does not exist', NULL, NULL
  FROM ${table} AS e LEFT JOIN block AS b ON b.id = e.block LEFT JOIN inode AS i ON i.ino = e.ino
  WHERE e.block <> 0 AND b.id IS NULL AND e.block NOT IN (${away})`;
const awayIn = (db: Database) => (isPartial(db) ? AWAY : "SELECT 0");

const ALL_EXTENTS = `(SELECT ino, block, shared FROM extent UNION ALL SELECT ino, block, shared FROM extent_past)`;

/** Bytes that a block of this extent may have: it never reaches past the end of its file. */
const MOST = "max(0, min(i.block_size, i.size - e.idx * i.block_size))";

/** Whether an inode was there in some epoch in which the past row `p` held. */
const lived = (column: string) => `(
  EXISTS (SELECT 1 FROM inode AS i WHERE i.ino = p.${column} AND i.born < p.died)
  OR EXISTS (SELECT 1 FROM inode_past AS q WHERE q.ino = p.${column} AND q.born < p.died AND p.born < q.died))`;
/** Past rows without their inode. */
const ORPHANED_PAST = [
  ["dirent_past", "parent"],
  ["dirent_past", "ino"],
  ["xattr_past", "ino"],
  ["extent_past", "ino"],
] as const;

export const INVARIANTS: readonly Invariant[] = [
  {
    kind: "header",
    *broken(db) {
      if (Number(db.pragma("application_id")) !== APPLICATION_ID)
        yield { ino: 0, text: "the database does not say that it is a sqlfuse volume" };
      if (Number(db.pragma("user_version")) !== FORMAT_MAJOR)
        yield { ino: 0, text: `user_version is ${db.pragma("user_version")}, not ${FORMAT_MAJOR}` };
    },
    remedy: "is set",
    mend: [`PRAGMA application_id = ${APPLICATION_ID}`, `PRAGMA user_version = ${FORMAT_MAJOR}`],
  },
  {
    kind: "meta",
    broken: Object.entries(META_RULES)
      .map(
        ([key, [valid]]) => `SELECT 0, 'meta.${key} is ' ||
          ifnull((SELECT CASE typeof(value) WHEN 'blob' THEN quote(value) ELSE value END FROM meta WHERE key = '${key}'), 'missing'),
          NULL, NULL WHERE NOT EXISTS (SELECT 1 FROM meta WHERE key = '${key}' AND (${valid}))`,
      )
      .join(" UNION ALL "),
    remedy: "is set again from what the volume holds",
    mend: Object.entries(META_RULES).map(
      ([key, [valid, instead]]) => `INSERT INTO meta (key, value) SELECT '${key}', ${instead}
        WHERE NOT EXISTS (SELECT 1 FROM meta WHERE key = '${key}' AND (${valid}))
        ON CONFLICT (key) DO UPDATE SET value = excluded.value`,
    ),
  },
  {
    kind: "meta-head",
    broken: `SELECT 0, 'meta.head is ' || quote(value), NULL, NULL FROM meta WHERE key = 'head'
      AND (typeof(value) <> 'text' OR value NOT GLOB '[1-9]* ${"[0-9a-f]".repeat(16)}')`,
    remedy: "is removed: a head file then says that the volume is older",
    mend: ["DELETE FROM meta WHERE key = 'head'"],
  },
  {
    kind: "meta-compression",
    broken: `SELECT 0, 'meta.compression is ' || ifnull((SELECT quote(value) FROM meta WHERE key = 'compression'), 'missing'),
      NULL, NULL WHERE NOT EXISTS (SELECT 1 FROM meta WHERE key = 'compression' AND value IN ('none', 'fast', 'strong'))
      AND (EXISTS (SELECT 1 FROM meta WHERE key = 'compression') OR ${META("format")} NOT GLOB '1.0.*')`,
    remedy: "nothing is compressed from now on",
    mend: [
      `INSERT INTO meta (key, value) VALUES ('compression', 'none') ON CONFLICT (key) DO UPDATE SET value = excluded.value`,
    ],
  },
  // --- epochs
  ...LIVE_TABLES.map(
    (table): Invariant => ({
      kind: `${table === "dirent" ? "entry" : table}-born`,
      broken:
        table === "dirent"
          ? `${ENTRY("'the entry is born in epoch ' || d.born")} WHERE d.born NOT BETWEEN 1 AND ${META("epoch")}`
          : `SELECT t.ino, '${{ inode: "it", xattr: "an attribute", extent: "an extent" }[table]} is born in epoch ' || t.born,
              NULL, NULL FROM ${table} AS t WHERE t.born NOT BETWEEN 1 AND ${META("epoch")}`,
      remedy: "the volume's epoch is advanced to it; where it cannot be one, it becomes the volume's",
      mend: clampBorn(table),
    }),
  ),
  {
    kind: "past-epochs",
    broken: each(
      (
        table,
      ) => `SELECT ino, 'a past ${table} row is born in epoch ' || born || ' and died in ' || died, NULL, NULL
        FROM ${table}_past WHERE NOT (born >= 1 AND born < died AND died <= ${META("epoch")})`,
    ),
    remedy: "the volume's epoch is advanced; a row that held in no epoch is dropped",
    mend: [
      RAISE_EPOCH,
      ...LIVE_TABLES.map(
        (table) =>
          `DELETE FROM ${table}_past WHERE NOT (born >= 1 AND born < died AND died <= ${META("epoch")})`,
      ),
    ],
  },
  {
    kind: "past-overlap",
    broken: each(
      (table) => `SELECT p.ino, 'two past ${table} rows hold in epoch ' || q.born, NULL, NULL
        FROM ${table}_past AS p JOIN ${table}_past AS q ON ${sameKey(table, "p", "q")} AND q.died > p.died
        WHERE q.born < p.died
        UNION ALL SELECT p.ino, 'the ${table} row and a past one of it both hold in epoch ' || t.born, NULL, NULL
        FROM ${table}_past AS p JOIN ${table} AS t ON ${sameKey(table, "p", "t")} WHERE t.born < p.died`,
    ),
    remedy: "the later row holds from the end of the earlier one",
    mend: LIVE_TABLES.flatMap((table) => {
      const before = (of: string) =>
        `SELECT max(p.died) FROM ${table}_past AS p WHERE ${sameKey(table, "p", of)}`;
      return [
        `UPDATE ${table}_past AS q SET born = (${before("q")} AND p.died < q.died)
          WHERE born < (${before("q")} AND p.died < q.died)`,
        `UPDATE ${table} AS t SET born = (${before("t")}) WHERE born < (${before("t")})`,
      ];
    }),
  },
  {
    kind: "past-owner",
    broken: ORPHANED_PAST.map(
      ([table, column]) => `SELECT p.${column}, 'a row of ${table} that died in epoch ' || p.died
        || ' belongs to an inode that was not there', NULL, NULL FROM ${table} AS p WHERE NOT ${lived(column)}
        AND NOT EXISTS (SELECT 1 FROM inode_past WHERE born < 1 OR born >= died)`,
    ).join(" UNION ALL "),
    remedy: "the row is dropped from the past",
    mend: ORPHANED_PAST.map(([table, column]) => `DELETE FROM ${table} AS p WHERE NOT ${lived(column)}`),
  },
  ...HISTORY_INVARIANTS,
  ...REMOTE_INVARIANTS,
  // --- numbers
  {
    kind: "inode-number",
    broken: `SELECT 0, 'inode ' || n.ino || ' has a number that none can have', NULL, NULL
      FROM (SELECT ino FROM inode UNION SELECT parent FROM dirent UNION SELECT ino FROM extent UNION SELECT ino FROM xattr) AS n
      WHERE n.ino < 1 OR n.ino > ${NUMBER_MAX}
      UNION ALL ${INODE("'it has a number that is still to be given out'")}
      WHERE i.ino >= ${META("next_serial")} AND i.ino = (SELECT max(ino) FROM inode WHERE ino <= ${NUMBER_MAX})`,
    remedy: "gets a new number, or the counter of numbers is advanced",
    mend: (mender) => mender.renumberInodes(),
  },
  {
    kind: "block-number",
    broken: `SELECT ifnull(min(e.ino), 0), 'block ' || b.id || ' has a number that ' ||
        iif(b.id BETWEEN 1 AND ${NUMBER_MAX}, 'is still to be given out', 'none can have'), NULL, NULL
      FROM block AS b LEFT JOIN extent AS e ON e.block = b.id AND e.block <> 0
      WHERE b.id < 1 OR b.id > ${NUMBER_MAX} OR (b.id >= ${META("next_block")}
        AND b.id = (SELECT max(id) FROM block WHERE id <= ${NUMBER_MAX})) GROUP BY b.id`,
    remedy: "gets a new number, or the counter of numbers is advanced",
    mend: (mender) => mender.renumberBlocks(),
  },
  // --- inodes that are gone, and what they were
  {
    kind: "inode-type",
    broken: `${INODE("'mode ' || i.mode || ' is no type of file'")}
      WHERE (i.mode & ${S_IFMT}) NOT IN (${TYPES}) OR i.mode NOT BETWEEN 0 AND 65535`,
    remedy: "becomes what its content says",
    mend: [
      `UPDATE inode SET mode = (mode & 4095) | CASE
          WHEN target IS NOT NULL THEN ${S_IFLNK}
          WHEN block_size > 0 THEN ${S_IFREG}
          WHEN parent > 0 THEN ${S_IFDIR}
          ELSE ifnull((SELECT type FROM dirent WHERE dirent.ino = inode.ino AND type IN (${TYPES}) LIMIT 1), ${S_IFREG}) END
        WHERE (mode & ${S_IFMT}) NOT IN (${TYPES}) OR mode NOT BETWEEN 0 AND 65535`,
    ],
  },
  {
    kind: "entry-type",
    broken: `${ENTRY("'the entry says type ' || d.type || ', the inode has mode ' || i.mode")}
      JOIN inode AS i ON i.ino = d.ino WHERE d.type <> (i.mode & ${S_IFMT})`,
    remedy: "the inode's content decides which of them is right",
    mend: [
      `UPDATE inode AS i SET mode = (i.mode & 4095) | d.type FROM dirent AS d
        WHERE d.ino = i.ino AND d.type <> (i.mode & ${S_IFMT}) AND d.type IN (${TYPES})
        AND ${SUPPORTS("d.type")} AND NOT ${SUPPORTS(`(i.mode & ${S_IFMT})`)}`,
      `UPDATE dirent SET type = i.mode & ${S_IFMT} FROM inode AS i
        WHERE i.ino = dirent.ino AND dirent.type <> (i.mode & ${S_IFMT})`,
    ],
  },
  {
    kind: "root-missing",
    broken: `SELECT ${ROOT_INO}, 'there is no root directory', NULL, NULL WHERE NOT EXISTS
      (SELECT 1 FROM inode AS i WHERE ino = ${ROOT_INO} AND ${IS(S_IFDIR)} AND parent = ${ROOT_INO})`,
    remedy: "is made again",
    mend: (mender) => mender.makeRoot(),
  },
  {
    kind: "directory-gone",
    broken: `SELECT d.parent, 'the directory does not exist, ' || count(*) || ' entries of it do', NULL, NULL
      FROM dirent AS d LEFT JOIN inode AS p ON p.ino = d.parent WHERE p.ino IS NULL AND d.parent BETWEEN 1 AND ${NUMBER_MAX}
      GROUP BY d.parent`,
    remedy: "is made again, in its place or in /lost+found, with mode 0700",
    mend: (mender) => mender.remakeDirectories(),
  },
  {
    kind: "extent-owner",
    broken: `SELECT e.ino, 'the file does not exist, ' || count(*) || ' blocks of it do', NULL, NULL
        FROM extent AS e LEFT JOIN inode AS i ON i.ino = e.ino WHERE i.ino IS NULL GROUP BY e.ino
      UNION ALL SELECT e.ino, 'it has ' || count(*) || ' blocks but is no regular file', NULL, NULL
        FROM extent AS e JOIN inode AS i ON i.ino = e.ino WHERE NOT ${IS(S_IFREG)} GROUP BY e.ino`,
    remedy: "the file is made again from its blocks, in its place or in /lost+found, with mode 0600",
    mend: (mender) => mender.remakeFiles(),
  },
  {
    kind: "entry-dangling",
    broken: `${ENTRY("'the entry names inode ' || d.ino || ', which does not exist'")}
      LEFT JOIN inode AS i ON i.ino = d.ino WHERE i.ino IS NULL`,
    remedy: "the entry is removed, unless its file or directory can be made again",
    mend: ["DELETE FROM dirent WHERE NOT EXISTS (SELECT 1 FROM inode WHERE inode.ino = dirent.ino)"],
  },
  {
    kind: "inode-range",
    broken: `${INODE(`'owner ' || i.uid || ':' || i.gid || ', device ' || i.rdev || ', generation ' || i.generation || ', parent ' || i.parent
        || ' cannot be'`)}
      WHERE i.uid NOT BETWEEN 0 AND ${U32} OR i.gid NOT BETWEEN 0 AND ${U32} OR i.generation NOT BETWEEN 0 AND ${U32}
      OR i.rdev NOT BETWEEN 0 AND ${U32} OR (i.rdev <> 0 AND (i.mode & ${S_IFMT}) NOT IN (${S_IFCHR}, ${S_IFBLK}))
      OR (i.parent <> 0 AND (NOT ${IS(S_IFDIR)} OR (i.nlink = 0 AND i.ino NOT IN (SELECT ino FROM dirent))))`,
    remedy: "what cannot be becomes 0",
    mend: [
      ...["uid", "gid", "generation", "rdev"].map(
        (column) => `UPDATE inode SET ${column} = 0 WHERE ${column} NOT BETWEEN 0 AND ${U32}`,
      ),
      `UPDATE inode SET rdev = 0 WHERE rdev <> 0 AND (mode & ${S_IFMT}) NOT IN (${S_IFCHR}, ${S_IFBLK})`,
      `UPDATE inode SET parent = 0 WHERE parent <> 0
        AND ((mode & ${S_IFMT}) <> ${S_IFDIR} OR (nlink = 0 AND ino NOT IN (SELECT ino FROM dirent)))`,
    ],
  },
  // --- entries
  {
    kind: "entry-root",
    broken: `${ENTRY("'the entry names the root directory'")} WHERE d.ino = ${ROOT_INO}`,
    remedy: "the entry is removed",
    mend: [`DELETE FROM dirent WHERE ino = ${ROOT_INO}`],
  },
  {
    kind: "entry-parent",
    broken: `${ENTRY("'the entry is in inode ' || d.parent || ', which is no directory'")}
      JOIN inode AS p ON p.ino = d.parent WHERE NOT ${IS(S_IFDIR, "p")}`,
    remedy: "moves to /lost+found",
    mend: (mender) =>
      mender.moveEntries(
        `SELECT d.parent, d.name, d.ino FROM dirent AS d JOIN inode AS p ON p.ino = d.parent WHERE NOT ${IS(S_IFDIR, "p")}`,
      ),
  },
  {
    kind: "entry-name",
    broken: `${ENTRY("'the name of the entry cannot be'")}
      WHERE length(d.name) NOT BETWEEN 1 AND ${NAME_MAX} OR d.name IN (x'2e', x'2e2e')
      OR instr(d.name, x'00') OR instr(d.name, x'2f')`,
    remedy: "moves to /lost+found",
    mend: (mender) =>
      mender.moveEntries(
        `SELECT d.parent, d.name, d.ino FROM dirent AS d
          WHERE length(d.name) NOT BETWEEN 1 AND ${NAME_MAX} OR d.name IN (x'2e', x'2e2e')
          OR instr(d.name, x'00') OR instr(d.name, x'2f')`,
      ),
  },
  {
    kind: "entry-cookie",
    broken: `${ENTRY("'the entry has the cookie ' || d.id || ', which cannot be'")} WHERE d.id <= 2 OR d.id > ${NUMBER_MAX}
      UNION ALL ${ENTRY("'the entry has the cookie ' || d.id || ', which is still to be given out'")}
      WHERE d.id >= ${META("next_serial")} AND d.id = (SELECT max(id) FROM dirent WHERE id <= ${NUMBER_MAX})
      UNION ALL ${ENTRY("'the entry has the cookie ' || d.id || ', which another has as well'")}
      WHERE d.id IN (SELECT id FROM dirent GROUP BY id HAVING count(*) > 1)`,
    remedy: "gets a new one, or the counter of numbers is advanced",
    mend: (mender) =>
      mender.renewCookies(`SELECT d.parent, d.name, d.ino FROM dirent AS d WHERE d.id <= 2 OR d.id > ${NUMBER_MAX}
        OR d.id IN (SELECT id FROM dirent GROUP BY id HAVING count(*) > 1)`),
  },
  // --- the tree
  {
    kind: "directory-parent",
    broken: `${INODE("'its parent is ' || i.parent || ', its entries are in ' || ifnull(group_concat(d.parent), 'none')")}
      LEFT JOIN dirent AS d ON d.ino = i.ino WHERE ${IS(S_IFDIR)} AND i.ino <> ${ROOT_INO}
      GROUP BY i.ino HAVING count(d.ino) > 1 OR i.parent <> max(d.parent)`,
    remedy: "keeps one entry, and its parent is that entry's",
    mend: (mender) => mender.nameDirectoriesOnce(),
  },
  {
    kind: "directory-unreachable",
    broken: `WITH RECURSIVE reached(ino) AS (SELECT ${ROOT_INO} UNION
        SELECT d.ino FROM reached AS r JOIN dirent AS d ON d.parent = r.ino WHERE d.type = ${S_IFDIR})
      ${INODE("'no path leads to this directory'")}
      WHERE ${IS(S_IFDIR)} AND i.ino NOT IN reached
      AND (i.nlink <> 0 OR i.ino IN (SELECT parent FROM dirent) OR i.ino IN (SELECT ino FROM dirent))`,
    remedy: "moves to /lost+found, with what is in it",
    mend: (mender) => mender.reach(),
  },
  {
    kind: "file-unnamed",
    broken: `${INODE("'it has ' || i.nlink || ' links, but no entry names it'")}
      WHERE NOT ${IS(S_IFDIR)} AND i.nlink <> 0 AND i.ino NOT IN (SELECT ino FROM dirent)`,
    remedy: "gets an entry in /lost+found",
    mend: (mender) =>
      mender.placeAll(
        `SELECT ino FROM inode AS i WHERE NOT ${IS(S_IFDIR)} AND i.nlink <> 0 AND i.ino NOT IN (SELECT ino FROM dirent)`,
      ),
  },
  {
    kind: "link-count",
    broken: `${INODE("'it says ' || i.nlink || ' links, ' || count(d.ino) || ' entries name it'")}
      JOIN dirent AS d ON d.ino = i.ino WHERE NOT ${IS(S_IFDIR)}
      GROUP BY i.ino HAVING i.nlink <> count(d.ino)`,
    remedy: "the count is set",
    mend: [
      `UPDATE inode SET nlink = l.links FROM (SELECT ino, count(*) AS links FROM dirent GROUP BY ino) AS l
        WHERE l.ino = inode.ino AND (mode & ${S_IFMT}) <> ${S_IFDIR} AND nlink <> l.links`,
    ],
  },
  {
    kind: "directory-link-count",
    broken: `${INODE("'it says ' || i.nlink || ' links, it has ' || count(d.ino) || ' subdirectories'")}
      LEFT JOIN dirent AS d ON d.parent = i.ino AND d.type = ${S_IFDIR}
      WHERE ${IS(S_IFDIR)} AND (i.nlink <> 0 OR i.ino = ${ROOT_INO} OR i.ino IN (SELECT ino FROM dirent))
      GROUP BY i.ino HAVING i.nlink <> 2 + count(d.ino)`,
    remedy: "the count is set",
    mend: [
      `UPDATE inode AS i SET nlink = 2 + (SELECT count(*) FROM dirent AS d WHERE d.parent = i.ino AND d.type = ${S_IFDIR})
        WHERE ${IS(S_IFDIR)} AND (i.nlink <> 0 OR i.ino = ${ROOT_INO} OR i.ino IN (SELECT ino FROM dirent))
        AND nlink <> 2 + (SELECT count(*) FROM dirent AS d WHERE d.parent = i.ino AND d.type = ${S_IFDIR})`,
    ],
  },
  // --- content
  {
    kind: "symlink-target",
    broken: `${INODE("'its target has ' || ifnull(length(i.target), 'no') || ' bytes, its size is ' || i.size")}
      WHERE ${IS(S_IFLNK)} <> (i.target IS NOT NULL)
      OR (${IS(S_IFLNK)} AND (length(i.target) <> i.size OR length(i.target) NOT BETWEEN 1 AND ${SYMLINK_MAX}))`,
    remedy: "its size is set; one that cannot be a target becomes a regular file that holds it",
    mend: (mender) => mender.mendSymlinks(SYMLINK_MAX),
  },
  {
    kind: "block-size",
    broken: `${INODE("'its blocks have ' || i.block_size || ' bytes'")}
      WHERE CASE WHEN ${IS(S_IFREG)}
        THEN NOT ${isBlockSizeSql("i.block_size")}
        ELSE i.block_size <> 0 END`,
    remedy: "is told from its blocks",
    mend: (mender) => {
      mender.db.exec(
        `UPDATE inode SET block_size = 0 WHERE (mode & ${S_IFMT}) <> ${S_IFREG} AND block_size <> 0`,
      );
      mender.guessBlockSizes(`SELECT ino FROM inode AS i WHERE ${IS(S_IFREG)} AND
        NOT ${isBlockSizeSql("i.block_size")}`);
    },
  },
  {
    kind: "extent-index",
    broken: `SELECT e.ino, 'a block of it is at index ' || e.idx, NULL, NULL FROM extent AS e JOIN inode AS i ON i.ino = e.ino
      WHERE e.idx < 0 OR e.idx > ${MAX_FILE_SIZE} / max(i.block_size, ${SMALLEST_BLOCK})`,
    remedy: "the block goes to /lost+found",
    mend: [
      `DELETE FROM extent AS e WHERE e.idx < 0 OR e.idx > ${MAX_FILE_SIZE} /
        max((SELECT block_size FROM inode AS i WHERE i.ino = e.ino), ${SMALLEST_BLOCK})`,
    ],
  },
  {
    kind: "extent-shared",
    broken: `SELECT ino, 'a block of it is neither shared nor not: ' || shared, NULL, NULL
      FROM ${ALL_EXTENTS} WHERE shared NOT IN (0, 1)`,
    remedy: "it counts as shared",
    mend: ["extent", "extent_past"].map(
      (table) => `UPDATE ${table} SET shared = 1 WHERE shared NOT IN (0, 1)`,
    ),
  },
  {
    kind: "block-codec",
    broken: `SELECT ifnull(min(e.ino), 0), 'block ' || b.id || ' has codec ' || b.codec, NULL, NULL
      FROM block AS b LEFT JOIN extent AS e ON e.block = b.id WHERE NOT ${knownCodec("b")} GROUP BY b.id`,
    remedy: "cannot be read: a hole takes its place",
    mend: [`DELETE FROM block AS b WHERE NOT ${knownCodec("b")}`],
  },
  ...FEATURES.map(
    ({ feature, text, used }): Invariant => ({
      kind: "meta-feature",
      broken: `SELECT 0, '${text}, and meta.features_incompatible does not say so', NULL, NULL
      WHERE NOT ${hasFeature(feature)} AND ${used}`,
      remedy: "it says so",
      mend: [
        `UPDATE meta SET value = json_insert(value, '$[#]', '${feature}') WHERE key = 'features_incompatible'`,
      ],
    }),
  ),
  {
    kind: "block-hash",
    broken: `SELECT ifnull(min(e.ino), 0), 'block ' || b.id || ' has a hash of ' || length(b.hash) || ' bytes', NULL, NULL
      FROM block AS b LEFT JOIN extent AS e ON e.block = b.id WHERE b.hash IS NOT NULL AND length(b.hash) NOT BETWEEN 16 AND 64 GROUP BY b.id`,
    remedy: "the hash is dropped",
    mend: ["UPDATE block SET hash = NULL WHERE hash IS NOT NULL AND length(hash) NOT BETWEEN 16 AND 64"],
  },
  {
    kind: "partial-block",
    broken: (db) => (isPartial(db) ? rowsOf(db, BAD_PARTIAL) : []),
    remedy: "it is noted as what it is",
    mend: [
      `UPDATE partial_block SET used = 0 WHERE used <> 0 AND ${NO_BLOCK}`,
      `UPDATE partial_block SET used = 1 WHERE used <= 0 AND NOT ${NO_BLOCK}`,
      "DELETE FROM partial_block WHERE length(id) <> 32",
    ],
  },
  {
    kind: "block-missing",
    broken: (db) =>
      rowsOf(
        db,
        `${missingBlock("extent", "", awayIn(db))} UNION ALL ${missingBlock("extent_past", " of its past", awayIn(db))}`,
      ),
    remedy: "a hole takes its place",
    mend: ({ db }) => {
      for (const table of ["extent", "extent_past"])
        db.exec(
          `DELETE FROM ${table} WHERE block <> 0 AND NOT EXISTS (SELECT 1 FROM block WHERE block.id = ${table}.block)
             AND block NOT IN (${awayIn(db)})`,
        );
    },
  },
  {
    kind: "block-shared",
    broken: `SELECT min(e.ino), 'block ' || e.block || ' belongs to ' || count(*) || ' places (inodes ' || group_concat(DISTINCT e.ino)
        || ') that do not all say that it is shared', NULL, NULL
      FROM ${ALL_EXTENTS} AS e WHERE e.block <> 0 GROUP BY e.block HAVING count(*) > 1 AND min(e.shared) = 0`,
    remedy: "counts as shared from now on; whose it was cannot be told",
    mend: [
      `CREATE TEMP TABLE shared_block AS SELECT block FROM ${ALL_EXTENTS} WHERE block <> 0
        GROUP BY block HAVING count(*) > 1 AND min(shared) = 0`,
      "UPDATE extent SET shared = 1 WHERE block IN (SELECT block FROM shared_block)",
      "UPDATE extent_past SET shared = 1 WHERE block IN (SELECT block FROM shared_block)",
      "DROP TABLE shared_block",
    ],
  },
  {
    kind: "size",
    broken: `${INODE("'its size is ' || i.size")}
      WHERE i.size NOT BETWEEN 0 AND ${MAX_FILE_SIZE} OR (i.size > 0 AND NOT ${IS(S_IFREG)} AND NOT ${IS(S_IFLNK)})`,
    remedy: "is where its last block ends",
    mend: (mender) => {
      mender.db.exec(
        `UPDATE inode SET size = 0 WHERE size <> 0 AND (mode & ${S_IFMT}) NOT IN (${S_IFREG}, ${S_IFLNK})`,
      );
      mender.guessSizes(
        `SELECT ino FROM inode AS i WHERE ${IS(S_IFREG)} AND i.size NOT BETWEEN 0 AND ${MAX_FILE_SIZE}`,
      );
    },
  },
  {
    kind: "block-length",
    broken: `SELECT e.ino, 'block ' || e.block || ' at ' || (e.idx * i.block_size) || ' has ' || ${contentLength("b")} || ' bytes, more than the '
        || ${MOST} || ' that its file has there', NULL, NULL
      FROM extent AS e JOIN block AS b ON b.id = e.block JOIN inode AS i ON i.ino = e.ino
      WHERE i.nlink <> 0 AND ${contentLength("b")} > ${MOST}`,
    remedy: "the file grows to where its last block ends; what exceeds a block is cut",
    mend: (mender) => mender.mendLengths(MOST),
  },
  {
    kind: "extent-count",
    broken: `${INODE("'it says ' || i.extents || ' blocks, it has ' || count(e.idx)")}
      LEFT JOIN extent AS e ON e.ino = i.ino GROUP BY i.ino HAVING i.extents <> count(e.idx)`,
    remedy: "the count is set",
    mend: [
      `UPDATE inode SET extents = (SELECT count(*) FROM extent WHERE extent.ino = inode.ino)
        WHERE extents <> (SELECT count(*) FROM extent WHERE extent.ino = inode.ino)`,
    ],
  },
  {
    kind: "block-unowned",
    broken: `SELECT 0, 'no file has block ' || b.id || ' of ' || ${contentLength("b")} || ' bytes', NULL, NULL FROM block AS b
      WHERE b.id NOT IN (SELECT block FROM extent) AND b.id NOT IN (SELECT block FROM extent_past)`,
    remedy: "goes to /lost+found, together with those that follow it",
    mend: (mender) => mender.placeBlocks(),
  },
  ...XATTR_INVARIANTS,
];
