// The page for those who run a site: makes the snippet, shows the widget, says what the site's headers need.

import * as format from "./format.js";
import { check } from "./embed-check.js";
import { at, h } from "./page.js";

const CHOICES = ["project", "max", "look", "theme", "accent", "radius"];
/** What a button of the site's own says. */
const BUTTON = "Lend this tab to a shared computation";
/** How the widget looks when nothing is said. */
const USUAL = { accent: "#17565a", radius: "12" };

/** What the relay says about itself. */
let relay = { embed: {} };

const attribute = (text) => text.replaceAll("&", "&amp;").replaceAll('"', "&quot;").replaceAll("<", "&lt;");

function snippet(script) {
  const { project, max, look, theme, accent, radius } = Object.fromEntries(CHOICES.map((id) => [id, at(id).value]));
  const attributes = [["project", project], ["preset-max", max === "full" ? "" : max], ["theme", theme === "auto" ? "" : theme]]
    .filter(([, value]) => value).map(([name, value]) => ` ${name}="${attribute(value)}"`).join("");
  const style = [["accent", accent], ["radius", `${radius}px`]]
    .filter(([name, value]) => value.replace("px", "") !== USUAL[name]).map(([name, value]) => `  --potluck-${name}: ${value};`);
  const styles = style.length ? `<style>potluck-widget {\n${style.join("\n")}\n}</style>\n` : "";
  return `${styles}${script}\n<potluck-widget${attributes}>${look === "button" ? `<button type="button" lang="en">${BUTTON}</button>` : ""}</potluck-widget>`;
}

function write() {
  const { script = "/embed.js", versioned, integrity } = relay.embed;
  const here = location.origin;
  // A button of the site's own needs nothing of the script until somebody comes near it.
  const when = at("look").value === "button" ? 'async data-potluck="lazy"' : "async";
  at("evergreen").textContent = snippet(`<script src="${here}${script}" ${when}></script>`);
  at("pinned").textContent = versioned
    ? snippet(`<script src="${here}${versioned}"\n  integrity="${integrity}"\n  crossorigin="anonymous" ${when}></script>`)
    : "The relay does not answer: reload the page.";
  at("policy").textContent = `Content-Security-Policy: script-src ${here}; frame-src ${here}`;
}

/** The widget as it is chosen. */
function preview() {
  const widget = document.createElement("potluck-widget");
  if (at("project").value) widget.setAttribute("project", at("project").value);
  widget.setAttribute("preset-max", at("max").value);
  widget.setAttribute("theme", at("theme").value);
  if (at("accent").value !== USUAL.accent) widget.style.setProperty("--potluck-accent", at("accent").value);
  widget.style.setProperty("--potluck-radius", `${at("radius").value}px`);
  if (at("look").value === "button") widget.append(h("button", { type: "button", lang: "en" }, BUTTON));
  at("preview").replaceChildren(widget);
}

async function answer(address) {
  const answered = await fetch(address, { credentials: "omit" });
  const body = await answered.json();
  if (!answered.ok) throw new Error(body.message ?? `the relay answers with status ${answered.status}`);
  return body;
}

async function introduce() {
  relay = await answer("/.well-known/potluck.json");
  const { enabled, allow, max_preset: most } = relay.embed;
  if (relay.abuse) at("abuse").textContent = relay.abuse;
  const off = enabled ? allow.length && "The operator of this relay lets only some sites show the widget." : "The operator of this relay lets no other site show the widget.";
  at("off").hidden = !off;
  at("off").textContent = off ? `${off} Ask for yours: ${relay.contact || relay.operator}.` : "";
  const presets = [...at("max").options];
  const highest = presets.findIndex(({ value }) => value === most);
  presets.forEach((option, index) => { option.disabled = highest >= 0 && index > highest; });
  if (at("max").selectedOptions[0]?.disabled) at("max").value = most;
}

async function projects() {
  for (const { id, name } of await answer("/api/v1/projects")) {
    const option = document.createElement("option");
    option.value = id;
    option.textContent = name;
    at("project").append(option);
  }
}

function looked() {
  const { versioned, script } = relay.embed;
  const found = check(at("headers").value, { script: location.origin + (script ?? versioned ?? "/embed.js"), frame: `${location.origin}/widget.html` });
  const words = { true: ["yes", "✓ Fine"], false: ["no", "✗ In the way"], null: ["", "! Look"] };
  at("checked").replaceChildren(h("ul", { class: "plain" }, found.map(({ ok, what, todo }) => {
    const [look, word] = words[ok];
    return h("li", null, h("b", { class: look }, word), ` ${what}`, todo && ` ${todo}`);
  })));
}

/** Results that tabs on a site gave. */
async function count() {
  let origin;
  try {
    ({ origin } = new URL(at("origin").value.trim()));
  } catch {
    at("counted").textContent = "That is no address. It begins with https://.";
    return;
  }
  try {
    const { accepted } = await answer(`/api/v1/embedders/${encodeURIComponent(origin)}`);
    at("counted").textContent = accepted
      ? `Thank you: visitors of ${origin} gave ${format.count(accepted)} verified ${accepted === 1 ? "result" : "results"}.`
      : `Nothing has come from ${origin} yet.`;
  } catch (error) {
    at("counted").textContent = `The count could not be asked for: ${error.message}.`;
  }
}

async function copy({ target }) {
  try {
    await navigator.clipboard.writeText(at(target.dataset.copy).textContent);
    target.textContent = "Copied";
  } catch {
    target.textContent = "Select it and copy";
  }
  setTimeout(() => { target.textContent = "Copy"; }, 3000);
}

for (const id of CHOICES) {
  at(id).addEventListener("change", () => {
    write();
    preview();
  });
}
for (const button of document.querySelectorAll("[data-copy]")) button.addEventListener("click", copy);
at("check").addEventListener("click", looked);
at("count").addEventListener("click", count);
const heard = { state: "idle", accepted: 0 };
for (const name of ["potluck-state", "potluck-result"]) {
  at("preview").addEventListener(name, ({ detail }) => {
    Object.assign(heard, detail);
    at("heard").textContent = `The page has heard: ${heard.state}, ${format.count(heard.accepted)} accepted.`;
  });
}

write();
preview();
await Promise.allSettled([introduce(), projects()]);
write();
