/**
 * `sqlfuse mount FILE [MOUNTPOINT]`, also without the word "mount", as mount(8) calls it. This file settles what is
 * mounted where and how, and refuses what cannot work before it asks for a password; tools/daemon.ts serves it.
 */
import { accessSync, constants, mkdirSync, readFileSync, realpathSync, rmdirSync, statSync } from "node:fs";
import { homedir } from "node:os";
import { basename, dirname, extname, join, resolve } from "node:path";
import type { Command } from "commander";
import { Option } from "commander";
import { LOG_LEVELS, type LogLevel } from "../src/base/log.ts";
import { parseAt } from "../src/core/moment.ts";
import type { MountOptions } from "../src/host/mount.ts";
import { DEFAULT_TRANSPORT, TRANSPORTS, type Transport } from "../src/host/transport.ts";
import { parseRate } from "./access.ts";
import { foregroundLog, serve, serveChild, startDaemon } from "./daemon.ts";
import { requireEngine } from "./engine.ts";
import { EXIT, EXIT_TABLE, ToolError } from "./exitcodes.ts";
import { addHelp } from "./help.ts";
import { type AtFlags, addAtOption } from "./moment.ts";
import {
  applyMountOptions,
  DEFAULT_SETTINGS,
  MOUNT_OPTION_HELP,
  type MountSettings,
  parseCacheSize,
  parseCommit,
  parseDuration,
  parseInterval,
  parsePause,
} from "./mountoptions.ts";
import { addOutputOptions, type OutputFlags, quote, tell, warn } from "./output.ts";
import { addPasswordOptions, type PasswordOptions, readPassword } from "./password.ts";

interface MountFlags extends PasswordOptions, OutputFlags, AtFlags {
  readonly options?: string[];
  readonly foreground?: true;
  readonly readOnly?: true;
  readonly allowOther?: true;
  readonly sync?: true;
  readonly commit?: string;
  readonly idleTimeout?: string;
  readonly cacheSize?: string;
  readonly logFile?: string;
  readonly headFile?: string;
  readonly history?: string;
  readonly push: boolean;
  readonly pushInterval?: string;
  readonly pull: boolean;
  readonly pullInterval?: string;
  readonly bwlimit?: string;
  readonly logLevel?: LogLevel;
  readonly trace?: true;
  readonly transport?: Transport;
  /** Set by startDaemon: we are the process in the background. */
  readonly child?: true;
}

export function addMount(program: Command): void {
  const command = program
    .command("mount", { isDefault: true })
    .summary("mount a volume (also without the word: sqlfuse FILE MOUNTPOINT)")
    .usage("[options] <file> [mountpoint]")
    .description(
      "Mounts the volume in FILE at the empty directory MOUNTPOINT, and goes to the background when it answers. " +
        "Without MOUNTPOINT it is a directory beside FILE and named as FILE without its extension, which is made " +
        "if missing and then removed again at unmount.",
    )
    .argument("<file>", "the database file")
    .argument("[mountpoint]", "an empty directory")
    .option("-o, --options <list>", "mount options, separated by commas: see below", collect)
    .option("-f, --foreground", "stay in the foreground and log to stderr; ^C unmounts")
    .option("--ro, --read-only", "read-only, as -o ro")
    .option("--allow-other", "let other users in too, as -o allow_other")
    .option("--sync", "commit each operation before it returns, as -o sync")
    .option(
      "--commit <seconds>",
      "commit at most this long after a change, as -o commit=SECONDS (default: 1)",
    )
    .option(
      "--head-file <file>",
      "remember the newest state in FILE, elsewhere, and refuse an older one; made if missing",
    )
    .option(
      "--idle-timeout <duration>",
      "unmount when nobody used it for so long (90, 30s, 10m, 2h) and nothing in it is held, as -o idle_timeout=",
    )
    .option(
      "--history <duration>",
      "make a snapshot so long after a change, and prune them: see sqlfuse snapshot; as -o history=",
    )
    .option(
      "--push-interval <duration>",
      "push to the volume's remotes so long after a change at the latest, as -o push_interval= (default: 30s; 0: never)",
    )
    .option("--no-push", "leave the remotes alone: as --push-interval 0")
    .option(
      "--pull-interval <duration>",
      "a replica: look so often whether something was pushed, as -o pull_interval= (default: 10s; 0: never)",
    )
    .option("--no-pull", "a replica stays as it is until sqlfuse pull: as --pull-interval 0")
    .option("--bwlimit <rate>", "bytes to push or fetch in a second at most: 500K, 2M; as -o bwlimit=")
    .option("--cache-size <bytes>", "page cache: 1M to 64G (default: 64M), as -o cache_size=")
    .option("--log-file <file>", "append messages to FILE")
    .addOption(
      new Option("--log-level <level>", "which messages; debug: as --trace (default: info)").choices(
        LOG_LEVELS,
      ),
    )
    .addOption(new Option("--trace", "log each request and its reply (names included)").conflicts("logLevel"))
    .addOption(
      new Option(
        "--transport <name>",
        "how the kernel is spoken to: by itself, or by libfuse 2 through the npm package fuse-native, slower and with " +
          `less of POSIX (default: ${DEFAULT_TRANSPORT})`,
      ).choices(TRANSPORTS),
    )
    .addOption(new Option("--child").hideHelp());
  addAtOption(command);
  addPasswordOptions(command);
  addOutputOptions(command).action(mount);
  addHelp(command, {
    tables: [MOUNT_OPTION_HELP],
    exits: EXIT_TABLE,
    examples: [
      ["sqlfuse mount vault.sqlite", "mounts it at ./vault"],
      ["sqlfuse mount vault.sqlite ~/then --at yesterday", "as it was then, read-only"],
      ["sqlfuse vault.sqlite ~/v -o ro,allow_other", "read-only, for everybody"],
      "sqlfuse mount vault.sqlite --password-command 'secret-tool lookup volume vault'",
    ],
  });
}

