/**
 * Inode rows: loading, saving, the past of a row, and the life of an inode that no
 * entry names any more.
 *
 * Rows that were read are kept, and rows that the open group changed are written once, before it is committed: a
 * file that is unpacked changes its inode seven times, its directory's with each name. Whoever reads inode by SQL of
 * his own passes each row through `current`, or calls `flush` first.
 *
 * An inode lives while an entry names it (nlink > 0) or somebody holds a reference. What
 * is left is purged in slices; what a crash left unlinked is purged at the next open.
 */
import { assert } from "../base/assert.ts";
import type { Time } from "../base/clock.ts";
import { DamageError, FsError } from "../base/errno.ts";
import type { Statement } from "../db/statement.ts";
import { isDirectory, isRegular } from "./mode.ts";
import type { Store } from "./store.ts";
import type { Attr, Epoch, Ino } from "./types.ts";

/** A row of inode: what stat tells, and what only the core needs. */
export interface Inode extends Attr {
  /** Rows in extent. */
  extents: number;
  /** Of a directory: its parent. Else 0. */
  parent: Ino;
  born: Epoch;
}

/** What a new inode starts with; times are set to now. */
export interface NewInode {
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly rdev?: number;
  readonly size?: number;
  readonly blockSize?: number;
  readonly nlink?: number;
  readonly parent?: Ino;
  readonly target?: Uint8Array;
}

const NS = 1_000_000_000;
/** Rows kept in memory, some 300 bytes each; as many changed ones are written before the group ends. */
const KEPT = 8192;

/**
 * The columns of an Inode in the order in which `readInode` takes them. Times come as
 * seconds and nanoseconds, divided by SQLite: a BigInt costs more than the whole read.
 */
export function inodeColumns(table: string): string {
  const time = (column: string) => `${table}.${column} / ${NS}, ${table}.${column} % ${NS}`;
  const plain = ["ino", "mode", "nlink", "uid", "gid", "rdev", "size", "block_size", "extents", "parent"]
    .map((column) => `${table}.${column}`)
    .join(", ");
  const times = ["atime_ns", "mtime_ns", "ctime_ns", "btime_ns"].map(time).join(", ");
  return `${plain}, ${table}.generation, ${table}.born, ${times}`;
}

/** Number of columns that `inodeColumns` lists. */
export const INODE_COLUMNS = 20;

/** The Inode of a row whose columns from `at` on are `inodeColumns`. */
export function readInode(row: Statement, at: number): Inode {
  const inode: Inode = {
    ino: row.int(at) as Ino,
    mode: row.int(at + 1),
    nlink: row.int(at + 2),
    uid: row.int(at + 3),
    gid: row.int(at + 4),
    rdev: row.int(at + 5),
    size: row.int(at + 6),
    blockSize: row.int(at + 7),
    blocks: 0,
    atimeSec: row.int(at + 12),
    atimeNsec: row.int(at + 13),
    mtimeSec: row.int(at + 14),
    mtimeNsec: row.int(at + 15),
    ctimeSec: row.int(at + 16),
    ctimeNsec: row.int(at + 17),
    btimeSec: row.int(at + 18),
    btimeNsec: row.int(at + 19),
    generation: row.int(at + 10),
    extents: row.int(at + 8),
    parent: row.int(at + 9) as Ino,
    born: row.int(at + 11) as Epoch,
  };
  // SQLite divides towards zero, so a time before 1970 has negative nanoseconds here.
  if (inode.atimeNsec < 0) [inode.atimeSec, inode.atimeNsec] = [inode.atimeSec - 1, inode.atimeNsec + NS];
  if (inode.mtimeNsec < 0) [inode.mtimeSec, inode.mtimeNsec] = [inode.mtimeSec - 1, inode.mtimeNsec + NS];
  if (inode.ctimeNsec < 0) [inode.ctimeSec, inode.ctimeNsec] = [inode.ctimeSec - 1, inode.ctimeNsec + NS];
  if (inode.btimeNsec < 0) [inode.btimeSec, inode.btimeNsec] = [inode.btimeSec - 1, inode.btimeNsec + NS];
  inode.blocks = statBlocks(inode);
  return inode;
}

