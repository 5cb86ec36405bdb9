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
  const mask = tf.tidy(() =>
    tf.linalg
      ? tf.linalg.bandPart(tf.ones([context, context]), -1, 0).sub(1).mul(1e9)
      : tf.tensor2d(
          Array.from({ length: context }, (_, i) => Array.from({ length: context }, (_, j) => (j <= i ? 0 : -1e9))),
        ),
  );

  const norm = (x, weight) => {
    const { mean, variance } = tf.moments(x, -1, true);
    return x.sub(mean).mul(variance.add(1e-5).rsqrt()).mul(weight);
  };
  const linear = (x, weight) => tf.matMul(x, weight, false, true);
  const gelu = (x) => {
    const inner = x.add(x.mul(x).mul(x).mul(0.044715)).mul(Math.sqrt(2 / Math.PI));
    return x.mul(0.5).mul(inner.tanh().add(1));
  };
  const split = (x) => x.reshape([sequences, context, heads, head]).transpose([0, 2, 1, 3]);

  const loss = (inputs, targets) => {
    const hot = tf.oneHot(tf.tensor1d(inputs, "int32"), vocabulary).cast("float32");
    let x = tf.matMul(hot, wte).reshape([sequences, context, width]).add(wpe).reshape([rows, width]);
    for (const b of blocks) {
      const [q, k, v] = tf.split(linear(norm(x, b.norm1), b.qkv), 3, 1).map(split);
      const scores = tf.matMul(q, k, false, true).mul(1 / Math.sqrt(head)).add(mask);
      const mixed = tf.matMul(tf.softmax(scores), v).transpose([0, 2, 1, 3]).reshape([rows, width]);
      x = x.add(linear(mixed, b.out));
      x = x.add(linear(gelu(linear(norm(x, b.norm2), b.up)), b.down));
    }
    const logits = linear(norm(x, last), wte);
    const labels = tf.oneHot(tf.tensor1d(targets, "int32"), vocabulary).cast("float32");
    return tf.losses.softmaxCrossEntropy(labels, logits);
  };

  const adam = tf.train.adam(rate, 0.9, 0.99, 1e-8);
  return async ({ inputs, targets }) => {
    const value = tf.tidy(() => {
      const { value, grads } = tf.variableGrads(() => loss(new Int32Array(inputs), new Int32Array(targets)), variables);
      const squares = tf.addN(Object.values(grads).map((g) => g.square().sum()));
      const scale = tf.minimum(1, squares.sqrt().add(1e-6).reciprocal());
      for (const name of Object.keys(grads)) grads[name] = grads[name].mul(scale);
      for (const v of variables) if (v.rank > 1) v.assign(v.mul(1 - rate * 0.1));
      adam.applyGradients(grads);
      return value;
    });
    const [answer] = await value.data();
    value.dispose();
    return answer;
  };
}
