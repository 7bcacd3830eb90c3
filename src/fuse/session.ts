/**
 * One mount's conversation with the kernel: negotiation, the loop, and the way of a request from bytes to
 * reply. Everything happens on the one thread that calls `run`.
 *
 * The loop spins before it sleeps: a caller who works through a tree sends his next request some 10 us after
 * the last reply, and finding it by reading again costs a third of what waking from poll(2) costs. When
 * nothing came for a while it sleeps in poll with no timeout but the volume's own, so that an idle mount uses
 * no processor.
 */

import { type Clock, systemClock } from "../base/clock.ts";
import { DamageError, E, FsError } from "../base/errno.ts";
import type { ReadPlan } from "../core/files.ts";
import { AwayError } from "../core/partial.ts";
import { type BlockNo, type Ino, ROOT_INO } from "../core/types.ts";
import { COST_SLOTS, Costs } from "./costs.ts";
import type { Device } from "./device.ts";
import { type BlockFetcher, Fetching } from "./fetching.ts";
import { Hidden, type PastSource } from "./hidden.ts";
import { type Agreement, negotiate, type Offer, type Wishes } from "./init.ts";
import { InHeader, OutHeader, ReadIn, WriteIn } from "./kernel.ts";
import { Reply, Request } from "./message.ts";
import { invalAttributes } from "./notify.ts";
import { OPERATIONS, PROTOCOL } from "./protocol.ts";
import {
  COUNTER,
  COUNTERS,
  ELSEWHERE,
  FIRST_HIDDEN,
  type HiddenName,
  type SecondReader,
  type ServedVolume,
  type Server,
  type TouchedName,
} from "./server.ts";
import { traceReply, traceRequest } from "./trace.ts";

/** Largest READ, and largest request, in bytes. */
export const MAX_TRANSFER = 1024 * 1024;
/** Largest WRITE in bytes: nobody else is served meanwhile, as it is spilled at once (src/core/spill.ts). */
const MAX_WRITE = 256 * 1024;
/** Looks at an empty device before sleeping: together about 35 us. */
const SPINS = 100;
/** Requests after which the volume gets its turn even though the next one waits. */
const BURST = 100;
/** A kernel that may keep things "for ever": nobody else writes, and what we change ourselves is announced. */
const FOREVER_SEC = 10 * 365 * 86_400;

/** Where not all names can be taken from the kernel at once, and another thread changes many. */
const FOLLOWED_SEC = 1;

const NO_BLOCKS: ReadonlySet<BlockNo> = new Set();

/** When background work failed it is tried again after this long. */
const RETRY_MS = 1000;

function textOf(error: unknown): string {
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}

export interface SessionOptions {
  readonly writeback?: boolean;
  /** False switches POSIX ACLs off, which would switch the kernel's permission checks on. */
  readonly defaultPermissions?: boolean;
  readonly uid?: number | undefined;
  readonly gid?: number | undefined;
  /** For how long the kernel may keep names and attributes; default: for ever. */
  readonly timeoutSec?: number | undefined;
  readonly pageSize?: number;
  readonly clock?: Clock;
  /** `COUNTERS` slots; shared with whoever shows them. */
  readonly counters?: Float64Array;
  readonly secondReader?: SecondReader | undefined;
  /** Of a partial replica: who fetches what is away; he calls `arrived` or `refused`. */
  readonly fetcher?: BlockFetcher | undefined;
  /** Another number for each state of a volume that another thread changes; undefined where none does. */
  readonly followed?: (() => number) | undefined;
  /** Where the past is to be had: shows it in directories that no listing shows. */
  readonly past?: PastSource | undefined;
  /** A snapshot is about to be made: have the kernel write back what is stored in mapped files, then call `writtenBack`. */
  readonly onWriteBack?: (() => void) | undefined;
  /** `COST_SLOTS` slots; shared with whoever shows them. */
  readonly costs?: Float64Array;
  /** Damage and bugs, a line each. */
  readonly onLog?: (line: string) => void;
  /** One line each way per request. */
  readonly onTrace?: ((line: string) => void) | undefined;
  /** INIT was answered: the mount is alive. */
  readonly onReady?: (agreed: Agreement) => void;
  /** Somebody rang the device's bell. */
  readonly onWake?: () => void;
  /** A commit failed: what the kernel cached of these inodes and names is no longer so. Called once. */
  readonly onFailed?: (lost: Stale) => void;
}

