/** Makes a replica from a log, and keeps one up to date. */
import { NewVolume } from "../core/create.ts";
import { OpenError } from "../core/errors.ts";
import { hexMeta, isReplica, numberMeta, requireFeature } from "../core/format.ts";
import { listRemotes, type Remote } from "../core/remotes.ts";
import { Volume, type VolumeOptions } from "../core/volume.ts";
import { Database } from "../db/database.ts";
import type { Key } from "../db/key.ts";
import { LogError } from "../remote/errors.ts";
import type { RemoteStore } from "../remote/remote.ts";
import { fetchSegment, type Link, readChain, readSegment, segmentNumbers } from "./chain.ts";
import { type Fetched, Follower, type FollowOptions } from "./follower.ts";
import { hasSeenMore, type LogHead, refuseOlderLog } from "./head.ts";
import { Holdings } from "./holdings.ts";
import { getKeyFiles, type LogKey } from "./keyfile.ts";
import { isNoted } from "./newlog.ts";
import { OnDemand, type Readers } from "./ondemand.ts";
import { hashOf, type Keys, keysOf, Sealer } from "./seal.ts";

/** What a replica calls the log that it follows. */
const ORIGIN = "origin";

export interface CloneOptions extends FollowOptions {
  /** To go on as the writer of the log, in the place of one that is lost. */
  readonly restore?: boolean;
  /** The last segment to apply. */
  readonly until?: number;
  /** What was seen of the log elsewhere: one that ends before it is refused. */
  readonly head?: LogHead;
  /** Without the content of large files, which is fetched when it is read. */
  readonly partial?: PartialOptions;
}

interface PartialOptions {
  /** Bytes of fetched content that are here at most, beside what is always here; 0: any. */
  readonly limit: number;
}

export interface PullOptions extends FollowOptions {
  /** Opens the key file of the remote, where the log got another secret. */
  readonly password?: Buffer;
  /** What was seen of the log elsewhere: one that ends before it is refused. */
  readonly head?: LogHead;
}

export interface FollowResult extends Fetched {
  readonly epoch: number;
  /** The last segment that is applied. */
  readonly segment: number;
  readonly hash: Uint8Array;
  /** When it was made, in nanoseconds since 1970; 0 where nothing was applied. */
  readonly createdNs: bigint;
  /** volume_id, and the name of the log. */
  readonly volume: Uint8Array;
  readonly log: Uint8Array;
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
  const logKeys = await getKeyFiles(store, password);
  const [newest] = logKeys;
  const keys = keysOf(logKeys.map(({ log, secret }) => new Sealer(log, secret)));
  if (options.head !== undefined) await refuseOlderLog(store, keys, newest, options.head);
  const chain = await readChain(store, keys, newest, undefined, options.until);
  // While a new log is not whole it is that before it.
  const { log } = chain[0]?.sealer ?? newest;
  const logKey = logKeys.find((one) => Buffer.compare(one.log, log) === 0) ?? newest;
  const draft = new NewVolume(path, password);
  try {
    const db = new Database(draft.path, draft.key, { mode: "readwrite", cacheBytes: 64 * 2 ** 20 });
    let result: FollowResult;
    try {
      result = await fillDraft(db, store, logKey, chain, options);
      if (options.restore === true) await becomeWriter(db, store, keys, newest);
      db.pragma("journal_mode = WAL"); // it is kept in the file
    } finally {
      db.close();
    }
    draft.publish();
    return result;
  } finally {
    draft.discard();
    for (const { secret } of logKeys) secret.fill(0);
  }
}

async function fillDraft(
  db: Database,
  store: RemoteStore,
  logKey: LogKey,
  chain: readonly Link[],
  options: CloneOptions,
): Promise<FollowResult> {
  // Nobody looks at a draft before it is whole and synced, or ever, when anything stops this.
  db.exec("PRAGMA temp_store = MEMORY; PRAGMA synchronous = OFF");
  db.pragma("journal_mode = OFF");
  adopt(db, store.url, logKey);
  if (options.partial !== undefined) becomePartial(db, options.partial);
  const sealer = new Sealer(logKey.log, logKey.secret);
  const follower = new Follower(db, store, sealer, originOf(db), options);
  await follower.follow(chain);
  return resultOf(db, follower, chain);
}

function resultOf(db: Database, follower: Follower, chain: readonly Link[]): FollowResult {
  const { epoch, segment, hash, log } = originOf(db);
  const last = chain.at(-1)?.segment;
  const createdNs = last?.number === segment ? last.createdNs : 0n;
  const volume = Buffer.from(hexMeta(db, "volume_id"), "hex");
  return { ...follower.fetched, epoch, segment, hash, createdNs, volume, log };
}

