/**
 * Snapshots: which closed epochs are kept, and under which names.
 *
 * A snapshot closes the current epoch: that is a row of `snapshot` and a number of `meta`, whatever the volume holds.
 * Deleting one only takes its name; what it alone needed goes later, in slices (src/core/prune.ts).
 */
import type { Time } from "../base/clock.ts";
import { type ErrnoName, FsError } from "../base/errno.ts";
import type { Statement } from "../db/statement.ts";
import { INDEXES, isIndexed } from "./changes.ts";
import { readMeta } from "./format.ts";
import { inodeColumns, readInode } from "./inodes.ts";
import { hasSnapshots } from "./past.ts";
import { DEFAULT_RETENTION, type Retention, readRetention, surplus } from "./retention.ts";
import type { Store } from "./store.ts";
import type { At, Attr, Epoch, Ino } from "./types.ts";

/** A closed epoch that is kept. */
export interface Snapshot {
  readonly epoch: Epoch;
  readonly name: string;
  readonly created: Time;
  /** Not to be deleted. */
  readonly protected: boolean;
  /** Made at an interval: the retention policy may delete it. */
  readonly automatic: boolean;
}

/** What somebody elsewhere wants of the history of a volume: plain objects, for one who carries them. */
export type HistoryOrder =
  | { readonly do: "list" | "index" }
  | { readonly do: "create" | "delete"; readonly name: string }
  | { readonly do: "protect"; readonly name: string; readonly protect: boolean }
  /** Without `retention`: the volume's own. */
  | {
      readonly do: "prune";
      readonly retention?: Retention;
      readonly save: boolean;
      readonly dryRun: boolean;
    };

/** The snapshots that were listed, made, deleted or changed; or the errno. */
export type HistoryOutcome =
  | { readonly ok: true; readonly snapshots: readonly Snapshot[] }
  | { readonly ok: false; readonly code: ErrnoName };

/** Bytes in a snapshot's name. */
const SNAPSHOT_NAME_MAX = 255;
const NS = 1_000_000_000;
const VOLUME = 0 as Ino;
/** A row of each index that `index` makes, generously. */
const INDEX_ROW_BYTES = 64;
const COLUMNS = `epoch, name, created_ns / ${NS}, created_ns % ${NS}, protected, automatic`;

export class History {
  readonly #store: Store;
  /** Undefined in a volume of format 1.0 or 1.1 that is only read. */
  readonly #list: Statement | undefined;
  readonly #onDelete: () => void;
  #inodeAt: Statement | undefined;
  #changes: Record<"insert" | "protect" | "drop" | "retention", Statement> | undefined;

