/** A partial replica has the content of small and pinned files, fetches what else is read, and lets that go again. */
import { rmSync } from "node:fs";
import { describe, expect, it, vi } from "vitest";
import { AwayError, type Share, Visiting } from "../../src/core/partial.ts";
import type { BlockNo, Ino } from "../../src/core/types.ts";
import { Volume } from "../../src/core/volume.ts";
import { Database } from "../../src/db/database.ts";
import { SqliteError } from "../../src/db/errors.ts";
import { check } from "../../src/fsck/check.ts";
import type { Arrival, OnDemand, Readers } from "../../src/log/ondemand.ts";
import { Replica } from "../../src/log/replica.ts";
import { rotate } from "../../src/log/rotation.ts";
import { localSite } from "../../src/log/site.ts";
import { SQLITE_FULL } from "../../src/native/sqlite3.ts";
import { LogError } from "../../src/remote/errors.ts";
import type { RemoteStore } from "../../src/remote/remote.ts";
import { dump } from "../core/dump.ts";
import { mkdir, noise, PASSWORD, put, ROOT } from "../core/fixture.ts";
import { operate } from "../core/operations.ts";
import { Random } from "../core/random.ts";
import { inLog, type LogFixture, NAME as REMOTE } from "./fixture.ts";

const NAME = "partial";
const ANY = { partial: { limit: 0 } };
const LARGE = 300_000;

/** The remote, from which files are got in another way. */
function getting(log: LogFixture, url: string, get: RemoteStore["get"]): RemoteStore {
  const { store } = log;
  return {
    url,
    list: (prefix) => store.list(prefix),
    put: (name, bytes) => store.put(name, bytes),
    remove: (name) => store.remove(name),
    get,
  };
}

/** With a partial replica of a volume that has one large file. */
function withPartial(run: (log: LogFixture, large: Ino, volume: Volume) => Promise<void>): Promise<void> {
  return inLog(async (log, volume) => {
    const large = put(volume, ROOT, "large", noise(LARGE));
    await log.push();
    await log.clone(NAME, ANY);
    await run(log, large, volume);
  });
}

/** What came of a fetch. */
interface Came {
  readonly arrived: Map<number, Arrival>;
  readonly refused: number[];
  readonly recorded: number[];
  readonly lines: string[];
}

function readersOf(came: Came): Readers {
  return {
    arrived: (blocks) => {
      for (const arrival of blocks) came.arrived.set(arrival.block, arrival);
    },
    refused: (blocks) => came.refused.push(...blocks),
    recorded: (blocks) => came.recorded.push(...blocks),
    log: (line) => came.lines.push(line),
  };
}

/** Has blocks fetched, and recorded. */
async function fetch(
  log: LogFixture,
  wanted: readonly number[],
  store: RemoteStore = log.store,
  next: readonly number[] = [],
): Promise<Came> {
  const came: Came = { arrived: new Map(), refused: [], recorded: [], lines: [] };
  const replica = new Replica(log.path(NAME), log.keyOf(NAME), (line) => came.lines.push(line));
  try {
    const demand = replica.onDemand(store, readersOf(came));
    demand.fetch(wanted as BlockNo[], next as BlockNo[]);
    await demand.idle();
    await demand.close();
  } finally {
    replica.close();
  }
  return came;
}

function reading<T>(log: LogFixture, run: (volume: Volume) => T, visiting = new Visiting()): T {
  const volume = Volume.open(log.path(NAME), log.keyOf(NAME), { noatime: true, visiting });
  try {
    return run(volume);
  } finally {
    volume.close();
  }
}

/** Blocks of all files that are away. */
function away(log: LogFixture): number[] {
  return log.sql(NAME, (db) => {
    const rows = db.prepare("SELECT block FROM partial_block WHERE used = 0 ORDER BY block");
    const found: number[] = [];
    while (rows.step()) found.push(rows.int(0));
    db.release(rows);
    return found;
  });
}

function shareOf(log: LogFixture): Share {
  return reading(log, (volume) => volume.share() as Share);
}

function readFile(volume: Volume, ino: Ino): Uint8Array {
  const into = new Uint8Array(LARGE);
  return into.subarray(0, volume.files.read(ino, 0, LARGE, into));
}

