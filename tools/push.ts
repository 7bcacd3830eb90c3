/** `sqlfuse push FILE|MOUNTPOINT [NAME]`: brings remotes up to date. */
import type { Command } from "commander";
import type { PushResult } from "../src/log/pusher.ts";
import type { Shipped } from "../src/log/shipper.ts";
import { type AccessFlags, accessOf, addAccessOptions, rateOf } from "./access.ts";
import { describeError, EXIT, ToolError } from "./exitcodes.ts";
import { addHelp } from "./help.ts";
import { type Breath, interruptible } from "./interrupt.ts";
import { addHeadOption, type HeadFlags, headFields, headText, keepHead, readHeadOf } from "./loghead.ts";
import { addOutputOptions, formatBytes, type OutputFlags, say, sayJson, warn } from "./output.ts";
import { addPasswordOptions, type PasswordOptions } from "./password.ts";
import { Progress } from "./progress.ts";
import { passwordOf, pushingAlone, withSite } from "./pushsite.ts";
import { addWatchOptions, intervalOf, type WatchFlags, watch } from "./watch.ts";

interface PushFlags extends PasswordOptions, OutputFlags, WatchFlags, AccessFlags, HeadFlags {}

/** How a push of one remote went. */
interface Pushed {
  readonly remote: string;
  readonly result?: PushResult;
  readonly error?: string;
  readonly code?: number;
}

export function addPush(program: Command): void {
  const command = program
    .command("push")
    .summary("ship what changed to the volume's remotes")
    .description(
      "Ships what changed since the last push, encrypted, to the remote NAME of a volume, or to all of its remotes. A " +
        "mounted volume stays mounted. Stopped at any moment, it goes on where it was the next time.",
    )
    .argument("<file|mountpoint>", "the database file, or where it is mounted")
    .argument("[name]", "of one remote; see: sqlfuse remote list");
  addHeadOption(command);
  addWatchOptions(command, "push what changed");
  addAccessOptions(command);
  addPasswordOptions(command);
  addOutputOptions(command).action(push);
  addHelp(command, {
    notes: [
      "With --watch a push that fails is tried again at the next interval; with --json each push is a line.",
    ],
    examples: ["sqlfuse push vault.sqlite", "sqlfuse push --watch --interval 60 ~/vault nas"],
  });
}

async function push(target: string, name: string | undefined, flags: PushFlags): Promise<void> {
  const seconds = intervalOf(flags.interval);
  rateOf(flags);
  const password = await passwordOf(target, flags);
  try {
    await interruptible("stopped; the next push goes on where this one was", async (breath) => {
      if (!flags.watch) {
        const all = await pushAll(target, name, password, flags, breath);
        if (flags.json) sayJson(all.map(jsonOf));
        const [failed, ...others] = all.filter(({ error }) => error !== undefined);
        for (const { error } of others) warn(error ?? "");
        if (failed !== undefined) throw new ToolError(failed.code ?? EXIT.other, failed.error ?? "");
        return;
      }
      await watch(seconds, breath, () => pushAgain(target, name, password, flags, breath));
    });
  } finally {
    password.fill(0);
  }
}

/** One round of a watch. */
async function pushAgain(
  target: string,
  name: string | undefined,
  password: Buffer,
  flags: PushFlags,
  breath: Breath,
): Promise<void> {
  for (const one of await pushAll(target, name, password, flags, breath)) {
    if (one.error !== undefined) warn(one.error);
    if (flags.json) say(JSON.stringify(jsonOf(one)));
  }
}

/** One after the other; what fails with one does not keep the others. */
async function pushAll(
  target: string,
  name: string | undefined,
  password: Buffer,
  flags: PushFlags,
  { breathe, signal }: Breath,
): Promise<Pushed[]> {
  const { Pusher } = await import("../src/log/pusher.ts");
  const { openRemote } = await import("../src/remote/remote.ts");
  const { listRemotes } = await import("../src/core/remotes.ts");
  return await withSite(target, password, async (site) => {
    const remotes = listRemotes(site.db).filter((one) => name === undefined || one.name === name);
    if (remotes.length === 0) throw noRemote(target, name);
    if (flags.headFile !== undefined && remotes.length > 1)
      throw new ToolError(EXIT.usage, "--head-file is of one log: name the remote");
    const done: Pushed[] = [];
    for (const remote of remotes) {
      const progress = new Progress(flags.quiet);
      const onProgress = ({ bytes, objects }: Shipped): void =>
        progress.tally(`pushing to ${remote.name}: ${formatBytes(bytes)} in ${objects} objects`);
      try {
        const store = await openRemote(remote.url, accessOf(signal, progress, rateOf(flags)));
        const seen = await readHeadOf(flags);
        const pusher = new Pusher(site, store, remote.name, { onProgress, breathe, ...seen });
        const result = await pushingAlone(site, remote.name, () => pusher.run());
        await keepHead(flags, seen.head, result);
        done.push({ remote: remote.name, result });
        progress.end();
        if (!flags.json && !flags.quiet && (result.segments > 0 || !flags.watch))
          say(lineOf(remote.name, result));
      } catch (error) {
        signal.throwIfAborted();
        const { message, code } = describeError(error);
        done.push({ remote: remote.name, error: `${remote.name}: ${message}`, code });
      } finally {
        progress.end();
      }
    }
    return done;
  });
}

export function noRemote(target: string, name: string | undefined): ToolError {
  const what = name === undefined ? "it has no remote" : `it has no remote ${name}`;
  return new ToolError(EXIT.unusable, `${target}: ${what}; see: sqlfuse remote add --help`);
}

function lineOf(name: string, result: PushResult): string {
  const { segments, bytes, objects } = result;
  if (segments === 0) return `${name}: has everything, ${headText(result)}`;
  const shipped =
    objects === 0 ? "" : `, ${formatBytes(bytes)} in ${objects} object${objects === 1 ? "" : "s"}`;
  return `${name}: pushed to ${headText(result)}${shipped}`;
}

function jsonOf({ remote, error, result }: Pushed): object {
  if (result === undefined) return { remote, error };
  const { segments, objects, bytes, blocks, swept } = result;
  return { remote, segments, objects, bytes, blocks, ...(swept ? { swept } : {}), ...headFields(result) };
}
