/**
 * A volume in a file of its own for each test, worked on by the command line and by the library. What is exported is that
 * of the test that runs.
 */
import { copyFileSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, expect } from "vitest";
import { unlock } from "../../src/core/unlock.ts";
import { Volume } from "../../src/core/volume.ts";
import type { Key } from "../../src/db/key.ts";
import { check } from "../../src/fsck/check.ts";
import { type Outcome, PASSWORD, sqlfuse } from "./run.ts";

export let directory: string;
export let file: string;
export let key: Key;

/** Each test of the calling file begins with an empty volume, and ends with a whole one. */
export function eachWithVolume(): void {
  let template: string;
  beforeAll(() => {
    template = join(mkdtempSync(join(tmpdir(), "template-")), "v");
    Volume.create(template, Buffer.from(PASSWORD), { blockSize: 4096 });
    key = unlock(template, Buffer.from(PASSWORD));
  });
  afterAll(() => rmSync(join(template, ".."), { recursive: true }));
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), "volume-"));
    file = join(directory, "v");
    copyFileSync(template, file);
  });
  afterEach(() => {
    expect(check(file, key)).toEqual([]);
    rmSync(directory, { recursive: true, force: true });
  });
}

/** Works in the volume through the library. */
export function inside<T>(work: (volume: Volume) => T): T {
  const volume = Volume.open(file, key);
  try {
    return work(volume);
  } finally {
    volume.close();
  }
}

export function run(...args: string[]): Outcome {
  return sqlfuse(args);
}

/** What it printed. */
export function succeed(...args: string[]): string {
  const { code, stdout, stderr } = run(...args);
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  return stdout;
}
