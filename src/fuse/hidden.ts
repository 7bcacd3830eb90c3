/**
 * The past inside a live mount: `.sqlfuse`, which LOOKUP finds in every directory and no listing shows.
 *
 *   DIR/.sqlfuse/at/WHEN          DIR as it was; WHEN is a snapshot's name, an epoch or a time, as for --at
 *   ROOT/.sqlfuse/snapshots/NAME  the volume as it was; mkdir makes a snapshot here, rmdir deletes one
 *
 * A node id from FIRST_HIDDEN on is a PLACE and an inode number. Three places are doors: directories that are made up
 * for each directory of the volume. Each other one is a WINDOW: a directory that was looked up in a door, and all that
 * is below it, in one closed epoch. So the past has node ids and st_ino of its own, the same as long as the kernel
 * remembers the window; two windows of one epoch have different ones, as a directory has one name only for the kernel.
 *
 * Requests for such nodes are answered by the same handlers as all others, with another Server: its volume takes the
 * numbers apart and reads a view of the past, and refuses changes with EROFS.
 */
import { FsError } from "../base/errno.ts";
import type { History, Snapshot } from "../core/history.ts";
import { S_IFDIR } from "../core/mode.ts";
import { parseAt } from "../core/moment.ts";
import { type Attr, type Entry, type Epoch, type Ino, ROOT_INO } from "../core/types.ts";
import type { Agreement } from "./init.ts";
import { FIRST_HIDDEN, type HandledVolume, type HiddenName, type Server } from "./server.ts";

/** Inode numbers that a place has room for; those of a volume count up from 1. */
const INOS = 2 ** 36;
const PLACES = 2 ** 16;

/** The doors. */
const HIDDEN = 0;
const AT = 1;
const SNAPSHOTS = 2;
const FIRST_WINDOW = 3;

const NAME = Buffer.from(".sqlfuse");
/** Views that stay open. */
const MOST_VIEWS = 4;

/** What is read of a closed epoch. @throws FsError ESTALE from each of them when it is not kept any more */
export interface PastVolume {
  readonly tree: Pick<HandledVolume["tree"], "lookup" | "parentOf" | "readdir" | "readdirplus" | "readlink">;
  readonly attributes: Pick<HandledVolume["attributes"], "getattr">;
  readonly files: Pick<HandledVolume["files"], "read" | "away" | "lseek">;
  readonly xattrs: Pick<HandledVolume["xattrs"], "get" | "list">;
  close(): void;
}

export interface PastSource {
  readonly history: Pick<History, "list" | "find" | "create" | "delete" | "inodeAt">;
  /** Undefined where the epoch is not kept. */
  open(epoch: Epoch): PastVolume | undefined;
  /** Somebody stored to the past through a mapping: the kernel is to forget what it holds of that node. */
  tampered(node: Ino): void;
}

interface Window {
  readonly place: number;
  readonly key: string;
  readonly epoch: Epoch;
  /** The directory that was looked up: a list of snapshots needs no view of any. */
  readonly root: Attr;
  /** What the kernel counts of its nodes. */
  references: number;
}

const refuse = (): never => {
  throw new FsError("EROFS", "the past does not change");
};

function nodeOf(place: number, ino: Ino): Ino {
  if (ino >= INOS) throw new FsError("EOVERFLOW", `inode ${ino} has no number for the past`);
  return (FIRST_HIDDEN + place * INOS + ino) as Ino;
}

function placeOf(node: Ino): number {
  return Math.floor((node - FIRST_HIDDEN) / INOS);
}

function inoOf(node: Ino): Ino {
  return (node % INOS) as Ino;
}

export class Hidden {
  readonly #live: Server;
  readonly #past: PastSource;
  readonly #doors: Server;
  readonly #windows: Server;
  readonly #byPlace = new Map<number, Window>();
  readonly #byKey = new Map<string, Window>();
  /** The one that was used last comes last. */
  readonly #views = new Map<Epoch, PastVolume>();
  #lastPlace = FIRST_WINDOW - 1;

