import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";

const root = fileURLToPath(new URL("../..", import.meta.url));

test("the library's example in README.md does what it says", () => {
  const readme = readFileSync(join(root, "README.md"), "utf8");
  const example = /```js\n([\s\S]*?)```/.exec(readme)?.[1] ?? "";
  const directory = mkdtempSync(join(tmpdir(), "readme-"));
  // Resolved from here, as "sqlfuse" is this package; run there, as it makes a file.
  const code = `process.chdir(${JSON.stringify(directory)});\n${example}`;
  const { stdout, stderr, status } = spawnSync(process.execPath, ["--input-type=module", "-e", code], {
    cwd: root,
    encoding: "utf8",
  });
  expect({ stdout, stderr, status }).toEqual({ stdout: "world\n", stderr: "", status: 0 });
  expect(readdirSync(directory)).toEqual(["vault.sqlite"]);
  rmSync(directory, { recursive: true });
});
