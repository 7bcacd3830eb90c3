/** Bytes in files: open flags, read, write, append, truncate, big and small, buffered and direct. */
import assert from "node:assert/strict";
import { aligned, LOCK, O, SEEK, sys } from "../helpers/libc.ts";
import { ALICE, BOB, type Cases, type Tools } from "./tools.ts";

const MiB = 1 << 20;
const GiB = 2 ** 30;
/** The largest size of a file on the volume. */
const LARGEST = Number.MAX_SAFE_INTEGER;

/** Block sizes that a filesystem might have: offsets round their multiples are where arithmetic goes wrong. */
const EDGES = [512, 4096, 8192, 16_256, 16_384, 32_512, 32_768, 65_536, 131_072, 262_144, 524_288, MiB];

function sizeWorks(dir: string) {
  return (): boolean => {
    try {
      sys.mknod(`${dir}/probe`, 0o100600);
      sys.truncate(`${dir}/probe`, LARGEST);
      return true;
    } catch {
      return false;
    }
  };
}

/** Reads a range back past the page cache and compares it. */
function verify(t: Tools, path: string, expected: Buffer, what: string): void {
  t.using(path, O.RDWR, (fd) => sys.dropCache(fd));
  t.same(t.read(path), expected, what);
}

export const open: Cases = {
  "O_CREAT makes what is missing, O_CREAT with O_EXCL only that": (dir, t) => {
    sys.close(sys.open(`${dir}/f`, O.WRONLY | O.CREAT | O.EXCL, 0o640));
    assert.equal(sys.lstat(`${dir}/f`).perm, 0o640);
    t.file(`${dir}/f`, "kept");
    t.refuses("EEXIST", () => sys.open(`${dir}/f`, O.WRONLY | O.CREAT | O.EXCL));
    t.refuses("EEXIST", () => sys.open(dir, O.RDONLY | O.CREAT | O.EXCL));
    sys.close(sys.open(`${dir}/f`, O.WRONLY | O.CREAT, 0o777));
    assert.equal(t.text(`${dir}/f`), "kept");
    assert.equal(sys.lstat(`${dir}/f`).perm, 0o640);
  },
  "O_CREAT goes through a dangling symlink, O_EXCL does not": (dir, t) => {
    sys.symlink("target", `${dir}/l`);
    t.refuses("EEXIST", () => sys.open(`${dir}/l`, O.WRONLY | O.CREAT | O.EXCL));
    assert.deepEqual(t.names(dir), ["l"]);
    t.using(`${dir}/l`, O.WRONLY | O.CREAT, (fd) => sys.write(fd, "x"));
    assert.equal(t.text(`${dir}/target`), "x");
  },
  "O_CREAT in a missing directory is ENOENT, below a file ENOTDIR": (dir, t) => {
    t.file(`${dir}/f`);
    t.refuses("ENOENT", () => sys.open(`${dir}/no/f`, O.WRONLY | O.CREAT));
    t.refuses("ENOTDIR", () => sys.open(`${dir}/f/g`, O.WRONLY | O.CREAT));
  },
  "O_EXCL lets exactly one of many processes through": (dir, t) => {
    const said = t.python(
      dir,
      `
wins = 0
for round in range(20):
    pids = []
    for i in range(4):
        pid = os.fork()
        if pid == 0:
            os._exit(0 if errno_of(os.open, "f%d" % round, os.O_CREAT | os.O_EXCL | os.O_WRONLY) == "done" else 1)
        pids.append(pid)
    wins += sum(os.waitpid(p, 0)[1] == 0 for p in pids)
print(wins)
`,
    );
    assert.equal(said, "20");
  },
  "O_TRUNC empties the file, and moves mtime and ctime": (dir, t) => {
    t.file(`${dir}/f`, t.noise(10_000));
    const moved = t.moved(`${dir}/f`, () => sys.close(sys.open(`${dir}/f`, O.WRONLY | O.TRUNC)));
    assert.equal(sys.lstat(`${dir}/f`).size, 0);
    assert.equal(sys.lstat(`${dir}/f`).blocks, 0);
    assert.deepEqual(moved, { atime: false, mtime: true, ctime: true });
  },
  "O_TRUNC by who may not write is EACCES and keeps the data": (dir, t) => {
    t.file(`${dir}/f`, "kept");
    t.as(ALICE, () => {
      t.refuses("EACCES", () => sys.open(`${dir}/f`, O.WRONLY | O.TRUNC));
      t.refuses("EACCES", () => sys.open(`${dir}/f`, O.RDONLY | O.TRUNC));
    });
    assert.equal(t.text(`${dir}/f`), "kept");
  },
  "a descriptor opened while O_TRUNC empties the file reads nothing more": (dir, t) => {
    t.file(`${dir}/f`, t.noise(200_000));
    t.using(`${dir}/f`, O.RDONLY, (fd) => {
      assert.equal(sys.pread(fd, 10, 100_000).length, 10);
      sys.close(sys.open(`${dir}/f`, O.WRONLY | O.TRUNC));
      assert.equal(sys.pread(fd, 10, 100_000).length, 0);
      assert.equal(sys.pread(fd, 10, 0).length, 0);
    });
  },
  "a file made without write permission is still written through the descriptor that made it": (dir, t) => {
    t.needsRoot();
    sys.chmod(dir, 0o777);
    t.as(ALICE, () => {
      t.using(`${dir}/f`, O.RDWR | O.CREAT | O.EXCL, (fd) => sys.write(fd, "once"), 0o400);
      t.refuses("EACCES", () => sys.open(`${dir}/f`, O.WRONLY));
      assert.equal(t.text(`${dir}/f`), "once");
    });
  },
  "reading what was opened for writing, and writing what was opened for reading, is EBADF": (dir, t) => {
    t.file(`${dir}/f`, "x");
    t.using(`${dir}/f`, O.WRONLY, (fd) => t.refuses("EBADF", () => sys.read(fd, 1)));
    t.using(`${dir}/f`, O.RDONLY, (fd) => t.refuses("EBADF", () => sys.write(fd, "y")));
    assert.equal(t.text(`${dir}/f`), "x");
  },
  "O_PATH tells about a file of mode 0 and reads nothing": (dir, t) => {
    t.needsRoot();
    t.file(`${dir}/f`, "x");
    sys.chmod(`${dir}/f`, 0);
    t.as(ALICE, () =>
      t.using(`${dir}/f`, O.PATH, (fd) => {
        assert.equal(sys.fstat(fd).size, 1);
        t.refuses("EBADF", () => sys.read(fd, 1));
      }),
    );
  },
  "descriptors of one file have positions of their own": (dir, t) => {
    t.file(`${dir}/f`, "0123456789");
    t.using(`${dir}/f`, O.RDONLY, (a) =>
      t.using(`${dir}/f`, O.RDONLY, (b) => {
        assert.equal(sys.read(a, 4).toString(), "0123");
        assert.equal(sys.read(b, 2).toString(), "01");
        assert.equal(sys.read(a, 4).toString(), "4567");
        assert.equal(sys.lseek(a, -1, SEEK.END), 9);
        assert.equal(sys.lseek(b, 3, SEEK.CUR), 5);
        assert.equal(sys.read(b, 1).toString(), "5");
        t.refuses("EINVAL", () => sys.lseek(a, -1, SEEK.SET));
      }),
    );
  },
  "fifty descriptors at once, of one file and of fifty": (dir, t) => {
    const fds: number[] = [];
    for (let i = 0; i < 50; i++) {
      fds.push(sys.open(`${dir}/shared`, O.RDWR | O.CREAT), sys.open(`${dir}/own${i}`, O.RDWR | O.CREAT));
    }
    for (const [i, fd] of fds.entries()) sys.pwrite(fd, String(i % 10), Math.floor(i / 2));
    for (const fd of fds) sys.close(fd);
    assert.equal(t.read(`${dir}/shared`).length, 50);
    assert.equal(sys.lstat(`${dir}/own49`).size, 50);
  },
};

