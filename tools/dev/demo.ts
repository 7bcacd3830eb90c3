/**
 * `npm run demo`: does once, through the command line, what the filesystem is for, on files that any machine has,
 * and says with figures what it did. Leaves nothing behind.
 */
import { type SpawnSyncReturns, spawnSync } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  rmSync,
  statSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { unlock } from "../../src/core/unlock.ts";
import { check } from "../../src/fsck/check.ts";

const CLI = fileURLToPath(new URL("../cli.js", import.meta.url));
/** The big binaries among npm packages would say more about the disk than about the filesystem. */
const LARGEST = 4 * 1024 * 1024;

const temporary = realpathSync(mkdtempSync(join(tmpdir(), "sqlfuse-demo-")));
const volume = join(temporary, "demo.sqlite");
const mountpoint = join(temporary, "demo");
const archive = join(temporary, "tree.tar");
const password = randomBytes(18).toString("base64");

function say(line: string): void {
  console.log(line);
}

function succeed(result: SpawnSyncReturns<Buffer>, what: string): void {
  if (result.status === 0) return;
  const text = result.error?.message ?? result.stderr.toString().trim();
  throw new Error(`${what} failed (${result.status ?? result.signal}): ${text}`);
}

function sqlfuse(...args: string[]): void {
  const result = spawnSync(process.execPath, [CLI, ...args], {
    env: { ...process.env, SQLFUSE_PASSWORD: password },
    // The log of the mount is nobody's business but the demo's.
    stdio: ["ignore", "pipe", "pipe"],
  });
  succeed(result, `sqlfuse ${args.join(" ")}`);
}

function mount(): void {
  sqlfuse("mount", volume, "--log-file", join(temporary, "log"));
}

async function timed<T>(work: () => T | Promise<T>): Promise<{ result: T; seconds: number }> {
  const start = performance.now();
  const result = await work();
  return { result, seconds: (performance.now() - start) / 1000 };
}

/** What a tree is, in lines that can be compared: type, mode, size or target, hash of the contents. */
function describe(root: string, names: readonly string[]): Map<string, string> {
  const lines = new Map<string, string>();
  for (const name of names) {
    const path = join(root, name);
    const stat = lstatSync(path);
    const mode = (stat.mode & 0o7777).toString(8);
    if (stat.isDirectory()) lines.set(name, `directory ${mode}`);
    else if (stat.isSymbolicLink()) lines.set(name, `symlink ${readlinkSync(path)}`);
    else
      lines.set(
        name,
        `file ${mode} ${stat.size} ${createHash("sha256").update(readFileSync(path)).digest("hex")}`,
      );
  }
  return lines;
}

function list(root: string): string[] {
  return readdirSync(root, { recursive: true, encoding: "utf8" }).sort();
}

/** The npm packages of this project, and npm itself where it is installed beside node. */
function sourceTree(): { root: string; names: string[] } {
  const root = join(temporary, "source");
  mkdirSync(root);
  const npm = join(dirname(dirname(process.execPath)), "lib/node_modules/npm");
  for (const place of ["node_modules", ...(existsSync(npm) ? [npm] : [])]) {
    const target = join(root, place === "node_modules" ? "packages" : "npm");
    mkdirSync(target);
    const names = list(place).filter((name) => {
      const stat = lstatSync(join(place, name));
      return stat.isDirectory() || stat.isSymbolicLink() || (stat.isFile() && stat.size <= LARGEST);
    });
    const packed = spawnSync("tar", ["-C", place, "--no-recursion", "--null", "-T", "-", "-cf", "-"], {
      input: names.join("\0"),
      maxBuffer: 2 ** 30,
    });
    succeed(packed, "tar");
    succeed(spawnSync("tar", ["-C", target, "-xf", "-"], { input: packed.stdout }), "tar");
  }
  return { root, names: list(root) };
}

