/** Why a log cannot be read, written or followed: told apart by `reason`, each with its whole line for the user. */
export type LogReason =
  /** Bytes that are not what was sealed: changed, cut off, or sealed with another key. */
  | "damaged"
  /** Whole, but of another log, or not where it belongs: swapped, reordered, replayed. */
  | "foreign"
  /** Of another log: another volume's, or of this one since its secret was changed. */
  | "other-log"
  /** A segment or object that must be there is not. */
  | "incomplete"
  /** The log ends before what was seen of it already. */
  | "rolled-back"
  /** Somebody else writes this log, or an older copy of the volume does. */
  | "other-writer"
  | "wrong-password"
  /** No log is there, or nothing can be read or written there. */
  | "unreachable"
  /** Something else is there. */
  | "taken"
  /** It has no room for more. */
  | "no-space"
  /** Something was begun there, and stopped, that is to be ended first. */
  | "unfinished"
  /** Of a newer sqlfuse. */
  | "too-new"
  /** The replica is not what its source was. */
  | "diverged";

export interface LogErrorOptions extends ErrorOptions {
  /** The same may go well in a moment: a network that was cut, a server that is busy. */
  readonly isPassing?: boolean;
}

export class LogError extends Error {
  readonly reason: LogReason;
  readonly isPassing: boolean;

  constructor(reason: LogReason, message: string, { isPassing = false, ...options }: LogErrorOptions = {}) {
    super(message, options);
    this.name = "LogError";
    this.reason = reason;
    this.isPassing = isPassing;
  }
}

/** What the system calls failures of a network, also of a disk behind one, that may be over in a moment. */
export const PASSING_CODES: ReadonlySet<string> = new Set([
  "ECONNABORTED",
  "ECONNREFUSED",
  "ECONNRESET",
  "EAI_AGAIN",
  "EHOSTDOWN",
  "EHOSTUNREACH",
  "ENETDOWN",
  "ENETUNREACH",
  "EPIPE",
  "ETIMEDOUT",
]);
