/**
 * Copies trees from place to place as `cp -a` does: types, permissions, times, attributes, ACLs, holes, hard links
 * within what is copied; owners where that is allowed. A file is made under a name of its own and then takes its
 * name, so that nobody sees half of one and what was there before is replaced at once. What cannot be copied is
 * told and left out; the rest goes on.
 */
import { randomBytes } from "node:crypto";
import { isDirectory, isRegular, isSymlink } from "../core/mode.ts";
import { type Attribute, type Place, refusalOf, type Stat } from "./place.ts";

export interface CopyOptions {
  /** Keep owners: takes root on both sides. */
  readonly chown: boolean;
  /** Leave alone what is there already. */
  readonly noClobber: boolean;
  /** Identities of files that are neither read nor replaced: those of the volume that is copied from or to. */
  readonly untouchable: ReadonlySet<string>;
  /** Called between steps: where the caller lets others run, or throws to stop. */
  readonly breathe: () => Promise<void> | undefined;
  readonly onItem: () => void;
  readonly onBytes: (count: number) => void;
  /** `path` is that of the source. */
  readonly onSkip: (path: string, why: string) => void;
  /** An attribute that could not be kept: the item is there, without it. */
  readonly onLoss: (path: string, what: string) => void;
}

const STEP_BYTES = 1 << 20;
/** Errors that end everything: the next item would meet them too. */
const FATAL = ["ENOSPC", "EDQUOT", "EIO", "EROFS"];

export class Copier {
  readonly #from: Place;
  readonly #to: Place;
  readonly #options: CopyOptions;
  /** Where the first name of each file with several went. */
  readonly #linked = new Map<string, string>();
  readonly #buffer = Buffer.allocUnsafe(STEP_BYTES);

  constructor(from: Place, to: Place, options: CopyOptions) {
    this.#from = from;
    this.#to = to;
    this.#options = options;
  }

  /** Identity of the directory that is copied to: it may lie in what is copied. */
  #top: string | undefined;

  /** Copies what is at `from`, with everything below it, so that it is at `to`, whose directory is there. */
  async copy(from: string, to: string): Promise<void> {
    this.#top = undefined;
    await this.#item(from, to);
  }

  async #item(from: string, to: string): Promise<void> {
    await this.#options.breathe();
    try {
      const stat = this.#from.stat(from);
      if (stat === undefined) this.#options.onSkip(from, "no such file or directory");
      else if (isDirectory(stat.mode)) await this.#directory(from, stat, to);
      else await this.#entry(from, stat, to);
    } catch (error) {
      const code = refusalOf(error);
      // Reading one damaged file is that file's misfortune only; what cannot be written now, never can.
      const damage = error instanceof Error && error.name === "DamageError";
      if (!damage && (code === undefined || (FATAL.includes(code) && code !== "EIO"))) throw error;
      this.#options.onSkip(from, describe(error));
    }
  }

  async #directory(from: string, stat: Stat, to: string): Promise<void> {
    const there = this.#to.stat(to);
    if (there !== undefined && !isDirectory(there.mode)) {
      this.#options.onSkip(from, "there is something of that name that is not a directory");
      return;
    }
    // Open to us until all is in it, and to nobody else.
    if (there === undefined) this.#to.mkdir(to, 0o700);
    this.#top ??= this.#to.stat(to)?.identity;
    if (stat.identity === this.#top) {
      this.#options.onSkip(from, "it is where the copy goes");
      return;
    }
    for (const name of this.#from.names(from)) await this.#item(`${from}/${name}`, `${to}/${name}`);
    this.#finish(from, to, stat);
    this.#options.onItem();
  }

  async #entry(from: string, stat: Stat, to: string): Promise<void> {
    const there = this.#to.stat(to);
    if ([stat, there].some((one) => one !== undefined && this.#options.untouchable.has(one.identity))) {
      this.#options.onSkip(from, "it is the volume itself");
      return;
    }
    if (there !== undefined && isDirectory(there.mode)) {
      this.#options.onSkip(from, "there is a directory of that name");
      return;
    }
    if (there !== undefined && this.#options.noClobber) return;
    const first = stat.nlink > 1 ? this.#linked.get(stat.identity) : undefined;
    const draft = `${to.slice(0, to.lastIndexOf("/") + 1)}.sqlfuse-${randomBytes(6).toString("hex")}`;
    try {
      if (first !== undefined) this.#to.link(first, draft);
      else {
        if (isRegular(stat.mode)) await this.#content(from, stat, draft);
        else this.#to.make(draft, stat, isSymlink(stat.mode) ? this.#from.readlink(from) : "");
        this.#finish(from, draft, stat);
      }
      this.#to.rename(draft, to);
    } catch (error) {
      this.#discard(draft);
      throw error;
    }
    if (first !== undefined && this.#to.stat(draft) !== undefined) this.#to.unlink(draft);
    if (stat.nlink > 1 && first === undefined) this.#linked.set(stat.identity, to);
    this.#options.onItem();
  }

  #discard(draft: string): void {
    try {
      if (this.#to.stat(draft) !== undefined) this.#to.unlink(draft);
    } catch {
      // What went wrong first is what is told.
    }
  }

  async #content(from: string, stat: Stat, to: string): Promise<void> {
    const reading = this.#from.openRead(from);
    try {
      const writing = this.#to.openNew(to);
      try {
        for (const { offset, length } of reading.data()) {
          for (let at = 0; at < length; ) {
            const count = reading.read(
              offset + at,
              this.#buffer.subarray(0, Math.min(STEP_BYTES, length - at)),
            );
            if (count === 0) break; // it was cut meanwhile
            writing.write(offset + at, this.#buffer.subarray(0, count));
            at += count;
            this.#options.onBytes(count);
            await this.#options.breathe();
          }
        }
        writing.truncate(stat.size);
      } finally {
        writing.close();
      }
    } finally {
      reading.close();
    }
  }

  #finish(from: string, to: string, stat: Stat): void {
    let xattrs: readonly Attribute[] = this.#from.xattrs(from);
    // A symlink can have none of users', so none is lost.
    if (isSymlink(stat.mode)) xattrs = xattrs.filter(([name]) => !name.startsWith("user."));
    for (const lost of this.#to.finish(to, stat, xattrs, this.#options.chown))
      this.#options.onLoss(from, lost);
  }
}

const WORDS: Readonly<Record<string, string>> = {
  ENOENT: "no such file or directory",
  EACCES: "permission denied",
  EPERM: "not permitted",
  EEXIST: "it exists already",
  ENOTDIR: "not a directory",
  EISDIR: "it is a directory",
  ENOTEMPTY: "the directory is not empty",
  ENOSPC: "no space left",
  EROFS: "it is read-only",
  EIO: "input/output error",
  EINVAL: "not possible there",
  ELOOP: "it is a symbolic link",
  ENAMETOOLONG: "the name is too long",
  EMLINK: "too many links",
  EBUSY: "it is in use",
  ENXIO: "there is nothing behind it",
};

/** A refusal in words, without paths: the caller has said which. */
export function describe(error: unknown): string {
  const code = refusalOf(error);
  if (!(error instanceof Error)) return String(error);
  if (error.name === "PlaceError" && error.message !== code) return error.message;
  if (error.name === "AwayError")
    return "its content is not here, as the replica is partial: see sqlfuse pin";
  if (code === undefined) return error.message;
  return WORDS[code] ?? code;
}
