/** What a directory holds and how it gets there: lookup, mknod, mkdir, symlink, link, unlink, rmdir. */
import assert from "node:assert/strict";
import { AT_SYMLINK_FOLLOW, makedev, O, S, SLNK, SREG, SSOCK, sys } from "../helpers/libc.ts";
import { ALICE, BOB, type Cases, type Tools } from "./tools.ts";

const DIR_TYPE = S.DIR;

export const lookup: Cases = {
  "a missing name is ENOENT, in any place of the path": (dir, t) => {
    t.refuses("ENOENT", () => sys.lstat(`${dir}/no`));
    t.refuses("ENOENT", () => sys.lstat(`${dir}/no/x`));
    t.refuses("ENOENT", () => sys.open(`${dir}/no`, O.RDONLY));
    t.refuses("ENOENT", () => sys.lstat(""));
  },
  "a path through a file is ENOTDIR": (dir, t) => {
    t.file(`${dir}/f`, "x");
    t.refuses("ENOTDIR", () => sys.lstat(`${dir}/f/x`));
    t.refuses("ENOTDIR", () => sys.lstat(`${dir}/f/`));
    t.refuses("ENOTDIR", () => sys.lstat(`${dir}/f/..`));
    t.refuses("ENOTDIR", () => sys.lstat(`${dir}/f/.`));
  },
  "a name that was missing is found as soon as it is made, however it is made": (dir, t) => {
    const made: Record<string, (path: string) => void> = {
      open: (path) => t.file(path),
      mknod: (path) => sys.mknod(path, SREG | 0o644),
      mkdir: (path) => sys.mkdir(path),
      symlink: (path) => sys.symlink("x", path),
      link: (path) => sys.link(`${dir}/open`, path),
      rename: (path) => sys.rename(`${dir}/mknod`, path),
    };
    for (const [name, make] of Object.entries(made)) {
      const path = `${dir}/${name}`;
      t.refuses("ENOENT", () => sys.lstat(path));
      t.refuses("ENOENT", () => sys.lstat(path));
      make(path);
      assert.ok(sys.lstat(path).ino > 0n, name);
    }
  },
  "a name that was found is ENOENT as soon as it is gone, however it goes": (dir, t) => {
    t.file(`${dir}/a`);
    t.file(`${dir}/b`);
    sys.mkdir(`${dir}/d`);
    for (const name of "abd") sys.lstat(`${dir}/${name}`);
    sys.unlink(`${dir}/a`);
    sys.rename(`${dir}/b`, `${dir}/c`);
    sys.rmdir(`${dir}/d`);
    for (const name of "abd") t.refuses("ENOENT", () => sys.lstat(`${dir}/${name}`));
  },
  '"." and ".." lead to the directory itself and to its parent': (dir) => {
    sys.mkdir(`${dir}/a`);
    sys.mkdir(`${dir}/a/b`);
    assert.equal(sys.lstat(`${dir}/a/.`).ino, sys.lstat(`${dir}/a`).ino);
    assert.equal(sys.lstat(`${dir}/a/b/..`).ino, sys.lstat(`${dir}/a`).ino);
    assert.equal(sys.lstat(`${dir}/a/b/../..`).ino, sys.lstat(dir).ino);
  },
  "a new file is a regular file of size 0 with one link, owned by who made it": (dir, t) => {
    t.file(`${dir}/f`);
    const stat = sys.lstat(`${dir}/f`);
    assert.equal(stat.type, SREG);
    assert.equal(stat.perm, 0o644);
    assert.equal(stat.nlink, 1);
    assert.equal(stat.size, 0);
    assert.equal(stat.blocks, 0);
    assert.equal(stat.uid, process.geteuid?.());
    assert.equal(stat.gid, process.getegid?.());
  },
  "entries have inode numbers of their own, and d_ino and d_type agree with stat": (dir, t) => {
    t.file(`${dir}/file`);
    sys.mkdir(`${dir}/dir`);
    sys.symlink("x", `${dir}/link`);
    sys.mknod(`${dir}/fifo`, S.FIFO | 0o600);
    sys.mknod(`${dir}/sock`, SSOCK | 0o600);
    const entries = sys.readdir(dir).filter((entry) => !entry.name.startsWith("."));
    assert.equal(entries.length, 5);
    for (const entry of entries) {
      const stat = sys.lstat(`${dir}/${entry.name}`);
      assert.equal(entry.ino, stat.ino, `d_ino of ${entry.name}`);
      assert.equal(entry.type, stat.type >> 12, `d_type of ${entry.name}`);
    }
    assert.equal(new Set(entries.map((entry) => entry.ino)).size, 5);
  },
  "an inode number stays through rename, chmod, write and link": (dir, t) => {
    t.file(`${dir}/f`, "x");
    const { ino } = sys.lstat(`${dir}/f`);
    sys.chmod(`${dir}/f`, 0o600);
    t.file(`${dir}/f`, "longer");
    sys.rename(`${dir}/f`, `${dir}/g`);
    sys.link(`${dir}/g`, `${dir}/h`);
    sys.unlink(`${dir}/g`);
    assert.equal(sys.lstat(`${dir}/h`).ino, ino);
  },
  "names differing only in case are different": (dir, t) => {
    t.file(`${dir}/name`, "lower");
    t.file(`${dir}/NAME`, "upper");
    assert.deepEqual(t.names(dir), ["NAME", "name"]);
    assert.equal(t.text(`${dir}/name`), "lower");
  },
  "a file is found through a symlink to its directory, and is the same file": (dir, t) => {
    sys.mkdir(`${dir}/d`);
    sys.symlink("d", `${dir}/s`);
    t.file(`${dir}/s/f`, "x");
    assert.equal(sys.lstat(`${dir}/d/f`).ino, sys.lstat(`${dir}/s/f`).ino);
  },
  "a birth time is told and stays when everything else changes": (dir, t) => {
    t.needsKernel(6, 6);
    t.controlLacks("birth time", () => sys.lstat(dir).btimeNs !== undefined);
    t.file(`${dir}/f`, "x");
    const born = sys.lstat(`${dir}/f`).btimeNs;
    assert.ok(born !== undefined, "no birth time");
    t.recent(born, "birth time");
    t.tick();
    t.file(`${dir}/f`, "other");
    sys.chmod(`${dir}/f`, 0o600);
    sys.utimens(`${dir}/f`, 0n, 0n);
    sys.rename(`${dir}/f`, `${dir}/g`);
    assert.equal(sys.lstat(`${dir}/g`).btimeNs, born);
  },
};

