/**
 * From libfuse's paths to inode numbers: a walk through the directories, which are remembered. A path that is
 * given never leads through a symbolic link, the kernel has followed those.
 *
 * Also the files that are gone and open. libfuse 2 renames such a file to ".fuse_hidden" and 16 hexadecimal digits, and
 * unlinks that name when the last descriptor is closed. Here the rename unlinks the file and keeps its inode alive,
 * and the new name is known to this object alone: no such file is ever in the volume.
 */
import { FsError } from "../base/errno.ts";
import type { Tree } from "../core/tree.ts";
import { type Attr, type Ino, ROOT_INO } from "../core/types.ts";

/** Directories that are remembered. */
const KEPT = 4096;
/** What a byte sequence that is not UTF-8 becomes on its way through fuse-native. */
const REPLACEMENT = "\ufffd";
const HIDDEN = /^\.fuse_hidden[0-9a-f]{16}$/;

/** A name in a directory. */
export interface Place {
  readonly directory: Ino;
  readonly name: Buffer;
}

export interface HiddenFile extends Place {
  readonly ino: Ino;
}

export class Paths {
  readonly #tree: Pick<Tree, "lookup">;
  readonly #kept: number;
  /** By path. Oldest first. */
  readonly #directories = new Map<string, Ino>();
  readonly #hidden = new Map<string, HiddenFile>();

  constructor(tree: Pick<Tree, "lookup">, kept = KEPT) {
    this.#tree = tree;
    this.#kept = kept;
  }

  /** Where a path's last name stands. @throws FsError ENOENT, ENOTDIR, EILSEQ */
  place(path: string): Place {
    const slash = path.lastIndexOf("/");
    return { directory: this.directory(path.slice(0, slash)), name: bytesOf(path.slice(slash + 1)) };
  }

  /** @throws FsError ENOENT, ENOTDIR, EILSEQ */
  find(path: string): Attr {
    const attr = path === "/" ? this.#tree.lookup(ROOT_INO, bytesOf(".")) : this.#at(this.place(path));
    if (attr === undefined) throw new FsError("ENOENT");
    return attr;
  }

  /** Of a file that is to be changed or opened. @throws FsError ENOENT, ENOTDIR, EILSEQ */
  ino(path: string): Ino {
    return path === "/" ? ROOT_INO : (this.hiddenAt(path)?.ino ?? this.find(path).ino);
  }

  #at({ directory, name }: Place): Attr | undefined {
    return this.#tree.lookup(directory, name);
  }

  /** A directory by its path; "" is the root. */
  directory(path: string): Ino {
    if (path === "" || path === "/") return ROOT_INO;
    const known = this.#directories.get(path);
    if (known !== undefined) return known;
    const attr = this.#at(this.place(path));
    if (attr === undefined) throw new FsError("ENOENT");
    if (this.#directories.size >= this.#kept) {
      const [oldest] = this.#directories.keys();
      if (oldest !== undefined) this.#directories.delete(oldest);
    }
    this.#directories.set(path, attr.ino);
    return attr.ino;
  }

  /** A directory was moved or removed, or changes were lost: what was below it may be anywhere. */
  forget(): void {
    this.#directories.clear();
  }

  // --- files that are gone and open

  /** Whether libfuse gives such names. */
  isHiddenName(name: Buffer): boolean {
    return HIDDEN.test(name.toString("latin1"));
  }

  hide(place: Place, ino: Ino): void {
    this.#hidden.set(keyOf(place), { ...place, ino });
  }

  hiddenAt(path: string): HiddenFile | undefined {
    if (this.#hidden.size === 0 || !HIDDEN.test(path.slice(path.lastIndexOf("/") + 1))) return undefined;
    return this.#hidden.get(keyOf(this.place(path)));
  }

  reveal(place: Place): void {
    this.#hidden.delete(keyOf(place));
  }

  /** The places of a hidden file: several where it had several names. */
  hidingPlaces(ino: Ino): HiddenFile[] {
    return [...this.#hidden.values()].filter((file) => file.ino === ino);
  }

  /** Whether libfuse believes that such a file is in a directory. */
  hidesIn(directory: Ino): boolean {
    for (const file of this.#hidden.values()) if (file.directory === directory) return true;
    return false;
  }
}

function keyOf({ directory, name }: Place): string {
  return `${directory}/${name.toString("latin1")}`;
}

/** @throws FsError EILSEQ where the bytes were lost on the way */
export function bytesOf(text: string): Buffer {
  if (text.includes(REPLACEMENT)) throw new FsError("EILSEQ", "only names in UTF-8 pass through fuse-native");
  return Buffer.from(text);
}
