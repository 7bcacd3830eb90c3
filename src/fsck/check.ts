/**
 * Whether a volume is whole: its pages, its -wal, SQLite's own structures, then the invariants.
 * Nothing is changed, and nothing is left beside the file. Every test of the core ends in this.
 *
 * The pages are read raw first: SQLite must not meet a damaged one, as nothing can be read on a
 * connection after that. Where one is damaged the rows that can be read are copied to memory, block
 * data excepted, and the invariants are asked there: so what is lost has a name.
 */
import { realpathSync } from "node:fs";
import { undecodable } from "../core/codec.ts";
import { OpenError } from "../core/errors.ts";
import {
  hexMeta,
  incompatibleFeatures,
  pendingUpgrades,
  readMeta,
  refuseTooNew,
  schemaSql,
  UPGRADES,
} from "../core/format.ts";
import {
  describeOlder,
  type Head,
  type HeadRecord,
  isOlder,
  readHead,
  readHeadFile,
  refuseOtherVolume,
} from "../core/head.ts";
import { FileLock } from "../core/lock.ts";
import { Names, showName, showText } from "../core/names.ts";
import { type Ino, MAX_FILE_SIZE } from "../core/types.ts";
import { Database } from "../db/database.ts";
import { SqliteError } from "../db/errors.ts";
import type { Key } from "../db/key.ts";
import { type BadPage, Pages } from "../db/pages.ts";
import { scanWal } from "../db/wal.ts";
import { brokenOf, type Invariant } from "./invariant.ts";
import { INVARIANTS } from "./invariants.ts";
import { type Gap, type Salvaged, salvage } from "./salvage.ts";

export interface Finding {
  /** Name of the invariant that is broken. */
  readonly kind: string;
  readonly ino?: Ino;
  /** A path that leads to the inode, where one does. */
  readonly path?: string;
  readonly text: string;
  /** What a repair does about it. */
  readonly remedy?: string;
}

export interface CheckOptions {
  /** Read the data of every block as well, and decode what is compressed. */
  readonly verifyData?: boolean;
  /** Check a file that another process has mounted, beside it. */
  readonly besideMount?: boolean;
  /** A head file to compare with: see head.ts. */
  readonly headFile?: string | undefined;
}

/** What a check is doing, for a progress bar; `total` 0: not known. */
export interface Progress {
  readonly phase: string;
  readonly done: number;
  readonly total: number;
}

/** How a repair must go about it: on the file itself, or by copying what can be read to a new one. */
type Extent = "nothing" | "rows" | "everything";

export interface Report {
  readonly findings: readonly Finding[];
  /** What is worth knowing and no damage. */
  readonly notices: readonly Finding[];
  readonly isMounted: boolean;
  /** What must be repaired. */
  readonly damage: Extent;
  readonly pages: number;
  readonly inodes: number;
  readonly blocks: number;
}

/** A block that cannot be decoded: all of it is lost. */
export const UNDECODABLE = "block-content";
/** Findings of one kind that are listed: more say nothing more. */
const MOST_OF_A_KIND = 1000;
const COPY_REMEDY = "what can be read is copied to a new file";

/**
 * Everything that is wrong with the volume at `path`. Empty for a whole one. Reads all of the file.
 * @throws OpenError locked, missing, too-new
 */
export function check(path: string, key: Key): Finding[] {
  return [...drain(inspect(path, key)).findings];
}

/** Runs a generator to its end. */
export function drain<T>(steps: Generator<unknown, T>): T {
  for (;;) {
    const step = steps.next();
    if (step.done === true) return step.value;
  }
}

/** As `check`, step by step: it can be abandoned between two of them. @throws OpenError */
export function* inspect(path: string, key: Key, options: CheckOptions = {}): Generator<Progress, Report> {
  const check = new Check(realPath(path), key, options);
  try {
    return yield* check.run();
  } finally {
    check.close();
  }
}

/** What the name leads to: the -wal lies beside that. @throws OpenError missing */
export function realPath(path: string): string {
  try {
    return realpathSync(path);
  } catch (cause) {
    throw new OpenError("missing", path, `${path}: no such file`, { cause });
  }
}

function requireHeadFile(path: string): HeadRecord {
  const record = readHeadFile(path);
  if (record !== undefined) return record;
  throw new OpenError("bad-head", path, `${path}: no such head; a mount with --head-file makes it`);
}

