/** Blocks that are compressed: when they are, by whose wish, and that nobody sees a difference in what is read. */
import { randomBytes } from "node:crypto";
import { afterEach, describe, expect, it, vi } from "vitest";
import type { Ino } from "../../src/core/types.ts";
import type { Volume } from "../../src/core/volume.ts";
import { SqliteError } from "../../src/db/errors.ts";
import { Statement } from "../../src/db/statement.ts";
import { drain, inspect } from "../../src/fsck/check.ts";
import { repair } from "../../src/fsck/repair.ts";
import { changedPaths, lines } from "../fsck/fsck.ts";
import { dump } from "./dump.ts";
import {
  afterCrash,
  b,
  contentOf,
  errnoOf,
  expectErrno,
  type Fixture,
  find,
  inVolume,
  mkdir,
  noise,
  put,
  ROOT,
  touch,
} from "./fixture.ts";

const BLOCK = 16_256;
const ATTRIBUTE = b("user.sqlfuse.compression");
const HOWS = ["none", "fast", "strong"] as const;
const SQLITE_IOERR_WRITE = 778;

/** Text, of which no two blocks are alike. */
function text(length: number, seed = 1): Buffer {
  const all = Array.from({ length: Math.ceil(length / 10) }, (_, i) => `${seed}: line number ${i}\n`).join(
    "",
  );
  return Buffer.from(all).subarray(0, length);
}

function compress(volume: Volume, ino: Ino, how: string): void {
  volume.xattrs.set(ino, ATTRIBUTE, b(how), 0, false);
}

/** The methods of a file's blocks, in order; closes the volume. */
function methodsOf(fixture: Fixture, ino: Ino): string {
  fixture.close();
  return fixture.sql((db) => {
    const rows = db.prepare(
      "SELECT b.codec & 255 FROM extent AS e JOIN block AS b ON b.id = e.block WHERE e.ino = ?1 ORDER BY e.idx",
    );
    rows.bindInt(1, ino);
    const methods: number[] = [];
    while (rows.step()) methods.push(rows.int(0));
    return methods.map((method) => HOWS[method]).join(" ");
  });
}

function featuresOf(fixture: Fixture): string {
  return fixture.sql((db) => {
    const row = db.prepare("SELECT value FROM meta WHERE key = 'features_incompatible'");
    row.step();
    return row.text(0);
  });
}

/** Makes the closed volume one that was made with another compression. */
function madeWith(fixture: Fixture, how: string): void {
  const features = how === "none" ? '["block-size"]' : '["block-size","compression"]';
  fixture.sql((db) =>
    db.exec(`UPDATE meta SET value = '${how}' WHERE key = 'compression';
      UPDATE meta SET value = '${features}' WHERE key = 'features_incompatible'`),
  );
}

afterEach(() => {
  vi.restoreAllMocks();
});

