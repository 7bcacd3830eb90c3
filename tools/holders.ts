/**
 * Which processes keep a mount busy, as fuser(1) tells: by the links in /proc alone, as these are answered
 * without asking the filesystem that is looked at. Other users' processes are seen by root only.
 */
import { readdirSync, readFileSync, readlinkSync } from "node:fs";

interface Holder {
  readonly pid: number;
  readonly command: string;
}

function holdersOf(mountpoint: string): Holder[] {
  return numbersIn("/proc")
    .filter((pid) => pid !== process.pid && holds(pid, mountpoint))
    .map((pid) => ({ pid, command: commandOf(pid) }));
}

export function describeHolders(mountpoint: string): string {
  const holders = holdersOf(mountpoint);
  if (holders.length === 0) return "a process of another user, or another mount, holds it";
  const shown = holders.slice(0, 8).map((holder) => `${holder.pid} (${holder.command})`);
  const more = holders.length > shown.length ? ` and ${holders.length - shown.length} more` : "";
  return `held by pid ${shown.join(", ")}${more}`;
}

/**
 * A process in whose mount namespace the filesystem `device` ("major:minor") is mounted: undefined where there is none. A
 * container that was started beside a mount has a copy of it, which an unmount outside may leave.
 */
export function namespaceHolder(device: string): string | undefined {
  const pid = numbersIn("/proc").find((pid) =>
    text(`/proc/${pid}/mountinfo`)
      .split("\n")
      .some((line) => line.split(" ")[2] === device),
  );
  return pid === undefined ? undefined : `${pid} (${commandOf(pid)})`;
}

function holds(pid: number, mountpoint: string): boolean {
  const inside = (path: string | undefined): boolean =>
    path !== undefined && (path === mountpoint || path.startsWith(`${mountpoint}/`));
  const base = `/proc/${pid}`;
  if (["cwd", "root", "exe"].some((name) => inside(link(`${base}/${name}`)))) return true;
  if (numbersIn(`${base}/fd`).some((fd) => inside(link(`${base}/fd/${fd}`)))) return true;
  return text(`${base}/maps`)
    .split("\n")
    .some((line) => inside(/\/.*$/.exec(line)?.[0]));
}

function numbersIn(directory: string): number[] {
  try {
    return readdirSync(directory)
      .filter((name) => /^\d+$/.test(name))
      .map(Number);
  } catch {
    return []; // gone, or not ours to see
  }
}

function link(path: string): string | undefined {
  try {
    return readlinkSync(path);
  } catch {
    return undefined;
  }
}

function text(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}

function commandOf(pid: number): string {
  return text(`/proc/${pid}/comm`).trim() || "?";
}
