/** What a head tells of a volume, and that it never tells wrong. */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { OpenError } from "../../src/core/errors.ts";
import { decodeHead, encodeHead, type HeadRecord, readHeadFile } from "../../src/core/head.ts";
import { rekey, vacuum } from "../../src/core/rewrite.ts";
import { unlock } from "../../src/core/unlock.ts";
import { Volume } from "../../src/core/volume.ts";
import { drain, inspect } from "../../src/fsck/check.ts";
import { repair } from "../../src/fsck/repair.ts";
import { withChild } from "./child.ts";
import { Fixture, inVolume, mkdir, namesOf, PASSWORD, ROOT, walEnd } from "./fixture.ts";

const RECORD: HeadRecord = {
  volumeId: "00112233445566778899aabbccddeeff",
  no: 1234,
  nonce: "0123456789abcdef",
};

let directory: string;
let head: string;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "head-"));
  head = join(directory, "head");
});
afterEach(() => rmSync(directory, { recursive: true }));

/** Each change in a commit of its own; calls `after` behind each. */
function commits(volume: Volume, names: readonly string[], after: (i: number) => void = () => {}): void {
  for (const [i, name] of names.entries()) {
    mkdir(volume, ROOT, name);
    volume.commit();
    after(i);
  }
}

/** Copies without opening: that would drop the locks of the open volume. */
function copy(from: string, to: string): void {
  execFileSync("cp", [from, to]);
}

/** A state of file and -wal. */
function take(path: string, name: string): string {
  const place = join(directory, name);
  mkdirSync(place);
  for (const end of ["", "-wal"]) if (existsSync(path + end)) copy(path + end, join(place, `volume${end}`));
  return join(place, "volume");
}

function fingerprint(path: string): string {
  const hash = (file: string) => createHash("sha256").update(readFileSync(file)).digest("hex");
  return ["", "-wal", "-shm"].map((end) => (existsSync(path + end) ? hash(path + end) : "-")).join();
}

/** "opens", or why not; then nothing must have changed. */
function opening(fixture: Fixture, path: string, headFile: string, readOnly = false): string {
  const before = fingerprint(path);
  try {
    Volume.open(path, fixture.key, { headFile, readOnly }).close();
    return "opens";
  } catch (error) {
    if (!(error instanceof OpenError)) throw error;
    expect(fingerprint(path)).toBe(before);
    return error.reason;
  }
}

describe("a record", () => {
  it("is one line of text, padded, with a checksum", () => {
    const bytes = encodeHead(RECORD);
    expect(bytes.length).toBe(512);
    expect(bytes.toString().trimEnd()).toBe(
      "sqlfuse-head 1 volume=00112233445566778899aabbccddeeff commit=1234 nonce=0123456789abcdef check=a63d1635a9c355c7",
    );
    expect(decodeHead(bytes)).toEqual(RECORD);
  });

  it("of which any byte is another, or any part is of another record, is none", () => {
    const bytes = encodeHead(RECORD);
    const other = encodeHead({ ...RECORD, no: 9876, nonce: "fedcba9876543210" });
    const text = bytes.toString().trimEnd().length;
    for (let at = 0; at < bytes.length; at++) {
      const flipped = Buffer.from(bytes);
      flipped[at] = (flipped[at] ?? 0) ^ 1;
      expect(decodeHead(flipped), `byte ${at}`).toBeUndefined();
      const torn = Buffer.concat([other.subarray(0, at), bytes.subarray(at)]);
      const first = 62; // before it both say the same
      expect(decodeHead(torn)).toEqual(
        at <= first ? RECORD : at >= text ? { ...RECORD, no: 9876, nonce: "fedcba9876543210" } : undefined,
      );
    }
  });
});

