/**
 * Damage under a running mount: another process writes over pages of the volume's file. What lies on them is EIO and is
 * named in the log once, everything else keeps working, and no wrong byte is given out.
 */
import { spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { afterEach, describe, expect, test } from "vitest";
import { unlock } from "../../src/core/unlock.ts";
import { Pages } from "../../src/db/pages.ts";
import { drain, inspect } from "../../src/fsck/check.ts";
import { noise } from "../core/noise.ts";
import { O, SysError, sys } from "../helpers/libc.ts";
import { Random } from "../helpers/model.ts";
import { isLong, report, seed } from "../helpers/torture.ts";
import { isAlive, mountingImpossible, PASSWORD, TestVolume, until } from "../helpers/volume.ts";

const impossible = mountingImpossible();
if (impossible !== undefined) console.warn(`damage under a mount is not tested: ${impossible}`);

const LONG = isLong();
/** Not the usual size: the kernel reads pages of 4 KiB, and one of them must not lie in two blocks. */
const BLOCK = 65_536;
const PAGE = 16_384;
const BLOCKS = 5;
const FILES = Array.from({ length: 12 }, (_, i) => `file${String(i).padStart(2, "0")}`);
const TIMEOUT = LONG ? 3_600_000 : 60_000;

let volume: TestVolume;
afterEach(({ task }) => {
  // What the daemon said is gone with the volume.
  if (task.result?.state === "fail" && existsSync(log())) console.log(readFileSync(log(), "utf8"));
  volume?.remove();
});

/** Bytes that do not shrink, and tell every 4 KiB which file and place they are of. */
function contentOf(name: string): Buffer {
  const content = noise(BLOCKS * BLOCK - 777, FILES.indexOf(name));
  for (let at = 0; at < content.length - 32; at += 4096) content.write(`@@${name}:${at}@@`, at);
  return content;
}

/** A page that holds nothing but content of one block. */
interface Place {
  readonly page: number;
  readonly name: string;
  readonly block: number;
}

/** A closed volume with FILES, and where their contents lie in it. */
function prepared(): { places: readonly Place[]; others: readonly number[]; copy: string } {
  volume = TestVolume.create({ createArgs: ["--block-size", `${BLOCK}`] });
  volume.mount();
  for (const name of FILES) {
    writeFileSync(join(volume.mountpoint, name), contentOf(name));
    sys.setxattr(join(volume.mountpoint, name), "user.x", `${name} `.repeat(100));
  }
  volume.unmount();
  const copy = join(volume.home, "copy");
  copyFileSync(volume.file, copy);
  return { ...survey(copy), copy };
}

function survey(path: string): { places: readonly Place[]; others: readonly number[] } {
  const places: Place[] = [];
  const others: number[] = [];
  const key = unlock(path, Buffer.from(PASSWORD));
  const pages = new Pages(path, key);
  for (let page = 1; page <= pages.pageCount; page++) {
    const text = pages.read(page)?.toString("latin1") ?? "";
    const marks = [...text.matchAll(/@@(file\d\d):(\d+)@@/g)].map(
      ([, name = "", at]) => `${name}:${Math.floor(Number(at) / BLOCK)}`,
    );
    const [name = "", block] = marks[0]?.split(":") ?? [];
    if (marks.length < 3 || new Set(marks).size > 1) others.push(page);
    else places.push({ page, name, block: Number(block) });
  }
  // The next block is stored beside the last one: that page is needed for more than content.
  if (places.at(-1)?.page === pages.pageCount) others.push(places.pop()?.page as number);
  pages.close();
  key.wipe();
  return { places, others };
}

/** Writes over some bytes of a page. Not by this process, nor by one that knows of the mount. */
function damage(page: number, random: Random): void {
  const at = (page - 1) * PAGE + 16 + random.below(PAGE - 64);
  const done = spawnSync("dd", [`of=${volume.file}`, "bs=1", `seek=${at}`, "conv=notrunc", "status=none"], {
    input: randomBytes(16),
  });
  expect(done.status, done.stderr.toString()).toBe(0);
}

/** The errno of a call, "ok" where it had none. */
function outcome(call: () => unknown): string {
  try {
    call();
    return "ok";
  } catch (error) {
    const code = error instanceof SysError ? error.code : (error as NodeJS.ErrnoException).code;
    if (code === undefined) throw error;
    return code;
  }
}

/** "right" or the errno of reading one block; other bytes than the right ones fail the test. */
function readBlock(name: string, block: number): string {
  const fd = sys.open(join(volume.mountpoint, name), O.RDONLY);
  try {
    // Readahead asks for neighbours too, and what it cannot get must not be taken for what was asked.
    const got = sys.pread(fd, BLOCK, block * BLOCK);
    const right = contentOf(name).subarray(block * BLOCK, (block + 1) * BLOCK);
    expect(got.equals(right), `block ${block} of ${name} has its bytes`).toBe(true);
    return "right";
  } catch (error) {
    if (error instanceof SysError) return error.code;
    throw error;
  } finally {
    sys.close(fd);
  }
}

const log = (): string => join(volume.home, "log");

/** Lines of the log that tell of errors. */
function errors(): string[] {
  return readFileSync(log(), "utf8")
    .split("\n")
    .filter((line) => / (error|warn) /.test(line));
}

function mount(): void {
  writeFileSync(log(), "");
  volume.mount("--log-file", log());
}

/** Ends the mount, which must take its last changes, and puts back the whole file. */
async function unmount(copy?: string): Promise<void> {
  const { pid } = volume;
  const done = volume.cli(["unmount", volume.mountpoint]);
  expect(done.status, done.stderr).toBe(0);
  await until("the daemon to end", () => !isAlive(pid));
  expect(readdirSync(join(volume.home, "db"))).toEqual(["volume.sqlite"]);
  if (copy !== undefined) copyFileSync(copy, volume.file);
}

/** Everything that does not need what is damaged. */
function expectAlive(mnt: string, round: number): void {
  const made = join(mnt, `made${round}`);
  mkdirSync(made);
  writeFileSync(join(made, "f"), contentOf("file00"));
  const fd = sys.open(join(made, "f"), O.RDWR);
  sys.pwrite(fd, "changed", 70_000);
  sys.fsync(fd);
  expect(sys.pread(fd, 7, 70_000).toString()).toBe("changed");
  sys.close(fd);
  renameSync(join(made, "f"), join(made, "g"));
  sys.unlink(join(made, "g"));
  sys.rmdir(made);
  expect(volume.cli(["sync", mnt]).status).toBe(0);
}

describe.skipIf(impossible !== undefined)("pages that are damaged under a mount", () => {
  test("of names: diff, which reads all of them, is refused, and the mount lives on", async () => {
    volume = TestVolume.create();
    volume.mount();
    const directory = join(volume.mountpoint, "d");
    mkdirSync(directory);
    for (let i = 0; i < 3000; i++) writeFileSync(join(directory, `@@name${i}@@`.padEnd(100, "-")), "");
    expect(volume.cli(["snapshot", "create", volume.mountpoint, "one"]).status).toBe(0);
    volume.unmount();
    const copy = join(volume.home, "copy");
    copyFileSync(volume.file, copy);
    const key = unlock(copy, Buffer.from(PASSWORD));
    const pages = new Pages(copy, key);
    // Not the last of them, which takes the names that are made below.
    const named = Array.from({ length: pages.pageCount }, (_, i) => i + 1).filter((page) => {
      const names: readonly string[] =
        (pages.read(page)?.toString("latin1") ?? "").match(/@@name\d+@@/g) ?? [];
      return names.length > 20 && !names.includes("@@name999@@") && !names.includes("@@name2999@@");
    });
    pages.close();
    key.wipe();
    mount();
    writeFileSync(join(volume.mountpoint, "not committed"), "kept");
    const [bad = 0] = named;
    damage(bad, new Random(seed()));
    expect(volume.cli(["diff", "one", "now", volume.mountpoint]).status).not.toBe(0);
    expect(isAlive(volume.pid)).toBe(true);
    expectAlive(volume.mountpoint, 0);
    expect(readFileSync(join(volume.mountpoint, "not committed"), "utf8")).toBe("kept");
    await unmount(copy);
  }, 60_000);

  test("of a block: EIO for that block however often it is read, one line names the file, the rest works", async () => {
    const { places } = prepared();
    mount();
    const mnt = volume.mountpoint;
    const bad = places.find(({ name, block }) => name === "file03" && block === 2) as Place;
    damage(bad.page, new Random(seed()));
    for (let i = 0; i < 3; i++) expect(readBlock("file03", 2)).toBe("EIO");
    const fd = sys.open(join(mnt, "file03"), O.RDWR);
    expect(outcome(() => sys.pwrite(fd, "in the middle of it", 2 * BLOCK + 1000))).toBe("EIO");
    sys.close(fd);
    for (const name of FILES)
      for (let block = 0; block < BLOCKS; block++)
        if (name !== "file03" || block !== 2)
          expect(readBlock(name, block), `${name}:${block}`).toBe("right");
    expectAlive(mnt, 0);
    expect(errors()).toEqual([expect.stringMatching(/ error .*\/file03 is damaged: /)]);
    // What was written meanwhile is committed, and fsck names the same file.
    writeFileSync(join(mnt, "new"), "new");
    await unmount();
    const key = unlock(volume.file, Buffer.from(PASSWORD));
    const paths = drain(inspect(volume.file, key)).findings.flatMap(({ path }) => path ?? []);
    key.wipe();
    expect([...new Set(paths)]).toEqual(["/file03"]);
    volume.mount();
    expect(readFileSync(join(mnt, "new"), "utf8")).toBe("new");
    // A file that is damaged can be removed, and its space is used again.
    sys.unlink(join(mnt, "file03"));
    await unmount();
  });

  const ROUNDS = LONG ? 300 : 3;
  test(`of any contents, ${ROUNDS} times: exactly the blocks on them are EIO, each file is named once`, {
    timeout: TIMEOUT,
  }, async () => {
    const { places, copy } = prepared();
    const random = new Random(seed());
    for (let round = 0; round < ROUNDS; round++) {
      mount();
      const bad = new Map<string, Place>();
      for (let i = random.below(6); i >= 0; i--) {
        const place = places[random.below(places.length)] as Place;
        bad.set(`${place.name}:${place.block}`, place);
        damage(place.page, random);
      }
      for (let pass = 0; pass < 2; pass++)
        for (const name of FILES)
          for (let block = 0; block < BLOCKS; block++)
            expect(readBlock(name, block), `${name}:${block}`).toBe(
              bad.has(`${name}:${block}`) ? "EIO" : "right",
            );
      expectAlive(volume.mountpoint, round);
      const named = errors().map((line) => /\/(file\d\d) is damaged/.exec(line)?.[1] ?? line);
      expect(named.sort()).toEqual([...new Set([...bad.values()].map(({ name }) => name))].sort());
      await unmount(copy);
    }
    report("damage", ROUNDS, "contents");
  });

  test("of the tables: the right answer or EIO, never another one, and the mount lives on", {
    timeout: TIMEOUT,
  }, async () => {
    const { others, copy } = prepared();
    const random = new Random(seed());
    const pages = LONG ? others : [1, 2, 3].map(() => others[random.below(others.length)] as number);
    let refused = 0;
    for (const page of pages) {
      mount();
      const mnt = volume.mountpoint;
      damage(page, random);
      const listed = outcome(() => expect(readdirSync(mnt).sort()).toEqual(FILES));
      expect(["ok", "EIO"], `listing, page ${page}`).toContain(listed);
      const answers = FILES.flatMap((name) => [
        outcome(() => expect(sys.stat(join(mnt, name)).size).toBe(contentOf(name).length)),
        outcome(() => expect(readFileSync(join(mnt, name)).equals(contentOf(name))).toBe(true)),
        outcome(() =>
          expect(sys.getxattr(join(mnt, name), "user.x").toString()).toBe(`${name} `.repeat(100)),
        ),
      ]);
      expect([...new Set([...answers, "ok", "EIO"])].sort(), `page ${page}`).toEqual(["EIO", "ok"]);
      const failed = [listed, ...answers].filter((one) => one === "EIO").length;
      if (failed > 0) {
        refused++;
        expect(errors(), `page ${page}`).not.toEqual([]);
        expect(errors().length, `page ${page}: ${errors().join("\n")}`).toBeLessThanOrEqual(failed);
      }
      const status = JSON.parse(volume.cli(["status", "--json", mnt]).stdout) as unknown;
      expect(JSON.stringify(status)).toContain('"serving"');
      await unmount(copy);
    }
    report("damage", pages.length, `tables, ${refused} told`);
  });
});
