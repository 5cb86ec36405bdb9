// What happened to a proposal, in order, and what the clock will bring.

import { code, h, moment } from "./page.js";

const EVENTS = {
  proposed: ({ name, key }) => ["proposed by ", name ?? code(key)],
  opens: () => ["votes count from here on"],
  attested: ({ name, reproduces }) => [`${name} derived it again: ${reproduces ? "the same, bit by bit" : "something else"}`],
  signed_off: ({ name, note, thisCard }) => [`${name} read and tried ${thisCard ? "the eval card" : "an earlier card"}`, note ? [": ", h("q", null, note)] : null],
  voted: ({ name, vote, reason }) => [`${name} voted ${vote}`, reason ? [": ", h("q", null, reason)] : null],
  closes: () => ["votes do not count any more"],
  applied: () => ["took effect"],
  other: () => ["something that this page does not know"],
};

export function timeline(events) {
  return h("ol", { class: "timeline" }, events.map((event) => h("li", { class: event.atMs <= Date.now() ? "past" : null },
    moment(event.atMs), ": ", EVENTS[event.what](event), event.index === null ? null : h("small", null, ` entry ${event.index}`))));
}
