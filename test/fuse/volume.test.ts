/** A session on a real volume, spoken to in bytes: what the kernel would do, without a mount. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { E } from "../../src/base/errno.ts";
import { unlock } from "../../src/core/unlock.ts";
import { Volume } from "../../src/core/volume.ts";
import { check } from "../../src/fsck/check.ts";
import type { Device } from "../../src/fuse/device.ts";
import { Session } from "../../src/fuse/session.ts";
import { bytes, frame, INIT } from "./frames.ts";

const PASSWORD = `x'${"c3".repeat(32)}'`;
let directory: string;
let volume: Volume;
let session: Session;
let buffer: Uint8Array;
let reply: Buffer | undefined;

/** Hands one frame to the session, as `run` would. */
function send(message: Uint8Array): Buffer | undefined {
  reply = undefined;
  pending = message;
  session.run();
  return reply;
}

let pending: Uint8Array | undefined;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "sqlfuse-session-"));
  const path = join(directory, "v.sqlite");
  Volume.create(path, Buffer.from(PASSWORD), { rootMode: 0o755 });
  volume = Volume.open(path, unlock(path, Buffer.from(PASSWORD)));
  const device: Device = {
    read: (into) => {
      if (pending === undefined) return -E.ENODEV;
      buffer = into;
      into.set(pending);
      const { length } = pending;
      pending = undefined;
      return length;
    },
    write: (from, length) => {
      reply = Buffer.from(from.subarray(0, length));
      return length;
    },
    wait: () => {},
    woken: () => false,
  };
  session = new Session(device, volume);
  send(INIT);
});

afterEach(() => {
  const { path } = volume;
  volume.close();
  expect(check(path, unlock(path, Buffer.from(PASSWORD)))).toEqual([]);
  rmSync(directory, { recursive: true });
});

const FH = "0000000000000000";
const nodeidOf = (entry: Buffer | undefined): number => Number(entry?.readBigUInt64LE(16));
const errorOf = (answer: Buffer | undefined): number | undefined => answer?.readInt32LE(4);

function mknod(name: string, mode = "a4810000"): number {
  return nodeidOf(
    send(
      frame(8, bytes(`${mode} 00000000 00000000 00000000 ${Buffer.from(`${name}\0`).toString("hex")}`), 1),
    ),
  );
}

function write(nodeid: number, offset: string, data: Buffer): Buffer | undefined {
  const size = Buffer.alloc(4);
  size.writeUInt32LE(data.length);
  const head = bytes(`${FH} ${offset} ${size.toString("hex")} 00000000 ${FH} 00000000 00000000`);
  return send(frame(16, Buffer.concat([head, data]), nodeid));
}

function read(nodeid: number, offset: string, size: string): Buffer | undefined {
  return send(frame(15, bytes(`${FH} ${offset} ${size} 00000000 ${FH} 00000000 00000000`), nodeid))?.subarray(
    16,
  );
}

test("what is written is read back, though the request's buffer is used again in between", () => {
  const file = mknod("f");
  const data = Buffer.from(Array.from({ length: 300_000 }, (_, at) => at % 251));
  expect(write(file, "0100000000000000", data)?.readUInt32LE(16)).toBe(data.length);
  buffer.fill(0xee);
  const back = read(file, "0000000000000000", "00001000");
  expect(back?.length).toBe(300_001);
  expect(back?.subarray(1).equals(data)).toBe(true);
  expect(errorOf(send(frame(20, Buffer.alloc(16), file)))).toBe(0);
});

test("an unlinked file lives until the kernel forgets it", () => {
  const file = mknod("f");
  write(file, "0000000000000000", Buffer.from("still here"));
  expect(errorOf(send(frame(10, bytes("6600"), 1)))).toBe(0);
  expect(read(file, "0000000000000000", "ff000000")?.toString()).toBe("still here");
  send(frame(2, bytes("0100000000000000"), file));
  while (volume.idle(performance.now()) === 0);
  expect(errorOf(send(frame(3, Buffer.alloc(16), file)))).toBe(-E.ESTALE);
});

test("an inode that nobody knows is stale", () => {
  expect(errorOf(send(frame(3, Buffer.alloc(16), 0x123456)))).toBe(-E.ESTALE);
  expect(errorOf(send(frame(1, bytes("6100"), 0x123456)))).toBe(-E.ESTALE);
  expect(errorOf(send(frame(3, Buffer.alloc(16), 2 ** 60)))).toBe(-E.ESTALE);
});

test("offsets beyond the largest file are refused, and read as nothing", () => {
  const file = mknod("f");
  const far = "00000000000000f07f".slice(2);
  expect(errorOf(write(file, far, Buffer.from("x")))).toBe(-E.EFBIG);
  expect(read(file, far, "10000000")?.length).toBe(0);
  expect(errorOf(send(frame(46, bytes(`${FH} ${far} 03000000 00000000`), file)))).toBe(-E.ENXIO);
});

test("a listing gives what was made, and goes on where it stopped", () => {
  for (const name of ["a", "b", "c"]) mknod(name);
  const names: string[] = [];
  let off = "0000000000000000";
  for (;;) {
    // Room for one record at a time.
    const page = send(
      frame(28, bytes(`${FH} ${off} 20000000 00000000 ${FH} 00000000 00000000`), 1),
    )?.subarray(16);
    if (page === undefined || page.length === 0) break;
    names.push(page.subarray(24, 24 + page.readUInt32LE(16)).toString());
    off = page.subarray(8, 16).toString("hex");
  }
  expect(names).toEqual([".", "..", "a", "b", "c"]);
});
