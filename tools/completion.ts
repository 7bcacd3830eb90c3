/**
 * `sqlfuse completion SHELL`: a script that completes commands, options and files. It is made of the definitions
 * that commander has, so that no option can be missing, and starts no Node: who presses a key does not want to wait
 * a tenth of a second. What is in a volume is not completed, as that would need its password.
 */
import { Argument, type Command } from "commander";
import { addHelp } from "./help.ts";
import { say } from "./output.ts";
import { bashScript } from "./shells/bash.ts";
import { fishScript } from "./shells/fish.ts";
import { type Grammar, grammarOf } from "./shells/grammar.ts";
import { zshScript } from "./shells/zsh.ts";

const SCRIPTS: Record<string, (grammar: Grammar) => string> = {
  bash: bashScript,
  zsh: zshScript,
  fish: fishScript,
};

export function addCompletion(program: Command): void {
  const command = program
    .command("completion")
    .summary("print a script that completes commands in a shell")
    .description("Prints a script for SHELL, which then completes commands, options and file names.")
    .addArgument(new Argument("<shell>", "the shell").choices(Object.keys(SCRIPTS)))
    .action((shell: string) => {
      say((SCRIPTS[shell]?.(grammarOf(program)) ?? "").trimEnd());
    });
  addHelp(command, {
    examples: [
      ["source <(sqlfuse completion bash)", "in ~/.bashrc"],
      ["source <(sqlfuse completion zsh)", "in ~/.zshrc, after compinit"],
      "sqlfuse completion fish > ~/.config/fish/completions/sqlfuse.fish",
    ],
  });
}
