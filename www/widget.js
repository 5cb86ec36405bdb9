// The widget's frame: idle, consent, lending, thanks. This file, widget-guard.js, their page and its style are all that
// loads before a person agreed: no engine, no connection, nothing stored.

import { Guard, REASONS, question } from "./widget-guard.js";

const at = (id) => document.getElementById(id);
const { body } = document;
const root = document.documentElement;
const query = new URLSearchParams(location.search);

const PRESETS = ["quiet", "balanced", "full"];
/** What the page around hears of each state, and no more. */
const TOLD = { idle: "idle", consent: "asking", running: "lending", paused: "paused", over: "ended", refused: "refused" };
/** Who frames us answers within this time, in milliseconds, where the browser does not say it. */
const ANSWER_MS = 3_000;

/** The project that the page around speaks of. */
const project = /^[0-9a-f]{32}$/.exec(query.get("project") ?? "")?.[0];
/** The origin of the page around. */
let site = null;
/** The lending at hand. */
let run = null;
let told = "";
const guard = new Guard(at("widget"), at("agree"));

/** Tells the page around. Before it is known who that is, it hears nothing. */
function tell(message) {
  if (site && site !== "null") parent.postMessage({ potluck: 1, ...message }, site);
}

/** Who frames us. The browser says it, or it stands in the answer to a message, where nobody can forge it either. */
function around() {
  const known = location.ancestorOrigins?.[0];
  if (known) return Promise.resolve(known);
  return new Promise((resolve) => {
    const hear = ({ source, origin, data }) => {
      if (source !== parent || data?.potluck !== 1 || data.type !== "here") return;
      removeEventListener("message", hear);
      resolve(origin);
    };
    addEventListener("message", hear);
    parent.postMessage({ potluck: 1, type: "hello" }, "*");
    setTimeout(() => resolve(null), ANSWER_MS);
  });
}

/** Only so much may be chosen: the lesser of what the relay and what the site allow. */
function cap() {
  const limits = [body.dataset.max, query.get("max")].map((name) => PRESETS.indexOf(name)).filter((limit) => limit >= 0);
  const highest = Math.min(...limits, PRESETS.length - 1);
  for (const radio of document.getElementsByName("preset")) {
    radio.closest("label").hidden = PRESETS.indexOf(radio.value) > highest;
  }
}

