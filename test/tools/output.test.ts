/** What the commands print when all went well: for people, for programs (--json), and nothing (--quiet). */
import { randomBytes } from "node:crypto";
import { copyFileSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import { unlock } from "../../src/core/unlock.ts";
import { Volume } from "../../src/core/volume.ts";
import { rawKeyPassword } from "../../src/db/key.ts";
import { alignOrStack } from "../../tools/output.ts";
import { buildProgram } from "../../tools/program.ts";
import { Skips } from "../../tools/skips.ts";
import { b, noise, put, ROOT } from "../core/fixture.ts";
import { mountingImpossible } from "../helpers/volume.ts";
import { type Outcome, sqlfuse, sqlfuseOnTerminal } from "./run.ts";

const KEY = randomBytes(32);
let template: string;
let directory: string;
let file: string;
let key: string;

beforeAll(() => {
  template = mkdtempSync(join(tmpdir(), "output-template-"));
  file = join(template, "v.sqlite");
  Volume.create(file, rawKeyPassword(KEY));
  const volume = Volume.open(file, unlock(file, rawKeyPassword(KEY)));
  put(volume, ROOT, "a", noise(200_000));
  put(volume, ROOT, "gone", noise(3_000_000, 2));
  volume.commit();
  volume.tree.unlink(ROOT, b("gone"));
  volume.close();
});
afterAll(() => rmSync(template, { recursive: true, force: true }));

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "output-"));
  copyFileSync(join(template, "v.sqlite"), join(directory, "v.sqlite"));
  file = join(directory, "v.sqlite");
  key = join(directory, "key");
  writeFileSync(key, KEY, { mode: 0o600 });
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

/** Verbs that say something of their own when all went well, with all that they need. */
const TELLING: Record<string, () => string[]> = {
  create: () => ["--key-file", key, join(directory, "new")],
  load: () => ["--key-file", key, join(directory, "new"), dumped()],
  rekey: () => ["--key-file", key, "--new-key-file", key, file],
  vacuum: () => ["--key-file", key, file],
  fsck: () => ["--key-file", key, file],
};
/** Those that say nothing then, but show their progress on a terminal. */
const WORKING: Record<string, () => string[]> = {
  dump: () => ["--key-file", key, "-o", join(directory, "dump"), file],
  get: () => ["--key-file", key, file, "a", directory],
  put: () => ["--key-file", key, file, key],
};

/** So that the same command can run again. */
function removeMade(): void {
  for (const name of ["new", "dump"]) rmSync(join(directory, name), { force: true });
}

function dumped(): string {
  const dump = join(directory, "dump");
  expect(sqlfuse(["dump", "--key-file", key, "-o", dump, file], {})).toMatchObject({ code: 0 });
  return dump;
}

function json(...args: string[]): unknown {
  const { code, stdout, stderr } = sqlfuse(args, {});
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  return JSON.parse(stdout);
}

describe("--quiet", () => {
  test.each(Object.entries(TELLING))("%s says something without it and nothing with it", (verb, args) => {
    expect(sqlfuse([verb, ...args()], {})).toMatchObject({
      code: 0,
      stdout: expect.stringMatching(/^.+\n$/),
    });
    removeMade();
    for (const option of ["--quiet", "-q"]) {
      expect(sqlfuse([verb, option, ...args()], {})).toEqual({ code: 0, stdout: "", stderr: "" });
      removeMade();
    }
  });

  test.each([
    ["create", ["create", "-q", "/nope/new"]],
    ["fsck", ["fsck", "-q", "/nope"]],
    ["vacuum", ["vacuum", "-q", "/nope"]],
    ["unmount", ["unmount", "-q", "/nope"]],
    ["get", ["get", "-q", "/nope", "a"]],
  ])("%s still tells what went wrong", (_, args) => {
    const { code, stdout, stderr } = sqlfuse(args, {});
    expect({ stdout, isError: (code ?? 0) > 0 }).toEqual({ stdout: "", isError: true });
    expect(stderr).toMatch(/^sqlfuse: .*\n$/);
  });

  test.each(Object.entries({ ...TELLING, ...WORKING }).filter(([verb]) => verb !== "create"))(
    "%s shows progress on a terminal, none with it, and none where there is no terminal",
    async (verb, args) => {
      const clear = "\x1b[K";
      expect((await sqlfuseOnTerminal([verb, ...args()], [])).stdout).toContain(clear);
      removeMade();
      expect(await sqlfuseOnTerminal([verb, "-q", ...args()], [])).toMatchObject({ code: 0, stdout: "" });
      removeMade();
      const { stdout, stderr } = sqlfuse([verb, ...args()], {});
      expect(stdout + stderr).not.toContain("\x1b");
    },
  );

  test("is -q for every command that has it", async () => {
    for (const { options } of (await buildProgram()).commands) {
      const quiet = options.find(({ long }) => long === "--quiet");
      expect([undefined, "-q"]).toContain(quiet?.short);
    }
  });
});

