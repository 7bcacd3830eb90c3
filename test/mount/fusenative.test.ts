/** The second transport, on a real mount: what it must do by itself, beside what the other mount tests demand of both. */
import { execFileSync, spawnSync } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, statSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, describe, expect, test } from "vitest";
import { O, sys } from "../helpers/libc.ts";
import { python } from "../helpers/programs.ts";
import { fuseNativeImpossible, MOUNT_EXCEPTIONS, MOUNT_FILES_LEFT_OUT } from "../helpers/secondtransport.ts";
import { CLI, IS_ROOT, mountingImpossible, PASSWORD, REPOSITORY, TestVolume } from "../helpers/volume.ts";

const impossible = mountingImpossible() ?? fuseNativeImpossible();
if (impossible !== undefined) console.warn(`fuse-native is not tested: ${impossible}`);

let volume: TestVolume;
afterEach(() => volume?.remove());

function mounted(...args: string[]): string {
  volume = TestVolume.create();
  volume.mount("--transport", "fuse-native", ...args);
  return volume.mountpoint;
}

/** In a mount table of its own, where every libfuse 2 of the system is an empty file. */
const WITHOUT_LIBFUSE = `set -e
for library in $(ldconfig -p | sed -n 's/.*libfuse\\.so\\.2 .*=> //p'); do mount --bind /dev/null "$library"; done
sqlfuse() { "${process.execPath}" "$CLI" "$@" >/dev/null; }
sqlfuse mount --transport fuse-native --log-file /dev/null "$1" "$2"
echo made > "$2/f"; touch -m -d 2001-02-03 "$2/f"
cat "$2/f"; date -r "$2/f" +%F
sqlfuse unmount "$2"
`;

describe.skipIf(impossible !== undefined)("a mount by fuse-native", () => {
  test("sets one time of a file alone, or both, and shows them to the millisecond", () => {
    const file = `${mounted()}/f`;
    writeFileSync(file, "x");
    sys.utimens(file, 1_111_222_333_444n * 1_000_000n, 1_999_888_777_666n * 1_000_000n);
    const { atimeNs, mtimeNs } = sys.lstat(file);
    expect([atimeNs, mtimeNs]).toEqual([1_111_222_333_444_000_000n, 1_999_888_777_666_000_000n]);
    sys.utimens(file, "omit", 1_000_000_000_123_000_000n);
    expect(sys.lstat(file)).toMatchObject({ atimeNs, mtimeNs: 1_000_000_000_123_000_000n });
    sys.utimens(file, 1_000_000_000_456_000_000n, "omit");
    const before = BigInt(Date.now() - 1000) * 1_000_000n;
    sys.utimens(file, "omit", "now");
    expect(sys.lstat(file).atimeNs).toBe(1_000_000_000_456_000_000n);
    expect(sys.lstat(file).mtimeNs).toBeGreaterThan(before);
    volume.unmount();
  });

  test("keeps the dates of what tar unpacks, and those of files made in the very second after 1970", () => {
    const point = mounted();
    const from = join(volume.home, "from");
    mkdirSync(from);
    writeFileSync(join(from, "old"), "x");
    utimesSync(join(from, "old"), 1.073, 1.073);
    utimesSync(from, 1e9, 1e9);
    execFileSync("sh", ["-c", 'tar -C "$1" -c from | tar -C "$2" -x', "sh", volume.home, point]);
    expect(statSync(join(point, "from")).mtimeMs).toBe(1e12);
    expect(statSync(join(point, "from/old")).mtimeMs).toBe(1000);
    sys.utimens(join(point, "from/old"), 1_073_000_000n, 1_073_000_000n);
    expect(statSync(join(point, "from/old"))).toMatchObject({ atimeMs: 1073, mtimeMs: 1073 });
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

  test("makes, lists and shows snapshots", () => {
    const point = mounted();
    writeFileSync(`${point}/f`, "then");
    expect(volume.cli(["snapshot", "create", point, "one"])).toMatchObject({ status: 0, stderr: "" });
    writeFileSync(`${point}/f`, "now");
    expect(volume.cli(["snapshot", "list", point]).stdout).toContain("one");
    expect(volume.cli(["cat", "--at", "one", volume.file, "/f"]).stdout).toBe("then");
    volume.unmount();
    const then = [
      "mount",
      "--transport",
      "fuse-native",
      "--at",
      "one",
      "--log-file",
      join(volume.home, "log"),
    ];
    expect(volume.cli([...then, volume.file, point])).toMatchObject({ status: 0, stderr: "" });
    expect(readFileSync(`${point}/f`, "utf8")).toBe("then");
    expect(JSON.parse(volume.cli(["status", point, "--json"]).stdout)[0]).toMatchObject({ at: "one" });
    expect(() => writeFileSync(`${point}/g`, "")).toThrow(/EROFS/);
    expect(volume.cli(["unmount", point])).toMatchObject({ status: 0, stderr: "" });
  });

  test.skipIf(!IS_ROOT)("works where the system has no libfuse 2 (needs root)", () => {
    volume = TestVolume.create();
    const { status, stdout, stderr } = spawnSync(
      "unshare",
      ["-m", "--propagation", "private", "sh", "-c", WITHOUT_LIBFUSE, "sh", volume.file, volume.mountpoint],
      { encoding: "utf8", env: { ...process.env, NODE_OPTIONS: "", SQLFUSE_PASSWORD: PASSWORD, CLI } },
    );
    expect([stdout, stderr, status]).toEqual(["made\n2001-02-03\n", "", 0]);
  });

  test.runIf(process.env.SQLFUSE_LONG === "1")(
    "is as good as the kernel's protocol to the tests of test/mount, but for the exceptions",
    { timeout: 3_600_000 },
    () => {
      const { status, stdout, stderr } = spawnSync(
        process.execPath,
        [
          join(REPOSITORY, "node_modules/vitest/vitest.mjs"),
          ...["run", "test/mount", "--reporter=default"],
          ...Object.keys(MOUNT_FILES_LEFT_OUT).flatMap((name) => ["--exclude", `test/mount/${name}`]),
        ],
        {
          cwd: REPOSITORY,
          encoding: "utf8",
          maxBuffer: 2 ** 28,
          env: { ...process.env, SQLFUSE_LONG: "", SQLFUSE_TEST_TRANSPORT: "fuse-native" },
        },
      );
      const left = { ...MOUNT_FILES_LEFT_OUT, ...MOUNT_EXCEPTIONS };
      for (const [name, reason] of Object.entries(left)) console.warn(`left out: ${name}: ${reason}`);
      expect(status, stdout + stderr).toBe(0);
    },
  );
});
