/**
 * Gives a log a new secret. It goes on as another log: its first segment has the next number and names the one before it,
 * and everything that the volume keeps is shipped again, under the new keys. Then all that the old secret opens is removed.
 *
 * Stopped at any moment, the next push goes on: an older key file that is still there says that something is left to do.
 */
import { randomBytes } from "node:crypto";
import { listRemotes, type Remote } from "../core/remotes.ts";
import { LogError } from "../remote/errors.ts";
import type { RemoteStore } from "../remote/remote.ts";
import { keyFiles } from "./keyfile.ts";
import { hasNote, putNote } from "./newlog.ts";
import { Pusher, type PushOptions, type PushResult, type PushSite } from "./pusher.ts";
import { KEY_BYTES, LOG_BYTES, Sealer } from "./seal.ts";
import { checkRemote } from "./setup.ts";

/** Nobody else pushes to this remote meanwhile. @throws LogError unfinished; as Pusher.run */
export async function rotate(
  site: PushSite,
  store: RemoteStore,
  name: string,
  options: PushOptions = {},
): Promise<PushResult> {
  await checkRemote(site, store, remoteOf(site, name));
  await refuseUnfinished(store, remoteOf(site, name));
  const { segment, log, secret } = remoteOf(site, name);
  const fresh = new Sealer(randomBytes(LOG_BYTES), randomBytes(KEY_BYTES));
  await putNote(store, new Sealer(log, secret), fresh, segment + 1);
  const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex");
  await site.order({ do: "rotate", name, log: hex(fresh.log), secret: hex(fresh.secret) });
  if (Buffer.compare(remoteOf(site, name).log, fresh.log) !== 0)
    throw new LogError("unreachable", `${name}: the mount is of an older sqlfuse; unmount it, and try again`);
  return await new Pusher(site, store, name, options).run();
}

/**
 * A replica follows one change of the secret by the note that its own secret opens. If another began before the first one is
 * over no replica could have followed that, and all would have to be cloned anew.
 */
async function refuseUnfinished(store: RemoteStore, { name, epoch, segment }: Remote): Promise<void> {
  const isBegun = epoch === 0 && segment > 0 && (await hasNote(store, segment + 1));
  if (!isBegun && (await keyFiles(store)).length < 2) return;
  throw new LogError(
    "unfinished",
    `${name}: its secret is being changed already, and that was stopped; go on with it first: sqlfuse push`,
  );
}

function remoteOf(site: PushSite, name: string): Remote {
  const found = listRemotes(site.db).find((one) => one.name === name);
  if (found === undefined)
    throw new LogError("unreachable", `${name}: no such remote; see: sqlfuse remote list`);
  return found;
}
