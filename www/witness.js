// The tab as witness of the relay's public log. It remembers the log's key and last checkpoint, and looks before work
// starts and while it goes on whether the log still begins with what it remembers. What that amounts to, the module of
// the log decides; here is what is fetched, kept and told.

import * as identity from "./identity.js";
import { Refusal, fetchBytes, fetchText, load } from "./trust.js";

/** Pause between two looks while the tab lends, in milliseconds. */
const PAUSE_MS = 10_000;
/** Pause before the next try while the relay does not answer and no work has begun, in milliseconds. */
const RETRY_MS = 1_000;
/** A relay that gives work, and for this long no log that can be checked, gets no more: a dozen looks. */
const UNCHECKED_MS = 120_000;

/** What is remembered of this relay's log: `{key, checkpoint}`. */
const MEMORY = "potluck.log";
/** Why this browser does not work for this relay: `{kind, message, evidence, at}`. */
const ALARM = "potluck.log.alarm";

/** For browsers that ask not to be remembered: as long as the page. */
const unwritten = new Map();

function read(name) {
  try {
    return JSON.parse(localStorage.getItem(name)) ?? unwritten.get(name) ?? null;
  } catch {
    return unwritten.get(name) ?? null;
  }
}

function write(name, value) {
  unwritten.set(name, value);
  try {
    if (identity.wantsNoMemory()) throw new Error("not remembered");
    localStorage.setItem(name, JSON.stringify(value));
  } catch {
    // Storage may be off or full, or not wanted: then it lasts as long as the page, and nothing older comes back in its place.
    forgetStored(name);
  }
}

function forgetStored(name) {
  try {
    localStorage.removeItem(name);
  } catch {
    // Nothing was stored either.
  }
}

function remove(name) {
  unwritten.delete(name);
  forgetStored(name);
}

/** Why this browser does not work for this relay; `null` if it does. */
export const alarm = () => read(ALARM);

/** What is remembered of the log. */
export const memory = () => read(MEMORY);

/** The person says to work for this relay all the same: its log as it is now counts from here on. */
export function startAnew() {
  remove(ALARM);
  remove(MEMORY);
}

/** Nothing is remembered any more. An alarm stays: it is about the relay, not about the person. */
export const forget = () => remove(MEMORY);

/** Another relay goes on with the log: its key and checkpoint count from here on. */
export const passOn = ({ key, checkpoint, url }) => write(MEMORY, { key, checkpoint, relay: url });

export class Watch {
  #witness = null;
  #timer;
  #ended = false;
  #uncheckedSince = null;
  /** The key and checkpoint that this one goes by. */
  #known = null;

  /**
   * @param {{key: ?string, base?: string, onLook: (found: object) => void, onAlarm: (alarm: object) => void,
   *   onUnchecked: (why: string) => void, isWorking: () => boolean}} options `base` is the relay's address, if it is not
   *   that of the page.
   */
  constructor(options) {
    Object.assign(this, { base: "" }, options);
  }

  /** Looks until the relay answers, and then again and again. Resolves with what the first answer came to: see `look`. */
  async start() {
    let found = await this.look();
    while (found.state === "silent" && !this.#ended) {
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
      found = await this.look();
    }
    this.#again();
    return found;
  }

