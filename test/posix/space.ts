/** Space: fallocate, holes, copies of ranges, statfs. */
import assert from "node:assert/strict";
import { FALLOC, O, S, SEEK, sys } from "../helpers/libc.ts";
import { ALICE, type Cases, SHARED_GID, type Tools } from "./tools.ts";

const MiB = 1 << 20;

function modeWorks(dir: string, mode: number) {
  return (): boolean => {
    const fd = sys.open(`${dir}/probe`, O.RDWR | O.CREAT);
    try {
      sys.ftruncate(fd, MiB);
      sys.fallocate(fd, mode, 4096, 4096);
      return true;
    } catch {
      return false;
    } finally {
      sys.close(fd);
      sys.unlink(`${dir}/probe`);
    }
  };
}

const PUNCH = FALLOC.PUNCH_HOLE | FALLOC.KEEP_SIZE;

function made<T>(dir: string, t: Tools, data: Buffer, work: (fd: number) => T): T {
  t.file(`${dir}/f`, data);
  return t.using(`${dir}/f`, O.RDWR, work);
}

export const fallocate: Cases = {
  "allocating behind the end makes the file longer, with zeros": (dir, t) => {
    made(dir, t, Buffer.from("abc"), (fd) => {
      sys.fallocate(fd, 0, 1000, 99_000);
      assert.equal(sys.fstat(fd).size, 100_000);
      const expected = Buffer.alloc(100_000);
      expected.write("abc");
      t.same(t.readFd(fd), expected, "file");
      assert.ok(sys.fstat(fd).blocks * 512 >= 90_000, "space is taken");
    });
  },
  "allocating inside the file changes no byte and no size": (dir, t) => {
    const data = t.noise(200_000);
    made(dir, t, data, (fd) => {
      sys.fallocate(fd, 0, 1234, 100_000);
      assert.equal(sys.fstat(fd).size, data.length);
      sys.dropCache(fd);
      t.same(t.readFd(fd), data, "file");
    });
  },
  "KEEP_SIZE takes space and leaves the size": (dir, t) => {
    made(dir, t, Buffer.from("abc"), (fd) => {
      sys.fallocate(fd, FALLOC.KEEP_SIZE, 0, MiB);
      assert.equal(sys.fstat(fd).size, 3);
      assert.ok(sys.fstat(fd).blocks * 512 >= MiB * 0.9, `${sys.fstat(fd).blocks} blocks`);
      assert.equal(t.readFd(fd).toString(), "abc");
      sys.ftruncate(fd, 5000);
      const expected = Buffer.alloc(5000);
      expected.write("abc");
      t.same(t.readFd(fd), expected, "grown over the allocation");
    });
  },
  "truncate gives allocated space behind the end back": (dir, t) => {
    made(dir, t, Buffer.from("abc"), (fd) => {
      sys.fallocate(fd, FALLOC.KEEP_SIZE, 0, 4 * MiB);
      sys.ftruncate(fd, 0);
      assert.equal(sys.fstat(fd).blocks, 0);
    });
  },
  "allocated space is written and read like any other": (dir, t) => {
    made(dir, t, Buffer.alloc(0), (fd) => {
      sys.fallocate(fd, 0, 0, 300_000);
      const data = t.noise(1000);
      sys.pwrite(fd, data, 131_000);
      const expected = Buffer.alloc(300_000);
      data.copy(expected, 131_000);
      sys.dropCache(fd);
      t.same(t.readFd(fd), expected, "file");
    });
  },
  "PUNCH_HOLE zeroes exactly the range, aligned or not": (dir, t) => {
    t.controlLacks("PUNCH_HOLE", modeWorks(dir, PUNCH));
    const data = t.noise(700_000, 2);
    for (const [start, length] of [
      [0, 1],
      [1, 4095],
      [4096, 4096],
      [65_535, 2],
      [65_536, 65_536],
      [100_001, 333_333],
      [0, 700_000],
      [699_999, 1],
    ] as const) {
      made(dir, t, data, (fd) => {
        sys.fallocate(fd, PUNCH, start, length);
        const expected = Buffer.from(data).fill(0, start, start + length);
        sys.dropCache(fd);
        t.same(t.readFd(fd), expected, `${length} at ${start}`);
        assert.equal(sys.fstat(fd).size, data.length);
      });
    }
  },
  "PUNCH_HOLE gives space back": (dir, t) => {
    t.controlLacks("PUNCH_HOLE", modeWorks(dir, PUNCH));
    made(dir, t, t.noise(4 * MiB), (fd) => {
      const before = sys.fstat(fd).blocks;
      sys.fallocate(fd, PUNCH, MiB, 2 * MiB);
      assert.ok(sys.fstat(fd).blocks < before * 0.6, `${before} -> ${sys.fstat(fd).blocks}`);
    });
  },
  "PUNCH_HOLE across and behind the end keeps the size": (dir, t) => {
    t.controlLacks("PUNCH_HOLE", modeWorks(dir, PUNCH));
    const data = t.noise(10_000);
    made(dir, t, data, (fd) => {
      sys.fallocate(fd, PUNCH, 9000, 100_000);
      sys.fallocate(fd, PUNCH, 50_000, 100_000);
      assert.equal(sys.fstat(fd).size, 10_000);
      t.same(t.readFd(fd), Buffer.from(data).fill(0, 9000), "file");
      sys.ftruncate(fd, 20_000);
      t.same(sys.pread(fd, 11_000, 9000), Buffer.alloc(11_000), "behind");
    });
  },
  "PUNCH_HOLE in a hole, and twice, is fine": (dir, t) => {
    t.controlLacks("PUNCH_HOLE", modeWorks(dir, PUNCH));
    made(dir, t, Buffer.alloc(0), (fd) => {
      sys.ftruncate(fd, MiB);
      sys.fallocate(fd, PUNCH, 1000, 500_000);
      sys.fallocate(fd, PUNCH, 1000, 500_000);
      assert.equal(sys.fstat(fd).blocks, 0);
    });
  },
  "what is written into a punched hole is there, and its surroundings are zeros": (dir, t) => {
    t.controlLacks("PUNCH_HOLE", modeWorks(dir, PUNCH));
    made(dir, t, Buffer.alloc(300_000, 0xaa), (fd) => {
      sys.fallocate(fd, PUNCH, 10_000, 200_000);
      sys.pwrite(fd, "island", 100_000);
      const expected = Buffer.alloc(300_000, 0xaa).fill(0, 10_000, 210_000);
      expected.write("island", 100_000);
      sys.dropCache(fd);
      t.same(t.readFd(fd), expected, "file");
    });
  },
  "PUNCH_HOLE without KEEP_SIZE is EOPNOTSUPP": (dir, t) => {
    made(dir, t, t.noise(10_000), (fd) => {
      t.refuses("EOPNOTSUPP", () => sys.fallocate(fd, FALLOC.PUNCH_HOLE, 0, 4096));
      t.same(t.readFd(fd), t.noise(10_000), "unchanged");
    });
  },
  "ZERO_RANGE zeroes exactly the range, and extends the file": (dir, t) => {
    t.controlLacks("ZERO_RANGE", modeWorks(dir, FALLOC.ZERO_RANGE));
    const data = t.noise(300_000, 3);
    for (const [start, length] of [
      [0, 1],
      [4095, 2],
      [65_536, 65_536],
      [123, 250_000],
    ] as const) {
      made(dir, t, data, (fd) => {
        sys.fallocate(fd, FALLOC.ZERO_RANGE, start, length);
        sys.dropCache(fd);
        t.same(t.readFd(fd), Buffer.from(data).fill(0, start, start + length), `${length} at ${start}`);
      });
    }
    made(dir, t, data, (fd) => {
      sys.fallocate(fd, FALLOC.ZERO_RANGE, 299_000, 10_000);
      assert.equal(sys.fstat(fd).size, 309_000);
      t.same(sys.pread(fd, 10_000, 299_000), Buffer.alloc(10_000), "zeroed and extended");
    });
  },
  "ZERO_RANGE with KEEP_SIZE leaves the size": (dir, t) => {
    t.controlLacks("ZERO_RANGE", modeWorks(dir, FALLOC.ZERO_RANGE));
    made(dir, t, t.noise(10_000), (fd) => {
      sys.fallocate(fd, FALLOC.ZERO_RANGE | FALLOC.KEEP_SIZE, 9000, 5000);
      assert.equal(sys.fstat(fd).size, 10_000);
      t.same(sys.pread(fd, 2000, 9000), Buffer.alloc(1000), "zeroed");
    });
  },
  "modes that are not offered are EOPNOTSUPP and change nothing": (dir, t) => {
    t.controlLacks("refusal of all these modes", () => !modeWorks(dir, FALLOC.COLLAPSE_RANGE)());
    const data = t.noise(131_072);
    made(dir, t, data, (fd) => {
      for (const mode of [
        FALLOC.COLLAPSE_RANGE,
        FALLOC.INSERT_RANGE,
        FALLOC.UNSHARE,
        0x100,
        0x8000,
        PUNCH | FALLOC.ZERO_RANGE,
      ]) {
        t.refuses(["EOPNOTSUPP", "EINVAL"], () => sys.fallocate(fd, mode, 0, 65_536));
      }
      t.same(t.readFd(fd), data, "unchanged");
      sys.fallocate(fd, 0, 0, 10);
    });
  },
  "fallocate is refused: length 0 or negative EINVAL, read-only EBADF, fifo ESPIPE": (dir, t) => {
    made(dir, t, Buffer.from("x"), (fd) => {
      t.refuses("EINVAL", () => sys.fallocate(fd, 0, 0, 0));
      t.refuses("EINVAL", () => sys.fallocate(fd, 0, -1, 10));
      t.refuses("EINVAL", () => sys.fallocate(fd, 0, 10, -1));
      assert.equal(sys.fstat(fd).size, 1);
    });
    t.using(`${dir}/f`, O.RDONLY, (fd) => t.refuses("EBADF", () => sys.fallocate(fd, 0, 0, 10)));
    sys.mknod(`${dir}/p`, S.FIFO | 0o600);
    t.using(`${dir}/p`, O.RDWR | O.NONBLOCK, (fd) => t.refuses("ESPIPE", () => sys.fallocate(fd, 0, 0, 10)));
  },
  "allocating and punching move mtime and ctime": (dir, t) => {
    t.controlLacks("PUNCH_HOLE", modeWorks(dir, PUNCH));
    made(dir, t, t.noise(100_000), (fd) => {
      for (const [what, mode, start] of [
        ["allocate", 0, 200_000],
        ["punch", PUNCH, 0],
      ] as const) {
        const moved = t.moved(`${dir}/f`, () => sys.fallocate(fd, mode, start, 10_000));
        assert.equal(moved.ctime, true, `ctime, ${what}`);
        assert.equal(moved.mtime, true, `mtime, ${what}`);
      }
    });
  },
};

