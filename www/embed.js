// <potluck-widget>: lets visitors of a page lend their tab, if they want to.
//
//   <script src="https://RELAY/embed.js" async crossorigin="anonymous"></script>
//   <potluck-widget preset-max="balanced" theme="auto"></potluck-widget>
//
// This file draws a card with a button, or uses the button that the element has in the page already, which moves nothing in it:
// `<potluck-widget><button type="button">Lend this tab</button></potluck-widget>`. Where every element of a page has one,
// `data-potluck="lazy"` on the script costs the page least: the element is defined when a visitor first comes near it. A frame
// costs a page several times as much, and comes when a visitor presses the button.
// Consent, computing and the switch that ends it live in that frame, of the relay's origin, where this page reads and scripts
// nothing. Attributes: `preset-max` (quiet, balanced, full) can only lower what a visitor may choose, `project` names what the
// page speaks of, `theme` is auto, light or dark, `relay` is another relay's address. The style sheet of the page reaches
// `::part(card)`, `::part(button)` and `::part(frame)`, and sets --potluck-accent (a color, #rrggbb) and --potluck-radius (a
// length in px). There is no attribute that starts anything.
//
// Events: `potluck-state` with {state}: idle, asking, lending, paused, ended or refused; `potluck-result` with {accepted}.
(() => {
  "use strict";
  const NAME = "potluck-widget";
  // A list of scripts: the script itself, as an object, costs a page as much as the rest of this file.
  const lazy = document.querySelectorAll("script[data-potluck=lazy]");
  if (!lazy.length) return define(document.currentScript);
  // A click that comes first still reaches the element.
  const NEAR = ["pointerover", "focusin", "click"];
  const near = (event) => {
    if (!event.composedPath().some(({ localName }) => localName === NAME)) return;
    for (const type of NEAR) document.removeEventListener(type, near, true);
    define(lazy[0]);
  };
  for (const type of NEAR) document.addEventListener(type, near, true);

  function define(script) {
    // A second copy of this file finds the element defined.
    if (!globalThis.customElements || customElements.get(NAME)) return;

    const HOME = script?.src && new URL(script.src).origin;
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

    // Colors of the frame's, see widget.css, in the site's own font. No style element: the page's policy may forbid it.
    const STYLE = `:host { display: block; color-scheme: light dark }
:host([theme=light]) { color-scheme: light }
:host([theme=dark]) { color-scheme: dark }
:host([hidden]) { display: none }
iframe, div { display: block; border: 0; border-radius: var(--potluck-radius, 12px); width: 100%; height: 180px }
div { box-sizing: border-box; height: auto; padding: 1rem 1.1rem; border: 1px solid light-dark(#d9d4c6, #2d3b40); background: light-dark(#fffdf8, #182226); color: light-dark(#55666a, #a3b3b3) }
p { margin: 0.4em 0 0.9em }
b, button { color: light-dark(#1c2b2e, #e8ecea) }
button { font: inherit; background: none; border: 2px solid var(--potluck-accent, light-dark(#17565a, #7fc4b4)); border-radius: 9px; padding: 0.5rem 1rem; min-height: 44px; cursor: pointer }`;
    let sheet;
    /** An element with these children. */
    const make = (name, ...children) => {
      const element = document.createElement(name);
      element.append(...children);
      return element;
    };

    class PotluckWidget extends HTMLElement {
      static observedAttributes = ["project", "preset-max", "theme", "relay"];
      #frame = null;
      #relay;
      #address = "";
      #state = "idle";
      #accepted = 0;
      #press = (event) => {
        const pressed = event.composedPath().some(({ localName }) => localName === "button");
        if (!pressed || !event.isTrusted || !this.#relay || this.#frame) return;
        event.preventDefault();
        this.#open();
      };
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
        this.addEventListener("click", this.#press);
        this.#relay = this.#named();
        // The element's own button may not be parsed yet.
        if (document.readyState !== "loading" || this.firstElementChild) return this.#show();
        addEventListener("DOMContentLoaded", () => this.isConnected && this.#show(), { once: true });
      }

      /** Taken out of the page: the frame is gone, and with it all work. */
      disconnectedCallback() {
        removeEventListener("message", this.#hear);
        this.#frame = null;
        this.shadowRoot?.replaceChildren();
        this.#become("idle");
      }

      attributeChangedCallback() {
        if (this.isConnected) this.#show();
      }

      /** Ends the work, as the visitor's own Stop does. */
      stop() {
        if (this.#relay) this.#frame?.contentWindow?.postMessage({ potluck: 1, type: "stop" }, this.#relay);
      }

      /** The relay's origin, if the page names one that can be. */
      #named() {
        return this.hasAttribute("relay") ? origin(this.relay) : HOME;
      }

      /** The card; where a frame is already, the frame anew, if another is asked for. */
      #show() {
        this.#relay = this.#named();
        if (!this.#relay) return console.warn("<potluck-widget>: relay is no http or https address");
        if (!this.#frame) return this.#card();
        const address = this.#wanted();
        if (address === this.#address) return;
        this.#address = address;
        this.#become("idle");
        this.#frame.src = address;
      }

      /** The frame's address. */
      #wanted() {
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
        return `${this.#relay}/widget.html?${query}`;
      }

      #root() {
        const root = this.shadowRoot ?? this.attachShadow({ mode: "open" });
        try {
          if (!sheet) (sheet = new CSSStyleSheet()).replaceSync(STYLE);
          root.adoptedStyleSheets = [sheet];
        } catch {
          this.style.display ||= "block";
        }
        return root;
      }

      #card() {
        if (this.querySelector("button")) return this.shadowRoot?.replaceChildren(make("slot"));
        const root = this.#root();
        if (root.firstChild) return;
        const button = make("button", "Lend this tab");
        button.type = "button";
        button.part = "button";
        const card = make("div", make("b", "Lend this tab to a shared computation"),
          make("p", "Many browsers compute together, each a small part. Nothing runs unless you agree."), button);
        card.part = "card";
        card.lang = "en";
        root.replaceChildren(card);
      }

      #open() {
        const root = this.#root();
        const frame = document.createElement("iframe");
        frame.part = "frame";
        frame.setAttribute("sandbox", SANDBOX);
        frame.referrerPolicy = "origin";
        frame.title = "Lend this tab to a shared computation";
        frame.lang = "en";
        if (!sheet) Object.assign(frame.style, { display: "block", border: "0", width: "100%", height: "180px" });
        this.#address = this.#wanted();
        // It asks at once, and where it comes anew because the page changed an attribute, it does not.
        frame.src = `${this.#address}&ask=1`;
        this.#frame = frame;
        root.replaceChildren(frame);
        // The keyboard goes where the button led to.
        frame.focus();
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

    customElements.define(NAME, PotluckWidget);
  }
})();
