/** How far long work is: one line on the terminal that is drawn over and taken away at the end. Elsewhere nothing. */
import { writeSync } from "node:fs";
import { isatty } from "node:tty";
import { formatBytes } from "./output.ts";

const REDRAW_MS = 100;
const BAR_CELLS = 24;
const CLEAR_LINE = "\r\x1b[K";

export class Progress {
  readonly #shown: boolean;
  #phase = "";
  #phaseSinceMs = 0;
  #drawnMs = 0;
  #visible = false;

  constructor(quiet = false) {
    this.#shown = !quiet && isatty(2);
  }

  /** `phase` is a word such as "copying". */
  update(phase: string, doneBytes: number, totalBytes: number): void {
    this.#next(phase, (sinceMs) => this.#line(doneBytes, totalBytes, sinceMs));
  }

  /** As update, for what is not counted in bytes; `total` 0: not known. */
  count(phase: string, done: number, total: number): void {
    this.#next(phase, () =>
      total === 0 ? `${phase} ${done === 0 ? "..." : done}` : this.#bar(done / total),
    );
  }

  #next(phase: string, line: (sinceMs: number) => string): void {
    if (!this.#shown) return;
    const nowMs = performance.now();
    if (phase !== this.#phase) {
      this.#phase = phase;
      this.#phaseSinceMs = nowMs;
    } else if (nowMs - this.#drawnMs < REDRAW_MS) return;
    this.#drawnMs = nowMs;
    this.#draw(line(nowMs - this.#phaseSinceMs));
  }

  /** "copying [######------------------]  25 %" */
  #bar(part: number): string {
    const cells = Math.floor(part * BAR_CELLS);
    const bar = "#".repeat(cells).padEnd(BAR_CELLS, "-");
    return `${this.#phase} [${bar}] ${`${Math.floor(part * 100)}`.padStart(3)} %`;
  }

  /** Where nobody knows how much there is. */
  tally(text: string): void {
    const nowMs = performance.now();
    if (!this.#shown || nowMs - this.#drawnMs < REDRAW_MS) return;
    this.#drawnMs = nowMs;
    this.#draw(text);
  }

  #line(doneBytes: number, totalBytes: number, sinceMs: number): string {
    const part = totalBytes === 0 ? 1 : Math.min(1, doneBytes / totalBytes);
    const line = `${this.#bar(part)}  ${formatBytes(doneBytes)} of ${formatBytes(totalBytes)}`;
    if (doneBytes === 0 || part === 1 || sinceMs < 1000) return line;
    const rate = doneBytes / (sinceMs / 1000);
    const leftSec = Math.ceil((totalBytes - doneBytes) / rate);
    return `${line}, ${formatBytes(rate)}/s, ${formatSeconds(leftSec)} left`;
  }

  #draw(line: string): void {
    const columns = process.stderr.columns || 80;
    // Room for the "^C" of a terminal, which would otherwise begin a new line.
    this.#write(CLEAR_LINE + line.slice(0, columns - 3));
    this.#visible = true;
  }

  /** Takes the line away. */
  end(): void {
    if (this.#visible) this.#write(CLEAR_LINE);
    this.#visible = false;
  }

  #write(text: string): void {
    try {
      writeSync(2, text);
    } catch {
      // The terminal is gone, or full: the work is not.
    }
  }
}

function formatSeconds(seconds: number): string {
  const two = (value: number): string => String(value).padStart(2, "0");
  const minutes = Math.floor(seconds / 60);
  if (minutes === 0) return `${seconds} s`;
  if (minutes < 60) return `${minutes}:${two(seconds % 60)}`;
  return `${Math.floor(minutes / 60)}:${two(minutes % 60)}:${two(seconds % 60)}`;
}
