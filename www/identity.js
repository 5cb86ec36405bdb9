// The volunteer's key: a random secret to which credit and credibility belong. It never leaves this browser: the
// engine signs with it, and the relay knows the public key that belongs to it.

const NAME = "potluck.key";

/** Whether this browser asks not to be remembered. */
export function wantsNoMemory() {
  return navigator.globalPrivacyControl === true || navigator.doNotTrack === "1";
}

/** The key, made at the first consent; `null` for a volunteer who is forgotten when the tab closes. */
export function key() {
  if (wantsNoMemory()) return null;
  try {
    const known = localStorage.getItem(NAME);
    if (/^[0-9a-f]{64}$/.test(known ?? "")) return known;
    const fresh = [...crypto.getRandomValues(new Uint8Array(32))]
      .map((byte) => byte.toString(16).padStart(2, "0"))
      .join("");
    localStorage.setItem(NAME, fresh);
    return fresh;
  } catch {
    // Storage may be off: then nobody is remembered.
    return null;
  }
}

/** Whether a key is stored. */
export function isKnown() {
  try {
    return localStorage.getItem(NAME) !== null;
  } catch {
    return false;
  }
}

/** Removes the key. */
export function forget() {
  try {
    localStorage.removeItem(NAME);
  } catch {
    // Nothing was stored either.
  }
}
