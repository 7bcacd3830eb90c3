/** Gives a volume a place for its log. */
import { hexMeta } from "../core/format.ts";
import { listRemotes, type Remote } from "../core/remotes.ts";
import { LogError } from "../remote/errors.ts";
import type { RemoteStore } from "../remote/remote.ts";
import { fetchSegment, type Link, openSegment, segmentNumbers } from "./chain.ts";
import { hasLog, keyFiles, putKeyFile } from "./keyfile.ts";
import type { PushSite } from "./pusher.ts";
import { hashOf, Sealer } from "./seal.ts";

/** What the names of a log's files begin with, but of key files. */
const ROOMS = ["log/", "data/", "new/"];

/** Nobody else pushes to a remote of this name meanwhile. Notes the remote in the volume, and puts the key file there. @throws LogError unreachable, taken; FsError EEXIST, EINVAL */
export async function addRemoteTo(site: PushSite, name: string, store: RemoteStore): Promise<void> {
  const { url } = store;
  if (await hasLog(store))
    throw new LogError(
      "taken",
      `${url}: a log is there already; choose an empty place, or: sqlfuse clone ${url} FILE`,
    );
  // What only looks as if it were of a log would be removed by a gc: others, too, keep files in data/, named by hashes.
  for (const prefix of ROOMS)
    if ((await store.list(prefix)).length > 0)
      throw new LogError(
        "taken",
        `${url}: something else is there already, in ${prefix}; choose an empty place`,
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

/**
 * Demands that the log there ends where this volume left it. A segment that was being put when a push was stopped is there
 * or not; where it is, that is noted. Gives the last segment, where it is of this log and not of an older one.
 * @throws LogError rolled-back, other-writer, unreachable; as openSegment
 */
export async function checkRemote(
  site: PushSite,
  store: RemoteStore,
  remote: Remote,
): Promise<Link | undefined> {
  const { url } = store;
  const { name, writer, segment } = remote;
  const last = (await segmentNumbers(store, writer)).at(-1) ?? 0;
  if (last < segment)
    throw new LogError(
      "rolled-back",
      `${url}: the log there ends at segment ${last}, and ${segment} were pushed: it was cut off, or is an older copy`,
    );
  if (last === 0) return undefined;
  const file = (await fetchSegment(store, writer, last)) ?? Buffer.alloc(0);
  const hash = hashOf(file);
  const open = (): Link => {
    const whose = { writer, volume: volumeOf(site) };
    return openSegment(store, new Sealer(remote.log, remote.secret), whose, last, file);
  };
  if (last === segment && hash.equals(remote.hash)) {
    try {
      return open();
    } catch (error) {
      if (error instanceof LogError && error.reason === "other-log") return undefined;
      throw error;
    }
  }
  if (last === segment + 1 && hash.equals(remote.pending)) {
    const link = open();
    const { epoch } = link.segment;
    await site.order({ do: "advance", name, epoch, segment: last, hash: hash.toString("hex") });
    return link;
  }
  throw new LogError(
    "other-writer",
    `${url}: segment ${last} there was not pushed by this volume: another copy of it writes there, or this is an older copy`,
  );
}

/**
 * Puts a key file there that the volume's password opens, unless it has one: after a rekey it is of the old password, and
 * somebody may have removed it. Tells how many are there then: older ones are of an older log. @throws LogError
 */
export async function renewKeyFile(site: PushSite, store: RemoteStore, remote: Remote): Promise<number> {
  const { key } = site;
  const count = (await keyFiles(store)).length;
  if (key.salt.equals(remote.keySalt) && count > 0) return count;
  await putKeyFile(store, { ...remote, volume: volumeOf(site) }, key);
  await site.order({ do: "keyed", name: remote.name, salt: key.salt.toString("hex") });
  return (await keyFiles(store)).length;
}

/** volume_id. */
export function volumeOf({ db }: PushSite): Buffer {
  return Buffer.from(hexMeta(db, "volume_id"), "hex");
}