/** Fetches all there is, and demands that the replica is whole, and shows what its source shows. */
async function expectEqual(log: LogFixture): Promise<void> {
  expect(check(log.path(NAME), log.keyOf(NAME))).toEqual([]);
  await fetch(log, away(log));
  expect(away(log)).toEqual([]);
  log.expectEqual(NAME);
}

describe("a partial replica", () => {
  it("has all names and attributes and the content of small files, and none of large ones", () =>
    inLog(async (log, volume) => {
      const small = put(volume, ROOT, "small", noise(65_536));
      const large = put(volume, ROOT, "large", noise(LARGE, 2));
      await log.push();
      await log.clone(NAME, ANY);
      reading(log, (replica) => {
        expect(replica.attributes.getattr(large)).toEqual(volume.attributes.getattr(large));
        expect(readFile(replica, small)).toEqual(new Uint8Array(noise(65_536)));
        expect(() => readFile(replica, large)).toThrow(AwayError);
        expect(replica.files.away(small, 0, LARGE)).toEqual([]);
        expect(replica.files.away(large, 0, LARGE).length).toBeGreaterThan(3);
      });
      const { bytes, bytesHere } = shareOf(log);
      expect(bytes).toBeGreaterThanOrEqual(65_536 + LARGE);
      expect(bytesHere).toBeLessThan(70_000);
      expect(check(log.path(NAME), log.keyOf(NAME))).toEqual([]);
    }));

  it("reads what was fetched before and after it is recorded", () =>
    withPartial(async (log, large) => {
      const wanted = reading(log, (replica) => replica.files.away(large, 0, LARGE));
      const { arrived, recorded, refused, lines } = await fetch(log, wanted);
      expect([refused, lines]).toEqual([[], []]);
      expect(new Set(recorded)).toEqual(new Set(wanted));
      reading(log, (replica) => expect(readFile(replica, large)).toEqual(new Uint8Array(noise(LARGE))));
      log.sql(NAME, (db) => db.exec("DELETE FROM block; UPDATE partial_block SET used = 0"));
      const visiting = new Visiting();
      for (const [block, arrival] of arrived) visiting.add(block as BlockNo, arrival);
      const read = (replica: Volume): void =>
        expect(readFile(replica, large)).toEqual(new Uint8Array(noise(LARGE)));
      reading(log, read, visiting);
    }));

  it("refuses content that was changed at the remote, and asks for it again", () =>
    withPartial(async (log, large) => {
      const flipping = getting(log, "flipping", async (name, from, length = 0) => {
        const bytes = await log.store.get(name, from, length);
        if (bytes !== undefined) bytes[length >> 1] = (bytes[length >> 1] ?? 0) ^ 1;
        return bytes;
      });
      const wanted = reading(log, (replica) => replica.files.away(large, 0, LARGE));
      const { arrived, refused, lines } = await fetch(log, wanted, flipping);
      expect(new Set([...arrived.keys(), ...refused])).toEqual(new Set(wanted));
      expect(refused).not.toEqual([]);
      expect(lines).toEqual([expect.stringMatching(/flipping: data\/.*changed/)]);
      await expectEqual(log);
    }));

  it("says so where the remote is not to be had, and has it later", () =>
    withPartial(async (log) => {
      const gone = getting(log, "gone", async () => undefined);
      const wanted = away(log);
      const { refused, lines } = await fetch(log, wanted, gone);
      expect(new Set(refused)).toEqual(new Set(wanted));
      expect(lines).toEqual([expect.stringMatching(/^gone: data\/.* is missing$/)]);
      await expectEqual(log);
    }));

  it("asks once for a block that is on its way, and gives those that somebody waits for first", () =>
    withPartial(async (log) => {
      const asked: string[] = [];
      const counting = getting(log, "counting", async (name, from = 0, length = 0) => {
        asked.push(`${from}+${length}`);
        return await log.store.get(name, from, length);
      });
      const blocks = away(log);
      const came = await fetch(log, blocks.slice(0, 2), counting, blocks);
      expect(new Set(came.recorded)).toEqual(new Set(blocks));
      expect(new Set(asked).size).toBe(asked.length);
      const bytes = asked.reduce((sum, one) => sum + Number(one.split("+")[1]), 0);
      expect(bytes).toBeLessThan(LARGE * 1.1);
    }));
});

