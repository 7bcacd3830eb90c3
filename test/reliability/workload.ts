/** Random work on a volume whose disk is recorded, and what a crash at each moment of it may show. */
import { createHash } from "node:crypto";
import { basename, join } from "node:path";
import { FsError } from "../../src/base/errno.ts";
import { Aide } from "../../src/core/aide.ts";
import { type Attr, type Ino, ROOT_INO } from "../../src/core/types.ts";
import type { Volume, VolumeOptions } from "../../src/core/volume.ts";
import { dump } from "../core/dump.ts";
import { b, CALLER, Fixture, noise, S_IFDIR, S_IFREG, settle } from "../core/fixture.ts";
import type { Random } from "../core/random.ts";
import { type Listener, listening } from "./layer.ts";
import { Record } from "./record.ts";

/** How a volume is opened, by chance. */
export interface Manner {
  readonly blockSize: number;
  readonly head: boolean;
  /** Somebody else copies the -wal, and meanwhile work goes on. */
  readonly copier: boolean;
  readonly volume: VolumeOptions;
}

export function anyManner(random: Random): Manner {
  return {
    blockSize: random.pick([4096, 65_536]),
    head: random.chance(0.5),
    copier: random.chance(0.4),
    volume: {
      noatime: true,
      sync: random.chance(0.15),
      answersFirst: random.chance(0.5),
      // With a small one pages go to the -wal before their commit.
      cacheBytes: random.pick([2 ** 20, 64 * 2 ** 20]),
    },
  };
}

/** What is to be there after a power loss: the state after one of these numbers of steps. */
export interface Bounds {
  readonly least: number;
  readonly most: number;
}

/** All that a volume shows, in short. */
export function digestOf(volume: Volume): string {
  return createHash("sha256")
    .update(JSON.stringify(dump(volume)))
    .digest("hex");
}

const S_IFMT = 0o170000;
const NAMES = [..."abcdef"];
const MOST_BYTES = 150_000;
/** As much goes to the -wal before its commit: see src/core/spill.ts. */
const LONG_BYTES = 300_000;

type Step = (volume: Volume) => unknown;

export class Workload {
  readonly fixture: Fixture;
  readonly manner: Manner;
  readonly record: Record;
  readonly #random: Random;
  /** What is shown after each number of steps. */
  readonly #shown: string[] = [];
  /** Events before each step. */
  readonly #begun: number[] = [];
  /** After `events`, the first `steps` steps are durable. */
  readonly #durable: { readonly events: number; readonly steps: number }[] = [];
  #aide: Aide | undefined;
  #copyIsDue = false;
  #copied: number | undefined;
  #copying = false;

  constructor(random: Random, manner: Manner) {
    this.#random = random;
    this.manner = manner;
    this.fixture = new Fixture({ blockSize: manner.blockSize });
    this.record = new Record(this.fixture.directory);
  }

  /** Beside the volume, where the record sees it. */
  get headPath(): string {
    return join(this.fixture.directory, "head");
  }

  /** Does `count` steps or a few more; at the end the volume is closed. */
  run(count: number): void {
    listening(this.#listener(), () => {
      this.#open();
      this.#shown.push(digestOf(this.fixture.volume));
      while (this.#shown.length <= count) {
        this.#step();
        if (this.#copyIsDue) this.#copy();
      }
      this.#close();
    });
    this.#isDurable();
  }

  /** What may be shown when the power goes after `events`. */
  boundsAt(events: number): Bounds {
    const least = this.#durable.findLast((one) => one.events <= events)?.steps ?? 0;
    const most = this.#begun.filter((before) => before <= events).length;
    return { least, most };
  }

  /** Whether `digest` is of a state within `bounds`. */
  isExpected(digest: string, { least, most }: Bounds): boolean {
    return this.#shown.slice(least, most + 1).includes(digest);
  }

  remove(): void {
    this.#aide?.close();
    this.fixture.remove();
  }

  #listener(): Listener {
    const { listener } = this.record;
    return {
      ...listener,
      wrote: (path, offset, bytes) => {
        listener.wrote?.(path, offset, bytes);
        // The aide is a thread of its own: whoever is served by the other one works on.
        if (this.#copying && basename(path) === "volume" && this.#random.chance(0.05)) this.#step();
      },
    };
  }

  #open(): void {
    const { manner } = this;
    this.fixture.open({
      ...manner.volume,
      ...(manner.head ? { headFile: this.headPath } : {}),
      ...(manner.copier ? { copier: this.#copier() } : {}),
    });
    if (manner.copier) this.#aide = new Aide(this.fixture.path, this.fixture.key, 2 ** 20);
  }

  #close(): void {
    this.#aide?.close();
    this.#aide = undefined;
    this.fixture.close();
  }

