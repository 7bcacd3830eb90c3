/**
 * A tree of files that things are copied from and to: a volume opened here (src/archive/volumeplace.ts), or
 * directories of this machine, a mounted volume among them (src/archive/hostplace.ts). So one `copy` serves in both
 * directions, mounted or not.
 *
 * Paths are latin1 strings, a character per byte: absolute within the place, "" the root, names behind slashes.
 * Symlinks are never followed. Refusals are errors with a `code` such as "ENOENT".
 */
import type { Time } from "../base/clock.ts";

export interface Stat {
  /** Type and permission bits. */
  readonly mode: number;
  readonly nlink: number;
  readonly uid: number;
  readonly gid: number;
  readonly size: number;
  /** Bytes that it takes. */
  readonly allocated: number;
  readonly major: number;
  readonly minor: number;
  readonly atime: Time;
  readonly mtime: Time;
  /** The same for all names of a file, and for nothing else in any place. */
  readonly identity: string;
}

export type Attribute = readonly [name: string, value: Uint8Array];

export interface Place {
  /** Undefined where there is nothing. */
  stat(path: string): Stat | undefined;
  /** Names in a directory, sorted by their bytes. */
  names(path: string): Iterable<string>;
  readlink(path: string): string;
  /** Attributes that can be kept elsewhere: those of users, ACLs, capabilities, trusted ones. */
  xattrs(path: string): readonly Attribute[];
  openRead(path: string): Reading;

  mkdir(path: string, mode: number): void;
  /** Makes an empty file that was not there; nobody else may read it until `finish`. */
  openNew(path: string): Writing;
  /** Makes a symlink, fifo, socket or device like `stat`; `target` is a symlink's. */
  make(path: string, stat: Stat, target: string): void;
  link(from: string, to: string): void;
  /** Replaces what was at `to`. */
  rename(from: string, to: string): void;
  /** Removes what is no directory. */
  unlink(path: string): void;
  rmdir(path: string): void;
  removeXattr(path: string, name: string): void;
  /**
   * Gives what was made its owner (`chown`), attributes, permissions and times, in the order in which they stay.
   * Tells the attributes that could not be kept, and why.
   */
  finish(path: string, stat: Stat, xattrs: readonly Attribute[], chown: boolean): readonly string[];
}

export interface Reading {
  /** Parts that hold data, in order. */
  data(): Iterable<{ readonly offset: number; readonly length: number }>;
  /** Fills `into` from `offset` on; fewer bytes only where the file became shorter. */
  read(offset: number, into: Uint8Array): number;
  close(): void;
}

export interface Writing {
  write(offset: number, bytes: Uint8Array): void;
  /** The size of the file: what was not written is a hole. */
  truncate(size: number): void;
  close(): void;
}

const NAMESPACES = [
  "user.",
  "trusted.",
  "system.posix_acl_access",
  "system.posix_acl_default",
  "security.capability",
];

/** Whether an attribute belongs to the file and not to the machine that it is on. */
export function isPortable(name: string): boolean {
  return NAMESPACES.some((prefix) => name.startsWith(prefix));
}

/** An error of a place; those of node:fs and of the core have codes too. */
export class PlaceError extends Error {
  readonly code: string;

  constructor(code: string, message: string = code) {
    super(message);
    this.name = "PlaceError";
    this.code = code;
  }
}

/** What a refusal is called, undefined where `error` is none. */
export function refusalOf(error: unknown): string | undefined {
  if (!(error instanceof Error) || !("code" in error) || typeof error.code !== "string") return undefined;
  return /^E[A-Z0-9]+$/.test(error.code) ? error.code : undefined;
}