export const readWrite: Cases = {
  "what is written is read back, at every edge and one byte beside it": (dir, t) => {
    const data = t.noise(1_300_017, 3);
    t.file(`${dir}/f`, data);
    t.using(`${dir}/f`, O.RDWR, (fd) => {
      sys.dropCache(fd);
      for (const edge of EDGES) {
        for (const start of [edge - 1, edge, edge + 1]) {
          for (const length of [1, 2, 511, 4097]) {
            const expected = data.subarray(start, start + length);
            t.same(sys.pread(fd, length, start), expected, `${length} bytes at ${start}`);
          }
        }
      }
    });
    verify(t, `${dir}/f`, data, "whole file");
  },
  "unaligned reads of every length and offset see the right bytes": (dir, t) => {
    const data = t.noise(300_000, 4);
    t.file(`${dir}/f`, data);
    let seed = 12345;
    const random = (below: number): number => {
      seed = (seed * 1103515245 + 12345) % 2147483648;
      return seed % below;
    };
    t.using(`${dir}/f`, O.RDWR, (fd) => {
      for (let i = 0; i < 400; i++) {
        if (i % 50 === 0) sys.dropCache(fd);
        const start = random(310_000);
        const length = random(i % 3 === 0 ? 100_000 : 300);
        t.same(sys.pread(fd, length, start), data.subarray(start, start + length), `${length} at ${start}`);
      }
    });
  },
  "unaligned writes of every length and offset land where they should": (dir, t) => {
    const model = Buffer.alloc(500_000);
    let size = 0;
    let seed = 99;
    const random = (below: number): number => {
      seed = (seed * 1103515245 + 12345) % 2147483648;
      return seed % below;
    };
    t.using(`${dir}/f`, O.RDWR | O.CREAT, (fd) => {
      for (let i = 0; i < 250; i++) {
        const start = random(400_000);
        const length = 1 + random(i % 4 === 0 ? 90_000 : 700);
        const data = t.noise(length, i + 1);
        assert.equal(sys.pwrite(fd, data, start), length);
        data.copy(model, start);
        size = Math.max(size, start + length);
      }
      assert.equal(sys.fstat(fd).size, size);
    });
    verify(t, `${dir}/f`, model.subarray(0, size), "after unaligned writes");
  },
  "writes that cross each edge by a few bytes leave their neighbours alone": (dir, t) => {
    const model = t.noise(MiB + 5000, 8);
    t.file(`${dir}/f`, model);
    t.using(`${dir}/f`, O.RDWR, (fd) => {
      for (const [i, edge] of EDGES.entries()) {
        const patch = Buffer.alloc(7, i + 1);
        sys.pwrite(fd, patch, edge - 3);
        patch.copy(model, edge - 3);
      }
    });
    verify(t, `${dir}/f`, model, "patched file");
  },
  "a file grows byte by byte": (dir, t) => {
    t.using(`${dir}/f`, O.RDWR | O.CREAT, (fd) => {
      for (let i = 0; i < 600; i++) {
        sys.pwrite(fd, Buffer.from([i & 0xff]), i);
        assert.equal(sys.fstat(fd).size, i + 1);
      }
      const expected = Buffer.from(Array.from({ length: 600 }, (_, i) => i & 0xff));
      t.same(t.readFd(fd), expected, "bytes");
    });
  },
  "reads at and behind the end give nothing, across the end what is there": (dir, t) => {
    t.file(`${dir}/f`, "0123456789");
    t.using(`${dir}/f`, O.RDONLY, (fd) => {
      assert.equal(sys.pread(fd, 5, 10).length, 0);
      assert.equal(sys.pread(fd, 5, 1_000_000).length, 0);
      assert.equal(sys.pread(fd, 5, 2 ** 40).length, 0);
      assert.equal(sys.pread(fd, 100, 7).toString(), "789");
      assert.equal(sys.pread(fd, 0, 3).length, 0);
    });
  },
  "a negative offset is EINVAL": (dir, t) => {
    t.file(`${dir}/f`, "x");
    t.using(`${dir}/f`, O.RDWR, (fd) => {
      t.refuses("EINVAL", () => sys.pread(fd, 1, -1));
      t.refuses("EINVAL", () => sys.pwrite(fd, "y", -1));
    });
    assert.equal(t.text(`${dir}/f`), "x");
  },
  "a write of nothing changes nothing": (dir, t) => {
    t.file(`${dir}/f`, "x");
    const moved = t.moved(`${dir}/f`, () =>
      t.using(`${dir}/f`, O.WRONLY, (fd) => {
        assert.equal(sys.write(fd, ""), 0);
        assert.equal(sys.pwrite(fd, "", 1000), 0);
      }),
    );
    assert.equal(sys.lstat(`${dir}/f`).size, 1);
    assert.equal(moved.mtime, false);
  },
  "one write of five megabytes, and one read of it": (dir, t) => {
    const data = t.noise(5 * MiB + 123, 5);
    t.using(`${dir}/f`, O.RDWR | O.CREAT, (fd) => {
      assert.equal(sys.write(fd, data), data.length);
      sys.dropCache(fd);
      t.same(sys.pread(fd, data.length + 10, 0), data, "in one read");
    });
  },
  "a write behind the end leaves zeros between": (dir, t) => {
    t.file(`${dir}/f`, "abc");
    t.using(`${dir}/f`, O.RDWR, (fd) => sys.pwrite(fd, "xyz", 300_000));
    const expected = Buffer.alloc(300_003);
    expected.write("abc", 0);
    expected.write("xyz", 300_000);
    verify(t, `${dir}/f`, expected, "file with a gap");
  },
  "a gap costs no space": (dir) => {
    const fd = sys.open(`${dir}/f`, O.RDWR | O.CREAT);
    sys.pwrite(fd, "end", 64 * MiB);
    assert.ok(sys.fstat(fd).blocks * 512 <= MiB, `${sys.fstat(fd).blocks} blocks`);
    assert.equal(sys.pread(fd, 10, 32 * MiB).compare(Buffer.alloc(10)), 0);
    sys.close(fd);
  },
  "a block in the middle that was never written reads as zeros between data": (dir, t) => {
    const data = t.noise(70_000, 6);
    t.using(`${dir}/f`, O.RDWR | O.CREAT, (fd) => {
      sys.pwrite(fd, data, 0);
      sys.pwrite(fd, data, 5 * MiB);
    });
    const expected = Buffer.alloc(5 * MiB + data.length);
    data.copy(expected, 0);
    data.copy(expected, 5 * MiB);
    verify(t, `${dir}/f`, expected, "island");
  },
  "overwriting keeps size and space": (dir, t) => {
    t.file(`${dir}/f`, t.noise(400_000, 1));
    const before = sys.lstat(`${dir}/f`);
    t.using(`${dir}/f`, O.RDWR, (fd) => {
      for (let i = 0; i < 30; i++) sys.pwrite(fd, t.noise(50_000, i + 2), i * 10_000);
    });
    const after = sys.lstat(`${dir}/f`);
    assert.equal(after.size, before.size);
    assert.equal(after.blocks, before.blocks);
  },
  "st_blocks tells about what the data takes": (dir, t) => {
    t.file(`${dir}/f`, t.noise(MiB, 1));
    const bytes = sys.lstat(`${dir}/f`).blocks * 512;
    assert.ok(bytes >= MiB && bytes <= MiB * 1.25, `${bytes} bytes`);
    t.file(`${dir}/g`, "x");
    assert.ok(sys.lstat(`${dir}/g`).blocks > 0, "one byte takes a block");
    assert.ok(sys.lstat(`${dir}/f`).blockSize >= 512);
  },
  "twenty files written in turns do not mix": (dir, t) => {
    const fds = Array.from({ length: 20 }, (_, i) => sys.open(`${dir}/f${i}`, O.RDWR | O.CREAT));
    for (let round = 0; round < 20; round++) {
      for (const [i, fd] of fds.entries()) sys.write(fd, t.noise(3001, round * 100 + i));
    }
    for (const [i, fd] of fds.entries()) {
      const expected = Buffer.concat(Array.from({ length: 20 }, (_, r) => t.noise(3001, r * 100 + i)));
      t.same(t.readFd(fd), expected, `file ${i}`);
      sys.close(fd);
    }
  },
  "what one descriptor writes, another reads at once, in another process too": (dir, t) => {
    t.file(`${dir}/f`, "first version");
    t.using(`${dir}/f`, O.RDONLY, (reader) =>
      t.using(`${dir}/f`, O.WRONLY, (writer) => {
        assert.equal(t.readFd(reader).toString(), "first version");
        sys.pwrite(writer, "SECOND", 0);
        assert.equal(t.readFd(reader).toString(), "SECONDversion");
        assert.equal(t.python(dir, `print(open("f").read())`), "SECONDversion");
        t.python(dir, `fd = os.open("f", os.O_WRONLY); os.pwrite(fd, b"third", 20)`);
        assert.equal(sys.pread(reader, 5, 20).toString(), "third");
        assert.equal(sys.fstat(writer).size, 25);
      }),
    );
  },
  "vectored reads and writes keep their order": (dir, t) => {
    const said = t.python(
      dir,
      `
fd = os.open("f", os.O_CREAT | os.O_RDWR)
parts = [bytes([i]) * (i * 37 % 500 + 1) for i in range(1, 200)]
n = os.pwritev(fd, parts, 5)
whole = b"".join(parts)
bufs = [bytearray(len(p)) for p in parts]
m = os.preadv(fd, bufs, 5)
print(n == len(whole), m == n, b"".join(bytes(b) for b in bufs) == whole, os.pread(fd, 5, 0) == bytes(5))
`,
    );
    assert.equal(said, "True True True True");
  },
  "sendfile and splice read the file": (dir, t) => {
    const data = t.noise(200_000, 7);
    t.file(`${dir}/f`, data);
    t.python(
      dir,
      `
a = os.open("f", os.O_RDONLY); b = os.open("g", os.O_CREAT | os.O_WRONLY)
at = 0
while True:
    n = os.sendfile(b, a, at, 70000)
    if n == 0: break
    at += n
r, w = os.pipe(); c = os.open("h", os.O_CREAT | os.O_WRONLY)
while True:
    n = os.splice(a, w, 30000)
    if n == 0: break
    while n: n -= os.splice(r, c, n)
`,
    );
    t.same(t.read(`${dir}/g`), data, "by sendfile");
    t.same(t.read(`${dir}/h`), data, "by splice");
  },
  "signals during reads and writes tear nothing": (dir, t) => {
    const said = t.python(
      dir,
      `
hits = 0
def hit(*_):
    global hits
    hits += 1
signal.signal(signal.SIGALRM, hit)
signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
fd = os.open("f", os.O_CREAT | os.O_RDWR)
parts = [bytes([i + 1]) * (300000 + i) for i in range(40)]
at = 0
for p in parts:
    done = 0
    while done < len(p): done += os.pwrite(fd, p[done:], at + done)
    at += len(p)
    os.fsync(fd)
names = 0
for i in range(200):
    os.close(os.open("n%d" % i, os.O_CREAT | os.O_EXCL | os.O_WRONLY)); names += 1
os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
got = b""
while len(got) < at: got += os.pread(fd, 1 << 20, len(got))
signal.setitimer(signal.ITIMER_REAL, 0)
print(got == b"".join(parts), len(os.listdir(".")) == names + 1, hits > 5)
`,
    );
    assert.equal(said, "True True True");
  },
  "a written file is executed, and cannot be written meanwhile": (dir, t) => {
    t.run("cp", ["/bin/sleep", `${dir}/prog`]);
    t.file(`${dir}/script`, "#!/bin/sh\necho from a script\n");
    sys.chmod(`${dir}/script`, 0o755);
    assert.equal(t.run(`${dir}/script`, []), "from a script\n");
    const said = t.python(
      dir,
      `
pid = os.spawnv(os.P_NOWAIT, "./prog", ["prog", "5"])
time.sleep(0.1)
print(errno_of(os.open, "prog", os.O_WRONLY))
os.kill(pid, 9); os.waitpid(pid, 0)
print(errno_of(os.open, "prog", os.O_WRONLY))
`,
    );
    assert.equal(said, "ETXTBSY\ndone");
  },
  "a file without execute permission is not executed": (dir, t) => {
    t.file(`${dir}/s`, "#!/bin/sh\n");
    assert.equal(t.python(dir, `print(errno_of(os.execv, "./s", ["s"]))`), "EACCES");
  },
  "O_SYNC and O_DSYNC write, and fsync and fdatasync work on any descriptor": (dir, t) => {
    t.using(`${dir}/f`, O.WRONLY | O.CREAT | O.SYNC, (fd) => sys.write(fd, "sync"));
    t.using(`${dir}/f`, O.WRONLY | O.DSYNC, (fd) => sys.pwrite(fd, "dsync", 4));
    t.using(`${dir}/f`, O.RDONLY, (fd) => {
      sys.fsync(fd);
      sys.fdatasync(fd);
      sys.syncfs(fd);
      assert.equal(t.readFd(fd).toString(), "syncdsync");
    });
  },
};

