/** Names: a test per line of the error tables in src/core/tree.ts, and what each operation changes. */
import { describe, expect, it } from "vitest";
import type { ErrnoName } from "../../src/base/errno.ts";
import {
  type Attr,
  type Entry,
  type Ino,
  LINK_MAX,
  RENAME_EXCHANGE,
  RENAME_NOREPLACE,
} from "../../src/core/types.ts";
import type { Volume } from "../../src/core/volume.ts";
import {
  b,
  CALLER,
  expectErrno,
  find,
  GID,
  inVolume,
  mkdir,
  NOBODY,
  namesOf,
  OPEN_CALLER,
  put,
  ROOT,
  S_IFBLK,
  S_IFCHR,
  S_IFDIR,
  S_IFIFO,
  S_IFLNK,
  S_IFREG,
  S_IFSOCK,
  settle,
  touch,
  UID,
} from "./fixture.ts";

const LONGEST = b("n".repeat(255));
const TOO_LONG = b("n".repeat(256));

function inodeOf(volume: Volume, path: string): Ino {
  const attr = find(volume, path);
  if (attr === undefined) throw new Error(`no ${path}`);
  return attr.ino;
}

/** A directory that was removed while somebody holds it. */
function removedDirectory(volume: Volume): Ino {
  const ino = mkdir(volume, ROOT, "removed");
  volume.inodes.ref(ino);
  volume.tree.rmdir(ROOT, b("removed"));
  return ino;
}

type Make = (volume: Volume, parent: Ino, name: Uint8Array) => Attr;

const MAKERS: readonly (readonly [string, Make])[] = [
  ["mknod", (v, parent, name) => v.tree.mknod(parent, name, S_IFREG | 0o644, 0, CALLER)],
  ["mkdir", (v, parent, name) => v.tree.mkdir(parent, name, 0o755, CALLER)],
  ["symlink", (v, parent, name) => v.tree.symlink(parent, name, b("target"), CALLER)],
  [
    "link",
    (v, parent, name) => v.tree.link(find(v, "linked")?.ino ?? touch(v, ROOT, "linked"), parent, name),
  ],
];

describe.each(MAKERS)("%s is refused with", (_, make) => {
  it("ESTALE where there is no such directory", () =>
    inVolume((_, volume) => {
      touch(volume, ROOT, "linked");
      expectErrno("ESTALE", () => make(volume, NOBODY, b("a")));
    }));

  it("ENOTDIR in what is no directory", () =>
    inVolume((_, volume) => {
      const file = touch(volume, ROOT, "file");
      expectErrno("ENOTDIR", () => make(volume, file, b("a")));
    }));

  it("ENOENT in a removed directory", () =>
    inVolume((_, volume) => {
      const removed = removedDirectory(volume);
      expectErrno("ENOENT", () => make(volume, removed, b("a")));
    }));

  it("EEXIST where the name is taken, by whatever type", () =>
    inVolume((_, volume) => {
      touch(volume, ROOT, "file");
      mkdir(volume, ROOT, "directory");
      volume.tree.symlink(ROOT, b("dangling"), b("nowhere"), CALLER);
      for (const name of ["file", "directory", "dangling", ".", ".."])
        expectErrno("EEXIST", () => make(volume, ROOT, b(name)));
    }));

  it("ENAMETOOLONG for 256 bytes, and takes 255", () =>
    inVolume((_, volume) => {
      expectErrno("ENAMETOOLONG", () => make(volume, ROOT, TOO_LONG));
      make(volume, ROOT, LONGEST);
      expect(namesOf(volume, ROOT)).toContain(LONGEST.toString());
    }));

  it("EINVAL for a name with NUL or a slash, ENOENT for an empty one", () =>
    inVolume((_, volume) => {
      for (const name of ["a\0b", "\0", "a/b", "/"]) expectErrno("EINVAL", () => make(volume, ROOT, b(name)));
      expectErrno("ENOENT", () => make(volume, ROOT, b("")));
    }));
});

