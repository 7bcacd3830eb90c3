/** rename(2) and renameat2(2): what moves, what is replaced, what is refused. */
import assert from "node:assert/strict";
import { O, RENAME, S, sys } from "../helpers/libc.ts";
import { ALICE, ALICE_SHARED, BOB, type Cases, SHARED_GID } from "./tools.ts";

export const rename: Cases = {
  "rename moves a file within its directory and keeps everything of it": (dir, t) => {
    t.file(`${dir}/a`, "data");
    const before = sys.lstat(`${dir}/a`);
    sys.rename(`${dir}/a`, `${dir}/b`);
    const after = sys.lstat(`${dir}/b`);
    assert.deepEqual(t.names(dir), ["b"]);
    assert.equal(after.ino, before.ino);
    assert.equal(after.mtimeNs, before.mtimeNs);
    assert.equal(after.nlink, 1);
    assert.equal(t.text(`${dir}/b`), "data");
  },
  "rename moves a file to another directory": (dir, t) => {
    sys.mkdir(`${dir}/x`);
    sys.mkdir(`${dir}/y`);
    t.file(`${dir}/x/a`, "data");
    sys.rename(`${dir}/x/a`, `${dir}/y/b`);
    assert.deepEqual(t.names(`${dir}/x`), []);
    assert.equal(t.text(`${dir}/y/b`), "data");
  },
  "rename changes mtime and ctime of both directories, and the ctime of what is moved": (dir, t) => {
    sys.mkdir(`${dir}/x`);
    sys.mkdir(`${dir}/y`);
    t.file(`${dir}/x/a`);
    const [x, y, a] = [sys.lstat(`${dir}/x`), sys.lstat(`${dir}/y`), sys.lstat(`${dir}/x/a`)];
    t.tick();
    sys.rename(`${dir}/x/a`, `${dir}/y/a`);
    for (const [name, before] of [
      ["x", x],
      ["y", y],
    ] as const) {
      const after = sys.lstat(`${dir}/${name}`);
      assert.ok(after.mtimeNs > before.mtimeNs, `mtime of ${name}`);
      assert.ok(after.ctimeNs > before.ctimeNs, `ctime of ${name}`);
    }
    assert.ok(sys.lstat(`${dir}/y/a`).ctimeNs > a.ctimeNs, "ctime of the file");
    assert.equal(sys.lstat(`${dir}/y/a`).mtimeNs, a.mtimeNs);
  },
  "rename over a file replaces it in one step": (dir, t) => {
    t.file(`${dir}/a`, "new");
    t.file(`${dir}/b`, "old and longer");
    sys.rename(`${dir}/a`, `${dir}/b`);
    assert.deepEqual(t.names(dir), ["b"]);
    assert.equal(t.text(`${dir}/b`), "new");
    assert.equal(sys.lstat(`${dir}/b`).size, 3);
  },
  "the replaced file loses a link, and its ctime moves": (dir, t) => {
    t.file(`${dir}/a`, "new");
    t.file(`${dir}/b`, "old");
    sys.link(`${dir}/b`, `${dir}/c`);
    const before = sys.lstat(`${dir}/c`);
    t.tick();
    sys.rename(`${dir}/a`, `${dir}/b`);
    const after = sys.lstat(`${dir}/c`);
    assert.equal(after.nlink, 1);
    assert.ok(after.ctimeNs > before.ctimeNs);
    assert.equal(t.text(`${dir}/c`), "old");
  },
  "a file that is replaced while open goes on being read and written": (dir, t) => {
    t.file(`${dir}/a`, "new");
    t.file(`${dir}/b`, "old content");
    t.using(`${dir}/b`, O.RDWR, (fd) => {
      sys.rename(`${dir}/a`, `${dir}/b`);
      assert.equal(sys.fstat(fd).nlink, 0);
      assert.equal(t.readFd(fd).toString(), "old content");
      sys.pwrite(fd, "OLD", 0);
      assert.equal(t.readFd(fd).toString(), "OLD content");
      assert.equal(t.text(`${dir}/b`), "new");
    });
  },
  "rename of a symlink moves the symlink, and rename over one replaces it": (dir, t) => {
    t.file(`${dir}/f`, "target");
    sys.symlink("f", `${dir}/l`);
    sys.rename(`${dir}/l`, `${dir}/m`);
    assert.equal(sys.readlink(`${dir}/m`).toString(), "f");
    t.file(`${dir}/g`, "other");
    sys.rename(`${dir}/g`, `${dir}/m`);
    assert.equal(t.text(`${dir}/f`), "target");
    assert.equal(t.text(`${dir}/m`), "other");
    assert.deepEqual(t.names(dir), ["f", "m"]);
  },
  "rename onto itself does nothing": (dir, t) => {
    t.file(`${dir}/a`, "x");
    const before = sys.lstat(dir);
    sys.rename(`${dir}/a`, `${dir}/a`);
    assert.equal(t.text(`${dir}/a`), "x");
    assert.equal(sys.lstat(dir).mtimeNs, before.mtimeNs);
  },
  "rename onto another link of the same file leaves both": (dir, t) => {
    t.file(`${dir}/a`, "x");
    sys.link(`${dir}/a`, `${dir}/b`);
    sys.rename(`${dir}/a`, `${dir}/b`);
    assert.deepEqual(t.names(dir), ["a", "b"]);
    assert.equal(sys.lstat(`${dir}/a`).nlink, 2);
  },
  "rename of a directory takes along what is in it, and .. follows": (dir, t) => {
    sys.mkdir(`${dir}/x`);
    sys.mkdir(`${dir}/y`);
    sys.mkdir(`${dir}/x/d`);
    sys.mkdir(`${dir}/x/d/e`);
    t.file(`${dir}/x/d/e/f`, "deep");
    sys.rename(`${dir}/x/d`, `${dir}/y/d`);
    assert.equal(t.text(`${dir}/y/d/e/f`), "deep");
    assert.equal(sys.lstat(`${dir}/y/d/..`).ino, sys.lstat(`${dir}/y`).ino);
    const dotdot = sys.readdir(`${dir}/y/d`).find((entry) => entry.name === "..");
    assert.equal(dotdot?.ino, sys.lstat(`${dir}/y`).ino);
    assert.equal(sys.lstat(`${dir}/x`).nlink, 2);
    assert.equal(sys.lstat(`${dir}/y`).nlink, 3);
    t.refuses("ENOENT", () => sys.lstat(`${dir}/x/d/e/f`));
  },
  "an open descriptor of a moved directory sees its new parent": (dir, t) => {
    sys.mkdir(`${dir}/x`);
    sys.mkdir(`${dir}/y`);
    sys.mkdir(`${dir}/x/d`);
    t.using(`${dir}/x/d`, O.RDONLY | O.DIRECTORY, (fd) => {
      sys.rename(`${dir}/x/d`, `${dir}/y/d`);
      const up = sys.openat(fd, "..", O.RDONLY | O.DIRECTORY);
      assert.equal(sys.fstat(up).ino, sys.lstat(`${dir}/y`).ino);
      sys.close(up);
      sys.close(sys.openat(fd, "f", O.WRONLY | O.CREAT));
    });
    assert.deepEqual(t.names(`${dir}/y/d`), ["f"]);
  },
  "a process in a directory that is renamed, or whose parent is, knows where it is": (dir, t) => {
    const said = t.python(
      dir,
      `
base = os.getcwd()
os.makedirs("a/b/c"); os.chdir("a/b/c")
os.rename(base + "/a/b", base + "/a/x"); print(os.getcwd()[len(base):])
os.rename(base + "/a", base + "/y"); print(os.getcwd()[len(base):])
open("here", "w").close(); print(os.listdir(base + "/y/x/c"))
`,
    );
    assert.equal(said, "/a/x/c\n/y/x/c\n['here']");
  },
  "a directory replaces an empty directory": (dir, t) => {
    sys.mkdir(`${dir}/a`);
    t.file(`${dir}/a/f`, "kept");
    sys.mkdir(`${dir}/b`);
    sys.rename(`${dir}/a`, `${dir}/b`);
    assert.deepEqual(t.names(dir), ["b"]);
    assert.deepEqual(t.names(`${dir}/b`), ["f"]);
    assert.equal(sys.lstat(dir).nlink, 3);
  },
  "a directory over a directory that is not empty is ENOTEMPTY": (dir, t) => {
    sys.mkdir(`${dir}/a`);
    sys.mkdir(`${dir}/b`);
    t.file(`${dir}/b/f`);
    t.refuses(["ENOTEMPTY", "EEXIST"], () => sys.rename(`${dir}/a`, `${dir}/b`));
    assert.deepEqual(t.names(dir), ["a", "b"]);
    assert.deepEqual(t.names(`${dir}/b`), ["f"]);
  },
  "a directory onto its own ancestor is ENOTEMPTY": (dir, t) => {
    sys.mkdir(`${dir}/a`);
    sys.mkdir(`${dir}/a/b`);
    t.refuses(["ENOTEMPTY", "EEXIST"], () => sys.rename(`${dir}/a/b`, `${dir}/a`));
    assert.deepEqual(t.names(`${dir}/a`), ["b"]);
  },
  "a file over a directory is EISDIR, a directory over a file ENOTDIR": (dir, t) => {
    t.file(`${dir}/f`, "kept");
    sys.mkdir(`${dir}/d`);
    sys.symlink("d", `${dir}/l`);
    t.refuses("EISDIR", () => sys.rename(`${dir}/f`, `${dir}/d`));
    t.refuses("ENOTDIR", () => sys.rename(`${dir}/d`, `${dir}/f`));
    t.refuses("ENOTDIR", () => sys.rename(`${dir}/d`, `${dir}/l`));
    t.refuses("EISDIR", () => sys.rename(`${dir}/l`, `${dir}/d`));
    assert.deepEqual(t.names(dir), ["d", "f", "l"]);
    assert.equal(t.text(`${dir}/f`), "kept");
  },
  "a directory into itself or below itself is EINVAL, however deep": (dir, t) => {
    sys.mkdir(`${dir}/a`);
    sys.mkdir(`${dir}/a/b`);
    sys.mkdir(`${dir}/a/b/c`);
    t.refuses("EINVAL", () => sys.rename(`${dir}/a`, `${dir}/a/x`));
    t.refuses("EINVAL", () => sys.rename(`${dir}/a`, `${dir}/a/b/c/x`));
    t.refuses("EINVAL", () => sys.rename(`${dir}/a/b`, `${dir}/a/b/c`));
    assert.deepEqual(t.names(dir), ["a"]);
    assert.deepEqual(t.names(`${dir}/a/b`), ["c"]);
  },
  'rename of "." and ".." is refused': (dir, t) => {
    sys.mkdir(`${dir}/d`);
    t.refuses(["EBUSY", "EINVAL"], () => sys.rename(`${dir}/d/.`, `${dir}/e`));
    t.refuses(["EBUSY", "EINVAL"], () => sys.rename(`${dir}/d/..`, `${dir}/e`));
    t.refuses(["EBUSY", "EINVAL"], () => sys.rename(`${dir}/d`, `${dir}/.`));
  },
  "rename of what is missing, or into what is missing, is ENOENT; below a file ENOTDIR": (dir, t) => {
    t.file(`${dir}/f`);
    t.refuses("ENOENT", () => sys.rename(`${dir}/no`, `${dir}/g`));
    t.refuses("ENOENT", () => sys.rename(`${dir}/f`, `${dir}/no/g`));
    t.refuses("ENOTDIR", () => sys.rename(`${dir}/f`, `${dir}/f/g`));
    t.refuses("ENOTDIR", () => sys.rename(`${dir}/f/x`, `${dir}/g`));
    t.refuses("ENOTDIR", () => sys.rename(`${dir}/f`, `${dir}/g/`));
    assert.deepEqual(t.names(dir), ["f"]);
  },
  "fifos, sockets and devices are renamed like files": (dir, t) => {
    sys.mknod(`${dir}/p`, S.FIFO | 0o600);
    t.file(`${dir}/f`);
    sys.rename(`${dir}/p`, `${dir}/f`);
    assert.equal(sys.lstat(`${dir}/f`).type, S.FIFO);
  },
  "a rename chain of a hundred steps ends where it should": (dir, t) => {
    for (let d = 0; d < 3; d++) sys.mkdir(`${dir}/d${d}`);
    t.file(`${dir}/d0/n0`, "traveller");
    for (let i = 0; i < 100; i++) {
      sys.rename(`${dir}/d${i % 3}/n${i}`, `${dir}/d${(i + 1) % 3}/n${i + 1}`);
    }
    assert.equal(t.text(`${dir}/d1/n100`), "traveller");
    assert.deepEqual(
      [0, 1, 2].map((d) => t.names(`${dir}/d${d}`).length),
      [0, 1, 0],
    );
  },
  "write-to-temporary-and-rename never shows an empty or a missing file": (dir, t) => {
    t.file(`${dir}/f`, "version 0000");
    const said = t.python(
      dir,
      `
told, tell = os.pipe()
def replace(version):
    fd = os.open("f.tmp", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.write(fd, b"version %04d" % version); os.close(fd); os.rename("f.tmp", "f")
pid = os.fork()
if pid == 0:
    os.close(tell); os.set_blocking(told, False); i = 0
    while True:
        try:
            if os.read(told, 1) == b"": break
        except BlockingIOError: replace(i % 299); i += 1
    replace(299); os._exit(0)
bad = 0; n = 0; seen = set()
while n < 300 or len(seen) < 20:
    with open("f", "rb") as f: data = f.read()
    n += 1; seen.add(data)
    if len(data) != 12 or not data.startswith(b"version "): bad += 1
os.close(tell); os.waitpid(pid, 0)
print(bad)
`,
    );
    assert.equal(said, "0");
    assert.equal(t.text(`${dir}/f`), "version 0299");
  },
  "rename without write permission on either directory is EACCES": (dir, t) => {
    sys.mkdir(`${dir}/open`);
    sys.chmod(`${dir}/open`, 0o777);
    sys.mkdir(`${dir}/shut`);
    t.file(`${dir}/shut/f`);
    t.file(`${dir}/open/f`);
    t.as(ALICE, () => {
      t.refuses("EACCES", () => sys.rename(`${dir}/shut/f`, `${dir}/open/g`));
      t.refuses("EACCES", () => sys.rename(`${dir}/open/f`, `${dir}/shut/g`));
      sys.rename(`${dir}/open/f`, `${dir}/open/g`);
    });
    assert.deepEqual(t.names(`${dir}/open`), ["g"]);
    assert.deepEqual(t.names(`${dir}/shut`), ["f"]);
  },
  "moving a directory to another parent needs write permission on the directory itself": (dir, t) => {
    for (const name of ["x", "y"]) {
      sys.mkdir(`${dir}/${name}`);
      sys.chmod(`${dir}/${name}`, 0o777);
    }
    sys.mkdir(`${dir}/x/d`);
    t.as(ALICE, () => {
      t.refuses("EACCES", () => sys.rename(`${dir}/x/d`, `${dir}/y/d`));
      sys.rename(`${dir}/x/d`, `${dir}/x/e`);
    });
    assert.deepEqual(t.names(`${dir}/x`), ["e"]);
  },
  "in a sticky directory only the owners rename, over and away": (dir, t) => {
    t.needsRoot();
    sys.mkdir(`${dir}/s`);
    sys.chmod(`${dir}/s`, 0o1777);
    t.as(ALICE, () => t.file(`${dir}/s/alice`));
    t.as(BOB, () => {
      t.file(`${dir}/s/bob`);
      t.refuses(["EPERM", "EACCES"], () => sys.rename(`${dir}/s/alice`, `${dir}/s/x`));
      t.refuses(["EPERM", "EACCES"], () => sys.rename(`${dir}/s/bob`, `${dir}/s/alice`));
      sys.rename(`${dir}/s/bob`, `${dir}/s/bob2`);
    });
    assert.deepEqual(t.names(`${dir}/s`), ["alice", "bob2"]);
  },
  "a file moved into a set-group-ID directory keeps its own group": (dir, t) => {
    t.needsRoot();
    sys.mkdir(`${dir}/g`);
    sys.chown(`${dir}/g`, -1, SHARED_GID);
    sys.chmod(`${dir}/g`, 0o2777);
    sys.chmod(dir, 0o777);
    t.as(ALICE_SHARED, () => {
      t.file(`${dir}/f`);
      sys.rename(`${dir}/f`, `${dir}/g/f`);
    });
    assert.equal(sys.lstat(`${dir}/g/f`).gid, ALICE.gid);
  },
};

