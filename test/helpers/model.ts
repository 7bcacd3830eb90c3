/**
 * A filesystem in memory, and a driver of random operations that does each on the model and on the real thing.
 *
 * The model knows POSIX and nothing of blocks, SQL or kernels. Where an operation could fail for several reasons,
 * it names them all. Everything follows from one seed, which a failure tells: SQLFUSE_SEED=n repeats the run.
 */
import assert from "node:assert/strict";
import { Random as Choices } from "../core/random.ts";

const MAX_CONTENT = 400_000;

export class Random extends Choices {
  /** A few different bytes and runs: compressible and telling. */
  override bytes(length: number): Buffer {
    const data = Buffer.alloc(length);
    const base = this.below(256);
    for (let i = 0; i < length; i++) data[i] = (base + (i % 251)) & 0xff;
    return data;
  }
}

export type Kind = "file" | "directory" | "symlink" | "fifo";

/** What the real thing tells of one inode. */
export interface Seen {
  readonly kind: Kind;
  readonly perm: number;
  readonly nlink: number;
  readonly size: number;
  readonly ino: string;
  readonly mtimeNs: bigint;
  readonly ctimeNs: bigint;
}

/** Names are latin1 strings; the path of the root is empty. */
export type Names = readonly string[];

/** The real thing. Each method throws an error with a `code` that is an errno's name where it refuses. */
export interface Driver {
  stat(path: Names): Seen;
  create(path: Names, mode: number): void;
  mkdir(path: Names, mode: number): void;
  mkfifo(path: Names, mode: number): void;
  symlink(path: Names, target: string): void;
  readlink(path: Names): string;
  link(path: Names, newPath: Names): void;
  unlink(path: Names): void;
  rmdir(path: Names): void;
  rename(path: Names, newPath: Names, flags: number): void;
  readdir(path: Names): string[];
  read(path: Names, offset: number, length: number): Buffer;
  write(path: Names, offset: number, data: Buffer): void;
  truncate(path: Names, size: number): void;
  fallocate(path: Names, mode: number, offset: number, length: number): void;
  copy(from: Names, fromOffset: number, to: Names, toOffset: number, length: number): number;
  /** undefined: ENXIO. */
  seek(path: Names, offset: number, hole: boolean): number | undefined;
  chmod(path: Names, perm: number): void;
  setMtime(path: Names, ns: bigint): void;
  setxattr(path: Names, name: string, value: Buffer, flags: number): void;
  removexattr(path: Names, name: string): void;
  xattrs(path: Names): Map<string, Buffer>;
  fsync(path: Names): void;
  /** Keeps a file open. */
  hold(path: Names): unknown;
  heldRead(held: unknown, offset: number, length: number): Buffer;
  heldWrite(held: unknown, offset: number, data: Buffer): void;
  heldLinks(held: unknown): number;
  release(held: unknown): void;
  /** Closes everything, checks, opens again. */
  remount(): void;
}

/** What the real thing may be unable to: then it is not tried. */
export type Lack =
  | "bytes"
  | "flags"
  | "fallocate"
  | "nanoseconds"
  | "busy directories"
  | "one file of several paths";

interface Node {
  readonly id: number;
  readonly kind: Kind;
  perm: number;
  nlink: number;
  content: Buffer;
  readonly target: string;
  readonly xattrs: Map<string, Buffer>;
  readonly children: Map<string, Node>;
  parent: Node | undefined;
  /** undefined: some moment between then and now. */
  mtimeNs: bigint | undefined;
}

interface Held {
  readonly node: Node;
  readonly real: unknown;
}

class Refused extends Error {
  readonly codes: readonly string[];
  constructor(...codes: string[]) {
    super(codes.join(" or "));
    this.codes = codes;
  }
}

