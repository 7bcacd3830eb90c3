/** What leaves the machine tells nothing, and comes back as it was or not at all. */
import { randomBytes } from "node:crypto";
import { describe, expect, it } from "vitest";
import { HEADER_BYTES, Sealer, TAG_BYTES } from "../../src/log/seal.ts";
import { LogError } from "../../src/remote/errors.ts";

const LOG = Buffer.alloc(16, 1);
const SECRET = Buffer.alloc(32, 2);
const sealer = new Sealer(LOG, SECRET);
const content = Buffer.from("plaintext canary");

describe("a sealed file", () => {
  it("opens, and is its header and one frame", () => {
    const { bytes } = sealer.seal("segment", content);
    expect(sealer.open("segment", bytes)).toEqual(content);
    expect(bytes.length).toBe(HEADER_BYTES + content.length + TAG_BYTES);
    expect(bytes.subarray(0, 10).toString("latin1")).toBe("sqlfuse\0\x01S");
    expect(bytes.subarray(16, 32)).toEqual(LOG);
    expect(bytes.includes("canary")).toBe(false);
  });

  it("of before opens: the format is a promise", () => {
    const made = Buffer.from(
      "73716c6675736500015300000000000001010101010101010101010101010101" +
        "0000000000000000000000000000000000000000000000000000000000000007" +
        "f31ddf52cdc54f4f6c09dafef13a30466b982e3f238326d23944f12a3b308ba4",
      "hex",
    );
    expect(sealer.open("segment", made).toString()).toBe("plaintext canary");
  });

  it("is another one each time, though the content is the same: no key and nonce are used twice", () => {
    const files = Array.from({ length: 100 }, () => sealer.seal("segment", content).bytes.toString("hex"));
    expect(new Set(files.map((file) => file.slice(2 * HEADER_BYTES))).size).toBe(100);
    expect(new Set(files.map((file) => file.slice(64, 2 * HEADER_BYTES))).size).toBe(100);
  });

  it("with any bit flipped is refused", () => {
    const { bytes } = sealer.seal("segment", content);
    for (let bit = 0; bit < bytes.length * 8; bit++) {
      const flipped = Buffer.from(bytes);
      flipped[bit >> 3] = (flipped[bit >> 3] ?? 0) ^ (1 << (bit & 7));
      expect(() => sealer.open("segment", flipped), `bit ${bit}`).toThrow(LogError);
    }
  });

  it("that is cut off or longer is refused", () => {
    const { bytes } = sealer.seal("segment", content);
    for (let length = 0; length < bytes.length; length++)
      expect(() => sealer.open("segment", bytes.subarray(0, length))).toThrow(LogError);
    expect(() => sealer.open("segment", Buffer.concat([bytes, Buffer.alloc(1)]))).toThrow(LogError);
  });

  it("of another kind, another log or another secret is refused, and it is told which", () => {
    const { bytes } = sealer.seal("segment", content);
    expect(() => sealer.open("records", bytes)).toThrow("another kind of file");
    expect(() => new Sealer(Buffer.alloc(16, 9), SECRET).open("segment", bytes)).toThrow("of another log");
    expect(() => new Sealer(LOG, randomBytes(32)).open("segment", bytes)).toThrow("another key");
  });
});

describe("a frame", () => {
  it("opens at its place alone, in its file alone", () => {
    const [one, other] = [sealer.file("blocks"), sealer.file("blocks")];
    const places = [one.add(content), one.add(content)];
    other.add(content);
    const [first = 0, second = 0] = places;
    const frame = (bytes: Buffer, at: number) => bytes.subarray(at, at + content.length + TAG_BYTES);
    const open = sealer.opener(one.salt);
    expect(open(first, frame(one.bytes(), first))).toEqual(content);
    expect(open(second, frame(one.bytes(), second))).toEqual(content);
    expect(frame(one.bytes(), first).equals(frame(one.bytes(), second))).toBe(false);
    expect(() => open(first, frame(one.bytes(), second))).toThrow(LogError);
    expect(() => open(first, frame(other.bytes(), first))).toThrow(LogError);
  });
});

describe("the id of a block", () => {
  it("is the same for the same content and secret, and for nothing else", () => {
    expect(sealer.blockId(content)).toEqual(new Sealer(LOG, SECRET).blockId(content));
    expect(sealer.blockId(content)).not.toEqual(new Sealer(LOG, randomBytes(32)).blockId(content));
    expect(sealer.blockId(content)).not.toEqual(sealer.blockId(Buffer.concat([content, Buffer.alloc(1)])));
    expect(sealer.blockId(content).toString("hex")).toBe(
      "784166ffb6132519188e7fd2a660577f84a4abfaa8d267ebaf2b281a30cc74f7",
    );
  });
});
