import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { OpenError, type OpenReason } from "../../src/core/errors.ts";
import { HostError, type HostReason } from "../../src/host/errors.ts";
import { describeError, EXIT, exitCodeHelp, ToolError } from "../../tools/exitcodes.ts";

const OPEN: Record<OpenReason, number> = {
  missing: 10,
  unreadable: 10,
  "not-a-volume": 10,
  "wrong-password": 12,
  damaged: 20,
  older: 20,
  "bad-head": 10,
  "too-new": 13,
  "needs-upgrade": 14,
  locked: 11,
  "unreplayable-wal": 10,
  exists: 10,
  "no-space": 28,
};

const HOST: Record<HostReason, number> = {
  "no-fuse": 19,
  "no-fusermount": 19,
  "mountpoint-missing": 10,
  "mountpoint-not-directory": 10,
  "mountpoint-not-empty": 10,
  "mountpoint-in-own-mount": 10,
  "mountpoint-holds-database": 10,
  "allow-other-forbidden": 19,
  busy: 16,
  "not-mounted": 10,
  "not-permitted": 1,
  engine: 19,
};

describe("exit codes", () => {
  test.each(Object.entries(OPEN))("a volume that is %s ends with %i", (reason, code) => {
    const error = new OpenError(reason as OpenReason, "/v", "the line");
    expect(describeError(error)).toEqual({ message: "the line", code });
  });

  test.each(Object.entries(HOST))("a host that says %s ends with %i", (reason, code) => {
    expect(describeError(new HostError(reason as HostReason, "the line"))).toEqual({
      message: "the line",
      code,
    });
  });

  test("an engine that cannot be loaded ends with 19", () => {
    const error = new Error("not built");
    error.name = "EngineError";
    expect(describeError(error)).toEqual({ message: "not built", code: 19 });
  });

  test("an error of the tools carries its own code", () => {
    expect(describeError(new ToolError(22, "empty"))).toEqual({ message: "empty", code: 22 });
  });

  test("anything else is 1, on one line", () => {
    expect(describeError(new Error("a\n  b"))).toEqual({ message: "a; b", code: 1 });
    expect(describeError(new TypeError(""))).toEqual({ message: "TypeError", code: 1 });
    expect(describeError("text")).toEqual({ message: "text", code: 1 });
  });

  test("--help and README.md list each of them", () => {
    const readme = readFileSync(new URL("../../README.md", import.meta.url), "utf8");
    for (const code of Object.values(EXIT)) {
      expect(exitCodeHelp()).toMatch(new RegExp(`^ {2}${code} `, "m"));
      expect(readme).toMatch(new RegExp(`^\\| ${code} \\|`, "m"));
    }
  });
});
