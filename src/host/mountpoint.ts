/** The directory that a volume is mounted on: what makes it unfit, and clearing what a dead daemon left there. */
import { mkdirSync, readdirSync, statfsSync, statSync } from "node:fs";
import { dirname } from "node:path";
import { detach } from "./attachment.ts";
import { HostError } from "./errors.ts";
import { FS_TYPE, mountAround, mountedAt } from "./mounts.ts";

/** mount.fuse3 mounts by itself for `drop_privileges` and names the descriptor instead of the place. */
const INHERITED = /^\/dev\/fd\/(\d+)$/;

/** The descriptor that a mount point of that kind stands for. */
export function inheritedFd(mountpoint: string): number | undefined {
  const digits = INHERITED.exec(mountpoint)?.[1];
  return digits === undefined ? undefined : Number(digits);
}

function codeOf(error: unknown): string {
  return error instanceof Error && "code" in error ? String(error.code) : String(error);
}

/**
 * Checks that the volume in `path` can be mounted at `mountpoint` (both absolute, symlinks resolved), clears a
 * stale dead mount there, and makes the directory if it is missing.
 * @throws HostError
 */
export function prepareMountpoint(mountpoint: string, path: string): { created: boolean } {
  if (inheritedFd(mountpoint) !== undefined) return { created: false };
  clearStale(mountpoint);
  const around = mountAround(mountpoint);
  if (around?.type === FS_TYPE && around.source === path) {
    throw around.mountpoint === mountpoint
      ? new HostError("busy", `${mountpoint}: ${path} is mounted here already`)
      : new HostError(
          "mountpoint-in-own-mount",
          `${mountpoint}: is inside the mount of the same volume at ${around.mountpoint}; choose a directory outside`,
        );
  }
  if (around?.type === FS_TYPE && around.mountpoint === mountpoint)
    throw new HostError("busy", `${mountpoint}: ${around.source} is mounted here; choose another directory`);
  if (make(mountpoint)) return { created: true };
  check(mountpoint, path);
  return { created: false };
}

/** Removes mounts of ours at this place whose daemon is gone. They answer "Transport endpoint is not connected". */
function clearStale(mountpoint: string): void {
  for (let entry = mountedAt(mountpoint); entry?.type.startsWith("fuse"); entry = mountedAt(mountpoint)) {
    try {
      // Not stat(2): the kernel may still answer that from its cache.
      statfsSync(mountpoint);
      return;
    } catch (error) {
      if (codeOf(error) !== "ENOTCONN" && codeOf(error) !== "ECONNABORTED") return;
    }
    if (entry.type !== FS_TYPE) {
      throw new HostError(
        "busy",
        `${mountpoint}: a dead mount (${entry.type}) is here; remove it with: fusermount3 -uz ${mountpoint}`,
      );
    }
    detach(mountpoint, true);
  }
}

/** True when the directory was missing and is made now. */
function make(mountpoint: string): boolean {
  try {
    mkdirSync(mountpoint, { mode: 0o700 });
    return true;
  } catch (error) {
    if (codeOf(error) === "EEXIST") return false;
    throw new HostError(
      "mountpoint-missing",
      `${mountpoint}: no such directory, and it cannot be made (${codeOf(error)})`,
      { cause: error },
    );
  }
}

function check(mountpoint: string, path: string): void {
  let names: string[];
  let place: { dev: number; ino: number };
  try {
    const stat = statSync(mountpoint);
    place = stat;
    if (!stat.isDirectory()) {
      throw new HostError(
        "mountpoint-not-directory",
        `${mountpoint}: is not a directory; name an empty directory to mount on`,
      );
    }
    names = readdirSync(mountpoint);
  } catch (error) {
    if (error instanceof HostError) throw error;
    throw new HostError("mountpoint-missing", `${mountpoint}: cannot be looked at (${codeOf(error)})`, {
      cause: error,
    });
  }
  if (isAbove(place, path)) {
    throw new HostError(
      "mountpoint-holds-database",
      `${mountpoint}: holds the volume's own file ${path}; choose a directory elsewhere`,
    );
  }
  if (names.length > 0) {
    throw new HostError(
      "mountpoint-not-empty",
      `${mountpoint}: is not empty, and a mount would hide what is in it; choose an empty directory`,
    );
  }
}

/** Whether one of the directories above `path` is this one, under whatever name. */
function isAbove(place: { dev: number; ino: number }, path: string): boolean {
  for (let at = dirname(path); ; at = dirname(at)) {
    const stat = statSync(at, { throwIfNoEntry: false });
    if (stat?.dev === place.dev && stat.ino === place.ino) return true;
    if (at === dirname(at)) return false;
  }
}
