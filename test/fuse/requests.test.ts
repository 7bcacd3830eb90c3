/** Golden bytes: each request as the kernel sends it, what the core is asked, and the reply to the byte. */
import { describe, expect, test } from "vitest";
import { E, FsError } from "../../src/base/errno.ts";
import type { Attr, Entry } from "../../src/core/types.ts";
import {
  ATTR,
  answer,
  bytes,
  type Call,
  converse,
  dump,
  ENTRY,
  frame,
  GID,
  NODEID,
  noting,
  STAT,
  TIMEOUT,
  UID,
} from "./frames.ts";

interface Golden {
  readonly opcode: number;
  readonly body?: string;
  readonly answers?: Readonly<Record<string, unknown>>;
  readonly calls: readonly Call[];
  /** Body of the reply, or a negative errno. */
  readonly reply: string | number;
}

const WHO = { uid: UID, gid: GID, umask: 0o22 };
const REF: Call = ["inodes.ref", STAT.ino];
const FH = "f8f7f6f5f4f3f2f1";
const OWNER = "e8e7e6e5e4e3e2e1";

/** readdir's visitor is called as the core would: until it says no. */
function visiting(
  entries: readonly Entry[],
): (ino: number, cookie: number, visit: (entry: Entry, attr: Attr) => boolean) => void {
  return (_ino, cookie, visit) => {
    for (const entry of entries)
      if (entry.cookie > cookie && !visit(entry, { ...STAT, ino: entry.ino })) return;
  };
}

const ENTRIES: readonly Entry[] = [
  { name: Buffer.from("nine byte"), ino: 0x0a0b as Entry["ino"], type: 0o100000, cookie: 0x41 },
  { name: Buffer.from("eight  8"), ino: 0x0c0d as Entry["ino"], type: 0o040000, cookie: 0x1_0000_0042 },
];

