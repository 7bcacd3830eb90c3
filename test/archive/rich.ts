/** Volumes with everything that a volume can hold, and what tests do with them: dump, load, compare. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Readable } from "node:stream";
import { loadDump, readDumpHeader } from "../../src/archive/dumpreader.ts";
import { dumpText } from "../../src/archive/dumpwriter.ts";
import { Source } from "../../src/archive/source.ts";
import { tarArchive } from "../../src/archive/tarwriter.ts";
import { deviceOf } from "../../src/core/mode.ts";
import { FALLOC_FL_KEEP_SIZE, type Ino } from "../../src/core/types.ts";
import type { Volume } from "../../src/core/volume.ts";
import {
  b,
  Fixture,
  noise,
  OPEN_CALLER,
  put,
  ROOT,
  S_IFBLK,
  S_IFCHR,
  S_IFIFO,
  S_IFREG,
  S_IFSOCK,
} from "../core/fixture.ts";
import type { Random } from "../core/random.ts";

export interface RichOptions {
  /** Only what other filesystems hold too: no attributes of 64 KiB, no sockets, sizes up to 1 TiB. */
  readonly portable: boolean;
}

/** An access ACL: rwx for the owner, r-x for user 12345, a mask of r-x. */
const ACL = Buffer.from(
  [
    "02000000",
    "01000700ffffffff",
    "0200050039300000",
    "04000500ffffffff",
    "0800070031d40000",
    "10000500ffffffff",
    "20000000ffffffff",
  ].join(""),
  "hex",
);

function setTimes(volume: Volume, ino: Ino, mtime: [number, number], atime: [number, number]): void {
  volume.attributes.setattr(ino, {
    mtime: { sec: mtime[0], nsec: mtime[1] },
    atime: { sec: atime[0], nsec: atime[1] },
  });
}

