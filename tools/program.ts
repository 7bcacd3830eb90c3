/** Which verbs there are. The definitions that commander gets here are also what completions and man pages are made of. */
import { existsSync } from "node:fs";
import { Command, CommanderError } from "commander";
import { addCat } from "./cat.ts";
import { addClone } from "./clone.ts";
import { addCompletion } from "./completion.ts";
import { addCreate } from "./create.ts";
import { addDump } from "./dump.ts";
import { EXIT, EXIT_TABLE, FSCK_EXIT, ToolError } from "./exitcodes.ts";
import { addFsck } from "./fsck.ts";
import { addGet } from "./get.ts";
import { addHelp, helpWidth } from "./help.ts";
import { addInfo } from "./info.ts";
import { addLoad } from "./load.ts";
import { addLogDump } from "./logdump.ts";
import { addLs } from "./ls.ts";
import { addMkdir } from "./mkdir.ts";
import { addMount } from "./mount.ts";
import { addPull } from "./pull.ts";
import { addPush } from "./push.ts";
import { addPut } from "./put.ts";
import { addRekey } from "./rekey.ts";
import { addRemote } from "./remote.ts";
import { addRm } from "./rm.ts";
import { addSnapshot } from "./snapshot.ts";
import { addStatus } from "./status.ts";
import { addSync } from "./sync.ts";
import { addUnmount } from "./unmount.ts";
import { addVacuum } from "./vacuum.ts";

/** What is wrong with a command line is thrown by its `parseAsync` as a ToolError; nothing is printed, no process ended. */
export function buildProgram(): Command {
  const program = new Command("sqlfuse");
  program
    .description("An encrypted POSIX filesystem in one SQLCipher database file.")
    .usage("COMMAND ... | FILE [MOUNTPOINT] [-o OPTIONS]")
    .option("-V, --version", "print the versions of sqlfuse and of what it runs on; with --json as JSON")
    .helpCommand("help [command]", "show the help of a command");
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
  addCreate(program);
  addMount(program);
  addUnmount(program);
  addSync(program);
  addStatus(program);
  addInfo(program);
  addSnapshot(program);
  addRemote(program);
  addPush(program);
  addClone(program);
  addPull(program);
  addLogDump(program);
  addFsck(program);
  addRekey(program);
  addVacuum(program);
  addDump(program);
  addLoad(program);
  addLs(program);
  addCat(program);
  addGet(program);
  addPut(program);
  addRm(program);
  addMkdir(program);
  addCompletion(program);
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
