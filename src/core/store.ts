/**
 * The transaction rule of the volume, and the only place that begins and ends one.
 *
 * Changes gather in a GROUP: one SQLite transaction that is committed by fsync, when its
 * oldest change is older than the commit interval, or when it is large. Each operation is
 * all-or-nothing within it: it checks first and writes after, so that a refusal changes
 * nothing. An operation that fails after its first write takes the group with it, as SQLite
 * does for a full disk or an I/O error: that is a FAILED COMMIT. From then on the volume
 * refuses changes (EROFS), and the next fsync of each file in the lost group gets EIO.
 *
 * A commit that an fsync asks for is on the disk when that returns. One that is due, or large, is synced in the background,
 * and the next one begins when that is done: a power loss takes no more of them than kill -9 does, and one.
 *
 * Two connections: the writer, and a reader for file data that the open group did not
 * touch. SQLCipher poisons a connection that met one wrong HMAC, its COMMIT included; so
 * a damaged block costs only the reader, which is opened anew.
 */

import { assert } from "../base/assert.ts";
import type { Clock } from "../base/clock.ts";
import { DamageError, FsError } from "../base/errno.ts";
import { Database } from "../db/database.ts";
import { SqliteError } from "../db/errors.ts";
import type { Key } from "../db/key.ts";
import type { Statement } from "../db/statement.ts";
import { Counters } from "./counters.ts";
import { Epochs } from "./epochs.ts";
import { FollowingView } from "./following.ts";
import { checkFormat, isReplica } from "./format.ts";
import type { HeadKeeper } from "./head.ts";
import { isPartial, Partial, type Visiting } from "./partial.ts";
import { PastView } from "./past.ts";
import { Space } from "./space.ts";
import { Spill } from "./spill.ts";
import type { Epoch, Ino } from "./types.ts";
import { type WalCopier, WalKeeper } from "./walkeeper.ts";

export interface StoreOptions {
  readonly readOnly: boolean;
  /** A replica may be changed too. */
  readonly changesReplica?: boolean;
  /** No lock and no -shm are to be had: the file is read as it lies. */
  readonly immutable: boolean;
  /**
   * Present: another process writes, and all that is read is one snapshot, taken when this was opened. "readwrite"
   * where the file may be written: if the writer goes first, closing this connection tidies its -wal away.
   */
  readonly beside?: "readonly" | "readwrite" | undefined;
  /** Beside: each read is a transaction of its own, for one who looks at what does not change. */
  readonly shortReads?: boolean;
  /** A replica that is only read here may be changed by another connection of this process meanwhile. */
  readonly follows?: boolean;
  readonly commitIntervalMs: number;
  /** One durable commit per operation. */
  readonly sync: boolean;
  /** Changes that can no longer be refused wait for `finish`. */
  readonly answersFirst: boolean;
  readonly cacheBytes: number;
  readonly copier?: WalCopier | undefined;
  /** Of a partial replica: what was fetched. */
  readonly visiting: Visiting;
  readonly clock: Clock;
  readonly onLog: (line: string) => void;
}

/** A group with more file data is committed as soon as the one before is synced: it bounds how long a commit keeps others waiting. */
const GROUP_BYTES = 2 * 2 ** 20;
/** One with more is committed anyway. */
const GROUP_MOST_BYTES = 4 * 2 ** 20;

