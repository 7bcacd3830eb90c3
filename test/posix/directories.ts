/** opendir, readdir, telldir, seekdir, closedir: what one sees of a directory, also while it changes. */
import assert from "node:assert/strict";
import { type Dirent, O, S, SEEK, sys } from "../helpers/libc.ts";
import { ALICE, type Cases, type Tools } from "./tools.ts";

/** More than a few replies of any size. */
const HUGE = 3000;

function opened<T>(path: string, work: (fd: number) => T): T {
  const fd = sys.open(path, O.RDONLY | O.DIRECTORY);
  try {
    return work(fd);
  } finally {
    sys.close(fd);
  }
}

const dots = (entry: Dirent): boolean => entry.name !== "." && entry.name !== "..";

/** Reads to the end; a scan that never ends is a failure, not a hang. */
function rest(fd: number, room?: number, most = 20 * HUGE): Dirent[] {
  const all: Dirent[] = [];
  for (;;) {
    const some = sys.getdents(fd, room);
    if (some.length === 0) return all;
    all.push(...some);
    assert.ok(all.length <= most, `the scan does not end: ${all.length} entries`);
  }
}

function once(seen: readonly string[], expected: readonly string[], what: string): void {
  const counts = new Map<string, number>();
  for (const name of seen) counts.set(name, (counts.get(name) ?? 0) + 1);
  const twice = [...counts].filter(([, n]) => n > 1).map(([name]) => name);
  assert.deepEqual(twice, [], `${what}: seen twice`);
  const missed = expected.filter((name) => !counts.has(name));
  assert.deepEqual(missed, [], `${what}: missed`);
}

function huge(dir: string, t: Tools, count = HUGE): { path: string; names: string[] } {
  const path = `${dir}/huge`;
  sys.mkdir(path);
  return { path, names: t.fill(path, count) };
}

