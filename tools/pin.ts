/** `sqlfuse pin` and `unpin`: which content a partial replica always has. */
import { lstatSync } from "node:fs";
import type { Command } from "commander";
import type { Share } from "../src/core/partial.ts";
import { type Ino, ROOT_INO } from "../src/core/types.ts";
import type { Volume } from "../src/core/volume.ts";
import type { PinOutcome } from "../src/host/logmessages.ts";
import type { MountedVolume } from "../src/host/mounts.ts";
import type { Fetched } from "../src/log/follower.ts";
import type { Replica } from "../src/log/replica.ts";
import { type AccessFlags, accessOf, addAccessOptions, rateOf, refuseRate } from "./access.ts";
import { EXIT, ToolError } from "./exitcodes.ts";
import { addHelp } from "./help.ts";
import { interruptible } from "./interrupt.ts";
import {
  addOutputOptions,
  formatBytes,
  type OutputFlags,
  quote,
  say,
  sayJson,
  tell,
  warn,
} from "./output.ts";
import { addPasswordOptions, type PasswordOptions } from "./password.ts";
import { Progress } from "./progress.ts";
import { openVolume, withKey } from "./volumes.ts";
import { findWhere, type Where, wordsOf } from "./where.ts";

type Flags = PasswordOptions & OutputFlags;

const WHAT = "a path in the mounted replica, or its database file";
const PATH = "the file or directory in the replica; default: all of it";

export function addPin(program: Command): void {
  const command = program
    .command("pin")
    .summary("keep a tree of a partial replica here")
    .description(
      "Fetches the content of a file of a partial replica, or of all in a directory, and keeps it here: also of what comes " +
        "into that directory later. Stopped at any moment, the next pull goes on.",
    )
    .argument("<file|path>", WHAT)
    .argument("[path]", PATH)
    .option("--list", "show what is pinned, and fetch nothing");
  addAccessOptions(command);
  addPasswordOptions(command);
  addOutputOptions(command).action(pin);
  addHelp(command, {
    examples: [
      "sqlfuse pin ~/vault/photos/2026",
      "sqlfuse pin replica.sqlite /photos",
      "sqlfuse pin --list replica.sqlite",
    ],
  });
}

export function addUnpin(program: Command): void {
  const command = program
    .command("unpin")
    .summary("let the content of a pinned tree go again")
    .description(
      "What was kept of a file or directory because it was pinned may go again when the replica holds more than its limit.",
    )
    .argument("<file|path>", WHAT)
    .argument("[path]", PATH);
  addPasswordOptions(command);
  addOutputOptions(command).action(unpin);
  addHelp(command, { examples: ["sqlfuse unpin replica.sqlite /photos"] });
}

type PinFlags = Flags & AccessFlags & { list?: true };

async function pin(first: string, inside: string | undefined, flags: PinFlags): Promise<void> {
  const rate = rateOf(flags);
  const where = await findWhere(first, inside);
  if (flags.list) {
    await list(where, flags);
    return;
  }
  if (where.mount !== undefined) refuseRate(flags, where.mount.mountpoint);
  const progress = new Progress(flags.quiet);
  try {
    const { blocks, bytes } = await interruptible(
      "stopped; the next pull fetches the rest",
      async (breath) => {
        if (where.mount !== undefined) return await askMount(where, where.mount, true);
        return await withReplica(where, flags, async (replica, ino) => {
          const { openRemote } = await import("../src/remote/remote.ts");
          const store = await openRemote(replica.url, accessOf(breath.signal, progress, rate));
          return await replica.pin(ino, store, {
            breathe: breath.breathe,
            onProgress: (fetched: Fetched) => progress.tally(`fetching: ${formatBytes(fetched.bytes)}`),
          });
        });
      },
    );
    progress.end();
    const fetched = blocks === 0 ? "all of it was here" : `${formatBytes(bytes)} fetched`;
    tell(flags, `${wordsOf(where)}: pinned, ${fetched}`, { path: where.path, blocks, bytes });
  } finally {
    progress.end();
  }
}

async function unpin(first: string, inside: string | undefined, flags: Flags): Promise<void> {
  const where = await findWhere(first, inside);
  const wasPinned =
    where.mount === undefined
      ? await withReplica(where, flags, (replica, ino) => replica.unpin(ino))
      : (await askMount(where, where.mount, false)).wasPinned;
  if (!wasPinned)
    throw new ToolError(
      EXIT.unusable,
      `${wordsOf(where)}: is not pinned; see: sqlfuse pin --list ${quote(where.file)}`,
    );
  tell(flags, `${wordsOf(where)}: not pinned any more`, { path: where.path });
}

/** The process that serves a replica is the only one that writes to it. */
async function askMount(
  where: Where,
  { pid = 0, mountpoint }: MountedVolume,
  isPinned: boolean,
): Promise<PinOutcome & { ok: true }> {
  const { askControl } = await import("../src/host/control.ts");
  const { LogError } = await import("../src/remote/errors.ts");
  const ino = inodeBelow(where, mountpoint);
  const outcome = (await askControl(pid, { cmd: "pin", ino, isPinned })) as PinOutcome;
  if (outcome.ok) return outcome;
  if (outcome.reason !== undefined) throw new LogError(outcome.reason, outcome.message);
  throw new ToolError(EXIT.unusable, outcome.message);
}

function inodeBelow(where: Where, mountpoint: string): Ino {
  const path = Buffer.concat([Buffer.from(mountpoint), Buffer.from(where.path, "latin1")]);
  const stat = lstatSync(path, { throwIfNoEntry: false });
  if (stat === undefined) throw nothingAt(where);
  return stat.ino as Ino;
}

function nothingAt(where: Where): ToolError {
  return new ToolError(EXIT.unusable, `${wordsOf(where)}: no such file or directory`);
}

async function list({ file }: Where, flags: Flags): Promise<void> {
  const paths = await withKey(file, flags, (key) =>
    openVolume(file, key, { beside: true }, async (volume) => {
      const { pins } = refuseFull(volume);
      return pins.map((ino) => volume.pathOf(ino) ?? `inode ${ino}, which has no name`);
    }),
  );
  if (flags.json) sayJson(paths);
  else for (const path of paths) say(path);
}

/** The inode that is meant. @throws ToolError */
function inodeAt(volume: Volume, where: Where): Ino {
  refuseFull(volume);
  let ino = ROOT_INO;
  for (const name of where.path.split("/").filter((part) => part !== "")) {
    const found = volume.tree.lookup(ino, Buffer.from(name, "latin1"));
    if (found === undefined) throw nothingAt(where);
    ino = found.ino;
  }
  return ino;
}

/** What is here of a partial replica. @throws ToolError: it is none */
function refuseFull(volume: Volume): Share {
  const share = volume.share();
  if (share !== undefined) return share;
  throw new ToolError(
    EXIT.unusable,
    `${volume.path}: has all of its content: only a replica that sqlfuse clone --partial made has not`,
  );
}

async function withReplica<T>(
  where: Where,
  flags: Flags,
  run: (replica: Replica, ino: Ino) => Promise<T>,
): Promise<T> {
  const { Replica } = await import("../src/log/replica.ts");
  return await withKey(where.file, flags, async (key) => {
    const ino = await openVolume(where.file, key, { beside: true }, async (volume) => inodeAt(volume, where));
    const replica = new Replica(where.file, key, warn);
    try {
      return await run(replica, ino);
    } finally {
      replica.close();
    }
  });
}
