/**
 * The protocol fuzzed: requests as the kernel sends them are mutated and sent to a session that serves a real volume.
 * Whatever comes in, there is no crash, exactly one reply to each request that has one, no answer that the kernel would
 * not take, no damage, and no memory that grows. A failure is shrunk to the fewest requests and mutations.
 */
import { copyFileSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { E } from "../../src/base/errno.ts";
import type { ReadPlan } from "../../src/core/files.ts";
import { Volume } from "../../src/core/volume.ts";
import { check } from "../../src/fsck/check.ts";
import { Connection, type Device } from "../../src/fuse/device.ts";
import { INIT_FLAG, InHeader, OutHeader } from "../../src/fuse/kernel.ts";
import { OPERATIONS, PROTOCOL } from "../../src/fuse/protocol.ts";
import type { SecondReader } from "../../src/fuse/server.ts";
import { MAX_TRANSFER, Session } from "../../src/fuse/session.ts";
import { close, eventfd, read, setNonBlocking, socketpair, write } from "../../src/native/libc.ts";
import { FakeClock, Fixture } from "../core/fixture.ts";
import { INIT } from "../fuse/frames.ts";
import { isLong, report, seed } from "../helpers/torture.ts";
import { conversations, corpus, type Mutated, populate, spell } from "./corpus.ts";

const LONG = isLong();
/** Requests in a conversation, half of them on the average. */
const LENGTH = 200;
const TIMEOUT = LONG ? 3_600_000 : 60_000;

let fixture: Fixture;
/** A whole volume, closed. */
let whole: string;
let seeds: readonly Buffer[];
let directory: string;

beforeAll(() => {
  fixture = new Fixture();
  seeds = corpus(populate(fixture.volume));
  fixture.finish();
  whole = fixture.path;
  directory = mkdtempSync(join(tmpdir(), "fuzz-"));
});
afterAll(() => {
  fixture.remove();
  rmSync(directory, { recursive: true, force: true });
});

/** A volume of its own for one conversation, and what a session said about it. */
class Served {
  readonly path = join(directory, "volume");
  readonly volume: Volume;
  readonly log: string[] = [];
  readonly clock = new FakeClock();

  constructor() {
    for (const end of ["", "-wal", "-shm"]) rmSync(this.path + end, { force: true });
    copyFileSync(whole, this.path);
    this.volume = Volume.open(this.path, fixture.key, {
      clock: this.clock,
      answersFirst: true,
      onLog: (line) => this.log.push(line),
    });
  }

  session(device: Device, secondReader?: SecondReader): Session {
    return new Session(device, this.volume, {
      clock: this.clock,
      secondReader,
      onLog: (line) => this.log.push(line),
      onTrace: () => {},
    });
  }

  /** Closes it and demands that nothing is damaged, and that nothing was met that nobody foresaw. */
  finish(): void {
    this.volume.close();
    const unforeseen = this.log.filter(
      (line) => !/^a message of \d+ bytes is no|^the kernel speaks/.test(line),
    );
    expect(unforeseen).toEqual([]);
    expect(check(this.path, fixture.key)).toEqual([]);
  }
}

/** The requests of a conversation, each with a number of its own in `unique`. */
function framesOf(conversation: readonly Mutated[]): Buffer[] {
  return conversation.map((one, i) => {
    const bytes = spell(one, seeds);
    if (bytes.length >= InHeader.size) bytes.writeBigUInt64LE(BigInt(i + 1), InHeader.at.unique);
    return bytes;
  });
}

function opcodeOf(message: Buffer): number {
  return message.readUInt32LE(InHeader.at.opcode);
}

function wantsReply(message: Buffer): boolean {
  return message.length >= InHeader.size && OPERATIONS[opcodeOf(message)]?.replies !== false;
}

/** Demands of a reply what the kernel demands, which else takes it for an error of ours and gives the caller EIO. */
function expectSound(message: Buffer, reply: Buffer): void {
  const row = OPERATIONS[opcodeOf(message)];
  const error = reply.readInt32LE(OutHeader.at.error);
  const what = `${row?.name ?? opcodeOf(message)} gives ${error}, ${reply.length} bytes`;
  expect(reply.readUInt32LE(OutHeader.at.len), what).toBe(reply.length);
  expect(error <= 0 && error > -512, what).toBe(true);
  if (error !== 0) {
    expect(reply.length, what).toBe(OutHeader.size);
    // The kernel would never ask again.
    expect(error === -E.ENOSYS, what).toBe(row?.handler === undefined);
    // Nothing is damaged here, so that is what nobody foresaw.
    expect(error, what).not.toBe(-E.EIO);
  } else if (row !== undefined && row.out !== "bytes") {
    expect(reply.length - OutHeader.size, what).toBe(row.out.size);
  } else if (row?.code === PROTOCOL.READ.code || row?.code === PROTOCOL.READDIR.code) {
    const size = message.readUInt32LE(InHeader.size + PROTOCOL.READ.in.at.size);
    expect(reply.length - OutHeader.size, what).toBeLessThanOrEqual(Math.min(size, MAX_TRANSFER));
  }
}

/** Gives out frames, and demands of each what is due to it before it gives out the next one. */
class PairingDevice implements Device {
  readonly #frames: Buffer[] = [];
  /** What is answered now, and what was written since it was given out. */
  #asked: Buffer | undefined;
  #written: Buffer[] = [];

  feed(frames: readonly Buffer[]): void {
    this.#frames.push(...frames);
  }

  read(buffer: Uint8Array): number {
    if (this.#asked !== undefined) expectAnswered(this.#asked, this.#written);
    this.#written = [];
    this.#asked = this.#frames.shift();
    if (this.#asked === undefined) return -E.ENODEV;
    buffer.set(this.#asked);
    return this.#asked.length;
  }

  write(buffer: Uint8Array, length: number): number {
    this.#written.push(Buffer.from(buffer.subarray(0, length)));
    return length;
  }

  wait(): void {}

  woken(): boolean {
    return false;
  }
}

/** In turn it has no time, gives a READ back, and answers it. */
class FickleReader implements SecondReader {
  readonly #device: Device;
  #offers = 0;
  #returned = false;

  constructor(device: Device) {
    this.#device = device;
  }

  offer(unique0: number, unique1: number, plan: ReadPlan): boolean {
    const what = this.#offers++ % 3;
    if (what === 0) return false;
    if (what === 1) this.#returned = true;
    else this.#answer(unique0, unique1, plan.length);
    return true;
  }

  #answer(unique0: number, unique1: number, length: number): void {
    const reply = Buffer.alloc(OutHeader.size + length);
    for (const [i, word] of [reply.length, 0, unique0, unique1].entries()) reply.writeUInt32LE(word, i * 4);
    this.#device.write(reply, reply.length);
  }

  takeBack(): boolean {
    const returned = this.#returned;
    this.#returned = false;
    return returned;
  }
}

/** Demands one reply, or none, besides notifications, which have no number. */
function expectAnswered(message: Buffer, written: readonly Buffer[]): void {
  const replies = written.filter((one) => one.readBigUInt64LE(OutHeader.at.unique) !== 0n);
  const name = message.length >= InHeader.size ? OPERATIONS[opcodeOf(message)]?.name : "no request";
  expect(replies.length, `replies to ${name}`).toBe(wantsReply(message) ? 1 : 0);
  const [reply] = replies;
  if (reply === undefined) return;
  expect(reply.readBigUInt64LE(OutHeader.at.unique)).toBe(message.readBigUInt64LE(InHeader.at.unique));
  expectSound(message, reply);
}

/** Holds a conversation on a volume of its own; all of it must be in order. Gives how many requests there were. */
function converse(conversation: readonly Mutated[]): number {
  const frames = framesOf(conversation);
  const served = new Served();
  const device = new PairingDevice();
  device.feed([INIT, ...frames]);
  try {
    expect(served.session(device, new FickleReader(device)).run()).toBe("unmounted");
  } finally {
    served.finish();
  }
  return frames.length;
}

/** The same over a socket, with the device that mounts have. Each request is sent when the session has gone to sleep. */
function converseBySocket(conversation: readonly Mutated[]): number {
  // One that agreed on longer transfers would not fit into the socket.
  const frames = framesOf(conversation).filter((one) => one.length > 0 && !isInit(one));
  const pair = socketpair();
  if (typeof pair === "number") throw new Error(`socketpair: ${pair}`);
  const [kernel, fd] = pair;
  setNonBlocking(fd);
  setNonBlocking(kernel);
  const bell = eventfd();
  const connection = new Connection(fd, bell);
  const script = [SHORT_INIT, ...frames];
  let asked: Buffer | undefined;
  const device: Device = {
    read: (buffer) => connection.read(buffer),
    write: (buffer, length) => connection.write(buffer, length),
    woken: () => connection.woken(),
    wait: (timeoutMs) => {
      if (asked !== undefined) expectAnswered(asked, take(kernel));
      asked = script.shift();
      if (asked === undefined) close(kernel);
      else expect(write(kernel, asked, asked.length)).toBe(asked.length);
      connection.wait(timeoutMs);
    },
  };
  const served = new Served();
  try {
    expect(served.session(device).run()).toBe("unmounted");
    expect(script).toEqual([]);
  } finally {
    for (const one of [fd, bell]) close(one);
    served.finish();
  }
  return frames.length;
}

/** INIT of a kernel that moves 128 KiB at most. */
const SHORT_INIT = (() => {
  const init = Buffer.from(INIT);
  const { flags } = PROTOCOL.INIT.in.at;
  const MAX_PAGES = 1 << INIT_FLAG.MAX_PAGES;
  init.writeUInt32LE((init.readUInt32LE(InHeader.size + flags) & ~MAX_PAGES) >>> 0, InHeader.size + flags);
  return init;
})();

function isInit(message: Buffer): boolean {
  return message.length >= InHeader.size && opcodeOf(message) === PROTOCOL.INIT.code;
}

const scratch = Buffer.alloc(1 << 20);

/** The messages that wait in a socket. */
function take(socket: number): Buffer[] {
  const messages: Buffer[] = [];
  const length = read(socket, scratch, scratch.length);
  for (let at = 0; at < length; ) {
    const size = scratch.readUInt32LE(at);
    messages.push(Buffer.from(scratch.subarray(at, at + size)));
    at += size;
  }
  return messages;
}

function repeatable(numRuns: number): fc.Parameters<[Mutated[]]> {
  return { seed: seed() | 0, numRuns };
}

/** Bytes that are still in use when the garbage is gone. */
function bytesInUse(): number {
  setFlagsFromString("--expose-gc");
  (runInNewContext("gc") as () => void)();
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}

const MIB = 2 ** 20;

describe("mutated requests", () => {
  test("are each answered once, and soundly, and leave the volume whole", { timeout: TIMEOUT }, () => {
    let requests = 0;
    fc.assert(
      fc.property(conversations(LENGTH), (conversation) => {
        requests += converse(conversation);
      }),
      repeatable(LONG ? 20_000 : 160),
    );
    report("fuzz", requests, "in process");
  });

  test("are so over a socket, to the device that mounts have", { timeout: TIMEOUT }, () => {
    let requests = 0;
    fc.assert(
      fc.property(conversations(LENGTH), (conversation) => {
        requests += converseBySocket(conversation);
      }),
      repeatable(LONG ? 5000 : 50),
    );
    report("fuzz", requests, "over a socket");
  });

  test("make a session keep no more, however many come", { timeout: TIMEOUT }, () => {
    const rounds = LONG ? 2000 : 60;
    const served = new Served();
    const device = new PairingDevice();
    const session = served.session(device, new FickleReader(device));
    device.feed([INIT]);
    let requests = 0;
    let before = 0;
    for (let round = 0; round < rounds; round++) {
      // One seed for each: to have drawn all of them before would be the memory that is measured.
      const [conversation = []] = fc.sample(conversations(LENGTH), {
        seed: (seed() + round) | 0,
        numRuns: 1,
      });
      device.feed(framesOf(conversation));
      session.run();
      served.clock.advance(100);
      requests += conversation.length;
      // What is kept on purpose, such as rows of inodes, is there by then.
      if (round === Math.floor(rounds / 3)) before = bytesInUse();
    }
    // Rows of inodes and blocks are kept, up to a limit. In the long form less than 100 bytes a request could be lost.
    expect((bytesInUse() - before) / MIB, "MiB more in use").toBeLessThan(LONG ? 16 : 4);
    // Each request takes one reference at most, but for READDIRPLUS, which takes one per entry.
    expect(served.volume.inodes.references).toBeLessThan(10_000);
    served.finish();
    report("fuzz", requests, "in one session");
  });
});
