/**
 * The main job on real input: a source tree of thousands of files, git, a compiler, SQLite and rsync work in a
 * fresh volume; after unmount and mount everything is as it was. As root, and as an unprivileged user. SQLFUSE_LONG=1
 * takes more files.
 */
import { chmodSync, chownSync, mkdirSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { differences, hasProgram, python, run, snapshot } from "../helpers/programs.ts";
import { isLong } from "../helpers/torture.ts";
import {
  IS_ROOT,
  mountingImpossible,
  type Owner,
  REPOSITORY,
  runCli,
  TestVolume,
} from "../helpers/volume.ts";

const NOBODY: Owner = { uid: 65534, gid: 65534 };

for (const program of ["git", "make", "cc", "python3", "rsync", "tar"]) {
  if (!hasProgram(program)) throw new Error(`this test needs ${program}: npm run setup`);
}

/** Regular files of a real tree, smaller than 1 MiB, until there are enough. */
function realFiles(count: number): string[] {
  const found: string[] = [];
  const visit = (path: string): void => {
    for (const entry of readdirSync(path, { withFileTypes: true })) {
      if (found.length >= count) return;
      const child = join(path, entry.name);
      if (entry.isDirectory() && entry.name !== ".git") visit(child);
      else if (entry.isFile() && statSync(child).size < 1 << 20 && (statSync(child).mode & 0o004) !== 0) {
        found.push(child);
      }
    }
  };
  for (const root of ["/usr/include", join(REPOSITORY, "node_modules"), "/usr/share/doc", "/usr/share"]) {
    if (found.length < count) visit(root);
  }
  return found;
}

/** Thirty files of C that need each other, and a Makefile. */
function writeProgram(directory: string, owner: Owner | undefined): void {
  const count = 30;
  const files: Record<string, string> = {
    "all.h": Array.from({ length: count }, (_, i) => `int f${i}(int x);\n`).join(""),
    "main.c": `#include <stdio.h>\n#include "all.h"\nint main(void) { printf("%d\\n", f${count - 1}(1)); return 0; }\n`,
    Makefile: [
      `OBJECTS = main.o ${Array.from({ length: count }, (_, i) => `f${i}.o`).join(" ")}`,
      "program: $(OBJECTS)\n\tcc -o $@ $(OBJECTS)",
      "%.o: %.c all.h\n\tcc -O1 -c -o $@ $<",
      "",
    ].join("\n"),
  };
  for (let i = 0; i < count; i++) {
    files[`f${i}.c`] =
      `#include "all.h"\nint f${i}(int x) { return x ${i === 0 ? "+ 1" : `* 2 + f${i - 1}(x + ${i})`}; }\n`;
  }
  const script = `
import json, os, sys
os.makedirs(sys.argv[1])
for name, text in json.load(sys.stdin).items(): open(sys.argv[1] + "/" + name, "w").write(text)
`;
  python(script, [directory], { cwd: "/", owner, input: JSON.stringify(files) });
}

/** Four writers at once, in transactions; then the database must be whole. */
const SQLITE = `
import os, sqlite3, sys
mode = sys.argv[1]
def connect():
    db = sqlite3.connect("work.db", timeout=60, isolation_level=None)
    db.execute("PRAGMA busy_timeout=60000")
    return db
db = connect()
assert db.execute("PRAGMA journal_mode=" + mode).fetchone()[0].upper() == mode
db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, who INT, n INT, data BLOB)")
db.execute("CREATE INDEX i ON t(who, n)")
db.close()
pids = []
for who in range(4):
    pid = os.fork()
    if pid == 0:
        db = connect()
        for n in range(int(sys.argv[2])):
            db.execute("BEGIN IMMEDIATE")
            for k in range(5): db.execute("INSERT INTO t(who, n, data) VALUES(?, ?, ?)", (who, n, bytes([n % 256]) * (n * 7 % 900)))
            if n % 10 == 3: db.execute("ROLLBACK")
            else: db.execute("COMMIT")
            if n % 10 == 7: db.execute("UPDATE t SET n = n WHERE who = ? AND n = ?", (who, n - 1))
        db.close(); os._exit(0)
    pids.append(pid)
assert all(os.waitpid(p, 0)[1] == 0 for p in pids)
db = connect()
print(db.execute("PRAGMA integrity_check").fetchone()[0], db.execute("SELECT count(*), sum(length(data)) FROM t").fetchone())
db.execute("DELETE FROM t WHERE n % 3 = 0"); db.execute("VACUUM")
print(db.execute("PRAGMA integrity_check").fetchone()[0], db.execute("SELECT count(*), sum(length(data)) FROM t").fetchone())
`;

const SQLITE_AGAIN = `
import sqlite3
db = sqlite3.connect("work.db")
print(db.execute("PRAGMA integrity_check").fetchone()[0], db.execute("SELECT count(*), sum(length(data)) FROM t").fetchone())
`;

/** Links, odd names, odd times, holes, attributes: what a plain tree does not have. */
const SPECIAL = `
import os, sys
os.makedirs("special/dir"); os.chdir("special")
open("file", "w").write("linked"); os.link("file", "hard1"); os.link("file", "dir/hard2")
os.symlink("dir/hard2", "sym"); os.symlink(b"\\xff\\xfe not text", "dangling")
os.mkfifo("fifo", 0o640)
open(b"\\xc3\\x28 \\n name", "w").write("odd name")
open("n" * 255, "w").write("long name")
for i, t in enumerate([-1, 1, 10**18 + 123456789, 2**33 * 10**9 + 7]):
    open("time%d" % i, "w").close(); os.utime("time%d" % i, ns=(t, t + 1))
os.utime("dir", ns=(5, 999999999))
for i, mode in enumerate([0o600, 0o755, 0o444, 0o7711 if os.geteuid() == 0 else 0o711]):
    open("mode%d" % i, "w").close(); os.chmod("mode%d" % i, mode)
os.setxattr("file", "user.one", b"\\x00\\x01binary"); os.setxattr("dir", "user.empty", b"")
os.setxattr("time0", "user.big", os.urandom(60000))
if os.geteuid() == 0:
    os.setxattr("file", "trusted.t", b"t"); os.setxattr("sym", "trusted.s", b"s", follow_symlinks=False)
    os.mknod("chr", 0o020600, os.makedev(0xabc, 0x12345)); os.mknod("blk", 0o060600, os.makedev(7, 9))
    open("owned", "w").close(); os.chown("owned", 12345, 4000000000); os.lchown("dangling", 1, 2)
fd = os.open("sparse", os.O_CREAT | os.O_RDWR); os.ftruncate(fd, 5 << 30)
for at in 0, (1 << 31) - 3, (1 << 32) - 2, (4 << 30) + 12345, (5 << 30) - 6: os.pwrite(fd, b"mark%02d" % (at % 97), at)
os.close(fd)
print(os.stat("sparse").st_size, os.stat("sparse").st_blocks * 512 < 8 << 20)
`;

interface Person {
  readonly name: string;
  readonly owner: Owner | undefined;
  /** Files of the real tree. */
  readonly files: number;
  readonly skip: string | undefined;
  readonly options: readonly string[];
}

/** Lets the unprivileged user at /dev/fuse, where this run was told that it may. */
function openDevice(): () => void {
  if (!IS_ROOT || !(process.env.CI || process.env.SQLFUSE_TEST_UNPRIVILEGED === "1")) return () => {};
  let before: number;
  try {
    before = statSync("/dev/fuse").mode & 0o777;
  } catch {
    return () => {};
  }
  chmodSync("/dev/fuse", 0o666);
  return () => chmodSync("/dev/fuse", before);
}

const closeDevice = openDevice();

function nobodyCannot(): string | undefined {
  if (!IS_ROOT) return "this run is unprivileged already";
  const reason = mountingImpossible(NOBODY);
  if (reason !== undefined) return `${reason} (SQLFUSE_TEST_UNPRIVILEGED=1 lets it)`;
  if (runCli(["--version"], { owner: NOBODY }).status !== 0) return "this user may not read the repository";
  return undefined;
}

const people: Person[] = [
  {
    name: IS_ROOT ? "root" : "this unprivileged user",
    owner: undefined,
    files: isLong() ? 4000 : 1500,
    skip: mountingImpossible(),
    options: IS_ROOT ? ["-o", "suid,dev"] : [],
  },
  { name: "an unprivileged user", owner: NOBODY, files: 1500, skip: nobodyCannot(), options: [] },
];

afterAll(() => closeDevice());

for (const person of people) {
  if (person.skip !== undefined) console.warn(`work as ${person.name} is skipped: ${person.skip}`);

  describe.skipIf(person.skip !== undefined)(`work as ${person.name}`, () => {
    const { owner } = person;
    let volume: TestVolume;
    /** Outside the mount: what is brought in. */
    let outside: string;
    const there = (...names: string[]): string => join(volume.mountpoint, ...names);

    beforeAll(() => {
      volume = TestVolume.create(owner === undefined ? {} : { owner });
      outside = join(volume.home, "outside");
      mkdirSync(outside);
      const list = join(outside, "list");
      writeFileSync(list, realFiles(person.files).join("\n"));
      run("tar", ["-cf", join(outside, "tree.tar"), "-T", list], { cwd: "/" });
      chmodSync(join(outside, "tree.tar"), 0o644);
      if (owner !== undefined) chownSync(outside, owner.uid, owner.gid);
      volume.mount(...person.options);
    });
    afterAll(() => volume.remove());

    test("a tree of many files is unpacked, and is what was packed", () => {
      python(`import os, sys; os.mkdir(sys.argv[1])`, [there("tree")], { cwd: "/", owner });
      run("tar", ["-xf", join(outside, "tree.tar"), "-C", there("tree")], { cwd: "/", owner });
      const count = Number(run("sh", ["-c", `find ${there("tree")} -type f | wc -l`], { cwd: "/", owner }));
      expect(count).toBe(person.files);
      if (IS_ROOT && owner === undefined) {
        run("tar", ["--compare", "-f", join(outside, "tree.tar"), "-C", there("tree")], { cwd: "/", owner });
      }
    });

    test("git adds, commits, clones and checks it", { timeout: 180_000 }, () => {
      const git = (cwd: string, ...args: string[]): string => run("git", args, { cwd, owner });
      git(there("tree"), "init", "-q", "-b", "main");
      git(there("tree"), "add", "-A");
      git(there("tree"), "commit", "-q", "-m", "all");
      expect(git(there("tree"), "status", "--porcelain")).toBe("");
      git(there(), "clone", "-q", "tree", "clone");
      git(there("clone"), "fsck", "--full", "--strict");
      expect(git(there("clone"), "status", "--porcelain")).toBe("");
      git(there("clone"), "checkout", "-q", "-b", "branch");
      git(there("clone"), "rm", "-q", "-r", "usr/include/linux");
      git(there("clone"), "commit", "-q", "-m", "less");
      git(there("clone"), "checkout", "-q", "main");
      git(there("clone"), "gc", "-q");
      git(there("clone"), "fsck", "--full");
      git(there("clone"), "push", "-q", "origin", "branch");
      expect(git(there("tree"), "rev-parse", "branch")).toBe(git(there("clone"), "rev-parse", "branch"));
    });

    test("make -j2 compiles a program, and then only what is new", () => {
      writeProgram(there("program"), owner);
      const make = (...args: string[]): string => run("make", args, { cwd: there("program"), owner });
      const compiled = (output: string): number =>
        output.split("\n").filter((line) => line.includes(" -c ")).length;
      expect(compiled(make("-j2"))).toBe(31);
      const answer = run(there("program", "program"), [], { cwd: "/", owner });
      expect(answer).toMatch(/^-?\d+\n$/);
      expect(make()).toMatch(/up to date/);
      python(`import os, time; time.sleep(0.02); os.utime("f7.c")`, [], { cwd: there("program"), owner });
      expect(compiled(make("-j2"))).toBe(1);
      expect(run(there("program", "program"), [], { cwd: "/", owner })).toBe(answer);
    });

    test.each(["WAL", "DELETE"])("an SQLite database in %s mode takes four writers at once", (mode) => {
      const said = python(
        `import os, sys; os.mkdir(sys.argv[3]); os.chdir(sys.argv[3])\n${SQLITE}`,
        [mode, mode === "WAL" ? "60" : "20", there(mode)],
        { cwd: "/", owner },
      );
      const rounds = mode === "WAL" ? 60 : 20;
      expect(said.split("\n")[0]).toMatch(new RegExp(`^ok \\(${(4 * 5 * rounds * 9) / 10}, `));
      expect(said.split("\n")[1]).toMatch(/^ok /);
    });

    test("links, devices, attributes, odd names and times, and a sparse file of 5 GiB", () => {
      expect(python(SPECIAL, [], { cwd: there(), owner }).trim()).toBe(`${5 * 2 ** 30} True`);
      if (hasProgram("setfacl")) {
        run("setfacl", ["-m", "u:12001:rwx,g:12002:r", "file"], { cwd: there("special"), owner });
        run("setfacl", ["-d", "-m", "u:12001:rx", "dir"], { cwd: there("special"), owner });
      }
    });

    test("rsync -aHAX brings everything over, and then finds nothing to do", () => {
      const rsync = (...args: string[]): string =>
        run("rsync", ["-aHAX", "--delete", ...args], { cwd: there(), owner, timeoutMs: 170_000 });
      // Sparse, as rsync would write 5 GiB of zeros.
      const first = rsync(
        "--sparse",
        "--exclude=sparse",
        "--itemize-changes",
        "special",
        "program",
        "copies",
      );
      expect(first).toMatch(/special\/file/);
      expect(rsync("--exclude=sparse", "--itemize-changes", "special", "program", "copies")).toBe("");
      expect(
        rsync("--exclude=sparse", "--checksum", "--itemize-changes", "special", "program", "copies"),
      ).toBe("");
      // From another filesystem and back to it.
      const brought = join(outside, "brought");
      rsync("--itemize-changes", "clone/", brought);
      rsync("--itemize-changes", `${brought}/`, "back");
      expect(rsync("--itemize-changes", `${brought}/`, "back")).toBe("");
      expect(rsync("--checksum", "--itemize-changes", "clone/", "back")).toBe("");
    });

    test("after unmount and mount every file, mode, owner, time, attribute and link is as before", {
      timeout: 300_000,
    }, () => {
      // Twice: a file that the cache gave the first time is read from the volume, and moves its atime, at another.
      snapshot(volume.mountpoint, "settle", owner);
      volume.remount(...person.options);
      const before = snapshot(volume.mountpoint, "settle", owner);
      expect(before.size).toBeGreaterThan(person.files * 3);
      volume.remount(...person.options);
      const after = snapshot(volume.mountpoint, "look", owner);
      expect(differences(before, after).slice(0, 10)).toEqual([]);
      // The comparison itself can fail.
      python(`import os; os.utime("file", ns=(1, 2))`, [], { cwd: there("special"), owner });
      expect(differences(after, snapshot(there(), "look", owner)).join()).toMatch(/special\/hard1/);
      for (const mode of ["WAL", "DELETE"]) {
        expect(python(SQLITE_AGAIN, [], { cwd: there(mode), owner })).toMatch(/^ok /);
      }
      run("git", ["fsck", "--full", "--strict"], { cwd: there("tree"), owner });
      expect(run("make", [], { cwd: there("program"), owner })).toMatch(/up to date/);
      volume.unmount();
    });
  });
}
