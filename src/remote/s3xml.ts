/**
 * The two answers of an S3-compatible store that are XML: a page of a list, and an error. Their elements have no attributes
 * that matter and are nested one deep, so that they are found by their tags; what is not as expected is no answer.
 */
import type { StoredFile } from "./remote.ts";

export interface ListPage {
  readonly files: readonly StoredFile[];
  /** By which the next page is asked for; undefined: this is the last. */
  readonly next: string | undefined;
}

/** A page of ListObjectsV2; undefined where it is none. */
export function listOf(xml: string): ListPage | undefined {
  const root = /<ListBucketResult[\s>][\s\S]*<\/ListBucketResult>\s*$/.exec(xml)?.[0];
  if (root === undefined) return undefined;
  const files: StoredFile[] = [];
  for (const [, content = ""] of root.matchAll(/<Contents>([\s\S]*?)<\/Contents>/g)) {
    const [name, size] = [textOf(content, "Key"), textOf(content, "Size")];
    if (name === undefined || size === undefined || !/^\d{1,15}$/.test(size)) return undefined;
    files.push({ name, size: Number(size) });
  }
  const outside = root.replace(/<Contents>[\s\S]*?<\/Contents>/g, "");
  const [truncated, next] = [textOf(outside, "IsTruncated"), textOf(outside, "NextContinuationToken")];
  if (truncated !== "true") return truncated === "false" ? { files, next: undefined } : undefined;
  return next === undefined || next === "" ? undefined : { files, next };
}

export interface S3Error {
  readonly code: string | undefined;
  /** Where the bucket is, if that is what is wrong. */
  readonly region: string | undefined;
}

export function errorOf(body: Buffer): S3Error {
  const root = /<Error>[\s\S]*<\/Error>/.exec(body.toString("utf8", 0, 65_536))?.[0] ?? "";
  const word = (tag: string): string | undefined => /^[A-Za-z0-9-]+$/.exec(textOf(root, tag) ?? "")?.[0];
  return { code: word("Code"), region: word("Region") };
}

const ENTITIES: Readonly<Record<string, string>> = { lt: "<", gt: ">", amp: "&", quot: '"', apos: "'" };

/** What stands in the first element of that name. */
function textOf(xml: string, tag: string): string | undefined {
  const [, text] = new RegExp(`<${tag}>([^<]*)</${tag}>`).exec(xml) ?? [];
  return text?.replace(/&(?:#x([0-9a-f]{1,6})|#([0-9]{1,7})|([a-z]+));/gi, (whole, hex, decimal, name) => {
    if (name !== undefined) return ENTITIES[name as string] ?? whole;
    const code = Number.parseInt((hex ?? decimal) as string, hex === undefined ? 10 : 16);
    return code <= 0x10ffff ? String.fromCodePoint(code) : whole;
  });
}
