// Links to a text: what it follows from stands after the `#`, which browsers do not send.

import { at } from "./page.js";

/** Longest beginning that a link brings, in characters. */
const MAX_PROMPT_CHARS = 4096;
const HASH = /^[0-9a-f]{64}$/;

/** What the last text followed from. */
let last = null;

const fragment = () => new URLSearchParams(location.hash.slice(1));

/** The model and version that the address asks for; `null` for what it does not say. */
export function wanted() {
  const query = new URLSearchParams(location.search);
  const version = fragment().get("version") ?? query.get("version");
  return { model: query.get("model"), version: version === null || HASH.test(version) ? version : "unknown" };
}

/** A number of a link, if it is one that its field takes. */
function take(id, text) {
  const field = at(id);
  const value = Number(text);
  if (text !== null && text !== "" && value >= Number(field.min) && value <= Number(field.max)) field.value = value;
}

/** Fills in what a link brings. */
export function fillIn() {
  const found = fragment();
  const prompt = found.get("prompt");
  if (prompt !== null) at("prompt").value = prompt.slice(0, MAX_PROMPT_CHARS);
  for (const [id, name] of [["temperature", "temperature"], ["tokens", "tokens"], ["top-k", "top_k"], ["seed", "seed"]]) take(id, found.get(name));
  if (found.has("seed")) at("keep-seed").checked = true;
}

/** Remembers what a text follows from. */
export function remember(settings) {
  last = settings;
}

/** The link to the last text. */
function link({ model, version, prompt, temperature, topK, seed, tokens }) {
  const address = new URL("/model.html", location.href);
  address.searchParams.set("model", model);
  address.hash = new URLSearchParams({ version, seed, temperature, top_k: topK, tokens, prompt }).toString();
  return address.href;
}

/** Shows the link, and copies it where the browser lets it. */
export async function show() {
  if (!last) return;
  at("share-link").hidden = false;
  at("link").value = link(last);
  at("link").select();
  try {
    await navigator.clipboard.writeText(at("link").value);
    at("share-note").textContent = "The link is copied.";
  } catch {
    at("share-note").textContent = "Copy the link below.";
  }
}
