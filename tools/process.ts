/** Waiting for a daemon to be gone, which it is not when its mount is: it still commits and closes its file. */
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

/** Says one process from a later one with the same number. Undefined: no such process, or a zombie. */
export function processIdentity(pid: number): string | undefined {
  let stat: string;
  try {
    stat = readFileSync(`/proc/${pid}/stat`, "latin1");
  } catch {
    return undefined;
  }
  // "pid (command) state ppid ... starttime": the command may hold spaces and parentheses.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  const state = fields[0];
  // A zombie is done; where pid 1 does not reap (plain containers) it stays for ever.
  if (state === "Z" || state === "X") return undefined;
  return fields[19];
}

/** Resolves when the process is gone; calls `slow` once when that takes long. */
export async function processEnd(pid: number, identity: string | undefined, slow: () => void): Promise<void> {
  const started = Date.now();
  let told = false;
  while (identity !== undefined && processIdentity(pid) === identity) {
    if (!told && Date.now() - started > 5000) {
      told = true;
      slow();
    }
    await sleep(20);
  }
}
