/** The completion scripts, each run by its shell where there is one. */
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { buildProgram } from "../../tools/program.ts";
import { hasProgram } from "../helpers/programs.ts";
import { mountingImpossible } from "../helpers/volume.ts";
import { PASSWORD, sqlfuse } from "./run.ts";

const SHELLS = ["bash", "zsh", "fish"];
let directory: string;

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "completion-"));
  for (const shell of SHELLS) {
    const { code, stdout, stderr } = sqlfuse(["completion", shell], {});
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    writeFileSync(join(directory, shell), stdout);
  }
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

/**
 * What bash offers for the last word, as readline would call it: without any program to start. "-o ..." stands for
 * what is left to readline.
 */
function bash(...words: string[]): string[] {
  const script = `
    PATH=/nowhere
    source "$0"
    offers=()
    compopt() { offers+=("$*"); }
    [[ $(complete -p sqlfuse) == "complete -F _sqlfuse sqlfuse" ]] || exit 1
    COMP_WORDS=(sqlfuse "$@") COMP_CWORD=$#
    _sqlfuse
    printf '%s\\n' "\${offers[@]}" "\${COMPREPLY[@]}"`;
  const done = spawnSync("bash", ["--norc", "-c", script, join(directory, "bash"), ...words], {
    encoding: "utf8",
  });
  expect({ status: done.status, stderr: done.stderr }).toEqual({ status: 0, stderr: "" });
  return done.stdout.split("\n").filter((line) => line !== "");
}

/** Likewise; each line has the description behind a tab. */
function fish(line: string): string[] {
  const script = `source "$argv[1]"; cd "$argv[2]"; complete -C "$argv[3]"`;
  const done = spawnSync("fish", ["--no-config", "-c", script, join(directory, "fish"), directory, line], {
    encoding: "utf8",
  });
  expect({ status: done.status, stderr: done.stderr }).toEqual({ status: 0, stderr: "" });
  return done.stdout.split("\n").filter((text) => text !== "");
}

describe("completion", () => {
  test.for(SHELLS)("the script is what %s can read", (shell, context) => {
    if (!hasProgram(shell)) context.skip(`there is no ${shell}`);
    const { status, stderr } = spawnSync(shell, ["-n", join(directory, shell)], { encoding: "utf8" });
    expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
  });

  test("of a shell that nobody knows is refused with those that are known", () => {
    const { code, stderr } = sqlfuse(["completion", "csh"], {});
    expect(code).toBe(2);
    expect(stderr).toMatch(/Allowed choices are bash, zsh, fish/);
  });

  test("bash offers each command and each option of each, and hides what is for sqlfuse alone", async () => {
    const program = await buildProgram();
    const offered = bash("");
    for (const command of program.commands) {
      expect(offered).toContain(command.name());
      const options = command.options
        .filter(({ hidden }) => !hidden)
        .flatMap(({ short, long }) => [short, long]);
      const all = [...options, "-h", "--help"].filter((name) => name !== undefined);
      expect(bash(command.name(), "-").sort()).toEqual(all.sort());
    }
    expect(offered).toContain("umount");
    expect(bash("umount", "--l")).toEqual(["--lazy"]);
  });

  test.each([
    [["va"], ["-o default", "vacuum"]],
    [["rekey", "--kdf", "str"], ["strong"]],
    [["rekey", "--kdf", "=", "str"], ["strong"]],
    [
      ["rekey", "--kdf", "="],
      ["standard", "strong"],
    ],
    [["create", ""], ["-o default"]],
    [["create", "--key-file", ""], ["-o default"]],
    [["mount", "v", ""], ["-o dirnames"]],
    [["v", ""], ["-o dirnames"]],
    [["mount", "--log-file", "x", "v", ""], ["-o dirnames"]],
    [["-o", "ro", "v", ""], ["-o dirnames"]],
    [["dump", "-o", ""], ["-o default"]],
    [
      ["mount", "-o", "allow"],
      ["-o nospace", "allow_other"],
    ],
    [
      ["v", "-o", "ro,nos"],
      ["-o nospace", "ro,nosuid"],
    ],
    [
      ["mount", "-o", "ro,commit"],
      ["-o nospace", "ro,commit="],
    ],
    [["mount", "--commit", ""], []],
    [["ls", "v", ""], []],
    [["ls", "v", "-", "--l"], ["--long"]],
    [["ls", "--", "--l"], ["-o default"]],
    [["get", "v", "in", ""], ["-o dirnames"]],
    [["put", "v", "a", "b", "c", ""], ["-o default"]],
    [["snapshot", "un"], ["unprotect"]],
    [["snapshot", "list", "x", "c"], []],
    [["snapshot", "prune", "v", "--when-full", "k"], ["keep"]],
    [["diff", "one", "now", ""], ["-o default"]],
    [["restore", ""], ["-o default"]],
    [
      ["completion", ""],
      ["bash", "zsh", "fish"],
    ],
    [["help", "fs"], ["fsck"]],
    [["--vers"], ["--version"]],
    [["--foreg"], ["--foreground"]],
    [
      ["unmount", "-q", "-"],
      ["-l", "--lazy", "-q", "--quiet", "-h", "--help"],
    ],
  ])("bash offers for %j: %j", (words, offered) => {
    expect(bash(...words)).toEqual(offered);
  });

  test.for<[string, string[]]>([
    ["sqlfuse va", ["vacuum\tshrink the file to what is in it"]],
    ["sqlfuse umou", ["umount\tunmount a volume, and wait until its file is closed"]],
    ["sqlfuse completion ", ["bash", "fish", "zsh"]],
    ["sqlfuse ba", ["bash"]],
    ["sqlfuse ls ba", ["bash"]],
    ["sqlfuse ls --key-file k ba", ["bash"]],
    ["sqlfuse ls bash ba", []],
    ["sqlfuse create --key-file ba", ["bash"]],
    ["sqlfuse put bash x y ba", ["bash"]],
    ["sqlfuse unmount ba", ["bash"]],
    ["sqlfuse v -o ro,allow", ["ro,allow_other\tmount options, separated by commas: see below"]],
    [
      "sqlfuse dump -o x bash --no-d",
      ["--no-data\thashes only of what is in files: short, to compare and not to load"],
    ],
  ])("fish offers for %j: %j", ([line, offered], context) => {
    if (!hasProgram("fish")) context.skip("there is no fish");
    expect(fish(line)).toEqual(offered);
  });

  test("a mount point with a space in its name is offered where one is wanted", (context) => {
    const impossible = mountingImpossible();
    if (impossible !== undefined) context.skip(impossible);
    const point = join(directory, "my vault");
    const file = join(directory, "v");
    mkdirSync(point);
    expect(sqlfuse(["create", file])).toMatchObject({ code: 0 });
    const mounted = sqlfuse(["mount", "--log-file", join(directory, "log"), file, point], {
      password: PASSWORD,
    });
    try {
      expect(mounted).toMatchObject({ code: 0 });
      for (const verb of ["unmount", "sync", "status"]) {
        expect(bash(verb, `${directory}/my`)).toEqual(["-o filenames -o default", point]);
        expect(bash(verb, `${directory}/your`)).toEqual(["-o filenames -o default"]);
        if (hasProgram("fish")) expect(fish(`sqlfuse ${verb} ${directory}/my`)).toContain(point);
      }
    } finally {
      expect(sqlfuse(["unmount", point])).toMatchObject({ code: 0 });
    }
  });
});
