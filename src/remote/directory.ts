/**
 * A remote that is a directory: of a NAS, a USB disk, or one that another program synchronises.
 *
 * A file is written under a name that no list shows, synced, given its name by link(2), which fails where that is taken, and
 * its directory is synced. Filesystems without hard links (FAT, some of NAS) get a rename instead, after a look.
 */
import { randomBytes } from "node:crypto";
import type { Dirent } from "node:fs";
import { access, type FileHandle, link, mkdir, open, readdir, rename, rm, stat } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { LogError, PASSING_CODES } from "./errors.ts";
import type { RemoteStore, StoredFile, StoreOptions } from "./remote.ts";
import type { Throttle } from "./throttle.ts";

/** In front of the names of files that are being written. */
const UNFINISHED = ".part-";
/** After a day nobody writes it any more. */
const LEFT_MS = 86_400_000;

const NO_SPACE: ReadonlySet<string> = new Set(["ENOSPC", "EDQUOT"]);
/** What the system refuses, for the user. */
const WORDS: Readonly<Record<string, string>> = {
  ENOENT: "there is no such directory",
  ENOTDIR: "is no directory",
  EACCES: "you may not read or write all of it",
  EROFS: "is read-only",
  ENOSPC: "there is no space left",
  EDQUOT: "your share of its space is used up",
};

export class DirectoryStore implements RemoteStore {
  readonly url: string;
  readonly #root: string;
  readonly #throttle: Throttle | undefined;
  /** Directories that were made, or seen to be there. */
  readonly #known = new Set<string>();

  constructor(path: string, options: StoreOptions = {}) {
    this.url = path;
    this.#throttle = options.throttle;
    this.#root = resolve(path);
  }

  async list(prefix: string): Promise<StoredFile[]> {
    return await this.#told(async () => {
      // That the place itself is missing, as a disk that is not plugged in, is no empty list.
      await access(this.#root);
      const found: StoredFile[] = [];
      await this.#walk(prefix, found);
      return found;
    });
  }

  async #walk(prefix: string, found: StoredFile[]): Promise<void> {
    let entries: Dirent[];
    try {
      entries = await readdir(join(this.#root, prefix), { withFileTypes: true });
    } catch (error) {
      if (codeOf(error) === "ENOENT") return;
      throw error;
    }
    for (const entry of entries) {
      if (entry.name.startsWith(".")) continue;
      const name = `${prefix}${entry.name}`;
      if (entry.isDirectory()) await this.#walk(`${name}/`, found);
      else await this.#look(name, found);
    }
  }

  /** Others may remove it meanwhile. */
  async #look(name: string, found: StoredFile[]): Promise<void> {
    try {
      found.push({ name, size: (await stat(join(this.#root, name))).size });
    } catch (error) {
      if (codeOf(error) !== "ENOENT") throw error;
    }
  }

  async put(name: string, bytes: Uint8Array): Promise<boolean> {
    return await this.#told(async () => {
      const path = join(this.#root, name);
      const directory = dirname(path);
      await this.#makeDirectory(directory);
      const draft = join(directory, `${UNFINISHED}${randomBytes(8).toString("hex")}`);
      try {
        const file = await open(draft, "wx", 0o600);
        await syncAndClose(file, () => this.#write(file, bytes));
        const isNew = await publish(draft, path);
        if (isNew) await syncAndClose(await open(directory, "r"));
        return isNew;
      } finally {
        await rm(draft, { force: true });
      }
    });
  }

  async #write(file: FileHandle, bytes: Uint8Array): Promise<void> {
    if (this.#throttle === undefined) await file.writeFile(bytes);
    else
      for await (const { from, end } of this.#throttle.pieces(bytes.length))
        await file.writeFile(bytes.subarray(from, end));
  }

  /** Durably, down from the place itself, which must be there. */
  async #makeDirectory(path: string): Promise<void> {
    if (path === this.#root || this.#known.has(path)) return;
    const parent = dirname(path);
    await this.#makeDirectory(parent);
    try {
      await mkdir(path, 0o700);
      await syncAndClose(await open(parent, "r"));
    } catch (error) {
      if (codeOf(error) !== "EEXIST") throw error;
      await tidy(path);
    }
    this.#known.add(path);
  }

  async get(name: string, from = 0, length?: number): Promise<Buffer | undefined> {
    return await this.#told(async () => {
      let file: FileHandle;
      try {
        file = await open(join(this.#root, name), "r");
      } catch (error) {
        if (codeOf(error) === "ENOENT") return undefined;
        throw error;
      }
      try {
        const { size } = await file.stat();
        const bytes = Buffer.alloc(Math.max(0, Math.min(length ?? size, size - from)));
        let done = 0;
        while (done < bytes.length) {
          const piece = Math.min(bytes.length - done, this.#throttle?.pieceBytes ?? bytes.length);
          await this.#throttle?.take(piece);
          const { bytesRead } = await file.read(bytes, done, piece, from + done);
          if (bytesRead === 0) break;
          done += bytesRead;
        }
        return bytes.subarray(0, done);
      } finally {
        await file.close();
      }
    });
  }

  async remove(name: string): Promise<void> {
    await this.#told(() => rm(join(this.#root, name), { force: true }));
  }

  /** Runs it, and tells what the system refuses in words for the user. */
  async #told<T>(run: () => Promise<T>): Promise<T> {
    try {
      return await run();
    } catch (error) {
      const code = codeOf(error);
      if (code === undefined) throw error;
      const reason = NO_SPACE.has(code) ? "no-space" : "unreachable";
      const message = `${this.url}: ${WORDS[code] ?? `cannot be used (${code})`}`;
      throw new LogError(reason, message, { cause: error, isPassing: PASSING_CODES.has(code) });
    }
  }
}

/** Removes what was left by somebody who was killed while he wrote it, as far as it may: who writes need not read there. */
async function tidy(directory: string): Promise<void> {
  try {
    for (const name of await readdir(directory)) {
      if (!name.startsWith(UNFINISHED)) continue;
      const path = join(directory, name);
      if (Date.now() - (await stat(path)).mtimeMs > LEFT_MS) await rm(path);
    }
  } catch {
    // Others remove it as well; or it is another user's.
  }
}

/** Gives a draft its name; false where that is taken. */
async function publish(draft: string, path: string): Promise<boolean> {
  try {
    await link(draft, path);
    return true;
  } catch (error) {
    const code = codeOf(error);
    if (code === "EEXIST") return false;
    if (code !== "EPERM" && code !== "EOPNOTSUPP" && code !== "ENOSYS") throw error;
  }
  // There are no hard links here. Rename would replace a file, so the name is looked at first.
  const isTaken = await access(path).then(
    () => true,
    () => false,
  );
  if (!isTaken) await rename(draft, path);
  return !isTaken;
}

async function syncAndClose(file: FileHandle, write?: () => Promise<void>): Promise<void> {
  try {
    await write?.();
    await file.sync();
  } finally {
    await file.close();
  }
}

/** The system's; other errors have codes too, which are numbers. */
function codeOf(error: unknown): string | undefined {
  const { code } = error as { readonly code?: unknown };
  return typeof code === "string" ? code : undefined;
}
