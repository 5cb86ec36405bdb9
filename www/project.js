// What a project is, in words: for the page of projects, and for whoever follows an invitation to one.

import * as format from "./format.js";

export const KINDS = { product: "Matrix product", training: "Training run", eval: "Evaluation" };

export const STATES = {
  running: "running", paused: "paused", done: "done", failed: "failed", canceled: "given up",
};

export const BACKENDS = { ...format.BACKENDS, gpu: "native GPU", cpu: "native CPU" };

const UNITS = { units: "parts verified", rounds: "rounds done", shards: "parts answered" };

/** What is computed, in a sentence. */
export function what({ kind, shape, dtype, parameters, model, data }) {
  if (kind === "product") {
    const [m, k, n] = shape.map(format.count);
    return `The product of two matrices, ${m} × ${k} by ${k} × ${n}, in ${dtype}.`;
  }
  if (kind === "eval") return `Questions to a candidate for the model ${model}, whose answers decide whether people may promote it.`;
  const of = `a model with ${format.count(parameters)} parameters`;
  const on = data.length ? ` on ${format.list(data)}` : "";
  return model ? `Trains ${model}, ${of},${on || " together"}.` : `Trains ${of}${on}.`;
}

/** How far it is, in words. */
export const progress = ({ unit, done, total }) => `${format.count(done)} of ${format.count(total)} ${UNITS[unit] ?? unit}`;

export const people = ({ volunteers }) =>
  volunteers === 0 ? "Nobody works on it now." : volunteers === 1 ? "One volunteer works on it now." : `${format.count(volunteers)} volunteers work on it now.`;

/** What came of it so far; nothing before there is anything. */
export function outcome({ kind, losses }) {
  if (kind !== "training" || !losses) return null;
  const [first, last] = losses.map((loss) => format.decimal(loss, 3));
  return `Loss on text that it is not trained on: ${first} nats a token after the first round, ${last} after the last.`;
}
