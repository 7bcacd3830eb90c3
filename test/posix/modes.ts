/** Modes, owners, umask, set-id and sticky bits, and who may do what. */
import assert from "node:assert/strict";
import { O, S, SREG, sys } from "../helpers/libc.ts";
import { ALICE, ALICE_SHARED, BOB, type Cases, SHARED_GID, type Tools } from "./tools.ts";

/** A file that belongs to Alice. */
function alices(dir: string, t: Tools, mode: number, gid = ALICE.gid): string {
  t.needsRoot();
  const f = `${dir}/f`;
  t.file(f, "#!/bin/sh\n");
  sys.chown(f, ALICE.uid, gid);
  sys.chmod(f, mode);
  return f;
}

export const chmod: Cases = {
  "chmod sets all twelve bits, of files and directories": (dir, t) => {
    t.needsRoot();
    t.file(`${dir}/f`);
    sys.mkdir(`${dir}/d`);
    for (const mode of [0, 0o7777, 0o4711, 0o2070, 0o1001, 0o644]) {
      sys.chmod(`${dir}/f`, mode);
      sys.chmod(`${dir}/d`, mode);
      assert.equal(sys.lstat(`${dir}/f`).perm, mode);
      assert.equal(sys.lstat(`${dir}/d`).perm, mode);
    }
    assert.equal(sys.lstat(`${dir}/f`).type, SREG);
  },
  "chmod moves ctime and nothing else": (dir, t) => {
    t.file(`${dir}/f`, "x");
    const moved = t.moved(`${dir}/f`, () => sys.chmod(`${dir}/f`, 0o600));
    assert.deepEqual(moved, { atime: false, mtime: false, ctime: true });
  },
  "chmod by another is EPERM, of what is missing ENOENT": (dir, t) => {
    const f = alices(dir, t, 0o644);
    t.as(BOB, () => t.refuses("EPERM", () => sys.chmod(f, 0o777)));
    assert.equal(sys.lstat(f).perm, 0o644);
    t.refuses("ENOENT", () => sys.chmod(`${dir}/no`, 0o600));
    t.refuses("ENOTDIR", () => sys.chmod(`${f}/x`, 0o600));
  },
  "chmod through a symlink changes the target": (dir, t) => {
    t.file(`${dir}/f`);
    sys.symlink("f", `${dir}/l`);
    sys.chmod(`${dir}/l`, 0o611);
    assert.equal(sys.lstat(`${dir}/f`).perm, 0o611);
    assert.equal(sys.lstat(`${dir}/l`).perm, 0o777);
  },
  "chmod by an owner outside the group drops set-group-ID, by a member keeps it": (dir, t) => {
    const f = alices(dir, t, 0o755, SHARED_GID);
    t.as(ALICE, () => sys.chmod(f, 0o2755));
    assert.equal(sys.lstat(f).perm, 0o755);
    t.as(ALICE_SHARED, () => sys.chmod(f, 0o2755));
    assert.equal(sys.lstat(f).perm, 0o2755);
  },
  "the sticky bit on a file by an ordinary user is kept, as Linux does": (dir, t) => {
    const f = alices(dir, t, 0o755);
    t.as(ALICE, () => sys.chmod(f, 0o1755));
    assert.equal(sys.lstat(f).perm, 0o1755);
  },
  "fchmod works on a descriptor opened for reading": (dir, t) => {
    t.file(`${dir}/f`);
    t.using(`${dir}/f`, O.RDONLY, (fd) => sys.fchmod(fd, 0o600));
    assert.equal(sys.lstat(`${dir}/f`).perm, 0o600);
  },
};