describe("a file", () => {
  it.each(HOWS)("in a volume made with %s is stored so where it shrinks, and as it is where not", (how) =>
    inVolume((fixture) => {
      fixture.close();
      madeWith(fixture, how);
      const content = Buffer.concat([
        text(BLOCK),
        randomBytes(BLOCK),
        text(1000),
        randomBytes(BLOCK - 1000),
        b("short"),
      ]);
      const file = put(fixture.volume, ROOT, "a", content);
      expect(methodsOf(fixture, file)).toBe(`${how} none none none`);
      expect(contentOf(fixture.volume, file).equals(content)).toBe(true);
    }),
  );

  it("that comes in small pieces is compressed, as is one that comes at once", () =>
    inVolume((fixture, volume) => {
      const content = text(2 * BLOCK + 3000);
      const pieces = touch(volume, ROOT, "pieces");
      for (let at = 0; at < content.length; at += 1000)
        volume.files.write(pieces, at, content.subarray(at, at + 1000), false);
      const whole = put(volume, ROOT, "whole", content);
      expect(contentOf(volume, pieces).equals(content)).toBe(true);
      expect(methodsOf(fixture, pieces)).toBe("fast fast fast");
      expect(methodsOf(fixture, whole)).toBe("fast fast fast");
      expect(fixture.number("SELECT sum(length(data)) FROM block")).toBeLessThan(content.length);
      expect(contentOf(fixture.volume, pieces).equals(content)).toBe(true);
    }));

  it.each(HOWS)("stored as %s is overwritten, cut, extended and punched within its blocks", (how) =>
    inVolume((fixture, volume) => {
      const file = touch(volume, ROOT, "a");
      compress(volume, file, how);
      let expected = text(3 * BLOCK);
      volume.files.write(file, 0, expected, false);
      const step = (change: (volume: Volume) => void, model: (bytes: Buffer) => Buffer) => {
        change(fixture.volume);
        expected = model(Buffer.from(expected));
        expect(contentOf(fixture.volume, file).equals(expected)).toBe(true);
        fixture.remount();
        expect(contentOf(fixture.volume, file).equals(expected)).toBe(true);
      };
      const patch = (bytes: Buffer, at: number, data: Buffer) => {
        data.copy(bytes, at);
        return bytes;
      };
      step(
        (v) => v.files.write(file, BLOCK - 3, b("across"), false),
        (bytes) => patch(bytes, BLOCK - 3, b("across")),
      );
      step(
        (v) => v.files.write(file, 2 * BLOCK + 100, noise(BLOCK - 100), false),
        (bytes) => patch(bytes, 2 * BLOCK + 100, noise(BLOCK - 100)),
      );
      step(
        (v) => v.attributes.setattr(file, { size: BLOCK + 777 }),
        (bytes) => bytes.subarray(0, BLOCK + 777),
      );
      step(
        (v) => v.attributes.setattr(file, { size: 2 * BLOCK }),
        (bytes) => Buffer.concat([bytes, Buffer.alloc(BLOCK - 777)]),
      );
      step(
        (v) => v.files.fallocate(file, 3, 500, 1000, false),
        (bytes) => bytes.fill(0, 500, 1500),
      );
    }),
  );

  it("is read in pieces, in any order, whole or beside its blocks' borders", () =>
    inVolume((fixture, volume) => {
      const content = Buffer.concat([text(BLOCK), noise(BLOCK), text(BLOCK / 2)]);
      const file = put(volume, ROOT, "a", content);
      const ranges = [
        0,
        1,
        5000,
        BLOCK - 1,
        BLOCK,
        BLOCK + 9,
        2 * BLOCK - 5,
        2 * BLOCK,
        2.5 * BLOCK - 4,
      ].flatMap((from) => [1, 10, 4096, BLOCK, 3 * BLOCK].map((length) => [from, length] as const));
      for (const open of [() => volume, () => fixture.remount(), () => fixture.remount({ readOnly: true })]) {
        const opened = open();
        for (const [from, length] of ranges) {
          const into = Buffer.alloc(length);
          const got = opened.files.read(file, from, length, into);
          expect(into.subarray(0, got).equals(content.subarray(from, from + length))).toBe(true);
        }
      }
    }));

  it("that is read in pieces between changes is read as it is, not as it was", () =>
    inVolume((fixture, volume) => {
      const file = put(volume, ROOT, "a", text(BLOCK));
      const other = put(volume, ROOT, "b", text(BLOCK, 2));
      const piece = (ino: Ino) => {
        const into = Buffer.alloc(8);
        fixture.volume.files.read(ino, 100, 8, into);
        return into.toString();
      };
      volume.commit();
      expect(piece(file)).toBe(text(BLOCK).toString("latin1", 100, 108));
      volume.files.write(file, 100, b("changed."), false);
      expect(piece(file)).toBe("changed.");
      // Another block is written, so that this one is; then it is read from its row.
      volume.files.write(other, 100, b("as well."), false);
      expect([piece(file), piece(other), piece(file)]).toEqual(["changed.", "as well.", "changed."]);
      volume.commit();
      volume.files.write(file, 100, b("again..."), false);
      volume.commit();
      expect(piece(file)).toBe("again...");
      volume.attributes.setattr(file, { size: 104 });
      volume.attributes.setattr(file, { size: 200 });
      expect(piece(file)).toBe("agai\0\0\0\0");
    }));

  it("whose last changes were lost is not read as if they were there", () =>
    inVolume((fixture, volume) => {
      const file = put(volume, ROOT, "a", text(BLOCK));
      const other = put(volume, ROOT, "b", text(BLOCK));
      volume.commit();
      volume.files.write(file, 100, b("changed."), false);
      volume.files.write(other, 100, b("changed."), false);
      const into = Buffer.alloc(8);
      volume.files.read(file, 100, 8, into);
      expect(into.toString()).toBe("changed.");
      const step = Statement.prototype.step;
      vi.spyOn(Statement.prototype, "step").mockImplementation(function (this: Statement) {
        if (this.sql === "COMMIT") throw new SqliteError("no", SQLITE_IOERR_WRITE, 5, this.sql);
        return step.call(this);
      });
      expectErrno("EIO", () => volume.commit());
      vi.restoreAllMocks();
      volume.files.read(file, 100, 8, into);
      expect(into.toString()).toBe(text(BLOCK).toString("latin1", 100, 108));
      expect(fixture.takeLog()).toHaveLength(1);
    }));

  it("shares its compressed blocks with a copy, until one of them is changed", () =>
    inVolume((fixture, volume) => {
      const content = text(3 * BLOCK);
      const file = put(volume, ROOT, "a", content);
      const copy = touch(volume, ROOT, "copy");
      volume.files.copyFileRange(file, 0, copy, 0, content.length, false);
      volume.files.write(copy, BLOCK + 5, b("other"), false);
      const expected = Buffer.from(content);
      expected.write("other", BLOCK + 5);
      expect(methodsOf(fixture, copy)).toBe("fast fast fast");
      expect(fixture.number("SELECT count(*) FROM block")).toBe(4);
      expect(contentOf(fixture.volume, file).equals(content)).toBe(true);
      expect(contentOf(fixture.volume, copy).equals(expected)).toBe(true);
    }));
});

