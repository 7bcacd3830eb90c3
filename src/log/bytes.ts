/**
 * Numbers and bytes, one after the other: what the log's format is made of. A count or number that is not negative is
 * LEB128, seven bits a byte and the lowest first; a time is eight bytes, the lowest first; bytes and text have their
 * length before them.
 */
import { LogError } from "../remote/errors.ts";

export class ByteWriter {
  #bytes = Buffer.allocUnsafe(1024);
  #length = 0;

  get length(): number {
    return this.#length;
  }

  #reserve(count: number): number {
    const at = this.#length;
    this.#length += count;
    if (this.#length > this.#bytes.length) {
      const larger = Buffer.allocUnsafe(2 * this.#length);
      this.#bytes.copy(larger, 0, 0, at);
      this.#bytes = larger;
    }
    return at;
  }

  byte(value: number): this {
    const at = this.#reserve(1);
    this.#bytes[at] = value;
    return this;
  }

  /** A safe integer that is not negative. */
  count(value: number): this {
    if (!Number.isSafeInteger(value) || value < 0) throw new RangeError(`not a count: ${value}`);
    let rest = value;
    while (rest >= 0x80) {
      this.byte((rest % 0x80) | 0x80);
      rest = Math.floor(rest / 0x80);
    }
    return this.byte(rest);
  }

  /** Up to 63 bits. */
  big(value: bigint): this {
    let rest = value;
    while (rest >= 0x80n) {
      this.byte(Number(rest & 0x7fn) | 0x80);
      rest >>= 7n;
    }
    return this.byte(Number(rest));
  }

  /** Nanoseconds since 1970. */
  time(value: bigint): this {
    const at = this.#reserve(8);
    this.#bytes.writeBigInt64LE(value, at);
    return this;
  }

  /** Bytes whose number the format says. */
  fixed(value: Uint8Array): this {
    const at = this.#reserve(value.length);
    this.#bytes.set(value, at);
    return this;
  }

  bytes(value: Uint8Array): this {
    return this.count(value.length).fixed(value);
  }

  text(value: string): this {
    return this.bytes(Buffer.from(value));
  }

  /** All that was written, which the next `clear` leaves alone. */
  take(): Buffer {
    return Buffer.from(this.#bytes.subarray(0, this.#length));
  }

  clear(): void {
    this.#length = 0;
  }
}

/** Reads what a ByteWriter wrote. @throws LogError damaged where there is no such thing */
export class ByteReader {
  readonly #bytes: Buffer;
  #at = 0;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  get isAtEnd(): boolean {
    return this.#at === this.#bytes.length;
  }

  byte(): number {
    const value = this.#bytes[this.#at];
    if (value === undefined) throw broken();
    this.#at++;
    return value;
  }

  count(): number {
    let value = 0;
    for (let scale = 1; ; scale *= 0x80) {
      const byte = this.byte();
      value += (byte & 0x7f) * scale;
      if (!Number.isSafeInteger(value) || scale > 2 ** 49) throw broken();
      if (byte < 0x80) return value;
    }
  }

  big(): bigint {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = this.byte();
      value |= BigInt(byte & 0x7f) << shift;
      if (value >= 1n << 63n || shift > 56n) throw broken();
      if (byte < 0x80) return value;
    }
  }

  time(): bigint {
    return this.fixed(8).readBigInt64LE();
  }

  fixed(length: number): Buffer {
    const end = this.#at + length;
    if (end > this.#bytes.length) throw broken();
    const value = this.#bytes.subarray(this.#at, end);
    this.#at = end;
    return value;
  }

  bytes(): Buffer {
    return this.fixed(this.count());
  }

  text(): string {
    return this.bytes().toString();
  }

  /** As many as a count says. */
  list<T>(read: () => T): T[] {
    const length = this.count();
    if (length > this.#bytes.length) throw broken();
    return Array.from({ length }, read);
  }
}

function broken(): LogError {
  return new LogError("damaged", "its content is not what the format says");
}
