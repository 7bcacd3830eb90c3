/** ACLs in getfacl's short text: "u::rwx,u:7:r-x,g::r--,m::r-x,o::---". */
import type { AclEntry } from "../../src/core/acl.ts";

const TAGS: Readonly<Record<string, number>> = { u: 0x01, U: 0x02, g: 0x04, G: 0x08, m: 0x10, o: 0x20 };
export const NO_ID = 0xffff_ffff;

/** "u:7:rw-" is a named user, "u::rw-" the owner. */
export function acl(text: string): AclEntry[] {
  return text.split(",").map((part) => {
    const [letter = "", id = "", perms = ""] = part.split(":");
    const tag = TAGS[id === "" ? letter : letter.toUpperCase()] ?? 0;
    const perm = (perms[0] === "r" ? 4 : 0) | (perms[1] === "w" ? 2 : 0) | (perms[2] === "x" ? 1 : 0);
    return { tag, perm, id: id === "" ? NO_ID : Number(id) };
  });
}

/** The entries in the same text. */
export function text(entries: readonly AclEntry[]): string {
  const letters = new Map(Object.entries(TAGS).map(([letter, tag]) => [tag, letter]));
  return entries
    .map(({ tag, perm, id }) => {
      const letter = letters.get(tag) ?? "?";
      const named = letter === letter.toUpperCase();
      const perms = `${perm & 4 ? "r" : "-"}${perm & 2 ? "w" : "-"}${perm & 1 ? "x" : "-"}`;
      return `${letter.toLowerCase()}:${named ? id : ""}:${perms}`;
    })
    .join(",");
}
