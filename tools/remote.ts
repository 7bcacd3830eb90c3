/** `sqlfuse remote ACTION FILE|MOUNTPOINT [NAME] [URL]`: where the log of a volume is kept. */
import { statSync } from "node:fs";
import { resolve } from "node:path";
import { Argument, type Command } from "commander";
import type { Remote } from "../src/core/remotes.ts";
import type { PushSite } from "../src/log/pusher.ts";
import { isDirectory } from "../src/remote/remote.ts";
import { accessOf } from "./access.ts";
import { EXIT, ToolError } from "./exitcodes.ts";
import { addHelp } from "./help.ts";
import { type Breath, interruptible } from "./interrupt.ts";
import { addOutputOptions, align, type OutputFlags, say, sayJson, tell, warn } from "./output.ts";
import { addPasswordOptions, type PasswordOptions } from "./password.ts";
import { noRemote } from "./push.ts";
import { passwordOf, pushingAlone, withSite } from "./pushsite.ts";
import { type Care, collect, forEach, renewSecret, verify } from "./remotecare.ts";
import { listed, maxAgeOf, type RemoteStatus, statusOf } from "./remotestatus.ts";
import { statesAtMount } from "./status.ts";
import { mountOf } from "./target.ts";

const ACTIONS = ["add", "list", "remove", "status", "verify", "gc", "rotate"] as const;
type Action = (typeof ACTIONS)[number];

interface RemoteFlags extends PasswordOptions, OutputFlags {
  readonly maxAge?: string;
  readonly readData?: string;
}

export function addRemote(program: Command): void {
  const command = program
    .command("remote")
    .summary("say where a volume is replicated to, and tell how far")
    .description(
      "A remote is a directory, on a NAS or a USB disk or where rsync reaches it, or a part of an object store, that sqlfuse " +
        "push ships a volume's changes to, encrypted, and that sqlfuse clone makes replicas from. add names one, which is empty; remove forgets it and leaves what is there; " +
        "status tells how far each is; verify looks whether all is there that a clone needs; gc removes what no kept " +
        "state of the volume needs any more; rotate changes the log's secret, ships everything again, and removes the rest.",
    )
    .addArgument(new Argument("<action>", "what to do").choices(ACTIONS))
    .argument("<file|mountpoint>", "the database file, or where it is mounted")
    .argument("[name]", "of the remote: letters, digits, . _ and -")
    .argument(
      "[url]",
      "add: a directory, USER@HOST:PATH, rsync://HOST/MODULE, s3://BUCKET/PREFIX?endpoint=URL",
    )
    .option(
      "--max-age <duration>",
      "status: STALE, and exit with 1, where a remote lacks changes and had all longer ago (30m, 24h, 7d)",
    )
    .option(
      "--read-data <percent>",
      "verify: read so many percent of the objects, picked at random (100: all)",
    );
  addPasswordOptions(command);
  addOutputOptions(command).action(remote);
  addHelp(command, {
    notes: [
      "USER@HOST:PATH and rsync://HOST/MODULE/PATH need rsync, here and there. ssh asks for a password on a terminal alone; " +
        "RSYNC_RSH names another command than ssh, or its options. A daemon's password is in RSYNC_PASSWORD. A directory " +
        "whose name has a colon is written ./NAME.",
      "For s3:// the keys are in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN), never in the URL; " +
        "what the URL leaves out is in AWS_ENDPOINT_URL (or AWS_ENDPOINT_URL_S3) and AWS_REGION.",
      "Whoever can read the remote learns when how much was shipped, not names, sizes, the tree or contents. Its key file " +
        "opens with the password that the volume has at the last push: an old copy of it still opens with an old password " +
        "what was shipped since, until remote rotate: do that after rekey, to shut somebody out. Replicas then need a " +
        "sqlfuse pull with the new password, which sqlfuse rekey gives them as well.",
    ],
    examples: [
      "sqlfuse remote add vault.sqlite nas /mnt/nas/vault",
      "sqlfuse remote add vault.sqlite server ann@server.example.com:vault",
      "sqlfuse remote add vault.sqlite store 's3://vaults/ann?endpoint=https://s3.example.com'",
      "sqlfuse remote status --max-age 24h vault.sqlite",
      "sqlfuse remote verify --read-data 5 vault.sqlite nas",
    ],
  });
}

/** A directory is meant from wherever the next push runs. */
export function resolveUrl(url: string): string {
  return isDirectory(url) ? resolve(url) : url;
}

async function remote(
  action: Action,
  target: string,
  name: string | undefined,
  url: string | undefined,
  flags: RemoteFlags,
): Promise<void> {
  refuseArguments(action, name, url, flags);
  const maxAgeMs = maxAgeOf(flags.maxAge);
  const percent = percentOf(flags.readData);
  const password = await passwordOf(target, flags);
  try {
    const undone = action === "rotate" ? "the next push goes on with it" : "what is done stays done";
    await interruptible(`stopped; ${undone}`, (breath) =>
      withSiteOrReplica(target, password, action, async (site) => {
        if (action === "add") await add(site, target, name ?? "", resolveUrl(url ?? ""), flags, breath);
        else if (action === "list") await list(site, flags);
        else if (action === "status") await status(site, target, maxAgeMs, flags);
        else {
          const remotes = await chosen(site, target, name);
          const care: Care = { site, flags, breath };
          if (action === "verify") await forEach(remotes, care, (one) => verify(care, one, percent));
          else if (action === "gc") await forEach(remotes, care, (one) => collect(care, one));
          else
            for (const one of remotes)
              if (action === "remove") await remove(site, target, one, flags);
              else await renewSecret(care, one);
        }
      }),
    );
  } finally {
    password.fill(0);
  }
}

