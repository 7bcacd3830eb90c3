/** `sqlfuse info FILE`: first what anybody can see of the file, then what the password opens. */
import type { Command } from "commander";
import type { Inside, Outside } from "../src/core/info.ts";
import type { Share } from "../src/core/partial.ts";
import { requireEngine } from "./engine.ts";
import { EXIT, ToolError } from "./exitcodes.ts";
import { addHelp } from "./help.ts";
import { formatBytes, localTime, say, warn } from "./output.ts";
import { addPasswordOptions, hasPasswordSource, type PasswordOptions, readPassword } from "./password.ts";
import { type Holder, holderOf, refuseMissing } from "./rewrite.ts";

interface InfoFlags extends PasswordOptions {
  /** False with --no-password. */
  readonly password: boolean;
  readonly json?: true;
}

export function addInfo(program: Command): void {
  const command = program
    .command("info")
    .summary("show what a volume is and holds")
    .description(
      "Shows what anybody can see of FILE, and with the password its format, its cipher settings, and figures of " +
        "what it holds. Changes nothing. Of a mounted volume it tells the state of the last commit.",
    )
    .argument("<file>", "the database file")
    .option("--no-password", "show only what needs no password; so does a script that gives none")
    .option("--json", "as one JSON object; bytes, times and counts as they are");
  addPasswordOptions(command).action(info);
  addHelp(command, {
    examples: [
      "sqlfuse info vault.sqlite",
      "sqlfuse info --no-password vault.sqlite",
      "sqlfuse info --json --key-file key vault.sqlite | jq .volume.freeBytes",
    ],
  });
}

async function info(file: string, flags: InfoFlags): Promise<void> {
  refuseContradiction(flags);
  refuseMissing(file);
  await requireEngine();
  const { inspect } = await import("../src/core/info.ts");
  const outside = inspect(file);
  const holder = await holderOf(file);
  if (!flags.json) for (const line of outsideLines(outside, holder)) say(line);
  const inside =
    flags.password && hasPasswordSource(flags) ? await unlockAndDescribe(file, flags) : undefined;
  if (flags.json) say(JSON.stringify(toJson(outside, holder, inside), undefined, 2));
  else if (inside !== undefined) for (const line of insideLines(inside)) say(line);
  else if (flags.password) warn("no password given: this is what can be seen without it");
}

function refuseContradiction(flags: InfoFlags): void {
  const given = flags.passwordFile ?? flags.passwordCommand ?? flags.passwordFd ?? flags.keyFile;
  if (flags.password || given === undefined) return;
  throw new ToolError(EXIT.usage, "--no-password and a source of a password exclude each other");
}

async function unlockAndDescribe(file: string, flags: InfoFlags): Promise<Inside> {
  const { unlock } = await import("../src/core/unlock.ts");
  const { describe } = await import("../src/core/info.ts");
  const password = await readPassword(flags, { path: file, confirm: false, warn });
  try {
    const key = unlock(file, password);
    try {
      return describe(file, key);
    } finally {
      key.wipe();
    }
  } finally {
    password.fill(0);
  }
}

function outsideLines(outside: Outside, holder: Holder | undefined): string[] {
  const { path, sizeBytes, walBytes, mode, uid, gid, changed, salt, draft } = outside;
  const size = `${formatBytes(sizeBytes)} (${number(sizeBytes)} bytes)`;
  return [
    row("file", path),
    row("size", walBytes === 0 ? size : `${size}, and ${formatBytes(walBytes)} in its -wal`),
    row("owner", `${uid}:${gid}, mode ${mode.toString(8).padStart(4, "0")}, changed ${localTime(changed)}`),
    row("salt", salt),
    row("in use", usage(holder)),
    ...(draft === undefined
      ? []
      : [row("left over", `${draft}, of a vacuum or rekey that was cut off; the next one removes it`)]),
  ];
}

function usage(holder: Holder | undefined): string {
  if (holder === undefined) return "no";
  if (holder.mountpoint === undefined) return `by process ${holder.pid}`;
  return `mounted at ${holder.mountpoint} by pid ${holder.pid}`;
}

