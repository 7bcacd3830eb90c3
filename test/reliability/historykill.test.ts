/**
 * kill -9 of a mount while it prunes, while snapshots are made, and while a restore runs. After each kill the volume
 * is clean, every snapshot that was acknowledged and not deleted is what it was, and what was begun can be done again.
 * SQLFUSE_LONG=1 does 60 rounds of each, SQLFUSE_KILLS=n so many.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmdirSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { isDirectory } from "../../src/core/mode.ts";
import { type At, type Ino, ROOT_INO } from "../../src/core/types.ts";
import { unlock } from "../../src/core/unlock.ts";
import { Volume } from "../../src/core/volume.ts";
import type { Key } from "../../src/db/key.ts";
import { Random, seedOf } from "../helpers/model.ts";
import { CLI, mountingImpossible, type Outcome, PASSWORD, TestVolume, until } from "../helpers/volume.ts";

const LONG = process.env.SQLFUSE_LONG === "1";
const ROUNDS = Number(process.env.SQLFUSE_KILLS ?? (LONG ? 60 : 2));
/** What a round may take on a busy machine. */
const ROUND_MS = 30_000;
const FILES = 120;
const FILE_BYTES = 40_000;

const impossible = mountingImpossible();
let volume: TestVolume;
let random: Random;
let key: Key;

beforeEach(() => {
  random = new Random(seedOf("kills while history is made"));
  volume = TestVolume.create();
  // Derived once: it is looked into often.
  key = unlock(volume.file, Buffer.from(PASSWORD));
  volume.mount();
});
afterEach(() => {
  key.wipe();
  volume.remove();
});

function succeed(done: Outcome): string {
  expect({ status: done.status, stderr: done.stderr }).toEqual({ status: 0, stderr: "" });
  return done.stdout;
}

function names(): string[] {
  const list = JSON.parse(succeed(volume.cli(["snapshot", "list", volume.file, "--json"]))) as object[];
  return list.map((one) => (one as { name: string }).name);
}

const contentOf = (state: number, file: number): string =>
  `state ${state} of ${file};`.padEnd(FILE_BYTES, `${state}`);
const pathOf = (file: number): string => `/d${file % 7}/f${file}`;

/** Brings the mount to a state, of which its number tells everything. */
function write(state: number): void {
  for (let file = 0; file < FILES; file++) {
    if (file % 3 !== state % 3 && state > 2) continue;
    mkdirSync(join(volume.mountpoint, `d${file % 7}`), { recursive: true });
    writeFileSync(join(volume.mountpoint, pathOf(file)), contentOf(state, file));
  }
}

/** What `write` made of it, up to that state. */
function expected(state: number): Map<string, string> {
  const last = (file: number): number => {
    for (let at = state; at > 2; at--) if (file % 3 === at % 3) return at;
    return Math.min(state, 2);
  };
  const files = Array.from(
    { length: FILES },
    (_, file) => [pathOf(file), contentOf(last(file), file)] as const,
  );
  return new Map(files.sort(([a], [b]) => (a < b ? -1 : 1)));
}

/** Every file of the volume, which nobody has mounted, by its path. */
function contents(at?: At): Map<string, string> {
  const opened = Volume.open(volume.file, key, at === undefined ? { readOnly: true } : { at });
  const found: [string, string][] = [];
  const walk = (directory: Ino, path: string): void => {
    const children: { path: string; ino: Ino; type: number }[] = [];
    opened.tree.readdir(directory, 0, ({ name, ino, type }) => {
      children.push({ path: `${path}/${Buffer.from(name).toString()}`, ino, type });
      return true;
    });
    for (const child of children) {
      if (isDirectory(child.type)) walk(child.ino, child.path);
      else {
        const bytes = Buffer.alloc(opened.attributes.getattr(child.ino).size);
        opened.files.read(child.ino, 0, bytes.length, bytes);
        found.push([child.path, bytes.toString()]);
      }
    }
  };
  try {
    walk(ROOT_INO, "");
  } finally {
    opened.close();
  }
  return new Map(found.sort(([a], [b]) => (a < b ? -1 : 1)));
}

/** Kills the mount after some milliseconds, and finds nothing wrong with what it left. */
async function kill(mostMs: number): Promise<void> {
  await sleep(random.below(mostMs));
  await volume.kill();
  // Opened and closed, so that one file is left for the checker.
  Volume.open(volume.file, key).close();
  volume.check();
}

/** What a descriptor is of; it may be closed by now. */
function linkOf(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return "";
  }
}

function sqlfuse(...args: string[]): ChildProcess {
  return spawn(process.execPath, [CLI, ...args], {
    stdio: "ignore",
    env: { ...process.env, NODE_OPTIONS: "", SQLFUSE_PASSWORD: PASSWORD },
  });
}

