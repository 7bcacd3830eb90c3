/**
 * The encryption key of one database: 32 bytes derived from the password, and the
 * cipher settings under which they open the file.
 *
 * Key bytes live in Buffers that `wipe` zeroes; they never enter a string or SQL text.
 */
import { pbkdf2Sync } from "node:crypto";

export type HmacAlgorithm = "HMAC_SHA1" | "HMAC_SHA256" | "HMAC_SHA512";

/** What SQLCipher must be told, beside the key, to read a page. */
export interface CipherSettings {
  /** Bytes: a power of two, 512..65,536. */
  readonly pageSize: number;
  readonly hmac: HmacAlgorithm;
}

/** SQLCipher 4's own settings: what a stock shell opens with nothing but the password. */
export const STOCK_CIPHER: CipherSettings = { pageSize: 4096, hmac: "HMAC_SHA512" };
/** SQLCipher 4's PBKDF2-HMAC-SHA512 iterations. */
export const KDF_ITERATIONS = 256_000;
/** Four times as many, for volumes that ask for it; the file does not say so. */
export const STRONG_KDF_ITERATIONS = 4 * KDF_ITERATIONS;
/** Bytes of salt, the first of the file. */
export const SALT_BYTES = 16;
const KEY_BYTES = 32;
const HEX = "0123456789abcdef";

/** A key as it crosses to a worker thread: plain data, to be wiped by whoever made it. */
export interface KeyMessage {
  readonly bytes: Uint8Array;
  readonly salt: Uint8Array;
  readonly cipher: CipherSettings;
  readonly iterations: number;
}

export class Key {
  /** 32 bytes, zero after `wipe`. */
  readonly bytes: Buffer;
  /** 16 bytes, not secret. */
  readonly salt: Buffer;
  readonly cipher: CipherSettings;
  /** Of the key derivation; 0 where the password was the key itself. */
  readonly iterations: number;

  constructor(bytes: Buffer, salt: Buffer, cipher: CipherSettings, iterations = KDF_ITERATIONS) {
    this.bytes = bytes;
    this.salt = salt;
    this.cipher = cipher;
    this.iterations = iterations;
  }

  /**
   * PBKDF2-HMAC-SHA512 as SQLCipher 4 does it; about 0.2 s. A password of the form `x'<64 hex digits>'` is the
   * key itself, as SQLCipher has it.
   */
  static derive(password: Buffer, salt: Buffer, cipher: CipherSettings, iterations = KDF_ITERATIONS): Key {
    const raw = rawKey(password);
    if (raw !== undefined) return new Key(raw, Buffer.from(salt), cipher, 0);
    const bytes = pbkdf2Sync(password, salt, iterations, KEY_BYTES, "sha512");
    return new Key(bytes, Buffer.from(salt), cipher, iterations);
  }

  toMessage(): KeyMessage {
    const { bytes, salt, cipher, iterations } = this;
    return { bytes: new Uint8Array(bytes), salt: new Uint8Array(salt), cipher, iterations };
  }

  /** For another thread: shared, not copied, so that whoever zeroes it zeroes the only one. */
  toSharedMessage(): KeyMessage {
    const shared = new Uint8Array(new SharedArrayBuffer(this.bytes.length));
    shared.set(this.bytes);
    const { salt, cipher, iterations } = this;
    return { bytes: shared, salt: new Uint8Array(salt), cipher, iterations };
  }

  /** Takes the bytes over and zeroes those of the message. */
  static fromMessage(message: KeyMessage): Key {
    const { bytes, salt, cipher, iterations } = message;
    const key = new Key(Buffer.from(bytes), Buffer.from(salt), cipher, iterations);
    bytes.fill(0);
    return key;
  }

  wipe(): void {
    this.bytes.fill(0);
  }

  /** SQLCipher's raw key form, `x'<key><salt>'`, in a Buffer that the caller zeroes. */
  rawKeyLiteral(): Buffer {
    return hexLiteral(this.bytes, this.salt);
  }
}

/** 32 bytes as the password that is that key: `x'<64 hex digits>'`, in a Buffer that the caller zeroes. */
export function rawKeyPassword(bytes: Uint8Array): Buffer {
  return hexLiteral(bytes);
}

/** The key that a password of the form `x'<64 hex digits>'` is, undefined for any other password. */
function rawKey(password: Buffer): Buffer | undefined {
  const QUOTE = 0x27;
  if (password.length !== 3 + 2 * KEY_BYTES || password[1] !== QUOTE || password.at(-1) !== QUOTE)
    return undefined;
  if (password[0] !== 0x78 && password[0] !== 0x58) return undefined; // x or X
  const key = Buffer.alloc(KEY_BYTES);
  for (let i = 0; i < 2 * KEY_BYTES; i++) {
    const digit = hexDigit(password[2 + i] ?? 0);
    if (digit === undefined) {
      key.fill(0);
      return undefined;
    }
    key[i >> 1] = ((key[i >> 1] ?? 0) << 4) | digit;
  }
  return key;
}

// By hand, since secrets stay out of strings: those cannot be wiped.
function hexLiteral(...parts: readonly Uint8Array[]): Buffer {
  const digits = parts.reduce((sum, part) => sum + 2 * part.length, 0);
  const literal = Buffer.alloc(3 + digits);
  literal.write("x'", 0, "latin1");
  let at = 2;
  for (const part of parts) {
    for (const byte of part) {
      literal[at++] = HEX.charCodeAt(byte >> 4);
      literal[at++] = HEX.charCodeAt(byte & 15);
    }
  }
  literal.write("'", at, "latin1");
  return literal;
}

function hexDigit(byte: number): number | undefined {
  const lower = byte >= 0x41 && byte <= 0x46 ? byte + 0x20 : byte;
  if (lower >= 0x30 && lower <= 0x39) return lower - 0x30;
  return lower >= 0x61 && lower <= 0x66 ? lower - 0x57 : undefined;
}
