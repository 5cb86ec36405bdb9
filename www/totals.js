// What this browser has lent so far, for its person alone: kept where the key is, and as long.

import * as format from "./format.js";
import { isKnown } from "./identity.js";

const NAME = "potluck.totals";
const NONE = { results: 0, gflop: 0, seconds: 0, wattHours: 0, bytes: 0 };

/** Everything so far. */
export function read() {
  try {
    const stored = JSON.parse(localStorage.getItem(NAME) ?? "{}");
    const number = (name) => (Number.isFinite(stored[name]) && stored[name] > 0 ? stored[name] : 0);
    return Object.fromEntries(Object.keys(NONE).map((name) => [name, number(name)]));
  } catch {
    // Storage is off, or somebody else wrote there.
    return { ...NONE };
  }
}

/** Adds a lending that is over. A browser without a name remembers nothing. */
export function add(view, seconds) {
  if (!view || !isKnown()) return;
  const sum = read();
  sum.results += view.accepted;
  sum.gflop += view.acceptedGflop;
  sum.seconds += seconds;
  sum.wattHours += format.wattHours(view.busyS, view.backend);
  sum.bytes += view.bytesIn + view.bytesOut;
  try {
    localStorage.setItem(NAME, JSON.stringify(sum));
  } catch {
    // Full, or off: the sum stays what it was.
  }
}

export function forget() {
  try {
    localStorage.removeItem(NAME);
  } catch {
    // Nothing was stored either.
  }
}

/** Shows them, if there are any. */
export function show() {
  const sum = read();
  const at = (id) => document.getElementById(id);
  at("totals").hidden = sum.seconds === 0;
  at("totals-results").textContent = format.count(sum.results);
  at("totals-work").textContent = sum.results ? `${format.operations(sum.gflop)} operations` : "";
  at("totals-time").textContent = format.time(sum.seconds);
  at("totals-energy").textContent = format.energyOf(sum.wattHours);
  at("totals-bytes").textContent = format.bytes(sum.bytes);
}
