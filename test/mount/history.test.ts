/** Snapshots of a volume that is in use: made, shown beside it, deleted and pruned while it goes on. */
import { spawn } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { storeMapped } from "../helpers/programs.ts";
import { mountingImpossible, succeed, TestVolume, type TestVolumeOptions, until } from "../helpers/volume.ts";

const impossible = mountingImpossible();

async function withVolume(
  options: TestVolumeOptions,
  work: (volume: TestVolume, then: string) => void | Promise<void>,
): Promise<void> {
  const volume = TestVolume.create(options);
  const then = join(volume.home, "then");
  try {
    mkdirSync(then);
    await work(volume, then);
  } finally {
    if (existsSync(join(volume.home, "shown"))) volume.cli(["unmount", "-l", then]);
    volume.remove();
  }
}

function show(volume: TestVolume, then: string, at: string): void {
  writeFileSync(join(volume.home, "shown"), "");
  succeed(volume.cli(["mount", volume.file, then, "--at", at]));
}

function hide(volume: TestVolume, then: string): void {
  succeed(volume.cli(["unmount", then]));
  rmSync(join(volume.home, "shown"));
}

describe.skipIf(impossible !== undefined)("a snapshot of a mounted volume", () => {
  test("is mounted beside it, shows what was then, and is not changed by what goes on", () =>
    withVolume({}, (volume, then) => {
      volume.mount();
      const live = (name: string) => join(volume.mountpoint, name);
      mkdirSync(live("d"));
      writeFileSync(live("d/a"), "before");
      writeFileSync(live("gone"), "x".repeat(200_000));
      symlinkSync("d/a", live("link"));
      expect(succeed(volume.cli(["snapshot", "create", volume.mountpoint, "one"]))).toBe(
        "one: kept (epoch 1)\n",
      );
      writeFileSync(live("d/a"), "after");
      rmSync(live("gone"));
      renameSync(live("d"), live("e"));
      show(volume, then, "one");
      const seen = () => {
        expect(readdirSync(then).sort()).toEqual(["d", "gone", "link"]);
        expect(readFileSync(join(then, "link"), "utf8")).toBe("before");
        expect(readFileSync(join(then, "gone"), "utf8")).toBe("x".repeat(200_000));
      };
      seen();
      for (let i = 0; i < 50; i++) writeFileSync(live(`e/${i}`), "y".repeat(100_000));
      rmSync(live("e"), { recursive: true });
      succeed(volume.cli(["sync", volume.mountpoint]));
      seen();
      expect(() => writeFileSync(join(then, "new"), "")).toThrow(/EROFS/);
      expect(() => rmSync(join(then, "link"))).toThrow(/EROFS/);
      const status = JSON.parse(succeed(volume.cli(["status", "--json"]))) as Record<string, unknown>[];
      const mine = status.filter(({ path }) => path === volume.file);
      expect(mine.map(({ mountpoint, at, readOnly }) => [mountpoint, at, readOnly])).toEqual([
        [volume.mountpoint, undefined, false],
        [then, "one", true],
      ]);
      hide(volume, then);
      volume.unmount();
    }));

  test("is found by a time, and is shown also where the volume is mounted later or not at all", () =>
    withVolume({}, async (volume, then) => {
      volume.mount();
      writeFileSync(join(volume.mountpoint, "a"), "before");
      succeed(volume.cli(["snapshot", "create", volume.mountpoint]));
      volume.unmount();
      await sleep(1100);
      show(volume, then, "now");
      volume.mount();
      writeFileSync(join(volume.mountpoint, "a"), "after");
      volume.cli(["sync", volume.mountpoint]);
      expect(readFileSync(join(then, "a"), "utf8")).toBe("before");
      // FILE is the volume as it is now.
      succeed(volume.cli(["unmount", volume.file]));
      expect(volume.mounted).toBe(false);
      expect(readFileSync(join(then, "a"), "utf8")).toBe("before");
      hide(volume, then);
      volume.unmounted();
      const none = volume.cli(["mount", volume.file, then, "--at", "yesterday"]);
      expect(none.status).toBe(10);
      expect(none.stderr).toContain("no snapshot yesterday (the oldest is of ");
    }));

  test("has what was stored in a mapped file before it", () =>
    withVolume({}, async (volume, then) => {
      volume.mount();
      const file = join(volume.mountpoint, "a");
      writeFileSync(file, "before");
      const unmap = await storeMapped(file);
      succeed(volume.cli(["snapshot", "create", volume.mountpoint, "one"]));
      show(volume, then, "one");
      expect(readFileSync(join(then, "a"), "utf8")).toBe("MAPPED");
      await unmap();
      hide(volume, then);
      volume.unmount();
    }));

  test("that is deleted is gone from a mount that shows it: ESTALE, and no damage in its log", () =>
    withVolume({}, async (volume, then) => {
      volume.mount();
      for (let i = 0; i < 100; i++) writeFileSync(join(volume.mountpoint, `f${i}`), `content ${i}`);
      succeed(volume.cli(["snapshot", "create", volume.mountpoint, "one"]));
      for (let i = 0; i < 100; i++) rmSync(join(volume.mountpoint, `f${i}`));
      succeed(volume.cli(["sync", volume.mountpoint]));
      show(volume, then, "one");
      expect(readFileSync(join(then, "f7"), "utf8")).toBe("content 7");
      succeed(volume.cli(["snapshot", "delete", volume.mountpoint, "one"]));
      expect(() => readFileSync(join(then, "f8"))).toThrow(/ESTALE|-116/);
      expect(volume.cli(["mount", volume.file, join(volume.home, "db"), "--at", "one"]).status).not.toBe(0);
      await until("it to be pruned", () => {
        const info = JSON.parse(succeed(volume.cli(["info", volume.file, "--json"]))) as {
          volume: { pastRows: number };
        };
        return info.volume.pastRows === 0;
      });
      hide(volume, then);
      volume.unmount();
    }));

  test("is made by itself while something changes, with --history", () =>
    withVolume({}, async (volume) => {
      volume.mount("--history", "1s");
      writeFileSync(join(volume.mountpoint, "a"), "1");
      await until("the first", () => volume.snapshots().length === 1);
      await sleep(2500);
      expect(volume.snapshots()).toHaveLength(1);
      writeFileSync(join(volume.mountpoint, "a"), "2");
      await until("the second", () => volume.snapshots().length === 2);
      expect(volume.snapshots().every(({ automatic }) => automatic)).toBe(true);
      succeed(volume.cli(["snapshot", "prune", volume.mountpoint, "--keep-last", "1"]));
      expect(volume.snapshots().map(({ name }) => name)).toEqual(["auto-2"]);
      volume.unmount();
    }));

  test("brings back in one command what was removed from the mount", () =>
    withVolume({}, (volume) => {
      volume.mount();
      const letters = join(volume.mountpoint, "letters");
      mkdirSync(join(letters, "2025"), { recursive: true });
      writeFileSync(join(letters, "2025/a"), "dear Ann");
      succeed(volume.cli(["snapshot", "create", volume.mountpoint]));
      rmSync(letters, { recursive: true });
      succeed(volume.cli(["get", "--quiet", "--at", "now", volume.file, "letters", volume.mountpoint]));
      expect(readFileSync(join(letters, "2025/a"), "utf8")).toBe("dear Ann");
      volume.unmount();
    }));

  test("is there after a crash of the daemon that made it", () =>
    withVolume({}, async (volume) => {
      volume.mount("--commit", "3600");
      writeFileSync(join(volume.mountpoint, "a"), "before");
      succeed(volume.cli(["snapshot", "create", volume.mountpoint, "one"]));
      writeFileSync(join(volume.mountpoint, "a"), "after");
      await volume.kill();
      expect(succeed(volume.cli(["cat", "--at", "one", volume.file, "a"]))).toBe("before");
      volume.mount();
      volume.unmount();
      expect(succeed(volume.cli(["cat", "--at", "one", volume.file, "a"]))).toBe("before");
    }));

  test("keeps out who would write the volume anew, while it is shown", () =>
    withVolume({}, (volume, then) => {
      volume.mount();
      succeed(volume.cli(["snapshot", "create", volume.mountpoint, "one"]));
      volume.unmount();
      show(volume, then, "one");
      const refused = volume.cli(["vacuum", volume.file]);
      expect(refused.status).toBe(11);
      hide(volume, then);
      succeed(volume.cli(["vacuum", "--quiet", volume.file]));
      expect(volume.snapshots()).toMatchObject([{ name: "one" }]);
    }));

  test("is never a mix, read while eight processes rewrite its files", () =>
    withVolume({}, async (volume, then) => {
      volume.mount("--commit", "0.05");
      const path = (i: number) => join(volume.mountpoint, `f${i}`);
      for (let i = 0; i < 8; i++) writeFileSync(path(i), "0".repeat(300_000));
      succeed(volume.cli(["snapshot", "create", volume.mountpoint, "one"]));
      const writers = Array.from({ length: 8 }, (_, i) =>
        spawn(
          "sh",
          [
            "-c",
            'while :; do for c in 1 2 3; do head -c 300000 /dev/zero | tr "\\0" $c > "$0"; done; done',
            path(i),
          ],
          { stdio: "ignore", detached: true },
        ),
      );
      try {
        for (let round = 0; round < 5; round++) {
          show(volume, then, "one");
          for (let i = 0; i < 8; i++)
            expect(readFileSync(join(then, `f${i}`), "utf8") === "0".repeat(300_000)).toBe(true);
          hide(volume, then);
        }
      } finally {
        for (const { pid } of writers) if (pid !== undefined) process.kill(-pid, "SIGKILL");
        await Promise.all(writers.map((writer) => new Promise((resolve) => writer.on("close", resolve))));
      }
      volume.unmount();
    }));
});