export const readdir: Cases = {
  'an empty directory lists "." and "..", with their inode numbers': (dir) => {
    sys.mkdir(`${dir}/d`);
    const entries = sys.readdir(`${dir}/d`);
    assert.deepEqual(entries.map((entry) => entry.name).sort(), [".", ".."]);
    const ino = (name: string) => entries.find((entry) => entry.name === name)?.ino;
    assert.equal(ino("."), sys.lstat(`${dir}/d`).ino);
    assert.equal(ino(".."), sys.lstat(dir).ino);
    for (const entry of entries) assert.equal(entry.type, S.DIR >> 12);
  },
  "reading on behind the end gives nothing, again and again": (dir, t) => {
    t.fill(dir, 10);
    opened(dir, (fd) => {
      rest(fd);
      assert.equal(sys.getdents(fd).length, 0);
      assert.equal(sys.getdents(fd).length, 0);
    });
  },
  "a huge directory is listed whole, each name once, with little and with much room": (dir, t) => {
    const { path, names } = huge(dir, t);
    for (const room of [280, 4096, 262_144]) {
      const seen = opened(path, (fd) => rest(fd, room)).filter(dots);
      once(
        seen.map((entry) => entry.name),
        names,
        `room ${room}`,
      );
      assert.equal(seen.length, names.length);
    }
  },
  "two scans of one huge directory at once do not disturb each other": (dir, t) => {
    const { path, names } = huge(dir, t);
    opened(path, (a) =>
      opened(path, (b) => {
        const seen: [string[], string[]] = [[], []];
        const ended = [false, false];
        while (!ended[0] || !ended[1]) {
          for (const [which, fd, room] of [
            [0, a, 1000],
            [1, b, 2500],
          ] as const) {
            if (ended[which]) continue;
            const some = sys.getdents(fd, room);
            if (some.length === 0) ended[which] = true;
            seen[which].push(...some.filter(dots).map((entry) => entry.name));
          }
        }
        for (const one of seen) {
          once(one, names, "scan");
          assert.equal(one.length, names.length);
        }
        assert.deepEqual(seen[0], seen[1], "both in the same order");
      }),
    );
  },
  "two scans in two processes at once see everything": (dir, t) => {
    const { path, names } = huge(dir, t, 1000);
    const said = t.python(
      path,
      `
pids = []
for i in range(4):
    pid = os.fork()
    if pid == 0:
        for _ in range(3):
            if len(os.listdir(".")) != ${names.length}: os._exit(1)
        os._exit(0)
    pids.append(pid)
print([os.waitpid(p, 0)[1] for p in pids])
`,
    );
    assert.equal(said, "[0, 0, 0, 0]");
  },
  "two huge directories are scanned in turn": (dir, t) => {
    const one = huge(dir, t, 800);
    sys.mkdir(`${dir}/other`);
    const names = t.fill(`${dir}/other`, 900, "g");
    opened(one.path, (a) =>
      opened(`${dir}/other`, (b) => {
        const seen: [string[], string[]] = [[], []];
        for (let more = true; more; ) {
          const [x, y] = [sys.getdents(a, 500), sys.getdents(b, 700)];
          seen[0].push(...x.filter(dots).map((entry) => entry.name));
          seen[1].push(...y.filter(dots).map((entry) => entry.name));
          more = x.length + y.length > 0;
        }
        assert.deepEqual(seen[0].sort(), one.names);
        assert.deepEqual(seen[1].sort(), names);
      }),
    );
  },
  "what is deleted behind the scan leaves the rest of the scan whole": (dir, t) => {
    const { path, names } = huge(dir, t, 1200);
    const seen: string[] = [];
    opened(path, (fd) => {
      for (;;) {
        const some = sys.getdents(fd, 1000).filter(dots);
        if (some.length === 0) break;
        for (const { name } of some) {
          seen.push(name);
          sys.unlink(`${path}/${name}`);
        }
      }
    });
    once(seen, names, "scan with deletes");
    assert.deepEqual(t.names(path), []);
  },
  "what is deleted ahead of the scan is not needed to go on, and the rest is seen once": (dir, t) => {
    const { path, names } = huge(dir, t, 1200);
    opened(path, (fd) => {
      const first = sys.getdents(fd, 1000).filter(dots);
      const seen = new Set(first.map((entry) => entry.name));
      const ahead = names.filter((name) => !seen.has(name));
      const doomed = ahead.filter((_, i) => i % 2 === 0);
      for (const name of doomed) sys.unlink(`${path}/${name}`);
      const later = rest(fd, 1000).filter(dots);
      const stay = ahead.filter((_, i) => i % 2 === 1);
      once(
        [...first, ...later].map((entry) => entry.name),
        stay,
        "scan with deletes ahead",
      );
    });
  },
  "a scan during which names are created ends, and sees the old names once": (dir, t) => {
    const { path, names } = huge(dir, t, 1000);
    opened(path, (fd) => {
      const seen: string[] = [];
      for (let i = 0; ; ) {
        const some = sys.getdents(fd, 1000);
        if (some.length === 0) break;
        seen.push(...some.filter(dots).map((entry) => entry.name));
        for (let n = 0; n < 10 && i < 1000; n++) t.file(`${path}/new${i++}`);
        assert.ok(seen.length < 5000, "the scan does not end");
      }
      once(
        seen.filter((name) => name.startsWith("f")),
        names,
        "scan with creates",
      );
      once(seen, [], "scan with creates");
    });
  },
  "a scan during which everything seen is renamed ends, and misses no name that stays": (dir, t) => {
    const { path, names } = huge(dir, t, 1000);
    const staying = names.filter((_, i) => i % 3 === 0);
    const moving = new Set(names.filter((_, i) => i % 3 !== 0));
    opened(path, (fd) => {
      const seen: string[] = [];
      for (;;) {
        const some = sys.getdents(fd, 1000).filter(dots);
        if (some.length === 0) break;
        for (const { name } of some) {
          seen.push(name);
          if (moving.has(name)) sys.rename(`${path}/${name}`, `${path}/moved-${name}`);
        }
        assert.ok(seen.length < 20_000, "the scan does not end");
      }
      once(
        seen.filter((name) => staying.includes(name)),
        staying,
        "names that stay",
      );
    });
    assert.equal(t.names(path).length, names.length);
  },
  "each cookie leads to the entry behind it, from anywhere": (dir, t) => {
    const { path } = huge(dir, t, 500);
    opened(path, (fd) => {
      const all = rest(fd, 2000);
      const cookies = all.map((entry) => entry.cookie);
      assert.equal(new Set(cookies).size, cookies.length, "cookies are unique");
      for (let i = 0; i < all.length; i += 23) {
        sys.lseek(fd, cookies[i] ?? 0n, SEEK.SET);
        const next = sys.getdents(fd, 300)[0];
        assert.equal(next?.name, all[i + 1]?.name, `behind entry ${i}`);
      }
      sys.lseek(fd, cookies.at(-1) ?? 0n, SEEK.SET);
      assert.equal(sys.getdents(fd).length, 0);
    });
  },
  "a cookie stays good for a new descriptor, and when its own entry and others are deleted": (dir, t) => {
    const { path } = huge(dir, t, 600);
    const all = opened(path, (fd) => rest(fd));
    const real = all.filter(dots);
    const at = real[300];
    assert.ok(at);
    const behind = real.slice(301).map((entry) => entry.name);
    const doomed = new Set([...real.slice(295, 301), ...real.slice(310, 320)].map((entry) => entry.name));
    for (const name of doomed) sys.unlink(`${path}/${name}`);
    opened(path, (fd) => {
      sys.lseek(fd, at.cookie, SEEK.SET);
      // Of what was deleted since it was listed, a stream that never was at the beginning may still tell.
      assert.deepEqual(
        rest(fd)
          .map((entry) => entry.name)
          .filter((name) => !doomed.has(name)),
        behind.filter((name) => !doomed.has(name)),
      );
    });
  },
  "rewinding shows what came since": (dir, t) => {
    t.fill(dir, 5);
    opened(dir, (fd) => {
      rest(fd);
      t.file(`${dir}/late`);
      sys.unlink(`${dir}/f00002`);
      sys.lseek(fd, 0, SEEK.SET);
      const names = rest(fd).map((entry) => entry.name);
      assert.ok(names.includes("late"));
      assert.ok(!names.includes("f00002"));
    });
  },
  "a listing is never stale: each change shows in the next listing": (dir, t) => {
    for (let i = 0; i < 20; i++) {
      t.file(`${dir}/n${i}`);
      assert.ok(t.names(dir).includes(`n${i}`), `n${i} made`);
      if (i % 2) sys.unlink(`${dir}/n${i}`);
      else sys.rename(`${dir}/n${i}`, `${dir}/m${i}`);
      assert.ok(!t.names(dir).includes(`n${i}`), `n${i} gone`);
    }
    assert.equal(t.names(dir).length, 10);
  },
  "a listing that one process holds open shows to others as it is": (dir, t) => {
    t.fill(dir, 200);
    opened(dir, (fd) => {
      sys.getdents(fd, 1000);
      t.python(dir, `os.unlink("f00199"); open("new", "w").close()`);
      assert.ok(t.names(dir).includes("new"));
      assert.ok(!t.names(dir).includes("f00199"));
    });
  },
  "duplicates of a descriptor share the position": (dir, t) => {
    t.fill(dir, 300);
    const said = t.python(
      dir,
      `
fd = os.open(".", os.O_RDONLY); other = os.dup(fd)
import ctypes
libc = ctypes.CDLL(None, use_errno=True); buf = ctypes.create_string_buffer(1000)
n = 0
while True:
    a = libc.getdents64(fd, buf, 1000); b = libc.getdents64(other, buf, 1000)
    n += a + b
    if b == 0: break
print(n)
`,
    );
    const expected = sys
      .readdir(dir)
      .reduce((sum, entry) => sum + ((19 + entry.name.length + 1 + 7) & ~7), 0);
    assert.equal(Number(said), expected);
  },
  "too little room for one entry is EINVAL and loses nothing": (dir, t) => {
    const name = "n".repeat(255);
    t.file(`${dir}/${name}`);
    opened(dir, (fd) => {
      t.refuses("EINVAL", () => sys.getdents(fd, 16));
      const seen = rest(fd, 300).map((entry) => entry.name);
      assert.deepEqual(seen.sort(), [".", "..", name]);
    });
  },
  "five hundred names of 255 bytes are listed with room for three": (dir) => {
    const names: string[] = [];
    for (let i = 0; i < 500; i++) {
      const name = String(i).padStart(255, "x");
      sys.mknod(`${dir}/${name}`, 0o100600);
      names.push(name);
    }
    const seen = opened(dir, (fd) => rest(fd, 900)).filter(dots);
    assert.deepEqual(seen.map((entry) => entry.name).sort(), names.sort());
  },
  "reading a file as a directory is ENOTDIR, and a directory as a file EISDIR": (dir, t) => {
    t.file(`${dir}/f`, "x");
    t.refuses("ENOTDIR", () => sys.open(`${dir}/f`, O.RDONLY | O.DIRECTORY));
    t.using(`${dir}/f`, O.RDONLY, (fd) => t.refuses("ENOTDIR", () => sys.getdents(fd)));
    opened(dir, (fd) => t.refuses("EISDIR", () => sys.read(fd, 10)));
    for (const flags of [O.WRONLY, O.RDWR, O.RDONLY | O.TRUNC, O.WRONLY | O.CREAT]) {
      t.refuses("EISDIR", () => sys.open(dir, flags));
    }
  },
  "a listing needs read permission, and opening what is in it only search permission": (dir, t) => {
    t.needsRoot();
    sys.mkdir(`${dir}/x`);
    t.file(`${dir}/x/f`, "data");
    sys.chmod(`${dir}/x`, 0o711);
    t.as(ALICE, () => {
      t.refuses("EACCES", () => sys.open(`${dir}/x`, O.RDONLY | O.DIRECTORY));
      assert.equal(t.text(`${dir}/x/f`), "data");
    });
    sys.chmod(`${dir}/x`, 0o744);
    t.as(ALICE, () => {
      assert.deepEqual(t.names(`${dir}/x`), ["f"]);
      t.refuses("EACCES", () => sys.lstat(`${dir}/x/f`));
    });
  },
  "a directory opened before chmod 0 is still read": (dir, t) => {
    t.needsRoot();
    sys.mkdir(`${dir}/x`);
    t.file(`${dir}/x/f`);
    const fd = t.as(ALICE, () => sys.open(`${dir}/x`, O.RDONLY | O.DIRECTORY));
    sys.chmod(`${dir}/x`, 0);
    assert.equal(t.as(ALICE, () => rest(fd)).length, 3);
    sys.close(fd);
  },
  "closing and opening again starts from the beginning": (dir, t) => {
    const { path } = huge(dir, t, 300);
    const first = opened(path, (fd) => sys.getdents(fd, 1000));
    const again = opened(path, (fd) => sys.getdents(fd, 1000));
    assert.deepEqual(
      again.map((entry) => entry.name),
      first.map((entry) => entry.name),
    );
    t.refuses("EBADF", () => sys.getdents(999_999));
  },
  "a directory is fsynced, also one that was just changed or removed": (dir, t) => {
    sys.mkdir(`${dir}/d`);
    opened(`${dir}/d`, (fd) => {
      sys.fsync(fd);
      t.file(`${dir}/d/f`);
      sys.fsync(fd);
      sys.fdatasync(fd);
      sys.unlink(`${dir}/d/f`);
      sys.rmdir(`${dir}/d`);
      sys.fsync(fd);
    });
  },
  "rm -r empties a tree of directories and files": (dir, t) => {
    for (let i = 0; i < 20; i++) {
      sys.mkdir(`${dir}/d${i}`);
      for (let j = 0; j < 5; j++) {
        sys.mkdir(`${dir}/d${i}/e${j}`);
        t.fill(`${dir}/d${i}/e${j}`, 5);
      }
    }
    assert.equal(t.run("find", [dir, "-type", "f"]).split("\n").length - 1, 500);
    t.run("rm", ["-r", ...t.names(dir)], { cwd: dir });
    assert.deepEqual(t.names(dir), []);
    assert.equal(sys.lstat(dir).nlink, 2);
  },
  "what is made, removed and made again under one name is listed once": (dir, t) => {
    for (let i = 0; i < 50; i++) {
      t.file(`${dir}/again`);
      if (i < 49) sys.unlink(`${dir}/again`);
    }
    assert.deepEqual(t.names(dir), ["again"]);
  },
};
