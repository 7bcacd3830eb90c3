/**
 * Round trip of an empty LOOKUP: this transport against a loop of blocking reads, in one run.
 *
 *   node dist/tools/dev/lookup.js [LOOKUPS]
 *
 * The same session serves both; only the descriptor differs (without O_NONBLOCK a read sleeps in the kernel,
 * so that the session never finds the device empty and never spins). Names differ from one lookup to the
 * next, since the kernel would remember the absence of one. Needs root.
 *
 * Caller and server are pinned to two processors. Left to the scheduler they share one now and then; a round
 * trip is short then whatever the server does, as nobody is woken from an idle processor.
 */
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { type Attr, ROOT_INO } from "../../src/core/types.ts";
import { Connection } from "../../src/fuse/device.ts";
import type { ServedVolume } from "../../src/fuse/server.ts";
import { Session } from "../../src/fuse/session.ts";
import { eventfd, mount, O_NONBLOCK, O_RDONLY, O_RDWR, open, umount2 } from "../../src/native/libc.ts";

const ROOT: Attr = {
  ino: ROOT_INO,
  mode: 0o40755,
  nlink: 2,
  uid: 0,
  gid: 0,
  rdev: 0,
  size: 0,
  blockSize: 4096,
  blocks: 0,
  atimeSec: 0,
  atimeNsec: 0,
  mtimeSec: 0,
  mtimeNsec: 0,
  ctimeSec: 0,
  ctimeNsec: 0,
  btimeSec: 0,
  btimeNsec: 0,
  generation: 0,
};

/** A volume in which there is nothing. */
const EMPTY = {
  tree: { lookup: () => undefined },
  attributes: { getattr: () => ROOT },
  xattrs: { get: () => undefined },
  inodes: { unref: () => {}, references: 0 },
  finish: () => {},
  idle: () => Number.POSITIVE_INFINITY,
  uncommittedMs: () => 0,
  failed: false,
};

const SELF = fileURLToPath(import.meta.url);
const PINNED = "--pinned";
const SERVE = "--serve";

/** The other side, in a process of its own: mounts, says so, and serves until it is unmounted. */
function serve(mountpoint: string, kind: string): void {
  const fd = open("/dev/fuse", O_RDWR | (kind === "spinning" ? O_NONBLOCK : 0));
  if (fd < 0) throw new Error(`cannot open /dev/fuse: errno ${-fd}`);
  const mounted = mount(
    "lookup",
    mountpoint,
    "fuse.sqlfuse",
    0,
    `fd=${fd},rootmode=40000,user_id=0,group_id=0`,
  );
  if (mounted < 0) throw new Error(`cannot mount: errno ${-mounted}`);
  process.send?.("serving", undefined, undefined, () => {
    new Session(new Connection(fd, eventfd()), EMPTY as unknown as ServedVolume).run();
    process.exit(0);
  });
}

/** Microseconds of each lookup, sorted. */
async function measure(kind: string, lookups: number): Promise<number[]> {
  const mountpoint = mkdtempSync(join(tmpdir(), "sqlfuse-lookup-"));
  const server = spawn("taskset", ["-c", "1", process.execPath, SELF, SERVE, mountpoint, kind], {
    stdio: ["ignore", "inherit", "inherit", "ipc"],
  });
  const ended = once(server, "exit");
  await Promise.race([once(server, "message"), ended]);
  const samples: number[] = [];
  for (let i = 0; i < lookups; i++) {
    const path = `${mountpoint}/n${i}`;
    const from = process.hrtime.bigint();
    open(path, O_RDONLY);
    samples.push(Number(process.hrtime.bigint() - from) / 1000);
  }
  umount2(mountpoint, 0);
  await ended;
  rmdirSync(mountpoint);
  return samples.sort((a, b) => a - b);
}

async function main(lookups: number): Promise<void> {
  const medians: Record<string, number[]> = { blocking: [], spinning: [] };
  // Alternating, so that a busy moment of the machine strikes both.
  for (let round = 0; round < 3; round++) {
    for (const [kind, known] of Object.entries(medians)) {
      const samples = await measure(kind, lookups);
      const median = samples[samples.length >> 1] ?? 0;
      const p99 = samples[Math.floor(samples.length * 0.99)] ?? 0;
      known.push(median);
      console.log(`${kind}: median ${median.toFixed(1)} us, p99 ${p99.toFixed(1)} us`);
    }
  }
  const [blocking = 0, spinning = 0] = Object.values(medians).map((known) => known.sort((a, b) => a - b)[1]);
  console.log(
    `spinning takes ${((100 * spinning) / blocking).toFixed(0)} % of blocking (target: at most 50 %)`,
  );
}

const [word = "", mountpoint = "", kind = ""] = process.argv.slice(2);
if (word === SERVE) serve(mountpoint, kind);
else if (word === PINNED) await main(Number(mountpoint));
else spawnSync("taskset", ["-c", "0", process.execPath, SELF, PINNED, word || "20000"], { stdio: "inherit" });
