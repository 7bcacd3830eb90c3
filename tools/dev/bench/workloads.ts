/**
 * What is measured. A group runs on one fresh store, its workloads in their order, each using what the ones
 * before it left. Figures are seconds, MB/s or microseconds per operation.
 */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  renameSync,
  rmdirSync,
  rmSync,
  statSync,
  unlinkSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

export type Unit = "s" | "MB/s" | "us/op" | "us" | "x" | "MB";

/** What a workload gets to work with. */
export interface Bench {
  /** The mounted filesystem under test. */
  readonly mount: string;
  /** A directory on a plain disk with the tar of the tree, the file of random bytes and a git repository. */
  readonly data: string;
  /** 1 for the full size; small figures are for trying the benchmark itself. */
  readonly scale: number;
  /** Makes everything durable as the peer's users would. */
  sync(): void;
  /** Takes the mount down, drops the kernel's caches and mounts again. */
  cold(): void;
  /** Takes the mount down and mounts again: seconds of the second. */
  remount(): number;
  /** Bytes that the store takes on the disk now. */
  storedBytes(): number;
  /** Bytes of memory that the mount's processes hold now. */
  memoryBytes(): number;
}

export interface Workload {
  readonly name: string;
  readonly unit: Unit;
  /** More is better for MB/s, less for the others. */
  run(bench: Bench): number | Promise<number>;
}

function sh(command: string, cwd: string): void {
  const { status, stderr } = spawnSync("sh", ["-c", command], { cwd, encoding: "utf8" });
  if (status !== 0) throw new Error(`${command}: ${stderr.slice(0, 300)}`);
}

function seconds(run: () => void): number {
  const start = performance.now();
  run();
  return (performance.now() - start) / 1000;
}

/** A shell command in the mount, in seconds. `warm`: it was done just before. */
function shell(
  name: string,
  command: (bench: Bench) => string,
  how: { cold?: true; warm?: true; sync?: true } = {},
): Workload {
  return {
    name,
    unit: "s",
    run(bench) {
      if (how.cold) bench.cold();
      if (how.warm) sh(command(bench), bench.mount);
      return seconds(() => {
        sh(command(bench), bench.mount);
        if (how.sync) bench.sync();
      });
    },
  };
}

/** `count` operations in the mount, in microseconds each. */
function each(
  name: string,
  count: number,
  operation: (path: (i: number) => string, i: number) => void,
): Workload {
  return {
    name,
    unit: "us/op",
    run({ mount, scale }) {
      const times = Math.max(1, Math.round(count * scale));
      const path = (i: number) => join(mount, "files", `f${i}`);
      if (!existsSync(join(mount, "files"))) mkdirSync(join(mount, "files"));
      return (
        (seconds(() => {
          for (let i = 0; i < times; i++) operation(path, i);
        }) *
          1e6) /
        times
      );
    },
  };
}

const MIB = 1 << 20;
const BLOCK = Buffer.alloc(4096, 0x5a);
const FILES = 5000;
const RANDOM_OPS = 4000;
const BIG_DIRECTORY = 50_000;

function withFile(path: string, flags: string, use: (fd: number) => void): void {
  const fd = openSync(path, flags);
  try {
    use(fd);
  } finally {
    closeSync(fd);
  }
}

/** Offsets that every peer gets alike. */
function* offsets(count: number, bytes: number): Generator<number> {
  let state = 88172645463325252n;
  for (let i = 0; i < count; i++) {
    state ^= (state << 13n) & 0xffff_ffff_ffff_ffffn;
    state ^= state >> 7n;
    state ^= (state << 17n) & 0xffff_ffff_ffff_ffffn;
    yield Number(state % BigInt(Math.floor(bytes / 4096))) * 4096;
  }
}

/** A virtual machine gives free memory back, and waits for it at its next use: 2 s a GiB that are nobody's fault. */
function touchMemory(bytes: number): void {
  const program = "for(let i=0;i<Number(process.argv[1]);i+=1<<28)globalThis[i]=Buffer.alloc(1<<28,1)";
  spawnSync(process.execPath, ["-e", program, `${bytes}`]);
}

