/** Makes a replica from a log, and keeps one up to date. */
import { NewVolume } from "../core/create.ts";
import { OpenError } from "../core/errors.ts";
import { hexMeta, isReplica, requireFeature } from "../core/format.ts";
import { isPartial } from "../core/partial.ts";
import { listRemotes, type Remote } from "../core/remotes.ts";
import { Volume, type VolumeOptions } from "../core/volume.ts";
import { Database } from "../db/database.ts";
import type { Key } from "../db/key.ts";
import { type Link, readChain } from "./chain.ts";
import { LogError } from "./errors.ts";
import { type Fetched, Follower, type FollowOptions } from "./follower.ts";
import { Holdings } from "./holdings.ts";
import { getKeyFile, type LogKey } from "./keyfile.ts";
import { OnDemand, type Readers } from "./ondemand.ts";
import type { RemoteStore } from "./remote.ts";
import { Sealer } from "./seal.ts";

/** What a replica calls the log that it follows. */
const ORIGIN = "origin";

export interface CloneOptions extends FollowOptions {
  /** To go on as the writer of the log, in the place of one that is lost. */
  readonly restore?: boolean;
  /** The last segment to apply. */
  readonly until?: number;
  /** Without the content of large files, which is fetched when it is read. */
  readonly partial?: PartialOptions;
}

interface PartialOptions {
  /** Bytes of fetched content that are here at most, beside what is always here; 0: any. */
  readonly limit: number;
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
  if (options.partial !== undefined) becomePartial(db, options.partial);
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

function becomePartial(db: Database, { limit }: PartialOptions): void {
  requireFeature(db, "partial");
  db.exec(`INSERT OR REPLACE INTO meta (key, value) VALUES ('partial_limit', ${limit})`);
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
  readonly #key: Key;
  readonly #db: Database;
  /** Whoever writes to it next waits for this. */
  #turn: Promise<unknown> = Promise.resolve();

  /** `key` is used until `close`; `options`: as of a volume. @throws OpenError as Volume.open; LogError: it is no replica */
  constructor(path: string, key: Key, onLog: (line: string) => void, options: ReplicaOptions = {}) {
    const { cacheBytes = 64 * 2 ** 20 } = options;
    this.#key = key;
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

  get isPartial(): boolean {
    return isPartial(this.#db);
  }

  /** Has `run` done when nothing else writes. */
  #exclusively<T>(run: () => Promise<T>): Promise<T> {
    const done = this.#turn.then(run);
    this.#turn = done.catch(() => {});
    return done;
  }

  #sealer(): Sealer {
    const { log, secret } = originOf(this.#db);
    return new Sealer(log, secret);
  }

  /** Applies what is new. @throws LogError, SqliteError */
  async pull(store: RemoteStore, options: FollowOptions = {}): Promise<FollowResult> {
    return await this.#exclusively(() => this.#pull(store, options));
  }

  async #pull(store: RemoteStore, options: FollowOptions): Promise<FollowResult> {
    this.#volume.refresh();
    this.#volume.prune();
    this.#volume.commit();
    const origin = originOf(this.#db);
    const sealer = this.#sealer();
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

  /** Fetches blocks of a partial replica for its readers. `close` it before the replica. */
  onDemand(store: RemoteStore, readers: Readers): OnDemand {
    const exclusively = (run: () => Promise<void>): Promise<void> => this.#exclusively(run);
    const reader = new Database(this.#volume.path, this.#key, { mode: "readwrite" });
    reader.exec("PRAGMA query_only = ON; PRAGMA busy_timeout = 10000");
    return new OnDemand(this.#db, reader, store, this.#sealer(), originOf(this.#db).id, readers, exclusively);
  }

  /**
   * Has a file, or a directory and all that ever is in it, kept here whole: what is away is fetched now. Stopped, what came
   * stays, and the next pull goes on. @throws LogError
   */
  async pin(ino: number, store: RemoteStore, options: FollowOptions = {}): Promise<Fetched> {
    return await this.#exclusively(async () => {
      this.#db.exec(`INSERT OR IGNORE INTO pin (ino) VALUES (${ino})`);
      const follower = new Follower(this.#db, store, this.#sealer(), originOf(this.#db), options);
      await follower.fetchKept();
      return follower.fetched;
    });
  }

  /** False where it was not pinned. What only that kept here may go again. */
  async unpin(ino: number): Promise<boolean> {
    return await this.#exclusively(async () => {
      const holdings = new Holdings(this.#db, originOf(this.#db).id);
      try {
        return holdings.unpin(ino);
      } finally {
        holdings.close();
      }
    });
  }

  /** Again: nothing. A pull under way is undone, and ends with an error. */
  close(): void {
    this.#db?.close();
    this.#volume.close();
  }
}
