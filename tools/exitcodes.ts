/**
 * The exit codes, one table: what scripts may rely on, what --help prints and what README.md lists. Every error
 * that reaches the command line becomes one line on stderr and one of these codes here, and nowhere else.
 */

export const EXIT = {
  ok: 0,
  other: 1,
  usage: 2,
  skipped: 3,
  unusable: 10,
  locked: 11,
  wrongPassword: 12,
  tooNew: 13,
  needsUpgrade: 14,
  busy: 16,
  unavailable: 19,
  damaged: 20,
  noPassword: 22,
  noSpace: 28,
} as const;

type ExitCode = (typeof EXIT)[keyof typeof EXIT];

const MEANINGS: Record<keyof typeof EXIT, string> = {
  ok: "done; also a mount that ended by unmount, SIGINT, SIGTERM or SIGHUP",
  other: "another error; a mount that could not commit its last changes",
  usage: "the command line is wrong",
  skipped: "done, but without some items, each of which was named",
  unusable: "the file, its head, snapshot, remote or mount point is missing or cannot be used",
  locked: "the file is mounted already, or used by another process",
  wrongPassword: "wrong password",
  tooNew: "the volume was made by a newer sqlfuse",
  needsUpgrade: "the volume needs an upgrade of its format first",
  busy: "the mount, or the place to mount at, is in use",
  unavailable: "FUSE, the database engine or LZ4 is not available here",
  damaged: "the volume or its log is damaged, or older than what was seen of it",
  noPassword: "no password, an empty one, or its source cannot be read",
  noSpace: "no space left on the disk",
};

/** A table as people see it: in --help, in the man pages and in README.md. */
export interface ExitTable {
  readonly title: string;
  readonly rows: readonly (readonly [code: string, meaning: string])[];
}

export const EXIT_TABLE: ExitTable = {
  title: "Exit codes",
  rows: [...rowsOf(EXIT, MEANINGS), ["128+N", "ended by signal N before the work was done"]],
};

function rowsOf<Name extends string>(
  codes: Record<Name, number>,
  meanings: Record<Name, string>,
): [code: string, meaning: string][] {
  return (Object.keys(codes) as Name[]).map((name) => [String(codes[name]), meanings[name]]);
}

/** `sqlfuse fsck` alone has the codes of fsck(8): scripts that know those take it for any other. */
export const FSCK_EXIT = {
  clean: 0,
  corrected: 1,
  left: 4,
  failed: 8,
  usage: 16,
  cancelled: 32,
} as const;

const FSCK_MEANINGS: Record<keyof typeof FSCK_EXIT, string> = {
  clean: "nothing is wrong",
  corrected: "errors were found and repaired",
  left: "errors are left",
  failed: "it could not be checked: wrong password, no such file, in use and to be repaired, ...",
  usage: "the command line is wrong",
  cancelled: "stopped by a signal; nothing was changed",
};

export const FSCK_EXIT_TABLE: ExitTable = {
  title: "Exit codes, as fsck(8)",
  rows: rowsOf(FSCK_EXIT, FSCK_MEANINGS),
};

/** An error of the command line itself: `message` is the whole line for the user, without the "sqlfuse: ". */
export class ToolError extends Error {
  override readonly name = "ToolError";
  readonly code: number;

  constructor(code: number, message: string) {
    super(message);
    this.code = code;
  }
}

/** By `reason` of OpenError, HostError and LogError, whose messages are complete lines already. */
const CODE_OF_REASON: Record<string, ExitCode> = {
  missing: EXIT.unusable,
  unreadable: EXIT.unusable,
  "not-a-volume": EXIT.unusable,
  "wrong-password": EXIT.wrongPassword,
  damaged: EXIT.damaged,
  older: EXIT.damaged,
  "bad-head": EXIT.unusable,
  "too-new": EXIT.tooNew,
  "needs-upgrade": EXIT.needsUpgrade,
  locked: EXIT.locked,
  "unreplayable-wal": EXIT.unusable,
  exists: EXIT.unusable,
  "no-space": EXIT.noSpace,
  "no-snapshot": EXIT.unusable,
  "no-fuse": EXIT.unavailable,
  "no-fusermount": EXIT.unavailable,
  "mountpoint-missing": EXIT.unusable,
  "mountpoint-not-directory": EXIT.unusable,
  "mountpoint-not-empty": EXIT.unusable,
  "mountpoint-in-own-mount": EXIT.unusable,
  "mountpoint-holds-database": EXIT.unusable,
  "allow-other-forbidden": EXIT.unavailable,
  busy: EXIT.busy,
  "not-mounted": EXIT.unusable,
  "not-replica": EXIT.unusable,
  "not-permitted": EXIT.other,
  engine: EXIT.unavailable,
  foreign: EXIT.damaged,
  "other-log": EXIT.damaged,
  incomplete: EXIT.damaged,
  "rolled-back": EXIT.damaged,
  diverged: EXIT.damaged,
  "other-writer": EXIT.unusable,
  unreachable: EXIT.unusable,
  taken: EXIT.unusable,
  unfinished: EXIT.unusable,
};

/** What the process that met `error` prints and exits with. */
export function describeError(error: unknown): { readonly message: string; readonly code: number } {
  if (error instanceof ToolError) return { message: error.message, code: error.code };
  if (!(error instanceof Error)) return { message: String(error), code: EXIT.other };
  // Told apart by name and reason, not by class: loading the classes would load the engine, which may be missing.
  if (error.name === "EngineError") return { message: error.message, code: EXIT.unavailable };
  const reason = "reason" in error && typeof error.reason === "string" ? error.reason : "";
  const code = CODE_OF_REASON[reason];
  if (code !== undefined) return { message: error.message, code };
  const message = error.message === "" ? error.name : error.message;
  return { message: oneLine(message), code: EXIT.other };
}

function oneLine(text: string): string {
  return text.replace(/\s*\n\s*/g, "; ");
}
