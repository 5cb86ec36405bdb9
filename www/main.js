// The page: idle, consent, lending, thanks. Nothing of the engine loads, and nothing connects, before a trusted click on
// "Agree and start".

// First: figures are written in the language that it finds.
import "./language.js";
import * as around from "./conditions.js";
import * as format from "./format.js";
import * as identity from "./identity.js";
import * as inputs from "./inputs.js";
import * as membership from "./membership.js";
import * as preflight from "./preflight.js";
import { Session } from "./session.js";
import * as totals from "./totals.js";
import { follow } from "./training.js";
import * as view from "./view.js";
import * as witness from "./witness.js";

const at = (id) => document.getElementById(id);
const { body } = document;
const sheet = at("sheet");

/** The lending at hand. */
let session = null;
/** Who looks at the relay's log: as long as the tab lends, and on after an alarm that is no proof yet. */
let watch = null;
/** Who looks for where to go when the relay is gone: as long as the tab lends. */
let mirrors = null;
/** The relay's address, if it is not that of the page any more. */
let relay;
/** Conditions that the person says to ignore. */
let ignore = { hidden: false, onBattery: false, mobileData: false, anotherTab: false };
/** What the engine said last. */
let last = null;
let startedAt = 0;
/** Names of the jobs that were shown. */
const jobs = new Set();
/** Whether the person asked for the end. */
let stopping = false;

function showMembership({ team, listed }) {
  at("team").value = team;
  setSwitch("listed", listed);
}

function preselect() {
  showMembership(membership.known());
  // A name that is forgotten with the tab could not be taken from the list again.
  at("listed-field").hidden = identity.wantsNoMemory();
  const query = new URLSearchParams(location.search);
  const preset = document.querySelector(`input[name=preset][value="${CSS.escape(query.get("preset") ?? "")}"]`);
  if (preset) preset.checked = true;
  const choice = query.get("backend");
  if (["auto", "webgpu", "wasm"].includes(choice)) at("choice").value = choice;
  setSwitch("hidden-run", query.get("hidden") === "run");
  const cache = [...at("cache").options].find(({ value }) => value === query.get("cache"));
  if (cache) cache.selected = true;
  setRelayOnly(query.get("peers") === "off");
  at("advanced").open = membership.isSeen(membership.known()) || ["backend", "hidden", "cache"].some((name) => query.has(name));
}

function setSwitch(id, on) {
  at(id).setAttribute("aria-checked", String(on));
}

/** One choice, on the consent sheet and while it runs: who lends again finds it as it was. */
function setRelayOnly(on) {
  setSwitch("relay-only", on);
  setSwitch("relay-only-now", on);
  session?.peers(!on);
}

const isOn = (id) => at(id).getAttribute("aria-checked") === "true";

/** Opens the consent sheet. */
function ask() {
  body.dataset.state = "consent";
  at("memory").textContent = identity.wantsNoMemory()
    ? "Your browser asks not to be remembered: the name is forgotten with this tab."
    : "The name, sums of what it lent, a team if you name one, and at most 128 MB of inputs are kept in this browser until you remove them.";
  at("cosigns").textContent = identity.wantsNoMemory()
    ? "It signs nothing and forgets what it saw when it is closed, since your browser asks not to be remembered."
    : "Under its name it signs what it found, which stays public as well.";
  prepare();
  sheet.showModal();
  at("sheet-title").focus();
  introduce();
}

const chosenPreset = () => document.querySelector("input[name=preset]:checked").value;

/** Says what this device can do, as it is set now. */
const prepare = () => preflight.show(chosenPreset(), at("choice").value);

/** Says who runs the relay. */
async function introduce() {
  try {
    const answer = await fetch(`${relay ?? ""}/.well-known/potluck.json`, { credentials: "omit" });
    const { operator, contact, kernels } = await answer.json();
    at("operator").textContent = contact ? `${operator} (${contact}), who runs this relay.` : `${operator}, who runs this relay.`;
    at("kernels").textContent = format.list(kernels);
  } catch {
    at("operator").textContent = "The relay does not answer at the moment.";
  }
}

