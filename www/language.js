// The page in the reader's language. Pages are written in English; a file of translations (`de.po`, gettext's format, which
// translators have tools for) says what each text is in another. Whatever comes onto the page is looked up there, so no
// other part of the page knows of languages.

/** Languages besides English, and what people who read them call them. */
const OTHERS = { de: "Deutsch" };
const STORED = "potluck.language";
/** Attributes that people read or hear. */
const ATTRIBUTES = ["aria-label", "title", "alt"];
/** Where texts stay as they are: what nobody sees, and names. What is shown without scripts is there as text. */
const UNTOUCHED = "script, style, noscript, [translate=no]";
/** Longest text that is looked up. */
const MAX_TEXT = 4000;
/** Gaps of a text that somebody's own words fill, a name or a reason: they stay as they are. */
const OWN = /^(name|who|why|kernel)$/;

/**
 * The language of the page: asked for in the address, chosen before, or the first of the browser's that there is. Only pages
 * that say so (`data-languages`) have more than one.
 */
export const language = chosen();
// Figures are written in it from the start: see `format.js`.
document.documentElement.lang = language;

/** Texts that came onto the page and have no translation. */
export const missing = new Set();

const exact = new Map();
/** `[pattern, names, translation]`, longest text first: the one that says most decides. */
let patterns = [];
/** What a text node or attribute was before, and what it became. */
const done = new WeakMap();

function chosen() {
  if (!("languages" in document.documentElement.dataset)) return "en";
  const known = (tag) => [tag?.slice(0, 2).toLowerCase()].find((short) => short === "en" || short in OTHERS);
  let stored = null;
  try {
    stored = localStorage.getItem(STORED);
  } catch {
    // Storage is off.
  }
  const asked = new URLSearchParams(location.search).get("lang");
  return known(asked) ?? known(stored) ?? navigator.languages.map(known).find(Boolean) ?? "en";
}

const squeezed = (text) => text.replace(/\s+/g, " ").trim();

/** Reads gettext's format: of each entry the text and its translation. Throws where it is neither. */
export function parse(po) {
  const entries = new Map();
  let id = null;
  let field = "";
  const texts = { msgid: "", msgstr: "" };
  const end = () => {
    if (id !== null && texts.msgid && texts.msgstr) entries.set(texts.msgid, texts.msgstr);
  };
  for (const [number, line] of po.split("\n").entries()) {
    const [, name, quoted] = line.match(/^(msgid|msgstr)? *("(?:[^"\\]|\\.)*")$/) ?? [];
    if (quoted === undefined) {
      if (line.trim() && !line.startsWith("#")) throw new SyntaxError(`line ${number + 1} is no part of a translation: ${line}`);
      continue;
    }
    if (name === "msgid") {
      end();
      Object.assign(texts, { msgid: "", msgstr: "" });
      id = number;
    }
    field = name ?? field;
    texts[field] += JSON.parse(quoted);
  }
  end();
  return entries;
}

/** What may fill a gap: a reason is all the rest, a name in quotes ends with them, and no other goes on into the next sentence. */
const stands = (name, before) =>
  name === "why" ? "(.+)" : before.endsWith("“") ? "([^”]+)" : "((?:(?![.!?] ).)+?)";

