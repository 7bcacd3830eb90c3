/**
 * What does not hold on the second transport, fuse-native, and why: the one list of exceptions. Each case of the POSIX
 * suite that is named here is run and must fail.
 */
import { BindingError, loadBinding } from "../../src/fusenative/binding.ts";
import type { Lack } from "./model.ts";

/** Why nothing can be mounted by fuse-native here: it is optional, and has binaries for x64 alone. */
export function fuseNativeImpossible(): string | undefined {
  try {
    loadBinding();
    return undefined;
  } catch (error) {
    if (!(error instanceof BindingError)) throw error;
    return error.message;
  }
}

const BIRTH = "libfuse 2 has no statx: no birth time";
const PATHS = "each path of a file is a file of its own to the kernel, as libfuse numbers paths";
const UTF8 = "names and targets pass through fuse-native as JavaScript strings: what is not UTF-8 is EILSEQ";
const GONE = "libfuse has no path to a removed directory: ENOENT to whoever has it open";
const RENAME2 = "libfuse 2 has no renameat2: the kernel answers EINVAL to flags";
const COOKIE = "libfuse makes a listing for each descriptor: an offset in one means nothing to another";
const TMPFILE = "libfuse 2 has no O_TMPFILE: EOPNOTSUPP";
const FALLOCATE = "fuse-native has no fallocate: EOPNOTSUPP";
const SEEK = "libfuse 2 has no lseek: all of a file is data, as far as one is told";
const ACL = "the kernel does not heed ACLs there, so they are neither shown nor taken: EOPNOTSUPP";
const MS = "fuse-native carries milliseconds";
const NEGATIVE = "fuse-native divides times as if there were none before 1970: EOPNOTSUPP";

/** What the model leaves out, for the same reasons. */
export const MODEL_LACKS: readonly Lack[] = [
  "bytes",
  "flags",
  "fallocate",
  "nanoseconds",
  "busy directories",
  "one file of several paths",
];

