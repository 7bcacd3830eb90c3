import { describe, expect, it } from "vitest";
import { blockOf, blocksFor, spansOf } from "../../src/core/spans.ts";
import { MAX_FILE_SIZE } from "../../src/core/types.ts";

/** Every byte of the range, as (block, byte within it), the slow way. */
function bytesOf(offset: number, length: number, blockSize: number): string[] {
  return Array.from({ length }, (_, at) => {
    const position = offset + at;
    const within = position % blockSize;
    return `${(position - within) / blockSize}:${within}:${at}`;
  });
}

function bytesOfSpans(offset: number, length: number, blockSize: number): string[] {
  const bytes: string[] = [];
  for (const { idx, from, to, at } of spansOf(offset, length, blockSize)) {
    expect(from).toBeLessThan(to);
    expect(to).toBeLessThanOrEqual(blockSize);
    for (let i = from; i < to; i++) bytes.push(`${idx}:${i}:${at + i - from}`);
  }
  return bytes;
}

describe("spans", () => {
  it("cover every byte of every small range once, in order", () => {
    for (const blockSize of [1, 2, 3, 4, 7])
      for (let offset = 0; offset < 3 * blockSize; offset++)
        for (let length = 0; length <= 3 * blockSize + 1; length++)
          expect(bytesOfSpans(offset, length, blockSize)).toEqual(bytesOf(offset, length, blockSize));
  });

  it("are one to a block: only the first begins within one, only the last ends within one", () => {
    for (let offset = 0; offset < 8; offset++)
      for (let length = 1; length < 20; length++) {
        const spans = [...spansOf(offset, length, 4)];
        expect(spans.map(({ idx }) => idx)).toEqual(
          Array.from({ length: spans.length }, (_, i) => Math.floor(offset / 4) + i),
        );
        expect(spans.slice(1).every(({ from }) => from === 0)).toBe(true);
        expect(spans.slice(0, -1).every(({ to }) => to === 4)).toBe(true);
      }
  });

  it("of no bytes are none", () => {
    expect([...spansOf(5, 0, 4)]).toEqual([]);
    expect([...spansOf(MAX_FILE_SIZE, 0, 65_536)]).toEqual([]);
  });

  it("are exact at the largest offsets", () => {
    for (const blockSize of [4096, 16_384, 65_536, 1 << 20]) {
      const last = 2 ** 53 / blockSize - 1;
      const spans = [...spansOf(MAX_FILE_SIZE - blockSize - 1, blockSize + 1, blockSize)];
      expect(spans).toEqual([
        { idx: last - 1, from: blockSize - 2, to: blockSize, at: 0 },
        { idx: last, from: 0, to: blockSize - 1, at: 2 },
      ]);
      expect(blockOf(MAX_FILE_SIZE, blockSize)).toBe(last);
      expect(blocksFor(MAX_FILE_SIZE, blockSize)).toBe(last + 1);
    }
  });
});

describe("block counts", () => {
  it("are those of plain division", () => {
    for (let size = 0; size < 40; size++) {
      expect(blockOf(size, 8)).toBe(Math.trunc(size / 8));
      expect(blocksFor(size, 8)).toBe(size % 8 === 0 ? size / 8 : Math.trunc(size / 8) + 1);
    }
  });
});
