/** `sqlfuse create FILE`: makes an empty volume. */
import { lstatSync, realpathSync, statSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { type Command, Option } from "commander";
import type { Compression } from "../src/core/codec.ts";
import type { CreateOptions } from "../src/core/create.ts";
import { requireEngine } from "./engine.ts";
import { EXIT, ToolError } from "./exitcodes.ts";
import { addHelp } from "./help.ts";
import { addKdfOption, parseKdf } from "./kdf.ts";
import { addOutputOptions, type OutputFlags, quote, tell, warn } from "./output.ts";
import { addPasswordOptions, type PasswordOptions, readPassword } from "./password.ts";

/** What is fixed when a volume is made. */
export interface FormatFlags {
  readonly blockSize?: string;
  readonly pageSize?: string;
  readonly compat?: true;
  readonly compression?: Compression;
  readonly kdf?: string;
}

interface CreateFlags extends PasswordOptions, FormatFlags, OutputFlags {
  readonly rootMode?: string;
}

/** Bytes that an option takes. */
interface Sizes {
  readonly least: number;
  readonly most: number;
  /** All must be a multiple of it; where it is missing, a power of two. */
  readonly step?: number;
  readonly words: string;
}

/** What a volume can have; the core refuses the rest as well. */
const BLOCK_SIZES: Sizes = { least: 4096, most: 1 << 20, step: 128, words: "a multiple of 128" };
const PAGE_SIZES: Sizes = { least: 4096, most: 65_536, words: "a power of two" };
const COMPRESSIONS: readonly Compression[] = ["none", "fast", "strong"];

export function addCreate(program: Command): void {
  const command = program
    .command("create")
    .summary("make an empty volume")
    .description("Makes an empty volume in the new file FILE. Its root directory belongs to you.")
    .argument("<file>", "the database file to make");
  addFormatOptions(command).option("--root-mode <mode>", "mode of the root directory (default: 0700)");
  addPasswordOptions(command);
  addOutputOptions(command).action(create);
  addHelp(command, {
    notes: [
      "The password is asked for, twice, unless an option or SQLFUSE_PASSWORD gives it. Nobody can recover a lost one.",
      "Compression is none, fast (LZ4) or strong (Brotli: two thirds of that, slow to write). Another one for what is " +
        "made in a directory from now on: setfattr -n user.sqlfuse.compression -v none DIRECTORY",
    ],
    examples: [
      "sqlfuse create vault.sqlite",
      "sqlfuse create --password-file ~/.vault-password --root-mode 0755 vault.sqlite",
    ],
  });
}

export function addFormatOptions(command: Command): Command {
  command
    .option(
      "--block-size <bytes>",
      "block size of files: a multiple of 128 from 4K to 1M (default: what fits a page, 16256)",
    )
    .option("--page-size <bytes>", "page size of the database: a power of two from 4K to 64K (default: 16K)")
    .option(
      "--compat",
      "use SQLCipher 4's default settings, so that its shell opens FILE with the password alone; not compressed",
    )
    .addOption(
      new Option(
        "--compression <how>",
        "of files whose attribute user.sqlfuse.compression says nothing else (default: fast; with --compat: none)",
      ).choices(COMPRESSIONS),
    );
  return addKdfOption(command);
}

export function parseFormat(flags: FormatFlags): CreateOptions {
  const blockSize = parseSize("--block-size", flags.blockSize, BLOCK_SIZES);
  const pageSize = parseSize("--page-size", flags.pageSize, PAGE_SIZES);
  if (pageSize !== undefined && flags.compat) {
    throw new ToolError(
      EXIT.usage,
      "--compat and --page-size exclude each other: a compatible file has SQLCipher's own",
    );
  }
  const iterations = parseKdf(flags.kdf);
  if (flags.kdf === "strong" && flags.compat) {
    throw new ToolError(
      EXIT.usage,
      "--compat and --kdf strong exclude each other: a compatible file has SQLCipher's own derivation",
    );
  }
  return {
    ...(blockSize === undefined ? {} : { blockSize }),
    ...(pageSize === undefined ? {} : { pageSize }),
    ...(flags.compat ? { compat: true } : {}),
    ...(flags.compression === undefined ? {} : { compression: flags.compression }),
    ...(iterations === undefined ? {} : { iterations }),
  };
}

async function create(file: string, flags: CreateFlags): Promise<void> {
  const format = parseFormat(flags);
  const rootMode = parseMode("--root-mode", flags.rootMode);
  const path = resolve(file);
  refuseUnusable(file, path);
  await requireEngine();

  const password = await readPassword(flags, { path: file, confirm: true, warn });
  // What is begun is finished: half a volume would be in the way of the next attempt.
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => {});
  try {
    const { Volume } = await import("../src/core/volume.ts");
    Volume.create(path, password, {
      rootUid: process.geteuid?.() ?? 0,
      rootGid: process.getegid?.() ?? 0,
      ...(rootMode === undefined ? {} : { rootMode }),
      ...format,
    });
  } finally {
    password.fill(0);
  }
  tellMade(flags, file, {});
}

export function tellMade(flags: OutputFlags, file: string, more: object): void {
  const path = realpathSync(file);
  const word = quote(file.startsWith("-") ? `./${file}` : file);
  tell(flags, `${file}: made; mount it with: sqlfuse mount ${word}`, {
    path,
    sizeBytes: statSync(path).size,
    ...more,
  });
}

/** What is wrong with the place is said before anybody types a password. The core refuses the same again. */
export function refuseUnusable(file: string, path: string): void {
  if (file === "") throw new ToolError(EXIT.usage, '"": a file needs a name');
  const directory = dirname(path);
  let isDirectory: boolean;
  try {
    isDirectory = statSync(directory).isDirectory();
  } catch (error) {
    const code = error instanceof Error && "code" in error ? String(error.code) : String(error);
    throw new ToolError(
      EXIT.unusable,
      code === "ENOENT"
        ? `${directory}: no such directory; make it first`
        : `${directory}: cannot be used (${code})`,
    );
  }
  if (!isDirectory)
    throw new ToolError(EXIT.unusable, `${directory}: not a directory, so ${file} cannot be made`);
  if (lstatSync(path, { throwIfNoEntry: false }) !== undefined) {
    throw new ToolError(
      EXIT.unusable,
      `${file}: exists already, and stays as it is; give the name of a new file`,
    );
  }
}

/** Bytes, or with K or M: KiB and MiB. */
function parseSize(
  option: string,
  text: string | undefined,
  { least, most, step, words }: Sizes,
): number | undefined {
  if (text === undefined) return undefined;
  const match = /^(\d{1,8})([kKmM]?)$/.exec(text);
  const unit = { "": 1, k: 1024, m: 1024 * 1024 }[match?.[2]?.toLowerCase() ?? ""] ?? 1;
  const size = match === null ? 0 : Number(match[1]) * unit;
  const fits = step === undefined ? Number.isInteger(Math.log2(size)) : size % step === 0;
  if (size >= least && size <= most && fits) return size;
  throw new ToolError(EXIT.usage, `${option} ${text}: not ${words} from ${least} to ${most} (64K is 65536)`);
}

export function parseMode(option: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  if (!/^[0-7]{1,5}$/.test(text) || Number.parseInt(text, 8) > 0o7777) {
    throw new ToolError(EXIT.usage, `${option} ${text}: not an octal mode (such as 0755)`);
  }
  return Number.parseInt(text, 8);
}
