/** Whether all is there that a clone of a log needs, and, for a share of the objects, whether they are what was put. */
import { randomInt } from "node:crypto";
import type { RemoteStore } from "../remote/remote.ts";
import { readChain, type Seen, type Whose } from "./chain.ts";
import { namedObjects } from "./contents.ts";
import type { FollowOptions } from "./follower.ts";
import { hashOf, type Sealer } from "./seal.ts";

export interface VerifyOptions extends Pick<FollowOptions, "breathe"> {
  /** Percent of the objects that are read whole, picked at random. */
  readonly readPercent?: number;
  readonly onProgress?: (done: number, total: number) => void;
}

export interface Verified {
  readonly segments: number;
  readonly objects: number;
  readonly bytes: number;
  /** Objects that were read. */
  readonly read: number;
  /** What is wrong, a line each. */
  readonly problems: readonly string[];
}

/** An object has about 4 MiB, and a block or record more. */
const MOST_OBJECT_BYTES = 64 * 2 ** 20;

/** @throws LogError where the segments or their records cannot be followed, or do not reach what was seen */
export async function verifyLog(
  store: RemoteStore,
  sealer: Sealer,
  whose: Whose,
  seen: Seen,
  options: VerifyOptions = {},
): Promise<Verified> {
  // That it goes on behind what was seen, and that a clone finds a start.
  if (seen.segment > 0) await readChain(store, sealer, whose, seen);
  const chain = await readChain(store, sealer, whose, undefined);
  const named = await namedObjects(store, sealer, chain, options.breathe);
  const there = new Map((await store.list("data/")).map(({ name, size }) => [name, size]));
  const problems: string[] = [];
  let bytes = 0;
  for (const [name, least] of named) {
    const size = there.get(name);
    if (size === undefined) problems.push(`${name}: is missing`);
    else if (size < least) problems.push(`${name}: is cut off: it has ${size} bytes, and ${least} are named`);
    bytes += size ?? 0;
  }
  const chosen = [...named.keys()].filter((name) => there.has(name) && isChosen(options.readPercent ?? 0));
  for (const [i, name] of chosen.entries()) {
    const file = await store.get(name, 0, MOST_OBJECT_BYTES + 1);
    const isWhole =
      file !== undefined && file.length <= MOST_OBJECT_BYTES && name.endsWith(hashOf(file).toString("hex"));
    if (!isWhole && !problems.some((line) => line.startsWith(name)))
      problems.push(`${name}: is not what was put there`);
    options.onProgress?.(i + 1, chosen.length);
    await options.breathe?.();
  }
  return { segments: chain.length, objects: named.size, bytes, read: chosen.length, problems };
}

function isChosen(percent: number): boolean {
  const HUNDRED = 100;
  return randomInt(HUNDRED * HUNDRED) < percent * HUNDRED;
}
