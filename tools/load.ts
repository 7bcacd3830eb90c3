/** `sqlfuse load NEWFILE [DUMP]`: a volume from a dump or a tar archive. */
import { createReadStream, readFileSync, statSync } from "node:fs";
import { resolve } from "node:path";
import { pipeline, Readable } from "node:stream";
import { isatty } from "node:tty";
import { createGunzip } from "node:zlib";
import type { Command } from "commander";
import { MAGIC } from "../src/archive/dumpformat.ts";
import { type DumpHeader, loadDump, readDumpHeader } from "../src/archive/dumpreader.ts";
import { FormatError, Source } from "../src/archive/source.ts";
import { BLOCK, isHeader, isZeroBlock } from "../src/archive/tarheader.ts";
import { loadTar } from "../src/archive/tarloader.ts";
import { systemClock } from "../src/base/clock.ts";
import type { Volume } from "../src/core/volume.ts";
import { addFormatOptions, type FormatFlags, parseFormat, refuseUnusable, tellMade } from "./create.ts";
import { requireEngine } from "./engine.ts";
import { EXIT, ToolError } from "./exitcodes.ts";
import { addHelp } from "./help.ts";
import { interruptible } from "./interrupt.ts";
import { addOutputOptions, formatBytes, type OutputFlags, warn } from "./output.ts";
import { addPasswordOptions, type PasswordOptions, readPassword } from "./password.ts";
import { Progress } from "./progress.ts";
import { Skips } from "./skips.ts";

type LoadFlags = PasswordOptions & FormatFlags & OutputFlags;

/** What input can be that nothing here reads, by its first bytes; how it becomes what is read. */
const FOREIGN: readonly (readonly [magic: string, what: string])[] = [
  ["\xfd7zXZ", "compressed by xz; give it decompressed: xz -dc FILE | sqlfuse load NEWFILE"],
  ["\x28\xb5\x2f\xfd", "compressed by zstd; give it decompressed: zstd -dc FILE | sqlfuse load NEWFILE"],
  ["BZh", "compressed by bzip2; give it decompressed: bzip2 -dc FILE | sqlfuse load NEWFILE"],
  ["PRAGMA ", "SQL, which sqlite3 reads; load a dump that was made without --sql"],
  ["SQLite format 3", "a database, not a dump"],
  ["PK\x03\x04", "a zip archive; unpack it and use sqlfuse put"],
];
const READ_BYTES = 1 << 20;

export function addLoad(program: Command): void {
  const command = program
    .command("load")
    .summary("make a volume from a dump or a tar archive")
    .description(
      "Makes the new volume NEWFILE from DUMP, which `sqlfuse dump` wrote, or from a tar archive (GNU, pax or " +
        "ustar; also compressed by gzip). NEWFILE is there when all of it was loaded; when that fails there is none.",
    )
    .argument("<newfile>", "the database file to make")
    .argument("[dump]", "the dump or archive; without it, or with -, stdin");
  addFormatOptions(command);
  addPasswordOptions(command);
  addOutputOptions(command).action(load);
  addHelp(command, {
    notes: [
      "The password of NEWFILE is asked for, twice, unless an option or SQLFUSE_PASSWORD gives it. A dump says the " +
        "block size itself. What an archive does not say, such as the time of birth, is the time of the load.",
    ],
    examples: [
      "sqlfuse load new.sqlite vault.dump",
      "sqlfuse dump --password-file old vault.sqlite | sqlfuse load --password-file new copy.sqlite",
      "tar -c --format=pax --xattrs --acls --sparse -C letters . | sqlfuse load --key-file key new.sqlite",
    ],
  });
}

async function load(file: string, from: string | undefined, flags: LoadFlags): Promise<void> {
  const format = parseFormat(flags);
  const path = resolve(file);
  refuseUnusable(file, path);
  const name = from === undefined || from === "-" ? undefined : from;
  refuseStdin(name, flags);
  await requireEngine();

  const progress = new Progress(flags.quiet);
  const skips = new Skips(progress);
  const stream = name === undefined ? process.stdin : openInput(name);
  try {
    const input = await recognise(stream, name ?? "stdin");
    if (input.header !== undefined && format.blockSize !== undefined)
      throw new ToolError(EXIT.usage, "--block-size is for archives: a dump says the block size itself");
    const password = await readPassword(flags, { path: file, confirm: true, warn });
    try {
      const { NewVolume } = await import("../src/core/create.ts");
      const { Volume } = await import("../src/core/volume.ts");
      const { header } = input;
      const options = header === undefined ? format : { ...format, blockSize: header.blockSize };
      await interruptible(`stopped; ${file} was not made`, async ({ signal }) => {
        signal.addEventListener("abort", () => stream.destroy(signal.reason as Error));
        const draft = new NewVolume(path, password, options);
        try {
          draft.release();
          const volume = Volume.open(draft.path, draft.key, { onLog: warn });
          try {
            await fill(volume, input, name, progress, skips);
            volume.commit();
          } finally {
            volume.close();
          }
          signal.throwIfAborted();
          draft.publish();
        } finally {
          draft.discard();
        }
      });
    } finally {
      password.fill(0);
    }
  } catch (error) {
    throw explain(error, file, name ?? "stdin");
  } finally {
    stream.destroy();
  }
  tellMade(flags, file, { loaded: skips.doneCount, skipped: skips.list });
}

