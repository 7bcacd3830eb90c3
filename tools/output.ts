/** What goes where: results to stdout, everything else as "sqlfuse: ..." lines to stderr. */

export function say(line: string): void {
  process.stdout.write(`${line}\n`);
}

export function warn(line: string): void {
  process.stderr.write(`sqlfuse: ${line}\n`);
}

/** A word for a shell command that the user may copy. */
export function quote(word: string): string {
  return /^[\w@%+=:,./~-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}

let brokenPipesEnd = true;

/** `sqlfuse status | head` ends the reader first, which is no error of ours. */
export function watchPipes(): void {
  for (const stream of [process.stdout, process.stderr]) {
    stream.on("error", (error: NodeJS.ErrnoException) => {
      if (error.code !== "EPIPE") throw error;
      if (brokenPipesEnd) process.exit(0);
    });
  }
}

/** A mount does not end because nobody reads its messages. */
export function ignoreBrokenPipes(): void {
  brokenPipesEnd = false;
}
