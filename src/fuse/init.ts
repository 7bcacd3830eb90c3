/**
 * INIT: what the kernel offers, what is taken of it, and what the handlers must know about that.
 */
import { INC_EPOCH_MINOR, INIT_FLAG, type InitFlag, MAJOR, MINOR, OLDEST_MINOR } from "./kernel.ts";

/** What the kernel says of itself. */
export interface Offer {
  readonly major: number;
  readonly minor: number;
  readonly maxReadahead: number;
  readonly flags: number;
  readonly flags2: number;
}

export interface Wishes {
  /** Writes answered from the page cache: a weaker promise, on request only. */
  readonly writeback: boolean;
  /** POSIX ACLs. The kernel checks permissions itself then, so without default_permissions there are none. */
  readonly acl: boolean;
  /** Largest READ in bytes; a multiple of the page size. */
  readonly maxTransfer: number;
  /** Largest WRITE in bytes; the same. */
  readonly maxWrite: number;
  /** Bytes in a page of memory. */
  readonly pageSize: number;
}

/** What holds from INIT on. */
export interface Agreement {
  readonly minor: number;
  readonly maxReadahead: number;
  readonly maxTransfer: number;
  readonly maxWrite: number;
  readonly maxPages: number;
  readonly flags: number;
  readonly flags2: number;
  /** The kernel leaves the umask to us (DONT_MASK). */
  readonly dontMask: boolean;
  /** SETXATTR carries its longer structure. */
  readonly setxattrExt: boolean;
  /** Clearing suid, sgid and capabilities on write, truncate and chown is ours. */
  readonly killPriv: boolean;
  /** The kernel knows ACLs: it checks them, and asks for st_mode after one was set. */
  readonly acl: boolean;
  /** One notification makes the kernel look at every cached name again. */
  readonly incEpoch: boolean;
}

/**
 * Taken where offered. What is left out, and why:
 * ATOMIC_O_TRUNC, since OPEN is answered by ENOSYS and O_TRUNC must come as SETATTR then;
 * POSIX_LOCKS and FLOCK_LOCKS, since the kernel's own are right for one machine and know OFD locks;
 * AUTO_INVAL_DATA, since nothing changes behind the kernel's back unannounced;
 * HANDLE_KILLPRIV (the first), since it takes the clearing away from the kernel without telling us who may
 * keep the bits: before V2 (5.12) the kernel clears, at the price of one GETXATTR per write.
 */
const WANTED: readonly InitFlag[] = [
  "ASYNC_READ",
  "EXPORT_SUPPORT",
  "BIG_WRITES",
  "DO_READDIRPLUS",
  "READDIRPLUS_AUTO",
  "ASYNC_DIO",
  "NO_OPEN_SUPPORT",
  "PARALLEL_DIROPS",
  "ABORT_ERROR",
  "MAX_PAGES",
  "CACHE_SYMLINKS",
  "HANDLE_KILLPRIV_V2",
  "SETXATTR_EXT",
  "INIT_EXT",
  "DONT_MASK",
];

/** The kernel shrinks it to what the device of the mount allows. */
const MAX_READAHEAD = 16 * 1024 * 1024;

export function offers(offer: Offer, flag: InitFlag): boolean {
  const bit = INIT_FLAG[flag];
  const word = bit < 32 ? offer.flags : offer.flags2;
  return ((word >>> (bit & 31)) & 1) === 1;
}

/** Undefined when the kernel is too old to be served. A newer major gets our own; the kernel then asks again. */
export function negotiate(offer: Offer, wishes: Wishes): Agreement | undefined {
  if (offer.major < MAJOR || (offer.major === MAJOR && offer.minor < OLDEST_MINOR)) return undefined;
  const minor = offer.major > MAJOR ? MINOR : Math.min(offer.minor, MINOR);
  const wanted = [...WANTED];
  if (wishes.writeback) wanted.push("WRITEBACK_CACHE");
  // ACLs only together with DONT_MASK: a default ACL takes the place of the umask, and only we know it.
  if (wishes.acl && offers(offer, "DONT_MASK")) wanted.push("POSIX_ACL");
  let flags = 0;
  let flags2 = 0;
  for (const flag of wanted) {
    if (!offers(offer, flag)) continue;
    const bit = INIT_FLAG[flag];
    if (bit < 32) flags |= 1 << bit;
    else flags2 |= 1 << (bit - 32);
  }
  const taken: Offer = { ...offer, flags, flags2 };
  // Without MAX_PAGES the kernel moves 32 pages at most whatever is asked.
  const maxPages = offers(taken, "MAX_PAGES") ? Math.ceil(wishes.maxTransfer / wishes.pageSize) : 32;
  return {
    minor,
    maxReadahead: Math.min(offer.maxReadahead, MAX_READAHEAD),
    maxTransfer: Math.min(wishes.maxTransfer, maxPages * wishes.pageSize),
    maxWrite: Math.min(wishes.maxWrite, maxPages * wishes.pageSize),
    maxPages,
    flags: flags >>> 0,
    flags2: flags2 >>> 0,
    acl: offers(taken, "POSIX_ACL"),
    dontMask: offers(taken, "DONT_MASK"),
    setxattrExt: offers(taken, "SETXATTR_EXT"),
    killPriv: offers(taken, "HANDLE_KILLPRIV_V2"),
    incEpoch: minor >= INC_EPOCH_MINOR,
  };
}
