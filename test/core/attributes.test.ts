/** getattr and setattr: a test per line of their error tables, and what each change takes with it. */
import { describe, expect, it } from "vitest";
import type { Attr, Ino, SetAttr } from "../../src/core/types.ts";
import { MAX_FILE_SIZE } from "../../src/core/types.ts";
import type { Volume } from "../../src/core/volume.ts";
import {
  b,
  CALLER,
  contentOf,
  expectErrno,
  inVolume,
  mkdir,
  NOBODY,
  put,
  ROOT,
  S_IFIFO,
  S_IFREG,
  touch,
} from "./fixture.ts";

const CAPABILITY = b("security.capability");

/** A file of this mode with a capability; tells its mode and whether the capability is left after `change`. */
function privilegesAfter(mode: number, change: SetAttr, directory = false): [string, boolean] {
  let result: [string, boolean] = ["", false];
  inVolume((_, volume) => {
    const ino = directory ? mkdir(volume, ROOT, "a") : put(volume, ROOT, "a", "content");
    volume.attributes.setattr(ino, { mode });
    volume.xattrs.set(ino, CAPABILITY, b("cap"), 0, false);
    const after = volume.attributes.setattr(ino, change);
    result = [(after.mode & 0o7777).toString(8), volume.xattrs.get(ino, CAPABILITY) !== undefined];
  });
  return result;
}

function times(attr: Attr) {
  return {
    atime: [attr.atimeSec, attr.atimeNsec],
    mtime: [attr.mtimeSec, attr.mtimeNsec],
    ctime: [attr.ctimeSec, attr.ctimeNsec],
    btime: [attr.btimeSec, attr.btimeNsec],
  };
}

describe("getattr", () => {
  it("is refused with ESTALE for what is not there", () =>
    inVolume((_, volume) => {
      expectErrno("ESTALE", () => volume.attributes.getattr(NOBODY));
      expectErrno("ESTALE", () => volume.attributes.getattr(0 as Ino));
    }));

  it("tells the root that create made", () =>
    inVolume((_, volume) => {
      expect(volume.attributes.getattr(ROOT)).toMatchObject({
        ino: 1,
        mode: 0o040700,
        nlink: 2,
        uid: 1000,
        gid: 1001,
        size: 0,
      });
    }));

  it("counts in blocks what is stored: nothing for a hole", () =>
    inVolume(
      (_, volume) => {
        const file = put(volume, ROOT, "a", Buffer.alloc(10_000, 1));
        expect(volume.attributes.getattr(file)).toMatchObject({
          blocks: Math.ceil(10_000 / 512),
          blockSize: 4096,
        });
        const sparse = touch(volume, ROOT, "b");
        volume.attributes.setattr(sparse, { size: 1e12 });
        expect(volume.attributes.getattr(sparse).blocks).toBe(0);
        volume.files.write(sparse, 5e11, b("x"), false);
        expect(volume.attributes.getattr(sparse).blocks).toBe(8);
      },
      { blockSize: 4096 },
    ));
});

describe("setattr is refused with", () => {
  it("ESTALE for what is not there", () =>
    inVolume((_, volume) => {
      expectErrno("ESTALE", () => volume.attributes.setattr(NOBODY, { mode: 0o600 }));
    }));

  it("EISDIR for the size of a directory", () =>
    inVolume((_, volume) => {
      expectErrno("EISDIR", () => volume.attributes.setattr(ROOT, { size: 0 }));
    }));

  it("EINVAL for the size of what is neither directory nor regular file", () =>
    inVolume((_, volume) => {
      const fifo = volume.tree.mknod(ROOT, b("f"), S_IFIFO | 0o600, 0, CALLER).ino;
      const symlink = volume.tree.symlink(ROOT, b("s"), b("t"), CALLER).ino;
      expectErrno("EINVAL", () => volume.attributes.setattr(fifo, { size: 0 }));
      expectErrno("EINVAL", () => volume.attributes.setattr(symlink, { size: 0 }));
    }));

  it("EINVAL for a negative size", () =>
    inVolume((_, volume) => {
      const file = touch(volume, ROOT, "a");
      expectErrno("EINVAL", () => volume.attributes.setattr(file, { size: -1 }));
    }));

  it("EFBIG for a size past 2^53 - 1, which it takes", () =>
    inVolume((_, volume) => {
      const file = touch(volume, ROOT, "a");
      for (const size of [2 ** 53, 2 ** 63, Number.POSITIVE_INFINITY])
        expectErrno("EFBIG", () => volume.attributes.setattr(file, { size }));
      expect(volume.attributes.setattr(file, { size: MAX_FILE_SIZE }).size).toBe(MAX_FILE_SIZE);
      expect(volume.attributes.getattr(file).size).toBe(MAX_FILE_SIZE);
    }));

  it("an errno, and then changes nothing of what else was asked for", () =>
    inVolume((_, volume) => {
      const before = volume.attributes.getattr(ROOT);
      expectErrno("EISDIR", () => volume.attributes.setattr(ROOT, { mode: 0o777, uid: 5, size: 0 }));
      expect(volume.attributes.getattr(ROOT)).toEqual(before);
    }));
});

