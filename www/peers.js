// A file from other people's tabs. The engine that lends also fetches: it links to tabs that hold the file, asks the relay for
// what they lack, and passes on what is here until the person ends it.

import { measured } from "./download.js";
import { Session } from "./session.js";

/** The version of what people agree to on the model page, apart from those of lending. Raise it with every change. */
const TEXT_VERSION = 2001;
/** A person agrees for so long, in hours; leaving the page ends it sooner. */
const HOURS = 4;
/** Longest time until the engine is there, in milliseconds. */
const START_MS = 60_000;
/** Longest time without a byte, in milliseconds. */
const SILENCE_MS = 20_000;

export class Peers {
  #session = null;
  #fail = null;

  /** @param {(now: {state: string, tabs: number, fromPeers: number, fromRelay: number, toPeers: number} | null) => void} onChange
   *   hears how it goes; `null` when it ended. */
  constructor(onChange) {
    this.onChange = onChange;
  }

  /**
   * Fetches a file of a known length, and goes on passing it on. Call it from a trusted click only. Whether the bytes are those
   * of the hash was checked. Rejects if it cannot be had this way, or was ended.
   */
  fetch({ hash, bytes, onProgress }) {
    this.stop();
    return new Promise((resolve, reject) => {
      const seen = [[performance.now(), 0]];
      let [timer, got] = [undefined, -1];
      const settle = () => {
        clearTimeout(timer);
        if (this.#fail === fail) this.#fail = null;
      };
      const fail = (why) => {
        settle();
        session.stop();
        reject(new Error(why));
      };
      const session = new Session({
        // Nobody in particular: what somebody tries is not linked to what somebody lends.
        key: null,
        log: null,
        remember: false,
        textVersion: TEXT_VERSION,
        onView: (view) => {
          const [fromPeers, fromRelay] = [view.fromPeers, view.fromRelay];
          const tabs = (view.peers ?? []).filter(({ path }) => path !== "connecting").length;
          this.onChange({ state: view.state, tabs, fromPeers, fromRelay, toPeers: view.toPeers });
          if (this.#fail !== fail || fromPeers + fromRelay === got) return;
          got = fromPeers + fromRelay;
          onProgress(measured(seen, Math.min(got, bytes), bytes));
          clearTimeout(timer);
          timer = setTimeout(fail, SILENCE_MS, "nothing came for some time");
        },
        onFetched: (file) => {
          if (file.hash !== hash) return;
          if (!file.bytes) return fail("the relay does not give it out");
          settle();
          resolve(file.bytes);
        },
        onEnd: ({ failed }) => {
          if (this.#session === session) {
            this.#session = null;
            this.onChange(null);
          }
          if (this.#fail === fail) fail(failed ?? "it was ended");
        },
      });
      this.#session = session;
      this.#fail = fail;
      timer = setTimeout(fail, START_MS, "the engine does not come");
      session.fetch({ hash, bytes, hours: HOURS });
    });
  }

  /** Ends it: no link is left, and nothing is passed on any more. */
  stop() {
    if (this.#fail) this.#fail("it was ended");
    else this.#session?.stop();
  }

  /** The same at once, where nothing can wait: the page is left. */
  kill() {
    this.stop();
    this.#session?.kill();
  }
}