describe("mknod", () => {
  it.each([
    ["a regular file", S_IFREG, 0],
    ["a fifo", S_IFIFO, 0],
    ["a socket", S_IFSOCK, 0],
    ["a character device", S_IFCHR, 0x0103],
    ["a block device", S_IFBLK, 0xfff0_0801],
  ])("makes %s", (_, type, rdev) =>
    inVolume((fixture, volume) => {
      const made = volume.tree.mknod(ROOT, b("a"), type | 0o7666, rdev, CALLER);
      expect(made).toMatchObject({
        mode: type | 0o7644,
        rdev,
        nlink: 1,
        size: 0,
        uid: UID,
        gid: GID,
        blocks: 0,
      });
      expect(fixture.remount().tree.lookup(ROOT, b("a"))).toEqual(made);
    }),
  );

  it("takes no type for a regular file, and no device number for what is no device", () =>
    inVolume((_, volume) => {
      expect(volume.tree.mknod(ROOT, b("a"), 0o600, 77, CALLER)).toMatchObject({
        mode: S_IFREG | 0o600,
        rdev: 0,
      });
    }));

  it("keeps nothing but the type and the permissions of a mode", () =>
    inVolume((_, volume) => {
      const mode = 0o7650_0000 | S_IFREG | 0o640;
      expect(volume.tree.mknod(ROOT, b("a"), mode, 0, OPEN_CALLER).mode).toBe(S_IFREG | 0o640);
    }));

  it("is refused with EINVAL for a directory, a symlink and what is no type", () =>
    inVolume((_, volume) => {
      for (const type of [
        S_IFDIR,
        S_IFLNK,
        0o030000,
        0o050000,
        0o070000,
        0o110000,
        0o150000,
        0o160000,
        0o170000,
      ])
        expectErrno("EINVAL", () => volume.tree.mknod(ROOT, b("a"), type | 0o600, 0, CALLER));
    }));

  it("stamps the new inode and the directory with now, and leaves the directory's atime", () =>
    inVolume((fixture, volume) => {
      const before = volume.attributes.getattr(ROOT);
      fixture.clock.advance(1234);
      const { sec, nsec } = fixture.clock;
      const made = volume.tree.mknod(ROOT, b("a"), S_IFREG, 0, CALLER);
      expect(made).toMatchObject({ atimeSec: sec, mtimeSec: sec, ctimeSec: sec, btimeSec: sec });
      expect(made).toMatchObject({ atimeNsec: nsec, mtimeNsec: nsec, ctimeNsec: nsec, btimeNsec: nsec });
      expect(volume.attributes.getattr(ROOT)).toEqual({
        ...before,
        mtimeSec: sec,
        mtimeNsec: nsec,
        ctimeSec: sec,
        ctimeNsec: nsec,
      });
    }));

  it("gives each file its own number and generation", () =>
    inVolume((_, volume) => {
      const made = Array.from({ length: 50 }, (_, i) =>
        volume.tree.mknod(ROOT, b(`${i}`), S_IFREG, 0, CALLER),
      );
      expect(new Set(made.map(({ ino }) => ino)).size).toBe(50);
      expect(new Set(made.map(({ generation }) => generation)).size).toBeGreaterThan(45);
    }));

  it("never gives a number out twice, also after a remount", () =>
    inVolume((fixture, volume) => {
      const first = touch(volume, ROOT, "a");
      volume.tree.unlink(ROOT, b("a"));
      settle(volume, fixture.clock);
      const again = fixture.remount();
      expect(touch(again, ROOT, "a")).toBeGreaterThan(first);
    }));

  it("takes the group of a setgid directory", () =>
    inVolume((_, volume) => {
      const directory = mkdir(volume, ROOT, "d");
      volume.attributes.setattr(directory, { mode: 0o2755, gid: 77 });
      const made = volume.tree.mknod(directory, b("a"), S_IFREG | 0o644, 0, CALLER);
      expect(made).toMatchObject({ gid: 77, uid: UID, mode: S_IFREG | 0o644 });
      expect(volume.tree.symlink(directory, b("s"), b("t"), CALLER).gid).toBe(77);
      expect(volume.tree.tmpfile(directory, 0o600, CALLER).gid).toBe(77);
    }));

  it("keeps names that are no UTF-8, and tells upper from lower case", () =>
    inVolume((fixture, volume) => {
      const raw = Uint8Array.of(0xff, 0xfe, 0x80, 0x01);
      volume.tree.mknod(ROOT, raw, S_IFREG, 0, CALLER);
      touch(volume, ROOT, "Case");
      touch(volume, ROOT, "case");
      touch(volume, ROOT, "\u00e9"); // composed
      touch(volume, ROOT, "e\u0301"); // decomposed
      expect(namesOf(fixture.remount(), ROOT)).toHaveLength(5);
      expect(fixture.volume.tree.lookup(ROOT, raw)).toBeDefined();
    }));
});

describe("mkdir", () => {
  it("makes an empty directory with two links and gives its parent one more", () =>
    inVolume((fixture, volume) => {
      const made = volume.tree.mkdir(ROOT, b("d"), 0o777, CALLER);
      expect(made).toMatchObject({ mode: S_IFDIR | 0o755, nlink: 2, uid: UID, gid: GID, size: 0 });
      expect(volume.attributes.getattr(ROOT).nlink).toBe(3);
      expect(volume.tree.parentOf(made.ino)).toBe(ROOT);
      expect(fixture.remount().tree.lookup(ROOT, b("d"))).toEqual(made);
    }));

  it("hands setgid and the group down", () =>
    inVolume((_, volume) => {
      const directory = mkdir(volume, ROOT, "d");
      volume.attributes.setattr(directory, { mode: 0o2755, gid: 77 });
      expect(volume.tree.mkdir(directory, b("a"), 0o700, CALLER)).toMatchObject({
        gid: 77,
        mode: S_IFDIR | 0o2700,
      });
    }));
});

describe("symlink", () => {
  it("keeps its target, any bytes, with mode 0777 and the target's length", () =>
    inVolume((fixture, volume) => {
      const target = Buffer.from([0xff, 0x2f, 0x01, 0x80]);
      const made = volume.tree.symlink(ROOT, b("s"), target, CALLER);
      expect(made).toMatchObject({ mode: S_IFLNK | 0o777, size: 4, nlink: 1, blocks: 0 });
      expect(Buffer.from(fixture.remount().tree.readlink(made.ino))).toEqual(target);
    }));

  it("is refused with ENOENT for an empty target", () =>
    inVolume((_, volume) => {
      expectErrno("ENOENT", () => volume.tree.symlink(ROOT, b("s"), b(""), CALLER));
    }));

  it("is refused with ENAMETOOLONG for a target of 4096 bytes, and takes 4095", () =>
    inVolume((_, volume) => {
      expectErrno("ENAMETOOLONG", () => volume.tree.symlink(ROOT, b("s"), b("t".repeat(4096)), CALLER));
      const { ino } = volume.tree.symlink(ROOT, b("s"), b("t".repeat(4095)), CALLER);
      expect(volume.tree.readlink(ino)).toHaveLength(4095);
    }));
});

