/**
 * mmap(2). Each case runs in a process of its own: a fault in mapped memory is a signal, and must fail the case
 * and not the run.
 */
import assert from "node:assert/strict";
import { O, sys } from "../helpers/libc.ts";
import type { Cases } from "./tools.ts";

export const mapped: Cases = {
  "a store through a shared mapping is read at once, and is in the file after msync": (dir, t) => {
    t.file(`${dir}/f`, t.noise(100_000));
    const said = t.python(
      dir,
      `
fd = os.open("f", os.O_RDWR); other = os.open("f", os.O_RDONLY)
m = mmap.mmap(fd, 100000)
m[70000:70005] = b"store"
print(os.pread(other, 5, 70000).decode(), os.pread(fd, 5, 70000).decode())
m.flush()
print(os.pread(other, 5, 70000).decode())
`,
    );
    assert.equal(said, "store store\nstore");
    t.using(`${dir}/f`, O.RDWR, (fd) => sys.dropCache(fd));
    const expected = t.noise(100_000);
    expected.write("store", 70_000);
    t.same(t.read(`${dir}/f`), expected, "file");
  },
  "what is stored and never synced is in the file after unmapping": (dir, t) => {
    t.file(`${dir}/f`, Buffer.alloc(300_000));
    t.python(
      dir,
      `
fd = os.open("f", os.O_RDWR); m = mmap.mmap(fd, 300000)
for i in range(0, 300000, 4096): m[i] = 7
m.close(); os.close(fd)
`,
    );
    t.using(`${dir}/f`, O.RDWR, (fd) => sys.dropCache(fd));
    const expected = Buffer.alloc(300_000);
    for (let i = 0; i < 300_000; i += 4096) expected[i] = 7;
    t.same(t.read(`${dir}/f`), expected, "file");
  },
  "a write shows in a shared mapping at once": (dir, t) => {
    t.file(`${dir}/f`, "0123456789");
    const said = t.python(
      dir,
      `
fd = os.open("f", os.O_RDWR); m = mmap.mmap(fd, 10, prot=mmap.PROT_READ)
a = m[0:10]
os.pwrite(fd, b"XY", 3)
print(a.decode(), m[0:10].decode())
`,
    );
    assert.equal(said, "0123456789 012XY56789");
  },
  "a private mapping sees the file and changes only itself": (dir, t) => {
    t.file(`${dir}/f`, "0123456789");
    const said = t.python(
      dir,
      `
fd = os.open("f", os.O_RDONLY)
m = mmap.mmap(fd, 10, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
m[2:4] = b"--"
print(m[0:10].decode(), os.pread(fd, 10, 0).decode())
`,
    );
    assert.equal(said, "01--456789 0123456789");
    assert.equal(t.text(`${dir}/f`), "0123456789");
  },
  "two processes see each other's stores": (dir, t) => {
    t.file(`${dir}/f`, Buffer.alloc(8192));
    const said = t.python(
      dir,
      `
r, w = os.pipe(); r2, w2 = os.pipe()
pid = os.fork()
fd = os.open("f", os.O_RDWR); m = mmap.mmap(fd, 8192)
if pid == 0:
    os.read(r, 1); ok = m[10:13] == b"abc"; m[5000:5003] = b"xyz"; os.write(w2, b"1" if ok else b"0"); os._exit(0)
m[10:13] = b"abc"; os.write(w, b"x")
print(os.read(r2, 1).decode(), m[5000:5003].decode()); os.waitpid(pid, 0)
`,
    );
    assert.equal(said, "1 xyz");
  },
  "behind the end the last page is zeros, and stores there do not reach the file": (dir, t) => {
    t.file(`${dir}/f`, "abc");
    const said = t.python(
      dir,
      `
import ctypes
fd = os.open("f", os.O_RDWR)
libc = ctypes.CDLL(None, use_errno=True); libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
p = libc.mmap(None, 4096, 3, 1, fd, 0)
print(ctypes.string_at(p, 6))
ctypes.memmove(p + 3, b"junk", 4)
libc.msync(ctypes.c_void_p(p), 4096, 4)
print(os.fstat(fd).st_size, os.pread(fd, 10, 0))
os.ftruncate(fd, 10)
print(os.pread(fd, 10, 0)[:3], os.fstat(fd).st_size)
`,
    );
    assert.equal(said.split("\n")[0], "b'abc\\x00\\x00\\x00'");
    assert.equal(said.split("\n")[1], "3 b'abc'");
    assert.equal(said.split("\n")[2], "b'abc' 10");
  },
  "touching a mapping behind the end is SIGBUS, also after truncate": (dir, t) => {
    t.file(`${dir}/f`, Buffer.alloc(20_000, 1));
    const status = t.pythonStatus(
      dir,
      `
fd = os.open("f", os.O_RDWR); m = mmap.mmap(fd, 20000)
assert m[16384] == 1
os.ftruncate(fd, 4096)
assert m[4095] == 1
m[16384]
`,
    );
    assert.equal(status, "SIGBUS");
  },
  "a mapping lives on after close and unlink": (dir, t) => {
    t.file(`${dir}/f`, t.noise(50_000));
    const said = t.python(
      dir,
      `
fd = os.open("f", os.O_RDWR); want = os.pread(fd, 50000, 0)
m = mmap.mmap(fd, 50000); os.close(fd); os.unlink("f")
m[49999] = 1; m.flush()
print(m[0:49999] == want[:49999], m[49999])
`,
    );
    assert.equal(said, "True 1");
  },
  "a mapping of a replaced file keeps the old content": (dir, t) => {
    t.file(`${dir}/f`, "old content");
    t.file(`${dir}/g`, "new content");
    const said = t.python(
      dir,
      `
fd = os.open("f", os.O_RDWR); m = mmap.mmap(fd, 11)
os.rename("g", "f")
print(m[0:11].decode(), open("f").read())
`,
    );
    assert.equal(said, "old content new content");
  },
  "eight megabytes are stored through a mapping and read by another process": (dir, t) => {
    const said = t.python(
      dir,
      `
import hashlib
size = 8 << 20
fd = os.open("f", os.O_CREAT | os.O_RDWR); os.ftruncate(fd, size)
m = mmap.mmap(fd, size)
data = b"".join(b"%07d\\n" % (i % 10000000) for i in range(1 << 20))
m[:] = data; m.flush(); m.close(); os.close(fd)
print(hashlib.sha256(data).hexdigest())
`,
    );
    t.using(`${dir}/f`, O.RDWR, (fd) => sys.dropCache(fd));
    assert.equal(t.run("sha256sum", [`${dir}/f`]).split(" ")[0], said);
  },
  "stores through a mapping move mtime by the time they are synced": (dir, t) => {
    t.file(`${dir}/f`, Buffer.alloc(4096));
    const moved = t.moved(`${dir}/f`, () =>
      t.python(dir, `fd = os.open("f", os.O_RDWR); m = mmap.mmap(fd, 4096); m[0] = 1; m.flush(); m.close()`),
    );
    assert.equal(moved.mtime, true);
    assert.equal(moved.ctime, true);
  },
  "a file can be mapped for writing only where it is open for writing": (dir, t) => {
    t.file(`${dir}/f`, "data");
    const said = t.python(
      dir,
      `
print(errno_of(lambda: mmap.mmap(os.open("f", os.O_RDONLY), 4)), errno_of(lambda: mmap.mmap(os.open("f", os.O_WRONLY), 4)))
print(errno_of(lambda: mmap.mmap(os.open(".", os.O_RDONLY), 4, prot=mmap.PROT_READ)))
`,
    );
    assert.equal(said.split("\n")[0], "EACCES EACCES");
    assert.match(said.split("\n")[1] ?? "", /ENODEV|EACCES|EINVAL/);
  },
  "a hole that is mapped is filled by a store": (dir, t) => {
    const said = t.python(
      dir,
      `
fd = os.open("f", os.O_CREAT | os.O_RDWR); os.ftruncate(fd, 10 << 20)
m = mmap.mmap(fd, 10 << 20)
print(m[5 << 20], m[(10 << 20) - 1])
m[5 << 20] = 9; m.flush()
print(os.pread(fd, 3, (5 << 20) - 1), os.fstat(fd).st_size == 10 << 20, os.fstat(fd).st_blocks * 512 < 3 << 20)
`,
    );
    assert.equal(said, "0 0\nb'\\x00\\t\\x00' True True");
  },
  "reads, writes and stores of two processes in turns agree": (dir, t) => {
    t.file(`${dir}/f`, Buffer.alloc(65_536));
    const said = t.python(
      dir,
      `
import random
fd = os.open("f", os.O_RDWR); m = mmap.mmap(fd, 65536); model = bytearray(65536); rng = random.Random(5)
bad = 0
for i in range(500):
    at = rng.randrange(65000); n = rng.randrange(1, 500); data = bytes([rng.randrange(256)]) * n
    if i % 2: os.pwrite(fd, data, at)
    else: m[at:at+n] = data
    model[at:at+n] = data
    at = rng.randrange(65000); n = rng.randrange(1, 500)
    if os.pread(fd, n, at) != model[at:at+n] or m[at:at+n] != model[at:at+n]: bad += 1
m.flush()
print(bad, open("f", "rb").read() == bytes(model))
`,
    );
    assert.equal(said, "0 True");
  },
};
