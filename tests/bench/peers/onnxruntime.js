// onnxruntime-web 1.30: a model of one MatMul node, encoded by hand below. On WebGPU both inputs
// stay in GPU buffers. The wasm build copies its inputs into its heap at every run; the variant
// with a constant second operand is kept out, since it packs that operand ahead of time.

const DIST = "/npm/onnxruntime-web/dist/";

const text = new TextEncoder();
const varint = (v) => (v < 128 ? [v] : [(v & 127) | 128, ...varint(v >>> 7)]);
const field = (number, bytes) => [...varint((number << 3) | 2), ...varint(bytes.length), ...bytes];
const string = (number, s) => field(number, [...text.encode(s)]);
const integer = (number, v) => [...varint(number << 3), ...varint(v)];

/** An `onnx.ValueInfoProto`: an n x n tensor of f32. */
function value(name, n) {
  const dimension = field(1, integer(1, n));
  const tensor = [...integer(1, 1), ...field(2, [...dimension, ...dimension])];
  return [...string(1, name), ...field(2, field(1, tensor))];
}

/** An `onnx.ModelProto` (IR 8, opset 17) whose graph is `c = MatMul(a, b)`. */
function model(n) {
  const node = [...string(1, "a"), ...string(1, "b"), ...string(2, "c"), ...string(4, "MatMul")];
  const graph = [
    ...field(1, node),
    ...string(2, "product"),
    ...field(11, value("a", n)),
    ...field(11, value("b", n)),
    ...field(12, value("c", n)),
  ];
  return new Uint8Array([...integer(1, 8), ...field(7, graph), ...field(8, integer(2, 17))]);
}

function resident(ort, device, n, data) {
  const buffer = device.createBuffer({
    size: data.byteLength,
    usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST | GPUBufferUsage.COPY_SRC,
  });
  device.queue.writeBuffer(buffer, 0, data);
  const tensor = ort.Tensor.fromGpuBuffer(buffer, { dataType: "float32", dims: [n, n] });
  return { tensor, drop: () => buffer.destroy() };
}

function contender(backend, bundle) {
  return {
    name: `onnxruntime-${backend}`,
    peer: "onnxruntime-web 1.30",
    backend,
    async prepare(n, a, b) {
      const ort = await import(DIST + bundle);
      ort.env.wasm.numThreads = 1;
      ort.env.wasm.wasmPaths = DIST;
      ort.env.logLevel = "error";
      const session = await ort.InferenceSession.create(model(n), {
        executionProviders: [backend],
        graphOptimizationLevel: "all",
      });
      let inputs;
      if (backend === "webgpu") {
        const device = await ort.env.webgpu.device;
        inputs = [resident(ort, device, n, a), resident(ort, device, n, b)];
      } else {
        inputs = [a, b].map((data) => ({
          tensor: new ort.Tensor("float32", data, [n, n]),
          drop: () => {},
        }));
      }
      const feeds = { a: inputs[0].tensor, b: inputs[1].tensor };
      return {
        async product() {
          const { c } = await session.run(feeds);
          const data = await c.getData();
          c.dispose();
          return data;
        },
        async dispose() {
          for (const input of inputs) input.drop();
          await session.release();
        },
      };
    },
  };
}

export const onnxruntime = [
  contender("webgpu", "ort.webgpu.bundle.min.mjs"),
  contender("wasm", "ort.wasm.bundle.min.mjs"),
];
