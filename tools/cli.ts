#!/usr/bin/env node
/** The command line: whatever goes wrong ends as one line and an exit code. */
import { CommanderError } from "commander";
import { describeError, EXIT, FSCK_EXIT } from "./exitcodes.ts";
import { tell, warn, watchPipes } from "./output.ts";
import { buildProgram, refuseMangled, refuseSlip } from "./program.ts";
import { versionLine, versions } from "./version.ts";

const OLDEST_NODE = [20, 19] as const;

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
  const first = argv[0];
  const program = await buildProgram(first);
  if (first === undefined) {
    process.stderr.write(program.helpInformation());
    return EXIT.usage;
  }
  if (first === "--version" || first === "-V") {
    const known = await versions();
    tell({ ...(argv[1] === "--json" ? { json: true } : {}) }, versionLine(known), known);
    return EXIT.ok;
  }
  try {
    refuseMangled(argv);
    refuseSlip(program, argv);
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
