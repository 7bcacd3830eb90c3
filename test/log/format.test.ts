/** The log is a format that others read: what is pinned here changes only with a new version of it. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { ByteReader, ByteWriter } from "../../src/log/bytes.ts";
import {
  decodeRecord,
  decodeSegment,
  encodeRecord,
  encodeSegment,
  type LogRecord,
  type Segment,
} from "../../src/log/format.ts";
import { LogError } from "../../src/remote/errors.ts";

const name = Buffer.alloc(32, 0xa1);
const salt = Buffer.alloc(32, 0xb2);
const id = { origin: 0n, serial: 17 };
const foreign = { origin: 0x1122_3344_5566_7788n, serial: 300 };
const version = [{ origin: 0n, counter: 5 }];

/** One of each type, with the bytes that it is. */
const GOLDEN: readonly (readonly [LogRecord, string])[] = [
  [
    {
      type: "node",
      id,
      ino: 17,
      version: [...version, { origin: 2n, counter: 200 }],
      mode: 0o100644,
      nlink: 1,
      uid: 1000,
      gid: 1001,
      rdev: 0,
      size: 2 ** 53 - 1,
      blockSize: 16_256,
      extents: 3,
      parent: { origin: 0n, serial: 0 },
      generation: 0xffff_ffff,
      born: 5,
      atimeNs: 1n,
      mtimeNs: -1n,
      ctimeNs: 2n ** 62n,
      btimeNs: 0n,
      target: Buffer.from("to"),
    },
    // type, origin and serial, ino, version: two entries
    "01 00 11 11 02 00 05 02 c801" +
      // mode, nlink, uid, gid, rdev, size, block size, extents, parent, generation, born
      " a48302 01 e807 e907 00 ffffffffffffff0f 807f 03 0000 ffffffff0f 05" +
      // times, the length of the target and the target
      " 0100000000000000 ffffffffffffffff 0000000000000040 0000000000000000 02 746f",
  ],
  [{ type: "gone", id: foreign, version }, "02 88ef99abc5e88c9111 ac02 01 00 05"],
  [
    {
      type: "entry",
      directory: { origin: 0n, serial: 1 },
      name: Buffer.from([0xff, 0x61]),
      version,
      cookie: 18,
      node: id,
      kind: 0o100000,
      born: 5,
    },
    "03 00 01 02 ff61 01 00 05 12 00 11 808002 05",
  ],
  [
    { type: "removed", directory: { origin: 0n, serial: 1 }, name: Buffer.from("b"), version },
    "04 00 01 01 62 01 00 05",
  ],
  [
    { type: "xattr", name: Buffer.from("user.x"), value: Buffer.from([0, 1]), born: 3 },
    "05 06 757365722e78 02 0001 03",
  ],
  [{ type: "no xattr", name: Buffer.from("user.x") }, "06 06 757365722e78"],
  [{ type: "extents", idx: 128, shared: true, born: 5, blocks: [7, 0, 300] }, "07 8001 01 05 03 07 00 ac02"],
  [{ type: "holes", idx: 2, count: 129 }, "08 02 8101"],
  [{ type: "shared", id, idx: 4, block: 7 }, "09 00 11 04 07"],
  [{ type: "object", name, salt }, `0a ${"a1".repeat(32)} ${"b2".repeat(32)}`],
  [
    { type: "block", number: 7, id: name, place: 64, length: 16_256, codec: 0x3f8001 },
    `0b 07 ${"a1".repeat(32)} 40 807f 8180fe01`,
  ],
];

