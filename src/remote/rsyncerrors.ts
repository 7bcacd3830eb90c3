/** What rsync and ssh say when they cannot, made one line for the user. */
import type { Ended } from "./child.ts";

/** Exit codes of rsync. */
const PARTIAL = 23;
const INTERRUPTED = 20;
const NO_COMMAND = [126, 127];
const TIMED_OUT = [30, 35];
/** No connection, or it ended too early. */
const CUT = [10, 12];
/** What ssh ends with by itself; what it runs has its own codes. */
export const SSH_FAILED = 255;

const LONGEST = 200;

/** Lines that say only that it did not work, or where in rsync's sources. */
const EMPTY_WORDS =
  /^(rsync error: |rsync: connection unexpectedly closed|rsync: \[\w+\] (safe_)?(read|write) (error|failed)|rsync: did not see server greeting|Warning: Permanently added|Could not chdir to home directory|\*\* |Connection to \S+ closed)/;

/** Why it ended, in one line. */
export function complaintOf({ code, stderr }: Ended): string {
  const lines = stderr
    .split(/[\r\n]+/)
    .map(clean)
    .filter((line) => line !== "");
  const said = lines.filter((line) => !EMPTY_WORDS.test(line));
  const find = (pattern: RegExp): string | undefined => said.find((line) => pattern.test(line));
  if (isFull({ stderr })) return "there is no space left";
  if (code === PARTIAL && find(/(change_dir|link_stat|opendir) .*No such file or directory/) !== undefined)
    return "there is no such directory";
  if (find(/change_dir .*Not a directory/) !== undefined) return "is no directory";
  if (find(/Read-only file system/) !== undefined) return "is read-only";
  if (code !== undefined && NO_COMMAND.includes(code)) return "rsync is not installed there";
  if (code !== undefined && TIMED_OUT.includes(code)) return "it does not answer (timeout)";
  if (code === undefined || code === INTERRUPTED) return "rsync was stopped";
  const line = find(/@ERROR: /) ?? (code === SSH_FAILED ? said.at(-1) : said[0]) ?? lines.at(-1) ?? "";
  const words = line.replace(/^.*@ERROR: /, "").replace(/^(ssh: |rsync: (\[\w+\] )?)/, "");
  return `${code === SSH_FAILED ? "ssh" : "rsync"} could not: ${words.slice(0, LONGEST)}`;
}

/** Whether the same may go well in a moment: not where a key or a place is refused. */
export function mayPass({ code, stderr }: Ended): boolean {
  if (
    /Permission denied|Host key verification failed|REMOTE HOST IDENTIFICATION|not known|No space left/.test(
      stderr,
    )
  )
    return false;
  if (/max connections|Another instance of rrsync/.test(stderr)) return true;
  return code === SSH_FAILED || [...TIMED_OUT, ...CUT].some((one) => one === code);
}

/** The disk there, or here, has no room. */
export function isFull({ stderr }: Pick<Ended, "stderr">): boolean {
  return /No space left on device|Disk quota exceeded/.test(stderr);
}

/** One of the two ends is older than the option. */
export function knowsNoFsync({ stderr }: Ended): boolean {
  return /fsync/.test(stderr);
}

/** rrsync lets in one at a time, unless it is told otherwise. */
export function isBusy({ stderr }: Ended): boolean {
  return /Another instance of rrsync/.test(stderr);
}

/** The other end wrote it: nothing in it is for the terminal. */
function clean(line: string): string {
  return line
    .replaceAll(/\p{Cc}(\[[0-9;]*[A-Za-z])?/gu, " ")
    .replaceAll(/\s+/g, " ")
    .trim();
}
