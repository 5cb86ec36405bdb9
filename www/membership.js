// What others may see of this browser beside its results: a team, and its own random name on the list of those who gave most.
// Nothing, unless the person says so.

import { wantsNoMemory } from "./identity.js";

const NAME = "potluck.membership";
/** Longest name of a team, in bytes of UTF-8, as the relay counts. */
const MAX_BYTES = 48;
/** What others may see by default. */
const NOTHING = { team: "", listed: false };

/** A name as the relay takes it: what can be seen, with single spaces between, no longer than it may be. */
export function clean(name) {
  const seen = name.normalize("NFC").replace(/[\p{C}\p{Z}\p{Default_Ignorable_Code_Point}]/gu, " ").replace(/ +/g, " ");
  const letters = [...seen.trim()];
  while (new TextEncoder().encode(letters.join("")).length > MAX_BYTES) letters.pop();
  return letters.join("").trim();
}

/** What is written down, or `null` if nothing is. */
function written() {
  try {
    const { team, listed } = JSON.parse(localStorage.getItem(NAME));
    return { team: clean(String(team)), listed: listed === true };
  } catch {
    return null;
  }
}

/** What the person said last; nothing where the browser is not to remember it. */
export const known = () => (wantsNoMemory() ? null : written()) ?? NOTHING;

/** Whether others may see anything. */
export const isSeen = ({ team, listed }) => team !== "" || listed;

/** Remembers what the person says; what the relay is to be told, or `null` if there is nothing to tell or take back. */
export function say(team, listed) {
  const said = { team: clean(team), listed: listed && !wantsNoMemory() };
  const before = written();
  if (wantsNoMemory()) forget();
  else if (before || isSeen(said)) {
    try {
      localStorage.setItem(NAME, JSON.stringify(said));
    } catch {
      // Said again the next time.
    }
  }
  return before || isSeen(said) ? said : null;
}

/** Forgets it. */
export function forget() {
  try {
    localStorage.removeItem(NAME);
  } catch {
    // Nothing was stored either.
  }
}

/** Calls `hear` with what the person says in another tab of this browser. */
export function onElsewhere(hear) {
  addEventListener("storage", ({ key }) => {
    if (key === NAME) hear(known());
  });
}
