/** How far the remotes of a volume are, as the volume itself knows: nothing is asked of them. */
import type { Remote } from "../src/core/remotes.ts";
import type { Database } from "../src/db/database.ts";
import type { RemoteState } from "../src/host/logmessages.ts";
import type { Lag } from "../src/log/lag.ts";
import { EXIT, ToolError } from "./exitcodes.ts";
import { formatBytes, formatDuration, localTime } from "./output.ts";

export interface RemoteStatus extends Lag {
  /** Whether it lacks changes, and had everything longer ago than is asked for. */
  readonly state: "current" | "behind" | "stale";
  /** How long ago it had everything, for people. */
  readonly hadAll: string;
  /** Why the last push or pull of its mount failed. */
  readonly error?: string;
  /** As a line of a table. */
  readonly line: readonly string[];
}

export function listed({ name, url }: Remote): object {
  return { name, url };
}

/** `states`: what the mount knows, where there is one. */
export async function statusOf(
  db: Database,
  maxAgeMs: number,
  states: readonly RemoteState[] | undefined,
): Promise<RemoteStatus[]> {
  const { isReplica } = await import("../src/core/format.ts");
  const { lagsOf } = await import("../src/log/lag.ts");
  const follows = isReplica(db);
  return lagsOf(db).map((lag) => {
    const { name, url, segment, synced, epochs, files, bytes, behindMs } = lag;
    const at = synced === null ? undefined : new Date(synced);
    const error = states?.find((one) => one.name === name)?.error;
    const state = behindMs > maxAgeMs ? "stale" : epochs > 0 ? "behind" : "current";
    const what = epochs > 0 ? `${files} files, about ${formatBytes(bytes)}` : "nothing";
    return {
      ...lag,
      state,
      hadAll: at === undefined ? "never" : formatDuration(Math.abs(Date.now() - at.getTime())),
      ...(error === undefined ? {} : { error }),
      line: [
        name,
        state === "stale" ? "STALE" : state,
        String(segment),
        at === undefined ? "never" : localTime(at),
        follows ? "-" : what,
        url,
      ],
    };
  });
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
