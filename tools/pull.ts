/** `sqlfuse pull FILE`: brings a replica up to date. */
import { realpathSync } from "node:fs";
import type { Command } from "commander";
import type { Pulled, PullOutcome } from "../src/host/logmessages.ts";
import type { MountedVolume } from "../src/host/mounts.ts";
import type { Fetched } from "../src/log/follower.ts";
import type { FollowResult } from "../src/log/replica.ts";
import { type AccessFlags, accessOf, addAccessOptions, rateOf, refuseRate } from "./access.ts";
import { requireEngine } from "./engine.ts";
import { EXIT, ToolError } from "./exitcodes.ts";
import { addHelp } from "./help.ts";
import { type Breath, interruptible } from "./interrupt.ts";
import { addHeadOption, type HeadFlags, headFields, keepHead, readHeadOf } from "./loghead.ts";
import { addOutputOptions, formatBytes, type OutputFlags, say, tell, warn } from "./output.ts";
import { addPasswordOptions, type PasswordOptions, readPassword } from "./password.ts";
import { Progress } from "./progress.ts";
import { refuseMissing } from "./rewrite.ts";
import { mountOf } from "./target.ts";
import { addWatchOptions, intervalOf, type WatchFlags, watch } from "./watch.ts";

interface PullFlags extends PasswordOptions, OutputFlags, WatchFlags, AccessFlags, HeadFlags {}

export function addPull(program: Command): void {
  const command = program
    .command("pull")
    .summary("bring a replica up to date")
    .description(
      "Applies to the replica FILE what was pushed since. All segments are proved before the first is applied, and each " +
        "is applied whole or not at all. A mounted replica pulls by itself, and at once where this asks it to.",
    )
    .argument(
      "<file|mountpoint>",
      "the database file of a replica, which sqlfuse clone made, or where it is mounted",
    );
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
  rateOf(flags);
  const password = await passwordFor(file, flags);
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

/** A mount has the key: then it is empty. */
async function passwordFor(file: string, flags: PullFlags): Promise<Buffer> {
  const mount = await mountOf(file);
  if (mount !== undefined) {
    refuseRate(flags, mount.mountpoint);
    return Buffer.alloc(0);
  }
  refuseMissing(file);
  await requireEngine();
  return await readPassword(flags, { path: file, confirm: false, warn });
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
  const mount = await mountOf(file);
  if (mount !== undefined) return await pullByMount(mount, flags);
  if (password.length === 0) throw new ToolError(EXIT.unusable, `${file}: is not mounted any more`);
  const { unlock } = await import("../src/core/unlock.ts");
  const { Replica } = await import("../src/log/replica.ts");
  const { openRemote } = await import("../src/remote/remote.ts");
  const progress = new Progress(flags.quiet);
  const key = unlock(file, password);
  try {
    const replica = new Replica(file, key, warn);
    try {
      const seen = await readHeadOf(flags);
      const store = await openRemote(replica.url, accessOf(signal, progress, rateOf(flags)));
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

/** While a replica is mounted the process that serves it is the only one that writes to it. */
async function pullByMount({ pid = 0, path }: MountedVolume, flags: HeadFlags): Promise<FollowResult> {
  const { askControl } = await import("../src/host/control.ts");
  const { LogError } = await import("../src/remote/errors.ts");
  const { head } = await readHeadOf(flags);
  const outcome = (await askControl(pid, { cmd: "pull" })) as PullOutcome;
  if (!outcome.ok) {
    if (outcome.reason !== undefined) throw new LogError(outcome.reason, outcome.message);
    throw new ToolError(EXIT.other, outcome.message);
  }
  const result = resultOf(outcome);
  const { hasSeenMore } = await import("../src/log/head.ts");
  if (head !== undefined && hasSeenMore(head, result, result.volume, path))
    throw new LogError(
      "rolled-back",
      `${path}: the log ends at segment ${result.segment}, and the head file has seen segment ${head.segment} of it`,
    );
  await keepHead(flags, head, result);
  return result;
}

function resultOf({ hash, volume, log, createdNs, ...rest }: Pulled): FollowResult {
  const bytes = (digits: string): Buffer => Buffer.from(digits, "hex");
  return {
    ...rest,
    hash: bytes(hash),
    volume: bytes(volume),
    log: bytes(log),
    createdNs: BigInt(createdNs),
  };
}

function lineOf(file: string, { segments, segment, bytes }: FollowResult): string {
  if (segments === 0) return `${file}: nothing new (segment ${segment})`;
  return `${file}: ${segments} segment${segments === 1 ? "" : "s"} applied, to ${segment}, ${formatBytes(bytes)}`;
}

function jsonOf(file: string, result: FollowResult): object {
  const { segments, bytes, blocks } = result;
  return { path: realpathSync(file), segments, bytes, blocks, ...headFields(result) };
}
