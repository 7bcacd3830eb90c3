/** rsync as a remote: by ssh, by a daemon, and by a key that is restricted. */
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { collect } from "../../src/log/gc.ts";
import { Sealer } from "../../src/log/seal.ts";
import { localSite } from "../../src/log/site.ts";
import { verifyLog } from "../../src/log/verify.ts";
import { RsyncStore } from "../../src/remote/rsync.ts";
import { parseRsyncPlace } from "../../src/remote/rsyncplace.ts";
import { noise, put, ROOT } from "../core/fixture.ts";
import { hasProgram } from "../helpers/programs.ts";
import { missingForRsync, missingForSsh, RsyncDaemon, SshServer } from "../helpers/rsyncservers.ts";
import { inLog, NAME } from "../log/fixture.ts";
import { CONTRACT } from "./contract.ts";

const missing = { ssh: missingForSsh(), daemon: missingForRsync() };
for (const reason of new Set(Object.values(missing)))
  if (reason !== undefined) console.warn(`rsync.test.ts: left out: ${reason}`);
const RRSYNC = hasProgram("rrsync");
if (!RRSYNC) console.warn("rsync.test.ts: left out what is about restricted keys: there is no rrsync here");

type Kind = "ssh" | "daemon";

let ssh: SshServer;
let daemon: RsyncDaemon;
let base: string;
let path: string;
let count = 0;

beforeAll(async () => {
  base = mkdtempSync(join(tmpdir(), "rsync-"));
  if (missing.ssh === undefined) ssh = await SshServer.start();
  if (missing.daemon === undefined) daemon = await RsyncDaemon.start(base);
});

afterAll(() => {
  ssh?.stop();
  daemon?.stop();
  rmSync(base, { recursive: true, force: true });
});

beforeEach(() => {
  if (missing.ssh === undefined) process.env.RSYNC_RSH = ssh.command;
  path = join(base, `place ${++count}`);
  mkdirSync(path);
});

afterEach(() => {
  delete process.env.RSYNC_RSH;
});

function urlOf(kind: Kind): string {
  return kind === "ssh" ? `${ssh.host}:${path}` : `${daemon.url}/place ${count}`;
}

const open = (kind: Kind) => new RsyncStore(urlOf(kind));
const bytes = (text: string) => Buffer.from(text);

/** All that is below a directory, with its content. */
function contentOf(directory: string): string[] {
  const names = readdirSync(directory, { recursive: true, encoding: "utf8" }).sort();
  return names.map((name) => {
    const stat = lstatSync(join(directory, name));
    return `${name} ${stat.mode} ${stat.mtimeMs} ${stat.isFile() ? readFileSync(join(directory, name)) : ""}`;
  });
}

/** A process takes some hundredths of a second: what is about many is tried with files that are there already. */
const { "lists many": _, ...SHORT } = CONTRACT;

