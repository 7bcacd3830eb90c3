/**
 * Removes what a log that started over does not need any more: older segments, objects that nothing names, key files of
 * older logs. What goes is forgotten in the volume before it goes there, so that no later push takes it to be there. Key
 * files go last: as long as an older one is there, the next push goes on with this.
 */
import { listRemotes } from "../core/remotes.ts";
import { LogError } from "../remote/errors.ts";
import type { RemoteStore, StoredFile } from "../remote/remote.ts";
import { type Link, readChain } from "./chain.ts";
import { namedObjects, segmentsBefore } from "./contents.ts";
import { removeOldKeyFiles } from "./keyfile.ts";
import { numberName, segmentsOf } from "./names.ts";
import type { PushOptions, PushSite } from "./pusher.ts";
import { Sealer } from "./seal.ts";
import { volumeOf } from "./setup.ts";

/** What went. */
export interface Swept {
  readonly segments: number;
  readonly objects: number;
  readonly bytes: number;
}

/** Objects that are forgotten in one order. */
const BATCH = 1000;

/** Nobody else pushes to this remote meanwhile. @throws LogError, FsError */
export async function sweep(
  site: PushSite,
  store: RemoteStore,
  name: string,
  options: Pick<PushOptions, "breathe"> = {},
): Promise<Swept> {
  const remote = listRemotes(site.db).find((one) => one.name === name);
  if (remote === undefined)
    throw new LogError("unreachable", `${name}: no such remote; see: sqlfuse remote list`);
  const sealer = new Sealer(remote.log, remote.secret);
  const whose = { writer: remote.writer, volume: volumeOf(site) };
  const chain = await readChain(store, sealer, whose, undefined);
  const old = await segmentsBefore(store, whose, chain);
  const needless = await needlessObjects(store, sealer, chain, options);
  await forget(site, name, needless);
  for (const number of old) await store.remove(segmentsOf(remote.writer) + numberName(number));
  let bytes = 0;
  for (const file of needless) {
    await store.remove(file.name);
    bytes += file.size;
    await options.breathe?.();
  }
  await removeOldKeyFiles(store);
  return { segments: old.length, objects: needless.length, bytes };
}

/** Notes that these objects are not there any more, or will not be. @throws FsError */
export async function forget(
  site: PushSite,
  name: string,
  files: readonly { readonly name: string }[],
): Promise<void> {
  for (let i = 0; i < files.length; i += BATCH) {
    const objects = files.slice(i, i + BATCH).map((file) => file.name.slice(file.name.lastIndexOf("/") + 1));
    await site.order({ do: "dropped", name, objects });
  }
}

async function needlessObjects(
  store: RemoteStore,
  sealer: Sealer,
  chain: readonly Link[],
  options: Pick<PushOptions, "breathe">,
): Promise<StoredFile[]> {
  const named = await namedObjects(store, sealer, chain, options.breathe);
  return (await store.list("data/")).filter(
    (file) => !named.has(file.name) && /\/[0-9a-f]{64}$/.test(file.name),
  );
}
