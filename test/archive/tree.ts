/** Compares two places name by name. */
import { createHash } from "node:crypto";
import { showBytes } from "../../src/archive/escape.ts";
import type { Place } from "../../src/archive/place.ts";
import { isDirectory, isRegular, isSymlink } from "../../src/core/mode.ts";

interface Look {
  readonly fields: ReadonlyMap<string, string>;
  readonly identity: string;
}

function look(place: Place, path: string): Look | undefined {
  const stat = place.stat(path);
  if (stat === undefined) return undefined;
  const fields = new Map([
    ["mode", stat.mode.toString(8)],
    ["owner", `${stat.uid}:${stat.gid}`],
    ["mtime", `${stat.mtime.sec}.${stat.mtime.nsec}`],
    ["device", `${stat.major}:${stat.minor}`],
    [
      "xattrs",
      JSON.stringify([...place.xattrs(path)].map(([n, v]) => [n, Buffer.from(v).toString("hex")]).sort()),
    ],
  ]);
  if (!isDirectory(stat.mode)) fields.set("links", String(stat.nlink));
  if (isSymlink(stat.mode)) fields.set("target", place.readlink(path));
  if (isRegular(stat.mode)) {
    fields.set("size", String(stat.size));
    const [content, data] = contentOf(place, path);
    fields.set("content", content);
    fields.set("data", data);
  }
  return { fields, identity: stat.identity };
}

/** A hash of what is not zero, and how much of the file is data, roughly. */
function contentOf(place: Place, path: string): [string, string] {
  const hash = createHash("sha256");
  const reading = place.openRead(path);
  const PIECE = 4096;
  let data = 0;
  try {
    for (const { offset, length } of reading.data()) {
      data += length;
      const begin = offset - (offset % PIECE);
      for (let at = begin; at < offset + length; at += PIECE) {
        const bytes = Buffer.alloc(PIECE);
        reading.read(at, bytes);
        if (!bytes.every((byte) => byte === 0)) hash.update(`${at}:`).update(bytes);
      }
    }
  } finally {
    reading.close();
  }
  // Blocks of other filesystems are smaller: a file counts as sparse or not.
  const size = place.stat(path)?.size ?? 0;
  return [hash.digest("hex"), size - data > 1 << 20 ? "sparse" : "dense"];
}

/** What differs, a line each; empty for equal trees. `ignore`: fields. */
export function compare(one: Place, other: Place, ignore: readonly string[] = []): string[] {
  const found: string[] = [];
  const identities = new Map<string, string>();
  const walk = (path: string): void => {
    const a = look(one, path);
    const b = look(other, path);
    const name = showBytes(Buffer.from(path || "/", "latin1"));
    if (a === undefined || b === undefined) {
      found.push(`${name} only in the ${a === undefined ? "second" : "first"}`);
      return;
    }
    for (const [field, value] of a.fields) {
      const theirs = b.fields.get(field);
      if (theirs !== value && !ignore.includes(field)) found.push(`${name} ${field}: ${value} | ${theirs}`);
    }
    // Names of one file are names of one file in both.
    const same = identities.get(a.identity);
    if (same === undefined) identities.set(a.identity, b.identity);
    else if (same !== b.identity) found.push(`${name} is linked otherwise`);
    if (!isDirectory(Number.parseInt(a.fields.get("mode") ?? "0", 8))) return;
    if (!isDirectory(Number.parseInt(b.fields.get("mode") ?? "0", 8))) return;
    const names = new Set([...one.names(path), ...other.names(path)]);
    for (const child of [...names].sort()) walk(`${path}/${child}`);
  };
  walk("");
  return found;
}