function copyBytes(bench: Bench): number {
  const bytes = statSync(join(bench.data, "random")).size;
  touchMemory(4 * bytes);
  const source = readFileSync(join(bench.data, "random"));
  const took = seconds(() =>
    withFile(join(bench.mount, "big"), "w", (fd) => {
      for (let at = 0; at < bytes; at += MIB) writeSync(fd, source, at, Math.min(MIB, bytes - at));
      fsyncSync(fd);
    }),
  );
  return bytes / 1e6 / took;
}

function readBytes(bench: Bench): number {
  const buffer = Buffer.alloc(MIB);
  touchMemory(3 * statSync(join(bench.mount, "big")).size);
  let bytes = 0;
  const took = seconds(() =>
    withFile(join(bench.mount, "big"), "r", (fd) => {
      for (let n = readSync(fd, buffer); n > 0; n = readSync(fd, buffer)) bytes += n;
    }),
  );
  return bytes / 1e6 / took;
}

function randomOps(
  bench: Bench,
  flags: string,
  operation: (fd: number, at: number) => void,
  end = (_fd: number) => {},
): number {
  const path = join(bench.mount, "big");
  const count = Math.round(RANDOM_OPS * bench.scale);
  const size = statSync(path).size;
  let took = 0;
  withFile(path, flags, (fd) => {
    took = seconds(() => {
      for (const at of offsets(count, size)) operation(fd, at);
      end(fd);
    });
  });
  return (took * 1e6) / count;
}

function fsyncLatency(bench: Bench, quantile: number): number {
  const path = join(bench.mount, "log");
  const times: number[] = [];
  withFile(path, "a", (fd) => {
    for (let i = 0; i < 500 * bench.scale; i++) {
      times.push(
        seconds(() => {
          writeSync(fd, BLOCK);
          fsyncSync(fd);
        }) * 1e6,
      );
    }
  });
  return times.sort((a, b) => a - b)[Math.floor(times.length * quantile)] ?? 0;
}

function sqlite(journal: string): Workload {
  return {
    name: `sqlite ${journal}`,
    unit: "us/op",
    run({ mount, scale }) {
      const transactions = Math.round(2000 * scale);
      const program = `import sqlite3,time
db=sqlite3.connect("bench-${journal}.db",isolation_level=None)
db.execute("pragma journal_mode=${journal}"); db.execute("pragma synchronous=full")
db.execute("create table t(id integer primary key, a text, b blob)")
t=time.perf_counter()
for i in range(${transactions}):
  db.execute("begin"); db.execute("insert into t(a,b) values(?,zeroblob(200))",(str(i),)); db.execute("commit")
print((time.perf_counter()-t)*1e6/${transactions})`;
      const { stdout, status, stderr } = spawnSync("python3", ["-c", program], {
        cwd: mount,
        encoding: "utf8",
      });
      if (status !== 0) throw new Error(stderr.slice(-300));
      return Number(stdout);
    },
  };
}

/** Microseconds that each call of `operation` takes while another process writes a long file; the 99th percentile. */
function whileStreaming(name: string, operation: (path: string, i: number) => void): Workload {
  return {
    name,
    unit: "us",
    async run(bench) {
      const files = join(bench.mount, "files");
      if (!existsSync(files)) mkdirSync(files);
      for (let i = 0; i < 400; i++) writeFileSync(join(files, `there${i}`), BLOCK);
      const program = `const fs=require("fs");const b=fs.readFileSync(process.argv[1]);const f=fs.openSync(process.argv[2],"w");
for(;;){for(let at=0;at+${MIB}<=b.length;at+=${MIB})fs.writeSync(f,b,at,${MIB},at)}`;
      const streamed = join(bench.mount, "streamed");
      const writer = spawn(process.execPath, ["-e", program, join(bench.data, "random"), streamed], {
        stdio: "inherit",
      });
      const ended = new Promise((resolve) => writer.once("exit", resolve));
      while (!existsSync(streamed) || statSync(streamed).size === 0) await sleep(10);
      const times: number[] = [];
      for (let i = 0; i < 400; i++) {
        times.push(seconds(() => operation(join(files, `there${i}`), i)) * 1e6);
        await sleep(3);
      }
      writer.kill();
      await ended;
      rmSync(streamed);
      return times.sort((a, b) => a - b)[Math.floor(times.length * 0.99)] ?? 0;
    },
  };
}

