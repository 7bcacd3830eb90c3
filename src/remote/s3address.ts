/**
 * Where an S3-compatible store is, and with which keys it is spoken to: `s3://BUCKET/PREFIX?endpoint=URL&region=NAME`.
 *
 * What the URL leaves out comes from the environment, by the names that AWS's own tools use. Keys come from there alone: a
 * URL is noted in the volume, and is seen by everybody who lists processes.
 */
import { BlockList, isIP } from "node:net";
import { LogError } from "./errors.ts";

export interface S3Address {
  /** What is before the names of objects: ends with a slash. */
  readonly root: URL;
  readonly bucket: string;
  /** In front of each name: empty, or ends with a slash. */
  readonly prefix: string;
  /** undefined: as the endpoint's name says, or us-east-1. */
  readonly region: string | undefined;
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly sessionToken: string | undefined;
}

type Environment = Readonly<Record<string, string | undefined>>;

/** @throws LogError unreachable; no message says anything that may be a secret */
export function addressOf(text: string, env: Environment): S3Address {
  const url = parsed(text);
  const bucket = url.hostname;
  const prefix = url.pathname.replace(/^\/+|\/+$/g, "");
  const shown = `s3://${bucket}`;
  // A dot or slash too many would be taken away on the way.
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]*$/.test(bucket) || !/^([A-Za-z0-9_-][A-Za-z0-9._-]*(\/|$))*$/.test(prefix))
    throw refused("a remote of this kind is s3://BUCKET/PREFIX, of letters, digits, . _ and -");
  for (const name of url.searchParams.keys())
    if (name !== "endpoint" && name !== "region")
      throw refused(`${shown}: only ?endpoint= and &region= may follow; keys come from the environment`);
  const { AWS_ACCESS_KEY_ID: id, AWS_SECRET_ACCESS_KEY: secret, AWS_SESSION_TOKEN: token } = env;
  if (!id || !secret)
    throw refused(`${shown}: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not in the environment`);
  const region = url.searchParams.get("region") || env.AWS_REGION || env.AWS_DEFAULT_REGION || undefined;
  const endpoint = url.searchParams.get("endpoint") || env.AWS_ENDPOINT_URL_S3 || env.AWS_ENDPOINT_URL;
  return {
    root: endpoint ? rootAt(endpoint, bucket, shown) : rootAtAws(bucket, region ?? "us-east-1"),
    bucket,
    prefix: prefix === "" ? "" : `${prefix}/`,
    region,
    accessKeyId: id,
    secretAccessKey: secret,
    sessionToken: token || undefined,
  };
}

function refused(message: string): LogError {
  return new LogError("unreachable", message);
}

function parsed(text: string): URL {
  if (!URL.canParse(text)) throw refused("a remote of this kind is s3://BUCKET/PREFIX?endpoint=URL");
  const url = new URL(text);
  if (url.username !== "" || url.password !== "")
    throw refused("no keys may stand in the URL of a remote: they come from the environment");
  if (url.port !== "" || url.hash !== "")
    throw refused("a remote of this kind is s3://BUCKET/PREFIX?endpoint=URL");
  return url;
}

/** Other stores than AWS have their buckets by path: not all of them have a name for each in the DNS. */
function rootAt(endpoint: string, bucket: string, shown: string): URL {
  const isUrl = /^https?:\/\//i.test(endpoint) && URL.canParse(endpoint);
  const url = isUrl ? new URL(endpoint) : undefined;
  if (url === undefined || url.username !== "" || url.password !== "" || url.search !== "" || url.hash !== "")
    throw refused(`${shown}: its endpoint is not a URL such as https://s3.example.com`);
  if (url.protocol === "http:" && !isNear(url.hostname))
    throw refused(`${shown}: http is for hosts of one's own network; use https for ${url.host}`);
  url.pathname = `${url.pathname.replace(/\/$/, "")}/${bucket}/`;
  return url;
}

function rootAtAws(bucket: string, region: string): URL {
  if (!/^[a-z0-9-]+$/.test(region))
    throw refused(`s3://${bucket}: its region is not one such as eu-central-1`);
  const host = `s3.${region}.amazonaws.com${region.startsWith("cn-") ? ".cn" : ""}`;
  // The certificates there are for one label in front.
  return bucket.includes(".") ? new URL(`https://${host}/${bucket}/`) : new URL(`https://${bucket}.${host}/`);
}

const NEAR = new BlockList();
for (const [net, bits] of [
  ["127.0.0.0", 8],
  ["10.0.0.0", 8],
  ["172.16.0.0", 12],
  ["192.168.0.0", 16],
  ["169.254.0.0", 16],
  ["100.64.0.0", 10],
] as const)
  NEAR.addSubnet(net, bits);
NEAR.addAddress("::1", "ipv6");
NEAR.addSubnet("fc00::", 7, "ipv6");
NEAR.addSubnet("fe80::", 10, "ipv6");

/**
 * Whether a host is of one's own network, by its address or name: what goes there in the clear is sealed, and no secret key,
 * but who is on the way could delete with a request that he saw.
 */
function isNear(host: string): boolean {
  const address = host.replace(/^\[|\]$/g, "");
  const version = isIP(address);
  if (version !== 0) return NEAR.check(address, version === 6 ? "ipv6" : "ipv4");
  return !host.includes(".") || /\.(localhost|local|lan|internal|home\.arpa)$/i.test(host);
}
