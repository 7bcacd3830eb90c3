/** `sqlfuse log-dump URL`: what is in a log, as text, read by its password alone. */
import type { Command } from "commander";
import type { Link } from "../src/log/chain.ts";
import type { LogRecord, NodeId } from "../src/log/format.ts";
import { accessOf } from "./access.ts";
import { requireEngine } from "./engine.ts";
import { EXIT, ToolError } from "./exitcodes.ts";
import { addHelp } from "./help.ts";
import { interruptible } from "./interrupt.ts";
import { say, warn } from "./output.ts";
import { addPasswordOptions, type PasswordOptions, readPassword } from "./password.ts";

interface LogDumpFlags extends PasswordOptions {
  readonly segment?: string;
  readonly json?: true;
}

export function addLogDump(program: Command): void {
  const command = program
    .command("log-dump")
    .summary("show what is in the log of a volume")
    .description(
      "Prints the segments of the log at URL, and their records: which files and names changed, in which epoch, and " +
        "where their blocks are. The password of the volume is needed, and not the volume. What is printed is not encrypted.",
    )
    .argument("<url>", "what was given to sqlfuse remote add")
    .option(
      "--segment <n>",
      "only the segment of this number, with its records; without it the segments alone",
    )
    .option("--json", "a JSON value per line");
  addPasswordOptions(command).action(logDump);
  addHelp(command, {
    notes: ["The format is described at the top of src/log/format.ts."],
    examples: ["sqlfuse log-dump /mnt/nas/vault", "sqlfuse log-dump --segment 12 /mnt/nas/vault"],
  });
}

async function logDump(url: string, flags: LogDumpFlags): Promise<void> {
  const wanted = flags.segment === undefined ? undefined : Number(flags.segment);
  if (wanted !== undefined && !(Number.isSafeInteger(wanted) && wanted > 0))
    throw new ToolError(EXIT.usage, `--segment ${flags.segment}: not the number of a segment`);
  await requireEngine();
  const { openRemote } = await import("../src/remote/remote.ts");
  const { getKeyFiles } = await import("../src/log/keyfile.ts");
  const { readSegment, segmentNumbers } = await import("../src/log/chain.ts");
  const { readRecords } = await import("../src/log/follower.ts");
  const { keysOf, Sealer } = await import("../src/log/seal.ts");
  const { resolveUrl } = await import("./remote.ts");
  await openRemote(resolveUrl(url)); // or it is refused before anybody types a password
  const password = await readPassword(flags, { path: url, confirm: false, warn });
  await interruptible("stopped", async ({ breathe, signal }) => {
    const store = await openRemote(resolveUrl(url), accessOf(signal));
    // Of more than one log, while it is given a new secret.
    const found = await getKeyFiles(store, password).finally(() => password.fill(0));
    const keys = keysOf(found.map(({ log, secret }) => new Sealer(log, secret)));
    const [key] = found;
    for (const number of wanted === undefined ? await segmentNumbers(store, key.writer) : [wanted]) {
      const link = await readSegment(store, keys, key, number);
      if (link === undefined) throw new ToolError(EXIT.unusable, `${url}: there is no segment ${number}`);
      print(segmentFields(link), flags);
      if (wanted === undefined) continue;
      for (const ref of link.segment.records)
        for (const record of await readRecords(store, link.sealer, ref)) {
          print(recordFields(record), flags);
          await breathe();
        }
    }
  });
}

function print(fields: Record<string, string | number>, flags: LogDumpFlags): void {
  if (flags.json) say(JSON.stringify(fields));
  else {
    const [first, ...rest] = Object.entries(fields);
    say([first?.[1], ...rest.map(([name, value]) => `${name}=${value}`)].join(" "));
  }
}

function segmentFields({ segment, hash }: Link): Record<string, string | number> {
  return {
    type: "segment",
    number: segment.number,
    hash: hash.toString("hex"),
    base: segment.base,
    epoch: segment.epoch,
    created: timeText(segment.createdNs),
    records: segment.changes,
    blocks: segment.blocks,
    snapshots: segment.snapshots.map(({ name }) => JSON.stringify(name)).join(","),
  };
}

function recordFields(record: LogRecord): Record<string, string | number> {
  const fields: Record<string, string | number> = { type: record.type.replace(" ", "-") };
  for (const [name, value] of Object.entries(record) as [string, unknown][]) {
    if (name === "type") continue;
    if (value instanceof Uint8Array)
      fields[name] = isText(name) ? quoted(value) : Buffer.from(value).toString("hex");
    else if (Array.isArray(value)) fields[name] = value.map(elementText).join(",");
    else if (isId(value)) fields[name] = idText(value);
    else if (typeof value === "bigint") fields[name] = name.endsWith("Ns") ? timeText(value) : String(value);
    else if (typeof value === "number" && (name === "mode" || name === "kind"))
      fields[name] = `0${value.toString(8)}`;
    else fields[name] = typeof value === "number" ? value : String(value);
  }
  // The name of an object is its hash, that of everything else is text.
  if (record.type === "object") fields.name = Buffer.from(record.name).toString("hex");
  return fields;
}

function isText(name: string): boolean {
  return name === "name" || name === "target";
}

function isId(value: unknown): value is NodeId {
  return typeof value === "object" && value !== null && "serial" in value;
}

function idText({ origin, serial }: NodeId): string {
  return origin === 0n ? String(serial) : `${origin.toString(16)}:${serial}`;
}

/** A block's number, or an entry of a version. */
function elementText(element: unknown): string {
  if (typeof element === "number") return String(element);
  const { origin, counter } = element as { origin: bigint; counter: number };
  return `${origin === 0n ? "" : origin.toString(16)}:${counter}`;
}

function quoted(bytes: Uint8Array): string {
  const text = Buffer.from(bytes).toString();
  return Buffer.from(text).equals(bytes) ? JSON.stringify(text) : Buffer.from(bytes).toString("hex");
}

function timeText(ns: bigint): string {
  return new Date(Number(ns / 1_000_000n)).toISOString();
}
