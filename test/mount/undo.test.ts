/** diff, log, restore and undelete by paths in a volume that is mounted, while it is used. */
import { execFileSync, spawn, spawnSync } from "node:child_process";
import {
  chmodSync,
  existsSync,
  linkSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { unlock } from "../../src/core/unlock.ts";
import { Volume } from "../../src/core/volume.ts";
import { CLI, mountingImpossible, PASSWORD, succeed, TestVolume } from "../helpers/volume.ts";

const impossible = mountingImpossible();

async function inMount(
  work: (volume: TestVolume, at: (name: string) => string) => void | Promise<void>,
): Promise<void> {
  const volume = TestVolume.create({});
  try {
    volume.mount();
    await work(volume, (name) => join(volume.mountpoint, name));
    volume.unmount();
  } finally {
    volume.remove();
  }
}

/** What rsync -aHAX would change to make `to` equal to `from`. */
function differences(from: string, to: string): string {
  const args = ["-aHAXn", "--itemize-changes", "--delete", `${from}/`, `${to}/`];
  const done = spawnSync("rsync", args, { encoding: "utf8" });
  expect({ status: done.status, stderr: done.stderr }).toEqual({ status: 0, stderr: "" });
  return done.stdout;
}

function fill(letters: string): void {
  mkdirSync(join(letters, "2019"), { recursive: true });
  writeFileSync(join(letters, "to Ann"), "Dear Ann\n");
  writeFileSync(join(letters, "2019/long"), "x".repeat(300_000));
  linkSync(join(letters, "to Ann"), join(letters, "2019/copy"));
  symlinkSync("../to Ann", join(letters, "2019/link"));
  execFileSync("setfattr", ["-n", "user.a", "-v", "b", join(letters, "2019")]);
  chmodSync(join(letters, "2019/long"), 0o640);
  chmodSync(join(letters, "2019"), 0o2750);
}

describe.skipIf(impossible !== undefined)(
  `the past of a mounted volume${impossible === undefined ? "" : ` (${impossible})`}`,
  () => {
    test("a wrong rm -rf is undone by one command: all is there as it was", () =>
      inMount((volume, at) => {
        fill(at("letters"));
        execFileSync("cp", ["-a", at("letters"), join(volume.home, "copy")]);
        succeed(volume.cli(["snapshot", "create", volume.file, "daily"]));
        rmSync(at("letters"), { recursive: true });
        expect(existsSync(at("letters"))).toBe(false);
        expect(succeed(volume.cli(["undelete", at("letters")]))).toMatch(
          /^\/letters: as in daily of .*: 6 restored\n$/,
        );
        expect(differences(join(volume.home, "copy"), at("letters"))).toBe("");
        expect(volume.cli(["undelete", at("letters")]).status).toBe(10);
      }));

    test("nothing is put back through a symlink that has come into its path: it may lead out of the volume", () =>
      inMount((volume, at) => {
        const outside = join(volume.home, "outside");
        mkdirSync(join(outside, "2019"), { recursive: true });
        writeFileSync(join(outside, "to Ann"), "theirs");
        fill(at("letters"));
        succeed(volume.cli(["snapshot", "create", volume.mountpoint, "one"]));
        rmSync(at("letters"), { recursive: true });
        symlinkSync(outside, at("letters"));
        const restore = ["restore", "--at", "one", volume.file];
        for (const args of [["letters/to Ann"], ["letters/to Ann", "--to", "letters/2019/x"]])
          expect(volume.cli([...restore, ...args])).toMatchObject({
            status: 10,
            stdout: "",
            stderr: expect.stringContaining("what is above it is no directory now"),
          });
        expect(readFileSync(join(outside, "to Ann"), "utf8")).toBe("theirs");
        expect(existsSync(join(outside, "2019/x"))).toBe(false);
        // The whole of it is replaced, what it leads to is not.
        succeed(volume.cli([...restore, "letters"]));
        expect(readFileSync(at("letters/to Ann"), "utf8")).toBe("Dear Ann\n");
        expect(readFileSync(join(outside, "to Ann"), "utf8")).toBe("theirs");
      }));

    test("what a program encrypted and renamed is put back in place, and what it made goes by --delete", () =>
      inMount((volume, at) => {
        fill(at("letters"));
        execFileSync("cp", ["-a", at("letters"), join(volume.home, "copy")]);
        succeed(volume.cli(["snapshot", "create", volume.mountpoint, "one"]));
        writeFileSync(at("letters/to Ann.locked"), "?");
        rmSync(at("letters/to Ann"));
        const { mtime } = statSync(at("letters/2019/long"));
        writeFileSync(at("letters/2019/long"), "y".repeat(300_000));
        execFileSync("touch", ["-d", mtime.toISOString(), at("letters/2019/long")]);
        const changes = succeed(volume.cli(["diff", "one", "now", at("letters")]));
        expect(changes.split("\n")).toEqual([
          "modified  /letters/2019/long (content)",
          "removed   /letters/to Ann",
          "added     /letters/to Ann.locked",
          "",
        ]);
        const told = succeed(volume.cli(["restore", "--at", "one", "--delete", at("letters")]));
        expect(told).toContain("replaced    /letters/2019/long\n");
        expect(told).toContain("removed     /letters/to Ann.locked\n");
        expect(differences(join(volume.home, "copy"), at("letters"))).toBe("");
        expect(succeed(volume.cli(["restore", "--at", "one", volume.file, "letters"]))).toContain(
          "nothing differs",
        );
      }));

    test("log and diff tell what was just written, and the indexes stay", () =>
      inMount((volume, at) => {
        writeFileSync(at("a"), "one");
        succeed(volume.cli(["snapshot", "create", volume.file, "one"]));
        mkdirSync(at("d"));
        renameSync(at("a"), at("d/b"));
        for (let i = 0; i < 3; i++) {
          expect(succeed(volume.cli(["diff", "one", "now", volume.mountpoint]))).toBe(
            `added     /d\nrenamed   /a -> /d/b${i === 0 ? "" : " (content)"}\n`,
          );
          writeFileSync(at("d/b"), `written ${i}`);
        }
        const log = succeed(volume.cli(["log", at("d/b")]));
        expect(log).toMatch(/now {7}renamed from \/a to \/d\/b; written 9 B, now 9 B\n/);
        rmSync(at("d"), { recursive: true });
        expect(succeed(volume.cli(["log", at("a")]))).toMatch(/deleted: \/a\n.*created: \/a, now 3 B\n$/s);
        const key = unlock(volume.file, Buffer.from(PASSWORD));
        const beside = Volume.open(volume.file, key, { beside: true });
        expect(beside.history.isIndexed).toBe(true);
        beside.close();
        key.wipe();
      }));

    test("a file is replaced at once: who reads it meanwhile sees one state or the other, never half", () =>
      inMount(async (volume, at) => {
        const old = "o".repeat(2_000_000);
        const current = "c".repeat(2_000_000);
        writeFileSync(at("a"), old);
        succeed(volume.cli(["snapshot", "create", volume.file, "one"]));
        writeFileSync(at("a"), current);
        const child = spawn(process.execPath, [CLI, "restore", "--at", "one", at("a")], {
          env: { ...process.env, SQLFUSE_PASSWORD: PASSWORD },
          stdio: "ignore",
        });
        let code: number | null | undefined;
        child.on("close", (status) => {
          code = status;
        });
        const seen = new Set<string>();
        while (code === undefined) {
          const text = readFileSync(at("a"), "utf8");
          seen.add(text === old ? "old" : text === current ? "current" : `mixed, ${text.length}`);
          await new Promise((resolve) => setTimeout(resolve, 2));
        }
        expect(code).toBe(0);
        expect(seen.has("current")).toBe(true);
        expect(readFileSync(at("a"), "utf8")).toBe(old);
        expect([...seen].filter((one) => one.startsWith("mixed"))).toEqual([]);
      }));

    test("--to stays in the volume", () =>
      inMount((volume, at) => {
        writeFileSync(at("a"), "one");
        succeed(volume.cli(["snapshot", "create", volume.file, "one"]));
        succeed(volume.cli(["restore", "--at", "one", at("a"), "--to", at("b")]));
        expect(readFileSync(at("b"), "utf8")).toBe("one");
        const outside = volume.cli(["restore", "--at", "one", at("a"), "--to", join(volume.home, "b")]);
        expect(outside.status).toBe(10);
        expect(outside.stderr).toContain("not in the mount that PATH is in");
        expect(existsSync(join(volume.home, "b"))).toBe(false);
      }));
  },
);
