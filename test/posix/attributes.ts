/** Extended attributes and POSIX ACLs. */
import assert from "node:assert/strict";
import { AT_FDCWD, O, S, SREG, sys, XATTR } from "../helpers/libc.ts";
import { ALICE, BOB, type Cases, SHARED_GID, type Tools } from "./tools.ts";

function can(dir: string, name: string, length = 1) {
  return (): boolean => {
    try {
      sys.setxattr(dir, name, Buffer.alloc(length));
      sys.removexattr(dir, name);
      return true;
    } catch {
      return false;
    }
  };
}

/** Makes `dir`/f; the control must have the namespace. */
function fileWith(dir: string, t: Tools, namespace = "user"): string {
  if (namespace !== "user") t.needsRoot();
  t.controlLacks(`${namespace}.* attributes`, can(dir, `${namespace}.probe`));
  t.file(`${dir}/f`);
  return `${dir}/f`;
}

const own = (names: readonly string[]): string[] =>
  names.filter((name) => !name.startsWith("security.selinux")).sort();

export const xattr: Cases = {
  "an attribute is set, read, replaced, listed and removed": (dir, t) => {
    const f = fileWith(dir, t);
    sys.setxattr(f, "user.one", "1");
    sys.setxattr(f, "user.two", "second");
    assert.deepEqual(own(sys.listxattr(f)), ["user.one", "user.two"]);
    sys.setxattr(f, "user.one", "longer than before");
    assert.equal(sys.getxattr(f, "user.one").toString(), "longer than before");
    sys.setxattr(f, "user.one", "");
    assert.equal(sys.getxattr(f, "user.one").length, 0);
    sys.removexattr(f, "user.one");
    assert.deepEqual(own(sys.listxattr(f)), ["user.two"]);
    assert.equal(sys.getxattr(f, "user.two").toString(), "second");
  },
  "an attribute that is not there is ENODATA to read and to remove": (dir, t) => {
    const f = fileWith(dir, t);
    t.refuses("ENODATA", () => sys.getxattr(f, "user.no"));
    t.refuses("ENODATA", () => sys.removexattr(f, "user.no"));
    t.refuses("ENODATA", () => sys.xattrSize(f, "user.no"));
    sys.setxattr(f, "user.no", "x");
    assert.equal(sys.getxattr(f, "user.no").toString(), "x");
    sys.removexattr(f, "user.no");
    t.refuses("ENODATA", () => sys.getxattr(f, "user.no"));
  },
  "XATTR_CREATE is EEXIST over what is there, XATTR_REPLACE ENODATA over what is not": (dir, t) => {
    const f = fileWith(dir, t);
    t.refuses("ENODATA", () => sys.setxattr(f, "user.a", "x", XATTR.REPLACE));
    sys.setxattr(f, "user.a", "first", XATTR.CREATE);
    t.refuses("EEXIST", () => sys.setxattr(f, "user.a", "second", XATTR.CREATE));
    assert.equal(sys.getxattr(f, "user.a").toString(), "first");
    sys.setxattr(f, "user.a", "third", XATTR.REPLACE);
    assert.equal(sys.getxattr(f, "user.a").toString(), "third");
    t.refuses("EINVAL", () => sys.setxattr(f, "user.a", "x", 8));
  },
  "an attribute that was removed can be created again": (dir, t) => {
    const f = fileWith(dir, t);
    for (let i = 0; i < 20; i++) {
      sys.setxattr(f, "user.a", `v${i}`, XATTR.CREATE);
      assert.equal(sys.getxattr(f, "user.a").toString(), `v${i}`);
      sys.removexattr(f, "user.a");
    }
    assert.deepEqual(own(sys.listxattr(f)), []);
  },
  "too little room is ERANGE, no room tells the size": (dir, t) => {
    const f = fileWith(dir, t);
    sys.setxattr(f, "user.a", "0123456789");
    assert.equal(sys.xattrSize(f, "user.a"), 10);
    t.refuses("ERANGE", () => sys.getxattr(f, "user.a", 9));
    assert.equal(sys.getxattr(f, "user.a", 10).toString(), "0123456789");
    const size = sys.listxattrSize(f);
    assert.ok(size >= 7);
    t.refuses("ERANGE", () => sys.listxattr(f, size - 1));
    assert.ok(sys.listxattr(f, size).includes("user.a"));
  },
  "a value is any bytes, up to 65,536 of them; more is E2BIG": (dir, t) => {
    const f = fileWith(dir, t);
    const wild = Buffer.from(Array.from({ length: 256 }, (_, i) => i));
    sys.setxattr(f, "user.wild", wild);
    t.same(sys.getxattr(f, "user.wild"), wild, "all bytes");
    t.refuses("E2BIG", () => sys.setxattr(f, "user.big", Buffer.alloc(65_537)));
    t.controlLacks("values of 65,536 bytes", () => {
      try {
        sys.setxattr(f, "user.big", Buffer.alloc(65_536));
        return true;
      } catch {
        return false;
      }
    });
    const big = t.noise(65_536);
    sys.setxattr(f, "user.big", big);
    t.same(sys.getxattr(f, "user.big"), big, "largest value");
  },
  "a name is up to 255 bytes, more is ERANGE, none behind the dot EINVAL": (dir, t) => {
    const f = fileWith(dir, t);
    const longest = `user.${"n".repeat(250)}`;
    sys.setxattr(f, longest, "x");
    assert.equal(sys.getxattr(f, longest).toString(), "x");
    t.refuses("ERANGE", () => sys.setxattr(f, `${longest}n`, "x"));
    t.refuses("ERANGE", () => sys.getxattr(f, `${longest}n`));
    t.refuses("ERANGE", () => sys.setxattr(f, "", "x"));
    t.refuses(["EINVAL", "EOPNOTSUPP"], () => sys.setxattr(f, "user.", "x"));
    assert.deepEqual(own(sys.listxattr(f)), [longest]);
  },
  "attribute names are bytes, and case matters": (dir, t) => {
    const f = fileWith(dir, t);
    const odd = [
      Buffer.from("user.A"),
      Buffer.from("user.a"),
      Buffer.from([0x75, 0x73, 0x65, 0x72, 0x2e, 0xff, 0xc3, 0x28]),
      Buffer.from("user.a b\nc"),
      Buffer.from("user.ä"),
      Buffer.from("user.%_'"),
    ];
    for (const [i, name] of odd.entries()) sys.setxattr(f, name, String(i));
    assert.deepEqual(own(sys.listxattr(f)), odd.map((name) => name.toString("latin1")).sort());
    for (const [i, name] of odd.entries()) assert.equal(sys.getxattr(f, name).toString(), String(i));
  },
  "a name without a known namespace is EOPNOTSUPP": (dir, t) => {
    const f = fileWith(dir, t);
    t.refuses("EOPNOTSUPP", () => sys.setxattr(f, "noprefix", "x"));
    t.refuses("EOPNOTSUPP", () => sys.setxattr(f, "unknown.name", "x"));
    t.refuses("EOPNOTSUPP", () => sys.getxattr(f, "unknown.name"));
    t.refuses("EOPNOTSUPP", () => sys.setxattr(f, "system.unknown", "x"));
    assert.deepEqual(own(sys.listxattr(f)), []);
  },
  "directories have user attributes; symlinks, fifos and sockets do not": (dir, t) => {
    fileWith(dir, t);
    sys.mkdir(`${dir}/d`);
    sys.setxattr(`${dir}/d`, "user.d", "x");
    assert.deepEqual(own(sys.listxattr(`${dir}/d`)), ["user.d"]);
    sys.symlink("f", `${dir}/l`);
    sys.mknod(`${dir}/p`, S.FIFO | 0o600);
    sys.mknod(`${dir}/s`, 0o140600);
    for (const name of "lps") {
      t.refuses("EPERM", () => sys.setxattr(`${dir}/${name}`, "user.x", "x"));
      t.refuses("ENODATA", () => sys.getxattr(`${dir}/${name}`, "user.x"));
    }
  },
  "trusted attributes are for root alone, to others they are not there": (dir, t) => {
    const f = fileWith(dir, t, "trusted");
    sys.setxattr(f, "trusted.t", "secret");
    sys.setxattr(f, "user.u", "public");
    assert.equal(sys.getxattr(f, "trusted.t").toString(), "secret");
    assert.deepEqual(own(sys.listxattr(f)), ["trusted.t", "user.u"]);
    sys.chown(f, ALICE.uid, ALICE.gid);
    t.as(ALICE, () => {
      t.refuses("EPERM", () => sys.setxattr(f, "trusted.x", "x"));
      t.refuses("ENODATA", () => sys.getxattr(f, "trusted.t"));
      t.refuses("EPERM", () => sys.removexattr(f, "trusted.t"));
    });
    sys.symlink("f", `${dir}/l`);
    sys.setxattr(`${dir}/l`, "trusted.l", "on a symlink");
    assert.equal(sys.getxattr(`${dir}/l`, "trusted.l").toString(), "on a symlink");
    t.refuses("ENODATA", () => sys.getxattr(f, "trusted.l"));
  },
  "security attributes are kept, and only root sets them": (dir, t) => {
    const f = fileWith(dir, t, "security");
    sys.setxattr(f, "security.mine", "value");
    assert.equal(sys.getxattr(f, "security.mine").toString(), "value");
    sys.chown(f, ALICE.uid, ALICE.gid);
    t.as(ALICE, () => {
      assert.equal(sys.getxattr(f, "security.mine").toString(), "value");
      t.refuses("EPERM", () => sys.setxattr(f, "security.mine", "changed"));
    });
  },
  "file capabilities are kept, until the file is written": (dir, t) => {
    const f = fileWith(dir, t, "security");
    t.needsProgram("setcap");
    t.run("cp", ["/bin/true", f]);
    t.run("setcap", ["cap_net_raw+ep", f]);
    assert.match(t.run("getcap", [f]), /cap_net_raw/);
    assert.equal(sys.getxattr(f, "security.capability").length, 20);
    t.using(f, O.WRONLY, (fd) => sys.pwrite(fd, "x", 0));
    t.refuses("ENODATA", () => sys.getxattr(f, "security.capability"));
    t.run("setcap", ["cap_net_raw+ep", f]);
    sys.truncate(f, 10);
    t.refuses("ENODATA", () => sys.getxattr(f, "security.capability"));
    t.run("setcap", ["cap_net_raw+ep", f]);
    sys.chown(f, 0, 0);
    t.refuses("ENODATA", () => sys.getxattr(f, "security.capability"));
  },
  "setting and removing an attribute moves ctime and nothing else": (dir, t) => {
    const f = fileWith(dir, t);
    const only = { atime: false, mtime: false, ctime: true };
    assert.deepEqual(
      t.moved(f, () => sys.setxattr(f, "user.a", "x")),
      only,
    );
    assert.deepEqual(
      t.moved(f, () => sys.removexattr(f, "user.a")),
      only,
    );
    const refused = t.moved(f, () => t.refuses("ENODATA", () => sys.removexattr(f, "user.a")));
    assert.equal(refused.ctime, false);
  },
  "attributes belong to the inode: they follow rename, show through links, go with unlink": (dir, t) => {
    const f = fileWith(dir, t);
    sys.setxattr(f, "user.a", "x");
    sys.link(f, `${dir}/g`);
    sys.rename(f, `${dir}/h`);
    assert.equal(sys.getxattr(`${dir}/g`, "user.a").toString(), "x");
    assert.equal(sys.getxattr(`${dir}/h`, "user.a").toString(), "x");
    t.file(f);
    t.refuses("ENODATA", () => sys.getxattr(f, "user.a"));
  },
  "attributes through a descriptor are the same attributes": (dir, t) => {
    const f = fileWith(dir, t);
    t.using(f, O.RDWR, (fd) => {
      sys.fsetxattr(fd, "user.fd", "by descriptor");
      assert.equal(sys.getxattr(f, "user.fd").toString(), "by descriptor");
      sys.setxattr(f, "user.fd", "by path");
      assert.equal(sys.fgetxattr(fd, "user.fd").toString(), "by path");
    });
  },
  "a hundred attributes on one file": (dir, t) => {
    const f = fileWith(dir, t);
    t.controlLacks("room for so many", can(dir, "user.probe", 15_000));
    for (let i = 0; i < 100; i++) sys.setxattr(f, `user.n${i}`, t.noise(i * 3, i + 1));
    assert.equal(own(sys.listxattr(f)).length, 100);
    for (let i = 0; i < 100; i += 2) sys.removexattr(f, `user.n${i}`);
    assert.equal(own(sys.listxattr(f)).length, 50);
    t.same(sys.getxattr(f, "user.n99"), t.noise(297, 100), "value 99");
  },
  "the names of one file together are at most 65,536 bytes: one more is ENOSPC": (dir, t) => {
    t.controlLacks("limit of the list");
    const f = fileWith(dir, t);
    let total = 0;
    for (let i = 0; total + 256 <= 65_536; i++) {
      sys.setxattr(f, `user.${String(i).padStart(250, "0")}`, "");
      total += 256;
    }
    t.refuses("ENOSPC", () => sys.setxattr(f, `user.${"x".repeat(250)}`, ""));
    assert.equal(own(sys.listxattr(f)).length, 256);
    sys.setxattr(f, `user.${"0".repeat(250)}`, "replaced");
  },
  "another user needs write permission to set and read permission to get": (dir, t) => {
    t.needsRoot();
    const f = fileWith(dir, t);
    sys.setxattr(f, "user.a", "x");
    sys.chmod(f, 0o604);
    t.as(BOB, () => {
      assert.equal(sys.getxattr(f, "user.a").toString(), "x");
      t.refuses("EACCES", () => sys.setxattr(f, "user.b", "x"));
      t.refuses("EACCES", () => sys.removexattr(f, "user.a"));
    });
    sys.chmod(f, 0o602);
    t.as(BOB, () => {
      t.refuses("EACCES", () => sys.getxattr(f, "user.a"));
      sys.setxattr(f, "user.b", "x");
    });
  },
  "cp -a and getfattr carry attributes": (dir, t) => {
    const f = fileWith(dir, t);
    t.needsProgram("getfattr");
    sys.setxattr(f, "user.a", "carried");
    t.run("cp", ["-a", f, `${dir}/g`]);
    assert.match(t.run("getfattr", ["-d", "--absolute-names", `${dir}/g`]), /user\.a="carried"/);
  },
  "attributes of what is missing are ENOENT": (_dir, t) => {
    t.refuses("ENOENT", () => sys.getxattr(`${_dir}/no`, "user.a"));
    t.refuses("ENOENT", () => sys.setxattr(`${_dir}/no`, "user.a", "x"));
    t.refuses("ENOENT", () => sys.listxattr(`${_dir}/no`));
  },
};

