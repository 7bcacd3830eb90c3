/** A disk that is really full: refusals come before anything is acknowledged, and what frees still works. */
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statfsSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it, vi } from "vitest";
import { OpenError } from "../../src/core/errors.ts";
import { readHeadFile } from "../../src/core/head.ts";
import { Space } from "../../src/core/space.ts";
import type { Volume } from "../../src/core/volume.ts";
import { b, contentOf, errnoOf, Fixture, find, namesOf, noise, ROOT, settle, touch } from "./fixture.ts";

const MIB = 2 ** 20;
const PIECE = noise(MIB);

/** Runs a test with a volume alone on a disk of this size. Only root can make one. */
function onSmallDisk(mib: number, run: (fixture: Fixture, disk: string) => void): void {
  const disk = mkdtempSync(join(tmpdir(), "disk-"));
  expect(spawnSync("mount", ["-t", "tmpfs", "-o", `size=${mib}m`, "tmpfs", disk]).status).toBe(0);
  try {
    const fixture = new Fixture({ parent: disk });
    try {
      run(fixture, disk);
      fixture.finish();
    } finally {
      fixture.remove();
    }
  } finally {
    expect(spawnSync("umount", [disk]).status).toBe(0);
    rmSync(disk, { recursive: true });
  }
}

/** Writes files of a MiB until one is refused; tells how many there are now. Commits on the way. */
function fill(volume: Volume, fixture: Fixture, prefix: string): number {
  for (let i = 0; i < 1000; i++) {
    const ino = touchIfRoom(volume, `${prefix}${i}`);
    if (ino === undefined) return i;
    const code = errnoOf(() => volume.files.write(ino, 0, PIECE, false));
    if (code !== "ok") {
      expect(code).toBe("ENOSPC");
      expect(volume.attributes.getattr(ino).size).toBe(0);
      volume.tree.unlink(ROOT, b(`${prefix}${i}`));
      return i;
    }
    fixture.clock.advance(300);
    settle(volume, fixture.clock);
  }
  throw new Error("the disk is never full");
}

function touchIfRoom(volume: Volume, name: string) {
  let ino: ReturnType<typeof touch> | undefined;
  const code = errnoOf(() => {
    ino = touch(volume, ROOT, name);
  });
  if (code !== "ok") expect(code).toBe("ENOSPC");
  return ino;
}

