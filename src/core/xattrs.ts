/**
 * Extended attributes, and what hangs on them: POSIX ACLs that agree with st_mode, and the
 * privileges that a change of a file takes away.
 */
import { DamageError, FsError } from "../base/errno.ts";
import type { Statement } from "../db/statement.ts";
import {
  ACL_ACCESS,
  ACL_DEFAULT,
  applyMode,
  decodeAcl,
  encodeAcl,
  inherit as inheritAcl,
  isMinimal,
  modeOf,
} from "./acl.ts";
import { type Compression, isCompression } from "./codec.ts";
import type { Inode, Inodes } from "./inodes.ts";
import { isDirectory, isRegular, isSymlink, S_ISGID, S_ISUID, S_IXGRP } from "./mode.ts";
import type { Store } from "./store.ts";
import {
  type Epoch,
  type Ino,
  XATTR_CREATE,
  XATTR_LIST_MAX,
  XATTR_NAME_MAX,
  XATTR_REPLACE,
  XATTR_SIZE_MAX,
} from "./types.ts";

const CAPABILITY = Buffer.from("security.capability");
/** How a file, or what is made in a directory, is compressed, in one of the words of `Compression`. */
export const COMPRESSION = Buffer.from("user.sqlfuse.compression");
const NAMESPACES = ["user.", "trusted.", "security."];
/** Inodes that are remembered to have no attributes. */
const BARE_KEPT = 16_384;

/** What a new inode has of its directory. */
interface Inherited {
  readonly mode: number;
  readonly give: ((inode: Inode) => void) | undefined;
}

export class Xattrs {
  readonly #store: Store;
  readonly #inodes: Inodes;
  readonly #select: Statement;
  readonly #names: Statement;
  readonly #born: Statement;
  readonly #insert: Statement;
  readonly #update: Statement;
  readonly #delete: Statement;
  readonly #deleteAll: Statement;
  readonly #toPast: Statement;
  readonly #allToPast: Statement;
  readonly #any: Statement;
  /** Inodes without attributes, as far as is known. */
  readonly #bare = new Set<Ino>();

  constructor(store: Store, inodes: Inodes) {
    this.#store = store;
    this.#inodes = inodes;
    const db = store.writer;
    this.#select = db.prepare("SELECT value FROM xattr WHERE ino = ?1 AND name = ?2");
    this.#names = db.prepare("SELECT name FROM xattr WHERE ino = ?1 ORDER BY name");
    this.#born = db.prepare("SELECT born FROM xattr WHERE ino = ?1 AND name = ?2");
    this.#insert = db.prepare("INSERT INTO xattr (ino, name, value, born) VALUES (?1, ?2, ?3, ?4)");
    this.#update = db.prepare("UPDATE xattr SET value = ?3, born = ?4 WHERE ino = ?1 AND name = ?2");
    this.#delete = db.prepare("DELETE FROM xattr WHERE ino = ?1 AND name = ?2");
    this.#deleteAll = db.prepare("DELETE FROM xattr WHERE ino = ?1");
    this.#toPast = db.prepare("INSERT INTO xattr_past SELECT *, ?3 FROM xattr WHERE ino = ?1 AND name = ?2");
    this.#any = db.prepare("SELECT 1 FROM xattr WHERE ino = ?1 LIMIT 1");
    store.onForget(() => this.#bare.clear());
    this.#allToPast = db.prepare(
      "INSERT INTO xattr_past SELECT *, ?2 FROM xattr WHERE ino = ?1 AND born <= ?3",
    );
  }

  /** The value, or undefined where there is none (ENODATA). @throws FsError ERANGE, EOPNOTSUPP */
  get(ino: Ino, name: Uint8Array): Uint8Array | undefined {
    checkName(name);
    return this.#store.query(ino, () => this.#value(ino, name));
  }

