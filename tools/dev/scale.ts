/**
 * `npm run bench:scale`: what an operation costs as a volume grows, in files and in bytes, and how long others wait
 * meanwhile. Writes figures as JSON and draws them; sections that are not asked for keep their figures of an earlier run.
 */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statfsSync, writeFileSync } from "node:fs";
import { cpus, release, tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import {
  type Delay,
  measureBytes,
  measureDelays,
  measureDirectory,
  measureTree,
  type Point,
} from "./scale/measure.ts";
import { type Panel, plot } from "./scale/plot.ts";
import { GrowingVolume } from "./scale/volume.ts";

const SECTIONS = ["tree", "directory", "bytes"] as const;
type Section = (typeof SECTIONS)[number];
const GIB = 2 ** 30;
const FILES = [1_000, 10_000, 100_000, 1_000_000];
const SIZES_GB = [0.1, 1, 5, 20, 50];

const { values } = parseArgs({
  options: {
    sections: { type: "string", default: SECTIONS.join(",") },
    "max-files": { type: "string", default: "1000000" },
    "max-gb": { type: "string", default: "50" },
    "cache-size": { type: "string" },
    dir: { type: "string", default: tmpdir() },
    out: { type: "string", default: "docs" },
    help: { type: "boolean", short: "h", default: false },
  },
});

const HELP = `npm run bench:scale -- [options]
  --sections a,b     ${SECTIONS.join(", ")} (default: all; none: only draw what is in the JSON)
  --max-files N      files to grow to, of ${FILES.map((files) => files.toLocaleString("en")).join(", ")} (default: all)
  --max-gb N         GB to grow to, of ${SIZES_GB.join(", ")} (default: all; the disk needs that and a tenth)
  --cache-size BYTES as of sqlfuse mount
  --dir DIR          where to work (default: the temporary directory)
  --out DIR          where scale.json, scale-files.svg and scale-bytes.svg are written (default: docs)
As root reads are cold; else what the kernel holds of the file is not dropped.`;

interface Results {
  about: string;
  tree: Point[];
  directory: Point[];
  bytes: Point[];
  delays: Delay[];
}

const NAMES: Readonly<Record<string, readonly [title: string, unit: string]>> = {
  grow: ["create, one after the other", "us"],
  create: ["create, anywhere", "us"],
  statCold: ["stat, cold", "us"],
  statWarm: ["stat, warm", "us"],
  readCold: ["read 4 KiB, cold", "us"],
  rename: ["rename", "us"],
  unlink: ["unlink", "us"],
  list: ["list, cold, per entry", "us"],
  append: ["append 4 KiB + fsync, median", "us"],
  writeMbPerSec: ["write + fsync", "MB/s"],
  mountSec: ["mount, cold", "s"],
  memoryMb: ["memory, most seen", "MB"],
  storedBytes: ["stored, per file", "bytes"],
  storedPerByte: ["stored, per byte", "bytes"],
};

function load(path: string): Results {
  const none: Results = { about: "", tree: [], directory: [], bytes: [], delays: [] };
  return existsSync(path) ? { ...none, ...(JSON.parse(readFileSync(path, "utf8")) as Results) } : none;
}

function panels(series: Readonly<Record<string, readonly Point[]>>): Panel[] {
  return Object.entries(NAMES).flatMap(([key, [title, unit]]) => {
    const lines = Object.entries(series).flatMap(([name, points]) => {
      const known = points.flatMap((point) => {
        const y = point[key];
        return y === undefined ? [] : [[point.x, y] as const];
      });
      return known.length === 0 ? [] : [{ name, points: known }];
    });
    return lines.length === 0 ? [] : [{ title, unit, lines }];
  });
}

function draw(results: Results, out: string): void {
  const { tree, directory, bytes } = results;
  const files = panels({
    "directories of 1,000, files of 4 KiB": tree,
    "one directory, empty files": directory,
  });
  if (files.length > 0)
    writeFileSync(join(out, "scale-files.svg"), plot("sqlfuse by number of files", "files", files));
  if (bytes.length > 0)
    writeFileSync(
      join(out, "scale-bytes.svg"),
      plot("sqlfuse by size of the volume", "GB", panels({ "one file": bytes })),
    );
}

async function run(section: Section, volume: GrowingVolume, results: Results, max: Limits): Promise<void> {
  const tell = (figures: unknown) => console.error(section, JSON.stringify(figures));
  const take = (points: Point[]) => (point: Point) => {
    tell(point);
    points.push(point);
  };
  results[section] = [];
  const files = FILES.filter((size) => size <= max.files);
  if (section === "tree") measureTree(volume, files, take(results.tree));
  if (section === "bytes")
    measureBytes(
      volume,
      SIZES_GB.filter((gb) => gb <= max.gb),
      take(results.bytes),
    );
  if (section === "directory") {
    measureDirectory(volume, files, take(results.directory));
    results.delays = [];
    await measureDelays(volume, files.at(-1) ?? 0, Math.min(GIB, max.gb * 1e9), (delays) => {
      tell(delays);
      results.delays.push(...delays);
    });
  }
}

interface Limits {
  readonly files: number;
  readonly gb: number;
}

async function main(): Promise<void> {
  if (values.help) {
    console.log(HELP);
    return;
  }
  const names = values.sections.split(",");
  const sections = SECTIONS.filter((section) => names.includes(section));
  const max = { files: Number(values["max-files"]), gb: Number(values["max-gb"]) };
  const cache = values["cache-size"];
  const mountArgs = cache === undefined ? [] : ["--cache-size", cache];
  const { bavail, bsize } = statfsSync(values.dir);
  if (sections.includes("bytes") && bavail * bsize < (max.gb * 1.1 + 1) * 1e9)
    throw new Error(`${values.dir}: has ${Math.floor((bavail * bsize) / 1e9)} GB free; see --max-gb`);
  mkdirSync(values.out, { recursive: true });
  const json = join(values.out, "scale.json");
  const results = load(json);
  for (const section of sections) {
    const directory = mkdtempSync(join(resolve(values.dir), "sqlfuse-scale-"));
    try {
      const volume = new GrowingVolume(directory, mountArgs);
      try {
        await run(section, volume, results, max);
      } finally {
        volume.unmount();
      }
    } finally {
      rmSync(directory, { recursive: true });
    }
    results.about = `${cpus().length} x ${cpus()[0]?.model}, Linux ${release()}, Node ${process.version}`;
    writeFileSync(json, `${JSON.stringify(results, undefined, 2)}\n`);
  }
  draw(results, values.out);
}

await main();
