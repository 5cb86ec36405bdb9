// What others may see of this browser beside its results: a team, and its own random name on the list of those who gave most.
// Nothing, unless the person says so.

import { wantsNoMemory } from "./identity.js";

const NAME = "potluck.membership";
/** Longest name of a team, in bytes of UTF-8, as the relay counts. */
const MAX_BYTES = 48;

/** A name as the relay takes it: letters, digits and ASCII punctuation, single spaces, no longer than it may be. */
export function clean(name) {
  const letters = [...name.replace(/[^\p{Alphabetic}\p{N} !-~]/gu, " ").replace(/ +/g, " ").trim()];
  while (new TextEncoder().encode(letters.join("")).length > MAX_BYTES) letters.pop();
  return letters.join("").trim();
}

/** What was said last, `{team, listed}`, or `null` if nothing ever was. */
export function known() {
  try {
    const { team, listed } = JSON.parse(localStorage.getItem(NAME));
    return { team: clean(String(team)), listed: listed === true };
  } catch {
    return null;
  }
}

/** Remembers what the person says; what the relay is to be told, or `null` if there is nothing to tell or take back. */
export function say(team, listed) {
  const said = { team: clean(team), listed };
  const before = known();
  if (!before && !said.team && !listed) return null;
  try {
    if (!wantsNoMemory()) localStorage.setItem(NAME, JSON.stringify(said));
  } catch {
    // Said again the next time.
  }
  return said;
}

/** Forgets it. */
export function forget() {
  try {
    localStorage.removeItem(NAME);
  } catch {
    // Nothing was stored either.
  }
}