for (const kind of ["ssh", "daemon"] as const)
  describe.skipIf(missing[kind] !== undefined)(`rsync by ${kind}`, () => {
    it.each(Object.entries(SHORT))("%s", (_, run) => run(open(kind)), 60_000);

    it("lists many", async () => {
      const names = Array.from({ length: 3000 }, (_, i) => `log/1/${String(i).padStart(16, "0")}`);
      mkdirSync(join(path, "log/1"), { recursive: true });
      for (const name of names) writeFileSync(join(path, name), "x");
      const listed = await open(kind).list("log/");
      expect(listed.map(({ name }) => name).sort()).toEqual(names);
    });

    it("leaves nothing for others to read, and shows nothing half written in its lists", async () => {
      const store = open(kind);
      await store.put("data/aa/1", bytes("1"));
      expect(statSync(join(path, "data/aa/1")).mode & 0o777).toBe(0o600);
      expect(statSync(join(path, "data/aa")).mode & 0o777).toBe(0o700);
      writeFileSync(join(path, "data/aa/.2.Xy12ab"), "half");
      writeFileSync(join(path, "data/large"), Buffer.alloc(1_234_567));
      const listed = await store.list("data/");
      expect(listed.sort((a, b) => a.size - b.size)).toEqual([
        { name: "data/aa/1", size: 1 },
        { name: "data/large", size: 1_234_567 },
      ]);
    });

    it("makes no place that is missing, as on a disk that is not plugged in", async () => {
      const store = new RsyncStore(`${urlOf(kind)}/missing`);
      const gone = {
        reason: "unreachable",
        message: expect.stringMatching(/\/missing: there is no such directory$/),
      };
      await expect(store.put("log/1", bytes("x"))).rejects.toMatchObject(gone);
      await expect(store.list("log/")).rejects.toMatchObject(gone);
      await expect(store.get("log/1")).rejects.toMatchObject(gone);
      await expect(store.remove("log/1")).rejects.toMatchObject(gone);
      expect(readdirSync(path)).toEqual([]);
    });

    it("that is a file is told as no directory", async () => {
      writeFileSync(join(path, "file"), "");
      const store = new RsyncStore(`${urlOf(kind)}/file`);
      await expect(store.list("log/")).rejects.toThrow(/\/file: is no directory$/);
    });

    it("removes one file and never another, nor a directory, whatever is beside it", async () => {
      const store = open(kind);
      for (const name of [
        "data/aa/1",
        "data/aa/11",
        "data/aa/1x",
        "data/ab/1",
        "log/aa/1",
        "data/1",
        "aa/1",
        "1",
      ]) {
        mkdirSync(join(path, name, ".."), { recursive: true });
        writeFileSync(join(path, name), name);
      }
      for (const name of ["data/aa/.1", "data/aa/1 1", "data/aa/other", "foreign"])
        writeFileSync(join(path, name), name);
      for (const name of ["data/ac", "data/aa/below"]) mkdirSync(join(path, name));
      writeFileSync(join(path, "data/aa/below/1"), "");
      const before = contentOf(path);
      for (const name of ["data/aa/2", "data/ac/1", "no/such", "none"]) await store.remove(name);
      expect(contentOf(path)).toEqual(before);
      await store.remove("data/aa/1");
      const without = before.filter((line) => !line.startsWith("data/aa/1 3"));
      expect(without).toHaveLength(before.length - 1);
      // The directory that it was in has another time.
      const untimed = (lines: string[]) => lines.map((line) => line.replace(/^(data\/aa \d+) \S+/, "$1"));
      expect(untimed(contentOf(path))).toEqual(untimed(without));
    });

    it("takes parts of objects out of what was fetched once, and does not keep all of it", async () => {
      const store = open(kind);
      const objects = Array.from({ length: 10 }, (_, i) => noise(4_000_000, i));
      mkdirSync(join(path, "data"));
      objects.forEach((object, i) => {
        writeFileSync(join(path, `data/${i}`), object);
      });
      const part = async (i: number) =>
        (await store.get(`data/${i}`, 1000, 50))?.equals(objects[i]?.subarray(1000, 1050) ?? bytes(""));
      for (let i = 0; i < 10; i++) expect(await part(i)).toBe(true);
      rmSync(join(path, "data"), { recursive: true });
      expect(await part(9)).toBe(true);
      expect(await store.get("data/0", 1000, 50)).toBeUndefined();
    });

    it("looks again at what is no object, each time", async () => {
      const store = open(kind);
      mkdirSync(join(path, "log/1"), { recursive: true });
      for (const text of ["first", "second"]) {
        writeFileSync(join(path, "log/1/1"), text);
        expect((await store.get("log/1/1", 0, 100))?.toString()).toBe(text);
      }
    });

    it("does not fetch what is larger than anything of a log", async () => {
      mkdirSync(join(path, "log"));
      writeFileSync(join(path, "log/1"), "");
      truncateSync(join(path, "log/1"), 600 * 2 ** 20);
      expect(await open(kind).get("log/1")).toBeUndefined();
    });

    it("hands out what is a file, and no link to one", async () => {
      mkdirSync(join(path, "data"));
      writeFileSync(join(base, "secret"), "secret");
      symlinkSync(join(base, "secret"), join(path, "data/1"));
      expect(await open(kind).get("data/1")).toBeUndefined();
      expect(await open(kind).list("data/")).toEqual([]);
    });

    it(
      "carries a log: pushed, cloned, pulled, verified, started over, and refused where it was tampered with",
      () =>
        inLog(async (log, volume) => {
          const store = open(kind);
          put(volume, ROOT, "large", noise(9_000_000, 1));
          put(volume, ROOT, "gone soon", noise(5_000_000, 2));
          await log.push(store);
          await log.clone("replica", {}, store);
          log.expectEqual("replica");
          volume.tree.unlink(ROOT, bytes("gone soon"));
          for (let i = 0; i < 3; i++) {
            put(volume, ROOT, `file ${i}`, noise(10_000, 10 + i));
            await log.push(store);
          }
          await log.pull("replica", store);
          log.expectEqual("replica");
          const [remote] = log.remotes();
          if (remote === undefined) throw new Error("there is a remote");
          const sealer = new Sealer(remote.log, remote.secret);
          const volumeId = log.sql("replica", (db) => {
            const row = db.prepare("SELECT value FROM meta WHERE key = 'volume_id'");
            row.step();
            const id = row.blob(0);
            db.release(row);
            return id;
          });
          const whose = { writer: remote.writer, volume: volumeId };
          expect((await verifyLog(store, sealer, whose, remote, { readPercent: 100 })).problems).toEqual([]);
          const site = localSite(volume, log.source.key);
          const gone = await collect(site, store, NAME);
          site.close();
          expect(gone.objects).toBeGreaterThan(0);
          await log.pull("replica", open(kind));
          log.expectEqual("replica");
          put(volume, ROOT, "last", noise(5000, 20));
          await log.push(store);
          const last =
            (await store.list("log/"))
              .map(({ name }) => name)
              .sort()
              .at(-1) ?? "";
          const file = readFileSync(join(path, last));
          file[100] = (file[100] ?? 0) ^ 1;
          writeFileSync(join(path, last), file);
          await expect(log.pull("replica", open(kind))).rejects.toMatchObject({ reason: "damaged" });
        }),
      60_000,
    );
  });