describe("the attribute", () => {
  it("of a directory goes to what is made in it, files and directories, and decides there", () =>
    inVolume((fixture, volume) => {
      const files = HOWS.map((how) => {
        const directory = mkdir(volume, ROOT, how);
        compress(volume, directory, how);
        const deep = mkdir(volume, mkdir(volume, directory, "x"), "y");
        const file = put(volume, deep, "a", text(BLOCK));
        for (const ino of [deep, file])
          expect(volume.xattrs.get(ino, ATTRIBUTE)).toEqual(new Uint8Array(b(how)));
        const link = volume.tree.symlink(deep, b("s"), b("target"), { uid: 1, gid: 1, umask: 0 });
        expect(volume.xattrs.list(link.ino)).toHaveLength(0);
        return file;
      });
      expect(files.map((file) => methodsOf(fixture, file))).toEqual([...HOWS]);
    }));

  it("of a file holds for what is written from then on; without it the volume's holds again", () =>
    inVolume((fixture, volume) => {
      const file = touch(volume, ROOT, "a");
      const write = (idx: number) => volume.files.write(file, idx * BLOCK, text(BLOCK, idx), false);
      write(0);
      compress(volume, file, "none");
      write(1);
      compress(volume, file, "strong");
      write(2);
      volume.xattrs.remove(file, ATTRIBUTE);
      write(3);
      expect(methodsOf(fixture, file)).toBe("fast none strong fast");
    }));

  it("stays beside a default ACL, and both are inherited", () =>
    inVolume((_, volume) => {
      const directory = mkdir(volume, ROOT, "d");
      compress(volume, directory, "strong");
      const acl = Buffer.from(
        "0200000001000700ffffffff0400050 0ffffffff20000000ffffffff".replace(" ", ""),
        "hex",
      );
      volume.xattrs.set(directory, b("system.posix_acl_default"), acl, 0, false);
      const below = mkdir(volume, directory, "below");
      expect(Buffer.from(volume.xattrs.list(below)).toString().split("\0").slice(0, -1)).toEqual([
        "system.posix_acl_default",
        ATTRIBUTE.toString(),
      ]);
    }));

  it("is one of three words: EINVAL, also where a dump says it", () =>
    inVolume((_, volume) => {
      const file = touch(volume, ROOT, "a");
      for (const word of ["", "zstd", "FAST", "fast\n", "none\0"]) {
        expectErrno("EINVAL", () => compress(volume, file, word));
        expectErrno("EINVAL", () => volume.restore.xattr(file, ATTRIBUTE, b(word)));
      }
      expect(HOWS.map((how) => errnoOf(() => compress(volume, file, how)))).toEqual(["ok", "ok", "ok"]);
    }));

  it("that cannot be, as an older version let it be set, is as none", () =>
    inVolume((fixture, volume) => {
      const directory = mkdir(volume, ROOT, "d");
      compress(volume, directory, "none");
      fixture.close();
      fixture.sql((db) => db.exec("UPDATE xattr SET value = CAST('good' AS BLOB)"));
      const file = put(fixture.volume, directory, "a", text(BLOCK));
      expect(fixture.volume.xattrs.list(file)).toHaveLength(0);
      expect(methodsOf(fixture, file)).toBe("fast");
    }));
});

