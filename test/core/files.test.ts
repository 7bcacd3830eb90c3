/** Contents of files: a test per line of the error tables in src/core/files.ts, and what is stored for them. */
import { describe, expect, it } from "vitest";
import type { ErrnoName } from "../../src/base/errno.ts";
import { type Ino, MAX_FILE_SIZE, SEEK_DATA, SEEK_HOLE } from "../../src/core/types.ts";
import type { Volume } from "../../src/core/volume.ts";
import { queryNumber } from "../db/query.ts";
import {
  b,
  CALLER,
  contentOf,
  expectErrno,
  type Fixture,
  inVolume,
  mkdir,
  NOBODY,
  noise,
  put,
  ROOT,
  S_IFIFO,
  settle,
  touch,
} from "./fixture.ts";

const KEEP_SIZE = 1;
const PUNCH = 2 | KEEP_SIZE;
const ZERO = 0x10;
const BLOCK = 4096;
const SMALL = { blockSize: BLOCK };

type Operation = (volume: Volume, ino: Ino) => unknown;

const OPERATIONS: readonly (readonly [string, Operation])[] = [
  ["read", (v, ino) => v.files.read(ino, 0, 1, new Uint8Array(1))],
  ["write", (v, ino) => v.files.write(ino, 0, b("x"), false)],
  ["fallocate", (v, ino) => v.files.fallocate(ino, 0, 0, 1, false)],
  ["punching a hole", (v, ino) => v.files.fallocate(ino, PUNCH, 0, 1, false)],
  ["lseek", (v, ino) => v.files.lseek(ino, 0, SEEK_DATA)],
  ["copying from", (v, ino) => v.files.copyFileRange(ino, 0, put(v, ROOT, "to", "x"), 0, 1, false)],
  ["copying to", (v, ino) => v.files.copyFileRange(put(v, ROOT, "from", "x"), 0, ino, 0, 1, false)],
];

describe.each(OPERATIONS)("%s is refused with", (_, run) => {
  it("ESTALE for what is not there, EISDIR for a directory, EINVAL for a fifo and a symlink", () => {
    const cases: readonly (readonly [ErrnoName, (volume: Volume) => Ino])[] = [
      ["ESTALE", () => NOBODY],
      ["EISDIR", (volume) => mkdir(volume, ROOT, "d")],
      ["EINVAL", (volume) => volume.tree.mknod(ROOT, b("f"), S_IFIFO, 0, CALLER).ino],
      ["EINVAL", (volume) => volume.tree.symlink(ROOT, b("s"), b("t"), CALLER).ino],
    ];
    for (const [code, make] of cases)
      inVolume((_, volume) => {
        const ino = make(volume);
        expectErrno(code, () => run(volume, ino));
      });
  });
});

describe("read", () => {
  it("tells fewer bytes at the end, none past it, and leaves the rest of the buffer", () =>
    inVolume((_, volume) => {
      const file = put(volume, ROOT, "a", "0123456789");
      const into = Buffer.alloc(12, 0x2e);
      expect(volume.files.read(file, 7, 12, into)).toBe(3);
      expect(into.toString()).toBe("789.........");
      expect(volume.files.read(file, 10, 5, into)).toBe(0);
      expect(volume.files.read(file, MAX_FILE_SIZE, 5, into)).toBe(0);
      expect(volume.files.read(file, 0, 0, into)).toBe(0);
      expect(into.toString()).toBe("789.........");
    }));

  it("fills holes with zeros over whatever the buffer held", () =>
    inVolume((_, volume) => {
      const file = touch(volume, ROOT, "a");
      volume.files.write(file, 2 * BLOCK, b("x"), false);
      volume.files.write(file, 5 * BLOCK + 10, b("y"), false);
      const into = Buffer.alloc(6 * BLOCK, 0xff);
      expect(volume.files.read(file, 0, into.length, into)).toBe(5 * BLOCK + 11);
      const expected = Buffer.alloc(5 * BLOCK + 11);
      expected[2 * BLOCK] = 0x78;
      expected[5 * BLOCK + 10] = 0x79;
      expect(into.subarray(0, expected.length).equals(expected)).toBe(true);
    }, SMALL));

  it("gives the same from the open group, from a committed one and after a remount", () =>
    inVolume((fixture, volume) => {
      const content = noise(200_001);
      const file = put(volume, ROOT, "a", content);
      expect(contentOf(volume, file).equals(content)).toBe(true);
      volume.commit();
      expect(contentOf(volume, file).equals(content)).toBe(true);
      volume.files.write(file, 100_000, b("changed"), false);
      content.set(b("changed"), 100_000);
      expect(contentOf(volume, file).equals(content)).toBe(true);
      expect(contentOf(fixture.remount(), file).equals(content)).toBe(true);
    }));
});

