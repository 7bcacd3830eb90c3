/** POSIX ACLs: examples worked out by hand. */
import { describe, expect, it } from "vitest";
import { applyMode, decodeAcl, encodeAcl, inherit, isMinimal, modeOf } from "../../src/core/acl.ts";
import { acl, NO_ID, text } from "./acl.ts";
import { expectErrno } from "./fixture.ts";

function chmod(before: string, mode: number): string {
  const entries = acl(before);
  applyMode(entries, mode);
  return text(entries);
}

/** What a file made with `mode` below this default ACL gets: its ACL and the 0777 bits of its mode. */
function inherited(defaults: string, mode: number): [string, string] {
  const entries = inherit(acl(defaults), mode);
  return [text(entries), modeOf(entries).toString(8)];
}

describe("an ACL's bytes", () => {
  // What setfacl -m u:1000:rwx,g:100:r-x,m::rwx stores for a file of mode 0640.
  const bytes = Buffer.from(
    "02000000" + // version
      "0100" + // USER_OBJ
      "0600" +
      "ffffffff" +
      "0200" + // USER 1000
      "0700" +
      "e8030000" +
      "0400" + // GROUP_OBJ
      "0400" +
      "ffffffff" +
      "0800" + // GROUP 100
      "0500" +
      "64000000" +
      "1000" + // MASK
      "0700" +
      "ffffffff" +
      "2000" + // OTHER
      "0000" +
      "ffffffff",
    "hex",
  );
  const meaning = "u::rw-,u:1000:rwx,g::r--,g:100:r-x,m::rwx,o::---";

  it("are decoded to their entries", () => {
    expect(text(decodeAcl(bytes))).toBe(meaning);
  });

  it("are decoded where they stand in a larger buffer", () => {
    const larger = Buffer.concat([Buffer.alloc(3, 0xff), bytes, Buffer.alloc(5, 0xff)]);
    expect(text(decodeAcl(larger.subarray(3, 3 + bytes.length)))).toBe(meaning);
  });

  it("come back from encoding as they were", () => {
    expect(Buffer.from(encodeAcl(decodeAcl(bytes))).equals(bytes)).toBe(true);
    expect(Buffer.from(encodeAcl(acl(meaning))).equals(bytes)).toBe(true);
  });

  it("are encoded with the undefined id where an entry names nobody", () => {
    const entries = acl("u::rwx,g::r-x,o::r-x").map((entry) => ({ ...entry, id: 0 }));
    expect(decodeAcl(encodeAcl(entries)).map(({ id }) => id)).toEqual([NO_ID, NO_ID, NO_ID]);
  });

  it("may name the largest user id", () => {
    const entries = acl("u::rwx,u:4294967294:r--,g::r-x,m::r-x,o::r-x");
    expect(decodeAcl(encodeAcl(entries))[1]?.id).toBe(4_294_967_294);
  });

  it("that are none, or a header alone, are no entries", () => {
    expect(decodeAcl(new Uint8Array(0))).toEqual([]);
    expect(decodeAcl(bytes.subarray(0, 4))).toEqual([]);
  });

  it("of another version are not supported", () => {
    const other = Buffer.from(bytes);
    other.writeUInt32LE(1, 0);
    expectErrno("EOPNOTSUPP", () => decodeAcl(other));
  });

  it("that break off within the header or an entry are invalid", () => {
    for (const length of [1, 3, 5, 11, bytes.length - 1, bytes.length - 4])
      expectErrno("EINVAL", () => decodeAcl(bytes.subarray(0, length)));
  });

  it.each([
    ["without owner", "g::r--,o::r--"],
    ["without owning group", "u::rw-,o::r--"],
    ["without others", "u::rw-,g::r--"],
    ["with two owners", "u::rw-,u::rw-,g::r--,o::r--"],
    ["with two masks", "u::rw-,u:5:r--,g::r--,m::r--,m::r--,o::r--"],
    ["with a named user and no mask", "u::rw-,u:5:r--,g::r--,o::r--"],
    ["with a named group and no mask", "u::rw-,g::r--,g:5:r--,o::r--"],
    ["with its entries out of order", "u::rw-,o::r--,g::r--"],
    ["with a named user behind the group", "u::rw-,g::r--,u:5:r--,m::r--,o::r--"],
  ])("%s are invalid", (_, entries) => {
    expectErrno("EINVAL", () => decodeAcl(encodeAcl(acl(entries))));
  });

  it("with an unknown tag or permission are invalid", () => {
    for (const [at, value] of [
      [4, 0x40],
      [4, 0x03],
      [4, 0],
      [6, 8],
    ] as const) {
      const broken = Buffer.from(encodeAcl(acl("u::rw-,g::r--,o::r--")));
      broken.writeUInt16LE(value, at);
      expectErrno("EINVAL", () => decodeAcl(broken));
    }
  });

  it("with a mask but nobody named are valid, as setfacl -m m::r leaves them", () => {
    expect(text(decodeAcl(encodeAcl(acl("u::rw-,g::rw-,m::r--,o::r--"))))).toBe(
      "u::rw-,g::rw-,m::r--,o::r--",
    );
  });
});

