/** `sqlfuse sync MOUNTPOINT`: what sync(1) cannot do, as it never reaches a FUSE server. */
import { spawnSync } from "node:child_process";
import { statfs } from "node:fs/promises";
import type { Command } from "commander";
import type { MountedVolume } from "../src/host/mounts.ts";
import { EXIT, ToolError } from "./exitcodes.ts";
import { addHelp } from "./help.ts";
import { findMounts } from "./target.ts";

export function addSync(program: Command): void {
  const command = program
    .command("sync")
    .summary("commit everything now")
    .description("Commits everything that was written to the mount so far; it is on disk when this returns.")
    .argument("<mountpoint|file>", "where it is mounted, or the database file")
    .action(sync);
  addHelp(command, { examples: ["sqlfuse sync ~/vault"] });
}

async function sync(name: string): Promise<void> {
  for (const mount of await findMounts(name)) await syncMount(mount);
}

/** Commits what was written to a mount. */
export async function syncMount({ mountpoint, pid }: MountedVolume): Promise<void> {
  const { askControl } = await import("../src/host/control.ts");
  if (pid === undefined) throw new ToolError(EXIT.unusable, dead(mountpoint));
  // syncfs(2): the kernel writes back the pages that were stored to through mmap. The commit comes after it.
  const flushed = spawnSync("sync", ["-f", mountpoint], { encoding: "utf8" });
  if (flushed.status !== 0) {
    const text = (flushed.error?.message ?? flushed.stderr).trim();
    throw new ToolError(EXIT.other, `${mountpoint}: the kernel cannot write back: ${text}`);
  }
  // That returns when the writes are sent. They come before what is asked after them.
  await statfs(mountpoint);
  await askControl(pid, { cmd: "sync" });
}

function dead(mountpoint: string): string {
  return `${mountpoint}: the process that served it is gone; remove the mount with: sqlfuse unmount ${mountpoint}`;
}