function needsHandles(dir: string, t: Tools): void {
  t.needsRoot();
  t.controlLacks("file handles", () => {
    try {
      sys.handleOf(dir);
      return true;
    } catch {
      return false;
    }
  });
}

export const fileHandles: Cases = {
  "a handle finds its file after rename, and its directory": (dir, t) => {
    needsHandles(dir, t);
    sys.mkdir(`${dir}/d`);
    t.file(`${dir}/d/f`, "found");
    const [file, directory] = [sys.handleOf(`${dir}/d/f`), sys.handleOf(`${dir}/d`)];
    sys.rename(`${dir}/d/f`, `${dir}/g`);
    t.using(dir, O.RDONLY | O.DIRECTORY, (mount) => {
      const fd = sys.openHandle(mount, file, O.RDWR);
      assert.equal(t.readFd(fd).toString(), "found");
      assert.equal(sys.fstat(fd).ino, sys.lstat(`${dir}/g`).ino);
      sys.close(fd);
      const dirFd = sys.openHandle(mount, directory, O.RDONLY | O.DIRECTORY);
      sys.close(sys.openat(dirFd, "made by handle", O.WRONLY | O.CREAT));
      sys.close(dirFd);
    });
    assert.deepEqual(t.names(`${dir}/d`), ["made by handle"]);
  },
  "the handle of a file that is gone is ESTALE, whatever is made afterwards": (dir, t) => {
    needsHandles(dir, t);
    t.file(`${dir}/f`, "old");
    const handle = sys.handleOf(`${dir}/f`);
    sys.unlink(`${dir}/f`);
    for (let i = 0; i < 20; i++) t.file(`${dir}/f${i}`, "new");
    t.using(dir, O.RDONLY | O.DIRECTORY, (mount) => {
      t.refuses("ESTALE", () => sys.openHandle(mount, handle, O.RDONLY));
    });
  },
  "handles of different files differ, of one file they are the same": (dir, t) => {
    needsHandles(dir, t);
    t.file(`${dir}/a`);
    t.file(`${dir}/b`);
    sys.link(`${dir}/a`, `${dir}/c`);
    assert.notDeepEqual(sys.handleOf(`${dir}/a`), sys.handleOf(`${dir}/b`));
    assert.deepEqual(sys.handleOf(`${dir}/a`), sys.handleOf(`${dir}/c`));
  },
};

