/** Copies between a volume and directories, both ways, and what a path means. */
import { spawnSync } from "node:child_process";
import {
  chmodSync,
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { Copier, type CopyOptions, describe as inWords } from "../../src/archive/copy.ts";
import { escapeBytes, showBytes, unescapeBytes } from "../../src/archive/escape.ts";
import { HostPlace } from "../../src/archive/hostplace.ts";
import { resolvePath } from "../../src/archive/path.ts";
import type { Place } from "../../src/archive/place.ts";
import { formatTime, parseTime } from "../../src/archive/time.ts";
import { VolumePlace } from "../../src/archive/volumeplace.ts";
import { b, mkdir, OPEN_CALLER, put, ROOT } from "../core/fixture.ts";
import { withRandomAsync } from "./random.ts";
import { fillRandom, fillRich, inDirectory, withVolumes } from "./rich.ts";
import { compare } from "./tree.ts";

const IS_ROOT = process.geteuid?.() === 0;

function copier(from: Place, to: Place, told: string[], options: Partial<CopyOptions> = {}): Copier {
  return new Copier(from, to, {
    chown: IS_ROOT,
    noClobber: false,
    untouchable: new Set(),
    breathe: () => undefined,
    onItem() {},
    onBytes() {},
    onSkip: (path, why) => told.push(`${path}: ${why}`),
    onLoss: (path, what) => told.push(`${path}: without ${what}`),
    ...options,
  });
}

/** The root's own entry in a directory below: what `get FILE / DEST` does. */
async function copyAll(
  from: Place,
  to: Place,
  told: string[],
  options: Partial<CopyOptions> = {},
): Promise<void> {
  await copier(from, to, told, options).copy("", "");
}

describe("a copy", () => {
  it.runIf(IS_ROOT)("out of a volume and into another one keeps everything", () =>
    inDirectory((directory) =>
      withVolumes(2, async (one, other) => {
        fillRich(one!.volume, { portable: true });
        const told: string[] = [];
        const [from, host, to] = [
          new VolumePlace(one!.volume, 0, 0),
          new HostPlace(directory),
          new VolumePlace(other!.volume, 0, 0),
        ];
        await copyAll(from, host, told);
        expect(told).toEqual([]);
        expect(compare(from, host)).toEqual([]);
        await copyAll(host, to, told);
        expect(told).toEqual([]);
        expect(compare(from, to)).toEqual([]);
      }),
    ),
  );

  it("keeps random trees", () =>
    withRandomAsync((random) =>
      withVolumes(2, async (one, other) => {
        fillRandom(one!.volume, random, 150);
        const told: string[] = [];
        const [from, to] = [new VolumePlace(one!.volume, 0, 0), new VolumePlace(other!.volume, 0, 0)];
        await copyAll(from, to, told, { chown: true });
        expect(told).toEqual([]);
        expect(compare(from, to)).toEqual([]);
      }),
    ));

  it("again changes nothing, and takes what changed", () =>
    withVolumes(2, async (one, other) => {
      const a = mkdir(one!.volume, ROOT, "a");
      put(one!.volume, a, "f", "first");
      const again = put(one!.volume, a, "g", "g");
      one!.volume.tree.link(again, a, b("h"));
      const [from, to] = [new VolumePlace(one!.volume, 0, 0), new VolumePlace(other!.volume, 0, 0)];
      const told: string[] = [];
      for (let i = 0; i < 3; i++) await copyAll(from, to, told, { chown: true });
      one!.volume.tree.unlink(a, b("f"));
      put(one!.volume, a, "f", "second, longer");
      await copyAll(from, to, told, { chown: true });
      expect(told).toEqual([]);
      expect(compare(from, to)).toEqual([]);
      expect([...to.names("/a")]).toEqual(["f", "g", "h"]);
    }));

  it("leaves alone what is there, with noClobber", () =>
    withVolumes(2, async (one, other) => {
      put(one!.volume, ROOT, "f", "new");
      put(one!.volume, ROOT, "g", "new");
      put(other!.volume, ROOT, "f", "old");
      const [from, to] = [new VolumePlace(one!.volume, 0, 0), new VolumePlace(other!.volume, 0, 0)];
      await copyAll(from, to, [], { noClobber: true });
      const read = (path: string): string => {
        const bytes = Buffer.alloc(3);
        to.openRead(path).read(0, bytes);
        return bytes.toString();
      };
      expect([read("/f"), read("/g")]).toEqual(["old", "new"]);
    }));

  it("names what is in the way, and goes on", () =>
    withVolumes(2, async (one, other) => {
      put(one!.volume, ROOT, "a", "file");
      mkdir(one!.volume, ROOT, "b");
      put(one!.volume, ROOT, "c", "c");
      mkdir(other!.volume, ROOT, "a");
      put(other!.volume, ROOT, "b", "file");
      const told: string[] = [];
      const [from, to] = [new VolumePlace(one!.volume, 0, 0), new VolumePlace(other!.volume, 0, 0)];
      await copyAll(from, to, told);
      expect(told).toEqual([
        "/a: there is a directory of that name",
        "/b: there is something of that name that is not a directory",
      ]);
      expect([...to.names("")]).toEqual(["a", "b", "c"]);
    }));

  it("never follows a symlink that lies where it goes", () =>
    inDirectory((directory) =>
      withVolumes(1, async (one) => {
        const { volume } = one!;
        put(volume, ROOT, "f", "from the volume");
        put(volume, mkdir(volume, ROOT, "d"), "inner", "x");
        mkdirSync(join(directory, "out"));
        mkdirSync(join(directory, "elsewhere"));
        writeFileSync(join(directory, "precious"), "precious");
        symlinkSync("../precious", join(directory, "out/f"));
        symlinkSync("../elsewhere", join(directory, "out/d"));
        const told: string[] = [];
        await copyAll(new VolumePlace(volume, 0, 0), new HostPlace(join(directory, "out")), told);
        expect(told).toEqual(["/d: there is something of that name that is not a directory"]);
        expect(readFileSync(join(directory, "precious"), "utf8")).toBe("precious");
        expect(readFileSync(join(directory, "out/f"), "utf8")).toBe("from the volume");
        expect(readdirSync(join(directory, "elsewhere"))).toEqual([]);
      }),
    ));

  it("does not run into itself", () =>
    inDirectory(async (directory) => {
      mkdirSync(join(directory, "a/b"), { recursive: true });
      writeFileSync(join(directory, "a/f"), "f");
      const host = new HostPlace();
      const told: string[] = [];
      await copier(host, host, told).copy(`${directory}/a`, `${directory}/a/b/a`);
      expect(told).toEqual([`${directory}/a/b/a: it is where the copy goes`]);
      expect(readdirSync(join(directory, "a/b/a"))).toEqual(["b", "f"]);
    }));

  it("that is stopped leaves no half file", () =>
    inDirectory((directory) =>
      withVolumes(1, async (one) => {
        put(one!.volume, ROOT, "f", Buffer.alloc(5_000_000, 1));
        let bytes = 0;
        const copying = copier(new VolumePlace(one!.volume, 0, 0), new HostPlace(directory), [], {
          onBytes(count) {
            bytes += count;
            if (bytes > 2_000_000) throw new Error("stopped");
          },
        }).copy("/f", "/f");
        await expect(copying).rejects.toThrow("stopped");
        expect(readdirSync(directory)).toEqual([]);
      }),
    ));

  it("drops what a directory would let its files inherit", () =>
    withVolumes(2, async (one, other) => {
      const acl = Buffer.from(
        "0200000001000700ffffffff020007003930000004000500ffffffff10000700ffffffff20000000ffffffff",
        "hex",
      );
      put(one!.volume, ROOT, "f", "f");
      other!.volume.xattrs.set(ROOT, b("system.posix_acl_default"), acl, 0, false);
      const [from, to] = [new VolumePlace(one!.volume, 0, 0), new VolumePlace(other!.volume, 0, 0)];
      await copier(from, to, []).copy("/f", "/f");
      expect(to.xattrs("/f")).toEqual([]);
      expect(to.stat("/f")?.mode).toBe(0o100644);
    }));

  it.runIf(IS_ROOT)("by others than root makes nothing set-user-ID of somebody else's", () =>
    inDirectory((directory) => {
      writeFileSync(join(directory, "f"), "f");
      const host = new HostPlace(directory);
      const stat = host.stat("/f")!;
      host.finish("/f", { ...stat, uid: 12_345, mode: 0o106755 }, [], false);
      expect(statSync(join(directory, "f")).mode & 0o7777).toBe(0o755);
      expect(statSync(join(directory, "f")).uid).toBe(0);
    }),
  );

  it("keeps hard links of host files", () =>
    inDirectory((directory) =>
      withVolumes(1, async (one) => {
        writeFileSync(join(directory, "a"), "a");
        linkSync(join(directory, "a"), join(directory, "b"));
        chmodSync(join(directory, "a"), 0o640);
        const to = new VolumePlace(one!.volume, 0, 0);
        await copyAll(new HostPlace(directory), to, []);
        expect(to.stat("/a")).toMatchObject({ nlink: 2, mode: 0o100640 });
        expect(to.stat("/b")?.identity).toBe(to.stat("/a")?.identity);
      }),
    ));

  it("agrees with rsync", (context) => {
    if (!IS_ROOT || spawnSync("rsync", ["--version"]).status !== 0) context.skip("needs root and rsync");
    return inDirectory((directory) =>
      withVolumes(1, async (one) => {
        fillRich(one!.volume, { portable: true });
        const place = new VolumePlace(one!.volume, 0, 0);
        const told: string[] = [];
        for (const name of ["one", "two"]) {
          mkdirSync(join(directory, name));
          await copyAll(place, new HostPlace(join(directory, name)), told);
        }
        expect(told).toEqual([]);
        const { stdout, status } = spawnSync(
          "rsync",
          ["-aHAXn", "--itemize-changes", "--delete", "--exclude=/content/large", "one/", "two/"],
          { cwd: directory, encoding: "latin1" },
        );
        expect({ stdout, status }).toEqual({ stdout: "", status: 0 });
        expect(existsSync(join(directory, "one/content/large"))).toBe(true);
      }),
    );
  });
});

describe("a path", () => {
  it("follows symlinks inside, and never out", () =>
    withVolumes(1, (one) => {
      const { volume } = one!;
      const d = mkdir(volume, ROOT, "d");
      const e = mkdir(volume, d, "e");
      put(volume, e, "f", "f");
      const link = (parent: typeof d, name: string, target: string) =>
        void volume.tree.symlink(parent, b(name), b(target), OPEN_CALLER);
      link(ROOT, "to-e", "d/e");
      link(e, "up", "../../to-e/f");
      link(ROOT, "absolute", "/etc");
      link(ROOT, "out", "d/../../etc");
      link(ROOT, "loop", "loop");
      link(ROOT, "dangling", "nothing/at/all");
      const place = new VolumePlace(volume, 0, 0);
      const path = (text: string, follow = true): string => {
        try {
          return resolvePath(place, text, follow);
        } catch (error) {
          return inWords(error);
        }
      };
      expect(path("")).toBe("");
      expect(path("/")).toBe("");
      expect(path("//d/./e/../e//f")).toBe("/d/e/f");
      expect(path("to-e/f")).toBe("/d/e/f");
      expect(path("to-e")).toBe("/d/e");
      expect(path("to-e", false)).toBe("/to-e");
      expect(path("to-e/", false)).toBe("/d/e");
      expect(path("d/e/up")).toBe("/d/e/f");
      expect(path("absolute", false)).toBe("/absolute");
      expect(path("absolute")).toBe("a symbolic link on the way leads out of the volume");
      expect(path("absolute/passwd")).toBe("a symbolic link on the way leads out of the volume");
      expect(path("out")).toBe("the path leads out of the volume");
      expect(path("../x")).toBe("the path leads out of the volume");
      expect(path("loop")).toBe("too many symbolic links");
      expect(path("dangling")).toBe("/nothing/at/all");
      expect(path("d/e/f/g")).toBe("not a directory");
      expect(path("new/name")).toBe("/new/name");
    }));
});

describe("escaped bytes", () => {
  it("come back as they were, whatever they are", () =>
    withRandomAsync(async (random) => {
      for (let i = 0; i < 500; i++) {
        const bytes = random.bytes(random.below(40));
        const text = escapeBytes(bytes);
        expect(text).not.toMatch(/[ \t\r\n]/);
        expect(unescapeBytes(text)).toEqual(bytes);
      }
    }));

  it.each([
    ["plain-Text.123", "plain-Text.123"],
    ["a b", "a\\x20b"],
    ["back\\slash", "back\\x5cslash"],
    ["Grüße 日本", "Grüße\\x20日本"],
    ["\u202egnp", "\\xe2\\x80\\xaegnp"],
    ["\u00a0\u00ad", "\\xc2\\xa0\\xc2\\xad"],
    ["😀", "😀"],
    ["\x7f\x1b[31m", "\\x7f\\x1b[31m"],
  ])("of %j are %s", (bytes, text) => {
    expect(Buffer.from(escapeBytes(Buffer.from(bytes)), "latin1").toString()).toBe(text);
  });

  it("are bytes where UTF-8 is overlong, cut off or a surrogate", () => {
    expect(escapeBytes(Buffer.from("c0afe280eda080f5", "hex"))).toBe(
      "\\xc0\\xaf\\xe2\\x80\\xed\\xa0\\x80\\xf5",
    );
    expect(showBytes(Buffer.from("a b\xff\n", "latin1"))).toBe("a b\\xff\\x0a");
  });

  it("are refused where the escape is none", () => {
    for (const text of ["\\", "\\x", "\\x1", "\\xZZ", "\\n", "\\xFF"])
      expect(unescapeBytes(text), text).toBeUndefined();
  });
});

describe("times", () => {
  it.each([
    [0, 0, "0.000000000"],
    [1, 5, "1.000000005"],
    [-1, 500_000_000, "-0.500000000"],
    [-2, 500_000_000, "-1.500000000"],
    [-1, 0, "-1.000000000"],
    [-1, 999_999_999, "-0.000000001"],
    [9_223_372_035, 999_999_999, "9223372035.999999999"],
  ])("%i s and %i ns are %s", (sec, nsec, text) => {
    expect(formatTime({ sec, nsec })).toBe(text);
    expect(parseTime(text)).toEqual({ sec, nsec });
  });

  it("may have fewer or more decimals", () => {
    expect(parseTime("5")).toEqual({ sec: 5, nsec: 0 });
    expect(parseTime("-5")).toEqual({ sec: -5, nsec: 0 });
    expect(parseTime("5.25")).toEqual({ sec: 5, nsec: 250_000_000 });
    expect(parseTime("5.1234567899")).toEqual({ sec: 5, nsec: 123_456_789 });
    for (const text of ["", ".", "x", "1e5", "1.2.3", "--1", " 1"])
      expect(parseTime(text), text).toBeUndefined();
  });
});
