/**
 * Takes what a segment is made of to the remote: blocks that are not there yet, bundled into objects, and records.
 *
 * A block is known by the keyed hash of its content, so that equal content goes once, whatever file or epoch it is of. An
 * object is noted in the volume as soon as it is there: who stops on the way begins again without it. Objects whose way is
 * not over yet may be several; what was put is always whole.
 */
import { brotliCompressSync, constants } from "node:zlib";
import { DamageError } from "../base/errno.ts";
import { decoded } from "../core/codec.ts";
import type { RemoteOrder, ShippedBlock } from "../core/remotes.ts";
import type { Database } from "../db/database.ts";
import type { Statement } from "../db/statement.ts";
import type { RemoteStore } from "../remote/remote.ts";
import { ByteWriter } from "./bytes.ts";
import { encodeRecord, type LogRecord, type ObjectRef } from "./format.ts";
import { objectName } from "./names.ts";
import { hashOf, type SealedFile, type Sealer } from "./seal.ts";

/** An object with blocks is put when it has so many bytes. */
const OBJECT_BYTES = 4 * 2 ** 20;
/** An object with records, before compression. */
const RECORDS_BYTES = 2 ** 20;
/** Objects on their way at once. */
const FLIGHTS = 4;
/** Objects whose notes may be in a group that is still open: one has notes for some 4 MiB. */
const LANDED = 8;
/** Four times as fast as the default of 11 levels, for a tenth more. */
const BROTLI_QUALITY = 4;

/** What was put: for people. */
export interface Shipped {
  readonly objects: number;
  readonly bytes: number;
  readonly blocks: number;
}

/** Where some content is. */
interface Place extends ShippedBlock {
  readonly object: Uint8Array;
  readonly salt: Uint8Array;
}

/** Blocks that go into one object. */
interface Bundle {
  readonly file: SealedFile;
  readonly blocks: Map<string, ShippedBlock>;
  /** Which numbers have that content. */
  readonly numbers: [number: number, id: string][];
}

export class Shipper {
  readonly #db: Database;
  readonly #store: RemoteStore;
  readonly #sealer: Sealer;
  readonly #order: (order: RemoteOrder) => Promise<number>;
  readonly #remote: { readonly id: number; readonly name: string };
  readonly #block: Statement;
  readonly #known: Statement;
  readonly #records = new ByteWriter();
  readonly #flights = new Set<Promise<void>>();
  /** What is on its way, or was noted a moment ago, and so may not be committed yet. */
  readonly #flying = new Map<string, Place>();
  /** Objects that arrived, the last ones: what they hold is in #flying still. */
  #landed: string[][] = [];
  /** Numbers that this segment has told. */
  #told = new Set<number>();
  #refs: ObjectRef[] = [];
  #changes = 0;
  #blocks = 0;
  /** The object that the last record of that kind named. */
  #object: Uint8Array | undefined;
  #bundle: Bundle | undefined;
  #failure: unknown;
  #shipped = { objects: 0, bytes: 0, blocks: 0 };

