import { describe, expect, test } from "vitest";
import * as kernel from "../../src/fuse/kernel.ts";
import { layout } from "../../src/fuse/layout.ts";
import { OPERATIONS, PROTOCOL } from "../../src/fuse/protocol.ts";

describe("a layout", () => {
  test("gives each field its offset", () => {
    const { at } = layout("Example", 24, { a: "u32", b: "u16", c: "u16", d: "u64", e: ["u16", 4] });
    expect(at).toEqual({ a: 0, b: 4, c: 6, d: 8, e: 16 });
  });

  test("of the wrong size stops the program", () => {
    expect(() => layout("Short", 16, { a: "u64" })).toThrow("Short has 16 bytes");
  });

  test("with a field off its boundary stops the program", () => {
    expect(() => layout("Shifted", 12, { a: "u32", b: "u64" })).toThrow("Shifted.b stands on its boundary");
  });
});

describe("the table", () => {
  test("has each opcode once, where it is looked for", () => {
    const codes = Object.values(PROTOCOL).map((row) => row.code);
    expect(new Set(codes).size).toBe(codes.length);
    for (const [name, row] of Object.entries(PROTOCOL)) expect(OPERATIONS[row.code]?.name).toBe(name);
  });

  test("leaves unanswered only what the kernel does not wait for", () => {
    const silent = Object.entries(PROTOCOL).filter(([, row]) => !row.replies);
    expect(silent.map(([name]) => name)).toEqual(["FORGET", "INTERRUPT", "NOTIFY_REPLY", "BATCH_FORGET"]);
  });

  test("leaves unserved only what the kernel does without", () => {
    const unserved = OPERATIONS.filter((row) => row !== undefined && row.handler === undefined);
    expect(unserved.map((row) => row?.name)).toEqual([
      "OPEN",
      "FLUSH",
      "GETLK",
      "SETLK",
      "SETLKW",
      "CREATE",
      "BMAP",
      "POLL",
      "SETUPMAPPING",
      "REMOVEMAPPING",
    ]);
  });

  test("every INIT flag has its own bit", () => {
    const bits = Object.values(kernel.INIT_FLAG);
    expect(new Set(bits).size).toBe(bits.length);
  });
});