/** The person agreed. */
async function begin(event) {
  // Scripts cannot agree for a person.
  if (!event.isTrusted || session || witness.alarm()) return;
  const preset = chosenPreset();
  ignore = { hidden: isOn("hidden-run"), onBattery: false, mobileData: false, anotherTab: false };
  setSwitch("hidden-now", ignore.hidden);
  stopping = false;
  last = null;
  jobs.clear();
  startedAt = performance.now();
  body.dataset.accepted = body.dataset.rejected = "0";
  body.dataset.backend = body.dataset.gflops = body.dataset.measured = "";
  body.dataset.peers = body.dataset.fromPeers = body.dataset.fromRelay = body.dataset.toPeers = "0";
  view.reset(preset);
  sheet.close("agreed");
  at("idle").hidden = true;
  at("running").hidden = false;
  at("moved").hidden = relay === undefined;
  view.redraw();
  at("running-title").focus();
  const settings = {
    preset,
    backend: at("choice").value,
    hours: Number(at("hours").value),
    cacheMb: Number(at("cache").value),
    membership: membership.say(at("team").value, isOn("listed")),
  };
  const key = identity.key();
  await around.claim();
  if (stopping) return end({});
  const elsewhere = await leaderElsewhere();
  if (stopping || elsewhere) return end(elsewhere ? { failed: elsewhere } : {});
  if (await isSound(key)) lend(key, settings);
}

/** Why nothing is lent here, if this relay mirrors another one. */
async function leaderElsewhere() {
  try {
    const { stage, of } = await (await fetch(`${relay ?? ""}/api/v1/mirrors`, { credentials: "omit" })).json();
    if (!stage || stage === "leading") return null;
    return stage === "following"
      ? `This relay mirrors another one, and has no work. Lend your tab at ${of}.`
      : "The relay that this one mirrored is silent, and people may be deciding who goes on. Come back later.";
  } catch {
    return null;
  }
}

/** Looks at the log of the relay where the tab is now, in place of whoever looked before. */
function watchLog(key) {
  watch?.end();
  watch = new witness.Watch({
    key,
    base: relay ?? "",
    onLook: looked,
    onAlarm: alarmed,
    onUnchecked: (why) => unchecked(why, "for two minutes, while it gave work"),
    isWorking: () => last?.state === "running",
  });
  return watch;
}

/** Looks at the relay's log before anything is computed for it, and from then on. */
async function isSound(key) {
  view.state("starting", "Checking the relay’s public log.");
  const mine = watchLog(key);
  const found = await mine.start();
  // Stopped meanwhile.
  if (watch !== mine || stopping) return false;
  if (found.state === "unchecked") unchecked(found.why, "before work began");
  return ["consistent", "none"].includes(found.state);
}

function lend(key, { cacheMb, ...settings }) {
  session = new Session({ key, log: witness.memory(), relay, cacheMb, onView: hear, onEnd: end });
  session.start({ ...settings, conditions: around.conditions(), ignore, peers: !isOn("relay-only") });
  around.observe();
  seek(session, key);
}

/** Looks for where to go when the relay is gone. */
async function seek(mine, key) {
  const { Mirrors } = await import("./mirrors.js");
  if (session !== mine) return;
  mirrors?.end();
  mirrors = new Mirrors({
    relay: relay ?? location.origin,
    // Where the tab may not work, it may not look for work either.
    mayAsk: () => last?.state !== "waiting" || !isHeld(),
    onFound: (next) => move(next, key),
  });
}

/** The relay is gone, or was replaced: goes on with the one that people appointed, with what the person agreed to. */
function move(next, key) {
  if (!session || stopping) return;
  witness.passOn(next);
  relay = body.dataset.relay = next.url;
  at("moved").hidden = false;
  at("moved-text").textContent = `The relay that you began with is gone, or was replaced. In its public log people appointed ${next.name} at ${next.url}, and this tab works for that one now, with what you agreed to.`;
  at("moved-lost").textContent = next.lost ? "Some entries of the log that this browser had seen were lost with it." : "";
  watchLog(key).start();
  session.moveTo(next);
  seek(session, key);
}

