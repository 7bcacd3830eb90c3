/** A server of ssh, and a daemon of rsync, of a test's own: on free ports, with keys and configuration in a directory that goes. */
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect, createServer } from "node:net";
import { tmpdir, userInfo } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { hasProgram, run } from "./programs.ts";

const HOST = "127.0.0.1";
/** It wants to be called by its whole path. */
const SSHD = ["/usr/sbin/sshd", "/usr/bin/sshd", "/usr/local/sbin/sshd"].find((path) => existsSync(path));

/** What is missing for a test with rsync; undefined: nothing. */
export function missingForRsync(): string | undefined {
  return hasProgram("rsync") ? undefined : "there is no rsync here";
}

export function missingForSsh(): string | undefined {
  if (SSHD === undefined) return "there is no sshd here";
  return missingForRsync() ?? (hasProgram("ssh") ? undefined : "there is no ssh here");
}

async function freePort(): Promise<number> {
  return await new Promise((resolve, reject) => {
    const server = createServer();
    server.on("error", reject);
    server.listen(0, HOST, () => {
      const address = server.address();
      server.close(() => resolve(typeof address === "object" && address !== null ? address.port : 0));
    });
  });
}

/** A program that listens, until it is stopped. */
class Server {
  readonly port: number;
  readonly #child: ChildProcess;
  #said = "";

  private constructor(command: string, args: readonly string[], port: number) {
    this.port = port;
    this.#child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"] });
    for (const stream of [this.#child.stdout, this.#child.stderr])
      stream?.on("data", (data: Buffer) => {
        this.#said += data.toString();
      });
  }

  static async start(command: string, args: (port: number) => string[]): Promise<Server> {
    const port = await freePort();
    const server = new Server(command, args(port), port);
    for (let tries = 0; tries < 100; tries++) {
      if (await answers(port)) return server;
      if (server.#child.exitCode !== null) break;
      await sleep(50);
    }
    server.stop();
    throw new Error(`${command} does not listen: ${server.#said}`);
  }

  /** Its log. */
  get said(): string {
    return this.#said;
  }

  stop(): void {
    this.#child.kill("SIGTERM");
  }
}

async function answers(port: number): Promise<boolean> {
  return await new Promise((resolve) => {
    const socket = connect(port, HOST);
    const end = (is: boolean) => () => {
      socket.destroy();
      resolve(is);
    };
    socket.on("connect", end(true)).on("error", end(false));
  });
}

/** The user of this test may log in, by a key of its own, from anywhere that has the key: nobody else does. */
export class SshServer {
  readonly directory: string;
  readonly #server: Server;
  readonly #publicKey: string;

  private constructor(directory: string, server: Server) {
    this.directory = directory;
    this.#server = server;
    this.#publicKey = readFileSync(join(directory, "key.pub"), "utf8");
    this.restrict();
  }

  static async start(): Promise<SshServer> {
    const directory = mkdtempSync(join(tmpdir(), "sshd-"));
    for (const name of ["key", "hostkey"])
      run("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-f", join(directory, name)], { cwd: directory });
    const config = [
      `ListenAddress ${HOST}`,
      `HostKey ${directory}/hostkey`,
      `AuthorizedKeysFile ${directory}/authorized_keys`,
      "PidFile none",
      "PasswordAuthentication no",
      "KbdInteractiveAuthentication no",
      "PermitRootLogin prohibit-password",
      "StrictModes no",
      "UsePAM no",
      // Else bash takes each command for a login, and reads what this user has in .bashrc.
      "SetEnv SHLVL=2",
    ];
    writeFileSync(join(directory, "sshd_config"), `${config.join("\n")}\n`);
    // Debian's service makes this when it starts.
    if (process.getuid?.() === 0) mkdirSync("/run/sshd", { recursive: true, mode: 0o755 });
    const args = (port: number) => ["-D", "-e", "-f", join(directory, "sshd_config"), "-p", String(port)];
    return new SshServer(directory, await Server.start(SSHD ?? "sshd", args));
  }

  get host(): string {
    return `${userInfo().username}@${HOST}`;
  }

  /** For RSYNC_RSH. */
  get command(): string {
    const path = join(this.directory, "ssh_config");
    const lines = [
      `Port ${this.#server.port}`,
      `IdentityFile ${this.directory}/key`,
      "IdentitiesOnly yes",
      `UserKnownHostsFile ${this.directory}/known_hosts`,
      "StrictHostKeyChecking accept-new",
    ];
    writeFileSync(path, `${lines.join("\n")}\n`);
    return `ssh -F ${path}`;
  }

  /** What the key may do; by default everything. */
  restrict(options = ""): void {
    writeFileSync(join(this.directory, "authorized_keys"), `${options} ${this.#publicKey}`.trimStart());
  }

  /** Lets the key in no more. */
  refuse(): void {
    writeFileSync(join(this.directory, "authorized_keys"), "");
  }

  /** How often somebody logged in. */
  get logins(): number {
    return this.#server.said.split("Accepted publickey").length - 1;
  }

  /** `keep`: its files stay for the time being. */
  stop({ keep = false } = {}): void {
    this.#server.stop();
    if (!keep) rmSync(this.directory, { recursive: true, force: true });
  }
}

/** Has the module `log`, which is `path`. */
export class RsyncDaemon {
  readonly url: string;
  readonly #server: Server;
  readonly #directory: string;

  private constructor(directory: string, server: Server) {
    this.#directory = directory;
    this.#server = server;
    this.url = `rsync://${HOST}:${server.port}/log`;
  }

  static async start(path: string, settings: readonly string[] = []): Promise<RsyncDaemon> {
    const directory = mkdtempSync(join(tmpdir(), "rsyncd-"));
    const isRoot = process.getuid?.() === 0;
    const config = [
      "use chroot = no",
      ...(isRoot ? ["uid = root", "gid = root"] : []),
      "[log]",
      `path = ${path}`,
    ];
    const all = [...config, "read only = no", "list = no", ...settings];
    writeFileSync(join(directory, "rsyncd.conf"), `${all.join("\n")}\n`);
    const args = (port: number) => [
      "--daemon",
      "--no-detach",
      `--config=${directory}/rsyncd.conf`,
      `--address=${HOST}`,
      `--port=${port}`,
    ];
    return new RsyncDaemon(directory, await Server.start("rsync", args));
  }

  stop(): void {
    this.#server.stop();
    rmSync(this.#directory, { recursive: true, force: true });
  }
}
