/**
 * The last part of `npm run build`, after tsc and man.ts: copies what is not TypeScript into dist, so that
 * `new URL("../../schema.sql", import.meta.url)` names the same file from src/ and from dist/src/, and removes
 * what a deleted source left in dist. It never empties dist: a mount that runs from there keeps working.
 */
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../..", import.meta.url));
const dist = join(root, "dist");
mkdirSync(dist, { recursive: true });

for (const name of readdirSync(dist, { recursive: true })) {
  const source = name.replace(/\.(js|js\.map|d\.ts)$/, ".ts");
  if (
    name === "schema.sql" ||
    name === ".built" ||
    name.startsWith("man/") ||
    statSync(join(dist, name)).isDirectory()
  )
    continue;
  if (!existsSync(join(root, source))) rmSync(join(dist, name));
}
if (existsSync(join(root, "schema.sql"))) copyFileSync(join(root, "schema.sql"), join(dist, "schema.sql"));
for (const name of ["tools/cli.js", "tools/mounthelper.js"])
  if (existsSync(join(dist, name))) chmodSync(join(dist, name), 0o755);
// Its time is when dist was last made: tools/dev/setup.mjs compares it with the sources.
writeFileSync(join(dist, ".built"), "");
