/**
 * The native part of the npm package fuse-native 2.2.6, an optional dependency: libfuse 2's path-based API, with a
 * callback per operation. Its JavaScript part is not used: it cannot tell a link count of 0, asks for attributes
 * by path where a descriptor was given, and gives up on an operation after 15 seconds.
 *
 * libfuse runs threads of its own. Each hands its operation to the main thread of Node (never to a worker) and sleeps
 * until the operation's signal function is called, exactly once.
 */
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { loadLibrary } from "../native/libfuse.ts";

const PACKAGE = "fuse-native";
/** Linux's; macOS has macFUSE's own or none. */
const OWN_LIBRARY = "libfuse.so";

/** As fuse-native numbers and names them. Those that it has and we leave out answer ENOSYS by libfuse. */
export const OPERATION_NAMES = [
  "init",
  "access",
  "statfs",
  "getattr",
  "fgetattr",
  "fsync",
  "fsyncdir",
  "readdir",
  "truncate",
  "ftruncate",
  "utimens",
  "readlink",
  "chown",
  "chmod",
  "mknod",
  "setxattr",
  "getxattr",
  "listxattr",
  "removexattr",
  "open",
  "read",
  "write",
  "release",
  "create",
  "unlink",
  "rename",
  "link",
  "symlink",
  "mkdir",
  "rmdir",
] as const;
export type OperationName = (typeof OPERATION_NAMES)[number];

/** Slots in its table of operations. */
export const SLOTS = 35;

/** Wakes the thread that waits: its locals, the result (a count or a negated errno), what the operation gives. */
type Signal = (locals: Buffer, result: number, ...given: readonly unknown[]) => void;
export type NativeHandler = (locals: Buffer, op: number, ...args: readonly unknown[]) => void;

type Native = Readonly<Record<`op_${OperationName}`, number>> &
  Readonly<Record<`fuse_native_signal_${OperationName}`, Signal>> & {
    readonly sizeof_fuse_thread_t: number;
    fuse_native_mount(
      mountpoint: string,
      options: string,
      thread: Buffer,
      context: object,
      allocate: (bytes: number) => Buffer,
      handlers: readonly (NativeHandler | undefined)[],
      implemented: Uint32Array,
    ): void;
  };

/** fuse-native or what it needs is not there. The message is the whole line for the user. */
export class BindingError extends Error {
  /** As HostError's: FUSE is not available here. */
  readonly reason = "no-fuse";
  override readonly name = "BindingError";
}

let loaded: Native | undefined;

/** Loads it. @throws BindingError, with what to install */
export function loadBinding(): Native {
  loaded ??= load();
  return loaded;
}

function load(): Native {
  const require = createRequire(import.meta.url);
  let directory: string;
  try {
    directory = dirname(require.resolve(`${PACKAGE}/package.json`));
  } catch (cause) {
    const how = `install it beside sqlfuse with: npm install ${PACKAGE}@2.2.6`;
    throw new BindingError(`the npm package ${PACKAGE} is missing; ${how}`, { cause });
  }
  try {
    return find(directory);
  } catch (first) {
    const cause = withOwnLibrary(directory, first);
    if (!(cause instanceof Error)) return cause;
    const text = cause.message.replace(/\s*\n\s*/g, "; ");
    throw new BindingError(`${PACKAGE} cannot be loaded (${text}); ${adviceFor(process.platform)}`, {
      cause,
    });
  }
}

function find(directory: string): Native {
  const build = createRequire(join(directory, "index.js"))("node-gyp-build") as (place: string) => Native;
  return build(directory);
}

/** Where the system has no libfuse 2, the one that the package brings will do; where that is no help, `first`. */
function withOwnLibrary(directory: string, first: unknown): Native | Error {
  try {
    loadLibrary(join(directory, "prebuilds", `${process.platform}-${process.arch}`, OWN_LIBRARY));
    return find(directory);
  } catch {
    return first instanceof Error ? first : new Error(String(first));
  }
}

function adviceFor(platform: NodeJS.Platform): string {
  if (platform === "darwin")
    return "it needs macFUSE, from https://macfuse.github.io, and a Node built for x64";
  return "it needs libfuse 2: apt-get install libfuse2 (fuse-libs on Fedora, fuse2 on Arch); or leave --transport out";
}

/** Where fuse-native keeps the modification time of utimens in a thread's locals, and the access time before it. */
const ATIME_AT = process.platform === "darwin" ? 96 : 104;

/**
 * The modification time of a utimens, in milliseconds since 1970. fuse-native passes the access time twice; the
 * other stands in memory behind it. Undefined where it does not: then nothing is known.
 */
export function modificationMs(locals: Buffer, atimeMs: bigint): bigint | undefined {
  if (locals.length < ATIME_AT + 16 || locals.readBigInt64LE(ATIME_AT) !== atimeMs) return undefined;
  return locals.readBigInt64LE(ATIME_AT + 8);
}
