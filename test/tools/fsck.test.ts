import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import {
  accessSync,
  chmodSync,
  closeSync,
  constants,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { ROOT_INO } from "../../src/core/types.ts";
import { unlock } from "../../src/core/unlock.ts";
import { Volume } from "../../src/core/volume.ts";
import { Database } from "../../src/db/database.ts";
import { fingerprint, type Outcome, sqlfuse, sqlfuseOnTerminal } from "./run.ts";

const CALLER = { uid: 0, gid: 0, umask: 0 };
/** A raw key: no derivation to wait for. */
const KEY = randomBytes(32);
const PASSWORD = Buffer.from(`x'${KEY.toString("hex")}'`);

let template: string;
let directory: string;
let file: string;

beforeAll(() => {
  template = join(mkdtempSync(join(tmpdir(), "fsck-template-")), "v");
  Volume.create(template, PASSWORD);
  const key = unlock(template, PASSWORD);
  const volume = Volume.open(template, key);
  const { ino } = volume.tree.mkdir(ROOT_INO, Buffer.from("letters"), 0o755, CALLER);
  const letter = volume.tree.mknod(ino, Buffer.from("to Ann"), 0o100644, 0, CALLER);
  volume.files.write(letter.ino, 0, randomBytes(500_000), false);
  volume.tree.mknod(ino, Buffer.from("to\nBob"), 0o100644, 0, CALLER);
  volume.close();
  key.wipe();
});
afterAll(() => rmSync(join(template, ".."), { recursive: true }));

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "fsck-"));
  file = join(directory, "v");
  copyFileSync(template, file);
  chmodSync(file, 0o600);
  writeFileSync(join(directory, "key"), KEY, { mode: 0o600 });
});
afterEach(() => {
  execFileSync("sh", ["-c", `umount -l ${directory}/m 2>/dev/null || true`]);
  rmSync(directory, { recursive: true, force: true });
});

function fsck(...args: string[]): Outcome {
  return sqlfuse(["fsck", "--key-file", join(directory, "key"), ...args], {});
}

function onTerminal(args: readonly string[], ...steps: (readonly [string, string])[]): Promise<Outcome> {
  return sqlfuseOnTerminal(["fsck", "--key-file", join(directory, "key"), ...args], steps);
}

function sql(text: string): void {
  const key = unlock(file, PASSWORD);
  const db = new Database(file, key, { mode: "readwrite" });
  db.exec(text);
  db.close();
  key.wipe();
}

const breakLinks = () => sql("UPDATE inode SET nlink = 5 WHERE size > 0");

/** Overwrites bytes in the middle of the file: of the letter. */
function breakPage(): void {
  const fd = openSync(file, "r+");
  writeSync(fd, "damage", 600_000);
  closeSync(fd);
}

describe("a volume that is whole", () => {
  test("is said to be clean in one line, with exit code 0, and is not touched", () => {
    const before = fingerprint(file);
    expect(fsck(file)).toEqual({
      code: 0,
      stdout: expect.stringMatching(/^\S+: clean \(4 files, 31 blocks, \d+\.\d KiB\)\n$/),
      stderr: "",
    });
    expect(fsck("--repair", "--verify-data", file)).toMatchObject({ code: 0, stderr: "" });
    expect(fingerprint(file)).toBe(before);
    expect(readdirSync(directory).sort()).toEqual(["key", "v"]);
  });

  test("--quiet says nothing of it, --json all", () => {
    expect(fsck("--quiet", file)).toEqual({ code: 0, stdout: "", stderr: "" });
    const { stdout, code } = fsck("--json", file);
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({
      file,
      code: 0,
      mounted: false,
      inodes: 4,
      blocks: 31,
      findings: [],
      notices: [],
    });
  });
});

