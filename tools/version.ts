/** What `sqlfuse --version` prints: a report of a fault needs all of it. */
import { createRequire } from "node:module";
import { describeError } from "./exitcodes.ts";

export async function versionLine(): Promise<string> {
  const manifest = createRequire(import.meta.url)("sqlfuse/package.json") as { version: string };
  const engine = await engineVersions().catch(
    (error: unknown) => `no engine: ${describeError(error).message}`,
  );
  return `sqlfuse ${manifest.version} (${engine}, Node ${process.versions.node})`;
}

async function engineVersions(): Promise<string> {
  const { Database } = await import("../src/db/database.ts");
  const { Key, SALT_BYTES, STOCK_CIPHER } = await import("../src/db/key.ts");
  // Only a connection tells the version of the cipher; a database in memory needs no real key.
  const key = new Key(Buffer.alloc(32), Buffer.alloc(SALT_BYTES), STOCK_CIPHER);
  const database = new Database(":memory:", key, { mode: "create" });
  try {
    const statement = database.prepare("SELECT sqlite_version()");
    statement.step();
    const sqlite = statement.text(0);
    statement.reset();
    return `SQLCipher ${database.pragma("cipher_version")?.replace(" community", "")}, SQLite ${sqlite}`;
  } finally {
    database.close();
  }
}
