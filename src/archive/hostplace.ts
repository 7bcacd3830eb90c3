/** Directories of this machine, or what is mounted there, as a place to copy from and to. */
import {
  type BigIntStats,
  chmodSync,
  closeSync,
  constants,
  fstatSync,
  ftruncateSync,
  lchownSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readlinkSync,
  readSync,
  renameSync,
  rmdirSync,
  symlinkSync,
  unlinkSync,
  writeSync,
} from "node:fs";
import { constants as osConstants } from "node:os";
import { getSystemErrorName } from "node:util";
import { isDirectory, isSymlink, S_IFMT } from "../core/mode.ts";
import {
  lgetxattr,
  llistxattr,
  lremovexattr,
  lsetxattr,
  lutimens,
  mknod,
  seekData,
  seekHole,
} from "../native/files.ts";
import {
  type Attribute,
  isPortable,
  type Place,
  PlaceError,
  type Reading,
  type Stat,
  type Writing,
} from "./place.ts";

const ACLS = ["system.posix_acl_access", "system.posix_acl_default"];
const NS = 1_000_000_000n;
const { ENXIO } = osConstants.errno;

/** Of a call whose failure is a negated errno. */
function checked(value: number): number {
  if (value < 0) throw new PlaceError(getSystemErrorName(value));
  return value;
}

export class HostPlace implements Place {
  readonly #root: string;

  /** `root`: the directory that is the place's root, latin1; "" for all of the machine. */
  constructor(root = "") {
    this.#root = root === "/" ? "" : root;
  }

  #bytes(path: string): Buffer {
    const whole = this.#root + path;
    return Buffer.from(whole === "" ? "/" : whole, "latin1");
  }

  stat(path: string): Stat | undefined {
    let stat: BigIntStats;
    try {
      stat = lstatSync(this.#bytes(path), { bigint: true });
    } catch (error) {
      if (error instanceof Error && "code" in error && (error.code === "ENOENT" || error.code === "ENOTDIR"))
        return undefined;
      throw error;
    }
    const time = (ns: bigint) => {
      const nsec = ((ns % NS) + NS) % NS;
      return { sec: Number((ns - nsec) / NS), nsec: Number(nsec) };
    };
    return {
      mode: Number(stat.mode),
      nlink: Number(stat.nlink),
      uid: Number(stat.uid),
      gid: Number(stat.gid),
      size: Number(stat.size),
      allocated: Number(stat.blocks) * 512,
      major: Number(((stat.rdev >> 8n) & 0xfffn) | ((stat.rdev >> 32n) & 0xfffff000n)),
      minor: Number((stat.rdev & 0xffn) | ((stat.rdev >> 12n) & 0xffffff00n)),
      atime: time(stat.atimeNs),
      mtime: time(stat.mtimeNs),
      identity: `${stat.dev}:${stat.ino}`,
    };
  }

  names(path: string): string[] {
    const names = readdirSync(this.#bytes(path), { encoding: "buffer" });
    return names.sort(Buffer.compare).map((name) => name.toString("latin1"));
  }

  readlink(path: string): string {
    return readlinkSync(this.#bytes(path), { encoding: "buffer" }).toString("latin1");
  }

  xattrs(path: string): Attribute[] {
    const bytes = this.#bytes(path);
    const list = llistxattr(bytes);
    // A filesystem without attributes says so; what may not be read is not there for us.
    if (typeof list === "number") return [];
    const found: Attribute[] = [];
    for (const name of list.toString("latin1").split("\0").slice(0, -1)) {
      if (!isPortable(name)) continue;
      const value = lgetxattr(bytes, Buffer.from(name, "latin1"));
      if (typeof value !== "number") found.push([name, value]);
    }
    return found;
  }

  openRead(path: string): Reading {
    // Without O_NONBLOCK the opening of a fifo that just took the file's place would wait for ever.
    const fd = openSync(this.#bytes(path), constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    return {
      *data() {
        const { size } = fstatSync(fd);
        for (let at = 0; at < size; ) {
          const begin = seekData(fd, at);
          if (begin === -ENXIO) return;
          // A filesystem that knows no holes: all is data.
          const offset = begin < 0 ? at : begin;
          const hole = begin < 0 ? size : seekHole(fd, offset);
          const end = hole < 0 ? size : Math.min(hole, size);
          yield { offset, length: end - offset };
          at = end;
        }
      },
      read(offset, into) {
        let done = 0;
        while (done < into.length) {
          const count = readSync(fd, into, done, into.length - done, offset + done);
          if (count === 0) break;
          done += count;
        }
        return done;
      },
      close: () => closeSync(fd),
    };
  }

  mkdir(path: string, mode: number): void {
    mkdirSync(this.#bytes(path), mode);
  }

  openNew(path: string): Writing {
    const fd = openSync(this.#bytes(path), "wx", 0o600);
    return {
      write(offset, bytes) {
        for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at, bytes.length - at, offset + at);
      },
      truncate: (size) => ftruncateSync(fd, size),
      close: () => closeSync(fd),
    };
  }

  make(path: string, stat: Stat, target: string): void {
    if (isSymlink(stat.mode)) symlinkSync(Buffer.from(target, "latin1"), this.#bytes(path));
    else checked(mknod(this.#bytes(path), (stat.mode & S_IFMT) | 0o600, stat.major, stat.minor));
  }

  link(from: string, to: string): void {
    linkSync(this.#bytes(from), this.#bytes(to));
  }

  rename(from: string, to: string): void {
    renameSync(this.#bytes(from), this.#bytes(to));
  }

  unlink(path: string): void {
    unlinkSync(this.#bytes(path));
  }

  rmdir(path: string): void {
    rmdirSync(this.#bytes(path));
  }

  removeXattr(path: string, name: string): void {
    checked(lremovexattr(this.#bytes(path), Buffer.from(name, "latin1")));
  }

  finish(path: string, stat: Stat, xattrs: readonly Attribute[], chown: boolean): string[] {
    const bytes = this.#bytes(path);
    if (chown) lchownSync(bytes, stat.uid, stat.gid);
    const refused: string[] = [];
    // What it inherited where it was made is not what it had.
    for (const acl of isSymlink(stat.mode) ? [] : ACLS) {
      if (!xattrs.some(([name]) => name === acl)) lremovexattr(bytes, Buffer.from(acl));
    }
    for (const [name, value] of xattrs) {
      const code = lsetxattr(bytes, Buffer.from(name, "latin1"), value);
      if (code < 0) refused.push(`${name} (${getSystemErrorName(code)})`);
    }
    if (!isSymlink(stat.mode)) {
      // Another's set-user-ID file that became ours must not run as us for everybody.
      const own = chown || lstatSync(bytes).uid === stat.uid;
      chmodSync(bytes, stat.mode & (own || isDirectory(stat.mode) ? 0o7777 : 0o1777));
    }
    const { atime, mtime } = stat;
    checked(lutimens(bytes, [atime.sec, atime.nsec, mtime.sec, mtime.nsec]));
    return refused;
  }
}
