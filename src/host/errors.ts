/** Why a volume could not be mounted, unmounted or reached. The message is the whole line for the user. */
export type HostReason =
  | "no-fuse"
  | "no-fusermount"
  | "mountpoint-missing"
  | "mountpoint-not-directory"
  | "mountpoint-not-empty"
  | "mountpoint-in-own-mount"
  | "mountpoint-holds-database"
  | "allow-other-forbidden"
  | "busy"
  | "not-mounted"
  | "not-replica"
  | "not-permitted"
  | "engine";

export class HostError extends Error {
  readonly reason: HostReason;

  constructor(reason: HostReason, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "HostError";
    this.reason = reason;
  }
}