  constructor(live: Server, past: PastSource) {
    this.#live = live;
    this.#past = past;
    // What a name in a door means can change at any time. What is behind it cannot.
    this.#doors = new Side(live, this.#doorVolume(), 0);
    this.#windows = new Side(live, this.#windowVolume(), undefined);
  }

  /** Who answers requests for a node. */
  serverOf(node: Ino): Server {
    return placeOf(node) < FIRST_WINDOW ? this.#doors : this.#windows;
  }

  /** What a name that is not in the live directory `parent` stands for. */
  find(parent: Ino, name: Uint8Array): HiddenName | undefined {
    if (name.length !== NAME.length || !NAME.equals(name)) return undefined;
    return { server: this.#doors, stat: this.#door(nodeOf(HIDDEN, parent)) };
  }

  forget(node: Ino, count: number): void {
    const window = this.#byPlace.get(placeOf(node));
    if (window === undefined) return;
    window.references -= count;
    if (window.references > 0) return;
    this.#byPlace.delete(window.place);
    this.#byKey.delete(window.key);
  }

  close(): void {
    for (const view of this.#views.values()) view.close();
    this.#views.clear();
  }

  get #common(): Pick<HandledVolume, "statfs" | "fsync" | "commit" | "inodes"> {
    const { volume } = this.#live;
    const inodes = { ref: (node: Ino) => this.#refer(node) };
    return { statfs: () => volume.statfs(), fsync: () => {}, commit: () => volume.commit(), inodes };
  }

  // --- doors

  /** As the directory that it is made up for, and for everybody to read; snapshots are made by the root's owner. */
  #door(node: Ino): Attr {
    const stat = this.#live.volume.attributes.getattr(inoOf(node));
    const mode = S_IFDIR | (placeOf(node) === SNAPSHOTS ? 0o755 : 0o555);
    // One link: nobody is to conclude from it how many directories are in it.
    return { ...stat, ino: node, mode, nlink: 1, size: 0, blocks: 0 };
  }

  #doorVolume(): HandledVolume {
    const door = (node: Ino) => this.#door(node);
    return {
      ...this.#common,
      tree: {
        ...fixedTree,
        lookup: (node, name) => this.#lookup(node, name),
        parentOf: (node) => (placeOf(node) === HIDDEN ? inoOf(node) : nodeOf(HIDDEN, inoOf(node))),
        readdir: (node, cookie, visit) => this.#list(node, cookie, visit),
        // Without attributes: they would take a view for each of them.
        readdirplus: (node, cookie, visit) => this.#list(node, cookie, (entry) => visit(entry, undefined)),
        readlink: () => {
          throw new FsError("EINVAL");
        },
        mkdir: (node, name) => this.#make(node, name),
        rmdir: (node, name) => this.#delete(node, name),
      },
      attributes: { getattr: door, setattr: refuse },
      files: { ...fixedFiles, read: isDirectory, lseek: isDirectory },
      xattrs: { get: () => undefined, list: () => new Uint8Array(0), set: refuse, remove: refuse },
    };
  }

