/**
 * `npm run bench`: sqlfuse and every encrypted FUSE filesystem that is installed, side by side in one run, with a
 * plain directory on the same disk as the limit. Peers alternate within a round, so that a noisy minute meets all of
 * them; medians are given with their least and greatest value.
 *
 * As root every store lies on a fresh XFS on a loop file with direct I/O (no second page cache, no ext4 that walks
 * past its deleted inodes); cold cases unmount, drop the kernel's caches and mount again.
 */
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { cpus, release, tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { findPeers, memoryBytes, mountOf, type Peer, storedBytes } from "./bench/peers.ts";
import { type Bench, GROUPS, prepareData, type Unit } from "./bench/workloads.ts";

const { values } = parseArgs({
  options: {
    peers: { type: "string", default: "" },
    groups: { type: "string", default: Object.keys(GROUPS).join(",") },
    rounds: { type: "string", default: "3" },
    scale: { type: "string", default: "1" },
    tree: { type: "string", default: "/usr/include" },
    dir: { type: "string", default: tmpdir() },
    json: { type: "string" },
    markdown: { type: "string" },
    help: { type: "boolean", short: "h", default: false },
  },
});

const HELP = `npm run bench -- [options]
  --peers a,b     sqlfuse, gocryptfs, securefs, encfs, cryfs, plain (default: all that are installed),
                  and sqlfuse-fuse-native, the second transport
  --groups a,b    ${Object.keys(GROUPS).join(", ")} (default: all)
  --rounds N      samples of each figure (default: 3)
  --scale X       size of the work (default: 1; 0.05 to try the benchmark)
  --tree DIR      the tree to unpack (default: /usr/include)
  --dir DIR       where to work (default: the temporary directory)
  --json FILE, --markdown FILE   where to write the results`;

/** Figures of one workload: per peer, one a round. */
interface Row {
  readonly group: string;
  readonly workload: string;
  readonly unit: Unit;
  readonly samples: Record<string, number[]>;
  readonly errors: Record<string, string>;
}

const isRoot = process.getuid?.() === 0;

function sh(command: string): string {
  const { status, stdout, stderr } = spawnSync("sh", ["-c", command], { encoding: "utf8" });
  if (status !== 0) throw new Error(`${command}: ${stderr}`);
  return stdout.trim();
}

/** A fresh filesystem for the stores of one peer and group. */
class Ground {
  readonly directory: string;
  readonly #image: string | undefined;

  constructor(work: string, gigabytes: number) {
    this.directory = join(work, "ground");
    mkdirSync(this.directory);
    if (!isRoot || spawnSync("which", ["mkfs.xfs"]).status !== 0) return;
    this.#image = join(work, "ground.img");
    sh(`fallocate -l ${gigabytes}G ${this.#image} && mkfs.xfs -q ${this.#image}`);
    const device = sh(`losetup --direct-io=on --find --show ${this.#image}`);
    sh(`mount ${device} ${this.directory} && losetup --detach ${device}`);
  }

  remove(): void {
    if (this.#image !== undefined) {
      // A daemon may be at its end and still hold its store.
      sh(`for i in $(seq 100); do umount ${this.directory} && exit; sleep 0.1; done; exit 1`);
      rmSync(this.#image);
    }
    rmSync(this.directory, { recursive: true });
  }
}

function dropCaches(): void {
  spawnSync("sync");
  if (isRoot) writeFileSync("/proc/sys/vm/drop_caches", "3");
  // Programs are cold now too: they are not what is measured.
  spawnSync("sh", ["-c", "tar --version; git --version; find --version; ls --version; python3 --version"]);
}

function assertMounted(peer: Peer, directory: string): void {
  // A run that silently measures the bare directory looks wonderful.
  if (peer.name === "plain") return;
  if (statSync(mountOf(directory)).dev === statSync(directory).dev)
    throw new Error(`${peer.name} is not mounted`);
}

async function runGroup(
  peer: Peer,
  group: string,
  work: string,
  rows: readonly Row[],
  scale: number,
): Promise<void> {
  const ground = new Ground(work, 10);
  const { directory } = ground;
  peer.create(directory);
  peer.mount(directory);
  try {
    assertMounted(peer, directory);
    const bench: Bench = {
      mount: mountOf(directory),
      data: join(work, "data"),
      scale,
      sync: () => peer.sync(directory),
      cold() {
        peer.sync(directory);
        peer.unmount(directory);
        dropCaches();
        peer.mount(directory);
        assertMounted(peer, directory);
      },
      remount() {
        peer.sync(directory);
        peer.unmount(directory);
        const fromMs = performance.now();
        peer.mount(directory);
        const took = (performance.now() - fromMs) / 1000;
        assertMounted(peer, directory);
        return took;
      },
      storedBytes: () => storedBytes(peer, directory),
      memoryBytes: () => memoryBytes(directory),
    };
    for (const workload of GROUPS[group] ?? []) {
      const row = rows.find((candidate) => candidate.group === group && candidate.workload === workload.name);
      if (row === undefined) continue;
      try {
        const samples = row.samples[peer.name] ?? [];
        row.samples[peer.name] = samples;
        samples.push(await workload.run(bench));
      } catch (error) {
        row.errors[peer.name] = error instanceof Error ? error.message : String(error);
      }
    }
  } finally {
    peer.unmount(directory);
    ground.remove();
  }
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  return sorted.length % 2 === 1
    ? (sorted[middle] ?? 0)
    : ((sorted[middle - 1] ?? 0) + (sorted[middle] ?? 0)) / 2;
}

function format(value: number): string {
  return value.toPrecision(3).includes("e")
    ? String(Math.round(value))
    : String(Number(value.toPrecision(3)));
}

function cell(row: Row, peer: string): string {
  const samples = row.samples[peer] ?? [];
  if (samples.length === 0) return row.errors[peer] === undefined ? "" : "failed";
  const spread =
    samples.length > 1 ? ` (${format(Math.min(...samples))}–${format(Math.max(...samples))})` : "";
  return `${format(median(samples))}${spread}`;
}

/** How many times as fast as the best encrypted peer of the run. */
function lead(row: Row, peers: readonly Peer[]): string {
  const ours = row.samples.sqlfuse;
  const others = peers
    .filter(({ name, flushes }) => !name.startsWith("sqlfuse") && name !== "plain" && flushes)
    .flatMap(({ name }) => (row.samples[name]?.length ? [{ name, value: median(row.samples[name]) }] : []));
  if (ours === undefined || ours.length === 0 || others.length === 0) return "";
  const more = row.unit === "MB/s";
  const best = others.reduce((a, b) => (more === a.value > b.value ? a : b));
  return `${format(more ? median(ours) / best.value : best.value / median(ours))} x ${best.name}`;
}

function markdown(rows: readonly Row[], peers: readonly Peer[], about: string): string {
  const head = [
    "workload",
    "unit",
    ...peers.map(({ name }) => name),
    "sqlfuse against the best encrypted peer",
  ];
  const lines = rows.map((row) => {
    const cells = peers.map(({ name }) => cell(row, name));
    return `| ${[row.workload, row.unit, ...cells, lead(row, peers)].join(" | ")} |`;
  });
  return [about, "", `| ${head.join(" | ")} |`, `|${"---|".repeat(head.length)}`, ...lines, ""].join("\n");
}

async function main(): Promise<void> {
  if (values.help) {
    console.log(HELP);
    return;
  }
  const { found: peers, missing } = findPeers(values.peers.split(",").filter((name) => name !== ""));
  if (missing.length > 0) console.error(`not installed, left out: ${missing.join(", ")}`);
  const groups = values.groups.split(",");
  const rounds = Number(values.rounds);
  const scale = Number(values.scale);
  const work = mkdtempSync(join(resolve(values.dir), "sqlfuse-bench-"));
  mkdirSync(join(work, "data"));
  try {
    const { files, bytes } = prepareData(join(work, "data"), resolve(values.tree), scale);
    const rows: Row[] = groups.flatMap((group) =>
      (GROUPS[group] ?? []).map(({ name, unit }) => ({
        group,
        workload: name,
        unit,
        samples: {},
        errors: {},
      })),
    );
    for (let round = 1; round <= rounds; round++) {
      for (const group of groups) {
        for (const peer of peers) {
          console.error(`round ${round}/${rounds}: ${group} on ${peer.name}`);
          await runGroup(peer, group, work, rows, scale);
        }
      }
    }
    const load = readFileSync("/proc/loadavg", "utf8").split(" ")[0];
    const about =
      `${cpus().length} x ${cpus()[0]?.model}, Linux ${release()}, Node ${process.version}; a tree of ${files} entries, ` +
      `${(bytes / 1e6).toFixed(0)} MB; ${rounds} rounds, scale ${scale}, load at the end ${load}. Median (least–greatest).`;
    const table = markdown(rows, peers, about);
    console.log(table);
    if (values.markdown !== undefined) writeFileSync(values.markdown, table);
    if (values.json !== undefined)
      writeFileSync(values.json, `${JSON.stringify({ about, rows }, undefined, 1)}\n`);
    for (const row of rows) {
      for (const [peer, error] of Object.entries(row.errors))
        console.error(`${row.workload} on ${peer}: ${error}`);
    }
  } finally {
    rmSync(work, { recursive: true });
  }
}

await main();
