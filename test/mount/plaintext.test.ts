/**
 * The hunt for plaintext: names, contents, attributes, targets of links and passwords are put into a volume through a
 * mount in the background, and then searched in everything that any process of ours wrote, has open, or shows in
 * /proc: while its changes are in the -wal, after kill -9, after an unmount, and around every tool.
 */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { unlock } from "../../src/core/unlock.ts";
import { Database } from "../../src/db/database.ts";
import { filesBelow, Hunt, ofProcess } from "../helpers/hunt.ts";
import { sys } from "../helpers/libc.ts";
import { canTrace } from "../helpers/strace.ts";
import { onTerminal } from "../helpers/terminal.ts";
import {
  CLI,
  IS_ROOT,
  isAlive,
  lockHolder,
  mountingImpossible,
  runCli,
  TestVolume,
  until,
} from "../helpers/volume.ts";

const impossible = mountingImpossible();
if (impossible !== undefined) console.warn(`no hunt for plaintext: ${impossible}`);

const DIRECTORIES = 25;
const FILES = 60;
/** Enough to be killed in the middle of a copy of it. */
const LARGE_BYTES = 20_000_000;

let home: string;
/** What is searched: the volume's directory and every place for temporary files, state and sockets. */
let searched: string[];
let file: string;
let mountpoint: string;
let log: string;
let hunt: Hunt;
let password: string;
let newPassword: string;
const started: ChildProcess[] = [];

beforeAll(() => {
  home = mkdtempSync(join(tmpdir(), "plaintext-"));
  searched = ["volume", "tmp", "state", "run"].map((name) => join(home, name));
  for (const directory of [...searched, join(home, "secret"), join(home, "mnt")])
    mkdirSync(directory, { mode: 0o700 });
  file = join(home, "volume", "v");
  mountpoint = join(home, "mnt");
  log = join(home, "state", "log");
  hunt = new Hunt(join(home, "secret", "halves"));
  password = randomBytes(12).toString("hex");
  newPassword = randomBytes(12).toString("hex");
  const key = randomBytes(32);
  for (const [name, bytes] of [
    ["old", Buffer.from(password)],
    ["new", Buffer.from(newPassword)],
    ["key", key],
  ] as const) {
    writeFileSync(secret(name), bytes, { mode: 0o600 });
    hunt.secret(`the password "${name}"`, bytes);
  }
});
afterEach(() => {
  for (const child of started.splice(0)) child.kill("SIGKILL");
});
afterAll(async () => {
  const pid = lockHolder(file);
  if (pid !== undefined && pid !== process.pid) {
    process.kill(pid, "SIGKILL");
    await until("the mount to end", () => !isAlive(pid));
  }
  if (IS_ROOT) spawnSync("umount", ["-lq", mountpoint]);
  else spawnSync("fusermount3", ["-uzq", mountpoint]);
  rmSync(home, { recursive: true, force: true });
});

function secret(name: "old" | "new" | "key"): string {
  return join(home, "secret", name);
}

/** Every place that a program may choose for files of its own is one that is searched. */
function environment(more: Record<string, string> = {}): NodeJS.ProcessEnv {
  const [, tmp = "", state = "", run = ""] = searched;
  const env = {
    ...process.env,
    TMPDIR: tmp,
    SQLITE_TMPDIR: tmp,
    HOME: state,
    XDG_STATE_HOME: state,
    XDG_RUNTIME_DIR: run,
  };
  delete (env as NodeJS.ProcessEnv).SQLFUSE_PASSWORD;
  return { ...env, ...more };
}

interface Given {
  readonly args?: readonly string[];
  readonly env?: Record<string, string>;
  readonly input?: string;
  /** Becomes descriptor 3. */
  readonly fd?: string;
}

/** Runs it to its end, which must be one of `codes`; gives what it printed. */
function sqlfuse(
  args: readonly string[],
  { args: more = [], env, input = "", fd }: Given,
  ...codes: number[]
): string {
  const descriptor = fd === undefined ? undefined : openSync(fd, "r");
  const done = spawnSync(process.execPath, [CLI, ...args, ...more], {
    env: environment(env),
    input,
    encoding: "utf8",
    maxBuffer: 1 << 28,
    timeout: 60_000,
    stdio: ["pipe", "pipe", "pipe", ...(descriptor === undefined ? [] : [descriptor])],
  });
  if (descriptor !== undefined) closeSync(descriptor);
  if (!(codes.length === 0 ? [0] : codes).includes(done.status ?? -1))
    throw new Error(
      `${args.join(" ")} ended with ${done.status ?? done.signal}: ${done.stdout}${done.stderr}`,
    );
  return done.stdout;
}