describe("readlink", () => {
  it("is refused with EINVAL for what is no symlink and ESTALE for what is not there", () =>
    inVolume((_, volume) => {
      const file = touch(volume, ROOT, "a");
      expectErrno("EINVAL", () => volume.tree.readlink(file));
      expectErrno("EINVAL", () => volume.tree.readlink(ROOT));
      expectErrno("ESTALE", () => volume.tree.readlink(NOBODY));
    }));
});

describe("lookup", () => {
  it("finds nothing, without an exception, where there is no such name", () =>
    inVolume((_, volume) => {
      expect(volume.tree.lookup(ROOT, b("absent"))).toBeUndefined();
      expect(volume.tree.lookup(ROOT, b(""))).toBeUndefined();
    }));

  it("tells what getattr tells", () =>
    inVolume((_, volume) => {
      const file = put(volume, ROOT, "a", "content");
      expect(volume.tree.lookup(ROOT, b("a"))).toEqual(volume.attributes.getattr(file));
    }));

  it('takes "." and ".."', () =>
    inVolume((_, volume) => {
      const outer = mkdir(volume, ROOT, "outer");
      const inner = mkdir(volume, outer, "inner");
      expect(volume.tree.lookup(inner, b("."))?.ino).toBe(inner);
      expect(volume.tree.lookup(inner, b(".."))?.ino).toBe(outer);
      expect(volume.tree.lookup(ROOT, b(".."))?.ino).toBe(ROOT);
    }));

  it("is refused with ESTALE, ENOTDIR and ENAMETOOLONG", () =>
    inVolume((_, volume) => {
      const file = touch(volume, ROOT, "a");
      expectErrno("ESTALE", () => volume.tree.lookup(NOBODY, b("a")));
      expectErrno("ENOTDIR", () => volume.tree.lookup(file, b("a")));
      expectErrno("ENOTDIR", () => volume.tree.lookup(file, b("..")));
      expectErrno("ENAMETOOLONG", () => volume.tree.lookup(ROOT, TOO_LONG));
    }));

  it("finds nothing in a removed directory", () =>
    inVolume((_, volume) => {
      expect(volume.tree.lookup(removedDirectory(volume), b("a"))).toBeUndefined();
    }));
});

describe("parentOf", () => {
  it("is refused with ESTALE and ENOTDIR", () =>
    inVolume((_, volume) => {
      const file = touch(volume, ROOT, "a");
      expectErrno("ESTALE", () => volume.tree.parentOf(NOBODY));
      expectErrno("ENOTDIR", () => volume.tree.parentOf(file));
    }));
});

describe("tmpfile", () => {
  it("is a regular file without a name, gone when its last reference goes", () =>
    inVolume((fixture, volume) => {
      const { ino, nlink, mode } = volume.tree.tmpfile(ROOT, 0o666, CALLER);
      volume.inodes.ref(ino);
      expect({ nlink, mode }).toEqual({ nlink: 0, mode: S_IFREG | 0o644 });
      volume.files.write(ino, 0, b("data"), false);
      settle(volume, fixture.clock);
      expect(volume.attributes.getattr(ino).size).toBe(4);
      expect(namesOf(volume, ROOT)).toEqual([]);
      volume.inodes.unref(ino, 1);
      settle(volume, fixture.clock);
      expectErrno("ESTALE", () => volume.attributes.getattr(ino));
      fixture.close();
      expect(fixture.number("SELECT count(*) FROM block")).toBe(0);
    }));

  it("stays when it is linked before its last reference goes", () =>
    inVolume((fixture, volume) => {
      const { ino } = volume.tree.tmpfile(ROOT, 0o600, CALLER);
      volume.inodes.ref(ino);
      volume.files.write(ino, 0, b("data"), false);
      expect(volume.tree.link(ino, ROOT, b("a")).nlink).toBe(1);
      volume.inodes.unref(ino, 1);
      settle(volume, fixture.clock);
      expect(find(fixture.remount(), "a")).toMatchObject({ ino, size: 4, nlink: 1 });
    }));

  it("is refused with ESTALE, ENOTDIR, and ENOENT in a removed directory", () =>
    inVolume((_, volume) => {
      const file = touch(volume, ROOT, "a");
      expectErrno("ESTALE", () => volume.tree.tmpfile(NOBODY, 0o600, CALLER));
      expectErrno("ENOTDIR", () => volume.tree.tmpfile(file, 0o600, CALLER));
      const removed = removedDirectory(volume);
      expectErrno("ENOENT", () => volume.tree.tmpfile(removed, 0o600, CALLER));
    }));

  it("leaves the directory's times alone", () =>
    inVolume((fixture, volume) => {
      const before = volume.attributes.getattr(ROOT);
      fixture.clock.advance(1000);
      volume.tree.tmpfile(ROOT, 0o600, CALLER);
      expect(volume.attributes.getattr(ROOT)).toEqual(before);
    }));
});

