/**
 * The C library, called synchronously: the only file that knows its names and layouts.
 *
 * Every call gives what the system call gave, or a negated errno: nothing here throws on
 * a refusal, because the hot callers (a FUSE device that has nothing to read) meet one
 * dozens of times a request and an exception costs more than the call.
 */
import { constants } from "node:os";
import type { KoffiFunc } from "koffi";
import koffi from "koffi";

/** open(2) flags, as Linux has them on every architecture that Node runs on. */
export const O_RDONLY = 0;
export const O_RDWR = 2;
export const O_NONBLOCK = 0o4000;
const O_CLOEXEC = 0o2000000;

/** flock(2) operations. */
export const LOCK_SH = 1;
export const LOCK_EX = 2;
export const LOCK_NB = 4;

/** mount(2) flags. */
export const MS_RDONLY = 1;
export const MS_NOSUID = 2;
export const MS_NODEV = 4;
export const MS_NOEXEC = 8;
export const MS_NOATIME = 1024;

/** umount2(2) flags. */
export const MNT_DETACH = 2;
export const UMOUNT_NOFOLLOW = 8;

/** poll(2) events. */
const POLLIN = 0x001;

const PR_SET_DUMPABLE = 4;
const RLIMIT_CORE = 4;
const EFD_NONBLOCK = 0o4000;
const EFD_CLOEXEC = 0o2000000;
const AF_UNIX = 1;
const SOCK_STREAM = 1;
const SOCK_DGRAM = 2;
const SOCK_CLOEXEC = 0o2000000;
const SOL_SOCKET = 1;
const SCM_RIGHTS = 1;
const MSG_CMSG_CLOEXEC = 0x40000000;
const F_GETFL = 3;
const F_SETFL = 4;

// The process itself has the C library loaded: no guess at its file name.
const lib = koffi.load(null);

const IoVec = koffi.struct({ base: "void *", length: "size_t" });
const MsgHdr = koffi.struct({
  name: "void *",
  nameLength: "uint32_t",
  iov: koffi.pointer(IoVec),
  iovLength: "size_t",
  control: "void *",
  controlLength: "size_t",
  flags: "int",
});
const CmsgHdr = koffi.struct({ length: "size_t", level: "int", type: "int" });

const cOpen = lib.func("open", "int", ["str", "int"]) as KoffiFunc<(path: string, flags: number) => number>;
const cClose = lib.func("close", "int", ["int"]) as KoffiFunc<(fd: number) => number>;
const cRead = lib.func("read", "long", ["int", "void *", "size_t"]) as KoffiFunc<
  (fd: number, buffer: Uint8Array, length: number) => number
>;
const cWrite = lib.func("write", "long", ["int", "void *", "size_t"]) as KoffiFunc<
  (fd: number, buffer: Uint8Array, length: number) => number
>;
const cPoll = lib.func("poll", "int", ["void *", "ulong", "int"]) as KoffiFunc<
  (fds: Int32Array, count: number, timeoutMs: number) => number
>;
const cMount = lib.func("mount", "int", ["str", "str", "str", "ulong", "str"]) as KoffiFunc<
  (source: string, target: string, type: string, flags: number, data: string) => number
>;
const cUmount2 = lib.func("umount2", "int", ["str", "int"]) as KoffiFunc<
  (target: string, flags: number) => number
>;
const cSocketpair = lib.func("socketpair", "int", ["int", "int", "int", "void *"]) as KoffiFunc<
  (domain: number, type: number, protocol: number, pair: Int32Array) => number
>;
const cSocket = lib.func("socket", "int", ["int", "int", "int"]) as KoffiFunc<
  (domain: number, type: number, protocol: number) => number
>;
const cSendto = lib.func("sendto", "long", [
  "int",
  "void *",
  "size_t",
  "int",
  "void *",
  "uint32_t",
]) as KoffiFunc<
  (
    fd: number,
    data: Uint8Array,
    length: number,
    flags: number,
    address: Uint8Array,
    addressLength: number,
  ) => number
