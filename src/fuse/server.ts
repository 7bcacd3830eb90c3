/** What a handler may reach: the volume, what INIT agreed on, and how this mount shows things. */
import type { ReadPlan } from "../core/files.ts";
import type { Attr, Entry, Ino } from "../core/types.ts";
import type { Volume } from "../core/volume.ts";
import type { Agreement, Offer } from "./init.ts";
import type { Reply, Request } from "./message.ts";

type Tree = Pick<
  Volume["tree"],
  | "lookup"
  | "parentOf"
  | "mknod"
  | "mkdir"
  | "symlink"
  | "tmpfile"
  | "link"
  | "unlink"
  | "rmdir"
  | "rename"
  | "readlink"
  | "readdir"
>;

/** What the handlers use of a volume. */
export interface HandledVolume extends Pick<Volume, "statfs" | "fsync" | "commit"> {
  readonly tree: Tree & {
    /** An entry without attributes is only listed. */
    readdirplus(ino: Ino, cookie: number, visit: (entry: Entry, attr: Attr | undefined) => boolean): void;
  };
  readonly attributes: Pick<Volume["attributes"], "getattr" | "setattr">;
  readonly files: Pick<
    Volume["files"],
    "read" | "away" | "plan" | "write" | "fallocate" | "lseek" | "copyFileRange"
  >;
  readonly xattrs: Pick<Volume["xattrs"], "get" | "list" | "set" | "remove">;
  readonly inodes: Pick<Volume["inodes"], "ref">;
}

/** What is used of a mounted volume, without its private parts: a test may stand in for it. */
export interface ServedVolume
  extends HandledVolume,
    Pick<Volume, "finish" | "failed" | "uncommittedMs" | "idle" | "pathOf"> {
  readonly inodes: Pick<Volume["inodes"], "ref" | "unref" | "references" | "referenced">;
}

/** A name in a directory that the open group changed. */
export interface TouchedName {
  readonly parent: Ino;
  readonly name: Uint8Array;
}

/** Another thread, which answers READs of committed data while this one goes on. */
export interface SecondReader {
  /** Hands it the READ whose `unique` is these two words; false where it is busy or cannot. */
  offer(unique0: number, unique1: number, plan: ReadPlan): boolean;
  /** Whether the READ that it was handed was not answered, told once: then it is answered here. */
  takeBack(): boolean;
}

/** Node ids from here on are no inodes of the volume: see src/fuse/hidden.ts. */
export const FIRST_HIDDEN = 2 ** 52;

/** What a handler gives when another thread answers. */
export const ELSEWHERE = Number.MIN_SAFE_INTEGER;

/** What stands behind a name that no directory has: see src/fuse/hidden.ts. */
export interface HiddenName {
  /** Who answers for it. */
  readonly server: Server;
  readonly stat: Attr;
}

export interface Server {
  readonly volume: HandledVolume;
  /** What a name that is not in a directory stands for, if anything. */
  hiddenAt(parent: Ino, name: Uint8Array): HiddenName | undefined;
  /** Hands a READ to another thread; false: answer it here. */
  delegate(request: Request, plan: ReadPlan): boolean;
  /** Whether `delegate` may succeed. */
  readonly delegates: boolean;
  readonly agreed: Agreement;
  /** Seconds for which the kernel may keep names (also absent ones) and attributes. */
  readonly timeoutSec: number;
  /** Presented as the owner and group of every inode where given. */
  readonly uid: number | undefined;
  readonly gid: number | undefined;
  /** Slots of `COUNTER`. */
  readonly counters: Float64Array;
  /** References that the reply in the making hands to the kernel: taken back if it cannot be delivered. */
  readonly granted: Ino[];
  /** Settles INIT; undefined refuses the kernel. */
  agree(offer: Offer): Agreement | undefined;
  /** Whether a directory was changed since this was last asked. */
  listingChanged(directory: Ino): boolean;
  /** Makes the kernel ask for the attributes of an inode before it uses them again. */
  attributesChanged(ino: Ino): void;
  /** The kernel gives `count` references back: it has forgotten the inode, its listing included, or is about to. */
  forgotten(ino: Ino, count: number): void;
  /** A name was made or removed. Remembers a name whose cached entry is wrong if the open group is lost. */
  touch(parent: Ino, name: Uint8Array): void;
  /** Everything so far is durable. */
  settled(): void;
}

/**
 * Answers one request: the length of the reply's body, or a negated errno where the refusal is ordinary and
 * frequent (an exception costs 4 us). Other refusals are thrown as FsError.
 */
export type Handler = (server: Server, request: Request, reply: Reply) => number;

/** Figures that the worker counts and the main thread reads, one slot each. */
export const COUNTER = {
  requests: 0,
  bytesRead: 1,
  bytesWritten: 2,
  /** Requests answered with EIO. */
  errors: 3,
  /** Inodes that the kernel holds. */
  references: 4,
  /** Wall-clock milliseconds at which the oldest uncommitted change was made; 0 when all is committed. */
  uncommittedSince: 5,
  failed: 6,
  /** Agreed minor version of the protocol; 0 before INIT. */
  minor: 7,
  /** Wall-clock milliseconds at which somebody was last answered; 0 before that. */
  lastUse: 8,
} as const;
export const COUNTERS = 9;
