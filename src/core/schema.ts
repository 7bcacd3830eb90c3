/** Reads schema.sql, which lies beside package.json in the repository and in the package alike. */
import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { assert } from "../base/assert.ts";

export const FORMAT_MAJOR = 1;
/** meta.format of a new volume. */
export const FORMAT = `${FORMAT_MAJOR}.0.0`;
/** PRAGMA application_id: "SQLF". */
export const APPLICATION_ID = 0x53514c46;

export function schemaSql(): string {
  let directory = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(directory, "schema.sql"))) {
    const parent = dirname(directory);
    assert(parent !== directory, "schema.sql is shipped beside package.json");
    directory = parent;
  }
  return readFileSync(join(directory, "schema.sql"), "utf8");
}
