/** `sqlfuse clone URL FILE`: a replica from a log. */
import { existsSync, realpathSync } from "node:fs";
import type { Command } from "commander";
import type { Fetched } from "../src/log/follower.ts";
import { type AccessFlags, accessOf, addAccessOptions, rateOf } from "./access.ts";
import { parseBytes } from "./bytes.ts";
import { requireEngine } from "./engine.ts";
import { EXIT, ToolError } from "./exitcodes.ts";
import { addHelp } from "./help.ts";
import { interruptible } from "./interrupt.ts";
import { addHeadOption, type HeadFlags, headFields, headText, keepHead, readHeadOf } from "./loghead.ts";
import { addOutputOptions, formatBytes, type OutputFlags, tell, warn } from "./output.ts";
import { addPasswordOptions, type PasswordOptions, readPassword } from "./password.ts";
import { Progress } from "./progress.ts";

interface CloneFlags extends PasswordOptions, OutputFlags, AccessFlags, HeadFlags {
  readonly restore?: true;
  readonly until?: string;
  readonly partial?: true;
  readonly limit?: string;
}

export function addClone(program: Command): void {
  const command = program
    .command("clone")
    .summary("make a replica of a volume from its remote")
    .description(
      "Makes the new volume FILE from what was pushed to URL, under the same password. It is a replica: it is mounted " +
        "read-only, and sqlfuse pull brings it up to date. FILE is there when all of it is, or not at all.",
    )
    .argument("<url>", "what was given to sqlfuse remote add")
    .argument("<file>", "the database file to make")
    .option(
      "--restore",
      "FILE is the volume from now on, in the place of one that is lost, and pushes to URL",
    )
    .option("--until <segment>", "only as far as this segment, as where a later one is missing")
    .option("--partial", "without the content of files of more than 64 KiB, which is fetched when it is read")
    .option("--limit <bytes>", "with --partial: fetched content that is kept at most, as 10G (default: any)");
  addAccessOptions(command);
  addHeadOption(command);
  addPasswordOptions(command);
  addOutputOptions(command).action(clone);
  addHelp(command, {
    notes: [
      "With --restore the volume that was lost must not be written again, should it turn up: what it pushes is refused.",
    ],
    examples: [
      "sqlfuse clone /mnt/nas/vault replica.sqlite",
      "sqlfuse clone --partial --limit 20G /mnt/nas/vault replica.sqlite",
      "sqlfuse clone --restore /mnt/nas/vault vault.sqlite",
    ],
  });
}

async function clone(url: string, file: string, flags: CloneFlags): Promise<void> {
  const until = flags.until === undefined ? undefined : segmentOf(flags.until);
  const partial = partialOf(flags);
  const rate = rateOf(flags);
  if (existsSync(file))
    throw new ToolError(EXIT.unusable, `${file}: exists already; choose another name or remove it first`);
  await requireEngine();
  const { clone: make } = await import("../src/log/replica.ts");
  const { openRemote } = await import("../src/remote/remote.ts");
  const { resolveUrl } = await import("./remote.ts");
  // What is wrong with the URL or the head file is said before anybody types a password.
  await openRemote(resolveUrl(url));
  const seen = await readHeadOf(flags);
  const password = await readPassword(flags, { path: url, confirm: false, warn });
  const progress = new Progress(flags.quiet);
  try {
    const result = await interruptible(`stopped; ${file} was not made`, async ({ breathe, signal }) => {
      const store = await openRemote(resolveUrl(url), accessOf(signal, progress, rate));
      return await make(store, file, password, {
        breathe,
        onProgress: ({ bytes, blocks }: Fetched) =>
          progress.tally(`cloning ${url}: ${formatBytes(bytes)}, ${blocks} blocks`),
        restore: flags.restore === true,
        ...seen,
        ...(until === undefined ? {} : { until }),
        ...(partial === undefined ? {} : { partial }),
      });
    });
    progress.end();
    const what = flags.restore ? "restored" : flags.partial ? "a partial replica" : "a replica";
    const { segments, bytes, blocks } = result;
    tell(flags, `${file}: ${what}, as of ${headText(result)}`, {
      path: realpathSync(file),
      segments,
      bytes,
      blocks,
      ...headFields(result),
    });
    if (until === undefined) await keepHead(flags, seen.head, result);
  } finally {
    progress.end();
    password.fill(0);
  }
}

function segmentOf(text: string): number {
  if (/^\d{1,15}$/.test(text) && Number(text) > 0) return Number(text);
  throw new ToolError(EXIT.usage, `--until ${text}: not the number of a segment`);
}

function partialOf({ partial, limit, restore }: CloneFlags): { limit: number } | undefined {
  if (partial && restore)
    throw new ToolError(EXIT.usage, "--restore: a volume has all of its content, so not --partial");
  if (partial) return { limit: limit === undefined ? 0 : parseBytes("--limit", limit, "1M", "1000T") };
  if (limit !== undefined)
    throw new ToolError(EXIT.usage, "--limit: is of a replica that is made with --partial");
  return undefined;
}