/** A server of its own: who is logged in already may do what he might when he logged in. */
async function withServer(run: (server: SshServer) => Promise<void>): Promise<void> {
  const server = await SshServer.start();
  process.env.RSYNC_RSH = server.command;
  try {
    await run(server);
  } finally {
    server.stop();
  }
}

describe.skipIf(missing.ssh !== undefined)("ssh", () => {
  const refused = async (store: RsyncStore) =>
    await store.list("log/").then(
      () => undefined,
      (error: unknown) => error,
    );

  it("makes one connection for all that this process does, and none where the user shares them himself", async () => {
    await withServer(async (server) => {
      const store = new RsyncStore(`${server.host}:${path}`);
      await Promise.all([1, 2, 3, 4, 5, 6].map((i) => store.put(`log/${i}`, bytes("x"))));
      await new RsyncStore(`${server.host}:${path}`).list("log/");
      expect(server.logins).toBe(1);
      process.env.RSYNC_RSH = `${server.command} -o ControlPath=${server.directory}/own`;
      await store.list("log/");
      await store.list("log/");
      expect(server.logins).toBe(3);
    });
  });

  it("that lets nobody in says so in its own words, and that does not pass", async () => {
    await withServer(async (server) => {
      server.refuse();
      const error = await refused(new RsyncStore(`${server.host}:${path}`));
      expect(error).toMatchObject({ reason: "unreachable", isPassing: false });
      expect(String(error)).toMatch(/: ssh could not: \S+@127\.0\.0\.1: Permission denied \(publickey\)\.$/);
    });
  });

  it("that is not there says so, and that may pass", async () => {
    await withServer(async (server) => {
      server.stop({ keep: true });
      const error = await refused(new RsyncStore(`${server.host}:${path}`));
      expect(error).toMatchObject({ reason: "unreachable", isPassing: true });
      expect(String(error)).toMatch(/: ssh could not: .*Connection refused$/);
    });
  });

  it("that is missing, or rsync, is told apart from a place that is", async () => {
    const { PATH } = process.env;
    const store = open("ssh");
    try {
      process.env.PATH = base;
      expect(String(await refused(store))).toMatch(/: the program (ssh|rsync) is not installed here$/);
    } finally {
      process.env.PATH = PATH;
    }
    await withServer(async (server) => {
      server.restrict('command="exit 127"');
      const error = await refused(new RsyncStore(`${server.host}:${path}`));
      expect(String(error)).toMatch(/: rsync is not installed there$/);
    });
  });

  it("that says nothing is given up when the command is stopped, and its process ends", async () => {
    const script = join(base, "silent");
    writeFileSync(script, `#!/bin/sh\necho $$ > '${path}/pid'\nexec sleep 1000\n`);
    chmodSync(script, 0o700);
    process.env.RSYNC_RSH = script;
    const controller = new AbortController();
    const store = new RsyncStore(`host:${path}`, { signal: controller.signal });
    const listing = refused(store);
    while (!existsSync(`${path}/pid`)) await new Promise((resolve) => setTimeout(resolve, 20));
    controller.abort(new Error("stopped by the test"));
    expect(String(await listing)).toBe("Error: stopped by the test");
    const pid = Number(readFileSync(`${path}/pid`, "utf8"));
    const isThere = () =>
      existsSync(`/proc/${pid}`) && !/^State:\sZ/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
    for (let tries = 0; tries < 100 && isThere(); tries++)
      await new Promise((resolve) => setTimeout(resolve, 20));
    expect(isThere()).toBe(false);
  });
});