export const mknod: Cases = {
  "mknod makes an empty regular file that can be written": (dir, t) => {
    sys.mknod(`${dir}/f`, SREG | 0o640);
    assert.equal(sys.lstat(`${dir}/f`).perm, 0o640);
    assert.equal(sys.lstat(`${dir}/f`).type, SREG);
    t.using(`${dir}/f`, O.WRONLY, (fd) => sys.write(fd, "data"));
    assert.equal(t.text(`${dir}/f`), "data");
  },
  "mknod without a type makes a regular file": (dir) => {
    sys.mknod(`${dir}/f`, 0o600);
    assert.equal(sys.lstat(`${dir}/f`).type, SREG);
  },
  "mknod makes a fifo, and bytes pass through it": (dir) => {
    sys.mknod(`${dir}/p`, S.FIFO | 0o620);
    const stat = sys.lstat(`${dir}/p`);
    assert.equal(stat.type, S.FIFO);
    assert.equal(stat.perm, 0o600);
    const reader = sys.open(`${dir}/p`, O.RDONLY | O.NONBLOCK);
    const writer = sys.open(`${dir}/p`, O.WRONLY | O.NONBLOCK);
    sys.write(writer, "through");
    assert.equal(sys.read(reader, 100).toString(), "through");
    sys.close(writer);
    assert.equal(sys.read(reader, 100).length, 0);
    sys.close(reader);
    assert.equal(sys.lstat(`${dir}/p`).size, 0);
  },
  "opening a fifo for writing with nobody reading is ENXIO": (dir, t) => {
    sys.mknod(`${dir}/p`, S.FIFO | 0o600);
    t.refuses("ENXIO", () => sys.open(`${dir}/p`, O.WRONLY | O.NONBLOCK));
  },
  "mknod makes a socket node, which cannot be opened": (dir, t) => {
    sys.mknod(`${dir}/s`, SSOCK | 0o600);
    assert.equal(sys.lstat(`${dir}/s`).type, SSOCK);
    t.refuses("ENXIO", () => sys.open(`${dir}/s`, O.RDONLY));
  },
  "a bound Unix socket is reached by its name until it is unlinked": (dir, t) => {
    const said = t.python(
      dir,
      `
a = socket.socket(socket.AF_UNIX); a.bind("s"); a.listen(1)
b = socket.socket(socket.AF_UNIX); b.connect("s"); b.send(b"hi")
c, _ = a.accept()
print(c.recv(10).decode(), stat.S_ISSOCK(os.lstat("s").st_mode))
d = socket.socket(socket.AF_UNIX)
print(errno_of(d.bind, "s"))
os.unlink("s")
print(errno_of(socket.socket(socket.AF_UNIX).connect, "s"))
`,
    );
    assert.equal(said, "hi True\nEADDRINUSE\nENOENT");
  },
  "character and block devices keep their numbers": (dir, t) => {
    t.needsRoot();
    sys.mknod(`${dir}/c`, S.CHR | 0o600, makedev(0xabc, 0x12345));
    sys.mknod(`${dir}/b`, S.BLK | 0o640, makedev(7, 300));
    const chr = sys.lstat(`${dir}/c`);
    const blk = sys.lstat(`${dir}/b`);
    assert.equal(chr.type, S.CHR);
    assert.deepEqual(chr.rdev, [0xabc, 0x12345]);
    assert.equal(blk.type, S.BLK);
    assert.deepEqual(blk.rdev, [7, 300]);
    assert.equal(chr.size, 0);
  },
  "mknod of a device by an ordinary user is EPERM and makes nothing": (dir, t) => {
    sys.chmod(dir, 0o777);
    t.as(ALICE, () => {
      t.refuses("EPERM", () => sys.mknod(`${dir}/c`, S.CHR | 0o600, makedev(1, 3)));
      t.refuses("EPERM", () => sys.mknod(`${dir}/b`, S.BLK | 0o600, makedev(7, 0)));
      sys.mknod(`${dir}/p`, S.FIFO | 0o600);
    });
    assert.deepEqual(t.names(dir), ["p"]);
    assert.equal(sys.lstat(`${dir}/p`).uid, ALICE.uid);
  },
  "mknod over anything is EEXIST": (dir, t) => {
    t.file(`${dir}/f`, "kept");
    sys.mkdir(`${dir}/d`);
    sys.symlink("dangling", `${dir}/l`);
    for (const name of "fdl") t.refuses("EEXIST", () => sys.mknod(`${dir}/${name}`, S.FIFO | 0o600));
    assert.equal(t.text(`${dir}/f`), "kept");
    assert.deepEqual(t.names(dir), ["d", "f", "l"]);
  },
  "mknod in a missing directory is ENOENT, below a file ENOTDIR": (dir, t) => {
    t.file(`${dir}/f`);
    t.refuses("ENOENT", () => sys.mknod(`${dir}/no/x`, SREG | 0o600));
    t.refuses("ENOTDIR", () => sys.mknod(`${dir}/f/x`, SREG | 0o600));
  },
  "mknod of a directory or a symlink is refused": (dir, t) => {
    t.refuses(["EPERM", "EINVAL"], () => sys.mknod(`${dir}/d`, S.DIR | 0o755));
    t.refuses(["EPERM", "EINVAL"], () => sys.mknod(`${dir}/l`, SLNK | 0o755));
    assert.deepEqual(t.names(dir), []);
  },
  "mknod keeps set-id and sticky bits of the mode": (dir) => {
    sys.mknod(`${dir}/f`, SREG | 0o4755);
    assert.equal(sys.lstat(`${dir}/f`).perm, 0o4755);
    sys.mknod(`${dir}/g`, SREG | 0o1644);
    assert.equal(sys.lstat(`${dir}/g`).perm, 0o1644);
  },
};