describe("setattr", () => {
  it("changes all that it is given at once, keeps it over a remount, and leaves the rest", () =>
    inVolume((fixture, volume) => {
      const file = put(volume, ROOT, "a", "content");
      const before = volume.attributes.getattr(file);
      fixture.clock.advance(5000);
      const after = volume.attributes.setattr(file, {
        mode: 0o1604,
        uid: 5,
        gid: 4_294_967_294,
        size: 3,
        atime: { sec: 11, nsec: 12 },
        mtime: { sec: 13, nsec: 14 },
      });
      expect({ ...after }).toEqual({
        ...before,
        mode: S_IFREG | 0o1604,
        uid: 5,
        gid: 4_294_967_294,
        size: 3,
        blocks: 1,
        atimeSec: 11,
        atimeNsec: 12,
        mtimeSec: 13,
        mtimeNsec: 14,
        ctimeSec: fixture.clock.sec,
        ctimeNsec: fixture.clock.nsec,
      });
      expect({ ...fixture.remount().attributes.getattr(file) }).toEqual({ ...after });
    }));

  it("ignores type bits in a mode", () =>
    inVolume((_, volume) => {
      const file = touch(volume, ROOT, "a");
      expect(volume.attributes.setattr(file, { mode: 0o170640 }).mode).toBe(S_IFREG | 0o640);
    }));

  it("moves ctime, and only that, for a change of mode or owner", () =>
    inVolume((fixture, volume) => {
      const file = touch(volume, ROOT, "a");
      const before = times(volume.attributes.getattr(file));
      for (const change of [{ mode: 0o600 }, { uid: 5 }, { gid: 5 }, {}]) {
        fixture.clock.advance(1000);
        const ctime = [fixture.clock.sec, fixture.clock.nsec];
        expect(times(volume.attributes.setattr(file, change))).toEqual({ ...before, ctime });
      }
    }));

  it("moves mtime with a size, also where the size is what it was", () =>
    inVolume((fixture, volume) => {
      const file = put(volume, ROOT, "a", "content");
      for (const size of [9, 9, 2, 0, 0]) {
        fixture.clock.advance(1000);
        const now = [fixture.clock.sec, fixture.clock.nsec];
        expect(times(volume.attributes.setattr(file, { size }))).toMatchObject({ mtime: now, ctime: now });
      }
    }));

  it("takes an explicit mtime over that of the truncation", () =>
    inVolume((_, volume) => {
      const file = put(volume, ROOT, "a", "content");
      const after = volume.attributes.setattr(file, { size: 0, mtime: { sec: 1, nsec: 2 } });
      expect(times(after).mtime).toEqual([1, 2]);
    }));

  it("sets times to the nanosecond, before 1970 too", () =>
    inVolume((fixture, volume) => {
      const file = touch(volume, ROOT, "a");
      const examples: readonly (readonly [number, number])[] = [
        [0, 0],
        [0, 999_999_999],
        [-1, 0],
        [-1, 1],
        [-1, 999_999_999],
        [-2_000_000_000, 123_456_789],
        [4_294_967_296, 1],
        [9_000_000_000, 999_999_999],
      ];
      for (const [sec, nsec] of examples) {
        volume.attributes.setattr(file, { atime: { sec, nsec }, mtime: { sec, nsec } });
        const { atime, mtime } = times(volume.attributes.getattr(file));
        expect([atime, mtime]).toEqual([
          [sec, nsec],
          [sec, nsec],
        ]);
      }
      expect(times(fixture.remount().attributes.getattr(file)).mtime).toEqual([9_000_000_000, 999_999_999]);
    }));

  it("clamps times that 64-bit nanoseconds cannot hold", () =>
    inVolume((_, volume) => {
      const file = touch(volume, ROOT, "a");
      const after = volume.attributes.setattr(file, {
        atime: { sec: 1e15, nsec: 5 },
        mtime: { sec: -1e15, nsec: 5 },
      });
      expect(after.atimeSec).toBeGreaterThan(9e9);
      expect(after.mtimeSec).toBeLessThan(-9e9);
      expect(times(volume.attributes.getattr(file))).toEqual(times(after));
    }));

  it('sets "now" by the clock, and ctime to what is asked for', () =>
    inVolume((fixture, volume) => {
      const file = touch(volume, ROOT, "a");
      fixture.clock.advance(3210);
      const now = [fixture.clock.sec, fixture.clock.nsec];
      expect(times(volume.attributes.setattr(file, { atime: "now", mtime: "now" }))).toMatchObject({
        atime: now,
        mtime: now,
        ctime: now,
      });
      expect(times(volume.attributes.setattr(file, { ctime: { sec: 7, nsec: 8 } })).ctime).toEqual([7, 8]);
    }));

  it("truncates and extends: what is added reads as zeros, also where bytes stood before", () =>
    inVolume(
      (_, volume) => {
        const file = put(volume, ROOT, "a", Buffer.alloc(10_000, 0x61));
        volume.attributes.setattr(file, { size: 5000 });
        volume.attributes.setattr(file, { size: 12_000 });
        const expected = Buffer.alloc(12_000);
        expected.fill(0x61, 0, 5000);
        expect(contentOf(volume, file).equals(expected)).toBe(true);
      },
      { blockSize: 4096 },
    ));
});

