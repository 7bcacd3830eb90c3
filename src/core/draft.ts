/**
 * A file that is to take the place of another: made beside it with the same owner, mode and extended attributes,
 * published by rename, so that the name holds the whole old file or the whole new one.
 *
 * Whoever makes one holds the lock on the file that it replaces: so one that is already there was left by a crash.
 */
import {
  closeSync,
  fchmodSync,
  fchownSync,
  fdatasyncSync,
  fstatSync,
  fsyncSync,
  lstatSync,
  openSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
} from "node:fs";
import { dirname } from "node:path";
import { getxattr, listxattr, removexattr, setxattr } from "../native/libc.ts";
import { OpenError } from "./errors.ts";
import { XATTR_LIST_MAX, XATTR_SIZE_MAX } from "./types.ts";

/** Where the draft that replaces `path` is made. */
export function draftPath(path: string): string {
  return `${path}.sqlfuse-draft`;
}

/** What SQLite may put beside a database. */
const COMPANIONS = ["-wal", "-shm", "-journal"];

/** Removes what a crash left of a draft for `path`; false where there was nothing. */
function removeLeftover(path: string): boolean {
  const parts = ["", ...COMPANIONS].map((end) => draftPath(path) + end);
  const found = parts.filter((part) => lstatSync(part, { throwIfNoEntry: false }) !== undefined);
  for (const part of found) rmSync(part, { force: true });
  return found.length > 0;
}

export class Draft {
  readonly path: string;
  readonly #target: string;
  readonly #fd: number;
  #open = true;
  #published = false;

  /**
   * Makes an empty draft for the file `target`, no symlink.
   * @throws OpenError where owner or attributes cannot be kept; system errors
   */
  constructor(target: string, log: (line: string) => void) {
    this.#target = target;
    this.path = draftPath(target);
    if (removeLeftover(target)) log(`${this.path}: left by a run that was cut off; removed`);
    this.#fd = openSync(this.path, "wx+", 0o600);
    try {
      this.#takeAttributes(log);
    } catch (error) {
      this.discard();
      throw error;
    }
  }

  #takeAttributes(log: (line: string) => void): void {
    const wanted = statSync(this.#target);
    const made = fstatSync(this.#fd);
    if (wanted.uid !== made.uid || wanted.gid !== made.gid) {
      try {
        fchownSync(this.#fd, wanted.uid, wanted.gid);
      } catch (cause) {
        const owner = `user ${wanted.uid} and group ${wanted.gid}`;
        const message = `${this.#target}: belongs to ${owner}, which this user cannot give to a new file; do it as its owner or as root; nothing was changed`;
        throw new OpenError("unreadable", this.#target, message, { cause });
      }
    }
    const before = attributesOf(this.#target);
    // A directory's default ACL gives a new file attributes too.
    for (const name of attributesOf(this.path).keys()) {
      if (!before.has(name)) this.#settle(name, removexattr(this.path, name), log);
    }
    for (const [name, value] of before) {
      const has = attributesOf(this.path).get(name);
      if (has === undefined || !value.equals(has)) this.#settle(name, setxattr(this.path, name, value), log);
    }
    // After the attributes: an ACL changes the mode, a chown clears bits of it.
    fchmodSync(this.#fd, wanted.mode & 0o7777);
  }

  #settle(name: string, result: number, log: (line: string) => void): void {
    if (result >= 0) return;
    // Labels are the system's to give, and it has given this file one.
    if (name.startsWith("security.")) {
      log(`${this.#target}: its attribute ${name} is not kept (errno ${-result})`);
      return;
    }
    const message = `${this.#target}: its extended attribute ${name} cannot be kept (errno ${-result}); nothing was changed`;
    throw new OpenError("unreadable", this.#target, message);
  }

  get size(): number {
    return fstatSync(this.#fd).size;
  }

  /** Fills `into` from byte `offset`; gives the bytes read. */
  read(into: Buffer, offset: number): number {
    return readSync(this.#fd, into, 0, into.length, offset);
  }

  /** Writes back what the system holds of it, so that the last sync is short. */
  flush(): void {
    fdatasyncSync(this.#fd);
  }

  /**
   * Makes it durable and gives it the target's name. From then on nothing of the old file is left. A -wal that was
   * removed is gone durably before: one that a power loss brought back beside the new file would be replayed into it.
   */
  publish(): void {
    fsyncSync(this.#fd);
    this.#close();
    syncDirectory(this.#target);
    renameSync(this.path, this.#target);
    this.#published = true;
    try {
      syncDirectory(this.#target);
    } catch (cause) {
      const message = `${this.#target}: is replaced, but its directory cannot be synced: a power loss now may bring the old file back`;
      throw new OpenError("unreadable", this.#target, message, { cause });
    }
  }

  /** Removes it; after `publish` nothing. */
  discard(): void {
    this.#close();
    // Another run may have one of this name already.
    if (!this.#published) removeLeftover(this.#target);
  }

  #close(): void {
    if (this.#open) closeSync(this.#fd);
    this.#open = false;
  }
}

/** Makes the names beside `path` durable. */
function syncDirectory(path: string): void {
  const directory = openSync(dirname(path), "r");
  try {
    fsyncSync(directory);
  } finally {
    closeSync(directory);
  }
}

function attributesOf(path: string): Map<string, Buffer> {
  const list = Buffer.alloc(XATTR_LIST_MAX);
  const length = listxattr(path, list);
  const attributes = new Map<string, Buffer>();
  if (length <= 0) return attributes; // none, or a filesystem without any
  for (const name of list.toString("utf8", 0, length - 1).split("\0")) {
    const value = Buffer.alloc(XATTR_SIZE_MAX);
    const size = getxattr(path, name, value);
    if (size >= 0) attributes.set(name, value.subarray(0, size));
  }
  return attributes;
}
