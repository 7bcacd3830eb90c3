/** `sqlfuse snapshot ACTION FILE|MOUNTPOINT [NAME]`: the states of a volume that are kept. */
import { Argument, type Command, Option } from "commander";
import type { HistoryOrder, HistoryOutcome, Snapshot } from "../src/core/history.ts";
import type { Retention } from "../src/core/retention.ts";
import type { MountedVolume } from "../src/host/mounts.ts";
import { EXIT, ToolError } from "./exitcodes.ts";
import { addHelp } from "./help.ts";
import { type Breath, interruptible } from "./interrupt.ts";
import { addOutputOptions, localTime, type OutputFlags, say, sayJson, tell } from "./output.ts";
import { addPasswordOptions, type PasswordOptions } from "./password.ts";
import { syncMount } from "./sync.ts";
import { mountOf } from "./target.ts";
import { refuseReadOnly, withVolume } from "./volumes.ts";

const ACTIONS = ["create", "list", "delete", "protect", "unprotect", "prune"] as const;
type Action = (typeof ACTIONS)[number];

interface SnapshotFlags extends PasswordOptions, OutputFlags {
  readonly keepWithin?: string;
  readonly keepLast?: string;
  readonly keepHourly?: string;
  readonly keepDaily?: string;
  readonly keepWeekly?: string;
  readonly keepMonthly?: string;
  readonly keepYearly?: string;
  readonly whenFull?: "delete" | "keep";
  readonly save?: true;
  readonly dryRun?: true;
}

export function addSnapshot(program: Command): void {
  const command = program
    .command("snapshot")
    .summary("keep the volume as it is now, and tell what is kept")
    .description(
      "Keeps the state that a volume has now (create), in a moment and without using space: only what is changed " +
        "later is kept twice. A state that is kept is read with --at, by mount, ls, cat, get and dump. A mounted " +
        "volume stays mounted, and all that was written to it before is kept.",
    )
    .addArgument(new Argument("<action>", "what to do").choices(ACTIONS))
    .argument("<file|mountpoint>", "the database file, or where it is mounted")
    .argument("[name]", "of the snapshot (create: the time, unless you say so)")
    .option("--keep-within <duration>", "prune: keep all automatic ones that are younger (36h, 7d, 4w)")
    .option("--keep-last <n>", "prune: keep the newest N")
    .option("--keep-hourly <n>", "prune: keep the last one of each of the last N hours that have one")
    .option("--keep-daily <n>", "prune: the same for days")
    .option("--keep-weekly <n>", "prune: for weeks")
    .option("--keep-monthly <n>", "prune: for months")
    .option("--keep-yearly <n>", "prune: for years")
    .addOption(
      new Option(
        "--when-full <what>",
        "prune: on a full disk delete the oldest automatic ones, or keep them",
      ).choices(["delete", "keep"]),
    )
    .option("--save", "prune: mounts with --history keep by these rules from now on")
    .option("--dry-run", "prune: only tell what would be deleted");
  addPasswordOptions(command);
  addOutputOptions(command).action(snapshot);
  addHelp(command, {
    notes: [
      "In a mount each directory has its past in .sqlfuse/at/SNAPSHOT, which no listing shows, and the topmost one " +
        ".sqlfuse/snapshots, where mkdir makes a snapshot and rmdir deletes it.",
      "prune deletes automatic snapshots only, those of mounts with --history, and none that is protected. Without " +
        "a rule it takes those that were saved, else: --keep-within 24h --keep-hourly 168 --keep-daily 30 --keep-weekly 52.",
      "The space of a snapshot that is deleted is free for other files soon after; sqlfuse vacuum gives it back to the disk.",
    ],
    examples: [
      "sqlfuse snapshot create ~/vault 'before the upgrade'",
      "sqlfuse snapshot list vault.sqlite",
      "sqlfuse snapshot prune vault.sqlite --keep-within 7d --keep-weekly 10 --save",
    ],
  });
}

async function snapshot(action: Action, target: string, name: string | undefined, flags: SnapshotFlags) {
  const order = orderOf(action, name, flags);
  await interruptible("stopped; what is deleted stays deleted", async ({ breathe }) => {
    const outcome = await carryOut(target, order, flags, breathe);
    if (!outcome.ok) throw refusal(outcome.code, "name" in order ? order.name : target);
    report(action, order, outcome.snapshots, flags);
  });
}

function orderOf(action: Action, name: string | undefined, flags: SnapshotFlags): HistoryOrder {
  const takesName = action !== "list" && action !== "prune";
  if (!takesName && name !== undefined) throw new ToolError(EXIT.usage, `snapshot ${action} takes no NAME`);
  const retention = retentionOf(flags);
  const forPrune = retention !== undefined || flags.save === true || flags.dryRun === true;
  if (forPrune && action !== "prune")
    throw new ToolError(EXIT.usage, `--keep-..., --when-full, --save and --dry-run are for: snapshot prune`);
  if (action === "list") return { do: "list" };
  if (action === "prune") {
    const how = { save: flags.save === true, dryRun: flags.dryRun === true };
    return { do: "prune", ...(retention === undefined ? {} : { retention }), ...how };
  }
  if (action === "create") return { do: "create", name: name ?? localTime(new Date()) };
  if (name === undefined) throw new ToolError(EXIT.usage, `snapshot ${action}: which one? give its NAME`);
  if (action === "delete") return { do: "delete", name };
  return { do: "protect", name, protect: action === "protect" };
}

