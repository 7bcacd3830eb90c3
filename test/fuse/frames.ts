/** What the tests of the protocol share: bytes written out with their meaning, a scripted device, a volume that takes notes. */
import { E } from "../../src/base/errno.ts";
import type { Attr, Ino } from "../../src/core/types.ts";
import type { Device } from "../../src/fuse/device.ts";
import type { ServedVolume } from "../../src/fuse/server.ts";
import { Session, type SessionOptions } from "../../src/fuse/session.ts";

/** Bytes as hexadecimal digits; whatever stands behind a `|` explains them. */
export function bytes(text: string): Buffer {
  const digits = text
    .split("\n")
    .map((line) => line.replace(/\|.*$/, ""))
    .join("")
    .replace(/\s/g, "");
  return Buffer.from(digits, "hex");
}

/** Bytes back to text, 16 to a line, so that a difference shows where it is. */
export function dump(data: Uint8Array): string {
  const lines: string[] = [];
  for (let at = 0; at < data.length; at += 16)
    lines.push(
      `${at}: ${Buffer.from(data.subarray(at, at + 16))
        .toString("hex")
        .replace(/(..)/g, "$1 ")
        .trim()}`,
    );
  return lines.join("\n");
}

export const UNIQUE = 0x1122334455667788n;
export const NODEID = 0x0102030405;
export const UID = 0xa1a2a3a4;
export const GID = 0xb1b2b3b4;

/** A request as the kernel frames it, around the given body. */
export function frame(opcode: number, body: Uint8Array = Buffer.alloc(0), nodeid: number = NODEID): Buffer {
  const header = bytes(`
    00000000            | len, set below
    00000000            | opcode, set below
    8877665544332211    | unique
    0000000000000000    | nodeid, set below
    a4a3a2a1            | uid
    b4b3b2b1            | gid
    c4c3c2c1            | pid
    0000                | total_extlen
    0000                | padding
  `);
  header.writeUInt32LE(header.length + body.length, 0);
  header.writeUInt32LE(opcode, 4);
  header.writeBigUInt64LE(BigInt(nodeid), 16);
  return Buffer.concat([header, body]);
}

/** A reply as the kernel wants it, around the given body. */
export function answer(body: Uint8Array, error = 0): Buffer {
  const header = bytes(`
    00000000            | len, set below
    00000000            | error, set below
    8877665544332211    | unique
  `);
  header.writeUInt32LE(header.length + body.length, 0);
  header.writeInt32LE(error, 4);
  return Buffer.concat([header, body]);
}

/** INIT of a kernel that offers everything up to 7.45. */
export const INIT = frame(
  26,
  bytes(`
    07000000            | major
    2d000000            | minor 45
    00000200            | max_readahead 128 KiB
    ffffff7f            | flags: all
    ff070000            | flags2: all
    ${"00".repeat(44)}  | unused
  `),
  0,
);

/** What each field is can be told from its value. */
export const STAT: Attr = {
  ino: 0x0605040302 as Ino,
  mode: 0o100640,
  nlink: 0x11,
  uid: 0x21222324,
  gid: 0x31323334,
  rdev: 0x0fe12345,
  size: 0x1f_ffff_ffff_fff1,
  blockSize: 0x10000,
  blocks: 0x0807060504,
  atimeSec: 0x65000001,
  atimeNsec: 0x01020304,
  mtimeSec: -2,
  mtimeNsec: 0x05060708,
  ctimeSec: 0x0165000003,
  ctimeNsec: 0x090a0b0c,
  btimeSec: 0x65000004,
  btimeNsec: 0x0d0e0f10,
  generation: 0xdeadbeef,
};

/** STAT as a struct fuse_attr. */
export const ATTR = `
  0203040506000000    | ino
  f1ffffffffff1f00    | size
  0405060708000000    | blocks
  0100006500000000    | atime
  feffffffffffffff    | mtime, before 1970
  0300006501000000    | ctime, after 2106
  04030201            | atimensec
  08070605            | mtimensec
  0c0b0a09            | ctimensec
  a0810000            | mode
  11000000            | nlink
  24232221            | uid
  34333231            | gid
  4523e10f            | rdev
  00000100            | blksize
  00000000            | flags
`;

