/**
 * Checks what no compiler checks, and fails `npm run check` when it does not hold:
 * - imports point down the layers of DECISIONS.md only, and `koffi` is imported in src/native alone;
 * - there are no import cycles (types are erased, so `import type` closes none);
 * - each src/..., test/..., tools/... or docs/... path that a document or a comment names is there.
 * Files that nobody imports are found by knip.
 */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";

/** Lowest first: a file imports from its own layer and from those before it. */
const LAYERS = [
  "base",
  "native",
  "db",
  "core",
  "fsck",
  "archive",
  "remote",
  "log",
  "fuse",
  "fusenative",
  "host",
  "tools",
];
/** Edges that the order would allow but the design does not. */
const FORBIDDEN: readonly (readonly [from: string, to: string])[] = [
  ["fuse", "db"],
  ["fuse", "fsck"],
  ["fuse", "archive"],
  ["fuse", "log"],
  ["fuse", "remote"],
  ["remote", "db"],
  ["remote", "core"],
  ["remote", "fsck"],
  ["remote", "archive"],
  ["log", "fsck"],
  ["log", "archive"],
  ["fusenative", "db"],
  ["fusenative", "fsck"],
  ["fusenative", "archive"],
  ["fusenative", "fuse"],
  ["fusenative", "remote"],
  ["fusenative", "log"],
];
const DOCUMENTS = ["README.md", "DECISIONS.md", "docs/PERFORMANCE.md", "docs/RELIABILITY.md", "schema.sql"];

const root = process.cwd();
const problems: string[] = [];

function sourceFiles(directory: string): string[] {
  if (!existsSync(join(root, directory))) return [];
  return readdirSync(join(root, directory), { recursive: true, encoding: "utf8" })
    .filter((name) => /\.(ts|mjs)$/.test(name))
    .map((name) => join(directory, name));
}

function layerOf(file: string): string | undefined {
  if (file.startsWith("tools/")) return "tools";
  // src/index.ts is the face of the library: it may show anything up to the host.
  if (file === "src/index.ts") return "tools";
  return /^src\/([a-z]+)\//.exec(file)?.[1];
}

interface Import {
  readonly specifier: string;
  /** `import type` and `export type`: gone after compilation. */
  readonly typeOnly: boolean;
}

/** What a file imports. Comments are left out: an example in one is no edge. */
function importsOf(text: string): Import[] {
  const code = text.replace(/\/\*[\s\S]*?\*\//g, "").replace(/^\s*\/\/.*$/gm, "");
  const found: Import[] = [];
  for (const match of code.matchAll(/(?:^|[\s;}])(?:from|import)\s*\(?\s*"([^"\n]+)"/g)) {
    const before = code.slice(0, match.index);
    const statement = before.slice(Math.max(before.lastIndexOf("import "), before.lastIndexOf("export ")));
    found.push({ specifier: match[1] ?? "", typeOnly: /^(import|export) type\b/.test(statement) });
  }
  return found;
}

const files = [...sourceFiles("src"), ...sourceFiles("tools")];
const edges = new Map<string, string[]>();

for (const file of files) {
  const text = readFileSync(join(root, file), "utf8");
  const from = layerOf(file);
  if (from === undefined || !LAYERS.includes(from)) problems.push(`${file}: belongs to no layer`);
  const targets: string[] = [];
  for (const { specifier, typeOnly } of importsOf(text)) {
    if (specifier === "koffi" && from !== "native")
      problems.push(`${file}: imports koffi (only src/native may)`);
    if (!specifier.startsWith(".")) continue;
    const target = relative(root, resolve(root, dirname(file), specifier));
    if (!existsSync(join(root, target))) {
      problems.push(`${file}: imports ${specifier}, which does not exist`);
      continue;
    }
    if (!typeOnly) targets.push(target);
    const to = layerOf(target);
    if (from === undefined || to === undefined) continue;
    if (LAYERS.indexOf(to) > LAYERS.indexOf(from))
      problems.push(`${file}: ${from} must not import ${to} (${target})`);
    if (FORBIDDEN.some(([a, b]) => a === from && b === to))
      problems.push(`${file}: ${from} must not import ${to} (${target})`);
  }
  edges.set(file, targets);
}

/** Depth-first; a file met again while it is still on the path closes a cycle. */
const done = new Set<string>();
function walk(file: string, path: string[]): void {
  const at = path.indexOf(file);
  if (at >= 0) {
    problems.push(`import cycle: ${[...path.slice(at), file].join(" -> ")}`);
    return;
  }
  if (done.has(file)) return;
  for (const target of edges.get(file) ?? []) walk(target, [...path, file]);
  done.add(file);
}
for (const file of files) walk(file, []);

function checkPaths(file: string, text: string): void {
  for (const match of text.matchAll(/(?<![\w./@-])(?:src|tools|test|docs|\.ci)\/[\w./-]*[\w]/g)) {
    const named = match[0];
    if (!existsSync(join(root, named))) problems.push(`${file}: names ${named}, which does not exist`);
  }
}
for (const file of DOCUMENTS) {
  if (existsSync(join(root, file))) checkPaths(file, readFileSync(join(root, file), "utf8"));
}
for (const file of [...files, ...sourceFiles("test")]) {
  const text = readFileSync(join(root, file), "utf8");
  const comments = [...text.matchAll(/\/\*[\s\S]*?\*\/|(?<=^|\s)\/\/.*$/gm)].map((match) => match[0]);
  checkPaths(file, comments.join("\n"));
}

for (const problem of problems) console.error(problem);
if (problems.length > 0) {
  console.error(`layers: ${problems.length} problem(s)`);
  process.exitCode = 1;
} else {
  console.log(`layers: ${files.length} files, no edge points up, no cycles, all named paths exist`);
}
