/** A volume, a directory that its log is pushed to, and replicas of it. */
import { mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { expect } from "vitest";
import type { listRemotes } from "../../src/core/remotes.ts";
import { unlock } from "../../src/core/unlock.ts";
import { Volume } from "../../src/core/volume.ts";
import { Database } from "../../src/db/database.ts";
import type { Key } from "../../src/db/key.ts";
import { check } from "../../src/fsck/check.ts";
import { Pusher, type PushOptions, type PushResult } from "../../src/log/pusher.ts";
import { type CloneOptions, clone, type FollowResult, Replica } from "../../src/log/replica.ts";
import { localSite } from "../../src/log/site.ts";
import { DirectoryStore } from "../../src/remote/directory.ts";
import type { RemoteStore } from "../../src/remote/remote.ts";
import { type Dump, dump, dumpEpoch } from "../core/dump.ts";
import { Fixture, type FixtureOptions, PASSWORD } from "../core/fixture.ts";

export const NAME = "nas";

/** Keys that were derived: it takes 0.2 s each. */
const keys = new Map<string, Key>();

export class LogFixture {
  readonly source: Fixture;
  readonly remotePath: string;
  readonly store: DirectoryStore;

  /** `from`: a volume to copy, which is closed. */
  constructor(options: FixtureOptions = {}, from?: Fixture) {
    this.source = new Fixture(options, from);
    this.remotePath = join(this.source.directory, "remote");
    mkdirSync(this.remotePath);
    this.store = new DirectoryStore(this.remotePath);
  }

  get volume(): Volume {
    return this.source.volume;
  }

  addRemote(name = NAME): void {
    this.volume.remotes.add(name, this.remotePath);
  }

  /** Pushes the open volume. */
  async push(store: RemoteStore = this.store, name = NAME, options: PushOptions = {}): Promise<PushResult> {
    const site = localSite(this.volume, this.source.key);
    try {
      return await new Pusher(site, store, name, options).run();
    } finally {
      site.close();
    }
  }

  path(name: string): string {
    return join(this.source.directory, name);
  }

  async clone(
    name: string,
    options: CloneOptions = {},
    store: RemoteStore = this.store,
  ): Promise<FollowResult> {
    return await clone(store, this.path(name), PASSWORD, options);
  }

  keyOf(name: string): Key {
    const path = this.path(name);
    const key = keys.get(path) ?? unlock(path, PASSWORD);
    keys.set(path, key);
    return key;
  }

  async pull(name: string, store: RemoteStore = this.store): Promise<FollowResult> {
    const log: string[] = [];
    const replica = new Replica(this.path(name), this.keyOf(name), (line) => log.push(line));
    try {
      return await replica.pull(store);
    } finally {
      replica.close();
      expect(log).toEqual([]);
    }
  }

  /** What a replica shows. */
  dump(name: string): Dump {
    const volume = Volume.open(this.path(name), this.keyOf(name), { noatime: true });
    try {
      expect(volume.readOnly).toBe(true);
      return dump(volume);
    } finally {
      volume.close();
    }
  }

  /** A restored volume, open to be written. The caller closes it. */
  writer(name: string): Volume {
    return Volume.open(this.path(name), this.keyOf(name), { clock: this.source.clock });
  }

  /** What a replica showed in an epoch that it keeps. */
  dumpEpoch(name: string, epoch: number): Dump {
    const db = new Database(this.path(name), this.keyOf(name), { mode: "readonly" });
    try {
      return dumpEpoch(db, epoch);
    } finally {
      db.close();
    }
  }

  sql<T>(name: string, run: (db: Database) => T): T {
    const db = new Database(this.path(name), this.keyOf(name), { mode: "readwrite" });
    try {
      return run(db);
    } finally {
      db.close();
    }
  }

  /** Demands that a replica is whole, and shows what the source shows. */
  expectEqual(name: string): void {
    expect(check(this.path(name), this.keyOf(name))).toEqual([]);
    expect(this.dump(name)).toEqual(dump(this.volume));
  }

  remotes(): ReturnType<typeof listRemotes> {
    return this.volume.remotes.list();
  }

  finish(): void {
    this.source.finish();
  }

  remove(): void {
    this.source.remove();
    rmSync(this.remotePath, { recursive: true, force: true });
  }
}

/** Runs a test with a volume that has a remote, and ends it in a check of the volume. */
export async function inLog(
  run: (fixture: LogFixture, volume: Volume) => Promise<void>,
  options: FixtureOptions = {},
): Promise<void> {
  const fixture = new LogFixture(options);
  try {
    fixture.addRemote();
    await run(fixture, fixture.volume);
    fixture.finish();
  } finally {
    fixture.remove();
  }
}