function by(name: "old" | "new" | "key"): Given {
  return { args: [name === "key" ? "--key-file" : "--password-file", secret(name)] };
}

function mount(given: Given): number {
  sqlfuse(["mount", "--log-file", log, file, mountpoint], given);
  const pid = lockHolder(file);
  if (pid === undefined) throw new Error("mounted, and nobody holds the file");
  return pid;
}

function unmount(): void {
  sqlfuse(["unmount", mountpoint], {});
}

/** Nothing is found in any file, name, open descriptor or argument list; `input` is what the process was told to read. */
function expectNothing(pid?: number, input?: string): void {
  const below = searched.map(filesBelow);
  const places = below.flatMap(({ files }) => files);
  if (pid !== undefined) places.push(...ofProcess(pid).filter(({ name }) => name !== input));
  expect(places.map(({ name }) => name)).toContain(file);
  const names = join(home, "secret", "names");
  writeFileSync(names, below.flatMap((one) => one.names).join("\n"));
  expect(hunt.search([...places, { name: "the name of a file", path: names }])).toEqual([]);
}

/** Names, contents of all kinds, links and attributes; some of them removed, renamed or written over again. */
function fill(): void {
  for (let d = 0; d < DIRECTORIES; d++) {
    const directory = join(mountpoint, hunt.canary());
    mkdirSync(directory);
    sys.setxattr(directory, `user.${hunt.canary()}`, hunt.canary());
    for (let f = 0; f < FILES; f++) {
      const path = join(directory, hunt.canary());
      writeFileSync(path, hunt.canary());
      if (f % 5 === 0) sys.symlink(hunt.canary(), join(directory, hunt.canary()));
      if (f % 5 === 1) sys.setxattr(path, `user.${hunt.canary()}`, hunt.canary().repeat(f));
      if (f % 5 === 2) writeFileSync(path, hunt.canary());
      if (f % 5 === 3) sys.rename(path, join(directory, hunt.canary()));
      if (f % 5 === 4) sys.unlink(path);
    }
  }
  writeFileSync(join(mountpoint, "compressible"), hunt.canary().repeat(50_000));
  const noise = randomBytes(LARGE_BYTES);
  for (let at = 0; at < noise.length - 100; at += 100_000) noise.write(hunt.canary(), at);
  writeFileSync(join(mountpoint, "noise"), noise);
  const fd = openSync(join(mountpoint, "sparse"), "w");
  writeSync(fd, hunt.canary(), 1_000_000_007);
  closeSync(fd);
}

/** Starts it, holds it still when it has written some of its draft, looks, kills it and looks again. */
async function killHalfway(args: readonly string[], given: Given, input?: string): Promise<void> {
  const before = new Set(readdirSync(join(home, "volume")));
  const isHalfway = (): boolean =>
    readdirSync(join(home, "volume")).some(
      (name) =>
        !before.has(name) &&
        (statSync(join(home, "volume", name), { throwIfNoEntry: false })?.size ?? 0) > LARGE_BYTES / 4,
    );
  const child = spawn(process.execPath, [CLI, ...args, ...(given.args ?? [])], {
    env: environment(),
    stdio: "ignore",
  });
  started.push(child);
  const { pid } = child;
  if (pid === undefined) throw new Error("not started");
  while (!isHalfway() && child.exitCode === null) await new Promise((resolve) => setTimeout(resolve, 1));
  expect(child.exitCode, "it ended before it could be held").toBe(null);
  child.kill("SIGSTOP");
  expectNothing(pid, input);
  child.kill("SIGKILL");
  await until("it to be gone", () => child.signalCode !== null);
  expectNothing();
}