export const chown: Cases = {
  "chown sets owner and group, together or one alone": (dir, t) => {
    t.needsRoot();
    t.file(`${dir}/f`);
    sys.chown(`${dir}/f`, 12001, 12002);
    assert.deepEqual([sys.lstat(`${dir}/f`).uid, sys.lstat(`${dir}/f`).gid], [12001, 12002]);
    sys.chown(`${dir}/f`, -1, 12003);
    sys.chown(`${dir}/f`, 12004, -1);
    assert.deepEqual([sys.lstat(`${dir}/f`).uid, sys.lstat(`${dir}/f`).gid], [12004, 12003]);
    sys.chown(`${dir}/f`, 0xfffffffe, 0xfffffffe);
    assert.deepEqual([sys.lstat(`${dir}/f`).uid, sys.lstat(`${dir}/f`).gid], [0xfffffffe, 0xfffffffe]);
  },
  "chown moves ctime and nothing else, also when it changes nothing": (dir, t) => {
    t.needsRoot();
    t.file(`${dir}/f`, "x");
    const moved = t.moved(`${dir}/f`, () => sys.chown(`${dir}/f`, 12001, 12001));
    assert.deepEqual(moved, { atime: false, mtime: false, ctime: true });
  },
  "giving a file away is EPERM for an ordinary user": (dir, t) => {
    const f = alices(dir, t, 0o644);
    t.as(ALICE, () => {
      t.refuses("EPERM", () => sys.chown(f, BOB.uid, -1));
      t.refuses("EPERM", () => sys.chown(f, -1, SHARED_GID));
      sys.chown(f, ALICE.uid, ALICE.gid);
    });
    t.as(BOB, () => t.refuses("EPERM", () => sys.chown(f, BOB.uid, BOB.gid)));
    assert.equal(sys.lstat(f).uid, ALICE.uid);
  },
  "an owner gives a file to a group of his own": (dir, t) => {
    const f = alices(dir, t, 0o644);
    t.as(ALICE_SHARED, () => sys.chown(f, -1, SHARED_GID));
    assert.equal(sys.lstat(f).gid, SHARED_GID);
  },
  "chown of a program clears its set-id bits, whoever does it": (dir, t) => {
    const f = alices(dir, t, 0o6755);
    t.as(ALICE_SHARED, () => sys.chown(f, -1, SHARED_GID));
    assert.equal(sys.lstat(f).perm, 0o755);
    sys.chmod(f, 0o6755);
    sys.chown(f, BOB.uid, BOB.gid);
    assert.equal(sys.lstat(f).perm, 0o755);
    sys.chmod(f, 0o4755);
    sys.chown(f, -1, -1);
    assert.equal(sys.lstat(f).perm, 0o755);
  },
  "chown of a directory keeps its set-id and sticky bits": (dir, t) => {
    t.needsRoot();
    sys.mkdir(`${dir}/d`);
    sys.chmod(`${dir}/d`, 0o7755);
    sys.chown(`${dir}/d`, 12001, 12002);
    assert.equal(sys.lstat(`${dir}/d`).perm, 0o7755);
  },
  "chown of what is missing is ENOENT": (dir, t) => {
    t.refuses("ENOENT", () => sys.chown(`${dir}/no`, 0, 0));
  },
};

export const setId: Cases = {
  "a write by an ordinary user clears set-user-ID and set-group-ID": (dir, t) => {
    const f = alices(dir, t, 0o6777);
    t.as(BOB, () => t.using(f, O.WRONLY, (fd) => sys.write(fd, "x")));
    assert.equal(sys.lstat(f).perm, 0o777);
  },
  "a write by the owner clears them as well": (dir, t) => {
    const f = alices(dir, t, 0o4755);
    t.as(ALICE, () => t.using(f, O.WRONLY, (fd) => sys.write(fd, "x")));
    assert.equal(sys.lstat(f).perm, 0o755);
  },
  "a write by root keeps them": (dir, t) => {
    const f = alices(dir, t, 0o6755);
    t.using(f, O.WRONLY, (fd) => sys.write(fd, "x"));
    assert.equal(sys.lstat(f).perm, 0o6755);
  },
  "truncate by an ordinary user clears them": (dir, t) => {
    const f = alices(dir, t, 0o6777);
    t.as(BOB, () => sys.truncate(f, 3));
    assert.equal(sys.lstat(f).perm, 0o777);
    sys.chmod(f, 0o6777);
    t.as(BOB, () => sys.close(sys.open(f, O.WRONLY | O.TRUNC)));
    assert.equal(sys.lstat(f).perm, 0o777);
  },
  "fallocate by an ordinary user clears them": (dir, t) => {
    const f = alices(dir, t, 0o6777);
    t.controlLacks("clearing by fallocate");
    t.as(BOB, () => t.using(f, O.WRONLY, (fd) => sys.fallocate(fd, 0, 0, 100_000)));
    assert.equal(sys.lstat(f).perm, 0o777);
  },
  "reading, opening and fsync keep them": (dir, t) => {
    const f = alices(dir, t, 0o6777);
    t.as(BOB, () => {
      t.read(f);
      t.using(f, O.RDWR, (fd) => sys.fsync(fd));
    });
    assert.equal(sys.lstat(f).perm, 0o6777);
  },
  "set-group-ID without group execute is kept by a write of root": (dir, t) => {
    const f = alices(dir, t, 0o2644);
    t.using(f, O.WRONLY, (fd) => sys.write(fd, "x"));
    assert.equal(sys.lstat(f).perm, 0o2644);
  },
};

