/**
 * The words of the FUSE kernel protocol: structures, flags and codes under the kernel's own names
 * (linux/fuse.h, protocol 7.45), the FUSE_ in front left out. Facts only; what is done with them is in
 * session.ts and ops.ts.
 */
import { layout } from "./layout.ts";

export const MAJOR = 7;
/** The newest minor whose structures are described here. */
export const MINOR = 45;
/** The oldest minor that is served: from it on, every structure has the size that stands here. */
export const OLDEST_MINOR = 23;

// --- frames

export const InHeader = layout("InHeader", 40, {
  len: "u32",
  opcode: "u32",
  unique: "u64",
  nodeid: "u64",
  uid: "u32",
  gid: "u32",
  pid: "u32",
  total_extlen: "u16",
  padding: "u16",
});

export const OutHeader = layout("OutHeader", 16, { len: "u32", error: "i32", unique: "u64" });

/** A message without a fixed part. */
export const Nothing = layout("Nothing", 0, {});

// --- what both directions share

export const Attr = layout("Attr", 88, {
  ino: "u64",
  size: "u64",
  blocks: "u64",
  atime: "i64",
  mtime: "i64",
  ctime: "i64",
  atimensec: "u32",
  mtimensec: "u32",
  ctimensec: "u32",
  mode: "u32",
  nlink: "u32",
  uid: "u32",
  gid: "u32",
  rdev: "u32",
  blksize: "u32",
  flags: "u32",
});

const SxTime = layout("SxTime", 16, { sec: "i64", nsec: "u32", reserved: "i32" });

export const Statx = layout("Statx", 256, {
  mask: "u32",
  blksize: "u32",
  attributes: "u64",
  nlink: "u32",
  uid: "u32",
  gid: "u32",
  mode: "u16",
  spare0: "u16",
  ino: "u64",
  size: "u64",
  blocks: "u64",
  attributes_mask: "u64",
  atime: SxTime,
  btime: SxTime,
  ctime: SxTime,
  mtime: SxTime,
  rdev_major: "u32",
  rdev_minor: "u32",
  dev_major: "u32",
  dev_minor: "u32",
  spare2: ["u64", 14],
});

/** statx(2): the basic fields and the birth time. */
export const STATX_BASIC_STATS = 0x7ff;
export const STATX_BTIME = 0x800;

// --- INIT

export const InitIn = layout("InitIn", 64, {
  major: "u32",
  minor: "u32",
  max_readahead: "u32",
  flags: "u32",
  flags2: "u32",
  unused: ["u32", 11],
});
/** Before flags2 came (7.36) the request ended here. */
export const InitInCompat = layout("InitInCompat", 16, {
  major: "u32",
  minor: "u32",
  max_readahead: "u32",
  flags: "u32",
});

export const InitOut = layout("InitOut", 64, {
  major: "u32",
  minor: "u32",
  max_readahead: "u32",
  flags: "u32",
  max_background: "u16",
  congestion_threshold: "u16",
  max_write: "u32",
  time_gran: "u32",
  max_pages: "u16",
  map_alignment: "u16",
  flags2: "u32",
  max_stack_depth: "u32",
  request_timeout: "u16",
  unused: ["u16", 11],
});

/** Bit numbers of the INIT flags; 32 and above travel in flags2. */
export const INIT_FLAG = {
  ASYNC_READ: 0,
  POSIX_LOCKS: 1,
  FILE_OPS: 2,
  ATOMIC_O_TRUNC: 3,
  EXPORT_SUPPORT: 4,
  BIG_WRITES: 5,
  DONT_MASK: 6,
  SPLICE_WRITE: 7,
  SPLICE_MOVE: 8,
  SPLICE_READ: 9,
  FLOCK_LOCKS: 10,
  HAS_IOCTL_DIR: 11,
  AUTO_INVAL_DATA: 12,
  DO_READDIRPLUS: 13,
  READDIRPLUS_AUTO: 14,
  ASYNC_DIO: 15,
  WRITEBACK_CACHE: 16,
  NO_OPEN_SUPPORT: 17,
  PARALLEL_DIROPS: 18,
  HANDLE_KILLPRIV: 19,
  POSIX_ACL: 20,
  ABORT_ERROR: 21,
  MAX_PAGES: 22,
  CACHE_SYMLINKS: 23,
  NO_OPENDIR_SUPPORT: 24,
  EXPLICIT_INVAL_DATA: 25,
  MAP_ALIGNMENT: 26,
  SUBMOUNTS: 27,
  HANDLE_KILLPRIV_V2: 28,
  SETXATTR_EXT: 29,
  INIT_EXT: 30,
  SECURITY_CTX: 32,
  HAS_INODE_DAX: 33,
  CREATE_SUPP_GROUP: 34,
  HAS_EXPIRE_ONLY: 35,
  DIRECT_IO_ALLOW_MMAP: 36,
  PASSTHROUGH: 37,
  NO_EXPORT_SUPPORT: 38,
  HAS_RESEND: 39,
  ALLOW_IDMAP: 40,
  OVER_IO_URING: 41,
  REQUEST_TIMEOUT: 42,
} as const;
export type InitFlag = keyof typeof INIT_FLAG;

