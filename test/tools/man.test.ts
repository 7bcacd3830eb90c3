/** The man pages that the build wrote: complete, well-formed, and installed with the package. */
import { spawnSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { EXIT_TABLE, FSCK_EXIT_TABLE } from "../../tools/exitcodes.ts";
import { buildProgram } from "../../tools/program.ts";
import { hasProgram } from "../helpers/programs.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));
const directory = join(root, "dist/man");
const pages = readdirSync(directory).sort();
const { commands } = await buildProgram();

function source(page: string): string {
  return readFileSync(join(directory, page), "utf8");
}

/** What a reader sees, on long lines and without bold. */
function shown(page: string): string {
  const done = spawnSync("groff", ["-man", "-Tutf8", "-P-cbou", "-rLL=400n", join(directory, page)], {
    encoding: "utf8",
  });
  expect({ status: done.status, stderr: done.stderr }).toEqual({ status: 0, stderr: "" });
  return done.stdout;
}

describe("the man pages", () => {
  test("are one for sqlfuse and one for each command, and npm installs each", () => {
    const expected = ["sqlfuse.1", ...commands.map((command) => `sqlfuse-${command.name()}.1`)];
    expect(pages).toEqual(expect.arrayContaining(expected));
    const manifest = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { man: string[] };
    expect(manifest.man.map((path) => path.replace("./dist/man/", "")).sort()).toEqual(pages);
  });

  test.each(pages.filter((page) => page.endsWith(".1")))("%s has all sections, in their order", (page) => {
    const sections = [...source(page).matchAll(/^\.SH "(.*)"$/gm)].map(([, name]) => name);
    const known = ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "EXAMPLES", "SEE ALSO"];
    expect(sections.filter((name) => known.includes(name ?? ""))).toEqual(known);
  });

  test.for(pages)("%s is well-formed for groff", (page, context) => {
    if (!hasProgram("groff")) context.skip("there is no groff");
    const { status, stderr } = spawnSync("groff", ["-man", "-ww", "-z", "-Tutf8", join(directory, page)], {
      encoding: "utf8",
    });
    expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
  });

  test.for(pages)("%s is well-formed for mandoc", (page, context) => {
    if (!hasProgram("mandoc")) context.skip("there is no mandoc");
    const { stdout } = spawnSync("mandoc", ["-Tlint", "-W", "warning", join(directory, page)], {
      encoding: "utf8",
    });
    // A date would make each build another one.
    expect(stdout.split("\n").filter((line) => line !== "" && !line.includes("missing date"))).toEqual([]);
  });

  test.for(commands.map((command) => command.name()))(
    "that of %s shows each option and code",
    (name, context) => {
      if (!hasProgram("groff")) context.skip("there is no groff");
      const text = shown(`sqlfuse-${name}.1`);
      const command = commands.find((one) => one.name() === name);
      for (const { short, long, hidden } of command?.options ?? []) {
        const spelled = [short, long].filter((word) => word !== undefined).join(", ");
        if (hidden) expect(text).not.toContain(long);
        else expect(text).toMatch(new RegExp(`^ {7}${spelled}( |$)`, "m"));
      }
      const { rows } = name === "fsck" ? FSCK_EXIT_TABLE : EXIT_TABLE;
      for (const [code, meaning] of rows) {
        const line = text.split("\n").find((one) => one.trim().startsWith(`${code} `));
        expect(line?.replace(code, "").trim()).toBe(meaning);
      }
    },
  );

  test("show what is to be copied character by character", (context) => {
    if (!hasProgram("groff")) context.skip("there is no groff");
    expect(shown("sqlfuse-dump.1")).toContain("tar -x --xattrs --xattrs-include='*' --acls -C /restore");
    expect(shown("sqlfuse-put.1")).toContain("sqlfuse put vault.sqlite ~/photos/. /photos");
    expect(shown("sqlfuse-mount.1")).toContain("log to stderr; ^C unmounts");
  });
});