export const append: Cases = {
  "O_APPEND writes at the end, wherever the position is": (dir, t) => {
    t.file(`${dir}/f`, "start");
    t.using(`${dir}/f`, O.RDWR | O.APPEND, (fd) => {
      sys.lseek(fd, 0, SEEK.SET);
      sys.write(fd, "+one");
      assert.equal(sys.lseek(fd, 0, SEEK.CUR), 9);
      t.using(`${dir}/f`, O.WRONLY, (other) => sys.pwrite(other, "behind", 9));
      sys.write(fd, "+two");
      assert.equal(t.text(`${dir}/f`), "start+onebehind+two");
    });
  },
  "pwrite to an O_APPEND descriptor appends, as Linux does": (dir, t) => {
    t.file(`${dir}/f`, "0123");
    t.using(`${dir}/f`, O.WRONLY | O.APPEND, (fd) => sys.pwrite(fd, "X", 0));
    assert.equal(t.text(`${dir}/f`), "0123X");
  },
  "two O_APPEND descriptors in turns lose nothing": (dir, t) => {
    const a = sys.open(`${dir}/f`, O.WRONLY | O.CREAT | O.APPEND);
    const b = sys.open(`${dir}/f`, O.WRONLY | O.CREAT | O.APPEND);
    for (let i = 0; i < 50; i++) {
      sys.write(a, `a${i};`);
      sys.write(b, `b${i};`);
    }
    sys.close(a);
    sys.close(b);
    const expected = Array.from({ length: 50 }, (_, i) => `a${i};b${i};`).join("");
    assert.equal(t.text(`${dir}/f`), expected);
  },
  "four processes append whole lines": (dir, t) => {
    t.python(
      dir,
      `
pids = []
for p in range(4):
    pid = os.fork()
    if pid == 0:
        fd = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for i in range(150): os.write(fd, (b"%d:%03d:" % (p, i)) + b"x" * (i * 7 % 91) + b"\\n")
        os._exit(0)
    pids.append(pid)
for p in pids: os.waitpid(p, 0)
`,
    );
    const lines = t.text(`${dir}/log`).split("\n").slice(0, -1);
    assert.equal(lines.length, 600);
    for (const line of lines) assert.match(line, /^\d:\d{3}:x*$/);
    assert.equal(new Set(lines.map((line) => line.slice(0, 5))).size, 600);
  },
  "appending after truncate starts at the new end": (dir, t) => {
    t.using(`${dir}/f`, O.RDWR | O.CREAT | O.APPEND, (fd) => {
      sys.write(fd, t.noise(100_000));
      sys.ftruncate(fd, 5);
      sys.write(fd, "next");
      assert.equal(sys.fstat(fd).size, 9);
      assert.equal(sys.pread(fd, 10, 5).toString(), "next");
    });
  },
};

