/** Both ways to LZ4, the system's and npm's: either reads what the other wrote. */
import { describe, expect, it } from "vitest";
import { type Lz4, packagedLz4, systemLz4 } from "../../src/native/lz4.ts";
import { noise } from "../core/noise.ts";

const TEXT = Buffer.from(Array.from({ length: 2000 }, (_, i) => `line ${i} of a text\n`).join(""));
const implementations = [systemLz4(), packagedLz4()].filter((found) => found !== undefined);

function compressed({ compress }: Lz4, data: Uint8Array): Uint8Array {
  const into = new Uint8Array(data.length);
  return into.slice(0, compress(data, into));
}

describe.each(implementations.map((lz4) => [lz4.name, lz4] as const))("%s", (_, lz4) => {
  it.each(implementations.map((other) => [other.name, other] as const))(
    "reads what %s compressed",
    (_name, other) => {
      for (const data of [TEXT, TEXT.subarray(7, 200), Buffer.alloc(65_536), Buffer.alloc(1 << 20, "ab")]) {
        const block = compressed(other, data);
        expect(block.length).toBeGreaterThan(0);
        expect(block.length).toBeLessThan(data.length);
        const back = new Uint8Array(data.length);
        expect(lz4.decompress(block, back)).toBe(data.length);
        expect(data.equals(back)).toBe(true);
      }
    },
  );

  it("says 0 where what it makes does not fit, of noise of any length and of text in too little room", () => {
    for (const length of [128, 5000, 65_536]) {
      const data = noise(length);
      expect(lz4.compress(data, new Uint8Array(length))).toBe(0);
    }
    expect(lz4.compress(TEXT, new Uint8Array(100))).toBe(0);
  });

  it("does not decompress a block that is cut, changed, or of another length", () => {
    const block = compressed(lz4, TEXT);
    const whole = (bytes: Uint8Array, length: number) => {
      const into = new Uint8Array(length);
      return lz4.decompress(bytes, into) === length && TEXT.equals(into);
    };
    expect(whole(block, TEXT.length)).toBe(true);
    expect(whole(block.subarray(0, -1), TEXT.length)).toBe(false);
    expect(whole(block, TEXT.length - 1)).toBe(false);
    expect(whole(block, TEXT.length + 1)).toBe(false);
    expect(whole(noise(500), TEXT.length)).toBe(false);
    const zeros = Uint8Array.from(block).fill(0, block.length / 2);
    expect(whole(zeros, TEXT.length)).toBe(false);
  });
});

it("is found in the system by name, or nothing is", () => {
  const before = process.env.SQLFUSE_LIBLZ4;
  try {
    process.env.SQLFUSE_LIBLZ4 = "/nonexistent/liblz4.so";
    expect(systemLz4()).toBeUndefined();
  } finally {
    if (before === undefined) delete process.env.SQLFUSE_LIBLZ4;
    else process.env.SQLFUSE_LIBLZ4 = before;
  }
});
