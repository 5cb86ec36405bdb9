// What the tab demands before it works on a run, or asks a model questions: the receipt that shows that it stands in the
// relay's public log, under the key that this session was signed for.

import { fetchBytes, fetchText, load } from "./trust.js";

/** What is logged is published about a second later: so long is waited for it, in milliseconds. */
const PATIENCE_MS = 10_000;
/** Time between two looks, in milliseconds. */
const AGAIN_MS = 500;

const hex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");

/** The public key in a log's key, which is written NAME+HASH+BASE64: a byte for its kind, then 32 for itself. */
function publicKeyOf(key) {
  const encoded = key.slice(key.indexOf("+", key.indexOf("+") + 1) + 1);
  return hex(Uint8Array.from(atob(encoded), (character) => character.charCodeAt(0)).subarray(1));
}

const WHAT = {
  run: { path: "jobs", receipt: (answer) => answer, name: (entry) => entry.run },
  candidate: {
    path: "candidates",
    // With the receipt of its promotion, if it was promoted.
    receipt: (answer) => new TextEncoder().encode(JSON.parse(new TextDecoder().decode(answer)).candidate),
    name: (entry) => entry.parameters,
  },
};

async function look(kind, id, relay, { key: remembered, base }) {
  const trust = await load();
  const key = remembered ?? (await fetchText(`${base}/log/key`)).trim();
  if (publicKeyOf(key) !== relay) throw new Error("the log is not signed by the relay that this tab talks to");
  const receipts = new trust.Receipts(JSON.stringify({ log: key }));
  try {
    const { path, receipt, name } = WHAT[kind];
    const proved = JSON.parse(receipts.verify(receipt(await fetchBytes(`${base}/api/v1/log/${path}/${id}`))));
    if (proved.kind !== kind || name(proved.entry) !== id) throw new Error(`the receipt is of another entry, a ${proved.kind}`);
  } finally {
    receipts.free();
  }
}

/**
 * Resolves once it is proven that the log has a run or a candidate; rejects with the reason if it is not, in some seconds.
 * `log.key` is the log's key, if this browser has seen it before; `log.base` the relay's address.
 */
export async function prove(kind, id, relay, log) {
  const until = performance.now() + PATIENCE_MS;
  for (;;) {
    try {
      return await look(kind, id, relay, log);
    } catch (error) {
      if (performance.now() > until) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
  }
}
