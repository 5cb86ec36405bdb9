// Whether a click in this frame is a person's who saw what it says. The page around may cover the frame, make it
// transparent or tiny, put it under the pointer at the last moment, or click by script: none of that is consent. Browsers do
// not tell of masks and of clips with odd shapes: what they hide, the browser's own question still shows.

/** The smallest frame in which people can read what they agree to, in CSS pixels. */
const SMALLEST = { width: 260, height: 300 };
/** Whoever clicks has had the words before the eyes for so long, in milliseconds. */
const SEEN_MS = 800;
/** A pointer over which the frame was just put has not chosen to be there, in milliseconds. */
const POINTED_MS = 400;
/** A browser that draws looks again within this time; one that does not shows nothing, in milliseconds. */
const LOOK_MS = 1_000;
/** Part of the frame that has to be inside the window. */
const SHOWN = 0.6;
/** How often the browser looks, in milliseconds: the least that it allows. */
const DELAY_MS = 100;

/** Whether this browser tells if something lies over an element. */
const TELLS = "IntersectionObserverEntry" in globalThis && "isVisible" in IntersectionObserverEntry.prototype;

/** Why nothing can be agreed to here, in words. `once-more` is no more than a pause. */
export const REASONS = {
  blind: "This browser does not tell whether something lies over this part of the page. Where nobody can be sure of that, nothing starts.",
  sandbox: "The site keeps this part of the page in a sandbox in which nothing can compute.",
  nameless: "The page around this one does not say which site it belongs to.",
  small: "This part of the page is too small to show all that you would agree to.",
  covered: "Something lies over this part of the page, it is see-through, or not all of it is shown. So that no click is taken from you, nothing starts.",
  unasked: "This browser, or the site’s sandbox, does not let this part of the page ask you in a window of the browser’s own.",
  "once-more": "This has only just come into view. Read it, then click once more.",
};

/** Looks at elements, and calls `tell` with entries as they change. */
function look(elements, tell) {
  const observer = new IntersectionObserver(tell, { trackVisibility: true, delay: DELAY_MS, threshold: [0, 0.25, SHOWN, 0.99] });
  elements.forEach((element) => observer.observe(element));
  return observer;
}

export class Guard {
  #frame;
  #button;
  #entries = new Map();
  #observer = null;
  /** Since when all of it is seen; infinite if it is not. */
  #seenSince = Infinity;
  #pointedSince = Infinity;
  #watchedSince = Infinity;

  /**
   * @param {Element} frame all that the frame shows
   * @param {Element} button what is clicked to agree
   */
  constructor(frame, button) {
    this.#frame = frame;
    this.#button = button;
    const root = document.documentElement;
    root.addEventListener("pointerenter", () => { this.#pointedSince = performance.now(); });
    // The frame may come under a pointer before this file does: then nothing enters any more.
    for (const type of ["pointermove", "pointerdown"]) {
      root.addEventListener(type, () => { this.#pointedSince = Math.min(this.#pointedSince, performance.now()); });
    }
    root.addEventListener("pointerleave", () => { this.#pointedSince = Infinity; });
    addEventListener("resize", () => this.#update());
    document.addEventListener("visibilitychange", () => this.#update());
  }

  /** What cannot be helped: why nothing starts in here whatever people do; `null` if something can. */
  static never(site) {
    if (self.origin === "null") return "sandbox";
    if (!site || site === "null") return "nameless";
    return TELLS ? null : "blind";
  }

  /** What people agree to is shown from now on. */
  watch() {
    this.end();
    this.#watchedSince = performance.now();
    if (TELLS) this.#observer = look([this.#frame, this.#button], (entries) => this.#take(entries));
  }

  end() {
    this.#observer?.disconnect();
    this.#observer = null;
    this.#entries.clear();
    this.#seenSince = Infinity;
  }

  /** Why this click does not count; `null` if it does. A click that no person made is none at all: `script`. */
  async why(event) {
    if (!event.isTrusted || navigator.userActivation?.isActive === false) return "script";
    this.#take(this.#observer?.takeRecords() ?? []);
    const now = performance.now();
    const hovering = event.pointerType === "mouse";
    const fault = this.#fault();
    // The page around may still make room for it.
    if (fault === "covered" && now - this.#watchedSince < SEEN_MS) return "once-more";
    if (fault) return fault;
    if (now - this.#seenSince < SEEN_MS || (hovering && !(now - this.#pointedSince >= POINTED_MS))) return "once-more";
    // What the observer said may be a moment old: look once more.
    await this.#again();
    return this.#fault();
  }

  /** Whether the size is one that people can read at. */
  static isSmall() {
    return innerWidth < SMALLEST.width || innerHeight < SMALLEST.height;
  }

  #fault() {
    if (Guard.isSmall()) return "small";
    const [frame, button] = [this.#frame, this.#button].map((element) => this.#entries.get(element));
    const seen = frame?.isVisible && button?.isVisible && frame.intersectionRatio >= SHOWN && button.intersectionRatio >= 0.99;
    return seen && !document.hidden ? null : "covered";
  }

  #take(entries) {
    for (const entry of entries) this.#entries.set(entry.target, entry);
    this.#update();
  }

  #update() {
    if (!this.#observer) return;
    if (this.#fault()) this.#seenSince = Infinity;
    else this.#seenSince = Math.min(this.#seenSince, performance.now());
  }

  /** Looks anew, from nothing. */
  #again() {
    return new Promise((resolve) => {
      this.#entries.clear();
      const done = () => {
        observer.disconnect();
        clearTimeout(timer);
        resolve();
      };
      const observer = look([this.#frame, this.#button], (entries) => {
        this.#take(entries);
        if (this.#entries.size === 2) done();
      });
      const timer = setTimeout(done, LOOK_MS);
    });
  }
}

/** A question that is answered faster was not shown, in milliseconds. */
const SHOWN_MS = 100;

/** Asks in a window of the browser's own, which no page can cover, mask or click: `yes`, `no`, or `unasked`. */
export function question(words) {
  const asked = performance.now();
  if (confirm(words)) return "yes";
  return performance.now() - asked < SHOWN_MS ? "unasked" : "no";
}

/**
 * Calls `tell` with how the switch that ends the work is seen: `seen`, `covered` (something lies over it, or the frame is
 * too small for it) or `away` (outside of the window). Returns what ends that.
 */
export function watchSwitch(element, tell) {
  let entry = null;
  const say = () => {
    if (!entry) return;
    if (!entry.isIntersecting) tell("away");
    else tell(entry.isVisible && innerWidth >= SMALLEST.width / 2 && innerHeight >= 80 ? "seen" : "covered");
  };
  const observer = look([element], (entries) => {
    entry = entries.at(-1);
    say();
  });
  addEventListener("resize", say);
  return () => {
    observer.disconnect();
    removeEventListener("resize", say);
  };
}
