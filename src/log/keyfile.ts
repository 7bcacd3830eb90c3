/**
 * The key file of a remote: the log's secret, sealed under the key of the volume, which is derived from its password. So
 * the password alone opens the log, at the cost of that derivation, and nothing there tells the password.
 *
 * It is a sealed file (src/log/seal.ts) of kind K. Behind its header, and authenticated with it, stand the salt of the
 * volume (16 bytes) and the rounds of its derivation (4 bytes, the highest first; 0: the password is the key itself); then
 * one frame with version (1 byte, 1), volume_id (16 bytes), writer (8 bytes, the highest first) and the secret (32 bytes).
 * Its key is HKDF-SHA256 of the volume's key with the salt of the file.
 *
 * A rekey writes a new one, with the next number, and removes the old one. Who kept a copy of that and knows the old
 * password still opens all of this log, what came later too: only a new log has another secret. `remote rotate` begins one
 * (src/log/rotation.ts): as long as that is not whole the key file of the old log stays, beside the new one, which counts.
 */
import { createCipheriv, createDecipheriv, hkdfSync } from "node:crypto";
import { KDF_ITERATIONS, Key, SALT_BYTES, STOCK_CIPHER, STRONG_KDF_ITERATIONS } from "../db/key.ts";
import { LogError } from "../remote/errors.ts";
import type { RemoteStore } from "../remote/remote.ts";
import { numberName } from "./names.ts";
import { checkHeader, HEADER_BYTES, logOf, makeHeader, saltOf, TAG_BYTES } from "./seal.ts";

/** What a key file tells who knows the password. */
export interface LogKey {
  readonly log: Uint8Array;
  readonly secret: Uint8Array;
  readonly volume: Uint8Array;
  readonly writer: bigint;
}

const KEY_FILES = "key/";
const CLEAR_BYTES = HEADER_BYTES + SALT_BYTES + 4;
const CONTENT_BYTES = 1 + 16 + 8 + 32;
const KEY_FILE_BYTES = CLEAR_BYTES + CONTENT_BYTES + TAG_BYTES;
const CONTENT_VERSION = 1;
/** That are looked at. There are two while a log is rotated, and one more for each time that is begun anew. */
const MOST_KEY_FILES = 4;

function encodeKeyFile(logKey: LogKey, key: Key): Buffer {
  const clear = Buffer.alloc(CLEAR_BYTES);
  makeHeader("key", logKey.log).copy(clear);
  key.salt.copy(clear, HEADER_BYTES);
  clear.writeUInt32BE(key.iterations, HEADER_BYTES + SALT_BYTES);
  const content = Buffer.alloc(CONTENT_BYTES);
  content[0] = CONTENT_VERSION;
  content.set(logKey.volume, 1);
  content.writeBigUInt64BE(logKey.writer, 17);
  content.set(logKey.secret, 25);
  const cipher = createCipheriv("aes-256-gcm", wrappingKey(key, clear), Buffer.alloc(12));
  cipher.setAAD(clear);
  const file = Buffer.concat([clear, cipher.update(content), cipher.final(), cipher.getAuthTag()]);
  content.fill(0);
  return file;
}

function wrappingKey(key: Key, clear: Buffer): Buffer {
  return Buffer.from(hkdfSync("sha256", key.bytes, saltOf(clear), "sqlfuse log 1 key file", 32));
}

