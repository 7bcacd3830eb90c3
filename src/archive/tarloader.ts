/**
 * Loads a tar archive into a new, empty volume that nobody else sees. As with any tar, a later member of a name
 * replaces an earlier one, and directories that no member names are made. What cannot be is skipped, and told.
 */

import type { Time } from "../base/clock.ts";
import { FsError } from "../base/errno.ts";
import { ACL_ACCESS, ACL_DEFAULT } from "../core/acl.ts";
import { HOLE_UNIT } from "../core/blocksize.ts";
import { deviceOf, isDirectory, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG } from "../core/mode.ts";
import type { Likeness, Substance } from "../core/restore.ts";
import { type Attr, type Ino, ROOT_INO } from "../core/types.ts";
import type { Volume } from "../core/volume.ts";
import { aclFromText, type FindId } from "./acltext.ts";
import type { Source } from "./source.ts";
import { TAR } from "./tarheader.ts";
import { type Member, tarMembers } from "./tarreader.ts";

const TYPES: Readonly<Record<string, number>> = {
  [TAR.file]: S_IFREG,
  [TAR.dir]: S_IFDIR,
  [TAR.symlink]: S_IFLNK,
  [TAR.char]: S_IFCHR,
  [TAR.block]: S_IFBLK,
  [TAR.fifo]: S_IFIFO,
};
/** Beyond, nanoseconds do not fit 64 bits. */
const MAX_SEC = 9_223_372_035;
const ID_MAX = 0xffff_ffff;

export interface TarLoadOptions {
  /** Owner of directories that the archive does not name, and the time of what it does not time. */
  readonly uid: number;
  readonly gid: number;
  readonly now: Time;
  readonly findId: FindId;
  readonly onInode?: (() => void) | undefined;
  /** Called for a member, or a part of one, that is left out; `path` is latin1. */
  readonly onSkip: (path: string, why: string) => void;
}

/** @throws FormatError, FsError ENOSPC, EIO */
export async function loadTar(volume: Volume, source: Source, options: TarLoadOptions): Promise<void> {
  const loader = new TarLoader(volume, options);
  for await (const member of tarMembers(source)) await loader.add(member);
}

/** Why a member is skipped. */
class Skip extends Error {}

class TarLoader {
  readonly #volume: Volume;
  readonly #options: TarLoadOptions;
  /** The directory that the last member was in: mostly the next one's too. */
  #directory: { readonly path: string; readonly ino: Ino } = { path: "", ino: ROOT_INO };

  constructor(volume: Volume, options: TarLoadOptions) {
    this.#volume = volume;
    this.#options = options;
  }

  async add(member: Member): Promise<void> {
    try {
      await this.#add(member);
      this.#options.onInode?.();
    } catch (error) {
      const refused = error instanceof FsError && !["ENOSPC", "EIO", "EROFS"].includes(error.code);
      if (!(error instanceof Skip) && !refused) throw error;
      this.#options.onSkip(member.path, error.message);
    }
  }