describe("a volume with a head", () => {
  it("makes the file where it is missing, for its owner alone, and tells it of each commit", () =>
    inVolume((fixture) => {
      fixture.close();
      const volume = fixture.open({ headFile: head });
      expect(statSync(head).mode & 0o777).toBe(0o600);
      expect(readHeadFile(head)).toMatchObject({ volumeId: volume.volumeId, no: 1 });
      const seen = new Set<string>();
      commits(volume, ["a", "b", "c"], (i) => {
        const record = readHeadFile(head);
        expect(record?.no).toBe(i + 2);
        seen.add(record?.nonce ?? "");
      });
      expect(seen.size).toBe(3);
      fixture.close();
      expect(fixture.sql((db) => db.pragma("user_version"))).toBe("1");
      const { no = 0, nonce } = readHeadFile(head) ?? {};
      expect(
        fixture.number(`SELECT count(*) FROM meta WHERE key = 'head' AND value = '${no} ${nonce}'`),
      ).toBe(1);
    }));

  it("opens with each head of the same or an earlier moment, and is refused with each later one", () =>
    inVolume((fixture) => {
      fixture.close();
      const volume = fixture.open({ headFile: head });
      const states: string[] = [];
      const keep = (i: number) => {
        states.push(take(fixture.path, `state${i}`));
        copy(head, join(directory, `head${i}`));
      };
      commits(volume, ["a", "b", "c", "d", "e"], keep);
      volume.idle(Number.MAX_SAFE_INTEGER); // copies the -wal
      commits(volume, ["f", "g"], (i) => keep(i + 5));
      fixture.close();
      for (const [i, state] of states.entries()) {
        for (let j = 0; j < states.length; j++) {
          const now = take(state, "now");
          copyFileSync(join(directory, `head${j}`), `${now}.head`);
          expect([i, j, opening(fixture, now, `${now}.head`)]).toEqual([i, j, i >= j ? "opens" : "older"]);
          rmSync(join(directory, "now"), { recursive: true });
        }
      }
    }));

  it("is refused without its -wal, read-only too", () =>
    inVolume((fixture) => {
      fixture.close();
      commits(fixture.open({ headFile: head }), ["a", "b"]);
      const state = take(fixture.path, "state");
      fixture.close();
      rmSync(`${state}-wal`);
      expect(opening(fixture, state, head)).toBe("older");
      expect(opening(fixture, state, head, true)).toBe("older");
    }));

  it("is refused where its -wal is cut off in any frame", () =>
    inVolume((fixture) => {
      fixture.close();
      commits(fixture.open({ headFile: head }), ["a", "b"]);
      const state = take(fixture.path, "state");
      fixture.close();
      for (let length = walEnd(state) - 1; length >= 0; length -= 7777) {
        truncateSync(`${state}-wal`, length);
        expect([length, opening(fixture, state, head)]).toEqual([length, "older"]);
      }
    }));

  it("is refused as a copy from before its first head", () =>
    inVolume((fixture) => {
      fixture.close();
      const state = take(fixture.path, "state");
      fixture.open({ headFile: head });
      fixture.close();
      expect(opening(fixture, state, head)).toBe("older");
    }));

  it("is refused where another commit has the number of the newest one", () =>
    inVolume((fixture) => {
      fixture.close();
      fixture.open({ headFile: head });
      fixture.close();
      const other = take(fixture.path, "other");
      copyFileSync(head, `${other}.head`);
      Volume.open(other, fixture.key, { headFile: `${other}.head` }).close();
      fixture.open({ headFile: head });
      fixture.close();
      expect(readHeadFile(head)?.no).toBe(readHeadFile(`${other}.head`)?.no);
      expect(opening(fixture, other, head)).toBe("older");
    }));

  it("says which commit is missing, and what to do", () =>
    inVolume((fixture) => {
      fixture.close();
      const state = take(fixture.path, "state");
      commits(fixture.open({ headFile: head }), ["a"]);
      fixture.close();
      expect(() => Volume.open(state, fixture.key, { headFile: head })).toThrow(
        `${state}: is older than its head: ${head} has seen commit 2, and the file is from before it had a head; ` +
          "an older copy was put in its place, or its -wal was dropped or cut off; find the newest one, or accept " +
          `this one: sqlfuse fsck --repair --head-file ${head} ${state}`,
      );
    }));

  it("opens without its head, whose number then stays: what was changed so is known from the next time on", () =>
    inVolume((fixture) => {
      fixture.close();
      fixture.open({ headFile: head });
      fixture.close();
      commits(fixture.open(), ["without"]);
      fixture.close();
      const unseen = take(fixture.path, "unseen");
      expect(readHeadFile(head)?.no).toBe(1);
      fixture.open({ headFile: head });
      fixture.close();
      expect(readHeadFile(head)?.no).toBe(2);
      expect(opening(fixture, unseen, head)).toBe("older");
    }));

  it("says so when a new file begins for a volume that had one", () =>
    inVolume((fixture) => {
      fixture.close();
      fixture.open({ headFile: head });
      fixture.close();
      rmSync(head);
      fixture.open({ headFile: head });
      expect(fixture.takeLog().join()).toMatch(/made anew/);
      expect(readHeadFile(head)?.no).toBe(2);
    }));

  it("keeps it through vacuum and rekey", () =>
    inVolume((fixture) => {
      fixture.close();
      const older = take(fixture.path, "older");
      commits(fixture.open({ headFile: head }), ["a"]);
      fixture.close();
      drain(vacuum(fixture.path, PASSWORD));
      fixture.open({ headFile: head });
      fixture.close();
      expect(opening(fixture, older, head)).toBe("older");
      const moved = take(fixture.path, "moved");
      drain(rekey(moved, PASSWORD, Buffer.from("new")));
      Volume.open(moved, unlock(moved, Buffer.from("new")), { headFile: head }).close();
      expect(readHeadFile(head)?.no).toBe(4);
    }));
});

