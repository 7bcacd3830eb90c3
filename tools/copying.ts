/** What `get` and `put` share: a copy with its progress, what it left out, and its end. */
import { realpathSync, statSync } from "node:fs";
import { Copier, describe } from "../src/archive/copy.ts";
import { type Place, refusalOf } from "../src/archive/place.ts";
import { isDirectory } from "../src/core/mode.ts";
import { EXIT, ToolError } from "./exitcodes.ts";
import type { Breath } from "./interrupt.ts";
import { formatBytes, type OutputFlags, sayJson, warn } from "./output.ts";
import { Progress } from "./progress.ts";
import { type Skipped, Skips, show } from "./skips.ts";

export interface CopyFlags extends OutputFlags {
  /** False with --no-clobber. */
  readonly clobber: boolean;
}

export interface CopySource {
  /** Within the place that is copied from. */
  readonly path: string;
  /** What it is called in a directory that it is copied into; "" stands for what is in it. */
  readonly name: string;
}

export interface Job {
  readonly from: Place;
  readonly sources: readonly CopySource[];
  readonly to: Place;
  /** Within `to`. */
  readonly target: string;
  /** Of the volume. */
  readonly file: string;
  readonly flags: CopyFlags;
  readonly breath: Breath;
  readonly idle: () => void;
}

/** Attributes that could not be kept are told for so many files; the rest is counted. */
const LOSSES_SHOWN = 3;

/** @throws ToolError where nothing can be copied at all */
export async function copyAll(job: Job): Promise<void> {
  const { from, sources, to, target, flags, breath } = job;
  const progress = new Progress(flags.quiet);
  const skips = new Skips(progress);
  let bytes = 0;
  let losses = 0;
  const copier = new Copier(from, to, {
    chown: process.geteuid?.() === 0,
    noClobber: !flags.clobber,
    untouchable: filesOf(job.file),
    breathe() {
      job.idle();
      progress.tally(`copying: ${skips.doneCount} files, ${formatBytes(bytes)}`);
      return breath.breathe();
    },
    onItem: () => skips.done(),
    onBytes(count) {
      bytes += count;
    },
    onSkip: (path, why) => skips.skip(path, why),
    onLoss(path, what) {
      if (++losses > LOSSES_SHOWN) return;
      progress.end();
      warn(`${show(path)}: copied without its attribute ${what}`);
    },
  });
  try {
    const within = isThereDirectory(to, target);
    if (!within && sources.length > 1)
      throw new ToolError(EXIT.unusable, `${show(target)}: not a directory, so it cannot take several`);
    refuseMissingParent(to, target);
    for (const source of sources) {
      await copier.copy(source.path, within && source.name !== "" ? `${target}/${source.name}` : target);
    }
  } catch (error) {
    throw explain(error, show(target));
  } finally {
    progress.end();
    if (losses > LOSSES_SHOWN) warn(`${losses - LOSSES_SHOWN} more attributes could not be kept`);
  }
  skips.setExitCode();
  if (flags.json) tellCopied(skips.doneCount, bytes, skips.list);
}

export function tellCopied(copied: number, bytes: number, skipped: readonly Skipped[]): void {
  sayJson({ copied, bytes, skipped });
}

/**
 * The database and what SQLite has beside it: opening and closing one of them in a process that has the volume open
 * would drop SQLite's locks on it, and replacing one would be the end of the volume.
 */
function filesOf(file: string): Set<string> {
  const real = realpathSync(file);
  const stats = ["", "-wal", "-shm"].map((end) => statSync(real + end, { throwIfNoEntry: false }));
  return new Set(stats.flatMap((stat) => (stat === undefined ? [] : [`${stat.dev}:${stat.ino}`])));
}

function isThereDirectory(place: Place, path: string): boolean {
  const stat = place.stat(path);
  return stat !== undefined && isDirectory(stat.mode);
}

function refuseMissingParent(place: Place, path: string): void {
  if (path === "" || isThereDirectory(place, path.slice(0, path.lastIndexOf("/")))) return;
  throw new ToolError(EXIT.unusable, `${show(path)}: the directory that it would be in does not exist`);
}

/** A refusal that ended the work. */
export function explain(error: unknown, what: string): unknown {
  const code = refusalOf(error);
  if (code === undefined || error instanceof ToolError) return error;
  return new ToolError(
    code === "ENOSPC" || code === "EDQUOT" ? EXIT.noSpace : EXIT.unusable,
    `${what}: ${describe(error)}`,
  );
}

/** What a user wrote as a path, in the characters of a place: one per byte. */
export function pathText(argument: string): string {
  return Buffer.from(argument).toString("latin1");
}
