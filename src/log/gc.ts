/**
 * Lets a log go of what nobody can ask for any more: it starts over, with all that the volume keeps now, snapshots too, and
 * what only older segments named is removed. Content that is there already is not shipped again, but where little of its
 * object is still needed, or the object is gone: which those are is known when it has started over, so that it does so once
 * more then. Replicas that are behind start over with the log.
 */
import { listRemotes, type Remote } from "../core/remotes.ts";
import type { Database } from "../db/database.ts";
import type { RemoteStore } from "../remote/remote.ts";
import { readChain } from "./chain.ts";
import { readRecords } from "./follower.ts";
import { objectName } from "./names.ts";
import { Pusher, type PushOptions, type PushResult, type PushSite } from "./pusher.ts";
import { HEADER_BYTES, Sealer, TAG_BYTES } from "./seal.ts";
import { checkRemote, volumeOf } from "./setup.ts";
import { forget, type Swept, sweep } from "./sweep.ts";

export interface Collected extends Swept {
  readonly pushed: PushResult;
  /** Objects whose content, as far as it is needed, was shipped anew. */
  readonly repacked: number;
  /** The segment with which the log starts now. */
  readonly start: number;
}

/** Nobody else pushes to this remote meanwhile. @throws as Pusher.run */
export async function collect(
  site: PushSite,
  store: RemoteStore,
  name: string,
  options: PushOptions = {},
): Promise<Collected> {
  const startOver = () => new Pusher(site, store, name, { ...options, startOver: true }).run();
  const remote = listRemotes(site.db).find((one) => one.name === name);
  if (remote !== undefined) {
    // Nothing is forgotten for the sake of a log that is not ours any more.
    await checkRemote(site, store, remote);
    await forget(site, name, await missingObjects(site.db, store, remote));
  }
  let pushed = await startOver();
  const poor = await poorObjects(store, site, name, options);
  if (poor.length > 0) {
    await forget(site, name, poor);
    const { objects, bytes, blocks } = pushed;
    pushed = await startOver();
    pushed = {
      ...pushed,
      objects: pushed.objects + objects,
      bytes: pushed.bytes + bytes,
      blocks: pushed.blocks + blocks,
    };
  }
  const start = pushed.segment - pushed.segments + 1;
  return { pushed, start, ...(await sweep(site, store, name, options)), repacked: poor.length };
}

/** Objects that are noted, and not there: so that their content is shipped again. @throws LogError */
async function missingObjects(db: Database, store: RemoteStore, { id }: Remote): Promise<{ name: string }[]> {
  const there = new Set((await store.list("data/")).map(({ name }) => name));
  const rows = db.prepare("SELECT name FROM remote_object WHERE remote = ?1").bindInt(1, id);
  const missing: { name: string }[] = [];
  while (rows.step()) {
    const name = objectName(rows.blob(0));
    if (!there.has(name)) missing.push({ name });
  }
  db.release(rows);
  return missing;
}

/** Objects of which the log, which started over, names less than half. @throws LogError */
async function poorObjects(
  store: RemoteStore,
  site: PushSite,
  name: string,
  options: PushOptions,
): Promise<{ name: string }[]> {
  const remote = listRemotes(site.db).find((one) => one.name === name);
  if (remote === undefined) return [];
  const sealer = new Sealer(remote.log, remote.secret);
  const whose = { writer: remote.writer, volume: volumeOf(site) };
  /** Places in each object, and the bytes that are named there. */
  const named = new Map<string, { readonly places: Set<number>; bytes: number }>();
  for (const { segment } of await readChain(store, sealer, whose, undefined))
    for (const ref of segment.records) {
      let object = "";
      for (const record of await readRecords(store, sealer, ref)) {
        if (record.type === "object") object = objectName(record.name);
        if (record.type !== "block") continue;
        await options.breathe?.();
        const known = named.get(object) ?? { places: new Set(), bytes: HEADER_BYTES };
        named.set(object, known);
        // Blocks of equal content are one there.
        if (known.places.has(record.place)) continue;
        known.places.add(record.place);
        known.bytes += record.length + TAG_BYTES;
      }
    }
  const files = await store.list("data/");
  return files.filter((file) => 2 * (named.get(file.name)?.bytes ?? file.size) < file.size);
}
