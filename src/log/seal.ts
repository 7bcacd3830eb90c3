/**
 * How everything that leaves the machine is encrypted and authenticated.
 *
 * A SEALED FILE is a header of 64 bytes and frames:
 *
 *   magic    8 bytes "sqlfuse" and a NUL
 *   version  1 byte, 1
 *   kind     1 byte: K key file, S segment, R records, B blocks, N new log
 *   zeros    6 bytes
 *   log      16 bytes: random, the name of the log
 *   salt     32 bytes: random, of this file alone
 *
 * A FRAME is AES-256-GCM: the ciphertext and a tag of 16 bytes. Its key is HKDF-SHA256 of the log's secret with the salt of
 * the file, its nonce the place at which it begins in the file, 12 bytes, the highest first; what is authenticated with it
 * is the header. So no key is ever used for two files, and no nonce for two frames of one: also where a volume was
 * restored or copied and both go on. A frame cannot be moved, in its file or to another.
 *
 * A block's id is HMAC-SHA256 of its content under a key of its own, derived from the same secret: so equal content has
 * one id, and who does not know the secret cannot tell what content an id stands for.
 */
import { createCipheriv, createDecipheriv, createHash, createHmac, hkdfSync, randomBytes } from "node:crypto";
import { LogError } from "../remote/errors.ts";

export const HEADER_BYTES = 64;
export const TAG_BYTES = 16;
const MAGIC = Buffer.from("sqlfuse\0");
const SEAL_VERSION = 1;
/** Of a secret, and of every key. */
export const KEY_BYTES = 32;
/** Of the name of a log. */
export const LOG_BYTES = 16;
const NONCE_BYTES = 12;
const SALT_AT = HEADER_BYTES - KEY_BYTES;
const LOG_AT = 16;

/** What is in a sealed file. */
export type Kind = "key" | "segment" | "records" | "blocks" | "new log";
const LETTERS: Record<Kind, string> = { key: "K", segment: "S", records: "R", blocks: "B", "new log": "N" };

/** The SHA-256 of a file, which chains segments and names objects. */
export function hashOf(bytes: Uint8Array): Buffer {
  return createHash("sha256").update(bytes).digest();
}

export function makeHeader(kind: Kind, log: Uint8Array, salt: Uint8Array = randomBytes(KEY_BYTES)): Buffer {
  const header = Buffer.alloc(HEADER_BYTES);
  MAGIC.copy(header);
  header[MAGIC.length] = SEAL_VERSION;
  header.write(LETTERS[kind], MAGIC.length + 1, "latin1");
  header.set(log, LOG_AT);
  header.set(salt, SALT_AT);
  return header;
}

export function saltOf(header: Buffer): Buffer {
  return header.subarray(SALT_AT, HEADER_BYTES);
}

export function logOf(header: Buffer): Buffer {
  return header.subarray(LOG_AT, SALT_AT);
}

/** @throws LogError damaged, too-new, foreign: it is no file of this kind; other-log */
export function checkHeader(file: Buffer, kind: Kind, log: Uint8Array | undefined): Buffer {
  const header = file.subarray(0, HEADER_BYTES);
  if (header.length < HEADER_BYTES) throw new LogError("damaged", "it is cut off");
  if (!header.subarray(0, MAGIC.length).equals(MAGIC))
    throw new LogError("damaged", "it is no file of a sqlfuse log");
  const version = header[MAGIC.length];
  if (version !== SEAL_VERSION)
    throw new LogError("too-new", `it is sealed in version ${version}, which this sqlfuse does not know`);
  if (header.toString("latin1", MAGIC.length + 1, MAGIC.length + 2) !== LETTERS[kind])
    throw new LogError("foreign", `it is another kind of file, in the place of ${kind}`);
  if (log !== undefined && !logOf(header).equals(log))
    throw new LogError("other-log", "it is of another log");
  return header;
}

/** Seals and opens the frames of one file. */
class FileKey {
  readonly #key: Buffer;
  readonly #header: Buffer;

  constructor(secret: Uint8Array, header: Buffer) {
    const kind = header.toString("latin1", MAGIC.length + 1, MAGIC.length + 2);
    this.#key = derive(secret, saltOf(header), `sqlfuse log 1 file ${kind}`);
    this.#header = header;
  }

