import { expect, test } from "vitest";
import type { Ino } from "../../src/core/types.ts";
import { incEpoch, invalAttributes, invalEntry, invalInode } from "../../src/fuse/notify.ts";
import { bytes, dump } from "./frames.ts";

test("an inode's attributes and data are dropped whole", () => {
  const expected = bytes(`
    28000000            | len
    02000000            | code
    0000000000000000    | unique
    0504030201000000    | ino
    0000000000000000    | off
    0000000000000000    | len: to the end
  `);
  expect(dump(invalInode(0x0102030405 as Ino))).toBe(dump(expected));
});

test("an inode's attributes are dropped without its data, by an offset of -1", () => {
  const data = invalInode(0x0102030405 as Ino);
  const attributes = invalAttributes(0x0102030405 as Ino);
  const spared = Buffer.from(data);
  spared.fill(0xff, 16 + 8, 16 + 16);
  expect(dump(attributes)).toBe(dump(spared));
});

test("a name is dropped, with its length and a NUL behind it", () => {
  const expected = bytes(`
    24000000            | len
    03000000            | code
    0000000000000000    | unique
    0504030201000000    | parent
    03000000            | namelen
    00000000            | flags
    c3a97800            | name and NUL
  `);
  expect(dump(invalEntry(0x0102030405 as Ino, Buffer.from("éx")))).toBe(dump(expected));
});

test("the epoch is stepped with a header alone", () => {
  expect(dump(incEpoch())).toBe(dump(bytes("10000000 08000000 0000000000000000")));
});
