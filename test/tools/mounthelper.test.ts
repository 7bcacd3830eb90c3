/**
 * mount(8) and /etc/fstab with the type fuse.sqlfuse, both ways: through mount.fuse3, which finds `sqlfuse` in the
 * system's directories, and through /sbin/mount.fuse.sqlfuse. The machine's own /sbin and /etc/fstab are not touched:
 * what a test needs there it has in a mount namespace of its own.
 */
import { spawnSync } from "node:child_process";
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { hasProgram } from "../helpers/programs.ts";
import {
  IS_ROOT,
  lockHolder,
  mountingImpossible,
  type Outcome,
  PASSWORD,
  REPOSITORY,
  TestVolume,
  until,
} from "../helpers/volume.ts";
import { FOR_OTHERS } from "./run.ts";

const HELPER = fileURLToPath(new URL("../../dist/tools/mounthelper.js", import.meta.url));
const NOBODY = { uid: 65_534, gid: 65_534 };
const SBIN = existsSync("/sbin") ? realpathSync("/sbin") : "/sbin";

function whyNot(): string | undefined {
  const impossible = mountingImpossible();
  if (impossible !== undefined) return impossible;
  if (!IS_ROOT) return "mount(8) with a table of one's own, and a namespace, need root";
  const overlay = `mount -t overlay o -o lowerdir=${SBIN}:/usr/lib ${SBIN}`;
  if (spawnSync("unshare", ["-m", "sh", "-c", overlay]).status !== 0)
    return "no mount namespace with an overlay can be had";
  return undefined;
}

const impossible = whyNot();
if (impossible !== undefined) console.warn(`mount(8) and fstab are not tested: ${impossible}`);

let volume: TestVolume;
/** What stands in /sbin beside what is there anyway. */
let sbin: string;
let options: string;

beforeEach(() => {
  if (impossible === undefined) prepare(TestVolume.create());
});
afterEach(() => volume?.remove());

function prepare(made: TestVolume): void {
  volume?.remove();
  volume = made;
  sbin = join(volume.home, "sbin");
  mkdirSync(sbin);
  for (const [name, content] of [
    ["password", PASSWORD],
    ["log", ""],
  ] as const) {
    const path = join(volume.home, name);
    writeFileSync(path, content, { mode: 0o600 });
    if (volume.owner !== undefined) chownSync(path, volume.owner.uid, volume.owner.gid);
  }
  options = `password_file=${join(volume.home, "password")},log_file=${join(volume.home, "log")}`;
}

/** Puts `name` into /sbin: a program that runs `script`, by a Node that mount(8) need not find. */
function install(name: string, script: string): void {
  const path = join(sbin, name);
  writeFileSync(path, `#!/bin/sh\nexec '${FOR_OTHERS.node}' '${script}' "$@"\n`);
  chmodSync(path, 0o755);
}

/** Runs `script` where /sbin has what was installed. $F: the volume, $M: the mount point. */
function inNamespace(script: string): Outcome {
  const setUp = `mount -t overlay o -o 'lowerdir=${sbin}:${SBIN}' '${SBIN}'`;
  const env: NodeJS.ProcessEnv = { ...process.env, F: volume.file, M: volume.mountpoint, LC_ALL: "C" };
  delete env.SQLFUSE_PASSWORD;
  const done = spawnSync("unshare", ["-m", "sh", "-c", `${setUp} || exit 99\n${script}`], {
    encoding: "utf8",
    timeout: 50_000,
    env,
    input: "",
  });
  return { status: done.status, signal: done.signal, stdout: done.stdout, stderr: done.stderr };
}

/** The daemon has ended by itself, and all is in the one file. */
async function ended(): Promise<void> {
  await until("the daemon to close its file", () => lockHolder(volume.file) === undefined);
  volume.unmounted();
}
const mountOf = (text: string): string | undefined => /fuse\.sqlfuse (\S+)/.exec(text)?.[1];

