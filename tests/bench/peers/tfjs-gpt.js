// The same GPT in TensorFlow.js 4.22 on WebGPU, from the operations that its core offers, with its Adam; decay and the
// clip of the global norm are added as a person would. Tokens are looked up as one-hot rows times the embedding: the
// gradient of a gather is an operation that the WebGPU backend lacks.

const { tf } = window;

/** A function that takes a step and gives the loss before it. */
export async function tfjsGpt({ vocabulary, context, layers, heads, width }, sequences, parameters, rate) {
  if (!(await tf.setBackend("webgpu"))) throw new Error("TF.js has no backend webgpu here");
  await tf.ready();
  let at = 0;
  const variable = (...shape) => {
    const size = shape.reduce((a, b) => a * b, 1);
    return tf.variable(tf.tensor(parameters.slice(at, (at += size)), shape));
  };
  // In the order of our flat vector; linear layers are outputs x inputs.
  const wte = variable(vocabulary, width);
  const wpe = variable(context, width);
  const blocks = Array.from({ length: layers }, () => ({
    norm1: variable(width),
    qkv: variable(3 * width, width),
    out: variable(width, width),
    norm2: variable(width),
    up: variable(4 * width, width),
    down: variable(width, 4 * width),
  }));
  const last = variable(width);
  if (at !== parameters.length) throw new Error(`${parameters.length - at} parameters are left`);
  const variables = [wte, wpe, ...blocks.flatMap((b) => Object.values(b)), last];
  const rows = sequences * context;
  const head = width / heads;
  const mask = tf.tensor2d(
    Array.from({ length: context }, (_, i) => Array.from({ length: context }, (_, j) => (j <= i ? 0 : -1e9))),
  );

  const { add, cast, matMul, mean, mul, oneHot, reshape, rsqrt, softmax, square, sub, tanh, tensor1d, transpose } = tf;
  const norm = (x, weight) => {
    const centered = sub(x, mean(x, -1, true));
    return mul(mul(centered, rsqrt(add(mean(square(centered), -1, true), 1e-5))), weight);
  };
  const linear = (x, weight) => matMul(x, weight, false, true);
  const gelu = (x) => {
    const inner = mul(add(x, mul(mul(mul(x, x), x), 0.044715)), Math.sqrt(2 / Math.PI));
    return mul(mul(x, 0.5), add(tanh(inner), 1));
  };
  const split = (x) => transpose(reshape(x, [sequences, context, heads, head]), [0, 2, 1, 3]);
  const hot = (tokens) => cast(oneHot(tensor1d(tokens, "int32"), vocabulary), "float32");

  const loss = (inputs, targets) => {
    const embedded = reshape(matMul(hot(inputs), wte), [sequences, context, width]);
    let x = reshape(add(embedded, wpe), [rows, width]);
    for (const b of blocks) {
      const [q, k, v] = tf.split(linear(norm(x, b.norm1), b.qkv), 3, 1).map(split);
      const scores = add(mul(matMul(q, k, false, true), 1 / Math.sqrt(head)), mask);
      const mixed = reshape(transpose(matMul(softmax(scores), v), [0, 2, 1, 3]), [rows, width]);
      x = add(x, linear(mixed, b.out));
      x = add(x, linear(gelu(linear(norm(x, b.norm2), b.up)), b.down));
    }
    return tf.losses.softmaxCrossEntropy(hot(targets), linear(norm(x, last), wte));
  };

  const adam = tf.train.adam(rate, 0.9, 0.99, 1e-8);
  return async ({ inputs, targets }) => {
    const value = tf.tidy(() => {
      const { value, grads } = tf.variableGrads(() => loss(new Int32Array(inputs), new Int32Array(targets)), variables);
      const squares = tf.addN(Object.values(grads).map((g) => tf.sum(square(g))));
      const scale = tf.minimum(1, tf.reciprocal(add(tf.sqrt(squares), 1e-6)));
      for (const name of Object.keys(grads)) grads[name] = mul(grads[name], scale);
      for (const v of variables) if (v.rank > 1) v.assign(mul(v, 1 - rate * 0.1));
      adam.applyGradients(grads);
      return value;
    });
    const [answer] = await value.data();
    value.dispose();
    return answer;
  };
}