describe("link", () => {
  it("gives a file one more name, and moves its ctime and the directory's mtime", () =>
    inVolume((fixture, volume) => {
      const directory = mkdir(volume, ROOT, "d");
      const file = put(volume, ROOT, "a", "x");
      const before = volume.attributes.getattr(file);
      fixture.clock.advance(1500);
      const { sec, nsec } = fixture.clock;
      const after = volume.tree.link(file, directory, b("b"));
      expect(after).toEqual({ ...before, nlink: 2, ctimeSec: sec, ctimeNsec: nsec });
      expect(volume.attributes.getattr(directory)).toMatchObject({ mtimeSec: sec, ctimeSec: sec });
      expect(find(fixture.remount(), "d/b")).toEqual(after);
    }));

  it("links symlinks, fifos and devices too", () =>
    inVolume((_, volume) => {
      const inos = [
        volume.tree.symlink(ROOT, b("s"), b("t"), CALLER).ino,
        volume.tree.mknod(ROOT, b("f"), S_IFIFO, 0, CALLER).ino,
        volume.tree.mknod(ROOT, b("c"), S_IFCHR, 5, CALLER).ino,
      ];
      for (const ino of inos) expect(volume.tree.link(ino, ROOT, b(`${ino}`)).nlink).toBe(2);
    }));

  it("is refused with EPERM for a directory and ESTALE for what is not there", () =>
    inVolume((_, volume) => {
      const directory = mkdir(volume, ROOT, "d");
      expectErrno("EPERM", () => volume.tree.link(directory, ROOT, b("a")));
      expectErrno("ESTALE", () => volume.tree.link(NOBODY, ROOT, b("a")));
    }));

  it("is refused with EMLINK at 65,000 links", () =>
    inVolume((fixture, volume) => {
      const file = touch(volume, ROOT, "a");
      fixture.close();
      fixture.sql((db) => db.exec(`UPDATE inode SET nlink = ${LINK_MAX - 1} WHERE ino = ${file}`));
      expect(fixture.volume.tree.link(file, ROOT, b("b")).nlink).toBe(LINK_MAX);
      expectErrno("EMLINK", () => fixture.volume.tree.link(file, ROOT, b("c")));
      fixture.close();
      fixture.sql((db) => db.exec(`UPDATE inode SET nlink = 2 WHERE ino = ${file}`));
    }));
});

describe("unlink", () => {
  it("removes one name, moves the ctime of what has others, and the directory's times", () =>
    inVolume((fixture, volume) => {
      const file = touch(volume, ROOT, "a");
      volume.tree.link(file, ROOT, b("b"));
      fixture.clock.advance(1500);
      const { sec } = fixture.clock;
      volume.tree.unlink(ROOT, b("a"));
      expect(volume.attributes.getattr(file)).toMatchObject({ nlink: 1, ctimeSec: sec });
      expect(volume.attributes.getattr(ROOT)).toMatchObject({ mtimeSec: sec, ctimeSec: sec, nlink: 2 });
      expect(namesOf(fixture.remount(), ROOT)).toEqual(["b"]);
    }));

  it("leaves a referenced file whole until its last reference goes", () =>
    inVolume((fixture, volume) => {
      const file = put(volume, ROOT, "a", "content");
      volume.inodes.ref(file);
      volume.inodes.ref(file);
      volume.tree.unlink(ROOT, b("a"));
      settle(volume, fixture.clock);
      volume.inodes.unref(file, 1);
      settle(volume, fixture.clock);
      volume.files.write(file, 7, b(" and more"), false);
      expect(volume.attributes.getattr(file)).toMatchObject({ nlink: 0, size: 16 });
      volume.inodes.unref(file, 1);
      settle(volume, fixture.clock);
      expectErrno("ESTALE", () => volume.attributes.getattr(file));
    }));

  it("is refused with EISDIR, ENOENT, ENOTDIR, ESTALE and ENAMETOOLONG", () =>
    inVolume((_, volume) => {
      mkdir(volume, ROOT, "d");
      const file = touch(volume, ROOT, "a");
      expectErrno("EISDIR", () => volume.tree.unlink(ROOT, b("d")));
      expectErrno("ENOENT", () => volume.tree.unlink(ROOT, b("absent")));
      expectErrno("ENOTDIR", () => volume.tree.unlink(file, b("a")));
      expectErrno("ESTALE", () => volume.tree.unlink(NOBODY, b("a")));
      expectErrno("ENAMETOOLONG", () => volume.tree.unlink(ROOT, TOO_LONG));
    }));
});

