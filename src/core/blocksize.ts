/** Bytes per block of a file: what can be, and what is best. Each file keeps the size that it was made with. */

const STEP = 128;
const LEAST = 512;
const MOST = 1 << 20;
/** What a row of `block` takes beside its data, and the page's own HMAC and initialization vector, is less. */
const BESIDE_DATA = 128;
/** Smaller pages would make too many rows. */
const LEAST_WHOLE_PAGE = 16_384;
const ON_SMALLER_PAGES = 65_536;

/** In words, for those who choose one. */
export const BLOCK_SIZES = "a multiple of 128 from 512 to 1048576";

export function isBlockSize(size: number): boolean {
  return Number.isInteger(size / STEP) && size >= LEAST && size <= MOST;
}

/** As `isBlockSize`, in SQL. */
export function isBlockSizeSql(column: string): string {
  return `(${column} BETWEEN ${LEAST} AND ${MOST} AND ${column} % ${STEP} = 0)`;
}

/**
 * The block size for a volume with pages of `pageSize` bytes: the largest whose row fits one page. Then a block is read,
 * decrypted and written as one page, and a chain of overflow pages is never followed (D29).
 */
export function usualBlockSize(pageSize: number): number {
  return pageSize < LEAST_WHOLE_PAGE ? ON_SMALLER_PAGES : pageSize - BESIDE_DATA;
}

/**
 * Bytes at whose multiples holes begin and end, as far as others are told, whatever the block size: what copies files by SEEK_DATA
 * and SEEK_HOLE expects it of a filesystem, and tar needs multiples of 512. Zeros around data then count as data.
 */
export const HOLE_UNIT = 4096;

/** Whether versions before 1.2, which know powers of two alone, can work with it. */
export function isOfOldKind(size: number): boolean {
  return Number.isInteger(Math.log2(size));
}