describe("a damaged volume", () => {
  test("is told with path, inode and what to do, with exit code 4, and is not touched", () => {
    breakLinks();
    const before = fingerprint(file);
    const { code, stdout, stderr } = fsck(file);
    expect({ code, stderr }).toEqual({ code: 4, stderr: "" });
    expect(stdout).toMatch(
      /^\/letters\/to Ann \(inode \d+\): link-count: it says 5 links, 1 entries name it -> the count is set\n/,
    );
    expect(stdout).toContain(`${file}: 1 error; to mend them: sqlfuse fsck --repair ${file}\n`);
    expect(fsck("--quiet", file).stdout).toMatch(/^\/letters\/to Ann \(inode \d+\): link-count: [^\n]*\n$/);
    expect(JSON.parse(fsck("--json", file).stdout)).toMatchObject({
      code: 4,
      findings: [{ kind: "link-count", path: "/letters/to Ann", remedy: "the count is set" }],
    });
    expect(fingerprint(file)).toBe(before);
  });

  test("is repaired without a question where nobody can be asked, with exit code 1; then it is clean", () => {
    breakLinks();
    expect(fsck("--repair", file)).toMatchObject({
      code: 1,
      stdout: expect.stringContaining(`${file}: repaired (1 error)\n`),
    });
    expect(fsck("--repair", file)).toMatchObject({ code: 0 });
    expect(readdirSync(directory).sort()).toEqual(["key", "v"]);
  });

  test("with a damaged page is copied, the damaged file is kept, and what is lost is listed by range", () => {
    breakPage();
    const damaged = readFileSync(file);
    const { code, stdout } = fsck("--repair", file);
    expect(code).toBe(1);
    const kept = /the damaged file is kept as (\S+)\n/.exec(stdout)?.[1] ?? "";
    expect(kept).toMatch(/\/v\.damaged-\d{8}T\d{6}Z$/);
    expect(readFileSync(kept).equals(damaged)).toBe(true);
    expect(stdout).toMatch(/lost: \/letters\/to Ann: bytes \d+ to \d+ are lost/);
    expect(fsck(file)).toMatchObject({ code: 0 });
    expect(readdirSync(directory)).toHaveLength(3);
  });

  test("has names that cannot move the cursor", () => {
    sql("UPDATE inode SET nlink = 5 WHERE size = 0 AND block_size > 0");
    expect(fsck(file).stdout).toMatch(/^\/letters\/to\\x0aBob \(inode \d+\): link-count/);
  });

  test("that is repaired says what went to lost+found, as --json does", () => {
    sql("DELETE FROM dirent WHERE name = CAST('to Ann' AS BLOB)");
    const { code, stdout } = fsck("--repair", "--json", file);
    expect(code).toBe(1);
    const { findings, repair } = JSON.parse(stdout);
    expect(findings[0].kind).toBe("file-unnamed");
    expect(repair).toMatchObject({
      left: [],
      placed: [{ ino: findings[0].ino, path: `/lost+found/#${findings[0].ino}` }],
    });
  });
});