describe("rmdir", () => {
  it("removes an empty directory and takes the link of its parent", () =>
    inVolume((fixture, volume) => {
      mkdir(volume, ROOT, "d");
      fixture.clock.advance(1500);
      volume.tree.rmdir(ROOT, b("d"));
      expect(volume.attributes.getattr(ROOT)).toMatchObject({ nlink: 2, mtimeSec: fixture.clock.sec });
      expect(namesOf(fixture.remount(), ROOT)).toEqual([]);
    }));

  it("leaves a referenced directory there, empty and without links", () =>
    inVolume((fixture, volume) => {
      const removed = removedDirectory(volume);
      settle(volume, fixture.clock);
      expect(volume.attributes.getattr(removed)).toMatchObject({ nlink: 0, mode: S_IFDIR | 0o755 });
      expect(namesOf(volume, removed)).toEqual([]);
      volume.inodes.unref(removed, 1);
      settle(volume, fixture.clock);
      expectErrno("ESTALE", () => volume.attributes.getattr(removed));
    }));

  it("is refused with ENOTEMPTY where a name is left, and succeeds when it is gone", () =>
    inVolume((_, volume) => {
      const directory = mkdir(volume, ROOT, "d");
      touch(volume, directory, "a");
      expectErrno("ENOTEMPTY", () => volume.tree.rmdir(ROOT, b("d")));
      volume.tree.unlink(directory, b("a"));
      volume.tree.rmdir(ROOT, b("d"));
    }));

  it("is refused with ENOTDIR, ENOENT, EINVAL, ENOTEMPTY, ESTALE and ENAMETOOLONG", () =>
    inVolume((_, volume) => {
      const file = touch(volume, ROOT, "a");
      const directory = mkdir(volume, ROOT, "d");
      expectErrno("ENOTDIR", () => volume.tree.rmdir(ROOT, b("a")));
      expectErrno("ENOTDIR", () => volume.tree.rmdir(file, b("x")));
      expectErrno("ENOENT", () => volume.tree.rmdir(ROOT, b("absent")));
      expectErrno("EINVAL", () => volume.tree.rmdir(directory, b(".")));
      expectErrno("ENOTEMPTY", () => volume.tree.rmdir(directory, b("..")));
      expectErrno("ESTALE", () => volume.tree.rmdir(NOBODY, b("a")));
      expectErrno("ENAMETOOLONG", () => volume.tree.rmdir(ROOT, TOO_LONG));
    }));
});

