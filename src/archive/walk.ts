/**
 * A volume's tree in one fixed order, whatever order it was made in: a directory, then what is in it by the bytes of
 * the names, each subdirectory with all that is below it. Holds one page of entries per level, and the first path of
 * each inode that has more.
 */
import { isDirectory } from "../core/mode.ts";
import type { Attr, Ino } from "../core/types.ts";
import type { Volume } from "../core/volume.ts";
import { latin1 } from "./escape.ts";

export interface Step {
  /** From the start of the walk, without a slash in front; "" is the start. Latin1: a character per byte. */
  readonly path: string;
  readonly attr: Attr;
  /** Of a further name of an inode: the first one, which came before. */
  readonly first?: string;
}

const PAGE = 256;

export function* walk(volume: Volume, start: Attr): Generator<Step> {
  yield { path: "", attr: start };
  if (isDirectory(start.mode)) yield* below(volume, start.ino, "", new Map());
}

interface Names {
  readonly first: string;
  /** Names that the walk has not met yet: once all are met the inode is forgotten. */
  left: number;
}

function* below(volume: Volume, ino: Ino, path: string, linked: Map<Ino, Names>): Generator<Step> {
  const stack = [level(volume, ino, path === "" ? "" : `${path}/`)];
  for (let top = stack.at(-1); top !== undefined; top = stack.at(-1)) {
    const { value, done } = top.next();
    if (done === true) {
      stack.pop();
      continue;
    }
    const { attr } = value;
    if (isDirectory(attr.mode)) {
      yield value;
      stack.push(level(volume, attr.ino, `${value.path}/`));
      continue;
    }
    const names = linked.get(attr.ino);
    if (names === undefined) {
      if (attr.nlink > 1) linked.set(attr.ino, { first: value.path, left: attr.nlink - 1 });
      yield value;
      continue;
    }
    if (--names.left === 0) linked.delete(attr.ino);
    yield { ...value, first: names.first };
  }
}

/** The entries of one directory. */
function* level(volume: Volume, ino: Ino, prefix: string): Generator<Step, undefined> {
  let after: Uint8Array = new Uint8Array(0);
  for (;;) {
    const page = volume.tree.page(ino, after, PAGE);
    for (const [{ name }, attr] of page) {
      yield { path: prefix + latin1(name), attr };
      after = name;
    }
    if (page.length < PAGE) return undefined;
  }
}
