/** What makes a directory unfit to be mounted on, each with its own reason. */
import { mkdirSync, mkdtempSync, realpathSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { HostError } from "../../src/host/errors.ts";
import { inheritedFd, prepareMountpoint } from "../../src/host/mountpoint.ts";

let directory: string;
let path: string;

beforeEach(() => {
  directory = realpathSync(mkdtempSync(join(tmpdir(), "sqlfuse-point-")));
  mkdirSync(join(directory, "db"));
  path = join(directory, "db", "v.sqlite");
  writeFileSync(path, "");
});

afterEach(() => rmSync(directory, { recursive: true }));

function refusal(mountpoint: string): { reason: string; message: string } {
  try {
    prepareMountpoint(mountpoint, path);
  } catch (error) {
    if (error instanceof HostError) return { reason: error.reason, message: error.message };
    throw error;
  }
  return { reason: "none", message: "" };
}

describe("a mount point", () => {
  test("that is an empty directory is fit", () => {
    const mountpoint = join(directory, "m");
    mkdirSync(mountpoint);
    expect(prepareMountpoint(mountpoint, path)).toEqual({ created: false });
  });

  test("that is missing is made, for nobody else", () => {
    const mountpoint = join(directory, "m");
    expect(prepareMountpoint(mountpoint, path)).toEqual({ created: true });
    expect(statSync(mountpoint).mode & 0o777).toBe(0o700);
  });

  test("whose parent is missing is refused, and nothing is made", () => {
    const { reason, message } = refusal(join(directory, "no", "m"));
    expect(reason).toBe("mountpoint-missing");
    expect(message).toContain(join(directory, "no", "m"));
    expect(statSync(join(directory, "no"), { throwIfNoEntry: false })).toBeUndefined();
  });

  test("that is a file is refused", () => {
    const file = join(directory, "file");
    writeFileSync(file, "");
    expect(refusal(file).reason).toBe("mountpoint-not-directory");
  });

  test("that is not empty is refused", () => {
    const mountpoint = join(directory, "m");
    mkdirSync(join(mountpoint, "something"), { recursive: true });
    expect(refusal(mountpoint).reason).toBe("mountpoint-not-empty");
  });

  test("that holds the database is refused for that, at any depth and under any name", () => {
    expect(refusal(join(directory, "db")).reason).toBe("mountpoint-holds-database");
    expect(refusal(directory).reason).toBe("mountpoint-holds-database");
    symlinkSync(directory, join(directory, "db", "alias"));
    expect(refusal(join(directory, "db", "alias")).reason).toBe("mountpoint-holds-database");
  });

  test("that is a descriptor was mounted by somebody else", () => {
    expect(prepareMountpoint("/dev/fd/7", path)).toEqual({ created: false });
    expect(inheritedFd("/dev/fd/7")).toBe(7);
    expect(inheritedFd("/dev/fd/x")).toBeUndefined();
    expect(inheritedFd("/dev/fd/7/m")).toBeUndefined();
  });
});
