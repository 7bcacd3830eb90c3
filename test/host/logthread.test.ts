/** What the main thread does where the thread that keeps the log ends too early. */
import { expect, it, vi } from "vitest";
import type { BlockNo } from "../../src/core/types.ts";
import { Key, SALT_BYTES, STOCK_CIPHER } from "../../src/db/key.ts";
import type { Came } from "../../src/host/logmessages.ts";
import { LogThread } from "../../src/host/logthread.ts";

it("refuses what readers wait for, then and later, where the thread ends", async () => {
  const key = Key.derive(Buffer.alloc(1), Buffer.alloc(SALT_BYTES), STOCK_CIPHER, 1);
  const told: Came[] = [];
  const lines: string[] = [];
  const mount = {
    mountpoint: "/nowhere",
    remote: async () => ({ ok: false, code: "EIO" }) as const,
    changed: async () => {},
    fetched: (came: Came) => void told.push(came),
  };
  // There is no built worker beside the sources: the thread ends as it begins.
  const order = {
    path: "/nowhere",
    key: key.toSharedMessage(),
    role: "follow",
    intervalMs: 0,
    bytesPerSecond: undefined,
  } as const;
  const thread = new LogThread(order, mount, (_level, line) => void lines.push(line));
  const [one, two] = [1 as BlockNo, 2 as BlockNo];
  thread.fetch({ wanted: [one], next: [two], used: [] });
  await vi.waitFor(() => expect(told).toEqual([{ how: "refused", blocks: [one] }]), 10_000);
  expect(lines).toEqual([expect.stringMatching(/^the thread that keeps the log crashed/)]);
  thread.fetch({ wanted: [two], next: [], used: [] });
  expect(told.slice(1)).toEqual([{ how: "refused", blocks: [two] }]);
});
