/**
 * What changed from one state of a volume to another, and in the life of one file.
 *
 * A STATE is an epoch: a kept one, or the current one, which is the present. Whatever changes of a file or directory,
 * its names too, changes its inode: so what changed after epoch A are the inodes whose row was born after A, and those
 * of which a row died after A. With the indexes of `INDEXES` that costs what changed since then, not what the volume
 * holds; where they cannot be made, one scan of each table stands in for them.
 *
 * Paths are latin1 strings, a character per byte: absolute, "" the root. Only rows that are written are seen: nobody
 * may have a change open.
 */
import type { Time } from "../base/clock.ts";
import type { Database } from "../db/database.ts";
import type { Statement } from "../db/statement.ts";
import { type Inode, inodeColumns, readInode } from "./inodes.ts";
import { isDirectory, isRegular } from "./mode.ts";
import { keptEpochs } from "./past.ts";
import { type Epoch, type Ino, ROOT_INO } from "./types.ts";

/** What the first question makes: see D5. */
export const INDEXES: readonly string[] = [
  "CREATE INDEX IF NOT EXISTS inode_born ON inode (born)",
  "CREATE INDEX IF NOT EXISTS dirent_ino ON dirent (ino)",
  "CREATE INDEX IF NOT EXISTS dirent_past_ino ON dirent_past (ino)",
];

/** What of an inode is not as it was. "replaced": another file, or another kind of file, has the name now. */
export type Aspect = "content" | "mode" | "owner" | "attributes" | "mtime" | "replaced";

/** A name that is not as it was, or what it names. */
export interface Change {
  readonly kind: "added" | "removed" | "modified" | "renamed";
  /** In the later state; of what was removed, in the earlier one. */
  readonly path: string;
  /** Of what was renamed: its path before. */
  readonly from?: string;
  /** Of what was modified, where it is a directory above it that was renamed: its path before. */
  readonly was?: string;
  readonly what: readonly Aspect[];
  /** Absent where there was nothing. */
  readonly before?: Inode;
  /** Absent where there is nothing any more. */
  readonly after?: Inode;
}

/** Something that happened to a file, as far as the kept states tell. */
export interface Event {
  readonly kind: "created" | "changed" | "replaced" | "deleted";
  /** Of the last change that it is made of; nothing tells it of a deletion. */
  readonly time?: Time;
  /** The oldest kept epoch that shows it; undefined: only the present does. */
  readonly epoch: Epoch | undefined;
  /** After it; of a deletion, before it. */
  readonly path: string;
  /** Where its path was another before. */
  readonly from?: string;
  readonly what: readonly Aspect[];
  /** In blocks that were written. */
  readonly writtenBytes: number;
  /** Of a directory: how many names came and went. */
  readonly namesAdded: number;
  readonly namesRemoved: number;
  readonly size: number;
}

/** An entry of a directory, from epoch `born` until `died`. */
interface Entry {
  readonly parent: Ino;
  /** Latin1. */
  readonly name: string;
  readonly born: number;
  readonly died: number;
}

const NEVER = Number.MAX_SAFE_INTEGER;
const DEEPEST = 4096;

export class Changes {
  readonly #db: Database;
  readonly #now: Epoch;
  readonly #since: Statement;
  readonly #inode: Statement;
  /** Undefined where there is no index for it: then all entries are read once, by inode. */
  readonly #entries: Statement | undefined;
  readonly #allNames: string;
  #scanned: ReadonlyMap<Ino, readonly Entry[]> | undefined;
  readonly #named: Statement;
  readonly #written: Statement;
  readonly #dropped: Statement;
  readonly #xattr: Statement;
  readonly #came: Statement;
  readonly #went: Statement;
  /** Paths of directories, by epoch and inode. */
  readonly #paths = new Map<string, string | undefined>();

