/**
 * A replica is its source at each point that was pushed, while 500 operations a second go on: one pushes again and again,
 * one pulls again and again, as --watch does, and nobody waits for the other. Whenever a pull is done, all that the replica
 * shows has the hash of what the source showed in that epoch, which it keeps until the next push is over.
 *
 * Other kinds of remotes are added to REMOTES. SQLFUSE_LONG=1 looks at 200 points of each, else at a few.
 */
import { createHash } from "node:crypto";
import { setTimeout as sleep, setImmediate as turn } from "node:timers/promises";
import { describe, expect, it } from "vitest";
import type { Ino } from "../../src/core/types.ts";
import type { Volume } from "../../src/core/volume.ts";
import { Pusher } from "../../src/log/pusher.ts";
import { localSite } from "../../src/log/site.ts";
import { openRemote, type RemoteStore } from "../../src/remote/remote.ts";
import { type Dump, dumpEpoch } from "../core/dump.ts";
import { ROOT, S_IFDIR } from "../core/fixture.ts";
import { BLOCK, operate } from "../core/operations.ts";
import { Random } from "../core/random.ts";
import { missingForRsync, missingForSsh, RsyncDaemon, SshServer } from "../helpers/rsyncservers.ts";
import { type ServerKind, startServer } from "../helpers/s3servers.ts";
import { isLong, report, seed } from "../helpers/torture.ts";
import { FakeS3, KEYS } from "../remote/fakes3.ts";
import { inLog, type LogFixture, NAME } from "./fixture.ts";

const POINTS = isLong() ? 200 : 12;
const OPERATIONS_PER_SECOND = 500;
const TICK_MS = 4;
const BREATH_MS = 20;
/** After so many operations all is removed. */
const EACH_CLEARED = 400;
/** Operations that are made up for at once. */
const MOST_BEHIND = 100;

interface OpenedRemote {
  readonly store: RemoteStore;
  close(): Promise<void>;
}

/** Kinds of remotes, each opened empty, or why it cannot be had here; `directory` is an empty one on this machine. */
const REMOTES: Readonly<Record<string, (directory: string) => Promise<OpenedRemote | string>>> = {
  "a directory": async (directory) => ({
    store: await openRemote(directory),
    close: () => Promise.resolve(),
  }),
  "an object store in memory": async () => {
    const fake = await FakeS3.start();
    Object.assign(process.env, KEYS);
    return { store: await openRemote(fake.url()), close: () => fake.stop() };
  },
  ...(isLong()
    ? {
        "Ceph's object store": () => real("ceph"),
        "Swift's object store": () => real("swift"),
        "rsync over ssh": rsyncOverSsh,
        "a daemon of rsync": rsyncDaemon,
      }
    : {}),
};

async function rsyncOverSsh(directory: string): Promise<OpenedRemote | string> {
  const missing = missingForSsh();
  if (missing !== undefined) return missing;
  const server = await SshServer.start();
  process.env.RSYNC_RSH = server.command;
  return { store: await openRemote(`${server.host}:${directory}`), close: async () => server.stop() };
}

async function rsyncDaemon(directory: string): Promise<OpenedRemote | string> {
  const missing = missingForRsync();
  if (missing !== undefined) return missing;
  const daemon = await RsyncDaemon.start(directory);
  return { store: await openRemote(daemon.url), close: async () => daemon.stop() };
}

async function real(kind: ServerKind): Promise<OpenedRemote | string> {
  const server = await startServer(kind);
  if (typeof server === "string") return server;
  Object.assign(process.env, server.env);
  return { store: await openRemote(await server.bucket()), close: () => server.stop() };
}

/** Whatever the order is in which things were found. */
function hashOf(shown: Dump): string {
  const text = JSON.stringify(shown, (_, value: unknown) =>
    typeof value === "object" && value !== null && !Array.isArray(value)
      ? Object.entries(value).sort()
      : value,
  );
  return createHash("sha256").update(text).digest("hex");
}

/** Lets the others go on now and then, as the command line does for signals. */
function breathing(): () => Promise<void> | undefined {
  let lastMs = performance.now();
  return () => {
    if (performance.now() - lastMs < BREATH_MS) return undefined;
    return turn().then(() => {
      lastMs = performance.now();
    });
  };
}

