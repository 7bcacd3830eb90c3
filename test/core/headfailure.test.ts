/** A head on a disk that fails: nothing is lost but what the head tells. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, it, vi } from "vitest";
import { readHeadFile } from "../../src/core/head.ts";
import { inVolume, mkdir, ROOT } from "./fixture.ts";

const disk = vi.hoisted(() => ({ isGone: false }));
vi.mock("node:fs", async (original) => {
  const fs = await original<typeof import("node:fs")>();
  const failing = <Args extends unknown[], Result>(call: (...args: Args) => Result) => {
    return (...args: Args): Result => {
      if (disk.isGone) throw Object.assign(new Error("EIO: the disk is gone"), { code: "EIO" });
      return call(...args);
    };
  };
  return { ...fs, writeSync: failing(fs.writeSync), fsyncSync: failing(fs.fsyncSync) };
});

it("a head that cannot be written fails no commit, is told of once, and is no false alarm afterwards", () =>
  inVolume((fixture) => {
    fixture.close();
    const directory = mkdtempSync(join(tmpdir(), "head-"));
    const head = join(directory, "head");
    try {
      const volume = fixture.open({ headFile: head });
      const commit = (name: string) => {
        const ino = mkdir(volume, ROOT, name);
        volume.fsync(ino);
      };
      disk.isGone = true;
      for (const name of ["a", "b", "c"]) commit(name);
      expect(fixture.takeLog()).toEqual([
        `${head}: cannot be written, so it does not tell the newest state: Error: EIO: the disk is gone`,
      ]);
      expect(readHeadFile(head)?.no).toBe(1);
      disk.isGone = false;
      commit("d");
      expect(readHeadFile(head)?.no).toBe(5);
      disk.isGone = true;
      fixture.close();
      expect(fixture.takeLog()).toHaveLength(1);
      disk.isGone = false;
      fixture.open({ headFile: head });
    } finally {
      disk.isGone = false;
      rmSync(directory, { recursive: true });
    }
  }));
