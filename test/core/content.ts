/**
 * What a regular file must be: bytes, most of them holes. The model that files are compared with. It knows
 * nothing of blocks: a byte that was never written is zero.
 */
const PAGE = 4096;

export class ContentModel {
  size = 0;
  readonly #pages = new Map<number, Buffer>();

  write(offset: number, data: Uint8Array): void {
    this.#set(offset, data.length, (page, from, at, length) =>
      page.set(data.subarray(at, at + length), from),
    );
    if (data.length > 0) this.size = Math.max(this.size, offset + data.length);
  }

  truncate(size: number): void {
    if (size < this.size) this.zero(size, this.size - size);
    this.size = size;
  }

  /** Makes a range read as zeros; the size stays. */
  zero(offset: number, length: number): void {
    const end = Math.min(offset + length, this.size);
    for (const no of [...this.#pages.keys()]) {
      const start = no * PAGE;
      if (start >= end || start + PAGE <= offset) continue;
      this.#pages.get(no)?.fill(0, Math.max(0, offset - start), Math.min(PAGE, end - start));
    }
  }

  read(offset: number, length: number): Buffer {
    const into = Buffer.alloc(Math.max(0, Math.min(length, this.size - offset)));
    for (let at = 0; at < into.length; ) {
      const no = Math.floor((offset + at) / PAGE);
      const from = offset + at - no * PAGE;
      const count = Math.min(PAGE - from, into.length - at);
      this.#pages.get(no)?.copy(into, at, from, from + count);
      at += count;
    }
    return into;
  }

  /** Whether every byte of a range is zero. */
  isZero(offset: number, length: number): boolean {
    const end = Math.min(offset + length, this.size);
    for (const [no, page] of this.#pages) {
      const start = no * PAGE;
      const from = Math.max(0, offset - start);
      const to = Math.min(PAGE, end - start);
      if (from < to && page.subarray(from, to).some((byte) => byte !== 0)) return false;
    }
    return true;
  }

  /** The pieces of at most `length` bytes around everything that was ever written. */
  *written(): Generator<number> {
    for (const no of this.#pages.keys()) yield no * PAGE;
  }

  clone(): ContentModel {
    const copy = new ContentModel();
    copy.size = this.size;
    for (const [no, page] of this.#pages) copy.#pages.set(no, Buffer.from(page));
    return copy;
  }

  #set(
    offset: number,
    length: number,
    apply: (page: Buffer, from: number, at: number, length: number) => void,
  ): void {
    for (let at = 0; at < length; ) {
      const no = Math.floor((offset + at) / PAGE);
      const from = offset + at - no * PAGE;
      const count = Math.min(PAGE - from, length - at);
      let page = this.#pages.get(no);
      if (page === undefined) {
        page = Buffer.alloc(PAGE);
        this.#pages.set(no, page);
      }
      apply(page, from, at, count);
      at += count;
    }
  }
}
