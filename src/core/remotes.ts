/**
 * What the volume knows of the places that its log is kept in: which there are, how far each is, and which content it has.
 *
 * An epoch that is being pushed, and the one that was pushed last, are kept as snapshots named pushed-EPOCH: nothing that
 * changed or was deleted since is forgotten before it is there. So a sqlfuse that knows no remotes keeps them too.
 */
import { randomBytes } from "node:crypto";
import { type ErrnoName, FsError } from "../base/errno.ts";
import type { Database } from "../db/database.ts";
import type { Statement } from "../db/statement.ts";
import type { Store } from "./store.ts";
import type { Epoch, Ino } from "./types.ts";

/** A place that the log is kept in. */
export interface Remote {
  readonly id: number;
  readonly name: string;
  readonly url: string;
  /** 16 bytes that name the log. */
  readonly log: Uint8Array;
  /** 32 bytes, from which all its keys are derived. */
  readonly secret: Uint8Array;
  /** replica_id of who writes it. */
  readonly writer: bigint;
  /** The last epoch that is there, or of a replica here; 0: none. */
  readonly epoch: number;
  /** Number of the segment that brought it; 0: none. */
  readonly segment: number;
  /** SHA-256 of that segment; empty where there is none. */
  readonly hash: Uint8Array;
  /** SHA-256 of the segment that is being put there; empty where none is. */
  readonly pending: Uint8Array;
  readonly pendingEpoch: number;
  /** When everything was there last, in nanoseconds since 1970; 0: never. */
  readonly syncedNs: bigint;
  /** Salt of the volume when the key file there was written. */
  readonly keySalt: Uint8Array;
}

/** Content that an object there has. */
export interface ShippedBlock {
  /** Keyed hash of the content, in hexadecimal. */
  readonly id: string;
  readonly place: number;
  readonly length: number;
  readonly codec: number;
}

/** What a pusher wants noted: plain objects, for one who carries them to the process that has the volume. */
export type RemoteOrder =
  | { readonly do: "add"; readonly name: string; readonly url: string }
  | { readonly do: "remove"; readonly name: string }
  /** Closes the epoch, to be pushed to it, and tells which that is. */
  | { readonly do: "close"; readonly name: string }
  | {
      readonly do: "shipped";
      readonly name: string;
      /** Name and salt of the object, in hexadecimal. */
      readonly object: string;
      readonly salt: string;
      readonly blocks: readonly ShippedBlock[];
    }
  /** The segment with this hash is about to be put there. */
  | { readonly do: "pending"; readonly name: string; readonly hash: string; readonly epoch: number }
  /** It is there, with everything up to `epoch`. */
  | {
      readonly do: "advance";
      readonly name: string;
      readonly epoch: number;
      readonly segment: number;
      readonly hash: string;
    }
  /** Nothing was to be pushed. */
  | { readonly do: "synced"; readonly name: string }
  /** The key file there goes with the volume's key of this salt, in hexadecimal. */
  | { readonly do: "keyed"; readonly name: string; readonly salt: string }
  /** The log goes on as another one, of this name and secret, in hexadecimal, and starts over. */
  | { readonly do: "rotate"; readonly name: string; readonly log: string; readonly secret: string }
  /** These objects, by their names in hexadecimal, are gone from there. */
  | { readonly do: "dropped"; readonly name: string; readonly objects: readonly string[] };

/** The epoch that was closed, 0 where the order was another; or the errno. */
export type RemoteOutcome =
  | { readonly ok: true; readonly epoch: number }
  | { readonly ok: false; readonly code: ErrnoName };

const VOLUME = 0 as Ino;
const NS = 1_000_000_000;
const COLUMNS =
  "id, name, url, log, secret, writer, epoch, segment, hash, pending, pending_epoch, synced_ns, key_salt";
/** What a snapshot is called that is kept for a push. */
const KEPT = "pushed-";

