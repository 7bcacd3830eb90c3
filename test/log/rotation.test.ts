/** A log that gets a new secret: replicas follow it, and the old one opens nothing that is there. */
import { describe, expect, it } from "vitest";
import { collect } from "../../src/log/gc.ts";
import { getKeyFiles } from "../../src/log/keyfile.ts";
import { Pusher, type PushSite } from "../../src/log/pusher.ts";
import { Replica } from "../../src/log/replica.ts";
import { rotate } from "../../src/log/rotation.ts";
import { hashOf, type Kind, Sealer } from "../../src/log/seal.ts";
import { localSite } from "../../src/log/site.ts";
import type { RemoteStore } from "../../src/remote/remote.ts";
import { b, noise, PASSWORD, put, ROOT } from "../core/fixture.ts";
import { Random } from "../core/random.ts";
import { inLog, type LogFixture, NAME } from "./fixture.ts";
import { MemoryStore, Stop, StoppingStore, stopAt } from "./memory.ts";

async function rotateLog(log: LogFixture, store: RemoteStore) {
  const site = localSite(log.volume, log.source.key);
  try {
    return await rotate(site, store, NAME);
  } finally {
    site.close();
  }
}

/** Pulls as `sqlfuse pull` does, which has the password; and as a mount that follows, which has not. */
async function pull(log: LogFixture, name: string, store: RemoteStore, password: Buffer | "none" = PASSWORD) {
  const replica = new Replica(log.path(name), log.keyOf(name), () => {});
  try {
    return await replica.pull(store, password === "none" ? {} : { password });
  } finally {
    replica.close();
  }
}

const newestKey = async (store: RemoteStore) => (await getKeyFiles(store, PASSWORD))[0];

const KINDS: readonly Kind[] = ["segment", "records", "blocks"];

/** Names of files that a secret opens. */
function openedBy(sealer: Sealer, store: MemoryStore): string[] {
  const opens = (file: Buffer, kind: Kind) => {
    try {
      sealer.open(kind, file);
      return true;
    } catch {
      return false;
    }
  };
  const found = [...store.files].filter(([, file]) => KINDS.some((kind) => opens(file, kind)));
  return found.map(([name]) => name);
}

/** Of a log with two snapshots and something deleted. */
async function fill(log: LogFixture, store: RemoteStore): Promise<void> {
  const { volume } = log;
  put(volume, ROOT, "a", noise(100_000));
  volume.history.create("one");
  put(volume, ROOT, "b", noise(100_000, 2));
  await log.push(store);
  volume.tree.unlink(ROOT, b("a"));
  volume.history.create("two");
  put(volume, ROOT, "c", noise(100_000, 3));
  await log.push(store);
}

