/** The text of a volume: what it says, that it says everything, and that a volume comes back from it. */
import { describe, expect, it } from "vitest";
import { FormatError } from "../../src/archive/source.ts";
import { FsError } from "../../src/base/errno.ts";
import { deviceOf } from "../../src/core/mode.ts";
import { unlock } from "../../src/core/unlock.ts";
import { Volume } from "../../src/core/volume.ts";
import { b, FakeClock, Fixture, noise, OPEN_CALLER, put, ROOT, S_IFCHR } from "../core/fixture.ts";
import { withRandomAsync } from "./random.ts";
import { addOrphan, fillRandom, fillRich, inDirectory, loadText, textOf, withVolumes } from "./rich.ts";

/** One of each record, as it must stay. */
const GOLDEN = `sqlfuse-dump 1
volume block_size=16256 content=yes
inode path=/ type=dir mode=0700 uid=1000 gid=1001 mtime=1700000000.111222333 ctime=1700000000.111222333 btime=1700000000.111222333 atime=1700000000.111222333
inode path=/a\\x20file type=file mode=0644 uid=1000 gid=1001 size=131100 block_size=16256 mtime=-1.500000000 ctime=1700000000.111222333 btime=1700000000.111222333 atime=0.000000001
xattr name=user.a value=\\x00\\xff=\\x20Gr\u00fc\u00dfe
extent offset=0 length=72 sha256=d66304b6180365e47c858f6c84d3da065caf4b3350c9f45277a1af82e3dbb055
 YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFh
 YWFhYWFhYWFhYWFhYWFh
reserved offset=65024 length=65024
extent offset=130048 length=0 sha256=e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
inode path=/device type=char mode=0600 uid=1000 gid=1001 rdev=1:3 mtime=1700000000.111222333 ctime=1700000000.111222333 btime=1700000000.111222333 atime=1700000000.111222333
inode path=/dir type=dir mode=0755 uid=1000 gid=1001 mtime=1700000000.111222333 ctime=1700000000.111222333 btime=1700000000.111222333 atime=1700000000.111222333
link path=/dir/again to=/a\\x20file
inode path=/link type=symlink mode=0777 uid=1000 gid=1001 target=/\\x5cnowhere mtime=1700000000.111222333 ctime=1700000000.111222333 btime=1700000000.111222333 atime=1700000000.111222333
end inodes=5 links=1
`;

function fillGolden(volume: Volume): void {
  const file = put(volume, ROOT, "a file", Buffer.alloc(72, 0x61));
  volume.files.write(file, 131_072, Buffer.alloc(28), false);
  volume.files.fallocate(file, 0, 65_536, 65_536, false);
  volume.xattrs.set(file, b("user.a"), Buffer.concat([Buffer.from([0, 255]), b("= Grüße")]), 0, false);
  volume.attributes.setattr(file, { mtime: { sec: -2, nsec: 500_000_000 }, atime: { sec: 0, nsec: 1 } });
  volume.tree.symlink(ROOT, b("link"), b("/\\nowhere"), OPEN_CALLER);
  volume.tree.mknod(ROOT, b("device"), S_IFCHR | 0o600, deviceOf(1, 3) ?? 0, OPEN_CALLER);
  const directory = volume.tree.mkdir(ROOT, b("dir"), 0o755, OPEN_CALLER).ino;
  volume.tree.link(file, directory, b("again"));
}

describe("the text", () => {
  it("is this for a volume with one of each record", () =>
    withVolumes(1, (one) => {
      fillGolden(one!.volume);
      expect(Buffer.from(textOf(one!.volume), "latin1").toString()).toBe(GOLDEN);
    }));

  it("is the same without the lines of content and with --no-data", () =>
    withVolumes(1, (one) => {
      fillRich(one!.volume, { portable: false });
      const without = textOf(one!.volume).replace(/^ .*\n/gm, "");
      expect(textOf(one!.volume, false)).toBe(without.replace("content=yes", "content=no"));
    }));

  it("has no inode that is unlinked and in use", () =>
    withVolumes(1, (one) => {
      const before = textOf(one!.volume, false).replace(/time=\S+/g, "");
      const orphan = addOrphan(one!.volume);
      expect(textOf(one!.volume, false).replace(/time=\S+/g, "")).toBe(before);
      one!.volume.inodes.unref(orphan, 1);
    }));

  it("does not depend on the order in which things were made, nor on inode numbers, nor on sharing", () =>
    withVolumes(2, (one, other) => {
      const contents = [noise(1000), noise(200_000, 2)];
      put(one!.volume, ROOT, "a", contents[0]!);
      put(one!.volume, ROOT, "b", contents[1]!);
      const copied = put(one!.volume, ROOT, "c", "");
      one!.volume.files.write(copied, 0, contents[1]!, false);
      put(other!.volume, ROOT, "x", "to be removed");
      const b2 = put(other!.volume, ROOT, "b", contents[1]!);
      other!.volume.tree.unlink(ROOT, b("x"));
      const c2 = put(other!.volume, ROOT, "c", "");
      other!.volume.files.copyFileRange(b2, 0, c2, 0, 200_000, false);
      put(other!.volume, ROOT, "a", contents[0]!);
      expect(textOf(other!.volume)).toBe(textOf(one!.volume));
    }));

  it("does not depend on the password or the pages of the database", () =>
    inDirectory((directory) => {
      const texts = [
        { password: "one", options: { blockSize: 16_256 } },
        { password: "another", options: { blockSize: 16_256, pageSize: 4096 } },
        { password: "third", options: { blockSize: 16_256, compat: true } },
      ].map(({ password, options }, i) => {
        const path = `${directory}/${i}`;
        const clock = new FakeClock();
        Volume.create(path, Buffer.from(password), { ...options, clock, rootUid: 1, rootGid: 2 });
        const key = unlock(path, Buffer.from(password));
        const volume = Volume.open(path, key, { clock });
        fillGolden(volume);
        const text = textOf(volume);
        volume.close();
        key.wipe();
        return text;
      });
      expect(texts[1]).toBe(texts[0]);
      expect(texts[2]).toBe(texts[0]);
    }));
});

