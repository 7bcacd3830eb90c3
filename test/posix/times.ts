/** Times: which operation moves which, and that each nanosecond set is kept. */
import assert from "node:assert/strict";
import { O, S, sys, type When } from "../helpers/libc.ts";
import { ALICE, BOB, type Cases, type Tools } from "./tools.ts";

const SEC = 1_000_000_000n;
const DAY = 86_400n * SEC;
const now = (): bigint => BigInt(Date.now()) * 1_000_000n;

const NOTHING = { atime: false, mtime: false, ctime: false };
const CTIME = { atime: false, mtime: false, ctime: true };
const CHANGED = { atime: false, mtime: true, ctime: true };

/** Reads past what the page cache holds. */
function readThrough(path: string): void {
  const fd = sys.open(path, O.RDONLY);
  sys.dropCache(fd);
  sys.pread(fd, 100, 0);
  sys.close(fd);
}

function needsRelatime(dir: string, t: Tools): void {
  t.controlLacks("relatime", () => {
    t.file(`${dir}/probe`, "x");
    sys.utimens(`${dir}/probe`, 0n, "omit");
    readThrough(`${dir}/probe`);
    return sys.lstat(`${dir}/probe`).atimeNs > 0n;
  });
}

export const times: Cases = {
  "all times of what is made are now, and the directory's mtime and ctime move": (dir, t) => {
    const makers: Record<string, (path: string) => void> = {
      file: (path) => t.file(path),
      directory: (path) => sys.mkdir(path),
      symlink: (path) => sys.symlink("x", path),
      fifo: (path) => sys.mknod(path, S.FIFO | 0o600),
    };
    for (const [what, make] of Object.entries(makers)) {
      const moved = t.moved(dir, () => make(`${dir}/${what}`));
      assert.deepEqual(moved, CHANGED, `directory, by a ${what}`);
      const stat = sys.lstat(`${dir}/${what}`);
      t.recent(stat.mtimeNs, `mtime of a ${what}`);
      t.recent(stat.ctimeNs, `ctime of a ${what}`);
      t.recent(stat.atimeNs, `atime of a ${what}`);
    }
  },
  "link, unlink, rmdir and rename move the directory's mtime and ctime": (dir, t) => {
    t.file(`${dir}/f`);
    sys.mkdir(`${dir}/d`);
    const steps: Record<string, () => void> = {
      link: () => sys.link(`${dir}/f`, `${dir}/g`),
      rename: () => sys.rename(`${dir}/g`, `${dir}/h`),
      unlink: () => sys.unlink(`${dir}/h`),
      rmdir: () => sys.rmdir(`${dir}/d`),
    };
    for (const [what, step] of Object.entries(steps)) assert.deepEqual(t.moved(dir, step), CHANGED, what);
  },
  "what changes a file in it leaves a directory's times alone": (dir, t) => {
    t.file(`${dir}/f`);
    const moved = t.moved(dir, () => {
      t.using(`${dir}/f`, O.WRONLY, (fd) => sys.write(fd, "x"));
      sys.chmod(`${dir}/f`, 0o600);
      sys.truncate(`${dir}/f`, 100);
      sys.utimens(`${dir}/f`, 0n, 0n);
      sys.lstat(`${dir}/f`);
    });
    assert.deepEqual(moved, NOTHING);
  },
  "operations that fail leave the directory's times alone": (dir, t) => {
    t.file(`${dir}/f`);
    sys.mkdir(`${dir}/d`);
    t.file(`${dir}/d/x`);
    const moved = t.moved(dir, () => {
      t.refuses("EEXIST", () => sys.mkdir(`${dir}/f`));
      t.refuses("ENOTEMPTY", () => sys.rmdir(`${dir}/d`));
      t.refuses("ENOENT", () => sys.unlink(`${dir}/no`));
      t.refuses("EISDIR", () => sys.rename(`${dir}/f`, `${dir}/d`));
      t.refuses("EEXIST", () => sys.link(`${dir}/f`, `${dir}/d`));
    });
    assert.deepEqual(moved, NOTHING);
  },
  "a write moves mtime and ctime, each time": (dir, t) => {
    t.file(`${dir}/f`, "x");
    for (const offset of [0, 5, 100_000]) {
      const moved = t.moved(`${dir}/f`, () =>
        t.using(`${dir}/f`, O.WRONLY, (fd) => sys.pwrite(fd, "y", offset)),
      );
      assert.deepEqual(moved, CHANGED, `at ${offset}`);
    }
  },
  "through one descriptor each write shows in fstat, not only at close": (dir, t) => {
    t.using(`${dir}/f`, O.RDWR | O.CREAT, (fd) => {
      let last = sys.fstat(fd).mtimeNs;
      for (let i = 0; i < 5; i++) {
        t.tick();
        sys.pwrite(fd, "x", i);
        const { mtimeNs } = sys.fstat(fd);
        assert.ok(mtimeNs > last);
        assert.equal(sys.lstat(`${dir}/f`).mtimeNs, mtimeNs);
        last = mtimeNs;
      }
    });
  },
  "link, unlink of another name, and rename move the file's ctime alone": (dir, t) => {
    t.file(`${dir}/f`);
    assert.deepEqual(
      t.moved(`${dir}/f`, () => sys.link(`${dir}/f`, `${dir}/g`)),
      CTIME,
      "link",
    );
    assert.deepEqual(
      t.moved(`${dir}/f`, () => sys.unlink(`${dir}/g`)),
      CTIME,
      "unlink",
    );
    const before = sys.lstat(`${dir}/f`);
    t.tick();
    sys.rename(`${dir}/f`, `${dir}/h`);
    assert.ok(sys.lstat(`${dir}/h`).ctimeNs > before.ctimeNs, "rename");
    assert.equal(sys.lstat(`${dir}/h`).mtimeNs, before.mtimeNs);
  },
  "opening, closing, statting and fsync move nothing": (dir, t) => {
    t.file(`${dir}/f`, "x");
    const moved = t.moved(`${dir}/f`, () => {
      t.using(`${dir}/f`, O.RDWR, (fd) => {
        sys.fsync(fd);
        sys.fstat(fd);
      });
      sys.lstat(`${dir}/f`);
      sys.access(`${dir}/f`, 4);
    });
    assert.deepEqual(moved, NOTHING);
  },
  "every nanosecond set is kept": (dir, t) => {
    t.file(`${dir}/f`);
    sys.mkdir(`${dir}/d`);
    sys.symlink("f", `${dir}/l`);
    const samples: bigint[] = [
      0n,
      1n,
      999_999_999n,
      1_000_000_001n,
      1_700_000_000n * SEC + 123_456_789n,
      1_999_999_999n * SEC + 999_999_999n,
    ];
    for (const name of ["f", "d", "l"]) {
      for (const [i, atime] of samples.entries()) {
        const mtime = samples[samples.length - 1 - i] ?? 0n;
        sys.utimens(`${dir}/${name}`, atime, mtime);
        const stat = sys.lstat(`${dir}/${name}`);
        assert.equal(stat.atimeNs, atime, `atime of ${name}`);
        assert.equal(stat.mtimeNs, mtime, `mtime of ${name}`);
        t.recent(stat.ctimeNs, "ctime");
      }
    }
  },
  "times before 1970 are kept": (dir, t) => {
    t.file(`${dir}/f`);
    t.controlLacks("times before 1901", () => {
      sys.utimens(`${dir}/f`, -(2n ** 32n) * SEC, 0n);
      return sys.lstat(`${dir}/f`).atimeNs === -(2n ** 32n) * SEC;
    });
    for (const time of [
      -1n,
      -SEC,
      -SEC + 1n,
      -1_500_000_000n * SEC - 1n,
      -(2n ** 31n) * SEC,
      -(2n ** 31n) * SEC - SEC,
    ]) {
      sys.utimens(`${dir}/f`, time, time + 5n);
      assert.equal(sys.lstat(`${dir}/f`).atimeNs, time);
      assert.equal(sys.lstat(`${dir}/f`).mtimeNs, time + 5n);
    }
  },
  "times after 2038, 2106 and 2200 are kept": (dir, t) => {
    t.file(`${dir}/f`);
    for (const seconds of [2n ** 31n - 1n, 2n ** 31n, 2n ** 32n - 1n, 2n ** 32n, 7_258_118_400n]) {
      const time = seconds * SEC + 987_654_321n;
      sys.utimens(`${dir}/f`, time, time + 1n);
      assert.equal(sys.lstat(`${dir}/f`).atimeNs, time);
      assert.equal(sys.lstat(`${dir}/f`).mtimeNs, time + 1n);
    }
  },
  "UTIME_NOW and UTIME_OMIT work in every combination": (dir, t) => {
    t.file(`${dir}/f`);
    const set = 1_000_000_000n * SEC + 5n;
    const attempt = (atime: When, mtime: When) => {
      sys.utimens(`${dir}/f`, set, set + 1n);
      t.tick();
      sys.utimens(`${dir}/f`, atime, mtime);
      return sys.lstat(`${dir}/f`);
    };
    let stat = attempt("now", "omit");
    t.recent(stat.atimeNs, "atime");
    assert.equal(stat.mtimeNs, set + 1n);
    stat = attempt("omit", "now");
    assert.equal(stat.atimeNs, set);
    t.recent(stat.mtimeNs, "mtime");
    stat = attempt(7n, "now");
    assert.equal(stat.atimeNs, 7n);
    stat = attempt("now", "now");
    assert.equal(stat.atimeNs, stat.mtimeNs);
    stat = attempt("omit", 9n);
    assert.deepEqual([stat.atimeNs, stat.mtimeNs], [set, 9n]);
  },
  "UTIME_OMIT for both changes nothing, not even ctime": (dir, t) => {
    t.file(`${dir}/f`);
    assert.deepEqual(
      t.moved(`${dir}/f`, () => sys.utimens(`${dir}/f`, "omit", "omit")),
      NOTHING,
    );
  },
  "setting times moves ctime, and ctime itself cannot be set": (dir, t) => {
    t.file(`${dir}/f`);
    t.tick();
    sys.utimens(`${dir}/f`, 0n, 0n);
    t.recent(sys.lstat(`${dir}/f`).ctimeNs, "ctime");
  },
  "utimens on a symlink leaves its target alone": (dir, t) => {
    t.file(`${dir}/f`);
    sys.symlink("f", `${dir}/l`);
    const before = sys.lstat(`${dir}/f`);
    sys.utimens(`${dir}/l`, 5n, 6n);
    assert.deepEqual([sys.lstat(`${dir}/l`).atimeNs, sys.lstat(`${dir}/l`).mtimeNs], [5n, 6n]);
    assert.equal(sys.lstat(`${dir}/f`).mtimeNs, before.mtimeNs);
    sys.touch(`${dir}/l`);
    assert.ok(sys.lstat(`${dir}/f`).mtimeNs >= before.mtimeNs);
    assert.equal(sys.lstat(`${dir}/l`).mtimeNs, 6n);
  },
  "setting chosen times is the owner's alone, setting now is for who may write": (dir, t) => {
    t.needsRoot();
    t.file(`${dir}/f`);
    sys.chown(`${dir}/f`, ALICE.uid, ALICE.gid);
    sys.chmod(`${dir}/f`, 0o644);
    t.as(BOB, () => {
      t.refuses("EPERM", () => sys.utimens(`${dir}/f`, 0n, 0n));
      t.refuses("EACCES", () => sys.touch(`${dir}/f`));
    });
    sys.chmod(`${dir}/f`, 0o666);
    t.as(BOB, () => {
      t.refuses("EPERM", () => sys.utimens(`${dir}/f`, 0n, 0n));
      t.refuses("EPERM", () => sys.utimens(`${dir}/f`, "now", "omit"));
      sys.touch(`${dir}/f`);
    });
    sys.chmod(`${dir}/f`, 0);
    t.as(ALICE, () => {
      sys.utimens(`${dir}/f`, 5n, 6n);
      sys.touch(`${dir}/f`);
    });
    t.recent(sys.lstat(`${dir}/f`).mtimeNs, "mtime");
  },
  "relatime: a read moves atime when it is not younger than mtime": (dir, t) => {
    needsRelatime(dir, t);
    t.file(`${dir}/f`, "data");
    const time = now() - 3600n * SEC;
    sys.utimens(`${dir}/f`, time - SEC, time);
    readThrough(`${dir}/f`);
    t.recent(sys.lstat(`${dir}/f`).atimeNs, "atime after a read");
    assert.equal(sys.lstat(`${dir}/f`).mtimeNs, time);
  },
  "relatime: a read leaves an atime that is younger than mtime and ctime": (dir, t) => {
    needsRelatime(dir, t);
    t.file(`${dir}/f`, "data");
    t.tick();
    sys.utimens(`${dir}/f`, now() + 3600n * SEC, "omit");
    const before = sys.lstat(`${dir}/f`);
    t.tick();
    readThrough(`${dir}/f`);
    assert.equal(sys.lstat(`${dir}/f`).atimeNs, before.atimeNs);
  },
  "relatime: moving atime leaves ctime and mtime": (dir, t) => {
    needsRelatime(dir, t);
    t.file(`${dir}/f`, "data");
    sys.utimens(`${dir}/f`, now() - 2n * DAY, now() - 3n * DAY);
    const moved = t.moved(`${dir}/f`, () => readThrough(`${dir}/f`));
    assert.deepEqual(moved, { atime: true, mtime: false, ctime: false });
  },
  "listing a directory and reading a symlink move their atime": (dir, t) => {
    needsRelatime(dir, t);
    sys.mkdir(`${dir}/d`);
    t.file(`${dir}/d/f`);
    sys.symlink("x", `${dir}/l`);
    const old = now() - 10n * DAY;
    sys.utimens(`${dir}/d`, old, "omit");
    sys.readdir(`${dir}/d`);
    t.recent(sys.lstat(`${dir}/d`).atimeNs, "atime of the directory");
    sys.utimens(`${dir}/l`, old, "omit");
    sys.readlink(`${dir}/l`);
    t.recent(sys.lstat(`${dir}/l`).atimeNs, "atime of the symlink");
  },
  "writing leaves atime": (dir, t) => {
    t.file(`${dir}/f`, "data");
    sys.utimens(`${dir}/f`, 1000n * SEC, "omit");
    t.using(`${dir}/f`, O.WRONLY, (fd) => sys.write(fd, "more"));
    assert.equal(sys.lstat(`${dir}/f`).atimeNs, 1000n * SEC);
  },
  "cp -p, touch -r and tar keep times to the nanosecond": (dir, t) => {
    t.file(`${dir}/f`, "x");
    const time = 1_234_567_890n * SEC + 123_456_789n;
    sys.utimens(`${dir}/f`, time, time + 1n);
    t.run("cp", ["-p", `${dir}/f`, `${dir}/copy`]);
    t.run("touch", ["-r", `${dir}/f`, `${dir}/touched`]);
    assert.equal(sys.lstat(`${dir}/copy`).mtimeNs, time + 1n);
    assert.equal(sys.lstat(`${dir}/touched`).mtimeNs, time + 1n);
    t.run("sh", ["-c", "tar --format=posix -cf - f | (mkdir out && tar -C out -xf -)"], { cwd: dir });
    assert.equal(sys.lstat(`${dir}/out/f`).mtimeNs, time + 1n);
  },
  "one write after the other never goes back in time": (dir, t) => {
    t.using(`${dir}/f`, O.RDWR | O.CREAT, (fd) => {
      let last = 0n;
      for (let i = 0; i < 300; i++) {
        sys.pwrite(fd, "x", 0);
        const { mtimeNs, ctimeNs } = sys.fstat(fd);
        assert.ok(mtimeNs >= last && ctimeNs >= mtimeNs - 1n, `write ${i}`);
        last = mtimeNs;
      }
    });
  },
};
