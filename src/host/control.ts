/**
 * Talking to a daemon from another process of its user (or root): a unix socket in a directory that nobody else
 * may enter, a line of JSON each way.
 */
import { rmSync, writeFileSync } from "node:fs";
import { createConnection, createServer, type Socket } from "node:net";
import { join } from "node:path";
import { createInterface } from "node:readline";
import type { HistoryOrder } from "../core/history.ts";
import type { RemoteOrder } from "../core/remotes.ts";
import type { Ino } from "../core/types.ts";
import { HostError, type HostReason } from "./errors.ts";
import type { Mounted, MountStatus } from "./mount.ts";
import { makeRunDirectory, type Note, noteName, runDirectoriesOf, socketName } from "./rundir.ts";

export type ControlRequest =
  | { readonly cmd: "status" }
  | { readonly cmd: "sync" }
  | { readonly cmd: "history"; readonly order: HistoryOrder }
  | { readonly cmd: "remote"; readonly order: RemoteOrder }
  | { readonly cmd: "pull" }
  | { readonly cmd: "pin"; readonly ino: Ino; readonly isPinned: boolean }
  | { readonly cmd: "unmount"; readonly lazy: boolean };

type ControlReply =
  | { readonly ok: true; readonly result: unknown }
  | { readonly ok: false; readonly reason: HostReason; readonly message: string };

/** Answers for `mount` until `close`, which lets answers under way be delivered first. */
export async function serveControl(mount: Mounted): Promise<{ close(): Promise<void> }> {
  const directory = makeRunDirectory();
  const socketPath = join(directory, socketName(process.pid));
  const notePath = join(directory, noteName(process.pid));
  // What an earlier process of this number left behind.
  rmSync(socketPath, { force: true });
  const sockets = new Set<Socket>();
  const answers = new Set<Promise<void>>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on("close", () => sockets.delete(socket));
    socket.on("error", () => socket.destroy());
    createInterface({ input: socket }).on("line", (line) => {
      const answered = answer(mount, line).then(
        (reply) =>
          new Promise<void>((resolve) => socket.write(`${JSON.stringify(reply)}\n`, () => resolve())),
      );
      answers.add(answered);
      void answered.finally(() => answers.delete(answered));
    });
  });
  // The directory is closed to others already; this closes the socket itself as well.
  const umask = process.umask(0o177);
  try {
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen(socketPath, resolve);
    });
  } finally {
    process.umask(umask);
  }
  const { path, mountpoint, at } = mount.status();
  const note: Note = { path, mountpoint, ...(at === undefined ? {} : { at }) };
  writeFileSync(notePath, JSON.stringify(note), { mode: 0o600 });
  // Being reachable is no reason for the process to live on.
  server.unref();
  return {
    async close(): Promise<void> {
      await Promise.all(answers);
      for (const socket of sockets) socket.end();
      await new Promise((resolve) => server.close(resolve));
      rmSync(socketPath, { force: true });
      rmSync(notePath, { force: true });
    },
  };
}

async function answer(mount: Mounted, line: string): Promise<ControlReply> {
  try {
    const request = JSON.parse(line) as ControlRequest;
    switch (request.cmd) {
      case "status":
        return { ok: true, result: await statusOf(mount) };
      case "sync":
        await mount.sync();
        return { ok: true, result: null };
      case "history":
        return { ok: true, result: await mount.history(request.order) };
      case "remote":
        return { ok: true, result: await mount.remote(request.order) };
      case "pin":
        return { ok: true, result: await mount.pin(request.ino, request.isPinned) };
      case "pull":
        return { ok: true, result: await mount.pull() };
      case "unmount":
        await mount.unmount(request.lazy === true);
        return { ok: true, result: null };
      default:
        return { ok: false, reason: "engine", message: `unknown request: ${line}` };
    }
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    return { ok: false, reason: error instanceof HostError ? error.reason : "engine", message };
  }
}

async function statusOf(mount: Mounted): Promise<MountStatus> {
  const remotes = await mount.remoteStates();
  return { ...mount.status(), ...(remotes === undefined ? {} : { remotes }) };
}

/**
 * Asks the daemon with process number `pid`. Gives what it answered: a MountStatus for "status".
 * @throws HostError its refusal, or "not-mounted" where no daemon of that number can be reached
 */
export async function askControl(pid: number, request: ControlRequest): Promise<unknown> {
  for (const directory of runDirectoriesOf(pid)) {
    const socket = await connect(join(directory, socketName(pid)));
    if (socket === undefined) continue;
    const reply = await ask(socket, request);
    if (reply === undefined) break;
    if (reply.ok) return reply.result;
    throw new HostError(reply.reason, reply.message);
  }
  throw new HostError("not-mounted", `process ${pid} serves no mount that this user may ask about`);
}

function connect(path: string): Promise<Socket | undefined> {
  return new Promise((resolve) => {
    const socket = createConnection(path);
    socket.once("connect", () => resolve(socket));
    socket.once("error", () => resolve(undefined));
  });
}

/** Undefined when the daemon ends before it answers. */
function ask(socket: Socket, request: ControlRequest): Promise<ControlReply | undefined> {
  return new Promise((resolve) => {
    const lines = createInterface({ input: socket });
    lines.once("line", (line) => {
      resolve(JSON.parse(line) as ControlReply);
      socket.end();
    });
    // What the socket suffers its lines suffer too.
    lines.once("error", () => resolve(undefined));
    socket.once("error", () => resolve(undefined));
    socket.once("close", () => resolve(undefined));
    socket.write(`${JSON.stringify(request)}\n`);
  });
}