const throughFuse3 = (): void => install("sqlfuse", FOR_OTHERS.cli);
const throughHelper = (): void => install("mount.fuse.sqlfuse", join(FOR_OTHERS.cli, "../mounthelper.js"));
const hasFuse3 = hasProgram("mount.fuse3");
if (!hasFuse3) console.warn("mount(8) without a helper of ours is not tested: mount.fuse3 is missing");
const WAYS = [
  ...(hasFuse3 ? ([["mount.fuse3", throughFuse3]] as const) : []),
  ["/sbin/mount.fuse.sqlfuse", throughHelper],
] as const;

describe.skipIf(impossible !== undefined)("mount -t fuse.sqlfuse", () => {
  describe.each(WAYS)("through %s", (_way, installIt) => {
    test("mounts, with the words of fstab that belong to others; umount commits and ends it", async () => {
      installIt();
      const words = `${options},noatime,noexec,nosuid,nodev,nofail,_netdev,lazytime,x-gvfs-hide,comment=x,x-systemd.automount`;
      const { status, stdout, stderr } = inNamespace(`
          mount -t fuse.sqlfuse "$F" "$M" -o ${words} || exit
          findmnt -n -o FSTYPE,OPTIONS "$M"
          echo kept > "$M/f"
          umount "$M"`);
      expect(stderr).toBe("");
      expect(status).toBe(0);
      expect(mountOf(stdout)?.split(",")).toEqual(
        expect.arrayContaining(["rw", "noatime", "noexec", "nosuid", "nodev"]),
      );
      await ended();
      volume.mount();
      expect(readFileSync(join(volume.mountpoint, "f"), "utf8")).toBe("kept\n");
      volume.unmount();
    });

    test("takes a line of fstab, which names file and options", async () => {
      installIt();
      const fstab = join(volume.home, "fstab");
      const words = `noauto,user,nofail,ro,${options},idle_timeout=10m,x-systemd.automount,x-systemd.idle-timeout=5min`;
      writeFileSync(fstab, `${volume.file} ${volume.mountpoint} fuse.sqlfuse ${words} 0 0\n`);
      const { status, stdout, stderr } = inNamespace(`
        mount -T '${fstab}' "$M" || exit
        findmnt -n -o FSTYPE,OPTIONS "$M"
        umount "$M"`);
      expect(stderr).toBe("");
      expect(status).toBe(0);
      expect(mountOf(stdout)).toMatch(/^ro,nosuid,nodev,noexec/);
      await ended();
    });

    test("passes our exit code and our line on", async () => {
      installIt();
      writeFileSync(join(volume.home, "password"), "wrong");
      const wrong = inNamespace(`mount -t fuse.sqlfuse "$F" "$M" -o ${options}`);
      expect(wrong.stderr).toMatch(/^sqlfuse: .*wrong password/);
      expect(wrong.status).toBe(12);
      const odd = inNamespace(`mount -t fuse.sqlfuse "$F" "$M" -o ${options},allow_root`);
      expect(odd.stderr).toBe(
        "sqlfuse: -o allow_root: unknown mount option; `sqlfuse mount --help` lists them\n",
      );
      expect(odd.status).toBe(2);
    });

    test("-o remount is refused, and says how the kernel makes it read-only, which it does", async () => {
      installIt();
      const { status, stdout, stderr } = inNamespace(`
        mount -t fuse.sqlfuse "$F" "$M" -o ${options} || exit
        echo kept > "$M/f"
        mount -o remount,ro "$M"; echo "refused with $?"
        echo still > "$M/g" && mount -i -o remount,ro "$M" || exit
        findmnt -n -o FSTYPE,OPTIONS "$M"
        echo no > "$M/h"
        umount "$M"`);
      expect(stdout).toContain("refused with 2\n");
      expect(stderr).toMatch(/^sqlfuse: -o remount: .*`mount -i -o remount,ro MOUNTPOINT`.*\n/);
      expect(stderr).toMatch(/Read-only file system/);
      expect(mountOf(stdout)).toMatch(/^ro,/);
      expect(status).toBe(0);
      await ended();
      volume.mount("--log-file", "/dev/null");
      expect(readdirSync(volume.mountpoint).sort()).toEqual(["f", "g"]);
      volume.unmount();
    });

    test.skipIf(impossible === undefined && mountingImpossible(NOBODY) !== undefined)(
      "lets an ordinary user mount and unmount a line that says user",
      async () => {
        prepare(TestVolume.create({ owner: NOBODY }));
        installIt();
        const fstab = join(volume.home, "fstab");
        writeFileSync(fstab, `${volume.file} ${volume.mountpoint} fuse.sqlfuse noauto,user,${options} 0 0\n`);
        const as = "setpriv --reuid=65534 --regid=65534 --clear-groups";
        const { status, stdout, stderr } = inNamespace(`
          mount --bind '${fstab}' /etc/fstab || exit 99
          ${as} mount "$M" || exit
          findmnt -n -o FSTYPE,OPTIONS "$M"
          ${as} sh -c 'echo kept > "$M/f"'
          ${as} umount "$M"`);
        expect(stderr).toBe("");
        expect(status).toBe(0);
        expect(mountOf(stdout)).toMatch(/nosuid,nodev,noexec.*user_id=65534/);
        await ended();
      },
    );
  });

  test("alone, as root, mount.fuse3 adds suid and dev, and our own helper does not", async () => {
    const mounted = async (): Promise<string | undefined> => {
      const { stdout } = inNamespace(`
        mount -t fuse.sqlfuse "$F" "$M" -o ${options} && findmnt -n -o FSTYPE,OPTIONS "$M" && umount "$M"`);
      await ended();
      return mountOf(stdout);
    };
    if (hasFuse3) {
      throughFuse3();
      expect(await mounted()).not.toMatch(/nosuid|nodev/);
    }
    throughHelper();
    expect(await mounted()).toMatch(/^rw,nosuid,nodev,/);
  });

  test("-f mounts nothing; -v tells of the mount, of which nothing is said else; -n and -s change nothing", async () => {
    throughHelper();
    const { status, stdout, stderr } = inNamespace(`
      mount -f -t fuse.sqlfuse "$F" "$M" -o ${options} || exit
      findmnt -n "$M" && exit 98
      mount -n -v -s -t fuse.sqlfuse "$F" "$M" -o ${options} || exit
      findmnt -n -o FSTYPE,OPTIONS "$M"
      umount "$M"`);
    expect(stderr).toBe("");
    expect(status).toBe(0);
    expect(mountOf(stdout)).toMatch(/^rw,/);
    expect(stdout).toMatch(/: mounted at .* by pid \d+/);
    await ended();
    const silent = inNamespace(`mount -t fuse.sqlfuse "$F" "$M" -o ${options} && umount "$M"`);
    expect(silent).toMatchObject({ status: 0, stdout: "", stderr: "" });
    await ended();
  });
});

describe("mount.fuse.sqlfuse", () => {
  test("is a program of the package", () => {
    const { bin } = JSON.parse(readFileSync(join(REPOSITORY, "package.json"), "utf8"));
    expect(join(REPOSITORY, bin["mount.fuse.sqlfuse"])).toBe(HELPER);
    expect(statSync(HELPER).mode & 0o111).toBe(0o111);
  });

  test.each([
    [["only-a-file"], /FILE MOUNTPOINT/],
    [["a", "b", "-x"], /^sqlfuse: Unknown option '-x'; mount.fuse.sqlfuse FILE MOUNTPOINT/],
    [["a", "b", "-N", "/proc/1/ns/mnt"], /nsenter/],
    [["a", "b", "-o"], /-o/],
  ])("refuses %j on one line, with 2", (args, message) => {
    const { status, stdout, stderr } = spawnSync(process.execPath, [HELPER, ...args], { encoding: "utf8" });
    expect(stderr).toMatch(/^sqlfuse: .*\n$/);
    expect(stderr).toMatch(message);
    expect({ status, stdout }).toEqual({ status: 2, stdout: "" });
  });
});
