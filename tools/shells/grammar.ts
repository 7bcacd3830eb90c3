/** The command line as the completion scripts need it, made of commander's definitions. */
import type { Command, Option } from "commander";

/**
 * What a word can be. `mounted`: the mount point or the file of a volume; `mountoptions`: words with commas
 * between them. A list: one of these words.
 */
export type Kind = "files" | "directories" | "mounted" | "mountoptions" | "nothing" | readonly string[];

export interface Flag {
  /** "-q" and "--quiet", or one of them. */
  readonly names: readonly string[];
  readonly help: string;
  /** What it takes; undefined for nothing. */
  readonly value: Kind | undefined;
}

export interface Verb {
  readonly name: string;
  readonly aliases: readonly string[];
  readonly summary: string;
  readonly flags: readonly Flag[];
  /** Of its arguments, in order. */
  readonly args: readonly Kind[];
  /** Whether the last of them may come again. */
  readonly repeats: boolean;
}

export interface Grammar {
  readonly verbs: readonly Verb[];
  /** Before any verb. */
  readonly flags: readonly Flag[];
}

/** The verb of a command line that names none. */
export const DEFAULT_VERB = "mount";

const KIND_OF_NAME: Record<string, Kind> = {
  file: "files",
  newfile: "files",
  source: "files",
  dump: "files",
  dest: "directories",
  list: "mountoptions",
  mountpoint: "directories",
  "mountpoint|file": "mounted",
  "file|mountpoint": "mounted",
  "file|path": "files",
};

export function grammarOf(program: Command): Grammar {
  const commands = program.createHelp().visibleCommands(program);
  const names = commands.map((command) => command.name());
  return { verbs: commands.map((command) => verbOf(command, names)), flags: flagsOf(program) };
}

function verbOf(command: Command, verbs: readonly string[]): Verb {
  const choicesOf = (word: string) =>
    command.registeredArguments.find((one) => one.name() === word)?.argChoices;
  // The usage says more than the definition: where many arguments may come, what the last of them is.
  const words = command.usage().match(/(?<=[<[])[^\]>]+/g) ?? [];
  const args = words.filter((word) => word !== "options");
  const kinds = args.map((word): Kind => {
    if (word === "command") return verbs;
    return choicesOf(word) ?? KIND_OF_NAME[word.replace("...", "")] ?? "nothing";
  });
  const [kind, last] = kinds.slice(-2);
  // Of SOURCE... and PATH, or PATH... and DEST, one is on this machine.
  const isAmbiguous = args.at(-2)?.endsWith("...") === true && kind !== undefined && last !== undefined;
  return {
    name: command.name(),
    aliases: command.aliases(),
    summary: command.summary() || command.description(),
    flags: flagsOf(command),
    args: isAmbiguous ? [...kinds.slice(0, -1), kind === "nothing" ? last : kind] : kinds,
    repeats: isAmbiguous || args.at(-1)?.endsWith("...") === true,
  };
}

function flagsOf(command: Command): Flag[] {
  return command
    .createHelp()
    .visibleOptions(command)
    .map((option) => ({
      names: [option.short, option.long].filter((name) => name !== undefined),
      help: option.description,
      value: option.required ? valueKind(option) : undefined,
    }));
}

function valueKind(option: Option): Kind {
  const name = /<(.*)>/.exec(option.flags)?.[1] ?? "";
  return option.argChoices ?? KIND_OF_NAME[name] ?? "nothing";
}
