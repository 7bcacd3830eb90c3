/**
 * A remote that is a bucket of an S3-compatible object store, or what is below a prefix there.
 *
 * A put asks whether the name is free, and says to the store that it must be (If-None-Match). Not all stores heed that: AWS,
 * Ceph and others refuse a name that is taken, some answer that they cannot, some overwrite. Where it is not heeded two
 * writers could both win; that they do not rests on each writer having a prefix of its own, and a log one writer.
 */
import { LogError } from "./errors.ts";
import type { RemoteStore, StoredFile, StoreOptions } from "./remote.ts";
import { addressOf, type S3Address } from "./s3address.ts";
import { type Answer, type Question, S3Client } from "./s3http.ts";
import { errorOf, listOf } from "./s3xml.ts";

/** Beyond that a store refuses a request for its date. */
const SKEW_MS = 15 * 60_000;

/** What stores say that are full, or whose owner has no more. */
const FULL: ReadonlySet<string> = new Set(["QuotaExceeded", "XMinioStorageFull"]);

export interface S3Options extends StoreOptions {
  readonly env?: Readonly<Record<string, string | undefined>>;
  /** Milliseconds without a byte until a request is given up. */
  readonly silenceMs?: number;
}

export class S3Store implements RemoteStore {
  readonly url: string;
  /** For messages, which name the host where that matters. */
  readonly #shown: string;
  readonly #address: S3Address;
  readonly #client: S3Client;
  /** The last put of each name that is under way. */
  readonly #puts = new Map<string, Promise<boolean>>();
  /** Whether it said so far that it can refuse names that are taken. */
  #canRefuse = true;

  /** @throws LogError unreachable */
  constructor(url: string, options: S3Options = {}) {
    this.#address = addressOf(url, options.env ?? process.env);
    this.url = url;
    this.#shown = url.replace(/\?.*/, "");
    this.#client = new S3Client(this.#shown, this.#address, options, options.silenceMs);
  }

