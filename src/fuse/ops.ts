/**
 * The operations: each takes a request apart, calls the core, and lays out what it gave.
 *
 * Permissions are the kernel's (default_permissions), so no handler looks at who asks, except where the
 * caller becomes an owner or the kernel leaves the clearing of suid bits to us.
 */
import { E, FsError } from "../base/errno.ts";
import { ACL_ACCESS } from "../core/acl.ts";
import { isRegular } from "../core/mode.ts";
import type { Caller, Ino, SetAttr, Attr as Stat } from "../core/types.ts";
import * as k from "./kernel.ts";
import type { Reply, Request } from "./message.ts";
import { COUNTER, ELSEWHERE, FIRST_HIDDEN, type Server } from "./server.ts";

/** st_blksize: a power of two, as the kernel takes its logarithm. Larger steps than a block are faster. */
const PREFERRED_IO_BYTES = 65_536;

/** A shorter READ is answered sooner than another thread wakes. */
const DELEGATED_MIN = 64 * 1024;

// --- INIT and what belongs to the connection

export function init(server: Server, request: Request, reply: Reply): number {
  const extended = request.length >= k.InitIn.size;
  const agreed = server.agree({
    major: request.u32(k.InitIn.at.major),
    minor: request.u32(k.InitIn.at.minor),
    maxReadahead: request.u32(k.InitIn.at.max_readahead),
    flags: request.u32(k.InitIn.at.flags),
    flags2: extended ? request.u32(k.InitIn.at.flags2) : 0,
  });
  if (agreed === undefined) return -E.EPROTO;
  reply.zero(0, k.InitOut.size);
  reply.u32(k.InitOut.at.major, k.MAJOR);
  reply.u32(k.InitOut.at.minor, agreed.minor);
  reply.u32(k.InitOut.at.max_readahead, agreed.maxReadahead);
  reply.u32(k.InitOut.at.flags, agreed.flags);
  reply.u32(k.InitOut.at.flags2, agreed.flags2);
  // Requests that nobody waits for (readahead, write-back): enough to keep us busy, few enough that a
  // caller who does wait is not behind a long queue.
  reply.u16(k.InitOut.at.max_background, 64);
  reply.u16(k.InitOut.at.congestion_threshold, 48);
  reply.u32(k.InitOut.at.max_write, agreed.maxWrite);
  reply.u32(k.InitOut.at.time_gran, 1);
  reply.u16(k.InitOut.at.max_pages, agreed.maxPages);
  return k.InitOut.size;
}

/** DESTROY, RELEASE and RELEASEDIR: there is no state of ours to let go. */
export function nothing(): number {
  return 0;
}

export function statfs(server: Server, _request: Request, reply: Reply): number {
  const { at } = k.StatfsOut;
  const figures = server.volume.statfs();
  reply.zero(0, k.StatfsOut.size);
  reply.u64(at.blocks, figures.blocks);
  reply.u64(at.bfree, figures.bfree);
  reply.u64(at.bavail, figures.bavail);
  reply.u64(at.files, figures.files);
  reply.u64(at.ffree, figures.ffree);
  reply.u32(at.bsize, figures.blockSize);
  reply.u32(at.frsize, figures.blockSize);
  reply.u32(at.namelen, figures.nameMax);
  return k.StatfsOut.size;
}

export function syncfs(server: Server): number {
  server.volume.commit();
  server.settled();
  return 0;
}

// --- attributes

function encodeAttr(server: Server, reply: Reply, base: number, stat: Stat): void {
  const { at } = k.Attr;
  reply.u64(base + at.ino, stat.ino);
  reply.u64(base + at.size, stat.size);
  reply.u64(base + at.blocks, stat.blocks);
  reply.u64(base + at.atime, stat.atimeSec);
  reply.u64(base + at.mtime, stat.mtimeSec);
  reply.u64(base + at.ctime, stat.ctimeSec);
  reply.u32(base + at.atimensec, stat.atimeNsec);
  reply.u32(base + at.mtimensec, stat.mtimeNsec);
  reply.u32(base + at.ctimensec, stat.ctimeNsec);
  reply.u32(base + at.mode, stat.mode);
  reply.u32(base + at.nlink, stat.nlink);
  reply.u32(base + at.uid, server.uid ?? stat.uid);
  reply.u32(base + at.gid, server.gid ?? stat.gid);
  reply.u32(base + at.rdev, stat.rdev);
  reply.u32(base + at.blksize, PREFERRED_IO_BYTES);
  reply.u32(base + at.flags, 0);
}

