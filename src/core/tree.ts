/**
 * Directory entries: lookup, and the operations that make, move and remove names. Listings: src/core/listing.ts.
 *
 * Permission and sticky bits are checked by the kernel (default_permissions); what only the
 * filesystem can know is checked here: names, types, emptiness, links, loops.
 */
import type { Time } from "../base/clock.ts";
import { DamageError, FsError } from "../base/errno.ts";
import type { Statement } from "../db/statement.ts";
import { type Inode, type Inodes, inodeColumns, readInode } from "./inodes.ts";
import { Listing } from "./listing.ts";
import {
  isDevice,
  isDirectory,
  isSymlink,
  S_IFBLK,
  S_IFCHR,
  S_IFDIR,
  S_IFIFO,
  S_IFLNK,
  S_IFMT,
  S_IFREG,
  S_IFSOCK,
  S_ISGID,
} from "./mode.ts";
import type { Store } from "./store.ts";
import {
  type Attr,
  type Caller,
  type Entry,
  type Epoch,
  type Ino,
  LINK_MAX,
  NAME_MAX,
  RENAME_EXCHANGE,
  RENAME_NOREPLACE,
  ROOT_INO,
  SYMLINK_MAX,
} from "./types.ts";
import type { Xattrs } from "./xattrs.ts";

/** A row of dirent. */
interface Dirent {
  readonly id: number;
  readonly ino: Ino;
  readonly type: number;
  readonly born: Epoch;
}

/** What mknod makes. */
const NODE_TYPES: readonly number[] = [S_IFREG, S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK];
const DOT = 46;
const SLASH = 47;

export class Tree {
  readonly #store: Store;
  readonly #inodes: Inodes;
  readonly #xattrs: Xattrs;
  readonly #listing: Listing;
  readonly #lookup: Statement;
  readonly #select: Statement;
  readonly #insert: Statement;
  readonly #move: Statement;
  readonly #retarget: Statement;
  readonly #delete: Statement;
  readonly #toPast: Statement;
  readonly #any: Statement;
  readonly #target: Statement;

