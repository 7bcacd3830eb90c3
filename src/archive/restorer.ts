/**
 * Puts back what was at a path, from a view of the past into the present of the same volume, or elsewhere in it. Only
 * what differs is touched. A file is made under a name of its own and then takes its name, so that nobody sees half
 * of one. What was not there then stays, unless it is to go.
 */
import { randomBytes } from "node:crypto";
import { isDirectory, isRegular, isSymlink, S_IFMT } from "../core/mode.ts";
import { describe } from "./copy.ts";
import { type Attribute, type Place, PlaceError, refusalOf, type Stat } from "./place.ts";

/** "attributes": all but the content. */
export type RestoredKind = "restored" | "replaced" | "attributes" | "removed";

export interface RestoreOptions {
  /** Give back owners, which takes root on a mount. */
  readonly chown: boolean;
  /** Remove what was not there then. */
  readonly remove: boolean;
  /** Change nothing, only tell. */
  readonly dryRun: boolean;
  /** Called between steps: where the caller lets others run, or throws to stop. */
  readonly breathe: () => Promise<void> | undefined;
  /** `path` is that in the present. */
  readonly onItem: (kind: RestoredKind, path: string) => void;
  /** Something that was not there then, and stays. */
  readonly onStay: (path: string) => void;
  readonly onSkip: (path: string, why: string) => void;
  /** An attribute that could not be given back. */
  readonly onLoss: (path: string, what: string) => void;
}

const STEP_BYTES = 1 << 20;
/** Errors that end everything: the next item would meet them too. */
const FATAL = ["ENOSPC", "EDQUOT", "EROFS", "ESTALE"];

export class Restorer {
  readonly #from: Place;
  readonly #to: Place;
  readonly #options: RestoreOptions;
  /** Where the first name of each file with several is now; of those that are there. */
  readonly #linked = new Map<string, string>();
  /** Files with several names that stay, by their identity now: which file each was. */
  readonly #kept = new Map<string, string>();
  /** What a dry run would have put there. */
  readonly #planned = new Set<string>();
  readonly #buffers = [Buffer.allocUnsafe(STEP_BYTES), Buffer.allocUnsafe(STEP_BYTES)] as const;

  constructor(from: Place, to: Place, options: RestoreOptions) {
    this.#from = from;
    this.#to = to;
    this.#options = options;
  }

  /** Makes what is at `to` what was at `from`, with all below it; directories above it that are gone, too. */
  async restore(from: string, to: string): Promise<void> {
    const stat = this.#from.stat(from);
    if (stat === undefined) throw new PlaceError("ENOENT");
    // Nothing can take its place, and with `remove` all that is in it would go first.
    if (to === "" && !isDirectory(stat.mode)) throw new PlaceError("EISDIR", "the root directory stays");
    const made = this.#above(to.slice(0, Math.max(0, to.lastIndexOf("/"))), from === to);
    try {
      await this.#item(from, to, stat);
    } finally {
      for (const [path, then] of made) this.#finish(path, path, then);
    }
  }

  /**
   * Looks at the directories above: no symlink that is there now may lead elsewhere, out of the volume even. `make`: makes
   * those that are gone, without what was in them. Gives what is to be finished, the deepest first.
   */
  #above(path: string, make: boolean): (readonly [string, Stat])[] {
    if (path === "") return [];
    const made = this.#above(path.slice(0, path.lastIndexOf("/")), make);
    const there = this.#to.stat(path);
    if (there !== undefined) {
      if (isDirectory(there.mode)) return made;
      throw new PlaceError("ENOTDIR", "what is above it is no directory now");
    }
    const stat = make ? this.#from.stat(path) : undefined;
    if (stat === undefined) throw new PlaceError("ENOENT");
    this.#options.onItem("restored", path);
    if (this.#options.dryRun) return made;
    this.#to.mkdir(path, 0o700);
    return [[path, stat], ...made];
  }