  async #add(member: Member): Promise<void> {
    if (member.type === TAR.gnuLabel) return;
    const names = namesOf(member.path);
    const name = names.pop();
    if (member.type === TAR.link) {
      if (name === undefined) throw new Skip("a link without a name");
      this.#link(this.#parent(names), Buffer.from(name, "latin1"), member);
      return;
    }
    const type = TYPES[member.type];
    if (type === undefined) throw new Skip(`members of type ${JSON.stringify(member.type)} are not known`);
    const likeness = this.#likeness(member, type);
    if (name === undefined) {
      if (type !== S_IFDIR) throw new Skip("the root can only be a directory");
      this.#volume.restore.describe(ROOT_INO, likeness);
      this.#attributes(ROOT_INO, member);
      return;
    }
    const parent = this.#parent(names);
    const bytes = Buffer.from(name, "latin1");
    const there = this.#volume.tree.lookup(parent, bytes);
    if (there !== undefined && isDirectory(there.mode) && type === S_IFDIR) {
      this.#volume.restore.describe(there.ino, likeness);
      this.#attributes(there.ino, member);
      return;
    }
    if (there !== undefined) this.#remove(parent, bytes, there);
    const ino = this.#volume.restore.make(parent, bytes, likeness, substance(member, type));
    this.#attributes(ino, member);
    if (type === S_IFREG) await this.#content(ino, member);
  }

  #likeness(member: Member, type: number): Likeness {
    if (member.uid > ID_MAX || member.gid > ID_MAX || member.uid < 0 || member.gid < 0)
      throw new Skip("its owner is no user or group number");
    const { now } = this.#options;
    const time = (value: Time | undefined): Time => {
      if (value === undefined) return now;
      return Math.abs(value.sec) > MAX_SEC ? { sec: Math.sign(value.sec) * MAX_SEC, nsec: 0 } : value;
    };
    return {
      mode: type | (type === S_IFLNK ? 0o777 : member.mode),
      uid: member.uid,
      gid: member.gid,
      mtime: time(member.mtime),
      atime: time(member.atime),
      ctime: time(member.ctime),
      btime: time(member.btime),
    };
  }

  #attributes(ino: Ino, member: Member): void {
    const set = (name: Buffer, value: Uint8Array): void => {
      try {
        this.#volume.restore.xattr(ino, name, value);
      } catch (error) {
        if (!(error instanceof FsError) || ["ENOSPC", "EIO", "EROFS"].includes(error.code)) throw error;
        this.#options.onSkip(member.path, `its attribute ${name.toString()} cannot be kept (${error.code})`);
      }
    };
    for (const [name, value] of member.xattrs) set(Buffer.from(name, "latin1"), value);
    for (const [name, text] of [
      [ACL_ACCESS, member.access],
      [ACL_DEFAULT, member.defaults],
    ] as const) {
      if (text === undefined || text === "") continue;
      const value = aclFromText(text, this.#options.findId);
      if (value !== undefined) set(name, value);
      else this.#options.onSkip(member.path, "its ACL names users or groups that are not known here");
    }
  }

  #link(parent: Ino, name: Buffer, member: Member): void {
    let target: Attr | undefined = this.#volume.attributes.getattr(ROOT_INO);
    for (const part of namesOf(member.linkpath)) {
      target = isDirectory(target.mode)
        ? this.#volume.tree.lookup(target.ino, Buffer.from(part, "latin1"))
        : undefined;
      if (target === undefined) throw new Skip("a hard link to what is not in the archive");
    }
    const there = this.#volume.tree.lookup(parent, name);
    if (there?.ino === target.ino) return;
    if (there !== undefined) this.#remove(parent, name, there);
    this.#volume.restore.link(target.ino, parent, name);
  }

  /** Makes room for a later member of the same name; the directory's times stay as they were. */
  #remove(parent: Ino, name: Buffer, there: Attr): void {
    const before = likenessOf(this.#volume.attributes.getattr(parent));
    if (isDirectory(there.mode)) this.#volume.tree.rmdir(parent, name);
    else this.#volume.tree.unlink(parent, name);
    this.#volume.restore.describe(parent, before);
    if (isDirectory(there.mode)) this.#directory = { path: "", ino: ROOT_INO };
  }

  /** The directory of a member, made where it is missing. */
  #parent(names: readonly string[]): Ino {
    const path = names.join("/");
    if (path === this.#directory.path) return this.#directory.ino;
    let ino = ROOT_INO;
    for (const name of names) {
      const bytes = Buffer.from(name, "latin1");
      const found = this.#volume.tree.lookup(ino, bytes);
      if (found !== undefined && !isDirectory(found.mode))
        throw new Skip("its path leads through what is no directory");
      ino = found?.ino ?? this.#makeMissing(ino, bytes);
    }
    this.#directory = { path, ino };
    return ino;
  }

  #makeMissing(parent: Ino, name: Buffer): Ino {
    const { uid, gid, now } = this.#options;
    const times = { mtime: now, atime: now, ctime: now, btime: now };
    return this.#volume.restore.make(parent, name, { mode: S_IFDIR | 0o755, uid, gid, ...times });
  }

  /** Data comes in pieces of any length and is written in blocks. */
  async #content(ino: Ino, member: Member): Promise<void> {
    const { blockSize } = this.#volume;
    const block = Buffer.alloc(blockSize);
    const hasHoles = member.segments[0]?.length !== member.size;
    /** The block that is being filled, where its data ends, and how much of it there is. */
    let idx = -1;
    let end = 0;
    let filled = 0;
    const flush = (): void => {
      // The zeros with which a segment of a sparse file is rounded reach into a hole.
      const isRounding =
        hasHoles &&
        filled < Math.min(blockSize, HOLE_UNIT) &&
        block.subarray(0, end).every((byte) => byte === 0);
      if (end > 0 && !isRounding) this.#volume.restore.write(ino, idx * blockSize, block.subarray(0, end));
      block.fill(0, 0, end);
      end = 0;
      filled = 0;
    };
    for await (const { offset, bytes } of member.data()) {
      for (let at = 0; at < bytes.length; ) {
        const next = Math.floor((offset + at) / blockSize);
        if (next !== idx) {
          flush();
          idx = next;
        }
        const from = offset + at - idx * blockSize;
        const length = Math.min(bytes.length - at, blockSize - from);
        bytes.copy(block, from, at, at + length);
        end = from + length;
        filled += length;
        at += length;
      }
    }
    flush();
  }
}

/** The names of a path: absolute ones and "." lose what makes them so. */
function namesOf(path: string): string[] {
  const names = path.split("/").filter((name) => name !== "" && name !== ".");
  if (names.includes("..")) throw new Skip("its path leads upwards (..)");
  return names;
}

function substance(member: Member, type: number): Substance {
  if (type === S_IFREG) return { size: member.size };
  if (type === S_IFLNK) return { target: Buffer.from(member.linkpath, "latin1") };
  if (type !== S_IFCHR && type !== S_IFBLK) return {};
  const rdev = deviceOf(member.major, member.minor);
  if (rdev === undefined) throw new Skip(`there is no device ${member.major}:${member.minor}`);
  return { rdev };
}

function likenessOf(attr: Attr): Likeness {
  return {
    mode: attr.mode,
    uid: attr.uid,
    gid: attr.gid,
    mtime: { sec: attr.mtimeSec, nsec: attr.mtimeNsec },
    atime: { sec: attr.atimeSec, nsec: attr.atimeNsec },
    ctime: { sec: attr.ctimeSec, nsec: attr.ctimeNsec },
    btime: { sec: attr.btimeSec, nsec: attr.btimeNsec },
  };
}