/** What a replica that is held open fetches, until `run` is over; the remote is as `store` gives it. */
async function demanding(
  log: LogFixture,
  store: RemoteStore,
  run: (demand: OnDemand, came: Came, replica: Replica) => Promise<void>,
): Promise<void> {
  const came: Came = { arrived: new Map(), refused: [], recorded: [], lines: [] };
  const replica = new Replica(log.path(NAME), log.keyOf(NAME), (line) => came.lines.push(line));
  try {
    const demand = replica.onDemand(store, readersOf(came));
    await run(demand, came, replica);
    await demand.close();
  } finally {
    replica.close();
  }
}

describe("what is fetched", () => {
  it("is not shown under a number that stands for other content by now", () =>
    withPartial(async (log, large) => {
      const visiting = new Visiting();
      for (const block of away(log) as BlockNo[])
        visiting.add(block, { id: Buffer.alloc(32, 1), content: new Uint8Array(noise(65_536, 5)) });
      reading(log, (replica) => expect(() => readFile(replica, large)).toThrow(AwayError), visiting);
      reading(log, (replica) => expect(replica.files.away(large, 0, LARGE)).toEqual(away(log)), visiting);
    }));

  it("is known as missing by who ends the fetching: what waits as well as what is on its way", () =>
    inLog(async (log, volume) => {
      put(volume, ROOT, "large", noise(12_000_000));
      await log.push();
      await log.clone(NAME, ANY);
      let fail = (_error: Error): void => {};
      const hanging = getting(log, "hanging", () => new Promise((_, reject) => (fail = reject)));
      await demanding(log, hanging, async (demand, came) => {
        const wanted = away(log) as BlockNo[];
        demand.fetch(wanted, []);
        expect(new Set(await demand.close())).toEqual(new Set(wanted));
        // As an abort does: no LogError.
        fail(new Error("the mount ended"));
        await new Promise((done) => setImmediate(done));
        expect(came).toEqual({ arrived: new Map(), refused: [], recorded: [], lines: [] });
      });
      await expectEqual(log);
    }));

  it("is refused where the remote fails in a way that nobody foresaw", () =>
    withPartial(async (log) => {
      const broken = getting(log, "broken", async () => {
        throw new TypeError("unforeseen");
      });
      const { refused, lines } = await fetch(log, away(log), broken);
      expect([new Set(refused), lines]).toEqual([new Set(away(log)), ["TypeError: unforeseen"]]);
    }));

  it("is given out, and a line says so once, while it cannot be recorded", () =>
    withPartial(async (log) => {
      const wanted = away(log) as BlockNo[];
      await demanding(log, log.store, async (demand, came, replica) => {
        const { exec } = Database.prototype;
        const spy = vi.spyOn(Database.prototype, "exec").mockImplementation(function (this: Database, sql) {
          if (sql.includes("BEGIN IMMEDIATE")) throw new SqliteError("disk full", SQLITE_FULL, 0, sql);
          exec.call(this, sql);
        });
        for (const block of wanted.slice(0, 3)) {
          demand.fetch([block], []);
          await demand.idle();
          await vi.waitFor(() => expect(spy).toHaveBeenCalled());
          spy.mockClear();
        }
        expect(came.recorded).toEqual([]);
        spy.mockRestore();
        demand.fetch(wanted, []);
        await demand.idle();
        await demand.close();
        expect(new Set(came.arrived.keys())).toEqual(new Set(wanted));
        expect(new Set(came.recorded)).toEqual(new Set(wanted));
        expect(came.lines).toEqual([expect.stringMatching(/^what was fetched cannot be kept: .*disk full/)]);
        expect(replica.url).toBe(log.remotePath);
      });
      await expectEqual(log);
    }));

  it("visits on where the limit leaves no room for it", () =>
    inLog(async (log, volume) => {
      put(volume, ROOT, "large", noise(LARGE));
      await log.push();
      await log.clone(NAME, { partial: { limit: 1 } });
      const wanted = away(log);
      const { arrived, recorded } = await fetch(log, wanted);
      expect(new Set(arrived.keys())).toEqual(new Set(wanted));
      expect(recorded).toEqual([]);
      expect(away(log)).toEqual(wanted);
    }));
});

