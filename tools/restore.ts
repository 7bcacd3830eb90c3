/** `sqlfuse restore` and `sqlfuse undelete`: files as a snapshot has them, back in the volume. */
import type { Command } from "commander";
import { describe } from "../src/archive/copy.ts";
import { resolvePath } from "../src/archive/path.ts";
import type { Place } from "../src/archive/place.ts";
import type { RestoredKind } from "../src/archive/restorer.ts";
import { isDirectory } from "../src/core/mode.ts";
import { parseAt } from "../src/core/moment.ts";
import type { At, Epoch } from "../src/core/types.ts";
import type { Key } from "../src/db/key.ts";
import { explain, pathText } from "./copying.ts";
import { EXIT, ToolError } from "./exitcodes.ts";
import { addHelp } from "./help.ts";
import { type Breath, interruptible } from "./interrupt.ts";
import { neverSeen } from "./log.ts";
import { type AtFlags, addAtOption } from "./moment.ts";
import { addOutputOptions, localTime, type OutputFlags, say, sayJson, warn } from "./output.ts";
import { addPasswordOptions, type PasswordOptions } from "./password.ts";
import { Progress } from "./progress.ts";
import { Skips, show, textOf } from "./skips.ts";
import { syncMount } from "./sync.ts";
import { type Access, openVolume, refuseReadOnly, withKey } from "./volumes.ts";
import { findInMount, findWhere, type Where, wordsOf } from "./where.ts";

interface UndeleteFlags extends PasswordOptions, OutputFlags {
  readonly to?: string;
  readonly dryRun?: true;
}

interface RestoreFlags extends UndeleteFlags, AtFlags {
  readonly delete?: true;
}

export function addRestore(program: Command): void {
  const command = program
    .command("restore")
    .summary("put files back as a snapshot has them")
    .description(
      "Makes what is at PATH what it was then: a file, or a directory with all that is in it, with modes, times, " +
        "attributes, ACLs and hard links, also what is not there any more; with owners if you are root or the volume " +
        "is not mounted. PATH is in a mount, or in FILE. Only what differs is touched, and each file is replaced at " +
        "once. It asks nothing, and says what it replaced.",
    )
    .argument("<file|path>", "a path in a mount, or the database file")
    .argument("[path]", "with FILE: the path in it")
    .option("--delete", "remove what is in the directory now and was not then; else it stays");
  addCommonOptions(addAtOption(command));
  addOutputOptions(command).action(restore);
  addHelp(command, {
    notes: [
      "What is there now is gone after it, unless a snapshot has it: sqlfuse snapshot create makes one.",
    ],
    examples: [
      "sqlfuse restore --at '2 hours ago' ~/vault/letters",
      "sqlfuse restore --at yesterday vault.sqlite letters/a.txt --to letters/a.old",
    ],
  });
}

export function addUndelete(program: Command): void {
  const command = program
    .command("undelete")
    .summary("put back what was deleted")
    .description(
      "Puts PATH, which is not there any more, back from the newest snapshot that has it, with all that was in it. " +
        "PATH is in a mount, or in FILE.",
    )
    .argument("<file|path>", "a path in a mount, or the database file")
    .argument("[path]", "with FILE: the path in it");
  addCommonOptions(command);
  addOutputOptions(command).action(undelete);
  addHelp(command, {
    examples: ["sqlfuse undelete ~/vault/letters", "sqlfuse undelete vault.sqlite letters/a.txt"],
  });
}

function addCommonOptions(command: Command): void {
  command
    .option("--to <path>", "put it there instead: a path in the same mount, or with FILE in the volume")
    .option("--dry-run", "change nothing, only tell what would be");
  addPasswordOptions(command);
}

async function restore(first: string, inside: string | undefined, flags: RestoreFlags): Promise<void> {
  const { at } = flags;
  if (at === undefined) throw new ToolError(EXIT.usage, "as when? give --at; see: sqlfuse snapshot list");
  const where = await findWhere(first, inside);
  const to = await targetOf(where, flags.to);
  await withKey(where.file, flags, (key) => putBack({ where, to, at: parseAt(at), key, flags }));
}