  async #item(from: string, to: string, stat: Stat): Promise<void> {
    await this.#options.breathe();
    try {
      if (isDirectory(stat.mode)) await this.#directory(from, to, stat);
      else await this.#entry(from, to, stat);
    } catch (error) {
      const damage = error instanceof Error && error.name === "DamageError";
      const code = refusalOf(error);
      if (!damage && (code === undefined || FATAL.includes(code))) throw error;
      this.#options.onSkip(to, describe(error));
    }
  }

  async #directory(from: string, to: string, stat: Stat): Promise<void> {
    const { dryRun, onItem } = this.#options;
    const there = this.#to.stat(to);
    const isThere = there !== undefined && isDirectory(there.mode);
    if (!isThere) {
      onItem(there === undefined ? "restored" : "replaced", to);
      if (!dryRun) {
        if (there !== undefined) this.#to.unlink(to);
        // Open to us until all is in it, and to nobody else.
        this.#to.mkdir(to, 0o700);
      }
    }
    const names = [...this.#from.names(from)];
    // Listed before anything is made in it.
    const others = isThere ? [...this.#to.names(to)].filter((name) => !names.includes(name)) : [];
    for (const name of others) await this.#other(`${to}/${name}`);
    for (const name of names) {
      const child = this.#from.stat(`${from}/${name}`);
      if (child !== undefined) await this.#item(`${from}/${name}`, `${to}/${name}`, child);
    }
    if (!isThere && !dryRun) this.#finish(from, to, stat);
    if (isThere) this.#attributes(from, to, stat, there);
  }

  /** Something that was not there then. */
  async #other(path: string): Promise<void> {
    if (this.#options.remove) await this.#remove(path);
    else this.#options.onStay(path);
  }

  async #remove(path: string): Promise<void> {
    await this.#options.breathe();
    const stat = this.#to.stat(path);
    if (stat === undefined) return;
    const directory = isDirectory(stat.mode);
    if (directory) for (const name of [...this.#to.names(path)]) await this.#remove(`${path}/${name}`);
    this.#options.onItem("removed", path);
    if (this.#options.dryRun) return;
    if (directory) this.#to.rmdir(path);
    else this.#to.unlink(path);
  }

  async #entry(from: string, to: string, stat: Stat): Promise<void> {
    let there = this.#to.stat(to);
    if (there !== undefined && isDirectory(there.mode)) {
      if (!this.#options.remove) throw new PlaceError("EISDIR", "there is a directory of that name now");
      await this.#remove(to);
      if (!this.#options.dryRun) there = undefined;
    }
    const first = stat.nlink > 1 ? this.#linked.get(stat.identity) : undefined;
    if (there !== undefined && (await this.#isSame(from, to, stat, there, first))) {
      if (first === undefined) this.#attributes(from, to, stat, there);
      if (there.nlink > 1) this.#kept.set(there.identity, stat.identity);
    } else {
      this.#options.onItem(there === undefined ? "restored" : "replaced", to);
      if (this.#options.dryRun) this.#planned.add(to);
      else await this.#put(from, to, stat, first);
    }
    // Only now: other names of a file that could not be put back are put back by themselves.
    if (stat.nlink > 1 && first === undefined) this.#linked.set(stat.identity, to);
  }

  /** Whether the file that is there will do, but for its attributes. */
  async #isSame(from: string, to: string, stat: Stat, there: Stat, first?: string): Promise<boolean> {
    if (first !== undefined)
      return !this.#planned.has(first) && this.#to.stat(first)?.identity === there.identity;
    if ((stat.mode & S_IFMT) !== (there.mode & S_IFMT) || stat.size !== there.size) return false;
    if (stat.major !== there.major || stat.minor !== there.minor) return false;
    // Two names that one file has now, and two files had then.
    if (stat.nlink === 1 && there.nlink > 1) return false;
    const kept = this.#kept.get(there.identity);
    if (kept !== undefined && kept !== stat.identity) return false;
    if (isSymlink(stat.mode)) return this.#from.readlink(from) === this.#to.readlink(to);
    return !isRegular(stat.mode) || (await this.#hasSameContent(from, to, stat.size));
  }

  async #hasSameContent(from: string, to: string, size: number): Promise<boolean> {
    const [was, is] = [this.#from.openRead(from), this.#to.openRead(to)];
    const [old, current] = this.#buffers;
    try {
      for (let at = 0; at < size; at += STEP_BYTES) {
        await this.#options.breathe();
        const length = Math.min(STEP_BYTES, size - at);
        const count = was.read(at, old.subarray(0, length));
        if (is.read(at, current.subarray(0, length)) !== count) return false;
        if (!old.subarray(0, count).equals(current.subarray(0, count))) return false;
      }
      return true;
    } finally {
      was.close();
      is.close();
    }
  }

  async #put(from: string, to: string, stat: Stat, first: string | undefined): Promise<void> {
    const draft = `${to.slice(0, to.lastIndexOf("/") + 1)}.sqlfuse-${randomBytes(6).toString("hex")}`;
    try {
      if (first !== undefined) this.#to.link(first, draft);
      else {
        if (isRegular(stat.mode)) await this.#content(from, draft, stat.size);
        else this.#to.make(draft, stat, isSymlink(stat.mode) ? this.#from.readlink(from) : "");
        this.#finish(from, draft, stat);
      }
      this.#to.rename(draft, to);
    } catch (error) {
      if (this.#to.stat(draft) !== undefined) this.#to.unlink(draft);
      throw error;
    }
  }

  async #content(from: string, to: string, size: number): Promise<void> {
    const [reading, writing] = [this.#from.openRead(from), this.#to.openNew(to)];
    const [buffer] = this.#buffers;
    try {
      for (const { offset, length } of reading.data())
        for (let at = 0; at < length; at += STEP_BYTES) {
          const part = buffer.subarray(0, Math.min(STEP_BYTES, length - at));
          writing.write(offset + at, part.subarray(0, reading.read(offset + at, part)));
          await this.#options.breathe();
        }
      writing.truncate(size);
    } finally {
      reading.close();
      writing.close();
    }
  }

  /** Gives what is there the attributes that it had, where they differ. */
  #attributes(from: string, to: string, stat: Stat, before: Stat): void {
    // What was done in a directory changed its time.
    const there = this.#options.dryRun ? before : (this.#to.stat(to) ?? before);
    const wanted = this.#xattrs(from, stat);
    const extra = this.#to.xattrs(to).filter(([name]) => !wanted.some(([one]) => one === name));
    if (this.#isAlike(stat, there) && extra.length === 0 && sameAttributes(wanted, this.#to.xattrs(to)))
      return;
    this.#options.onItem("attributes", to);
    if (this.#options.dryRun) return;
    for (const [name] of extra) this.#to.removeXattr(to, name);
    this.#finish(from, to, stat);
  }

  #isAlike(one: Stat, other: Stat): boolean {
    const isOwned = one.uid === other.uid && one.gid === other.gid;
    const isTimed = one.mtime.sec === other.mtime.sec && one.mtime.nsec === other.mtime.nsec;
    return one.mode === other.mode && isTimed && (isOwned || !this.#options.chown);
  }

  #finish(from: string, to: string, stat: Stat): void {
    for (const lost of this.#to.finish(to, stat, this.#xattrs(from, stat), this.#options.chown))
      this.#options.onLoss(to, lost);
  }

  /** A symlink can have none of users'. */
  #xattrs(path: string, { mode }: Stat): readonly Attribute[] {
    const all = this.#from.xattrs(path);
    return isSymlink(mode) ? all.filter(([name]) => !name.startsWith("user.")) : all;
  }
}

/** `some` are among `all`, with their values. */
function sameAttributes(some: readonly Attribute[], all: readonly Attribute[]): boolean {
  return some.every(([name, value]) =>
    all.some(([other, has]) => other === name && Buffer.from(value).equals(has)),
  );
}
