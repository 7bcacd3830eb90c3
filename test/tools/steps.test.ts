/** Long work in steps, and the signals that come between them. */
import { afterEach, expect, test } from "vitest";
import { ToolError } from "../../tools/exitcodes.ts";
import { runSteps, Signals } from "../../tools/steps.ts";

const opened: Signals[] = [];
afterEach(() => {
  for (const signals of opened.splice(0)) signals.end();
});

function listening(): Signals {
  const signals = new Signals();
  opened.push(signals);
  return signals;
}

/** Work of some steps, in one of which SIGINT comes; `log` has what became of it. */
function* work(log: string[], steps: number, signalAt?: number): Generator<number, string> {
  try {
    for (let step = 1; step <= steps; step++) {
      log.push(`step ${step}`);
      if (step === signalAt) process.kill(process.pid, "SIGINT");
      yield step;
    }
    if (signalAt === steps + 1) process.kill(process.pid, "SIGINT");
    return "done";
  } finally {
    log.push("cleaned up");
  }
}

function refusalOf(running: Promise<unknown>): Promise<unknown> {
  return running.then(
    (value) => value,
    (error: unknown) => (error instanceof ToolError ? [error.code, error.message] : error),
  );
}

test("a signal stops the work behind the step in which it came, and the work cleans up", async () => {
  const log: string[] = [];
  const seen: number[] = [];
  const running = runSteps(work(log, 3, 2), (step) => seen.push(step), "stopped");
  expect(await refusalOf(running)).toEqual([130, "SIGINT: stopped"]);
  expect([seen, log]).toEqual([
    [1, 2],
    ["step 1", "step 2", "cleaned up"],
  ]);
});

test("work that is done when a signal comes is done; what comes after it is not begun", async () => {
  const log: string[] = [];
  const signals = listening();
  expect(await runSteps(work(log, 2, 3), () => {}, "stopped", signals)).toBe("done");
  expect(await refusalOf(signals.stopHere("nothing was changed"))).toEqual([
    130,
    "SIGINT: nothing was changed",
  ]);
});

test("a signal between two pieces of work stops the second at its first step", async () => {
  const log: string[] = [];
  const signals = listening();
  expect(await runSteps(work([], 1), () => {}, "stopped", signals)).toBe("done");
  process.kill(process.pid, "SIGTERM");
  const second = runSteps(work(log, 3), () => {}, "stopped", signals);
  expect(await refusalOf(second)).toEqual([143, "SIGTERM: stopped"]);
  expect(log).toEqual(["step 1", "cleaned up"]);
});
