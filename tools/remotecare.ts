/** What `sqlfuse remote verify`, `gc` and `rotate` do with the log at a remote. */
import type { Remote } from "../src/core/remotes.ts";
import type { PushSite } from "../src/log/pusher.ts";
import type { Shipped } from "../src/log/shipper.ts";
import type { Swept } from "../src/log/sweep.ts";
import type { RemoteStore } from "../src/remote/remote.ts";
import { accessOf } from "./access.ts";
import { describeError, EXIT, ToolError } from "./exitcodes.ts";
import type { Breath } from "./interrupt.ts";
import { headFields, headText } from "./loghead.ts";
import { formatBytes, type OutputFlags, say, sayJson, tell, warn } from "./output.ts";
import { Progress } from "./progress.ts";
import { pushingAlone } from "./pushsite.ts";

export interface Care {
  readonly site: PushSite;
  readonly flags: OutputFlags;
  readonly breath: Breath;
}

/** What was done: a line for people, and fields for programs. */
interface Told {
  readonly text: string;
  readonly fields: object;
}

/** One after the other; what fails with one does not keep the others, and all are one JSON value. @throws the first failure */
export async function forEach(
  remotes: readonly Remote[],
  { flags, breath }: Care,
  run: (remote: Remote) => Promise<Told>,
): Promise<void> {
  const all: object[] = [];
  const failures: ToolError[] = [];
  for (const one of remotes) {
    try {
      const { text, fields } = await run(one);
      all.push({ name: one.name, ...fields });
      if (!flags.json && !flags.quiet) say(`${one.name}: ${text}`);
    } catch (error) {
      breath.signal.throwIfAborted();
      const { message, code } = describeError(error);
      all.push({ name: one.name, error: message });
      failures.push(new ToolError(code, `${one.name}: ${message}`));
    }
  }
  if (flags.json) sayJson(all);
  const [first, ...others] = failures;
  for (const { message } of others) warn(message);
  if (first !== undefined) throw first;
}

/** Whether all is there that a clone needs; what is not is named, and makes the command fail. */
export async function verify(care: Care, remote: Remote, readPercent: number): Promise<Told> {
  const { verifyLog } = await import("../src/log/verify.ts");
  const { Sealer } = await import("../src/log/seal.ts");
  const { volumeOf } = await import("../src/log/setup.ts");
  const { site, breath } = care;
  const whose = { writer: remote.writer, volume: volumeOf(site) };
  const sealer = new Sealer(remote.log, remote.secret);
  const found = await withStore(care, remote, (store, progress) =>
    verifyLog(store, sealer, whose, remote, {
      readPercent,
      breathe: breath.breathe,
      onProgress: (done, total) => progress.count("reading", done, total),
    }).catch((error: unknown) => {
      throw isBetweenSecrets(remote, error) ? betweenSecrets(remote) : error;
    }),
  );
  for (const problem of found.problems) warn(`${remote.name}: ${problem}`);
  const { segments, objects, bytes, read } = found;
  const isWhole = found.problems.length === 0;
  if (!isWhole) process.exitCode = EXIT.damaged;
  const verdict = isWhole ? "all is there" : `${found.problems.length} problems`;
  const text = `${segments} segments and ${objects} objects, ${formatBytes(bytes)}; ${read} of them read`;
  return { text: `${verdict}: ${text}`, fields: found };
}

/** A rotation was stopped before the first segment of the new log: the volume does not have the secret of the old one any more. */
function isBetweenSecrets({ epoch, segment }: Remote, error: unknown): boolean {
  const isOther = error instanceof Error && "reason" in error && error.reason === "other-log";
  return isOther && epoch === 0 && segment > 0;
}

function betweenSecrets({ url }: Remote): ToolError {
  return new ToolError(EXIT.unusable, `${url}: a remote rotate was stopped; the next push goes on with it`);
}

export async function collect(care: Care, remote: Remote): Promise<Told> {
  const { collect: run } = await import("../src/log/gc.ts");
  const { site, breath } = care;
  const { name } = remote;
  const done = await withStore(care, remote, (store, progress) =>
    pushingAlone(site, name, () =>
      run(site, store, name, {
        breathe: breath.breathe,
        onProgress: tally(progress, `starting ${name} over`),
      }),
    ),
  );
  const { pushed, repacked, start, ...gone } = done;
  const shipped = `${formatBytes(pushed.bytes)} shipped, ${repacked} objects packed anew`;
  return {
    text: `${goneText(gone)}; ${shipped}; it starts over at segment ${start}`,
    fields: { ...gone, repacked, shippedBytes: pushed.bytes, segment: pushed.segment },
  };
}

export async function renewSecret(care: Care, remote: Remote): Promise<void> {
  const { rotate } = await import("../src/log/rotation.ts");
  const { site, breath, flags } = care;
  const { name } = remote;
  const pushed = await withStore(care, remote, (store, progress) =>
    pushingAlone(site, name, () =>
      rotate(site, store, name, {
        breathe: breath.breathe,
        onProgress: tally(progress, `shipping all to ${name} anew`),
      }),
    ),
  );
  const gone = pushed.swept ?? { segments: 0, objects: 0, bytes: 0 };
  const text = `has a new secret, and everything again, ${formatBytes(pushed.bytes)}; ${goneText(gone)}`;
  const fields = { ...gone, shippedBytes: pushed.bytes, ...headFields(pushed) };
  tell(flags, `${name}: ${text}; ${headText(pushed)}`, { name, ...fields });
}

/** Runs it with the remote open, and its progress drawn. */
async function withStore<T>(
  { flags, breath }: Care,
  remote: Remote,
  run: (store: RemoteStore, progress: Progress) => Promise<T>,
): Promise<T> {
  const { openRemote } = await import("../src/remote/remote.ts");
  const progress = new Progress(flags.quiet);
  try {
    return await run(await openRemote(remote.url, accessOf(breath.signal, progress)), progress);
  } finally {
    progress.end();
  }
}

function tally(progress: Progress, what: string): (shipped: Shipped) => void {
  return ({ bytes }) => progress.tally(`${what}: ${formatBytes(bytes)}`);
}

function goneText({ segments, objects, bytes }: Swept): string {
  return `${segments} segments and ${objects} objects removed, ${formatBytes(bytes)}`;
}
