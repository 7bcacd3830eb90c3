/** What a command could not do and went on without: told as it comes, and in the exit code at the end. */
import { showBytes } from "../src/archive/escape.ts";
import { EXIT } from "./exitcodes.ts";
import { warn } from "./output.ts";
import type { Progress } from "./progress.ts";

/** Something that was left out, as JSON has it: `path`, `why`, and `pathBase64` where the path is not UTF-8. */
export type Skipped = Readonly<Record<string, string>>;

export class Skips {
  readonly #progress: Progress | undefined;
  readonly #list: Skipped[] = [];
  #done = 0;

  /** `progress` is taken off the terminal before a line is written. */
  constructor(progress?: Progress) {
    this.#progress = progress;
  }

  /** `path` is latin1. */
  skip(path: string, why: string): void {
    this.#progress?.end();
    warn(`${show(path)}: ${why}`);
    this.#list.push({ ...textOf("path", path === "" ? "/" : path), why });
  }

  get list(): readonly Skipped[] {
    return this.#list;
  }

  done(): void {
    this.#done++;
  }

  get doneCount(): number {
    return this.#done;
  }

  /** Nothing done at all is a failure; something done without the rest has a code of its own. */
  setExitCode(): void {
    if (this.#list.length > 0) process.exitCode = this.#done > 0 ? EXIT.skipped : EXIT.other;
  }
}

/** A path of latin1 for people. */
export function show(path: string): string {
  return showBytes(Buffer.from(path === "" ? "/" : path, "latin1"));
}

/** JSON is Unicode: of bytes that are not, the exact ones are given beside. `latin` is latin1. */
export function textOf(key: string, latin: string): Record<string, string> {
  const bytes = Buffer.from(latin, "latin1");
  const text = bytes.toString("utf8");
  return bytes.equals(Buffer.from(text))
    ? { [key]: text }
    : { [key]: text, [`${key}Base64`]: bytes.toString("base64") };
}
