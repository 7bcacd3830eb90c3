/**
 * The pages of a database, read raw and decrypted here: page by page, whatever is damaged.
 * SQLite cannot do that, as one page with a wrong HMAC fails every later call on its connection.
 *
 * A page is what the -wal holds of it last, else what lies in the main file. Nobody else in
 * this process may have the file open when `close` is called: that drops SQLite's locks.
 */
import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import type { Key } from "./key.ts";
import { decryptPage, hmacKey, pageIsAuthentic } from "./page.ts";
import { type Frame, scanWal, type WalScan } from "./wal.ts";

/** Which frames of the -wal count. */
export type Overlay = "none" | "replayed" | "written";

export interface BadPage {
  readonly pageNo: number;
  /** "zero": nothing but zeros; "missing": the file ends before it. */
  readonly how: "damaged" | "zero" | "missing";
}

/** Pages between two reports of progress. */
const SLICE = 256;

export class Pages {
  readonly path: string;
  readonly wal: WalScan | undefined;
  readonly #key: Key;
  readonly #signing: Buffer;
  readonly #fd: number;
  readonly #walFd: number | undefined;
  /** Latest place of each page in the -wal. */
  readonly #inWal = new Map<number, number>();
  /** Frames that are no page of this database, with the page they say to be. */
  readonly #foreign: Frame[] = [];
  readonly #buffer: Buffer;

  /** @throws the errors of fs */
  constructor(path: string, key: Key) {
    this.path = path;
    this.#key = key;
    this.#buffer = Buffer.alloc(key.cipher.pageSize);
    this.#fd = openSync(path, "r");
    this.#signing = hmacKey(key);
    this.wal = scanWal(`${path}-wal`, key.cipher.pageSize);
    this.#walFd = this.wal === undefined ? undefined : openSync(`${path}-wal`, "r");
  }

  /** Bytes of the main file now. */
  get size(): number {
    return fstatSync(this.#fd).size;
  }

  /** Whole pages in the main file now. */
  get mainPages(): number {
    return Math.floor(this.size / this.#key.cipher.pageSize);
  }

  get pageSize(): number {
    return this.#key.cipher.pageSize;
  }

  /** Pages of the database: as its last commit states, else as its header does, else as the file has. */
  get pageCount(): number {
    const last = this.#frames().findLast((frame) => frame.commitPages > 0);
    if (last !== undefined) return last.commitPages;
    return this.headerPages ?? this.mainPages;
  }

  /** The number of pages that the header states, undefined where page 1 is damaged. */
  get headerPages(): number | undefined {
    const header = this.read(1);
    if (header === undefined) return undefined;
    const pages = header.readUInt32BE(28);
    return pages > 0 && header.readUInt32BE(24) === header.readUInt32BE(92) ? pages : undefined;
  }

  #overlay: Overlay = "none";

  /** Chooses which frames of the -wal count from now on; tells those that are no pages of this database. */
  useWal(overlay: Overlay): readonly Frame[] {
    this.#overlay = overlay;
    this.#inWal.clear();
    this.#foreign.length = 0;
    for (const frame of this.#frames()) {
      const pageNo = this.#pageOf(frame);
      if (pageNo === undefined) {
        this.#foreign.push(frame);
        // What it held is lost, so what an older frame or the main file has of that page is no longer true.
        this.#inWal.set(frame.pageNo, -1);
      } else {
        this.#inWal.set(pageNo, frame.pageAt);
      }
    }
    return this.#foreign;
  }

  #frames(): readonly Frame[] {
    if (this.wal === undefined || this.#overlay === "none") return [];
    const { frames, replayed, written } = this.wal;
    return frames.slice(0, this.#overlay === "replayed" ? replayed : written);
  }

  /** Which page a frame holds: a bit may have flipped in its number, which the page's HMAC covers. */
  #pageOf(frame: Frame): number | undefined {
    const page = this.#buffer;
    if (this.#walFd === undefined) return undefined;
    if (readSync(this.#walFd, page, 0, page.length, frame.pageAt) !== page.length) return undefined;
    const fits = (pageNo: number) =>
      pageNo > 0 && pageIsAuthentic(page, pageNo, this.#signing, this.#key.cipher);
    if (fits(frame.pageNo)) return frame.pageNo;
    if (this.#overlay === "replayed") return undefined;
    for (let bit = 0; bit < 32; bit++) {
      const pageNo = (frame.pageNo ^ (1 << bit)) >>> 0;
      if (fits(pageNo)) return pageNo;
    }
    return undefined;
  }

  /** Whether the -wal has the page, so that what the main file holds of it does not count. */
  inWal(pageNo: number): boolean {
    return this.#inWal.has(pageNo);
  }

  /** The content of a page without its reserve; undefined where it is damaged or missing. */
  read(pageNo: number): Buffer | undefined {
    const page = this.#load(pageNo);
    if (page === undefined || !pageIsAuthentic(page, pageNo, this.#signing, this.#key.cipher))
      return undefined;
    return decryptPage(page, pageNo, this.#key);
  }

  #load(pageNo: number): Buffer | undefined {
    const page = this.#buffer;
    const at = this.#inWal.get(pageNo);
    if (at === -1) return undefined;
    const fd = at === undefined ? this.#fd : (this.#walFd ?? this.#fd);
    const from = at ?? (pageNo - 1) * page.length;
    return readSync(fd, page, 0, page.length, from) === page.length ? page : undefined;
  }

  /**
   * Looks at every page of the database; yields how many it has seen. `patient`: somebody
   * writes at the same time, so a page that looks damaged is looked at again.
   */
  *scan(patient: boolean): Generator<number, BadPage[]> {
    const bad: BadPage[] = [];
    const count = this.pageCount;
    // SQLite keeps the page at 1 GiB for locks: it is never written.
    const lockPage = Math.floor(2 ** 30 / this.pageSize) + 1;
    for (let pageNo = 1; pageNo <= count; pageNo++) {
      if (pageNo % SLICE === 0) yield pageNo;
      if (pageNo === lockPage) continue;
      const how = this.#look(pageNo, patient ? 5 : 0);
      if (how !== undefined) bad.push({ pageNo, how });
    }
    return bad;
  }

  #look(pageNo: number, retries: number): BadPage["how"] | undefined {
    for (let attempt = 0; ; attempt++) {
      const page = this.#load(pageNo);
      if (page !== undefined && pageIsAuthentic(page, pageNo, this.#signing, this.#key.cipher))
        return undefined;
      if (attempt >= retries) {
        if (page === undefined) return this.#inWal.get(pageNo) === -1 ? "damaged" : "missing";
        return page.every((byte) => byte === 0) ? "zero" : "damaged";
      }
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 50);
    }
  }

  close(): void {
    this.#signing.fill(0);
    closeSync(this.#fd);
    if (this.#walFd !== undefined) closeSync(this.#walFd);
  }
}
