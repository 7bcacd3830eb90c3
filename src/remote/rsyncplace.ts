/**
 * Places as rsync spells them: `[user@]host:path` by ssh, and `rsync://[user@]host[:port]/module[/path]` or
 * `[user@]host::module[/path]` where a daemon of rsync answers.
 */
import { LogError } from "./errors.ts";

export interface RsyncPlace {
  /** For rsync, with a slash at its end. */
  readonly root: string;
  /** Whom ssh connects to; undefined: a daemon answers. */
  readonly ssh: SshHost | undefined;
}

export interface SshHost {
  readonly user: string | undefined;
  /** Without the brackets of an IPv6 address. */
  readonly host: string;
}

const HOST = String.raw`(?:([^\s@/:[\]]+)@)?(\[[\w.:%]+\]|[^\s@/:[\]]+)`;
const BY_URL = new RegExp(String.raw`^rsync://${HOST}(?::\d+)?/(.*)$`, "s");
const BY_COLON = new RegExp(`^${HOST}(::?)(.*)$`, "s");
/** Characters that a shell, or rsync itself, would not take as they are. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: those are meant too
const MISUNDERSTOOD = /[\x00-\x1f\x7f*?[\]{}()<>|&;!#$`"'\\^]/;

/** @throws LogError unreachable where it is no such place, or not safe to hand on */
export function parseRsyncPlace(url: string): RsyncPlace {
  const refuse = (why: string): never => {
    throw new LogError("unreachable", `${url}: ${why}`);
  };
  const byUrl = BY_URL.exec(url);
  const byColon = url.startsWith("rsync://") ? null : BY_COLON.exec(url);
  const [user, host] = (byUrl ?? byColon)?.slice(1, 3) ?? [];
  if (host === undefined)
    return refuse("is no place as rsync spells it: user@host:path or rsync://host/module");
  const given = byUrl?.[3] ?? byColon?.[4] ?? "";
  const isDaemon = byUrl !== null || byColon?.[3] === "::";
  const path = given.replace(/\/+$/, "");
  if (path === "" && (isDaemon || given === "")) refuse(isDaemon ? "names no module" : "names no directory");
  // Options are what begins so, to rsync here and there and to ssh.
  if ([user, host, path].some((part) => part?.startsWith("-"))) refuse("no part of it may begin with -");
  if (MISUNDERSTOOD.test(path)) refuse("its path has a character that a shell could take for something else");
  const root = `${url.slice(0, url.length - given.length)}${path}/`;
  return { root, ssh: isDaemon ? undefined : { user, host: host.replace(/^\[|\]$/g, "") } };
}
