/** One line for a request and one for its reply, laid out from the protocol's table. For people only. */
import { getSystemErrorName } from "node:util";
import { InHeader, OutHeader } from "./kernel.ts";
import type { Field, Layout } from "./layout.ts";
import type { Reply, Request } from "./message.ts";
import type { Operation } from "./protocol.ts";

type Row = (Operation & { readonly name: string }) | undefined;

/** `field=value` of a structure at `offset`; what is zero is left out. */
function fields(view: DataView, offset: number, of: Layout): string[] {
  const words: string[] = [];
  for (const [name, field] of Object.entries(of.fields)) {
    const at = offset + (of.at[name] ?? 0);
    if (typeof field === "object" && "size" in field) {
      words.push(...fields(view, at, field));
      continue;
    }
    const value = scalar(view, at, field);
    if (value !== 0n) words.push(`${name}=${name === "mode" ? `0${value.toString(8)}` : value}`);
  }
  return words;
}

function scalar(view: DataView, at: number, field: Field): bigint {
  switch (field) {
    case "u16":
      return BigInt(view.getUint16(at, true));
    case "i32":
      return BigInt(view.getInt32(at, true));
    case "u32":
      return BigInt(view.getUint32(at, true));
    case "i64":
      return view.getBigInt64(at, true);
    case "u64":
      return view.getBigUint64(at, true);
    default:
      return 0n;
  }
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** Texts up to their NULs, quoted so that any byte is visible. */
function texts(bytes: Uint8Array): string {
  const parts = Buffer.from(bytes).toString("latin1").split("\0");
  if (parts.at(-1) === "") parts.pop();
  return parts.map((part) => JSON.stringify(part)).join(" ");
}

export function traceRequest(request: Request, row: Row): string {
  const words = [
    `> ${request.unique}`,
    row?.name ?? `opcode ${request.opcode}`,
    `node=${request.u64(InHeader.at.nodeid - InHeader.size)}`,
    `uid=${request.uid}`,
    `pid=${request.pid}`,
  ];
  if (row !== undefined && request.length >= row.in.size) {
    words.push(...fields(viewOf(request.bytes), InHeader.size, row.in));
    const tail = request.data(row.in.size, request.length - row.in.size);
    if (row.tail === "name" || row.tail === "names") words.push(texts(tail));
    else if (tail.length > 0) words.push(`+${tail.length}`);
  }
  return words.join(" ");
}

export function traceReply(request: Request, reply: Reply, row: Row, result: number): string {
  const words = [`< ${request.unique}`, row?.name ?? `opcode ${request.opcode}`];
  if (result < 0) words.push(getSystemErrorName(result));
  else if (row !== undefined && row.out !== "bytes" && row.out.size === result)
    words.push("ok", ...fields(viewOf(reply.bytes), OutHeader.size, row.out));
  else words.push("ok", `+${result}`);
  return words.join(" ");
}