describe("an access ACL as st_mode", () => {
  it.each([
    ["u::rwx,g::r-x,o::r--", 0o754],
    ["u::---,g::---,o::---", 0],
    // The group bits are the mask's where there is one.
    ["u::rw-,u:7:rwx,g::r--,m::rwx,o::---", 0o670],
    ["u::rw-,g::rwx,m::r--,o::--x", 0o641],
  ])("%s shows as %o", (entries, mode) => {
    expect(modeOf(acl(entries))).toBe(mode);
  });

  it("is minimal when it names nobody and has no mask", () => {
    expect(isMinimal(acl("u::rwx,g::r-x,o::r--"))).toBe(true);
    expect(isMinimal(acl("u::rwx,g::r-x,m::r-x,o::r--"))).toBe(false);
    expect(isMinimal(acl("u::rwx,u:7:r--,g::r-x,m::r-x,o::r--"))).toBe(false);
  });
});

describe("chmod on an ACL", () => {
  it("changes the owning group's entry where there is no mask", () => {
    expect(chmod("u::rwx,g::r-x,o::r--", 0o621)).toBe("u::rw-,g::-w-,o::--x");
  });

  it("changes the mask, and leaves the group and the named alone, where there is one", () => {
    expect(chmod("u::rwx,u:7:rwx,g::r-x,g:8:rw-,m::rwx,o::r--", 0o640)).toBe(
      "u::rw-,u:7:rwx,g::r-x,g:8:rw-,m::r--,o::---",
    );
  });

  it("takes no notice of the type and the setuid, setgid and sticky bits", () => {
    expect(chmod("u::rwx,g::r-x,o::r--", 0o107_700)).toBe("u::rwx,g::---,o::---");
  });

  it("shows in st_mode afterwards as what was asked for", () => {
    for (const before of ["u::rwx,g::r-x,o::r--", "u::rwx,u:7:rwx,g::r-x,m::rwx,o::r--"])
      for (let mode = 0; mode <= 0o777; mode++) {
        const entries = acl(before);
        applyMode(entries, mode);
        expect(modeOf(entries)).toBe(mode);
      }
  });
});

describe("a default ACL", () => {
  it("limits owner, mask and others by the mode that was asked for", () => {
    // open(2) with 0666 below d:u:7:rwx: the mask loses x, others lose x.
    expect(inherited("u::rwx,u:7:rwx,g::r-x,m::rwx,o::r-x", 0o666)).toEqual([
      "u::rw-,u:7:rwx,g::r-x,m::rw-,o::r--",
      "664",
    ]);
  });

  it("limits the owning group where it has no mask", () => {
    expect(inherited("u::rwx,g::rwx,o::r-x", 0o640)).toEqual(["u::rw-,g::r--,o::---", "640"]);
  });

  it("gives no more than it says, whatever was asked for", () => {
    expect(inherited("u::r--,u:7:rwx,g::rwx,m::-w-,o::---", 0o777)).toEqual([
      "u::r--,u:7:rwx,g::rwx,m::-w-,o::---",
      "420",
    ]);
  });

  it("is left as it was", () => {
    const defaults = acl("u::rwx,u:7:rwx,g::r-x,m::rwx,o::r-x");
    inherit(defaults, 0);
    expect(text(defaults)).toBe("u::rwx,u:7:rwx,g::r-x,m::rwx,o::r-x");
  });
});
