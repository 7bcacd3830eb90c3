/** The lines that differ, as patch(1) takes them. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { unifiedDiff } from "../../tools/unified.ts";
import { Random } from "../helpers/model.ts";

const canPatch = spawnSync("patch", ["--version"]).status === 0;

describe("the difference of two texts", () => {
  test.each([
    ["a\nb\nc\n", "a\nB\nc\n", ["@@ -1,3 +1,3 @@", " a", "-b", "+B", " c"]],
    ["", "a\n", ["@@ -0,0 +1 @@", "+a"]],
    ["a\n", "", ["@@ -1 +0,0 @@", "-a"]],
    ["a", "a\n", ["@@ -1 +1 @@", "-a", "\\ No newline at end of file", "+a"]],
    ["a\n", "a\n", []],
  ])("of %j and %j is %j", (before, after, expected) => {
    expect(unifiedDiff(before, after)).toEqual(expected);
  });

  test("is as short as it can be, where little changed in much", () => {
    const lines = Array.from({ length: 5000 }, (_, i) => `line ${i}\n`);
    const changed = lines.flatMap((line, i) => (i === 17 ? [] : i === 4000 ? ["new\n", line] : [line]));
    const hunks = unifiedDiff(lines.join(""), changed.join(""));
    expect(hunks.filter((line) => /^[-+]/.test(line))).toEqual(["-line 17", "+new"]);
    expect(hunks.filter((line) => line.startsWith("@@"))).toEqual([
      "@@ -15,7 +15,6 @@",
      "@@ -3998,6 +3997,7 @@",
    ]);
  });

  test.skipIf(!canPatch)(`makes one of the other by patch(1)${canPatch ? "" : " (there is none)"}`, () => {
    const directory = mkdtempSync(join(tmpdir(), "unified-"));
    const random = new Random(4711);
    try {
      for (let i = 0; i < 60; i++) {
        const text = () => Array.from({ length: random.below(30) }, () => `${random.below(4)}`).join("\n");
        const [before, after] = [text(), text()];
        const hunks = unifiedDiff(before, after);
        if (hunks.length === 0) continue;
        writeFileSync(join(directory, "file"), before);
        const input = ["--- file", "+++ file", ...hunks, ""].join("\n");
        const patched = spawnSync("patch", ["-s", "--posix", "file"], {
          cwd: directory,
          input,
          encoding: "utf8",
        });
        expect(patched.status, patched.stdout + patched.stderr).toBe(0);
        expect(readFileSync(join(directory, "file"), { encoding: "utf8", flag: "a+" })).toBe(after);
      }
    } finally {
      rmSync(directory, { recursive: true });
    }
  });
});
