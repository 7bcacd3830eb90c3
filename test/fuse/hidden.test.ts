/** Node ids of the past, as the kernel counts them: a session on a real volume, spoken to in bytes. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { E } from "../../src/base/errno.ts";
import { type Epoch, type Ino, ROOT_INO } from "../../src/core/types.ts";
import { unlock } from "../../src/core/unlock.ts";
import { Volume } from "../../src/core/volume.ts";
import { FIRST_HIDDEN } from "../../src/fuse/server.ts";
import { Session } from "../../src/fuse/session.ts";
import { bytes, frame, INIT, ScriptedDevice } from "./frames.ts";

const PASSWORD = Buffer.from("correct horse");
const CALLER = { uid: 0, gid: 0, umask: 0 };
const OPCODE = { LOOKUP: 1, FORGET: 2, GETATTR: 3, MKDIR: 9, RENAME: 12, LINK: 13, BATCH_FORGET: 42 };

let directory: string;
let volume: Volume;
let device: ScriptedDevice;
let session: Session;
let opened: Epoch[];
let open: number;
let writeBacks: number;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "sqlfuse-hidden-"));
  const path = join(directory, "v.sqlite");
  Volume.create(path, PASSWORD, { rootMode: 0o755 });
  const key = unlock(path, PASSWORD);
  volume = Volume.open(path, key);
  const d = volume.tree.mkdir(ROOT_INO, Buffer.from("d"), 0o755, CALLER).ino;
  volume.tree.mknod(d, Buffer.from("f"), 0o100644, 0, CALLER);
  volume.history.create("one");
  opened = [];
  open = writeBacks = 0;
  device = new ScriptedDevice(INIT, -E.ENODEV);
  session = new Session(device, volume, {
    past: {
      history: volume.history,
      tampered: () => {},
      open(epoch) {
        opened.push(epoch);
        open++;
        const view = Volume.open(path, key, { at: { epoch } });
        const { tree, attributes, files, xattrs } = view;
        const close = (): void => {
          open--;
          view.close();
        };
        return { tree, attributes, files, xattrs, close };
      },
    },
    onWriteBack: () => writeBacks++,
  });
  session.run();
});

afterEach(() => {
  session.close();
  expect(open).toBe(0);
  volume.close();
  rmSync(directory, { recursive: true });
});

function send(message: Uint8Array): Buffer | undefined {
  device.replies.length = 0;
  device.feed(message, -E.ENODEV);
  session.run();
  return device.replies[0];
}

const text = (...names: string[]): Buffer => Buffer.from(names.map((name) => `${name}\0`).join(""));
const errorOf = (answer: Buffer | undefined): number | undefined => answer?.readInt32LE(4);
const nodeOf = (entry: Buffer | undefined): number =>
  entry?.length === 16 ? 0 : Number(entry?.readBigUInt64LE(16));
const validOf = (entry: Buffer | undefined): bigint | undefined => entry?.readBigUInt64LE(32);
const stat = (node: number): number | undefined =>
  errorOf(send(frame(OPCODE.GETATTR, Buffer.alloc(16), node)));

function look(...names: string[]): number {
  let node: number = ROOT_INO;
  for (const name of names) node = nodeOf(send(frame(OPCODE.LOOKUP, text(name), node)));
  return node;
}

function forget(node: number, count: number): void {
  const body = Buffer.alloc(8);
  body.writeBigUInt64LE(BigInt(count));
  send(frame(OPCODE.FORGET, body, node));
}

test("a window is there as long as the kernel remembers anything in it", () => {
  const root = look(".sqlfuse", "at", "one");
  expect(root).toBeGreaterThanOrEqual(FIRST_HIDDEN);
  const d = nodeOf(send(frame(OPCODE.LOOKUP, text("d"), root)));
  expect(look(".sqlfuse", "at", "one")).toBe(root);
  forget(root, 2);
  expect(stat(d)).toBe(0);
  const body = Buffer.alloc(8 + 2 * 16);
  body.writeUInt32LE(2, 0);
  for (const [i, node] of [d, look("d")].entries()) {
    body.writeBigUInt64LE(BigInt(node), 8 + i * 16);
    body.writeBigUInt64LE(1n, 16 + i * 16);
  }
  send(frame(OPCODE.BATCH_FORGET, body, 0));
  expect(stat(d)).toBe(-E.ESTALE);
  expect(stat(root)).toBe(-E.ESTALE);
  expect(volume.inodes.references).toBe(0);
  expect(look(".sqlfuse", "at", "one")).not.toBe(root);
});

test("a reply that the kernel does not take counts for nothing", () => {
  device.refuses = -E.ENOENT;
  const root = look(".sqlfuse", "at", "one");
  device.refuses = undefined;
  expect(stat(root)).toBe(-E.ESTALE);
});

test("names in a door are asked for each time, those behind it never again", () => {
  const door = send(frame(OPCODE.LOOKUP, text(".sqlfuse"), 1));
  expect(validOf(door)).toBe(0n);
  expect(validOf(send(frame(OPCODE.LOOKUP, text("one"), look(".sqlfuse", "at"))))).toBe(0n);
  expect(validOf(send(frame(OPCODE.LOOKUP, text("none"), look(".sqlfuse", "at"))))).toBe(0n);
  expect(validOf(send(frame(OPCODE.LOOKUP, text("d"), look(".sqlfuse", "at", "one"))))).toBeGreaterThan(0n);
});

test("few views are open at once, and one that is used again is not opened again", () => {
  for (let i = 2; i < 12; i++) {
    volume.tree.mkdir(ROOT_INO, Buffer.from(`d${i}`), 0o755, CALLER);
    volume.history.create(`s${i}`);
    look(".sqlfuse", "at", `s${i}`, "d");
    look(".sqlfuse", "at", "one", "d");
  }
  expect(opened).toEqual([2, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
  expect(open).toBe(4);
});

test("a list of snapshots with their attributes opens none of them", () => {
  volume.history.create("two");
  expect(stat(look(".sqlfuse", "at", "one"))).toBe(0);
  expect(look(".sqlfuse", "snapshots", "two")).toBeGreaterThan(FIRST_HIDDEN);
  expect(opened).toEqual([]);
});

test("there are so many windows and no more, and those that were forgotten make room", () => {
  const at = look(".sqlfuse", "at");
  const name = (i: number): string => `2100-01-01T00:00:00.${String(i).padStart(9, "0")}Z`;
  const nodes: number[] = [];
  for (;;) {
    const answer = send(frame(OPCODE.LOOKUP, text(name(nodes.length)), at));
    if (errorOf(answer) === -E.ENFILE) break;
    nodes.push(nodeOf(answer));
  }
  expect(new Set(nodes).size).toBe(65_533);
  expect(Math.max(...nodes)).toBeLessThanOrEqual(Number.MAX_SAFE_INTEGER);
  forget(nodes[100] ?? 0, 1);
  expect(look(".sqlfuse", "at", "one")).toBe(nodes[100]);
  expect(stat(nodes[99] ?? 0)).toBe(0);
});

test("no request moves anything between the past and the present", () => {
  const f = look(".sqlfuse", "at", "one", "d", "f");
  const d = look(".sqlfuse", "at", "one", "d");
  const id = (node: number): Buffer => {
    const body = Buffer.alloc(8);
    body.writeBigUInt64LE(BigInt(node));
    return body;
  };
  const link = (from: number, to: number) =>
    errorOf(send(frame(OPCODE.LINK, Buffer.concat([id(from), text("new")]), to)));
  const rename = (from: number, to: number) =>
    errorOf(send(frame(OPCODE.RENAME, Buffer.concat([id(to), text("d", "new")]), from)));
  expect([link(f, 1), link(2, d), rename(1, d), rename(d, 1)]).toEqual([
    -E.EXDEV,
    -E.EROFS,
    -E.EXDEV,
    -E.EROFS,
  ]);
});

test("nothing is renamed over the past; a directory of that name that is in the volume hides it", () => {
  const rename = (from: string, to: string) => {
    const body = Buffer.alloc(8);
    body.writeBigUInt64LE(BigInt(ROOT_INO));
    return errorOf(send(frame(OPCODE.RENAME, Buffer.concat([body, text(from, to)]), ROOT_INO)));
  };
  expect(rename("d", ".sqlfuse")).toBe(-E.ENOTEMPTY);
  expect(volume.tree.lookup(ROOT_INO, Buffer.from("d"))).toBeDefined();
  // As `put` may have made it while the volume was not mounted.
  volume.tree.mkdir(ROOT_INO, Buffer.from(".sqlfuse"), 0o755, CALLER);
  expect(rename("d", ".sqlfuse")).toBe(0);
});

test("a snapshot waits until the kernel has written back, and other requests do not", () => {
  const snapshots = look(".sqlfuse", "snapshots");
  const mkdir = frame(OPCODE.MKDIR, Buffer.concat([bytes("ed010000 00000000"), text("two")]), snapshots);
  expect(send(mkdir)).toBeUndefined();
  expect(writeBacks).toBe(1);
  expect(stat(1)).toBe(0);
  expect(volume.history.list()).toHaveLength(1);
  device.replies.length = 0;
  session.writtenBack();
  expect(nodeOf(device.replies[0])).toBeGreaterThan(FIRST_HIDDEN);
  expect(volume.history.list().map(({ name }) => name)).toEqual(["one", "two"]);
  session.writtenBack();
  expect(device.replies).toHaveLength(1);
});

test("without a past to show there is no such name, and no such node", () => {
  const plain = new Session(device, volume);
  device.replies.length = 0;
  device.feed(INIT, frame(OPCODE.LOOKUP, text(".sqlfuse"), 1));
  device.feed(frame(OPCODE.GETATTR, Buffer.alloc(16), FIRST_HIDDEN as Ino), -E.ENODEV);
  plain.run();
  expect(nodeOf(device.replies[1])).toBe(0);
  expect(errorOf(device.replies[2])).toBe(-E.ESTALE);
});