  #copier(): VolumeOptions["copier"] & object {
    return {
      copy: () => {
        this.#copyIsDue = true;
        return true;
      },
      copied: () => {
        const copied = this.#copied;
        this.#copied = undefined;
        return copied;
      },
      wait: () => {},
    };
  }

  #copy(): void {
    this.#copyIsDue = false;
    this.#copying = true;
    try {
      this.#copied = this.#aide?.copyWal() ?? 0;
    } finally {
      this.#copying = false;
    }
  }

  #isDurable(): void {
    this.#durable.push({ events: this.record.events.length, steps: this.#begun.length });
  }

  #step(): void {
    const [step, makesDurable] = this.#anyStep();
    this.fixture.clock.advance(this.#random.below(300));
    this.#begun.push(this.record.events.length);
    let refused = false;
    try {
      step(this.fixture.volume);
    } catch (error) {
      if (!(error instanceof FsError)) throw error;
      refused = true;
    }
    if (!refused && (makesDurable || this.manner.volume.sync === true)) this.#isDurable();
    this.#shown.push(digestOf(this.fixture.volume));
  }

  #anyStep(): readonly [step: Step, makesDurable: boolean] {
    const random = this.#random;
    const roll = random.below(100);
    if (roll < 12) return [(v) => v.fsync(this.#any(v).ino), true];
    if (roll < 15) return [(v) => v.commit(), true];
    if (roll < 17) return [(v) => v.closeEpoch(), true];
    if (roll < 25) return [(v) => this.#rest(v), false];
    if (roll < 27 && !this.#copying) return [() => this.#remount(), true];
    return [this.#change(roll), false];
  }

  #rest(volume: Volume): void {
    this.fixture.clock.advance(this.#random.pick([10, 1000, 3000]));
    settle(volume, this.fixture.clock);
  }

  #remount(): void {
    this.#close();
    this.#open();
  }

  /** One operation that changes something, or is refused. */
  #change(roll: number): Step {
    const random = this.#random;
    const offset = random.below(MOST_BYTES);
    const data = noise(1 + random.below(random.chance(0.7) ? 5000 : MOST_BYTES), random.below(1000));
    const name = () => b(random.pick(NAMES));
    const [from, to] = [name(), name()];
    if (roll < 40) return (v) => v.tree.mknod(this.#directory(v), to, S_IFREG | 0o644, 0, CALLER);
    if (roll < 45) return (v) => v.tree.mkdir(this.#directory(v), to, 0o755, CALLER);
    if (roll < 60) return (v) => v.files.write(this.#file(v), offset, data, false);
    if (roll < 65) return (v) => this.#append(v, data);
    if (roll < 67) return (v) => this.#append(v, noise(LONG_BYTES, random.below(1000)));
    if (roll < 75) return (v) => v.tree.unlink(this.#directory(v), to);
    if (roll < 77) return (v) => v.tree.rmdir(ROOT_INO, to);
    if (roll < 84) return (v) => v.tree.rename(this.#directory(v), from, this.#directory(v), to, 0);
    if (roll < 88) return (v) => v.attributes.setattr(this.#file(v), { size: offset });
    if (roll < 90) return (v) => v.tree.link(this.#file(v), this.#directory(v), to);
    if (roll < 93)
      return (v) => v.xattrs.set(this.#any(v).ino, b("user.x"), data.subarray(0, 9000), 0, false);
    if (roll < 95) return (v) => v.tree.symlink(this.#directory(v), to, from, CALLER);
    if (roll < 97) return (v) => v.files.fallocate(this.#file(v), 3, offset, 1 + random.below(50_000), false);
    // What a copy shares and what it copies are changes of their own, between which the power may go.
    const length = this.manner.volume.sync === true ? this.manner.blockSize : 65_536;
    return (v) => v.files.copyFileRange(this.#file(v), 0, this.#file(v), 0, length, false);
  }

  #append(volume: Volume, data: Buffer): void {
    const ino = this.#file(volume);
    const { size } = volume.attributes.getattr(ino);
    if (size < 4 * MOST_BYTES) volume.files.write(ino, size, data, false);
  }

  /** Everything that has a name, the root last. */
  #all(volume: Volume, below: Ino = ROOT_INO): Attr[] {
    const found: Attr[] = [];
    volume.tree.readdirplus(below, 0, (_, attr) => found.push({ ...attr }) > 0);
    const isDirectory = (attr: Attr) => (attr.mode & S_IFMT) === S_IFDIR;
    const deeper = found.filter(isDirectory).flatMap((one) => this.#all(volume, one.ino));
    const root = below === ROOT_INO ? [volume.attributes.getattr(ROOT_INO)] : [];
    return [...found, ...deeper.filter((one) => one.ino !== ROOT_INO), ...root];
  }

  #any(volume: Volume): Attr {
    return this.#random.pick(this.#all(volume));
  }

  #ofType(volume: Volume, type: number): Ino {
    const some = this.#all(volume).filter(({ mode }) => (mode & S_IFMT) === type);
    return some.length === 0 ? ROOT_INO : this.#random.pick(some).ino;
  }

  #directory(volume: Volume): Ino {
    return this.#random.chance(0.5) ? ROOT_INO : this.#ofType(volume, S_IFDIR);
  }

  /** A regular file, or the root where there is none: what is done to it is refused then. */
  #file(volume: Volume): Ino {
    return this.#ofType(volume, S_IFREG);
  }
}
