/** A remote by rsync over ssh, as a user runs it; whatever kills a command, the next one goes on. */
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { noise } from "../core/fixture.ts";
import { Random } from "../core/random.ts";
import { missingForSsh, SshServer } from "../helpers/rsyncservers.ts";
import { CLI, PASSWORD, sqlfuse } from "./run.ts";

const missing = missingForSsh();

let ssh: SshServer;
let directory: string;
let url: string;
let vault: string;
/** The only place for temporary files of the commands. */
let temporary: string;

const at = (name: string) => join(directory, name);

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), "byrsync-"));
  temporary = at("tmp");
  for (const name of ["tmp", "nas"]) mkdirSync(at(name));
  vault = at("vault.sqlite");
  if (missing !== undefined) return;
  ssh = await SshServer.start();
  url = `${ssh.host}:${at("nas")}`;
  ok("create", vault);
});

afterEach(() => {
  if (missing === undefined) ssh.stop();
  rmSync(directory, { recursive: true, force: true });
});

const env = () => ({ RSYNC_RSH: ssh.command, TMPDIR: temporary });

function ok(...args: string[]): string {
  const done = sqlfuse(args, { password: PASSWORD, env: env() });
  // What ssh says once, when it meets a host for the first time.
  expect({ ...done, stderr: done.stderr.replace(/^Warning: .*known hosts\.\r?\n/, "") }).toMatchObject({
    code: 0,
    stderr: "",
  });
  return done.stdout;
}

/** Adds so many bytes of noise to the volume. */
function add(name: string, bytes: number, seed: number): void {
  writeFileSync(at(name), noise(bytes, seed));
  ok("put", vault, at(name), "/");
  rmSync(at(name));
}

const dumpOf = (file: string) => ok("dump", "--no-data", file).replace(/ atime=\S+/g, "");

function start(...args: string[]): { child: ChildProcess; ended: Promise<number | NodeJS.Signals | null> } {
  const child = spawn(process.execPath, [CLI, ...args], {
    env: { ...process.env, ...env(), SQLFUSE_PASSWORD: PASSWORD },
    stdio: "ignore",
  });
  const ended = new Promise<number | NodeJS.Signals | null>((resolve) =>
    child.once("exit", (code, signal) => resolve(code ?? signal)),
  );
  return { child, ended };
}

/** Bytes of objects. */
function shippedBytes(): number {
  const names = readdirSync(at("nas/data"), { recursive: true, encoding: "utf8" });
  const files = names.map((name) => statSync(join(at("nas/data"), name))).filter((stat) => stat.isFile());
  return files.reduce((sum, { size }) => sum + size, 0);
}

describe.skipIf(missing !== undefined)(
  `a remote by rsync over ssh (${missing ?? "there is an sshd"})`,
  () => {
    it("is added, pushed to, cloned, pulled, verified and started over, and leaves nothing behind here", () => {
      ok("remote", "add", vault, "nas", url);
      expect(JSON.parse(ok("remote", "list", "--json", vault))).toEqual([{ name: "nas", url }]);
      add("large", 6_000_000, 1);
      expect(ok("push", vault)).toMatch(/^nas: pushed to segment 1 \(.*, 5\.\d MiB in 3 objects\n$/);
      ok("clone", url, at("replica.sqlite"));
      add("small", 1000, 2);
      ok("push", vault);
      const before = ssh.logins;
      expect(ok("pull", at("replica.sqlite"))).toMatch(/: 1 segment applied, to 2, /);
      expect(ssh.logins).toBeLessThanOrEqual(before + 1);
      expect(dumpOf(at("replica.sqlite"))).toBe(dumpOf(vault));
      expect(ok("remote", "verify", "--read-data", "100", vault)).toContain("all is there");
      ok("rm", vault, "large");
      ok("push", vault);
      expect(ok("remote", "gc", vault)).toContain("3 segments and ");
      ok("pull", at("replica.sqlite"));
      expect(dumpOf(at("replica.sqlite"))).toBe(dumpOf(vault));
      expect(ok("log-dump", url)).toMatch(/^segment number=4 /);
      expect(readdirSync(temporary)).toEqual([]);
    }, 120_000);

    it("goes on after kills of pushes and pulls at random moments: equal again, and little is shipped twice", async () => {
      const random = new Random(Number(process.env.SQLFUSE_SEED ?? 1));
      const rounds = process.env.SQLFUSE_LONG === "1" ? 40 : 5;
      const FILE = 9_000_000;
      const IN_FLIGHT = 5 * 4.3e6;
      ok("remote", "add", vault, "nas", url);
      ok("push", vault);
      ok("clone", url, at("replica.sqlite"));
      let kills = 0;
      let lost = 0;
      const killed = async (...args: string[]): Promise<boolean> => {
        const { child, ended } = start(...args);
        await sleep(100 + random.below(1200));
        child.kill("SIGKILL");
        return (await ended) === "SIGKILL";
      };
      for (let round = 0; round < rounds; round++) {
        add(`file ${round}`, FILE, 10 + round);
        if (await killed("push", vault)) {
          kills++;
          lost++;
        }
        ok("push", vault);
        if (await killed("pull", at("replica.sqlite"))) kills++;
        ok("pull", at("replica.sqlite"));
        expect(dumpOf(at("replica.sqlite"))).toBe(dumpOf(vault));
      }
      expect(kills).toBeGreaterThan(rounds / 2);
      const wanted = rounds * FILE * 1.05 + 1e6;
      expect(shippedBytes()).toBeLessThan(wanted + lost * IN_FLIGHT);
      // Nor is anything shipped again that was pushed.
      const before = shippedBytes();
      ok("push", vault);
      expect(shippedBytes()).toBe(before);
      ok("fsck", at("replica.sqlite"));
      ok("remote", "verify", "--read-data", "100", vault);
      // What killed commands left here, the next one removed.
      expect(readdirSync(temporary)).toEqual([]);
    }, 240_000);

    it("that does not answer is given up at ^C, with 130, and its processes end", async () => {
      const script = at("silent");
      writeFileSync(script, `#!/bin/sh\necho $$ > ${at("pid")}\nexec sleep 1000\n`, { mode: 0o700 });
      const child = spawn(process.execPath, [CLI, "clone", url, at("x.sqlite")], {
        env: { ...process.env, ...env(), RSYNC_RSH: script, SQLFUSE_PASSWORD: PASSWORD },
        stdio: ["ignore", "ignore", "pipe"],
      });
      let stderr = "";
      child.stderr.on("data", (data: Buffer) => {
        stderr += data.toString();
      });
      const ended = new Promise<number | null>((resolve) => child.once("close", (code) => resolve(code)));
      while (!existsSync(at("pid")) || statSync(at("pid")).size === 0) await sleep(20);
      const { readFileSync } = await import("node:fs");
      const pid = Number(readFileSync(at("pid"), "utf8"));
      child.kill("SIGINT");
      expect(await ended).toBe(130);
      expect(stderr).toContain("stopped");
      for (let tries = 0; tries < 100 && existsSync(`/proc/${pid}`); tries++) await sleep(20);
      expect(existsSync(`/proc/${pid}`)).toBe(false);
      expect(readdirSync(temporary)).toEqual([]);
      expect(existsSync(at("x.sqlite"))).toBe(false);
    }, 60_000);
  },
);
