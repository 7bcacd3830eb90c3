/** The tree against a model in memory: random operations, refused ones too, references, remounts. */
import { describe, expect, it } from "vitest";
import type { ErrnoName } from "../../src/base/errno.ts";
import { type Attr, type Ino, RENAME_EXCHANGE, RENAME_NOREPLACE } from "../../src/core/types.ts";
import type { Volume } from "../../src/core/volume.ts";
import {
  CALLER,
  errnoOf,
  type Fixture,
  inVolume,
  NOBODY,
  ROOT,
  S_IFDIR,
  S_IFIFO,
  S_IFLNK,
  S_IFREG,
  settle,
} from "./fixture.ts";
import { type Random, withRandom } from "./random.ts";

interface Entry {
  readonly node: Node;
  /** Seen first, and not to change while the entry lives. */
  cookie: number | undefined;
}

interface Node {
  readonly type: number;
  ino: Ino;
  nlink: number;
  references: number;
  /** Of a directory. */
  readonly entries: Map<string, Entry>;
  parent: Node | undefined;
  mtime: string;
  ctime: string;
  btime: string;
}

const NAMES = ["a", "b", "c", "d", "e", "f", "g"];
const STRANGE = ["", ".", "..", "x/y", "nul\0", "n".repeat(255), "n".repeat(256), "\xff\xfe"];

const isDirectory = (node: Node) => node.type === S_IFDIR;
const bytes = (name: string) => Buffer.from(name, "latin1");

/** The refusals that apply to a name that must not or must be there. */
function nameErrors(name: string): ErrnoName[] {
  if (name === "") return ["ENOENT"];
  if (name.length > 255) return ["ENAMETOOLONG"];
  return name.includes("/") || name.includes("\0") ? ["EINVAL"] : [];
}

class Run {
  readonly fixture: Fixture;
  readonly random: Random;
  readonly step: (text: string) => void;
  readonly root: Node;
  /** All inodes that exist: named or referenced. */
  readonly nodes = new Set<Node>();

  constructor(fixture: Fixture, random: Random, step: (text: string) => void) {
    this.fixture = fixture;
    this.random = random;
    this.step = step;
    this.root = this.node(S_IFDIR, this.volume.attributes.getattr(ROOT));
    this.root.nlink = 2;
    this.root.parent = this.root;
  }

  get volume(): Volume {
    return this.fixture.volume;
  }

  get now(): string {
    return `${this.fixture.clock.sec}.${this.fixture.clock.nsec}`;
  }

  node(type: number, { ino }: Attr): Node {
    const { now } = this;
    const node: Node = {
      type,
      ino,
      nlink: 1,
      references: 0,
      entries: new Map(),
      parent: undefined,
      mtime: now,
      ctime: now,
      btime: now,
    };
    this.nodes.add(node);
    return node;
  }

  /** Runs an operation: refused with one of `errors`, or else it must succeed. */
  attempt(text: string, errors: readonly ErrnoName[], run: () => void): boolean {
    this.step(text);
    const code = errnoOf(run);
    if (errors.length === 0) expect([text, code]).toEqual([text, "ok"]);
    else expect(errors, `${text}: ${code}`).toContain(code);
    return code === "ok";
  }

  /** A parent to work in, most often a directory, with the refusals that it means. */
  parent(): { node: Node | undefined; ino: Ino; errors: ErrnoName[]; making: ErrnoName[] } {
    const { random } = this;
    if (random.chance(0.02)) return { node: undefined, ino: NOBODY, errors: ["ESTALE"], making: ["ESTALE"] };
    const all = [...this.nodes];
    const node = random.chance(0.03) ? random.pick(all) : random.pick(all.filter(isDirectory));
    const errors: ErrnoName[] = isDirectory(node) ? [] : ["ENOTDIR"];
    const removed = isDirectory(node) && node.nlink === 0;
    return { node, ino: node.ino, errors, making: removed ? ["ENOENT"] : errors };
  }

  name(): string {
    return this.random.chance(0.05) ? this.random.pick(STRANGE) : this.random.pick(NAMES);
  }

  /** An existing name, now and then. */
  nameIn(directory: Node | undefined): string {
    const names = [...(directory?.entries.keys() ?? [])];
    return names.length > 0 && this.random.chance(0.8) ? this.random.pick(names) : this.name();
  }

  changed(...directories: Node[]): void {
    for (const directory of directories) directory.mtime = directory.ctime = this.now;
  }

  make(): void {
    const { random, volume } = this;
    const { node: parent, ino, making } = this.parent();
    const name = this.name();
    const type = random.pick([S_IFREG, S_IFDIR, S_IFDIR, S_IFLNK, S_IFIFO]);
    const errors = [...making, ...nameErrors(name)];
    if (name === "." || name === ".." || parent?.entries.has(name)) errors.push("EEXIST");
    let attr: Attr | undefined;
    const done = this.attempt(`make ${type.toString(8)} ${ino}/${name}`, errors, () => {
      if (type === S_IFDIR) attr = volume.tree.mkdir(ino, bytes(name), 0o755, CALLER);
      else if (type === S_IFLNK) attr = volume.tree.symlink(ino, bytes(name), bytes("target"), CALLER);
      else attr = volume.tree.mknod(ino, bytes(name), type | 0o644, 0, CALLER);
    });
    if (!done || attr === undefined || parent === undefined) return;
    const node = this.node(type, attr);
    parent.entries.set(name, { node, cookie: undefined });
    if (type === S_IFDIR) {
      node.nlink = 2;
      node.parent = parent;
      parent.nlink++;
    }
    this.changed(parent);
  }

