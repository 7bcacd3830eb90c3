/**
 * The -wal file read raw, to tell what SQLite does not: that commits lie behind the frame
 * at which its recovery ends.
 *
 * SQLite replays frames as long as the chain of checksums holds and stops at the first that
 * does not, silently. A crash leaves at most one commit behind that point, as each is synced
 * before the next one begins. Two, or a header that is damaged before a commit, are damage.
 */
import { closeSync, fstatSync, openSync, readSync } from "node:fs";

export const WAL_HEADER_BYTES = 32;
export const FRAME_HEADER_BYTES = 24;
const MAGIC = 0x377f0682;
const VERSION = 3_007_000;
/** Frames read at once. */
const BATCH = 64;

/** One frame as its header states it. */
export interface Frame {
  /** From 1. */
  readonly no: number;
  readonly pageNo: number;
  /** Pages of the database after this commit; 0: not the last frame of one. */
  readonly commitPages: number;
  /** Whether its salts are those of the log: else a leftover of an earlier round. */
  readonly current: boolean;
  /** Where its page lies in the file. */
  readonly pageAt: number;
}

export interface WalScan {
  readonly headerDamaged: boolean;
  /** Whole frames in the file, leftovers of earlier rounds included. */
  readonly frames: readonly Frame[];
  /** First frame that breaks the chain of checksums, 0 where none does. */
  readonly brokenAt: number;
  /** Frames that SQLite replays: up to the last commit in the valid chain. */
  readonly replayed: number;
  /** Frames with the right salts up to the last commit among them, valid or not. */
  readonly written: number;
  /** Commits behind the valid chain: more than a crash can leave where `isCut`. */
  readonly cutCommits: number;
  /** Frames of the log behind the last commit that is replayed. */
  readonly unfinished: number;
  /** Commits that no crash explains would be lost in a replay. */
  readonly isCut: boolean;
}

/** SQLite's checksum: two running sums over pairs of 32-bit words. */
class Checksum {
  s0 = 0;
  s1 = 0;
  readonly #littleEndian: boolean;

  constructor(littleEndian: boolean) {
    this.#littleEndian = littleEndian;
  }

  add(bytes: Buffer, from: number, to: number): void {
    let { s0, s1 } = this;
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const little = this.#littleEndian;
    for (let at = from; at < to; at += 8) {
      s0 = (s0 + view.getUint32(at, little) + s1) | 0;
      s1 = (s1 + view.getUint32(at + 4, little) + s0) | 0;
    }
    this.s0 = s0;
    this.s1 = s1;
  }

  equals(bytes: Buffer, at: number): boolean {
    return bytes.readInt32BE(at) === this.s0 && bytes.readInt32BE(at + 4) === this.s1;
  }
}

/** Salts of two rounds differ in some 16 of their 64 bits, as one half is random: this few are damage. */
const FLIPPED_BITS = 2;

function differingBits(a: Buffer, b: Buffer): number {
  let bits = 0;
  for (let i = 0; i < a.length; i++) {
    for (let left = (a[i] ?? 0) ^ (b[i] ?? 0); left !== 0; left &= left - 1) bits++;
  }
  return bits;
}

