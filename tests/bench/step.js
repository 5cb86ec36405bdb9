// The page's side of `cargo xtask bench step`: every contender trains the same GPT (`tiny`) from the same parameters on
// the same batches, one step at a time, and hands the loss back to JavaScript after each. As in `bench.js` the driver
// outside decides the order and the rounds, and wasm has one thread.

import init, { Gpt } from "/engine/potluck_bench_engine.js";
import { tfjsGpt } from "./peers/tfjs-gpt.js";

await init({ module_or_path: new URL("/engine/potluck_bench_engine_bg.wasm", location.href) });

/** The sizes of `tiny`, and of a batch. */
const SIZES = { vocabulary: 65, context: 64, layers: 3, heads: 4, width: 64 };
const SEQUENCES = 8;
const BATCHES = 16;
const RATE = 1e-3;

/** Batches that can be learned (the next token depends on the one before), the same for everyone. */
function batch(index) {
  const tokens = new Uint32Array(SEQUENCES * SIZES.context + 1);
  let s = 0x9e3779b9 ^ index;
  for (let i = 0; i < tokens.length; i++) {
    s ^= s << 13;
    s ^= s >>> 17;
    s ^= s << 5;
    tokens[i] = (s >>> 0) % 4 ? ((tokens[i - 1] ?? 0) * 7 + 3) % SIZES.vocabulary : (s >>> 8) % SIZES.vocabulary;
  }
  return { inputs: tokens.slice(0, -1), targets: tokens.slice(1) };
}

const batches = Array.from({ length: BATCHES }, (_, index) => batch(index));
const parameters = Gpt.parameters(SIZES.vocabulary);

function ours(backend) {
  return {
    name: `potluck-${backend}`,
    peer: null,
    backend,
    async prepare() {
      const gpt = await Gpt.create(backend, SIZES.vocabulary, parameters, SEQUENCES, SIZES.context);
      return ({ inputs, targets }) => gpt.step(inputs, targets, RATE);
    },
  };
}

const burn = {
  name: "burn-webgpu",
  peer: "burn 0.22",
  backend: "webgpu",
  async prepare() {
    const module = await import("/burn/potluck_bench_burn.js");
    await module.default({ module_or_path: new URL("/burn/potluck_bench_burn_bg.wasm", location.href) });
    const gpt = await module.BurnGpt.create(SIZES.vocabulary, parameters);
    return ({ inputs, targets }) =>
      gpt.step(new Int32Array(inputs), new Int32Array(targets), SEQUENCES, SIZES.context, RATE);
  },
};

const tfjs = {
  name: "tfjs-webgpu",
  peer: "TF.js 4.22",
  backend: "webgpu",
  prepare: () => tfjsGpt(SIZES, SEQUENCES, parameters, RATE),
};

const contenders = new Map([ours("webgpu"), ours("wasm"), burn, tfjs].map((c) => [c.name, c]));
const prepared = new Map();

/** Makes a model and takes the first steps, which compile what there is to compile. Returns their losses. */
async function prepare(name, count) {
  const start = performance.now();
  const step = await contenders.get(name).prepare();
  prepared.set(name, { step, taken: 0 });
  const losses = [];
  for (let i = 0; i < count; i++) losses.push(await next(name));
  return { losses, prepareMs: performance.now() - start };
}

async function next(name) {
  const model = prepared.get(name);
  return model.step(batches[model.taken++ % BATCHES]);
}

/** Takes `count` steps one after another; milliseconds for all of them. */
async function run(name, count) {
  const start = performance.now();
  for (let i = 0; i < count; i++) await next(name);
  return performance.now() - start;
}

/** What the driver prints first. */
async function machine() {
  const adapter = navigator.gpu ? await navigator.gpu.requestAdapter() : null;
  const info = adapter?.info;
  return {
    isolated: self.crossOriginIsolated,
    adapter: info ? `${info.vendor} ${info.architecture} ${info.description}`.trim() : "none",
    fallback: Boolean(info?.isFallbackAdapter ?? adapter?.isFallbackAdapter),
    tokens: SEQUENCES * SIZES.context,
    contenders: [...contenders.values()].map(({ name, peer, backend }) => ({ name, peer, backend })),
  };
}

window.bench = { machine, prepare, run };
