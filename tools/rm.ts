/** `sqlfuse rm FILE PATH...`: removes files from a volume. */
import type { Command } from "commander";
import { describe } from "../src/archive/copy.ts";
import { resolvePath } from "../src/archive/path.ts";
import { type Place, refusalOf } from "../src/archive/place.ts";
import { isDirectory } from "../src/core/mode.ts";
import { pathText } from "./copying.ts";
import { addHelp } from "./help.ts";
import { type Breath, interruptible } from "./interrupt.ts";
import { addJsonOption, type OutputFlags, sayJson } from "./output.ts";
import { addPasswordOptions, type PasswordOptions } from "./password.ts";
import { Skips } from "./skips.ts";
import { withPlace } from "./volumes.ts";

interface RmFlags extends PasswordOptions, OutputFlags {
  readonly recursive?: true;
  readonly force?: true;
}

export function addRm(program: Command): void {
  const command = program
    .command("rm")
    .summary("remove files from a volume")
    .description("Removes PATH from the volume. Works without FUSE, and on a mounted volume as well.")
    .argument("<file>", "the database file")
    .argument("<path...>", "what to remove")
    .option("-r, --recursive", "directories too, with all that is in them")
    .option("-f, --force", "what is not there is no error");
  addPasswordOptions(command);
  addJsonOption(command).action(rm);
  addHelp(command, {
    examples: ["sqlfuse rm vault.sqlite a.txt", "sqlfuse rm -r vault.sqlite letters/2019"],
  });
}

async function rm(file: string, paths: readonly string[], flags: RmFlags): Promise<void> {
  const skips = new Skips();
  await interruptible("stopped; what was removed is gone", async (breath) => {
    await withPlace(file, flags, true, async ({ place, idle }) => {
      const remover = new Remover(place, skips, breath, idle);
      for (const text of paths) {
        try {
          const path = resolvePath(place, pathText(text), false);
          const stat = place.stat(path);
          if (stat === undefined) {
            if (!flags.force) skips.skip(pathText(text), "no such file or directory");
          } else if (path === "") skips.skip("", "the root directory stays");
          else if (isDirectory(stat.mode) && !flags.recursive)
            skips.skip(path, "a directory: give -r to remove it");
          else await remover.remove(path);
        } catch (error) {
          if (refusalOf(error) === undefined) throw error;
          skips.skip(pathText(text), describe(error));
        }
      }
    });
  });
  skips.setExitCode();
  if (flags.json) sayJson({ removed: skips.doneCount, skipped: skips.list });
}

class Remover {
  readonly #place: Place;
  readonly #skips: Skips;
  readonly #breath: Breath;
  readonly #idle: () => void;

  constructor(place: Place, skips: Skips, breath: Breath, idle: () => void) {
    this.#place = place;
    this.#skips = skips;
    this.#breath = breath;
    this.#idle = idle;
  }

  /** Removes what is at `path`, and below; false where something stays. */
  async remove(path: string): Promise<boolean> {
    this.#idle();
    await this.#breath.breathe();
    try {
      const stat = this.#place.stat(path);
      if (stat === undefined) return true;
      if (isDirectory(stat.mode)) {
        let empty = true;
        // Listed as a whole first: removing while listing is nobody's promise.
        for (const name of [...this.#place.names(path)])
          empty = (await this.remove(`${path}/${name}`)) && empty;
        if (!empty) return false;
        this.#place.rmdir(path);
      } else this.#place.unlink(path);
      this.#skips.done();
      return true;
    } catch (error) {
      if (refusalOf(error) === undefined) throw error;
      this.#skips.skip(path, describe(error));
      return false;
    }
  }
}
