/** Names are bytes: all but NUL and slash, at most 255 of them. */
import assert from "node:assert/strict";
import { O, type Path, sys } from "../helpers/libc.ts";
import type { Cases } from "./tools.ts";

/** `dir`/name for a name of any bytes. */
function join(dir: string, name: Uint8Array): Buffer {
  return Buffer.concat([Buffer.from(`${dir}/`), name]);
}

const LONGEST = "n".repeat(255);
const TOO_LONG = "n".repeat(256);

export const names: Cases = {
  "a name of 255 bytes is taken by every call that makes one": (dir, t) => {
    const name = (c: string): string => `${dir}/${c.repeat(255)}`;
    t.file(name("f"), "x");
    sys.mkdir(name("d"));
    sys.symlink("x", name("l"));
    sys.mknod(name("p"), 0o010600);
    sys.link(name("f"), name("h"));
    sys.rename(name("p"), name("q"));
    assert.deepEqual(
      t.names(dir).map((n) => `${n[0]}${n.length}`),
      ["d255", "f255", "h255", "l255", "q255"],
    );
    assert.equal(t.text(name("h")), "x");
    sys.unlink(name("h"));
    sys.rmdir(name("d"));
  },
  "a name of 256 bytes is ENAMETOOLONG to every call, and nothing is made": (dir, t) => {
    t.file(`${dir}/f`);
    sys.mkdir(`${dir}/d`);
    const long = `${dir}/${TOO_LONG}`;
    const calls: Record<string, () => void> = {
      lstat: () => sys.lstat(long),
      open: () => sys.close(sys.open(long, O.RDONLY)),
      create: () => sys.close(sys.open(long, O.WRONLY | O.CREAT)),
      mkdir: () => sys.mkdir(long),
      mknod: () => sys.mknod(long, 0o100600),
      symlink: () => sys.symlink("x", long),
      link: () => sys.link(`${dir}/f`, long),
      unlink: () => sys.unlink(long),
      rmdir: () => sys.rmdir(long),
      "rename to": () => sys.rename(`${dir}/f`, long),
      "rename from": () => sys.rename(long, `${dir}/g`),
      chmod: () => sys.chmod(long, 0o600),
      truncate: () => sys.truncate(long, 0),
      "path through it": () => sys.lstat(`${long}/x`),
    };
    for (const [what, call] of Object.entries(calls)) {
      try {
        t.refuses("ENAMETOOLONG", call);
      } catch (error) {
        assert.fail(`${what}: ${String(error)}`);
      }
    }
    assert.deepEqual(t.names(dir), ["d", "f"]);
  },
  "255 bytes count, not characters": (dir, t) => {
    const fits = `${"ä".repeat(127)}x`;
    t.file(`${dir}/${fits}`);
    assert.equal(Buffer.from(t.names(dir)[0] ?? "", "latin1").toString(), fits);
    t.refuses("ENAMETOOLONG", () => t.file(`${dir}/${"ä".repeat(128)}`));
  },
  "every single byte but slash is a name": (dir, t) => {
    const expected: string[] = [];
    for (let byte = 1; byte < 256; byte++) {
      if (byte === 0x2f || byte === 0x2e) continue;
      const name = Buffer.from([byte]);
      t.file(join(dir, name), name);
      expected.push(name.toString("latin1"));
    }
    assert.deepEqual(t.names(dir), expected.sort());
    for (const name of expected) {
      const bytes = Buffer.from(name, "latin1");
      t.same(t.read(join(dir, bytes)), bytes, `content of byte ${bytes[0]}`);
    }
  },
  "names that are no valid UTF-8 are kept and told apart": (dir, t) => {
    const wild = [
      [0xff],
      [0xfe],
      [0xc3],
      [0xc3, 0x28],
      [0xa0, 0xa1],
      [0xe2, 0x28, 0xa1],
      [0xed, 0xa0, 0x80],
      [0xf8, 0xa1, 0xa1, 0xa1, 0xa1],
      [0xef, 0xbf, 0xbd],
      [0xc0, 0xaf],
      [0x80],
      [0xbf, 0x80],
    ].map((bytes) => Buffer.from(bytes));
    for (const [i, name] of wild.entries()) t.file(join(dir, name), `file ${i}`);
    assert.deepEqual(t.names(dir), wild.map((name) => name.toString("latin1")).sort());
    for (const [i, name] of wild.entries()) {
      assert.equal(t.text(join(dir, name)), `file ${i}`);
      sys.rename(join(dir, name), join(dir, Buffer.concat([name, Buffer.from("2")])));
    }
    for (const name of wild) sys.unlink(join(dir, Buffer.concat([name, Buffer.from("2")])));
    assert.deepEqual(t.names(dir), []);
  },
  "names that look the same but are other bytes are other names": (dir, t) => {
    const twins: [string, string][] = [
      ["\u00e9", "e\u0301"],
      ["\u212b", "\u00c5"],
      ["a", "\u0430"],
      ["x", "x\u200b"],
      ["1", "01"],
      ["n", "n "],
      ["\ufb01", "fi"],
      ["stra\u00dfe", "strasse"],
    ];
    for (const [one, other] of twins) {
      t.file(`${dir}/${one}`, "one");
      assert.ok(!t.exists(`${dir}/${other}`), `${other} is not there yet`);
      t.file(`${dir}/${other}`, "other");
      assert.equal(t.text(`${dir}/${one}`), "one");
    }
    assert.equal(t.names(dir).length, twins.length * 2);
  },
  "names that mean something to a shell or to SQL are names like others": (dir, t) => {
    const odd = [
      "...",
      "....",
      " ",
      "-rf",
      "a\nb",
      "\t",
      "'; DROP TABLE inode; --",
      '"',
      "%",
      "_",
      "?1",
      "NULL",
      "\\",
      "*",
      "a",
      "~",
      "$HOME",
      ".fuse_hidden0001",
      "lost+found",
      "0",
      "-1",
      "9007199254740993",
      "CON",
      "🦫".repeat(60),
    ];
    for (const name of odd) t.file(`${dir}/${name}`, name);
    assert.deepEqual(t.names(dir), odd.map((name) => Buffer.from(name).toString("latin1")).sort());
    for (const name of odd) {
      assert.equal(t.text(`${dir}/${name}`), name);
      sys.unlink(`${dir}/${name}`);
    }
    assert.deepEqual(t.names(dir), []);
  },
  "a path of more than 4,095 bytes is ENAMETOOLONG, and what is there is reached step by step": (dir, t) => {
    const step = "p".repeat(200);
    let fd = sys.open(dir, O.RDONLY | O.DIRECTORY);
    for (let i = 0; i < 25; i++) {
      sys.mkdirat(fd, step);
      const next = sys.openat(fd, step, O.RDONLY | O.DIRECTORY);
      sys.close(fd);
      fd = next;
    }
    sys.close(sys.openat(fd, "bottom", O.WRONLY | O.CREAT));
    sys.close(sys.openat(fd, "bottom", O.RDONLY));
    sys.close(fd);
    t.refuses("ENAMETOOLONG", () => sys.lstat(`${dir}${`/${step}`.repeat(25)}/bottom`));
  },
  "a thousand names with one long beginning are told apart": (dir, t) => {
    const start = "same-beginning-".repeat(16);
    for (let i = 0; i < 1000; i++) sys.mknod(`${dir}/${start}${String(i).padStart(4, "0")}`, 0o100600);
    assert.equal(t.names(dir).length, 1000);
    sys.unlink(`${dir}/${start}0500`);
    assert.ok(!t.exists(`${dir}/${start}0500`));
    assert.ok(t.exists(`${dir}/${start}0501`));
    assert.ok(!t.exists(`${dir}/${start}`));
  },
  "a name is found only whole: no prefix, no longer name": (dir, t) => {
    t.file(`${dir}/abc`);
    for (const name of ["ab", "abcd", "bc", "ABC", "abc\u0001"]) {
      assert.ok(!t.exists(`${dir}/${name}`), name);
    }
  },
  "slashes in a row and trailing ones are one": (dir, t) => {
    sys.mkdir(`${dir}/d`);
    t.file(`${dir}//d///f`, "x");
    assert.equal(t.text(`${dir}/d/f`), "x");
    assert.equal(sys.lstat(`${dir}/d///`).ino, sys.lstat(`${dir}/d`).ino);
  },
  "the longest name can be renamed to another of that length and back": (dir, t) => {
    t.file(`${dir}/${LONGEST}`, "x");
    const other: Path = `${dir}/${"m".repeat(255)}`;
    sys.rename(`${dir}/${LONGEST}`, other);
    sys.rename(other, `${dir}/${LONGEST}`);
    assert.equal(t.text(`${dir}/${LONGEST}`), "x");
  },
};
