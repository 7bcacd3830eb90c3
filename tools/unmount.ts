/** `sqlfuse unmount MOUNTPOINT|FILE`: returns when everything is committed and the file is closed. */
import { statSync } from "node:fs";
import type { Command } from "commander";
import type { MountedVolume } from "../src/host/mounts.ts";
import { EXIT, ToolError } from "./exitcodes.ts";
import { addHelp } from "./help.ts";
import { describeHolders, namespaceHolder } from "./holders.ts";
import { addQuietOption, quote, warn } from "./output.ts";
import { processEnd, processIdentity } from "./process.ts";
import { findMounts } from "./target.ts";

interface UnmountFlags {
  readonly lazy?: true;
  readonly quiet?: true;
}

export function addUnmount(program: Command): void {
  const command = program
    .command("unmount")
    .alias("umount")
    .summary("unmount a volume, and wait until its file is closed")
    .description(
      "Unmounts the volume and returns when everything is committed and its file is closed: then FILE is all " +
        "there is, and may be copied or moved. (umount and fusermount3 -u unmount as well, but return before that.)",
    )
    .argument("<mountpoint|file>", "where it is mounted, or the database file")
    .option(
      "-l, --lazy",
      "detach the mount now, even if it is in use; it is closed when its last user is gone",
    );
  addQuietOption(command).action(async (name: string, flags: UnmountFlags) => {
    for (const volume of await findMounts(name)) await unmountVolume(volume, flags);
  });
  addHelp(command, { examples: ["sqlfuse unmount ~/vault", "sqlfuse unmount vault.sqlite"] });
}

async function unmountVolume(volume: MountedVolume, flags: UnmountFlags): Promise<void> {
  const lazy = flags.lazy === true;
  const note = flags.quiet ? () => {} : warn;
  const { mountpoint, pid } = volume;
  if (pid === undefined) {
    // The process that served it is gone: nothing to commit, only the mount table to clean.
    await detachHere(mountpoint, true);
    return;
  }
  const identity = processIdentity(pid);
  const { mountedAt, mountTable } = await import("../src/host/mounts.ts");
  const device = mountedAt(mountpoint)?.device;
  const { askControl } = await import("../src/host/control.ts");
  try {
    await askControl(pid, { cmd: "unmount", lazy });
  } catch (error) {
    if (reasonOf(error) === "busy") throw busy(mountpoint);
    // Somebody else's daemon, or one that does not answer: the kernel can be asked without it.
    await detachHere(mountpoint, lazy);
  }
  if (lazy) {
    note(`${mountpoint}: detached; pid ${pid} commits and ends when nobody uses it any more`);
    return;
  }
  /** What keeps it mounted. */
  const keeper = (): string | undefined => {
    if (device === undefined) return undefined;
    const other = mountTable().find((entry) => entry.device === device);
    if (other !== undefined) return `it is unmounted at ${other.mountpoint} too`;
    const holder = namespaceHolder(device);
    return holder && `a mount namespace is gone: ${holder}`;
  };
  await processEnd(pid, identity, () => {
    const until = keeper();
    if (until === undefined) note(`${mountpoint}: unmounted; waiting for pid ${pid} to commit ...`);
    else note(`${mountpoint}: unmounted here; pid ${pid} serves it until ${until}`);
  });
  // Beside a snapshot the volume itself may be mounted, and its -wal is no news.
  if (volume.at === undefined) warnOfWal(volume.path);
}

/** A dump that runs beside a mount keeps the -wal from being copied to its end. */
function warnOfWal(path: string): void {
  const wal = `${path}-wal`;
  let size = 0;
  try {
    size = statSync(wal, { throwIfNoEntry: false })?.size ?? 0;
  } catch {
    // Somebody else's place.
  }
  if (size === 0) return;
  warn(`${path}: its last changes are still in ${wal} (does another process read it?): copy both, or wait`);
}

async function detachHere(mountpoint: string, lazy: boolean): Promise<void> {
  const { detach } = await import("../src/host/attachment.ts");
  try {
    detach(mountpoint, lazy);
  } catch (error) {
    if (reasonOf(error) === "busy" && !lazy) throw busy(mountpoint);
    // fusermount3 knows of mounts of its caller's alone.
    const { mountedAt } = await import("../src/host/mounts.ts");
    if (reasonOf(error) !== "not-mounted" || mountedAt(mountpoint) === undefined) throw error;
    throw new ToolError(
      EXIT.other,
      `${mountpoint}: is mounted by another user; only that user or root may unmount it`,
    );
  }
}

function busy(mountpoint: string): ToolError {
  const who = describeHolders(mountpoint);
  const lazily = `sqlfuse unmount --lazy ${quote(mountpoint)}`;
  return new ToolError(EXIT.busy, `${mountpoint}: in use (${who}); end that, or: ${lazily}`);
}

function reasonOf(error: unknown): string {
  return error instanceof Error && "reason" in error ? String(error.reason) : "";
}
