/** A directory as a remote. */
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { DirectoryStore } from "../../src/log/directory.ts";
import { LogError } from "../../src/log/errors.ts";
import { CONTRACT } from "./contract.ts";

async function inDirectory(run: (store: DirectoryStore, path: string) => Promise<void>): Promise<void> {
  const path = mkdtempSync(join(tmpdir(), "directory-"));
  try {
    await run(new DirectoryStore(path), path);
  } finally {
    chmodSync(path, 0o700);
    rmSync(path, { recursive: true });
  }
}

describe("a directory", () => {
  it.each(Object.entries(CONTRACT))("%s", (_, run) => inDirectory(run));

  it("has nothing for others to read, and nothing half written in its lists", () =>
    inDirectory(async (store, path) => {
      await store.put("data/aa/1", Buffer.from("1"));
      expect(statSync(join(path, "data/aa/1")).mode & 0o777).toBe(0o600);
      expect(statSync(join(path, "data/aa")).mode & 0o777).toBe(0o700);
      writeFileSync(join(path, "data/aa/.part-0011"), "half");
      expect(await store.list("data/")).toEqual([{ name: "data/aa/1", size: 1 }]);
      expect(readdirSync(join(path, "data/aa")).sort()).toEqual([".part-0011", "1"]);
    }));

  it("that is missing, as a disk that is not plugged in, is no empty one", () =>
    inDirectory(async (_, path) => {
      const store = new DirectoryStore(join(path, "missing"));
      await expect(store.list("log/")).rejects.toThrow(LogError);
      await expect(store.put("log/1", Buffer.from("x"))).rejects.toThrow("no such directory");
      expect(readdirSync(path)).toEqual([]);
    }));

  it("that is a file is told as one that cannot be used", () =>
    inDirectory(async (_, path) => {
      writeFileSync(join(path, "file"), "");
      const store = new DirectoryStore(join(path, "file"));
      await expect(store.put("log/1", Buffer.from("x"))).rejects.toThrow(/cannot be used \(ENOTDIR\)/);
    }));

  it("is the same by a path that leads there from elsewhere", () =>
    inDirectory(async (store, path) => {
      mkdirSync(join(path, "below"));
      await new DirectoryStore(`${path}/below/..`).put("log/1", Buffer.from("x"));
      expect(await store.get("log/1")).toEqual(Buffer.from("x"));
    }));
});
