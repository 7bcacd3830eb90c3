/** What `sqlfuse --version` prints: a report of a fault needs all of it. */
import { createRequire } from "node:module";
import { describeError } from "./exitcodes.ts";

export async function versionLine(): Promise<string> {
  const manifest = createRequire(import.meta.url)("sqlfuse/package.json") as { version: string };
  return `sqlfuse ${manifest.version} (${await engineLine()}, Node ${process.versions.node})`;
}

async function engineLine(): Promise<string> {
  try {
    const { engineVersions } = await import("../src/db/database.ts");
    const { cipher, sqlite } = engineVersions();
    return `SQLCipher ${cipher.replace(" community", "")}, SQLite ${sqlite}`;
  } catch (error) {
    return `no engine: ${describeError(error).message}`;
  }
}