/** The data segments that SEEK_DATA and SEEK_HOLE tell. */
function segments(fd: number): [start: number, end: number][] {
  const size = sys.fstat(fd).size;
  const found: [number, number][] = [];
  for (let at = 0; at < size; ) {
    let start: number;
    try {
      start = sys.lseek(fd, at, SEEK.DATA);
    } catch {
      break; // ENXIO: only a hole from here on
    }
    const end = sys.lseek(fd, start, SEEK.HOLE);
    assert.ok(end > start, `a data segment of ${end - start} bytes at ${start}`);
    found.push([start, end]);
    at = end;
  }
  return found;
}

/** `islands` lie 4 MiB apart, so that any block size shows the holes between them. */
function segmentsHold(fd: number, islands: readonly (readonly [number, number])[], what: string): void {
  const found = segments(fd);
  for (const [start, end] of islands) {
    const inside = found.some(([from, to]) => from <= start && end <= to);
    assert.ok(inside, `${what}: data ${start}..${end} is not in ${JSON.stringify(found)}`);
  }
  assert.equal(found.length, islands.length, `${what}: ${JSON.stringify(found)}`);
}

export const seek: Cases = {
  "a file without holes is one piece of data with a hole at its end": (dir, t) => {
    made(dir, t, t.noise(100_000), (fd) => {
      assert.equal(sys.lseek(fd, 0, SEEK.DATA), 0);
      assert.equal(sys.lseek(fd, 0, SEEK.HOLE), 100_000);
      assert.equal(sys.lseek(fd, 54_321, SEEK.DATA), 54_321);
      assert.equal(sys.lseek(fd, 54_321, SEEK.HOLE), 100_000);
      assert.equal(sys.lseek(fd, 99_999, SEEK.HOLE), 100_000);
      assert.equal(sys.lseek(fd, 0, SEEK.CUR), 100_000);
    });
  },
  "at and behind the end both are ENXIO": (dir, t) => {
    made(dir, t, t.noise(1000), (fd) => {
      for (const whence of [SEEK.DATA, SEEK.HOLE]) {
        t.refuses("ENXIO", () => sys.lseek(fd, 1000, whence));
        t.refuses("ENXIO", () => sys.lseek(fd, 1_000_000, whence));
        t.refuses("ENXIO", () => sys.lseek(fd, -1, whence));
      }
    });
    t.using(`${dir}/empty`, O.RDWR | O.CREAT, (fd) => {
      t.refuses("ENXIO", () => sys.lseek(fd, 0, SEEK.DATA));
      t.refuses("ENXIO", () => sys.lseek(fd, 0, SEEK.HOLE));
    });
  },
  "a file that is one hole has no data": (dir, t) => {
    made(dir, t, Buffer.alloc(0), (fd) => {
      sys.ftruncate(fd, 10 * MiB);
      assert.equal(sys.lseek(fd, 0, SEEK.HOLE), 0);
      assert.equal(sys.lseek(fd, 5_000_000, SEEK.HOLE), 5_000_000);
      t.refuses("ENXIO", () => sys.lseek(fd, 0, SEEK.DATA));
      t.refuses("ENXIO", () => sys.lseek(fd, 10 * MiB - 1, SEEK.DATA));
    });
  },
  "data and holes in turns are told": (dir, t) => {
    made(dir, t, Buffer.alloc(0), (fd) => {
      const islands: [number, number][] = [];
      for (let i = 0; i < 6; i++) {
        const start = 4 * MiB * (i + 1);
        sys.pwrite(fd, t.noise(5000 + i), start);
        islands.push([start, start + 5000 + i]);
      }
      sys.ftruncate(fd, 64 * MiB);
      segmentsHold(fd, islands, "written");
      t.refuses("ENXIO", () => sys.lseek(fd, 40 * MiB, SEEK.DATA));
      assert.equal(sys.lseek(fd, 40 * MiB, SEEK.HOLE), 40 * MiB);
    });
  },
  "a punched hole is told, and what is written into it": (dir, t) => {
    t.controlLacks("PUNCH_HOLE", modeWorks(dir, PUNCH));
    made(dir, t, t.noise(16 * MiB), (fd) => {
      sys.fallocate(fd, PUNCH, 2 * MiB, 12 * MiB);
      segmentsHold(
        fd,
        [
          [0, 2 * MiB],
          [14 * MiB, 16 * MiB],
        ],
        "punched",
      );
      sys.pwrite(fd, "x", 8 * MiB);
      segmentsHold(
        fd,
        [
          [0, 2 * MiB],
          [8 * MiB, 8 * MiB + 1],
          [14 * MiB, 16 * MiB],
        ],
        "written again",
      );
    });
  },
  "truncate moves the last hole": (dir, t) => {
    made(dir, t, t.noise(MiB), (fd) => {
      sys.ftruncate(fd, 20 * MiB);
      segmentsHold(fd, [[0, MiB]], "grown");
      sys.ftruncate(fd, 1000);
      assert.equal(sys.lseek(fd, 0, SEEK.HOLE), 1000);
    });
  },
  "data past 4 GiB is found": (dir, t) => {
    made(dir, t, Buffer.alloc(0), (fd) => {
      const far = 5 * 2 ** 30 + 4096;
      sys.pwrite(fd, "x", far);
      const start = sys.lseek(fd, 0, SEEK.DATA);
      assert.ok(start <= far && start > far - 4 * MiB, `data at ${start}`);
      assert.equal(sys.lseek(fd, far, SEEK.DATA), far);
      assert.equal(sys.lseek(fd, far, SEEK.HOLE), far + 1);
    });
  },
  "cp keeps the holes": (dir, t) => {
    made(dir, t, Buffer.alloc(0), (fd) => {
      sys.pwrite(fd, t.noise(10_000), 30 * MiB);
      sys.ftruncate(fd, 60 * MiB);
    });
    t.run("cp", ["--sparse=auto", "--reflink=never", `${dir}/f`, `${dir}/g`]);
    assert.equal(sys.lstat(`${dir}/g`).size, 60 * MiB);
    assert.ok(sys.lstat(`${dir}/g`).blocks * 512 <= 3 * MiB, `${sys.lstat(`${dir}/g`).blocks} blocks`);
    t.run("cmp", [`${dir}/f`, `${dir}/g`]);
  },
};

