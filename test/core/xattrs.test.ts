/** Extended attributes and ACLs: a test per line of the error table in src/core/xattrs.ts. */
import { describe, expect, it } from "vitest";
import { encodeAcl } from "../../src/core/acl.ts";
import { type Ino, XATTR_CREATE, XATTR_REPLACE } from "../../src/core/types.ts";
import type { Volume } from "../../src/core/volume.ts";
import { acl } from "./acl.ts";
import {
  b,
  CALLER,
  expectErrno,
  inVolume,
  mkdir,
  NOBODY,
  OPEN_CALLER,
  put,
  ROOT,
  S_IFREG,
  touch,
} from "./fixture.ts";

const ACCESS = b("system.posix_acl_access");
const DEFAULT = b("system.posix_acl_default");

function set(volume: Volume, ino: Ino, name: string, value: string | Uint8Array, flags = 0): void {
  volume.xattrs.set(ino, b(name), typeof value === "string" ? b(value) : value, flags, false);
}

function get(volume: Volume, ino: Ino, name: string): string | undefined {
  const value = volume.xattrs.get(ino, b(name));
  return value === undefined ? undefined : Buffer.from(value).toString("latin1");
}

function list(volume: Volume, ino: Ino): string[] {
  const names = Buffer.from(volume.xattrs.list(ino)).toString("latin1");
  expect(names === "" || names.endsWith("\0")).toBe(true);
  return names.split("\0").slice(0, -1);
}

function modeOf(volume: Volume, ino: Ino): string {
  return (volume.attributes.getattr(ino).mode & 0o7777).toString(8);
}

function setAcl(volume: Volume, ino: Ino, name: Buffer, text: string, kill = false): void {
  volume.xattrs.set(ino, name, encodeAcl(acl(text)), 0, kill);
}

function getAcl(volume: Volume, ino: Ino, name = ACCESS): Uint8Array | undefined {
  return volume.xattrs.get(ino, name);
}

describe("an attribute", () => {
  it("is kept as it is, in each namespace, on every type of file, over a remount", () =>
    inVolume((fixture, volume) => {
      const inos = [
        touch(volume, ROOT, "a"),
        mkdir(volume, ROOT, "d"),
        volume.tree.symlink(ROOT, b("s"), b("t"), CALLER).ino,
      ];
      const names = ["security.x", "trusted.x", "user.x", "user.\xff\x01 strange"];
      for (const ino of inos) for (const name of names) set(volume, ino, name, `${name} of ${ino}`);
      for (const ino of inos) {
        expect(list(fixture.remount(), ino)).toHaveLength(4);
        for (const name of names)
          expect(get(fixture.volume, ino, name)).toBe(b(`${name} of ${ino}`).toString("latin1"));
      }
    }));

  it("may be empty, which is not the same as not there", () =>
    inVolume((_, volume) => {
      const file = touch(volume, ROOT, "a");
      set(volume, file, "user.empty", "");
      expect(get(volume, file, "user.empty")).toBe("");
      expect(get(volume, file, "user.absent")).toBeUndefined();
      expect(list(volume, file)).toEqual(["user.empty"]);
    }));

  it("is replaced, longer and shorter, and removed", () =>
    inVolume((_, volume) => {
      const file = touch(volume, ROOT, "a");
      for (const value of ["one", "t", "three three", ""]) {
        set(volume, file, "user.x", value);
        expect(get(volume, file, "user.x")).toBe(value);
      }
      volume.xattrs.remove(file, b("user.x"));
      expect(list(volume, file)).toEqual([]);
    }));

  it("moves ctime alone when it is set and removed", () =>
    inVolume((fixture, volume) => {
      const file = touch(volume, ROOT, "a");
      const before = volume.attributes.getattr(file);
      for (const change of [
        () => set(volume, file, "user.x", "y"),
        () => volume.xattrs.remove(file, b("user.x")),
      ]) {
        fixture.clock.advance(1000);
        change();
        const { sec, nsec } = fixture.clock;
        expect(volume.attributes.getattr(file)).toEqual({ ...before, ctimeSec: sec, ctimeNsec: nsec });
      }
    }));

  it("goes with its file", () =>
    inVolume((fixture, volume) => {
      set(volume, touch(volume, ROOT, "a"), "user.x", "y");
      volume.tree.unlink(ROOT, b("a"));
      fixture.close();
      expect(fixture.number("SELECT count(*) FROM xattr")).toBe(0);
    }));
});

