/**
 * The protocol as one table: a row per opcode that the kernel knows. Dispatch, length checks, the trace and
 * the answer to what is not served are all derived from it.
 *
 * A row without a handler is answered with ENOSYS, which the kernel remembers for ever and falls back from:
 * OPEN, CREATE and FLUSH because files need no handles here (the kernel opens by itself and makes files by
 * MKNOD), the locks because its own are used, the rest because
 * this filesystem has no such thing. No handler ever answers ENOSYS.
 */
import * as k from "./kernel.ts";
import type { Layout } from "./layout.ts";
import * as ops from "./ops.ts";
import type { Handler } from "./server.ts";

export interface Operation {
  readonly code: number;
  /** The fixed part of the request: a shorter message is refused before its handler is called. */
  readonly in: Layout;
  /** What follows the fixed part, for the trace. */
  readonly tail?: "name" | "names" | "data";
  /** The fixed layout of the reply's body, or "bytes" where its length varies. */
  readonly out: Layout | "bytes";
  readonly handler?: Handler;
  readonly replies: boolean;
}

const { Nothing } = k;

export const PROTOCOL = {
  LOOKUP: { code: 1, in: Nothing, tail: "name", out: k.EntryOut, handler: ops.lookup, replies: true },
  FORGET: { code: 2, in: k.ForgetIn, out: Nothing, handler: ops.forget, replies: false },
  GETATTR: { code: 3, in: k.GetattrIn, out: k.AttrOut, handler: ops.getattr, replies: true },
  SETATTR: { code: 4, in: k.SetattrIn, out: k.AttrOut, handler: ops.setattr, replies: true },
  READLINK: { code: 5, in: Nothing, out: "bytes", handler: ops.readlink, replies: true },
  SYMLINK: { code: 6, in: Nothing, tail: "names", out: k.EntryOut, handler: ops.symlink, replies: true },
  MKNOD: { code: 8, in: k.MknodIn, tail: "name", out: k.EntryOut, handler: ops.mknod, replies: true },
  MKDIR: { code: 9, in: k.MkdirIn, tail: "name", out: k.EntryOut, handler: ops.mkdir, replies: true },
  UNLINK: { code: 10, in: Nothing, tail: "name", out: Nothing, handler: ops.unlink, replies: true },
  RMDIR: { code: 11, in: Nothing, tail: "name", out: Nothing, handler: ops.rmdir, replies: true },
  RENAME: { code: 12, in: k.RenameIn, tail: "names", out: Nothing, handler: ops.rename, replies: true },
  LINK: { code: 13, in: k.LinkIn, tail: "name", out: k.EntryOut, handler: ops.link, replies: true },
  OPEN: { code: 14, in: k.OpenIn, out: k.OpenOut, replies: true },
  READ: { code: 15, in: k.ReadIn, out: "bytes", handler: ops.read, replies: true },
  WRITE: { code: 16, in: k.WriteIn, tail: "data", out: k.WriteOut, handler: ops.write, replies: true },
  STATFS: { code: 17, in: Nothing, out: k.StatfsOut, handler: ops.statfs, replies: true },
  RELEASE: { code: 18, in: k.ReleaseIn, out: Nothing, handler: ops.nothing, replies: true },
  FSYNC: { code: 20, in: k.FsyncIn, out: Nothing, handler: ops.fsync, replies: true },
  SETXATTR: {
    code: 21,
    in: k.SetxattrInCompat,
    tail: "data",
    out: Nothing,
    handler: ops.setxattr,
    replies: true,
  },
  GETXATTR: {
    code: 22,
    in: k.GetxattrIn,
    tail: "name",
    out: "bytes",
    handler: ops.getxattr,
    replies: true,
  },
  LISTXATTR: { code: 23, in: k.GetxattrIn, out: "bytes", handler: ops.listxattr, replies: true },
  REMOVEXATTR: { code: 24, in: Nothing, tail: "name", out: Nothing, handler: ops.removexattr, replies: true },
  FLUSH: { code: 25, in: k.FlushIn, out: Nothing, replies: true },
  INIT: { code: 26, in: k.InitInCompat, out: k.InitOut, handler: ops.init, replies: true },
  OPENDIR: { code: 27, in: k.OpenIn, out: k.OpenOut, handler: ops.opendir, replies: true },
  READDIR: { code: 28, in: k.ReadIn, out: "bytes", handler: ops.readdir, replies: true },
  RELEASEDIR: { code: 29, in: k.ReleaseIn, out: Nothing, handler: ops.nothing, replies: true },
  FSYNCDIR: { code: 30, in: k.FsyncIn, out: Nothing, handler: ops.fsync, replies: true },
  GETLK: { code: 31, in: k.LkIn, out: "bytes", replies: true },
  SETLK: { code: 32, in: k.LkIn, out: Nothing, replies: true },
  SETLKW: { code: 33, in: k.LkIn, out: Nothing, replies: true },
  ACCESS: { code: 34, in: k.AccessIn, out: Nothing, handler: ops.access, replies: true },
  CREATE: { code: 35, in: k.CreateIn, tail: "name", out: k.CreateOut, replies: true },
  // An interrupted request is answered when its turn comes, as any other: one thread has either answered it
  // already or not seen it yet, and a change half done is no change.
  INTERRUPT: { code: 36, in: k.InterruptIn, out: Nothing, handler: ops.nothing, replies: false },
  BMAP: { code: 37, in: k.BmapIn, out: "bytes", replies: true },
  DESTROY: { code: 38, in: Nothing, out: Nothing, handler: ops.nothing, replies: true },
  IOCTL: { code: 39, in: k.IoctlIn, tail: "data", out: "bytes", handler: ops.ioctl, replies: true },
  POLL: { code: 40, in: k.PollIn, out: "bytes", replies: true },
  // Answers to a NOTIFY_RETRIEVE, which is never sent.
  NOTIFY_REPLY: { code: 41, in: Nothing, tail: "data", out: Nothing, handler: ops.nothing, replies: false },
  BATCH_FORGET: { code: 42, in: k.BatchForgetIn, out: Nothing, handler: ops.batchForget, replies: false },
  FALLOCATE: { code: 43, in: k.FallocateIn, out: Nothing, handler: ops.fallocate, replies: true },
  READDIRPLUS: { code: 44, in: k.ReadIn, out: "bytes", handler: ops.readdirplus, replies: true },
  RENAME2: { code: 45, in: k.Rename2In, tail: "names", out: Nothing, handler: ops.rename2, replies: true },
  LSEEK: { code: 46, in: k.LseekIn, out: k.LseekOut, handler: ops.lseek, replies: true },
  COPY_FILE_RANGE: {
    code: 47,
    in: k.CopyFileRangeIn,
    out: k.WriteOut,
    handler: ops.copyFileRange,
    replies: true,
  },
  SETUPMAPPING: { code: 48, in: Nothing, out: Nothing, replies: true },
  REMOVEMAPPING: { code: 49, in: Nothing, out: Nothing, replies: true },
  SYNCFS: { code: 50, in: k.SyncfsIn, out: Nothing, handler: ops.syncfs, replies: true },
  TMPFILE: { code: 51, in: k.CreateIn, tail: "name", out: k.CreateOut, handler: ops.tmpfile, replies: true },
  STATX: { code: 52, in: k.StatxIn, out: k.StatxOut, handler: ops.statx, replies: true },
  COPY_FILE_RANGE_64: {
    code: 53,
    in: k.CopyFileRangeIn,
    out: k.CopyFileRangeOut,
    handler: ops.copyFileRange64,
    replies: true,
  },
} as const satisfies Readonly<Record<string, Operation>>;

/** By opcode. A hole is an opcode that is not in the table: it gets ENOSYS as well. */
export const OPERATIONS: readonly ((Operation & { readonly name: string }) | undefined)[] = (() => {
  const rows: ((Operation & { readonly name: string }) | undefined)[] = [];
  for (const [name, row] of Object.entries(PROTOCOL)) rows[row.code] = { name, ...row };
  return rows;
})();
