/** READs of a partial replica that meet what is away: kept, answered once, and by what is there then. */
import { expect, test } from "vitest";
import { E, FsError } from "../../src/base/errno.ts";
import { AwayError } from "../../src/core/partial.ts";
import type { BlockNo, Ino } from "../../src/core/types.ts";
import { Session } from "../../src/fuse/session.ts";
import { answer, bytes, frame, NODEID, noting, ScriptedDevice } from "./frames.ts";

const BLOCK = 7 as BlockNo;
const READ = frame(
  15,
  bytes(`
    0000000000000000  | fh
    0000000000000000  | offset
    03000000          | size
    00000000          | read_flags
    0000000000000000  | lock_owner
    00000000          | flags
    00000000          | padding
  `),
);
const CONTENT = answer(Buffer.from("abc"));
const REFUSED = answer(Buffer.alloc(0), -E.EIO);

/** A session that got one READ. Each of `reads` is what the volume does then; the last one from then on. */
function reading(
  reads: readonly ("away" | "lost" | "here")[],
  away: (ino: Ino, from: number, length: number) => BlockNo[] = () => [],
): { session: Session; device: ScriptedDevice; fetched: BlockNo[][]; logged: string[] } {
  let count = 0;
  const { volume } = noting({
    "files.plan": undefined,
    "files.away": away,
    "files.read": (_ino: Ino, _offset: number, _length: number, into: Uint8Array): number => {
      const what = reads[Math.min(count++, reads.length - 1)];
      if (what === "here") {
        into.set(Buffer.from("abc"));
        return 3;
      }
      const error = new AwayError(NODEID as Ino, BLOCK);
      error.missing = what === "away" ? [BLOCK] : [];
      throw error;
    },
  });
  const device = new ScriptedDevice(READ, -E.ENODEV);
  const fetched: BlockNo[][] = [];
  const logged: string[] = [];
  const session = new Session(device, volume, {
    fetcher: { fetch: (wanted) => void (wanted.length > 0 && fetched.push([...wanted])) },
    onLog: (line) => logged.push(line),
  });
  session.run();
  return { session, device, fetched, logged };
}

test("a READ waits for what is away, and is answered once when that came", () => {
  const { session, device, fetched } = reading(["away", "here"]);
  expect([fetched, device.replies]).toEqual([[[BLOCK]], []]);
  session.arrived([BLOCK + 1] as BlockNo[]);
  expect(device.replies).toEqual([]);
  session.arrived([BLOCK]);
  session.arrived([BLOCK]);
  session.refused([BLOCK]);
  expect(device.replies).toEqual([CONTENT]);
});

test("a READ is refused once where what it waits for cannot be had", () => {
  const { session, device, fetched } = reading(["away"]);
  session.refused([BLOCK]);
  session.arrived([BLOCK]);
  expect(device.replies).toEqual([REFUSED]);
  expect(fetched).toHaveLength(1);
});

test("a READ whose file became another one meanwhile is not refused for what that had", () => {
  const { session, device } = reading(["away", "here"]);
  session.refused([BLOCK]);
  expect(device.replies).toEqual([CONTENT]);
});

test("a READ waits again where what came is away once more", () => {
  const { session, device, fetched } = reading(["away", "away", "here"]);
  session.arrived([BLOCK]);
  expect([fetched, device.replies]).toEqual([[[BLOCK], [BLOCK]], []]);
  session.arrived([BLOCK]);
  expect(device.replies).toEqual([CONTENT]);
});

test("a READ of what nobody has is refused at once", () => {
  const { device, fetched } = reading(["lost"]);
  expect([fetched, device.replies]).toEqual([[], [REFUSED]]);
});

test("a READ that waits has what is behind it asked for once, and not again when it is answered", () => {
  const ahead: [from: number, length: number][] = [];
  const { session, device } = reading(["away", "here"], (_ino, from, length) => {
    ahead.push([from, length]);
    return [];
  });
  session.arrived([BLOCK]);
  expect(device.replies).toEqual([CONTENT]);
  expect(ahead).toEqual([[3, 320 * 1024]]);
});

test.each([
  ["the file is gone", new FsError("ESTALE"), 0],
  ["it cannot be told what is away", new Error("unforeseen"), 1],
])("reading ahead costs no READ its answer where %s", (_why, error, lines) => {
  const away = (): never => {
    throw error;
  };
  const { session, device, logged } = reading(["away", "here"], away);
  session.arrived([BLOCK]);
  expect(device.replies).toEqual([CONTENT]);
  expect(logged).toHaveLength(lines);
});
