/** How the content of a block is stored. */
import { randomBytes } from "node:crypto";
import { brotliCompressSync } from "node:zlib";
import { describe, expect, it } from "vitest";
import { DamageError } from "../../src/base/errno.ts";
import {
  contentBytes,
  contentLength,
  decoded,
  encode,
  isCompression,
  knownCodec,
  undecodable,
} from "../../src/core/codec.ts";
import { inDatabase } from "../db/fixture.ts";
import { noise } from "./noise.ts";

const TEXT = Buffer.from(Array.from({ length: 60_000 }, (_, i) => `line ${i} of a text\n`).join(""));
const METHOD = { none: 0, fast: 1, strong: 2 };
const HOWS = ["none", "fast", "strong"] as const;

describe("content", () => {
  it.each(HOWS)("comes back as it was: %s", (how) => {
    for (const length of [0, 1, 127, 128, 1000, 4096, 65_535, 65_536, 1 << 20]) {
      for (const content of [TEXT.subarray(0, length), noise(length), Buffer.alloc(length)]) {
        const { codec, data } = encode(content, how);
        expect(contentBytes(codec, data.length)).toBe(length);
        expect(content.equals(decoded(codec, data))).toBe(true);
        expect(undecodable(codec, data, true)).toBeUndefined();
      }
    }
  });

  it.each(HOWS)("says how it is stored, and how long it is: %s", (how) => {
    const { codec, data } = encode(TEXT.subarray(0, 65_536), how);
    expect(codec).toBe(how === "none" ? 0 : METHOD[how] | (65_536 << 8));
    expect(data.length < 65_536 / 2).toBe(how !== "none");
  });

  it.each(["fast", "strong"] as const)("stays as it is where that saves less than an eighth: %s", (how) => {
    const random = randomBytes(8000);
    const eighth = (zeros: number) => Buffer.concat([random.subarray(zeros), Buffer.alloc(zeros)]);
    expect(encode(eighth(900), how)).toEqual({ codec: 0, data: eighth(900) });
    expect(encode(eighth(1200), how).codec).toBe(METHOD[how] | (8000 << 8));
    expect(encode(TEXT.subarray(0, 127), how).codec).toBe(0);
  });

  it("is a word or none of them", () => {
    expect(["none", "fast", "strong", "", "Fast", "fast\n"].map(isCompression)).toEqual([
      true,
      true,
      true,
      false,
      false,
      false,
    ]);
  });
});

describe("what is stored", () => {
  const lz4 = encode(TEXT.subarray(0, 5000), "fast");
  const brotli = encode(TEXT.subarray(0, 5000), "strong");
  const damaged: readonly (readonly [what: string, codec: number, data: Uint8Array])[] = [
    ["a method that is not known", 77, noise(10)],
    ["no method", 5000 << 8, noise(10)],
    ["no length", 1, noise(10)],
    ["a length that no block has", 1 + 256 * ((1 << 20) + 1), noise(10)],
    ["a codec of more than 32 bits", 2 ** 40 + 1, noise(10)],
    ["a negative codec", -255, noise(10)],
    ["LZ4 of nothing", lz4.codec, new Uint8Array(0)],
    ["LZ4 that is none", lz4.codec, noise(300)],
    ["LZ4 that is cut", lz4.codec, lz4.data.slice(0, -1)],
    ["LZ4 that says too little", lz4.codec - 256, lz4.data.slice()],
    ["LZ4 that says too much", lz4.codec + 256, lz4.data.slice()],
    ["Brotli of nothing", brotli.codec, new Uint8Array(0)],
    ["Brotli that is none", brotli.codec, noise(300)],
    ["Brotli that is cut", brotli.codec, brotli.data.slice(0, -1)],
    ["Brotli that says too little", brotli.codec - 256, brotli.data],
    ["Brotli that says too much", brotli.codec + 256, brotli.data],
    ["Brotli that would fill the memory", 2 | (4096 << 8), brotliCompressSync(Buffer.alloc(1 << 26))],
    ["LZ4 that says it is Brotli", lz4.codec + 1, lz4.data.slice()],
  ];
  it.each(damaged)("is damage where it is %s", (_, codec, data) => {
    expect(() => decoded(codec, data)).toThrow(DamageError);
  });

  it("is lost as a whole where a part is missing, by the length that it says", () => {
    expect(undecodable(brotli.codec, brotli.data, false)).toBe(5000);
    expect(undecodable(brotli.codec, noise(10), true)).toBe(5000);
    expect(undecodable(0, noise(10), false)).toBeUndefined();
    expect(undecodable(77, noise(10), false)).toBeUndefined();
  });

  it("is known to SQL as it is here", () =>
    inDatabase((db) => {
      const row = db.prepare(
        `SELECT ${knownCodec("b")}, ${contentLength("b")} FROM (SELECT ?1 AS codec, zeroblob(10) AS data) AS b`,
      );
      const ofSql = (codec: number) => {
        row.bindInt(1, codec).step();
        const found = [row.int(0) === 1, row.int(1)];
        row.reset();
        return found;
      };
      const ofCode = (codec: number) => {
        try {
          return [true, contentBytes(codec, 10)];
        } catch {
          return [false, 10];
        }
      };
      for (const codec of [0, lz4.codec, brotli.codec, 1 + 256 * (1 << 20), ...damaged.map(([, bad]) => bad)])
        expect([codec, ...ofSql(codec)]).toEqual([codec, ...ofCode(codec)]);
    }));
});