describe.skipIf(process.getuid?.() !== 0)("a full disk", () => {
  it("refuses writes, and everything acknowledged is there after a remount", () =>
    onSmallDisk(24, (fixture) => {
      const { volume } = fixture;
      const count = fill(volume, fixture, "f");
      expect(count).toBeGreaterThan(3);
      expect(volume.failed).toBe(false);
      volume.commit();
      expect(volume.failed).toBe(false);
      const again = fixture.remount();
      expect(namesOf(again, ROOT)).toHaveLength(count);
      for (const i of [0, count - 1]) {
        const ino = find(again, `f${i}`)?.ino;
        expect(ino !== undefined && contentOf(again, ino).equals(PIECE)).toBe(true);
      }
    }));

  it("filled by the volume itself still opens with a head, and lets files be removed", () =>
    onSmallDisk(24, (fixture) => {
      const headFile = `${fixture.path}.head`;
      fixture.remount({ headFile });
      const count = fill(fixture.volume, fixture, "f");
      const volume = fixture.remount({ headFile });
      for (let i = 0; i < count; i++) volume.tree.unlink(ROOT, b(`f${i}`));
      expect(namesOf(volume, ROOT)).toEqual([]);
      fixture.close();
      const { no = 0, nonce } = readHeadFile(headFile) ?? {};
      expect(fixture.number(`SELECT value = '${no} ${nonce}' FROM meta WHERE key = 'head'`)).toBe(1);
    }));

  it.each([
    ["deletes the oldest automatic snapshots before it refuses anything", true, "ok"],
    ["keeps automatic snapshots where the retention says so, and refuses", false, "ENOSPC"],
  ])("%s", (_, whenFull, expected) =>
    onSmallDisk(24, (fixture) => {
      const { volume } = fixture;
      const { history } = volume;
      history.setRetention({ ...history.retention, whenFull });
      const file = touch(volume, ROOT, "a");
      volume.files.write(file, 0, PIECE, false);
      history.create("by hand");
      let code = "ok";
      // Each round keeps another MiB of the past.
      for (let i = 0; i < 40 && code === "ok"; i++) {
        code = errnoOf(() => volume.files.write(file, 0, noise(MIB, i), false));
        if (code === "ok") code = errnoOf(() => void history.createAutomatic());
        fixture.clock.advance(300);
        settle(volume, fixture.clock);
      }
      expect(code).toBe(expected);
      expect(volume.failed).toBe(false);
      const [first, ...others] = history.list().map(({ name }) => name);
      expect(first).toBe("by hand");
      expect(others.includes("auto-2")).toBe(!whenFull);
      expect(others.length).toBeGreaterThan(0);
      expect(fixture.takeLog().some((line) => line.includes("oldest automatic snapshot"))).toBe(whenFull);
    }),
  );

  it.each([
    ["not a byte", 0, undefined],
    ["too little for a first commit with a head", 80_000, "head"],
  ])("of which somebody else left %s does not open for writing, and says why", (_, left, head) =>
    onSmallDisk(8, (fixture, disk) => {
      fixture.close();
      const before = readFileSync(fixture.path);
      const filler = join(disk, "filler");
      const { bavail, bsize } = statfsSync(disk);
      writeFileSync(filler, Buffer.alloc(bavail * bsize - left));
      let reason = "";
      try {
        fixture.open(head === undefined ? {} : { headFile: join(disk, head) });
      } catch (error) {
        if (error instanceof OpenError) reason = error.reason;
      }
      expect(reason).toBe("no-space");
      expect(readFileSync(fixture.path).equals(before)).toBe(true);
      rmSync(filler);
      fixture.open();
    }),
  );

  it("lets files be removed, and takes as much again afterwards, time after time", () =>
    onSmallDisk(24, (fixture) => {
      const { volume } = fixture;
      const count = fill(volume, fixture, "f");
      for (let round = 0; round < 2; round++) {
        for (let i = 0; i < count; i++) volume.tree.unlink(ROOT, b(`f${i}`));
        settle(volume, fixture.clock);
        volume.commit();
        fixture.clock.advance(5000);
        settle(volume, fixture.clock);
        const again = fill(volume, fixture, "f");
        expect(again).toBeGreaterThanOrEqual(count - 2);
        for (let i = again; i < count; i++) touchIfRoom(volume, `f${i}`);
        expect(volume.failed).toBe(false);
      }
    }));

  it("keeps the reserve for what frees: removals do not let writes eat it", () =>
    onSmallDisk(24, (fixture) => {
      const { volume } = fixture;
      const names = Array.from({ length: 600 }, (_, i) => `small${i}`);
      for (const name of names) touch(volume, ROOT, name);
      fill(volume, fixture, "f");
      const grows = touch(volume, ROOT, "grows");
      const small = PIECE.subarray(0, 16_384);
      let size = 0;
      const grow = () => {
        for (let i = 0; i < 200; i++) {
          const code = errnoOf(() => volume.files.write(grows, size, small, false));
          if (code !== "ok") {
            expect(code).toBe("ENOSPC");
            return;
          }
          size += small.length;
        }
      };
      for (let before = -1; before !== size; ) {
        before = size;
        grow();
        fixture.clock.advance(1100);
        settle(volume, fixture.clock);
      }
      const full = size;
      for (const name of names) {
        volume.tree.unlink(ROOT, b(name));
        grow();
        fixture.clock.advance(1100);
        settle(volume, fixture.clock);
        expect(volume.failed).toBe(false);
      }
      // What six hundred empty files free is a few pages.
      expect(size - full).toBeLessThan(20 * small.length);
      for (const name of namesOf(volume, ROOT)) volume.tree.unlink(ROOT, b(name));
      settle(volume, fixture.clock);
      volume.commit();
      expect(volume.failed).toBe(false);
    }));

  it("is told by statfs: what is said to be free can be written, and not much more", () =>
    onSmallDisk(40, (fixture) => {
      const { volume } = fixture;
      volume.files.write(touch(volume, ROOT, "a"), 0, PIECE, false);
      const { bavail, blockSize } = volume.statfs();
      const free = bavail * blockSize;
      const count = fill(volume, fixture, "f");
      expect(count * MIB).toBeGreaterThan(free * 0.4);
      expect(count * MIB).toBeLessThan(free + 4 * MIB);
      const after = volume.statfs();
      expect(after.bavail * after.blockSize).toBeLessThan(4 * MIB);
    }));

  it("that was not seen coming costs the open group and nothing else: a remount has all that was durable", () =>
    onSmallDisk(24, (fixture, disk) => {
      vi.spyOn(Space.prototype, "take").mockReturnValue(true);
      const { volume } = fixture;
      let durable = 0;
      let code: string = "ok";
      for (let i = 0; i < 100 && code === "ok"; i++) {
        code = errnoOf(() => {
          const ino = touch(volume, ROOT, `f${i}`);
          volume.files.write(ino, 0, PIECE, false);
          volume.fsync(ino);
        });
        if (code === "ok") durable++;
      }
      vi.restoreAllMocks();
      expect(["EIO", "ENOSPC"]).toContain(code);
      expect(durable).toBeGreaterThan(3);
      expect(volume.failed).toBe(true);
      expect(errnoOf(() => touch(volume, ROOT, "refused"))).toBe("EROFS");
      const readable = () => {
        expect(namesOf(fixture.volume, ROOT)).toEqual(Array.from({ length: durable }, (_, i) => `f${i}`));
        for (let i = 0; i < durable; i++) {
          const ino = find(fixture.volume, `f${i}`)?.ino;
          expect(ino !== undefined && contentOf(fixture.volume, ino).equals(PIECE)).toBe(true);
        }
      };
      readable();
      fixture.takeLog();
      fixture.remount();
      readable();
      // The reserve went too, as nobody kept it: a refusal is right, a failure is not.
      expect(["ok", "ENOSPC"]).toContain(errnoOf(() => fixture.volume.tree.unlink(ROOT, b("f0"))));
      fixture.volume.commit();
      expect(fixture.volume.failed).toBe(false);
      fixture.close();
      for (const line of fixture.takeLog()) expect(line).toMatch(/^checkpoint failed/);
      // With room again everything is as ever.
      expect(spawnSync("mount", ["-o", "remount,size=64m", disk]).status).toBe(0);
      touch(fixture.volume, ROOT, "new");
    }));

  it("that somebody else fills between two groups refuses the writes of the next one", () =>
    onSmallDisk(100, (fixture, disk) => {
      const { volume } = fixture;
      const file = touch(volume, ROOT, "a");
      volume.files.write(file, 0, PIECE, false);
      volume.commit();
      const { bavail, bsize } = statfsSync(disk);
      writeFileSync(join(disk, "other"), Buffer.alloc(bavail * bsize - 4 * MIB));
      let code = "ok";
      for (let i = 0; i < 20 && code === "ok"; i++) {
        fixture.clock.advance(1100);
        settle(volume, fixture.clock);
        code = errnoOf(() => volume.files.write(file, i * MIB, PIECE, false));
      }
      expect([code, volume.failed]).toEqual(["ENOSPC", false]);
      rmSync(join(disk, "other"));
    }));

  it("that somebody else fills refuses writes from then on, once the disk was asked", () =>
    onSmallDisk(60, (fixture, disk) => {
      const { volume } = fixture;
      const file = touch(volume, ROOT, "a");
      volume.commit();
      const { bavail, bsize } = statfsSync(disk);
      mkdirSync(join(disk, "other"));
      writeFileSync(join(disk, "other", "large"), Buffer.alloc(bavail * bsize - 3 * MIB));
      fixture.remount();
      expect(errnoOf(() => fixture.volume.files.write(file, 0, PIECE, false))).toBe("ENOSPC");
      fixture.volume.tree.unlink(ROOT, b("a"));
      fixture.volume.commit();
      expect(fixture.volume.failed).toBe(false);
      rmSync(join(disk, "other"), { recursive: true });
      const again = touch(fixture.volume, ROOT, "b");
      expect(errnoOf(() => fixture.volume.files.write(again, 0, PIECE, false))).toBe("ok");
    }));
});
