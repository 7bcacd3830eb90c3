/** How the files of a log are named, at whatever remote. */

const NUMBER_DIGITS = 16;

/** A number as the last part of a name: in the order of names it is in the order of numbers. */
export function numberName(number: number): string {
  return String(number).padStart(NUMBER_DIGITS, "0");
}

export function objectName(hash: Uint8Array): string {
  const hex = Buffer.from(hash).toString("hex");
  return `data/${hex.slice(0, 2)}/${hex}`;
}

/** Directory of a writer's segments. */
export function segmentsOf(writer: bigint): string {
  return `log/${writer.toString(16).padStart(16, "0")}/`;
}