describe("on a terminal", () => {
  test("says what it will do and asks; anything but y leaves the file as it is", async () => {
    breakLinks();
    const before = fingerprint(file);
    const { code, stdout } = await onTerminal(["--repair", file], ["Repair", "\r"]);
    expect(code).toBe(4);
    expect(stdout).toContain("1 error; they will be mended in the file, all or none");
    expect(fingerprint(file)).toBe(before);
  });

  test("repairs on y; with --yes it does not ask", async () => {
    breakLinks();
    expect(await onTerminal(["--repair", file], ["Repair", "y\r"])).toMatchObject({ code: 1 });
    breakLinks();
    const { code, stdout } = await onTerminal(["--repair", "--yes", file]);
    expect(code).toBe(1);
    expect(stdout).not.toContain("Repair");
  });

  test("^C at the question ends with 32 and changes nothing", async () => {
    breakLinks();
    const before = fingerprint(file);
    expect(await onTerminal(["--repair", file], ["Repair", "\x03"])).toMatchObject({ code: 32 });
    expect(fingerprint(file)).toBe(before);
  });

  test("shows how far it is there, and nowhere else", async () => {
    expect((await onTerminal([file])).stdout).toMatch(/tree \[[#-]{24}\] +\d+ %/);
    expect(fsck(file).stderr).toBe("");
  });
});

describe("what cannot be checked ends with 8, on one line", () => {
  test.each([
    ["no such file", () => fsck(join(directory, "none"))],
    ["a wrong password", () => sqlfuse(["fsck", file], { password: "wrong" })],
    ["no password", () => sqlfuse(["fsck", file], {})],
    ["something else", () => fsck(join(directory, "key"))],
    [
      "a newer format",
      () => {
        sql("UPDATE meta SET value = '2.0.0' WHERE key = 'format'");
        return fsck(file);
      },
    ],
  ])("%s", (_, run) => {
    const { code, stdout, stderr } = run();
    expect({ code, stdout }).toEqual({ code: 8, stdout: "" });
    expect(stderr).toMatch(/^sqlfuse: [^\n]+\n$/);
  });

  test("a wrong command line with 16", () => {
    expect(fsck("--mend", file)).toMatchObject({ code: 16 });
    expect(fsck()).toMatchObject({ code: 16 });
  });
});

function canMount(): boolean {
  try {
    accessSync("/dev/fuse", constants.R_OK | constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

describe.runIf(canMount())("a mounted volume", () => {
  test("is checked as of its last commit while it is written to, and not repaired", () => {
    const point = join(directory, "m");
    mkdirSync(point);
    const mounted = sqlfuse(
      ["mount", "--key-file", join(directory, "key"), "--log-file", join(directory, "log"), file, point],
      {},
    );
    expect(mounted).toMatchObject({ code: 0 });
    try {
      for (let i = 0; i < 5; i++) {
        writeFileSync(join(point, `new ${i}`), Buffer.alloc(300_000, i));
        const { code, stdout, stderr } = fsck(file);
        expect({ code, stderr, stdout }).toMatchObject({ code: 0, stderr: "" });
        expect(stdout).toContain(`${file}: mounted at ${point}; checked as of its last commit\n`);
      }
      expect(fsck("--repair", file)).toMatchObject({
        code: 8,
        stderr: expect.stringMatching(/mounted at .* unmount it first/),
      });
    } finally {
      expect(sqlfuse(["unmount", point])).toMatchObject({ code: 0 });
    }
    expect(fsck(file)).toMatchObject({ code: 0 });
  });
});

describe.runIf(process.geteuid?.() === 0)("a file that cannot be written", () => {
  test("is checked, and so is one whose -wal cannot be replayed there", () => {
    const key = unlock(file, PASSWORD);
    const volume = Volume.open(file, key);
    volume.tree.mkdir(ROOT_INO, Buffer.from("late"), 0o755, CALLER);
    volume.commit();
    const place = mkdtempSync(join(tmpdir(), "fsck-ro-"));
    // Not by this process: closing a descriptor of an open database drops SQLite's locks.
    execFileSync("cp", [file, `${file}-wal`, join(directory, "key"), place]);
    volume.close();
    key.wipe();
    execFileSync("sh", ["-c", `chown -R 65534:65534 ${place} && chmod 400 ${place}/* && chmod 500 ${place}`]);
    try {
      const outcome = sqlfuse(["fsck", "--key-file", join(place, "key"), join(place, "v")], {
        unprivileged: true,
      });
      expect(outcome).toMatchObject({ code: 0, stderr: "" });
      expect(outcome.stdout).toContain("the last changes are in the -wal");
      expect(outcome.stdout).toContain("clean (5 files");
      expect(readdirSync(place).sort()).toEqual(["key", "v", "v-wal"]);
    } finally {
      rmSync(place, { recursive: true });
    }
  });
});