describe("write", () => {
  it("of nothing changes nothing, not even a time", () =>
    inVolume((fixture, volume) => {
      const file = put(volume, ROOT, "a", "content");
      const before = volume.attributes.getattr(file);
      fixture.clock.advance(1000);
      expect(volume.files.write(file, 1e9, b(""), false)).toBe(0);
      expect(volume.attributes.getattr(file)).toEqual(before);
    }));

  it("moves mtime and ctime", () =>
    inVolume((fixture, volume) => {
      const file = put(volume, ROOT, "a", "content");
      const before = volume.attributes.getattr(file);
      fixture.clock.advance(1000);
      const { sec, nsec } = fixture.clock;
      volume.files.write(file, 0, b("C"), false);
      expect(volume.attributes.getattr(file)).toEqual({
        ...before,
        mtimeSec: sec,
        mtimeNsec: nsec,
        ctimeSec: sec,
        ctimeNsec: nsec,
      });
    }));

  it("may end at 2^53 - 1, and is refused with EFBIG past it", () =>
    inVolume((fixture, volume) => {
      const file = touch(volume, ROOT, "a");
      expect(volume.files.write(file, MAX_FILE_SIZE - 3, b("end"), false)).toBe(3);
      for (const offset of [MAX_FILE_SIZE - 2, MAX_FILE_SIZE, 2 ** 53, 2 ** 62])
        expectErrno("EFBIG", () => volume.files.write(file, offset, b("end"), false));
      const again = fixture.remount();
      expect(again.attributes.getattr(file).size).toBe(MAX_FILE_SIZE);
      const into = Buffer.alloc(10);
      expect(again.files.read(file, MAX_FILE_SIZE - 5, 10, into)).toBe(5);
      expect(into.toString("latin1", 0, 5)).toBe("\0\0end");
      expect(again.files.lseek(file, 0, SEEK_DATA)).toBeGreaterThan(MAX_FILE_SIZE - 65_536 - 3);
      expect(again.files.lseek(file, MAX_FILE_SIZE - 3, SEEK_HOLE)).toBe(MAX_FILE_SIZE);
    }));

  it("is refused with EINVAL at a negative offset", () =>
    inVolume((_, volume) => {
      const file = touch(volume, ROOT, "a");
      expectErrno("EINVAL", () => volume.files.write(file, -1, b("xy"), false));
    }));

  it("stores no more than was written, and nothing for what lies between", () =>
    inVolume((fixture, volume) => {
      const file = touch(volume, ROOT, "a");
      volume.files.write(file, 10, b("x"), false);
      volume.files.write(file, 5e9, b("y"), false);
      fixture.close();
      expect(fixture.number("SELECT count(*) FROM extent")).toBe(2);
      expect(fixture.number("SELECT sum(length(data)) FROM block")).toBeLessThanOrEqual(11 + 65_536);
    }));

  it("overwrites a block in place within one epoch, and writes a new one in the next", () =>
    inVolume((fixture, volume) => {
      const file = put(volume, ROOT, "a", noise(3 * BLOCK));
      const blocks = () => {
        fixture.close();
        return fixture.number("SELECT count(*) FROM block");
      };
      volume.files.write(file, BLOCK, noise(BLOCK, 2), false);
      expect(blocks()).toBe(3);
      fixture.volume.closeEpoch();
      fixture.volume.files.write(file, BLOCK, noise(BLOCK, 3), false);
      expect(blocks()).toBe(4);
      fixture.volume.files.write(file, BLOCK, noise(BLOCK, 4), false);
      expect(blocks()).toBe(4);
    }, SMALL));
});

