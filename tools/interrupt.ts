/**
 * Runs long work that waits for others (files, pipes), so that signals are heard meanwhile: a signal stops the work
 * at its next breath, or by the AbortSignal where it waits, and the command ends as one that was interrupted. Work
 * that comes in steps by itself has tools/steps.ts.
 */
import { constants } from "node:os";
import { setImmediate as turn } from "node:timers/promises";
import { ToolError } from "./exitcodes.ts";
import { ignoreBrokenPipes } from "./output.ts";

const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
/** Longest time without looking for signals. */
const BREATH_MS = 50;

export interface Breath {
  /** Call it between steps, and await what it gives. @throws ToolError 128+N where signal N came */
  readonly breathe: () => Promise<void> | undefined;
  /** Its `reason` is that ToolError. */
  readonly signal: AbortSignal;
}

/** `undone` says what being stopped means. */
export async function interruptible<T>(undone: string, work: (breath: Breath) => Promise<T>): Promise<T> {
  ignoreBrokenPipes();
  const controller = new AbortController();
  const note = (signal: NodeJS.Signals): void => {
    const known = SIGNALS.find((one) => one === signal) ?? "SIGTERM";
    controller.abort(new ToolError(128 + constants.signals[known], `${known}: ${undone}`));
  };
  for (const signal of SIGNALS) process.on(signal, note);
  let lastMs = performance.now();
  const breathe = (): Promise<void> | undefined => {
    controller.signal.throwIfAborted();
    if (performance.now() - lastMs < BREATH_MS) return undefined;
    return turn().then(() => {
      lastMs = performance.now();
      controller.signal.throwIfAborted();
    });
  };
  try {
    return await work({ breathe, signal: controller.signal });
  } finally {
    for (const signal of SIGNALS) process.removeListener(signal, note);
  }
}
