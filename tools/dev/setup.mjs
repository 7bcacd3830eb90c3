/**
 * What `npm run demo` and `npm test` start with, on a machine that has Node and nothing else: system packages (by
 * apt-get where it exists), npm packages, the engine, the build, /dev/fuse. Does nothing that is done already.
 *
 *   node tools/dev/setup.mjs [demo|test]
 *
 * Plain JavaScript, as it runs before anything is installed.
 */
import { spawnSync } from "node:child_process";
import { accessSync, chmodSync, constants, existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { delimiter, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../..", import.meta.url));
const goal = process.argv[2] ?? "demo";
const isRoot = process.geteuid?.() === 0;
const engineDirectory = join(root, "node_modules/@journeyapps/sqlcipher");
const engine = join(engineDirectory, "build/Release/node_sqlite3.node");

process.chdir(root);
checkNode();
systemPackages();
npmPackages();
buildEngine();
build();
fuseDevice();

function say(line) {
  process.stderr.write(`setup: ${line}\n`);
}

function fail(line) {
  say(line);
  process.exit(1);
}

function run(command, args, env = {}) {
  say(`${command} ${args.join(" ")}`);
  const result = spawnSync(command, args, { stdio: ["ignore", 2, 2], env: { ...process.env, ...env } });
  return result.status === 0;
}

function checkNode() {
  const [major, minor] = process.versions.node.split(".").map(Number);
  if (major < 20 || (major === 20 && minor < 19))
    fail(`Node ${process.versions.node} is too old: 20.19 or newer is needed`);
  if (process.platform !== "linux")
    say(`this is ${process.platform}: volumes can be made, but mounted only on Linux so far`);
}

function onPath(program) {
  const places = [...(process.env.PATH ?? "").split(delimiter), "/usr/sbin", "/sbin"];
  return places.some((place) => existsSync(join(place, program)));
}

/** What is needed, how its presence shows, and the Debian package that brings it. */
function wanted() {
  const list = [];
  const want = (present, debian) => {
    if (!present) list.push(debian);
  };
  if (!existsSync(engine)) {
    want(onPath("python3"), "python3");
    want(onPath("make"), "make");
    want(onPath("g++") || onPath("c++") || onPath("clang++"), "g++");
    want(
      ["/usr/include", "/usr/local/include", "/opt/homebrew/include"].some((place) =>
        existsSync(`${place}/openssl/ssl.h`),
      ),
      "libssl-dev",
    );
    // Debian's own node has its headers in a package apart; every other distribution of Node brings them along.
    if (nodeHeaders() === undefined && existsSync("/usr/share/doc/nodejs/copyright"))
      list.push("libnode-dev");
  }
  if (process.platform === "linux") want(onPath("fusermount3"), "fuse3");
  want(onPath("tar"), "tar");
  if (goal === "test") {
    for (const [program, debian] of [
      ["git", "git"],
      ["gcc", "gcc"],
      ["make", "make"],
      ["rsync", "rsync"],
      ["ssh", "openssh-client"],
      ["sshd", "openssh-server"],
      ["bsdtar", "libarchive-tools"],
      ["sqlite3", "sqlite3"],
      ["setfacl", "acl"],
      ["setfattr", "attr"],
      ["python3", "python3"],
      ["setpriv", "util-linux"],
      ["mount", "mount"],
      ["mkfs.ext4", "e2fsprogs"],
      ["ps", "procps"],
      ["strace", "strace"],
      ["zsh", "zsh"],
      ["fish", "fish"],
      ["groff", "groff-base"],
      ["mandoc", "mandoc"],
    ]) {
      want(onPath(program), debian);
    }
    want(existsSync("/usr/include/stdio.h"), "libc6-dev");
  }
  return [...new Set(list)];
}

function systemPackages() {
  const missing = wanted();
  if (missing.length === 0) return;
  if (!onPath("apt-get")) {
    fail(
      `please install, by the names of your system, what Debian calls: ${missing.join(" ")}; then run this again`,
    );
  }
  const command = `apt-get install -y --no-install-recommends ${missing.join(" ")}`;
  const prefix = isRoot ? [] : ["sudo"];
  if (!isRoot && !onPath("sudo")) fail(`please run as root: ${command}`);
  const apt = (...args) => {
    const [program, ...rest] = [
      ...prefix,
      "env",
      "DEBIAN_FRONTEND=noninteractive",
      "apt-get",
      "-o",
      "Dpkg::Use-Pty=0",
      ...args,
    ];
    return run(program, rest);
  };
  // A list of packages that cannot be renewed may still be good enough.
  apt("update", "-qq");
  if (!apt("install", "-y", "-qq", "--no-install-recommends", ...missing))
    fail(`this failed; please run as root: ${command}`);
}

/** Where node-gyp finds this Node's headers without downloading them. Undefined: nowhere. */
function nodeHeaders() {
  const places = [dirname(dirname(process.execPath)), "/usr/include/nodejs"];
  return places.find(
    (place) =>
      existsSync(join(place, "include/node/node_api.h")) || existsSync(join(place, "src/node_api.h")),
  );
}

function headerSetting() {
  const headers = nodeHeaders();
  if (headers === undefined) {
    say("no headers of this Node beside it: node-gyp will download them");
    return {};
  }
  // The first is the name since node-gyp 11.3; npm 12 complains about the second, its node-gyp knows the first.
  const npm = Number.parseInt(spawnSync("npm", ["--version"], { encoding: "utf8" }).stdout, 10);
  return {
    npm_package_config_node_gyp_nodedir: headers,
    ...(npm < 12 ? { npm_config_nodedir: headers } : {}),
  };
}

/** Whether node_modules holds what the lockfile says. Packages for other systems may be absent. */
function npmPackagesAreThere() {
  const hidden = join(root, "node_modules/.package-lock.json");
  if (!existsSync(hidden)) return false;
  const read = (file) => JSON.parse(readFileSync(file, "utf8")).packages;
  const installed = read(hidden);
  return Object.entries(read(join(root, "package-lock.json"))).every(
    ([path, { version, optional }]) =>
      path === "" || installed[path]?.version === version || (optional && installed[path] === undefined),
  );
}

function npmPackages() {
  if (npmPackagesAreThere()) return;
  if (!run("npm", ["ci", "--no-audit", "--no-fund"], headerSetting())) fail("npm ci failed: see above");
}

/** npm may be told to run no install scripts: then the engine is there as source only. */
function buildEngine() {
  if (existsSync(engine)) return;
  say("npm did not build the database engine: building it");
  if (!run("npm", ["--prefix", engineDirectory, "run", "install"], headerSetting()) || !existsSync(engine)) {
    fail(
      `the database engine could not be built: see above; then try: npm --prefix ${engineDirectory} run install`,
    );
  }
}

function build() {
  const built = join(root, "dist/.built");
  const builtAt = existsSync(built) ? statSync(built).mtimeMs : 0;
  const sources = ["package.json", "package-lock.json", "tsconfig.json", "tsconfig.build.json", "schema.sql"];
  for (const directory of ["src", "tools"]) {
    for (const name of readdirSync(directory, { recursive: true })) sources.push(join(directory, name));
  }
  // A directory's time tells of deleted files.
  if (sources.every((file) => !existsSync(file) || statSync(file).mtimeMs < builtAt)) return;
  if (!run("npm", ["run", "--silent", "build"])) fail("the build failed: see above");
}

function fuseDevice() {
  if (process.platform !== "linux") return;
  const device = "/dev/fuse";
  if (!existsSync(device) && isRoot && onPath("modprobe"))
    spawnSync("modprobe", ["fuse"], { stdio: "ignore" });
  if (!existsSync(device)) {
    fail(
      `${device} is missing, so nothing can be mounted: as root run "modprobe fuse"; ` +
        `a container needs --device ${device} --cap-add SYS_ADMIN --security-opt apparmor=unconfined`,
    );
  }
  // Everywhere else udev makes it 0666; who may mount is fusermount3's business.
  const open = (statSync(device).mode & 0o666) === 0o666;
  if (!open && isRoot && goal === "test") chmodSync(device, 0o666);
  else if (!open && !isRoot && onPath("sudo")) run("sudo", ["chmod", "666", device]);
  try {
    accessSync(device, constants.R_OK | constants.W_OK);
  } catch {
    fail(`${device} may not be opened by you: as root run "chmod 666 ${device}"`);
  }
}
