/**
 * libfuse's operations by path, on the core. Knows nothing of the binding: arguments are plain, refusals are thrown.
 *
 * Nobody tells who asks, so whatever is made belongs to who mounted; a mount that lets others in is refused. The kernel
 * has applied the umask, checks modes where it is told to, and clears set-id bits by setattr.
 */
import { FsError } from "../base/errno.ts";
import { ACL_ACCESS, ACL_DEFAULT } from "../core/acl.ts";
import { isDirectory, isRegular } from "../core/mode.ts";
import { type Attr, type Caller, type Ino, ROOT_INO, type SetAttr, type TimeChange } from "../core/types.ts";
import type { Volume } from "../core/volume.ts";
import { bytesOf, Paths, type Place } from "./paths.ts";
import { encodeEntry, encodeStat, encodeStatfs, type Owner } from "./stat.ts";

/** What is used of a volume. */
export type Served = Pick<
  Volume,
  "tree" | "attributes" | "files" | "xattrs" | "inodes" | "statfs" | "fsync" | "failed"
>;

/** Descriptors are positive 32-bit numbers. */
const LAST_DESCRIPTOR = 2 ** 31 - 1;
/** access(2)'s X_OK. */
const EXECUTE = 1;
/** chown(2)'s "leave as it is". */
const UNCHANGED = 0xffff_ffff;
const DIRECTORY = 0o040000;
const ACLS = [ACL_ACCESS, ACL_DEFAULT];

export interface Listing {
  readonly names: readonly string[];
  readonly stats: readonly Uint32Array[];
}

export interface OperationsOptions {
  /** Who mounted: the owner of what is made. */
  readonly caller: Caller;
  /** Shown instead of the true owner. */
  readonly owner: Owner;
}

export class Operations {
  readonly #volume: Served;
  readonly #options: OperationsOptions;
  readonly #paths: Paths;
  readonly #descriptors = new Map<number, Ino>();
  /** Descriptors of each open inode. */
  readonly #opens = new Map<Ino, number>();
  #lastDescriptor = 0;
  /**
   * An entry that libfuse has hidden and that is still in the volume. It does so for an unlink, and also before a
   * rename onto an open file: then the two become one rename of the core, so that no crash falls in between. Any other
   * operation unlinks it first.
   */
  #leaving: (Place & { readonly ino: Ino }) | undefined;
  #leavingSinceMs = 0;

  constructor(volume: Served, options: OperationsOptions) {
    this.#volume = volume;
    this.#options = options;
    this.#paths = new Paths(volume.tree);
  }

  // --- what is gone and open

