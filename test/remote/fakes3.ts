/**
 * An S3-compatible server in memory, of one bucket, that fails where a test wants it to, and counts what it is asked. It
 * checks the signature of each request and the hash of each body, as real ones do.
 */
import { createHash } from "node:crypto";
import * as http from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { AwsV4Signer } from "aws4fetch";

/** What it does instead of what it is asked, or after it. */
export type Fault =
  /** An answer with that status and error code. */
  | {
      readonly status: number;
      readonly code?: string;
      readonly headers?: Record<string, string>;
      readonly body?: string;
    }
  /** The connection is cut: before anything is done, after it, or in the middle of the answer's body. */
  | "cut before"
  | "cut after"
  | "cut within"
  /** No answer comes. */
  | "hang";

export interface FakeOptions {
  /** What becomes of If-None-Match. */
  readonly conditional?: "heeded" | "refused" | "ignored";
  /** Names on a page of a list. */
  readonly pageSize?: number;
  /** Asked before each request. */
  readonly fault?: (request: Asked) => Fault | undefined;
}

interface Asked {
  readonly method: string;
  /** Key of the object; empty: the bucket. */
  readonly key: string;
  /** Requests of this method so far, with this one. */
  readonly count: number;
}

export const KEYS = { AWS_ACCESS_KEY_ID: "TESTKEY", AWS_SECRET_ACCESS_KEY: "TESTSECRET" };
export const BUCKET = "bucket";

export class FakeS3 {
  readonly files = new Map<string, Buffer>();
  readonly counts: Record<string, number> = {};
  /** Bytes of bodies that came, and that went. */
  bytesIn = 0;
  bytesOut = 0;
  options: FakeOptions;
  readonly #server: http.Server;
  readonly #sockets = new Set<Socket>();

  private constructor(options: FakeOptions) {
    this.options = options;
    this.#server = http.createServer((request, response) => void this.#serve(request, response));
    this.#server.on("connection", (socket) => {
      this.#sockets.add(socket);
      socket.on("close", () => this.#sockets.delete(socket));
      socket.on("error", () => {});
    });
  }

  static async start(options: FakeOptions = {}): Promise<FakeS3> {
    const fake = new FakeS3(options);
    await new Promise<void>((resolve) => fake.#server.listen(0, "127.0.0.1", resolve));
    return fake;
  }

  get endpoint(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  url(prefix = "prefix"): string {
    return `s3://${BUCKET}/${prefix}?endpoint=${this.endpoint}`;
  }

  async stop(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  async #serve(request: http.IncomingMessage, response: http.ServerResponse): Promise<void> {
    const method = request.method ?? "";
    const url = new URL(request.url ?? "", this.endpoint);
    const [, bucket = "", key = ""] = /^\/([^/]*)\/?(.*)$/.exec(url.pathname) ?? [];
    this.counts[method] = (this.counts[method] ?? 0) + 1;
    const fault = this.options.fault?.({ method, key, count: this.counts[method] ?? 0 });
    if (fault === "cut before") return void request.socket.destroy();
    const body = await bodyOf(request).catch(() => undefined);
    if (body === undefined || fault === "hang") return;
    this.bytesIn += body.length;
    if (typeof fault === "object")
      return this.#end(
        request,
        response,
        fault.status,
        fault.body ?? errorXml(fault.code ?? ""),
        fault.headers,
      );
    const refused = await refusal(request, url, body);
    if (refused !== undefined) return this.#end(request, response, 403, errorXml(refused));
    if (bucket !== BUCKET) return this.#end(request, response, 404, errorXml("NoSuchBucket"));
    const [status, content, headers] = this.#answer(request, url, key, body);
    if (fault === "cut after") return void request.socket.destroy();
    if (fault === "cut within") {
      response.writeHead(status, { ...headers, "content-length": content.length });
      response.write(content.subarray(0, content.length / 2), () => request.socket.destroy());
      return;
    }
    this.#end(request, response, status, content, headers);
  }

  #end(
    request: http.IncomingMessage,
    response: http.ServerResponse,
    status: number,
    content: Buffer | string,
    headers: Record<string, string> = {},
  ): void {
    const bytes = request.method === "HEAD" ? Buffer.alloc(0) : Buffer.from(content);
    this.bytesOut += bytes.length;
    response.writeHead(status, { "content-length": bytes.length, ...headers }).end(bytes);
  }

  #answer(
    { method, headers }: http.IncomingMessage,
    url: URL,
    key: string,
    body: Buffer,
  ): [status: number, content: Buffer, headers?: Record<string, string>] {
    const { conditional = "heeded" } = this.options;
    const file = this.files.get(key);
    if (key === "") return [200, this.#list(url.searchParams)];
    if (method === "PUT") {
      const isConditional = headers["if-none-match"] === "*";
      if (isConditional && conditional === "refused") return [501, Buffer.from(errorXml("NotImplemented"))];
      if (isConditional && conditional === "heeded" && file !== undefined)
        return [412, Buffer.from(errorXml("PreconditionFailed"))];
      this.files.set(key, body);
      return [200, Buffer.alloc(0), { etag: `"${createHash("md5").update(body).digest("hex")}"` }];
    }
    if (method === "DELETE") {
      this.files.delete(key);
      return [204, Buffer.alloc(0)];
    }
    if (file === undefined) return [404, Buffer.from(errorXml("NoSuchKey"))];
    const [, from, end] = /^bytes=(\d+)-(\d*)$/.exec(headers.range ?? "") ?? [];
    if (from === undefined) return [200, file];
    if (Number(from) >= file.length) return [416, Buffer.from(errorXml("InvalidRange"))];
    const part = file.subarray(Number(from), end === "" ? undefined : Number(end) + 1);
    const range = `bytes ${from}-${Number(from) + part.length - 1}/${file.length}`;
    return [206, part, { "content-range": range }];
  }

  #list(query: URLSearchParams): Buffer {
    const { pageSize = 1000 } = this.options;
    const after = Buffer.from(query.get("continuation-token") ?? "", "base64").toString();
    const names = [...this.files.keys()].filter((name) => name.startsWith(query.get("prefix") ?? "")).sort();
    const left = names.filter((name) => name > after);
    const page = left.slice(0, pageSize);
    const contents = page.map(
      (name) =>
        `<Contents><Key>${name.replace(/&/g, "&amp;")}</Key><ETag>&quot;x&quot;</ETag><Size>${this.files.get(name)?.length}</Size></Contents>`,
    );
    const isTruncated = left.length > page.length;
    const next = isTruncated
      ? `<NextContinuationToken>${Buffer.from(page.at(-1) ?? "").toString("base64")}</NextContinuationToken>`
      : "";
    return Buffer.from(
      `<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">` +
        `<Name>${BUCKET}</Name><IsTruncated>${isTruncated}</IsTruncated>${next}${contents.join("")}</ListBucketResult>`,
    );
  }
}

