/** The option --at; what it takes is told in src/core/moment.ts. */
import type { Command } from "commander";

export interface AtFlags {
  readonly at?: string;
}

export function addAtOption(command: Command): Command {
  return command.option(
    "--at <snapshot>",
    "as it was then: the name of a snapshot, its epoch, or a time, which means the last one made until then " +
      "(2026-11-20, '2026-11-20 14:00', 'yesterday 14:00', '2 hours ago'; see: sqlfuse snapshot list)",
  );
}