describe("a head file", () => {
  it("of which the newest record is torn tells the one before", () =>
    inVolume((fixture) => {
      fixture.close();
      commits(fixture.open({ headFile: head }), ["a", "b", "c"]);
      fixture.close();
      const whole = readFileSync(head);
      const newest = readHeadFile(head)?.no ?? 0;
      const numbers = [0, 4096].map((at) => {
        const torn = Buffer.from(whole);
        torn.fill(0, at + 100, at + 300);
        writeFileSync(head, torn);
        expect(opening(fixture, take(fixture.path, `at${at}`), head)).toBe("opens");
        writeFileSync(head, torn);
        return readHeadFile(head)?.no;
      });
      expect(numbers.sort()).toEqual([newest - 1, newest]);
    }));

  it("of another volume is refused, and stays as it is", () =>
    inVolume((fixture) => {
      fixture.close();
      const bytes = encodeHead(RECORD);
      writeFileSync(head, bytes);
      expect(opening(fixture, fixture.path, head)).toBe("bad-head");
      expect(readFileSync(head).equals(bytes)).toBe(true);
    }));

  it.each([
    ["empty", () => ""],
    ["something else", () => "a letter to Ann, of quite some length\n".repeat(300)],
    [
      "damaged in both records",
      () => encodeHead(RECORD).toString().replace("1234", "1235").padEnd(4096).repeat(2),
    ],
  ])("that is %s is refused, and stays as it is", (_, content) =>
    inVolume((fixture) => {
      fixture.close();
      writeFileSync(head, content());
      expect(opening(fixture, fixture.path, head)).toBe("bad-head");
      expect(readFileSync(head, "latin1")).toBe(content());
    }),
  );

  it("that is the volume itself, a directory or a FIFO is refused", () =>
    inVolume((fixture) => {
      fixture.close();
      execFileSync("mkfifo", [join(directory, "fifo")]);
      for (const path of [fixture.path, directory, join(directory, "fifo"), "/dev/null"])
        expect([path, opening(fixture, fixture.path, path)]).toEqual([path, "bad-head"]);
    }));

  it("that is missing is not made by who only reads, nor where its directory is missing", () =>
    inVolume((fixture) => {
      fixture.close();
      expect(opening(fixture, fixture.path, head, true)).toBe("bad-head");
      expect(existsSync(head)).toBe(false);
      const nowhere = join(directory, "not plugged in", "head");
      expect(() => Volume.open(fixture.path, fixture.key, { headFile: nowhere })).toThrow(
        /cannot be made \(ENOENT\)/,
      );
    }));
});