class Check {
  readonly #path: string;
  readonly #key: Key;
  readonly #options: CheckOptions;
  readonly #findings: Finding[] = [];
  readonly #notices: Finding[] = [];
  readonly #lock: FileLock | undefined;
  readonly #head: HeadRecord | undefined;
  #pages: Pages | undefined;
  #db: Database | undefined;
  /** Set where SQL cannot be trusted with the file. */
  #copyNeeded = false;

  constructor(path: string, key: Key, options: CheckOptions) {
    this.#path = path;
    this.#key = key;
    this.#options = options;
    // Before the volume is looked at: a mount goes on, and tells its head of each commit after it was made.
    this.#head = options.headFile === undefined ? undefined : requireHeadFile(options.headFile);
    try {
      this.#lock = new FileLock(path, true);
    } catch (error) {
      const isMount = error instanceof OpenError && error.reason === "locked" && error.pid !== process.pid;
      if (!isMount || options.besideMount !== true) throw error;
    }
  }

  get #isMounted(): boolean {
    return this.#lock === undefined;
  }

  *run(): Generator<Progress, Report> {
    // Beside a mount the transaction comes first: while it is open, no frame that it needs is written over.
    if (this.#isMounted) this.#db = this.#snapshot();
    this.#pages = new Pages(this.#path, this.#key);
    yield* this.#checkPages(this.#pages);
    this.#checkWal(this.#pages);
    let figures = { inodes: 0, blocks: 0 };
    if (!this.#copyNeeded) {
      this.#db ??= this.#openAlone();
      figures = yield* this.#checkRows(this.#db);
    }
    if (this.#copyNeeded) figures = yield* this.#checkCopy(this.#pages);
    const findings = this.#findings;
    return {
      findings,
      notices: this.#notices,
      isMounted: this.#isMounted,
      damage: this.#copyNeeded ? "everything" : findings.length > 0 ? "rows" : "nothing",
      pages: this.#pages.pageCount,
      ...figures,
    };
  }

  /** Descriptors of the file come last: closing one drops the locks that SQLite has on it. */
  close(): void {
    this.#db?.close();
    this.#pages?.close();
    this.#lock?.release();
  }

  #snapshot(): Database {
    const db = new Database(this.#path, this.#key, { mode: "readonly" });
    try {
      db.exec("PRAGMA temp_store = MEMORY");
      db.exec("PRAGMA busy_timeout = 10000");
      db.exec("BEGIN");
      db.exec("SELECT count(*) FROM sqlite_schema");
      return db;
    } catch (error) {
      if (!(error instanceof SqliteError) || !error.isDamage) {
        db.close();
        throw error;
      }
      this.#copyNeeded = true;
      return db;
    }
  }

  #openAlone(): Database {
    // SQLite makes a -wal where there is none, and removes one that has no commit, unless it is told that nothing changes.
    const how = (this.#pages?.wal?.replayed ?? 0) === 0 ? { immutable: true } : { alone: true };
    const db = new Database(this.#path, this.#key, { mode: "readonly", ...how });
    db.exec("PRAGMA temp_store = MEMORY");
    return db;
  }

  #find(kind: string, text: string, remedy: string, more: { ino?: Ino; path?: string } = {}): void {
    this.#findings.push({ kind, ...more, text, remedy });
  }

  // --- pages

  *#checkPages(pages: Pages): Generator<Progress> {
    // Beside a mount the -wal moves on, and what it holds SQLite checks when it reads it.
    const foreign = pages.useWal(this.#isMounted ? "none" : "replayed");
    for (const frame of foreign) {
      this.#copyNeeded = true;
      this.#find("wal-page", `frame ${frame.no} of the -wal is no page of this volume`, COPY_REMEDY);
    }
    const scan = pages.scan(this.#isMounted);
    for (;;) {
      const step = scan.next();
      if (step.done === true) {
        this.#badPages(pages, step.value);
        break;
      }
      yield { phase: "pages", done: step.value, total: pages.pageCount };
    }
    if (this.#isMounted || this.#copyNeeded) return;
    const expected = pages.pageCount * pages.pageSize;
    if (pages.size > expected && pages.wal === undefined)
      this.#find(
        "file-size",
        `the file has ${pages.size - expected} bytes behind its last page`,
        "they are cut off",
      );
  }

  #badPages(pages: Pages, bad: readonly BadPage[]): void {
    const inWal = new Set(this.#isMounted ? pages.wal?.frames.map((frame) => frame.pageNo) : []);
    for (const { pageNo, how } of bad) {
      if (inWal.has(pageNo)) continue;
      this.#copyNeeded = true;
      const text = {
        damaged: "is damaged",
        zero: "is all zeros",
        missing: "is missing: the file ends before it",
      };
      this.#find("page", `page ${pageNo} ${text[how]}`, COPY_REMEDY);
    }
  }

  #checkWal(pages: Pages): void {
    const { wal } = pages;
    if (wal === undefined) return;
    if (wal.isCut && !this.#isStillCut()) return;
    if (wal.isCut) {
      this.#copyNeeded = true;
      const what = wal.headerDamaged ? "its header" : `frame ${wal.brokenAt} of it`;
      this.#find(
        "wal",
        `the -wal is damaged: ${what} cuts off ${wal.cutCommits} commits`,
        "they are put back as far as their pages can be read",
      );
    } else if (wal.headerDamaged && wal.frames.length > 0) {
      this.#notice("wal", "the -wal has a damaged header, and no commit behind it");
    } else if (wal.unfinished > 0 && !this.#isMounted) {
      this.#notice(
        "wal",
        `the -wal ends in an unfinished commit of ${wal.unfinished} pages, as a crash leaves it`,
      );
    } else if (wal.replayed > 0 && !this.#isMounted) {
      this.#notice("wal", "the last changes are in the -wal, as a crash leaves them; they count");
    }
  }

  /** Beside a mount the -wal may have been started over while it was read. */
  #isStillCut(): boolean {
    if (!this.#isMounted) return true;
    const ATTEMPTS = 3;
    for (let attempt = 0; attempt < ATTEMPTS; attempt++)
      if (scanWal(`${this.#path}-wal`, this.#key.cipher.pageSize)?.isCut !== true) return false;
    return true;
  }

  #notice(kind: string, text: string): void {
    this.#notices.push({ kind, text });
  }

  // --- rows

  *#checkRows(db: Database): Generator<Progress, { inodes: number; blocks: number }> {
    const figures = { inodes: 0, blocks: 0 };
    try {
      yield { phase: "structure", done: 0, total: 0 };
      // Where it is no list, an invariant says so.
      refuseTooNew(db, incompatibleFeatures(db) ?? []);
      if (!this.#checkSchema(db)) return figures;
      const lines = db.prepare("PRAGMA integrity_check(100)");
      while (lines.step()) if (lines.text(0) !== "ok") this.#structure(lines.text(0));
      db.release(lines);
      if (this.#copyNeeded) return figures;
      yield* this.#checkInvariants(db, INVARIANTS);
      this.#checkHead(db);
      if (this.#options.verifyData === true) yield* this.#readData(db);
      this.#count(db, figures);
      if (db.isPoisoned) this.#structure("a page has a wrong HMAC");
    } catch (error) {
      if (!(error instanceof SqliteError) || !error.isDamage) throw error;
      this.#copyNeeded = true;
      this.#find("sqlite", error.message, COPY_REMEDY);
    }
    return figures;
  }

  /** Whether the tables are those of the format; indexes and triggers can be mended in place. */
  #checkSchema(db: Database): boolean {
    for (const { type, name, what } of schemaDifferences(db, this.#key)) {
      if (type === "table") this.#copyNeeded = true;
      const remedy = type === "table" ? COPY_REMEDY : what === "unknown" ? "is removed" : "is made again";
      this.#find("schema", `the ${type} ${name} is ${what}`, remedy);
    }
    return !this.#copyNeeded;
  }

  #structure(line: string): void {
    const ofIndex = /missing from index|wrong # of entries in index|non-unique entry in index/.test(line);
    if (!ofIndex) this.#copyNeeded = true;
    this.#find("sqlite", line, ofIndex ? "the indexes are made again" : COPY_REMEDY);
  }

  *#checkInvariants(db: Database, invariants: readonly Invariant[]): Generator<Progress> {
    const names = new Names(db);
    for (const [i, { kind, broken, remedy }] of invariants.entries()) {
      yield { phase: "tree", done: i, total: invariants.length };
      let count = 0;
      for (const one of brokenOf(db, broken)) {
        if (++count > MOST_OF_A_KIND) continue;
        const { ino, entry, text } = one;
        const path =
          entry !== undefined
            ? names.pathOfEntry(entry.parent as Ino, entry.name)
            : ino > 0
              ? names.pathOf(ino as Ino)
              : undefined;
        const where = { ...(ino > 0 ? { ino: ino as Ino } : {}), ...(path === undefined ? {} : { path }) };
        this.#find(kind, showText(text), remedy, where);
      }
      if (count > MOST_OF_A_KIND) this.#find(kind, `${count - MOST_OF_A_KIND} more like these`, remedy);
    }
    const orphans = numberOf(db, "SELECT count(*) FROM inode WHERE nlink = 0");
    if (orphans > 0 && !this.#isMounted)
      this.#notice("orphan", `${orphans} unlinked files wait to be purged, which the next mount does`);
  }

  #checkHead(db: Database): void {
    const { headFile } = this.#options;
    if (this.#head === undefined || headFile === undefined) return;
    let volume: Head | undefined;
    try {
      refuseOtherVolume(hexMeta(db, "volume_id"), this.#head, headFile);
      volume = readHead(db);
    } catch (error) {
      // What is damaged an invariant says: such a volume has no head.
      if (!(error instanceof OpenError) || error.reason !== "damaged") throw error;
    }
    if (!isOlder(volume, this.#head)) return;
    const text = `the volume is ${describeOlder(volume, this.#head, headFile)}`;
    this.#find("head", text, "this state is taken for the newest one from now on");
  }

  /** Reads every byte of every block: what else can be wrong with one than its page. */
  *#readData(db: Database): Generator<Progress> {
    const total = numberOf(db, "SELECT count(*) FROM block");
    const rows = db.prepare("SELECT id, codec, data FROM block");
    const SLICE = 256;
    const lost = new Map<number, Gap>();
    let done = 0;
    while (rows.step()) {
      const bytes = undecodable(rows.int(1), rows.blob(2), true);
      if (bytes !== undefined) lost.set(rows.int(0), { from: 0, to: bytes });
      if (++done % SLICE === 0) yield { phase: "data", done, total };
    }
    db.release(rows);
    this.#findings.push(...lostRanges(db, lost, UNDECODABLE, "cannot be decoded"));
    const nobodys = db.prepare(
      "SELECT ?1 WHERE ?1 NOT IN (SELECT block FROM extent) AND ?1 NOT IN (SELECT block FROM extent_past)",
    );
    for (const block of lost.keys()) {
      if (!nobodys.bindInt(1, block).step()) continue;
      nobodys.reset();
      this.#find(UNDECODABLE, `block ${block}, which no file has, cannot be decoded`, "is dropped");
    }
    db.release(nobodys);
  }

  #count(db: Database, figures: { inodes: number; blocks: number }): void {
    figures.inodes = numberOf(db, "SELECT count(*) FROM inode");
    figures.blocks = numberOf(db, "SELECT count(*) FROM block");
  }

  // --- what can still be read

  *#checkCopy(pages: Pages): Generator<Progress, { inodes: number; blocks: number }> {
    pages.useWal(overlayOf(pages));
    const copy = new Database(":memory:", this.#key, { mode: "create" });
    try {
      copy.exec(schemaSql());
      const steps = salvage(pages, copy, false);
      let salvaged: Salvaged;
      for (;;) {
        const step = steps.next();
        if (step.done === true) {
          salvaged = step.value;
          break;
        }
        yield { phase: "rescue", done: step.value, total: 0 };
      }
      for (const [pageNo, owner] of salvaged.lost) this.#sayWhose(pageNo, owner);
      yield* this.#checkInvariants(
        copy,
        INVARIANTS.filter(({ kind }) => kind !== "header"),
      );
      this.#checkHead(copy);
      this.#findings.push(
        ...lostRanges(copy, salvaged.partial, "unreadable", "cannot be read"),
        ...unreadableAttributes(copy, salvaged),
      );
      const figures = { inodes: 0, blocks: 0 };
      this.#count(copy, figures);
      return figures;
    } finally {
      copy.close();
    }
  }

  /** Adds to the finding of a page to whom it belongs. */
  #sayWhose(pageNo: number, owner: string): void {
    const at = this.#findings.findIndex(({ text }) => text.startsWith(`page ${pageNo} `));
    const found = this.#findings[at];
    if (found === undefined) this.#find("page", `page ${pageNo} cannot be read (${owner})`, COPY_REMEDY);
    else this.#findings[at] = { ...found, text: `${found.text} (${owner})` };
  }
}

