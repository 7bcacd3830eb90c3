/** `sqlfuse fsck FILE`: whether a volume is whole, and its repair. Its exit codes are those of fsck(8). */
import { resolve } from "node:path";
import type { Command } from "commander";
import type { Key } from "../src/db/key.ts";
import type { Finding, Report, Progress as Step } from "../src/fsck/check.ts";
import type { Repaired } from "../src/fsck/repair.ts";
import { requireEngine } from "./engine.ts";
import { describeError, FSCK_EXIT, FSCK_EXIT_TABLE, ToolError } from "./exitcodes.ts";
import { addHelp } from "./help.ts";
import { formatBytes, quote, say, warn } from "./output.ts";
import { addPasswordOptions, canAsk, confirm, type PasswordOptions, readPassword } from "./password.ts";
import { Progress } from "./progress.ts";
import { describeHolder, type Holder, holderOf, refuseMissing } from "./rewrite.ts";
import { runSteps, Signals } from "./steps.ts";

interface FsckFlags extends PasswordOptions {
  readonly repair?: true;
  readonly verifyData?: true;
  readonly headFile?: string;
  readonly json?: true;
  readonly quiet?: true;
  readonly yes?: true;
}

/** Findings that are listed for people; --json has all. */
const MOST_LINES = 200;

export function addFsck(program: Command): void {
  const command = program
    .command("fsck")
    .summary("check a volume, and repair it")
    .description(
      "Checks FILE: every page, the -wal, the database's own structure, then names, links, sizes, blocks and " +
        "attributes. Changes nothing without --repair. A mounted volume is checked as it is at that moment.",
    )
    .argument("<file>", "the database file")
    .option("--repair", "mend what is found; on a terminal it asks first")
    .option("--verify-data", "read the data of every block as well")
    .option("--head-file <file>", "compare with the newest state that a mount with --head-file left in FILE")
    .option("--yes", "do not ask")
    .option("-q, --quiet", "print what is wrong, and nothing else")
    .option("--json", "print one JSON object");
  addPasswordOptions(command).action(fsck);
  addHelp(command, {
    notes: [
      "What has no place any more goes to /lost+found in the volume. If pages of FILE are damaged, all that can be " +
        "read is copied to a new file that takes its name, and the damaged one is kept beside it as " +
        "FILE.damaged-TIME; the disk needs room for both.",
    ],
    exits: FSCK_EXIT_TABLE,
    examples: [
      "sqlfuse fsck vault.sqlite",
      "sqlfuse fsck --repair vault.sqlite",
      "sqlfuse fsck --json vault.sqlite | jq -r '.findings[].path'",
    ],
  });
}

/** All that goes wrong has one code here, as fsck(8) wants it. */
async function fsck(file: string, flags: FsckFlags): Promise<void> {
  try {
    process.exitCode = await run(file, flags);
  } catch (error) {
    const { message, code } = describeError(error);
    const isCancelled = code > 128;
    throw new ToolError(isCancelled ? FSCK_EXIT.cancelled : FSCK_EXIT.failed, message);
  }
}

async function run(file: string, flags: FsckFlags): Promise<number> {
  refuseMissing(file);
  await requireEngine();
  const holder = await holderOf(file);
  if (flags.repair && holder !== undefined)
    throw new ToolError(FSCK_EXIT.failed, `${file}: ${describeHolder(holder)}`);
  const { unlock } = await import("../src/core/unlock.ts");
  const password = await readPassword(flags, { path: file, confirm: false, warn });
  let key: Key;
  try {
    key = unlock(file, password);
  } finally {
    password.fill(0);
  }
  const signals = new Signals();
  try {
    return await checkAndRepair(file, key, flags, holder, signals);
  } finally {
    signals.end();
    key.wipe();
  }
}

async function checkAndRepair(
  file: string,
  key: Key,
  flags: FsckFlags,
  holder: Holder | undefined,
  signals: Signals,
): Promise<number> {
  const { inspect } = await import("../src/fsck/check.ts");
  const { pageSize } = key.cipher;
  const verifyData = flags.verifyData === true;
  const headFile = flags.headFile === undefined ? undefined : resolve(flags.headFile);
  const report = await show(
    inspect(file, key, { verifyData, besideMount: true, headFile }),
    pageSize,
    `stopped; nothing of ${file} was changed`,
    flags.quiet,
    signals,
  );
  const isClean = report.findings.length === 0;
  if (!flags.json) printReport(file, report, flags, holder, pageSize);
  if (isClean || !flags.repair) {
    const code = isClean ? FSCK_EXIT.clean : FSCK_EXIT.left;
    if (flags.json) printJson(file, report, undefined, code);
    return code;
  }
  if (!(await agreed(file, report, flags))) {
    if (flags.json) printJson(file, report, undefined, FSCK_EXIT.left);
    return FSCK_EXIT.left;
  }
  await signals.stopHere(`stopped; nothing of ${file} was changed`);
  const { systemClock } = await import("../src/base/clock.ts");
  const { repair } = await import("../src/fsck/repair.ts");
  const repaired = await show(
    repair(file, key, report, systemClock, headFile),
    pageSize,
    `stopped; ${file} is as it was`,
    flags.quiet,
    signals,
  );
  const code = repaired.left.length === 0 ? FSCK_EXIT.corrected : FSCK_EXIT.left;
  if (flags.json) printJson(file, report, repaired, code);
  else printRepair(file, report, repaired, flags);
  return code;
}