async function demo(): Promise<void> {
  const source = sourceTree();
  const before = describe(source.root, source.names);
  const sizes = source.names.map((name) => lstatSync(join(source.root, name)));
  const files = sizes.filter((stat) => stat.isFile());
  const megabytes = files.reduce((sum, stat) => sum + stat.size, 0) / 1e6;
  succeed(spawnSync("tar", ["-C", source.root, "-cf", archive, "."]), "tar");
  say(
    `a tree of ${files.length} files and ${sizes.length - files.length} directories and links, ${megabytes.toFixed(1)} MB`,
  );

  const created = await timed(() => sqlfuse("create", volume));
  const mounted = await timed(mount);
  const who = process.geteuid?.() === 0 ? "root" : `user ${process.geteuid?.()}`;
  say(
    `created an encrypted volume in ${created.seconds.toFixed(1)} s and mounted it as ${who} in ${mounted.seconds.toFixed(1)} s`,
  );

  const unpacked = await timed(() => succeed(spawnSync("tar", ["-C", mountpoint, "-xf", archive]), "tar"));
  const rate = (source.names.length / unpacked.seconds).toFixed(0);
  say(`unpacked the tree into it in ${unpacked.seconds.toFixed(1)} s: ${rate} entries a second`);
  const unmounted = await timed(() => sqlfuse("unmount", mountpoint));
  const size = statSync(volume).size;
  say(
    `unmounted in ${unmounted.seconds.toFixed(1)} s; what is left is one file of ${(size / 1e6).toFixed(1)} MB`,
  );
  const beside = readdirSync(temporary).filter(
    (name) => name.startsWith("demo.sqlite") && name !== "demo.sqlite",
  );
  if (beside.length > 0) throw new Error(`unmounted, but these files are left: ${beside.join(", ")}`);

  mount();
  const listed = await timed(() => list(mountpoint));
  say(`mounted it again and listed ${listed.result.length} entries in ${listed.seconds.toFixed(2)} s`);
  const read = await timed(() => describe(mountpoint, listed.result));
  compare(before, read.result);
  const speed = (megabytes / read.seconds).toFixed(0);
  say(
    `read everything back in ${read.seconds.toFixed(1)} s (${speed} MB/s with hashing): every SHA-256, mode and link is as before`,
  );
  sqlfuse("unmount", mountpoint);

  const checked = await timed(() => {
    const secret = Buffer.from(password);
    const key = unlock(volume, secret);
    secret.fill(0);
    try {
      return check(volume, key);
    } finally {
      key.wipe();
    }
  });
  for (const finding of checked.result) say(`  ${finding.kind}: ${finding.text}`);
  if (checked.result.length > 0) throw new Error(`${checked.result.length} findings in ${volume}`);
  say(`unmounted it and checked the file in ${checked.seconds.toFixed(1)} s: no findings`);
}

function compare(before: Map<string, string>, after: Map<string, string>): void {
  const wrong = [...before].filter(([name, line]) => after.get(name) !== line).map(([name]) => name);
  const extra = [...after.keys()].filter((name) => !before.has(name));
  if (wrong.length + extra.length === 0) return;
  const name = wrong[0] ?? extra[0] ?? "";
  throw new Error(
    `${wrong.length} entries differ and ${extra.length} are too many; first ${relative(".", name)}: ` +
      `${before.get(name) ?? "absent"} became ${after.get(name) ?? "absent"}`,
  );
}

function leaveNothing(): void {
  spawnSync(process.execPath, [CLI, "unmount", "--lazy", mountpoint], { stdio: "ignore" });
  rmSync(temporary, { recursive: true, force: true });
}

for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  process.on(signal, () => {
    leaveNothing();
    process.exit(130);
  });
}
try {
  await demo();
  rmSync(temporary, { recursive: true, force: true });
  say("demo: all well");
} catch (error) {
  const log = join(temporary, "log");
  if (existsSync(log)) console.error(readFileSync(log, "utf8"));
  console.error(`demo: ${error instanceof Error ? error.message : String(error)}`);
  leaveNothing();
  process.exitCode = 1;
}