const NAMES: readonly string[] = [
  ..."abcdefgh",
  "n".repeat(255),
  "\xff\xfe",
  "\xc3\xa9",
  "e\xcc\x81",
  "with space",
  "'; --",
];
const XATTRS = ["user.a", "user.b", "user.\xff", `user.${"x".repeat(200)}`];
const NOREPLACE = 1;
const EXCHANGE = 2;

/** Whether a latin1 string is the bytes of a text. */
function isUtf8(text: string): boolean {
  return !Buffer.from(text, "latin1").toString().includes("\ufffd");
}

function codeOf(error: unknown): string {
  if (error instanceof Error && "code" in error && typeof error.code === "string") return error.code;
  throw error;
}

export class ModelRun {
  readonly #random: Random;
  readonly #driver: Driver;
  #nextId = 1;
  readonly #root: Node = this.#node("directory", 0o755);
  #held: Held[] = [];
  readonly #inos = new Map<number, string>();
  readonly #log: string[] = [];
  readonly #perms: readonly number[];
  readonly #lacks: ReadonlySet<Lack>;
  readonly #names: readonly string[];
  readonly #xattrNames: readonly string[];
  /** How often each operation was done, and refused as it should be. */
  readonly counts = new Map<string, [done: number, refused: number]>();

  /** `modesBind`: whoever runs this may not do what the modes forbid, so no mode may forbid the owner anything. */
  constructor(
    seed: number,
    driver: Driver,
    options: { readonly modesBind?: boolean; readonly lacks?: readonly Lack[] } = {},
  ) {
    this.#random = new Random(seed);
    this.#driver = driver;
    this.#root.nlink = 2;
    this.#lacks = new Set(options.lacks);
    this.#names = this.#lacks.has("bytes") ? NAMES.filter(isUtf8) : NAMES;
    this.#xattrNames = this.#lacks.has("bytes") ? XATTRS.filter(isUtf8) : XATTRS;
    this.#perms =
      options.modesBind === true ? [0o755, 0o700, 0o777] : [0o644, 0o600, 0o755, 0o777, 0o640, 0o4711];
  }

  /** "create 120+30 ...": how often each operation was done, and refused as it should be. */
  summary(): string {
    const parts = [...this.counts].map(([name, [done, refused]]) => `${name} ${done}+${refused}`);
    return `done+refused: ${parts.join(", ")}; ${this.#all().length} names at the end`;
  }

