/** `--watch` of push and pull: the same again at each interval, until a signal comes. */
import { setTimeout as sleep } from "node:timers/promises";
import type { Command } from "commander";
import { describeError, EXIT, ToolError } from "./exitcodes.ts";
import type { Breath } from "./interrupt.ts";
import { warn } from "./output.ts";

export interface WatchFlags {
  readonly watch?: true;
  readonly interval: string;
}

/** `what` is done, as "push what changed". */
export function addWatchOptions(command: Command, what: string): Command {
  return command
    .option("--watch", `go on until a signal comes: ${what} at each interval`)
    .option("--interval <seconds>", "with --watch: how long to wait in between", "10");
}

/** Seconds. @throws ToolError usage */
export function intervalOf(text: string): number {
  if (/^\d{1,6}$/.test(text) && Number(text) > 0) return Number(text);
  throw new ToolError(EXIT.usage, `--interval ${text}: not a number of seconds`);
}

/** What fails is told and tried again, but a wrong password or command line, which stays wrong. */
export async function watch(seconds: number, breath: Breath, round: () => Promise<void>): Promise<never> {
  for (;;) {
    try {
      await round();
    } catch (error) {
      breath.signal.throwIfAborted();
      const { message, code } = describeError(error);
      if (code === EXIT.wrongPassword || code === EXIT.usage) throw error;
      warn(message);
    }
    await sleep(seconds * 1000, undefined, { signal: breath.signal }).catch(() => {});
    breath.signal.throwIfAborted();
  }
}
