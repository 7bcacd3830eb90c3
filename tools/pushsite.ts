/**
 * How commands come to a volume whose log they write. A mounted volume has one writer, the process that serves it: then it
 * is read beside that, and what is to be noted is asked of it. Else the volume is opened here. To one remote one at a time
 * pushes.
 */
import { realpathSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { FsError } from "../src/base/errno.ts";
import type { RemoteOrder, RemoteOutcome } from "../src/core/remotes.ts";
import type { Key } from "../src/db/key.ts";
import type { MountedVolume } from "../src/host/mounts.ts";
import type { PushSite } from "../src/log/pusher.ts";
import { requireEngine } from "./engine.ts";
import { EXIT, ToolError } from "./exitcodes.ts";
import { warn } from "./output.ts";
import { type PasswordOptions, readPassword } from "./password.ts";
import { refuseMissing } from "./rewrite.ts";
import { syncMount } from "./sync.ts";
import { mountOf } from "./target.ts";
import { refuseReadOnly } from "./volumes.ts";

/** The password of FILE, or of what is mounted at MOUNTPOINT. The caller zeroes it. */
export async function passwordOf(target: string, flags: PasswordOptions): Promise<Buffer> {
  const mount = await mountOf(target);
  if (mount === undefined) refuseMissing(target);
  await requireEngine();
  return await readPassword(flags, { path: mount?.path ?? target, confirm: false, warn });
}

/** Gives the volume, to be read, and to be told what to note. */
export async function withSite<T>(
  target: string,
  password: Buffer,
  run: (site: PushSite) => Promise<T>,
): Promise<T> {
  const { unlock } = await import("../src/core/unlock.ts");
  // Looked up each time: while one watches, a volume is mounted and unmounted.
  const mount = await mountOf(target);
  const file = mount?.path ?? realpathSync(target);
  const key = unlock(file, password);
  try {
    return mount === undefined ? await here(file, key, run) : await beside(mount, key, run);
  } finally {
    key.wipe();
  }
}

/** Gives the volume, which may be a replica, to be read only: nothing can be ordered. */
export async function withReader<T>(
  target: string,
  password: Buffer,
  run: (site: PushSite) => Promise<T>,
): Promise<T> {
  const { unlock } = await import("../src/core/unlock.ts");
  const { checkFormat } = await import("../src/core/format.ts");
  const { openBeside } = await import("../src/log/site.ts");
  const file = (await mountOf(target))?.path ?? realpathSync(target);
  const key = unlock(file, password);
  try {
    const db = openBeside(file, key);
    try {
      checkFormat(db);
      const order = (): Promise<never> => Promise.reject(new Error("opened for reading"));
      return await run({ db, key, order });
    } finally {
      db.close();
    }
  } finally {
    key.wipe();
  }
}

async function here<T>(file: string, key: Key, run: (site: PushSite) => Promise<T>): Promise<T> {
  const { Volume } = await import("../src/core/volume.ts");
  const { localSite } = await import("../src/log/site.ts");
  const volume = Volume.open(file, key, { onLog: warn });
  try {
    refuseReadOnly(volume, file);
    const site = localSite(volume, key);
    try {
      return await run(site);
    } finally {
      site.close();
    }
  } finally {
    volume.close();
  }
}

async function beside<T>(mount: MountedVolume, key: Key, run: (site: PushSite) => Promise<T>): Promise<T> {
  if (mount.readOnly) throw new ToolError(EXIT.unusable, `${mount.mountpoint}: is mounted read-only`);
  const { askControl } = await import("../src/host/control.ts");
  const { openBeside } = await import("../src/log/site.ts");
  const db = openBeside(mount.path, key);
  const order = async (wanted: RemoteOrder): Promise<number> => {
    // What was stored through mmap is to be in it.
    if (wanted.do === "close") await syncMount(mount);
    const outcome = (await askControl(mount.pid ?? 0, { cmd: "remote", order: wanted })) as RemoteOutcome;
    if (outcome.ok) return outcome.epoch;
    throw new FsError(outcome.code);
  };
  try {
    return await run({ db, key, order });
  } finally {
    db.close();
  }
}

/** How long a push waits for one that the mount itself is at. */
const PATIENCE_MS = 10_000;

/** Runs a push to a remote while nobody else pushes there, the volume's own mount included. @throws ToolError locked */
export async function pushingAlone<T>(site: PushSite, remote: string, run: () => Promise<T>): Promise<T> {
  const { lockPush } = await import("../src/host/pushlock.ts");
  const { path } = site.db;
  const until = performance.now() + PATIENCE_MS;
  let release = lockPush(path, remote);
  while (release === undefined && performance.now() < until) {
    await sleep(100);
    release = lockPush(path, remote);
  }
  if (release === undefined)
    throw new ToolError(
      EXIT.locked,
      `${path}: its mount, or another command, pushes to ${remote}; try again when that is done`,
    );
  try {
    return await run();
  } finally {
    release();
  }
}
