/**
 * Repair of a volume that `inspect` found damaged. Each way ends whole or not at all, and a second
 * run finds nothing to do.
 *
 * Where only rows are wrong, they are mended in one transaction on the file itself. Where pages are
 * damaged, what can be read is copied to a new file, mended there and checked; then it takes the
 * name, and the damaged file stays beside it as FILE.damaged-TIME.
 */
import { existsSync, linkSync, renameSync, rmSync, statfsSync, statSync, truncateSync } from "node:fs";
import { dirname } from "node:path";
import { type Clock, systemClock } from "../base/clock.ts";
import { RAW } from "../core/codec.ts";
import { Draft } from "../core/draft.ts";
import { OpenError } from "../core/errors.ts";
import { schemaSql } from "../core/format.ts";
import { acceptState } from "../core/head.ts";
import { FileLock } from "../core/lock.ts";
import { Database } from "../db/database.ts";
import type { Key } from "../db/key.ts";
import { Pages } from "../db/pages.ts";
import {
  type Finding,
  inspect,
  overlayOf,
  type Progress,
  type Report,
  realPath,
  schemaDifferences,
  UNDECODABLE,
} from "./check.ts";
import { brokenOf } from "./invariant.ts";
import { INVARIANTS } from "./invariants.ts";
import { Mender, type Placement } from "./mender.ts";
import { startRemotesOver } from "./remoteinvariants.ts";
import { salvage } from "./salvage.ts";

export interface Repaired {
  /** What is still wrong. */
  readonly left: readonly Finding[];
  /** What got a place in /lost+found. */
  readonly placed: readonly Placement[];
  /** Bytes of files that could not be saved. */
  readonly unreadable: readonly Finding[];
  /** Where the damaged file is kept, where a new one took its name. */
  readonly kept: string | undefined;
}

/** Mending one thing can show another: a few rounds are enough for any volume. */
const MOST_ROUNDS = 8;
const COPY_CACHE_BYTES = 64 * 2 ** 20;
/** Kinds of findings that tell lost bytes. */
const LOST_BYTES = ["unreadable", "block-missing", "block-codec", UNDECODABLE];

/**
 * Repairs what `report` found; where that says that the volume is older than `headFile`, its state is accepted. Abandoned between two steps, it has changed nothing.
 * @throws OpenError locked, missing; SqliteError, and the errors of fs, as for a full disk
 */
export function* repair(
  path: string,
  key: Key,
  report: Report,
  clock: Clock = systemClock,
  headFile?: string,
): Generator<Progress, Repaired> {
  const real = realPath(path);
  const lock = new FileLock(real, false);
  let done: Omit<Repaired, "left">;
  try {
    done =
      report.damage === "everything"
        ? yield* copyAndMend(real, key, report, clock)
        : yield* mendInPlace(real, key, report, clock);
    const isOlder = report.findings.some(({ kind }) => kind === "head");
    if (headFile !== undefined && isOlder) acceptState(real, key, headFile);
  } finally {
    lock.release();
  }
  // A copy was checked before it took the name.
  if (done.kept !== undefined) return { ...done, left: [] };
  const again = yield* inspect(real, key, { headFile });
  return { ...done, left: again.findings };
}

function* mendInPlace(
  path: string,
  key: Key,
  report: Report,
  clock: Clock,
): Generator<Progress, Omit<Repaired, "left">> {
  const db = new Database(path, key, { mode: "readwrite" });
  const pages = { count: 0 };
  let placed: readonly Placement[];
  try {
    db.exec("PRAGMA temp_store = MEMORY");
    db.exec("PRAGMA synchronous = FULL");
    // Making the indexes again takes as long as all the rest: only where they disagree with their tables.
    const found = (kind: string) => report.findings.some((finding) => finding.kind === kind);
    placed = yield* mend(db, key, clock, { reindex: found("sqlite"), decode: found(UNDECODABLE) });
    db.checkpointTruncate();
    pages.count = Number(db.pragma("page_count"));
  } finally {
    db.close();
  }
  if (report.findings.some(({ kind }) => kind === "file-size"))
    truncateSync(path, pages.count * key.cipher.pageSize);
  return { placed, unreadable: report.findings.filter(isLostBytes), kept: undefined };
}

function isLostBytes({ kind }: Finding): boolean {
  return LOST_BYTES.includes(kind);
}

