/**
 * How the content of a block is stored: as it is, or compressed where that saves at least an eighth of it.
 *
 * `block.codec` is 0 for content as it is, else `method | length << 8`, with the bytes of the content as the length:
 * so the length of what a block holds is known without decoding it, to SQL too.
 */
import { brotliCompressSync, brotliDecompressSync, constants } from "node:zlib";
import { DamageError } from "../base/errno.ts";
import { hasLz4, lz4 } from "../native/lz4.ts";

/** How the blocks of a file are compressed when they are written. */
export type Compression = "none" | "fast" | "strong";

/** block.codec of content as it is. */
export const RAW = 0;
const LZ4 = 1;
const BROTLI = 2;
const METHOD_BITS = 8;
const METHOD_MASK = (1 << METHOD_BITS) - 1;
/** Bytes of the largest block that a file can have. */
export const LONGEST = 1 << 20;
/** Shorter content is left as it is: a row and its key take as much. */
const SHORTEST = 128;
/** 65 MB/s; 9 takes twice as long for a hundredth less, 11 two hundred times for a tenth. */
const BROTLI_QUALITY = 5;

/** A block as it is stored. */
export interface Encoded {
  readonly codec: number;
  /** The content itself, or a buffer that the next `encode` writes over. */
  readonly data: Uint8Array;
}

export function isCompression(word: string): word is Compression {
  return word === "none" || word === "fast" || word === "strong";
}

/** Whether what is stored like this would shrink no further. */
export function isBest(codec: number): boolean {
  return (codec & METHOD_MASK) === BROTLI;
}

/** Whether a codec is one that `decode` knows, in SQL: `table` has a column codec. */
export function knownCodec(table: string): string {
  const method = `${table}.codec & ${METHOD_MASK}`;
  const length = `${table}.codec >> ${METHOD_BITS}`;
  return `(${table}.codec = ${RAW} OR (${method} IN (${LZ4}, ${BROTLI}) AND ${length} BETWEEN 1 AND ${LONGEST}))`;
}

/** Bytes of a block's content, in SQL: `table` has the columns codec and data. */
export function contentLength(table: string): string {
  return `iif(${table}.codec <> ${RAW} AND ${knownCodec(table)}, ${table}.codec >> ${METHOD_BITS}, length(${table}.data))`;
}

/** Bytes of a block's content; `storedBytes` are in its row. @throws DamageError for a codec that is not known */
export function contentBytes(codec: number, storedBytes: number): number {
  if (codec === RAW) return storedBytes;
  const method = codec & METHOD_MASK;
  // Not by a shift: a damaged codec can have more than 32 bits.
  const length = Math.floor(codec / (1 << METHOD_BITS));
  if ((method !== LZ4 && method !== BROTLI) || length < 1 || length > LONGEST)
    throw new DamageError(`unknown codec ${codec}`);
  return length;
}

let compressed = new Uint8Array(0);

/** The form in which `content` is to be stored; as it is where it would not shrink, or nothing here can make it. */
export function encode(content: Uint8Array, how: Compression): Encoded {
  const most = content.length - (content.length >> 3);
  const raw = { codec: RAW, data: content };
  if (how === "none" || content.length < SHORTEST) return raw;
  if (how === "strong") {
    const data = brotli(content);
    return data.length > most ? raw : { codec: codecOf(BROTLI, content), data };
  }
  if (!hasLz4()) return raw;
  if (compressed.length < most) compressed = new Uint8Array(most);
  const length = lz4().compress(content, compressed.subarray(0, most));
  return length === 0 ? raw : { codec: codecOf(LZ4, content), data: compressed.subarray(0, length) };
}

function codecOf(method: number, content: Uint8Array): number {
  return method | (content.length << METHOD_BITS);
}

function brotli(content: Uint8Array): Uint8Array {
  const window = Math.ceil(Math.log2(content.length));
  return brotliCompressSync(content, {
    params: {
      [constants.BROTLI_PARAM_QUALITY]: BROTLI_QUALITY,
      [constants.BROTLI_PARAM_LGWIN]: Math.max(constants.BROTLI_MIN_WINDOW_BITS, window),
      [constants.BROTLI_PARAM_SIZE_HINT]: content.length,
    },
  });
}

/** Fills `into`, which has the length of the content, with what `stored` holds. @throws DamageError, EngineError */
export function decode(codec: number, stored: Uint8Array, into: Uint8Array): void {
  if (contentBytes(codec, stored.length) !== into.length) throw new DamageError("a length that cannot be");
  if (codec === RAW) into.set(stored);
  else if (!decompress(codec & METHOD_MASK, stored, into))
    throw new DamageError("its compressed content is not what was written");
}

/** As `decode`, into memory of its own. @throws DamageError, EngineError */
export function decoded(codec: number, stored: Uint8Array): Uint8Array {
  const content = new Uint8Array(contentBytes(codec, stored.length));
  decode(codec, stored, content);
  return content;
}

/**
 * The bytes that are lost with a compressed block that cannot be decoded, as where it is not `whole`; undefined for
 * one that can, and for one whose codec does not tell. @throws EngineError
 */
export function undecodable(codec: number, stored: Uint8Array, whole: boolean): number | undefined {
  if (codec === RAW) return undefined;
  let length: number | undefined;
  try {
    length = contentBytes(codec, stored.length);
    if (whole) decode(codec, stored, new Uint8Array(length));
    return whole ? undefined : length;
  } catch (error) {
    if (!(error instanceof DamageError)) throw error;
    return length;
  }
}

/** Whether `stored` was exactly the content of `into`. */
function decompress(method: number, stored: Uint8Array, into: Uint8Array): boolean {
  if (stored.length === 0) return false;
  if (method === LZ4) return lz4().decompress(stored, into) === into.length;
  try {
    const content = brotliDecompressSync(stored, { maxOutputLength: into.length });
    if (content.length !== into.length) return false;
    into.set(content);
    return true;
  } catch {
    return false;
  }
}
