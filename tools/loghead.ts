/** The head of a log, as commands tell it and keep it in `--head-file FILE`. */
import type { Command } from "commander";
import type { LogHead } from "../src/log/head.ts";
import { localTime, warn } from "./output.ts";

/** The newest segment that somebody has of a log. */
export interface Head {
  readonly segment: number;
  readonly hash: Uint8Array;
  readonly epoch: number;
  /** Nanoseconds since 1970; 0 where it is not known. */
  readonly createdNs: bigint;
}

export interface HeadFlags {
  readonly headFile?: string;
}

/** Of the hash: enough for two people to compare. */
const SHORT_DIGITS = 16;

export function addHeadOption(command: Command): Command {
  return command.option(
    "--head-file <file>",
    "keep the newest state of the log that was seen in FILE, elsewhere, and refuse an older one",
  );
}

function timeOf(createdNs: bigint): Date {
  return new Date(Number(createdNs / 1_000_000n));
}

/** One line that two people can compare. */
export function headText({ segment, hash, epoch, createdNs }: Head): string {
  const short = Buffer.from(hash).toString("hex").slice(0, SHORT_DIGITS);
  const when = createdNs === 0n ? "" : ` of ${localTime(timeOf(createdNs))}`;
  return `segment ${segment} (${short}), epoch ${epoch}${when}`;
}

export function headFields({ segment, hash, epoch, createdNs }: Head): object {
  const created = createdNs === 0n ? null : timeOf(createdNs).toISOString();
  return { segment, hash: Buffer.from(hash).toString("hex"), epoch, created };
}

/** What the head file has seen; nothing where none is asked for, or it is not there yet. @throws OpenError bad-head */
export async function readHeadOf({ headFile }: HeadFlags): Promise<{ readonly head?: LogHead }> {
  if (headFile === undefined) return {};
  const { readLogHead } = await import("../src/log/head.ts");
  const head = readLogHead(headFile);
  return head === undefined ? {} : { head };
}

/** Keeps what was seen now. @throws OpenError bad-head */
export async function keepHead(
  { headFile }: HeadFlags,
  before: LogHead | undefined,
  head: LogHead,
): Promise<void> {
  if (headFile === undefined || head.segment === 0) return;
  if (before?.segment === head.segment && Buffer.compare(before.log, head.log) === 0) return;
  const { writeLogHead } = await import("../src/log/head.ts");
  writeLogHead(headFile, head);
  if (before === undefined)
    warn(
      `${headFile}: made anew; states of the log older than segment ${head.segment} are refused from now on`,
    );
}
