/**
 * Around the whole test run. Every temporary directory of the run is made inside one directory (TMPDIR), so that
 * at the end it can be told what the tests left behind: a mount that is still there fails the run, whoever forgot
 * it. (An unhandled rejection or error fails the run by itself: vitest exits with 1 unless told to ignore it.)
 */
import { chmodSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

function mountsBelow(directory: string): string[] {
  let table: string;
  try {
    table = readFileSync("/proc/self/mountinfo", "utf8");
  } catch {
    return []; // not Linux: no mounts of ours
  }
  return table
    .split("\n")
    .map((line) => line.split(" ")[4] ?? "")
    .filter((mountpoint) => mountpoint.startsWith(`${directory}/`));
}

export function setup(): () => void {
  const directory = mkdtempSync(join(tmpdir(), "sqlfuse-run-"));
  chmodSync(directory, 0o1777); // some tests work as an unprivileged user
  process.env.TMPDIR = directory;
  return () => {
    const leaked = mountsBelow(directory);
    if (leaked.length > 0) throw new Error(`tests left mounts behind: ${leaked.join(", ")}`);
    rmSync(directory, { recursive: true, force: true });
  };
}
