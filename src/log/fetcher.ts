/**
 * Fetches blocks from the objects of a remote, some ahead of the others, proves them and hands them out.
 *
 * Blocks of one object are asked for by one range. A block counts only if its frame opens, it decodes, and its content has
 * the id that the segment says.
 */
import { DamageError } from "../base/errno.ts";
import { decoded } from "../core/codec.ts";
import type { WantedBlock } from "./applier.ts";
import { toldOf } from "./chain.ts";
import { LogError } from "./errors.ts";
import { objectName, type RemoteStore } from "./remote.ts";
import { type Sealer, TAG_BYTES } from "./seal.ts";

/** Ranges that are asked for at once. */
const AHEAD = 4;
/** The most bytes of one range, and the longest stretch in it that nobody wants. */
const RANGE_BYTES = 8 * 2 ** 20;
const GAP_BYTES = 2 ** 17;

/** Blocks that lie close together in one object. */
interface Range {
  readonly object: Uint8Array;
  readonly salt: Uint8Array;
  readonly from: number;
  end: number;
  readonly blocks: WantedBlock[];
}

function rangesOf(blocks: readonly WantedBlock[]): Range[] {
  const ranges: Range[] = [];
  for (const block of blocks) {
    const end = block.place + block.length + TAG_BYTES;
    const last = ranges.at(-1);
    const isNear =
      last !== undefined &&
      Buffer.compare(last.object, block.object) === 0 &&
      block.place >= last.from &&
      block.place - last.end <= GAP_BYTES &&
      end - last.from <= RANGE_BYTES;
    if (last !== undefined && isNear) {
      last.blocks.push(block);
      last.end = Math.max(last.end, end);
    } else ranges.push({ object: block.object, salt: block.salt, from: block.place, end, blocks: [block] });
  }
  return ranges;
}

/** Gives each block with its data, as block.data has it. @throws LogError damaged, incomplete, unreachable */
export async function fetchBlocks(
  store: RemoteStore,
  sealer: Sealer,
  blocks: readonly WantedBlock[],
  take: (block: WantedBlock, data: Uint8Array) => Promise<void>,
): Promise<number> {
  const ranges = rangesOf(blocks);
  const ahead: Promise<Buffer | undefined>[] = [];
  let bytes = 0;
  const ask = (range: Range | undefined): void => {
    if (range === undefined) return;
    const asked = store.get(objectName(range.object), range.from, range.end - range.from);
    // It is awaited in its turn; till then a failure of it is nobody's.
    asked.catch(() => {});
    ahead.push(asked);
  };
  for (const range of ranges.slice(0, AHEAD)) ask(range);
  for (const [i, range] of ranges.entries()) {
    const name = objectName(range.object);
    const part = await ahead.shift();
    ask(ranges[i + AHEAD]);
    if (part === undefined) throw new LogError("incomplete", `${store.url}: ${name} is missing`);
    bytes += part.length;
    const open = sealer.opener(range.salt);
    for (const block of range.blocks) {
      const at = block.place - range.from;
      let data: Buffer;
      try {
        data = open(block.place, part.subarray(at, at + block.length + TAG_BYTES));
        checkContent(sealer, block, data);
      } catch (error) {
        throw toldOf(store, name, error);
      }
      await take(block, data);
    }
  }
  return bytes;
}

/** @throws LogError damaged */
export function checkContent(sealer: Sealer, block: WantedBlock, data: Uint8Array): void {
  let content: Uint8Array;
  try {
    content = decoded(block.codec, data);
  } catch (error) {
    if (!(error instanceof DamageError)) throw error;
    throw new LogError("damaged", `block ${block.number} does not decode`, { cause: error });
  }
  if (sealer.blockId(content).equals(block.id)) return;
  throw new LogError("damaged", `block ${block.number} has another content than its id says`);
}