/** Removes all that is in a directory. */
function clear(volume: Volume, directory: Ino): void {
  const entries: { readonly name: Buffer; readonly ino: Ino; readonly type: number }[] = [];
  volume.tree.readdir(directory, 0, ({ name, ino, type }) => {
    entries.push({ name: Buffer.from(name), ino, type });
    return true;
  });
  for (const { name, ino, type } of entries) {
    if (type === S_IFDIR) clear(volume, ino);
    if (type === S_IFDIR) volume.tree.rmdir(directory, name);
    else volume.tree.unlink(directory, name);
  }
}

/** Changes the volume at the pace that is wanted, until `isOver`; gives how many operations that were. */
async function work(random: Random, log: LogFixture, volume: Volume, isOver: () => boolean): Promise<number> {
  let lastMs = performance.now();
  let due = 0;
  let done = 0;
  while (!isOver()) {
    const nowMs = performance.now();
    // What a long step of the others held up is made up for, but not without end: they are to come to something.
    due = Math.min(done + MOST_BEHIND, due + ((nowMs - lastMs) * OPERATIONS_PER_SECOND) / 1000);
    lastMs = nowMs;
    for (; done < due; done++) {
      // Else the tree grows, and to look at all of it takes ever longer.
      if (done % EACH_CLEARED === EACH_CLEARED - 1) clear(volume, ROOT);
      else operate(random, volume, () => {});
      log.source.clock.advance(10);
    }
    await sleep(TICK_MS);
  }
  return done;
}

/** Pushes until `isOver`, and notes what the source showed in each epoch that it pushed. */
async function push(
  random: Random,
  log: LogFixture,
  store: RemoteStore,
  shown: Map<number, string>,
  isOver: () => boolean,
) {
  const site = localSite(log.volume, log.source.key);
  try {
    while (!isOver()) {
      const { epoch } = await new Pusher(site, store, NAME, { breathe: breathing() }).run();
      shown.set(epoch, hashOf(dumpEpoch(site.db, epoch)));
      await sleep(random.below(60));
    }
  } finally {
    site.close();
  }
}

/** Pulls until it saw so many points; gives the hash of what the replica showed at each. */
async function pull(random: Random, log: LogFixture, store: RemoteStore, isOver: () => boolean) {
  const seen = new Map<number, string>();
  while (seen.size < POINTS && !isOver()) {
    const { epoch } = await log.pull("replica", store);
    if (!seen.has(epoch)) seen.set(epoch, hashOf(log.dump("replica")));
    await sleep(random.below(30));
  }
  return seen;
}

describe.each(Object.entries(REMOTES))("through %s, under load,", (kind, open) => {
  it(
    "a replica equals its source at each point that it comes to",
    ({ skip }) =>
      inLog(
        async (log, volume) => {
          const opened = await open(log.remotePath);
          if (typeof opened === "string") return skip(opened);
          const { store, close } = opened;
          try {
            const [workRandom, pushRandom, pullRandom] = [1, 2, 3].map((i) => new Random(seed() + i)) as [
              Random,
              Random,
              Random,
            ];
            const shown = new Map<number, string>();
            await log.push(store);
            await log.clone("replica", {}, store);
            let isOver = false;
            const over = () => isOver;
            const sinceMs = performance.now();
            const end = <T>(what: Promise<T>) =>
              what.finally(() => {
                isOver = true;
              });
            const [done, , seen] = await Promise.all([
              end(work(workRandom, log, volume, over)),
              end(push(pushRandom, log, store, shown, over)),
              end(pull(pullRandom, log, store, over)),
            ]);
            const seconds = (performance.now() - sinceMs) / 1000;
            expect(seen.size).toBe(POINTS);
            // The first was pushed before there was anything; the last may be one whose push was not done with.
            const compared = [...seen].filter(([epoch]) => shown.has(epoch));
            expect(compared.length).toBeGreaterThanOrEqual(POINTS - 2);
            for (const [epoch, hash] of compared) expect([epoch, hash]).toEqual([epoch, shown.get(epoch)]);
            report(
              "points",
              compared.length,
              `${kind.replace(/\W+/g, "-")} ${Math.round(done / seconds)} operations/s`,
            );
            await log.push(store);
            await log.pull("replica", store);
            log.expectEqual("replica");
          } finally {
            await close();
          }
        },
        { blockSize: BLOCK },
      ),
    isLong() ? 3_600_000 : 120_000,
  );
});
