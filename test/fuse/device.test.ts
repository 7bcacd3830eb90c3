/** The real device, with a socket in the kernel's place. */
import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { E } from "../../src/base/errno.ts";
import { Connection } from "../../src/fuse/device.ts";
import { Session } from "../../src/fuse/session.ts";
import { close, eventfd, read, setNonBlocking, socketpair, write } from "../../src/native/libc.ts";
import { answer, bytes, dump, frame, INIT, noting, STAT } from "./frames.ts";

function connected(): { kernel: number; connection: Connection; bell: number; end(): void } {
  const pair = socketpair();
  if (typeof pair === "number") throw new Error(`socketpair: ${pair}`);
  const [kernel, fd] = pair;
  setNonBlocking(fd);
  const bell = eventfd();
  const end = (): void => [kernel, fd, bell].forEach(close);
  return { kernel, connection: new Connection(fd, bell), bell, end };
}

const RING = new Uint8Array(new BigUint64Array([1n]).buffer);

describe("a connection", () => {
  test("reads what waits, and EAGAIN where nothing does", () => {
    const { kernel, connection, end } = connected();
    const buffer = new Uint8Array(64);
    expect(connection.read(buffer)).toBe(-E.EAGAIN);
    write(kernel, Buffer.from("abc"), 3);
    expect(connection.read(buffer)).toBe(3);
    expect(connection.write(Buffer.from("wxyz"), 2)).toBe(2);
    expect(read(kernel, buffer, 64)).toBe(2);
    end();
  });

  test("sleeps until its time, a request, or the bell", async () => {
    const { kernel, connection, bell, end } = connected();
    const slept = (ms: number): number => {
      const from = performance.now();
      connection.wait(ms);
      return performance.now() - from;
    };
    expect(slept(30)).toBeGreaterThanOrEqual(29);
    write(bell, RING, 8);
    expect(slept(10_000)).toBeLessThan(5000);
    expect(connection.woken()).toBe(true);
    expect(connection.woken()).toBe(false);
    write(kernel, RING, 1);
    expect(slept(10_000)).toBeLessThan(5000);
    expect(connection.woken()).toBe(false);
    end();
    await sleep(0);
  });

  test("carries a session from INIT to the end", () => {
    const { kernel, connection, end } = connected();
    const { volume } = noting({ "attributes.getattr": STAT });
    const got: string[] = [];
    const buffer = new Uint8Array(4096);
    const take = (): void => {
      const n = read(kernel, buffer, buffer.length);
      got.push(dump(buffer.subarray(0, n)));
    };
    // Nothing here runs beside the session, so each frame is sent when the session goes to sleep.
    const script = [
      () => write(kernel, INIT, INIT.length),
      () => {
        take();
        const getattr = frame(3, Buffer.alloc(16));
        write(kernel, getattr, getattr.length);
      },
      () => {
        take();
        const unknown = frame(77);
        write(kernel, unknown, unknown.length);
      },
      () => {
        take();
        close(kernel);
      },
    ];
    const session = new Session(
      {
        read: (into) => connection.read(into),
        write: (from, length) => connection.write(from, length),
        wait: (ms) => {
          script.shift()?.();
          connection.wait(ms);
        },
        woken: () => connection.woken(),
      },
      volume,
    );
    expect(session.run()).toBe("unmounted");
    expect(got).toHaveLength(3);
    expect(got[2]).toBe(dump(answer(bytes(""), -E.ENOSYS)));
    end();
  });
});