  constructor(store: Store, inodes: Inodes, xattrs: Xattrs) {
    this.#store = store;
    this.#inodes = inodes;
    this.#xattrs = xattrs;
    this.#listing = new Listing(store, inodes);
    const db = store.writer;
    this.#lookup = db.prepare(
      `SELECT ${inodeColumns("i")} FROM dirent AS d LEFT JOIN inode AS i ON i.ino = d.ino WHERE d.parent = ?1 AND d.name = ?2`,
    );
    this.#select = db.prepare("SELECT id, ino, type, born FROM dirent WHERE parent = ?1 AND name = ?2");
    this.#insert = db.prepare(
      "INSERT INTO dirent (parent, name, id, ino, type, born) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    );
    this.#move = db.prepare(
      "UPDATE dirent SET parent = ?3, name = ?4, born = ?5 WHERE parent = ?1 AND name = ?2",
    );
    this.#retarget = db.prepare(
      "UPDATE dirent SET ino = ?3, type = ?4, born = ?5 WHERE parent = ?1 AND name = ?2",
    );
    this.#delete = db.prepare("DELETE FROM dirent WHERE parent = ?1 AND name = ?2");
    this.#toPast = db.prepare(
      "INSERT INTO dirent_past SELECT *, ?3 FROM dirent WHERE parent = ?1 AND name = ?2",
    );
    this.#any = db.prepare("SELECT 1 FROM dirent WHERE parent = ?1 LIMIT 1");
    this.#target = db.prepare("SELECT target FROM inode WHERE ino = ?1");
  }

  /**
   * The inode that `name` names in `parent`, undefined where there is none (ENOENT). Takes "."
   * and ".." as well.
   * @throws FsError ESTALE (no such directory), ENOTDIR, ENAMETOOLONG
   */
  lookup(parent: Ino, name: Uint8Array): Attr | undefined {
    return this.#store.query(parent, () => {
      const found =
        this.#store.past === undefined ? this.#namedNow(parent, name) : this.#namedThen(parent, name);
      if (found !== undefined) return found;
      // "." finds an inode of any type: that is how a file handle (NFS) is turned into one.
      if (name.length === 1 && isDots(name)) return this.#inodes.loadLiving(parent);
      const directory = this.#inodes.loadDirectory(parent);
      if (name.length > NAME_MAX) throw new FsError("ENAMETOOLONG");
      return isDots(name) ? this.#inodes.load(directory.parent) : undefined;
    });
  }

  #namedNow(parent: Ino, name: Uint8Array): Inode | undefined {
    const row = this.#lookup.bindInt(1, parent).bindBlob(2, name);
    if (!row.step()) return undefined;
    const inode = row.isNull(0) ? undefined : readInode(row, 0);
    row.reset();
    if (inode === undefined) throw new DamageError(`an entry of directory ${parent} names no inode`);
    return this.#inodes.current(inode);
  }

  /** A LEFT JOIN of views would read all inodes. */
  #namedThen(parent: Ino, name: Uint8Array): Inode | undefined {
    const entry = this.#find(parent, name);
    return entry && this.#named(entry);
  }

  /** The directory that holds a directory; the root's is itself. @throws FsError ESTALE, ENOTDIR */
  parentOf(ino: Ino): Ino {
    return this.#store.query(ino, () => this.#inodes.loadDirectory(ino).parent);
  }

  /**
   * Makes a regular file, fifo, socket or device.
   * @throws FsError ESTALE, ENOTDIR, ENOENT (removed directory), EEXIST, ENAMETOOLONG, EINVAL (type, name),
   *   EROFS, ENOSPC, EIO
   */
  mknod(parent: Ino, name: Uint8Array, mode: number, rdev: number, caller: Caller): Attr {
    // st_mode has 16 bits; a field of the protocol has more.
    const known = mode & (S_IFMT | 0o7777);
    const typed = (known & S_IFMT) === 0 ? known | S_IFREG : known;
    if (!NODE_TYPES.includes(typed & S_IFMT)) throw new FsError("EINVAL");
    return this.#make(parent, name, typed, caller, { rdev: isDevice(typed) ? rdev : 0 });
  }

  /** @throws FsError as mknod */
  mkdir(parent: Ino, name: Uint8Array, mode: number, caller: Caller): Attr {
    return this.#make(parent, name, (mode & 0o7777) | S_IFDIR, caller, { nlink: 2, parent });
  }

  /** @throws FsError as mknod; ENAMETOOLONG and ENOENT for a target too long or empty */
  symlink(parent: Ino, name: Uint8Array, target: Uint8Array, caller: Caller): Attr {
    if (target.length === 0) throw new FsError("ENOENT");
    if (target.length > SYMLINK_MAX) throw new FsError("ENAMETOOLONG");
    const everyone = { ...caller, umask: 0 };
    return this.#make(parent, name, S_IFLNK | 0o777, everyone, { size: target.length, target });
  }

  #make(
    parent: Ino,
    name: Uint8Array,
    mode: number,
    caller: Caller,
    fields: { rdev?: number; nlink?: number; parent?: Ino; size?: number; target?: Uint8Array },
  ): Attr {
    return this.#store.query(parent, () => {
      const directory = this.#openDirectory(parent);
      checkNewName(name);
      if (this.#find(parent, name) !== undefined) throw new FsError("EEXIST");
      const now = this.#store.clock.now();
      const { inode, insert } = this.#newInode(directory, mode, caller, fields, now);
      this.#store.changeLater([parent, inode.ino], fields.size ?? 0, false, () => {
        insert();
        // One counter serves inodes and entries, so the first entry of an inode may bear its number.
        this.#insertEntry(parent, name, inode.ino, inode);
        if (isDirectory(mode)) directory.nlink++;
        this.#changed(directory, now);
      });
      return inode;
    });
  }

  /**
   * An unnamed regular file (O_TMPFILE): purged when its last reference goes, unless link names it.
   * @throws FsError ESTALE, ENOTDIR, ENOENT, EROFS, ENOSPC, EIO
   */
  tmpfile(parent: Ino, mode: number, caller: Caller): Attr {
    return this.#store.query(parent, () => {
      const directory = this.#openDirectory(parent);
      const regular = (mode & 0o7777) | S_IFREG;
      const now = this.#store.clock.now();
      const { inode, insert } = this.#newInode(directory, regular, caller, { nlink: 0 }, now);
      this.#store.changeLater([parent, inode.ino], 0, false, () => {
        insert();
        this.#inodes.orphan(inode.ino);
      });
      return inode;
    });
  }

  /** An inode as a new one in `directory` is to be; `insert`, inside a change, gives it its rows. */
  #newInode(
    directory: Inode,
    mode: number,
    caller: Caller,
    fields: { rdev?: number; nlink?: number; parent?: Ino; size?: number; target?: Uint8Array },
    now: Time,
  ): { readonly inode: Inode; readonly insert: () => void } {
    const setgid = (directory.mode & S_ISGID) !== 0;
    const { mode: permitted, give } = this.#xattrs.inherit(directory.ino, mode, caller.umask);
    const inode = this.#inodes.make(
      {
        ...fields,
        mode: setgid && isDirectory(mode) ? permitted | S_ISGID : permitted,
        uid: caller.uid,
        gid: setgid ? directory.gid : caller.gid,
      },
      now,
    );
    const insert = () => {
      this.#inodes.add(inode, fields.target);
      this.#xattrs.made(inode.ino);
      give?.(inode);
    };
    return { inode, insert };
  }

  /**
   * @throws FsError ESTALE, ENOTDIR, ENOENT (removed directory), EEXIST, ENAMETOOLONG, EPERM (a directory), EMLINK,
   *   EROFS, ENOSPC, EIO
   */
  link(ino: Ino, parent: Ino, name: Uint8Array): Attr {
    return this.#store.query(ino, () => {
      const directory = this.#openDirectory(parent);
      const inode = this.#inodes.load(ino);
      checkNewName(name);
      if (isDirectory(inode.mode)) throw new FsError("EPERM");
      if (this.#find(parent, name) !== undefined) throw new FsError("EEXIST");
      if (inode.nlink >= LINK_MAX) throw new FsError("EMLINK");
      return this.#store.change(ino, 0, false, () => {
        const now = this.#store.clock.now();
        if (inode.nlink === 0) this.#inodes.revive(inode);
        inode.nlink++;
        [inode.ctimeSec, inode.ctimeNsec] = [now.sec, now.nsec];
        this.#inodes.save(inode);
        this.#insertEntry(parent, name, this.#store.counters.takeSerial(), inode);
        this.#changed(directory, now);
        return inode;
      });
    });
  }

  /** @throws FsError ESTALE, ENOTDIR, ENOENT, EISDIR, ENAMETOOLONG, EROFS, EIO */
  unlink(parent: Ino, name: Uint8Array): void {
    this.#store.query(parent, () => {
      const directory = this.#inodes.loadDirectory(parent);
      const entry = this.#existing(parent, name);
      if (isDirectory(entry.type)) throw new FsError("EISDIR");
      const inode = this.#named(entry);
      this.#store.changeLater([parent, inode.ino], 0, true, () => {
        const now = this.#store.clock.now();
        this.#deleteEntry(parent, name, entry);
        [inode.ctimeSec, inode.ctimeNsec] = [now.sec, now.nsec];
        this.#inodes.dropLink(inode);
        this.#changed(directory, now);
      });
    });
  }

  /** @throws FsError ESTALE, ENOTDIR, ENOENT, ENOTEMPTY, EINVAL ("."), ENAMETOOLONG, EROFS, EIO */
  rmdir(parent: Ino, name: Uint8Array): void {
    this.#store.query(parent, () => {
      if (isDots(name)) throw new FsError(name.length === 1 ? "EINVAL" : "ENOTEMPTY");
      const directory = this.#inodes.loadDirectory(parent);
      const entry = this.#existing(parent, name);
      if (!isDirectory(entry.type)) throw new FsError("ENOTDIR");
      if (!this.#isEmpty(entry.ino)) throw new FsError("ENOTEMPTY");
      const inode = this.#named(entry);
      this.#store.changeLater([parent, inode.ino], 0, true, () => {
        const now = this.#store.clock.now();
        this.#deleteEntry(parent, name, entry);
        [inode.ctimeSec, inode.ctimeNsec] = [now.sec, now.nsec];
        this.#inodes.dropLink(inode, 2);
        directory.nlink--;
        this.#changed(directory, now);
      });
    });
  }

  /**
   * rename(2) with RENAME_NOREPLACE and RENAME_EXCHANGE. Two names of one file: nothing happens.
   * @throws FsError ESTALE, ENOTDIR, EISDIR, ENOENT, EEXIST (NOREPLACE), ENOTEMPTY, EINVAL (flags, into itself),
   *   ENAMETOOLONG, EROFS, ENOSPC, EIO
   */
  rename(parent: Ino, name: Uint8Array, newParent: Ino, newName: Uint8Array, flags: number): void {
    const exchange = flags === RENAME_EXCHANGE;
    if (flags !== 0 && flags !== RENAME_NOREPLACE && !exchange)
      throw new FsError("EINVAL", `rename flags ${flags}`);
    this.#store.query(parent, () => {
      const from = this.#inodes.loadDirectory(parent);
      const to = parent === newParent ? from : this.#openDirectory(newParent);
      const entry = this.#existing(parent, name);
      checkName(newName);
      const target = this.#find(newParent, newName);
      if (target !== undefined && flags === RENAME_NOREPLACE) throw new FsError("EEXIST");
      if (isDots(newName)) throw new FsError("EINVAL");
      if (target === undefined && exchange) throw new FsError("ENOENT");
      if (target?.ino === entry.ino) return;
      if (isDirectory(entry.type) && parent !== newParent) this.#checkLoop(entry.ino, newParent);
      if (exchange && target !== undefined) {
        if (isDirectory(target.type) && parent !== newParent) this.#checkLoop(target.ino, parent);
        this.#exchange(from, name, entry, to, newName, target);
        return;
      }
      if (target !== undefined) {
        if (isDirectory(target.type) && !isDirectory(entry.type)) throw new FsError("EISDIR");
        if (!isDirectory(target.type) && isDirectory(entry.type)) throw new FsError("ENOTDIR");
        if (isDirectory(target.type) && !this.#isEmpty(target.ino)) throw new FsError("ENOTEMPTY");
      }
      this.#replace(from, name, entry, to, newName, target);
    });
  }

  #replace(
    from: Inode,
    name: Uint8Array,
    entry: Dirent,
    to: Inode,
    newName: Uint8Array,
    target?: Dirent,
  ): void {
    const moved = this.#named(entry);
    const replaced = target === undefined ? undefined : this.#named(target);
    this.#store.changeLater([from.ino, to.ino, moved.ino, replaced?.ino], 0, true, () => {
      const now = this.#store.clock.now();
      if (target !== undefined && replaced !== undefined) {
        this.#deleteEntry(to.ino, newName, target);
        [replaced.ctimeSec, replaced.ctimeNsec] = [now.sec, now.nsec];
        this.#inodes.dropLink(replaced, isDirectory(target.type) ? 2 : 1);
        if (isDirectory(target.type)) to.nlink--;
      }
      this.#entryToPast(from.ino, name, entry);
      this.#move
        .bindInt(1, from.ino)
        .bindBlob(2, name)
        .bindInt(3, to.ino)
        .bindBlob(4, newName)
        .bindInt(5, this.#store.epoch)
        .run();
      this.#rehome(moved, from, to);
      [moved.ctimeSec, moved.ctimeNsec] = [now.sec, now.nsec];
      this.#inodes.save(moved);
      if (to !== from) this.#changed(to, now);
      this.#changed(from, now);
    });
  }

  #exchange(
    from: Inode,
    name: Uint8Array,
    entry: Dirent,
    to: Inode,
    newName: Uint8Array,
    target: Dirent,
  ): void {
    const one = this.#named(entry);
    const other = this.#named(target);
    this.#store.change(from.ino, 0, false, () => {
      const now = this.#store.clock.now();
      this.#retargetEntry(from.ino, name, entry, target);
      this.#retargetEntry(to.ino, newName, target, entry);
      this.#rehome(one, from, to);
      this.#rehome(other, to, from);
      for (const inode of [one, other]) {
        [inode.ctimeSec, inode.ctimeNsec] = [now.sec, now.nsec];
        this.#inodes.save(inode);
      }
      if (to !== from) this.#changed(to, now);
      this.#changed(from, now);
    });
  }

  /** A directory that moves takes its ".." with it. */
  #rehome(moved: Inode, from: Inode, to: Inode): void {
    if (!isDirectory(moved.mode) || from === to) return;
    from.nlink--;
    to.nlink++;
    moved.parent = to.ino;
  }

  /** @throws FsError EINVAL where `directory` is `descendant` or above it */
  #checkLoop(directory: Ino, descendant: Ino): void {
    for (let at = descendant; at !== ROOT_INO; at = this.#inodes.loadDirectory(at).parent) {
      if (at === directory) throw new FsError("EINVAL", "a directory cannot move into itself");
    }
  }

  /** @throws FsError ESTALE, EINVAL (not a symlink) */
  readlink(ino: Ino): Uint8Array {
    return this.#store.query(ino, () => {
      const inode = this.#inodes.load(ino);
      if (!isSymlink(inode.mode)) throw new FsError("EINVAL");
      const row = this.#target.bindInt(1, ino);
      const target = row.step() ? this.#store.whole(row.blob(0)) : new Uint8Array(0);
      row.reset();
      this.#inodes.accessed(inode);
      return target;
    });
  }

  /** See Listing. */
  readdir(ino: Ino, cookie: number, visit: (entry: Entry) => boolean): void {
    this.#listing.readdir(ino, cookie, visit);
  }

  /** See Listing. */
  readdirplus(ino: Ino, cookie: number, visit: (entry: Entry, attr: Attr) => boolean): void {
    this.#listing.readdirplus(ino, cookie, visit);
  }

  /** See Listing. */
  page(ino: Ino, after: Uint8Array, count: number): (readonly [Entry, Attr])[] {
    return this.#listing.page(ino, after, count);
  }

  // --- for a restore ---

  /** The directory in which `name` can be made. @throws FsError as mknod */
  vacancy(parent: Ino, name: Uint8Array): Inode {
    const directory = this.#openDirectory(parent);
    checkNewName(name);
    if (this.#find(parent, name) !== undefined) throw new FsError("EEXIST");
    return directory;
  }

  /**
   * Enters `inode` where `vacancy` found room, inside a change of the caller: no time changes, and the inode's own
   * link count is the caller's.
   */
  enter(directory: Inode, name: Uint8Array, id: number, inode: Inode): void {
    this.#insertEntry(directory.ino, name, id, inode);
    if (!isDirectory(inode.mode)) return;
    directory.nlink++;
    this.#inodes.save(directory);
  }

  /** A directory in which names can be made: one that is not removed. */
  #openDirectory(ino: Ino): Inode {
    const directory = this.#inodes.loadDirectory(ino);
    if (directory.nlink === 0) throw new FsError("ENOENT");
    return directory;
  }

  #find(parent: Ino, name: Uint8Array): Dirent | undefined {
    const row = this.#select.bindInt(1, parent).bindBlob(2, name);
    if (!row.step()) return undefined;
    const entry = { id: row.int(0), ino: row.int(1) as Ino, type: row.int(2), born: row.int(3) as Epoch };
    row.reset();
    return entry;
  }

  /** The inode of an entry. @throws DamageError where there is none */
  #named(entry: Dirent): Inode {
    const inode = this.#inodes.find(entry.ino);
    if (inode === undefined) throw new DamageError(`inode ${entry.ino} is missing, and an entry names it`);
    return inode;
  }

  #existing(parent: Ino, name: Uint8Array): Dirent {
    checkName(name);
    const entry = this.#find(parent, name);
    if (entry === undefined) throw new FsError("ENOENT");
    return entry;
  }

  #isEmpty(ino: Ino): boolean {
    const any = this.#any.bindInt(1, ino).step();
    if (any) this.#any.reset();
    return !any;
  }

  #insertEntry(parent: Ino, name: Uint8Array, id: number, inode: Inode): void {
    this.#insert
      .bindInt(1, parent)
      .bindBlob(2, name)
      .bindInt(3, id)
      .bindInt(4, inode.ino)
      .bindInt(5, inode.mode & S_IFMT)
      .bindInt(6, this.#store.epoch)
      .run();
  }

  #deleteEntry(parent: Ino, name: Uint8Array, entry: Dirent): void {
    this.#entryToPast(parent, name, entry);
    this.#delete.bindInt(1, parent).bindBlob(2, name).run();
  }

  /** Makes an entry name what `other` names. */
  #retargetEntry(parent: Ino, name: Uint8Array, entry: Dirent, other: Dirent): void {
    this.#entryToPast(parent, name, entry);
    this.#retarget
      .bindInt(1, parent)
      .bindBlob(2, name)
      .bindInt(3, other.ino)
      .bindInt(4, other.type)
      .bindInt(5, this.#store.epoch)
      .run();
  }

  /** An entry is about to change: where a snapshot shows it, it goes to the past as it was. */
  #entryToPast(parent: Ino, name: Uint8Array, { born }: Dirent): void {
    if (born <= this.#store.epochs.keptBefore(this.#store.epoch))
      this.#toPast.bindInt(1, parent).bindBlob(2, name).bindInt(3, this.#store.epoch).run();
  }

  /** mtime and ctime of a directory are now; saves. */
  #changed(directory: Inode, now: Time): void {
    directory.mtimeSec = directory.ctimeSec = now.sec;
    directory.mtimeNsec = directory.ctimeNsec = now.nsec;
    this.#inodes.save(directory);
  }
}

/** Whether a name is "." or "..". */
function isDots(name: Uint8Array): boolean {
  return name[0] === DOT && (name.length === 1 || (name.length === 2 && name[1] === DOT));
}

/** @throws FsError ENOENT (empty), ENAMETOOLONG, EINVAL (a byte that no name may hold) */
function checkName(name: Uint8Array): void {
  if (name.length === 0) throw new FsError("ENOENT");
  if (name.length > NAME_MAX) throw new FsError("ENAMETOOLONG");
  if (name.includes(0) || name.includes(SLASH)) throw new FsError("EINVAL");
}

/** As checkName, for a name that is about to be made. @throws FsError EEXIST for "." and ".." too */
function checkNewName(name: Uint8Array): void {
  checkName(name);
  if (isDots(name)) throw new FsError("EEXIST");
}
