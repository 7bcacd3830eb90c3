/** What a command could not do and went on without: told as it comes, and in the exit code at the end. */
import { showBytes } from "../src/archive/escape.ts";
import { EXIT } from "./exitcodes.ts";
import { warn } from "./output.ts";
import type { Progress } from "./progress.ts";

export class Skips {
  readonly #progress: Progress | undefined;
  #skipped = 0;
  #done = 0;

  /** `progress` is taken off the terminal before a line is written. */
  constructor(progress?: Progress) {
    this.#progress = progress;
  }

  /** `path` is latin1. */
  skip(path: string, why: string): void {
    this.#skipped++;
    this.#progress?.end();
    warn(`${show(path)}: ${why}`);
  }

  done(): void {
    this.#done++;
  }

  get count(): number {
    return this.#skipped;
  }

  get doneCount(): number {
    return this.#done;
  }

  /** Nothing done at all is a failure; something done without the rest has a code of its own. */
  setExitCode(): void {
    if (this.#skipped > 0) process.exitCode = this.#done > 0 ? EXIT.skipped : EXIT.other;
  }
}

/** A path of latin1 for people. */
export function show(path: string): string {
  return showBytes(Buffer.from(path === "" ? "/" : path, "latin1"));
}
