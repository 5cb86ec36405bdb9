// The module of the public log, fetched by who needs it first, and the files of a log.

/** Longest answer that is read, in bytes: a bundle of 256 entries of 65,535 bytes is the largest. */
const MAX_ANSWER_BYTES = 17 << 20;
/** Longest time that a log may be silent before its file counts as not there, in milliseconds. */
const SILENCE_MS = 30_000;

const loading = new Map();

function module(name) {
  if (!loading.has(name)) {
    const loaded = (async () => {
      const trust = await import(`./${name}/${name}.js`);
      await trust.default();
      return trust;
    })();
    loaded.catch(() => loading.delete(name));
    loading.set(name, loaded);
  }
  return loading.get(name);
}

/** The small module: `Witness`, `Receipts`, `publicKey`. */
export const load = () => module("trust");

/** All of it: also `Reader`, `statementText`, `checkStatement`, `documentHash`, `blobHash`. */
export const loadGovernance = () => module("governance");

/** The relay says no: `status` is its number. Other errors mean that it does not answer. */
export class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** What is at an address, as bytes. */
export async function fetchBytes(address, options = {}) {
  const answer = await fetch(address, { credentials: "omit", signal: AbortSignal.timeout(SILENCE_MS), ...options });
  const { headers, status } = answer;
  if (!answer.ok) throw new Refusal(status, await problem(answer));
  if (Number(headers.get("content-length")) > MAX_ANSWER_BYTES) throw new Refusal(status, `${address} is too long`);
  const bytes = new Uint8Array(await answer.arrayBuffer());
  if (bytes.length > MAX_ANSWER_BYTES) throw new Refusal(status, `${address} is too long`);
  return bytes;
}

/** What is at an address, as text. */
export async function fetchText(address, options) {
  return new TextDecoder("utf-8", { fatal: true }).decode(await fetchBytes(address, options));
}

/** Why the relay says no, in its words. */
async function problem(answer) {
  try {
    const { message, hint } = await answer.clone().json();
    return hint ? `${message}: ${hint}` : message;
  } catch {
    return `the relay answers with status ${answer.status}`;
  }
}