/** Field by field, in the order of `readInode`: a spread here ends on a slow path of the JavaScript engine. */
function copyOf(inode: Inode): Inode {
  return {
    ino: inode.ino,
    mode: inode.mode,
    nlink: inode.nlink,
    uid: inode.uid,
    gid: inode.gid,
    rdev: inode.rdev,
    size: inode.size,
    blockSize: inode.blockSize,
    blocks: inode.blocks,
    atimeSec: inode.atimeSec,
    atimeNsec: inode.atimeNsec,
    mtimeSec: inode.mtimeSec,
    mtimeNsec: inode.mtimeNsec,
    ctimeSec: inode.ctimeSec,
    ctimeNsec: inode.ctimeNsec,
    btimeSec: inode.btimeSec,
    btimeNsec: inode.btimeNsec,
    generation: inode.generation,
    extents: inode.extents,
    parent: inode.parent,
    born: inode.born,
  };
}

/**
 * st_blocks. A file without holes takes what its bytes take, not whole blocks: `du` of a
 * tree of small files would else show the block size for each.
 */
function statBlocks(inode: Inode): number {
  if (inode.extents === 0) return 0;
  const whole = Math.ceil(inode.size / inode.blockSize);
  return inode.extents === whole
    ? Math.ceil(inode.size / 512)
    : Math.ceil((inode.extents * inode.blockSize) / 512);
}

export class Inodes {
  readonly #store: Store;
  /** Whether READ, READDIR and READLINK move atime (relatime). */
  readonly #atime: boolean;
  /** Blocks of files made from now on, in bytes. */
  readonly #blockSize: number;
  readonly #select: Statement;
  readonly #insert: Statement;
  readonly #update: Statement;
  readonly #toPast: Statement;
  readonly #delete: Statement;
  readonly #lift: readonly Statement[];
  readonly #count: Statement;
  readonly #unlinked: Statement;
  /** Rows of the open group that differ from what the table has. */
  readonly #changed = new Map<Ino, Inode>();
  /** Rows that the table has like this. */
  readonly #kept = new Map<Ino, Inode>();
  /** References held by the kernel or a library user. */
  readonly #references = new Map<Ino, number>();
  /** Unlinked inodes that are still referenced. */
  readonly #orphans = new Set<Ino>();
  /** Unlinked inodes that wait for the purge. */
  readonly #dead: Ino[] = [];
  /** Whether what an earlier session left unlinked is among them. */
  #leftLooked = false;
  /** Rows in inode, counted when first asked for and kept up to date from then on. */
  #files: number | undefined;
  readonly #random = new Uint32Array(256);
  #randomAt = 256;

