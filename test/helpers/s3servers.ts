/** Real S3 servers, from Debian's packages: Ceph's radosgw and OpenStack Swift, by test/helpers/s3servers.sh. */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { addressOf } from "../../src/remote/s3address.ts";
import { S3Client } from "../../src/remote/s3http.ts";
import { hasProgram } from "./programs.ts";

const SCRIPT = fileURLToPath(new URL("s3servers.sh", import.meta.url));
/** Some 70 MB are downloaded and unpacked: half a minute where that goes well. */
const START_MS = 150_000;
/** Ports in a row that one of them takes. */
const PORTS = 20;

/** Refuses a name that is taken, or says that it cannot. */
export type ServerKind = "ceph" | "swift";

export interface S3Server {
  readonly env: Readonly<Record<string, string>>;
  /** URL of a new bucket. */
  bucket(): Promise<string>;
  stop(): Promise<void>;
}

/** Why no such server can be had here; undefined if it may. */
function serversImpossible(): string | undefined {
  if (process.platform !== "linux") return "Linux is needed";
  if (process.geteuid?.() !== 0) return "root is needed";
  if (!hasProgram("apt-get")) return "there is no apt-get to install it with";
  if (!hasProgram("unshare")) return "there is no unshare";
  if (spawnSync("unshare", ["--mount", "--pid", "--fork", "true"]).status !== 0)
    return "no namespaces may be made";
  return undefined;
}

/** Installs and starts one; a sentence says why that was not possible here. */
export async function startServer(kind: ServerKind): Promise<S3Server | string> {
  const impossible = serversImpossible();
  if (impossible !== undefined) return impossible;
  const place = mkdtempSync(join(tmpdir(), `s3-${kind}-`));
  const [port, other] = [await freePorts(1), await freePorts(PORTS)];
  const child = spawn("bash", [SCRIPT, kind, place, String(port), String(other)], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const stop = async (): Promise<void> => {
    await ended(child);
    rmSync(place, { recursive: true, force: true });
  };
  const refused = await ready(child);
  if (refused !== undefined) {
    await stop();
    return refused;
  }
  const env = {
    AWS_ACCESS_KEY_ID: kind === "ceph" ? "TESTKEY" : "test:tester",
    AWS_SECRET_ACCESS_KEY: "TESTSECRET",
  };
  let buckets = 0;
  const bucket = async (): Promise<string> => {
    const url = `s3://bucket-${buckets++}/prefix?endpoint=http://127.0.0.1:${port}`;
    const { status, body } = await new S3Client(url, addressOf(url, env), {}).ask({ method: "PUT" });
    if (status !== 200) throw new Error(`${url}: ${status} ${body.toString()}`);
    return url;
  };
  return { env, bucket, stop };
}

/** Waits for the word that it is ready; gives what it says instead. */
async function ready(child: ChildProcess): Promise<string | undefined> {
  const timer = setTimeout(() => child.kill("SIGKILL"), START_MS);
  let said = "";
  try {
    for await (const piece of child.stdout ?? []) {
      said += String(piece);
      if (/^ready$/m.test(said)) return undefined;
      const failed = /^failed: (.*)$/m.exec(said)?.[1];
      if (failed !== undefined) return failed;
    }
    return `it ended, or was not ready in ${START_MS / 1000} s: ${said.trim()}`;
  } finally {
    clearTimeout(timer);
  }
}

/** With the first process of their namespace all of them go. */
async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const end = new Promise((resolve) => child.once("exit", resolve));
  child.kill("SIGKILL");
  await end;
}

/** The first of so many ports in a row that nobody listens at now. */
async function freePorts(count: number): Promise<number> {
  for (let tries = 0; tries < 100; tries++) {
    // Below those that are given out for outgoing connections.
    const first = 10_000 + Math.floor(Math.random() * 20_000);
    const free = await Promise.all(Array.from({ length: count }, (_, i) => isFree(first + i)));
    if (free.every((one) => one)) return first;
  }
  throw new Error("there are no free ports");
}

async function isFree(port: number): Promise<boolean> {
  return await new Promise((resolve) => {
    const server = createServer();
    server.once("error", () => resolve(false));
    server.listen(port, "127.0.0.1", () => server.close(() => resolve(true)));
  });
}