/** Four processes, each creating, writing, reading, renaming and removing files of its own: seconds for all. */
const parallel: Workload = {
  name: "4 clients",
  unit: "s",
  async run({ mount, scale }) {
    const program = `const fs=require("fs");const d=process.argv[1];fs.mkdirSync(d);const b=Buffer.alloc(4096);
for(let i=0;i<${Math.round(1000 * scale)};i++){const f=d+"/"+i;fs.writeFileSync(f,b);fs.readFileSync(f);fs.renameSync(f,f+"r");fs.statSync(f+"r");if(i%2)fs.unlinkSync(f+"r")}`;
    const start = performance.now();
    const clients: ChildProcess[] = [1, 2, 3, 4].map((client) =>
      spawn(process.execPath, ["-e", program, join(mount, `client${client}`)], { stdio: "inherit" }),
    );
    const codes = await Promise.all(
      clients.map((client) => new Promise<number | null>((resolve) => client.once("exit", resolve))),
    );
    if (codes.some((code) => code !== 0)) throw new Error("a client failed");
    return (performance.now() - start) / 1000;
  },
};

/** Bytes stored for each byte of `path` in the mount. */
function space(name: string, prepare: (bench: Bench) => string): Workload {
  return {
    name,
    unit: "x",
    run(bench) {
      const before = bench.storedBytes();
      const path = join(bench.mount, prepare(bench));
      bench.remount();
      const { stdout } = spawnSync("du", ["-s", "--apparent-size", "-B1", path], { encoding: "utf8" });
      return (bench.storedBytes() - before) / Number(stdout.split("\t")[0]);
    },
  };
}

export const GROUPS: Readonly<Record<string, readonly Workload[]>> = {
  tree: [
    shell("untar + sync", ({ data }) => `tar -xf ${data}/tree.tar`, { sync: true }),
    shell("find, cold", () => "find tree > /dev/null", { cold: true }),
    shell("find, warm", () => "find tree > /dev/null", { warm: true }),
    shell("tar, cold", () => "tar -cf - tree | cat > /dev/null", { cold: true }),
    shell("grep -r, cold", () => "grep -r nosuchword tree || true", { cold: true }),
    shell("tar, warm", () => "tar -cf - tree | cat > /dev/null", { warm: true }),
    shell("cp -a + sync", () => "cp -a tree copy", { sync: true }),
    shell("rm -rf", () => "rm -rf copy tree"),
  ],
  git: [
    shell("git clone + sync", ({ data }) => `git clone -q --local --no-hardlinks ${data}/repository clone`, {
      sync: true,
    }),
    shell("git status, cold", () => "git -C clone status > /dev/null", { cold: true }),
    shell("git status, warm", () => "git -C clone status > /dev/null", { warm: true }),
  ],
  stream: [
    { name: "write + fsync", unit: "MB/s", run: copyBytes },
    {
      name: "read, cold",
      unit: "MB/s",
      run(bench) {
        bench.cold();
        return readBytes(bench);
      },
    },
    {
      name: "read, warm",
      unit: "MB/s",
      run(bench) {
        readBytes(bench);
        return readBytes(bench);
      },
    },
    {
      name: "random read, cold",
      unit: "us/op",
      run(bench) {
        bench.cold();
        const buffer = Buffer.alloc(4096);
        return randomOps(bench, "r", (fd, at) => readSync(fd, buffer, 0, 4096, at));
      },
    },
    {
      name: "random overwrite, fsync at the end",
      unit: "us/op",
      run: (bench) => randomOps(bench, "r+", (fd, at) => writeSync(fd, BLOCK, 0, 4096, at), fsyncSync),
    },
    { name: "unlink big", unit: "s", run: ({ mount }) => seconds(() => unlinkSync(join(mount, "big"))) },
  ],
  files: [
    each("create 4 KiB", FILES, (path, i) => writeFileSync(path(i), BLOCK)),
    each("stat", FILES, (path, i) => statSync(path(i))),
    each("read 4 KiB", FILES, (path, i) => readFileSync(path(i))),
    each("rename", FILES, (path, i) => renameSync(path(i), `${path(i)}r`)),
    each("unlink", FILES, (path, i) => unlinkSync(`${path(i)}r`)),
    each("mkdir", FILES, (path, i) => mkdirSync(path(i))),
    each("rmdir", FILES, (path, i) => rmdirSync(path(i))),
    parallel,
  ],
  sync: [
    { name: "append 4 KiB + fsync, p50", unit: "us", run: (bench) => fsyncLatency(bench, 0.5) },
    { name: "append 4 KiB + fsync, p99", unit: "us", run: (bench) => fsyncLatency(bench, 0.99) },
    sqlite("wal"),
    sqlite("delete"),
  ],
  busy: [
    whileStreaming("open while 1 stream writes, p99", (path) => closeSync(openSync(path, "r"))),
    whileStreaming("create while 1 stream writes, p99", (path) => writeFileSync(`${path}.new`, "")),
  ],
  work: [
    shell(
      "compile",
      ({ data, scale }) =>
        `cp ${data}/generate.sh . && sh generate.sh ${Math.round(150 * scale)} && make -s -j2`,
    ),
    shell("install 4,000 small packages", ({ scale }) => `sh -c '${INSTALL(Math.round(4000 * scale))}'`, {
      sync: true,
    }),
  ],
  store: [
    space("space for a source tree", ({ data, mount }) => {
      sh(`tar -xf ${data}/tree.tar`, mount);
      return "tree";
    }),
    space("space for random bytes", (bench) => {
      copyBytes(bench);
      return "big";
    }),
    { name: "mount", unit: "s", run: (bench) => bench.remount() },
    {
      name: "memory after all this",
      unit: "MB",
      run(bench) {
        sh(
          "tar -cf - tree | cat > /dev/null; cp -a tree copy; rm -rf copy; cat big > /dev/null",
          bench.mount,
        );
        return bench.memoryBytes() / 1e6;
      },
    },
  ],
  directory: [
    each("create in 50,000", BIG_DIRECTORY, (path, i) => closeSync(openSync(path(i), "w"))),
    {
      name: "ls -l of 50,000, cold",
      unit: "s",
      run(bench) {
        bench.cold();
        return seconds(() => sh("ls -l files > /dev/null", bench.mount));
      },
    },
    shell("ls -l of 50,000, warm", () => "ls -l files > /dev/null", { warm: true }),
    {
      name: "rm of 50,000",
      unit: "s",
      run: ({ mount }) => seconds(() => rmSync(join(mount, "files"), { recursive: true })),
    },
  ],
};

