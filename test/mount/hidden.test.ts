/** The past inside a live mount: .sqlfuse, which no listing shows. */
import { spawn } from "node:child_process";
import {
  chmodSync,
  closeSync,
  copyFileSync,
  existsSync,
  linkSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  renameSync,
  rmdirSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  unlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { asUser, O, sys } from "../helpers/libc.ts";
import { hasProgram, python, run, snapshot, storeMapped } from "../helpers/programs.ts";
import { IS_ROOT, mountingImpossible, succeed, TestVolume } from "../helpers/volume.ts";

const impossible = mountingImpossible();
if (impossible !== undefined) console.warn(`the past inside a mount is not tested: ${impossible}`);

let volume: TestVolume;
/** A path in the mount. */
const at = (...names: string[]): string => join(volume.mountpoint, ...names);
/** A path in the mount, as snapshot "one" has it. */
const then = (...names: string[]): string => at(".sqlfuse/at/one", ...names);

const names = (): string[] => volume.snapshots().map(({ name }) => name);
const keep = (name: string): void => mkdirSync(at(".sqlfuse/snapshots", name));
const sh = (script: string): string => run("sh", ["-c", script], { cwd: volume.mountpoint });
const inoOf = (path: string): number => statSync(path).ino;

describe.skipIf(impossible !== undefined)(".sqlfuse in a mount", () => {
  beforeEach(() => {
    volume = TestVolume.create({ createArgs: ["--root-mode", "0755"] });
    volume.mount();
    mkdirSync(at("d/sub"), { recursive: true });
    writeFileSync(at("d/sub/f"), "before");
    writeFileSync(at("d/first"), "linked");
    linkSync(at("d/first"), at("d/second"));
    symlinkSync("sub/f", at("d/link"));
  });

  afterEach(() => volume.remove());

  test("has each directory as it was, by the name, the epoch and the time of a snapshot", () => {
    const before = snapshot(at("d"), "settle", undefined);
    keep("one");
    writeFileSync(at("d/sub/f"), "after");
    renameSync(at("d"), at("moved"));
    rmSync(at("moved/first"));
    mkdirSync(at("new"));
    for (const when of ["one", "1", "now", "0 seconds ago", new Date(Date.now() + 60_000).toISOString()])
      expect(readFileSync(at(".sqlfuse/at", when, "d/link"), "utf8")).toBe("before");
    // By the directory, wherever it is now.
    expect(readFileSync(at("moved/.sqlfuse/at/one/sub/f"), "utf8")).toBe("before");
    expect(readFileSync(at("moved/sub/.sqlfuse/at/now/f"), "utf8")).toBe("before");
    for (const none of ["two", "2", "yesterday", "2020-01-01", "neverneverland", "%FF"])
      expect(existsSync(at(".sqlfuse/at", none))).toBe(false);
    expect(() => statSync(Buffer.concat([Buffer.from(at(".sqlfuse/at/")), Buffer.of(0xff)]))).toThrow(
      /ENOENT/,
    );
    expect(existsSync(at("new/.sqlfuse/at/one"))).toBe(false);
    const lists = [".sqlfuse", ".sqlfuse/at", ".sqlfuse/snapshots", "moved/.sqlfuse", "moved/.sqlfuse/at"];
    expect(lists.map((path) => readdirSync(at(path)))).toEqual([
      ["at", "snapshots"],
      ["one"],
      ["one"],
      ["at"],
      ["one"],
    ]);
    expect(readdirSync(at("new/.sqlfuse/at"))).toEqual([]);
    // All but st_ino, and what reading it did to the times of access.
    const without = (lines: Map<string, string>): string[] =>
      [...lines].map(
        ([name, line]) =>
          `${name} ${line
            .split(" ")
            .filter((_, i) => i !== 5 && i !== 8)
            .join(" ")}`,
      );
    const seen = snapshot(then("d"), "look", undefined);
    expect(without(seen)).toEqual(without(before));
    volume.unmount();
  });

  test("is seen by nothing that goes through a directory", () => {
    keep("one");
    expect(existsSync(at(".sqlfuse"))).toBe(true);
    expect(existsSync(at("d/.sqlfuse"))).toBe(true);
    expect(readdirSync(at("."))).toEqual(["d"]);
    expect(sh("ls -a; find .; tar cf - . | tar tf -; du -a .")).not.toContain(".sqlfuse");
    if (hasProgram("git"))
      expect(sh("git init -q . && git add -A && git status --short")).not.toContain(".sqlfuse");
    expect(sh("rm -rf .[!.]* ./* 2>&1; ls -A")).toBe("");
    expect(readFileSync(then("d/sub/f"), "utf8")).toBe("before");
    volume.unmount();
  });

  test("has files of their own: nothing takes the past and the present for one file", () => {
    keep("one");
    expect(inoOf(then("d/first"))).toBe(inoOf(then("d/second")));
    const numbers = [
      at("d/first"),
      then("d/first"),
      at(".sqlfuse/snapshots/one/d/first"),
      at("d/.sqlfuse/at/1/first"),
    ];
    expect(new Set(numbers.map(inoOf)).size).toBe(4);
    const archive = sh("tar cf - d/first .sqlfuse/at/one/d | tar tvf -");
    expect(archive.split("\n").filter((line) => line.startsWith("h"))).toMatchObject([
      expect.stringContaining(".sqlfuse/at/one/d/second link to .sqlfuse/at/one/d/first"),
    ]);
    // The same number, as long as somebody may remember it.
    const held = openSync(then("d"), "r");
    const ino = inoOf(then("d"));
    for (let i = 0; i < 20; i++) expect(inoOf(then("d"))).toBe(ino);
    closeSync(held);
    volume.unmount();
  });

  test("refuses every change of the past with EROFS, and moves between it and the present with EXDEV", () => {
    keep("one");
    const file = then("d/sub/f");
    const refusals: Record<string, () => void> = {
      "make a file": () => writeFileSync(then("new"), ""),
      truncate: () => writeFileSync(file, ""),
      "truncate by path": () => truncateSync(file, 1),
      mkdir: () => mkdirSync(then("new")),
      mknod: () => sys.mknod(then("new"), 0o010644),
      symlink: () => symlinkSync("x", then("new")),
      link: () => linkSync(file, then("new")),
      unlink: () => unlinkSync(file),
      rmdir: () => rmdirSync(then("d")),
      rename: () => renameSync(file, then("new")),
      "rename to the present": () => renameSync(file, at("new")),
      chmod: () => chmodSync(file, 0o600),
      utimes: () => utimesSync(file, 1, 1),
      setxattr: () => sys.setxattr(file, "user.x", Buffer.from("x")),
      tmpfile: () => closeSync(sys.open(then("d"), O.TMPFILE | O.RDWR)),
      "mkdir where all times are": () => mkdirSync(at(".sqlfuse/at/two")),
      "rmdir where all times are": () => rmdirSync(at(".sqlfuse/at/one")),
      "mkdir beside the doors": () => mkdirSync(at(".sqlfuse/two")),
      "a file among snapshots": () => writeFileSync(at(".sqlfuse/snapshots/two"), ""),
      "rename a snapshot": () => renameSync(at(".sqlfuse/snapshots/one"), at(".sqlfuse/snapshots/two")),
    };
    for (const [what, change] of Object.entries(refusals)) expect(change, what).toThrow(/EROFS|errno 30|-30/);
    const fd = openSync(file, "r+");
    expect(() => sys.write(fd, "x")).toThrow(/EROFS/);
    expect(() => sys.fallocate(fd, 0, 0, 100)).toThrow(/EROFS/);
    closeSync(fd);
    expect(() => linkSync(file, at("new"))).toThrow(/EXDEV/);
    expect(() => linkSync(at("d/first"), then("new"))).toThrow(/EROFS/);
    expect(() => renameSync(at("d/first"), then("new"))).toThrow(/EXDEV/);
    expect(() => mkdirSync(at(".sqlfuse"))).toThrow(/EEXIST/);
    expect(readFileSync(file, "utf8")).toBe("before");
    expect(readdirSync(at("."))).toEqual(["d"]);
    volume.unmount();
  });

  test("keeps nothing of what is stored to a mapped file of the past", async () => {
    writeFileSync(at("big"), Buffer.alloc(300_000, "a"));
    keep("one");
    const STORE = `
import mmap, sys
with open(sys.argv[1], "r+b") as file:
    mapped = mmap.mmap(file.fileno(), 0)
    mapped[0:6] = b"MAPPED"; mapped[200000:200006] = b"MAPPED"
    try: mapped.flush()
    except OSError: print("refused")
`;
    expect(python(STORE, [then("big")], { cwd: "/" })).toBe("refused\n");
    await expect.poll(() => readFileSync(then("big")).equals(Buffer.alloc(300_000, "a"))).toBe(true);
    volume.unmount();
  });

  test("makes a snapshot by mkdir, with all that was written or stored before, and deletes it by rmdir", async () => {
    const unmap = await storeMapped(at("d/sub/f"));
    writeFileSync(at("written"), "just now");
    keep("one");
    expect(readFileSync(then("d/sub/f"), "utf8")).toBe("MAPPED");
    expect(readFileSync(then("written"), "utf8")).toBe("just now");
    await unmap();
    keep("Übermorgen");
    expect(names()).toEqual(["one", "Übermorgen"]);
    const snapshots = at(".sqlfuse/snapshots");
    expect(readdirSync(snapshots)).toEqual(["one", "Übermorgen"]);
    expect(() => keep("one")).toThrow(/EEXIST/);
    for (const bad of ["12", "auto-1", "a\nb"]) expect(() => keep(bad)).toThrow(/EINVAL/);
    expect(() => rmdirSync(join(snapshots, "none"))).toThrow(/ENOENT/);
    succeed(volume.cli(["snapshot", "protect", volume.mountpoint, "one"]));
    expect(() => rmdirSync(join(snapshots, "one"))).toThrow(/EPERM/);
    rmdirSync(join(snapshots, "Übermorgen"));
    expect(readdirSync(snapshots)).toEqual(["one"]);
    // What rm is told to remove it takes apart first: that keeps snapshots from an rm -rf that went too far.
    succeed(volume.cli(["snapshot", "unprotect", volume.mountpoint, "one"]));
    expect(() => sh("rm -rf .sqlfuse/snapshots/* 2>/dev/null")).toThrow();
    expect(names()).toEqual(["one"]);
    volume.unmount();
  });

  test("a snapshot that is deleted is gone at once, and another one may take its name", () => {
    keep("one");
    writeFileSync(at("d/sub/f"), "after");
    for (let i = 0; i < 50; i++) writeFileSync(at(`d/${i}`), "");
    const directory = openSync(then("d"), "r");
    const file = openSync(then("d/sub/f"), "r");
    expect(readFileSync(then("d/sub/f"), "utf8")).toBe("before");
    succeed(volume.cli(["snapshot", "delete", volume.mountpoint, "one"]));
    expect(() => readFileSync(then("d/sub/f"))).toThrow(/ENOENT/);
    expect(() => readdirSync(then("d"))).toThrow(/ENOENT/);
    expect(readdirSync(at(".sqlfuse/at"))).toEqual([]);
    // Who had it open may see what the kernel still has of it; what is asked of us is ESTALE.
    expect(() => sys.openat(directory, "sub/nothing", O.RDONLY)).toThrow(/ESTALE/);
    sys.dropCache(file);
    expect(() => sys.pread(file, 6, 0)).toThrow(/ESTALE/);
    closeSync(directory);
    closeSync(file);
    keep("one");
    expect(readFileSync(then("d/sub/f"), "utf8")).toBe("after");
    volume.unmount();
  });

  test("copies out of the past what was there, holes too", () => {
    const fd = openSync(at("holey"), "w");
    sys.pwrite(fd, "end", 5_000_000);
    closeSync(fd);
    keep("one");
    rmSync(at("holey"));
    copyFileSync(then("holey"), at("copied"));
    sh("cp -a .sqlfuse/at/one/. back");
    for (const name of ["copied", "back/holey"]) {
      expect(statSync(at(name)).size).toBe(5_000_003);
      expect(readFileSync(at(name)).subarray(5_000_000).toString()).toBe("end");
    }
    expect(statSync(at("back/holey")).blocks).toBeLessThan(1000);
    expect(readFileSync(at("back/d/link"), "utf8")).toBe("before");
    expect(inoOf(at("back/d/first"))).toBe(inoOf(at("back/d/second")));
    volume.unmount();
  });

  test("many snapshots are looked at one after the other, and listed while some go", () => {
    for (let i = 0; i < 30; i++) {
      writeFileSync(at("d/sub/f"), `state ${i}`);
      keep(`s${i}`);
    }
    expect(sh("cat .sqlfuse/at/*/d/sub/f")).toBe(
      Array.from({ length: 30 }, (_, i) => i)
        .sort((a, b) => (`s${a}` < `s${b}` ? -1 : 1))
        .map((i) => `state ${i}`)
        .join(""),
    );
    const listing = sys.open(at(".sqlfuse/snapshots"), O.RDONLY | O.DIRECTORY);
    const seen = sys.getdents(listing, 200).map(({ name }) => name);
    rmdirSync(at(".sqlfuse/snapshots/s0"));
    for (let some = sys.getdents(listing, 200); some.length > 0; some = sys.getdents(listing, 200))
      seen.push(...some.map(({ name }) => name));
    sys.close(listing);
    expect(seen.filter((name) => name !== "s0" && !name.startsWith("."))).toEqual(
      Array.from({ length: 29 }, (_, i) => `s${i + 1}`),
    );
    volume.unmount();
  });

  test("an entry that is really called .sqlfuse is the user's, and is reached and listed as any other", () => {
    volume.unmount();
    const mine = join(volume.home, ".sqlfuse");
    writeFileSync(mine, "mine");
    succeed(volume.cli(["put", "--quiet", volume.file, mine, "/"]));
    volume.mount();
    expect(readFileSync(at(".sqlfuse"), "utf8")).toBe("mine");
    expect(readdirSync(at(".")).sort()).toEqual([".sqlfuse", "d"]);
    // Elsewhere the past is where it always is; here, when the name is free again.
    expect(readdirSync(at("d/.sqlfuse"))).toEqual(["at"]);
    renameSync(at(".sqlfuse"), at("renamed"));
    expect(readdirSync(at(".sqlfuse"))).toEqual(["at", "snapshots"]);
    volume.unmount();
  });

  test("is there in a read-only mount, where nothing is made in it, and not in a mount of the past", () => {
    keep("one");
    volume.remount("--read-only");
    expect(readFileSync(then("d/sub/f"), "utf8")).toBe("before");
    expect(() => keep("two")).toThrow(/EROFS/);
    expect(() => rmdirSync(at(".sqlfuse/snapshots/one"))).toThrow(/EROFS/);
    volume.unmount();
    chmodSync(volume.file, 0o400);
    volume.mount();
    expect(readFileSync(then("d/sub/f"), "utf8")).toBe("before");
    volume.unmount();
    const past = join(volume.home, "past");
    mkdirSync(past);
    succeed(volume.cli(["mount", volume.file, past, "--at", "one"]));
    try {
      expect(existsSync(join(past, ".sqlfuse"))).toBe(false);
    } finally {
      succeed(volume.cli(["unmount", past]));
    }
  });

  test("is never a mix, read while eight processes rewrite its files, and snapshots come and go", async () => {
    const path = (i: number): string => at(`f${i}`);
    for (let i = 0; i < 8; i++) writeFileSync(path(i), "0".repeat(300_000));
    keep("one");
    const rewrite =
      'while :; do for c in 1 2 3; do head -c 300000 /dev/zero | tr "\\0" $c > "$0"; done; done';
    const writers = Array.from({ length: 8 }, (_, i) =>
      spawn("sh", ["-c", rewrite, path(i)], { stdio: "ignore", detached: true }),
    );
    try {
      for (let round = 0; round < 5; round++) {
        keep(`round${round}`);
        const fd = openSync(at(`.sqlfuse/at/round${round}/f0`), "r");
        const first = Buffer.alloc(300_000);
        const length = readSync(fd, first, 0, first.length, 0);
        await sleep(200);
        sys.dropCache(fd);
        expect(readFileSync(fd).equals(first.subarray(0, length))).toBe(true);
        closeSync(fd);
        for (let i = 0; i < 8; i++) {
          const known = openSync(then(`f${i}`), "r");
          sys.dropCache(known);
          expect(readFileSync(known, "utf8") === "0".repeat(300_000)).toBe(true);
          closeSync(known);
        }
        if (round > 1) rmdirSync(at(`.sqlfuse/snapshots/round${round - 1}`));
      }
    } finally {
      for (const { pid } of writers) if (pid !== undefined) process.kill(-pid, "SIGKILL");
      await Promise.all(writers.map((writer) => new Promise((resolve) => writer.on("close", resolve))));
    }
    volume.unmount();
  });
});

describe.skipIf(impossible !== undefined || !IS_ROOT)(".sqlfuse and other users (needs root)", () => {
  const ann = { uid: 12001, gid: 12001 };
  const bob = { uid: 12002, gid: 12002 };
  beforeAll(() => {
    volume = TestVolume.create({ createArgs: ["--root-mode", "0755"] });
    volume.mount("--allow-other");
  });
  afterAll(() => volume.remove());

  test("modes, owners and ACLs are checked as they were then, and only the root's owner makes snapshots", () => {
    asUser({ uid: 0, gid: 0 }, () => {
      mkdirSync(at("ann"), 0o700);
      sys.chown(at("ann"), ann.uid, ann.gid);
    });
    asUser(ann, () => writeFileSync(at("ann/secret"), "hers"));
    asUser(ann, () => chmodSync(at("ann/secret"), 0o644));
    asUser(ann, () => expect(() => keep("hers")).toThrow(/EACCES/));
    keep("one");
    chmodSync(at("ann"), 0o755);
    expect(asUser(bob, () => readFileSync(at("ann/secret"), "utf8"))).toBe("hers");
    expect(asUser(ann, () => readFileSync(then("ann/secret"), "utf8"))).toBe("hers");
    for (const path of [then("ann/secret"), at("ann/.sqlfuse/at/one/secret")])
      asUser(bob, () => expect(() => readFileSync(path)).toThrow(/EACCES/));
    asUser(ann, () => expect(() => rmdirSync(at(".sqlfuse/snapshots/one"))).toThrow(/EACCES/));
    rmdirSync(at(".sqlfuse/snapshots/one"));
    volume.unmount();
  });
});