/** What the kernel is to forget; another thread tells it. */
export interface Stale {
  /** Inodes of which it may keep attributes, and data or a listing. */
  readonly inos: readonly Ino[];
  /** Inodes of which it may keep attributes alone. */
  readonly attributes: readonly Ino[];
  readonly names: readonly TouchedName[];
  /** All names. */
  readonly incEpoch: boolean;
}

/** What another thread changed of the volume. */
export interface Change {
  /** Then nothing is listed. */
  readonly everything: boolean;
  readonly inodes: readonly number[];
  /** Inodes whose content or listing changed too. */
  readonly contents: readonly number[];
  readonly entries: readonly { readonly parent: number; readonly name: Uint8Array }[];
}

/** Before INIT. */
const NOTHING_AGREED: Agreement = {
  minor: 0,
  maxReadahead: 0,
  maxTransfer: MAX_TRANSFER,
  maxWrite: MAX_WRITE,
  maxPages: 0,
  flags: 0,
  flags2: 0,
  dontMask: false,
  setxattrExt: false,
  killPriv: false,
  acl: false,
  incEpoch: false,
};

export class Session implements Server {
  readonly volume: ServedVolume;
  timeoutSec: number;
  readonly uid: number | undefined;
  readonly gid: number | undefined;
  readonly counters: Float64Array;
  readonly granted: Ino[] = [];
  agreed: Agreement = NOTHING_AGREED;
  readonly #device: Device;
  readonly #options: SessionOptions;
  readonly #clock: Clock;
  readonly #wishes: Wishes;
  readonly #onLog: (line: string) => void;
  readonly #onTrace: ((line: string) => void) | undefined;
  readonly #costs: Costs;
  readonly #request: Request;
  readonly #reply: Reply;
  readonly #secondReader: SecondReader | undefined;
  /** A copy of the READ that another thread has. */
  readonly #delegated = new Uint8Array(InHeader.size + ReadIn.size);
  readonly #hidden: Hidden | undefined;
  readonly #fetching: Fetching | undefined;
  /** Blocks that were refused just now. */
  #vain: ReadonlySet<BlockNo> = NO_BLOCKS;
  /** Requests that wait until the kernel has written back. */
  #postponed: Uint8Array[] = [];
  #isWrittenBack = false;
  #touched: TouchedName[] = [];
  /** Inodes whose damage was logged. */
  readonly #damaged = new Set<Ino>();
  /** Directories that changed since they were last opened. */
  readonly #changedListings = new Set<Ino>();
  /** Of a volume that another thread changes: its state when each directory was last opened. */
  readonly #listedIn = new Map<Ino, number>();
  #answersDelegated = false;
  #lastLine = "";
  #failed = false;
  /** Since the volume had its last turn. */
  #used = false;
  #stopped = false;

