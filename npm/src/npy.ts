// Matrices as `.npy` files, which is what a relay takes and gives: version 1, rows first, little-endian, as every machine
// with a browser or Node is.

import { PotluckError } from "./error.js";

/** Numbers row by row, with their shape. One number of a shape is a vector. */
export interface Matrix<Data extends Numbers = Numbers> {
  shape: readonly number[];
  data: Data;
}

export type Numbers = Float32Array | Float64Array | Int32Array | Int8Array;

const MAGIC = [0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59];
/** Bytes before the header's text: magic, version, length. */
const BEFORE = 10;
/** Data begin at a multiple of this, as numpy writes them: so they can be used where they are. */
const ALIGNMENT = 64;

const TYPES = { "<f4": Float32Array, "<f8": Float64Array, "<i4": Int32Array, "|i1": Int8Array } as const;

/** The bytes of a `.npy` file. */
export function encodeNpy({ shape, data }: Matrix): Uint8Array<ArrayBuffer> {
  const descr = Object.entries(TYPES).find(([, type]) => data instanceof type)?.[0];
  const elements = shape.reduce((product, length) => product * length, 1);
  if (!descr || !shape.length || elements !== data.length) {
    throw new PotluckError({
      code: "bad_matrix",
      message: `a matrix of shape ${JSON.stringify(shape)} has ${elements} numbers, not ${data.length}`,
      hint: "give a Float32Array, Float64Array, Int32Array or Int8Array of rows times columns",
    });
  }
  const text = `{'descr': '${descr}', 'fortran_order': False, 'shape': (${shape.join(", ")}${shape.length === 1 ? "," : ""}), }`;
  const length = Math.ceil((BEFORE + text.length + 1) / ALIGNMENT) * ALIGNMENT;
  const file = new Uint8Array(length + data.byteLength);
  file.set([...MAGIC, 1, 0, (length - BEFORE) & 0xff, (length - BEFORE) >> 8]);
  file.set(new TextEncoder().encode(text.padEnd(length - BEFORE - 1) + "\n"), BEFORE);
  file.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), length);
  return file;
}

/** Reads a `.npy` file as relays write them. */
export function decodeNpy(file: Uint8Array<ArrayBuffer>): Matrix<Float32Array | Float64Array | Int32Array | Int8Array> {
  const start = BEFORE + ((file[8] ?? 0) | ((file[9] ?? 0) << 8));
  const text = new TextDecoder("latin1").decode(file.subarray(BEFORE, start));
  const [, descr] = /'descr': '([^']+)'/.exec(text) ?? [];
  const [, numbers] = /'shape': \(([\d, ]*)\)/.exec(text) ?? [];
  const Type = TYPES[descr as keyof typeof TYPES] as (typeof TYPES)[keyof typeof TYPES] | undefined;
  const known = MAGIC.every((byte, at) => file[at] === byte) && file[6] === 1 && text.includes("'fortran_order': False");
  if (!known || !Type || numbers === undefined) {
    throw new PotluckError({ code: "bad_matrix", message: "that is no .npy file of a relay's", hint: "give the bytes as they came" });
  }
  const shape = numbers.split(",").filter((part) => part.trim()).map(Number);
  const elements = shape.reduce((product, length) => product * length, 1);
  if (file.length - start !== elements * Type.BYTES_PER_ELEMENT) {
    const message = `the .npy file was cut short: ${file.length - start} bytes of data`;
    throw new PotluckError({ code: "bad_matrix", message, hint: "fetch it again" });
  }
  const at = file.byteOffset + start;
  const aligned = at % Type.BYTES_PER_ELEMENT === 0;
  return { shape, data: aligned ? new Type(file.buffer, at, elements) : new Type(file.slice(start).buffer) };
}
