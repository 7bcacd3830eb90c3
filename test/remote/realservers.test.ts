/** Real S3 servers, which this installs and starts: one that refuses names that are taken, one that cannot. */
import { afterAll, describe, expect, it } from "vitest";
import { collect } from "../../src/log/gc.ts";
import { localSite } from "../../src/log/site.ts";
import { S3Store } from "../../src/remote/s3.ts";
import { dump } from "../core/dump.ts";
import { noise, put, ROOT } from "../core/fixture.ts";
import { type S3Server, startServer } from "../helpers/s3servers.ts";
import { isLong } from "../helpers/torture.ts";
import { mountingImpossible, TestVolume } from "../helpers/volume.ts";
import { inLog, NAME } from "../log/fixture.ts";
import { CONTRACT } from "./contract.ts";

const KINDS = ["ceph", "swift"] as const;
/** 70 MB that others should not be sent for without being asked. */
const isWanted = process.env.CI !== undefined || isLong();
const before = isWanted && mountingImpossible() === undefined ? TestVolume.create() : undefined;
before?.mount();
const started = isWanted
  ? await Promise.all(KINDS.map(startServer))
  : KINDS.map(() => "it is installed for CI and with SQLFUSE_LONG=1 alone");
const NONE: S3Server = {
  env: {},
  bucket: () => Promise.reject(new Error("there is no server")),
  stop: () => Promise.resolve(),
};

it.skipIf(before === undefined)("the namespace of a server keeps no mount that was there before it", () => {
  before?.unmount();
  before?.remove();
});

describe.each(KINDS.map((kind, i) => [kind, started[i] ?? "?"] as const))("%s", (kind, got) => {
  const reason = typeof got === "string" ? got : undefined;
  const server = typeof got === "string" ? NONE : got;
  if (reason !== undefined) console.log(`no ${kind} here: ${reason}`);
  const open = async (): Promise<S3Store> => new S3Store(await server.bucket(), { env: server.env });
  afterAll(() => server.stop());

  describe.skipIf(reason !== undefined)(
    `as a remote${reason === undefined ? "" : ` (left out: ${reason})`}`,
    () => {
      it.each(Object.entries(CONTRACT))("%s", async (_, run) => run(await open()));

      it("lets one of several processes win where it refuses names that are taken", async () => {
        const url = await server.bucket();
        const stores = Array.from({ length: 16 }, () => new S3Store(url, { env: server.env }));
        for (let round = 0; round < 5; round++) {
          const puts = stores.map((store, i) =>
            store.put(`log/${round}`, Buffer.from(`${i}`)).catch(() => "failed"),
          );
          const won = (await Promise.all(puts)).filter((outcome) => outcome === true).length;
          if (kind === "ceph") expect(won).toBe(1);
          else expect(won).toBeGreaterThan(0);
        }
      });

      it("tells of wrong keys and of a bucket that is missing", async () => {
        const url = await server.bucket();
        const wrong = { ...server.env, AWS_SECRET_ACCESS_KEY: "OTHER" };
        await expect(new S3Store(url, { env: wrong }).list("log/")).rejects.toThrow(
          /the secret key is not that of the access key/,
        );
        const missing = new S3Store(url.replace(/bucket-\d+/, "missing"), { env: server.env });
        await expect(missing.list("log/")).rejects.toThrow(/there is no bucket missing/);
        await expect(missing.put("log/1", Buffer.from("x"))).rejects.toThrow(/there is no bucket missing/);
        await expect(missing.get("log/1")).rejects.toThrow(/there is no bucket missing/);
      });

      it("holds a log that replicas equal, also after a gc", () =>
        inLog(async (log, volume) => {
          const store = await open();
          for (let i = 0; i < 5; i++) put(volume, ROOT, `file ${i}`, noise(3_000_000, i));
          await log.push(store);
          await log.clone("replica", {}, store);
          log.expectEqual("replica");
          put(volume, ROOT, "another", noise(100_000, 9));
          await log.push(store);
          await log.pull("replica", store);
          log.expectEqual("replica");
          const site = localSite(volume, log.source.key);
          await collect(site, store, NAME);
          site.close();
          await log.clone("new", {}, store);
          expect(log.dump("new")).toEqual(dump(volume));
        }));
    },
  );
});
