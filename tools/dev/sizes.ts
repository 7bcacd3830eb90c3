/**
 * Measures block and page sizes on a real tree, through the library and without FUSE: what
 * DECISIONS.md D3 rests on. `node dist/tools/dev/sizes.js TREE [WORKDIR]`; as root it drops the
 * kernel's caches before cold reads.
 */
import { randomBytes } from "node:crypto";
import {
  lstatSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Ino, ROOT_INO, unlock, Volume } from "../../src/index.ts";

const MIB = 1 << 20;
const BIG_MIB = 256;
const APPENDS = 400;
const RANDOM_READS = 4000;
const PASSWORD = Buffer.from("sizes");
const CALLER = { uid: 0, gid: 0, umask: 0 };

interface Source {
  readonly name: string;
  readonly kind: "directory" | "file" | "link";
  readonly data: Buffer;
  readonly children: readonly Source[];
}

function load(path: string, name: string): Source {
  const stat = lstatSync(path);
  const none = { name, data: Buffer.alloc(0), children: [] };
  if (stat.isSymbolicLink()) return { ...none, kind: "link", data: Buffer.from(readlinkSync(path)) };
  if (!stat.isDirectory())
    return { ...none, kind: "file", data: stat.isFile() ? readFileSync(path) : none.data };
  return {
    ...none,
    kind: "directory",
    children: readdirSync(path).map((child) => load(join(path, child), child)),
  };
}

function count(source: Source): [number, number] {
  const own: [number, number] = [
    source.kind === "directory" ? 0 : 1,
    source.kind === "file" ? source.data.length : 0,
  ];
  return source.children.map(count).reduce(([files, bytes], [f, b]) => [files + f, bytes + b], own);
}

/** Creates a file as tar does it: mknod, writes, times. */
function writeFile(volume: Volume, parent: Ino, name: Buffer, data: Buffer): Ino {
  volume.tree.lookup(parent, name);
  const { ino } = volume.tree.mknod(parent, name, 0o100644, 0, CALLER);
  for (let at = 0; at < data.length; at += MIB)
    volume.files.write(ino, at, data.subarray(at, at + MIB), false);
  volume.attributes.setattr(ino, { mtime: { sec: 1_000_000_000, nsec: 0 } });
  volume.idle(performance.now());
  return ino;
}

function unpack(volume: Volume, parent: Ino, source: Source): void {
  const name = Buffer.from(source.name);
  if (source.kind === "link") volume.tree.symlink(parent, name, source.data, CALLER);
  else if (source.kind === "file") writeFile(volume, parent, name, source.data);
  else {
    const { ino } = volume.tree.mkdir(parent, name, 0o755, CALLER);
    for (const child of source.children) unpack(volume, ino, child);
  }
}

function readAll(volume: Volume, directory: Ino, buffer: Buffer): void {
  const found: [Ino, number][] = [];
  volume.tree.readdirplus(directory, 0, (entry, attr) => {
    found.push([entry.ino, attr.mode]);
    if ((attr.mode & 0o170000) === 0o100000)
      for (let at = 0; at < attr.size; at += MIB) reads.push([entry.ino, at]);
    return true;
  });
  for (const [ino, at] of reads.splice(0)) volume.files.read(ino, at, MIB, buffer);
  for (const [ino, mode] of found) if ((mode & 0o170000) === 0o040000) readAll(volume, ino, buffer);
}
const reads: [Ino, number][] = [];

function dropCaches(): void {
  if (process.getuid?.() === 0) writeFileSync("/proc/sys/vm/drop_caches", "3");
}

function seconds(run: () => void): number {
  const start = performance.now();
  run();
  return (performance.now() - start) / 1000;
}

function measure(
  tree: Source,
  random: Buffer,
  directory: string,
  blockSize: number,
  pageSize: number,
): string[] {
  const path = join(directory, "volume.sqlite");
  Volume.create(path, PASSWORD, { blockSize, pageSize });
  const key = unlock(path, PASSWORD);
  const open = () => Volume.open(path, key, { noatime: true });
  const [, bytes] = count(tree);
  const size = () => statSync(path).size;

  let volume = open();
  const unpacked = seconds(() => {
    unpack(volume, ROOT_INO, tree);
    volume.commit();
  });
  volume.close();
  const ratio = size() / bytes;
  dropCaches();
  volume = open();
  const buffer = Buffer.alloc(MIB);
  const readCold = seconds(() => readAll(volume, ROOT_INO, buffer));

  let big = ROOT_INO;
  const written = seconds(() => {
    big = writeFile(volume, ROOT_INO, Buffer.from("big"), random);
    volume.commit();
  });
  volume.close();
  dropCaches();
  volume = open();
  const sequential = seconds(() => {
    for (let at = 0; at < random.length; at += MIB) volume.files.read(big, at, MIB, buffer);
  });
  volume.close();
  dropCaches();
  volume = open();
  const randomRead = seconds(() => {
    for (let i = 0; i < RANDOM_READS; i++) {
      volume.files.read(big, 4096 * Math.floor((Math.random() * random.length) / 4096), 4096, buffer);
    }
  });
  const overwrite = seconds(() => {
    for (let i = 0; i < APPENDS; i++) {
      const at = 4096 * Math.floor((Math.random() * random.length) / 4096);
      volume.files.write(big, at, random.subarray(0, 4096), false);
      volume.fsync(big);
    }
  });
  const log = writeFile(volume, ROOT_INO, Buffer.from("log"), Buffer.alloc(0));
  const appended = seconds(() => {
    for (let i = 0; i < APPENDS; i++) {
      volume.files.write(log, i * 4096, random.subarray(0, 4096), false);
      volume.fsync(log);
    }
  });
  volume.tree.unlink(ROOT_INO, Buffer.from("big"));
  const purged = seconds(() => {
    while (volume.idle(performance.now()) === 0);
    volume.commit();
  });
  volume.close();
  rmSync(path);
  return [
    `${blockSize / 1024}`,
    `${pageSize / 1024}`,
    unpacked.toFixed(2),
    readCold.toFixed(2),
    ratio.toFixed(3),
    (BIG_MIB / written).toFixed(0),
    (BIG_MIB / sequential).toFixed(0),
    ((randomRead * 1e6) / RANDOM_READS).toFixed(0),
    ((overwrite * 1e6) / APPENDS).toFixed(0),
    ((appended * 1e6) / APPENDS).toFixed(0),
    (purged * 1000).toFixed(0),
  ];
}

const [, , treePath, workdir] = process.argv;
if (treePath === undefined) throw new Error("usage: sizes TREE [WORKDIR]");
const source = load(treePath, "tree");
const [files, bytes] = count(source);
console.log(`${files} files, ${(bytes / MIB).toFixed(1)} MiB`);
const head = "block KiB | page KiB | unpack s | cold read s | stored/byte | write MiB/s | cold read MiB/s | ";
console.log(`| ${head}4K random read us | 4K overwrite+fsync us | 4K append+fsync us | purge ms |`);
console.log(`|${"---|".repeat(11)}`);
const directory = mkdtempSync(join(workdir ?? tmpdir(), "sqlfuse-sizes-"));
const random = randomBytes(BIG_MIB * MIB);
try {
  for (const blockKib of [16, 32, 64, 128, 256]) {
    for (const pageKib of [4, 8, 16, 32]) {
      console.log(`| ${measure(source, random, directory, blockKib * 1024, pageKib * 1024).join(" | ")} |`);
    }
  }
} finally {
  rmSync(directory, { recursive: true });
}
