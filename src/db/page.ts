/**
 * The page format of SQLCipher 4: tells whether a page is one that the holder of the key
 * wrote, and decrypts it, without opening the database. So a wrong password is told from
 * damage, the cipher settings are found with one key derivation, and what SQLite cannot
 * reach behind a damaged page is read all the same.
 *
 * A page ends in a reserve: IV (16 bytes), HMAC, padding to a multiple of 16. The HMAC
 * covers what precedes it and the page number (32 bits, little-endian). In page 1 the
 * first 16 bytes are the salt, neither covered nor encrypted: they stand for SQLite's
 * "SQLite format 3". What precedes the reserve is AES-256-CBC.
 */
import { createDecipheriv, createHmac, pbkdf2Sync, timingSafeEqual } from "node:crypto";
import { type CipherSettings, type HmacAlgorithm, type Key, SALT_BYTES } from "./key.ts";

const IV_BYTES = 16;
const HMAC_SALT_MASK = 0x3a;
const HMAC_KDF_ITERATIONS = 2;

const DIGESTS: Record<HmacAlgorithm, { readonly name: string; readonly bytes: number }> = {
  HMAC_SHA1: { name: "sha1", bytes: 20 },
  HMAC_SHA256: { name: "sha256", bytes: 32 },
  HMAC_SHA512: { name: "sha512", bytes: 64 },
};

/** Bytes at the end of each page that hold no content. */
function reserveBytes(hmac: HmacAlgorithm): number {
  return Math.ceil((IV_BYTES + DIGESTS[hmac].bytes) / 16) * 16;
}

/** The key that signs pages, derived from the key that encrypts them; the caller zeroes it. */
export function hmacKey(key: Key): Buffer {
  const salt = Buffer.from(key.salt.map((byte) => byte ^ HMAC_SALT_MASK));
  return pbkdf2Sync(key.bytes, salt, HMAC_KDF_ITERATIONS, 32, "sha512");
}

/** Whether `page`, page number `pageNo` (from 1), carries the HMAC of `key`. */
export function pageIsAuthentic(page: Buffer, pageNo: number, key: Buffer, cipher: CipherSettings): boolean {
  const digest = DIGESTS[cipher.hmac];
  const reserveAt = cipher.pageSize - reserveBytes(cipher.hmac);
  const hmacAt = reserveAt + IV_BYTES;
  const number = Buffer.alloc(4);
  number.writeUInt32LE(pageNo);
  const mac = createHmac(digest.name, key)
    .update(page.subarray(pageNo === 1 ? SALT_BYTES : 0, hmacAt))
    .update(number)
    .digest();
  return timingSafeEqual(mac, page.subarray(hmacAt, hmacAt + digest.bytes));
}

/** The content of an authentic page, without its reserve. */
export function decryptPage(page: Buffer, pageNo: number, key: Key): Buffer {
  const { pageSize, hmac } = key.cipher;
  const end = pageSize - reserveBytes(hmac);
  const aes = createDecipheriv("aes-256-cbc", key.bytes, page.subarray(end, end + IV_BYTES));
  aes.setAutoPadding(false);
  if (pageNo !== 1) return aes.update(page.subarray(0, end));
  const start = Buffer.from("SQLite format 3\0", "latin1");
  return Buffer.concat([start, aes.update(page.subarray(SALT_BYTES, end))]);
}