describe("rename", () => {
  /** /a (file), /b (file), /d (empty directory), /e/f (file), /e/g (directory) */
  function inTree(run: (volume: Volume, rename: Rename, at: (path: string) => Ino) => void): void {
    inVolume((_, volume) => {
      put(volume, ROOT, "a", "a");
      put(volume, ROOT, "b", "b");
      mkdir(volume, ROOT, "d");
      const e = mkdir(volume, ROOT, "e");
      put(volume, e, "f", "f");
      mkdir(volume, e, "g");
      const split = (path: string): [Ino, Buffer] => {
        const slash = path.lastIndexOf("/");
        return [slash < 0 ? ROOT : inodeOf(volume, path.slice(0, slash)), b(path.slice(slash + 1))];
      };
      const rename = (from: string, to: string, flags = 0) =>
        volume.tree.rename(...split(from), ...split(to), flags);
      run(volume, rename, (path) => inodeOf(volume, path));
    });
  }
  type Rename = (from: string, to: string, flags?: number) => void;

  it("gives a file another name in the same directory", () =>
    inTree((volume, rename, at) => {
      const a = at("a");
      rename("a", "c");
      expect(at("c")).toBe(a);
      expect(find(volume, "a")).toBeUndefined();
    }));

  it("moves a directory with all below it, and the links of both parents", () =>
    inTree((volume, rename, at) => {
      const e = at("e");
      rename("e", "d/moved");
      expect(at("d/moved")).toBe(e);
      expect(find(volume, "d/moved/f")).toBeDefined();
      expect(volume.tree.parentOf(e)).toBe(at("d"));
      expect(volume.attributes.getattr(ROOT).nlink).toBe(3);
      expect(volume.attributes.getattr(at("d")).nlink).toBe(3);
    }));

  it("replaces a file by a file", () =>
    inTree((volume, rename, at) => {
      const [a, replaced] = [at("a"), at("b")];
      volume.inodes.ref(replaced);
      rename("a", "b");
      expect(at("b")).toBe(a);
      expect(volume.attributes.getattr(replaced).nlink).toBe(0);
      volume.inodes.unref(replaced, 1);
    }));

  it("replaces an empty directory by a directory", () =>
    inTree((volume, rename, at) => {
      const e = at("e");
      rename("e", "d");
      expect(at("d")).toBe(e);
      expect(volume.attributes.getattr(ROOT).nlink).toBe(3);
      rename("d/g", "d/h");
      expect(volume.attributes.getattr(e).nlink).toBe(3);
    }));

  it("stamps both directories and the inode that it moved and the one that it replaced", () =>
    inVolume((fixture, volume) => {
      const [one, other] = [mkdir(volume, ROOT, "one"), mkdir(volume, ROOT, "other")];
      const moved = touch(volume, one, "a");
      const replaced = touch(volume, other, "a");
      volume.tree.link(replaced, ROOT, b("kept"));
      const before = volume.attributes.getattr(moved);
      fixture.clock.advance(2500);
      const { sec, nsec } = fixture.clock;
      volume.tree.rename(one, b("a"), other, b("a"), 0);
      for (const directory of [one, other])
        expect(volume.attributes.getattr(directory)).toMatchObject({ mtimeSec: sec, ctimeSec: sec });
      expect(volume.attributes.getattr(moved)).toEqual({ ...before, ctimeSec: sec, ctimeNsec: nsec });
      expect(volume.attributes.getattr(replaced)).toMatchObject({ nlink: 1, ctimeSec: sec });
    }));

  it("does nothing where both names are of one file", () =>
    inVolume((fixture, volume) => {
      const file = touch(volume, ROOT, "a");
      volume.tree.link(file, ROOT, b("b"));
      const before = [volume.attributes.getattr(file), volume.attributes.getattr(ROOT)];
      fixture.clock.advance(1000);
      volume.tree.rename(ROOT, b("a"), ROOT, b("b"), 0);
      volume.tree.rename(ROOT, b("a"), ROOT, b("a"), 0);
      expect([volume.attributes.getattr(file), volume.attributes.getattr(ROOT)]).toEqual(before);
      expect(namesOf(volume, ROOT)).toEqual(["a", "b"]);
    }));

  it("keeps the entry's cookie", () =>
    inVolume((_, volume) => {
      const cookies = (): Map<string, number> => {
        const found = new Map<string, number>();
        volume.tree.readdir(ROOT, 0, (e) => Boolean(found.set(Buffer.from(e.name).toString(), e.cookie)));
        return found;
      };
      touch(volume, ROOT, "a");
      touch(volume, ROOT, "b");
      const before = cookies();
      volume.tree.rename(ROOT, b("a"), ROOT, b("z"), 0);
      expect(cookies().get("z")).toBe(before.get("a"));
    }));

  const REFUSED: readonly (readonly [ErrnoName, string, string, string, number])[] = [
    ["ENOENT", "what is not there", "absent", "x", 0],
    ["EISDIR", "a file onto an empty directory", "a", "d", 0],
    ["EISDIR", "a file onto a directory that is not empty", "a", "e", 0],
    ["ENOTDIR", "a directory onto a file", "d", "a", 0],
    ["ENOTEMPTY", "a directory onto one that is not empty", "d", "e", 0],
    ["EINVAL", "a directory into itself", "e", "e/x", 0],
    ["EINVAL", "a directory below itself", "e", "e/g/x", 0],
    ["EEXIST", "onto a file with NOREPLACE", "a", "b", RENAME_NOREPLACE],
    ["EEXIST", "onto an empty directory with NOREPLACE", "e", "d", RENAME_NOREPLACE],
    ["EEXIST", "onto itself with NOREPLACE", "a", "a", RENAME_NOREPLACE],
    ["ENOENT", "with EXCHANGE what is not there", "absent", "a", RENAME_EXCHANGE],
    ["ENOENT", "with EXCHANGE onto what is not there", "a", "absent", RENAME_EXCHANGE],
    ["EINVAL", "with EXCHANGE a directory with what is in it", "e", "e/f", RENAME_EXCHANGE],
    ["EINVAL", "with EXCHANGE what is in a directory with it", "e/g", "e", RENAME_EXCHANGE],
    ["EINVAL", "with both flags", "a", "b", RENAME_EXCHANGE | RENAME_NOREPLACE],
    ["EINVAL", "with a flag that is not known", "a", "b", 4],
    ["EINVAL", "with RENAME_WHITEOUT", "a", "x", 8],
  ];
  it.each(REFUSED)("is refused with %s: %s", (code, _, from, to, flags) =>
    inTree((volume, rename) => {
      const before = ["a", "b", "d", "e", "e/f", "e/g"].map((path) => find(volume, path));
      expectErrno(code, () => rename(from, to, flags));
      expect(["a", "b", "d", "e", "e/f", "e/g"].map((path) => find(volume, path))).toEqual(before);
    }),
  );

  it("is refused with ESTALE, ENOTDIR, ENAMETOOLONG and EINVAL for parents and names that cannot be", () =>
    inTree((volume, _, at) => {
      const file = at("a");
      expectErrno("ESTALE", () => volume.tree.rename(NOBODY, b("a"), ROOT, b("x"), 0));
      expectErrno("ESTALE", () => volume.tree.rename(ROOT, b("a"), NOBODY, b("x"), 0));
      expectErrno("ENOTDIR", () => volume.tree.rename(file, b("a"), ROOT, b("x"), 0));
      expectErrno("ENOTDIR", () => volume.tree.rename(ROOT, b("a"), file, b("x"), 0));
      expectErrno("ENAMETOOLONG", () => volume.tree.rename(ROOT, TOO_LONG, ROOT, b("x"), 0));
      expectErrno("ENAMETOOLONG", () => volume.tree.rename(ROOT, b("a"), ROOT, TOO_LONG, 0));
      for (const name of ["x/y", "x\0", ".", ".."])
        expectErrno("EINVAL", () => volume.tree.rename(ROOT, b("a"), ROOT, b(name), 0));
      const removed = removedDirectory(volume);
      expectErrno("ENOENT", () => volume.tree.rename(ROOT, b("a"), removed, b("x"), 0));
    }));

  it("exchanges a file and a directory of two directories", () =>
    inTree((volume, rename, at) => {
      const [a, g] = [at("a"), at("e/g")];
      rename("a", "e/g", RENAME_EXCHANGE);
      expect([at("e/g"), at("a")]).toEqual([a, g]);
      expect(volume.tree.parentOf(g)).toBe(ROOT);
      expect(volume.attributes.getattr(ROOT).nlink).toBe(5);
      expect(volume.attributes.getattr(at("e")).nlink).toBe(2);
    }));

  it("exchanges two directories that are not empty", () =>
    inTree((volume, rename, at) => {
      touch(volume, at("e/g"), "deep");
      const [d, g] = [at("d"), at("e/g")];
      rename("d", "e/g", RENAME_EXCHANGE);
      expect([at("e/g"), at("d")]).toEqual([d, g]);
      expect(find(volume, "d/deep")).toBeDefined();
      expect([volume.tree.parentOf(d), volume.tree.parentOf(g)]).toEqual([at("e"), ROOT]);
    }));

  it("exchanges within one directory, and the listing shows the new types", () =>
    inTree((volume, rename, at) => {
      rename("a", "d", RENAME_EXCHANGE);
      const types = new Map<string, number>();
      volume.tree.readdir(ROOT, 0, (e) => Boolean(types.set(Buffer.from(e.name).toString(), e.type)));
      expect([types.get("a"), types.get("d")]).toEqual([S_IFDIR, S_IFREG]);
      expect(volume.attributes.getattr(at("a")).nlink).toBe(2);
    }));
});

