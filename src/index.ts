/** The library: a volume opened by its own process, without FUSE. */

export { type Clock, systemClock, type Time } from "./base/clock.ts";
export { DamageError, E, type ErrnoName, FsError } from "./base/errno.ts";
export type { Compression } from "./core/codec.ts";
export type { CreateOptions } from "./core/create.ts";
export { OpenError, type OpenReason } from "./core/errors.ts";
export type { History, Snapshot } from "./core/history.ts";
export { describe, type Inside, inspect, type Outside } from "./core/info.ts";
export {
  type RekeyOptions,
  type Rewrite,
  type RewriteOptions,
  type RewriteResult,
  type RewriteStep,
  rekey,
  type VacuumOptions,
  vacuum,
} from "./core/rewrite.ts";
export * from "./core/types.ts";
export { unlock } from "./core/unlock.ts";
export { Volume, type VolumeOptions } from "./core/volume.ts";
export { KDF_ITERATIONS, Key, STRONG_KDF_ITERATIONS } from "./db/key.ts";
export { check, type Finding } from "./fsck/check.ts";
