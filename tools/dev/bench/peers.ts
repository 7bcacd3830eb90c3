/** The filesystems that the benchmark compares: how each is made, mounted and taken down again. */
import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const PASSWORD = "benchmark";
const CLI = fileURLToPath(new URL("../../cli.js", import.meta.url));

export interface Peer {
  readonly name: string;
  /** Program that must be installed; undefined: nothing. */
  readonly needs?: string;
  /** Its fsync is known not to reach the disk (it issues no flush): rows that measure syncing do not count. */
  readonly flushes: boolean;
  /** Makes an empty store below `directory`. */
  create(directory: string): void;
  /** Mounts the store at `directory`/mnt, which exists. */
  mount(directory: string): void;
  unmount(directory: string): void;
  /** Makes everything durable, as its users would. */
  sync(directory: string): void;
  /** What it stores below `directory`: a file or a directory. */
  stored(directory: string): string;
}

/** Runs a program that may leave a daemon behind: a pipe that the daemon keeps open would never end. */
function run(command: string, parameters: readonly string[], input = ""): void {
  const env = { ...process.env, SQLFUSE_PASSWORD: PASSWORD, CRYFS_FRONTEND: "noninteractive" };
  execFileSync(command, parameters, { input, env, stdio: ["pipe", "ignore", "ignore"] });
}

function passwordFile(directory: string): string {
  const file = join(directory, "password");
  writeFileSync(file, `${PASSWORD}\n`);
  return file;
}

const store = (directory: string) => join(directory, "store");
export const mountOf = (directory: string) => join(directory, "mnt");

function fusermount(directory: string): void {
  // A peer that is still writing answers "busy" for a moment.
  for (let attempt = 0; ; attempt++) {
    const { status } = spawnSync("fusermount3", ["-u", mountOf(directory)]);
    if (status === 0) break;
    if (attempt === 50) throw new Error(`cannot unmount ${mountOf(directory)}`);
    spawnSync("sleep", ["0.1"]);
  }
}

/** Bytes that what a peer stores takes on the disk. */
export function storedBytes(peer: Peer, directory: string): number {
  return Number(
    execFileSync("du", ["-s", "-B1", peer.stored(directory)], { encoding: "utf8" }).split("\t")[0],
  );
}

/** Resident memory of the processes that serve a mount, in bytes; 0 for a plain directory. */
export function memoryBytes(directory: string): number {
  const served = mountOf(directory);
  let bytes = 0;
  for (const pid of readdirSync("/proc").filter(
    (name) => /^\d+$/.test(name) && Number(name) !== process.pid,
  )) {
    try {
      if (!readFileSync(`/proc/${pid}/cmdline`, "latin1").split("\0").includes(served)) continue;
      const [, kib = "0"] = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "latin1")) ?? [];
      bytes += Number(kib) * 1024;
    } catch {
      // It ended meanwhile.
    }
  }
  return bytes;
}

const syncf = (directory: string) => run("sync", ["-f", mountOf(directory)]);

const plain: Peer = {
  name: "plain",
  flushes: true,
  create: (directory) => mkdirSync(mountOf(directory)),
  mount: () => {},
  unmount: () => {},
  sync: syncf,
  stored: mountOf,
};

const sqlfuse: Peer = {
  name: "sqlfuse",
  flushes: true,
  create(directory) {
    run(process.execPath, [CLI, "create", join(directory, "volume.sqlite")]);
    mkdirSync(mountOf(directory));
  },
  mount: (directory) =>
    run(process.execPath, [CLI, "mount", join(directory, "volume.sqlite"), mountOf(directory)]),
  unmount: (directory) => run(process.execPath, [CLI, "unmount", mountOf(directory)]),
  sync: (directory) => run(process.execPath, [CLI, "sync", mountOf(directory)]),
  stored: (directory) => join(directory, "volume.sqlite"),
};

/** The same by the second transport: measured where it is named, as it is no rival. */
const sqlfuseByLibfuse: Peer = {
  ...sqlfuse,
  name: "sqlfuse-fuse-native",
  mount: (directory) =>
    run(process.execPath, [
      CLI,
      "mount",
      "--transport=fuse-native",
      join(directory, "volume.sqlite"),
      mountOf(directory),
    ]),
};

const gocryptfs: Peer = {
  name: "gocryptfs",
  needs: "gocryptfs",
  flushes: true,
  create(directory) {
    mkdirSync(store(directory));
    mkdirSync(mountOf(directory));
    run("gocryptfs", ["-q", "-init", "-nosyslog", "-passfile", passwordFile(directory), store(directory)]);
  },
  mount: (directory) =>
    run("gocryptfs", [
      "-q",
      "-nosyslog",
      "-passfile",
      passwordFile(directory),
      store(directory),
      mountOf(directory),
    ]),
  unmount: fusermount,
  sync: syncf,
  stored: store,
};

const securefs: Peer = {
  name: "securefs",
  needs: "securefs",
  flushes: true,
  create(directory) {
    mkdirSync(store(directory));
    mkdirSync(mountOf(directory));
    run("securefs", ["create", "--pass", PASSWORD, store(directory)]);
  },
  mount: (directory) =>
    run("securefs", ["mount", "-b", "--pass", PASSWORD, store(directory), mountOf(directory)]),
  unmount: fusermount,
  sync: syncf,
  stored: store,
};

const encfs: Peer = {
  name: "encfs",
  needs: "encfs",
  flushes: true,
  create(directory) {
    mkdirSync(store(directory));
    mkdirSync(mountOf(directory));
    run("encfs", ["--standard", "--stdinpass", store(directory), mountOf(directory)], `${PASSWORD}\n`);
    fusermount(directory);
  },
  mount: (directory) => run("encfs", ["--stdinpass", store(directory), mountOf(directory)], `${PASSWORD}\n`),
  unmount: fusermount,
  sync: syncf,
  stored: store,
};

const cryfs: Peer = {
  name: "cryfs",
  needs: "cryfs",
  flushes: false,
  create(directory) {
    mkdirSync(store(directory));
    mkdirSync(mountOf(directory));
    this.mount(directory);
    this.unmount(directory);
  },
  mount: (directory) => run("cryfs", [store(directory), mountOf(directory)], `${PASSWORD}\n`),
  unmount: fusermount,
  sync: syncf,
  stored: store,
};

const PEERS: readonly Peer[] = [sqlfuse, sqlfuseByLibfuse, gocryptfs, securefs, encfs, cryfs, plain];

/** The peers called `names` (where none is named all but the second transport) that are installed, and those that are not. */
export function findPeers(names: readonly string[]): { found: Peer[]; missing: string[] } {
  const unknown = names.filter((name) => !PEERS.some((peer) => peer.name === name));
  if (unknown.length > 0) throw new Error(`no such peer: ${unknown.join(", ")}`);
  const wanted = PEERS.filter((peer) =>
    names.length === 0 ? peer !== sqlfuseByLibfuse : names.includes(peer.name),
  );
  const paths = (process.env.PATH ?? "").split(":");
  const there = ({ needs }: Peer) =>
    needs === undefined || paths.some((path) => existsSync(join(path, needs)));
  return {
    found: wanted.filter(there),
    missing: wanted.filter((peer) => !there(peer)).map(({ name }) => name),
  };
}
