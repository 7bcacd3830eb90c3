/**
 * One connection of ssh for all programs of this process that go to the same host, so that only the first one pays for the
 * handshake, and only it may ask for a password. It is ended with the process; if that is killed, half a minute after its
 * last use. Who shares connections by his own configuration, or has RSYNC_RSH name something else than ssh, is left alone.
 */
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { basename } from "node:path";
import { atExit, newName, runChild } from "./child.ts";
import type { SshHost } from "./rsyncplace.ts";

/** Seconds. */
const CONNECT_TIMEOUT = 20;
const ALIVE_INTERVAL = 15;
const PERSIST = 30;
/** A path of a socket has 107 bytes at most, and ssh puts some behind it while it makes one. */
const MOST_SOCKET_PATH = 85;

export interface Shell {
  /** For rsync's -e; undefined: as the environment has it. */
  readonly command: string | undefined;
  /** It may ask something on the terminal. */
  readonly mayAsk: boolean;
}

/** What ssh said when it could not connect. */
export class SshRefusal extends Error {}

/** Connections by what they were asked for with. */
const known = new Map<string, SharedConnection>();

/** How rsync gets to `host`, over a connection that is open now. @throws SshRefusal; Error ENOENT: there is no ssh */
export async function shellTo(host: SshHost, signal: AbortSignal | undefined): Promise<Shell> {
  const mayAsk = process.stderr.isTTY === true;
  const words = wordsOf(process.env.RSYNC_RSH ?? "ssh");
  if (words === undefined || basename(words[0] ?? "") !== "ssh") return { command: undefined, mayAsk };
  const id = JSON.stringify([words, host]);
  const connection = known.get(id) ?? new SharedConnection(words, host, mayAsk);
  known.set(id, connection);
  return await connection.shell(signal);
}

/** Words of a command as rsync takes RSYNC_RSH; undefined where it has quotes, which are rare enough to be left to rsync. */
function wordsOf(command: string): string[] | undefined {
  return /["']/.test(command) ? undefined : command.split(" ").filter((word) => word !== "");
}

class SharedConnection {
  readonly #words: readonly string[];
  readonly #host: readonly string[];
  readonly #mayAsk: boolean;
  /** Undefined: there is to be none. */
  #socket: string | undefined;
  #isPrepared = false;
  #opening: Promise<void> | undefined;

  constructor(words: readonly string[], { user, host }: SshHost, mayAsk: boolean) {
    this.#words = words;
    this.#host = [...(user === undefined ? [] : ["-l", user]), "--", host];
    this.#mayAsk = mayAsk;
  }

  async shell(signal: AbortSignal | undefined): Promise<Shell> {
    // Several ask at once; one opens it.
    this.#opening ??= this.#open(signal).finally(() => {
      this.#opening = undefined;
    });
    await this.#opening;
    const { command } = this;
    if (this.#socket === undefined) return { command, mayAsk: this.#mayAsk };
    return { command, mayAsk: false };
  }

  get command(): string {
    const shared =
      this.#socket === undefined ? [] : ["-o", `ControlPath=${this.#socket}`, "-o", "ControlMaster=no"];
    return [...this.#command(this.#mayAsk && this.#socket === undefined), ...shared].join(" ");
  }

  /** What the user says comes first, and so counts. */
  #command(mayAsk: boolean): string[] {
    const options = [
      ...(mayAsk ? [] : ["BatchMode=yes"]),
      `ConnectTimeout=${CONNECT_TIMEOUT}`,
      `ServerAliveInterval=${ALIVE_INTERVAL}`,
    ];
    return [...this.#words, ...options.flatMap((option) => ["-o", option])];
  }

  async #open(signal: AbortSignal | undefined): Promise<void> {
    if (!this.#isPrepared) await this.#prepare(signal);
    this.#isPrepared = true;
    if (this.#socket === undefined || existsSync(this.#socket)) return;
    const [ssh = "ssh", ...args] = this.#command(this.#mayAsk);
    const options = ["ControlMaster=yes", `ControlPath=${this.#socket}`, `ControlPersist=${PERSIST}`];
    const all = [...args, ...options.flatMap((option) => ["-o", option]), "-f", "-N", ...this.#host];
    const { code, stderr } = await runChild(ssh, all, { mayAsk: this.#mayAsk, signal });
    if (code !== 0) throw new SshRefusal(stderr);
  }

  /** Sees whether to share a connection, and where. */
  async #prepare(signal: AbortSignal | undefined): Promise<void> {
    const [ssh = "ssh", ...args] = this.#words;
    const { code, stdout } = await runChild(ssh, [...args, "-G", ...this.#host], { signal });
    const isConfigured = /^controlpath (?!none$)/m.test(stdout);
    const socket = newName();
    // Neither ssh nor rsync takes such words as they are.
    const isPlain = /^[\w/.-]+$/.test(socket) && socket.length <= MOST_SOCKET_PATH;
    if (code !== 0 || isConfigured || !isPlain) return;
    this.#socket = socket;
    atExit(() => {
      if (!existsSync(socket)) return;
      spawnSync(ssh, [...args, "-o", `ControlPath=${socket}`, "-O", "exit", ...this.#host], {
        stdio: "ignore",
      });
    });
  }
}
