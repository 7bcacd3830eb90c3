/** When a remote that owes an answer is said not to answer. */
import { expect, test } from "vitest";
import { AttendedStore } from "../../src/remote/attended.ts";
import { LogError } from "../../src/remote/errors.ts";
import type { RemoteStore } from "../../src/remote/remote.ts";

const LIMIT_MS = 60_000;

/** A remote that answers when it is told to, and a clock that is set by hand. */
function hanging() {
  let answer = (): void => {};
  let nowMs = 0;
  const hang = <T>(value: T) => new Promise<T>((resolve) => (answer = () => resolve(value)));
  const inner: RemoteStore = {
    url: "slow",
    list: () => hang([]),
    put: () => hang(true),
    get: () => hang(Buffer.from("here")),
    remove: () => hang(undefined),
  };
  const store = new AttendedStore(inner, LIMIT_MS, () => nowMs);
  return {
    store,
    answer: () => answer(),
    pass: (ms: number) => {
      nowMs += ms;
    },
  };
}

test("a remote that answers just in time answers", async () => {
  const { store, answer, pass } = hanging();
  const done = store.put("one", Buffer.alloc(1));
  const outlasts = store.outlasts(done);
  pass(LIMIT_MS - 1);
  setTimeout(answer, 600);
  expect(await outlasts).toBe(true);
  expect(await done).toBe(true);
});

test("a remote that owes an answer for longer does not answer, and who reads is told so", async () => {
  const { store, pass } = hanging();
  const read = store.impatient().get("one");
  pass(LIMIT_MS);
  await expect(read).rejects.toThrow(new LogError("unreachable", "slow: does not answer"));
});

test("each answer counts, and time in which nothing is asked does not", async () => {
  const { store, answer, pass } = hanging();
  const work = async (): Promise<void> => {
    for (let i = 0; i < 3; i++) {
      const done = store.put(`${i}`, Buffer.alloc(1));
      pass(LIMIT_MS - 1);
      setTimeout(answer, 300);
      await done;
      pass(LIMIT_MS);
    }
  };
  expect(await store.outlasts(work())).toBe(true);
});

test("what was given up is not asked any more", async () => {
  const { store } = hanging();
  store.giveUp();
  await expect(store.list("log/")).rejects.toThrow("slow: was given up");
});