/** Makes an empty volume a copy of the one whose log it is. */
function adopt(db: Database, url: string, { log, secret, volume, writer }: LogKey): void {
  db.exec("DELETE FROM inode");
  const put = db.prepare("UPDATE meta SET value = ?2 WHERE key = ?1");
  put.bindText(1, "volume_id").bindBlob(2, volume).run();
  put.bindText(1, "replica_id").bindBigInt(2, writer).run();
  db.release(put);
  // What its content needs is said by what is pulled.
  db.exec("UPDATE meta SET value = '[]' WHERE key = 'features_incompatible'");
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

/**
 * From now on this is the volume, and its next push goes on behind the last segment that is there. Where that one is not
 * applied here the log starts over, with epochs that nobody has seen.
 */
async function becomeWriter(db: Database, store: RemoteStore, keys: Keys, newest: LogKey): Promise<void> {
  const { epoch, segment, log } = originOf(db);
  db.exec("CREATE INDEX IF NOT EXISTS inode_born ON inode (born)");
  db.exec(
    `UPDATE meta SET value = (SELECT json_group_array(value) FROM json_each(meta.value) WHERE value <> 'replica')
       WHERE key = 'features_incompatible'`,
  );
  db.exec(
    `INSERT OR IGNORE INTO snapshot (epoch, name, created_ns, protected, automatic)
       VALUES (${epoch}, 'pushed-${epoch}', ${BigInt(Date.now()) * 1_000_000n}, 1, 0)`,
  );
  if (Buffer.compare(log, newest.log) !== 0) takeOver(db, newest);
  const left = (await segmentNumbers(store, newest.writer)).filter((number) => number > segment);
  const last = left.at(-1);
  if (last === undefined) return;
  let highest = epoch;
  for (const number of left) {
    const link = await readSegment(store, keys, newest, number).catch((error: unknown) => {
      // One that cannot be read tells of no epoch; one that cannot be had may.
      if (error instanceof LogError && error.reason !== "unreachable") return undefined;
      throw error;
    });
    highest = Math.max(highest, link?.segment.epoch ?? 0);
  }
  const hash = hashOf((await fetchSegment(store, newest.writer, last)) ?? Buffer.alloc(0)).toString("hex");
  db.exec(`UPDATE meta SET value = max(value, ${highest + 1}) WHERE key = 'epoch'`);
  db.exec(`UPDATE remote SET epoch = 0, segment = ${last}, hash = x'${hash}'`);
}

/** A new log that had not begun yet, or not come as far: the next push begins it. */
function takeOver(db: Database, { log, secret }: LogKey): void {
  db.exec("DELETE FROM remote_block; DELETE FROM remote_object");
  const update = db.prepare("UPDATE remote SET log = ?1, secret = ?2, epoch = 0");
  update.bindBlob(1, log).bindBlob(2, secret).run();
  db.release(update);
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
  #closed = false;

  /** `key` is used until `close`; `options`: as of a volume. @throws OpenError as Volume.open; LogError: it is no replica */
  constructor(path: string, key: Key, onLog: (line: string) => void, options: ReplicaOptions = {}) {
    const { cacheBytes = 64 * 2 ** 20 } = options;
    this.#key = key;
    this.#volume = Volume.open(path, key, { changesReplica: true, onLog, ...options });
    try {
      if (this.#volume.readOnly)
        throw new OpenError("unreadable", path, `${path}: the file or its directory cannot be written`);
      this.#db = new Database(this.#volume.path, key, { mode: "readwrite", cacheBytes });
      this.#configure();
      originOf(this.#db);
    } catch (error) {
      this.close();
      throw error;
    }
  }

  #configure(): void {
    this.#db.exec("PRAGMA busy_timeout = 10000; PRAGMA synchronous = FULL; PRAGMA temp_store = MEMORY");
    this.#db.exec("PRAGMA wal_autocheckpoint = 0");
  }

  get url(): string {
    return originOf(this.#db).url;
  }

  /** Name of the log that it follows now, in hexadecimal. */
  get log(): string {
    return Buffer.from(originOf(this.#db).log).toString("hex");
  }

  /** Has `run` done when nothing else writes. */
  #exclusively<T>(run: () => Promise<T>): Promise<T> {
    const done = this.#turn.then(() => {
      this.#heal();
      return run();
    });
    this.#turn = done.catch(() => {});
    return done;
  }

  /** A connection that met a damaged page fails every call from then on: it is opened anew. @throws SqliteError */
  #heal(): void {
    if (this.#closed || (this.#db.isOpen && !this.#db.isPoisoned)) return;
    this.#db.reopen();
    this.#configure();
  }

  #sealer(): Sealer {
    const { log, secret } = originOf(this.#db);
    return new Sealer(log, secret);
  }

  /** Applies what is new. @throws LogError, SqliteError */
  async pull(store: RemoteStore, options: PullOptions = {}): Promise<FollowResult> {
    return await this.#exclusively(() => this.#pull(store, options));
  }

  async #pull(store: RemoteStore, options: PullOptions): Promise<FollowResult> {
    this.#volume.refresh();
    this.#volume.prune();
    this.#volume.commit();
    const origin = originOf(this.#db);
    const sealer = this.#sealer();
    const chain = await this.#chain(store, sealer, origin, options.password);
    const current = chain[0]?.sealer ?? sealer;
    await this.#refuseOlder(store, keysOf([sealer, current]), origin, options.head);
    const follower = new Follower(this.#db, store, current, origin, options);
    // A log that is starting over has to come as far as this replica is first.
    const end = chain.at(-1)?.segment.epoch ?? 0;
    const had = numberMeta(this.#db, "epoch") - 1;
    if (origin.segment === 0 && end < had)
      throw new LogError(
        "rolled-back",
        `${store.url}: the log ends at epoch ${end}, and this replica was at ${had}: it was cut off, or is an older copy`,
      );
    if (end >= origin.epoch) await follower.follow(chain);
    await follower.fetchLeft();
    // Nothing new is news as well.
    if (chain.length === 0)
      this.#db.exec(
        `UPDATE remote SET synced_ns = ${BigInt(Date.now()) * 1_000_000n} WHERE id = ${origin.id}`,
      );
    return resultOf(this.#db, follower, chain);
  }

  /** What is new, proved: also where it is of a new log, which the writer of this one noted. @throws LogError */
  async #chain(
    store: RemoteStore,
    sealer: Sealer,
    origin: Remote,
    password: Buffer | undefined,
  ): Promise<Link[]> {
    const volume = Buffer.from(hexMeta(this.#db, "volume_id"), "hex");
    const whose = { writer: origin.writer, volume };
    // After a repair it has seen nothing that counts.
    const seen = origin.segment === 0 ? undefined : origin;
    try {
      return await readChain(store, sealer, whose, seen);
    } catch (error) {
      if (!(error instanceof LogError) || error.reason !== "other-log") throw error;
      const pull = `sqlfuse pull ${this.#volume.path}`;
      if (password === undefined)
        throw new LogError(
          "other-log",
          `${error.message}; if its secret was changed by remote rotate, unmount this replica, and go on with: ${pull}`,
        );
      const found = await this.#newKeys(store, origin.writer, volume, password);
      const chain = await readChain(store, keysOf([sealer, ...found]), whose, seen);
      const [first] = chain;
      if (first === undefined || first.sealer.log === sealer.log) return chain;
      if (first.segment.base === 0 && (await isNoted(store, sealer, first.sealer))) return chain;
      throw new LogError(
        "other-log",
        `${store.url}: the log there is another one, and nothing proves that it goes on with that which was seen here: its ` +
          "secret was changed more than once, or somebody put it there; if it is yours, clone it anew",
      );
    }
  }

  async #refuseOlder(
    store: RemoteStore,
    keys: Keys,
    origin: Remote,
    head: LogHead | undefined,
  ): Promise<void> {
    const volume = Buffer.from(hexMeta(this.#db, "volume_id"), "hex");
    if (head === undefined || !hasSeenMore(head, origin, volume, store.url)) return;
    await refuseOlderLog(store, keys, { writer: origin.writer, volume }, head);
  }

  async #newKeys(store: RemoteStore, writer: bigint, volume: Buffer, password: Buffer): Promise<Sealer[]> {
    try {
      const found = await getKeyFiles(store, password);
      const ours = found.filter((key) => key.writer === writer && volume.equals(key.volume));
      return ours.map(({ log, secret }) => new Sealer(log, secret));
    } catch (error) {
      if (!(error instanceof LogError) || error.reason !== "wrong-password") throw error;
      const file = this.#volume.path;
      const message =
        `${store.url}: the secret of the log was changed, and opens with another password than ${file}; give it the ` +
        `password that the volume has now, and pull again: sqlfuse rekey ${file}`;
      throw new LogError("wrong-password", message, { cause: error });
    }
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
      await follower.fetchPinned();
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
    this.#closed = true;
    this.#db?.close();
    this.#volume.close();
  }
}