function attrReply(server: Server, reply: Reply, stat: Stat): number {
  reply.u64(k.AttrOut.at.attr_valid, server.timeoutSec);
  reply.u32(k.AttrOut.at.attr_valid_nsec, 0);
  reply.u32(k.AttrOut.at.dummy, 0);
  encodeAttr(server, reply, k.AttrOut.at.attr, stat);
  return k.AttrOut.size;
}

/** Lays out an entry and takes the reference that the kernel counts for it. */
function encodeEntry(server: Server, reply: Reply, base: number, stat: Stat): void {
  const { at } = k.EntryOut;
  server.volume.inodes.ref(stat.ino);
  server.granted.push(stat.ino);
  reply.u64(base + at.nodeid, stat.ino);
  reply.u64(base + at.generation, stat.generation);
  reply.u64(base + at.entry_valid, server.timeoutSec);
  reply.u64(base + at.attr_valid, server.timeoutSec);
  reply.u32(base + at.entry_valid_nsec, 0);
  reply.u32(base + at.attr_valid_nsec, 0);
  encodeAttr(server, reply, base + at.attr, stat);
}

function entryReply(server: Server, reply: Reply, stat: Stat): number {
  encodeEntry(server, reply, 0, stat);
  return k.EntryOut.size;
}

export function getattr(server: Server, request: Request, reply: Reply): number {
  return attrReply(server, reply, server.volume.attributes.getattr(request.nodeid));
}

/**
 * access(2), asked only where the kernel does not check by itself: whoever gets here may do everything but run what
 * nobody may.
 */
export function access(server: Server, request: Request): number {
  if ((request.u32(k.AccessIn.at.mask) & k.MAY_EXEC) === 0) return 0;
  const { mode } = server.volume.attributes.getattr(request.nodeid);
  return isRegular(mode) && (mode & 0o111) === 0 ? -E.EACCES : 0;
}

export function statx(server: Server, request: Request, reply: Reply): number {
  const stat = server.volume.attributes.getattr(request.nodeid);
  const { at } = k.Statx;
  const base = k.StatxOut.at.stat;
  const time = (where: number, sec: number, nsec: number): void => {
    reply.u64(base + where, sec);
    reply.u32(base + where + 8, nsec);
  };
  reply.zero(0, k.StatxOut.size);
  reply.u64(k.StatxOut.at.attr_valid, server.timeoutSec);
  reply.u32(base + at.mask, k.STATX_BASIC_STATS | k.STATX_BTIME);
  reply.u32(base + at.blksize, PREFERRED_IO_BYTES);
  reply.u32(base + at.nlink, stat.nlink);
  reply.u32(base + at.uid, server.uid ?? stat.uid);
  reply.u32(base + at.gid, server.gid ?? stat.gid);
  reply.u16(base + at.mode, stat.mode);
  reply.u64(base + at.ino, stat.ino);
  reply.u64(base + at.size, stat.size);
  reply.u64(base + at.blocks, stat.blocks);
  time(at.atime, stat.atimeSec, stat.atimeNsec);
  time(at.btime, stat.btimeSec, stat.btimeNsec);
  time(at.ctime, stat.ctimeSec, stat.ctimeNsec);
  time(at.mtime, stat.mtimeSec, stat.mtimeNsec);
  // The protocol's 32-bit device: minor in bits 0-7 and 20-31, major in bits 8-19.
  reply.u32(base + at.rdev_major, (stat.rdev >>> 8) & 0xfff);
  reply.u32(base + at.rdev_minor, (stat.rdev & 0xff) | ((stat.rdev >>> 12) & 0xfff00));
  return k.StatxOut.size;
}