describe.skipIf(missing.ssh !== undefined || !RRSYNC)("a key that rrsync restricts to one directory", () => {
  it(
    "is enough, also where it lets in one at a time",
    () =>
      withServer(async (server) => {
        server.restrict(`restrict,command="rrsync '${path}'"`);
        const store = new RsyncStore(`${server.host}:/`);
        const all = [1, 2, 3, 4, 5, 6];
        const puts = await Promise.all(all.map((i) => store.put(`log/${i}`, bytes(`${i}`))));
        expect(puts).not.toContain(false);
        expect(await store.put("log/1", bytes("other"))).toBe(false);
        expect((await Promise.all(all.map((i) => store.get(`log/${i}`)))).join("")).toBe("123456");
        await store.remove("log/1");
        expect(await store.list("log/")).toHaveLength(5);
      }),
    60_000,
  );

  it("that may not delete or overwrite pushes all the same, and says that it may not remove", () =>
    withServer(async (server) => {
      server.restrict(`restrict,command="rrsync -no-del -no-overwrite -no-lock '${path}'"`);
      const store = new RsyncStore(`${server.host}:/`);
      expect(await store.put("log/1", bytes("1"))).toBe(true);
      await expect(store.remove("log/1")).rejects.toThrow(/rsync could not: .*delete/);
      expect((await store.get("log/1"))?.toString()).toBe("1");
    }));
});

describe.skipIf(missing.daemon !== undefined)("a daemon of rsync", () => {
  async function withDaemon(
    settings: readonly string[],
    run: (store: RsyncStore) => Promise<void>,
  ): Promise<void> {
    const one = await RsyncDaemon.start(path, settings);
    try {
      await run(new RsyncStore(one.url));
    } finally {
      one.stop();
    }
  }

  it("that is too old for --fsync gets files without", () =>
    withDaemon(["refuse options = fsync"], async (store) => {
      expect(await store.put("log/1", bytes("1"))).toBe(true);
      expect(await store.put("log/1", bytes("2"))).toBe(false);
      expect((await store.get("log/1"))?.toString()).toBe("1");
    }));

  it("that wants a password gets it from RSYNC_PASSWORD, and asks nobody", async () => {
    const secrets = join(base, "secrets");
    writeFileSync(secrets, "ann:word\n", { mode: 0o600 });
    await withDaemon(["auth users = ann", `secrets file = ${secrets}`], async ({ url }) => {
      const store = new RsyncStore(url.replace("//", "//ann@"));
      await expect(store.list("log/")).rejects.toThrow(/: rsync could not: auth failed on module log/);
      process.env.RSYNC_PASSWORD = "word";
      try {
        expect(await store.put("log/1", bytes("1"))).toBe(true);
      } finally {
        delete process.env.RSYNC_PASSWORD;
      }
    });
  });

  it("that has no such module, or may not be written, says so", () =>
    withDaemon(["read only = yes"], async (store) => {
      await expect(store.put("log/1", bytes("1"))).rejects.toThrow(/: rsync could not: .*read only/);
      const other = new RsyncStore(store.url.replace(/log$/, "other"));
      await expect(other.list("log/")).rejects.toThrow(/: rsync could not: Unknown module 'other'$/);
    }));
});

describe("a place as rsync spells it", () => {
  it.each([
    ["nas:vault", "nas:vault/", { user: undefined, host: "nas" }],
    ["ann@nas.example:/srv/a b/", "ann@nas.example:/srv/a b/", { user: "ann", host: "nas.example" }],
    ["ann@[fe80::1]:~/vault//", "ann@[fe80::1]:~/vault/", { user: "ann", host: "fe80::1" }],
    ["nas:/", "nas:/", { user: undefined, host: "nas" }],
    ["nas::module/below", "nas::module/below/", undefined],
    ["rsync://ann@nas:8730/module/", "rsync://ann@nas:8730/module/", undefined],
  ])("%s is understood", (url, root, host) => {
    expect(parseRsyncPlace(url)).toEqual({ root, ssh: host });
  });

  it.each([
    "-oProxyCommand=touch x:vault",
    "-l@nas:vault",
    "ann@-nas:vault",
    "nas:-vault",
    "rsync://-nas/module",
    "nas::-module",
    "nas:",
    "nas::",
    "rsync://nas/",
    "rsync://nas",
    ":vault",
    "nas:a$(touch x)",
    "nas:a`touch x`",
    "nas:a*",
    "nas:[ab]",
    "nas:a;b",
    "nas:a\nb",
    "two words:vault",
  ])("%s is refused", (url) => {
    expect(() => parseRsyncPlace(url)).toThrow(expect.objectContaining({ reason: "unreachable" }));
  });
});
