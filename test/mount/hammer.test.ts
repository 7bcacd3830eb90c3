/**
 * Eight processes work on one mount at once, in the same directories: create, append, rename, unlink, readdir,
 * mkdir, rmdir, link, truncate. Each keeps an account of what must be there; afterwards, and once more after a
 * remount, that and nothing else is there.
 */
import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, expect, test } from "vitest";
import { python } from "../helpers/programs.ts";
import { IS_ROOT, mountingImpossible, TestVolume } from "../helpers/volume.ts";

const SECONDS = Number(process.env.SQLFUSE_HAMMER_SECONDS ?? (process.env.SQLFUSE_LONG === "1" ? 60 : 10));
const PROCESSES = 8;

/**
 * argv: directory, seconds, processes, account file. Names of files carry the process that owns them, so that each
 * knows its own files' content; directories and the log are everybody's.
 */
const HAMMER = `
import errno, hashlib, json, os, random, sys, time
root, seconds, count, account = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
os.chdir(root)
DIRS = ["d%d" % i for i in range(6)]
for d in DIRS: os.mkdir(d)
def worker(me):
    rng = random.Random(me * 7919 + int(time.time()) % 100000)
    mine, ops, lines, fd_log = {}, 0, 0, os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    serial = 0
    end = time.time() + seconds
    def pick(): return rng.choice(sorted(mine)) if mine else None
    while time.time() < end:
        ops += 1
        r = rng.random()
        try:
            if r < 0.22 or not mine:
                serial += 1
                path = "%s/p%d-%d" % (rng.choice(DIRS), me, serial)
                data = os.urandom(rng.choice([0, 10, 3000, 70000]))
                fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
                os.write(fd, data); os.close(fd)
                mine[path] = bytearray(data)
            elif r < 0.40:
                path = pick(); data = os.urandom(rng.randrange(1, 5000))
                fd = os.open(path, os.O_WRONLY | os.O_APPEND); os.write(fd, data)
                if rng.random() < 0.1: os.fsync(fd)
                os.close(fd); mine[path] += data
            elif r < 0.46:
                path = pick()
                if mine[path]:
                    at = rng.randrange(len(mine[path])); data = os.urandom(rng.randrange(1, 200))
                    fd = os.open(path, os.O_RDWR); os.pwrite(fd, data, at)
                    mine[path][at:at + len(data)] = data
                    assert os.pread(fd, len(data), at) == data, "read of what was written"
                    os.close(fd)
            elif r < 0.50:
                path = pick(); size = rng.randrange(0, 80000); os.truncate(path, size)
                m = mine[path]; del m[size:]; m.extend(bytes(size - len(m)))
            elif r < 0.62:
                path = pick(); serial += 1
                new = "%s/p%d-%d" % (rng.choice(DIRS), me, serial)
                os.rename(path, new); mine[new] = mine.pop(path)
            elif r < 0.66 and len(mine) > 1:
                path = pick(); other = pick()
                if path != other:
                    os.rename(path, other); mine[other] = mine.pop(path)
            elif r < 0.80:
                path = pick(); os.unlink(path); del mine[path]
            elif r < 0.88:
                # Others come and go meanwhile; what this process made stays while it looks, so it is there once.
                d = rng.choice(DIRS); names = os.listdir(d)
                own = sorted(n for n in names if n.startswith("p%d-" % me))
                wanted = sorted(p[len(d) + 1:] for p in mine if p.startswith(d + "/"))
                if own != wanted:
                    again = sorted(n for n in os.listdir(d) if n.startswith("p%d-" % me))
                    raise AssertionError("listing of %s: %d names, missing %r, too many %r, then %s" % (
                        d, len(names), [n for n in wanted if n not in own],
                        [n for n in own if own.count(n) > wanted.count(n)], "right" if again == wanted else "still wrong"))
            elif r < 0.92:
                d = "%s/shared%d" % (rng.choice(DIRS), rng.randrange(4))
                try: os.mkdir(d)
                except FileExistsError: pass
                try: os.rmdir(d)
                except (FileNotFoundError, OSError) as e:
                    if e.errno not in (errno.ENOENT, errno.ENOTEMPTY): raise
            elif r < 0.96:
                os.write(fd_log, b"p%d %06d\\n" % (me, lines)); lines += 1
            else:
                path = pick()
                with open(path, "rb") as f: assert f.read() == mine[path], "content of " + path
        except AssertionError as e:
            print("p%d: %s" % (me, e), file=sys.stderr); os._exit(2)
    with open("%s.%d" % (account, me), "w") as f:
        json.dump({"ops": ops, "lines": lines, "files": {p: hashlib.sha256(bytes(m)).hexdigest() for p, m in mine.items()}}, f)
    os._exit(0)
pids = []
for i in range(count):
    pid = os.fork()
    if pid == 0:
        try: worker(i)
        except BaseException:
            import traceback; traceback.print_exc(); os._exit(1)
    pids.append(pid)
bad = [p for p in pids if os.waitpid(p, 0)[1] != 0]
sys.exit(1 if bad else 0)
`;

