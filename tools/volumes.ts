/**
 * How a command that works on the files in a volume comes to them. A mounted volume has one writer, the process that
 * serves it: then the files are worked on below the mount point, through the kernel, with its checks and without a
 * password. Else the volume is opened here.
 */
import { accessSync, constants, realpathSync } from "node:fs";
import type { Place } from "../src/archive/place.ts";
import { parseAt } from "../src/core/moment.ts";
import type { Volume, VolumeOptions } from "../src/core/volume.ts";
import type { Key } from "../src/db/key.ts";
import type { MountedVolume } from "../src/host/mounts.ts";
import { requireEngine } from "./engine.ts";
import { EXIT, ToolError } from "./exitcodes.ts";
import type { AtFlags } from "./moment.ts";
import { warn } from "./output.ts";
import { type PasswordOptions, readPassword } from "./password.ts";
import { describeHolder, holderOf, refuseMissing } from "./rewrite.ts";
import { syncMount } from "./sync.ts";

/** Where FILE is mounted and served, if it is. */
export async function findServedMount(file: string): Promise<MountedVolume | undefined> {
  const { listMounts } = await import("../src/host/mounts.ts");
  const real = realpathSync(file);
  const all = listMounts();
  // Of two mounts at one place only the last is seen.
  return all.find(
    (one, i) =>
      one.path === real &&
      one.at === undefined &&
      one.pid !== undefined &&
      !all.slice(i + 1).some((later) => later.mountpoint === one.mountpoint),
  );
}

/** Opens FILE by its password, and closes it in the end. */
export async function withVolume<T>(
  file: string,
  flags: PasswordOptions,
  options: VolumeOptions,
  run: (volume: Volume) => Promise<T>,
): Promise<T> {
  return await withKey(file, flags, (key) => openVolume(file, key, options, run));
}

/** Gives the key of FILE to one who opens it more than once. */
export async function withKey<T>(
  file: string,
  flags: PasswordOptions,
  run: (key: Key) => Promise<T>,
): Promise<T> {
  refuseMissing(file);
  await requireEngine();
  const { unlock } = await import("../src/core/unlock.ts");
  const password = await readPassword(flags, { path: file, confirm: false, warn });
  try {
    const key = unlock(file, password);
    try {
      return await run(key);
    } finally {
      key.wipe();
    }
  } catch (error) {
    throw explainDamage(error, file);
  } finally {
    password.fill(0);
  }
}

export async function openVolume<T>(
  file: string,
  key: Key,
  options: VolumeOptions,
  run: (volume: Volume) => Promise<T>,
): Promise<T> {
  const { Volume } = await import("../src/core/volume.ts");
  const volume = Volume.open(file, key, { onLog: warn, ...options });
  try {
    const result = await run(volume);
    if (!volume.readOnly) volume.commit();
    return result;
  } finally {
    volume.close();
  }
}

/** Told apart by name: loading the class would load the engine, which may be missing. */
function explainDamage(error: unknown, file: string): unknown {
  if (!(error instanceof Error) || error.name !== "DamageError") return error;
  return new ToolError(
    EXIT.damaged,
    `${file}: damaged (${error.message}); sqlfuse get takes out what is whole`,
  );
}

export interface Access {
  readonly place: Place;
  /** Call it between two items of many: commits what is due. */
  readonly idle: () => void;
}

/** Gives the files in FILE, to be changed with `write`. What was changed is durable in the end. `at`: a snapshot's. */
export async function withPlace<T>(
  file: string,
  flags: PasswordOptions & AtFlags,
  write: boolean,
  run: (access: Access) => Promise<T>,
): Promise<T> {
  refuseMissing(file);
  const at = flags.at === undefined ? undefined : parseAt(flags.at);
  const mount = at === undefined ? await findServedMount(file) : undefined;
  if (mount !== undefined && isReachable(mount.mountpoint)) return await onMount(mount, write, run);
  const holder = write ? await holderOf(file) : undefined;
  if (write && holder !== undefined) throw new ToolError(EXIT.locked, `${file}: ${describeHolder(holder)}`);
  const { VolumePlace } = await import("../src/archive/volumeplace.ts");
  const options = write ? {} : at === undefined ? { beside: true } : { at };
  return await withVolume(file, flags, options, async (volume) => {
    if (write) refuseReadOnly(volume, file);
    const place = new VolumePlace(volume, process.geteuid?.() ?? 0, process.getegid?.() ?? 0);
    return await run({ place, idle: () => void volume.idle(performance.now()) });
  });
}

/** @throws ToolError where nothing can be changed */
export function refuseReadOnly({ readOnly, isReplica }: Volume, file: string): void {
  if (!readOnly) return;
  const why = isReplica
    ? "a replica, which only sqlfuse pull changes"
    : "the file or its directory cannot be written";
  throw new ToolError(EXIT.unusable, `${file}: ${why}`);
}

async function onMount<T>(
  mount: MountedVolume,
  write: boolean,
  run: (access: Access) => Promise<T>,
): Promise<T> {
  const { HostPlace } = await import("../src/archive/hostplace.ts");
  const { mountpoint } = mount;
  const place = new HostPlace(Buffer.from(mountpoint).toString("latin1"));
  const result = await run({ place, idle: () => {} });
  if (write) await syncMount(mount);
  return result;
}

/** Mounts of other users let nobody in, not even root. */
export function isReachable(mountpoint: string): boolean {
  try {
    accessSync(mountpoint, constants.R_OK | constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
