/** Negotiation with kernels of several ages. */
import { describe, expect, test } from "vitest";
import { E } from "../../src/base/errno.ts";
import { negotiate, type Offer, offers, type Wishes } from "../../src/fuse/init.ts";
import type { InitFlag } from "../../src/fuse/kernel.ts";
import { Session } from "../../src/fuse/session.ts";
import { answer, bytes, dump, frame, INIT, noting, ScriptedDevice } from "./frames.ts";

const WISHES: Wishes = {
  writeback: false,
  acl: true,
  maxTransfer: 2 ** 20,
  maxWrite: 2 ** 18,
  pageSize: 4096,
};
const KERNEL_6_18: Offer = { major: 7, minor: 45, maxReadahead: 131072, flags: 0x73fffffb, flags2: 0x7ff };
/** Linux 5.10: no KILLPRIV_V2, no SETXATTR_EXT, no INIT_EXT. */
const KERNEL_5_10: Offer = { major: 7, minor: 32, maxReadahead: 131072, flags: 0x0ffffffb, flags2: 0 };

function taken(offer: Offer, wishes: Partial<Wishes> = {}): (flag: InitFlag) => boolean {
  const agreed = negotiate(offer, { ...WISHES, ...wishes });
  return (flag) =>
    agreed !== undefined && offers({ ...offer, flags: agreed.flags, flags2: agreed.flags2 }, flag);
}

describe("INIT", () => {
  test("the reply, to the byte", () => {
    const device = new ScriptedDevice(INIT, -E.ENODEV);
    new Session(device, noting().volume).run();
    const expected = answer(
      bytes(`
        07000000            | major
        2d000000            | minor
        00000200            | max_readahead
        71e0f670            | flags
        4000                | max_background
        3000                | congestion_threshold
        00000400            | max_write 256 KiB
        01000000            | time_gran
        0001                | max_pages
        0000                | map_alignment
        00000000            | flags2
        00000000            | max_stack_depth
        0000                | request_timeout
        ${"00".repeat(22)}  | unused
      `),
    );
    expect(dump(device.replies[0] ?? bytes(""))).toBe(dump(expected));
  });

  test("a request of the time before flags2 is understood", () => {
    const device = new ScriptedDevice(frame(26, bytes("07000000 20000000 00000200 fbffff0f"), 0), -E.ENODEV);
    const session = new Session(device, noting().volume);
    session.run();
    expect(session.agreed.minor).toBe(32);
    expect(session.agreed.killPriv).toBe(false);
  });

  test("a kernel that is too old is refused, with EPROTO", () => {
    const device = new ScriptedDevice(frame(26, bytes("07000000 16000000 00000200 00000000"), 0), -E.ENODEV);
    const logged: string[] = [];
    new Session(device, noting().volume, { onLog: (line) => logged.push(line) }).run();
    expect(device.replies[0]?.readInt32LE(4)).toBe(-E.EPROTO);
    expect(logged).toEqual(["the kernel speaks FUSE 7.22, which is too old"]);
  });

  test("a kernel with a newer major is told ours", () => {
    expect(negotiate({ ...KERNEL_6_18, major: 8, minor: 1 }, WISHES)?.minor).toBe(45);
  });

  test("the older of two minors is spoken", () => {
    expect(negotiate(KERNEL_5_10, WISHES)?.minor).toBe(32);
    expect(negotiate({ ...KERNEL_6_18, minor: 99 }, WISHES)?.minor).toBe(45);
  });

  test("nothing is taken that was not offered", () => {
    const agreed = negotiate({ ...KERNEL_5_10, flags: 0 }, { ...WISHES, writeback: true });
    expect(agreed).toMatchObject({
      flags: 0,
      flags2: 0,
      dontMask: false,
      setxattrExt: false,
      killPriv: false,
    });
    expect(agreed?.maxTransfer).toBe(32 * 4096);
  });

  test("what would break a promise is never taken", () => {
    const has = taken({ ...KERNEL_6_18, flags: 0x7fffffff, flags2: 0xffffffff });
    for (const flag of [
      "ATOMIC_O_TRUNC",
      "POSIX_LOCKS",
      "FLOCK_LOCKS",
      "WRITEBACK_CACHE",
      "AUTO_INVAL_DATA",
      "HANDLE_KILLPRIV",
      "SECURITY_CTX",
      "OVER_IO_URING",
      "HAS_RESEND",
      "PASSTHROUGH",
    ] as const)
      expect([flag, has(flag)]).toEqual([flag, false]);
  });

  test("Linux 5.10 keeps the clearing of suid to itself", () => {
    const has = taken(KERNEL_5_10);
    expect(has("HANDLE_KILLPRIV_V2")).toBe(false);
    expect(has("SETXATTR_EXT")).toBe(false);
    expect(has("POSIX_ACL") && has("DONT_MASK") && has("MAX_PAGES") && has("CACHE_SYMLINKS")).toBe(true);
  });

  test("ACLs come with the umask or not at all", () => {
    const without = taken(KERNEL_6_18, { acl: false });
    expect([without("POSIX_ACL"), without("DONT_MASK")]).toEqual([false, true]);
    const half = taken({ ...KERNEL_6_18, flags: KERNEL_6_18.flags & ~(1 << 20) });
    expect([half("POSIX_ACL"), half("DONT_MASK")]).toEqual([false, true]);
    const other = taken({ ...KERNEL_6_18, flags: KERNEL_6_18.flags & ~(1 << 6) });
    expect([other("POSIX_ACL"), other("DONT_MASK")]).toEqual([false, false]);
  });

  test("writeback is taken on request only", () => {
    expect(taken(KERNEL_6_18)("WRITEBACK_CACHE")).toBe(false);
    expect(taken(KERNEL_6_18, { writeback: true })("WRITEBACK_CACHE")).toBe(true);
  });

  test("a request fits the buffer on machines with large pages too", () => {
    const agreed = negotiate(KERNEL_6_18, { ...WISHES, pageSize: 65536 });
    expect(agreed?.maxPages).toBe(16);
    expect(agreed?.maxTransfer).toBe(2 ** 20);
  });
});