  /** `onDelete`: there is something to prune. */
  constructor(store: Store, onDelete: () => void) {
    this.#store = store;
    this.#onDelete = onDelete;
    if (!hasSnapshots(store.writer)) return;
    this.#list = store.writer.prepare(
      `SELECT ${COLUMNS} FROM snapshot WHERE name IS NOT NULL ORDER BY epoch`,
    );
  }

  /** All that are kept, the oldest first. */
  list(): Snapshot[] {
    return this.#store.query(VOLUME, () => {
      const found: Snapshot[] = [];
      const rows = this.#list;
      while (rows?.step() === true) found.push(readSnapshot(rows));
      return found;
    });
  }

  /**
   * The snapshot that is meant: the one of that name, else of that epoch, else the newest that is no younger than that
   * time. Undefined where there is none.
   */
  find(at: At): Snapshot | undefined {
    const all = this.list();
    const named = all.find(({ name }) => name === at.name) ?? all.find(({ epoch }) => epoch === at.epoch);
    const { time } = at;
    return named ?? (time && all.findLast(({ created }) => isBefore(created, time)));
  }

  /** An inode as a kept epoch has it, without opening a view of that; undefined where it is not in it. */
  inodeAt(ino: Ino, epoch: Epoch): Attr | undefined {
    return this.#store.query(ino, () => {
      const then = (table: string) => `SELECT ${inodeColumns("i")} FROM main.${table} AS i
        WHERE i.ino = ?1 AND i.born <= ?2 AND i.nlink > 0`;
      this.#inodeAt ??= this.#store.writer.prepare(
        `${then("inode_past")} AND i.died > ?2 UNION ALL ${then("inode")}`,
      );
      const row = this.#inodeAt.bindInt(1, ino).bindInt(2, epoch);
      const inode = row.step() ? readInode(row, 0) : undefined;
      row.reset();
      return inode;
    });
  }

  /**
   * Keeps the volume as it is now, under `name`. What was written before is in it, and durable.
   * @throws FsError EEXIST; EINVAL (name); EROFS, ENOSPC, EIO
   */
  create(name: string): Snapshot {
    checkName(name);
    if (this.find({ name }) !== undefined) throw new FsError("EEXIST");
    return this.#keep(name, false);
  }

  /** As `create`, if anything changed since the last one; under a name that nobody can give. */
  createAutomatic(): Snapshot | undefined {
    return this.#store.isChanged ? this.#keep(`auto-${this.#store.epoch}`, true) : undefined;
  }

  #keep(name: string, automatic: boolean): Snapshot {
    const created = this.#store.clock.now();
    const epoch = this.#store.closeEpoch((closed) =>
      this.#statements.insert
        .bindInt(1, closed)
        .bindText(2, name)
        .bindInt(3, created.sec)
        .bindInt(4, created.nsec)
        .bindInt(5, automatic ? 1 : 0)
        .run(),
    );
    return { epoch, name, created, protected: false, automatic };
  }

  /** @throws FsError ENOENT; EPERM (protected); EROFS, EIO */
  delete(name: string): Snapshot {
    const snapshot = this.#existing(name);
    if (snapshot.protected) throw new FsError("EPERM");
    this.#drop([snapshot]);
    return snapshot;
  }

  /** @throws FsError ENOENT, EROFS, EIO */
  protect(name: string, protect: boolean): Snapshot {
    const snapshot = this.#existing(name);
    this.#change(() =>
      this.#statements.protect
        .bindInt(1, snapshot.epoch)
        .bindInt(2, protect ? 1 : 0)
        .run(),
    );
    return { ...snapshot, protected: protect };
  }

  /** Whether `index` was ever done. */
  get isIndexed(): boolean {
    return isIndexed(this.#store.writer);
  }

  /** Makes what finds changes without reading everything: see D5. @throws FsError EROFS, ENOSPC, EIO */
  index(): void {
    const db = this.#store.writer;
    if (isIndexed(db)) return;
    // What waits must not be lost with it, should it meet a damaged page.
    this.#store.commit();
    this.#store.query(VOLUME, () => {
      const bytes = this.#indexedRows() * INDEX_ROW_BYTES;
      this.#store.change(VOLUME, bytes, true, () => {
        for (const sql of INDEXES) db.exec(sql);
      });
    });
    this.#store.commit();
  }

  #indexedRows(): number {
    const db = this.#store.writer;
    const rows = db.prepare("SELECT (SELECT count(*) FROM inode) + (SELECT count(*) FROM dirent_past)");
    try {
      return rows.step() ? rows.int(0) : 0;
    } finally {
      db.release(rows);
    }
  }

  /** Which automatic snapshots stay. */
  get retention(): Retention {
    return readRetention(readMeta(this.#store.writer, "retention")) ?? DEFAULT_RETENTION;
  }

  /** @throws FsError EROFS, EIO */
  setRetention(retention: Retention): void {
    this.#change(() => this.#statements.retention.bindText(1, JSON.stringify(retention)).run());
  }

  /**
   * Deletes the automatic snapshots that `retention` does not keep; those that are protected stay. Tells which.
   * @throws FsError EROFS, EIO
   */
  prune(retention = this.retention): Snapshot[] {
    const gone = this.surplus(retention);
    if (gone.length > 0) this.#drop(gone);
    return gone;
  }

  /** What `prune` would delete. */
  surplus(retention = this.retention): Snapshot[] {
    return surplus(retention, this.#disposable(), this.#store.clock.now());
  }

  /** Deletes the oldest automatic snapshot, for a volume that is full; false where there is none, or it must stay. */
  yieldOldest(): boolean {
    const [oldest] = this.retention.whenFull ? this.#disposable() : [];
    if (oldest === undefined) return false;
    this.#drop([oldest]);
    return true;
  }

  #disposable(): Snapshot[] {
    return this.list().filter((snapshot) => snapshot.automatic && !snapshot.protected);
  }

  #existing(name: string): Snapshot {
    const found = this.find({ name });
    if (found === undefined) throw new FsError("ENOENT");
    return found;
  }

  #drop(snapshots: readonly Snapshot[]): void {
    this.#change(() => {
      for (const { epoch } of snapshots) this.#statements.drop.bindInt(1, epoch).run();
    });
    this.#store.epochs.letGo(snapshots.map(({ epoch }) => epoch));
    this.#onDelete();
  }

  #change(apply: () => void): void {
    this.#store.query(VOLUME, () => this.#store.change(VOLUME, 0, true, apply));
    this.#store.commit();
  }

  get #statements(): Record<"insert" | "protect" | "drop" | "retention", Statement> {
    const db = this.#store.writer;
    this.#changes ??= {
      insert: db.prepare(
        `INSERT INTO snapshot (epoch, name, created_ns, protected, automatic)
           VALUES (?1, ?2, ?3 * ${NS} + ?4, 0, ?5)`,
      ),
      protect: db.prepare("UPDATE snapshot SET protected = ?2 WHERE epoch = ?1"),
      drop: db.prepare("UPDATE snapshot SET name = NULL WHERE epoch = ?1"),
      retention: db.prepare("INSERT OR REPLACE INTO meta (key, value) VALUES ('retention', ?1)"),
    };
    return this.#changes;
  }
}