/** Two files, open for reading and writing. */
function pair<T>(dir: string, t: Tools, from: Buffer, to: Buffer, work: (a: number, b: number) => T): T {
  t.file(`${dir}/a`, from);
  t.file(`${dir}/b`, to);
  return t.using(`${dir}/a`, O.RDWR, (a) => t.using(`${dir}/b`, O.RDWR, (b) => work(a, b)));
}

/** Calls copy_file_range until all is copied or nothing more comes. */
function copyAll(a: number, from: number, b: number, to: number, length: number): number {
  let done = 0;
  while (done < length) {
    const n = sys.copyFileRange(a, from + done, b, to + done, length - done);
    if (n === 0) break;
    done += n;
  }
  return done;
}

export const copyFileRange: Cases = {
  "a whole file is copied into an empty one": (dir, t) => {
    const data = t.noise(1_000_003, 1);
    pair(dir, t, data, Buffer.alloc(0), (a, b) => {
      assert.equal(copyAll(a, 0, b, 0, data.length), data.length);
      sys.dropCache(b);
      t.same(t.readFd(b), data, "copy");
    });
  },
  "any range goes to any place, aligned or not": (dir, t) => {
    const from = t.noise(400_000, 1);
    const to = t.noise(400_000, 2);
    for (const [start, target, length] of [
      [0, 0, 131_072],
      [65_536, 131_072, 131_072],
      [1, 0, 100_000],
      [0, 1, 100_000],
      [4097, 65_535, 200_001],
      [131_072, 3, 131_072],
      [10, 20, 1],
      [399_999, 399_999, 1],
    ] as const) {
      pair(dir, t, from, to, (a, b) => {
        assert.equal(copyAll(a, start, b, target, length), length);
        const expected = Buffer.from(to);
        from.copy(expected, target, start, start + length);
        sys.dropCache(b);
        t.same(t.readFd(b), expected, `${start}+${length} to ${target}`);
        t.same(t.readFd(a), from, "source");
      });
    }
  },
  "a copy behind the end of the target leaves zeros between": (dir, t) => {
    const data = t.noise(70_000, 3);
    pair(dir, t, data, Buffer.from("head"), (a, b) => {
      copyAll(a, 0, b, 300_000, data.length);
      const expected = Buffer.alloc(370_000);
      expected.write("head");
      data.copy(expected, 300_000);
      t.same(t.readFd(b), expected, "target");
    });
  },
  "a copy ends at the end of the source, and copies nothing behind it": (dir, t) => {
    pair(dir, t, t.noise(1000), Buffer.alloc(0), (a, b) => {
      assert.equal(copyAll(a, 900, b, 0, 5000), 100);
      assert.equal(sys.copyFileRange(a, 1000, b, 0, 10), 0);
      assert.equal(sys.copyFileRange(a, 5000, b, 0, 10), 0);
      assert.equal(sys.copyFileRange(a, 0, b, 0, 0), 0);
      assert.equal(sys.fstat(b).size, 100);
    });
  },
  "ranges of one file that do not overlap are copied, overlapping ones are EINVAL": (dir, t) => {
    const data = t.noise(400_000, 4);
    made(dir, t, data, (fd) => {
      assert.equal(copyAll(fd, 0, fd, 200_000, 200_000), 200_000);
      const expected = Buffer.concat([data.subarray(0, 200_000), data.subarray(0, 200_000)]);
      t.same(t.readFd(fd), expected, "doubled");
      t.refuses("EINVAL", () => sys.copyFileRange(fd, 0, fd, 100, 1000));
      t.refuses("EINVAL", () => sys.copyFileRange(fd, 100, fd, 0, 1000));
      t.refuses("EINVAL", () => sys.copyFileRange(fd, 50, fd, 50, 10));
      t.same(t.readFd(fd), expected, "unchanged");
    });
  },
  "source and copy are independent afterwards, whichever is changed": (dir, t) => {
    const data = t.noise(300_000, 5);
    pair(dir, t, data, Buffer.alloc(0), (a, b) => {
      copyAll(a, 0, b, 0, data.length);
      sys.pwrite(a, "source changed", 70_000);
      t.same(t.readFd(b), data, "copy after the source changed");
      sys.pwrite(b, "COPY CHANGED", 200_000);
      const source = Buffer.from(data);
      source.write("source changed", 70_000);
      sys.dropCache(a);
      t.same(t.readFd(a), source, "source after the copy changed");
      sys.ftruncate(a, 0);
      const copy = Buffer.from(data);
      copy.write("COPY CHANGED", 200_000);
      sys.dropCache(b);
      t.same(t.readFd(b), copy, "copy after the source was emptied");
    });
    sys.unlink(`${dir}/a`);
    assert.equal(sys.lstat(`${dir}/b`).size, 300_000);
  },
  "a chain of copies outlives its links": (dir, t) => {
    const data = t.noise(262_144, 6);
    t.file(`${dir}/c0`, data);
    for (let i = 0; i < 5; i++) {
      t.using(`${dir}/c${i}`, O.RDONLY, (a) =>
        t.using(`${dir}/c${i + 1}`, O.RDWR | O.CREAT, (b) => copyAll(a, 0, b, 0, data.length)),
      );
    }
    for (const i of [0, 2, 4]) sys.unlink(`${dir}/c${i}`);
    sys.truncate(`${dir}/c1`, 100);
    t.using(`${dir}/c3`, O.RDWR, (fd) => sys.pwrite(fd, Buffer.alloc(262_144, 9), 0));
    t.using(`${dir}/c5`, O.RDWR, (fd) => sys.dropCache(fd));
    t.same(t.read(`${dir}/c5`), data, "last copy");
  },
  "a copied block that is overwritten in part keeps the other part": (dir, t) => {
    const data = t.noise(131_072, 7);
    pair(dir, t, data, Buffer.alloc(0), (a, b) => {
      copyAll(a, 0, b, 0, data.length);
      sys.pwrite(b, Buffer.alloc(10, 1), 65_530);
      sys.fallocate(b, FALLOC.KEEP_SIZE, 0, 10);
      sys.ftruncate(b, 100_001);
      sys.ftruncate(b, 131_072);
      const expected = Buffer.from(data).fill(1, 65_530, 65_540).fill(0, 100_001);
      sys.dropCache(b);
      t.same(t.readFd(b), expected, "copy");
      sys.dropCache(a);
      t.same(t.readFd(a), data, "source");
    });
  },
  "a hole in the source becomes zeros in the target": (dir, t) => {
    t.using(`${dir}/a`, O.RDWR | O.CREAT, (a) => {
      sys.pwrite(a, "begin", 0);
      sys.pwrite(a, "end", 5 * MiB);
      t.file(`${dir}/b`, Buffer.alloc(6 * MiB, 0xbb));
      t.using(`${dir}/b`, O.RDWR, (b) => {
        assert.equal(copyAll(a, 0, b, 0, 5 * MiB + 3), 5 * MiB + 3);
        const expected = Buffer.alloc(6 * MiB, 0xbb).fill(0, 0, 5 * MiB + 3);
        expected.write("begin");
        expected.write("end", 5 * MiB);
        sys.dropCache(b);
        t.same(t.readFd(b), expected, "target");
      });
    });
  },
  "the target's mtime and ctime move": (dir, t) => {
    pair(dir, t, t.noise(5000), Buffer.alloc(0), (a, b) => {
      const moved = t.moved(`${dir}/b`, () => copyAll(a, 0, b, 0, 5000));
      assert.equal(moved.mtime && moved.ctime, true);
    });
    assert.equal(sys.lstat(`${dir}/a`).size, 5000);
  },
  "copy_file_range is refused: source not readable, target not writable or O_APPEND EBADF, directory EISDIR":
    (dir, t) => {
      t.file(`${dir}/a`, "abc");
      t.file(`${dir}/b`, "kept");
      const attempt = (from: number, to: number, target = "b"): void =>
        t.using(`${dir}/a`, from, (a) =>
          t.using(`${dir}/${target}`, to, (b) => void sys.copyFileRange(a, 0, b, 0, 3)),
        );
      t.refuses("EBADF", () => attempt(O.WRONLY, O.WRONLY));
      t.refuses("EBADF", () => attempt(O.RDONLY, O.RDONLY));
      t.refuses("EBADF", () => attempt(O.RDONLY, O.WRONLY | O.APPEND));
      sys.mkdir(`${dir}/d`);
      t.refuses(["EISDIR", "EBADF"], () => attempt(O.RDONLY, O.RDONLY | O.DIRECTORY, "d"));
      sys.mknod(`${dir}/p`, S.FIFO | 0o600);
      t.refuses("EINVAL", () => attempt(O.RDONLY, O.RDWR | O.NONBLOCK, "p"));
      assert.equal(t.text(`${dir}/b`), "kept");
    },
  "a copy by an ordinary user clears set-id bits of the target": (dir, t) => {
    t.needsRoot();
    t.file(`${dir}/a`, "abc");
    t.file(`${dir}/b`, "");
    sys.chown(`${dir}/b`, ALICE.uid, ALICE.gid);
    sys.chmod(`${dir}/b`, 0o6777);
    t.as({ ...ALICE, groups: [SHARED_GID] }, () =>
      t.using(`${dir}/a`, O.RDONLY, (a) =>
        t.using(`${dir}/b`, O.WRONLY, (b) => sys.copyFileRange(a, 0, b, 0, 3)),
      ),
    );
    assert.equal(sys.lstat(`${dir}/b`).perm, 0o777);
    assert.equal(t.text(`${dir}/b`), "abc");
  },
  "without offsets the positions of both descriptors move": (dir, t) => {
    t.file(`${dir}/a`, "0123456789");
    const said = t.python(
      dir,
      `
a = os.open("a", os.O_RDONLY); b = os.open("b", os.O_CREAT | os.O_RDWR)
os.lseek(a, 3, 0); os.write(b, b">")
print(os.copy_file_range(a, b, 4), os.lseek(a, 0, 1), os.lseek(b, 0, 1), os.pread(b, 10, 0).decode())
`,
    );
    assert.equal(said, "4 7 5 >3456");
  },
  "data far apart in sparse files is copied by its offset": (dir, t) => {
    const far = 5 * 2 ** 30;
    pair(dir, t, Buffer.alloc(0), Buffer.alloc(0), (a, b) => {
      const data = t.noise(50_000, 8);
      sys.pwrite(a, data, far);
      assert.equal(copyAll(a, far, b, 6 * 2 ** 30 + 1, data.length), data.length);
      t.same(sys.pread(b, data.length, 6 * 2 ** 30 + 1), data, "copy");
    });
  },
  "cp --reflink=auto makes an equal file": (dir, t) => {
    const data = t.noise(2 * MiB + 77, 9);
    t.file(`${dir}/a`, data);
    t.run("cp", ["--reflink=auto", `${dir}/a`, `${dir}/b`]);
    t.same(t.read(`${dir}/b`), data, "copy");
  },
};