export class Store {
  readonly writer: Database;
  readonly clock: Clock;
  readonly readOnly: boolean;
  readonly #path: string;
  readonly #key: Key;
  readonly #options: StoreOptions;
  readonly #space: Space;
  readonly #pageSize: number;
  readonly #begin: Statement;
  readonly #commit: Statement;
  readonly counters: Counters;
  /** What a partial replica knows of its blocks; undefined in other volumes. */
  readonly partial: Partial | undefined;
  #reader: Database | undefined;
  #head: HeadKeeper | undefined;
  /** Monotonic time at which the open group began. */
  #groupSinceMs: number | undefined;
  /** Bytes of file data in the open group. */
  #groupBytes = 0;
  /** What `totalChanges` of the writer was when the open group began, and since then rows that nobody would miss. */
  #groupFrom = 0;
  /** Inodes that the open group changed. */
  readonly #changed = new Set<Ino>();
  readonly #wal: WalKeeper;
  readonly #spill: Spill;
  /** Inodes of a lost group whose fsync has not been told yet. */
  readonly #lost = new Set<Ino>();
  readonly epochs: Epochs;
  /** Whether anything was changed in this epoch since the volume was opened. */
  #isTouched = false;
  /** Set where the past is looked at. */
  #past: PastView | undefined;
  /** Set where somebody else changes what is read. */
  #following: FollowingView | undefined;
  readonly #onGroupEnd: (() => void)[] = [];
  readonly #onForget: (() => void)[] = [];
  #makeRoom = () => false;
  readonly #beforeCommit: (() => void)[] = [];
  /** Tells, with the rows that were changed, whether a change did anything. */
  #touches = 0;
  /** What a change that is answered already has yet to write. */
  #owed:
    | {
        readonly inos: readonly [Ino, ...(Ino | undefined)[]];
        readonly bytes: number;
        readonly apply: () => void;
      }
    | undefined;
  #failed = false;
  #closed = false;

  /** @throws SqliteError with isDamage where the key or the first page is wrong. */
  constructor(path: string, key: Key, options: StoreOptions) {
    this.#path = path;
    this.#key = key;
    this.#options = options;
    this.clock = options.clock;
    this.#pageSize = key.cipher.pageSize;
    const cacheBytes = (options.cacheBytes * 3) / 4;
    this.writer = new Database(path, key, {
      mode: options.beside ?? (options.readOnly ? "readonly" : "readwrite"),
      immutable: options.immutable,
      cacheBytes,
    });
    const { copier, clock, onLog } = options;
    this.#spill = new Spill(this.writer);
    this.#wal = new WalKeeper(this.writer, copier, clock, onLog, () => this.#head?.publish());
    try {
      checkFormat(this.writer);
      this.readOnly = options.readOnly || (options.changesReplica !== true && isReplica(this.writer));
      this.#configureWriter();
      this.partial = isPartial(this.writer)
        ? new Partial(this.writer, this.readOnly, options.visiting)
        : undefined;
      this.epochs = new Epochs(this.writer);
      this.counters = new Counters(this.writer, this.epoch);
      this.#begin = this.writer.prepare("BEGIN IMMEDIATE");
      this.#commit = this.writer.prepare("COMMIT");
      this.#space = new Space(this.writer, this.#pageSize, cacheBytes, options.clock);
      if (options.follows === true && this.readOnly && !options.readOnly)
        this.#following = new FollowingView(this.writer, () => this.#forget());
    } catch (error) {
      this.#end();
      throw error;
    }
  }

  #configureWriter(): void {
    this.writer.exec("PRAGMA temp_store = MEMORY");
    if (this.#options.beside !== undefined) {
      this.#past?.begin();
      const begin = this.#options.shortReads === true ? "" : "BEGIN";
      this.writer.exec(`PRAGMA query_only = ON; PRAGMA busy_timeout = 10000; ${begin}`);
    }
    this.#following?.begin();
    if (!this.#options.readOnly) this.writer.exec("PRAGMA busy_timeout = 10000");
    if (this.readOnly) return;
    this.writer.exec("PRAGMA journal_mode = WAL");
    this.#wal.attach();
    // What is overwritten is ciphertext: zeroing it costs writes and hides nothing.
    this.writer.exec("PRAGMA secure_delete = OFF");
  }

  get epoch(): Epoch {
    return this.epochs.current;
  }

  /** The closed epoch that is looked at; undefined: the present. */
  get past(): Epoch | undefined {
    return this.#past?.epoch;
  }