  constructor(db: Database, now: Epoch) {
    this.#db = db;
    this.#now = now;
    this.#since = db.prepare(
      "SELECT ino FROM inode WHERE born > ?1 UNION SELECT ino FROM inode_past WHERE died > ?1 ORDER BY ino",
    );
    const inode = (table: string) =>
      `SELECT ${inodeColumns("i")} FROM ${table} AS i WHERE i.ino = ?1 AND i.born <= ?2 AND i.nlink > 0`;
    this.#inode = db.prepare(`${inode("inode")} UNION ALL ${inode("inode_past")} AND i.died > ?2`);
    const entries = (table: string, died: string) => `SELECT ino, parent, name, born, ${died} FROM ${table}`;
    const names = `${entries("dirent", `${NEVER}`)} WHERE ino = ?1
      UNION ALL ${entries("dirent_past", "died")} WHERE ino = ?1 ORDER BY parent, name`;
    if (isIndexed(db)) this.#entries = db.prepare(names);
    this.#allNames = names.replaceAll("WHERE ino = ?1", "");
    const named = (table: string) =>
      `SELECT ino FROM ${table} WHERE parent = ?1 AND name = ?2 AND born <= ?3`;
    this.#named = db.prepare(`${named("dirent")} UNION ALL ${named("dirent_past")} AND died > ?3`);
    const born = "ino = ?1 AND born > ?2 AND born <= ?3";
    const died = "ino = ?1 AND born <= ?2 AND died > ?2 AND died <= ?3";
    this.#written = db.prepare(
      `SELECT idx FROM extent WHERE ${born} AND block <> 0
       UNION ALL SELECT idx FROM extent_past WHERE ${born} AND died > ?3 AND block <> 0`,
    );
    this.#dropped = db.prepare(`SELECT 1 FROM extent_past WHERE ${died} AND block <> 0 LIMIT 1`);
    this.#xattr = db.prepare(
      `SELECT 1 FROM xattr WHERE ${born} UNION ALL SELECT 1 FROM xattr_past WHERE ${born} AND died > ?3
       UNION ALL SELECT 1 FROM xattr_past WHERE ${died} LIMIT 1`,
    );
    const came = born.replace("ino", "parent");
    this.#came = db.prepare(
      `SELECT (SELECT count(*) FROM dirent WHERE ${came})
         + (SELECT count(*) FROM dirent_past WHERE ${came} AND died > ?3)`,
    );
    this.#went = db.prepare(`SELECT count(*) FROM dirent_past WHERE ${died.replace("ino", "parent")}`);
  }

  /** What differs at and below `under` in state `to` from state `from`, by path. */
  between(from: Epoch, to: Epoch, under = ""): Change[] {
    const isUnder = (path: string | undefined) => path !== undefined && isWithin(path, under);
    return replacements(from <= to ? this.#all(from, to) : this.#all(to, from).map(turned))
      .filter(({ path, from: before, was }) => isUnder(path) || isUnder(before) || isUnder(was))
      .sort((a, b) => (a.path < b.path ? -1 : a.path > b.path ? 1 : 0));
  }

  #all(from: Epoch, to: Epoch): Change[] {
    return this.#changed(from).flatMap((ino) => this.#of(ino, from, to));
  }

  /** The inode that `path` names in a state, symlinks not followed; undefined where there is none. */
  find(path: string, epoch: Epoch): Ino | undefined {
    let ino = ROOT_INO;
    for (const name of path.split("/").slice(1)) {
      const row = this.#named.bindInt(1, ino).bindBlob(2, Buffer.from(name, "latin1")).bindInt(3, epoch);
      if (!row.step()) return undefined;
      ino = row.int(0) as Ino;
      row.reset();
    }
    return ino;
  }

  /** The newest kept epoch in which there is something at `path`. */
  lastSeen(path: string): Epoch | undefined {
    return keptEpochs(this.#db).findLast((epoch) => this.find(path, epoch) !== undefined);
  }

  /** What happened to the file at `path`, and to those that had the name before it, the newest first. */
  *log(path: string): Generator<Event> {
    const kept = keptEpochs(this.#db);
    const states = [...kept, this.#now];
    let name = path;
    for (let at = states.length - 1; ; ) {
      const seen = states.findLastIndex((epoch, i) => i <= at && this.find(name, epoch) !== undefined);
      const epoch = states[seen];
      const ino = epoch && this.find(name, epoch);
      const inode = ino && this.#at(ino, epoch);
      if (inode === undefined) return;
      if (seen < at) yield { ...this.#event("deleted", inode, kept[seen + 1]), path: name };
      const end = yield* this.#life(inode, name, epoch as Epoch, states);
      if (end === undefined) return;
      [name, at] = end;
    }
  }

  /**
   * The changes of one inode back from a state, where it has the name `last`; gives where its first name may have been
   * another's. Of several names the one that was asked for counts, as long as it is there.
   */
  *#life(
    last: Inode,
    lastName: string,
    state: Epoch,
    states: readonly Epoch[],
  ): Generator<Event, readonly [string, number] | undefined> {
    let inode = last;
    let path = lastName;
    let epoch = state;
    for (;;) {
      const { born } = inode;
      const shown = states.find((one) => one >= born) ?? epoch;
      const shownBy = shown === this.#now ? undefined : shown;
      path = this.#nameIn(shown, inode, path, epoch);
      const before = states.findLastIndex((one) => one < born);
      const then = states[before];
      const earlier = then && this.#at(inode.ino, then);
      if (then === undefined || earlier === undefined) {
        const place = then === undefined ? path : this.#placeIn(then, inode, path, shown);
        const wasThere = then !== undefined && this.find(place, then) !== undefined;
        yield { ...this.#event(wasThere ? "replaced" : "created", inode, shownBy), path };
        return then === undefined ? undefined : [place, before];
      }
      const from = this.#nameIn(then, inode, path, shown);
      const change = this.#changedEvent(earlier, then, inode, shown, shownBy);
      yield { ...change, path, ...(from === path ? {} : { from }) };
      [inode, path, epoch] = [earlier, from, then];
    }
  }

  /** The path in state `then` of an inode that has `path` in state `epoch`. */
  #nameIn(then: Epoch, inode: Inode, path: string, epoch: Epoch): string {
    const had = this.#entriesOf(inode.ino, then);
    const entry = this.#entryAt(inode, path, epoch);
    const same = had.find(({ parent, name }) => parent === entry?.parent && name === entry.name) ?? had[0];
    return same === undefined ? "" : this.#pathOf(same, then);
  }

  /** The path in state `then` of the place that an inode has by `path` in state `epoch`. */
  #placeIn(then: Epoch, inode: Inode, path: string, epoch: Epoch): string {
    const entry = this.#entryAt(inode, path, epoch);
    return entry === undefined ? path : this.#pathOf(entry, then);
  }

  #entryAt({ ino }: Inode, path: string, epoch: Epoch): Entry | undefined {
    return this.#entriesOf(ino, epoch).find((entry) => this.#pathOf(entry, epoch) === path);
  }

  #changedEvent(earlier: Inode, then: Epoch, inode: Inode, epoch: Epoch, shownBy: Epoch | undefined): Event {
    const directory = isDirectory(inode.mode);
    return {
      ...this.#event("changed", inode, shownBy),
      time: { sec: inode.ctimeSec, nsec: inode.ctimeNsec },
      what: this.#aspects(earlier, inode, then, epoch),
      writtenBytes: this.#writtenBytes(inode, then, epoch),
      namesAdded: directory ? this.#count(this.#came, inode.ino, then, epoch) : 0,
      namesRemoved: directory ? this.#count(this.#went, inode.ino, then, epoch) : 0,
    };
  }

  #event(kind: Event["kind"], inode: Inode, epoch: Epoch | undefined): Event {
    const time = { time: { sec: inode.btimeSec, nsec: inode.btimeNsec } };
    const nothing = { what: [], writtenBytes: 0, namesAdded: 0, namesRemoved: 0 };
    return { kind, ...(kind === "deleted" ? {} : time), epoch, path: "", size: inode.size, ...nothing };
  }

  #changed(from: Epoch): Ino[] {
    const inos: Ino[] = [];
    const rows = this.#since.bindInt(1, from);
    while (rows.step()) inos.push(rows.int(0) as Ino);
    return inos;
  }

  /** What became of one inode and its names. */
  #of(ino: Ino, from: Epoch, to: Epoch): Change[] {
    const before = this.#at(ino, from);
    const after = this.#at(ino, to);
    const both = { ...(before && { before }), ...(after && { after }) };
    const had = before === undefined ? [] : this.#entriesOf(ino, from);
    const has = after === undefined ? [] : this.#entriesOf(ino, to);
    const isIn = (list: readonly Entry[]) => (one: Entry) =>
      list.some(({ parent, name }) => parent === one.parent && name === one.name);
    const gone = had.filter((entry) => !isIn(has)(entry)).map((entry) => this.#pathOf(entry, from));
    const fresh = has.filter((entry) => !isIn(had)(entry)).map((entry) => this.#pathOf(entry, to));
    const what = before && after ? this.#aspects(before, after, from, to) : [];
    const changes: Change[] = [];
    for (const path of fresh) {
      const source = gone.shift();
      if (source === undefined) changes.push({ kind: "added", path, what: [], ...both });
      else changes.push({ kind: "renamed", path, from: source, what, ...both });
    }
    for (const path of gone) changes.push({ kind: "removed", path, what: [], ...both });
    if (what.length === 0) return changes;
    return [...changes, ...this.#same(ino, has.filter(isIn(had)), from, to, { what, ...both })];
  }

  /** Changes of what kept its names; the root has none, and is the same for ever. */
  #same(
    ino: Ino,
    entries: readonly Entry[],
    from: Epoch,
    to: Epoch,
    change: Omit<Change, "kind" | "path">,
  ): Change[] {
    if (ino === ROOT_INO) return [{ kind: "modified", path: "", ...change }];
    return entries.map((entry) => {
      const [was, path] = [this.#pathOf(entry, from), this.#pathOf(entry, to)];
      return { kind: "modified", path, ...(was === path ? {} : { was }), ...change };
    });
  }

  /** What a directory's names do to its times is no change of its own, nor is a count of links. */
  #aspects(before: Inode, after: Inode, from: Epoch, to: Epoch): Aspect[] {
    if (before.born === after.born) return [];
    const changed: Aspect[] = [];
    if (isRegular(after.mode) && this.#hasOtherContent(before, after, from, to)) changed.push("content");
    if (before.mode !== after.mode) changed.push("mode");
    if (before.uid !== after.uid || before.gid !== after.gid) changed.push("owner");
    if (isAny(this.#xattr.bindInt(1, after.ino).bindInt(2, from).bindInt(3, to))) changed.push("attributes");
    const sameTime = before.mtimeSec === after.mtimeSec && before.mtimeNsec === after.mtimeNsec;
    if (!sameTime && !isDirectory(after.mode) && !changed.includes("content")) changed.push("mtime");
    return changed;
  }

  #hasOtherContent(before: Inode, after: Inode, from: Epoch, to: Epoch): boolean {
    if (before.size !== after.size) return true;
    return [this.#written, this.#dropped].some((rows) =>
      isAny(rows.bindInt(1, after.ino).bindInt(2, from).bindInt(3, to)),
    );
  }

  #writtenBytes({ ino, blockSize, size }: Inode, from: Epoch, to: Epoch): number {
    const rows = this.#written.bindInt(1, ino).bindInt(2, from).bindInt(3, to);
    let bytes = 0;
    while (rows.step()) bytes += Math.max(0, Math.min(blockSize, size - rows.int(0) * blockSize));
    return bytes;
  }

  #count(rows: Statement, ino: Ino, from: Epoch, to: Epoch): number {
    rows.bindInt(1, ino).bindInt(2, from).bindInt(3, to);
    const count = rows.step() ? rows.int(0) : 0;
    rows.reset();
    return count;
  }

  #at(ino: Ino, epoch: Epoch): Inode | undefined {
    const row = this.#inode.bindInt(1, ino).bindInt(2, epoch);
    const inode = row.step() ? readInode(row, 0) : undefined;
    row.reset();
    return inode;
  }

  #entriesOf(ino: Ino, epoch: Epoch): readonly Entry[] {
    return this.#everyEntryOf(ino).filter(({ born, died }) => born <= epoch && epoch < died);
  }

  /** Of all times. */
  #everyEntryOf(ino: Ino): readonly Entry[] {
    const rows = this.#entries?.bindInt(1, ino);
    if (rows === undefined) {
      this.#scanned ??= scan(this.#db, this.#allNames);
      return this.#scanned.get(ino) ?? [];
    }
    const all: Entry[] = [];
    while (rows.step()) all.push(readEntry(rows));
    return all;
  }

  /** A directory that no path leads to, as damage may leave one, is called by its number. */
  #pathOf({ parent, name }: Entry, epoch: Epoch): string {
    return `${this.#directory(parent, epoch, 0) ?? `/#${parent}`}/${name}`;
  }

  #directory(ino: Ino, epoch: Epoch, depth: number): string | undefined {
    if (ino === ROOT_INO) return "";
    const key = `${epoch}:${ino}`;
    if (this.#paths.has(key)) return this.#paths.get(key);
    const [entry] = depth > DEEPEST ? [] : this.#entriesOf(ino, epoch);
    const above = entry && this.#directory(entry.parent, epoch, depth + 1);
    const path = entry === undefined || above === undefined ? undefined : `${above}/${entry.name}`;
    this.#paths.set(key, path);
    return path;
  }
}