export const truncate: Cases = {
  "truncate cuts, and what is left is unchanged": (dir, t) => {
    const data = t.noise(300_000, 2);
    for (const size of [299_999, 262_145, 262_144, 131_073, 65_536, 65_535, 4097, 4096, 1, 0]) {
      t.file(`${dir}/f`, data);
      sys.truncate(`${dir}/f`, size);
      assert.equal(sys.lstat(`${dir}/f`).size, size);
      verify(t, `${dir}/f`, data.subarray(0, size), `cut to ${size}`);
    }
  },
  "truncate extends with zeros": (dir, t) => {
    t.file(`${dir}/f`, "abc");
    sys.truncate(`${dir}/f`, 200_000);
    const expected = Buffer.alloc(200_000);
    expected.write("abc");
    verify(t, `${dir}/f`, expected, "extended");
  },
  "what was cut off is zeros when the file grows again, at every edge": (dir, t) => {
    const data = Buffer.alloc(1_100_000, 0xee);
    for (const edge of EDGES) {
      for (const size of [edge - 1, edge, edge + 1]) {
        t.file(`${dir}/f`, data.subarray(0, edge + 50_000));
        sys.truncate(`${dir}/f`, size);
        sys.truncate(`${dir}/f`, edge + 40_000);
        const expected = Buffer.alloc(edge + 40_000);
        data.copy(expected, 0, 0, size);
        verify(t, `${dir}/f`, expected, `cut to ${size}`);
      }
    }
  },
  "what was cut off is zeros when a write behind the end makes the file grow": (dir, t) => {
    for (const size of [100, 4095, 65_537]) {
      t.file(`${dir}/f`, Buffer.alloc(150_000, 0xdd));
      t.using(`${dir}/f`, O.RDWR, (fd) => {
        sys.ftruncate(fd, size);
        sys.pwrite(fd, "end", 140_000);
      });
      const expected = Buffer.alloc(140_003);
      expected.fill(0xdd, 0, size);
      expected.write("end", 140_000);
      verify(t, `${dir}/f`, expected, `cut to ${size}`);
    }
  },
  "cutting and writing again leaves no old byte": (dir, t) => {
    t.using(`${dir}/f`, O.RDWR | O.CREAT, (fd) => {
      sys.pwrite(fd, Buffer.alloc(10_000, 1), 0);
      sys.ftruncate(fd, 3000);
      sys.pwrite(fd, Buffer.alloc(10, 2), 5000);
      sys.ftruncate(fd, 9000);
      const expected = Buffer.alloc(9000);
      expected.fill(1, 0, 3000);
      expected.fill(2, 5000, 5010);
      t.same(t.readFd(fd), expected, "file");
    });
  },
  "truncate to 0 gives the space back": (dir, t) => {
    t.file(`${dir}/f`, t.noise(MiB));
    sys.truncate(`${dir}/f`, 0);
    assert.equal(sys.lstat(`${dir}/f`).blocks, 0);
    t.file(`${dir}/g`, t.noise(MiB));
    sys.truncate(`${dir}/g`, 300_000);
    assert.ok(sys.lstat(`${dir}/g`).blocks * 512 < MiB * 0.6);
  },
  "extending costs no space": (dir) => {
    const fd = sys.open(`${dir}/f`, O.RDWR | O.CREAT);
    sys.ftruncate(fd, GiB);
    assert.equal(sys.fstat(fd).size, GiB);
    assert.ok(sys.fstat(fd).blocks * 512 <= MiB);
    sys.close(fd);
  },
  "truncate moves mtime and ctime": (dir, t) => {
    t.file(`${dir}/f`, "0123456789");
    for (const size of [5, 20]) {
      const moved = t.moved(`${dir}/f`, () => sys.truncate(`${dir}/f`, size));
      assert.deepEqual(moved, { atime: false, mtime: true, ctime: true }, `to ${size}`);
    }
    const moved = t.moved(`${dir}/f`, () => t.using(`${dir}/f`, O.WRONLY, (fd) => sys.ftruncate(fd, 20)));
    assert.deepEqual(moved, { atime: false, mtime: true, ctime: true }, "to the size that it has");
  },
  "truncate is refused: directory EISDIR, missing ENOENT, negative EINVAL, not writable EACCES": (dir, t) => {
    t.file(`${dir}/f`, "kept");
    t.refuses("EISDIR", () => sys.truncate(dir, 0));
    t.refuses("ENOENT", () => sys.truncate(`${dir}/no`, 0));
    t.refuses("ENOTDIR", () => sys.truncate(`${dir}/f/x`, 0));
    t.refuses("EINVAL", () => sys.truncate(`${dir}/f`, -1));
    t.using(`${dir}/f`, O.RDONLY, (fd) => t.refuses(["EINVAL", "EBADF"], () => sys.ftruncate(fd, 0)));
    if (t.root) t.as(BOB, () => t.refuses("EACCES", () => sys.truncate(`${dir}/f`, 0)));
    assert.equal(t.text(`${dir}/f`), "kept");
  },
  "an open reader sees the new end at once": (dir, t) => {
    t.file(`${dir}/f`, t.noise(100_000));
    t.using(`${dir}/f`, O.RDONLY, (fd) => {
      assert.equal(sys.pread(fd, 100, 90_000).length, 100);
      sys.truncate(`${dir}/f`, 50_000);
      assert.equal(sys.pread(fd, 100, 90_000).length, 0);
      assert.equal(sys.pread(fd, 100, 49_950).length, 50);
      sys.truncate(`${dir}/f`, 100_000);
      t.same(sys.pread(fd, 100, 90_000), Buffer.alloc(100), "zeros now");
    });
  },
};