describe("the feature", () => {
  it("is declared with the first block that is compressed, in the same commit, and not before", () =>
    inVolume((fixture) => {
      fixture.close();
      madeWith(fixture, "none");
      const { volume } = fixture;
      put(volume, ROOT, "plain", text(BLOCK));
      const file = touch(volume, ROOT, "a");
      compress(volume, file, "fast");
      volume.commit();
      volume.files.write(file, 0, text(BLOCK), false);
      afterCrash(fixture, (copy, crashed) => {
        expect(find(crashed, "a")?.size).toBe(0);
        copy.close();
        expect(featuresOf(copy)).toBe('["block-size"]');
      });
      volume.commit();
      afterCrash(fixture, (copy, crashed) => {
        expect(contentOf(crashed, file).equals(text(BLOCK))).toBe(true);
        copy.close();
        expect(featuresOf(copy)).toBe('["block-size","compression"]');
      });
    }));

  it("joins others that are there", () =>
    inVolume((fixture, volume) => {
      const file = touch(volume, ROOT, "a");
      fixture.close();
      fixture.sql((db) => db.exec(`UPDATE meta SET value = '["block-size"]' WHERE key LIKE 'features_inc%'`));
      put(fixture.volume, ROOT, "b", text(BLOCK));
      expect(methodsOf(fixture, file)).toBe("");
      expect(featuresOf(fixture)).toBe('["block-size","compression"]');
    }));
});

