/** The library: a volume opened by its own process, without FUSE. */

export { type Clock, systemClock, type Time } from "./base/clock.ts";
export { DamageError, E, type ErrnoName, FsError } from "./base/errno.ts";
export { check, type Finding } from "./core/check.ts";
export type { CreateOptions } from "./core/create.ts";
export { OpenError, type OpenReason } from "./core/errors.ts";
export * from "./core/types.ts";
export { unlock } from "./core/unlock.ts";
export { Volume, type VolumeOptions } from "./core/volume.ts";
export { Key } from "./db/key.ts";
