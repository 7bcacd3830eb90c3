/**
 * TypeScript in a process of its own: for what ends a process (a crash), and for what another one must do
 * (hold a lock, open a copy). It imports the sources by "src/...".
 */
import { spawn, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
/** Node 20 runs no TypeScript: vitest's own loader does. */
const LOADER = `
  import { createViteServer } from "vitest/node";
  const server = await createViteServer({
    root: ${JSON.stringify(ROOT)}, configFile: false, logLevel: "error", optimizeDeps: { noDiscovery: true },
    server: { middlewareMode: true, ws: false, watch: null, hmr: false },
  });
  await server.ssrLoadModule(process.argv[1]);
  await server.close();
`;

interface Outcome {
  readonly status: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

function prepare(source: string): { file: string; args: string[]; clean: () => void } {
  const directory = mkdtempSync(join(tmpdir(), "child-"));
  const file = join(directory, "child.ts");
  writeFileSync(
    file,
    source.replaceAll('from "src/', `from "${ROOT}src/`).replaceAll('from "test/', `from "${ROOT}test/`),
  );
  const args = ["--input-type=module", "--eval", LOADER, file];
  return { file, args, clean: () => rmSync(directory, { recursive: true, force: true }) };
}

/** Runs `source` to its end, at most a minute. */
export function runChild(source: string, nodeOptions: readonly string[] = []): Outcome {
  const { args, clean } = prepare(source);
  try {
    return spawnSync(process.execPath, [...nodeOptions, ...args], {
      cwd: ROOT,
      encoding: "utf8",
      timeout: 60_000,
      killSignal: "SIGKILL",
    });
  } finally {
    clean();
  }
}

/** Starts `source`, waits for its first line of output, runs `whileItRuns`, and kills it. */
export async function withChild(source: string, whileItRuns: (pid: number) => void): Promise<void> {
  const { args, clean } = prepare(source);
  const child = spawn(process.execPath, args, { cwd: ROOT, stdio: ["ignore", "pipe", "inherit"] });
  try {
    await new Promise<void>((resolve, reject) => {
      child.stdout.once("data", () => resolve());
      child.once("exit", (code) => reject(new Error(`the child ended with ${code}`)));
    });
    whileItRuns(child.pid ?? 0);
  } finally {
    const ended = new Promise((resolve) => child.once("exit", resolve));
    if (child.exitCode === null && child.kill("SIGKILL")) await ended;
    clean();
  }
}
