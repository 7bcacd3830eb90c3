/**
 * The segments of a log, read and proved: each is sealed, of this log, of its writer, in its place, and names the one
 * before it by its hash. Nothing is given out before all of them were looked at.
 */

import { LogError } from "../remote/errors.ts";
import type { RemoteStore } from "../remote/remote.ts";
import { ByteReader } from "./bytes.ts";
import { decodeSegment, type Segment } from "./format.ts";
import { numberName, segmentsOf } from "./names.ts";
import { checkHeader, hashOf, type Keys, logOf, type Sealer } from "./seal.ts";

/** A segment that was proved. */
export interface Link {
  readonly segment: Segment;
  readonly hash: Buffer;
  /** Of its log. */
  readonly sealer: Sealer;
}

/** How far somebody has seen the log. */
export interface Seen {
  readonly segment: number;
  readonly hash: Uint8Array;
}

/** Whose log it is. */
export interface Whose {
  readonly writer: bigint;
  readonly volume: Uint8Array;
}

/** No segment is longer: one that names a thousand objects and ten thousand snapshots has less than a MiB. */
const MOST_SEGMENT_BYTES = 64 * 2 ** 20;

/** Names a file in an error that was met in it. */
export function toldOf(store: RemoteStore, name: string, error: unknown): unknown {
  if (!(error instanceof LogError)) return error;
  return new LogError(error.reason, `${store.url}: ${name}: ${error.message}`, { cause: error });
}

/** The numbers of the segments that are there, in order. @throws LogError */
export async function segmentNumbers(store: RemoteStore, writer: bigint): Promise<number[]> {
  const prefix = segmentsOf(writer);
  const files = await store.list(prefix);
  // What something else left there, as a program that synchronises does, is no segment.
  const names = files.map(({ name }) => name.slice(prefix.length)).filter((name) => /^\d{16}$/.test(name));
  return names.map(Number).sort((a, b) => a - b);
}

/** A segment as it lies there, whatever it is; undefined where there is none of that number. @throws LogError unreachable */
export async function fetchSegment(
  store: RemoteStore,
  writer: bigint,
  number: number,
): Promise<Buffer | undefined> {
  return await store.get(segmentsOf(writer) + numberName(number), 0, MOST_SEGMENT_BYTES + 1);
}

/** What `fetchSegment` gave, proved. @throws LogError damaged, foreign, other-log, too-new */
export function openSegment(
  store: RemoteStore,
  keys: Keys,
  whose: Whose,
  number: number,
  file: Buffer,
): Link {
  try {
    if (file.length > MOST_SEGMENT_BYTES) throw new LogError("damaged", "it is larger than any segment is");
    const sealer = keys.sealerOf(logOf(checkHeader(file, "segment", undefined)));
    if (sealer === undefined) throw new LogError("other-log", "it is of another log");
    const segment = decodeSegment(new ByteReader(sealer.open("segment", file)));
    if (segment.number !== number)
      throw new LogError("foreign", `it is segment ${segment.number}, in the place of segment ${number}`);
    if (segment.writer !== whose.writer) throw new LogError("foreign", "it is of another writer");
    if (Buffer.compare(segment.volume, whose.volume) !== 0)
      throw new LogError("foreign", "it is of another volume");
    return { segment, hash: hashOf(file), sealer };
  } catch (error) {
    throw toldOf(store, segmentsOf(whose.writer) + numberName(number), error);
  }
}

/** One segment; undefined where there is none of that number. @throws LogError as openSegment, unreachable */
export async function readSegment(
  store: RemoteStore,
  keys: Keys,
  whose: Whose,
  number: number,
): Promise<Link | undefined> {
  const file = await fetchSegment(store, whose.writer, number);
  return file === undefined ? undefined : openSegment(store, keys, whose, number, file);
}

/**
 * The segments that bring one who has seen `seen` to the end of the log, or to segment `until`: either all that follow
 * it, or those from the last on that starts over. Undefined `seen`: he has nothing. Where the log is starting over and is
 * not as far yet as it was, it counts as far as it was. All of them are of one log.
 * @throws LogError damaged, foreign, other-log, too-new, unreachable; rolled-back, incomplete,
 * diverged
 */
