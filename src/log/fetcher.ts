/**
 * Fetches blocks from the objects of a remote, some ahead of the others, proves them and hands them out.
 *
 * Blocks of one object are asked for by one range. A block counts only if its frame opens, it decodes, and its content has
 * the id that the segment says.
 */
import { DamageError } from "../base/errno.ts";
import { decoded } from "../core/codec.ts";
import { LogError } from "../remote/errors.ts";
import type { RemoteStore } from "../remote/remote.ts";
import type { WantedBlock } from "./applier.ts";
import { toldOf } from "./chain.ts";
import { objectName } from "./names.ts";
import { type Sealer, TAG_BYTES } from "./seal.ts";

/** Ranges that are asked for at once. */
const AHEAD = 4;
/** The most bytes of one range, and the longest stretch in it that nobody wants. */
const RANGE_BYTES = 8 * 2 ** 20;
const GAP_BYTES = 2 ** 17;

/** Blocks that lie close together in one object. */
export interface Range {
  readonly object: Uint8Array;
  readonly salt: Uint8Array;
  readonly from: number;
  end: number;
  readonly blocks: WantedBlock[];
}

/** A block as it is stored, and what it holds. */
export interface FetchedBlock {
  readonly block: WantedBlock;
  /** As block.data has it. */
  readonly data: Buffer;
  readonly content: Uint8Array;
}

/** `most`: bytes of one range. */
export function rangesOf(blocks: readonly WantedBlock[], most = RANGE_BYTES): Range[] {
  const ranges: Range[] = [];
  for (const block of blocks) {
    const end = block.place + block.length + TAG_BYTES;
    const last = ranges.at(-1);
    const isNear =
      last !== undefined &&
      Buffer.compare(last.object, block.object) === 0 &&
      block.place >= last.from &&
      block.place - last.end <= GAP_BYTES &&
      end - last.from <= most;
    if (last !== undefined && isNear) {
      last.blocks.push(block);
      last.end = Math.max(last.end, end);
    } else ranges.push({ object: block.object, salt: block.salt, from: block.place, end, blocks: [block] });
  }
  return ranges;
}

/** The bytes of a range. @throws LogError incomplete, unreachable */
export async function getRange(store: RemoteStore, { object, from, end }: Range): Promise<Buffer> {
  const name = objectName(object);
  const part = await store.get(name, from, end - from);
  if (part === undefined) throw new LogError("incomplete", `${store.url}: ${name} is missing`);
  return part;
}

/** Proves and gives the blocks of a range. @throws LogError damaged */
export function* openRange(
  store: RemoteStore,
  sealer: Sealer,
  range: Range,
  part: Buffer,
): Generator<FetchedBlock> {
  const open = sealer.opener(range.salt);
  for (const block of range.blocks) {
    const at = block.place - range.from;
    let fetched: FetchedBlock;
    try {
      const data = open(block.place, part.subarray(at, at + block.length + TAG_BYTES));
      fetched = { block, data, content: provenContent(sealer, block, data) };
    } catch (error) {
      throw toldOf(store, objectName(range.object), error);
    }
    yield fetched;
  }
}

/** Gives each block with its data, as block.data has it. @throws LogError damaged, incomplete, unreachable */
export async function fetchBlocks(
  store: RemoteStore,
  sealer: Sealer,
  blocks: readonly WantedBlock[],
  take: (block: WantedBlock, data: Uint8Array) => Promise<void>,
): Promise<number> {
  const ranges = rangesOf(blocks);
  const ahead: Promise<Buffer>[] = [];
  let bytes = 0;
  const ask = (range: Range | undefined): void => {
    if (range === undefined) return;
    const asked = getRange(store, range);
    // It is awaited in its turn; till then a failure of it is nobody's.
    asked.catch(() => {});
    ahead.push(asked);
  };
  for (const range of ranges.slice(0, AHEAD)) ask(range);
  for (const [i, range] of ranges.entries()) {
    const part = (await ahead.shift()) as Buffer;
    ask(ranges[i + AHEAD]);
    bytes += part.length;
    for (const { block, data } of openRange(store, sealer, range, part)) await take(block, data);
  }
  return bytes;
}

/** What the data of a block holds, which is what its id says. @throws LogError damaged */
export function provenContent(sealer: Sealer, block: WantedBlock, data: Uint8Array): Uint8Array {
  let content: Uint8Array;
  try {
    content = decoded(block.codec, data);
  } catch (error) {
    if (!(error instanceof DamageError)) throw error;
    throw new LogError("damaged", `block ${block.number} does not decode`, { cause: error });
  }
  if (sealer.blockId(content).equals(block.id)) return content;
  throw new LogError("damaged", `block ${block.number} has another content than its id says`);
}
