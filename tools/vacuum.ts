/** `sqlfuse vacuum FILE`: gives the space of deleted files back to the disk. */
import { realpathSync } from "node:fs";
import type { Command } from "commander";
import { requireEngine } from "./engine.ts";
import { EXIT, ToolError } from "./exitcodes.ts";
import { addHelp } from "./help.ts";
import { addOutputOptions, formatBytes, type OutputFlags, tell, warn } from "./output.ts";
import { addPasswordOptions, hasPasswordSource, type PasswordOptions, readPassword } from "./password.ts";
import { describeHolder, type Holder, holderOf, refuseMissing, runRewrite } from "./rewrite.ts";

interface VacuumFlags extends PasswordOptions, OutputFlags {
  readonly recompress?: true;
}

export function addVacuum(program: Command): void {
  const command = program
    .command("vacuum")
    .summary("shrink the file to what is in it")
    .description(
      "Writes what is in FILE into a compact copy that takes its place once it has been checked. FILE must not be " +
        "mounted, and its disk needs room for the copy. Until then the space of deleted files is used again for " +
        "new ones, so there is no need to do this often.",
    )
    .argument("<file>", "the database file")
    .option(
      "--recompress",
      "compress all of it strongly; not files whose attribute user.sqlfuse.compression is none",
    );
  addPasswordOptions(command);
  addOutputOptions(command).action(vacuum);
  addHelp(command, {
    examples: ["sqlfuse vacuum vault.sqlite", "sqlfuse vacuum --recompress vault.sqlite"],
  });
}

async function vacuum(file: string, flags: VacuumFlags): Promise<void> {
  refuseMissing(file);
  await requireEngine();
  const holder = await holderOf(file);
  if (holder !== undefined) throw await mountedError(file, holder, flags);

  const { vacuum: steps } = await import("../src/core/rewrite.ts");
  const password = await readPassword(flags, { path: file, confirm: false, warn });
  try {
    const rewrite = steps(file, password, { onLog: warn, recompress: flags.recompress === true });
    const result = await runRewrite(file, rewrite, flags.quiet);
    const { bytesBefore, bytesAfter } = result;
    const back = bytesBefore - bytesAfter;
    const gain = back > 0 ? `${formatBytes(back)} given back` : "nothing to give back";
    tell(flags, `${file}: ${formatBytes(bytesBefore)} before, ${formatBytes(bytesAfter)} after, ${gain}`, {
      path: realpathSync(file),
      ...result,
    });
  } finally {
    password.fill(0);
  }
}

/** Says what it would bring to unmount it, where the password is there to look. */
async function mountedError(file: string, holder: Holder, flags: PasswordOptions): Promise<ToolError> {
  const refusal = describeHolder(holder);
  if (!hasPasswordSource(flags)) return new ToolError(EXIT.locked, `${file}: ${refusal}`);
  const { unlock } = await import("../src/core/unlock.ts");
  const { readPages } = await import("../src/core/info.ts");
  const password = await readPassword(flags, { path: file, confirm: false, warn });
  let gain: string;
  try {
    const key = unlock(file, password);
    try {
      const { freeBytes, totalBytes } = readPages(file, key);
      gain = `would give back ${formatBytes(freeBytes)} of ${formatBytes(totalBytes)}, used again for new files meanwhile`;
    } finally {
      key.wipe();
    }
  } finally {
    password.fill(0);
  }
  return new ToolError(EXIT.locked, `${file}: ${refusal} (vacuum ${gain})`);
}
