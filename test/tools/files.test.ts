/** `ls`, `cat`, `get`, `put`, `rm` and `mkdir` on a volume that is not mounted. */
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  chownSync,
  copyFileSync,
  existsSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { unlock } from "../../src/core/unlock.ts";
import { check } from "../../src/fsck/check.ts";
import { CLI, type Outcome, PASSWORD, sqlfuse } from "./run.ts";

let directory: string;
let empty: string | undefined;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "files-"));
  if (empty === undefined) {
    empty = join(mkdtempSync(join(tmpdir(), "files-empty-")), "v");
    expect(sqlfuse(["create", empty])).toMatchObject({ code: 0 });
  }
  copyFileSync(empty, join(directory, "v"));
});

afterEach(() => {
  const key = unlock(join(directory, "v"), Buffer.from(PASSWORD));
  expect(check(join(directory, "v"), key)).toEqual([]);
  key.wipe();
  expect(readdirSync(directory).filter((name) => name.startsWith("v"))).toEqual(["v"]);
  rmSync(directory, { recursive: true, force: true });
});

/** A command on the volume, run in the directory. */
function run(verb: string, ...args: string[]): Outcome {
  return sqlfuse([verb, "v", ...args], { password: PASSWORD, cwd: directory });
}

function succeed(verb: string, ...args: string[]): string {
  const { code, stdout, stderr } = run(verb, ...args);
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  return stdout;
}

function at(name: string): string {
  return join(directory, name);
}

