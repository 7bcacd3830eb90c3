/**
 * Every operation that changes something, in the three states that refuse changes: a read-only volume, one
 * with a failed commit, and a full disk.
 */
import { afterEach, describe, expect, it, vi } from "vitest";
import { Space } from "../../src/core/space.ts";
import type { Ino } from "../../src/core/types.ts";
import type { Volume } from "../../src/core/volume.ts";
import { SqliteError } from "../../src/db/errors.ts";
import { Statement } from "../../src/db/statement.ts";
import { dump } from "./dump.ts";
import { b, CALLER, errnoOf, Fixture, find, inVolume, mkdir, put, ROOT, S_IFREG, settle } from "./fixture.ts";

interface Change {
  readonly name: string;
  /** Gives space back, so that it is let through on a full disk. */
  readonly frees?: true;
  run(volume: Volume): unknown;
}

const at = (volume: Volume, path: string): Ino => find(volume, path)?.ino as Ino;

const CHANGES: readonly Change[] = [
  { name: "mknod", run: (v) => v.tree.mknod(ROOT, b("new"), S_IFREG | 0o644, 0, CALLER) },
  { name: "mkdir", run: (v) => v.tree.mkdir(ROOT, b("new"), 0o755, CALLER) },
  { name: "symlink", run: (v) => v.tree.symlink(ROOT, b("new"), b("target"), CALLER) },
  { name: "tmpfile", run: (v) => v.tree.tmpfile(ROOT, 0o600, CALLER) },
  { name: "link", run: (v) => v.tree.link(at(v, "file"), ROOT, b("new")) },
  { name: "unlink", frees: true, run: (v) => v.tree.unlink(ROOT, b("file")) },
  { name: "rmdir", frees: true, run: (v) => v.tree.rmdir(ROOT, b("empty")) },
  { name: "rename", frees: true, run: (v) => v.tree.rename(ROOT, b("file"), ROOT, b("new"), 0) },
  {
    name: "rename onto a file",
    frees: true,
    run: (v) => v.tree.rename(ROOT, b("file"), ROOT, b("other"), 0),
  },
  { name: "rename with EXCHANGE", run: (v) => v.tree.rename(ROOT, b("file"), ROOT, b("other"), 2) },
  { name: "write", run: (v) => v.files.write(at(v, "file"), 5, b("x"), false) },
  { name: "truncate", frees: true, run: (v) => v.attributes.setattr(at(v, "file"), { size: 3 }) },
  { name: "extend", run: (v) => v.attributes.setattr(at(v, "file"), { size: 1e9 }) },
  { name: "chmod", run: (v) => v.attributes.setattr(at(v, "file"), { mode: 0o600 }) },
  { name: "allocate", run: (v) => v.files.fallocate(at(v, "file"), 0, 0, 500_000, false) },
  { name: "zero", run: (v) => v.files.fallocate(at(v, "file"), 0x10, 0, 10, false) },
  { name: "punch", frees: true, run: (v) => v.files.fallocate(at(v, "file"), 3, 0, 10, false) },
  {
    name: "copy, shared",
    run: (v) => v.files.copyFileRange(at(v, "file"), 0, at(v, "other"), 0, 200_000, false),
  },
  {
    name: "copy, unaligned",
    run: (v) => v.files.copyFileRange(at(v, "file"), 1, at(v, "other"), 3, 1000, false),
  },
  { name: "set xattr", run: (v) => v.xattrs.set(at(v, "file"), b("user.new"), b("x"), 0, false) },
  { name: "remove xattr", frees: true, run: (v) => v.xattrs.remove(at(v, "file"), b("user.x")) },
  { name: "close an epoch", run: (v) => v.closeEpoch() },
];

function fill(volume: Volume): void {
  const file = put(volume, ROOT, "file", Buffer.alloc(200_000, 7));
  volume.xattrs.set(file, b("user.x"), b("y"), 0, false);
  put(volume, ROOT, "other", "other");
  mkdir(volume, ROOT, "empty");
}

