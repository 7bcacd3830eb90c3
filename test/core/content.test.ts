/** Files against a plain model of bytes: random operations at unaligned offsets, with remounts in between. */
import { describe, expect, it } from "vitest";
import { type Ino, MAX_FILE_SIZE, SEEK_DATA, SEEK_HOLE } from "../../src/core/types.ts";
import type { Volume } from "../../src/core/volume.ts";
import { ContentModel } from "./content.ts";
import { b, errnoOf, type Fixture, inVolume, ROOT, settle, touch } from "./fixture.ts";
import { type Random, withRandom } from "./random.ts";

const KEEP_SIZE = 1;
const PUNCH = 2 | KEEP_SIZE;
const ZERO = 0x10;

/** Where the operations of a run take place. */
interface Range {
  /** Files begin there and end before `end`: small files, or far out. */
  readonly start: number;
  readonly end: number;
  /** Most bytes in one operation. */
  readonly most: number;
}

interface File {
  readonly name: string;
  ino: Ino;
  model: ContentModel;
}

class Run {
  readonly fixture: Fixture;
  readonly random: Random;
  readonly range: Range;
  readonly blockSize: number;
  readonly step: (text: string) => void;
  readonly files: File[];

  constructor(
    fixture: Fixture,
    random: Random,
    step: (text: string) => void,
    blockSize: number,
    range: Range,
  ) {
    this.fixture = fixture;
    this.random = random;
    this.step = step;
    this.blockSize = blockSize;
    this.range = range;
    this.files = ["a", "b", "c"].map((name) => ({
      name,
      ino: touch(this.volume, ROOT, name),
      model: new ContentModel(),
    }));
  }

  get volume(): Volume {
    return this.fixture.volume;
  }

  /** An offset that likes the borders of blocks, and those of the file. */
  offset(file?: File): number {
    const { start, end } = this.range;
    const near = this.random.between(-3, 3);
    const anywhere = start + this.random.below(end - start);
    const border = Math.floor(anywhere / this.blockSize) * this.blockSize;
    const choice = this.random.pick([anywhere, border, border + near, (file?.model.size ?? start) + near]);
    return Math.min(Math.max(choice, start), end);
  }

  length(offset: number): number {
    const { end, most } = this.range;
    const whole = this.random.between(1, Math.floor(most / this.blockSize)) * this.blockSize;
    const choice = this.random.pick([
      1,
      this.random.between(1, most),
      whole,
      whole + this.random.between(-2, 2),
    ]);
    return Math.max(0, Math.min(choice, most, end - offset));
  }

  /** Content that likes zeros, and mostly shrinks. */
  data(length: number): Buffer {
    if (this.random.chance(0.1)) return Buffer.alloc(length);
    if (this.random.chance(0.2)) return this.random.bytes(length);
    const piece = this.random.bytes(Math.min(length, 257));
    const bytes = Buffer.alloc(length);
    for (let at = 0; at < length; at += piece.length) piece.copy(bytes, at);
    return bytes;
  }

  operate(): void {
    const { random, volume } = this;
    const file = random.pick(this.files);
    const { ino, model, name } = file;
    const offset = this.offset(file);
    const length = this.length(offset);
    const kind = random.below(100);
    if (kind < 30) {
      this.step(`write ${name} ${offset}+${length}`);
      const data = this.data(length);
      expect(volume.files.write(ino, offset, data, random.chance(0.1))).toBe(length);
      model.write(offset, data);
    } else if (kind < 40) {
      this.step(`truncate ${name} ${offset}`);
      volume.attributes.setattr(ino, { size: offset });
      model.truncate(offset);
    } else if (kind < 60 && length > 0) {
      const mode = random.pick([0, KEEP_SIZE, PUNCH, ZERO, ZERO | KEEP_SIZE]);
      this.step(`fallocate ${name} mode ${mode} ${offset}+${length}`);
      volume.files.fallocate(ino, mode, offset, length, random.chance(0.1));
      if (mode === PUNCH || (mode & ZERO) !== 0) model.zero(offset, length);
      if ((mode & KEEP_SIZE) === 0) model.size = Math.max(model.size, offset + length);
    } else if (kind < 80) {
      this.copy(file, offset, length);
    } else if (kind < 85) {
      this.step("commit");
      volume.commit();
    } else if (kind < 88) {
      this.step("idle");
      this.fixture.clock.advance(700);
      settle(volume, this.fixture.clock);
    } else if (kind < 90) {
      this.step("close an epoch");
      volume.closeEpoch();
    } else if (kind < 93) {
      this.step("remount");
      this.fixture.remount();
    } else if (kind < 94) {
      const how = random.pick(["none", "fast", "strong"]);
      this.step(`compress ${name} ${how}`);
      volume.xattrs.set(ino, b("user.sqlfuse.compression"), b(how), 0, false);
    } else if (kind < 95) {
      this.step(`replace ${name}`);
      volume.tree.unlink(ROOT, b(name));
      file.ino = touch(volume, ROOT, name);
      file.model = new ContentModel();
    } else {
      this.seek(file, offset);
    }
    this.look(random.pick(this.files));
  }