export const mkdir: Cases = {
  "mkdir makes an empty directory with two links": (dir, t) => {
    sys.mkdir(`${dir}/d`, 0o750);
    const stat = sys.lstat(`${dir}/d`);
    assert.equal(stat.type, DIR_TYPE);
    assert.equal(stat.perm, 0o750);
    assert.equal(stat.nlink, 2);
    assert.deepEqual(t.names(`${dir}/d`), []);
  },
  "a directory has one link more for each directory in it, and for nothing else": (dir, t) => {
    for (let i = 1; i <= 5; i++) {
      sys.mkdir(`${dir}/d${i}`);
      assert.equal(sys.lstat(dir).nlink, 2 + i);
    }
    t.file(`${dir}/f`);
    sys.symlink("d1", `${dir}/l`);
    assert.equal(sys.lstat(dir).nlink, 7);
    sys.rmdir(`${dir}/d3`);
    assert.equal(sys.lstat(dir).nlink, 6);
  },
  "mkdir over anything is EEXIST, a dangling symlink and itself too": (dir, t) => {
    t.file(`${dir}/f`);
    sys.mkdir(`${dir}/d`);
    sys.symlink("no", `${dir}/l`);
    for (const name of ["f", "d", "l", ".", "d/", "d/."]) {
      t.refuses("EEXIST", () => sys.mkdir(`${dir}/${name}`));
    }
    assert.equal(sys.lstat(dir).nlink, 3);
  },
  "mkdir in a missing directory is ENOENT, below a file ENOTDIR": (dir, t) => {
    t.file(`${dir}/f`);
    t.refuses("ENOENT", () => sys.mkdir(`${dir}/no/d`));
    t.refuses("ENOTDIR", () => sys.mkdir(`${dir}/f/d`));
  },
  "mkdir takes a trailing slash": (dir) => {
    sys.mkdir(`${dir}/d/`);
    assert.equal(sys.lstat(`${dir}/d`).type, DIR_TYPE);
  },
  "mkdir keeps the sticky bit and drops set-id bits of the mode": (dir) => {
    sys.umask(0);
    sys.mkdir(`${dir}/d`, 0o7777);
    assert.equal(sys.lstat(`${dir}/d`).perm, 0o1777);
  },
  "mkdir without write permission is EACCES": (dir, t) => {
    t.as(ALICE, () => t.refuses("EACCES", () => sys.mkdir(`${dir}/d`)));
    assert.deepEqual(t.names(dir), []);
  },
  "directories nest two hundred deep and are walked back up": (dir) => {
    let path = dir;
    for (let i = 0; i < 200; i++) {
      path += "/d";
      sys.mkdir(path);
    }
    const fd = sys.open(path, O.RDONLY | O.DIRECTORY);
    sys.mkdirat(fd, "leaf");
    sys.close(fd);
    assert.equal(sys.lstat(`${path}${"/..".repeat(200)}`).ino, sys.lstat(dir).ino);
    assert.equal(sys.lstat(`${path}/leaf`).type, DIR_TYPE);
  },
};

