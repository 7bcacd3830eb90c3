/** libfuse's operations by path, on a volume and without a mount. */
import { describe, expect, test } from "vitest";
import type { Volume } from "../../src/core/volume.ts";
import { Operations } from "../../src/fusenative/operations.ts";
import { Paths } from "../../src/fusenative/paths.ts";
import { encodeStat, encodeStatfs } from "../../src/fusenative/stat.ts";
import {
  b,
  CALLER,
  expectErrno,
  find,
  inVolume,
  mkdir,
  namesOf,
  put,
  ROOT,
  S_IFREG,
} from "../core/fixture.ts";

const HIDDEN = "/.fuse_hidden0000000200000001";
const OWNER = { uid: undefined, gid: undefined };

function operationsOn(volume: Volume): Operations {
  return new Operations(volume, { caller: CALLER, owner: OWNER });
}

/** Of what getattr gives. */
const nlink = (stat: Uint32Array): number | undefined => stat[6];
const size = (stat: Uint32Array): number | undefined => stat[3];

describe("a path", () => {
  test("leads through directories that are remembered, and anew after one was moved", () => {
    inVolume((_, volume) => {
      const d = mkdir(volume, ROOT, "d");
      put(volume, mkdir(volume, d, "e"), "f", b("one"));
      const operations = operationsOn(volume);
      expect(size(operations.getattr("/d/e/f"))).toBe(3);
      operations.rename("/d", "/x");
      expectErrno("ENOENT", () => operations.getattr("/d/e/f"));
      operations.mkdir("/d", 0o755);
      operations.mkdir("/d/e", 0o755);
      expectErrno("ENOENT", () => operations.getattr("/d/e/f"));
      expect(size(operations.getattr("/x/e/f"))).toBe(3);
    });
  });

  test("is walked with no more than the directories that there is room for", () => {
    inVolume((_, volume) => {
      let lookups = 0;
      const lookup = (...place: Parameters<Volume["tree"]["lookup"]>) => {
        lookups++;
        return volume.tree.lookup(...place);
      };
      const paths = new Paths({ lookup }, 2);
      for (const name of ["a", "b", "c"]) mkdir(volume, mkdir(volume, ROOT, name), "sub");
      for (const name of ["a", "b", "c"]) paths.find(`/${name}/sub`);
      expect(lookups).toBe(6);
      paths.find("/c/sub");
      expect(lookups).toBe(7);
      paths.find("/a/sub");
      expect(lookups).toBe(9);
    });
  });

  test("whose bytes were lost on the way is refused, and listed", () => {
    inVolume((_, volume) => {
      volume.tree.mknod(ROOT, Buffer.from([0xff]), S_IFREG | 0o644, 0, CALLER);
      const operations = operationsOn(volume);
      expect(operations.readdir("/").names).toEqual([".", "..", "\ufffd"]);
      expectErrno("EILSEQ", () => operations.unlink("/\ufffd"));
      expectErrno("EILSEQ", () => operations.symlink("\ufffd", "/l"));
    });
  });
});

