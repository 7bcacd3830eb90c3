/** `sqlfuse diff` and `sqlfuse log` on a file that is not mounted; beside a mount: test/mount/undo.test.ts. */
import { chmodSync } from "node:fs";
import { beforeEach, describe, expect, test } from "vitest";
import { b, find, mkdir, put, ROOT } from "../core/fixture.ts";
import { fingerprint } from "./run.ts";
import { directory, eachWithVolume, file, inside, run, succeed } from "./volume.ts";

eachWithVolume();
beforeEach(() =>
  inside((volume) => {
    const d = mkdir(volume, ROOT, "d");
    put(volume, d, "a", "one\ntwo\nthree\n");
    put(volume, d, "gone", "x\n");
    put(volume, ROOT, "binary", Buffer.from([0, 1, 2]));
    volume.history.create("first");
    volume.files.write(find(volume, "d/a")?.ino ?? ROOT, 0, b("ONE"), false);
    volume.files.write(find(volume, "binary")?.ino ?? ROOT, 0, b("abc"), false);
    volume.tree.unlink(d, b("gone"));
    volume.tree.rename(ROOT, b("d"), ROOT, b("e"), 0);
    volume.history.create("second");
    put(volume, ROOT, "new", "n\n");
  }),
);

describe("sqlfuse diff", () => {
  test("tells what changed between two snapshots, to now, and the other way round", () => {
    const forth = [
      "modified  /binary (content)",
      "removed   /d/gone",
      "renamed   /d -> /e",
      "modified  /e/a (content)",
      "",
    ];
    expect(succeed("diff", "first", "second", file).split("\n")).toEqual(forth);
    expect(succeed("diff", "1", "now", file).split("\n")).toEqual([
      ...forth.slice(0, -1),
      "added     /new",
      "",
    ]);
    expect(succeed("diff", "second", "now", file)).toBe("added     /new\n");
    expect(succeed("diff", "now", "second", file)).toBe("removed   /new\n");
    expect(succeed("diff", "second", "first", file).split("\n")).toEqual([
      "modified  /binary (content)",
      "renamed   /e -> /d",
      "modified  /d/a (content)",
      "added     /d/gone",
      "",
    ]);
    expect(succeed("diff", "first", "first", file)).toBe("");
    expect(succeed("diff", "first", "now", file, "e")).toBe("renamed   /d -> /e\nmodified  /e/a (content)\n");
  });

  test("a path that is in neither state is no path without changes", () => {
    expect(succeed("diff", "first", "second", file, "binary/../e/a")).not.toBe("");
    expect(succeed("diff", "second", "now", file, "e/a")).toBe("");
    expect(run("diff", "first", "now", file, "typo")).toEqual({
      code: 10,
      stdout: "",
      stderr: "sqlfuse: /typo: neither there then nor after; see: sqlfuse log\n",
    });
  });

  test("a directory that was renamed is asked for by either name", () => {
    expect(succeed("diff", "first", "second", file, "d").split("\n")).toEqual([
      "removed   /d/gone",
      "renamed   /d -> /e",
      "modified  /e/a (content)",
      "",
    ]);
    expect(succeed("diff", "second", "first", file, "e").split("\n")).toEqual([
      "renamed   /e -> /d",
      "modified  /d/a (content)",
      "",
    ]);
  });

  test("a name that was taken from another file is told, forth and back", () => {
    inside((volume) => {
      put(volume, ROOT, "x", "from");
      put(volume, ROOT, "y", "over");
      volume.history.create("third");
      volume.tree.rename(ROOT, b("x"), ROOT, b("y"), 0);
    });
    expect(succeed("diff", "third", "now", file)).toBe("renamed   /x -> /y (replaced)\n");
    expect(succeed("diff", "now", "third", file)).toBe("renamed   /y -> /x\nadded     /y\n");
  });

  test("--text shows the lines of texts, and of nothing else", () => {
    expect(succeed("diff", "--text", "first", "now", file).split("\n")).toEqual([
      "modified  /binary (content)",
      "removed   /d/gone",
      "--- /d/gone",
      "+++ /dev/null",
      "@@ -1 +0,0 @@",
      "-x",
      "renamed   /d -> /e",
      "modified  /e/a (content)",
      "--- /d/a",
      "+++ /e/a",
      "@@ -1,3 +1,3 @@",
      "-one",
      "+ONE",
      " two",
      " three",
      "added     /new",
      "--- /dev/null",
      "+++ /new",
      "@@ -0,0 +1 @@",
      "+n",
      "",
    ]);
  });

  test("--json has it all as one array", () => {
    expect(JSON.parse(succeed("diff", "--json", "first", "now", file))).toEqual([
      { change: "modified", path: "/binary", what: ["content"], type: "file", sizeBefore: 3, size: 3 },
      { change: "removed", path: "/d/gone", what: [], type: "file", sizeBefore: 2 },
      { change: "renamed", path: "/e", from: "/d", what: [], type: "dir", sizeBefore: 0, size: 0 },
      { change: "modified", path: "/e/a", what: ["content"], type: "file", sizeBefore: 14, size: 14 },
      { change: "added", path: "/new", what: [], type: "file", size: 2 },
    ]);
  });

  test("makes its indexes once, and does without where the file cannot be written", () => {
    const isIndexed = () => inside(({ history }) => history.isIndexed);
    chmodSync(file, 0o400);
    const before = fingerprint(file);
    expect(succeed("diff", "second", "now", file)).toBe("added     /new\n");
    expect(fingerprint(file)).toBe(before);
    chmodSync(file, 0o600);
    expect(isIndexed()).toBe(false);
    expect(succeed("diff", "second", "now", file)).toBe("added     /new\n");
    expect(isIndexed()).toBe(true);
    const indexed = fingerprint(file);
    expect(succeed("diff", "second", "now", file)).toBe("added     /new\n");
    expect(fingerprint(file)).toBe(indexed);
    succeed("vacuum", "--quiet", file);
    expect(isIndexed()).toBe(true);
    expect(succeed("diff", "second", "now", file)).toBe("added     /new\n");
  });

  test.each([
    [["diff", "first"], 2, "missing required argument 'to'"],
    [["diff", "first", "never", "FILE"], 10, "no snapshot never; see: sqlfuse snapshot list"],
    [["diff", "first", "now", "NONE"], 10, "no such file"],
    [["diff", "first", "now", "DIRECTORY"], 10, "neither in a mounted volume nor the file of one"],
    [["diff", "first", "now", "FILE", "a", "b"], 2, "too many arguments"],
    [["log", "FILE", "never"], 10, "/never: not in the volume, nor in any snapshot"],
    [["log"], 2, "missing required argument 'file|path'"],
  ])("%j is refused", (args, code, text) => {
    const names: Record<string, string> = { FILE: file, NONE: `${file}.none`, DIRECTORY: directory };
    const outcome = run(...args.map((word) => names[word] ?? word));
    expect(outcome).toMatchObject({ code, stdout: "" });
    expect(outcome.stderr).toContain(text);
  });
});

