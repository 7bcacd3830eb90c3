/**
 * Between fuse-native's callbacks and the operations: takes arguments apart, and wakes the waiting thread exactly once,
 * whatever happens. One table is all operations.
 */
import { DamageError, E, FsError } from "../base/errno.ts";
import type { TimeChange } from "../core/types.ts";
import { type SetTime, takeUtimens } from "../native/libfuse.ts";
import {
  loadBinding,
  modificationMs,
  type NativeHandler,
  OPERATION_NAMES,
  type OperationName,
  SLOTS,
} from "./binding.ts";
import type { Operations } from "./operations.ts";
import { bytesOf } from "./paths.ts";
import { NO_STAT, NO_STATFS } from "./stat.ts";

/** What a callback was called with, without the thread's locals and the number of the operation. */
class Call {
  readonly locals: Buffer;
  readonly #args: readonly unknown[];

  constructor(locals: Buffer, args: readonly unknown[]) {
    this.locals = locals;
    this.#args = args;
  }

  /** @throws FsError EILSEQ */
  path(at: number): string {
    const path = this.#args[at] as string;
    bytesOf(path);
    return path;
  }

  text(at: number): string {
    return this.#args[at] as string;
  }

  int(at: number): number {
    return this.#args[at] as number;
  }

  /** Two words, the low one first. */
  long(at: number): number {
    return this.int(at) + this.int(at + 1) * 2 ** 32;
  }

  signed(at: number): bigint {
    return BigInt.asIntN(64, (BigInt(this.int(at + 1)) << 32n) | BigInt(this.int(at)));
  }

  /** libfuse's own memory: ours until the thread is woken. */
  bytes(at: number): Buffer {
    return this.#args[at] as Buffer;
  }
}

/** The result and, where the operation has any, what goes with it. */
type Answer = readonly [result: number, ...given: readonly unknown[]];

interface Row {
  readonly run: (operations: Operations, call: Call) => Answer;
  /** What goes with a refusal. */
  readonly refused?: (call: Call) => readonly unknown[];
}

const DONE: Answer = [0];
/** macOS has a name of its own for "no such attribute". */
const NO_ATTRIBUTE = process.platform === "darwin" ? 93 : E.ENODATA;

const done = (run: (operations: Operations, call: Call) => void): Row => ({
  run: (operations, call) => {
    run(operations, call);
    return DONE;
  },
});
const memoryOf = (at: number) => (call: Call) => [call.bytes(at).buffer];
const noStat = () => [NO_STAT];

const TABLE: Readonly<Record<Exclude<OperationName, "init">, Row>> = {
  access: done((to, call) => to.access(call.path(0), call.int(1))),
  statfs: { run: (to) => [0, to.statfs()], refused: () => [NO_STATFS] },
  getattr: { run: (to, call) => [0, to.getattr(call.path(0))], refused: noStat },
  fgetattr: { run: (to, call) => [0, to.fgetattr(call.path(0), call.int(1))], refused: noStat },
  fsync: done((to, call) => to.fsync(call.path(0), call.int(2))),
  fsyncdir: done((to, call) => to.fsyncdir(call.path(0))),
  readdir: {
    run: (to, call) => {
      const { names, stats } = to.readdir(call.path(0));
      return [0, names, stats];
    },
    refused: () => [[], []],
  },
  truncate: done((to, call) => to.truncate(call.path(0), call.long(1))),
  ftruncate: done((to, call) => to.ftruncate(call.path(0), call.int(1), call.long(2))),
  utimens: done((to, call) => {
    const atimeMs = call.signed(1);
    const mtimeMs = modificationMs(call.locals, atimeMs);
    if (mtimeMs === undefined) throw new FsError("EOPNOTSUPP");
    to.utimens(call.path(0), timeOf(atimeMs), timeOf(mtimeMs));
  }),
  readlink: { run: (to, call) => [0, to.readlink(call.path(0))], refused: () => [""] },
  chown: done((to, call) => to.chown(call.path(0), call.int(1), call.int(2))),
  chmod: done((to, call) => to.chmod(call.path(0), call.int(1))),
  mknod: done((to, call) => to.mknod(call.path(0), call.int(1), call.int(2))),
  setxattr: {
    run: (to, call) => {
      to.setxattr(call.path(0), call.text(1), call.bytes(2), call.int(3), call.int(4));
      return [0, call.bytes(2).buffer];
    },
    refused: memoryOf(2),
  },
  getxattr: {
    run: (to, call) => {
      const length = to.getxattr(call.path(0), call.text(1), call.bytes(2));
      return [length ?? -NO_ATTRIBUTE, call.bytes(2).buffer];
    },
    refused: memoryOf(2),
  },
  listxattr: {
    run: (to, call) => [to.listxattr(call.path(0), call.bytes(1)), call.bytes(1).buffer],
    refused: memoryOf(1),
  },
  removexattr: done((to, call) => to.removexattr(call.path(0), call.text(1))),
  open: { run: (to, call) => [0, to.open(call.path(0))], refused: () => [0] },
  read: {
    run: (to, call) => [
      to.read(call.int(1), call.bytes(2), call.int(3), call.long(4)),
      0,
      call.bytes(2).buffer,
    ],
    refused: (call) => [0, call.bytes(2).buffer],
  },
  write: {
    run: (to, call) => [
      to.write(call.int(1), call.bytes(2), call.int(3), call.long(4)),
      0,
      call.bytes(2).buffer,
    ],
    refused: (call) => [0, call.bytes(2).buffer],
  },
  release: done((to, call) => to.release(call.int(1))),
  create: { run: (to, call) => [0, to.create(call.path(0), call.int(1))], refused: () => [0] },
  unlink: done((to, call) => to.unlink(call.path(0))),
  rename: done((to, call) => to.rename(call.path(0), call.path(1))),
  link: done((to, call) => to.link(call.path(0), call.path(1))),
  symlink: done((to, call) => to.symlink(call.text(0), call.path(1))),
  mkdir: done((to, call) => to.mkdir(call.path(0), call.int(1))),
  rmdir: done((to, call) => to.rmdir(call.path(0))),
};