  seal(place: number, content: Uint8Array): Buffer[] {
    const cipher = createCipheriv("aes-256-gcm", this.#key, nonceOf(place), { authTagLength: TAG_BYTES });
    cipher.setAAD(this.#header);
    return [cipher.update(content), cipher.final(), cipher.getAuthTag()];
  }

  /** @throws LogError damaged */
  open(place: number, frame: Uint8Array): Buffer {
    if (frame.length < TAG_BYTES) throw new LogError("damaged", "it is cut off");
    const cipher = createDecipheriv("aes-256-gcm", this.#key, nonceOf(place), { authTagLength: TAG_BYTES });
    const end = frame.length - TAG_BYTES;
    cipher.setAAD(this.#header).setAuthTag(frame.subarray(end));
    try {
      const content = cipher.update(frame.subarray(0, end));
      cipher.final();
      return content;
    } catch (cause) {
      const message = "it was changed, or sealed with another key";
      throw new LogError("damaged", message, { cause });
    }
  }
}

function derive(secret: Uint8Array, salt: Uint8Array, info: string): Buffer {
  return Buffer.from(hkdfSync("sha256", secret, salt, info, KEY_BYTES));
}

function nonceOf(place: number): Buffer {
  const nonce = Buffer.alloc(NONCE_BYTES);
  nonce.writeBigUInt64BE(BigInt(place), NONCE_BYTES - 8);
  return nonce;
}

/** A file that grows by frames. */
export class SealedFile {
  readonly #key: FileKey;
  readonly #parts: Buffer[];
  #length = HEADER_BYTES;
  readonly salt: Uint8Array;

  constructor(kind: Kind, log: Uint8Array, secret: Uint8Array) {
    const header = makeHeader(kind, log);
    this.#key = new FileKey(secret, header);
    this.#parts = [header];
    this.salt = saltOf(header);
  }

  /** Bytes so far. */
  get length(): number {
    return this.#length;
  }

  /** Adds a frame, and tells at which byte it begins. */
  add(content: Uint8Array): number {
    const place = this.#length;
    this.#parts.push(...this.#key.seal(place, content));
    this.#length += content.length + TAG_BYTES;
    return place;
  }

  bytes(): Buffer {
    return Buffer.concat(this.#parts);
  }
}

/** Keys of one log, or of some. */
export interface Keys {
  sealerOf(log: Uint8Array): Sealer | undefined;
}

/** The keys of the logs that a volume had, where its secret was changed. */
export function keysOf(sealers: readonly Sealer[]): Keys {
  return { sealerOf: (log) => sealers.find((one) => one.sealerOf(log) !== undefined) };
}

/** The keys of one log. */
export class Sealer implements Keys {
  readonly log: Uint8Array;
  readonly secret: Uint8Array;
  readonly #idKey: Buffer;

  constructor(log: Uint8Array, secret: Uint8Array) {
    this.log = log;
    this.secret = secret;
    this.#idKey = derive(secret, log, "sqlfuse log 1 block id");
  }

  sealerOf(log: Uint8Array): this | undefined {
    return Buffer.compare(log, this.log) === 0 ? this : undefined;
  }

  /** Tells whether somebody has the same secret, and not which. */
  get fingerprint(): Buffer {
    return derive(this.secret, this.log, "sqlfuse log 1 fingerprint");
  }

  file(kind: Kind): SealedFile {
    return new SealedFile(kind, this.log, this.secret);
  }

  /** A file of one frame. */
  seal(kind: Kind, content: Uint8Array): { readonly bytes: Buffer; readonly salt: Uint8Array } {
    const file = this.file(kind);
    file.add(content);
    return { bytes: file.bytes(), salt: file.salt };
  }

  /** The content of a file of one frame. @throws LogError damaged, foreign, too-new */
  open(kind: Kind, file: Buffer): Buffer {
    const header = checkHeader(file, kind, this.log);
    return new FileKey(this.secret, header).open(HEADER_BYTES, file.subarray(HEADER_BYTES));
  }

  /** Opens frames of the blocks file whose salt is `salt`: none of it need be there but the frames. */
  opener(salt: Uint8Array): (place: number, frame: Uint8Array) => Buffer {
    const key = new FileKey(this.secret, makeHeader("blocks", this.log, salt));
    return (place, frame) => key.open(place, frame);
  }

  blockId(content: Uint8Array): Buffer {
    return createHmac("sha256", this.#idKey).update(content).digest();
  }
}