describe("set is refused with", () => {
  it("ESTALE for what is not there", () =>
    inVolume((_, volume) => {
      expectErrno("ESTALE", () => set(volume, NOBODY, "user.x", "y"));
    }));

  it("EEXIST with XATTR_CREATE where it is, ENODATA with XATTR_REPLACE where it is not", () =>
    inVolume((_, volume) => {
      const file = touch(volume, ROOT, "a");
      expectErrno("ENODATA", () => set(volume, file, "user.x", "1", XATTR_REPLACE));
      set(volume, file, "user.x", "2", XATTR_CREATE);
      expectErrno("EEXIST", () => set(volume, file, "user.x", "3", XATTR_CREATE));
      set(volume, file, "user.x", "4", XATTR_REPLACE);
      expect(get(volume, file, "user.x")).toBe("4");
    }));

  it("EINVAL for flags that are not known", () =>
    inVolume((_, volume) => {
      const file = touch(volume, ROOT, "a");
      for (const flags of [4, 8, -1]) expectErrno("EINVAL", () => set(volume, file, "user.x", "y", flags));
    }));

  it("ERANGE for an empty name and one of 256 bytes, and takes 255", () =>
    inVolume((_, volume) => {
      const file = touch(volume, ROOT, "a");
      expectErrno("ERANGE", () => set(volume, file, "", "y"));
      expectErrno("ERANGE", () => set(volume, file, `user.${"x".repeat(251)}`, "y"));
      set(volume, file, `user.${"x".repeat(250)}`, "y");
      expect(list(volume, file)[0]).toHaveLength(255);
    }));

  it("E2BIG for a value of 65,537 bytes, and takes 65,536", () =>
    inVolume((fixture, volume) => {
      const file = touch(volume, ROOT, "a");
      expectErrno("E2BIG", () => set(volume, file, "user.x", Buffer.alloc(65_537)));
      set(volume, file, "user.x", Buffer.alloc(65_536, 0x7a));
      expect(get(fixture.remount(), file, "user.x")).toBe("z".repeat(65_536));
    }));

  it("ENOSPC where the list of names would pass 65,536 bytes, and fills them", () =>
    inVolume((_, volume) => {
      const file = touch(volume, ROOT, "a");
      const name = (i: number) => `user.${String(i).padStart(250, "x")}`; // 255 and a NUL: 256 of them
      for (let i = 0; i < 256; i++) set(volume, file, name(i), "");
      expect(volume.xattrs.list(file)).toHaveLength(65_536);
      expectErrno("ENOSPC", () => set(volume, file, "user.y", ""));
      set(volume, file, name(7), "replaced");
      volume.xattrs.remove(file, b(name(0)));
      set(volume, file, "user.y", "");
    }));

  it("EOPNOTSUPP for a namespace that does not exist, or is a name alone", () =>
    inVolume((_, volume) => {
      const file = touch(volume, ROOT, "a");
      for (const name of ["x", "x.y", "system.other", "user.", "User.x", "username"])
        expectErrno("EOPNOTSUPP", () => set(volume, file, name, "y"));
    }));

  it("EOPNOTSUPP for an ACL of a symlink, EACCES for a default ACL of what is no directory", () =>
    inVolume((_, volume) => {
      const symlink = volume.tree.symlink(ROOT, b("s"), b("t"), CALLER).ino;
      const file = touch(volume, ROOT, "a");
      expectErrno("EOPNOTSUPP", () => setAcl(volume, symlink, ACCESS, "u::rwx,g::r-x,o::r--"));
      expectErrno("EACCES", () => setAcl(volume, file, DEFAULT, "u::rwx,g::r-x,o::r--"));
    }));

  it("EINVAL for an ACL that is none", () =>
    inVolume((_, volume) => {
      const file = touch(volume, ROOT, "a");
      const before = volume.attributes.getattr(file);
      expectErrno("EINVAL", () => volume.xattrs.set(file, ACCESS, b("nonsense"), 0, false));
      expectErrno("EINVAL", () => setAcl(volume, file, ACCESS, "u::rwx,u:7:r--,g::r--,o::r--"));
      expect(volume.attributes.getattr(file)).toEqual(before);
    }));
});

