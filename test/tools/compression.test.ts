/** Compression as the command line shows it: none of what it gives out depends on it. */
import { randomBytes } from "node:crypto";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Outcome, sqlfuse } from "./run.ts";

const HOWS = ["none", "fast", "strong"] as const;

let directory: string;
let keyFile: string;
/** A directory to put: text, noise, and a small file. */
let source: string;

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "compression-"));
  keyFile = join(directory, "key");
  writeFileSync(keyFile, randomBytes(32), { mode: 0o600 });
  source = join(directory, "source");
  mkdirSync(source);
  const lines = Array.from({ length: 20_000 }, (_, i) => `line ${i} of a text\n`).join("");
  writeFileSync(join(source, "text"), lines);
  writeFileSync(join(source, "noise"), randomBytes(100_000));
  writeFileSync(join(source, "small"), "small");
  for (const how of HOWS) {
    expect(run("create", "--compression", how, file(how))).toMatchObject({ code: 0, stderr: "" });
    expect(run("put", file(how), source, "/")).toMatchObject({ code: 0, stderr: "" });
  }
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

const file = (name: string) => join(directory, name);

function run(verb: string, ...args: string[]): Outcome {
  return sqlfuse([verb, "--key-file", keyFile, ...args], {});
}

function dumpOf(name: string): string {
  const { code, stdout } = run("dump", file(name));
  expect(code).toBe(0);
  // Times of the root directory and of births are those of each volume.
  return stdout.replace(/ (c|b|a|m)time=\S+/g, "");
}

function packing(name: string): string {
  return /^packing {3}(.*)$/m.exec(run("info", file(name)).stdout)?.[1] ?? "";
}

describe("--compression", () => {
  test("of create is what the volume is made with, and what info says", () => {
    expect(packing("none")).toBe("none; blocks take 1.00 times what is in them");
    const [fast, strong] = [packing("fast"), packing("strong")];
    expect(fast).toMatch(/^fast; blocks take 0\.[3-5]\d times/);
    expect(strong).toMatch(/^strong; blocks take 0\.[23]\d times/);
    expect(run("info", file("fast")).stdout).toMatch(/^format {4}1\.4\.0, compression, block-size$/m);
    const { volume } = JSON.parse(run("info", "--json", file("fast")).stdout) as {
      volume: { compression: string; sample: { contentBytes: number; storedBytes: number } };
    };
    expect(volume.compression).toBe("fast");
    expect(volume.sample.contentBytes).toBeGreaterThan(400_000);
    expect(volume.sample.storedBytes).toBeLessThan(200_000 + volume.sample.contentBytes / 2);
    const sizes = HOWS.map((how) => statSync(file(how)).size);
    expect(sizes.toSorted((a, b) => b - a)).toEqual(sizes);
  });

  test("is fast unless something else is said; --compat says none", () => {
    expect(run("create", file("default")).code).toBe(0);
    expect(packing("default")).toBe("fast");
    // A key file of raw bytes is no password that a stock shell takes alone, but that is not what is asked here.
    expect(run("create", "--compat", file("compat")).code).toBe(0);
    expect(packing("compat")).toBe("none");
    expect(run("create", "--compat", "--compression", "strong", file("both")).code).toBe(0);
    expect(packing("both")).toBe("strong");
  });

  test("is one of three words", () => {
    const { code, stderr } = run("create", "--compression", "zstd", file("never"));
    expect([code, stderr]).toEqual([2, expect.stringMatching(/zstd.*none, fast, strong/)]);
  });
});

describe("what is given out", () => {
  test("is the same however it is compressed: dump, tar, cat and get", () => {
    const [none, fast, strong] = HOWS.map(dumpOf);
    expect(fast).toBe(none);
    expect(strong).toBe(none);
    const text = readFileSync(join(source, "text"));
    for (const how of HOWS) {
      expect(run("cat", file(how), "/source/text").stdout).toBe(text.toString());
      const target = file(`got ${how}`);
      mkdirSync(target);
      expect(run("get", file(how), "/source", target).code).toBe(0);
      for (const name of ["text", "noise", "small"])
        expect(readFileSync(join(target, "source", name)).equals(readFileSync(join(source, name)))).toBe(
          true,
        );
    }
  });

  test("is the same after a load into a volume with another compression", () => {
    const dump = file("dump");
    expect(run("dump", "-o", dump, file("fast")).code).toBe(0);
    expect(run("load", "--compression", "none", file("loaded"), dump).code).toBe(0);
    expect(packing("loaded")).toBe("none; blocks take 1.00 times what is in them");
    expect(run("load", "--compression", "strong", file("loaded strong"), dump).code).toBe(0);
    expect(packing("loaded strong")).toMatch(/^strong; blocks take 0\.[23]/);
    expect(run("dump", file("loaded")).stdout).toBe(readFileSync(dump, "utf8"));
    expect(run("dump", file("loaded strong")).stdout).toBe(readFileSync(dump, "utf8"));
  });

  test("is the same after vacuum --recompress, and takes less", () => {
    const before = run("dump", file("fast")).stdout;
    const { code, stdout, stderr } = run("vacuum", "--recompress", file("fast"));
    expect([code, stderr]).toEqual([0, ""]);
    expect(stdout).toMatch(/ KiB before, .* KiB after, .* KiB given back\n$/);
    expect(packing("fast")).toMatch(/^fast; blocks take 0\.[23]/);
    expect(run("dump", file("fast")).stdout).toBe(before);
    expect(run("fsck", "--verify-data", file("fast"))).toMatchObject({ code: 0 });
  });
});

test("fsck --verify-data finds content that cannot be decoded, repairs it, and is clean then", async () => {
  const path = file("strong");
  const { unlock } = await import("../../src/core/unlock.ts");
  const { Database } = await import("../../src/db/database.ts");
  const { rawKeyPassword } = await import("../../src/db/key.ts");
  const db = new Database(path, unlock(path, rawKeyPassword(readFileSync(keyFile))), { mode: "readwrite" });
  db.exec(
    "UPDATE block SET data = randomblob(length(data)) WHERE id = (SELECT min(id) FROM block WHERE codec > 0)",
  );
  db.close();
  expect(run("fsck", path)).toMatchObject({ code: 0 });
  const found = run("fsck", "--verify-data", path);
  expect(found.code).toBe(4);
  expect(found.stdout).toMatch(
    /^\/source\/text \(inode \d+\): block-content: bytes 0 to 16255 cannot be decoded -> a hole takes their place$/m,
  );
  expect(run("fsck", "--verify-data", "--repair", "--yes", path).code).toBe(1);
  expect(run("fsck", "--verify-data", path).code).toBe(0);
});
