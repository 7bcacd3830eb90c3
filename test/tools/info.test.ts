import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { unlock } from "../../src/core/unlock.ts";
import { Volume } from "../../src/core/volume.ts";
import { rawKeyPassword } from "../../src/db/key.ts";
import { b, mkdir, noise, put, ROOT } from "../core/fixture.ts";
import { fingerprint, type Outcome, sqlfuse, sqlfuseOnTerminal } from "./run.ts";

let directory: string;
let file: string;
let keyFile: string;

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "info-"));
  file = join(directory, "v");
  keyFile = join(directory, "key");
  const raw = randomBytes(32);
  writeFileSync(keyFile, raw, { mode: 0o600 });
  const password = rawKeyPassword(raw);
  Volume.create(file, password);
  const key = unlock(file, password);
  const volume = Volume.open(file, key);
  const caller = { uid: 0, gid: 0, umask: 0 };
  const sub = mkdir(volume, ROOT, "d");
  const one = put(volume, sub, "one", noise(640 * 1024));
  const clone = put(volume, ROOT, "clone", "");
  volume.files.copyFileRange(one, 0, clone, 0, 640 * 1024, false);
  volume.tree.link(one, ROOT, b("again"));
  volume.tree.symlink(ROOT, b("s"), b("d"), caller);
  volume.tree.mknod(ROOT, b("p"), 0o010644, 0, caller);
  volume.closeEpoch();
  volume.files.write(one, 0, noise(100, 2), false);
  put(volume, ROOT, "gone", noise(400_000, 3));
  volume.commit();
  volume.tree.unlink(ROOT, b("gone"));
  volume.close();
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

function run(...args: string[]): Outcome {
  return sqlfuse(["info", ...args], {});
}

const OUTSIDE =
  /^file {6}\S+\/v\nsize {6}\d.*bytes\)\nowner {5}\d+:\d+, mode 0600, changed .*\nsalt {6}[0-9a-f]{32}\nin use {4}no\n/;