/** A package is a directory with a manifest, a licence and three modules, as npm unpacks them. */
function INSTALL(packages: number): string {
  return `mkdir node_modules; i=0; while [ $i -lt ${packages} ]; do i=$((i+1)); d=node_modules/p$i; mkdir $d $d/lib; echo "{\\"name\\":\\"p$i\\"}" > $d/package.json; echo MIT > $d/LICENSE; for m in a b c; do echo "module.exports = $i" > $d/lib/$m.js; done; done`;
}

/** C files that include one another's headers, and a Makefile. */
const GENERATE = `n=$1; i=0; objects=
while [ $i -lt $n ]; do i=$((i+1)); echo "int f$i(int);" > h$i.h
echo "#include <stdio.h>
#include <stdlib.h>
#include \\"h$i.h\\"
int f$i(int x) { return x + $i; }" > c$i.c; objects="$objects c$i.o"; done
echo "int main(void) { return 0; }" > main.c
printf 'program: main.o%s\\n\\t$(CC) -o $@ $^\\n' "$objects" > Makefile
`;

/** Makes what the workloads use: a tar of `tree`, random bytes, a git repository of the tree. */
export function prepareData(data: string, tree: string, scale: number): { files: number; bytes: number } {
  mkdirSync(join(data, "tree"));
  sh(`cp -a ${tree}/. ${data}/tree/`, data);
  sh("tar -cf tree.tar tree", data);
  sh(
    "git -c init.defaultBranch=main init -q repository && cp -a tree repository/ && cd repository && " +
      "git add -A . && git -c user.name=b -c user.email=b@example.org commit -qm tree && git gc -q",
    data,
  );
  const bytes = Math.round(1024 * scale) * MIB;
  sh(`head -c ${bytes} /dev/urandom > random`, data);
  const files = readdirSync(join(data, "tree"), { recursive: true }).length;
  rmSync(join(data, "tree"), { recursive: true });
  writeFileSync(join(data, "generate.sh"), GENERATE);
  return { files, bytes: statSync(join(data, "tree.tar")).size };
}
