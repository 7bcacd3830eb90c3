/**
 * The written model of what a crash may leave: operations as plain values, and a tree in memory that they change as
 * POSIX says. What was found after a crash is read into such a tree as well (see trees.ts), and must be that after some
 * first part of the operations, with all that was synced in it.
 */
import assert from "node:assert/strict";
import { noise } from "../core/noise.ts";
import { FALLOC } from "../helpers/libc.ts";

/** What is written is a part of this: noise, then bytes that compress well. */
export const DATA = Buffer.concat([noise(600_000, 5), Buffer.alloc(424_288, "all work and no play ")]);
/** Bytes that one store through a mapping changes; it lies within a page. */
export const STORE_BYTES = 100;
export const PAGE = 4096;

export interface Piece {
  /** Where in DATA the bytes come from. */
  readonly from: number;
  readonly length: number;
}

/** Paths are relative, without a slash at their start; the root is "". */
export type Operation =
  | { readonly do: "create" | "unlink" | "mkdir" | "rmdir"; readonly path: string }
  | ({ readonly do: "write"; readonly path: string; readonly at: number } & Piece)
  | ({ readonly do: "append"; readonly path: string } & Piece)
  | {
      readonly do: "fallocate";
      readonly path: string;
      readonly mode: number;
      readonly at: number;
      readonly length: number;
    }
  | { readonly do: "truncate"; readonly path: string; readonly size: number }
  | { readonly do: "link" | "rename" | "exchange"; readonly path: string; readonly to: string }
  | { readonly do: "symlink"; readonly path: string; readonly target: string }
  | ({ readonly do: "setxattr"; readonly path: string; readonly name: string } & Piece)
  /** Stores through a shared mapping, at most one in a page, then msync. */
  | { readonly do: "map"; readonly path: string; readonly stores: readonly number[]; readonly from: number }
  | { readonly do: "fsync" | "fdatasync"; readonly path: string }
  /** `sqlfuse sync`. */
  | { readonly do: "sync" }
  /** Nobody asks for anything for a minute: the -wal is copied. */
  | { readonly do: "rest" };

/** Whether all that came before is durable when it returns. */
export function isLasting(operation: Operation): boolean {
  return ["map", "fsync", "fdatasync", "sync", "rest"].includes(operation.do);
}

export type Kind = "file" | "directory" | "symlink";

export interface Node {
  readonly kind: Kind;
  /** Never changed in place: copies of a tree share it. */
  content: Buffer;
  readonly target: string;
  readonly xattrs: Map<string, Buffer>;
}

export function node(kind: Kind, content = Buffer.alloc(0), target = ""): Node {
  return { kind, content, target, xattrs: new Map() };
}

export function parentOf(path: string): string {
  return path.slice(0, Math.max(0, path.lastIndexOf("/")));
}

function isBelow(path: string, directory: string): boolean {
  return directory === "" ? path !== "" : path.startsWith(`${directory}/`);
}

/** The content with `data` at `at`, zeros before it where it ended earlier. */
function patched(content: Buffer, at: number, data: Uint8Array): Buffer {
  const result = Buffer.alloc(Math.max(content.length, at + data.length));
  content.copy(result);
  result.set(data, at);
  return result;
}

/** Names and what they lead to. Two names of one node are hard links. */
export class Tree {
  readonly #nodes: Map<string, Node>;

  constructor(nodes: ReadonlyMap<string, Node> = new Map([["", node("directory")]])) {
    this.#nodes = new Map(nodes);
  }

