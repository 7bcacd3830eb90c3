/**
 * Requests as the kernel sends them, at least one for each operation of the protocol's table, about a small volume in
 * which most of them succeed; and how they are mutated.
 */
import fc from "fast-check";
import { type Ino, ROOT_INO } from "../../src/core/types.ts";
import type { Volume } from "../../src/core/volume.ts";
import { InHeader, SetxattrIn } from "../../src/fuse/kernel.ts";
import type { Field, Layout } from "../../src/fuse/layout.ts";
import { OPERATIONS, PROTOCOL } from "../../src/fuse/protocol.ts";
import { b, mkdir, noise, put, touch } from "../core/fixture.ts";
import { frame, INIT } from "../fuse/frames.ts";

/** The inodes that requests are about. */
interface World {
  readonly dir: Ino;
  readonly file: Ino;
  /** Of several blocks, compressed and not, and a hole. */
  readonly big: Ino;
  readonly link: Ino;
}

/** Fills a new volume: each one that is filled has the same inodes. */
export function populate(volume: Volume): World {
  const dir = mkdir(volume, ROOT_INO, "dir");
  const file = put(volume, dir, "file", "some text");
  const big = put(volume, ROOT_INO, "big", noise(200_000));
  volume.files.write(big, 300_000, Buffer.alloc(200_000, "text that shrinks "), false);
  const link = volume.tree.symlink(dir, b("link"), b("target"), { uid: 0, gid: 0, umask: 0 }).ino;
  volume.xattrs.set(file, b("user.x"), b("value"), 0, false);
  for (let i = 0; i < 40; i++) touch(volume, dir, `name ${i}`);
  volume.commit();
  return { dir, file, big, link };
}

type Name = keyof typeof PROTOCOL;

/** A request whose fixed part has these fields, zeros else, and then these bytes. */
function request(
  name: Name,
  nodeid: number,
  fields: Readonly<Record<string, number>> = {},
  tail: string | Uint8Array = "",
  layout: Layout = PROTOCOL[name].in,
): Buffer {
  const fixed = Buffer.alloc(layout.size);
  for (const [field, value] of Object.entries(fields)) {
    const type = layout.fields[field];
    const at = layout.at[field];
    if (type === undefined || at === undefined) throw new Error(`${layout.name} has no ${field}`);
    store(fixed, at, type, BigInt(value));
  }
  return frame(PROTOCOL[name].code, Buffer.concat([fixed, Buffer.from(tail)]), nodeid);
}

/** Puts the low bits of `value` where a field is. */
function store(bytes: Buffer, at: number, type: Field, value: bigint): void {
  if (type === "u64" || type === "i64") bytes.writeBigUInt64LE(BigInt.asUintN(64, value), at);
  else if (type === "u16") bytes.writeUInt16LE(Number(BigInt.asUintN(16, value)), at);
  else bytes.writeUInt32LE(Number(BigInt.asUintN(32, value)), at);
}

const MODE = 0o644;
const REGULAR = 0o100000 | MODE;

