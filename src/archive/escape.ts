/**
 * Names and values as text that survives any bytes and stays readable: what prints stays as it is, everything else
 * is `\xHH`. Space and backslash are escaped too, so that a text has neither and a record splits at spaces.
 *
 * Texts are "latin1": one character per byte, so that UTF-8 passes through as its bytes.
 */

const PLAIN = /^[\x21-\x5b\x5d-\x7e]*$/;
const SPACE = 0x20;
const BACKSLASH = 0x5c;

/** Ranges of code points that do not show or change how others show. A fixed list: the text of a name never changes. */
const HIDDEN: readonly (readonly [number, number])[] = [
  [0x00, 0x20],
  [0x7f, 0xa0],
  [0xad, 0xad],
  [0x0600, 0x0605],
  [0x061c, 0x061c],
  [0x070f, 0x070f],
  [0x180e, 0x180e],
  [0x2000, 0x200f],
  [0x2028, 0x202f],
  [0x205f, 0x206f],
  [0x3000, 0x3000],
  [0xd800, 0xf8ff],
  [0xfe00, 0xfe0f],
  [0xfeff, 0xfeff],
  [0xfff0, 0xffff],
  [0xe0000, 0x10ffff],
];

/** `keep`: bytes that need not be escaped where the text goes. */
export function escapeBytes(bytes: Uint8Array, keep = ""): string {
  const raw = latin1(bytes);
  if (PLAIN.test(raw)) return raw;
  let text = "";
  for (let at = 0; at < bytes.length; ) {
    const length = shownLength(bytes, at);
    const part = raw.slice(at, at + Math.max(1, length));
    if (length > 0 || keep.includes(part)) text += part;
    else text += `\\x${(bytes[at] ?? 0).toString(16).padStart(2, "0")}`;
    at += part.length;
  }
  return text;
}

/** Bytes of the character at `at` where it may stand for itself, else 0. */
function shownLength(bytes: Uint8Array, at: number): number {
  const first = bytes[at] ?? 0;
  if (first < 0x80) return first > SPACE && first !== BACKSLASH && first !== 0x7f ? 1 : 0;
  const length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || at + length > bytes.length) return 0;
  let point = first & (0x7f >> length);
  for (let i = 1; i < length; i++) {
    const next = bytes[at + i] ?? 0;
    if ((next & 0xc0) !== 0x80) return 0;
    point = (point << 6) | (next & 0x3f);
  }
  const least = [0, 0, 0x80, 0x800, 0x10000][length] ?? 0;
  if (point < least || HIDDEN.some(([from, to]) => point >= from && point <= to)) return 0;
  return length;
}

/** The bytes of an escaped text; undefined where it is none. */
export function unescapeBytes(text: string): Buffer | undefined {
  if (!text.includes("\\")) return Buffer.from(text, "latin1");
  if (/\\(?!x[0-9a-f]{2})/.test(text)) return undefined;
  const plain = text.replace(/\\x(..)/g, (_, digits: string) =>
    String.fromCharCode(Number.parseInt(digits, 16)),
  );
  return Buffer.from(plain, "latin1");
}

/** For people, on a terminal or in a message: spaces stay, and the text is Unicode. */
export function showBytes(bytes: Uint8Array): string {
  return Buffer.from(escapeBytes(bytes, " "), "latin1").toString("utf8");
}

export function latin1(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("latin1");
}