describe("--json", () => {
  test("create and load print the new file", () => {
    const path = join(directory, "new");
    expect(json("create", "--json", "--key-file", key, path)).toEqual({
      path,
      sizeBytes: statSync(path).size,
    });
    rmSync(path);
    expect(json("load", "--json", "--key-file", key, path, dumped())).toEqual({
      path,
      sizeBytes: statSync(path).size,
      loaded: 2,
      skipped: [],
    });
  });

  test("vacuum and rekey print the sizes before and after", () => {
    const bytesBefore = statSync(file).size;
    const vacuum = json("vacuum", "--json", "--key-file", key, file) as { bytesAfter: number };
    expect(vacuum).toEqual({ path: file, bytesBefore, bytesAfter: statSync(file).size });
    expect(vacuum.bytesAfter).toBeLessThan(bytesBefore);
    expect(json("rekey", "--json", "--key-file", key, "--new-key-file", key, file)).toEqual({
      path: file,
      bytesBefore: vacuum.bytesAfter,
      bytesAfter: statSync(file).size,
    });
  });

  test("get, put, mkdir and rm print how much they did", () => {
    const flags = ["--json", "--key-file", key, file];
    expect(json("get", ...flags, "a", directory)).toEqual({ copied: 1, bytes: 200_000, skipped: [] });
    expect(json("put", ...flags, key, "/k")).toEqual({ copied: 1, bytes: 32, skipped: [] });
    const piped = sqlfuse(["put", ...flags, "-", "/piped"], { input: "12345" });
    expect(JSON.parse(piped.stdout)).toEqual({ copied: 1, bytes: 5, skipped: [] });
    expect(json("mkdir", ...flags, "d", "e")).toEqual({ made: 2, skipped: [] });
    expect(json("rm", "-r", ...flags, "k", "d")).toEqual({ removed: 2, skipped: [] });
  });

  test("what was left out is in it as well, and the exit code is the same", () => {
    const { code, stdout, stderr } = sqlfuse(["rm", "--json", "--key-file", key, file, "a", "b"], {});
    expect({ code, stderr }).toEqual({ code: 3, stderr: "sqlfuse: b: no such file or directory\n" });
    expect(JSON.parse(stdout)).toEqual({
      removed: 1,
      skipped: [{ path: "b", why: "no such file or directory" }],
    });
  });

  test("a path that is not UTF-8 is in it byte for byte", () => {
    const stderr = vi.spyOn(process.stderr, "write").mockReturnValue(true);
    const skips = new Skips();
    skips.skip("/b\xe9", "why");
    skips.skip("", "why");
    stderr.mockRestore();
    expect(skips.list).toEqual([
      { path: "/b\ufffd", pathBase64: "L2Lp", why: "why" },
      { path: "/", why: "why" },
    ]);
  });

  test("--version prints each version", () => {
    expect(json("--version", "--json")).toEqual({
      sqlfuse: expect.stringMatching(/^\d+\.\d+\.\d+/),
      sqlcipher: expect.stringMatching(/^4\./),
      sqlite: expect.stringMatching(/^3\./),
      node: process.versions.node,
    });
  });
});

describe.skipIf(mountingImpossible() !== undefined)("mount", () => {
  function mount(...flags: string[]): Outcome {
    return sqlfuse(["mount", ...flags, "--key-file", key, "--log-file", join(directory, "log"), file], {});
  }
  afterEach(() => sqlfuse(["unmount", "--lazy", file], {}));

  test("--json prints where and by whom; the same as status does", () => {
    const { code, stdout, stderr } = mount("--json", "--ro");
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    const [status] = json("status", "--json", file) as { pid: number }[];
    const { pid } = status ?? {};
    expect(JSON.parse(stdout)).toEqual({ path: file, mountpoint: join(directory, "v"), pid, readOnly: true });
    expect(status).toMatchObject(JSON.parse(stdout));
  });

  test("-q says nothing, and unmount -q neither, even where it only detaches", () => {
    expect(mount("-q")).toEqual({ code: 0, stdout: "", stderr: "" });
    expect(readdirSync(join(directory, "v"))).toEqual(["a"]);
    expect(sqlfuse(["unmount", "-q", "--lazy", file], {})).toEqual({ code: 0, stdout: "", stderr: "" });
  });
});

describe("colours", () => {
  const BOLD = "\x1b[1m";

  test("are in the prompt on a terminal, and not with NO_COLOR", async () => {
    const args = ["create", join(directory, "new")];
    const coloured = await sqlfuseOnTerminal(args, [["Password", "\x03"]]);
    expect(coloured).toMatchObject({ code: 130, stdout: expect.stringContaining(BOLD) });
    const plain = await sqlfuseOnTerminal(args, [["Password", "\x03"]], { NO_COLOR: "1" });
    expect(plain).toMatchObject({ code: 130, stdout: expect.not.stringContaining(BOLD) });
  });
});

describe("a table that is wider than the terminal", () => {
  const lines = [
    ["FILE", "PID"],
    ["/a", "7"],
    ["/b/c", "12"],
  ];

  test("is a paragraph for each line, and is a table in a pipe and where it fits", () => {
    const table = ["FILE  PID", "/a    7", "/b/c  12"];
    expect(alignOrStack(lines, undefined)).toEqual(table);
    expect(alignOrStack(lines, 9)).toEqual(table);
    expect(alignOrStack(lines, 8)).toEqual(["FILE  /a", "PID   7", "", "FILE  /b/c", "PID   12"]);
  });
});