// --- entries and attributes

export const EntryOut = layout("EntryOut", 128, {
  nodeid: "u64",
  generation: "u64",
  entry_valid: "u64",
  attr_valid: "u64",
  entry_valid_nsec: "u32",
  attr_valid_nsec: "u32",
  attr: Attr,
});

export const ForgetIn = layout("ForgetIn", 8, { nlookup: "u64" });
export const ForgetOne = layout("ForgetOne", 16, { nodeid: "u64", nlookup: "u64" });
export const BatchForgetIn = layout("BatchForgetIn", 8, { count: "u32", dummy: "u32" });

export const GetattrIn = layout("GetattrIn", 16, { getattr_flags: "u32", dummy: "u32", fh: "u64" });
export const AttrOut = layout("AttrOut", 104, {
  attr_valid: "u64",
  attr_valid_nsec: "u32",
  dummy: "u32",
  attr: Attr,
});

export const StatxIn = layout("StatxIn", 24, {
  getattr_flags: "u32",
  reserved: "u32",
  fh: "u64",
  sx_flags: "u32",
  sx_mask: "u32",
});
export const StatxOut = layout("StatxOut", 288, {
  attr_valid: "u64",
  attr_valid_nsec: "u32",
  flags: "u32",
  spare: ["u64", 2],
  stat: Statx,
});

export const SetattrIn = layout("SetattrIn", 88, {
  valid: "u32",
  padding: "u32",
  fh: "u64",
  size: "u64",
  lock_owner: "u64",
  atime: "i64",
  mtime: "i64",
  ctime: "i64",
  atimensec: "u32",
  mtimensec: "u32",
  ctimensec: "u32",
  mode: "u32",
  unused4: "u32",
  uid: "u32",
  gid: "u32",
  unused5: "u32",
});
export const FATTR_MODE = 1 << 0;
export const FATTR_UID = 1 << 1;
export const FATTR_GID = 1 << 2;
export const FATTR_SIZE = 1 << 3;
export const FATTR_ATIME = 1 << 4;
export const FATTR_MTIME = 1 << 5;
export const FATTR_ATIME_NOW = 1 << 7;
export const FATTR_MTIME_NOW = 1 << 8;
export const FATTR_CTIME = 1 << 10;
export const FATTR_KILL_SUIDGID = 1 << 11;

export const MknodIn = layout("MknodIn", 16, { mode: "u32", rdev: "u32", umask: "u32", padding: "u32" });
export const MkdirIn = layout("MkdirIn", 8, { mode: "u32", umask: "u32" });
export const RenameIn = layout("RenameIn", 8, { newdir: "u64" });
export const Rename2In = layout("Rename2In", 16, { newdir: "u64", flags: "u32", padding: "u32" });
export const LinkIn = layout("LinkIn", 8, { oldnodeid: "u64" });

// --- files

export const OpenIn = layout("OpenIn", 8, { flags: "u32", open_flags: "u32" });
export const CreateIn = layout("CreateIn", 16, {
  flags: "u32",
  mode: "u32",
  umask: "u32",
  open_flags: "u32",
});
export const OpenOut = layout("OpenOut", 16, { fh: "u64", open_flags: "u32", backing_id: "i32" });
/** What CREATE and TMPFILE give: an entry, opened. */
export const CreateOut = layout("CreateOut", 144, { entry: EntryOut, open: OpenOut });
export const FOPEN_KEEP_CACHE = 1 << 1;
export const FOPEN_CACHE_DIR = 1 << 3;
export const FOPEN_NOFLUSH = 1 << 5;

export const ReleaseIn = layout("ReleaseIn", 24, {
  fh: "u64",
  flags: "u32",
  release_flags: "u32",
  lock_owner: "u64",
});
export const FlushIn = layout("FlushIn", 24, {
  fh: "u64",
  unused: "u32",
  padding: "u32",
  lock_owner: "u64",
});

