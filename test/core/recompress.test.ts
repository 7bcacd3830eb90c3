/** `vacuum` with `recompress`: smaller, and nothing else is different. */
import { readdirSync, readFileSync, statSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { describe as describeVolume } from "../../src/core/info.ts";
import { type VacuumOptions, vacuum } from "../../src/core/rewrite.ts";
import type { Ino } from "../../src/core/types.ts";
import type { Volume } from "../../src/core/volume.ts";
import type { Database } from "../../src/db/database.ts";
import { drain } from "../../src/fsck/check.ts";
import { dump } from "./dump.ts";
import { b, type Fixture, inVolume, mkdir, noise, PASSWORD, put, ROOT, touch } from "./fixture.ts";

const BLOCK = 16_256;
const ATTRIBUTE = b("user.sqlfuse.compression");

function text(length: number, seed = 1): Buffer {
  const all = Array.from({ length: Math.ceil(length / 10) }, (_, i) => `${seed}: line number ${i}\n`).join(
    "",
  );
  return Buffer.from(all).subarray(0, length);
}

function made(volume: Volume, how: string, name: string, content: Buffer): Ino {
  const directory = mkdir(volume, ROOT, how);
  volume.xattrs.set(directory, ATTRIBUTE, b(how), 0, false);
  return put(volume, directory, name, content);
}

function run({ path }: Fixture, options: VacuumOptions): void {
  drain(vacuum(path, PASSWORD, options));
}

/** (block, method, stored bytes, hash) of each block. */
function rowsOf(db: Database): [number, number, number, string][] {
  const rows = db.prepare(
    "SELECT id, codec & 255, length(data), ifnull(hex(hash), '') FROM block ORDER BY id",
  );
  const found: [number, number, number, string][] = [];
  while (rows.step()) found.push([rows.int(0), rows.int(1), rows.int(2), rows.text(3)]);
  return found;
}

describe("recompress", () => {
  it("makes blocks smaller, those of the past too, and changes nothing that is seen", () =>
    inVolume((fixture, volume) => {
      const fast = made(volume, "fast", "a", text(3 * BLOCK));
      made(volume, "strong", "a", text(BLOCK, 2));
      put(volume, ROOT, "noise", noise(BLOCK));
      const copy = touch(volume, ROOT, "copy");
      volume.files.copyFileRange(fast, 0, copy, 0, 2 * BLOCK, false);
      volume.closeEpoch();
      volume.files.write(copy, 0, text(100, 3), false);
      volume.commit();
      const before = dump(volume);
      fixture.close();
      fixture.sql((db) => db.exec("UPDATE block SET hash = randomblob(32) WHERE id % 2"));
      const old = fixture.sql(rowsOf);
      run(fixture, { recompress: true });
      expect(dump(fixture.volume)).toEqual(before);
      fixture.close();
      const now = fixture.sql(rowsOf);
      expect(now.map(([block, , , hash]) => [block, hash])).toEqual(
        old.map(([block, , , hash]) => [block, hash]),
      );
      for (const [i, [block, method, bytes]] of now.entries()) {
        const [, was, size = 0] = old[i] ?? [];
        expect(bytes, `block ${block}`).toBeLessThanOrEqual(size);
        // What was Brotli already is the same; noise and what is short is as it was.
        if (was === 1) expect([block, method, bytes < size]).toEqual([block, 2, true]);
        else expect([method, bytes]).toEqual([was, size]);
      }
      expect(new Set(old.map(([, method]) => method))).toEqual(new Set([0, 1, 2]));
    }));

  it("leaves alone what belongs, or belonged, to a file that shall not be compressed", () =>
    inVolume((fixture, volume) => {
      const file = made(volume, "none", "a", text(2 * BLOCK));
      volume.closeEpoch();
      volume.files.write(file, 0, text(BLOCK, 2), false);
      put(volume, ROOT, "b", text(BLOCK, 3));
      fixture.close();
      run(fixture, { recompress: true });
      expect(fixture.sql(rowsOf).map(([, method]) => method)).toEqual([0, 0, 0, 2]);
    }));

  it("declares the feature where nothing was compressed before; the setting stays", () =>
    inVolume((fixture, volume) => {
      volume.commit();
      fixture.close();
      fixture.sql((db) =>
        db.exec(`UPDATE meta SET value = 'none' WHERE key = 'compression';
          UPDATE meta SET value = '["block-size"]' WHERE key = 'features_incompatible'`),
      );
      put(fixture.volume, ROOT, "a", text(BLOCK));
      fixture.close();
      const { path, key } = fixture;
      run(fixture, {});
      expect(describeVolume(path, key)).toMatchObject({
        featuresIncompatible: ["block-size"],
        compression: "none",
      });
      run(fixture, { recompress: true });
      expect(describeVolume(path, key)).toMatchObject({
        featuresIncompatible: ["block-size", "compression"],
        compression: "none",
        sample: { blocks: 1, contentBytes: BLOCK },
      });
    }));

  it("that is stopped between any two steps leaves the file as it was, and nothing beside it", () =>
    inVolume((fixture, volume) => {
      for (let i = 0; i < 5; i++)
        put(volume, ROOT, `${i}`, Buffer.concat([noise(15 * BLOCK, i), text(8 * BLOCK, i)]));
      fixture.close();
      const before = readFileSync(fixture.path);
      for (let stop = 1, isDone = false; !isDone; stop++) {
        const steps = vacuum(fixture.path, PASSWORD, { recompress: true });
        const phases: string[] = [];
        for (let i = 0; i < stop && !isDone; i++) {
          const step = steps.next();
          isDone = step.done === true;
          if (step.done !== true) phases.push(step.value.phase);
        }
        if (!isDone) {
          steps.return(undefined as never);
          expect(readFileSync(fixture.path).equals(before)).toBe(true);
          // Blocks come in several steps.
          expect(stop > 4 || phases.at(-1) !== "checking").toBe(true);
        }
        expect(readdirSync(fixture.directory)).toEqual(["volume"]);
      }
      expect(statSync(fixture.path).size).toBeLessThan(before.length);
    }));

  it("refuses a volume with a block that cannot be decoded, and names the block", () =>
    inVolume((fixture, volume) => {
      put(volume, ROOT, "a", text(BLOCK));
      put(volume, ROOT, "b", text(BLOCK, 2));
      fixture.close();
      fixture.sql((db) => db.exec("UPDATE block SET data = x'00' WHERE id = 2"));
      expect(() => run(fixture, { recompress: true })).toThrow(/is damaged.*block 2:.*nothing was changed/);
      expect(readdirSync(fixture.directory)).toEqual(["volume"]);
      expect(fixture.number("SELECT length(data) FROM block WHERE id = 2")).toBe(1);
      fixture.sql((db) => db.exec("DELETE FROM block WHERE id = 2; DELETE FROM extent WHERE block = 2"));
      fixture.sql((db) => db.exec("UPDATE inode SET extents = 0 WHERE ino = (SELECT max(ino) FROM inode)"));
    }));
});

describe("a sample", () => {
  it("of many blocks is of some of them, spread over all", () =>
    inVolume((fixture, volume) => {
      put(volume, ROOT, "a", "x");
      fixture.close();
      fixture.sql((db) => {
        db.exec(`WITH RECURSIVE n (i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < 9000)
          INSERT INTO block SELECT i, iif(i > 4500, 1 | (100 << 8), 0), NULL, zeroblob(50) FROM n`);
        db.exec("INSERT INTO extent SELECT 99, id, id, 0, 1 FROM block WHERE id > 1");
      });
      const { sample, blocksStored } = describeVolume(fixture.path, fixture.key);
      expect(blocksStored).toBe(9000);
      expect(sample.blocks).toBeGreaterThan(3000);
      expect(sample.blocks).toBeLessThan(9000);
      expect(sample.storedBytes / sample.contentBytes).toBeCloseTo(0.67, 1);
      fixture.sql((db) => db.exec("DELETE FROM block WHERE id > 1; DELETE FROM extent WHERE ino = 99"));
    }));
});