const GOLDEN: Readonly<Record<string, Golden>> = {
  "LOOKUP of a name that exists gives the entry and takes a reference": {
    opcode: 1,
    body: "c3a9746500            | name in UTF-8 and NUL",
    answers: { "tree.lookup": STAT },
    calls: [["tree.lookup", NODEID, "\xc3\xa9te"], REF],
    reply: ENTRY,
  },
  "LOOKUP of a name that is absent gives node 0, which the kernel may remember": {
    opcode: 1,
    body: "6e6f00",
    calls: [["tree.lookup", NODEID, "no"]],
    reply: `
      0000000000000000    | nodeid
      0000000000000000    | generation
      ${TIMEOUT}          | entry_valid
      ${"00".repeat(104)} | the rest
    `,
  },
  "LOOKUP of .. passes it to the core": {
    opcode: 1,
    body: "2e2e00",
    answers: { "tree.lookup": STAT },
    calls: [["tree.lookup", NODEID, ".."], REF],
    reply: ENTRY,
  },
  GETATTR: {
    opcode: 3,
    body: `
      00000000            | getattr_flags
      00000000            | dummy
      ${FH}               | fh
    `,
    answers: { "attributes.getattr": STAT },
    calls: [["attributes.getattr", NODEID]],
    reply: `
      ${TIMEOUT}          | attr_valid
      00000000            | attr_valid_nsec
      00000000            | dummy
      ${ATTR}
    `,
  },
  "SETATTR of everything": {
    opcode: 4,
    body: `
      3f0c0000            | valid: mode uid gid size atime mtime ctime kill_suidgid
      00000000            | padding
      ${FH}               | fh
      0000000001000000    | size 4 GiB
      ${OWNER}            | lock_owner
      ffffffffffffffff    | atime -1
      0200000000000000    | mtime
      0300000001000000    | ctime
      0100003b            | atimensec
      02000000            | mtimensec
      03000000            | ctimensec
      ed890000            | mode 0o104755
      00000000            | unused4
      24232221            | uid
      34333231            | gid
      00000000            | unused5
    `,
    answers: { "attributes.setattr": STAT },
    calls: [
      [
        "attributes.setattr",
        NODEID,
        {
          mode: 0o4755,
          uid: 0x21222324,
          gid: 0x31323334,
          size: 2 ** 32,
          atime: { sec: -1, nsec: 0x3b000001 },
          mtime: { sec: 2, nsec: 2 },
          ctime: { sec: 2 ** 32 + 3, nsec: 3 },
          killSuidgid: true,
        },
      ],
    ],
    reply: `${TIMEOUT} 00000000 00000000 ${ATTR}`,
  },
  "SETATTR of times to now": {
    opcode: 4,
    body: `
      b0010000            | valid: atime mtime and both _now
      ${"00".repeat(84)}  | the rest
    `,
    answers: { "attributes.setattr": STAT },
    calls: [["attributes.setattr", NODEID, { atime: "now", mtime: "now" }]],
    reply: `${TIMEOUT} 00000000 00000000 ${ATTR}`,
  },
  "READLINK gives the target without a NUL": {
    opcode: 5,
    answers: { "tree.readlink": Buffer.from("../to") },
    calls: [["tree.readlink", NODEID]],
    reply: "2e2e2f746f",
  },
  "SYMLINK has name and target": {
    opcode: 6,
    body: `
      6c00                | name "l"
      612f6200            | target "a/b"
    `,
    answers: { "tree.symlink": STAT },
    calls: [["tree.symlink", NODEID, "l", "a/b", { ...WHO, umask: 0 }], REF],
    reply: ENTRY,
  },
  "MKNOD leaves the umask to the core": {
    opcode: 8,
    body: `
      b6210000            | mode: character device 0666
      4523e10f            | rdev
      12000000            | umask 022
      00000000            | padding
      6e00                | name
    `,
    answers: { "tree.mknod": STAT },
    calls: [["tree.mknod", NODEID, "n", 0o020666, 0x0fe12345, WHO], REF],
    reply: ENTRY,
  },
  MKDIR: {
    opcode: 9,
    body: `
      ff030000            | mode 01777
      12000000            | umask 022
      6400                | name
    `,
    answers: { "tree.mkdir": STAT },
    calls: [["tree.mkdir", NODEID, "d", 0o1777, WHO], REF],
    reply: ENTRY,
  },
  UNLINK: { opcode: 10, body: "7500", calls: [["tree.unlink", NODEID, "u"]], reply: "" },
  RMDIR: { opcode: 11, body: "7200", calls: [["tree.rmdir", NODEID, "r"]], reply: "" },
  RENAME: {
    opcode: 12,
    body: `
      0908070605000000    | newdir
      6f6c6400            | old name
      6e657700            | new name
    `,
    calls: [["tree.rename", NODEID, "old", 0x0506070809, "new", 0]],
    reply: "",
  },
  "RENAME2 with flags": {
    opcode: 45,
    body: `
      0908070605000000    | newdir
      02000000            | RENAME_EXCHANGE
      00000000            | padding
      6f6c6400            | old name
      6e657700            | new name
    `,
    calls: [["tree.rename", NODEID, "old", 0x0506070809, "new", 2]],
    reply: "",
  },
  LINK: {
    opcode: 13,
    body: `
      0908070605000000    | oldnodeid
      6c00                | name
    `,
    answers: { "tree.link": STAT },
    calls: [["tree.link", 0x0506070809, NODEID, "l"], REF],
    reply: ENTRY,
  },
  "READ fills the reply in place": {
    opcode: 15,
    body: `
      ${FH}               | fh
      0010000003000000    | offset
      00020000            | size 512
      00000000            | read_flags
      ${OWNER}            | lock_owner
      00000000            | flags
      00000000            | padding
    `,
    answers: {
      "files.read": (_ino: number, _offset: number, _length: number, into: Uint8Array) => {
        into.set([1, 2, 3]);
        return 3;
      },
    },
    calls: [["files.read", NODEID, 0x300001000, 512, expect.anything()]],
    reply: "010203",
  },
  WRITE: {
    opcode: 16,
    body: `
      ${FH}               | fh
      0110000003000000    | offset
      05000000            | size
      04000000            | write_flags: kill_suidgid
      ${OWNER}            | lock_owner
      01800000            | flags
      00000000            | padding
      68656c6c6f          | data
    `,
    answers: { "files.write": 5 },
    calls: [["files.write", NODEID, 0x300001001, "hello", true]],
    reply: `
      05000000            | size
      00000000            | padding
    `,
  },
  STATFS: {
    opcode: 17,
    answers: {
      statfs: {
        blockSize: 0x1000,
        blocks: 0x0100000001,
        bfree: 0x0100000002,
        bavail: 0x0100000003,
        files: 0x0100000004,
        ffree: 0x0100000005,
        nameMax: 255,
      },
    },
    calls: [],
    reply: `
      0100000001000000    | blocks
      0200000001000000    | bfree
      0300000001000000    | bavail
      0400000001000000    | files
      0500000001000000    | ffree
      00100000            | bsize
      ff000000            | namelen
      00100000            | frsize
      00000000            | padding
      ${"00".repeat(24)}  | spare
    `,
  },
  "FSYNC commits": {
    opcode: 20,
    body: `${FH} 01000000 00000000`,
    calls: [["fsync", NODEID]],
    reply: "",
  },
  "FSYNCDIR commits": {
    opcode: 30,
    body: `${FH} 00000000 00000000`,
    calls: [["fsync", NODEID]],
    reply: "",
  },
  "SYNCFS commits": { opcode: 50, body: "0000000000000000", calls: [["commit"]], reply: "" },
  SETXATTR: {
    opcode: 21,
    body: `
      03000000            | size
      01000000            | flags: XATTR_CREATE
      01000000            | setxattr_flags: ACL_KILL_SGID
      00000000            | padding
      757365722e6100      | "user.a"
      ff00fe              | value
    `,
    calls: [["xattrs.set", NODEID, "user.a", "\xff\0\xfe", 1, true]],
    reply: "",
  },
  GETXATTR: {
    opcode: 22,
    body: `
      03000000            | size
      00000000            | padding
      757365722e6100      | "user.a"
    `,
    answers: { "xattrs.get": bytes("ff00fe") },
    calls: [["xattrs.get", NODEID, "user.a"]],
    reply: "ff00fe",
  },
  "GETXATTR without room asks for the size": {
    opcode: 22,
    body: "00000000 00000000 757365722e6100",
    answers: { "xattrs.get": bytes("ff00fe") },
    calls: [["xattrs.get", NODEID, "user.a"]],
    reply: `
      03000000            | size
      00000000            | padding
    `,
  },
  "GETXATTR with too little room": {
    opcode: 22,
    body: "02000000 00000000 757365722e6100",
    answers: { "xattrs.get": bytes("ff00fe") },
    calls: [["xattrs.get", NODEID, "user.a"]],
    reply: -E.ERANGE,
  },
  "GETXATTR of one that is absent": {
    opcode: 22,
    body: "00000000 00000000 757365722e6100",
    calls: [["xattrs.get", NODEID, "user.a"]],
    reply: -E.ENODATA,
  },
  "GETXATTR of an empty one with room gives nothing": {
    opcode: 22,
    body: "10000000 00000000 757365722e6100",
    answers: { "xattrs.get": bytes("") },
    calls: [["xattrs.get", NODEID, "user.a"]],
    reply: "",
  },
  LISTXATTR: {
    opcode: 23,
    body: "10000000 00000000",
    answers: { "xattrs.list": Buffer.from("user.a\0user.b\0") },
    calls: [["xattrs.list", NODEID]],
    reply: "757365722e6100 757365722e6200",
  },
  REMOVEXATTR: {
    opcode: 24,
    body: "757365722e6100",
    calls: [["xattrs.remove", NODEID, "user.a"]],
    reply: "",
  },
  "READDIR gives . and .. and then the entries, padded to 8 bytes": {
    opcode: 28,
    body: `
      ${FH}               | fh
      0000000000000000    | offset
      00100000            | size
      00000000            | read_flags
      ${OWNER}            | lock_owner
      00000000 00000000   | flags, padding
    `,
    answers: { "tree.parentOf": 0x77, "tree.readdir": visiting(ENTRIES) },
    calls: [
      ["tree.parentOf", NODEID],
      ["tree.readdir", NODEID, 0, "visit"],
    ],
    reply: `
      0504030201000000    | ino of the directory
      0100000000000000    | off
      01000000            | namelen
      04000000            | type: directory
      2e00000000000000    | ".", padded
      7700000000000000    | ino of its parent
      0200000000000000    | off
      02000000            | namelen
      04000000            | type
      2e2e000000000000    | ".."
      0b0a000000000000    | ino
      4300000000000000    | off: cookie + 2
      09000000            | namelen
      08000000            | type: regular
      6e696e652062797465  | "nine byte"
      00000000000000      | padding
      0d0c000000000000    | ino
      4400000001000000    | off: cookie + 2
      08000000            | namelen
      04000000            | type: directory
      6569676874202038    | "eight  8", no padding
    `,
  },
  "READDIR goes on after an entry": {
    opcode: 28,
    body: `${FH} 4300000000000000 00100000 00000000 ${OWNER} 00000000 00000000`,
    answers: { "tree.readdir": visiting(ENTRIES) },
    calls: [["tree.readdir", NODEID, 0x41, "visit"]],
    reply: "0d0c000000000000 4400000001000000 08000000 04000000 6569676874202038",
  },
  "READDIR stops where the next entry does not fit": {
    opcode: 28,
    body: `${FH} 0100000000000000 47000000 00000000 ${OWNER} 00000000 00000000`,
    answers: { "tree.parentOf": 0x77, "tree.readdir": visiting(ENTRIES) },
    calls: [
      ["tree.parentOf", NODEID],
      ["tree.readdir", NODEID, 0, "visit"],
    ],
    reply: "7700000000000000 0200000000000000 02000000 04000000 2e2e000000000000",
  },
  "READDIR at the end gives nothing": {
    opcode: 28,
    body: `${FH} 4400000001000000 00100000 00000000 ${OWNER} 00000000 00000000`,
    answers: { "tree.readdir": visiting(ENTRIES) },
    calls: [["tree.readdir", NODEID, 0x100000042, "visit"]],
    reply: "",
  },
  "READDIRPLUS takes references for all but . and ..": {
    opcode: 44,
    body: `${FH} 0100000000000000 00100000 00000000 ${OWNER} 00000000 00000000`,
    answers: {
      "tree.parentOf": 0x77,
      "tree.readdirplus": visiting([{ ...(ENTRIES[0] as Entry), ino: STAT.ino }]),
    },
    calls: [
      ["tree.parentOf", NODEID],
      ["tree.readdirplus", NODEID, 0, "visit"],
      ["inodes.ref", STAT.ino],
    ],
    reply: `
      ${"00".repeat(128)} | no entry for ".."
      7700000000000000    | ino
      0200000000000000    | off
      02000000            | namelen
      04000000            | type
      2e2e000000000000    | ".."
      ${ENTRY}
      0203040506000000    | ino
      4300000000000000    | off
      09000000            | namelen
      08000000            | type
      6e696e652062797465  | "nine byte"
      00000000000000      | padding
    `,
  },
  "FALLOCATE of one who may not keep suid": {
    opcode: 43,
    body: `
      ${FH}               | fh
      0010000000000000    | offset
      0020000001000000    | length
      03000000            | mode: punch hole, keep size
      00000000            | padding
    `,
    calls: [["files.fallocate", NODEID, 3, 0x1000, 0x100002000, true]],
    reply: "",
  },
  LSEEK: {
    opcode: 46,
    body: `
      ${FH}               | fh
      0000000001000000    | offset
      04000000            | whence: SEEK_HOLE
      00000000            | padding
    `,
    answers: { "files.lseek": 0x0302010000 },
    calls: [["files.lseek", NODEID, 2 ** 32, 4]],
    reply: "0000010203000000",
  },
  COPY_FILE_RANGE: {
    opcode: 47,
    body: `
      ${FH}               | fh_in
      0100000001000000    | off_in
      0908070605000000    | nodeid_out
      ${FH}               | fh_out
      0200000001000000    | off_out
      0000000000000100    | len
      0000000000000000    | flags
    `,
    answers: { "files.copyFileRange": 0x2000000 },
    calls: [["files.copyFileRange", NODEID, 2 ** 32 + 1, 0x0506070809, 2 ** 32 + 2, 2 ** 48, true]],
    reply: `
      00000002            | size
      00000000            | padding
    `,
  },
  COPY_FILE_RANGE_64: {
    opcode: 53,
    body: `${FH} 0100000001000000 0908070605000000 ${FH} 0200000001000000 0700000000000000 0000000000000000`,
    answers: { "files.copyFileRange": 7 },
    calls: [["files.copyFileRange", NODEID, 2 ** 32 + 1, 0x0506070809, 2 ** 32 + 2, 7, true]],
    reply: "0700000000000000",
  },
  "COPY_FILE_RANGE with unknown flags": {
    opcode: 47,
    body: `${FH} 0000000000000000 0908070605000000 ${FH} 0000000000000000 0700000000000000 0100000000000000`,
    calls: [],
    reply: -E.EINVAL,
  },
  "TMPFILE gives an entry that is open": {
    opcode: 51,
    body: `
      02804100            | flags
      b6810000            | mode 0o100666
      12000000            | umask
      00000000            | open_flags
      2300                | a name that means nothing
    `,
    answers: { "tree.tmpfile": STAT },
    calls: [["tree.tmpfile", NODEID, 0o100666, WHO], REF],
    reply: `
      ${ENTRY}
      0000000000000000    | fh
      22000000            | open_flags: keep_cache, noflush
      00000000            | backing_id
    `,
  },
  "STATX tells the birth time": {
    opcode: 52,
    body: `
      00000000            | getattr_flags
      00000000            | reserved
      ${FH}               | fh
      00000000            | sx_flags
      ff0f0000            | sx_mask
    `,
    answers: { "attributes.getattr": STAT },
    calls: [["attributes.getattr", NODEID]],
    reply: `
      ${TIMEOUT}          | attr_valid
      00000000            | attr_valid_nsec
      00000000            | flags
      ${"00".repeat(16)}  | spare
      ff0f0000            | mask: basic stats and btime
      00000100            | blksize
      0000000000000000    | attributes
      11000000            | nlink
      24232221            | uid
      34333231            | gid
      a081                | mode
      0000                | spare0
      0203040506000000    | ino
      f1ffffffffff1f00    | size
      0405060708000000    | blocks
      0000000000000000    | attributes_mask
      0100006500000000 04030201 00000000 | atime
      0400006500000000 100f0e0d 00000000 | btime
      0300006501000000 0c0b0a09 00000000 | ctime
      feffffffffffffff 08070605 00000000 | mtime
      23010000            | rdev_major
      45fe0000            | rdev_minor: low 8 bits and the top 12
      00000000 00000000   | dev
      ${"00".repeat(112)} | spare2
    `,
  },
  "RELEASE has nothing to let go": {
    opcode: 18,
    body: `${FH} 00000000 00000000 ${OWNER}`,
    calls: [],
    reply: "",
  },
  "OPENDIR lets the kernel keep the listing": {
    opcode: 27,
    body: "00000100 00000000",
    calls: [],
    reply: "0000000000000000 0a000000 00000000",
  },
  RELEASEDIR: { opcode: 29, body: `${FH} 00000000 00000000 ${OWNER}`, calls: [], reply: "" },
  "IOCTL is unknown to every file": {
    opcode: 39,
    body: `${FH} 00000000 01660880 0000000000000000 00000000 04000000`,
    calls: [],
    reply: -E.ENOTTY,
  },
  "DESTROY is answered": { opcode: 38, calls: [], reply: "" },
};