describe("a partial replica with a limit", () => {
  it("lets go of what was read longest ago, and never of small and pinned files", () =>
    inLog(async (log, volume) => {
      put(volume, ROOT, "small", noise(60_000, 9));
      const files = Array.from({ length: 6 }, (_, i) => put(volume, ROOT, `f${i}`, noise(LARGE, i)));
      const kept = put(volume, ROOT, "kept", noise(LARGE, 7));
      await log.push();
      await log.clone(NAME, { partial: { limit: 3 * LARGE } });
      const replica = new Replica(log.path(NAME), log.keyOf(NAME), () => {});
      await replica.pin(kept, log.store);
      replica.close();
      for (const [i, ino] of files.entries()) {
        await fetch(
          log,
          reading(log, (one) => one.files.away(ino, 0, LARGE)),
        );
        log.sql(NAME, (db) =>
          db.exec(`UPDATE partial_block SET used = ${i + 1} WHERE used > 100 AND keep = 0`),
        );
      }
      const { bytesHere } = shareOf(log);
      expect(bytesHere).toBeLessThanOrEqual(4 * LARGE + 70_000);
      expect(bytesHere).toBeGreaterThan(3 * LARGE);
      reading(log, (one) => {
        expect(readFile(one, kept)).toEqual(new Uint8Array(noise(LARGE, 7)));
        expect(readFile(one, files[5] as Ino)).toEqual(new Uint8Array(noise(LARGE, 5)));
        expect(one.files.away(files[0] as Ino, 0, LARGE).length).toBeGreaterThan(3);
      });
      expect(check(log.path(NAME), log.keyOf(NAME))).toEqual([]);
    }));
});

describe("what is pinned", () => {
  it("is fetched at once, and what comes into it with the pull that brings it", () =>
    inLog(async (log, volume) => {
      const directory = mkdir(volume, ROOT, "directory");
      const inner = mkdir(volume, directory, "inner");
      const file = put(volume, inner, "file", noise(LARGE));
      put(volume, ROOT, "other", noise(LARGE, 2));
      await log.push();
      await log.clone(NAME, ANY);
      const replica = new Replica(log.path(NAME), log.keyOf(NAME), () => {});
      await replica.pin(directory, log.store);
      const next = put(volume, inner, "next", noise(LARGE, 3));
      await log.push();
      await replica.pull(log.store);
      replica.close();
      reading(log, (one) => {
        expect(readFile(one, file)).toEqual(new Uint8Array(noise(LARGE)));
        expect(readFile(one, next)).toEqual(new Uint8Array(noise(LARGE, 3)));
      });
      expect(away(log).length).toBeGreaterThan(3);
      const again = new Replica(log.path(NAME), log.keyOf(NAME), () => {});
      expect(await again.unpin(directory)).toBe(true);
      expect(await again.unpin(directory)).toBe(false);
      again.close();
      await expectEqual(log);
    }));
});

/** Of the blocks of a file, those that are kept and those that are kept and away. */
function keptOf(log: LogFixture, ino: Ino): [kept: number, due: number] {
  return log.sql(NAME, (db) => {
    const row = db.prepare(
      `SELECT count(*) FILTER (WHERE keep = 1), count(*) FILTER (WHERE keep = 1 AND used = 0) FROM partial_block
         WHERE block IN (SELECT block FROM extent WHERE ino = ?1)`,
    );
    row.bindInt(1, ino).step();
    const counts: [number, number] = [row.int(0), row.int(1)];
    db.release(row);
    return counts;
  });
}