export const umask: Cases = {
  "the umask is taken from the mode of files, directories and nodes": (dir, t) => {
    for (const mask of [0, 0o022, 0o027, 0o077, 0o137, 0o777]) {
      sys.umask(mask);
      const name = mask.toString(8);
      sys.close(sys.open(`${dir}/f${name}`, O.WRONLY | O.CREAT, 0o666));
      sys.mkdir(`${dir}/d${name}`, 0o777);
      sys.mknod(`${dir}/p${name}`, S.FIFO | 0o777);
      sys.mknod(`${dir}/r${name}`, SREG | 0o765);
      assert.equal(sys.lstat(`${dir}/f${name}`).perm, 0o666 & ~mask, `file, ${name}`);
      assert.equal(sys.lstat(`${dir}/d${name}`).perm, 0o777 & ~mask, `directory, ${name}`);
      assert.equal(sys.lstat(`${dir}/p${name}`).perm, 0o777 & ~mask, `fifo, ${name}`);
      assert.equal(sys.lstat(`${dir}/r${name}`).perm, 0o765 & ~mask, `node, ${name}`);
    }
    sys.umask(0o022);
    for (const name of t.names(dir)) if (name.startsWith("d")) sys.chmod(`${dir}/${name}`, 0o755);
  },
  "the umask does not count for chmod, and symlinks are always 0777": (dir, t) => {
    sys.umask(0o077);
    t.file(`${dir}/f`);
    sys.chmod(`${dir}/f`, 0o666);
    sys.symlink("f", `${dir}/l`);
    assert.equal(sys.lstat(`${dir}/f`).perm, 0o666);
    assert.equal(sys.lstat(`${dir}/l`).perm, 0o777);
  },
  "the umask of another process is its own": (dir, t) => {
    sys.umask(0);
    t.python(dir, `os.umask(0o077); os.close(os.open("theirs", os.O_CREAT, 0o666)); os.mkdir("d", 0o777)`);
    sys.close(sys.open(`${dir}/ours`, O.CREAT | O.WRONLY, 0o666));
    assert.equal(sys.lstat(`${dir}/theirs`).perm, 0o600);
    assert.equal(sys.lstat(`${dir}/d`).perm, 0o700);
    assert.equal(sys.lstat(`${dir}/ours`).perm, 0o666);
  },
};

