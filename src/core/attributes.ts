/** getattr and setattr: what stat(2) shows, and chmod, chown, truncate and utimensat. */
import type { Time } from "../base/clock.ts";
import { FsError } from "../base/errno.ts";
import type { Files } from "./files.ts";
import type { Inode, Inodes } from "./inodes.ts";
import { isDirectory, isRegular, S_IFMT } from "./mode.ts";
import type { Store } from "./store.ts";
import type { Attr, Ino, SetAttr, TimeChange } from "./types.ts";
import type { Xattrs } from "./xattrs.ts";

/** Seconds that fit 64-bit nanoseconds: the years 1677 to 2262. Times beyond are clamped, as kernels do. */
const MAX_SEC = 9_223_372_035;

export class Attributes {
  readonly #store: Store;
  readonly #inodes: Inodes;
  readonly #xattrs: Xattrs;
  readonly #files: Files;

  constructor(store: Store, inodes: Inodes, xattrs: Xattrs, files: Files) {
    this.#store = store;
    this.#inodes = inodes;
    this.#xattrs = xattrs;
    this.#files = files;
  }

  /** @throws FsError ESTALE: no such inode */
  getattr(ino: Ino): Attr {
    return this.#store.query(ino, () => this.#inodes.load(ino));
  }

  /**
   * Changes attributes, all or nothing; ctime becomes now.
   *
   * A chown of a file clears S_ISUID, S_ISGID where group-executable, and its capabilities,
   * whoever asks, as Linux does. A chmod follows into the ACL's mask.
   * @throws FsError ESTALE; EISDIR, EINVAL, EFBIG (size); EROFS, ENOSPC, EIO
   */
  setattr(ino: Ino, change: SetAttr): Attr {
    return this.#store.query(ino, () => {
      const inode = this.#inodes.load(ino);
      if (change.size !== undefined) {
        if (isDirectory(inode.mode)) throw new FsError("EISDIR");
        if (!isRegular(inode.mode)) throw new FsError("EINVAL");
        if (change.size < 0) throw new FsError("EINVAL");
        if (!Number.isSafeInteger(change.size)) throw new FsError("EFBIG");
      }
      const frees = change.size !== undefined && change.size <= inode.size;
      return this.#store.change(ino, 0, frees, () => this.#apply(inode, change));
    });
  }

  #apply(inode: Inode, change: SetAttr): Attr {
    const now = this.#store.clock.now();
    if (change.size !== undefined) {
      this.#files.resize(inode, change.size);
      inode.mtimeSec = now.sec;
      inode.mtimeNsec = now.nsec;
    }
    const permissions = change.mode === undefined ? undefined : change.mode & 0o7777;
    if (permissions !== undefined) inode.mode = (inode.mode & S_IFMT) | permissions;
    const chowned = change.uid !== undefined || change.gid !== undefined;
    inode.uid = change.uid ?? inode.uid;
    inode.gid = change.gid ?? inode.gid;
    if ((chowned || change.killSuidgid === true) && !isDirectory(inode.mode)) {
      this.#xattrs.killPrivileges(inode);
    }
    if (permissions !== undefined) this.#xattrs.followChmod(inode);
    if (change.atime !== undefined) [inode.atimeSec, inode.atimeNsec] = timeOf(change.atime, now);
    if (change.mtime !== undefined) [inode.mtimeSec, inode.mtimeNsec] = timeOf(change.mtime, now);
    [inode.ctimeSec, inode.ctimeNsec] = timeOf(change.ctime ?? "now", now);
    this.#inodes.save(inode);
    return inode;
  }
}

/** The time to store: clamped to what 64-bit nanoseconds hold. */
function timeOf(change: TimeChange, now: Time): [number, number] {
  if (change === "now") return [now.sec, now.nsec];
  if (change.sec > MAX_SEC) return [MAX_SEC, 0];
  if (change.sec < -MAX_SEC) return [-MAX_SEC, 0];
  return [change.sec, change.nsec];
}