describe("golden bytes", () => {
  test.each(Object.entries(GOLDEN))("%s", (_name, golden) => {
    const { volume, calls } = noting(golden.answers);
    const [reply, ...more] = converse(volume, [frame(golden.opcode, bytes(golden.body ?? ""))]);
    expect(calls).toEqual(golden.calls);
    expect(more).toEqual([]);
    const expected =
      typeof golden.reply === "number" ? answer(bytes(""), golden.reply) : answer(bytes(golden.reply));
    expect(dump(reply ?? bytes(""))).toBe(dump(expected));
  });
});

describe("what has no reply", () => {
  test("FORGET gives references back", () => {
    const { volume, calls } = noting();
    expect(converse(volume, [frame(2, bytes("0300000000000000"))])).toEqual([]);
    expect(calls).toEqual([["inodes.unref", NODEID, 3]]);
  });

  test("BATCH_FORGET gives references of many back", () => {
    const { volume, calls } = noting();
    const body = bytes(`
      02000000            | count
      00000000            | dummy
      0908070605000000    | nodeid
      0200000000000000    | nlookup
      0a08070605000000    | nodeid
      0100000000000000    | nlookup
    `);
    expect(converse(volume, [frame(42, body, 0)])).toEqual([]);
    expect(calls).toEqual([
      ["inodes.unref", 0x0506070809, 2],
      ["inodes.unref", 0x050607080a, 1],
    ]);
  });

  test("INTERRUPT and NOTIFY_REPLY are taken in silence", () => {
    const { volume, calls } = noting();
    expect(converse(volume, [frame(36, bytes("8877665544332211")), frame(41, bytes("00"))])).toEqual([]);
    expect(calls).toEqual([]);
  });

  test("a FORGET that the core chokes on is still not answered", () => {
    const { volume } = noting({
      "inodes.unref": () => {
        throw new Error("a bug");
      },
    });
    expect(converse(volume, [frame(2, bytes("0300000000000000"))])).toEqual([]);
  });
});