>;
const cRecvmsg = lib.func("recvmsg", "long", ["int", koffi.inout(koffi.pointer(MsgHdr)), "int"]) as KoffiFunc<
  (fd: number, message: object, flags: number) => number
>;
const cEventfd = lib.func("eventfd", "int", ["uint", "int"]) as KoffiFunc<
  (start: number, flags: number) => number
>;
const cFlock = lib.func("flock", "int", ["int", "int"]) as KoffiFunc<
  (fd: number, operation: number) => number
>;
const cSetrlimit = lib.func("setrlimit", "int", ["int", "void *"]) as KoffiFunc<
  (resource: number, softAndHard: BigUint64Array) => number
>;
const cPrctl = lib.func("prctl", "int", ["int", "ulong", "ulong", "ulong", "ulong"]) as KoffiFunc<
  (option: number, a: number, b: number, c: number, d: number) => number
>;
const cFcntl = lib.func("fcntl", "int", ["int", "int", "long"]) as KoffiFunc<
  (fd: number, command: number, argument: number) => number
>;
const cListxattr = lib.func("listxattr", "long", ["str", "void *", "size_t"]) as KoffiFunc<
  (path: string, list: Uint8Array, size: number) => number
>;
const cGetxattr = lib.func("getxattr", "long", ["str", "str", "void *", "size_t"]) as KoffiFunc<
  (path: string, name: string, value: Uint8Array, size: number) => number
>;
const cSetxattr = lib.func("setxattr", "int", ["str", "str", "void *", "size_t", "int"]) as KoffiFunc<
  (path: string, name: string, value: Uint8Array, size: number, flags: number) => number
>;
const cRemovexattr = lib.func("removexattr", "int", ["str", "str"]) as KoffiFunc<
  (path: string, name: string) => number
>;
const cExit = lib.func("_exit", "void", ["int"]) as KoffiFunc<(code: number) => void>;
const cGetpagesize = lib.func("getpagesize", "int", []) as KoffiFunc<() => number>;

/** The result of a call whose failure is -1, as bytes or descriptors, or a negated errno. */
function result(value: number): number {
  return value < 0 ? -koffi.errno() : value;
}

/** open(2) of an existing file; close-on-exec. Gives a descriptor. */
export function open(path: string, flags: number): number {
  return result(cOpen(path, flags | O_CLOEXEC));
}

export function close(fd: number): number {
  return result(cClose(fd));
}

/** Makes reads of a descriptor that somebody else opened fail with EAGAIN instead of waiting. */
export function setNonBlocking(fd: number): number {
  const flags = result(cFcntl(fd, F_GETFL, 0));
  return flags < 0 ? flags : result(cFcntl(fd, F_SETFL, flags | O_NONBLOCK));
}

/** read(2) into the start of `buffer`; `length` must not pass its end. */
export function read(fd: number, buffer: Uint8Array, length: number): number {
  const n = cRead(fd, buffer, length);
  return n < 0 ? -koffi.errno() : n;
}

/** write(2) of the first `length` bytes of `buffer`. */
export function write(fd: number, buffer: Uint8Array, length: number): number {
  const n = cWrite(fd, buffer, length);
  return n < 0 ? -koffi.errno() : n;
}

/** write(2) on a thread of its own, for a call that may wait for another thread of this process. */
export function writeAsync(fd: number, buffer: Uint8Array): Promise<number> {
  return new Promise((resolve) => {
    // errno belongs to the thread that made the call and is lost here: a failure is EIO.
    cWrite.async(fd, buffer, buffer.length, (error: unknown, n: number) =>
      resolve(error === null && n >= 0 ? n : -constants.errno.EIO),
    );
  });
}

/** The descriptors that `poll` watches for reading: a pollfd array that is made once and used for ever. */
export class PollSet {
  /** struct pollfd: a descriptor, then two 16-bit words, events and revents, in the machine's byte order. */
  readonly #entries: Int32Array;
  readonly #events: Int16Array;

  constructor(...fds: readonly number[]) {
    this.#entries = new Int32Array(2 * fds.length);
    this.#events = new Int16Array(this.#entries.buffer);
    fds.forEach((fd, index) => {
      this.#entries[2 * index] = fd;
      this.#events[4 * index + 2] = POLLIN;
    });
  }

