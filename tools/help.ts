/**
 * What a command tells of itself beyond its options: one source for `--help` and for the man pages, which
 * tools/dev/man.ts writes.
 */
import type { Command } from "commander";
import type { ExitTable } from "./exitcodes.ts";

export interface Help {
  /** Paragraphs, each on one line. */
  readonly notes?: readonly string[];
  /** A heading that ends with a colon, and below it indented lines that are shown as they stand. */
  readonly tables?: readonly string[];
  /** Where `--help` lists the exit codes. The man pages always do. */
  readonly exits?: ExitTable;
  /** Whole command lines, and what there is to say of them. */
  readonly examples: readonly (string | readonly [line: string, remark: string])[];
}

const MOST_COLUMNS = 100;
const REMARK_GAP = 5;

const helps = new WeakMap<Command, Help>();

export function addHelp(command: Command, help: Help): Command {
  helps.set(command, help);
  return command.addHelpText("after", () => `\n${blocksOf(command, help).join("\n\n")}`);
}

export function helpOf(command: Command): Help | undefined {
  return helps.get(command);
}

export function helpWidth(): number {
  return Math.min(process.stdout.columns ?? MOST_COLUMNS, MOST_COLUMNS);
}

/** The lines of the examples, with the remarks in a column of their own. */
export function exampleLines({ examples }: Help): string[] {
  const remarked = examples.flatMap((example) => (typeof example === "string" ? [] : [example[0].length]));
  const column = Math.max(0, ...remarked) + REMARK_GAP;
  return examples.map((example) =>
    typeof example === "string" ? example : example[0].padEnd(column) + example[1],
  );
}

function blocksOf(command: Command, help: Help): string[] {
  const { notes = [], tables = [], exits, examples } = help;
  const heading = examples.length === 1 ? "Example:" : "Examples:";
  return [
    ...notes.map((note) => command.createHelp().boxWrap(note, helpWidth())),
    ...tables,
    ...(exits === undefined ? [] : [exitLines(exits).join("\n")]),
    [heading, ...exampleLines(help).map((line) => `  ${line}`)].join("\n"),
  ];
}

function exitLines({ title, rows }: ExitTable): string[] {
  const width = Math.max(...rows.map(([code]) => code.length));
  return [`${title}:`, ...rows.map(([code, meaning]) => `  ${code.padEnd(width)}  ${meaning}`)];
}
