// TensorFlow.js 4.22: operands are tensors on the backend; `data()` ends the compute pass,
// submits and maps (webgpu), or copies out of the wasm heap (wasm).

const { tf } = window;

async function use(backend) {
  if (backend === "wasm") {
    // The backend asks for the threads once, before it starts.
    tf.wasm.setThreadsCount(1);
    tf.wasm.setWasmPaths("/npm/@tensorflow/tfjs-backend-wasm/dist/");
  }
  if (!(await tf.setBackend(backend))) throw new Error(`TF.js has no backend ${backend} here`);
}

function contender(backend) {
  return {
    name: `tfjs-${backend}`,
    peer: "TF.js 4.22",
    backend,
    async prepare(n, a, b) {
      await use(backend);
      await tf.ready();
      const ta = tf.tensor2d(a, [n, n]);
      const tb = tf.tensor2d(b, [n, n]);
      return {
        async product() {
          if (tf.getBackend() !== backend) await tf.setBackend(backend);
          const c = tf.matMul(ta, tb);
          const data = await c.data();
          c.dispose();
          return data;
        },
        dispose() {
          ta.dispose();
          tb.dispose();
        },
      };
    },
  };
}

export const tfjs = [contender("webgpu"), contender("wasm")];
