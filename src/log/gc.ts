/**
 * Lets a log go of what nobody can ask for any more: it starts over, with all that the volume keeps now, snapshots too, and
 * what only older segments named is removed. Content that is there already is not shipped again.
 *
 * What goes is forgotten in the volume before it goes there, so that no later push takes it to be there. Replicas that are
 * behind start over with the log.
 */
import { hexMeta } from "../core/format.ts";
import { listRemotes } from "../core/remotes.ts";
import { type Link, readChain } from "./chain.ts";
import { namedObjects, segmentsBefore } from "./contents.ts";
import { LogError } from "./errors.ts";
import { Pusher, type PushOptions, type PushResult, type PushSite } from "./pusher.ts";
import { numberName, type RemoteStore, type StoredFile, segmentsOf } from "./remote.ts";
import { Sealer } from "./seal.ts";

export interface Collected {
  readonly pushed: PushResult;
  /** What went. */
  readonly segments: number;
  readonly objects: number;
  readonly bytes: number;
}

/** Objects that are forgotten in one order. */
const BATCH = 1000;

/** Nobody else pushes to this remote meanwhile. @throws as Pusher.run */
export async function collect(
  site: PushSite,
  store: RemoteStore,
  name: string,
  options: PushOptions = {},
): Promise<Collected> {
  const pushed = await new Pusher(site, store, name, { ...options, startOver: true }).run();
  const remote = listRemotes(site.db).find((one) => one.name === name);
  if (remote === undefined)
    throw new LogError("unreachable", `${name}: no such remote; see: sqlfuse remote list`);
  const sealer = new Sealer(remote.log, remote.secret);
  const whose = { writer: remote.writer, volume: Buffer.from(hexMeta(site.db, "volume_id"), "hex") };
  const chain = await readChain(store, sealer, whose, undefined);
  const old = await segmentsBefore(store, whose, chain);
  const needless = await needlessObjects(store, sealer, chain, options);
  for (let i = 0; i < needless.length; i += BATCH) {
    const objects = needless
      .slice(i, i + BATCH)
      .map((file) => file.name.slice(file.name.lastIndexOf("/") + 1));
    await site.order({ do: "dropped", name, objects });
  }
  for (const number of old) await store.remove(segmentsOf(remote.writer) + numberName(number));
  let bytes = 0;
  for (const file of needless) {
    await store.remove(file.name);
    bytes += file.size;
    await options.breathe?.();
  }
  return { pushed, segments: old.length, objects: needless.length, bytes };
}

async function needlessObjects(
  store: RemoteStore,
  sealer: Sealer,
  chain: readonly Link[],
  options: PushOptions,
): Promise<StoredFile[]> {
  const named = await namedObjects(store, sealer, chain, options.breathe);
  return (await store.list("data/")).filter(
    (file) => !named.has(file.name) && /\/[0-9a-f]{64}$/.test(file.name),
  );
}