function insideLines(inside: Inside): string[] {
  const { counts, fileBytes, freeBytes, totalBytes, blocksNamed, blocksStored } = inside;
  const features = [...inside.features, ...inside.featuresIncompatible];
  const usedBytes = totalBytes - freeBytes;
  return [
    row("volume", `${inside.volumeId}, made ${localTime(inside.created)}`),
    row("format", [inside.format, ...features].join(", ")),
    row(
      "cipher",
      `AES-256-CBC and ${inside.hmac.replace("_", "-")}, pages of ${formatBytes(inside.pageSize)}`,
    ),
    row("key", derivation(inside.kdfIterations)),
    row(
      "pages",
      `${formatBytes(usedBytes)} in use, ${formatBytes(freeBytes)} free${freeBytes > 0 ? " (sqlfuse vacuum gives that back)" : ""}`,
    ),
    row(
      "holds",
      [
        plural(counts.files, "file"),
        plural(counts.directories, "directory", "directories"),
        plural(counts.symlinks, "symlink"),
        ...(counts.fifos > 0 ? [plural(counts.fifos, "fifo")] : []),
        ...(counts.sockets > 0 ? [plural(counts.sockets, "socket")] : []),
        ...(counts.devices > 0 ? [plural(counts.devices, "device")] : []),
      ].join(", "),
    ),
    ...(inside.hardLinked > 0 ? [row("", `${number(inside.hardLinked)} of them with several names`)] : []),
    ...(inside.unlinked > 0
      ? [row("", `${number(inside.unlinked)} without a name, in use or waiting to be purged`)]
      : []),
    row(
      "data",
      `${formatBytes(fileBytes)} in files, ${formatBytes(usedBytes)} on disk${times(usedBytes, fileBytes)}`,
    ),
    row(
      "blocks",
      `${number(blocksStored)} stored for ${number(blocksNamed)} in files${times(blocksNamed, blocksStored)}; ` +
        `${formatBytes(inside.blockSize)} each in new files`,
    ),
    row("packing", packing(inside)),
    ...(inside.share === undefined ? [] : [row("here", shareLine(inside.share))]),
    row(
      "history",
      `epoch ${number(inside.epoch)}, ${plural(inside.snapshots, "snapshot")}, ${plural(inside.pastRows, "row")} of earlier epochs`,
    ),
  ];
}

function packing({ compression, sample, blocksStored }: Inside): string {
  const { blocks, contentBytes, storedBytes } = sample;
  if (contentBytes === 0) return compression;
  const about = blocks < blocksStored ? "about " : "";
  return `${compression}; blocks take ${about}${(storedBytes / contentBytes).toFixed(2)} times what is in them`;
}

function shareLine({ bytes, bytesHere, limit, pins }: Share): string {
  const most = limit === 0 ? "" : `; at most ${formatBytes(limit)} that may go again`;
  return `${formatBytes(bytesHere)} of ${formatBytes(bytes)}, ${plural(pins.length, "pinned tree")}${most}`;
}

function derivation(iterations: number): string {
  if (iterations === 0) return "a raw key file, used as it is";
  return `PBKDF2-HMAC-SHA512, ${number(iterations)} rounds`;
}

function row(name: string, text: string): string {
  return `${name.padEnd(10)}${text}`;
}

function number(value: number): string {
  return value.toLocaleString("en-US");
}

function plural(count: number, one: string, many = `${one}s`): string {
  return `${number(count)} ${count === 1 ? one : many}`;
}

/** " (1.07 times)"; of nothing there is none. */
function times(part: number, whole: number): string {
  // An almost empty volume has thousands, which say nothing.
  return part >= 100 * whole ? "" : ` (${(part / whole).toFixed(2)} times)`;
}

function toJson(outside: Outside, holder: Holder | undefined, inside: Inside | undefined): object {
  const { pid, draft, mode, changed, ...rest } = outside;
  return {
    ...rest,
    mode: mode.toString(8).padStart(4, "0"),
    changed: changed.toISOString(),
    holder: holder ?? null,
    leftOver: draft ?? null,
    volume: inside ?? null,
  };
}