/** Says what is about to be done, and asks where there is somebody to ask. */
async function agreed(file: string, report: Report, flags: FsckFlags): Promise<boolean> {
  const isOlder = report.findings.some(({ kind }) => kind === "head");
  const how =
    report.damage === "everything"
      ? "what can be read will be copied to a new file that takes its name, and the damaged file kept beside it"
      : isOlder && report.findings.length === 1
        ? "nothing brings the lost changes back; this state will be taken for the newest one"
        : "they will be mended in the file, all or none";
  const count = plural(report.findings.length, "error");
  if (!flags.quiet && !flags.json) say(`${file}: ${count}; ${how}`);
  if (flags.yes || !canAsk()) return true;
  return await confirm(`Repair ${file}?`);
}

async function show<Result>(
  work: Generator<Step, Result>,
  pageSize: number,
  undone: string,
  quiet: true | undefined,
  signals: Signals,
): Promise<Result> {
  const progress = new Progress(quiet);
  try {
    return await runSteps(
      work,
      ({ phase, done, total }) => {
        if (phase === "pages") progress.update(phase, done * pageSize, total * pageSize);
        else progress.count(phase, done, total);
      },
      undone,
      signals,
    );
  } finally {
    progress.end();
  }
}

function printReport(
  file: string,
  report: Report,
  flags: FsckFlags,
  holder: Holder | undefined,
  pageSize: number,
): void {
  const { findings, notices, inodes, blocks, pages, isMounted } = report;
  if (!flags.quiet) {
    if (isMounted) {
      const where = holder?.mountpoint === undefined ? "in use" : `mounted at ${holder.mountpoint}`;
      say(`${file}: ${where}; checked as of its last commit`);
    }
    for (const { text } of notices) say(`${file}: ${text}`);
  }
  for (const finding of findings.slice(0, MOST_LINES)) say(line(finding, flags.quiet === true));
  if (findings.length > MOST_LINES) say(`… and ${findings.length - MOST_LINES} more; --json lists them`);
  if (flags.quiet) return;
  const size = `${plural(inodes, "file")}, ${plural(blocks, "block")}, ${formatBytes(pages * pageSize)}`;
  if (findings.length === 0) say(`${file}: clean (${size})`);
  else if (!flags.repair) {
    const head = flags.headFile === undefined ? "" : `--head-file ${quote(flags.headFile)} `;
    say(
      `${file}: ${plural(findings.length, "error")}; to mend them: sqlfuse fsck --repair ${head}${quote(file)}`,
    );
  }
}

/** "/a/b (inode 17): link-count: it says 3 links, 1 entries name it -> the count is set" */
function line({ kind, ino, path, text, remedy }: Finding, isQuiet: boolean): string {
  const inode = ino === undefined ? "" : `inode ${ino}`;
  const what = path === undefined ? inode : inode === "" ? path : `${path} (${inode})`;
  const then = remedy === undefined || isQuiet ? "" : ` -> ${remedy}`;
  return `${what === "" ? "" : `${what}: `}${kind}: ${text}${then}`;
}

function printRepair(file: string, report: Report, repaired: Repaired, flags: FsckFlags): void {
  const { left, placed, unreadable, kept } = repaired;
  if (!flags.quiet) {
    for (const { ino, path } of placed) say(`inode ${ino} is now ${path}`);
    for (const { path, ino, text } of unreadable)
      say(`lost: ${path ?? (ino === undefined ? "?" : `inode ${ino}`)}: ${text}`);
    if (kept !== undefined) say(`${file}: the damaged file is kept as ${kept}`);
  }
  for (const finding of left) say(`left: ${line(finding, true)}`);
  if (flags.quiet) return;
  say(
    left.length === 0
      ? `${file}: repaired (${plural(report.findings.length, "error")})`
      : `${file}: ${plural(left.length, "error")} could not be repaired`,
  );
}

function printJson(file: string, report: Report, repaired: Repaired | undefined, code: number): void {
  const { findings, notices, isMounted, pages, inodes, blocks } = report;
  const repair = repaired === undefined ? {} : { repair: repaired };
  say(
    JSON.stringify(
      { file, code, mounted: isMounted, pages, inodes, blocks, findings, notices, ...repair },
      undefined,
      2,
    ),
  );
}

function plural(count: number, what: string): string {
  return `${count} ${what}${count === 1 ? "" : "s"}`;
}
