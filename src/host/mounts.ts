/** What is mounted on this machine, as the kernel tells it: /proc/self/mountinfo, and /proc/locks for who serves it. */
import { existsSync, readFileSync } from "node:fs";
import { isAbsolute } from "node:path";
import { lockHolders } from "../core/lock.ts";
import { readNotes } from "./rundir.ts";

/** As `mount` and /proc/mounts show it. */
export const FS_TYPE = "fuse.sqlfuse";

export interface MountedVolume {
  /** The database file. */
  readonly path: string;
  readonly mountpoint: string;
  readonly readOnly: boolean;
  /** Name of the snapshot that is shown; absent: the present. */
  readonly at?: string;
  /** The process that serves it; absent when that is gone and only the mount is left. */
  readonly pid?: number;
}

export interface MountEntry {
  /** "major:minor" of the mounted filesystem. */
  readonly device: string;
  readonly mountpoint: string;
  readonly readOnly: boolean;
  readonly type: string;
  readonly source: string;
}

/** Space, tab, newline and backslash stand as octal escapes in the table. */
function unescapeOctal(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, digits: string) =>
    String.fromCharCode(Number.parseInt(digits, 8)),
  );
}

/** One line of mountinfo: id parent major:minor root mountpoint options [tags] - type source options. */
function parseEntry(line: string): MountEntry | undefined {
  const fields = line.split(" ");
  const dash = fields.indexOf("-", 6);
  const [, , device, , mountpoint, options] = fields;
  const [type, source, superOptions] = dash < 0 ? [] : fields.slice(dash + 1);
  if (device === undefined || mountpoint === undefined || type === undefined) return undefined;
  const isReadOnly = (list: string | undefined): boolean => list?.split(",").includes("ro") ?? false;
  return {
    device,
    mountpoint: unescapeOctal(mountpoint),
    readOnly: isReadOnly(options) || isReadOnly(superOptions),
    type,
    source: unescapeOctal(source ?? ""),
  };
}

/** The mount table, in the order in which things were mounted: of two at one place the last is seen. */
export function mountTable(text = readFileSync("/proc/self/mountinfo", "utf8")): MountEntry[] {
  return text
    .split("\n")
    .map(parseEntry)
    .filter((entry) => entry !== undefined);
}

/** The mount that is seen at exactly this place. */
export function mountedAt(mountpoint: string, table = mountTable()): MountEntry | undefined {
  return table.findLast((entry) => entry.mountpoint === mountpoint);
}

/** The mount that holds this place. */
export function mountAround(place: string, table = mountTable()): MountEntry | undefined {
  let found: MountEntry | undefined;
  for (const entry of table) {
    const base = entry.mountpoint === "/" ? "" : entry.mountpoint;
    if (place !== entry.mountpoint && !place.startsWith(`${base}/`)) continue;
    if (found === undefined || entry.mountpoint.length >= found.mountpoint.length) found = entry;
  }
  return found;
}

/** The volumes that are mounted here, dead ones included. */
export function listMounts(): MountedVolume[] {
  const entries = mountTable().filter((entry) => entry.type === FS_TYPE);
  // Each daemon notes which file it serves where: with -o fsname the table does not name the file, and
  // several may hold one file for reading.
  // Who shows a snapshot holds no lock.
  const notes = readNotes().filter(({ path, pid, at }) =>
    at === undefined ? holdersOf(path).includes(pid) : existsSync(`/proc/${pid}`),
  );
  return entries.map((entry) => {
    const note = notes.find(({ mountpoint }) => mountpoint === entry.mountpoint);
    const path = note?.path ?? entry.source;
    const noted = new Set(notes.map(({ pid }) => pid));
    const pid = note?.pid ?? holdersOf(path).find((holder) => !noted.has(holder));
    const at = note?.at === undefined ? {} : { at: note.at };
    const volume = { path, mountpoint: entry.mountpoint, readOnly: entry.readOnly, ...at };
    return pid === undefined ? volume : { ...volume, pid };
  });
}

/** The processes that hold the volume in `path` open. */
function holdersOf(path: string): number[] {
  if (!isAbsolute(path)) return [];
  try {
    return lockHolders(path);
  } catch {
    return [];
  }
}