function errorXml(code: string): string {
  return `<?xml version="1.0"?><Error><Code>${code}</Code><Message>&lt;no&gt;</Message></Error>`;
}

async function bodyOf(request: http.IncomingMessage): Promise<Buffer> {
  const pieces: Buffer[] = [];
  for await (const piece of request as AsyncIterable<Buffer>) pieces.push(piece);
  return Buffer.concat(pieces);
}

/** The error code with which a real server would refuse the keys, the signature or the body. */
async function refusal({ method = "", headers }: http.IncomingMessage, url: URL, body: Buffer) {
  const authorization = headers.authorization ?? "";
  const [, id, region] = /Credential=([^/]*)\/\d{8}\/([^/]*)\/s3\/aws4_request/.exec(authorization) ?? [];
  const [, names = ""] = /SignedHeaders=([^,]*)/.exec(authorization) ?? [];
  if (id !== KEYS.AWS_ACCESS_KEY_ID) return "InvalidAccessKeyId";
  const hash = String(headers["x-amz-content-sha256"]);
  if (hash !== createHash("sha256").update(body).digest("hex")) return "XAmzContentSHA256Mismatch";
  if (headers["if-none-match"] !== undefined && !names.includes("if-none-match")) return "AccessDenied";
  const given = names.split(";").filter((name) => name !== "host" && name !== "x-amz-date");
  const signer = new AwsV4Signer({
    method,
    url: url.href,
    headers: Object.fromEntries(given.map((name) => [name, String(headers[name])])),
    service: "s3",
    region: region ?? "",
    accessKeyId: id,
    secretAccessKey: KEYS.AWS_SECRET_ACCESS_KEY,
    datetime: String(headers["x-amz-date"]),
  });
  const expected = (await signer.sign()).headers.get("authorization");
  return expected === authorization ? undefined : "SignatureDoesNotMatch";
}