export const setGroupDirectory: Cases = {
  "what is made in a set-group-ID directory has the directory's group": (dir, t) => {
    t.needsRoot();
    sys.mkdir(`${dir}/g`);
    sys.chown(`${dir}/g`, -1, SHARED_GID);
    sys.chmod(`${dir}/g`, 0o2777);
    t.as(ALICE, () => {
      t.file(`${dir}/g/f`);
      sys.mknod(`${dir}/g/p`, S.FIFO | 0o600);
      sys.symlink("f", `${dir}/g/l`);
      sys.mkdir(`${dir}/g/d`);
    });
    for (const name of ["f", "p", "l", "d"]) {
      assert.equal(sys.lstat(`${dir}/g/${name}`).gid, SHARED_GID, name);
      assert.equal(sys.lstat(`${dir}/g/${name}`).uid, ALICE.uid, name);
    }
    assert.equal(sys.lstat(`${dir}/g/d`).perm, 0o2755);
    assert.equal(sys.lstat(`${dir}/g/f`).perm, 0o644);
  },
  "a directory in a set-group-ID directory passes the bit on, whatever mode is asked for": (dir, t) => {
    t.needsRoot();
    sys.chown(dir, -1, SHARED_GID);
    sys.chmod(dir, 0o2777);
    sys.mkdir(`${dir}/a`, 0o700);
    sys.mkdir(`${dir}/a/b`, 0);
    assert.equal(sys.lstat(`${dir}/a`).perm, 0o2700);
    assert.equal(sys.lstat(`${dir}/a/b`).perm, 0o2000);
    assert.equal(sys.lstat(`${dir}/a/b`).gid, SHARED_GID);
    sys.chmod(`${dir}/a/b`, 0o700);
  },
  "a program made set-group-ID in it by one outside the group loses the bit": (dir, t) => {
    t.needsRoot();
    sys.chown(dir, -1, SHARED_GID);
    sys.chmod(dir, 0o2777);
    t.as(ALICE, () => {
      sys.umask(0);
      sys.close(sys.open(`${dir}/out`, O.WRONLY | O.CREAT, 0o2775));
      sys.mknod(`${dir}/node`, SREG | 0o2775);
    });
    t.as(ALICE_SHARED, () => sys.close(sys.open(`${dir}/in`, O.WRONLY | O.CREAT, 0o2775)));
    assert.equal(sys.lstat(`${dir}/out`).perm, 0o775);
    assert.equal(sys.lstat(`${dir}/node`).perm, 0o775);
    assert.equal(sys.lstat(`${dir}/in`).perm, 0o2775);
  },
  "outside such a directory what is made has the maker's group": (dir, t) => {
    t.needsRoot();
    sys.chown(dir, -1, SHARED_GID);
    sys.chmod(dir, 0o777);
    t.as(ALICE, () => t.file(`${dir}/f`));
    assert.equal(sys.lstat(`${dir}/f`).gid, ALICE.gid);
  },
};

