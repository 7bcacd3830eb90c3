/**
 * A layer between SQLite and the system: it tells what is written to which file and what is synced, and makes single
 * calls fail. It takes the place of functions of SQLite's VFS "unix", in this process and on this thread only.
 *
 * What is told comes from the methods of open files (sqlite3_io_methods), which know the file and the place. Failures
 * happen one floor below, in the system calls that the VFS makes, so that SQLite's own handling of them is under test;
 * but for fsync, which it does not let be replaced: there the method fails, as it would.
 *
 * Once installed the functions stay for the life of the process and pass everything on while nobody listens: files
 * that were opened through them keep pointing at them.
 */
import { existsSync, readlinkSync } from "node:fs";
import koffi, { type TypeObject } from "koffi";
import { type Pointer, sqlite3 } from "../../src/native/sqlite3.ts";

/** A call that can be made to fail. */
export type Call = "pwrite" | "pread" | "open" | "ftruncate" | "fsync";

/** Who listens. Paths are absolute; what is told has happened. */
export interface Listener {
  wrote?(path: string, offset: number, bytes: Buffer): void;
  truncated?(path: string, size: number): void;
  /** `directory`: the directory of the file was synced as well. */
  synced?(path: string, directory: boolean): void;
  made?(path: string): void;
  removed?(path: string, directorySynced: boolean): void;
  /** The errno that the call fails with, 0 where it is made. */
  fails?(call: Call, path: string): number;
  /** Syncs do nothing: for looking at many volumes that nobody will miss. */
  readonly skipsSyncs?: boolean;
}

let listener: Listener = {};

/** Has `one` listen while `run` runs. */
export function listening<T>(one: Listener, run: () => T): T {
  install();
  const before = listener;
  listener = one;
  try {
    return run();
  } finally {
    listener = before;
  }
}

const SQLITE_OK = 0;
const SQLITE_IOERR_FSYNC = 10 | (4 << 8);

// Where the fields lie in sqlite3_vfs and sqlite3_io_methods, in bytes.
const VFS = { xOpen: 40, xDelete: 48, xSetSystemCall: 144, xGetSystemCall: 152 } as const;
const METHODS = { xWrite: 24, xTruncate: 32, xSync: 40 } as const;
const METHODS_BYTES = 152;

const xOpen = koffi.proto("int rel_open(void *vfs, void *name, void *file, int flags, void *out)");
const xDelete = koffi.proto("int rel_delete(void *vfs, void *name, int syncDirectory)");
const xWrite = koffi.proto("int rel_write(void *file, void *bytes, int length, int64_t offset)");
const xTruncate = koffi.proto("int rel_truncate(void *file, int64_t size)");
const xSync = koffi.proto("int rel_sync(void *file, int flags)");
const xSetSystemCall = koffi.proto("int rel_set(void *vfs, const char *name, void *call)");
const xGetSystemCall = koffi.proto("void *rel_get(void *vfs, const char *name)");
const cTransfer = koffi.proto("int64_t rel_transfer(int fd, void *bytes, size_t length, int64_t offset)");
const cOpen = koffi.proto("int rel_sys_open(void *path, int flags, int mode)");
const cTruncate = koffi.proto("int rel_sys_truncate(int fd, int64_t size)");
const cOpenDirectory = koffi.proto("int rel_open_directory(void *path, void *fd)");

/** The methods of an open file as they were. */
interface Original {
  readonly write: Pointer;
  readonly truncate: Pointer;
  readonly sync: Pointer;
}

interface OpenFile {
  readonly path: string;
  readonly original: Original;
}

/** By the address of its sqlite3_file. */
const files = new Map<Pointer, OpenFile>();
/** Tables of methods that were met, with those that took their place. */
const tables = new Map<Pointer, { readonly ours: Pointer; readonly original: Original }>();
/** Directories opened, which the VFS does only to sync them. */
let directories = 0;

const pointerAt = (at: Pointer, offset: number): Pointer => koffi.decode(at, offset, "void *") as Pointer;

function textAt(at: Pointer): string {
  const MOST = 4096;
  const bytes: number[] = [];
  for (let i = 0; i < MOST; i++) {
    const byte = koffi.decode(at, i, "uint8_t") as number;
    if (byte === 0) break;
    bytes.push(byte);
  }
  return Buffer.from(bytes).toString();
}

function copyOf(at: Pointer, length: number): Buffer {
  const bytes = Buffer.allocUnsafe(length);
  sqlite3().memcpy(bytes, at, length);
  return bytes;
}

function fileOf(pointer: Pointer): OpenFile {
  const file = files.get(pointer);
  if (file === undefined) throw new Error("a file that was not opened here");
  return file;
}

function pathOf(fd: number): string {
  return readlinkSync(`/proc/self/fd/${fd}`);
}

/** Whether `call` is to fail; then errno is set. */
function fails(call: Call, path: () => string): boolean {
  const errno = listener.fails?.(call, path()) ?? 0;
  if (errno !== 0) koffi.errno(errno);
  return errno !== 0;
}

