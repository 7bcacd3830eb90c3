/**
 * fdatasync(2) that does not wait: Linux's asynchronous I/O has a thread of the kernel do it.
 *
 * The C library has no names for its system calls. Where they are missing, or refused as in some sandboxes, there is no
 * `Background`, and the caller waits as ever.
 */
import { constants } from "node:os";
import type { KoffiFunc } from "koffi";
import koffi from "koffi";

/** Numbers of the system calls, of the architectures that Node is released for. */
const CALLS: Partial<Record<string, { setup: number; destroy: number; submit: number; getevents: number }>> =
  {
    x64: { setup: 206, destroy: 207, submit: 209, getevents: 208 },
    arm64: { setup: 0, destroy: 1, submit: 2, getevents: 4 },
  };
/** linux/aio_abi.h: IOCB_CMD_FDSYNC, and where struct iocb and struct io_event have what is used here. */
const FDSYNC = 3;
const IOCB = { bytes: 64, opcode: 16, fd: 20 };
const EVENT = { bytes: 32, result: 16 };

const lib = koffi.load(null);
const onContext = lib.func("syscall", "long", ["long", "long", "void *"]) as KoffiFunc<
  (call: number, count: number, context: BigUint64Array) => number
>;
const cDestroy = lib.func("syscall", "long", ["long", "uint64_t"]) as KoffiFunc<
  (call: number, context: bigint) => number
>;
const cSubmit = lib.func("syscall", "long", ["long", "uint64_t", "long", "void *"]) as KoffiFunc<
  (call: number, context: bigint, count: number, list: BigUint64Array) => number
>;
const cGetevents = lib.func("syscall", "long", [
  "long",
  "uint64_t",
  "long",
  "long",
  "void *",
  "void *",
]) as KoffiFunc<
  (
    call: number,
    context: bigint,
    least: number,
    most: number,
    events: Uint8Array,
    timeout: BigInt64Array | null,
  ) => number
>;

/** Syncs one file, one sync at a time. */
export class Background {
  readonly #calls: NonNullable<(typeof CALLS)[string]>;
  readonly #context: bigint;
  readonly #request: bigint;
  readonly #list: BigUint64Array;
  readonly #event = new Uint8Array(EVENT.bytes);
  #isBusy = false;

  private constructor(calls: NonNullable<(typeof CALLS)[string]>, context: bigint, fd: number) {
    this.#calls = calls;
    this.#context = context;
    this.#request = koffi.alloc("uint8_t", IOCB.bytes) as bigint;
    const request = new DataView(koffi.view(this.#request, IOCB.bytes));
    for (let at = 0; at < IOCB.bytes; at++) request.setUint8(at, 0);
    // In the machine's byte order, which is this one wherever the calls are known.
    request.setUint16(IOCB.opcode, FDSYNC, true);
    request.setUint32(IOCB.fd, fd, true);
    this.#list = new BigUint64Array([this.#request]);
  }

  /** For the file that `fd` is; undefined where the kernel does not offer it. */
  static of(fd: number): Background | undefined {
    const calls = process.platform === "linux" ? CALLS[process.arch] : undefined;
    if (calls === undefined) return undefined;
    const context = new BigUint64Array(1);
    if (onContext(calls.setup, 1, context) < 0) return undefined;
    return new Background(calls, context[0] as bigint, fd);
  }

  /** Begins to sync what was written so far; false where that cannot be. */
  begin(): boolean {
    this.#isBusy = cSubmit(this.#calls.submit, this.#context, 1, this.#list) === 1;
    return this.#isBusy;
  }

  /** Whether a sync was begun whose result was not fetched. */
  get isBusy(): boolean {
    return this.#isBusy;
  }

  /** The result of what was begun, 0 or a negated errno; undefined while it is not done, which `wait` waits for. */
  result(wait: boolean): number | undefined {
    const timeout = wait ? null : new BigInt64Array(2);
    let got: number;
    do {
      got = cGetevents(this.#calls.getevents, this.#context, wait ? 1 : 0, 1, this.#event, timeout);
    } while (got < 0 && koffi.errno() === constants.errno.EINTR);
    if (got === 0) return undefined;
    this.#isBusy = false;
    if (got < 0) return -koffi.errno();
    return Number(new DataView(this.#event.buffer).getBigInt64(EVENT.result, true));
  }

  /** Waits for what was begun. */
  close(): void {
    cDestroy(this.#calls.destroy, this.#context);
    koffi.free(this.#request);
  }
}
