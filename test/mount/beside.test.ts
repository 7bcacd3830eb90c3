/** Dumps and access beside a mount: what they see, through whom they write, and what they leave. */
import { spawn, spawnSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { unlock } from "../../src/core/unlock.ts";
import { check } from "../../src/fsck/check.ts";
import { isLong } from "../helpers/torture.ts";
import {
  CLI,
  IS_ROOT,
  mountingImpossible,
  type Outcome,
  PASSWORD,
  succeed,
  TestVolume,
  type TestVolumeOptions,
} from "../helpers/volume.ts";

const impossible = mountingImpossible();

async function withVolume(
  options: TestVolumeOptions,
  work: (volume: TestVolume) => void | Promise<void>,
): Promise<void> {
  const volume = TestVolume.create(options);
  try {
    await work(volume);
  } finally {
    volume.remove();
  }
}

/** Finds nothing wrong in a volume that was loaded. */
function expectWhole(path: string): void {
  const key = unlock(path, Buffer.from(PASSWORD));
  expect(check(path, key)).toEqual([]);
  key.wipe();
}

/** Without a password: whoever may enter the mount may do this. */
function withoutPassword(volume: TestVolume, ...args: string[]): Outcome {
  return volume.cli(args, { SQLFUSE_PASSWORD: "" });
}

describe.skipIf(impossible !== undefined)("beside a mount", () => {
  test("a dump has all that was written before it, and mounts, dumps and loads agree", () =>
    withVolume({}, (volume) => {
      volume.mount();
      writeFileSync(join(volume.mountpoint, "f"), "just written");
      const text = succeed(volume.cli(["dump", volume.file]));
      expect(text).toContain("path=/f ");
      expect(text).toContain(Buffer.from("just written").toString("base64"));
      volume.unmount();
      expect(succeed(volume.cli(["dump", volume.file]))).toBe(text);
    }));

  test("dumps under writes are each one moment's state", { timeout: 240_000 }, () =>
    withVolume({}, async (volume) => {
      volume.mount("--commit", "0.05");
      const writer = spawn(
        "sh",
        [
          "-c",
          "i=0; while :; do i=$((i+1)); mkdir d$i; echo $i > d$i/a; mv d$i/a d$i/b; ln d$i/b l$i; rm -rf l$((i-20)); done",
        ],
        { cwd: volume.mountpoint, stdio: "ignore", detached: true },
      );
      try {
        await sleep(300);
        for (let i = 0; i < (isLong() ? 20 : 2); i++) {
          const file = join(volume.home, `dump-${i}`);
          const tar = join(volume.home, `tar-${i}`);
          succeed(volume.cli(["dump", volume.file, "-o", file]));
          succeed(volume.cli(["dump", "--tar", volume.file, "-o", tar]));
          for (const from of [file, tar]) {
            succeed(volume.cli(["load", `${from}.db`, from]));
            expectWhole(`${from}.db`);
          }
          // The writer works in order: what is there has everything before it.
          const text = readFileSync(file, "utf8");
          const numbers = [...text.matchAll(/path=\/d(\d+) /g)].map((match) => Number(match[1]));
          expect(numbers.length).toBe(Math.max(...numbers));
          const links = text.split("\n").filter((line) => /path=\/l\d+ /.test(line)).length;
          expect(links).toBeGreaterThan(0);
          expect(succeed(volume.cli(["dump", `${file}.db`]))).toBe(text);
        }
      } finally {
        if (writer.pid !== undefined) process.kill(-writer.pid, "SIGKILL");
        await new Promise((resolve) => writer.on("close", resolve));
      }
      volume.unmount();
    }),
  );

  test("a name that goes while its directory is listed costs no other one", { timeout: 240_000 }, () =>
    withVolume({}, async (volume) => {
      volume.mount();
      const names = Array.from({ length: 300 }, (_, i) => String(1000 + i));
      for (const name of names) writeFileSync(join(volume.mountpoint, name), "");
      // Sorted last, it is looked at after all the others.
      const writer = spawn("sh", ["-c", "while :; do : > z; rm z; done"], {
        cwd: volume.mountpoint,
        stdio: "ignore",
        detached: true,
      });
      try {
        let gone = 0;
        for (let i = 0; i < 50 && gone === 0; i++) {
          const { status, stdout, stderr } = withoutPassword(volume, "ls", volume.file);
          expect(stdout.split("\n").filter((name) => name.startsWith("1"))).toEqual(names);
          expect([0, 3]).toContain(status);
          if (status === 0) continue;
          expect(stderr).toBe("sqlfuse: /z: no such file or directory\n");
          gone++;
        }
        expect(gone).toBe(1);
      } finally {
        if (writer.pid !== undefined) process.kill(-writer.pid, "SIGKILL");
        await new Promise((resolve) => writer.on("close", resolve));
      }
    }),
  );

  test("files are read and written through the mount, without a password", () =>
    withVolume({}, (volume) => {
      volume.mount();
      const on = (verb: string, ...args: string[]): string =>
        succeed(withoutPassword(volume, verb, volume.file, ...args));
      writeFileSync(join(volume.home, "f"), "from outside");
      on("mkdir", "-p", "a/b");
      on("put", join(volume.home, "f"), "a/b");
      expect(readFileSync(join(volume.mountpoint, "a/b/f"), "utf8")).toBe("from outside");
      expect(on("ls", "-R")).toBe("/:\na\n\n/a:\nb\n\n/a/b:\nf\n");
      expect(on("cat", "a/b/f")).toBe("from outside");
      on("get", "a", join(volume.home, "out"));
      expect(readFileSync(join(volume.home, "out/b/f"), "utf8")).toBe("from outside");
      on("rm", "-r", "a");
      expect(readdirSync(volume.mountpoint)).toEqual([]);
      symlinkSync("/etc", join(volume.mountpoint, "out"));
      const out = withoutPassword(volume, "cat", volume.file, "out/passwd");
      expect(out).toMatchObject({
        status: 1,
        stderr: "sqlfuse: out/passwd: a symbolic link on the way leads out of the volume\n",
      });
      volume.unmount();
    }));

  test("what put wrote survives a crash right after it", () =>
    withVolume({}, async (volume) => {
      volume.mount("--commit", "3600");
      writeFileSync(join(volume.home, "f"), "durable");
      succeed(withoutPassword(volume, "put", volume.file, join(volume.home, "f"), "/"));
      await volume.kill();
      volume.mount();
      expect(readFileSync(join(volume.mountpoint, "f"), "utf8")).toBe("durable");
      volume.unmount();
    }));

  test("a read-only mount is not written", () =>
    withVolume({}, (volume) => {
      volume.mount("--ro");
      const done = withoutPassword(volume, "mkdir", volume.file, "d");
      expect(done).toMatchObject({ status: 1, stderr: "sqlfuse: d: it is read-only\n" });
      volume.unmount();
    }));

  test("a dump that outlives the mount keeps the -wal, says so, and tidies up", () =>
    withVolume({}, async (volume) => {
      volume.mount();
      for (let i = 0; i < 40; i++) writeFileSync(join(volume.mountpoint, `f${i}`), Buffer.alloc(65_536, i));
      const fifo = join(volume.home, "fifo");
      expect(spawnSync("mkfifo", [fifo]).status).toBe(0);
      const dump = spawn(process.execPath, [CLI, "dump", volume.file, "-o", fifo], {
        env: { ...process.env, SQLFUSE_PASSWORD: PASSWORD },
        stdio: ["ignore", "ignore", "inherit"],
      });
      // The dump holds its snapshot when it writes, and then waits for this reader.
      const reader = spawn("sh", ["-c", 'exec 3< "$0"; head -c 1 <&3; read go; cat <&3 > "$0.text"', fifo], {
        stdio: ["pipe", "pipe", "inherit"],
      });
      const ends = [dump, reader].map((child) => new Promise((resolve) => child.on("close", resolve)));
      await new Promise((resolve) => reader.stdout.once("data", resolve));
      writeFileSync(join(volume.mountpoint, "late"), "late");
      const unmounted = volume.cli(["unmount", volume.mountpoint]);
      expect(unmounted.status).toBe(0);
      expect(unmounted.stderr).toContain(`its last changes are still in ${volume.file}-wal`);
      expect(statSync(`${volume.file}-wal`).size).toBeGreaterThan(0);
      reader.stdin.write("go\n");
      expect(await Promise.all(ends)).toEqual([0, 0]);
      expect(readdirSync(dirname(volume.file))).toEqual(["volume.sqlite"]);
      const text = readFileSync(`${fifo}.text`, "latin1");
      expect(text).not.toContain("path=/late");
      expect(text.endsWith("end inodes=41 links=0\n")).toBe(true);
      expect(succeed(volume.cli(["cat", volume.file, "late"]))).toBe("late");
      volume.check();
    }));

  test.runIf(IS_ROOT)("another user's mount is read with the password, and not written", () =>
    withVolume({ owner: { uid: 65534, gid: 65534 } }, (volume) => {
      volume.mount();
      succeed(volume.cli(["mkdir", volume.file, "theirs"]));
      mkdirSync(join(volume.home, "out"));
      // root cannot enter the mount of an unprivileged user.
      const asRoot = (...args: string[]) =>
        spawnSync(process.execPath, [CLI, ...args], {
          encoding: "utf8",
          env: { ...process.env, SQLFUSE_PASSWORD: PASSWORD },
        });
      expect(asRoot("ls", volume.file).stdout).toBe("theirs\n");
      const refused = asRoot("rm", "-r", volume.file, "theirs");
      expect(refused.status).toBe(11);
      expect(refused.stderr).toContain(`mounted at ${volume.mountpoint}`);
      expect(existsSync(`${volume.file}-wal`)).toBe(true);
      volume.unmount();
    }),
  );
});