function refuseArguments(
  action: Action,
  name: string | undefined,
  url: string | undefined,
  flags: RemoteFlags,
) {
  const wants = { add: 2, list: 0, remove: 1, status: 0, verify: 1, gc: 1, rotate: 1 }[action];
  const given = [name, url].filter((one) => one !== undefined).length;
  const isOptional = (action === "verify" || action === "gc") && given === 0;
  if (given !== wants && !isOptional) {
    const what = ["no NAME", "a NAME and no URL", "a NAME and a URL"][wants];
    throw new ToolError(EXIT.usage, `remote ${action} takes ${what}; see: sqlfuse remote --help`);
  }
  if (flags.maxAge !== undefined && action !== "status")
    throw new ToolError(EXIT.usage, "--max-age is for: remote status");
  if (flags.readData !== undefined && action !== "verify")
    throw new ToolError(EXIT.usage, "--read-data is for: remote verify");
}

function percentOf(text: string | undefined): number {
  if (text === undefined) return 0;
  const percent = Number(text.replace(/%$/, ""));
  if (/^\d+(\.\d+)?%?$/.test(text) && percent <= 100) return percent;
  throw new ToolError(EXIT.usage, `--read-data ${text}: not a number of percent`);
}

/** What only looks needs no writer, and may be of a replica. */
async function withSiteOrReplica(
  target: string,
  password: Buffer,
  action: Action,
  run: (site: PushSite) => Promise<void>,
): Promise<void> {
  const onlyLooks = action === "list" || action === "status" || action === "verify";
  if (!onlyLooks) return await withSite(target, password, run);
  const { withReader } = await import("./pushsite.ts");
  await withReader(target, password, run);
}

async function chosen(site: PushSite, target: string, name: string | undefined): Promise<Remote[]> {
  const { listRemotes } = await import("../src/core/remotes.ts");
  const found = listRemotes(site.db).filter((one) => name === undefined || one.name === name);
  if (found.length === 0) throw noRemote(target, name);
  return found;
}

async function add(
  site: PushSite,
  target: string,
  name: string,
  url: string,
  flags: RemoteFlags,
  { signal }: Breath,
): Promise<void> {
  const { addRemoteTo } = await import("../src/log/setup.ts");
  const { openRemote } = await import("../src/remote/remote.ts");
  await refuseItself(target, url);
  try {
    const store = await openRemote(url, accessOf(signal));
    // Its mount, that is, which sees a remote as soon as it is noted.
    await pushingAlone(site, name, () => addRemoteTo(site, name, store));
  } catch (error) {
    const code = error instanceof Error && "code" in error ? error.code : undefined;
    if (code === "EEXIST")
      throw new ToolError(
        EXIT.unusable,
        `${target}: it has a remote ${name} already; see: sqlfuse remote list`,
      );
    if (code === "EINVAL")
      throw new ToolError(EXIT.usage, `${name}: no name for a remote: 64 letters, digits, . _ and - at most`);
    throw error;
  }
  tell(flags, `${name}: added; ship everything to it with: sqlfuse push ${target} ${name}`, { name, url });
}

/** Each push into the volume itself would have more to ship than the one before, until the disk is full. */
async function refuseItself(target: string, url: string): Promise<void> {
  const mount = isDirectory(url) ? await mountOf(target) : undefined;
  if (mount === undefined) return;
  // Not by their names: there are links, and mounts of other places.
  const deviceOf = (path: string) => statSync(path, { throwIfNoEntry: false })?.dev;
  const device = deviceOf(url);
  if (device !== undefined && device === deviceOf(mount.mountpoint))
    throw new ToolError(EXIT.unusable, `${url}: is in the volume itself; choose a place outside of it`);
}

async function list(site: PushSite, flags: RemoteFlags): Promise<void> {
  const { listRemotes } = await import("../src/core/remotes.ts");
  const remotes = listRemotes(site.db);
  if (flags.json) sayJson(remotes.map(listed));
  else if (remotes.length === 0) say("no remotes");
  else for (const line of align([["NAME", "URL"], ...remotes.map((one) => [one.name, one.url])])) say(line);
}

async function remove(
  site: PushSite,
  target: string,
  { name, url }: Remote,
  flags: RemoteFlags,
): Promise<void> {
  await site.order({ do: "remove", name });
  tell(flags, `${name}: removed from ${target}; what is in ${url} stays there`, { name, url });
}

async function status(site: PushSite, target: string, maxAgeMs: number, flags: RemoteFlags): Promise<void> {
  const all = await statusOf(site.db, maxAgeMs, await statesAtMount(target));
  if (flags.json) sayJson(all.map(({ line, ...rest }) => rest));
  else if (all.length === 0) say("no remotes");
  else
    for (const line of align([
      ["NAME", "STATE", "SEGMENT", "HAD ALL", "LACKS", "URL"],
      ...all.map(({ line }) => line),
    ]))
      say(line);
  for (const { name, error } of all) if (error !== undefined) warn(`${name}: ${error}`);
  const stale = all.filter(({ state }: RemoteStatus) => state === "stale");
  for (const one of stale)
    warn(
      `${one.name}: stale: lacks changes, and had all of them ${one.hadAll === "never" ? "never" : `${one.hadAll} ago`}`,
    );
  if (stale.length > 0) process.exitCode = EXIT.other;
}