  /** Unlinks what libfuse has hidden, unless that was so short a time ago that a rename may follow. */
  settle(youngestMs = 0): boolean {
    const leaving = this.#leaving;
    if (leaving === undefined) return true;
    if (performance.now() - this.#leavingSinceMs < youngestMs) return false;
    this.#leaving = undefined;
    this.#volume.tree.unlink(leaving.directory, leaving.name);
    return true;
  }

  /** A commit failed: names may lead elsewhere now. */
  lost(): void {
    this.#leaving = undefined;
    this.#paths.forget();
  }

  /** Somebody else changed the volume: names may lead elsewhere now. */
  changed(): void {
    this.#paths.forget();
  }

  #hide(place: Place, hidden: Place): void {
    this.settle();
    if (this.#volume.failed) throw new FsError("EROFS");
    const attr = this.#volume.tree.lookup(place.directory, place.name);
    if (attr === undefined) throw new FsError("ENOENT");
    // libfuse hides what is open: this is somebody else's rename to such a name, which could not be told apart later.
    if (!this.#opens.has(attr.ino)) throw new FsError("EPERM", "such names belong to libfuse");
    this.#volume.inodes.ref(attr.ino);
    this.#paths.hide(hidden, attr.ino);
    this.#leaving = { ...place, ino: attr.ino };
    this.#leavingSinceMs = performance.now();
  }

  // --- attributes

  getattr(path: string): Uint32Array {
    this.settle();
    const hidden = this.#paths.hiddenAt(path);
    if (hidden === undefined) return this.#stat(this.#paths.find(path));
    const attr = this.#volume.attributes.getattr(hidden.ino);
    // libfuse takes one off, for the name that it believes to be there.
    return this.#stat(attr, attr.nlink + 1);
  }

  fgetattr(path: string, descriptor: number): Uint32Array {
    this.settle();
    const attr = this.#volume.attributes.getattr(this.#ino(path, descriptor));
    return this.#stat(attr, this.#paths.hiddenAt(path) === undefined ? attr.nlink : attr.nlink + 1);
  }

  #stat(attr: Attr, nlink = attr.nlink): Uint32Array {
    return encodeStat(attr, this.#options.owner, nlink);
  }

  /** Asked only where the kernel does not check: there whoever asks may do all but run what nobody may. */
  access(path: string, mask: number): void {
    this.settle();
    const { mode } = this.#volume.attributes.getattr(this.#paths.ino(path));
    if ((mask & EXECUTE) !== 0 && isRegular(mode) && (mode & 0o111) === 0) throw new FsError("EACCES");
  }

  statfs(): Uint32Array {
    return encodeStatfs(this.#volume.statfs());
  }

  chmod(path: string, mode: number): void {
    this.#setattr(path, { mode: mode & 0o7777 });
  }

  chown(path: string, uid: number, gid: number): void {
    this.#setattr(path, { ...(uid === UNCHANGED ? {} : { uid }), ...(gid === UNCHANGED ? {} : { gid }) });
  }

  truncate(path: string, size: number): void {
    this.#setattr(path, { size });
  }

  ftruncate(path: string, descriptor: number, size: number): void {
    this.settle();
    this.#volume.attributes.setattr(this.#ino(path, descriptor), { size });
  }

  /** Undefined: as it is. @throws FsError EOPNOTSUPP for a time before 1970, which could not be shown */
  utimens(path: string, atime: TimeChange | undefined, mtime: TimeChange | undefined): void {
    for (const time of [atime, mtime])
      if (typeof time === "object" && time.sec < 0) throw new FsError("EOPNOTSUPP");
    this.#setattr(path, { ...(atime && { atime }), ...(mtime && { mtime }) });
  }

  #setattr(path: string, change: SetAttr): void {
    this.settle();
    this.#volume.attributes.setattr(this.#paths.ino(path), change);
  }

  // --- names

  mknod(path: string, mode: number, rdev: number): void {
    const { directory, name } = this.#newPlace(path);
    this.#volume.tree.mknod(directory, name, mode, rdev, this.#options.caller);
  }

  mkdir(path: string, mode: number): void {
    const { directory, name } = this.#newPlace(path);
    this.#volume.tree.mkdir(directory, name, mode, this.#options.caller);
  }

  symlink(target: string, path: string): void {
    const bytes = bytesOf(target);
    const { directory, name } = this.#newPlace(path);
    this.#volume.tree.symlink(directory, name, bytes, this.#options.caller);
  }

  link(path: string, newPath: string): void {
    const { directory, name } = this.#newPlace(newPath);
    this.#volume.tree.link(this.#paths.ino(path), directory, name);
  }

  #newPlace(path: string): Place {
    this.settle();
    const place = this.#paths.place(path);
    if (this.#paths.isHiddenName(place.name)) throw new FsError("EPERM", "such names belong to libfuse");
    return place;
  }

  unlink(path: string): void {
    this.settle();
    const hidden = this.#paths.hiddenAt(path);
    if (hidden !== undefined) {
      this.#paths.reveal(hidden);
      this.#volume.inodes.unref(hidden.ino, 1);
      return;
    }
    const { directory, name } = this.#paths.place(path);
    this.#volume.tree.unlink(directory, name);
  }

  /** @throws FsError EBUSY: it held a file that is open still, to which libfuse would find no path any more */
  rmdir(path: string): void {
    this.settle();
    const { directory, name } = this.#paths.place(path);
    this.#refuseHiding(this.#volume.tree.lookup(directory, name));
    this.#volume.tree.rmdir(directory, name);
    this.#paths.forget();
  }

  rename(path: string, newPath: string): void {
    const from = this.#paths.place(path);
    const to = this.#paths.place(newPath);
    if (this.#paths.isHiddenName(to.name)) {
      this.#hide(from, to);
      return;
    }
    const leaving = this.#leaving;
    if (leaving?.directory === to.directory && leaving.name.equals(to.name)) this.#leaving = undefined;
    else this.settle();
    const moved = this.#volume.tree.lookup(from.directory, from.name);
    if (moved !== undefined && isDirectory(moved.mode))
      this.#refuseHiding(this.#volume.tree.lookup(to.directory, to.name));
    this.#volume.tree.rename(from.directory, from.name, to.directory, to.name, 0);
    if (moved !== undefined && isDirectory(moved.mode)) this.#paths.forget();
  }

  #refuseHiding(attr: Attr | undefined): void {
    if (attr === undefined || !isDirectory(attr.mode) || !this.#paths.hidesIn(attr.ino)) return;
    let empty = true;
    this.#volume.tree.readdir(attr.ino, 0, () => {
      empty = false;
      return false;
    });
    // Else the core has something to say that is true on any filesystem.
    if (empty) throw new FsError("EBUSY");
  }

