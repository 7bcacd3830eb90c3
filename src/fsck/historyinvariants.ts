/** What must hold of snapshots, and of the past that they show: a part of INVARIANTS. */

import { hasSnapshots } from "../core/past.ts";
import { readRetention } from "../core/retention.ts";
import type { Database } from "../db/database.ts";
import type { Broken, Invariant } from "./invariant.ts";

const EPOCH = "(SELECT value FROM meta WHERE key = 'epoch')";
const BAD_EPOCH = `(epoch NOT BETWEEN 1 AND ${EPOCH} - 1)`;
const BAD_NAME = "(name IS NOT NULL AND length(CAST(name AS BLOB)) NOT BETWEEN 1 AND 255)";
/** The newest snapshot that shows the past row `p`. */
const SHOWN = `(SELECT max(epoch) FROM snapshot WHERE name IS NOT NULL AND epoch < p.died AND epoch >= p.born)`;
/** Whether inode `column` of `p` was there in that epoch. */
const WAS_THERE = (column: string) => `(
  EXISTS (SELECT 1 FROM inode AS i WHERE i.ino = p.${column} AND i.nlink > 0 AND i.born <= ${SHOWN})
  OR EXISTS (SELECT 1 FROM inode_past AS q WHERE q.ino = p.${column} AND q.nlink > 0 AND q.born <= ${SHOWN} AND ${SHOWN} < q.died))`;
const LOST_ENTRY = `${SHOWN} IS NOT NULL AND NOT (${WAS_THERE("ino")} AND ${WAS_THERE("parent")})`;

/** Rows of (ino, text), where the volume has snapshots at all. */
function ifKept(sql: string): Invariant["broken"] {
  return function* (db: Database): Generator<Broken> {
    if (!hasSnapshots(db)) return;
    const rows = db.prepare(sql);
    const found: Broken[] = [];
    while (rows.step()) found.push({ ino: Number(rows.bigint(0)), text: rows.text(1) });
    db.release(rows);
    yield* found;
  };
}

export const HISTORY_INVARIANTS: readonly Invariant[] = [
  {
    kind: "snapshot",
    broken: ifKept(
      `SELECT 0, 'snapshot ' || ifnull(name, '') || ' is of epoch ' || epoch || ', which is not closed' FROM snapshot
         WHERE ${BAD_EPOCH}
       UNION ALL SELECT 0, 'the snapshot of epoch ' || epoch || ' has a name that cannot be' FROM snapshot WHERE ${BAD_NAME}`,
    ),
    remedy: "it is dropped; one that has only a bad name is called recovered-EPOCH",
    mend: [
      `DELETE FROM snapshot WHERE ${BAD_EPOCH}`,
      `UPDATE snapshot SET name = 'recovered-' || epoch WHERE ${BAD_NAME}`,
    ],
  },
  {
    kind: "snapshot-flags",
    broken: ifKept(
      `SELECT 0, 'snapshot ' || ifnull(name, '') || ' is protected ' || protected || ', automatic ' || automatic
         FROM snapshot WHERE protected NOT IN (0, 1) OR automatic NOT IN (0, 1)`,
    ),
    remedy: "it counts as protected and not as automatic",
    mend: [
      "UPDATE snapshot SET protected = 1, automatic = 0 WHERE protected NOT IN (0, 1) OR automatic NOT IN (0, 1)",
    ],
  },
  {
    kind: "past-entry",
    broken: ifKept(
      `SELECT p.ino, 'the entry ' || CAST(p.name AS TEXT) || ' of snapshot ' || s.name
         || ' names an inode or is in a directory that is not in it'
         FROM dirent_past AS p JOIN snapshot AS s ON s.epoch = ${SHOWN} WHERE ${LOST_ENTRY}
         AND NOT EXISTS (SELECT 1 FROM inode_past WHERE born < 1 OR born >= died)`,
    ),
    remedy: "the entry is dropped from the past",
    mend: [`DELETE FROM dirent_past AS p WHERE ${LOST_ENTRY}`],
  },
  {
    kind: "meta-changed",
    broken: ifKept(
      `SELECT 0, 'meta.changed is ' || ifnull((SELECT quote(value) FROM meta WHERE key = 'changed'), 'missing')
         WHERE NOT EXISTS (SELECT 1 FROM meta WHERE key = 'changed' AND typeof(value) = 'integer'
           AND value BETWEEN 1 AND ${EPOCH})`,
    ),
    remedy: "it becomes the current epoch",
    mend: [
      `INSERT INTO meta (key, value) SELECT 'changed', ${EPOCH}
         WHERE true ON CONFLICT (key) DO UPDATE SET value = excluded.value`,
    ],
  },
  {
    kind: "meta-retention",
    *broken(db) {
      const row = db.prepare("SELECT CAST(value AS TEXT) FROM meta WHERE key = 'retention'");
      const text = row.step() ? row.text(0) : undefined;
      row.reset();
      db.release(row);
      if (text !== undefined && readRetention(text) === undefined)
        yield { ino: 0, text: `meta.retention is ${text}` };
    },
    remedy: "is removed: the usual one holds then",
    mend: ["DELETE FROM meta WHERE key = 'retention'"],
  },
];
