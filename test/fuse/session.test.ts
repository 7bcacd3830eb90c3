/** The loop: when it reads, when it sleeps, when the volume gets its turn, how it ends. */
import { describe, expect, test } from "vitest";
import { E, FsError } from "../../src/base/errno.ts";
import { type Ino, ROOT_INO } from "../../src/core/types.ts";
import { invalAttributes } from "../../src/fuse/notify.ts";
import { COUNTER, COUNTERS } from "../../src/fuse/server.ts";
import { Session, type Stale } from "../../src/fuse/session.ts";
import {
  bytes,
  converse,
  dump,
  frame,
  INIT,
  NODEID,
  noting,
  ScriptedDevice,
  STAT,
  UID,
  UNIQUE,
} from "./frames.ts";

/** INIT of one that knows no epochs. */
const oldKernel = (): Buffer => {
  const init = Buffer.from(INIT);
  init.writeUInt32LE(34, 44); // minor
  return init;
};
const LOOKUP = frame(1, bytes("6e00"));

describe("the loop", () => {
  test("looks a hundred times before it sleeps, without a limit where the volume wants nothing", () => {
    const device = new ScriptedDevice();
    const { volume } = noting();
    expect(new Session(device, volume).run()).toBe("unmounted");
    expect(device.reads).toBe(101);
    expect(device.waits).toEqual([Number.POSITIVE_INFINITY]);
  });

  test("sleeps no longer than the volume wants", () => {
    const device = new ScriptedDevice();
    const { volume } = noting({ idle: () => 750 });
    new Session(device, volume).run();
    expect(device.waits).toEqual([750]);
  });

  test("does not sleep while the volume has work, but looks for requests in between", () => {
    const device = new ScriptedDevice();
    let slices = 0;
    const { volume, calls } = noting({
      "tree.lookup": STAT,
      idle: () => {
        slices++;
        if (slices === 2) device.feed(LOOKUP);
        return slices < 5 ? 0 : Number.POSITIVE_INFINITY;
      },
    });
    new Session(device, volume).run();
    expect(slices).toBe(5);
    expect(device.waits).toEqual([Number.POSITIVE_INFINITY]);
    expect(calls[0]).toEqual(["tree.lookup", NODEID, "n"]);
  });

  test("gives the volume its turn every hundred requests though more are waiting", () => {
    const turns: number[] = [];
    const device = new ScriptedDevice(...Array<Buffer>(250).fill(LOOKUP), -E.ENODEV);
    const { volume } = noting({
      "tree.lookup": STAT,
      idle: () => {
        turns.push(device.replies.length);
        return Number.POSITIVE_INFINITY;
      },
    });
    new Session(device, volume).run();
    expect(turns).toEqual([100, 200]);
    expect(device.replies).toHaveLength(250);
  });

  test("hears the bell under load and in its sleep", () => {
    const device = new ScriptedDevice(...Array<Buffer>(100).fill(LOOKUP));
    const heard: number[] = [];
    device.bells = 1;
    device.onWait = () => {
      if (heard.length === 2) device.feed(-E.ENODEV);
      else device.bells = 1;
    };
    const { volume } = noting({ "tree.lookup": STAT });
    new Session(device, volume, { onWake: () => heard.push(device.replies.length) }).run();
    expect(heard).toEqual([100, 100]);
  });

  test("goes on answering when background work throws, and says so once", () => {
    const logged: string[] = [];
    const device = new ScriptedDevice();
    device.onWait = () => device.feed(device.replies.length < 3 ? LOOKUP : -E.ENODEV);
    const { volume } = noting({
      "tree.lookup": STAT,
      idle: () => {
        throw new FsError("EIO");
      },
    });
    expect(new Session(device, volume, { onLog: (line) => logged.push(line) }).run()).toBe("unmounted");
    expect(device.replies).toHaveLength(3);
    expect(device.waits).toEqual([1000, 1000, 1000, 1000]);
    expect(logged).toHaveLength(1);
  });

  test("stops when told to", () => {
    const device = new ScriptedDevice();
    device.onWait = () => {
      device.bells = 1;
      device.feed(LOOKUP);
    };
    const { volume } = noting();
    const session: Session = new Session(device, volume, { onWake: () => session.stop() });
    expect(session.run()).toBe("stopped");
    expect(device.replies).toEqual([]);
  });

  test("reads on after a signal and after a request that was withdrawn", () => {
    const device = new ScriptedDevice(-E.EINTR, -E.ENOENT, LOOKUP, -E.ENODEV);
    const { volume } = noting({ "tree.lookup": STAT });
    expect(new Session(device, volume).run()).toBe("unmounted");
    expect(device.replies).toHaveLength(1);
  });

  test("tells an aborted connection from an unmount", () => {
    const { volume } = noting();
    expect(new Session(new ScriptedDevice(-E.ECONNABORTED), volume).run()).toBe("aborted");
    expect(new Session(new ScriptedDevice(-E.ENODEV), volume).run()).toBe("unmounted");
    expect(() => new Session(new ScriptedDevice(-E.EBADF), volume).run()).toThrow("errno 9");
  });

  test("a reply that the kernel does not take gives its references back", () => {
    const { volume, calls } = noting({ "tree.lookup": STAT });
    const device = new ScriptedDevice(LOOKUP, -E.ENODEV);
    device.refuses = -E.ENOENT;
    new Session(device, volume).run();
    expect(calls).toEqual([
      ["tree.lookup", NODEID, "n"],
      ["inodes.ref", STAT.ino],
      ["inodes.unref", STAT.ino, 1],
    ]);
  });
});