export const large: Cases = {
  "offsets past 2 and 4 GiB keep their bytes": (dir, t) => {
    const data = t.noise(100_001, 9);
    t.using(`${dir}/f`, O.RDWR | O.CREAT, (fd) => {
      const starts = [2 * GiB - 7, 4 * GiB - 50_000, 4 * GiB + 123_457, 5 * GiB, 1000 * GiB + 1];
      for (const start of starts) t.put(fd, data, start);
      assert.equal(sys.fstat(fd).size, 1000 * GiB + 1 + data.length);
      sys.dropCache(fd);
      for (const start of starts) t.same(sys.pread(fd, data.length, start), data, `at ${start}`);
      t.same(sys.pread(fd, 100, 3 * GiB), Buffer.alloc(100), "between");
      t.same(sys.pread(fd, 4, 0), Buffer.alloc(4), "nothing wrapped round to 0");
      assert.ok(sys.fstat(fd).blocks * 512 < 20 * MiB);
    });
  },
  "truncating back from far keeps the near data": (dir, t) => {
    t.using(`${dir}/f`, O.RDWR | O.CREAT, (fd) => {
      sys.pwrite(fd, "near", 0);
      sys.pwrite(fd, "far", 6 * GiB);
      sys.ftruncate(fd, 4 * GiB + 1);
      assert.equal(sys.fstat(fd).size, 4 * GiB + 1);
      assert.equal(sys.pread(fd, 4, 0).toString(), "near");
      sys.ftruncate(fd, 7 * GiB);
      t.same(sys.pread(fd, 3, 6 * GiB), Buffer.alloc(3), "cut off");
    });
  },
  "the last byte of a file of 2^53 - 1 bytes is written and read": (dir, t) => {
    t.controlLacks("files of that size", sizeWorks(dir));
    t.using(`${dir}/f`, O.RDWR | O.CREAT, (fd) => {
      sys.pwrite(fd, "Z", LARGEST - 1);
      assert.equal(sys.fstat(fd).size, LARGEST);
      sys.dropCache(fd);
      assert.equal(sys.pread(fd, 1, LARGEST - 1).toString(), "Z");
      t.same(sys.pread(fd, 10, LARGEST - 100), Buffer.alloc(10), "before it");
      assert.equal(sys.lseek(fd, 0, SEEK.END), LARGEST);
    });
  },
  "a file can be extended to 2^53 - 1 bytes and cut again": (dir, t) => {
    t.controlLacks("files of that size", sizeWorks(dir));
    t.file(`${dir}/f`, "abc");
    sys.truncate(`${dir}/f`, LARGEST);
    assert.equal(sys.lstat(`${dir}/f`).size, LARGEST);
    sys.truncate(`${dir}/f`, 3);
    assert.equal(t.text(`${dir}/f`), "abc");
  },
  "beyond 2^53 - 1 bytes is EFBIG, and the file stays as it was": (dir, t) => {
    t.controlLacks("limit at 2^53 - 1 bytes");
    t.using(`${dir}/f`, O.RDWR | O.CREAT, (fd) => {
      sys.pwrite(fd, "abc", 0);
      const far = 2n ** 53n;
      t.refuses("EFBIG", () => sys.pwrite(fd, "x", far - 1n));
      t.refuses("EFBIG", () => sys.pwrite(fd, "xy", far - 2n));
      t.refuses("EFBIG", () => sys.pwrite(fd, "x", far));
      t.refuses("EFBIG", () => sys.pwrite(fd, "x", 2n ** 62n));
      t.refuses("EFBIG", () => sys.ftruncate(fd, far));
      t.refuses("EFBIG", () => sys.ftruncate(fd, 2n ** 63n - 1n));
      t.refuses("EFBIG", () => sys.fallocate(fd, 0, far - 2n, 100));
      assert.equal(sys.fstat(fd).size, 3);
      assert.equal(sys.pread(fd, 10, far).length, 0);
      assert.equal(sys.pread(fd, 10, 2n ** 62n).length, 0);
      assert.equal(t.readFd(fd).toString(), "abc");
    });
  },
  "the process's own size limit gives EFBIG": (dir, t) => {
    const said = t.python(
      dir,
      `
import resource
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000))
fd = os.open("f", os.O_CREAT | os.O_RDWR)
print(os.pwrite(fd, b"x" * 100, 99950), errno_of(os.pwrite, fd, b"x", 100000), errno_of(os.ftruncate, fd, 100001), os.fstat(fd).st_size)
`,
    );
    assert.equal(said, "50 EFBIG EFBIG 100000");
  },
};