/** Light or dark, an accent, a radius. Texts keep their contrast whatever a site asks for. */
function dress() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const theme = query.get("theme");
  const apply = () => {
    root.dataset.theme = theme === "dark" || (theme !== "light" && dark.matches) ? "dark" : "light";
  };
  dark.addEventListener("change", apply);
  apply();
  const accent = /^#([0-9a-f]{6})$/i.exec(query.get("accent") ?? "")?.[1];
  if (accent) {
    const [red, green, blue] = [0, 2, 4].map((from) => {
      const part = parseInt(accent.slice(from, from + 2), 16) / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    // White or black, whichever is read better on it: one of them always has a contrast of 4.5 at least.
    const light = 0.2126 * red + 0.7152 * green + 0.0722 * blue;
    root.style.setProperty("--accent", `#${accent}`);
    root.style.setProperty("--on-accent", light > 0.179 ? "#000000" : "#ffffff");
  }
  const radius = /^(\d{1,2}(?:\.\d+)?)px$/.exec(query.get("radius") ?? "")?.[1];
  if (radius !== undefined) root.style.setProperty("--radius", `${Math.min(Number(radius), 24)}px`);
}

/** Shows one of the sections, and the buttons that belong to it. */
function show(section, state = section) {
  body.dataset.state = state;
  for (const id of ["idle", "consent", "refused", "running", "over"]) at(id).hidden = id !== section;
  at("controls").hidden = !["consent", "running"].includes(section);
  for (const id of ["agree", "decline"]) at(id).hidden = section !== "consent";
  for (const id of ["pause", "stop"]) at(id).hidden = section !== "running";
  at("override").hidden = true;
  say(TOLD[section]);
}

function say(state) {
  if (state === told) return;
  told = body.dataset.told = state;
  tell({ type: "state", state });
}

/** Nothing starts in here, but it can in a window of its own. */
function refuse(why) {
  guard.end();
  show("refused");
  body.dataset.refused = why;
  at("refused-why").textContent = REASONS[why];
  at("refused-title").focus();
}

/** Shows what people agree to. */
function ask() {
  const never = Guard.never(site);
  if (never) return refuse(never);
  at("relay").textContent = location.host;
  at("site").textContent = [...new Set([site, ...(location.ancestorOrigins ?? [])])].join(", inside ");
  at("memory").textContent = navigator.globalPrivacyControl || navigator.doNotTrack === "1"
    ? "Your browser asks not to be remembered: the name is forgotten with this page."
    : "The name is kept in this browser for this site.";
  at("once-more").textContent = "";
  document.querySelector("input[name=preset]").checked = true;
  show("consent");
  guard.watch();
  // A page that shows the question unasked does not get the keyboard with it.
  if (document.hasFocus()) at("consent-title").focus();
}

/** A click on "Agree and start". */
async function agree(event) {
  if (body.dataset.state !== "consent") return;
  const why = await guard.why(event);
  if (body.dataset.state !== "consent" || why === "script") return;
  if (why === "once-more") {
    body.dataset.refused = why;
    at("once-more").textContent = "";
    at("once-more").textContent = REASONS[why];
    return;
  }
  if (why) return refuse(why);
  body.dataset.refused = "";
  at("once-more").textContent = "";
  const preset = document.querySelector("input[name=preset]:checked");
  const how = preset.closest("label").querySelector("small").textContent;
  const answer = question(`Lend this tab to the relay ${location.host}, on ${site}?\n\n${at("operator").textContent} asks. The tab computes ${how}, for one hour at most. What it sends stays public under a random name. Stop is in the widget.`);
  if (answer === "unasked") return refuse(answer);
  if (answer !== "yes") return;
  guard.end();
  show("running", "starting");
  at("running-title").focus();
  await begin(preset.value);
}

/** The person agreed: now the rest may load. */
async function begin(preset) {
  const mine = { stopped: false };
  run = mine;
  const over = (title, words) => {
    if (run !== mine) return;
    run = null;
    const done = title === "Thank you" || title === "Stopped";
    show("over", done ? "finished" : "failed");
    at("again").textContent = done ? "Lend it again" : "Try again";
    at("over-title").textContent = title;
    at("over-text").textContent = words;
    at("live").textContent = `${title}. ${words}`;
    at("over-title").focus();
  };
  mine.stop = () => {
    mine.stopped = true;
    over("Stopped", "Nothing was completed, and nothing runs any more.");
  };
  try {
    const { lend } = await import("./widget-run.js");
    if (mine.stopped) return;
    const lent = lend({ site, preset, project, over, tell, say });
    mine.stop = () => lent.stop();
    mine.pause = () => lent.pause();
    mine.override = () => lent.override();
    mine.kill = () => lent.kill();
  } catch {
    over("This tab cannot compute", "Part of the widget could not be loaded. Check the connection and try again.");
  }
}

/** The page around gives the frame the height that its content needs. */
function fit() {
  const measure = () => {
    const content = at("content");
    const inner = [...content.children].reduce((lowest, child) => Math.max(lowest, child.offsetTop + child.offsetHeight), 0);
    const padding = parseFloat(getComputedStyle(content).paddingBottom);
    tell({ type: "height", height: inner - content.offsetTop + padding + at("controls").offsetHeight + 2 });
  };
  const observer = new ResizeObserver(measure);
  for (const section of document.querySelectorAll("section, #controls")) observer.observe(section);
  measure();
}

at("lend").addEventListener("click", (event) => {
  if (event.isTrusted) ask();
});
at("again").addEventListener("click", (event) => {
  if (event.isTrusted) ask();
});
at("agree").addEventListener("click", agree);
at("decline").addEventListener("click", () => {
  guard.end();
  show("idle");
  at("lend").focus();
});
at("pause").addEventListener("click", () => run?.pause?.());
at("override").addEventListener("click", (event) => {
  if (event.isTrusted) run?.override?.();
});
at("stop").addEventListener("click", () => run?.stop());
addEventListener("message", ({ source, data }) => {
  // Whoever shows us may end the work, and nothing else.
  if (source === parent && data?.potluck === 1 && data.type === "stop") run?.stop();
});
// A frame that comes back from the browser's cache must not pretend to run.
addEventListener("pagehide", () => run?.kill?.());

dress();
cap();
const own = new URL(project ? `/join/${project}` : "/", location.href);
if (PRESETS.includes(query.get("max"))) own.searchParams.set("preset", query.get("max"));
at("own-page").href = own.pathname + own.search;
if (parent === window) refuse("nameless");
else {
  site = await around();
  say("idle");
  fit();
  // The loader says that its button was pressed. Any page can say so: what is shown asks, and no more.
  if (query.has("ask")) ask();
}
