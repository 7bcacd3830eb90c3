/** What every mount begins with, whatever its transport. */
import type { VolumeOptions } from "../core/volume.ts";
import { forbidDump } from "../native/libc.ts";

type Always = Required<Pick<VolumeOptions, "readOnly" | "noatime" | "sync" | "commitIntervalMs">>;
type Maybe = Pick<VolumeOptions, "cacheBytes" | "headFile" | "at" | "historyMs">;

/** Of the options of a mount those that are the volume's own. What is undefined is as if it were left out. */
export function volumeOptions(
  options: Always & { readonly [K in keyof Maybe]: Maybe[K] | undefined },
  onLog: (line: string) => void,
): VolumeOptions {
  const { readOnly, noatime, sync, commitIntervalMs, cacheBytes, headFile, at, historyMs } = options;
  return {
    readOnly,
    noatime,
    follows: true,
    sync,
    commitIntervalMs,
    onLog,
    ...(cacheBytes === undefined ? {} : { cacheBytes }),
    ...(headFile === undefined ? {} : { headFile }),
    ...(at === undefined ? {} : { at }),
    ...(historyMs === undefined ? {} : { historyMs }),
  };
}

/**
 * Makes a mount and has it answer. The calling process keeps it: its working directory becomes "/" (it could be inside the
 * mount, and would keep it busy), and it cannot be dumped.
 * @throws what `make` and `start` throw; then nothing is left, opened and not mounted or mounted and not answering
 */
export async function startMount<M extends { close(): Promise<void> }>(
  make: () => M,
  start: (mount: M) => Promise<void>,
): Promise<M> {
  process.chdir("/");
  forbidDump();
  const mount = make();
  try {
    await start(mount);
  } catch (error) {
    await mount.close();
    throw error;
  }
  return mount;
}