function refuseStdin(name: string | undefined, flags: LoadFlags): void {
  if (name !== undefined) return;
  if (isatty(0)) throw new ToolError(EXIT.usage, "give the name of the dump, or pipe one into this");
  if ([flags.passwordFile === "-", flags.keyFile === "-", flags.passwordFd === "0"].includes(true))
    throw new ToolError(EXIT.usage, "the password and the dump cannot both come from stdin");
}

function openInput(name: string): Readable {
  const stat = statSync(name, { throwIfNoEntry: false });
  if (stat === undefined) throw new ToolError(EXIT.unusable, `${name}: no such file`);
  if (stat.isDirectory())
    throw new ToolError(EXIT.unusable, `${name}: a directory; make a volume and use sqlfuse put`);
  return createReadStream(name, { highWaterMark: READ_BYTES });
}

interface Input {
  readonly source: Source;
  /** Of a dump; absent for an archive. */
  readonly header: DumpHeader | undefined;
  /** Bytes read of the input itself, which may be compressed. */
  readonly position: () => number;
}

/** @throws ToolError, FormatError for what is neither a dump nor an archive */
async function recognise(stream: Readable, name: string): Promise<Input> {
  const raw = new Source(stream);
  let source = raw;
  const first = await raw.peek(2);
  if (first[0] === 0x1f && first[1] === 0x8b) {
    const gunzip = createGunzip();
    // What goes wrong comes out of gunzip, to whoever reads from it.
    pipeline(Readable.from(raw.rest()), gunzip, () => {});
    source = new Source(gunzip);
  }
  const begin = await source.peek(BLOCK);
  const position = (): number => raw.position;
  if (begin.length === 0) throw new ToolError(EXIT.unusable, `${name}: empty`);
  if (begin.toString("latin1").startsWith(MAGIC)) {
    return { source, header: await readDumpHeader(source), position };
  }
  if (begin.length === BLOCK && (isHeader(begin) || isZeroBlock(begin))) {
    return { source, header: undefined, position };
  }
  const foreign = FOREIGN.find(([magic]) => begin.toString("latin1").startsWith(magic));
  throw new ToolError(EXIT.unusable, `${name}: ${foreign?.[1] ?? "neither a dump nor a tar archive"}`);
}

async function fill(
  volume: Volume,
  { source, header, position }: Input,
  name: string | undefined,
  progress: Progress,
  skips: Skips,
): Promise<void> {
  const size = name === undefined ? 0 : (statSync(name, { throwIfNoEntry: false })?.size ?? 0);
  const onInode = (): void => {
    skips.done();
    if (size > 0) progress.update("loading", position(), size);
    else progress.tally(`loading: ${skips.doneCount} files, ${formatBytes(position())}`);
  };
  try {
    if (header !== undefined) await loadDump(volume, source, { onInode });
    else {
      await loadTar(volume, source, {
        uid: process.geteuid?.() ?? 0,
        gid: process.getegid?.() ?? 0,
        now: systemClock.now(),
        findId,
        onInode,
        onSkip: (path, why) => skips.skip(path, why),
      });
    }
  } finally {
    progress.end();
  }
  skips.setExitCode();
}

/** The number of a user or group in this machine's own tables. */
function findId(kind: "user" | "group", name: string): number | undefined {
  let table: string;
  try {
    table = readFileSync(kind === "user" ? "/etc/passwd" : "/etc/group", "latin1");
  } catch {
    return undefined;
  }
  const fields = table
    .split("\n")
    .map((line) => line.split(":"))
    .find(([first]) => first === name);
  return /^\d+$/.test(fields?.[2] ?? "") ? Number(fields?.[2]) : undefined;
}

function explain(error: unknown, file: string, name: string): unknown {
  if (!(error instanceof Error)) return error;
  const code = "code" in error && typeof error.code === "string" ? error.code : "";
  if (error instanceof FormatError)
    return new ToolError(EXIT.unusable, `${name}: ${error.message}; nothing was made`);
  if (code.startsWith("Z_"))
    return new ToolError(
      EXIT.unusable,
      `${name}: its gzip stream is damaged or was cut off; nothing was made`,
    );
  if (code === "ENOSPC")
    return new ToolError(EXIT.noSpace, `${file}: no space left on its disk; nothing was made`);
  if (error instanceof RangeError)
    return new ToolError(EXIT.unusable, `${name}: ${error.message}; nothing was made`);
  return error;
}
