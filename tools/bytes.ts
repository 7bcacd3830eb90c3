/** A number of bytes, as users write it. */
import { EXIT, ToolError } from "./exitcodes.ts";

const UNIT_BYTES: Record<string, number> = { "": 1, K: 2 ** 10, M: 2 ** 20, G: 2 ** 30, T: 2 ** 40 };
const MOST = "8192T";

/** "10G" as bytes; `what` is what it was given for. @throws ToolError usage, with `example`, where it is none from `least` to `most` */
export function parseBytes(what: string, text: string, least = "1", most = MOST, example = "20G"): number {
  const bytes = bytesOf(text);
  if (bytes >= bytesOf(least) && bytes <= bytesOf(most)) return bytes;
  const range = most === MOST ? "" : ` from ${least} to ${most}`;
  throw new ToolError(EXIT.usage, `${what} "${text}": not a number of bytes${range}, such as ${example}`);
}

function bytesOf(text: string): number {
  const [, digits, unit = ""] = /^(\d{1,15})([KMGT]?)$/i.exec(text) ?? [];
  return Number(digits) * (UNIT_BYTES[unit.toUpperCase()] ?? Number.NaN);
}
