/**
 * Structures of the kernel protocol as data: a layout names the fields in kernel order and gives the
 * offset of each. Sizes and alignment are asserted when the module loads, so that a field left out or
 * misspelt stops the program and never shifts the bytes behind it.
 *
 * All fields are in the machine's byte order and naturally aligned, as the kernel lays them out.
 */
import { assert } from "../base/assert.ts";

type Scalar = "u16" | "i32" | "u32" | "i64" | "u64";

/** A scalar, an array of one, or a structure inside the structure. */
export type Field = Scalar | readonly [Scalar, number] | Layout;

export interface Layout<F extends Readonly<Record<string, Field>> = Readonly<Record<string, Field>>> {
  readonly name: string;
  /** Bytes. */
  readonly size: number;
  readonly fields: F;
  /** Offset of each field in bytes. */
  readonly at: { readonly [K in keyof F]: number };
}

const SCALAR_SIZE: Readonly<Record<Scalar, number>> = { u16: 2, i32: 4, u32: 4, i64: 8, u64: 8 };

/** Bytes of a field and the boundary that it stands on. */
function measure(field: Field): readonly [size: number, align: number] {
  if (typeof field === "string") return [SCALAR_SIZE[field], SCALAR_SIZE[field]];
  if ("size" in field) return [field.size, 8];
  return [SCALAR_SIZE[field[0]] * field[1], SCALAR_SIZE[field[0]]];
}

/** Describes a structure of `size` bytes. */
export function layout<const F extends Readonly<Record<string, Field>>>(
  name: string,
  size: number,
  fields: F,
): Layout<F> {
  const at: Record<string, number> = {};
  let offset = 0;
  for (const [field, type] of Object.entries(fields)) {
    const [bytes, align] = measure(type);
    assert(offset % align === 0, `${name}.${field} stands on its boundary`);
    at[field] = offset;
    offset += bytes;
  }
  assert(offset === size, `${name} has ${size} bytes`);
  return { name, size, fields, at: at as { [K in keyof F]: number } };
}