export function setattr(server: Server, request: Request, reply: Reply): number {
  const { at } = k.SetattrIn;
  const valid = request.u32(at.valid);
  const change: { -readonly [K in keyof SetAttr]: SetAttr[K] } = {};
  if (valid & k.FATTR_MODE) change.mode = request.u32(at.mode) & 0o7777;
  if (valid & k.FATTR_UID) change.uid = request.u32(at.uid);
  if (valid & k.FATTR_GID) change.gid = request.u32(at.gid);
  if (valid & k.FATTR_SIZE) change.size = request.u64(at.size);
  if (valid & k.FATTR_ATIME_NOW) change.atime = "now";
  else if (valid & k.FATTR_ATIME) change.atime = time(request, at.atime, at.atimensec);
  if (valid & k.FATTR_MTIME_NOW) change.mtime = "now";
  else if (valid & k.FATTR_MTIME) change.mtime = time(request, at.mtime, at.mtimensec);
  if (valid & k.FATTR_CTIME) change.ctime = time(request, at.ctime, at.ctimensec);
  // chown(path, -1, -1) arrives as a request to change nothing, and takes set-id bits away like any other chown.
  if (valid & k.FATTR_KILL_SUIDGID || valid === 0) change.killSuidgid = true;
  return attrReply(server, reply, server.volume.attributes.setattr(request.nodeid, change));
}

function time(request: Request, sec: number, nsec: number): { sec: number; nsec: number } {
  return { sec: request.i64(sec), nsec: request.u32(nsec) };
}

// --- names

export function lookup(server: Server, request: Request, reply: Reply): number {
  const stat = server.volume.tree.lookup(request.nodeid, request.name(0));
  if (stat !== undefined) return entryReply(server, reply, stat);
  const hidden = server.hiddenAt(request.nodeid, request.name(0));
  if (hidden !== undefined) return entryReply(hidden.server, reply, hidden.stat);
  // Node 0 with a timeout lets the kernel remember the absence. It is the only one that makes names, so it
  // knows when that ends.
  reply.zero(0, k.EntryOut.size);
  reply.u64(k.EntryOut.at.entry_valid, server.timeoutSec);
  return k.EntryOut.size;
}

export function forget(server: Server, request: Request): number {
  server.forgotten(request.nodeid, request.u64(k.ForgetIn.at.nlookup));
  return 0;
}

export function batchForget(server: Server, request: Request): number {
  const count = request.u32(k.BatchForgetIn.at.count);
  for (let i = 0, at = k.BatchForgetIn.size; i < count; i++, at += k.ForgetOne.size) {
    const nodeid = request.ino(at + k.ForgetOne.at.nodeid);
    server.forgotten(nodeid, request.u64(at + k.ForgetOne.at.nlookup));
  }
  return 0;
}

function caller(server: Server, request: Request, umask: number): Caller {
  return { uid: request.uid, gid: request.gid, umask: server.agreed.dontMask ? umask & 0o777 : 0 };
}

export function mknod(server: Server, request: Request, reply: Reply): number {
  const { at } = k.MknodIn;
  const name = request.name(k.MknodIn.size);
  const mode = request.u32(at.mode);
  const who = caller(server, request, request.u32(at.umask));
  const stat = server.volume.tree.mknod(request.nodeid, name, mode, request.u32(at.rdev), who);
  server.touch(request.nodeid, name);
  return entryReply(server, reply, stat);
}

export function mkdir(server: Server, request: Request, reply: Reply): number {
  const name = request.name(k.MkdirIn.size);
  const who = caller(server, request, request.u32(k.MkdirIn.at.umask));
  const stat = server.volume.tree.mkdir(request.nodeid, name, request.u32(k.MkdirIn.at.mode), who);
  server.touch(request.nodeid, name);
  return entryReply(server, reply, stat);
}

export function symlink(server: Server, request: Request, reply: Reply): number {
  const name = request.name(0);
  const target = request.text(name.length + 1);
  const stat = server.volume.tree.symlink(request.nodeid, name, target, caller(server, request, 0));
  server.touch(request.nodeid, name);
  return entryReply(server, reply, stat);
}