describe("put and get", () => {
  test("a tree there and back is the same", () => {
    mkdirSync(at("tree/sub/empty"), { recursive: true });
    writeFileSync(at("tree/a b"), "space");
    linkSync(at("tree/a b"), at("tree/sub/linked"));
    symlinkSync("../a b", at("tree/sub/symlink"));
    writeFileSync(at("tree/mode"), "m");
    chmodSync(at("tree/mode"), 0o6751);
    utimesSync(at("tree/mode"), 1, 1_000_000_000.25);
    spawnSync("truncate", ["-s", "100M", at("tree/sparse")]);
    spawnSync("setfattr", ["-n", "user.a", "-v", "b", at("tree/mode")]);
    utimesSync(at("tree/sub"), 5, 5);
    succeed("put", "tree");
    succeed("get", "tree", "back");
    const compared = spawnSync("rsync", ["-aHAXn", "--itemize-changes", "--delete", "tree/", "back/"], {
      cwd: directory,
      encoding: "utf8",
    });
    expect(compared.stdout).toBe("");
    expect(statSync(at("back/sparse")).blocks).toBe(0);
    expect(statSync(at("v")).size).toBeLessThan(1_000_000);
  });

  test("names as cp: into a directory that is there, or as the new name", () => {
    writeFileSync(at("one"), "1");
    writeFileSync(at("two"), "2");
    mkdirSync(at("dir"));
    writeFileSync(at("dir/three"), "3");
    succeed("put", "one");
    succeed("put", "one", "/uno");
    succeed("mkdir", "d");
    succeed("put", "one", "two", "d");
    succeed("put", "dir", "d");
    succeed("put", "dir/.", "contents");
    succeed("put", "dir", "renamed");
    expect(succeed("ls", "-R")).toBe(
      "/:\ncontents\nd\none\nrenamed\nuno\n\n/contents:\nthree\n\n/d:\ndir\none\ntwo\n\n/d/dir:\nthree\n\n/renamed:\nthree\n",
    );
    mkdirSync(at("out"));
    succeed("get", "d/dir", "out");
    succeed("get", "d/dir", "out/new");
    succeed("get", "one", "uno", "out");
    succeed("get", "d", "out");
    expect(readdirSync(at("out")).sort()).toEqual(["d", "dir", "new", "one", "uno"]);
    expect(readdirSync(at("out/new"))).toEqual(["three"]);
    mkdirSync(at("here"));
    expect(sqlfuse(["get", "../v", "d"], { password: PASSWORD, cwd: at("here") })).toMatchObject({ code: 0 });
    expect(readdirSync(at("here/d")).sort()).toEqual(["dir", "one", "two"]);
  });

  test("replace what is there, unless told not to", () => {
    writeFileSync(at("f"), "old");
    succeed("put", "f");
    writeFileSync(at("f"), "new and longer");
    succeed("put", "-n", "f");
    expect(succeed("cat", "f")).toBe("old");
    succeed("put", "f");
    expect(succeed("cat", "f")).toBe("new and longer");
    writeFileSync(at("f"), "local");
    succeed("get", "--no-clobber", "f");
    expect(readFileSync(at("f"), "utf8")).toBe("local");
    succeed("get", "f");
    expect(readFileSync(at("f"), "utf8")).toBe("new and longer");
  });

  test("take from stdin, give to stdout", () => {
    const bytes = Buffer.alloc(3_000_000, "0123456789");
    const given = spawnSync(process.execPath, [CLI, "put", "v", "-", "/from stdin"], {
      cwd: directory,
      input: bytes,
      env: { ...process.env, SQLFUSE_PASSWORD: PASSWORD },
    });
    expect(given.status).toBe(0);
    const shown = spawnSync(process.execPath, [CLI, "cat", "v", "from stdin"], {
      cwd: directory,
      maxBuffer: 1 << 24,
      env: { ...process.env, SQLFUSE_PASSWORD: PASSWORD },
    });
    expect(shown.status).toBe(0);
    expect(shown.stdout.equals(bytes)).toBe(true);
    expect(succeed("ls", "-l", "from stdin")).toMatch(/^-rw-r--r-- 1 .* 3000000 .* from stdin\n$/);
    expect(run("put", "-")).toMatchObject({ code: 2 });
    expect(run("put", "-", "/")).toMatchObject({
      code: 10,
      stderr: "sqlfuse: /: a directory; give the name of the file\n",
    });
  });

  test("never touch the file of the volume itself", () => {
    writeFileSync(at("f"), "f");
    succeed("put", "f");
    for (const verb of ["put", "get"]) {
      const done = verb === "put" ? run("put", "v", "inner") : run("get", "f", "v");
      expect(done.code).toBe(1);
      expect(done.stderr).toMatch(/it is the volume itself\n$/);
    }
    expect(succeed("ls")).toBe("f\n");
  });

  test("go on without what cannot be copied, and end with 3", () => {
    mkdirSync(at("tree/in-the-way"), { recursive: true });
    writeFileSync(at("tree/f"), "f");
    succeed("mkdir", "t");
    succeed("put", "tree/f", "/t/in-the-way");
    const done = run("put", "tree/.", "t");
    expect(done.code).toBe(3);
    expect(done.stderr).toMatch(
      /^sqlfuse: .*in-the-way: there is something of that name that is not a directory\n$/,
    );
    expect(succeed("cat", "t/f")).toBe("f");
  });

  test.each([
    [["put", "nothing"], 10, "nothing: no such file or directory"],
    [["put", "", "/"], 10, 'sqlfuse: "": no such file or directory'],
    [["put", "file", "no/where"], 10, "/no/where: the directory that it would be in does not exist"],
    [["put", "file", "file", "file"], 10, "/file: not a directory, so it cannot take several"],
    [["get", "nothing"], 1, "/nothing: no such file or directory"],
    [["get", "file", "no/where"], 10, "the directory that it would be in does not exist"],
    [["get", "../up"], 10, "../up: the path leads out of the volume"],
    [["cat", "nothing"], 1, "nothing: no such file or directory"],
    [["cat", "/"], 1, "/: it is a directory"],
    [["cat", "file/below"], 1, "file/below: not a directory"],
    [["cat", "nothing", "file"], 3, "nothing: no such file or directory"],
    [["ls", "nothing"], 1, "nothing: no such file or directory"],
    [["get", "", "copy"], 10, '"": no such file or directory'],
    [["rm", "nothing"], 1, "nothing: no such file or directory"],
    [["rm", "/"], 1, "/: the root directory stays"],
    [["rm", "-r", "/"], 1, "/: the root directory stays"],
    [["rm", "."], 1, "/: the root directory stays"],
    [["mkdir", "file"], 1, "file: it exists already"],
    [["mkdir", "a/b"], 1, "a/b: no such file or directory"],
    [["mkdir", "-p", "file"], 1, "file: it exists already"],
    [["mkdir", "-p", "file/below"], 1, "file/below: not a directory"],
    [["mkdir", "-m", "rwx", "d"], 2, "--mode rwx: not an octal mode"],
    [["rm"], 2, "missing required argument 'path'"],
  ])("%j ends with %i", ([verb = "", ...args], code, message) => {
    writeFileSync(at("file"), "content");
    const filled = join(tmpdir(), "files-filled");
    if (existsSync(filled)) copyFileSync(filled, at("v"));
    else {
      succeed("put", "file");
      copyFileSync(at("v"), filled);
    }
    const done = run(verb, ...args);
    expect(done.stderr).toContain(message);
    expect(done.stderr.trimEnd().split("\n").length).toBe(1);
    expect(done.code).toBe(code);
    expect(succeed("ls")).toBe("file\n");
  });
});

