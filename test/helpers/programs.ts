/** Programs that tests run as one user or another, and what a tree looks like to them. */
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import type { Owner } from "./volume.ts";

export interface Run {
  readonly cwd: string;
  readonly owner?: Owner | undefined;
  readonly env?: Record<string, string>;
  readonly input?: string;
  readonly timeoutMs?: number;
}

/** Runs a program that must succeed; gives what it printed. */
export function run(command: string, args: readonly string[], options: Run): string {
  // The child enters the directory itself, after it became the owner: even root may not look into the mount of
  // an unprivileged user.
  const done = spawnSync("sh", ["-c", 'cd "$0" && exec "$@"', options.cwd, command, ...args], {
    cwd: "/",
    input: options.input ?? "",
    encoding: "utf8",
    timeout: options.timeoutMs ?? 120_000,
    killSignal: "SIGKILL",
    maxBuffer: 1 << 28,
    env: {
      PATH: process.env.PATH ?? "/usr/bin:/bin",
      LC_ALL: "C",
      HOME: options.cwd,
      TMPDIR: "/tmp",
      GIT_CONFIG_GLOBAL: "/dev/null",
      GIT_CONFIG_NOSYSTEM: "1",
      GIT_AUTHOR_NAME: "A U Thor",
      GIT_AUTHOR_EMAIL: "author@example.com",
      GIT_COMMITTER_NAME: "A U Thor",
      GIT_COMMITTER_EMAIL: "author@example.com",
      ...options.env,
    },
    ...(options.owner === undefined ? {} : { uid: options.owner.uid, gid: options.owner.gid }),
  });
  if (done.error !== undefined) throw new Error(`${command}: ${done.error.message}`);
  if (done.status !== 0) {
    const said = `${done.stdout}${done.stderr}`.slice(-4000);
    throw new Error(
      `${command} ${args.slice(0, 6).join(" ").slice(0, 200)}: ${done.signal ?? done.status}\n${said}`,
    );
  }
  return done.stdout;
}

export function python(program: string, args: readonly string[], options: Run): string {
  return run("python3", ["-IS", "-c", program, ...args], options);
}

export function hasProgram(name: string): boolean {
  return spawnSync("sh", ["-c", `command -v ${name}`]).status === 0;
}

/**
 * One line for each inode below argv[1]: all that must survive. "settle" reads everything first, so that relatime
 * has nothing left to change; "look" stats before it reads. Of huge files the data segments are hashed.
 */
const SNAPSHOT = `
import hashlib, os, stat, sys
root = os.fsencode(sys.argv[1]); settle = sys.argv[2] == "settle"
paths = []
def walk(path):
    paths.append(path)
    if stat.S_ISDIR(os.lstat(path).st_mode):
        for name in sorted(os.listdir(path)): walk(path + b"/" + name)
sys.setrecursionlimit(5000)
if settle: walk(root)
def content(path, s):
    if stat.S_ISLNK(s.st_mode): return "-> " + os.readlink(path).hex()
    if not stat.S_ISREG(s.st_mode): return "rdev %d" % s.st_rdev
    h = hashlib.sha256()
    fd = os.open(path, os.O_RDONLY)
    try:
        if s.st_size > 1 << 26:
            at = 0
            while True:
                try: at = os.lseek(fd, at, os.SEEK_DATA)
                except OSError: break
                end = os.lseek(fd, at, os.SEEK_HOLE)
                while at < end:
                    d = os.pread(fd, min(1 << 20, end - at), at)
                    if d.strip(b"\\0"): h.update(b"%d:" % at + d)
                    at += len(d)
        else:
            while True:
                d = os.read(fd, 1 << 20)
                if not d: break
                h.update(d)
    finally: os.close(fd)
    return h.hexdigest()
def xattrs(path):
    return sorted((n, os.getxattr(path, n, follow_symlinks=False).hex()) for n in os.listxattr(path, follow_symlinks=False))
if settle:
    for p in paths:
        s = os.lstat(p)
        if stat.S_ISREG(s.st_mode) or stat.S_ISLNK(s.st_mode): content(p, s)
else:
    def collect(path):
        s = os.lstat(path); paths.append((path, s))
        if stat.S_ISDIR(s.st_mode):
            for name in sorted(os.listdir(path)): collect(path + b"/" + name)
    collect(root)
if settle: paths = [(p, os.lstat(p)) for p in paths]
for p, s in paths:
    print(p[len(root):].hex() or "-", oct(s.st_mode), s.st_uid, s.st_gid, s.st_nlink,
        0 if stat.S_ISDIR(s.st_mode) else s.st_size, s.st_ino, s.st_mtime_ns, s.st_ctime_ns, s.st_atime_ns, content(p, s), xattrs(p))
`;

/** What is below `path`: a line for each name, by the hex of the name. Take it with "settle" before, and with "look" afterwards. */
export function snapshot(
  path: string,
  how: "settle" | "look",
  owner: Owner | undefined,
): Map<string, string> {
  const lines = python(SNAPSHOT, [path, how], { cwd: "/", owner, timeoutMs: 200_000 }).trim().split("\n");
  return new Map(
    lines.map((line) => {
      const end = line.indexOf(" ");
      return [line.slice(0, end), line.slice(end + 1)];
    }),
  );
}

/** The first differences between two snapshots, as text; empty when they are equal. */
export function differences(before: Map<string, string>, after: Map<string, string>): string[] {
  const shown = (path: string): string => JSON.stringify(Buffer.from(path, "hex").toString("latin1"));
  const found: string[] = [];
  for (const [path, line] of before) {
    const now = after.get(path);
    if (now === undefined) found.push(`${shown(path)} is gone`);
    else if (now !== line) found.push(`${shown(path)}\n  was ${line}\n  is  ${now}`);
  }
  for (const path of after.keys()) if (!before.has(path)) found.push(`${shown(path)} is new`);
  return found;
}

const STORE = `
import mmap, sys
with open(sys.argv[1], "r+b") as file:
    mapped = mmap.mmap(file.fileno(), 0)
    mapped[0:6] = b"MAPPED"
    print("stored", flush=True)
    sys.stdin.readline()
`;

/** Stores MAPPED at the begin of a file through a shared mapping, without msync. It stays mapped until what this gives is called. */
export async function storeMapped(file: string): Promise<() => Promise<void>> {
  const storer = spawn("python3", ["-c", STORE, file], { stdio: ["pipe", "pipe", "inherit"] });
  await once(storer.stdout, "data");
  return async () => {
    storer.stdin.end("\n");
    await once(storer, "close");
  };
}