  constructor(device: Device, volume: ServedVolume, options: SessionOptions = {}) {
    const pageSize = options.pageSize ?? 4096;
    this.volume = volume;
    this.timeoutSec = options.timeoutSec ?? FOREVER_SEC;
    this.uid = options.uid;
    this.gid = options.gid;
    this.counters = options.counters ?? new Float64Array(COUNTERS);
    this.#device = device;
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#onLog = options.onLog ?? (() => {});
    this.#onTrace = options.onTrace;
    this.#secondReader = options.secondReader;
    this.#hidden = options.past && new Hidden(this, options.past);
    this.#fetching = options.fetcher && new Fetching(options.fetcher);
    this.#costs = new Costs(options.costs ?? new Float64Array(COST_SLOTS));
    this.#wishes = {
      writeback: options.writeback ?? false,
      acl: options.defaultPermissions ?? true,
      maxTransfer: MAX_TRANSFER,
      maxWrite: MAX_WRITE,
      pageSize,
    };
    // The kernel refuses to fill a buffer that could not take its largest WRITE.
    this.#request = new Request(MAX_TRANSFER + Math.max(pageSize, InHeader.size + WriteIn.size));
    this.#reply = new Reply(MAX_TRANSFER + Math.max(pageSize, OutHeader.size));
  }

  /**
   * Serves until the kernel lets go or `stop` is called. "aborted": somebody cut the connection; then, and when
   * stopped, the mount may still be there.
   */
  run(): "unmounted" | "aborted" | "stopped" {
    let spins = 0;
    let burst = 0;
    while (!this.#stopped) {
      if (this.#secondReader?.takeBack()) this.#answerDelegated();
      const received = this.#device.read(this.#request.bytes);
      if (received > 0) {
        spins = 0;
        this.#timed(received);
        if (++burst < BURST) continue;
        burst = 0;
        this.#turn();
        if (this.#device.woken()) this.#options.onWake?.();
      } else if (received === -E.EAGAIN) {
        if (++spins < SPINS) continue;
        burst = 0;
        const sleepMs = this.#turn();
        // More work at once: but look whether a request came meanwhile.
        if (sleepMs <= 0) continue;
        this.#device.wait(sleepMs);
        if (this.#device.woken()) this.#options.onWake?.();
        spins = 0;
      } else if (received === -E.ENODEV || received === 0) {
        return "unmounted";
      } else if (received === -E.ECONNABORTED) {
        return "aborted";
      } else if (received !== -E.EINTR && received !== -E.ENOENT) {
        // ENOENT: the caller was killed while its request was on the way, there is no more to it.
        throw new Error(`reading requests failed with errno ${-received}`);
      }
    }
    return "stopped";
  }

  /** Ends `run` before it takes another request. Called from `onWake`. */
  stop(): void {
    this.#stopped = true;
  }

  /** Gives the volume its turn. Milliseconds until it wants the next one. */
  #turn(): number {
    const nowMs = this.#clock.monotonicMs();
    if (this.#used) this.counters[COUNTER.lastUse] = Date.now();
    this.#used = false;
    let sleepMs = RETRY_MS;
    try {
      sleepMs = this.volume.idle(nowMs);
    } catch (error) {
      // Work in the background that cannot be done is no reason to stop answering.
      this.#logOnce(`idle: ${textOf(error)}`);
    }
    const ageMs = this.volume.uncommittedMs(nowMs);
    if (ageMs === 0) this.settled();
    this.counters[COUNTER.uncommittedSince] = ageMs === 0 ? 0 : Date.now() - ageMs;
    this.counters[COUNTER.references] = this.volume.inodes.references;
    this.#lookForFailure();
    return sleepMs;
  }

  #timed(received: number): void {
    const fromMs = performance.now();
    this.handle(received);
    this.#costs.add(this.#request.opcode, (performance.now() - fromMs) * 1000);
  }

  /** Answers the first `received` bytes of the request buffer. */
  handle(received: number): void {
    const request = this.#request;
    const reply = this.#reply;
    if (!request.take(received)) {
      this.#onLog(`a message of ${received} bytes is no request, dropped`);
      return;
    }
    const row = OPERATIONS[request.opcode];
    const trace = this.#onTrace;
    if (trace !== undefined) trace(traceRequest(request, row));
    this.counters[COUNTER.requests]! += 1;
    this.granted.length = 0;
    let result: number;
    let server: Server | undefined;
    if (row?.handler === undefined) {
      result = -E.ENOSYS;
    } else if (request.len !== received || request.length < row.in.size) {
      result = -E.EINVAL;
    } else {
      try {
        server = request.nodeid < FIRST_HIDDEN ? this : this.#serverOf(request);
        result = server === undefined ? ELSEWHERE : row.handler(server, request, reply);
        if (row.code === PROTOCOL.READ.code && result > 0) this.#readOn(server, request, result);
      } catch (error) {
        const waits = error instanceof AwayError && this.#fetches(error, server, request);
        result = waits ? ELSEWHERE : -this.#errnoOf(error, row.name);
      }
    }
    if (row !== undefined && !row.replies) return;
    // What the kernel tells by itself is no use, nor is looking how much space is left, as monitors do all day.
    if (request.opcode !== PROTOCOL.STATFS.code) this.#used = true;
    if (result === ELSEWHERE) return;
    const length = result < 0 ? reply.finish(request, result, 0) : reply.finish(request, 0, result);
    if (trace !== undefined) trace(traceReply(request, reply, row, result));
    const written = this.#device.write(reply.bytes, length);
    // Whoever asked is on his way: what he made is written while he is.
    this.volume.finish();
    if (written < 0) this.#undelivered(written);
    if (row?.name === "INIT" && result > 0) this.#options.onReady?.(this.agreed);
  }

  /** Has what a READ lacks fetched, and puts it off until then. */
  #fetches({ missing }: AwayError, server: Server | undefined, request: Request): boolean {
    if (this.#fetching === undefined || missing.length === 0) return false;
    if (missing.some((block) => this.#vain.has(block))) return false;
    this.#fetching.wait(request.bytes.slice(0, request.len), missing);
    this.#readOn(server, request, request.u32(ReadIn.at.size));
    return true;
  }

  /** Of `length` bytes that were read; fewer than were asked for are the last of a file. */
  #readOn(server: Server | undefined, request: Request, length: number): void {
    if (this.#fetching === undefined || server === undefined) return;
    if (length < request.u32(ReadIn.at.size)) return;
    const offset = request.u64(ReadIn.at.offset);
    try {
      this.#fetching.readOn(request.nodeid, offset, offset + length, (ino, from, bytes) =>
        server.volume.files.away(ino, from, bytes),
      );
    } catch (error) {
      // It is a favour, and says nothing about what was read.
      if (!(error instanceof FsError)) this.#logOnce(`reading ahead: ${textOf(error)}`);
    }
  }

  /** Blocks that were asked for can be read. Called from `onWake`. */
  arrived(blocks: readonly BlockNo[]): void {
    for (const message of this.#fetching?.arrived(blocks) ?? []) this.#again(message);
  }

  /** Blocks that were asked for cannot be had: who still needs one of them is told so. Called from `onWake`. */
  refused(blocks: readonly BlockNo[]): void {
    this.#vain = new Set(blocks);
    for (const message of this.#fetching?.refused(blocks) ?? []) this.#again(message);
    this.#vain = NO_BLOCKS;
  }

  #again(message: Uint8Array): void {
    this.#request.bytes.set(message);
    this.handle(message.length);
  }

  /** Who answers for a node that is hidden; undefined: the request was put off. @throws FsError ESTALE */
  #serverOf(request: Request): Server | undefined {
    if (this.#hidden === undefined) throw new FsError("ESTALE");
    if (request.opcode === PROTOCOL.MKDIR.code && this.#postpones(request)) return undefined;
    return this.#hidden.serverOf(request.nodeid);
  }

  /** Whether a snapshot waits for what only another thread can ask of the kernel, as that needs this one's answers. */
  #postpones(request: Request): boolean {
    const { onWriteBack } = this.#options;
    if (onWriteBack === undefined || this.#isWrittenBack) return false;
    this.#postponed.push(request.bytes.slice(0, request.len));
    onWriteBack();
    return true;
  }

  /** Answers what waited for that. Called from `onWake`. */
  writtenBack(): void {
    const waiting = this.#postponed;
    this.#postponed = [];
    this.#isWrittenBack = true;
    for (const message of waiting) this.#again(message);
    this.#isWrittenBack = false;
  }

  hiddenAt(parent: Ino, name: Uint8Array): HiddenName | undefined {
    return this.#hidden?.find(parent, name);
  }

  /** Lets go of the views of the past. */
  close(): void {
    this.#hidden?.close();
  }

  get delegates(): boolean {
    return this.#secondReader !== undefined && !this.#answersDelegated;
  }

  delegate(request: Request, plan: ReadPlan): boolean {
    if (this.#secondReader?.offer(request.unique0, request.unique1, plan) !== true) return false;
    this.#delegated.set(request.bytes.subarray(0, this.#delegated.length));
    return true;
  }

  /** The other thread could not answer a READ: it met damage, or what it looked for has changed. */
  #answerDelegated(): void {
    this.#request.bytes.set(this.#delegated);
    this.#answersDelegated = true;
    this.handle(this.#delegated.length);
    this.#answersDelegated = false;
  }

  /** The kernel did not take the reply (its connection is gone): then it counts no references for it either. */
  #undelivered(error: number): void {
    for (const ino of this.granted) this.forgotten(ino, 1);
    if (error !== -E.ENOENT && error !== -E.ENODEV) this.#onLog(`a reply was not taken: errno ${-error}`);
  }

  /** The one translation to an errno. What nobody foresaw is EIO and never ENOSYS, which the kernel would remember. */
  #errnoOf(error: unknown, operation: string): number {
    if (error instanceof FsError) {
      if (error.code === "EIO" || error.code === "EROFS") this.#lookForFailure();
      if (error.errno === E.EIO) this.counters[COUNTER.errors]! += 1;
      return error.errno;
    }
    this.counters[COUNTER.errors]! += 1;
    if (error instanceof DamageError) this.#logDamage(error, operation);
    else this.#onLog(`${operation}: ${textOf(error)}`);
    this.#lookForFailure();
    return E.EIO;
  }

  /** Once per file, by its path: a reader that tries again and again must not fill the log. */
  #logDamage(error: DamageError, operation: string): void {
    if (error.ino === undefined) {
      this.#onLog(`${operation}: ${error.message}`);
      return;
    }
    const ino = error.ino as Ino;
    if (this.#damaged.has(ino)) return;
    this.#damaged.add(ino);
    this.#onLog(`${operation}: ${this.volume.pathOf(ino) ?? `inode ${ino}`} is damaged: ${error.message}`);
  }

  /** For what would otherwise be said every second. */
  #logOnce(line: string): void {
    if (line !== this.#lastLine) this.#onLog(line);
    this.#lastLine = line;
  }

  #lookForFailure(): void {
    if (this.#failed || !this.volume.failed) return;
    this.#failed = true;
    this.counters[COUNTER.failed] = 1;
    const names = this.#touched;
    this.#touched = [];
    this.#options.onFailed?.({ inos: this.#held(), attributes: [], names, incEpoch: this.agreed.incEpoch });
  }

  /** The inodes that the kernel may keep something of: the root too, which it never asked for. */
  #held(): Ino[] {
    return [ROOT_INO, ...this.volume.inodes.referenced()];
  }

  /**
   * Another thread changed the volume: tells what the kernel may keep of the state before. All that was answered until now
   * is on its way, and all that follows is of the new state, so what is forgotten now is not learnt again. Called from
   * `onWake`.
   */
  changed({ everything, inodes, contents, entries }: Change): Stale {
    if (everything) return { inos: this.#held(), attributes: [], names: [], incEpoch: this.agreed.incEpoch };
    const held = new Set<number>(this.#held());
    const ofHeld = (inos: readonly number[]): Ino[] => inos.filter((ino) => held.has(ino)) as Ino[];
    const names = entries.filter(({ parent }) => held.has(parent)) as TouchedName[];
    return { inos: ofHeld(contents), attributes: ofHeld(inodes), names, incEpoch: false };
  }

  agree(offer: Offer): Agreement | undefined {
    const agreed = negotiate(offer, this.#wishes);
    if (agreed === undefined) {
      this.#onLog(`the kernel speaks FUSE ${offer.major}.${offer.minor}, which is too old`);
      return undefined;
    }
    this.agreed = agreed;
    this.counters[COUNTER.minor] = agreed.minor;
    if (this.#options.followed !== undefined && !agreed.incEpoch)
      this.timeoutSec = Math.min(this.timeoutSec, FOLLOWED_SEC);
    return agreed;
  }

  attributesChanged(ino: Ino): void {
    const message = invalAttributes(ino);
    this.#device.write(message, message.length);
  }

  listingChanged(directory: Ino): boolean {
    const isChanged = this.#changedListings.delete(directory);
    const state = this.#options.followed?.();
    if (state === undefined || this.#listedIn.get(directory) === state) return isChanged;
    this.#listedIn.set(directory, state);
    return true;
  }

  forgotten(ino: Ino, count: number): void {
    if (ino >= FIRST_HIDDEN) {
      this.#hidden?.forget(ino, count);
      return;
    }
    this.#changedListings.delete(ino);
    this.#listedIn.delete(ino);
    this.volume.inodes.unref(ino, count);
  }

  touch(parent: Ino, name: Uint8Array): void {
    this.#changedListings.add(parent);
    // One notification does for all names where the kernel knows it. After a failure nothing changes any more.
    if (this.agreed.incEpoch || this.#failed) return;
    this.#touched.push({ parent, name: name.slice() });
  }

  settled(): void {
    if (this.#touched.length > 0) this.#touched = [];
  }
}