/** By the daemon of a mounted volume, else here. */
async function carryOut(
  target: string,
  order: HistoryOrder,
  flags: SnapshotFlags,
  breathe: Breath["breathe"],
): Promise<HistoryOutcome> {
  const mount = await mountOf(target);
  if (mount !== undefined) return await ask(mount, order);
  const { obeyHistory } = await import("../src/core/history.ts");
  const isReading = order.do === "list" || (order.do === "prune" && order.dryRun);
  return await withVolume(target, flags, isReading ? { beside: true } : {}, async (volume) => {
    if (!isReading) refuseReadOnly(volume, target);
    const outcome = obeyHistory(volume.history, order);
    const SLICE_MS = 50;
    while (outcome.ok && !isReading && volume.prune(SLICE_MS)) {
      volume.idle(performance.now());
      await breathe();
    }
    return outcome;
  });
}

async function ask(mount: MountedVolume, order: HistoryOrder): Promise<HistoryOutcome> {
  const { askControl } = await import("../src/host/control.ts");
  // What was stored through mmap is to be in it.
  if (order.do === "create") await syncMount(mount);
  return (await askControl(mount.pid ?? 0, { cmd: "history", order })) as HistoryOutcome;
}

function refusal(code: string, name: string): ToolError {
  const texts: Record<string, readonly [number, string]> = {
    EEXIST: [EXIT.unusable, "there is a snapshot of that name; delete it first, or take another name"],
    ENOENT: [EXIT.unusable, "no such snapshot; see: sqlfuse snapshot list"],
    EPERM: [EXIT.unusable, "is protected; see: sqlfuse snapshot unprotect"],
    EINVAL: [
      EXIT.usage,
      "cannot be the name of a snapshot: at most 255 bytes on one line, without /, and neither a number nor now, auto-... or pushed-...",
    ],
    EROFS: [EXIT.unusable, "the volume is read-only"],
    ENOSPC: [EXIT.noSpace, "no space left on the disk"],
  };
  const [exit, text] = texts[code] ?? [EXIT.other, `failed (${code})`];
  return new ToolError(exit, `${name}: ${text}`);
}

function report(
  action: Action,
  order: HistoryOrder,
  snapshots: readonly Snapshot[],
  flags: SnapshotFlags,
): void {
  const plain = snapshots.map(jsonOf);
  if (action === "list") {
    if (flags.json) sayJson(plain);
    else for (const line of linesOf(snapshots)) say(line);
    return;
  }
  if (action === "prune") {
    const dryRun = order.do === "prune" && order.dryRun;
    const count = `${snapshots.length} automatic snapshot${snapshots.length === 1 ? "" : "s"}`;
    tell(flags, `${count} ${dryRun ? "would be deleted" : "deleted"}`, { deleted: plain, dryRun });
    return;
  }
  const done = { create: "kept", delete: "deleted", protect: "protected", unprotect: "no longer protected" };
  for (const one of snapshots) tell(flags, `${one.name}: ${done[action]} (epoch ${one.epoch})`, jsonOf(one));
}

function jsonOf({ epoch, name, created, protected: isProtected, automatic }: Snapshot): object {
  const time = new Date(created.sec * 1000 + Math.floor(created.nsec / 1e6)).toISOString();
  return { name, epoch, created: time, protected: isProtected, automatic };
}

function linesOf(snapshots: readonly Snapshot[]): string[] {
  if (snapshots.length === 0) return ["no snapshots"];
  const rows = snapshots.map((one) => [
    String(one.epoch),
    localTime(new Date(one.created.sec * 1000)),
    one.automatic ? "automatic" : one.protected ? "protected" : "",
    one.name,
  ]);
  const head = ["EPOCH", "TIME", "KIND", "NAME"];
  const widths = head.map((_, i) => Math.max(...[head, ...rows].map((row) => row[i]?.length ?? 0)));
  return [head, ...rows].map((row) =>
    row
      .map((cell, i) => cell.padEnd(widths[i] ?? 0))
      .join("  ")
      .trimEnd(),
  );
}

const UNIT_SECONDS: Record<string, number> = { m: 60, h: 3600, d: 86_400, w: 604_800, y: 31_536_000 };

/** The rules on the command line; undefined where there are none. */
function retentionOf(flags: SnapshotFlags): Retention | undefined {
  const { keepWithin, keepLast, keepHourly, keepDaily, keepWeekly, keepMonthly, keepYearly, whenFull } =
    flags;
  const rules = {
    within: keepWithin === undefined ? 0 : seconds(keepWithin),
    last: count("--keep-last", keepLast),
    hourly: count("--keep-hourly", keepHourly),
    daily: count("--keep-daily", keepDaily),
    weekly: count("--keep-weekly", keepWeekly),
    monthly: count("--keep-monthly", keepMonthly),
    yearly: count("--keep-yearly", keepYearly),
  };
  const given = [keepWithin, keepLast, keepHourly, keepDaily, keepWeekly, keepMonthly, keepYearly];
  if (given.some((one) => one !== undefined)) return { ...rules, whenFull: whenFull !== "keep" };
  if (whenFull === undefined) return undefined;
  throw new ToolError(EXIT.usage, "--when-full goes with the rules of what is kept: --keep-...");
}

function count(option: string, value: string | undefined): number {
  if (value === undefined) return 0;
  if (/^\d{1,6}$/.test(value)) return Number(value);
  throw new ToolError(EXIT.usage, `${option} ${value}: not a number`);
}

function seconds(value: string): number {
  const [, digits, unit = ""] = /^(\d{1,6})([mhdwy])$/.exec(value) ?? [];
  const unitSeconds = UNIT_SECONDS[unit];
  if (digits !== undefined && unitSeconds !== undefined) return Number(digits) * unitSeconds;
  throw new ToolError(EXIT.usage, `--keep-within ${value}: not a time such as 90m, 36h, 7d, 4w or 1y`);
}