  copy(to: File, toOffset: number, length: number): void {
    const from = this.random.pick(this.files);
    // Alike within a block, so that blocks are shared, or anyhow.
    const anyhow = this.offset(from);
    const alike = Math.max(0, anyhow - (anyhow % this.blockSize) + (toOffset % this.blockSize));
    const fromOffset = this.random.chance(0.7) ? alike : anyhow;
    const expected = from.model.read(fromOffset, length);
    this.step(`copy ${from.name} ${fromOffset}+${length} to ${to.name} ${toOffset}`);
    const overlap = from === to && Math.abs(fromOffset - toOffset) < expected.length;
    const run = () => this.volume.files.copyFileRange(from.ino, fromOffset, to.ino, toOffset, length, false);
    if (overlap) {
      expect(errnoOf(run)).toBe("EINVAL");
      return;
    }
    expect(run()).toBe(expected.length);
    to.model.write(toOffset, expected);
  }

  /** Between where it starts and the data that it finds there is nothing, and so for a hole. */
  seek(file: File, offset: number): void {
    const { model, ino } = file;
    this.step(`seek ${file.name} ${offset}`);
    let data = -1;
    const code = errnoOf(() => (data = this.volume.files.lseek(ino, offset, SEEK_DATA)));
    if (offset >= model.size) {
      expect(code).toBe("ENXIO");
      expect(errnoOf(() => this.volume.files.lseek(ino, offset, SEEK_HOLE))).toBe("ENXIO");
      return;
    }
    if (code === "ENXIO") expect(model.isZero(offset, model.size - offset)).toBe(true);
    else {
      expect(code).toBe("ok");
      expect(data).toBeGreaterThanOrEqual(offset);
      expect(data).toBeLessThan(model.size);
      expect(model.isZero(offset, data - offset)).toBe(true);
    }
    const hole = this.volume.files.lseek(ino, offset, SEEK_HOLE);
    expect(hole).toBeGreaterThanOrEqual(offset);
    expect(hole).toBeLessThanOrEqual(model.size);
    const rest = this.blockSize - (hole % this.blockSize);
    if (hole < model.size) expect(model.isZero(hole, rest)).toBe(true);
    if (code === "ENXIO" || data > offset) expect(hole).toBe(offset);
  }

  /** Compares the size, and a piece that an operation may have touched. */
  look(file: File): void {
    const offset = this.offset(file);
    this.same(file, Math.max(0, offset - this.random.below(2 * this.blockSize)), this.range.most + 100);
    expect(this.volume.attributes.getattr(file.ino).size).toBe(file.model.size);
  }

  same(file: File, offset: number, length: number): void {
    const expected = file.model.read(offset, length);
    const into = Buffer.alloc(length, 0xee);
    const got = this.volume.files.read(file.ino, offset, length, into);
    const at =
      Buffer.compare(into.subarray(0, got), expected) === 0 ? "same" : firstDifference(into, expected);
    expect([file.name, offset, got, at]).toEqual([file.name, offset, expected.length, "same"]);
  }

  /** Compares everything that was ever written. */
  all(): void {
    for (const file of this.files) {
      expect(this.volume.attributes.getattr(file.ino).size).toBe(file.model.size);
      for (const offset of file.model.written()) if (offset < file.model.size) this.same(file, offset, 4096);
      this.same(file, Math.max(0, file.model.size - 10_000), 20_000);
    }
  }
}

function firstDifference(got: Buffer, expected: Buffer): string {
  const at = expected.findIndex((byte, i) => byte !== got[i]);
  return `byte ${at} is ${got[at]}, not ${expected[at]}`;
}

function compare(blockSize: number, range: Range, operations: number): void {
  withRandom((random, step) =>
    inVolume(
      (fixture) => {
        const run = new Run(fixture, random, step, blockSize, range);
        for (let i = 0; i < operations; i++) run.operate();
        run.all();
        fixture.remount();
        run.all();
        for (const { name } of run.files) fixture.volume.tree.unlink(ROOT, b(name));
        fixture.close();
      },
      { blockSize },
    ),
  );
}

describe("files are what a plain model says, after random operations", () => {
  it.each([4096, 16_384, 65_536])("with blocks of %i bytes", (blockSize) => {
    compare(blockSize, { start: 0, end: 12 * blockSize, most: 4 * blockSize + 3 }, 500);
  });

  it("that are cut by so many blocks that they go in the background", () => {
    compare(4096, { start: 0, end: 700 * 4096, most: 400 * 4096 }, 250);
  });

  it("round 4 GiB", () => {
    compare(65_536, { start: 2 ** 32 - 300_000, end: 2 ** 32 + 300_000, most: 200_000 }, 250);
  });

  it("with sizes up to 2^53 - 1", () => {
    compare(4096, { start: MAX_FILE_SIZE - 50_000, end: MAX_FILE_SIZE, most: 20_000 }, 250);
  });

  it("from one end to the other", () => {
    compare(65_536, { start: 0, end: MAX_FILE_SIZE, most: 70_000 }, 250);
  });
});
