/** `sqlfuse diff FROM TO [FILE|PATH] [PATH]`: what changed from one state of a volume to another. */
import type { Command } from "commander";
import { typeName } from "../src/archive/dumpformat.ts";
import type { Change } from "../src/core/changes.ts";
import type { Inode } from "../src/core/inodes.ts";
import { isRegular, S_IFMT } from "../src/core/mode.ts";
import type { Epoch } from "../src/core/types.ts";
import type { Volume } from "../src/core/volume.ts";
import type { Key } from "../src/db/key.ts";
import { EXIT, ToolError } from "./exitcodes.ts";
import { addHelp } from "./help.ts";
import { addJsonOption, say, sayJson } from "./output.ts";
import { addPasswordOptions, type PasswordOptions } from "./password.ts";
import { show, textOf } from "./skips.ts";
import { unifiedDiff } from "./unified.ts";
import { openVolume } from "./volumes.ts";
import { epochOf, findWhere, withChanges } from "./where.ts";

interface DiffFlags extends PasswordOptions {
  readonly json?: true;
  readonly text?: true;
}

/** Longer files are not compared line by line. */
const TEXT_BYTES = 4 * 2 ** 20;

export function addDiff(program: Command): void {
  const command = program
    .command("diff")
    .summary("tell what changed from one snapshot to another, or to now")
    .description(
      "Tells what was added, removed, modified and renamed from one state of a volume to another: names of snapshots, " +
        "their epochs, times (which mean the last snapshot made until then), or now. PATH is in a mount (default: " +
        "here), or in FILE. It takes as long as there were changes, however much the volume holds.",
    )
    .argument("<from>", "the state before")
    .argument("<to>", "the state after")
    .argument("[file|path]", "the database file, or a path in a mount (default: where you are)")
    .argument("[path]", "with FILE: a path in it (default: all of it)")
    .option("--text", "with the lines of text files that differ, as diff -u shows them");
  addPasswordOptions(command);
  addJsonOption(command).action(diff);
  addHelp(command, {
    notes: ["A directory that was renamed is one line, whatever it holds. Equal states give no line at all."],
    examples: [
      "sqlfuse diff yesterday now ~/vault/letters",
      "sqlfuse diff --text 'before the upgrade' now vault.sqlite etc",
    ],
  });
}

async function diff(
  fromText: string,
  toText: string,
  first: string | undefined,
  inside: string | undefined,
  flags: DiffFlags,
): Promise<void> {
  const where = await findWhere(first ?? ".", inside);
  await withChanges(where, flags, async (volume, changes, key) => {
    const from = epochOf(volume, fromText) as Epoch;
    const to = epochOf(volume, toText) as Epoch;
    const found = changes.between(from, to, where.path);
    const isThere = (epoch: Epoch) => changes.find(where.path, epoch) !== undefined;
    if (found.length === 0 && !isThere(from) && !isThere(to))
      throw new ToolError(
        EXIT.unusable,
        `${show(where.path)}: neither there then nor after; see: sqlfuse log`,
      );
    const texts = flags.text ? await textsOf(found, [from, to], volume, key) : undefined;
    if (flags.json) sayJson(found.map((change, i) => jsonOf(change, texts?.[i])));
    else
      for (const [i, change] of found.entries())
        for (const line of [lineOf(change), ...(texts?.[i] ?? [])]) say(line);
  });
}

function lineOf({ kind, path, from, what }: Change): string {
  const name = from === undefined ? show(path) : `${show(from)} -> ${show(path)}`;
  const how = what.length === 0 ? "" : ` (${what.join(", ")})`;
  return `${kind.padEnd("modified".length)}  ${name}${how}`;
}

function jsonOf({ kind, path, from, what, before, after }: Change, text?: readonly string[]): object {
  const size = (inode: Inode | undefined) => inode?.size;
  return {
    change: kind,
    ...textOf("path", path === "" ? "/" : path),
    ...(from === undefined ? {} : textOf("from", from)),
    what,
    type: typeName(((after ?? before)?.mode ?? 0) & S_IFMT),
    ...(kind === "added" ? {} : { sizeBefore: size(before) }),
    ...(kind === "removed" ? {} : { size: size(after) }),
    ...(text === undefined || text.length === 0 ? {} : { text: text.join("\n") }),
  };
}

/** Of each change the lines that differ, where it is one of text. */
async function textsOf(
  changes: readonly Change[],
  [from, to]: readonly [Epoch, Epoch],
  volume: Volume,
  key: Key,
): Promise<string[][]> {
  const inState = <T>(epoch: Epoch, run: (then: Volume) => Promise<T>): Promise<T> =>
    epoch === volume.epoch ? run(volume) : openVolume(volume.path, key, { at: { epoch } }, run);
  return await inState(from, (old) =>
    inState(to, async (current) =>
      changes.map((change) => {
        const { kind, what, before, after } = change;
        if (kind === "modified" && !what.includes("content") && !what.includes("replaced")) return [];
        const was = kind === "added" ? "" : contentOf(old, before);
        const is = kind === "removed" ? "" : contentOf(current, after);
        if (was === undefined || is === undefined || was === is) return [];
        return [
          `--- ${kind === "added" ? "/dev/null" : show(change.from ?? change.was ?? change.path)}`,
          `+++ ${kind === "removed" ? "/dev/null" : show(change.path)}`,
          ...unifiedDiff(was, is),
        ];
      }),
    ),
  );
}

/** Undefined where it is no text, or too much. */
function contentOf(volume: Volume, inode: Inode | undefined): string | undefined {
  if (inode === undefined || !isRegular(inode.mode) || inode.size > TEXT_BYTES) return undefined;
  const bytes = Buffer.alloc(inode.size);
  const text = bytes.subarray(0, volume.files.read(inode.ino, 0, bytes.length, bytes));
  if (text.includes(0)) return undefined;
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(text);
  } catch {
    return undefined;
  }
}
