/** What goes where: results to stdout, everything else as "sqlfuse: ..." lines to stderr. */
import type { Command } from "commander";

/** Of a command that tells what it did. Neither touches warnings and errors. */
export interface OutputFlags {
  readonly quiet?: true;
  readonly json?: true;
}

export function say(line: string): void {
  process.stdout.write(`${line}\n`);
}

export function warn(line: string): void {
  process.stderr.write(`sqlfuse: ${line}\n`);
}

export function addOutputOptions(command: Command): Command {
  return addJsonOption(addQuietOption(command));
}

export function addJsonOption(command: Command): Command {
  return command.option("--json", "tell what was done as one JSON value");
}

export function addQuietOption(command: Command): Command {
  return command.option("-q, --quiet", "print nothing but warnings and errors, and show no progress");
}

/** What was done: `line` for people, `data` for programs. */
export function tell({ quiet, json }: OutputFlags, line: string, data: object): void {
  if (json) sayJson(data);
  else if (!quiet) say(line);
}

export function sayJson(value: object): void {
  say(JSON.stringify(value, undefined, 2));
}

/** A word for a shell command that the user may copy. */
export function quote(word: string): string {
  return /^[\w@%+=:,./~-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}

/** "no such file or directory", of what Node makes "ENOENT: no such file or directory, open 'f'". */
export function systemText(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  return /^E[A-Z0-9]+: (.+?), \w+(?: '.*')?$/s.exec(text)?.[1] ?? text;
}

/** Lines whose cells stand below each other. */
export function align(lines: readonly (readonly string[])[]): string[] {
  const widths = (lines[0] ?? []).map((_, column) =>
    Math.max(...lines.map((line) => line[column]?.length ?? 0)),
  );
  return lines.map((line) =>
    line
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join("  ")
      .trimEnd(),
  );
}

/**
 * The same with a heading, for a terminal that may be too narrow for it: there each line is a paragraph with a cell to
 * a line, below each other.
 */
export function alignOrStack(
  lines: readonly (readonly string[])[],
  columns = process.stdout.columns,
): string[] {
  const table = align(lines);
  const [heading = [], ...rows] = lines;
  if (columns === undefined || table.every((line) => line.length <= columns)) return table;
  return rows.flatMap((row, i) => [
    ...(i === 0 ? [] : [""]),
    ...align(row.map((cell, column) => [heading[column] ?? "", cell])),
  ]);
}

/** As ls -h has it, but with the unit spelled out: 512 B, 1.5 KiB, 20.0 MiB. */
export function formatBytes(count: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let value = count;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit]}`;
}

/** The largest unit that it has one of, rounded down: 42s, 5m, 3h. */
export function formatDuration(ms: number): string {
  const seconds = Math.floor(ms / 1000);
  if (seconds < 60) return `${seconds}s`;
  return seconds < 3600 ? `${Math.floor(seconds / 60)}m` : `${Math.floor(seconds / 3600)}h`;
}

export function localTime(date: Date): string {
  const two = (value: number): string => String(value).padStart(2, "0");
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return `${day} ${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

let brokenPipesEnd = true;

/**
 * `sqlfuse status | head` ends the reader first, which is no error of ours. `lost` hears why else stdout could not be
 * written, the first time; the work goes on. Where stderr is lost there is nobody to tell.
 */
export function watchPipes(lost: (error: NodeJS.ErrnoException) => void): void {
  for (const stream of [process.stdout, process.stderr]) {
    let told = false;
    stream.on("error", (error: NodeJS.ErrnoException) => {
      if (error.code === "EPIPE" && brokenPipesEnd) process.exit(0);
      if (error.code === "EPIPE" || stream === process.stderr || told) return;
      told = true;
      lost(error);
    });
  }
}

/** A mount does not end because nobody reads its messages. */
export function ignoreBrokenPipes(): void {
  brokenPipesEnd = false;
}