describe("a listing that the kernel keeps", () => {
  test("is dropped at the first open after a change, and kept at the next", () => {
    const { volume } = noting();
    const opendir = () => frame(27, bytes("00000100 00000000"));
    const unlink = frame(10, bytes("6100"));
    const replies = converse(volume, [opendir(), unlink, opendir(), opendir()]);
    const flags = [0, 2, 3].map((i) => replies[i]?.readUInt32LE(16 + 8));
    expect(flags).toEqual([0x0a, 0x08, 0x0a]);
  });
});

describe("what is not served", () => {
  test.each([
    ["OPEN", 14, 8],
    ["FLUSH", 25, 24],
    ["GETLK", 31, 48],
    ["SETLK", 32, 48],
    ["SETLKW", 33, 48],
    ["CREATE", 35, 18],
    ["BMAP", 37, 16],
    ["POLL", 40, 24],
    ["SETUPMAPPING", 48, 40],
    ["REMOVEMAPPING", 49, 4],
    ["an opcode of the future", 54, 16],
    ["CUSE_INIT", 4096, 16],
    ["an opcode beyond all", 0xffff_ffff, 0],
  ])("%s gets ENOSYS", (_name, opcode, size) => {
    const { volume, calls } = noting();
    const [reply] = converse(volume, [frame(opcode, Buffer.alloc(size))]);
    expect(dump(reply ?? bytes(""))).toBe(dump(answer(bytes(""), -E.ENOSYS)));
    expect(calls).toEqual([]);
  });
});

