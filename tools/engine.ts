/** Loads the database engine, so that a missing one is told before anybody types a password. */
export async function requireEngine(): Promise<void> {
  const { sqlite3 } = await import("../src/native/sqlite3.ts");
  sqlite3();
}
