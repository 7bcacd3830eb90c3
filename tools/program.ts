/** Which verbs there are. The definitions that commander gets here are also what completions and man pages are made of. */
import { isUtf8 } from "node:buffer";
import { existsSync, readFileSync } from "node:fs";
import { Command, CommanderError } from "commander";
import { EXIT, EXIT_TABLE, FSCK_EXIT, ToolError } from "./exitcodes.ts";
import { addHelp, helpWidth } from "./help.ts";

/** The bytes that this process was started with, on Linux. */
const COMMAND_LINE = "/proc/self/cmdline";

/**
 * What adds each command, in the order of the help. A file is loaded when it is asked for: to load all of them takes a
 * fifth of the time of a short command.
 */
const COMMANDS: Readonly<Record<string, () => Promise<(program: Command) => void>>> = {
  create: async () => (await import("./create.ts")).addCreate,
  mount: async () => (await import("./mount.ts")).addMount,
  unmount: async () => (await import("./unmount.ts")).addUnmount,
  sync: async () => (await import("./sync.ts")).addSync,
  status: async () => (await import("./status.ts")).addStatus,
  info: async () => (await import("./info.ts")).addInfo,
  snapshot: async () => (await import("./snapshot.ts")).addSnapshot,
  diff: async () => (await import("./diff.ts")).addDiff,
  log: async () => (await import("./log.ts")).addLog,
  restore: async () => (await import("./restore.ts")).addRestore,
  undelete: async () => (await import("./restore.ts")).addUndelete,
  remote: async () => (await import("./remote.ts")).addRemote,
  push: async () => (await import("./push.ts")).addPush,
  clone: async () => (await import("./clone.ts")).addClone,
  pull: async () => (await import("./pull.ts")).addPull,
  pin: async () => (await import("./pin.ts")).addPin,
  unpin: async () => (await import("./pin.ts")).addUnpin,
  "log-dump": async () => (await import("./logdump.ts")).addLogDump,
  fsck: async () => (await import("./fsck.ts")).addFsck,
  rekey: async () => (await import("./rekey.ts")).addRekey,
  vacuum: async () => (await import("./vacuum.ts")).addVacuum,
  dump: async () => (await import("./dump.ts")).addDump,
  load: async () => (await import("./load.ts")).addLoad,
  ls: async () => (await import("./ls.ts")).addLs,
  cat: async () => (await import("./cat.ts")).addCat,
  get: async () => (await import("./get.ts")).addGet,
  put: async () => (await import("./put.ts")).addPut,
  rm: async () => (await import("./rm.ts")).addRm,
  mkdir: async () => (await import("./mkdir.ts")).addMkdir,
  completion: async () => (await import("./completion.ts")).addCompletion,
};

/**
 * The program with all commands; or with `verb` alone, if that is one, which is enough to run it. What is wrong with a
 * command line is thrown by its `parseAsync` as a ToolError; nothing is printed, no process ended.
 */
export async function buildProgram(verb?: string): Promise<Command> {
  const program = new Command("sqlfuse");
  program
    .description("An encrypted POSIX filesystem in one SQLCipher database file.")
    .usage("COMMAND ... | FILE [MOUNTPOINT] [-o OPTIONS]")
    .option("-V, --version", "print the versions of sqlfuse and of what it runs on; with --json as JSON")
    .helpCommand("help [command]", "show the help of a command")
    // With their arguments as well the list would not fit on a terminal.
    .configureHelp({ subcommandTerm: (command) => [command.name(), ...command.aliases()].join(", ") });
  addHelp(program, {
    notes: [
      "`sqlfuse COMMAND --help` has the options of each.",
      "Passwords are asked for, or come from --password-file, --password-command, --password-fd, --key-file, or " +
        "SQLFUSE_PASSWORD in the environment.",
    ],
    exits: EXIT_TABLE,
    examples: [
      "sqlfuse create vault.sqlite",
      "sqlfuse mount vault.sqlite ~/vault",
      "sqlfuse unmount ~/vault",
    ],
  });
  // Completions are of all commands.
  const isEnough = verb !== undefined && verb !== "completion" && Object.hasOwn(COMMANDS, verb);
  const wanted = Object.entries(COMMANDS).filter(([name]) => !isEnough || name === verb);
  for (const add of await Promise.all(wanted.map(([, load]) => load()))) add(program);
  for (const command of [program, ...program.commands]) {
    command.helpOption("-h, --help", "show this");
    // Commander would print its errors and exit by itself.
    command.configureOutput({
      outputError: () => {},
      getOutHelpWidth: helpWidth,
      getErrHelpWidth: helpWidth,
    });
    command.exitOverride((error) => {
      throw error.exitCode === 0 ? error : usageError(error, command);
    });
  }
  return program;
}

/**
 * A word that is no command is the name of a file: where there is none, it was a slip of the fingers perhaps.
 * @throws ToolError
 */
export function refuseSlip(program: Command, [first = "", second]: readonly string[]): void {
  const names = [...program.commands.flatMap((command) => [command.name(), ...command.aliases()]), "help"];
  if (first === "help" && second !== undefined && !names.includes(second)) {
    const what = ["no such command", suggest(names, second)].join(" ").trim();
    throw new ToolError(EXIT.usage, `${second}: ${what}; see: sqlfuse --help`);
  }
  if (/^-|[./]/.test(first) || names.includes(first) || existsSync(first)) return;
  const meant = suggest(names, first);
  if (meant === undefined) return;
  throw new ToolError(EXIT.unusable, `${first}: no such file, and no command ${meant}; see: sqlfuse --help`);
}

/**
 * A word that is not UTF-8 would be taken for another file than was meant: Node has only what it could decode.
 * @throws ToolError
 */
export function refuseMangled(argv: readonly string[]): void {
  const mangled = argv.find((word) => word.includes("\uFFFD"));
  if (mangled === undefined || !existsSync(COMMAND_LINE) || isUtf8(readFileSync(COMMAND_LINE))) return;
  throw new ToolError(
    argv[0] === "fsck" ? FSCK_EXIT.usage : EXIT.usage,
    `${mangled}: a name that is not UTF-8 cannot be given here; name the directory that it is in, or a link to it`,
  );
}

/** "(Did you mean mount?)": what commander says only where there is no default command. */
function suggest(names: readonly string[], word: string): string | undefined {
  const probe = new Command()
    .helpCommand(false)
    .exitOverride()
    .configureOutput({ outputError: () => {} });
  for (const name of names) probe.command(name);
  try {
    probe.parse([word], { from: "user" });
  } catch (error) {
    return error instanceof CommanderError ? /\(Did you mean .*\)/.exec(error.message)?.[0] : undefined;
  }
  return undefined;
}

function usageError(error: CommanderError, command: Command): ToolError {
  const what = error.message
    .replace(/^error: /, "")
    .replace(/\.?\s*\n\s*|\.$/g, " ")
    .trim();
  const where = command.parent === null ? "sqlfuse" : `sqlfuse ${command.name()}`;
  const code = command.name() === "fsck" ? FSCK_EXIT.usage : EXIT.usage;
  return new ToolError(code, `${what}; see: ${where} --help`);
}