const ACCESS = "system.posix_acl_access";
const DEFAULT = "system.posix_acl_default";

/** Bytes of a POSIX ACL attribute, version 2. */
function aclBytes(entries: readonly (readonly [tag: number, perm: number, id: number])[]): Buffer {
  const buffer = Buffer.alloc(4 + 8 * entries.length);
  buffer.writeUInt32LE(2, 0);
  for (const [i, [tag, perm, id]] of entries.entries()) {
    buffer.writeUInt16LE(tag, 4 + 8 * i);
    buffer.writeUInt16LE(perm, 6 + 8 * i);
    buffer.writeUInt32LE(id >>> 0, 8 + 8 * i);
  }
  return buffer;
}
const TAG = { USER_OBJ: 1, USER: 2, GROUP_OBJ: 4, GROUP: 8, MASK: 16, OTHER: 32 } as const;

function needsAcl(dir: string, t: Tools): void {
  t.needsProgram("setfacl");
  t.needsProgram("getfacl");
  const minimal = aclBytes([
    [TAG.USER_OBJ, 7, -1],
    [TAG.GROUP_OBJ, 5, -1],
    [TAG.OTHER, 5, -1],
  ]);
  t.controlLacks("POSIX ACLs", () => {
    try {
      sys.setxattr(dir, ACCESS, minimal);
      return true;
    } catch {
      return false;
    }
  });
}