/** What a look at the log came to. */
function looked({ state, size, why }) {
  body.dataset.log = state;
  if (size !== undefined) body.dataset.logSize = size;
  if (!session && !witness.alarm() && state === "silent") view.state("starting", "The relay does not answer; trying again.");
  const words = { consistent: "unchanged", none: "this relay keeps none", silent: "no answer", unchecked: "cannot be checked" };
  at("log-state").textContent = words[state] ?? "not checked yet";
  at("log-note").textContent = state === "consistent" ? `${format.count(size)} entries, all that this browser saw among them` : why ?? "";
}

/** The log contradicts what this browser remembers: nothing more is computed for this relay. */
function alarmed({ kind }) {
  // What is no proof may become one.
  if (kind === "fork") endWatch();
  const mine = watch;
  watch = null;
  if (session) session.kill();
  else end({});
  watch = mine;
  showAlarm();
  at("alarm-title").focus();
}

/** The relay's log cannot be checked: no work without it. */
function unchecked(why, when) {
  const failed = `The relay’s public log could not be checked ${when}: ${why}`;
  if (session) session.fail(failed);
  else end({ failed });
}

function endWatch() {
  watch?.end();
  watch = null;
  mirrors?.end();
  mirrors = null;
}

const ALARMS = {
  fork: ["This relay shows two histories", "The evidence proves it to everybody who has the log’s key; the relay was told."],
  rollback: ["Entries are gone from this relay’s log", "The evidence is what the relay signed before and what it shows now."],
  key: ["This relay’s log has another key", "The evidence is both keys, and the last checkpoint under the old one."],
};

/** Shows why this browser does not work for this relay, if it does not. */
function showAlarm() {
  const found = witness.alarm();
  at("alarm").hidden = !found;
  at("lend").disabled = Boolean(found);
  body.dataset.alarm = found?.kind ?? "";
  if (!found) return;
  const [title, evidence] = ALARMS[found.kind] ?? ALARMS.rollback;
  body.dataset.state = "failed";
  at("notice").hidden = true;
  at("alarm-title").textContent = title;
  at("alarm-text").textContent = `On ${format.date(found.at)} this browser saw: ${sentence(found.message)}`;
  at("alarm-evidence").textContent = evidence;
  at("live").textContent = `${title}. ${found.message}`;
}

function saveEvidence() {
  const { kind, evidence } = witness.alarm() ?? {};
  if (!evidence) return;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([evidence], { type: "text/plain" }));
  link.download = `potluck-${kind}-${location.host.replace(":", "-")}.txt`;
  link.click();
  URL.revokeObjectURL(link.href);
}

function hear(heard) {
  // The engine has not taken in the consent yet.
  if (heard.state === "idle") return;
  last = heard;
  if (heard.picture) jobs.add(heard.picture.name);
  const ended = ["finished", "failed", "consent"].includes(heard.state);
  // After the click on Stop nothing brings another state back.
  if (!ended && !stopping) view.show(heard);
  showOverride(heard.state);
}

/** Whether a condition stands in the way that the person did not say to ignore. */
function isHeld() {
  const now = around.conditions();
  return Object.keys(ignore).some((name) => now[name] && !ignore[name]);
}

/** Offers to go on, where only a condition stands in the way. */
function showOverride(state) {
  const now = around.conditions();
  at("override").hidden = !(state === "waiting" && isHeld());
  at("override").textContent = now.anotherTab ? "Lend here instead" : "Lend anyway";
}

/** The lending is over. */
function end({ failed, expired }) {
  session = null;
  endWatch();
  around.unclaim();
  const results = last?.accepted ?? 0;
  body.dataset.accepted = results;
  body.dataset.rejected = last?.rejected ?? 0;
  const seconds = (performance.now() - startedAt) / 1e3;
  totals.add(last, seconds);
  totals.show();
  at("running").hidden = true;
  at("idle").hidden = false;
  at("forget").hidden = !identity.isKnown();
  at("notice-receipts").hidden = !identity.isKnown();
  if (failed !== undefined) notice("failed", "This tab cannot compute", `${sentence(failed)} You can try again.`);
  else notice("finished", results ? "Thank you" : "Stopped", thanks(results, seconds));
  document.title = "Potluck: lend this tab";
  at("lend").textContent = failed === undefined ? "Lend it again" : "Try again";
  if (expired) {
    notice("finished", "The time that you agreed to is over", `${thanks(results, seconds)} Do you want to go on?`);
    ask();
  }
}

