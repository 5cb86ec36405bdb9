// Puts the relay's own `embed.js` into a page. There is no copy of it here: what visitors agree to is the relay's, and who
// runs the relay can correct it within minutes.

import { PotluckError, originOf } from "./error.js";

export type * from "./widget.js";

/** How long the script may take to come, in ms. */
export const LOAD_LIMIT_MS = 30_000;

export interface LoaderOptions {
  /** The relay's origin. */
  relay: string;
  /**
   * One version of the script, and no other: what `embed` of the relay's `/.well-known/potluck.json` says in `versioned` and
   * `integrity`. Write both down; asking for them when the page loads would prove nothing.
   */
  pinned?: { versioned: string; integrity: string } | undefined;
  /**
   * Define the element when a visitor first comes near it, which costs a page least. For pages where every element has a
   * button of its own.
   */
  lazy?: boolean | undefined;
  /** The page's nonce, if its policy asks for one. */
  nonce?: string | undefined;
  /** Makes the script's address acceptable where the page requires Trusted Types: a policy's `createScriptURL`. */
  trust?: ((address: string) => string | object) | undefined;
}

const NAME = "potluck-widget";
/** Addresses of the script on a relay: of now, and of a version, which no other site has. */
const EVERGREEN = "/embed.js";
const VERSION = /^\/embed\/[0-9a-f]{16}\/embed\.js$/;

/** Scripts that this module put into pages, by their element. */
const loading = new WeakMap<HTMLScriptElement, Promise<void>>();

/**
 * Loads the widget, once, however often it is called. Resolves when the script has run: with `lazy`, the element is defined
 * later. Rejects with a `PotluckError` that says what to do.
 */
export async function loadPotluck({ relay, pinned, lazy, nonce, trust }: LoaderOptions): Promise<void> {
  const origin = originOf(relay);
  if (pinned && !(VERSION.test(pinned.versioned) && /^sha(256|384|512)-/.test(pinned.integrity))) {
    throw new PotluckError({
      code: "bad_version",
      message: "pinned names no version of embed.js and its hash",
      hint: `copy versioned and integrity from ${origin}/.well-known/potluck.json`,
    });
  }
  const address = origin + (pinned?.versioned ?? EVERGREEN);
  const known = present(origin);
  if (known) {
    if (new URL(known.src).origin === origin) {
      if (!pinned || (known.src === address && known.integrity === pinned.integrity)) return loading.get(known) ?? settled(known);
      throw new PotluckError({
        code: "other_version",
        message: `this page has ${known.src} already, which is not the version that is asked for`,
        hint: "load the widget in one place, with the same pinned version",
      });
    }
    throw new PotluckError({
      code: "other_relay",
      message: `this page has the script of ${new URL(known.src).origin} already`,
      hint: 'a page has one script: name another relay by the attribute relay of <potluck-widget>',
    });
  }
  if (customElements.get(NAME)) return;
  const script = document.createElement("script");
  script.async = true;
  script.crossOrigin = "anonymous";
  if (pinned) script.integrity = pinned.integrity;
  if (nonce) script.nonce = nonce;
  if (lazy) script.dataset.potluck = "lazy";
  script.src = (trust ? trust(address) : address) as string;
  const loaded = settled(script);
  loading.set(script, loaded);
  // What did not load can be tried again.
  loaded.catch(() => script.remove());
  document.head.append(script);
  return loaded;
}

/** The script that is in the page already, by whomever. Others have scripts of that name too: theirs are not of the relay. */
function present(relay: string): HTMLScriptElement | undefined {
  return [...document.scripts].find(({ src, dataset }) => {
    if (!URL.canParse(src)) return false;
    const { origin, pathname } = new URL(src);
    return VERSION.test(pathname) || (pathname === EVERGREEN && (origin === relay || dataset.potluck !== undefined));
  });
}

/** When a script has run. One that others put there may have done so before. */
function settled(script: HTMLScriptElement): Promise<void> {
  const failed = (code: string, message: string) =>
    new PotluckError({
      code,
      message: `${script.src} ${message}`,
      hint: "look whether the relay can be reached and the page's policy allows its scripts; a pinned script must have that very hash",
    });
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(failed("too_slow", `did not come within ${LOAD_LIMIT_MS / 1000} s`)), LOAD_LIMIT_MS);
    const end = (how: () => void) => () => {
      clearTimeout(timer);
      how();
    };
    script.addEventListener("load", end(resolve), { once: true });
    script.addEventListener("error", end(() => reject(failed("not_loaded", "did not load"))), { once: true });
    void customElements.whenDefined(NAME).then(end(resolve));
    // A lazy one of the page's own markup defines nothing until somebody comes near: it has come when the page has.
    if (!script.isConnected || script.dataset.potluck !== "lazy") return;
    if (document.readyState === "complete") end(resolve)();
    else addEventListener("load", end(resolve), { once: true });
  });
}