  #lookup(node: Ino, name: Uint8Array): Attr | undefined {
    const ino = inoOf(node);
    const text = textOf(name);
    if (text === ".") return this.#door(node);
    if (text === undefined) return undefined;
    switch (placeOf(node)) {
      case HIDDEN:
        if (text === "at") return this.#door(nodeOf(AT, ino));
        return text === "snapshots" && ino === ROOT_INO ? this.#door(nodeOf(SNAPSHOTS, ino)) : undefined;
      case AT:
        return this.#open(node, text, this.#past.history.find(parseAt(text)));
      default:
        return this.#open(node, text, this.#past.history.find({ name: text }));
    }
  }

  /** The door's directory as it was; undefined where it was not there. */
  #open(door: Ino, name: string, snapshot: Snapshot | undefined): Attr | undefined {
    if (snapshot === undefined) return undefined;
    const { epoch } = snapshot;
    const ino = inoOf(door);
    const stat = this.#past.history.inodeAt(ino, epoch);
    if (stat === undefined) return undefined;
    return this.#window(`${door} ${epoch} ${name}`, epoch, stat).root;
  }

  #list(node: Ino, cookie: number, visit: (entry: Entry) => boolean): void {
    const ino = inoOf(node);
    const entry = (name: string, at: number): Entry => ({
      name: Buffer.from(name),
      // No number is known before it is looked up; any that is not 0 will do.
      ino: nodeOf(AT, ROOT_INO),
      type: S_IFDIR,
      cookie: at,
    });
    const entries =
      placeOf(node) === HIDDEN
        ? ["at", ...(ino === ROOT_INO ? ["snapshots"] : [])].map((name, i) => entry(name, i + 1))
        : this.#shownIn(ino).map(({ name, epoch }) => entry(name, epoch));
    for (const one of entries) if (one.cookie > cookie && !visit(one)) return;
  }

  /** The snapshots in which a directory is. */
  #shownIn(ino: Ino): readonly Snapshot[] {
    const { history } = this.#past;
    return history.list().filter(({ epoch }) => history.inodeAt(ino, epoch) !== undefined);
  }

  #make(node: Ino, name: Uint8Array): Attr {
    if (placeOf(node) !== SNAPSHOTS) return refuse();
    const text = textOf(name);
    if (text === undefined) throw new FsError("EINVAL", "not UTF-8");
    const made = this.#open(node, text, this.#past.history.create(text));
    if (made === undefined) throw new FsError("ESTALE");
    return made;
  }

  #delete(node: Ino, name: Uint8Array): void {
    if (placeOf(node) !== SNAPSHOTS) refuse();
    const text = textOf(name);
    if (text === undefined) throw new FsError("ENOENT");
    this.#past.history.delete(text);
  }

  // --- windows

  #windowVolume(): HandledVolume {
    const view = (node: Ino) => this.#view(this.#windowOf(node).epoch);
    const shown = (node: Ino, stat: Attr): Attr => ({ ...stat, ino: nodeOf(placeOf(node), stat.ino) });
    const listed = (node: Ino, entry: Entry): Entry => ({ ...entry, ino: nodeOf(placeOf(node), entry.ino) });
    return {
      ...this.#common,
      tree: {
        ...fixedTree,
        lookup: (node, name) => {
          const stat = view(node).tree.lookup(inoOf(node), name);
          return stat && shown(node, stat);
        },
        parentOf: (node) => nodeOf(placeOf(node), view(node).tree.parentOf(inoOf(node))),
        readdir: (node, cookie, visit) =>
          view(node).tree.readdir(inoOf(node), cookie, (entry) => visit(listed(node, entry))),
        readdirplus: (node, cookie, visit) =>
          view(node).tree.readdirplus(inoOf(node), cookie, (entry, stat) =>
            visit(listed(node, entry), stat && shown(node, stat)),
          ),
        readlink: (node) => view(node).tree.readlink(inoOf(node)),
      },
      attributes: {
        getattr: (node) => {
          const { root } = this.#windowOf(node);
          return node === root.ino ? root : shown(node, view(node).attributes.getattr(inoOf(node)));
        },
        setattr: refuse,
      },
      files: {
        ...fixedFiles,
        read: (node, offset, length, into) => view(node).files.read(inoOf(node), offset, length, into),
        away: (node, offset, length) => view(node).files.away(inoOf(node), offset, length),
        lseek: (node, offset, whence) => view(node).files.lseek(inoOf(node), offset, whence),
        // The kernel opens files for writing by itself, and a mapping can be stored to then.
        write: (node) => {
          this.#past.tampered(node);
          return refuse();
        },
      },
      xattrs: {
        get: (node, name) => view(node).xattrs.get(inoOf(node), name),
        list: (node) => view(node).xattrs.list(inoOf(node)),
        set: refuse,
        remove: refuse,
      },
    };
  }

  /** The window of that key, made where there is none. It goes when the kernel has forgotten all in it. */
  #window(key: string, epoch: Epoch, stat: Attr): Window {
    const known = this.#byKey.get(key);
    if (known !== undefined) return known;
    const place = this.#freePlace();
    const window = { place, key, epoch, root: { ...stat, ino: nodeOf(place, stat.ino) }, references: 0 };
    this.#byPlace.set(window.place, window);
    this.#byKey.set(key, window);
    return window;
  }

  /** One that was not used for long: what still comes for what was there then is ESTALE. */
  #freePlace(): number {
    if (this.#byPlace.size >= PLACES - FIRST_WINDOW) throw new FsError("ENFILE", "too many snapshots in use");
    do {
      this.#lastPlace = this.#lastPlace + 1 < PLACES ? this.#lastPlace + 1 : FIRST_WINDOW;
    } while (this.#byPlace.has(this.#lastPlace));
    return this.#lastPlace;
  }

  #windowOf(node: Ino): Window {
    const window = this.#byPlace.get(placeOf(node));
    if (window === undefined) throw new FsError("ESTALE");
    return window;
  }

  #refer(node: Ino): void {
    const window = this.#byPlace.get(placeOf(node));
    if (window !== undefined) window.references++;
  }

  #view(epoch: Epoch): PastVolume {
    const view = this.#views.get(epoch) ?? this.#past.open(epoch);
    if (view === undefined) throw new FsError("ESTALE", "this snapshot was deleted");
    this.#views.delete(epoch);
    this.#views.set(epoch, view);
    const [oldest] = this.#views.keys();
    if (this.#views.size > MOST_VIEWS && oldest !== undefined) {
      this.#views.get(oldest)?.close();
      this.#views.delete(oldest);
    }
    return view;
  }
}

