/** A directory as a remote. */
import { execFileSync } from "node:child_process";
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { DirectoryStore } from "../../src/remote/directory.ts";
import { LogError } from "../../src/remote/errors.ts";
import { IS_ROOT } from "../helpers/volume.ts";
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

  it("is rid of what was left half written a day ago, when somebody writes beside it", () =>
    inDirectory(async (store, path) => {
      mkdirSync(join(path, "data/aa"), { recursive: true });
      const dayAgo = new Date(Date.now() - 25 * 3_600_000);
      for (const name of [".part-new", ".part-old", ".else-old", "old"]) {
        writeFileSync(join(path, "data/aa", name), "half");
        if (name.endsWith("old")) utimesSync(join(path, "data/aa", name), dayAgo, dayAgo);
      }
      await store.list("data/");
      expect(readdirSync(join(path, "data/aa"))).toHaveLength(4);
      await store.put("data/aa/1", Buffer.from("1"));
      expect(readdirSync(join(path, "data/aa")).sort()).toEqual([".else-old", ".part-new", "1", "old"]);
    }));

  it("that is missing, as a disk that is not plugged in, is no empty one", () =>
    inDirectory(async (_, path) => {
      const store = new DirectoryStore(join(path, "missing"));
      await expect(store.list("log/")).rejects.toThrow(LogError);
      await expect(store.put("log/1", Buffer.from("x"))).rejects.toThrow("no such directory");
      expect(readdirSync(path)).toEqual([]);
    }));

  it("that is a file is told as no directory", () =>
    inDirectory(async (_, path) => {
      writeFileSync(join(path, "file"), "");
      const store = new DirectoryStore(join(path, "file"));
      await expect(store.put("log/1", Buffer.from("x"))).rejects.toThrow(/file: is no directory$/);
      await expect(store.list("log/")).rejects.toThrow(/file: is no directory$/);
    }));

  it.skipIf(!IS_ROOT)(
    `that is full is told so${IS_ROOT ? "" : " (left out: only root mounts a small one)"}`,
    () =>
      inDirectory(async (_, path) => {
        mkdirSync(join(path, "small"));
        execFileSync("mount", ["-t", "tmpfs", "-o", "size=64k", "none", join(path, "small")]);
        try {
          const store = new DirectoryStore(join(path, "small"));
          await expect(store.put("log/1", Buffer.alloc(200_000))).rejects.toMatchObject({
            reason: "no-space",
            message: expect.stringMatching(/small: there is no space left$/) as string,
          });
          expect(await store.list("log/")).toEqual([]);
          execFileSync("mount", ["-o", "remount,ro", join(path, "small")]);
          await expect(store.put("log/1", Buffer.from("x"))).rejects.toThrow(/small: is read-only$/);
        } finally {
          execFileSync("umount", [join(path, "small")]);
        }
      }),
  );

  it("is the same by a path that leads there from elsewhere", () =>
    inDirectory(async (store, path) => {
      mkdirSync(join(path, "below"));
      await new DirectoryStore(`${path}/below/..`).put("log/1", Buffer.from("x"));
      expect(await store.get("log/1")).toEqual(Buffer.from("x"));
    }));
});
