/** What every remote must do: a map of sentences, run on each implementation. */
import { expect } from "vitest";
import type { RemoteStore } from "../../src/remote/remote.ts";

const bytes = (text: string) => Buffer.from(text);

export const CONTRACT: Readonly<Record<string, (store: RemoteStore) => Promise<void>>> = {
  "gives what was put": async (store) => {
    const large = Buffer.alloc(5_000_000, "content ");
    expect(await store.put("data/aa/aa11", large)).toBe(true);
    expect((await store.get("data/aa/aa11"))?.equals(large)).toBe(true);
    expect(await store.put("data/aa/empty", Buffer.alloc(0))).toBe(true);
    expect(await store.get("data/aa/empty")).toEqual(Buffer.alloc(0));
  },
  "gives a part, and less where the file ends": async (store) => {
    await store.put("log/1/1", bytes("0123456789"));
    expect((await store.get("log/1/1", 3, 4))?.toString()).toBe("3456");
    expect((await store.get("log/1/1", 8, 4))?.toString()).toBe("89");
    expect((await store.get("log/1/1", 10, 4))?.length).toBe(0);
    expect((await store.get("log/1/1", 7))?.toString()).toBe("789");
  },
  "gives nothing where there is none": async (store) => {
    expect(await store.get("data/aa/none")).toBeUndefined();
    expect(await store.get("no/such/directory", 1, 2)).toBeUndefined();
    expect(await store.list("no/")).toEqual([]);
    await store.remove("data/aa/none");
    await store.remove("no/such/directory");
  },
  "keeps what is there, and says so": async (store) => {
    expect(await store.put("log/1/1", bytes("first"))).toBe(true);
    expect(await store.put("log/1/1", bytes("second"))).toBe(false);
    expect((await store.get("log/1/1"))?.toString()).toBe("first");
  },
  "lets one of many win that put the same name at once": async (store) => {
    for (let round = 0; round < 10; round++) {
      const name = `log/1/${round}`;
      const puts = Array.from({ length: 16 }, (_, i) => store.put(name, bytes(`${i}`.repeat(1000))));
      const won = (await Promise.all(puts)).flatMap((isFirst, i) => (isFirst ? [i] : []));
      expect(won).toHaveLength(1);
      expect((await store.get(name))?.toString()).toBe(`${won[0]}`.repeat(1000));
    }
  },
  "lists what begins with a prefix, at any depth, with sizes": async (store) => {
    await store.put("data/aa/1", bytes("1"));
    await store.put("data/bb/2", bytes("22"));
    await store.put("database/3", bytes("333"));
    const sorted = async (prefix: string) =>
      (await store.list(prefix)).sort((a, b) => (a.name < b.name ? -1 : 1));
    expect(await sorted("data/")).toEqual([
      { name: "data/aa/1", size: 1 },
      { name: "data/bb/2", size: 2 },
    ]);
    expect(await sorted("data/bb/")).toEqual([{ name: "data/bb/2", size: 2 }]);
  },
  "lists many": async (store) => {
    const names = Array.from({ length: 1200 }, (_, i) => `log/1/${String(i).padStart(16, "0")}`);
    for (let i = 0; i < names.length; i += 100)
      await Promise.all(names.slice(i, i + 100).map((name) => store.put(name, bytes("x"))));
    expect((await store.list("log/")).map(({ name }) => name).sort()).toEqual(names);
  },
  "removes, and the name is free again": async (store) => {
    await store.put("log/1/1", bytes("first"));
    await store.remove("log/1/1");
    expect(await store.get("log/1/1")).toBeUndefined();
    expect(await store.list("log/")).toEqual([]);
    expect(await store.put("log/1/1", bytes("second"))).toBe(true);
  },
};
