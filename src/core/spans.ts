/** Arithmetic between bytes of a file and its blocks. Pure; offsets are safe integers of bytes. */

/** The part of one block that a range of bytes covers. */
export interface Span {
  /** Block index within the file. */
  readonly idx: number;
  /** First byte within the block. */
  readonly from: number;
  /** Byte after the last one within the block. */
  readonly to: number;
  /** Where the span begins within the range. */
  readonly at: number;
}

/** Index of the block that holds byte `offset`. */
export function blockOf(offset: number, blockSize: number): number {
  return Math.floor(offset / blockSize);
}

/** Number of blocks that `size` bytes take. */
export function blocksFor(size: number, blockSize: number): number {
  return Math.ceil(size / blockSize);
}

/** Splits `length` bytes at `offset` at the borders of blocks. Empty for no bytes. */
export function* spansOf(offset: number, length: number, blockSize: number): Generator<Span> {
  let at = 0;
  while (at < length) {
    const position = offset + at;
    const idx = blockOf(position, blockSize);
    const from = position - idx * blockSize;
    const to = Math.min(blockSize, from + length - at);
    yield { idx, from, to, at };
    at += to - from;
  }
}
