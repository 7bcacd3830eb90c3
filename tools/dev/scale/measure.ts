/**
 * What is measured of a volume that grows. Each section takes a volume of its own and tells a point for each size:
 * microseconds per operation, unless the name of a figure says another unit.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import {
  closeSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  renameSync,
  statSync,
  unlinkSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { GrowingVolume } from "./volume.ts";

/** Figures at one size, `x`: files, or GB. */
export type Point = Readonly<Record<string, number>> & { readonly x: number };

/** What one process waited for while another one did something long. */
export interface Delay {
  readonly during: string;
  /** Of the long operation. */
  readonly seconds: number;
  readonly operation: string;
  readonly count: number;
  readonly p50us: number;
  readonly p99us: number;
  readonly p999us: number;
  readonly mostUs: number;
}

const MIB = 2 ** 20;
const GB = 1e9;
const BLOCK = randomBytes(4096);
const PER_DIRECTORY = 1000;
/** Operations that one figure is the mean of, where there are so many files. */
const SAMPLE = 2000;
const APPENDS = 300;
/** Files that a probe has to look at, one after the other. */
const PROBED_FILES = 40_000;
const NOISE_MIB = 64;
/** A prime: multiples of it, modulo a power of ten, meet every number once and no two neighbours in turn. */
const STRIDE = 7919;

function timeUs(run: () => void): number {
  const start = performance.now();
  run();
  return (performance.now() - start) * 1000;
}

/** Mean of `count` calls. */
function meanUs(count: number, run: (i: number) => void): number {
  return (
    timeUs(() => {
      for (let i = 0; i < count; i++) run(i);
    }) / count
  );
}

/** Where the files of a section lie, and what is in each. */
interface Layout {
  readonly path: (i: number) => string;
  readonly content: Buffer;
  /** Directories to list. */
  readonly directories: (files: number) => string[];
}

/** Files of 4 KiB in directories of a thousand. */
function spread(root: string): Layout {
  const directory = (i: number) => join(root, `d${i}`);
  return {
    path: (i) => join(directory(Math.floor(i / PER_DIRECTORY)), `f${i}`),
    content: BLOCK,
    directories: (files) =>
      Array.from({ length: Math.min(20, Math.ceil(files / PER_DIRECTORY)) }, (_, i) => directory(i)),
  };
}

/** Empty files in one directory. */
function flat(root: string): Layout {
  const directory = join(root, "big");
  return {
    path: (i) => join(directory, `f${i}`),
    content: Buffer.alloc(0),
    directories: () => [directory],
  };
}

function grow({ path, content }: Layout, from: number, to: number): void {
  for (let i = from; i < to; i++) {
    if (i % PER_DIRECTORY === 0) mkdirSync(join(path(i), ".."), { recursive: true });
    writeFileSync(path(i), content);
  }
}

function measureFiles(volume: GrowingVolume, layout: Layout, files: number): Point {
  const { path, content } = layout;
  const sample = Math.min(files, SAMPLE);
  const pick = (i: number) => path((i * STRIDE) % files);
  const { storedBytes } = volume.cold();
  const statCold = meanUs(sample, (i) => statSync(pick(i)));
  const statWarm = meanUs(sample, (i) => statSync(pick(i)));
  const mounts = [volume.cold().mountSec];
  const readCold = meanUs(sample, (i) => readFileSync(pick(i)));
  const create = meanUs(sample, (i) => writeFileSync(`${pick(i)}n`, content));
  const rename = meanUs(sample, (i) => renameSync(pick(i), `${pick(i)}r`));
  const unlink = meanUs(sample, (i) => unlinkSync(`${pick(i)}n`));
  for (let i = 0; i < sample; i++) renameSync(`${pick(i)}r`, pick(i));
  mounts.push(volume.cold().mountSec);
  let listed = 0;
  const listUs = timeUs(() => {
    for (const directory of layout.directories(files)) listed += readdirSync(directory).length;
  });
  mounts.push(volume.cold().mountSec);
  return {
    x: files,
    create,
    statCold,
    statWarm,
    ...(content.length === 0 ? {} : { readCold }),
    rename,
    unlink,
    list: listUs / listed,
    mountSec: mounts.sort((a, b) => a - b)[1] ?? 0,
    memoryMb: volume.takeMemory() / 1e6,
    storedBytes: storedBytes / files,
  };
}

type Tell = (point: Point) => void;

function growFiles(volume: GrowingVolume, layout: Layout, sizes: readonly number[], tell: Tell): void {
  let files = 0;
  for (const size of sizes) {
    const growUs = timeUs(() => grow(layout, files, size)) / (size - files);
    files = size;
    tell({ ...measureFiles(volume, layout, files), grow: growUs });
  }
}

export function measureTree(volume: GrowingVolume, sizes: readonly number[], tell: Tell): void {
  growFiles(volume, spread(volume.mount), sizes, tell);
}

/** Leaves the directory there. */
export function measureDirectory(volume: GrowingVolume, sizes: readonly number[], tell: Tell): void {
  growFiles(volume, flat(volume.mount), sizes, tell);
}