describe("a log that gets a new secret", () => {
  it("goes on with the next number, and its replicas, up to date or not, follow it with the password", () =>
    inLog(async (log, volume) => {
      const store = new MemoryStore();
      await log.push(store);
      await log.clone("behind", {}, store);
      await fill(log, store);
      await log.clone("replica", {}, store);
      const before = log.remotes()[0];
      const pushed = await rotateLog(log, store);
      expect(pushed).toMatchObject({ segment: (before?.segment ?? 0) + 3, segments: 3 });
      expect(pushed.swept).toMatchObject({ segments: before?.segment });
      for (const name of ["replica", "behind"]) {
        expect(await pull(log, name, store)).toMatchObject({ segment: pushed.segment, hash: pushed.hash });
        log.expectEqual(name);
      }
      put(volume, ROOT, "d", "after");
      await log.push(store);
      // Now that they have the new secret, no password is needed.
      expect(await pull(log, "replica", store, "none")).toMatchObject({ segments: 1 });
      await log.clone("clone", {}, store);
      for (const name of ["replica", "clone"]) log.expectEqual(name);
    }));

  it("is not followed without the password, and it is told what to run", () =>
    inLog(async (log) => {
      const store = new MemoryStore();
      await fill(log, store);
      await log.clone("replica", {}, store);
      await rotateLog(log, store);
      const before = hashOf(await bytesOf(log, "replica"));
      await expect(pull(log, "replica", store, "none")).rejects.toMatchObject({
        reason: "other-log",
        message: expect.stringContaining(
          `unmount this replica, and go on with: sqlfuse pull ${log.path("replica")}`,
        ) as unknown,
      });
      expect(hashOf(await bytesOf(log, "replica"))).toEqual(before);
      await expect(pull(log, "replica", store, Buffer.from("another"))).rejects.toMatchObject({
        reason: "wrong-password",
        message: expect.stringContaining("sqlfuse rekey") as unknown,
      });
    }));

  it("has nothing that the old secret opens", () =>
    inLog(async (log) => {
      const store = new MemoryStore();
      await fill(log, store);
      const { log: name, secret } = await newestKey(store);
      const old = new Sealer(name, secret);
      expect(openedBy(old, store).length).toBeGreaterThan(4);
      const [keyFile = ""] = [...store.files.keys()].filter((one) => one.startsWith("key/"));
      const bytes = store.files.get(keyFile) ?? b("");
      await rotateLog(log, store);
      expect(openedBy(old, store)).toEqual([]);
      expect([...store.files.keys()].filter((one) => one.startsWith("key/"))).toHaveLength(1);
      const fresh = await newestKey(store);
      expect(openedBy(new Sealer(fresh.log, fresh.secret), store).length).toBeGreaterThan(4);
      // Also with the old key file put back in the place of the new one.
      store.files.delete("key/0000000000000002");
      store.files.set(keyFile, bytes);
      await expect(log.clone("clone", {}, store)).rejects.toMatchObject({ reason: "other-log" });
    }));

  it("is not taken for another one that follows, which nobody noted who knows the secret", () =>
    inLog(async (log) => {
      const store = new MemoryStore();
      await fill(log, store);
      const old = await newestKey(store);
      const [oldKeyFile] = [...store.files].filter(([one]) => one.startsWith("key/"));
      await rotateLog(log, store);
      await log.clone("replica", {}, store);
      const [remote] = log.remotes();
      // Somebody who kept the old secret, and a key file that the password of the replica opens, goes on in its place.
      const forged = store.copy();
      const sealer = new Sealer(old.log, old.secret);
      const fresh = await newestKey(store);
      const last =
        [...store.files.keys()]
          .filter((one) => one.startsWith("log/"))
          .sort()
          .at(-1) ?? "";
      const content = new Sealer(fresh.log, fresh.secret).open("segment", store.files.get(last) ?? b(""));
      // Its number is in the second byte, and its base of 0 is not.
      expect(content[1]).toBe(remote?.segment);
      content[1] = (remote?.segment ?? 0) + 1;
      const at = content.indexOf(Buffer.from(log.volume.volumeId, "hex")) + 16;
      content.set(remote?.hash ?? b(""), at);
      content[at + 32] = 0;
      const next = last.replace(/\d{16}$/, String((remote?.segment ?? 0) + 1).padStart(16, "0"));
      forged.files.set(next, sealer.seal("segment", content).bytes);
      forged.files.set("key/0000000000000099", oldKeyFile?.[1] ?? b(""));
      await expect(pull(log, "replica", forged)).rejects.toMatchObject({
        reason: "other-log",
        message: expect.stringContaining("nothing proves that it goes on") as unknown,
      });
      await pull(log, "replica", store);
      log.expectEqual("replica");
    }));

  it("and was tampered with then is refused, with the reason, and the replica unchanged", () =>
    inLog(async (log) => {
      const store = new MemoryStore();
      await fill(log, store);
      await log.clone("replica", {}, store);
      const older = store.copy();
      await rotateLog(log, store);
      const before = hashOf(await bytesOf(log, "replica"));
      const random = new Random(Number(process.env.SQLFUSE_SEED ?? 1));
      const names = [...store.files.keys()].filter((name) => !name.startsWith("data/"));
      expect(names.map((name) => name.split("/")[0])).toEqual(expect.arrayContaining(["key", "new", "log"]));
      for (let i = 0; i < 60; i++) {
        const tampered = store.copy();
        const name = random.pick(names);
        const file = Buffer.from(store.files.get(name) ?? b(""));
        const at = random.below(file.length);
        const how = random.pick(["flip", "truncate", "drop", "old"]);
        file[at] = (file[at] ?? 0) ^ (1 << random.below(8));
        if (how === "flip") tampered.files.set(name, file);
        else if (how === "truncate") tampered.files.set(name, file.subarray(0, at));
        else if (how === "drop") {
          // Nobody who saw the old log misses the last of the new one.
          if (
            name ===
            names
              .filter((one) => one.startsWith("log/"))
              .sort()
              .at(-1)
          )
            continue;
          tampered.files.delete(name);
        } else tampered.files.set(name, random.pick([...older.files.values()]));
        await expect(
          pull(log, "replica", tampered),
          `case ${i}: ${how} of ${name} at ${at}`,
        ).rejects.toMatchObject({
          name: "LogError",
          reason: expect.stringMatching(
            /^(damaged|foreign|other-log|incomplete|too-new|wrong-password|unreachable)$/,
          ) as unknown,
        });
        expect(hashOf(await bytesOf(log, "replica")), `case ${i}`).toEqual(before);
      }
      await pull(log, "replica", store);
      log.expectEqual("replica");
    }));

  it("twice is followed by who saw the first, and told to others as one that cannot be proved", () =>
    inLog(async (log) => {
      const store = new MemoryStore();
      await fill(log, store);
      for (const name of ["first", "second"]) await log.clone(name, {}, store);
      await rotateLog(log, store);
      await pull(log, "first", store);
      await rotateLog(log, store);
      await pull(log, "first", store);
      log.expectEqual("first");
      await expect(pull(log, "second", store)).rejects.toMatchObject({
        reason: "other-log",
        message: expect.stringContaining("clone it anew") as unknown,
      });
    }));

  it("is followed after a gc as well, by who saw nothing of it", () =>
    inLog(async (log, volume) => {
      const store = new MemoryStore();
      await fill(log, store);
      await log.clone("replica", {}, store);
      await rotateLog(log, store);
      put(volume, ROOT, "d", "4");
      const site = localSite(volume, log.source.key);
      await collect(site, store, NAME);
      site.close();
      await pull(log, "replica", store);
      log.expectEqual("replica");
    }));
});

