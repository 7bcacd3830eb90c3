/** `sqlfuse restore` and `sqlfuse undelete` on a file that is not mounted; in a mount: test/mount/undo.test.ts. */
import { spawnSync } from "node:child_process";
import { copyFileSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import type { Volume } from "../../src/core/volume.ts";
import { check } from "../../src/fsck/check.ts";
import { type Dump, dump } from "../core/dump.ts";
import { b, CALLER, contentOf, find, mkdir, noise, put, ROOT } from "../core/fixture.ts";
import { operate } from "../core/operations.ts";
import { withRandom } from "../core/random.ts";
import { CLI, fingerprint, PASSWORD } from "./run.ts";
import { directory, eachWithVolume, file, inside, key, run, succeed } from "./volume.ts";

const LONG = process.env.SQLFUSE_LONG === "1";
eachWithVolume();

/** What a restored tree must have as it was: all but the numbers, the times of the inode itself, and its atime. */
function shown(all: Dump, below = ""): Record<string, unknown> {
  const numbers = new Map<number, string>();
  return Object.fromEntries(
    Object.entries(all)
      .filter(([path]) => path.startsWith(below))
      .sort(([one], [other]) => (one < other ? -1 : 1))
      .map(([path, { ino, generation, times, ...rest }]) => {
        if (!numbers.has(ino)) numbers.set(ino, path);
        // Names of one file are called by the first one.
        return [path, { ...rest, mtime: times.split(" ")[0], first: numbers.get(ino) }];
      }),
  );
}

/** A tree with everything in it, and the snapshot "one" of it. */
function withTree(change: (volume: Volume, d: number) => void = () => {}): Dump {
  return inside((volume) => {
    const d = mkdir(volume, ROOT, "d");
    const sub = mkdir(volume, d, "sub");
    const a = put(volume, d, "a", noise(10_000));
    volume.tree.link(a, sub, b("hard"));
    volume.xattrs.set(a, b("user.x"), b("1"), 0, false);
    volume.tree.symlink(sub, b("link"), b("../a"), CALLER);
    const sparse = put(volume, d, "sparse", "");
    volume.attributes.setattr(sparse, { size: 1_000_000, mode: 0o4711, uid: 7, gid: 8 });
    volume.files.write(sparse, 500_000, b("middle"), false);
    volume.tree.mknod(d, b("fifo"), 0o010644, 0, CALLER);
    volume.attributes.setattr(sub, { mtime: { sec: 5, nsec: 6 }, mode: 0o1750 });
    put(volume, ROOT, "outside", "o");
    const before = dump(volume);
    volume.history.create("one");
    change(volume, d);
    return before;
  });
}

function remove(volume: Volume, parent: number, name: string): void {
  const found = volume.tree.lookup(parent as typeof ROOT, b(name));
  if (found === undefined) return;
  if ((found.mode & 0o170000) !== 0o040000) {
    volume.tree.unlink(parent as typeof ROOT, b(name));
    return;
  }
  const names: string[] = [];
  volume.tree.readdir(found.ino, 0, (entry) => {
    const text = Buffer.from(entry.name).toString();
    if (text !== "." && text !== "..") names.push(text);
    return true;
  });
  for (const one of names) remove(volume, found.ino, one);
  volume.tree.rmdir(parent as typeof ROOT, b(name));
}

describe("sqlfuse restore", () => {
  test("puts a deleted tree back with all that it had, and a second time nothing differs", () => {
    const before = withTree((volume) => remove(volume, ROOT, "d"));
    expect(succeed("restore", "--at", "one", file, "d")).toMatch(
      /^\/d: as in one of \d{4}-\d\d-\d\d \d\d:\d\d:\d\d: 7 restored\n$/,
    );
    expect(shown(inside(dump), "/d")).toEqual(shown(before, "/d"));
    expect(succeed("restore", "--at", "one", file, "d")).toMatch(/: nothing differs\n$/);
  });

  test("touches only what differs, says what it replaced, and leaves what is new", () => {
    const before = withTree((volume, d) => {
      volume.files.write(find(volume, "d/a")?.ino ?? ROOT, 5, b("X"), false);
      volume.attributes.setattr(find(volume, "d/fifo")?.ino ?? ROOT, { mode: 0o600 });
      volume.xattrs.set(find(volume, "d/sub")?.ino ?? ROOT, b("user.new"), b("1"), 0, false);
      put(volume, d as typeof ROOT, "new", "n");
    });
    const untouched = inside((volume) => find(volume, "d/sparse"));
    const dry = fingerprint(file);
    const told = succeed("restore", "--at", "one", "--dry-run", file, "d");
    expect(told.split("\n").slice(0, -2)).toEqual([
      "replaced    /d/a",
      "attributes  /d/fifo",
      "replaced    /d/sub/hard",
      "attributes  /d/sub",
      "attributes  /d",
    ]);
    expect(told).toContain("/d: would be as in one of ");
    expect(fingerprint(file)).toBe(dry);
    const done = JSON.parse(succeed("restore", "--at", "one", "--json", file, "d")) as object;
    expect(done).toMatchObject({ path: "/d", snapshot: "one", dryRun: false, stayed: 1, skipped: [] });
    const after = inside(dump);
    expect(after["/d/new"]).toBeDefined();
    expect(inside((volume) => find(volume, "d/sparse"))).toEqual(untouched);
    succeed("restore", "--at", "one", "--delete", file, "d");
    expect(shown(inside(dump), "/d")).toEqual(shown(before, "/d"));
  });

  test("puts a file elsewhere with --to, and makes directories that are gone", () => {
    withTree((volume) => remove(volume, ROOT, "d"));
    succeed("restore", "--at", "one", file, "d/a", "--to", "old");
    expect(inside((volume) => contentOf(volume, find(volume, "old")?.ino ?? ROOT))).toEqual(noise(10_000));
    expect(inside((volume) => find(volume, "d"))).toBeUndefined();
    succeed("restore", "--at", "one", file, "d/sub/link");
    expect(Object.keys(inside(dump)).sort()).toEqual(["", "/d", "/d/sub", "/d/sub/link", "/old", "/outside"]);
    expect(inside((volume) => find(volume, "d/sub"))).toMatchObject({
      mode: 0o041750,
      mtimeSec: 5,
      mtimeNsec: 6,
    });
  });

  test("a file where a directory is now takes --delete, and is named without it", () => {
    withTree((volume, d) => {
      volume.tree.unlink(d as typeof ROOT, b("fifo"));
      put(volume, mkdir(volume, d as typeof ROOT, "fifo"), "inner", "x");
    });
    const refused = run("restore", "--at", "one", file, "d");
    expect(refused.code).toBe(3);
    expect(refused.stderr).toBe("sqlfuse: /d/fifo: there is a directory of that name now\n");
    succeed("restore", "--at", "one", "--delete", file, "d");
    expect(inside((volume) => find(volume, "d/fifo"))).toMatchObject({ mode: 0o010644 });
  });

  test("a file never takes the place of the root, and --delete removes nothing for it", () => {
    withTree();
    const before = inside(dump);
    const refused = run("restore", "--at", "one", "--delete", file, "outside", "--to", "/");
    expect(refused).toMatchObject({ code: 10, stdout: "" });
    expect(refused.stderr).toBe("sqlfuse: /: the root directory stays\n");
    expect(inside(dump)).toEqual(before);
  });

  test("two files with two names each that are one file now, are two again", () => {
    inside((volume) => {
      for (const one of ["a", "b"]) volume.tree.link(put(volume, ROOT, `${one}1`, "x"), ROOT, b(`${one}2`));
      volume.history.create("one");
      const a = find(volume, "a1")?.ino ?? ROOT;
      for (const name of ["b1", "b2"]) {
        volume.tree.unlink(ROOT, b(name));
        volume.tree.link(a, ROOT, b(name));
      }
    });
    succeed("restore", "--at", "one", file, "/");
    const inos = inside((volume) => ["a1", "a2", "b1", "b2"].map((name) => find(volume, name)?.ino));
    expect(inos[0]).toBe(inos[1]);
    expect(inos[2]).toBe(inos[3]);
    expect(inos[0]).not.toBe(inos[2]);
  });

  test("of the root with --delete, after random operations, makes all what it was", () =>
    withRandom((random) => {
      const before = inside((volume) => {
        for (let i = 0; i < 200; i++) operate(random, volume, () => {});
        const state = dump(volume);
        volume.history.create("then");
        for (let i = 0; i < 100; i++) operate(random, volume, () => {});
        return state;
      });
      succeed("restore", "--at", "then", "--delete", "--quiet", file, "/");
      expect(shown(inside(dump))).toEqual(shown(before));
      expect(succeed("restore", "--at", "then", "--delete", file, "/")).toMatch(/: nothing differs\n$/);
    }));

  test.each([
    [["restore", "FILE", "d"], 2, "as when? give --at"],
    [["restore", "--at", "two", "FILE", "d"], 10, "no snapshot two; see: sqlfuse snapshot list"],
    [["restore", "--at", "one", "FILE", "never"], 10, "/never: not in snapshot one"],
    [["restore", "--at", "one", "FILE", "d", "--to", "x/y"], 10, "/x/y: the directory that it would be in"],
    [["undelete", "FILE", "d"], 10, "/d: is there; to put it back as it was: sqlfuse restore --at SNAPSHOT"],
    [["undelete", "FILE", "never"], 10, "/never: not in the volume, nor in any snapshot"],
  ])("%j is refused", (args, code, text) => {
    withTree();
    const outcome = run(...args.map((word) => (word === "FILE" ? file : word)));
    expect(outcome).toMatchObject({ code, stdout: "" });
    expect(outcome.stderr).toContain(text);
  });
});

const canTrace = spawnSync("strace", ["-qq", "true"]).status === 0;

describe.skipIf(!canTrace)(`a restore that is killed${canTrace ? "" : " (there is no strace)"}`, () => {
  test("leaves nothing wrong, and done again makes all what it was", { timeout: 240_000 }, () => {
    const before = withTree((volume) => remove(volume, ROOT, "d"));
    const start = join(directory, "start");
    copyFileSync(file, start);
    const log = join(directory, "trace");
    const restore = (...trace: string[]) => {
      const command = [process.execPath, CLI, "restore", "--at", "one", "--delete", file, "d"];
      const env = { ...process.env, SQLFUSE_PASSWORD: PASSWORD };
      return spawnSync("strace", ["-f", "-qq", "-e", "signal=none", ...trace, ...command], { env });
    };
    expect(restore("-e", "trace=pwrite64", "-o", log).status).toBe(0);
    const count = readFileSync(log, "utf8")
      .split("\n")
      .filter((line) => line.includes(" pwrite64(")).length;
    expect(count).toBeGreaterThan(5);
    const step = LONG ? 1 : Math.ceil(count / 5);
    for (let when = 1; when <= count; when += step) {
      for (const end of ["-wal", "-shm"]) rmSync(file + end, { force: true });
      copyFileSync(start, file);
      restore("-e", `inject=pwrite64:signal=SIGKILL:when=${when}`, "-o", "/dev/null");
      inside(() => {});
      expect(check(file, key), `${when}`).toEqual([]);
      succeed("restore", "--at", "one", "--delete", "--quiet", file, "d");
      expect(shown(inside(dump), "/d"), `${when}`).toEqual(shown(before, "/d"));
    }
  });
});

describe("sqlfuse undelete", () => {
  test("puts back the newest state that any snapshot has", () => {
    const before = withTree((volume, d) => {
      volume.files.write(find(volume, "d/a")?.ino ?? ROOT, 0, b("newest"), false);
      volume.history.create("two");
      volume.files.write(find(volume, "d/a")?.ino ?? ROOT, 0, b("unseen"), false);
      volume.tree.unlink(d as typeof ROOT, b("a"));
      volume.history.create("three");
    });
    expect(before["/d/a"]).toBeDefined();
    expect(succeed("undelete", file, "d/a")).toMatch(/^\/d\/a: as in two of .*: 1 restored\n$/);
    const content = inside((volume) => contentOf(volume, find(volume, "d/a")?.ino ?? ROOT));
    expect(content.subarray(0, 6).toString()).toBe("newest");
  });
});
