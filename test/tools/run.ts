/** Runs the built command line as a person or a script would, with and without a terminal. */
import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

export const CLI = fileURLToPath(new URL("../../dist/tools/cli.js", import.meta.url));
/** The same where unprivileged users can read it: see test/setup.ts. */
export const FOR_OTHERS = {
  cli: process.env.SQLFUSE_TEST_CLI ?? CLI,
  node: process.env.SQLFUSE_TEST_NODE ?? process.execPath,
};
/** The key itself, which is not derived: that would take as long as the start. */
export const PASSWORD = `x'${"c3".repeat(32)}'`;

export interface Outcome {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

interface RunOptions {
  /** undefined: none in the environment. */
  readonly password?: string | undefined;
  readonly input?: string;
  readonly cwd?: string;
  /** Runs as nobody. Needs root. */
  readonly unprivileged?: boolean;
  readonly env?: Record<string, string>;
}

function environment(options: RunOptions): NodeJS.ProcessEnv {
  const env: NodeJS.ProcessEnv = { ...process.env, ...options.env };
  delete env.SQLFUSE_PASSWORD;
  if (options.password !== undefined) env.SQLFUSE_PASSWORD = options.password;
  return env;
}

function command(args: readonly string[], options: RunOptions): [string, string[]] {
  if (!options.unprivileged) return [process.execPath, [CLI, ...args]];
  const line = [FOR_OTHERS.node, FOR_OTHERS.cli, ...args];
  return ["setpriv", ["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", ...line]];
}

export function sqlfuse(args: readonly string[], options: RunOptions = { password: PASSWORD }): Outcome {
  const result = spawnSync(...command(args, options), {
    env: environment(options),
    encoding: "utf8",
    timeout: 50_000,
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    input: options.input ?? "",
  });
  return { code: result.status, stdout: result.stdout, stderr: result.stderr };
}

/** Contents of the file, and whether anything stands beside it that was not there. */
export function fingerprint(file: string): string {
  const hash = createHash("sha256").update(readFileSync(file)).digest("hex");
  return [hash, ...["-wal", "-shm", "-journal"].filter((suffix) => existsSync(file + suffix))].join(" ");
}

/** One thing that is shown, and the keys that are pressed then. */
export type Step = readonly [shown: string, keys: string];

const TERMINAL = `
import json, os, pty, select, sys, time
steps, argv = json.loads(sys.argv[1]), sys.argv[2:]
pid, fd = pty.fork()
if pid == 0:
    os.execvp(argv[0], argv)
output, seen, deadline = b"", 0, time.time() + 40
while time.time() < deadline:
    if steps and steps[0][0].encode() in output[seen:]:
        seen = len(output)
        time.sleep(0.3)
        os.write(fd, steps.pop(0)[1].encode())
    if not select.select([fd], [], [], 0.1)[0]:
        continue
    try:
        data = os.read(fd, 65536)
    except OSError:
        break
    if not data:
        break
    output += data
sys.stdout.buffer.write(output)
sys.stdout.flush()
if time.time() >= deadline:
    os.kill(pid, 9)
status = os.waitpid(pid, 0)[1]
code = os.waitstatus_to_exitcode(status)
sys.exit(code if code >= 0 else 128 - code)
`;

/** Runs it on a terminal of its own and types. stdout has all that the terminal showed. */
export function sqlfuseOnTerminal(
  args: readonly string[],
  steps: readonly Step[],
  env: Record<string, string> = {},
): Promise<Outcome> {
  const python = spawn("python3", ["-c", TERMINAL, JSON.stringify(steps), process.execPath, CLI, ...args], {
    // Node shows no colours where continuous integration runs it.
    env: { ...environment({ env }), TERM: "xterm", CI: undefined },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let stdout = "";
  let stderr = "";
  python.stdout.setEncoding("utf8").on("data", (text: string) => {
    stdout += text;
  });
  python.stderr.setEncoding("utf8").on("data", (text: string) => {
    stderr += text;
  });
  return new Promise((resolve) => python.on("close", (code) => resolve({ code, stdout, stderr })));
}
