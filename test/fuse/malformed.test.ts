/** Whatever bytes come in, there is exactly one reply to a request that wants one, and no crash. */
import { describe, expect, test } from "vitest";
import { E } from "../../src/base/errno.ts";
import type { Ino } from "../../src/core/types.ts";
import { OPERATIONS } from "../../src/fuse/protocol.ts";
import { Session } from "../../src/fuse/session.ts";
import { bytes, frame, INIT, noting, ScriptedDevice, STAT } from "./frames.ts";

const PLAUSIBLE: Readonly<Record<string, unknown>> = {
  "tree.lookup": STAT,
  "tree.mknod": STAT,
  "tree.mkdir": STAT,
  "tree.symlink": STAT,
  "tree.tmpfile": STAT,
  "tree.link": STAT,
  "tree.parentOf": 1 as Ino,
  "tree.readlink": Buffer.from("target"),
  "attributes.getattr": STAT,
  "attributes.setattr": STAT,
  "files.read": 7,
  "files.write": 7,
  "files.lseek": 7,
  "files.copyFileRange": 7,
  "xattrs.get": Buffer.from("value"),
  "xattrs.list": Buffer.from("user.a\0"),
  statfs: { blockSize: 1, blocks: 1, bfree: 1, bavail: 1, files: 1, ffree: 1, nameMax: 255 },
};

function repliesTo(...frames: Uint8Array[]): { replies: Buffer[]; logged: string[] } {
  const logged: string[] = [];
  const device = new ScriptedDevice(INIT, ...frames, -E.ENODEV);
  new Session(device, noting(PLAUSIBLE).volume, {
    onLog: (line) => logged.push(line),
    // The trace reads the same bytes, and must not choke on them either.
    onTrace: () => {},
  }).run();
  return { replies: device.replies.slice(1), logged };
}

const SERVED = OPERATIONS.filter((row) => row?.handler !== undefined).map(
  (row) => row as NonNullable<typeof row>,
);

describe("a message that is cut short", () => {
  test.each(SERVED.filter((row) => row.in.size > 0))("$name gets EINVAL at every length", (row) => {
    for (let length = 0; length < row.in.size; length++) {
      const { replies } = repliesTo(frame(row.code, Buffer.alloc(length)));
      expect(replies).toHaveLength(row.replies ? 1 : 0);
      if (row.replies) expect(replies[0]?.readInt32LE(4)).toBe(-E.EINVAL);
    }
  });

  test.each([
    ["LOOKUP without a NUL", 1, "61"],
    ["LOOKUP without anything", 1, ""],
    ["LOOKUP of an empty name", 1, "00"],
    ["LOOKUP of a path", 1, "612f6200"],
    ["SYMLINK without a target", 6, "6100"],
    ["RENAME with one name", 12, "0100000000000000 6100"],
    ["RENAME to a path", 12, "0100000000000000 6100 2f00"],
    ["WRITE that says more than it has", 16, `${"00".repeat(16)} 05000000 ${"00".repeat(20)} 61626364`],
    ["WRITE that says 4 GiB", 16, `${"00".repeat(16)} ffffffff ${"00".repeat(20)} 61626364`],
    ["SETXATTR whose value is cut", 21, "05000000 00000000 00000000 00000000 6100 61626364"],
    ["SETXATTR of the time before its long form", 21, "01000000 00000000 6100 61"],
    ["GETXATTR without a name", 22, "00000000 00000000"],
  ])("%s gets EINVAL", (_what, opcode, body) => {
    const { replies } = repliesTo(frame(opcode, bytes(body)));
    expect(replies.map((reply) => reply.readInt32LE(4))).toEqual([-E.EINVAL]);
  });

  test("a name past NAME_MAX is too long, one of NAME_MAX is not", () => {
    const name = (length: number): Buffer =>
      frame(1, Buffer.concat([Buffer.alloc(length, "n"), Buffer.alloc(1)]));
    const { replies } = repliesTo(name(255), name(256), name(4095));
    expect(replies.map((reply) => reply.readInt32LE(4))).toEqual([0, -E.ENAMETOOLONG, -E.ENAMETOOLONG]);
  });

  test("what an earlier message left in the buffer is not read as part of this one", () => {
    const { replies } = repliesTo(frame(1, bytes("6c6f6e67206e616d6500")), frame(1, bytes("73")));
    expect(replies.map((reply) => reply.readInt32LE(4))).toEqual([0, -E.EINVAL]);
  });

  test("BATCH_FORGET that counts more than it has forgets what it has", () => {
    expect(
      repliesTo(frame(42, bytes("ffffffff 00000000 0100000000000000 0100000000000000"))).replies,
    ).toEqual([]);
  });

  test("a length that is not that of the message gets EINVAL", () => {
    const longer = frame(3, Buffer.alloc(16));
    longer.writeUInt32LE(longer.length + 1, 0);
    const shorter = frame(3, Buffer.alloc(16));
    shorter.writeUInt32LE(shorter.length - 1, 0);
    const { replies } = repliesTo(longer, shorter);
    expect(replies.map((reply) => reply.readInt32LE(4))).toEqual([-E.EINVAL, -E.EINVAL]);
  });

  test("less than a header is dropped and logged: there is nobody to answer", () => {
    const { replies, logged } = repliesTo(INIT.subarray(0, 39), INIT.subarray(0, 1));
    expect(replies).toEqual([]);
    expect(logged).toEqual([
      "a message of 39 bytes is no request, dropped",
      "a message of 1 bytes is no request, dropped",
    ]);
  });
});

describe("offsets beyond every file", () => {
  test("reach the core larger than any that it takes", () => {
    const { volume, calls } = noting(PLAUSIBLE);
    const device = new ScriptedDevice(
      INIT,
      frame(15, bytes(`${"00".repeat(8)} feffffffffffff7f 10000000 ${"00".repeat(20)}`)),
      -E.ENODEV,
    );
    new Session(device, volume).run();
    expect(calls[0]?.[2]).toBeGreaterThan(Number.MAX_SAFE_INTEGER);
  });
});

describe("noise", () => {
  /** xorshift32: the same noise for the same seed. */
  function random(seed: number): () => number {
    let state = seed;
    return () => {
      state ^= state << 13;
      state ^= state >>> 17;
      state ^= state << 5;
      return state >>> 0;
    };
  }

  test.each([1, 2, 3, 4])("seed %i: one reply each, and of the right length", (seed) => {
    const next = random(seed * 0x9e3779b1);
    const frames: Buffer[] = [];
    let expected = 0;
    for (let i = 0; i < 5000; i++) {
      const opcode = next() % 60;
      const body = Buffer.alloc(next() % 160);
      for (let at = 0; at < body.length; at++) body[at] = next() % 3 === 0 ? 0 : next();
      const message = frame(opcode, body);
      if (next() % 20 === 0) message.writeUInt32LE(next(), 0);
      frames.push(message);
      if (OPERATIONS[opcode]?.replies !== false) expected++;
    }
    const { replies } = repliesTo(...frames);
    expect(replies).toHaveLength(expected);
    for (const reply of replies) {
      expect(reply.readUInt32LE(0)).toBe(reply.length);
      const error = reply.readInt32LE(4);
      expect(error <= 0 && error > -4096).toBe(true);
      if (error < 0) expect(reply).toHaveLength(16);
    }
  });
});