describe("fallocate", () => {
  it("is refused with EOPNOTSUPP for the modes that are not known", () =>
    inVolume((_, volume) => {
      const file = put(volume, ROOT, "a", "content");
      for (const mode of [2, 4, 8, 0x20, 0x40, 0x12, 0x13, 0x80])
        expectErrno("EOPNOTSUPP", () => volume.files.fallocate(file, mode, 0, 10, false));
    }));

  it("is refused with EINVAL for no length and for what is negative", () =>
    inVolume((_, volume) => {
      const file = put(volume, ROOT, "a", "content");
      for (const mode of [0, KEEP_SIZE, PUNCH, ZERO]) {
        expectErrno("EINVAL", () => volume.files.fallocate(file, mode, 0, 0, false));
        expectErrno("EINVAL", () => volume.files.fallocate(file, mode, 0, -5, false));
        expectErrno("EINVAL", () => volume.files.fallocate(file, mode, -5, 5, false));
      }
    }));

  it("is refused with EFBIG past 2^53 - 1", () =>
    inVolume((_, volume) => {
      const file = put(volume, ROOT, "a", "content");
      for (const mode of [0, KEEP_SIZE, ZERO]) {
        expectErrno("EFBIG", () => volume.files.fallocate(file, mode, MAX_FILE_SIZE, 1, false));
        expectErrno("EFBIG", () => volume.files.fallocate(file, mode, 10, MAX_FILE_SIZE, false));
      }
    }));

  it("is refused with ENOSPC for more than the disk has", () =>
    inVolume((_, volume) => {
      const file = put(volume, ROOT, "a", "content");
      const before = volume.attributes.getattr(file);
      expectErrno("ENOSPC", () => volume.files.fallocate(file, 0, 0, 2 ** 50, false));
      expectErrno("ENOSPC", () => volume.files.fallocate(file, KEEP_SIZE, 0, 2 ** 50, false));
      expect(volume.attributes.getattr(file)).toEqual(before);
    }));

  it("allocates: st_blocks rise, the content stays, SEEK_DATA passes over it", () =>
    inVolume((_, volume) => {
      const file = put(volume, ROOT, "a", "content");
      volume.files.fallocate(file, 0, 0, 10 * BLOCK, false);
      expect(volume.attributes.getattr(file)).toMatchObject({ size: 10 * BLOCK, blocks: (10 * BLOCK) / 512 });
      const expected = Buffer.alloc(10 * BLOCK);
      expected.write("content");
      expect(contentOf(volume, file).equals(expected)).toBe(true);
      expect(volume.files.lseek(file, 0, SEEK_HOLE)).toBe(BLOCK);
      expectErrno("ENXIO", () => volume.files.lseek(file, BLOCK, SEEK_DATA));
    }, SMALL));

  it("with KEEP_SIZE reserves past the end, which a truncation to the same size gives up", () =>
    inVolume((fixture, volume) => {
      const file = put(volume, ROOT, "a", "content");
      volume.files.fallocate(file, KEEP_SIZE, 0, 10 * BLOCK, false);
      expect(volume.attributes.getattr(file)).toMatchObject({ size: 7, blocks: (10 * BLOCK) / 512 });
      volume.attributes.setattr(file, { size: 3 });
      fixture.close();
      expect(fixture.number("SELECT count(*) FROM extent")).toBe(1);
    }, SMALL));

  it("punches: st_blocks fall by whole blocks, what is left in part reads as zeros", () =>
    inVolume((_, volume) => {
      const content = noise(10 * BLOCK);
      const file = put(volume, ROOT, "a", content);
      volume.files.fallocate(file, PUNCH, BLOCK - 5, 3 * BLOCK + 10, false);
      content.fill(0, BLOCK - 5, 4 * BLOCK + 5);
      expect(contentOf(volume, file).equals(content)).toBe(true);
      expect(volume.attributes.getattr(file)).toMatchObject({ size: 10 * BLOCK, blocks: (7 * BLOCK) / 512 });
    }, SMALL));

  it("punches what lies past the end, and the end's block when nothing is left of it", () =>
    inVolume((fixture, volume) => {
      const file = put(volume, ROOT, "a", noise(BLOCK + 100));
      volume.files.fallocate(file, KEEP_SIZE, 0, 10 * BLOCK, false);
      volume.files.fallocate(file, PUNCH, BLOCK, MAX_FILE_SIZE - BLOCK, false);
      expect(volume.attributes.getattr(file)).toMatchObject({ size: BLOCK + 100, blocks: BLOCK / 512 });
      fixture.close();
      expect(fixture.number("SELECT count(*) FROM extent")).toBe(1);
    }, SMALL));

  it("zeroes a range, allocated afterwards, and extends the file unless KEEP_SIZE is given", () =>
    inVolume((_, volume) => {
      const content = noise(3 * BLOCK);
      const file = put(volume, ROOT, "a", content);
      volume.files.fallocate(file, ZERO | KEEP_SIZE, 2 * BLOCK + 7, 5 * BLOCK, false);
      content.fill(0, 2 * BLOCK + 7);
      expect(contentOf(volume, file).equals(content)).toBe(true);
      volume.files.fallocate(file, ZERO, 10, 5 * BLOCK, false);
      const longer = Buffer.alloc(5 * BLOCK + 10);
      content.copy(longer, 0, 0, 10);
      expect(contentOf(volume, file).equals(longer)).toBe(true);
      expect(volume.attributes.getattr(file).blocks).toBeGreaterThanOrEqual((5 * BLOCK + 10) / 512);
    }, SMALL));

  it("clears privileges when it is told to", () =>
    inVolume((_, volume) => {
      const file = put(volume, ROOT, "a", "content");
      for (const mode of [0, PUNCH, ZERO]) {
        volume.attributes.setattr(file, { mode: 0o6755 });
        volume.files.fallocate(file, mode, 0, 3, false);
        expect(volume.attributes.getattr(file).mode & 0o7777).toBe(0o6755);
        volume.files.fallocate(file, mode, 0, 3, true);
        expect(volume.attributes.getattr(file).mode & 0o7777).toBe(0o755);
      }
    }));
});