const directWorks = (dir: string) => (): boolean => {
  try {
    sys.close(sys.open(`${dir}/probe`, O.RDWR | O.CREAT | O.DIRECT));
    return true;
  } catch {
    return false;
  }
};

export const direct: Cases = {
  "O_DIRECT writes and reads aligned data, past the page cache": (dir, t) => {
    t.controlLacks("O_DIRECT", directWorks(dir));
    const data = aligned(262_144);
    t.noise(data.length, 11).copy(data);
    t.using(`${dir}/f`, O.RDWR | O.CREAT | O.DIRECT, (fd) => {
      assert.equal(sys.pwriteFrom(fd, data, 8192), data.length);
      const back = aligned(data.length);
      assert.equal(sys.preadInto(fd, back, 8192), data.length);
      t.same(back, data, "direct");
      const zeros = aligned(8192);
      sys.preadInto(fd, zeros, 0);
      t.same(zeros, Buffer.alloc(8192), "gap");
    });
    t.same(t.read(`${dir}/f`).subarray(8192), data, "buffered");
  },
  "O_DIRECT needs no alignment on the mount": (dir, t) => {
    t.controlLacks("unaligned O_DIRECT");
    const data = t.noise(100_003, 12);
    t.using(`${dir}/f`, O.RDWR | O.CREAT | O.DIRECT, (fd) => {
      assert.equal(sys.pwrite(fd, data, 777), data.length);
      t.same(sys.pread(fd, 50_001, 1234), data.subarray(457, 50_458), "piece");
      assert.equal(sys.pread(fd, 1000, 777 + data.length - 10).length, 10);
      assert.equal(sys.pread(fd, 1000, 777 + data.length).length, 0);
    });
  },
  "what O_DIRECT writes, buffered readers see at once, and the other way round": (dir, t) => {
    t.controlLacks("O_DIRECT", directWorks(dir));
    t.file(`${dir}/f`, Buffer.alloc(65_536, "a"));
    t.using(`${dir}/f`, O.RDWR, (buffered) =>
      t.using(`${dir}/f`, O.RDWR | O.DIRECT, (straight) => {
        assert.equal(sys.pread(buffered, 1, 8192).toString(), "a");
        const block = aligned(4096);
        block.fill("b");
        sys.pwriteFrom(straight, block, 8192);
        assert.equal(sys.pread(buffered, 1, 8192).toString(), "b");
        assert.equal(sys.pread(buffered, 1, 8191).toString(), "a");
        sys.pwrite(buffered, "c", 12_288);
        const back = aligned(4096);
        sys.preadInto(straight, back, 12_288);
        assert.equal(back.toString("latin1", 0, 2), "ca");
      }),
    );
  },
  "O_DIRECT reads end at the end of the file": (dir, t) => {
    t.controlLacks("O_DIRECT", directWorks(dir));
    t.file(`${dir}/f`, t.noise(10_000));
    t.using(`${dir}/f`, O.RDONLY | O.DIRECT, (fd) => {
      assert.equal(sys.preadInto(fd, aligned(8192), 8192), 10_000 - 8192);
      assert.equal(sys.preadInto(fd, aligned(8192), 16_384), 0);
    });
  },
  "O_DIRECT writes extend the file": (dir, t) => {
    t.controlLacks("O_DIRECT", directWorks(dir));
    t.using(`${dir}/f`, O.WRONLY | O.CREAT | O.DIRECT, (fd) => {
      for (let i = 0; i < 8; i++) sys.pwriteFrom(fd, aligned(4096).fill(i + 1), i * 4096);
    });
    const data = t.read(`${dir}/f`);
    assert.equal(data.length, 32_768);
    for (let i = 0; i < 8; i++) assert.equal(data[i * 4096 + 4095], i + 1);
  },
  "a large O_DIRECT transfer is whole": (dir, t) => {
    t.controlLacks("O_DIRECT", directWorks(dir));
    const data = aligned(3 * MiB);
    t.noise(data.length, 13).copy(data);
    t.using(`${dir}/f`, O.RDWR | O.CREAT | O.DIRECT, (fd) => {
      assert.equal(sys.pwriteFrom(fd, data, 0), data.length);
      const back = aligned(data.length);
      assert.equal(sys.preadInto(fd, back, 0), data.length);
      t.same(back, data, "3 MiB");
    });
  },
};

