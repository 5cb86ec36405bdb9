// The page's side of `cargo xtask bench drift`: takes the steps of a round that the driver then replays.

import init, { Gpt } from "/engine/potluck_bench_engine.js";

await init({ module_or_path: new URL("/engine/potluck_bench_engine_bg.wasm", location.href) });

/** Takes a step for each batch, from parameters in base64 (f32, little-endian); parameters afterwards likewise. */
async function train({ backend, vocabulary, start, sequences, length, batches }) {
  const before = new Float32Array(Uint8Array.fromBase64(start).buffer);
  const gpt = await Gpt.create(backend, vocabulary, before, sequences, length);
  const losses = [];
  for (const { inputs, targets, rate } of batches) {
    losses.push(await gpt.step(new Uint32Array(inputs), new Uint32Array(targets), rate));
  }
  const after = await gpt.store();
  gpt.free();
  return { losses, after: new Uint8Array(after.buffer).toBase64() };
}

async function machine() {
  const adapter = navigator.gpu ? await navigator.gpu.requestAdapter() : null;
  const info = adapter?.info;
  return {
    isolated: self.crossOriginIsolated,
    adapter: info ? `${info.vendor} ${info.architecture} ${info.description}`.trim() : "none",
    fallback: Boolean(info?.isFallbackAdapter ?? adapter?.isFallbackAdapter),
  };
}

window.bench = { machine, train };
