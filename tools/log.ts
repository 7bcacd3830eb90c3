/** `sqlfuse log FILE|PATH [PATH]`: what happened to a file, as far as snapshots tell. */
import type { Command } from "commander";
import type { Event } from "../src/core/changes.ts";
import type { Snapshot } from "../src/core/history.ts";
import { EXIT, ToolError } from "./exitcodes.ts";
import { addHelp } from "./help.ts";
import { addJsonOption, formatBytes, localTime, say, sayJson } from "./output.ts";
import { addPasswordOptions, type PasswordOptions } from "./password.ts";
import { show, textOf } from "./skips.ts";
import { findWhere, type Where, withChanges } from "./where.ts";

interface LogFlags extends PasswordOptions {
  readonly json?: true;
}

export function addLog(program: Command): void {
  const command = program
    .command("log")
    .summary("tell when a file changed, and how")
    .description(
      "Tells when the file or directory changed, and how: made, renamed, written, deleted; the newest first, " +
        "with the first snapshot that shows it. PATH is in a mount, or in FILE, and need not be there any more. What " +
        "happened between two snapshots is told as one change, with the time of the last.",
    )
    .argument("<file|path>", "a path in a mount, or the database file")
    .argument("[path]", "with FILE: the path in it");
  addPasswordOptions(command);
  addJsonOption(command).action(log);
  addHelp(command, {
    examples: ["sqlfuse log ~/vault/letters/a.txt", "sqlfuse log vault.sqlite letters/a.txt"],
  });
}

async function log(first: string, inside: string | undefined, flags: LogFlags): Promise<void> {
  const where = await findWhere(first, inside);
  await withChanges(where, flags, async (volume, changes) => {
    const snapshots = volume.history.list();
    const events = [...changes.log(where.path)];
    if (events.length === 0) throw neverSeen(where);
    if (flags.json) sayJson(events.map((event) => jsonOf(event, snapshots)));
    else for (const line of linesOf(events, snapshots)) say(line);
  });
}

/** What no snapshot shows, and is not there. */
export function neverSeen(where: Where): ToolError {
  return new ToolError(
    EXIT.unusable,
    `${show(where.path)}: not in the volume, nor in any snapshot; see: sqlfuse snapshot list ${where.file}`,
  );
}

function nameOf(event: Event, snapshots: readonly Snapshot[]): string | undefined {
  return snapshots.find(({ epoch }) => epoch === event.epoch)?.name;
}

function linesOf(events: readonly Event[], snapshots: readonly Snapshot[]): string[] {
  const rows = events.map((event) => [
    event.time === undefined ? "-" : localTime(new Date(event.time.sec * 1000)),
    nameOf(event, snapshots) ?? "now",
    describe(event),
  ]);
  const head = ["TIME", "SHOWN BY", "WHAT"];
  const widths = head.map((_, i) => Math.max(...[head, ...rows].map((row) => row[i]?.length ?? 0)));
  return [head, ...rows].map((row) =>
    row.map((cell, i) => (i === 2 ? cell : cell.padEnd(widths[i] ?? 0))).join("  "),
  );
}

function describe(event: Event): string {
  const { kind, path, from, what, size, writtenBytes, namesAdded, namesRemoved } = event;
  if (kind === "deleted") return `deleted: ${show(path)}`;
  if (kind === "created") return `created: ${show(path)}, now ${formatBytes(size)}`;
  if (kind === "replaced") return `replaced by another file of ${formatBytes(size)}`;
  const came = `${namesAdded} name${namesAdded === 1 ? "" : "s"} came`;
  const names = namesAdded + namesRemoved === 0 ? [] : [`${came}, ${namesRemoved} went`];
  const written = what.includes("content")
    ? [`written ${formatBytes(writtenBytes)}, now ${formatBytes(size)}`]
    : [];
  const moved = from === undefined ? [] : [`renamed from ${show(from)} to ${show(path)}`];
  const rest = what.filter((one) => one !== "content").map((one) => `${one} changed`);
  const all = [...moved, ...written, ...names, ...rest];
  return all.length === 0 ? "links changed" : all.join("; ");
}

function jsonOf(event: Event, snapshots: readonly Snapshot[]): object {
  const { kind, time, path, from, what, writtenBytes, size, namesAdded, namesRemoved } = event;
  const milliseconds = time && time.sec * 1000 + Math.floor(time.nsec / 1e6);
  return {
    event: kind,
    time: milliseconds === undefined ? null : new Date(milliseconds).toISOString(),
    snapshot: nameOf(event, snapshots) ?? null,
    ...textOf("path", path === "" ? "/" : path),
    ...(from === undefined ? {} : textOf("from", from)),
    what,
    writtenBytes,
    namesAdded,
    namesRemoved,
    size,
  };
}
