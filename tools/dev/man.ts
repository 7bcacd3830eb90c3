/**
 * Part of `npm run build`: writes the man pages to dist/man, one for sqlfuse and one for each command. All that they
 * say comes from the definitions that `--help` prints too. Pages that were written by hand are copied.
 */
import { copyFileSync, existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Command } from "commander";
import { EXIT_TABLE, type ExitTable } from "../exitcodes.ts";
import { exampleLines, type Help, helpOf } from "../help.ts";
import { buildProgram } from "../program.ts";
import { packageVersion } from "../version.ts";

const root = fileURLToPath(new URL("../../..", import.meta.url));
const target = join(root, "dist/man");
const byHand = join(root, "tools/man");

const ENVIRONMENT = [
  ["SQLFUSE_PASSWORD", "the password, where no option gives it; its newlines count"],
  ["NO_COLOR", "if it is not empty, the prompt has no colours"],
] as const;
const FILES = [
  ["FILE-wal, FILE-shm", "beside FILE while it is mounted; the newest changes are in there"],
  ["~/.local/state/sqlfuse/sqlfuse.log", "messages of mounts in the background"],
  ["/var/log/sqlfuse.log", "those of root's"],
] as const;

function mainPage(program: Command): string[] {
  const help = requireHelp(program);
  return [
    ...title("sqlfuse", program.description().replace(/^An |\.$/g, "")),
    section("SYNOPSIS"),
    `${bold("sqlfuse")} ${italic("COMMAND")} ...`,
    ".br",
    `${bold("sqlfuse")} ${italic("FILE")} [${italic("MOUNTPOINT")}] [${bold("-o")} ${italic("OPTIONS")}]`,
    section("DESCRIPTION"),
    plain(program.description()),
    ...paragraphs(help),
    section("COMMANDS"),
    ...program.commands.flatMap((command) =>
      entry(`${bold(`sqlfuse-${command.name()}`)}(1)`, command.summary()),
    ),
    ...options(program),
    section("ENVIRONMENT"),
    ...ENVIRONMENT.flatMap(([name, meaning]) => entry(bold(name), meaning)),
    section("FILES"),
    ...FILES.flatMap(([name, meaning]) => entry(italic(name), meaning)),
    ...exitStatus(EXIT_TABLE),
    ...examples(help),
    ...seeAlso(program.commands.map((command) => `sqlfuse-${command.name()}`)),
  ];
}

function commandPage(command: Command): string[] {
  const help = requireHelp(command);
  const names = [command.name(), ...command.aliases()];
  const usage = usageOf(command);
  return [
    ...title(`sqlfuse-${command.name()}`, command.summary()),
    section("SYNOPSIS"),
    ...names.flatMap((name, i) => [...(i > 0 ? [".br"] : []), `${bold(`sqlfuse ${name}`)} ${usage}`]),
    section("DESCRIPTION"),
    plain(command.description()),
    ...paragraphs(help),
    ...options(command),
    ...(help.tables ?? []).flatMap(table),
    ...exitStatus(help.exits ?? EXIT_TABLE),
    ...examples(help),
    ...seeAlso(["sqlfuse"]),
  ];
}

function requireHelp(command: Command): Help {
  const help = helpOf(command);
  if (help === undefined) throw new Error(`${command.name()}: has no examples`);
  return help;
}

/** "[options] <file> [path...]" as a man page writes it. */
function usageOf(command: Command): string {
  const words = command.usage().split(" ");
  return words
    .map((word) => {
      const isOptional = word.startsWith("[");
      const name = word.replace(/[<>[\].]/g, "").toUpperCase();
      const more = word.includes("...") ? "..." : "";
      const shown = `${name.split("|").map(italic).join("|")}${more}`;
      return isOptional ? `[${shown}]` : shown;
    })
    .join(" ");
}

/** Arguments first, then options: `-o, --output FILE`. */
function options(command: Command): string[] {
  const helper = command.createHelp();
  return [
    section("OPTIONS"),
    ...helper
      .visibleArguments(command)
      .flatMap((argument) =>
        entry(italic(argument.name().toUpperCase()), helper.argumentDescription(argument)),
      ),
    ...helper.visibleOptions(command).flatMap((option) => {
      const term = option.flags.replace(/ <.*>/, "").split(", ").map(bold).join(", ");
      const value = /<(.*)>/.exec(option.flags)?.[1];
      return entry(
        value === undefined ? term : `${term} ${italic(value.toUpperCase())}`,
        helper.optionDescription(option),
      );
    }),
  ];
}

function paragraphs({ notes = [] }: Help): string[] {
  return notes.flatMap((note) => [".PP", plain(note)]);
}

/** The first line is its heading; of the others each has a term and its meaning, is more of that, or a remark. */
function table(text: string): string[] {
  const [heading = "", ...rows] = text.split("\n");
  const isRemark = (row: string | undefined): boolean => /^ {2}\S+( \S+)*$/.test(row ?? "");
  const lines = rows.flatMap((row, i) => {
    const [, term, meaning] = /^ {2}(\S.*?) {2,}(\S.*)$/.exec(row) ?? [];
    if (term !== undefined && meaning !== undefined) return entry(bold(term), meaning);
    return [...(isRemark(row) && !isRemark(rows[i - 1]) ? [".PP"] : []), plain(row.trim())];
  });
  return [`.SS "${plain(heading.replace(/:$/, ""))}"`, ...lines];
}

function exitStatus({ rows }: ExitTable): string[] {
  return [section("EXIT STATUS"), ...rows.flatMap(([code, meaning]) => entry(bold(code), meaning))];
}

function examples(help: Help): string[] {
  return [section("EXAMPLES"), ".nf", ...exampleLines(help).map(plain), ".fi"];
}

function seeAlso(names: readonly string[]): string[] {
  const last = names.length - 1;
  return [section("SEE ALSO"), ...names.map((name, i) => `${bold(name)}(1)${i < last ? "," : ""}`)];
}

function title(name: string, summary: string): string[] {
  const heading = `.TH "${plain(name.toUpperCase())}" "1" "" "sqlfuse ${packageVersion()}" "User Commands"`;
  return [heading, section("NAME"), `${plain(name)} \\- ${plain(summary)}`];
}

function section(name: string): string {
  return `.SH "${name}"`;
}

/** `term` is roff already. */
function entry(term: string, meaning: string): string[] {
  return [".TP", term, plain(meaning)];
}

function bold(text: string): string {
  return `\\fB${plain(text)}\\fR`;
}

function italic(text: string): string {
  return `\\fI${plain(text)}\\fR`;
}

const NAMED_CHARACTERS: Record<string, string> = {
  "\\": "\\e",
  "-": "\\-",
  "'": "\\(aq",
  "`": "\\(ga",
  "^": "\\(ha",
  "~": "\\(ti",
};

/** So that no character of it is a command of roff, and each can be copied into a shell as it is. */
function plain(text: string): string {
  return text.replace(/[\\'`^~-]/g, (character) => NAMED_CHARACTERS[character] ?? "").replace(/^\./, "\\&.");
}

rmSync(target, { recursive: true, force: true });
mkdirSync(target, { recursive: true });
const program = await buildProgram();
const pages = [
  ["sqlfuse.1", mainPage(program)] as const,
  ...program.commands.map((command) => [`sqlfuse-${command.name()}.1`, commandPage(command)] as const),
];
for (const [name, lines] of pages) writeFileSync(join(target, name), `${lines.join("\n")}\n`);
if (existsSync(byHand)) {
  for (const name of readdirSync(byHand)) copyFileSync(join(byHand, name), join(target, name));
}
