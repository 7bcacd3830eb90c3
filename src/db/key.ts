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
/** Bytes of salt, the first of the file. */
export const SALT_BYTES = 16;
const KEY_BYTES = 32;

/** A key as it crosses to a worker thread: plain data, to be wiped by whoever made it. */
export interface KeyMessage {
  readonly bytes: Uint8Array;
  readonly salt: Uint8Array;
  readonly cipher: CipherSettings;
}

export class Key {
  /** 32 bytes, zero after `wipe`. */
  readonly bytes: Buffer;
  /** 16 bytes, not secret. */
  readonly salt: Buffer;
  readonly cipher: CipherSettings;

  constructor(bytes: Buffer, salt: Buffer, cipher: CipherSettings) {
    this.bytes = bytes;
    this.salt = salt;
    this.cipher = cipher;
  }

  /** PBKDF2-HMAC-SHA512 as SQLCipher 4 does it; about 0.2 s. */
  static derive(password: Buffer, salt: Buffer, cipher: CipherSettings, iterations = KDF_ITERATIONS): Key {
    return new Key(pbkdf2Sync(password, salt, iterations, KEY_BYTES, "sha512"), Buffer.from(salt), cipher);
  }

  toMessage(): KeyMessage {
    return { bytes: new Uint8Array(this.bytes), salt: new Uint8Array(this.salt), cipher: this.cipher };
  }

  /** Takes the bytes over and zeroes those of the message. */
  static fromMessage(message: KeyMessage): Key {
    const key = new Key(Buffer.from(message.bytes), Buffer.from(message.salt), message.cipher);
    message.bytes.fill(0);
    return key;
  }

  wipe(): void {
    this.bytes.fill(0);
  }

  /** SQLCipher's raw key form, `x'<key><salt>'`, in a Buffer that the caller zeroes. */
  rawKeyLiteral(): Buffer {
    const literal = Buffer.alloc(3 + 2 * (KEY_BYTES + SALT_BYTES));
    literal.write("x'", 0, "latin1");
    const digits = "0123456789abcdef";
    let at = 2;
    for (const part of [this.bytes, this.salt]) {
      for (const byte of part) {
        literal[at++] = digits.charCodeAt(byte >> 4);
        literal[at++] = digits.charCodeAt(byte & 15);
      }
    }
    literal.write("'", at, "latin1");
    return literal;
  }
}
