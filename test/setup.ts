/**
 * Around the whole test run. Every temporary directory of the run is made inside one directory (TMPDIR), so that
 * at the end it can be told what the tests left behind: a mount that is still there fails the run, whoever forgot
 * it. (An unhandled rejection or error fails the run by itself: vitest exits with 1 unless told to ignore it.)
 */
import {
  chmodSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));

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

/** Whether every user may read the file: root's home, where a checkout or a Node may be, is closed to others. */
function isOpenToAll(file: string): boolean {
  if ((statSync(file).mode & 0o004) === 0) return false;
  for (let at = dirname(file); ; at = dirname(at)) {
    if ((statSync(at).mode & 0o001) === 0) return false;
    if (at === dirname(at)) return true;
  }
}

/** Copies what an unprivileged user needs to run the command line. */
function copyPackage(to: string): void {
  for (const name of ["dist", "package.json"]) cpSync(join(root, name), join(to, name), { recursive: true });
  const lock = JSON.parse(readFileSync(join(root, "package-lock.json"), "utf8")) as {
    packages: Record<string, { dev?: boolean }>;
  };
  for (const [path, { dev }] of Object.entries(lock.packages)) {
    if (path === "" || dev === true || !existsSync(join(root, path))) continue;
    // Of the engine's 19 MB only the built one is needed.
    const filter = (source: string): boolean => !/sqlcipher\/(deps|src|build\/Release\/obj.*)$/.test(source);
    cpSync(join(root, path), join(to, path), { recursive: true, verbatimSymlinks: true, filter });
  }
}

/**
 * The command line and the Node that tests run as an unprivileged user: SQLFUSE_TEST_CLI and SQLFUSE_TEST_NODE.
 * These are our own, or copies where other users cannot come to them.
 */
function provideForOthers(directory: string): void {
  process.env.SQLFUSE_TEST_CLI = join(root, "dist/tools/cli.js");
  process.env.SQLFUSE_TEST_NODE = process.execPath;
  if (process.geteuid?.() !== 0 || !existsSync(process.env.SQLFUSE_TEST_CLI)) return;
  if (!isOpenToAll(process.env.SQLFUSE_TEST_CLI)) {
    copyPackage(join(directory, "package"));
    process.env.SQLFUSE_TEST_CLI = join(directory, "package/dist/tools/cli.js");
  }
  if (!isOpenToAll(process.execPath)) {
    copyFileSync(process.execPath, join(directory, "node"));
    process.env.SQLFUSE_TEST_NODE = join(directory, "node");
  }
}

export function setup(): () => void {
  const directory = mkdtempSync(join(tmpdir(), "sqlfuse-run-"));
  chmodSync(directory, 0o1777); // some tests work as an unprivileged user
  process.env.TMPDIR = directory;
  provideForOthers(directory);
  return () => {
    const leaked = mountsBelow(directory);
    if (leaked.length > 0) throw new Error(`tests left mounts behind: ${leaked.join(", ")}`);
    rmSync(directory, { recursive: true, force: true });
  };
}