/** Which frames of the -wal to read for a rescue: all, where its end was cut off. */
export function overlayOf(pages: Pages): "replayed" | "written" {
  return pages.wal?.isCut === true ? "written" : "replayed";
}

/** The bytes of files that are lost with these gaps in blocks. */
function lostRanges(db: Database, partial: ReadonlyMap<number, Gap>, kind: string, why: string): Finding[] {
  if (partial.size === 0) return [];
  const names = new Names(db);
  const findings: Finding[] = [];
  const rows = db.prepare(
    `SELECT e.ino, e.idx, e.block, i.block_size, i.size, ''
       FROM extent AS e JOIN inode AS i ON i.ino = e.ino
     UNION ALL SELECT e.ino, e.idx, e.block, ifnull(i.block_size, 0), ${MAX_FILE_SIZE}, ' of its past'
       FROM extent_past AS e LEFT JOIN inode AS i ON i.ino = e.ino`,
  );
  while (rows.step()) {
    const gap = partial.get(rows.int(2));
    if (gap === undefined) continue;
    const [ino, start] = [rows.int(0) as Ino, rows.int(1) * rows.int(3)];
    const end = Math.min(start + gap.to, rows.int(4));
    const path = names.pathOf(ino);
    findings.push({
      kind,
      ino,
      ...(path === undefined ? {} : { path }),
      text: `bytes ${start + gap.from} to ${end - 1}${rows.text(5)} ${why}`,
      remedy: "a hole takes their place",
    });
  }
  db.release(rows);
  return findings;
}

