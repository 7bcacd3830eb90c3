/**
 * Lets a log go of what nobody can ask for any more: it starts over, with all that the volume keeps now, snapshots too, and
 * what only older segments named is removed. Content that is there already is not shipped again, but where little of its
 * object is still needed, or the object is gone.
 *
 * Replicas that are behind start over with the log.
 */
import { listRemotes } from "../core/remotes.ts";
import type { Database } from "../db/database.ts";
import { type Link, readChain } from "./chain.ts";
import { LogError } from "./errors.ts";
import { readRecords } from "./follower.ts";
import { Pusher, type PushOptions, type PushResult, type PushSite } from "./pusher.ts";
import { objectName, type RemoteStore } from "./remote.ts";
import { checkRemote } from "./setup.ts";
import { forget, type Swept, sweep } from "./sweep.ts";

export interface Collected extends Swept {
  readonly pushed: PushResult;
  /** Objects whose content, as far as it is needed, was shipped anew. */
  readonly repacked: number;
}

/** Nobody else pushes to this remote meanwhile. @throws as Pusher.run */
export async function collect(
  site: PushSite,
  store: RemoteStore,
  name: string,
  options: PushOptions = {},
): Promise<Collected> {
  const { repacked, missing } = await poorObjects(site, store, name, options);
  await forget(site, name, [...repacked, ...missing]);
  const pushed = await new Pusher(site, store, name, { ...options, startOver: true }).run();
  return { pushed, ...(await sweep(site, store, name, options)), repacked: repacked.length };
}

interface Poor {
  readonly repacked: { readonly name: string }[];
  readonly missing: { readonly name: string }[];
}

/** Objects of which less than half is still needed, and those that are noted and not there. @throws LogError */
async function poorObjects(
  site: PushSite,
  store: RemoteStore,
  name: string,
  options: PushOptions,
): Promise<Poor> {
  const remote = listRemotes(site.db).find((one) => one.name === name);
  // The push tells why.
  if (remote === undefined || remote.segment === 0) return { repacked: [], missing: [] };
  const last = await checkRemote(site, store, remote);
  const noted = notedObjects(site.db, remote.id);
  const sizes = new Map((await store.list("data/")).map((file) => [file.name, file.size]));
  // Nothing there is of a log that has not begun yet.
  const needed =
    last === undefined ? new Map<string, number>() : await neededBytes(site, store, last, options);
  const repacked = [...needed].filter(([object, bytes]) => 2 * bytes < (sizes.get(object) ?? 0));
  return {
    repacked: repacked.map(([object]) => ({ name: object })),
    missing: noted.filter((object) => !sizes.has(object)).map((object) => ({ name: object })),
  };
}

function notedObjects(db: Database, remote: number): string[] {
  const rows = db.prepare("SELECT name FROM remote_object WHERE remote = ?1").bindInt(1, remote);
  const found: string[] = [];
  while (rows.step()) found.push(objectName(rows.blob(0)));
  db.release(rows);
  return found;
}

/**
 * Of each object that the log names: the bytes in it of blocks that the volume still has. By their numbers, which no other
 * block gets.
 */
async function neededBytes(
  site: PushSite,
  store: RemoteStore,
  { sealer, segment: { writer, volume } }: Link,
  options: PushOptions,
): Promise<Map<string, number>> {
  const needed = new Map<string, number>();
  const counted = new Set<string>();
  const has = site.db.prepare("SELECT 1 FROM block WHERE id = ?1");
  try {
    for (const { segment } of await readChain(store, sealer, { writer, volume }, undefined))
      for (const ref of segment.records) {
        let object = "";
        for (const record of await readRecords(store, sealer, ref)) {
          if (record.type === "object") object = objectName(record.name);
          if (record.type !== "block") continue;
          await options.breathe?.();
          needed.set(object, needed.get(object) ?? 0);
          const isThere = has.bindInt(1, record.number).step();
          if (isThere) has.reset();
          // Blocks of equal content are one there.
          const place = `${object}:${record.place}`;
          if (!isThere || counted.has(place)) continue;
          counted.add(place);
          needed.set(object, (needed.get(object) ?? 0) + record.length);
        }
      }
  } catch (error) {
    // What is not whole is made up for by starting over.
    if (!(error instanceof LogError) || error.reason === "unreachable") throw error;
    return new Map();
  } finally {
    site.db.release(has);
  }
  return needed;
}
