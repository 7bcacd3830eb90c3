/**
 * What a program did to the files of one directory, and what a power loss at any moment could have left of it.
 *
 * The model is that of POSIX, with no mercy: a sync makes durable what that file was, and nothing else. Behind it each
 * sector of 512 bytes is, independent of all others, as it was after any of the writes since; so are the size of a file
 * and each name of the directory (its sync is one of its own). A truncation can be lost, also where later writes are
 * not, but not in parts: filesystems free the blocks of a file in one transaction with its size.
 */
import * as realFs from "node:fs";
import { dirname, join } from "node:path";
import type { Random } from "../core/random.ts";
import type { Listener } from "./layer.ts";

const SECTOR = 512;

/** A file that keeps its number under whatever name it has. */
type FileNo = number;

export type Event =
  | {
      readonly kind: "write";
      readonly file: FileNo;
      readonly path: string;
      readonly offset: number;
      readonly bytes: Buffer;
    }
  | { readonly kind: "truncate"; readonly file: FileNo; readonly path: string; readonly size: number }
  | { readonly kind: "sync"; readonly file: FileNo; readonly path: string }
  | { readonly kind: "name"; readonly name: string; readonly file: FileNo | undefined }
  | { readonly kind: "syncNames" };

/** What happened to a file that a sync of it makes durable. */
type Change = Event & { readonly kind: "write" | "truncate" };

/** What a power loss would decide on. */
export interface Unsynced {
  readonly events: readonly Change[];
  /** Names that came or went. */
  readonly names: number;
}

/** The files of a directory by name. */
export type State = ReadonlyMap<string, Buffer>;

export class Record {
  readonly events: Event[] = [];
  readonly #directory: string;
  readonly #names = new Map<string, FileNo>();
  readonly #initial = new Map<FileNo, Buffer>();
  readonly #initialNames: ReadonlyMap<string, FileNo>;
  #files = 0;

  /** Begins with what lies in `directory` now, durably; nothing of it may be open. */
  constructor(directory: string) {
    this.#directory = directory;
    for (const name of realFs.readdirSync(directory)) {
      this.#initial.set(this.#files, realFs.readFileSync(join(directory, name)));
      this.#names.set(name, this.#files++);
    }
    this.#initialNames = new Map(this.#names);
  }

  #nameOf(path: string): string | undefined {
    if (dirname(path) !== this.#directory) return undefined;
    const name = path.slice(this.#directory.length + 1);
    // The index of the -wal is made anew after a power loss.
    return name.endsWith("-shm") ? undefined : name;
  }

  /** The file that `path` leads to; undefined where it is none of ours. */
  fileAt(path: string): FileNo | undefined {
    const name = this.#nameOf(path);
    return name === undefined ? undefined : this.#names.get(name);
  }

  made(path: string): void {
    const name = this.#nameOf(path);
    if (name !== undefined) this.#bind(name, this.#files++);
  }

  #bind(name: string, file: FileNo | undefined): void {
    if (file === undefined) this.#names.delete(name);
    else this.#names.set(name, file);
    this.events.push({ kind: "name", name, file });
  }

