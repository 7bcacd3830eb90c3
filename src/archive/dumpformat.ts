/**
 * The dump format, version 1: a volume as text that is complete, stable and diffable.
 *
 * Two volumes that show the same (names, contents, attributes, times, holes) have the same dump, whatever their
 * passwords, page sizes, inode numbers, replicas and histories are.
 *
 * Lines end in a newline. A record is one line, a word and then fields `key=value` in the order given here, with one
 * space between. In values every byte that does not print in UTF-8, the space and the backslash are `\xHH`
 * (src/archive/escape.ts): a text of any bytes, and none has a space.
 *
 *   sqlfuse-dump 1                                   the first line: what this is, and its version
 *   volume block_size=65536 content=yes              of files made from now on; content=no: without contents (--no-data)
 *   inode path=/a type=file mode=0644 uid=0 gid=0 size=5 block_size=65536 mtime=T ctime=T btime=T atime=T
 *     type is file, dir, symlink, fifo, socket, char or block.
 *     size and block_size only of a file; target=... of a symlink, rdev=MAJOR:MINOR of a device, in their place.
 *     Times are decimal seconds since 1970 with nine decimals.
 *   xattr name=user.a value=b                        of the inode before, by name; POSIX ACLs are among them
 *   extent offset=0 length=5 sha256=...              of the inode before, by offset: one stored block. `length`: its
 *     bytes without the zeros at its end, and sha256 is theirs. They follow in base64, in lines of a space and up to
 *     76 characters: `grep -v '^ '` leaves the same records that --no-data writes.
 *   reserved offset=65536 length=65536               blocks that fallocate reserved and nobody wrote
 *     What no extent and no reserved covers is a hole.
 *   link path=/b to=/a                               a further name of the inode that was first named /a
 *   end inodes=2 links=1                             the last line: a dump without it was cut off
 *
 * The root directory comes first, with path=/ ; a directory comes before what is in it, entries in the order of the
 * bytes of their names.
 */
import { S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG, S_IFSOCK } from "../core/mode.ts";

export const FIRST_LINE = "sqlfuse-dump 1";
/** What every version begins with. */
export const MAGIC = "sqlfuse-dump ";
/** Characters of base64 in a line. */
export const BASE64_COLUMNS = 76;

export const TYPES = {
  file: S_IFREG,
  dir: S_IFDIR,
  symlink: S_IFLNK,
  fifo: S_IFIFO,
  socket: S_IFSOCK,
  char: S_IFCHR,
  block: S_IFBLK,
} as const;

export type TypeName = keyof typeof TYPES;

const NAMES = new Map<number, TypeName>(
  Object.entries(TYPES).map(([name, type]) => [type, name as TypeName]),
);

/** The name of S_IFMT bits. */
export function typeName(type: number): TypeName {
  const name = NAMES.get(type);
  if (name === undefined) throw new Error(`no type of file: ${type.toString(8)}`);
  return name;
}
