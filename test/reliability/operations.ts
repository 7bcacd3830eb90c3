/** Random operations that are possible one after the other. Everything follows from one seed. */
import { FALLOC } from "../helpers/libc.ts";
import { Random } from "../helpers/model.ts";
import { DATA, type Kind, type Operation, PAGE, type Piece, STORE_BYTES, Tree } from "./survivor.ts";

const NAMES = ["f0", "f1", "f2", "f3", "f4", "f5", "d0", "d1"];
const DEEPEST = 3;

/** A name that may be there or not. */
function anywhere(random: Random, tree: Tree): string {
  const directories = tree.of("directory").filter((path) => path.split("/").length < DEEPEST);
  const parent = random.pick(directories);
  return `${parent === "" ? "" : `${parent}/`}${random.pick(NAMES)}`;
}

function existing(random: Random, tree: Tree, kind: Kind): string {
  const some = tree.of(kind);
  return some.length === 0 ? anywhere(random, tree) : random.pick(some);
}

function piece(random: Random, most = 90_000): Piece {
  const length = 1 + random.below(random.chance(0.7) ? 5000 : most);
  return { from: random.below(DATA.length - length), length };
}

function randomMap(random: Random, tree: Tree): Operation {
  const path = existing(random, tree, "file");
  const pages = Math.floor((tree.get(path)?.content.length ?? 0) / PAGE);
  const chosen = Array.from({ length: 4 }, () => random.below(Math.max(1, pages)));
  const stores =
    pages === 0 ? [] : [...new Set(chosen)].map((no) => no * PAGE + random.below(PAGE - STORE_BYTES));
  return { do: "map", path, stores, from: random.below(DATA.length - STORE_BYTES) };
}

const CHOICES: readonly (readonly [weight: number, make: (random: Random, tree: Tree) => Operation])[] = [
  [14, (r, t) => ({ do: "create", path: anywhere(r, t) })],
  [16, (r, t) => ({ do: "write", path: existing(r, t, "file"), at: r.below(120_000), ...piece(r) })],
  [16, (r, t) => ({ do: "append", path: existing(r, t, "file"), ...piece(r) })],
  [6, (r, t) => ({ do: "truncate", path: existing(r, t, "file"), size: r.below(140_000) })],
  [12, (r, t) => ({ do: "rename", path: r.pick(t.paths), to: anywhere(r, t) })],
  [8, (r, t) => ({ do: "unlink", path: existing(r, t, "file") })],
  [4, (r, t) => ({ do: "link", path: existing(r, t, "file"), to: anywhere(r, t) })],
  [2, (r, t) => ({ do: "symlink", path: anywhere(r, t), target: `../${r.pick(NAMES)}` })],
  [2, (r, t) => ({ do: "unlink", path: existing(r, t, "symlink") })],
  [5, (r, t) => ({ do: "mkdir", path: anywhere(r, t) })],
  [4, (r, t) => ({ do: "rmdir", path: existing(r, t, "directory") })],
  [
    4,
    (r, t) => ({
      do: "setxattr",
      path: r.pick(t.paths),
      name: r.pick(["user.a", "user.b"]),
      ...piece(r, 60_000),
    }),
  ],
  [
    4,
    (r, t) => ({
      do: "fallocate",
      path: existing(r, t, "file"),
      mode: r.pick([0, FALLOC.KEEP_SIZE, FALLOC.PUNCH_HOLE | FALLOC.KEEP_SIZE, FALLOC.ZERO_RANGE]),
      at: r.below(120_000),
      length: 1 + r.below(60_000),
    }),
  ],
  [3, (r, t) => ({ do: "fsync", path: existing(r, t, "file") })],
  [2, (r, t) => ({ do: "fdatasync", path: existing(r, t, "file") })],
  [1, (r, t) => ({ do: "fsync", path: existing(r, t, "directory") })],
  [3, randomMap],
];
const LARGEST_FILE = 250_000;

/** Possible operations, one after the other; `more` adds kinds to choose from. */
export function randomOperations(
  random: Random,
  before: Tree,
  count: number,
  more: typeof CHOICES = [],
): Operation[] {
  const choices = [...CHOICES, ...more].flatMap(([weight, make]) =>
    new Array<typeof make>(weight).fill(make),
  );
  const tree = before.clone();
  const operations: Operation[] = [];
  while (operations.length < count) {
    const operation = random.pick(choices)(random, tree);
    if (!tree.allows(operation)) continue;
    if (operation.do === "append" && (tree.get(operation.path)?.content.length ?? 0) > LARGEST_FILE) continue;
    tree.apply(operation);
    operations.push(operation);
  }
  return operations;
}

/** Operations from an empty volume on, with the syncs and the rests that only its own process can have. */
export function scriptOf(seed: number, count: number): Operation[] {
  return randomOperations(new Random(seed), new Tree(), count, [
    [4, () => ({ do: "sync" })],
    [4, () => ({ do: "rest" })],
  ]);
}