describe.skipIf(impossible !== undefined)(
  "no plaintext is found in any file, nor in /proc,",
  { timeout: 180_000 },
  () => {
    test("of a mount whose changes are in the -wal, that is killed, mounted again and unmounted", async () => {
      sqlfuse(["create", file], by("old"));
      const pid = mount(by("old"));
      fill();
      expect(hunt.count).toBeGreaterThan(4000);
      sqlfuse(["sync", mountpoint], {});
      expect(statSync(`${file}-wal`).size).toBeGreaterThan(1_000_000);
      sqlfuse(["status"], {});
      expectNothing(pid);

      process.kill(pid, "SIGKILL");
      await until("the mount to be gone", () => !isAlive(pid));
      expect(existsSync(`${file}-wal`)).toBe(true);
      expectNothing();

      mount(by("old"));
      unmount();
      expect(existsSync(`${file}-wal`)).toBe(false);
      expectNothing();
    });

    test.each([
      ["a file", () => by("old")],
      ["a command", () => ({ args: ["--password-command", `cat ${secret("old")}`] })],
      ["a descriptor", () => ({ args: ["--password-fd", "3"], fd: secret("old") })],
      ["stdin", () => ({ args: ["--password-file", "-"], input: password })],
      ["the environment", () => ({ env: { SQLFUSE_PASSWORD: password } })],
    ])("of a mount with its password from %s", (_, given: () => Given) => {
      const pid = mount(given());
      writeFileSync(join(mountpoint, hunt.canary()), hunt.canary());
      expectNothing(pid);
      unmount();
      expectNothing();
    });

    test("of a mount whose password was typed", async () => {
      const env = Object.fromEntries(
        Object.entries(environment()).filter((one): one is [string, string] => one[1] !== undefined),
      );
      const { code } = await onTerminal(
        ["mount", "--log-file", log, file, mountpoint],
        [["Password for", `${password}\r`]],
        { env },
      );
      expect(code).toBe(0);
      const pid = lockHolder(file);
      expectNothing(pid);
      unmount();
    });

    test("beside a dump of a mount", () => {
      const pid = mount(by("old"));
      expect(sqlfuse(["dump", "--no-data", file], by("old"))).toContain("path=");
      expectNothing(pid);
      sqlfuse(["get", file, "/compressible", join(home, "got")], by("old"));
      expectNothing(pid);
      unmount();
    });

    test("of a repair in the file, and of one by a copy, killed halfway and done", async () => {
      const key = unlock(file, Buffer.from(password));
      const db = new Database(file, key, { mode: "readwrite" });
      db.exec("UPDATE inode SET nlink = 7 WHERE size > 10000");
      db.close();
      key.wipe();
      // What it prints names what is damaged, as it should.
      sqlfuse(["fsck", "--repair", file], by("old"), 1);
      expectNothing();

      const fd = openSync(file, "r+");
      writeSync(fd, "damage", Math.floor(statSync(file).size / 2));
      closeSync(fd);
      sqlfuse(["fsck", file], by("old"), 4);
      expectNothing();
      await killHalfway(["fsck", "--repair", file], by("old"));
      sqlfuse(["fsck", "--repair", file], by("old"), 1);
      expect(readdirSync(join(home, "volume")).filter((name) => name.startsWith("v.damaged-"))).toHaveLength(
        1,
      );
      expectNothing();
    });

    test("of vacuum and rekey, killed halfway and done", async () => {
      await killHalfway(["vacuum", file], by("old"));
      sqlfuse(["vacuum", file], by("old"));
      expectNothing();
      const rekey = ["rekey", "--new-password-file", secret("new"), file];
      await killHalfway(rekey, by("old"));
      sqlfuse(rekey, by("old"));
      expectNothing();
      sqlfuse(["rekey", "--new-key-file", secret("key"), file], by("new"));
      expectNothing();
    });

    test("of a mount by a key file, and of files that are put, listed and removed without one", () => {
      const pid = mount(by("key"));
      expectNothing(pid);
      unmount();
      const name = hunt.canary();
      sqlfuse(["put", file, "-", `/${name}`], { ...by("key"), input: hunt.canary() });
      expect(sqlfuse(["ls", file], by("key"))).toContain(name);
      sqlfuse(["rm", file, `/${name}`], by("key"));
      expectNothing();
    });

    test("of a load from a dump, until it is killed and when it is done", async () => {
      const dump = join(home, "dump");
      sqlfuse(["dump", "-o", dump, file], by("key"));
      const copy = join(home, "volume", "copy");
      await killHalfway(["load", copy, dump], by("new"), dump);
      sqlfuse(["load", copy, dump], by("new"));
      expectNothing();
      rmSync(copy);
    });

    test("but the search finds it where it stands: in a dump, and all names in a log with --trace, but no password", () => {
      const dump = { name: "dump", path: join(home, "dump") };
      expect(hunt.search([dump])).toContain("dump: half a canary");
      // Contents are in it as base64.
      expect(hunt.search([dump]).join("\n")).toMatch(/a canary, base64 after 0 bytes/);
      const traced = join(home, "traced");
      sqlfuse(["mount", "--trace", "--log-file", traced, file, mountpoint], by("key"));
      writeFileSync(join(mountpoint, hunt.canary()), "");
      unmount();
      expect(hunt.search([{ name: "log", path: traced }])).toEqual([
        expect.stringMatching(/^log: a canary, as it is, at \d+$/),
        "log: half a canary",
      ]);
      const spelled = join(home, "spelled");
      for (const text of [password, readFileSync(secret("key"))]) {
        const bytes = Buffer.from(text);
        for (const spelling of [
          bytes,
          Buffer.from(bytes.toString("latin1"), "utf16le"),
          bytes.toString("hex"),
          bytes.toString("base64"),
        ]) {
          writeFileSync(spelled, spelling);
          expect(hunt.search([{ name: "spelled", path: spelled }])).not.toEqual([]);
        }
      }
    });
  },
);

