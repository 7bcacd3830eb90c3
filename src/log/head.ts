/**
 * The head of a log: the newest segment of it that was seen, kept in a small file elsewhere, as on a stick. By it a clone,
 * which has seen nothing, refuses a log that was cut off, or is an older copy; and so do a pull and a push.
 *
 * It is one line with a checksum, and takes the place of the one before as a whole. After a `remote rotate` it tells the
 * log that it was of; the one that follows names that segment by its hash.
 */
import { closeSync, constants, fstatSync, openSync, readSync } from "node:fs";
import { badHead, checksum, putHeadFile } from "../core/head.ts";
import { LogError } from "../remote/errors.ts";
import type { RemoteStore } from "../remote/remote.ts";
import { readChain, type Seen, type Whose } from "./chain.ts";
import type { Keys } from "./seal.ts";

export interface LogHead extends Seen {
  /** volume_id. */
  readonly volume: Uint8Array;
  readonly log: Uint8Array;
}

/** A head, or a file in its place, is not longer. */
const MOST_BYTES = 4096;

export function encodeLogHead({ volume, log, segment, hash }: LogHead): Buffer {
  const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex");
  const text = `sqlfuse-log-head 1 volume=${hex(volume)} log=${hex(log)} segment=${segment} hash=${hex(hash)}`;
  return Buffer.from(`${text} check=${checksum(text)}\n`);
}

/** Undefined where it is not whole. */
export function decodeLogHead(bytes: Buffer): LogHead | undefined {
  const line =
    /^(sqlfuse-log-head 1 volume=([0-9a-f]{32}) log=([0-9a-f]{32}) segment=(\d{1,15}) hash=([0-9a-f]{64})) check=([0-9a-f]{16})\n$/;
  const [, text = "", volume = "", log = "", segment = "", hash = "", check] =
    line.exec(bytes.toString("latin1")) ?? [];
  if (check !== checksum(text)) return undefined;
  const bytesOf = (digits: string) => Buffer.from(digits, "hex");
  return { volume: bytesOf(volume), log: bytesOf(log), segment: Number(segment), hash: bytesOf(hash) };
}

/** Undefined where there is no such file. @throws OpenError bad-head */
export function readLogHead(path: string): LogHead | undefined {
  let fd: number;
  try {
    // A FIFO would keep who opens it waiting.
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code ?? "error";
    if (code === "ENOENT") return undefined;
    throw badHead(path, `cannot be opened (${code})`, cause);
  }
  try {
    const bytes = Buffer.alloc(MOST_BYTES);
    const length = fstatSync(fd).isFile() ? readSync(fd, bytes, 0, MOST_BYTES, 0) : 0;
    const head = decodeLogHead(bytes.subarray(0, length));
    if (head !== undefined) return head;
    throw badHead(
      path,
      "is not the head of a log, or damaged; name another file, or remove it to begin anew",
    );
  } finally {
    closeSync(fd);
  }
}

/** @throws OpenError bad-head */
export function writeLogHead(path: string, head: LogHead): void {
  putHeadFile(path, encodeLogHead(head));
}

/**
 * Whether a head has seen more than one who has seen `seen` himself; he need not be shown what is older.
 * @throws LogError foreign, diverged
 */
export function hasSeenMore(head: LogHead, seen: Seen, volume: Uint8Array, url: string): boolean {
  refuseOtherVolume(head, volume, url);
  if (head.segment !== seen.segment) return head.segment > seen.segment;
  if (Buffer.compare(head.hash, seen.hash) === 0) return false;
  const message = `${url}: segment ${seen.segment} is another one here than the head file has seen: another log took its place`;
  throw new LogError("diverged", message);
}

function refuseOtherVolume(head: LogHead, volume: Uint8Array, url: string): void {
  if (Buffer.compare(head.volume, volume) !== 0)
    throw new LogError("foreign", `${url}: the head file is of the log of another volume`);
}

/**
 * Demands that the log there has what its head has seen, and goes on from it.
 * @throws LogError rolled-back, diverged, incomplete, foreign; as readChain
 */
export async function refuseOlderLog(
  store: RemoteStore,
  keys: Keys,
  whose: Whose,
  head: LogHead,
): Promise<void> {
  refuseOtherVolume(head, whose.volume, store.url);
  const [first] = await readChain(store, keys, whose, head).catch((error: unknown) => {
    if (!(error instanceof LogError)) throw error;
    throw new LogError(error.reason, `${error.message} (so the head file says)`, { cause: error });
  });
  if (first === undefined || Buffer.compare(first.sealer.log, head.log) === 0) return;
  // Its first segment names the one that was seen: or nothing proves that it follows.
  if (first.segment.number === head.segment + 1) return;
  throw new LogError(
    "diverged",
    `${store.url}: the head file is of another log: that of another remote, or of this one before its secret was changed; ` +
      "compare by hand with who has seen more, and remove the head file to begin anew",
  );
}