describe("ls", () => {
  test("lists as ls does", () => {
    mkdirSync(at("t/sub"), { recursive: true });
    writeFileSync(at("t/.hidden"), "");
    writeFileSync(at("t/f"), "12345");
    symlinkSync("f", at("t/link"));
    spawnSync("mkfifo", [at("t/pipe")]);
    chmodSync(at("t/sub"), 0o3775);
    succeed("put", "t/.", "/");
    expect(succeed("ls")).toBe("f\nlink\npipe\nsub\n");
    expect(succeed("ls", "-a")).toBe(".hidden\nf\nlink\npipe\nsub\n");
    expect(succeed("ls", "f", "sub")).toBe("f\n\n/sub:\n");
    expect(succeed("ls", "-d", "/", "sub")).toBe("/\nsub\n");
    const long = succeed("ls", "-l").split("\n");
    expect(long[0]).toMatch(/^-rw-r--r-- 1 \S+ +\S+ +5 \d{4}-\d\d-\d\d \d\d:\d\d:\d\d f$/);
    expect(long[1]).toMatch(/^lrwxrwxrwx 1 .* link -> f$/);
    expect(long[2]).toMatch(/^prw-r--r-- /);
    expect(long[3]).toMatch(/^drwxrwsr-t 2 /);
    expect(succeed("ls", "link")).toBe("link\n");
  });

  test("--json has everything, and the exact bytes of names that are no text", () => {
    writeFileSync(Buffer.concat([Buffer.from(`${directory}/`), Buffer.from([0x62, 0xff])]), "bytes");
    writeFileSync(at("a\nb"), "");
    const all = run("put", `${directory}/.`, "/all");
    expect(all).toMatchObject({ code: 3 });
    expect(all.stderr).toMatch(/\/v: it is the volume itself\n/);
    const items = JSON.parse(succeed("ls", "--json", "all")) as Record<string, unknown>[];
    expect(items.map(({ path }) => path)).toEqual(["/all/a\nb", "/all/b\ufffd"]);
    expect(items[1]).toMatchObject({
      pathBase64: Buffer.concat([Buffer.from("/all/b"), Buffer.from([0xff])]).toString("base64"),
      type: "file",
      mode: "0644",
      size: 5,
      links: 1,
    });
    expect(items[0]).not.toHaveProperty("pathBase64");
    expect(items[0]?.mtime).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z$/);
    expect(succeed("ls", "--json", "-R", "/")).toContain('"/all/a\\nb"');
    succeed("rm", "-r", "all");
    expect(succeed("ls", "--json")).toBe("[]\n");
  });
});

