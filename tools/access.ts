/** How commands speak to a remote: as fast as they are let, stopped by a signal, and telling when they try again. */
import type { Command } from "commander";
import type { RemoteOptions } from "../src/remote/remote.ts";
import { parseBytes } from "./bytes.ts";
import { EXIT, ToolError } from "./exitcodes.ts";
import { warn } from "./output.ts";
import type { Progress } from "./progress.ts";

export interface AccessFlags {
  readonly bwlimit?: string;
}

export function addAccessOptions(command: Command): Command {
  return command.option("--bwlimit <rate>", "bytes to move in a second at most, up and down: 500K, 2M");
}

/** `progress`: what is drawn meanwhile. */
export function accessOf(signal: AbortSignal, progress?: Progress, bytesPerSecond?: number): RemoteOptions {
  return {
    signal,
    bytesPerSecond,
    onRetry: (line) => {
      progress?.end();
      warn(line);
    },
  };
}

/** Bytes a second. @throws ToolError usage */
export function rateOf({ bwlimit }: AccessFlags): number | undefined {
  return bwlimit === undefined ? undefined : parseRate(bwlimit);
}

/** What --bwlimit takes, as bytes a second. @throws ToolError usage */
export function parseRate(text: string): number {
  return parseBytes("--bwlimit", text, "1K", "1T", "500K");
}

/** What a mount fetches is limited by that. @throws ToolError usage */
export function refuseRate({ bwlimit }: AccessFlags, mountpoint: string): void {
  if (bwlimit !== undefined)
    throw new ToolError(EXIT.usage, `--bwlimit: ${mountpoint} is mounted, and has its own: mount --bwlimit`);
}