async function undelete(first: string, inside: string | undefined, flags: UndeleteFlags): Promise<void> {
  const where = await findWhere(first, inside);
  const to = await targetOf(where, flags.to);
  await withKey(where.file, flags, async (key) => {
    const epoch = await lastSeen(where, key);
    await putBack({ where, to, at: { epoch }, key, flags });
  });
}

/** @throws ToolError where it is there, or never was */
async function lastSeen(where: Where, key: Key): Promise<Epoch> {
  return await openVolume(where.file, key, { beside: true }, async (volume) => {
    const changes = volume.changes();
    if ((await isThere(where)) ?? changes.find(where.path, volume.epoch) !== undefined)
      throw new ToolError(
        EXIT.unusable,
        `${show(where.path)}: is there; to put it back as it was: sqlfuse restore --at SNAPSHOT ${wordsOf(where)}`,
      );
    const epoch = changes.lastSeen(where.path);
    if (epoch === undefined) throw neverSeen(where);
    return epoch;
  });
}

/** As the mount tells it; undefined where there is none. */
async function isThere({ mount, path }: Where): Promise<boolean | undefined> {
  return mount && (await mountPlace(mount.mountpoint)).stat(path) !== undefined;
}

async function mountPlace(mountpoint: string): Promise<Place> {
  const { HostPlace } = await import("../src/archive/hostplace.ts");
  return new HostPlace(pathText(mountpoint));
}

/** Where it goes, within the volume; undefined: where it was. */
async function targetOf(where: Where, text: string | undefined): Promise<string | undefined> {
  if (text === undefined) return undefined;
  if (!where.isPath) return (await findWhere(where.file, text)).path;
  const target = await findInMount(text);
  if (target?.file === where.file) return pathText(target.path);
  throw new ToolError(
    EXIT.unusable,
    `--to ${text}: not in the mount that PATH is in; for elsewhere there is: sqlfuse get --at`,
  );
}

interface Task {
  readonly where: Where;
  readonly to: string | undefined;
  readonly at: At;
  readonly key: Key;
  readonly flags: RestoreFlags;
}

async function putBack({ where, to, at, key, flags }: Task): Promise<void> {
  const { VolumePlace } = await import("../src/archive/volumeplace.ts");
  await interruptible("stopped; what was put back is there", (breath) =>
    openVolume(where.file, key, { at, noatime: true }, async (past) => {
      const from = new VolumePlace(past, 0, 0);
      const source = sourceOf(from, where, past.at?.name ?? "");
      const report = new Report(flags, past.at?.name ?? "", past.at?.created.sec ?? 0);
      await withPresent(where, key, flags.dryRun === true, (access) =>
        run(from, source, access, to ?? source, where, breath, report, flags),
      );
      report.end(to ?? source);
    }),
  );
}

function sourceOf(from: Place, { path }: Where, name: string): string {
  let found: string;
  try {
    found = resolvePath(from, path, false);
  } catch (error) {
    throw new ToolError(EXIT.unusable, `${show(path)}: ${describe(error)} in snapshot ${name}`);
  }
  if (from.stat(found) !== undefined) return found;
  throw new ToolError(EXIT.unusable, `${show(path)}: not in snapshot ${name}; see: sqlfuse log`);
}

/** The volume as it is now: below its mount point, else opened here. */
async function withPresent(
  { file, mount }: Where,
  key: Key,
  dryRun: boolean,
  work: (access: Access) => Promise<void>,
): Promise<void> {
  if (mount !== undefined) {
    await work({ place: await mountPlace(mount.mountpoint), idle: () => {} });
    if (!dryRun) await syncMount(mount);
    return;
  }
  const { VolumePlace } = await import("../src/archive/volumeplace.ts");
  await openVolume(file, key, dryRun ? { beside: true } : {}, async (volume) => {
    if (!dryRun) refuseReadOnly(volume, file);
    await work({ place: new VolumePlace(volume, 0, 0), idle: () => void volume.idle(performance.now()) });
  });
}

