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
