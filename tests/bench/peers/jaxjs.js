// jax-js 0.1.25: arrays own their device memory and are reference counted (`.ref`); a product
// that nobody awaits is dropped, so each one is read back with `data()`.

import { init, defaultDevice, numpy as np } from "/npm/@jax-js/jax/dist/index.js";

function contender(backend) {
  return {
    name: `jaxjs-${backend}`,
    peer: "jax-js 0.1.25",
    backend,
    async prepare(n, a, b) {
      const devices = await init(backend);
      if (!devices.includes(backend)) throw new Error(`jax-js has no device ${backend} here`);
      defaultDevice(backend);
      const ja = np.array(a).reshape([n, n]);
      const jb = np.array(b).reshape([n, n]);
      await ja.ref.data();
      await jb.ref.data();
      return {
        async product() {
          defaultDevice(backend);
          return np.matmul(ja.ref, jb.ref).data();
        },
        dispose() {
          ja.dispose();
          jb.dispose();
        },
      };
    },
  };
}

export const jaxjs = [contender("webgpu"), contender("wasm")];
