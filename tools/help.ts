/**
 * What a command tells of itself beyond its options: one source for `--help` and for the man pages, which
 * tools/dev/man.ts writes.
 */
import { type Command, Help as HelpText } from "commander";
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
/** Where there is no terminal to ask, as in `--help | less`. */
const USUAL_COLUMNS = 80;
const REMARK_GAP = 2;

const helps = new WeakMap<Command, Help>();

export function addHelp(command: Command, help: Help): Command {
  helps.set(command, help);
  return command.addHelpText("after", () => `\n${blocksOf(help).join("\n\n")}`);
}

export function helpOf(command: Command): Help | undefined {
  return helps.get(command);
}

export function helpWidth(): number {
  return Math.min(process.stdout.columns ?? USUAL_COLUMNS, MOST_COLUMNS);
}

/** The lines of the examples, with the remarks in a column of their own. */
export function exampleLines({ examples }: Help): string[] {
  const remarked = examples.flatMap((example) => (typeof example === "string" ? [] : [example[0].length]));
  const column = Math.max(0, ...remarked) + REMARK_GAP;
  return examples.map((example) =>
    typeof example === "string" ? example : example[0].padEnd(column) + example[1],
  );
}

function blocksOf(help: Help): string[] {
  const { notes = [], tables = [], exits, examples } = help;
  const heading = examples.length === 1 ? "Example:" : "Examples:";
  return [
    ...notes.map((note) => new HelpText().boxWrap(note, helpWidth())),
    ...tables,
    ...(exits === undefined ? [] : [exitLines(exits).join("\n")]),
    [heading, ...exampleLines(help).map((line) => `  ${line}`)].join("\n"),
  ];
}

function exitLines({ title, rows }: ExitTable): string[] {
  const width = Math.max(...rows.map(([code]) => code.length));
  const indent = width + 4;
  const wrapped = (meaning: string): string =>
    new HelpText().boxWrap(meaning, helpWidth() - indent).replaceAll("\n", `\n${" ".repeat(indent)}`);
  return [`${title}:`, ...rows.map(([code, meaning]) => `  ${code.padEnd(width)}  ${wrapped(meaning)}`)];
}
