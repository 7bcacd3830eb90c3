/** The whole POSIX suite, by area: names are sentences of expected behaviour. */
import { acl, xattr } from "./attributes.ts";
import { append, direct, large, locks, open, openAndGone, readWrite, truncate } from "./data.ts";
import { readdir } from "./directories.ts";
import { fileHandles, link, lookup, mkdir, mknod, rmdir, symlink, unlink } from "./entries.ts";
import { mapped } from "./mapped.ts";
import { chmod, chown, permissions, setGroupDirectory, setId, umask } from "./modes.ts";
import { names } from "./names.ts";
import { rename, renameFlags } from "./rename.ts";
import { copyFileRange, fallocate, seek, statfs } from "./space.ts";
import { times } from "./times.ts";
import type { Cases } from "./tools.ts";

export const SUITE: Readonly<Record<string, Cases>> = {
  lookup,
  "file handles": fileHandles,
  mknod,
  mkdir,
  symlink,
  link,
  unlink,
  rmdir,
  rename,
  "renameat2 flags": renameFlags,
  readdir,
  names,
  open,
  "read and write": readWrite,
  append,
  truncate,
  "large files": large,
  O_DIRECT: direct,
  "open and gone": openAndGone,
  locks,
  mmap: mapped,
  fallocate,
  "SEEK_HOLE and SEEK_DATA": seek,
  copy_file_range: copyFileRange,
  statfs,
  xattr,
  ACL: acl,
  chmod,
  chown,
  "set-id bits": setId,
  umask,
  "set-group-ID directories": setGroupDirectory,
  permissions,
  times,
};