export interface BridgeEvents {
  /** The kernel and libfuse are at one: the mount answers. */
  readonly onReady: () => void;
  /** An operation was answered: a result as the table gives it. */
  readonly onAnswered: (name: OperationName, result: number) => void;
  /** What nobody foresaw, or damage: answered with EIO. */
  readonly onFault: (name: OperationName, error: unknown) => void;
  readonly onTrace?: ((line: string) => void) | undefined;
}

/** Whose operations are served. Undefined: nobody's any more, and all is refused. */
export interface Server {
  readonly operations: Operations | undefined;
}

/** libfuse's threads point into it, and outlive the mount. */
const FOREVER: unknown[] = [];

export interface NativePlace {
  readonly mountpoint: string;
  /** What libfuse is told. */
  readonly options: string;
  /** What it is told in them of names. */
  readonly entryTimeoutSec: number;
}

/**
 * Mounts, and has libfuse's threads call the operations of `server` from now on. False: libfuse will drop changes of one
 * time alone, and say that they were made.
 * @throws BindingError; Error where libfuse cannot mount, which it has told on stderr
 */
export function mountNative(place: NativePlace, server: Server, events: BridgeEvents): boolean {
  const native = loadBinding();
  const handlers: (NativeHandler | undefined)[] = new Array(SLOTS).fill(() => {});
  const implemented = new Uint32Array(SLOTS);
  for (const name of OPERATION_NAMES) {
    const signal = native[`fuse_native_signal_${name}`];
    const slot = native[`op_${name}`];
    implemented[slot] = 1;
    handlers[slot] = (locals, _op, ...args) => {
      const answer = name === "init" ? ready(events) : answerTo(name, new Call(locals, args), server, events);
      signal(locals, ...answer);
      events.onAnswered(name, answer[0]);
    };
  }
  const thread = Buffer.alloc(native.sizeof_fuse_thread_t);
  const locals: Buffer[] = [];
  const allocate = (bytes: number): Buffer => {
    const buffer = Buffer.alloc(bytes);
    locals.push(buffer);
    return buffer;
  };
  native.fuse_native_mount(place.mountpoint, place.options, thread, server, allocate, handlers, implemented);
  FOREVER.push(thread, locals, handlers);
  return takeUtimens(thread, place.mountpoint, place.entryTimeoutSec, (path, atime, mtime) => {
    const run = (operations: Operations): Answer => {
      bytesOf(path);
      operations.utimens(path, changeOf(atime), changeOf(mtime));
      return DONE;
    };
    const [result] = attempt("utimens", path, { run, refused: () => [] }, server, events);
    events.onAnswered("utimens", result);
    return result;
  });
}

function changeOf(time: SetTime): TimeChange | undefined {
  return time === "omit" ? undefined : time;
}

function timeOf(ms: bigint): TimeChange {
  const rest = ((ms % 1000n) + 1000n) % 1000n;
  return { sec: Number((ms - rest) / 1000n), nsec: Number(rest) * 1_000_000 };
}

function ready(events: BridgeEvents): Answer {
  events.onReady();
  return DONE;
}

function answerTo(
  name: Exclude<OperationName, "init">,
  call: Call,
  server: Server,
  events: BridgeEvents,
): Answer {
  const row = TABLE[name];
  const work = {
    run: (operations: Operations) => row.run(operations, call),
    refused: () => row.refused?.(call) ?? [],
  };
  return attempt(name, call.text(0), work, server, events);
}

function attempt(
  name: OperationName,
  path: string,
  work: { readonly run: (operations: Operations) => Answer; readonly refused: () => readonly unknown[] },
  { operations }: Server,
  events: BridgeEvents,
): Answer {
  let answer: Answer;
  try {
    answer = operations === undefined ? [-E.ENODEV, ...work.refused()] : work.run(operations);
  } catch (error) {
    if (!(error instanceof FsError)) events.onFault(name, error);
    answer = [-errnoOf(error), ...work.refused()];
  }
  events.onTrace?.(`${name} ${JSON.stringify(path)}: ${answer[0]}`);
  return answer;
}

/** What nobody foresaw is EIO, and never ENOSYS, which the kernel would remember. */
function errnoOf(error: unknown): number {
  return error instanceof FsError ? error.errno : E.EIO;
}

/** Where the damage is, as far as it is known. */
export function describeFault(error: unknown): string {
  if (error instanceof DamageError) return error.message;
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}
