// One lending, from consent to its end: owns the Worker, and makes sure that Stop really stops.

import { startWorker } from "./workers.js";

/** The version of the consent text on this page. Raise it with every change of what people agree to. */
export const TEXT_VERSION = 8;
/** Time that the engine has to say goodbye to the relay; then the Worker is ended, whatever it does. */
const GOODBYE_MS = 200;

/** The address of a relay's socket. */
const socketOf = (relay) => new URL("/api/v1/volunteer", relay.replace(/^http/, "ws")).href;

export class Session {
  #worker;
  #ended = false;
  #goodbye;
  /** Connections to peers exist only on the page's thread: this part of the engine comes when the first is asked for. */
  #links;
  /** What the Worker said about links before that part was there. */
  #early;

  /**
   * Starts the engine. Call it from a trusted click only.
   * @param {{key: ?string, log: ?object, relay?: string, origin?: string, textVersion?: number, remember?: boolean,
   *   cacheMb?: number, onView: (view: object) => void, onFetched?: (file: {hash: string, bytes?: Uint8Array}) => void, onEnd: (why: {failed?: string, expired?: boolean}) => void}} options
   *   `relay` is the relay's address, if it is not that of the page; `origin` is where the person agreed, `textVersion` to what, `remember` whether inputs are kept: as long as the name is;
   *   `cacheMb` how much memory inputs take that may be needed again.
   */
  constructor({ key, log, relay = location.origin, origin = location.origin, textVersion = TEXT_VERSION, remember = true, cacheMb, onView, onFetched, onEnd }) {
    this.onView = onView;
    this.onFetched = onFetched;
    this.onEnd = onEnd;
    this.#worker = startWorker("worker.js", "potluck");
    this.#worker.addEventListener("message", ({ data }) => this.#hear(data));
    this.#worker.addEventListener("error", (event) => {
      this.#end({ failed: event.message || "The engine could not be loaded. Check the connection and try again." });
    });
    this.#post({
      url: socketOf(relay),
      origin,
      textVersion,
      key: key ?? undefined,
      cacheMb,
      remember: remember && key !== null,
      // The key that has to have signed whatever the relay says is in its log.
      log,
    });
  }

  start({ preset, backend, hours, conditions, ignore, peers, membership }) {
    if (membership) this.membership(membership);
    // Conditions first: on battery the device is not even measured.
    this.#post({ kind: "conditions", ...conditions });
    this.#post({ kind: "ignore", ...ignore });
    this.peers(peers);
    this.#post({ kind: "start", preset, backend, hours });
  }

  /** Gets a public file instead of work, from peers where they have it, and passes it on until the end. */
  fetch({ hash, bytes, hours }) {
    this.peers(true);
    this.#post({ kind: "fetch", hash, bytes, hours });
  }

  pause() { this.#post({ kind: "pause" }); }
  resume() { this.#post({ kind: "resume" }); }
  finish() { this.#post({ kind: "finish" }); }
  preset(preset) { this.#post({ kind: "preset", preset }); }
  conditions(conditions) { this.#post({ kind: "conditions", ...conditions }); }
  ignore(ignore) { this.#post({ kind: "ignore", ...ignore }); }
  /** What others may see from now on. */
  membership({ team, listed }) { this.#post({ kind: "membership", team, listed }); }
  /** Nothing more is kept in this browser. */
  forget() { this.#post({ forget: true }); }
  /** Whether to exchange inputs with peers. Some browsers cannot, or are told not to. */
  peers(on) { this.#post({ kind: "peers", on: on && "RTCPeerConnection" in globalThis }); }

  /** Ends everything within a quarter of a second. */
  stop() {
    if (this.#ended || this.#goodbye) return;
    this.#post({ kind: "stop" });
    this.#goodbye = setTimeout(() => this.#end({}), GOODBYE_MS);
  }

  /** Goes on at another relay, which signs the log with `key`: everything that it takes is loaded already. */
  moveTo({ url, key }) {
    this.#post({ move: { url: socketOf(url), key } });
  }

  /** Ends everything now. */
  kill() {
    this.#end({});
  }

  /** Ends everything now, and says why. */
  fail(failed) {
    this.#end({ failed });
  }

  #post(message) {
    if (!this.#ended) this.#worker.postMessage(message);
  }

  #hear({ view, failed, link, module, fetched }) {
    if (this.#ended) return;
    if (fetched) return this.onFetched?.(fetched);
    if (link) return this.#link(link, module);
    if (failed !== undefined) return this.#end({ failed });
    this.onView(view);
    if (view.state === "finished") this.#end({});
    else if (view.state === "failed") this.#end({ failed: view.refusal ? `${view.reason} It says: ${view.refusal}` : view.reason });
    else if (view.state === "consent") this.#end({ expired: true });
  }

  /** The Worker wants something done about a link. */
  #link(message, module) {
    if (this.#links) return this.#links.take(message);
    if (this.#early) return this.#early.push(message);
    this.#early = [message];
    // Where that fails, inputs come from the relay.
    this.#load(module).catch(() => this.peers(false));
  }

  async #load(module) {
    const { default: init, TabLinks } = await import("./potluck-web.js");
    // The Worker has compiled it.
    await init({ module_or_path: module });
    if (this.#ended) return;
    this.#links = new TabLinks(this.#worker);
    this.#early.forEach((message) => this.#links.take(message));
  }

  #end(why) {
    if (this.#ended) return;
    this.#ended = true;
    clearTimeout(this.#goodbye);
    this.#worker.terminate();
    // Closes every connection.
    this.#links?.free();
    this.onEnd(why);
  }
}
