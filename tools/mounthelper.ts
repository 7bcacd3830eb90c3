#!/usr/bin/env node
/**
 * /sbin/mount.fuse.sqlfuse, for those who link it there: mount(8) calls it for the type fuse.sqlfuse, as
 * `FILE MOUNTPOINT [-sfnv] [-N namespace] [-o options] [-t type]`. (Without it mount(8) calls mount.fuse3, which runs
 * the `sqlfuse` that it finds in the system's directories.) This becomes `sqlfuse mount` with the same words.
 */
import { parseArgs } from "node:util";
import { EXIT } from "./exitcodes.ts";
import { warn } from "./output.ts";

const USAGE = "mount.fuse.sqlfuse FILE MOUNTPOINT [-o OPTIONS] is for mount(8); see: sqlfuse mount --help";

/** The words for `sqlfuse`; undefined: there is nothing to do. Throws what says why it makes no sense. */
function translate(args: readonly string[]): string[] | undefined {
  const { values, positionals } = parsed(args);
  if (positionals.length !== 2) throw new Error(USAGE);
  if (values.namespace !== undefined)
    throw new Error("-N: run mount in that namespace instead, as with: nsenter --mount=FILE mount ...");
  if (values.fake) return undefined;
  const options = (values.options ?? []).flatMap((list) => ["-o", list]);
  // mount(8) says nothing where all is well.
  const quiet = values.verbose ? [] : ["--quiet"];
  return ["mount", ...quiet, ...options, "--", ...positionals];
}

function parsed(args: readonly string[]): ReturnType<typeof parse> {
  try {
    return parse(args);
  } catch (error) {
    // "Unknown option '-x'. To specify a positional argument ...": the rest is for who writes such programs.
    const what = error instanceof Error ? error.message.split(". ")[0] : "";
    throw new Error(`${what}; ${USAGE}`);
  }
}

function parse(args: readonly string[]) {
  return parseArgs({
    args: [...args],
    allowPositionals: true,
    options: {
      fake: { type: "boolean", short: "f" },
      options: { type: "string", short: "o", multiple: true },
      namespace: { type: "string", short: "N" },
      type: { type: "string", short: "t" },
      verbose: { type: "boolean", short: "v" },
      // About /etc/mtab, and words that nobody knows: nothing to us.
      "no-mtab": { type: "boolean", short: "n" },
      sloppy: { type: "boolean", short: "s" },
    },
  });
}

try {
  const words = translate(process.argv.slice(2));
  if (words !== undefined) {
    process.argv.splice(2, Number.POSITIVE_INFINITY, ...words);
    await import("./cli.ts");
  }
} catch (error) {
  warn(error instanceof Error ? error.message : String(error));
  process.exitCode = EXIT.usage;
}
