/** What `sqlfuse --version` prints: a report of a fault needs all of it. */
import { createRequire } from "node:module";
import { describeError } from "./exitcodes.ts";

interface Versions {
  readonly sqlfuse: string;
  /** Null where there is no engine. */
  readonly sqlcipher: string | null;
  readonly sqlite: string | null;
  readonly node: string;
  /** Why there is no engine. */
  readonly problem?: string;
}

export async function versions(): Promise<Versions> {
  const node = process.versions.node;
  const sqlfuse = packageVersion();
  try {
    const { engineVersions } = await import("../src/db/database.ts");
    const { cipher, sqlite } = engineVersions();
    return { sqlfuse, sqlcipher: cipher.replace(" community", ""), sqlite, node };
  } catch (error) {
    return { sqlfuse, sqlcipher: null, sqlite: null, node, problem: describeError(error).message };
  }
}

export function packageVersion(): string {
  return (createRequire(import.meta.url)("sqlfuse/package.json") as { version: string }).version;
}

export function versionLine({ sqlfuse, sqlcipher, sqlite, node, problem }: Versions): string {
  const engine = problem === undefined ? `SQLCipher ${sqlcipher}, SQLite ${sqlite}` : `no engine: ${problem}`;
  return `sqlfuse ${sqlfuse} (${engine}, Node ${node})`;
}
