/**
 * Round trip of an empty LOOKUP: this transport against a loop of blocking reads, in one run.
 *
 *   node dist/tools/dev/lookup.js [LOOKUPS]
 *
 * The same session serves both; only the descriptor differs (without O_NONBLOCK a read sleeps in the kernel,
 * so that the session never finds the device empty and never spins). Names differ from one lookup to the
 * next, since the kernel would remember the absence of one. Needs root.
 */
import { mkdtempSync, rmdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { isMainThread, Worker, workerData } from "node:worker_threads";
import { type Attr, ROOT_INO } from "../../src/core/types.ts";
import { Connection } from "../../src/fuse/device.ts";
import type { ServedVolume } from "../../src/fuse/server.ts";
import { Session } from "../../src/fuse/session.ts";
import { close, eventfd, mount, O_NONBLOCK, O_RDONLY, O_RDWR, open, umount2 } from "../../src/native/libc.ts";

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
  idle: () => Number.POSITIVE_INFINITY,
  uncommittedMs: () => 0,
  failed: false,
};

async function measure(nonBlocking: boolean, lookups: number): Promise<number[]> {
  const mountpoint = mkdtempSync(join(tmpdir(), "sqlfuse-lookup-"));
  const fd = open("/dev/fuse", O_RDWR | (nonBlocking ? O_NONBLOCK : 0));
  if (fd < 0) throw new Error(`cannot open /dev/fuse: errno ${-fd}`);
  const options = `fd=${fd},rootmode=40000,user_id=0,group_id=0`;
  const mounted = mount("lookup", mountpoint, "fuse.sqlfuse", 0, options);
  if (mounted < 0) throw new Error(`cannot mount: errno ${-mounted}`);
  const worker = new Worker(new URL(import.meta.url), { workerData: { fd } });
  const ended = new Promise((resolve) => worker.once("exit", resolve));
  await new Promise((resolve) => worker.once("message", resolve));
  const samples: number[] = [];
  for (let i = 0; i < lookups; i++) {
    const path = `${mountpoint}/n${i}`;
    const from = process.hrtime.bigint();
    open(path, O_RDONLY);
    samples.push(Number(process.hrtime.bigint() - from) / 1000);
  }
  umount2(mountpoint, 0);
  await ended;
  close(fd);
  rmdirSync(mountpoint);
  return samples.sort((a, b) => a - b);
}

async function main(): Promise<void> {
  const lookups = Number(process.argv[2] ?? 20_000);
  const medians: Record<string, number> = {};
  // Alternating, so that a busy moment of the machine strikes both.
  for (let round = 0; round < 3; round++) {
    for (const nonBlocking of [false, true]) {
      const name = nonBlocking ? "spinning" : "blocking";
      const samples = await measure(nonBlocking, lookups);
      const median = samples[samples.length >> 1] ?? 0;
      const p99 = samples[Math.floor(samples.length * 0.99)] ?? 0;
      medians[name] = Math.min(medians[name] ?? Number.POSITIVE_INFINITY, median);
      console.log(`${name}: median ${median.toFixed(1)} us, p99 ${p99.toFixed(1)} us`);
    }
  }
  const { blocking = 0, spinning = 0 } = medians;
  console.log(
    `spinning takes ${((100 * spinning) / blocking).toFixed(0)} % of blocking (target: at most 50 %)`,
  );
}

if (isMainThread) {
  await main();
} else {
  const { fd } = workerData as { fd: number };
  const { parentPort } = await import("node:worker_threads");
  parentPort?.postMessage("serving");
  new Session(new Connection(fd, eventfd()), EMPTY as unknown as ServedVolume).run();
}