describe("how a mount presents things", () => {
  test("uid and gid stand in for every owner", () => {
    const { volume } = noting({ "attributes.getattr": STAT });
    const [reply] = converse(volume, [frame(3, Buffer.alloc(16))], { uid: 0x41424344, gid: 0x51525354 });
    expect(reply?.readUInt32LE(16 + 16 + 68)).toBe(0x41424344);
    expect(reply?.readUInt32LE(16 + 16 + 72)).toBe(0x51525354);
  });

  test("refusals of the core become their errno, and what nobody foresaw EIO", () => {
    const logged: string[] = [];
    for (const [error, errno] of [
      [new FsError("ENOTEMPTY"), E.ENOTEMPTY],
      [new FsError("EOPNOTSUPP"), E.EOPNOTSUPP],
      [new TypeError("undefined is not a function"), E.EIO],
      ["thrown text", E.EIO],
    ] as const) {
      const { volume } = noting({
        "tree.rmdir": () => {
          throw error;
        },
      });
      const [reply] = converse(volume, [frame(11, bytes("7200"))], { onLog: (line) => logged.push(line) });
      expect(reply?.readInt32LE(4)).toBe(-errno);
    }
    expect(logged.map((line) => line.split("\n")[0])).toEqual([
      "RMDIR: TypeError: undefined is not a function",
      "RMDIR: thrown text",
    ]);
  });
});
