/** What `vacuum` and `rekey` share: what is refused before anybody types a password, and how the work is shown. */
import { realpathSync, statSync } from "node:fs";
import type { Rewrite, RewriteResult } from "../src/core/rewrite.ts";
import { EXIT, ToolError } from "./exitcodes.ts";
import { quote } from "./output.ts";
import { Progress } from "./progress.ts";
import { runSteps } from "./steps.ts";

/** @throws ToolError where FILE is not there; the core refuses the same, and more, again */
export function refuseMissing(file: string): void {
  if (statSync(file, { throwIfNoEntry: false }) !== undefined) return;
  throw new ToolError(
    EXIT.unusable,
    `${file}: no such file; make a volume with: sqlfuse create ${quote(file)}`,
  );
}

export interface Holder {
  readonly pid: number;
  /** Absent where the file is in use but not mounted. */
  readonly mountpoint?: string;
}

/** Who has the volume open. */
export async function holderOf(file: string): Promise<Holder | undefined> {
  const { lockHolder } = await import("../src/core/lock.ts");
  const { listMounts } = await import("../src/host/mounts.ts");
  const path = realpathSync(file);
  const pid = lockHolder(path);
  if (pid === undefined) return undefined;
  const mount = listMounts().find((volume) => volume.path === path && volume.pid === pid);
  return mount === undefined ? { pid } : { pid, mountpoint: mount.mountpoint };
}

/** "mounted at /v by pid 7; unmount it first: sqlfuse unmount /v" */
export function describeHolder({ pid, mountpoint }: Holder): string {
  if (mountpoint === undefined) return `in use by process ${pid}; try again when that is done`;
  return `mounted at ${mountpoint} by pid ${pid}; unmount it first: sqlfuse unmount ${quote(mountpoint)}`;
}

/** Runs it to its end, with a bar on a terminal unless `quiet`. */
export async function runRewrite(
  file: string,
  rewrite: Rewrite,
  quiet: true | undefined,
): Promise<RewriteResult> {
  const progress = new Progress(quiet);
  try {
    return await runSteps(
      rewrite,
      ({ phase, doneBytes, totalBytes }) => progress.update(phase, doneBytes, totalBytes),
      `stopped; ${file} is as it was`,
    );
  } finally {
    progress.end();
  }
}