describe("what is shown to the outside", () => {
  test("counters", () => {
    const counters = new Float64Array(COUNTERS);
    const device = new ScriptedDevice(INIT, LOOKUP);
    const { volume } = noting({
      "inodes.references": 42,
      "tree.lookup": () => {
        throw new FsError("EIO");
      },
      uncommittedMs: () => 500,
    });
    const before = Date.now();
    new Session(device, volume, { counters }).run();
    expect(counters[COUNTER.requests]).toBe(2);
    expect(counters[COUNTER.errors]).toBe(1);
    expect(counters[COUNTER.references]).toBe(42);
    expect(counters[COUNTER.minor]).toBe(45);
    expect(counters[COUNTER.uncommittedSince]).toBeGreaterThanOrEqual(before - 500);
    expect(counters[COUNTER.uncommittedSince]).toBeLessThanOrEqual(Date.now() - 500);
  });

  test("when it was last used; what the kernel forgets and who asks for free space is no use", () => {
    const FREE = { blocks: 1, bfree: 1, bavail: 1, files: 1, ffree: 1, blockSize: 512, nameMax: 255 };
    const used = (...requests: Buffer[]): boolean => {
      const counters = new Float64Array(COUNTERS);
      const { volume } = noting({ "tree.lookup": STAT, statfs: FREE });
      new Session(new ScriptedDevice(...requests), volume, { counters }).run();
      return counters[COUNTER.lastUse] !== 0;
    };
    expect(used(frame(2, bytes("0100000000000000")), frame(17))).toBe(false);
    expect(used(LOOKUP)).toBe(true);
    expect(used(frame(17), LOOKUP, frame(17))).toBe(true);
  });

  test("readiness, once INIT is answered", () => {
    const device = new ScriptedDevice(INIT, -E.ENODEV);
    const { volume } = noting();
    let repliesThen = -1;
    new Session(device, volume, { onReady: () => (repliesThen = device.replies.length) }).run();
    expect(repliesThen).toBe(1);
  });

  test("the trace has a line each way", () => {
    const lines: string[] = [];
    const device = new ScriptedDevice(
      INIT,
      LOOKUP,
      frame(99),
      frame(2, bytes("0100000000000000")),
      -E.ENODEV,
    );
    const { volume } = noting();
    new Session(device, volume, { onTrace: (line) => lines.push(line), timeoutSec: 7 }).run();
    const who = `node=${NODEID} uid=${UID} pid=${0xc1c2c3c4}`;
    // `unique` is for people here: this one is past 2^53 and rounded.
    expect(lines.slice(2).map((line) => line.replace(` ${Number(UNIQUE)} `, " # "))).toEqual([
      `> # LOOKUP ${who} "n"`,
      "< # LOOKUP ok entry_valid=7",
      `> # opcode 99 ${who}`,
      "< # opcode 99 ENOSYS",
      `> # FORGET ${who} nlookup=1`,
    ]);
  });
});

