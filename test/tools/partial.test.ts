/** Partial replicas, as a user has them: clone --partial, pin, unpin. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { noise } from "../core/noise.ts";
import { sqlfuse } from "./run.ts";

const LARGE = 300_000;
let directory: string;
let replica: string;

const at = (name: string) => join(directory, name);

function ok(...args: string[]): string {
  const done = sqlfuse(args);
  expect(done, args.join(" ")).toMatchObject({ code: 0, stderr: "" });
  return done.stdout;
}

function fails(code: number, message: RegExp, ...args: string[]): void {
  const done = sqlfuse(args);
  expect(done.stderr, args.join(" ")).toMatch(message);
  expect(done.code, args.join(" ")).toBe(code);
}

const shareOf = (): { bytes: number; bytesHere: number; limit: number; pins: number[] } =>
  JSON.parse(ok("info", "--json", replica)).volume.share;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "partial-"));
  replica = at("replica.sqlite");
  mkdirSync(at("nas"));
  mkdirSync(at("tree/photos"), { recursive: true });
  writeFileSync(at("tree/note"), "a small file");
  writeFileSync(at("tree/photos/a"), noise(LARGE));
  writeFileSync(at("tree/large"), noise(LARGE, 2));
  ok("create", at("vault"));
  ok("put", at("vault"), at("tree"), "/");
  ok("remote", "add", at("vault"), "nas", at("nas"));
  ok("push", at("vault"));
});

afterEach(() => rmSync(directory, { recursive: true, force: true }));

describe("clone --partial", () => {
  it("has the names and the small files, and says of others that they are not here", () => {
    expect(ok("clone", "--partial", "--limit", "5M", at("nas"), replica)).toMatch(
      /: a partial replica, as of segment 1 /,
    );
    expect(ok("cat", replica, "tree/note")).toBe("a small file");
    expect(ok("ls", "-R", replica)).toBe(ok("ls", "-R", at("vault")));
    fails(
      1,
      /tree\/large: its content is not here, as the replica is partial: see sqlfuse pin/,
      "cat",
      replica,
      "tree/large",
    );
    const { bytes, bytesHere, limit, pins } = shareOf();
    expect({ limit, pins }).toEqual({ limit: 5 * 2 ** 20, pins: [] });
    expect(bytesHere).toBeLessThan(100);
    expect(bytes).toBeGreaterThan(2 * LARGE);
    expect(ok("info", replica)).toMatch(
      /^here +12 B of 585\.\d KiB, 0 pinned trees; at most 5\.0 MiB that may go again$/m,
    );
    ok("fsck", replica);
  });

  it("refuses what makes no sense", () => {
    fails(
      2,
      /--restore: a volume has all of its content/,
      "clone",
      "--partial",
      "--restore",
      at("nas"),
      replica,
    );
    fails(
      2,
      /--limit: is of a replica that is made with --partial/,
      "clone",
      "--limit",
      "1G",
      at("nas"),
      replica,
    );
    fails(
      2,
      /--limit "5": not a number of bytes from 1M to 1000T, such as 20G/,
      "clone",
      "--partial",
      "--limit",
      "5",
      at("nas"),
      replica,
    );
  });
});

describe("pin", () => {
  it("fetches a tree and keeps it, and what comes into it later, until unpin", () => {
    ok("clone", "--partial", at("nas"), replica);
    expect(ok("pin", replica, "/tree/photos")).toMatch(/: pinned, 29\d\.\d KiB fetched\n$/);
    expect(ok("pin", replica, "/tree/photos")).toMatch(/: pinned, all of it was here\n$/);
    expect(ok("pin", "--list", replica)).toBe("/tree/photos\n");
    ok("get", replica, "tree/photos/a", at("got"));
    expect(readFileSync(at("got")).equals(noise(LARGE))).toBe(true);
    writeFileSync(at("b"), noise(LARGE, 3));
    ok("put", at("vault"), at("b"), "/tree/photos");
    ok("push", at("vault"));
    ok("pull", replica);
    ok("get", replica, "tree/photos/b", at("got-b"));
    expect(readFileSync(at("got-b")).equals(noise(LARGE, 3))).toBe(true);
    ok("unpin", replica, "/tree/photos");
    expect(ok("pin", "--list", replica)).toBe("");
    fails(10, /is not pinned; see: sqlfuse pin --list/, "unpin", replica, "/tree/photos");
    fails(10, /no such file or directory/, "pin", replica, "/tree/nothing");
    fails(10, /has all of its content/, "pin", at("vault"), "/tree");
    ok("fsck", replica);
  });

  it("of all of a replica makes it whole", () => {
    ok("clone", "--partial", at("nas"), replica);
    ok("pin", replica);
    const noAtime = (file: string): string => ok("dump", "--no-data", file).replace(/ atime=\S+/g, "");
    expect(noAtime(replica)).toBe(noAtime(at("vault")));
    const { bytes, bytesHere } = shareOf();
    expect(bytesHere).toBe(bytes);
  });
});