afterEach(() => {
  vi.restoreAllMocks();
});

describe.each(CHANGES)("$name", ({ run, frees }) => {
  it("is refused with EROFS in a volume that is opened read-only", () =>
    inVolume((fixture, volume) => {
      fill(volume);
      const readOnly = fixture.remount({ readOnly: true });
      const before = dump(readOnly);
      expect(errnoOf(() => run(readOnly))).toBe("EROFS");
      expect(dump(readOnly)).toEqual(before);
    }));

  it("is refused with EROFS in a volume whose commit failed", () =>
    inVolume((fixture, volume) => {
      fill(volume);
      volume.commit();
      const before = dump(volume);
      volume.tree.mkdir(ROOT, b("lost"), 0o755, CALLER);
      const step = Statement.prototype.step;
      vi.spyOn(Statement.prototype, "step").mockImplementation(function (this: Statement) {
        if (this.sql === "COMMIT") throw new SqliteError("disk I/O error", 10, 5, this.sql);
        return step.call(this);
      });
      expect(errnoOf(() => volume.commit())).toBe("EIO");
      vi.restoreAllMocks();
      expect(volume.failed).toBe(true);
      expect(dump(volume)).toEqual(before);
      expect(errnoOf(() => run(volume))).toBe("EROFS");
      expect(dump(volume)).toEqual(before);
      expect(fixture.takeLog()).toHaveLength(1);
    }));

  it(frees === true ? "may use the reserve of a full disk" : "is refused with ENOSPC on a full disk", () =>
    inVolume((_, volume) => {
      fill(volume);
      const before = dump(volume);
      fillDisk();
      expect(errnoOf(() => run(volume))).toBe(frees === true ? "ok" : "ENOSPC");
      vi.restoreAllMocks();
      if (frees !== true) expect(dump(volume)).toEqual(before);
    }),
  );
});

/** From now on the disk has room only for what may spend the reserve. */
function fillDisk(): void {
  vi.spyOn(Space.prototype, "take").mockImplementation((_, frees) => frees);
}

describe("a volume that refuses changes", () => {
  it("is still read, without moving atime", () => {
    const fixture = new Fixture();
    try {
      put(fixture.volume, ROOT, "a", "content");
      const readOnly = fixture.remount({ readOnly: true });
      fixture.clock.advance(1e9);
      const before = readOnly.attributes.getattr(at(readOnly, "a"));
      const into = Buffer.alloc(7);
      expect(readOnly.files.read(before.ino, 0, 7, into)).toBe(7);
      expect(into.toString()).toBe("content");
      expect(readOnly.attributes.getattr(before.ino)).toEqual(before);
      expect(readOnly.idle(fixture.clock.ms)).toBe(Number.POSITIVE_INFINITY);
      readOnly.fsync(before.ino);
      fixture.finish();
    } finally {
      fixture.remove();
    }
  });

  it("for a disk without any room lets the purge wait, and idle asks for a pause", () =>
    inVolume((fixture, volume) => {
      put(volume, ROOT, "a", "content");
      volume.tree.unlink(ROOT, b("a"));
      volume.commit();
      vi.spyOn(Space.prototype, "take").mockReturnValue(false);
      let due = 0;
      for (let i = 0; i < 10 && due === 0; i++) due = volume.idle(fixture.clock.ms);
      expect(due).toBeGreaterThan(0);
      vi.restoreAllMocks();
      fixture.clock.advance(10_000);
      settle(volume, fixture.clock);
      const { files, ffree } = volume.statfs();
      expect(files - ffree).toBe(1);
    }));

  it("for a full disk still reads, and an atime that finds no room is let go", () =>
    inVolume((fixture, volume) => {
      const file = put(volume, ROOT, "a", "content");
      fillDisk();
      fixture.clock.advance(1e9);
      expect(volume.files.read(file, 0, 7, Buffer.alloc(7))).toBe(7);
    }));
});