/** Reads the -wal at `path`; undefined where there is none or it is empty. */
export function scanWal(path: string, pageSize: number): WalScan | undefined {
  let fd: number;
  try {
    fd = openSync(path, "r");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
  try {
    const { size } = fstatSync(fd);
    if (size === 0) return undefined;
    const found = scan(fd, size, pageSize);
    // A -wal that is copied as a whole is written over from its head. A crash in that moment leaves a torn header
    // before commits that nobody misses.
    if (found.isCut && isInMain(path.replace(/-wal$/, ""), fd, found, pageSize)) {
      return { ...found, cutCommits: 0, unfinished: 0, isCut: false };
    }
    return found;
  } finally {
    closeSync(fd);
  }
}

/** Whether the main file has each page as its last frame of the log has it, so that nothing is lost with the log. */
function isInMain(path: string, wal: number, found: WalScan, pageSize: number): boolean {
  const last = new Map<number, number>();
  for (const { no, pageNo, current, pageAt } of found.frames) {
    if (current && no > found.replayed && no <= found.written) last.set(pageNo, pageAt);
  }
  const fd = openSync(path, "r");
  try {
    const logged = Buffer.alloc(pageSize);
    const stored = Buffer.alloc(pageSize);
    for (const [pageNo, pageAt] of last) {
      // No page has this number: a bit of it turned over.
      if (pageNo === 0) return false;
      readSync(wal, logged, 0, pageSize, pageAt);
      const read = readSync(fd, stored, 0, pageSize, (pageNo - 1) * pageSize);
      if (read !== pageSize || !logged.equals(stored)) return false;
    }
    return true;
  } finally {
    closeSync(fd);
  }
}

function scan(fd: number, size: number, pageSize: number): WalScan {
  const header = Buffer.alloc(WAL_HEADER_BYTES);
  readSync(fd, header, 0, WAL_HEADER_BYTES, 0);
  const chain = new Checksum((header.readUInt32BE(0) & 1) === 0);
  chain.add(header, 0, 24);
  const headerDamaged =
    size < WAL_HEADER_BYTES ||
    (header.readUInt32BE(0) & ~1) !== MAGIC ||
    header.readUInt32BE(4) !== VERSION ||
    header.readUInt32BE(8) !== pageSize ||
    !chain.equals(header, 24);

  const frameBytes = FRAME_HEADER_BYTES + pageSize;
  const count = Math.max(0, Math.floor((size - WAL_HEADER_BYTES) / frameBytes));
  const batch = Buffer.alloc(frameBytes * Math.min(BATCH, Math.max(1, count)));
  const frames: Frame[] = [];
  let salts = headerDamaged ? undefined : header.subarray(16, 24);
  let chained = !headerDamaged;
  let brokenAt = 0;
  let replayed = 0;
  let written = 0;
  let cutCommits = 0;
  /** Commits of frames with nearly the right salts, since the last one with the right ones. */
  let odd = 0;
  let unfinished = 0;
  for (let first = 0; first < count; first += BATCH) {
    const start = WAL_HEADER_BYTES + first * frameBytes;
    const many = Math.min(BATCH, count - first);
    readSync(fd, batch, 0, many * frameBytes, start);
    for (let i = 0; i < many; i++) {
      const bytes = batch.subarray(i * frameBytes, (i + 1) * frameBytes);
      // Where the header says nothing, the first frame has the log's salts: it is written over first.
      salts ??= Buffer.from(bytes.subarray(8, 16));
      const no = first + i + 1;
      const pageNo = bytes.readUInt32BE(0);
      const commitPages = bytes.readUInt32BE(4);
      const current = bytes.compare(salts, 0, 8, 8, 16) === 0;
      frames.push({ no, pageNo, commitPages, current, pageAt: start + i * frameBytes + FRAME_HEADER_BYTES });
      if (chained) {
        chain.add(bytes, 0, 8);
        chain.add(bytes, FRAME_HEADER_BYTES, frameBytes);
        chained = current && pageNo !== 0 && chain.equals(bytes, 16);
        if (!chained) brokenAt = no;
      }
      if (chained && commitPages > 0) replayed = no;
      if (!current) {
        if (differingBits(bytes.subarray(8, 16), salts) > FLIPPED_BITS) continue;
        if (commitPages > 0) odd++;
        unfinished++;
        continue;
      }
      // The log is written from its start on, so an odd frame before a current one is one of its own, damaged. One
      // with quite other salts is of an earlier round: a crash may have kept the last commit's later frames alone.
      cutCommits += odd;
      odd = 0;
      if (commitPages > 0) written = no;
      if (no > replayed) unfinished++;
      if (!chained && commitPages > 0) cutCommits++;
      if (chained && commitPages > 0) unfinished = 0;
    }
  }
  const isCut = cutCommits >= 2 || (headerDamaged && cutCommits >= 1);
  return { headerDamaged, frames, brokenAt, replayed, written, cutCommits, unfinished, isCut };
}
