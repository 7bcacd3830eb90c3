/** `sqlfuse mkdir FILE PATH...`: makes directories in a volume. */
import type { Command } from "commander";
import { describe } from "../src/archive/copy.ts";
import { resolvePath } from "../src/archive/path.ts";
import { type Place, PlaceError, refusalOf } from "../src/archive/place.ts";
import { isDirectory } from "../src/core/mode.ts";
import { pathText } from "./copying.ts";
import { parseMode } from "./create.ts";
import { addHelp } from "./help.ts";
import { addJsonOption, type OutputFlags, sayJson } from "./output.ts";
import { addPasswordOptions, type PasswordOptions } from "./password.ts";
import { Skips } from "./skips.ts";
import { withPlace } from "./volumes.ts";

interface MkdirFlags extends PasswordOptions, OutputFlags {
  readonly parents?: true;
  readonly mode?: string;
}

export function addMkdir(program: Command): void {
  const command = program
    .command("mkdir")
    .summary("make directories in a volume")
    .description(
      "Makes the directory PATH in the volume. Works without FUSE, and on a mounted volume as well.",
    )
    .argument("<file>", "the database file")
    .argument("<path...>", "the directories to make")
    .option("-p, --parents", "also those on the way to it; one that is there is no error")
    .option("-m, --mode <mode>", "its mode (default: 0777 without the umask)");
  addPasswordOptions(command);
  addJsonOption(command).action(mkdir);
  addHelp(command, { examples: ["sqlfuse mkdir -p vault.sqlite letters/2026/may"] });
}

async function mkdir(file: string, paths: readonly string[], flags: MkdirFlags): Promise<void> {
  const mode = parseMode("--mode", flags.mode);
  const skips = new Skips();
  await withPlace(file, flags, true, async ({ place }) => {
    const umasked = 0o777 & ~process.umask(0);
    for (const text of paths) {
      try {
        makeDirectory(
          place,
          resolvePath(place, pathText(text), true),
          mode ?? umasked,
          umasked,
          flags.parents === true,
        );
        skips.done();
      } catch (error) {
        if (refusalOf(error) === undefined) throw error;
        skips.skip(pathText(text), describe(error));
      }
    }
  });
  skips.setExitCode();
  if (flags.json) sayJson({ made: skips.doneCount, skipped: skips.list });
}

function makeDirectory(place: Place, path: string, mode: number, parentMode: number, parents: boolean): void {
  const there = place.stat(path);
  if (there !== undefined) {
    if (parents && isDirectory(there.mode)) return;
    throw new PlaceError("EEXIST");
  }
  const parent = path.slice(0, path.lastIndexOf("/"));
  if (parents) makeDirectory(place, parent, parentMode, parentMode, true);
  place.mkdir(path, mode);
}
