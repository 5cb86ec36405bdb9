// Lets given parameters write: the one place that knows how the relay is asked for that.

import { Refusal, fetchText } from "./trust.js";

/**
 * What a candidate of the log (`run`, `round`) writes. Resolves with `{text}`, or with `{problem}` that says why it cannot
 * be had here. The same candidate, prompt and seed give the same text.
 */
export async function sample({ run, round }, { prompt, seed, tokens }) {
  const query = new URLSearchParams({ prompt, seed, tokens });
  try {
    const { text } = JSON.parse(await fetchText(`/api/v1/runs/${run}/rounds/${round}/sample?${query}`));
    if (typeof text !== "string") throw new Error("the relay’s answer has no text");
    return { text };
  } catch (error) {
    const none = error instanceof Refusal && error.status === 404;
    return {
      problem: none
        ? "This relay does not write for visitors. Try both with the command line, from the same prompt and seed."
        : `The relay could not write: ${error?.message ?? error}`,
    };
  }
}
