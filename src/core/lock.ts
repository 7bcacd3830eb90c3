/**
 * What says "in use": a flock(2) on the database file, taken before SQLite opens it and held
 * until after it closed. The kernel drops it with the process, so nothing stale is left.
 */
import { fstatSync, readFileSync, statSync } from "node:fs";
import { close, flock, LOCK_EX, LOCK_NB, LOCK_SH, O_RDONLY, open } from "../native/libc.ts";
import { OpenError } from "./errors.ts";

/** Files that this thread holds: opening and closing one again would drop SQLite's locks. */
const held = new Set<string>();

export class FileLock {
  readonly #fd: number;
  readonly #identity: string;

  /** A shared lock, undefined where another process writes. @throws OpenError missing, unreadable; locked by this one */
  static besideWriter(path: string): FileLock | undefined {
    try {
      return new FileLock(path, true);
    } catch (error) {
      // What this process has open itself must not be opened again: that would drop SQLite's locks.
      if (error instanceof OpenError && error.reason === "locked" && error.pid !== process.pid)
        return undefined;
      throw error;
    }
  }

  /** Shared for reading, exclusive for writing. @throws OpenError locked, missing, unreadable */
  constructor(path: string, shared: boolean) {
    for (;;) {
      const identity = identityOf(path);
      if (held.has(identity)) throw locked(path, process.pid);
      const fd = open(path, O_RDONLY);
      if (fd < 0) throw new OpenError("unreadable", path, `${path}: cannot be opened (errno ${-fd})`);
      if (flock(fd, (shared ? LOCK_SH : LOCK_EX) | LOCK_NB) < 0) {
        close(fd);
        throw locked(path, lockHolder(path));
      }
      // A rewrite may have put another file in its place meanwhile: a lock on the old one would say nothing.
      if (identityOf(path) === identity && identityOf(fd) === identity) {
        this.#fd = fd;
        this.#identity = identity;
        held.add(identity);
        return;
      }
      close(fd);
    }
  }

  release(): void {
    held.delete(this.#identity);
    close(this.#fd);
  }
}

function identityOf(file: string | number): string {
  const stat = typeof file === "number" ? fstatSync(file) : statSync(file, { throwIfNoEntry: false });
  if (stat === undefined) throw new OpenError("missing", String(file), `${file}: no such file`);
  return `${stat.dev}:${stat.ino}`;
}

function locked(path: string, pid: number | undefined): OpenError {
  const who = pid === undefined ? "another process" : `process ${pid}`;
  const message = `${path}: in use by ${who}; if it is mounted: sqlfuse unmount ${path}; else try again when that is done`;
  return new OpenError("locked", path, message, pid === undefined ? {} : { pid });
}

/** The processes that hold a flock on `path`, as /proc/locks tells, or such a one; readers can be several. */
export function lockHolders(path: string, kind: "READ" | "WRITE" | undefined = undefined): number[] {
  const stat = statSync(path, { throwIfNoEntry: false });
  if (stat === undefined) return [];
  let table: string;
  try {
    table = readFileSync("/proc/locks", "utf8");
  } catch {
    return [];
  }
  const holders: number[] = [];
  for (const line of table.split("\n")) {
    // "1: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF"; the device is major:minor in hex
    const match = /FLOCK\s+\S+\s+(\S+)\s+(\d+)\s+([0-9a-f]+):([0-9a-f]+):(\d+)\s/.exec(line);
    if (match === null || line.includes("->")) continue;
    const [, held, pid, major, minor, ino] = match;
    if (kind !== undefined && held !== kind) continue;
    const device = (Number.parseInt(major ?? "", 16) << 8) | Number.parseInt(minor ?? "", 16);
    const ours = (((stat.dev >> 8) & 0xfff) << 8) | (stat.dev & 0xff);
    if (Number(ino) === stat.ino && device === ours) holders.push(Number(pid));
  }
  return holders;
}

/** The one process that holds `path` for writing, or the first reader. */
export function lockHolder(path: string): number | undefined {
  return lockHolders(path)[0];
}