  /** Whether another connection changes what is read here. */
  get follows(): boolean {
    return this.#following !== undefined;
  }

  /** Another number for each state that was seen of what somebody else changes; 0 where nobody does. */
  get followed(): number {
    const view = this.#following;
    return view === undefined ? 0 : this.query(0 as Ino, () => view.state);
  }

  /** Looks at a closed epoch from now on. Nothing was prepared before that reads inodes, entries, attributes or extents. */
  lookAt(epoch: Epoch): void {
    this.writer.exec("PRAGMA query_only = OFF");
    this.#past = new PastView(this.writer, epoch);
    this.#past.begin();
    this.writer.exec("PRAGMA query_only = ON");
  }

  /** A commit failed: changes are refused from now on. */
  get failed(): boolean {
    return this.#failed;
  }

  /** Says that the open group changes `ino`. */
  touch(ino: Ino): void {
    this.stir();
    this.#isTouched = true;
    this.#changed.add(ino);
  }

  /** Says that the open change did something, which no table need show yet: it can no longer be refused. */
  stir(): void {
    this.#touches++;
  }

  /** Tells `head`, which is closed with this, of each commit from now on; the first one is made here. @throws FsError */
  keepHead(head: HeadKeeper): void {
    this.#head = head;
    this.change(0 as Ino, 0, true, () => {});
    this.commit();
    head.begin();
  }

  /** Calls `makeRoom` where a change would be refused for a full disk, as long as it says that it did. */
  onFull(makeRoom: () => boolean): void {
    this.#makeRoom = makeRoom;
  }

  /** Calls `then` whenever the open group was committed or lost. */
  onGroupEnd(then: () => void): void {
    this.#onGroupEnd.push(then);
  }

  /** Calls `then` when what is kept of the tables may not be so: the open group was lost, or somebody else changed them. */
  onForget(then: () => void): void {
    this.#onForget.push(then);
  }

  /** Calls `then` inside the open group, before it is committed: what it holds back is written now. */
  beforeCommit(then: () => void): void {
    this.#beforeCommit.push(then);
  }

  /** Tells whoever holds the volume, in one line. */
  log(line: string): void {
    this.#options.onLog(line);
  }

  /**
   * Passes on bytes that the writer read, unless a damaged page may be among them: a value that
   * spilled to pages of its own reads as zeros there.
   * @throws DamageError
   */
  whole(bytes: Uint8Array): Uint8Array {
    const LEAST_SPILLED = 600;
    if (bytes.length >= LEAST_SPILLED && this.writer.isPoisoned)
      throw new DamageError("a page has a wrong HMAC");
    return bytes;
  }

