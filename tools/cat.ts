/** `sqlfuse cat FILE PATH...`: the contents of files in a volume, to stdout. */
import type { Command } from "commander";
import { describe } from "../src/archive/copy.ts";
import { resolvePath } from "../src/archive/path.ts";
import { type Place, PlaceError, refusalOf } from "../src/archive/place.ts";
import { isDirectory, isRegular } from "../src/core/mode.ts";
import { pathText } from "./copying.ts";
import { addHelp } from "./help.ts";
import { type Breath, interruptible } from "./interrupt.ts";
import { type AtFlags, addAtOption } from "./moment.ts";
import { addPasswordOptions, type PasswordOptions } from "./password.ts";
import { Sink } from "./sink.ts";
import { Skips } from "./skips.ts";
import { withPlace } from "./volumes.ts";

const STEP_BYTES = 1 << 20;

export function addCat(program: Command): void {
  const command = program
    .command("cat")
    .summary("write the contents of files in a volume to stdout")
    .description(
      "Writes what is in the files PATH of the volume to stdout. Works without FUSE, and on a mounted volume as well.",
    )
    .argument("<file>", "the database file")
    .argument("<path...>", "the files");
  addAtOption(command);
  addPasswordOptions(command).action(cat);
  addHelp(command, {
    examples: [
      "sqlfuse cat vault.sqlite letters/a.txt | less",
      "sqlfuse cat --at '2 hours ago' vault.sqlite letters/a.txt",
    ],
  });
}

async function cat(file: string, paths: readonly string[], flags: AtFlags & PasswordOptions): Promise<void> {
  const skips = new Skips();
  const sink = new Sink(undefined);
  await interruptible("stopped", async (breath) => {
    await withPlace(file, flags, false, async ({ place }) => {
      for (const text of paths) {
        try {
          await write(place, resolvePath(place, pathText(text), true), sink, breath);
          skips.done();
        } catch (error) {
          const damage = error instanceof Error && error.name === "DamageError";
          if (refusalOf(error) === undefined && !damage) throw error;
          skips.skip(pathText(text), describe(error));
        }
      }
    });
  });
  skips.setExitCode();
}

async function write(place: Place, path: string, sink: Sink, { breathe }: Breath): Promise<void> {
  const stat = place.stat(path);
  if (stat === undefined) throw new PlaceError("ENOENT");
  if (isDirectory(stat.mode)) throw new PlaceError("EISDIR");
  if (!isRegular(stat.mode)) throw new PlaceError("EINVAL", "not a regular file");
  const reading = place.openRead(path);
  try {
    const buffer = Buffer.allocUnsafe(STEP_BYTES);
    for (let offset = 0; offset < stat.size; ) {
      const bytes = buffer.subarray(0, Math.min(STEP_BYTES, stat.size - offset));
      const count = reading.read(offset, bytes);
      if (count === 0) break; // it was cut meanwhile
      sink.write(bytes.subarray(0, count));
      offset += count;
      await breathe();
    }
  } finally {
    reading.close();
  }
}
