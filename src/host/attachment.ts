/**
 * The descriptor through which the kernel and this process speak about one mount, and how it comes and goes:
 * root uses mount(2) and umount2(2); anyone else has the setuid fusermount3 do it, which sends the descriptor
 * over a socket; mount.fuse3 may have done it before we were started.
 */
import { spawnSync } from "node:child_process";
import { constants, openSync, readFileSync, readlinkSync, writeFileSync } from "node:fs";
import { constants as osConstants } from "node:os";
import { getSystemErrorName } from "node:util";
import {
  close,
  MNT_DETACH,
  MS_NOATIME,
  MS_NODEV,
  MS_NOEXEC,
  MS_NOSUID,
  MS_RDONLY,
  mount,
  O_NONBLOCK,
  O_RDWR,
  open,
  receiveFd,
  setNonBlocking,
  socketpair,
  UMOUNT_NOFOLLOW,
  umount2,
} from "../native/libc.ts";
import { HostError } from "./errors.ts";
import { FS_TYPE, mountedAt, mountTable } from "./mounts.ts";

const { errno } = osConstants;
/** Which node:fs does not name. */
const O_PATH = 0o10000000;
const DEVICE = "/dev/fuse";
const SUBTYPE = FS_TYPE.slice("fuse.".length);
/** In the environment of fusermount3: the socket that it sends the descriptor over. */
const COMM_FD_VARIABLE = "_FUSE_COMMFD";

export interface AttachOptions {
  readonly mountpoint: string;
  readonly fsname: string;
  readonly readOnly: boolean;
  readonly allowOther: boolean;
  readonly defaultPermissions: boolean;
  readonly suid: boolean;
  readonly dev: boolean;
  readonly exec: boolean;
  readonly noatime: boolean;
}

export interface Attachment {
  /** Of /dev/fuse, non-blocking. */
  readonly fd: number;
  /** Where it is mounted, as far as that can be told. */
  readonly mountpoint: string;
  /** "major:minor" of the mounted filesystem; undefined where the table does not show it. */
  readonly device: string | undefined;
}

function isRoot(): boolean {
  return process.geteuid?.() === 0;
}

function named(negativeErrno: number): string {
  return getSystemErrorName(negativeErrno);
}

/** Mounts. The kernel's first request waits then; nothing answers until it is served. @throws HostError */
export function attach(options: AttachOptions): Attachment {
  const fd = isRoot() ? attachAsRoot(options) : attachByHelper(options);
  return { fd, mountpoint: options.mountpoint, device: mountedAt(options.mountpoint)?.device };
}

/** Takes over a mount that was made before this process was started. @throws HostError */
export function adopt(fd: number, mountpoint: string): Attachment {
  const done = setNonBlocking(fd);
  if (done < 0) {
    throw new HostError("no-fuse", `${mountpoint}: is no descriptor of a mount (${named(done)})`);
  }
  const device = deviceOf(fd);
  const entry = mountTable().findLast((candidate) => candidate.device === device);
  return { fd, mountpoint: entry?.mountpoint ?? mountpoint, device };
}

/** Bytes that the kernel may read ahead, in KiB: sequential reads are a tenth faster than with its own 128. */
const READAHEAD_KIB = 1024;

/** Lets the kernel read further ahead, where this process may say so: root. After INIT, which may lower it. */
export function raiseReadahead({ device }: Attachment): void {
  try {
    writeFileSync(`/sys/class/bdi/${device}/read_ahead_kb`, `${READAHEAD_KIB}`);
  } catch {
    // not root, or no sysfs
  }
}

/** Has the kernel answer everything that waits for us with an error. Needs fusectl, which most systems mount. */
export function abort({ device }: Attachment): void {
  try {
    writeFileSync(`/sys/fs/fuse/connections/${device?.split(":")[1]}/abort`, "1");
  } catch {
    // no such place
  }
}