/** Makes the methods of an open file ours. */
function adopt(file: Pointer, path: string): void {
  const methods = pointerAt(file, 0);
  let table = tables.get(methods);
  if (table === undefined) {
    const ours = koffi.alloc("uint8_t", METHODS_BYTES) as Pointer;
    for (const [i, byte] of copyOf(methods, METHODS_BYTES).entries()) koffi.encode(ours, i, "uint8_t", byte);
    for (const [name, hook] of Object.entries(methodHooks()))
      koffi.encode(ours, METHODS[name as keyof typeof METHODS], "void *", hook);
    table = {
      ours,
      original: {
        write: pointerAt(methods, METHODS.xWrite),
        truncate: pointerAt(methods, METHODS.xTruncate),
        sync: pointerAt(methods, METHODS.xSync),
      },
    };
    tables.set(methods, table);
  }
  files.set(file, { path, original: table.original });
  koffi.encode(file, 0, "void *", table.ours);
}

let hooks: Record<keyof typeof METHODS, Pointer> | undefined;

function methodHooks(): Record<keyof typeof METHODS, Pointer> {
  hooks ??= {
    xWrite: koffi.register((at: Pointer, bytes: Pointer, length: number, offset: number | bigint) => {
      const file = fileOf(at);
      const code = koffi.call(file.original.write, xWrite, at, bytes, length, offset) as number;
      if (code === SQLITE_OK) listener.wrote?.(file.path, Number(offset), copyOf(bytes, length));
      return code;
    }, koffi.pointer(xWrite)),
    xTruncate: koffi.register((at: Pointer, size: number | bigint) => {
      const file = fileOf(at);
      const code = koffi.call(file.original.truncate, xTruncate, at, size) as number;
      if (code === SQLITE_OK) listener.truncated?.(file.path, Number(size));
      return code;
    }, koffi.pointer(xTruncate)),
    xSync: koffi.register((at: Pointer, flags: number) => {
      const file = fileOf(at);
      if (listener.skipsSyncs === true) return SQLITE_OK;
      if (fails("fsync", () => file.path)) return SQLITE_IOERR_FSYNC;
      const before = directories;
      const code = koffi.call(file.original.sync, xSync, at, flags) as number;
      if (code === SQLITE_OK) listener.synced?.(file.path, directories > before);
      return code;
    }, koffi.pointer(xSync)),
  };
  return hooks;
}

let installed = false;

function install(): void {
  if (installed) return;
  installed = true;
  const engine = koffi.load(sqlite3().path);
  const vfs = engine.func("void *sqlite3_vfs_find(const char *)")("unix") as Pointer;
  // Here and not when a file is first opened: what is registered within a callback cannot be called.
  methodHooks();
  hookOpenAndDelete(vfs);
  hookSystemCalls(vfs);
}

function hookOpenAndDelete(vfs: Pointer): void {
  const open = pointerAt(vfs, VFS.xOpen);
  const remove = pointerAt(vfs, VFS.xDelete);
  const hook = (offset: number, made: Pointer) => koffi.encode(vfs, offset, "void *", made);
  hook(
    VFS.xOpen,
    koffi.register((_: Pointer, name: Pointer | null, at: Pointer, flags: number, out: Pointer | null) => {
      // The name passes as it lies: parameters of the URI stand behind it.
      const path = name === null ? "" : textAt(name);
      const isNew = path !== "" && !existsSync(path);
      const code = koffi.call(open, xOpen, vfs, name, at, flags, out) as number;
      if (code !== SQLITE_OK) return code;
      adopt(at, path);
      if (isNew) listener.made?.(path);
      return code;
    }, koffi.pointer(xOpen)),
  );
  hook(
    VFS.xDelete,
    koffi.register((_: Pointer, name: Pointer, syncDirectory: number) => {
      const before = directories;
      const code = koffi.call(remove, xDelete, vfs, name, syncDirectory) as number;
      if (code === SQLITE_OK) listener.removed?.(textAt(name), directories > before);
      return code;
    }, koffi.pointer(xDelete)),
  );
}

function hookSystemCalls(vfs: Pointer): void {
  const get = pointerAt(vfs, VFS.xGetSystemCall);
  const set = pointerAt(vfs, VFS.xSetSystemCall);
  const replace = (name: string, type: TypeObject, make: (real: Pointer) => (...args: never[]) => number) => {
    const real = koffi.call(get, xGetSystemCall, vfs, name) as Pointer | null;
    if (real === null) throw new Error(`SQLite has no system call ${name} to be replaced`);
    const ours = koffi.register(make(real), koffi.pointer(type));
    koffi.call(set, xSetSystemCall, vfs, name, ours);
  };
  const transfer = (call: "pwrite" | "pread") => (real: Pointer) =>
    ((fd: number, bytes: Pointer, length: number, offset: number) =>
      fails(call, () => pathOf(fd)) ? -1 : koffi.call(real, cTransfer, fd, bytes, length, offset)) as (
      ...args: never[]
    ) => number;
  replace("pwrite", cTransfer, transfer("pwrite"));
  replace("pread", cTransfer, transfer("pread"));
  replace(
    "open",
    cOpen,
    (real) => (path: Pointer, flags: number, mode: number) =>
      fails("open", () => textAt(path)) ? -1 : koffi.call(real, cOpen, path, flags, mode),
  );
  replace(
    "ftruncate",
    cTruncate,
    (real) => (fd: number, size: number) =>
      fails("ftruncate", () => pathOf(fd)) ? -1 : koffi.call(real, cTruncate, fd, size),
  );
  replace("openDirectory", cOpenDirectory, (real) => (path: Pointer, fd: Pointer) => {
    directories++;
    return koffi.call(real, cOpenDirectory, path, fd);
  });
}