describe("readdir", () => {
  function scan(volume: Volume, ino: Ino, cookie: number, most = 1e9): Entry[] {
    const entries: Entry[] = [];
    volume.tree.readdir(ino, cookie, (entry) => {
      if (entries.length === most) return false;
      entries.push(entry);
      return true;
    });
    return entries;
  }

  it('shows every entry once with its type, without "." and ".."', () =>
    inVolume((_, volume) => {
      const made = [
        touch(volume, ROOT, "file"),
        mkdir(volume, ROOT, "directory"),
        volume.tree.symlink(ROOT, b("symlink"), b("t"), CALLER).ino,
        volume.tree.mknod(ROOT, b("fifo"), S_IFIFO, 0, CALLER).ino,
      ];
      expect(scan(volume, ROOT, 0).map(({ ino, type }) => [ino, type])).toEqual([
        [made[0], S_IFREG],
        [made[1], S_IFDIR],
        [made[2], S_IFLNK],
        [made[3], S_IFIFO],
      ]);
    }));

  it("goes on after any cookie, and its cookies rise and are above 2", () =>
    inVolume((_, volume) => {
      for (let i = 0; i < 30; i++) touch(volume, ROOT, `${i}`);
      const all = scan(volume, ROOT, 0);
      expect(all).toHaveLength(30);
      for (const [i, { cookie }] of all.entries()) {
        expect(cookie).toBeGreaterThan(i === 0 ? 2 : (all[i - 1]?.cookie ?? 0));
        expect(scan(volume, ROOT, cookie)).toEqual(all.slice(i + 1));
      }
    }));

  it("shows nothing behind a cookie that no entry can have, up to what seekdir can say", () =>
    inVolume((_, volume) => {
      touch(volume, ROOT, "a");
      for (const cookie of [2 ** 53 - 1, 2 ** 53, 2 ** 63]) expect(scan(volume, ROOT, cookie)).toEqual([]);
    }));

  it("shows what stays exactly once, whatever comes, goes and is renamed between two calls", () =>
    inVolume((_, volume) => {
      const stays = Array.from({ length: 40 }, (_, i) => `stays${i}`);
      for (const [i, name] of stays.entries()) {
        touch(volume, ROOT, name);
        touch(volume, ROOT, `goes${i}`);
        touch(volume, ROOT, `moves${i}`);
      }
      const seen: string[] = [];
      let cookie = 0;
      for (let round = 0; ; round++) {
        const part = scan(volume, ROOT, cookie, 7);
        if (part.length === 0) break;
        for (const { name } of part) seen.push(Buffer.from(name).toString());
        cookie = part.at(-1)?.cookie ?? 0;
        if (round >= 10) continue;
        for (let i = round; i < 40; i += 10) {
          volume.tree.unlink(ROOT, b(`goes${i}`));
          volume.tree.rename(ROOT, b(`moves${i}`), ROOT, b(`moved${i}`), 0);
          touch(volume, ROOT, `comes${i}`);
        }
      }
      expect(seen.filter((name) => name.startsWith("stays")).sort()).toEqual([...stays].sort());
      expect(new Set(seen).size).toBe(seen.length);
      for (let i = 0; i < 40; i++) {
        const times = seen.filter((name) => name === `moves${i}` || name === `moved${i}`).length;
        expect(times, `moves${i}`).toBe(1);
      }
    }));

  it("keeps its cookies over a remount", () =>
    inVolume((fixture, volume) => {
      for (let i = 0; i < 10; i++) touch(volume, ROOT, `${i}`);
      const before = scan(volume, ROOT, 0);
      expect(scan(fixture.remount(), ROOT, 0)).toEqual(before);
    }));

  it("does not consume the entry that was refused", () =>
    inVolume((_, volume) => {
      for (let i = 0; i < 5; i++) touch(volume, ROOT, `${i}`);
      const two = scan(volume, ROOT, 0, 2);
      expect(scan(volume, ROOT, two[1]?.cookie ?? 0)).toHaveLength(3);
    }));

  it("lets the visitor look around in the volume, deeper listings included", () =>
    inVolume((_, volume) => {
      for (const name of ["one", "two", "three"]) touch(volume, mkdir(volume, ROOT, name), `in ${name}`);
      const seen: string[] = [];
      const walk = (ino: Ino): void =>
        volume.tree.readdir(ino, 0, (entry) => {
          seen.push(Buffer.from(entry.name).toString());
          if (entry.type === S_IFDIR) walk(entry.ino);
          return true;
        });
      walk(ROOT);
      expect(seen).toEqual(["one", "in one", "two", "in two", "three", "in three"]);
    }));

  it("is refused with ESTALE and ENOTDIR", () =>
    inVolume((_, volume) => {
      const file = touch(volume, ROOT, "a");
      for (const list of [
        (ino: Ino) => volume.tree.readdir(ino, 0, () => true),
        (ino: Ino) => volume.tree.readdirplus(ino, 0, () => true),
      ]) {
        expectErrno("ESTALE", () => list(NOBODY));
        expectErrno("ENOTDIR", () => list(file));
      }
    }));

  it("plus shows the same entries with what getattr tells", () =>
    inVolume((_, volume) => {
      put(volume, ROOT, "file", "content");
      mkdir(volume, ROOT, "directory");
      volume.tree.link(touch(volume, ROOT, "one"), ROOT, b("other"));
      const entries: Entry[] = [];
      volume.tree.readdirplus(ROOT, 0, (entry, attr) => {
        entries.push(entry);
        expect({ ...attr }).toEqual(volume.attributes.getattr(entry.ino));
        return true;
      });
      expect(entries).toEqual(scan(volume, ROOT, 0));
    }));

  it("serves a directory of 10,000 entries in parts, before and after a remount", () =>
    inVolume((fixture, volume) => {
      const directory = mkdir(volume, ROOT, "d");
      for (let i = 0; i < 10_000; i++) touch(volume, directory, `entry ${i}`);
      for (const reopened of [false, true]) {
        if (reopened) fixture.remount();
        const names = new Set<string>();
        let cookie = 0;
        let part: Entry[];
        do {
          part = scan(fixture.volume, directory, cookie, 333);
          for (const { name } of part) names.add(Buffer.from(name).toString());
          cookie = part.at(-1)?.cookie ?? cookie;
        } while (part.length > 0);
        expect(names.size).toBe(10_000);
      }
      expect(find(fixture.volume, "d/entry 9999")).toBeDefined();
    }));
});