/** What a traced process opened to write, made or renamed. */
function written(trace: string): string[] {
  const lines = readFileSync(trace, "utf8").split("\n");
  return lines
    .filter(
      (line) => / = \d+$/.test(line) && (!line.includes("openat(") || /O_(WRONLY|RDWR|CREAT)/.test(line)),
    )
    .flatMap((line) =>
      line.includes("memfd_create")
        ? ["memory"]
        : [...line.matchAll(/"([^"]*)"/g)].map(([, path]) => path ?? ""),
    );
}

// A mount of an unprivileged user needs a setuid program, which cannot be traced.
const untraceable = impossible ?? (canTrace && IS_ROOT ? undefined : "needs root and strace");
if (untraceable !== undefined) console.warn(`where files are made is not traced: ${untraceable}`);

test.skipIf(untraceable !== undefined)(
  "no command makes a file anywhere but where was searched",
  async () => {
    const calls =
      "trace=openat,creat,memfd_create,mkdir,mkdirat,rename,renameat,renameat2,link,linkat,symlink,symlinkat";
    const trace = join(home, "secret", "trace");
    const volume = join(home, "volume", "w");
    const seen: string[] = [];
    const traced = async (
      args: readonly string[],
      given: Given,
      meanwhile = async () => {},
    ): Promise<void> => {
      const line = [
        "-f",
        "-qq",
        "-e",
        calls,
        "-o",
        trace,
        process.execPath,
        CLI,
        ...args,
        ...(given.args ?? []),
      ];
      const child = spawn("strace", line, { env: environment(), stdio: "ignore" });
      started.push(child);
      const ended = new Promise((resolve) => child.once("exit", resolve));
      await meanwhile();
      expect([args[0], await ended]).toEqual([args[0], 0]);
      seen.push(...written(trace));
    };
    await traced(["create", volume], by("old"));
    await traced(["mount", "--log-file", log, volume, mountpoint], by("old"), async () => {
      await until("it to be mounted", () => existsSync(mountpoint) && statSync(mountpoint).ino === 1);
      for (let i = 0; i < 200; i++) writeFileSync(join(mountpoint, `${i}`), Buffer.alloc(100_000, i));
      unmount();
    });
    await traced(["fsck", "--verify-data", volume], by("old"));
    await traced(["vacuum", volume], by("old"));
    await traced(["rekey", "--new-password-file", secret("new"), volume], by("old"));
    await traced(["dump", volume], by("new"));
    await traced(["ls", "-R", volume], by("new"));
    const allowed = [
      ...searched,
      mountpoint,
      "/proc/",
      "/sys/class/bdi/",
      "/dev/null",
      "/dev/fuse",
      "/dev/tty",
      "/dev/urandom",
    ];
    expect(seen).toContain(`${volume}-wal`);
    expect(seen.filter((path) => !allowed.some((place) => path.startsWith(place)))).toEqual([]);
  },
);

/** A user whom /dev/fuse and the repository let in. */
const NOBODY = { uid: 65_534, gid: 65_534 };
const nobodyCannot =
  impossible ??
  mountingImpossible(IS_ROOT ? NOBODY : undefined) ??
  (IS_ROOT && runCli(["--version"], { owner: NOBODY }).status !== 0
    ? "it may not read the repository"
    : undefined);
if (nobodyCannot !== undefined)
  console.warn(`core dumps of an ordinary user are not tested: ${nobodyCannot}`);

describe("a mount leaves no core dump:", () => {
  test.skipIf(impossible !== undefined)("its limit is 0", () => {
    const volume = TestVolume.create();
    try {
      volume.mount();
      expect(readFileSync(`/proc/${volume.pid}/limits`, "utf8")).toMatch(/^Max core file size +0 +0 +bytes/m);
    } finally {
      volume.remove();
    }
  });

  test.skipIf(nobodyCannot !== undefined)(
    "its own user can neither trace it nor read its environment and memory",
    () => {
      const volume = TestVolume.create(IS_ROOT ? { owner: NOBODY } : {});
      try {
        volume.mount();
        // The kernel gives the files of a process that cannot be dumped to root.
        for (const name of ["environ", "mem", "maps"])
          expect(statSync(`/proc/${volume.pid}/${name}`).uid).toBe(0);
      } finally {
        volume.remove();
      }
    },
  );
});
