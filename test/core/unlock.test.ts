import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { OpenError } from "../../src/core/errors.ts";
import { unlock } from "../../src/core/unlock.ts";
import { Volume } from "../../src/core/volume.ts";
import { KDF_ITERATIONS, rawKeyPassword, STRONG_KDF_ITERATIONS } from "../../src/db/key.ts";
import { check } from "../../src/fsck/check.ts";

let directory: string;
let path: string;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "unlock-"));
  path = join(directory, "v");
});
afterEach(() => rmSync(directory, { recursive: true }));

function reasonOf(password: Buffer): string {
  try {
    unlock(path, password).wipe();
  } catch (error) {
    if (error instanceof OpenError) return error.reason;
    throw error;
  }
  return "opened";
}

describe("a password", () => {
  const PASSWORD = Buffer.from("correct horse");

  test.each([
    ["standard", KDF_ITERATIONS],
    ["strong", STRONG_KDF_ITERATIONS],
  ])("opens a volume with a %s derivation, and says which it was", (_, iterations) => {
    Volume.create(path, PASSWORD, { iterations });
    const key = unlock(path, PASSWORD);
    expect(key.iterations).toBe(iterations);
    expect(check(path, key)).toEqual([]);
    expect(reasonOf(Buffer.from("correct horsf"))).toBe("wrong-password");
  });

  test("is every byte of it: a NUL, a newline, no UTF-8", () => {
    const odd = Buffer.from([0xff, 0x00, 0x61, 0x0a]);
    Volume.create(path, odd);
    expect(reasonOf(odd)).toBe("opened");
    expect(reasonOf(odd.subarray(0, 3))).toBe("wrong-password");
  });
});

describe("a raw key", () => {
  const BYTES = Buffer.from(Array.from({ length: 32 }, (_, i) => 255 - 7 * i));

  test("opens a volume without derivation, in the form that SQLCipher's own shell takes", () => {
    Volume.create(path, rawKeyPassword(BYTES));
    const key = unlock(path, Buffer.from(`X'${BYTES.toString("hex").toUpperCase()}'`));
    expect(key.iterations).toBe(0);
    expect(key.bytes).toEqual(BYTES);
    expect(check(path, key)).toEqual([]);
    BYTES[0] = 0;
    expect(reasonOf(rawKeyPassword(BYTES))).toBe("wrong-password");
  });

  test.each([
    ["a digit too few", `x'${"a1".repeat(31)}b'`],
    ["a letter that is no digit", `x'${"a1".repeat(31)}bg'`],
    ["other quotes", `x"${"a1".repeat(32)}"`],
  ])("is not what only looks like one: %s", (_, text) => {
    Volume.create(path, Buffer.from(text));
    expect(unlock(path, Buffer.from(text)).iterations).toBe(KDF_ITERATIONS);
  });
});