function collect(value: string, previous: string[] | undefined): string[] {
  return [...(previous ?? []), value];
}

async function mount(file: string, mountpoint: string | undefined, flags: MountFlags): Promise<void> {
  if (flags.child) return serveChild();
  const settings = settingsOf(flags);
  const path = findFile(file);
  const point = findMountpoint(file, mountpoint);
  const logFile = logFileOf(flags, settings, point);
  const headFile = headFileOf(flags, settings, point);
  if (headFile !== undefined) settings.headFile = headFile;
  refuseWriting(settings, mountpoint);
  settings.readOnly ||= settings.at !== undefined || unwritable(path);
  const options = mountOptions(path, point, settings);
  if (settings.at === undefined) await refuseMounted(path, settings.readOnly);

  await requireEngine();
  await requireTransport(settings.transport);
  const { prepareMountpoint } = await import("../src/host/mountpoint.ts");
  const { created } = prepareMountpoint(point, path);
  // A signal may end us while the password is waited for: a directory that was missing is made for good after that.
  if (created) tryRmdir(point);
  try {
    const password = await readPassword(passwordSource(flags, settings), {
      path: file,
      confirm: false,
      warn,
    });
    if (created) mkdirSync(point, { recursive: true, mode: 0o700 });
    if (flags.foreground) {
      return await serve(options, password, {
        removeMountpoint: created,
        log: foregroundLog(logFile, settings.logLevel),
      });
    }
    const mounted = await startDaemon(options, password, {
      removeMountpoint: created,
      logFile: logFile ?? defaultLogFile(),
      logFileGiven: logFile !== undefined,
      logLevel: settings.logLevel,
    });
    if (mounted.warning !== undefined) warn(mounted.warning);
    const how = mounted.readOnly ? "mounted read-only" : "mounted";
    const unmount = `unmount it with: sqlfuse unmount ${quote(mounted.mountpoint)}`;
    tell(flags, `${file}: ${how} at ${mounted.mountpoint} by pid ${mounted.pid}; ${unmount}`, {
      path,
      mountpoint: mounted.mountpoint,
      pid: mounted.pid,
      readOnly: mounted.readOnly,
    });
  } catch (error) {
    // Nothing was mounted, so nothing is left: but a directory that is not empty is somebody's, and stays.
    if (created) tryRmdir(point);
    throw error;
  }
}

/** A snapshot is shown beside the volume, so not at its place, and is changed by nobody. */
function refuseWriting(settings: MountSettings, mountpoint: string | undefined): void {
  if (settings.at === undefined) return;
  if (mountpoint === undefined)
    throw new ToolError(EXIT.usage, "--at: name a MOUNTPOINT too; FILE's own is for the present");
  if (settings.historyMs > 0) throw new ToolError(EXIT.usage, "--at and --history exclude each other");
  if (settings.headFile !== undefined)
    throw new ToolError(EXIT.usage, "--at and --head-file exclude each other");
}