describe("a pin that was stopped", () => {
  const stopping = (log: LogFixture): RemoteStore =>
    getting(log, "stopping", async (name, from, length) => {
      if (name.startsWith("data/")) throw new LogError("unreachable", "stopped");
      return await log.store.get(name, from, length);
    });

  it("is gone on with by the next pull, though that brings nothing new", () =>
    withPartial(async (log, large) => {
      const replica = new Replica(log.path(NAME), log.keyOf(NAME), () => {});
      await expect(replica.pin(large, stopping(log))).rejects.toThrow("stopped");
      replica.close();
      expect(keptOf(log, large)[1]).toBeGreaterThan(3);
      const { segments, blocks } = await log.pull(NAME);
      expect([segments, blocks]).toEqual([0, keptOf(log, large)[0]]);
      expect(keptOf(log, large)[1]).toBe(0);
    }));

  it("keeps no segment waiting for what is left of it", () =>
    withPartial(async (log, large, volume) => {
      const replica = new Replica(log.path(NAME), log.keyOf(NAME), () => {});
      await expect(replica.pin(large, stopping(log))).rejects.toThrow("stopped");
      const small = put(volume, ROOT, "small", noise(1000, 2));
      await log.push();
      // All that is asked for before the segment is there is its own.
      let isApplied = false;
      const asked: string[] = [];
      const watching = getting(log, "watching", async (name, from, length = 0) => {
        if (!isApplied && name.startsWith("data/")) asked.push(`${length}`);
        return await log.store.get(name, from, length);
      });
      const onApplied = async (): Promise<void> => {
        isApplied = true;
      };
      await replica.pull(watching, { onApplied });
      replica.close();
      expect(Math.max(...asked.map(Number))).toBeLessThan(5000);
      expect(keptOf(log, large)[1]).toBe(0);
      reading(log, (one) => expect(one.files.away(small, 0, LARGE)).toEqual([]));
    }));
});

describe("pins", () => {
  it("end with the files that they are of", () =>
    withPartial(async (log, large, volume) => {
      const replica = new Replica(log.path(NAME), log.keyOf(NAME), () => {});
      await replica.pin(large, log.store);
      replica.close();
      expect(shareOf(log).pins).toEqual([large]);
      volume.tree.unlink(ROOT, Buffer.from("large"));
      await log.push();
      await log.pull(NAME);
      expect(shareOf(log).pins).toEqual([]);
    }));

  it("let go, when they end, of what was moved elsewhere as well, and of nothing that is in another one", () =>
    inLog(async (log, volume) => {
      const outer = mkdir(volume, ROOT, "outer");
      const inner = mkdir(volume, outer, "inner");
      const stays = put(volume, inner, "stays", noise(LARGE));
      const moves = put(volume, inner, "moves", noise(LARGE, 2));
      const small = put(volume, inner, "small", noise(1000, 3));
      await log.push();
      await log.clone(NAME, ANY);
      const replica = new Replica(log.path(NAME), log.keyOf(NAME), () => {});
      await replica.pin(outer, log.store);
      await replica.pin(inner, log.store);
      volume.tree.rename(inner, Buffer.from("moves"), ROOT, Buffer.from("moves"), 0);
      await log.push();
      await replica.pull(log.store);
      expect(await replica.unpin(inner)).toBe(true);
      expect(keptOf(log, stays)[0]).toBeGreaterThan(3);
      expect(keptOf(log, moves)[0]).toBe(0);
      expect(await replica.unpin(outer)).toBe(true);
      replica.close();
      expect([keptOf(log, stays)[0], keptOf(log, small)]).toEqual([0, [1, 0]]);
    }));
});

describe("a pull", () => {
  it("tells who keeps something of the state before, also where the -wal cannot be copied", () =>
    inLog(async (log, volume) => {
      put(volume, ROOT, "one", noise(1000));
      await log.push();
      await log.clone(NAME, ANY);
      put(volume, ROOT, "two", noise(1000, 2));
      await log.push();
      let told = 0;
      const replica = new Replica(log.path(NAME), log.keyOf(NAME), () => {});
      const spy = vi.spyOn(Database.prototype, "checkpointPassive").mockImplementation(() => {
        throw new SqliteError("disk full", SQLITE_FULL, 0, "checkpoint");
      });
      try {
        await replica.pull(log.store, { onApplied: async () => void told++ }).catch(() => {});
      } finally {
        spy.mockRestore();
        replica.close();
      }
      expect(told).toBe(1);
      log.expectEqual(NAME);
    }));
});