/** O_TMPFILE: the only request that still carries an open, since the kernel makes and opens it in one. */
export function tmpfile(server: Server, request: Request, reply: Reply): number {
  const { at } = k.CreateIn;
  const who = caller(server, request, request.u32(at.umask));
  const stat = server.volume.tree.tmpfile(request.nodeid, request.u32(at.mode), who);
  encodeEntry(server, reply, k.CreateOut.at.entry, stat);
  const open = k.CreateOut.at.open;
  reply.zero(open, k.OpenOut.size);
  reply.u32(open + k.OpenOut.at.open_flags, k.FOPEN_KEEP_CACHE | k.FOPEN_NOFLUSH);
  return k.CreateOut.size;
}

/** Another node that a request is about. The past and the present are two filesystems. @throws FsError ESTALE, EXDEV */
function other(request: Request, at: number): Ino {
  const nodeid = request.ino(at);
  if (nodeid >= FIRST_HIDDEN && request.nodeid < FIRST_HIDDEN) throw new FsError("EXDEV");
  return nodeid;
}

export function link(server: Server, request: Request, reply: Reply): number {
  const name = request.name(k.LinkIn.size);
  const stat = server.volume.tree.link(other(request, k.LinkIn.at.oldnodeid), request.nodeid, name);
  server.touch(request.nodeid, name);
  return entryReply(server, reply, stat);
}

export function unlink(server: Server, request: Request): number {
  const name = request.name(0);
  server.volume.tree.unlink(request.nodeid, name);
  server.touch(request.nodeid, name);
  return 0;
}

export function rmdir(server: Server, request: Request): number {
  const name = request.name(0);
  server.volume.tree.rmdir(request.nodeid, name);
  server.touch(request.nodeid, name);
  return 0;
}

export function rename(server: Server, request: Request): number {
  const newParent = other(request, k.RenameIn.at.newdir);
  return move(server, request, k.RenameIn.size, newParent, 0);
}

export function rename2(server: Server, request: Request): number {
  const newParent = other(request, k.Rename2In.at.newdir);
  return move(server, request, k.Rename2In.size, newParent, request.u32(k.Rename2In.at.flags));
}

function move(server: Server, request: Request, namesAt: number, newParent: Ino, flags: number): number {
  const name = request.name(namesAt);
  const newName = request.name(namesAt + name.length + 1);
  const { tree } = server.volume;
  // A directory that is in the way, to whoever looks. The core has none there, and would put another in its place.
  if (server.hiddenAt(newParent, newName) !== undefined && tree.lookup(newParent, newName) === undefined)
    throw new FsError("ENOTEMPTY");
  tree.rename(request.nodeid, name, newParent, newName, flags);
  server.touch(request.nodeid, name);
  server.touch(newParent, newName);
  return 0;
}

export function readlink(server: Server, request: Request, reply: Reply): number {
  const target = server.volume.tree.readlink(request.nodeid);
  reply.body.set(target, 0);
  return target.length;
}

// --- directories

/** "." and ".." come first, at offsets 1 and 2; the entries of the core follow with their cookie + 2. */
const DOTS = 2;
const DOT = [Buffer.from("."), Buffer.from("..")] as const;
const DIR_TYPE = 0o040000;

/** Writes one record at `at` unless it would pass `limit`. Gives where the next one starts, or -1. */
function encodeDirent(
  reply: Reply,
  at: number,
  limit: number,
  ino: number,
  off: number,
  type: number,
  name: Uint8Array,
): number {
  const end = at + k.Dirent.size + name.length;
  const next = (end + 7) & ~7;
  if (next > limit) return -1;
  reply.u64(at + k.Dirent.at.ino, ino);
  reply.u64(at + k.Dirent.at.off, off);
  reply.u32(at + k.Dirent.at.namelen, name.length);
  reply.u32(at + k.Dirent.at.type, type >>> 12);
  reply.body.set(name, at + k.Dirent.size);
  reply.zero(end, next - end);
  return next;
}

/**
 * Lets the kernel keep the listing. It checks that only where a scan begins: a scan that begins uncached, while an
 * older one is still filling the cache, would go on from what the older one saw. So the first open after a change
 * drops what is cached (no FOPEN_KEEP_CACHE), the half-filled included.
 */