export function corpus({ dir, file, big, link }: World): readonly Buffer[] {
  const acl = Buffer.from("0200000001000600ffffffff04000400ffffffff20000400ffffffff", "hex");
  const setxattr = (name: string, value: Uint8Array): Buffer =>
    request("SETXATTR", file, { size: value.length }, Buffer.concat([b(`${name}\0`), value]), SetxattrIn);
  return [
    INIT,
    request("LOOKUP", ROOT_INO, {}, "dir\0"),
    request("LOOKUP", dir, {}, "no such name\0"),
    request("FORGET", file, { nlookup: 1 }),
    request("GETATTR", file),
    request("SETATTR", file, { valid: 0b1_1101_1111, size: 100_000, mode: MODE, atime: 7, mtimensec: 9 }),
    request("SETATTR", big, { valid: 0b1000, size: 350_001 }),
    request("READLINK", link),
    request("SYMLINK", dir, {}, "new link\0where it leads\0"),
    request("MKNOD", dir, { mode: REGULAR, umask: 0o022 }, "new\0"),
    request("MKNOD", dir, { mode: 0o020600, rdev: 0x103 }, "device\0"),
    request("MKDIR", dir, { mode: 0o755, umask: 0o022 }, "newdir\0"),
    request("UNLINK", dir, {}, "name 7\0"),
    request("UNLINK", ROOT_INO, {}, "big\0"),
    request("RMDIR", dir, {}, "newdir\0"),
    request("RENAME", dir, { newdir: ROOT_INO }, "file\0moved\0"),
    request("RENAME2", dir, { newdir: dir, flags: 2 }, "name 1\0name 2\0"),
    request("LINK", dir, { oldnodeid: file }, "another\0"),
    request("OPEN", file, { flags: 0x8002 }),
    request("READ", file, { size: 4096 }),
    request("READ", big, { offset: 65_536, size: 131_072 }),
    request("WRITE", file, { offset: 3, size: 11 }, "is written."),
    request("WRITE", big, { offset: 190_000, size: 20_000, write_flags: 4 }, noise(20_000)),
    request("STATFS", ROOT_INO),
    request("RELEASE", file),
    request("FSYNC", file),
    setxattr("user.y", b("another value")),
    setxattr("system.posix_acl_access", acl),
    setxattr("user.sqlfuse.compression", b("none")),
    request("GETXATTR", file, { size: 100 }, "user.x\0"),
    request("GETXATTR", file, {}, "system.posix_acl_access\0"),
    request("LISTXATTR", file, { size: 100 }),
    request("REMOVEXATTR", file, {}, "user.x\0"),
    request("FLUSH", file),
    request("OPENDIR", dir),
    request("READDIR", dir, { size: 4096 }),
    request("READDIRPLUS", dir, { offset: 5, size: 4096 }),
    request("RELEASEDIR", dir),
    request("FSYNCDIR", dir),
    ...(["GETLK", "SETLK", "SETLKW", "BMAP", "POLL"] as const).map((name) => request(name, file)),
    request("ACCESS", file, { mask: 1 }),
    request("CREATE", dir, { mode: REGULAR }, "created\0"),
    request("INTERRUPT", 0, { unique: 2 }),
    request("DESTROY", 0),
    request("IOCTL", file, { cmd: 0x5401, in_size: 4 }, "\0\0\0\0"),
    request("NOTIFY_REPLY", file, {}, "data"),
    request("BATCH_FORGET", 0, { count: 2 }, Buffer.alloc(32, 1)),
    request("FALLOCATE", file, { offset: 5000, length: 100_000 }),
    request("FALLOCATE", big, { mode: 3, offset: 60_000, length: 90_000 }),
    request("LSEEK", big, { offset: 1000, whence: 4 }),
    request("COPY_FILE_RANGE", big, { nodeid_out: file, len: 150_000, off_out: 10 }),
    request("COPY_FILE_RANGE_64", big, { nodeid_out: big, off_in: 10, off_out: 300_000, len: 70_000 }),
    request("SETUPMAPPING", file),
    request("REMOVEMAPPING", file),
    request("SYNCFS", ROOT_INO),
    request("TMPFILE", dir, { mode: REGULAR }, "\0"),
    request("STATX", file, { sx_mask: 0xfff }),
  ];
}

/** One step from a request to one that the kernel never sends. Small numbers are the harmless ones: failures shrink to them. */
type Mutation =
  /** A field of the header or of the fixed part, whichever is `which`-th. */
  | { readonly kind: "field"; readonly which: number; readonly value: bigint }
  | { readonly kind: "flip"; readonly at: number; readonly bit: number }
  /** Takes bytes from the end; `honest`: the header tells the new length. */
  | { readonly kind: "cut"; readonly bytes: number; readonly honest: boolean }
  | { readonly kind: "grow"; readonly bytes: Uint8Array; readonly honest: boolean }
  | { readonly kind: "opcode"; readonly opcode: number }
  /** The end of another request of the corpus. */
  | { readonly kind: "splice"; readonly other: number; readonly at: number };

/** A request of the corpus, by number, and what is done to it. */
export interface Mutated {
  readonly base: number;
  readonly mutations: readonly Mutation[];
}