export const openAndGone: Cases = {
  "an unlinked file that is open is read, written, grown and cut": (dir, t) => {
    const data = t.noise(200_000, 1);
    t.file(`${dir}/f`, data);
    t.using(`${dir}/f`, O.RDWR, (fd) => {
      sys.unlink(`${dir}/f`);
      assert.equal(sys.fstat(fd).nlink, 0);
      sys.dropCache(fd);
      t.same(t.readFd(fd), data, "after unlink");
      sys.pwrite(fd, "tail", 300_000);
      assert.equal(sys.fstat(fd).size, 300_004);
      sys.ftruncate(fd, 10);
      t.same(t.readFd(fd), data.subarray(0, 10), "cut");
      sys.fsync(fd);
    });
    assert.deepEqual(t.names(dir), []);
  },
  "an unlinked file that is open takes new mode, owner, times and attributes": (dir, t) => {
    t.using(`${dir}/f`, O.RDWR | O.CREAT, (fd) => {
      sys.unlink(`${dir}/f`);
      sys.fchmod(fd, 0o640);
      if (t.root) sys.fchown(fd, 12001, 12002);
      sys.fsetxattr(fd, "user.late", "value");
      assert.equal(sys.fstat(fd).perm, 0o640);
      if (t.root) assert.equal(sys.fstat(fd).uid, 12001);
      assert.equal(sys.fgetxattr(fd, "user.late").toString(), "value");
      sys.fallocate(fd, 0, 0, 50_000);
      assert.equal(sys.fstat(fd).size, 50_000);
    });
  },
  "a new file under the name of an unlinked open one is another file": (dir, t) => {
    t.file(`${dir}/f`, "old");
    t.using(`${dir}/f`, O.RDWR, (fd) => {
      sys.unlink(`${dir}/f`);
      t.file(`${dir}/f`, "new file");
      assert.equal(t.readFd(fd).toString(), "old");
      sys.pwrite(fd, "OLD", 0);
      assert.equal(t.text(`${dir}/f`), "new file");
      assert.notEqual(sys.fstat(fd).ino, sys.lstat(`${dir}/f`).ino);
    });
  },
  "an unlinked file that is open cannot be linked back": (dir, t) => {
    t.file(`${dir}/f`);
    t.using(`${dir}/f`, O.RDWR, (fd) => {
      sys.unlink(`${dir}/f`);
      t.refuses("ENOENT", () => sys.linkat(-100, `/proc/self/fd/${fd}`, -100, `${dir}/g`, 0x400));
    });
  },
  "a file with two names that loses one while open stays a file with one": (dir, t) => {
    t.file(`${dir}/a`, "x");
    sys.link(`${dir}/a`, `${dir}/b`);
    t.using(`${dir}/a`, O.RDONLY, (fd) => {
      sys.unlink(`${dir}/a`);
      assert.equal(sys.fstat(fd).nlink, 1);
      sys.unlink(`${dir}/b`);
      assert.equal(sys.fstat(fd).nlink, 0);
      assert.equal(t.readFd(fd).toString(), "x");
    });
  },
  "a hundred unlinked open files keep their data apart": (dir, t) => {
    const fds: number[] = [];
    for (let i = 0; i < 100; i++) {
      const fd = sys.open(`${dir}/f`, O.RDWR | O.CREAT | O.EXCL);
      sys.write(fd, t.noise(5000, i + 1));
      sys.unlink(`${dir}/f`);
      fds.push(fd);
    }
    for (const [i, fd] of fds.entries()) {
      sys.dropCache(fd);
      t.same(t.readFd(fd), t.noise(5000, i + 1), `file ${i}`);
      sys.close(fd);
    }
  },
  "another process keeps an unlinked file alive": (dir, t) => {
    const said = t.python(
      dir,
      `
open("f", "w").write("still here")
fd = os.open("f", os.O_RDONLY)
r, w = os.pipe()
pid = os.fork()
if pid == 0:
    os.read(r, 1)
    os._exit(0 if os.pread(fd, 100, 0) == b"still here" else 1)
os.close(fd); os.unlink("f"); os.write(w, b"x")
print(os.waitpid(pid, 0)[1])
`,
    );
    assert.equal(said, "0");
  },
  "O_TMPFILE makes a file without a name, which can be given one": (dir, t) => {
    t.needsKernel(6, 1);
    const fd = sys.open(dir, O.RDWR | O.TMPFILE, 0o640);
    assert.equal(sys.fstat(fd).nlink, 0);
    assert.equal(sys.fstat(fd).perm, 0o640);
    sys.write(fd, "nameless");
    assert.deepEqual(t.names(dir), []);
    sys.linkat(-100, `/proc/self/fd/${fd}`, -100, `${dir}/named`, 0x400);
    assert.equal(sys.fstat(fd).nlink, 1);
    assert.equal(t.text(`${dir}/named`), "nameless");
    sys.write(fd, "!");
    sys.close(fd);
    assert.equal(t.text(`${dir}/named`), "nameless!");
  },
  "O_TMPFILE that is never linked leaves nothing": (dir, t) => {
    t.needsKernel(6, 1);
    for (let i = 0; i < 20; i++) {
      t.using(dir, O.RDWR | O.TMPFILE, (fd) => {
        sys.write(fd, t.noise(10_000, i));
        t.same(t.readFd(fd), t.noise(10_000, i), "data");
      });
    }
    assert.deepEqual(t.names(dir), []);
  },
  "O_TMPFILE with O_EXCL cannot be linked": (dir, t) => {
    t.needsKernel(6, 1);
    t.using(dir, O.RDWR | O.TMPFILE | O.EXCL, (fd) => {
      t.refuses("ENOENT", () => sys.linkat(-100, `/proc/self/fd/${fd}`, -100, `${dir}/x`, 0x400));
    });
  },
  "O_TMPFILE is refused: read-only EINVAL, in a file ENOTDIR, in a directory not writable EACCES": (
    dir,
    t,
  ) => {
    t.needsKernel(6, 1);
    t.file(`${dir}/f`);
    t.refuses("EINVAL", () => sys.open(dir, O.RDONLY | O.TMPFILE));
    t.refuses("ENOTDIR", () => sys.open(`${dir}/f`, O.RDWR | O.TMPFILE));
    t.refuses("ENOENT", () => sys.open(`${dir}/no`, O.RDWR | O.TMPFILE));
    if (t.root) t.as(ALICE, () => t.refuses("EACCES", () => sys.open(dir, O.RDWR | O.TMPFILE)));
  },
  "a locked, mapped and unlinked file ends with its last descriptor": (dir, t) => {
    const said = t.python(
      dir,
      `
fd = os.open("f", os.O_CREAT | os.O_RDWR); os.ftruncate(fd, 8192)
fcntl.flock(fd, fcntl.LOCK_EX)
m = mmap.mmap(fd, 8192); os.unlink("f"); os.close(fd)
m[5000:5003] = b"abc"; m.flush()
print(m[4999:5004]); m.close(); print(os.listdir("."))
`,
    );
    assert.equal(said, "b'\\x00abc\\x00'\n[]");
  },
};