describe("a rotation", () => {
  it.each([false, true])(
    "that is stopped at each of its steps (after it: %s) is ended by the next push, and always leaves a log that is read",
    (after) =>
      inLog(async (log, volume) => {
        let steps = 0;
        put(volume, ROOT, "a", noise(20_000));
        volume.history.create("one");
        for (; steps < 200; steps++) {
          const store = new MemoryStore();
          const name = `remote${steps}`;
          volume.remotes.add(name, "memory");
          const push = (one: RemoteStore, site: PushSite) => new Pusher(site, one, name).run();
          const site = localSite(volume, log.source.key);
          const isLooked = steps % 3 === 0;
          put(volume, ROOT, `later ${steps}`, "1");
          await push(store, site);
          if (isLooked) await log.clone(`replica ${steps}`, {}, store);
          const old = await newestKey(store);
          const step = stopAt(steps, after);
          const order: PushSite["order"] = (wanted) => step(() => site.order(wanted)) as Promise<number>;
          let isStopped = false;
          try {
            await rotate({ ...site, order }, new StoppingStore(store, step), name);
          } catch (error) {
            expect(error).toBeInstanceOf(Stop);
            isStopped = true;
          }
          if (isLooked) {
            await log.clone(`clone ${steps}`, {}, store);
            log.expectEqual(`clone ${steps}`);
            await pull(log, `replica ${steps}`, store);
            log.expectEqual(`replica ${steps}`);
          }
          await push(store, site);
          site.close();
          const now = volume.remotes.list().find((one) => one.name === name);
          // One that was stopped before anything was noted did not happen.
          if (now === undefined || Buffer.compare(now.log, old.log) !== 0)
            expect(openedBy(new Sealer(old.log, old.secret), store)).toEqual([]);
          else expect(isStopped && steps < 6).toBe(true);
          expect([...store.files.keys()].filter((one) => one.startsWith("key/"))).toHaveLength(1);
          if (isLooked) {
            await pull(log, `replica ${steps}`, store);
            log.expectEqual(`replica ${steps}`);
          }
          volume.remotes.remove(name);
          if (!isStopped) break;
        }
        expect(steps).toBeGreaterThan(15);
      }),
    120_000,
  );
});

async function bytesOf(log: LogFixture, name: string): Promise<Buffer> {
  const { readFile } = await import("node:fs/promises");
  return await readFile(log.path(name));
}
