// Where a tab goes when its relay is gone, or was replaced: to the mirror that people appointed in the public log. A mirror that
// says so is believed only after its whole log was read here: it has to hold the decision, and to go on from what this browser saw.

import * as witness from "./witness.js";
import { fetchBytes, fetchText, loadGovernance } from "./trust.js";

/** Pause between two looks, in milliseconds. */
const LOOK_MS = 10_000;
/** A relay that did not answer for so long is gone, or as good as, in milliseconds: a restart takes less. */
const SILENCE_MS = 15_000;
/** Pause between two looks at mirrors while the relay answers, in milliseconds: it may have been voted out. */
const MIRRORS_LOOK_MS = 600_000;
/** Pause before a mirror is asked again whose log did not hold what it said, in milliseconds; twice as long each time. */
const DOUBT_MS = 60_000;
/** Longest wait for a short answer here, in milliseconds. */
const PATIENCE_MS = 4_000;
/** Longest time that a whole log may take, in milliseconds. */
const READ_MS = 300_000;
/** Most entries that are read here: a gigabyte of them. */
const MAX_ENTRIES = 4 << 20;

/** Fetches from one relay, until a signal or a time. */
function from(url, signal, patience) {
  const options = { signal: AbortSignal.any([signal, AbortSignal.timeout(patience)]) };
  return {
    text: (path) => fetchText(url + path, options),
    bytes: (path) => fetchBytes(url + path, options),
  };
}

const ask = async (url, signal) => JSON.parse(await from(url, signal, PATIENCE_MS).text("/api/v1/mirrors"));

/** Reads a log up to a checkpoint. */
async function read(reader, note, source) {
  if (JSON.parse(reader.begin(note)).size > MAX_ENTRIES) throw new Error("its log is too long to be read in a tab");
  for (let wanted; (wanted = JSON.parse(reader.wanted()));) {
    const [bytes, full] = await source.bytes(`/log/${wanted.path}`).then(
      (bytes) => [bytes, false],
      // A partial file that is gone was replaced by the full one.
      async () => [await source.bytes(`/log/${wanted.full}`), true],
    );
    reader.take(bytes, full);
  }
}

/**
 * The relay at an address, if its log says that it goes on from what is remembered:
 * `{name, url, lost, key, checkpoint}`.
 */
export async function appointed(url, known, signal = new AbortController().signal, governance = null) {
  const { Reader } = governance ?? (await loadGovernance());
  const source = from(url, signal, READ_MS);
  const [key, predecessor, checkpoint] = await Promise.all(["/log/key", "/log/predecessor", "/log/checkpoint"].map(source.text));
  const reader = new Reader(key);
  try {
    reader.mark(known.checkpoint);
    reader.mark(predecessor);
    await read(reader, checkpoint, source);
    const taken = JSON.parse(reader.taken(known.key, known.checkpoint, predecessor));
    return { ...taken, url: new URL(taken.url).origin, key: key.trim(), checkpoint };
  } finally {
    reader.free();
  }
}

/** Looks for where to go, until it ends or found it. */
export class Mirrors {
  #timer;
  #stop = new AbortController();
  #listed = null;
  /** What reads logs: it has to be here before the relay is gone that it comes from. */
  #governance = null;
  #heard = performance.now();
  #asked = performance.now();
  /** Mirrors whose logs did not hold what they said: until when each is left alone, and for how long the next time. */
  #doubted = new Map();

  /**
   * @param {{relay: string, mayAsk: () => boolean, onFound: (next: object) => void}} options `relay` is where the tab is now;
   *   `mayAsk` whether the tab may use the network for this at the moment.
   */
  constructor({ relay, mayAsk, onFound }) {
    Object.assign(this, { relay: new URL(relay).origin, mayAsk, onFound });
    this.#again(0);
  }

  /** Nothing is asked any more, and what was asked is given up. */
  end() {
    this.#stop.abort();
    clearTimeout(this.#timer);
  }

  #again(pause) {
    this.#timer = setTimeout(async () => {
      const next = this.mayAsk() ? await this.#look().catch(() => null) : null;
      if (this.#stop.signal.aborted) return;
      if (next) this.onFound(next);
      else this.#again(LOOK_MS);
    }, pause);
  }

  async #look() {
    const { signal } = this.#stop;
    try {
      const said = await ask(this.relay, signal);
      this.#heard = performance.now();
      // A relay that was voted out could leave the others away.
      if (said.mirrors.length || !this.#listed) this.#listed = said;
      if (this.#listed.mirrors.length) this.#governance ??= await loadGovernance();
    } catch {
      // It is silent: that is counted below.
    }
    const now = performance.now();
    const known = witness.memory();
    const isDue = now - this.#heard > SILENCE_MS || now - this.#asked > MIRRORS_LOOK_MS;
    if (!isDue || !this.#governance || !known?.checkpoint) return null;
    this.#asked = now;
    for (const mirror of this.#listed.mirrors) {
      const url = new URL(mirror.url).origin;
      const doubt = this.#doubted.get(url);
      if (url === this.relay || signal.aborted || doubt?.until > now) continue;
      const found = await this.#try(url, known).catch((error) => error);
      if (found && !(found instanceof Error)) return found;
      if (found && !signal.aborted) {
        console.warn(`The mirror at ${url} was not followed: ${found.message}`);
        const pause = 2 * (doubt?.pause ?? DOUBT_MS / 2);
        this.#doubted.set(url, { until: performance.now() + pause, pause });
      }
    }
    return null;
  }

  /** The mirror at an address, if it leads; `null` if it does not say so, or nothing at all. */
  async #try(url, known) {
    const { signal } = this.#stop;
    const said = await ask(url, signal).catch(() => null);
    const last = said?.successions.at(-1)?.mirror.url;
    // What it says of itself costs little; reading its log does not.
    if (said?.stage !== "leading" || said.origin !== this.#listed.origin || !last || new URL(last).origin !== url) return null;
    const found = await appointed(url, known, signal, this.#governance);
    if (found.url !== url) throw new Error("people appointed a relay at another address");
    return found;
  }
}
