/** `--kdf`: how much work the derivation of a key is. A raw key file goes through none. */
import { type Command, Option } from "commander";
import { KDF_ITERATIONS, STRONG_KDF_ITERATIONS } from "../src/db/key.ts";

const ITERATIONS: Record<string, number> = { standard: KDF_ITERATIONS, strong: STRONG_KDF_ITERATIONS };

export function addKdfOption(command: Command): Command {
  const option = new Option(
    "--kdf <strength>",
    "work to derive the key: SQLCipher's own, or four times as much",
  );
  return command.addOption(option.choices(Object.keys(ITERATIONS)));
}

/** Rounds; undefined where nothing was said. */
export function parseKdf(strength: string | undefined): number | undefined {
  return strength === undefined ? undefined : ITERATIONS[strength];
}
