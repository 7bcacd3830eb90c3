/** What a second thread does for a volume, here on the same one: it reads what is committed, and copies the -wal. */
import { readFileSync, statSync, writeFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { Aide } from "../../src/core/aide.ts";
import type { Ino } from "../../src/core/types.ts";
import type { Volume } from "../../src/core/volume.ts";
import { scanWal } from "../../src/db/wal.ts";
import { b, expectErrno, type Fixture, inVolume, noise, put, ROOT, settle } from "./fixture.ts";

const BLOCK = 16_256;

function withAide(run: (fixture: Fixture, volume: Volume, aide: Aide) => void): void {
  inVolume((fixture, volume) => {
    const aide = new Aide(fixture.path, fixture.key, 2 ** 20);
    try {
      run(fixture, volume, aide);
    } finally {
      aide.close();
    }
  });
}

/** The bytes of a read as the aide gets them; undefined where it cannot. */
function readByAide(
  volume: Volume,
  aide: Aide,
  ino: Ino,
  offset: number,
  length: number,
): Buffer | undefined {
  const plan = volume.files.plan(ino, offset, length);
  if (plan === undefined) return undefined;
  const into = Buffer.alloc(plan.length);
  for (const { block, from, at, length: bytes } of plan.parts) {
    const part = Buffer.alloc(bytes, 0xee);
    if (!aide.read(block, from, part)) return undefined;
    part.copy(into, at);
  }
  return into;
}

describe("a read elsewhere", () => {
  it("gets the same bytes as one here, whatever the range, holes and the end included", () =>
    withAide((_, volume, aide) => {
      const content = Buffer.concat([noise(3 * BLOCK), Buffer.alloc(2 * BLOCK), noise(BLOCK + 100)]);
      const file = put(volume, ROOT, "a", content.subarray(0, 3 * BLOCK));
      volume.files.write(file, 5 * BLOCK, content.subarray(5 * BLOCK), false);
      volume.commit();
      for (const [from, length] of [
        [0, content.length],
        [1, 10],
        [BLOCK - 1, 2],
        [2 * BLOCK + 5, 3 * BLOCK + 7],
        [3 * BLOCK, 2 * BLOCK],
        [content.length - 3, 100],
      ] as const) {
        const expected = content.subarray(from, from + length);
        expect(readByAide(volume, aide, file, from, length)?.equals(expected), `${from}+${length}`).toBe(
          true,
        );
      }
    }));

  it("gets compressed blocks too, whole and in part", () =>
    withAide((_, volume, aide) => {
      const content = Buffer.alloc(2 * BLOCK + 500, "all the same, over and over. ");
      const files = ["fast", "strong"].map((how) => {
        const file = put(volume, ROOT, how, "");
        volume.xattrs.set(file, b("user.sqlfuse.compression"), b(how), 0, false);
        volume.files.write(file, 0, content, false);
        return file;
      });
      volume.commit();
      for (const file of files) {
        for (const [from, length] of [
          [0, content.length],
          [5, 100],
          [BLOCK - 1, BLOCK + 2],
        ] as const)
          expect(readByAide(volume, aide, file, from, length)).toEqual(content.subarray(from, from + length));
      }
    }));

  it("of content that cannot be decoded is given back, and others are still answered", () =>
    inVolume((fixture, volume) => {
      const files = ["a", "b"].map((name) => put(volume, ROOT, name, Buffer.alloc(BLOCK, name)));
      fixture.close();
      const garbage = (how: string) =>
        fixture.sql((db) => db.exec(`UPDATE block SET codec = codec ${how} 256 WHERE id = 1`));
      garbage("-");
      const aide = new Aide(fixture.path, fixture.key, 2 ** 20);
      try {
        const opened = fixture.open();
        expect(files.map((file) => readByAide(opened, aide, file, 0, BLOCK)?.length)).toEqual([
          undefined,
          BLOCK,
        ]);
      } finally {
        aide.close();
        fixture.close();
        garbage("+");
      }
    }));

  it("is refused while one of its blocks is not committed", () =>
    withAide((_, volume) => {
      const file = put(volume, ROOT, "a", noise(2 * BLOCK));
      volume.commit();
      volume.files.write(file, BLOCK + 5, b("new"), false);
      expect(volume.files.plan(file, 0, BLOCK)).toBeDefined();
      expect(volume.files.plan(file, 0, BLOCK + 1)).toBeUndefined();
      volume.commit();
      expect(volume.files.plan(file, 0, BLOCK + 1)).toBeDefined();
    }));

  it("of nothing, of a directory and of a file that is gone is what it is here", () =>
    withAide((_, volume) => {
      const file = put(volume, ROOT, "a", "abc");
      volume.commit();
      expect(volume.files.plan(file, 3, 10)).toBeUndefined();
      expectErrno("EISDIR", () => volume.files.plan(ROOT, 0, 10));
      expectErrno("ESTALE", () => volume.files.plan(999 as Ino, 0, 10));
    }));

  it("that comes too late, as the block is deleted, is given back", () =>
    withAide((_, volume, aide) => {
      const file = put(volume, ROOT, "a", noise(BLOCK));
      volume.commit();
      const plan = volume.files.plan(file, 0, BLOCK);
      volume.attributes.setattr(file, { size: 0 });
      volume.commit();
      expect(plan?.parts.map(({ block }) => aide.read(block, 0, new Uint8Array(BLOCK)))).toEqual([false]);
    }));

  it("of a damaged block is given back, and others are still answered", () =>
    inVolume((fixture, volume) => {
      const files = Array.from({ length: 8 }, (_, i) => put(volume, ROOT, `${i}`, noise(BLOCK)));
      fixture.close();
      const bytes = readFileSync(fixture.path);
      // A page in the middle of the last file's data.
      const at = bytes.length - 3 * 16_384 + 100;
      bytes.writeUInt8(bytes.readUInt8(at) ^ 1, at);
      writeFileSync(fixture.path, bytes);
      const aide = new Aide(fixture.path, fixture.key, 2 ** 20);
      const damaged = fixture.open();
      try {
        const answered = files.map((file) => readByAide(damaged, aide, file, 0, BLOCK) !== undefined);
        expect(answered.filter((known) => !known)).toHaveLength(1);
        // In the other order too: one refusal does not lead to another.
        const again = files
          .toReversed()
          .map((file) => readByAide(damaged, aide, file, 0, BLOCK) !== undefined);
        expect(again.toReversed()).toEqual(answered);
      } finally {
        aide.close();
        fixture.close();
        bytes.writeUInt8(bytes.readUInt8(at) ^ 1, at);
        writeFileSync(fixture.path, bytes);
      }
    }));
});

describe("the -wal", () => {
  it("is copied elsewhere, and then the next commit starts it over", () =>
    withAide((fixture, volume, aide) => {
      put(volume, ROOT, "a", noise(10 * BLOCK));
      volume.commit();
      const { length } = readFileSync(`${fixture.path}-wal`);
      const frames = scanWal(`${fixture.path}-wal`, 16_384)?.written;
      expect(frames).toBeGreaterThan(10);
      expect(aide.copyWal()).toBe(frames);
      put(volume, ROOT, "b", noise(5 * BLOCK));
      volume.commit();
      expect(readFileSync(`${fixture.path}-wal`)).toHaveLength(length);
    }));

  it("is asked to be copied once it is long, and what is left over is copied here", () => {
    const asked: string[] = [];
    let copied: number | undefined;
    const copier = {
      copy: () => asked.push("copy") > 0,
      wait: () => asked.push("wait"),
      copied: () => copied,
    };
    inVolume(
      (_, volume) => {
        const file = put(volume, ROOT, "a", noise(22 * 2 ** 20));
        volume.commit();
        expect(asked).toEqual([]);
        volume.files.write(file, 0, noise(4 * 2 ** 20).reverse(), false);
        volume.commit();
        expect(asked).toEqual(["copy"]);
        // All of it is copied: the rest, which is nothing, is copied here, and the -wal starts over.
        copied = 10_000;
        volume.files.write(file, 2 ** 21, noise(2 ** 20).reverse(), false);
        volume.commit();
        copied = undefined;
        volume.files.write(file, 2 ** 22, noise(2 ** 20).reverse(), false);
        volume.commit();
        expect(asked).toEqual(["copy"]);
      },
      { volume: { copier } },
    );
  });

  it.each([true, false])(
    "of a quiet volume is copied elsewhere where that can be, else here: %s",
    (accepts) => {
      let asked = 0;
      const copier = { copy: () => ++asked > 0 && accepts, wait: () => {}, copied: () => undefined };
      inVolume(
        (fixture, volume) => {
          const { size } = statSync(fixture.path);
          put(volume, ROOT, "a", noise(5 * BLOCK));
          volume.commit();
          fixture.clock.advance(2000);
          // Either way there is nothing left to be done.
          expect(settle(volume, fixture.clock)).toBe(Number.POSITIVE_INFINITY);
          expect(asked).toBe(1);
          expect(statSync(fixture.path).size > size).toBe(!accepts);
        },
        { volume: { copier } },
      );
    },
  );

  it("that grows faster than it is copied makes the writer wait", () => {
    const asked = new Set<string>();
    const copier = {
      copy: () => asked.add("copy").size > 0,
      wait: () => asked.add("wait"),
      copied: () => undefined,
    };
    inVolume(
      (_, volume) => {
        const file = put(volume, ROOT, "a", "");
        for (let i = 0; i < 80; i++) volume.files.write(file, i * 2 ** 20, noise(2 ** 20), false);
        expect([...asked]).toEqual(["copy", "wait"]);
      },
      { volume: { copier } },
    );
  });
});
