/** What `npm pack` would publish, installed as npm would lay it out, but without the network. */
import { spawnSync } from "node:child_process";
import {
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { fuseNativeImpossible } from "../helpers/secondtransport.ts";
import { PASSWORD } from "./run.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));
let directory: string;
let modules: string;
let installed: string;

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "package-"));
  const pack = spawnSync("npm", ["pack", "--ignore-scripts", "--pack-destination", directory], {
    cwd: root,
    encoding: "utf8",
  });
  expect(pack.status, pack.stderr).toBe(0);
  const tarball = readdirSync(directory).find((name) => name.endsWith(".tgz")) ?? "";
  modules = join(directory, "node_modules");
  installed = join(modules, "sqlfuse");
  mkdirSync(installed, { recursive: true });
  const untar = spawnSync("tar", ["-xzf", join(directory, tarball), "--strip-components=1", "-C", installed]);
  expect(untar.status).toBe(0);
  for (const name of readdirSync(join(root, "node_modules"))) {
    if (!name.startsWith(".")) symlinkSync(join(root, "node_modules", name), join(modules, name));
  }
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

interface Outcome {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

function run(args: readonly string[], more: Record<string, string> = {}): Outcome {
  return spawnSync(process.execPath, [join(installed, "dist/tools/cli.js"), ...args], {
    cwd: directory,
    encoding: "utf8",
    env: { ...process.env, SQLFUSE_PASSWORD: PASSWORD, ...more },
  });
}

describe("the package", () => {
  test("holds what runs, the tables, and what a person reads; no tests and no tools of developers", () => {
    const names = readdirSync(installed, { recursive: true, encoding: "utf8" });
    for (const name of [
      "dist/tools/cli.js",
      "dist/src/index.js",
      "dist/src/index.d.ts",
      "dist/src/host/worker.js",
      "dist/src/host/detacher.js",
      "dist/tools/mounthelper.js",
      "tools/systemd/sqlfuse@.service",
      "dist/man/sqlfuse.1",
      "dist/man/sqlfuse-mount.1",
    ])
      expect(names).toContain(name);
    for (const name of ["dist/schema.sql", "schema.sql", "README.md", "LICENSE", "package.json"])
      expect(names).toContain(name);
    expect(names.filter((name) => /(^|\/)(test|dev)(\/|$)|\.map$|\.built$/.test(name))).toEqual([]);
  });

  test("makes, mounts and unmounts a volume from where it is installed", () => {
    expect(run(["--version"]).stdout).toMatch(/^sqlfuse \d/);
    expect(run(["create", "v.sqlite"])).toMatchObject({ status: 0, stderr: "" });
    expect(run(["mount", "--log-file", "log", "v.sqlite"])).toMatchObject({ status: 0, stderr: "" });
    expect(run(["unmount", "v"])).toMatchObject({ status: 0, stderr: "" });
  });

  test("without any LZ4 a volume without compression is made and used; one with it is refused with 19 and what to do", () => {
    const lz4 = join(modules, "lz4-napi");
    const without = { SQLFUSE_LIBLZ4: join(directory, "no such library") };
    expect(run(["create", "packed.sqlite"], without)).toMatchObject({ status: 0, stderr: "" });
    rmSync(lz4);
    const { status, stderr } = run(["create", "y.sqlite"], without);
    expect(stderr).toMatch(/^sqlfuse: compression needs LZ4: install liblz4 .*--compression none\n$/);
    expect(status).toBe(19);
    for (const command of ["ls", "mount", "vacuum"])
      expect(run([command, "packed.sqlite"], without)).toMatchObject({ status: 19, stderr });
    expect(run(["create", "--compression", "none", "plain.sqlite"], without)).toMatchObject({
      status: 0,
      stderr: "",
    });
    expect(run(["put", "plain.sqlite", "node_modules/sqlfuse/README.md", "/"], without)).toMatchObject({
      status: 0,
    });
    expect(run(["cat", "plain.sqlite", "/README.md"], without).stdout).toMatch(/^# sqlfuse/);
    expect(run(["vacuum", "--recompress", "plain.sqlite"], without)).toMatchObject({ status: 19, stderr });
    expect(run(["vacuum", "plain.sqlite"], without)).toMatchObject({ status: 0 });
    symlinkSync(join(root, "node_modules/lz4-napi"), lz4);
    expect(run(["ls", "packed.sqlite"], without)).toMatchObject({ status: 0 });
  });

  test("without fuse-native, or with one that cannot be loaded, only --transport fuse-native is refused, with 19 and what to install", () => {
    const binding = join(modules, "fuse-native");
    const mountBy = (...transport: string[]): Outcome =>
      run(["mount", "--log-file", "log", ...transport, "v.sqlite"]);
    rmSync(binding, { force: true });
    const missing = mountBy("--transport", "fuse-native");
    expect(missing.stderr).toMatch(
      /^sqlfuse: the npm package fuse-native is missing; .*npm install fuse-native@\d.*\n$/,
    );
    expect(missing.status).toBe(19);
    expect(mountBy("--transport", "kernel")).toMatchObject({ status: 0, stderr: "" });
    expect(run(["unmount", "v"])).toMatchObject({ status: 0, stderr: "" });
    mkdirSync(join(binding, "prebuilds", `${process.platform}-${process.arch}`), { recursive: true });
    writeFileSync(join(binding, "package.json"), '{ "name": "fuse-native", "main": "index.js" }');
    writeFileSync(
      join(binding, "prebuilds", `${process.platform}-${process.arch}`, "node.napi.node"),
      "no library",
    );
    const broken = mountBy("--transport", "fuse-native");
    expect(broken.stderr).toMatch(/^sqlfuse: fuse-native cannot be loaded \(.*\); it needs libfuse 2: .*\n$/);
    expect(broken.status).toBe(19);
    expect(readdirSync(directory)).not.toContain("v");
    rmSync(binding, { recursive: true });
  });

  test.skipIf(fuseNativeImpossible() !== undefined)(
    "with a libfuse that it does not know a mount by fuse-native says that dates will be lost, on stderr and in its log",
    () => {
      const binding = join(modules, "fuse-native");
      symlinkSync(join(root, "node_modules/fuse-native"), binding);
      const file = join(installed, "dist/src/native/libfuse.js");
      const text = readFileSync(file, "utf8");
      writeFileSync(file, text.replace("const VERSION = 29;", "const VERSION = 28;"));
      const { status, stderr } = run([
        "mount",
        "--log-file",
        "log",
        "--transport",
        "fuse-native",
        "v.sqlite",
      ]);
      writeFileSync(file, text);
      rmSync(binding);
      expect(stderr).toMatch(/^sqlfuse: this transport cannot set one time of a file alone .*README.md\n$/);
      expect(readFileSync(join(directory, "log"), "utf8")).toMatch(
        / warn .*: this transport cannot set one time/,
      );
      expect(status).toBe(0);
      expect(run(["unmount", "v"])).toMatchObject({ status: 0, stderr: "" });
    },
  );

  test("without a built engine every command that needs it ends with 19 and names the command that builds it", () => {
    const engine = join(modules, "@journeyapps");
    rmSync(engine);
    mkdirSync(join(engine, "sqlcipher"), { recursive: true });
    copyFileSync(
      join(root, "node_modules/@journeyapps/sqlcipher/package.json"),
      join(engine, "sqlcipher/package.json"),
    );
    const { status, stderr } = run(["create", "w.sqlite"]);
    expect(stderr).toMatch(/^sqlfuse: .*\n$/);
    expect(stderr).toContain(`"npm --prefix ${join(engine, "sqlcipher")} run install"`);
    expect(status).toBe(19);
    expect(run(["mount", "--log-file", "log", "v.sqlite"])).toMatchObject({ status: 19, stderr });
    expect(run(["--version"])).toMatchObject({ status: 0 });
    expect(readdirSync(directory)).not.toContain("w.sqlite");
    expect(readdirSync(directory)).not.toContain("v");
  });
});