/** Undefined where the bytes are no text. */
function textOf(name: Uint8Array): string | undefined {
  const text = Buffer.from(name).toString();
  return Buffer.from(text).equals(name) ? text : undefined;
}

function isDirectory(): never {
  throw new FsError("EISDIR");
}

const fixedTree = {
  mknod: refuse,
  mkdir: refuse,
  symlink: refuse,
  tmpfile: refuse,
  link: refuse,
  unlink: refuse,
  rmdir: refuse,
  rename: refuse,
};

const fixedFiles = {
  plan: () => undefined,
  away: () => [],
  write: refuse,
  fallocate: refuse,
  // The kernel reads and writes then.
  copyFileRange: (): never => {
    throw new FsError("EXDEV");
  },
};

/** The server of hidden nodes: what is of the connection is the live one's. */
class Side implements Server {
  readonly volume: HandledVolume;
  readonly delegates = false;
  readonly #live: Server;
  readonly #timeoutSec: number | undefined;

  constructor(live: Server, volume: HandledVolume, timeoutSec: number | undefined) {
    this.#live = live;
    this.volume = volume;
    this.#timeoutSec = timeoutSec;
  }

  get timeoutSec(): number {
    return this.#timeoutSec ?? this.#live.timeoutSec;
  }

  get agreed(): Agreement {
    return this.#live.agreed;
  }

  get uid(): number | undefined {
    return this.#live.uid;
  }

  get gid(): number | undefined {
    return this.#live.gid;
  }

  get counters(): Float64Array {
    return this.#live.counters;
  }

  get granted(): Ino[] {
    return this.#live.granted;
  }

  hiddenAt(): undefined {}

  delegate(): boolean {
    return false;
  }

  agree(): undefined {}

  /** A door's listing is never kept. */
  listingChanged(): boolean {
    return this.#timeoutSec === 0;
  }

  attributesChanged(): void {}

  forgotten(node: Ino, count: number): void {
    this.#live.forgotten(node, count);
  }

  touch(): void {}

  settled(): void {}
}
