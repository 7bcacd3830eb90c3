/** `sqlfuse get FILE PATH... [DEST]`: copies files out of a volume. */
import { realpathSync } from "node:fs";
import { basename, dirname, resolve } from "node:path";
import type { Command } from "commander";
import { describe } from "../src/archive/copy.ts";
import { lastName, resolvePath } from "../src/archive/path.ts";
import { type CopyFlags, copyAll, pathText } from "./copying.ts";
import { EXIT, ToolError } from "./exitcodes.ts";
import { addHelp } from "./help.ts";
import { interruptible } from "./interrupt.ts";
import { type AtFlags, addAtOption } from "./moment.ts";
import { addOutputOptions } from "./output.ts";
import { addPasswordOptions, type PasswordOptions } from "./password.ts";
import { withPlace } from "./volumes.ts";

export function addGet(program: Command): void {
  const command = program
    .command("get")
    .usage("[options] <file> <path...> [dest]")
    .summary("copy files and directories out of a volume")
    .description(
      "Copies what is at PATH in the volume, directories with all that is in them, to DEST, as cp -a does: with " +
        "modes, times, links, holes, attributes and ACLs; with owners if you are root. Works without FUSE, and on a " +
        "mounted volume as well. What cannot be copied is named, and the rest goes on.",
    )
    .argument("<file>", "the database file")
    .argument("<path...>", "what to copy; if more than one is given, the last is DEST: without it, here")
    .option("-n, --no-clobber", "leave alone what is there already; else it is replaced");
  addAtOption(command);
  addPasswordOptions(command);
  addOutputOptions(command).action(get);
  addHelp(command, {
    examples: [
      ["sqlfuse get vault.sqlite letters/2025", "makes ./2025"],
      "sqlfuse get --at '2026-11-20 14:00' vault.sqlite letters",
      "sqlfuse get vault.sqlite a.txt b.txt /tmp",
      "sqlfuse get vault.sqlite / everything",
    ],
  });
}

async function get(
  file: string,
  paths: readonly string[],
  flags: CopyFlags & AtFlags & PasswordOptions,
): Promise<void> {
  const sources = paths.length > 1 ? paths.slice(0, -1) : paths;
  if (paths.length > 1 && paths.at(-1) === "-")
    throw new ToolError(EXIT.usage, "-: to stdout there is sqlfuse cat; a file of that name is ./-");
  const target = hostPath(paths.length > 1 ? (paths.at(-1) ?? ".") : ".");
  await interruptible("stopped; what was copied is there", async (breath) => {
    await withPlace(file, flags, false, async ({ place, idle }) => {
      const { HostPlace } = await import("../src/archive/hostplace.ts");
      const from = sources.map((source) => {
        // What a script's empty variable means is not all that is in the volume.
        if (source === "") throw new ToolError(EXIT.unusable, '"": no such file or directory');
        try {
          const path = resolvePath(place, pathText(source), false);
          return { path, name: lastName(path) };
        } catch (error) {
          throw new ToolError(EXIT.unusable, `${source}: ${describe(error)}`);
        }
      });
      process.umask(0);
      await copyAll({ from: place, sources: from, to: new HostPlace(), target, file, flags, breath, idle });
    });
  });
}

/** An absolute path of this machine in latin1; symlinks on the way to its last name, and that itself, are followed. */
function hostPath(argument: string): string {
  const absolute = resolve(argument);
  for (const find of [
    () => realpathSync(absolute),
    () => `${realpathSync(dirname(absolute)).replace(/\/$/, "")}/${basename(absolute)}`,
  ]) {
    try {
      const found = find();
      return found === "/" ? "" : pathText(found);
    } catch {
      // not there
    }
  }
  return pathText(absolute);
}
