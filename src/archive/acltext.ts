/**
 * POSIX ACLs as tar archives carry them (SCHILY.acl.access, SCHILY.acl.default): entries such as `user:1000:rwx`,
 * between commas or newlines. What is written has numbers only; what is read may have names, with or without a
 * number behind (`user:lisa:rwx:502`).
 */
import { type AclEntry, decodeAcl, encodeAcl } from "../core/acl.ts";

const TAGS = { user: [0x01, 0x02], group: [0x04, 0x08], mask: [0x10, 0x10], other: [0x20, 0x20] } as const;
const NO_ID = 0xffff_ffff;

/** The number of a user or group of this machine, undefined where there is none of that name. */
export type FindId = (kind: "user" | "group", name: string) => number | undefined;

/** @throws FsError where `value` is no ACL */
export function aclToText(value: Uint8Array): string {
  return decodeAcl(value).map(entryText).join(",");
}

function entryText({ tag, perm, id }: AclEntry): string {
  const name = Object.entries(TAGS).find(([, [own, named]]) => tag === own || tag === named)?.[0] ?? "";
  const named = tag === TAGS.user[1] || tag === TAGS.group[1];
  return `${name}:${named ? id : ""}:${perm & 4 ? "r" : "-"}${perm & 2 ? "w" : "-"}${perm & 1 ? "x" : "-"}`;
}

/** The value of the attribute; undefined where the text is none, or names somebody who is unknown here. */
export function aclFromText(text: string, findId: FindId): Uint8Array | undefined {
  const entries: AclEntry[] = [];
  for (const part of text.split(/[,\n]/)) {
    const line = part.replace(/#.*/, "").trim();
    if (line === "") continue;
    const entry = parseEntry(line, findId);
    if (entry === undefined) return undefined;
    entries.push(entry);
  }
  // Sorting is stable: named entries stay in their order.
  entries.sort((a, b) => a.tag - b.tag);
  return encodeAcl(entries);
}

function parseEntry(line: string, findId: FindId): AclEntry | undefined {
  const [kind = "", name = "", permissions = "", number] = line.split(":").map((field) => field.trim());
  const full = { u: "user", g: "group", m: "mask", o: "other" }[kind] ?? kind;
  // "other:r--" and "mask:r--" have no name between.
  const short = (full === "mask" || full === "other") && permissions === "";
  const text = short ? name : permissions;
  if (!(full === "user" || full === "group" || full === "mask" || full === "other")) return undefined;
  if (!/^[r-][w-][x-]$/.test(text)) return undefined;
  const perm = (text[0] === "r" ? 4 : 0) | (text[1] === "w" ? 2 : 0) | (text[2] === "x" ? 1 : 0);
  if (name === "" || short) return { tag: TAGS[full][0], perm, id: NO_ID };
  if (full !== "user" && full !== "group") return undefined;
  const digits = /^\d+$/.test(number ?? "") ? number : /^\d+$/.test(name) ? name : undefined;
  const id = digits === undefined ? findId(full, name) : Number(digits);
  return id === undefined || id >= NO_ID ? undefined : { tag: TAGS[full][1], perm, id };
}