describe("a file that libfuse hides", () => {
  test("is gone from the volume, and works until it is released", () => {
    inVolume((_, volume) => {
      put(volume, ROOT, "f", b("kept"));
      const operations = operationsOn(volume);
      const descriptor = operations.open("/f");
      operations.rename("/f", HIDDEN);
      expect(nlink(operations.getattr(HIDDEN))).toBe(1); // libfuse takes one off
      expect(namesOf(volume, ROOT)).toEqual([]);
      const bytes = Buffer.alloc(10);
      expect(operations.read(descriptor, bytes, 10, 0)).toBe(4);
      expect(volume.inodes.references).toBe(1);
      operations.release(descriptor);
      expect(volume.inodes.references).toBe(0);
      expectErrno("ENOENT", () => operations.unlink(HIDDEN));
    });
  });

  test("before a rename onto it: the name is never missing", () => {
    inVolume((_, volume) => {
      put(volume, ROOT, "f", b("old"));
      const f = put(volume, ROOT, "new", b("new"));
      const operations = operationsOn(volume);
      const descriptor = operations.open("/f");
      operations.rename("/f", HIDDEN);
      expect(find(volume, "f")).toBeDefined();
      operations.rename("/new", "/f");
      expect(find(volume, "f")?.ino).toBe(f);
      expect(namesOf(volume, ROOT)).toEqual(["f"]);
      expect(nlink(operations.fgetattr(HIDDEN, descriptor))).toBe(1);
      operations.release(descriptor);
    });
  });

  test("keeps its directory from being removed while it is open", () => {
    inVolume((_, volume) => {
      put(volume, mkdir(volume, ROOT, "d"), "f", b("x"));
      const operations = operationsOn(volume);
      const descriptor = operations.open("/d/f");
      operations.rename("/d/f", `/d${HIDDEN}`);
      expectErrno("EBUSY", () => operations.rmdir("/d"));
      operations.mkdir("/e", 0o755);
      expectErrno("EBUSY", () => operations.rename("/e", "/d"));
      operations.mknod("/d/g", S_IFREG | 0o644, 0);
      expectErrno("ENOTEMPTY", () => operations.rmdir("/d"));
      expectErrno("ENOTEMPTY", () => operations.rename("/e", "/d"));
      operations.unlink("/d/g");
      operations.release(descriptor);
      operations.rmdir("/d");
    });
  });

  test("is not one that somebody else gives such a name", () => {
    inVolume((_, volume) => {
      put(volume, ROOT, "f", b("x"));
      const operations = operationsOn(volume);
      expectErrno("EPERM", () => operations.rename("/f", HIDDEN));
      expectErrno("EPERM", () => operations.mknod(HIDDEN, S_IFREG | 0o644, 0));
      expect(namesOf(volume, ROOT)).toEqual(["f"]);
    });
  });
});

describe("what fuse-native cannot carry is refused", () => {
  test("ACLs, resource forks, times before 1970", () => {
    inVolume((_, volume) => {
      put(volume, ROOT, "f", b("x"));
      const operations = operationsOn(volume);
      for (const name of ["system.posix_acl_access", "system.posix_acl_default"])
        expectErrno("EOPNOTSUPP", () => operations.getxattr("/f", name, Buffer.alloc(0)));
      expectErrno("EOPNOTSUPP", () => operations.setxattr("/f", "user.a", b("x"), 4, 0));
      expectErrno("EOPNOTSUPP", () => operations.utimens("/f", { sec: -1, nsec: 999_000_000 }, "now"));
    });
  });

  test("an attribute longer than the room for it is ERANGE, and its length is told without room", () => {
    inVolume((_, volume) => {
      put(volume, ROOT, "f", b("x"));
      const operations = operationsOn(volume);
      operations.setxattr("/f", "user.a", b("value"), 0, 0);
      expect(operations.getxattr("/f", "user.a", Buffer.alloc(0))).toBe(5);
      expect(operations.getxattr("/f", "user.b", Buffer.alloc(0))).toBeUndefined();
      expectErrno("ERANGE", () => operations.getxattr("/f", "user.a", Buffer.alloc(4)));
      expectErrno("ERANGE", () => operations.listxattr("/f", Buffer.alloc(3)));
      const names = Buffer.alloc(20);
      expect(names.subarray(0, operations.listxattr("/f", names)).toString()).toBe("user.a\0");
    });
  });

  test("an inode number of more than 32 bits is EOVERFLOW, a time before 1970 is shown as 1970", () => {
    inVolume((_, volume) => {
      const attr = { ...volume.attributes.getattr(ROOT), mtimeSec: -5, size: 2 ** 33 + 7 };
      const words = encodeStat(attr, { uid: 7, gid: undefined });
      expect([...words.subarray(1, 5)]).toEqual([7, attr.gid, 7, 2]);
      expect([...words.subarray(14, 16)]).toEqual([0, 0]);
      expectErrno("EOVERFLOW", () => encodeStat({ ...attr, ino: (2 ** 32) as typeof attr.ino }, OWNER));
    });
  });

  test("a disk of more than 2^32 blocks is told in larger ones", () => {
    const figures = {
      blockSize: 4096,
      blocks: 2 ** 34,
      bfree: 2 ** 33,
      bavail: 2 ** 33,
      files: 5,
      ffree: 2 ** 40,
      nameMax: 255,
    };
    const [bsize, , blocks, bfree, , , ffree] = encodeStatfs(figures);
    expect([bsize, blocks, bfree, ffree]).toEqual([32_768, 2 ** 31, 2 ** 30, 2 ** 32 - 1]);
  });
});