describe("inodes without a name", () => {
  it("that a crash left are purged at the next open, data and attributes included", () =>
    inVolume((fixture, volume) => {
      const file = put(volume, ROOT, "a", Buffer.alloc(300_000, 7));
      volume.xattrs.set(file, b("user.x"), b("y"), 0, false);
      const temporary = volume.tree.tmpfile(ROOT, 0o600, CALLER).ino;
      const directory = mkdir(volume, ROOT, "d");
      for (const ino of [file, temporary, directory]) volume.inodes.ref(ino);
      volume.files.write(temporary, 0, b("data"), false);
      volume.tree.unlink(ROOT, b("a"));
      volume.tree.rmdir(ROOT, b("d"));
      volume.commit();
      const copy = fixture.crashCopy();
      try {
        settle(copy.volume, copy.clock);
        for (const ino of [file, temporary, directory])
          expectErrno("ESTALE", () => copy.volume.attributes.getattr(ino));
        copy.close();
        for (const table of ["block", "extent", "xattr"])
          expect(copy.number(`SELECT count(*) FROM ${table}`), table).toBe(0);
        expect(copy.number("SELECT count(*) FROM inode")).toBe(1);
        copy.finish();
      } finally {
        copy.remove();
      }
    }));

  it("are not listed among the volume's references once given back", () =>
    inVolume((_, volume) => {
      const [one, other] = [touch(volume, ROOT, "a"), touch(volume, ROOT, "b")];
      volume.inodes.ref(one);
      volume.inodes.ref(one);
      volume.inodes.ref(other);
      expect(volume.inodes.references).toBe(2);
      volume.inodes.unref(one, 2);
      volume.inodes.unref(other, 5); // more than were held: nothing is owed
      expect(volume.inodes.references).toBe(0);
    }));

  it("are purged in slices: one idle does not take a large file at once", () =>
    inVolume(
      (fixture, volume) => {
        const file = touch(volume, ROOT, "a");
        for (let i = 0; i < 200; i++) volume.files.write(file, i * 4096, b("x"), false);
        volume.tree.unlink(ROOT, b("a"));
        const { clock } = fixture;
        const monotonic = clock.monotonicMs.bind(clock);
        clock.monotonicMs = () => {
          clock.ms += 1; // each look at the clock costs a millisecond
          return monotonic();
        };
        expect(volume.idle(clock.ms)).toBe(0);
        expect(volume.attributes.getattr(file).size).toBeGreaterThan(0);
        settle(volume, clock);
        expectErrno("ESTALE", () => volume.attributes.getattr(file));
      },
      { blockSize: 4096 },
    ));

  it("stay while they are referenced, though they were named and unnamed again meanwhile", () =>
    inVolume((fixture, volume) => {
      const { ino } = volume.tree.tmpfile(ROOT, 0o600, OPEN_CALLER);
      volume.inodes.ref(ino);
      volume.tree.link(ino, ROOT, b("a"));
      volume.tree.unlink(ROOT, b("a"));
      volume.tree.link(ino, ROOT, b("b"));
      settle(volume, fixture.clock);
      volume.tree.unlink(ROOT, b("b"));
      settle(volume, fixture.clock);
      expect(volume.attributes.getattr(ino).nlink).toBe(0);
      volume.inodes.unref(ino, 1);
      settle(volume, fixture.clock);
      expectErrno("ESTALE", () => volume.attributes.getattr(ino));
    }));

  it("are not purged when they were named and referenced again before the purge came to them", () =>
    inVolume((fixture, volume) => {
      const file = touch(volume, ROOT, "a");
      volume.tree.unlink(ROOT, b("a")); // waits for the purge
      volume.tree.link(file, ROOT, b("b"));
      volume.inodes.ref(file);
      volume.tree.unlink(ROOT, b("b")); // held
      settle(volume, fixture.clock);
      expect(volume.attributes.getattr(file).nlink).toBe(0);
      volume.inodes.unref(file, 1);
    }));
});
