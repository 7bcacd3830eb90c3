/**
 * Runs long work that comes in steps, so that signals are heard between two of them. A signal stops the work, which
 * leaves everything as it was, and the command ends as one that was interrupted.
 */
import { constants } from "node:os";
import { setImmediate as turn } from "node:timers/promises";
import { ToolError } from "./exitcodes.ts";
import { ignoreBrokenPipes } from "./output.ts";

const NAMES = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/** The first signal that came. A command that has several pieces of work keeps one, for what comes between them. */
export class Signals {
  #caught: (typeof NAMES)[number] | undefined;
  readonly #note = (signal: NodeJS.Signals): void => {
    this.#caught ??= NAMES.find((known) => known === signal);
  };

  constructor() {
    for (const name of NAMES) process.on(name, this.#note);
  }

  /** `undone` says what it means to be stopped now. @throws ToolError 128+N where signal N came */
  async stopHere(undone: string): Promise<void> {
    await turn();
    const signal = this.#caught;
    if (signal !== undefined) throw new ToolError(128 + constants.signals[signal], `${signal}: ${undone}`);
  }

  /** From now on signals end the process. */
  end(): void {
    for (const name of NAMES) process.removeListener(name, this.#note);
  }
}

/**
 * Shows each step and gives what the work gives. The work must clean up when it is stopped by `return`.
 * @throws ToolError 128+N where signal N came; `undone` says what that means
 */
export async function runSteps<Step, Result>(
  work: Generator<Step, Result>,
  show: (step: Step) => void,
  undone: string,
  given?: Signals,
): Promise<Result> {
  ignoreBrokenPipes();
  const signals = given ?? new Signals();
  try {
    for (;;) {
      const { done, value } = work.next();
      if (done) return value;
      show(value);
      await signals.stopHere(undone);
    }
  } finally {
    work.return(undefined as never); // nothing where it is done
    if (given === undefined) signals.end();
  }
}
