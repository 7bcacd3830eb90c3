/** `sqlfuse snapshot` and `--at` on a file that is not mounted, and what a kill -9 at each write leaves. */
import { spawnSync } from "node:child_process";
import { copyFileSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { Volume } from "../../src/core/volume.ts";
import { check } from "../../src/fsck/check.ts";
import { dump } from "../core/dump.ts";
import { b, mkdir, noise, put, ROOT } from "../core/fixture.ts";
import { canTrace, countCalls, faulted, recorded, WRITES } from "../helpers/strace.ts";
import { PASSWORD, sqlfuse } from "./run.ts";
import { directory, eachWithVolume, file, inside, key, run, succeed } from "./volume.ts";

const LONG = process.env.SQLFUSE_LONG === "1";
eachWithVolume();

/** A file that has another content in the snapshot "one". */
function withOne(): void {
  inside((volume) => {
    const ino = put(volume, mkdir(volume, ROOT, "d"), "a", "before");
    volume.history.create("one");
    volume.files.write(ino, 0, b("after "), false);
  });
}

describe("sqlfuse snapshot", () => {
  test("create, list, protect, unprotect and delete say what they did", () => {
    expect(succeed("snapshot", "list", file)).toBe("no snapshots\n");
    expect(succeed("snapshot", "create", file, "one")).toBe("one: kept (epoch 1)\n");
    expect(succeed("snapshot", "protect", file, "one")).toBe("one: protected (epoch 1)\n");
    expect(succeed("snapshot", "list", file)).toMatch(
      /^EPOCH {2}TIME {17}KIND {7}NAME\n1 {6}\d{4}-\d\d-\d\d \d\d:\d\d:\d\d {2}protected {2}one\n$/,
    );
    const refused = run("snapshot", "delete", file, "one");
    expect(refused).toMatchObject({
      code: 10,
      stderr: "sqlfuse: one: is protected; see: sqlfuse snapshot unprotect\n",
    });
    expect(succeed("snapshot", "unprotect", file, "one")).toBe("one: no longer protected (epoch 1)\n");
    expect(JSON.parse(succeed("snapshot", "delete", "--json", file, "one"))).toMatchObject({
      name: "one",
      epoch: 1,
      protected: false,
      automatic: false,
    });
    expect(succeed("snapshot", "create", "--quiet", file, "two")).toBe("");
    expect(JSON.parse(succeed("snapshot", "list", "--json", file))).toMatchObject([{ name: "two" }]);
  });

  test("create without a name takes the time, by which it is found again", () => {
    const [, name = ""] = /^(.*): kept/.exec(succeed("snapshot", "create", file)) ?? [];
    expect(name).toMatch(/^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$/);
    expect(succeed("ls", "--at", name, file)).toBe("");
  });

  test.each([
    [["create", "FILE", "17"], 2, "17: cannot be the name of a snapshot"],
    [["create", "FILE", "one"], 10, "one: there is a snapshot of that name"],
    [["delete", "FILE", "two"], 10, "two: no such snapshot"],
    [["delete", "FILE"], 2, "which one?"],
    [["list", "FILE", "one"], 2, "snapshot list takes no NAME"],
    [["create", "FILE", "two", "--keep-last", "3"], 2, "are for: snapshot prune"],
    [["prune", "FILE", "--keep-last", "many"], 2, "--keep-last many: not a number"],
    [["prune", "FILE", "--keep-within", "7"], 2, "--keep-within 7: not a time"],
    [["prune", "FILE", "--keep-last", "1", "--when-full", "x"], 2, "Allowed choices are delete, keep"],
    [["prune", "FILE", "--when-full", "keep"], 2, "goes with the rules"],
    [["forget", "FILE"], 2, "Allowed choices are create, list, delete"],
    [["list", "NONE"], 10, "no such file"],
  ])("%j is refused", (args, code, text) => {
    withOne();
    const words = args.map((word) => (word === "FILE" ? file : word === "NONE" ? `${file}.none` : word));
    const outcome = run("snapshot", ...words);
    expect(outcome.code).toBe(code);
    expect(outcome.stderr).toContain(text);
  });

  test("prune takes the automatic ones that no rule keeps, tells so before, and remembers the rules", () => {
    inside((volume) => {
      volume.history.create("by hand");
      for (let i = 0; i < 3; i++) {
        put(volume, ROOT, `f${i}`, "x");
        volume.history.createAutomatic();
      }
    });
    const names = () =>
      (JSON.parse(succeed("snapshot", "list", "--json", file)) as { name: string }[]).map(({ name }) => name);
    expect(succeed("snapshot", "prune", file)).toBe("0 automatic snapshots deleted\n");
    expect(succeed("snapshot", "prune", file, "--keep-last", "1", "--dry-run")).toBe(
      "2 automatic snapshots would be deleted\n",
    );
    expect(names()).toHaveLength(4);
    succeed("snapshot", "prune", file, "--keep-last", "2", "--when-full", "keep", "--save");
    expect(names()).toEqual(["by hand", "auto-3", "auto-4"]);
    expect(inside(({ history }) => history.retention)).toMatchObject({ last: 2, within: 0, whenFull: false });
    const gone = JSON.parse(succeed("snapshot", "prune", file, "--json", "--keep-last", "1")) as object;
    expect(gone).toMatchObject({ deleted: [{ name: "auto-3" }], dryRun: false });
  });

  test("delete gives the space back, as vacuum shows", () => {
    inside((volume) => put(volume, ROOT, "a", noise(2_000_000)));
    succeed("snapshot", "create", file, "one");
    inside((volume) => volume.tree.unlink(ROOT, b("a")));
    const size = () => {
      succeed("vacuum", "--quiet", file);
      return readFileSync(file).length;
    };
    expect(size()).toBeGreaterThan(2_000_000);
    succeed("snapshot", "delete", file, "one");
    expect(size()).toBeLessThan(1_000_000);
  });
});

describe("--at", () => {
  test("shows ls, cat, get and dump what was then", () => {
    withOne();
    for (const at of ["one", "1", "now"]) expect(succeed("cat", "--at", at, file, "d/a")).toBe("before");
    expect(succeed("cat", file, "d/a")).toBe("after ");
    expect(succeed("ls", "-R", "--at", "one", file)).toBe("/:\nd\n\n/d:\na\n");
    succeed("get", "--quiet", "--at", "one", file, "d/a", join(directory, "out"));
    expect(readFileSync(join(directory, "out"), "utf8")).toBe("before");
    expect(succeed("dump", "--at", "one", file)).toContain(Buffer.from("before").toString("base64"));
  });

  test("dumps what a volume that is loaded from it shows, compared in full", () => {
    withOne();
    succeed("dump", "--quiet", "--at", "one", file, "-o", join(directory, "text"));
    succeed("load", "--quiet", join(directory, "w"), join(directory, "text"));
    expect(succeed("dump", join(directory, "w"))).toBe(readFileSync(join(directory, "text"), "utf8"));
  });

  test("refuses what is no snapshot, and what cannot be with it", () => {
    withOne();
    const none = run("cat", "--at", "yesterday", file, "d/a");
    expect(none.code).toBe(10);
    expect(none.stderr).toContain("no snapshot yesterday (the oldest is of ");
    expect(run("cat", "--at", "two", file, "d/a").stderr).toContain(
      "no snapshot two; see: sqlfuse snapshot list",
    );
    expect(run("dump", "--sql", "--at", "one", file)).toMatchObject({ code: 2 });
    for (const args of [[file], [file, directory, "--history", "10m"], [file, directory, "--head-file", "h"]])
      expect(run("mount", "--at", "one", ...args).code).toBe(2);
  });

  test("is kept by vacuum and rekey", () => {
    withOne();
    succeed("vacuum", "--quiet", file);
    writeFileSync(join(directory, "new"), "another", { mode: 0o600 });
    const renewed = join(directory, "renewed");
    copyFileSync(file, renewed);
    succeed("rekey", "--quiet", "--new-password-file", join(directory, "new"), renewed);
    const { stdout } = sqlfuse(["cat", "--at", "one", renewed, "d/a"], { password: "another" });
    expect(stdout).toBe("before");
  });
});

/** Snapshots, deletions and a prune; tells each that is durable. */
const WRITER = `
  import { Volume, unlock } from ${JSON.stringify(fileURLToPath(new URL("../../dist/src/index.js", import.meta.url)))};
  import { writeSync } from "node:fs";
  const [path, password] = process.argv.slice(1);
  const volume = Volume.open(path, unlock(path, Buffer.from(password)));
  const caller = { uid: 0, gid: 0, umask: 0 };
  const { ino } = volume.tree.lookup(1, Buffer.from("a"));
  const say = (text) => writeSync(1, text + "\\n");
  for (let i = 0; i < 3; i++) {
    volume.files.write(ino, 4096 * i, Buffer.alloc(4096, i + 1), false);
    volume.tree.mkdir(1, Buffer.from("d" + i), 0o755, caller);
    volume.history.create("s" + i);
    say("made s" + i);
  }
  volume.tree.rmdir(1, Buffer.from("d0"));
  volume.history.delete("s1");
  say("gone s1");
  volume.prune(0);
  volume.commit();
  volume.prune();
  volume.history.delete("s0");
  say("gone s0");
  volume.close();`;

describe.skipIf(!canTrace)(
  `snapshots whose process is killed${canTrace ? "" : " (there is no strace)"}`,
  { timeout: LONG ? 3_600_000 : 240_000 },
  () => {
    const run = ([command = "", ...args]: readonly string[]) =>
      spawnSync(command, args, { encoding: "utf8" });
    const writer = () => [process.execPath, "--input-type=module", "-e", WRITER, file, PASSWORD];

    function show(name: string): unknown {
      const past = Volume.open(file, key, { at: { name } });
      try {
        return dump(past);
      } finally {
        past.close();
      }
    }

    test("are all there that were told of, show what they showed, and leave nothing wrong", () => {
      inside((volume) => put(volume, ROOT, "a", noise(8 * 4096)));
      const start = join(directory, "start");
      copyFileSync(file, start);
      const log = join(directory, "trace");
      expect(run(recorded(writer(), WRITES, log)).status).toBe(0);
      const kept = Object.keys(show("s2") as object).sort();
      expect(kept).toEqual(["", "/a", "/d0", "/d1", "/d2"]);
      for (const [name, count] of countCalls(log, WRITES)) {
        const step = LONG ? 1 : Math.max(1, Math.floor(count / 6));
        for (let when = 1; when <= count; when += step) {
          for (const end of ["-wal", "-shm"]) rmSync(file + end, { force: true });
          copyFileSync(start, file);
          const { stdout } = run(faulted(writer(), [name, when], "signal=SIGKILL"));
          const told = stdout.split("\n");
          inside(({ history }) => {
            const names = history.list().map((one) => one.name);
            for (const one of ["s0", "s1", "s2"]) {
              const made = told.includes(`made ${one}`);
              const gone = told.includes(`gone ${one}`);
              if (gone) expect(names, `${name} ${when}`).not.toContain(one);
              else if (made && one === "s2") expect(names, `${name} ${when}`).toContain(one);
            }
            return names;
          });
          if (told.includes("made s2")) expect(Object.keys(show("s2") as object).sort()).toEqual(kept);
          expect(check(file, key), `${name} ${when}`).toEqual([]);
        }
      }
    });
  },
);