/** Mends all rows in one transaction: with `reindex` the indexes too, with `decode` blocks that cannot be decoded. */
function* mend(
  db: Database,
  key: Key,
  clock: Clock,
  { reindex, decode }: { readonly reindex: boolean; readonly decode: boolean },
): Generator<Progress, readonly Placement[]> {
  db.exec("BEGIN IMMEDIATE");
  let isDone = false;
  try {
    for (const { type, name, what, sql } of schemaDifferences(db, key)) {
      if (type === "table") continue;
      if (what !== "missing") db.exec(`DROP ${type} "${name.replaceAll('"', '""')}"`);
      if (what !== "unknown") db.exec(sql);
    }
    if (reindex) db.exec("REINDEX");
    const mender = new Mender(db, clock.now());
    if (decode) mender.dropUndecodable(`SELECT id FROM block WHERE codec <> ${RAW}`);
    for (let round = 0, mended = true; mended && round < MOST_ROUNDS; round++) {
      mended = false;
      for (const [i, { broken, mend: how }] of INVARIANTS.entries()) {
        yield { phase: "repair", done: i, total: INVARIANTS.length };
        if (brokenOf(db, broken).next().done === true) continue;
        mended = true;
        if (typeof how === "function") how(mender);
        else for (const sql of how) db.exec(sql);
      }
    }
    startRemotesOver(db);
    db.exec("COMMIT");
    isDone = true;
    return mender.placed;
  } finally {
    db.resetAll();
    if (!isDone && !db.autocommit) db.exec("ROLLBACK");
  }
}

function* copyAndMend(
  path: string,
  key: Key,
  report: Report,
  clock: Clock,
): Generator<Progress, Omit<Repaired, "left">> {
  refuseFullDisk(path);
  const draft = new Draft(path, () => {});
  try {
    const placed = yield* fill(draft.path, path, key, clock);
    const { findings } = yield* inspect(draft.path, key);
    if (findings.length > 0) {
      const first = `${findings[0]?.kind}: ${findings[0]?.text}`;
      throw new Error(`${path}: the copy made of it is not whole (${first}); the file stays as it is`);
    }
    const kept = keep(path, clock);
    draft.publish();
    return { placed, unreadable: report.findings.filter(isLostBytes), kept };
  } finally {
    draft.discard();
  }
}

function refuseFullDisk(path: string): void {
  const disk = statfsSync(dirname(path));
  const needed = statSync(path).size + (statSync(`${path}-wal`, { throwIfNoEntry: false })?.size ?? 0);
  if (needed <= disk.bavail * disk.bsize) return;
  const message = `${path}: a copy of what can be read needs ${needed} bytes, and its disk has not so many; nothing was changed`;
  throw new OpenError("no-space", path, message);
}

/** Fills the empty file `draft` with all that can be read of `path`, and mends it. */
function* fill(
  draft: string,
  path: string,
  key: Key,
  clock: Clock,
): Generator<Progress, readonly Placement[]> {
  const pages = new Pages(path, key);
  const db = new Database(draft, key, { mode: "readwrite", cacheBytes: COPY_CACHE_BYTES });
  try {
    db.exec(`PRAGMA page_size = ${key.cipher.pageSize}`);
    db.exec("PRAGMA auto_vacuum = NONE");
    // It is thrown away when anything stops this, and synced before it gets its name.
    db.exec("PRAGMA journal_mode = OFF");
    db.exec("PRAGMA synchronous = OFF");
    db.exec("PRAGMA temp_store = MEMORY");
    db.exec("BEGIN");
    db.exec(schemaSql());
    pages.useWal(overlayOf(pages));
    const steps = salvage(pages, db, true);
    for (let step = steps.next(); step.done !== true; step = steps.next())
      yield { phase: "copying", done: step.value, total: 0 };
    db.exec("COMMIT");
    const placed = yield* mend(db, key, clock, { reindex: false, decode: false });
    db.pragma("journal_mode = WAL");
    return placed;
  } finally {
    db.close();
    pages.close();
  }
}

/** Gives the damaged file, and its -wal, another name; tells it. */
function keep(path: string, clock: Clock): string {
  const stamp = new Date(clock.now().sec * 1000).toISOString().replace(/[-:]|\.\d+/g, "");
  let kept = `${path}.damaged-${stamp}`;
  for (let n = 2; existsSync(kept); n++) kept = `${path}.damaged-${stamp}-${n}`;
  const wal = `${path}-wal`;
  const hasWal = (statSync(wal, { throwIfNoEntry: false })?.size ?? 0) > 0;
  rmSync(`${path}-shm`, { force: true });
  if (!hasWal) {
    rmSync(wal, { force: true });
    try {
      linkSync(path, kept);
      return kept;
    } catch {
      // A filesystem without hard links: for a moment the name holds nothing.
    }
  }
  // The -wal must not stand beside the new file, which would take it for its own; and beside the name alone it
  // would be missed. So for a moment the name holds nothing: better than an older state.
  renameSync(path, kept);
  if (hasWal) renameSync(wal, `${kept}-wal`);
  return kept;
}
