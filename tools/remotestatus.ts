/** How far the remotes of a volume are, as the volume itself knows: nothing is asked of them. */
import type { Remote } from "../src/core/remotes.ts";
import type { Database } from "../src/db/database.ts";
import { EXIT, ToolError } from "./exitcodes.ts";
import { formatBytes, formatDuration, localTime } from "./output.ts";

export interface RemoteStatus {
  readonly name: string;
  readonly url: string;
  readonly epoch: number;
  readonly segment: number;
  /** When it had everything; null: never. */
  readonly synced: string | null;
  /** Epochs that were begun since. */
  readonly epochs: number;
  /** Whether it lacks changes, and had everything longer ago than is asked for. */
  readonly state: "current" | "behind" | "stale";
  /** Files and directories that changed since, and about how many bytes of them: whole blocks, before compression. */
  readonly files: number;
  readonly bytes: number;
  /** Milliseconds since it had everything, 0 where it has; of a replica since it looked. */
  readonly behindMs: number;
  /** The same for people. */
  readonly hadAll: string;
  /** As a line of a table. */
  readonly line: readonly string[];
}

export function listed({ name, url }: Remote): object {
  return { name, url };
}

export async function statusOf(db: Database, maxAgeMs: number): Promise<RemoteStatus[]> {
  const { isReplica, numberMeta, readMeta } = await import("../src/core/format.ts");
  const { listRemotes } = await import("../src/core/remotes.ts");
  const follows = isReplica(db);
  const current = numberMeta(db, "epoch");
  const changed = Number(readMeta(db, "changed") ?? current);
  return listRemotes(db).map((remote) => {
    const lacks = !follows && changed > remote.epoch;
    const { files, bytes } = lacks ? changesSince(db, remote.epoch) : { files: 0, bytes: 0 };
    const sinceMs = Date.now() - Number(remote.syncedNs / 1_000_000n);
    const never = remote.syncedNs === 0n;
    const hadAll = never ? "never" : formatDuration(Math.max(0, sinceMs));
    const { name, url, epoch, segment } = remote;
    const behindMs = lacks || follows ? sinceMs : 0;
    const state = behindMs > maxAgeMs ? "stale" : lacks ? "behind" : "current";
    const what = lacks ? `${files} files, about ${formatBytes(bytes)}` : "nothing";
    return {
      name,
      url,
      epoch,
      segment,
      synced: never ? null : new Date(Number(remote.syncedNs / 1_000_000n)).toISOString(),
      epochs: lacks ? changed - epoch : 0,
      files,
      bytes,
      state,
      behindMs,
      hadAll,
      line: [
        name,
        state === "stale" ? "STALE" : state,
        String(segment),
        never ? "never" : localTime(new Date(Number(remote.syncedNs / 1_000_000n))),
        follows ? "-" : what,
        url,
      ],
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

const UNIT_MS: Record<string, number> = { s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000, w: 604_800_000 };

/** Milliseconds; Infinity where none is given. */
export function maxAgeOf(text: string | undefined): number {
  if (text === undefined) return Infinity;
  const [, count, unit = ""] = /^(\d{1,6})([smhdw])$/.exec(text) ?? [];
  const unitMs = UNIT_MS[unit];
  if (count !== undefined && unitMs !== undefined) return Number(count) * unitMs;
  throw new ToolError(EXIT.usage, `--max-age ${text}: not a time such as 30m, 24h or 7d`);
}