const SEGMENT: Segment = {
  number: 2,
  writer: 0x1122n,
  volume: Buffer.alloc(16, 0xc3),
  previous: Buffer.alloc(32, 0xd4),
  base: 4,
  epoch: 9,
  createdNs: 1_700_000_000_000_000_000n,
  meta: [["next_block", "12"]],
  snapshots: [{ epoch: 7, name: "monday", createdNs: 3n, protected: true, automatic: false }],
  records: [{ name, salt, length: 300 }],
  changes: 5,
  blocks: 1,
};
const SEGMENT_BYTES =
  // version, number, writer, volume, previous
  `01 02 a222 ${"c3".repeat(16)} ${"d4".repeat(32)}` +
  // base, epoch, created, meta
  " 04 09 00002a36fe9c9717 01 0a 6e6578745f626c6f636b 02 3132" +
  // snapshots, records, changes, blocks
  ` 01 07 06 6d6f6e646179 0300000000000000 01 01 ${"a1".repeat(32)} ${"b2".repeat(32)} ac02 05 01`;

const hexOf = (text: string) => text.replaceAll(" ", "");

function encoded(record: LogRecord): Buffer {
  const to = new ByteWriter();
  encodeRecord(to, record);
  return to.take();
}

describe("a record", () => {
  it.each(GOLDEN.map(([record, bytes]) => [record.type, record, bytes] as const))(
    "%s is these bytes",
    (_, record, bytes) => {
      expect(encoded(record).toString("hex")).toBe(hexOf(bytes));
      const from = new ByteReader(Buffer.from(hexOf(bytes), "hex"));
      expect(decodeRecord(from)).toEqual(record);
      expect(from.isAtEnd).toBe(true);
    },
  );

  it("that is cut off anywhere is refused", () => {
    for (const [record] of GOLDEN) {
      const bytes = encoded(record);
      for (let length = 0; length < bytes.length; length++)
        expect(() => decodeRecord(new ByteReader(bytes.subarray(0, length)))).toThrow(LogError);
    }
  });

  it("of another type is refused", () => {
    for (const type of [0, 12, 255])
      expect(() => decodeRecord(new ByteReader(Buffer.from([type, 0, 0])))).toThrow("no known type");
  });

  it("of random bytes is refused as damaged or decoded, and nothing else happens", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 80 }), (bytes) => {
        try {
          decodeRecord(new ByteReader(Buffer.from(bytes)));
        } catch (error) {
          expect(error).toBeInstanceOf(LogError);
        }
      }),
    );
  });
});

describe("a segment", () => {
  it("is these bytes", () => {
    const to = new ByteWriter();
    encodeSegment(to, SEGMENT);
    expect(to.take().toString("hex")).toBe(hexOf(SEGMENT_BYTES));
    expect(decodeSegment(new ByteReader(Buffer.from(hexOf(SEGMENT_BYTES), "hex")))).toEqual(SEGMENT);
  });

  it("of a later version is refused as too new", () => {
    const bytes = Buffer.from(hexOf(SEGMENT_BYTES), "hex");
    bytes[0] = 2;
    expect(() => decodeSegment(new ByteReader(bytes))).toThrow("use a newer sqlfuse");
  });

  it("with something behind it is refused", () => {
    const bytes = Buffer.from(`${hexOf(SEGMENT_BYTES)}00`, "hex");
    expect(() => decodeSegment(new ByteReader(bytes))).toThrow("longer than the format says");
  });
});

describe("a number", () => {
  it("is read as it was written", () => {
    fc.assert(
      fc.property(
        fc.maxSafeNat(),
        fc.bigInt({ min: 0n, max: 2n ** 63n - 1n }),
        fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
        (a, b, c) => {
          const from = new ByteReader(new ByteWriter().count(a).big(b).time(c).take());
          expect([from.count(), from.big(), from.time()]).toEqual([a, b, c]);
        },
      ),
    );
  });

  it("that is too large, or not a count, is refused", () => {
    expect(() => new ByteReader(Buffer.from("ffffffffffffff1f", "hex")).count()).toThrow(LogError);
    expect(() => new ByteReader(Buffer.from("ffffffffffffffffff01", "hex")).big()).toThrow(LogError);
    for (const value of [-1, 0.5, 2 ** 53]) expect(() => new ByteWriter().count(value)).toThrow(RangeError);
  });
});
