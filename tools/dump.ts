/** `sqlfuse dump FILE`: everything in a volume as text, SQL or a tar archive. */
import { isatty } from "node:tty";
import type { Command } from "commander";
import { latin1 } from "../src/archive/escape.ts";
import { parseAt } from "../src/core/moment.ts";
import type { Attr } from "../src/core/types.ts";
import type { Volume } from "../src/core/volume.ts";
import { EXIT, ToolError } from "./exitcodes.ts";
import { addHelp } from "./help.ts";
import { interruptible } from "./interrupt.ts";
import { type AtFlags, addAtOption } from "./moment.ts";
import { addQuietOption, formatBytes, warn } from "./output.ts";
import { addPasswordOptions, type PasswordOptions } from "./password.ts";
import { Progress } from "./progress.ts";
import { refuseMissing } from "./rewrite.ts";
import { Sink } from "./sink.ts";
import { Skips } from "./skips.ts";
import { runSteps } from "./steps.ts";
import { syncMount } from "./sync.ts";
import { findServedMount, withVolume } from "./volumes.ts";

interface DumpFlags extends PasswordOptions, AtFlags {
  readonly sql?: true;
  readonly tar?: true;
  /** False with --no-data. */
  readonly data: boolean;
  readonly path?: string;
  readonly output?: string;
  readonly quiet?: true;
}

export function addDump(program: Command): void {
  const command = program
    .command("dump")
    .summary("write everything in a volume as text, SQL or tar")
    .description(
      "Writes everything in FILE as text, from which `sqlfuse load` makes an equal volume. Two volumes that hold " +
        "the same have the same dump, whatever their passwords are, so that dumps can be compared by diff. What is " +
        "written is NOT ENCRYPTED. A mounted volume can be dumped: it is committed first, and what is written to it " +
        "meanwhile is not in the dump.",
    )
    .argument("<file>", "the database file")
    .option("--no-data", "hashes only of what is in files: short, to compare and not to load")
    .option("--tar", "a pax tar archive with everything that tar can hold; sockets it cannot")
    .option("--sql", "the tables of the database as SQL, for sqlite3 3.37 or newer")
    .option("--path <directory>", "only what is in this directory of the volume; not with --sql")
    .option("-o, --output <file>", "write to the new file FILE, mode 0600; when that fails there is none");
  addAtOption(command);
  addPasswordOptions(command);
  addQuietOption(command).action(dump);
  addHelp(command, {
    examples: [
      "sqlfuse dump vault.sqlite -o vault.dump",
      "diff <(sqlfuse dump --no-data old.sqlite) <(sqlfuse dump --no-data new.sqlite)",
      "diff <(sqlfuse dump --no-data --at yesterday vault.sqlite) <(sqlfuse dump --no-data vault.sqlite)",
      "sqlfuse dump --tar vault.sqlite | tar -x --xattrs --xattrs-include='*' --acls -C /restore",
      "sqlfuse dump --tar --path /letters vault.sqlite | zstd -o letters.tar.zst",
      "sqlfuse dump --sql vault.sqlite | sqlite3 plain.sqlite",
    ],
  });
}

async function dump(file: string, flags: DumpFlags): Promise<void> {
  refuseContradictions(flags);
  refuseMissing(file);
  if (flags.tar && flags.output === undefined && isatty(1))
    throw new ToolError(EXIT.usage, "an archive is nothing for a terminal; give -o FILE or pipe it into tar");
  // What is wrong with the place is said before anybody types a password.
  const sink = new Sink(flags.output);
  try {
    await interruptible(undone(flags), async ({ signal }) => {
      const { at } = flags;
      if (at === undefined) await commitMounted(file);
      const which = at === undefined ? { beside: true } : { at: parseAt(at) };
      await withVolume(file, flags, { ...which, noatime: true }, (volume) =>
        write(file, volume, sink, flags),
      );
      signal.throwIfAborted();
      sink.publish();
    });
  } finally {
    sink.close();
  }
}

/** What being stopped means. */
function undone({ output }: DumpFlags): string {
  return output === undefined ? "stopped; the dump is not whole" : `stopped; ${output} was not made`;
}

function refuseContradictions(flags: DumpFlags): void {
  const contradictions: readonly (readonly [boolean, string])[] = [
    [flags.tar === true && flags.sql === true, "--tar and --sql"],
    [!flags.data && flags.tar === true, "--no-data and --tar"],
    [!flags.data && flags.sql === true, "--no-data and --sql"],
    [flags.path !== undefined && flags.sql === true, "--path and --sql"],
    [flags.at !== undefined && flags.sql === true, "--at and --sql"],
  ];
  const found = contradictions.find(([contradicts]) => contradicts);
  if (found !== undefined) throw new ToolError(EXIT.usage, `${found[1]} exclude each other`);
}

/** So that what was written before the command is in the dump. Where it cannot be done the last commit is dumped. */
async function commitMounted(file: string): Promise<void> {
  const mount = await findServedMount(file);
  if (mount === undefined) return;
  try {
    await syncMount(mount);
  } catch (error) {
    const text = error instanceof Error ? error.message : String(error);
    warn(
      `${file}: mounted, and cannot be committed from here (${text}); this is its state of some moments ago`,
    );
  }
}

async function write(file: string, volume: Volume, sink: Sink, flags: DumpFlags): Promise<void> {
  const progress = new Progress(flags.quiet);
  const skips = new Skips(progress);
  const shown = !isatty(1) || flags.output !== undefined;
  let bytes = 0;
  try {
    await runSteps(
      await piecesOf(volume, flags, skips),
      (piece) => {
        sink.write(piece);
        bytes += piece.length;
        const items = flags.sql ? "" : `${skips.doneCount} of ${volume.inodeCount} files, `;
        if (shown) progress.tally(`dumping ${file}: ${items}${formatBytes(bytes)}`);
      },
      undone(flags),
    );
  } finally {
    progress.end();
  }
  skips.setExitCode();
}

async function piecesOf(volume: Volume, flags: DumpFlags, skips: Skips): Promise<Generator<Buffer, void>> {
  if (flags.sql) return volume.sqlText();
  const onInode = (): void => skips.done();
  const start = await findStart(volume, flags.path ?? "/");
  if (flags.tar) {
    const { tarArchive } = await import("../src/archive/tarwriter.ts");
    return tarArchive(volume, start, { onInode, onSkip: (path, why) => skips.skip(`/${path}`, why) });
  }
  const { dumpText } = await import("../src/archive/dumpwriter.ts");
  return dumpText(volume, start, { content: flags.data, onInode });
}

async function findStart(volume: Volume, text: string): Promise<Attr> {
  const { VolumePlace } = await import("../src/archive/volumeplace.ts");
  const { resolvePath } = await import("../src/archive/path.ts");
  const { describe } = await import("../src/archive/copy.ts");
  const { isDirectory } = await import("../src/core/mode.ts");
  const place = new VolumePlace(volume, 0, 0);
  let attr: Attr | undefined;
  try {
    attr = place.attr(resolvePath(place, latin1(Buffer.from(text)), true));
  } catch (error) {
    throw new ToolError(EXIT.unusable, `${text}: ${describe(error)}`);
  }
  if (attr === undefined) throw new ToolError(EXIT.unusable, `${text}: no such directory in the volume`);
  if (isDirectory(attr.mode)) return attr;
  throw new ToolError(
    EXIT.unusable,
    `${text}: not a directory; sqlfuse get or sqlfuse cat give a single file`,
  );
}