function readEntry(row: Statement): Entry {
  const name = Buffer.from(row.blob(2)).toString("latin1");
  return { parent: row.int(1) as Ino, name, born: row.int(3), died: row.int(4) };
}

function scan(db: Database, sql: string): Map<Ino, Entry[]> {
  const found = new Map<Ino, Entry[]>();
  const rows = db.prepare(sql);
  while (rows.step()) {
    const ino = rows.int(0) as Ino;
    const entries = found.get(ino);
    if (entries === undefined) found.set(ino, [readEntry(rows)]);
    else entries.push(readEntry(rows));
  }
  db.release(rows);
  return found;
}

/** Whether the volume has what `INDEXES` makes. */
export function isIndexed(db: Database): boolean {
  const row = db.prepare("SELECT 1 FROM main.sqlite_schema WHERE name = 'dirent_past_ino'");
  const found = row.step();
  db.release(row);
  return found;
}

function isAny(rows: Statement): boolean {
  const found = rows.step();
  rows.reset();
  return found;
}

/** Whether `path` is `top` or below it. */
function isWithin(path: string, top: string): boolean {
  return path === top || path.startsWith(`${top}/`);
}

/** The same from the later state to the earlier one. */
function turned({ kind, path, from, was, what, before, after }: Change): Change {
  const kinds = { added: "removed", removed: "added", modified: "modified", renamed: "renamed" } as const;
  return {
    kind: kinds[kind],
    path: from ?? was ?? path,
    what,
    ...(from === undefined ? {} : { from: path }),
    ...(was === undefined ? {} : { was: path }),
    ...(after && { before: after }),
    ...(before && { after: before }),
  };
}

/** A name that one file lost and another got is one change, not two. */
function replacements(changes: readonly Change[]): Change[] {
  const removed = new Map(changes.filter(({ kind }) => kind === "removed").map((one) => [one.path, one]));
  const merged: Change[] = [];
  for (const change of changes) {
    const lost = change.kind === "added" || change.kind === "renamed" ? removed.get(change.path) : undefined;
    if (lost === undefined) merged.push(change);
    else {
      removed.delete(change.path);
      const before = lost.before && { before: lost.before };
      if (change.kind === "added")
        merged.push({ ...change, kind: "modified", what: ["replaced"], ...before });
      else merged.push({ ...change, what: ["replaced", ...change.what] });
    }
  }
  return merged.filter((one) => one.kind !== "removed" || removed.get(one.path) === one);
}
