// Lets a candidate write: the one place that knows how the relay is asked for that.

import { Refusal, fetchText } from "./trust.js";

/**
 * What a candidate of the log (by the hash of its `parameters`) writes. Resolves with `{text}`, or with `{problem}` that says
 * why it cannot be had here. The same candidate, prompt and seed give the same text.
 */
export async function sample({ parameters }, { prompt, seed, tokens }) {
  try {
    const answer = await fetchText(`/api/v1/candidates/${parameters}/samples`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ prompt, seed, tokens }),
    });
    const { text } = JSON.parse(answer);
    if (typeof text !== "string") throw new Error("the relay’s answer has no text");
    return { text };
  } catch (error) {
    const none = error instanceof Refusal && error.status === 404;
    return {
      problem: none
        ? "This relay does not have these parameters. Try both where you have them, from the same prompt and seed."
        : `The relay could not write: ${error?.message ?? error}`,
    };
  }
}