/** What is there now: path -> sha256, and the lines of the log. */
const LOOK = `
import hashlib, json, os, sys
os.chdir(sys.argv[1]); files = {}
for d in sorted(os.listdir(".")):
    if not os.path.isdir(d): continue
    for name in os.listdir(d):
        p = d + "/" + name
        if os.path.isdir(p): continue
        with open(p, "rb") as f: files[p] = hashlib.sha256(f.read()).hexdigest()
print(json.dumps({"files": files, "log": open("log").read()}))
`;

/**
 * Three processes move a name of their own in and out of a directory and look for it, while others list all the time:
 * the kernel keeps listings, and one that another process has half read must not be gone on from.
 */
const LISTINGS = `
import os, sys, time
os.chdir(sys.argv[1]); end = time.time() + float(sys.argv[2])
for d in "de": os.mkdir(d)
def fill(a, b):
    for i in range(a, b): os.close(os.open("d/n%05d" % i, os.O_CREAT | os.O_WRONLY))
fill(0, 600)
for w in range(3): open("d/own%d" % w, "w").close()
fill(600, 900)
pids = []
for w in range(8):
    pid = os.fork()
    if pid == 0:
        name, here, n, wrong = "own%d" % w, True, 0, 0
        while time.time() < end:
            if w < 3:
                os.rename(("d/" if here else "e/") + name, ("e/" if here else "d/") + name); here = not here
            listed = os.listdir("d"); n += 1
            if w < 3 and (name in listed) != here: wrong += 1
        if wrong: print("process %d: %d of %d listings are wrong" % (w, wrong, n), file=sys.stderr)
        os._exit(1 if wrong else 0)
    pids.append(pid)
sys.exit(1 if any([os.waitpid(p, 0)[1] for p in pids]) else 0)
`;

interface Account {
  readonly ops: number;
  readonly lines: number;
  readonly files: Record<string, string>;
}

let volume: TestVolume | undefined;
afterEach(() => volume?.remove());

test.skipIf(mountingImpossible() !== undefined)(
  `${PROCESSES} processes hammer a mount for ${SECONDS} s, and it is whole`,
  { timeout: (SECONDS + 120) * 1000 },
  () => {
    volume = TestVolume.create();
    volume.mount();
    const root = join(volume.mountpoint, "hammer");
    mkdirSync(root);
    const account = join(volume.home, "account");
    python(HAMMER, [root, String(SECONDS), String(PROCESSES), account], {
      cwd: volume.home,
      timeoutMs: (SECONDS + 60) * 1000,
    });
    const accounts = Array.from(
      { length: PROCESSES },
      (_, i) => JSON.parse(readFileSync(`${account}.${i}`, "utf8")) as Account,
    );
    const expected = Object.assign({}, ...accounts.map((one) => one.files)) as Record<string, string>;
    const verify = (when: string): void => {
      const seen = JSON.parse(python(LOOK, [root], { cwd: "/" })) as {
        files: Record<string, string>;
        log: string;
      };
      expect(seen.files, when).toEqual(expected);
      for (const [i, one] of accounts.entries()) {
        const lines = seen.log.split("\n").filter((line) => line.startsWith(`p${i} `));
        const wanted = Array.from({ length: one.lines }, (_, n) => `p${i} ${String(n).padStart(6, "0")}`);
        expect(lines, `log of process ${i}, ${when}`).toEqual(wanted);
      }
    };
    verify("before unmount");
    volume.remount();
    verify("after remount");
    volume.unmount();
    const ops = accounts.reduce((sum, one) => sum + one.ops, 0);
    console.log(
      `hammer: ${ops} operations, ${Math.round(ops / SECONDS)} per second${IS_ROOT ? "" : ", as a user"}`,
    );
    expect(ops).toBeGreaterThan(SECONDS * 50);
  },
);

test.skipIf(mountingImpossible() !== undefined)(
  "who changes a directory sees that in his next listing, whoever else is listing",
  {
    timeout: 120_000,
  },
  () => {
    volume = TestVolume.create();
    volume.mount();
    python(LISTINGS, [volume.mountpoint, String(Math.min(SECONDS, 20) / 2)], { cwd: "/" });
    volume.unmount();
  },
);
