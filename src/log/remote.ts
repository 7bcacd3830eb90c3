/** A place that a log is kept in: files that are written once, under names of `[0-9a-f/]` and few words. */
import { LogError } from "./errors.ts";

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

const NUMBER_DIGITS = 16;

/** A number as the last part of a name: in the order of names it is in the order of numbers. */
export function numberName(number: number): string {
  return String(number).padStart(NUMBER_DIGITS, "0");
}

export function objectName(hash: Uint8Array): string {
  const hex = Buffer.from(hash).toString("hex");
  return `data/${hex.slice(0, 2)}/${hex}`;
}

/** Directory of a writer's segments. */
export function segmentsOf(writer: bigint): string {
  return `log/${writer.toString(16).padStart(16, "0")}/`;
}

/** The remote that `url` names. @throws LogError unreachable where nothing here knows it */
export async function openRemote(url: string): Promise<RemoteStore> {
  if (/^[a-z0-9+]+:\/\//i.test(url))
    throw new LogError("unreachable", `${url}: a remote is a directory; other kinds are not known`);
  const { DirectoryStore } = await import("./directory.ts");
  return new DirectoryStore(url);
}