describe("fsck with a head", () => {
  /** A closed volume whose head has seen two commits that it has not. */
  function older(run: (fixture: Fixture, state: string) => void): void {
    inVolume((fixture) => {
      fixture.close();
      commits(fixture.open({ headFile: head }), ["a"]);
      fixture.close();
      const state = take(fixture.path, "state");
      commits(fixture.open({ headFile: head }), ["b"]);
      fixture.close();
      run(fixture, state);
    });
  }

  it("finds a newest state clean, and an older one not", () =>
    older((fixture, state) => {
      expect(drain(inspect(fixture.path, fixture.key, { headFile: head })).findings).toEqual([]);
      expect(drain(inspect(state, fixture.key)).findings).toEqual([]);
      expect(drain(inspect(state, fixture.key, { headFile: head })).findings).toEqual([
        {
          kind: "head",
          text: `the volume is older than its head: ${head} has seen commit 4, and the file ends at 2`,
          remedy: "this state is taken for the newest one from now on",
        },
      ]);
    }));

  it("accepts an older state in a repair; then what was the newest one is the older", () =>
    older((fixture, state) => {
      const report = drain(inspect(state, fixture.key, { headFile: head }));
      const { left } = drain(repair(state, fixture.key, report, fixture.clock, head));
      expect(left).toEqual([]);
      expect(readHeadFile(head)?.no).toBe(5);
      expect(opening(fixture, fixture.path, head)).toBe("older");
      const volume = Volume.open(state, fixture.key, { headFile: head });
      expect(namesOf(volume, ROOT)).toEqual(["a"]);
      volume.close();
    }));

  it("compares what a page-wise repair saved as well", () =>
    older((fixture, state) => {
      const bytes = readFileSync(state);
      bytes.fill(0x5a, bytes.length - 5000, bytes.length - 4900);
      writeFileSync(state, bytes);
      const report = drain(inspect(state, fixture.key, { headFile: head }));
      expect(report.damage).toBe("everything");
      expect(report.findings.map(({ kind }) => kind)).toContain("head");
      drain(repair(state, fixture.key, report, fixture.clock, head));
      expect(drain(inspect(state, fixture.key, { headFile: head })).findings).toEqual([]);
    }));

  it("beside a mount that goes on committing raises no false alarm", async () => {
    const fixture = new Fixture();
    try {
      const { bytes, salt, ...rest } = fixture.key.toMessage();
      const buffer = (part: Uint8Array) => `Buffer.from("${Buffer.from(part).toString("hex")}", "hex")`;
      const source = `
        import { Key } from "src/db/key.ts";
        import { Volume } from "src/core/volume.ts";
        const key = Key.fromMessage({ ...${JSON.stringify(rest)}, bytes: ${buffer(bytes)}, salt: ${buffer(salt)} });
        const volume = Volume.open(${JSON.stringify(fixture.path)}, key, { headFile: ${JSON.stringify(head)} });
        console.log("open");
        for (let i = 0; i < 100_000; i++) {
          volume.tree.mkdir(1, Buffer.from(String(i)), 0o755, { uid: 0, gid: 0, umask: 0 });
          volume.commit();
        }`;
      await withChild(source, () => {
        const numbers = new Set<number>();
        for (let i = 0; i < 15; i++) {
          numbers.add(readHeadFile(head)?.no ?? 0);
          const { findings, isMounted } = drain(
            inspect(fixture.path, fixture.key, { besideMount: true, headFile: head }),
          );
          expect(isMounted).toBe(true);
          expect(findings).toEqual([]);
        }
        expect(numbers.size).toBeGreaterThan(5);
      });
      // The writer was killed.
      fixture.open({ headFile: head });
      fixture.finish();
    } finally {
      fixture.remove();
    }
  });
});
