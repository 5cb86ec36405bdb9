// <potluck-widget>: lets visitors of a page lend their tab, if they want to.
//
//   <script src="https://RELAY/embed.js" async crossorigin="anonymous"></script>
//   <potluck-widget preset-max="balanced" theme="auto"></potluck-widget>
//
// This file makes a frame of the relay's origin and nothing else. Consent, computing and the switch that ends it live in
// that frame, where this page reads and scripts nothing. Attributes: `preset-max` (quiet, balanced, full) can only lower
// what a visitor may choose, `project` names what the page speaks of, `theme` is auto, light or dark, `relay` is another
// relay's address. The style sheet of the page reaches `::part(frame)`, and sets --potluck-accent (a color, #rrggbb) and
// --potluck-radius (a length in px). There is no attribute that starts anything.
//
// Events: `potluck-state` with {state}: idle, asking, lending, paused, ended or refused; `potluck-result` with {accepted}.
(() => {
  "use strict";
  // A second copy of this file finds the element defined.
  if (!globalThis.customElements || customElements.get("potluck-widget")) return;

  const HOME = document.currentScript?.src && new URL(document.currentScript.src).origin;
  const STATES = ["idle", "asking", "lending", "paused", "ended", "refused"];
  /** Height of the frame in CSS pixels: what it asks for, within these, */
  const HEIGHTS = [120, 900];
  /** And no more of the window than this, so that all of it can be seen at once. */
  const OF_WINDOW = 0.85;
  // Modals: the browser's own question, which no page can hide. Links of the frame open windows that are not sandboxed: the
  // relay's own pages refuse to be.
  const SANDBOX = "allow-scripts allow-same-origin allow-modals allow-popups allow-popups-to-escape-sandbox";

  /** The relay's origin, or nothing if the page names none that can be one. */
  function origin(address) {
    try {
      const { protocol, origin } = new URL(address);
      return /^https?:$/.test(protocol) ? origin : undefined;
    } catch {
      return undefined;
    }
  }

  class PotluckWidget extends HTMLElement {
    static observedAttributes = ["project", "preset-max", "theme", "relay"];
    #frame = null;
    #relay;
    #address = "";
    #state = "idle";
    #accepted = 0;
    #hear = (event) => {
      if (event.source === this.#frame?.contentWindow && event.origin === this.#relay) this.#heard(event.data);
    };

    /** What the frame does: see STATES. */
    get state() { return this.#state; }
    /** Results of this visit that the relay accepted. */
    get accepted() { return this.#accepted; }

    connectedCallback() {
      // Elements that were made before this file came may have properties of the same names.
      for (const name of ["project", "presetMax", "theme", "relay"]) {
        if (!Object.hasOwn(this, name)) continue;
        const value = this[name];
        delete this[name];
        this[name] = value;
      }
      addEventListener("message", this.#hear);
      this.#show();
    }

    /** Taken out of the page: the frame is gone, and with it all work. */
    disconnectedCallback() {
      removeEventListener("message", this.#hear);
      this.#frame?.remove();
      this.#frame = null;
      this.#address = "";
      this.#become("idle");
    }

    attributeChangedCallback() {
      if (this.isConnected) this.#show();
    }

    /** Ends the work, as the visitor's own Stop does. */
    stop() {
      if (this.#relay) this.#frame?.contentWindow?.postMessage({ potluck: 1, type: "stop" }, this.#relay);
    }

    #show() {
      this.#relay = this.hasAttribute("relay") ? origin(this.relay) : HOME;
      if (!this.#relay) return console.warn("<potluck-widget>: relay is no http or https address");
      const style = getComputedStyle(this);
      const query = new URLSearchParams();
      for (const [name, value] of [
        ["project", this.project],
        ["max", this.presetMax],
        ["theme", this.theme],
        ["accent", style.getPropertyValue("--potluck-accent").trim()],
        ["radius", style.getPropertyValue("--potluck-radius").trim()],
      ]) {
        if (value) query.set(name, value);
      }
      const address = `${this.#relay}/widget.html?${query}`;
      if (address === this.#address) return;
      this.#address = address;
      this.#become("idle");
      if (this.#frame) this.#frame.src = address;
      else this.#make(address);
    }

    #make(address) {
      const root = this.shadowRoot ?? this.attachShadow({ mode: "open" });
      const frame = document.createElement("iframe");
      frame.setAttribute("part", "frame");
      frame.setAttribute("sandbox", SANDBOX);
      frame.referrerPolicy = "origin";
      frame.loading = "lazy";
      frame.title = "Lend this tab to a shared computation";
      // No style element: the page's policy may forbid it.
      try {
        const sheet = new CSSStyleSheet();
        sheet.replaceSync(":host{display:block}:host([hidden]){display:none}iframe{display:block;border:0;border-radius:var(--potluck-radius,12px);width:100%;height:180px}");
        root.adoptedStyleSheets = [sheet];
      } catch {
        this.style.display ||= "block";
        Object.assign(frame.style, { display: "block", border: "0", width: "100%", height: "180px" });
      }
      frame.src = address;
      this.#frame = frame;
      root.replaceChildren(frame);
    }

    #heard(message) {
      if (message?.potluck !== 1) return;
      const { type, state, accepted, height } = message;
      if (type === "hello") {
        // Tells the frame where it is, in browsers that do not say so themselves.
        this.#frame.contentWindow.postMessage({ potluck: 1, type: "here" }, this.#relay);
      } else if (type === "state" && STATES.includes(state)) {
        this.#become(state);
      } else if (type === "result" && Number.isSafeInteger(accepted) && accepted >= 0) {
        this.#accepted = accepted;
        this.#say("potluck-result", { accepted });
      } else if (type === "height" && Number.isFinite(height)) {
        const most = Math.min(HEIGHTS[1], Math.max(innerHeight * OF_WINDOW, 2 * HEIGHTS[0]));
        this.#frame.style.height = `${Math.ceil(Math.min(Math.max(height, HEIGHTS[0]), most))}px`;
      }
    }

    #become(state) {
      if (state === this.#state) return;
      this.#state = state;
      if (state === "idle") this.#accepted = 0;
      this.#say("potluck-state", { state });
    }

    #say(name, detail) {
      this.dispatchEvent(new CustomEvent(name, { detail, bubbles: true, composed: true }));
    }
  }

  // Attributes as properties.
  for (const attribute of PotluckWidget.observedAttributes) {
    const name = attribute.replace(/-(.)/, (_, letter) => letter.toUpperCase());
    Object.defineProperty(PotluckWidget.prototype, name, {
      configurable: true,
      enumerable: true,
      get() { return this.getAttribute(attribute) ?? ""; },
      set(value) {
        if (value === null || value === undefined) this.removeAttribute(attribute);
        else this.setAttribute(attribute, value);
      },
    });
  }

  customElements.define("potluck-widget", PotluckWidget);
})();
