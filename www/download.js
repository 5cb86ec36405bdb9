// Large files that are named by the hash of their bytes, and what of them this browser keeps. Whether the bytes are those
// that the hash names, whoever uses them checks.

import { Refusal } from "./trust.js";
import { wantsNoMemory } from "./identity.js";

/** The browser's own cache holds them: `inputs.js` empties it when the browser forgets. */
const NAME = "potluck.models";
/** Longest time without a byte, in milliseconds. */
const SILENCE_MS = 30_000;
/** The rate is measured over this time, in milliseconds. */
const WINDOW_MS = 3_000;

const address = (hash) => `/models/${hash}`;

/** Whether this browser may keep files. */
export const mayKeep = () => !wantsNoMemory() && "caches" in globalThis;

/** What is kept under a hash; `null` if nothing is. */
export async function kept(hash) {
  if (!mayKeep()) return null;
  try {
    const found = await (await caches.open(NAME)).match(address(hash));
    return found ? new Uint8Array(await found.arrayBuffer()) : null;
  } catch {
    return null;
  }
}

/** Keeps a file for the next visit, if this browser may. Resolves with whether it does. */
export async function keep(hash, bytes) {
  if (!mayKeep()) return false;
  try {
    await (await caches.open(NAME)).put(address(hash), new Response(bytes));
    return true;
  } catch {
    // Storage is full or off: it is fetched again.
    return false;
  }
}

/** Removes what is kept under a hash. */
export async function drop(hash) {
  try {
    await (await caches.open(NAME)).delete(address(hash));
  } catch {
    // Nothing was kept either.
  }
}

/**
 * Fetches a file of a known length at most. `onProgress` hears `{done, rate, left}`: bytes, bytes per second, seconds; `null`
 * where it is too early to say.
 */
export async function fetchLarge(place, { most, onProgress, signal }) {
  const silence = new AbortController();
  let timer;
  const wait = () => {
    clearTimeout(timer);
    timer = setTimeout(() => silence.abort(new Error("the relay sends nothing any more")), SILENCE_MS);
  };
  wait();
  try {
    // The browser's network cache would keep it whatever this browser asks for: what is kept, `keep` says.
    const answer = await fetch(place, {
      credentials: "omit", cache: "no-store", signal: AbortSignal.any([silence.signal, signal]),
    });
    if (!answer.ok) throw new Refusal(answer.status, `the relay answers with status ${answer.status}`);
    const reader = answer.body.getReader();
    const bytes = new Uint8Array(most);
    const seen = [[performance.now(), 0]];
    for (let done = 0; ;) {
      const { value, done: ended } = await reader.read();
      if (ended) return bytes.subarray(0, done);
      wait();
      if (done + value.length > most) {
        reader.cancel().catch(() => {});
        throw new Error(`the relay sends more than the ${most} bytes that the model has`);
      }
      bytes.set(value, done);
      done += value.length;
      onProgress(measured(seen, done, most));
    }
  } finally {
    clearTimeout(timer);
  }
}

/** How fast it goes, from what was seen lately. */
export function measured(seen, done, most) {
  const now = performance.now();
  seen.push([now, done]);
  while (seen.length > 2 && seen[1][0] < now - WINDOW_MS) seen.shift();
  const [since, before] = seen[0];
  const seconds = (now - since) / 1000;
  const rate = seconds > 0.2 ? (done - before) / seconds : null;
  return { done, rate, left: rate ? (most - done) / rate : null };
}
