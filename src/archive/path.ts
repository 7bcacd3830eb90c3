/**
 * From what a user writes to a path of a place (src/archive/place.ts). Symlinks inside are followed as the kernel
 * would, but never out of the place: one that is absolute or leads above the root is refused.
 */
import { isDirectory, isSymlink } from "../core/mode.ts";
import { type Place, PlaceError } from "./place.ts";

/** As Linux's: more are a loop. */
const SYMLINKS_MAX = 40;

/** The path without symlinks in it. `follow`: also when the last name is one. @throws PlaceError ENOTDIR, ELOOP, EXDEV */
export function resolvePath(place: Place, text: string, follow: boolean): string {
  const names = text.split("/").filter((name) => name !== "");
  // A slash at the end asks for what the link leads to, as everywhere.
  const followLast = follow || text.endsWith("/");
  const done: string[] = [];
  for (let links = 0; names.length > 0; ) {
    const name = names.shift() ?? "";
    if (name === ".") continue;
    if (name === "..") {
      if (done.pop() === undefined) throw new PlaceError("EXDEV", "the path leads out of the volume");
      continue;
    }
    const path = `/${[...done, name].join("/")}`;
    const stat = place.stat(path);
    if (stat !== undefined && isSymlink(stat.mode) && (names.length > 0 || followLast)) {
      if (++links > SYMLINKS_MAX) throw new PlaceError("ELOOP", "too many symbolic links");
      const target = place.readlink(path);
      if (target.startsWith("/"))
        throw new PlaceError("EXDEV", "a symbolic link on the way leads out of the volume");
      names.unshift(...target.split("/").filter((part) => part !== ""));
      continue;
    }
    if (stat !== undefined && !isDirectory(stat.mode) && names.length > 0) throw new PlaceError("ENOTDIR");
    done.push(name);
  }
  return done.length === 0 ? "" : `/${done.join("/")}`;
}

/** The last name of a path, "" of the root. */
export function lastName(path: string): string {
  return path.slice(path.lastIndexOf("/") + 1);
}
