/**
 * A volume in a temporary directory with a clock that the test owns. `inVolume` runs a test in one, closes
 * it and demands that every invariant holds, that only the one file is left and that nothing was logged.
 *
 * One volume is made and unlocked once in a test run; each test gets a copy.
 */
import { execFileSync } from "node:child_process";
import {
  copyFileSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "vitest";
import type { Clock, Time } from "../../src/base/clock.ts";
import { type ErrnoName, FsError } from "../../src/base/errno.ts";
import { type Attr, type Caller, type Ino, ROOT_INO } from "../../src/core/types.ts";
import { unlock } from "../../src/core/unlock.ts";
import { Volume, type VolumeOptions } from "../../src/core/volume.ts";
import { Database } from "../../src/db/database.ts";
import { type CipherSettings, Key, rawKeyPassword } from "../../src/db/key.ts";
import { FRAME_HEADER_BYTES, scanWal, WAL_HEADER_BYTES } from "../../src/db/wal.ts";
import { check } from "../../src/fsck/check.ts";
import { queryNumber } from "../db/query.ts";

export { noise } from "./noise.ts";

/** The key itself, which is not derived. */
export const PASSWORD = rawKeyPassword(Buffer.alloc(32, "correct horse"));
export const UID = 1000;
export const GID = 1001;
export const CALLER: Caller = { uid: UID, gid: GID, umask: 0o022 };
/** Applies no umask: the mode asked for is the mode got. */
export const OPEN_CALLER: Caller = { uid: UID, gid: GID, umask: 0 };
export const ROOT = ROOT_INO;
/** Never given out. */
export const NOBODY = 4_000_000_000 as Ino;

export const S_IFREG = 0o100000;
export const S_IFDIR = 0o040000;
export const S_IFLNK = 0o120000;
export const S_IFIFO = 0o010000;
export const S_IFCHR = 0o020000;
export const S_IFBLK = 0o060000;
export const S_IFSOCK = 0o140000;

/** Bytes of a name, target or attribute. */
export function b(text: string): Buffer {
  return Buffer.from(text);
}

/** Stands still until a test moves it. */
export class FakeClock implements Clock {
  sec = 1_700_000_000;
  nsec = 111_222_333;
  ms = 5000;

  now(): Time {
    return { sec: this.sec, nsec: this.nsec };
  }

  monotonicMs(): number {
    return this.ms;
  }

  advance(ms: number): void {
    this.ms += ms;
    const nsec = this.nsec + (ms % 1000) * 1_000_000;
    this.sec += Math.floor(ms / 1000) + Math.floor(nsec / 1_000_000_000);
    this.nsec = nsec % 1_000_000_000;
  }
}

interface Template {
  readonly path: string;
  readonly key: Key;
}

let template: Template | undefined;

/** The volume that all tests of the run copy; made by whichever test file comes first. */
function getTemplate(): Template {
  if (template !== undefined) return template;
  const directory = join(tmpdir(), `core-template-${process.ppid}`);
  if (!existsSync(directory)) {
    const making = mkdtempSync(`${directory}-`);
    const path = join(making, "volume");
    Volume.create(path, PASSWORD, { rootUid: UID, rootGid: GID, clock: new FakeClock() });
    const { bytes, salt, cipher } = unlock(path, PASSWORD);
    const key = { bytes: bytes.toString("hex"), salt: salt.toString("hex"), cipher };
    writeFileSync(join(making, "key.json"), JSON.stringify(key));
    try {
      renameSync(making, directory);
    } catch {
      rmSync(making, { recursive: true }); // another test file was faster
    }
  }
  const key = JSON.parse(readFileSync(join(directory, "key.json"), "utf8")) as {
    bytes: string;
    salt: string;
    cipher: CipherSettings;
  };
  template = {
    path: join(directory, "volume"),
    key: new Key(Buffer.from(key.bytes, "hex"), Buffer.from(key.salt, "hex"), key.cipher),
  };
  return template;
}

export interface FixtureOptions {
  /** Of files made in the volume. */
  readonly blockSize?: number;
  readonly volume?: VolumeOptions;
  /** The directory to be made in, instead of the system's for temporary files. */
  readonly parent?: string;
}

export class Fixture {
  readonly directory: string;
  readonly path: string;
  readonly key: Key;
  readonly clock: FakeClock;
  readonly #options: VolumeOptions;
  #volume: Volume | undefined;
  #log: string[] = [];

  constructor(options: FixtureOptions = {}, from?: Fixture) {
    this.directory = mkdtempSync(join(options.parent ?? tmpdir(), "core-"));
    this.path = join(this.directory, "volume");
    this.key = getTemplate().key;
    this.clock = new FakeClock();
    this.#options = options.volume ?? {};
    if (from === undefined) {
      copyFileSync(getTemplate().path, this.path);
    } else {
      // Not by this process: closing a descriptor of an open database drops SQLite's locks.
      const parts = [from.path, `${from.path}-wal`].filter((part) => existsSync(part));
      execFileSync("cp", [...parts, this.directory]);
    }
    if (options.blockSize !== undefined) {
      this.sql((db) => db.exec(`UPDATE meta SET value = ${options.blockSize} WHERE key = 'block_size'`));
    }
  }

  /** The open volume; opened when first asked for. */
  get volume(): Volume {
    this.#volume ??= this.open();
    return this.#volume;
  }

  get isOpen(): boolean {
    return this.#volume !== undefined;
  }

  open(options: VolumeOptions = {}): Volume {
    expect(this.#volume).toBeUndefined();
    this.#volume = Volume.open(this.path, this.key, {
      clock: this.clock,
      onLog: (line) => this.#log.push(line),
      ...this.#options,
      ...options,
    });
    return this.#volume;
  }

  close(): void {
    const volume = this.#volume;
    this.#volume = undefined;
    volume?.close();
  }

  remount(options: VolumeOptions = {}): Volume {
    this.close();
    return this.open(options);
  }

  /** What a crash now would leave, as another volume. */
  crashCopy(options: FixtureOptions = {}): Fixture {
    return new Fixture({ volume: this.#options, ...options }, this);
  }

  /** Runs SQL on the closed volume. */
  sql<T>(run: (db: Database) => T): T {
    expect(this.#volume).toBeUndefined();
    const db = new Database(this.path, this.key, { mode: "readwrite" });
    try {
      return run(db);
    } finally {
      db.close();
    }
  }

  /** The one number that a query on the closed volume gives. */
  number(sql: string): number {
    return this.sql((db) => queryNumber(db, sql));
  }

  /** The lines logged so far; a test that expects some takes them. */
  takeLog(): string[] {
    const log = this.#log;
    this.#log = [];
    return log;
  }

  /** Closes, and demands a whole volume. */
  finish(): void {
    this.close();
    expect(this.takeLog()).toEqual([]);
    for (const end of ["-wal", "-shm", "-journal"]) expect(existsSync(this.path + end), end).toBe(false);
    expect(check(this.path, this.key)).toEqual([]);
  }

  remove(): void {
    try {
      this.close();
    } finally {
      rmSync(this.directory, { recursive: true, force: true });
    }
  }
}

/** Runs a test in a fresh volume and ends it in a check. */
export function inVolume(
  run: (fixture: Fixture, volume: Volume) => void,
  options: FixtureOptions = {},
): void {
  const fixture = new Fixture(options);
  try {
    run(fixture, fixture.volume);
    fixture.finish();
  } finally {
    fixture.remove();
  }
}

/** As inVolume, on what a crash of `fixture` would leave now. */
export function afterCrash(fixture: Fixture, run: (copy: Fixture, volume: Volume) => void): void {
  const copy = fixture.crashCopy();
  try {
    run(copy, copy.volume);
    copy.finish();
  } finally {
    copy.remove();
  }
}

/** Demands a refusal with exactly this errno. */
export function expectErrno(code: ErrnoName, run: () => unknown): void {
  expect(errnoOf(run)).toBe(code);
}

/** The errno that an operation is refused with, "ok" where it is not. Anything but a refusal is thrown on. */
export function errnoOf(run: () => unknown): ErrnoName | "ok" {
  try {
    run();
  } catch (error) {
    if (error instanceof FsError) return error.code;
    throw error;
  }
  return "ok";
}

/** Makes an empty regular file, mode 0644. */
export function touch(volume: Volume, parent: Ino, name: string): Ino {
  return volume.tree.mknod(parent, b(name), S_IFREG | 0o644, 0, OPEN_CALLER).ino;
}

export function mkdir(volume: Volume, parent: Ino, name: string): Ino {
  return volume.tree.mkdir(parent, b(name), 0o755, OPEN_CALLER).ino;
}

/** Makes a file with this content. */
export function put(volume: Volume, parent: Ino, name: string, content: Uint8Array | string): Ino {
  const ino = touch(volume, parent, name);
  const data = typeof content === "string" ? b(content) : content;
  if (data.length > 0) volume.files.write(ino, 0, data, false);
  return ino;
}

/** All bytes of a file. */
export function contentOf(volume: Volume, ino: Ino): Buffer {
  const { size } = volume.attributes.getattr(ino);
  const into = Buffer.alloc(size, 0xee);
  expect(volume.files.read(ino, 0, size, into)).toBe(size);
  return into;
}

/** The inode of a path of names; undefined where it leads nowhere. */
export function find(volume: Volume, path: string): Attr | undefined {
  let attr: Attr | undefined = volume.attributes.getattr(ROOT);
  for (const name of path.split("/").filter((part) => part !== "")) {
    if (attr === undefined) return undefined;
    attr = volume.tree.lookup(attr.ino, b(name));
  }
  return attr;
}

/** Names in a directory, in the order of their cookies. */
export function namesOf(volume: Volume, ino: Ino): string[] {
  const names: string[] = [];
  volume.tree.readdir(ino, 0, ({ name }) => names.push(Buffer.from(name).toString("latin1")) > 0);
  return names;
}

/** Calls idle until it has nothing left to do at once. */
export function settle(volume: Volume, clock: FakeClock): number {
  for (let i = 0; i < 100_000; i++) {
    const due = volume.idle(clock.ms);
    if (due > 0) return due;
  }
  throw new Error("idle always has more to do");
}

/** Bytes of a -wal up to the end of its last commit: zeros may follow. */
export function walEnd(path: string, pageSize = 16_384): number {
  const frames = scanWal(`${path}-wal`, pageSize)?.written ?? 0;
  return WAL_HEADER_BYTES + frames * (FRAME_HEADER_BYTES + pageSize);
}