const sentence = (words) => (/[.!?]$/.test(words) ? words : `${words}.`);

function thanks(results, seconds) {
  if (!results) return `Nothing was completed in ${format.time(seconds)}, and nothing runs any more.`;
  const plural = results === 1 ? "result" : "results";
  const work = format.operations(last.acceptedGflop);
  const [name, other] = jobs;
  return `${format.count(results)} verified ${plural} in ${format.time(seconds)}: ${work} operations` +
    `${name && other === undefined ? ` for “${name}”` : ""}. Nothing runs any more.`;
}

function notice(state, title, words) {
  body.dataset.state = state;
  at("notice").hidden = false;
  at("notice-title").textContent = title;
  at("notice-text").textContent = words;
  at("live").textContent = `${title}. ${words}`;
  at("notice-title").focus();
}

function stop() {
  stopping = true;
  at("reason").textContent = "Stopping.";
  if (session) session.stop();
  else if (watch) end({});
}

at("lend").addEventListener("click", (event) => {
  if (event.isTrusted) ask();
});
at("agree").addEventListener("click", begin);
for (const choice of [at("choice"), ...document.getElementsByName("preset")]) choice.addEventListener("change", prepare);
at("decline").addEventListener("click", () => sheet.close());
sheet.addEventListener("close", () => {
  if (session || body.dataset.state !== "consent") return;
  body.dataset.state = at("notice").hidden ? "idle" : "finished";
  at("lend").focus();
});
at("pause").addEventListener("click", () => {
  if (body.dataset.state === "paused") session?.resume();
  else session?.pause();
});
at("finish").addEventListener("click", () => session?.finish());
at("stop").addEventListener("click", stop);
at("override").addEventListener("click", () => {
  const now = around.conditions();
  // One tab at a time, whatever else: the other one waits from now on.
  if (now.anotherTab) return around.claim({ steal: true });
  for (const name of Object.keys(ignore)) ignore[name] ||= now[name];
  setSwitch("hidden-now", ignore.hidden);
  session?.ignore(ignore);
});
at("team").addEventListener("change", () => { at("team").value = membership.clean(at("team").value); });
membership.onElsewhere((said) => {
  showMembership(said);
  session?.membership(said);
});
at("listed").addEventListener("click", () => setSwitch("listed", !isOn("listed")));
at("hidden-run").addEventListener("click", () => setSwitch("hidden-run", !isOn("hidden-run")));
at("hidden-now").addEventListener("click", () => {
  setSwitch("hidden-now", !isOn("hidden-now"));
  ignore.hidden = isOn("hidden-now");
  session?.ignore(ignore);
});
for (const id of ["relay-only", "relay-only-now"]) {
  at(id).addEventListener("click", () => setRelayOnly(!isOn(id)));
}
for (const radio of document.getElementsByName("preset-now")) {
  radio.addEventListener("change", () => session?.preset(radio.value));
}
at("forget").addEventListener("click", () => {
  const stays = membership.isSeen(membership.known()) && !session;
  session?.membership({ team: "", listed: false });
  identity.forget();
  membership.forget();
  showMembership(membership.known());
  session?.forget();
  inputs.forget();
  totals.forget();
  totals.show();
  witness.forget();
  at("forget").hidden = true;
  at("notice-receipts").hidden = true;
  at("live").textContent = "This browser is forgotten.";
  // Only who lends is connected to the relay.
  if (stays) {
    const words = "What others see of it stays on the list of those who gave most for up to 30 days.";
    notice(body.dataset.state, "This browser is forgotten", words);
  }
});
at("evidence").addEventListener("click", saveEvidence);
at("start-anew").addEventListener("click", (event) => {
  if (!event.isTrusted) return;
  endWatch();
  witness.startAnew();
  body.dataset.state = "idle";
  showAlarm();
  at("lend").focus();
});
around.onChange((conditions) => {
  session?.conditions(conditions);
  if (!conditions.hidden) view.redraw();
});
// A page that comes back from the browser's cache must not pretend to run.
addEventListener("pagehide", () => session?.kill());
addEventListener("resize", () => view.redraw());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => view.redraw());

at("forget").hidden = !identity.isKnown();
totals.show();
showAlarm();
preselect();
follow();
