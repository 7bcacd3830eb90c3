/** How long work on a thread that hears others as well lets them have their turn. */
import { setImmediate as turn } from "node:timers/promises";

/** So often others get their turn. */
const BREATH_MS = 10;

/** To be called between two small pieces of work; it throws the reason of `end` when that is there. */
export function breathing(end: AbortSignal): () => Promise<void> | undefined {
  let lastMs = performance.now();
  return () => {
    end.throwIfAborted();
    if (performance.now() - lastMs < BREATH_MS) return undefined;
    return turn().then(() => {
      lastMs = performance.now();
      end.throwIfAborted();
    });
  };
}
