/**
 * The words of `-o a,b=c`, as mount(8), fstab and people write them. A word that nobody here knows is refused: an
 * option that is silently ignored is a promise that is silently broken. Pure: text in, settings out.
 */
import { LOG_LEVELS, type LogLevel } from "../src/base/log.ts";
import { DEFAULT_TRANSPORT, TRANSPORTS, type Transport } from "../src/host/transport.ts";
import { parseRate } from "./access.ts";
import { parseBytes } from "./bytes.ts";
import { EXIT, ToolError } from "./exitcodes.ts";

export interface MountSettings {
  transport: Transport;
  readOnly: boolean;
  allowOther: boolean;
  /** Undefined: where it can make a difference. */
  defaultPermissions: boolean | undefined;
  suid: boolean;
  dev: boolean;
  exec: boolean;
  noatime: boolean;
  sync: boolean;
  writeback: boolean;
  commitIntervalMs: number;
  /** 0: never. */
  idleTimeoutMs: number;
  /** Between automatic snapshots; 0: none. */
  historyMs: number;
  /** Between looks whether there is something to be pushed; 0: none. */
  pushMs: number;
  /** Between looks whether something was pushed; 0: when it is told to. */
  pullMs: number;
  bytesPerSecond?: number;
  /** What snapshot to show: see src/core/moment.ts. */
  at?: string;
  logLevel: LogLevel;
  cacheBytes?: number;
  uid?: number;
  gid?: number;
  fsname?: string;
  passwordFile?: string;
  passwordCommand?: string;
  keyFile?: string;
  logFile?: string;
  headFile?: string;
}

export const DEFAULT_SETTINGS: Readonly<MountSettings> = {
  transport: DEFAULT_TRANSPORT,
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
};

const FLAGS: Record<string, Partial<MountSettings>> = {
  ro: { readOnly: true },
  rw: { readOnly: false },
  allow_other: { allowOther: true },
  default_permissions: { defaultPermissions: true },
  no_default_permissions: { defaultPermissions: false },
  suid: { suid: true },
  nosuid: { suid: false },
  dev: { dev: true },
  nodev: { dev: false },
  exec: { exec: true },
  noexec: { exec: false },
  noatime: { noatime: true },
  relatime: { noatime: false },
  atime: { noatime: false },
  sync: { sync: true },
  async: { sync: false },
  // Stricter than asked for, and never less.
  dirsync: { sync: true },
  writeback: { writeback: true },
};

const VALUES: Record<string, (value: string, word: string) => Partial<MountSettings>> = {
  uid: (value, word) => ({ uid: parseId(value, word) }),
  gid: (value, word) => ({ gid: parseId(value, word) }),
  fsname: (value) => ({ fsname: value }),
  commit: (value) => ({ commitIntervalMs: parseCommit(value) }),
  idle_timeout: (value) => ({ idleTimeoutMs: parseDuration(value) }),
  history: (value) => ({ historyMs: parseInterval(value) }),
  push_interval: (value) => ({ pushMs: parsePause(value, "push interval") }),
  pull_interval: (value) => ({ pullMs: parsePause(value, "pull interval") }),
  bwlimit: (value) => ({ bytesPerSecond: parseRate(value) }),
  at: (value) => ({ at: value }),
  cache_size: (value) => ({ cacheBytes: parseCacheSize(value) }),
  password_file: (value) => ({ passwordFile: value }),
  password_command: (value) => ({ passwordCommand: value }),
  key_file: (value) => ({ keyFile: value }),
  log_file: (value) => ({ logFile: value }),
  head_file: (value) => ({ headFile: value }),
  log_level: (value) => ({ logLevel: parseLogLevel(value) }),
  transport: (value) => ({ transport: parseTransport(value) }),
};

/** As they are completed; "commit=" wants a value. */
export const MOUNT_OPTION_WORDS: readonly string[] = [
  ...Object.keys(FLAGS),
  ...Object.keys(VALUES).map((name) => `${name}=`),
];

/**
 * Words of fstab that are for mount(8) and systemd, which pass some of them on; and permissions to write later, of which
 * no use is made.
 */
const IGNORED = new Set(
  "defaults auto noauto nofail _netdev user nouser users owner group lazytime nolazytime silent loud".split(
    " ",
  ),
);

/** Applies the words of each `-o`, in order, to `settings`. Throws a ToolError (usage) naming the bad word. */
export function applyMountOptions(lists: readonly string[], settings: MountSettings): void {
  for (const word of lists.flatMap((list) => list.split(","))) {
    if (word !== "") applyWord(word, settings);
  }
}

