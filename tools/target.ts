/** What a command line means by MOUNTPOINT|FILE: the mounts of this machine that it names. */
import { realpathSync, statSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import type { MountedVolume } from "../src/host/mounts.ts";
import { EXIT, ToolError } from "./exitcodes.ts";

/** Throws a ToolError when nothing of that name is mounted. */
export async function findMounts(name: string): Promise<MountedVolume[]> {
  const { listMounts } = await import("../src/host/mounts.ts");
  const spellings = spellingsOf(name);
  const all = listMounts();
  // A mount point comes first: a file of that name would be hidden below it anyway.
  const byPoint = all.filter((volume) => spellings.has(volume.mountpoint));
  const byFile = all.filter((volume) => spellings.has(volume.path));
  // The file stands for the volume as it is now: for a snapshot of it only where that is all there is.
  const ofNow = byFile.filter(({ at }) => at === undefined);
  const found = [byPoint, ofNow, byFile].find((some) => some.length > 0) ?? [];
  if (found.length > 0) return found;
  throw (
    (await heldElsewhere(name)) ??
    new ToolError(
      EXIT.unusable,
      `${name}: neither the mount point nor the file of a mounted volume; see: sqlfuse status`,
    )
  );
}

/** That there is nothing to unmount, while a process still has the file. */
async function heldElsewhere(name: string): Promise<ToolError | undefined> {
  if (statSync(name, { throwIfNoEntry: false })?.isFile() !== true) return undefined;
  const { lockHolder } = await import("../src/core/lock.ts");
  const pid = lockHolder(name);
  return pid === undefined
    ? undefined
    : new ToolError(
        EXIT.locked,
        `${name}: not mounted, but process ${pid} has it open: a detached mount that is still used, or a command`,
      );
}

/**
 * The absolute names that `name` may stand for in the mount table. The name itself is resolved last and may fail:
 * a dead mount answers nothing.
 */
function spellingsOf(name: string): Set<string> {
  const absolute = resolve(name);
  const spellings = new Set([absolute]);
  for (const spelling of [
    () => join(realpathSync(dirname(absolute)), basename(absolute)),
    () => realpathSync(absolute),
  ]) {
    try {
      spellings.add(spelling());
    } catch {
      // not there, or a dead mount
    }
  }
  return spellings;
}

/** The mount that is meant, if one is; of a snapshot's mount nothing can be wanted. */
export async function mountOf(target: string): Promise<MountedVolume | undefined> {
  let mounts: readonly MountedVolume[];
  try {
    mounts = await findMounts(target);
  } catch (error) {
    if (statSync(target, { throwIfNoEntry: false })?.isDirectory() === true) throw error;
    return undefined;
  }
  const now = mounts.find(({ at, pid }) => at === undefined && pid !== undefined);
  if (now === undefined && statSync(target, { throwIfNoEntry: false })?.isDirectory() === true)
    throw new ToolError(
      EXIT.unusable,
      `${target}: shows a snapshot; name the file, or the mount of the volume`,
    );
  return now;
}