describe("info", () => {
  test("without a password shows what anybody can see, and changes nothing", () => {
    const before = fingerprint(file);
    const { code, stdout, stderr } = run(file);
    expect([code, stderr]).toEqual([0, "sqlfuse: no password given: this is what can be seen without it\n"]);
    expect(stdout).toMatch(new RegExp(`${OUTSIDE.source}$`));
    expect(stdout).toContain(readFileSync(file).toString("hex", 0, 16));
    expect(run("--no-password", file)).toEqual({ code: 0, stdout, stderr: "" });
    expect(sqlfuse(["info", "--no-password", file], { password: "whatever" })).toMatchObject({
      code: 0,
      stdout,
    });
    expect(fingerprint(file)).toBe(before);
  });

  test("with the password shows format, cipher and figures too, and changes nothing", () => {
    const before = fingerprint(file);
    const { code, stdout, stderr } = run("--key-file", keyFile, file);
    expect([code, stderr]).toEqual([0, ""]);
    expect(stdout).toMatch(OUTSIDE);
    expect(stdout).toMatch(/^volume {4}[0-9a-f]{32}, made \d{4}-/m);
    expect(stdout).toMatch(/^format {4}1\.\d+\.\d+/m);
    expect(stdout).toMatch(/^cipher {4}AES-256-CBC and HMAC-SHA256, pages of 16\.0 KiB$/m);
    expect(stdout).toMatch(/^key {7}a raw key file, used as it is$/m);
    expect(stdout).toMatch(
      /^pages {5}\S+ [KM]iB in use, [1-9]\S* KiB free \(sqlfuse vacuum gives that back\)$/m,
    );
    expect(stdout).toMatch(/^holds {5}2 files, 2 directories, 1 symlink, 1 fifo$/m);
    expect(stdout).toMatch(/^ {10}1 of them with several names$/m);
    expect(stdout).toMatch(/^data {6}1\.3 MiB in files, /m);
    expect(stdout).toMatch(
      /^blocks {4}42 stored for 83 in files \(1\.98 times\); 15\.9 KiB each in new files$/m,
    );
    expect(stdout).toMatch(/^history {3}epoch 2, 1 snapshot, [1-9]\d* rows of earlier epochs$/m);
    expect(fingerprint(file)).toBe(before);
    expect(readdirSync(directory).sort()).toEqual(["key", "v"]);
  });

  test("--json has the same for programs", () => {
    const outside = JSON.parse(run("--json", "--no-password", file).stdout) as Record<string, unknown>;
    expect(outside).toMatchObject({ path: file, mode: "0600", holder: null, leftOver: null, volume: null });
    const { volume } = JSON.parse(run("--json", "--key-file", keyFile, file).stdout) as {
      volume: Record<string, unknown>;
    };
    expect(volume).toMatchObject({
      pageSize: 16_384,
      hmac: "HMAC_SHA256",
      kdfIterations: 0,
      counts: { files: 2, directories: 2, symlinks: 1, fifos: 1, sockets: 0, devices: 0 },
      hardLinked: 1,
      unlinked: 0,
      fileBytes: 2 * 640 * 1024,
      blocksNamed: 83,
      blocksStored: 42,
      epoch: 2,
    });
  });

  test("says what a run that was cut off left", () => {
    writeFileSync(`${file}.sqlfuse-draft`, "x");
    expect(run("--no-password", file).stdout).toMatch(
      /^left over {1}\S+\.sqlfuse-draft, of a vacuum or rekey that was cut off; the next one removes it$/m,
    );
    rmSync(`${file}.sqlfuse-draft`);
  });

  test("of a mounted volume says by whom, and tells the state of its last commit", () => {
    const mountpoint = join(directory, "m");
    execFileSync("mkdir", [mountpoint]);
    const options = ["--key-file", keyFile, "--log-file", join(directory, "log")];
    expect(sqlfuse(["mount", ...options, file, mountpoint], {})).toMatchObject({ code: 0 });
    try {
      writeFileSync(join(mountpoint, "new"), "new");
      expect(sqlfuse(["sync", mountpoint], {})).toMatchObject({ code: 0 });
      const { code, stdout } = run("--key-file", keyFile, file);
      expect(code).toBe(0);
      expect(stdout).toMatch(new RegExp(`^in use {4}mounted at ${mountpoint} by pid \\d+$`, "m"));
      expect(stdout).toMatch(/^holds {5}3 files, 2 directories/m);
      expect(existsSync(join(mountpoint, "new"))).toBe(true);
      writeFileSync(join(mountpoint, "newer"), "newer");
      expect(sqlfuse(["sync", mountpoint], {})).toMatchObject({ code: 0 });
    } finally {
      expect(sqlfuse(["unmount", mountpoint], {})).toMatchObject({ code: 0 });
      rmSync(join(directory, "log"), { force: true });
      rmSync(mountpoint, { recursive: true });
    }
    expect(readdirSync(directory).sort()).toEqual(["key", "v"]);
  });

  test("refuses in one line what it cannot read", () => {
    const { code, stderr } = run(join(directory, "nothing"));
    expect([code, stderr]).toEqual([
      10,
      expect.stringMatching(/^sqlfuse: .*no such file; make a volume[^\n]*\n$/),
    ]);
    expect(run(directory)).toMatchObject({ code: 10, stdout: "" });
    const both = run("--no-password", "--key-file", keyFile, file);
    expect([both.code, both.stderr]).toEqual([2, expect.stringMatching(/exclude each other/)]);
    const wrong = sqlfuse(["info", file], { password: "wrong" });
    expect([wrong.code, wrong.stdout]).toEqual([12, expect.stringMatching(OUTSIDE)]);
  });

  test("on a terminal asks, after it has shown what needs no password", async () => {
    const { code, stdout } = await sqlfuseOnTerminal(["info", file], [[`Password for ${file}:`, "\x03"]]);
    expect(stdout.indexOf("in use")).toBeGreaterThan(0);
    expect(stdout.indexOf("in use")).toBeLessThan(stdout.indexOf("Password for"));
    expect(code).toBe(130);
  });
});