  async #ask(name: string, question: Omit<Question, "key">): Promise<Answer> {
    return await this.#client.ask({ ...question, key: this.#address.prefix + name });
  }

  async list(prefix: string): Promise<StoredFile[]> {
    const root = this.#address.prefix;
    const found: StoredFile[] = [];
    for (let token: string | undefined = ""; token !== undefined; ) {
      const more: Record<string, string> = token === "" ? {} : { "continuation-token": token };
      const query = { "list-type": "2", prefix: root + prefix, ...more };
      const answer = await this.#client.ask({ method: "GET", query });
      if (answer.status !== 200) throw this.#refusal(answer);
      const page = listOf(answer.body.toString());
      if (page === undefined || page.next === token) throw this.#strange("a list");
      for (const { name, size } of page.files) {
        if (!name.startsWith(root + prefix)) throw this.#strange("a list");
        // Some tools make such objects, to look like directories.
        if (!name.endsWith("/")) found.push({ name: name.slice(root.length), size });
      }
      token = page.next;
    }
    return found;
  }

  /** Of several at once from here one wins even where the store would let all: they go one after the other. */
  async put(name: string, bytes: Uint8Array): Promise<boolean> {
    const before = this.#puts.get(name) ?? Promise.resolve(false);
    const mine = before.catch(() => false).then(() => this.#put(name, bytes));
    this.#puts.set(name, mine);
    try {
      return await mine;
    } finally {
      if (this.#puts.get(name) === mine) this.#puts.delete(name);
    }
  }

  async #put(name: string, bytes: Uint8Array): Promise<boolean> {
    const there = await this.#ask(name, { method: "HEAD" });
    if (there.status === 200) return false;
    if (there.status !== 404) throw this.#refusal(there);
    const headers = { "content-type": "application/octet-stream" };
    if (this.#canRefuse) {
      const answer = await this.#ask(name, {
        method: "PUT",
        headers: { ...headers, "if-none-match": "*" },
        body: bytes,
      });
      if (answer.status === 412) return false;
      if (answer.status !== 501) return this.#isPut(answer);
      this.#canRefuse = false;
    }
    return this.#isPut(await this.#ask(name, { method: "PUT", headers, body: bytes }));
  }

  #isPut(answer: Answer): true {
    if (answer.status !== 200) throw this.#refusal(answer);
    // Something between here and there that answers everything well is no store.
    if (answer.headers.etag === undefined) throw this.#strange("a PUT");
    return true;
  }

  async get(name: string, from = 0, length?: number): Promise<Buffer | undefined> {
    if (length === 0) return await this.#getNothing(name);
    const isPart = from > 0 || length !== undefined;
    const range = `bytes=${from}-${length === undefined ? "" : from + length - 1}`;
    const answer = await this.#ask(name, { method: "GET", ...(isPart ? { headers: { range } } : {}) });
    if (answer.status === 404 && errorOf(answer.body).code !== "NoSuchBucket") return undefined;
    if (answer.status === 416) return Buffer.alloc(0);
    if (answer.status === 200)
      return answer.body.subarray(from, length === undefined ? undefined : from + length);
    if (answer.status !== 206) throw this.#refusal(answer);
    const [, first, total] = /^bytes (\d+)-\d+\/(\d+)$/.exec(answer.headers["content-range"] ?? "") ?? [];
    const wanted = Math.min(length ?? Infinity, Number(total) - from);
    if (Number(first) !== from || answer.body.length !== wanted) throw this.#strange("a range");
    return answer.body;
  }

  /** No range says that. */
  async #getNothing(name: string): Promise<Buffer | undefined> {
    const { status } = await this.#ask(name, { method: "HEAD" });
    return status === 404 ? undefined : Buffer.alloc(0);
  }

  async remove(name: string): Promise<void> {
    const answer = await this.#ask(name, { method: "DELETE" });
    const isGone = answer.status === 404 && errorOf(answer.body).code !== "NoSuchBucket";
    if (answer.status !== 204 && answer.status !== 200 && !isGone) throw this.#refusal(answer);
  }

  #strange(what: string): LogError {
    const { host } = this.#address.root;
    return new LogError("unreachable", `${this.#shown}: ${host} answers ${what} as no object store does`);
  }

  /** What an answer that is no success means. */
  #refusal({ status, headers, body }: Answer): LogError {
    const { code, region } = errorOf(body);
    const { bucket, root, accessKeyId } = this.#address;
    const isPassing =
      status >= 500 || status === 429 || status === 408 || status === 409 || code === "RequestTimeout";
    const told = (what: string): LogError =>
      new LogError("unreachable", `${this.#shown}: ${what}`, { isPassing });
    if (status === 507 || (code !== undefined && FULL.has(code)))
      return new LogError("no-space", `${this.#shown}: there is no space left (${code ?? status})`);
    const elsewhere = region ?? headers["x-amz-bucket-region"];
    if (code === "NoSuchBucket") return told(`there is no bucket ${bucket}: make it first`);
    const skewMs = Math.abs(Date.now() - Date.parse(headers.date ?? ""));
    if (code === "RequestTimeTooSkewed" || (status === 403 && skewMs > SKEW_MS))
      return told(`this machine's clock is not the server's, which says ${headers.date ?? "another time"}`);
    if (code === "InvalidAccessKeyId") return told(`no access key ${accessKeyId} is known there`);
    if (code === "SignatureDoesNotMatch")
      return told(`the secret key is not that of the access key ${accessKeyId}`);
    if (code === "ExpiredToken" || code === "InvalidToken")
      return told(`AWS_SESSION_TOKEN is over (${code})`);
    if (typeof elsewhere === "string" && (status === 301 || status === 307 || status === 400))
      return told(`the bucket is in the region ${elsewhere}: say so by ?region=${elsewhere}`);
    if (status === 401 || status === 403)
      return told(`the access key ${accessKeyId} may not do that (${code ?? status})`);
    return told(`${root.host} answers ${status}${code === undefined ? "" : ` ${code}`}`);
  }
}
