/** How commands speak to a remote: as fast as they are let, stopped by a signal, and telling when they try again. */
import type { Command } from "commander";
import type { RemoteOptions } from "../src/log/remote.ts";
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

const UNIT_BYTES: Readonly<Record<string, number>> = { K: 2 ** 10, M: 2 ** 20, G: 2 ** 30 };

/** Bytes a second. A number alone is refused: for some programs it is KiB, for others bytes. @throws ToolError usage */
export function rateOf(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  const [, count, unit = ""] = /^(\d{1,6}(?:\.\d{1,3})?)([KMG])$/i.exec(text) ?? [];
  const bytes = Number(count) * (UNIT_BYTES[unit.toUpperCase()] ?? Number.NaN);
  if (bytes >= 1) return bytes;
  throw new ToolError(EXIT.usage, `--bwlimit ${text}: not a rate such as 500K or 2M`);
}