describe("a commit that failed", () => {
  const UNLINK = frame(10, bytes("7500"));
  test("is announced once, with all that the kernel may believe wrongly", () => {
    const told: Stale[] = [];
    let failed = false;
    const device = new ScriptedDevice(oldKernel(), UNLINK, UNLINK, -E.ENODEV);
    const { volume } = noting({
      failed: () => failed,
      "inodes.referenced": [STAT.ino],
      "tree.unlink": () => {
        if (device.replies.length < 2) return;
        failed = true;
        throw new FsError("EIO");
      },
    });
    const counters = new Float64Array(COUNTERS);
    new Session(device, volume, { counters, onFailed: (lost) => told.push(lost) }).run();
    expect(told).toEqual([
      {
        inos: [ROOT_INO, STAT.ino],
        attributes: [],
        names: [{ parent: NODEID, name: new Uint8Array([0x75]) }],
        incEpoch: false,
      },
    ]);
    expect(counters[COUNTER.failed]).toBe(1);
  });

  test("names no names that were committed before, and none to a kernel that can look at all of them", () => {
    for (const [init, fsync] of [
      [oldKernel(), frame(20, Buffer.alloc(16))],
      [INIT, LOOKUP],
    ] as const) {
      const told: Stale[] = [];
      const device = new ScriptedDevice(init, UNLINK, fsync);
      const { volume } = noting({
        failed: () => device.replies.length === 3,
        "inodes.referenced": [],
        "tree.lookup": STAT,
        uncommittedMs: () => 1,
      });
      new Session(device, volume, { onFailed: (lost) => told.push(lost) }).run();
      expect(told.map(({ names }) => names)).toEqual([[]]);
    }
  });
});

describe("a volume that another thread changes", () => {
  const NOTHING = { everything: false, inodes: [], contents: [], entries: [] };

  function session(init: Buffer, referenced: readonly number[] = []): Session {
    const { volume } = noting({ "inodes.referenced": referenced });
    const served = new Session(new ScriptedDevice(init), volume, { followed: () => 1 });
    served.run();
    return served;
  }

  test("has the kernel forget what it can know of what changed, and no more", () => {
    const name = new Uint8Array([0x75]);
    expect(
      session(INIT, [5, 6]).changed({
        ...NOTHING,
        inodes: [5, 7],
        contents: [6, 8, ROOT_INO],
        entries: [
          { parent: 5, name },
          { parent: 7, name },
        ],
      }),
    ).toEqual({ inos: [6, ROOT_INO], attributes: [5], names: [{ parent: 5, name }], incEpoch: false });
  });

  test("has it forget everything where that is not listed", () => {
    const stale = session(INIT, [5]).changed({ ...NOTHING, everything: true });
    expect(stale).toEqual({ inos: [ROOT_INO, 5], attributes: [], names: [], incEpoch: true });
  });

  test("lets a kernel that cannot forget all names keep them for a second only", () => {
    expect(session(oldKernel()).timeoutSec).toBe(1);
    expect(session(INIT).timeoutSec).toBeGreaterThan(1_000_000);
  });

  test("drops the listing of a directory at the first open after each change", () => {
    let state = 1;
    const { volume } = noting();
    const served = new Session(new ScriptedDevice(), volume, { followed: () => state });
    const directory = 9 as Ino;
    expect([served.listingChanged(directory), served.listingChanged(directory)]).toEqual([true, false]);
    state = 2;
    expect([served.listingChanged(directory), served.listingChanged(directory)]).toEqual([true, false]);
  });
});

