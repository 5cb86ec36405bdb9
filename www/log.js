// A log as a page reads it: from the relay, or from any copy of its files on this site (`?log=/path/`).

import * as witness from "./witness.js";
import { Refusal, fetchBytes, fetchText, loadGovernance } from "./trust.js";

/** Pause between two looks at a log that is shown, in milliseconds. */
const FOLLOW_MS = 3000;

/** Where the log's files are: below this site, whatever the page's address says. */
export function place() {
  const asked = new URLSearchParams(location.search).get("log");
  const address = new URL(asked ?? "/log/", location.href);
  if (address.origin !== location.origin) throw new Error("a log can only be read from this site: give a path");
  return address.href.endsWith("/") ? address.href : `${address.href}/`;
}

export class Log {
  #reader;
  #reading = null;

  /** @param {(progress: {read: number, size: number}) => void} onProgress */
  constructor(onProgress) {
    this.onProgress = onProgress;
    this.base = place();
    /** The log's key, as signed-note writes keys. */
    this.key = "";
    /** Entries that were read and checked. */
    this.size = 0;
  }

  /**
   * Reads the log to its end, or what came since. Resolves with whether anything came. What it rejects with says why the
   * log cannot be believed; a reader that was told wrong entries begins anew the next time.
   */
  read() {
    this.#reading ??= this.#read().finally(() => { this.#reading = null; });
    return this.#reading;
  }

  async #read() {
    const trust = await loadGovernance();
    const known = this.#isHere() ? witness.memory() : null;
    const key = (await fetchText(`${this.base}key`)).trim();
    if (known && known.key !== key) {
      throw new Error("this log has another key than the one that this browser remembers: it is another log");
    }
    if (this.#reader && key !== this.key) throw new Error("the log's key changed while it was read");
    this.key = key;
    const before = this.size;
    try {
      if (!this.#reader) {
        this.#reader = new trust.Reader(key);
        // First up to what this browser saw before: if entries changed since, that shows here.
        if (known) await this.#upTo(known.checkpoint);
      }
      await this.#upTo(await fetchText(`${this.base}checkpoint`));
    } catch (error) {
      // Where the network failed, it can go on.
      if (error instanceof WrongLog) {
        this.#reader?.free();
        this.#reader = null;
        this.size = 0;
      }
      throw error;
    }
    return this.size !== before;
  }

  #isHere() {
    return new URL(this.base).pathname === "/log/";
  }

  async #upTo(note) {
    let progress = told(() => this.#reader.begin(note));
    this.onProgress(progress);
    for (let wanted; (wanted = JSON.parse(this.#reader.wanted()));) {
      const { bytes, full } = await this.#fetch(wanted);
      progress = told(() => this.#reader.take(bytes, full));
      this.onProgress(progress);
    }
    this.size = progress.read;
  }

  /** A partial file that is gone was replaced by the full one. */
  async #fetch({ path, full }) {
    try {
      return { bytes: await fetchBytes(this.base + path), full: false };
    } catch (error) {
      if (!(error instanceof Refusal) || error.status !== 404 || path === full) throw error;
      return { bytes: await fetchBytes(this.base + full), full: true };
    }
  }

  overview() { return JSON.parse(this.#reader.overview(Date.now())); }
  proposal(id) { return JSON.parse(this.#reader.proposal(id, Date.now())); }
  model(name) { return JSON.parse(this.#reader.model(name, Date.now())); }
  holder(key) { return JSON.parse(this.#reader.holder(key)); }
}

/** What was read is not what the log signed. */
class WrongLog extends Error {}

function told(step) {
  try {
    return JSON.parse(step());
  } catch (error) {
    throw new WrongLog(error.message);
  }
}

/**
 * Reads the log and shows how far it is; again whenever it grew, every few seconds. `onChange` is called after each.
 * Resolves, after the first time, with a function that looks at once.
 */
export async function follow({ onChange, elements: { progress, words, reading, problem } }) {
  const { dataset } = document.body;
  const failed = (error) => {
    dataset.log = "problem";
    problem.hidden = false;
    problem.textContent = `The log cannot be read: ${error?.message ?? error}`;
  };
  let log;
  try {
    log = new Log(({ read, size }) => {
      progress.max = Math.max(1, size);
      progress.value = read;
      words.textContent = `${read.toLocaleString("en")} of ${size.toLocaleString("en")} entries read and checked`;
    });
  } catch (error) {
    failed(error);
    return () => {};
  }
  let shown = false;
  const look = async () => {
    try {
      const grew = await log.read();
      problem.hidden = reading.hidden = true;
      if (grew || !shown) await onChange(log);
      shown = true;
      dataset.entries = log.size;
      dataset.log = "verified";
    } catch (error) {
      failed(error);
    }
  };
  await look();
  setInterval(() => { if (!document.hidden) look(); }, FOLLOW_MS);
  return look;
}
