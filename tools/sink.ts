/** Where a command writes much: stdout, or a new file that gets its name when it is whole. */
import { randomBytes } from "node:crypto";
import {
  accessSync,
  closeSync,
  constants,
  fsyncSync,
  linkSync,
  openSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from "node:fs";
import { constants as osConstants } from "node:os";
import { dirname } from "node:path";
import { EXIT, ToolError } from "./exitcodes.ts";

export class Sink {
  /** What the errors call it. */
  readonly #name: string;
  readonly #file: string | undefined;
  #fd: number | undefined;
  #draft: string | undefined;

  /**
   * `file` undefined: stdout. A regular file must not be there yet; a pipe or device is written to as it is. The new
   * file is its owner's alone (0600): what it gets is not encrypted any more. Nothing is made before the first
   * `write`.
   * @throws ToolError
   */
  constructor(file: string | undefined) {
    this.#name = file ?? "stdout";
    this.#file = file;
    if (file === undefined) {
      this.#fd = 1;
      return;
    }
    const there = statSync(file, { throwIfNoEntry: false });
    if (there?.isFile() || there?.isDirectory())
      throw new ToolError(
        EXIT.unusable,
        `${file}: exists already, and stays as it is; give the name of a new file`,
      );
    try {
      accessSync(there === undefined ? dirname(file) : file, constants.W_OK);
    } catch (error) {
      throw this.#explain(error);
    }
  }

  #open(file: string): number {
    if (statSync(file, { throwIfNoEntry: false }) !== undefined) return openSync(file, "w");
    this.#draft = `${file}.new-${randomBytes(4).toString("hex")}`;
    return openSync(this.#draft, "wx", 0o600);
  }

  /** Waits for whoever reads. @throws ToolError */
  write(bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length; ) {
      try {
        this.#fd ??= this.#open(this.#file ?? "");
        at += writeSync(this.#fd, bytes, at);
      } catch (error) {
        if (!(error instanceof Error && "code" in error && error.code === "EAGAIN"))
          throw this.#explain(error);
        // A pipe that somebody else set non-blocking.
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 2);
      }
    }
  }

  /** All is written: the file gets its name, durably. */
  publish(): void {
    if (this.#file === undefined || this.#fd === undefined || this.#draft === undefined) return;
    try {
      fsyncSync(this.#fd);
      try {
        linkSync(this.#draft, this.#file);
      } catch (error) {
        if (!(error instanceof Error && "code" in error) || error.code === "EEXIST") throw error;
        // A filesystem without hard links.
        renameSync(this.#draft, this.#file);
      }
    } catch (error) {
      throw this.#explain(error);
    }
  }

  /** In the end, whatever happened. */
  close(): void {
    if (this.#fd !== undefined && this.#fd !== 1) closeSync(this.#fd);
    if (this.#draft !== undefined) rmSync(this.#draft, { force: true });
  }

  #explain(error: unknown): ToolError {
    const code = error instanceof Error && "code" in error ? String(error.code) : String(error);
    // As if the signal had ended it: whoever reads has gone, which is no news to anybody.
    if (code === "EPIPE") return new ToolError(128 + osConstants.signals.SIGPIPE, "");
    if (code === "ENOSPC" || code === "EDQUOT")
      return new ToolError(EXIT.noSpace, `${this.#name}: no space left on its disk`);
    return new ToolError(EXIT.unusable, `${this.#name}: cannot be written (${code})`);
  }
}