export function opendir(server: Server, request: Request, reply: Reply): number {
  const keep = server.listingChanged(request.nodeid) ? 0 : k.FOPEN_KEEP_CACHE;
  reply.zero(0, k.OpenOut.size);
  reply.u32(k.OpenOut.at.open_flags, k.FOPEN_CACHE_DIR | keep);
  return k.OpenOut.size;
}

export function readdir(server: Server, request: Request, reply: Reply): number {
  const ino = request.nodeid;
  const limit = Math.min(request.u32(k.ReadIn.at.size), server.agreed.maxTransfer);
  let off = request.u64(k.ReadIn.at.offset);
  let used = 0;
  for (; off < DOTS; off++) {
    const dirIno = off === 0 ? ino : server.volume.tree.parentOf(ino);
    const next = encodeDirent(reply, used, limit, dirIno, off + 1, DIR_TYPE, DOT[off as 0 | 1]);
    if (next < 0) return used;
    used = next;
  }
  server.volume.tree.readdir(ino, off - DOTS, (entry) => {
    const next = encodeDirent(reply, used, limit, entry.ino, entry.cookie + DOTS, entry.type, entry.name);
    if (next < 0) return false;
    used = next;
    return true;
  });
  return used;
}

export function readdirplus(server: Server, request: Request, reply: Reply): number {
  const ino = request.nodeid;
  const limit = Math.min(request.u32(k.ReadIn.at.size), server.agreed.maxTransfer);
  const direntAt = k.Direntplus.at.dirent;
  let off = request.u64(k.ReadIn.at.offset);
  let used = 0;
  for (; off < DOTS; off++) {
    const dirIno = off === 0 ? ino : server.volume.tree.parentOf(ino);
    const name = DOT[off as 0 | 1];
    const next = encodeDirent(reply, used + direntAt, limit, dirIno, off + 1, DIR_TYPE, name);
    if (next < 0) return used;
    // Node 0: the kernel takes no reference for these two.
    reply.zero(used, k.EntryOut.size);
    used = next;
  }
  server.volume.tree.readdirplus(ino, off - DOTS, (entry, stat) => {
    const cookie = entry.cookie + DOTS;
    const next = encodeDirent(reply, used + direntAt, limit, entry.ino, cookie, entry.type, entry.name);
    if (next < 0) return false;
    if (stat === undefined) reply.zero(used, k.EntryOut.size);
    else encodeEntry(server, reply, used, stat);
    used = next;
    return true;
  });
  return used;
}

// --- file contents

export function read(server: Server, request: Request, reply: Reply): number {
  const size = Math.min(request.u32(k.ReadIn.at.size), server.agreed.maxTransfer);
  const offset = request.u64(k.ReadIn.at.offset);
  if (size >= DELEGATED_MIN && server.delegates) {
    const plan = server.volume.files.plan(request.nodeid, offset, size);
    if (plan !== undefined && plan.length >= DELEGATED_MIN && server.delegate(request, plan)) {
      server.counters[COUNTER.bytesRead]! += plan.length;
      return ELSEWHERE;
    }
  }
  const n = server.volume.files.read(request.nodeid, offset, size, reply.body);
  server.counters[COUNTER.bytesRead]! += n;
  return n;
}

export function write(server: Server, request: Request, reply: Reply): number {
  const { at } = k.WriteIn;
  const data = request.data(k.WriteIn.size, request.u32(at.size));
  const killSuidgid = (request.u32(at.write_flags) & k.WRITE_KILL_SUIDGID) !== 0;
  const n = server.volume.files.write(request.nodeid, request.u64(at.offset), data, killSuidgid);
  server.counters[COUNTER.bytesWritten]! += n;
  reply.u32(k.WriteOut.at.size, n);
  reply.u32(k.WriteOut.at.padding, 0);
  return k.WriteOut.size;
}

/** FSYNC and FSYNCDIR: the datasync flag changes nothing, a commit holds both. */
export function fsync(server: Server, request: Request): number {
  server.volume.fsync(request.nodeid);
  server.settled();
  return 0;
}