/** The timeout under which TIMEOUT_SEC goes out. */
const TIMEOUT_SEC = 0x77665544;
export const TIMEOUT = "4455667700000000";

/** STAT as a struct fuse_entry_out. */
export const ENTRY = `
  0203040506000000    | nodeid
  efbeadde00000000    | generation
  ${TIMEOUT}          | entry_valid
  ${TIMEOUT}          | attr_valid
  00000000            | entry_valid_nsec
  00000000            | attr_valid_nsec
  ${ATTR}
`;

export type Call = readonly [method: string, ...args: unknown[]];

/**
 * A volume that answers each method with what `answers` says for it (a function is called) and notes the calls.
 * Bytes are noted as text, since the buffers that they lie in are used again.
 */
export function noting(answers: Readonly<Record<string, unknown>> = {}): {
  volume: ServedVolume;
  calls: Call[];
} {
  const calls: Call[] = [];
  const note = (value: unknown): unknown => {
    if (value instanceof Uint8Array) return Buffer.from(value).toString("latin1");
    return typeof value === "function" ? "visit" : value;
  };
  const room = (name: string): unknown =>
    new Proxy(
      {},
      {
        get: (_, method: string) => {
          const key = name === "" ? method : `${name}.${method}`;
          const known = answers[key];
          if (key === "inodes.references") return known ?? 0;
          return (...args: unknown[]) => {
            calls.push([key, ...args.map(note)]);
            return typeof known === "function" ? known(...args) : known;
          };
        },
      },
    );
  const quiet = { idle: () => Number.POSITIVE_INFINITY, uncommittedMs: () => 0, ...answers };
  const volume = {
    tree: room("tree"),
    attributes: room("attributes"),
    files: room("files"),
    xattrs: room("xattrs"),
    inodes: room("inodes"),
    statfs: () => answers.statfs,
    fsync: (ino: Ino) => {
      calls.push(["fsync", ino]);
      if (typeof answers.fsync === "function") answers.fsync(ino);
    },
    commit: () => {
      calls.push(["commit"]);
    },
    finish: () => {},
    idle: quiet.idle,
    uncommittedMs: quiet.uncommittedMs,
    get failed() {
      return answers.failed === true || (typeof answers.failed === "function" && answers.failed());
    },
  };
  return { volume: volume as unknown as ServedVolume, calls };
}

/** Gives out the frames it is fed, then "nothing waits" until `end`; keeps the replies. */
export class ScriptedDevice implements Device {
  readonly replies: Buffer[] = [];
  readonly waits: number[] = [];
  readonly #frames: (Uint8Array | number)[];
  /** What a write gives instead of the length. */
  refuses: number | undefined;
  /** Called when the session goes to sleep; it may feed. */
  onWait: () => void = () => this.feed(-E.ENODEV);
  bells = 0;
  reads = 0;

  constructor(...frames: (Uint8Array | number)[]) {
    this.#frames = frames;
  }

  /** A frame, or a negated errno that the next read gives. */
  feed(...frames: (Uint8Array | number)[]): void {
    this.#frames.push(...frames);
  }

  read(buffer: Uint8Array): number {
    this.reads++;
    const next = this.#frames.shift();
    if (next === undefined) return -E.EAGAIN;
    if (typeof next === "number") return next;
    buffer.set(next, 0);
    return next.length;
  }

  write(buffer: Uint8Array, length: number): number {
    this.replies.push(Buffer.from(buffer.subarray(0, length)));
    return this.refuses ?? length;
  }

  wait(timeoutMs: number): void {
    this.waits.push(timeoutMs);
    this.onWait();
  }

  woken(): boolean {
    if (this.bells === 0) return false;
    this.bells--;
    return true;
  }
}

/** Sends frames through a session after INIT; gives the replies without INIT's. */
export function converse(
  volume: ServedVolume,
  frames: readonly Uint8Array[],
  options: SessionOptions = {},
): Buffer[] {
  const device = new ScriptedDevice(INIT, ...frames, -E.ENODEV);
  new Session(device, volume, { timeoutSec: TIMEOUT_SEC, ...options }).run();
  return device.replies.slice(1);
}