  /** The names, each followed by a NUL. */
  list(ino: Ino): Uint8Array {
    return this.#store.query(ino, () => {
      if (this.#isBare(ino)) return new Uint8Array(0);
      const names: Uint8Array[] = [];
      const rows = this.#names.bindInt(1, ino);
      while (rows.step()) names.push(rows.blob(0), Uint8Array.of(0));
      return Buffer.concat(names);
    });
  }

  /**
   * Sets an attribute. An access ACL changes st_mode too; with `aclKillSgid` it clears S_ISGID.
   * @throws FsError ESTALE; EEXIST (XATTR_CREATE), ENODATA (XATTR_REPLACE), EINVAL (flags, ACL), ERANGE (name),
   *   E2BIG (value), ENOSPC (list), EOPNOTSUPP (namespace, ACL of a symlink), EACCES (default ACL of a file),
   *   EINVAL (no such compression); EROFS, EIO
   */
  set(ino: Ino, name: Uint8Array, value: Uint8Array, flags: number, aclKillSgid: boolean): void {
    checkName(name);
    this.#store.query(ino, () => {
      const inode = this.#inodes.load(ino);
      checkOwner(inode, name);
      checkValue(name, value);
      if ((flags & ~(XATTR_CREATE | XATTR_REPLACE)) !== 0) throw new FsError("EINVAL");
      const exists = this.#bornOf(ino, name) !== undefined;
      if (exists && (flags & XATTR_CREATE) !== 0) throw new FsError("EEXIST");
      if (!exists && (flags & XATTR_REPLACE) !== 0) throw new FsError("ENODATA");
      if (!exists && this.list(ino).length + name.length + 1 > XATTR_LIST_MAX) throw new FsError("ENOSPC");
      const access = ACL_ACCESS.equals(name);
      const entries = access || ACL_DEFAULT.equals(name) ? decodeAcl(value) : undefined;
      if (!access && entries !== undefined && entries.length > 0 && !isDirectory(inode.mode))
        throw new FsError("EACCES");
      this.#store.change(ino, value.length, false, () => {
        if (access && entries !== undefined && entries.length > 0) {
          inode.mode = (inode.mode & ~0o777) | modeOf(entries);
          if (aclKillSgid) inode.mode &= ~S_ISGID;
        }
        if (entries !== undefined && (entries.length === 0 || (access && isMinimal(entries))))
          this.#drop(inode, name);
        else this.#put(inode, name, value);
        this.#changed(inode);
      });
    });
  }

  /** @throws FsError ESTALE; ENODATA, EOPNOTSUPP; EROFS, EIO */
  remove(ino: Ino, name: Uint8Array): void {
    checkName(name);
    this.#store.query(ino, () => {
      const inode = this.#inodes.load(ino);
      checkOwner(inode, name);
      if (this.#bornOf(ino, name) === undefined) {
        // An ACL that is not there says what st_mode says: nothing to remove, and no error (as ext4).
        if (ACL_ACCESS.equals(name) || ACL_DEFAULT.equals(name)) return;
        throw new FsError("ENODATA");
      }
      this.#store.change(ino, 0, true, () => {
        this.#drop(inode, name);
        this.#changed(inode);
      });
    });
  }

  // --- for the other rooms; all inside a change of the caller, who saves the inode ---

  /** What the attribute of a file or directory says; undefined where it has none, or none that can be. @throws DamageError */
  compressionOf(ino: Ino): Compression | undefined {
    const value = this.#value(ino, COMPRESSION);
    const word = value === undefined ? "" : Buffer.from(value).toString("latin1");
    return isCompression(word) ? word : undefined;
  }

  /** Clears S_ISUID, S_ISGID where group-executable, and the file's capabilities. */
  killPrivileges(inode: Inode): void {
    inode.mode &= ~S_ISUID;
    if ((inode.mode & S_IXGRP) !== 0) inode.mode &= ~S_ISGID;
    this.#drop(inode, CAPABILITY);
  }

  /** After a chmod the access ACL says the same. */
  followChmod(inode: Inode): void {
    const value = this.#value(inode.ino, ACL_ACCESS);
    if (value === undefined) return;
    const entries = decodeAcl(value);
    applyMode(entries, inode.mode);
    this.#put(inode, ACL_ACCESS, encodeAcl(entries));
  }

  /** What a new file in `directory` starts with: its mode, and the attributes to give it once it has a number. */
  inherit(directory: Ino, mode: number, umask: number): Inherited {
    const acls = this.#inheritAcls(directory, mode, umask);
    const has = isRegular(mode) || isDirectory(mode) ? this.compressionOf(directory) : undefined;
    if (has === undefined) return acls;
    return {
      mode: acls.mode,
      give: (inode) => {
        this.#put(inode, COMPRESSION, Buffer.from(has));
        acls.give?.(inode);
      },
    };
  }

  #inheritAcls(directory: Ino, mode: number, umask: number): Inherited {
    const defaults = isSymlink(mode) ? undefined : this.#value(directory, ACL_DEFAULT);
    if (defaults === undefined) return { mode: mode & ~umask, give: undefined };
    const entries = inheritAcl(decodeAcl(defaults), mode);
    return {
      mode: (mode & ~0o777) | modeOf(entries),
      give: (inode) => {
        if (!isMinimal(entries)) this.#put(inode, ACL_ACCESS, encodeAcl(entries));
        if (isDirectory(mode)) this.#put(inode, ACL_DEFAULT, defaults);
      },
    };
  }

  /**
   * Gives `inode` an attribute as it was once: its ctime stays. An access ACL decides its permission bits.
   * @throws FsError as `set`, before anything is changed
   */
  restore(inode: Inode, name: Uint8Array, value: Uint8Array): void {
    checkName(name);
    checkOwner(inode, name);
    checkValue(name, value);
    const access = ACL_ACCESS.equals(name);
    const entries = access || ACL_DEFAULT.equals(name) ? decodeAcl(value) : undefined;
    if (entries !== undefined && !access && !isDirectory(inode.mode)) throw new FsError("EACCES");
    if (access && entries !== undefined && entries.length > 0)
      inode.mode = (inode.mode & ~0o777) | modeOf(entries);
    if (entries === undefined || (entries.length > 0 && !(access && isMinimal(entries))))
      this.#put(inode, name, value);
  }

  /** An inode is purged: what belongs to the past goes there, the rest goes. */
  dropAll(inode: Inode): void {
    const kept = this.#store.epochs.keptBefore(inode.born);
    this.#allToPast.bindInt(1, inode.ino).bindInt(2, inode.born).bindInt(3, kept).run();
    this.#deleteAll.bindInt(1, inode.ino).run();
  }

  /** An inode has no attributes, as one that was just made: nobody need look for them. */
  made(ino: Ino): void {
    if (this.#bare.size >= BARE_KEPT) {
      const oldest = this.#bare.values().next();
      if (oldest.done !== true) this.#bare.delete(oldest.value);
    }
    this.#bare.add(ino);
  }

  /** Whether an inode has no attributes at all: the kernel asks for them at every first write, chown and listing. */
  #isBare(ino: Ino): boolean {
    if (this.#bare.has(ino)) return true;
    const any = this.#any.bindInt(1, ino).step();
    if (any) {
      this.#any.reset();
      return false;
    }
    this.#absent();
    this.made(ino);
    return true;
  }

  /** Nothing was found: unless in a page that reads as zeros. @throws DamageError */
  #absent(): undefined {
    if (this.#store.writer.isPoisoned) throw new DamageError("a page has a wrong HMAC");
  }

  #value(ino: Ino, name: Uint8Array): Uint8Array | undefined {
    if (this.#isBare(ino)) return undefined;
    const row = this.#select.bindInt(1, ino).bindBlob(2, name);
    if (!row.step()) return this.#absent();
    const value = row.blob(0);
    row.reset();
    return this.#store.whole(value);
  }

  #bornOf(ino: Ino, name: Uint8Array): Epoch | undefined {
    if (this.#isBare(ino)) return undefined;
    const row = this.#born.bindInt(1, ino).bindBlob(2, name);
    if (!row.step()) return undefined;
    const born = row.int(0) as Epoch;
    row.reset();
    return born;
  }

  #put(inode: Inode, name: Uint8Array, value: Uint8Array): void {
    const epoch = this.#inodes.epochOf(inode);
    const born = this.#bornOf(inode.ino, name);
    if (born !== undefined && born <= this.#store.epochs.keptBefore(epoch))
      this.#past(inode.ino, name, epoch);
    const row = born === undefined ? this.#insert : this.#update;
    this.#bare.delete(inode.ino);
    row.bindInt(1, inode.ino).bindBlob(2, name).bindBlob(3, value).bindInt(4, epoch).run();
  }

  #drop(inode: Inode, name: Uint8Array): void {
    const born = this.#bornOf(inode.ino, name);
    if (born === undefined) return;
    const epoch = this.#inodes.epochOf(inode);
    if (born <= this.#store.epochs.keptBefore(epoch)) this.#past(inode.ino, name, epoch);
    this.#delete.bindInt(1, inode.ino).bindBlob(2, name).run();
  }

  #past(ino: Ino, name: Uint8Array, epoch: Epoch): void {
    this.#toPast.bindInt(1, ino).bindBlob(2, name).bindInt(3, epoch).run();
  }

  #changed(inode: Inode): void {
    const now = this.#store.clock.now();
    [inode.ctimeSec, inode.ctimeNsec] = [now.sec, now.nsec];
    this.#inodes.save(inode);
  }
}

