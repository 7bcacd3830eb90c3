/** The mount table, as the kernel writes it. */
import { expect, test } from "vitest";
import { mountAround, mountedAt, mountTable } from "../../src/host/mounts.ts";

const TABLE = mountTable(
  [
    "21 1 254:0 / / rw,relatime - ext4 /dev/vda rw",
    "42 21 0:39 / /home/u/my\\040vault rw,nosuid,nodev - fuse.sqlfuse /home/u/my\\040vault.sqlite rw,user_id=1000",
    "43 21 0:40 / /mnt/b ro,relatime shared:7 master:2 - fuse.sqlfuse /data/b\\134\\011.sqlite rw",
    "44 43 0:41 / /mnt/b rw - tmpfs none rw",
    "45 21 0:42 / /mnt/bb rw - fuse.sqlfuse /data/bb.sqlite ro",
    "not a line of the table",
    "",
  ].join("\n"),
);

test("escapes are undone, optional fields skipped, what is no entry left out", () => {
  expect(TABLE).toHaveLength(5);
  expect(TABLE[1]).toEqual({
    device: "0:39",
    mountpoint: "/home/u/my vault",
    readOnly: false,
    type: "fuse.sqlfuse",
    source: "/home/u/my vault.sqlite",
  });
  expect(TABLE[2]?.source).toBe("/data/b\\\t.sqlite");
});

test("read-only is what the mount or its filesystem says", () => {
  expect(TABLE.map(({ readOnly }) => readOnly)).toEqual([false, false, true, false, true]);
});

test("of two mounts at one place the later is seen", () => {
  expect(mountedAt("/mnt/b", TABLE)?.type).toBe("tmpfs");
  expect(mountedAt("/mnt", TABLE)).toBeUndefined();
});

test("a place lies in the deepest mount above it, names compared whole", () => {
  expect(mountAround("/mnt/b/c/d", TABLE)?.device).toBe("0:41");
  expect(mountAround("/mnt/bb", TABLE)?.device).toBe("0:42");
  expect(mountAround("/mnt/bc", TABLE)?.device).toBe("254:0");
  expect(mountAround("/", TABLE)?.device).toBe("254:0");
});

test("this machine has a table", () => {
  expect(mountedAt("/")?.mountpoint).toBe("/");
});