  constructor(store: Store, blockSize: number, atime: boolean) {
    this.#store = store;
    this.#blockSize = blockSize;
    this.#atime = atime && !store.readOnly;
    const db = store.writer;
    this.#select = db.prepare(`SELECT ${inodeColumns("inode")} FROM inode WHERE ino = ?1`);
    this.#insert = db.prepare(
      `INSERT INTO inode (ino, mode, nlink, uid, gid, rdev, size, block_size, extents, parent, generation,
         atime_ns, mtime_ns, ctime_ns, btime_ns, born, origin, serial, version, target)
       VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 0, ?9, ?10, ?11 * ${NS} + ?12, ?11 * ${NS} + ?12,
         ?11 * ${NS} + ?12, ?11 * ${NS} + ?12, ?13, 0, NULL, NULL, ?14)`,
    );
    this.#update = db.prepare(
      `UPDATE inode SET mode = ?2, nlink = ?3, uid = ?4, gid = ?5, size = ?6, extents = ?7, parent = ?8,
         atime_ns = ?9 * ${NS} + ?10, mtime_ns = ?11 * ${NS} + ?12, ctime_ns = ?13 * ${NS} + ?14, born = ?15
       WHERE ino = ?1`,
    );
    this.#toPast = db.prepare("INSERT INTO inode_past SELECT *, ?2 FROM inode WHERE ino = ?1");
    this.#lift = ["xattr", "extent"].map((table) =>
      db.prepare(`UPDATE ${table} SET born = ?3 WHERE ino = ?1 AND born >= ?2`),
    );
    this.#delete = db.prepare("DELETE FROM inode WHERE ino = ?1");
    this.#count = db.prepare("SELECT count(*) FROM inode");
    this.#unlinked = db.prepare("SELECT ino FROM inode WHERE nlink = 0");
    store.beforeCommit(() => this.flush());
    store.onForget(() => {
      this.#changed.clear();
      this.#kept.clear();
      this.#files = undefined;
    });
  }

  // --- rows, for the other rooms of the core ---

  /** @throws FsError ESTALE where there is no such inode */
  load(ino: Ino): Inode {
    const inode = this.find(ino);
    if (inode === undefined) throw new FsError("ESTALE");
    return inode;
  }

  /** The caller's own to change: nothing holds before `save`. */
  find(ino: Ino): Inode | undefined {
    const known = this.#changed.get(ino) ?? this.#kept.get(ino);
    if (known !== undefined) return copyOf(known);
    const row = this.#select.bindInt(1, ino);
    if (!row.step()) return undefined;
    const inode = readInode(row, 0);
    row.reset();
    this.#keep(ino, copyOf(inode));
    return inode;
  }

  /** What holds of an inode that was just read from the table. */
  current(read: Inode): Inode {
    return this.#changed.get(read.ino) ?? read;
  }

  /** Writes the changed rows to the table. */
  flush(): void {
    this.#store.unmissed(() => {
      for (const [ino, inode] of this.#changed) {
        this.#write(inode);
        this.#keep(ino, inode);
      }
    });
    this.#changed.clear();
  }

  #keep(ino: Ino, inode: Inode): void {
    if (this.#kept.size >= KEPT) {
      const oldest = this.#kept.keys().next();
      if (oldest.done !== true) this.#kept.delete(oldest.value);
    }
    this.#kept.set(ino, inode);
  }

  /** Holds a changed row until it is written. */
  #hold(inode: Inode): void {
    this.#kept.delete(inode.ino);
    this.#changed.set(inode.ino, copyOf(inode));
    if (this.#changed.size > KEPT) this.flush();
  }

  /** As load; an inode that only waits for the purge is gone. @throws FsError ESTALE */
  loadLiving(ino: Ino): Inode {
    const inode = this.load(ino);
    if (inode.nlink === 0 && !this.#references.has(ino)) throw new FsError("ESTALE");
    return inode;
  }

  /** @throws FsError ESTALE, ENOTDIR */
  loadDirectory(ino: Ino): Inode {
    const inode = this.load(ino);
    if (!isDirectory(inode.mode)) throw new FsError("ENOTDIR");
    return inode;
  }

  /** Epoch that a change of this inode belongs to: an unlinked one stays in that of its unlink. */
  epochOf(inode: Inode): Epoch {
    return inode.nlink === 0 ? inode.born : this.#store.epoch;
  }

  /** Makes a row; all its times are now. */
  insert(fields: NewInode, now: Time): Inode {
    const inode = this.make(fields, now);
    this.add(inode, fields.target);
    return inode;
  }

  /** Makes an inode that has its number and no row yet; all its times are now. */
  make(fields: NewInode, now: Time): Inode {
    const blockSize = isRegular(fields.mode) ? (fields.blockSize ?? this.#blockSize) : 0;
    return {
      ino: this.#store.counters.takeSerial() as Ino,
      mode: fields.mode,
      nlink: fields.nlink ?? 1,
      uid: fields.uid,
      gid: fields.gid,
      rdev: fields.rdev ?? 0,
      size: fields.size ?? 0,
      blockSize,
      blocks: 0,
      atimeSec: now.sec,
      atimeNsec: now.nsec,
      mtimeSec: now.sec,
      mtimeNsec: now.nsec,
      ctimeSec: now.sec,
      ctimeNsec: now.nsec,
      btimeSec: now.sec,
      btimeNsec: now.nsec,
      generation: this.#nextRandom(),
      extents: 0,
      parent: fields.parent ?? (0 as Ino),
      born: this.#store.epoch,
    };
  }

  /** Gives an inode its row. `target`: of a symlink. */
  add(inode: Inode, target?: Uint8Array): void {
    const row = this.#insert
      .bindInt(1, inode.ino)
      .bindInt(2, inode.mode)
      .bindInt(3, inode.nlink)
      .bindInt(4, inode.uid)
      .bindInt(5, inode.gid)
      .bindInt(6, inode.rdev)
      .bindInt(7, inode.size)
      .bindInt(8, inode.blockSize)
      .bindInt(9, inode.parent)
      .bindInt(10, inode.generation)
      .bindInt(11, inode.btimeSec)
      .bindInt(12, inode.btimeNsec)
      .bindInt(13, inode.born);
    if (target === undefined) row.bindNull(14);
    else row.bindBlob(14, target);
    row.run();
    if (this.#files !== undefined) this.#files++;
    this.#store.touch(inode.ino);
    this.#keep(inode.ino, copyOf(inode));
  }

  /** Takes a changed row over; the row it was goes to the past where a snapshot shows it. */
  save(inode: Inode, unlinkedBefore = inode.nlink === 0): void {
    const epoch = unlinkedBefore ? inode.born : this.#store.epoch;
    if (inode.born <= this.#store.epochs.keptBefore(epoch))
      this.#toPast.bindInt(1, inode.ino).bindInt(2, epoch).run();
    inode.born = epoch;
    inode.blocks = statBlocks(inode);
    this.#hold(inode);
    this.#store.touch(inode.ino);
  }

  #write(inode: Inode): void {
    this.#update
      .bindInt(1, inode.ino)
      .bindInt(2, inode.mode)
      .bindInt(3, inode.nlink)
      .bindInt(4, inode.uid)
      .bindInt(5, inode.gid)
      .bindInt(6, inode.size)
      .bindInt(7, inode.extents)
      .bindInt(8, inode.parent)
      .bindInt(9, inode.atimeSec)
      .bindInt(10, inode.atimeNsec)
      .bindInt(11, inode.mtimeSec)
      .bindInt(12, inode.mtimeNsec)
      .bindInt(13, inode.ctimeSec)
      .bindInt(14, inode.ctimeNsec)
      .bindInt(15, inode.born)
      .run();
  }

  /** Deletes the row of a dead inode; only the purge does. */
  delete(ino: Ino): void {
    this.#changed.delete(ino);
    this.#kept.delete(ino);
    this.#delete.bindInt(1, ino).run();
    if (this.#files !== undefined) this.#files--;
  }

  /**
   * One entry fewer names `inode`. The last one makes it an orphan, purged when nobody refers
   * to it. The caller has set its ctime; this saves it.
   */
  dropLink(inode: Inode, links = 1): void {
    assert(inode.nlink >= links, `inode ${inode.ino} has ${inode.nlink} links`);
    inode.nlink -= links;
    if (inode.nlink === 0) inode.parent = 0 as Ino;
    this.save(inode, false);
    if (inode.nlink > 0) return;
    if (this.#references.has(inode.ino)) this.#orphans.add(inode.ino);
    else this.#dead.push(inode.ino);
  }

  /** An unlinked inode gets a name again (linkat of an O_TMPFILE). The caller saves it. */
  revive(inode: Inode): void {
    this.#orphans.delete(inode.ino);
    // What it got while it was unlinked belongs to no epoch before this one either.
    for (const lift of this.#lift)
      lift.bindInt(1, inode.ino).bindInt(2, inode.born).bindInt(3, this.#store.epoch).run();
    inode.born = this.#store.epoch;
  }

  /** The next inode to purge. */
  nextDead(): Ino | undefined {
    if (!this.#store.hasGroup) this.findLeft();
    return this.#dead.at(-1);
  }

  /** Finds what a crash left unlinked, once; commits. Damage there must not keep the volume from being opened. */
  findLeft(): void {
    if (this.#leftLooked) return;
    this.#leftLooked = true;
    if (this.#store.readOnly) return;
    try {
      // What waits must not be lost with it, should it meet a damaged page.
      this.#store.commit();
      this.#store.query(0 as Ino, () => {
        const known = new Set(this.#dead);
        while (this.#unlinked.step()) {
          const ino = this.#unlinked.int(0) as Ino;
          if (!this.#orphans.has(ino) && !known.has(ino)) this.#dead.push(ino);
        }
      });
    } catch (error) {
      if (!(error instanceof DamageError) && !(error instanceof FsError)) throw error;
      this.#store.log(`cannot tell which unlinked files wait to be purged: ${error.message}`);
    }
  }

  /** The inode that `nextDead` named is gone. */
  buried(ino: Ino): void {
    const last = this.#dead.pop();
    assert(last === ino, "the purge takes the dead in order");
  }

  /** An inode that was made without a name (O_TMPFILE) lives while it is referenced. */
  orphan(ino: Ino): void {
    this.#orphans.add(ino);
  }

  /** Whether an unlinked inode is referenced (again): it then waits for its last reference. */
  keepsOrphan(ino: Ino): boolean {
    const referenced = this.#references.has(ino);
    if (referenced) this.#orphans.add(ino);
    return referenced;
  }

  /** Hands an inode that nobody refers to and no entry names to the purge. */
  abandon(ino: Ino): void {
    this.#dead.push(ino);
  }

  /** Moves atime to now by the rules of relatime. A read never fails for it. */
  accessed(inode: Inode): void {
    if (!this.#atime || this.#store.refusesChanges) return;
    const now = this.#store.clock.now();
    const DAY_SEC = 86_400;
    const since = (sec: number, nsec: number) =>
      inode.atimeSec < sec || (inode.atimeSec === sec && inode.atimeNsec <= nsec);
    const due =
      since(inode.mtimeSec, inode.mtimeNsec) ||
      since(inode.ctimeSec, inode.ctimeNsec) ||
      now.sec - inode.atimeSec >= DAY_SEC;
    if (!due) return;
    try {
      this.#store.change(inode.ino, 0, false, () => {
        this.#hold({ ...inode, atimeSec: now.sec, atimeNsec: now.nsec });
      });
    } catch (error) {
      if (!(error instanceof FsError)) throw error;
    }
  }

  /** Inodes in the volume. */
  get files(): number {
    if (this.#files === undefined) {
      this.#files = this.#count.step() ? this.#count.int(0) : 0;
      this.#count.reset();
    }
    return this.#files;
  }

  // --- references ---

  /** Counts one reference: the inode stays while any is held, even unlinked. */
  ref(ino: Ino): void {
    this.#references.set(ino, (this.#references.get(ino) ?? 0) + 1);
  }

  /** Gives `count` references back; the last one of an unlinked inode hands it to the purge. */
  unref(ino: Ino, count: number): void {
    const left = (this.#references.get(ino) ?? 0) - count;
    if (left > 0) {
      this.#references.set(ino, left);
      return;
    }
    this.#references.delete(ino);
    if (this.#orphans.delete(ino)) this.#dead.push(ino);
  }

  /** Gives every reference back: nobody can ask for an inode by number any more. */
  unrefAll(): void {
    this.#references.clear();
    for (const ino of this.#orphans) this.#dead.push(ino);
    this.#orphans.clear();
  }

  /** The inodes that are referenced. */
  referenced(): IterableIterator<Ino> {
    return this.#references.keys();
  }

  /** Number of inodes that are referenced. */
  get references(): number {
    return this.#references.size;
  }

  #nextRandom(): number {
    if (this.#randomAt === this.#random.length) {
      crypto.getRandomValues(this.#random);
      this.#randomAt = 0;
    }
    return this.#random[this.#randomAt++] ?? 0;
  }
}
