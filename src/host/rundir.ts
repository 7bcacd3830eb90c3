/**
 * The directory in which a daemon can be found by its pid: a socket to talk to it, and a note on what it
 * serves. It belongs to one user and is closed to others.
 */
import { existsSync, lstatSync, mkdirSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";

/** What a daemon notes beside its socket, for whoever lists mounts without asking it. */
export interface Note {
  readonly path: string;
  readonly mountpoint: string;
  /** Name of the snapshot that is shown; absent: the present. */
  readonly at?: string;
}

function ownUid(): number {
  return process.geteuid?.() ?? 0;
}

/** Where a daemon of `uid` may be found, the likeliest first. */
function candidates(uid: number): string[] {
  const own = uid === ownUid() ? process.env.XDG_RUNTIME_DIR : undefined;
  const places = [`/run/user/${uid}/sqlfuse`, `/tmp/sqlfuse-${uid}`];
  return own === undefined || own === "" ? places : [join(own, "sqlfuse"), ...places];
}

/** Whether `directory` is `uid`'s alone: in /tmp anybody may have made one of that name. */
function belongsTo(directory: string, uid: number): boolean {
  try {
    const stat = lstatSync(directory);
    return stat.isDirectory() && stat.uid === uid && (stat.mode & 0o077) === 0;
  } catch {
    return false;
  }
}

/** Makes this user's directory, or finds it. @throws Error when no place can be had */
export function makeRunDirectory(): string {
  const uid = ownUid();
  for (const directory of candidates(uid)) {
    try {
      mkdirSync(directory, { mode: 0o700 });
    } catch {
      // There already, or no such parent: the check below tells.
    }
    if (!belongsTo(directory, uid)) continue;
    sweep(directory);
    return directory;
  }
  throw new Error(`no directory for the control socket: tried ${candidates(uid).join(", ")}`);
}

/** Removes what daemons that were killed left behind. */
function sweep(directory: string): void {
  for (const name of namesIn(directory)) {
    const pid = /^(\d+)\.(sock|json)$/.exec(name)?.[1];
    if (pid !== undefined && !existsSync(`/proc/${pid}`)) rmSync(join(directory, name), { force: true });
  }
}

/** The user of a process. The owner of /proc/PID does not tell: it is root where the process cannot be dumped. */
function uidOf(pid: number): number | undefined {
  try {
    const match = /^Uid:\s+\d+\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, "latin1"));
    return match === null ? undefined : Number(match[1]);
  } catch {
    return undefined;
  }
}

/** Directories that may hold the files of daemon `pid`, none of them a stranger's. */
export function runDirectoriesOf(pid: number): string[] {
  return ownCandidates(uidOf(pid) ?? ownUid());
}

function ownCandidates(uid: number): string[] {
  return [...new Set(candidates(uid))].filter((directory) => belongsTo(directory, uid));
}

/** What the daemons of this user noted (of every user, for root); notes of dead ones included. */
export function readNotes(): (Note & { readonly pid: number })[] {
  const found: (Note & { readonly pid: number })[] = [];
  for (const directory of usersWithDaemons().flatMap(ownCandidates)) {
    for (const name of namesIn(directory)) {
      const pid = /^(\d+)\.json$/.exec(name)?.[1];
      if (pid === undefined) continue;
      try {
        found.push({
          ...(JSON.parse(readFileSync(join(directory, name), "utf8")) as Note),
          pid: Number(pid),
        });
      } catch {
        // Not ours to read, or half written.
      }
    }
  }
  return found;
}

function usersWithDaemons(): number[] {
  const own = ownUid();
  if (own !== 0) return [own];
  const inTmp = namesIn("/tmp").map((name) => /^sqlfuse-(\d+)$/.exec(name)?.[1]);
  return [...new Set([own, ...[...namesIn("/run/user"), ...inTmp].map(Number).filter(Number.isInteger)])];
}

function namesIn(directory: string): string[] {
  try {
    return readdirSync(directory);
  } catch {
    return [];
  }
}

export function socketName(pid: number): string {
  return `${pid}.sock`;
}

export function noteName(pid: number): string {
  return `${pid}.json`;
}