  /** The reader, opened when first needed. */
  get reader(): Database {
    this.#reader ??= new Database(this.#path, this.#key, {
      mode: "readonly",
      cacheBytes: this.#options.cacheBytes / 4,
    });
    return this.#reader;
  }

  /**
   * Runs a read of `ino`.
   * @throws DamageError where stored bytes are damaged, FsError EIO where they cannot be read, ESTALE where they were
   *   of an epoch that is not kept any more
   */
  query<T>(ino: Ino, read: () => T): T {
    assert(!this.#closed, "the volume is open");
    this.finish();
    try {
      const view = this.#past ?? this.#following;
      return view === undefined ? read() : view.read(read);
    } catch (error) {
      const told = this.#translate(error, ino);
      if (told instanceof DamageError && ino > 0) told.ino ??= ino;
      throw told;
    }
  }

  /**
   * Runs a change of about `bytes` of data inside the group. `frees`: the change gives space
   * back, so it may spend the reserve.
   * @throws FsError EROFS, ENOSPC before anything was done; EIO with the group lost
   */
  change<T>(ino: Ino, bytes: number, frees: boolean, apply: () => T): T {
    this.finish();
    this.#admit(bytes, frees);
    this.#groupBytes += bytes;
    const before = this.writer.totalChanges + this.#touches;
    let result: T;
    try {
      result = apply();
      this.#spill.add(ino, bytes);
    } catch (error) {
      const untouched = this.writer.totalChanges + this.#touches === before;
      if (error instanceof FsError && untouched) throw error;
      if (error instanceof DamageError && untouched && !this.writer.autocommit) throw error;
      if (untouched && this.writer.isPoisoned && this.#holdsNothing) this.#drop();
      else this.#lose(error);
      throw this.#translate(error, ino);
    }
    if (this.#options.sync) this.commit();
    else if (this.#isLarge) this.#commitGroup();
    return result;
  }

  /**
   * As `change`, for one that has been checked so far that only a failing disk or database could refuse it. Where the
   * volume answers first it is applied by `finish`, while its caller is already on his way; what fails then fails
   * as a commit does: the group is lost. `apply` only writes: what it needs of the database was read before. `inos`:
   * all that it changes, whose fsync tells of that; the first one stands for it in messages.
   * @throws FsError EROFS, ENOSPC; where it is applied at once also EIO
   */
  changeLater(
    inos: readonly [Ino, ...(Ino | undefined)[]],
    bytes: number,
    frees: boolean,
    apply: () => void,
  ): void {
    if (!this.#options.answersFirst || this.#options.sync) {
      this.change(inos[0], bytes, frees, apply);
      return;
    }
    this.finish();
    this.#admit(bytes, frees);
    this.#owed = { inos, bytes, apply };
  }

  /** Applies the change that waits, if one does. Everything that looks at the volume comes after it. */
  finish(): void {
    const owed = this.#owed;
    if (owed === undefined) return;
    this.#owed = undefined;
    this.#groupBytes += owed.bytes;
    try {
      owed.apply();
      this.#spill.add(owed.inos[0], owed.bytes);
    } catch (error) {
      for (const ino of owed.inos) if (ino !== undefined) this.touch(ino);
      this.#lose(error);
      this.#translate(error, owed.inos[0]);
      return;
    }
    if (this.#isLarge) this.#quietly(() => this.#commitGroup());
  }

  /** Whether the open group is to be committed for its size. */
  get #isLarge(): boolean {
    if (this.#groupBytes < GROUP_BYTES) return false;
    return this.#groupBytes > GROUP_MOST_BYTES || !this.#isSyncing();
  }

  /** Whether a sync is under way in the background. Meets its failure. */
  #isSyncing(): boolean {
    let busy = false;
    this.#quietly(() => this.#synced(() => (busy = this.#wal.isSyncing())));
    return busy;
  }

  /** A failure is told by the next fsync. */
  #quietly(commit: () => void): void {
    try {
      commit();
    } catch (error) {
      if (!(error instanceof FsError)) throw error;
    }
  }

  /** Whether a change would be refused with EROFS. */
  get refusesChanges(): boolean {
    return this.readOnly || this.#failed;
  }

  #hasRoom(cost: number, frees: boolean): boolean {
    if (this.#space.take(cost, frees)) return true;
    this.#space.ask();
    if (this.#space.take(cost, frees)) return true;
    do {
      // Committed and copied, the -wal's own bytes are free again.
      this.commit();
      this.#wal.copy(true);
      this.#space.ask();
      if (this.#space.take(cost, frees)) return true;
    } while (!frees && this.#makeRoom());
    return false;
  }

  #admit(bytes: number, frees: boolean): void {
    if (this.refusesChanges) throw new FsError("EROFS");
    if (!this.#hasRoom(this.#space.cost(bytes), frees)) throw new FsError("ENOSPC");
    if (this.#groupSinceMs !== undefined) return;
    try {
      this.#begin.run();
    } catch (error) {
      throw this.#translate(error, undefined);
    }
    this.#groupSinceMs = this.clock.monotonicMs();
    this.#groupFrom = this.writer.totalChanges;
  }

  /** Runs writes of rows whose loss is no loss, unless `touch` told of them. */
  unmissed(write: () => void): void {
    const before = this.writer.totalChanges;
    try {
      write();
    } finally {
      this.#groupFrom += this.writer.totalChanges - before;
    }
  }

  /** Whether the open group has nothing that anybody would miss: times of access at most. */
  get #holdsNothing(): boolean {
    return this.#changed.size === 0 && this.writer.totalChanges === this.#groupFrom;
  }

  /**
   * Commits the open group durably, and what was committed before.
   * @throws FsError EIO; the group is lost
   */
  commit(): void {
    this.#writeGroup();
    this.#sync();
  }

  /** Commits the open group; when it is on the disk nobody waits for. @throws FsError EIO; the group is lost */
  #commitGroup(): void {
    this.#writeGroup();
    this.#synced(() => this.#wal.beginSync());
  }

  #sync(): void {
    this.#synced(() => this.#wal.sync(() => this.#space.isAmple));
  }

  /**
   * Runs `step`, which waits for syncs or asks about them.
   * @throws FsError EIO where one failed: the commits that it was for, and the open group, are lost
   */
  #synced(step: () => void): void {
    try {
      step();
    } catch (error) {
      this.#lose(error);
      throw new FsError("EIO", "sync failed");
    }
  }

  /** `last`: before the volume is closed. */
  #writeGroup(last = false): void {
    this.finish();
    if (this.#groupSinceMs === undefined) return;
    this.#synced(() => this.#wal.settle());
    try {
      for (const write of this.#beforeCommit) write();
      this.counters.write(this.isChanged ? this.epoch : this.counters.changed, last);
      this.#head?.advance();
      this.#commit.run();
    } catch (error) {
      if (this.#holdsNothing && this.writer.isPoisoned) {
        this.#drop();
        return;
      }
      this.#lose(error);
      throw new FsError("EIO", "commit failed");
    }
    this.counters.committed();
    const changed = [...this.#changed];
    this.#changed.clear();
    this.#groupEnded();
    this.#wal.committed(changed);
  }

  /**
   * Makes everything durable that came before.
   * @throws FsError EIO once per file of a lost group
   */
  fsync(ino: Ino): void {
    if (this.#lost.delete(ino)) throw new FsError("EIO", "its last changes were lost");
    try {
      this.commit();
    } catch (error) {
      // This fsync is the one that tells.
      this.#lost.delete(ino);
      throw error;
    }
  }

  /** Milliseconds until the group must be committed or the -wal copied; Infinity where nothing waits. */
  dueInMs(nowMs: number): number {
    const isOpen = this.#groupSinceMs !== undefined;
    const commitAt = (this.#groupSinceMs ?? Infinity) + this.#options.commitIntervalMs;
    return Math.min(Math.max(0, commitAt - nowMs), this.#wal.dueInMs(nowMs, isOpen));
  }

  /** Does what is due. */
  work(nowMs: number): void {
    this.#isSyncing();
    if (this.#groupSinceMs === undefined) this.#wal.work(nowMs);
    else if (nowMs - this.#groupSinceMs >= this.#options.commitIntervalMs)
      this.#quietly(() => this.#commitGroup());
  }

  /** Whether a group is open. */
  get hasGroup(): boolean {
    return this.#groupSinceMs !== undefined;
  }

  /** Milliseconds since the oldest uncommitted change, 0 where there is none. */
  uncommittedMs(nowMs: number): number {
    return this.#groupSinceMs === undefined ? 0 : nowMs - this.#groupSinceMs;
  }

  /** Figures for statfs. */
  spaceFigures(): ReturnType<Space["figures"]> {
    return this.query(0 as Ino, () => this.#space.figures());
  }

  /** Copies the -wal that was found at the opening to the main file, and cuts it to nothing. */
  settle(): void {
    this.#wal.copy(true);
  }

  #groupEnded(): void {
    this.#groupSinceMs = undefined;
    this.#groupBytes = 0;
    this.#spill.end();
    this.#space.groupEnded();
    for (const then of this.#onGroupEnd) then();
  }

  /** The open group is gone or must go: a failed commit. */
  #lose(error: unknown): void {
    this.#failed = true;
    for (const ino of [...this.#changed, ...this.#wal.takeUnsynced()]) this.#lost.add(ino);
    this.#options.onLog(
      `a commit failed, and the last changes of ${this.#lost.size} files may be lost; the volume is read-only until it is mounted again: ${String(error)}`,
    );
    this.#drop();
  }

  /** Somebody else changed the tables while no group was open. */
  refresh(): void {
    this.epochs.reread(this.writer);
    this.#forget();
  }

  #forget(): void {
    for (const forget of this.#onForget) forget();
  }

  /** Ends the open group without its changes. */
  #drop(): void {
    this.#forget();
    this.#changed.clear();
    this.#groupEnded();
    this.writer.resetAll();
    this.writer.rollBack();
    this.#reopenWriter();
  }

  /** Where it fails, every operation gets EIO and tries again. */
  #reopenWriter(): void {
    try {
      this.writer.reopen();
      this.#configureWriter();
    } catch (error) {
      this.#options.onLog(`cannot reopen ${this.#path}: ${String(error)}`);
    }
  }

  /** An engine error in the words of the core; opens a poisoned connection anew. */
  #translate(error: unknown, ino: Ino | undefined): unknown {
    if (error instanceof FsError) return error;
    this.writer.resetAll();
    const poisoned = this.writer.isPoisoned;
    // SQLite rolls the transaction back for an I/O error or a full disk in any statement, a SELECT too.
    const ended = this.#groupSinceMs !== undefined && (poisoned || this.writer.autocommit);
    if (ended && this.#holdsNothing) this.#drop();
    else if (ended) this.#lose(error);
    else if (poisoned || !this.writer.isOpen) this.#reopenWriter();
    if (!(error instanceof SqliteError)) return error;
    if (!poisoned && !error.isDamage) return new FsError(error.isFull ? "ENOSPC" : "EIO", error.message);
    const what = ino === undefined ? "the volume" : `inode ${ino}`;
    return new DamageError(`${what}: ${error.message}`, { cause: error });
  }

  /** Opens the reader anew after it met damage. */
  reopenReader(): void {
    try {
      this.#reader?.reopen();
    } catch (error) {
      this.#options.onLog(`cannot reopen ${this.#path}: ${String(error)}`);
    }
  }

  /** Whether anything was changed in the current epoch. */
  get isChanged(): boolean {
    return this.#isTouched || this.counters.changed >= this.epoch;
  }

  /** Advances the epoch: what was written before is kept from now on, as `keep` notes. Commits. */
  closeEpoch(keep: (closed: Epoch) => void): Epoch {
    const closed = this.epoch;
    this.query(0 as Ino, () =>
      this.change(0 as Ino, 0, false, () => {
        keep(closed);
        this.writer.exec(`UPDATE meta SET value = ${closed + 1} WHERE key = 'epoch'`);
      }),
    );
    this.commit();
    this.epochs.advance();
    this.#isTouched = false;
    return closed;
  }

  /** Closes what was not opened whole. */
  abandon(): void {
    this.#end();
  }

  /** Commits, copies the -wal and closes: afterwards only the one file is left. */
  close(): void {
    this.#closed = true;
    if (!this.#failed)
      this.#quietly(() => {
        this.#writeGroup(true);
        this.#sync();
      });
    this.#reader?.close();
    this.#reader = undefined;
    if (!this.readOnly && !this.#failed && this.writer.isOpen) this.#wal.copy(true);
    this.#end();
  }

  #end(): void {
    this.#wal.close();
    this.writer.close();
    this.#head?.close();
  }
}
