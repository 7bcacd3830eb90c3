/** Whoever keeps a log cannot change what replicas become: what he changes is refused, with the reason, and nothing is applied. */
import { createHash } from "node:crypto";
import { copyFileSync, existsSync, readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { decodeLogHead, encodeLogHead } from "../../src/log/head.ts";
import { Sealer } from "../../src/log/seal.ts";
import { verifyLog } from "../../src/log/verify.ts";
import { LogError, type LogReason } from "../../src/remote/errors.ts";
import { b, noise, put, ROOT } from "../core/fixture.ts";
import { Random } from "../core/random.ts";
import { LogFixture, NAME } from "./fixture.ts";
import { MemoryStore } from "./memory.ts";

/** `SQLFUSE_LONG=1` or `SQLFUSE_CASES`, with another `SQLFUSE_SEED` each time, for more. */
const CASES = Number(process.env.SQLFUSE_CASES ?? (process.env.SQLFUSE_LONG === "1" ? 2500 : 400));
const HEADER = 64;

/** A log of seven segments; a replica that has the first two, and one that has five. */
let log: LogFixture;
let store: MemoryStore;
/** The same places in the log of another volume. */
let foreign: MemoryStore;
/** Names of the files of the log when it had so many segments. */
const namesAt = new Map<number, Set<string>>();
let writer: string;
const SEGMENTS = 7;

async function makeLog(fixture: LogFixture, into: MemoryStore, seed: number): Promise<void> {
  const { volume } = fixture;
  for (let number = 1; number <= SEGMENTS; number++) {
    put(volume, ROOT, `file ${number}`, noise(40_000, seed + number));
    put(volume, ROOT, `canary ${number}`, "CANARY of what is written ".repeat(40));
    const { ino } = volume.tree.lookup(ROOT, b("file 1")) ?? { ino: ROOT };
    volume.files.write(ino, number * 1000, noise(500, seed + 50 + number), false);
    volume.xattrs.set(ino, b("user.canary"), b("CANARY value"), 0, false);
    await fixture.push(into);
    namesAt.set(number, new Set(into.files.keys()));
    if (into !== store) continue;
    if (number === 2 || number === 5) await fixture.clone(`replica ${number}`, {}, into);
  }
}

beforeAll(async () => {
  [log, store, foreign] = [new LogFixture(), new MemoryStore(), new MemoryStore()];
  const other = new LogFixture();
  try {
    other.addRemote();
    await makeLog(other, foreign, 1000);
  } finally {
    other.remove();
  }
  log.addRemote();
  await makeLog(log, store, 0);
  writer = [...store.files.keys()].find((name) => name.startsWith("log/"))?.split("/")[1] ?? "";
  for (const number of [2, 5]) copyFileSync(log.path(`replica ${number}`), log.path(`kept ${number}`));
}, 60_000);

afterAll(() => log.remove());

const segmentName = (number: number) => `log/${writer}/${String(number).padStart(16, "0")}`;
const hashOf = (path: string) => createHash("sha256").update(readFileSync(path)).digest("hex");

/** Pulls from a log that was tampered with; gives why it was refused. */
async function refusal(tampered: MemoryStore, have: 2 | 5): Promise<LogError> {
  const name = `replica ${have}`;
  const before = hashOf(log.path(name));
  try {
    await log.pull(name, tampered);
  } catch (error) {
    if (!(error instanceof LogError)) throw error;
    return error;
  } finally {
    // What came before what was tampered with may be applied; a refusal of the log itself changes nothing.
    if (hashOf(log.path(name)) !== before) copyFileSync(log.path(`kept ${have}`), log.path(name));
  }
  throw new Error("was not refused");
}

/** Files that a replica needs that has so many segments: the segments, and the objects that came with them. */
function needed(have: number): string[] {
  const before = namesAt.get(have) ?? new Set();
  return [...store.files.keys()].filter((name) => !before.has(name) && !name.startsWith("key/"));
}

/** Pulls read objects with blocks by ranges: what is in front of the first is not read. */
const firstRead = (name: string) => (store.files.get(name)?.toString("latin1", 9, 10) === "B" ? HEADER : 0);

describe("a log that was tampered with", () => {
  it(`is refused, ${CASES} times, with the file and the reason`, async () => {
    const random = new Random(Number(process.env.SQLFUSE_SEED ?? 1));
    const seen = new Map<string, number>();
    const pickOf = (names: readonly string[]) => random.pick(names);
    let tried = 0;
    for (let i = 0; tried < CASES; i++) {
      const have = random.pick([2, 5] as const);
      const tampered = store.copy();
      const names = needed(have);
      const name = pickOf(names);
      const file = Buffer.from(store.files.get(name) ?? []);
      const at = firstRead(name) + random.below(file.length - firstRead(name));
      let expected: readonly LogReason[] = ["damaged"];
      const how = random.pick([
        "flip",
        "byte",
        "truncate",
        "append",
        "drop",
        "swap",
        "foreign",
        "replay",
        "zero",
      ]);
      if (how === "flip" || how === "byte") {
        file[at] = (file[at] ?? 0) ^ (how === "flip" ? 1 << random.below(8) : 1 + random.below(255));
        tampered.files.set(name, file);
        // The header says what it is, in which version, of which log.
        if (at < HEADER) expected = ["damaged", "foreign", "other-log", "too-new"];
      } else if (how === "truncate") tampered.files.set(name, file.subarray(0, at));
      else if (how === "append") {
        // Ranges end where blocks do: what is behind is not read.
        if (firstRead(name) > 0) continue;
        tampered.files.set(name, Buffer.concat([file, random.bytes(1 + random.below(40))]));
      } else if (how === "zero") {
        file.fill(0, at, Math.min(file.length, at + 1 + random.below(100)));
        if (file.equals(store.files.get(name) ?? Buffer.alloc(0))) continue;
        tampered.files.set(name, file);
        if (at < HEADER) expected = ["damaged", "foreign", "other-log", "too-new"];
      } else if (how === "drop") {
        // The last one is another matter: see below.
        if (name === segmentName(SEGMENTS)) continue;
        tampered.files.delete(name);
        expected = ["incomplete"];
      } else if (how === "swap") {
        const other = pickOf(names);
        const bytes = store.files.get(other) ?? Buffer.alloc(0);
        if (other === name || bytes.equals(file)) continue;
        tampered.files.set(name, bytes);
        tampered.files.set(other, file);
        expected = ["damaged", "foreign", "other-log"];
      } else if (how === "replay") {
        // Any file of the log, old ones too, once more in the place of this one.
        const [other, bytes] = random.pick([...store.files]);
        if (other === name) continue;
        tampered.files.set(name, bytes);
        expected = ["damaged", "foreign"];
      } else {
        const others = [...foreign.files.values()];
        tampered.files.set(name, random.pick(others));
        expected = ["damaged", "foreign", "other-log"];
      }
      tried++;
      const error = await refusal(tampered, have);
      expect(expected, `case ${i}: ${how} of ${name} at ${at}: ${error.message}`).toContain(error.reason);
      expect(error.message).toContain("memory: ");
      seen.set(how, (seen.get(how) ?? 0) + 1);
    }
    expect([...seen.keys()].sort()).toEqual([
      "append",
      "byte",
      "drop",
      "flip",
      "foreign",
      "replay",
      "swap",
      "truncate",
      "zero",
    ]);
  }, 3_000_000);

  it("by a segment in the place of another is told as such, and nothing is applied", async () => {
    for (const [from, to] of [
      [3, 4],
      [5, 4],
      [2, 3],
      [1, 7],
      [7, 6],
    ] as const) {
      const tampered = store.copy();
      tampered.files.set(segmentName(to), store.files.get(segmentName(from)) ?? Buffer.alloc(0));
      const before = hashOf(log.path("replica 2"));
      await expect(log.pull("replica 2", tampered)).rejects.toMatchObject({
        reason: "foreign",
        message: `memory: ${segmentName(to)}: it is segment ${from}, in the place of segment ${to}`,
      });
      expect(hashOf(log.path("replica 2"))).toBe(before);
    }
  });

  it("by a segment that is gone is refused from there on, with its number", async () => {
    for (const number of [3, 4, 5, 6]) {
      const tampered = store.copy();
      tampered.files.delete(segmentName(number));
      const before = hashOf(log.path("replica 2"));
      await expect(log.pull("replica 2", tampered)).rejects.toMatchObject({
        reason: "incomplete",
        message: `memory: segment ${number} is missing, and without it those up to ${SEGMENTS} cannot be applied`,
      });
      expect(hashOf(log.path("replica 2"))).toBe(before);
    }
  });

  it("by cutting off its end is refused by whoever has seen more, and a clone says how far it got", async () => {
    for (const last of [1, 2, 3, 4]) {
      const older = new MemoryStore([...store.files].filter(([name]) => namesAt.get(last)?.has(name)));
      await expect(log.pull("replica 5", older)).rejects.toMatchObject({
        reason: "rolled-back",
        message: `memory: the log ends at segment ${last}, and segment 5 of it was seen: it was cut off, or is an older copy`,
      });
      await expect(log.push(older)).rejects.toMatchObject({ reason: "rolled-back" });
      expect(await log.clone(`until ${last}`, {}, older)).toMatchObject({ segment: last });
    }
  });

  it("by another end, of the same writer and as long, is refused by whoever has seen the first", async () => {
    const number = 5;
    // What the writer itself would have sealed: as a copy of the volume does that goes its own way.
    const [remote] = log.remotes();
    const sealer = new Sealer(remote?.log ?? b(""), remote?.secret ?? b(""));
    const other = store.copy();
    for (let i = SEGMENTS; i > number; i--) other.files.delete(segmentName(i));
    const content = sealer.open("segment", store.files.get(segmentName(number)) ?? b(""));
    other.files.set(segmentName(number), sealer.seal("segment", content).bytes);
    await expect(log.pull("replica 5", other)).rejects.toMatchObject({ reason: "diverged" });
    const longer = store.copy();
    longer.files.set(segmentName(number), other.files.get(segmentName(number)) ?? b(""));
    await expect(log.pull("replica 2", longer)).rejects.toMatchObject({
      reason: "foreign",
      message: "memory: segment 6 does not follow segment 5, which was replaced",
    });
  });

  it("has no plaintext", () => {
    for (const [name, file] of store.files) {
      for (const canary of ["CANARY", "canary", "file 1", "user."])
        expect(file.includes(canary), name).toBe(false);
      expect(file.subarray(0, 8).toString("latin1")).toBe("sqlfuse\0");
    }
  });
});

describe("without some of its segments a clone", () => {
  it("is refused where a first or middle one is gone, and made up to there by `until`", async () => {
    for (const number of [1, 4]) {
      const tampered = store.copy();
      tampered.files.delete(segmentName(number));
      await expect(log.clone(`without ${number}`, {}, tampered)).rejects.toMatchObject({
        reason: "incomplete",
        message: expect.stringContaining(`segment ${number} is missing`) as unknown,
      });
      if (number === 1) continue;
      expect(await log.clone(`before ${number}`, { until: number - 1 }, tampered)).toMatchObject({
        segment: 3,
      });
    }
  });

  it("is refused where an object is gone, with its name, and nothing is made", async () => {
    for (const kind of ["R", "B"]) {
      const [name = ""] = [...store.files].find(([, file]) => file.toString("latin1", 9, 10) === kind) ?? [];
      const tampered = store.copy();
      tampered.files.delete(name);
      await expect(log.clone(`without ${kind}`, {}, tampered)).rejects.toMatchObject({
        reason: "incomplete",
        message: `memory: ${name} is missing`,
      });
      expect(existsSync(log.path(`without ${kind}`))).toBe(false);
    }
  });

  it("says how far it got where the last one is gone, and is refused with a head file that has seen that", async () => {
    const [remote] = log.remotes();
    if (remote === undefined) throw new Error("no remote");
    const head = { ...remote, volume: Buffer.from(log.volume.volumeId, "hex") };
    expect(decodeLogHead(encodeLogHead(head))).toMatchObject({ segment: SEGMENTS });
    const cut = store.copy();
    cut.files.delete(segmentName(SEGMENTS));
    expect(await log.clone("cut", {}, cut)).toMatchObject({ segment: SEGMENTS - 1 });
    await expect(log.clone("x", { head }, cut)).rejects.toMatchObject({ reason: "rolled-back" });
    const other = store.copy();
    other.files.set(segmentName(SEGMENTS), foreign.files.get(segmentName(SEGMENTS)) ?? b(""));
    await expect(log.clone("x", { head }, other)).rejects.toBeInstanceOf(LogError);
    await expect(log.clone("x", { head: { ...head, hash: Buffer.alloc(32) } }, store)).rejects.toMatchObject({
      reason: "diverged",
    });
    await expect(
      log.clone("x", { head: { ...head, volume: Buffer.alloc(16) } }, store),
    ).rejects.toMatchObject({
      reason: "foreign",
    });
    expect(existsSync(log.path("x"))).toBe(false);
    expect(await log.clone("whole", { head }, store)).toMatchObject({ segment: SEGMENTS });
  });

  it("has a head file of which no byte can be changed", () => {
    const [remote] = log.remotes();
    const volume = Buffer.from(log.volume.volumeId, "hex");
    const bytes = encodeLogHead({ ...(remote ?? { log: b(""), segment: 0, hash: b("") }), volume });
    for (let at = 0; at < bytes.length; at++) {
      const flipped = Buffer.from(bytes);
      flipped[at] = (flipped[at] ?? 0) ^ 1;
      expect(decodeLogHead(flipped)).toBeUndefined();
      expect(decodeLogHead(bytes.subarray(0, at))).toBeUndefined();
    }
  });
});

describe("verify", () => {
  const verify = (tampered: MemoryStore, readPercent: number) => {
    const remote = log.remotes().find(({ name }) => name === NAME);
    if (remote === undefined) throw new Error("no remote");
    const whose = { writer: remote.writer, volume: Buffer.from(log.volume.volumeId, "hex") };
    return verifyLog(tampered, new Sealer(remote.log, remote.secret), whose, remote, { readPercent });
  };

  it("finds nothing in a log that is whole", async () => {
    const found = await verify(store, 100);
    expect(found).toMatchObject({ segments: SEGMENTS, problems: [] });
    expect(found.read).toBe(found.objects);
    expect(found.objects).toBe([...store.files.keys()].filter((name) => name.startsWith("data/")).length);
  });

  it("names each object that is gone, cut off, or, where all are read, changed", async () => {
    const blocks = [...store.files].filter(([, file]) => file.toString("latin1", 9, 10) === "B");
    const [[gone = "", file = b("")] = []] = blocks;
    const tampered = store.copy();
    tampered.files.delete(gone);
    expect((await verify(tampered, 0)).problems).toEqual([`${gone}: is missing`]);
    tampered.files.set(gone, file.subarray(0, file.length - 1));
    expect((await verify(tampered, 0)).problems).toEqual([
      `${gone}: is cut off: it has ${file.length - 1} bytes, and ${file.length} are named`,
    ]);
    const flipped = Buffer.from(file);
    flipped[3] = 0;
    tampered.files.set(gone, flipped);
    expect((await verify(tampered, 0)).problems).toEqual([]);
    expect((await verify(tampered, 100)).problems).toEqual([`${gone}: is not what was put there`]);
  });
});