function settingsOf(flags: MountFlags): MountSettings {
  const settings = { ...DEFAULT_SETTINGS };
  applyMountOptions(flags.options ?? [], settings);
  if (flags.readOnly) settings.readOnly = true;
  if (flags.allowOther) settings.allowOther = true;
  if (flags.sync) settings.sync = true;
  if (flags.commit !== undefined) settings.commitIntervalMs = parseCommit(flags.commit);
  if (flags.idleTimeout !== undefined) settings.idleTimeoutMs = parseDuration(flags.idleTimeout);
  if (flags.history !== undefined) settings.historyMs = parseInterval(flags.history);
  if (flags.pushInterval !== undefined) settings.pushMs = parsePause(flags.pushInterval, "push interval");
  if (!flags.push) settings.pushMs = 0;
  if (flags.pullInterval !== undefined) settings.pullMs = parsePause(flags.pullInterval, "pull interval");
  if (!flags.pull) settings.pullMs = 0;
  if (flags.bwlimit !== undefined) settings.bytesPerSecond = parseRate(flags.bwlimit);
  if (flags.at !== undefined) settings.at = flags.at;
  if (flags.cacheSize !== undefined) settings.cacheBytes = parseCacheSize(flags.cacheSize);
  if (flags.logLevel !== undefined) settings.logLevel = flags.logLevel;
  if (flags.trace) settings.logLevel = "debug";
  if (flags.transport !== undefined) settings.transport = flags.transport;
  refuseContradictions(settings);
  return settings;
}

/** What fuse-native cannot carry is refused, rather than done wrong: see D33. */
function refuseContradictions(settings: MountSettings): void {
  if (settings.transport !== "fuse-native") return;
  const refuse = (word: string, why: string): never => {
    throw new ToolError(EXIT.usage, `-o ${word}: not with --transport fuse-native: ${why}`);
  };
  if (settings.allowOther) refuse("allow_other", "it does not tell who makes a file");
  if (settings.writeback) refuse("writeback", "libfuse 2 has none");
}

/** Loads what the mount will need, so that what is missing is told before anybody types a password. */
async function requireTransport(transport: Transport): Promise<void> {
  if (transport !== "fuse-native") return;
  const { loadBinding } = await import("../src/fusenative/binding.ts");
  loadBinding();
}

function mountOptions(path: string, mountpoint: string, settings: MountSettings): MountOptions {
  return {
    transport: settings.transport,
    path,
    mountpoint,
    readOnly: settings.readOnly,
    allowOther: settings.allowOther,
    defaultPermissions: settings.defaultPermissions ?? !isForRootAlone(settings, mountpoint),
    suid: settings.suid,
    dev: settings.dev,
    exec: settings.exec,
    noatime: settings.noatime,
    sync: settings.sync,
    commitIntervalMs: settings.commitIntervalMs,
    writeback: settings.writeback,
    fsname: settings.fsname ?? (settings.at === undefined ? path : `${path}@${settings.at}`),
    ...(settings.at === undefined ? {} : { at: parseAt(settings.at) }),
    ...(settings.historyMs === 0 ? {} : { historyMs: settings.historyMs }),
    pullMs: settings.pullMs,
    ...(settings.pushMs === 0 ? {} : { pushMs: settings.pushMs }),
    ...(settings.bytesPerSecond === undefined ? {} : { bytesPerSecond: settings.bytesPerSecond }),
    ...(settings.cacheBytes === undefined ? {} : { cacheBytes: settings.cacheBytes }),
    ...(settings.headFile === undefined ? {} : { headFile: settings.headFile }),
    trace: settings.logLevel === "debug",
    // 0 switches it off, where a line of fstab has switched it on.
    ...(settings.idleTimeoutMs === 0 ? {} : { idleTimeoutMs: settings.idleTimeoutMs }),
    ...(settings.uid === undefined ? {} : { uid: settings.uid }),
    ...(settings.gid === undefined ? {} : { gid: settings.gid }),
  };
}

/**
 * Whether nobody but root will enter the mount, who may do everything: then the kernel need not check, which would
 * cost a GETATTR of the directory for each name that is made or removed.
 */
function isForRootAlone(settings: MountSettings, mountpoint: string): boolean {
  // With mount.fuse3's descriptor the mount is made already, as somebody else saw fit.
  if (process.geteuid?.() !== 0 || settings.allowOther || mountpoint.startsWith("/dev/fd/")) return false;
  // A root without CAP_DAC_OVERRIDE (1), CAP_DAC_READ_SEARCH (2) or CAP_FOWNER (3) is kept out by modes like anybody.
  const ALL = 0b1110n;
  const [, effective] = /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync("/proc/self/status", "utf8")) ?? [];
  return effective !== undefined && (BigInt(`0x${effective}`) & ALL) === ALL;
}

function findFile(file: string): string {
  let path: string;
  try {
    path = realpathSync(file);
    if (statSync(path).isDirectory()) {
      throw new ToolError(
        EXIT.unusable,
        `${file}: is a directory, not a volume; the file comes first: sqlfuse mount FILE [MOUNTPOINT]`,
      );
    }
    accessSync(path, constants.R_OK);
  } catch (error) {
    const code = codeOf(error);
    if (code === undefined) throw error;
    throw new ToolError(
      EXIT.unusable,
      code === "ENOENT"
        ? `${file}: no such file${/[./]/.test(file) ? "" : ", and no command"}; make a volume with: sqlfuse create ${quote(file)}`
        : `${file}: cannot be read (${code}); check its permissions and those of its directory`,
    );
  }
  return path;
}

