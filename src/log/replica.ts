/** Makes a replica from a log, and keeps one up to date. */
import { NewVolume } from "../core/create.ts";
import { OpenError } from "../core/errors.ts";
import { hexMeta, isReplica, requireFeature } from "../core/format.ts";
import { listRemotes, type Remote } from "../core/remotes.ts";
import { Volume, type VolumeOptions } from "../core/volume.ts";
import { Database } from "../db/database.ts";
import type { Key } from "../db/key.ts";
import { type Link, readChain } from "./chain.ts";
import { LogError } from "./errors.ts";
import { type Fetched, Follower, type FollowOptions } from "./follower.ts";
import { getKeyFile, type LogKey } from "./keyfile.ts";
import type { RemoteStore } from "./remote.ts";
import { Sealer } from "./seal.ts";

/** What a replica calls the log that it follows. */
const ORIGIN = "origin";

export interface CloneOptions extends FollowOptions {
  /** To go on as the writer of the log, in the place of one that is lost. */
  readonly restore?: boolean;
  /** The last segment to apply. */
  readonly until?: number;
}

export interface FollowResult extends Fetched {
  readonly epoch: number;
  /** The last segment that is applied. */
  readonly segment: number;
  readonly hash: Uint8Array;
}

/**
 * Makes the volume `path` from a log that `password` opens, under the same password: whole, or not at all.
 * @throws LogError, OpenError
 */
export async function clone(
  store: RemoteStore,
  path: string,
  password: Buffer,
  options: CloneOptions = {},
): Promise<FollowResult> {
  const logKey = await getKeyFile(store, password);
  const sealer = new Sealer(logKey.log, logKey.secret);
  const chain = await readChain(store, sealer, logKey, undefined, options.until);
  const draft = new NewVolume(path, password);
  try {
    const db = new Database(draft.path, draft.key, { mode: "readwrite", cacheBytes: 64 * 2 ** 20 });
    let result: FollowResult;
    try {
      result = await fillDraft(db, store, sealer, logKey, chain, options);
    } finally {
      db.close();
    }
    draft.publish();
    return result;
  } finally {
    draft.discard();
    logKey.secret.fill(0);
  }
}

async function fillDraft(
  db: Database,
  store: RemoteStore,
  sealer: Sealer,
  logKey: LogKey,
  chain: readonly Link[],
  options: CloneOptions,
): Promise<FollowResult> {
  // Nobody looks at a draft before it is whole and synced, or ever, when anything stops this.
  db.exec("PRAGMA temp_store = MEMORY; PRAGMA synchronous = OFF");
  db.pragma("journal_mode = OFF");
  adopt(db, store.url, logKey);
  const follower = new Follower(db, store, sealer, originOf(db), options);
  await follower.follow(chain);
  const { epoch, segment, hash } = originOf(db);
  if (options.restore === true) becomeWriter(db, epoch);
  db.pragma("journal_mode = WAL"); // it is kept in the file
  return { ...follower.fetched, epoch, segment, hash };
}

/** Makes an empty volume a copy of the one whose log it is. */
function adopt(db: Database, url: string, { log, secret, volume, writer }: LogKey): void {
  db.exec("DELETE FROM inode");
  const put = db.prepare("UPDATE meta SET value = ?2 WHERE key = ?1");
  put.bindText(1, "volume_id").bindBlob(2, volume).run();
  put.bindText(1, "replica_id").bindBigInt(2, writer).run();
  db.release(put);
  requireFeature(db, "replica");
  const insert = db.prepare(
    `INSERT INTO remote (name, url, log, secret, writer, epoch, segment, hash, pending, pending_epoch, synced_ns, key_salt)
       VALUES ('${ORIGIN}', ?1, ?2, ?3, ?4, 0, 0, x'', x'', 0, 0, x'')`,
  );
  insert.bindText(1, url).bindBlob(2, log).bindBlob(3, secret).bindBigInt(4, writer).run();
  db.release(insert);
}

/** From now on this is the volume, and its next push goes on behind the last segment. */
function becomeWriter(db: Database, epoch: number): void {
  db.exec("CREATE INDEX IF NOT EXISTS inode_born ON inode (born)");
  db.exec(
    `UPDATE meta SET value = (SELECT json_group_array(value) FROM json_each(meta.value) WHERE value <> 'replica')
       WHERE key = 'features_incompatible'`,
  );
  db.exec(
    `INSERT OR IGNORE INTO snapshot (epoch, name, created_ns, protected, automatic)
       VALUES (${epoch}, 'pushed-${epoch}', ${BigInt(Date.now()) * 1_000_000n}, 1, 0)`,
  );
}

function originOf(db: Database): Remote {
  const origin = listRemotes(db).find(({ name }) => name === ORIGIN);
  if (origin === undefined || !isReplica(db))
    throw new LogError("unreachable", `${db.path}: not a replica: it was not made by sqlfuse clone`);
  return origin;
}

export type ReplicaOptions = Pick<VolumeOptions, "isHeld" | "cacheBytes">;

/** A replica that is held open for pulls. */
export class Replica {
  readonly #volume: Volume;
  readonly #db: Database;

  /** `options`: as of a volume. @throws OpenError as Volume.open; LogError: it is no replica */
  constructor(path: string, key: Key, onLog: (line: string) => void, options: ReplicaOptions = {}) {
    const { cacheBytes = 64 * 2 ** 20 } = options;
    this.#volume = Volume.open(path, key, { changesReplica: true, onLog, ...options });
    try {
      if (this.#volume.readOnly)
        throw new OpenError("unreadable", path, `${path}: the file or its directory cannot be written`);
      this.#db = new Database(this.#volume.path, key, { mode: "readwrite", cacheBytes });
      this.#db.exec("PRAGMA busy_timeout = 10000; PRAGMA synchronous = FULL; PRAGMA temp_store = MEMORY");
      originOf(this.#db);
    } catch (error) {
      this.close();
      throw error;
    }
  }

  get url(): string {
    return originOf(this.#db).url;
  }

  /** Applies what is new. @throws LogError, SqliteError */
  async pull(store: RemoteStore, options: FollowOptions = {}): Promise<FollowResult> {
    this.#volume.prune();
    this.#volume.commit();
    const origin = originOf(this.#db);
    const sealer = new Sealer(origin.log, origin.secret);
    const volume = Buffer.from(hexMeta(this.#db, "volume_id"), "hex");
    // After a repair it has seen nothing that counts.
    const seen = origin.segment === 0 ? undefined : origin;
    const chain = await readChain(store, sealer, { writer: origin.writer, volume }, seen);
    const follower = new Follower(this.#db, store, sealer, origin, options);
    // A log that is starting over has to come as far as this replica is first.
    const end = chain.at(-1)?.segment.epoch ?? 0;
    if (end >= origin.epoch) await follower.follow(chain);
    const { epoch, segment, hash } = originOf(this.#db);
    return { ...follower.fetched, epoch, segment, hash };
  }

  /** Again: nothing. A pull under way is undone, and ends with an error. */
  close(): void {
    this.#db?.close();
    this.#volume.close();
  }
}