describe.skipIf(impossible !== undefined)("kill -9 of a mount", () => {
  test(
    `while it prunes, ${ROUNDS} times: what was not deleted is what it was`,
    async () => {
      let state = 0;
      const kept = new Map<string, number>();
      for (let round = 0; round < ROUNDS; round++) {
        for (let i = 0; i < 8; i++) {
          write(++state);
          mkdirSync(join(volume.mountpoint, `.sqlfuse/snapshots/s${state}`));
          kept.set(`s${state}`, state);
        }
        write(++state);
        for (const name of [...kept.keys()])
          if (random.below(4) > 0) {
            rmdirSync(join(volume.mountpoint, ".sqlfuse/snapshots", name));
            kept.delete(name);
          }
        await kill(60);
        expect(names()).toEqual([...kept.keys()]);
        for (const [name, then] of kept) expect(contents({ name })).toEqual(expected(then));
        volume.mount();
        write(state);
      }
      volume.unmount();
      expect(contents()).toEqual(expected(state));
    },
    ROUNDS * ROUND_MS,
  );

  test(
    `while snapshots are made, ${ROUNDS} times: each that was acknowledged is there, and whole`,
    async () => {
      const journal = join(volume.home, "journal");
      const MAKE = `i=0; while i=$((i+1)); do
      echo $i > "$0/a"; mkdir "$0/.sqlfuse/snapshots/r$2-$i" && echo $i > "$0/b" && echo $i >> "$1" || exit; done`;
      for (let round = 0; round < ROUNDS; round++) {
        writeFileSync(journal, "");
        const maker = spawn("sh", ["-c", MAKE, volume.mountpoint, journal, `${round}`], { stdio: "ignore" });
        await kill(1000);
        if (maker.exitCode === null) await once(maker, "exit");
        const made = readFileSync(journal, "utf8").split("\n").length - 1;
        const kept = names().filter((name) => name.startsWith(`r${round}-`));
        const wanted = Array.from({ length: kept.length }, (_, i) => `r${round}-${i + 1}`);
        expect(kept).toEqual(wanted);
        // The last one may have been made and not been heard of.
        expect([made, made + 1]).toContain(kept.length);
        for (const [i, name] of kept.entries()) {
          expect(contents({ name }).get("/a")).toBe(`${i + 1}\n`);
          if (i > 0) expect(contents({ name }).get("/b")).toBe(`${i}\n`);
        }
        volume.mount();
      }
      volume.unmount();
    },
    ROUNDS * ROUND_MS,
  );

  test(
    `while a restore runs, ${ROUNDS} times: each file is what it was or what it is, and it can be done again`,
    async () => {
      for (let state = 0; state < 3; state++) write(state);
      mkdirSync(join(volume.mountpoint, ".sqlfuse/snapshots/good"));
      const good = expected(2);
      for (let round = 0; round < ROUNDS; round++) {
        for (const [path] of good) {
          const file = join(volume.mountpoint, path);
          writeFileSync(file, `encrypted ${path}`);
          if (random.below(2) === 0) renameSync(file, `${file}.locked`);
        }
        const args = ["restore", "--quiet", "--at", "good", "--delete", volume.mountpoint];
        const restoring = sqlfuse(...args);
        const first = join(volume.mountpoint, "d0/f0");
        await until(
          "the first file",
          () => existsSync(first) && readFileSync(first, "utf8") === good.get("/d0/f0"),
        );
        await kill(30);
        if (restoring.exitCode === null) await once(restoring, "exit");
        for (const [path, content] of contents()) {
          // A file that is not put in its place yet may be cut short: so it has a name of its own.
          if (path.includes("/.sqlfuse-")) continue;
          const name = path.replace(/\.locked$/, "");
          expect([good.get(path), `encrypted ${name}`]).toContain(content);
        }
        volume.mount();
        succeed(volume.cli(args));
        volume.remount();
      }
      volume.unmount();
      expect(contents()).toEqual(good);
    },
    ROUNDS * ROUND_MS,
  );

  test("while the kernel writes back for a snapshot: another process waits for that, and the mount ends at once", async () => {
    volume.unmount();
    // `sync` that takes long stands for a kernel that does.
    const bin = join(volume.home, "bin");
    const begun = join(volume.home, "begun");
    mkdirSync(bin);
    writeFileSync(join(bin, "sync"), `#!/bin/sh\ntouch '${begun}'\nexec sleep 5\n`, { mode: 0o755 });
    const { PATH } = process.env;
    process.env.PATH = `${bin}:${PATH}`;
    try {
      volume.mount();
    } finally {
      process.env.PATH = PATH;
    }
    const { pid } = volume;
    const making = spawn("mkdir", [join(volume.mountpoint, ".sqlfuse/snapshots/a")], { stdio: "ignore" });
    const over = once(making, "close");
    await until("the kernel to be asked", () => existsSync(begun));
    // Whoever holds the device could not be killed while he waits for an answer that only he can give.
    const inMount = readdirSync(`/proc/${pid}/fd`).filter((fd) =>
      linkOf(`/proc/${pid}/fd/${fd}`).startsWith(volume.mountpoint),
    );
    expect(inMount).toEqual([]);
    const children = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").trim().split(" ");
    const devices = children.flatMap((child) =>
      readdirSync(`/proc/${child}/fd`).filter((fd) => linkOf(`/proc/${child}/fd/${fd}`) === "/dev/fuse"),
    );
    expect(devices).toEqual([]);
    await kill(1);
    expect((await over)[0]).not.toBe(0);
    expect(names()).toEqual([]);
  });
});
