/** What may pass is tried again, and what was put is known to be ours; a limit is kept. */
import { describe, expect, it } from "vitest";
import { LogError } from "../../src/remote/errors.ts";
import { PatientStore } from "../../src/remote/patience.ts";
import type { RemoteStore } from "../../src/remote/remote.ts";
import { S3Store } from "../../src/remote/s3.ts";
import { REAL_TIMING, Throttle, type Timing } from "../../src/remote/throttle.ts";
import { MemoryStore, StoppingStore } from "../log/memory.ts";
import { CONTRACT } from "./contract.ts";
import { type FakeOptions, FakeS3, KEYS } from "./fakes3.ts";

/** A clock that waiting moves on. */
class FakeTiming implements Timing {
  nowMs = 0;
  readonly waits: number[] = [];

  now(): number {
    return this.nowMs;
  }

  async sleep(ms: number): Promise<void> {
    this.waits.push(ms);
    this.nowMs += ms;
  }
}

const passing = () => new LogError("unreachable", "the network is down", { isPassing: true });

/** A store whose first calls fail, before they are done or after. */
function failing(inner: RemoteStore, times: number, after: boolean, error: () => Error = passing) {
  let left = times;
  return new StoppingStore(inner, async (call) => {
    if (left === 0) return await call();
    left--;
    if (after) await call();
    throw error();
  });
}

function patient(inner: RemoteStore, timing = new FakeTiming()): PatientStore {
  return new PatientStore(inner, { timing, random: () => 1 });
}

describe("patience", () => {
  it.each(Object.entries(CONTRACT))("changes nothing where nothing fails: %s", (_, run) =>
    run(patient(new MemoryStore())),
  );

  it("waits twice as long each time, up to ten seconds, and gives up after a minute", async () => {
    const timing = new FakeTiming();
    const store = patient(failing(new MemoryStore(), 1000, false), timing);
    await expect(store.list("log/")).rejects.toThrow("the network is down; tried 11 times");
    expect(timing.waits).toEqual([200, 400, 800, 1600, 3200, 6400, 10_000, 10_000, 10_000, 10_000]);
  });

  it("has as much as it is given, and none where somebody waits for an answer", async () => {
    const [none, little] = [new FakeTiming(), new FakeTiming()];
    const down = () => failing(new MemoryStore(), 1000, false);
    const impatient = new PatientStore(down(), { timing: none, patienceMs: 0 });
    await expect(impatient.list("log/")).rejects.toThrow(/^the network is down$/);
    expect(none.waits).toEqual([]);
    const store = new PatientStore(down(), { timing: little, random: () => 1, patienceMs: 1000 });
    await expect(store.list("log/")).rejects.toThrow("tried 3 times");
    expect(little.waits).toEqual([200, 400]);
  });

  it("waits a little less by chance", async () => {
    const timing = new FakeTiming();
    const store = new PatientStore(failing(new MemoryStore(), 2, false), { timing, random: () => 0 });
    await store.list("log/");
    expect(timing.waits).toEqual([100, 200]);
  });

  it("has none with what will not pass", async () => {
    const timing = new FakeTiming();
    for (const error of [
      new LogError("unreachable", "no such bucket"),
      new LogError("damaged", "x"),
      new Error("bug"),
    ])
      await expect(
        patient(
          failing(new MemoryStore(), 1, false, () => error),
          timing,
        ).list("log/"),
      ).rejects.toBe(error);
    expect(timing.waits).toEqual([]);
  });

  it.each([1, 3])("knows what it put itself, though the answer was lost %i times", async (times) => {
    const memory = new MemoryStore();
    expect(await patient(failing(memory, times, true)).put("log/1", Buffer.from("ours"))).toBe(true);
    expect(memory.files.get("log/1")?.toString()).toBe("ours");
  });

  it("does not take for its own what another one put meanwhile", async () => {
    const memory = new MemoryStore([["log/1", Buffer.from("theirs")]]);
    expect(await patient(failing(memory, 1, false)).put("log/1", Buffer.from("ours"))).toBe(false);
    expect(memory.files.get("log/1")?.toString()).toBe("theirs");
  });

  it("does not take for its own what was there before, were it the same", async () => {
    const memory = new MemoryStore([["log/1", Buffer.from("the same")]]);
    expect(await patient(memory).put("log/1", Buffer.from("the same"))).toBe(false);
  });

  it("tells once that a remote is out of reach, and again when it was back meanwhile", async () => {
    const told: string[] = [];
    let isDown = 3;
    const inner = new StoppingStore(new MemoryStore(), async (call) => {
      if (isDown-- > 0) throw passing();
      return await call();
    });
    const store = new PatientStore(inner, { timing: new FakeTiming(), onRetry: (line) => told.push(line) });
    await store.list("log/");
    expect(told).toEqual(["the network is down; trying again for 60 s"]);
    isDown = 1;
    await store.list("log/");
    expect(told).toHaveLength(2);
  });

  it("ends at once by a signal, with its reason", async () => {
    const controller = new AbortController();
    const { signal } = controller;
    const store = new PatientStore(failing(new MemoryStore(), 1000, false), { signal, timing: REAL_TIMING });
    const reason = new Error("stopped");
    setTimeout(() => controller.abort(reason), 300);
    await expect(store.list("log/")).rejects.toBe(reason);
  });
});

