/** What must hold of what is noted of remotes: a part of INVARIANTS. Nothing there is lost: what is not noted is shipped again. */

import { isReplica } from "../core/format.ts";
import type { Database } from "../db/database.ts";
import type { Broken, Invariant } from "./invariant.ts";

const NO_REMOTE = "NOT EXISTS (SELECT 1 FROM remote AS r WHERE r.id = o.remote)";
const NO_OBJECT = `NOT EXISTS (SELECT 1 FROM remote_object AS o WHERE o.number = b.object AND o.remote = b.remote)`;
const BAD_OBJECT = `(${NO_REMOTE} OR length(o.name) <> 32 OR length(o.salt) <> 32)`;
const BAD_BLOCK = `(${NO_OBJECT} OR length(b.id) <> 32 OR b.place < 0 OR b.length < 0)`;
const BAD_EPOCH = "(epoch NOT BETWEEN 0 AND (SELECT value FROM meta WHERE key = 'epoch') - 1)";
const BAD_LOG = `(length(log) <> 16 OR length(secret) <> 32 OR segment < 0 OR (segment > 0 AND length(hash) <> 32))`;

/**
 * After a repair, inside its transaction: what it changed no epoch tells of. So the next push ships everything that the
 * volume keeps, and a replica takes all of its log again.
 */
export function startRemotesOver(db: Database): void {
  if (!hasRemotes(db)) return;
  const place = isReplica(db) ? ", segment = 0, hash = x''" : "";
  db.exec(`UPDATE remote SET epoch = 0, pending_epoch = 0${place}`);
}

function hasRemotes(db: Database): boolean {
  const table = db.prepare("SELECT 1 FROM main.sqlite_schema WHERE name = 'remote_block'");
  const exists = table.step();
  db.release(table);
  return exists;
}

/** One finding for all rows that a query counts, where the volume has remotes at all. */
function countOf(what: string, sql: string): Invariant["broken"] {
  return function* (db: Database): Generator<Broken> {
    if (!hasRemotes(db)) return;
    const row = db.prepare(sql);
    const count = row.step() ? row.int(0) : 0;
    db.release(row);
    if (count > 0) yield { ino: 0, text: `${count} ${what}` };
  };
}

export const REMOTE_INVARIANTS: readonly Invariant[] = [
  {
    kind: "remote",
    broken: countOf(
      "remotes have keys or a state that cannot be",
      `SELECT count(*) FROM remote WHERE ${BAD_EPOCH} OR ${BAD_LOG}`,
    ),
    remedy:
      "it is forgotten, and can be added anew; where only its epoch cannot be it starts over with the next push",
    mend: [`UPDATE remote SET epoch = 0 WHERE ${BAD_EPOCH}`, `DELETE FROM remote WHERE ${BAD_LOG}`],
  },
  {
    kind: "remote-object",
    broken: countOf(
      "objects are noted of no remote, or with names that cannot be",
      `SELECT count(*) FROM remote_object AS o WHERE ${BAD_OBJECT}`,
    ),
    remedy: "they are not noted any more",
    mend: [`DELETE FROM remote_object AS o WHERE ${BAD_OBJECT}`],
  },
  {
    kind: "remote-block",
    broken: countOf(
      "blocks are noted in objects that are not",
      `SELECT count(*) FROM remote_block AS b WHERE ${BAD_BLOCK}`,
    ),
    remedy: "they are not noted any more, and shipped again",
    mend: [`DELETE FROM remote_block AS b WHERE ${BAD_BLOCK}`],
  },
];
