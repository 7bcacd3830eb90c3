/**
 * What the server tells the kernel unasked. Never write one of these from the thread that answers requests:
 * the kernel may wait for a lock that it holds until a request is answered. `invalAttributes` alone takes no such lock.
 */
import type { Ino } from "../core/types.ts";
import {
  NOTIFY_INC_EPOCH,
  NOTIFY_INVAL_ENTRY,
  NOTIFY_INVAL_INODE,
  NotifyInvalEntryOut,
  NotifyInvalInodeOut,
  OutHeader,
} from "./kernel.ts";
import { Reply } from "./message.ts";

/** Forget attributes and data of an inode; of a directory also the cached listing. */
export function invalInode(ino: Ino): Uint8Array {
  // Length 0 from offset 0: all of it.
  return inval(ino, 0);
}

/** Forget attributes of an inode, and no data. */
export function invalAttributes(ino: Ino): Uint8Array {
  return inval(ino, -1);
}

function inval(ino: Ino, off: number): Uint8Array {
  const { at, size } = NotifyInvalInodeOut;
  const reply = new Reply(OutHeader.size + size);
  reply.u64(at.ino, ino);
  reply.u64(at.off, off);
  reply.u64(at.len, 0);
  return reply.notification(NOTIFY_INVAL_INODE);
}

/** Forget what a name in a directory stands for, or that there is none. */
export function invalEntry(parent: Ino, name: Uint8Array): Uint8Array {
  const { at, size } = NotifyInvalEntryOut;
  // Padded, so that the words of the buffer are whole; the kernel wants the exact length and a NUL.
  const reply = new Reply((OutHeader.size + size + name.length + 8) & ~7);
  reply.u64(at.parent, parent);
  reply.u32(at.namelen, name.length);
  reply.u32(at.flags, 0);
  reply.body.set(name, size);
  return reply.notification(NOTIFY_INVAL_ENTRY, size + name.length + 1);
}

/** Look at every cached name again before it is used. From protocol 7.44 on. */
export function incEpoch(): Uint8Array {
  return new Reply(OutHeader.size).notification(NOTIFY_INC_EPOCH);
}
