/**
 * What commands about the past of a file mean by their words: a path in a mount, or FILE and a path in it. What is
 * meant need not be there any more.
 */
import { realpathSync, statSync } from "node:fs";
import { basename, dirname, join, posix, resolve } from "node:path";
import type { Changes } from "../src/core/changes.ts";
import { parseAt } from "../src/core/moment.ts";
import type { Volume } from "../src/core/volume.ts";
import type { Key } from "../src/db/key.ts";
import type { MountedVolume } from "../src/host/mounts.ts";
import { pathText } from "./copying.ts";
import { EXIT, ToolError } from "./exitcodes.ts";
import { quote, warn } from "./output.ts";
import type { PasswordOptions } from "./password.ts";
import { refuseMissing } from "./rewrite.ts";
import { syncMount } from "./sync.ts";
import { findServedMount, isReachable, openVolume, withKey } from "./volumes.ts";

export interface Where {
  /** The database. */
  readonly file: string;
  /** Within the volume, latin1; "" is the root. No symlink before its last name where it was found in a mount. */
  readonly path: string;
  /** Where the volume is mounted and served as it is now, if this user may enter it. */
  readonly mount: MountedVolume | undefined;
  /** It was named by a path in a mount alone. */
  readonly isPath: boolean;
}

/** @throws ToolError where it is neither in a mount nor a file */
export async function findWhere(first: string, inside?: string): Promise<Where> {
  const isFile = statSync(first, { throwIfNoEntry: false })?.isFile() === true;
  const found = isFile && inside !== undefined ? undefined : await findInMount(first);
  if (found === undefined && !isFile) {
    refuseMissing(first);
    throw new ToolError(EXIT.unusable, `${first}: neither in a mounted volume nor the file of one`);
  }
  const file = found?.file ?? realpathSync(first);
  const path = inside === undefined ? (found?.path ?? "") : normal(`${found?.path ?? ""}/${inside}`);
  const mount = await findServedMount(file);
  return {
    file,
    path: pathText(path),
    mount: mount && isReachable(mount.mountpoint) ? mount : undefined,
    isPath: found !== undefined && inside === undefined,
  };
}

/** The file of the volume that is mounted there, and the path in it, as text; undefined outside of mounts. */
export async function findInMount(word: string): Promise<{ file: string; path: string } | undefined> {
  const { FS_TYPE, listMounts, mountAround } = await import("../src/host/mounts.ts");
  const place = realPlace(resolve(word));
  const around = mountAround(place);
  if (around?.type !== FS_TYPE) return undefined;
  const { mountpoint } = around;
  const volume = listMounts().findLast((one) => one.mountpoint === mountpoint);
  return volume && { file: volume.path, path: normal(place.slice(mountpoint.length)) };
}

/** Without symlinks but in its last name, as far as it is there. */
function realPlace(absolute: string): string {
  const above = dirname(absolute);
  if (above === absolute) return absolute;
  try {
    return join(realpathSync(above), basename(absolute));
  } catch {
    return join(realPlace(above), basename(absolute));
  }
}

function normal(path: string): string {
  return posix.normalize(`/${path}`).replace(/\/$/, "");
}

/** How a user names it on a command line: for messages. */
export function wordsOf({ file, path, mount }: Where): string {
  const text = Buffer.from(path, "latin1").toString();
  return mount === undefined ? `${quote(file)} ${quote(text || "/")}` : quote(mount.mountpoint + text);
}

/**
 * Opens the volume to tell what changed, with the indexes for that where they can be made. What was written to a
 * mount before is seen.
 */
export async function withChanges<T>(
  where: Where,
  flags: PasswordOptions,
  run: (volume: Volume, changes: Changes, key: Key) => Promise<T>,
): Promise<T> {
  if (where.mount !== undefined) await prepareMount(where.mount);
  return await withKey(where.file, flags, async (key) => {
    if (where.mount === undefined) await prepareFile(where.file, key);
    return await openVolume(where.file, key, { beside: true }, (volume) =>
      run(volume, volume.changes(), key),
    );
  });
}

async function prepareMount(mount: MountedVolume): Promise<void> {
  try {
    await syncMount(mount);
    const { askControl } = await import("../src/host/control.ts");
    await askControl(mount.pid ?? 0, { cmd: "history", order: { do: "index" } });
  } catch (error) {
    const text = error instanceof Error ? error.message : String(error);
    warn(
      `${mount.mountpoint}: cannot be committed from here (${text}); its state of some moments ago counts`,
    );
  }
}

/** Without the indexes it is only slower. */
async function prepareFile(file: string, key: Key): Promise<void> {
  const isIndexed = await openVolume(file, key, { beside: true }, async ({ history }) => history.isIndexed);
  if (isIndexed) return;
  try {
    await openVolume(file, key, {}, async (volume) => {
      if (!volume.readOnly) volume.history.index();
    });
  } catch (error) {
    if (!(error instanceof Error && ["OpenError", "FsError"].includes(error.name))) throw error;
  }
}

/** The epoch that TIME, NAME, EPOCH or "now" stands for. @throws ToolError where nothing is kept of then */
export function epochOf(volume: Volume, text: string): number {
  // Also where an older sqlfuse made a snapshot of that name: that has an epoch to be asked for by.
  if (text === "now") return volume.epoch;
  const snapshot = volume.history.find(parseAt(text));
  if (snapshot !== undefined) return snapshot.epoch;
  throw new ToolError(
    EXIT.unusable,
    `${volume.path}: no snapshot ${text}; see: sqlfuse snapshot list ${quote(volume.path)}`,
  );
}