/**
 * Whether suid and sgid go with a change that the kernel sends without saying so (FALLOCATE and
 * COPY_FILE_RANGE): they stay only for one who may keep them, which the header tells no better than by uid.
 */
function killsPriv(server: Server, request: Request): boolean {
  return server.agreed.killPriv && request.uid !== 0;
}

export function fallocate(server: Server, request: Request): number {
  const { at } = k.FallocateIn;
  const mode = request.u32(at.mode);
  const length = request.u64(at.length);
  const kill = killsPriv(server, request);
  server.volume.files.fallocate(request.nodeid, mode, request.u64(at.offset), length, kill);
  return 0;
}

export function lseek(server: Server, request: Request, reply: Reply): number {
  const { at } = k.LseekIn;
  const offset = server.volume.files.lseek(request.nodeid, request.u64(at.offset), request.u32(at.whence));
  reply.u64(k.LseekOut.at.offset, offset);
  return k.LseekOut.size;
}

function copy(server: Server, request: Request): number {
  const { at } = k.CopyFileRangeIn;
  if (request.u64(at.flags) !== 0) throw new FsError("EINVAL", "unknown copy flags");
  const to = other(request, at.nodeid_out);
  const length = request.u64(at.len);
  const fromOffset = request.u64(at.off_in);
  const toOffset = request.u64(at.off_out);
  return server.volume.files.copyFileRange(
    request.nodeid,
    fromOffset,
    to,
    toOffset,
    length,
    killsPriv(server, request),
  );
}

export function copyFileRange(server: Server, request: Request, reply: Reply): number {
  reply.u32(k.WriteOut.at.size, copy(server, request));
  reply.u32(k.WriteOut.at.padding, 0);
  return k.WriteOut.size;
}

export function copyFileRange64(server: Server, request: Request, reply: Reply): number {
  reply.u64(k.CopyFileRangeOut.at.bytes_copied, copy(server, request));
  return k.CopyFileRangeOut.size;
}

/** No ioctl of ours. Not ENOSYS: that is for opcodes, and this one works. */
export function ioctl(): number {
  return -E.ENOTTY;
}

// --- extended attributes

/** Bytes for a caller who gave room for `size` of them; with 0 he asks how many there are. */
function bytesReply(reply: Reply, size: number, value: Uint8Array): number {
  if (size === 0) {
    reply.u32(k.GetxattrOut.at.size, value.length);
    reply.u32(k.GetxattrOut.at.padding, 0);
    return k.GetxattrOut.size;
  }
  if (value.length > size) return -E.ERANGE;
  reply.body.set(value, 0);
  return value.length;
}

export function getxattr(server: Server, request: Request, reply: Reply): number {
  const value = server.volume.xattrs.get(request.nodeid, request.text(k.GetxattrIn.size));
  if (value === undefined) return -E.ENODATA;
  return bytesReply(reply, request.u32(k.GetxattrIn.at.size), value);
}

export function listxattr(server: Server, request: Request, reply: Reply): number {
  return bytesReply(reply, request.u32(k.GetxattrIn.at.size), server.volume.xattrs.list(request.nodeid));
}

export function setxattr(server: Server, request: Request): number {
  const { at, size: longSize } = k.SetxattrIn;
  const ext = server.agreed.setxattrExt;
  const name = request.text(ext ? longSize : k.SetxattrInCompat.size);
  const valueAt = (ext ? longSize : k.SetxattrInCompat.size) + name.length + 1;
  const value = request.data(valueAt, request.u32(at.size));
  const killSgid = ext && (request.u32(at.setxattr_flags) & k.SETXATTR_ACL_KILL_SGID) !== 0;
  server.volume.xattrs.set(request.nodeid, name, value, request.u32(at.flags), killSgid);
  // An ACL has changed st_mode.
  if (!server.agreed.acl && ACL_ACCESS.equals(name)) server.attributesChanged(request.nodeid);
  return 0;
}

export function removexattr(server: Server, request: Request): number {
  server.volume.xattrs.remove(request.nodeid, request.text(0));
  return 0;
}