/** The ACL as getfacl prints it, one entry after the other, without comments. */
function getfacl(t: Tools, path: string): string {
  const text = t.run("getfacl", ["-cnpE", path]);
  return text
    .split("\n")
    .filter((line) => line !== "")
    .join(" ");
}

function setfacl(t: Tools, path: string, ...options: string[]): void {
  t.run("setfacl", [...options, path]);
}

export const acl: Cases = {
  "a file without an ACL shows its mode as one, and has no attribute": (dir, t) => {
    needsAcl(dir, t);
    t.file(`${dir}/f`);
    assert.equal(getfacl(t, `${dir}/f`), "user::rw- group::r-- other::r--");
    t.refuses("ENODATA", () => sys.getxattr(`${dir}/f`, ACCESS));
  },
  "a named user and a named group are kept, and the mode's group bits become the mask": (dir, t) => {
    needsAcl(dir, t);
    t.file(`${dir}/f`);
    setfacl(t, `${dir}/f`, "-m", "u:12001:rwx,g:12100:r-x");
    assert.equal(
      getfacl(t, `${dir}/f`),
      "user::rw- user:12001:rwx group::r-- group:12100:r-x mask::rwx other::r--",
    );
    assert.equal(sys.lstat(`${dir}/f`).perm, 0o674);
  },
  "chmod changes the mask and not the owning group's entry": (dir, t) => {
    needsAcl(dir, t);
    t.file(`${dir}/f`);
    setfacl(t, `${dir}/f`, "-m", "u:12001:rwx");
    sys.chmod(`${dir}/f`, 0o640);
    assert.equal(getfacl(t, `${dir}/f`), "user::rw- user:12001:rwx group::r-- mask::r-- other::---");
    assert.equal(sys.lstat(`${dir}/f`).perm, 0o640);
    sys.chmod(`${dir}/f`, 0o777);
    assert.equal(getfacl(t, `${dir}/f`), "user::rwx user:12001:rwx group::r-- mask::rwx other::rwx");
  },
  "an ACL that says no more than a mode becomes the mode": (dir, t) => {
    needsAcl(dir, t);
    t.file(`${dir}/f`);
    setfacl(t, `${dir}/f`, "-m", "u::rwx,g::rw-,o::--x");
    assert.equal(sys.lstat(`${dir}/f`).perm, 0o761);
    t.refuses("ENODATA", () => sys.getxattr(`${dir}/f`, ACCESS));
  },
  "setfacl -b takes the ACL away and leaves a mode": (dir, t) => {
    needsAcl(dir, t);
    t.file(`${dir}/f`);
    setfacl(t, `${dir}/f`, "-m", "u:12001:rw,m::r");
    setfacl(t, `${dir}/f`, "-b");
    assert.equal(getfacl(t, `${dir}/f`), "user::rw- group::r-- other::r--");
    t.refuses("ENODATA", () => sys.getxattr(`${dir}/f`, ACCESS));
  },
  "a named user is let in and shut out by the ACL": (dir, t) => {
    needsAcl(dir, t);
    t.needsRoot();
    t.file(`${dir}/f`, "data");
    sys.chmod(`${dir}/f`, 0o600);
    t.as(ALICE, () => t.refuses("EACCES", () => t.read(`${dir}/f`)));
    setfacl(t, `${dir}/f`, "-m", "u:12001:r");
    t.as(ALICE, () => {
      assert.equal(t.text(`${dir}/f`), "data");
      t.refuses("EACCES", () => sys.open(`${dir}/f`, O.WRONLY));
    });
    t.as(BOB, () => t.refuses("EACCES", () => t.read(`${dir}/f`)));
    sys.chmod(`${dir}/f`, 0o666);
    // Linux looks at an ACL only where the mask leaves anything: so somebody must be let in by it.
    setfacl(t, `${dir}/f`, "-m", "u:12001:-,g:12100:r");
    t.as(ALICE, () => t.refuses("EACCES", () => t.read(`${dir}/f`)));
    t.as(BOB, () => assert.equal(t.text(`${dir}/f`), "data"));
  },
  "a named group is let in, and the mask limits it": (dir, t) => {
    needsAcl(dir, t);
    t.needsRoot();
    t.file(`${dir}/f`, "data");
    sys.chmod(`${dir}/f`, 0o600);
    setfacl(t, `${dir}/f`, "-m", `g:${SHARED_GID}:rw`);
    const member = { ...BOB, groups: [SHARED_GID] };
    t.as(member, () => t.using(`${dir}/f`, O.RDWR, (fd) => sys.write(fd, "DATA")));
    t.as(BOB, () => t.refuses("EACCES", () => t.read(`${dir}/f`)));
    setfacl(t, `${dir}/f`, "-m", "m::r");
    t.as(member, () => {
      assert.equal(t.text(`${dir}/f`), "DATA");
      t.refuses("EACCES", () => sys.open(`${dir}/f`, O.WRONLY));
    });
    sys.chmod(`${dir}/f`, 0o600);
    t.as(member, () => t.refuses("EACCES", () => t.read(`${dir}/f`)));
  },
  "the mask does not limit the owner": (dir, t) => {
    needsAcl(dir, t);
    t.needsRoot();
    t.file(`${dir}/f`, "data");
    sys.chown(`${dir}/f`, ALICE.uid, ALICE.gid);
    setfacl(t, `${dir}/f`, "-m", "u::rw,u:12002:rw,m::-,o::-");
    t.as(ALICE, () => t.using(`${dir}/f`, O.RDWR, (fd) => sys.write(fd, "mine")));
    t.as(BOB, () => t.refuses("EACCES", () => t.read(`${dir}/f`)));
  },
  "an ACL on a directory decides about search and creation": (dir, t) => {
    needsAcl(dir, t);
    t.needsRoot();
    sys.mkdir(`${dir}/d`, 0o700);
    t.file(`${dir}/d/f`, "x");
    setfacl(t, `${dir}/d`, "-m", "u:12001:rwx,u:12002:x");
    t.as(ALICE, () => {
      t.file(`${dir}/d/new`);
      assert.deepEqual(t.names(`${dir}/d`), ["f", "new"]);
    });
    t.as(BOB, () => {
      assert.equal(t.text(`${dir}/d/f`), "x");
      t.refuses("EACCES", () => t.names(`${dir}/d`));
      t.refuses("EACCES", () => sys.mkdir(`${dir}/d/b`));
    });
  },
  "new files inherit the default ACL, and the umask does not count": (dir, t) => {
    needsAcl(dir, t);
    sys.mkdir(`${dir}/d`);
    setfacl(t, `${dir}/d`, "-d", "-m", "u::rwx,u:12001:rwx,g::r-x,o::---");
    sys.umask(0o077);
    sys.close(sys.open(`${dir}/d/f`, O.WRONLY | O.CREAT, 0o666));
    assert.equal(getfacl(t, `${dir}/d/f`), "user::rw- user:12001:rwx group::r-x mask::rw- other::---");
    assert.equal(sys.lstat(`${dir}/d/f`).perm, 0o660);
    sys.mknod(`${dir}/d/n`, SREG | 0o640);
    assert.equal(getfacl(t, `${dir}/d/n`), "user::rw- user:12001:rwx group::r-x mask::r-- other::---");
    sys.mknod(`${dir}/d/p`, S.FIFO | 0o600);
    assert.equal(getfacl(t, `${dir}/d/p`), "user::rw- user:12001:rwx group::r-x mask::--- other::---");
    t.refuses("ENODATA", () => sys.getxattr(`${dir}/d/f`, DEFAULT));
  },
  "new directories inherit the default ACL as both, and pass it on": (dir, t) => {
    needsAcl(dir, t);
    sys.mkdir(`${dir}/d`);
    setfacl(t, `${dir}/d`, "-d", "-m", "u::rwx,u:12001:r-x,g::rwx,o::r-x");
    sys.mkdir(`${dir}/d/e`, 0o777);
    assert.equal(
      getfacl(t, `${dir}/d/e`),
      "user::rwx user:12001:r-x group::rwx mask::rwx other::r-x " +
        "default:user::rwx default:user:12001:r-x default:group::rwx default:mask::rwx default:other::r-x",
    );
    sys.mkdir(`${dir}/d/e/g`, 0o700);
    t.file(`${dir}/d/e/g/f`);
    assert.match(getfacl(t, `${dir}/d/e/g/f`), /user:12001:r-x/);
    assert.equal(sys.lstat(`${dir}/d/e/g`).perm, 0o700);
    assert.equal(sys.lstat(`${dir}/d/e/g/f`).perm, 0o644);
  },
  "a default ACL of three entries gives plain modes, without the umask": (dir, t) => {
    needsAcl(dir, t);
    sys.mkdir(`${dir}/d`);
    setfacl(t, `${dir}/d`, "-d", "-m", "u::rwx,g::rwx,o::rwx");
    sys.umask(0o077);
    sys.close(sys.open(`${dir}/d/f`, O.WRONLY | O.CREAT, 0o666));
    assert.equal(sys.lstat(`${dir}/d/f`).perm, 0o666);
    t.refuses("ENODATA", () => sys.getxattr(`${dir}/d/f`, ACCESS));
    sys.mkdir(`${dir}/d/e`);
    assert.equal(sys.lstat(`${dir}/d/e`).perm, 0o777);
  },
  "without a default ACL the umask counts, as soon as it is taken away": (dir, t) => {
    needsAcl(dir, t);
    sys.mkdir(`${dir}/d`);
    setfacl(t, `${dir}/d`, "-d", "-m", "u:12001:rwx");
    setfacl(t, `${dir}/d`, "-k");
    t.refuses("ENODATA", () => sys.getxattr(`${dir}/d`, DEFAULT));
    sys.umask(0o027);
    sys.close(sys.open(`${dir}/d/f`, O.WRONLY | O.CREAT, 0o666));
    assert.equal(sys.lstat(`${dir}/d/f`).perm, 0o640);
    assert.equal(getfacl(t, `${dir}/d/f`), "user::rw- group::r-- other::---");
  },
  "symlinks take no default ACL and files behind O_TMPFILE do": (dir, t) => {
    needsAcl(dir, t);
    t.needsKernel(6, 1);
    sys.mkdir(`${dir}/d`);
    setfacl(t, `${dir}/d`, "-d", "-m", "u:12001:rwx");
    sys.symlink("x", `${dir}/d/l`);
    assert.equal(sys.lstat(`${dir}/d/l`).perm, 0o777);
    const fd = sys.open(`${dir}/d`, O.RDWR | O.TMPFILE, 0o660);
    sys.linkat(AT_FDCWD, `/proc/self/fd/${fd}`, AT_FDCWD, `${dir}/d/t`, 0x400);
    sys.close(fd);
    assert.match(getfacl(t, `${dir}/d/t`), /user:12001:rwx/);
  },
  "a default ACL on a file is EACCES, an ACL on a symlink EOPNOTSUPP": (dir, t) => {
    needsAcl(dir, t);
    t.file(`${dir}/f`);
    sys.symlink("f", `${dir}/l`);
    const bytes = aclBytes([
      [TAG.USER_OBJ, 6, -1],
      [TAG.GROUP_OBJ, 4, -1],
      [TAG.OTHER, 4, -1],
    ]);
    t.refuses("EACCES", () => sys.setxattr(`${dir}/f`, DEFAULT, bytes));
    t.refuses("EOPNOTSUPP", () => sys.setxattr(`${dir}/l`, ACCESS, bytes));
  },
  "bytes that are no valid ACL are refused": (dir, t) => {
    needsAcl(dir, t);
    t.file(`${dir}/f`);
    const bad: Record<string, Buffer> = {
      short: Buffer.from([2, 0]),
      "other version": Buffer.concat([
        Buffer.from([9, 0, 0, 0]),
        aclBytes([[TAG.USER_OBJ, 6, -1]]).subarray(4),
      ]),
      "no group": aclBytes([
        [TAG.USER_OBJ, 6, -1],
        [TAG.OTHER, 4, -1],
      ]),
      "user without mask": aclBytes([
        [TAG.USER_OBJ, 6, -1],
        [TAG.USER, 6, 12001],
        [TAG.GROUP_OBJ, 4, -1],
        [TAG.OTHER, 4, -1],
      ]),
      "wrong order": aclBytes([
        [TAG.OTHER, 4, -1],
        [TAG.GROUP_OBJ, 4, -1],
        [TAG.USER_OBJ, 6, -1],
      ]),
    };
    for (const [what, bytes] of Object.entries(bad)) {
      try {
        t.refuses(["EINVAL", "EOPNOTSUPP"], () => sys.setxattr(`${dir}/f`, ACCESS, bytes));
      } catch (error) {
        assert.fail(`${what}: ${String(error)}`);
      }
    }
    assert.equal(sys.lstat(`${dir}/f`).perm, 0o644);
  },
  "only the owner and root set an ACL": (dir, t) => {
    needsAcl(dir, t);
    t.needsRoot();
    t.file(`${dir}/f`);
    sys.chown(`${dir}/f`, ALICE.uid, ALICE.gid);
    sys.chmod(`${dir}/f`, 0o666);
    const bytes = aclBytes([
      [TAG.USER_OBJ, 7, -1],
      [TAG.GROUP_OBJ, 7, -1],
      [TAG.OTHER, 7, -1],
    ]);
    t.as(BOB, () => t.refuses("EPERM", () => sys.setxattr(`${dir}/f`, ACCESS, bytes)));
    t.as(ALICE, () => sys.setxattr(`${dir}/f`, ACCESS, bytes));
    assert.equal(sys.lstat(`${dir}/f`).perm, 0o777);
  },
  "setting an ACL moves ctime, and clears set-group-ID where the owner is not in the group": (dir, t) => {
    needsAcl(dir, t);
    t.needsRoot();
    t.file(`${dir}/f`);
    sys.chown(`${dir}/f`, ALICE.uid, SHARED_GID);
    sys.chmod(`${dir}/f`, 0o2755);
    const bytes = aclBytes([
      [TAG.USER_OBJ, 7, -1],
      [TAG.USER, 7, BOB.uid],
      [TAG.GROUP_OBJ, 5, -1],
      [TAG.MASK, 7, -1],
      [TAG.OTHER, 5, -1],
    ]);
    const moved = t.moved(`${dir}/f`, () => t.as(ALICE, () => sys.setxattr(`${dir}/f`, ACCESS, bytes)));
    assert.equal(moved.ctime, true);
    assert.equal(sys.lstat(`${dir}/f`).perm, 0o775);
    sys.chmod(`${dir}/f`, 0o2755);
    setfacl(t, `${dir}/f`, "-m", "u:12002:r");
    assert.equal(sys.lstat(`${dir}/f`).perm, 0o2755, "root keeps it");
  },
  "an ACL follows rename, shows through links and is carried by cp -a": (dir, t) => {
    needsAcl(dir, t);
    t.file(`${dir}/f`);
    setfacl(t, `${dir}/f`, "-m", "u:12001:rwx");
    const expected = getfacl(t, `${dir}/f`);
    sys.link(`${dir}/f`, `${dir}/g`);
    sys.rename(`${dir}/f`, `${dir}/h`);
    t.run("cp", ["-a", `${dir}/h`, `${dir}/copy`]);
    for (const name of ["g", "h", "copy"]) assert.equal(getfacl(t, `${dir}/${name}`), expected, name);
  },
  "the ACL read back is the ACL that was set, with its own mask": (dir, t) => {
    needsAcl(dir, t);
    t.file(`${dir}/f`);
    const bytes = aclBytes([
      [TAG.USER_OBJ, 6, -1],
      [TAG.USER, 7, 12001],
      [TAG.USER, 4, 12002],
      [TAG.GROUP_OBJ, 5, -1],
      [TAG.GROUP, 2, SHARED_GID],
      [TAG.MASK, 6, -1],
      [TAG.OTHER, 1, -1],
    ]);
    sys.setxattr(`${dir}/f`, ACCESS, bytes);
    t.same(sys.getxattr(`${dir}/f`, ACCESS), bytes, "ACL");
    assert.equal(sys.lstat(`${dir}/f`).perm, 0o661);
    sys.chmod(`${dir}/f`, 0o4750);
    const after = Buffer.from(bytes);
    after.writeUInt16LE(7, 6);
    after.writeUInt16LE(5, 4 + 8 * 5 + 2);
    after.writeUInt16LE(0, 4 + 8 * 6 + 2);
    t.same(sys.getxattr(`${dir}/f`, ACCESS), after, "ACL after chmod");
    assert.equal(sys.lstat(`${dir}/f`).perm, 0o4750);
  },
};