export const statfs: Cases = {
  "statfs tells sizes that fit together, and names of 255 bytes": (dir) => {
    const s = sys.statfs(dir);
    assert.equal(s.nameMax, 255);
    assert.ok(s.blockSize >= 512 && s.fragmentSize >= 512);
    assert.ok(s.blocks > 0 && s.free <= s.blocks && s.available <= s.free, JSON.stringify(s));
    assert.ok(s.files > 0 && s.filesFree <= s.files);
  },
  "df and stat -f understand it": (dir, t) => {
    assert.match(t.run("df", ["-P", dir]), /\n.*\d+%/);
    assert.match(t.run("df", ["-iP", dir]), /\n/);
    assert.match(t.run("stat", ["-f", dir]), /Namelen: 255/);
  },
  "a file's statfs is that of its directory": (dir, t) => {
    t.file(`${dir}/f`);
    assert.equal(sys.statfs(`${dir}/f`).blockSize, sys.statfs(dir).blockSize);
    assert.equal(sys.statfs(`${dir}/f`).nameMax, 255);
  },
  "du of a sparse file is small and of a full one its size": (dir, t) => {
    t.file(`${dir}/sparse`);
    sys.truncate(`${dir}/sparse`, 1 << 30);
    t.file(`${dir}/full`, t.noise(MiB));
    const du = (name: string): number => Number(t.run("du", ["-k", `${dir}/${name}`]).split("\t")[0]);
    assert.ok(du("sparse") < 1024);
    assert.ok(du("full") >= 1024 && du("full") < 1300);
  },
};