describe("sqlfuse log", () => {
  test("tells what happened to a file, the newest first, also to one that is gone", () => {
    const time = "\\d{4}-\\d\\d-\\d\\d \\d\\d:\\d\\d:\\d\\d";
    expect(succeed("log", file, "e/a")).toMatch(
      new RegExp(
        `^TIME {17}SHOWN BY {2}WHAT\\n${time} {2}second {4}renamed from /d/a to /e/a; written 14 B, now 14 B\\n` +
          `${time} {2}first {5}created: /d/a, now 14 B\\n$`,
      ),
    );
    expect(succeed("log", file, "/d/gone")).toMatch(
      new RegExp(`\\n- {20}second {4}deleted: /d/gone\\n${time} {2}first {5}created: /d/gone, now 2 B\\n$`),
    );
    const [moved] = JSON.parse(succeed("log", "--json", file, "e")) as object[];
    expect(moved).toMatchObject({
      event: "changed",
      path: "/e",
      from: "/d",
      snapshot: "second",
      namesAdded: 0,
      namesRemoved: 1,
    });
  });

  /** What it tells, without the times. */
  function told(path: string): string[] {
    return (JSON.parse(succeed("log", "--json", file, path)) as { event: string; path: string }[]).map(
      (one) => `${one.event} ${one.path}`,
    );
  }

  test("of a file with several names it tells of the one that was asked for", () => {
    inside((volume) => {
      put(volume, ROOT, "hard", "one");
      volume.history.create("third");
      volume.tree.unlink(ROOT, b("hard"));
      volume.tree.link(put(volume, ROOT, "a", "two"), ROOT, b("hard"));
    });
    expect(told("hard")).toEqual(["replaced /hard", "created /hard"]);
    expect(told("a")).toEqual(["created /a"]);
  });

  test("tells of a file that was there before in a directory that has another name now", () => {
    inside((volume) => {
      const e = find(volume, "e")?.ino ?? ROOT;
      volume.tree.unlink(e, b("a"));
      put(volume, e, "a", "another");
      volume.history.create("third");
      volume.tree.rename(ROOT, b("e"), ROOT, b("f"), 0);
    });
    expect(told("f/a")).toEqual(["replaced /e/a", "changed /e/a", "created /d/a"]);
  });
});