describe("a second reader", () => {
  const PLAN = { length: 100_000, parts: [] };
  const read = (size: number) => {
    const body = Buffer.alloc(40);
    body.writeUInt32LE(size, 16);
    return frame(15, body);
  };

  /** A session with one; what it was offered, and the replies after INIT. */
  function converseWith(offered: boolean, back: boolean, frames: Buffer[], plan: unknown = PLAN) {
    const offers: unknown[] = [];
    let returned = back;
    const { volume, calls } = noting({ "files.plan": plan, "files.read": 7 });
    const device = new ScriptedDevice(INIT, ...frames);
    const secondReader = {
      offer: (...order: unknown[]) => {
        offers.push(order);
        return offered;
      },
      takeBack: () => {
        const now = returned && offers.length > 0;
        if (now) returned = false;
        return now;
      },
    };
    new Session(device, volume, { secondReader }).run();
    return { offers, calls: calls.map(([name]) => name), replies: device.replies.slice(1) };
  }

  test("answers a long read of committed data, and nobody else does", () => {
    const { offers, calls, replies } = converseWith(true, false, [read(131_072)]);
    expect(offers).toEqual([[0x55667788, 0x11223344, PLAN]]);
    expect(calls).toEqual(["files.plan"]);
    expect(replies).toEqual([]);
  });

  test("is not asked for a short one, nor where it is not committed", () => {
    expect(converseWith(true, false, [read(4096)]).calls).toEqual(["files.read"]);
    const fresh = converseWith(true, false, [read(131_072)], () => undefined);
    expect(fresh.offers).toEqual([]);
    expect(fresh.replies).toHaveLength(1);
  });

  test("that is busy leaves it to be answered here", () => {
    const { calls, replies } = converseWith(false, false, [read(131_072)]);
    expect(calls).toEqual(["files.plan", "files.read"]);
    expect(replies).toHaveLength(1);
  });

  test("that gives it back leaves it to be answered here, once, under its own number", () => {
    const { offers, calls, replies } = converseWith(true, true, [read(131_072), frame(1, bytes("6e00"))]);
    expect(offers).toHaveLength(1);
    expect(calls.filter((name) => name === "files.read")).toHaveLength(1);
    expect(replies).toHaveLength(2);
    expect(replies.map((reply) => reply.readBigUInt64LE(8))).toEqual([UNIQUE, UNIQUE]);
    expect(replies[0]).toHaveLength(16 + 7);
  });
});

test("what an operation left to be written is written after its reply is delivered", () => {
  const order: string[] = [];
  const { volume } = noting({ "tree.lookup": STAT });
  Object.assign(volume, { finish: () => order.push("finish") });
  const device = new ScriptedDevice(LOOKUP, -E.ENODEV);
  const write = device.write.bind(device);
  device.write = (buffer, length) => {
    order.push("reply");
    return write(buffer, length);
  };
  new Session(device, volume).run();
  expect(order).toEqual(["reply", "finish"]);
});

describe("where the kernel checks no permissions", () => {
  const setxattr = (name: string) => {
    const body = Buffer.alloc(16);
    body.writeUInt32LE(1, 0);
    return frame(21, Buffer.concat([body, Buffer.from(`${name}\0v`)]));
  };
  const access = (mask: number) => frame(34, Buffer.from([mask, 0, 0, 0, 0, 0, 0, 0]));

  test("it is told to ask for st_mode after an ACL was set, before that is answered", () => {
    const { volume } = noting();
    const acl = setxattr("system.posix_acl_access");
    const other = setxattr("user.x");
    const replies = converse(volume, [acl, other], { defaultPermissions: false });
    expect(replies.map((reply) => reply.readInt32LE(4))).toEqual([2, 0, 0]);
    expect(dump(replies[0] ?? Buffer.alloc(0))).toBe(dump(invalAttributes(NODEID as Ino)));
    // Where it checks it knows by itself.
    expect(converse(volume, [acl])).toHaveLength(1);
  });

  test("access(2) is granted, but for running a file that nobody may run", () => {
    const errors = (mode: number) => {
      const { volume } = noting({ "attributes.getattr": { ...STAT, mode } });
      const replies = converse(volume, [access(4), access(2), access(1), access(7)], {
        defaultPermissions: false,
      });
      return replies.map((reply) => reply.readInt32LE(4));
    };
    expect(errors(0o100640)).toEqual([0, 0, -E.EACCES, -E.EACCES]);
    expect(errors(0o100001)).toEqual([0, 0, 0, 0]);
    expect(errors(0o040000)).toEqual([0, 0, 0, 0]);
  });
});
