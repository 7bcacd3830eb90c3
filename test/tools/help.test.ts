/** What --help and README.md show must be what the command line takes. */
import { readFileSync } from "node:fs";
import type { Command } from "commander";
import { describe, expect, test } from "vitest";
import { exampleLines, helpOf } from "../../tools/help.ts";
import { buildProgram } from "../../tools/program.ts";
import { sqlfuse } from "./run.ts";

const verbs = (await buildProgram()).commands.map((command) => command.name());

/** The calls of sqlfuse in a line for a shell, each as its words. */
function callsIn(line: string): string[][] {
  const calls: string[][] = [];
  let call: string[] | undefined;
  for (const [word] of line.matchAll(/(?:[^\s'|()<>;]|'[^']*'|"[^"]*")+|\S/g)) {
    if (/^[|()<>;]$/.test(word)) call = undefined;
    else if (call !== undefined) call.push(word.replace(/['"]/g, ""));
    else if (word === "sqlfuse") {
      call = [];
      calls.push(call);
    }
  }
  return calls;
}

/** The lines of README.md that a reader would type. */
function typedLines(): string[] {
  const readme = readFileSync(new URL("../../README.md", import.meta.url), "utf8");
  const blocks = [...readme.matchAll(/^```\n([\s\S]*?)^```/gm)].map(([, text = ""]) => text.split("\n"));
  return blocks.flatMap((lines) => {
    const prompted = lines.filter((line) => line.startsWith("$ ")).map((line) => line.slice(2));
    return prompted.length > 0 ? prompted : lines.map((line) => line.replace(/ # .*/, ""));
  });
}

/** Parses it as the command line does, and runs nothing. */
async function accept(words: readonly string[]): Promise<void> {
  const program = await buildProgram();
  const stub = (command: Command): void => {
    command.action(() => {});
  };
  program.commands.forEach(stub);
  await program.parseAsync([...words], { from: "user" });
}

describe("the examples", () => {
  test("are found in a line with pipes and substitutions", () => {
    expect(callsIn("diff <(sqlfuse dump a) <(sqlfuse ls b) | sqlfuse put v - 'x y' > z")).toEqual([
      ["dump", "a"],
      ["ls", "b"],
      ["put", "v", "-", "x y"],
    ]);
  });

  test.each(verbs)("of %s stand in its --help, and are what it takes", async (verb) => {
    const command = (await buildProgram()).commands.find((one) => one.name() === verb);
    const help = command === undefined ? undefined : helpOf(command);
    const { stdout } = sqlfuse([verb, "--help"], {});
    expect(help?.examples.length).toBeGreaterThan(0);
    for (const line of help === undefined ? [] : exampleLines(help)) expect(stdout).toContain(`  ${line}\n`);
    for (const example of help?.examples ?? []) {
      const calls = callsIn(typeof example === "string" ? example : example[0]);
      expect(calls.length).toBeGreaterThan(0);
      for (const words of calls) await accept(words);
    }
  });

  test("an option that does not exist would be found", async () => {
    await expect(accept(["dump", "--no-date", "v"])).rejects.toThrow("unknown option '--no-date'");
    await expect(accept(["dump"])).rejects.toThrow("missing required argument");
  });

  test("of README.md are what the command line takes", async () => {
    const calls = typedLines().flatMap(callsIn);
    expect(calls.length).toBeGreaterThan(15);
    for (const words of calls) await accept(words);
  });
});

describe("--help", () => {
  test.each(["", ...verbs])("of '%s' fits in 80 columns but for command lines", (verb) => {
    const { stdout } = sqlfuse(verb === "" ? ["--help"] : [verb, "--help"], {});
    expect(stdout).toMatch(/^Usage: sqlfuse/);
    const wide = stdout.split("\n").filter((line) => line.length > 80);
    expect(wide.filter((line) => !/^ {2}(sqlfuse|diff|tar) /.test(line))).toEqual([]);
  });
});
