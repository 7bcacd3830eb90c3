/** Gives a volume a place for its log. */
import { hexMeta } from "../core/format.ts";
import { listRemotes } from "../core/remotes.ts";
import { LogError } from "./errors.ts";
import { hasLog, putKeyFile } from "./keyfile.ts";
import type { PushSite } from "./pusher.ts";
import { openRemote } from "./remote.ts";

/** Notes the remote in the volume, and puts the key file there. @throws LogError unreachable, taken; FsError EEXIST, EINVAL */
export async function addRemoteTo(site: PushSite, name: string, url: string): Promise<void> {
  const store = await openRemote(url);
  if (await hasLog(store))
    throw new LogError("taken", `${url}: a log is there already; choose an empty directory, or: sqlfuse clone ${url} FILE`);
  await site.order({ do: "add", name, url });
  try {
    const remote = listRemotes(site.db).find((one) => one.name === name);
    if (remote === undefined) throw new LogError("unreachable", `${name}: was not noted`);
    const volume = Buffer.from(hexMeta(site.db, "volume_id"), "hex");
    await putKeyFile(store, { ...remote, volume }, site.key);
    await site.order({ do: "keyed", name, salt: site.key.salt.toString("hex") });
  } catch (error) {
    await site.order({ do: "remove", name });
    throw error;
  }
}
