/**
 * One request to an S3-compatible store, signed, and its whole answer. What the network or the server does instead of
 * answering is a LogError; what the answer means is for who asked.
 */
import { createHash } from "node:crypto";
import { once } from "node:events";
import * as http from "node:http";
import * as https from "node:https";
import { AwsV4Signer } from "aws4fetch";
import { LogError, PASSING_CODES } from "./errors.ts";
import type { StoreOptions } from "./remote.ts";
import type { S3Address } from "./s3address.ts";

/** Without a byte either way for so long it is taken for dead. */
const SILENCE_MS = 30_000;
/** The longest answer that is read: a segment or object is far shorter. */
const MOST_BYTES = 512 * 2 ** 20;
/** Connections at once. */
const SOCKETS = 8;

export interface Answer {
  readonly status: number;
  readonly headers: http.IncomingHttpHeaders;
  readonly body: Buffer;
}

export interface Question {
  readonly method: "GET" | "HEAD" | "PUT" | "DELETE";
  /** Key of an object; empty: the bucket. */
  readonly key?: string;
  readonly query?: Readonly<Record<string, string>>;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: Uint8Array;
}

export class S3Client {
  readonly #url: string;
  readonly #address: S3Address;
  readonly #options: StoreOptions;
  readonly #silenceMs: number;
  readonly #agent: http.Agent;
  /** Keys of a day, which the signer derives. */
  readonly #signingKeys = new Map<string, ArrayBuffer>();

  /** `url` is for messages. */
  constructor(url: string, address: S3Address, options: StoreOptions, silenceMs = SILENCE_MS) {
    this.#url = url;
    this.#address = address;
    this.#options = options;
    this.#silenceMs = silenceMs;
    const { Agent } = address.root.protocol === "http:" ? http : https;
    this.#agent = new Agent({ keepAlive: true, maxSockets: SOCKETS });
  }

  /** @throws LogError unreachable; the signal's reason */
  async ask(question: Question): Promise<Answer> {
    try {
      return await this.#ask(question);
    } catch (error) {
      this.#options.signal?.throwIfAborted();
      throw error instanceof LogError ? error : this.#told(error);
    }
  }

  async #ask({ method, key = "", query = {}, headers = {}, body }: Question): Promise<Answer> {
    const { root } = this.#address;
    const url = new URL(root);
    if (key === "") url.pathname = url.pathname.replace(/(.)\/$/, "$1");
    else url.pathname += key;
    url.search = new URLSearchParams(query).toString();
    const signed = await this.#signed(method, url, headers, body);
    if (body !== undefined) signed["content-length"] = String(body.length);
    const { request: send } = url.protocol === "http:" ? http : https;
    const { signal } = this.#options;
    const request = send(url, {
      method,
      headers: signed,
      agent: this.#agent,
      ...(signal === undefined ? {} : { signal }),
    });
    let silence: Silence | undefined;
    let isRead = false;
    request.setTimeout(this.#silenceMs);
    request.on("timeout", () => {
      silence = new Silence();
      request.destroy(silence);
    });
    try {
      const answer = await this.#exchange(request, body);
      isRead = true;
      return answer;
    } catch (error) {
      throw silence ?? error;
    } finally {
      // Of an answer that was read to its end the connection stays.
      if (!isRead) request.destroy();
    }
  }

  async #exchange(request: http.ClientRequest, body: Uint8Array | undefined): Promise<Answer> {
    const answered = once(request, "response") as Promise<[http.IncomingMessage]>;
    // It is awaited when the body is on its way; and what fails later is heard of by who reads the answer.
    answered.catch(() => {});
    request.on("error", () => {});
    await this.#send(request, body);
    const [response] = await answered;
    return {
      status: response.statusCode ?? 0,
      headers: response.headers,
      body: await this.#read(request, response),
    };
  }

  async #signed(
    method: string,
    url: URL,
    headers: Readonly<Record<string, string>>,
    body: Uint8Array | undefined,
  ): Promise<Record<string, string>> {
    const { region, accessKeyId, secretAccessKey, sessionToken } = this.#address;
    const signer = new AwsV4Signer({
      method,
      url: url.href,
      // The server checks what came by this hash.
      headers: {
        ...headers,
        "x-amz-content-sha256": createHash("sha256")
          .update(body ?? "")
          .digest("hex"),
      },
      service: "s3",
      accessKeyId,
      secretAccessKey,
      cache: this.#signingKeys,
      ...(region === undefined ? {} : { region }),
      ...(sessionToken === undefined ? {} : { sessionToken }),
    });
    return Object.fromEntries((await signer.sign()).headers);
  }

  async #send(request: http.ClientRequest, body: Uint8Array | undefined): Promise<void> {
    const { throttle } = this.#options;
    if (body !== undefined && throttle !== undefined) {
      // Who answers before all is there will not take the rest.
      let isOver = false;
      for (const event of ["close", "response"])
        request.once(event, () => {
          isOver = true;
        });
      for (let from = 0; from < body.length && !isOver; from += throttle.pieceBytes) {
        const piece = body.subarray(from, from + throttle.pieceBytes);
        await this.#unhurried(request, piece.length);
        if (!isOver) await new Promise<void>((sent) => request.write(piece, () => sent()));
      }
      request.end();
    } else request.end(body);
  }

  async #read(request: http.ClientRequest, response: http.IncomingMessage): Promise<Buffer> {
    const pieces: Buffer[] = [];
    let length = 0;
    for await (const piece of response as AsyncIterable<Buffer>) {
      pieces.push(piece);
      length += piece.length;
      if (length > MOST_BYTES)
        throw new LogError("damaged", `${this.#url}: sends more than any file of a log has`);
      await this.#unhurried(request, piece.length);
    }
    return Buffer.concat(pieces, length);
  }

  /** Waits for what the limit allows: meanwhile silence means nothing. */
  async #unhurried(request: http.ClientRequest, bytes: number): Promise<void> {
    const { throttle } = this.#options;
    if (throttle === undefined) return;
    request.setTimeout(0);
    await throttle.take(bytes);
    request.setTimeout(this.#silenceMs);
  }

  #told(error: unknown): unknown {
    if (!(error instanceof Error)) return error;
    const { host } = this.#address.root;
    const code = "code" in error && typeof error.code === "string" ? error.code : "";
    const isPassing = error instanceof Silence || PASSING_CODES.has(code);
    return new LogError("unreachable", `${this.#url}: ${whatHappened(error, code, host)}`, {
      cause: error,
      isPassing,
    });
  }
}

class Silence extends Error {}

function whatHappened(error: Error, code: string, host: string): string {
  if (error instanceof Silence) return `${host} does not answer`;
  if (code === "ENOTFOUND") return `there is no host ${host}`;
  if (code === "EPROTO" || code.startsWith("ERR_SSL")) return `${host} does not speak TLS`;
  if (/CERT|^ERR_TLS|UNABLE_TO_VERIFY/.test(code))
    return `the certificate of ${host} is not trusted (${code})`;
  if (code.startsWith("HPE_")) return `${host} does not speak HTTP`;
  return `${host} cannot be reached (${code || error.message})`;
}