  /** Sleeps until one is readable or broken, or `timeoutMs` have passed (-1: no limit). Gives how many are. */
  wait(timeoutMs: number): number {
    return result(cPoll(this.#entries, this.#entries.length / 2, timeoutMs));
  }

  /** Whether the last wait found something about the descriptor at `index`, errors included. */
  ready(index: number): boolean {
    return this.#events[4 * index + 3] !== 0;
  }
}

export function mount(source: string, target: string, type: string, flags: number, data: string): number {
  return result(cMount(source, target, type, flags, data));
}

export function umount2(target: string, flags: number): number {
  return result(cUmount2(target, flags));
}

/** A connected pair of unix stream sockets, close-on-exec, or a negated errno. */
export function socketpair(): readonly [number, number] | number {
  const pair = new Int32Array(2);
  const done = result(cSocketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
  return done < 0 ? done : [pair[0] as number, pair[1] as number];
}

/** Receives one descriptor sent over a unix socket (SCM_RIGHTS); -EPROTO when the message carries none. */
export function receiveFd(socket: number): number {
  const data = Buffer.alloc(16);
  const headerSize = koffi.sizeof(CmsgHdr);
  const control = Buffer.alloc(headerSize + 8);
  const message = {
    name: null,
    nameLength: 0,
    iov: [{ base: data, length: data.length }],
    iovLength: 1,
    control,
    controlLength: control.length,
    flags: 0,
  };
  const received = result(cRecvmsg(socket, message, MSG_CMSG_CLOEXEC));
  if (received < 0) return received;
  const header = koffi.decode(control, CmsgHdr) as { length: number; level: number; type: number };
  const carries =
    header.length >= headerSize + 4 && header.level === SOL_SOCKET && header.type === SCM_RIGHTS;
  if (!carries) return -constants.errno.EPROTO;
  return koffi.decode(control, headerSize, "int") as number;
}

/**
 * Sends one datagram to the unix socket at `path`, or, where that begins with "@", to the abstract one of that name.
 * Gives the bytes sent.
 */
export function sendDatagram(path: string, data: Uint8Array): number {
  const family = Buffer.from(new Uint16Array([AF_UNIX]).buffer);
  const address = Buffer.concat([family, Buffer.from(path.replace(/^@/, "\0"))]);
  const fd = result(cSocket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (fd < 0) return fd;
  const sent = result(cSendto(fd, data, data.length, 0, address, address.length));
  close(fd);
  return sent;
}

/** A counter that poll(2) sees: non-blocking, close-on-exec. */
export function eventfd(): number {
  return result(cEventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
}

/** flock(2) with LOCK_* above: 0 or a negated errno (-EWOULDBLOCK where LOCK_NB and somebody holds it). */
export function flock(fd: number, operation: number): number {
  return result(cFlock(fd, operation));
}

/** listxattr(2): bytes put into `list`, names that each end in NUL. */
export function listxattr(path: string, list: Uint8Array): number {
  return result(cListxattr(path, list, list.length));
}

/** getxattr(2): bytes put into `value`. */
export function getxattr(path: string, name: string, value: Uint8Array): number {
  return result(cGetxattr(path, name, value, value.length));
}

export function setxattr(path: string, name: string, value: Uint8Array): number {
  return result(cSetxattr(path, name, value, value.length, 0));
}

export function removexattr(path: string, name: string): number {
  return result(cRemovexattr(path, name));
}

/** Bytes in a page of memory. */
export function pageSize(): number {
  return cGetpagesize();
}

/** No core files of this process and those that it starts. */
export function forbidCores(): number {
  return result(cSetrlimit(RLIMIT_CORE, new BigUint64Array(2)));
}

/** No core dump of this process and no ptrace by its own user: the key is in its memory. */
export function forbidDump(): number {
  return result(cPrctl(PR_SET_DUMPABLE, 0, 0, 0, 0));
}

/** Ends the process without waiting for any of its threads, which may hang in the kernel: nothing may be left to be done. */
export function exitNow(code: number): void {
  cExit(code);
}