/** All remotes of a volume, by their names; none in one of an older format. */
export function listRemotes(db: Database): Remote[] {
  const table = db.prepare("SELECT 1 FROM main.sqlite_schema WHERE name = 'remote'");
  const exists = table.step();
  db.release(table);
  if (!exists) return [];
  const rows = db.prepare(`SELECT ${COLUMNS} FROM remote ORDER BY name`);
  const found: Remote[] = [];
  while (rows.step()) found.push(readRemote(rows));
  db.release(rows);
  return found;
}

function readRemote(row: Statement): Remote {
  return {
    id: row.int(0),
    name: row.text(1),
    url: row.text(2),
    log: row.blob(3),
    secret: row.blob(4),
    writer: row.bigint(5),
    epoch: row.int(6),
    segment: row.int(7),
    hash: row.blob(8),
    pending: row.blob(9),
    pendingEpoch: row.int(10),
    syncedNs: row.bigint(11),
    keySalt: row.blob(12),
  };
}

/** Whether what changed since `epoch` can still be told: it is kept. */
export function isKept(db: Database, epoch: number): boolean {
  const row = db.prepare("SELECT 1 FROM snapshot WHERE epoch = ?1 AND name IS NOT NULL");
  const kept = row.bindInt(1, epoch).step();
  db.release(row);
  return kept;
}

/** Whether a snapshot is kept for a push, and not for somebody. */
export function isForPush(name: string): boolean {
  return name.startsWith(KEPT);
}

export class Remotes {
  readonly #store: Store;
  readonly #onDelete: () => void;

  /** `onDelete`: there is something to prune. */
  constructor(store: Store, onDelete: () => void) {
    this.#store = store;
    this.#onDelete = onDelete;
  }

  /** All of them, with what was noted and committed. */
  list(): Remote[] {
    return this.#store.query(VOLUME, () => listRemotes(this.#store.writer));
  }