  tmpfile(): void {
    const { node: parent, ino, making } = this.parent();
    let attr: Attr | undefined;
    const done = this.attempt(`tmpfile ${ino}`, making, () => {
      attr = this.volume.tree.tmpfile(ino, 0o600, CALLER);
    });
    if (!done || attr === undefined || parent === undefined) return;
    const node = this.node(S_IFREG, attr);
    node.nlink = 0;
    node.references = 1;
    this.volume.inodes.ref(node.ino);
  }

  link(): void {
    const node = this.random.pick([...this.nodes]);
    const { node: parent, ino, making } = this.parent();
    const name = this.name();
    const errors = [...making, ...nameErrors(name)];
    if (isDirectory(node)) errors.push("EPERM");
    if (name === "." || name === ".." || parent?.entries.has(name)) errors.push("EEXIST");
    const done = this.attempt(`link ${node.ino} ${ino}/${name}`, errors, () => {
      this.volume.tree.link(node.ino, ino, bytes(name));
    });
    if (!done || parent === undefined) return;
    node.nlink++;
    node.ctime = this.now;
    parent.entries.set(name, { node, cookie: undefined });
    this.changed(parent);
  }

  /** What is left of an inode that lost an entry. */
  dropped(node: Node, links: number): void {
    node.nlink -= links;
    node.ctime = this.now;
    node.parent = undefined;
    if (node.nlink === 0 && node.references === 0) this.nodes.delete(node);
  }

  unlink(): void {
    const { node: parent, ino, errors: parentErrors } = this.parent();
    const name = this.nameIn(parent);
    const entry = parent?.entries.get(name);
    const errors = [...parentErrors, ...nameErrors(name)];
    if (entry === undefined) errors.push("ENOENT");
    else if (isDirectory(entry.node)) errors.push("EISDIR");
    if (name === "." || name === "..") errors.push("EISDIR", "EINVAL");
    const done = this.attempt(`unlink ${ino}/${name}`, errors, () =>
      this.volume.tree.unlink(ino, bytes(name)),
    );
    if (!done || parent === undefined || entry === undefined) return;
    parent.entries.delete(name);
    this.changed(parent);
    this.dropped(entry.node, 1);
  }

  rmdir(): void {
    const { node: parent, ino, errors: parentErrors } = this.parent();
    const name = this.nameIn(parent);
    const entry = parent?.entries.get(name);
    const errors = [...parentErrors, ...nameErrors(name)];
    if (entry === undefined) errors.push("ENOENT");
    else if (!isDirectory(entry.node)) errors.push("ENOTDIR");
    else if (entry.node.entries.size > 0) errors.push("ENOTEMPTY");
    if (name === ".") errors.push("EINVAL");
    if (name === "..") errors.push("ENOTEMPTY");
    const done = this.attempt(`rmdir ${ino}/${name}`, errors, () => this.volume.tree.rmdir(ino, bytes(name)));
    if (!done || parent === undefined || entry === undefined) return;
    parent.entries.delete(name);
    parent.nlink--;
    this.changed(parent);
    this.dropped(entry.node, 2);
  }

  isBelow(node: Node | undefined, ancestor: Node): boolean {
    for (let at = node; at !== undefined; at = at.parent) {
      if (at === ancestor) return true;
      if (at === this.root) return false;
    }
    return false;
  }