  removed(path: string): void {
    const name = this.#nameOf(path);
    if (name !== undefined && this.#names.has(name)) this.#bind(name, undefined);
  }

  linked(from: string, to: string): void {
    const name = this.#nameOf(to);
    if (name !== undefined) this.#bind(name, this.fileAt(from));
  }

  renamed(from: string, to: string): void {
    this.linked(from, to);
    this.removed(from);
  }

  wrote(path: string, offset: number, bytes: Buffer): void {
    const file = this.fileAt(path);
    if (file !== undefined)
      this.events.push({ kind: "write", file, path, offset, bytes: Buffer.from(bytes) });
  }

  truncated(path: string, size: number): void {
    const file = this.fileAt(path);
    if (file !== undefined) this.events.push({ kind: "truncate", file, path, size });
  }

  synced(path: string): void {
    const file = this.fileAt(path);
    if (file !== undefined) this.events.push({ kind: "sync", file, path });
    else if (path === this.#directory) this.events.push({ kind: "syncNames" });
  }

  /** Hears what SQLite does. */
  get listener(): Listener {
    return {
      wrote: (path, offset, bytes) => this.wrote(path, offset, bytes),
      truncated: (path, size) => this.truncated(path, size),
      synced: (path, directory) => {
        this.synced(path);
        if (directory) this.synced(dirname(path));
      },
      made: (path) => this.made(path),
      removed: (path, directorySynced) => {
        this.removed(path);
        if (directorySynced) this.synced(dirname(path));
      },
    };
  }

  /** A disk at the beginning of this record, on which the syncs that `ignored` picks do nothing. */
  disk(ignored: (event: Event) => boolean = () => false): Disk {
    return new Disk(this.events, this.#initial, this.#initialNames, ignored);
  }
}

/** A file on a disk: what is durable, and what happened since. */
interface DiskFile {
  durable: Buffer;
  pending: Change[];
}

/** How much of what was not synced is there. */
const KEEPS = [
  "nothing",
  "everything",
  "first writes",
  "any sectors",
  "some writes",
  "few writes",
  "most writes",
] as const;
type Keeps = (typeof KEEPS)[number];

/** A disk that the events of a record reach one after the other. */
export class Disk {
  readonly #events: readonly Event[];
  readonly #ignored: (event: Event) => boolean;
  readonly #files = new Map<FileNo, DiskFile>();
  readonly #names: Map<string, FileNo>;
  readonly #pendingNames: (Event & { readonly kind: "name" })[] = [];
  #at = 0;

  constructor(
    events: readonly Event[],
    initial: ReadonlyMap<FileNo, Buffer>,
    names: ReadonlyMap<string, FileNo>,
    ignored: (event: Event) => boolean,
  ) {
    this.#events = events;
    this.#ignored = ignored;
    for (const [file, bytes] of initial) this.#files.set(file, { durable: bytes, pending: [] });
    this.#names = new Map(names);
  }

  /** Lets the events up to number `end` happen. */
  advance(end: number): void {
    for (const event of this.#events.slice(this.#at, end)) {
      if (event.kind === "name") this.#pendingNames.push(event);
      else if (event.kind === "write" || event.kind === "truncate")
        this.#file(event.file).pending.push(event);
      else if (!this.#ignored(event)) this.#sync(event);
    }
    this.#at = Math.max(this.#at, end);
  }

  #file(no: FileNo): DiskFile {
    const file = this.#files.get(no) ?? { durable: Buffer.alloc(0), pending: [] };
    this.#files.set(no, file);
    return file;
  }

  #sync(event: Event & { readonly kind: "sync" | "syncNames" }): void {
    if (event.kind === "sync") {
      const file = this.#file(event.file);
      file.durable = imageOf(file, "everything", () => 0);
      file.pending = [];
      return;
    }
    for (const { name, file } of this.#pendingNames.splice(0)) bind(this.#names, name, file);
  }

  get unsynced(): Unsynced {
    const events = [...this.#files.values()].flatMap(({ pending }) => pending);
    return { events, names: this.#pendingNames.length };
  }

  /** What a power loss now could leave. */
  state(random: Random): State {
    const below = (end: number) => random.below(end);
    // Half of the time all files fare alike, as they do where a disk just stops.
    const common = random.chance(0.5) ? random.pick(KEEPS) : undefined;
    const state = new Map<string, Buffer>();
    for (const [name, no] of this.#namesLeft(common ?? random.pick(KEEPS), random))
      state.set(name, imageOf(this.#file(no), common ?? random.pick(KEEPS), below));
    return state;
  }

  /** Each name as it was after any of its changes. */
  #namesLeft(keeps: Keeps, random: Random): ReadonlyMap<string, FileNo> {
    const left = new Map(this.#names);
    if (keeps === "nothing") return left;
    const done = new Set<string>();
    for (const { name, file } of this.#pendingNames) {
      if (keeps !== "everything" && random.chance(0.3)) done.add(name);
      if (!done.has(name)) bind(left, name, file);
    }
    return left;
  }
}

function bind(names: Map<string, FileNo>, name: string, file: FileNo | undefined): void {
  if (file === undefined) names.delete(name);
  else names.set(name, file);
}

/** The content of a file of which some of what was not synced is there. `below`: a random number from 0. */
function imageOf({ durable, pending }: DiskFile, keeps: Keeps, below: (end: number) => number): Buffer {
  if (pending.length === 0 || keeps === "nothing") return durable;
  const sizes = sizesOf(durable, pending);
  const image = Buffer.alloc(sizes.reduce((most, size) => Math.max(most, size)));
  durable.copy(image);
  const cuts = cutsOf(pending, keeps, image.length, below);
  for (const [i, event] of pending.entries()) {
    const [start, end] = rangeOf(event, image.length);
    if (event.kind === "truncate") {
      if (cuts.size > i) image.fill(0, start, end);
      continue;
    }
    for (let at = start; at < end; ) {
      const next = Math.min(end, (Math.floor(at / SECTOR) + 1) * SECTOR);
      const isSeen = (cuts.sectors[Math.floor(at / SECTOR)] as number) > i;
      if (isSeen) event.bytes.copy(image, at, at - start, next - start);
      at = next;
    }
  }
  return image.subarray(0, sizes[cuts.size]);
}

/** The size of a file before and after each event. */
function sizesOf(durable: Buffer, pending: readonly Change[]): number[] {
  const sizes = [durable.length];
  for (const event of pending) {
    const before = sizes.at(-1) as number;
    sizes.push(event.kind === "truncate" ? event.size : Math.max(before, event.offset + event.bytes.length));
  }
  return sizes;
}

/** Bytes that an event changes; a truncation all behind it. */
function rangeOf(event: Change, end: number): [start: number, end: number] {
  if (event.kind === "truncate") return [Math.min(event.size, end), end];
  return [event.offset, event.offset + event.bytes.length];
}

/** For each sector, and for the size, how many events it has seen; of truncations the size decides. */
function cutsOf(
  pending: readonly Change[],
  keeps: Keeps,
  length: number,
  below: (end: number) => number,
): { readonly sectors: Uint32Array; readonly size: number } {
  const sectors = new Uint32Array(Math.ceil(length / SECTOR));
  const count = pending.length;
  const any = () => below(count + 1);
  if (keeps === "everything") return { sectors: sectors.fill(count), size: count };
  if (keeps === "first writes") {
    // The write in which the power went is torn.
    const last = below(count);
    sectors.fill(last);
    const [start, end] = rangeOf(pending[last] as Change, length);
    for (let s = Math.floor(start / SECTOR); s * SECTOR < end; s++) sectors[s] = last + below(2);
    return { sectors, size: last + below(2) };
  }
  if (keeps === "any sectors") return { sectors: sectors.map(any), size: any() };
  const percent = { "some writes": 50, "few writes": 10, "most writes": 90 }[keeps as "some writes"];
  for (const [i, event] of pending.entries()) {
    if (below(100) >= percent) continue;
    const [start, end] = rangeOf(event, length);
    sectors.fill(i + 1, Math.floor(start / SECTOR), Math.ceil(end / SECTOR));
  }
  return { sectors, size: below(3) > 0 ? count : any() };
}

/** node:fs whose changes of the directory of `recording()` are recorded, where there is one. */
export function recordedFs(fs: typeof realFs, recording: () => Record | undefined): typeof realFs {
  const paths = new Map<number, string>();
  const recorded = {
    openSync(path: string, ...rest: [flags: realFs.OpenMode, mode?: realFs.Mode]): number {
      const isNew = recording() !== undefined && !fs.existsSync(path);
      const fd = fs.openSync(path, ...rest);
      if (recording() !== undefined) paths.set(fd, path);
      if (isNew) recording()?.made(path);
      return fd;
    },
    closeSync(fd: number): void {
      paths.delete(fd);
      fs.closeSync(fd);
    },
    writeSync(fd: number, bytes: Buffer, start: number, length: number, offset: number): number {
      const written = fs.writeSync(fd, bytes, start, length, offset);
      recording()?.wrote(paths.get(fd) ?? "", offset, bytes.subarray(start, start + written));
      return written;
    },
    fsyncSync(fd: number): void {
      fs.fsyncSync(fd);
      recording()?.synced(paths.get(fd) ?? "");
    },
    fdatasyncSync(fd: number): void {
      fs.fdatasyncSync(fd);
      recording()?.synced(paths.get(fd) ?? "");
    },
    writeFileSync(
      path: string,
      bytes: Buffer,
      options?: realFs.WriteFileOptions & { flush?: boolean },
    ): void {
      fs.writeFileSync(path, bytes, options);
      const record = recording();
      if (record === undefined || typeof path !== "string") return;
      record.made(path);
      record.wrote(path, 0, bytes);
      if (options?.flush === true) record.synced(path);
    },
    renameSync(from: string, to: string): void {
      fs.renameSync(from, to);
      recording()?.renamed(from, to);
    },
    linkSync(from: string, to: string): void {
      fs.linkSync(from, to);
      recording()?.linked(from, to);
    },
    rmSync(path: string, options?: realFs.RmOptions): void {
      fs.rmSync(path, options);
      recording()?.removed(path);
    },
  };
  return { ...fs, ...recorded } as typeof realFs;
}

/** Syncs in the background, as of src/native/aio.ts: what was begun is durable once it is seen to be done, which takes a while. */
export function recordedBackground(recording: () => Record | undefined) {
  const ASKED_IN_VAIN = 2;
  return class Background {
    readonly path: string;
    asked: number | undefined;

    constructor(path: string) {
      this.path = path;
    }

    static of(fd: number): Background {
      return new Background(realFs.readlinkSync(`/proc/self/fd/${fd}`));
    }

    get isBusy(): boolean {
      return this.asked !== undefined;
    }

    begin(): boolean {
      this.asked = 0;
      return true;
    }

    result(wait: boolean): number | undefined {
      if (this.asked === undefined) return 0;
      if (!wait && this.asked++ < ASKED_IN_VAIN) return undefined;
      this.asked = undefined;
      recording()?.synced(this.path);
      return 0;
    }

    close(): void {
      if (this.asked !== undefined) this.result(true);
    }
  };
}