/** The attributes that are lost, each or by the inodes that may have had some. */
function unreadableAttributes(db: Database, { attributes, attributeGaps }: Salvaged): Finding[] {
  const names = new Names(db);
  const find = (ino: number, text: string): Finding => {
    const path = names.pathOf(ino as Ino);
    return {
      kind: "unreadable",
      ino: ino as Ino,
      ...(path === undefined ? {} : { path }),
      text,
      remedy: "is removed",
    };
  };
  const findings = attributes.map(([ino, name]) => find(ino, `attribute ${showName(name)} cannot be read`));
  const has = db.prepare("SELECT ino FROM inode WHERE ino BETWEEN ?1 AND ?2");
  for (const [from, to] of attributeGaps) {
    has.bindInt(1, from).bindInt(2, to);
    while (has.step()) findings.push(find(has.int(0), "attributes that it may have had cannot be read"));
  }
  db.release(has);
  return findings;
}

interface Difference {
  readonly type: string;
  readonly name: string;
  readonly what: "missing" | "changed" | "unknown";
  /** What makes it, where it is known. */
  readonly sql: string;
}

/** How the schema differs from the one of the format. Tables and indexes that are not ours are a newer minor's. */
export function schemaDifferences(db: Database, key: Key, upgrades = UPGRADES): Difference[] {
  const reference = new Database(":memory:", key, { mode: "create" });
  try {
    reference.exec(schemaSql());
    const expected = schemaOf(reference);
    const found = schemaOf(db);
    const differences: Difference[] = [];
    const awaited = awaitedBy(db, upgrades);
    for (const [name, { type, sql }] of expected) {
      const there = found.get(name);
      if (there === undefined && awaited(name)) continue;
      if (there === undefined) differences.push({ type, name, what: "missing", sql });
      else if (plain(there.sql) !== plain(sql)) differences.push({ type, name, what: "changed", sql });
    }
    for (const [name, { type, sql }] of found)
      if (!expected.has(name) && (type === "trigger" || type === "view"))
        differences.push({ type, name, what: "unknown", sql });
    return differences;
  } finally {
    reference.close();
  }
}

/** What the volume lacks since it is of an older minor. */
function awaitedBy(db: Database, upgrades: readonly string[]): (name: string) => boolean {
  if (!/^\d+\.\d+\.\d+$/.test(readMeta(db, "format") ?? "")) return () => false;
  const sql = pendingUpgrades(db, upgrades).join(";\n");
  return (name) => new RegExp(`CREATE (TABLE|(UNIQUE )?INDEX) IF NOT EXISTS ${name}\\b`).test(sql);
}

function schemaOf(db: Database): Map<string, { type: string; sql: string }> {
  const rows = db.prepare("SELECT name, type, sql FROM sqlite_schema WHERE sql IS NOT NULL");
  const found = new Map<string, { type: string; sql: string }>();
  while (rows.step()) found.set(rows.text(0), { type: rows.text(1), sql: rows.text(2) });
  db.release(rows);
  return found;
}

/** SQL without comments and spaces: these may change without the format changing. */
function plain(sql: string): string {
  return sql.replace(/--[^\n]*/g, "").replace(/\s+/g, "");
}

function numberOf(db: Database, sql: string): number {
  const row = db.prepare(sql);
  const value = row.step() ? row.int(0) : 0;
  db.release(row);
  return value;
}
