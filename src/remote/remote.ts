/** A place that a log is kept in: files that are written once, under names of `[0-9a-f/]` and few words. */
import { LogError } from "./errors.ts";
import { PatientStore } from "./patience.ts";
import { Throttle } from "./throttle.ts";

export interface StoredFile {
  readonly name: string;
  /** Bytes. */
  readonly size: number;
}

/** Every method throws LogError unreachable where the place does not answer or refuses. */
export interface RemoteStore {
  /** How the user names it. */
  readonly url: string;
  /** All files whose names begin with `prefix`, which ends with a slash; in no order. Nothing that is half written. */
  list(prefix: string): Promise<StoredFile[]>;
  /**
   * Writes a file, whole and durably or not at all. False, and nothing is changed, where one of that name is there: of
   * several at once one wins.
   */
  put(name: string, bytes: Uint8Array): Promise<boolean>;
  /** The file, or `length` bytes of it from byte `from` on, fewer where it ends before; undefined where there is none. */
  get(name: string, from?: number, length?: number): Promise<Buffer | undefined>;
  /** Nothing happens where there is none. */
  remove(name: string): Promise<void>;
}

/** How a remote is spoken to. */
export interface RemoteOptions {
  /** Stops whatever is under way; its reason is thrown. */
  readonly signal?: AbortSignal;
  /** Bytes that go, both ways together, in a second; undefined: as many as can. */
  readonly bytesPerSecond?: number | undefined;
  /** How long what may pass is tried again, in milliseconds; undefined: a minute, 0: not at all. */
  readonly patienceMs?: number;
  /** Told when something is tried again, once for each time that the remote is out of reach. */
  readonly onRetry?: (line: string) => void;
}

/** What a store is given: the same, with the limit as something to wait for. */
export interface StoreOptions {
  readonly signal?: AbortSignal;
  readonly throttle?: Throttle;
}

interface Kind {
  readonly urls: RegExp;
  readonly open: (url: string, options: StoreOptions) => Promise<RemoteStore>;
}

const KINDS: readonly Kind[] = [
  {
    urls: /^s3:\/\//i,
    open: async (url, options) => new (await import("./s3.ts")).S3Store(url, options),
  },
  {
    // As rsync sees it: a colon before any slash.
    urls: /^(rsync:\/\/|[^/]+:(?!\/\/))/,
    open: async (url, options) => new (await import("./rsync.ts")).RsyncStore(url, options),
  },
  {
    // Not "", as a variable that is not set: it would be where the command runs.
    urls: /^(?![a-z0-9+]+:\/\/)./i,
    open: async (url, options) => new (await import("./directory.ts")).DirectoryStore(url, options),
  },
];

/** Whether it is a directory, which is meant from where the command runs. */
export function isDirectory(url: string): boolean {
  return KINDS.find(({ urls }) => urls.test(url)) === KINDS.at(-1);
}

/** The remote that `url` names. What may pass is tried again. @throws LogError unreachable where it names none */
export async function openRemote(url: string, options: RemoteOptions = {}): Promise<RemoteStore> {
  const kind = KINDS.find(({ urls }) => urls.test(url));
  if (kind === undefined)
    throw new LogError(
      "unreachable",
      `${url || '""'}: a remote is a directory, HOST:PATH, rsync://HOST/MODULE or s3://BUCKET/PREFIX; other kinds are not known`,
    );
  const { signal, bytesPerSecond } = options;
  const store = await kind.open(url, {
    ...(signal === undefined ? {} : { signal }),
    ...(bytesPerSecond === undefined ? {} : { throttle: new Throttle(bytesPerSecond, signal) }),
  });
  return new PatientStore(store, options);
}
