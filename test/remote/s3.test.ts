/** An S3-compatible store as a remote, against a server in memory that fails as real ones do. */
import { describe, expect, it } from "vitest";
import { LogError } from "../../src/remote/errors.ts";
import { type S3Options, S3Store } from "../../src/remote/s3.ts";
import { addressOf } from "../../src/remote/s3address.ts";
import { listOf } from "../../src/remote/s3xml.ts";
import { Throttle } from "../../src/remote/throttle.ts";
import { CONTRACT } from "./contract.ts";
import { BUCKET, type FakeOptions, FakeS3, type Fault, KEYS } from "./fakes3.ts";

const b = (text: string) => Buffer.from(text);

async function inStore(
  run: (store: S3Store, fake: FakeS3) => Promise<void>,
  options: FakeOptions = {},
  given: S3Options = {},
): Promise<void> {
  const fake = await FakeS3.start(options);
  try {
    await run(new S3Store(fake.url(), { env: KEYS, ...given }), fake);
  } finally {
    await fake.stop();
  }
}

/** Everything that a call may be answered with, once. */
const once =
  (fault: Fault, method = ""): NonNullable<FakeOptions["fault"]> =>
  (asked) =>
    (method === "" || asked.method === method) && asked.count === 1 ? fault : undefined;

async function failure(run: Promise<unknown>): Promise<LogError> {
  const error: unknown = await run.then(
    () => undefined,
    (met: unknown) => met,
  );
  expect(error).toBeInstanceOf(LogError);
  return error as LogError;
}

describe.each([
  ["that refuses names that are taken", { conditional: "heeded" }],
  ["that says that it cannot refuse them", { conditional: "refused" }],
  ["that overwrites silently", { conditional: "ignored" }],
  ["that lists seven at a time", { pageSize: 7 }],
] as const)("a store %s", (_, options) => {
  it.each(Object.entries(CONTRACT))("%s", (_, run) => inStore(run, options));
});