/** "0:minor" of the mount that a descriptor of /dev/fuse serves; newer kernels tell. */
function deviceOf(fd: number): string | undefined {
  try {
    const minor = /^fuse_connection:\s+(\d+)/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, "latin1"))?.[1];
    return minor === undefined ? undefined : `0:${minor}`;
  } catch {
    return undefined;
  }
}

function attachAsRoot(options: AttachOptions): number {
  const { mountpoint } = options;
  const fd = open(DEVICE, O_RDWR | O_NONBLOCK);
  if (fd < 0) throw noDevice(fd);
  let directory: number;
  try {
    directory = openMountpoint(mountpoint);
  } catch (error) {
    close(fd);
    throw error;
  }
  const words = [
    `fd=${fd}`,
    "rootmode=40000",
    `user_id=${process.getuid?.() ?? 0}`,
    `group_id=${process.getgid?.() ?? 0}`,
    ...kernelWords(options),
  ];
  let flags = 0;
  if (options.readOnly) flags |= MS_RDONLY;
  if (!options.suid) flags |= MS_NOSUID;
  if (!options.dev) flags |= MS_NODEV;
  if (!options.exec) flags |= MS_NOEXEC;
  if (options.noatime) flags |= MS_NOATIME;
  const done = mount(options.fsname, `/proc/self/fd/${directory}`, FS_TYPE, flags, words.join(","));
  close(directory);
  if (done === 0) return fd;
  close(fd);
  switch (-done) {
    case errno.ENODEV:
      throw new HostError("no-fuse", "the kernel has no FUSE; load it with: modprobe fuse");
    case errno.EPERM:
      throw new HostError(
        "no-fuse",
        `${mountpoint}: this process may not mount (EPERM); in a container that takes --cap-add SYS_ADMIN --device ${DEVICE}`,
      );
    default:
      throw new HostError("mountpoint-missing", `${mountpoint}: cannot be mounted on (${named(done)})`);
  }
}

/**
 * The directory of that name, which has no symlinks in it. Whoever may write above it could put one in its place since
 * it was looked at, and have root mount somewhere else: so it is opened first, and asked for its name. (fusermount3
 * does as much for everybody else.)
 */
function openMountpoint(mountpoint: string): number {
  let fd: number;
  try {
    fd = openSync(mountpoint, O_PATH | constants.O_DIRECTORY | constants.O_NOFOLLOW);
  } catch (error) {
    const code = error instanceof Error && "code" in error ? error.code : error;
    if (code === "ENOTDIR")
      throw new HostError("mountpoint-not-directory", `${mountpoint}: is not a directory`, { cause: error });
    const why = code === "ENOENT" ? "no such directory" : `cannot be opened (${code})`;
    throw new HostError("mountpoint-missing", `${mountpoint}: ${why}`, { cause: error });
  }
  const place = readlinkSync(`/proc/self/fd/${fd}`);
  if (place === mountpoint) return fd;
  close(fd);
  throw new HostError(
    "mountpoint-missing",
    `${mountpoint}: leads to ${place} by now: somebody put a symbolic link into its path`,
  );
}

function kernelWords(options: AttachOptions): string[] {
  const words: string[] = [];
  if (options.allowOther) words.push("allow_other");
  if (options.defaultPermissions) words.push("default_permissions");
  return words;
}

function noDevice(error: number): HostError {
  switch (-error) {
    case errno.EACCES:
    case errno.EPERM:
      return new HostError("no-fuse", `${DEVICE}: may not be opened; its mode should be 0666`);
    default:
      return new HostError(
        "no-fuse",
        `${DEVICE}: cannot be opened (${named(error)}); load FUSE with: modprobe fuse (in a container: --device ${DEVICE})`,
      );
  }
}