export const ReadIn = layout("ReadIn", 40, {
  fh: "u64",
  offset: "u64",
  size: "u32",
  read_flags: "u32",
  lock_owner: "u64",
  flags: "u32",
  padding: "u32",
});
export const WriteIn = layout("WriteIn", 40, {
  fh: "u64",
  offset: "u64",
  size: "u32",
  write_flags: "u32",
  lock_owner: "u64",
  flags: "u32",
  padding: "u32",
});
export const WRITE_KILL_SUIDGID = 1 << 2;
export const WriteOut = layout("WriteOut", 8, { size: "u32", padding: "u32" });

export const FsyncIn = layout("FsyncIn", 16, { fh: "u64", fsync_flags: "u32", padding: "u32" });
export const SyncfsIn = layout("SyncfsIn", 8, { padding: "u64" });

export const FallocateIn = layout("FallocateIn", 32, {
  fh: "u64",
  offset: "u64",
  length: "u64",
  mode: "u32",
  padding: "u32",
});
export const LseekIn = layout("LseekIn", 24, { fh: "u64", offset: "u64", whence: "u32", padding: "u32" });
export const LseekOut = layout("LseekOut", 8, { offset: "u64" });
export const CopyFileRangeIn = layout("CopyFileRangeIn", 56, {
  fh_in: "u64",
  off_in: "u64",
  nodeid_out: "u64",
  fh_out: "u64",
  off_out: "u64",
  len: "u64",
  flags: "u64",
});
export const CopyFileRangeOut = layout("CopyFileRangeOut", 8, { bytes_copied: "u64" });

// --- extended attributes

/** With SETXATTR_EXT; without it the structure ends after `flags`. */
export const SetxattrIn = layout("SetxattrIn", 16, {
  size: "u32",
  flags: "u32",
  setxattr_flags: "u32",
  padding: "u32",
});
export const SetxattrInCompat = layout("SetxattrInCompat", 8, { size: "u32", flags: "u32" });
export const SETXATTR_ACL_KILL_SGID = 1 << 0;
export const GetxattrIn = layout("GetxattrIn", 8, { size: "u32", padding: "u32" });
export const GetxattrOut = layout("GetxattrOut", 8, { size: "u32", padding: "u32" });

// --- directories, filesystem, the rest

/** In front of a name in what READDIR gives; the record is padded to 8 bytes. */
export const Dirent = layout("Dirent", 24, { ino: "u64", off: "u64", namelen: "u32", type: "u32" });
/** The same for READDIRPLUS. */
export const Direntplus = layout("Direntplus", 152, { entry_out: EntryOut, dirent: Dirent });

export const StatfsOut = layout("StatfsOut", 80, {
  blocks: "u64",
  bfree: "u64",
  bavail: "u64",
  files: "u64",
  ffree: "u64",
  bsize: "u32",
  namelen: "u32",
  frsize: "u32",
  padding: "u32",
  spare: ["u32", 6],
});

export const InterruptIn = layout("InterruptIn", 8, { unique: "u64" });
/** In AccessIn.mask. */
export const MAY_EXEC = 1;
export const AccessIn = layout("AccessIn", 8, { mask: "u32", padding: "u32" });
export const LkIn = layout("LkIn", 48, {
  fh: "u64",
  owner: "u64",
  start: "u64",
  end: "u64",
  type: "u32",
  pid: "u32",
  lk_flags: "u32",
  padding: "u32",
});
export const BmapIn = layout("BmapIn", 16, { block: "u64", blocksize: "u32", padding: "u32" });
export const IoctlIn = layout("IoctlIn", 32, {
  fh: "u64",
  flags: "u32",
  cmd: "u32",
  arg: "u64",
  in_size: "u32",
  out_size: "u32",
});
export const PollIn = layout("PollIn", 24, { fh: "u64", kh: "u64", flags: "u32", events: "u32" });

// --- notifications: what the server tells unasked (OutHeader.unique is 0, OutHeader.error the code)

export const NOTIFY_INVAL_INODE = 2;
export const NOTIFY_INVAL_ENTRY = 3;
export const NOTIFY_INC_EPOCH = 8;
/** The minor that brought NOTIFY_INC_EPOCH. */
export const INC_EPOCH_MINOR = 44;

export const NotifyInvalInodeOut = layout("NotifyInvalInodeOut", 24, { ino: "u64", off: "i64", len: "i64" });
export const NotifyInvalEntryOut = layout("NotifyInvalEntryOut", 16, {
  parent: "u64",
  namelen: "u32",
  flags: "u32",
});
