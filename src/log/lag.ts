/** How far the remotes of a volume are, as the volume itself knows: nothing is asked of them. */
import { isReplica, numberMeta, readMeta } from "../core/format.ts";
import { listRemotes, type Remote } from "../core/remotes.ts";
import type { Database } from "../db/database.ts";

export interface Lag {
  readonly name: string;
  readonly url: string;
  /** The last epoch that is there, or of a replica here. */
  readonly epoch: number;
  /** The last segment. */
  readonly segment: number;
  /** When it had everything, ISO 8601; of a replica when something came; null: never. */
  readonly synced: string | null;
  /** Epochs that were begun since. */
  readonly epochs: number;
  /** Files and directories that changed since, and about how many bytes of them: whole blocks, before compression. */
  readonly files: number;
  readonly bytes: number;
  /** Milliseconds since it had everything, 0 where it has; of a replica since something came. */
  readonly behindMs: number;
}

/** The last epoch in which anything was changed. */
function changedIn(db: Database): number {
  return Number(readMeta(db, "changed") ?? numberMeta(db, "epoch"));
}

/** Of the remotes of a volume, those that there is something to be pushed to. `salt`: of the volume's key. */
export function lacking(db: Database, salt: Buffer): Remote[] {
  const changed = changedIn(db);
  return listRemotes(db).filter(
    (one) => changed > one.epoch || one.pendingEpoch > 0 || !salt.equals(one.keySalt),
  );
}

export function lagsOf(db: Database): Lag[] {
  const follows = isReplica(db);
  const changed = changedIn(db);
  return listRemotes(db).map(({ name, url, epoch, segment, syncedNs }) => {
    const lacks = !follows && changed > epoch;
    const { files, bytes } = lacks ? changesSince(db, epoch) : { files: 0, bytes: 0 };
    const syncedMs = Number(syncedNs / 1_000_000n);
    return {
      name,
      url,
      epoch,
      segment,
      synced: syncedMs === 0 ? null : new Date(syncedMs).toISOString(),
      epochs: lacks ? changed - epoch : 0,
      files,
      bytes,
      // Noted by a clock that was ahead it is as good as never, and no reason to be silent.
      behindMs: lacks || follows ? Math.abs(Date.now() - syncedMs) : 0,
    };
  });
}

function changesSince(db: Database, epoch: number): { readonly files: number; readonly bytes: number } {
  const blocks = "(SELECT count(*) FROM extent AS e WHERE e.ino = i.ino AND e.born > ?1 AND e.block > 0)";
  const row = db.prepare(
    `SELECT count(*), ifnull(sum(min(size, block_size * ${blocks})), 0) FROM inode AS i WHERE born > ?1 AND nlink > 0`,
  );
  row.bindInt(1, epoch).step();
  const found = { files: row.int(0), bytes: row.int(1) };
  db.release(row);
  return found;
}
