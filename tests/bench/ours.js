// Ours: the kernels crate as wasm. B travels transposed in this project, so it is transposed once,
// ahead, as a relay does when it cuts panels.

import init, { Engine } from "/engine/potluck_bench_engine.js";

await init({ module_or_path: new URL("/engine/potluck_bench_engine_bg.wasm", location.href) });
export const engine = await Engine.open();

function transposed(n, b) {
  const bt = new Float32Array(n * n);
  for (let k = 0; k < n; k++) for (let j = 0; j < n; j++) bt[j * n + k] = b[k * n + j];
  return bt;
}

function contender(backend) {
  return {
    name: `potluck-${backend}`,
    peer: null,
    backend,
    async prepare(n, a, b) {
      const product = await engine.prepare(backend, n, a, transposed(n, b));
      return {
        product: product.onGpu ? () => product.compute() : () => product.computeHere(),
        dispose: () => product.free(),
      };
    },
  };
}

// Where there is no usable adapter, our WebGPU kernel is no contender.
export const ours = [...(engine.gpuChoice ? ["webgpu"] : []), "wasm", "auto"].map(contender);
