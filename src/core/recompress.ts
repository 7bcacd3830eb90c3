/**
 * Copies the blocks of a volume into another database, each in the strongest form: what `vacuum` does with
 * `recompress`. Blocks that shrink no further are copied as they are, and so are those of files that shall not be
 * compressed. What was compressed is decoded and compared before it is written: the volume it came from is thrown away.
 */
import { DamageError } from "../base/errno.ts";
import type { RowCopy } from "../db/copy.ts";
import type { Database } from "../db/database.ts";
import { type Compression, decoded, type Encoded, encode, isBest, RAW } from "./codec.ts";
import { requireFeature } from "./format.ts";
import { COMPRESSION } from "./xattrs.ts";

/** Bytes of content between two steps. */
const STEP_BYTES = 4 * 2 ** 20;
const NEVER: Compression = "none";

/** To give to `copyDatabase`; yields the bytes saved since the step before. @throws DamageError, SqliteError */
export const recompress: RowCopy = { table: "block", copy: copyBlocks };

function* copyBlocks(source: Database, copy: string): Generator<number, void> {
  const spared = sparedBlocks(source);
  const rows = source.prepare("SELECT id, codec, data, hash FROM main.block ORDER BY id");
  const insert = source.prepare(`INSERT INTO ${copy}.block (id, codec, data, hash) VALUES (?1, ?2, ?3, ?4)`);
  let isCompressed = false;
  let [doneBytes, savedBytes] = [0, 0];
  while (rows.step()) {
    const block = rows.int(0);
    const stored = { codec: rows.int(1), data: rows.blob(2) };
    const best = spared.has(block) ? stored : strongest(block, stored);
    insert.bindInt(1, block).bindInt(2, best.codec).bindBlob(3, best.data);
    if (rows.isNull(3)) insert.bindNull(4);
    else insert.bindBlob(4, rows.blob(3));
    insert.run();
    isCompressed ||= best.codec !== RAW;
    doneBytes += stored.data.length;
    savedBytes += stored.data.length - best.data.length;
    if (doneBytes < STEP_BYTES) continue;
    yield savedBytes;
    [doneBytes, savedBytes] = [0, 0];
  }
  if (isCompressed) requireFeature(source, "compression", copy);
  yield savedBytes;
}

/** Blocks that a file has, or had, whose attribute says that nothing of it is compressed. */
function sparedBlocks(source: Database): ReadonlySet<number> {
  const rows = source.prepare(
    `WITH spared AS (SELECT ino FROM main.xattr WHERE name = ?1 AND value = ?2)
     SELECT block FROM main.extent WHERE ino IN spared UNION SELECT block FROM main.extent_past WHERE ino IN spared`,
  );
  rows.bindBlob(1, COMPRESSION).bindBlob(2, Buffer.from(NEVER));
  const blocks = new Set<number>();
  while (rows.step()) blocks.add(rows.int(0));
  return blocks;
}

function strongest(block: number, stored: Encoded): Encoded {
  if (isBest(stored.codec)) return stored;
  const content = contentOf(block, stored);
  const encoded = encode(content, "strong");
  if (encoded.data.length >= stored.data.length) return stored;
  if (Buffer.compare(contentOf(block, encoded), content) !== 0)
    throw new Error(`block ${block}: what was compressed is not what it was; nothing was changed`);
  return encoded;
}

function contentOf(block: number, { codec, data }: Encoded): Uint8Array {
  try {
    return decoded(codec, data);
  } catch (error) {
    if (!(error instanceof DamageError)) throw error;
    throw new DamageError(`block ${block}: ${error.message}`, { cause: error });
  }
}