/** @throws LogError wrong-password, damaged, too-new */
function decodeKeyFile(file: Buffer, password: Buffer): LogKey {
  const header = checkHeader(file, "key", undefined);
  if (file.length !== KEY_FILE_BYTES)
    throw new LogError("damaged", "it does not have the length of a key file");
  const clear = file.subarray(0, CLEAR_BYTES);
  const rounds = clear.readUInt32BE(HEADER_BYTES + SALT_BYTES);
  if (![0, KDF_ITERATIONS, STRONG_KDF_ITERATIONS].includes(rounds))
    throw new LogError("damaged", `it says ${rounds} rounds of derivation`);
  const salt = clear.subarray(HEADER_BYTES, HEADER_BYTES + SALT_BYTES);
  const key = Key.derive(password, salt, STOCK_CIPHER, rounds === 0 ? 1 : rounds);
  try {
    const wrapping = wrappingKey(key, clear);
    const cipher = createDecipheriv("aes-256-gcm", wrapping, Buffer.alloc(12), { authTagLength: TAG_BYTES });
    cipher.setAAD(clear).setAuthTag(file.subarray(file.length - TAG_BYTES));
    const content = cipher.update(file.subarray(CLEAR_BYTES, file.length - TAG_BYTES));
    try {
      cipher.final();
    } catch (cause) {
      throw new LogError("wrong-password", "wrong password, or it was changed: nobody can tell", { cause });
    }
    if (content[0] !== CONTENT_VERSION)
      throw new LogError("too-new", `its version is ${content[0]}; use a newer sqlfuse`);
    const log = Buffer.from(logOf(header));
    const [volume, secret] = [content.subarray(1, 17), content.subarray(25)];
    return { log, volume, secret, writer: content.readBigUInt64BE(17) };
  } finally {
    key.wipe();
  }
}

/** Names of the key files that are there, the oldest first. @throws LogError unreachable */
export async function keyFiles(store: RemoteStore): Promise<string[]> {
  const found = await store.list(KEY_FILES);
  const names = found.map(({ name }) => name);
  return names.filter((name) => /^\d{16}$/.test(name.slice(KEY_FILES.length))).sort();
}

/** Whether a log is there. @throws LogError unreachable */
export async function hasLog(store: RemoteStore): Promise<boolean> {
  return (await keyFiles(store)).length > 0;
}

/** Puts a key file there, as the one that counts, and removes the older ones of the same log. @throws LogError */
export async function putKeyFile(store: RemoteStore, logKey: LogKey, key: Key): Promise<void> {
  const before = await keyFiles(store);
  const last = Number(before.at(-1)?.slice(KEY_FILES.length) ?? 0);
  const bytes = encodeKeyFile(logKey, key);
  if (!(await store.put(KEY_FILES + numberName(last + 1), bytes)))
    throw new LogError("other-writer", `${store.url}: somebody else writes a key file there; try again`);
  for (const name of before) {
    const file = await store.get(name, 0, KEY_FILE_BYTES);
    // That of an older log is needed until the new one is whole.
    if (file !== undefined && logOf(file).equals(logKey.log)) await store.remove(name);
  }
}

/** Removes all key files but the one that counts. @throws LogError unreachable */
export async function removeOldKeyFiles(store: RemoteStore): Promise<void> {
  for (const name of (await keyFiles(store)).slice(0, -1)) await store.remove(name);
}

/**
 * What the password opens: the newest log, and those before it of the same volume: there are such while a new log is not
 * whole yet. The newest first. @throws LogError wrong-password, damaged, unreachable
 */
export async function getKeyFiles(store: RemoteStore, password: Buffer): Promise<[LogKey, ...LogKey[]]> {
  // Each costs a derivation, and anybody who writes there can put more.
  const [name, ...older] = (await keyFiles(store)).reverse().slice(0, MOST_KEY_FILES);
  const newest = await readKeyFile(store, name, password);
  const found: [LogKey, ...LogKey[]] = [newest];
  for (const other of older) {
    try {
      const key = await readKeyFile(store, other, password);
      if (key.writer === newest.writer && Buffer.compare(key.volume, newest.volume) === 0) found.push(key);
    } catch (error) {
      if (!(error instanceof LogError) || error.reason === "unreachable") throw error;
    }
  }
  return found;
}

async function readKeyFile(store: RemoteStore, name: string | undefined, password: Buffer): Promise<LogKey> {
  const file = name === undefined ? undefined : await store.get(name, 0, KEY_FILE_BYTES + 1);
  if (file === undefined)
    throw new LogError("unreachable", `${store.url}: no log is there: it has no key file`);
  try {
    return decodeKeyFile(file, password);
  } catch (error) {
    if (!(error instanceof LogError)) throw error;
    throw new LogError(error.reason, `${store.url}: ${name}: ${error.message}`, { cause: error });
  }
}