async function run(
  from: Place,
  source: string,
  { place, idle }: Access,
  target: string,
  { mount }: Where,
  { breathe }: Breath,
  report: Report,
  flags: RestoreFlags,
): Promise<void> {
  const { Restorer } = await import("../src/archive/restorer.ts");
  const above = place.stat(target.slice(0, Math.max(0, target.lastIndexOf("/"))));
  if (target !== source && (above === undefined || !isDirectory(above.mode)))
    throw new ToolError(EXIT.unusable, `${show(target)}: the directory that it would be in does not exist`);
  process.umask(0);
  const restorer = new Restorer(from, place, {
    // Of a volume that we opened ourselves the owners are what they were for everybody.
    chown: mount === undefined || process.geteuid?.() === 0,
    remove: flags.delete === true,
    dryRun: flags.dryRun === true,
    breathe() {
      idle();
      report.show();
      return breathe();
    },
    onItem: (kind, path) => report.item(kind, path),
    onStay: () => report.stay(),
    onSkip: (path, why) => report.skips.skip(path, why),
    onLoss: (path, what) => report.loss(path, what),
  });
  try {
    await restorer.restore(source, target);
  } catch (error) {
    throw explain(error, show(target));
  }
}

/** What was done. Each thing that was there before and is not as it was has a line; of what came back the count is told. */
class Report {
  readonly #flags: RestoreFlags;
  readonly #name: string;
  readonly #createdSec: number;
  readonly #progress: Progress;
  readonly skips: Skips;
  readonly #items: { readonly kind: RestoredKind; readonly path: string }[] = [];
  #stayed = 0;

  constructor(flags: RestoreFlags, name: string, createdSec: number) {
    this.#flags = flags;
    this.#name = name;
    this.#createdSec = createdSec;
    this.#progress = new Progress(flags.quiet);
    this.skips = new Skips(this.#progress);
  }

  item(kind: RestoredKind, path: string): void {
    this.#items.push({ kind, path });
    this.skips.done();
    const { quiet, json, dryRun } = this.#flags;
    if (quiet || json || (kind === "restored" && !dryRun)) return;
    this.#progress.end();
    say(`${kind.padEnd("attributes".length)}  ${show(path)}`);
  }

  stay(): void {
    this.#stayed++;
  }

  loss(path: string, what: string): void {
    this.#progress.end();
    warn(`${show(path)}: put back without its attribute ${what}`);
  }

  show(): void {
    this.#progress.tally(`putting back: ${this.#items.length} files`);
  }

  end(path: string): void {
    this.#progress.end();
    this.skips.setExitCode();
    if (this.#flags.json) this.#endJson(path);
    else if (!this.#flags.quiet) say(`${show(path)}: ${this.#summary()}`);
  }

  #summary(): string {
    const kinds = ["restored", "replaced", "attributes", "removed"] as const;
    const words = {
      restored: "restored",
      replaced: "replaced",
      attributes: "given their attributes back",
      removed: "removed",
    };
    const counts = kinds.flatMap((kind) => {
      const count = this.#items.filter((item) => item.kind === kind).length;
      return count === 0 ? [] : [`${count} ${words[kind]}`];
    });
    const done = counts.length === 0 ? "nothing differs" : counts.join(", ");
    const stayed =
      this.#stayed === 0
        ? ""
        : `; ${this.#stayed} that ${this.#stayed === 1 ? "was not there then stays" : "were not there then stay"}`;
    const then = `as in ${this.#name} of ${localTime(new Date(this.#createdSec * 1000))}`;
    return `${this.#flags.dryRun ? "would be " : ""}${then}: ${done}${stayed}`;
  }

  #endJson(path: string): void {
    sayJson({
      ...textOf("path", path === "" ? "/" : path),
      snapshot: this.#name,
      dryRun: this.#flags.dryRun === true,
      items: this.#items.map((item) => ({ change: item.kind, ...textOf("path", item.path || "/") })),
      stayed: this.#stayed,
      skipped: this.skips.list,
    });
  }
}
