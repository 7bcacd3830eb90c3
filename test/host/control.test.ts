/** Talking to a daemon through its socket; the mount behind it is a stand-in. */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createConnection } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { askControl, serveControl } from "../../src/host/control.ts";
import { HostError } from "../../src/host/errors.ts";
import type { Mount } from "../../src/host/mount.ts";
import { readNotes } from "../../src/host/rundir.ts";

let directory: string;
let run: string;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "sqlfuse-control-"));
  run = join(directory, "sqlfuse");
  vi.stubEnv("XDG_RUNTIME_DIR", directory);
});

afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(directory, { recursive: true });
});

const STATUS = { path: "/data/v.sqlite", mountpoint: "/mnt/v", requests: 7 };

function standIn(methods: Partial<Mount> = {}): Mount {
  return {
    status: () => STATUS,
    remoteStates: async () => undefined,
    sync: async () => {},
    unmount: async () => {},
    ...methods,
  } as unknown as Mount;
}

const { pid } = process;

describe("a daemon", () => {
  test("tells its status", async () => {
    const control = await serveControl(standIn());
    expect(await askControl(pid, { cmd: "status" })).toEqual(STATUS);
    await control.close();
  });

  test("syncs and unmounts when it is asked to, and says when that is done", async () => {
    const done: string[] = [];
    const control = await serveControl(
      standIn({
        sync: async () => {
          await new Promise((resolve) => setTimeout(resolve, 20));
          done.push("sync");
        },
        unmount: async (lazy) => void done.push(`unmount ${lazy}`),
      }),
    );
    await askControl(pid, { cmd: "sync" });
    await askControl(pid, { cmd: "unmount", lazy: true });
    await askControl(pid, { cmd: "unmount", lazy: false });
    expect(done).toEqual(["sync", "unmount true", "unmount false"]);
    await control.close();
  });

  test("passes its refusals on with their reason", async () => {
    const control = await serveControl(
      standIn({
        unmount: async () => {
          throw new HostError("busy", "/mnt/v: is in use");
        },
        sync: async () => {
          throw new TypeError("a bug");
        },
      }),
    );
    await expect(askControl(pid, { cmd: "unmount", lazy: false })).rejects.toMatchObject({
      name: "HostError",
      reason: "busy",
      message: "/mnt/v: is in use",
    });
    await expect(askControl(pid, { cmd: "sync" })).rejects.toMatchObject({ reason: "engine" });
    await control.close();
  });

  test("answers several lines in turn, and nonsense with an error", async () => {
    const control = await serveControl(standIn());
    const socket = createConnection(join(run, `${pid}.sock`));
    const lines: string[] = [];
    socket.write('nonsense\n{"cmd":"format"}\n{"cmd":"status"}\n');
    for await (const line of createInterface({ input: socket })) if (lines.push(line) === 3) break;
    socket.destroy();
    expect(lines.map((line) => (JSON.parse(line) as { ok: boolean }).ok)).toEqual([false, false, true]);
    await control.close();
  });

  test("is reachable by its own user alone, and leaves nothing behind", async () => {
    const control = await serveControl(standIn());
    expect(statSync(run).mode & 0o777).toBe(0o700);
    expect(statSync(join(run, `${pid}.sock`)).mode & 0o177).toBe(0);
    expect(readNotes().find((note) => note.pid === pid)).toEqual({
      pid,
      path: STATUS.path,
      mountpoint: STATUS.mountpoint,
    });
    await control.close();
    expect(readdirSync(run)).toEqual([]);
  });

  test("delivers the answer under way before it closes", async () => {
    let release = (): void => {};
    let asked = (): void => {};
    const isAsked = new Promise<void>((resolve) => (asked = resolve));
    const sync = (): Promise<void> => {
      asked();
      return new Promise((resolve) => (release = resolve));
    };
    const control = await serveControl(standIn({ sync }));
    const answered = askControl(pid, { cmd: "sync" });
    await isAsked;
    const closed = control.close();
    release();
    await Promise.all([answered, closed]);
  });

  test("sweeps away what daemons that were killed left", async () => {
    mkdirSync(run, { mode: 0o700 });
    for (const name of ["4194305.sock", "4194305.json", "other"]) writeFileSync(join(run, name), "");
    const control = await serveControl(standIn());
    expect(existsSync(join(run, "4194305.sock"))).toBe(false);
    expect(existsSync(join(run, "4194305.json"))).toBe(false);
    expect(existsSync(join(run, "other"))).toBe(true);
    await control.close();
  });
});

test("where no daemon is, there is none to ask", async () => {
  await expect(askControl(pid, { cmd: "status" })).rejects.toMatchObject({ reason: "not-mounted" });
});

test("a directory that others may enter is not trusted", async () => {
  mkdirSync(run, { mode: 0o755 });
  const control = await serveControl(standIn());
  expect(readdirSync(run)).toEqual([]);
  await control.close();
});