/** Its absolute name with symlinks resolved, as the mount table shows it. A dead mount there is no obstacle. */
function findMountpoint(file: string, mountpoint: string | undefined): string {
  if (mountpoint === undefined) return resolvePoint(defaultMountpoint(file));
  // mount.fuse3 with drop_privileges: the descriptor of a mount that is made already.
  if (/^\/dev\/fd\/\d+$/.test(mountpoint)) return mountpoint;
  try {
    statSync(mountpoint);
  } catch (error) {
    if (codeOf(error) === "ENOENT") {
      throw new ToolError(
        EXIT.unusable,
        `${mountpoint}: no such directory; make it with: mkdir -p ${quote(mountpoint)}, or name no mount point`,
      );
    }
  }
  return resolvePoint(resolve(mountpoint));
}

function defaultMountpoint(file: string): string {
  const absolute = resolve(file);
  const extension = extname(absolute);
  // A file without an extension cannot share its name with a directory beside it.
  return join(
    dirname(absolute),
    extension === "" ? `${basename(absolute)}.mnt` : basename(absolute, extension),
  );
}

function resolvePoint(absolute: string): string {
  try {
    return realpathSync(absolute);
  } catch {
    return join(realpathSync(dirname(absolute)), basename(absolute));
  }
}

/** A volume whose file or directory cannot be written is mounted read-only, and the user is told. */
function unwritable(path: string): boolean {
  for (const place of [path, dirname(path)]) {
    try {
      accessSync(place, constants.W_OK);
    } catch (error) {
      warn(`${place}: cannot be written (${codeOf(error)}), so the volume is mounted read-only`);
      return true;
    }
  }
  // Root may write anything: there the mode of the file says what its owner means.
  if ((statSync(path).mode & 0o222) !== 0) return false;
  warn(`${path}: nobody may write it, by its mode, so the volume is mounted read-only`);
  return true;
}

async function refuseMounted(path: string, readOnly: boolean): Promise<void> {
  const { listMounts } = await import("../src/host/mounts.ts");
  const other = listMounts().find(
    (volume) => volume.path === path && volume.at === undefined && volume.pid !== undefined,
  );
  // Read-only mounts of one file do not disturb each other.
  if (other === undefined || (readOnly && other.readOnly)) return;
  throw new ToolError(
    EXIT.locked,
    `${path}: is mounted already, at ${other.mountpoint} by pid ${other.pid}; unmount it with: sqlfuse unmount ${quote(other.mountpoint)}`,
  );
}

/** `-o password_file=` and the like are how fstab says it; what stands on the command line itself goes before. */
function passwordSource(flags: MountFlags, settings: MountSettings): PasswordOptions {
  if ((flags.passwordFile ?? flags.passwordCommand ?? flags.passwordFd ?? flags.keyFile) !== undefined)
    return flags;
  const { passwordFile, passwordCommand, keyFile } = settings;
  return {
    ...(passwordFile === undefined ? {} : { passwordFile }),
    ...(passwordCommand === undefined ? {} : { passwordCommand }),
    ...(keyFile === undefined ? {} : { keyFile }),
  };
}

function logFileOf(flags: MountFlags, settings: MountSettings, mountpoint: string): string | undefined {
  return outside(mountpoint, "--log-file", flags.logFile ?? settings.logFile);
}

function headFileOf(flags: MountFlags, settings: MountSettings, mountpoint: string): string | undefined {
  return outside(mountpoint, "--head-file", flags.headFile ?? settings.headFile);
}

/** The absolute name of a file that the mount itself writes, so it must not be in it. */
function outside(mountpoint: string, option: string, given: string | undefined): string | undefined {
  if (given === undefined) return undefined;
  const file = resolve(given);
  if (!file.startsWith(`${mountpoint}/`)) return file;
  throw new ToolError(
    EXIT.usage,
    `${option} ${given}: is inside the mount that it would describe; put it elsewhere`,
  );
}

/** Beside other state of programs; root's goes where the system's logs are. */
function defaultLogFile(): string {
  if (process.geteuid?.() === 0) return "/var/log/sqlfuse.log";
  const state = process.env.XDG_STATE_HOME ?? join(homedir(), ".local", "state");
  const directory = join(state, "sqlfuse");
  try {
    mkdirSync(directory, { recursive: true, mode: 0o700 });
  } catch {
    // said when the file cannot be opened
  }
  return join(directory, "sqlfuse.log");
}

function tryRmdir(directory: string): void {
  try {
    rmdirSync(directory);
  } catch {
    // in use or not empty
  }
}

function codeOf(error: unknown): string | undefined {
  return error instanceof Error && "code" in error && typeof error.code === "string" ? error.code : undefined;
}
