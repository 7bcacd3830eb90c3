/** A volume that this process has open, as a place to copy from and to. */
import { FsError } from "../base/errno.ts";
import { ACL_ACCESS, ACL_DEFAULT } from "../core/acl.ts";
import {
  deviceOf,
  isDirectory,
  isSymlink,
  majorOf,
  minorOf,
  S_IFDIR,
  S_IFMT,
  S_IFREG,
} from "../core/mode.ts";
import { type Attr, type Caller, type Ino, ROOT_INO } from "../core/types.ts";
import type { Volume } from "../core/volume.ts";
import { dataOf } from "./content.ts";
import { latin1 } from "./escape.ts";
import {
  type Attribute,
  isPortable,
  type Place,
  PlaceError,
  type Reading,
  type Stat,
  type Writing,
} from "./place.ts";

const PAGE = 512;

function bytesOf(text: string): Buffer {
  return Buffer.from(text, "latin1");
}

export class VolumePlace implements Place {
  static #count = 0;
  /** Tells inodes of several volumes apart. */
  readonly #name = `volume ${++VolumePlace.#count}`;
  readonly #volume: Volume;
  /** Whose everything is that is made, until `finish` says otherwise. */
  readonly #caller: Caller;
  /** The directory that was last looked into: mostly the next one too. Forgotten when a directory goes. */
  #last: { readonly path: string; readonly ino: Ino } | undefined;

  constructor(volume: Volume, uid: number, gid: number) {
    this.#volume = volume;
    this.#caller = { uid, gid, umask: 0 };
  }

  /** What the volume itself says of a path. */
  attr(path: string): Attr | undefined {
    if (path === "") return this.#volume.attributes.getattr(ROOT_INO);
    const slash = path.lastIndexOf("/");
    const parent = this.#directory(path.slice(0, slash));
    return parent === undefined
      ? undefined
      : this.#volume.tree.lookup(parent, bytesOf(path.slice(slash + 1)));
  }

  /** The directory at `path`; undefined where there is none. */
  #directory(path: string): Ino | undefined {
    if (path === "") return ROOT_INO;
    if (this.#last?.path === path) return this.#last.ino;
    let ino = ROOT_INO;
    for (const name of path.split("/").slice(1)) {
      const found = this.#volume.tree.lookup(ino, bytesOf(name));
      if (found === undefined || !isDirectory(found.mode)) return undefined;
      ino = found.ino;
    }
    this.#last = { path, ino };
    return ino;
  }

  /** What is at `path` goes elsewhere. */
  #forget(path: string): void {
    if (this.#last !== undefined && `${this.#last.path}/`.startsWith(`${path}/`)) this.#last = undefined;
  }