/** Writes random bytes to `fd` from byte `from` to byte `to`, no two MiB alike. */
function writeNoise(fd: number, from: number, to: number, noise: Buffer): void {
  for (let at = from; at < to; at += noise.length) {
    noise.writeDoubleLE(at);
    writeSync(fd, noise, 0, Math.min(noise.length, to - at), at);
  }
}

function withFile<T>(path: string, flags: string, run: (fd: number) => T): T {
  const fd = openSync(path, flags);
  try {
    return run(fd);
  } finally {
    closeSync(fd);
  }
}

export function measureBytes(volume: GrowingVolume, sizesGb: readonly number[], tell: Tell): void {
  const noise = randomBytes(MIB);
  let bytes = 0;
  for (const x of sizesGb) {
    const size = Math.round(x * GB);
    const big = join(volume.mount, "big");
    const writeUs = timeUs(() =>
      withFile(big, bytes === 0 ? "w" : "r+", (fd) => {
        writeNoise(fd, bytes, size, noise);
        fsyncSync(fd);
      }),
    );
    const writeMbPerSec = (size - bytes) / writeUs;
    bytes = size;
    const { mountSec, storedBytes } = volume.cold();
    const readCold = withFile(big, "r", (fd) =>
      meanUs(SAMPLE, () => readSync(fd, BLOCK, 0, 4096, 4096 * Math.floor((Math.random() * bytes) / 4096))),
    );
    const append = withFile(join(volume.mount, "log"), "a", (fd) => {
      const times = Array.from({ length: APPENDS }, () =>
        timeUs(() => {
          writeSync(fd, BLOCK);
          fsyncSync(fd);
        }),
      );
      return quantile(times, 0.5);
    });
    const memoryMb = volume.takeMemory() / 1e6;
    tell({ x, readCold, append, writeMbPerSec, mountSec, memoryMb, storedPerByte: storedBytes / bytes });
  }
}

function quantile(times: readonly number[], which: number): number {
  return times.toSorted((a, b) => a - b)[Math.min(times.length - 1, Math.floor(times.length * which))] ?? 0;
}

/** What this process waits for. */
class Probe {
  readonly #there: Layout;
  readonly #files: number;
  readonly #new: string;
  #creates = 0;

  constructor(mount: string, files: number) {
    this.#there = spread(join(mount, "there"));
    this.#files = files;
    this.#new = join(mount, "new");
    mkdirSync(this.#new);
    grow(this.#there, 0, files);
  }

  /** Until `work` ends: stat of files, each once, as the volume was just mounted and the kernel knows none; and create. */
  async during(what: string, work: ChildProcess): Promise<Delay[]> {
    let isDone = false;
    const ended = new Promise<number | null>((resolve) => work.once("exit", resolve)).finally(() => {
      isDone = true;
    });
    const stats: number[] = [];
    const creates: number[] = [];
    const startMs = performance.now();
    while (!isDone) {
      if (stats.length < this.#files) {
        const there = this.#there.path((stats.length * STRIDE) % this.#files);
        stats.push(timeUs(() => statSync(there)));
      }
      const path = join(this.#new, `${this.#creates++}`);
      creates.push(timeUs(() => writeFileSync(path, "")));
      await sleep(1);
    }
    if ((await ended) !== 0) throw new Error(`${what}: failed`);
    const seconds = (performance.now() - startMs) / 1000;
    return [
      { during: what, seconds, operation: "stat", ...summary(stats) },
      { during: what, seconds, operation: "create", ...summary(creates) },
    ];
  }
}

function summary(times: readonly number[]): Omit<Delay, "during" | "seconds" | "operation"> {
  return {
    count: times.length,
    p50us: quantile(times, 0.5),
    p99us: quantile(times, 0.99),
    p999us: quantile(times, 0.999),
    mostUs: quantile(times, 1),
  };
}

/**
 * What others wait for while the directory of `entries` that `measureDirectory` left is listed and removed, and while
 * `bytes` stream.
 */
export async function measureDelays(
  volume: GrowingVolume,
  entries: number,
  bytes: number,
  tell: (delays: readonly Delay[]) => void,
): Promise<void> {
  const { mount } = volume;
  const noise = join(mount, "..", "noise");
  writeFileSync(noise, randomBytes(NOISE_MIB * MIB));
  const copies = Math.ceil(bytes / MIB / NOISE_MIB);
  const million = entries.toLocaleString("en");
  const works = [
    ["nothing else", "sleep 4"],
    [`a directory of ${million} is listed`, "ls -f big > /dev/null"],
    ["it is removed", "rm -r big"],
    [
      `${copies * NOISE_MIB} MiB are written`,
      `for i in $(seq ${copies}); do cat ../noise; done | dd of=stream bs=1M iflag=fullblock conv=fsync status=none`,
    ],
    [`${copies * NOISE_MIB} MiB are read`, "dd if=stream of=/dev/null bs=1M status=none"],
  ] as const;
  const probe = new Probe(mount, PROBED_FILES);
  for (const [what, command] of works) {
    volume.cold();
    tell(await probe.during(what, spawn("sh", ["-c", command], { cwd: mount, stdio: "inherit" })));
  }
}