  #existing(name: string): Remote {
    const found = this.list().find((remote) => remote.name === name);
    if (found === undefined) throw new FsError("ENOENT");
    return found;
  }

  /** @throws FsError EEXIST, EINVAL (name); EROFS, ENOSPC, EIO */
  add(name: string, url: string): void {
    if (!/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/.test(name)) throw new FsError("EINVAL", "no name for a remote");
    if (this.list().some((remote) => remote.name === name)) throw new FsError("EEXIST");
    this.#change(false, (db) => {
      // What changed since an epoch is asked for from now on: see DECISIONS.md D5.
      db.exec("CREATE INDEX IF NOT EXISTS inode_born ON inode (born)");
      const insert = db.prepare(
        `INSERT INTO remote (name, url, log, secret, writer, epoch, segment, hash, pending, pending_epoch, synced_ns, key_salt)
           SELECT ?1, ?2, ?3, ?4, value, 0, 0, x'', x'', 0, 0, x'' FROM meta WHERE key = 'replica_id'`,
      );
      const secret = randomBytes(32);
      insert.bindText(1, name).bindText(2, url).bindBlob(3, randomBytes(16)).bindBlob(4, secret).run();
      db.release(insert);
      secret.fill(0);
    });
  }

  /** Forgets it; what is there stays there. @throws FsError ENOENT, EROFS, EIO */
  remove(name: string): void {
    const { id } = this.#existing(name);
    this.#change(true, (db) => {
      for (const table of ["remote_block", "remote_object"])
        db.exec(`DELETE FROM ${table} WHERE remote = ${id}`);
      db.exec(`DELETE FROM remote WHERE id = ${id}`);
    });
    this.#letGo();
  }

  /**
   * Closes the epoch, and keeps it until all of it is there. Where nothing was changed since the last push it is the epoch
   * that was pushed then. @throws FsError ENOENT, EROFS, ENOSPC, EIO
   */
  close(name: string): Epoch {
    const remote = this.#existing(name);
    const last = (this.#store.epoch - 1) as Epoch;
    if (!this.#store.isChanged && this.#isPushed(last)) {
      this.#set(remote, `pending_epoch = ${last}`);
      return last;
    }
    const now = this.#store.clock.now();
    return this.#store.closeEpoch((closed) => {
      const db = this.#store.writer;
      const insert = db.prepare(
        `INSERT INTO snapshot (epoch, name, created_ns, protected, automatic) VALUES (?1, ?2, ?3 * ${NS} + ?4, 1, 0)`,
      );
      const row = insert.bindInt(1, closed).bindText(2, `${KEPT}${closed}`);
      row.bindInt(3, now.sec).bindInt(4, now.nsec).run();
      db.release(insert);
      db.exec(`UPDATE remote SET pending_epoch = ${closed}, pending = x'' WHERE id = ${remote.id}`);
    });
  }

  #isPushed(epoch: Epoch): boolean {
    const row = this.#store.writer.prepare("SELECT name FROM snapshot WHERE epoch = ?1");
    const isPushed = row.bindInt(1, epoch).step() && isForPush(row.text(0));
    this.#store.writer.release(row);
    return isPushed;
  }

  /** Does what is wanted, durably; gives the epoch that `close` gives, else 0. @throws FsError */
  obey(order: RemoteOrder): number {
    if (order.do === "close") return this.close(order.name);
    if (order.do === "add") this.add(order.name, order.url);
    else if (order.do === "remove") this.remove(order.name);
    else if (order.do === "shipped") this.#shipped(order.name, order.object, order.salt, order.blocks);
    else if (order.do === "dropped") this.#dropped(order.name, order.objects);
    else if (order.do === "rotate") this.#rotate(order.name, order.log, order.secret);
    else this.#note(order);
    return 0;
  }

  #note(order: RemoteOrder & { do: "pending" | "advance" | "synced" | "keyed" }): void {
    const remote = this.#existing(order.name);
    switch (order.do) {
      case "pending":
        this.#set(remote, `pending = x'${hex(order.hash)}', pending_epoch = ${int(order.epoch)}`);
        return;
      case "keyed":
        this.#set(remote, `key_salt = x'${hex(order.salt)}'`);
        return;
      case "synced":
        this.#set(remote, `pending_epoch = 0, ${this.#syncedNow()}`);
        break;
      case "advance": {
        const { epoch, segment, hash } = order;
        const done = epoch >= remote.pendingEpoch ? `, pending_epoch = 0, ${this.#syncedNow()}` : "";
        const state = `epoch = ${int(epoch)}, segment = ${int(segment)}, hash = x'${hex(hash)}'`;
        this.#set(remote, `${state}, pending = x''${done}`);
      }
    }
    this.#letGo();
  }

  #syncedNow(): string {
    const { sec, nsec } = this.#store.clock.now();
    return `synced_ns = ${BigInt(sec) * BigInt(NS) + BigInt(nsec)}`;
  }

  #set(remote: Remote, what: string): void {
    this.#change(true, (db) => db.exec(`UPDATE remote SET ${what} WHERE id = ${remote.id}`));
  }

  /** Committed with the group: what a crash takes of it is only shipped again. */
  #shipped(name: string, object: string, salt: string, blocks: readonly ShippedBlock[]): void {
    const { id } = this.#existing(name);
    const store = this.#store;
    // Keyed hashes lie anywhere: each may change a page of its own, and others are served between two of them.
    const bytes = blocks.length * store.writer.pageSize;
    store.query(VOLUME, () =>
      store.change(VOLUME, bytes, false, () =>
        noteShipped(store.writer, id, Buffer.from(object, "hex"), Buffer.from(salt, "hex"), blocks),
      ),
    );
  }

  /** Content that is there is sealed under the old keys, and cannot be named by the new log. */
  #rotate(name: string, log: string, secret: string): void {
    const { id } = this.#existing(name);
    if (log.length !== 32 || secret.length !== 64) throw new FsError("EINVAL", "no log");
    this.#change(true, (db) => {
      for (const table of ["remote_block", "remote_object"])
        db.exec(`DELETE FROM ${table} WHERE remote = ${id}`);
      const update = db.prepare(
        `UPDATE remote SET log = ?2, secret = ?3, epoch = 0, pending = x'', pending_epoch = 0, key_salt = x'' WHERE id = ?1`,
      );
      update.bindInt(1, id).bindBlob(2, Buffer.from(hex(log), "hex"));
      update.bindBlob(3, Buffer.from(hex(secret), "hex")).run();
      db.release(update);
    });
    this.#letGo();
  }

  #dropped(name: string, objects: readonly string[]): void {
    const { id } = this.#existing(name);
    this.#change(true, (db) => {
      for (const object of objects) {
        const number = `(SELECT number FROM remote_object WHERE remote = ${id} AND name = x'${hex(object)}')`;
        db.exec(`DELETE FROM remote_block WHERE remote = ${id} AND object = ${number}`);
        db.exec(`DELETE FROM remote_object WHERE remote = ${id} AND name = x'${hex(object)}'`);
      }
    });
  }

  /** Lets go of the epochs that no remote needs any more. */
  #letGo(): void {
    const db = this.#store.writer;
    const needless = db.prepare(
      `SELECT epoch FROM snapshot WHERE name GLOB '${KEPT}*' AND epoch NOT IN
         (SELECT epoch FROM remote UNION SELECT pending_epoch FROM remote)`,
    );
    const gone: Epoch[] = [];
    while (needless.step()) gone.push(needless.int(0) as Epoch);
    db.release(needless);
    if (gone.length === 0) return;
    this.#change(true, () => db.exec(`UPDATE snapshot SET name = NULL WHERE epoch IN (${gone.join()})`));
    this.#store.epochs.letGo(gone);
    this.#onDelete();
  }

  #change(frees: boolean, apply: (db: Database) => void): void {
    this.#store.query(VOLUME, () => this.#store.change(VOLUME, 0, frees, () => apply(this.#store.writer)));
    this.#store.commit();
  }
}