export const permissions: Cases = {
  "in a sticky directory only the file's owner, the directory's owner and root unlink": (dir, t) => {
    t.needsRoot();
    sys.mkdir(`${dir}/s`);
    sys.chown(`${dir}/s`, ALICE.uid, ALICE.gid);
    sys.chmod(`${dir}/s`, 0o1777);
    const everyone = { uid: 12009, gid: 12009 };
    t.as(BOB, () => {
      for (const name of ["a", "b", "c"]) t.file(`${dir}/s/${name}`);
      sys.mkdir(`${dir}/s/d`);
    });
    t.as(everyone, () => {
      t.refuses(["EPERM", "EACCES"], () => sys.unlink(`${dir}/s/a`));
      t.refuses(["EPERM", "EACCES"], () => sys.rmdir(`${dir}/s/d`));
      t.refuses(["EPERM", "EACCES"], () => sys.rename(`${dir}/s/a`, `${dir}/s/x`));
    });
    t.as(BOB, () => sys.unlink(`${dir}/s/a`));
    t.as(ALICE, () => sys.unlink(`${dir}/s/b`));
    sys.unlink(`${dir}/s/c`);
    assert.deepEqual(t.names(`${dir}/s`), ["d"]);
  },
  "read and write need their bits, for owner, group and others apart": (dir, t) => {
    const f = alices(dir, t, 0, SHARED_GID);
    const member = { ...BOB, groups: [SHARED_GID] };
    const attempt = (user: typeof BOB, flags: number): string =>
      t.as(user, () => {
        try {
          sys.close(sys.open(f, flags));
          return "done";
        } catch (error) {
          return (error as { code: string }).code;
        }
      });
    for (const [mode, who] of [
      [0o400, [ALICE, "done", "EACCES"]],
      [0o200, [ALICE, "EACCES", "done"]],
      [0o040, [member, "done", "EACCES"]],
      [0o020, [member, "EACCES", "done"]],
      [0o004, [BOB, "done", "EACCES"]],
      [0o002, [BOB, "EACCES", "done"]],
      [0o077, [ALICE, "EACCES", "EACCES"]],
      [0o707, [member, "EACCES", "EACCES"]],
      [0o770, [BOB, "EACCES", "EACCES"]],
    ] as const) {
      sys.chmod(f, mode);
      const [user, read, write] = who;
      assert.equal(attempt(user, O.RDONLY), read, `read, mode ${mode.toString(8)}`);
      assert.equal(attempt(user, O.WRONLY), write, `write, mode ${mode.toString(8)}`);
    }
  },
  "root reads and writes a file of mode 0, and executes only what anyone may": (dir, t) => {
    t.needsRoot();
    t.file(`${dir}/f`, "#!/bin/sh\nexit 0\n");
    sys.chmod(`${dir}/f`, 0);
    assert.equal(t.read(`${dir}/f`).length, 17);
    assert.equal(t.python(dir, `print(errno_of(os.execv, "./f", ["f"]))`), "EACCES");
    sys.chmod(`${dir}/f`, 0o001);
    t.run(`${dir}/f`, []);
  },
  "access(2) answers by the same bits": (dir, t) => {
    const f = alices(dir, t, 0o640, SHARED_GID);
    t.as(ALICE, () => {
      sys.access(f, 4 | 2);
      t.refuses("EACCES", () => sys.access(f, 1));
    });
    t.as({ ...BOB, groups: [SHARED_GID] }, () => {
      sys.access(f, 4);
      t.refuses("EACCES", () => sys.access(f, 2));
    });
    t.as(BOB, () => {
      sys.access(f, 0);
      t.refuses("EACCES", () => sys.access(f, 4));
    });
    t.refuses("ENOENT", () => sys.access(`${dir}/no`, 0));
  },
  "each directory on the way needs search permission, at once when it is taken away": (dir, t) => {
    t.needsRoot();
    sys.mkdir(`${dir}/a`);
    sys.mkdir(`${dir}/a/b`);
    t.file(`${dir}/a/b/f`, "x");
    t.as(ALICE, () => assert.equal(t.text(`${dir}/a/b/f`), "x"));
    sys.chmod(`${dir}/a`, 0o700);
    t.as(ALICE, () => {
      t.refuses("EACCES", () => sys.lstat(`${dir}/a/b/f`));
      t.refuses("EACCES", () => sys.open(`${dir}/a/b/f`, O.RDONLY));
      t.refuses("EACCES", () => sys.lstat(`${dir}/a/no`));
    });
    sys.chmod(`${dir}/a`, 0o711);
    t.as(ALICE, () => assert.equal(t.text(`${dir}/a/b/f`), "x"));
  },
  "making anything in a directory needs write permission on it": (dir, t) => {
    t.file(`${dir}/there`);
    t.as(ALICE, () => {
      t.refuses("EACCES", () => sys.open(`${dir}/f`, O.WRONLY | O.CREAT));
      t.refuses("EACCES", () => sys.mkdir(`${dir}/d`));
      t.refuses("EACCES", () => sys.symlink("x", `${dir}/l`));
      t.refuses("EACCES", () => sys.mknod(`${dir}/p`, S.FIFO | 0o600));
      t.refuses("EEXIST", () => sys.mkdir(`${dir}/there`));
    });
    assert.deepEqual(t.names(dir), ["there"]);
  },
  "a descriptor keeps its rights when the mode is taken away": (dir, t) => {
    const f = alices(dir, t, 0o600);
    t.as(ALICE, () =>
      t.using(f, O.RDWR, (fd) => {
        sys.chmod(f, 0);
        sys.pwrite(fd, "still", 0);
        assert.equal(sys.pread(fd, 5, 0).toString(), "still");
        t.refuses("EACCES", () => sys.open(f, O.RDONLY));
      }),
    );
  },
  "a descriptor's rights are those of its opener, whoever uses it": (dir, t) => {
    const f = alices(dir, t, 0o600);
    t.using(f, O.RDWR, (fd) => t.as(BOB, () => sys.pwrite(fd, "by root's descriptor", 0)));
    assert.equal(t.text(f), "by root's descriptor");
  },
  "a supplementary group counts like the first": (dir, t) => {
    const f = alices(dir, t, 0o060, SHARED_GID);
    t.as({ uid: BOB.uid, gid: SHARED_GID }, () => t.using(f, O.RDWR, (fd) => sys.write(fd, "1")));
    t.as({ ...BOB, groups: [1, 2, 3, SHARED_GID] }, () => t.using(f, O.RDWR, (fd) => sys.write(fd, "2")));
    t.as(BOB, () => t.refuses("EACCES", () => sys.open(f, O.RDONLY)));
  },
};
