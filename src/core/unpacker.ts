/** Takes content out of rows of `block`, through buffers that are used again. */
import { DamageError } from "../base/errno.ts";
import type { Statement } from "../db/statement.ts";
import { contentBytes, decode, RAW } from "./codec.ts";

export class Unpacker {
  #stored = new Uint8Array(0);
  #content = new Uint8Array(0);
  #decoded: Uint8Array | undefined;

  /** All content of the row that was read last, where it had to be decoded for a part of it. Until the next `read`. */
  get decoded(): Uint8Array | undefined {
    return this.#decoded;
  }

  /**
   * Copies the content of a row (codec, data) from byte `from` on to the start of `into`, as much as there is and as
   * fits, and tells how much. `most`: bytes that it can have. Pages that read as zeros show only afterwards.
   * @throws DamageError
   */
  read(row: Statement, most: number, from: number, into: Uint8Array): number {
    this.#decoded = undefined;
    const codec = row.int(0);
    const length = contentBytes(codec, row.blobLength(1));
    if (length > most) throw new DamageError(`${length} bytes are too many`);
    if (codec === RAW) {
      const part = Math.min(length - from, into.length);
      if (part <= 0) return 0;
      row.blobInto(1, from, part, into);
      return part;
    }
    if (from === 0 && into.length >= length) {
      this.#decode(row, codec, into.subarray(0, length));
      return length;
    }
    if (this.#content.length < length) this.#content = new Uint8Array(length);
    const content = this.#content.subarray(0, length);
    this.#decode(row, codec, content);
    this.#decoded = content;
    return copyPart(content, from, into);
  }

  #decode(row: Statement, codec: number, into: Uint8Array): void {
    const length = row.blobLength(1);
    if (this.#stored.length < length) this.#stored = new Uint8Array(length);
    row.blobInto(1, 0, length, this.#stored);
    decode(codec, this.#stored.subarray(0, length), into);
  }
}

/** Copies `content` from byte `from` on to the start of `into`, as much as fits, and tells how much. */
export function copyPart(content: Uint8Array, from: number, into: Uint8Array): number {
  const part = Math.max(0, Math.min(content.length - from, into.length));
  into.set(content.subarray(from, from + part));
  return part;
}