describe("a store", () => {
  it("has all names below the prefix, and no others", () =>
    inStore(async (store, fake) => {
      fake.files.set("prefixed", b("x")).set("log/1", b("x")).set("prefix/log/", b(""));
      await store.put("log/1", b("1"));
      expect([...fake.files.keys()]).toContain("prefix/log/1");
      expect(await store.list("log/")).toEqual([{ name: "log/1", size: 1 }]);
      const whole = new S3Store(`s3://${BUCKET}?endpoint=${fake.endpoint}`, { env: KEYS });
      await whole.put("key/1", b("22"));
      expect(fake.files.get("key/1")?.toString()).toBe("22");
    }));

  it("is not asked twice for what it said that it cannot do", () =>
    inStore(
      async (store, fake) => {
        for (let i = 0; i < 5; i++) await store.put(`log/${i}`, b("x"));
        expect(fake.counts).toEqual({ HEAD: 5, PUT: 6 });
      },
      { conditional: "refused" },
    ));

  it("that refuses lets one of two processes win that put the same name at once", () =>
    inStore(async (store, fake) => {
      const others = Array.from({ length: 8 }, () => new S3Store(fake.url(), { env: KEYS }));
      const won = await Promise.all([store, ...others].map((one, i) => one.put("log/1", b(`${i}`))));
      expect(won.filter((isFirst) => isFirst)).toHaveLength(1);
      expect(fake.files.get("prefix/log/1")?.toString()).toBe(`${won.indexOf(true)}`);
    }));

  it.each([
    [{ status: 500, code: "InternalError" }, /answers 500 InternalError$/],
    [{ status: 503, code: "SlowDown" }, /answers 503 SlowDown$/],
    [{ status: 429 }, /answers 429$/],
    [{ status: 409, code: "ConditionalRequestConflict" }, /answers 409/],
    ["cut before", /cannot be reached \(ECONNRESET\)$/],
    ["cut after", /cannot be reached \(ECONNRESET\)$/],
    ["cut within", /cannot be reached \(ECONNRESET\)$/],
    ["hang", /does not answer$/],
  ] as readonly (readonly [Fault, RegExp])[])("that meets what passes says so: %o", (fault, message) =>
    inStore(
      async (store) => {
        const error = await failure(store.list("log/"));
        expect(error).toMatchObject({ reason: "unreachable", isPassing: true });
        expect(error.message).toMatch(message);
        expect(await store.list("log/")).toEqual([]);
      },
      { fault: once(fault) },
      { silenceMs: 200 },
    ),
  );

  it.each([
    [{ status: 403, code: "AccessDenied" }, /the access key TESTKEY may not do that \(AccessDenied\)/],
    [
      { status: 403, headers: { date: "Sat, 01 Jan 2000 00:00:00 GMT" } },
      /clock is not the server's, which says Sat/,
    ],
    [{ status: 403, code: "ExpiredToken" }, /AWS_SESSION_TOKEN is over/],
    [{ status: 301, headers: { "x-amz-bucket-region": "eu-west-9" } }, /say so by \?region=eu-west-9/],
    [{ status: 400, body: "<Error><Code>X</Code><Region>eu-west-9</Region></Error>" }, /region eu-west-9/],
    [{ status: 418 }, /answers 418$/],
    [{ status: 200, body: "<html>log in first</html>" }, /answers a list as no object store does/],
    [{ status: 200, body: "<ListBucketResult></ListBucketResult>" }, /answers a list as no/],
  ] as readonly (readonly [Fault, RegExp])[])("that refuses is told in one line: %o", (fault, message) =>
    inStore(
      async (store) => {
        const error = await failure(store.list("log/"));
        expect(error).toMatchObject({ reason: "unreachable", isPassing: false });
        expect(error.message).toMatch(message);
        expect(error.message).not.toMatch(/\n|TESTSECRET/);
      },
      { fault: once(fault) },
    ),
  );

  it("that answers everything well, as a page to log in at, has put nothing", () =>
    inStore(
      async (store) => {
        expect((await failure(store.put("log/1", b("x")))).message).toMatch(
          /answers a PUT as no object store/,
        );
      },
      { fault: ({ method }) => (method === "PUT" ? { status: 200, body: "<html>" } : undefined) },
    ));

  it("that knows no ranges gives the part all the same, and a wrong part is refused", () =>
    inStore(async (store, fake) => {
      await store.put("log/1", b("0123456789"));
      const whole = { status: 200, body: "0123456789" };
      const wrong = { status: 206, body: "345", headers: { "content-range": "bytes 3-5/10" } };
      fake.options = {
        fault: ({ method, count }) => (method !== "GET" ? undefined : count === 1 ? whole : wrong),
      };
      expect((await store.get("log/1", 3, 4))?.toString()).toBe("3456");
      expect((await failure(store.get("log/1", 3, 4))).message).toMatch(/answers a range as no/);
    }));

  it("whose list never ends, or tells of other names, is refused", () =>
    inStore(async (store, fake) => {
      const page = (name: string) =>
        `<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>same</NextContinuationToken><Contents><Key>${name}</Key><Size>1</Size></Contents></ListBucketResult>`;
      fake.options = { fault: () => ({ status: 200, body: page("prefix/log/1") }) };
      expect((await failure(store.list("log/"))).message).toMatch(/answers a list/);
      fake.options = { fault: () => ({ status: 200, body: page("other") }) };
      expect((await failure(store.list("log/"))).message).toMatch(/answers a list/);
    }));

  it("is told from one that is not there: wrong keys, no bucket, no host, nobody at the port", () =>
    inStore(async (_, fake) => {
      const at = (url: string, env: Record<string, string> = {}) =>
        failure(new S3Store(url, { env: { ...KEYS, ...env } }).list("log/"));
      const other = (await FakeS3.start()) satisfies FakeS3;
      const nobody = other.endpoint;
      await other.stop();
      expect((await at(fake.url(), { AWS_ACCESS_KEY_ID: "OTHER" })).message).toMatch(
        /no access key OTHER is known/,
      );
      expect((await at(fake.url(), { AWS_SECRET_ACCESS_KEY: "OTHER" })).message).toMatch(
        /the secret key is not that of the access key TESTKEY$/,
      );
      expect((await at(`s3://none/x?endpoint=${fake.endpoint}`)).message).toMatch(/there is no bucket none/);
      expect(await at(`s3://b/x?endpoint=${nobody}`)).toMatchObject({ isPassing: true });
      const absent = await at("s3://b/x?endpoint=https://no-such-host.invalid");
      expect(absent.message).toMatch(/there is no host no-such-host.invalid|EAI_AGAIN/);
      const plain = await at(`s3://b/x?endpoint=${fake.endpoint.replace("http:", "https:")}`);
      expect(plain.message).toMatch(/does not speak TLS/);
      expect(plain.isPassing).toBe(false);
    }));

  it.each([
    { status: 507, code: "XMinioStorageFull" },
    { status: 403, code: "QuotaExceeded" },
  ])("that is full is told so, and not asked again: $code", (answer) =>
    inStore(
      async (store) =>
        expect(await failure(store.put("log/1", b("x")))).toMatchObject({
          reason: "no-space",
          isPassing: false,
          message: expect.stringContaining("there is no space left") as string,
        }),
      { fault: ({ method }) => (method === "PUT" ? answer : undefined) },
    ),
  );

  it("is left at once by a signal, whatever is under way", () =>
    inStore(
      async (_, fake) => {
        const controller = new AbortController();
        const store = new S3Store(fake.url(), { env: KEYS, signal: controller.signal });
        const reason = new Error("stopped");
        setTimeout(() => controller.abort(reason), 50);
        await expect(store.get("log/1")).rejects.toBe(reason);
        await expect(store.put("log/1", b("x"))).rejects.toBe(reason);
      },
      { fault: () => "hang" },
    ));

  it("moves no more bytes than its limit lets it, both ways", () =>
    inStore(async (_, fake) => {
      let nowMs = 0;
      const timing = {
        now: () => nowMs,
        sleep: async (ms: number) => {
          nowMs += ms;
        },
      };
      const throttle = new Throttle(100_000, undefined, timing);
      const store = new S3Store(fake.url(), { env: KEYS, throttle });
      await store.put("log/1", Buffer.alloc(500_000));
      expect(nowMs).toBeGreaterThan(4_700);
      expect((await store.get("log/1"))?.length).toBe(500_000);
      expect(nowMs).toBeGreaterThan(9_700);
      expect(nowMs).toBeLessThan(10_100);
    }));
});