export const renameFlags: Cases = {
  "RENAME_NOREPLACE moves to a free name and is EEXIST over anything": (dir, t) => {
    t.file(`${dir}/a`, "a");
    t.file(`${dir}/b`, "b");
    sys.mkdir(`${dir}/d`);
    sys.symlink("no", `${dir}/l`);
    for (const name of "bdla") {
      t.refuses("EEXIST", () => sys.rename(`${dir}/a`, `${dir}/${name}`, RENAME.NOREPLACE));
    }
    assert.equal(t.text(`${dir}/b`), "b");
    sys.rename(`${dir}/a`, `${dir}/free`, RENAME.NOREPLACE);
    assert.equal(t.text(`${dir}/free`), "a");
    assert.deepEqual(t.names(dir), ["b", "d", "free", "l"]);
    t.refuses("ENOENT", () => sys.rename(`${dir}/no`, `${dir}/x`, RENAME.NOREPLACE));
  },
  "RENAME_NOREPLACE of a directory below itself is EINVAL": (dir, t) => {
    sys.mkdir(`${dir}/d`);
    t.refuses("EINVAL", () => sys.rename(`${dir}/d`, `${dir}/d/e`, RENAME.NOREPLACE));
  },
  "RENAME_EXCHANGE swaps two files": (dir, t) => {
    t.file(`${dir}/a`, "was a");
    t.file(`${dir}/b`, "was b");
    const [a, b] = [sys.lstat(`${dir}/a`), sys.lstat(`${dir}/b`)];
    t.tick();
    sys.rename(`${dir}/a`, `${dir}/b`, RENAME.EXCHANGE);
    assert.equal(t.text(`${dir}/a`), "was b");
    assert.equal(t.text(`${dir}/b`), "was a");
    assert.equal(sys.lstat(`${dir}/a`).ino, b.ino);
    assert.ok(sys.lstat(`${dir}/a`).ctimeNs > b.ctimeNs, "ctime of b");
    assert.ok(sys.lstat(`${dir}/b`).ctimeNs > a.ctimeNs, "ctime of a");
  },
  "RENAME_EXCHANGE swaps a file and a directory of different parents, with their link counts": (dir, t) => {
    sys.mkdir(`${dir}/x`);
    sys.mkdir(`${dir}/y`);
    t.file(`${dir}/x/f`, "file");
    sys.mkdir(`${dir}/y/d`);
    t.file(`${dir}/y/d/g`, "inside");
    sys.rename(`${dir}/x/f`, `${dir}/y/d`, RENAME.EXCHANGE);
    assert.equal(t.text(`${dir}/y/d`), "file");
    assert.equal(t.text(`${dir}/x/f/g`), "inside");
    assert.equal(sys.lstat(`${dir}/x`).nlink, 3);
    assert.equal(sys.lstat(`${dir}/y`).nlink, 2);
    assert.equal(sys.lstat(`${dir}/x/f/..`).ino, sys.lstat(`${dir}/x`).ino);
  },
  "RENAME_EXCHANGE swaps directories with content, of different parents": (dir, t) => {
    for (const name of ["x", "y", "x/a", "y/b", "x/a/in-a"]) sys.mkdir(`${dir}/${name}`);
    t.file(`${dir}/y/b/in-b`);
    sys.rename(`${dir}/x/a`, `${dir}/y/b`, RENAME.EXCHANGE);
    assert.deepEqual(t.names(`${dir}/x/a`), ["in-b"]);
    assert.deepEqual(t.names(`${dir}/y/b`), ["in-a"]);
    assert.equal(sys.lstat(`${dir}/y/b/..`).ino, sys.lstat(`${dir}/y`).ino);
    assert.equal(sys.lstat(`${dir}/x/a/..`).ino, sys.lstat(`${dir}/x`).ino);
    assert.equal(sys.lstat(`${dir}/x`).nlink, 3);
    assert.equal(sys.lstat(`${dir}/y`).nlink, 3);
  },
  "RENAME_EXCHANGE swaps a symlink with what it points to": (dir, t) => {
    t.file(`${dir}/f`, "x");
    sys.symlink("f", `${dir}/l`);
    sys.rename(`${dir}/l`, `${dir}/f`, RENAME.EXCHANGE);
    assert.equal(sys.readlink(`${dir}/f`).toString(), "f");
    assert.equal(t.text(`${dir}/l`), "x");
  },
  "RENAME_EXCHANGE with a missing side is ENOENT and changes nothing": (dir, t) => {
    t.file(`${dir}/a`);
    t.refuses("ENOENT", () => sys.rename(`${dir}/a`, `${dir}/no`, RENAME.EXCHANGE));
    t.refuses("ENOENT", () => sys.rename(`${dir}/no`, `${dir}/a`, RENAME.EXCHANGE));
    assert.deepEqual(t.names(dir), ["a"]);
  },
  "RENAME_EXCHANGE of a directory with anything below it is EINVAL, from both sides": (dir, t) => {
    sys.mkdir(`${dir}/d`);
    sys.mkdir(`${dir}/d/e`);
    t.file(`${dir}/d/e/f`);
    t.refuses("EINVAL", () => sys.rename(`${dir}/d`, `${dir}/d/e`, RENAME.EXCHANGE));
    t.refuses(["EINVAL", "ENOTEMPTY"], () => sys.rename(`${dir}/d/e`, `${dir}/d`, RENAME.EXCHANGE));
    t.refuses(["EINVAL", "ENOTEMPTY"], () => sys.rename(`${dir}/d/e/f`, `${dir}/d`, RENAME.EXCHANGE));
    assert.deepEqual(t.names(`${dir}/d/e`), ["f"]);
  },
  "RENAME_EXCHANGE of two links of one file, and of a name with itself, changes nothing": (dir, t) => {
    t.file(`${dir}/a`, "x");
    sys.link(`${dir}/a`, `${dir}/b`);
    sys.rename(`${dir}/a`, `${dir}/b`, RENAME.EXCHANGE);
    sys.rename(`${dir}/a`, `${dir}/a`, RENAME.EXCHANGE);
    assert.deepEqual(t.names(dir), ["a", "b"]);
    assert.equal(sys.lstat(`${dir}/a`).nlink, 2);
  },
  "unknown flags, and NOREPLACE with EXCHANGE, are EINVAL": (dir, t) => {
    t.file(`${dir}/a`);
    t.file(`${dir}/b`);
    t.refuses("EINVAL", () => sys.rename(`${dir}/a`, `${dir}/b`, RENAME.EXCHANGE | RENAME.NOREPLACE));
    t.refuses("EINVAL", () => sys.rename(`${dir}/a`, `${dir}/b`, 0x40));
    t.refuses("EINVAL", () => sys.rename(`${dir}/a`, `${dir}/b`, RENAME.WHITEOUT | RENAME.EXCHANGE));
    assert.deepEqual(t.names(dir), ["a", "b"]);
  },
  "RENAME_WHITEOUT is EINVAL, and plain rename works afterwards": (dir, t) => {
    t.controlLacks("refusal of RENAME_WHITEOUT");
    t.file(`${dir}/a`, "x");
    t.refuses("EINVAL", () => sys.rename(`${dir}/a`, `${dir}/b`, RENAME.WHITEOUT));
    sys.rename(`${dir}/a`, `${dir}/b`);
    t.file(`${dir}/a`, "y");
    sys.rename(`${dir}/a`, `${dir}/b`, RENAME.EXCHANGE);
    assert.equal(t.text(`${dir}/a`), "x");
  },
  "RENAME_EXCHANGE in a sticky directory needs both to be one's own": (dir, t) => {
    t.needsRoot();
    sys.chmod(dir, 0o1777);
    t.as(ALICE, () => t.file(`${dir}/a`, "a"));
    t.as(BOB, () => {
      t.file(`${dir}/b`, "b");
      t.refuses(["EPERM", "EACCES"], () => sys.rename(`${dir}/b`, `${dir}/a`, RENAME.EXCHANGE));
    });
    assert.equal(t.text(`${dir}/a`), "a");
  },
};
