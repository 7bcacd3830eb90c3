/** The life of a volume: open, close, and what holds whatever comes between. */
import { existsSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { runChild } from "./child.ts";
import { b, CALLER, find, inVolume, mkdir, put, ROOT, settle, touch } from "./fixture.ts";

/** A volume with one file, in a process that may crash. */
const PRELUDE = `
  import { renameSync } from "node:fs";
  import { Fixture, put, ROOT, b, S_IFREG, CALLER } from "test/core/fixture.ts";
  import { Statement } from "src/db/statement.ts";
  import { SqliteError } from "src/db/errors.ts";
  const fixture = new Fixture();
  const volume = fixture.volume;
  const file = put(volume, ROOT, "a", "content");
  const lines: string[] = [];
  const attempt = (name: string, run: () => unknown) => {
    try {
      run();
      lines.push(name + ": ok");
    } catch (error) {
      lines.push(name + ": " + (error instanceof Error ? (error as { code?: unknown }).code ?? error.name : "?"));
    }
  };
`;
const EPILOGUE = `
  process.stdout.write(lines.join("\\n"));
`;

function inChild(source: string): string[] {
  const { status, signal, stdout, stderr } = runChild(PRELUDE + source + EPILOGUE);
  expect({ status, signal, stderr }).toEqual({ status: 0, signal: null, stderr: "" });
  return stdout.split("\n");
}

describe("close", () => {
  it("leaves only the one file, with everything in it", () =>
    inVolume((fixture, volume) => {
      put(volume, ROOT, "a", "content");
      fixture.close();
      expect(existsSync(`${fixture.path}-wal`)).toBe(false);
      expect(find(fixture.volume, "a")?.size).toBe(7);
    }));

  it("purges what is unlinked, references or not", () =>
    inVolume((fixture, volume) => {
      const file = put(volume, ROOT, "a", Buffer.alloc(100_000, 1));
      volume.inodes.ref(file);
      volume.tree.unlink(ROOT, b("a"));
      fixture.close();
      expect(fixture.number("SELECT count(*) FROM inode")).toBe(1);
      expect(fixture.number("SELECT count(*) FROM block")).toBe(0);
    }));

  it("a second time does nothing", () => {
    expect(
      inChild(`
      fixture.close();
      attempt("close", () => volume.close());
    `),
    ).toEqual(["close: ok"]);
  });

  it("ends the volume: every call after it is refused, and the process lives", () => {
    const lines = inChild(`
      fixture.close();
      attempt("getattr", () => volume.attributes.getattr(file));
      attempt("lookup", () => volume.tree.lookup(ROOT, b("a")));
      attempt("mknod", () => volume.tree.mknod(ROOT, b("b"), S_IFREG, 0, CALLER));
      attempt("read", () => volume.files.read(file, 0, 7, new Uint8Array(7)));
    `);
    expect(lines.filter((line) => line.endsWith("ok"))).toEqual([]);
  });
});

describe("a volume", () => {
  it("survives that the file cannot be reopened after a failure", () => {
    const lines = inChild(`
      renameSync(fixture.path, fixture.path + ".away");
      const step = Statement.prototype.step;
      let calls = 0;
      Statement.prototype.step = function (this: Statement) {
        if (calls++ === 2) throw new SqliteError("disk I/O error", 10, 5, this.sql);
        return step.call(this);
      };
      attempt("mknod", () => volume.tree.mknod(ROOT, b("b"), S_IFREG, 0, CALLER));
      Statement.prototype.step = step;
      attempt("getattr", () => volume.attributes.getattr(file));
      attempt("lookup", () => volume.tree.lookup(ROOT, b("a")));
      attempt("mknod", () => volume.tree.mknod(ROOT, b("b"), S_IFREG, 0, CALLER));
      attempt("close", () => volume.close());
    `);
    expect(lines.slice(0, 4)).toEqual(["mknod: EIO", "getattr: EIO", "lookup: EIO", "mknod: EIO"]);
  });

  it("has the same id after a remount, of 32 hexadecimal digits", () =>
    inVolume((fixture, volume) => {
      expect(volume.volumeId).toMatch(/^[0-9a-f]{32}$/);
      expect(fixture.remount().volumeId).toBe(volume.volumeId);
    }));

  it("tells its files in statfs, and the disk's figures", () =>
    inVolume((fixture, volume) => {
      const empty = volume.statfs();
      expect(empty.files - empty.ffree).toBe(1);
      expect(empty.nameMax).toBe(255);
      expect(empty.bavail).toBeGreaterThan(0);
      expect(empty.blocks).toBeGreaterThanOrEqual(empty.bfree);
      mkdir(volume, ROOT, "d");
      const file = touch(volume, ROOT, "a");
      volume.tree.link(file, ROOT, b("b"));
      const three = volume.statfs();
      expect(three.files - three.ffree).toBe(3);
      volume.tree.unlink(ROOT, b("a"));
      volume.tree.unlink(ROOT, b("b"));
      settle(volume, fixture.clock);
      const two = volume.statfs();
      expect(two.files - two.ffree).toBe(2);
    }));

  it("closes a new epoch each time, and tells the one that was closed", () =>
    inVolume((fixture, volume) => {
      expect(volume.closeEpoch()).toBe(1);
      volume.tree.mkdir(ROOT, b("d"), 0o755, CALLER);
      expect(volume.closeEpoch()).toBe(2);
      expect(fixture.remount().closeEpoch()).toBe(3);
    }));
});