/** By "area: name". */
export const POSIX_EXCEPTIONS: Readonly<Record<string, string>> = {
  "lookup: a birth time is told and stays when everything else changes": BIRTH,
  "file handles: handles of different files differ, of one file they are the same": PATHS,
  "symlink: a symlink keeps its target's bytes, which need not be text": UTF8,
  "rmdir: a removed directory that is still open is empty, has no links and takes nothing new": GONE,
  "renameat2 flags: RENAME_NOREPLACE moves to a free name and is EEXIST over anything": RENAME2,
  "renameat2 flags: RENAME_EXCHANGE swaps two files": RENAME2,
  "renameat2 flags: RENAME_EXCHANGE swaps a file and a directory of different parents, with their link counts":
    RENAME2,
  "renameat2 flags: RENAME_EXCHANGE swaps directories with content, of different parents": RENAME2,
  "renameat2 flags: RENAME_EXCHANGE swaps a symlink with what it points to": RENAME2,
  "renameat2 flags: RENAME_EXCHANGE of two links of one file, and of a name with itself, changes nothing":
    RENAME2,
  "renameat2 flags: RENAME_WHITEOUT is EINVAL, and plain rename works afterwards": RENAME2,
  "readdir: a cookie stays good for a new descriptor, and when its own entry and others are deleted": COOKIE,
  "readdir: a directory is fsynced, also one that was just changed or removed": GONE,
  "names: every single byte but slash is a name": UTF8,
  "names: names that are no valid UTF-8 are kept and told apart": UTF8,
  "large files: beyond 2^53 - 1 bytes is EFBIG, and the file stays as it was": FALLOCATE,
  "open and gone: an unlinked file that is open takes new mode, owner, times and attributes": FALLOCATE,
  "open and gone: O_TMPFILE makes a file without a name, which can be given one": TMPFILE,
  "open and gone: O_TMPFILE that is never linked leaves nothing": TMPFILE,
  "open and gone: O_TMPFILE with O_EXCL cannot be linked": TMPFILE,
  "fallocate: allocating behind the end makes the file longer, with zeros": FALLOCATE,
  "fallocate: allocating inside the file changes no byte and no size": FALLOCATE,
  "fallocate: KEEP_SIZE takes space and leaves the size": FALLOCATE,
  "fallocate: truncate gives allocated space behind the end back": FALLOCATE,
  "fallocate: allocated space is written and read like any other": FALLOCATE,
  "fallocate: PUNCH_HOLE zeroes exactly the range, aligned or not": FALLOCATE,
  "fallocate: PUNCH_HOLE gives space back": FALLOCATE,
  "fallocate: PUNCH_HOLE across and behind the end keeps the size": FALLOCATE,
  "fallocate: PUNCH_HOLE in a hole, and twice, is fine": FALLOCATE,
  "fallocate: what is written into a punched hole is there, and its surroundings are zeros": FALLOCATE,
  "fallocate: ZERO_RANGE zeroes exactly the range, and extends the file": FALLOCATE,
  "fallocate: ZERO_RANGE with KEEP_SIZE leaves the size": FALLOCATE,
  "fallocate: modes that are not offered are EOPNOTSUPP and change nothing": FALLOCATE,
  "fallocate: allocating and punching move mtime and ctime": FALLOCATE,
  "SEEK_HOLE and SEEK_DATA: a file that is one hole has no data": SEEK,
  "SEEK_HOLE and SEEK_DATA: data and holes in turns are told": SEEK,
  "SEEK_HOLE and SEEK_DATA: a punched hole is told, and what is written into it": FALLOCATE,
  "SEEK_HOLE and SEEK_DATA: data past 4 GiB is found": SEEK,
  "copy_file_range: a copied block that is overwritten in part keeps the other part": FALLOCATE,
  "xattr: attribute names are bytes, and case matters": UTF8,
  "ACL: a file without an ACL shows its mode as one, and has no attribute": ACL,
  "ACL: a named user and a named group are kept, and the mode's group bits become the mask": ACL,
  "ACL: chmod changes the mask and not the owning group's entry": ACL,
  "ACL: an ACL that says no more than a mode becomes the mode": ACL,
  "ACL: setfacl -b takes the ACL away and leaves a mode": ACL,
  "ACL: a named group is let in, and the mask limits it": ACL,
  "ACL: the mask does not limit the owner": ACL,
  "ACL: an ACL on a directory decides about search and creation": ACL,
  "ACL: new files inherit the default ACL, and the umask does not count": ACL,
  "ACL: new directories inherit the default ACL as both, and pass it on": ACL,
  "ACL: a default ACL of three entries gives plain modes, without the umask": ACL,
  "ACL: without a default ACL the umask counts, as soon as it is taken away": ACL,
  "ACL: symlinks take no default ACL and files behind O_TMPFILE do": ACL,
  "ACL: an ACL follows rename, shows through links and is carried by cp -a": ACL,
  "ACL: the ACL read back is the ACL that was set, with its own mask": ACL,
  "times: every nanosecond set is kept": MS,
  "times: times before 1970 are kept": NEGATIVE,
  "times: times after 2038, 2106 and 2200 are kept": MS,
  "times: UTIME_NOW and UTIME_OMIT work in every combination": MS,
  "times: utimens on a symlink leaves its target alone": MS,
  "times: cp -p, touch -r and tar keep times to the nanosecond": MS,
};

/** Those that may hold or not: they are not run. */
export const POSIX_RACES: Readonly<Record<string, string>> = {
  "rename: write-to-temporary-and-rename never shows an empty or a missing file":
    "between the kernel's lookup and its open, libfuse forgets the path of a file that is replaced: ENOENT",
};

/** Of test/mount, by the test's name. */
export const MOUNT_EXCEPTIONS: Readonly<Record<string, string>> = {
  "without allow_other nobody else may look, with it the modes decide":
    "allow_other is refused: fuse-native does not tell who makes a file",
  "an idle mount uses no processor, also while it waits to be idle long enough":
    "nobody tells of the mount's end, so it is looked for five times a second",
  "what a program encrypted and renamed is put back in place, and what it made goes by --delete": MS,
  "links, devices, attributes, odd names and times, and a sparse file of 5 GiB": UTF8,
};

/** Of test/mount, whole files. */
export const MOUNT_FILES_LEFT_OUT: Readonly<Record<string, string>> = {
  "hidden.test.ts": "the past inside a mount goes by nodes, which libfuse's paths have no room for: ENOENT",
  "model.test.ts": "it is for both transports as it stands",
  "fusenative.test.ts": "it is for this transport as it stands",
  "library.test.ts": "it mounts nothing",
  "plaintext.test.ts": "it says by itself how it mounts",
};