  end() {
    this.#ended = true;
    clearTimeout(this.#timer);
    this.#witness?.free();
    this.#witness = null;
  }

  #again() {
    if (this.#ended) return;
    this.#timer = setTimeout(async () => {
      await this.look();
      this.#again();
    }, PAUSE_MS);
  }

  /**
   * One look: `consistent`, `alarm`, `silent` (the relay does not answer), `unchecked` (it answers, and its log cannot
   * be checked), `none` (it keeps no log, and never did), or `ended`.
   */
  async look() {
    let found;
    try {
      found = await this.#look();
    } catch (error) {
      const refused = error instanceof Refusal;
      found = { state: refused ? "unchecked" : "silent", why: String(error?.message ?? error) };
    }
    if (this.#ended) return found;
    this.#unchecked(found);
    this.onLook(found);
    if (found.state === "alarm") this.#raise(found.alarm);
    return found;
  }

  #unchecked({ state, why }) {
    if (!["unchecked", "silent"].includes(state) || !this.isWorking()) {
      this.#uncheckedSince = null;
      return;
    }
    this.#uncheckedSince ??= performance.now();
    if (performance.now() - this.#uncheckedSince > UNCHECKED_MS) this.onUnchecked(why);
  }

  async #look() {
    const trust = await load();
    // Another tab may have gone to another relay of the log meanwhile: what this one knows stays what it goes by.
    const known = this.#known ?? memory();
    let key = known?.key;
    if (!key) {
      try {
        key = (await fetchText(`${this.base}/log/key`)).trim();
      } catch (error) {
        if (error instanceof Refusal && error.status === 404) return { state: "none" };
        throw error;
      }
    }
    if (this.#ended) return { state: "ended" };
    this.#witness ??= new trust.Witness(key, known?.checkpoint, this.key ?? undefined);
    let verdict = await this.#ask();
    if (verdict.verdict === "unproven" && !this.#ended) verdict = await this.#prove(verdict);
    return this.#conclude(key, verdict);
  }

  /** Asks the relay for its checkpoint, and for the proof that it goes on from the last one. */
  async #ask() {
    const size = this.#witness.size();
    let answer;
    try {
      answer = await fetchText(`${this.base}/api/v1/log/since/${size}`);
    } catch (error) {
      if (!(error instanceof Refusal) || error.status !== 404) throw error;
      // A log that has just begun has no checkpoint for a second.
      if (size === 0) throw new Error(error.message);
      return this.#shorter();
    }
    if (this.#ended) return { verdict: "ended" };
    return JSON.parse(this.#witness.offer(answer, Date.now() / 1000));
  }

  /** The relay says that it has fewer entries than it signed: it has to show that. */
  async #shorter() {
    try {
      const note = await fetchText(`${this.base}/log/checkpoint`);
      if (this.#ended) return { verdict: "ended" };
      return JSON.parse(this.#witness.offerCheckpoint(note, Date.now() / 1000));
    } catch (error) {
      if (!(error instanceof Refusal) || error.status !== 404) throw error;
      const message = "the relay signed a log before, and shows none any more: its entries are gone";
      return { verdict: "rolled_back", message, notes: this.#witness?.checkpoint() };
    }
  }

  /** A proof that fails proves nothing: the log's own files tell whether it forked. */
  async #prove({ files }) {
    const read = await Promise.all(files.map((path) => fetchBytes(`${this.base}/log/${path}`)));
    if (this.#ended) return { verdict: "ended" };
    return JSON.parse(this.#witness.prove(files, read));
  }

  async #conclude(key, verdict) {
    const known = this.#known ?? memory();
    const { message } = verdict;
    const raised = (kind, evidence) => ({ state: "alarm", alarm: { kind, message, evidence, at: Date.now() } });
    if (this.#ended) return { state: "ended" };
    switch (verdict.verdict) {
      case "accepted":
        this.#known = { ...known, key, checkpoint: verdict.checkpoint };
        // Kept before the cosignature leaves; but not in place of what another tab knows of a relay that took over.
        if ((memory()?.key ?? key) === key) write(MEMORY, this.#known);
        if (verdict.cosigned) this.#cosign(verdict.cosigned);
        return { state: "consistent", size: verdict.size };
      case "fork":
        return raised("fork", verdict.evidence);
      case "rolled_back":
        return raised("rollback", verdict.notes);
      case "invalid":
        return verdict.unsigned ? this.#otherKey(key, message) : { state: "unchecked", why: message };
      default:
        return { state: "ended" };
    }
  }

  /** The checkpoint is not signed by the key that is remembered. */
  async #otherKey(key, why) {
    const now = (await fetchText(`${this.base}/log/key`)).trim();
    if (now === key) return { state: "unchecked", why };
    const passed = await this.#passedOn();
    if (passed) return passed;
    const message = "the relay's log has another key than before: it is another log, or somebody else's";
    const evidence = `was ${key}\nis ${now}\n\n${this.#witness?.checkpoint() ?? ""}`;
    return { state: "alarm", alarm: { kind: "key", message, evidence, at: Date.now() } };
  }

  /** Whether the log passed on to the relay at hand, or from it to another: no alarm then. */
  async #passedOn() {
    const { relay, ...known } = memory() ?? {};
    try {
      const { appointed } = await import("./mirrors.js");
      const next = await appointed(this.base || location.origin, known);
      passOn(next);
      this.#witness?.free();
      this.#known = this.#witness = null;
      return { state: "silent", why: "another relay goes on with the log; it is looked at next" };
    } catch {
      // This one was replaced, as this browser saw before.
      return relay ? { state: "unchecked", why: `people appointed the relay at ${relay} to go on with this log: lend there` } : null;
    }
  }

  /** Tells the relay that this browser found the checkpoint to be the latest. Whether it wants to know is its own affair. */
  #cosign(cosigned) {
    this.#tell("/api/v1/log/cosignatures", "application/json", JSON.stringify(cosigned));
  }

  #tell(address, type, body) {
    return fetchText(this.base + address, { method: "POST", headers: { "content-type": type }, body }).catch(() => {});
  }

  #raise(raised) {
    const before = alarm();
    // A proof takes the place of a suspicion, and is not replaced by one.
    if (before && !(before.kind !== "fork" && raised.kind === "fork")) return;
    write(ALARM, raised);
    if (raised.kind === "fork") this.#tell("/api/v1/log/forks", "text/plain; charset=utf-8", raised.evidence);
    this.onAlarm(raised);
  }
}
