/** The second transport, on a real mount: what it must do by itself, beside what the other mount tests demand of both. */
import { readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { afterEach, describe, expect, test } from "vitest";
import { O, sys } from "../helpers/libc.ts";
import { python } from "../helpers/programs.ts";
import { fuseNativeImpossible } from "../helpers/secondtransport.ts";
import { mountingImpossible, TestVolume } from "../helpers/volume.ts";

const impossible = mountingImpossible() ?? fuseNativeImpossible();
if (impossible !== undefined) console.warn(`fuse-native is not tested: ${impossible}`);

let volume: TestVolume;
afterEach(() => volume?.remove());

function mounted(...args: string[]): string {
  volume = TestVolume.create();
  volume.mount("--transport", "fuse-native", ...args);
  return volume.mountpoint;
}

describe.skipIf(impossible !== undefined)("a mount by fuse-native", () => {
  test("keeps both times of a file apart, to the millisecond", () => {
    const file = `${mounted()}/f`;
    writeFileSync(file, "x");
    sys.utimens(file, 1_111_222_333_444n * 1_000_000n, 1_999_888_777_666n * 1_000_000n);
    const { atimeNs, mtimeNs } = sys.lstat(file);
    expect([atimeNs, mtimeNs]).toEqual([1_111_222_333_444_000_000n, 1_999_888_777_666_000_000n]);
    volume.unmount();
  });

  test("lets an open file be unlinked and replaced, and shows no name of libfuse's", () => {
    const point = mounted();
    writeFileSync(`${point}/f`, "first");
    writeFileSync(`${point}/g`, "second");
    const fd = sys.open(`${point}/f`, O.RDWR);
    sys.rename(`${point}/g`, `${point}/f`, 0);
    expect(readdirSync(point)).toEqual(["f"]);
    const other = sys.open(`${point}/f`, O.RDONLY);
    sys.unlink(`${point}/f`);
    expect(readdirSync(point)).toEqual([]);
    sys.pwrite(fd, Buffer.from("1"), 0);
    expect(sys.pread(fd, 10, 0).toString()).toBe("1irst");
    expect(sys.pread(other, 10, 0).toString()).toBe("second");
    expect([sys.fstat(fd).nlink, sys.fstat(other).nlink]).toEqual([0, 0]);
    sys.close(fd);
    sys.close(other);
    volume.unmount();
  });

  test("shows one file the same by each of its names, at once", () => {
    const point = mounted();
    writeFileSync(`${point}/a`, "one");
    sys.link(`${point}/a`, `${point}/b`);
    expect([statSync(`${point}/a`).ino, statSync(`${point}/b`).nlink]).toEqual([
      statSync(`${point}/b`).ino,
      2,
    ]);
    writeFileSync(`${point}/b`, "another");
    expect([statSync(`${point}/a`).size, readFileSync(`${point}/a`, "utf8")]).toEqual([7, "another"]);
    sys.unlink(`${point}/a`);
    expect(statSync(`${point}/b`).nlink).toBe(1);
    volume.unmount();
  });

  test("writes what a mapping still holds when it is unmounted", () => {
    const point = mounted();
    python(
      `import mmap, os
fd = os.open("m", os.O_RDWR | os.O_CREAT); os.ftruncate(fd, 8 << 20)
m = mmap.mmap(fd, 8 << 20)
for at in range(0, 8 << 20, 4096): m[at] = 7
`,
      [],
      { cwd: point },
    );
    volume.remount("--transport", "fuse-native");
    const bytes = readFileSync(`${point}/m`);
    expect(bytes.filter((_, at) => at % 4096 === 0).every((byte) => byte === 7)).toBe(true);
    volume.unmount();
  });

  test("tells its transport in `status`, and commits for `sync`", () => {
    const point = mounted("--commit", "3600");
    writeFileSync(`${point}/f`, "x");
    const status = (): { uncommittedMs: number; protocol: string } => {
      const rows = JSON.parse(volume.cli(["status", point, "--json"]).stdout);
      return rows[0];
    };
    expect(status()).toMatchObject({ protocol: "fuse-native", uncommittedMs: expect.any(Number) });
    expect(status().uncommittedMs).toBeGreaterThan(0);
    expect(volume.cli(["sync", point]).status).toBe(0);
    expect(status().uncommittedMs).toBe(0);
    volume.unmount();
  });

  test.each([["allow_other"], ["writeback"]])("-o %s is refused with 2 and why", (word) => {
    volume = TestVolume.create();
    const { status, stderr } = volume.tryMount(["--transport", "fuse-native", "-o", word]);
    expect(stderr).toMatch(new RegExp(`^sqlfuse: -o ${word}: not with --transport fuse-native: .*\n$`));
    expect(status).toBe(2);
  });
});