describe("remove is refused with", () => {
  it("ENODATA for what is not there, ESTALE for no inode, EOPNOTSUPP for no namespace", () =>
    inVolume((_, volume) => {
      const file = touch(volume, ROOT, "a");
      expectErrno("ENODATA", () => volume.xattrs.remove(file, b("user.x")));
      expectErrno("ESTALE", () => volume.xattrs.remove(NOBODY, b("user.x")));
      expectErrno("EOPNOTSUPP", () => volume.xattrs.remove(file, b("x")));
    }));

  it("nothing for an ACL that is not there: st_mode says it all", () =>
    inVolume((_, volume) => {
      const [file, directory] = [touch(volume, ROOT, "a"), mkdir(volume, ROOT, "d")];
      volume.xattrs.remove(file, ACCESS);
      volume.xattrs.remove(file, DEFAULT);
      volume.xattrs.remove(directory, DEFAULT);
    }));
});

describe("an access ACL", () => {
  it("changes st_mode to what it says", () =>
    inVolume((fixture, volume) => {
      const file = touch(volume, ROOT, "a");
      volume.attributes.setattr(file, { mode: 0o4644 });
      setAcl(volume, file, ACCESS, "u::rwx,u:7:rwx,g::r--,m::rw-,o::--x");
      expect(modeOf(volume, file)).toBe("4761");
      expect(getAcl(fixture.remount(), file)).toEqual(encodeAcl(acl("u::rwx,u:7:rwx,g::r--,m::rw-,o::--x")));
    }));

  it("that says no more than a mode becomes one, and is not stored", () =>
    inVolume((_, volume) => {
      const file = touch(volume, ROOT, "a");
      setAcl(volume, file, ACCESS, "u::rwx,u:7:rwx,g::r--,m::rw-,o::--x");
      setAcl(volume, file, ACCESS, "u::r--,g::-w-,o::--x");
      expect(getAcl(volume, file)).toBeUndefined();
      expect(list(volume, file)).toEqual([]);
      expect(modeOf(volume, file)).toBe("421");
    }));

  it("clears setgid where the kernel says that the caller is not of the group", () =>
    inVolume((_, volume) => {
      const file = touch(volume, ROOT, "a");
      for (const [kill, mode] of [
        [false, "6764"],
        [true, "4764"],
      ] as const) {
        volume.attributes.setattr(file, { mode: 0o6755 });
        setAcl(volume, file, ACCESS, "u::rwx,u:7:rwx,g::r--,m::rw-,o::r--", kill);
        expect(modeOf(volume, file)).toBe(mode);
      }
    }));

  it("clears setgid with a minimal ACL too", () =>
    inVolume((_, volume) => {
      const file = touch(volume, ROOT, "a");
      volume.attributes.setattr(file, { mode: 0o2755 });
      setAcl(volume, file, ACCESS, "u::rwx,g::r-x,o::r-x", true);
      expect(modeOf(volume, file)).toBe("755");
    }));

  it("has its mask changed by chmod, and its owning group left", () =>
    inVolume((_, volume) => {
      const file = touch(volume, ROOT, "a");
      setAcl(volume, file, ACCESS, "u::rwx,u:7:rwx,g::r-x,m::rwx,o::r--");
      volume.attributes.setattr(file, { mode: 0o610 });
      expect(getAcl(volume, file)).toEqual(encodeAcl(acl("u::rw-,u:7:rwx,g::r-x,m::--x,o::---")));
      expect(modeOf(volume, file)).toBe("610");
    }));

  it("goes without a trace in the mode's other bits when it is removed", () =>
    inVolume((_, volume) => {
      const file = touch(volume, ROOT, "a");
      setAcl(volume, file, ACCESS, "u::rwx,u:7:rwx,g::r-x,m::rwx,o::r--");
      volume.xattrs.remove(file, ACCESS);
      expect(getAcl(volume, file)).toBeUndefined();
      expect(modeOf(volume, file)).toBe("774");
      volume.attributes.setattr(file, { mode: 0o600 });
      expect(list(volume, file)).toEqual([]);
    }));

  it("is removed by one without entries", () =>
    inVolume((_, volume) => {
      const file = touch(volume, ROOT, "a");
      setAcl(volume, file, ACCESS, "u::rwx,u:7:rwx,g::r-x,m::rwx,o::r--");
      volume.xattrs.set(file, ACCESS, Uint8Array.of(2, 0, 0, 0), 0, false);
      expect(list(volume, file)).toEqual([]);
    }));
});