describe("dump, load, dump", () => {
  it("gives the same text for a volume with everything", () =>
    withVolumes(2, async (one, other) => {
      fillRich(one!.volume, { portable: false });
      const text = textOf(one!.volume);
      await loadText(other!.volume, text);
      expect(textOf(other!.volume)).toBe(text);
      other!.remount();
      expect(textOf(other!.volume)).toBe(text);
    }));

  it("keeps the block size of each file", () =>
    withVolumes(2, async (one, other) => {
      put(one!.volume, ROOT, "usual", noise(200_000));
      one!.close();
      one!.sql((db) => db.exec("UPDATE meta SET value = 4096 WHERE key = 'block_size'"));
      put(one!.volume, ROOT, "small blocks", noise(20_000, 2));
      const text = textOf(one!.volume);
      expect(text).toMatch(/small.*block_size=4096/);
      expect(text).toMatch(/usual.*block_size=16256/);
      await loadText(other!.volume, text);
      // The default is the volume's, which `sqlfuse load` makes with that of the dump.
      expect(textOf(other!.volume).split("\n").slice(2)).toEqual(text.split("\n").slice(2));
    }));

  it.each([1, 2, 3, 4])("gives the same text for random volumes, round %i", () =>
    withRandomAsync((random, step) =>
      withVolumes(2, async (one, other) => {
        fillRandom(one!.volume, random, 150);
        step("filled");
        const text = textOf(one!.volume);
        await loadText(other!.volume, text);
        step("loaded");
        expect(textOf(other!.volume) === text).toBe(true);
      }),
    ),
  );
});

describe("load refuses", () => {
  const lines = GOLDEN.split("\n");
  const without = (n: number): string => lines.toSpliced(n, 1).join("\n");
  const edited = (from: string | RegExp, to: string): string => GOLDEN.replace(from, to);

  it.each([
    ["no dump", "hello\n", "line 1: not a dump of sqlfuse"],
    [
      "a newer version",
      edited("dump 1", "dump 7"),
      "line 1: a dump of version 7, which needs a newer sqlfuse",
    ],
    ["a dump of hashes", edited("content=yes", "content=no"), "line 2: this dump was made with --no-data"],
    ["no volume record", without(1), "line 2: a volume record must come second"],
    ["no root", without(2), "line 3: the root directory must come first"],
    ["a file before its directory", without(11), "line 12: /dir was not there before"],
    ["a link to nothing", edited("to=/a\\x20file", "to=/b"), "/b was not there before"],
    ["a missing end", `${lines.slice(0, -2).join("\n")}\n`, "it was cut off: the end record is missing"],
    ["half a line", GOLDEN.slice(0, -3), "it ends in the middle of a line"],
    ["an end that counts otherwise", edited("inodes=5", "inodes=6"), "records are missing"],
    ["something behind the end", `${GOLDEN}more\n`, "something follows the end record"],
    [
      "a changed byte of content",
      edited("YWFhYWFh", "YWFhYWFi"),
      "line 6: the content is not what its sha256",
    ],
    ["content that ends", GOLDEN.slice(0, GOLDEN.indexOf(" YWFh") + 20), "cut off in the content"],
    ["a field that is missing", edited(" uid=1000", ""), "line 3: inode without uid="],
    ["a number that is none", edited("uid=1000", "uid=x"), "line 3: uid=x is not a number"],
    ["an owner beyond 32 bits", edited("uid=1000", "uid=4294967296"), "uid=4294967296 is too large"],
    ["a time that is none", edited(/mtime=\S+/, "mtime=noon"), "line 3: mtime=noon is not a time"],
    ["a time beyond 64 bits", edited(/mtime=\S+/, "mtime=99999999999"), "mtime=99999999999 is not a time"],
    ["a type that is none", edited("type=char", "type=chair"), "type=chair is no type of file"],
    ["a wrong escape", edited("a\\x20file", "a\\xz0file"), "path= is not escaped"],
    ["a name twice", edited("path=/dir ", "path=/device "), "EEXIST"],
    ["a name that cannot be", edited("path=/device", "path=/.."), "EEXIST"],
    ["a path without a slash", edited("path=/device", "path=device"), "path= is no path"],
    ["a word that is none", edited("xattr", "yattr"), "line 5: not a record: yattr"],
    ["an extent past the end", edited("size=131100", "size=50"), "past the end"],
    ["an extent within a block", edited("offset=130048", "offset=130049"), "within a block"],
    ["an attribute of no namespace", edited("name=user.a", "name=foo"), "EOPNOTSUPP"],
  ])("%s", (_, text, message) =>
    withVolumes(1, async (one) => {
      const error = await loadText(one!.volume, Buffer.from(text).toString("latin1")).catch(
        (e: unknown) => e,
      );
      expect(error).toBeInstanceOf(FormatError);
      expect((error as Error).message).toContain(message);
      // Such a draft is thrown away; what must hold is that nothing broke.
    }),
  );
});