export async function readChain(
  store: RemoteStore,
  keys: Keys,
  whose: Whose,
  seen: Seen | undefined,
  until = Infinity,
): Promise<Link[]> {
  const { url } = store;
  const all = await segmentNumbers(store, whose.writer);
  const numbers = all.filter((number) => number <= until);
  const last = numbers.at(-1) ?? 0;
  const from = seen?.segment ?? 0;
  if (last < from)
    throw new LogError(
      "rolled-back",
      `${url}: the log ends at segment ${last}, and segment ${from} of it was seen: it was cut off, or is an older copy`,
    );
  if (seen === undefined && last === 0) {
    const [first] = all;
    const what =
      first === undefined ? "nothing was pushed there yet" : `the log there begins with segment ${first}`;
    throw new LogError("incomplete", `${url}: ${what}`);
  }
  if (seen !== undefined && last === from) {
    await checkLast(store, keys, whose, seen);
    return [];
  }
  const chain: Link[] = [];
  for (let number = last; number > from; number--) {
    const [next] = chain;
    const link = await readSegment(store, keys, whose, number);
    if (link === undefined) return cut(chain, number, url);
    if (next !== undefined) checkFollows(url, next, link);
    chain.unshift(link);
    if (seen === undefined && link.segment.base === 0)
      return (await asFarAsItWas(store, keys, whose, chain)) ?? chain;
  }
  const [first] = chain;
  if (seen === undefined || first === undefined)
    throw new LogError("incomplete", `${url}: no segment there starts from nothing`);
  if (Buffer.compare(first.segment.previous, seen.hash) !== 0)
    throw new LogError(
      "diverged",
      `${url}: segment ${first.segment.number} does not follow segment ${from} as it was seen here: another log took its place`,
    );
  return settled(chain);
}

/** What a clone needs of the log that the one which `chain` begins takes the place of, if that came farther and is all there. */
async function asFarAsItWas(
  store: RemoteStore,
  keys: Keys,
  whose: Whose,
  chain: readonly Link[],
): Promise<Link[] | undefined> {
  const number = (chain[0]?.segment.number ?? 0) - 1;
  try {
    const before = await readSegment(store, keys, whose, number);
    const [first] = chain;
    if (before === undefined || first === undefined || !before.hash.equals(first.segment.previous))
      return undefined;
    if (before.segment.epoch <= endOf(chain)) return undefined;
    return await readChain(store, keys, whose, undefined, number);
  } catch (error) {
    // What is provable is what starts over.
    if (error instanceof LogError && error.reason !== "unreachable") return undefined;
    throw error;
  }
}

/** What counts of segments that follow each other: those from the last on that starts over, if they came as far as the others. */
function settled(chain: Link[]): Link[] {
  const start = chain.findLastIndex(({ segment }) => segment.base === 0);
  if (start < 0) return chain;
  const [before, after] = [chain.slice(0, start), chain.slice(start)];
  return endOf(after) >= endOf(before) ? after : settled(before);
}

/** Epoch of the last segment. */
function endOf(chain: readonly Link[]): number {
  return chain.at(-1)?.segment.epoch ?? 0;
}

/** What is there may be another segment of that number. */
async function checkLast(store: RemoteStore, keys: Keys, whose: Whose, seen: Seen): Promise<void> {
  if (seen.segment === 0) return;
  const file = await fetchSegment(store, whose.writer, seen.segment);
  if (file !== undefined) {
    if (hashOf(file).equals(seen.hash)) return;
    openSegment(store, keys, whose, seen.segment, file);
  }
  const message = `${store.url}: segment ${seen.segment} is not the one that was seen here: another log took its place`;
  throw new LogError("diverged", message);
}

function checkFollows(url: string, { segment, sealer }: Link, before: Link): void {
  const { number, base } = segment;
  const { epoch } = before.segment;
  if (!before.hash.equals(segment.previous))
    throw new LogError(
      "foreign",
      `${url}: segment ${number} does not follow segment ${number - 1}, which was replaced`,
    );
  if (base !== 0 && base !== epoch)
    throw new LogError(
      "foreign",
      `${url}: segment ${number} is of epoch ${base} on, and the one before ends at ${epoch}`,
    );
  if (base !== 0 && sealer !== before.sealer)
    throw new LogError("foreign", `${url}: segment ${number} goes on with another log than the one before`);
}

/** Segment `missing` is gone: what follows holds only from one on that starts over. */
function cut(chain: Link[], missing: number, url: string): Link[] {
  const start = chain.findIndex(({ segment }) => segment.base === 0);
  if (start >= 0) return settled(chain.slice(start));
  const behind = chain.at(-1)?.segment.number ?? missing;
  throw new LogError(
    "incomplete",
    `${url}: segment ${missing} is missing, and without it those up to ${behind} cannot be applied`,
  );
}