/** @throws FsError ERANGE, EOPNOTSUPP (namespace) */
function checkName(name: Uint8Array): void {
  if (name.length === 0 || name.length > XATTR_NAME_MAX) throw new FsError("ERANGE");
  const text = Buffer.from(name.buffer, name.byteOffset, name.byteLength).toString("latin1");
  const known = NAMESPACES.some((prefix) => text.startsWith(prefix) && text.length > prefix.length);
  if (!known && !ACL_ACCESS.equals(name) && !ACL_DEFAULT.equals(name)) throw new FsError("EOPNOTSUPP");
}

/** @throws FsError E2BIG; EINVAL: no word of `Compression` */
function checkValue(name: Uint8Array, value: Uint8Array): void {
  if (value.length > XATTR_SIZE_MAX) throw new FsError("E2BIG");
  if (COMPRESSION.equals(name) && !isCompression(Buffer.from(value).toString("latin1")))
    throw new FsError("EINVAL", "none, fast or strong");
}

/** @throws FsError EOPNOTSUPP: a symlink has no ACL */
function checkOwner(inode: Inode, name: Uint8Array): void {
  const acl = ACL_DEFAULT.equals(name) || ACL_ACCESS.equals(name);
  if (acl && isSymlink(inode.mode)) throw new FsError("EOPNOTSUPP");
}