describe("restoring", () => {
  it("changes no times of parents and inherits nothing", () =>
    withVolumes(1, (one) => {
      const { volume } = one!;
      const at = { sec: 1, nsec: 2 };
      const like = { mode: 0o040700, uid: 1, gid: 2, mtime: at, atime: at, ctime: at, btime: at };
      const parent = volume.restore.make(ROOT, b("setgid"), { ...like, mode: 0o042755, gid: 77 });
      const child = volume.restore.make(parent, b("child"), like);
      expect(volume.attributes.getattr(child)).toMatchObject({
        mode: 0o040700,
        gid: 2,
        btimeSec: 1,
        nlink: 2,
      });
      expect(volume.attributes.getattr(parent)).toMatchObject({ mtimeSec: 1, ctimeNsec: 2, nlink: 3 });
    }));

  it("refuses what no volume can hold", () =>
    withVolumes(1, (one) => {
      const { volume } = one!;
      const at = { sec: 1, nsec: 2 };
      const like = { mode: 0o100600, uid: 1, gid: 2, mtime: at, atime: at, ctime: at, btime: at };
      const refused = (run: () => unknown): string => {
        try {
          run();
        } catch (error) {
          if (error instanceof FsError) return error.code;
        }
        return "ok";
      };
      const { restore } = volume;
      expect(refused(() => restore.make(ROOT, b("f"), like, { size: -1 }))).toBe("EINVAL");
      expect(refused(() => restore.make(ROOT, b("f"), like, { size: 2 ** 53 }))).toBe("EFBIG");
      expect(refused(() => restore.make(ROOT, b("f"), like, { blockSize: 1000 }))).toBe("EINVAL");
      expect(refused(() => restore.make(ROOT, b("."), like))).toBe("EEXIST");
      expect(refused(() => restore.make(ROOT, Buffer.alloc(256, 1), like))).toBe("ENAMETOOLONG");
      const link = { ...like, mode: 0o120777 };
      expect(refused(() => restore.make(ROOT, b("l"), link, { target: Buffer.alloc(0) }))).toBe("ENOENT");
      expect(refused(() => restore.make(ROOT, b("l"), link, { target: Buffer.alloc(4096, 1) }))).toBe(
        "ENAMETOOLONG",
      );
      const file = restore.make(ROOT, b("f"), like, { size: 10 });
      expect(refused(() => restore.write(file, 0, noise(11)))).toBe("EINVAL");
      expect(refused(() => restore.write(file, 1, noise(1)))).toBe("EINVAL");
      expect(refused(() => restore.write(ROOT, 0, noise(1)))).toBe("EINVAL");
      expect(refused(() => restore.link(ROOT, ROOT, b("root")))).toBe("EPERM");
      expect(refused(() => restore.xattr(file, b("system.posix_acl_access"), b("no acl")))).toBe("EINVAL");
    }));
});

describe("SQL", () => {
  it("of two volumes that were made alike differs only in what is random", () => {
    const texts = [new Fixture(), new Fixture()].map((fixture) => {
      try {
        fillGolden(fixture.volume);
        fixture.remount();
        const text = Buffer.concat([...fixture.volume.sqlText()]).toString();
        fixture.finish();
        return text.replace(/(INSERT INTO inode .*?VALUES\((?:[^,]*,){10})\d+/g, "$1R");
      } finally {
        fixture.remove();
      }
    });
    expect(texts[1]).toBe(texts[0]);
    expect(texts[0]).toContain("PRAGMA application_id = 1397836870;");
    expect(texts[0]).toContain("CREATE TABLE inode (");
    expect(texts[0]!.endsWith("COMMIT;\n")).toBe(true);
  });
});
