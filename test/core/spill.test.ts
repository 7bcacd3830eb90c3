/** What a long write has changed is in the -wal before its commit, where it counts for nothing. */
import { describe, expect, it } from "vitest";
import { scanWal } from "../../src/db/wal.ts";
import { afterCrash, contentOf, type Fixture, find, inVolume, noise, put, ROOT, touch } from "./fixture.ts";

const KIB = 1024;
const PAGE_BYTES = 16 * KIB;

/** Bytes of pages in the -wal that no commit has. */
function spilledBytes({ path }: Fixture): number {
  const scan = scanWal(`${path}-wal`, PAGE_BYTES);
  return (scan?.unfinished ?? 0) * PAGE_BYTES;
}

describe("a long write", () => {
  it("is in the -wal before it is committed", () =>
    inVolume((fixture, volume) => {
      const file = put(volume, ROOT, "a", noise(300 * KIB, 1));
      expect(spilledBytes(fixture)).toBeGreaterThan(240 * KIB);
      volume.fsync(file);
      expect(spilledBytes(fixture)).toBe(0);
      expect(contentOf(volume, file).equals(noise(300 * KIB, 1))).toBe(true);
    }));

  it("is in the -wal though it comes in pieces, and a name is made in between", () =>
    inVolume((fixture, volume) => {
      const file = touch(volume, ROOT, "a");
      for (let i = 0; i < 8; i++) {
        volume.files.write(file, i * 40 * KIB, noise(40 * KIB, i), false);
        touch(volume, ROOT, `b${i}`);
      }
      expect(spilledBytes(fixture)).toBeGreaterThan(240 * KIB);
    }));

  it("is written once: pieces that follow each other do not write what they share again", () =>
    inVolume((fixture, volume) => {
      const file = touch(volume, ROOT, "a");
      volume.fsync(file);
      const from = scanWal(`${fixture.path}-wal`, PAGE_BYTES)?.written ?? 0;
      for (let i = 0; i < 4; i++) volume.files.write(file, i * 256 * KIB, noise(256 * KIB, i), false);
      const frames = spilledBytes(fixture) / PAGE_BYTES;
      expect(frames).toBeGreaterThan(60);
      volume.fsync(file);
      const scan = scanWal(`${fixture.path}-wal`, PAGE_BYTES);
      // Each page once, though the last ones of the tables were changed by every piece.
      const pages = scan?.frames
        .filter(({ no, current }) => current && no > from)
        .map(({ pageNo }) => pageNo);
      expect(new Set(pages).size).toBe(pages?.length);
    }));

  it("is not there after a crash that comes before its commit", () =>
    inVolume((fixture, volume) => {
      volume.fsync(put(volume, ROOT, "old", "kept"));
      put(volume, ROOT, "new", noise(300 * KIB, 1));
      expect(spilledBytes(fixture)).toBeGreaterThan(0);
      afterCrash(fixture, (_, copy) => {
        expect(find(copy, "old")?.size).toBe(4);
        expect(find(copy, "new")).toBeUndefined();
      });
    }));
});

describe("small files", () => {
  it("are not in the -wal before they are committed, however many there are", () =>
    inVolume((fixture, volume) => {
      for (let i = 0; i < 40; i++) put(volume, ROOT, `f${i}`, noise(20 * KIB, i));
      expect(spilledBytes(fixture)).toBe(0);
    }));
});