export const symlink: Cases = {
  "a symlink keeps its target's bytes, which need not be text": (dir, t) => {
    const target = Buffer.from([0xff, 0xfe, 0x2f, 0x41, 0xc3, 0x28, 0x0a]);
    sys.symlink(target, `${dir}/l`);
    t.same(sys.readlink(`${dir}/l`), target, "target");
    assert.equal(sys.lstat(`${dir}/l`).size, target.length);
    assert.equal(sys.lstat(`${dir}/l`).type, SLNK);
    assert.equal(sys.lstat(`${dir}/l`).perm, 0o777);
  },
  "a target of 4,095 bytes is kept, one of 4,096 is ENAMETOOLONG, an empty one ENOENT": (dir, t) => {
    const target = "x".repeat(4095);
    sys.symlink(target, `${dir}/l`);
    assert.equal(sys.readlink(`${dir}/l`).toString(), target);
    assert.equal(sys.lstat(`${dir}/l`).size, 4095);
    t.refuses("ENAMETOOLONG", () => sys.symlink(`${target}x`, `${dir}/m`));
    t.refuses("ENOENT", () => sys.symlink("", `${dir}/n`));
    assert.deepEqual(t.names(dir), ["l"]);
  },
  "readlink of what is no symlink is EINVAL": (dir, t) => {
    t.file(`${dir}/f`);
    t.refuses("EINVAL", () => sys.readlink(`${dir}/f`));
    t.refuses("EINVAL", () => sys.readlink(dir));
    t.refuses("ENOENT", () => sys.readlink(`${dir}/no`));
  },
  "readlink into little room gives the first bytes": (dir) => {
    sys.symlink("0123456789", `${dir}/l`);
    assert.equal(sys.readlink(`${dir}/l`, 4).toString(), "0123");
  },
  "symlink over anything is EEXIST": (dir, t) => {
    t.file(`${dir}/f`);
    sys.mkdir(`${dir}/d`);
    sys.symlink("a", `${dir}/l`);
    for (const name of "fdl") t.refuses("EEXIST", () => sys.symlink("b", `${dir}/${name}`));
    assert.equal(sys.readlink(`${dir}/l`).toString(), "a");
  },
  "a dangling symlink is ENOENT to follow and there to look at": (dir, t) => {
    sys.symlink("no", `${dir}/l`);
    t.refuses("ENOENT", () => sys.stat(`${dir}/l`));
    t.refuses("ENOENT", () => sys.open(`${dir}/l`, O.RDONLY));
    assert.equal(sys.lstat(`${dir}/l`).nlink, 1);
  },
  "symlinks in a circle are ELOOP, and forty in a row are followed": (dir, t) => {
    sys.symlink("b", `${dir}/a`);
    sys.symlink("a", `${dir}/b`);
    sys.symlink("self", `${dir}/self`);
    t.refuses("ELOOP", () => sys.stat(`${dir}/a`));
    t.refuses("ELOOP", () => sys.open(`${dir}/self`, O.RDONLY));
    t.refuses("ELOOP", () => sys.stat(`${dir}/self/x`));
    t.file(`${dir}/l0`, "end");
    for (let i = 1; i <= 41; i++) sys.symlink(`l${i - 1}`, `${dir}/l${i}`);
    assert.equal(t.text(`${dir}/l40`), "end");
    t.refuses("ELOOP", () => sys.stat(`${dir}/l41`));
  },
  "a relative target is followed from the symlink's own directory": (dir, t) => {
    sys.mkdir(`${dir}/a`);
    sys.mkdir(`${dir}/a/b`);
    t.file(`${dir}/a/f`, "right");
    t.file(`${dir}/f`, "wrong");
    sys.symlink("../f", `${dir}/a/b/l`);
    assert.equal(t.text(`${dir}/a/b/l`), "right");
    sys.rename(`${dir}/a/b/l`, `${dir}/a/l`);
    assert.equal(t.text(`${dir}/a/l`), "wrong");
  },
  "a symlink that is replaced leads to the new target at once": (dir, t) => {
    t.file(`${dir}/a`, "old");
    t.file(`${dir}/b`, "new");
    sys.symlink("a", `${dir}/l`);
    assert.equal(t.text(`${dir}/l`), "old");
    sys.symlink("b", `${dir}/l2`);
    sys.rename(`${dir}/l2`, `${dir}/l`);
    assert.equal(sys.readlink(`${dir}/l`).toString(), "b");
    assert.equal(t.text(`${dir}/l`), "new");
    sys.unlink(`${dir}/l`);
    sys.symlink("a", `${dir}/l`);
    assert.equal(t.text(`${dir}/l`), "old");
  },
  "a symlink has an owner of its own": (dir, t) => {
    t.needsRoot();
    t.file(`${dir}/f`);
    sys.symlink("f", `${dir}/l`);
    sys.lchown(`${dir}/l`, 12001, 12002);
    assert.equal(sys.lstat(`${dir}/l`).uid, 12001);
    assert.equal(sys.lstat(`${dir}/l`).gid, 12002);
    assert.equal(sys.lstat(`${dir}/f`).uid, 0);
    sys.chown(`${dir}/l`, 12003, -1);
    assert.equal(sys.lstat(`${dir}/f`).uid, 12003);
    assert.equal(sys.lstat(`${dir}/l`).uid, 12001);
  },
  "a symlink is not followed where O_NOFOLLOW is set": (dir, t) => {
    t.file(`${dir}/f`);
    sys.symlink("f", `${dir}/l`);
    t.refuses("ELOOP", () => sys.open(`${dir}/l`, O.RDONLY | O.NOFOLLOW));
  },
};

