/** `sqlfuse status`: what is mounted here, by whom and since when, and what it did. */
import { statSync } from "node:fs";
import type { Command } from "commander";
import type { OperationCost } from "../src/fuse/costs.ts";
import type { RemoteState } from "../src/host/logmessages.ts";
import type { MountStatus } from "../src/host/mount.ts";
import type { MountedVolume } from "../src/host/mounts.ts";
import { addHelp } from "./help.ts";
import { align, alignOrStack, formatBytes, formatDuration, localTime, say } from "./output.ts";
import { findMounts, mountOf } from "./target.ts";

interface StatusFlags {
  readonly json?: true;
  readonly ops?: true;
}

/** A daemon that hangs must not hang its observer. */
const ANSWER_MS = 3000;

export function addStatus(program: Command): void {
  const command = program
    .command("status")
    .summary("show what is mounted")
    .description(
      "Shows the mounted volumes: file, mount point, process, since when, how long nobody used it, requests and bytes served. Of another user's mount only root sees the latter.",
    )
    .argument("[mountpoint|file]", "only this one")
    .option("--json", "as JSON, one array")
    .option("--ops", "what each kind of request cost the thread that serves")
    .action(status);
  addHelp(command, {
    notes: [
      "--ops counts time from the moment a request is there until its reply is delivered and what it wrote is in the database. p50 and p99 are upper bounds, exact to a factor of 1.4.",
    ],
    examples: [
      "sqlfuse status",
      "sqlfuse status --ops ~/vault",
      "sqlfuse status --json | jq -r '.[].mountpoint'",
    ],
  });
}

interface Row extends MountedVolume {
  /** Absent when the daemon is gone, does not answer, or belongs to another user. */
  readonly status?: MountStatus;
  readonly state: "serving" | "failed" | "no answer" | "another user's" | "dead";
}

async function status(name: string | undefined, flags: StatusFlags): Promise<void> {
  const { listMounts } = await import("../src/host/mounts.ts");
  const volumes = name === undefined ? listMounts() : await findMounts(name);
  const rows = await Promise.all(volumes.map(inspect));
  if (flags.json) {
    say(
      JSON.stringify(
        rows.map(({ status: inner, ...outer }) => ({ ...outer, ...inner })),
        undefined,
        2,
      ),
    );
  } else if (rows.length === 0) {
    say("no volume is mounted");
  } else {
    for (const line of alignOrStack(rowsOf(rows))) say(line);
    sayRemotes(rows.filter(({ status: inner }) => (inner?.remotes ?? []).length > 0));
    if (!flags.ops) return;
    for (const { mountpoint, status: inner } of rows) {
      say(`\n${mountpoint}`);
      for (const line of align(operations(inner?.operations ?? []))) say(line);
    }
  }
}

function sayRemotes(rows: readonly Row[]): void {
  if (rows.length === 0) return;
  say("");
  const cells = rows.flatMap(({ mountpoint, status: inner }) =>
    (inner?.remotes ?? []).map((remote) => [
      mountpoint,
      remote.name,
      remote.synced === null ? "never" : localTime(new Date(remote.synced)),
      remote.epochs === 0 ? "nothing" : `${remote.files} files, ${formatBytes(remote.bytes)}`,
      remote.error ?? (remote.busy ? "at work" : "well"),
    ]),
  );
  const heading = ["MOUNTPOINT", "REMOTE", "HAD ALL", "LACKS", "HOW IT IS"];
  for (const line of alignOrStack([heading, ...cells])) say(line);
}

/** How the remotes of what is mounted there are, as the mount knows; undefined where it does not push or pull. */
export async function statesAtMount(target: string): Promise<readonly RemoteState[] | undefined> {
  const mount = await mountOf(target);
  return mount === undefined ? undefined : (await inspect(mount)).status?.remotes;
}

function operations(costs: readonly OperationCost[]): string[][] {
  const allUs = costs.reduce((sum, { totalUs }) => sum + totalUs, 0);
  const us = (value: number): string => String(Number(value.toPrecision(3)));
  return [
    ["OPERATION", "COUNT", "SECONDS", "SHARE", "MEAN us", "p50 us", "p99 us"],
    ...costs.map(({ operation, count, totalUs, p50Us, p99Us }) => [
      operation,
      String(count),
      (totalUs / 1e6).toFixed(3),
      `${((100 * totalUs) / allUs).toFixed(1)} %`,
      us(totalUs / count),
      us(p50Us),
      us(p99Us),
    ]),
  ];
}

async function inspect(volume: MountedVolume): Promise<Row> {
  if (volume.pid === undefined) return { ...volume, state: "dead" };
  const { askControl } = await import("../src/host/control.ts");
  let timer: NodeJS.Timeout | undefined;
  try {
    const answer = await Promise.race([
      askControl(volume.pid, { cmd: "status" }) as Promise<MountStatus>,
      new Promise<never>((_, reject) => {
        timer = setTimeout(() => reject(new Error("no answer")), ANSWER_MS);
      }),
    ]);
    return { ...volume, status: answer, state: answer.failed ? "failed" : "serving" };
  } catch {
    return { ...volume, state: isOurs(volume.pid) ? "no answer" : "another user's" };
  } finally {
    clearTimeout(timer);
  }
}

/** The control socket of a process is for its own user and root. */
function isOurs(pid: number): boolean {
  const user = process.geteuid?.();
  const owner = statSync(`/proc/${pid}`, { throwIfNoEntry: false })?.uid;
  return user === 0 || owner === undefined || owner === user;
}

/** How long nobody used it, and after how long it ends. */
function idleOf({ lastUse, idleTimeoutMs }: MountStatus): string {
  const idle = formatDuration(Math.max(0, Date.now() - Date.parse(lastUse)));
  return idleTimeoutMs === undefined ? idle : `${idle} of ${formatDuration(idleTimeoutMs)}`;
}

function rowsOf(rows: readonly Row[]): string[][] {
  const head = [
    "FILE",
    "MOUNTPOINT",
    "MODE",
    "PID",
    "STATE",
    "SINCE",
    "IDLE",
    "REQUESTS",
    "READ",
    "WRITTEN",
    "ERRORS",
  ];
  const cells = rows.map(({ path, mountpoint, readOnly, at, pid, state, status: inner }) => [
    at === undefined ? path : `${path}@${at}`,
    mountpoint,
    readOnly ? "ro" : "rw",
    pid === undefined ? "-" : String(pid),
    state,
    inner === undefined ? "-" : localTime(new Date(inner.since)),
    inner === undefined ? "-" : idleOf(inner),
    inner === undefined ? "-" : String(inner.requests),
    inner === undefined ? "-" : formatBytes(inner.bytesRead),
    inner === undefined ? "-" : formatBytes(inner.bytesWritten),
    inner === undefined ? "-" : String(inner.errors),
  ]);
  return [head, ...cells];
}
