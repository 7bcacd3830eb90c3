/** `sqlfuse rekey FILE`: another password, and everything encrypted anew. */
import { realpathSync } from "node:fs";
import type { Command } from "commander";
import { requireEngine } from "./engine.ts";
import { describeError, EXIT, ToolError } from "./exitcodes.ts";
import { addHelp } from "./help.ts";
import { interruptible } from "./interrupt.ts";
import { addKdfOption, parseKdf } from "./kdf.ts";
import { addOutputOptions, type OutputFlags, tell, warn } from "./output.ts";
import {
  addNewPasswordOptions,
  addPasswordOptions,
  type NewPasswordOptions,
  type PasswordOptions,
  readNewPassword,
  readPassword,
} from "./password.ts";
import { withReader, withSite } from "./pushsite.ts";
import { describeHolder, holderOf, refuseMissing, runRewrite } from "./rewrite.ts";

interface RekeyFlags extends PasswordOptions, NewPasswordOptions, OutputFlags {
  readonly kdf?: string;
}

export function addRekey(program: Command): void {
  const command = program
    .command("rekey")
    .summary("change the password and encrypt everything anew")
    .description(
      "Encrypts everything in FILE anew, under a key from the new password and a new salt, into a copy that takes " +
        "the place of FILE once it has been checked. Stopped at any moment, it leaves FILE whole, under one of the " +
        "two passwords. FILE must not be mounted; its disk needs room for the copy.",
    )
    .argument("<file>", "the database file");
  addPasswordOptions(command);
  addNewPasswordOptions(command);
  addKdfOption(command);
  addOutputOptions(command).action(rekey);
  addHelp(command, {
    notes: [
      "The old password is asked for once, unless an option or SQLFUSE_PASSWORD gives it, the new one twice, unless " +
        "an option does. Without --kdf the derivation stays as it was. Copies of FILE made before, such as backups, " +
        "still open with the old password.",
    ],
    examples: [
      "sqlfuse rekey vault.sqlite",
      "sqlfuse rekey --password-file old --new-password-file new vault.sqlite",
      "sqlfuse rekey --kdf strong vault.sqlite",
    ],
  });
}

async function rekey(file: string, flags: RekeyFlags): Promise<void> {
  refuseOneStdin(flags);
  refuseMissing(file);
  await requireEngine();
  const holder = await holderOf(file);
  if (holder !== undefined) throw new ToolError(EXIT.locked, `${file}: ${describeHolder(holder)}`);

  const { rekey: steps } = await import("../src/core/rewrite.ts");
  const { unlock } = await import("../src/core/unlock.ts");
  const password = await readPassword(flags, { path: file, confirm: false, warn });
  let newPassword: Buffer | undefined;
  try {
    // A wrong password is told before anybody thinks of a new one.
    unlock(file, password).wipe();
    newPassword = await readNewPassword(flags, { path: file, warn });
    const iterations = parseKdf(flags.kdf);
    const work = steps(file, password, newPassword, {
      onLog: warn,
      ...(iterations === undefined ? {} : { iterations }),
    });
    const result = await runRewrite(file, work, flags.quiet);
    const renew = newPassword;
    // It is short, and the new password opens FILE already: a signal does not stop it.
    await interruptible("", () => renewKeyFiles(file, renew));
    const done = newPassword.equals(password)
      ? "encrypted anew under a new key; the new password is the same as the old one"
      : "encrypted anew; the new password opens it, the old one does not";
    tell(flags, `${file}: ${done}`, { path: realpathSync(file), ...result });
  } finally {
    password.fill(0);
    newPassword?.fill(0);
  }
}

/** So that the new password opens the volume's logs as well. What cannot be reached now gets it with the next push. */
async function renewKeyFiles(file: string, password: Buffer): Promise<void> {
  const { isReplica } = await import("../src/core/format.ts");
  const { listRemotes } = await import("../src/core/remotes.ts");
  const remotes = await withReader(file, password, async ({ db }) => (isReplica(db) ? [] : listRemotes(db)));
  if (remotes.length === 0) return;
  const { openRemote } = await import("../src/remote/remote.ts");
  const { checkRemote, renewKeyFile } = await import("../src/log/setup.ts");
  await withSite(file, password, async (site) => {
    for (const remote of remotes) {
      try {
        const store = await openRemote(remote.url, { onRetry: warn });
        // An older copy of the volume is not to shut out who goes on.
        await checkRemote(site, store, remote);
        await renewKeyFile(site, store, remote);
      } catch (error) {
        const { message } = describeError(error);
        warn(`${remote.name}: still opens with the old password, until the next push (${message})`);
      }
    }
  });
}

/** Both from stdin would be one password and an empty one. */
function refuseOneStdin(flags: RekeyFlags): void {
  const old = [flags.passwordFile === "-", flags.keyFile === "-", flags.passwordFd === "0"];
  const replacement = [flags.newPasswordFile === "-", flags.newKeyFile === "-", flags.newPasswordFd === "0"];
  if (!old.includes(true) || !replacement.includes(true)) return;
  throw new ToolError(EXIT.usage, "the old and the new password cannot both come from stdin");
}
