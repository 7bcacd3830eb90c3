/** Random operations of every kind, in files of few blocks with few names, so that they meet each other. */
import { type Ino, RENAME_EXCHANGE } from "../../src/core/types.ts";
import type { Volume } from "../../src/core/volume.ts";
import { b, CALLER, errnoOf, noise, ROOT, S_IFDIR, S_IFREG } from "./fixture.ts";
import type { Random } from "./random.ts";

/** Bytes of a block in the volumes that these are for. */
export const BLOCK = 4096;
/** fallocate(2) modes. */
export const PUNCH = 3;
export const ZERO = 0x10;

/** One random operation, described to `step` with what became of it. */
export function operate(random: Random, volume: Volume, step: (text: string) => void): void {
  const { directories, files } = nodes(volume);
  const directory = random.pick(directories);
  const name = b(random.pick(["a", "b", "c", "d", "e"]));
  const file = files.length > 0 ? random.pick(files) : undefined;
  const offset = random.below(8 * BLOCK);
  const length = random.pick([10, BLOCK, random.below(3 * BLOCK) + 1]);
  const attribute = b(`user.${random.pick(["x", "y"])}`);
  const value = random.bytes(random.below(40));
  const onFile: readonly (readonly [string, (ino: Ino) => unknown])[] = [
    ["write", (ino) => volume.files.write(ino, offset, noise(length, random.below(1e6)), false)],
    ["write what shrinks", (ino) => volume.files.write(ino, offset, Buffer.alloc(length, "shrinks"), false)],
    ["truncate", (ino) => volume.attributes.setattr(ino, { size: offset })],
    ["punch", (ino) => volume.files.fallocate(ino, PUNCH, offset, length, false)],
    ["zero", (ino) => volume.files.fallocate(ino, ZERO, offset, length, false)],
    ["allocate", (ino) => volume.files.fallocate(ino, 0, offset, length, false)],
    // So many blocks that the truncation which follows leaves them to the purge.
    ["allocate much", (ino) => volume.files.fallocate(ino, 0, offset, 300 * BLOCK, false)],
    [
      "copy",
      (ino) => {
        const from = (offset % 3) * BLOCK;
        return volume.files.copyFileRange(
          random.pick(files),
          from,
          ino,
          random.below(4) * BLOCK,
          20_000,
          false,
        );
      },
    ],
    ["link", (ino) => volume.tree.link(ino, directory, name)],
    ["chmod", (ino) => volume.attributes.setattr(ino, { mode: random.below(0o10000) })],
    ["set attribute", (ino) => volume.xattrs.set(ino, attribute, value, 0, false)],
    ["remove attribute", (ino) => volume.xattrs.remove(ino, attribute)],
    ["hold", (ino) => volume.inodes.ref(ino)],
    ["let go", (ino) => volume.inodes.unref(ino, 1)],
  ];
  const onName: readonly (readonly [string, () => unknown])[] = [
    ["mknod", () => volume.tree.mknod(directory, name, S_IFREG | 0o644, 0, CALLER)],
    ["mkdir", () => volume.tree.mkdir(directory, name, 0o755, CALLER)],
    ["symlink", () => volume.tree.symlink(directory, name, value.length > 0 ? value : b("t"), CALLER)],
    ["unlink", () => volume.tree.unlink(directory, name)],
    ["rmdir", () => volume.tree.rmdir(directory, name)],
    [
      "rename",
      () =>
        volume.tree.rename(
          directory,
          name,
          random.pick(directories),
          b(random.pick(["a", "b", "c"])),
          random.pick([0, 0, RENAME_EXCHANGE]),
        ),
    ],
  ];
  if (file !== undefined && random.chance(0.6)) {
    const [text, run] = random.pick(onFile);
    step(`${text} ${file} ${offset}+${length}: ${errnoOf(() => run(file))}`);
  } else {
    const [text, run] = random.pick(onName);
    step(`${text} ${directory}/${name}: ${errnoOf(run)}`);
  }
}

/** All directories and regular files, by inode. */
function nodes(volume: Volume): { directories: Ino[]; files: Ino[] } {
  const directories: Ino[] = [ROOT];
  const files: Ino[] = [];
  for (const directory of directories)
    volume.tree.readdir(directory, 0, ({ ino, type }) => {
      if (type === S_IFDIR) directories.push(ino);
      else if (type === S_IFREG) files.push(ino);
      return true;
    });
  return { directories, files };
}
