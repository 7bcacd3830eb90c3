/**
 * A remote that rsync reaches: by ssh, also with a key that rrsync restricts, or where a daemon of rsync answers.
 *
 * The system's own rsync does the work, one process a call, without a shell. A file goes under a hidden name and gets its
 * own when it is whole, as rsync does it. What a call is about is said by filters on the whole place, so that a place that is
 * missing is an error, and a file that is missing is none. A part of a file cannot be asked for: the whole is fetched, and kept
 * for the next parts.
 *
 * That a name is taken is looked up at the other end right before a file is put. Two machines that put the same name in the
 * same instant both hear that they were first, and one file stays: see D42.
 */
import { lstat, mkdir, readFile, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { assert } from "../base/assert.ts";
import { type Ended, inRoom, runChild } from "./child.ts";
import { LogError } from "./errors.ts";
import type { RemoteStore, StoredFile, StoreOptions } from "./remote.ts";
import { complaintOf, isBusy, isFull, knowsNoFsync, mayPass, SSH_FAILED } from "./rsyncerrors.ts";
import { parseRsyncPlace, type RsyncPlace } from "./rsyncplace.ts";
import { SshRefusal, shellTo } from "./ssh.ts";
import { REAL_TIMING } from "./throttle.ts";

/** Processes at once: sshd drops connections that come ten at a time. */
const AT_ONCE = 4;
/** Seconds without a byte, and for the connection to a daemon. */
const TIMEOUT = 60;
const CONNECT_TIMEOUT = 20;
/** What is kept of objects that are asked for by parts. */
const CACHE_BYTES = 32 * 2 ** 20;
/** A longer file is taken for none: a segment or object is far shorter. */
const MOST_BYTES = 512 * 2 ** 20;
/** A place that lets in one process at a time is asked so often, so many milliseconds apart. */
const TRIES = 50;
const TRY_AGAIN_MS = 100;

export class RsyncStore implements RemoteStore {
  readonly url: string;
  readonly #place: RsyncPlace;
  readonly #signal: AbortSignal | undefined;
  readonly #turns: Turns;
  readonly #options: readonly string[];
  /** Puts that are not over, by name. */
  readonly #putting = new Map<string, Promise<boolean>>();
  readonly #parts = new PartCache();
  /** Both ends know --fsync, until one of them says that it does not: it came with 3.2.4. */
  #syncs = true;
  #isSeen = false;

  /** @throws LogError unreachable */
  constructor(url: string, { signal, throttle }: StoreOptions = {}) {
    this.url = url;
    this.#place = parseRsyncPlace(url);
    this.#signal = signal;
    // The limit is that of one process.
    this.#turns = new Turns(throttle === undefined ? AT_ONCE : 1);
    this.#options = [
      "--recursive",
      `--timeout=${TIMEOUT}`,
      ...(throttle === undefined ? [] : [`--bwlimit=${(throttle.bytesPerSecond / 1024).toFixed(2)}`]),
      // Small messages go to and fro: the kernel is not to hold them back.
      ...(this.#place.ssh ? [] : [`--contimeout=${CONNECT_TIMEOUT}`, "--no-motd", "--sockopts=TCP_NODELAY"]),
    ];
  }

  async list(prefix: string): Promise<StoredFile[]> {
    const rules = rulesFor(prefix === "" ? "" : `${prefix}**`);
    const listed = await this.#rsync([
      "--list-only",
      "--no-human-readable",
      ...rules,
      "--",
      this.#place.root,
    ]);
    this.#isSeen = true;
    return listed.split("\n").flatMap(fileOf);
  }

  async put(name: string, bytes: Uint8Array): Promise<boolean> {
    // Here at least, of several one is first: behind one that went well the name is taken.
    for (let before = this.#putting.get(name); before !== undefined; before = this.#putting.get(name))
      if (await before.then(() => true).catch(() => false)) return false;
    const put = this.#put(name, bytes).finally(() => this.#putting.delete(name));
    this.#putting.set(name, put);
    return await put;
  }

  async #put(name: string, bytes: Uint8Array): Promise<boolean> {
    await this.#see();
    return await inRoom(async (path) => {
      await mkdir(join(path, dirname(name)), { recursive: true, mode: 0o700 });
      await writeFile(join(path, name), bytes, { mode: 0o600 });
      const args = ["--ignore-existing", "--out-format=%i %n", "--", `${path}/`, this.#place.root];
      const sent = await this.#rsync(args, true);
      return sent.split("\n").some((line) => line.startsWith("<f") && line.endsWith(` ${name}`));
    });
  }

  async get(name: string, from = 0, length?: number): Promise<Buffer | undefined> {
    const isPart = from > 0 || length !== undefined;
    // Of an object alone it is known that what was there once is what must be there.
    const isKept = isPart && name.startsWith("data/");
    const file = await (isKept ? this.#parts.get(name, () => this.#get(name)) : this.#get(name));
    return isPart ? file?.subarray(from, length === undefined ? undefined : from + length) : file;
  }

  async #get(name: string): Promise<Buffer | undefined> {
    return await inRoom(async (path) => {
      await this.#rsync([`--max-size=${MOST_BYTES}`, ...rulesFor(name), "--", this.#place.root, `${path}/`]);
      const got = join(path, name);
      const stat = await lstat(got).catch(() => undefined);
      return stat?.isFile() ? await readFile(got) : undefined;
    });
  }

  /** A place that is missing is made by who puts, and none to who removes: so it is looked at first. @throws LogError unreachable */
  async #see(): Promise<void> {
    if (!this.#isSeen) await this.list("");
  }

  async remove(name: string): Promise<void> {
    await this.#see();
    await inRoom(async (path) => {
      // An empty copy of its directory; all else is excluded, and so protected.
      await mkdir(join(path, dirname(name)), { recursive: true });
      const args = ["--delete", "--max-delete=1", "--existing", "--ignore-existing"];
      await this.#rsync([...args, ...rulesFor(name), "--", `${path}/`, this.#place.root]);
    });
    this.#parts.forget(name);
  }

  /** What it printed. @throws LogError unreachable */
  async #rsync(args: readonly string[], writes = false): Promise<string> {
    for (let tries = 1; ; tries++) {
      const syncs = writes && this.#syncs;
      const done = await this.#turns.take(() => this.#runOnce(syncs ? ["--fsync", ...args] : args));
      if (done.code === 0) return done.stdout;
      if (syncs && knowsNoFsync(done)) this.#syncs = false;
      else if (isBusy(done) && tries < TRIES) {
        this.#turns.only(1);
        await REAL_TIMING.sleep(TRY_AGAIN_MS, this.#signal);
      } else {
        const message = `${this.url}: ${complaintOf(done)}`;
        throw new LogError(isFull(done) ? "no-space" : "unreachable", message, { isPassing: mayPass(done) });
      }
    }
  }

  async #runOnce(args: readonly string[]): Promise<Ended> {
    const signal = this.#signal;
    const { ssh } = this.#place;
    try {
      if (ssh === undefined) return await runChild("rsync", [...this.#options, ...args], { signal });
      const { command, mayAsk } = await shellTo(ssh, signal);
      const by = command === undefined ? [] : ["-e", command];
      return await runChild("rsync", [...this.#options, ...by, ...args], { mayAsk, signal });
    } catch (error) {
      if (error instanceof SshRefusal) return { code: SSH_FAILED, stdout: "", stderr: error.message };
      const { code, path } = error as NodeJS.ErrnoException;
      if (code !== "ENOENT") throw error;
      throw new LogError("unreachable", `${this.url}: the program ${path} is not installed here`);
    }
  }
}

/** Filters that let through a file, or all below a directory (`**`), and the directories that it is in; "": nothing. */
function rulesFor(name: string): string[] {
  assert(/^((\w+\/)*(\w+|\*\*))?$/.test(name), `${name} is a name that a log has`);
  const parts = name.split("/");
  const upTo = parts.map((_, i) => parts.slice(0, i + 1).join("/") + (i < parts.length - 1 ? "/" : ""));
  // Names that begin with a dot are of what is not whole yet.
  return ["--exclude=.*", ...(name === "" ? [] : upTo.map((path) => `--include=/${path}`)), "--exclude=*"];
}

/** A line of a listing. */
function fileOf(line: string): StoredFile[] {
  const [, size, name] = /^-\S{9}\S*\s+([\d,.]+) [\d/]+ [\d:]+ (.+)$/.exec(line) ?? [];
  if (size === undefined || name === undefined) return [];
  return [{ name, size: Number(size.replace(/\D/g, "")) }];
}

/** Lets so many run at once, the others in the order in which they came. */
class Turns {
  #most: number;
  #running = 0;
  readonly #waiting: (() => void)[] = [];

  constructor(most: number) {
    this.#most = most;
  }

  only(most: number): void {
    this.#most = most;
  }

  async take<T>(run: () => Promise<T>): Promise<T> {
    while (this.#running >= this.#most) await new Promise<void>((resolve) => this.#waiting.push(resolve));
    this.#running++;
    try {
      return await run();
    } finally {
      this.#running--;
      this.#waiting.shift()?.();
    }
  }
}

/** Files of which parts are asked for; the ones that were asked for last stay. */
class PartCache {
  readonly #files = new Map<string, { readonly file: Promise<Buffer | undefined>; bytes: number }>();

  async get(name: string, fetch: () => Promise<Buffer | undefined>): Promise<Buffer | undefined> {
    const known = this.#files.get(name);
    const entry = known ?? { file: fetch(), bytes: 0 };
    // Behind all others, as the newest.
    this.#files.delete(name);
    this.#files.set(name, entry);
    try {
      const file = await entry.file;
      entry.bytes = file?.length ?? 0;
      if (file === undefined) this.forget(name);
      else this.#shrink();
      return file;
    } catch (error) {
      this.forget(name);
      throw error;
    }
  }

  forget(name: string): void {
    this.#files.delete(name);
  }

  #shrink(): void {
    let sum = 0;
    for (const { bytes } of this.#files.values()) sum += bytes;
    for (const [name, { bytes }] of this.#files) {
      if (sum <= CACHE_BYTES) return;
      if (bytes === 0) continue; // on its way
      this.#files.delete(name);
      sum -= bytes;
    }
  }
}
