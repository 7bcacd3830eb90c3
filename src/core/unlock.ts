/**
 * From a password to a key that is known to fit, before SQLite sees the file.
 *
 * A page's HMAC tells whether the key is right; the page sizes and HMAC algorithms that
 * SQLCipher knows are tried with one derivation, then those of a strong one: the file does
 * not say which it has. A damaged first page is told from a wrong password by the pages
 * behind it; where the salt itself is damaged nobody can tell.
 */
import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import {
  type CipherSettings,
  type HmacAlgorithm,
  KDF_ITERATIONS,
  Key,
  SALT_BYTES,
  STOCK_CIPHER,
  STRONG_KDF_ITERATIONS,
} from "../db/key.ts";
import { hmacKey, pageIsAuthentic } from "../db/page.ts";
import { OpenError } from "./errors.ts";

/** What `sqlfuse create` uses: see DECISIONS.md D3. */
export const DEFAULT_CIPHER: CipherSettings = { pageSize: 16_384, hmac: "HMAC_SHA256" };

const PAGE_SIZES = [16_384, 4096, 8192, 32_768, 65_536, 2048, 1024, 512];
const HMACS: readonly HmacAlgorithm[] = ["HMAC_SHA256", "HMAC_SHA512", "HMAC_SHA1"];
/** How many pages behind a damaged first one are asked. */
const PAGES_TO_ASK = 8;

function candidates(fileSize: number): CipherSettings[] {
  const all = PAGE_SIZES.flatMap((pageSize) => HMACS.map((hmac) => ({ pageSize, hmac })));
  return [DEFAULT_CIPHER, STOCK_CIPHER, ...all].filter(({ pageSize }) => pageSize <= fileSize);
}

/**
 * The key of the volume at `path`, under `password`: about 0.2 s, 1 s for a strong derivation or a wrong password.
 * Nothing is written.
 * The file must not be open as a Volume in this process: closing the descriptor that is
 * read here would drop SQLite's locks.
 * @throws OpenError missing, unreadable, not-a-volume, wrong-password, damaged
 */
export function unlock(path: string, password: Buffer): Key {
  let fd: number;
  try {
    fd = openSync(path, "r");
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code ?? "error";
    if (code === "ENOENT") {
      throw new OpenError(
        "missing",
        path,
        `${path}: no such file; make a volume with: sqlfuse create ${path}`,
        { cause },
      );
    }
    throw new OpenError("unreadable", path, `${path}: cannot be read (${code})`, { cause });
  }
  try {
    const stat = fstatSync(fd);
    if (!stat.isFile())
      throw new OpenError("not-a-volume", path, `${path}: not a regular file, so not a volume`);
    return unlockFile(path, fd, stat.size, password);
  } finally {
    closeSync(fd);
  }
}

function unlockFile(path: string, fd: number, size: number, password: Buffer): Key {
  const smallest = 512;
  if (size < smallest) {
    throw new OpenError("not-a-volume", path, `${path}: ${size} bytes are too few for a sqlfuse volume`);
  }
  const page = Buffer.alloc(65_536);
  const readPage: PageReader = (pageNo, pageSize) => {
    const length = readSync(fd, page, 0, pageSize, (pageNo - 1) * pageSize);
    return length === pageSize ? page.subarray(0, pageSize) : undefined;
  };

  const salt = Buffer.alloc(SALT_BYTES);
  readSync(fd, salt, 0, SALT_BYTES, 0);
  if (salt.toString("latin1").startsWith("SQLite format 3")) {
    throw new OpenError(
      "not-a-volume",
      path,
      `${path}: a plain SQLite database, not an encrypted sqlfuse volume`,
    );
  }
  const settings = candidates(size);
  for (const iterations of [KDF_ITERATIONS, STRONG_KDF_ITERATIONS]) {
    const key = Key.derive(password, salt, DEFAULT_CIPHER, iterations);
    let cipher: CipherSettings | undefined;
    try {
      cipher = cipherOf(key, settings, size, readPage);
      if (cipher !== undefined) return new Key(key.bytes, key.salt, cipher, key.iterations);
    } finally {
      if (cipher === undefined) key.wipe();
    }
    if (key.iterations === 0) break; // the password was the key itself
  }
  const multiple = size % smallest === 0;
  throw new OpenError(
    multiple ? "wrong-password" : "not-a-volume",
    path,
    multiple
      ? `${path}: wrong password (or not a sqlfuse volume, or its first 16 bytes are damaged: nobody can tell them apart)`
      : `${path}: not a sqlfuse volume (its size, ${size} bytes, is not a whole number of pages)`,
  );
}

/** A whole page, valid until the next call; undefined behind the end of the file. */
type PageReader = (pageNo: number, pageSize: number) => Buffer | undefined;

/** The settings under which `key` signed the file's pages; undefined where it signed none of those looked at. */
function cipherOf(
  key: Key,
  settings: readonly CipherSettings[],
  size: number,
  readPage: PageReader,
): CipherSettings | undefined {
  const signing = hmacKey(key);
  const fits = (cipher: CipherSettings, pageNo: number): boolean => {
    const page = readPage(pageNo, cipher.pageSize);
    return page !== undefined && pageIsAuthentic(page, pageNo, signing, cipher);
  };
  try {
    const whole = settings.find((cipher) => fits(cipher, 1));
    if (whole !== undefined) return whole;
    // A crash in the middle of a checkpoint tears page 1, and the -wal has it whole: SQLite decides.
    return settings.find((cipher) => {
      const pages = Math.floor(size / cipher.pageSize);
      for (let i = 0; i < PAGES_TO_ASK && pages > 1; i++) {
        if (fits(cipher, 2 + Math.floor((i * (pages - 1)) / PAGES_TO_ASK))) return true;
      }
      return false;
    });
  } finally {
    signing.fill(0);
  }
}