const POWER = fc.tuple(fc.integer({ min: 0, max: 64 }), fc.integer({ min: -2, max: 2 }));
/** Inodes and small sizes, what lies around powers of two, and anything. */
const VALUE = fc.oneof(
  { weight: 4, arbitrary: fc.bigInt({ min: 0n, max: 60n }) },
  { weight: 4, arbitrary: POWER.map(([bit, off]) => BigInt.asUintN(64, (1n << BigInt(bit)) + BigInt(off))) },
  { weight: 1, arbitrary: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }) },
);
const MUTATION: fc.Arbitrary<Mutation> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({ kind: fc.constant("field" as const), which: fc.nat(30), value: VALUE }),
  },
  {
    weight: 3,
    arbitrary: fc.record({ kind: fc.constant("flip" as const), at: fc.nat(200), bit: fc.nat(7) }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ kind: fc.constant("cut" as const), bytes: fc.nat(60), honest: fc.boolean() }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant("grow" as const),
      bytes: fc.uint8Array({ maxLength: 300 }),
      honest: fc.boolean(),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ kind: fc.constant("opcode" as const), opcode: fc.nat(OPERATIONS.length + 5) }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ kind: fc.constant("splice" as const), other: fc.nat(100), at: fc.nat(100) }),
  },
);

/** Conversations of so many requests; one in four is as the kernel sends it, so that the volume gets somewhere. */
export function conversations(maxLength: number): fc.Arbitrary<Mutated[]> {
  const mutations = fc.oneof(
    { weight: 1, arbitrary: fc.constant<Mutation[]>([]) },
    { weight: 3, arbitrary: fc.array(MUTATION, { minLength: 1, maxLength: 4 }) },
  );
  // Without this the arrays of a run are mostly short.
  return fc.array(fc.record({ base: fc.nat(200), mutations }), {
    minLength: 1,
    maxLength,
    size: "max",
  });
}

function mutate(bytes: Buffer, mutation: Mutation, seeds: readonly Buffer[]): Buffer {
  switch (mutation.kind) {
    case "field":
      return overwrite(bytes, mutation.which, mutation.value);
    case "flip": {
      const at = mutation.at % Math.max(1, bytes.length);
      if (at < bytes.length) bytes[at] = (bytes[at] as number) ^ (1 << mutation.bit);
      return bytes;
    }
    case "cut":
      return resized(bytes.subarray(0, Math.max(0, bytes.length - mutation.bytes)), mutation.honest);
    case "grow":
      return resized(Buffer.concat([bytes, mutation.bytes]), mutation.honest);
    case "opcode":
      if (bytes.length >= InHeader.size) bytes.writeUInt32LE(mutation.opcode, InHeader.at.opcode);
      return bytes;
    case "splice": {
      const other = seeds[mutation.other % seeds.length] as Buffer;
      const at = InHeader.size + mutation.at;
      return resized(Buffer.concat([bytes.subarray(0, at), other.subarray(at)]), true);
    }
  }
}

function resized(bytes: Buffer, honest: boolean): Buffer {
  const copy = Buffer.from(bytes);
  if (honest && copy.length >= 4) copy.writeUInt32LE(copy.length, 0);
  return copy;
}

/** Writes over the `which`-th field that is there, in the order of the header and then the fixed part. */
function overwrite(bytes: Buffer, which: number, value: bigint): Buffer {
  if (bytes.length < InHeader.size) return bytes;
  const body = OPERATIONS[bytes.readUInt32LE(InHeader.at.opcode)]?.in;
  const places: [at: number, type: Field][] = [];
  for (const [layout, base] of [[InHeader, 0] as const, ...(body ? [[body, InHeader.size] as const] : [])]) {
    for (const [name, type] of Object.entries(layout.fields) as [string, Field][]) {
      const at = base + ((layout.at as Readonly<Record<string, number>>)[name] as number);
      const size = type === "u64" || type === "i64" ? 8 : type === "u16" ? 2 : 4;
      if (at + size <= bytes.length) places.push([at, type]);
    }
  }
  const [at, type] = places[which % places.length] as [number, Field];
  store(bytes, at, type, value);
  return bytes;
}

/** The bytes of a mutated request. */
export function spell({ base, mutations }: Mutated, seeds: readonly Buffer[]): Buffer {
  let bytes: Buffer = Buffer.from(seeds[base % seeds.length] as Buffer);
  for (const mutation of mutations) bytes = mutate(bytes, mutation, seeds);
  return bytes;
}