/** Notes what an object holds, inside a transaction. Content that was there before stays noted where it was. */
export function noteShipped(
  db: Database,
  remote: number,
  object: Uint8Array,
  salt: Uint8Array,
  blocks: Iterable<ShippedBlock>,
): void {
  const insert = db.prepare(
    "INSERT INTO remote_object (remote, name, salt) VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET salt = ?3 RETURNING number",
  );
  insert.bindInt(1, remote).bindBlob(2, object).bindBlob(3, salt).step();
  const number = insert.int(0);
  db.release(insert);
  const block = db.prepare("INSERT OR IGNORE INTO remote_block VALUES (?1, ?2, ?3, ?4, ?5, ?6)");
  for (const { id, place, length, codec } of blocks) {
    block.bindInt(1, remote).bindBlob(2, Buffer.from(id, "hex")).bindInt(3, number);
    block.bindInt(4, place).bindInt(5, length).bindInt(6, codec).run();
  }
  db.release(block);
}

/** Does what is wanted; a refusal is an outcome. */
export function obeyRemotes(remotes: Remotes, order: RemoteOrder): RemoteOutcome {
  try {
    return { ok: true, epoch: remotes.obey(order) };
  } catch (error) {
    if (error instanceof FsError) return { ok: false, code: error.code };
    throw error;
  }
}

/** Hexadecimal digits that may stand in SQL. */
function hex(digits: string): string {
  if (!/^([0-9a-f]{2})*$/.test(digits)) throw new FsError("EINVAL", "not hexadecimal");
  return digits;
}

/** A number that may stand in SQL. */
function int(value: number): number {
  if (!Number.isSafeInteger(value)) throw new FsError("EINVAL", "not a number");
  return value;
}
