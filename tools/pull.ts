/** `sqlfuse pull FILE`: brings a replica up to date. */
import { realpathSync } from "node:fs";
import type { Command } from "commander";
import type { Fetched } from "../src/log/follower.ts";
import type { FollowResult } from "../src/log/replica.ts";
import { type AccessFlags, accessOf, addAccessOptions, rateOf } from "./access.ts";
import { requireEngine } from "./engine.ts";
import { addHelp } from "./help.ts";
import { type Breath, interruptible } from "./interrupt.ts";
import { addHeadOption, type HeadFlags, headFields, keepHead, readHeadOf } from "./loghead.ts";
import { addOutputOptions, formatBytes, type OutputFlags, say, tell, warn } from "./output.ts";
import { addPasswordOptions, type PasswordOptions, readPassword } from "./password.ts";
import { Progress } from "./progress.ts";
import { refuseMissing } from "./rewrite.ts";
import { addWatchOptions, intervalOf, type WatchFlags, watch } from "./watch.ts";

interface PullFlags extends PasswordOptions, OutputFlags, WatchFlags, AccessFlags, HeadFlags {}

export function addPull(program: Command): void {
  const command = program
    .command("pull")
    .summary("bring a replica up to date")
    .description(
      "Applies to the replica FILE what was pushed since. All segments are proved before the first is applied, and each " +
        "is applied whole or not at all. FILE must not be mounted.",
    )
    .argument("<file>", "the database file of a replica, which sqlfuse clone made");
  addHeadOption(command);
  addWatchOptions(command, "pull what is new");
  addAccessOptions(command);
  addPasswordOptions(command);
  addOutputOptions(command).action(pull);
  addHelp(command, {
    notes: [
      "With --watch a pull that fails is tried again at the next interval; with --json each pull is a line.",
    ],
    examples: ["sqlfuse pull replica.sqlite", "sqlfuse pull --watch replica.sqlite"],
  });
}

async function pull(file: string, flags: PullFlags): Promise<void> {
  const seconds = intervalOf(flags.interval);
  rateOf(flags.bwlimit);
  refuseMissing(file);
  await requireEngine();
  const password = await readPassword(flags, { path: file, confirm: false, warn });
  try {
    await interruptible("stopped; the replica is as of the last segment that was applied", async (breath) => {
      if (!flags.watch) {
        const result = await pullOnce(file, password, flags, breath);
        tell(flags, lineOf(file, result), jsonOf(file, result));
        return;
      }
      await watch(seconds, breath, () => pullAgain(file, password, flags, breath));
    });
  } finally {
    password.fill(0);
  }
}

/** One round of a watch. */
async function pullAgain(file: string, password: Buffer, flags: PullFlags, breath: Breath): Promise<void> {
  const result = await pullOnce(file, password, flags, breath);
  if (flags.json) say(JSON.stringify(jsonOf(file, result)));
  else if (result.segments > 0 && !flags.quiet) say(lineOf(file, result));
}

async function pullOnce(
  file: string,
  password: Buffer,
  flags: PullFlags,
  { breathe, signal }: Breath,
): Promise<FollowResult> {
  const { unlock } = await import("../src/core/unlock.ts");
  const { Replica } = await import("../src/log/replica.ts");
  const { openRemote } = await import("../src/log/remote.ts");
  const progress = new Progress(flags.quiet);
  const key = unlock(file, password);
  try {
    const replica = new Replica(file, key, warn);
    try {
      const seen = await readHeadOf(flags);
      const store = await openRemote(replica.url, accessOf(signal, progress, rateOf(flags.bwlimit)));
      const result = await replica.pull(store, {
        breathe,
        ...seen,
        password,
        onProgress: ({ bytes, blocks }: Fetched) =>
          progress.tally(`pulling: ${formatBytes(bytes)}, ${blocks} blocks`),
      });
      await keepHead(flags, seen.head, result);
      return result;
    } finally {
      replica.close();
    }
  } finally {
    progress.end();
    key.wipe();
  }
}

function lineOf(file: string, { segments, segment, bytes }: FollowResult): string {
  if (segments === 0) return `${file}: nothing new (segment ${segment})`;
  return `${file}: ${segments} segment${segments === 1 ? "" : "s"} applied, to ${segment}, ${formatBytes(bytes)}`;
}

function jsonOf(file: string, result: FollowResult): object {
  const { segments, bytes, blocks } = result;
  return { path: realpathSync(file), segments, bytes, blocks, ...headFields(result) };
}