describe("lseek", () => {
  it("is refused with EINVAL for another whence, ENXIO at and past the end and where no data follows", () =>
    inVolume((_, volume) => {
      const file = put(volume, ROOT, "a", "content");
      for (const whence of [0, 1, 2, 5]) expectErrno("EINVAL", () => volume.files.lseek(file, 0, whence));
      for (const whence of [SEEK_DATA, SEEK_HOLE])
        for (const offset of [7, 8, MAX_FILE_SIZE])
          expectErrno("ENXIO", () => volume.files.lseek(file, offset, whence));
      volume.attributes.setattr(file, { size: 10 * BLOCK });
      expectErrno("ENXIO", () => volume.files.lseek(file, BLOCK, SEEK_DATA));
      expectErrno("ENXIO", () => volume.files.lseek(touch(volume, ROOT, "empty"), 0, SEEK_HOLE));
    }, SMALL));

  it("finds data and holes, from within and from between them", () =>
    inVolume((_, volume) => {
      const file = touch(volume, ROOT, "a");
      volume.files.write(file, 2 * BLOCK, noise(2 * BLOCK), false); // blocks 2 and 3
      volume.files.write(file, 6 * BLOCK, noise(100), false); // block 6, the end
      const seek = (whence: number, ...offsets: number[]) =>
        offsets.map((o) => volume.files.lseek(file, o, whence));
      expect(seek(SEEK_DATA, 0, 2 * BLOCK, 2 * BLOCK + 1, 4 * BLOCK, 6 * BLOCK + 99)).toEqual([
        2 * BLOCK,
        2 * BLOCK,
        2 * BLOCK + 1,
        6 * BLOCK,
        6 * BLOCK + 99,
      ]);
      expect(seek(SEEK_HOLE, 0, 2 * BLOCK, 3 * BLOCK + 9, 4 * BLOCK + 9, 6 * BLOCK)).toEqual([
        0,
        4 * BLOCK,
        4 * BLOCK,
        4 * BLOCK + 9,
        6 * BLOCK + 100,
      ]);
    }, SMALL));
});

