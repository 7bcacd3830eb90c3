/**
 * The note that a log goes on as another one, with a new secret: so that who has an old key file and the old password reads
 * nothing that is shipped from then on (`sqlfuse remote rotate`).
 *
 * It is a sealed file (src/log/seal.ts) of kind N, under the secret of the old log, named by the number of the segment with
 * which the new log begins. Its frame has version (1 byte, 1), the name of the new log (16 bytes), and the fingerprint of its
 * secret (32 bytes). So a replica of the old log can tell its new one from what somebody else made, who has an old key file
 * only, and no secret is given away.
 */
import { LogError } from "../remote/errors.ts";
import type { RemoteStore } from "../remote/remote.ts";
import { numberName } from "./names.ts";
import type { Sealer } from "./seal.ts";

const NOTES = "new/";
const NOTE_VERSION = 1;
/** Of any such note, and more. */
const MOST_NOTE_BYTES = 1024;

function contentOf(fresh: Sealer): Buffer {
  return Buffer.concat([Buffer.from([NOTE_VERSION]), fresh.log, fresh.fingerprint]);
}

/** Takes the place of older ones, which are of secrets that are not known any more. @throws LogError unreachable, other-writer */
export async function putNote(
  store: RemoteStore,
  old: Sealer,
  fresh: Sealer,
  segment: number,
): Promise<void> {
  for (const { name } of await store.list(NOTES)) await store.remove(name);
  const { bytes } = old.seal("new log", contentOf(fresh));
  if (!(await store.put(NOTES + numberName(segment), bytes)))
    throw new LogError(
      "other-writer",
      `${store.url}: somebody else changes the secret of this log; try again`,
    );
}

/** Whether somebody noted that a new log begins with that segment. @throws LogError unreachable */
export async function hasNote(store: RemoteStore, segment: number): Promise<boolean> {
  return (await store.get(NOTES + numberName(segment), 0, MOST_NOTE_BYTES)) !== undefined;
}

/** Whether the writer of the log `old` noted that it goes on as `fresh`. @throws LogError unreachable */
export async function isNoted(store: RemoteStore, old: Sealer, fresh: Sealer): Promise<boolean> {
  for (const { name } of await store.list(NOTES)) {
    const file = await store.get(name, 0, MOST_NOTE_BYTES);
    try {
      if (file !== undefined && old.open("new log", file).equals(contentOf(fresh))) return true;
    } catch (error) {
      if (!(error instanceof LogError)) throw error;
    }
  }
  return false;
}
