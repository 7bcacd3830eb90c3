/** What a regular file consists of, told in runs that do not depend on how its blocks are stored. */
import { HOLE_UNIT } from "../core/blocksize.ts";
import type { Attr, Ino } from "../core/types.ts";
import type { Volume } from "../core/volume.ts";

/** Consecutive blocks of a file that are all written, or all reserved only. What lies between runs is a hole. */
export interface Run {
  /** Bytes, a multiple of the block size. */
  readonly offset: number;
  /** Bytes, whole blocks: may reach past the end of the file. */
  readonly length: number;
  readonly written: boolean;
}

export function* runsOf(volume: Volume, { ino, blockSize }: Attr): Generator<Run> {
  let run: { first: number; end: number; written: boolean } | undefined;
  const bytes = ({ first, end, written }: NonNullable<typeof run>): Run => ({
    offset: first * blockSize,
    length: (end - first) * blockSize,
    written,
  });
  for (let next = 0; ; ) {
    const batch = volume.files.extents(ino, next);
    if (batch.length === 0) break;
    for (const { idx, written } of batch) {
      if (run !== undefined && run.end === idx && run.written === written) {
        run.end++;
      } else {
        if (run !== undefined) yield bytes(run);
        run = { first: idx, end: idx + 1, written };
      }
      next = idx + 1;
    }
  }
  if (run !== undefined) yield bytes(run);
}

/**
 * The parts of a file that hold data, as bytes within its size: from one multiple of HOLE_UNIT to another, since tar cannot
 * tell of others.
 */
export function* dataOf(volume: Volume, attr: Attr): Generator<{ offset: number; length: number }> {
  let [from, to] = [0, 0];
  for (const { offset, length, written } of runsOf(volume, attr)) {
    if (!written || offset >= attr.size) continue;
    const start = Math.floor(offset / HOLE_UNIT) * HOLE_UNIT;
    if (start > to) {
      if (to > from) yield { offset: from, length: to - from };
      from = start;
    }
    to = Math.min(Math.ceil((offset + length) / HOLE_UNIT) * HOLE_UNIT, attr.size);
  }
  if (to > from) yield { offset: from, length: to - from };
}

const STEP_BYTES = 1 << 20;

/** Reads a range within the file's size in steps of a multiple of `unit` bytes. Each piece is valid until the next one. */
export function* readRange(
  volume: Volume,
  ino: Ino,
  offset: number,
  length: number,
  unit = 1,
): Generator<{ readonly offset: number; readonly bytes: Buffer }> {
  const most = Math.ceil(STEP_BYTES / unit) * unit;
  const buffer = Buffer.allocUnsafe(Math.min(most, length));
  for (let at = 0; at < length; at += most) {
    const bytes = buffer.subarray(0, Math.min(most, length - at));
    const got = volume.files.read(ino, offset + at, bytes.length, bytes);
    // Nobody changes a snapshot, so a short read is impossible; zeros would hide it.
    if (got !== bytes.length)
      throw new Error(`inode ${ino}: ${got} of ${bytes.length} bytes at ${offset + at}`);
    yield { offset: offset + at, bytes };
  }
}
