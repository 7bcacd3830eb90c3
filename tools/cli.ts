#!/usr/bin/env node
/** The command line: which verbs there are, and that whatever goes wrong ends as one line and an exit code. */
import { Command, CommanderError } from "commander";
import { addCat } from "./cat.ts";
import { addCreate } from "./create.ts";
import { addDump } from "./dump.ts";
import { describeError, EXIT, exitCodeHelp, FSCK_EXIT, ToolError } from "./exitcodes.ts";
import { addFsck } from "./fsck.ts";
import { addGet } from "./get.ts";
import { addInfo } from "./info.ts";
import { addLoad } from "./load.ts";
import { addLs } from "./ls.ts";
import { addMkdir } from "./mkdir.ts";
import { addMount } from "./mount.ts";
import { say, warn, watchPipes } from "./output.ts";
import { addPut } from "./put.ts";
import { addRekey } from "./rekey.ts";
import { addRm } from "./rm.ts";
import { addStatus } from "./status.ts";
import { addSync } from "./sync.ts";
import { addUnmount } from "./unmount.ts";
import { addVacuum } from "./vacuum.ts";
import { versionLine } from "./version.ts";

const OLDEST_NODE = [20, 19] as const;

function build(): Command {
  const program = new Command("sqlfuse");
  program
    .description("An encrypted POSIX filesystem in one SQLCipher database file.")
    .usage("COMMAND ... | FILE [MOUNTPOINT] [-o OPTIONS]")
    .option("-V, --version", "print the versions of sqlfuse and of what it runs on")
    .helpOption("-h, --help", "show this, or with a command its options")
    .helpCommand("help [command]", "show the help of a command")
    .addHelpText(
      "after",
      `
\`sqlfuse COMMAND --help\` has the options of each.

Examples:
  sqlfuse create vault.sqlite
  sqlfuse mount vault.sqlite ~/vault
  sqlfuse unmount ~/vault

Passwords are asked for, or come from --password-file, --password-command, --password-fd,
--key-file, or SQLFUSE_PASSWORD in the environment.

${exitCodeHelp()}`,
    );
  addCreate(program);
  addMount(program);
  addUnmount(program);
  addSync(program);
  addStatus(program);
  addInfo(program);
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
  for (const command of [program, ...program.commands]) {
    command.helpOption("-h, --help", "show this");
    // Commander would print its errors and exit by itself; ours go through `run`.
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

function helpWidth(): number {
  return Math.min(process.stdout.columns ?? 100, 100);
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

/** Results that could not be written are a failure, though the work may be done. */
function outputLost(error: NodeJS.ErrnoException): void {
  const isFull = error.code === "ENOSPC" || error.code === "EDQUOT";
  const isFsck = process.argv[2] === "fsck";
  warn(`stdout: ${isFull ? "no space left on its disk" : `cannot be written (${error.code})`}`);
  process.once("exit", (code) => {
    if (code === 0) process.exitCode = isFsck ? FSCK_EXIT.failed : isFull ? EXIT.noSpace : EXIT.unusable;
  });
}

async function run(argv: readonly string[]): Promise<number> {
  const program = build();
  const first = argv[0];
  if (first === undefined) {
    process.stderr.write(program.helpInformation());
    return EXIT.usage;
  }
  if (first === "--version" || first === "-V") {
    say(await versionLine());
    return EXIT.ok;
  }
  try {
    await program.parseAsync([...argv], { from: "user" });
    return typeof process.exitCode === "number" ? process.exitCode : EXIT.ok;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode; // --help: 0
    const { message, code } = describeError(error);
    if (message !== "") warn(message);
    return code;
  }
}

const [major = 0, minor = 0] = process.versions.node.split(".").map(Number);
if (major < OLDEST_NODE[0] || (major === OLDEST_NODE[0] && minor < OLDEST_NODE[1])) {
  warn(`Node ${process.versions.node} is too old: sqlfuse needs ${OLDEST_NODE.join(".")} or newer`);
  process.exit(EXIT.usage);
}
watchPipes(outputLost);
process.exitCode = await run(process.argv.slice(2));
