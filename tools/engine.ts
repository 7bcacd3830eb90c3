/**
 * Loads the database engine, so that a missing one is told before anybody types a password. From here on the process
 * leaves no core file: it will have a key in its memory.
 */
export async function requireEngine(): Promise<void> {
  const { sqlite3 } = await import("../src/native/sqlite3.ts");
  const { forbidCores } = await import("../src/native/libc.ts");
  sqlite3();
  forbidCores();
}
