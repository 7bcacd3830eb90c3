/** The system calls of a program: recorded, made to fail, or the last ones that it makes. strace does it. */
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";

const OPTIONS = ["-f", "-qq", "-e", "signal=none"];
/** With a filter in the kernel a program stops at the calls in question alone, and takes half the time; but no signal comes. */
const FAST = ["--seccomp-bpf", ...OPTIONS];

/** Whether strace is there, knows the options, and may trace. */
export const canTrace = spawnSync("strace", [...FAST, "-o", "/dev/null", "true"]).status === 0;

/** What changes a file or a directory. Which of them exist depends on the processor. */
export const WRITES: readonly string[] = [
  "pwrite64",
  "pwritev",
  "ftruncate",
  "fsync",
  "fdatasync",
  "rename",
  "renameat",
  "renameat2",
  "link",
  "linkat",
  "unlink",
  "unlinkat",
  "fchmod",
  "fchown",
  "setxattr",
  "removexattr",
];

/** The call of this name that is the `when`-th of its thread, counted from 1. */
export type Call = readonly [name: string, when: number];

/** The command line that runs `argv` and writes its calls of these names to `log`. */
export function recorded(argv: readonly string[], names: readonly string[], log: string): string[] {
  return ["strace", ...FAST, "-e", `trace=${names.map((name) => `?${name}`).join()}`, "-o", log, ...argv];
}

/** The command line that runs `argv` and has `fault`, such as signal=SIGKILL or error=EIO, come at that call. */
export function faulted(argv: readonly string[], [name, when]: Call, fault: string): string[] {
  const inject = ["-e", `trace=${name}`, "-e", `inject=${name}:${fault}:when=${when}`];
  const options = fault.startsWith("signal=") ? OPTIONS : FAST;
  return ["strace", ...options, ...inject, "-o", "/dev/null", ...argv];
}

/** How often each of the calls, if at all, was made by the thread that has the database: the one that writes first. */
export function countCalls(log: string, names: readonly string[]): [name: string, count: number][] {
  const lines = readFileSync(log, "utf8").split("\n");
  const main = lines.find((line) => line.includes("pwrite64("))?.split(" ")[0] ?? "";
  // The last two, of stdout and stderr, are Node's own when it ends.
  const counts = (line: string, name: string): boolean =>
    new RegExp(`^${main} +${name}\\(`).test(line) && !/fsync\([12]\)/.test(line);
  return names
    .map((name): [string, number] => [name, lines.filter((line) => counts(line, name)).length])
    .filter(([, count]) => count > 0);
}