  readlink(path: string): string {
    this.settle();
    return textOf(this.#volume.tree.readlink(this.#paths.ino(path)));
  }

  /** All of it, "." and ".." first. A name that is not UTF-8 is shown, but nothing can be done with it. */
  readdir(path: string): Listing {
    this.settle();
    const { tree } = this.#volume;
    const ino = path === "/" ? ROOT_INO : this.#paths.find(path).ino;
    const names = [".", ".."];
    const stats = [encodeEntry(ino, DIRECTORY), encodeEntry(tree.parentOf(ino), DIRECTORY)];
    tree.readdir(ino, 0, (entry) => {
      names.push(Buffer.from(entry.name).toString());
      stats.push(encodeEntry(entry.ino, entry.type));
      return true;
    });
    return { names, stats };
  }

  // --- open files

  open(path: string): number {
    this.settle();
    return this.#opened(this.#paths.ino(path));
  }

  create(path: string, mode: number): number {
    const { directory, name } = this.#newPlace(path);
    return this.#opened(this.#volume.tree.mknod(directory, name, mode, 0, this.#options.caller).ino);
  }

  #opened(ino: Ino): number {
    do this.#lastDescriptor = this.#lastDescriptor === LAST_DESCRIPTOR ? 1 : this.#lastDescriptor + 1;
    while (this.#descriptors.has(this.#lastDescriptor));
    this.#volume.inodes.ref(ino);
    this.#descriptors.set(this.#lastDescriptor, ino);
    this.#opens.set(ino, (this.#opens.get(ino) ?? 0) + 1);
    return this.#lastDescriptor;
  }

  release(descriptor: number): void {
    this.settle();
    const ino = this.#descriptors.get(descriptor);
    if (ino === undefined) throw new FsError("EBADF");
    this.#descriptors.delete(descriptor);
    const others = (this.#opens.get(ino) ?? 1) - 1;
    if (others === 0) this.#closed(ino);
    else this.#opens.set(ino, others);
    this.#volume.inodes.unref(ino, 1);
  }

  /** libfuse unlinks what it has hidden only after this, and a rmdir of its directory may come first. */
  #closed(ino: Ino): void {
    this.#opens.delete(ino);
    for (const place of this.#paths.hidingPlaces(ino)) {
      this.#paths.reveal(place);
      this.#volume.inodes.unref(ino, 1);
    }
  }

  read(descriptor: number, into: Buffer, length: number, offset: number): number {
    this.settle();
    return this.#volume.files.read(this.#open(descriptor), offset, length, into);
  }

  write(descriptor: number, data: Buffer, length: number, offset: number): number {
    this.settle();
    return this.#volume.files.write(this.#open(descriptor), offset, data.subarray(0, length), false);
  }

  fsync(path: string, descriptor: number): void {
    this.settle();
    this.#volume.fsync(this.#ino(path, descriptor));
  }

  fsyncdir(path: string): void {
    this.settle();
    this.#volume.fsync(this.#paths.ino(path));
  }

  #open(descriptor: number): Ino {
    const ino = this.#descriptors.get(descriptor);
    if (ino === undefined) throw new FsError("EBADF");
    return ino;
  }

  #ino(path: string, descriptor: number): Ino {
    return this.#descriptors.get(descriptor) ?? this.#paths.ino(path);
  }

  // --- extended attributes

  /** Its length; it is in `into` unless that has no room at all. Undefined: there is none. @throws FsError ERANGE */
  getxattr(path: string, name: string, into: Buffer): number | undefined {
    this.settle();
    const value = this.#volume.xattrs.get(this.#paths.ino(path), attributeName(name));
    if (value === undefined) return undefined;
    return copied(value, into);
  }

  /** @throws FsError ERANGE */
  listxattr(path: string, into: Buffer): number {
    this.settle();
    const names = Buffer.from(this.#volume.xattrs.list(this.#paths.ino(path))).toString("latin1");
    const shown = names.split("\0").filter((name) => name !== "" && !isAcl(Buffer.from(name, "latin1")));
    return copied(Buffer.from(shown.map((name) => `${name}\0`).join(""), "latin1"), into);
  }

  /** `position` is of macOS's resource forks. */
  setxattr(path: string, name: string, value: Buffer, position: number, flags: number): void {
    this.settle();
    if (position !== 0) throw new FsError("EOPNOTSUPP");
    this.#volume.xattrs.set(this.#paths.ino(path), attributeName(name), value, flags, false);
  }

  removexattr(path: string, name: string): void {
    this.settle();
    this.#volume.xattrs.remove(this.#paths.ino(path), attributeName(name));
  }
}

/** The kernel would not heed ACLs here. @throws FsError EOPNOTSUPP, EILSEQ */
function attributeName(name: string): Buffer {
  const bytes = bytesOf(name);
  if (isAcl(bytes)) throw new FsError("EOPNOTSUPP");
  return bytes;
}

function isAcl(name: Buffer): boolean {
  return ACLS.some((acl) => acl.equals(name));
}

/** @throws FsError EILSEQ */
function textOf(bytes: Uint8Array): string {
  const text = Buffer.from(bytes).toString();
  bytesOf(text);
  return text;
}

function copied(value: Uint8Array, into: Buffer): number {
  if (into.length > 0 && value.length > into.length) throw new FsError("ERANGE");
  if (into.length > 0) into.set(value);
  return value.length;
}