/** Fills a volume with everything. */
export function fillRich(volume: Volume, { portable }: RichOptions): void {
  const { tree, files, xattrs, attributes } = volume;
  const bs = volume.blockSize;
  const dir = (parent: Ino, name: Buffer, mode = 0o755): Ino =>
    tree.mkdir(parent, name, mode, OPEN_CALLER).ino;
  const file = (parent: Ino, name: string, content: Uint8Array | string): Ino =>
    put(volume, parent, name, content);

  // Names of every byte, and such that break what does not escape.
  const names = dir(ROOT, b("names"));
  for (let byte = 1; byte < 256; byte++) {
    if (byte === 0x2f) continue;
    const name = Buffer.from([0x6e, byte]);
    const { ino } = tree.mknod(names, name, S_IFREG | 0o644, 0, OPEN_CALLER);
    if (byte % 16 === 0) files.write(ino, 0, name, false);
  }
  for (const name of [
    Buffer.alloc(255, 0xff),
    Buffer.alloc(255, 0x61),
    b("-rf"),
    b(" lead and trail "),
    b("new\nline"),
    b("back\\slash\\x41"),
    b("Grüße/".slice(0, -1)),
    b("日本語"),
    b("\u202egnp.exe"),
    b("..."),
    b("a=b"),
    b("quo\"te'"),
    b("*?[x]"),
  ]) {
    tree.mknod(names, name, S_IFREG | 0o600, 0, OPEN_CALLER);
  }
  // Paths that fit no header of tar, with bytes that are not UTF-8 as well.
  let deep = dir(ROOT, b("deep"));
  for (let i = 0; i < 6; i++)
    deep = dir(deep, Buffer.from(`${"d".repeat(60)}\xe9${i}`, i % 2 ? "latin1" : "utf8"));
  const deepFile = file(deep, "file", "at the bottom");
  tree.link(deepFile, deep, b("second"));
  tree.symlink(deep, b("up"), b("../../x"), OPEN_CALLER);

  // Contents: lengths around a block, holes everywhere.
  const content = dir(ROOT, b("content"));
  for (const length of [0, 1, 511, 512, 513, bs - 1, bs, bs + 1, 3 * bs + 7]) {
    file(content, `length-${length}`, noise(length, length + 1));
  }
  file(content, "zeros", Buffer.alloc(bs + 100));
  const holes = file(content, "holes", "");
  files.write(holes, 2 * bs + 5, noise(100), false);
  files.write(holes, 5 * bs, noise(2 * bs), false);
  attributes.setattr(holes, { size: 9 * bs + 1 });
  const onlyHole = file(content, "only-hole", "");
  attributes.setattr(onlyHole, { size: 12_345_678 });
  const large = file(content, "large", "");
  files.write(large, (portable ? 2 ** 40 : 2 ** 53 - 1) - 10, noise(10), false);
  const ended = file(content, "ends-in-zeros", Buffer.concat([noise(1000), Buffer.alloc(5000)]));
  files.fallocate(ended, FALLOC_FL_KEEP_SIZE, 0, 4 * bs, false);
  const reserved = file(content, "reserved", "");
  files.fallocate(reserved, 0, 0, 3 * bs, false);
  files.write(reserved, bs, noise(10), false);
  const copied = file(content, "shared", "");
  const source = tree.lookup(content, b(`length-${3 * bs + 7}`));
  if (source !== undefined) files.copyFileRange(source.ino, 0, copied, 0, source.size, false);

  // Hard links, of files and of what is no file, across directories.
  const links = dir(ROOT, b("links"));
  const linked = file(links, "z-first-made", "linked");
  tree.link(linked, links, b("a-first-by-name"));
  tree.link(linked, content, b("elsewhere"));
  const symlink = tree.symlink(links, b("symlink"), b("a-first-by-name"), OPEN_CALLER);
  tree.link(symlink.ino, links, b("symlink-again"));

  // Types.
  const special = dir(ROOT, b("special"));
  tree.symlink(special, b("long"), Buffer.alloc(4000, 0x78), OPEN_CALLER);
  tree.symlink(special, b("bytes"), Buffer.from([1, 0x2f, 0xff, 0x0a, 0x20]), OPEN_CALLER);
  tree.symlink(special, b("dangling"), b("/nowhere/at all"), OPEN_CALLER);
  tree.mknod(special, b("fifo"), S_IFIFO | 0o640, 0, OPEN_CALLER);
  if (!portable) tree.mknod(special, b("socket"), S_IFSOCK | 0o777, 0, OPEN_CALLER);
  tree.mknod(special, b("null"), S_IFCHR | 0o666, deviceOf(1, 3) ?? 0, OPEN_CALLER);
  tree.mknod(special, b("disk"), S_IFBLK | 0o660, deviceOf(259, 70_000) ?? 0, OPEN_CALLER);
  const fifo = tree.lookup(special, b("fifo"));
  if (fifo !== undefined) tree.link(fifo.ino, special, b("fifo-again"));

  // Attributes and ACLs.
  const attributed = file(ROOT, "attributed", "x");
  for (const [name, value] of [
    ["user.empty", ""],
    ["user.text", "some text with = and % and\nnewline"],
    ["user.a=b%c", "odd name"],
    ["user.gr\u00fc\u00dfe", "\u00e4"],
  ] as const) {
    xattrs.set(attributed, b(name), b(value), 0, false);
  }
  xattrs.set(attributed, b("user.bytes"), Buffer.from([...Array(256).keys()]), 0, false);
  xattrs.set(attributed, b("trusted.t"), b("t"), 0, false);
  if (!portable) xattrs.set(attributed, b("user.large"), noise(65_536), 0, false);
  const shared = dir(ROOT, b("shared"), 0o2770);
  xattrs.set(shared, b("system.posix_acl_default"), ACL, 0, false);
  xattrs.set(shared, b("system.posix_acl_access"), ACL, 0, false);
  file(shared, "inherits", "acl");
  dir(shared, b("inherits-too"));
  xattrs.set(shared, b("user.d"), b("of a directory"), 0, false);

  // Modes, owners, times.
  const modes = dir(ROOT, b("modes"), 0o1777);
  for (const mode of [0, 0o4755, 0o2755, 0o6711, 0o1644, 0o7777]) {
    const ino = file(modes, `mode-${mode.toString(8)}`, "m");
    attributes.setattr(ino, { uid: 4_000_000_000, gid: 2_097_152 });
    attributes.setattr(ino, { mode });
  }
  const times = dir(ROOT, b("times"));
  for (const [i, time] of (
    [
      [0, 0],
      [0, 1],
      [-1, 500_000_000],
      [-1, 0],
      [-2, 999_999_999],
      [-86_400, 1],
      [1_700_000_000, 123_456_789],
      [4_102_444_800, 999_999_999],
      [8_589_934_592, 1],
    ] as const
  ).entries()) {
    setTimes(volume, file(times, `time-${i}`, "t"), [...time], [time[0] + 1, time[1]]);
  }
  setTimes(volume, times, [-1_000_000, 7], [1, 2]);
  setTimes(volume, ROOT, [1_234_567_890, 1], [1_234_567_891, 2]);
  attributes.setattr(ROOT, { mode: 0o751 });
  xattrs.set(ROOT, b("user.root"), b("the root"), 0, false);
}

/** What is unlinked but in use belongs to no dump; give its reference back in the end. */
export function addOrphan(volume: Volume): Ino {
  const orphan = put(volume, ROOT, "gone", "still read by somebody");
  volume.inodes.ref(orphan);
  volume.tree.unlink(ROOT, b("gone"));
  return orphan;
}