export const link: Cases = {
  "a hard link is the same inode, with one link more": (dir, t) => {
    t.file(`${dir}/a`, "one");
    sys.link(`${dir}/a`, `${dir}/b`);
    assert.equal(sys.lstat(`${dir}/a`).ino, sys.lstat(`${dir}/b`).ino);
    assert.equal(sys.lstat(`${dir}/a`).nlink, 2);
    assert.equal(sys.lstat(`${dir}/b`).nlink, 2);
    t.file(`${dir}/b`, "two!");
    assert.equal(t.text(`${dir}/a`), "two!");
    assert.equal(sys.lstat(`${dir}/a`).size, 4);
    sys.unlink(`${dir}/a`);
    assert.equal(sys.lstat(`${dir}/b`).nlink, 1);
    assert.equal(t.text(`${dir}/b`), "two!");
  },
  "a file has as many links as names, in many directories": (dir, t) => {
    t.file(`${dir}/f`, "x");
    for (let i = 0; i < 60; i++) {
      sys.mkdir(`${dir}/d${i}`);
      sys.link(`${dir}/f`, `${dir}/d${i}/l`);
    }
    assert.equal(sys.lstat(`${dir}/f`).nlink, 61);
    for (let i = 0; i < 60; i += 2) sys.unlink(`${dir}/d${i}/l`);
    assert.equal(sys.lstat(`${dir}/d59/l`).nlink, 31);
  },
  "a hard link to a directory is EPERM": (dir, t) => {
    sys.mkdir(`${dir}/d`);
    t.refuses("EPERM", () => sys.link(`${dir}/d`, `${dir}/e`));
    assert.deepEqual(t.names(dir), ["d"]);
    assert.equal(sys.lstat(`${dir}/d`).nlink, 2);
  },
  "link over anything is EEXIST, also over itself": (dir, t) => {
    t.file(`${dir}/f`);
    t.file(`${dir}/g`, "kept");
    sys.mkdir(`${dir}/d`);
    sys.symlink("no", `${dir}/l`);
    for (const name of "fgdl") t.refuses("EEXIST", () => sys.link(`${dir}/f`, `${dir}/${name}`));
    assert.equal(sys.lstat(`${dir}/f`).nlink, 1);
    assert.equal(t.text(`${dir}/g`), "kept");
  },
  "link of what is missing, or into what is missing, is ENOENT; below a file ENOTDIR": (dir, t) => {
    t.file(`${dir}/f`);
    t.refuses("ENOENT", () => sys.link(`${dir}/no`, `${dir}/g`));
    t.refuses("ENOENT", () => sys.link(`${dir}/f`, `${dir}/no/g`));
    t.refuses("ENOTDIR", () => sys.link(`${dir}/f`, `${dir}/f/g`));
    t.refuses("ENOTDIR", () => sys.link(`${dir}/f/x`, `${dir}/g`));
    assert.equal(sys.lstat(`${dir}/f`).nlink, 1);
  },
  "link of a symlink links the symlink, unless it is asked to follow": (dir, t) => {
    t.file(`${dir}/f`);
    sys.symlink("f", `${dir}/s`);
    sys.link(`${dir}/s`, `${dir}/s2`);
    assert.equal(sys.lstat(`${dir}/s2`).type, SLNK);
    assert.equal(sys.lstat(`${dir}/s`).nlink, 2);
    sys.link(`${dir}/s`, `${dir}/f2`, AT_SYMLINK_FOLLOW);
    assert.equal(sys.lstat(`${dir}/f2`).ino, sys.lstat(`${dir}/f`).ino);
    t.refuses("ENOENT", () => {
      sys.symlink("no", `${dir}/dangling`);
      sys.link(`${dir}/dangling`, `${dir}/f3`, AT_SYMLINK_FOLLOW);
    });
  },
  "fifos, sockets and devices can be linked": (dir, t) => {
    sys.mknod(`${dir}/p`, S.FIFO | 0o600);
    sys.mknod(`${dir}/s`, SSOCK | 0o600);
    sys.link(`${dir}/p`, `${dir}/p2`);
    sys.link(`${dir}/s`, `${dir}/s2`);
    if (t.root) {
      sys.mknod(`${dir}/c`, S.CHR | 0o600, makedev(1, 3));
      sys.link(`${dir}/c`, `${dir}/c2`);
      assert.deepEqual(sys.lstat(`${dir}/c2`).rdev, [1, 3]);
    }
    assert.equal(sys.lstat(`${dir}/p2`).nlink, 2);
    assert.equal(sys.lstat(`${dir}/s2`).type, SSOCK);
  },
  "link without write permission on the directory is EACCES": (dir, t) => {
    sys.mkdir(`${dir}/mine`);
    sys.chmod(`${dir}/mine`, 0o777);
    t.as(ALICE, () => {
      t.file(`${dir}/mine/f`);
      t.refuses("EACCES", () => sys.link(`${dir}/mine/f`, `${dir}/g`));
    });
    assert.equal(sys.lstat(`${dir}/mine/f`).nlink, 1);
  },
  "a name that was linked and unlinked a hundred times leaves the count right": (dir, t) => {
    t.file(`${dir}/f`, "x");
    for (let i = 0; i < 100; i++) {
      sys.link(`${dir}/f`, `${dir}/g`);
      sys.unlink(`${dir}/${i % 2 ? "f" : "g"}`);
      if (i % 2) sys.rename(`${dir}/g`, `${dir}/f`);
    }
    assert.equal(sys.lstat(`${dir}/f`).nlink, 1);
    assert.equal(t.text(`${dir}/f`), "x");
  },
};