describe("a log that starts over", () => {
  it("leaves a partial replica what it has fetched, where that is still named", () =>
    inLog(async (log, volume) => {
      put(volume, ROOT, "large", noise(LARGE));
      const changed = put(volume, ROOT, "changed", noise(LARGE, 2));
      await log.push();
      await log.clone(NAME, ANY);
      await fetch(log, away(log));
      volume.files.write(changed, 0, noise(100_000, 3), false);
      await log.push(log.store, undefined, { startOver: true });
      const asked: number[] = [];
      await log.pull(
        NAME,
        getting(log, "counting", async (name, from, length) => {
          if (!name.startsWith("log/")) asked.push(length ?? 0);
          return await log.store.get(name, from, length);
        }),
      );
      expect(Math.max(...asked)).toBeLessThan(10_000);
      const { blocks, blocksHere } = shareOf(log);
      expect(blocks - blocksHere).toBeLessThan(blocks / 2);
      expect(blocksHere).toBeGreaterThan(3);
      await expectEqual(log);
    }));
});

describe("content that damage took", () => {
  it("is no loss to fsck where it can be fetched again", () =>
    withPartial(async (log) => {
      const [gone] = away(log);
      await fetch(log, away(log));
      log.sql(NAME, (db) => db.exec(`DELETE FROM block WHERE id = ${gone}`));
      expect(check(log.path(NAME), log.keyOf(NAME)).map(({ kind }) => kind)).toEqual(["partial-block"]);
    }));
});

describe("a log that got another secret", () => {
  it("leaves a partial replica what it has, and nothing under a number that stands for something else", () =>
    inLog(async (log, volume) => {
      const large = put(volume, ROOT, "large", noise(LARGE));
      put(volume, ROOT, "small", noise(1000, 2));
      await log.push();
      await log.clone(NAME, ANY);
      await fetch(log, away(log));
      const other = log.sql(NAME, (db) => {
        const row = db.prepare("SELECT block FROM extent WHERE ino = ?1 AND idx = 1");
        row.bindInt(1, large).step();
        const block = row.int(0);
        db.release(row);
        db.exec(`UPDATE block SET data = zeroblob(length(data)) WHERE id = ${block}`);
        return block;
      });
      const site = localSite(volume, log.source.key);
      await rotate(site, log.store, REMOTE);
      site.close();
      const replica = new Replica(log.path(NAME), log.keyOf(NAME), () => {});
      const { blocks } = await replica.pull(log.store, { password: PASSWORD });
      replica.close();
      expect([blocks, away(log)]).toEqual([0, [other]]);
      await expectEqual(log);
    }));
});

describe("after many random operations", () => {
  it.each(Array.from({ length: 4 }, (_, i) => i + 1))(
    "a partial replica from which anything is fetched and let go equals its source (%d)",
    (seed) =>
      inLog(async (log, volume) => {
        const random = new Random(seed);
        const run = (count: number): void => {
          for (let i = 0; i < count; i++) {
            operate(random, volume, () => {});
            log.source.clock.advance(10);
          }
        };
        run(100);
        await log.push();
        await log.clone(NAME, { partial: { limit: random.below(2) * 100_000 } });
        // So that files of some blocks are large here.
        const shrink = (): void =>
          log.sql(NAME, (db) =>
            db.exec(
              `UPDATE partial_block SET keep = 0 WHERE block % 3 <> ${random.below(3)};
               DELETE FROM block WHERE id IN (SELECT block FROM partial_block WHERE keep = 0 AND block % 2 = 0);
               UPDATE partial_block SET used = 0 WHERE keep = 0 AND block % 2 = 0`,
            ),
          );
        for (let round = 0; round < 12; round++) {
          run(random.below(60));
          if (random.below(3) === 0) volume.history.create(`snapshot ${round}`);
          if (random.below(4) === 0) {
            const [oldest] = volume.history.list().filter(({ name }) => name.startsWith("snapshot"));
            if (oldest !== undefined) volume.history.delete(oldest.name);
          }
          await log.push();
          shrink();
          expect(check(log.path(NAME), log.keyOf(NAME))).toEqual([]);
          await log.pull(NAME);
          expect(check(log.path(NAME), log.keyOf(NAME))).toEqual([]);
          const some = away(log).filter(() => random.below(2) === 0);
          await fetch(log, some);
        }
        log.sql(NAME, (db) => db.exec("UPDATE meta SET value = 0 WHERE key = 'partial_limit'"));
        await expectEqual(log);
        const whole = "whole";
        await log.clone(whole);
        expect(log.dump(NAME)).toEqual(log.dump(whole));
        expect(log.dump(NAME)).toEqual(dump(volume));
        rmSync(log.path(whole));
      }),
    60_000,
  );
});
