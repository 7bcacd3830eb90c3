/**
 * Who is kept out of what: other users, whoever may write where a mount point is made, and whoever has the file without
 * its password. Not repeated here: the hunt for plaintext (test/mount/plaintext.test.ts), suid and dev (life.test.ts
 * beside it), damaged bytes (test/core/flips.test.ts), heads (test/core/head.test.ts).
 */
import { spawnSync } from "node:child_process";
import {
  chmodSync,
  copyFileSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { DamageError } from "../../src/base/errno.ts";
import type { Ino } from "../../src/core/types.ts";
import { unlock } from "../../src/core/unlock.ts";
import { Volume } from "../../src/core/volume.ts";
import { drain, inspect } from "../../src/fsck/check.ts";
import { attach } from "../../src/host/attachment.ts";
import { HostError } from "../../src/host/errors.ts";
import { makeRunDirectory } from "../../src/host/rundir.ts";
import { b, Fixture, noise, put, ROOT, PASSWORD as VOLUME_PASSWORD } from "../core/fixture.ts";
import { sys } from "../helpers/libc.ts";
import { python } from "../helpers/programs.ts";
import {
  CLI,
  IS_ROOT,
  isAlive,
  mountingImpossible,
  type Owner,
  PASSWORD,
  runCli,
  TestVolume,
} from "../helpers/volume.ts";
import { FOR_OTHERS } from "../tools/run.ts";

const impossible = mountingImpossible();
if (impossible !== undefined) console.warn(`who is kept out of a mount is not tested: ${impossible}`);
const asRootImpossible = impossible ?? (IS_ROOT ? undefined : "needs root, who can be two users");
if (impossible === undefined && asRootImpossible !== undefined)
  console.warn(`other users are not tested: ${asRootImpossible}`);

const STRANGER: Owner = { uid: 12_001, gid: 12_001 };
const NOBODY: Owner = { uid: 65_534, gid: 65_534 };

/** Why an ordinary user cannot mount here. */
function ordinaryCannot(): string | undefined {
  if (!IS_ROOT) return impossible;
  const other = impossible ?? mountingImpossible(NOBODY);
  if (other !== undefined) return other;
  return runCli(["--version"], { owner: NOBODY }).status === 0
    ? undefined
    : "nobody may not read this repository";
}
const ordinaryImpossible = ordinaryCannot();
if (ordinaryImpossible !== undefined)
  console.warn(`the mount of an ordinary user is not tested: ${ordinaryImpossible}`);

let volume: TestVolume | undefined;
let directory: string;
beforeEach(() => {
  directory = realpathSync(mkdtempSync(join(tmpdir(), "security-")));
  chmodSync(directory, 0o755);
});
afterEach(() => {
  volume?.remove();
  volume = undefined;
  vi.unstubAllEnvs();
  rmSync(directory, { recursive: true, force: true });
});

describe("files of a mount", () => {
  test.skipIf(impossible !== undefined)(
    "are for their owner alone, whatever the umask: volume, -wal, -shm, log, head, socket, note",
    () => {
      volume = TestVolume.create();
      const { file, mountpoint } = volume;
      rmSync(file);
      const run = join(directory, "run");
      const env = {
        ...process.env,
        SQLFUSE_PASSWORD: PASSWORD,
        XDG_RUNTIME_DIR: run,
        XDG_STATE_HOME: join(directory, "state"),
        HOME: directory,
      };
      mkdirSync(run, { mode: 0o700 });
      const loosely = (command: string): void => {
        const done = spawnSync("sh", ["-c", `umask 0; exec "$0" "$1" ${command}`, process.execPath, CLI], {
          env,
          stdio: "ignore",
        });
        expect(done.status, command).toBe(0);
      };
      loosely(`create ${file}`);
      const options = IS_ROOT ? `--log-file ${directory}/log` : "";
      loosely(`mount --head-file ${directory}/head ${options} ${file} ${mountpoint}`);
      writeFileSync(join(mountpoint, "f"), "x");
      loosely(`sync ${mountpoint}`);
      loosely(`dump -o ${directory}/dump ${file}`);
      const places = [join(volume.home, "db"), directory];
      const seen = places.flatMap((place) =>
        readdirSync(place, { recursive: true, encoding: "utf8" }).map((name) => join(place, name)),
      );
      for (const end of ["volume.sqlite", "-wal", "-shm", "log", "head", ".sock", ".json", "dump"])
        expect(
          seen.some((path) => path.endsWith(end)),
          `one of ${seen} ends in ${end}`,
        ).toBe(true);
      for (const path of seen) expect([path, lstatSync(path).mode & 0o077]).toEqual([path, 0]);
      loosely(`unmount ${mountpoint}`);
      expect(statSync(file).mode & 0o777).toBe(0o600);
    },
  );
});

describe("the mount of an ordinary user", () => {
  test.skipIf(ordinaryImpossible !== undefined)(
    "is served with that user's rights and no others, and is nosuid and nodev whatever is asked for",
    () => {
      volume = TestVolume.create(IS_ROOT ? { owner: NOBODY } : {});
      const asked = volume.tryMount(["-o", "suid,dev"]);
      if (asked.status === 0) {
        expect(volume.entry?.options).toMatch(/nosuid/);
        expect(volume.entry?.options).toMatch(/nodev/);
      } else {
        volume.mount();
      }
      expect(volume.entry?.options).toMatch(/default_permissions/);
      const uid = IS_ROOT ? NOBODY.uid : process.getuid?.();
      const gid = IS_ROOT ? NOBODY.gid : process.getgid?.();
      const status = readFileSync(`/proc/${volume.pid}/status`, "utf8");
      expect(status).toMatch(new RegExp(`^Uid:(\\s+${uid}){4}$`, "m"));
      expect(status).toMatch(new RegExp(`^Gid:(\\s+${gid}){4}$`, "m"));
      expect(status).toMatch(/^CapPrm:\s+0+$/m);
      expect(status).toMatch(/^CapEff:\s+0+$/m);
      // Root is somebody else too.
      if (IS_ROOT) expect(() => readdirSync(volume?.mountpoint ?? "")).toThrow(/EACCES/);
      const done = volume.cli(["unmount", volume.mountpoint]);
      expect(done.status, done.stderr).toBe(0);
    },
  );

  test.skipIf(ordinaryImpossible !== undefined).each([[[]], [["--foreground"]]])(
    "gives the password to no program that it runs: %j",
    (options) => {
      volume = TestVolume.create(IS_ROOT ? { owner: NOBODY } : {});
      const bin = join(directory, "bin");
      mkdirSync(bin);
      chmodSync(directory, 0o777);
      writeFileSync(
        join(bin, "fusermount3"),
        `#!/bin/sh\nenv > ${directory}/seen\necho refused >&2\nexit 1\n`,
      );
      chmodSync(join(bin, "fusermount3"), 0o755);
      const done = spawnSync(
        FOR_OTHERS.node,
        [FOR_OTHERS.cli, "mount", volume.file, volume.mountpoint, ...options],
        {
          env: { HOME: volume.home, PATH: `${bin}:${process.env.PATH}`, SQLFUSE_PASSWORD: PASSWORD },
          encoding: "utf8",
          timeout: 30_000,
          ...(IS_ROOT ? NOBODY : {}),
        },
      );
      expect(done.stderr).toMatch(/refused/);
      const seen = readFileSync(join(directory, "seen"), "utf8");
      expect(seen).toContain("_FUSE_COMMFD=3");
      expect(seen).not.toContain(PASSWORD);
    },
  );
});

describe("another user", () => {
  const look = `
import os, socket, sys
for what in sys.argv[2:]:
    try:
        if what == "connect":
            s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
        elif what == "list": os.listdir(sys.argv[1])
        elif what == "read": open(sys.argv[1], "rb").read(1)
        elif what == "write": open(sys.argv[1], "r+b").close()
        elif what == "make": open(sys.argv[1] + "/new", "x").close()
        elif what == "chmod": os.chmod(sys.argv[1], 0o777)
        elif what == "remove": os.unlink(sys.argv[1])
        print("ok")
    except OSError as e: print(e.strerror)
`;
  const tries = (path: string, ...what: string[]): string[] =>
    python(look, [path, ...what], { cwd: "/", owner: STRANGER })
      .trim()
      .split("\n");

  test.skipIf(asRootImpossible !== undefined)(
    "can neither talk to the daemon, nor see what it serves, nor end it",
    () => {
      volume = TestVolume.create();
      volume.mount();
      const { pid, mountpoint } = volume;
      const socket = [`/run/user/0/sqlfuse/${pid}.sock`, `/tmp/sqlfuse-0/${pid}.sock`].find(existsSync);
      if (socket === undefined) throw new Error("the daemon has no socket");
      expect(tries(socket, "connect")).toEqual(["Permission denied"]);
      // Even if the directory were open: the socket itself is not.
      expect(lstatSync(socket).mode & 0o777).toBe(0o600);
      const stranger = { owner: STRANGER, home: directory };
      if (runCli(["--version"], stranger).status === 0) {
        expect(runCli(["status", "--json"], stranger).stdout).not.toContain(`"pid":${pid}`);
        for (const args of [["unmount"], ["unmount", "--lazy"], ["sync"]])
          expect(runCli([...args, mountpoint], stranger).status, args.join(" ")).not.toBe(0);
      }
      expect(isAlive(pid)).toBe(true);
      expect(tries(mountpoint, "list")).toEqual(["Permission denied"]);
      expect(tries(volume.file, "read", "write")).toEqual(["Permission denied", "Permission denied"]);
      volume.unmount();
    },
  );

  test.skipIf(asRootImpossible !== undefined)(
    "is let in by allow_other to what modes, owners and ACLs allow, and to nothing else",
    () => {
      volume = TestVolume.create({ createArgs: ["--root-mode", "0755"] });
      volume.mount("--allow-other");
      expect(volume.entry?.options).toMatch(/default_permissions/);
      const at = (name: string): string => join(volume?.mountpoint ?? "", name);
      for (const [name, mode] of Object.entries({ closed: 384, open: 420, given: 384 })) {
        writeFileSync(at(name), name);
        chmodSync(at(name), mode);
      }
      // user::rw-, user:12001:rw-, group::---, mask::rw-, other::---
      const entries = [
        [1, 6, 0xffff_ffff],
        [2, 6, STRANGER.uid],
        [4, 0, 0xffff_ffff],
        [16, 6, 0xffff_ffff],
        [32, 0, 0xffff_ffff],
      ];
      const acl = Buffer.alloc(4 + entries.length * 8);
      acl.writeUInt32LE(2, 0);
      for (const [i, [tag = 0, bits = 0, id = 0]] of entries.entries()) {
        acl.writeUInt16LE(tag, 4 + i * 8);
        acl.writeUInt16LE(bits, 6 + i * 8);
        acl.writeUInt32LE(id, 8 + i * 8);
      }
      sys.setxattr(at("given"), "system.posix_acl_access", acl);
      mkdirSync(at("sticky"));
      chmodSync(at("sticky"), 0o1777);
      writeFileSync(at("sticky/theirs"), "");
      const denied = "Permission denied";
      expect(tries(at("closed"), "read", "write")).toEqual([denied, denied]);
      expect(tries(at("open"), "read", "write", "chmod", "remove")).toEqual([
        "ok",
        denied,
        "Operation not permitted",
        denied,
      ]);
      expect(tries(at("given"), "read", "write")).toEqual(["ok", "ok"]);
      expect(tries(at(""), "make")).toEqual([denied]);
      expect(tries(at("sticky"), "make")).toEqual(["ok"]);
      expect(tries(at("sticky/theirs"), "remove")).toEqual(["Operation not permitted"]);
      expect(tries(at("sticky/new"), "remove")).toEqual(["ok"]);
      volume.unmount();
    },
  );

  test("who made the directory of the control socket first, or a link in its place, is not trusted", () => {
    vi.stubEnv("XDG_RUNTIME_DIR", directory);
    const trap = join(directory, "trap");
    mkdirSync(trap, { mode: 0o700 });
    symlinkSync(trap, join(directory, "sqlfuse"));
    expect(makeRunDirectory()).not.toContain(directory);
    expect(readdirSync(trap)).toEqual([]);
  });
});

describe("a symbolic link that takes the place of a mount point", () => {
  function tryAttach(mountpoint: string): HostError | undefined {
    try {
      const { fd } = attach({
        mountpoint,
        fsname: "security",
        readOnly: false,
        allowOther: false,
        defaultPermissions: false,
        suid: false,
        dev: false,
        exec: true,
        noatime: false,
      });
      // It should not have been. Nobody serves it: whoever looked at it would wait for ever.
      sys.close(fd);
      spawnSync("umount", ["-l", mountpoint]);
    } catch (error) {
      if (error instanceof HostError) return error;
      throw error;
    }
    return undefined;
  }
  const mountsAt = (place: string): string[] =>
    readFileSync("/proc/self/mountinfo", "utf8")
      .split("\n")
      .filter((line) => line.split(" ")[4] === place);

  test.skipIf(asRootImpossible !== undefined)(
    "after it was looked at, or of a directory above it, has root mount nowhere",
    () => {
      mkdirSync(join(directory, "target/m"), { recursive: true });
      symlinkSync(join(directory, "target"), join(directory, "link"));
      expect(tryAttach(join(directory, "link"))?.reason).toBe("mountpoint-not-directory");
      const above = tryAttach(join(directory, "link/m"));
      expect(above?.reason).toBe("mountpoint-missing");
      expect(above?.message).toBe(
        `${directory}/link/m: leads to ${directory}/target/m by now: somebody put a symbolic link into its path`,
      );
      for (const place of ["target", "target/m", "link", "link/m"])
        expect(mountsAt(join(directory, place))).toEqual([]);
      // Nor is what is missing made elsewhere.
      expect(tryAttach(join(directory, "none"))?.reason).toBe("mountpoint-missing");
    },
  );
});

describe("a wrong password", () => {
  test("gets the same message and code whatever it has in common with the right one", () => {
    const path = join(directory, "v");
    Volume.create(path, b("correct horse"));
    const messages = ["c", "correct hors", "correct horse "].map((wrong) => {
      try {
        unlock(path, b(wrong));
        return "opened";
      } catch (error) {
        return (error as Error).message;
      }
    });
    expect(new Set(messages)).toEqual(
      new Set([expect.stringMatching(/^.*: wrong password \(or not a sqlfuse volume/)]),
    );
  });
});

describe("whoever has the file and not its password", () => {
  const PAGE = 16_384;
  const OLD = noise(300_000, 1);
  const NEW = noise(300_000, 2);

  interface Target {
    readonly fixture: Fixture;
    readonly headFile: string;
    readonly file: Ino;
    /** The whole file before `file` became NEW; every page of OLD has another in its place now. */
    readonly older: Buffer;
    /** The file as it is, closed. */
    readonly now: Buffer;
  }

  /** A volume with a head, whose file was OLD when it was copied and is NEW. */
  function withTarget(run: (target: Target) => void): void {
    const fixture = new Fixture();
    const headFile = join(directory, "head");
    try {
      fixture.open({ headFile });
      const file = put(fixture.volume, ROOT, "file", OLD);
      put(fixture.volume, ROOT, "other", "other");
      fixture.close();
      const older = readFileSync(fixture.path);
      fixture.open({ headFile });
      fixture.volume.files.write(file, 0, NEW, false);
      fixture.close();
      run({ fixture, headFile, file, older, now: readFileSync(fixture.path) });
    } finally {
      fixture.remove();
    }
  }

  /** Whether bytes are pieces of OLD and NEW, of a page each: of those that lie across a border some are not found. */
  function isPiecedTogether(bytes: Buffer): boolean {
    const WINDOW = 32;
    let unknown = 0;
    for (let at = 0; at + WINDOW <= bytes.length; at += WINDOW) {
      const window = bytes.subarray(at, at + WINDOW);
      if (!NEW.includes(window) && !OLD.includes(window)) unknown++;
    }
    return unknown <= 4;
  }

  /** What is read of the file, block by block: "old", "new", "mixed" of both, "damage", or "wrong bytes". */
  function readAll(fixture: Fixture, file: Ino): Set<string> {
    const BLOCK = 65_536;
    const answers = new Set<string>();
    let opened: Volume;
    try {
      opened = Volume.open(fixture.path, fixture.key, { clock: fixture.clock, readOnly: true });
    } catch (error) {
      expect(error).toHaveProperty("reason", "damaged");
      return new Set(["damage"]);
    }
    try {
      for (let at = 0; at < OLD.length; at += BLOCK) {
        const into = Buffer.alloc(Math.min(BLOCK, OLD.length - at));
        try {
          expect(opened.files.read(file, at, into.length, into)).toBe(into.length);
          const was = into.equals(OLD.subarray(at, at + into.length)) && "old";
          const is = into.equals(NEW.subarray(at, at + into.length)) && "new";
          answers.add(was || is || (isPiecedTogether(into) ? "mixed" : "wrong bytes"));
        } catch (error) {
          if (!(error instanceof DamageError)) throw error;
          answers.add("damage");
        }
      }
    } finally {
      opened.close();
    }
    return answers;
  }

  const pageOf = (bytes: Buffer, page: number): Buffer => bytes.subarray((page - 1) * PAGE, page * PAGE);

  /** Pages of `now` at which an attack may be tried: all but the first, with its salt. */
  function eachPage(
    target: Target,
    change: (bytes: Buffer, page: number) => boolean,
    check: (page: number) => void,
  ) {
    let tried = 0;
    for (let page = 2; page <= target.now.length / PAGE; page++) {
      const bytes = Buffer.from(target.now);
      if (!change(bytes, page)) continue;
      writeFileSync(target.fixture.path, bytes);
      check(page);
      tried++;
    }
    expect(tried).toBeGreaterThan(10);
  }

  function findings({ fixture, headFile }: Target, head = false): string[] {
    const report = drain(inspect(fixture.path, fixture.key, head ? { headFile } : {}));
    return report.findings.map(({ kind }) => kind);
  }

  test.each([
    [
      "swaps two pages",
      (bytes: Buffer, page: number): boolean => {
        const other = page === 2 ? 3 : 2;
        const copy = Buffer.from(pageOf(bytes, page));
        pageOf(bytes, other).copy(pageOf(bytes, page));
        copy.copy(pageOf(bytes, other));
        return true;
      },
    ],
    [
      "copies a page over another",
      (bytes: Buffer, page: number): boolean => {
        pageOf(bytes, page === 2 ? 3 : 2).copy(pageOf(bytes, page));
        return true;
      },
    ],
    [
      "zeroes a page",
      (bytes: Buffer, page: number): boolean => {
        pageOf(bytes, page).fill(0);
        return true;
      },
    ],
    [
      "puts in a page of another volume of the same password",
      (() => {
        let foreign: Buffer | undefined;
        return (bytes: Buffer, page: number): boolean => {
          if (foreign === undefined) {
            const path = join(directory, "foreign");
            Volume.create(path, VOLUME_PASSWORD);
            foreign = readFileSync(path);
          }
          if (page * PAGE > foreign.length) pageOf(foreign, 2).copy(pageOf(bytes, page));
          else pageOf(foreign, page).copy(pageOf(bytes, page));
          return true;
        };
      })(),
    ],
  ] as const)("and %s: fsck finds it, and no other bytes are read", (_, change) =>
    withTarget((target) =>
      eachPage(target, change, (page) => {
        const answers = readAll(target.fixture, target.file);
        expect(
          [...answers].filter((one) => one !== "new" && one !== "damage"),
          `page ${page}`,
        ).toEqual([]);
        expect(findings(target), `page ${page}`).not.toEqual([]);
      }),
    ),
  );

  test("and puts older versions of pages in: what is read was once written to the file, or is damage, never other bytes", () =>
    withTarget((target) => {
      const { older, fixture, file } = target;
      eachPage(
        target,
        (bytes, page) => {
          const was = pageOf(older, page);
          if (was.length < PAGE || was.equals(pageOf(bytes, page))) return false;
          was.copy(pageOf(bytes, page));
          return true;
        },
        () => {
          expect([...readAll(fixture, file)]).not.toContain("wrong bytes");
        },
      );
    }));

  test("and puts an older file in its place: refused with a head, whole and silent without", () =>
    withTarget((target) => {
      const { fixture, headFile, older, file } = target;
      writeFileSync(fixture.path, older);
      expect([...readAll(fixture, file)]).toEqual(["old"]);
      expect(findings(target)).toEqual([]);
      expect(findings(target, true)).toEqual(["head"]);
      expect(() => Volume.open(fixture.path, fixture.key, { headFile })).toThrow(/is older than its head/);
    }));

  test("and drops the -wal: the state before it without a head, refused with one", () => {
    const fixture = new Fixture();
    const headFile = join(directory, "head");
    try {
      fixture.open({ headFile });
      fixture.close();
      fixture.open({ headFile });
      const file = put(fixture.volume, ROOT, "file", OLD);
      fixture.volume.fsync(file);
      expect(existsSync(`${fixture.path}-wal`)).toBe(true);
      const left = fixture.crashCopy();
      const head = join(directory, "head of the crash");
      copyFileSync(headFile, head);
      try {
        renameSync(`${left.path}-wal`, join(directory, "taken"));
        expect(() => left.open({ headFile: head })).toThrow(/is older than its head/);
        expect(left.volume.tree.lookup(ROOT, b("file"))).toBe(undefined);
        left.finish();
      } finally {
        left.remove();
      }
    } finally {
      fixture.remove();
    }
  });
});