  constructor(
    db: Database,
    store: RemoteStore,
    sealer: Sealer,
    remote: { readonly id: number; readonly name: string },
    order: (order: RemoteOrder) => Promise<number>,
  ) {
    this.#db = db;
    this.#store = store;
    this.#sealer = sealer;
    this.#remote = remote;
    this.#order = order;
    this.#block = db.prepare("SELECT codec, data FROM block WHERE id = ?1");
    this.#known = db.prepare(
      `SELECT b.place, b.length, b.codec, o.name, o.salt FROM remote_block AS b JOIN remote_object AS o ON o.number = b.object
         WHERE b.remote = ?1 AND b.id = ?2`,
    );
  }

  get shipped(): Shipped {
    return this.#shipped;
  }

  close(): void {
    for (const statement of [this.#block, this.#known]) this.#db.release(statement);
  }

  /** Takes a record, and the blocks that it names. @throws DamageError, LogError, SqliteError */
  async add(record: LogRecord): Promise<void> {
    this.#put(record);
    if (record.type === "extents")
      for (const number of record.blocks) if (number > 0) await this.#need(number);
    if (this.#records.length >= RECORDS_BYTES) await this.#sealRecords();
  }

  /** Waits until all is there, and tells what the segment is to say of it. @throws as add */
  async finish(): Promise<{ records: ObjectRef[]; changes: number; blocks: number }> {
    await this.#sealBundle();
    await this.#sealRecords();
    while (this.#flights.size > 0) await Promise.all(this.#flights);
    this.#refuse();
    const told = { records: this.#refs, changes: this.#changes, blocks: this.#blocks };
    this.startAgain();
    return told;
  }

  /** Forgets what was added since the last segment. Objects that are on their way are noted none the less. */
  startAgain(): void {
    this.#records.clear();
    this.#bundle = undefined;
    this.#refs = [];
    this.#told = new Set();
    this.#changes = this.#blocks = 0;
    this.#object = undefined;
  }

  /** Waits for what is on its way, after a failure. */
  async settle(): Promise<void> {
    await Promise.allSettled(this.#flights);
  }

  #put(record: LogRecord): void {
    encodeRecord(this.#records, record);
    this.#changes++;
  }

  /** A damaged page reads as zeros, and the connection alone knows. */
  #refuse(): void {
    if (this.#failure !== undefined) throw this.#failure;
    if (this.#db.isPoisoned) throw new DamageError("a page has a wrong HMAC");
  }

  async #need(number: number): Promise<void> {
    if (this.#told.has(number)) return;
    this.#told.add(number);
    const row = this.#block.bindInt(1, number);
    if (!row.step()) throw new DamageError(`block ${number} is missing`);
    const [codec, data] = [row.int(0), row.blob(1)];
    row.reset();
    const id = this.#sealer.blockId(decoded(codec, data));
    const hex = id.toString("hex");
    const place = this.#flying.get(hex) ?? this.#find(id, hex);
    if (place !== undefined) {
      this.#tell(number, place);
      return;
    }
    const bundle = this.#open();
    if (!bundle.blocks.has(hex)) {
      const at = bundle.file.add(data);
      bundle.blocks.set(hex, { id: hex, place: at, length: data.length, codec });
    }
    bundle.numbers.push([number, hex]);
    if (bundle.file.length >= OBJECT_BYTES) await this.#sealBundle();
  }

  #open(): Bundle {
    this.#bundle ??= { file: this.#sealer.file("blocks"), blocks: new Map(), numbers: [] };
    return this.#bundle;
  }

  #find(id: Uint8Array, hex: string): Place | undefined {
    const row = this.#known.bindInt(1, this.#remote.id).bindBlob(2, id);
    if (!row.step()) return undefined;
    const [place, length, codec, object, salt] = [
      row.int(0),
      row.int(1),
      row.int(2),
      row.blob(3),
      row.blob(4),
    ];
    row.reset();
    return { id: hex, place, length, codec, object, salt };
  }

  #tell(number: number, { id, place, length, codec, object, salt }: Place): void {
    if (this.#object === undefined || Buffer.compare(this.#object, object) !== 0)
      this.#put({ type: "object", name: object, salt });
    this.#object = object;
    this.#put({ type: "block", number, id: Buffer.from(id, "hex"), place, length, codec });
    this.#blocks++;
  }

  async #sealBundle(): Promise<void> {
    const bundle = this.#bundle;
    if (bundle === undefined) return;
    this.#bundle = undefined;
    this.#refuse();
    const bytes = bundle.file.bytes();
    const [object, { salt }] = [hashOf(bytes), bundle.file];
    for (const block of bundle.blocks.values()) this.#flying.set(block.id, { ...block, object, salt });
    for (const [number, id] of bundle.numbers) {
      const place = this.#flying.get(id);
      if (place !== undefined) this.#tell(number, place);
    }
    this.#shipped.blocks += bundle.blocks.size;
    await this.#launch(async () => {
      await this.#store.put(objectName(object), bytes);
      await this.#order({
        do: "shipped",
        name: this.#remote.name,
        object: object.toString("hex"),
        salt: Buffer.from(salt).toString("hex"),
        blocks: [...bundle.blocks.values()],
      });
      this.#land([...bundle.blocks.keys()]);
    }, bytes.length);
  }

  /** Forgets what was noted long enough ago to be committed by now: with the group, which is smaller. */
  #land(ids: string[]): void {
    this.#landed.push(ids);
    const old = this.#landed.length > LANDED ? this.#landed.shift() : undefined;
    for (const id of old ?? []) this.#flying.delete(id);
  }

  async #sealRecords(): Promise<void> {
    if (this.#records.length === 0) return;
    const content = brotliCompressSync(this.#records.take(), {
      params: { [constants.BROTLI_PARAM_QUALITY]: BROTLI_QUALITY },
    });
    this.#records.clear();
    const { bytes, salt } = this.#sealer.seal("records", content);
    const name = hashOf(bytes);
    this.#refs.push({ name, salt, length: bytes.length });
    await this.#launch(() => this.#store.put(objectName(name), bytes), bytes.length);
  }

  /** Begins a way, when there is room for one more. @throws what an earlier one met */
  async #launch(way: () => Promise<unknown>, bytes: number): Promise<void> {
    while (this.#flights.size >= FLIGHTS) await Promise.race(this.#flights);
    this.#refuse();
    this.#shipped.objects++;
    this.#shipped.bytes += bytes;
    const flight: Promise<void> = way()
      .then(() => {})
      .catch((error: unknown) => {
        this.#failure ??= error;
      })
      .finally(() => this.#flights.delete(flight));
    this.#flights.add(flight);
  }
}
