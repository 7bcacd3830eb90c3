/** `sqlfuse put FILE SOURCE... [PATH]`: copies files into a volume. */
import { randomBytes } from "node:crypto";
import { lstatSync, realpathSync } from "node:fs";
import { basename, dirname, resolve } from "node:path";
import type { Command } from "commander";
import { describe } from "../src/archive/copy.ts";
import { resolvePath } from "../src/archive/path.ts";
import type { Place } from "../src/archive/place.ts";
import { systemClock } from "../src/base/clock.ts";
import { isDirectory, S_IFREG } from "../src/core/mode.ts";
import { type CopyFlags, type CopySource, copyAll, explain, pathText, tellCopied } from "./copying.ts";
import { EXIT, ToolError } from "./exitcodes.ts";
import { addHelp } from "./help.ts";
import { type Breath, interruptible } from "./interrupt.ts";
import { addOutputOptions } from "./output.ts";
import { addPasswordOptions, type PasswordOptions } from "./password.ts";
import { type Access, withPlace } from "./volumes.ts";

export function addPut(program: Command): void {
  const command = program
    .command("put")
    .usage("[options] <file> <source...> [path]")
    .summary("copy files and directories into a volume")
    .description(
      "Copies SOURCE, directories with all that is in them, to PATH in the volume, as cp -a does: with modes, " +
        "times, links, holes, attributes and ACLs; with owners if you are root, else they are yours. Works without " +
        "FUSE, and on a mounted volume as well. All is on disk when this returns. What cannot be copied is named, " +
        "and the rest goes on.",
    )
    .argument("<file>", "the database file")
    .argument(
      "<source...>",
      "what to copy; if more than one is given, the last is PATH: without it, the root",
    )
    .option("-n, --no-clobber", "leave alone what is there already; else it is replaced");
  addPasswordOptions(command);
  addOutputOptions(command).action(put);
  addHelp(command, {
    notes: ["With - as SOURCE it is stdin, and PATH the name of the file."],
    examples: [
      ["sqlfuse put vault.sqlite letters", "makes /letters"],
      "sqlfuse put vault.sqlite *.pdf /papers",
      ["sqlfuse put vault.sqlite ~/photos/. /photos", "what is in ~/photos, without a new directory"],
      "pg_dump db | sqlfuse put vault.sqlite - /backup/db.sql",
    ],
  });
}

async function put(file: string, args: readonly string[], flags: CopyFlags & PasswordOptions): Promise<void> {
  const sources = args.length > 1 ? args.slice(0, -1) : args;
  const text = args.length > 1 ? (args.at(-1) ?? "/") : "/";
  if (sources.includes("-") && (sources.length > 1 || args.length < 2))
    throw new ToolError(EXIT.usage, "stdin (-) is one source, and PATH must be the name of its file");
  const from = sources.includes("-") ? [] : sources.map(sourcePath);
  await interruptible("stopped; what was copied is there", async (breath) => {
    await withPlace(file, flags, true, async (access) => {
      const target = resolveTarget(access.place, text);
      const umask = process.umask(0);
      if (from.length === 0) {
        const bytes = await putStdin(access, target, text, 0o666 & ~umask, breath);
        if (flags.json) tellCopied(1, bytes, []);
        return;
      }
      const { HostPlace } = await import("../src/archive/hostplace.ts");
      const { place: to, idle } = access;
      await copyAll({ from: new HostPlace(), sources: from, to, target, file, flags, breath, idle });
    });
  });
}

/** The last name may be new, or a symlink to be replaced only if it leads to no directory. */
function resolveTarget(place: Place, text: string): string {
  try {
    const followed = resolvePath(place, pathText(text), true);
    const stat = place.stat(followed);
    return stat !== undefined && isDirectory(stat.mode)
      ? followed
      : resolvePath(place, pathText(text), false);
  } catch (error) {
    throw new ToolError(EXIT.unusable, `${text}: ${describe(error)}`);
  }
}

/** An absolute path of this machine in latin1, without symlinks but in its last name; "DIR/." is what is in DIR. */
function sourcePath(argument: string): CopySource {
  const absolute = resolve(argument);
  // What a script's empty variable means is not all that is here.
  if (argument === "" || lstatSync(absolute, { throwIfNoEntry: false }) === undefined)
    throw new ToolError(EXIT.unusable, `${argument === "" ? '""' : argument}: no such file or directory`);
  const contents = /(^|\/)\.{1,2}$/.test(argument);
  if (contents || /\/$/.test(argument)) {
    const real = realpathSync(absolute);
    return { path: real === "/" ? "" : pathText(real), name: contents ? "" : pathText(basename(real)) };
  }
  const directory = realpathSync(dirname(absolute)).replace(/\/$/, "");
  return { path: pathText(`${directory}/${basename(absolute)}`), name: pathText(basename(absolute)) };
}

/** Gives the count of bytes. */
async function putStdin(
  { place, idle }: Access,
  target: string,
  text: string,
  mode: number,
  { breathe, signal }: Breath,
): Promise<number> {
  signal.addEventListener("abort", () => process.stdin.destroy(signal.reason as Error));
  const draft = `${target.slice(0, target.lastIndexOf("/") + 1)}.sqlfuse-${randomBytes(6).toString("hex")}`;
  let made = false;
  let offset = 0;
  try {
    const there = place.stat(target);
    if (there !== undefined && isDirectory(there.mode))
      throw new ToolError(EXIT.unusable, `${text}: a directory; give the name of the file`);
    const writing = place.openNew(draft);
    made = true;
    try {
      for await (const chunk of process.stdin) {
        const bytes = chunk as Buffer;
        writing.write(offset, bytes);
        offset += bytes.length;
        idle();
        await breathe();
      }
    } finally {
      writing.close();
    }
    const now = systemClock.now();
    const owner = { uid: process.geteuid?.() ?? 0, gid: process.getegid?.() ?? 0 };
    const like = { ...owner, nlink: 1, size: 0, allocated: 0, major: 0, minor: 0, identity: "" };
    place.finish(draft, { ...like, mode: S_IFREG | mode, atime: now, mtime: now }, [], false);
    place.rename(draft, target);
    return offset;
  } catch (error) {
    if (made && place.stat(draft) !== undefined) place.unlink(draft);
    throw explain(error, text);
  }
}
