/**
 * LZ4 blocks: no frame around them, and no length in front. Between buffers of the caller, so that nothing is
 * allocated for each one.
 *
 * The system's liblz4 where there is one: 64 KiB of text take it 95 us, noise 3 us. Else lz4-napi from npm, which
 * hands out new memory at each call: noise then takes 290 us, most of it the kernel's, to find that memory.
 */
import { createRequire } from "node:module";
import koffi, { type LibraryHandle } from "koffi";
import { EngineError } from "./sqlite3.ts";

export interface Lz4 {
  /** Where it comes from. */
  readonly name: string;
  /** Compresses `data`, which is not empty, to the start of `into`; gives the bytes, 0 where they do not fit. */
  compress(data: Uint8Array, into: Uint8Array): number;
  /** Fills `into` with the content of `block`; gives the bytes, fewer (or negative) where it is no block of that length. */
  decompress(block: Uint8Array, into: Uint8Array): number;
}

/** Under which names the system may have it. */
const SYSTEM_NAMES: Partial<Record<NodeJS.Platform, readonly string[]>> = {
  linux: ["liblz4.so.1"],
  darwin: ["liblz4.1.dylib", "/opt/homebrew/lib/liblz4.1.dylib", "/usr/local/lib/liblz4.1.dylib"],
};
/** Bytes of a block that lz4-napi is shown first: what does not shrink mostly shows it there. */
const SAMPLE_BYTES = 4096;
const LENGTH_BYTES = 4;

/** liblz4, as $SQLFUSE_LIBLZ4 or the system names it; undefined where there is none. */
export function systemLz4(): Lz4 | undefined {
  const named = process.env.SQLFUSE_LIBLZ4;
  const names = named === undefined || named === "" ? SYSTEM_NAMES[process.platform] : [named];
  for (const name of names ?? []) {
    let lib: LibraryHandle;
    try {
      lib = koffi.load(name);
    } catch {
      continue;
    }
    return bind(name, lib);
  }
  return undefined;
}

function bind(name: string, lib: LibraryHandle): Lz4 {
  type Call = (from: Uint8Array, to: Uint8Array, fromBytes: number, toBytes: number) => number;
  const compress = lib.func("int LZ4_compress_default(const void *, void *, int, int)") as Call;
  const decompress = lib.func("int LZ4_decompress_safe(const void *, void *, int, int)") as Call;
  return {
    name,
    compress: (data, into) => compress(data, into, data.length, into.length),
    decompress: (block, into) => decompress(block, into, block.length, into.length),
  };
}

/** lz4-napi, which has the length of the content in front of each block. @throws Error where it cannot be loaded */
export function packagedLz4(): Lz4 {
  const require = createRequire(import.meta.url);
  const { compressSync, uncompressSync } = require("lz4-napi") as typeof import("lz4-napi");
  const shrinks = (data: Uint8Array) => compressSync(bufferOf(data)).length < data.length;
  return {
    name: "lz4-napi",
    compress(data, into) {
      const middle = (data.length - SAMPLE_BYTES) >> 1;
      if (middle >= SAMPLE_BYTES && !shrinks(data.subarray(middle, middle + SAMPLE_BYTES))) return 0;
      const block = compressSync(bufferOf(data)).subarray(LENGTH_BYTES);
      if (block.length > into.length) return 0;
      into.set(block);
      return block.length;
    },
    decompress(block, into) {
      const whole = Buffer.allocUnsafe(LENGTH_BYTES + block.length);
      whole.writeUInt32LE(into.length);
      whole.set(block, LENGTH_BYTES);
      try {
        const content = uncompressSync(whole);
        if (content.length === into.length) into.set(content);
        return content.length;
      } catch {
        return -1;
      }
    },
  };
}

function bufferOf(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
}

let loaded: Lz4 | undefined;

/** Whichever there is. @throws EngineError */
export function lz4(): Lz4 {
  loaded ??= systemLz4();
  try {
    loaded ??= packagedLz4();
  } catch (cause) {
    throw new EngineError(
      "compression needs LZ4: install liblz4 (Debian: liblz4-1), or run `npm install lz4-napi`; " +
        "a new volume can do without: sqlfuse create --compression none",
      { cause },
    );
  }
  return loaded;
}

/** Whether there is one. */
export function hasLz4(): boolean {
  try {
    return lz4() !== undefined;
  } catch (error) {
    if (error instanceof EngineError) return false;
    throw error;
  }
}