  #existing(path: string): Attr {
    const attr = this.attr(path);
    if (attr === undefined) throw new PlaceError("ENOENT");
    return attr;
  }

  /** The directory and the name of a path that is made, moved or removed. */
  #entry(path: string): [Ino, Buffer] {
    const slash = path.lastIndexOf("/");
    if (slash < 0) throw new PlaceError("EBUSY", "the root directory stays");
    const parent = this.#directory(path.slice(0, slash));
    if (parent === undefined) throw new PlaceError("ENOENT");
    return [parent, bytesOf(path.slice(slash + 1))];
  }

  stat(path: string): Stat | undefined {
    const attr = this.attr(path);
    if (attr === undefined) return undefined;
    return {
      mode: attr.mode,
      nlink: attr.nlink,
      uid: attr.uid,
      gid: attr.gid,
      size: attr.size,
      allocated: attr.blocks * 512,
      major: majorOf(attr.rdev),
      minor: minorOf(attr.rdev),
      atime: { sec: attr.atimeSec, nsec: attr.atimeNsec },
      mtime: { sec: attr.mtimeSec, nsec: attr.mtimeNsec },
      identity: `${this.#name}:${attr.ino}`,
    };
  }

  *names(path: string): Generator<string> {
    const { ino } = this.#existing(path);
    let after: Uint8Array = new Uint8Array(0);
    for (;;) {
      const page = this.#volume.tree.page(ino, after, PAGE);
      for (const [{ name }] of page) {
        yield latin1(name);
        after = name;
      }
      if (page.length < PAGE) return;
    }
  }

  readlink(path: string): string {
    return latin1(this.#volume.tree.readlink(this.#existing(path).ino));
  }

  xattrs(path: string): Attribute[] {
    const { ino } = this.#existing(path);
    const names = latin1(this.#volume.xattrs.list(ino)).split("\0").slice(0, -1);
    return names.filter(isPortable).map((name) => {
      const value = this.#volume.xattrs.get(ino, bytesOf(name));
      return [name, value ?? new Uint8Array(0)];
    });
  }

  openRead(path: string): Reading {
    const volume = this.#volume;
    const attr = this.#existing(path);
    if ((attr.mode & S_IFMT) !== S_IFREG) throw new FsError(isDirectory(attr.mode) ? "EISDIR" : "EINVAL");
    return {
      data: () => dataOf(volume, attr),
      read: (offset, into) => volume.files.read(attr.ino, offset, into.length, into),
      close() {},
    };
  }

  mkdir(path: string, mode: number): void {
    this.#volume.tree.mkdir(...this.#entry(path), mode, this.#caller);
  }

  openNew(path: string): Writing {
    const volume = this.#volume;
    const { ino } = volume.tree.mknod(...this.#entry(path), S_IFREG | 0o600, 0, this.#caller);
    return {
      write(offset, bytes) {
        volume.files.write(ino, offset, bytes, false);
      },
      truncate(size) {
        volume.attributes.setattr(ino, { size });
      },
      close() {},
    };
  }

  make(path: string, stat: Stat, target: string): void {
    if (isSymlink(stat.mode)) {
      this.#volume.tree.symlink(...this.#entry(path), bytesOf(target), this.#caller);
      return;
    }
    const rdev = deviceOf(stat.major, stat.minor);
    if (rdev === undefined) throw new FsError("EINVAL", `no device ${stat.major}:${stat.minor}`);
    this.#volume.tree.mknod(...this.#entry(path), (stat.mode & S_IFMT) | 0o600, rdev, this.#caller);
  }

  link(from: string, to: string): void {
    this.#volume.tree.link(this.#existing(from).ino, ...this.#entry(to));
  }

  rename(from: string, to: string): void {
    this.#forget(from);
    this.#volume.tree.rename(...this.#entry(from), ...this.#entry(to), 0);
  }

  unlink(path: string): void {
    this.#volume.tree.unlink(...this.#entry(path));
  }

  rmdir(path: string): void {
    this.#forget(path);
    this.#volume.tree.rmdir(...this.#entry(path));
  }

  removeXattr(path: string, name: string): void {
    this.#volume.xattrs.remove(this.#existing(path).ino, bytesOf(name));
  }

  finish(path: string, stat: Stat, xattrs: readonly Attribute[], chown: boolean): string[] {
    const { ino, mode } = this.#existing(path);
    if (chown) this.#volume.attributes.setattr(ino, { uid: stat.uid, gid: stat.gid });
    const refused: string[] = [];
    for (const [name, value] of xattrs) {
      try {
        this.#volume.xattrs.set(ino, bytesOf(name), value, 0, false);
      } catch (error) {
        if (!(error instanceof FsError) || error.code === "EIO" || error.code === "ENOSPC") throw error;
        refused.push(`${name} (${error.code})`);
      }
    }
    // What it inherited where it was made is not what it had.
    for (const acl of isSymlink(mode) ? [] : [ACL_ACCESS, ACL_DEFAULT]) {
      const directoryOnly = acl === ACL_DEFAULT && (mode & S_IFMT) !== S_IFDIR;
      if (!directoryOnly && !xattrs.some(([name]) => acl.equals(bytesOf(name))))
        this.#volume.xattrs.remove(ino, acl);
    }
    this.#volume.attributes.setattr(ino, {
      ...(isSymlink(mode) ? {} : { mode: stat.mode & 0o7777 }),
      atime: stat.atime,
      mtime: stat.mtime,
    });
    return refused;
  }
}