export const unlink: Cases = {
  "unlink removes a name of every type": (dir, t) => {
    t.file(`${dir}/f`);
    sys.symlink(".", `${dir}/l`);
    sys.mknod(`${dir}/p`, S.FIFO | 0o600);
    sys.mknod(`${dir}/s`, SSOCK | 0o600);
    for (const name of "flps") sys.unlink(`${dir}/${name}`);
    assert.deepEqual(t.names(dir), []);
    t.refuses("ENOENT", () => sys.unlink(`${dir}/f`));
  },
  "unlink of a directory is EISDIR and leaves it": (dir, t) => {
    sys.mkdir(`${dir}/d`);
    t.refuses("EISDIR", () => sys.unlink(`${dir}/d`));
    assert.equal(sys.lstat(`${dir}/d`).nlink, 2);
  },
  "unlink of a missing name is ENOENT, below a file ENOTDIR, with a trailing slash ENOTDIR": (dir, t) => {
    t.file(`${dir}/f`);
    t.refuses("ENOENT", () => sys.unlink(`${dir}/no`));
    t.refuses("ENOTDIR", () => sys.unlink(`${dir}/f/x`));
    t.refuses("ENOTDIR", () => sys.unlink(`${dir}/f/`));
    assert.deepEqual(t.names(dir), ["f"]);
  },
  "unlink of a symlink leaves its target": (dir, t) => {
    t.file(`${dir}/f`, "x");
    sys.symlink("f", `${dir}/l`);
    sys.unlink(`${dir}/l`);
    assert.equal(t.text(`${dir}/f`), "x");
  },
  "unlink without write permission on the directory is EACCES, whoever owns the file": (dir, t) => {
    t.file(`${dir}/f`);
    if (t.root) sys.chown(`${dir}/f`, ALICE.uid, ALICE.gid);
    t.as(ALICE, () => t.refuses("EACCES", () => sys.unlink(`${dir}/f`)));
    assert.deepEqual(t.names(dir), ["f"]);
  },
  "a file of mode 0 that belongs to another is unlinked by who may write the directory": (dir, t) => {
    sys.chmod(dir, 0o777);
    t.file(`${dir}/f`);
    sys.chmod(`${dir}/f`, 0);
    t.as(BOB, () => sys.unlink(`${dir}/f`));
    assert.deepEqual(t.names(dir), []);
  },
  "a name that is made again after unlink is a new file": (dir, t) => {
    t.file(`${dir}/f`, "old content");
    sys.setxattr(`${dir}/f`, "user.old", "x");
    sys.chmod(`${dir}/f`, 0o600);
    sys.unlink(`${dir}/f`);
    t.file(`${dir}/f`);
    assert.equal(t.text(`${dir}/f`), "");
    assert.equal(sys.lstat(`${dir}/f`).perm, 0o644);
    assert.deepEqual(
      sys.listxattr(`${dir}/f`).filter((name) => name.startsWith("user.")),
      [],
    );
  },
};