/** Random trees: any names, contents with holes, links, attributes, times. */
export function fillRandom(volume: Volume, random: Random, steps: number): void {
  const directories: Ino[] = [ROOT];
  const others: Ino[] = [];
  const name = (): Buffer => {
    const bytes = random.bytes(random.between(1, random.chance(0.1) ? 255 : 6));
    for (const [i, byte] of bytes.entries()) if (byte === 0 || byte === 0x2f) bytes[i] = 0x80 | (i & 0x3f);
    return bytes;
  };
  const time = () => ({
    sec: random.between(-3_000_000_000, 6_000_000_000),
    nsec: random.below(1_000_000_000),
  });
  for (let i = 0; i < steps; i++) {
    const parent = random.pick(directories);
    const free = name();
    if (free.equals(b(".")) || free.equals(b("..")) || volume.tree.lookup(parent, free) !== undefined)
      continue;
    const kind = random.below(10);
    let ino: Ino;
    if (kind < 2) {
      ino = volume.tree.mkdir(parent, free, random.below(0o10000), OPEN_CALLER).ino;
      directories.push(ino);
    } else if (kind < 3) {
      const target = random.bytes(random.between(1, 30)).map((byte) => byte || 1);
      ino = volume.tree.symlink(parent, free, target, OPEN_CALLER).ino;
      others.push(ino);
    } else if (kind < 4) {
      const type = random.pick([S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK]);
      ino = volume.tree.mknod(
        parent,
        free,
        type | random.below(0o10000),
        random.below(2 ** 20),
        OPEN_CALLER,
      ).ino;
      others.push(ino);
    } else if (kind < 5 && others.length > 0) {
      ino = random.pick(others);
      volume.tree.link(ino, parent, free);
    } else {
      ino = volume.tree.mknod(parent, free, S_IFREG | random.below(0o10000), 0, OPEN_CALLER).ino;
      others.push(ino);
      for (let n = random.below(4); n > 0; n--) {
        const at = random.below(8 * volume.blockSize);
        volume.files.write(
          ino,
          at,
          noise(random.between(1, 2 * volume.blockSize), random.below(1000)),
          false,
        );
        const cut = random.below(12 * volume.blockSize);
        if (random.chance(0.3)) volume.attributes.setattr(ino, { size: cut });
        if (random.chance(0.3))
          volume.files.fallocate(ino, random.pick([0, 1, 3, 16, 17]), at, 1 + cut, false);
      }
    }
    const isLink = (volume.attributes.getattr(ino).mode & 0o170000) === 0o120000;
    if (random.chance(0.3)) {
      const key = Buffer.concat([b(isLink ? "trusted." : "user."), random.bytes(5).map((byte) => byte || 1)]);
      volume.xattrs.set(ino, key, random.bytes(random.below(50)), 0, false);
    }
    if (random.chance(0.5)) {
      volume.attributes.setattr(ino, { uid: random.below(2 ** 32 - 1), gid: random.below(2 ** 32 - 1) });
      volume.attributes.setattr(ino, { mtime: time(), atime: time(), ctime: time() });
    }
  }
}

export function textOf(volume: Volume, content = true): string {
  const root = volume.attributes.getattr(ROOT);
  return Buffer.concat([...dumpText(volume, root, { content })]).toString("latin1");
}

export function archiveOf(volume: Volume, skipped: string[] = []): Buffer {
  const root = volume.attributes.getattr(ROOT);
  // Pieces of file data share a buffer, so each is copied before the next is asked for.
  const pieces: Buffer[] = [];
  for (const piece of tarArchive(volume, root, { onSkip: (path) => skipped.push(path) }))
    pieces.push(Buffer.from(piece));
  return Buffer.concat(pieces);
}

/** A stream that comes in pieces of odd lengths. */
export function sourceOf(bytes: Buffer | string, piece = 7919): Source {
  const all = typeof bytes === "string" ? Buffer.from(bytes, "latin1") : bytes;
  function* pieces(): Generator<Buffer> {
    for (let at = 0; at < all.length; at += piece) yield all.subarray(at, at + piece);
  }
  return new Source(Readable.from(pieces()));
}

export async function loadText(volume: Volume, text: string): Promise<void> {
  const source = sourceOf(text);
  await readDumpHeader(source);
  await loadDump(volume, source);
}

/** Runs a test with fresh volumes and demands that each is whole in the end. */
// (atime stays: a dump reads a snapshot, these volumes are open for writing)
export async function withVolumes(count: number, run: (...fixtures: Fixture[]) => unknown): Promise<void> {
  const fixtures = Array.from({ length: count }, () => new Fixture({ volume: { noatime: true } }));
  try {
    await run(...fixtures);
    for (const fixture of fixtures) fixture.finish();
  } finally {
    for (const fixture of fixtures) fixture.remove();
  }
}

export async function inDirectory(run: (directory: string) => unknown): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), "archive-"));
  try {
    await run(directory);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}
