/** A volume that answers first and writes at `finish`: nobody may be able to tell, unless the disk fails. */
import { afterEach, describe, expect, it } from "vitest";
import type { Ino } from "../../src/core/types.ts";
import type { Volume } from "../../src/core/volume.ts";
import { SqliteError } from "../../src/db/errors.ts";
import { Statement } from "../../src/db/statement.ts";
import {
  afterCrash,
  b,
  CALLER,
  contentOf,
  expectErrno,
  find,
  inVolume,
  namesOf,
  noise,
  put,
  ROOT,
  S_IFREG,
  touch,
} from "./fixture.ts";

const step = Statement.prototype.step;

/** Makes every statement that writes fail. */
function breakWrites(): void {
  Statement.prototype.step = function (this: Statement) {
    if (/^(INSERT|UPDATE|DELETE)/.test(this.sql)) throw new SqliteError("disk I/O error", 10, 5, this.sql);
    return step.call(this);
  };
}

afterEach(() => {
  Statement.prototype.step = step;
});

const options = { volume: { answersFirst: true } };

describe("a volume that answers first", () => {
  it("shows each change to the next operation, without a finish in between", () =>
    inVolume((_, volume) => {
      const file = touch(volume, ROOT, "a");
      volume.files.write(file, 0, b("content"), false);
      expect(contentOf(volume, file).toString()).toBe("content");
      volume.tree.rename(ROOT, b("a"), ROOT, b("b"), 0);
      expect(namesOf(volume, ROOT)).toEqual(["b"]);
      volume.tree.unlink(ROOT, b("b"));
      expect(find(volume, "b")).toBeUndefined();
      volume.tree.mkdir(ROOT, b("d"), 0o755, CALLER);
      expect(volume.attributes.getattr(ROOT).nlink).toBe(3);
    }, options));

  it("is closed when one file is dead and the removal of the next waits to be written", () =>
    inVolume((fixture, volume) => {
      put(volume, ROOT, "a", noise(100_000));
      put(volume, ROOT, "b", noise(100_000, 2));
      volume.commit();
      volume.idle(fixture.clock.monotonicMs());
      volume.tree.unlink(ROOT, b("a"));
      volume.tree.unlink(ROOT, b("b"));
      fixture.close();
    }, options));

  it("refuses what it refuses at once", () =>
    inVolume((_, volume) => {
      touch(volume, ROOT, "a");
      expectErrno("EEXIST", () => volume.tree.mknod(ROOT, b("a"), S_IFREG, 0, CALLER));
      expectErrno("ENOENT", () => volume.tree.unlink(ROOT, b("c")));
      expectErrno("EISDIR", () => volume.files.write(ROOT, 0, b("x"), false));
    }, options));

  it("has on disk at fsync, commit and close what it answered", () =>
    inVolume((fixture, volume) => {
      const file = touch(volume, ROOT, "a");
      volume.files.write(file, 0, b("one"), false);
      volume.fsync(file);
      afterCrash(fixture, (_, copy) => expect(contentOf(copy, file).toString()).toBe("one"));
      volume.files.write(file, 0, b("two"), false);
      volume.commit();
      afterCrash(fixture, (_, copy) => expect(contentOf(copy, file).toString()).toBe("two"));
      volume.files.write(file, 0, b("six"), false);
      expect(contentOf(fixture.remount(), file).toString()).toBe("six");
    }, options));

  it("with one commit for each operation has it on disk before it answers", () =>
    inVolume(
      (fixture, volume) => {
        const file = touch(volume, ROOT, "a");
        volume.files.write(file, 0, b("one"), false);
        afterCrash(fixture, (_, copy) => expect(contentOf(copy, file).toString()).toBe("one"));
      },
      { volume: { answersFirst: true, sync: true } },
    ));

  it("tells a failure of what it answered at the next fsync of that file, once, and refuses changes", () =>
    inVolume((fixture, volume) => {
      const file = put(volume, ROOT, "a", "before");
      const other = put(volume, ROOT, "b", "before");
      volume.commit();
      breakWrites();
      volume.files.write(file, 0, noise(100_000), false);
      expect(volume.failed).toBe(false);
      volume.finish();
      Statement.prototype.step = step;
      expect(volume.failed).toBe(true);
      expect(fixture.takeLog().join()).toContain("a commit failed");
      expectErrno("EROFS", () => volume.files.write(other, 0, b("x"), false));
      volume.fsync(other);
      expectErrno("EIO", () => volume.fsync(file));
      volume.fsync(file);
      expect(contentOf(volume, file).toString()).toBe("before");
      expect(contentOf(fixture.remount(), file).toString()).toBe("before");
    }, options));

  it.each([
    ["mknod", (volume: Volume) => touch(volume, ROOT, "new")],
    ["unlink", (volume: Volume, file: Ino) => volume.tree.unlink(ROOT, b("a")) ?? file],
    ["rename", (volume: Volume, file: Ino) => volume.tree.rename(ROOT, b("a"), ROOT, b("c"), 0) ?? file],
  ] as const)("tells a failed %s at the fsync of the directory and of the file", (_, change) =>
    inVolume((fixture, volume) => {
      const file = put(volume, ROOT, "a", "a");
      volume.inodes.ref(file);
      volume.commit();
      breakWrites();
      const changed = change(volume, file);
      volume.finish();
      Statement.prototype.step = step;
      expectErrno("EIO", () => volume.fsync(changed));
      expectErrno("EIO", () => volume.fsync(ROOT));
      fixture.takeLog();
    }, options),
  );

  it("tells whoever has a file open that was lost: EIO, not that there never was one", () =>
    inVolume((fixture, volume) => {
      breakWrites();
      const lost = touch(volume, ROOT, "new");
      volume.finish();
      Statement.prototype.step = step;
      expectErrno("EIO", () => volume.files.write(lost, 0, b("x"), false));
      expectErrno("EIO", () => volume.files.read(lost, 0, 1, Buffer.alloc(1)));
      expect(find(volume, "new")).toBeUndefined();
      fixture.takeLog();
    }, options));

  it("applies what a copy wrote in part before it shares the blocks behind it", () =>
    // The check at the end compares the number of blocks that the inode says with those that it has.
    inVolume((_, volume) => {
      const from = put(volume, ROOT, "from", Buffer.alloc(60_000, "a"));
      const to = put(volume, ROOT, "to", "");
      expect(volume.files.copyFileRange(from, 1000, to, 1000, 59_000, false)).toBe(59_000);
      expect(contentOf(volume, to).subarray(1000).equals(Buffer.alloc(59_000, "a"))).toBe(true);
    }, options));
});
