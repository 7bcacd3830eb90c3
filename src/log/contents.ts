/** What a log names, for those who look at all of it: verify and gc. */

import type { RemoteStore } from "../remote/remote.ts";
import { type Link, segmentNumbers, type Whose } from "./chain.ts";
import { readRecords } from "./follower.ts";
import { objectName } from "./names.ts";
import { type Sealer, TAG_BYTES } from "./seal.ts";

/** Objects by their file names, with the bytes that each has at least. */
export type Named = Map<string, number>;

/** The objects that the segments name, directly and by their records. @throws LogError */
export async function namedObjects(
  store: RemoteStore,
  sealer: Sealer,
  chain: readonly Link[],
  breathe?: () => Promise<void> | undefined,
): Promise<Named> {
  const named: Named = new Map();
  const atLeast = (name: string, bytes: number): void => {
    named.set(name, Math.max(bytes, named.get(name) ?? 0));
  };
  for (const { segment } of chain)
    for (const ref of segment.records) {
      atLeast(objectName(ref.name), ref.length);
      let object = "";
      for (const record of await readRecords(store, sealer, ref)) {
        if (record.type === "object") object = objectName(record.name);
        if (record.type === "block") atLeast(object, record.place + record.length + TAG_BYTES);
        await breathe?.();
      }
    }
  return named;
}

/** Numbers of the segments that are there before the chain, the oldest first. @throws LogError */
export async function segmentsBefore(
  store: RemoteStore,
  whose: Whose,
  chain: readonly Link[],
): Promise<number[]> {
  const first = chain[0]?.segment.number ?? 0;
  return (await segmentNumbers(store, whose.writer)).filter((number) => number < first);
}
