/** A stream of bytes that is read by lines and by exact lengths. Memory: what was received and not yet taken. */

/** The input ended or is not what it says: nothing can be made of it. `message` says where. */
export class FormatError extends Error {
  constructor(message: string) {
    super(message);
    this.name = "FormatError";
  }
}

const NEWLINE = 0x0a;
const EMPTY = Buffer.alloc(0);

export class Source {
  readonly #chunks: AsyncIterator<Buffer>;
  #rest: Buffer = EMPTY;
  #taken = 0;

  constructor(chunks: AsyncIterable<Buffer>) {
    this.#chunks = chunks[Symbol.asyncIterator]();
  }

  /** Bytes taken so far. */
  get position(): number {
    return this.#taken;
  }

  /** False at the end of the input. */
  async #more(): Promise<boolean> {
    const { value, done } = await this.#chunks.next();
    if (done === true) return false;
    this.#rest = this.#rest.length === 0 ? value : Buffer.concat([this.#rest, value]);
    return true;
  }

  #take(length: number, skip = 0): Buffer {
    const bytes = this.#rest.subarray(0, length);
    this.#rest = this.#rest.subarray(length + skip);
    this.#taken += length + skip;
    return bytes;
  }

  /** The first bytes, which stay: fewer only where there are fewer. */
  async peek(length: number): Promise<Buffer> {
    while (this.#rest.length < length && (await this.#more()));
    return this.#rest.subarray(0, length);
  }

  /** A line without its newline as latin1; undefined at the end. @throws FormatError for one without a newline */
  async line(most: number): Promise<string | undefined> {
    for (let from = 0; ; ) {
      const end = this.#rest.indexOf(NEWLINE, from);
      if (end >= 0) return this.#take(end, 1).toString("latin1");
      from = this.#rest.length;
      if (from > most) throw new FormatError(`a line has more than ${most} bytes`);
      if (await this.#more()) continue;
      if (this.#rest.length === 0) return undefined;
      throw new FormatError("it ends in the middle of a line");
    }
  }

  /** Exactly so many bytes; undefined at the end of the input, also where it has fewer. */
  async exactly(length: number): Promise<Buffer | undefined> {
    if (this.#rest.length < length) {
      const parts = [this.#rest];
      let have = this.#rest.length;
      while (have < length) {
        const { value, done } = await this.#chunks.next();
        if (done === true) {
          this.#rest = Buffer.concat(parts);
          return undefined;
        }
        parts.push(value);
        have += value.length;
      }
      this.#rest = Buffer.concat(parts, have);
    }
    return this.#take(length);
  }

  /** All that is left. */
  async *rest(): AsyncGenerator<Buffer> {
    for (let bytes = await this.some(Number.MAX_SAFE_INTEGER); bytes !== undefined; ) {
      yield bytes;
      bytes = await this.some(Number.MAX_SAFE_INTEGER);
    }
  }

  /** At least one byte and at most so many; undefined at the end. */
  async some(most: number): Promise<Buffer | undefined> {
    if (this.#rest.length === 0 && !(await this.#more())) return undefined;
    return this.#take(Math.min(most, this.#rest.length));
  }
}