describe("copyFileRange", () => {
  const sharedBlocks = (fixture: Fixture) => {
    fixture.close();
    return fixture.number(
      "SELECT count(*) FROM (SELECT block FROM extent GROUP BY block HAVING count(*) > 1)",
    );
  };

  it("is refused with EINVAL where the ranges overlap in one file, EFBIG past 2^53 - 1", () =>
    inVolume((_, volume) => {
      const file = put(volume, ROOT, "a", noise(100));
      for (const [from, to] of [
        [0, 0],
        [0, 49],
        [49, 0],
      ] as const)
        expectErrno("EINVAL", () => volume.files.copyFileRange(file, from, file, to, 50, false));
      expect(volume.files.copyFileRange(file, 0, file, 50, 50, false)).toBe(50);
      const other = touch(volume, ROOT, "b");
      expectErrno("EFBIG", () => volume.files.copyFileRange(file, 0, other, MAX_FILE_SIZE - 10, 50, false));
      expect(volume.files.copyFileRange(file, 0, other, MAX_FILE_SIZE - 50, 50, false)).toBe(50);
    }));

  it("copies nothing from the end on, and what there is before it", () =>
    inVolume((_, volume) => {
      const file = put(volume, ROOT, "a", "0123456789");
      const other = touch(volume, ROOT, "b");
      expect(volume.files.copyFileRange(file, 10, other, 0, 5, false)).toBe(0);
      expect(volume.files.copyFileRange(file, 100, other, 0, 5, false)).toBe(0);
      expect(volume.files.copyFileRange(file, 7, other, 2, 500, false)).toBe(3);
      expect(contentOf(volume, other).toString("latin1")).toBe("\0\x00789");
    }));

  it("shares whole blocks and copies none of their bytes", () =>
    inVolume((fixture, volume) => {
      const content = noise(10 * BLOCK + 123);
      const file = put(volume, ROOT, "a", content);
      const other = touch(volume, ROOT, "b");
      expect(volume.files.copyFileRange(file, 0, other, 0, content.length, false)).toBe(content.length);
      expect(contentOf(volume, other).equals(content)).toBe(true);
      expect(sharedBlocks(fixture)).toBe(11);
      expect(fixture.number("SELECT count(*) FROM block")).toBe(11);
    }, SMALL));

  it("shares what lies between two ends that it copies, where the offsets lie alike in a block", () =>
    inVolume((fixture, volume) => {
      const content = noise(10 * BLOCK);
      const file = put(volume, ROOT, "a", content);
      const other = put(volume, ROOT, "b", noise(20 * BLOCK, 2));
      expect(volume.files.copyFileRange(file, 100, other, 5 * BLOCK + 100, 8 * BLOCK, false)).toBe(8 * BLOCK);
      const expected = noise(20 * BLOCK, 2);
      content.copy(expected, 5 * BLOCK + 100, 100, 100 + 8 * BLOCK);
      expect(contentOf(volume, other).equals(expected)).toBe(true);
      expect(sharedBlocks(fixture)).toBe(7);
    }, SMALL));

  it("copies bytes where the offsets do not lie alike or the block sizes differ", () =>
    inVolume((fixture, volume) => {
      const content = noise(10 * BLOCK);
      const file = put(volume, ROOT, "a", content);
      fixture.close();
      fixture.sql((db) => db.exec("UPDATE meta SET value = 8192 WHERE key = 'block_size'"));
      const again = fixture.volume;
      const other = touch(again, ROOT, "b");
      expect(again.attributes.getattr(other).blockSize).toBe(8192);
      again.files.copyFileRange(file, 0, other, 0, content.length, false);
      expect(contentOf(again, other).equals(content)).toBe(true);
      again.files.copyFileRange(file, 5, file, 20 * BLOCK, 9 * BLOCK, false);
      expect(
        contentOf(again, file)
          .subarray(20 * BLOCK)
          .equals(content.subarray(5, 9 * BLOCK + 5)),
      ).toBe(true);
      expect(sharedBlocks(fixture)).toBe(0);
    }, SMALL));

  it("copies holes as holes, over what was there", () =>
    inVolume((fixture, volume) => {
      const file = touch(volume, ROOT, "a");
      volume.files.write(file, 5 * BLOCK, noise(BLOCK), false);
      volume.attributes.setattr(file, { size: 10 * BLOCK });
      const other = put(volume, ROOT, "b", noise(10 * BLOCK, 2));
      volume.files.copyFileRange(file, 0, other, 0, 10 * BLOCK, false);
      expect(contentOf(volume, other).equals(contentOf(volume, file))).toBe(true);
      fixture.close();
      expect(fixture.number(`SELECT count(*) FROM extent WHERE ino = ${other}`)).toBe(1);
      expect(fixture.number("SELECT count(*) FROM block")).toBe(1);
    }, SMALL));

  it("leaves each side alone when the other is overwritten, truncated, punched and removed", () =>
    inVolume((fixture, volume) => {
      const content = noise(6 * BLOCK);
      const file = put(volume, ROOT, "a", content);
      const other = touch(volume, ROOT, "b");
      const third = touch(volume, ROOT, "c");
      for (const to of [other, third]) volume.files.copyFileRange(file, 0, to, 0, content.length, false);
      volume.files.write(file, 10, b("one side"), false);
      volume.files.write(other, BLOCK, noise(BLOCK, 9), false);
      volume.files.fallocate(file, PUNCH, 2 * BLOCK, BLOCK, false);
      volume.files.fallocate(other, ZERO, 3 * BLOCK + 1, 50, false);
      volume.attributes.setattr(file, { size: 5 * BLOCK - 1 });
      expect(contentOf(volume, third).equals(content)).toBe(true);
      const otherContent = Buffer.from(content);
      noise(BLOCK, 9).copy(otherContent, BLOCK);
      otherContent.fill(0, 3 * BLOCK + 1, 3 * BLOCK + 51);
      expect(contentOf(volume, other).equals(otherContent)).toBe(true);
      volume.tree.unlink(ROOT, b("a"));
      settle(volume, fixture.clock);
      expect(contentOf(volume, third).equals(content)).toBe(true);
      volume.tree.unlink(ROOT, b("b"));
      settle(volume, fixture.clock);
      expect(contentOf(fixture.remount(), third).equals(content)).toBe(true);
      fixture.close();
      expect(fixture.number("SELECT count(*) FROM block")).toBe(6);
    }, SMALL));

  it("moves the target's mtime and clears its privileges when told to, and leaves the source", () =>
    inVolume((fixture, volume) => {
      const file = put(volume, ROOT, "a", noise(3 * BLOCK));
      const other = touch(volume, ROOT, "b");
      volume.attributes.setattr(other, { mode: 0o6755 });
      const before = volume.attributes.getattr(file);
      fixture.clock.advance(1000);
      volume.files.copyFileRange(file, 0, other, 0, 3 * BLOCK, true);
      expect(volume.attributes.getattr(file)).toEqual(before);
      expect(volume.attributes.getattr(other)).toMatchObject({ mtimeSec: fixture.clock.sec, mode: 0o100755 });
    }, SMALL));

  it("answers short after 16 MiB, at the border of a block, and a loop copies the rest", () =>
    inVolume((_, volume) => {
      const MIB = 2 ** 20;
      const file = touch(volume, ROOT, "a");
      for (let at = 0; at < 60 * MIB; at += MIB) volume.files.write(file, at, b(`at ${at}`), false);
      const { size } = volume.attributes.getattr(file);
      const other = touch(volume, ROOT, "b");
      let copied = 0;
      let calls = 0;
      while (copied < size) {
        copied += volume.files.copyFileRange(file, copied, other, copied, size - copied, false);
        calls++;
      }
      expect(calls).toBeGreaterThan(1);
      const into = Buffer.alloc(20);
      for (let at = 0; at < 60 * MIB; at += MIB) {
        const length = volume.files.read(other, at, 20, into);
        expect(into.toString("latin1", 0, length).replace(/\0+$/, "")).toBe(`at ${at}`);
      }
    }));
});