describe("a default ACL", () => {
  const DEFAULTS = "u::rwx,u:7:rwx,g::r-x,m::rwx,o::r-x";

  function inDirectory(run: (volume: Volume, directory: Ino) => void, defaults = DEFAULTS): void {
    inVolume((_, volume) => {
      const directory = mkdir(volume, ROOT, "d");
      setAcl(volume, directory, DEFAULT, defaults);
      run(volume, directory);
    });
  }

  it("leaves the directory's own mode and access ACL alone, also where it says no more than a mode", () =>
    inDirectory((volume, directory) => {
      expect(modeOf(volume, directory)).toBe("755");
      expect(getAcl(volume, directory)).toBeUndefined();
      setAcl(volume, directory, DEFAULT, "u::rwx,g::r-x,o::---");
      expect(getAcl(volume, directory, DEFAULT)).toEqual(encodeAcl(acl("u::rwx,g::r-x,o::---")));
      expect(modeOf(volume, directory)).toBe("755");
    }));

  it("is inherited by a file, limited by its mode and not by the umask", () =>
    inDirectory((volume, directory) => {
      const { ino, mode } = volume.tree.mknod(directory, b("a"), S_IFREG | 0o666, 0, {
        ...CALLER,
        umask: 0o077,
      });
      expect(mode & 0o7777).toBe(0o664);
      expect(getAcl(volume, ino)).toEqual(encodeAcl(acl("u::rw-,u:7:rwx,g::r-x,m::rw-,o::r--")));
      expect(getAcl(volume, ino, DEFAULT)).toBeUndefined();
    }));

  it("is inherited by a directory as its access ACL and as its default ACL", () =>
    inDirectory((volume, directory) => {
      const { ino } = volume.tree.mkdir(directory, b("sub"), 0o750, { ...CALLER, umask: 0o077 });
      expect(modeOf(volume, ino)).toBe("750");
      expect(getAcl(volume, ino)).toEqual(encodeAcl(acl("u::rwx,u:7:rwx,g::r-x,m::r-x,o::---")));
      expect(getAcl(volume, ino, DEFAULT)).toEqual(encodeAcl(acl(DEFAULTS)));
    }));

  it("is inherited by an O_TMPFILE, and not by a symlink", () =>
    inDirectory((volume, directory) => {
      const { ino } = volume.tree.tmpfile(directory, 0o600, OPEN_CALLER);
      expect(getAcl(volume, ino)).toEqual(encodeAcl(acl("u::rw-,u:7:rwx,g::r-x,m::---,o::---")));
      const symlink = volume.tree.symlink(directory, b("s"), b("t"), CALLER).ino;
      expect(modeOf(volume, symlink)).toBe("777");
      expect(list(volume, symlink)).toEqual([]);
    }));

  it("that names nobody gives a file its mode, and no ACL", () =>
    inDirectory((volume, directory) => {
      const { ino, mode } = volume.tree.mknod(directory, b("a"), S_IFREG | 0o666, 0, {
        ...CALLER,
        umask: 0o077,
      });
      expect(mode & 0o7777).toBe(0o660);
      expect(list(volume, ino)).toEqual([]);
    }, "u::rwx,g::rwx,o::---"));

  it("is no longer inherited once removed: the umask applies again", () =>
    inDirectory((volume, directory) => {
      volume.xattrs.remove(directory, DEFAULT);
      const { mode } = volume.tree.mknod(directory, b("a"), S_IFREG | 0o666, 0, { ...CALLER, umask: 0o077 });
      expect(mode & 0o7777).toBe(0o600);
    }));
});

describe("a file's capability", () => {
  it("is lost by a write that says so, with setuid and setgid", () =>
    inVolume((_, volume) => {
      const file = put(volume, ROOT, "a", "content");
      volume.attributes.setattr(file, { mode: 0o6755 });
      set(volume, file, "security.capability", "cap");
      volume.files.write(file, 0, b("x"), false);
      expect([modeOf(volume, file), get(volume, file, "security.capability")]).toEqual(["6755", "cap"]);
      volume.files.write(file, 0, b("x"), true);
      expect([modeOf(volume, file), get(volume, file, "security.capability")]).toEqual(["755", undefined]);
    }));
});