export const rmdir: Cases = {
  "rmdir removes an empty directory, and the parent's link with it": (dir, t) => {
    sys.mkdir(`${dir}/d`);
    sys.rmdir(`${dir}/d`);
    assert.deepEqual(t.names(dir), []);
    assert.equal(sys.lstat(dir).nlink, 2);
    t.refuses("ENOENT", () => sys.rmdir(`${dir}/d`));
  },
  "rmdir of a directory with anything in it is ENOTEMPTY, and works once that is gone": (dir, t) => {
    sys.mkdir(`${dir}/d`);
    t.file(`${dir}/d/f`);
    t.refuses("ENOTEMPTY", () => sys.rmdir(`${dir}/d`));
    sys.unlink(`${dir}/d/f`);
    sys.mkdir(`${dir}/d/e`);
    t.refuses("ENOTEMPTY", () => sys.rmdir(`${dir}/d`));
    sys.rename(`${dir}/d/e`, `${dir}/e`);
    sys.rmdir(`${dir}/d`);
    assert.deepEqual(t.names(dir), ["e"]);
  },
  "rmdir of a file or of a symlink to a directory is ENOTDIR": (dir, t) => {
    t.file(`${dir}/f`);
    sys.mkdir(`${dir}/d`);
    sys.symlink("d", `${dir}/l`);
    t.refuses("ENOTDIR", () => sys.rmdir(`${dir}/f`));
    t.refuses("ENOTDIR", () => sys.rmdir(`${dir}/l`));
    assert.deepEqual(t.names(dir), ["d", "f", "l"]);
  },
  'rmdir of "." is EINVAL and of ".." is ENOTEMPTY': (dir, t) => {
    sys.mkdir(`${dir}/d`);
    t.refuses("EINVAL", () => sys.rmdir(`${dir}/d/.`));
    t.refuses("ENOTEMPTY", () => sys.rmdir(`${dir}/d/..`));
  },
  "a removed directory that is still open is empty, has no links and takes nothing new": (dir, t) => {
    sys.mkdir(`${dir}/d`);
    const fd = sys.open(`${dir}/d`, O.RDONLY | O.DIRECTORY);
    sys.rmdir(`${dir}/d`);
    assert.equal(sys.fstat(fd).nlink, 0);
    t.refuses("ENOENT", () => sys.openat(fd, "f", O.WRONLY | O.CREAT));
    t.refuses("ENOENT", () => sys.mkdirat(fd, "e"));
    let left: string[] = [];
    try {
      left = sys.getdents(fd).map((entry) => entry.name);
    } catch {
      // ENOENT is as good as an empty list
    }
    assert.deepEqual(
      left.filter((name) => name !== "." && name !== ".."),
      [],
    );
    sys.close(fd);
  },
  "rmdir without write permission on the parent is EACCES": (dir, t) => {
    sys.mkdir(`${dir}/d`);
    sys.chmod(`${dir}/d`, 0o777);
    t.as(ALICE, () => t.refuses("EACCES", () => sys.rmdir(`${dir}/d`)));
    assert.deepEqual(t.names(dir), ["d"]);
  },
  "rmdir of what is missing is ENOENT, below a file ENOTDIR": (dir, t) => {
    t.file(`${dir}/f`);
    t.refuses("ENOENT", () => sys.rmdir(`${dir}/no`));
    t.refuses("ENOTDIR", () => sys.rmdir(`${dir}/f/d`));
  },
  "a process stays in a directory that is removed": (dir, t) => {
    const said = t.python(
      dir,
      `
os.mkdir("d"); os.chdir("d"); os.rmdir("../d")
print(errno_of(os.open, "f", os.O_CREAT | os.O_WRONLY), errno_of(os.getcwd))
os.chdir("..")
print(os.path.basename(os.getcwd()) != "d")
`,
    );
    assert.equal(said, "ENOENT ENOENT\nTrue");
  },
};
