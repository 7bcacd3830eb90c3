/** Operations of a workload done on a volume, and what a volume or a mount holds, as a tree to compare. */
import assert from "node:assert/strict";
import { lstatSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { S_IFDIR, S_IFLNK, S_IFMT } from "../../src/core/mode.ts";
import { type Attr, type Caller, RENAME_EXCHANGE, ROOT_INO } from "../../src/core/types.ts";
import type { Volume } from "../../src/core/volume.ts";
import { sys } from "../helpers/libc.ts";
import { dataOf, type Node, node, type Operation, parentOf, STORE_BYTES, Tree } from "./survivor.ts";

const CALLER: Caller = { uid: 0, gid: 0, umask: 0o022 };

export function attrOf(volume: Volume, path: string): Attr {
  let attr = volume.attributes.getattr(ROOT_INO);
  for (const name of path.split("/").filter((part) => part !== "")) {
    const found = volume.tree.lookup(attr.ino, Buffer.from(name));
    assert.ok(found !== undefined, `${path} is in the volume`);
    attr = found;
  }
  return attr;
}

/** Does one operation on a volume; "map" as the requests that the kernel makes of it. */
export function perform(volume: Volume, operation: Operation): void {
  if (operation.do === "sync") {
    volume.commit();
    return;
  }
  if (operation.do === "rest") {
    while (Number.isFinite(volume.idle(performance.now() + 60_000))) {}
    return;
  }
  const { tree, files } = volume;
  const place = (path: string) =>
    [attrOf(volume, parentOf(path)).ino, Buffer.from(path.slice(path.lastIndexOf("/") + 1))] as const;
  const ino = () => attrOf(volume, operation.path).ino;
  switch (operation.do) {
    case "create":
      tree.mknod(...place(operation.path), 0o100644, 0, CALLER);
      break;
    case "mkdir":
      tree.mkdir(...place(operation.path), 0o755, CALLER);
      break;
    case "symlink":
      tree.symlink(...place(operation.path), Buffer.from(operation.target), CALLER);
      break;
    case "unlink":
      tree.unlink(...place(operation.path));
      break;
    case "rmdir":
      tree.rmdir(...place(operation.path));
      break;
    case "link":
      tree.link(ino(), ...place(operation.to));
      break;
    case "rename":
      tree.rename(...place(operation.path), ...place(operation.to), 0);
      break;
    case "exchange":
      tree.rename(...place(operation.path), ...place(operation.to), RENAME_EXCHANGE);
      break;
    case "write":
      files.write(ino(), operation.at, dataOf(operation), true);
      break;
    case "append":
      files.write(ino(), attrOf(volume, operation.path).size, dataOf(operation), true);
      break;
    case "fallocate":
      files.fallocate(ino(), operation.mode, operation.at, operation.length, true);
      break;
    case "truncate":
      volume.attributes.setattr(ino(), { size: operation.size, killSuidgid: true });
      break;
    case "setxattr":
      volume.xattrs.set(ino(), Buffer.from(operation.name), dataOf(operation), 0, false);
      break;
    case "map":
      for (const at of operation.stores)
        files.write(ino(), at, dataOf({ from: operation.from, length: STORE_BYTES }), false);
      volume.fsync(ino());
      break;
    case "fsync":
    case "fdatasync":
      volume.fsync(ino());
  }
}

/** Reads what is there into a tree; the numbers of links that it tells must be true. */
class Reader {
  readonly #nodes = new Map<string, Node>();
  readonly #byIno = new Map<number, Node>();
  readonly #links = new Map<string, number>();

  add(path: string, ino: number, links: number, read: () => Node): void {
    const one = this.#byIno.get(ino) ?? read();
    this.#byIno.set(ino, one);
    this.#nodes.set(path, one);
    this.#links.set(path, links);
  }

  finish(): Tree {
    const tree = new Tree(this.#nodes);
    for (const [path, links] of this.#links) assert.equal(links, tree.links(path), `links of /${path}`);
    return tree;
  }
}

export function treeOfVolume(volume: Volume): Tree {
  const reader = new Reader();
  const visit = (path: string, { ino, mode, nlink, size }: Attr): void => {
    const type = mode & S_IFMT;
    reader.add(path, ino, nlink, () => {
      const content = Buffer.alloc(type === S_IFDIR || type === S_IFLNK ? 0 : size);
      if (content.length > 0) assert.equal(volume.files.read(ino, 0, size, content), size);
      const target = type === S_IFLNK ? Buffer.from(volume.tree.readlink(ino)).toString() : "";
      const one = node(
        type === S_IFDIR ? "directory" : type === S_IFLNK ? "symlink" : "file",
        content,
        target,
      );
      for (const name of Buffer.from(volume.xattrs.list(ino)).toString().split("\0").slice(0, -1))
        one.xattrs.set(name, Buffer.from(volume.xattrs.get(ino, Buffer.from(name)) ?? []));
      return one;
    });
    if (type !== S_IFDIR) return;
    const names: string[] = [];
    volume.tree.readdir(ino, 0, ({ name }) => names.push(Buffer.from(name).toString()) > 0);
    for (const name of names) {
      const below = path === "" ? name : `${path}/${name}`;
      visit(below, attrOf(volume, below));
    }
  };
  visit("", attrOf(volume, ""));
  return reader.finish();
}

export function treeOfDirectory(root: string): Tree {
  const reader = new Reader();
  const visit = (path: string): void => {
    const full = path === "" ? root : `${root}/${path}`;
    const stat = lstatSync(full);
    reader.add(path, stat.ino, stat.nlink, () => {
      const kind = stat.isDirectory() ? "directory" : stat.isSymbolicLink() ? "symlink" : "file";
      const one = node(
        kind,
        kind === "file" ? readFileSync(full) : undefined,
        kind === "symlink" ? readlinkSync(full) : "",
      );
      if (kind !== "symlink")
        for (const name of sys.listxattr(full).filter((text) => text.startsWith("user.")))
          one.xattrs.set(name, sys.getxattr(full, name));
      return one;
    });
    if (stat.isDirectory())
      for (const name of readdirSync(full)) visit(path === "" ? name : `${path}/${name}`);
  };
  visit("");
  return reader.finish();
}