export const locks: Cases = {
  "flock: many shared or one exclusive": (dir, t) => {
    t.file(`${dir}/f`);
    const [a, b, c] = [0, 1, 2].map(() => sys.open(`${dir}/f`, O.RDWR)) as [number, number, number];
    sys.flock(a, LOCK.SH | LOCK.NB);
    sys.flock(b, LOCK.SH | LOCK.NB);
    t.refuses("EAGAIN", () => sys.flock(c, LOCK.EX | LOCK.NB));
    sys.flock(a, LOCK.UN);
    t.refuses("EAGAIN", () => sys.flock(c, LOCK.EX | LOCK.NB));
    sys.close(b);
    sys.flock(c, LOCK.EX | LOCK.NB);
    t.refuses("EAGAIN", () => sys.flock(a, LOCK.SH | LOCK.NB));
    sys.close(c);
    sys.flock(a, LOCK.EX | LOCK.NB);
    sys.close(a);
  },
  "flock holds against another process and ends with it": (dir, t) => {
    t.file(`${dir}/f`);
    t.using(`${dir}/f`, O.RDWR, (fd) => {
      sys.flock(fd, LOCK.EX);
      const tryIt = `print(errno_of(fcntl.flock, os.open("f", os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB))`;
      assert.equal(t.python(dir, tryIt), "EAGAIN");
      sys.flock(fd, LOCK.UN);
      assert.equal(t.python(dir, tryIt), "done");
      sys.flock(fd, LOCK.EX | LOCK.NB);
    });
  },
  "fcntl locks hold against another process, by ranges": (dir, t) => {
    t.file(`${dir}/f`, "0".repeat(100));
    t.using(`${dir}/f`, O.RDWR, (fd) => {
      sys.lock(fd, 6, { type: 1, start: 10, length: 10 });
      const said = t.python(
        dir,
        `
fd = os.open("f", os.O_RDWR)
for start, length in (0, 10), (20, 5), (19, 1), (5, 6), (0, 0):
    print(errno_of(fcntl.lockf, fd, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start))
got = struct.unpack("hhqqi4x", fcntl.fcntl(fd, fcntl.F_GETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0)))
print(got[0] == fcntl.F_WRLCK, got[2], got[3], got[4])
`,
      );
      assert.equal(said, `done\ndone\nEAGAIN\nEAGAIN\nEAGAIN\nTrue 10 10 ${process.pid}`);
    });
  },
  "closing any descriptor of the file drops the process's fcntl locks": (dir, t) => {
    t.file(`${dir}/f`);
    t.using(`${dir}/f`, O.RDWR, (fd) => {
      t.fcntlLock(fd, 1);
      sys.close(sys.open(`${dir}/f`, O.RDONLY));
      const said = t.python(
        dir,
        `print(errno_of(fcntl.lockf, os.open("f", os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB))`,
      );
      assert.equal(said, "done");
    });
  },
  "open-file-description locks belong to the descriptor, not to the process": (dir, t) => {
    t.file(`${dir}/f`);
    t.using(`${dir}/f`, O.RDWR, (a) =>
      t.using(`${dir}/f`, O.RDWR, (b) => {
        t.fcntlLock(a, 1, 37);
        t.refuses("EAGAIN", () => t.fcntlLock(b, 0, 37));
        sys.close(sys.open(`${dir}/f`, O.RDONLY));
        t.refuses("EAGAIN", () => t.fcntlLock(b, 1, 37));
        const said = t.python(
          dir,
          `print(errno_of(fcntl.lockf, os.open("f", os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB))`,
        );
        assert.equal(said, "EAGAIN");
        t.fcntlLock(a, 2, 37);
        t.fcntlLock(b, 1, 37);
      }),
    );
  },
  "a process that waits for a lock gets it when the other lets go or dies": (dir, t) => {
    const said = t.python(
      dir,
      `
open("f", "w").close()
r, w = os.pipe()
pid = os.fork()
if pid == 0:
    fd = os.open("f", os.O_RDWR); fcntl.lockf(fd, fcntl.LOCK_EX); os.write(w, b"x"); time.sleep(30)
os.read(r, 1)
waiter = os.fork()
if waiter == 0:
    signal.alarm(10); fd = os.open("f", os.O_RDWR); fcntl.lockf(fd, fcntl.LOCK_EX); os._exit(0)
time.sleep(0.15)
print(os.waitpid(waiter, os.WNOHANG)[0])
os.kill(pid, 9); os.waitpid(pid, 0)
print(os.waitpid(waiter, 0)[1])
`,
    );
    assert.equal(said, "0\n0");
  },
  "waiting for each other is EDEADLK": (dir, t) => {
    const said = t.python(
      dir,
      `
open("f", "w").close()
fd = os.open("f", os.O_RDWR); fcntl.lockf(fd, fcntl.LOCK_EX, 1, 0)
r, w = os.pipe()
pid = os.fork()
if pid == 0:
    signal.alarm(10)
    me = os.open("f", os.O_RDWR); fcntl.lockf(me, fcntl.LOCK_EX, 1, 1); os.write(w, b"x")
    fcntl.lockf(me, fcntl.LOCK_EX, 1, 0); os._exit(0)
os.read(r, 1); time.sleep(0.15)
signal.alarm(10)
print(errno_of(fcntl.lockf, fd, fcntl.LOCK_EX, 1, 1))
fcntl.lockf(fd, fcntl.LOCK_UN)
print(os.waitpid(pid, 0)[1])
`,
    );
    assert.match(said, /^EDEADL(OC)?K\n0$/);
  },
};
