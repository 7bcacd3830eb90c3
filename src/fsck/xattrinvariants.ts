/** What must hold of extended attributes, ACLs among them, which SQL alone cannot read: the last part of INVARIANTS. */
import { FsError } from "../base/errno.ts";
import {
  ACL_ACCESS,
  ACL_DEFAULT,
  type AclEntry,
  applyMode,
  decodeAcl,
  encodeAcl,
  modeOf,
} from "../core/acl.ts";
import { isDirectory, isSymlink } from "../core/mode.ts";
import { type Ino, XATTR_LIST_MAX, XATTR_NAME_MAX, XATTR_SIZE_MAX } from "../core/types.ts";
import type { Database } from "../db/database.ts";
import type { Invariant } from "./invariant.ts";

const hex = (text: string) => `x'${Buffer.from(text).toString("hex")}'`;
const IN_NAMESPACE = `(${["user.", "trusted.", "security."]
  .map((space) => `(substr(x.name, 1, ${space.length}) = ${hex(space)} AND length(x.name) > ${space.length})`)
  .join(" OR ")} OR x.name IN (${hex(ACL_ACCESS.toString())}, ${hex(ACL_DEFAULT.toString())}))`;
const BAD_XATTR_NAME = `(length(x.name) NOT BETWEEN 1 AND ${XATTR_NAME_MAX} OR instr(x.name, x'00') OR NOT ${IN_NAMESPACE})`;
const XATTR = "'attribute ' || CAST(x.name AS TEXT)";

export const XATTR_INVARIANTS: readonly Invariant[] = [
  {
    kind: "xattr-owner",
    broken: `SELECT x.ino, ${XATTR} || ' belongs to an inode that does not exist', NULL, NULL
      FROM xattr AS x LEFT JOIN inode AS i ON i.ino = x.ino WHERE i.ino IS NULL`,
    remedy: "is removed",
    mend: ["DELETE FROM xattr WHERE NOT EXISTS (SELECT 1 FROM inode WHERE inode.ino = xattr.ino)"],
  },
  {
    kind: "xattr-name",
    broken: `SELECT x.ino, ${XATTR} || ' has a name that cannot be', NULL, NULL FROM xattr AS x WHERE ${BAD_XATTR_NAME}`,
    remedy: "is called user.NAME from now on; where that cannot be, it is removed",
    mend: [
      `UPDATE OR IGNORE xattr AS x SET name = CAST(${hex("user.")} || x.name AS BLOB)
        WHERE ${BAD_XATTR_NAME} AND length(x.name) BETWEEN 1 AND ${XATTR_NAME_MAX - 5} AND NOT instr(x.name, x'00')`,
      `DELETE FROM xattr AS x WHERE ${BAD_XATTR_NAME}`,
    ],
  },
  {
    kind: "xattr-limits",
    broken: `SELECT x.ino, ${XATTR} || ' has ' || length(x.value) || ' bytes', NULL, NULL FROM xattr AS x
        WHERE length(x.value) > ${XATTR_SIZE_MAX}
      UNION ALL SELECT x.ino, 'the names of its attributes have ' || sum(length(x.name) + 1) || ' bytes', NULL, NULL
        FROM xattr AS x GROUP BY x.ino HAVING sum(length(x.name) + 1) > ${XATTR_LIST_MAX}`,
    remedy: "what exceeds the limits is removed",
    mend: [
      `DELETE FROM xattr WHERE length(value) > ${XATTR_SIZE_MAX}`,
      `DELETE FROM xattr WHERE (ino, name) IN (SELECT ino, name FROM
        (SELECT ino, name, sum(length(name) + 1) OVER (PARTITION BY ino ORDER BY name) AS bytes FROM xattr)
        WHERE bytes > ${XATTR_LIST_MAX})`,
    ],
  },
  {
    kind: "acl",
    *broken(db) {
      for (const { ino, text } of badAcls(db)) yield { ino, text };
    },
    remedy: "an ACL that is none is removed; one that disagrees with the mode follows it",
    mend: ({ db }) => {
      const remove = db.prepare("DELETE FROM xattr WHERE ino = ?1 AND name = ?2");
      const update = db.prepare("UPDATE xattr SET value = ?3 WHERE ino = ?1 AND name = ?2");
      for (const { ino, name, instead } of [...badAcls(db)]) {
        if (instead === undefined) remove.bindInt(1, ino).bindBlob(2, name).run();
        else update.bindInt(1, ino).bindBlob(2, name).bindBlob(3, instead).run();
      }
    },
  },
];

interface BadAcl {
  readonly ino: Ino;
  readonly name: Uint8Array;
  readonly text: string;
  /** The value that it should have; undefined: none. */
  readonly instead: Uint8Array | undefined;
}

function* badAcls(db: Database): Generator<BadAcl> {
  const rows = db.prepare(
    `SELECT x.ino, x.name, x.value, i.mode FROM xattr AS x JOIN inode AS i ON i.ino = x.ino
      WHERE x.name IN (${hex(ACL_ACCESS.toString())}, ${hex(ACL_DEFAULT.toString())})`,
  );
  while (rows.step()) {
    const [ino, name, mode] = [rows.int(0) as Ino, rows.blob(1), rows.int(3)];
    const isAccess = ACL_ACCESS.equals(name);
    const called = isAccess ? "its ACL" : "its default ACL";
    const entries = aclOf(rows.blob(2));
    if (entries === undefined) yield { ino, name, text: `${called} is none`, instead: undefined };
    else if (isSymlink(mode) || (!isAccess && !isDirectory(mode)))
      yield { ino, name, text: `${called} cannot be`, instead: undefined };
    else if (isAccess && modeOf(entries) !== (mode & 0o777)) {
      const says = modeOf(entries).toString(8);
      applyMode(entries, mode);
      const text = `${called} says mode ${says}, the inode ${(mode & 0o777).toString(8)}`;
      yield { ino, name, text, instead: encodeAcl(entries) };
    }
  }
}

function aclOf(value: Uint8Array): AclEntry[] | undefined {
  try {
    const entries = decodeAcl(value);
    return entries.length === 0 ? undefined : entries;
  } catch (error) {
    if (error instanceof FsError) return undefined;
    throw error;
  }
}