  rename(): void {
    const { random } = this;
    const flags = random.pick([0, 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_EXCHANGE, 3]);
    const from = this.parent();
    const to = random.chance(0.3) ? from : this.parent();
    const name = this.nameIn(from.node);
    const newName = random.chance(0.5) ? this.nameIn(to.node) : this.name();
    const entry = from.node?.entries.get(name);
    const target = to.node?.entries.get(newName);
    const errors = [...from.errors, ...to.making, ...nameErrors(name), ...nameErrors(newName)];
    const exchange = flags === RENAME_EXCHANGE;
    if (flags === 3) errors.push("EINVAL");
    if (entry === undefined) errors.push("ENOENT");
    if (newName === "." || newName === "..") errors.push("EINVAL", "EEXIST");
    if (flags === RENAME_NOREPLACE && target !== undefined) errors.push("EEXIST");
    if (exchange && target === undefined) errors.push("ENOENT");
    const same = target?.node === entry?.node;
    if (entry !== undefined && !same) {
      const moves = isDirectory(entry.node);
      if (moves && this.isBelow(to.node, entry.node)) errors.push("EINVAL");
      if (target !== undefined && exchange) {
        if (isDirectory(target.node) && this.isBelow(from.node, target.node)) errors.push("EINVAL");
      } else if (target !== undefined) {
        if (isDirectory(target.node) && !moves) errors.push("EISDIR");
        if (!isDirectory(target.node) && moves) errors.push("ENOTDIR");
        if (isDirectory(target.node) && target.node.entries.size > 0) errors.push("ENOTEMPTY");
      }
    }
    const text = `rename ${from.ino}/${name} ${to.ino}/${newName} flags ${flags}`;
    const done = this.attempt(text, errors, () =>
      this.volume.tree.rename(from.ino, bytes(name), to.ino, bytes(newName), flags),
    );
    if (!done || same || !from.node || !to.node || entry === undefined) return;
    const [one, other] = [from.node, to.node];
    const rehome = (node: Node, before: Node, after: Node) => {
      if (!isDirectory(node)) return;
      before.nlink--;
      after.nlink++;
      node.parent = after;
    };
    if (exchange && target !== undefined) {
      one.entries.set(name, { node: target.node, cookie: entry.cookie });
      other.entries.set(newName, { node: entry.node, cookie: target.cookie });
      rehome(entry.node, one, other);
      rehome(target.node, other, one);
      target.node.ctime = this.now;
    } else {
      one.entries.delete(name);
      other.entries.set(newName, entry);
      if (target !== undefined) {
        if (isDirectory(target.node)) other.nlink--;
        this.dropped(target.node, isDirectory(target.node) ? 2 : 1);
      }
      rehome(entry.node, one, other);
    }
    entry.node.ctime = this.now;
    this.changed(one, other);
  }

  refer(): void {
    const node = this.random.pick([...this.nodes]);
    if (node.references > 0 && this.random.chance(0.6)) {
      const count = this.random.between(1, node.references);
      this.step(`unref ${node.ino} ${count}`);
      this.volume.inodes.unref(node.ino, count);
      node.references -= count;
      if (node.references === 0 && node.nlink === 0) this.nodes.delete(node);
    } else {
      this.step(`ref ${node.ino}`);
      this.volume.inodes.ref(node.ino);
      node.references++;
    }
  }

  remount(): void {
    this.step("remount");
    for (const node of [...this.nodes]) {
      node.references = 0;
      if (node.nlink === 0) this.nodes.delete(node);
    }
    this.fixture.remount();
  }

  operate(): void {
    const { random } = this;
    if (random.chance(0.3)) this.fixture.clock.advance(random.below(3000));
    const kind = random.below(100);
    if (kind < 30) this.make();
    else if (kind < 38) this.link();
    else if (kind < 50) this.unlink();
    else if (kind < 60) this.rmdir();
    else if (kind < 82) this.rename();
    else if (kind < 84) this.tmpfile();
    else if (kind < 92) this.refer();
    else if (kind < 94) this.remount();
    else if (kind < 95) this.volume.closeEpoch();
    else if (kind < 97) settle(this.volume, this.fixture.clock);
    else this.compare();
  }

  compare(): void {
    const { volume } = this;
    const seen = new Set<Node>();
    for (const node of this.nodes) {
      const attr = volume.attributes.getattr(node.ino);
      const got = {
        ino: attr.ino,
        type: attr.mode & 0o170000,
        nlink: attr.nlink,
        mtime: `${attr.mtimeSec}.${attr.mtimeNsec}`,
        ctime: `${attr.ctimeSec}.${attr.ctimeNsec}`,
        btime: `${attr.btimeSec}.${attr.btimeNsec}`,
      };
      const { ino, type, nlink, mtime, ctime, btime } = node;
      expect(got).toEqual({ ino, type, nlink, mtime, ctime, btime });
      seen.add(node);
      if (!isDirectory(node)) continue;
      if (node.parent !== undefined) expect(volume.tree.parentOf(ino)).toBe(node.parent.ino);
      const names: string[] = [];
      let last = 2;
      volume.tree.readdir(ino, 0, (shown) => {
        const name = Buffer.from(shown.name).toString("latin1");
        names.push(name);
        const entry = node.entries.get(name);
        entry!.cookie ??= shown.cookie;
        expect([name, shown.ino, shown.type, shown.cookie]).toEqual([
          name,
          entry?.node.ino,
          entry?.node.type,
          entry?.cookie,
        ]);
        expect(shown.cookie).toBeGreaterThan(last);
        last = shown.cookie;
        expect(volume.tree.lookup(ino, shown.name)?.ino).toBe(shown.ino);
        return true;
      });
      expect(names.sort()).toEqual([...node.entries.keys()].sort());
    }
    expect(seen.has(this.root)).toBe(true);
  }
}

describe("the tree is what a model says, after random operations", () => {
  it.each([1, 2, 3, 4])("run %i", () => {
    withRandom((random, step) =>
      inVolume(
        (fixture) => {
          const run = new Run(fixture, random, step);
          for (let i = 0; i < 1000; i++) run.operate();
          run.compare();
          run.remount();
          run.compare();
          const { files, ffree } = fixture.volume.statfs();
          expect(files - ffree).toBe(run.nodes.size);
        },
        { volume: { noatime: true } },
      ),
    );
  });
});