  clone(): Tree {
    const copies = new Map<Node, Node>();
    for (const one of this.#nodes.values()) copies.set(one, { ...one, xattrs: new Map(one.xattrs) });
    return new Tree(new Map([...this.#nodes].map(([path, one]) => [path, copies.get(one) ?? one])));
  }

  get paths(): string[] {
    return [...this.#nodes.keys()];
  }

  of(kind: Kind): string[] {
    return this.paths.filter((path) => this.#nodes.get(path)?.kind === kind);
  }

  get(path: string): Node | undefined {
    return this.#nodes.get(path);
  }

  isEmpty(directory: string): boolean {
    return !this.paths.some((path) => isBelow(path, directory));
  }

  links(path: string): number {
    const one = this.#node(path);
    if (one.kind !== "directory") return this.paths.filter((other) => this.#nodes.get(other) === one).length;
    return 2 + this.of("directory").filter((other) => other !== "" && parentOf(other) === path).length;
  }

  /** Whether the operation is possible: no other one may be applied. */
  allows(operation: Operation): boolean {
    if (operation.do === "sync" || operation.do === "rest") return true;
    const one = this.get(operation.path);
    switch (operation.do) {
      case "create":
      case "mkdir":
      case "symlink":
        return one === undefined && this.#isDirectory(parentOf(operation.path));
      case "unlink":
        return one !== undefined && one.kind !== "directory";
      case "rmdir":
        return operation.path !== "" && one?.kind === "directory" && this.isEmpty(operation.path);
      case "setxattr":
        return one?.kind === "file" || one?.kind === "directory";
      case "fsync":
      case "fdatasync":
        return one?.kind === "file" || one?.kind === "directory";
      case "link":
        return (
          one?.kind === "file" && !this.#nodes.has(operation.to) && this.#isDirectory(parentOf(operation.to))
        );
      case "exchange":
        return this.#isMovable(operation.path, operation.to) && this.#isMovable(operation.to, operation.path);
      case "rename":
        return (
          this.#isMovable(operation.path, operation.to) && this.#isReplaceable(operation.path, operation.to)
        );
      default:
        return one?.kind === "file";
    }
  }

  #isDirectory(path: string): boolean {
    return this.get(path)?.kind === "directory";
  }

  #isMovable(path: string, to: string): boolean {
    const one = this.get(path);
    return (
      one !== undefined &&
      ![path, to].includes("") &&
      one !== this.get(to) &&
      this.#isDirectory(parentOf(to)) &&
      !isBelow(to, path)
    );
  }

  #isReplaceable(path: string, to: string): boolean {
    const target = this.get(to);
    if (target === undefined) return true;
    const moves = this.#isDirectory(path);
    return moves ? target.kind === "directory" && this.isEmpty(to) : target.kind !== "directory";
  }

  apply(operation: Operation): void {
    assert.ok(this.allows(operation), `not possible: ${JSON.stringify(operation)}`);
    switch (operation.do) {
      case "create":
        this.#nodes.set(operation.path, node("file"));
        break;
      case "mkdir":
        this.#nodes.set(operation.path, node("directory"));
        break;
      case "symlink":
        this.#nodes.set(operation.path, node("symlink", Buffer.alloc(0), operation.target));
        break;
      case "unlink":
      case "rmdir":
        this.#nodes.delete(operation.path);
        break;
      case "link":
        this.#nodes.set(operation.to, this.#node(operation.path));
        break;
      case "rename":
        this.#nodes.delete(operation.to);
        this.#move([[operation.path, operation.to]]);
        break;
      case "exchange":
        this.#move([
          [operation.path, operation.to],
          [operation.to, operation.path],
        ]);
        break;
      case "setxattr":
        this.#node(operation.path).xattrs.set(operation.name, dataOf(operation));
        break;
      case "write":
      case "append":
      case "fallocate":
      case "truncate":
      case "map": {
        const one = this.#node(operation.path);
        one.content = changed(one.content, operation);
      }
    }
  }

  #node(path: string): Node {
    const one = this.#nodes.get(path);
    assert.ok(one !== undefined, `${path} is in the tree`);
    return one;
  }

  /** Gives subtrees other names, all at once. */
  #move(moves: readonly (readonly [from: string, to: string])[]): void {
    const moved: [string, Node][] = [];
    for (const [from, to] of moves) {
      for (const [path, one] of this.#nodes)
        if (path === from || isBelow(path, from)) moved.push([to + path.slice(from.length), one]);
    }
    for (const [from] of moves)
      for (const path of this.paths) if (path === from || isBelow(path, from)) this.#nodes.delete(path);
    for (const [path, one] of moved) this.#nodes.set(path, one);
  }
}

export function dataOf({ from, length }: Piece): Buffer {
  return DATA.subarray(from, from + length);
}

type ContentChange = Extract<Operation, { do: "write" | "append" | "fallocate" | "truncate" | "map" }>;

function changed(content: Buffer, operation: ContentChange): Buffer {
  switch (operation.do) {
    case "write":
      return patched(content, operation.at, dataOf(operation));
    case "append":
      return patched(content, content.length, dataOf(operation));
    case "truncate":
      return patched(content.subarray(0, operation.size), operation.size, Buffer.alloc(0));
    case "map":
      return operation.stores.reduce(
        (stored, at) => patched(stored, at, dataOf({ from: operation.from, length: STORE_BYTES })),
        content,
      );
    case "fallocate": {
      const { mode, at, length } = operation;
      const end = (mode & FALLOC.KEEP_SIZE) === 0 ? at + length : Math.min(at + length, content.length);
      if ((mode & (FALLOC.PUNCH_HOLE | FALLOC.ZERO_RANGE)) !== 0 && end > at)
        return patched(content, at, Buffer.alloc(end - at));
      return end > content.length ? patched(content, end, Buffer.alloc(0)) : content;
    }
  }
}

/** The first difference between what must be and what is, in words. */
function difference(expected: Tree, seen: Tree): string | undefined {
  for (const path of expected.paths) if (seen.get(path) === undefined) return `/${path} is missing`;
  for (const path of seen.paths) {
    const [want, have] = [expected.get(path), seen.get(path)];
    if (want === undefined || have === undefined) return `/${path} is there`;
    if (want.kind !== have.kind) return `/${path} is a ${have.kind}, not a ${want.kind}`;
    if (want.target !== have.target) return `/${path} leads to ${have.target}, not to ${want.target}`;
    if (expected.links(path) !== seen.links(path)) return `/${path} has ${seen.links(path)} links`;
    // Links are told apart by the first name of each.
    const first = expected.paths.find((other) => expected.get(other) === want) ?? "";
    if (seen.get(first) !== have) return `/${path} is not the same file as /${first}`;
    if (!want.content.equals(have.content))
      return `/${path}: ${contentDifference(want.content, have.content)}`;
    for (const [name, value] of want.xattrs)
      if (have.xattrs.get(name)?.equals(value) !== true) return `/${path}: ${name} is missing or another`;
    if (want.xattrs.size !== have.xattrs.size) return `/${path} has more attributes`;
  }
  return undefined;
}

function contentDifference(want: Buffer, have: Buffer): string {
  if (want.length !== have.length) return `${have.length} bytes, not ${want.length}`;
  return `byte ${want.findIndex((byte, at) => byte !== have[at])} is another`;
}

/** What a crash left, as the model has it. */
export interface Survivor {
  /** How many operations are in it. */
  readonly count: number;
  readonly tree: Tree;
}

interface Moment {
  /** Operations that are durable. */
  readonly lasting: number;
  /** Operations that were answered; one more may be on its way. */
  readonly answered: number;
  /** A kernel stood in between: it sends a write in parts that end at borders of pages, each a request of its own. */
  readonly splits?: boolean;
}

/**
 * Finds the first part of `operations` whose tree was seen after a crash: of at least `lasting` of them, of at most all
 * that were answered and the one on its way. Throws where none fits: something synced is lost, or the order.
 */
export function survivor(
  before: Tree,
  operations: readonly Operation[],
  { lasting, answered, splits = false }: Moment,
  seen: Tree,
): Survivor {
  const tree = before.clone();
  let found: Survivor | undefined;
  const differences: string[] = [];
  for (let count = 0; count <= operations.length && count <= answered + 1; count++) {
    const next = operations[count];
    if (count >= lasting) {
      const text = difference(tree, seen);
      if (text === undefined) found = { count, tree: tree.clone() };
      else differences.push(`  after ${count}: ${text}`);
      const isCut = next?.do === "map" ? count === answered : splits;
      const part = next === undefined || !isCut ? undefined : partOf(tree, next, seen);
      if (part !== undefined && difference(part, seen) === undefined) found = { count, tree: part };
    }
    if (next === undefined) break;
    tree.apply(next);
  }
  if (found !== undefined) return found;
  const some = [...differences.slice(0, 4), "  ...", ...differences.slice(-4)].join("\n");
  const last = operations
    .slice(Math.max(0, answered - 6), answered + 1)
    .map((one) => `  ${JSON.stringify(one)}`);
  throw new Error(
    `the state after none of ${answered} operations, ${lasting} of them synced:\n${some}\nthe last ones:\n${last.join("\n")}`,
  );
}

/** The tree with as much of the operation as was seen: some stores of a mapping, or the first pages of a write. */
function partOf(tree: Tree, operation: Operation, seen: Tree): Tree | undefined {
  if (operation.do !== "map" && operation.do !== "write" && operation.do !== "append") return undefined;
  const content = seen.get(operation.path)?.content ?? Buffer.alloc(0);
  const part = tree.clone();
  if (operation.do === "map") {
    const data = dataOf({ from: operation.from, length: STORE_BYTES });
    const stores = operation.stores.filter((at) => content.subarray(at, at + STORE_BYTES).equals(data));
    part.apply({ ...operation, stores });
    return part;
  }
  const at = operation.do === "write" ? operation.at : (tree.get(operation.path)?.content.length ?? 0);
  const data = dataOf(operation);
  const other = data.findIndex((byte, index) => content[at + index] !== byte);
  const end = at + (other < 0 ? data.length : other);
  const length = end - (end % PAGE) - at;
  if (length <= 0) return undefined;
  part.apply({ ...operation, length });
  return part;
}
