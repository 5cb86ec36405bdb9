// Where a tab goes when its relay is gone, or was replaced: to the mirror that people appointed in the public log. A mirror that
// says so is believed only after its whole log was read here: it has to hold the decision, and to go on from what this browser saw.

import * as witness from "./witness.js";
import { fetchBytes, fetchText, loadGovernance } from "./trust.js";

/** Pause between two looks, in milliseconds. */
const LOOK_MS = 5_000;
/** A relay that did not answer for so long is gone, or as good as, in milliseconds: a restart takes less. */
const SILENCE_MS = 15_000;
/** Pause between two looks at mirrors while the relay answers, in milliseconds: it may have been voted out. */
const MIRRORS_LOOK_MS = 60_000;
/** Longest wait for an answer here, in milliseconds. */
const PATIENCE_MS = 4_000;

const ask = async (url) =>
  JSON.parse(await fetchText(`${url}/api/v1/mirrors`, { signal: AbortSignal.timeout(PATIENCE_MS) }));

/** Reads a relay's whole log against its checkpoint. */
async function read(url, key, { Reader }) {
  const reader = new Reader(key);
  try {
    reader.begin(await fetchText(`${url}/log/checkpoint`));
    for (let wanted; (wanted = JSON.parse(reader.wanted()));) {
      const [path, full] = await fetchBytes(`${url}/log/${wanted.path}`).then(
        (bytes) => [bytes, false],
        // A partial file that is gone was replaced by the full one.
        async () => [await fetchBytes(`${url}/log/${wanted.full}`), true],
      );
      reader.take(path, full);
    }
    return reader;
  } catch (error) {
    reader.free();
    throw error;
  }
}

/** Entries of a checkpoint: its second line. */
const sizeOf = (note) => Number(note.split("\n")[1]);

/** The relay at an address, if the log says that it goes on from what is remembered: `{name, url, lost, key, checkpoint}`. */
async function appointed(url, known, governance) {
  const key = (await fetchText(`${url}/log/key`)).trim();
  const checkpoint = await fetchText(`${url}/log/checkpoint`);
  const reader = await read(url, key, governance);
  try {
    // Where entries were lost there is no such proof, and where none were, nothing else is needed.
    const since = await fetchText(`${url}/api/v1/log/since/${sizeOf(known.checkpoint)}`).catch(() => "");
    const predecessor = await fetchText(`${url}/log/predecessor`).catch(() => "");
    const taken = JSON.parse(reader.taken(key, known.key, known.checkpoint, since, predecessor));
    if (new URL(taken.url).origin !== new URL(url).origin) throw new Error("people appointed a relay at another address");
    return { ...taken, url: new URL(url).origin, key, checkpoint };
  } finally {
    reader.free();
  }
}

/** Looks for where to go, until it ends or found it. */
export class Mirrors {
  #timer;
  #ended = false;
  #listed = null;
  /** What reads logs: it has to be here before the relay is gone that it comes from. */
  #governance = null;
  #heard = performance.now();
  #asked = performance.now();

  /** @param {{relay: string, onFound: (next: object) => void}} options `relay` is where the tab is now. */
  constructor({ relay, onFound }) {
    Object.assign(this, { relay, onFound });
    this.#again(0);
  }

  end() {
    this.#ended = true;
    clearTimeout(this.#timer);
  }

  #again(pause) {
    this.#timer = setTimeout(async () => {
      const next = await this.#look().catch(() => null);
      if (this.#ended) return;
      if (next) this.onFound(next);
      else this.#again(LOOK_MS);
    }, pause);
  }

  async #look() {
    try {
      this.#listed = await ask(this.relay);
      this.#heard = performance.now();
      if (this.#listed.mirrors.length) this.#governance ??= await loadGovernance();
    } catch {
      // It is silent: that is counted below.
    }
    const now = performance.now();
    const known = witness.memory();
    const isDue = now - this.#heard > SILENCE_MS || now - this.#asked > MIRRORS_LOOK_MS;
    if (!isDue || !this.#governance || !known?.checkpoint) return null;
    this.#asked = now;
    for (const { url } of this.#listed.mirrors) {
      if (url === this.relay || this.#ended) continue;
      try {
        const { stage, origin } = await ask(url);
        if (stage === "leading" && origin === this.#listed.origin) return await appointed(url, known, this.#governance);
      } catch (error) {
        console.warn(`The mirror at ${url} was not followed: ${error?.message ?? error}`);
      }
    }
    return null;
  }
}
