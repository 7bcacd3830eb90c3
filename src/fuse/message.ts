/**
 * One request and one reply in their buffers: fields are read and written in place, and nothing is read
 * that the kernel did not send. A message that is too short for what it says is refused with EINVAL.
 *
 * The buffers are used again for the next request: a name or the data of a WRITE is a view that is valid
 * until the handler returns.
 */
import { endianness } from "node:os";
import { FsError } from "../base/errno.ts";
import { type Ino, NAME_MAX } from "../core/types.ts";
import { InHeader, OutHeader } from "./kernel.ts";

/** Which of the two 32-bit words of a 64-bit field is the low one: the kernel speaks the machine's byte order. */
const LOW = endianness() === "LE" ? 0 : 1;
const HIGH = 1 - LOW;
const TWO_32 = 0x1_0000_0000;

const BODY = InHeader.size;
const REPLY_BODY = OutHeader.size;
const NUL = 0;
const SLASH = 0x2f;

function malformed(what: string): FsError {
  return new FsError("EINVAL", what);
}

/** Offsets in this class count from the end of the InHeader. */
export class Request {
  /** What the device reads into. */
  readonly bytes: Uint8Array;
  readonly #words: Uint32Array;
  /** Bytes behind the header. */
  #length = 0;

  constructor(capacity: number) {
    this.bytes = new Uint8Array(capacity);
    this.#words = new Uint32Array(this.bytes.buffer);
  }

  /** Takes the first `received` bytes as one message. False when they do not even hold its header. */
  take(received: number): boolean {
    this.#length = received - BODY;
    return this.#length >= 0;
  }

  /** Bytes behind the header. */
  get length(): number {
    return this.#length;
  }

  /** Length of the whole message as the kernel states it. */
  get len(): number {
    return this.#words[InHeader.at.len >>> 2] as number;
  }

  get opcode(): number {
    return this.#words[InHeader.at.opcode >>> 2] as number;
  }

  /** The two words of `unique`, in the order in which they lie in memory. */
  get unique0(): number {
    return this.#words[InHeader.at.unique >>> 2] as number;
  }

  get unique1(): number {
    return this.#words[(InHeader.at.unique >>> 2) + 1] as number;
  }

  /** For people: a counter that the kernel steps by two, so the number is exact for centuries. */
  get unique(): number {
    return this.u64(InHeader.at.unique - BODY);
  }

  /** The inode that the request is about. @throws FsError ESTALE */
  get nodeid(): Ino {
    return this.ino(InHeader.at.nodeid - BODY);
  }

  get uid(): number {
    return this.#words[InHeader.at.uid >>> 2] as number;
  }

  get gid(): number {
    return this.#words[InHeader.at.gid >>> 2] as number;
  }

  get pid(): number {
    return this.#words[InHeader.at.pid >>> 2] as number;
  }

  u32(at: number): number {
    if (at + 4 > this.#length) throw malformed("message too short");
    return this.#words[(BODY + at) >>> 2] as number;
  }

  /**
   * Exact up to 2^53. A larger number comes out rounded and still larger than any file: the core refuses it
   * (EFBIG), so no caller need tell the two apart.
   */
  u64(at: number): number {
    if (at + 8 > this.#length) throw malformed("message too short");
    const index = (BODY + at) >>> 2;
    return (this.#words[index + HIGH] as number) * TWO_32 + (this.#words[index + LOW] as number);
  }

  /** An inode number. ESTALE where no inode can have it. */
  ino(at: number): Ino {
    const value = this.u64(at);
    if (value > Number.MAX_SAFE_INTEGER) throw new FsError("ESTALE");
    return value as Ino;
  }

  i64(at: number): number {
    if (at + 8 > this.#length) throw malformed("message too short");
    const index = (BODY + at) >>> 2;
    return ((this.#words[index + HIGH] as number) | 0) * TWO_32 + (this.#words[index + LOW] as number);
  }

  /** The bytes up to the next NUL, which must come within the message. */
  text(at: number): Uint8Array {
    const end = this.bytes.indexOf(NUL, BODY + at);
    if (end < 0 || end >= BODY + this.#length) throw malformed("text without an end");
    return this.bytes.subarray(BODY + at, end);
  }

  /** A name of a directory entry: as `text`, and no path. ENAMETOOLONG past NAME_MAX, which newer kernels leave to us. */
  name(at: number): Uint8Array {
    const name = this.text(at);
    if (name.length > NAME_MAX) throw new FsError("ENAMETOOLONG");
    if (name.length === 0 || name.includes(SLASH)) throw malformed("not a name");
    return name;
  }

  /** Exactly `length` bytes. */
  data(at: number, length: number): Uint8Array {
    if (at + length > this.#length) throw malformed("message too short");
    return this.bytes.subarray(BODY + at, BODY + at + length);
  }
}

/** Offsets in this class count from the end of the OutHeader. */
export class Reply {
  readonly bytes: Uint8Array;
  /** Everything behind the header, for READ to fill in place. */
  readonly body: Uint8Array;
  readonly #words: Uint32Array;
  readonly #halves: Uint16Array;

  constructor(capacity: number) {
    this.bytes = new Uint8Array(capacity);
    this.body = this.bytes.subarray(REPLY_BODY);
    this.#words = new Uint32Array(this.bytes.buffer);
    this.#halves = new Uint16Array(this.bytes.buffer);
  }

  /** Writes the header of an answer to `request`: `bodyLength` bytes follow it, or `error` (negative) stands alone. */
  finish(request: Request, error: number, bodyLength: number): number {
    return this.finishAs(request.unique0, request.unique1, error, bodyLength);
  }

  /** As `finish`, for a request that is known by the two words of its `unique`. */
  finishAs(unique0: number, unique1: number, error: number, bodyLength: number): number {
    const length = REPLY_BODY + bodyLength;
    this.#words[0] = length;
    this.#words[1] = error;
    this.#words[2] = unique0;
    this.#words[3] = unique1;
    return length;
  }

  /** Makes the buffer a message of its own, which answers nothing. */
  notification(code: number, bodyLength: number = this.body.length): Uint8Array {
    this.#words[0] = REPLY_BODY + bodyLength;
    this.#words[1] = code;
    return this.bytes.subarray(0, REPLY_BODY + bodyLength);
  }

  u16(at: number, value: number): void {
    this.#halves[(REPLY_BODY + at) >>> 1] = value;
  }

  u32(at: number, value: number): void {
    this.#words[(REPLY_BODY + at) >>> 2] = value;
  }

  /** Any safe integer; a negative one comes out in two's complement. */
  u64(at: number, value: number): void {
    const index = (REPLY_BODY + at) >>> 2;
    this.#words[index + HIGH] = Math.floor(value / TWO_32);
    this.#words[index + LOW] = value;
  }

  /** Zeros, for the fields that a handler leaves alone: the buffer still holds an earlier reply. */
  zero(at: number, length: number): void {
    this.body.fill(0, at, at + length);
  }
}