describe("a URL of a store", () => {
  const at = (url: string, env: Record<string, string> = {}) => addressOf(url, { ...KEYS, ...env });

  it("names the bucket, the prefix, and where they are", () => {
    expect(at("s3://vaults/ann/home")).toMatchObject({
      bucket: "vaults",
      prefix: "ann/home/",
      region: undefined,
    });
    expect(at("s3://vaults").root.href).toBe("https://vaults.s3.us-east-1.amazonaws.com/");
    expect(at("s3://vaults/", { AWS_REGION: "eu-central-1" }).root.href).toBe(
      "https://vaults.s3.eu-central-1.amazonaws.com/",
    );
    expect(at("s3://my.vaults?region=cn-north-1").root.href).toBe(
      "https://s3.cn-north-1.amazonaws.com.cn/my.vaults/",
    );
    for (const url of ["s3://vaults/ann/", "s3://vaults//ann//"]) expect(at(url).prefix).toBe("ann/");
    expect(at("s3://vaults//").prefix).toBe("");
    const minio = at("s3://vaults/x?endpoint=http://nas:9000/s3/&region=garage", { AWS_REGION: "other" });
    expect(minio).toMatchObject({ region: "garage", prefix: "x/" });
    expect(minio.root.href).toBe("http://nas:9000/s3/vaults/");
  });

  it("leaves what it does not say to the environment, and the one for S3 alone counts more", () => {
    const endpoint = "https://s3.example.com";
    expect(at("s3://b", { AWS_ENDPOINT_URL: endpoint }).root.href).toBe(`${endpoint}/b/`);
    const both = { AWS_ENDPOINT_URL: "https://other.example.com", AWS_ENDPOINT_URL_S3: endpoint };
    expect(at("s3://b", both).root.href).toBe(`${endpoint}/b/`);
    expect(at("s3://b", { AWS_DEFAULT_REGION: "eu-west-1" }).region).toBe("eu-west-1");
    expect(at("s3://b", { AWS_SESSION_TOKEN: "t" }).sessionToken).toBe("t");
  });

  it.each([
    ["s3://KEYID:SECRET@b/x", /no keys may stand in the URL/],
    ["s3://b/x?secret=SECRET", /only \?endpoint= and &region=/],
    ["s3://b/x?endpoint=https://KEYID:SECRET@s3.example.com", /not a URL such as/],
    ["s3://b/x?endpoint=s3.example.com", /not a URL such as/],
    ["s3://b/a//b", /of letters, digits/],
    ["s3://b/a b", /of letters, digits/],
    ["s3://b/ä", /of letters, digits/],
    ["s3://b/x/.hidden", /of letters, digits/],
    ["s3:///x", /s3:\/\/BUCKET\/PREFIX/],
    ["s3:b", /s3:\/\/BUCKET\/PREFIX/],
    ["s3://b?region=eu/../evil.example.com", /region/],
  ])("is refused where it cannot be meant, without repeating a secret: %s", (url, message) => {
    expect(() => at(url)).toThrow(message);
    expect(() => at(url)).not.toThrow(/SECRET/);
  });

  it("without keys in the environment says which they are", () => {
    expect(() => addressOf("s3://b", {})).toThrow(/AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not in/);
  });

  it.each(["localhost", "127.0.0.1:9000", "192.168.1.5", "[fd00::1]:9000", "nas", "nas.local"])(
    "may be plain http on one's own network: %s",
    (host) => expect(at(`s3://b?endpoint=http://${host}`).root.protocol).toBe("http:"),
  );

  it.each(["example.com", "8.8.8.8", "[2001:db8::1]", "172.32.0.1", "localhost.example.com"])(
    "may not be plain http elsewhere: %s",
    (host) => expect(() => at(`s3://b?endpoint=http://${host}`)).toThrow(/use https for/),
  );
});

describe("a list", () => {
  it("is read with names that stand in XML in other words", () => {
    const xml = `<ListBucketResult xmlns="x"><IsTruncated>false</IsTruncated><Contents><Size>3</Size><Key>a&amp;b&#x63;&#100;&lt;</Key></Contents></ListBucketResult>\n`;
    expect(listOf(xml)).toEqual({ files: [{ name: "a&bcd<", size: 3 }], next: undefined });
    expect(listOf(xml.replace("3</Size>", "-3</Size>"))).toBeUndefined();
    expect(listOf(xml.slice(0, -20))).toBeUndefined();
  });
});