describe("space", () => {
  it("comes back after an unlink: the file does not grow when as much is written again", () =>
    inVolume((fixture, volume) => {
      const MIB = 2 ** 20;
      put(volume, ROOT, "a", noise(8 * MIB));
      volume.tree.unlink(ROOT, b("a"));
      settle(volume, fixture.clock);
      fixture.clock.advance(5000);
      settle(volume, fixture.clock);
      fixture.close();
      const [pages, free] = fixture.sql((db) => [
        queryNumber(db, "PRAGMA page_count"),
        queryNumber(db, "PRAGMA freelist_count"),
      ]);
      expect(free * 16_384).toBeGreaterThan(8 * MIB);
      put(fixture.volume, ROOT, "b", noise(8 * MIB, 2));
      fixture.close();
      expect(fixture.number("PRAGMA page_count")).toBeLessThanOrEqual(pages);
    }));

  it("comes back after a truncation and a punched hole too", () =>
    inVolume((fixture, volume) => {
      const file = put(volume, ROOT, "a", noise(300 * BLOCK));
      const blocks = () => {
        fixture.close();
        return fixture.number("SELECT count(*) FROM block");
      };
      volume.files.fallocate(file, PUNCH, 100 * BLOCK, 50 * BLOCK, false);
      expect(blocks()).toBe(250);
      fixture.volume.attributes.setattr(file, { size: 90 * BLOCK });
      settle(fixture.volume, fixture.clock);
      expect(blocks()).toBe(90);
    }, SMALL));

  it("of a large file comes back in the background: the truncation itself leaves the work to idle", () =>
    inVolume((fixture, volume) => {
      const file = touch(volume, ROOT, "a");
      for (let i = 0; i < 1000; i++) volume.files.write(file, i * BLOCK, b("x"), false);
      volume.attributes.setattr(file, { size: 10 * BLOCK + 1 });
      expect(volume.attributes.getattr(file)).toMatchObject({
        size: 10 * BLOCK + 1,
        blocks: expect.any(Number),
      });
      volume.attributes.setattr(file, { size: 900 * BLOCK });
      const expected = Buffer.alloc(900 * BLOCK);
      for (let i = 0; i <= 10; i++) expected[i * BLOCK] = 0x78;
      expect(contentOf(volume, file).equals(expected)).toBe(true);
      settle(volume, fixture.clock);
      fixture.close();
      expect(fixture.number("SELECT count(*) FROM block")).toBe(11);
      expect(fixture.number("SELECT count(*) FROM inode")).toBe(2);
    }, SMALL));
});