  #node(kind: Kind, perm: number, target = ""): Node {
    return {
      id: this.#nextId++,
      kind,
      perm,
      nlink: 1,
      content: Buffer.alloc(0),
      target,
      xattrs: new Map(),
      children: new Map(),
      parent: undefined,
      mtimeNs: undefined,
    };
  }

  /** Does `steps` operations; verifies everything now and then, and at the end. */
  run(steps: number, options: { verifyEvery: number; remountEvery: number }): void {
    for (let i = 1; i <= steps; i++) {
      this.#step();
      if (i % options.remountEvery === 0) {
        this.#say("remount");
        this.#guard(() => {
          this.#releaseAll();
          const times = this.#times();
          this.#driver.remount();
          assert.deepEqual(this.#times(), times, "times after remount");
          this.verify();
        });
      } else if (i % options.verifyEvery === 0) this.#guard(() => this.verify());
    }
    this.#guard(() => {
      this.#releaseAll();
      this.verify();
    });
  }

  /** The last operations before a failure belong to its message. */
  #guard(work: () => void): void {
    try {
      work();
    } catch (error) {
      const last = this.#log.slice(-25).join("\n  ");
      throw new Error(`after ${this.#log.length} operations: ${String(error)}\nthe last ones:\n  ${last}`, {
        cause: error,
      });
    }
  }

  #say(text: string): void {
    this.#log.push(text);
  }

  // --- what there is to choose from

  #all(): [Names, Node][] {
    const found: [Names, Node][] = [];
    const visit = (path: Names, node: Node): void => {
      found.push([path, node]);
      for (const [name, child] of node.children) visit([...path, name], child);
    };
    visit([], this.#root);
    return found;
  }

  #directory(): Names {
    const dirs = this.#all().filter(([, node]) => node.kind === "directory");
    return this.#random.pick(dirs)[0];
  }

  /** A name that may or may not be there. */
  #anywhere(): Names {
    return [...this.#directory(), this.#random.pick(this.#names)];
  }

  #existing(kind?: Kind): Names {
    const some = this.#all().filter(
      ([path, node]) => path.length > 0 && (kind === undefined || node.kind === kind),
    );
    return some.length === 0 || this.#random.chance(0.05) ? this.#anywhere() : this.#random.pick(some)[0];
  }

  #isOneFile(one: Names, other: Names): boolean {
    const node = this.#all().find(([path]) => path.join("/") === one.join("/"))?.[1];
    return (
      node !== undefined && node === this.#all().find(([path]) => path.join("/") === other.join("/"))?.[1]
    );
  }

  // --- the model's own lookup

  #find(path: Names): Node {
    let node = this.#root;
    for (const name of path) {
      if (node.kind === "symlink") throw new Refused("ENOTDIR", "ENOENT", "ELOOP");
      if (node.kind !== "directory") throw new Refused("ENOTDIR");
      const child = node.children.get(name);
      if (child === undefined) throw new Refused("ENOENT");
      node = child;
    }
    return node;
  }

  #parent(path: Names): [Node, string] {
    const parent = this.#find(path.slice(0, -1));
    if (parent.kind !== "directory") throw new Refused("ENOTDIR");
    return [parent, path.at(-1) ?? ""];
  }

  #free(path: Names): [Node, string] {
    const [parent, name] = this.#parent(path);
    if (parent.children.has(name)) throw new Refused("EEXIST");
    return [parent, name];
  }

  #file(path: Names): Node {
    const node = this.#find(path);
    if (node.kind === "directory") throw new Refused("EISDIR");
    if (node.kind !== "file") throw new Refused("EINVAL", "ELOOP", "ENXIO");
    return node;
  }

  #put(parent: Node, name: string, node: Node): void {
    parent.children.set(name, node);
    parent.mtimeNs = undefined;
    if (node.kind === "directory") {
      node.parent = parent;
      parent.nlink++;
    }
  }

  #take(parent: Node, name: string): void {
    const node = parent.children.get(name);
    parent.children.delete(name);
    parent.mtimeNs = undefined;
    if (node?.kind === "directory") parent.nlink--;
  }

  #drop(node: Node): void {
    if (node.kind === "directory") node.nlink = 0;
    else node.nlink--;
  }

  #isBelow(node: Node, ancestor: Node): boolean {
    for (let at: Node | undefined = node; at !== undefined; at = at.parent) if (at === ancestor) return true;
    return false;
  }

  // --- operations

  /** Does one operation on both, and compares how it went. */
  #both<T>(name: string, text: string, model: () => T, real: () => T): void {
    this.#say(`${name} ${text}`);
    this.#guard(() => {
      let expected: { value: T } | { codes: readonly string[] };
      try {
        expected = { value: model() };
      } catch (error) {
        if (!(error instanceof Refused)) throw error;
        expected = { codes: error.codes };
      }
      let seen: { value: T } | { code: string };
      try {
        seen = { value: real() };
      } catch (error) {
        seen = { code: codeOf(error) };
      }
      const count = this.counts.get(name) ?? [0, 0];
      this.counts.set(name, count);
      count["codes" in expected ? 1 : 0]++;
      if ("codes" in expected) {
        const got = "code" in seen ? seen.code : "done";
        assert.ok(
          expected.codes.includes(got),
          `${name}: expected ${expected.codes.join(" or ")}, got ${got}`,
        );
      } else {
        assert.ok("value" in seen, `${name}: expected to be done, got ${"code" in seen ? seen.code : ""}`);
        if (expected.value instanceof Buffer && seen.value instanceof Buffer) {
          sameBytes(seen.value, expected.value, name);
        } else assert.deepEqual(seen.value, expected.value, name);
      }
    });
  }

  #resize(node: Node, size: number): void {
    const content = Buffer.alloc(size);
    node.content.copy(content, 0, 0, Math.min(size, node.content.length));
    node.content = content;
    node.mtimeNs = undefined;
  }

  #patch(node: Node, offset: number, data: Buffer): void {
    if (data.length === 0) return;
    if (offset + data.length > node.content.length) this.#resize(node, offset + data.length);
    data.copy(node.content, offset);
    node.mtimeNs = undefined;
  }

  #offset(): number {
    const random = this.#random;
    const edge = random.pick([0, 4096, 8192, 65_536, 131_072, 262_144]);
    return random.chance(0.5) ? Math.max(0, edge + random.below(5) - 2) : random.below(MAX_CONTENT / 2);
  }

  #length(): number {
    const random = this.#random;
    return random.chance(0.6) ? 1 + random.below(600) : 1 + random.below(120_000);
  }

  #step(): void {
    const random = this.#random;
    const d = this.#driver;
    const show = (path: Names): string =>
      `/${path.map((name) => (name.length > 20 ? "LONG" : name)).join("/")}`;
    const perm = random.pick(this.#perms);
    const roll = random.below(100);

    if (this.#all().length > 200 && random.chance(0.3)) this.#remove(this.#leaf(), show);
    else if (roll < 9) {
      const path = this.#anywhere();
      this.#both(
        "create",
        show(path),
        () => {
          const [parent, name] = this.#free(path);
          this.#put(parent, name, this.#node("file", perm));
        },
        () => d.create(path, perm),
      );
    } else if (roll < 14) {
      const path = this.#anywhere();
      if (path.length > 6) return;
      this.#both(
        "mkdir",
        show(path),
        () => {
          const [parent, name] = this.#free(path);
          const node = this.#node("directory", perm & 0o777);
          node.nlink = 2;
          this.#put(parent, name, node);
        },
        () => d.mkdir(path, perm & 0o777),
      );
    } else if (roll < 16) {
      const path = this.#anywhere();
      const odd = this.#lacks.has("bytes") ? "\xc3\xbf" : "\xff";
      const target = random.pick(["a", "../b", "/nowhere", odd, "t".repeat(1 + random.below(4095))]);
      this.#both(
        "symlink",
        show(path),
        () => {
          const [parent, name] = this.#free(path);
          this.#put(parent, name, this.#node("symlink", 0o777, target));
        },
        () => d.symlink(path, target),
      );
    } else if (roll < 17) {
      const path = this.#anywhere();
      this.#both(
        "mkfifo",
        show(path),
        () => {
          const [parent, name] = this.#free(path);
          this.#put(parent, name, this.#node("fifo", perm));
        },
        () => d.mkfifo(path, perm),
      );
    } else if (roll < 20) {
      const path = this.#existing();
      const newPath = this.#anywhere();
      this.#both(
        "link",
        `${show(path)} ${show(newPath)}`,
        () => {
          const node = this.#find(path);
          const [parent, name] = this.#parent(newPath);
          if (parent.children.has(name))
            throw new Refused("EEXIST", ...(node.kind === "directory" ? ["EPERM"] : []));
          if (node.kind === "directory") throw new Refused("EPERM");
          this.#put(parent, name, node);
          node.nlink++;
        },
        () => d.link(path, newPath),
      );
    } else if (roll < 27) {
      this.#unlink(this.#existing(), show);
    } else if (roll < 30) {
      this.#rmdir(this.#existing(random.chance(0.9) ? "directory" : undefined), show);
    } else if (roll < 40) this.#rename(show);
    else if (roll < 58) {
      const path = this.#existing("file");
      const offset = this.#offset();
      const data = random.bytes(this.#length());
      this.#both(
        "write",
        `${show(path)} ${data.length} at ${offset}`,
        () => this.#patch(this.#file(path), offset, data),
        () => d.write(path, offset, data),
      );
    } else if (roll < 66) {
      const path = this.#existing("file");
      const offset = this.#offset();
      const length = this.#length();
      this.#both(
        "read",
        `${show(path)} ${length} at ${offset}`,
        () => Buffer.from(this.#file(path).content.subarray(offset, offset + length)),
        () => d.read(path, offset, length),
      );
    } else if (roll < 72) {
      const path = this.#existing("file");
      const size = random.chance(0.15) ? 0 : this.#offset();
      this.#both(
        "truncate",
        `${show(path)} to ${size}`,
        () => this.#resize(this.#file(path), size),
        () => d.truncate(path, size),
      );
    } else if (roll < 78) this.#fallocate(show);
    else if (roll < 82) {
      const [from, to] = [this.#existing("file"), this.#existing("file")];
      const [fromOffset, toOffset] = [this.#offset(), this.#offset()];
      const length = this.#length();
      // The kernel cannot tell that the two overlap.
      if (
        this.#lacks.has("one file of several paths") &&
        show(from) !== show(to) &&
        this.#isOneFile(from, to)
      )
        return;
      this.#both(
        "copy",
        `${show(from)} ${length} at ${fromOffset} to ${show(to)} at ${toOffset}`,
        () => {
          const [source, target] = [this.#file(from), this.#file(to)];
          // The range is cut at the end of the source before it is asked whether it overlaps.
          const cut = Math.max(0, Math.min(length, source.content.length - fromOffset));
          if (source === target && Math.abs(fromOffset - toOffset) < cut) throw new Refused("EINVAL");
          const data = Buffer.from(source.content.subarray(fromOffset, fromOffset + length));
          this.#patch(target, toOffset, data);
          return data.length;
        },
        () => d.copy(from, fromOffset, to, toOffset, length),
      );
    } else if (roll < 84) {
      const path = this.#existing();
      this.#both(
        "chmod",
        `${show(path)} ${perm.toString(8)}`,
        () => {
          const node = this.#find(path);
          if (node.kind === "symlink") throw new Refused("EOPNOTSUPP");
          node.perm = perm;
        },
        () => d.chmod(path, perm),
      );
    } else if (roll < 86) {
      const path = this.#existing();
      const ns = this.#lacks.has("nanoseconds")
        ? BigInt(random.below(4e12)) * 1_000_000n
        : BigInt(random.below(4_000_000_000)) * 1_000_000_000n - 1_000_000_000n + BigInt(random.below(1e9));
      this.#both(
        "setMtime",
        `${show(path)} ${ns}`,
        () => {
          this.#find(path).mtimeNs = ns;
        },
        () => d.setMtime(path, ns),
      );
    } else if (roll < 90) this.#xattr(show);
    else if (roll < 92) {
      const path = this.#existing("directory");
      this.#both(
        "readdir",
        show(path),
        () => {
          const node = this.#find(path);
          if (node.kind !== "directory") throw new Refused("ENOTDIR");
          return [...node.children.keys()].sort();
        },
        () => d.readdir(path),
      );
    } else if (roll < 94) {
      const path = this.#existing("file");
      if (this.#held.length >= 8) this.#letGo(random.below(8));
      this.#both(
        "hold",
        show(path),
        () => {
          this.#file(path);
        },
        () => {
          const real = d.hold(path);
          this.#held.push({ node: this.#find(path), real });
        },
      );
    } else if (roll < 97) this.#useHeld();
    else if (roll < 98) {
      const path = this.#existing("file");
      this.#both(
        "fsync",
        show(path),
        () => {
          this.#file(path);
        },
        () => d.fsync(path),
      );
    } else {
      const path = this.#existing("file");
      const offset = this.#offset();
      this.#both(
        "seek",
        `${show(path)} at ${offset}`,
        () => {
          this.#file(path);
        },
        // Where holes are is the filesystem's own choice; only that they are zeros is not.
        () => this.#holesAreTrue(path, offset),
      );
    }
  }

  #unlink(path: Names, show: (path: Names) => string): void {
    this.#both(
      "unlink",
      show(path),
      () => {
        const [parent, name] = this.#parent(path);
        const node = this.#find(path);
        if (node.kind === "directory") throw new Refused("EISDIR");
        this.#take(parent, name);
        this.#drop(node);
      },
      () => this.#driver.unlink(path),
    );
  }

  #rmdir(path: Names, show: (path: Names) => string): void {
    this.#letDirectoryGo(path);
    this.#both(
      "rmdir",
      show(path),
      () => {
        const [parent, name] = this.#parent(path);
        const node = this.#find(path);
        if (node.kind !== "directory") throw new Refused("ENOTDIR");
        if (node.children.size > 0) throw new Refused("ENOTEMPTY");
        this.#take(parent, name);
        this.#drop(node);
      },
      () => this.#driver.rmdir(path),
    );
  }

  /** Something that can be removed. */
  #leaf(): Names {
    const leaves = this.#all().filter(([path, node]) => path.length > 0 && node.children.size === 0);
    return this.#random.pick(leaves)[0];
  }

  #remove(path: Names, show: (path: Names) => string): void {
    if (this.#find(path).kind === "directory") this.#rmdir(path, show);
    else this.#unlink(path, show);
  }

  #rename(show: (path: Names) => string): void {
    const random = this.#random;
    const flags = this.#lacks.has("flags") ? 0 : random.pick([0, 0, 0, NOREPLACE, EXCHANGE]);
    const path = this.#existing(random.chance(0.4) ? "directory" : undefined);
    const newPath = random.chance(0.6) ? this.#existing() : this.#anywhere();
    this.#letDirectoryGo(newPath);
    this.#both(
      "rename",
      `${show(path)} ${show(newPath)} ${flags}`,
      () => {
        const [from, name] = this.#parent(path);
        const [to, newName] = this.#parent(newPath);
        const node = from.children.get(name);
        const target = to.children.get(newName);
        const codes = new Set<string>();
        if (node === undefined) codes.add("ENOENT");
        if (flags === NOREPLACE && target !== undefined) codes.add("EEXIST");
        if (flags === EXCHANGE && target === undefined) codes.add("ENOENT");
        if (node?.kind === "directory" && this.#isBelow(to, node)) codes.add("EINVAL");
        if (target?.kind === "directory" && target !== node && this.#isBelow(from, target)) {
          codes.add(flags === EXCHANGE ? "EINVAL" : "ENOTEMPTY");
          if (flags === EXCHANGE) codes.add("ENOTEMPTY");
        }
        if (node !== undefined && target !== undefined && node !== target && flags !== EXCHANGE) {
          if (target.kind === "directory" && node.kind !== "directory") codes.add("EISDIR");
          if (target.kind !== "directory" && node.kind === "directory") codes.add("ENOTDIR");
          if (target.kind === "directory" && target.children.size > 0) codes.add("ENOTEMPTY");
        }
        if (codes.size > 0 && !(node !== undefined && node === target && flags === 0))
          throw new Refused(...codes);
        if (node === undefined || node === target) return;
        if (flags === EXCHANGE && target !== undefined) {
          this.#take(from, name);
          this.#take(to, newName);
          this.#put(to, newName, node);
          this.#put(from, name, target);
          return;
        }
        if (target !== undefined) {
          this.#take(to, newName);
          this.#drop(target);
        }
        this.#take(from, name);
        this.#put(to, newName, node);
      },
      () => this.#driver.rename(path, newPath, flags),
    );
  }

  #fallocate(show: (path: Names) => string): void {
    if (this.#lacks.has("fallocate")) return;
    const random = this.#random;
    const path = this.#existing("file");
    const [what, mode] = random.pick([
      ["allocate", 0],
      ["keep", 1],
      ["punch", 3],
      ["punch", 3],
      ["zero", 16],
      ["zero and keep", 17],
    ] as const);
    const offset = this.#offset();
    const length = this.#length();
    this.#both(
      "fallocate",
      `${show(path)} ${what} ${length} at ${offset}`,
      () => {
        const node = this.#file(path);
        const end = offset + length;
        if ((what === "allocate" || what === "zero") && end > node.content.length) this.#resize(node, end);
        if (what !== "allocate" && what !== "keep")
          node.content.fill(0, offset, Math.min(end, node.content.length));
        node.mtimeNs = undefined;
      },
      () => this.#driver.fallocate(path, mode, offset, length),
    );
  }

  #xattr(show: (path: Names) => string): void {
    const random = this.#random;
    const anyPath = this.#existing(random.chance(0.5) ? "file" : "directory");
    const anyName = random.pick(this.#xattrNames);
    const owner = (path: Names): Node => {
      const node = this.#find(path);
      if (node.kind !== "file" && node.kind !== "directory")
        throw new Refused("EPERM", "ENODATA", "EOPNOTSUPP");
      return node;
    };
    if (random.chance(0.3)) {
      const withSome = this.#all().filter(([, node]) => node.xattrs.size > 0);
      const [path, node] =
        withSome.length > 0 && random.chance(0.6) ? random.pick(withSome) : [anyPath, undefined];
      const name = node === undefined ? anyName : random.pick([...node.xattrs.keys()]);
      this.#both(
        "removexattr",
        `${show(path)} ${name.slice(0, 12)}`,
        () => {
          if (!owner(path).xattrs.delete(name)) throw new Refused("ENODATA");
        },
        () => this.#driver.removexattr(path, name),
      );
      return;
    }
    const [path, name] = [anyPath, anyName];
    const flags = random.pick([0, 0, 1, 2]);
    const value = random.bytes(random.chance(0.1) ? random.below(65_537) : random.below(100));
    this.#both(
      "setxattr",
      `${show(path)} ${name.slice(0, 12)} ${value.length} flags ${flags}`,
      () => {
        const { xattrs } = owner(path);
        if (flags === 1 && xattrs.has(name)) throw new Refused("EEXIST");
        if (flags === 2 && !xattrs.has(name)) throw new Refused("ENODATA");
        xattrs.set(name, value);
      },
      () => this.#driver.setxattr(path, name, value, flags),
    );
  }

  #holesAreTrue(path: Names, offset: number): void {
    const d = this.#driver;
    const data = d.seek(path, offset, false);
    const hole = d.seek(path, offset, true);
    const node = this.#find(path);
    const size = node.content.length;
    if (offset >= size) {
      assert.equal(data, undefined, "SEEK_DATA at the end");
      assert.equal(hole, undefined, "SEEK_HOLE at the end");
      return;
    }
    const skipped = node.content.subarray(offset, data ?? size);
    assert.ok(
      skipped.every((byte) => byte === 0),
      `SEEK_DATA from ${offset} to ${data} skips data`,
    );
    assert.ok(hole !== undefined && hole >= offset && hole <= size, `SEEK_HOLE from ${offset} is ${hole}`);
    if (data !== undefined) assert.ok(data >= offset && data < size, `SEEK_DATA from ${offset} is ${data}`);
    if (data !== undefined && data > offset) assert.equal(hole, offset, "before data there is a hole");
  }

  #useHeld(): void {
    if (this.#held.length === 0) return;
    const at = this.#random.below(this.#held.length);
    const held = this.#held[at];
    if (held === undefined) return;
    const offset = this.#offset();
    const length = this.#length();
    const which = `#${held.node.id} nlink ${held.node.nlink} ${length} at ${offset}`;
    if (this.#random.chance(0.3)) {
      this.#letGo(at);
    } else if (this.#random.chance(0.5)) {
      const data = this.#random.bytes(length);
      this.#both(
        "write held",
        which,
        () => this.#patch(held.node, offset, data),
        () => this.#driver.heldWrite(held.real, offset, data),
      );
    } else {
      this.#both(
        "read held",
        which,
        () => Buffer.from(held.node.content.subarray(offset, offset + length)),
        () => this.#driver.heldRead(held.real, offset, length),
      );
      this.#guard(() =>
        assert.equal(this.#driver.heldLinks(held.real), held.node.nlink, "links of what is held"),
      );
    }
  }

  #letGo(at: number): void {
    const [held] = this.#held.splice(at, 1);
    if (held !== undefined) {
      this.#say(`release #${held.node.id}`);
      this.#driver.release(held.real);
    }
  }

  /** Where a directory is busy as long as something that was in it is open. */
  #letDirectoryGo(path: Names): void {
    const there = this.#all().some(
      ([one, node]) =>
        node.kind === "directory" && node.children.size === 0 && one.join("/") === path.join("/"),
    );
    if (there && this.#lacks.has("busy directories")) this.#releaseAll();
  }

  #releaseAll(): void {
    while (this.#held.length > 0) this.#letGo(0);
  }

  // --- comparison of everything

  #times(): [string, bigint, bigint][] {
    return this.#all().map(([path]) => {
      const seen = this.#driver.stat(path);
      return [path.join("/"), seen.mtimeNs, seen.ctimeNs];
    });
  }

  verify(): void {
    const d = this.#driver;
    const owners = new Map<string, number>();
    for (const [path, node] of this.#all()) {
      const where = `/${path.join("/")}`.slice(0, 120);
      const seen = d.stat(path);
      assert.equal(seen.kind, node.kind, `${where}: kind`);
      assert.equal(seen.nlink, node.nlink, `${where}: links`);
      if (path.length > 0) assert.equal(seen.perm, node.perm, `${where}: mode`);
      if (node.mtimeNs !== undefined) assert.equal(seen.mtimeNs, node.mtimeNs, `${where}: mtime`);
      const known = this.#inos.get(node.id);
      if (known === undefined) this.#inos.set(node.id, seen.ino);
      else assert.equal(seen.ino, known, `${where}: inode number`);
      const other = owners.get(seen.ino);
      assert.ok(other === undefined || other === node.id, `${where}: inode number ${seen.ino} is used twice`);
      owners.set(seen.ino, node.id);
      if (node.kind === "directory") {
        assert.deepEqual(d.readdir(path), [...node.children.keys()].sort(), `${where}: names`);
      } else if (node.kind === "symlink") {
        assert.equal(d.readlink(path), node.target, `${where}: target`);
        assert.equal(seen.size, node.target.length, `${where}: size`);
      } else if (node.kind === "file") {
        assert.equal(seen.size, node.content.length, `${where}: size`);
        sameBytes(d.read(path, 0, node.content.length + 1), node.content, where);
      }
      if (node.kind === "file" || node.kind === "directory") {
        const real = d.xattrs(path);
        assert.deepEqual([...real.keys()].sort(), [...node.xattrs.keys()].sort(), `${where}: attributes`);
        for (const [name, value] of node.xattrs)
          sameBytes(real.get(name) ?? Buffer.alloc(0), value, `${where} ${name}`);
      }
    }
  }
}

function sameBytes(seen: Buffer, expected: Buffer, what: string): void {
  assert.equal(seen.length, expected.length, `${what}: length`);
  if (seen.equals(expected)) return;
  let at = 0;
  while (seen[at] === expected[at]) at++;
  assert.fail(`${what}: byte ${at} is ${seen[at]}, expected ${expected[at]}`);
}

/** The seed of this run, told on the console; SQLFUSE_SEED sets it. */
export function seedOf(test: string): number {
  const set = process.env.SQLFUSE_SEED;
  const seed = set === undefined ? Date.now() % 1_000_000_007 : Number(set);
  console.log(`${test}: SQLFUSE_SEED=${seed}`);
  return seed;
}
