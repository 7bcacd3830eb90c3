/**
 * Refusals: an operation that POSIX says must fail with an errno.
 *
 * Absence on a hot path (a LOOKUP or GETXATTR miss) is `undefined` and never an
 * exception: throwing costs 4 us on Node 20, returning 0.1 us.
 */
import { constants } from "node:os";

/** Linux errno values by name, as node:os gives them for this machine, with those it leaves out. */
export const E = {
  ...constants.errno,
  /** Kernel-only "operation not supported" that fs/ returns as EOPNOTSUPP. */
  EUCLEAN: 117,
  ESHUTDOWN: 108,
} as const;

export type ErrnoName = keyof typeof E;

/** An operation refused with an errno: nothing was changed. */
export class FsError extends Error {
  readonly code: ErrnoName;
  /** Positive errno. */
  readonly errno: number;

  constructor(code: ErrnoName, detail = "") {
    // A refusal is an answer, not a fault: capturing its stack would cost ten times the rest of the request.
    const limit = Error.stackTraceLimit;
    Error.stackTraceLimit = 0;
    super(detail === "" ? code : `${code}: ${detail}`);
    Error.stackTraceLimit = limit;
    this.name = "FsError";
    this.code = code;
    this.errno = E[code];
  }
}

/**
 * Stored bytes that cannot be what was written: a page whose HMAC is wrong, a row
 * that breaks an invariant. The operation gives EIO; everything else keeps working.
 */
export class DamageError extends Error {
  /** The inode whose operation met it, where one did. */
  ino: number | undefined;

  constructor(what: string, options?: ErrorOptions) {
    super(what, options);
    this.name = "DamageError";
  }
}
