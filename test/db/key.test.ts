/** Keys: derivation as SQLCipher does it, forms, wiping; and pages signed by the engine. */
import { pbkdf2Sync } from "node:crypto";
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { Database } from "../../src/db/database.ts";
import { type CipherSettings, KDF_ITERATIONS, Key, STOCK_CIPHER } from "../../src/db/key.ts";
import { hmacKey, pageIsAuthentic } from "../../src/db/page.ts";
import { inDirectory, testKey } from "./fixture.ts";

const SALT = Buffer.from("000102030405060708090a0b0c0d0e0f", "hex");

describe("a key", () => {
  it("is PBKDF2-HMAC-SHA512 of the password, in 256,000 rounds", () => {
    expect(KDF_ITERATIONS).toBe(256_000);
    const key = Key.derive(Buffer.from("päss\0word"), SALT, STOCK_CIPHER);
    expect(key.bytes).toEqual(pbkdf2Sync("päss\0word", SALT, 256_000, 32, "sha512"));
    expect(key.salt).toEqual(SALT);
    expect(key.cipher).toEqual({ pageSize: 4096, hmac: "HMAC_SHA512" });
  });

  it("depends on every byte of password and salt", () => {
    const derive = (password: string, salt: Buffer) =>
      Key.derive(Buffer.from(password), salt, STOCK_CIPHER, 10).bytes.toString("hex");
    const other = Buffer.from(SALT);
    other[15] = 0;
    const keys = [
      derive("a", SALT),
      derive("A", SALT),
      derive("a ", SALT),
      derive("", SALT),
      derive("a", other),
    ];
    expect(new Set(keys).size).toBe(5);
  });

  it("is given to SQLCipher as x'<key><salt>', in hexadecimal", () => {
    const key = new Key(Buffer.from(Array.from({ length: 32 }, (_, i) => 255 - i)), SALT, STOCK_CIPHER);
    const literal = key.rawKeyLiteral();
    expect(literal.toString("latin1")).toBe(`x'${key.bytes.toString("hex")}${SALT.toString("hex")}'`);
    expect(literal).toHaveLength(99);
  });

  it("is zeros when it is wiped", () => {
    const key = testKey();
    const { bytes } = key;
    key.wipe();
    expect(bytes.equals(Buffer.alloc(32))).toBe(true);
  });

  it("crosses to another thread as plain data, whose bytes are zeroed on arrival", () => {
    const key = testKey({ pageSize: 8192, hmac: "HMAC_SHA1" });
    const message = structuredClone(key.toMessage());
    const arrived = Key.fromMessage(message);
    expect(arrived.bytes.equals(key.bytes)).toBe(true);
    expect(arrived.salt.equals(key.salt)).toBe(true);
    expect(arrived.cipher).toEqual(key.cipher);
    expect(message.bytes.every((byte) => byte === 0)).toBe(true);
    key.wipe();
    expect(arrived.bytes.every((byte) => byte === 7)).toBe(true);
  });

  it("is not changed by wiping what it was sent as", () => {
    const key = testKey();
    key.toMessage().bytes.fill(0);
    expect(key.bytes.every((byte) => byte === 7)).toBe(true);
  });

  it("shows in no text of itself", () => {
    const key = testKey();
    for (const text of [String(key), JSON.stringify({ reason: "x" }), `${key}`])
      expect(text).not.toMatch(/7,7,7|0707/);
  });
});

describe("a page", () => {
  const SETTINGS: readonly CipherSettings[] = (["HMAC_SHA1", "HMAC_SHA256", "HMAC_SHA512"] as const).flatMap(
    (hmac) => [1024, 4096, 16_384, 65_536].map((pageSize) => ({ pageSize, hmac })),
  );

  it.each(SETTINGS)(
    "of $pageSize bytes with $hmac that the engine wrote is authentic, and no other is",
    (cipher) =>
      inDirectory((path) => {
        const key = testKey(cipher);
        const db = new Database(path, key, { mode: "create" });
        db.exec(`PRAGMA page_size = ${cipher.pageSize}`);
        db.exec("CREATE TABLE t (v); INSERT INTO t VALUES (randomblob(200000))");
        db.close();
        const bytes = readFileSync(path);
        const signing = hmacKey(key);
        const pageOf = (pageNo: number) =>
          Buffer.from(bytes.subarray((pageNo - 1) * cipher.pageSize, pageNo * cipher.pageSize));
        const pages = bytes.length / cipher.pageSize;
        for (let pageNo = 1; pageNo <= Math.min(pages, 50); pageNo++) {
          expect(pageIsAuthentic(pageOf(pageNo), pageNo, signing, cipher)).toBe(true);
          expect(pageIsAuthentic(pageOf(pageNo), pageNo + 1, signing, cipher)).toBe(false);
        }
        for (const at of [16, 17, cipher.pageSize >> 1, cipher.pageSize - 80]) {
          const broken = pageOf(2);
          broken[at] = (broken[at] ?? 0) ^ 0x80;
          expect(pageIsAuthentic(broken, 2, signing, cipher), `byte ${at}`).toBe(false);
        }
        const first = pageOf(1);
        first[3] = (first[3] ?? 0) ^ 1; // the salt is not covered
        expect(pageIsAuthentic(first, 1, signing, cipher)).toBe(true);
        expect(pageIsAuthentic(pageOf(2), 2, hmacKey(testKey(cipher, 8)), cipher)).toBe(false);
        expect(pageIsAuthentic(Buffer.alloc(cipher.pageSize), 2, signing, cipher)).toBe(false);
      }),
  );
});