function attachByHelper(options: AttachOptions): number {
  const { mountpoint } = options;
  const pair = socketpair();
  if (typeof pair === "number") throw new Error(`socketpair: ${named(pair)}`);
  const [ours, theirs] = pair;
  try {
    // A comma in a value would begin the next option.
    const fsname = options.fsname.replace(/[\\,]/g, "\\$&");
    const words = [
      options.readOnly ? "ro" : "rw",
      options.suid ? "suid" : "nosuid",
      options.dev ? "dev" : "nodev",
      ...(options.exec ? [] : ["noexec"]),
      ...(options.noatime ? ["noatime"] : []),
      ...kernelWords(options),
      `subtype=${SUBTYPE}`,
      `fsname=${fsname}`,
    ];
    const helper = runHelper(["-o", words.join(","), "--", mountpoint], theirs);
    if (helper.status !== 0) throw refusedByHelper(helper.text, mountpoint);
    const fd = receiveFd(ours);
    if (fd < 0) throw new HostError("no-fusermount", `fusermount3 gave no descriptor (${named(fd)})`);
    setNonBlocking(fd);
    return fd;
  } finally {
    close(ours);
    close(theirs);
  }
}

function refusedByHelper(text: string, mountpoint: string): HostError {
  if (/user_allow_other/.test(text)) {
    return new HostError(
      "allow-other-forbidden",
      "-o allow_other: only root may, unless /etc/fuse.conf has a line `user_allow_other`",
    );
  }
  if (/\/dev\/fuse|fuse device not found|modprobe/.test(text)) return new HostError("no-fuse", text);
  return new HostError("mountpoint-missing", `${mountpoint}: cannot be mounted on: ${text}`);
}

/** Runs the setuid helper. It is quick: it neither asks nor waits for the filesystem. */
function runHelper(args: readonly string[], commFd?: number): { status: number; text: string } {
  for (const command of ["fusermount3", "fusermount"]) {
    const child = spawnSync(command, args, {
      stdio: ["ignore", "ignore", "pipe", ...(commFd === undefined ? [] : [commFd])],
      env: { ...process.env, ...(commFd === undefined ? {} : { [COMM_FD_VARIABLE]: "3" }), LC_ALL: "C" },
      encoding: "utf8",
    });
    if (child.error !== undefined && "code" in child.error && child.error.code === "ENOENT") continue;
    if (child.error !== undefined) throw new HostError("no-fusermount", `${command}: ${child.error.message}`);
    return { status: child.status ?? 1, text: child.stderr.trim().replace(/\s*\n\s*/g, "; ") };
  }
  throw new HostError(
    "no-fusermount",
    "fusermount3 is not installed, and without it only root may mount; install it with: apt-get install fuse3",
  );
}

/**
 * Takes the mount at `mountpoint` away, `lazy`: even while it is in use (it ends with its last user).
 * @throws HostError busy, not-mounted, not-permitted
 */
export function detach(mountpoint: string, lazy: boolean): void {
  if (isRoot()) {
    const done = umount2(mountpoint, UMOUNT_NOFOLLOW | (lazy ? MNT_DETACH : 0));
    if (done === 0) return;
    if (done === -errno.EBUSY) throw busy(mountpoint);
    if (done === -errno.EINVAL || done === -errno.ENOENT) throw notMounted(mountpoint);
    throw refused(mountpoint, named(done));
  }
  const { status, text } = runHelper(["-u", ...(lazy ? ["-z"] : []), "--", mountpoint]);
  if (status === 0) return;
  if (/busy/i.test(text)) throw busy(mountpoint);
  if (/not found|not mounted|no such/i.test(text)) throw notMounted(mountpoint);
  throw refused(mountpoint, text);
}

function busy(mountpoint: string): HostError {
  return new HostError("busy", `${mountpoint}: is in use`);
}

/** Mounted by somebody with more rights than this process has (left). */
function refused(mountpoint: string, why: string): HostError {
  return new HostError("not-permitted", `${mountpoint}: cannot be unmounted by this process (${why})`);
}

function notMounted(mountpoint: string): HostError {
  return new HostError("not-mounted", `${mountpoint}: is not mounted`);
}
