/** Gives a volume a place for its log. */
import { hexMeta } from "../core/format.ts";
import { listRemotes, type Remote } from "../core/remotes.ts";
import { LogError } from "./errors.ts";
import { hasLog, putKeyFile } from "./keyfile.ts";
import type { PushSite } from "./pusher.ts";
import type { RemoteStore } from "./remote.ts";

/** Notes the remote in the volume, and puts the key file there. @throws LogError unreachable, taken; FsError EEXIST, EINVAL */
export async function addRemoteTo(site: PushSite, name: string, store: RemoteStore): Promise<void> {
  const { url } = store;
  if (await hasLog(store))
    throw new LogError(
      "taken",
      `${url}: a log is there already; choose an empty place, or: sqlfuse clone ${url} FILE`,
    );
  await site.order({ do: "add", name, url });
  try {
    const remote = listRemotes(site.db).find((one) => one.name === name);
    if (remote === undefined) throw new LogError("unreachable", `${name}: was not noted`);
    await renewKeyFile(site, store, remote);
  } catch (error) {
    await site.order({ do: "remove", name });
    throw error;
  }
}

/** Puts a key file there that the volume's password opens, unless it has one: after a rekey it is of the old password. @throws LogError */
export async function renewKeyFile(site: PushSite, store: RemoteStore, remote: Remote): Promise<void> {
  const { key, db } = site;
  if (key.salt.equals(remote.keySalt)) return;
  const volume = Buffer.from(hexMeta(db, "volume_id"), "hex");
  await putKeyFile(store, { ...remote, volume }, key);
  await site.order({ do: "keyed", name: remote.name, salt: key.salt.toString("hex") });
}