describe("an object store that fails now and then", () => {
  async function inTrouble(
    fault: NonNullable<FakeOptions["fault"]>,
    run: (store: RemoteStore, fake: FakeS3) => Promise<void>,
  ) {
    const fake = await FakeS3.start({ fault });
    const timing: Timing = { now: () => 0, sleep: () => Promise.resolve() };
    try {
      await run(new PatientStore(new S3Store(fake.url(), { env: KEYS, silenceMs: 300 }), { timing }), fake);
    } finally {
      await fake.stop();
    }
  }

  const FAULTS = [
    "cut before",
    "cut after",
    "cut within",
    "hang",
    { status: 500 },
    { status: 503, code: "SlowDown" },
  ] as const;
  let next = 0;
  const now = ({ count }: { count: number }) =>
    count % 3 === 0 ? FAULTS[next++ % FAULTS.length] : undefined;

  it.each(Object.entries(CONTRACT).filter(([name]) => name !== "lists many"))("%s", (_, run) =>
    inTrouble(now, (store) => run(store)),
  );

  it("has put what it says, each time that a connection is cut after the fact", () =>
    inTrouble(
      ({ method, count }) => (method === "PUT" && count % 2 === 1 ? "cut after" : undefined),
      async (store, fake) => {
        for (let i = 0; i < 10; i++) expect(await store.put(`log/${i}`, Buffer.from(`${i}`))).toBe(true);
        expect(fake.files.size).toBe(10);
        // It looked, and put nothing twice.
        expect(fake.counts.PUT).toBe(10);
      },
    ));
});

describe("a limit", () => {
  it("lets so many bytes go in a second, whoever takes them, and saves up no more than a moment's", async () => {
    const timing = new FakeTiming();
    const throttle = new Throttle(1000, undefined, timing);
    await throttle.take(250); // at once: a moment's worth is there
    expect(timing.nowMs).toBe(0);
    for (let i = 0; i < 10; i++) await throttle.take(100);
    expect(timing.nowMs).toBeCloseTo(1000);
    timing.nowMs += 60_000;
    await throttle.take(1250);
    expect(timing.nowMs).toBeCloseTo(62_000);
  });

  it("moves in pieces that a part of a second is enough for", async () => {
    const ends = [];
    for await (const { end } of new Throttle(4000, undefined, new FakeTiming()).pieces(2500)) ends.push(end);
    expect(ends).toEqual([1000, 2000, 2500]);
    expect(new Throttle(2 ** 30).pieceBytes).toBe(65_536);
    expect(new Throttle(1).pieceBytes).toBe(1);
  });

  it("is left at once by a signal", async () => {
    const controller = new AbortController();
    const throttle = new Throttle(1, controller.signal);
    const reason = new Error("stopped");
    setTimeout(() => controller.abort(reason), 20);
    await expect(throttle.take(1000)).rejects.toBe(reason);
    await expect(throttle.take(1)).rejects.toBe(reason);
  });
});