function learn(entries) {
  for (const [text, translation] of entries) {
    const parts = text.split(/\{(\w+)\}/);
    if (parts.length === 1) {
      exact.set(text, translation);
      continue;
    }
    const names = parts.filter((_, i) => i % 2);
    const source = parts.map((part, i) => (i % 2 ? stands(part, parts[i - 1]) : part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")));
    patterns.push([new RegExp(`^${source.join("")}$`), names, translation, text.length]);
  }
  patterns = patterns.sort((a, b) => b[3] - a[3]);
}

/** What is worth a translation: more than figures and signs. */
const isWords = (text) => /\p{L}{2}/u.test(text);

function lookUp(text) {
  const found = exact.get(text);
  if (found !== undefined) return found;
  for (const [pattern, names, translation] of patterns) {
    const match = text.match(pattern);
    if (!match) continue;
    const words = new Map(names.map((name, i) => [name, OWN.test(name) ? match[i + 1] : translated(match[i + 1])]));
    return translation.replace(/\{(\w+)\}/g, (whole, name) => words.get(name) ?? whole);
  }
  return undefined;
}

/** A text in the reader's language; as it is where nobody translated it. */
export function translated(text) {
  const whole = squeezed(text);
  if (!isWords(whole) || whole.length > MAX_TEXT) return whole;
  // Pages put sentences one after the other: as many as are known together, then the others.
  const sentences = whole.split(/(?<=[.!?]) (?=[\p{Lu}\d])/u);
  for (let together = sentences.length; together > 0; together -= 1) {
    const first = sentences.slice(0, together).join(" ");
    const found = lookUp(first) ?? (first.endsWith(".") ? lookUp(first.slice(0, -1))?.concat(".") : undefined);
    if (found !== undefined) return [found, ...rest(sentences.slice(together))].join(" ");
  }
  missing.add(sentences[0]);
  return [sentences[0], ...rest(sentences.slice(1))].join(" ");
}

const rest = (sentences) => (sentences.length ? [translated(sentences.join(" "))] : []);

function turn(text) {
  if (!text.trim()) return text;
  const [, before, after] = text.match(/^(\s*)[^]*?(\s*)$/);
  return before + translated(text) + after;
}

function visit(node) {
  if (node.nodeType === Node.TEXT_NODE) {
    if (node.parentElement?.closest(UNTOUCHED)) return;
    const known = done.get(node);
    if (known === node.data) return;
    const words = turn(node.data);
    done.set(node, words);
    if (words !== node.data) node.data = words;
    return;
  }
  if (node.nodeType !== Node.ELEMENT_NODE || node.matches(UNTOUCHED)) return;
  for (const name of ATTRIBUTES) attribute(node, name);
  node.childNodes.forEach(visit);
}

function attribute(element, name) {
  const text = element.getAttribute(name);
  if (!text) return;
  const known = done.get(element) ?? {};
  if (known[name] === text) return;
  const words = translated(text);
  done.set(element, { ...known, [name]: words });
  if (words !== text) element.setAttribute(name, words);
}

/** Turns the page, and all that comes onto it. */
async function start() {
  const answer = await fetch(`/${language}.po`, { credentials: "omit" });
  if (!answer.ok) throw new Error(`/${language}.po: ${answer.status}`);
  learn(parse(await answer.text()));
  new MutationObserver((changes) => {
    for (const { type, target, attributeName, addedNodes } of changes) {
      if (type === "attributes") attribute(target, attributeName);
      else if (type === "characterData") visit(target);
      else addedNodes.forEach(visit);
    }
  }).observe(document.documentElement, { subtree: true, childList: true, characterData: true, attributes: true, attributeFilter: ATTRIBUTES });
  visit(document.querySelector("title"));
  visit(document.body);
}

/** Offers the other language, each by its own name. A choice is kept; before one, nothing is. */
function offer() {
  const button = document.getElementById("language");
  if (!button) return;
  const next = language === "en" ? Object.keys(OTHERS)[0] : "en";
  button.lang = next;
  button.translate = false;
  button.textContent = OTHERS[next] ?? "English";
  button.hidden = false;
  button.addEventListener("click", () => {
    const address = new URL(location.href);
    address.searchParams.delete("lang");
    try {
      localStorage.setItem(STORED, next);
    } catch {
      address.searchParams.set("lang", next);
    }
    if (address.href === location.href) location.reload();
    else location.href = address.href;
  });
}

offer();
/** Resolves when the page is in the reader's language; it stays English where that cannot be had. */
export const ready = language === "en" ? Promise.resolve() : start().catch((error) => {
  document.documentElement.lang = "en";
  console.warn(`the page stays in English: ${error.message}`);
});
