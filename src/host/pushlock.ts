/**
 * Who pushes to a remote of a volume: the thread of its mount, or a command. One at a time: two would put different
 * segments of one number. Of different remotes each may have its own; the kernel lets go with the process.
 */
import { createHash } from "node:crypto";
import { closeSync, openSync, statSync } from "node:fs";
import { join } from "node:path";
import { flock, LOCK_EX, LOCK_NB } from "../native/libc.ts";
import { makeRunDirectory } from "./rundir.ts";

/** Gives what lets go of it; undefined while somebody else pushes there. `path`: of the volume. @throws Error no run directory */
export function lockPush(path: string, remote: string): (() => void) | undefined {
  const { dev, ino } = statSync(path);
  // Its name stands in a file name, and may be long.
  const name = createHash("sha256").update(remote).digest("hex").slice(0, 16);
  const fd = openSync(join(makeRunDirectory(), `push-${dev}-${ino}-${name}`), "w", 0o600);
  if (flock(fd, LOCK_EX | LOCK_NB) >= 0) return () => closeSync(fd);
  closeSync(fd);
  return undefined;
}
