// The page's side of `cargo xtask bench browser`: every contender multiplies the same two
// matrices, resident where its API allows it, and hands the product back to JavaScript each time.
// The driver outside decides the order and the rounds; here nothing loops on its own.
//
// The page is not cross-origin isolated, on purpose: without SharedArrayBuffer every wasm
// contender, jax-js included, computes on one thread.

import { engine, ours } from "./ours.js";
import { tfjs } from "./peers/tfjs.js";
import { onnxruntime } from "./peers/onnxruntime.js";
import { jaxjs } from "./peers/jaxjs.js";

const contenders = new Map(
  [...ours, ...tfjs, ...onnxruntime, ...jaxjs].map((c) => [c.name, c]),
);

/** Deterministic operands in [-1, 1), the same for every contender (xorshift32). */
function operand(length, seed) {
  const out = new Float32Array(length);
  let s = seed | 0;
  for (let i = 0; i < length; i++) {
    s ^= s << 13;
    s ^= s >>> 17;
    s ^= s << 5;
    out[i] = s / 2147483648;
  }
  return out;
}

/** The product in f64 and, for the tolerance, the sum of the terms' magnitudes. */
function reference(n, a, b) {
  const c = new Float64Array(n * n);
  const magnitude = new Float64Array(n * n);
  for (let i = 0; i < n; i++) {
    const row = c.subarray(i * n, (i + 1) * n);
    const sizes = magnitude.subarray(i * n, (i + 1) * n);
    for (let k = 0; k < n; k++) {
      const x = a[i * n + k];
      const size = Math.abs(x);
      const bRow = b.subarray(k * n, (k + 1) * n);
      for (let j = 0; j < n; j++) {
        row[j] += x * bRow[j];
        sizes[j] += size * Math.abs(bRow[j]);
      }
    }
  }
  return { c, magnitude };
}

let problem = null;
const prepared = new Map();

/** Sets the size of the products to come and drops what was prepared for the one before. */
async function begin(n) {
  for (const p of prepared.values()) await p.dispose();
  prepared.clear();
  const a = operand(n * n, 0x9e3779b9);
  const b = operand(n * n, 0x7f4a7c15);
  problem = { n, a, b, reference: reference(n, a, b) };
}

/**
 * Uploads the operands, computes once (which compiles what there is to compile) and compares
 * with f64. Returns the largest error relative to the sum of the terms' magnitudes.
 */
async function prepare(name) {
  const { n, a, b, reference } = problem;
  const start = performance.now();
  const p = await contenders.get(name).prepare(n, a, b);
  prepared.set(name, p);
  const c = await p.product();
  const prepareMs = performance.now() - start;
  if (c.length !== n * n) throw new Error(`${name}: ${c.length} elements instead of ${n * n}`);
  let error = 0;
  for (let i = 0; i < c.length; i++) {
    const e = Math.abs(c[i] - reference.c[i]) / reference.magnitude[i];
    if (!(e <= error)) error = e; // a NaN lands here as well
  }
  return { error, prepareMs };
}

/** Computes `count` products one after another; milliseconds for all of them. */
async function run(name, count) {
  const p = prepared.get(name);
  const start = performance.now();
  for (let i = 0; i < count; i++) await p.product();
  return performance.now() - start;
}

/** What the driver prints first. */
async function machine() {
  const adapter = navigator.gpu ? await navigator.gpu.requestAdapter() : null;
  const info = adapter?.info;
  return {
    threads: navigator.hardwareConcurrency,
    isolated: self.crossOriginIsolated,
    adapter: info ? `${info.vendor} ${info.architecture} ${info.description}`.trim() : "none",
    auto: { choice: engine.autoChoice, ms: Math.round(engine.autoMs), gpu: engine.gpuChoice ?? null },
    fallback: Boolean(info?.isFallbackAdapter ?? adapter?.isFallbackAdapter),
    contenders: [...contenders.values()].map(({ name, peer, backend }) => ({ name, peer, backend })),
  };
}

window.bench = { machine, begin, prepare, run };
