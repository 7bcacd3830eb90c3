/** A mounted volume, a directory that its log goes to, and replicas of it. */
import { lstatSync, mkdirSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { expect } from "vitest";
import { HostPlace } from "../../src/archive/hostplace.ts";
import type { MountStatus } from "../../src/host/mount.ts";
import { compare } from "../archive/tree.ts";
import { type Outcome, TestVolume, type TestVolumeOptions } from "../helpers/volume.ts";

export class Replication {
  readonly source: TestVolume;
  readonly remote: string;
  readonly #replicas: TestVolume[] = [];

  constructor(options: TestVolumeOptions = {}) {
    this.source = TestVolume.create(options);
    this.remote = join(this.source.home, "remote");
    mkdirSync(this.remote);
    succeed(this.source.cli(["remote", "add", this.source.file, "nas", this.remote]));
  }

  /** Ships what changed. */
  push(): void {
    succeed(this.source.cli(["push", "--quiet", this.source.file, "nas"]));
  }

  /** A clone of what was pushed, not mounted. `flags`: of clone. */
  replica(...flags: readonly string[]): TestVolume {
    const replica = TestVolume.create();
    this.#replicas.push(replica);
    rmSync(replica.file);
    succeed(replica.cli(["clone", "--quiet", ...flags, this.remote, replica.file]));
    return replica;
  }

  remove(): void {
    for (const volume of [...this.#replicas, this.source]) volume.remove();
  }
}

export function succeed(done: Outcome): string {
  expect({ status: done.status, stderr: done.stderr }).toEqual({ status: 0, stderr: "" });
  return done.stdout;
}

export async function withReplication(
  run: (replication: Replication) => void | Promise<void>,
  options: TestVolumeOptions = {},
): Promise<void> {
  const replication = new Replication(options);
  try {
    await run(replication);
  } finally {
    replication.remove();
  }
}

export function statusOf(volume: TestVolume): MountStatus {
  const [status] = JSON.parse(succeed(volume.cli(["status", "--json", volume.mountpoint]))) as MountStatus[];
  if (status === undefined) throw new Error("not mounted");
  return status;
}

/** Demands that two mounts show the same, inode numbers too. */
export function expectSame(one: string, other: string): void {
  expect(compare(new HostPlace(one), new HostPlace(other))).toEqual([]);
  const numbers = (root: string): string[] =>
    readdirSync(root, { recursive: true, encoding: "utf8" })
      .sort()
      .map((name) => `${name} ${lstatSync(join(root, name), { throwIfNoEntry: false })?.ino}`);
  expect(numbers(other)).toEqual(numbers(one));
}
