import { describe, expect, test } from "vitest";
import { ToolError } from "../../tools/exitcodes.ts";
import {
  applyMountOptions,
  DEFAULT_SETTINGS,
  type MountSettings,
  parseCacheSize,
  parseCommit,
  parseDuration,
} from "../../tools/mountoptions.ts";

function parse(...lists: string[]): MountSettings {
  const settings = { ...DEFAULT_SETTINGS };
  applyMountOptions(lists, settings);
  return settings;
}

function refusal(...lists: string[]): ToolError {
  try {
    parse(...lists);
  } catch (error) {
    if (error instanceof ToolError) return error;
  }
  throw new Error(`accepted: ${lists.join(" ")}`);
}

describe("mount options", () => {
  test("none gives: read and write, permissions checked where it matters, nosuid, nodev, exec, relatime, commit after a second", () => {
    expect(parse()).toEqual({
      transport: "kernel",
      readOnly: false,
      allowOther: false,
      defaultPermissions: undefined,
      suid: false,
      dev: false,
      exec: true,
      noatime: false,
      sync: false,
      writeback: false,
      commitIntervalMs: 1000,
      idleTimeoutMs: 0,
      historyMs: 0,
      pushMs: 30_000,
      pullMs: 10_000,
      logLevel: "info",
    });
  });

  test.each([
    ["ro", { readOnly: true }],
    ["ro,rw", { readOnly: false }],
    ["allow_other", { allowOther: true }],
    ["no_default_permissions", { defaultPermissions: false }],
    ["no_default_permissions,default_permissions", { defaultPermissions: true }],
    ["suid,dev", { suid: true, dev: true }],
    ["suid,dev,nosuid,nodev", { suid: false, dev: false }],
    ["noexec", { exec: false }],
    ["noexec,exec", { exec: true }],
    ["bwlimit=500K", { bytesPerSecond: 512_000 }],
    ["noatime", { noatime: true }],
    ["noatime,relatime", { noatime: false }],
    ["noatime,atime", { noatime: false }],
    ["sync", { sync: true }],
    ["sync,async", { sync: false }],
    ["dirsync", { sync: true }],
    ["writeback", { writeback: true }],
    ["uid=1000,gid=0", { uid: 1000, gid: 0 }],
    ["fsname=my vault", { fsname: "my vault" }],
    ["fsname=a=b", { fsname: "a=b" }],
    ["commit=5", { commitIntervalMs: 5000 }],
    ["commit=0.25", { commitIntervalMs: 250 }],
    ["password_file=/etc/p", { passwordFile: "/etc/p" }],
    [
      "password_command=secret-tool lookup volume vault",
      { passwordCommand: "secret-tool lookup volume vault" },
    ],
    ["log_file=/var/log/v", { logFile: "/var/log/v" }],
    ["head_file=/media/stick/v", { headFile: "/media/stick/v" }],
    ["log_level=warn", { logLevel: "warn" }],
    ["cache_size=32M", { cacheBytes: 2 ** 25 }],
    ["cache_size=1048576", { cacheBytes: 2 ** 20 }],
    ["cache_size=1024k", { cacheBytes: 2 ** 20 }],
    ["cache_size=64G", { cacheBytes: 2 ** 36 }],
    ["transport=fuse-native", { transport: "fuse-native" }],
    ["transport=fuse-native,transport=kernel", { transport: "kernel" }],
    ["idle_timeout=90", { idleTimeoutMs: 90_000 }],
    ["idle_timeout=30s", { idleTimeoutMs: 30_000 }],
    ["idle_timeout=10m", { idleTimeoutMs: 600_000 }],
    ["idle_timeout=2h", { idleTimeoutMs: 7_200_000 }],
    ["idle_timeout=2h,idle_timeout=0", { idleTimeoutMs: 0 }],
  ] as const)("%s is understood", (list, expected) => {
    expect(parse(list)).toMatchObject(expected);
  });

  test("several -o add up and the last word wins", () => {
    expect(parse("ro,uid=1", "rw", "uid=2")).toMatchObject({ readOnly: false, uid: 2 });
  });

  test("words that belong to fstab, mount(8) and systemd change nothing", () => {
    const words =
      "defaults,auto,noauto,nofail,user,nouser,users,owner,group,_netdev,comment=x,x-systemd.automount," +
      "x-gvfs-hide,x-foo=1,X-mount.mkdir,lazytime,,";
    expect(parse(words)).toEqual({ ...DEFAULT_SETTINGS });
  });

  test("what mount(8) hands to a helper, as root and as a user, is understood", () => {
    expect(parse("ro,noexec,nosuid,nodev,allow_other")).toMatchObject({ exec: false, allowOther: true });
    expect(parse("rw,nofail,dev,suid")).toMatchObject({ dev: true, suid: true });
  });

  test.each([
    "allow_root",
    "nonempty",
    "RO",
    "ro ",
    "foo=bar",
    "constructor",
    "__proto__",
    "hasOwnProperty=1",
  ])("an unknown word is refused by name: %s", (word) => {
    const error = refusal(`ro,${word},rw`);
    expect(error.code).toBe(2);
    expect(error.message).toContain(`-o ${word}: unknown mount option`);
  });

  test.each(["ro=1", "suid=yes", "default_permissions="])("a flag takes no value: %s", (word) => {
    expect(refusal(word).message).toMatch(/takes no value/);
  });

  test.each(["uid", "uid=", "fsname=", "commit", "password_file="])(
    "a setting needs its value: %s",
    (word) => {
      expect(refusal(word).message).toMatch(/needs a value/);
    },
  );

  test.each(["uid=root", "uid=-1", "gid=1.5", "uid=4294967295", "uid=99999999999", "uid=0x10"])(
    "an id is a number that can own a file: %s",
    (word) => {
      expect(refusal(word).message).toMatch(/not a numeric user or group id/);
    },
  );

  test.each(["0", "-1", "1e3", "3601", "fast", "0.001", ""])("commit=%s is no interval", (value) => {
    expect(() => parseCommit(value)).toThrow(/from 0.01 to 3600/);
  });

  test.each(["", "10 m", "1.5h", "-1", "10d", "501h", "9999999999", "h"])(
    "%j is no time to be idle",
    (value) => {
      expect(() => parseDuration(value)).toThrow(/such as 90, 30s, 10m or 2h/);
    },
  );

  test.each(["", "0", "1048575", "1023K", "65G", "1.5M", "-1M", "32MB", "32 M", "M"])(
    "%j is no size of a cache",
    (value) => {
      expect(() => parseCacheSize(value)).toThrow(/from 1M to 64G, such as 32M/);
    },
  );

  test("a log level is one of four", () => {
    expect(refusal("transport=nfs").message).toMatch(/not one of kernel, fuse-native/);
    expect(refusal("log_level=loud").message).toMatch(/not one of error, warn, info, debug/);
  });

  test("remount is refused and says what to do instead", () => {
    expect(refusal("remount,ro").message).toMatch(/unmount it and mount it again/);
  });
});
