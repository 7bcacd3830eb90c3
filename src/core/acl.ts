/**
 * POSIX ACLs as the kernel stores them in xattrs: decoding, and the three rules that a
 * filesystem must apply itself: an ACL and st_mode agree, chmod reaches the mask, and a
 * default ACL is inherited. The kernel does the checking of access. Pure.
 *
 * Layout: version (u32, 2), then entries of tag (u16), permissions (u16), id (u32), little-endian.
 */
import { FsError } from "../base/errno.ts";

export const ACL_ACCESS = Buffer.from("system.posix_acl_access");
export const ACL_DEFAULT = Buffer.from("system.posix_acl_default");

const VERSION = 2;
const HEADER_BYTES = 4;
const ENTRY_BYTES = 8;
const UNDEFINED_ID = 0xffff_ffff;

const USER_OBJ = 0x01;
const USER = 0x02;
const GROUP_OBJ = 0x04;
const GROUP = 0x08;
const MASK = 0x10;
const OTHER = 0x20;

export interface AclEntry {
  readonly tag: number;
  /** rwx, 0..7. */
  perm: number;
  /** uid or gid of USER and GROUP entries. */
  readonly id: number;
}

/** The entries of an ACL; none for an empty value. @throws FsError EINVAL, EOPNOTSUPP (version) */
export function decodeAcl(value: Uint8Array): AclEntry[] {
  if (value.length === 0) return [];
  const view = new DataView(value.buffer, value.byteOffset, value.byteLength);
  if (value.length < HEADER_BYTES || (value.length - HEADER_BYTES) % ENTRY_BYTES !== 0)
    throw new FsError("EINVAL");
  if (view.getUint32(0, true) !== VERSION) throw new FsError("EOPNOTSUPP");
  const entries: AclEntry[] = [];
  for (let at = HEADER_BYTES; at < value.length; at += ENTRY_BYTES) {
    entries.push({
      tag: view.getUint16(at, true),
      perm: view.getUint16(at + 2, true),
      id: view.getUint32(at + 4, true),
    });
  }
  if (entries.length > 0) checkEntries(entries);
  return entries;
}

/** As posix_acl_valid: the three base entries once each, in order of tags, and a mask where ids are named. */
function checkEntries(entries: readonly AclEntry[]): void {
  const count = (tag: number) => entries.filter((entry) => entry.tag === tag).length;
  const known = USER_OBJ | USER | GROUP_OBJ | GROUP | MASK | OTHER;
  const named = count(USER) + count(GROUP) > 0;
  const whole =
    count(USER_OBJ) === 1 &&
    count(GROUP_OBJ) === 1 &&
    count(OTHER) === 1 &&
    count(MASK) <= 1 &&
    (!named || count(MASK) === 1) &&
    entries.every(
      ({ tag, perm }) => perm <= 7 && (tag & (tag - 1)) === 0 && tag !== 0 && (tag & ~known) === 0,
    ) &&
    entries.every(({ tag }, i) => i === 0 || (entries[i - 1]?.tag ?? 0) <= tag);
  if (!whole) throw new FsError("EINVAL");
}

export function encodeAcl(entries: readonly AclEntry[]): Uint8Array {
  const value = new Uint8Array(HEADER_BYTES + entries.length * ENTRY_BYTES);
  const view = new DataView(value.buffer);
  view.setUint32(0, VERSION, true);
  for (const [i, { tag, perm, id }] of entries.entries()) {
    const at = HEADER_BYTES + i * ENTRY_BYTES;
    view.setUint16(at, tag, true);
    view.setUint16(at + 2, perm, true);
    view.setUint32(at + 4, tag === USER || tag === GROUP ? id : UNDEFINED_ID, true);
  }
  return value;
}

/** Whether st_mode alone says all that the ACL does: it needs no storing. */
export function isMinimal(entries: readonly AclEntry[]): boolean {
  return entries.every(({ tag }) => tag === USER_OBJ || tag === GROUP_OBJ || tag === OTHER);
}

/** The 0777 bits that an access ACL shows as st_mode. */
export function modeOf(entries: readonly AclEntry[]): number {
  const perm = (tag: number) => entries.find((entry) => entry.tag === tag)?.perm;
  return ((perm(USER_OBJ) ?? 0) << 6) | ((perm(MASK) ?? perm(GROUP_OBJ) ?? 0) << 3) | (perm(OTHER) ?? 0);
}

/** Makes an access ACL say what chmod said: the group bits are the mask's where there is one. */
export function applyMode(entries: readonly AclEntry[], mode: number): void {
  const masked = entries.some(({ tag }) => tag === MASK);
  for (const entry of entries) {
    if (entry.tag === USER_OBJ) entry.perm = (mode >> 6) & 7;
    else if (entry.tag === (masked ? MASK : GROUP_OBJ)) entry.perm = (mode >> 3) & 7;
    else if (entry.tag === OTHER) entry.perm = mode & 7;
  }
}

/**
 * What a new file gets of its directory's default ACL: an access ACL limited by the mode that
 * was asked for, whose `modeOf` is the file's. The umask does not apply.
 */
export function inherit(defaults: readonly AclEntry[], mode: number): AclEntry[] {
  const entries = defaults.map((entry) => ({ ...entry }));
  applyMode(entries, modeOf(defaults) & mode);
  return entries;
}
