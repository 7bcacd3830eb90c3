/**
 * Assertions say what must hold whatever a user, a disk or a kernel does; one that
 * fails is a bug here, never a refusal (that is an `FsError`) and never damage
 * (that is a `DamageError`).
 */

/** @throws Error when `condition` is false. `what` states the invariant. */
export function assert(condition: boolean, what: string): asserts condition {
  if (!condition) throw new Error(`assertion failed: ${what}`);
}