/** Does what is wanted; a refusal is an outcome. */
export function obeyHistory(history: History, order: HistoryOrder): HistoryOutcome {
  try {
    return { ok: true, snapshots: obey(history, order) };
  } catch (error) {
    if (error instanceof FsError) return { ok: false, code: error.code };
    throw error;
  }
}

function obey(history: History, order: HistoryOrder): Snapshot[] {
  switch (order.do) {
    case "list":
      return history.list();
    case "index":
      history.index();
      return [];
    case "create":
      return [history.create(order.name)];
    case "delete":
      return [history.delete(order.name)];
    case "protect":
      return [history.protect(order.name, order.protect)];
    case "prune": {
      const { retention = history.retention, save, dryRun } = order;
      if (dryRun) return history.surplus(retention);
      if (save) history.setRetention(retention);
      return history.prune(retention);
    }
  }
}

function readSnapshot(row: Statement): Snapshot {
  return {
    epoch: row.int(0) as Epoch,
    name: row.text(1),
    created: { sec: row.int(2), nsec: row.int(3) },
    protected: row.int(4) !== 0,
    automatic: row.int(5) !== 0,
  };
}

function isBefore(a: Time, b: Time): boolean {
  return a.sec < b.sec || (a.sec === b.sec && a.nsec <= b.nsec);
}

/**
 * A name is one that could be a file's, without what a terminal must not see, and neither an epoch's number, nor the
 * word for the present, nor one that snapshots get which somebody did not make. @throws FsError EINVAL
 */
function checkName(name: string): void {
  const bytes = Buffer.byteLength(name);
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what must not reach a terminal
  const strange = /[\x00-\x1f\x7f-\x9f/\u200e\u200f\u2028-\u202e\u2066-\u2069]/;
  const taken = /^\.{0,2}$|^\d+$|^now$|^(auto|pushed)-\d+$/;
  if (bytes > SNAPSHOT_NAME_MAX || strange.test(name) || taken.test(name))
    throw new FsError("EINVAL", "no name for a snapshot");
}
