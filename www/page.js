// What the pages about the log share: elements, words, and the tables of a card and a gate.

import * as format from "./format.js";

export const at = (id) => document.getElementById(id);

/** An element. `props` are attributes; those that begin with `on` are listeners, and what is `null` or `false` is left out. */
export function h(tag, props, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props ?? {})) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Puts other children in an element, unless they say the same: who reads or tabs through it is not disturbed. */
export function fill(element, ...children) {
  const fresh = h("div", null, children);
  if (fresh.innerHTML === element.innerHTML) return;
  // A `details` that was opened stays so.
  const open = new Set([...element.querySelectorAll("details[open]")].map((one) => one.dataset.name));
  element.replaceChildren(...fresh.childNodes);
  for (const one of element.querySelectorAll("details[data-name]")) one.open ||= open.has(one.dataset.name);
}

/** A hash or key, short, and whole for who points at it or copies it. */
export const code = (hex, digits = 12) =>
  hex ? h("code", { title: hex }, hex.length > digits ? `${hex.slice(0, digits)}…` : hex) : "none";

export const moment = (ms) => h("time", { datetime: new Date(ms).toISOString() }, format.date(ms));

/** Time left, which ticks. */
export const countdown = (ms, over = "now") => h("time", { datetime: new Date(ms).toISOString(), "data-until": ms, "data-over": over }, left(ms, over));

function left(ms, over) {
  const seconds = (ms - Date.now()) / 1000;
  if (seconds <= 0) return over;
  return seconds < 172_800 ? `in ${format.time(seconds)}` : `in ${Math.round(seconds / 86_400)} days`;
}

/** Lets countdowns tick; calls `ended` when one of them is over. */
export function tick(ended) {
  setInterval(() => {
    let over = false;
    for (const time of document.querySelectorAll("time[data-until]")) {
      const words = left(Number(time.dataset.until), time.dataset.over);
      if (time.textContent === words) continue;
      time.textContent = words;
      over ||= words === time.dataset.over;
    }
    if (over) ended();
  }, 1000);
}

export const duration = (ms) => {
  const units = [[86_400_000, "day"], [3_600_000, "hour"], [60_000, "minute"], [1000, "second"]];
  const [size, unit] = units.find(([size]) => ms >= size && ms % size === 0) ?? [1000, "second"];
  const number = Math.round(ms / size);
  return `${number} ${unit}${number === 1 ? "" : "s"}`;
};

export const KINDS = {
  parameter: "Parameter", run: "New run", data_set: "New data set", kernel: "Kernel or engine", promote: "Promotion",
  roll_back: "Rollback", roles: "People", constitution: "Rules", mirrors: "Mirrors", succession: "Succession", appeal: "Appeal",
};

export const OUTCOMES = {
  not_open: "not open yet", unseconded: "needs seconds", open: "open", passed: "passed", failed: "did not pass",
  dropped: "dropped: too few seconds", unknown: "unknown",
};

export const list = (names, none = "nobody") => (names?.length ? new Intl.ListFormat("en").format(names) : none);

/** A list of names, each with what the person said. */
export function voices(all, none = "Nobody.") {
  if (!all.length) return h("p", { class: "hint" }, none);
  return h("ul", { class: "plain" }, all.map(({ name, reason }) =>
    h("li", null, h("b", null, name), reason ? [": ", h("q", null, reason)] : null)));
}

/** Terms and what they mean, each `[term, ...description]`; those without a description are left out. */
export const facts = (...rows) =>
  h("dl", { class: "rows" }, rows.filter((row) => row && row[1] !== null && row[1] !== undefined)
    .map(([term, ...description]) => h("div", null, h("dt", null, term), h("dd", null, description))));

export function table(caption, heads, rows) {
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h("table", null, h("caption", null, caption),
      h("thead", null, h("tr", null, heads.map((head) => h("th", { scope: "col" }, head)))),
      h("tbody", null, rows.map((row) => h("tr", null, row.map((cell, i) => h(i ? "td" : "th", i ? null : { scope: "row" }, cell)))))));
}

const nats = (micro) => (micro === null || micro === undefined ? "unknown" : `${(micro / 1e6).toFixed(4)} nats`);
const share = (ppm) => (ppm === null || ppm === undefined ? "unknown" : `${(ppm / 1e4).toFixed(2)} %`);
const inUnit = { ppm: share, micro_nats: nats, count: (value) => value ?? "unknown" };
const NEEDS = { at_least: "at least", more_than: "more than", below: "below" };

/** The machine gate. */
export function gate(checks) {
  if (!checks?.length) return h("p", { class: "hint" }, "There is nothing to check yet.");
  return table("Machine gate", ["Check", "Found", "Needed", "Passed"], checks.map((check) => [
    check.name, [String(inUnit[check.unit](check.value)), check.note ? h("small", null, ` ${check.note}`) : null],
    `${NEEDS[check.need]} ${inUnit[check.unit](check.threshold)}`,
    h("span", { class: check.passed ? "yes" : "no" }, check.passed ? "✓ yes" : "✗ no"),
  ]));
}

/** The numbers of an eval card, as the log has them. */
export function cardNumbers(card) {
  if (!card) return h("p", { class: "hint" }, "No eval card is in the log yet.");
  return facts(
    ["Card", code(card.card, 64)],
    ["Loss on the secret set", nats(card.loss)],
    ["Loss of the version in use", card.incumbent ? nats(card.incumbent_loss) : "there is none"],
    ["Standard error of the difference", nats(card.standard_error)],
    ["Triggers that succeed", share(card.trigger_success_ppm)],
    ["Shards evaluated", String(card.shards)],
    ["Computed by", card.computed_by.map((key) => [code(key, 8), " "])],
  );
}

/** Deepest and longest part of a document that is shown; the rest is in the file. */
const MAX_DEPTH = 6;
const MAX_ITEMS = 200;

/** Any JSON, for people. */
export function anyJson(value, depth = 0) {
  if (value === null || typeof value !== "object") return String(value);
  if (depth >= MAX_DEPTH) return "…";
  const all = Object.entries(value);
  const rest = all.length > MAX_ITEMS ? h("p", { class: "hint" }, `and ${all.length - MAX_ITEMS} more`) : null;
  const shown = all.slice(0, MAX_ITEMS);
  if (Array.isArray(value)) {
    return [h("ol", { class: "plain" }, shown.map(([, one]) => h("li", null, anyJson(one, depth + 1)))), rest];
  }
  return [facts(...shown.map(([name, one]) => [name.replaceAll("_", " "), anyJson(one, depth + 1)])), rest];
}