describe("seeded damage of compressed blocks is found, named, repaired, and gone at the second run:", () => {
  const BLOCK_OF = (name: string) =>
    `(SELECT block FROM extent WHERE idx = 1 AND ino = (SELECT ino FROM dirent WHERE name = CAST('${name}' AS BLOB)))`;
  const DAMAGE: readonly (readonly [what: string, kind: string, set: string])[] = [
    ["a method that is not known", "block-codec", "codec = (codec & ~255) | 9"],
    ["a length that no block has", "block-codec", "codec = (codec & 255) | (2000000 << 8)"],
    ["a length that lies: too long for its file", "block-length", "codec = codec + 256"],
    ["a length that lies: too short", "block-content", "codec = codec - 256"],
    ["content that is garbage", "block-content", "data = randomblob(length(data))"],
    ["content that is cut", "block-content", "data = substr(data, 1, length(data) - 1)"],
    ["content that is empty", "block-content", "data = x''"],
    [
      "content that ends in zeros",
      "block-content",
      "data = CAST(substr(data, 1, length(data) / 2) || zeroblob(length(data) - length(data) / 2) AS BLOB)",
    ],
    ["the other method", "block-content", "codec = codec - 2 * (codec & 255) + 3"],
    ["nothing that says that it is compressed", "block-length", "codec = 0, data = zeroblob(70000)"],
  ];
  const cases = DAMAGE.flatMap(([what, kind, set]) =>
    (["fast", "strong"] as const).map((how) => [what, kind, set, how] as const),
  );
  it.each(cases)("%s (%s; %s; %s)", (_, kind, set, how) =>
    inVolume((fixture, volume) => {
      for (const name of HOWS) {
        const directory = mkdir(volume, ROOT, name);
        compress(volume, directory, name);
        const file = put(volume, directory, `text ${name}`, text(3 * BLOCK));
        const copy = touch(volume, directory, "copy");
        volume.files.copyFileRange(file, 0, copy, 0, BLOCK, false);
      }
      volume.commit();
      const before = dump(volume);
      fixture.close();
      fixture.sql((db) => db.exec(`UPDATE block SET ${set} WHERE id = ${BLOCK_OF(`text ${how}`)}`));
      const { path, key, clock } = fixture;
      const report = drain(inspect(path, key, { verifyData: kind === "block-content" }));
      const damaged = `/${how}/text ${how}`;
      expect(lines(report.findings)[0]).toContain(`${kind} ${damaged} `);
      expect(new Set(report.findings.map(({ path: named }) => named))).toEqual(new Set([damaged]));

      const { left } = drain(repair(path, key, report, clock));
      expect(lines(left)).toEqual([]);
      expect(drain(inspect(path, key, { verifyData: true })).findings).toEqual([]);
      const after = dump(fixture.volume);
      expect(changedPaths(before, after)).toEqual([damaged]);
      const file = find(fixture.volume, damaged)?.ino as Ino;
      const expected = text(3 * BLOCK);
      if (set.startsWith("codec = 0")) expect(contentOf(fixture.volume, file)).toHaveLength(3 * BLOCK);
      else expect(contentOf(fixture.volume, file).equals(expected.fill(0, BLOCK, 2 * BLOCK))).toBe(true);
    }),
  );

  it("a block that two files share, and one of the past, are named by what has them", () =>
    inVolume((fixture, volume) => {
      const file = put(volume, ROOT, "a", text(BLOCK));
      const copy = touch(volume, ROOT, "copy");
      volume.files.copyFileRange(file, 0, copy, 0, BLOCK, false);
      const old = put(volume, ROOT, "old", text(BLOCK, 2));
      volume.closeEpoch();
      volume.files.write(old, 0, noise(BLOCK), false);
      fixture.close();
      fixture.sql((db) => db.exec("UPDATE block SET data = x'01' WHERE codec <> 0"));
      const { path, key, clock } = fixture;
      const report = drain(inspect(path, key, { verifyData: true }));
      expect(report.findings.map(({ kind, path: of, text: says }) => [kind, of, says])).toEqual([
        ["block-content", "/a", "bytes 0 to 16255 cannot be decoded"],
        ["block-content", "/copy", "bytes 0 to 16255 cannot be decoded"],
        ["block-content", "/old", "bytes 0 to 16255 of its past cannot be decoded"],
      ]);
      expect(lines(drain(repair(path, key, report, clock)).left)).toEqual([]);
      expect(drain(inspect(path, key, { verifyData: true })).findings).toEqual([]);
    }));

  it("one that no file has is found, and dropped", () =>
    inVolume((fixture, volume) => {
      volume.commit();
      fixture.close();
      fixture.sql((db) =>
        db.exec(`INSERT INTO block VALUES (1, ${1 | (1000 << 8)}, NULL, x'0102');
          UPDATE meta SET value = 2 WHERE key = 'next_block'`),
      );
      const { path, key, clock } = fixture;
      const report = drain(inspect(path, key, { verifyData: true }));
      expect(report.findings.map(({ kind }) => kind)).toEqual(["block-unowned", "block-content"]);
      expect(lines(drain(repair(path, key, report, clock)).left)).toEqual([]);
      expect(fixture.number("SELECT count(*) FROM block")).toBe(0);
    }));

  it("features that do not say that blocks are compressed", () =>
    inVolume((fixture, volume) => {
      put(volume, ROOT, "a", text(BLOCK));
      fixture.close();
      const { path, key, clock } = fixture;
      for (const sql of ["UPDATE meta SET value = '[]'", "DELETE FROM meta"]) {
        fixture.sql((db) => db.exec(`${sql} WHERE key = 'features_incompatible'`));
        const report = drain(inspect(path, key));
        expect(report.findings.map(({ kind }) => kind)).toContain(
          sql.startsWith("D") ? "meta" : "meta-feature",
        );
        expect(lines(drain(repair(path, key, report, clock)).left)).toEqual([]);
        expect(featuresOf(fixture)).toBe('["compression","block-size"]');
      }
    }));
});