describe("privileges of a file", () => {
  it.each([
    ["setuid and setgid where the group may execute", 0o6755, 0o755],
    ["setuid, but not setgid of a group that may not execute (mandatory locking)", 0o6745, 0o2745],
    ["neither of a file that has none", 0o1644, 0o1644],
  ])("are lost by a chown: %s", (_, mode, expected) => {
    for (const change of [{ uid: 5 }, { gid: 5 }, { uid: 1000 }])
      expect(privilegesAfter(mode, change)).toEqual([expected.toString(8), false]);
  });

  it("are lost by a truncation that says so, and by none other", () => {
    expect(privilegesAfter(0o6755, { size: 0, killSuidgid: true })).toEqual(["755", false]);
    expect(privilegesAfter(0o6755, { size: 0 })).toEqual(["6755", true]);
  });

  it("stay with a chmod and a change of times", () => {
    expect(privilegesAfter(0o6755, { mode: 0o6711 })).toEqual(["6711", true]);
    expect(privilegesAfter(0o6755, { mtime: "now" })).toEqual(["6755", true]);
  });

  it("are a directory's to keep: setgid there means something else", () => {
    expect(privilegesAfter(0o6755, { uid: 5, gid: 5 }, true)[0]).toBe("6755");
  });
});

describe("relatime", () => {
  function atimeAfter(
    run: (volume: Volume, file: Ino, clock: { advance(ms: number): void }) => void,
    noatime = false,
  ) {
    let moved: number | undefined;
    inVolume(
      (fixture, volume) => {
        const file = put(volume, ROOT, "a", "content");
        fixture.clock.advance(10_000);
        volume.files.read(file, 0, 7, Buffer.alloc(7)); // atime is younger than mtime from here on
        fixture.clock.advance(10_000);
        const before = volume.attributes.getattr(file).atimeSec;
        run(volume, file, fixture.clock);
        moved = volume.attributes.getattr(file).atimeSec - before;
      },
      { volume: { noatime } },
    );
    return moved;
  }
  const read = (volume: Volume, file: Ino) => volume.files.read(file, 0, 7, Buffer.alloc(7));

  it("moves atime at the first read after a change, and not at the second", () => {
    expect(atimeAfter(read)).toBe(0);
    expect(
      atimeAfter((volume, file) => {
        volume.files.write(file, 0, b("x"), false);
        read(volume, file);
      }),
    ).toBe(10);
    expect(
      atimeAfter((volume, file) => {
        volume.attributes.setattr(file, { mode: 0o600 });
        read(volume, file);
      }),
    ).toBe(10);
  });

  it("moves atime once a day", () => {
    expect(
      atimeAfter((volume, file, clock) => {
        clock.advance(86_399_000 - 10_000);
        read(volume, file);
      }),
    ).toBe(0);
    expect(
      atimeAfter((volume, file, clock) => {
        clock.advance(86_400_000 - 10_000);
        read(volume, file);
      }),
    ).toBe(86_400);
  });

  it("moves no other time", () =>
    inVolume((fixture, volume) => {
      const file = put(volume, ROOT, "a", "content");
      const before = times(volume.attributes.getattr(file));
      fixture.clock.advance(1000);
      read(volume, file);
      const atime = [fixture.clock.sec, fixture.clock.nsec];
      expect(times(volume.attributes.getattr(file))).toEqual({ ...before, atime });
    }));

  it("is moved by a listing and a readlink too", () =>
    inVolume((fixture, volume) => {
      const symlink = volume.tree.symlink(ROOT, b("s"), b("t"), CALLER).ino;
      fixture.clock.advance(1000);
      volume.tree.readdir(ROOT, 0, () => true);
      volume.tree.readlink(symlink);
      for (const ino of [ROOT, symlink])
        expect(volume.attributes.getattr(ino).atimeSec).toBe(fixture.clock.sec);
    }));

  it("is switched off by noatime", () => {
    expect(
      atimeAfter((volume, file) => {
        volume.files.write(file, 0, b("x"), false);
        read(volume, file);
      }, true),
    ).toBe(0);
  });
});
