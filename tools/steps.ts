/**
 * Runs long work that comes in steps, so that signals are heard between two of them. A signal stops the work, which
 * leaves everything as it was, and the command ends as one that was interrupted.
 */
import { constants } from "node:os";
import { setImmediate as turn } from "node:timers/promises";
import { ToolError } from "./exitcodes.ts";
import { ignoreBrokenPipes } from "./output.ts";

const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/**
 * Shows each step and gives what the work gives. The work must clean up when it is stopped by `return`.
 * @throws ToolError 128+N where signal N came; `undone` says what that means
 */
export async function runSteps<Step, Result>(
  work: Generator<Step, Result>,
  show: (step: Step) => void,
  undone: string,
): Promise<Result> {
  ignoreBrokenPipes();
  let caught: (typeof SIGNALS)[number] | undefined;
  const note = (signal: NodeJS.Signals): void => {
    caught ??= SIGNALS.find((known) => known === signal);
  };
  for (const signal of SIGNALS) process.on(signal, note);
  try {
    for (;;) {
      const { done, value } = work.next();
      if (done) return value;
      show(value);
      await turn();
      if (caught === undefined) continue;
      work.return(undefined as never);
      throw new ToolError(128 + constants.signals[caught], `${caught}: ${undone}`);
    }
  } finally {
    for (const signal of SIGNALS) process.removeListener(signal, note);
  }
}