describe("rm and mkdir", () => {
  test("remove files, and directories only when told", () => {
    succeed("mkdir", "-p", "a/b/c", "x");
    writeFileSync(at("f"), Buffer.alloc(500_000, 1));
    succeed("put", "f", "a/b/f");
    expect(run("rm", "a")).toMatchObject({
      code: 1,
      stderr: "sqlfuse: /a: a directory: give -r to remove it\n",
    });
    expect(run("rm", "a/b/f", "x", "nothing")).toMatchObject({ code: 3 });
    succeed("rm", "-rf", "a", "nothing");
    expect(succeed("ls")).toBe("x\n");
  });

  test("mkdir makes modes as asked, and those on the way as the umask has them", () => {
    succeed("mkdir", "-p", "-m", "1770", "one/two");
    succeed("mkdir", "-p", "one/two");
    expect(succeed("ls", "-ld", "one", "one/two")).toMatch(/^drwxr-xr-x .* one\ndrwxrwx--T .* one\/two\n$/);
  });

  test("a removed symlink leaves what it leads to", () => {
    mkdirSync(at("t/d"), { recursive: true });
    writeFileSync(at("t/d/f"), "f");
    symlinkSync("d", at("t/link"));
    succeed("put", "t/.", "/");
    expect(succeed("cat", "link/f")).toBe("f");
    succeed("rm", "-r", "link");
    expect(succeed("ls", "-R")).toBe("/:\nd\n\n/d:\nf\n");
  });
});

describe("who else has the file", () => {
  test("a process that holds it: it can be read, and not changed", async () => {
    const holder = spawn("flock", ["-xF", at("v"), "sleep", "60"], { stdio: "ignore" });
    const ended = once(holder, "exit");
    try {
      for (let i = 0; i < 100 && run("mkdir", "x").code === 0; i++) {
        succeed("rm", "-r", "x");
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
      expect(run("put", "v")).toMatchObject({ code: 11 });
      expect(run("rm", "v").stderr).toContain("in use by process");
      expect(succeed("ls", "-la")).toBe("");
    } finally {
      holder.kill();
      await ended;
    }
  });

  test.runIf(process.geteuid?.() === 0)(
    "who may not write the file may read it, and gets files of their own",
    () => {
      writeFileSync(at("f"), "f");
      chownSync(at("f"), 1234, 1234);
      chmodSync(at("f"), 0o4755);
      succeed("put", "f");
      chmodSync(directory, 0o755);
      chmodSync(at("v"), 0o644);
      mkdirSync(at("theirs"));
      chownSync(at("theirs"), 65534, 65534);
      const nobody = (...args: string[]): Outcome =>
        sqlfuse(args, { password: PASSWORD, cwd: at("theirs"), unprivileged: true });
      expect(nobody("get", "../v", "f")).toMatchObject({ code: 0, stderr: "" });
      expect(statSync(at("theirs/f"))).toMatchObject({ uid: 65534, mode: 0o100755 });
      expect(nobody("cat", "../v", "f")).toMatchObject({ code: 0, stdout: "f" });
      expect(nobody("rm", "../v", "f")).toMatchObject({
        code: 10,
        stderr: "sqlfuse: ../v: the file or its directory cannot be written\n",
      });
    },
  );

  test.runIf(process.geteuid?.() === 0)(
    "nobody's own volume takes what nobody can read, and names the rest",
    () => {
      mkdirSync(at("theirs"));
      chmodSync(directory, 0o755);
      chownSync(at("theirs"), 65534, 65534);
      mkdirSync(at("source"));
      writeFileSync(at("source/open"), "open");
      writeFileSync(at("source/closed"), "closed");
      chmodSync(at("source/closed"), 0o600);
      symlinkSync("open", at("source/link"));
      const nobody = (...args: string[]): Outcome =>
        sqlfuse(args, { password: PASSWORD, cwd: at("theirs"), unprivileged: true });
      expect(nobody("create", "own")).toMatchObject({ code: 0 });
      const done = nobody("put", "own", "../source");
      expect(done).toMatchObject({ code: 3 });
      expect(done.stderr).toMatch(/source\/closed: permission denied\n$/);
      expect(nobody("ls", "own", "source").stdout).toBe("link\nopen\n");
      expect(nobody("get", "own", "source")).toMatchObject({ code: 0 });
      expect(readlinkSync(at("theirs/source/link"))).toBe("open");
      expect(existsSync(at("theirs/source/closed"))).toBe(false);
    },
  );
});