function applyWord(word: string, settings: MountSettings): void {
  const at = word.indexOf("=");
  const name = at < 0 ? word : word.slice(0, at);
  const value = at < 0 ? undefined : word.slice(at + 1);
  if (/^x-/i.test(name) || name === "comment") return;
  if (IGNORED.has(word)) return;
  if (name === "remount") {
    throw new ToolError(
      EXIT.usage,
      "-o remount: a volume cannot be remounted; unmount it and mount it again (`mount -i -o remount,ro MOUNTPOINT` makes it read-only until then)",
    );
  }
  if (Object.hasOwn(FLAGS, name)) {
    if (value !== undefined) throw new ToolError(EXIT.usage, `-o ${word}: "${name}" takes no value`);
    Object.assign(settings, FLAGS[name]);
  } else if (Object.hasOwn(VALUES, name)) {
    if (value === undefined || value === "")
      throw new ToolError(EXIT.usage, `-o ${word}: "${name}" needs a value`);
    Object.assign(settings, VALUES[name]?.(value, word));
  } else {
    throw new ToolError(EXIT.usage, `-o ${word}: unknown mount option; \`sqlfuse mount --help\` lists them`);
  }
}

function parseId(value: string, word: string): number {
  const id = /^\d{1,10}$/.test(value) ? Number(value) : Number.NaN;
  // 2^32 - 1 means "leave as it is" to chown(2) and owns nothing.
  if (!(id < 0xffff_ffff)) throw new ToolError(EXIT.usage, `-o ${word}: not a numeric user or group id`);
  return id;
}

/** Seconds, as ext4's commit=; also what --commit takes. */
export function parseCommit(value: string): number {
  const seconds = /^\d+(\.\d+)?$/.test(value) ? Number(value) : Number.NaN;
  if (!(seconds >= 0.01 && seconds <= 3600)) {
    throw new ToolError(EXIT.usage, `commit=${value}: not a number of seconds from 0.01 to 3600`);
  }
  return Math.round(seconds * 1000);
}

const UNIT_SECONDS: Record<string, number> = { "": 1, s: 1, m: 60, h: 3600 };
/** A timer of Node takes no more than 24 days. */
const LONGEST_IDLE_SECONDS = 500 * 3600;

/** What --idle-timeout takes, as milliseconds; 0: never. */
export function parseDuration(value: string): number {
  return milliseconds(value, "idle timeout");
}

/** What --history takes, as milliseconds; 0: never. */
export function parseInterval(value: string): number {
  return milliseconds(value, "history");
}

/** What --push-interval and --pull-interval take, as milliseconds; 0: never. */
export function parsePause(value: string, what: string): number {
  return milliseconds(value, what);
}

function milliseconds(value: string, what: string): number {
  const [, digits, unit = ""] = /^(\d+)([smh]?)$/.exec(value) ?? [];
  const seconds = Number(digits) * (UNIT_SECONDS[unit] ?? Number.NaN);
  if (!(seconds <= LONGEST_IDLE_SECONDS)) {
    throw new ToolError(
      EXIT.usage,
      `${what} "${value}": not a time of at most 500h, such as 90, 30s, 10m or 2h (0: never)`,
    );
  }
  return seconds * 1000;
}

/** What --cache-size takes, as bytes. */
export function parseCacheSize(value: string): number {
  return parseBytes("cache size", value, "1M", "64G", "32M");
}

function parseLogLevel(value: string): LogLevel {
  const level = LOG_LEVELS.find((one) => one === value);
  if (level === undefined)
    throw new ToolError(EXIT.usage, `-o log_level=${value}: not one of ${LOG_LEVELS.join(", ")}`);
  return level;
}

function parseTransport(value: string): Transport {
  const transport = TRANSPORTS.find((one) => one === value);
  if (transport === undefined)
    throw new ToolError(EXIT.usage, `-o transport=${value}: not one of ${TRANSPORTS.join(", ")}`);
  return transport;
}

export const MOUNT_OPTION_HELP = `Mount options (-o, separated by commas; the last word wins):
  ro, rw                  read-only; read and write (default)
  allow_other             let other users in too (not only the one who mounts)
  default_permissions     the kernel checks modes, owners and ACLs (default, but
                          for a mount that only root can enter, whom no mode
                          keeps out)
  no_default_permissions  whoever may see the mount may do anything in it
  suid, dev               honour set-user-id bits and device files (default:
                          nosuid, nodev)
  noexec                  run no programs from it (default: exec)
  noatime                 never update access times (default: relatime)
  uid=N, gid=N            show every file as owned by N
  sync                    commit each operation before it returns (slow)
  commit=SECONDS          commit at most this long after a change (default: 1)
  writeback               let the kernel gather writes: much faster for tiny
                          ones, but a crash loses what was not fsynced of any
                          age, and out of order
  idle_timeout=DURATION   as --idle-timeout
  history=DURATION        as --history
  push_interval=DURATION  as --push-interval
  pull_interval=DURATION  as --pull-interval
  bwlimit=RATE            as --bwlimit
  at=SNAPSHOT             as --at; in fstab \\040 for a space
  cache_size=BYTES        as --cache-size
  fsname=NAME             shown in /proc/mounts (default: the file)
  password_file=FILE      as --password-file
  password_command=CMD    as --password-command; no commas, and in fstab \\040
                          for a space
  key_file=FILE           as --key-file
  head_file=FILE          as --head-file
  log_file=FILE           as --log-file
  log_level=LEVEL         as --log-level
  transport=NAME          as --transport
  auto, noauto, nofail, user, users, owner, group, defaults, _netdev, comment=
  and x-... belong to mount(8): they are ignored here, as is lazytime; dirsync
  is taken as sync`;
