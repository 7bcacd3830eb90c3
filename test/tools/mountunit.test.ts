/** The unit for systemd: what it says is understood, and its command does what systemd waits for. */
import { spawnSync } from "node:child_process";
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { hasProgram } from "../helpers/programs.ts";
import { mountingImpossible, REPOSITORY } from "../helpers/volume.ts";
import { CLI, PASSWORD, sqlfuse } from "./run.ts";

const UNIT = readFileSync(join(REPOSITORY, "tools/systemd/sqlfuse@.service"), "utf8");
const canVerify = hasProgram("systemd-analyze");
if (!canVerify) console.warn("the systemd unit is not verified: systemd-analyze is missing");
const impossible = mountingImpossible() ?? (hasProgram("python3") ? undefined : "there is no python3");
if (impossible !== undefined) console.warn(`the command of the systemd unit is not run: ${impossible}`);

let home: string;
beforeEach(() => {
  home = mkdtempSync(join(tmpdir(), "unit-"));
});
afterEach(() => {
  spawnSync("umount", ["-l", join(home, "vault")], { stdio: "ignore" });
  rmSync(home, { recursive: true, force: true });
});

describe.skipIf(!canVerify)("the unit", () => {
  function verify(text: string, instance: string): string {
    const path = join(home, "sqlfuse@.service");
    writeFileSync(path, text);
    const { stdout, stderr } = spawnSync(
      "systemd-analyze",
      ["--user", "--man=no", "verify", join(home, `sqlfuse@${instance}.service`)],
      { encoding: "utf8", env: { ...process.env, XDG_RUNTIME_DIR: home, HOME: home } },
    );
    return stdout + stderr;
  }

  test("is understood by systemd without a complaint", () => {
    expect(verify(UNIT, "")).toBe("");
    expect(verify(UNIT, "vault")).toBe("");
    expect(verify(UNIT.replace("Type=notify", "Type=notfy"), "vault")).toMatch(/notfy/);
  });
});

/** Listens as systemd does, runs the command, and tells what it heard and whether the place was mounted then. */
const MANAGER = `
import os, socket, subprocess, sys
name, point, command = sys.argv[1], sys.argv[2], sys.argv[3:]
listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
listener.bind("\\0" + name[1:] if name[0] == "@" else name)
listener.settimeout(20)
process = subprocess.Popen(command, env={**os.environ, "NOTIFY_SOCKET": name}, stderr=subprocess.DEVNULL)
try:
    print(listener.recv(1000).decode(), os.path.ismount(point))
finally:
    process.terminate()
print(process.wait(), os.path.ismount(point))
`;

describe.skipIf(impossible !== undefined)("the command of the unit", () => {
  test.each(["path", "abstract name"])(
    "tells its manager, by a socket's %s, when the mount answers and not before, and ends with 0 on SIGTERM",
    (kind) => {
      const bin = join(home, "bin");
      mkdirSync(bin);
      writeFileSync(join(bin, "sqlfuse"), `#!/bin/sh\nexec '${process.execPath}' '${CLI}' "$@"\n`);
      chmodSync(join(bin, "sqlfuse"), 0o755);
      expect(sqlfuse(["create", join(home, "vault.sqlite")]).code).toBe(0);
      mkdirSync(join(home, "config/sqlfuse"), { recursive: true });
      writeFileSync(join(home, "config/sqlfuse/vault.password"), `${PASSWORD}\n`, { mode: 0o600 });

      const specifiers: Record<string, string> = { h: home, E: join(home, "config"), i: "vault", I: "vault" };
      const line = /^ExecStart=(.*)$/m.exec(UNIT)?.[1] ?? "";
      const words = line
        .split(" ")
        .map((word) => word.replace(/%(\w)/g, (_, name) => specifiers[name] ?? "?"));
      const socket = kind === "path" ? join(home, "notify") : `@sqlfuse-test-${process.pid}`;
      const env = { ...process.env, PATH: `${bin}:${process.env.PATH}` };
      const { stdout, status } = spawnSync(
        "python3",
        ["-c", MANAGER, socket, join(home, "vault"), ...words],
        { encoding: "utf8", env, timeout: 50_000 },
      );
      expect(stdout).toBe("READY=1 True\n0 False\n");
      expect(status).toBe(0);
      expect(readdirSync(home)).not.toContain("vault");
      expect(readdirSync(home)).not.toContain("vault.sqlite-wal");
    },
  );
});
