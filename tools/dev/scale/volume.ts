/** One volume that grows, mounted from the built command line; what is cold is mounted anew with the kernel's caches dropped. */
import { execFileSync } from "node:child_process";
import { mkdirSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { memoryBytes, mountOf } from "../bench/peers.ts";

const CLI = fileURLToPath(new URL("../../cli.js", import.meta.url));
const isRoot = process.getuid?.() === 0;

export class GrowingVolume {
  readonly mount: string;
  readonly #directory: string;
  readonly #file: string;
  readonly #mountArgs: readonly string[];
  /** The most memory that any of its mounts was seen to hold, since it was last asked for. */
  #memoryBytes = 0;

  /** Makes it in `directory`, which is empty, and mounts it. */
  constructor(directory: string, mountArgs: readonly string[]) {
    this.#directory = directory;
    this.#file = join(directory, "volume.sqlite");
    this.#mountArgs = mountArgs;
    this.mount = mountOf(directory);
    mkdirSync(this.mount);
    this.#run("create", this.#file);
    this.#mountNow();
  }

  /** Mounts it anew, cold where we are root. Tells the seconds that mounting took, and the file's bytes meanwhile. */
  cold(): { readonly mountSec: number; readonly storedBytes: number } {
    this.unmount();
    const storedBytes = statSync(this.#file).size;
    execFileSync("sync");
    if (isRoot) writeFileSync("/proc/sys/vm/drop_caches", "3");
    const startMs = performance.now();
    this.#mountNow();
    return { mountSec: (performance.now() - startMs) / 1000, storedBytes };
  }

  /** Bytes; see #memoryBytes. */
  takeMemory(): number {
    this.#lookAtMemory();
    const most = this.#memoryBytes;
    this.#memoryBytes = 0;
    return most;
  }

  unmount(): void {
    this.#lookAtMemory();
    this.#run("unmount", this.mount);
  }

  #mountNow(): void {
    this.#run("mount", this.#file, this.mount, "--log-file", `${this.#file}.log`, ...this.#mountArgs);
    // A run that silently measures the bare directory looks wonderful.
    if (statSync(this.mount).dev === statSync(this.#directory).dev) throw new Error("it is not mounted");
  }

  #lookAtMemory(): void {
    this.#memoryBytes = Math.max(this.#memoryBytes, memoryBytes(this.#directory));
  }

  #run(...args: string[]): void {
    const env = { ...process.env, SQLFUSE_PASSWORD: "scale" };
    // A pipe that the daemon keeps open would never end.
    execFileSync(process.execPath, [CLI, ...args], { env, stdio: ["ignore", "ignore", "inherit"] });
  }
}
