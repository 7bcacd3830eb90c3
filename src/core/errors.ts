/** Why a volume cannot be opened or made: one reason per exit code of the tools. */
export type OpenReason =
  | "missing"
  | "unreadable"
  | "not-a-volume"
  | "wrong-password"
  | "damaged"
  | "older"
  | "bad-head"
  | "too-new"
  | "needs-upgrade"
  | "locked"
  | "unreplayable-wal"
  | "exists"
  | "no-space"
  | "no-snapshot";

/** `message` is the whole line for the user: what happened, to which path, what to do. */
export class OpenError extends Error {
  readonly reason: OpenReason;
  readonly path: string;
  /** Process that holds a locked volume, where it can be told. */
  readonly pid: number | undefined;

  constructor(reason: OpenReason, path: string, message: string, options?: ErrorOptions & { pid?: number }) {
    super(message, options);
    this.name = "OpenError";
    this.reason = reason;
    this.path = path;
    this.pid = options?.pid;
  }
}
